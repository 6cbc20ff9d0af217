//! What goes to the agent, on record before it leaves. A head waits for what follows it at once, and so do short pieces: a
//! small answer is one frame of the recording, and one write.

use bytes::{Bytes, BytesMut};

use super::agent::Answering;
use super::agent_failed;
use super::exchange::HEAD_EXPECTED;
use super::served::Served;
use crate::protocol::http::codec::{Fields, ResponseHead};
use crate::protocol::http::transcript::Transcript;
use crate::protocol::{Direction, Failure, Observation};
use crate::turn;

/// Short pieces that are together no longer than this, in bytes, wait for each other.
const TOGETHER: usize = 32 * 1024;
/// Longer ones are not copied, in bytes.
const SHORT: usize = 16 * 1024;

/// The way out of one exchange.
pub(super) struct Outbox<'a> {
    served: &'a Served<'a>,
    pub(super) answering: Answering<'a>,
    transcript: Transcript,
    /// A head that is neither recorded nor sent, and whether nothing follows it.
    head: Option<(ResponseHead, bool)>,
    /// What of the body is neither.
    body: BytesMut,
    /// Part of an answer is out: nothing else can be said.
    pub(super) begun: bool,
}

impl<'a> Outbox<'a> {
    pub(super) fn new(served: &'a Served<'a>, answering: Answering<'a>, transcript: Transcript) -> Self {
        Self { served, answering, transcript, head: None, body: BytesMut::new(), begun: false }
    }

    pub(super) const fn speaks_two(&self) -> bool {
        matches!(self.answering, Answering::Two { .. })
    }

    /// Puts the head of an answer there, whose body goes in chunks or not. `over`: nothing follows it.
    pub(super) fn head(&mut self, head: ResponseHead, chunked: bool, over: bool) {
        self.transcript = self.transcript.framed(chunked);
        self.head = Some((head, over));
    }

    /// Puts a piece of the body there.
    pub(super) async fn piece(&mut self, piece: Bytes) -> Result<(), Failure> {
        if piece.is_empty() {
            return Ok(());
        }
        if piece.len() <= SHORT && self.body.len() + piece.len() <= TOGETHER {
            self.body.extend_from_slice(&piece);
            return Ok(());
        }
        self.pass().await?;
        let recorded = self.transcript.piece(&piece);
        self.record(recorded).await?;
        self.begun = true;
        self.answering.piece(piece, false).await.map_err(agent_failed)
    }

    /// Sends all that is there.
    pub(super) async fn flush(&mut self) -> Result<(), Failure> {
        self.pass().await?;
        self.answering.flush().await.map_err(agent_failed)
    }

    /// The end of the body, with what is there.
    pub(super) async fn end(&mut self, trailers: Option<Fields>) -> Result<(), Failure> {
        let body = self.record_with(|transcript, out| transcript.put_end(out, trailers.as_ref())).await?;
        if !body.is_empty() {
            self.answering.piece(body, trailers.is_none()).await.map_err(agent_failed)?;
        }
        turn::behind_the_others().await;
        self.answering.end(trailers.as_ref()).await.map_err(agent_failed)
    }

    /// Puts a refusal on record that is said in the place of an answer. Without a body, nothing follows its head.
    pub(super) async fn refused(&mut self, head: &ResponseHead, body: Option<&Bytes>) -> Result<(), Failure> {
        self.transcript = self.transcript.framed(false);
        let mut recorded = Vec::new();
        self.transcript.put_response(&mut recorded, head, body.is_none());
        if let Some(body) = body {
            self.transcript.put_piece(&mut recorded, body);
            self.transcript.put_end(&mut recorded, None);
        }
        self.record(recorded.into()).await
    }

    /// Drops what has not left: something else is said in its place.
    pub(super) fn clear(&mut self) {
        self.head = None;
        self.body.clear();
    }

    /// Hands on what waits, to be sent together with what follows it.
    async fn pass(&mut self) -> Result<(), Failure> {
        if self.head.is_none() && self.body.is_empty() {
            return Ok(());
        }
        let body = self.record_with(|_, _| ()).await?;
        if body.is_empty() { Ok(()) } else { self.answering.piece(body, false).await.map_err(agent_failed) }
    }

    /// Puts what waits on record, with what `more` adds, and then hands the head on. Gives the body.
    async fn record_with(&mut self, more: impl FnOnce(Transcript, &mut Vec<u8>)) -> Result<Bytes, Failure> {
        let (head, body) = (self.head.take(), self.body.split().freeze());
        let mut recorded = Vec::with_capacity(HEAD_EXPECTED + body.len());
        if let Some((head, over)) = &head {
            self.transcript.put_response(&mut recorded, head, *over);
        }
        if !body.is_empty() {
            self.transcript.put_piece(&mut recorded, &body);
        }
        more(self.transcript, &mut recorded);
        self.record(recorded.into()).await?;
        if let Some((head, over)) = &head {
            self.begun = true;
            self.answering.head(head, *over).map_err(agent_failed)?;
        }
        Ok(body)
    }

    async fn record(&self, bytes: Bytes) -> Result<(), Failure> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.served.observe(Observation::Data(Direction::ToAgent, bytes)).await
    }
}
