//! Which column a name means, where it comes from, and what its tags are: the server's name-space rules.

use std::rc::Rc;
use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::Node;

use super::Source;
use super::table::{Walker, union};
use crate::policy::{Resource, TagSet};

/// A column that a FROM item or a query offers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Col {
    /// `None`: the server names it in a way that is not known here.
    pub(super) name: Option<Arc<str>>,
    pub(super) tags: TagSet,
    pub(super) computed: bool,
    pub(super) source: Option<Source>,
    /// The table that is read when it is named.
    pub(super) base: Option<Rc<Resource>>,
}

/// Columns of a query or FROM item.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Columns {
    pub(super) list: Rc<[Col]>,
    /// There may be others, of any name, with these tags.
    pub(super) rest: Option<TagSet>,
}

impl Col {
    /// A column of a result: reading it reads nothing further.
    pub(super) fn result(name: Option<Arc<str>>, value: Val) -> Self {
        Self { name, tags: value.tags, computed: value.computed, source: value.source, base: None }
    }

    pub(super) fn rename(&mut self, name: &str) {
        self.name = Some(name.into());
    }
}

impl From<super::OutputColumn> for Col {
    fn from(column: super::OutputColumn) -> Self {
        Self { name: column.name, tags: column.tags, computed: column.computed, source: column.source, base: None }
    }
}

impl Columns {
    pub(super) fn of(list: Vec<Col>) -> Self {
        Self { list: list.into(), rest: None }
    }

    pub(super) fn unknown(tags: TagSet) -> Self {
        Self { list: Rc::new([]), rest: Some(tags) }
    }
}

/// What a FROM item is known as.
#[derive(Debug)]
pub(super) struct Rte {
    pub(super) alias: Arc<str>,
    /// Schema of a table without an alias: it can be named in full.
    pub(super) schema: Option<Arc<str>>,
    pub(super) columns: Columns,
    /// It is a table of the database, so that it has system columns.
    pub(super) table: bool,
}

/// An [`Rte`] in a name space.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) rte: Rc<Rte>,
    /// `alias.column` and `alias` mean it.
    pub(super) by_alias: bool,
    /// `column` may mean it, and `*` includes it.
    pub(super) by_column: bool,
    /// Visible only to LATERAL items, for now.
    pub(super) lateral_only: bool,
}

/// Name space of one query.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pub(super) items: Vec<Item>,
    /// A LATERAL item is being read.
    pub(super) lateral: bool,
}

impl Frame {
    fn visible(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|item| !item.lateral_only || self.lateral)
    }
}

/// A common table expression in reach.
#[derive(Clone, Debug)]
pub(super) struct Cte {
    pub(super) name: Arc<str>,
    pub(super) columns: Columns,
}

/// What an expression yields.
#[derive(Clone, Debug)]
pub(super) struct Val {
    pub(super) tags: TagSet,
    pub(super) computed: bool,
    pub(super) source: Option<Source>,
}

impl Val {
    /// Something made, with these tags.
    pub(super) fn made(tags: TagSet) -> Self {
        Self { tags, computed: true, source: None }
    }
}

/// Stands among tags for those of columns that are not there yet.
pub(super) const ADDED: &str = "columns that are added";

