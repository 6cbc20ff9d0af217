//! Live sessions: listing, killing, draining, and the keys that cancel them.
//!
//! Bounds: [`Limits`]; at the bound a new session is refused natively, as long as no more than [`REFUSALS_LIMIT`] are
//! refused at once, and a session that wants more memory than there is ends. A session leaves the registry when its
//! [`Enrolled`] is dropped, whatever way that comes about.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::capture::Origin;
use crate::clock::Timestamp;
use crate::identity::Level;
use crate::policy::{Denial, Fault, Retry};
use crate::protocol::Cancel;
use crate::record;
use crate::telemetry::SessionId;

/// How many of the last actions of a session are kept for an approver.
const RECENT_LIMIT: usize = 10;
/// Characters of each of them.
const RECENT_LENGTH: usize = 200;

/// Agents at once that are told natively that there is no room; of more the connection is reset.
pub(super) const REFUSALS_LIMIT: usize = 64;

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Sessions at once.
    pub sessions: usize,
    /// Sessions at once of one user id, so that one agent cannot use up the others' places.
    pub sessions_per_uid: usize,
    /// Bytes that all sessions may hold together, beyond the few that every session does.
    pub memory_bytes: usize,
    /// Bytes that the sessions of one user id may hold.
    pub memory_bytes_per_uid: usize,
    /// Seconds that an agent has for each part of its handshake: its first bytes, its start-up packet, its token.
    pub handshake_seconds: u64,
    /// Seconds after which a session ends whose agent does not read what waits for it.
    pub stalled_seconds: u64,
    /// Seconds that a connection to a target may take.
    pub dial_seconds: u64,
    /// Seconds, roughly, after which a target that says nothing, not even to the kernel, counts as gone.
    pub lost_seconds: u32,
    /// Seconds that sessions have to end when the daemon stops.
    pub drain_seconds: u64,
    /// Threads that serve sessions; 0 is one for every two processors.
    pub workers: usize,
}

/// Most threads that serve sessions.
const MOST_WORKERS: usize = 256;

impl Limits {
    /// What is wrong with them, a sentence each.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let bytes = [("memory_bytes", self.memory_bytes), ("memory_bytes_per_uid", self.memory_bytes_per_uid)];
        let counts = [("sessions", self.sessions), ("sessions_per_uid", self.sessions_per_uid)];
        let none = |(name, value)| (value == 0).then(|| format!("{name} = 0 would refuse every session"));
        let mut faults: Vec<String> = counts.into_iter().chain(bytes).filter_map(none).collect();
        let seconds = [
            ("handshake_seconds", self.handshake_seconds),
            ("stalled_seconds", self.stalled_seconds),
            ("dial_seconds", self.dial_seconds),
            ("lost_seconds", self.lost_seconds.into()),
        ];
        let no_time = |(name, value)| (value == 0).then(|| format!("{name} = 0 leaves no time at all"));
        faults.extend(seconds.into_iter().filter_map(no_time));
        if self.workers > MOST_WORKERS {
            faults.push(format!("workers = {} is more than the {MOST_WORKERS} that there can be", self.workers));
        }
        faults
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 10_000,
            sessions_per_uid: 2_000,
            memory_bytes: 1 << 30,
            memory_bytes_per_uid: 512 << 20,
            handshake_seconds: 30,
            stalled_seconds: 600,
            dial_seconds: 10,
            lost_seconds: 120,
            drain_seconds: 30,
            workers: 0,
        }
    }
}

/// One live session.
pub struct Live {
    /// Its id.
    pub id: SessionId,
    /// Target it leads to.
    pub target: Arc<str>,
    /// Who connected.
    pub origin: Origin,
    /// When it was captured.
    pub opened_at: Timestamp,
    /// What it has done.
    pub counters: Counters,
    identity: OnceLock<(Arc<str>, Level)>,
    recent: Mutex<VecDeque<Arc<str>>>,
    /// Bytes that it holds, which its user's and all sessions' have in them.
    held: AtomicUsize,
    user: Arc<User>,
    all: Arc<AtomicUsize>,
    /// Keys that cancel what it does.
    cancels: Mutex<Vec<Bytes>>,
    end: watch::Sender<Option<Denial>>,
    leave: watch::Sender<Option<Denial>>,
}

