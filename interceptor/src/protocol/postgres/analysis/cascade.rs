//! What foreign keys do to the rows that refer to one which is changed or removed: an UPDATE or DELETE of the server's own,
//! with everything that this sets off, and so on.
//!
//! A row that moves to another partition counts as changed; as removed to a key of a partition alone, and before version 15
//! to every key. Not seen: what triggers make of a key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Resync;
use super::table::Walker;
use super::write::Arriving;
use crate::policy::{ActionName, TagSet};
use crate::protocol::postgres::catalog::{ForeignKey, Reaction, Relation, RelationKind};

/// A write that a key brings about: of which columns, where it changes rows.
type Write<'a> = (ActionName, &'a Relation, Vec<Arc<str>>);

/// What a write has set off, by what was written, and whether rows could move. Its actions are kept already.
pub(super) type Cascades = BTreeMap<(ActionName, u32, Vec<Arc<str>>, bool), Cascaded>;

/// What it did to the statement.
#[derive(Clone)]
pub(super) struct Cascaded {
    reads: TagSet,
    resync: Resync,
    opaques: usize,
}

impl<'a> Walker<'a> {
    /// Everything that foreign keys write where rows of a table are changed or removed.
    pub(super) fn cascade(&mut self, action: ActionName, relation: &'a Relation, columns: &[Arc<str>]) {
        if !matches!(action, ActionName::SQL_UPDATE | ActionName::SQL_DELETE) || !self.step() {
            return;
        }
        let key = (action, relation.oid, columns.to_vec(), !self.placed);
        let found = match self.cascaded.get(&key).cloned() {
            Some(known) => {
                self.opaque_again(known.opaques);
                known
            }
            None => {
                let found = self.cascade_anew(action, relation, columns);
                self.cascaded.insert(key, found.clone());
                found
            }
        };
        self.saw(&found.reads);
        self.resync.names |= found.resync.names;
        self.resync.catalog |= found.resync.catalog;
    }

    fn cascade_anew(&mut self, action: ActionName, relation: &'a Relation, columns: &[Arc<str>]) -> Cascaded {
        let (reads, resync) = (std::mem::take(&mut self.reads), std::mem::take(&mut self.resync));
        let before = self.opaques();
        let placed = self.placed;
        let mut seen = BTreeSet::new();
        let mut waiting: Vec<Write<'a>> = vec![(action, relation, columns.to_vec())];
        while let Some(write) = waiting.pop() {
            for (action, other, columns) in self.reactions(&write) {
                if self.step() && seen.insert((action, other.oid, columns.clone())) {
                    self.placed = false;
                    self.write_to(action, other, &columns, Some("by a foreign key"));
                    waiting.push((action, other, columns));
                }
            }
            // What a key changes is moved, whatever the statement does.
            self.placed = false;
        }
        self.placed = placed;
        Cascaded {
            reads: std::mem::replace(&mut self.reads, reads),
            resync: std::mem::replace(&mut self.resync, resync),
            opaques: self.opaques() - before,
        }
    }

