//! From the first byte of the agent to its first ReadyForQuery.
//!
//! In phases: what the agent wants (TLS, a cancel, a session); who it is; whether it may connect; the log-in at the
//! target; what has to be known of the database. Nothing reaches the target before the first three are done.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::super::ALPN;
use super::super::analyst::SessionAnalyst;
use super::super::cancel::{Handle, Key};
use super::super::catalog::{Names, SESSION_QUERY};
use super::super::codec::{self, Frontend, Malformed, Startup, frontend_limit, write};
use super::super::error::{self, Severity};
use super::super::login::{self, Bounds, LoggedIn, LoginError};
use super::super::machine::{Machine, refusal};
use super::super::startup::{Opening, Refused, TLS_HANDSHAKE, analyzed};
use super::catalogs::{FRESH, Library};
use super::legs::Legs;
use super::replication::Replication;
use super::session::Session;
use crate::policy::{Command, Denial, Facts, Fault, Retry};
use crate::protocol::{Admitted, Close, Conn, Failure, Gate, Observation, Patience, Target, Verdict};
use crate::secret::Secret;
use crate::telemetry::SessionId;
use crate::tls;

/// Where a connection has got to.
pub(super) enum Opened<'a> {
    /// Ready for commands.
    Session(Box<Session<'a>>),
    /// Ready for replication.
    Replication(Box<Replication>),
    /// It has ended already.
    Closed(Close),
}

/// The leg to the agent during the start-up.
struct Agent {
    stream: tls::Stream,
    input: BytesMut,
    /// How long it may take for each part of the start-up.
    patience: Duration,
}

/// Takes a connection up to its first ReadyForQuery.
pub(super) async fn open(conn: Conn, gate: &dyn Gate) -> Result<Opened<'_>, Failure> {
    let Conn { agent, target, dial, rules, session, patience } = conn;
    let mut agent = Agent::new(agent, patience.handshake);

    let wanted = match timeout(agent.patience, agent.wants(target.agent_tls.as_ref(), session)).await {
        Ok(wanted) => wanted?,
        Err(_elapsed) => return Err(agent.late("it sent no start-up packet in time").await),
    };
    let opening = match wanted {
        Wanted::Nothing => return Ok(Opened::Closed(Close::Agent)),
        Wanted::Cancel(key) => return cancel(gate, &key).await,
        Wanted::Session(opening) => opening,
    };

    let admitted = agent.attest(gate, &opening).await?;
    agent.may_connect(gate, &opening, &target.name, session).await?;

    let mut upstream = match log_in(&dial, &target, &admitted, &opening).await {
        Ok(upstream) => upstream,
        Err(failed) => return agent.no_target(gate, &failed, session).await,
    };
    let note = format!("logged in at the target by {}", upstream.mechanism);
    if let Err(denial) = gate.observe(Observation::Note(note)).await {
        return agent.refuse(denial, error::INTERNAL).await;
    }

    if opening.wants_replication() {
        let handle = cancel_handle(&dial, &target, &upstream);
        let key = agent.publish(gate, &opening, handle)?;
        agent.welcome(&upstream, &key).await?;
        let (agent, target) = ((agent.stream, agent.input), (upstream.stream, upstream.leftover));
        return Ok(Opened::Replication(Box::new(Replication { agent, target })));
    }

    let library = Library::open(Arc::clone(&dial), Arc::clone(&target), admitted.login, &opening.database);
    let known = async {
        let (catalog, version) = library.catalog(FRESH).await?;
        Ok::<_, String>(((catalog, Arc::clone(&library.shelf), version), session_names(&mut upstream).await?))
    };
    let (catalog, names) = match known.await {
        Ok(known) => known,
        Err(why) => {
            let remedy = "see that the credential may read the system catalog";
            let denial = refusal(session, "the database cannot be described", &why, remedy);
            let denial = Denial { fault: Fault::Upstream, retry: Retry::Later, ..denial };
            return agent.refuse(denial, error::NO_TARGET).await;
        }
    };
    let database = Arc::clone(&library.database);
    let analyst = SessionAnalyst::new(Arc::clone(&target.name), database, catalog, names, Arc::clone(&rules));

    let handle = cancel_handle(&dial, &target, &upstream);
    let waiting = Arc::clone(&handle.waiting);
    let key = agent.publish(gate, &opening, handle)?;
    agent.welcome(&upstream, &key).await?;

    let machine = Machine::new(session, rules);
    let legs =
        Legs::new(gate, (agent.stream, agent.input), (upstream.stream, upstream.leftover), machine, analyst, patience);
    Ok(Opened::Session(Box::new(Session { gate, legs, library, session, waiting })))
}