/// What the sessions of one user id hold together.
#[derive(Debug, Default)]
struct User {
    sessions: AtomicUsize,
    held: AtomicUsize,
}

/// What a session has done.
#[derive(Debug, Default)]
pub struct Counters {
    /// Commands judged.
    pub commands: AtomicU64,
    /// Commands denied.
    pub denied: AtomicU64,
    /// Commands held.
    pub held: AtomicU64,
    /// Values masked.
    pub masked: AtomicU64,
    /// Bytes from the agent.
    pub from_agent: AtomicU64,
    /// Bytes to the agent.
    pub to_agent: AtomicU64,
}

impl Counters {
    /// As they are now.
    #[must_use]
    pub fn read(&self) -> record::Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        record::Counters {
            commands: read(&self.commands),
            denied: read(&self.denied),
            held: read(&self.held),
            masked_cells: read(&self.masked),
            bytes_from_agent: read(&self.from_agent),
            bytes_to_agent: read(&self.to_agent),
        }
    }
}

/// A line of `interceptor sessions`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listed {
    /// Id.
    pub id: SessionId,
    /// Machine identity, once established.
    pub identity: Option<String>,
    /// How well the agent is held, once that is established.
    pub level: Option<Level>,
    /// Target.
    pub target: String,
    /// Process id.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// When it was captured.
    pub opened_at: Timestamp,
    /// Commands judged.
    pub commands: u64,
    /// Commands denied.
    pub denied: u64,
    /// Commands held.
    pub held: u64,
    /// Values masked.
    pub masked: u64,
    /// Bytes from the agent.
    pub from_agent: u64,
    /// Bytes to the agent.
    pub to_agent: u64,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("id", &self.id).field("target", &self.target).finish_non_exhaustive()
    }
}

impl Live {
    /// Names the session's identity, once.
    pub fn identify(&self, identity: &Arc<str>, level: Level) {
        let _already_named = self.identity.set((Arc::clone(identity), level));
    }

    /// The session's identity, once established.
    #[must_use]
    pub fn identity(&self) -> Option<&Arc<str>> {
        self.identity.get().map(|(name, _)| name)
    }

    /// Remembers an action for approvers.
    pub fn remember(&self, action: &Arc<str>) {
        let mut recent = self.recent.lock();
        if recent.len() >= RECENT_LIMIT {
            recent.pop_front();
        }
        // Short ones are shared; of long ones no more is held than is ever shown.
        recent.push_back(if action.len() <= RECENT_LENGTH { Arc::clone(action) } else { shortened(action).into() });
    }

    /// The session holds that many bytes now.
    ///
    /// # Errors
    /// A sentence, when it wants more than before, and its user's sessions, or all, hold too much then.
    pub fn hold(&self, bytes: usize, limits: &Limits) -> Result<(), String> {
        let before = self.held.swap(bytes, Ordering::Relaxed);
        let sum = |counter: &AtomicUsize| {
            // Wraps around where it is less: the sum is right all the same.
            let more = bytes.wrapping_sub(before);
            counter.fetch_add(more, Ordering::Relaxed).wrapping_add(more)
        };
        let (own, all) = (sum(&self.user.held), sum(&self.all));
        if bytes <= before {
            return Ok(());
        }
        if own > limits.memory_bytes_per_uid {
            return Err(format!("the sessions of uid {} hold {own} bytes, more than one user may", self.origin.uid));
        }
        if all > limits.memory_bytes {
            return Err(format!("all sessions hold {all} bytes, more than this host's limit"));
        }
        Ok(())
    }

    /// The last actions, oldest first.
    #[must_use]
    pub fn recent(&self) -> Vec<String> {
        self.recent.lock().iter().map(ToString::to_string).collect()
    }

    /// Ends the session; the driver tells the agent.
    pub fn end(&self, why: Denial) {
        self.end.send_if_modified(|end| end.is_none() && end.replace(why).is_none());
    }

