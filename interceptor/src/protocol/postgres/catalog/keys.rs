//! Foreign keys: which tables refer to which, and what the server does to rows that refer to one which goes or changes.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Catalog, Names};

/// What becomes of rows that refer to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// They stay as they are, or the statement is refused.
    Nothing,
    /// They are removed or changed along.
    Cascade,
    /// They get NULL or the default.
    Clear,
}

/// A foreign key.
#[derive(Clone, Debug)]
pub struct ForeignKey {
    /// Name of the constraint.
    pub name: Arc<str>,
    /// The table that refers.
    pub referring: u32,
    /// The table that is referred to.
    pub referred: u32,
    /// Columns that refer.
    pub columns: Vec<i16>,
    /// Columns that they refer to, in the same order.
    pub keys: Vec<i16>,
    /// What a change of these does.
    pub on_update: Reaction,
    /// What the removal of a row does.
    pub on_delete: Reaction,
    /// Columns that are cleared where a row is removed.
    pub cleared: Vec<i16>,
}

/// Foreign keys by the table that is referred to.
#[derive(Clone, Debug, Default)]
pub struct Keys(HashMap<u32, Vec<ForeignKey>>);

impl Keys {
    pub(super) fn add(&mut self, key: ForeignKey) {
        self.0.entry(key.referred).or_default().push(key);
    }

    /// Whether there are any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn to(&self, referred: u32) -> impl Iterator<Item = &ForeignKey> {
        self.0.get(&referred).into_iter().flatten()
    }
}

impl Catalog {
    /// Foreign keys that refer to a table, with the session's own.
    pub fn keys_to<'a>(&'a self, names: &'a Names, referred: u32) -> impl Iterator<Item = &'a ForeignKey> {
        self.keys.to(referred).chain(names.keys.to(referred))
    }

    /// Foreign keys of that name by which a table refers to others: one for each partition of these.
    pub fn keys_named<'a>(
        &'a self,
        names: &'a Names,
        referring: u32,
        name: &'a str,
    ) -> impl Iterator<Item = &'a ForeignKey> {
        let all = self.keys.0.values().chain(names.keys.0.values()).flatten();
        all.filter(move |key| key.referring == referring && *key.name == *name)
    }
}
