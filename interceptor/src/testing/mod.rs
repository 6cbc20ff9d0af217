//! Fixtures for tests: never in a release build.

pub mod certificates;
pub mod faults;
pub mod issuer;
pub mod postgres;
pub mod stage;
pub mod world;
