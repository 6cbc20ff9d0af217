//! Tests of result masking.
