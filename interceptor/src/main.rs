//! The binary: argv, runtimes, exit code.

fn main() {}
