//! The loop of a session: a request, its verdict, its answer, and the next. The only files of this protocol that wait.
//!
//! In phases: who the agent is (at its first request); what it asks for, all of that read and found to be one thing only;
//! the verdict; the target; the answer, masked where it must be. Nothing reaches the target before the permit is spent.
//!
//! An agent that leaves while its request is held or under way takes the target's leg with it: what an answer belonged to
//! is gone.

mod answer;
mod leg;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::action::{self, Body};
use super::codec::{self, Length, RequestHead};
use super::denial;
use super::route::Location;
use super::scrub::Spellings;
use super::{ALPN, BODY_LIMIT, Settings};
use crate::mask::{Masker, Rules};
use crate::policy::{Command, Denial, Fault, Permit, Retry};
use crate::protocol::{
    Admitted, Close, Conn, Dial, Direction, Failure, Gate, Impact, Observation, Patience, Question, Target, Verdict,
};
use crate::secret::Secret;
use crate::telemetry::SessionId;
use crate::tls;
use crate::tls::authority::Name;
use leg::{Left, Leg, LegError};

/// How long it may take to reach a target and speak TLS with it.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a request's body is waited for as a whole where it is looked into, for each byte that comes.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Serves one connection.
pub(super) async fn serve(conn: Conn, gate: &dyn Gate) -> Result<Close, Failure> {
    let Conn { agent, target, dial, rules, session, patience } = conn;
    let agent = secure(agent, &target).await?;
    let settings = target.http.clone().unwrap_or_default();
    let agent = Leg::new(agent, patience.stalled);
    let served = Served {
        gate,
        agent,
        upstream: None,
        admitted: None,
        spellings: None,
        target,
        settings,
        dial,
        rules,
        session,
        patience,
        answering: false,
    };
    served.run().await
}

/// Tells an agent that there is no room for its session.
pub(super) async fn refuse(agent: tls::Stream, target: Arc<Target>, denial: Denial) {
    let Ok(stream) = secure(agent, &target).await else { return };
    let mut agent = Leg::new(stream, Patience::default().handshake);
    if matches!(agent.head(codec::request).await, Ok(Some(_))) {
        let _told = agent.send(&denial::problem(&denial, true, true)).await;
        agent.shut().await;
    }
}

/// What a request would be, without sending it: `METHOD /path`, then perhaps fields, an empty line and a body.
pub(super) fn understand(question: &Question<'_>) -> Result<Command, String> {
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
    let body = Body::Whole(Bytes::copy_from_slice(body.as_bytes()));
    Ok(action::command(&question.target.name, &settings.routes, &head, &location, &body))
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
        Some(name) if name == ALPN => Ok(stream),
        Some(_) => Err(Failure::Agent("it speaks another protocol inside of TLS".to_owned())),
    }
}

/// How an exchange left the connection.
enum Next {
    /// Ready for the next request.
    Open,
    /// To be closed.
    Shut,
}

/// A request that may be forwarded.
struct Permitted {
    head: RequestHead,
    body: Sent,
    permit: Permit,
}

/// What is known of a request's body, and what is still to come.
struct Sent {
    known: Bytes,
    left: Left,
    expects: bool,
}

struct Served<'a> {
    gate: &'a dyn Gate,
    agent: Leg,
    upstream: Option<Leg>,
    admitted: Option<Admitted>,
    /// How the credential may be written, where answers are looked through for it.
    spellings: Option<Arc<Spellings>>,
    target: Arc<Target>,
    settings: Arc<Settings>,
    dial: Arc<dyn Dial>,
    rules: Arc<Rules>,
    session: SessionId,
    patience: Patience,
    /// Part of an answer is out: nothing else can be said.
    answering: bool,
}

