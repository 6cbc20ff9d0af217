//! Statements that make, change or drop things, grant rights, or keep the database in order.

use std::sync::Arc;

use pg_query::NodeEnum;
use pg_query::protobuf::{
    CreateTableAsStmt, DropBehavior, DropStmt, GrantStmt, IntoClause, Node, ObjectType, RangeVar,
};

use super::lineage::{Columns, qualified_name, string};
use super::made::Defined;
use super::query::all_tags;
use super::table::Walker;
use crate::policy::{ActionName, Resource, ResourceKind};
use crate::protocol::postgres::catalog::Relation;

/// What a made thing may hold that runs later.
const CODE: &str = "code that runs later";

impl<'a> Walker<'a> {
    /// Any statement of this kind; `false` for one that is not known.
    pub(super) fn define(&mut self, node: &NodeEnum) -> bool {
        self.resync.catalog = true;
        self.event_triggers_see();
        match node {
            NodeEnum::CreateStmt(create) => {
                let range = create.relation.as_ref();
                // Of a temporary one only this session knows.
                self.resync.catalog =
                    !create.inh_relations.is_empty() || range.is_none_or(|range| range.relpersistence != "t");
                self.create_table(create);
            }
            NodeEnum::CreateForeignTableStmt(create) => {
                if let Some(base) = &create.base_stmt {
                    self.create_table(base);
                }
                self.object(ActionName::SQL_ALTER, "server", &create.servername);
                self.opaque_on(self.object_named("server", &create.servername), "a table that another server answers");
            }
            NodeEnum::ViewStmt(view) => {
                let standing = std::mem::replace(&mut self.standing, true);
                let columns = self.sub_query(view.query.as_deref());
                self.standing = standing;
                self.saw(&all_tags(&columns));
                self.create_relation(view.view.as_ref());
                self.redefined(view.view.as_ref(), &columns);
            }
            NodeEnum::IndexStmt(index) => self.index(index),
            NodeEnum::AlterTableStmt(alter) => self.alter_table(alter),
            NodeEnum::RenameStmt(rename) => self.rename(rename),
            NodeEnum::DropStmt(drop) => self.drop_objects(drop),
            NodeEnum::TruncateStmt(truncate) => {
                self.resync.catalog = false;
                for relation in self.relations(&truncate.relations) {
                    let resource = self.table(relation);
                    let note = self.has_triggers(relation).then_some("triggers of the table run");
                    self.add(ActionName::SQL_TRUNCATE, resource.clone(), note, &[], None);
                    // Foreign tables are emptied where they are (PostgreSQL 14).
                    self.foreign_below(relation);
                    if truncate.behavior == DropBehavior::DropCascade as i32 {
                        self.opaque_on(resource, "CASCADE: tables that refer to it are emptied, too");
                    }
                    self.redefines(relation);
                }
            }
            NodeEnum::CreateSchemaStmt(create) => {
                let resource = self.resource(ResourceKind::Schema, &[&create.schemaname]);
                self.act(ActionName::SQL_CREATE, resource);
                for element in &create.schema_elts {
                    // Names without a schema mean the new one.
                    self.opaque("a statement within CREATE SCHEMA");
                    if let Some(node) = &element.node
                        && !self.define(node)
                    {
                        self.opaque("a statement that is not known");
                    }
                }
                self.resync.names = true;
            }
            NodeEnum::CreateSeqStmt(create) => {
                self.create_relation(create.sequence.as_ref());
                self.made_sequence(create.sequence.as_ref());
            }
            NodeEnum::AlterSeqStmt(alter) => {
                self.alter_relation(alter.sequence.as_ref(), alter.missing_ok);
                self.changes_only(None);
            }
            NodeEnum::GrantStmt(grant) => self.grant(grant),
            NodeEnum::LockStmt(lock) => {
                for relation in self.relations(&lock.relations) {
                    self.columns_of(relation);
                    let resource = self.table(relation);
                    self.lock(&resource);
                }
                self.resync.catalog = false;
            }
            NodeEnum::CommentStmt(comment) => {
                self.changes_only(None);
                let name = comment.object.as_deref().and_then(name_in);
                match (is_relation(comment.objtype) || comment.objtype == ObjectType::ObjectColumn as i32, name) {
                    (true, Some(name)) => {
                        let names: Vec<&str> = name.iter().map(String::as_str).collect();
                        let parts = if is_relation(comment.objtype) {
                            names.as_slice()
                        } else {
                            names.split_last().map_or(&[][..], |(_, first)| first)
                        };
                        self.by_name(ActionName::SQL_ALTER, parts, false);
                    }
                    (_, name) => self.object(ActionName::SQL_ALTER, "comment", &name.unwrap_or_default().join(".")),
                }
            }
            other => return self.maintain(other) || self.roles(other) || self.code(other) || self.others(other),
        }
        true
    }

