//! One held command, and what became of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::clock::Timestamp;
use crate::identity::ProcessFacts;
use crate::policy::{Command, Held};
use crate::telemetry::SessionId;

/// Id of a request: 16 hexadecimal digits, easy to type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

impl RequestId {
    /// A fresh, unguessable id.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        getrandom::u64().map(Self)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

impl FromStr for RequestId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() != 16 {
            return Err("a request id is 16 hexadecimal digits".into());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| "a request id is 16 hexadecimal digits".into())
    }
}

impl Serialize for RequestId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// SHA-256 over identity, target, database, statement and bind values, each length-prefixed: what a grant is bound to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    /// The digest of one command, as `identity` would run it at `target` in `scope` (database and effective user).
    #[must_use]
    pub fn of(identity: &str, target: &str, command: &Command) -> Self {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(b"interceptor grant v1");
        part(identity.as_bytes());
        part(target.as_bytes());
        part(command.statement.as_bytes());
        for action in command.actions.iter() {
            // What the text resolves to is part of what was approved: a changed search_path makes another command.
            part(action.name.as_str().as_bytes());
            for step in &action.resource.path {
                part(step.as_bytes());
            }
            part(b"");
        }
        for parameter in command.parameters.iter() {
            part(&parameter.type_oid.to_be_bytes());
            part(&[u8::from(parameter.binary)]);
            match &parameter.value {
                Some(value) => {
                    part(b"value");
                    part(value);
                }
                None => part(b"null"),
            }
        }
        let digest = hash.finalize();
        Self(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Lower-case hexadecimal.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What an approver is asked, before it has an id.
#[derive(Clone, Debug)]
pub struct Question {
    /// What a grant would be bound to.
    pub digest: Digest,
    /// Session that asks.
    pub session: SessionId,
    /// Machine identity that asks.
    pub identity: String,
    /// Process that asks.
    pub facts: ProcessFacts,
    /// Groups of the identity.
    pub groups: Vec<String>,
    /// Target.
    pub target: String,
    /// Statement, as it would be forwarded.
    pub statement: String,
    /// Bind values, rendered for a human.
    pub parameters: Vec<String>,
    /// What it would do: `sql:drop on Table "..."`.
    pub actions: Vec<String>,
    /// Approvers, rules and reason of the hold.
    pub held: Held,
    /// Rows that the planner expects.
    pub estimated_rows: Option<u64>,
    /// Why there is no estimate, or what else to know.
    pub note: Option<String>,
    /// The last actions of the session, oldest first.
    pub recent: Vec<String>,
}

/// One held command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Its id.
    pub id: RequestId,
    /// What became of it.
    pub state: State,
    /// What a grant is bound to.
    pub digest: Digest,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When it ends by itself: the hold while it waits, the grant once it is approved.
    pub expires_at: Timestamp,
    /// Session that opened it.
    pub session: SessionId,
    /// Machine identity that asks.
    pub identity: String,
    /// Groups of the identity.
    pub groups: Vec<String>,
    /// Process that asks.
    pub facts: ProcessFacts,
    /// Target.
    pub target: String,
    /// Statement, as it would be forwarded.
    pub statement: String,
    /// Bind values.
    pub parameters: Vec<String>,
    /// What it would do.
    pub actions: Vec<String>,
    /// Groups that may answer.
    pub approvers: Vec<String>,
    /// Rules that hold it.
    pub rules: Vec<String>,
    /// Why.
    pub reason: String,
    /// Rows that the planner expects.
    pub estimated_rows: Option<u64>,
    /// Why there is no estimate, or what else to know.
    pub note: Option<String>,
    /// The last actions of the session, oldest first.
    pub recent: Vec<String>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum State {
    /// Nobody answered yet.
    Waiting,
    /// Somebody said yes; the command has not run yet.
    Approved(Answer),
    /// Somebody said no; the agent has not been told yet.
    Denied(Answer),
}

/// What a human said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Who.
    pub approver: Approver,
    /// When.
    pub at: Timestamp,
    /// Why, in their words.
    pub reason: Option<String>,
}

/// A human, by their Unix identity at the admin socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approver {
    /// User id.
    pub uid: u32,
    /// User name, where the system knows one.
    pub name: String,
}

impl fmt::Display for Approver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (uid {})", self.name, self.uid)
    }
}
