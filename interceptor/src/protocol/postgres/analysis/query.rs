//! SELECT, VALUES, set operations and WITH.

use std::rc::Rc;
use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{CommonTableExpr, Node, SelectStmt, SetOperation, WindowDef, WithClause};

use super::expression::name_of;
use super::from::rename;
use super::lineage::{Col, Columns, Cte, Frame, field_names, join_rest, string};
use super::table::{Walker, union};
use super::{Output, OutputColumn};
use crate::policy::{ActionName, Resource, TagSet};

/// How often a recursive WITH is read until its tags no longer grow.
const MAX_ROUNDS: usize = 8;

impl Walker<'_> {
    /// A sub-query in its own name space.
    pub(super) fn sub_query(&mut self, node: Option<&Node>) -> Columns {
        self.sub_queries += 1;
        match node.and_then(|node| node.node.as_ref()) {
            Some(NodeEnum::SelectStmt(select)) => self.select(select),
            _ => {
                self.opaque("a sub-query that is not known");
                Columns::unknown(self.scope.tags.all())
            }
        }
    }

    /// Any SELECT, VALUES or set operation.
    pub(super) fn select(&mut self, select: &SelectStmt) -> Columns {
        if !self.step() {
            return Columns::unknown(self.scope.tags.all());
        }
        let outside = self.with(select.with_clause.as_ref());
        self.frames.push(Frame::default());
        let columns = if select.op == SetOperation::SetopNone as i32 || select.op == SetOperation::Undefined as i32 {
            if select.values_lists.is_empty() { self.plain(select) } else { self.values(&select.values_lists) }
        } else {
            self.set_operation(select)
        };
        self.sort(&select.sort_clause, Some(&columns));
        for limit in [&select.limit_count, &select.limit_offset].into_iter().flatten() {
            let tags = self.expression(limit).tags;
            self.filter(&tags);
        }
        self.locking(&select.locking_clause);
        self.frames.pop();
        if let Some(into) = &select.into_clause {
            self.select_into(into, &columns);
        }
        self.ctes.truncate(outside);
        columns
    }

    fn plain(&mut self, select: &SelectStmt) -> Columns {
        self.add_from(&select.from_clause);
        let references = self.references;
        if let Some(condition) = &select.where_clause {
            let tags = self.expression(condition).tags;
            self.filter(&tags);
        }
        // A condition that names no column holds for every row, or for none.
        if self.references == references
            && self.frames.last().is_some_and(|frame| frame.items.iter().any(|item| item.rte.table))
        {
            self.unrestricted = true;
        }
        let columns = self.target_list(&select.target_list);
        for node in &select.group_clause {
            self.group(node, &columns);
        }
        if let Some(having) = &select.having_clause {
            let tags = self.expression(having).tags;
            self.filter(&tags);
        }
        for node in &select.window_clause {
            if let Some(NodeEnum::WindowDef(window)) = &node.node {
                self.window(window);
            } else {
                self.opaque("a window that is not known");
            }
        }
        for node in &select.distinct_clause {
            match &node.node {
                // DISTINCT: all columns decide.
                None => {
                    let tags = all_tags(&columns);
                    self.filter(&tags);
                }
                Some(_) => self.sort_key(node, Some(&columns)),
            }
        }
        columns
    }

    fn values(&mut self, lists: &[Node]) -> Columns {
        self.builtin_casts();
        let mut list: Vec<Col> = Vec::new();
        for row in lists {
            let Some(NodeEnum::List(row)) = &row.node else {
                self.opaque("VALUES that are not known");
                continue;
            };
            for (at, node) in row.items.iter().enumerate() {
                let value = self.expression(node);
                match list.get_mut(at) {
                    Some(column) => column.tags = union(&column.tags, &value.tags),
                    None => {
                        let computed = !value.tags.is_empty();
                        let name = Some(format!("column{}", at + 1).into());
                        list.push(Col { name, tags: value.tags, computed, source: None, base: None });
                    }
                }
            }
        }
        for column in &mut list {
            column.computed = !column.tags.is_empty();
        }
        Columns::of(list)
    }

    fn set_operation(&mut self, select: &SelectStmt) -> Columns {
        self.builtin_casts();
        let mut side = |side: Option<&SelectStmt>| match side {
            Some(select) => self.select(select),
            None => Columns::unknown(self.scope.tags.all()),
        };
        let left = side(select.larg.as_deref());
        let right = side(select.rarg.as_deref());
        let rest = left.rest.iter().chain(&right.rest).fold(None, join_rest);
        let mut list = left.list.to_vec();
        for (at, column) in list.iter_mut().enumerate() {
            let Some(other) = right.list.get(at) else { continue };
            column.computed |= other.computed || column.tags != other.tags;
            column.tags = union(&column.tags, &other.tags);
            column.source = None;
        }
        let columns = Columns { list: list.into(), rest };
        if !select.all || select.op != SetOperation::SetopUnion as i32 {
            let tags = union(&all_tags(&columns), &all_tags(&right));
            self.filter(&tags);
        }
        if super::statement::into(select) {
            // The first term has named the table; all terms go into it.
            self.leak(&all_tags(&columns), "copied into a new table");
        }
        columns
    }

    /// Reads a WITH and says how many common table expressions were in reach before.
    pub(super) fn with(&mut self, clause: Option<&WithClause>) -> usize {
        let outside = self.ctes.len();
        let Some(clause) = clause else { return outside };
        let ctes: Vec<&CommonTableExpr> = clause
            .ctes
            .iter()
            .filter_map(|node| match &node.node {
                Some(NodeEnum::CommonTableExpr(cte)) => Some(&**cte),
                _ => None,
            })
            .collect();
        if ctes.len() != clause.ctes.len() {
            self.opaque("a WITH that is not known");
        }
        if !clause.recursive {
            for cte in ctes {
                let columns = self.cte(cte);
                self.ctes.push(Cte { name: cte.ctename.as_str().into(), columns });
            }
            return outside;
        }
        // Each may name itself and those after it: what is not read yet may hold anything.
        let anything = self.scope.tags.all();
        for cte in &ctes {
            let columns = Columns::unknown(Arc::clone(&anything));
            self.ctes.push(Cte { name: cte.ctename.as_str().into(), columns });
        }
        let mut stable = false;
        for round in 0..MAX_ROUNDS {
            let before: Vec<Columns> = self.ctes.iter().skip(outside).map(|cte| cte.columns.clone()).collect();
            for (at, cte) in ctes.iter().enumerate() {
                if round == 0 {
                    self.seed(cte, outside + at);
                }
                let columns = self.cte(cte);
                if let Some(known) = self.ctes.get_mut(outside + at) {
                    known.columns = columns;
                }
            }
            stable = self.ctes.iter().skip(outside).map(|cte| &cte.columns).eq(&before);
            if stable {
                break;
            }
        }
        if !stable {
            for cte in self.ctes.iter_mut().skip(outside) {
                let list = cte.columns.list.iter().cloned();
                cte.columns.list = list
                    .map(|column| Col { tags: Arc::clone(&anything), computed: true, source: None, ..column })
                    .collect();
            }
        }
        outside
    }

    /// The first term of a recursive one, which cannot name itself.
    fn seed(&mut self, cte: &CommonTableExpr, place: usize) {
        let Some(NodeEnum::SelectStmt(select)) = cte.ctequery.as_ref().and_then(|query| query.node.as_ref()) else {
            return;
        };
        let Some(first) = &select.larg else { return };
        let outside = self.with(select.with_clause.as_ref());
        let columns = self.select(first);
        self.ctes.truncate(outside);
        let columns = marked(rename(columns, &cte.aliascolnames), cte);
        if let Some(known) = self.ctes.get_mut(place) {
            known.columns = columns;
        }
    }

    fn cte(&mut self, cte: &CommonTableExpr) -> Columns {
        let columns = match cte.ctequery.as_ref().and_then(|query| query.node.as_ref()) {
            Some(NodeEnum::SelectStmt(select)) => self.select(select),
            Some(NodeEnum::InsertStmt(insert)) => self.insert(insert),
            Some(NodeEnum::UpdateStmt(update)) => self.update(update),
            Some(NodeEnum::DeleteStmt(delete)) => self.delete(delete),
            Some(NodeEnum::MergeStmt(merge)) => self.merge(merge),
            _ => {
                self.opaque("a WITH that is not known");
                Columns::unknown(self.scope.tags.all())
            }
        };
        if let Some(cycle) = &cte.cycle_clause {
            self.maybe(cycle.cycle_mark_value.as_deref());
            self.maybe(cycle.cycle_mark_default.as_deref());
            // Where rows repeat, recursion ends.
            self.filter(&all_tags(&columns));
        }
        marked(rename(columns, &cte.aliascolnames), cte)
    }

    /// Output columns of a SELECT or RETURNING list.
    pub(super) fn target_list(&mut self, nodes: &[Node]) -> Columns {
        let mut list: Vec<Col> = Vec::new();
        let mut rest = None;
        for node in nodes {
            let Some(NodeEnum::ResTarget(target)) = &node.node else {
                self.opaque("a target that is not known");
                rest = Some(self.scope.tags.all());
                continue;
            };
            let Some(value) = &target.val else { continue };
            if let Some(NodeEnum::ColumnRef(reference)) = &value.node
                && let Some((names, true)) = field_names(&reference.fields)
            {
                let columns = self.star(&names);
                list.extend(columns.list.iter().map(|column| Col { base: None, ..column.clone() }));
                rest = columns.rest.iter().fold(rest, join_rest);
                continue;
            }
            let result = self.expression(value);
            if let Some(NodeEnum::AIndirection(indirection)) = &value.node
                && indirection.indirection.last().is_some_and(|last| matches!(last.node, Some(NodeEnum::AStar(_))))
            {
                rest = join_rest(rest, &result.tags);
                continue;
            }
            let name = if target.name.is_empty() { self.output_name(value) } else { Some(target.name.as_str().into()) };
            list.push(Col::result(name, result));
        }
        Columns { list: list.into(), rest }
    }

    fn output_name(&self, value: &Node) -> Option<Arc<str>> {
        name_of(value).map(|(name, _)| name)
    }

    fn group(&mut self, node: &Node, columns: &Columns) {
        match &node.node {
            Some(NodeEnum::GroupingSet(set)) => {
                for node in &set.content {
                    self.group(node, columns);
                }
            }
            Some(NodeEnum::ColumnRef(reference)) => {
                // The input's column comes before the output's.
                let bare = field_names(&reference.fields).filter(|(names, star)| names.len() == 1 && !star);
                let own = bare.and_then(|(names, _)| names.first().copied()).filter(|name| !self.in_frame(name));
                match own {
                    Some(_) => self.sort_key(node, Some(columns)),
                    None => self.sort_key(node, None),
                }
            }
            _ => self.sort_key(node, Some(columns)),
        }
    }

    /// Whether a FROM item of this very query may offer that column.
    fn in_frame(&self, name: &str) -> bool {
        self.frames.last().is_some_and(|frame| {
            frame.items.iter().filter(|item| item.by_column).any(|item| {
                item.rte.columns.rest.is_some()
                    || item
                        .rte
                        .columns
                        .list
                        .iter()
                        .any(|column| column.name.as_deref().is_none_or(|known| known == name))
            })
        })
    }

    pub(super) fn sort(&mut self, nodes: &[Node], columns: Option<&Columns>) {
        for node in nodes {
            if let Some(NodeEnum::SortBy(sort)) = &node.node {
                if let Some(operator) = sort.use_op.last().and_then(string) {
                    let schema = sort.use_op.iter().rev().nth(1).and_then(string);
                    self.order(schema, operator);
                }
                if let Some(node) = &sort.node {
                    self.sort_key(node, columns);
                }
            } else {
                self.opaque("a sort key that is not known");
            }
        }
    }

    /// A key of ORDER BY, GROUP BY or DISTINCT ON: an output column by name or number, or an expression.
    fn sort_key(&mut self, node: &Node, columns: Option<&Columns>) {
        let of_output = |columns: &Columns| match &node.node {
            Some(NodeEnum::ColumnRef(reference)) => match field_names(&reference.fields) {
                Some((names, false)) => match names.as_slice() {
                    [name] => columns.list.iter().find(|column| column.name.as_deref() == Some(name)).cloned(),
                    _ => None,
                },
                _ => None,
            },
            Some(NodeEnum::AConst(constant)) => match &constant.val {
                Some(pg_query::protobuf::a_const::Val::Ival(number)) => {
                    let at = usize::try_from(number.ival).ok()?.checked_sub(1)?;
                    columns.list.get(at).cloned()
                }
                _ => None,
            },
            _ => None,
        };
        self.uses_constants |= matches!(node.node, Some(NodeEnum::AConst(_)));
        let tags = match columns.and_then(of_output) {
            Some(column) => column.tags,
            None => self.expression(node).tags,
        };
        self.filter(&tags);
    }

    pub(super) fn window(&mut self, window: &WindowDef) -> TagSet {
        let mut tags = self.expressions(&window.partition_clause);
        for node in &window.order_clause {
            if let Some(NodeEnum::SortBy(sort)) = &node.node {
                if let Some(operator) = sort.use_op.last().and_then(string) {
                    let schema = sort.use_op.iter().rev().nth(1).and_then(string);
                    self.order(schema, operator);
                }
                tags = union(&tags, &self.maybe(sort.node.as_deref()));
            } else {
                self.opaque("a sort key that is not known");
            }
        }
        tags = union(&tags, &self.maybe(window.start_offset.as_deref()));
        tags = union(&tags, &self.maybe(window.end_offset.as_deref()));
        self.filter(&tags);
        tags
    }

    fn locking(&mut self, clauses: &[Node]) {
        if !clauses.is_empty() {
            self.hidden_from_locks();
        }
        for clause in clauses {
            let Some(NodeEnum::LockingClause(locking)) = &clause.node else {
                self.opaque("a lock that is not known");
                continue;
            };
            let named: Vec<&str> = locking
                .locked_rels
                .iter()
                .filter_map(|node| match &node.node {
                    Some(NodeEnum::RangeVar(range)) => Some(range.relname.as_str()),
                    _ => None,
                })
                .collect();
            let items = self.frames.last().map(|frame| frame.items.clone()).unwrap_or_default();
            for item in items.iter().filter(|item| named.is_empty() || named.contains(&&*item.rte.alias)) {
                let bases: Vec<Rc<Resource>> =
                    item.rte.columns.list.iter().filter_map(|col| col.base.clone()).collect();
                if bases.is_empty() {
                    let resource = self.database();
                    self.add(ActionName::SQL_LOCK, resource, Some("rows of a sub-select"), &[], None);
                }
                for base in bases {
                    self.lock(&base);
                }
            }
        }
    }
}

