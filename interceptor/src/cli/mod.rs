//! One subcommand a file.

pub mod recordings;
