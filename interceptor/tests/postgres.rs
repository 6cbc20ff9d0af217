//! PostgreSQL end to end: real clients, a real server, the real kernel programs, the real daemon.
//!
//! Needs root, PostgreSQL, and the clients that `cargo xtask test` installs; run with `--test-threads=1`. Each test sets a
//! stage of its own. Statements that policy denies carry the word `forbidden:` in a comment, so that the server's own log
//! proves that no byte of them arrived.

#[cfg(test)]
#[path = "postgres/agent_tls.rs"]
mod agent_tls;
#[cfg(test)]
#[path = "postgres/clients.rs"]
mod clients;
#[cfg(test)]
#[path = "postgres/discovery.rs"]
mod discovery;
#[cfg(test)]
#[path = "postgres/drivers.rs"]
mod drivers;
#[cfg(test)]
#[path = "postgres/explain.rs"]
mod explain;
#[cfg(test)]
#[path = "postgres/faults.rs"]
mod faults;
#[cfg(test)]
#[path = "postgres/hold.rs"]
mod hold;
#[cfg(test)]
#[path = "postgres/host_ca.rs"]
mod host_ca;
#[cfg(test)]
#[path = "postgres/identity.rs"]
mod identity;
#[cfg(test)]
#[path = "postgres/masks.rs"]
mod masks;
#[cfg(test)]
#[path = "postgres/names.rs"]
mod names;
#[cfg(test)]
#[path = "postgres/pending.rs"]
mod pending;
#[cfg(test)]
#[path = "postgres/protocol.rs"]
mod protocol;
#[cfg(test)]
#[path = "postgres/recordings.rs"]
mod recordings;
#[cfg(test)]
#[path = "postgres/reload.rs"]
mod reload;
#[cfg(test)]
#[path = "postgres/scene.rs"]
mod scene;
#[cfg(test)]
#[path = "postgres/tools.rs"]
mod tools;
#[cfg(test)]
#[path = "postgres/upstream_tls.rs"]
mod upstream_tls;
