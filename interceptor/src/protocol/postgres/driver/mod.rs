//! The loop of a session: read, decode, step, write. The only files of this protocol that wait for anything, beside the
//! log-in.
//!
//! `handshake` gets a connection to its first ReadyForQuery, `legs` moves bytes both ways at once, `session` takes the
//! agent's messages one by one and asks the gate, `catalogs` keeps what is known of databases, `estimate` asks the planner
//! what a held command would touch, `parsing` has long texts parsed apart, `replication` passes on what policy permits unread.
//!
//! Whatever ends a session, the agent is told natively where that is still possible: between messages, and as long as it
//! reads ([`FAREWELL_TIMEOUT`]).

mod catalogs;
mod deadline;
mod estimate;
mod handshake;
mod legs;
mod parsing;
mod replication;
mod session;
mod understand;

#[cfg(test)]
mod tests;

pub(super) use catalogs::Shelf;
pub(super) use handshake::refuse;
pub(super) use understand::understand;

use std::time::Duration;

use crate::protocol::{Close, Conn, Failure, Gate};

/// How long an agent that does not read is waited for when the session ends.
pub(super) const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves one connection.
pub(super) async fn serve(conn: Conn, gate: &dyn Gate) -> Result<Close, Failure> {
    // Only what lasts takes memory for as long as the session: the handshake is over soon.
    match Box::pin(handshake::open(conn, gate)).await? {
        handshake::Opened::Session(session) => session.run().await,
        handshake::Opened::Replication(replication) => replication.run(gate).await,
        handshake::Opened::Closed(close) => Ok(close),
    }
}
