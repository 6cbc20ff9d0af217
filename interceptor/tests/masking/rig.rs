//! Two worlds behind proxies: one server, two databases that differ in tagged values alone, and agents under a policy.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use interceptor::clock::Timestamp;
use interceptor::mask::Rules;
use interceptor::policy::{ActionName, Command, Decision, Policies, Request, SessionFacts};
use interceptor::testing::postgres::{Options, Postgres};
use interceptor::testing::proxy::{JudgeGate, serve};

use super::agent::{Agent, Script};
use super::canary::{Finder, World};
use super::corpus::Case;

/// Databases of the worlds.
pub(crate) const WORLDS: [&str; 2] = ["one", "two"];

const RULES: &str = r#"
    [[mask]]
    tag = "pii"
    columns = ["*.ssn", "people.email", "people.phone", "people.code", "people.nick", "people.dom", "people.key", "people.secret",
               "people.addr", "people.doc", "people.docj", "people.mark", "people.tags", "people.couple", "people.words", "people.extra"]
    transform = "redact"
    [[mask]]
    tag = "pay"
    columns = ["people.salary", "people.born", "people.big", "people.score", "people.seen", "people.small", "people.spans", "people.days"]
    transform = "redact"
    [[mask]]
    tag = "card"
    columns = ["people.card"]
    transform = { keep_last = 4 }
    [[mask]]
    tag = "ref"
    columns = ["people.ref"]
    transform = "token"
    [[mask]]
    tag = "gone"
    columns = ["people.gone"]
    transform = "null"
"#;

/// Which policy an agent is under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Everything but what is opaque, administration, and values in clear.
    Permissive,
    /// The same, and the baseline that ships.
    Baseline,
    /// Everything, values in clear as well: to see that the search would find them.
    Open,
}

impl Rule {
    fn policies(self) -> Policies {
        let permissive = "permit (principal, action in [Action::\"sql:read\", Action::\"sql:write\", Action::\"sql:ddl\"], resource);\n\
             permit (principal, action == Action::\"sql:set\", resource);";
        let baseline = || {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
            std::fs::read_to_string(folder.join("baseline.cedar")).unwrap()
        };
        let files = match self {
            Self::Permissive => vec![("permissive", permissive.to_owned())],
            Self::Baseline => vec![("permissive", permissive.to_owned()), ("baseline", baseline())],
            Self::Open => vec![("open", "permit (principal, action, resource);".to_owned())],
        };
        Policies::load(&files).unwrap_or_else(|errors| panic!("{errors:#?}"))
    }
}

/// What was decided on one command.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    pub(crate) filters: bool,
    /// Why it was refused, in a few words.
    pub(crate) refused: Option<String>,
    pub(crate) held: bool,
}

type Log = Arc<Mutex<Vec<Judged>>>;

/// The server, and where its proxies listen.
pub(crate) struct Rig {
    server: Postgres,
    runtime: tokio::runtime::Runtime,
    rules: Arc<Rules>,
    /// Finds values.
    pub(crate) finder: Finder,
    /// Major version of the server.
    pub(crate) version: u32,
}

impl Rig {
    /// Starts a server and fills both worlds.
    pub(crate) fn new() -> Self {
        let settings = [
            ("log_statement", "none"),
            ("log_min_error_statement", "panic"),
            ("statement_timeout", "10s"),
            ("autovacuum", "off"),
            ("max_parallel_workers_per_gather", "0"),
            // Statistics choose plans, and hashing the order of rows that nobody has asked for.
            ("enable_hashagg", "off"),
            ("enable_hashjoin", "off"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let server = Postgres::start(Options { auth: "trust", settings, ..Options::default() }).unwrap();
        let version = server.sql("SHOW server_version_num").unwrap().parse::<u32>().unwrap() / 10_000;
        let worlds = [World::new(0), World::new(1)];
        server.sql("CREATE DATABASE one").unwrap();
        server.sql_in("one", include_str!("schema.sql")).unwrap();
        // Object ids are the same.
        server.sql("CREATE DATABASE two TEMPLATE one").unwrap();
        for (world, database) in worlds.iter().zip(WORLDS) {
            server.sql_in(database, world.script()).unwrap();
        }
        let finder = Finder::new(&worlds, &server, &WORLDS);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { server, runtime, rules: Arc::new(interceptor::testing::masks::rules(RULES)), finder, version }
    }

    /// An agent in a world, under a policy.
    pub(crate) fn agent(&self, world: usize, rule: Rule) -> Governed {
        let log = Log::default();
        let judge = judge(rule.policies(), Arc::clone(&log), Arc::clone(&self.rules));
        let gate = Arc::new(JudgeGate::new("postgres", judge));
        // Catalogs are shared by name: of one database, whatever the policy.
        let serving = serve(self.server.port(), "masking", Arc::clone(&self.rules), gate);
        let port = self.runtime.block_on(serving).unwrap();
        Governed::new(port, WORLDS[world], log)
    }

    /// Brings statistics and files to what the rows of now make of them.
    pub(crate) fn renew(&self) {
        for database in WORLDS {
            for statement in ["VACUUM FULL", "ANALYZE"] {
                self.server.sql_in(database, statement).unwrap();
            }
        }
    }

    /// A client of the server itself.
    pub(crate) fn direct(&self, world: usize) -> Governed {
        Governed::new(self.server.port(), WORLDS[world], Log::default())
    }
}

/// A session of an agent, made again when it breaks.
pub(crate) struct Governed {
    port: u16,
    database: &'static str,
    agent: Agent,
    log: Log,
}

/// What came of a case in one world.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) script: Script,
    pub(crate) judged: Vec<Judged>,
    /// The session broke.
    pub(crate) broke: Option<String>,
}

impl Outcome {
    /// Whether policy, or the driver, refused any of it; and why.
    pub(crate) fn refused(&self) -> Option<String> {
        let judged = self.judged.iter().find_map(|judged| judged.refused.clone());
        judged.or_else(|| {
            let ours = |(state, text): (&str, String)| {
                (text.contains("interceptor")).then(|| format!("{state} before policy"))
            };
            self.script.errors().find_map(ours)
        })
    }

