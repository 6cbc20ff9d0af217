//! Tests of `attestor`.