    /// What the keys that refer to a table, or to those below it, write at once.
    fn reactions(&mut self, (action, relation, columns): &Write<'a>) -> Vec<Write<'a>> {
        let (catalog, names) = (self.scope.catalog, self.scope.names);
        let updates = *action == ActionName::SQL_UPDATE;
        let members = self.referred_to(relation);
        let parted = |column: &Arc<str>| self.is_parted_by(relation, column);
        let moved = updates && !self.placed && !members.is_empty() && columns.iter().any(parted);
        let mut found = Vec::new();
        for member in members {
            let changed = if updates { changed(member, columns) } else { BTreeSet::new() };
            for key in catalog.keys_to(names, member.oid) {
                if !self.step() {
                    return found;
                }
                let Some(other) = self.relation_of(key.referring) else {
                    self.opaque("a table that refers to it, and is not known");
                    continue;
                };
                let own = !key.inherited && member.kind != RelationKind::Partitioned;
                if !updates || (moved && (own || catalog.removes_what_moves())) {
                    found.extend(removed(key, other));
                }
                found.extend(updated(key, other, &changed));
            }
        }
        found
    }

    /// The table and those below it to which keys refer that do something.
    fn referred_to(&self, relation: &'a Relation) -> Vec<&'a Relation> {
        let (catalog, names) = (self.scope.catalog, self.scope.names);
        let mut members = self.with_below(relation);
        members.retain(|member| catalog.keys_to(names, member.oid).next().is_some());
        members
    }

    /// A value that is stored in a column goes on into those that refer to it and are changed along.
    pub(super) fn arrive_by_keys(&mut self, relation: &'a Relation, column: &str, value: Arriving<'_>) {
        let Some(stored) = self.stored(relation, column).filter(|_| !value.0.is_empty()) else { return };
        let placed = std::mem::replace(&mut self.placed, false);
        let (catalog, names) = (self.scope.catalog, self.scope.names);
        let mut seen = BTreeSet::new();
        let mut waiting = vec![stored];
        while let Some((relation, column)) = waiting.pop() {
            for member in self.referred_to(relation) {
                let changed = changed(member, std::slice::from_ref(&column));
                for key in catalog.keys_to(names, member.oid).filter(|key| key.on_update == Reaction::Cascade) {
                    if !self.step() {
                        break;
                    }
                    let Some(other) = self.relation_of(key.referring) else { continue };
                    for name in named(other, &along(key, &changed)) {
                        if seen.insert((other.oid, Arc::clone(&name))) {
                            self.arrive(other, &name, value);
                            waiting.push((other, name));
                        }
                    }
                }
            }
        }
        self.placed = placed;
    }
}

/// What a key writes where a row is removed.
fn removed<'a>(key: &ForeignKey, other: &'a Relation) -> Option<Write<'a>> {
    match key.on_delete {
        Reaction::Nothing => None,
        Reaction::Cascade => Some((ActionName::SQL_DELETE, other, Vec::new())),
        Reaction::Clear => Some((ActionName::SQL_UPDATE, other, named(other, &key.cleared))),
    }
}

/// What it writes where those columns are changed.
fn updated<'a>(key: &ForeignKey, other: &'a Relation, changed: &BTreeSet<i16>) -> Option<Write<'a>> {
    let along = along(key, changed);
    match key.on_update {
        _ if along.is_empty() => None,
        Reaction::Nothing => None,
        Reaction::Cascade => Some((ActionName::SQL_UPDATE, other, named(other, &along))),
        Reaction::Clear => Some((ActionName::SQL_UPDATE, other, named(other, &key.columns))),
    }
}

/// Columns that refer to those which are changed.
fn along(key: &ForeignKey, changed: &BTreeSet<i16>) -> Vec<i16> {
    let pairs = key.columns.iter().zip(&key.keys).filter(|(_, key)| changed.contains(*key));
    pairs.map(|(column, _)| *column).collect()
}

/// Numbers of those columns of a table, and of those that are generated from them.
fn changed(relation: &Relation, columns: &[Arc<str>]) -> BTreeSet<i16> {
    let given: BTreeSet<i16> =
        relation.columns.iter().filter(|known| columns.contains(&known.name)).map(|known| known.number).collect();
    let from = |number: &i16| given.contains(number);
    let made = relation.columns.iter().filter(|known| known.generated_from.iter().any(from));
    let made: Vec<i16> = made.map(|known| known.number).collect();
    given.into_iter().chain(made).collect()
}

fn named(relation: &Relation, numbers: &[i16]) -> Vec<Arc<str>> {
    let known = |number: &i16| relation.columns.iter().find(|known| known.number == *number);
    numbers.iter().filter_map(known).map(|known| Arc::clone(&known.name)).collect()
}
