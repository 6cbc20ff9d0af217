//! Policy: what is asked, and the answer. Pure: no tokio, no files, no clock reads.
//!
//! A [`Command`] is what a protocol found a message to mean. [`Decision`] is what Cedar says of it: [`Policies::load`]
//! refuses whatever it does not understand, [`Policies::evaluate`] answers. A [`Permit`] is the value without which
//! nothing is forwarded; only this module mints one, and only from a decision that is on record.

pub mod action;
mod attributes;
pub mod cache;
pub mod decision;
pub mod denial;
pub mod evaluate;
pub mod explain;
pub mod load;
pub mod rule;
pub mod schema;

pub use action::{
    Action, ActionName, Command, Facts, GrpcFacts, HttpFacts, KubernetesFacts, McpFacts, Parameter, Resource,
    ResourceKind, Tag, TagSet,
};
pub use cache::DecisionCache;
pub use decision::{Approval, Decision, Denied, Held, Obligations, Permit, Permitted, Recorded};
pub use denial::{Denial, Fault, Retry};
pub use evaluate::{Request, SessionFacts};
pub use explain::Explanation;
pub use load::{Policies, PolicyError};

#[cfg(test)]
mod tests;
