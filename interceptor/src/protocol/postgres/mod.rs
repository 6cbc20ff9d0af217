//! PostgreSQL, frontend/backend protocol 3.0 and 3.2.

pub mod analysis;
pub mod catalog;

use futures_util::future::BoxFuture;

use super::{Close, Conn, Failure, Gate, Protocol, Registration, Replayer, Sniff};

/// The registry line.
pub const REGISTRATION: Registration = Registration { name: "postgres", default_port: 5432, protocol: &Postgres };

/// The protocol.
#[derive(Clone, Copy, Debug)]
pub struct Postgres;

impl Protocol for Postgres {
    fn sniff(&self, _first: &[u8]) -> Sniff {
        Sniff::Mismatch
    }

    fn serve<'a>(&'a self, _conn: Conn, _gate: &'a dyn Gate) -> BoxFuture<'a, Result<Close, Failure>> {
        Box::pin(async { Err(Failure::Agent("not served".into())) })
    }

    fn replayer(&self) -> Box<dyn Replayer> {
        Box::new(Silent)
    }
}

struct Silent;

impl Replayer for Silent {
    fn feed(&mut self, _direction: super::Direction, _bytes: &[u8]) -> Vec<super::Shown> {
        Vec::new()
    }
}
