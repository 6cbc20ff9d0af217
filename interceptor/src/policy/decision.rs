//! The answer: decision, obligations, and the permit that is spent to forward.

use std::sync::Arc;

use super::action::TagSet;
use super::denial::{Fault, Retry};

/// What policy says of a command.
#[derive(Clone, Debug)]
pub enum Decision {
    /// It may run.
    Permit(Permitted),
    /// It may run once one of the approvers agrees.
    Hold(Held),
    /// It may not run.
    Deny(Denied),
}

/// A yes, that becomes a [`Permit`] when it is on record. Made by `evaluate` and by [`Held::approve`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permitted {
    pub(super) rules: Arc<[String]>,
    pub(super) obligations: Obligations,
}

impl Permitted {
    /// Ids of the policies that determined it.
    #[must_use]
    pub fn rules(&self) -> &[String] {
        &self.rules
    }

    /// The same ids, shared.
    #[must_use]
    pub fn shared_rules(&self) -> Arc<[String]> {
        Arc::clone(&self.rules)
    }

    /// What the answer must undergo.
    #[must_use]
    pub const fn obligations(&self) -> &Obligations {
        &self.obligations
    }

    /// The permit, once the decision is on record: the recorder alone can give a [`Recorded`].
    pub fn into_permit(self, recorded: Recorded) -> Permit {
        Permit { obligations: self.obligations, recorded }
    }
}

/// A yes that waits for a human.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Groups that may approve, from `@approval`; never empty. A member of any one of them may: where several policies
    /// hold, these are the groups that all of them name.
    pub approvers: Vec<String>,
    /// Ids of the policies that hold.
    pub rules: Arc<[String]>,
    /// `@reason` of those, joined.
    pub reason: String,
    pub(super) when_approved: Permitted,
}

impl Held {
    /// The yes that an approval makes of it.
    #[must_use]
    pub fn approve(self, _approval: &Approval) -> Permitted {
        self.when_approved
    }
}

/// A no, and why.
#[derive(Clone, Debug)]
pub struct Denied {
    /// Ids of the policies that forbid; empty where nothing permits.
    pub rules: Arc<[String]>,
    /// The first action that was not permitted, as `sql:drop on Table::"orders-db/orders/public/customers"`.
    pub action: String,
    /// `@reason`, or that no policy permits it.
    pub reason: String,
    /// `@remedy`.
    pub remedy: Option<String>,
    /// Whether the same command can succeed later.
    pub retry: Retry,
    /// Whose fault it is: the agent's, unless a policy failed or a bound was hit.
    pub fault: Fault,
}

/// What the answer to a permitted command must undergo.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Obligations {
    /// Tags whose values this identity may not see.
    pub masked: TagSet,
}

/// Proof that a decision is in the spool. Made by the recorder only.
#[derive(Debug)]
pub struct Recorded {
    position: u64,
}

impl Recorded {
    /// For the recorder, after the frame at `position` was accepted by the spool.
    pub(crate) const fn at(position: u64) -> Self {
        Self { position }
    }

    /// Number of the frame in the spool.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }
}

/// Proof that a human said yes to exactly this command. Made by the approval store only.
#[derive(Debug)]
pub struct Approval {
    request: String,
}

impl Approval {
    /// For the approval store, when it redeems a grant.
    pub(crate) const fn of(request: String) -> Self {
        Self { request }
    }

    /// Id of the request that was approved.
    #[must_use]
    pub fn request(&self) -> &str {
        &self.request
    }
}

/// Leave to forward one command, once. Spending it is the only way to learn the obligations.
#[derive(Debug)]
#[must_use = "a permit that is not spent forwards nothing"]
pub struct Permit {
    obligations: Obligations,
    recorded: Recorded,
}

impl Permit {
    /// Spends the permit: forward the command now, and let the answer undergo what is returned.
    #[must_use = "the obligations must be met"]
    pub fn spend(self) -> (Obligations, Recorded) {
        (self.obligations, self.recorded)
    }
}

/// Decisions without a policy, for tests of what comes after one. Not in a release build.
#[cfg(any(test, feature = "testing"))]
mod scripted {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::{Held, Obligations, Permitted};

    impl Permitted {
        /// A yes that masks these tags.
        #[must_use]
        pub fn scripted(masked: &[&str]) -> Self {
            let masked: BTreeSet<_> = masked.iter().map(|tag| Arc::from(*tag)).collect();
            Self { rules: Arc::new(["scripted".to_owned()]), obligations: Obligations { masked: Arc::new(masked) } }
        }
    }

    impl Held {
        /// A hold for one group.
        #[must_use]
        pub fn scripted(approver: &str) -> Self {
            Self {
                approvers: vec![approver.to_owned()],
                rules: Arc::new(["scripted".to_owned()]),
                reason: "scripted".to_owned(),
                when_approved: Permitted::scripted(&[]),
            }
        }
    }
}
