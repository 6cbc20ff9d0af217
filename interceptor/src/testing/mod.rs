//! Fixtures for tests: never in a release build.

pub mod world;