/// With the columns that SEARCH and CYCLE add.
fn marked(columns: Columns, cte: &CommonTableExpr) -> Columns {
    let mut names: Vec<&str> = Vec::new();
    if let Some(search) = &cte.search_clause {
        names.push(&search.search_seq_column);
    }
    if let Some(cycle) = &cte.cycle_clause {
        names.push(&cycle.cycle_mark_column);
        names.push(&cycle.cycle_path_column);
    }
    if names.is_empty() {
        return columns;
    }
    let tags = all_tags(&columns);
    let mut list = columns.list.to_vec();
    // A second pass of a recursive one has them already.
    names.retain(|name| !list.iter().any(|column| column.name.as_deref() == Some(name)));
    list.extend(names.into_iter().map(|name| Col {
        name: Some(name.into()),
        tags: Arc::clone(&tags),
        computed: true,
        source: None,
        base: None,
    }));
    Columns { list: list.into(), rest: columns.rest }
}

/// Tags of all columns together.
pub(super) fn all_tags(columns: &Columns) -> TagSet {
    let tags = columns.list.iter().fold(TagSet::default(), |tags, column| union(&tags, &column.tags));
    columns.rest.iter().fold(tags, |tags, rest| union(&tags, rest))
}

/// As the wire machine wants it.
pub(super) fn output(columns: &Columns) -> Output {
    if columns.rest.is_some() {
        return Output::Unknown(all_tags(columns));
    }
    let list = columns.list.iter().map(|column| OutputColumn {
        name: column.name.clone(),
        tags: Arc::clone(&column.tags),
        computed: column.computed,
        source: column.source.clone(),
    });
    Output::Columns(list.collect())
}
