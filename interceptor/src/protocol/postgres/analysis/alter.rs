//! ALTER TABLE.

use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{
    AlterDomainStmt, AlterTableCmd, AlterTableStmt, AlterTableType, DropBehavior, Node, ObjectType, TypeName,
};

use super::define::is_relation;
use super::lineage::qualified_name;
use super::made::{Defined, makes_key};
use super::table::{Walker, union};
use crate::policy::{ActionName, TagSet};
use crate::protocol::postgres::catalog::Relation;

impl<'a> Walker<'a> {
    pub(super) fn alter_table(&mut self, alter: &AlterTableStmt) {
        let range = alter.relation.as_ref();
        if self.joined_index(alter) {
            return;
        }
        if !is_relation(alter.objtype) {
            self.object(ActionName::SQL_ALTER, "object", range.map_or("", |range| &range.relname));
        } else {
            self.alter_relation(range, alter.missing_ok);
        }
        let names = self.names;
        let known = range.filter(|range| !self.changes.named(&range.relname));
        let relation = known.and_then(|range| {
            let schema = (!range.schemaname.is_empty()).then_some(range.schemaname.as_str());
            self.catalog().resolve(names, schema, &range.relname)
        });
        self.changes_of(alter, relation);
        self.with_own_columns(relation, |walker| {
            for node in &alter.cmds {
                if !walker.step() {
                    break;
                }
                match &node.node {
                    Some(NodeEnum::AlterTableCmd(command)) => walker.alter_command(command, relation),
                    _ => walker.opaque("an ALTER that is not known"),
                }
            }
        });
        self.rows_quotable(relation);
    }

    /// `ALTER INDEX ... ATTACH PARTITION`, as `pg_dump` writes it: an index becomes part of its parent's. It is there
    /// already, for the same columns, so that no row is looked at.
    fn joined_index(&mut self, alter: &AlterTableStmt) -> bool {
        let [Node { node: Some(NodeEnum::AlterTableCmd(command)) }] = alter.cmds.as_slice() else { return false };
        let part = match command.def.as_deref().map(|node| &node.node) {
            Some(Some(NodeEnum::PartitionCmd(part))) if part.bound.is_none() => part.name.as_ref(),
            _ => return false,
        };
        if alter.objtype != ObjectType::ObjectIndex as i32
            || command.subtype != AlterTableType::AtAttachPartition as i32
        {
            return false;
        }
        for range in alter.relation.iter().chain(part) {
            self.object(ActionName::SQL_ALTER, "index", &range.relname);
        }
        self.changes_only(None);
        true
    }

    /// Rows are read, checked or written anew: an error can quote any of them.
    pub(super) fn rows_quotable(&mut self, relation: Option<&'a Relation>) {
        let tags = relation.map_or_else(|| self.no_tags(), |relation| self.row_tags(relation));
        self.saw(&tags);
    }

