//! Policy: what is asked, and the answer. Pure: no tokio, no files, no clock reads.
//!
//! A [`Command`] is what a protocol found a message to mean. [`Decision`] is what Cedar says of it. A [`Permit`] is the
//! value without which nothing is forwarded; only this module mints one, and only from a decision that is on record.

pub mod action;
pub mod decision;
pub mod denial;

pub use action::{Action, ActionName, Command, Facts, Parameter, Resource, ResourceKind, Tag, TagSet};
pub use decision::{Approval, Decision, Denied, Held, Obligations, Permit, Permitted, Recorded};
pub use denial::{Denial, Fault, Retry};
