//! Streams of SPDY/3.1: every frame is read, what it belongs to is known, and it is written anew. The frames go as they are,
//! or in the messages of a WebSocket (a tunnel).
//!
//! Of forwarded ports each is judged by itself when the first stream for it is opened: the request did not name them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex as Kept;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use super::channels::name;
use super::output::{Output, PATIENCE, Unprintable};
use super::roles::{Kind as Role, Streams};
use super::{ERROR, End, Kind, RESIZE, STDERR, STDIN, STDOUT, Talk};
use crate::policy::Denial;
use crate::protocol::http::codec::socket::{Messages, Said};
use crate::protocol::http::driver::leg::{LegError, Reader, Writer};
use crate::protocol::http::driver::served::Holding;
use crate::protocol::http::driver::socket::{Heard, hear, key};
use crate::protocol::http::driver::{Next, Opened, agent_failed};
use crate::protocol::kubernetes::spdy::{Decoder, Encoder, Frame, Headers};
use crate::protocol::{Direction, Failure, Observation};

/// What both ends take of memory beyond their input and output, in bytes: histories of compression in each direction.
const MEMORY: usize = 700 * 1024;

/// The longest message of a tunnel, in bytes.
const MESSAGE_LIMIT: usize = 1 << 20;

/// One end that is read from.
struct Inlet<'a> {
    reader: &'a mut Reader,
    /// Of a tunnel: its messages, and what they have carried.
    tunnel: Option<(Messages, BytesMut)>,
}

/// What came.
enum Filled {
    More,
    Closed,
    /// Of a tunnel: to be answered.
    Ping(Bytes),
    Broken(String),
}

impl Inlet<'_> {
    fn input(&mut self) -> &mut BytesMut {
        match &mut self.tunnel {
            Some((_, carried)) => carried,
            None => self.reader.input(),
        }
    }

    /// Waits for more. Nothing is lost where this is dropped.
    async fn fill(&mut self, holding: &mut Holding<'_>) -> Result<Filled, Failure> {
        let Some((messages, carried)) = &mut self.tunnel else {
            return Ok(match self.reader.fill().await {
                Ok(0) => Filled::Closed,
                Ok(_) => Filled::More,
                Err(error) => Filled::Broken(error.to_string()),
            });
        };
        Ok(match hear(self.reader, messages, holding).await? {
            Heard::Said(Said::Binary(bytes)) => {
                carried.extend_from_slice(&bytes);
                Filled::More
            }
            Heard::Said(Said::Ping(payload)) => Filled::Ping(payload),
            Heard::Said(Said::Pong) => Filled::More,
            Heard::Said(Said::Close(..)) | Heard::Closed => Filled::Closed,
            Heard::Said(Said::Text(_)) => Filled::Broken("a message of the tunnel is text".to_owned()),
            Heard::Broken(broken) => Filled::Broken(broken.to_string()),
            Heard::Failed(error) => Filled::Broken(error.to_string()),
        })
    }
}

/// One end that is written to.
struct Outlet<'a> {
    encoder: Encoder,
    writer: &'a mut Writer,
    /// Of a tunnel: whether its messages have to be masked (RFC 6455, section 5.3).
    tunnel: Option<bool>,
}

impl Outlet<'_> {
    /// What cannot be written was never read.
    async fn send(&mut self, frame: &Frame) -> Result<(), LegError> {
        let mut bytes = Vec::new();
        self.encoder.write(frame, &mut bytes).map_err(|broken| LegError::Io(std::io::Error::other(broken)))?;
        if self.tunnel.is_some() {
            return self.message(&Said::Binary(bytes.into())).await;
        }
        self.writer.put(&bytes).await?;
        self.writer.flush().await
    }

    /// A message of a tunnel.
    async fn message(&mut self, said: &Said) -> Result<(), LegError> {
        let mut bytes = Vec::new();
        said.write(&mut bytes, self.key()?);
        self.writer.put(&bytes).await?;
        self.writer.flush().await
    }

    async fn pong(&mut self, payload: &[u8]) -> Result<(), LegError> {
        let mut bytes = Vec::new();
        Said::write_pong(&mut bytes, payload, self.key()?);
        self.writer.put(&bytes).await?;
        self.writer.flush().await
    }

    fn key(&self) -> Result<Option<[u8; 4]>, LegError> {
        if self.tunnel != Some(true) {
            return Ok(None);
        }
        key().map(Some).map_err(|error| LegError::Io(std::io::Error::other(error.to_string())))
    }
}

