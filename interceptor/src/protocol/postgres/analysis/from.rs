//! FROM: tables, views, joins, sub-selects, functions, and the name space that they make.

use std::rc::Rc;
use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{Alias, JoinExpr, JoinType, Node, RangeFunction, RangeSubselect, RangeTableFunc, RangeVar};

use super::Source;
use super::function::told_by_session;
use super::lineage::{Col, Columns, Frame, Item, Rte, join_rest, qualified_name, string};
use super::table::{LOCKED, MAX_VIEWS, View, Walker, names_of_views, union};
use crate::policy::{ActionName, TagSet};
use crate::protocol::postgres::catalog::{Relation, RelationKind};

impl<'a> Walker<'a> {
    /// Reads a FROM list into the innermost frame.
    pub(super) fn add_from(&mut self, list: &[Node]) {
        for node in list {
            let items = self.items_of(node);
            self.extend(items, true);
        }
        if let Some(frame) = self.frames.last_mut() {
            for item in &mut frame.items {
                item.lateral_only = false;
            }
        }
    }

    fn extend(&mut self, items: Vec<Item>, lateral_only: bool) {
        if let Some(frame) = self.frames.last_mut() {
            frame.items.extend(items.into_iter().map(|item| Item { lateral_only, ..item }));
        }
    }

    fn set_lateral(&mut self, lateral: bool) {
        if let Some(frame) = self.frames.last_mut() {
            frame.lateral = lateral;
        }
    }

    /// What one FROM item adds to the name space.
    pub(super) fn items_of(&mut self, node: &Node) -> Vec<Item> {
        if !self.step() {
            return Vec::new();
        }
        match &node.node {
            Some(NodeEnum::RangeVar(range)) => vec![item(self.range_var(range))],
            Some(NodeEnum::JoinExpr(join)) => self.join(join),
            Some(NodeEnum::RangeSubselect(select)) => vec![self.sub_select(select)],
            Some(NodeEnum::RangeFunction(function)) => vec![self.range_function(function)],
            Some(NodeEnum::RangeTableSample(sample)) => {
                let items = sample.relation.as_ref().map(|relation| self.items_of(relation)).unwrap_or_default();
                self.table_sample(&sample.method);
                let tags = union(&self.expressions(&sample.args), &self.maybe(sample.repeatable.as_deref()));
                self.filter(&tags);
                items
            }
            Some(NodeEnum::RangeTableFunc(table)) => vec![self.xml_table(table)],
            Some(NodeEnum::JsonTable(table)) => {
                self.syntax("json_table");
                self.set_lateral(true);
                let mut tags = self.json_value(table.context_item.as_deref());
                tags = union(&tags, &self.expressions(&table.passing));
                if let Some(path) = &table.pathspec {
                    tags = union(&tags, &self.maybe(path.string.as_deref()));
                }
                let mut names = Vec::new();
                tags = union(&tags, &self.json_columns(&table.columns, &mut names, 0));
                tags = union(&tags, &self.json_behavior(table.on_error.as_deref()));
                self.filter(&tags);
                self.set_lateral(false);
                vec![made(table.alias.as_ref(), "json_table", names, &tags)]
            }
            _ => {
                self.opaque("a FROM item that is not known");
                let tags = self.scope.tags.all();
                vec![item(Rte { alias: "".into(), schema: None, columns: Columns::unknown(tags), table: false })]
            }
        }
    }

    /// A table, view or CTE that is read.
    fn range_var(&mut self, range: &RangeVar) -> Rte {
        let cte = range.schemaname.is_empty().then(|| self.ctes.iter().rev().find(|cte| *cte.name == *range.relname));
        let (columns, schema, table) = if let Some(Some(cte)) = cte {
            (cte.columns.clone(), None, false)
        } else if let Some(relation) = self.relation(range) {
            self.reads_from(relation, None);
            self.asks_session |= &*relation.schema == "pg_catalog" && told_by_session(&relation.name);
            let mut columns = self.columns_of(relation);
            self.foreign_below(relation);
            if range.schemaname.is_empty() {
                self.behind(relation, &mut columns);
            }
            (columns, Some(Arc::clone(&relation.schema)), true)
        } else {
            (Columns::unknown(self.scope.tags.all()), None, true)
        };
        let alias = range.alias.as_ref();
        Rte {
            alias: alias.map_or(range.relname.as_str(), |alias| &alias.aliasname).into(),
            schema: if alias.is_some() { None } else { schema },
            columns: renamed(columns, alias),
            table,
        }
    }

