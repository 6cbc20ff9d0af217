//! The attestor: facts, then candidates, then tokens, then exactly one identity or a refusal.
//!
//! Order of decision: agents whose `match` holds for the process are candidates, in the order of the configuration.
//! Every candidate's token is fetched and verified; a candidate whose token holds is a match. One match is the
//! identity; two are an operator's error; none is a refusal that says what each candidate's token lacked. A process
//! that holds a valid token of an agent that it is not is refused as that: [`Refusal::ForeignToken`].

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use super::config::{AgentConfig, ConfigError, IssuerConfig, Source, validate};
use super::error::{IdentityError, Refusal};
use super::facts::{self, FactsError, Hasher, Process};
use super::level::{Level, Registry};
use super::source::{self, SourceError};
use super::token::{self, Issuer, TokenError};
use super::{Attested, ProcessFacts, explain};
use crate::capture::{Origin, cgroup};
use crate::clock::Clock;
use crate::secret::Secret;

/// Reads of processes and token files in flight; more wait, and are refused after [`WAIT_TIME_MAX`].
const READS_MAX: usize = 16;
/// Longest that a read may wait for its turn: a storm of connections delays others, and refuses none that it need not.
const WAIT_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest that one such read may take. A file system that hangs keeps its slot, but not the connection.
const READ_TIME_MAX: Duration = Duration::from_secs(8);
/// Most agents whose tokens are tried on a process that is none of them.
const FOREIGN_MAX: usize = 32;

/// Turns a cgroup v2 id into its path below the mount: `capture::cgroup::path` in the daemon.
pub type CgroupPath = Arc<dyn Fn(u64) -> io::Result<String> + Send + Sync>;

/// Gives processes their identity. [`Attestor`] in the daemon; sessions are tested with their own.
pub trait Attest: fmt::Debug + Send + Sync {
    /// The facts of the process that made this connection, and the agents that it may be.
    ///
    /// No agent at all is not an error yet: [`Attest::attest`] refuses it, after it looked for a stolen token.
    fn candidates<'a>(&'a self, origin: &'a Origin) -> BoxFuture<'a, Result<Candidates, IdentityError>>;

    /// The identity, from the tokens of the candidates. `presented` is the password of the connection, if there is one.
    fn attest<'a>(
        &'a self,
        candidates: &'a Candidates,
        presented: Option<&'a Secret>,
    ) -> BoxFuture<'a, Result<Attested, IdentityError>>;

    /// The same identity from a token that was rotated since; an error when the agent's source holds none that is valid.
    /// A token that came with the connection cannot be had again: its session ends with it.
    fn refresh<'a>(
        &'a self,
        candidates: &'a Candidates,
        attested: &'a Attested,
    ) -> BoxFuture<'a, Result<Attested, IdentityError>>;
}

/// A process, its facts, and the agents that it may be. Keep it as long as the session: it pins the process.
#[derive(Clone, Debug)]
pub struct Candidates {
    process: Option<Arc<Process>>,
    facts: ProcessFacts,
    agents: Vec<Arc<AgentConfig>>,
    wants_token: bool,
}

impl Candidates {
    /// Candidates of no real process, for tests of sessions with their own [`Attest`].
    #[must_use]
    pub const fn fixture(facts: ProcessFacts, wants_token: bool) -> Self {
        Self { process: None, facts, agents: Vec::new(), wants_token }
    }

    /// What is known of the process.
    #[must_use]
    pub const fn facts(&self) -> &ProcessFacts {
        &self.facts
    }

    /// Names of the agents that it may be.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.agents.iter().map(|agent| agent.name.as_str())
    }

    /// Whether the driver must ask for a password before [`Attest::attest`]: a candidate takes its token from the
    /// connection, or no agent matches and the password may be a stolen token.
    #[must_use]
    pub const fn wants_token(&self) -> bool {
        self.wants_token
    }
}

/// The attestor of the daemon.
#[derive(Clone)]
pub struct Attestor {
    inner: Arc<Inner>,
}

struct Inner {
    agents: Vec<Arc<AgentConfig>>,
    issuers: Vec<Arc<Issuer>>,
    path_of: CgroupPath,
    registry: Registry,
    hasher: Hasher,
    reads: Arc<Semaphore>,
}

