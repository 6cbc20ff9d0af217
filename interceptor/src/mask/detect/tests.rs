//! Corpora of values that are found, and of near misses that are not.
