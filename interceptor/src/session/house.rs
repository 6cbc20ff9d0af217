//! What all sessions share, and the life of a captured connection in named phases:
//! route, enroll, identify, confirm the protocol, serve, close.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use tokio::net::TcpStream;
use tokio::sync::SetOnce;

use super::gate::{SessionGate, approval_event, dial_failed};
use super::learned::Learned;
use super::rare::{Rare, Sort};
use super::registry::{Enrolled, Limits, Registry};
use super::target::{BoundTarget, Route, Routes};
use crate::approval;
use crate::capture::{Captured, Origin};
use crate::clock::Clock;
use crate::identity::{Attest as _, Attestor, Candidates, IdentityError};
use crate::mask::Rules;
use crate::policy::{DecisionCache, Denial, Fault, Policies, Retry};
use crate::protocol::{Close, Conn, Dial, Failure, Patience, Sniff, Target};
use crate::record::{self, Event, Outcome, Recorder};
use crate::telemetry::SessionId;
use crate::tls;

/// Bytes that are looked at to confirm the protocol.
const SNIFF_BYTES: usize = 64;
/// Pause before looking again at a peer that sent too little to tell.
const SNIFF_PAUSE: Duration = Duration::from_millis(5);
/// The pause grows up to this while nothing more comes.
const SNIFF_LONGEST_PAUSE: Duration = Duration::from_millis(320);
/// How long an agent may take to ask for the session that there is no room for.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(3);
/// Times that a target is asked whether it is there before it counts as gone; each takes a twelfth of the time that it has.
const KEEP_ALIVE: u32 = 6;
/// Most seconds that the kernel waits before it asks.
const KEEP_ALIVE_LONGEST: u32 = 32_767;

/// What all sessions share.
#[derive(Debug)]
pub struct House {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where everything is put on record.
    pub recorder: Recorder,
    /// Held commands.
    pub approvals: approval::Store,
    /// Live sessions.
    pub registry: Arc<Registry>,
    /// Decisions that are known already.
    pub decisions: DecisionCache,
    /// Bounds.
    pub limits: Limits,
    /// What a reload replaces.
    pub loaded: ArcSwap<Loaded>,
    /// Address to target; follows name resolution.
    pub routes: ArcSwap<Routes>,
    /// Addresses that agents were told for names of targets.
    pub learned: Learned,
    /// What happens seldom, and is counted.
    pub rare: Rare,
    /// Held while names are looked up, so that an older answer never replaces a newer one.
    pub resolving: tokio::sync::Mutex<()>,
}

/// What a reload replaces, all at once.
#[derive(Debug)]
pub struct Loaded {
    /// Who is who.
    pub attestor: Attestor,
    /// Policies.
    pub policies: Arc<Policies>,
    /// Masking rules.
    pub rules: Arc<Rules>,
    /// Targets.
    pub targets: Vec<Arc<BoundTarget>>,
    /// The host CA, where there is one.
    pub authority: Option<Arc<tls::authority::Authority>>,
}

impl House {
    /// The attestor in force now.
    pub(super) fn attestor(&self) -> Attestor {
        self.loaded.load().attestor.clone()
    }

    /// Looks host names up again.
    pub async fn resolve(&self) {
        let _alone = self.resolving.lock().await;
        let targets = self.loaded.load().targets.clone();
        let before = self.routes.load_full();
        self.routes.store(Arc::new(Routes::resolve(&targets, &before).await));
    }

    /// Serves one captured connection to its end.
    pub async fn serve(self: Arc<Self>, captured: Captured) {
        let now = self.clock.now();
        let Ok(id) = SessionId::generate(now) else {
            // Without randomness there is no id, hence no record, hence no session.
            tracing::error!("no randomness for a session id; the connection is closed");
            reset(&captured.stream);
            return;
        };
        let Captured { stream, origin, own_address } = captured;
        let routed = if own_address { Err(elsewhere(origin.destination)) } else { self.route(origin.destination) };
        let target = routed.as_ref().ok().map(|(target, _)| Arc::clone(&target.name));
        let ((target, view), enrolled) = match self.admit(id, &origin, routed) {
            Ok(admitted) => admitted,
            Err(Turned { denial, served }) => {
                Box::pin(self.refuse(id, &origin, target, denial.clone())).await;
                match served.and_then(|served| Some((served, self.registry.refusing()?))) {
                    Some(((target, view), _place)) => Box::pin(tell(stream, &target, view, denial)).await,
                    None => reset(&stream),
                }
                return;
            }
        };
        // What is over soon is boxed: a session lasts, and holds the memory of all that it waits for in place.
        let candidates = Box::pin(self.attestor().candidates(&origin)).await;
        let opened = Event::SessionOpened {
            identity: candidates.as_ref().ok().and_then(only_name),
            origin: recorded_origin(&origin),
            facts: candidates.as_ref().ok().map(|found| found.facts().clone()),
            target: Some(Arc::clone(&target.name)),
            protocol: Some(target.registration.name.to_owned()),
        };
        if let Err(error) = Box::pin(self.recorder.append(id, opened)).await {
            tracing::error!(session = %id, %error, "not recorded, so not served");
            reset(&stream);
            return;
        }
        let ended = self.run(stream, &enrolled, target, view, candidates).await;
        Box::pin(self.close(&enrolled, ended)).await;
    }