    fn alter_command(&mut self, command: &AlterTableCmd, relation: Option<&'a Relation>) {
        let switches_code = matches!(
            AlterTableType::try_from(command.subtype),
            Ok(AlterTableType::AtEnableRule | AlterTableType::AtEnableAlwaysRule | AlterTableType::AtEnableReplicaRule)
        );
        if switches_code {
            self.opaque("a rewrite rule that is switched on");
        }
        if matches!(AlterTableType::try_from(command.subtype), Ok(AlterTableType::Undefined) | Err(_)) {
            self.opaque("an ALTER that is not known");
        }
        match AlterTableType::try_from(command.subtype) {
            Ok(AlterTableType::AtGenericOptions | AlterTableType::AtAlterColumnGenericOptions) => {
                self.opaque("what another server answers");
            }
            Ok(AlterTableType::AtDetachPartition | AlterTableType::AtDetachPartitionFinalize) => {
                let part = match command.def.as_deref().map(|node| &node.node) {
                    Some(Some(NodeEnum::PartitionCmd(part))) => part.name.as_ref(),
                    _ => None,
                };
                let relation = part.and_then(|range| self.relation(range));
                self.orphaned(relation);
            }
            Ok(AlterTableType::AtDropExpression) => {
                // One that the same text has made holds nothing yet.
                let none = self.no_tags();
                let tags = relation.map_or(none, |relation| self.tags_by_sources(relation, &command.name));
                self.leak(&tags, "no longer tagged as what it was generated from");
            }
            Ok(AlterTableType::AtValidateConstraint) => {
                self.validated(relation, &command.name);
            }
            Ok(AlterTableType::AtAlterConstraint) => {
                if let Some(Some(NodeEnum::AtalterConstraint(alter))) = command.def.as_deref().map(|node| &node.node)
                    && alter.alter_enforceability
                    && alter.is_enforced
                {
                    self.validated(relation, &alter.conname);
                }
            }
            Ok(AlterTableType::AtDropInherit) => self.orphaned(relation),
            Ok(AlterTableType::AtAddInherit) => self.gets_parent(command, relation),
            Ok(AlterTableType::AtAttachPartition) => self.attached(command, relation),
            _ => {}
        }
        match command.def.as_deref().map(|node| (node, &node.node)) {
            Some((_, Some(NodeEnum::ColumnDef(column)))) if column.colname.is_empty() => {
                // ALTER COLUMN TYPE: the new value of the column that the command names.
                self.type_name(column.type_name.as_ref());
                let tags = self.maybe(column.raw_default.as_deref());
                let own = relation.map(|relation| self.tags_of(relation, &command.name)).unwrap_or_default();
                let lost: TagSet = Arc::new(tags.difference(&own).cloned().collect());
                self.leak(&lost, "copied into a column");
                self.conversion_tells(column.type_name.as_ref(), &union(&tags, &own));
            }
            Some((node, _)) if command.subtype == AlterTableType::AtSetExpression as i32 => {
                let tags = self.expression(node).tags;
                self.leak(&tags, "copied into a generated column");
                let none = self.no_tags();
                let before = relation.map_or(none, |own| self.tags_by_sources(own, &command.name));
                self.leak(&before, "no longer tagged as what it was generated from");
            }
            Some((node, _)) => self.definition_of(node, relation),
            None => {}
        }
        if command.behavior == DropBehavior::DropCascade as i32 {
            self.opaque("CASCADE: what depends on it is dropped, too");
        }
    }

    /// Whether all rows fulfil a constraint is said, and which does not. One that the same text has made was judged there.
    fn validated(&mut self, relation: Option<&'a Relation>, name: &str) {
        let Some(relation) = relation else { return };
        let numbers: Vec<i16> =
            relation.constraints.iter().filter(|known| *known.0 == *name).map(|known| known.1).collect();
        let tags = if numbers.is_empty() {
            let made = !self.names_in_doubt && self.changes.named(name);
            if made { self.no_tags() } else { self.bound_tags(relation) }
        } else {
            let asked =
                relation.columns.iter().filter(|column| numbers.contains(&0) || numbers.contains(&column.number));
            asked.fold(self.no_tags(), |tags, column| union(&tags, &self.tags_of(relation, &column.name)))
        };
        self.filter(&tags);
        let (catalog, names) = (self.scope.catalog, self.scope.names);
        for key in catalog.keys_named(names, relation.oid, name) {
            if !self.step() {
                return;
            }
            let tags = match self.relation_of(key.referred) {
                Some(referred) => {
                    let asked = referred.columns.iter().filter(|column| key.keys.contains(&column.number));
                    asked.fold(self.no_tags(), |tags, column| union(&tags, &self.tags_of(referred, &column.name)))
                }
                None => self.scope.tags.all(),
            };
            self.filter(&tags);
        }
    }

    /// What a later statement of the same text has to know of it.
    fn changes_of(&mut self, alter: &AlterTableStmt, relation: Option<&'a Relation>) {
        use AlterTableType as T;
        let own = |node: &Node| match &node.node {
            Some(NodeEnum::AlterTableCmd(command)) => matches!(
                T::try_from(command.subtype),
                Ok(T::AtAddColumn
                    | T::AtColumnDefault
                    | T::AtDropNotNull
                    | T::AtSetNotNull
                    | T::AtSetStatistics
                    | T::AtSetStorage
                    | T::AtDropColumn
                    | T::AtAddConstraint
                    | T::AtValidateConstraint
                    | T::AtDropConstraint
                    | T::AtAlterColumnType
                    | T::AtAddIdentity
                    | T::AtSetIdentity
                    | T::AtDropIdentity
                    | T::AtSetRelOptions)
            ),
            _ => false,
        };
        if is_relation(alter.objtype) && alter.cmds.iter().all(own) {
            self.changes_only(relation);
        }
        let keyed = |node: &Node| match &node.node {
            Some(NodeEnum::AlterTableCmd(command)) => command.def.as_deref().is_some_and(makes_key),
            _ => false,
        };
        if let Some(relation) = relation.filter(|_| alter.cmds.iter().any(keyed)) {
            self.changes.keyed.insert(relation.oid);
        }
    }

