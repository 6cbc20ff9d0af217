//! Masking: which values are sensitive, and what stands in their place.

/// Compiled `[[mask]]` rules: which columns carry which tags, which values are detected, and how each is transformed.
#[derive(Debug, Default)]
pub struct Rules {}
