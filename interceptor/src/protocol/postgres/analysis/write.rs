//! INSERT, UPDATE, DELETE and MERGE: what is written, where values come from, and what goes out again.

use std::rc::Rc;
use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{
    CmdType, DeleteStmt, InsertStmt, MergeStmt, MergeWhenClause, Node, OnConflictClause, RangeVar, ReturningClause,
    UpdateStmt,
};

use super::from::item;
use super::hidden::POLICIES;
use super::lineage::{Col, Columns, Frame, Item, Rte, Val, string};
use super::query::all_tags;
use super::table::{MAX_VIEWS, Walker, union};
use super::{Resync, Source};
use crate::policy::{ActionName, Tag, TagSet};
use crate::protocol::postgres::catalog::{Column, Relation, RelationKind};

/// Types of which equal values are the same, so that nothing has changed: `bool`, `int8`, `int2`, `int4`, `oid`, `date`,
/// `timestamp`, `timestamptz`, `uuid`.
const PLAIN_KEYS: [u32; 9] = [16, 20, 21, 23, 26, 1082, 1114, 1184, 2950];

/// `text` and `varchar`.
const TEXT: u32 = 25;
const VARCHAR: u32 = 1043;

/// A value that is stored: its tags, whether it is made from columns, and the one column that it is.
pub(super) type Arriving<'v> = (&'v TagSet, bool, Option<&'v Source>);

impl<'a> Walker<'a> {
    pub(super) fn insert(&mut self, insert: &InsertStmt) -> Columns {
        if !self.step() {
            return Columns::unknown(self.scope.tags.all());
        }
        let outside = self.with(insert.with_clause.as_ref());
        let (relation, target) = self.target(ActionName::SQL_INSERT, insert.relation.as_ref());
        let source = insert.select_stmt.as_ref().map(|select| self.sub_query(Some(select)));
        let named: Vec<Arc<str>> = insert.cols.iter().filter_map(|node| self.assigned(node, relation)).collect();
        let mut written = self.no_tags();
        let columns = match relation {
            Some(relation) if named.is_empty() => {
                let given = source.as_ref().filter(|source| source.rest.is_none()).map(|source| source.list.len());
                let all = relation.columns.iter().map(|column| Arc::clone(&column.name));
                all.take(given.unwrap_or(usize::MAX)).collect()
            }
            _ => named,
        };
        if let Some(relation) = relation {
            self.write(ActionName::SQL_INSERT, relation, &columns);
            for column in &columns {
                written = union(&written, &self.tags_of(relation, column));
            }
            if let Some(source) = &source {
                self.flow(relation, &columns, source);
            }
        }
        self.frames.push(Frame { items: vec![target.clone()], lateral: false });
        if let Some(conflict) = &insert.on_conflict_clause {
            self.conflicts(conflict, relation, &written);
            let plain = source.as_ref().is_none_or(|source| all_tags(source).is_empty());
            let given = std::mem::replace(&mut self.given, plain);
            let proposed = proposed(&target, &columns, source.as_ref());
            self.on_conflict(conflict, relation, proposed);
            self.given = given;
        }
        let columns = self.returning(insert.returning_clause.as_ref(), 0);
        self.frames.pop();
        self.ctes.truncate(outside);
        columns
    }

    /// Which rows are there already tells their values: by the columns that are named, else by all that are given
    /// (`written` are their tags), since any of them may be unique.
    fn conflicts(&mut self, conflict: &OnConflictClause, relation: Option<&'a Relation>, written: &TagSet) {
        let Some(infer) = conflict.infer.as_ref().filter(|infer| infer.conname.is_empty()) else {
            return self.filter(written);
        };
        for node in &infer.index_elems {
            let tags = self.index_element(node, relation);
            self.filter(&tags);
        }
        let tags = self.maybe(infer.where_clause.as_deref());
        self.filter(&tags);
    }