const SYSTEM_COLUMNS: &[&str] = &["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];

/// undefined_column
const NO_COLUMN: &str = "42703";
/// undefined_table
const NO_RELATION: &str = "42P01";

impl Walker<'_> {
    /// What a reference means.
    pub(super) fn column_ref(&mut self, fields: &[Node]) -> Val {
        self.references += 1;
        let Some((names, star)) = field_names(fields) else {
            self.opaque("a reference that is not known");
            return Val::made(self.scope.tags.all());
        };
        if star {
            let grows = self.range_of(&names).iter().any(|rte| rte.table);
            let columns = self.star(&names);
            return Val::made(self.whole_row(&columns, grows));
        }
        match names.as_slice() {
            [column] => self.bare(column),
            [table, column] => self.qualified(None, table, column),
            [schema, table, column] | [_, schema, table, column] => self.qualified(Some(schema), table, column),
            _ => {
                self.opaque("a reference that is not known");
                Val::made(self.scope.tags.all())
            }
        }
    }

    /// What a star goes over.
    fn range_of(&self, names: &[&str]) -> Vec<Rc<Rte>> {
        match names {
            [] => self
                .frames
                .last()
                .map(|frame| frame.visible().filter(|item| item.by_column).map(|item| Rc::clone(&item.rte)).collect()),
            [table] => self.find_table(None, table).map(|rte| vec![rte]),
            [schema, table] | [_, schema, table] => self.find_table(Some(schema), table).map(|rte| vec![rte]),
            _ => None,
        }
        .unwrap_or_default()
    }

    /// Columns that a star stands for.
    pub(super) fn star(&mut self, names: &[&str]) -> Columns {
        let items = self.range_of(names);
        if items.is_empty() {
            self.opaque("a star over nothing that is known");
            return Columns::unknown(self.scope.tags.all());
        }
        let rest = items.iter().filter_map(|rte| rte.columns.rest.as_ref()).fold(None, join_rest);
        let list: Vec<Col> = items.iter().flat_map(|rte| rte.columns.list.iter().cloned()).collect();
        for column in &list {
            self.touch(column);
        }
        Columns { list: list.into(), rest }
    }

    fn bare(&mut self, column: &str) -> Val {
        let mut found: Vec<Col> = Vec::new();
        let mut unknown: Option<TagSet> = None;
        for frame in self.frames.iter().rev() {
            let items: Vec<&Item> = frame.visible().filter(|item| item.by_column).collect();
            let columns = || items.iter().flat_map(|item| item.rte.columns.list.iter());
            found.extend(columns().filter(|col| named(col, column)).cloned());
            unknown = columns().filter(|col| col.name.is_none()).map(|col| &col.tags).fold(unknown, join_rest);
            unknown = items.iter().filter_map(|item| item.rte.columns.rest.as_ref()).fold(unknown, join_rest);
            if !found.is_empty() {
                break;
            }
            if SYSTEM_COLUMNS.contains(&column) && items.iter().any(|item| item.rte.table) {
                return Val::made(unknown.unwrap_or_default());
            }
        }
        if !found.is_empty() {
            let value = self.value_of(&found);
            return match unknown {
                None => value,
                Some(rest) => Val::made(union(&value.tags, &rest)),
            };
        }
        if let Some(rte) = self.find_table(None, column) {
            let whole = self.whole_row(&rte.columns, rte.table);
            return Val::made(union(&whole, &unknown.unwrap_or_default()));
        }
        if let Some(rest) = unknown {
            self.saw(&rest);
            return Val::made(rest);
        }
        self.missing(NO_COLUMN, || format!("column \"{column}\" does not exist"));
        self.opaque(&format!("unknown column {column}"));
        Val::made(self.scope.tags.all())
    }

    fn qualified(&mut self, schema: Option<&str>, table: &str, column: &str) -> Val {
        let Some(rte) = self.find_table(schema, table) else {
            self.missing(NO_RELATION, || format!("missing FROM-clause entry for table \"{table}\""));
            self.opaque(&format!("unknown column {table}.{column}"));
            return Val::made(self.scope.tags.all());
        };
        let matches: Vec<Col> = rte.columns.list.iter().filter(|col| named(col, column)).cloned().collect();
        if !matches.is_empty() {
            return self.value_of(&matches);
        }
        if rte.table && SYSTEM_COLUMNS.contains(&column) {
            return Val::made(self.no_tags());
        }
        // `alias.name` also calls the function of that name with the whole row.
        let tags = self.whole_row(&rte.columns, rte.table);
        self.field_function(column, &tags);
        if rte.columns.rest.is_none() && rte.columns.list.iter().all(|column| column.name.is_some()) {
            self.missing(NO_COLUMN, || format!("column {table}.{column} does not exist"));
            self.opaque(&format!("unknown column {table}.{column}"));
        }
        Val::made(tags)
    }

    /// Reads a row as one value. Where that stands from then on, columns that are added belong to it; rows of functions, of
    /// sub-selects and the like `grow` by none.
    fn whole_row(&mut self, columns: &Columns, grows: bool) -> TagSet {
        let tags = self.whole(columns);
        if !grows || !self.standing || self.scope.tags.all().is_empty() {
            return tags;
        }
        Arc::new(tags.iter().cloned().chain([ADDED.into()]).collect())
    }

    /// Reads every column.
    pub(super) fn whole(&mut self, columns: &Columns) -> TagSet {
        let mut tags = self.no_tags();
        for column in columns.list.iter() {
            self.touch(column);
            tags = union(&tags, &column.tags);
        }
        if let Some(rest) = &columns.rest {
            self.saw(rest);
            tags = union(&tags, rest);
        }
        tags
    }

    /// Notes that a column is read.
    pub(super) fn touch(&mut self, column: &Col) {
        self.saw(&column.tags);
        // By its own name, whatever an alias calls it.
        let name = column.source.as_ref().map(|source| &source.column).or(column.name.as_ref());
        if let (Some(base), Some(name)) = (&column.base, name) {
            self.read(&Rc::clone(base), name, &column.tags);
        }
    }

    /// The value of whichever of these columns it is.
    fn value_of(&mut self, matches: &[Col]) -> Val {
        for column in matches {
            self.touch(column);
        }
        match matches {
            [one] => Val { tags: Arc::clone(&one.tags), computed: one.computed, source: one.source.clone() },
            many => Val::made(many.iter().fold(self.no_tags(), |tags, column| union(&tags, &column.tags))),
        }
    }

    /// The nearest FROM item of that alias.
    pub(super) fn find_table(&self, schema: Option<&str>, table: &str) -> Option<Rc<Rte>> {
        self.frames.iter().rev().find_map(|frame| {
            let mut found = frame.visible().filter(|item| {
                item.by_alias
                    && *item.rte.alias == *table
                    && schema.is_none_or(|schema| item.rte.schema.as_deref() == Some(schema))
            });
            found.next().map(|item| Rc::clone(&item.rte))
        })
    }
}

/// Tags of what is not known, of several places together.
pub(super) fn join_rest(all: Option<TagSet>, more: &TagSet) -> Option<TagSet> {
    Some(all.map_or_else(|| Arc::clone(more), |all| union(&all, more)))
}

fn named(column: &Col, name: &str) -> bool {
    column.name.as_deref() == Some(name)
}

/// The parts of a reference, and whether a star ends it.
pub(super) fn field_names(fields: &[Node]) -> Option<(Vec<&str>, bool)> {
    let (last, first) = fields.split_last()?;
    let mut names = first.iter().map(string).collect::<Option<Vec<_>>>()?;
    let star = matches!(last.node, Some(NodeEnum::AStar(_)));
    if !star {
        names.push(string(last)?);
    }
    Some((names, star))
}

/// The text of a String node.
pub(super) fn string(node: &Node) -> Option<&str> {
    match &node.node {
        Some(NodeEnum::String(text)) => Some(&text.sval),
        _ => None,
    }
}

/// Schema and name of a qualified name; a database before them is the server's to refuse.
pub(super) fn qualified_name(nodes: &[Node]) -> Option<(Option<&str>, &str)> {
    match nodes {
        [name] => Some((None, string(name)?)),
        [schema, name] | [_, schema, name] => Some((Some(string(schema)?), string(name)?)),
        _ => None,
    }
}