impl fmt::Debug for Attestor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.inner.agents.iter().map(|agent| agent.name.as_str()).collect();
        f.debug_struct("Attestor").field("agents", &names).finish_non_exhaustive()
    }
}

impl Attestor {
    /// An attestor for these agents. No key is fetched yet: see [`Attestor::warm`].
    ///
    /// # Errors
    /// Every fault of the configuration.
    pub fn new(
        issuers: Vec<IssuerConfig>,
        agents: Vec<AgentConfig>,
        (path_of, registry): (CgroupPath, Registry),
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Vec<ConfigError>> {
        let mut faults = validate(&issuers, &agents);
        let mut ready = Vec::new();
        for config in issuers {
            let at = format!("[[issuer]] {}", config.name);
            match Issuer::new(config, Arc::clone(&clock)) {
                Ok(issuer) => ready.push(Arc::new(issuer)),
                Err(error) => faults.push(ConfigError { at, message: error.to_string() }),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let agents = agents.into_iter().map(Arc::new).collect();
        let reads = Arc::new(Semaphore::new(READS_MAX));
        Ok(Self {
            inner: Arc::new(Inner { agents, issuers: ready, path_of, registry, hasher: Hasher::new(clock), reads }),
        })
    }

    /// Takes over the keys that an earlier configuration has fetched.
    pub fn adopt(&self, before: &Self) {
        for issuer in &self.inner.issuers {
            if let Some(known) = before.inner.issuers.iter().find(|known| known.name() == issuer.name()) {
                issuer.keys().adopt(known.keys());
            }
        }
    }

    /// Fetches every issuer's keys, and gives the issuers whose keys could not be had, with why: a warning at start.
    pub async fn warm(&self) -> Vec<(String, String)> {
        let mut failed = Vec::new();
        for issuer in &self.inner.issuers {
            if let Err(error) = issuer.keys().warm().await {
                failed.push((issuer.name().to_owned(), error));
            }
        }
        failed
    }

    /// What identity a running process would get, and why, or why not.
    ///
    /// # Errors
    /// When the process cannot be read.
    pub async fn explain(&self, pid: u32) -> Result<explain::WhoAmI, IdentityError> {
        let inner = Arc::clone(&self.inner);
        let (process, facts) = self
            .blocking(move || {
                let process = Process::open(pid)?;
                let ids = process.effective_ids()?;
                let cgroup = process.current_cgroup()?;
                let id = cgroup::cgroup_id(&cgroup).unwrap_or_default();
                let start = inner.registry.start((id, &cgroup));
                let facts = facts::complete(&process, ids, (cgroup, &start), &inner.hasher, &|_| true)?;
                Ok::<_, FactsError>((process, facts))
            })
            .await?
            .map_err(|error| process_refusal(&error))?;
        let candidates = self.matching(process, facts);
        let mut views = Vec::new();
        for agent in &self.inner.agents {
            let criteria = explain::criteria(&agent.matches, &candidates.facts);
            let token = match &agent.token.from {
                Source::Connection => None,
                _ => Some(self.try_agent(agent, &candidates, None).await.map(|_| ())),
            };
            views.push(explain::AgentView::of(agent, criteria, token));
        }
        let outcome = if candidates.wants_token() && !candidates.agents.is_empty() {
            explain::Outcome::depends(&candidates)
        } else {
            explain::Outcome::of(self.attest_now(&candidates, None).await)
        };
        Ok(explain::WhoAmI::new(&candidates.facts, views, outcome))
    }

    async fn candidates_of(&self, origin: &Origin) -> Result<Candidates, IdentityError> {
        let (inner, origin) = (Arc::clone(&self.inner), origin.clone());
        let gathered = self.blocking(move || {
            let wants = |facts: &ProcessFacts| inner.agents.iter().any(|agent| explain::only_hash_left(agent, facts));
            facts::gather(&origin, (&*inner.path_of, &inner.registry), &inner.hasher, &wants)
        });
        let (process, facts) = gathered.await?.map_err(|error| process_refusal(&error))?;
        Ok(self.matching(process, facts))
    }

    fn matching(&self, process: Process, facts: ProcessFacts) -> Candidates {
        let matches = |agent: &&Arc<AgentConfig>| explain::criteria(&agent.matches, &facts).iter().all(|c| c.holds);
        let agents: Vec<_> = self.inner.agents.iter().filter(matches).cloned().collect();
        let asked = if agents.is_empty() { &self.inner.agents } else { &agents };
        let wants_token = asked.iter().any(|agent| agent.token.from == Source::Connection);
        Candidates { process: Some(Arc::new(process)), facts, agents, wants_token }
    }

    async fn attest_now(&self, candidates: &Candidates, presented: Option<&Secret>) -> Result<Attested, IdentityError> {
        let mut matched = Vec::new();
        let mut failed = Vec::new();
        let guarantee = &candidates.facts.guarantee;
        for agent in &candidates.agents {
            if guarantee.level == Level::Privileged && !agent.allow_privileged {
                failed.push((agent, Failure::Privileged(guarantee.lacks.join(", "))));
                continue;
            }
            match self.try_agent(agent, candidates, presented).await {
                Ok(attested) => matched.push(attested),
                Err(failure) => failed.push((agent, failure)),
            }
        }
        let mut matched = matched.into_iter();
        let result = match (matched.next(), matched.next()) {
            (Some(one), None) => Ok(one),
            (Some(one), Some(two)) => Err(ambiguous(&one, &two)),
            (None, _) => Err(self.none_of_them(candidates, presented, &failed).await),
        };
        result.map_err(|error| error.with(&candidates.facts))
    }

    /// Fetches and verifies the token of one agent, and checks that the process is still there behind it.
    async fn try_agent(
        &self,
        agent: &Arc<AgentConfig>,
        candidates: &Candidates,
        presented: Option<&Secret>,
    ) -> Result<Attested, Failure> {
        let Some(process) = candidates.process.clone() else { return Err(Failure::NoProcess) };
        let token = if agent.token.from == Source::Connection {
            presented.cloned().ok_or(Failure::Source(SourceError::NotPresented))?
        } else {
            let (agent, facts, pinned) = (Arc::clone(agent), candidates.facts.clone(), Arc::clone(&process));
            self.blocking(move || source::fetch(&agent.token.from, &agent.name, &pinned, &facts, None))
                .await
                .map_err(|_| Failure::Overload)?
                .map_err(Failure::Source)?
        };
        let verified = self.issuer(agent)?.verify(token.expose()).await.map_err(Failure::Token)?;
        let groups = token::admit(&verified, &agent.token).map_err(Failure::Token)?;
        process.alive().map_err(|_| Failure::NoProcess)?;
        Ok(Attested {
            name: agent.name.as_str().into(),
            groups,
            facts: candidates.facts.clone(),
            token: verified.facts,
        })
    }

    /// Why a process is none of its candidates. One that is only too privileged for what its facts and its token make it is told
    /// that: agents may share a token, and then it is no stolen one.
    async fn none_of_them(
        &self,
        candidates: &Candidates,
        presented: Option<&Secret>,
        failed: &[(&Arc<AgentConfig>, Failure)],
    ) -> IdentityError {
        for (agent, failure) in failed.iter().filter(|(_, failure)| matches!(failure, Failure::Privileged(_))) {
            if self.try_agent(agent, candidates, presented).await.is_ok() {
                return failure.refusal(&agent.name);
            }
        }
        let foreign = self.foreign(candidates, presented).await;
        foreign.unwrap_or_else(|| refusal_of(failed, &candidates.facts, &self.inner.agents))
    }

    /// Looks for a valid token of an agent that this process is not: in its password, and where those agents keep it.
    async fn foreign(&self, candidates: &Candidates, presented: Option<&Secret>) -> Option<IdentityError> {
        let is_candidate = |agent: &&Arc<AgentConfig>| !candidates.agents.iter().any(|own| own.name == agent.name);
        for agent in self.inner.agents.iter().filter(is_candidate).take(FOREIGN_MAX) {
            let held = self.try_agent(agent, candidates, presented).await.is_ok();
            if held || self.presents_token_of(agent, presented).await {
                return Some(foreign(agent, candidates));
            }
        }
        // A candidate's source may hold another agent's token: a link to it, or a copy.
        for own in candidates.agents.iter().filter(|own| own.token.from != Source::Connection).take(FOREIGN_MAX) {
            let (process, facts, own) = (candidates.process.clone()?, candidates.facts.clone(), Arc::clone(own));
            let read = self.blocking(move || source::fetch(&own.token.from, &own.name, &process, &facts, None)).await;
            let Ok(Ok(held)) = read else { continue };
            for agent in self.inner.agents.iter().filter(is_candidate).take(FOREIGN_MAX) {
                if self.presents_token_of(agent, Some(&held)).await {
                    return Some(foreign(agent, candidates));
                }
            }
        }
        None
    }

    async fn presents_token_of(&self, agent: &AgentConfig, presented: Option<&Secret>) -> bool {
        // A password that is no token at all costs no verification.
        let Some(token) = presented.filter(|secret| secret.expose().starts_with(b"eyJ")) else { return false };
        let Ok(issuer) = self.issuer(agent) else { return false };
        match issuer.verify(token.expose()).await {
            Ok(verified) => token::admit(&verified, &agent.token).is_ok(),
            Err(_) => false,
        }
    }

    fn issuer(&self, agent: &AgentConfig) -> Result<&Arc<Issuer>, Failure> {
        self.inner.issuers.iter().find(|issuer| issuer.name() == agent.token.issuer).ok_or(Failure::NoIssuer)
    }

    /// Runs what may block on a file system away from the runtime, bounded in number and time.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, IdentityError> {
        let turn = tokio::time::timeout(WAIT_TIME_MAX, Arc::clone(&self.inner.reads).acquire_owned()).await;
        let slot = turn.ok().and_then(Result::ok).ok_or_else(|| overload("waiting for other reads", WAIT_TIME_MAX))?;
        let read = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(slot);
            result
        });
        let read = tokio::time::timeout(READ_TIME_MAX, read).await;
        read.ok().and_then(Result::ok).ok_or_else(|| overload("reading the process", READ_TIME_MAX))
    }
}

