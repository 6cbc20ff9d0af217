//! Row policies: what hides rows from whoever reads or writes a table.
//!
//! Whose rows are hidden by what is masked is filtered by it. What the agent says decides it: a setting that a condition asks for, who it
//! is, what it writes. Policies are followed to the tables and views that they look at, and to the policies of those. That they may do so as
//! another user, or not at all (owners, superusers), makes no difference here.

use super::query::all_tags;
use super::table::Walker;
use crate::policy::{ActionName, TagSet};
use crate::protocol::postgres::catalog::{Look, Looked, Relation};

/// What is not named where a table is read: its owner's design.
pub(super) const POLICIES: &str = "row policies of the table run, with what they read";

/// Policies of tables that policies look at are followed so far; past that, rows are hidden by what is masked.
const MAX_POLICIES: usize = 16;

impl<'a> Walker<'a> {
    /// A table or view is read from, whatever of it.
    pub(super) fn reads_from(&mut self, relation: &'a Relation, why: Option<&str>) {
        let resource = self.table(relation);
        let note = why.or(relation.policies.then_some(POLICIES));
        self.add(ActionName::SQL_SELECT, resource, note, &[], None);
        self.hidden_by_policies(relation, false);
    }

    /// Asks the policies of a table that is read, or written.
    pub(super) fn hidden_by_policies(&mut self, relation: &'a Relation, written: bool) {
        if relation.hidden_by.is_empty() {
            return;
        }
        if let Some(known) = self.hidden.get(&(relation.oid, written)) {
            return self.is_hidden(*known);
        }
        // Whoever comes by on the way round a circle is not asked again: what he hides counts already.
        self.hidden.insert((relation.oid, written), false);
        let looks = relation.hidden_by.iter().filter(|look| written || look.reading);
        let mut tagged = self.policies_open >= MAX_POLICIES;
        self.policies_open += 1;
        for look in looks {
            tagged = tagged || !self.look(*look).is_empty();
        }
        self.policies_open -= 1;
        self.hidden.insert((relation.oid, written), tagged);
        self.is_hidden(tagged);
    }

    fn is_hidden(&mut self, by_masked: bool) {
        self.steered |= by_masked;
        self.filters_on_masked |= by_masked;
    }

    /// Tags of what a policy looks at.
    fn look(&mut self, look: Look) -> TagSet {
        let Some(relation) = self.relation_of(look.relation) else { return self.scope.tags.all() };
        if relation.definition.is_some() {
            let Behind { tags, is_read } = self.tags_behind(relation);
            return match look.at {
                _ if !is_read => self.scope.tags.all(),
                Looked::Rows => self.no_tags(),
                Looked::Row | Looked::Column(_) => tags,
            };
        }
        self.hidden_by_policies(relation, false);
        match look.at {
            Looked::Rows => self.no_tags(),
            Looked::Row => self.row_tags(relation),
            Looked::Column(number) => {
                let column = relation.columns.iter().find(|column| column.number == number);
                match column {
                    Some(column) => self.tags_of(relation, &column.name),
                    // Of the system: where a row is, and who wrote it.
                    None if number < 0 => self.no_tags(),
                    None => self.scope.tags.all(),
                }
            }
        }
    }

    /// Whoever locks rows, or is to change them, has those policies asked as well.
    pub(super) fn hidden_from_locks(&mut self) {
        let read: Vec<u32> = self.hidden.keys().filter(|(_, written)| !written).map(|(oid, _)| *oid).collect();
        for relation in read.into_iter().filter_map(|oid| self.relation_of(oid)).collect::<Vec<_>>() {
            self.hidden_by_policies(relation, true);
        }
    }

    /// What a view is. What it does is found anew by whoever reads it himself.
    fn tags_behind(&mut self, view: &'a Relation) -> Behind {
        if let Some(known) = self.behind.get(&view.oid) {
            return known.clone();
        }
        let opaques = self.opaques();
        let (outer_views, more) = (self.outer_views, self.open_views.len() + 1);
        self.outer_views += more;
        let (outside, views) = (self.set_aside(), std::mem::take(&mut self.views));
        let open_views = std::mem::take(&mut self.open_views);
        let (functions, reads) = (self.functions.clone(), TagSet::clone(&self.reads));
        let counts = (self.calls, self.effects, self.failing, self.sub_queries, self.references);
        let (asks_session, uses_constants) = (self.asks_session, self.uses_constants);
        let columns = self.columns_of(view);
        (self.asks_session, self.uses_constants) = (asks_session, uses_constants);
        (self.calls, self.effects, self.failing, self.sub_queries, self.references) = counts;
        (self.functions, self.reads) = (functions, reads);
        (self.views, self.open_views) = (views, open_views);
        self.outer_views = outer_views;
        self.bring_back(outside);
        let behind = Behind { tags: all_tags(&columns), is_read: self.opaques() == opaques };
        self.behind.insert(view.oid, behind.clone());
        behind
    }
}

/// What a view is that a policy looks at.
#[derive(Clone)]
pub(super) struct Behind {
    /// Tags of its columns.
    tags: TagSet,
    /// Whether all that it does was understood.
    is_read: bool,
}
