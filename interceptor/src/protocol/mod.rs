//! The seam between protocols and the rest of the program.
//!
//! The configured target selects the protocol; [`Protocol::sniff`] only confirms. A mismatch or silence is a denial,
//! never pass-through. A driver asks its [`Gate`] before anything is forwarded and tells it what was delivered; it
//! knows nothing of sessions, approvals or recordings.

pub mod http;
pub mod kubernetes;
pub mod mcp;
pub mod postgres;
pub mod sql;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::mask::Rules;
use crate::policy::{Command, Denial, Held, Permit};
use crate::secret::Secret;
use crate::telemetry::SessionId;
use crate::tls;

/// All that the rest of the program knows about any protocol.
pub trait Protocol: fmt::Debug + Send + Sync {
    /// Confirms that the first bytes are this protocol's.
    fn sniff(&self, first: &[u8]) -> Sniff;

    /// Speaks the protocol on both legs until the session ends. Never forwards without a spent [`Permit`].
    ///
    /// # Errors
    /// [`Failure`] says whose fault ended the session; whoever can still be told has been told, natively.
    fn serve<'a>(&'a self, conn: Conn, gate: &'a dyn Gate) -> BoxFuture<'a, Result<Close, Failure>>;

    /// Tells an agent natively that there is no room for its session, and closes. The caller bounds how long that takes.
    fn refuse(&self, agent: tls::Stream, target: Arc<Target>, denial: Denial) -> BoxFuture<'static, ()>;

    /// What a text would do at a target, as policy sees it, for `policy explain`. Where names in the text have to be known,
    /// the target is asked what they mean; nothing of it runs.
    fn understand<'a>(&'a self, question: Question<'a>) -> BoxFuture<'a, Result<Command, String>>;

    /// A reader of this protocol's recorded streams, for replay.
    fn replayer(&self) -> Box<dyn Replayer>;
}

/// One line of the registry.
#[derive(Clone, Copy, Debug)]
pub struct Registration {
    /// Name in the configuration: `protocol = "postgres"`.
    pub name: &'static str,
    /// Port where a target's host names none.
    pub default_port: u16,
    /// What it is called inside of TLS (ALPN), as far as it has a name there; the one that is liked best first.
    pub alpn: &'static [&'static [u8]],
    /// The protocol itself.
    pub protocol: &'static dyn Protocol,
}

/// Every protocol that a target can name.
pub static PROTOCOLS: &[Registration] =
    &[postgres::REGISTRATION, http::REGISTRATION, kubernetes::REGISTRATION, mcp::REGISTRATION];

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// This protocol.
    Match,
    /// Certainly not this protocol.
    Mismatch,
    /// More bytes are needed.
    NeedMore,
    /// The server speaks first: nothing can be confirmed.
    ServerFirst,
}

/// A captured connection, ready to be served.
#[derive(Debug)]
pub struct Conn {
    /// The leg to the agent; nothing has been read from it.
    pub agent: tls::Stream,
    /// Where it leads.
    pub target: Arc<Target>,
    /// Opens legs to the target.
    pub dial: Arc<dyn Dial>,
    /// Which columns and values are sensitive.
    pub rules: Arc<Rules>,
    /// Id to be named in every denial.
    pub session: SessionId,
    /// How long the agent is waited for.
    pub patience: Patience,
}

/// How long a driver waits for an agent.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For each part of its handshake.
    pub handshake: Duration,
    /// Until it reads on, while something waits for it.
    pub stalled: Duration,
}

impl Default for Patience {
    /// 30 s, 10 minutes.
    fn default() -> Self {
        Self { handshake: Duration::from_secs(30), stalled: Duration::from_secs(600) }
    }
}

/// What opens legs to a target, and what to log in with; or why there is none.
pub type Reach<'a> = BoxFuture<'a, Result<(Arc<dyn Dial>, Login), String>>;

/// A text, and where it would be sent.
pub struct Question<'a> {
    /// The text.
    pub text: &'a str,
    /// Database that it would be sent to, where the protocol has such.
    pub database: Option<&'a str>,
    /// The target.
    pub target: Arc<Target>,
    /// How to ask it: opens legs, and logs in. Not polled by protocols that know what a text means.
    pub reach: Reach<'a>,
    /// Which columns are sensitive.
    pub rules: Arc<Rules>,
}

