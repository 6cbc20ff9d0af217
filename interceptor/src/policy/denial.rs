//! A refusal, in words that an agent can act on. Each protocol puts it into its own error frame.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::telemetry::SessionId;

/// Whose fault a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The agent asked for what it may not have, or broke the protocol.
    Agent,
    /// The agent could not be identified.
    Identity,
    /// The target failed.
    Upstream,
    /// Configuration or policy is wrong.
    Operator,
    /// interceptor failed, or ran into one of its own bounds.
    Interceptor,
}

impl Fault {
    /// In one word, as recordings have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Identity => "identity",
            Self::Upstream => "upstream",
            Self::Operator => "operator",
            Self::Interceptor => "interceptor",
        }
    }
}

/// Whether it makes sense to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// The same command will be refused again.
    Never,
    /// The same command may pass later: a fault that can heal.
    Later,
    /// The same command will pass once a human approved it.
    AfterApproval,
}

/// A refusal: what, by which rule, why, what to do, whether to retry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// Whose fault it is.
    pub fault: Fault,
    /// What was refused, in one line without secrets or values.
    pub what: String,
    /// Id of the rule that decided.
    pub rule: Option<String>,
    /// Why.
    pub reason: String,
    /// What the agent, or its owner, can do.
    pub remedy: Option<String>,
    /// Whether to ask again.
    pub retry: Retry,
    /// Session in whose recording the refusal stands.
    pub session: SessionId,
}

impl Retry {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Later => "later",
            Self::AfterApproval => "after approval",
        }
    }
}

impl Denial {
    /// All that it says in one line, for clients that show no more than that.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = format!("interceptor: {}: {}", self.what, self.reason);
        for (name, value) in [("rule", &self.rule), ("remedy", &self.remedy)] {
            if let Some(value) = value {
                line.push_str(&format!("; {name}: {value}"));
            }
        }
        line + &format!("; retry: {}; session: {}", self.retry.as_str(), self.session)
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.reason)
    }
}

impl std::error::Error for Denial {}
