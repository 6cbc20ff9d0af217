//! What the exchanges of one session share, one after the other or at once.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::split_host;
use super::upstream::Upstreams;
use crate::mask::Rules;
use crate::policy::{Command, Denial, Fault, Retry};
use crate::protocol::http::claims::{self, Claim, offers};
use crate::protocol::http::codec::{self, RequestHead};
use crate::protocol::http::content::Content;
use crate::protocol::http::dialect::{Asked, Meaning};
use crate::protocol::http::grpc::{Call, Called};
use crate::protocol::http::redact::Redaction;
use crate::protocol::http::route::Location;
use crate::protocol::http::scrub::{self, Spellings};
use crate::protocol::http::{Settings, action};
use crate::protocol::{Admitted, Conn, Failure, Gate, Observation, Patience, Target};
use crate::secret::Secret;
use crate::telemetry::SessionId;
use crate::tls;
use crate::tls::authority::Name;

/// Who the agent is, and what that means for its requests.
#[derive(Debug)]
pub(in crate::protocol) struct Who {
    pub(super) admitted: Admitted,
    /// How the credential may be written, where answers are looked through for it.
    pub(in crate::protocol) spellings: Option<Arc<Spellings>>,
}

/// One session.
pub(in crate::protocol) struct Served<'a> {
    pub(in crate::protocol) gate: &'a dyn Gate,
    pub(in crate::protocol) target: Arc<Target>,
    pub(super) settings: Arc<Settings>,
    pub(in crate::protocol) rules: Arc<Rules>,
    pub(super) patience: Patience,
    pub(super) upstreams: Upstreams,
    session: SessionId,
    who: OnceLock<Who>,
    /// The name that the agent has asked for in TLS.
    asked_name: Option<String>,
    /// A `Host` that was found to be the target's, as it stood: most requests of a session have the same.
    good_host: OnceLock<Bytes>,
    /// Names that say who asks, of which the recording says that they do not pass.
    claims: Mutex<BTreeSet<String>>,
    /// Bytes that exchanges hold together.
    held: AtomicUsize,
    end: watch::Sender<Option<Denial>>,
}

impl<'a> Served<'a> {
    /// The session of a connection, and its leg to the agent.
    pub(super) fn new(conn: Conn, gate: &'a dyn Gate) -> (Self, tls::Stream) {
        let Conn { agent, target, dial, rules, session, patience } = conn;
        let served = Self {
            gate,
            settings: target.http.clone().unwrap_or_default(),
            upstreams: Upstreams::new(dial, Arc::clone(&target), patience.stalled),
            target,
            rules,
            patience,
            session,
            who: OnceLock::new(),
            asked_name: agent.asked_name().map(str::to_owned),
            good_host: OnceLock::new(),
            claims: Mutex::default(),
            held: AtomicUsize::new(0),
            end: watch::Sender::new(None),
        };
        (served, agent)
    }

    /// Who the agent is, once that is established.
    pub(in crate::protocol) fn who(&self) -> Option<&Who> {
        self.who.get()
    }

    /// Establishes it, at the first request. Not to be called by two at once.
    pub(super) async fn attest(&self, head: &RequestHead) -> Result<(), Denial> {
        if self.who.get().is_some() {
            return Ok(());
        }
        let presented = self.gate.wants_token().then(|| presented(head)).flatten();
        let admitted = self.gate.attest(presented).await?;
        let secrets = [&admitted.login.password, &admitted.login.session].into_iter().flatten();
        let secrets: Vec<&Secret> = secrets.filter(|_| !self.settings.unscrubbed).collect();
        let spellings = self.settings.spellings.of(&secrets);
        if spellings.is_none() && secrets.iter().any(|secret| secret.expose().len() >= scrub::SHORTEST) {
            let why = "the credential is too long to be looked for in answers (http.scrub)";
            let what = format!("a session at {}", self.target.name);
            return Err(Denial { fault: Fault::Operator, ..self.agents_fault(&what, why) });
        }
        let _only_once = self.who.set(Who { admitted, spellings });
        Ok(())
    }

    /// Says to every exchange that the session is over.
    pub(super) fn end(&self, why: Denial) {
        self.end.send_replace(Some(why));
    }

