//! One subcommand a file.

pub mod whoami;
