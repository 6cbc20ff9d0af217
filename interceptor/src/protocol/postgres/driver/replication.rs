//! A replication connection that policy permits: every byte is recorded and passed on, none is read.
//!
//! What goes over it (the commands of replication, SQL beside them, every change of every table) has no statements that
//! could be judged one by one. So it takes leave for `sql:replicate` and `sql:opaque` when it connects, and nothing may be
//! masked for that identity. Each direction holds one buffer; a peer that does not read holds back the other.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::legs::READ;
use crate::policy::Denial;
use crate::protocol::{Close, Direction, Failure, Gate, Observation};
use crate::tls::Stream;

/// Both legs, with what was already read from each.
#[derive(Debug)]
pub(super) struct Replication {
    pub(super) agent: (Stream, BytesMut),
    pub(super) target: (Stream, BytesMut),
}

impl Replication {
    /// Passes bytes both ways until either end closes, or the house ends it.
    pub(super) async fn run(self, gate: &dyn Gate) -> Result<Close, Failure> {
        let Self { agent: (agent, from_agent), target: (target, from_target) } = self;
        let (agent_in, agent_out) = tokio::io::split(agent);
        let (target_in, target_out) = tokio::io::split(target);
        let up = Pump { from: agent_in, to: target_out, direction: Direction::FromAgent, legs: ["agent", "target"] };
        let down = Pump { from: target_in, to: agent_out, direction: Direction::ToAgent, legs: ["target", "agent"] };
        tokio::select! {
            biased;
            _why = gate.ended() => Ok(Close::Ended),
            // It has no end of its own to wait for.
            _why = gate.leaving() => Ok(Close::Ended),
            left = up.run(gate, from_agent) => left.map(|()| Close::Agent),
            left = down.run(gate, from_target) => left.map(|()| Close::Upstream),
        }
    }
}

/// One direction.
struct Pump {
    from: ReadHalf<Stream>,
    to: WriteHalf<Stream>,
    direction: Direction,
    /// Names of the leg that is read, and of the one that is written.
    legs: [&'static str; 2],
}

impl Pump {
    async fn run(mut self, gate: &dyn Gate, mut buffer: BytesMut) -> Result<(), Failure> {
        let [read, written] = self.legs;
        let broke = |leg| move |source: io::Error| Failure::Io { leg, source };
        loop {
            if !buffer.is_empty() {
                let bytes = buffer.split().freeze();
                let recorded = gate.observe(Observation::Data(self.direction, bytes.clone())).await;
                recorded.map_err(|denial: Denial| Failure::Denied(denial))?;
                self.to.write_all(&bytes).await.map_err(broke(written))?;
                self.to.flush().await.map_err(broke(written))?;
            }
            buffer.reserve(READ);
            if self.from.read_buf(&mut buffer).await.map_err(broke(read))? == 0 {
                return Ok(());
            }
        }
    }
}
