//! What foreign keys do to the rows that refer to one which is changed or removed: an UPDATE or DELETE of the server's own,
//! with everything that this sets off, and so on.
//!
//! A row that moves to another partition counts as changed and, as before version 15, as removed. Not seen: what triggers
//! make of a key.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::table::Walker;
use super::write::Arriving;
use crate::policy::ActionName;
use crate::protocol::postgres::catalog::{ForeignKey, Reaction, Relation};

/// A write that a key brings about: of which columns, where it changes rows.
type Write<'a> = (ActionName, &'a Relation, Vec<Arc<str>>);

impl<'a> Walker<'a> {
    /// Everything that foreign keys write where rows of a table are changed or removed.
    pub(super) fn cascade(&mut self, action: ActionName, relation: &'a Relation, columns: &[Arc<str>]) {
        let placed = std::mem::replace(&mut self.placed, false);
        let mut seen = BTreeSet::new();
        let mut waiting: Vec<Write<'a>> = vec![(action, relation, columns.to_vec())];
        while let Some((action, relation, columns)) = waiting.pop() {
            for (action, other, columns) in self.reactions(action, relation, &columns) {
                if self.step() && seen.insert((action, other.oid, columns.clone())) {
                    self.write_to(action, other, &columns, Some("by a foreign key"));
                    waiting.push((action, other, columns));
                }
            }
        }
        self.placed = placed;
    }

    /// What the keys that refer to a table, or to those below it, write at once.
    fn reactions(&mut self, action: ActionName, relation: &'a Relation, columns: &[Arc<str>]) -> Vec<Write<'a>> {
        let mut found = Vec::new();
        if !matches!(action, ActionName::SQL_UPDATE | ActionName::SQL_DELETE) {
            return found;
        }
        let keys = self.keys_to(relation);
        let removes = keys.iter().any(|(_, key)| key.on_delete != Reaction::Nothing);
        let removed = action == ActionName::SQL_DELETE
            || (removes && columns.iter().any(|column| self.is_partitioned_by(relation, column)));
        for (member, key) in keys {
            let Some(other) = self.relation_of(key.referring) else {
                self.opaque("a table that refers to it, and is not known");
                continue;
            };
            let cleared = |numbers: &[i16]| (ActionName::SQL_UPDATE, other, named(other, numbers));
            if removed {
                match key.on_delete {
                    Reaction::Nothing => {}
                    Reaction::Cascade => found.push((ActionName::SQL_DELETE, other, Vec::new())),
                    Reaction::Clear => found.push(cleared(&key.cleared)),
                }
            }
            let changed = changed(member, columns);
            let pairs = key.columns.iter().zip(&key.keys).filter(|(_, key)| changed.contains(*key));
            let along: Vec<i16> = pairs.map(|(column, _)| *column).collect();
            if action == ActionName::SQL_UPDATE && !along.is_empty() {
                match key.on_update {
                    Reaction::Nothing => {}
                    Reaction::Cascade => found.push(cleared(&along)),
                    Reaction::Clear => found.push(cleared(&key.columns)),
                }
            }
        }
        found
    }

    /// Keys that refer to a table or to those below it, each with the table that it refers to.
    fn keys_to(&mut self, relation: &'a Relation) -> Vec<(&'a Relation, &'a ForeignKey)> {
        let (catalog, names) = (self.scope.catalog, self.scope.names);
        let members = self.with_below(relation).into_iter();
        members.flat_map(|member| catalog.keys_to(names, member.oid).map(move |key| (member, key))).collect()
    }

    /// A value that is stored in a column goes on into those that refer to it and are changed along.
    pub(super) fn arrive_by_keys(&mut self, relation: &'a Relation, column: &str, value: Arriving<'_>) {
        let Some(stored) = self.stored(relation, column).filter(|_| !value.0.is_empty()) else { return };
        let placed = std::mem::replace(&mut self.placed, false);
        let mut seen = BTreeSet::new();
        let mut waiting = vec![stored];
        while let Some((relation, column)) = waiting.pop() {
            for (member, key) in self.keys_to(relation) {
                let Some(other) = self.relation_of(key.referring).filter(|_| key.on_update == Reaction::Cascade) else {
                    continue;
                };
                let changed = changed(member, std::slice::from_ref(&column));
                let pairs = key.columns.iter().zip(&key.keys).filter(|(_, key)| changed.contains(*key));
                for name in pairs.flat_map(|(column, _)| named(other, &[*column])).collect::<Vec<_>>() {
                    if self.step() && seen.insert((other.oid, Arc::clone(&name))) {
                        self.arrive(other, &name, value);
                        waiting.push((other, name));
                    }
                }
            }
        }
        self.placed = placed;
    }
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
