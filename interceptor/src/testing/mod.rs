//! Fixtures for tests: never in a release build.

pub mod certificates;
pub mod draw;
pub mod faults;
pub mod issuer;
pub mod masks;
pub mod postgres;
pub mod proxy;
pub mod stage;
pub mod world;