impl Served<'_> {
    async fn run(mut self) -> Result<Close, Failure> {
        loop {
            self.answering = false;
            let head = tokio::select! {
                head = next_head(&mut self.agent, self.admitted.is_none().then_some(self.patience.handshake)) => head,
                _why = self.gate.ended() => return self.leave().await,
                _why = self.gate.leaving(), if self.agent.is_empty() => return self.leave().await,
            };
            let head = match head {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(Close::Agent),
                Err(error) => return self.unreadable(error).await,
            };
            let gate = self.gate;
            let done = tokio::select! {
                done = self.exchange(head) => done,
                why = gate.ended() => {
                    if !self.answering {
                        let _told = self.agent.send(&denial::problem(&why, true, true)).await;
                    }
                    return self.leave().await;
                }
            };
            match done? {
                Next::Open => {}
                Next::Shut => {
                    self.agent.shut().await;
                    return Ok(Close::Agent);
                }
            }
        }
    }

    async fn leave(mut self) -> Result<Close, Failure> {
        self.agent.shut().await;
        Ok(Close::Ended)
    }

    /// What is no request, or no complete one.
    async fn unreadable(mut self, error: LegError) -> Result<Close, Failure> {
        let code = match &error {
            LegError::Io(_) | LegError::Closed => return Err(agent_failed(error)),
            LegError::Malformed(codec::Malformed::Version) => (505, "HTTP Version Not Supported"),
            LegError::Malformed(codec::Malformed::TooLarge) => (431, "Request Header Fields Too Large"),
            LegError::Malformed(_) => (400, "Bad Request"),
            LegError::Stalled(_) => (408, "Request Timeout"),
        };
        let denial = self.agents_fault("the request", &error.to_string());
        self.observe(Observation::Denied(denial.clone())).await?;
        self.send(&denial::unreadable(code, &denial)).await?;
        self.agent.shut().await;
        Err(Failure::Agent(error.to_string()))
    }

    async fn exchange(&mut self, head: RequestHead) -> Result<Next, Failure> {
        if self.admitted.is_none() {
            let presented = self.gate.wants_token().then(|| presented(&head)).flatten();
            match self.gate.attest(presented).await {
                Ok(admitted) => {
                    let secret = admitted.login.password.as_ref().filter(|_| !self.settings.unscrubbed);
                    self.spellings = secret.and_then(|secret| Spellings::of(secret.expose())).map(Arc::new);
                    self.admitted = Some(admitted);
                }
                Err(denial) => {
                    self.tell(&denial, true, &head).await?;
                    return Err(Failure::Denied(denial));
                }
            }
        }
        let with_body = head.method != "HEAD";
        let closes = head.fields.lists("connection", "close");
        let permitted = match self.permit(head).await? {
            Ok(permitted) => permitted,
            Err((denial, unread)) => {
                self.observe(Observation::Denied(denial.clone())).await?;
                self.send(&denial::problem(&denial, unread || closes, with_body)).await?;
                return Ok(if unread || closes { Next::Shut } else { Next::Open });
            }
        };
        let next = self.forward(permitted, closes).await?;
        Ok(if closes { Next::Shut } else { next })
    }

    /// Reads the request, and has it judged. A refusal says whether part of the request is still to come.
    async fn permit(&mut self, head: RequestHead) -> Result<Result<Permitted, (Denial, bool)>, Failure> {
        let location = match self.checked(&head) {
            Ok(location) => location,
            Err(denial) => return Ok(Err((denial, !matches!(head.length, Length::Known(0))))),
        };
        let mut left = Left::from(head.length);
        let expects = head.fields.lists("expect", "100-continue");
        let (body, sent) = match left {
            Left::Known(length) if length > BODY_LIMIT as u64 => {
                (Body::Long(Some(length)), Sent { known: Bytes::new(), left, expects })
            }
            _ => {
                if expects && !matches!(left, Left::Nothing) && self.agent.is_empty() {
                    self.send(CONTINUE).await?;
                }
                let read = self.agent.body(&mut left, BODY_LIMIT).await;
                let (known, whole) = match read {
                    Ok((known, whole)) => (known.freeze(), whole),
                    Err(error @ (LegError::Malformed(_) | LegError::Stalled(_))) => {
                        return Ok(Err((self.agents_fault("the request", &error.to_string()), true)));
                    }
                    Err(error) => return Err(agent_failed(error)),
                };
                let body = if whole { Body::Whole(known.clone()) } else { Body::Long(None) };
                (body, Sent { known, left, expects: false })
            }
        };
        let unread = !matches!(sent.left, Left::Nothing);
        self.gate.holds(sent.known.len()).map_err(Failure::Overfull)?;
        let command = action::command(&self.target.name, &self.settings.routes, &head, &location, &body);
        Ok(match self.judged(&command).await? {
            Ok(permit) => Ok(Permitted { head, body: sent, permit }),
            Err(denial) => {
                self.gate.holds(0).map_err(Failure::Overfull)?;
                Err((denial, unread))
            }
        })
    }

    /// The verdict. An agent that leaves meanwhile takes its request along; one that is held stays, for the next time.
    async fn judged(&mut self, command: &Command) -> Result<Result<Permit, Denial>, Failure> {
        Ok(match self.gate.judge(command).await {
            Ok(Verdict::Permit(permit)) => Ok(permit),
            Ok(Verdict::Ended(denial)) | Err(denial) => Err(denial),
            Ok(Verdict::Hold(held)) => {
                tokio::select! {
                    answered = self.gate.hold(command, held, Impact::default()) => answered,
                    () = self.agent.gone() => return Err(Failure::Agent("it left while its request was held".to_owned())),
                }
            }
        })
    }

    /// Whether the request means one thing, to whoever reads it.
    fn checked(&self, head: &RequestHead) -> Result<Location, Denial> {
        let refused = |why: &str| self.agents_fault(&format!("{} {:.200}", head.method, head.target), why);
        if matches!(head.method.as_str(), "CONNECT" | "TRACE") {
            return Err(refused("this method is not passed on"));
        }
        if head.fields.get("upgrade").is_some() || head.fields.lists("connection", "upgrade") {
            return Err(refused("upgrades to other protocols are not understood, and so not passed on"));
        }
        // It would be judged with such a field, and reach the target without.
        if let Some(name) = head.fields.named_by_connection().next() {
            return Err(refused(&format!("`Connection` names {name:.100}, which is no field of one connection alone")));
        }
        if head.fields.get("expect").is_some() && !head.fields.lists("expect", "100-continue") {
            return Err(refused("what it expects is not understood"));
        }
        let host = head.fields.text("host").unwrap_or_default();
        let (name, port) = split_host(host).ok_or_else(|| refused("`Host` is no host"))?;
        if !self.settings.names.contains(&name) {
            return Err(refused(&format!("`Host: {host}` is no name of {}", self.target.name)));
        }
        if let Some(asked) = self.agent.stream.asked_name()
            && Name::parse(asked).as_ref() != Some(&name)
        {
            return Err(refused(&format!("`Host: {host}` is another than the name in TLS, {asked}")));
        }
        let reached = self.dial.place();
        if port.is_some_and(|port| reached.rsplit(':').next() != Some(port)) {
            return Err(refused(&format!("`Host: {host}` names another port than the one that was connected to")));
        }
        Location::read(&head.target).map_err(|why| refused(&why.to_string()))
    }

    /// Sends what is permitted, and passes the answer on.
    async fn forward(&mut self, permitted: Permitted, closes: bool) -> Result<Next, Failure> {
        let Permitted { mut head, body, permit } = permitted;
        let masker = {
            let (obligations, _recorded) = permit.spend();
            Masker::new(Arc::clone(&self.rules), &obligations)
        };
        let method = head.method.clone();
        let unread = !matches!(body.left, Left::Nothing);
        let log_in = self.settings.log_in.clone();
        if let Err(why) = self.prepare(&mut head, &body, masker.scans()) {
            let denial = Denial { fault: Fault::Operator, ..self.agents_fault("the log-in at the target", &why) };
            return self.fail(denial, unread, &method).await;
        }
        if let Err(why) = self.reach().await {
            return self.fail(self.upstream_fault(&why), unread, &method).await;
        }
        let mut recorded = head.clone();
        log_in.redact(&mut recorded);
        let mut bytes = Vec::new();
        recorded.write(&mut bytes);
        self.observe(Observation::Data(Direction::FromAgent, bytes.into())).await?;
        if let Err(error) = self.send_request(&head, body).await? {
            self.upstream = None;
            return self.fail(self.upstream_fault(&error.to_string()), unread, &method).await;
        }
        self.gate.holds(0).map_err(Failure::Overfull)?;
        self.answer(&method, masker, closes).await
    }

    /// The head as the target gets it.
    fn prepare(&self, head: &mut RequestHead, body: &Sent, scans: bool) -> Result<(), String> {
        head.fields.end_to_end();
        head.fields.remove("expect");
        head.fields.remove("content-length");
        match &body.left {
            Left::Nothing if body.known.is_empty() && !has_content(&head.method) => {}
            Left::Nothing => head.fields.set("content-length", body.known.len().to_string()),
            Left::Known(length) => head.fields.set("content-length", length.to_string()),
            Left::Chunked(_) | Left::UntilClose => head.fields.set("transfer-encoding", "chunked"),
        }
        if scans || self.spellings.is_some() {
            // What is looked through has to come as it is.
            head.fields.set("accept-encoding", "identity");
        }
        if scans {
            // And what is to be masked whole.
            ["range", "if-range"].into_iter().for_each(|name| head.fields.remove(name));
        }
        match &self.admitted {
            Some(admitted) => self.settings.log_in.put(head, &admitted.login),
            None => Err("the agent has no identity yet".to_owned()),
        }
    }

    /// Has a leg to the target that is open.
    async fn reach(&mut self) -> Result<(), String> {
        use futures_util::FutureExt as _;
        if let Some(upstream) = &mut self.upstream {
            // Whatever it says between two answers is none, and belongs to nothing.
            if upstream.is_empty() && upstream.gone().now_or_never().is_none() && upstream.is_empty() {
                return Ok(());
            }
            self.upstream = None;
        }
        let reached = timeout(LOGIN_TIMEOUT, async {
            let stream = self.dial.dial().await.map_err(|error| error.to_string())?;
            if self.target.upstream_tls.wants_tls() {
                tls::connect(stream, &self.target.upstream_tls).await.map_err(|error| error.to_string())
            } else {
                Ok(stream)
            }
        });
        let stream = reached.await.unwrap_or_else(|_elapsed| Err("it was not reached in time".to_owned()))?;
        if stream.alpn().is_some_and(|name| name != ALPN) {
            return Err("it speaks another protocol inside of TLS".to_owned());
        }
        self.upstream = Some(Leg::new(stream, self.patience.stalled));
        Ok(())
    }

    /// Sends head and body; the inner error is the target's.
    async fn send_request(&mut self, head: &RequestHead, body: Sent) -> Result<Result<(), LegError>, Failure> {
        let Sent { known, mut left, expects } = body;
        let mut out = Vec::new();
        head.write(&mut out);
        let chunked = !matches!(left, Left::Nothing | Left::Known(_));
        let mut recorded = BytesMut::new();
        put_piece(&mut recorded, &known, chunked);
        out.extend_from_slice(&recorded);
        if !recorded.is_empty() {
            self.observe(Observation::Data(Direction::FromAgent, recorded.freeze())).await?;
        }
        let Some(upstream) = &mut self.upstream else { return Ok(Err(LegError::Closed)) };
        if let Err(error) = upstream.send(&out).await {
            return Ok(Err(error));
        }
        if expects {
            self.send(CONTINUE).await?;
        }
        while let Some(piece) = self.agent.piece(&mut left).await.map_err(agent_failed)? {
            let mut framed = BytesMut::new();
            put_piece(&mut framed, &piece, chunked);
            let framed = framed.freeze();
            self.observe(Observation::Data(Direction::FromAgent, framed.clone())).await?;
            let Some(upstream) = &mut self.upstream else { return Ok(Err(LegError::Closed)) };
            if let Err(error) = upstream.send(&framed).await {
                return Ok(Err(error));
            }
        }
        if chunked {
            self.observe(Observation::Data(Direction::FromAgent, Bytes::from_static(LAST_CHUNK))).await?;
            let Some(upstream) = &mut self.upstream else { return Ok(Err(LegError::Closed)) };
            return Ok(upstream.send(LAST_CHUNK).await);
        }
        Ok(Ok(()))
    }

    /// Says natively that it came to nothing. The connection closes where part of the request is still to come.
    async fn fail(&mut self, denial: Denial, unread: bool, method: &str) -> Result<Next, Failure> {
        self.observe(Observation::Denied(denial.clone())).await?;
        self.send(&denial::problem(&denial, unread, method != "HEAD")).await?;
        Ok(if unread { Next::Shut } else { Next::Open })
    }

    async fn tell(&mut self, denial: &Denial, closes: bool, head: &RequestHead) -> Result<(), Failure> {
        self.send(&denial::problem(denial, closes, head.method != "HEAD")).await?;
        self.agent.shut().await;
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.agent.send(bytes).await.map_err(agent_failed)
    }

    async fn observe(&self, event: Observation) -> Result<(), Failure> {
        self.gate.observe(event).await.map_err(Failure::Denied)
    }

    fn agents_fault(&self, what: &str, why: &str) -> Denial {
        Denial {
            fault: Fault::Agent,
            what: what.to_owned(),
            rule: None,
            reason: why.to_owned(),
            remedy: None,
            retry: Retry::Never,
            session: self.session,
        }
    }

    fn upstream_fault(&self, why: &str) -> Denial {
        let what = format!("a request to {}", self.target.name);
        Denial { fault: Fault::Upstream, retry: Retry::Later, ..self.agents_fault(&what, why) }
    }
}

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The next request. The first has to come in time.
async fn next_head(agent: &mut Leg, within: Option<Duration>) -> Result<Option<RequestHead>, LegError> {
    match within {
        Some(patience) => {
            timeout(patience, agent.head(codec::request)).await.unwrap_or(Err(LegError::Stalled(patience)))
        }
        None => agent.head(codec::request).await,
    }
}

/// Writes a piece of a body, in a chunk of its own where it goes in chunks. An empty chunk would be the last.
fn put_piece(out: &mut BytesMut, piece: &[u8], chunked: bool) {
    if piece.is_empty() {
        return;
    }
    if chunked {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
    }
    out.extend_from_slice(piece);
    if chunked {
        out.extend_from_slice(b"\r\n");
    }
}

/// Whether a request without a body says so (RFC 9110, section 8.6).
fn has_content(method: &str) -> bool {
    matches!(method, "POST" | "PUT" | "PATCH")
}

/// The token that an agent shows in the place of a password.
fn presented(head: &RequestHead) -> Option<Secret> {
    let token = head.fields.get("authorization")?.strip_prefix(b"Bearer ")?;
    Some(Secret::new(token.to_vec()))
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

fn agent_failed(error: LegError) -> Failure {
    match error {
        LegError::Io(source) => Failure::Io { leg: "agent", source },
        other => Failure::Agent(other.to_string()),
    }
}
