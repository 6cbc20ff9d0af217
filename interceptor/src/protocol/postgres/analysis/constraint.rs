//! The parts of a table: columns, constraints, indexes, bounds of partitions; and what they tell of rows that are there.

use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{ConstrType, Constraint, CreateStmt, IndexStmt, Node, RangeVar};

use super::from::item;
use super::lineage::{Columns, Frame, Rte, qualified_name, string};
use super::made::Defined;
use super::table::{Walker, union};
use crate::policy::{ActionName, TagSet};
use crate::protocol::postgres::catalog::Relation;

impl<'a> Walker<'a> {
    pub(super) fn create_table(&mut self, create: &CreateStmt) {
        self.create_relation(create.relation.as_ref());
        self.made_table(create);
        let parents = self.relations(&create.inh_relations);
        if let Some(range) = &create.relation {
            self.made_below(&parents, range);
        }
        for relation in parents {
            let resource = self.table(relation);
            self.act(ActionName::SQL_ALTER, resource);
            if create.partbound.is_some() {
                // No row of the default partition may belong into the new one.
                let tags = self.key_tags(relation);
                self.filter(&tags);
                // The bounds are compared as the key says.
                self.code_of(relation);
            }
        }
        self.type_name(create.of_typename.as_ref());
        self.making(create);
        self.with_own_columns(None, |walker| {
            for node in create.table_elts.iter().chain(&create.constraints).chain(&create.nnconstraints) {
                walker.definition_of(node, None);
            }
            if let Some(spec) = &create.partspec {
                for node in &spec.part_params {
                    if let Some(NodeEnum::PartitionElem(element)) = &node.node {
                        walker.operator_class(&element.opclass);
                        walker.maybe(element.expr.as_deref());
                    }
                }
            }
            if let Some(bound) = &create.partbound {
                walker.bounds(bound);
            }
        });
        self.was_made();
    }

    fn bounds(&mut self, bound: &pg_query::protobuf::PartitionBoundSpec) {
        self.expressions(&bound.listdatums);
        for node in bound.lowerdatums.iter().chain(&bound.upperdatums) {
            match &node.node {
                Some(NodeEnum::PartitionRangeDatum(datum)) => drop(self.maybe(datum.value.as_deref())),
                // MINVALUE and MAXVALUE look like columns here.
                Some(NodeEnum::ColumnRef(_)) => {}
                _ => drop(self.expression(node)),
            }
        }
    }

    /// Reads expressions that name a table's own columns: of one that exists, or one that is being made.
    pub(super) fn with_own_columns(&mut self, relation: Option<&'a Relation>, read: impl FnOnce(&mut Self)) {
        let defining = std::mem::replace(&mut self.changes.defining, true);
        let columns = match relation {
            Some(relation) => {
                let mut columns = self.columns_of(relation);
                // Those that the same statement adds.
                columns.rest = Some(self.no_tags());
                columns
            }
            None => Columns::unknown(self.no_tags()),
        };
        self.changes.defining = defining;
        let alias = relation.map_or_else(|| Arc::from(""), |relation| Arc::clone(&relation.name));
        let rte = Rte { alias, schema: None, columns, table: true };
        let outer = std::mem::replace(&mut self.frames, vec![Frame { items: vec![item(rte)], lateral: false }]);
        read(self);
        self.frames = outer;
    }

