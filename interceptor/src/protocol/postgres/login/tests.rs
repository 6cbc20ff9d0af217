//! Tests of the log-in.
