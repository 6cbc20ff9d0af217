//! Which facts match which agent, and how near the others are: used to decide, and shown by `interceptor whoami`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::attestor::{Candidates, Failure};
use super::config::{AgentConfig, Glob, MatchConfig};
use super::{Attested, Container, IdentityError, ProcessFacts};
use crate::clock::Timestamp;

/// The identity that a process would get, and why, or why not. Holds no token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoAmI {
    /// The process.
    pub pid: u32,
    /// What is known of it, and from where.
    pub facts: Vec<Fact>,
    /// Each configured agent, and how far it matches; nearest first.
    pub agents: Vec<AgentView>,
    /// What a connection of this process would get.
    pub outcome: Outcome,
}

/// One fact of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Its name, as in `match`.
    pub name: String,
    /// Its value, where there is one.
    pub value: Option<String>,
    /// Where it was read.
    pub source: String,
}

/// One configured agent, seen from a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentView {
    /// The agent.
    pub name: String,
    /// Each thing that its `match` asks for.
    pub criteria: Vec<Criterion>,
    /// Where its token comes from.
    pub token_from: String,
    /// What was found there.
    pub token: TokenState,
}

/// One thing that a `match` asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Criterion {
    /// Its name, as in `match`.
    pub name: String,
    /// What is accepted.
    pub expected: String,
    /// What the process has.
    pub got: Option<String>,
    /// Whether that is accepted.
    pub holds: bool,
}

/// What was found where an agent's token comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "why")]
pub enum TokenState {
    /// A token that passes every check.
    Valid,
    /// None, or one that fails; with the check.
    Refused(String),
    /// It comes with the connection, so that it cannot be looked at here.
    WithConnection,
}

/// What a connection would get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "result")]
pub enum Outcome {
    /// This identity.
    Identity {
        /// The agent.
        name: String,
        /// Its groups in policies.
        groups: Vec<String>,
        /// When its sessions end.
        expires_at: Timestamp,
    },
    /// One of these, if the token that comes with the connection is its.
    Depends {
        /// The agents.
        agents: Vec<String>,
    },
    /// None.
    Refused {
        /// Why, and what to do.
        error: IdentityError,
    },
}

impl Outcome {
    pub(super) fn of(result: Result<Attested, IdentityError>) -> Self {
        match result {
            Ok(attested) => Self::Identity {
                name: attested.name.to_string(),
                groups: attested.groups.to_vec(),
                expires_at: attested.token.expires_at,
            },
            Err(error) => Self::Refused { error },
        }
    }

    pub(super) fn depends(candidates: &Candidates) -> Self {
        Self::Depends { agents: candidates.names().map(str::to_owned).collect() }
    }
}

impl AgentView {
    pub(super) fn of(agent: &AgentConfig, criteria: Vec<Criterion>, token: Option<Result<(), Failure>>) -> Self {
        let token = match token {
            None => TokenState::WithConnection,
            Some(Ok(())) => TokenState::Valid,
            Some(Err(failure)) => TokenState::Refused(failure.to_string()),
        };
        Self { name: agent.name.clone(), criteria, token_from: agent.token.from.to_string(), token }
    }

    fn misses(&self) -> usize {
        self.criteria.iter().filter(|criterion| !criterion.holds).count()
    }
}

impl WhoAmI {
    pub(super) fn new(facts: &ProcessFacts, mut agents: Vec<AgentView>, outcome: Outcome) -> Self {
        agents.sort_by_key(AgentView::misses);
        Self { pid: facts.pid, facts: listed(facts), agents, outcome }
    }
}