enum Wanted {
    /// It closed without a word: a health check.
    Nothing,
    Cancel(bytes::Bytes),
    Session(Opening),
}

/// Tells an agent that there is no room for its session. One that wants no session is told nothing.
pub(in super::super) async fn refuse(stream: tls::Stream, target: Arc<Target>, denial: Denial) {
    let mut agent = Agent::new(stream, Patience::default().handshake);
    if let Ok(Wanted::Session(_)) = agent.wants(target.agent_tls.as_ref(), denial.session).await {
        let _told: Result<(), Failure> = agent.refuse(denial, error::CROWDED).await;
    }
}

impl Agent {
    fn new(stream: tls::Stream, patience: Duration) -> Self {
        Self { stream, input: BytesMut::with_capacity(1024), patience }
    }

    /// Answers the requests for encryption, and reads what the agent came for.
    async fn wants(&mut self, tls: Option<&tls::Agents>, session: SessionId) -> Result<Wanted, Failure> {
        let (mut asked_tls, mut asked_gss) = (self.begins_with_tls(tls).await?, false);
        loop {
            if matches!(codec::startup(&self.input), Ok(None)) {
                if self.read().await? == 0 {
                    let silent = self.input.is_empty();
                    return if silent { Ok(Wanted::Nothing) } else { Err(agent_fault("it left within its start-up")) };
                }
                continue;
            }
            let (packet, length) = match codec::startup(&self.input) {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(malformed) => return Err(self.malformed(malformed).await),
            };
            match packet {
                Startup::Ssl if !asked_tls && !self.stream.is_tls() => {
                    asked_tls = true;
                    // What is buffered in clear behind the request would be taken for what was said inside (CVE-2021-23222).
                    if self.input.len() > length {
                        return Err(self.smuggled().await);
                    }
                    self.input.clear();
                    self.accept_tls(tls).await?;
                }
                Startup::GssEnc if !asked_gss => {
                    asked_gss = true;
                    if self.input.len() > length {
                        return Err(self.smuggled().await);
                    }
                    self.input.clear();
                    self.send(b"N").await?;
                }
                Startup::Ssl | Startup::GssEnc => return Err(agent_fault("it asks for encryption twice")),
                Startup::Cancel { process_id, secret } => {
                    return Ok(Wanted::Cancel(Key::published(process_id, secret)));
                }
                Startup::Open { version, parameters } => {
                    let read = Opening::read(version, parameters);
                    self.input.advance(length);
                    return match read {
                        Ok(opening) => Ok(Wanted::Session(opening)),
                        Err(Refused(state, text)) => {
                            let detail = format!("session: {session}");
                            self.fatal(state, &text, Some(&detail), None).await;
                            Err(Failure::Agent(text))
                        }
                    };
                }
            }
        }
    }

    /// Takes an agent that starts TLS without asking (PostgreSQL 17, chapter 53.2.11). It has to name the protocol inside
    /// (ALPN), so that a connection that was meant for another service is not taken for one that was meant for this one.
    async fn begins_with_tls(&mut self, tls: Option<&tls::Agents>) -> Result<bool, Failure> {
        let tls::Stream::Tcp(stream) = &self.stream else { return Ok(false) };
        let mut first = [0];
        let seen = stream.peek(&mut first).await.map_err(|source| Failure::Io { leg: "agent", source })?;
        if seen == 0 || first != [TLS_HANDSHAKE[0]] {
            return Ok(false);
        }
        let Some(agents) = tls else {
            return Err(agent_fault("it starts TLS, for which this target has no certificate"));
        };
        self.start_tls(agents).await?;
        if self.stream.alpn() != Some(ALPN) {
            return Err(agent_fault("it starts TLS without naming the protocol inside (ALPN)"));
        }
        Ok(true)
    }

    async fn accept_tls(&mut self, tls: Option<&tls::Agents>) -> Result<(), Failure> {
        let Some(agents) = tls else { return self.send(b"N").await };
        self.send(b"S").await?;
        self.start_tls(agents).await
    }

    async fn start_tls(&mut self, agents: &tls::Agents) -> Result<(), Failure> {
        // The stream is taken by value; what stands in its place meanwhile is never used.
        let (placeholder, _) = tokio::io::duplex(1);
        let plain = std::mem::replace(&mut self.stream, tls::Stream::Memory(placeholder));
        self.stream = tls::accept(plain, agents).await.map_err(Failure::Handshake)?;
        Ok(())
    }