    fn roles(&mut self, node: &NodeEnum) -> bool {
        let mut names: Vec<String> = Vec::new();
        match node {
            NodeEnum::CreateRoleStmt(create) => names.push(create.role.clone()),
            NodeEnum::AlterRoleStmt(alter) => names.extend(alter.role.iter().map(|role| role.rolename.clone())),
            NodeEnum::AlterRoleSetStmt(alter) => {
                names.extend(alter.role.iter().map(|role| role.rolename.clone()));
                let setting = alter.setstmt.as_ref().map_or("*", |set| &set.name);
                self.setting(setting);
            }
            NodeEnum::DropRoleStmt(drop) => names.extend(drop.roles.iter().filter_map(role_of)),
            NodeEnum::GrantRoleStmt(grant) => {
                names.extend(grant.granted_roles.iter().chain(&grant.grantee_roles).filter_map(role_of));
            }
            NodeEnum::AlterDefaultPrivilegesStmt(_) => {
                let resource = self.database();
                self.act(ActionName::SQL_GRANT, resource);
                return true;
            }
            NodeEnum::DropOwnedStmt(drop) => {
                names.extend(drop.roles.iter().filter_map(role_of));
                self.opaque("DROP OWNED: whatever the role owns");
            }
            NodeEnum::ReassignOwnedStmt(reassign) => {
                names.extend(reassign.roles.iter().filter_map(role_of));
                self.opaque("REASSIGN OWNED: whatever the role owns");
            }
            _ => return false,
        }
        if names.is_empty() {
            names.push("*".to_owned());
        }
        for name in names {
            let name = if name.is_empty() { "*" } else { &name };
            let resource = self.server(ResourceKind::Role, name);
            self.act(ActionName::SQL_GRANT, resource);
        }
        self.resync.names = true;
        true
    }

