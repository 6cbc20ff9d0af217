//! Bounded reading and writing of bytes.
