//! Tests of `jwks`.