    /// What brings code with it, or reaches another server.
    fn code(&mut self, node: &NodeEnum) -> bool {
        let (action, kind, name) = match node {
            NodeEnum::CreateFunctionStmt(create) => (ActionName::SQL_CREATE, "function", joined(&create.funcname)),
            NodeEnum::AlterFunctionStmt(alter) => {
                let name = alter.func.as_ref().map(|function| joined(&function.objname)).unwrap_or_default();
                (ActionName::SQL_ALTER, "function", name)
            }
            NodeEnum::CreateTrigStmt(create) => {
                self.on_relation(ActionName::SQL_ALTER, create.relation.as_ref());
                (ActionName::SQL_CREATE, "trigger", create.trigname.clone())
            }
            NodeEnum::CreateEventTrigStmt(create) => (ActionName::SQL_CREATE, "event trigger", create.trigname.clone()),
            NodeEnum::AlterEventTrigStmt(alter) => (ActionName::SQL_ALTER, "event trigger", alter.trigname.clone()),
            NodeEnum::RuleStmt(rule) => {
                self.on_relation(ActionName::SQL_ALTER, rule.relation.as_ref());
                (ActionName::SQL_CREATE, "rule", rule.rulename.clone())
            }
            NodeEnum::CreateExtensionStmt(create) => (ActionName::SQL_CREATE, "extension", create.extname.clone()),
            NodeEnum::AlterExtensionStmt(alter) => (ActionName::SQL_ALTER, "extension", alter.extname.clone()),
            NodeEnum::AlterExtensionContentsStmt(alter) => (ActionName::SQL_ALTER, "extension", alter.extname.clone()),
            NodeEnum::CreateCastStmt(_) => (ActionName::SQL_CREATE, "cast", String::new()),
            NodeEnum::CreateOpClassStmt(create) => {
                (ActionName::SQL_CREATE, "operator class", joined(&create.opclassname))
            }
            NodeEnum::CreateOpFamilyStmt(create) => {
                (ActionName::SQL_CREATE, "operator family", joined(&create.opfamilyname))
            }
            NodeEnum::AlterOpFamilyStmt(alter) => {
                (ActionName::SQL_ALTER, "operator family", joined(&alter.opfamilyname))
            }
            NodeEnum::AlterOperatorStmt(_) => (ActionName::SQL_ALTER, "operator", String::new()),
            NodeEnum::CreateTransformStmt(_) => (ActionName::SQL_CREATE, "transform", String::new()),
            NodeEnum::CreateConversionStmt(create) => {
                (ActionName::SQL_CREATE, "conversion", joined(&create.conversion_name))
            }
            NodeEnum::CreatePlangStmt(create) => (ActionName::SQL_CREATE, "language", create.plname.clone()),
            NodeEnum::CreateAmStmt(create) => (ActionName::SQL_CREATE, "access method", create.amname.clone()),
            NodeEnum::DefineStmt(define) if !is_plain_definition(define.kind) => {
                (ActionName::SQL_CREATE, "definition", joined(&define.defnames))
            }
            NodeEnum::CreateFdwStmt(create) => (ActionName::SQL_CREATE, "foreign-data wrapper", create.fdwname.clone()),
            NodeEnum::AlterFdwStmt(alter) => (ActionName::SQL_ALTER, "foreign-data wrapper", alter.fdwname.clone()),
            NodeEnum::CreateForeignServerStmt(create) => (ActionName::SQL_CREATE, "server", create.servername.clone()),
            NodeEnum::AlterForeignServerStmt(alter) => (ActionName::SQL_ALTER, "server", alter.servername.clone()),
            NodeEnum::CreateUserMappingStmt(create) => {
                (ActionName::SQL_CREATE, "user mapping", create.servername.clone())
            }
            NodeEnum::AlterUserMappingStmt(alter) => (ActionName::SQL_ALTER, "user mapping", alter.servername.clone()),
            NodeEnum::ImportForeignSchemaStmt(import) => (ActionName::SQL_CREATE, "server", import.server_name.clone()),
            NodeEnum::CreateSubscriptionStmt(create) => {
                (ActionName::SQL_CREATE, "subscription", create.subname.clone())
            }
            NodeEnum::AlterSubscriptionStmt(alter) => (ActionName::SQL_ALTER, "subscription", alter.subname.clone()),
            NodeEnum::LoadStmt(load) => {
                let resource = self.server(ResourceKind::Path, &load.filename);
                self.act(ActionName::SQL_FILE_READ, resource);
                (ActionName::SQL_ALTER, "library", load.filename.clone())
            }
            _ => return false,
        };
        self.object(action, kind, &name);
        let resource = self.object_named(kind, &name);
        self.opaque_on(resource, CODE);
        true
    }

