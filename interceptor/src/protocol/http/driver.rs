//! The loop of a session, and of each exchange in it. The only files of this protocol that wait.
//!
//! In phases: who the agent is (at its first request); what it asks for, all of that read and found to be one thing only;
//! the verdict; the target; the answer, masked where it must be. Nothing reaches the target before the permit is spent.
//! `one` and `two` read requests as HTTP/1.1 and HTTP/2 frame them; `exchange` serves one of them, and `answer` its answer,
//! between the agent's side (`agent`) and the target's (`upstream`), each of which speaks either.
//!
//! An agent that leaves while its request is held or under way takes the target's leg with it: what an answer belonged to
//! is gone.

mod agent;
mod answer;
mod basis;
mod calls;
mod exchange;
pub(in crate::protocol) mod leg;
mod one;
mod outbox;
mod rewound;
pub(in crate::protocol) mod served;
pub(in crate::protocol) mod socket;
#[cfg(test)]
mod tests;
mod two;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::SendStream;
use http::uri::Scheme;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::action::{self, Body};
use super::codec::frames::PREFACE;
use super::codec::{self, RequestHead, ResponseHead};
use super::dialect::{Asked, Place};
use super::grpc::{self, Called};
use super::rewrite::Plan;
use super::route::Location;
use super::{BODY_LIMIT, ONE, Settings, TWO};
use crate::policy::{Command, Denial};
use crate::protocol::{Close, Conn, Failure, Gate, Patience, Question, Target};
use crate::tls;
use crate::tls::authority::Name;
pub(in crate::protocol) use exchange::Next;
use leg::{Leg, LegError, Reader, Writer};
use rewound::Rewound;
use served::Served;

/// Requests that an agent may have under way at once on one connection.
const STREAMS_LIMIT: u32 = 100;
/// What may come of one stream before it is read, in bytes. A stream counts as holding as much, on both legs together.
const STREAM_WINDOW: u32 = 256 * 1024;
/// What may come on one connection before it is read, in bytes.
const WINDOW: u32 = 1024 * 1024;
/// What may wait to be sent on one stream, in bytes.
const SEND_BUFFER: usize = 64 * 1024;

/// How long the last words to an agent may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that was upgraded, as agent and target have agreed.
pub(in crate::protocol) struct Opened<'a> {
    pub(in crate::protocol) served: &'a Served<'a>,
    /// What was asked for, and where.
    pub(in crate::protocol) asked: (&'a RequestHead, &'a Location),
    /// Where what the target says comes from.
    pub(in crate::protocol) place: Place,
    /// What is masked of it.
    pub(in crate::protocol) plan: Plan,
    /// How the target has agreed.
    pub(in crate::protocol) agreed: &'a ResponseHead,
    pub(in crate::protocol) agent: (&'a mut Reader, &'a mut Writer),
    pub(in crate::protocol) target: (Reader, Writer),
}

/// Serves one connection.
pub(in crate::protocol) async fn serve(mut conn: Conn, gate: &dyn Gate) -> Result<Close, Failure> {
    let handshake = conn.patience.handshake;
    conn.agent = secure(conn.agent, &conn.target).await?;
    let (served, mut agent) = Served::new(conn, gate);
    let scheme = if agent.is_tls() { Scheme::HTTPS } else { Scheme::HTTP };
    let input = begins(&mut agent, handshake).await?;
    if speaks_two(&agent, &input) {
        served.upstreams.offer_two(scheme == Scheme::HTTP);
        return two::serve(&served, Rewound::new(input.freeze(), agent), scheme).await;
    }
    one::serve(&served, agent, input).await
}

/// Tells an agent that there is no room for its session.
pub(in crate::protocol) async fn refuse(agent: tls::Stream, target: Arc<Target>, denial: Denial) {
    let patience = Patience::default().handshake;
    let dialect = target.http.clone().unwrap_or_default().dialect;
    let Ok(mut stream) = secure(agent, &target).await else { return };
    let Ok(input) = begins(&mut stream, patience).await else { return };
    if speaks_two(&stream, &input) {
        return two::refuse(Rewound::new(input.freeze(), stream), dialect.refusal(&denial), patience).await;
    }
    let mut agent = Leg::new(stream, input, patience);
    if matches!(agent.reader.head(codec::request).await, Ok(Some(_))) {
        let (mut head, body) = dialect.refusal(&denial);
        head.fields.set("connection", "close");
        let mut bytes = Vec::new();
        head.write(&mut bytes);
        bytes.extend_from_slice(&body);
        if agent.writer.put(&bytes).await.is_ok() && agent.writer.flush().await.is_ok() {
            agent.writer.shut().await;
        }
    }
}

/// What a request would be, without sending it: `METHOD /path`, then perhaps fields, an empty line and a body. `MESSAGE /path`
/// is one on a WebSocket, or of a call that takes a stream (`content-type: application/grpc`), with the message as the body.
/// Messages of calls stand there in JSON.
pub(in crate::protocol) fn understand(question: &Question<'_>) -> Result<Command, String> {
    let (head, body) = question.text.split_once("\n\n").unwrap_or((question.text, ""));
    let (first, fields) = head.split_once('\n').unwrap_or((head, ""));
    let lines: String = fields.lines().map(|line| format!("{line}\r\n")).collect();
    let host = if fields.to_ascii_lowercase().contains("host:") {
        String::new()
    } else {
        format!("host: {}\r\n", question.target.host)
    };
    let text = format!("{} HTTP/1.1\r\n{host}{lines}\r\n", first.trim());
    let read = codec::request(text.as_bytes()).map_err(|why| format!("it is no request: {why}"))?;
    let (head, _) = read.ok_or("it is no request: METHOD /path")?;
    let location = Location::read(&head.target).map_err(|why| why.to_string())?;
    let settings = question.target.http.clone().unwrap_or_default();
    if grpc::form(&head.fields).is_some() && settings.calls.is_some() {
        return understand_call(question, &settings, (head, &location), body);
    }
    let body = Bytes::copy_from_slice(body.as_bytes());
    if head.method == "MESSAGE" {
        return Ok(action::message(&question.target.name, &settings.routes, (&head, &location), true, &body));
    }
    let body = Body::Whole(body);
    let (target, routes) = (&question.target.name, &settings.routes);
    let called = Called::of(settings.calls.as_ref(), &head, &location);
    Ok(settings.dialect.command(&Asked { target, routes, head: &head, location: &location, body: &body, called }))
}

