//! What is recorded. One [`Event`] is one frame.
//!
//! Owns the vocabulary of recordings, which outlives the daemon that wrote them: fields may be added, never renamed or
//! removed. Writing clones only shared pointers; text is made on the recorder's thread. Does not promise that an event
//! is free of what the agent itself sent: statements and bind values are recorded as they were forwarded.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ledger::{Gone, Held, Ledger, Lost};
use crate::identity::{Attested, ProcessFacts, TokenFacts};
use crate::policy::{Action, Command, Denial, Parameter, ResourceKind};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A connection was captured.
    SessionOpened {
        /// The configured agent whose process facts match, not yet attested.
        identity: Option<Arc<str>>,
        /// What the kernel recorded.
        origin: Origin,
        /// What is known of the process.
        facts: Option<ProcessFacts>,
        /// The configured target, where one covers the destination.
        target: Option<Arc<str>>,
        /// Name of the target's protocol, by which a replay reads the data.
        protocol: Option<String>,
    },
    /// The agent's token matched as well.
    Attested {
        /// Name of the machine identity.
        identity: Arc<str>,
        /// Groups that policy sees.
        groups: Arc<[String]>,
        /// What matched on the process side.
        facts: ProcessFacts,
        /// What matched on the token side.
        token: TokenFacts,
    },
    /// The connection was refused before it had an identity.
    Refused {
        /// What the agent was told.
        denial: Denial,
    },
    /// A command was understood and judged.
    Command {
        /// The statement as it would be forwarded.
        statement: Arc<str>,
        /// Bind values as they would be forwarded.
        parameters: Parameters,
        /// What it would do.
        actions: Actions,
        /// Whether a transaction is open.
        in_transaction: bool,
        /// What policy answered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        verdict: Option<RecordedVerdict>,
    },
    /// A command that was held may run, or not.
    Decision(RecordedVerdict),
    /// The agent was told no.
    Denied {
        /// What it was told.
        denial: Denial,
    },
    /// A command waits for a human.
    HoldOpened {
        /// Id of the request.
        request: String,
        /// Groups that may approve.
        approvers: Vec<String>,
        /// Why it is held.
        reason: String,
    },
    /// A held command was answered, timed out, or ran on its grant.
    Approval {
        /// Id of the request.
        request: String,
        /// Who answered; none for a time-out.
        approver: Option<Approver>,
        /// What came of it.
        outcome: Outcome,
        /// The approver's words.
        reason: Option<String>,
    },
    /// Values were masked in an answer.
    Masked {
        /// Columns, or other places, and how many values.
        cells: Vec<(String, u64)>,
    },
    /// Bytes as delivered.
    Data {
        /// Which way.
        direction: Direction,
        /// Whole protocol messages, unless longer than a frame: then consecutive frames hold the parts.
        #[serde(with = "base64_text")]
        bytes: Bytes,
    },
    /// Anything else worth a line.
    Note {
        /// The line.
        text: String,
    },
    /// A session ended.
    SessionClosed {
        /// Why.
        reason: String,
        /// What it did.
        counters: Counters,
    },
    /// The daemon started.
    DaemonStarted {
        /// Its version.
        version: String,
    },
    /// The daemon stopped on purpose.
    DaemonStopped {
        /// Why.
        reason: String,
    },
    /// Another set of policies is in force.
    PolicyLoaded {
        /// SHA-256 over policies and schema, hexadecimal.
        digest: String,
    },
    /// An agent asked for a name.
    NameAsked {
        /// The name, lower case.
        name: String,
        /// Type of the records, as the registry of DNS parameters numbers them.
        kind: u16,
        /// What became of it.
        fate: String,
        /// How often since the last such event.
        count: u64,
        /// cgroup v2 id in which the socket was made, where known.
        #[serde(default)]
        cgroup: Option<u64>,
        /// Process that asked last, in the initial pid namespace, where known.
        #[serde(default)]
        pid: Option<u32>,
        /// Its real user id.
        #[serde(default)]
        uid: Option<u32>,
        /// The thread's name, forgeable.
        #[serde(default)]
        comm: Option<String>,
    },
    /// The kernel programs denied something.
    KernelDenied {
        /// Which hook, and what it saw: `connect`, `sendmsg`, `sock_create`, `egress` ...
        what: String,
        /// cgroup v2 id of the process.
        cgroup: u64,
        /// Process id, where known.
        pid: Option<u32>,
        /// The thread's name, forgeable.
        comm: Option<String>,
        /// Where it wanted to go, where known.
        destination: Option<SocketAddr>,
        /// How often since the last such event.
        count: u64,
    },
    /// A process was found outside the governed cgroup that it had been in: what it connects from then on is not captured, or is
    /// another agent's.
    Strayed {
        /// The governed cgroup, as a path below the mount.
        cgroup: String,
        /// Process id in the initial pid namespace.
        pid: u32,
        /// The thread's name, forgeable.
        comm: String,
        /// The cgroup that it is in now.
        to: String,
        /// Whether that is governed as well.
        governed: bool,
    },
    /// The spool was opened after a crash or damage, and its last segment ended in bytes that form no frame.
    Recovered {
        /// Segment that was cut.
        segment: u64,
        /// At which byte.
        offset: u64,
        /// How many bytes were removed.
        bytes: u64,
        /// Why they form no frame.
        reason: String,
        /// File that holds them, where they were more than an unfinished write.
        kept: Option<String>,
        /// Frames that a checkpoint had signed for and that are not there: loss of evidence, not a crash of the daemon.
        signed_frames_lost: u64,
    },
    /// From the next segment on another key signs. The one that signed so far vouches for it.
    KeyChanged {
        /// The public key, in its text form.
        to: String,
    },
    /// Segments are about to be deleted.
    Deleted {
        /// By which rules.
        reason: String,
        /// Which ones.
        segments: Vec<Gone>,
        /// What was missing before, and what is held.
        #[serde(flatten)]
        before: Ledger,
    },
    /// What is missing, and held, when a segment begins: its first frame, where there is any such thing.
    Kept(Ledger),
    /// Segments are not there, and no record says that they were deleted.
    FoundMissing {
        /// Which ones.
        stretches: Vec<Lost>,
    },
    /// From now on these are not deleted.
    Held(Held),
    /// A hold has ended.
    Released {
        /// Its name.
        hold: String,
    },
    /// The spool could not be written for a while, and can again.
    Gap {
        /// What the operating system said.
        reason: String,
        /// Appends that failed, each of them a command that was refused.
        refused: u64,
    },
}