    /// What is made or changed without code.
    fn others(&mut self, node: &NodeEnum) -> bool {
        use ActionName as A;
        let (action, kind, name) = match node {
            NodeEnum::CompositeTypeStmt(create) => {
                (A::SQL_CREATE, "type", create.typevar.as_ref().map(|range| range.relname.clone()).unwrap_or_default())
            }
            NodeEnum::CreateEnumStmt(create) => {
                self.made_enum(&create.type_name);
                (A::SQL_CREATE, "type", joined(&create.type_name))
            }
            NodeEnum::AlterEnumStmt(alter) => (A::SQL_ALTER, "type", joined(&alter.type_name)),
            NodeEnum::CreateRangeStmt(create) => {
                let plain = create.params.iter().all(|node| match &node.node {
                    Some(NodeEnum::DefElem(option)) if option.defname == "subtype" => {
                        matches!(option.arg.as_ref().map(|arg| &arg.node), Some(Some(NodeEnum::TypeName(name)))
                            if self.is_plain(name))
                    }
                    Some(NodeEnum::DefElem(option)) => {
                        matches!(option.defname.as_str(), "collation" | "multirange_type_name")
                    }
                    _ => false,
                });
                if !plain {
                    self.opaque_on(self.object_named("type", &joined(&create.type_name)), CODE);
                }
                (A::SQL_CREATE, "type", joined(&create.type_name))
            }
            NodeEnum::AlterTypeStmt(alter) => (A::SQL_ALTER, "type", joined(&alter.type_name)),
            NodeEnum::CreateDomainStmt(create) => {
                self.type_name(create.type_name.as_ref());
                self.with_own_columns(None, |walker| walker.constraints(&create.constraints, None, None));
                (A::SQL_CREATE, "type", joined(&create.domainname))
            }
            NodeEnum::AlterDomainStmt(alter) => {
                self.domain_tells(alter);
                if let Some(node) = alter.def.as_deref() {
                    self.with_own_columns(None, |walker| walker.definition_of(node, None));
                }
                (A::SQL_ALTER, "type", joined(&alter.type_name))
            }
            NodeEnum::CreateStatsStmt(create) => {
                let relations = self.relations(&create.relations);
                for relation in relations {
                    let resource = self.table(relation);
                    self.act(A::SQL_ALTER, resource);
                }
                let relation = create.relations.first().and_then(|node| match &node.node {
                    Some(NodeEnum::RangeVar(range)) => self.relation(range),
                    _ => None,
                });
                self.with_own_columns(relation, |walker| {
                    for node in &create.exprs {
                        match &node.node {
                            Some(NodeEnum::StatsElem(element)) => drop(walker.maybe(element.expr.as_deref())),
                            _ => walker.opaque("statistics that are not known"),
                        }
                    }
                });
                (A::SQL_CREATE, "statistics", joined(&create.defnames))
            }
            NodeEnum::CreatePolicyStmt(create) => {
                self.policy(create.table.as_ref(), [create.qual.as_deref(), create.with_check.as_deref()]);
                (A::SQL_CREATE, "policy", create.policy_name.clone())
            }
            NodeEnum::AlterPolicyStmt(alter) => {
                self.policy(alter.table.as_ref(), [alter.qual.as_deref(), alter.with_check.as_deref()]);
                (A::SQL_ALTER, "policy", alter.policy_name.clone())
            }
            NodeEnum::DefineStmt(define) => (A::SQL_CREATE, "definition", joined(&define.defnames)),
            NodeEnum::AlterStatsStmt(alter) => (A::SQL_ALTER, "statistics", joined(&alter.defnames)),
            NodeEnum::CreatePublicationStmt(create) => (A::SQL_CREATE, "publication", create.pubname.clone()),
            NodeEnum::AlterPublicationStmt(alter) => (A::SQL_ALTER, "publication", alter.pubname.clone()),
            NodeEnum::DropSubscriptionStmt(drop) => (A::SQL_DROP, "subscription", drop.subname.clone()),
            NodeEnum::DropUserMappingStmt(drop) => (A::SQL_DROP, "user mapping", drop.servername.clone()),
            NodeEnum::CreatedbStmt(create) => {
                // It is a copy, of which rules name no column.
                let copied =
                    |node: &Node| matches!(&node.node, Some(NodeEnum::DefElem(option)) if option.defname == "template");
                if create.options.iter().any(copied) {
                    let all = self.scope.tags.all();
                    self.leak(&all, "copied into a new database");
                }
                (A::SQL_CREATE, "database", create.dbname.clone())
            }
            NodeEnum::DropdbStmt(drop) => (A::SQL_DROP, "database", drop.dbname.clone()),
            NodeEnum::AlterDatabaseStmt(alter) => (A::SQL_ALTER, "database", alter.dbname.clone()),
            NodeEnum::AlterDatabaseRefreshCollStmt(alter) => (A::SQL_ALTER, "database", alter.dbname.clone()),
            NodeEnum::AlterDatabaseSetStmt(alter) => {
                let setting = alter.setstmt.as_ref().map_or("*", |set| &set.name);
                self.setting(setting);
                (A::SQL_ALTER, "database", alter.dbname.clone())
            }
            NodeEnum::AlterSystemStmt(alter) => {
                let setting = alter.setstmt.as_ref().map_or("*", |set| &set.name);
                self.setting(if setting.is_empty() { "*" } else { setting });
                (A::SQL_ALTER, "server", "postgresql.auto.conf".to_owned())
            }
            NodeEnum::CreateTableSpaceStmt(create) => {
                let resource = self.server(ResourceKind::Path, &create.location);
                self.act(A::SQL_FILE_WRITE, resource);
                (A::SQL_CREATE, "tablespace", create.tablespacename.clone())
            }
            NodeEnum::DropTableSpaceStmt(drop) => (A::SQL_DROP, "tablespace", drop.tablespacename.clone()),
            NodeEnum::AlterTableSpaceOptionsStmt(alter) => (A::SQL_ALTER, "tablespace", alter.tablespacename.clone()),
            NodeEnum::AlterCollationStmt(alter) => (A::SQL_ALTER, "collation", joined(&alter.collname)),
            NodeEnum::AlterTsdictionaryStmt(alter) => (A::SQL_ALTER, "text search", joined(&alter.dictname)),
            NodeEnum::AlterTsconfigurationStmt(alter) => (A::SQL_ALTER, "text search", joined(&alter.cfgname)),
            NodeEnum::AlterObjectSchemaStmt(alter) => {
                if let Some(relation) = alter.relation.as_ref() {
                    self.moved(Some(relation), alter.missing_ok, (Some(&alter.newschema), None));
                    return true;
                }
                (A::SQL_ALTER, "object", alter.object.as_deref().and_then(name_in).unwrap_or_default().join("."))
            }
            NodeEnum::AlterOwnerStmt(alter) => {
                self.resync.names = true;
                (A::SQL_ALTER, "object", alter.object.as_deref().and_then(name_in).unwrap_or_default().join("."))
            }
            NodeEnum::AlterObjectDependsStmt(alter) => {
                (A::SQL_ALTER, "object", alter.object.as_deref().and_then(name_in).unwrap_or_default().join("."))
            }
            _ => return false,
        };
        self.object(action, kind, &name);
        true
    }

