//! The life of a governed connection.