    /// A column or constraint.
    pub(super) fn definition_of(&mut self, node: &Node, relation: Option<&'a Relation>) {
        match &node.node {
            Some(NodeEnum::ColumnDef(column)) => {
                self.column_type(column.type_name.as_ref());
                let tags = self.maybe(column.raw_default.as_deref());
                let own = relation.map(|relation| self.tags_of(relation, &column.colname)).unwrap_or_default();
                let lost: TagSet = Arc::new(tags.difference(&own).cloned().collect());
                self.leak(&lost, "copied into a column");
                self.constraints(&column.constraints, relation, Some(&column.colname));
            }
            Some(NodeEnum::Constraint(constraint)) => self.constraint(constraint, relation, None),
            Some(NodeEnum::TableLikeClause(like)) => {
                if let Some(relation) = like.relation.as_ref().and_then(|range| self.relation(range)) {
                    self.code_like(relation);
                }
            }
            Some(NodeEnum::PartitionCmd(command)) => {
                self.on_relation(ActionName::SQL_ALTER, command.name.as_ref());
                if let Some(bound) = &command.bound {
                    self.bounds(bound);
                }
            }
            Some(NodeEnum::RangeVar(range)) => self.on_relation(ActionName::SQL_ALTER, Some(range)),
            Some(NodeEnum::TypeName(name)) => self.type_name(Some(name)),
            Some(
                NodeEnum::RoleSpec(_)
                | NodeEnum::List(_)
                | NodeEnum::String(_)
                | NodeEnum::Integer(_)
                | NodeEnum::ReplicaIdentityStmt(_)
                | NodeEnum::DefElem(_)
                | NodeEnum::AtalterConstraint(_),
            ) => {}
            Some(_) => drop(self.expression(node)),
            None => {}
        }
    }

    /// LIKE shows the columns of another table.
    fn code_like(&mut self, relation: &'a Relation) {
        let resource = self.table(relation);
        self.act(ActionName::SQL_SELECT, resource);
        self.columns_of(relation);
    }

    pub(super) fn constraints(&mut self, nodes: &[Node], relation: Option<&'a Relation>, column: Option<&str>) {
        for node in nodes {
            match &node.node {
                Some(NodeEnum::Constraint(constraint)) => self.constraint(constraint, relation, column),
                _ => self.definition_of(node, relation),
            }
        }
    }

    /// A constraint of a table, or of that column.
    fn constraint(&mut self, constraint: &Constraint, relation: Option<&'a Relation>, column: Option<&str>) {
        let tags = self.maybe(constraint.raw_expr.as_deref());
        if constraint.contype == ConstrType::ConstrGenerated as i32 {
            self.leak(&tags, "copied into a generated column");
        }
        self.changes.take(&constraint.conname);
        // Whether the rows that are there fulfil it tells their values.
        let mut deciding = union(&tags, &self.maybe(constraint.where_clause.as_deref()));
        if let Some(relation) = relation {
            for name in constraint.keys.iter().filter_map(string) {
                deciding = union(&deciding, &self.tags_of(relation, name));
            }
        }
        if constraint.contype == ConstrType::ConstrForeign as i32 {
            deciding = union(&deciding, &self.foreign_key(constraint, relation, column));
        }
        for node in &constraint.exclusions {
            deciding = union(&deciding, &self.exclusion(node, relation));
        }
        self.filter(&deciding);
    }

    /// A foreign key: the columns of both sides are read where there are rows, and whether a value is there can be asked
    /// from then on. An error quotes the key that refers to nothing.
    fn foreign_key(&mut self, key: &Constraint, relation: Option<&'a Relation>, column: Option<&str>) -> TagSet {
        let named = |nodes: &[Node]| nodes.iter().filter_map(string).map(Arc::from).collect::<Vec<Arc<str>>>();
        let mut tags = self.no_tags();
        if let Some(relation) = relation {
            let resource = self.table(relation);
            for name in column.map(Arc::from).into_iter().chain(named(&key.fk_attrs)) {
                let own = self.tags_of(relation, &name);
                self.read(&resource, &name, &own);
                tags = union(&tags, &own);
            }
        }
        let Some(range) = &key.pktable else { return tags };
        let mut names = named(&key.pk_attrs);
        let (resource, found) = match self.referred(range) {
            Defined::Known(found) => {
                if names.is_empty() && !self.changes.keyed.contains(&found.oid) {
                    let primary = found.columns.iter().filter(|column| column.primary);
                    names = primary.map(|column| Arc::clone(&column.name)).collect();
                }
                self.altered(found);
                (self.table(found), found.clone())
            }
            Defined::Made(made) => {
                if names.is_empty() {
                    names.clone_from(&made.primary);
                }
                (self.made_resource(&made), made.relation())
            }
            Defined::Unknown => return self.scope.tags.all(),
        };
        // It gets triggers, and its rows can no longer be removed at will.
        self.add(ActionName::SQL_ALTER, resource.clone(), Some("referred to by a foreign key"), &[], None);
        if names.is_empty() {
            // Its primary key, which is not known.
            names = found.columns.iter().map(|column| Arc::clone(&column.name)).collect();
        }
        for name in names {
            let own = self.tags_of(&found, &name);
            self.read(&resource, &name, &own);
            tags = union(&tags, &own);
        }
        tags
    }

