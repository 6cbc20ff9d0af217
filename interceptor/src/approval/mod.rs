//! Approvals: held commands, the humans who answer, and the single-use grants that result.
//!
//! A [`Request`] is opened for exactly one command of one identity at one target; its [`Digest`] covers every byte of
//! the statement and of its bind values, so one changed byte finds no grant. Requests outlive the connection and the
//! daemon: each is one file of the state directory, written before anybody is told. A grant is redeemed on disk before
//! the command may run, so a crash in between loses the grant and never runs the command twice.
//!
//! Not promised: an answer reaches only commands that ask again within the grant's lifetime.
//!
//! Bounds: [`OPEN_LIMIT`] open requests, [`OPEN_LIMIT_PER_IDENTITY`] of one identity; at the bound a command is denied.

mod request;
mod store;

pub use request::{Answer, Approver, Digest, Question, Request, RequestId, State};
pub use store::{Asked, Store, Ticket, Waited};

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// Open requests that the store keeps at most.
pub const OPEN_LIMIT: usize = 4096;
/// Open requests of one identity at most, so that one agent cannot bury the others' requests.
pub const OPEN_LIMIT_PER_IDENTITY: usize = 64;

/// `[approval]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory of open requests and unused grants; created with mode 0700.
    pub state: PathBuf,
    /// Seconds that a held command waits for an answer.
    pub timeout_seconds: u64,
    /// Seconds that a given grant waits for its command to be sent again.
    pub grant_seconds: u64,
    /// Who may answer for an `@approval` group: Unix user names. A group that is not listed is answered by anybody
    /// whom the admin socket lets in; root may always answer.
    pub approvers: std::collections::BTreeMap<String, Vec<String>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state: PathBuf::from("/var/lib/interceptor/approvals"),
            timeout_seconds: 15 * 60,
            grant_seconds: 60 * 60,
            approvers: std::collections::BTreeMap::new(),
        }
    }
}

impl Config {
    /// How long a held command waits.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }

    /// How long an unused grant lives.
    #[must_use]
    pub const fn grant_lifetime(&self) -> Duration {
        Duration::from_secs(self.grant_seconds)
    }
}

/// Why an approval could not be asked for, or answered.
#[derive(Debug, thiserror::Error)]
pub enum ApprovalError {
    /// Too many requests are open.
    #[error("{held} commands {whose} already wait for approval; answer or let some expire first")]
    Full {
        /// How many are open.
        held: usize,
        /// `in all` or `of NAME`.
        whose: String,
    },
    /// No request has that id.
    #[error("no approval request {0}; `interceptor approvals list` shows the open ones")]
    Unknown(String),
    /// The request is not waiting any more.
    #[error("request {id} was already {state}")]
    Settled {
        /// Its id.
        id: String,
        /// What it became.
        state: &'static str,
    },
    /// This person may not answer.
    #[error("{approver} may not answer for {groups}; allowed are {allowed}")]
    NotAllowed {
        /// Who tried.
        approver: String,
        /// The groups that the policy names.
        groups: String,
        /// Who may.
        allowed: String,
    },
    /// The state directory failed.
    #[error("the approval state {path} cannot be {doing}: {source}")]
    State {
        /// Which file or directory.
        path: PathBuf,
        /// `read`, `written` ...
        doing: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },
}
