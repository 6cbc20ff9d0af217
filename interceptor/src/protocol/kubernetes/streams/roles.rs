//! Which stream of SPDY is what, when Kubernetes runs commands, attaches to them, and forwards ports over it.
//!
//! An agent opens all streams and says in their headers what each is for; the target accepts each with a reply. Commands
//! (`streamtype`: error, stdin, stdout, stderr, resize) have each stream once; forwarded ports (`streamtype`: error, data;
//! `port`; `requestid`) have two for each connection.
//!
//! Clients and servers in Go go on writing on what they ended or reset, where one of their parts does not know yet what
//! another did. That is no fault, but it is stale: whoever sends it on lets the other side choose whether to read it.
//!
//! Stricter than the servers of Kubernetes, so that nothing is read by them that was not seen here: no stream is opened by a
//! target, opened twice or out of order, depends on another, or has headers that are not known; there are no more of them
//! than are held; nothing goes the wrong way, or before a stream was accepted. Whether a stream that was asked for is
//! missing is not known here.

use std::collections::BTreeMap;

use crate::protocol::kubernetes::spdy::{Frame, Headers};

/// What is wrong with a frame on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    /// A target opens one.
    #[error("a stream is opened by the target")]
    Target,
    /// An agent accepts one.
    #[error("a stream is accepted by the agent")]
    Agent,
    /// A number that is even, or not above all before it.
    #[error("a stream has a number that it cannot have")]
    Number,
    /// It has to do with another, or may be used in one direction alone.
    #[error("a stream depends on another, or has one direction only")]
    Shape,
    /// Headers that are missing, not known, or say nothing.
    #[error("a stream has headers that do not say what it is for")]
    Headers,
    /// There is such a stream already.
    #[error("a stream is there twice")]
    Twice,
    /// More than are held.
    #[error("there are too many streams")]
    Many,
    /// Nothing was to come.
    #[error("a stream is opened after the last")]
    Gone,
    /// It was not opened.
    #[error("a frame belongs to a stream that was never opened")]
    Unknown,
    /// It was not accepted yet.
    #[error("a frame comes before its stream was accepted")]
    Early,
    /// The other side sends on it.
    #[error("data goes the wrong way")]
    Way,
    /// Headers behind those that opened or accepted it.
    #[error("headers come where nobody reads them")]
    Late,
}

/// What a frame has to do with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What the command reads.
    Stdin,
    /// What it writes.
    Stdout,
    /// What it writes of errors.
    Stderr,
    /// How it ended.
    Error,
    /// How large the terminal is.
    Resize,
    /// A connection to a port.
    Data {
        /// The port.
        port: u16,
    },
    /// Why there is none.
    PortError {
        /// The port.
        port: u16,
    },
    /// The connection to the target itself.
    Control,
    /// A stream that its sender ended, or one of them reset. It must not be sent on.
    Stale,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Agent,
    Target,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    kind: Kind,
    /// Those of forwarded ports that belong together have the same.
    request: Option<u64>,
    accepted: bool,
    /// Nothing more comes of the agent.
    agent: bool,
    /// Nothing more comes of the target.
    target: bool,
}

/// All streams of a connection.
#[derive(Debug)]
pub(super) struct Streams {
    /// Ports are forwarded: otherwise, a command is run.
    ports: bool,
    /// The last that was opened.
    last: u32,
    /// The agent said that it is going.
    gone: bool,
    /// The kinds that a command had.
    had: Vec<Kind>,
    streams: BTreeMap<u32, Stream>,
}

impl Streams {
    /// The most streams that are open at a time.
    pub(super) const LIMIT: usize = 256;

    /// Of a command that is run, or attached to.
    #[must_use]
    pub(super) const fn command() -> Self {
        Self::new(false)
    }

    /// Of ports that are forwarded.
    #[must_use]
    pub(super) const fn ports() -> Self {
        Self::new(true)
    }

    const fn new(ports: bool) -> Self {
        Self { ports, last: 0, gone: false, had: Vec::new(), streams: BTreeMap::new() }
    }

