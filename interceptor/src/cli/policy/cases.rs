//! Case files: requests, each with the decision that is expected.
//!
//! Owns the format of `*.cases.toml` and the running of it. Unknown keys are errors. What cannot be run fails: a case is
//! never skipped.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::identity::{Attested, Container, Guarantee, Level, ProcessFacts, TokenFacts};
use crate::policy::evaluate::Verdict;
use crate::policy::load::MAX_FILE;
use crate::policy::{
    Action, ActionName, Command, Explanation, Facts, HttpFacts, KubernetesFacts, McpFacts, Policies, PolicyError,
    Request, Resource, ResourceKind, SessionFacts, TagSet,
};

/// Most files of one kind in a folder.
pub const MAX_FILES: usize = 1000;

/// Turns a statement into a command, as a protocol would; the error says why it cannot.
pub type Analyse<'a> = &'a dyn Fn(&Statement<'_>) -> Result<Command, String>;

/// A statement to be analysed.
#[derive(Clone, Copy, Debug)]
pub struct Statement<'a> {
    /// Name of the target.
    pub target: &'a str,
    /// Database that the session is connected to, where the target has such.
    pub database: Option<&'a str>,
    /// The text.
    pub text: &'a str,
}

/// One `*.cases.toml` file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseFile {
    /// Policy files to load, relative to this one; every `*.cedar` beside it where absent.
    pub policies: Option<Vec<PathBuf>>,
    /// Further policies, for these cases alone.
    pub extra: Option<String>,
    /// Tags that the mask rules know.
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// The cases.
    #[serde(default, rename = "case")]
    pub cases: Vec<Case>,
}

/// One request, and what is expected.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What the case shows.
    pub name: String,
    /// The request.
    #[serde(flatten)]
    pub ask: Ask,
    /// The decision.
    pub expect: Verdict,
    /// Exactly the policies that determine it.
    pub rules: Option<BTreeSet<String>>,
    /// Exactly who may approve.
    pub approvers: Option<BTreeSet<String>>,
    /// Exactly the tags that are masked.
    pub masked: Option<BTreeSet<String>>,
    /// Part of the reason.
    pub reason: Option<String>,
}

/// A request, as a case file or `policy explain` states it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Ask {
    /// Machine identity.
    pub agent: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// Facts of its process and token.
    pub machine: Machine,
    /// Target; where absent, that of the first action's resource.
    pub target: Option<String>,
    /// Database, for `statement`, where the target has such.
    pub database: Option<String>,
    /// What it would do: either this ...
    pub actions: Vec<AskedAction>,
    /// ... or the statement itself.
    pub statement: Option<String>,
    /// Facts of the whole command, for `actions`.
    pub facts: AskedFacts,
    /// Whether a transaction is open.
    pub in_transaction: bool,
    /// Session so far.
    pub session: AskedSession,
    /// When; 2026-01-05T12:00:00Z, a Monday, where absent.
    pub at: Option<toml::value::Datetime>,
}

/// A request alone, with unknown keys refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AskAlone {
    #[serde(flatten)]
    pub(super) ask: Ask,
}

/// Facts of a process and its token.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Machine {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// cgroup path.
    pub cgroup: String,
    /// systemd unit.
    pub unit: Option<String>,
    /// Id of the container.
    pub container: Option<String>,
    /// Uid of the container's pod.
    pub pod: Option<String>,
    /// Executable.
    pub exe: Option<String>,
    /// Hash of the executable.
    pub exe_sha256: Option<String>,
    /// Executables of the parents.
    pub ancestry: Vec<String>,
    /// How well it is held.
    pub level: Level,
    /// Issuer of the token.
    pub issuer: String,
    /// Subject of the token.
    pub subject: String,
}

/// One action.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskedAction {
    /// `sql:drop`.
    pub name: String,
    /// `Table::orders-db/orders/public/customers`; the id may be quoted.
    pub resource: String,
    /// Columns.
    #[serde(default)]
    pub columns: BTreeSet<Arc<str>>,
    /// Tags of the columns.
    #[serde(default)]
    pub tags: BTreeSet<Arc<str>>,
    /// Why it is opaque.
    pub note: Option<Arc<str>>,
}