    pub(super) fn object_named(&self, kind: &str, name: &str) -> Resource {
        self.resource(ResourceKind::Object, &[kind, if name.is_empty() { "*" } else { name }])
    }

    pub(super) fn object(&mut self, action: ActionName, kind: &str, name: &str) {
        let resource = self.object_named(kind, name);
        self.act(action, resource);
    }

    pub(super) fn relations(&mut self, nodes: &[Node]) -> Vec<&'a Relation> {
        let mut found = Vec::new();
        for node in nodes {
            match &node.node {
                Some(NodeEnum::RangeVar(range)) => found.extend(self.relation(range)),
                _ => self.opaque("a table that is not known"),
            }
        }
        found
    }

    pub(super) fn on_relation(&mut self, action: ActionName, range: Option<&RangeVar>) {
        match range {
            Some(range) => {
                let resource = match self.defined(range) {
                    Defined::Known(relation) => self.table(relation),
                    Defined::Made(made) => self.made_resource(&made),
                    Defined::Unknown => return,
                };
                self.act(action, resource);
            }
            None => self.opaque("a table that is not named"),
        }
    }

    pub(super) fn alter_relation(&mut self, range: Option<&RangeVar>, missing_ok: bool) {
        let Some(range) = range else { return self.opaque("a table that is not named") };
        let names: Vec<&str> =
            [range.schemaname.as_str(), &range.relname].into_iter().filter(|part| !part.is_empty()).collect();
        self.by_name(ActionName::SQL_ALTER, &names, missing_ok);
    }

    /// An action on the relation of that name; one that may be missing is looked for in all of the path.
    fn by_name(&mut self, action: ActionName, parts: &[&str], missing_ok: bool) {
        let range = match parts {
            [name] => RangeVar { relname: (*name).to_owned(), ..RangeVar::default() },
            [schema, name] | [_, schema, name] => {
                RangeVar { schemaname: (*schema).to_owned(), relname: (*name).to_owned(), ..RangeVar::default() }
            }
            _ => return self.opaque("a name that is not known"),
        };
        let schema = (!range.schemaname.is_empty()).then_some(range.schemaname.as_str());
        let names = self.names;
        let doubt = self.names_in_doubt || self.changes.named(&range.relname);
        if missing_ok && !doubt && self.catalog().resolve(names, schema, &range.relname).is_none() {
            let schemas: Vec<&str> =
                schema.map_or_else(|| names.search_path.iter().map(|name| &**name).collect(), |schema| vec![schema]);
            for schema in schemas {
                let resource = self.resource(ResourceKind::Table, &[schema, &range.relname]);
                self.act(action, resource);
            }
            return;
        }
        self.on_relation(action, Some(&range));
    }

    /// Where the server would put what is made.
    pub(super) fn schema_to_be(&self, range: &RangeVar) -> Arc<str> {
        let names = self.names;
        if range.relpersistence == "t" || names.is_temp(&range.schemaname) {
            return "pg_temp".into();
        }
        let own = |schema: &&Arc<str>| !names.is_temp(schema) && &***schema != "pg_catalog";
        let first = || names.search_path.iter().find(own).map_or_else(|| "pg_catalog".into(), Arc::clone);
        if range.schemaname.is_empty() { first() } else { range.schemaname.as_str().into() }
    }

    /// A relation that is made, where the server would put it.
    pub(super) fn create_relation(&mut self, range: Option<&RangeVar>) {
        let Some(range) = range else { return self.opaque("a table that is not named") };
        let names = self.names;
        let schema = self.schema_to_be(range);
        let temporary = &*schema == "pg_temp";
        let resource = self.resource(ResourceKind::Table, &[&schema, &range.relname]);
        self.act(ActionName::SQL_CREATE, resource);
        // A path that names pg_temp first makes it temporary, and the effective path does not tell whether it does.
        let perhaps =
            range.schemaname.is_empty() && !temporary && names.search_path.iter().any(|name| names.is_temp(name));
        if perhaps {
            let resource = self.resource(ResourceKind::Table, &["pg_temp", &range.relname]);
            self.act(ActionName::SQL_CREATE, resource);
        }
        self.resync.names |= temporary || perhaps;
        self.resync.catalog |= !temporary;
    }

    /// Event triggers run with whatever is defined.
    fn event_triggers_see(&mut self) {
        if self.catalog().has_event_triggers() {
            // What they say about it may hold anything.
            let all = self.scope.tags.all();
            self.saw(&all);
        }
    }

    /// SELECT INTO.
    pub(super) fn select_into(&mut self, into: &IntoClause, columns: &Columns) {
        self.event_triggers_see();
        self.create_relation(into.rel.as_ref());
        self.leak(&all_tags(columns), "copied into a new table");
    }

    /// CREATE TABLE AS, CREATE MATERIALIZED VIEW.
    pub(super) fn create_table_as(&mut self, create: &CreateTableAsStmt, columns: &Columns) {
        self.event_triggers_see();
        let into = create.into.as_deref();
        self.create_relation(into.and_then(|into| into.rel.as_ref()));
        // A materialised view keeps its definition, so that its columns can be traced.
        if create.objtype == ObjectType::ObjectMatview as i32 {
            self.materialised(columns);
        } else {
            self.leak(&all_tags(columns), "copied into a new table");
        }
    }

    /// What a materialised view keeps is there for other sessions, which do not know this one's temporary heirs.
    pub(super) fn materialised(&mut self, columns: &Columns) {
        if !self.scope.names.heirs.is_empty() {
            self.leak(&all_tags(columns), "kept of temporary tables");
        }
    }

    fn drop_objects(&mut self, drop: &DropStmt) {
        for node in &drop.objects {
            let parts = name_in(node).unwrap_or_default();
            let names: Vec<&str> = parts.iter().map(String::as_str).collect();
            if is_relation(drop.remove_type) {
                self.by_name(ActionName::SQL_DROP, &names, drop.missing_ok);
                self.dropped(&names);
            } else if drop.remove_type == ObjectType::ObjectSchema as i32 {
                let resource = self.resource(ResourceKind::Schema, &[&parts.join(".")]);
                self.act(ActionName::SQL_DROP, resource);
            } else if on_table(drop.remove_type) {
                let table = names.split_last().map_or(&[][..], |(_, first)| first);
                self.by_name(ActionName::SQL_ALTER, table, drop.missing_ok);
                self.object(ActionName::SQL_DROP, "object", &parts.join("."));
            } else {
                self.object(ActionName::SQL_DROP, "object", &parts.join("."));
            }
        }
        if drop.behavior == DropBehavior::DropCascade as i32 {
            self.opaque("CASCADE: what depends on it is dropped, too");
        }
        self.resync.names = true;
    }

    /// DISCARD TEMP: the session's temporary relations go, as by DROP.
    pub(super) fn discard_temporary(&mut self) {
        for relation in &self.names.temporary {
            let resource = self.table(relation);
            self.add(ActionName::SQL_DROP, resource, Some("with all of the session's temporary tables"), &[], None);
            self.dropped(&["pg_temp", &relation.name]);
        }
    }

    fn grant(&mut self, grant: &GrantStmt) {
        let tables =
            matches!(ObjectType::try_from(grant.objtype), Ok(ObjectType::ObjectTable | ObjectType::ObjectSequence));
        for node in &grant.objects {
            match &node.node {
                Some(NodeEnum::RangeVar(range)) if tables => self.on_relation(ActionName::SQL_GRANT, Some(range)),
                _ => {
                    let name = name_in(node).unwrap_or_default().join(".");
                    let resource = self.object_named("object", &name);
                    self.act(ActionName::SQL_GRANT, resource);
                }
            }
        }
        // A schema that may not be used is not on the path.
        (self.resync.names, self.resync.catalog) = (true, false);
    }

    /// Values of a SET are constants; those of SET TRANSACTION have names.
    pub(super) fn expressions_of_set(&mut self, nodes: &[Node]) {
        for node in nodes {
            match &node.node {
                Some(NodeEnum::DefElem(option)) => drop(self.maybe(option.arg.as_deref())),
                _ => drop(self.expression(node)),
            }
        }
    }
}

