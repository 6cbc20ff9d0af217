//! Attacks on the judge, and what must always hold.
