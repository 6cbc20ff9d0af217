//! Under fire: both legs with every fault at every message, a target that lies, peers that are slow or never read, and the
//! bounds of each. `tests/fire.rs` does the same to the whole daemon, in numbers.

mod deadlines;
mod lies;
mod matrix;
mod script;