    /// Removes what nobody answered, and records it.
    pub async fn expire_approvals(&self) {
        for request in self.approvals.expire() {
            if matches!(request.state, approval::State::Waiting) {
                self.rare.count(Sort::Approval, "timeout", 1);
            }
            let event = approval_event(&request, None, Outcome::Timeout, None);
            if let Err(error) = self.recorder.append(request.session, event).await {
                tracing::error!(request = %request.id, %error, "a time-out is not on record");
            }
        }
    }

    /// Puts a human's answer on record, then lets it take effect.
    ///
    /// # Errors
    /// A sentence for the human.
    pub async fn answer(
        &self,
        id: approval::RequestId,
        approve: bool,
        answer: approval::Answer,
    ) -> Result<approval::Request, String> {
        let request = self.approvals.may_answer(id, &answer.approver).map_err(|error| error.to_string())?;
        let outcome = if approve { Outcome::Approve } else { Outcome::Deny };
        let event = approval_event(&request, Some(&answer.approver), outcome, answer.reason.clone());
        let recorded = self.recorder.append(request.session, event).await;
        recorded.map_err(|error| format!("the answer does not count, because it cannot be recorded: {error}"))?;
        self.rare.count(Sort::Approval, if approve { "approved" } else { "refused" }, 1);
        self.approvals.answer(id, approve, answer).map_err(|error| error.to_string())
    }

    fn route(&self, destination: SocketAddr) -> Result<Served, String> {
        match self.routes.load().find(destination) {
            Some(Route::To(bound, target)) => Ok((Arc::clone(bound), Arc::clone(target))),
            Some(Route::Ambiguous(names)) => {
                Err(format!("{destination} belongs to several targets: {}", names.join(", ")))
            }
            None => self.learned_route(destination),
        }
    }

    /// Where an address leads that only agents were told, for the name of a target.
    fn learned_route(&self, destination: SocketAddr) -> Result<Served, String> {
        let names = self.learned.names(destination.ip(), self.clock.monotonic());
        let loaded = self.loaded.load();
        let of_target = |target: &Arc<BoundTarget>| {
            let view = names.iter().find_map(|name| target.view(name, destination.port()))?;
            Some((Arc::clone(target), view))
        };
        let mut found = loaded.targets.iter().filter_map(of_target);
        match (found.next(), found.next()) {
            (Some(served), None) => Ok(served),
            (Some((one, _)), Some((other, _))) => {
                Err(format!("{destination} belongs to several targets: {}, {}", one.name, other.name))
            }
            (None, _) => Err(format!("no target covers {destination}")),
        }
    }

    fn admit(
        &self,
        id: SessionId,
        origin: &Origin,
        routed: Result<Served, String>,
    ) -> Result<(Served, Enrolled), Turned> {
        let refused = |fault, reason| Denial {
            fault,
            what: format!("a connection to {}", origin.destination),
            rule: None,
            reason,
            remedy: None,
            retry: Retry::Later,
            session: id,
        };
        let (target, view) = routed.map_err(|reason| Turned { denial: refused(Fault::Agent, reason), served: None })?;
        let name = Arc::clone(&target.name);
        match self.registry.enroll(&self.limits, id, name, origin.clone(), self.clock.now()) {
            Ok(enrolled) => Ok(((target, view), enrolled)),
            Err(reason) => Err(Turned { denial: refused(Fault::Interceptor, reason), served: Some((target, view)) }),
        }
    }

