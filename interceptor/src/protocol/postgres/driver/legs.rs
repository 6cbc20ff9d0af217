//! Both legs of a session, moved in one poll: whatever is ready goes, and neither direction waits for the other.
//!
//! Bytes pass the recorder before they are written: a batch is reported to the gate, and written once that took it. A run
//! of messages that pass untouched is split off the read buffer and goes as it is. Messages longer than [`PIECE`] that
//! pass unseen (rows that nobody masks, COPY data) are passed on in pieces.
//!
//! Bounds: each direction holds at most [`HIGH_WATER`] bytes, and one message beyond it, before its source is not read any
//! more. So an agent that sends without reading is held back like a server would hold it back.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::super::analyst::SessionAnalyst;
use super::super::codec::{self, Frame, HEADER, backend_limit, frontend_limit};
use super::super::machine::{Fate, Fault, Machine, Outbox};
use super::deadline::Deadline;
use crate::policy::Denial;
use crate::protocol::{Direction, Failure, Gate, Observation, Patience};
use crate::tls::Stream;

/// Bytes of a read, where there is no reason to expect more or less.
pub(super) const READ: usize = 16 << 10;

/// Bytes of a read on a leg that is idle, or has been: what an idle session holds for it.
const SMALL_READ: usize = 2 << 10;

/// Bytes of a read on a leg that fills every read.
const LARGE_READ: usize = 256 << 10;

/// Bytes that may wait in one direction before its source is held back.
pub(super) const HIGH_WATER: usize = 256 << 10;

/// A run of up to this is copied together with what follows it: two writes would wake the agent twice.
const MERGED: usize = 32 << 10;

/// Rounds with news after which it is looked at whether the session has ended.
const ROUNDS: u8 = 4;

/// Messages longer than this pass in pieces where nobody looks into them.
pub(super) const PIECE: usize = 64 << 10;

/// How long the answers are waited for that an agent has asked for before it closed its end.
pub(super) const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(60);

/// Steps in which the gate is told what a session holds.
const HELD_STEP: usize = 64 << 10;

/// Why moving bytes ended.
#[derive(Debug)]
pub(super) enum Stop {
    /// The house ends the session.
    Ended(Denial),
    /// The record takes no more.
    Unrecorded(Denial),
    /// The sessions hold more than they may.
    Overfull(Denial),
    /// The target closed its end.
    UpstreamClosed,
    /// The agent is gone.
    AgentClosed,
    /// Somebody broke something.
    Failed(Failure),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Failed(match fault {
            Fault::Agent(text) => Failure::Agent(text),
            Fault::Upstream(text) => Failure::Upstream(text),
        })
    }
}

/// Both legs, and all that stands between them.
pub(super) struct Legs<'a> {
    gate: &'a dyn Gate,
    ended: BoxFuture<'a, Denial>,
    leaving: BoxFuture<'a, Denial>,
    /// Why the session ends once nothing is under way any more.
    pub(super) leave: Option<Denial>,
    /// Rounds since it was looked at whether the session has ended.
    rounds: u8,
    agent: Stream,
    upstream: Stream,
    /// From the agent, not yet taken.
    pub(super) agent_in: BytesMut,
    upstream_in: BytesMut,
    agent_read: usize,
    upstream_read: usize,
    agent_eof: bool,
    upstream_eof: bool,
    /// The conversation.
    pub(super) machine: Machine,
    /// Its understanding of texts.
    pub(super) analyst: SessionAnalyst,
    /// To the target, not yet under way.
    pub(super) outbox: Outbox,
    /// To the agent, not yet under way.
    pub(super) staged: BytesMut,
    /// A run that was split off the read buffer; goes before `staged`.
    direct: Option<Bytes>,
    scratch: BytesMut,
    /// Bytes still to come of a message that passes in pieces.
    passing_down: usize,
    passing_up: usize,
    /// Pieces of a message are among what was not yet written to the agent.
    pieces: bool,
    to_agent: Pipe<'a>,
    to_upstream: Pipe<'a>,
    /// Nothing new is sent to the target for the moment.
    holds_back: bool,
    /// The agent does not read what waits for it.
    stalled: Deadline,
    /// The agent has closed its end.
    left: Deadline,
    /// Steps of memory that the gate was told of last.
    held: usize,
}

