//! A table with those that it has to do with through inheritance: their tags, their code, their triggers.
//!
//! Whoever reads or writes a table does so with the tables below it, and rows of a table are seen through those above it,
//! and through whatever else is above those below: what holds for a column, a row or a write is asked of all of them.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use super::table::{LOCKED, Walker, names_of_views, union};
use crate::policy::{ActionName, TagSet};
use crate::protocol::postgres::catalog::{Code, Column, Functions, Relation, RelationKind, Tree};

/// Tables below another of which each is asked for its tags; past that, only rules that name the upper one count.
const MAX_COMPARED: usize = 512;

/// What a table is looked at for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Use {
    Read,
    Write,
    /// Its indexes and statistics are computed anew.
    Keep,
}

/// Trees that one analysis has looked at, by relation: each is looked for once.
#[derive(Default)]
pub(super) struct Families<'a> {
    trees: RefCell<HashMap<u32, Rc<Tree<'a>>>>,
    code: HashMap<(u32, Use), Rc<Functions>>,
    tags: RefCell<HashMap<u32, HashMap<Arc<str>, TagSet>>>,
    rows: RefCell<HashMap<u32, TagSet>>,
}

impl<'a> Walker<'a> {
    /// The others of a relation's tree.
    fn tree(&self, relation: &Relation) -> Rc<Tree<'a>> {
        let mut trees = self.families.trees.borrow_mut();
        // The session's heirs are there inside of views, too.
        let find = || {
            let tree = self.scope.catalog.tree(self.scope.names, relation.oid);
            let _bounded = self.members(tree.below.len() + tree.above.len());
            Rc::new(tree)
        };
        Rc::clone(trees.entry(relation.oid).or_insert_with(find))
    }

    /// The relation, and those below it.
    pub(super) fn with_below(&self, relation: &'a Relation) -> Vec<&'a Relation> {
        let tree = self.tree(relation);
        let _bounded = self.members(tree.below.len());
        tree.below.iter().copied().chain([relation]).collect()
    }

    /// The relation, and those above it.
    pub(super) fn with_above(&self, relation: &'a Relation) -> Vec<&'a Relation> {
        let tree = self.tree(relation);
        let _bounded = self.members(tree.above.len());
        tree.above.iter().copied().chain([relation]).collect()
    }

    /// The relation, and the others of its tree.
    pub(super) fn tree_oids(&self, relation: &Relation) -> Vec<u32> {
        let tree = self.tree(relation);
        tree.below.iter().chain(&tree.above).copied().chain([relation]).map(|member| member.oid).collect()
    }

    /// Tags that rules give a column of this very table.
    fn named_tags(&self, relation: &Relation, column: &str) -> TagSet {
        self.tags_by_name((self.schema_of(relation), &relation.name), column)
    }

    /// The same of whatever is, or would be, of that schema and name.
    pub(super) fn tags_by_name(&self, (schema, name): (&str, &str), column: &str) -> TagSet {
        self.scope.tags.tags(self.scope.target, self.scope.database, schema, name, column)
    }

    /// Whether a view or row policy reads it, or a table of its tree.
    pub(super) fn is_looked_at(&self, relation: &Relation) -> bool {
        let tree = self.tree(relation);
        relation.looked_at || tree.below.iter().chain(&tree.above).any(|other| other.looked_at)
    }

    /// Tags of a column: by the rules that name it in any table of the tree, and those of what it is generated from.
    pub(super) fn tags_of(&self, relation: &Relation, column: &str) -> TagSet {
        let all = self.scope.tags.all();
        if (&*relation.schema == "pg_catalog" && holds_samples(&relation.name, column))
            || (&*relation.name == "pg_stat_statements" && column == "query")
        {
            return all;
        }
        if let Some(known) = self.families.tags.borrow().get(&relation.oid).and_then(|known| known.get(column)) {
            return Arc::clone(known);
        }
        let tags = self.tags_in(&self.tree(relation), relation, column);
        // What the text itself has made has no number.
        if relation.oid != 0 {
            let mut known = self.families.tags.borrow_mut();
            known.entry(relation.oid).or_default().insert(column.into(), Arc::clone(&tags));
        }
        tags
    }

    /// The same in that tree.
    fn tags_in(&self, tree: &Tree<'_>, relation: &Relation, column: &str) -> TagSet {
        let all = self.scope.tags.all();
        let seen = || tree.below.iter().copied().chain([relation]);
        if !self.members(tree.below.len() + tree.above.len()) {
            return all;
        }
        let mut names = BTreeSet::from([column]);
        names.extend(seen().flat_map(|member| sources(member, column)));
        let mut tags = self.no_tags();
        for member in seen().chain(tree.above.iter().copied()) {
            if tags.len() == all.len() {
                break;
            }
            tags = names.iter().fold(tags, |tags, name| union(&tags, &self.named_tags(member, name)));
        }
        tags
    }

    /// Tags of all columns, and of all that the tables of its tree have.
    pub(super) fn row_tags(&self, relation: &Relation) -> TagSet {
        if let Some(known) = self.families.rows.borrow().get(&relation.oid) {
            return Arc::clone(known);
        }
        let tags = self.find_row_tags(relation);
        if relation.oid != 0 {
            self.families.rows.borrow_mut().insert(relation.oid, Arc::clone(&tags));
        }
        tags
    }

    fn find_row_tags(&self, relation: &Relation) -> TagSet {
        let (all, tree) = (self.scope.tags.all(), self.tree(relation));
        let others = || tree.below.iter().chain(&tree.above);
        if !self.members(others().map(|other| other.columns.len()).sum()) {
            return all;
        }
        let mut tags = relation
            .columns
            .iter()
            .fold(self.no_tags(), |tags, column| union(&tags, &self.tags_of(relation, &column.name)));
        for (member, column) in others().flat_map(|member| member.columns.iter().map(move |column| (member, column))) {
            if tags.len() == all.len() {
                break;
            }
            tags = union(&tags, &self.named_tags(member, &column.name));
        }
        tags
    }

    /// Whether the partition that a row goes to, or whether there is one, depends on that column.
    pub(super) fn is_partitioned_by(&self, relation: &Relation, column: &str) -> bool {
        let tree = self.tree(relation);
        if !self.members(tree.below.len() + tree.above.len()) {
            return true;
        }
        let key = |known: &Column| known.partitions && &*known.name == column;
        tree.below.iter().chain(&tree.above).copied().chain([relation]).any(|member| member.columns.iter().any(key))
    }

    /// Whether a row is moved from one part of a table to another where that column is changed.
    pub(super) fn is_parted_by(&self, relation: &Relation, column: &str) -> bool {
        let tree = self.tree(relation);
        let key = |known: &Column| known.partitions && &*known.name == column;
        let mut members = tree.below.iter().copied().chain([relation]);
        !self.members(tree.below.len()) || members.any(|member| member.columns.iter().any(key))
    }

    /// Tags of a column that it has by others of its tree alone, were it to leave these.
    pub(super) fn tags_of_others(&self, relation: &Relation, column: &str) -> TagSet {
        let own = self.own_tags(relation, column);
        Arc::new(self.tags_of(relation, column).difference(&own).cloned().collect())
    }

    /// Tags that columns of others have through a relation alone, which is to leave them: of what was copied there, too.
    pub(super) fn tags_given_to_others(&self, relation: &Relation) -> TagSet {
        let (tree, mut lost) = (self.tree(relation), self.no_tags());
        for other in &tree.above {
            let rest = self.scope.catalog.tree_without(self.scope.names, other.oid, Some(relation.oid));
            for column in relation.columns.iter().filter(|column| has(other, &column.name)) {
                let before = self.tags_of(other, &column.name);
                if !before.is_subset(&lost) {
                    let after = self.tags_in(&rest, other, &column.name);
                    lost = union(&lost, &Arc::new(before.difference(&after).cloned().collect()));
                }
            }
        }
        lost
    }

    /// Tags that a column of the database has for every session: temporary heirs give theirs to their own session alone.
    pub(super) fn lasting_tags_of(&self, relation: &Relation, column: &str) -> TagSet {
        let (mut tags, tree) = (self.tags_that_last(relation, column), self.tree(relation));
        if self.is_alone(relation) {
            return tags;
        }
        // It can be put into any of those below, where not all that the others bring is known.
        let certain = self.own_tags(relation, column);
        if tree.below.len() > MAX_COMPARED {
            return certain;
        }
        for member in &tree.below {
            if tags.is_subset(&certain) {
                break;
            }
            let of = self.tags_that_last(member, column);
            if !tags.is_subset(&of) {
                tags = Arc::new(tags.intersection(&of).cloned().collect());
            }
        }
        tags
    }

    /// Tags by rules that name a column of this very table, or what it is generated from there.
    pub(super) fn own_tags(&self, relation: &Relation, column: &str) -> TagSet {
        let named = self.named_tags(relation, column);
        sources(relation, column).fold(named, |tags, source| union(&tags, &self.named_tags(relation, source)))
    }

    fn tags_that_last(&self, relation: &Relation, column: &str) -> TagSet {
        let names = self.scope.names;
        if names.heirs.is_empty() || names.temporary.iter().any(|known| known.oid == relation.oid) {
            return self.tags_of(relation, column);
        }
        self.tags_in(&self.scope.catalog.tree(names_of_views(), relation.oid), relation, column)
    }

    /// Whether a value of a column can be refused in the table, or in one of those below.
    pub(super) fn is_bound(&self, relation: &Relation, column: &str) -> bool {
        let bound = |known: &Column| known.bound && &*known.name == column;
        let tree = self.tree(relation);
        let below = if self.is_alone(relation) { &[] } else { tree.below.as_slice() };
        if !self.members(below.len()) {
            return true;
        }
        below.iter().copied().chain([relation]).any(|member| member.columns.iter().any(bound))
    }

    /// Whether what is written goes into that table alone, whatever is below it.
    fn is_alone(&self, relation: &Relation) -> bool {
        self.placed && relation.kind != RelationKind::Partitioned
    }

    /// Tags of all such columns.
    pub(super) fn bound_tags(&self, relation: &Relation) -> TagSet {
        let bound = relation.columns.iter().filter(|column| self.is_bound(relation, &column.name));
        bound.fold(self.no_tags(), |tags, column| union(&tags, &self.tags_of(relation, &column.name)))
    }

    /// Rows that are moved from one partition to another take values along, which may not be tagged there.
    pub(super) fn moves(&mut self, action: ActionName, relation: &Relation, columns: &[Arc<str>]) {
        let moved = action == ActionName::SQL_UPDATE && !self.placed;
        if !moved || !columns.iter().any(|column| self.is_partitioned_by(relation, column)) {
            return;
        }
        let mut lost = self.no_tags();
        for column in &relation.columns {
            let kept = self.lasting_tags_of(relation, &column.name);
            let more = self.tags_of(relation, &column.name).difference(&kept).cloned().collect();
            lost = union(&lost, &Arc::new(more));
        }
        self.leak(&lost, "moved to where no rule tags it");
    }

    /// Tags that a column has only for what it is generated from.
    pub(super) fn tags_by_sources(&self, relation: &Relation, column: &str) -> TagSet {
        let tree = self.tree(relation);
        let members = tree.below.iter().chain(&tree.above).copied().chain([relation]);
        let named = members.fold(self.no_tags(), |tags, member| union(&tags, &self.named_tags(member, column)));
        Arc::new(self.tags_of(relation, column).difference(&named).cloned().collect())
    }

    /// Tags that the rows of a partition bring, but no rule gives to whatever part of its parent they are moved to; what is
    /// generated there is computed anew.
    pub(super) fn tags_brought(&self, parent: &Relation, child: &Relation) -> TagSet {
        let above = &self.tree(parent).above;
        let mut brought = self.no_tags();
        for column in &child.columns {
            let parents = above.iter().copied().chain([parent]);
            let named = parents.fold(self.no_tags(), |tags, one| union(&tags, &self.own_tags(one, &column.name)));
            let more = self.tags_of(child, &column.name).difference(&named).cloned().collect();
            brought = union(&brought, &Arc::new(more));
        }
        brought
    }

    /// Code that reading a table can set off: its own, and that of those below.
    pub(super) fn code_of(&mut self, relation: &Relation) {
        self.code_of_members(relation, Use::Read);
    }

    /// The same for one of those uses.
    pub(super) fn code_of_members(&mut self, relation: &Relation, used: Use) {
        let functions = match self.families.code.get(&(relation.oid, used)) {
            Some(known) => Rc::clone(known),
            None => {
                let found = Rc::new(self.find_code(relation, used));
                self.families.code.insert((relation.oid, used), Rc::clone(&found));
                found
            }
        };
        self.run(&functions, "called by a default, check, index or row policy, or by a column's type");
        if self.tree(relation).others {
            self.missing(LOCKED, || format!("tables that inherit with \"{}\" are not known yet", relation.name));
            self.opaque("a table of its tree that is not known");
        }
    }

    fn find_code(&self, relation: &Relation, used: Use) -> Functions {
        let tree = self.tree(relation);
        // Whether a row fits into a partition is computed by the keys of those above.
        let keys = tree.above.iter().filter(|above| used == Use::Write && above.kind == RelationKind::Partitioned);
        let members: Vec<&Relation> = tree.below.iter().chain(keys).copied().chain([relation]).collect();
        if !self.members(members.len()) {
            return Functions { others: true, ..Functions::default() };
        }
        let members = || members.iter().copied();
        let types: BTreeSet<u32> = members().flat_map(|member| &member.columns).map(|column| column.type_oid).collect();
        let types = Code { types: types.into_iter().collect(), ..Code::default() };
        self.scope.catalog.code_of(self.scope.names, members().map(|member| member.code_for(used)).chain([&types]))
    }

    /// Functions that something sets off.
    pub(super) fn run(&mut self, functions: &Functions, why: &str) {
        for function in &functions.known {
            self.hidden(*function, why);
        }
        if functions.others {
            self.opaque(&format!("a type or operator class that is not known, {why}"));
        }
    }

    /// The same before a write, which can reach foreign tables below.
    pub(super) fn code_of_tree(&mut self, relation: &Relation) {
        self.foreign_below(relation);
        self.code_of_members(relation, Use::Write);
    }

    /// Code of indexes and statistics of every table: of which one it is about is not known.
    pub(super) fn code_anywhere(&mut self) {
        let stored = |relation: &&Relation| !matches!(relation.kind, RelationKind::View | RelationKind::Composite);
        let catalog = self.catalog();
        let stored: Vec<&Relation> = catalog.relations().chain(&self.scope.names.temporary).filter(stored).collect();
        if !self.members(stored.len()) {
            return;
        }
        let types: BTreeSet<u32> =
            stored.iter().flat_map(|relation| &relation.columns).map(|column| column.type_oid).collect();
        let types = Code { types: types.into_iter().collect(), ..Code::default() };
        let code = stored.iter().map(|relation| &relation.kept).chain([&types]);
        let functions = catalog.code_of(self.scope.names, code);
        self.run(&functions, "called by a default, check, index or row policy, or by a column's type");
    }

    /// Whether a write of a table can set off triggers: its own, and those of the tables below.
    pub(super) fn has_triggers(&self, relation: &Relation) -> bool {
        let tree = self.tree(relation);
        relation.triggers || tree.below.iter().any(|other| other.triggers)
    }

    /// Another server, or a program, answers for the foreign tables of a tree: what that does, nobody knows here.
    pub(super) fn foreign_below(&mut self, relation: &Relation) {
        let tree = self.tree(relation);
        let foreign = tree.below.iter().copied().chain([relation]).filter(|other| other.kind == RelationKind::Foreign);
        for foreign in foreign.collect::<Vec<_>>() {
            let resource = self.table(foreign);
            self.opaque_on(resource, "a foreign table: something beyond this database answers for it");
        }
    }
}

impl Relation {
    const fn code_for(&self, used: Use) -> &Code {
        match used {
            Use::Read | Use::Write => &self.code,
            Use::Keep => &self.kept,
        }
    }
}

fn has(relation: &Relation, column: &str) -> bool {
    relation.columns.iter().any(|known| &*known.name == column)
}

/// Columns of a table that one of it is generated from.
fn sources<'r>(relation: &'r Relation, column: &str) -> impl Iterator<Item = &'r str> {
    let generated = relation.columns.iter().find(|known| &*known.name == column);
    let numbers = generated.into_iter().flat_map(|known| &known.generated_from);
    numbers.filter_map(|number| relation.columns.iter().find(|known| known.number == *number)).map(|known| &*known.name)
}

/// Columns of the system's tables that hold values of other tables, or tell their size, number and order, or other
/// sessions' statements. How many are NULL stays visible.
fn holds_samples(table: &str, column: &str) -> bool {
    let names = ["schemaname", "tablename", "attname", "inherited", "null_frac"];
    match table {
        "pg_stats" => !names.contains(&column),
        "pg_stats_ext_exprs" => {
            !names.contains(&column) && !column.starts_with("statistics_") && !matches!(column, "expr" | "tableid")
        }
        "pg_statistic" => {
            ["stavalues", "stanumbers", "stawidth", "stadistinct"].iter().any(|start| column.starts_with(start))
        }
        "pg_stats_ext" => column.starts_with("most_common_") || matches!(column, "n_distinct" | "dependencies"),
        "pg_stat_activity" => column == "query",
        "pg_attribute" => column == "attmissingval",
        "pg_statistic_ext_data" => column.starts_with("stxd") && column != "stxdinherit",
        _ => false,
    }
}
