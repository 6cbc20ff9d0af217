//! The target's side: legs that are reached when they are needed and kept while they can be used again, and one request on
//! them.
//!
//! Agents that speak HTTP/2 are offered to the target as such, on one connection for the session where it takes that, and
//! on a few of HTTP/1.1 where it does not. In clear, where nothing can be offered, the target is spoken to as the agent speaks.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, RecvStream, SendStream};
use http::uri::Scheme;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::leg::{Left, Leg, LegError, Reader, Writer, worded};
use super::{SEND_BUFFER, STREAM_WINDOW, WINDOW, send_two};
use crate::protocol::http::codec::{self, Fields, HEAD_LIMIT, RequestHead, ResponseHead, two};
use crate::protocol::http::{ONE, TWO};
use crate::protocol::{Dial, Target};
use crate::tls;

/// How long it may take to reach a target and speak TLS with it.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Legs of HTTP/1.1 that one session has at most.
const LEGS_LIMIT: usize = 16;
/// Connections that take no more requests and are still answering, at most.
const LEAVING_LIMIT: usize = 4;
/// How long those who have waited for an attempt that failed make none of their own.
const ATTEMPT_PAUSE: Duration = Duration::from_secs(1);
/// Answers that come before the one that counts, at most.
const INTERIM_LIMIT: usize = 16;

/// The legs of one session.
pub(super) struct Upstreams {
    dial: Arc<dyn Dial>,
    target: Arc<Target>,
    stalled: Duration,
    /// The agent speaks HTTP/2.
    offers_two: AtomicBool,
    /// And does so in clear, so that a target in clear has to speak it as well.
    two_in_clear: AtomicBool,
    idle: Mutex<Vec<Leg>>,
    slots: Semaphore,
    connections: tokio::sync::Mutex<Connections>,
}

/// Those of HTTP/2.
struct Connections {
    speaks: Speaks,
    /// Those that take no more requests, and may still be answering: the oldest is dropped for a new one.
    leaving: VecDeque<JoinSet<()>>,
    /// The target could not be reached: when, and why.
    failed: Option<(Instant, String)>,
}

/// What is known of the target.
enum Speaks {
    Unknown,
    One,
    Two { requests: SendRequest<Bytes>, connection: JoinSet<()> },
}

/// A leg that a request can go on.
pub(super) enum Way<'a> {
    One { leg: Leg, slot: SemaphorePermit<'a> },
    Two { requests: SendRequest<Bytes>, scheme: Scheme, stalled: Duration },
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Upstreams {
    pub(super) fn new(dial: Arc<dyn Dial>, target: Arc<Target>, stalled: Duration) -> Self {
        Self {
            dial,
            target,
            stalled,
            offers_two: AtomicBool::new(false),
            two_in_clear: AtomicBool::new(false),
            idle: Mutex::default(),
            slots: Semaphore::new(LEGS_LIMIT),
            connections: tokio::sync::Mutex::new(Connections {
                speaks: Speaks::Unknown,
                leaving: VecDeque::new(),
                failed: None,
            }),
        }
    }

    /// Offers HTTP/2 from now on, as the agent speaks it.
    pub(super) fn offer_two(&self, in_clear: bool) {
        self.offers_two.store(true, Ordering::Relaxed);
        self.two_in_clear.store(in_clear, Ordering::Relaxed);
    }

    /// Where they lead.
    pub(super) fn place(&self) -> String {
        self.dial.place()
    }

    /// A leg that is open.
    pub(super) async fn reach(&self) -> Result<Way<'_>, String> {
        if self.offers_two.load(Ordering::Relaxed)
            && let Some(way) = self.reach_two().await?
        {
            return Ok(way);
        }
        let slot = self.slot().await?;
        let idle = self.idle.lock().pop();
        if let Some(mut leg) = idle
            && leg.reader.is_empty()
            // Whatever it says between two answers is none, and belongs to nothing.
            && leg.reader.gone().now_or_never().is_none()
            && leg.reader.is_empty()
        {
            return Ok(Way::One { leg, slot });
        }
        let stream = self.dial(&[ONE]).await?;
        Ok(Way::One { leg: Leg::new(stream, BytesMut::new(), self.stalled), slot })
    }

    async fn slot(&self) -> Result<SemaphorePermit<'_>, String> {
        let slot = timeout(self.stalled, self.slots.acquire()).await;
        slot.map_err(|_elapsed| "it takes no more requests at once".to_owned())?.map_err(|closed| closed.to_string())
    }

    /// One of HTTP/2, or the first of HTTP/1.1 where the target turns out to speak that; nothing where that is known.
    async fn reach_two(&self) -> Result<Option<Way<'_>>, String> {
        let mut connections = self.connections.lock().await;
        match &connections.speaks {
            Speaks::One => return Ok(None),
            Speaks::Unknown => {}
            // It resolves with an error where the connection is closing.
            Speaks::Two { requests, .. } => match timeout(self.stalled, requests.clone().ready()).await {
                Ok(Ok(requests)) => return Ok(Some(self.two(requests))),
                Ok(Err(_leaving)) => connections.leave(),
                Err(_elapsed) => return Err("it takes no more requests at once".to_owned()),
            },
        }
        // Who has waited for the same attempt does not make another.
        if let Some((when, why)) = &connections.failed
            && when.elapsed() < ATTEMPT_PAUSE
        {
            return Err(why.clone());
        }
        let reached = self.begin(&mut connections).await;
        connections.failed = reached.as_ref().err().map(|why| (Instant::now(), why.clone()));
        reached.map(Some)
    }

    async fn begin(&self, connections: &mut Connections) -> Result<Way<'_>, String> {
        let stream = self.dial(&[TWO, ONE]).await?;
        let in_clear = !stream.is_tls();
        let is_two = if in_clear { self.two_in_clear.load(Ordering::Relaxed) } else { stream.alpn() == Some(TWO) };
        if !is_two {
            let slot = self.slot().await?;
            connections.speaks = Speaks::One;
            return Ok(Way::One { leg: Leg::new(stream, BytesMut::new(), self.stalled), slot });
        }
        let (requests, connection) = speak_two(stream, in_clear).await?;
        connections.speaks = Speaks::Two { requests: requests.clone(), connection };
        Ok(self.two(requests))
    }

    fn two(&self, requests: SendRequest<Bytes>) -> Way<'_> {
        let scheme = if self.target.upstream_tls.wants_tls() { Scheme::HTTPS } else { Scheme::HTTP };
        Way::Two { requests, scheme, stalled: self.stalled }
    }

    /// A fresh leg that speaks one of these.
    async fn dial(&self, offered: &[&[u8]]) -> Result<tls::Stream, String> {
        let reached = timeout(LOGIN_TIMEOUT, async {
            let stream = self.dial.dial().await.map_err(|error| error.to_string())?;
            if self.target.upstream_tls.wants_tls() {
                let upstream = &self.target.upstream_tls;
                tls::connect_offering(stream, upstream, offered).await.map_err(|error| error.to_string())
            } else {
                Ok(stream)
            }
        });
        let stream = reached.await.unwrap_or_else(|_elapsed| Err("it was not reached in time".to_owned()))?;
        if stream.alpn().is_some_and(|name| !offered.contains(&name)) {
            return Err("it speaks another protocol inside of TLS".to_owned());
        }
        Ok(stream)
    }

    /// Keeps a leg for the next request.
    pub(super) fn keep(&self, leg: Leg) {
        let mut idle = self.idle.lock();
        if idle.len() < LEGS_LIMIT {
            idle.push(leg);
        }
    }
}