    /// Conditions of a row policy: whoever reads the table computes them from then on, and sees by them which rows there are.
    pub(super) fn policy(&mut self, range: Option<&RangeVar>, conditions: [Option<&Node>; 2]) {
        self.on_relation(ActionName::SQL_ALTER, range);
        let relation = range.and_then(|range| match self.defined(range) {
            Defined::Known(relation) => Some(relation),
            Defined::Made(_) | Defined::Unknown => None,
        });
        let (effects, standing) = (self.effects, std::mem::replace(&mut self.standing, true));
        self.with_own_columns(relation, |walker| {
            for condition in conditions.into_iter().flatten() {
                let tags = walker.expression(condition).tags;
                walker.filter(&tags);
            }
        });
        self.standing = standing;
        if self.effects != effects {
            // It is done to whoever reads the table, and named for nobody.
            self.opaque("a row policy that does more than compute");
        }
    }

    /// `element WITH operator` of an exclusion constraint.
    fn exclusion(&mut self, node: &Node, relation: Option<&'a Relation>) -> TagSet {
        let Some(NodeEnum::List(pair)) = &node.node else {
            self.opaque("an exclusion that is not known");
            return self.scope.tags.all();
        };
        match pair.items.get(1).and_then(|operator| operator.node.as_ref()) {
            Some(NodeEnum::List(name)) => match qualified_name(&name.items) {
                Some((schema, name)) => self.order(schema, name),
                None => self.opaque("an operator that is not known"),
            },
            _ => self.opaque("an operator that is not known"),
        }
        match pair.items.first() {
            Some(element) => self.index_element(element, relation),
            None => self.no_tags(),
        }
    }

    /// Tags of what an index is of.
    pub(super) fn index_element(&mut self, node: &Node, relation: Option<&'a Relation>) -> TagSet {
        let Some(NodeEnum::IndexElem(element)) = &node.node else {
            self.opaque("an index that is not known");
            return self.scope.tags.all();
        };
        self.operator_class(&element.opclass);
        let own = relation.map_or_else(|| self.no_tags(), |relation| self.tags_of(relation, &element.name));
        union(&own, &self.maybe(element.expr.as_deref()))
    }

    pub(super) fn index(&mut self, index: &IndexStmt) {
        self.object(ActionName::SQL_CREATE, "index", &index.idxname);
        self.on_relation(ActionName::SQL_ALTER, index.relation.as_ref());
        let relation = index.relation.as_ref().and_then(|range| match self.defined(range) {
            Defined::Known(relation) => Some(relation),
            Defined::Made(_) | Defined::Unknown => None,
        });
        self.changes.take(&index.idxname);
        self.changes_only(relation);
        self.with_own_columns(relation, |walker| {
            for node in &index.index_params {
                let tags = walker.index_element(node, relation);
                if index.unique {
                    walker.filter(&tags);
                }
            }
            // The server counts how many rows are in it.
            let tags = walker.maybe(index.where_clause.as_deref());
            walker.filter(&tags);
        });
        self.rows_quotable(relation);
    }
}