    /// How many streams are open: at most [`Self::LIMIT`].
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.streams.len()
    }

    /// What a frame of the agent has to do with.
    ///
    /// # Errors
    /// [`Broken`], where the agent is at fault. Nothing that follows means anything then.
    pub(super) fn agent(&mut self, frame: &Frame) -> Result<Kind, Broken> {
        match frame {
            Frame::SynStream { id, associated, fin, unidirectional, headers, .. } => {
                if *associated != 0 || *unidirectional {
                    return Err(Broken::Shape);
                }
                self.open(*id, *fin, headers)
            }
            Frame::SynReply { .. } => Err(Broken::Agent),
            Frame::GoAway { .. } => {
                self.gone = true;
                Ok(Kind::Control)
            }
            _ => self.on(Side::Agent, frame),
        }
    }

    /// What a frame of the target has to do with.
    ///
    /// # Errors
    /// [`Broken`], where the target is at fault. Nothing that follows means anything then.
    pub(super) fn target(&mut self, frame: &Frame) -> Result<Kind, Broken> {
        match frame {
            Frame::SynStream { .. } => Err(Broken::Target),
            Frame::SynReply { id, fin, .. } => {
                let Some(stream) = self.sent(Side::Target, *id)? else { return Ok(Kind::Stale) };
                if std::mem::replace(&mut stream.accepted, true) {
                    return Err(Broken::Twice);
                }
                let kind = stream.kind;
                self.end(Side::Target, *id, *fin);
                Ok(kind)
            }
            _ => self.on(Side::Target, frame),
        }
    }

    fn open(&mut self, id: u32, fin: bool, headers: &Headers) -> Result<Kind, Broken> {
        if self.gone {
            return Err(Broken::Gone);
        }
        if id.is_multiple_of(2) || id <= self.last {
            return Err(Broken::Number);
        }
        let (kind, request) = if self.ports { port(headers)? } else { (command(headers)?, None) };
        if self.streams.len() >= Self::LIMIT {
            return Err(Broken::Many);
        }
        self.once(kind, request)?;
        self.last = id;
        self.streams.insert(id, Stream { kind, request, accepted: false, agent: fin, target: false });
        Ok(kind)
    }

    /// A command has one of each in all its time. A request has one of each at a time, and one port.
    fn once(&mut self, kind: Kind, request: Option<u64>) -> Result<(), Broken> {
        if request.is_none() {
            if self.had.contains(&kind) {
                return Err(Broken::Twice);
            }
            self.had.push(kind);
            return Ok(());
        }
        let mut same = self.streams.values().filter(|stream| stream.request == request);
        if same.any(|stream| stream.kind == kind || stream.kind.port() != kind.port()) {
            return Err(Broken::Twice);
        }
        Ok(())
    }

    /// A frame of either side.
    fn on(&mut self, side: Side, frame: &Frame) -> Result<Kind, Broken> {
        match frame {
            Frame::Data { id, fin, payload } => {
                let Some(stream) = self.sent(side, *id)?.copied() else { return Ok(Kind::Stale) };
                if !stream.accepted {
                    return Err(Broken::Early);
                }
                if !payload.is_empty() && !stream.kind.carries(side) {
                    return Err(Broken::Way);
                }
                self.end(side, *id, *fin);
                Ok(stream.kind)
            }
            Frame::Reset { id, .. } => {
                self.known(*id)?;
                Ok(self.streams.remove(id).map_or(Kind::Stale, |stream| stream.kind))
            }
            Frame::Headers { .. } => Err(Broken::Late),
            _ => Ok(Kind::Control),
        }
    }

    /// Any stream that was ever opened.
    const fn known(&self, id: u32) -> Result<(), Broken> {
        if id.is_multiple_of(2) || id > self.last { Err(Broken::Unknown) } else { Ok(()) }
    }

    /// A stream on which the side may send; `None` where it was one.
    fn sent(&mut self, side: Side, id: u32) -> Result<Option<&mut Stream>, Broken> {
        self.known(id)?;
        Ok(self.streams.get_mut(&id).filter(|stream| !stream.ended(side)))
    }

    /// Takes down that a side ended it. What both ended is forgotten.
    fn end(&mut self, side: Side, id: u32, fin: bool) {
        let Some(stream) = self.streams.get_mut(&id).filter(|_| fin) else { return };
        match side {
            Side::Agent => stream.agent = true,
            Side::Target => stream.target = true,
        }
        if stream.agent && stream.target {
            self.streams.remove(&id);
        }
    }
}

impl Stream {
    const fn ended(&self, side: Side) -> bool {
        match side {
            Side::Agent => self.agent,
            Side::Target => self.target,
        }
    }
}

impl Kind {
    /// The side sends data on it.
    const fn carries(self, side: Side) -> bool {
        match self {
            Self::Stdin | Self::Resize => matches!(side, Side::Agent),
            Self::Stdout | Self::Stderr | Self::Error | Self::PortError { .. } => matches!(side, Side::Target),
            Self::Data { .. } => true,
            Self::Control | Self::Stale => false,
        }
    }

    const fn port(self) -> Option<u16> {
        match self {
            Self::Data { port } | Self::PortError { port } => Some(port),
            _ => None,
        }
    }
}

fn command(headers: &Headers) -> Result<Kind, Broken> {
    if headers.iter().len() != 1 {
        return Err(Broken::Headers);
    }
    match headers.get("streamtype") {
        Some(b"error") => Ok(Kind::Error),
        Some(b"stdin") => Ok(Kind::Stdin),
        Some(b"stdout") => Ok(Kind::Stdout),
        Some(b"stderr") => Ok(Kind::Stderr),
        Some(b"resize") => Ok(Kind::Resize),
        _ => Err(Broken::Headers),
    }
}

fn port(headers: &Headers) -> Result<(Kind, Option<u64>), Broken> {
    let port = number(headers, "port")?.try_into().ok().filter(|port| *port != 0).ok_or(Broken::Headers)?;
    let request = number(headers, "requestid")?;
    match headers.get("streamtype") {
        Some(b"data") if headers.iter().len() == 3 => Ok((Kind::Data { port }, Some(request))),
        Some(b"error") if headers.iter().len() == 3 => Ok((Kind::PortError { port }, Some(request))),
        _ => Err(Broken::Headers),
    }
}

/// A number that is written in one way only.
fn number(headers: &Headers, name: &str) -> Result<u64, Broken> {
    let text = headers.get(name).and_then(|value| std::str::from_utf8(value).ok()).ok_or(Broken::Headers)?;
    text.parse().ok().filter(|number: &u64| number.to_string() == text).ok_or(Broken::Headers)
}

#[cfg(test)]
mod tests;