    /// Why the session has to end, where it has to.
    pub fn end_reason(&self) -> Option<Denial> {
        self.end.borrow().clone()
    }

    /// Resolves when the session has to end.
    pub async fn ended(&self) -> Denial {
        first(&self.end).await
    }

    /// Resolves when the session has to end once it has done what it was asked for.
    pub async fn leaving(&self) -> Denial {
        first(&self.leave).await
    }

    fn whose(&self) -> Whose {
        (Arc::clone(&self.target), self.identity().cloned())
    }

    fn listed(&self) -> Listed {
        let counters = self.counters.read();
        Listed {
            id: self.id,
            identity: self.identity().map(ToString::to_string),
            level: self.identity.get().map(|(_, level)| *level),
            target: self.target.to_string(),
            pid: self.origin.pid,
            uid: self.origin.uid,
            opened_at: self.opened_at,
            commands: counters.commands,
            denied: counters.denied,
            held: counters.held,
            masked: counters.masked_cells,
            from_agent: counters.bytes_from_agent,
            to_agent: counters.bytes_to_agent,
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(RECENT_LENGTH).collect()
}

/// Every live session.
#[derive(Debug, Default)]
pub struct Registry {
    live: Mutex<Sessions>,
    cancels: Mutex<HashMap<Bytes, Cancellable>>,
    held: Arc<AtomicUsize>,
    refusals: Arc<AtomicUsize>,
    /// How often policies were replaced.
    policies: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Sessions {
    by_id: BTreeMap<SessionId, Arc<Live>>,
    users: HashMap<u32, Arc<User>>,
    /// What those did that are over.
    over: BTreeMap<Whose, Sums>,
}

/// Target, and identity where there was one.
type Whose = (Arc<str>, Option<Arc<str>>);

/// What sessions of one identity at one target have done since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// How many there were.
    pub sessions: u64,
    /// How many of them are live.
    pub live: u64,
    /// What they did.
    pub counters: record::Counters,
}

impl Sums {
    fn add(&mut self, live: &Live) {
        let more = live.counters.read();
        self.sessions += 1;
        self.counters.commands += more.commands;
        self.counters.denied += more.denied;
        self.counters.held += more.held;
        self.counters.masked_cells += more.masked_cells;
        self.counters.bytes_from_agent += more.bytes_from_agent;
        self.counters.bytes_to_agent += more.bytes_to_agent;
    }
}

#[derive(Debug)]
struct Cancellable {
    session: SessionId,
    cancel: Arc<dyn Cancel>,
}

/// A session's place in the registry; dropping it leaves.
#[derive(Debug)]
pub struct Enrolled {
    registry: Arc<Registry>,
    live: Arc<Live>,
}

impl Enrolled {
    /// The session.
    #[must_use]
    pub const fn live(&self) -> &Arc<Live> {
        &self.live
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        let _never_refused = self.live.hold(0, &Limits::default());
        let mut sessions = self.registry.live.lock();
        sessions.by_id.remove(&self.live.id);
        // With that in one step: no sum ever falls.
        sessions.over.entry(self.live.whose()).or_default().add(&self.live);
        if self.live.user.sessions.fetch_sub(1, Ordering::Relaxed) == 1 {
            sessions.users.remove(&self.live.origin.uid);
        }
        drop(sessions);
        let keys = std::mem::take(&mut *self.live.cancels.lock());
        let mut cancels = self.registry.cancels.lock();
        for key in keys {
            // By chance two sessions can have drawn the same short key.
            if cancels.get(&key).is_some_and(|cancellable| cancellable.session == self.live.id) {
                cancels.remove(&key);
            }
        }
    }
}

/// A place among those that are told natively that there is no room.
#[derive(Debug)]
pub(super) struct Refusing(Arc<AtomicUsize>);

impl Drop for Refusing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Registry {
    /// Adds a session.
    ///
    /// # Errors
    /// A sentence, when too many sessions are open.
    pub fn enroll(
        self: &Arc<Self>,
        limits: &Limits,
        id: SessionId,
        target: Arc<str>,
        origin: Origin,
        now: Timestamp,
    ) -> Result<Enrolled, String> {
        let mut sessions = self.live.lock();
        let open = sessions.by_id.len();
        if open >= limits.sessions {
            return Err(format!("{open} sessions are open, which is the limit of this host"));
        }
        let own = sessions.users.get(&origin.uid).map_or(0, |user| user.sessions.load(Ordering::Relaxed));
        if own >= limits.sessions_per_uid {
            return Err(format!("{own} sessions of uid {} are open, which is the limit for one user", origin.uid));
        }
        let user = Arc::clone(sessions.users.entry(origin.uid).or_default());
        user.sessions.fetch_add(1, Ordering::Relaxed);
        let session = Arc::new(Live {
            id,
            target,
            origin,
            opened_at: now,
            counters: Counters::default(),
            identity: OnceLock::new(),
            recent: Mutex::new(VecDeque::new()),
            held: AtomicUsize::new(0),
            user,
            all: Arc::clone(&self.held),
            cancels: Mutex::default(),
            end: watch::Sender::new(None),
            leave: watch::Sender::new(None),
        });
        sessions.by_id.insert(id, Arc::clone(&session));
        Ok(Enrolled { registry: Arc::clone(self), live: session })
    }

    /// Says that other policies are in force than before.
    pub fn replaced(&self) {
        self.policies.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// How often that was said.
    #[must_use]
    pub fn policies(&self) -> u64 {
        *self.policies.borrow()
    }

    /// Resolves once it was said more often than this.
    pub async fn replaced_since(&self, count: u64) {
        let mut policies = self.policies.subscribe();
        if policies.wait_for(|now| *now != count).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// A place to refuse an agent natively, where there is one.
    pub(super) fn refusing(&self) -> Option<Refusing> {
        let place = Refusing(Arc::clone(&self.refusals));
        (self.refusals.fetch_add(1, Ordering::Relaxed) < REFUSALS_LIMIT).then_some(place)
    }

    /// Bytes that all sessions hold, beyond the few that every session does.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Every live session, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        self.live.lock().by_id.values().map(|live| live.listed()).collect()
    }

    /// What sessions have done, those that are over and those that are live.
    #[must_use]
    pub fn sums(&self) -> BTreeMap<(Arc<str>, Option<Arc<str>>), Sums> {
        let sessions = self.live.lock();
        let mut sums = sessions.over.clone();
        for live in sessions.by_id.values() {
            let sum = sums.entry(live.whose()).or_default();
            sum.live += 1;
            // Whose it is may be known later: until then it is not counted, or that sum would fall.
            if live.identity().is_some() {
                sum.add(live);
            }
        }
        sums
    }

    /// How many live sessions there are of each level; those without have no identity yet.
    #[must_use]
    pub fn levels(&self) -> BTreeMap<Level, usize> {
        let mut levels = BTreeMap::new();
        for live in self.live.lock().by_id.values() {
            if let Some((_, level)) = live.identity.get() {
                *levels.entry(*level).or_default() += 1;
            }
        }
        levels
    }

    /// How many sessions are live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.lock().by_id.len()
    }

    /// Whether no session is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends one session; false where there is none of that id.
    pub fn kill(&self, id: SessionId, by: &str) -> bool {
        let found = self.live.lock().by_id.get(&id).cloned();
        found.is_some_and(|live| {
            live.end(Denial {
                fault: Fault::Operator,
                what: "the session".to_owned(),
                rule: None,
                reason: format!("it was ended by {by}"),
                remedy: None,
                retry: Retry::Later,
                session: id,
            });
            true
        })
    }

    /// Has every session end once it has done what it was asked for, because the daemon stops.
    pub fn drain(&self) {
        for live in self.all() {
            let why = stopping(live.id);
            live.leave.send_if_modified(|leave| leave.is_none() && leave.replace(why).is_none());
        }
    }

    /// Ends every session at once: the time to drain is up.
    pub fn end_all(&self) {
        for live in self.all() {
            live.end(stopping(live.id));
        }
    }

    fn all(&self) -> Vec<Arc<Live>> {
        self.live.lock().by_id.values().cloned().collect()
    }

    /// Makes a session cancellable by key.
    pub fn publish_cancel(&self, session: SessionId, key: Bytes, cancel: Arc<dyn Cancel>) {
        let Some(live) = self.live.lock().by_id.get(&session).cloned() else { return };
        live.cancels.lock().push(key.clone());
        self.cancels.lock().insert(key, Cancellable { session, cancel });
    }

    /// The session that a key cancels, with the identity that owns it.
    #[must_use]
    pub fn find_cancel(&self, key: &[u8]) -> Option<(Arc<Live>, Arc<dyn Cancel>)> {
        let (session, cancel) = {
            let cancels = self.cancels.lock();
            let found = cancels.get(key)?;
            (found.session, Arc::clone(&found.cancel))
        };
        Some((self.live.lock().by_id.get(&session).cloned()?, cancel))
    }
}

fn stopping(session: SessionId) -> Denial {
    Denial {
        fault: Fault::Interceptor,
        what: "the session".to_owned(),
        rule: None,
        reason: "interceptor is stopping".to_owned(),
        remedy: Some("connect again in a moment".to_owned()),
        retry: Retry::Later,
        session,
    }
}

/// Waits for the first value.
async fn first(sender: &watch::Sender<Option<Denial>>) -> Denial {
    let mut receiver = sender.subscribe();
    loop {
        if let Some(why) = receiver.borrow_and_update().clone() {
            return why;
        }
        if receiver.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(uid: u32) -> Origin {
        Origin {
            destination: "10.0.0.1:5432".parse().unwrap(),
            pid: 1,
            tid: 1,
            uid,
            gid: uid,
            cgroup: 1,
            current_cgroup: 1,
            start_boottime: 1,
            netns: 1,
            socket: 1,
            comm: "agent".into(),
        }
    }

    fn id(n: u128) -> SessionId {
        SessionId::from_bytes(n.to_be_bytes())
    }

    #[tokio::test]
    async fn whoever_waits_for_other_policies_learns_of_them_whenever_that_was() {
        let registry = Registry::default();
        let before = registry.policies();
        assert!(futures_util::FutureExt::now_or_never(registry.replaced_since(before)).is_none());
        registry.replaced();
        registry.replaced_since(before).await;
        assert_ne!(registry.policies(), before);
    }

    #[test]
    fn a_session_leaves_when_dropped_and_takes_its_cancel_key_along() {
        #[derive(Debug)]
        struct Nothing;
        impl Cancel for Nothing {
            fn cancel(&self) -> futures_util::future::BoxFuture<'_, std::io::Result<()>> {
                Box::pin(async { Ok(()) })
            }
        }
        let registry = Arc::new(Registry::default());
        let enrolled = registry.enroll(&Limits::default(), id(1), "t".into(), origin(1), Timestamp::default()).unwrap();
        registry.publish_cancel(id(1), Bytes::from_static(b"key"), Arc::new(Nothing));
        assert!(registry.find_cancel(b"key").is_some());
        assert!(registry.find_cancel(b"kez").is_none());
        drop(enrolled);
        assert!(registry.is_empty());
        assert!(registry.find_cancel(b"key").is_none());
    }

    #[test]
    fn limits_that_would_let_nobody_in_are_faults() {
        assert!(Limits::default().faults().is_empty());
        let wrong = Limits { sessions: 0, memory_bytes: 0, dial_seconds: 0, workers: 257, ..Limits::default() };
        let names = ["sessions = 0", "memory_bytes = 0", "dial_seconds = 0", "workers = 257"];
        let faults = wrong.faults();
        assert!(
            faults.iter().zip(names).all(|(fault, name)| fault.starts_with(name)) && faults.len() == 4,
            "{faults:?}"
        );
    }

    #[test]
    fn one_user_cannot_take_every_place() {
        let registry = Arc::new(Registry::default());
        let limits = Limits { sessions: 3, sessions_per_uid: 2, ..Limits::default() };
        let enroll = |n, uid| registry.enroll(&limits, id(n), "t".into(), origin(uid), Timestamp::default());
        let _first = enroll(1, 7).unwrap();
        let second = enroll(2, 7).unwrap();
        assert!(registry.levels().is_empty());
        second.live().identify(&"bot".into(), Level::Launched);
        assert_eq!(registry.levels().into_iter().collect::<Vec<_>>(), [(Level::Launched, 1)]);
        assert!(enroll(3, 7).unwrap_err().contains("uid 7"));
        let _other = enroll(4, 8).unwrap();
        assert!(enroll(5, 9).unwrap_err().contains("limit of this host"));
    }

    #[test]
    fn what_sessions_hold_is_bounded_and_given_back() {
        let registry = Arc::new(Registry::default());
        let limits = Limits { memory_bytes: 100, memory_bytes_per_uid: 60, ..Limits::default() };
        let enroll = |n, uid| registry.enroll(&limits, id(n), "t".into(), origin(uid), Timestamp::default()).unwrap();
        let (first, second, other) = (enroll(1, 7), enroll(2, 7), enroll(3, 8));
        first.live().hold(50, &limits).unwrap();
        assert!(second.live().hold(20, &limits).unwrap_err().contains("uid 7"));
        // Whoever holds less is never refused.
        first.live().hold(45, &limits).unwrap();
        drop(second);
        assert!(other.live().hold(59, &limits).unwrap_err().contains("this host"));
        assert_eq!(registry.held(), 45 + 59);
        drop((first, other));
        assert_eq!(registry.held(), 0);
        assert!(registry.live.lock().users.is_empty());
    }

    #[test]
    fn places_for_refusals_are_bounded_and_given_back() {
        let registry = Registry::default();
        let places: Vec<_> = (0..REFUSALS_LIMIT).map(|_| registry.refusing().unwrap()).collect();
        assert!(registry.refusing().is_none());
        drop(places);
        assert!(registry.refusing().is_some());
    }

    #[tokio::test]
    async fn a_killed_session_learns_why_once() {
        let registry = Arc::new(Registry::default());
        let enrolled = registry.enroll(&Limits::default(), id(1), "t".into(), origin(1), Timestamp::default()).unwrap();
        assert!(enrolled.live().end_reason().is_none());
        assert!(registry.kill(id(1), "alice"));
        assert!(enrolled.live().end_reason().unwrap().reason.contains("alice"));
        assert!(!registry.kill(id(2), "alice"));
        registry.drain();
        registry.end_all();
        assert!(enrolled.live().ended().await.reason.contains("alice"));
        assert!(enrolled.live().leaving().await.reason.contains("stopping"));
    }

    /// Whose a session is may be known late: it is counted once that is so, or when it has ended.
    #[test]
    fn no_sum_ever_falls() {
        let registry = Arc::new(Registry::default());
        let enroll = || {
            let id = SessionId::generate(Timestamp(0)).unwrap();
            registry.enroll(&Limits::default(), id, "db".into(), origin(1), Timestamp(0)).unwrap()
        };
        let (one, other) = (enroll(), enroll());
        one.live().counters.from_agent.fetch_add(7, Ordering::Relaxed);
        let (bot, nobody): (Whose, Whose) = (("db".into(), Some("bot".into())), ("db".into(), None));
        assert_eq!(registry.sums(), BTreeMap::from([(nobody.clone(), Sums { live: 2, ..Sums::default() })]));
        one.live().identify(bot.1.as_ref().unwrap(), Level::Adopted);
        let counters = record::Counters { bytes_from_agent: 7, ..record::Counters::default() };
        let known = Sums { sessions: 1, live: 1, counters };
        assert_eq!(registry.sums()[&bot], known);
        drop(one);
        assert_eq!(registry.sums()[&bot], Sums { live: 0, ..known });
        drop(other);
        assert_eq!(registry.sums()[&nobody], Sums { sessions: 1, ..Sums::default() });
    }
}
