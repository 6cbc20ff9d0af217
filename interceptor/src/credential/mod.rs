//! Credentials for targets, and where they come from. The agent never sees one.
