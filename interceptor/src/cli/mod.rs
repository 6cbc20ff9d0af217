//! One subcommand a file.

pub mod policy;