impl fmt::Debug for Question<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").field("text", &self.text).field("target", &self.target).finish_non_exhaustive()
    }
}

/// What a protocol needs to know of a configured target.
#[derive(Debug)]
pub struct Target {
    /// Name in the configuration.
    pub name: Arc<str>,
    /// The configured host that the destination address belongs to.
    pub host: String,
    /// TLS towards the agent, where it is offered.
    pub agent_tls: Option<tls::Agents>,
    /// TLS towards the target.
    pub upstream_tls: tls::Upstream,
    /// What `http`, and what speaks it, has beside.
    pub http: Option<Arc<http::Settings>>,
}

/// Opens a connection to the target. Bounded in time by the implementation.
pub trait Dial: fmt::Debug + Send + Sync {
    /// A fresh leg, in clear: the protocol starts TLS where its own handshake says so.
    fn dial(&self) -> BoxFuture<'_, io::Result<tls::Stream>>;

    /// Where it leads. What is known of a server is shared by those that lead to the same place.
    fn place(&self) -> String;
}

/// Credential for one session. Never printed, never recorded.
#[derive(Clone, Debug)]
pub struct Login {
    /// User at the target.
    pub user: String,
    /// Password or token, where the target asks for one.
    pub password: Option<Secret>,
    /// What stands beside a signature by the password, where the target asks for that.
    pub session: Option<Secret>,
}

/// Answer to [`Gate::attest`].
#[derive(Clone, Debug)]
pub struct Admitted {
    /// Name of the machine identity.
    pub identity: Arc<str>,
    /// What to log in with at the target.
    pub login: Login,
}

/// Answer to [`Gate::judge`].
#[derive(Debug)]
pub enum Verdict {
    /// Forward.
    Permit(Permit),
    /// Ask [`Gate::hold`], with whatever helps a human to decide.
    Hold(Held),
    /// The session was ended meanwhile: nothing is forwarded any more.
    Ended(Denial),
}

/// What an approver should know of a held command beyond its text.
#[derive(Clone, Debug, Default)]
pub struct Impact {
    /// Rows that the target's planner expects to be touched.
    pub rows: Option<u64>,
    /// Why there is no estimate, or what else to know.
    pub note: Option<String>,
}

/// What a driver may ask of the house. `session` implements it; tests script it. Every answer is on record before it
/// is given.
pub trait Gate: fmt::Debug + Send + Sync {
    /// Whether [`Gate::attest`] wants a token that the agent sends in its handshake (as its password).
    fn wants_token(&self) -> bool;

    /// Establishes who the agent is; to be called exactly once, before anything else but `cancel`.
    fn attest(&self, presented: Option<Secret>) -> BoxFuture<'_, Result<Admitted, Denial>>;

    /// Judges a command against policy.
    fn judge<'a>(&'a self, command: &'a Command) -> BoxFuture<'a, Result<Verdict, Denial>>;

    /// Judges a command again that was permitted, and is under way: it counts as none.
    fn rejudge<'a>(&'a self, command: &'a Command) -> BoxFuture<'a, Result<Verdict, Denial>> {
        self.judge(command)
    }

    /// What stands for bytes that people are not shown, in a command that is bound to them: the same for the same bytes, and nothing that
    /// they could be found out by. Nothing where there is no such thing.
    fn seal(&self, _bytes: &[u8]) -> Option<String> {
        None
    }

    /// Waits for a human. The request outlives this future: dropping it (the agent left) keeps the request open.
    fn hold<'a>(&'a self, command: &'a Command, held: Held, impact: Impact) -> BoxFuture<'a, Result<Permit, Denial>>;

    /// Records what was delivered, or happened. Waits for a place in the recorder's queue: that is the backpressure.
    ///
    /// # Errors
    /// When the spool takes no more: the session has to end.
    fn observe(&self, event: Observation) -> BoxFuture<'_, Result<(), Denial>>;

    /// Says how many bytes the session holds for now, beyond what every session does; called whenever that has changed.
    ///
    /// # Errors
    /// When all sessions together hold too much, and this one wants more: it has to end.
    fn holds(&self, _bytes: usize) -> Result<(), Denial> {
        Ok(())
    }