    /// `proposed` is what was to be inserted.
    fn on_conflict(&mut self, conflict: &OnConflictClause, relation: Option<&'a Relation>, proposed: Columns) {
        let rte = Rte { alias: "excluded".into(), schema: None, columns: proposed, table: true };
        // Its columns are the values that were to be inserted; a bare name means the table's.
        if let Some(frame) = self.frames.last_mut() {
            frame.items.push(Item { by_column: false, ..item(rte) });
        }
        if !conflict.target_list.is_empty() {
            // The server moves no row for it.
            let placed = std::mem::replace(&mut self.placed, true);
            let kept = relation.map(|relation| kept_keys(conflict, relation)).unwrap_or_default();
            self.assign(ActionName::SQL_UPDATE, relation, (&conflict.target_list, &kept));
            self.placed = placed;
        }
        if let Some(condition) = &conflict.where_clause {
            let tags = self.expression(condition).tags;
            self.filter(&tags);
        }
        if let Some(frame) = self.frames.last_mut() {
            frame.items.pop();
        }
    }

    pub(super) fn update(&mut self, update: &UpdateStmt) -> Columns {
        if !self.step() {
            return Columns::unknown(self.scope.tags.all());
        }
        let outside = self.with(update.with_clause.as_ref());
        let (relation, target) = self.target(ActionName::SQL_UPDATE, update.relation.as_ref());
        self.frames.push(Frame { items: vec![Item { lateral_only: true, ..target }], lateral: false });
        self.add_from(&update.from_clause);
        self.condition(update.where_clause.as_deref());
        self.assign(ActionName::SQL_UPDATE, relation, (&update.target_list, &[]));
        let columns = self.returning(update.returning_clause.as_ref(), 0);
        self.frames.pop();
        self.ctes.truncate(outside);
        columns
    }

    pub(super) fn delete(&mut self, delete: &DeleteStmt) -> Columns {
        if !self.step() {
            return Columns::unknown(self.scope.tags.all());
        }
        let outside = self.with(delete.with_clause.as_ref());
        let (relation, target) = self.target(ActionName::SQL_DELETE, delete.relation.as_ref());
        if let Some(relation) = relation {
            self.write(ActionName::SQL_DELETE, relation, &[]);
        }
        self.frames.push(Frame { items: vec![Item { lateral_only: true, ..target }], lateral: false });
        self.add_from(&delete.using_clause);
        self.condition(delete.where_clause.as_deref());
        let columns = self.returning(delete.returning_clause.as_ref(), 0);
        self.frames.pop();
        self.ctes.truncate(outside);
        columns
    }

    pub(super) fn merge(&mut self, merge: &MergeStmt) -> Columns {
        if !self.step() {
            return Columns::unknown(self.scope.tags.all());
        }
        let outside = self.with(merge.with_clause.as_ref());
        let (relation, target) = self.target(ActionName::SQL_UPDATE, merge.relation.as_ref());
        self.frames.push(Frame { items: vec![Item { lateral_only: true, ..target }], lateral: false });
        if let Some(source) = &merge.source_relation {
            self.add_from(std::slice::from_ref(source));
        }
        self.condition(merge.join_condition.as_deref());
        for node in &merge.merge_when_clauses {
            match &node.node {
                Some(NodeEnum::MergeWhenClause(when)) => self.merge_when(when, relation),
                _ => self.opaque("a MERGE that is not known"),
            }
        }
        let writes = |node: &Node| match &node.node {
            Some(NodeEnum::MergeWhenClause(when)) => when.command_type != CmdType::CmdNothing as i32,
            _ => true,
        };
        if let Some(relation) = relation.filter(|_| !merge.merge_when_clauses.iter().any(writes)) {
            // It is locked as for a write, whatever comes of it.
            self.write(ActionName::SQL_UPDATE, relation, &[]);
        }
        // Of MERGE a star is the source's columns, then the target's.
        if let Some(frame) = self.frames.last_mut().filter(|_| merge.returning_clause.is_some()) {
            frame.items.rotate_left(1);
        }
        let at = self.frames.last().map_or(0, |frame| frame.items.len().saturating_sub(1));
        let columns = self.returning(merge.returning_clause.as_ref(), at);
        self.frames.pop();
        self.ctes.truncate(outside);
        columns
    }