/// Facts of a command.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AskedFacts {
    /// Restricted by a WHERE.
    pub has_where: bool,
    /// Constant LIMIT.
    pub row_limit: Option<u64>,
    /// Functions called.
    pub functions: BTreeSet<Arc<str>>,
    /// A tagged column decides which rows are seen.
    pub filters_on_masked: bool,
    /// Statements; 1 where absent.
    pub statements: Option<u32>,
    /// Of a request to a web service.
    pub http: Option<HttpFacts>,
    /// Of a request to a cluster.
    pub k8s: Option<KubernetesFacts>,
    /// Of a request to a server of the Model Context Protocol.
    pub mcp: Option<McpFacts>,
}

/// Counters of a session.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AskedSession {
    /// Commands before this one.
    pub commands: u64,
    /// Age.
    pub age_seconds: u64,
}

/// What came of one case.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The case file.
    pub file: String,
    /// The case.
    pub name: String,
    /// What was expected.
    pub expected: Verdict,
    /// What policy says, where the case could be asked.
    pub verdict: Option<Verdict>,
    /// The policies that determined it.
    pub rules: Vec<String>,
    /// What is not as expected; empty where all is.
    pub failures: Vec<String>,
}

/// Why nothing could be run.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// A file or folder cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no case file.
    #[error("{path}: {message}")]
    Format {
        /// Which.
        path: PathBuf,
        /// Why, with line and column.
        message: String,
    },
    /// The folder holds too much, or nothing.
    #[error("{path}: {reason}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The policies do not load.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Policies(Vec<PolicyError>),
}

/// Runs every case file of a folder.
///
/// # Errors
/// When a file cannot be read or understood, or the folder has no case file.
pub fn run_folder(folder: &Path, analyse: Option<Analyse<'_>>) -> Result<Vec<Outcome>, CaseError> {
    let files = list(folder, ".cases.toml")?;
    if files.is_empty() {
        return Err(CaseError::Folder { path: folder.into(), reason: "holds no *.cases.toml".into() });
    }
    let mut outcomes = Vec::new();
    for path in files {
        outcomes.extend(run_file(&path, analyse)?);
    }
    Ok(outcomes)
}

/// Runs one case file.
///
/// # Errors
/// When it, or a policy file that it names, cannot be read or understood.
pub fn run_file(path: &Path, analyse: Option<Analyse<'_>>) -> Result<Vec<Outcome>, CaseError> {
    let file: CaseFile = toml::from_str(&read(path)?)
        .map_err(|error| CaseError::Format { path: path.into(), message: error.to_string() })?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let paths = match &file.policies {
        Some(names) => names.iter().map(|name| folder.join(name)).collect(),
        None => list(folder, ".cedar")?,
    };
    let mut texts = texts(&paths)?;
    texts.extend(file.extra.map(|text| (format!("{} (extra)", path.display()), text)));
    let policies = Policies::load(&texts).map_err(CaseError::Policies)?;
    let tags: TagSet = Arc::new(file.tags.iter().map(|tag| Arc::from(tag.as_str())).collect());
    let run = |case: &Case| case.run(&path.display().to_string(), &policies, &tags, analyse);
    Ok(file.cases.iter().map(run).collect())
}

/// Loads every `*.cedar` file of a folder, in the order of their names.
///
/// # Errors
/// When one cannot be read, or the policies do not load.
pub fn load_folder(folder: &Path) -> Result<Policies, CaseError> {
    Policies::load(&texts(&list(folder, ".cedar")?)?).map_err(CaseError::Policies)
}

fn texts(paths: &[PathBuf]) -> Result<Vec<(String, String)>, CaseError> {
    paths.iter().map(|path| Ok((path.display().to_string(), read(path)?))).collect()
}

fn list(folder: &Path, ending: &str) -> Result<Vec<PathBuf>, CaseError> {
    let failed = |source| CaseError::Io { path: folder.into(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(ending)) {
            paths.push(path);
        }
        if paths.len() > MAX_FILES {
            let reason = format!("holds more than {MAX_FILES} files that end in {ending}");
            return Err(CaseError::Folder { path: folder.into(), reason });
        }
    }
    paths.sort();
    Ok(paths)
}

