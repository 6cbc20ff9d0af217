//! The configuration file: one struct a module, unknown keys refused, every error with file and line.