fn listed(facts: &ProcessFacts) -> Vec<Fact> {
    let fact = |name: &str, value: Option<String>, source: &str| Fact {
        name: name.to_owned(),
        value,
        source: source.to_owned(),
    };
    let lacks = &facts.guarantee.lacks;
    let lacking = if lacks.is_empty() { String::new() } else { format!(" (lacks: {})", lacks.join("; ")) };
    let level = format!("{}{lacking}", facts.guarantee.level);
    let ancestry = (!facts.ancestry.is_empty()).then(|| facts.ancestry.join(" < "));
    vec![
        fact("cgroup", Some(facts.cgroup.clone()), "/proc/PID/cgroup; of a connection, the kernel's record"),
        fact("unit", facts.unit.clone(), "first component of the cgroup below its slices"),
        fact("container", facts.container.as_ref().map(shown), "component of the cgroup that an engine names so"),
        fact("pod", facts.container.as_ref().and_then(|found| found.pod.clone()), "component of the cgroup above it"),
        fact("uid", Some(facts.uid.to_string()), "/proc/PID/status; of a connection, the kernel's record"),
        fact("gid", Some(facts.gid.to_string()), "/proc/PID/status; of a connection, the kernel's record"),
        fact("exe", facts.exe.clone(), "/proc/PID/exe, a path in the process's mount namespace"),
        fact("exe_sha256", facts.exe_sha256.clone(), "content of /proc/PID/exe"),
        fact("level", Some(level), "/proc/PID/status, and how it was started; see docs/guarantees.md"),
        fact("ancestry", ancestry, "/proc/PID/exe of the parents; not used to match"),
    ]
}

/// For people: engine and id, and whether that can be relied on.
fn shown(container: &Container) -> String {
    let Container { engine, id, pod: _, trusted } = container;
    let doubt = if *trusted { "" } else { " (others than root could have named it so: it matches nothing)" };
    format!("{engine} {id}{doubt}")
}

/// What a `match` asks for, held against a process.
#[must_use]
pub fn criteria(wanted: &MatchConfig, facts: &ProcessFacts) -> Vec<Criterion> {
    let mut all = Vec::new();
    let mut ask = |name: &str, expected: Vec<String>, got: Option<String>, holds: bool| {
        if !expected.is_empty() {
            all.push(Criterion { name: name.to_owned(), expected: expected.join(" | "), got, holds });
        }
    };
    let written = |globs: &[Glob]| globs.iter().map(|glob| glob.as_str().to_owned()).collect::<Vec<_>>();
    let matches = |globs: &[Glob], text: Option<&str>| text.is_some_and(|text| globs.iter().any(|g| g.is_match(text)));
    let numbers = |all: &[u32]| all.iter().map(ToString::to_string).collect::<Vec<_>>();

    let (cgroup, unit) = (Some(facts.cgroup.as_str()), facts.unit.as_deref());
    ask("cgroup", written(&wanted.cgroup), Some(facts.cgroup.clone()), matches(&wanted.cgroup, cgroup));
    ask("unit", written(&wanted.unit), facts.unit.clone(), matches(&wanted.unit, unit));
    let container = facts.container.as_ref().filter(|found| found.trusted);
    let (id, pod) = (container.map(|found| found.id.clone()), container.and_then(|found| found.pod.clone()));
    let (is_container, is_pod) = (matches(&wanted.container, id.as_deref()), matches(&wanted.pod, pod.as_deref()));
    ask("container", written(&wanted.container), id, is_container);
    ask("pod", written(&wanted.pod), pod, is_pod);
    ask("uid", numbers(&wanted.uid), Some(facts.uid.to_string()), wanted.uid.contains(&facts.uid));
    ask("gid", numbers(&wanted.gid), Some(facts.gid.to_string()), wanted.gid.contains(&facts.gid));
    let hash = facts.exe_sha256.as_deref();
    let hashes = wanted.exe_sha256.iter().map(|hash| hash.0.clone()).collect();
    let known = hash.is_some_and(|hash| wanted.exe_sha256.iter().any(|wanted| wanted.0 == hash));
    ask("exe_sha256", hashes, facts.exe_sha256.clone(), known);
    // A removed file keeps its path with a suffix; it is never taken for the file that is there now.
    let exe = facts.exe.as_deref().filter(|path| path.starts_with('/') && !path.ends_with(" (deleted)"));
    ask("exe", written(&wanted.exe), facts.exe.clone(), matches(&wanted.exe, exe));
    all
}

/// Whether the hash of the executable decides whether the process may be this agent.
pub(super) fn only_hash_left(agent: &AgentConfig, facts: &ProcessFacts) -> bool {
    let others = |criterion: &Criterion| criterion.name == "exe_sha256" || criterion.holds;
    !agent.matches.exe_sha256.is_empty() && criteria(&agent.matches, facts).iter().all(others)
}