    /// Whether values of a column fit into another type tells something of them. Assigned to a shorter type, they do not.
    fn conversion_tells(&mut self, kind: Option<&TypeName>, tags: &TagSet) {
        match kind {
            Some(kind) if kind.typmods.is_empty() => self.cast_may_fail(Some(kind), tags),
            _ => self.filter(tags),
        }
    }

    /// Whether the rows of a table fit between the bounds of a partition, or those of the default one outside of them.
    fn attached(&mut self, command: &AlterTableCmd, parent: Option<&'a Relation>) {
        let Some(Some(NodeEnum::PartitionCmd(part))) = command.def.as_deref().map(|node| &node.node) else { return };
        let child = part.name.as_ref().and_then(|range| match self.defined(range) {
            Defined::Known(relation) => Some(relation),
            Defined::Made(_) | Defined::Unknown => None,
        });
        let mut tags = parent.map_or_else(|| self.scope.tags.all(), |parent| self.key_tags(parent));
        if let (None, Some(child)) = (parent, child) {
            // Its new parent has no tags yet, nor have the partitions that come after it.
            let columns = child.columns.iter();
            let brought = columns.fold(self.no_tags(), |all, column| union(&all, &self.tags_of(child, &column.name)));
            self.leak(&brought, "not tagged in other partitions, where its rows can be moved");
        }
        if let (Some(parent), Some(child)) = (parent, child) {
            for column in parent.columns.iter().filter(|column| column.partitions || column.bound) {
                // Its indexes and foreign keys get to be the child's.
                tags = union(&tags, &self.tags_of(child, &column.name));
            }
            let brought = self.tags_brought(parent, child);
            self.leak(&brought, "not tagged in other partitions, where its rows can be moved");
            self.joins(parent, child);
            // An error of it quotes no row, but goes over all of them.
            self.rows_quotable(Some(child));
        }
        self.filter(&tags);
    }

    /// `INHERIT parent`.
    fn gets_parent(&mut self, command: &AlterTableCmd, child: Option<&'a Relation>) {
        let Some(Some(NodeEnum::RangeVar(range))) = command.def.as_deref().map(|node| &node.node) else { return };
        if let (Defined::Known(parent), Some(child)) = (self.defined(range), child) {
            self.inherits(parent, child);
        }
    }

    /// Tags of the columns by which a table is partitioned.
    pub(super) fn key_tags(&self, relation: &Relation) -> TagSet {
        let keys = relation.columns.iter().filter(|column| column.partitions);
        keys.fold(self.no_tags(), |tags, column| union(&tags, &self.tags_of(relation, &column.name)))
    }

    /// Whether a new check of a domain holds for what is there tells something of all columns of that type.
    pub(super) fn domain_tells(&mut self, alter: &AlterDomainStmt) {
        // Its default, and what is dropped, are no questions.
        if !matches!(alter.subtype.as_str(), "C" | "O" | "V") {
            return;
        }
        let known = qualified_name(&alter.type_name)
            .filter(|_| !self.names_in_doubt)
            .and_then(|(schema, name)| self.catalog().type_named(self.names, schema, name));
        let Some(domain) = known else {
            let all = self.scope.tags.all();
            return self.filter(&all);
        };
        let made_of = self.catalog().types_made_of(domain.oid);
        let mut tags = self.no_tags();
        if !self.members(self.catalog().relations().count()) {
            return;
        }
        for relation in self.catalog().relations().chain(&self.scope.names.temporary) {
            for column in relation.columns.iter().filter(|column| made_of.contains(&column.type_oid)) {
                tags = union(&tags, &self.tags_of(relation, &column.name));
            }
        }
        self.saw(&tags);
        self.filter(&tags);
    }
}
