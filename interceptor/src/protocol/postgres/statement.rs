//! What the machine has to know of a statement: its analysis, and whether what follows must wait for it.
//!
//! The machine does not analyse: it asks an [`Analyst`], so that its own tests need neither parser nor catalog.

use std::fmt;
use std::sync::Arc;

use crate::policy::{Action, ActionName, TagSet};

use super::analysis::{Analysis, CopyDirection, Cursor, Known, SessionEffect, StatementInfo};

/// A text, understood under one state of the session.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// The text, exactly.
    pub(super) text: Arc<str>,
    /// What it would do.
    pub(super) analysis: Arc<Analysis>,
    /// The analyst's epoch in which that holds.
    pub(super) epoch: u64,
    /// What follows must wait until it has happened, or not: it changes how text is read, or what names mean.
    pub(super) barrier: bool,
    /// It reads data from the agent.
    pub(super) copy_in: bool,
}

impl Reading {
    /// Sums up an analysis.
    pub(super) fn new(text: Arc<str>, analysis: Arc<Analysis>, epoch: u64) -> Self {
        let copy_in = analysis
            .statements
            .iter()
            .any(|statement| matches!(statement.effect, SessionEffect::Copy { direction: CopyDirection::In, .. }));
        let barrier = analysis.opaque
            || analysis.statements.iter().any(|statement| {
                let named = !matches!(
                    statement.effect,
                    SessionEffect::None
                        | SessionEffect::Transaction(_)
                        | SessionEffect::Execute { .. }
                        | SessionEffect::Fetch { .. }
                        | SessionEffect::Explain { .. }
                        | SessionEffect::Copy { direction: CopyDirection::Out | CopyDirection::None, .. }
                );
                named || statement.resync.names || statement.resync.catalog
            });
        Self { text, analysis, epoch, barrier, copy_in }
    }

    /// Bytes that it holds, about.
    pub(super) fn weight(&self) -> usize {
        let statements = self.analysis.statements.iter();
        let statements = statements.map(|statement| size_of::<StatementInfo>() + statement.output.weight());
        let actions = self.analysis.actions.iter();
        let actions = actions.map(|action| ACTION_WEIGHT + action.columns.len() * COLUMN_WEIGHT);
        self.text.len() + statements.sum::<usize>() + actions.sum::<usize>()
    }

    /// Whether errors and notices of it may quote values with these tags.
    pub(super) fn quotes(&self, tags: &TagSet) -> bool {
        self.analysis.statements.iter().any(|statement| !statement.reads_tagged.is_disjoint(tags))
    }

    /// Whether it sets off checks and triggers that earlier statements have deferred.
    pub(super) fn ends_deferral(&self) -> bool {
        self.analysis.statements.iter().any(|statement| {
            statement.kind == "ConstraintsSetStmt" || matches!(statement.effect, SessionEffect::Transaction(_))
        })
    }

    /// Whether it is of statements that only open, set up and end transactions: they name nothing.
    pub(super) fn names_nothing(&self) -> bool {
        let of_transaction = |statement: &StatementInfo| {
            matches!(statement.effect, SessionEffect::Transaction(_)) || statement.kind == "VariableSetStmt"
        };
        // SET of anything but the transaction is another action.
        let session = |action: &Action| action.name == ActionName::SQL_SESSION;
        !self.analysis.opaque
            && self.analysis.statements.iter().all(of_transaction)
            && self.analysis.actions.iter().all(session)
    }

    /// Whether it changes the catalog, or, with `touched`, ends a transaction that did.
    pub(super) fn changes_catalog(&self, touched: bool) -> bool {
        self.analysis.statements.iter().any(|statement| {
            statement.resync.catalog || (touched && matches!(statement.effect, SessionEffect::Transaction(_)))
        })
    }

    /// What a portal of it yields to a FETCH.
    pub(super) fn cursor(&self) -> Option<Arc<Cursor>> {
        let [statement] = self.analysis.statements.as_slice() else { return None };
        let (output, reads_tagged) = (statement.output.clone(), Arc::clone(&statement.reads_tagged));
        Some(Arc::new(Cursor { output, reads_tagged, actions: Arc::clone(&self.analysis.actions) }))
    }
}

/// Bytes that an action is counted for: itself and its resource's path.
const ACTION_WEIGHT: usize = 256;
/// Bytes that each of its columns is counted for.
const COLUMN_WEIGHT: usize = 32;

/// Who understands texts.
pub(super) trait Analyst: fmt::Debug + Send {
    /// What a text would do now. Total: what cannot be known is opaque.
    fn read(&mut self, text: &str, known: &dyn Known) -> Arc<Reading>;

    /// Whether it can be read at once: a long text is parsed elsewhere first.
    fn is_parsed(&self, _text: &str) -> bool {
        true
    }

    /// The reading of something that has no text of its own.
    fn opaque(&mut self, what: &str, why: &str) -> Arc<Reading>;

    /// Changes whenever texts may mean something else.
    fn epoch(&self) -> u64;

    /// Changes whenever the catalog may have changed, by whichever session.
    fn version(&self) -> u64;

    /// The version under which what was read last holds: another than [`Analyst::version`] where somebody has changed the
    /// catalog since, also while it was being read.
    fn read_under(&self) -> u64;

    /// The catalog is about to change.
    fn announce(&self) -> u64;

    /// Whether the session's state has to be asked from the target before the next [`Analyst::read`].
    fn is_stale(&self) -> bool;

    /// Whether a text means the same whatever names mean now, so that it need not wait until they are known.
    fn names_nothing(&self, _text: &str) -> bool {
        false
    }

    /// A statement that may have changed what texts mean has been run.
    fn touch(&mut self, names: bool, catalog: bool);

    /// Whether an unknown name in it could be known to a newer catalog; [`Analyst::is_stale`] then says that one is needed.
    fn doubt(&mut self, reading: &Reading) -> bool;

    /// The target describes another result than was read: somebody has changed a table past interceptor, and
    /// [`Analyst::is_stale`] says that a newer catalog is needed.
    fn surprise(&mut self);

    /// Tags of a table's column; `None` where they are not known. Of a view's column and of a generated one they are known
    /// only where the statement was `traced` through it.
    fn column_tags(&self, table: u32, column: i16, traced: bool) -> Option<TagSet>;

    /// Type of a table's column.
    fn column_type(&self, table: u32, column: i16) -> Option<u32>;

    /// Whether a type that is not built in carries any text.
    fn is_text(&self, type_oid: u32) -> bool;

    /// Whether a value of that type runs code that is not known.
    fn runs_code(&self, type_oid: u32) -> bool;

    /// The target reported a setting.
    fn setting(&mut self, name: &[u8], value: &[u8]);
}