impl Connections {
    /// Lets the connection end its answers.
    fn leave(&mut self) {
        if let Speaks::Two { connection, .. } = std::mem::replace(&mut self.speaks, Speaks::Unknown) {
            if self.leaving.len() == LEAVING_LIMIT {
                self.leaving.pop_front();
            }
            self.leaving.push_back(connection);
        }
    }
}

/// Begins HTTP/2; the connection ends with what is returned. In clear nothing has said that the target speaks it: nothing of
/// an agent's goes there before it has answered a ping.
async fn speak_two(stream: tls::Stream, in_clear: bool) -> Result<(SendRequest<Bytes>, JoinSet<()>), String> {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_header_list_size(u32::try_from(HEAD_LIMIT).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER);
    let handshake = timeout(LOGIN_TIMEOUT, builder.handshake::<_, Bytes>(stream)).await;
    let (requests, mut connection) = handshake
        .map_err(|_elapsed| "it did not begin HTTP/2 in time".to_owned())?
        .map_err(|error| format!("it does not speak HTTP/2: {}", worded(&error)))?;
    let ping = connection.ping_pong().filter(|_| in_clear);
    let mut task = JoinSet::new();
    task.spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = worded(&error), "a connection of HTTP/2 to a target has ended");
        }
    });
    if let Some(mut ping) = ping {
        let pong = timeout(LOGIN_TIMEOUT, ping.ping(Ping::opaque())).await;
        if !matches!(pong, Ok(Ok(_))) {
            return Err("it does not speak HTTP/2 in clear, as the agent does".to_owned());
        }
    }
    Ok((requests, task))
}

impl<'a> Way<'a> {
    pub(super) const fn is_two(&self) -> bool {
        matches!(self, Self::Two { .. })
    }

    /// Sends the head. `over`: nothing follows it. Nothing has left yet where this fails with a sentence.
    pub(super) async fn begin(self, head: &RequestHead, over: bool) -> Result<(Sending, Hearing<'a>), LegError> {
        match self {
            Self::One { leg: Leg { reader, mut writer }, slot } => {
                head.write(writer.head());
                let chunked = head.fields.get("transfer-encoding").is_some();
                let upgrades = head.fields.get("upgrade").is_some();
                let hearing = Hearing::One { reader, left: Left::Nothing, upgrades, _slot: slot };
                Ok((Sending::One { writer, chunked }, hearing))
            }
            Self::Two { mut requests, scheme, stalled } => {
                let head = head.to_two(&scheme).map_err(|why| LegError::Io(std::io::Error::other(why)))?;
                let (response, body) = requests.send_request(head, over)?;
                Ok((Sending::Two { body, stalled, over }, Hearing::Two { response, body: None }))
            }
        }
    }
}

