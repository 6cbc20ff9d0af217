//! How a refusal is put into the order of answers, and what becomes of the transaction.
//!
//! A client that reads an error knows that its transaction has failed: drivers and ORMs rely on it, and would COMMIT the
//! rest otherwise. So where something is at stake at the target (a transaction block, or a pipeline of which a part was
//! forwarded) the target is made to fail, too, by a statement of ours that no grammar accepts; the refusal takes the place
//! of its error, and the target itself does the rest: discards up to Sync, rolls back, tells the true status. Where nothing
//! is at stake, nothing at all is sent.

use bytes::{Bytes, BytesMut};

use super::super::codec::{Frontend, write};
use super::super::error::{self, Severity};
use super::client::Legs;
use super::{Expect, Machine, Step};

/// No statement starts like this; the target's own log explains itself.
const POISON: &[u8] = b"interceptor has refused a command, and this transaction with it";

/// A name that is never kept, since the statement fails.
const POISON_NAME: &[u8] = b"interceptor_refusal";

impl Machine {
    /// Refuses the message of the extended protocol that is being handled with an error of the protocol itself.
    pub(super) fn refuse_natively(
        &mut self,
        state: &str,
        message: &str,
        hint: Option<&str>,
        legs: &mut Legs<'_>,
    ) -> Step {
        self.refuse_with(state, message, hint);
        self.settle_extended(legs)
    }

    /// Words a refusal that is yet to be put into its place.
    pub(super) fn refuse_with(&mut self, state: &str, message: &str, hint: Option<&str>) {
        let mut refusal = BytesMut::new();
        let detail = format!("session: {}", self.session);
        error::put(&mut refusal, Severity::Error, state, message, Some(&detail), hint);
        self.refused = Some(refusal.freeze());
    }

    /// Words the refusal that waits, if it can be worded now.
    pub(super) fn settle_refusal(&mut self, message: &Frontend<'_>, legs: &mut Legs<'_>) -> Step {
        match message {
            Frontend::Query(_) | Frontend::FunctionCall(_) => self.settle_simple(legs),
            _ => self.settle_extended(legs),
        }
    }

    /// Words a refusal of a Query or FunctionCall, when nothing is under way.
    pub(super) fn settle_simple(&mut self, legs: &mut Legs<'_>) -> Step {
        let Some(refusal) = self.refused.take() else { return Step::Done };
        if self.open || self.status == b'T' {
            legs.outbox.hide(|out| {
                write::query(out, POISON);
            });
            self.expect.push_back(Expect::PoisonQuery(refusal));
            self.after_query();
        } else {
            legs.reply.extend_from_slice(&refusal);
            write::ready(legs.reply, self.status);
        }
        Step::Done
    }

    pub(super) fn settle_extended(&mut self, legs: &mut Legs<'_>) -> Step {
        if !self.open && !self.is_quiet() {
            // Earlier pipelines decide about the status, and their answers come first.
            return Step::Wait;
        }
        let Some(refusal) = self.refused.take() else { return Step::Done };
        if self.skip {
            // An earlier message of the pipeline has failed meanwhile: that is the error that counts.
            return Step::Done;
        }
        if self.open || self.status == b'T' {
            self.poison(refusal, legs);
        } else {
            legs.reply.extend_from_slice(&refusal);
        }
        self.skip = true;
        Step::Done
    }

    fn poison(&mut self, refusal: Bytes, legs: &mut Legs<'_>) {
        legs.outbox.hide(|out| {
            write::parse(out, POISON_NAME, POISON);
        });
        self.forwarded(Expect::Poison(refusal));
    }

    /// Refuses what a failed transaction would refuse at the target, in the target's very words: why it failed the agent was
    /// told.
    pub(super) fn refuse_failed(&mut self, simple: bool, legs: &mut Legs<'_>) -> Step {
        let message = "current transaction is aborted, commands ignored until end of transaction block";
        let mut refusal = BytesMut::new();
        error::put(&mut refusal, Severity::Error, "25P02", message, None, None);
        self.refused = Some(refusal.freeze());
        if simple { self.settle_simple(legs) } else { self.settle_extended(legs) }
    }
}