impl Event {
    /// The event of a command and its verdict: shares everything, copies nothing.
    #[must_use]
    pub fn command(command: &Command, verdict: RecordedVerdict) -> Self {
        Self::Command {
            statement: Arc::clone(&command.statement),
            parameters: Parameters::Live(Arc::clone(&command.parameters)),
            actions: Actions::Live(Arc::clone(&command.actions)),
            in_transaction: command.in_transaction,
            verdict: Some(verdict),
        }
    }

    /// The event of an attestation.
    #[must_use]
    pub fn attested(attested: &Attested) -> Self {
        Self::Attested {
            identity: Arc::clone(&attested.name),
            groups: Arc::clone(&attested.groups),
            facts: attested.facts.clone(),
            token: attested.token.clone(),
        }
    }

    /// Roughly how many bytes the event holds in memory: what the queue is bounded by.
    pub(super) fn weight(&self) -> usize {
        let strings = |list: &[String]| list.iter().map(|s| s.len() + 16).sum::<usize>();
        let denial = |d: &Denial| {
            d.what.len()
                + d.reason.len()
                + d.rule.as_ref().map_or(0, String::len)
                + d.remedy.as_ref().map_or(0, String::len)
        };
        let held = |one: &Held| {
            one.hold.len() + one.scope.segments.len().saturating_add(one.present.len()).saturating_mul(64) + 128
        };
        let ledger = |all: &Ledger| {
            let stretches = all.missing.len().saturating_mul(256) + all.lost.len().saturating_mul(96);
            stretches.saturating_add(all.holds.iter().map(held).sum::<usize>())
        };
        let own = match self {
            Self::Data { bytes, .. } => bytes.len(),
            Self::Command { statement, parameters, actions, verdict, .. } => {
                let verdict = verdict.as_ref().map_or(0, RecordedVerdict::weight);
                statement.len() + parameters.weight() + actions.weight() + verdict
            }
            Self::Decision(verdict) => verdict.weight(),
            Self::Denied { denial: d } | Self::Refused { denial: d } => denial(d),
            Self::HoldOpened { request, approvers, reason } => request.len() + strings(approvers) + reason.len(),
            Self::Approval { request, reason, .. } => request.len() + reason.as_ref().map_or(0, String::len),
            Self::Masked { cells } => cells.iter().map(|(place, _)| place.len() + 24).sum(),
            Self::Note { text } | Self::KeyChanged { to: text } => text.len(),
            Self::NameAsked { name, fate, .. } => 64 + name.len() + fate.len(),
            Self::SessionClosed { reason, .. } | Self::DaemonStopped { reason } | Self::Gap { reason, .. } => {
                reason.len()
            }
            Self::SessionOpened { facts, .. } => {
                256 + facts.as_ref().map_or(0, |f| strings(&f.ancestry) + f.cgroup.len())
            }
            Self::Attested { groups, facts, .. } => {
                256 + strings(groups) + strings(&facts.ancestry) + facts.cgroup.len()
            }
            Self::Strayed { cgroup, comm, to, .. } => 64 + cgroup.len() + comm.len() + to.len(),
            Self::Deleted { reason, segments, before } => {
                reason.len() + segments.len().saturating_mul(512) + ledger(before)
            }
            Self::Kept(all) => ledger(all),
            Self::FoundMissing { stretches } => stretches.len().saturating_mul(96),
            Self::Held(one) => held(one),
            Self::Released { hold } => hold.len(),
            Self::DaemonStarted { .. }
            | Self::PolicyLoaded { .. }
            | Self::KernelDenied { .. }
            | Self::Recovered { .. } => 256,
        };
        own.saturating_add(FIXED_WEIGHT)
    }