/// The same of a call.
fn understand_call(
    question: &Question<'_>,
    settings: &Settings,
    (head, location): (RequestHead, &Location),
    json: &str,
) -> Result<Command, String> {
    let (target, routes, schema) = (&question.target.name, &settings.routes, settings.calls.as_ref());
    let is_message = head.method == "MESSAGE";
    let head = if is_message { RequestHead { method: "POST".into(), ..head } } else { head };
    let called = Called::of(schema, &head, location);
    let (Some(call), Some(schema)) = (called.known(), schema) else {
        let body = Body::Whole(Bytes::copy_from_slice(json.as_bytes()));
        return Ok(settings.dialect.command(&Asked { target, routes, head: &head, location, body: &body, called }));
    };
    let message = || {
        let mut framed = Vec::new();
        grpc::frames::put(&mut framed, 0, &schema.written(&head.target, json)?);
        Ok::<_, String>(Bytes::from(framed))
    };
    if is_message {
        if !call.is_stream() {
            return Err(format!(
                "{:.200} takes one message, which is judged with its request: ask about POST",
                head.target
            ));
        }
        let frame = grpc::frames::single(&message()?, BODY_LIMIT)?.ok_or("it is no message")?;
        let (bytes, read) = call.one(&frame);
        return Ok(action::heard(target, routes, (&head, location), &bytes, read));
    }
    let body = if call.is_stream() { Body::Stream } else { Body::Whole(message()?) };
    Ok(settings.dialect.command(&Asked { target, routes, head: &head, location, body: &body, called }))
}

/// Speaks TLS where the agent begins with it.
async fn secure(agent: tls::Stream, target: &Target) -> Result<tls::Stream, Failure> {
    let tls::Stream::Tcp(tcp) = &agent else { return Ok(agent) };
    let mut first = [0];
    let seen = tcp.peek(&mut first).await.map_err(|source| Failure::Io { leg: "agent", source })?;
    if seen == 0 || first != [0x16] {
        return Ok(agent);
    }
    let Some(agents) = &target.agent_tls else {
        return Err(Failure::Agent("it starts TLS, for which this target has no certificate".to_owned()));
    };
    let stream = tls::accept(agent, agents).await.map_err(Failure::Handshake)?;
    match stream.alpn() {
        None => Ok(stream),
        Some(name) if name == ONE || name == TWO => Ok(stream),
        Some(_) => Err(Failure::Agent("it speaks another protocol inside of TLS".to_owned())),
    }
}

/// The first bytes, as many as tell one version from the other; none where TLS has settled that.
async fn begins(agent: &mut tls::Stream, patience: Duration) -> Result<BytesMut, Failure> {
    let mut input = BytesMut::with_capacity(4096);
    if agent.alpn().is_some() {
        return Ok(input);
    }
    let reads = async {
        while PREFACE.starts_with(&input) && input.len() < PREFACE.len() {
            if agent.read_buf(&mut input).await? == 0 {
                break;
            }
        }
        Ok(input)
    };
    let read = timeout(patience, reads).await;
    read.map_err(|_elapsed| Failure::Agent(format!("it has said nothing in {patience:?}")))?
        .map_err(|source| Failure::Io { leg: "agent", source })
}

fn speaks_two(agent: &tls::Stream, input: &[u8]) -> bool {
    match agent.alpn() {
        Some(name) => name == TWO,
        None => input.starts_with(PREFACE),
    }
}

/// Sends a piece of a body as its stream has room for it. `last`: nothing follows it.
async fn send_two(
    stream: &mut SendStream<Bytes>,
    mut piece: Bytes,
    stalled: Duration,
    last: bool,
) -> Result<(), LegError> {
    while !piece.is_empty() {
        stream.reserve_capacity(piece.len());
        let room = timeout(stalled, std::future::poll_fn(|cx| stream.poll_capacity(cx))).await;
        let room = room.map_err(|_elapsed| LegError::Stalled(stalled))?.ok_or(LegError::Closed)??;
        let part = piece.split_to(room.min(piece.len()));
        stream.send_data(part, last && piece.is_empty())?;
    }
    Ok(())
}

/// `name`, `name:port`, `[address]:port`.
fn split_host(host: &str) -> Option<(Name, Option<&str>)> {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, None),
        Some((address, port)) => (address, Some(port.strip_prefix(':')?)),
        None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    let port_is_one = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number.to_string() == port));
    port_is_one.then_some((Name::parse(name)?, port))
}

pub(in crate::protocol) fn agent_failed(error: LegError) -> Failure {
    match error {
        LegError::Io(source) => Failure::Io { leg: "agent", source },
        other => Failure::Agent(other.to_string()),
    }
}
