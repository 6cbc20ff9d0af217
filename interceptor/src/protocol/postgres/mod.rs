//! PostgreSQL, frontend/backend protocol 3.0 and 3.2.
//!
//! # A primer
//!
//! **Before the session.** The client may first ask for TLS (SSLRequest) or GSSAPI encryption (GSSENCRequest), which are
//! answered with one byte. Then comes one start-up packet: a length, a version, and names with values (`user`,
//! `database`, settings). A connection that only carries a CancelRequest ends there. The server asks for authentication
//! (`R`), reports settings (`S`), hands out the key for cancel requests (`K`), and is ready (`Z`).
//!
//! **Messages** have one byte of type, four bytes of length (that count themselves but not the type) and a body.
//!
//! **Simple query.** `Q` holds one or more statements; each result is `T D* C`, or a COPY; `Z` ends the answer and tells the
//! transaction's status: `I` idle, `T` in a transaction block, `E` in a failed one.
//!
//! **Extended query.** Parse `P` makes a statement, Bind `B` a portal of it with values, Describe `D`, Execute `E` runs a
//! portal, perhaps only some rows of it, Close `C` forgets. All may be sent ahead without waiting (pipelining); Sync `S`
//! ends a pipeline, and is what `Z` answers. After an error the server discards everything up to the next Sync; what runs
//! between two Syncs outside a transaction block is one implicit transaction.
//!
//! **At any time** the server may send notices `N`, notifications `A` and changed settings `S`.
//!
//! # What is done with it
//!
//! [`codec`] turns bytes into messages and back, `startup` and `machine` know the order in which they may come and
//! never do I/O, `statement` says what a machine needs to know of a statement, `error` words refusals, and `driver` is the
//! loop that reads, asks the gate, and writes. `login` is our own log-in at the target.
//!
//! Every Query, every Parse, and every first Execute of a portal is judged. A refusal is an ErrorResponse in its place in
//! the order of answers, after which the connection is as a server would leave it: discarding up to Sync in the extended
//! protocol, and with the transaction *failed* where one was open, so that a later COMMIT cannot commit half of it.
//!
//! # Specification
//!
//! - <https://www.postgresql.org/docs/current/protocol-flow.html>
//! - <https://www.postgresql.org/docs/current/protocol-message-formats.html>
//! - <https://www.postgresql.org/docs/current/protocol-error-fields.html>

pub mod analysis;
mod analyst;
mod cancel;
pub mod catalog;
pub mod codec;
mod driver;
mod error;
pub(crate) mod login;
mod machine;
mod replay;
pub mod rows;
mod shape;
mod shared;
mod startup;
mod statement;

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Close, Conn, Failure, Gate, Protocol, Question, Registration, Replayer, Sniff, Target};
use crate::policy::{Command, Denial};
use crate::tls;

#[cfg(any(test, feature = "testing"))]
pub mod fuzz;

/// The registry line.
pub const REGISTRATION: Registration =
    Registration { name: "postgres", default_port: 5432, alpn: &[ALPN], protocol: &Postgres };

/// What PostgreSQL is called in ALPN.
const ALPN: &[u8] = b"postgresql";

/// The protocol.
#[derive(Clone, Copy, Debug)]
pub struct Postgres;

impl Protocol for Postgres {
    fn sniff(&self, first: &[u8]) -> Sniff {
        startup::sniff(first)
    }

    fn serve<'a>(&'a self, conn: Conn, gate: &'a dyn Gate) -> BoxFuture<'a, Result<Close, Failure>> {
        Box::pin(driver::serve(conn, gate))
    }

    fn refuse(&self, agent: tls::Stream, target: Arc<Target>, denial: Denial) -> BoxFuture<'static, ()> {
        Box::pin(driver::refuse(agent, target, denial))
    }

    fn understand<'a>(&'a self, question: Question<'a>) -> BoxFuture<'a, Result<Command, String>> {
        Box::pin(driver::understand(question))
    }

    fn replayer(&self) -> Box<dyn Replayer> {
        Box::new(replay::Replay::default())
    }
}