fn overload(what: &str, limit: Duration) -> IdentityError {
    IdentityError::new(
        Refusal::Overload,
        format!("{what} took longer than {limit:?}"),
        "try again; if it stays, look for a file system that hangs below the agent's root",
    )
}

impl Attest for Attestor {
    fn candidates<'a>(&'a self, origin: &'a Origin) -> BoxFuture<'a, Result<Candidates, IdentityError>> {
        Box::pin(self.candidates_of(origin))
    }

    fn attest<'a>(
        &'a self,
        candidates: &'a Candidates,
        presented: Option<&'a Secret>,
    ) -> BoxFuture<'a, Result<Attested, IdentityError>> {
        Box::pin(self.attest_now(candidates, presented))
    }

    fn refresh<'a>(
        &'a self,
        candidates: &'a Candidates,
        attested: &'a Attested,
    ) -> BoxFuture<'a, Result<Attested, IdentityError>> {
        Box::pin(async move {
            let same = |agent: &&Arc<AgentConfig>| *agent.name == *attested.name;
            let Some(agent) = candidates.agents.iter().find(same) else {
                return Err(refusal_of(&[], &candidates.facts, &self.inner.agents).with(&candidates.facts));
            };
            let renewed = self.try_agent(agent, candidates, None).await;
            renewed.map_err(|failure| failure.refusal(&agent.name).with(&candidates.facts))
        })
    }
}