/// A batch on its way out: first past the recorder, then into the socket.
#[derive(Default)]
struct Pipe<'a> {
    recording: Option<BoxFuture<'a, Result<(), Denial>>>,
    bytes: Bytes,
    unflushed: bool,
}

impl<'a> Pipe<'a> {
    fn is_idle(&self) -> bool {
        self.recording.is_none() && self.bytes.is_empty()
    }

    fn load(&mut self, gate: &'a dyn Gate, direction: Direction, bytes: Bytes, record: Bytes) {
        self.bytes = bytes;
        if !record.is_empty() {
            self.recording = Some(gate.observe(Observation::Data(direction, record)));
        }
    }

    /// Gets on with the batch. Ready when nothing is left of it.
    fn poll(&mut self, stream: &mut Stream, leg: &'static str, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        if let Some(recording) = &mut self.recording {
            let recorded = ready!(recording.as_mut().poll(cx));
            self.recording = None;
            if let Err(denial) = recorded {
                self.bytes.clear();
                return Poll::Ready(Err(Stop::Unrecorded(denial)));
            }
        }
        let broken = |source: io::Error| Stop::Failed(Failure::Io { leg, source });
        while !self.bytes.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, &self.bytes)).map_err(broken)?;
            if written == 0 {
                return Poll::Ready(Err(broken(io::ErrorKind::WriteZero.into())));
            }
            self.bytes.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut *stream).poll_flush(cx)).map_err(broken)?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<'a> Legs<'a> {
    pub(super) fn new(
        gate: &'a dyn Gate,
        (agent, agent_in): (Stream, BytesMut),
        (upstream, upstream_in): (Stream, BytesMut),
        machine: Machine,
        analyst: SessionAnalyst,
        patience: Patience,
    ) -> Self {
        Self {
            gate,
            ended: gate.ended(),
            leaving: gate.leaving(),
            leave: None,
            rounds: 0,
            agent,
            upstream,
            agent_in,
            upstream_in,
            agent_read: SMALL_READ,
            upstream_read: SMALL_READ,
            agent_eof: false,
            upstream_eof: false,
            machine,
            analyst,
            outbox: Outbox::default(),
            staged: BytesMut::new(),
            direct: None,
            scratch: BytesMut::new(),
            passing_down: 0,
            passing_up: 0,
            pieces: false,
            to_agent: Pipe::default(),
            to_upstream: Pipe::default(),
            holds_back: false,
            stalled: Deadline::new(patience.stalled),
            left: Deadline::new(HALF_CLOSED_TIMEOUT),
            held: 0,
        }
    }

    /// Whether the agent has closed its end, and left no whole message.
    pub(super) const fn agent_has_left(&self) -> bool {
        self.agent_eof
    }

    /// Whether more messages of the agent may be taken: both directions have room.
    pub(super) fn has_room(&self) -> bool {
        self.outbox.len() < HIGH_WATER && self.down() < HIGH_WATER
    }

    /// Whether an error can be put into the stream to the agent: not within a message that passes in pieces.
    pub(super) const fn is_between_messages(&self) -> bool {
        self.passing_down == 0
    }

    fn down(&self) -> usize {
        self.staged.len() + self.direct.as_ref().map_or(0, Bytes::len)
    }

    /// Passes on what there is of a long message of COPY data. True where that was done.
    pub(super) fn pass_piece(&mut self) -> bool {
        if self.passing_up == 0 {
            match codec::peek(&self.agent_in) {
                Ok(Some(header))
                    if header.tag == b'd'
                        && header.length > PIECE
                        && header.length <= codec::MESSAGE_LIMIT
                        && self.machine.copies() =>
                {
                    self.passing_up = header.length;
                }
                _ => return false,
            }
        }
        let piece = self.agent_in.split_to(self.passing_up.min(self.agent_in.len()));
        self.passing_up -= piece.len();
        self.outbox.forward(&piece);
        !piece.is_empty()
    }

    /// Moves bytes until something has changed that the session's loop should look at.
    pub(super) async fn turn(&mut self) -> Result<(), Stop> {
        std::future::poll_fn(|cx| self.poll_turn(cx)).await
    }

    /// Moves bytes until `future` is done. `patient`: also when the agent closes its end meanwhile.
    pub(super) async fn until<F: Future>(&mut self, future: F, patient: bool) -> Result<F::Output, Stop> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            loop {
                if self.agent_eof && !patient {
                    return Poll::Ready(Err(Stop::AgentClosed));
                }
                match self.poll_turn(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(stop)) => return Poll::Ready(Err(stop)),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// As [`Self::until`], for a future that is soon done: what came before its message goes to the target together with
    /// it. Two writes would wake the target twice.
    pub(super) async fn until_soon<F: Future>(&mut self, future: F) -> Result<F::Output, Stop> {
        self.holds_back = true;
        let done = self.until(future, true).await;
        self.holds_back = false;
        done
    }

    /// Writes out what is under way to the agent.
    pub(super) async fn drain(&mut self) -> Result<(), Stop> {
        std::future::poll_fn(|cx| {
            while !(self.to_agent.is_idle() && self.down() == 0) {
                ready!(self.poll_to_agent(cx))?;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Tells the agent why the session ends when the record takes nothing more: what is on record is written out, what is
    /// not is dropped, and the words follow where the agent can read them as a message.
    pub(super) async fn tell_unrecorded(&mut self, words: &[u8]) -> io::Result<()> {
        use tokio::io::AsyncWriteExt;
        if self.to_agent.recording.take().is_some() {
            self.to_agent.bytes.clear();
        }
        self.direct = None;
        self.staged.clear();
        let begun = std::mem::take(&mut self.to_agent.bytes);
        self.agent.write_all(&begun).await?;
        if !self.pieces {
            self.agent.write_all(words).await?;
        }
        self.agent.flush().await
    }

    /// Says goodbye to the target.
    pub(super) async fn leave_upstream(&mut self) {
        use tokio::io::AsyncWriteExt;
        let mut goodbye = BytesMut::new();
        codec::write::bare(&mut goodbye, b'X');
        // Within a batch or a message a goodbye would not be understood: closing says enough.
        if self.to_upstream.is_idle() && self.passing_up == 0 {
            let _best_effort = self.upstream.write_all(&goodbye).await;
        }
        let _best_effort = self.upstream.shutdown().await;
    }

    /// Closes the leg to the agent.
    pub(super) async fn leave_agent(&mut self) {
        use tokio::io::AsyncWriteExt;
        let _best_effort = self.agent.shutdown().await;
    }

    /// One round over all four ends. News is what was read, and room where there was none.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        self.account()?;
        let (full, held_down) = (!self.has_room(), self.down() >= HIGH_WATER);
        // What was read may be written in the same round; what was written may make room to read.
        let _written = self.poll_to_upstream(cx)?;
        let mut news = self.poll_from_upstream(cx)?;
        match self.poll_to_agent(cx)? {
            Poll::Ready(()) => self.stalled.disarm(),
            // What waits for the recorder does not wait for the agent.
            Poll::Pending
                if self.to_agent.recording.is_none() && self.stalled.has_passed(self.to_agent.bytes.len(), cx) =>
            {
                let text = "it does not read what it has asked for".to_owned();
                return Poll::Ready(Err(Stop::Failed(Failure::Agent(text))));
            }
            Poll::Pending => {}
        }
        if self.upstream_eof && self.to_agent.is_idle() && self.down() == 0 {
            return Poll::Ready(Err(Stop::UpstreamClosed));
        }
        news |= matches!(self.poll_from_agent(cx)?, Poll::Ready(true));
        // The target is read again where the agent has made room, whether the other direction has any or not.
        news |= (full && self.has_room()) || (held_down && self.down() < HIGH_WATER);
        // Nobody waits before this was looked at, and nobody who never waits goes on for long without.
        self.rounds = if news { self.rounds.wrapping_add(1) } else { 0 };
        if self.rounds.is_multiple_of(ROUNDS) {
            news |= self.look_for_the_end(cx)?;
        }
        if news { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Whether the session has to end by itself. True when that is news, and the loop should see to it.
    fn look_for_the_end(&mut self, cx: &mut Context<'_>) -> Result<bool, Stop> {
        if let Poll::Ready(denial) = self.ended.as_mut().poll(cx) {
            return Err(Stop::Ended(denial));
        }
        if self.agent_eof && self.left.has_passed(0, cx) {
            return Err(Stop::AgentClosed);
        }
        if self.leave.is_none()
            && let Poll::Ready(denial) = self.leaving.as_mut().poll(cx)
        {
            self.leave = Some(denial);
            return Ok(true);
        }
        Ok(false)
    }

    /// Tells the gate what the session holds, where that has changed by much.
    fn account(&mut self) -> Result<(), Stop> {
        let waiting = self.to_agent.bytes.len() + self.to_upstream.bytes.len() + self.outbox.len() + self.down();
        let read = self.agent_in.len() + self.upstream_in.len();
        let held = (waiting + read + self.machine.weight() + self.analyst.weight()) / HELD_STEP;
        if held != self.held {
            self.held = held;
            self.gate.holds(held * HELD_STEP).map_err(Stop::Overfull)?;
        }
        Ok(())
    }

    /// Ready when nothing is left.
    fn poll_to_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        loop {
            if self.to_upstream.is_idle() {
                if self.outbox.len() == 0 || self.holds_back {
                    if self.to_upstream.unflushed {
                        ready!(self.to_upstream.poll(&mut self.upstream, "target", cx))?;
                    }
                    return Poll::Ready(Ok(()));
                }
                let (bytes, record) = self.outbox.take();
                self.to_upstream.load(self.gate, Direction::FromAgent, bytes, record);
            }
            ready!(self.to_upstream.poll(&mut self.upstream, "target", cx))?;
        }
    }

    /// Ready when nothing is left.
    fn poll_to_agent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        loop {
            if self.to_agent.is_idle() {
                let bytes = self.next_batch();
                if bytes.is_empty() {
                    if self.to_agent.unflushed {
                        ready!(self.to_agent.poll(&mut self.agent, "agent", cx))?;
                    }
                    self.pieces = self.passing_down > 0;
                    return Poll::Ready(Ok(()));
                }
                self.to_agent.load(self.gate, Direction::ToAgent, bytes.clone(), bytes);
            }
            ready!(self.to_agent.poll(&mut self.agent, "agent", cx))?;
        }
    }

    /// What goes to the agent next: all that is there in one write, unless the first run is long.
    fn next_batch(&mut self) -> Bytes {
        match self.direct.take() {
            Some(direct) if self.staged.is_empty() || direct.len() > MERGED => direct,
            Some(direct) => {
                let mut both = BytesMut::with_capacity(direct.len() + self.staged.len());
                both.extend_from_slice(&direct);
                both.extend_from_slice(&self.staged);
                self.staged.clear();
                both.freeze()
            }
            None => self.staged.split().freeze(),
        }
    }

    fn poll_from_agent(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Stop>> {
        // A message that is taken whole may be longer than what usually waits.
        let wanted = codec::peek(&self.agent_in)
            .ok()
            .flatten()
            .map_or(0, |header| header.length.min(frontend_limit(header.tag)));
        if self.agent_eof || self.agent_in.len() >= wanted.max(HIGH_WATER) {
            return Poll::Ready(Ok(false));
        }
        match ready!(read_buf(&mut self.agent, &mut self.agent_in, &mut self.agent_read, cx)) {
            Ok(0) => self.agent_eof = true,
            Ok(_) => {}
            // Nobody is left to read an answer.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                self.agent_eof = true;
                return Poll::Ready(Err(Stop::AgentClosed));
            }
            Err(source) => return Poll::Ready(Err(Stop::Failed(Failure::Io { leg: "agent", source }))),
        }
        Poll::Ready(Ok(true))
    }

    /// True when there were messages, or parts of them.
    fn poll_from_upstream(&mut self, cx: &mut Context<'_>) -> Result<bool, Stop> {
        let mut news = self.take_upstream()?;
        while self.down() < HIGH_WATER && !self.upstream_eof {
            match read_buf(&mut self.upstream, &mut self.upstream_in, &mut self.upstream_read, cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => self.upstream_eof = true,
                Poll::Ready(Ok(_)) => news |= self.take_upstream()?,
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => self.upstream_eof = true,
                Poll::Ready(Err(source)) => return Err(Stop::Failed(Failure::Io { leg: "target", source })),
            }
        }
        Ok(news)
    }

    /// Takes the target's messages that are there. True when there were any.
    fn take_upstream(&mut self) -> Result<bool, Stop> {
        let mut run = 0;
        let mut news = false;
        while self.down() + run < HIGH_WATER {
            let rest = self.upstream_in.get(run..).unwrap_or_default();
            if self.passing_down > 0 {
                let piece = self.passing_down.min(rest.len());
                if piece == 0 {
                    break;
                }
                self.passing_down -= piece;
                run += piece;
                continue;
            }
            let Some(header) = codec::peek(rest).map_err(Fault::from)? else { break };
            if rest.len() < header.length {
                if header.length > PIECE && matches!(header.tag, b'D' | b'd') && self.machine.passes(header.tag) {
                    self.passing_down = header.length;
                    self.pieces = true;
                    continue;
                }
                let limit = backend_limit(header.tag);
                if header.length > limit {
                    let text = format!(
                        "it sends a message of {} bytes, more than the {limit} that are looked into",
                        header.length
                    );
                    return Err(Fault::Upstream(text).into());
                }
                break;
            }
            news = true;
            let raw = rest.get(..header.length).unwrap_or_default();
            let frame = Frame { tag: header.tag, body: raw.get(HEADER..).unwrap_or_default(), raw };
            match self.machine.on_upstream(frame, &mut self.analyst, &mut self.scratch)? {
                Fate::Pass => run += header.length,
                Fate::Replaced => {
                    self.pass(run);
                    run = 0;
                    self.upstream_in.advance(header.length);
                    self.staged.extend_from_slice(&self.scratch);
                    self.scratch.clear();
                }
            }
        }
        self.pass(run);
        Ok(news || run > 0)
    }

    /// Passes on the first `run` bytes from the target.
    fn pass(&mut self, run: usize) {
        if run == 0 {
            return;
        }
        let bytes = self.upstream_in.split_to(run);
        if self.staged.is_empty() && self.direct.is_none() {
            self.direct = Some(bytes.freeze());
        } else {
            self.staged.extend_from_slice(&bytes);
        }
    }
}

impl std::fmt::Debug for Legs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Legs").field("machine", &self.machine).finish_non_exhaustive()
    }
}

/// Reads once. How much room it makes for that follows what the last reads brought; a buffer that is waited for in vain
/// is given up. `read_buf` keeps no state between polls, so it may be dropped.
fn read_buf(
    stream: &mut Stream,
    buffer: &mut BytesMut,
    size: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    if buffer.capacity() - buffer.len() < *size / 4 {
        buffer.reserve(*size);
    }
    let room = buffer.capacity() - buffer.len();
    let read = std::pin::pin!(stream.read_buf(buffer)).poll(cx);
    match read {
        Poll::Ready(Ok(length)) if length == room => *size = (*size * 4).min(LARGE_READ),
        Poll::Ready(_) => {}
        Poll::Pending if buffer.is_empty() && buffer.capacity() > SMALL_READ => {
            *buffer = BytesMut::new();
            *size = SMALL_READ;
        }
        Poll::Pending => {}
    }
    read
}
