//! Fixtures for tests: never in a release build.

pub mod agents;
pub mod answering;
pub mod certificates;
pub mod cluster;
pub mod doorkeeper;
pub mod draw;
pub mod faults;
pub mod forks;
pub mod issuer;
pub mod manager;
pub mod masks;
pub mod patience;
pub mod postgres;
pub mod proxy;
pub mod stage;
pub mod units;
pub mod world;