    pub(crate) fn filters(&self) -> bool {
        self.judged.iter().any(|judged| judged.filters)
    }

    /// Whether the server, not interceptor, refused any of it.
    pub(crate) fn failed(&self) -> bool {
        self.script.errors().any(|(_, text)| !text.contains("interceptor"))
    }
}

impl Governed {
    fn new(port: u16, database: &'static str, log: Log) -> Self {
        let agent = Agent::connect(port, "agent_of_tests", database)
            .or_else(|_| Agent::connect(port, "postgres", database))
            .unwrap_or_else(|error| panic!("{error}"));
        Self { port, database, agent, log }
    }

    /// Runs a case, and leaves the session as it was.
    pub(crate) fn run(&mut self, case: &Case) -> Outcome {
        self.take_log();
        let ran = case.steps.iter().try_for_each(|step| self.agent.step(step));
        let mut outcome = Outcome { script: self.agent.take(), judged: self.take_log(), broke: None };
        let cleaned = ran.and_then(|()| case.after.iter().try_for_each(|step| self.agent.step(step)));
        if let Err(error) = cleaned {
            outcome.broke = Some(error.to_string());
            self.again().unwrap_or_else(|error| panic!("{error}: {case:?}"));
        }
        self.agent.take();
        outcome
    }

    fn again(&mut self) -> io::Result<()> {
        self.agent = Agent::connect(self.port, "postgres", self.database)?;
        Ok(())
    }

    fn take_log(&self) -> Vec<Judged> {
        std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Governed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Governed").field("port", &self.port).finish_non_exhaustive()
    }
}

/// The judge of real policies, with a log of what it decided.
fn judge(policies: Policies, log: Log, rules: Arc<Rules>) -> interceptor::testing::proxy::Judge {
    /// Monday, in working hours.
    const NOW: Timestamp = Timestamp::from_unix(1_795_441_600);
    let principal = interceptor::testing::agents::attested("bot", &[], NOW);
    let tags = rules.known_tags();
    Box::new(move |command: &Command| {
        let session = SessionFacts { commands: 1, age_seconds: 1 };
        let request = Request { principal: &principal, target: "masking", command, session, now: NOW, tags: &tags };
        let decision = policies.evaluate(&request);
        let refused = match &decision {
            Decision::Permit(_) => None,
            Decision::Hold(held) => Some(held.reason.clone()),
            Decision::Deny(_) => Some(why(command)),
        };
        let held = matches!(decision, Decision::Hold(_));
        let judged = Judged { filters: command.facts.filters_on_masked, refused, held };
        log.lock().unwrap_or_else(PoisonError::into_inner).push(judged);
        decision
    })
}

/// Why a command is more than a permissive agent may do: the worst of its actions, and the note on it.
fn why(command: &Command) -> String {
    let rank = |name: ActionName| match name {
        ActionName::SQL_OPAQUE => 0,
        ActionName::UNMASK => 1,
        _ => 2,
    };
    let worst = command.actions.iter().min_by_key(|action| rank(action.name));
    worst.map_or_else(String::new, |action| {
        let note = action.note.as_deref().unwrap_or_default();
        // Names of the cases' own are no reason.
        let note = note.split_once(", into ").map_or(note, |(what, _)| what);
        let note = if note.starts_with("given to") || note.starts_with("copied into ") {
            note.rsplit_once(' ').map_or(note, |(what, _)| what)
        } else {
            note
        };
        format!("{}: {note}", action.name)
    })
}
