//! Definitions after which a column's tags would no longer be found, or others would be: renaming, taking apart, redefining.
//!
//! Rules name columns; views are traced through their definitions. Whoever changes either so that a value is no longer
//! tagged needs the right to see it unmasked. Whoever changes them so that a column gets a tag has perhaps had views and row
//! policies filter by it before, which nobody asks again: that counts as a filter by the tag.

use std::sync::Arc;

use pg_query::protobuf::{ObjectType, RangeVar, RenameStmt};

use super::define::{is_relation, name_in};
use super::from::schema_of;
use super::lineage::{ADDED, Columns};
use super::query::all_tags;
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
                    self.leak(&without(&tags, &after), "renamed, so that no rule names it");
                    self.filter(&without(&after, &tags));
                }
            }
        } else if is_relation(rename.rename_type) {
            self.moved(rename.relation.as_ref(), rename.missing_ok, (None, Some(&rename.newname)));
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

    /// A table that gets another schema or name: rules no longer name its columns, and others may.
    pub(super) fn moved(
        &mut self,
        range: Option<&RangeVar>,
        missing_ok: bool,
        (schema, name): (Option<&str>, Option<&str>),
    ) {
        self.alter_relation(range, missing_ok);
        let names = self.names;
        let Some(range) = range else { return };
        if let Some(relation) = self.catalog().resolve(names, schema_of(range), &range.relname) {
            let at = (schema.unwrap_or_else(|| self.schema_of(relation)), name.unwrap_or(&relation.name));
            for column in &relation.columns {
                let tags = self.tags_of(relation, &column.name);
                self.leak(&tags, "renamed, so that no rule names it");
                let got = without(&self.tags_by_name(at, &column.name), &self.own_tags(relation, &column.name));
                self.filter(&got);
            }
        }
    }

    /// A view that gets another query: what was copied from the old one is traced through the new one.
    pub(super) fn redefined(&mut self, range: Option<&RangeVar>, columns: &Columns) {
        for view in range.map(|range| self.replaced(range)).unwrap_or_default() {
            let before = self.columns_of(view);
            for (at, column) in before.list.iter().enumerate() {
                let after = columns.list.get(at).filter(|_| columns.rest.is_none());
                let kept = after.map(|column| Arc::clone(&column.tags)).unwrap_or_default();
                self.leak(&without(&column.tags, &kept), "no longer traced to where they come from");
                let given = after.map_or_else(|| all_tags(columns), |column| Arc::clone(&column.tags));
                let got = without(&given, &column.tags);
                self.filter(&Arc::new(got.iter().filter(|tag| ***tag != *ADDED).cloned().collect()));
            }
        }
    }

    /// What CREATE OR REPLACE could replace: a temporary one, and what is where others are made.
    fn replaced(&self, range: &RangeVar) -> Vec<&'a Relation> {
        let (names, catalog) = (self.names, self.catalog());
        if let Some(schema) = schema_of(range) {
            return catalog.resolve(names, Some(schema), &range.relname).into_iter().collect();
        }
        if range.relpersistence == "t" {
            return catalog.resolve(names, Some("pg_temp"), &range.relname).into_iter().collect();
        }
        let path = names.search_path.iter().filter(|schema| &***schema != "pg_catalog" && !names.is_temp(schema));
        let first = path.take(1).map(|schema| &**schema);
        ["pg_temp"].into_iter().chain(first).filter_map(|at| catalog.resolve(names, Some(at), &range.relname)).collect()
    }

    /// A table that gets a parent: each has the tags of the other from then on.
    pub(super) fn inherits(&mut self, parent: &'a Relation, child: &'a Relation) {
        for above in self.with_above(parent) {
            for column in &above.columns {
                let got = without(&self.tags_of(child, &column.name), &self.tags_of(above, &column.name));
                self.filter(&got);
            }
        }
        self.joins(parent, child);
    }

    /// The same of the child alone, where something filters by it already that the catalog knows.
    pub(super) fn joins(&mut self, parent: &'a Relation, child: &'a Relation) {
        if !self.is_looked_at(child) {
            return;
        }
        for column in &child.columns {
            let got = without(&self.tags_of(parent, &column.name), &self.tags_of(child, &column.name));
            self.filter(&got);
        }
    }

    /// A table that is made below others: these have the tags of its name, and each those of the rest.
    pub(super) fn made_below(&mut self, parents: &[&'a Relation], made: &RangeVar) {
        let schema = self.schema_to_be(made);
        let brought = |name: &str| {
            let named = self.tags_by_name((&schema, &made.relname), name);
            parents.iter().fold(named, |tags, parent| union(&tags, &self.tags_of(parent, name)))
        };
        let columns = parents.iter().flat_map(|parent| parent.columns.iter().map(move |column| (parent, column)));
        let got: Vec<TagSet> = columns
            .map(|(parent, column)| without(&brought(&column.name), &self.tags_of(parent, &column.name)))
            .collect();
        got.iter().for_each(|got| self.filter(got));
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

fn without(tags: &TagSet, others: &TagSet) -> TagSet {
    Arc::new(tags.difference(others).cloned().collect())
}