/// Why one candidate is not it.
#[derive(Debug)]
pub(super) enum Failure {
    Source(SourceError),
    Token(TokenError),
    NoProcess,
    NoIssuer,
    Overload,
    /// With what it has that it should not.
    Privileged(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(error) => error.fmt(f),
            Self::Token(error) => error.fmt(f),
            Self::NoProcess => f.write_str("the process has ended"),
            Self::NoIssuer => f.write_str("its issuer is not configured"),
            Self::Overload => f.write_str("its token could not be read in time"),
            Self::Privileged(why) => write!(f, "nothing would hold it: {why}"),
        }
    }
}

impl Failure {
    pub(super) fn refusal(&self, agent: &str) -> IdentityError {
        let reason = format!("agent {agent}: {self}");
        let error = match self {
            Self::Source(SourceError::NotPresented) => {
                IdentityError::new(Refusal::NoToken, reason, "log in with the agent's token as the password")
            }
            Self::Source(_) => IdentityError::new(
                Refusal::NoToken,
                reason,
                "put a token where [[agent]] token.from says; interceptor whoami --pid explains",
            ),
            Self::Token(error @ TokenError::Keys { error: super::jwks::KeyError::Unavailable(_), .. }) => {
                IdentityError::new(Refusal::NoKeys, reason, error.remedy())
            }
            Self::Token(error) => {
                let mut refusal = IdentityError::new(Refusal::BadToken, reason, error.remedy());
                refusal.transient = error.is_transient();
                refusal
            }
            Self::Privileged(_) => IdentityError::new(
                Refusal::Privileged,
                reason,
                "run it as a user of its own without capabilities, as interceptor exec does; or the operator sets allow_privileged",
            ),
            Self::NoProcess => IdentityError::new(Refusal::Process, reason, "connect from a process that stays"),
            Self::NoIssuer | Self::Overload => IdentityError::new(Refusal::Overload, reason, "try again"),
        };
        error.of(agent)
    }
}