    fn merge_when(&mut self, when: &MergeWhenClause, relation: Option<&'a Relation>) {
        if let Some(condition) = &when.condition {
            let tags = self.expression(condition).tags;
            self.filter(&tags);
        }
        match CmdType::try_from(when.command_type) {
            Ok(CmdType::CmdInsert) => {
                let mut values = Vec::new();
                for node in &when.values {
                    let value = self.expression(node);
                    values.push(Col::result(None, value));
                }
                let mut columns: Vec<Arc<str>> =
                    when.target_list.iter().filter_map(|node| self.assigned(node, relation)).collect();
                if let Some(relation) = relation {
                    if columns.is_empty() {
                        columns = relation.columns.iter().map(|column| Arc::clone(&column.name)).collect();
                    }
                    self.write(ActionName::SQL_INSERT, relation, &columns);
                    self.flow(relation, &columns, &Columns::of(values));
                }
            }
            Ok(CmdType::CmdUpdate) => self.assign(ActionName::SQL_UPDATE, relation, (&when.target_list, &[])),
            Ok(CmdType::CmdDelete) => {
                if let Some(relation) = relation {
                    self.write(ActionName::SQL_DELETE, relation, &[]);
                }
            }
            Ok(CmdType::CmdNothing) => {}
            _ => self.opaque("a MERGE that is not known"),
        }
    }

    /// The table that is written, and what it adds to the name space. A WITH never stands for it.
    fn target(&mut self, action: ActionName, range: Option<&RangeVar>) -> (Option<&'a Relation>, Item) {
        let relation = range.and_then(|range| self.relation(range));
        let columns = match relation {
            Some(relation) => self.columns_of(relation),
            None => {
                self.opaque("a write to a table that is not known");
                Columns::unknown(self.scope.tags.all())
            }
        };
        if let Some(relation) = relation.filter(|_| range.is_some_and(|range| range.schemaname.is_empty())) {
            for other in self.catalog().behind(self.names, relation) {
                let resource = self.table(other);
                self.add(action, resource, Some("of the same name, further on the search path"), &[], None);
                self.hidden_by_policies(other, true);
            }
        }
        let alias = range.and_then(|range| range.alias.as_ref());
        let name = alias.map_or_else(|| range.map_or("", |range| &range.relname), |alias| &alias.aliasname);
        let schema = relation.filter(|_| alias.is_none()).map(|relation| Arc::clone(&relation.schema));
        (relation, item(Rte { alias: name.into(), schema, columns, table: true }))
    }

    fn condition(&mut self, condition: Option<&Node>) {
        match condition {
            Some(condition) => {
                let references = self.references;
                let tags = self.expression(condition).tags;
                self.filter(&tags);
                // One that names no column holds for every row, or for none.
                self.unrestricted |= self.references == references;
            }
            None => self.unrestricted = true,
        }
    }

    /// A SET list, and those of its columns that get the value that they have.
    fn assign(&mut self, action: ActionName, relation: Option<&'a Relation>, (nodes, kept): (&[Node], &[Arc<str>])) {
        let mut columns = Vec::new();
        for node in nodes {
            let Some(NodeEnum::ResTarget(target)) = &node.node else {
                self.opaque("an assignment that is not known");
                continue;
            };
            let name = self.assigned(node, relation);
            let queries = self.sub_queries;
            let value = match &target.val {
                Some(value) => self.expression(value),
                None => Val::made(self.no_tags()),
            };
            if let (Some(relation), Some(name)) = (relation, name) {
                let given = self.given;
                self.given &= self.sub_queries == queries;
                let value = (&value.tags, value.computed, value.source.as_ref());
                self.arrive(relation, &name, value);
                let stored = kept.contains(&name).then(|| self.stored(relation, &name)).flatten();
                if !stored.is_some_and(|(base, column)| is_plain_key(base, &column)) {
                    self.arrive_by_keys(relation, &name, value);
                }
                self.given = given;
                columns.push(name);
            }
        }
        if let Some(relation) = relation {
            self.write_but(action, relation, &columns, kept);
        }
    }

    /// Name of the column that is assigned. Sub-scripts are read, and stay visible in what is stored.
    fn assigned(&mut self, node: &Node, relation: Option<&'a Relation>) -> Option<Arc<str>> {
        let Some(NodeEnum::ResTarget(target)) = &node.node else {
            self.opaque("an assignment that is not known");
            return None;
        };
        let scripts = target.indirection.iter().filter(|node| string(node).is_none());
        let tags = scripts.fold(self.no_tags(), |tags, node| union(&tags, &self.expression(node).tags));
        if let Some(relation) = relation {
            self.arrive(relation, &target.name, (&tags, true, None));
        }
        Some(target.name.as_str().into())
    }

