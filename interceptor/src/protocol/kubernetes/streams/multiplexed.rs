//! Streams of SPDY/3.1: every frame is read, what it belongs to is known, and it is written anew. The frames go as they are,
//! or in the messages of a WebSocket (a tunnel).
//!
//! Of forwarded ports each is judged by itself when the first stream for it is opened: the request did not name them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex as Kept;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

use super::channels::name;
use super::output::{Output, PATIENCE, Unprintable};
use super::roles::{Kind as Role, Streams};
use super::{ERROR, End, Kind, LAST_WORDS, PORT, RESIZE, STDERR, STDIN, STDOUT, Talk};
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

/// What a program prints, and the stream that it goes on, while there is one.
type Printing<'a> = (&'a mut Output, Option<u32>);

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
    /// Streams for ports that may not, as long as the agent has not ended them.
    refused: BTreeMap<u32, Refused>,
}

/// A stream that leads to no port.
#[derive(Clone, Debug)]
struct Refused {
    request: Vec<u8>,
    /// Why.
    words: Bytes,
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
        state: Kept::new(State { roles, error: None, permitted: BTreeSet::new(), refused: BTreeMap::new() }),
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
                        // Who is being told something knows that we are there; to wait for that could be to wait for ever.
                        if let Ok(mut agent) = self.agent.try_lock() {
                            agent.pong(&payload).await.map_err(agent_failed)?;
                        }
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
            let frame = match frame {
                // These are between two ends of one wire, and each of ours is one.
                Frame::Ping(number) => {
                    if let Some(mut agent) = self.agent.try_lock().ok().filter(|_| !number.is_multiple_of(2)) {
                        agent.send(&Frame::Ping(number)).await.map_err(agent_failed)?;
                    }
                    continue;
                }
                Frame::Settings { .. } => continue,
                Frame::GoAway { .. } => Frame::GoAway { last: 0, status: 0 },
                other => other,
            };
            if let Frame::SynStream { id, fin, headers, .. } = &frame {
                match self.opens((*id, *fin), headers, role, agent.reader).await? {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(denial) => return Ok(End::Refused(denial)),
                }
            }
            if let Frame::Data { id, payload, .. } = &frame
                && !payload.is_empty()
            {
                self.talk.record(Direction::FromAgent, &stream(*id, role), payload).await?;
            }
            let sent = self.target.lock().await.send(&frame).await;
            if let Err(error) = sent {
                // A program may have ended before its input has: what it still says is heard.
                sleep(LAST_WORDS).await;
                return Ok(End::Target(error.to_string()));
            }
        }
    }

    /// A stream is opened. Whether that goes to the target; the error ends everything.
    async fn opens(
        &self,
        (id, fin): (u32, bool),
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
        let known = self.state.lock().refused_words(&request);
        let words = match known {
            Some(words) => words,
            None if self.state.lock().permitted.contains(&port) => return Ok(Ok(true)),
            None => match self.talk.port(port, agent).await? {
                // What a permit asks of answers, no port can be asked.
                Ok(permit) => {
                    let (_obligations, _recorded) = permit.spend();
                    self.state.lock().permitted.insert(port);
                    return Ok(Ok(true));
                }
                Err(denial) if self.talk.served.has_ended() => return Ok(Err(denial)),
                Err(denial) => {
                    self.talk.served.observe(Observation::Denied(denial.clone())).await?;
                    Bytes::from(denial.line())
                }
            },
        };
        if self.state.lock().refused.len() >= Streams::LIMIT {
            let why = "it opens more streams to ports that it may not reach than are held";
            return Ok(Err(self.talk.served.agents_fault("a forwarded port", why)));
        }
        if !fin {
            self.state.lock().refused.insert(id, Refused { request, words: words.clone() });
        }
        // Streams come in pairs: what went wrong is said on the one that is for that.
        let payload = if matches!(role, Role::PortError { .. }) { words } else { Bytes::new() };
        self.tell(Frame::SynReply { id, fin: false, headers: Headers::default() }).await?;
        self.tell(Frame::Data { id, fin: true, payload }).await?;
        Ok(Ok(false))
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
                            let waiting = ((&mut stdout, out_id), (&mut stderr, err_id));
                            if let Err(why) = self.release(waiting, false).await? {
                                return Ok(self.talk.refused(&why.to_string()));
                            }
                            continue;
                        }
                    };
                    match filled {
                        Filled::More => continue,
                        Filled::Ping(payload) => {
                            if let Ok(mut target) = self.target.try_lock()
                                && let Err(error) = target.pong(&payload).await
                            {
                                return Ok(End::Target(error.to_string()));
                            }
                            continue;
                        }
                        Filled::Closed => {
                            let waiting = ((&mut stdout, out_id), (&mut stderr, err_id));
                            let released = self.release(waiting, true).await?;
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
                        self.release(((&mut stdout, out_id), (&mut stderr, err_id)), true).await?
                    } else {
                        Ok(())
                    };
                    if released.is_ok() {
                        self.pass(*id, *fin, role, payload).await?;
                    }
                    released
                }
                _ => {
                    self.control(frame).await?;
                    Ok(())
                }
            };
            if let Err(why) = delivered {
                return Ok(self.talk.refused(&why.to_string()));
            }
            holding.set(target.input().len() + stdout.held() + stderr.held())?;
            due = (stdout.is_holding() || stderr.is_holding()).then(|| Instant::now() + PATIENCE);
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
                printed.extend(output.finish()?);
            }
            Ok(printed)
        });
        self.talk.note(output, name(channel)).await?;
        match printed {
            Ok(printed) => self.printed(channel, (id, fin), printed).await.map(Ok),
            Err(why) => Ok(Err(why)),
        }
    }

    /// What belongs to no stream, or says nothing but that there is one: nothing that only the target has words for.
    async fn control(&self, frame: Frame) -> Result<(), Failure> {
        let frame = match frame {
            Frame::Ping(number) => {
                if let Some(mut target) = self.target.try_lock().ok().filter(|_| number.is_multiple_of(2)) {
                    // Where that fails, its next frame does not come.
                    let _best_effort = target.send(&Frame::Ping(number)).await;
                }
                return Ok(());
            }
            Frame::Settings { .. } => return Ok(()),
            Frame::SynReply { id, fin, .. } => Frame::SynReply { id, fin, headers: Headers::default() },
            Frame::GoAway { .. } => Frame::GoAway { last: 0, status: 0 },
            other => other,
        };
        self.agent.lock().await.send(&frame).await.map_err(agent_failed)
    }

    /// Passes on what waits. `all`: nothing comes any more.
    async fn release(
        &self,
        ((stdout, out_id), (stderr, err_id)): (Printing<'_>, Printing<'_>),
        all: bool,
    ) -> Result<Result<(), Unprintable>, Failure> {
        for (output, channel, id) in [(stdout, STDOUT, out_id), (stderr, STDERR, err_id)] {
            let Some(id) = id else { continue };
            let printed = if all { output.finish() } else { output.release() };
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
            self.talk.record(Direction::ToAgent, &[channel], &bytes).await?;
        }
        let frame = Frame::Data { id, fin, payload: bytes.into() };
        self.agent.lock().await.send(&frame).await.map_err(agent_failed)
    }

    /// Passes on what is neither printed nor masked.
    async fn pass(&self, id: u32, fin: bool, role: Role, payload: &Bytes) -> Result<(), Failure> {
        let bytes = self.talk.blotted(payload).await?;
        if !bytes.is_empty() {
            self.talk.record(Direction::ToAgent, &stream(id, role), &bytes).await?;
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
            self.talk.record(Direction::ToAgent, &[ERROR], &words).await?;
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
    /// Why the request that a stream belongs to leads to no port, where that was said already.
    fn refused_words(&self, request: &[u8]) -> Option<Bytes> {
        self.refused.values().find(|refused| refused.request == request).map(|refused| refused.words.clone())
    }
}

/// How a stream is recorded.
fn stream(id: u32, role: Role) -> Vec<u8> {
    let port = |lead: u8, port: u16| [&[lead][..], &id.to_be_bytes(), &port.to_be_bytes()].concat();
    match role {
        Role::Stdin => vec![STDIN],
        Role::Stdout => vec![STDOUT],
        Role::Stderr => vec![STDERR],
        Role::Resize => vec![RESIZE],
        Role::Data { port: of } => port(PORT, of),
        Role::PortError { port: of } => port(PORT + 1, of),
        Role::Error | Role::Control | Role::Stale => vec![ERROR],
    }
}
