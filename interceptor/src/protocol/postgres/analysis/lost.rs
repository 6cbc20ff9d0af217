//! Definitions after which a column's tags would no longer be found: renaming, taking apart, redefining.
//!
//! Rules name columns; views are traced through their definitions. Whoever changes either so that a value is no longer
//! tagged needs the right to see it unmasked.

use std::sync::Arc;

use pg_query::protobuf::{ObjectType, RangeVar, RenameStmt};

use super::define::{is_relation, name_in};
use super::lineage::Columns;
use super::table::{Walker, union};
use crate::policy::{ActionName, ResourceKind, TagSet};
use crate::protocol::postgres::catalog::Relation;

impl<'a> Walker<'a> {
    pub(super) fn rename(&mut self, rename: &RenameStmt) {
        let column = rename.rename_type == ObjectType::ObjectColumn as i32;
        if column && is_relation(rename.relation_type) {
            self.alter_relation(rename.relation.as_ref(), rename.missing_ok);
            let names = self.names;
            if let Some(range) = &rename.relation {
                let schema = (!range.schemaname.is_empty()).then_some(range.schemaname.as_str());
                if let Some(relation) = self.catalog().resolve(names, schema, &range.relname) {
                    let tags = self.tags_of(relation, &rename.subname);
                    let after = self.tags_of(relation, &rename.newname);
                    let lost: TagSet = Arc::new(tags.difference(&after).cloned().collect());
                    self.leak(&lost, "renamed, so that no rule names it");
                }
            }
        } else if is_relation(rename.rename_type) {
            self.moved(rename.relation.as_ref(), rename.missing_ok);
        } else if rename.rename_type == ObjectType::ObjectDatabase as i32 {
            self.object(ActionName::SQL_ALTER, "database", &rename.subname);
            let all = self.scope.tags.all();
            self.leak(&all, "renamed, so that no rule names it");
        } else if rename.rename_type == ObjectType::ObjectSchema as i32 {
            let resource = self.resource(ResourceKind::Schema, &[&rename.subname]);
            self.act(ActionName::SQL_ALTER, resource);
            self.resync.names = true;
            let all = self.scope.tags.all();
            self.leak(&all, "renamed, so that no rule names it");
        } else {
            let name = rename.object.as_deref().and_then(name_in).unwrap_or_default().join(".");
            self.object(ActionName::SQL_ALTER, "object", if name.is_empty() { &rename.subname } else { &name });
        }
    }

    /// A table that gets another name or schema: rules no longer name its columns.
    pub(super) fn moved(&mut self, range: Option<&RangeVar>, missing_ok: bool) {
        self.alter_relation(range, missing_ok);
        let names = self.names;
        let Some(range) = range else { return };
        let schema = (!range.schemaname.is_empty()).then_some(range.schemaname.as_str());
        if let Some(relation) = self.catalog().resolve(names, schema, &range.relname) {
            for column in &relation.columns {
                let tags = self.tags_of(relation, &column.name);
                self.leak(&tags, "renamed, so that no rule names it");
            }
        }
    }

    /// A view that gets another query: what was copied from the old one is traced through the new one.
    pub(super) fn redefined(&mut self, range: Option<&RangeVar>, columns: &Columns) {
        let Some(range) = range else { return };
        let schema = (!range.schemaname.is_empty()).then_some(range.schemaname.as_str());
        let names = self.names;
        let Some(view) = self.catalog().resolve(names, schema, &range.relname) else { return };
        let before = self.columns_of(view);
        for (at, column) in before.list.iter().enumerate() {
            let after = columns.list.get(at).filter(|_| columns.rest.is_none());
            let kept = after.map(|column| Arc::clone(&column.tags)).unwrap_or_default();
            let lost: TagSet = Arc::new(column.tags.difference(&kept).cloned().collect());
            self.leak(&lost, "no longer traced to where they come from");
        }
    }

    /// A table that goes: its columns tag those of its parents, and what was copied from there while they did.
    pub(super) fn dropped(&mut self, parts: &[&str]) {
        let (schema, name) = match parts {
            [name] => (None, *name),
            [schema, name] | [_, schema, name] => (Some(*schema), *name),
            _ => return,
        };
        let (names, catalog) = (self.names, self.catalog());
        let Some(relation) = catalog.resolve(names, schema, name) else { return };
        let lost = self.tags_given_to_others(relation);
        self.leak(&lost, "no longer tagged as the child's");
    }

    /// A table that leaves its parent: columns that are tagged as the parent's no longer are.
    pub(super) fn orphaned(&mut self, relation: Option<&'a Relation>) {
        let tags = relation.map_or_else(
            || self.scope.tags.all(),
            |relation| {
                let given = self.tags_given_to_others(relation);
                let columns = relation.columns.iter();
                columns.fold(given, |tags, column| union(&tags, &self.tags_of_others(relation, &column.name)))
            },
        );
        self.leak(&tags, "no longer tagged as the parent's");
    }
}
