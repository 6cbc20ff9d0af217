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
    /// Whether it is there for a key to, or of, the table above.
    pub inherited: bool,
}

impl ForeignKey {
    fn writes(&self) -> bool {
        self.on_update != Reaction::Nothing || self.on_delete != Reaction::Nothing
    }
}

/// Foreign keys, found by either side.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    all: Vec<ForeignKey>,
    /// Those that write something, by the table that is referred to.
    writing: HashMap<u32, Vec<usize>>,
    /// All of them, by the table that refers, and their name.
    named: HashMap<u32, HashMap<Arc<str>, Vec<usize>>>,
}

impl Keys {
    pub(super) fn add(&mut self, key: ForeignKey) {
        let at = self.all.len();
        if key.writes() {
            self.writing.entry(key.referred).or_default().push(at);
        }
        self.named.entry(key.referring).or_default().entry(Arc::clone(&key.name)).or_default().push(at);
        self.all.push(key);
    }

    /// Whether there are any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    fn at<'a>(&'a self, places: Option<&'a Vec<usize>>) -> impl Iterator<Item = &'a ForeignKey> {
        places.into_iter().flatten().filter_map(|at| self.all.get(*at))
    }

    fn to(&self, referred: u32) -> impl Iterator<Item = &ForeignKey> {
        self.at(self.writing.get(&referred))
    }

    fn named(&self, referring: u32, name: &str) -> impl Iterator<Item = &ForeignKey> {
        self.at(self.named.get(&referring).and_then(|named| named.get(name)))
    }
}

impl Catalog {
    /// Foreign keys that refer to a table and write something where its rows go or change, with the session's own.
    pub fn keys_to<'a>(&'a self, names: &'a Names, referred: u32) -> impl Iterator<Item = &'a ForeignKey> {
        self.keys.to(referred).chain(names.keys.to(referred))
    }

    /// Foreign keys of that name by which a table refers to others: one for each partition of these.
    pub fn keys_named<'a>(
        &'a self,
        names: &'a Names,
        referring: u32,
        name: &str,
    ) -> impl Iterator<Item = &'a ForeignKey> {
        self.keys.named(referring, name).chain(names.keys.named(referring, name))
    }
}