/// What of a `match` does not hold, in words.
pub(super) fn misses(wanted: &MatchConfig, facts: &ProcessFacts) -> String {
    let missed: Vec<String> = criteria(wanted, facts)
        .iter()
        .filter(|criterion| !criterion.holds)
        .map(|c| format!("{} is {}, not {}", c.name, c.got.as_deref().unwrap_or("unknown"), c.expected))
        .collect();
    if missed.is_empty() { "another agent's facts match".to_owned() } else { missed.join(", ") }
}

/// The agent with the fewest facts that do not hold, and which.
pub(super) fn nearest(agents: &[Arc<AgentConfig>], facts: &ProcessFacts) -> Option<(String, String)> {
    let count = |agent: &&Arc<AgentConfig>| criteria(&agent.matches, facts).iter().filter(|c| !c.holds).count();
    agents.iter().min_by_key(count).map(|agent| (agent.name.clone(), misses(&agent.matches, facts)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> ProcessFacts {
        ProcessFacts {
            pid: 7,
            uid: 1001,
            gid: 1002,
            cgroup: "/agents.slice/a.service".to_owned(),
            unit: Some("a.service".to_owned()),
            container: None,
            exe: Some("/usr/bin/agent".to_owned()),
            exe_sha256: Some("ab".repeat(32)),
            ancestry: Vec::new(),
            guarantee: Default::default(),
        }
    }

    fn holds(wanted: &str, facts: &ProcessFacts) -> bool {
        let wanted: MatchConfig = toml::from_str(wanted).unwrap();
        criteria(&wanted, facts).iter().all(|criterion| criterion.holds)
    }

    #[test]
    fn every_field_must_hold_and_one_value_of_each() {
        let (facts, hash) = (facts(), "ab".repeat(32));
        let all = format!(
            "cgroup=['/x','/agents.slice/*']\nunit='a.service'\nuid=[1,1001]\ngid=1002\nexe='/usr/bin/*'\nexe_sha256='{hash}'"
        );
        assert!(holds(&all, &facts));
        for (right, wrong) in [
            ("/agents.slice/*", "/agent.slice/*"),
            ("a.service", "b.service"),
            ("1001", "1000"),
            ("gid=1002", "gid=0"),
            ("/usr/bin/*", "/bin/*"),
            (hash.as_str(), &"ac".repeat(32)),
        ] {
            assert!(!holds(&all.replace(right, wrong), &facts), "{wrong}");
        }
    }

    #[test]
    fn what_is_unknown_never_matches() {
        let mut facts = facts();
        (facts.unit, facts.exe, facts.exe_sha256) = (None, None, None);
        for wanted in ["unit='*'", "exe='/**'", &format!("exe_sha256='{}'", "ab".repeat(32))] {
            assert!(!holds(wanted, &facts), "{wanted}");
        }
    }

    #[test]
    fn a_container_matches_where_root_named_it() {
        let mut facts = facts();
        let found = |trusted| {
            Some(Container {
                engine: "docker".to_owned(),
                id: "ab".repeat(32),
                pod: Some("8f2c3a1e-5b6d-4c7e-9a8b-1c2d3e4f5a6b".to_owned()),
                trusted,
            })
        };
        let wanted = "container='abab*'\npod='8f2c3a1e-5b6d-4c7e-9a8b-1c2d3e4f5a6b'";
        assert!(!holds(wanted, &facts));
        facts.container = found(true);
        assert!(holds(wanted, &facts));
        assert!(!holds("container='cd*'", &facts) && !holds("pod='other'", &facts));
        facts.container = found(false);
        assert!(!holds("container='*'", &facts) && !holds("pod='*'", &facts));
    }

    #[test]
    fn a_removed_executable_matches_no_path() {
        let mut facts = facts();
        facts.exe = Some("/usr/bin/agent (deleted)".to_owned());
        assert!(!holds("exe='/usr/bin/*'", &facts));
        facts.exe = Some("(unreachable)/usr/bin/agent".to_owned());
        assert!(!holds("exe='/**'", &facts));
    }
}