    /// A refusal before any protocol: the record says it, whether the agent can be told or not.
    async fn refuse(&self, id: SessionId, origin: &Origin, target: Option<Arc<str>>, denial: Denial) {
        tracing::warn!(session = %id, pid = origin.pid, uid = origin.uid, %denial, "refused");
        self.rare.count(Sort::Refused, denial.fault.as_str(), 1);
        let opened = Event::SessionOpened {
            identity: None,
            origin: recorded_origin(origin),
            facts: None,
            target,
            protocol: None,
        };
        let closed = Event::SessionClosed { reason: denial.to_string(), counters: record::Counters::default() };
        for event in [opened, Event::Refused { denial }, closed] {
            if let Err(error) = self.recorder.append(id, event).await {
                tracing::error!(session = %id, %error, "a refusal is not on record");
            }
        }
    }

    async fn run(
        self: &Arc<Self>,
        stream: TcpStream,
        enrolled: &Enrolled,
        target: Arc<BoundTarget>,
        view: Arc<Target>,
        candidates: Result<Candidates, IdentityError>,
    ) -> Result<Close, Failure> {
        let broke = |source| Failure::Io { leg: "agent", source };
        stream.set_nodelay(true).map_err(broke)?;
        let protocol = target.registration.protocol;
        let patience = Duration::from_secs(self.limits.handshake_seconds);
        let confirmed = tokio::time::timeout(patience, sniff(&stream, protocol)).await;
        match confirmed {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => {
                let what = format!("what the agent sends is not {}", target.registration.name);
                return Err(Failure::Agent(what));
            }
            Ok(Err(error)) => return Err(broke(error)),
            Err(_elapsed) => return Err(Failure::Agent(format!("the agent sent nothing for {patience:?}"))),
        }
        let live = enrolled.live();
        let dial = Tcp {
            destination: live.origin.destination,
            patience: Duration::from_secs(self.limits.dial_seconds),
            lost_seconds: self.limits.lost_seconds,
        };
        let rules = Arc::clone(&self.loaded.load().rules);
        let conn = Conn {
            agent: tls::Stream::Tcp(stream),
            target: view,
            dial: Arc::new(dial),
            rules: Arc::clone(&rules),
            session: live.id,
            patience: Patience { handshake: patience, stalled: Duration::from_secs(self.limits.stalled_seconds) },
        };
        let gate = SessionGate {
            house: Arc::clone(self),
            live: Arc::clone(live),
            target,
            candidates,
            rules,
            attested: SetOnce::new(),
            lease_ends: SetOnce::new(),
        };
        protocol.serve(conn, &gate).await
    }

    async fn close(&self, enrolled: &Enrolled, ended: Result<Close, Failure>) {
        let live = enrolled.live();
        let reason = match &ended {
            Ok(Close::Agent) => "the agent left".to_owned(),
            Ok(Close::Upstream) => "the target closed".to_owned(),
            Ok(Close::Ended) => "ended by interceptor".to_owned(),
            Ok(Close::Cancel) => "a cancel request".to_owned(),
            Err(failure) => failure.to_string(),
        };
        let counters = live.counters.read();
        if let Err(Failure::Handshake(error)) = &ended {
            self.no_tls(live.id, &live.target, error).await;
        }
        match &ended {
            Ok(_) => tracing::info!(session = %live.id, %reason, "closed"),
            Err(_) => tracing::warn!(session = %live.id, %reason, "closed"),
        }
        if let Err(error) = self.recorder.append(live.id, Event::SessionClosed { reason, counters }).await {
            tracing::error!(session = %live.id, %error, "the end of a session is not on record");
        }
    }

    /// TLS that did not come about, as an event of its own: an agent that asks for another target than the one it went to,
    /// or one that does not trust what it is shown, is not to be looked for among closed sessions.
    async fn no_tls(&self, id: SessionId, target: &str, error: &tls::HandshakeError) {
        use tls::HandshakeError as No;
        let (fault, remedy) = match error {
            No::WrongName { .. } => {
                (Fault::Agent, "a name that agents use for this target belongs into tls.agent_names")
            }
            No::Distrusted { .. } => (
                Fault::Operator,
                "`interceptor ca install`, or agents that are launched; where the program has pinned a certificate, give \
                 the target one that it accepts (tls.agent_cert)",
            ),
            No::Authority(_) => (Fault::Operator, "`interceptor ca show` says what the host CA may attest to"),
            _ => return,
        };
        let denial = Denial {
            fault,
            what: format!("TLS at {target}"),
            rule: None,
            reason: error.to_string(),
            remedy: Some(remedy.to_owned()),
            retry: Retry::Never,
            session: id,
        };
        tracing::error!(session = %id, %target, %error, remedy, "an agent has no TLS");
        self.rare.count(Sort::Refused, "tls", 1);
        if let Err(error) = self.recorder.append(id, Event::Refused { denial }).await {
            tracing::error!(session = %id, %error, "a refusal is not on record");
        }
    }
}