    async fn late(&mut self, text: &str) -> Failure {
        self.fatal(error::LATE, &format!("interceptor: {text}"), None, None).await;
        agent_fault(text)
    }

    async fn malformed(&mut self, malformed: Malformed) -> Failure {
        self.fatal(error::PROTOCOL, &format!("invalid start-up packet: {malformed}"), None, None).await;
        Failure::Agent(malformed.to_string())
    }

    async fn smuggled(&mut self) -> Failure {
        let text = "received unencrypted data after a request for encryption";
        self.fatal(error::PROTOCOL, text, Some("This could be a bug in the client or evidence of an attack."), None)
            .await;
        Failure::Agent(text.into())
    }

    /// Finds out who the agent is, with a token where one is wanted.
    async fn attest(&mut self, gate: &dyn Gate, opening: &Opening) -> Result<Admitted, Failure> {
        let mut out = BytesMut::new();
        if opening.must_negotiate() {
            let options: Vec<_> = opening.options.iter().map(String::as_bytes).collect();
            write::negotiate(&mut out, opening.negotiated(), &options);
        }
        let mut presented = None;
        if gate.wants_token() {
            write::authentication(&mut out, CLEARTEXT_PASSWORD);
            self.send(&out).await?;
            presented = Some(match timeout(self.patience, self.password()).await {
                Ok(password) => password?,
                Err(_elapsed) => return Err(self.late("it sent no password in time").await),
            });
        } else if !out.is_empty() {
            self.send(&out).await?;
        }
        match gate.attest(presented).await {
            Ok(admitted) => Ok(admitted),
            Err(denial) => {
                let state = if denial.fault == Fault::Interceptor { error::INTERNAL } else { error::UNIDENTIFIED };
                self.refuse(denial, state).await
            }
        }
    }

    async fn password(&mut self) -> Result<Secret, Failure> {
        loop {
            if matches!(codec::frame(&self.input, frontend_limit), Ok(None)) {
                if self.read().await? == 0 {
                    return Err(agent_fault("it left when asked for a password"));
                }
                continue;
            }
            match codec::frame(&self.input, frontend_limit) {
                Ok(Some(frame)) => {
                    let length = frame.raw.len();
                    let secret = match Frontend::decode(frame) {
                        Ok(Frontend::Password([secret @ .., 0])) if !secret.contains(&0) => {
                            Secret::new(secret.to_vec())
                        }
                        _ => return Err(agent_fault("it does not answer the request for a password")),
                    };
                    // No copy of it stays in the buffer.
                    self.input.iter_mut().take(length).for_each(|byte| *byte = 0);
                    self.input.advance(length);
                    return Ok(secret);
                }
                Ok(None) => {}
                Err(malformed) => return Err(self.malformed(malformed).await),
            }
        }
    }

    /// Has the log-in itself judged, with the settings that come with it.
    async fn may_connect(
        &mut self,
        gate: &dyn Gate,
        opening: &Opening,
        target: &Arc<str>,
        session: SessionId,
    ) -> Result<(), Failure> {
        let (analysis, actions) = analyzed(opening.actions(target));
        let command = Command {
            analysis,
            statement: opening.statement().into(),
            parameters: Arc::from([]),
            actions,
            facts: Arc::new(Facts { has_where: true, statements: 1, ..Facts::default() }),
            in_transaction: false,
        };
        let verdict = match gate.judge(&command).await {
            Ok(Verdict::Permit(permit)) => Ok(permit),
            Ok(Verdict::Hold(held)) => gate.hold(&command, held, crate::protocol::Impact::default()).await,
            Ok(Verdict::Ended(denial)) | Err(denial) => Err(denial),
        };
        match verdict {
            Ok(permit) => {
                let (obligations, _recorded) = permit.spend();
                if opening.wants_replication() && !obligations.masked.is_empty() {
                    let why = "replication shows every change of every table, and this identity may not see all values";
                    let denial = refusal(session, "sql:replicate", why, "read the tables with SELECT");
                    let _recorded = gate.observe(Observation::Denied(denial.clone())).await;
                    return self.refuse(denial, error::DENIED).await;
                }
                Ok(())
            }
            Err(denial) => {
                let state = error::state_of(&denial);
                let _recorded = gate.observe(Observation::Denied(denial.clone())).await;
                self.refuse(denial, state).await
            }
        }
    }