    /// A bound of what the event takes in a frame: JSON writes a control character as six bytes, everything else as two
    /// at most, and of a bind value only plain text is written as text.
    pub(super) fn most_encoded(&self) -> usize {
        let worst = match self {
            Self::Data { bytes, .. } => bytes.len(),
            Self::Command { statement, parameters, actions, verdict, .. } => {
                let verdict = verdict.as_ref().map_or(0, RecordedVerdict::weight).saturating_mul(2);
                let plain = parameters.weight().saturating_add(actions.weight()).saturating_add(verdict);
                let plain = plain.saturating_mul(4);
                statement.len().saturating_mul(6).saturating_add(plain)
            }
            other => other.weight().saturating_mul(6),
        };
        worst.saturating_add(FIXED_WEIGHT * 6)
    }
}

/// What the kernel recorded when the agent connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Where the agent wanted to go.
    pub destination: SocketAddr,
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Effective user id in the initial user namespace.
    pub uid: u32,
    /// Effective group id in the initial user namespace.
    pub gid: u32,
    /// cgroup v2 id in which the socket was created.
    pub cgroup: u64,
    /// cgroup v2 id of the process when it connected.
    pub current_cgroup: u64,
    /// Network namespace cookie.
    pub netns: u64,
    /// Cookie of the agent's socket.
    pub socket: u64,
    /// The thread's name: forgeable by the agent.
    pub comm: String,
}

/// What policy said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It may run.
    Permit,
    /// It may not.
    Deny,
    /// A human has to agree.
    Hold,
}

/// What policy answered, and by which policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedVerdict {
    /// The answer.
    pub effect: Effect,
    /// Policies that determined it.
    pub rules: Arc<[String]>,
    /// Why, where policy says so.
    pub reason: Option<Arc<str>>,
}

impl RecordedVerdict {
    fn weight(&self) -> usize {
        self.rules.iter().map(|rule| rule.len() + 16).sum::<usize>() + self.reason.as_ref().map_or(0, |r| r.len())
    }
}

/// Who answered a request: the unix identity at the admin socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approver {
    /// User id.
    pub uid: u32,
    /// User name, where the host knows one.
    pub name: Option<String>,
}

/// What came of a held command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A human said yes: there is a grant.
    Approve,
    /// A human said no.
    Deny,
    /// Nobody answered in time.
    Timeout,
    /// The grant was used up by the command.
    Redeemed,
}

/// Which way bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the agent to the target.
    FromAgent,
    /// To the agent, after masking.
    ToAgent,
}

/// What a session did, as the session counted it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Commands judged.
    pub commands: u64,
    /// Commands denied.
    pub denied: u64,
    /// Commands held.
    pub held: u64,
    /// Values masked.
    pub masked_cells: u64,
    /// Bytes from the agent.
    pub bytes_from_agent: u64,
    /// Bytes to the agent.
    pub bytes_to_agent: u64,
}