    /// Whether it is over.
    pub(in crate::protocol) fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Resolves when it is over.
    pub(super) async fn ended(&self) -> Denial {
        let mut end = self.end.subscribe();
        loop {
            if let Some(why) = end.borrow_and_update().clone() {
                return why;
            }
            if end.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(in crate::protocol) async fn observe(&self, event: Observation) -> Result<(), Failure> {
        self.gate.observe(event).await.map_err(Failure::Denied)
    }

    /// Whether something is put in that logs in.
    fn logs_in(&self) -> bool {
        let shown = self.who().is_some_and(|who| who.admitted.login.password.is_some());
        shown || self.target.upstream_tls.has_certificate()
    }

    /// Takes out of a request what says who asks, and puts on record that it does not pass: once a session for each name that is
    /// known here.
    pub(super) async fn claimed(&self, head: &mut RequestHead, when: Claim) -> Result<(), Failure> {
        let Settings { claims, log_in, dialect, .. } = &*self.settings;
        if when == Claim::Judged && !dialect.judges_claims() {
            return Ok(());
        }
        let found = claims.asked(&mut head.fields, (log_in, self.logs_in()), |name| dialect.claim(name), when);
        if found.is_empty() {
            return Ok(());
        }
        let new = self.new_claims(found);
        if new.is_empty() {
            return Ok(());
        }
        let text = format!("{} is not told what the agent says of who asks: {}", self.target.name, new.join(", "));
        self.observe(Observation::Note(text)).await
    }

    /// Those that the recording does not yet tell of.
    fn new_claims(&self, found: Vec<String>) -> Vec<String> {
        let mut noted = self.claims.lock();
        found.into_iter().filter(|name| noted.insert(name.clone())).collect()
    }

    /// Whether the request means one thing, to whoever reads it.
    pub(super) fn checked(&self, head: &RequestHead) -> Result<Location, Denial> {
        // What stands behind it may be a secret.
        let path = head.target.split('?').next().unwrap_or_default();
        let refused = |why: &str| self.agents_fault(&format!("{} {path:.200}", head.method), why);
        if matches!(head.method.as_str(), "CONNECT" | "TRACE") {
            return Err(refused("this method is not passed on"));
        }
        if let Some(field) = head.fields.0.iter().find(|field| is_odd(&field.name)) {
            return Err(refused(&format!("a server could take the field `{:.100}` for another", field.name)));
        }
        if self.logs_in() && head.fields.all(offers::FIELD).any(offers::has_token) {
            return Err(refused("a token in `Sec-WebSocket-Protocol` is a log-in beside that of interceptor"));
        }
        // It would be judged with such a field, and reach the target without.
        if let Some(name) = head.fields.named_by_connection().next() {
            return Err(refused(&format!("`Connection` names {name:.100}, which is no field of one connection alone")));
        }
        if head.fields.get("expect").is_some() && !head.fields.lists("expect", "100-continue") {
            return Err(refused("what it expects is not understood"));
        }
        let host = head.fields.get("host").unwrap_or_default();
        if self.good_host.get().is_none_or(|good| good != host) {
            self.check_host(host).map_err(|why| refused(&why))?;
            let _the_first = self.good_host.set(Bytes::copy_from_slice(host));
        }
        let location = Location::read(&head.target).map_err(|why| refused(&why.to_string()))?;
        self.check_query(head, &location)?;
        self.settings.dialect.upgrade(head, &location).map_err(refused)?;
        Ok(location)
    }

    /// Whether nobody else is to be acted for by the log-in.
    pub(super) fn check_delegation(&self, head: &RequestHead) -> Result<(), Denial> {
        let Settings { claims, log_in, dialect, .. } = &*self.settings;
        let found = claims.delegation(&head.fields, log_in, |name| dialect.claim(name)).filter(|_| self.logs_in());
        let Some(name) = found else { return Ok(()) };
        let path = head.target.split('?').next().unwrap_or_default();
        let why = format!("`{name:.100}` asks to act for somebody else by the log-in of interceptor");
        let remedy = "leave it out; whoever runs interceptor can let it pass (http.claims.keep)";
        let what = format!("{} {path:.200}", head.method);
        Err(Denial { remedy: Some(remedy.to_owned()), ..self.agents_fault(&what, &why) })
    }

    /// Whether nothing in the query logs in beside what is put in.
    fn check_query(&self, head: &RequestHead, location: &Location) -> Result<(), Denial> {
        if location.query.is_empty() || !self.logs_in() {
            return Ok(());
        }
        let Some(name) = self.settings.claims.log_in_of(&location.query, &self.settings.log_in) else { return Ok(()) };
        // Its value is a secret.
        let what = format!("{} {:.200}", head.method, location.path());
        let why = format!("`{name:.100}` in its query is a log-in, or a name to act for, beside that of interceptor");
        let remedy = "leave it out; where it is neither, whoever runs interceptor can let it pass (http.claims.keep)";
        Err(Denial { remedy: Some(remedy.to_owned()), ..self.agents_fault(&what, &why) })
    }

    /// Whether that is the target, where the agent has connected to it.
    fn check_host(&self, host: &[u8]) -> Result<(), String> {
        let host = std::str::from_utf8(host).unwrap_or_default();
        let (name, port) = split_host(host).ok_or("`Host` is no host")?;
        if !self.settings.names.contains(&name) {
            return Err(format!("`Host: {host}` is no name of {}", self.target.name));
        }
        if let Some(asked) = &self.asked_name
            && Name::parse(asked).as_ref() != Some(&name)
        {
            return Err(format!("`Host: {host}` is another than the name in TLS, {asked}"));
        }
        let reached = self.upstreams.place();
        if port.is_some_and(|port| reached.rsplit(':').next() != Some(port)) {
            return Err(format!("`Host: {host}` names another port than the one that was connected to"));
        }
        Ok(())
    }

    pub(super) fn meaning(&self, head: &RequestHead, location: &Location, body: &action::Body) -> Meaning {
        let (target, routes) = (&self.target.name, &self.settings.routes);
        let called = self.called(head, location);
        let mut meaning = self.settings.dialect.meaning(&Asked { target, routes, head, location, body, called });
        self.bind(head, &mut meaning.command);
        meaning
    }

    /// Binds a command to secrets of its head, which stand in none.
    pub(in crate::protocol) fn bind(&self, head: &RequestHead, command: &mut Command) {
        action::bind(command, head, |bytes| self.gate.seal(bytes));
    }

    /// What recordings do not show of a request.
    pub(super) fn redaction<'h>(&'h self, head: &'h RequestHead, location: &Location) -> Redaction<'h> {
        let dialect = self.settings.dialect;
        Redaction {
            more: dialect.secrets(location),
            kind: head.fields.text("content-type"),
            call: self.call(head),
            dialect: Some(dialect),
        }
    }

    /// What a request calls, if anything.
    pub(super) fn called(&self, head: &RequestHead, location: &Location) -> Called<'_> {
        Called::of(self.settings.calls.as_ref(), head, location)
    }

    /// What a request calls, where the schema of the target has that.
    pub(super) fn call(&self, head: &RequestHead) -> Option<Call<'_>> {
        Call::of(self.settings.calls.as_ref(), head)
    }