    /// A write, with what it sets off.
    pub(super) fn write(&mut self, action: ActionName, relation: &'a Relation, columns: &[Arc<str>]) {
        self.write_but(action, relation, columns, &[]);
    }

    /// The same where some of the columns keep their values.
    fn write_but(&mut self, action: ActionName, relation: &'a Relation, columns: &[Arc<str>], kept: &[Arc<str>]) {
        self.builtin_casts();
        self.write_to(action, relation, columns, None);
        let changed: Vec<Arc<str>> = columns.iter().filter(|column| !kept.contains(column)).cloned().collect();
        self.cascade(action, relation, &changed);
        if relation.kind == RelationKind::View {
            self.write_through(action, relation, (columns, kept), 0);
        }
        if relation.kind == RelationKind::Sequence || relation.kind == RelationKind::Materialized {
            let resource = self.table(relation);
            self.opaque_on(resource, "a write to what is not a table");
        }
    }

    /// A write of that very relation, with what it sets off there; `how` where no statement says it.
    pub(super) fn write_to(
        &mut self,
        action: ActionName,
        relation: &'a Relation,
        columns: &[Arc<str>],
        how: Option<&str>,
    ) {
        if how.is_some() && self.changes.is_altered(relation) {
            // What the statement names was asked already.
            self.opaque(&format!("an earlier statement of the same text has changed {}", relation.name));
        }
        let resource = self.table(relation);
        let tags = columns.iter().fold(self.no_tags(), |tags, column| union(&tags, &self.tags_of(relation, column)));
        self.hidden_by_policies(relation, true);
        let triggers = self.has_triggers(relation).then_some("triggers of the table run");
        let policies = relation.policies.then_some(POLICIES);
        let note = [how, triggers, policies].into_iter().flatten().collect::<Vec<_>>().join("; ");
        self.add(action, resource.clone(), (!note.is_empty()).then_some(note.as_str()), columns, Some(&tags));
        self.moves(action, relation, columns);
        self.code_of_tree(relation);
        self.redefines(relation);
        self.quotable(relation);
        if relation.rules {
            self.opaque_on(resource, "rewrite rules of the table decide what is done");
        }
    }

    /// Rows of the system's own tables are definitions: whoever writes them changes what names mean.
    pub(super) fn redefines(&mut self, relation: &Relation) {
        if &*relation.schema == "pg_catalog" {
            self.resync = Resync { names: true, catalog: true };
        }
    }

    /// What an error of a write can quote: the whole row, a key that is there; where triggers and foreign keys go on to
    /// other tables, anything.
    fn quotable(&mut self, relation: &Relation) {
        let tags = if self.has_triggers(relation) { self.scope.tags.all() } else { self.row_tags(relation) };
        self.saw(&tags);
    }

    /// A write to a view is one to the table under it.
    fn write_through(
        &mut self,
        action: ActionName,
        view: &'a Relation,
        (columns, kept): (&[Arc<str>], &[Arc<str>]),
        depth: usize,
    ) {
        self.columns_of(view);
        let lineage = self.views.get(&view.oid).map_or_else(|| Rc::from([]), |view| Rc::clone(&view.columns));
        let mut below: Vec<u32> =
            lineage.iter().filter_map(|col| col.source.as_ref()).map(|from| from.relation).collect();
        below.sort_unstable();
        below.dedup();
        let base = match below.as_slice() {
            [one] => self.relation_of(*one),
            _ => None,
        };
        let resource = self.table(view);
        let Some(base) = base.filter(|_| depth < MAX_VIEWS) else {
            self.opaque_on(resource, "a write through a view to what is not known");
            return;
        };
        let (mut written, mut still): (Vec<Arc<str>>, Vec<Arc<str>>) = Default::default();
        for column in columns {
            let at = view.columns.iter().position(|known| known.name == *column);
            let origin = at.and_then(|at| lineage.get(at)).and_then(|origin| origin.source.as_ref());
            match origin {
                Some(origin) => {
                    let plain = kept.contains(column) && is_plain_key(base, &origin.column);
                    still.extend(plain.then(|| Arc::clone(&origin.column)));
                    written.push(Arc::clone(&origin.column));
                }
                None => self.opaque_on(resource.clone(), "a write through a view to what is not known"),
            }
        }
        self.write_to(action, base, &written, Some("through a view"));
        let changed: Vec<Arc<str>> = written.iter().filter(|column| !still.contains(column)).cloned().collect();
        self.cascade(action, base, &changed);
        if base.kind == RelationKind::View {
            self.write_through(action, base, (&written, &still), depth + 1);
        }
    }