fn refusal_of(
    failed: &[(&Arc<AgentConfig>, Failure)],
    facts: &ProcessFacts,
    agents: &[Arc<AgentConfig>],
) -> IdentityError {
    match failed {
        [] => unmatched(facts, agents),
        [(agent, failure)] => failure.refusal(&agent.name),
        [(agent, first), ..] => {
            let mut error = first.refusal(&agent.name);
            let each: Vec<String> = failed.iter().map(|(agent, why)| format!("agent {}: {why}", agent.name)).collect();
            error.reason = format!("it is none of those that match it: {}", each.join("; "));
            error.agent = None;
            error.transient = failed.iter().any(|(agent, why)| why.refusal(&agent.name).transient);
            error
        }
    }
}

fn unmatched(facts: &ProcessFacts, agents: &[Arc<AgentConfig>]) -> IdentityError {
    let nearest = explain::nearest(agents, facts).map(|(name, misses)| format!("; nearest is {name}: {misses}"));
    let exe = facts.exe.as_deref().unwrap_or("an unknown executable");
    IdentityError::new(
        Refusal::Unmatched,
        format!(
            "no configured agent has cgroup {}, uid {}, {exe}{}",
            facts.cgroup,
            facts.uid,
            nearest.unwrap_or_default()
        ),
        format!("run it where its [[agent]] says; interceptor whoami --pid {} explains", facts.pid),
    )
}

fn foreign(agent: &AgentConfig, candidates: &Candidates) -> IdentityError {
    let facts = &candidates.facts;
    let misses = explain::misses(&agent.matches, facts);
    IdentityError::new(
        Refusal::ForeignToken,
        format!("token of {} presented from cgroup {} by uid {}: {misses}", agent.name, facts.cgroup, facts.uid),
        "use the identity of this process; a token counts only in the process that it was issued to",
    )
    .of(&agent.name)
}

fn ambiguous(one: &Attested, two: &Attested) -> IdentityError {
    IdentityError::new(
        Refusal::Ambiguous,
        format!("agents {} and {} both match this process and its token", one.name, two.name),
        "the operator narrows match or token of one of them",
    )
}

fn process_refusal(error: &FactsError) -> IdentityError {
    let (refusal, remedy) = match error {
        FactsError::MovedCgroup { .. } => {
            (Refusal::MovedCgroup, "open the connection in the cgroup that it is used from")
        }
        FactsError::NoStartTime(_) => (Refusal::Process, "the operator runs interceptor doctor"),
        _ => (Refusal::Process, "connect again from a process that stays as it is"),
    };
    let mut refusal = IdentityError::new(refusal, error.to_string(), remedy);
    refusal.transient = !matches!(error, FactsError::MovedCgroup { .. } | FactsError::NoStartTime(_));
    refusal
}

#[cfg(test)]
#[path = "attestor_tests.rs"]
mod tests;