    /// What an unqualified name could come to mean while the statement waits is read, too.
    fn behind(&mut self, relation: &'a Relation, columns: &mut Columns) {
        let (names, catalog) = (self.names, self.catalog());
        for other in catalog.behind(names, relation) {
            self.reads_from(other, Some("of the same name, further on the search path"));
            let hidden = self.columns_of(other);
            self.foreign_below(other);
            let list = columns.list.iter().map(|column| {
                let same = hidden.list.iter().find(|other| other.name == column.name);
                let tags = same.map_or_else(|| column.tags.clone(), |other| union(&column.tags, &other.tags));
                Col { computed: column.computed || tags != column.tags, tags, ..column.clone() }
            });
            columns.list = list.collect();
        }
    }

    /// The relation that a name means; one that is not known is opaque.
    pub(super) fn relation(&mut self, range: &RangeVar) -> Option<&'a Relation> {
        let schema = (!range.schemaname.is_empty()).then_some(range.schemaname.as_str());
        let names = self.names;
        let found = self.catalog().resolve(names, schema, &range.relname);
        if self.names_in_doubt || self.changes.shadow(schema, &range.relname, found) {
            self.opaque(&format!("what {} means is decided by an earlier statement of the same text", range.relname));
        }
        if found.is_none() {
            let shown = shown(schema, &range.relname);
            self.missing("42P01", || format!("relation \"{shown}\" does not exist"));
            self.opaque(&format!("unknown relation {shown}"));
        }
        if !range.catalogname.is_empty() && range.catalogname != self.scope.database {
            self.opaque("a relation of another database");
        }
        found
    }

    /// Columns of a relation, with their tags; those of a view with what its definition adds.
    pub(super) fn columns_of(&mut self, relation: &'a Relation) -> Columns {
        if self.changes.is_altered(relation) {
            self.opaque(&format!("an earlier statement of the same text has changed {}", relation.name));
        }
        let base = Rc::new(self.table(relation));
        let lineage = self.view(relation);
        let mut rest = None;
        let list = relation.columns.iter().enumerate().map(|(at, column)| {
            let mut tags = self.tags_of(relation, &column.name);
            let mut computed = !column.generated_from.is_empty();
            if let Some(lineage) = &lineage {
                if let Some(origin) = lineage.get(at).filter(|_| lineage.len() == relation.columns.len()) {
                    tags = union(&tags, &origin.tags);
                    computed = origin.computed;
                } else {
                    tags = union(&tags, &self.scope.tags.all());
                    computed = true;
                }
            }
            Col {
                name: Some(Arc::clone(&column.name)),
                tags,
                computed,
                source: Some(Source {
                    relation: relation.oid,
                    attribute: column.number,
                    column: Arc::clone(&column.name),
                }),
                base: Some(Rc::clone(&base)),
            }
        });
        let list: Rc<[Col]> = list.collect();
        if list.is_empty() && relation.kind != RelationKind::Table {
            rest = Some(self.scope.tags.all());
        }
        if relation.kind != RelationKind::Sequence {
            self.code_of(relation);
        }
        Columns { list, rest }
    }

    /// What a view's definition yields. Its reads are reads of whoever selects from the view.
    fn view(&mut self, relation: &'a Relation) -> Option<Rc<[Col]>> {
        let definition = relation.definition.as_ref()?;
        if let Some(known) = self.views.get(&relation.oid) {
            self.effects += known.effects;
            self.asks_session |= known.asks_session;
            return Some(Rc::clone(&known.columns));
        }
        if definition.is_empty() {
            self.missing(LOCKED, || {
                format!("the definition of view \"{}\" is locked by another session", relation.name)
            });
            self.opaque("a view whose definition is locked by another session");
            return Some(Rc::new([]));
        }
        if self.outer_views + self.open_views.len() >= MAX_VIEWS || self.open_views.contains(&relation.oid) {
            self.opaque("views nest deeper than is analysed");
            return Some(Rc::new([]));
        }
        self.open_views.push(relation.oid);
        let names = std::mem::replace(&mut self.names, names_of_views());
        if relation.oid_is_temporary(names) {
            self.names = names;
        }
        let doubt = std::mem::take(&mut self.names_in_doubt);
        let frames = std::mem::take(&mut self.frames);
        let ctes = std::mem::take(&mut self.ctes);
        let restricted = (self.unrestricted, std::mem::take(&mut self.filters_on_masked));
        let (effects, asked) = (self.effects, std::mem::take(&mut self.asks_session));
        let outside = self.set_aside();
        let columns = self.definition(definition);
        let inside = self.bring_back(outside);
        let read = inside.keys().filter(|(name, ..)| *name == ActionName::SQL_SELECT);
        let below = read.map(|(_, resource, _)| resource.clone()).collect();
        self.merge_actions(inside);
        // What a view filters by is the design of its owner, unless what the agent says decides it.
        self.steered |= self.filters_on_masked && self.asks_session;
        (self.unrestricted, self.filters_on_masked) = restricted;
        self.filters_on_masked |= self.steered;
        self.frames = frames;
        self.ctes = ctes;
        self.names_in_doubt = doubt;
        self.names = names;
        self.open_views.pop();
        let list = columns.map_or_else(|| Rc::from([]), |columns| columns.list);
        let seen = View { columns: Rc::clone(&list), effects: self.effects - effects, asks_session: self.asks_session };
        self.views.insert(relation.oid, seen);
        self.asks_session |= asked;
        let resource = self.table(relation);
        self.below.insert(resource, below);
        Some(list)
    }

    fn definition(&mut self, text: &str) -> Option<Columns> {
        let parsed = self.may_parse(text).then(|| super::bounds::parse(text).ok()).flatten();
        let columns = parsed.as_ref().and_then(|parsed| match parsed.stmts.as_slice() {
            [one] => match &one.stmt.as_ref()?.node {
                Some(NodeEnum::SelectStmt(select)) => Some(self.select(select)),
                _ => None,
            },
            _ => None,
        });
        if columns.as_ref().is_none_or(|columns| columns.rest.is_some()) {
            self.opaque("a view whose definition cannot be read");
            return None;
        }
        columns
    }

    fn sub_select(&mut self, range: &RangeSubselect) -> Item {
        self.set_lateral(range.lateral);
        let columns = self.sub_query(range.subquery.as_deref());
        self.set_lateral(false);
        let alias = range.alias.as_ref();
        item(Rte {
            alias: alias.map_or("", |alias| &alias.aliasname).into(),
            schema: None,
            columns: renamed(columns, alias),
            table: false,
        })
    }

    fn range_function(&mut self, range: &RangeFunction) -> Item {
        self.set_lateral(true);
        let mut tags = self.no_tags();
        let mut names: Vec<String> = Vec::new();
        let mut known = true;
        for function in &range.functions {
            let Some(NodeEnum::List(pair)) = &function.node else {
                self.opaque("a FROM item that is not known");
                continue;
            };
            for part in &pair.items {
                match &part.node {
                    Some(NodeEnum::List(columns)) => names.extend(self.column_definitions(&columns.items)),
                    None => {}
                    Some(call) => {
                        tags = union(&tags, &self.expression(part).tags);
                        if range.coldeflist.is_empty() {
                            match columns_of_call(call, range.alias.as_ref()) {
                                Some(more) => names.extend(more),
                                None => known = false,
                            }
                        }
                    }
                }
            }
        }
        names.extend(self.column_definitions(&range.coldeflist));
        if range.ordinality {
            names.push("ordinality".to_owned());
        }
        // What it is given decides how many rows there are.
        self.filter(&tags);
        self.set_lateral(false);
        let mut made = made(range.alias.as_ref(), names.first().map_or("", String::as_str), names.clone(), &tags);
        if !known {
            made.rte = Rc::new(Rte {
                alias: Arc::clone(&made.rte.alias),
                schema: None,
                columns: Columns { list: Rc::clone(&made.rte.columns.list), rest: Some(tags) },
                table: false,
            });
        }
        made
    }

    /// Names of a column definition list, whose types are looked at.
    fn column_definitions(&mut self, nodes: &[Node]) -> Vec<String> {
        let mut names = Vec::new();
        for node in nodes {
            if let Some(NodeEnum::ColumnDef(column)) = &node.node {
                self.type_name(column.type_name.as_ref());
                names.push(column.colname.clone());
            }
        }
        names
    }

    fn xml_table(&mut self, table: &RangeTableFunc) -> Item {
        self.set_lateral(true);
        let mut tags = union(&self.maybe(table.docexpr.as_deref()), &self.maybe(table.rowexpr.as_deref()));
        tags = union(&tags, &self.targets(&table.namespaces));
        let mut names = Vec::new();
        for node in &table.columns {
            let Some(NodeEnum::RangeTableFuncCol(column)) = &node.node else {
                self.opaque("a FROM item that is not known");
                continue;
            };
            self.type_name(column.type_name.as_ref());
            tags = union(&tags, &self.maybe(column.colexpr.as_deref()));
            tags = union(&tags, &self.maybe(column.coldefexpr.as_deref()));
            names.push(column.colname.clone());
        }
        self.filter(&tags);
        self.set_lateral(false);
        made(table.alias.as_ref(), "xmltable", names, &tags)
    }

    fn json_columns(&mut self, nodes: &[Node], names: &mut Vec<String>, depth: usize) -> TagSet {
        let mut tags = self.no_tags();
        for node in nodes {
            let Some(NodeEnum::JsonTableColumn(column)) = &node.node else {
                self.opaque("a FROM item that is not known");
                continue;
            };
            self.type_name(column.type_name.as_ref());
            tags = union(&tags, &self.json_behavior(column.on_empty.as_deref()));
            tags = union(&tags, &self.json_behavior(column.on_error.as_deref()));
            if !column.name.is_empty() {
                names.push(column.name.clone());
            }
            if depth < MAX_VIEWS {
                tags = union(&tags, &self.json_columns(&column.columns, names, depth + 1));
            } else if !column.columns.is_empty() {
                self.opaque("a FROM item that nests deeper than is analysed");
            }
        }
        tags
    }

    /// `TABLESAMPLE method(...)`: the method is a function.
    fn table_sample(&mut self, method: &[Node]) {
        match qualified_name(method) {
            Some((None | Some("pg_catalog"), "bernoulli" | "system")) => {}
            other => {
                let name = other.map_or("", |(_, name)| name).to_owned();
                self.opaque(&format!("unknown sampling method {name}"));
            }
        }
    }

    fn join(&mut self, join: &JoinExpr) -> Vec<Item> {
        let left = join.larg.as_ref().map(|node| self.items_of(node)).unwrap_or_default();
        let before = self.frames.last().map_or(0, |frame| frame.items.len());
        self.extend(left.clone(), true);
        let right = join.rarg.as_ref().map(|node| self.items_of(node)).unwrap_or_default();
        if let Some(frame) = self.frames.last_mut() {
            frame.items.truncate(before);
        }
        let using = self.using(join, &left, &right);
        let mut both: Vec<Item> = left.iter().chain(&right).cloned().collect();
        if let Some(quals) = &join.quals {
            // ON sees the two sides, and no other item of this FROM.
            let inner = Frame { items: both.clone(), lateral: true };
            let outer = self.frames.last_mut().map(|frame| std::mem::replace(frame, inner));
            let tags = self.expression(quals).tags;
            self.filter(&tags);
            if let (Some(frame), Some(outer)) = (self.frames.last_mut(), outer) {
                *frame = outer;
            }
        }
        let columns = self.joined(&using, &left, &right, join.jointype);
        let mut items = Vec::new();
        if let Some(alias) = &join.alias {
            // An alias hides everything inside.
            items.push(item(Rte {
                alias: alias.aliasname.as_str().into(),
                schema: None,
                columns: renamed(columns, Some(alias)),
                table: false,
            }));
            return items;
        }
        for item in &mut both {
            item.by_column = false;
        }
        items.append(&mut both);
        if let Some(alias) = &join.join_using_alias {
            let merged = columns.list.iter().take(using.len()).cloned().collect();
            let rte = Rte {
                alias: alias.aliasname.as_str().into(),
                schema: None,
                columns: Columns::of(merged),
                table: false,
            };
            items.push(Item { by_column: false, ..item(rte) });
        }
        let table = left.iter().chain(&right).any(|item| item.rte.table);
        let rte = Rte { alias: "".into(), schema: None, columns, table };
        items.push(Item { by_alias: false, ..item(rte) });
        items
    }

    /// Columns that are merged, by USING or NATURAL.
    fn using(&mut self, join: &JoinExpr, left: &[Item], right: &[Item]) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = join.using_clause.iter().filter_map(string).map(Arc::from).collect();
        if join.is_natural {
            let right: Vec<&Col> = offered(right).collect();
            let both = |name: &Arc<str>| right.iter().any(|column| column.name.as_ref() == Some(name));
            names = offered(left).filter_map(|column| column.name.clone()).filter(both).collect();
            names.dedup();
        }
        for name in &names {
            let merged: Vec<Col> = offered(left)
                .chain(offered(right))
                .filter(|column| column.name.as_ref() == Some(name))
                .cloned()
                .collect();
            for column in merged {
                self.touch(&column);
                self.filter(&column.tags);
            }
            self.operator(None, "=");
        }
        names
    }

    /// Columns of a join: the merged ones, then those of each side.
    fn joined(&self, using: &[Arc<str>], left: &[Item], right: &[Item], kind: i32) -> Columns {
        let full = kind == JoinType::JoinFull as i32;
        let is_merged = |column: &&Col| column.name.as_ref().is_some_and(|name| using.contains(name));
        let mut list = Vec::new();
        for name in using {
            let mut found = offered(left).chain(offered(right)).filter(|column| column.name.as_ref() == Some(name));
            let Some(first) = found.next() else { continue };
            let mut merged = first.clone();
            for other in found {
                merged.computed |= full || other.computed || other.tags != merged.tags;
                merged.tags = union(&merged.tags, &other.tags);
                merged.source = None;
            }
            list.push(merged);
        }
        list.extend(offered(left).filter(|column| !is_merged(column)).cloned());
        list.extend(offered(right).filter(|column| !is_merged(column)).cloned());
        let rest = left
            .iter()
            .chain(right)
            .filter(|item| item.by_column)
            .filter_map(|item| item.rte.columns.rest.as_ref())
            .fold(None, join_rest);
        Columns { list: list.into(), rest }
    }
}

