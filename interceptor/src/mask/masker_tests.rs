//! Tests of the masker.
