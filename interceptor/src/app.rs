//! The composition root: builds everything, owns shutdown.