    async fn no_target<T>(&mut self, gate: &dyn Gate, failed: &LoginError, session: SessionId) -> Result<T, Failure> {
        let complaint = failed.for_agent();
        let _recorded = gate.observe(Observation::Note(format!("no session at the target: {failed}"))).await;
        let detail = complaint.detail.unwrap_or_default();
        let detail = format!("{detail}{}session: {session}", if detail.is_empty() { "" } else { "; " });
        let message = format!("interceptor: {}", complaint.message);
        self.fatal(&complaint.sqlstate, &message, Some(&detail), complaint.hint.as_deref()).await;
        Err(Failure::Login(failed.to_string()))
    }

    async fn refuse<T>(&mut self, denial: Denial, state: &str) -> Result<T, Failure> {
        let mut out = BytesMut::new();
        error::put_denial(&mut out, Severity::Fatal, state, &denial);
        self.farewell(&out).await;
        Err(Failure::Denied(denial))
    }

    async fn fatal(&mut self, state: &str, message: &str, detail: Option<&str>, hint: Option<&str>) {
        let mut out = BytesMut::new();
        error::put(&mut out, Severity::Fatal, state, message, detail, hint);
        self.farewell(&out).await;
    }

    /// Best effort: the session has ended, whether the agent reads it or not.
    async fn farewell(&mut self, bytes: &[u8]) {
        let told = async {
            self.stream.write_all(bytes).await?;
            self.stream.shutdown().await
        };
        let _best_effort = timeout(super::FAREWELL_TIMEOUT, told).await;
    }

    /// Makes what the session does cancellable by a key of ours.
    fn publish(&self, gate: &dyn Gate, opening: &Opening, handle: Handle) -> Result<Key, Failure> {
        let key = Key::generate(opening.negotiated()).map_err(|source| Failure::Io { leg: "agent", source })?;
        gate.publish_cancel(Key::published(key.process_id, &key.secret), Arc::new(handle));
        Ok(key)
    }

    async fn welcome(&mut self, upstream: &LoggedIn, key: &Key) -> Result<(), Failure> {
        let mut out = BytesMut::with_capacity(1024);
        write::authentication(&mut out, AUTHENTICATED);
        for (name, value) in &upstream.parameters {
            write::parameter_status(&mut out, name.as_bytes(), value.as_bytes());
        }
        write::backend_key(&mut out, key.process_id, &key.secret);
        write::ready(&mut out, b'I');
        self.send(&out).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        let sent = timeout(self.patience, sent).await.map_err(|_| agent_fault("it does not read"))?;
        sent.map_err(|source| Failure::Io { leg: "agent", source })
    }

    async fn read(&mut self) -> Result<usize, Failure> {
        self.stream.read_buf(&mut self.input).await.map_err(|source| Failure::Io { leg: "agent", source })
    }
}

/// AuthenticationOk
const AUTHENTICATED: u32 = 0;
/// AuthenticationCleartextPassword
const CLEARTEXT_PASSWORD: u32 = 3;

fn agent_fault(text: &str) -> Failure {
    Failure::Agent(text.to_owned())
}

/// Passes a cancel request on, if the gate finds the session that it means. As at a server, nothing is answered.
async fn cancel<'a>(gate: &'a dyn Gate, key: &[u8]) -> Result<Opened<'a>, Failure> {
    let handle = gate.cancel(key).await.map_err(Failure::Denied)?;
    handle.cancel().await.map_err(|source| Failure::Io { leg: "target", source })?;
    Ok(Opened::Closed(Close::Cancel))
}

fn cancel_handle(
    dial: &Arc<dyn crate::protocol::Dial>,
    target: &Arc<crate::protocol::Target>,
    upstream: &LoggedIn,
) -> Handle {
    Handle {
        dial: Arc::clone(dial),
        target: Arc::clone(target),
        process_id: upstream.process_id,
        secret_key: upstream.secret_key,
        waiting: Arc::default(),
    }
}

async fn log_in(
    dial: &Arc<dyn crate::protocol::Dial>,
    target: &crate::protocol::Target,
    admitted: &Admitted,
    opening: &Opening,
) -> Result<LoggedIn, LoginError> {
    let leg = dial.dial().await?;
    login::login(leg, target, &admitted.login, &opening.forwarded()).await
}

pub(super) async fn session_names(upstream: &mut LoggedIn) -> Result<Names, String> {
    let rows = upstream.query(SESSION_QUERY, &Bounds::default()).await.map_err(|error| error.to_string())?;
    Names::from_rows(&rows).map_err(|error| error.to_string())
}