/// The actions of a command: as policy holds them, or as a recording tells them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Actions {
    /// As policy holds them; made into text by the recorder.
    #[serde(skip_deserializing)]
    Live(Arc<[Action]>),
    /// As a recording tells them.
    Read(Vec<ActionRecord>),
}

impl Actions {
    /// The actions as a recording tells them.
    #[must_use]
    pub fn records(&self) -> Vec<ActionRecord> {
        match self {
            Self::Live(actions) => actions.iter().map(ActionRecord::from).collect(),
            Self::Read(records) => records.clone(),
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Live(actions) => actions.iter().map(weight_of).sum(),
            Self::Read(records) => records.len() * 256,
        }
    }
}

impl PartialEq for Actions {
    fn eq(&self, other: &Self) -> bool {
        self.records() == other.records()
    }
}

fn weight_of(action: &Action) -> usize {
    let texts = action.columns.iter().chain(action.tags.iter()).chain(action.resource.path.iter()).chain(&action.note);
    texts.map(|text| text.len() + 8).sum::<usize>() + 96
}

/// One recorded action. Its name is text: a reader may be older than the writer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionRecord {
    /// Name of the action, as `sql:select`.
    pub name: String,
    /// To what.
    pub resource: ResourceRecord,
    /// Columns.
    pub columns: Vec<String>,
    /// Tags of those.
    pub tags: Vec<String>,
    /// Why, where it is not evident.
    pub note: Option<String>,
}

/// What a recorded action touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceRecord {
    /// Its kind.
    pub kind: ResourceKind,
    /// From the target down.
    pub path: Vec<String>,
}

impl From<&Action> for ActionRecord {
    fn from(action: &Action) -> Self {
        Self {
            name: action.name.as_str().to_owned(),
            resource: ResourceRecord {
                kind: action.resource.kind,
                path: action.resource.path.iter().map(|part| part.to_string()).collect(),
            },
            columns: action.columns.iter().map(|c| c.to_string()).collect(),
            tags: action.tags.iter().map(|t| t.to_string()).collect(),
            note: action.note.as_ref().map(|n| n.to_string()),
        }
    }
}

/// The bind values of a command: as forwarded, or as a recording tells them.
#[derive(Clone, Debug)]
pub enum Parameters {
    /// As forwarded; made into text by the recorder.
    Live(Arc<[Parameter]>),
    /// As a recording tells them.
    Read(Vec<ParameterRecord>),
}

impl Parameters {
    /// The values as a recording tells them.
    #[must_use]
    pub fn records(&self) -> Vec<ParameterRecord> {
        match self {
            Self::Live(parameters) => parameters.iter().map(ParameterRecord::from).collect(),
            Self::Read(records) => records.clone(),
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Live(all) => all.iter().map(|p| 32 + p.value.as_ref().map_or(0, Bytes::len)).sum(),
            Self::Read(all) => all.iter().map(|p| 32 + p.value.as_ref().map_or(0, String::len)).sum(),
        }
    }
}

impl PartialEq for Parameters {
    fn eq(&self, other: &Self) -> bool {
        self.records() == other.records()
    }
}

impl Serialize for Parameters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Live(parameters) => serializer.collect_seq(parameters.iter().map(ParameterRecord::from)),
            Self::Read(records) => serializer.collect_seq(records),
        }
    }
}

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::Read)
    }
}

/// One recorded bind value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterRecord {
    /// Type that the agent declared, or 0.
    pub type_oid: u32,
    /// The value; none for NULL.
    pub value: Option<String>,
    /// Whether `value` is hexadecimal: it was in the binary format, or is not plain text.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hex: bool,
}

impl From<&Parameter> for ParameterRecord {
    fn from(parameter: &Parameter) -> Self {
        let plain = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
        let text = |bytes: &Bytes| {
            let text = std::str::from_utf8(bytes).ok().filter(|text| !parameter.binary && text.chars().all(plain));
            text.map(str::to_owned)
        };
        match &parameter.value {
            None => Self { type_oid: parameter.type_oid, value: None, hex: false },
            Some(bytes) => match text(bytes) {
                Some(value) => Self { type_oid: parameter.type_oid, value: Some(value), hex: false },
                None => Self { type_oid: parameter.type_oid, value: Some(hex(bytes)), hex: true },
            },
        }
    }
}

/// Bytes in lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}

/// What every event counts for at least, in the queue.
const FIXED_WEIGHT: usize = 192;

mod base64_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::{Bytes, Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Bytes::from).map_err(serde::de::Error::custom)
    }
}
