//! What earlier statements of the same text have made or changed, where they did nothing beyond: files of migrations make
//! tables and then refer to them.
//!
//! What is made is known by its name, for definitions alone; whoever reads or writes it, or what was changed, is opaque, as
//! is everything after a statement of which it is not known which names it touches.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{ConstrType, CreateStmt, Node, RangeVar};

use super::lineage::{qualified_name, string};
use super::table::Walker;
use crate::policy::{Resource, ResourceKind};
use crate::protocol::postgres::catalog::{Code, Relation, RelationKind};

/// Bytes of a table's name that are in the names of the sequences and indexes that the server makes for it.
const KEPT: usize = 24;

/// A table or sequence that the text has made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) schema: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) primary: Vec<Arc<str>>,
}

impl Made {
    /// As a relation of which nothing but its name is known.
    pub(super) fn relation(&self) -> Relation {
        Relation {
            oid: 0,
            schema: Arc::clone(&self.schema),
            name: Arc::clone(&self.name),
            kind: RelationKind::Table,
            columns: Vec::new(),
            definition: None,
            triggers: false,
            rules: false,
            code: Code::default(),
            kept: Code::default(),
            looked_at: false,
            policies: false,
            hidden_by: Vec::new(),
            constraints: Vec::new(),
        }
    }
}

/// What a name means in a definition.
pub(super) enum Defined<'a> {
    Known(&'a Relation),
    Made(Rc<Made>),
    /// That was said.
    Unknown,
}

/// What a text has made and changed so far.
#[derive(Default)]
pub(super) struct Changes {
    tables: BTreeMap<Arc<str>, Rc<Made>>,
    enums: BTreeMap<Arc<str>, Arc<str>>,
    /// Other names of relations: indexes.
    taken: BTreeSet<Arc<str>>,
    altered: BTreeSet<u32>,
    /// Tables that have got another primary key.
    pub(super) keyed: BTreeSet<u32>,
    /// The table that the statement makes, as it names it: what it says of itself.
    making: Option<(RangeVar, Rc<Made>)>,
    /// The statement that is read has done nothing else to names.
    pub(super) only: bool,
    /// Columns are asked for by a definition.
    pub(super) defining: bool,
}

impl Changes {
    /// Whether there are any.
    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.enums.is_empty() && self.taken.is_empty() && self.altered.is_empty()
    }

    /// Whether something of that name was made, as a relation or as a type.
    pub(super) fn named(&self, name: &str) -> bool {
        let bare = name.trim_start_matches('_');
        let made = |name: &str| self.tables.contains_key(name) || self.enums.contains_key(name);
        made(name) || made(bare) || self.taken.contains(name)
    }

    /// Whether a relation of that name, found there, could be something else by now.
    pub(super) fn shadow(&self, schema: Option<&str>, name: &str, found: Option<&Relation>) -> bool {
        let beside = |made: &Made| {
            let start = made.name.as_bytes().get(..KEPT).unwrap_or(made.name.as_bytes());
            // The server cuts before a character that would not fit.
            let start = std::str::from_utf8(start)
                .map_or_else(|cut| start.get(..cut.valid_up_to()).unwrap_or(start), |_| start);
            schema.is_none_or(|schema| *schema == *made.schema)
                && name.as_bytes().starts_with(start)
                && found.is_none_or(|found| found.schema != made.schema)
        };
        self.named(name) || self.tables.values().any(|made| beside(made))
    }

    /// A name that an index or another relation takes.
    pub(super) fn take(&mut self, name: &str) {
        if !name.is_empty() {
            self.taken.insert(name.into());
        }
    }

    fn add(&mut self, made: Made) {
        self.tables.insert(Arc::clone(&made.name), Rc::new(made));
    }

    pub(super) fn is_altered(&self, relation: &Relation) -> bool {
        !self.defining && self.altered.contains(&relation.oid)
    }
}

