//! The spool: everything that happened, append-only, chained, signed. No record, no forward.