/// Why an address leads to no target, where it is one of the agent's own network namespace: the daemon would reach whoever
/// has it here.
fn elsewhere(destination: SocketAddr) -> String {
    format!("{destination} is an address of the agent's own network namespace, and targets are reached from the host's")
}

/// What a destination leads to.
type Served = (Arc<BoundTarget>, Arc<Target>);

/// An agent that is turned away, and what it came for, where that is known.
struct Turned {
    denial: Denial,
    served: Option<Served>,
}

/// Tells an agent that there is no room for its session, as its protocol says that. One that is slow to ask is reset.
async fn tell(stream: TcpStream, target: &BoundTarget, view: Arc<Target>, denial: Denial) {
    let told = target.registration.protocol.refuse(tls::Stream::Tcp(stream), view, denial);
    let _bounded = tokio::time::timeout(REFUSAL_PATIENCE, told).await;
}

/// Whether the first bytes are the protocol's. Looks without consuming.
async fn sniff(stream: &TcpStream, protocol: &dyn crate::protocol::Protocol) -> io::Result<bool> {
    let mut first = [0u8; SNIFF_BYTES];
    let (mut seen, mut pause) = (0, SNIFF_PAUSE);
    loop {
        let length = stream.peek(&mut first).await?;
        let bytes = first.get(..length).unwrap_or_default();
        match protocol.sniff(bytes) {
            Sniff::Match | Sniff::ServerFirst => return Ok(true),
            Sniff::Mismatch => return Ok(false),
            Sniff::NeedMore if length == 0 || length == SNIFF_BYTES => return Ok(false),
            // `peek` returns at once while bytes wait: pause, so that a slow peer costs no processor time.
            Sniff::NeedMore => {
                pause = if seen == length { (pause * 2).min(SNIFF_LONGEST_PAUSE) } else { SNIFF_PAUSE };
                tokio::time::sleep(pause).await;
            }
        }
        seen = length;
    }
}

/// Dials the very address that the agent wanted: what was judged is what is reached.
#[derive(Debug)]
pub(super) struct Tcp {
    pub(super) destination: SocketAddr,
    pub(super) patience: Duration,
    /// As [`super::registry::Limits::lost_seconds`] has it.
    pub(super) lost_seconds: u32,
}

impl Tcp {
    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.destination.ip().to_canonical(), self.destination.port())
    }
}

impl Dial for Tcp {
    fn dial(&self) -> BoxFuture<'_, io::Result<tls::Stream>> {
        Box::pin(async {
            let address = self.address();
            let connected = tokio::time::timeout(self.patience, TcpStream::connect(address)).await;
            let stream = connected.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
            let stream = stream.map_err(|error| dial_failed(&address.to_string(), &error))?;
            stream.set_nodelay(true)?;
            keep_alive(&stream, self.lost_seconds)?;
            Ok(tls::Stream::Tcp(stream))
        })
    }

    fn place(&self) -> String {
        self.address().to_string()
    }
}

/// Has the kernel find out when a target is gone without a word, so that its sessions end. An agent is on this host: its
/// end is always heard of.
fn keep_alive(stream: &TcpStream, seconds: u32) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    let within = |seconds: u32| seconds.clamp(1, KEEP_ALIVE_LONGEST);
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &within(seconds / 2))?;
    setsockopt(stream, sockopt::TcpKeepInterval, &within(seconds / (2 * KEEP_ALIVE)))?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEP_ALIVE)?;
    Ok(())
}

/// The agent that a process can only be, as far as its facts say.
fn only_name(candidates: &Candidates) -> Option<Arc<str>> {
    let mut names = candidates.names();
    let first = names.next()?;
    names.next().is_none().then(|| first.into())
}

/// Makes the close a reset, so that the agent does not wait for an answer that never comes.
fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "the connection is closed without a reset");
    }
}

fn recorded_origin(origin: &Origin) -> record::Origin {
    record::Origin {
        destination: origin.destination,
        pid: origin.pid,
        tid: origin.tid,
        uid: origin.uid,
        gid: origin.gid,
        cgroup: origin.cgroup,
        current_cgroup: origin.current_cgroup,
        netns: origin.netns,
        socket: origin.socket,
        comm: origin.comm.clone(),
    }
}