/// A connection that carries streams.
struct Wire<'a> {
    talk: &'a Talk<'a>,
    agent: Mutex<Outlet<'a>>,
    target: Mutex<Outlet<'a>>,
    state: Kept<State>,
}

/// What both directions know.
struct State {
    roles: Streams,
    /// Which stream says how a program ended.
    error: Option<u32>,
    /// Ports that may be reached.
    permitted: BTreeSet<u16>,
    /// Streams for ports that may not: what their error streams are, by the request that both belong to.
    refused: BTreeMap<u32, Refused>,
    /// How forwarded connections are numbered in the recording.
    numbers: BTreeMap<u32, u8>,
    requests: BTreeMap<Vec<u8>, u8>,
    next: u8,
}

/// A stream that leads to no port.
#[derive(Clone, Debug)]
struct Refused {
    request: Vec<u8>,
    is_error: bool,
}

/// Passes frames on until either side ends it.
pub(super) async fn relay(
    talk: &Talk<'_>,
    outputs: (Output, Output),
    opened: &mut Opened<'_>,
    tunnelled: bool,
) -> Result<Next, Failure> {
    let (from_agent, to_agent) = &mut opened.agent;
    let (from_target, to_target) = &mut opened.target;
    let mut room = talk.served.holding();
    room.set(MEMORY)?;
    let roles = if talk.kind == Kind::Ports { Streams::ports() } else { Streams::command() };
    let wire = Wire {
        talk,
        agent: Mutex::new(Outlet { encoder: Encoder::new(), writer: to_agent, tunnel: tunnelled.then_some(false) }),
        target: Mutex::new(Outlet { encoder: Encoder::new(), writer: to_target, tunnel: tunnelled.then_some(true) }),
        state: Kept::new(State {
            roles,
            error: None,
            permitted: BTreeSet::new(),
            refused: BTreeMap::new(),
            numbers: BTreeMap::new(),
            requests: BTreeMap::new(),
            next: 0,
        }),
    };
    let carried = |masked| tunnelled.then(|| (Messages::new(masked, MESSAGE_LIMIT), BytesMut::new()));
    let from_agent = Inlet { reader: from_agent, tunnel: carried(true) };
    let from_target = Inlet { reader: from_target, tunnel: carried(false) };
    let end = tokio::select! {
        end = wire.up(from_agent) => end?,
        end = wire.down(from_target, outputs) => end?,
    };
    wire.farewell(&end).await?;
    Ok(Next::Shut)
}