impl Relation {
    fn oid_is_temporary(&self, names: &super::Names) -> bool {
        names.temporary.iter().any(|relation| relation.oid == self.oid)
    }
}

/// Columns that a side of a join offers by name.
fn offered(items: &[Item]) -> impl Iterator<Item = &Col> {
    items.iter().filter(|item| item.by_column).flat_map(|item| item.rte.columns.list.iter())
}

/// The schema that a name says.
pub(super) fn schema_of(range: &RangeVar) -> Option<&str> {
    (!range.schemaname.is_empty()).then_some(range.schemaname.as_str())
}

pub(super) fn item(rte: Rte) -> Item {
    Item { rte: Rc::new(rte), by_alias: true, by_column: true, lateral_only: false }
}

/// An item of made columns.
fn made(alias: Option<&Alias>, otherwise: &str, names: Vec<String>, tags: &TagSet) -> Item {
    let list = names.into_iter().map(|name| Col {
        name: Some(name.as_str().into()),
        tags: Arc::clone(tags),
        computed: true,
        source: None,
        base: None,
    });
    item(Rte {
        alias: alias.map_or(otherwise, |alias| &alias.aliasname).into(),
        schema: None,
        columns: renamed(Columns::of(list.collect()), alias),
        table: false,
    })
}

/// The first columns take the names that an alias gives.
pub(super) fn renamed(columns: Columns, alias: Option<&Alias>) -> Columns {
    let names = alias.map_or(&[][..], |alias| &alias.colnames);
    rename(columns, names)
}