    /// Values of a query go into columns: tags that the columns lack are lost to masking from then on.
    fn flow(&mut self, relation: &'a Relation, columns: &[Arc<str>], source: &Columns) {
        let placed = std::mem::replace(&mut self.placed, true);
        if source.rest.is_some() {
            let tags = all_tags(source);
            for column in columns {
                self.arrive(relation, column, (&tags, true, None));
            }
        } else {
            for (column, value) in columns.iter().zip(source.list.iter()) {
                self.arrive(relation, column, (&value.tags, value.computed, value.source.as_ref()));
            }
        }
        self.placed = placed;
    }

    /// A value with these tags is stored in that column.
    pub(super) fn arrive(&mut self, relation: &'a Relation, column: &str, (tags, computed, source): Arriving<'_>) {
        if tags.is_empty() {
            return;
        }
        let own = self.tags_of_stored(relation, column, 0);
        let rules = self.scope.tags;
        let pieces = |tag: &&Tag| computed && own.contains(*tag) && !rules.hides_all(tag);
        let shown: TagSet = Arc::new(tags.iter().filter(pieces).cloned().collect());
        self.leak(&shown, &format!("a piece of it, into {}.{column}, which is shown in part", relation.name));
        let lost: TagSet = Arc::new(tags.difference(&own).cloned().collect());
        self.leak(&lost, &format!("copied into {}.{column}", relation.name));
        if !self.given && !self.takes_all(relation, column, source, 0) {
            // Whether it is refused tells what it is.
            self.filter(tags);
        }
    }

    /// Whether a column takes whatever value another one holds; without one, whatever was computed.
    fn takes_all(&mut self, relation: &'a Relation, column: &str, source: Option<&Source>, depth: usize) -> bool {
        let Some(known) = relation.columns.iter().find(|known| *known.name == *column) else { return false };
        if relation.kind == RelationKind::View {
            return match self.origin(relation, column).filter(|_| depth < MAX_VIEWS) {
                Some((below, column)) => self.takes_all(below, &column, source, depth + 1),
                None => false,
            };
        }
        if self.is_bound(relation, column) || self.is_partitioned_by(relation, column) {
            return false;
        }
        let from = source.and_then(|source| {
            let from = self.relation_of(source.relation)?;
            from.columns.iter().find(|known| known.number == source.attribute)
        });
        (matches!(known.type_oid, TEXT | VARCHAR) && known.typmod == -1)
            || from.is_some_and(|from| (from.type_oid, from.typmod) == (known.type_oid, known.typmod))
    }

    /// Tags by which a column is masked wherever it is read: of a view's column those of the table's that it stands for.
    fn tags_of_stored(&mut self, relation: &'a Relation, column: &str, depth: usize) -> TagSet {
        let own = self.lasting_tags_of(relation, column);
        // What triggers store where is the design of the view's owner.
        if relation.kind != RelationKind::View || self.has_triggers(relation) {
            return own;
        }
        match self.origin(relation, column).filter(|_| depth < MAX_VIEWS) {
            Some((below, column)) => self.tags_of_stored(below, &column, depth + 1),
            None => self.no_tags(),
        }
    }

    /// The column of a table that a column stands for: itself, or what a view shows as it.
    pub(super) fn stored(&mut self, relation: &'a Relation, column: &str) -> Option<(&'a Relation, Arc<str>)> {
        let mut at = (relation, Arc::from(column));
        for _ in 0..=MAX_VIEWS {
            if at.0.kind != RelationKind::View {
                return Some(at);
            }
            at = self.origin(at.0, &at.1)?;
        }
        None
    }

    /// What a column of a view is below it.
    fn origin(&mut self, view: &'a Relation, column: &str) -> Option<(&'a Relation, Arc<str>)> {
        self.columns_of(view);
        let at = view.columns.iter().position(|known| *known.name == *column)?;
        let origin = self.views.get(&view.oid)?.columns.get(at)?.source.clone()?;
        Some((self.relation_of(origin.relation)?, origin.column))
    }