impl Wire<'_> {
    /// What the agent says.
    async fn up(&self, mut agent: Inlet<'_>) -> Result<End, Failure> {
        let mut decoder = Decoder::new();
        let mut holding = self.talk.served.holding();
        loop {
            let frame = match decoder.next(agent.input()) {
                Ok(Some(frame)) => frame,
                Ok(None) => match agent.fill(&mut holding).await? {
                    Filled::Closed => return Ok(End::Closed),
                    Filled::More => continue,
                    Filled::Ping(payload) => {
                        self.agent.lock().await.pong(&payload).await.map_err(agent_failed)?;
                        continue;
                    }
                    Filled::Broken(why) => return Ok(self.talk.refused(&why)),
                },
                Err(broken) => return Ok(self.talk.refused(&broken.to_string())),
            };
            let role = self.state.lock().roles.agent(&frame);
            let role = match role {
                Ok(Role::Stale) => continue,
                Ok(role) => role,
                Err(broken) => return Ok(self.talk.refused(&broken.to_string())),
            };
            if self.swallowed(&frame) {
                continue;
            }
            if let Frame::SynStream { id, headers, .. } = &frame {
                match self.opens(*id, headers, role, agent.reader).await? {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(denial) => return Ok(End::Refused(denial)),
                }
            }
            if let Frame::Data { id, payload, .. } = &frame
                && !payload.is_empty()
            {
                let channel = self.channel(*id, role);
                self.talk.record(Direction::FromAgent, channel, payload).await?;
            }
            if let Err(error) = self.target.lock().await.send(&frame).await {
                return Ok(End::Target(error.to_string()));
            }
        }
    }

    /// A stream is opened. Whether that goes to the target; the error ends everything.
    async fn opens(
        &self,
        id: u32,
        headers: &Headers,
        role: Role,
        agent: &mut Reader,
    ) -> Result<Result<bool, Denial>, Failure> {
        let port = match role {
            Role::Error => {
                self.state.lock().error = Some(id);
                return Ok(Ok(true));
            }
            Role::Data { port } | Role::PortError { port } => port,
            _ => return Ok(Ok(true)),
        };
        let request = headers.get("requestid").unwrap_or_default().to_vec();
        let is_error = matches!(role, Role::PortError { .. });
        self.state.lock().number(id, &request, is_error);
        let known = self.state.lock().refused.values().any(|refused| refused.request == request);
        if !known && self.state.lock().permitted.contains(&port) {
            return Ok(Ok(true));
        }
        let denial = if known {
            None
        } else {
            match self.talk.port(port, agent).await? {
                // What a permit asks of answers, no port can be asked.
                Ok(permit) => {
                    let (_obligations, _recorded) = permit.spend();
                    self.state.lock().permitted.insert(port);
                    let channel = self.channel(id, role);
                    self.talk.record(Direction::FromAgent, channel, &port.to_le_bytes()).await?;
                    return Ok(Ok(true));
                }
                Err(denial) if self.talk.served.has_ended() => return Ok(Err(denial)),
                Err(denial) => Some(denial),
            }
        };
        self.refuse(id, Refused { request, is_error }, denial).await?;
        Ok(Ok(false))
    }

    /// Says that there is no such port, on the stream that is for that: streams come in pairs, the one for errors first.
    async fn refuse(&self, id: u32, refused: Refused, denial: Option<Denial>) -> Result<(), Failure> {
        let Refused { request, is_error } = refused.clone();
        self.state.lock().refused.insert(id, refused);
        self.tell(Frame::SynReply { id, fin: false, headers: Headers::default() }).await?;
        if let Some(denial) = &denial {
            self.talk.served.observe(Observation::Denied(denial.clone())).await?;
        }
        let error = if is_error { Some(id) } else { self.error_of(&request) };
        if let (Some(error), Some(denial)) = (error, denial) {
            let mut words = format!("interceptor: {}: {}", denial.what, denial.reason);
            for (name, value) in [("rule", &denial.rule), ("remedy", &denial.remedy)] {
                if let Some(value) = value {
                    words.push_str(&format!("; {name}: {value}"));
                }
            }
            self.tell(Frame::Data { id: error, fin: true, payload: words.into() }).await?;
        }
        if !is_error {
            self.tell(Frame::Data { id, fin: true, payload: Bytes::new() }).await?;
        }
        Ok(())
    }

    fn error_of(&self, request: &[u8]) -> Option<u32> {
        let state = self.state.lock();
        let mut all = state.refused.iter();
        all.find(|(_, refused)| refused.is_error && refused.request == request).map(|(id, _)| *id)
    }

    /// What we say in the target's place.
    async fn tell(&self, frame: Frame) -> Result<(), Failure> {
        let _as_if_it_had_said_so = self.state.lock().roles.target(&frame);
        self.agent.lock().await.send(&frame).await.map_err(agent_failed)
    }

    /// Whether a frame belongs to a stream that the target knows nothing of.
    fn swallowed(&self, frame: &Frame) -> bool {
        let mut state = self.state.lock();
        match frame {
            Frame::Data { id, fin, .. } => {
                let known = state.refused.contains_key(id);
                if known && *fin {
                    state.refused.remove(id);
                }
                known
            }
            Frame::Reset { id, .. } => state.refused.remove(id).is_some(),
            Frame::Headers { id, .. } | Frame::WindowUpdate { id, .. } => state.refused.contains_key(id),
            _ => false,
        }
    }

    /// Under which number a stream is recorded.
    fn channel(&self, id: u32, role: Role) -> u8 {
        match role {
            Role::Stdin => STDIN,
            Role::Stdout => STDOUT,
            Role::Stderr => STDERR,
            Role::Error => ERROR,
            Role::Resize => RESIZE,
            _ => self.state.lock().numbers.get(&id).copied().unwrap_or(u8::MAX),
        }
    }

    /// What the target says.
    async fn down(&self, mut target: Inlet<'_>, (mut stdout, mut stderr): (Output, Output)) -> Result<End, Failure> {
        let mut decoder = Decoder::new();
        let (mut out_id, mut err_id) = (None, None);
        let mut due = None;
        let mut holding = self.talk.served.holding();
        loop {
            let frame = match decoder.next(target.input()) {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    let filled = tokio::select! {
                        filled = target.fill(&mut holding) => filled?,
                        () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                            due = None;
                            if let Err(why) = self.release((&mut stdout, out_id), (&mut stderr, err_id)).await? {
                                return Ok(self.talk.refused(&why.to_string()));
                            }
                            continue;
                        }
                    };
                    match filled {
                        Filled::More => continue,
                        Filled::Ping(payload) => {
                            if let Err(error) = self.target.lock().await.pong(&payload).await {
                                return Ok(End::Target(error.to_string()));
                            }
                            continue;
                        }
                        Filled::Closed => {
                            let released = self.release((&mut stdout, out_id), (&mut stderr, err_id)).await?;
                            return Ok(
                                released.map_or_else(|why| self.talk.refused(&why.to_string()), |()| End::Closed)
                            );
                        }
                        Filled::Broken(why) => return Ok(End::Target(why)),
                    }
                }
                Err(broken) => return Ok(End::Target(broken.to_string())),
            };
            let role = self.state.lock().roles.target(&frame);
            let role = match role {
                Ok(Role::Stale) => continue,
                Ok(role) => role,
                Err(broken) => return Ok(End::Target(broken.to_string())),
            };
            let delivered = match (&frame, role) {
                (Frame::Data { id, fin, payload }, Role::Stdout) => {
                    out_id = Some(*id).filter(|_| !fin);
                    self.print(&mut stdout, STDOUT, (*id, *fin, payload)).await?
                }
                (Frame::Data { id, fin, payload }, Role::Stderr) => {
                    err_id = Some(*id).filter(|_| !fin);
                    self.print(&mut stderr, STDERR, (*id, *fin, payload)).await?
                }
                (Frame::Data { id, fin, payload }, role) => {
                    let released = if role == Role::Error {
                        self.release((&mut stdout, out_id), (&mut stderr, err_id)).await?
                    } else {
                        Ok(())
                    };
                    if released.is_ok() {
                        self.pass(*id, *fin, role, payload).await?;
                    }
                    released
                }
                _ => {
                    self.agent.lock().await.send(&frame).await.map_err(agent_failed)?;
                    Ok(())
                }
            };
            if let Err(why) = delivered {
                return Ok(self.talk.refused(&why.to_string()));
            }
            let waits = stdout.is_holding() || stderr.is_holding();
            due = waits.then(|| due.unwrap_or_else(|| Instant::now() + PATIENCE));
        }
    }

    /// Passes on what a program has printed.
    async fn print(
        &self,
        output: &mut Output,
        channel: u8,
        (id, fin, payload): (u32, bool, &Bytes),
    ) -> Result<Result<(), Unprintable>, Failure> {
        let printed = output.push(payload).and_then(|mut printed| {
            if fin {
                printed.extend(output.release()?);
            }
            Ok(printed)
        });
        self.talk.note(output, name(channel)).await?;
        match printed {
            Ok(printed) => self.printed(channel, (id, fin), printed).await.map(Ok),
            Err(why) => Ok(Err(why)),
        }
    }

    /// Passes on what waits.
    async fn release(
        &self,
        (stdout, out_id): (&mut Output, Option<u32>),
        (stderr, err_id): (&mut Output, Option<u32>),
    ) -> Result<Result<(), Unprintable>, Failure> {
        for (output, channel, id) in [(stdout, STDOUT, out_id), (stderr, STDERR, err_id)] {
            let Some(id) = id else { continue };
            let printed = output.release();
            self.talk.note(output, name(channel)).await?;
            match printed {
                Ok(printed) => self.printed(channel, (id, false), printed).await?,
                Err(why) => return Ok(Err(why)),
            }
        }
        Ok(Ok(()))
    }

    async fn printed(&self, channel: u8, (id, fin): (u32, bool), bytes: Vec<u8>) -> Result<(), Failure> {
        if bytes.is_empty() && !fin {
            return Ok(());
        }
        if !bytes.is_empty() {
            self.talk.record(Direction::ToAgent, channel, &bytes).await?;
        }
        let frame = Frame::Data { id, fin, payload: bytes.into() };
        self.agent.lock().await.send(&frame).await.map_err(agent_failed)
    }

    /// Passes on what is neither printed nor masked.
    async fn pass(&self, id: u32, fin: bool, role: Role, payload: &Bytes) -> Result<(), Failure> {
        let bytes = self.talk.blotted(payload).await?;
        if !bytes.is_empty() {
            let channel = self.channel(id, role);
            self.talk.record(Direction::ToAgent, channel, &bytes).await?;
        }
        let frame = Frame::Data { id, fin, payload: bytes.into() };
        self.agent.lock().await.send(&frame).await.map_err(agent_failed)
    }

    /// Says why it ends, where a program has a stream for that, and that it does.
    async fn farewell(&self, end: &End) -> Result<(), Failure> {
        let words = self.talk.last_words(end).await?;
        let error = self.state.lock().error;
        let mut agent = self.agent.lock().await;
        if let (Some(words), Some(id)) = (words, error) {
            self.talk.record(Direction::ToAgent, ERROR, &words).await?;
            agent.send(&Frame::Data { id, fin: true, payload: words }).await.map_err(agent_failed)?;
        }
        if !matches!(end, End::Closed) {
            agent.send(&Frame::GoAway { last: 0, status: 1 }).await.map_err(agent_failed)?;
        }
        if agent.tunnel.is_some() {
            agent.message(&Said::Close(Some(1000), Bytes::new())).await.map_err(agent_failed)?;
            let mut target = self.target.lock().await;
            let _best_effort = target.message(&Said::Close(Some(1000), Bytes::new())).await;
        }
        Ok(())
    }
}

impl State {
    /// Gives the streams of one forwarded connection their numbers: an even one for data, the next for what went wrong.
    fn number(&mut self, id: u32, request: &[u8], is_error: bool) {
        let even = match self.requests.remove(request) {
            // Both are there.
            Some(even) => even,
            None => {
                let even = self.next;
                self.next = self.next.wrapping_add(2);
                if self.requests.len() >= Streams::LIMIT {
                    self.requests.clear();
                }
                self.requests.insert(request.to_vec(), even);
                even
            }
        };
        while self.numbers.len() >= 2 * Streams::LIMIT {
            self.numbers.pop_first();
        }
        self.numbers.insert(id, if is_error { even + 1 } else { even });
    }
}