pub(super) fn rename(columns: Columns, names: &[Node]) -> Columns {
    if names.is_empty() {
        return columns;
    }
    let mut list: Vec<Col> = columns.list.to_vec();
    for (at, name) in names.iter().filter_map(string).enumerate() {
        match list.get_mut(at) {
            // The read was of the old name: it is noted when the column is named, so it must be kept apart.
            Some(column) => column.rename(name),
            None => {
                if let Some(rest) = &columns.rest {
                    let tags = Arc::clone(rest);
                    list.push(Col { name: Some(name.into()), tags, computed: true, source: None, base: None });
                }
            }
        }
    }
    Columns { list: list.into(), rest: columns.rest }
}

/// Output names of functions whose result is not one column of their own name.
fn columns_of_call(call: &NodeEnum, alias: Option<&Alias>) -> Option<Vec<String>> {
    let NodeEnum::FuncCall(call) = call else {
        return None;
    };
    let (schema, name) = qualified_name(&call.funcname)?;
    if schema.is_some_and(|schema| schema != "pg_catalog") {
        return None;
    }
    let names: &[&str] = match name {
        "generate_series"
        | "generate_subscripts"
        | "regexp_split_to_table"
        | "string_to_table"
        | "jsonb_object_keys"
        | "json_object_keys"
        | "pg_backend_pid"
        | "now" => {
            let own = alias.map_or(name, |alias| &alias.aliasname);
            return Some(vec![own.to_owned()]);
        }
        "jsonb_array_elements" | "json_array_elements" | "jsonb_array_elements_text" | "json_array_elements_text" => {
            &["value"]
        }
        "jsonb_each" | "json_each" | "jsonb_each_text" | "json_each_text" => &["key", "value"],
        _ => return None,
    };
    Some(names.iter().map(|name| (*name).to_owned()).collect())
}

pub(super) fn shown(schema: Option<&str>, name: &str) -> String {
    schema.map_or_else(|| name.to_owned(), |schema| format!("{schema}.{name}"))
}