    pub(super) fn relation_of(&self, oid: u32) -> Option<&'a Relation> {
        let (catalog, names) = (self.scope.catalog, self.scope.names);
        catalog.relation(oid).or_else(|| names.temporary.iter().find(|relation| relation.oid == oid))
    }

    /// What goes out again; the target is the item at that place.
    fn returning(&mut self, clause: Option<&ReturningClause>, target: usize) -> Columns {
        let Some(clause) = clause else { return Columns::of(Vec::new()) };
        let mut added = 0;
        for node in &clause.options {
            // WITH (OLD AS o, NEW AS n): other names of the same table.
            if let Some(NodeEnum::ReturningOption(option)) = &node.node {
                self.alias_of_target(&option.value, target);
                added += 1;
            } else {
                self.opaque("a RETURNING that is not known");
            }
        }
        for name in ["old", "new"] {
            if self.find_table(None, name).is_none() {
                self.alias_of_target(name, target);
                added += 1;
            }
        }
        let columns = self.target_list(&clause.exprs);
        if let Some(frame) = self.frames.last_mut() {
            let keep = frame.items.len().saturating_sub(added);
            frame.items.truncate(keep);
        }
        columns
    }

    fn alias_of_target(&mut self, alias: &str, at: usize) {
        if let Some(frame) = self.frames.last_mut()
            && let Some(target) = frame.items.get(at)
        {
            let rte =
                Rte { alias: alias.into(), schema: None, columns: target.rte.columns.clone(), table: target.rte.table };
            frame.items.push(Item { by_column: false, ..item(rte) });
        }
    }
}

/// Whether values of a column that are equal are the same.
fn is_plain_key(relation: &Relation, column: &str) -> bool {
    let plain = |known: &Column| {
        PLAIN_KEYS.contains(&known.type_oid) || (matches!(known.type_oid, TEXT | VARCHAR) && !known.alike)
    };
    relation.columns.iter().any(|known| *known.name == *column && plain(known))
}

/// Columns by which the row was found, and that are set to what it was found by: `SET id = excluded.id`.
fn kept_keys(conflict: &OnConflictClause, relation: &Relation) -> Vec<Arc<str>> {
    let found_by = |name: &str| {
        conflict.infer.iter().flat_map(|infer| &infer.index_elems).any(|node| {
            matches!(&node.node, Some(NodeEnum::IndexElem(element)) if element.name == name && element.expr.is_none())
        })
    };
    let itself = |name: &str, value: Option<&Node>| match value.and_then(|value| value.node.as_ref()) {
        Some(NodeEnum::ColumnRef(column)) => column.fields.iter().map(string).eq([Some("excluded"), Some(name)]),
        _ => false,
    };
    let kept = |node: &Node| match &node.node {
        Some(NodeEnum::ResTarget(target)) => {
            let same = is_plain_key(relation, &target.name) && target.indirection.is_empty();
            (same && found_by(&target.name) && itself(&target.name, target.val.as_deref()))
                .then(|| target.name.as_str().into())
        }
        _ => None,
    };
    conflict.target_list.iter().filter_map(kept).collect()
}

/// What was to be inserted, as ON CONFLICT names it: no secret of the table's, though it has the column's name.
fn proposed(target: &Item, columns: &[Arc<str>], source: Option<&Columns>) -> Columns {
    let given = |column: &Col| {
        let source = source?;
        let places = columns.iter().enumerate().filter(|(_, name)| column.name.as_ref() == Some(*name));
        if source.rest.is_some() {
            return Some(all_tags(source));
        }
        // One that is named more than once is put together of fields or elements.
        let values = places.map(|(at, _)| source.list.get(at).map(|value| Arc::clone(&value.tags)));
        values.reduce(|one, other| Some(union(&one?, &other?)))?
    };
    let of = |column: &Col| {
        let tags = given(column).unwrap_or_else(|| Arc::clone(&column.tags));
        Col { base: None, tags, ..column.clone() }
    };
    Columns { list: target.rte.columns.list.iter().map(of).collect(), rest: target.rte.columns.rest.clone() }
}