pub(super) fn read(path: &Path) -> Result<String, CaseError> {
    use io::Read as _;
    let mut text = String::new();
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
    fs::File::open(path)
        .and_then(|file| file.take(limit).read_to_string(&mut text))
        .map_err(|source| CaseError::Io { path: path.into(), source })?;
    if text.len() > MAX_FILE {
        return Err(CaseError::Folder { path: path.into(), reason: format!("is longer than {MAX_FILE} bytes") });
    }
    Ok(text)
}

impl Case {
    fn run(&self, file: &str, policies: &Policies, tags: &TagSet, analyse: Option<Analyse<'_>>) -> Outcome {
        let mut outcome = Outcome {
            file: file.to_owned(),
            name: self.name.clone(),
            expected: self.expect,
            verdict: None,
            rules: Vec::new(),
            failures: Vec::new(),
        };
        match self.ask.explain(policies, tags, analyse) {
            Ok(explanation) => {
                outcome.failures = self.compare(&explanation);
                outcome.verdict = Some(explanation.verdict);
                outcome.rules = explanation.rules;
            }
            Err(reason) => outcome.failures.push(reason),
        }
        outcome
    }

    fn compare(&self, found: &Explanation) -> Vec<String> {
        let mut failures = Vec::new();
        if found.verdict != self.expect {
            let why = found.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
            failures.push(format!("expected {}, got {}{why}", self.expect.as_str(), found.verdict.as_str()));
        }
        for (what, expected, found) in [
            ("rules", &self.rules, &found.rules),
            ("approvers", &self.approvers, &found.approvers),
            ("masked", &self.masked, &found.masked),
        ] {
            let found: BTreeSet<String> = found.iter().cloned().collect();
            if expected.as_ref().is_some_and(|expected| *expected != found) {
                failures.push(format!("{what}: got {found:?}"));
            }
        }
        let reason = found.reason.as_deref().unwrap_or_default();
        if self.reason.as_ref().is_some_and(|expected| !reason.contains(expected.as_str())) {
            failures.push(format!("reason: got {reason:?}"));
        }
        failures
    }
}

impl Ask {
    /// Asks the policies.
    ///
    /// # Errors
    /// When the request makes no sense: an unknown action, a malformed resource, a statement without an analysis.
    pub fn explain(
        &self,
        policies: &Policies,
        tags: &TagSet,
        analyse: Option<Analyse<'_>>,
    ) -> Result<Explanation, String> {
        let actions = self.actions.iter().map(AskedAction::read).collect::<Result<Vec<_>, _>>()?;
        let first = actions.first().and_then(|action| action.resource.path.first()).cloned();
        let target = self.target.as_deref().or(first.as_deref()).unwrap_or_default();
        let command = self.command(actions, target, analyse)?;
        let principal = self.principal();
        let session = SessionFacts { commands: self.session.commands, age_seconds: self.session.age_seconds };
        let now = self.at.as_ref().map_or(Ok(DEFAULT_TIME), stamp)?;
        Ok(policies.explain(&Request { principal: &principal, target, command: &command, session, now, tags }))
    }

    fn command(&self, actions: Vec<Action>, target: &str, analyse: Option<Analyse<'_>>) -> Result<Command, String> {
        let Some(text) = &self.statement else {
            let AskedFacts { has_where, row_limit, functions, filters_on_masked, statements, http, k8s, mcp } =
                self.facts.clone();
            let (http, k8s, mcp) = (http.map(Arc::new), k8s.map(Arc::new), mcp.map(Arc::new));
            let statements = statements.unwrap_or(1);
            return Ok(Command {
                analysis: 0,
                statement: "".into(),
                parameters: Arc::from([]),
                actions: actions.into(),
                facts: Arc::new(Facts {
                    has_where,
                    row_limit,
                    functions,
                    filters_on_masked,
                    statements,
                    http,
                    k8s,
                    mcp,
                }),
                in_transaction: self.in_transaction,
            });
        };
        if !actions.is_empty() {
            return Err("a request has either `actions` or a `statement`".into());
        }
        let analyse = analyse.ok_or("no analysis of statements is available here: give `actions`")?;
        let command = analyse(&Statement { target, database: self.database.as_deref(), text })?;
        Ok(Command { in_transaction: self.in_transaction, ..command })
    }