    /// Resolves when the session has to end: killed, out of time to drain, token expired. Tell the agent, then close.
    fn ended(&self) -> BoxFuture<'_, Denial>;

    /// Resolves when the session has to end as soon as nothing of the agent's is under way: the daemon drains.
    fn leaving(&self) -> BoxFuture<'_, Denial> {
        Box::pin(std::future::pending())
    }

    /// Which policies are in force: a number that is another once they are replaced.
    fn policies(&self) -> u64 {
        0
    }

    /// Resolves once others are in force than those.
    fn replaced(&self, _policies: u64) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    /// Makes this session's commands cancellable by whoever presents `key` under the same identity. Withdrawn with
    /// the session.
    fn publish_cancel(&self, key: Bytes, cancel: Arc<dyn Cancel>);

    /// Finds the session whose key that is. This connection is only identified by its process facts.
    fn cancel(&self, key: &[u8]) -> BoxFuture<'_, Result<Arc<dyn Cancel>, Denial>>;
}

/// How to cancel what a session is doing at its target.
pub trait Cancel: fmt::Debug + Send + Sync {
    /// Asks the target to stop; best effort, bounded in time.
    fn cancel(&self) -> BoxFuture<'_, io::Result<()>>;
}

/// Which way bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the agent to the target.
    FromAgent,
    /// To the agent, after masking.
    ToAgent,
}

/// What a driver reports to its gate.
#[derive(Clone, Debug)]
pub enum Observation {
    /// Whole protocol messages, as delivered. Handshakes that carry secrets are left out.
    Data(Direction, Bytes),
    /// The agent was told no, natively.
    Denied(Denial),
    /// Values were masked in the answer to a command.
    Masked {
        /// Columns (or other places) and how many values.
        cells: Vec<(String, u64)>,
    },
    /// Anything else worth a line: a log-in's mechanism, a cancel, a catalog reload.
    Note(String),
}

/// How a session ended without a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The agent said goodbye, or closed its end between commands.
    Agent,
    /// The target closed its end.
    Upstream,
    /// The house ended it, and the agent was told.
    Ended,
    /// It only carried a cancel request.
    Cancel,
}

/// Why a session broke.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The agent broke the protocol.
    #[error("the agent broke the protocol: {0}")]
    Agent(String),
    /// No TLS towards the agent.
    #[error("no TLS with the agent: {0}")]
    Handshake(tls::HandshakeError),
    /// The target broke the protocol.
    #[error("the target broke the protocol: {0}")]
    Upstream(String),
    /// The target could not be reached, or refused the log-in.
    #[error("no session at the target: {0}")]
    Login(String),
    /// The agent was refused, and told so.
    #[error("refused: {0}")]
    Denied(Denial),
    /// All sessions together hold too much memory; the agent was told so.
    #[error("ended: {0}")]
    Overfull(Denial),
    /// A leg broke.
    #[error("the connection to the {leg} broke: {source}")]
    Io {
        /// `agent` or `target`.
        leg: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Reads recorded streams back into what the agent saw.
pub trait Replayer: Send {
    /// Consumes the next recorded bytes of one direction.
    fn feed(&mut self, direction: Direction, bytes: &[u8]) -> Vec<Shown>;
}

/// One thing that a replay shows.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// The agent sent a command.
    Statement(String),
    /// Column names of a result.
    Header(Vec<String>),
    /// One row of a result; `None` is NULL.
    Row(Vec<Option<String>>),
    /// A result ended: `SELECT 3`.
    Complete(String),
    /// An error or notice that the agent received.
    Message(String),
    /// What a program was told or has printed, as it came: it can be played in a terminal.
    Terminal {
        /// Which of its streams.
        stream: Terminal,
        /// What came of it, which may end within a character.
        #[serde(rename = "text", serialize_with = "as_text")]
        bytes: Vec<u8>,
    },
    /// Other traffic, summed up.
    Other(String),
}

fn as_text<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}

/// A stream of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Terminal {
    /// What it reads.
    Stdin,
    /// What it prints.
    Stdout,
    /// What it prints of errors.
    Stderr,
    /// The new size of its terminal.
    Resize {
        /// In columns.
        width: u16,
        /// In rows.
        height: u16,
    },
}