pub(super) fn is_relation(kind: i32) -> bool {
    matches!(
        ObjectType::try_from(kind),
        Ok(ObjectType::ObjectTable
            | ObjectType::ObjectView
            | ObjectType::ObjectMatview
            | ObjectType::ObjectForeignTable
            | ObjectType::ObjectSequence)
    )
}

/// What CREATE defines without code: it says how the system's own compares, or takes words apart.
fn is_plain_definition(kind: i32) -> bool {
    matches!(
        ObjectType::try_from(kind),
        Ok(ObjectType::ObjectCollation | ObjectType::ObjectTsconfiguration | ObjectType::ObjectTsdictionary)
    )
}

/// Things that belong to a table, which their name says first.
fn on_table(kind: i32) -> bool {
    matches!(
        ObjectType::try_from(kind),
        Ok(ObjectType::ObjectTrigger | ObjectType::ObjectRule | ObjectType::ObjectPolicy)
    )
}

fn role_of(node: &Node) -> Option<String> {
    match &node.node {
        Some(NodeEnum::RoleSpec(role)) => Some(role.rolename.clone()),
        Some(NodeEnum::AccessPriv(granted)) => Some(granted.priv_name.clone()),
        _ => None,
    }
}

fn joined(nodes: &[Node]) -> String {
    match qualified_name(nodes) {
        Some((Some(schema), name)) => format!("{schema}.{name}"),
        Some((None, name)) => name.to_owned(),
        None => String::new(),
    }
}

/// The parts of a name, however the grammar wraps it.
pub(super) fn name_in(node: &Node) -> Option<Vec<String>> {
    let all = |nodes: &[Node]| nodes.iter().map(|node| string(node).map(str::to_owned)).collect();
    match node.node.as_ref()? {
        NodeEnum::String(text) => Some(vec![text.sval.clone()]),
        NodeEnum::List(list) => all(&list.items),
        NodeEnum::TypeName(name) => all(&name.names),
        NodeEnum::ObjectWithArgs(object) => all(&object.objname),
        NodeEnum::RangeVar(range) => {
            Some([&range.schemaname, &range.relname].into_iter().filter(|part| !part.is_empty()).cloned().collect())
        }
        _ => None,
    }
}