impl<'a> Walker<'a> {
    /// A table or sequence that is named by a definition.
    pub(super) fn defined(&mut self, range: &RangeVar) -> Defined<'a> {
        let made =
            self.changes.tables.get(range.relname.as_str()).filter(|made| {
                !self.names_in_doubt && (range.schemaname.is_empty() || *range.schemaname == *made.schema)
            });
        match made {
            Some(made) => Defined::Made(Rc::clone(made)),
            None => self.relation(range).map_or(Defined::Unknown, Defined::Known),
        }
    }

    pub(super) fn made_resource(&self, made: &Made) -> Resource {
        self.resource(ResourceKind::Table, &[&made.schema, &made.name])
    }

    /// A type that the text has made, and that runs nothing.
    pub(super) fn made_type(&self, schema: Option<&str>, name: &str) -> bool {
        let of = self.changes.enums.get(name);
        !self.names_in_doubt && of.is_some_and(|of| schema.is_none_or(|schema| *schema == **of))
    }

    /// The schema where a name that is made is put, and found again whatever else there is; `None` where that is not sure.
    fn place(&self, schema: &str, name: &str) -> Option<Arc<str>> {
        let names = self.names;
        if self.names_in_doubt || self.catalog().has_event_triggers() || names.is_temp(schema) {
            return None;
        }
        if !schema.is_empty() {
            return Some(schema.into());
        }
        let first = names.search_path.iter().find(|schema| &***schema != "pg_catalog")?;
        let hidden = self.catalog().relation_in("pg_catalog", name).is_some()
            || self.catalog().type_named(names, Some("pg_catalog"), name).is_some();
        (!hidden && !names.search_path.iter().any(|schema| names.is_temp(schema))).then(|| Arc::clone(first))
    }

    /// A plain table is made.
    pub(super) fn made_table(&mut self, create: &CreateStmt) {
        let Some(range) = create.relation.as_ref().filter(|range| range.relpersistence != "t") else { return };
        let plain = create.inh_relations.is_empty() && create.partbound.is_none() && create.of_typename.is_none();
        let Some(schema) = self.place(&range.schemaname, &range.relname).filter(|_| plain) else { return };
        self.changes.only = true;
        if let Some(known) = self.catalog().relation_in(&schema, &range.relname) {
            // It is there already, or the server refuses.
            return self.altered(known);
        }
        let primary = create.table_elts.iter().chain(&create.constraints).flat_map(primary_of).collect();
        self.changes.add(Made { schema, name: range.relname.as_str().into(), primary });
    }

    /// The table that is made, while what it consists of is read.
    pub(super) fn making(&mut self, create: &CreateStmt) {
        let primary = create.table_elts.iter().chain(&create.constraints).flat_map(primary_of).collect();
        self.changes.making = create.relation.as_ref().and_then(|range| {
            let name = range.relname.as_str();
            let temporary = range.relpersistence == "t" || self.names.is_temp(&range.schemaname);
            let first =
                || self.names.search_path.iter().find(|own| &***own != "pg_catalog" && !self.names.is_temp(own));
            let schema = match range.schemaname.as_str() {
                _ if temporary => "pg_temp".into(),
                "" => Arc::clone(first()?),
                schema => schema.into(),
            };
            // A reference without a schema would find these first.
            let hidden = self.names.temporary.iter().any(|known| *known.name == *name)
                || self.catalog().relation_in("pg_catalog", name).is_some();
            let there = self.catalog().relation_in(&schema, name).is_some();
            let known = !self.names_in_doubt && !there && (!hidden || !range.schemaname.is_empty());
            known.then(|| (range.clone(), Rc::new(Made { schema, name: name.into(), primary })))
        });
    }

    /// Its definition has been read.
    pub(super) fn was_made(&mut self) {
        self.changes.making = None;
    }

    /// What a foreign key refers to: often to the table itself.
    pub(super) fn referred(&mut self, range: &RangeVar) -> Defined<'a> {
        let itself = |(made, _): &&(RangeVar, Rc<Made>)| {
            (&made.schemaname, &made.relname) == (&range.schemaname, &range.relname)
        };
        match self.changes.making.as_ref().filter(itself) {
            Some((_, made)) => Defined::Made(Rc::clone(made)),
            None => self.defined(range),
        }
    }

    /// A sequence is made.
    pub(super) fn made_sequence(&mut self, range: Option<&RangeVar>) {
        let Some(range) = range.filter(|range| range.relpersistence != "t") else { return };
        if let Some(schema) = self.place(&range.schemaname, &range.relname) {
            self.changes.only = true;
            self.changes.add(Made { schema, name: range.relname.as_str().into(), primary: Vec::new() });
        }
    }

    /// An enumeration is made.
    pub(super) fn made_enum(&mut self, name: &[Node]) {
        let Some((schema, name)) = qualified_name(name) else { return };
        if let Some(schema) = self.place(schema.unwrap_or_default(), name) {
            self.changes.only = true;
            self.changes.enums.insert(name.into(), schema);
        }
    }

    /// A table that is there gets other columns, indexes or constraints.
    pub(super) fn altered(&mut self, relation: &Relation) {
        let oids = self.tree_oids(relation);
        self.changes.altered.extend(oids);
        // What was found before that is looked for again.
        self.views.clear();
        self.hidden.clear();
        self.behind.clear();
        self.cascaded.clear();
    }

    /// A definition touches nothing but that table.
    pub(super) fn changes_only(&mut self, relation: Option<&Relation>) {
        self.changes.only = !self.names_in_doubt && !self.catalog().has_event_triggers();
        if let Some(relation) = relation {
            self.altered(relation);
        }
    }
}

/// Whether a column or constraint is a primary key.
pub(super) fn makes_key(node: &Node) -> bool {
    match &node.node {
        Some(NodeEnum::Constraint(constraint)) => constraint.contype == ConstrType::ConstrPrimary as i32,
        Some(NodeEnum::ColumnDef(column)) => column.constraints.iter().any(makes_key),
        _ => false,
    }
}

/// Columns of the primary key that an element of a table names.
fn primary_of(node: &Node) -> Vec<Arc<str>> {
    let primary = |node: &Node| match &node.node {
        Some(NodeEnum::Constraint(constraint)) if constraint.contype == ConstrType::ConstrPrimary as i32 => {
            Some(constraint.keys.iter().filter_map(string).map(Arc::from).collect::<Vec<_>>())
        }
        _ => None,
    };
    match &node.node {
        Some(NodeEnum::ColumnDef(column)) if column.constraints.iter().any(|node| primary(node).is_some()) => {
            vec![column.colname.as_str().into()]
        }
        _ => primary(node).unwrap_or_default(),
    }
}
