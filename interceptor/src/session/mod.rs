//! The life of a governed connection: the only place that knows both a protocol and a policy outcome.
//!
//! `house` holds what all sessions share and takes a captured connection through its phases; `gate` answers what a
//! driver asks; `registry` lists, kills and drains; `target` says which address leads where, `learned` where else.

mod gate;
mod house;
mod learned;
mod rare;
mod registry;
mod target;

pub use house::{House, Loaded};
pub use learned::Learned;
pub use rare::{Rare, Sort};
pub use registry::{Counters, Limits, Listed, Live, Registry, Sums};
pub use target::{BoundTarget, REFRESH, Route, Routes, TargetConfig};