/// Where the rest of a request goes.
pub(super) enum Sending {
    One { writer: Writer, chunked: bool },
    Two { body: SendStream<Bytes>, stalled: Duration, over: bool },
}

impl Sending {
    /// A piece of the body.
    pub(super) async fn piece(&mut self, piece: Bytes) -> Result<(), LegError> {
        match self {
            Self::One { writer, chunked } => writer.piece(&piece, *chunked).await,
            Self::Two { body, stalled, .. } => send_two(body, piece, *stalled, false).await,
        }
    }

    /// Sends what waits to be sent together.
    pub(super) async fn flush(&mut self) -> Result<(), LegError> {
        match self {
            Self::One { writer, .. } => writer.flush().await,
            Self::Two { .. } => Ok(()),
        }
    }

    /// The end of the request.
    pub(super) async fn end(&mut self) -> Result<(), LegError> {
        match self {
            Self::One { writer, chunked } => {
                if *chunked {
                    writer.put(b"0\r\n\r\n").await?;
                }
                writer.flush().await
            }
            Self::Two { over: true, .. } => Ok(()),
            Self::Two { body, over, .. } => {
                *over = true;
                Ok(body.send_data(Bytes::new(), true)?)
            }
        }
    }
}

/// Where the answer comes from.
pub(super) enum Hearing<'a> {
    One { reader: Reader, left: Left, upgrades: bool, _slot: SemaphorePermit<'a> },
    Two { response: ResponseFuture, body: Option<RecvStream> },
}

impl Hearing<'_> {
    /// The head that counts. `asked_head`: the answer to `HEAD` has no body, whatever it says. Nothing is lost where this is
    /// dropped while it waits.
    pub(super) async fn head(&mut self, asked_head: bool) -> Result<ResponseHead, String> {
        match self {
            Self::One { reader, left, upgrades, .. } => {
                let head = final_head(reader, *upgrades).await?;
                let bodiless = asked_head || matches!(head.status, 101 | 204 | 304);
                *left = if bodiless { Left::Nothing } else { Left::from(head.length) };
                Ok(head)
            }
            Self::Two { response, body } => {
                let (parts, stream) = response.await.map_err(|error| worded(&error))?.into_parts();
                let head = two::response(&parts, stream.is_end_stream()).map_err(|why| why.to_string())?;
                *body = Some(stream);
                Ok(head)
            }
        }
    }

    /// Whether all of the answer was read.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::One { left, .. } => matches!(left, Left::Nothing),
            Self::Two { body, .. } => body.as_ref().is_none_or(RecvStream::is_end_stream),
        }
    }

    /// Whether the answer ends with the connection.
    pub(super) const fn ends_with_close(&self) -> bool {
        matches!(self, Self::One { left: Left::UntilClose, .. })
    }

    /// The next piece of its body; `None` at the end of it. Nothing is lost where this is dropped while it waits.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, LegError> {
        match self {
            Self::One { reader, left, .. } => reader.piece(left).await,
            Self::Two { body: Some(body), .. } => {
                let Some(data) = body.data().await.transpose()? else { return Ok(None) };
                body.flow_control().release_capacity(data.len())?;
                Ok(Some(data))
            }
            Self::Two { body: None, .. } => Ok(None),
        }
    }

    /// What follows the body. That of HTTP/1.1 is dropped.
    pub(super) async fn trailers(&mut self) -> Result<Option<Fields>, LegError> {
        let Self::Two { body: Some(body), .. } = self else { return Ok(None) };
        let Some(trailers) = body.trailers().await? else { return Ok(None) };
        Ok(Some(two::fields(&trailers)?))
    }
}

async fn final_head(reader: &mut Reader, upgrades: bool) -> Result<ResponseHead, String> {
    for _ in 0..INTERIM_LIMIT {
        match reader.head(codec::response).await {
            Ok(Some(head)) if head.status == 101 && upgrades => return Ok(head),
            Ok(Some(head)) if head.status == 101 => return Err("it upgrades what was not to be".to_owned()),
            Ok(Some(head)) if head.status < 200 => {}
            Ok(Some(head)) => return Ok(head),
            Ok(None) => return Err("it closed without an answer".to_owned()),
            Err(error) => return Err(error.to_string()),
        }
    }
    Err("it sends interim answers without end".to_owned())
}

/// The leg of a request whose answer has been read to its end.
pub(super) fn again(sending: Sending, hearing: Hearing<'_>) -> Option<Leg> {
    match (sending, hearing) {
        (Sending::One { writer, .. }, Hearing::One { reader, .. }) => Some(Leg { reader, writer }),
        _ => None,
    }
}