    fn principal(&self) -> Attested {
        let machine = self.machine.clone();
        Attested {
            name: self.agent.as_str().into(),
            groups: self.groups.clone().into(),
            facts: ProcessFacts {
                pid: 0,
                uid: machine.uid,
                gid: machine.gid,
                cgroup: machine.cgroup,
                unit: machine.unit,
                container: machine.container.map(|id| Container {
                    engine: String::new(),
                    id,
                    pod: machine.pod,
                    trusted: true,
                }),
                exe: machine.exe,
                exe_sha256: machine.exe_sha256,
                ancestry: machine.ancestry,
                guarantee: Guarantee { level: machine.level, lacks: Vec::new() },
            },
            token: TokenFacts {
                issuer: machine.issuer,
                subject: machine.subject,
                id: None,
                expires_at: Timestamp(i64::MAX),
            },
        }
    }
}

impl AskedAction {
    fn read(&self) -> Result<Action, String> {
        let name = ActionName::parse(&self.name).ok_or_else(|| format!("there is no action {:?}", self.name))?;
        Ok(Action {
            name,
            resource: read_resource(&self.resource)?,
            columns: self.columns.clone(),
            tags: Arc::new(self.tags.clone()),
            note: self.note.clone(),
        })
    }
}

/// Monday, 2026-01-05 12:00:00 UTC.
const DEFAULT_TIME: Timestamp = Timestamp::from_unix(1_767_614_400);

fn read_resource(text: &str) -> Result<Resource, String> {
    let malformed = || format!("{text:?} is no resource: write Table::target/database/schema/name");
    let (kind, id) = text.split_once("::").ok_or_else(malformed)?;
    let kind = ResourceKind::parse(kind).ok_or_else(malformed)?;
    let id = id.strip_prefix('"').and_then(|id| id.strip_suffix('"')).unwrap_or(id);
    Resource::from_id(kind, id).ok_or_else(malformed)
}

/// Days of a proleptic Gregorian date since 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn stamp(at: &toml::value::Datetime) -> Result<Timestamp, String> {
    let utc = matches!(at.offset, Some(toml::value::Offset::Z));
    let (Some(date), Some(time), true) = (at.date, at.time, utc) else {
        return Err("`at` is a date and a time in UTC: 2026-01-05T12:00:00Z".into());
    };
    let (year, month, day) = (i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    let second = time.second.unwrap_or_default();
    let seconds = i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + i64::from(second);
    Ok(Timestamp::from_unix(days * 86_400 + seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_case_files_are_read_as_they_print() {
        for text in ["1970-01-01T00:00:00Z", "2000-02-29T23:59:59Z", "2026-11-23T13:46:40Z", "2100-03-01T00:00:01Z"] {
            let stamp = stamp(&text.parse().unwrap()).unwrap();
            assert_eq!(stamp.to_string(), text.replace('Z', ".000000Z"));
        }
        assert_eq!(DEFAULT_TIME.to_string(), "2026-01-05T12:00:00.000000Z");
        assert!(stamp(&"2026-11-23T13:46:40+01:00".parse().unwrap()).is_err());
    }

    #[test]
    fn resources_are_read_with_and_without_quotes() {
        assert_eq!(read_resource("Table::a/b/c/d"), read_resource("Table::\"a/b/c/d\""));
        for wrong in ["Table", "Tabel::a/b/c/d", "Table::a/b", "Table::a/b/c/%"] {
            assert!(read_resource(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_misspelt_key_is_an_error() {
        for text in [
            "[[case]]\nname = \"x\"\nexpect = \"deny\"\nagnt = \"x\"",
            "polices = []",
            "[[case]]\nname = \"x\"\nexpect = \"denied\"",
            "[[case]]\nname = \"x\"\nexpect = \"deny\"\nfacts = { has_were = true }",
        ] {
            assert!(toml::from_str::<CaseFile>(text).is_err(), "{text}");
        }
    }
}