    /// The command of a message on a WebSocket.
    pub(super) fn message(&self, head: &RequestHead, location: &Location, is_text: bool, text: &Bytes) -> Command {
        let mut command = action::message(&self.target.name, &self.settings.routes, (head, location), is_text, text);
        self.bind(head, &mut command);
        command
    }

    /// The command of a message of a call, of which this was read.
    pub(super) fn heard(
        &self,
        head: &RequestHead,
        location: &Location,
        bytes: &Bytes,
        read: Result<Content, String>,
    ) -> Command {
        let mut command = action::heard(&self.target.name, &self.settings.routes, (head, location), bytes, read);
        self.bind(head, &mut command);
        command
    }

    pub(in crate::protocol) fn agents_fault(&self, what: &str, why: &str) -> Denial {
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

    pub(in crate::protocol) fn upstream_fault(&self, why: &str) -> Denial {
        let what = format!("a request to {}", self.target.name);
        Denial { fault: Fault::Upstream, retry: Retry::Later, ..self.agents_fault(&what, why) }
    }

    /// A share of the session's memory, which is nothing to begin with.
    pub(in crate::protocol) fn holding(&self) -> Holding<'_> {
        Holding { gate: self.gate, all: &self.held, bytes: 0 }
    }
}

/// What one exchange holds.
pub(in crate::protocol) struct Holding<'a> {
    gate: &'a dyn Gate,
    all: &'a AtomicUsize,
    bytes: usize,
}

impl Holding<'_> {
    /// Holds so much from now on.
    pub(in crate::protocol) fn set(&mut self, bytes: usize) -> Result<(), Failure> {
        let total = if bytes >= self.bytes {
            let more = bytes - self.bytes;
            self.all.fetch_add(more, Ordering::Relaxed) + more
        } else {
            let less = self.bytes - bytes;
            self.all.fetch_sub(less, Ordering::Relaxed) - less
        };
        self.bytes = bytes;
        self.gate.holds(total).map_err(Failure::Overfull)
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // Less is never too much.
            let _fits = self.set(0);
        }
    }
}

const EXTRA: &str = "impersonate-extra-";

/// Whether the name of a field has other characters than all servers take alike: some make names of variables of them.
fn is_odd(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    // Extras are named by domains, in percent escapes (Kubernetes): what they say is judged as that, or refused as a claim.
    let is_extra = name.get(..EXTRA.len()).is_some_and(|start| start.eq_ignore_ascii_case(EXTRA));
    if is_extra || name.bytes().all(is_plain) {
        return false;
    }
    // Metadata of gRPC, and of objects, have dots.
    let folded = claims::field(name);
    !name.bytes().all(|byte| is_plain(byte) || byte == b'.')
        || codec::is_reserved(&folded)
        || folded.starts_with("impersonate-")
        || action::is_secret(&folded)
}

/// The token that an agent shows in the place of a password.
fn presented(head: &RequestHead) -> Option<Secret> {
    let token = head.fields.get("authorization")?.strip_prefix(b"Bearer ")?;
    Some(Secret::new(token.to_vec()))
}
