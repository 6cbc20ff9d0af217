//! Refusals of this layer: whose fault, what, why, and what to do. No token, and nothing of one, is ever in them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ProcessFacts;

/// Whose fault a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The process, or the token it holds.
    Agent,
    /// The configuration.
    Operator,
    /// An identity provider that could not be reached, or one of our own bounds.
    Interceptor,
}

/// What kind of refusal it is: stable names for records, metrics and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The process of the kernel's record is gone, was replaced, or could not be read.
    Process,
    /// The socket was made in another cgroup than the one that its user was in.
    MovedCgroup,
    /// No configured agent has these process facts.
    Unmatched,
    /// No token was given, or its source could not be read.
    NoToken,
    /// The token failed a check.
    BadToken,
    /// A valid token of a configured agent, held by a process that is not that agent.
    ForeignToken,
    /// Facts and token match more than one agent.
    Ambiguous,
    /// The process is root, or has capabilities that lead around the kernel programs.
    Privileged,
    /// The issuer's keys are not to be had.
    NoKeys,
    /// A bound of ours (time, work in flight) was reached.
    Overload,
}

/// Why a process gets no identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityError {
    /// The kind.
    pub refusal: Refusal,
    /// Whose fault it is.
    pub fault: Fault,
    /// What was refused, in one line.
    pub what: String,
    /// Which check failed, with what was expected and what was found.
    pub reason: String,
    /// What to do.
    pub remedy: String,
    /// Whether the same process can be accepted later without a change to it.
    pub transient: bool,
    /// The agent that the refusal is about, where there is exactly one.
    pub agent: Option<String>,
    /// What was known of the process.
    pub facts: Option<Box<ProcessFacts>>,
}

impl IdentityError {
    pub(super) fn new(refusal: Refusal, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (fault, transient) = match refusal {
            Refusal::Process => (Fault::Agent, true),
            Refusal::Ambiguous => (Fault::Operator, false),
            Refusal::NoKeys | Refusal::Overload => (Fault::Interceptor, true),
            _ => (Fault::Agent, false),
        };
        Self {
            refusal,
            fault,
            what: "this process has no identity here".to_owned(),
            reason: reason.into(),
            remedy: remedy.into(),
            transient,
            agent: None,
            facts: None,
        }
    }

    pub(super) fn of(mut self, agent: &str) -> Self {
        self.agent = Some(agent.to_owned());
        self
    }

    pub(super) fn with(mut self, facts: &ProcessFacts) -> Self {
        self.facts = Some(Box::new(facts.clone()));
        self
    }
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.reason)
    }
}

impl std::error::Error for IdentityError {}

/// Longest piece of foreign text that a message repeats, in characters.
const QUOTE_MAX: usize = 120;

/// Foreign text in a message: quoted, escaped, cut.
pub(super) fn quote(text: &str) -> String {
    let cut: String = text.chars().take(QUOTE_MAX).collect();
    let more = if cut.len() < text.len() { ".." } else { "" };
    format!("\"{}{more}\"", cut.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_forge_lines_or_flood() {
        assert_eq!(quote("a\nb"), "\"a\\nb\"");
        assert!(quote(&"x".repeat(10_000)).len() < 200);
    }
}
