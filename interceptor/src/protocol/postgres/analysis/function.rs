//! What calling a function, or an operator, does.
//!
//! Functions of the system are judged by name: their declared volatility, corrected by lists, since some that are
//! declared stable run text as SQL. All others are opaque, unless a well-known extension brought them and they are
//! declared not to be volatile. Where several could be meant, the worst of them counts. What calls a function unseen
//! (an operator, a cast, a type, an index) may call any that an extension brought, if it is of C and not volatile.

use pg_query::NodeEnum;
use pg_query::protobuf::{Node, a_const};

use super::from::shown;
use super::lineage::{qualified_name, string};
use super::made::Defined;
use super::table::Walker;
use crate::policy::{ActionName, Resource, ResourceKind, TagSet};
use crate::protocol::postgres::catalog::{Catalog, FIRST_NORMAL_OID, Function, Names, Type, Volatility};

/// What a function of the system does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// Nothing but compute, or read what anybody may.
    None,
    Activity,
    Sequence,
    Setting,
    FileRead,
    FileWrite,
    Signal,
    Lock,
    Notify,
    Maintain,
    Replicate,
    LargeObjectRead,
    LargeObjectWrite,
    /// Runs SQL that it is given, or something else that cannot be known.
    Opaque,
}

impl Walker<'_> {
    /// A call by name. `tags` are those of its arguments.
    pub(super) fn function(&mut self, schema: Option<&str>, name: &str, args: &[Node], tags: &TagSet) {
        if (self.names_in_doubt || self.changes.named(name)) && schema != Some("pg_catalog") {
            self.opaque(&format!("what {name} means is decided by an earlier statement of the same text"));
        }
        self.builtin_casts();
        let names = self.names;
        let catalog = self.catalog();
        let candidates: Vec<&Function> = catalog.functions(names, schema, name).collect();
        if candidates.is_empty() {
            if let Some(known) = catalog.type_named(names, schema, name) {
                // A cast, written as a call.
                let functions = catalog.code_of_types(self.scope.names, [known.oid]);
                self.run(&functions, "called by a cast or a domain");
            } else {
                let shown = shown(schema, name);
                self.missing("42883", || format!("function {shown} does not exist"));
                self.opaque(&format!("unknown function {name}"));
            }
            return;
        }
        for candidate in candidates {
            self.functions.insert(format!("{}.{}", candidate.schema, candidate.name).into());
            if candidate.builtin() {
                self.builtin(candidate, args, tags);
            } else if !trusted(candidate) {
                self.not_known(candidate, "not a function of the system");
            }
        }
    }

    /// `value.name` calls the function of that name, where there is no such field.
    pub(super) fn field_function(&mut self, name: &str, tags: &TagSet) {
        let names = self.names;
        if self.catalog().functions(names, None, name).next().is_some() {
            self.function(None, name, &[], tags);
        }
    }

    /// An operator: those of the system only compute.
    pub(super) fn operator(&mut self, schema: Option<&str>, name: &str) {
        if self.names_in_doubt && schema != Some("pg_catalog") {
            self.opaque(&format!("what {name} means is decided by an earlier statement of the same text"));
        }
        let names = self.names;
        let catalog = self.catalog();
        let mut known = schema.is_none_or(|schema| schema == "pg_catalog");
        for operator in catalog.operators(names, schema, name) {
            known = true;
            self.hidden(operator.function, "called by an operator");
        }
        if !known {
            // One of a temporary schema, too.
            self.missing("42883", || format!("operator {} does not exist", shown(schema, name)));
            self.opaque(&format!("unknown operator {name}"));
        }
        for function in catalog.comparisons_of_builtins() {
            self.hidden(function, "called by an operator");
        }
        self.builtin_casts();
    }

    /// An operator that is sorted by: the comparisons of its families run, too.
    pub(super) fn order(&mut self, schema: Option<&str>, name: &str) {
        self.operator(schema, name);
        for function in self.catalog().code_of_order(name) {
            self.hidden(function, "called to sort");
        }
    }

    /// An operator class that is named.
    pub(super) fn operator_class(&mut self, name: &[Node]) {
        if name.is_empty() {
            return;
        }
        let Some((schema, text)) = qualified_name(name) else {
            return self.opaque("an operator class that is not known");
        };
        if self.names_in_doubt && schema != Some("pg_catalog") {
            self.opaque(&format!("what {text} means is decided by an earlier statement of the same text"));
        }
        match self.catalog().code_of_class(self.names, schema, text) {
            Some(functions) => {
                for function in functions {
                    self.hidden(function, "called by an operator class");
                }
            }
            None => {
                self.missing("42704", || format!("operator class \"{}\" does not exist", shown(schema, text)));
                self.opaque(&format!("unknown operator class {text}"));
            }
        }
    }

    /// Casts that somebody made between types of the system run wherever such types meet.
    pub(super) fn builtin_casts(&mut self) {
        for function in self.catalog().casts_between_builtins() {
            self.hidden(*function, "called by a cast");
        }
    }

    /// Syntax of newer servers, which is a call to an older one: whoever has made a function of that name is asked.
    pub(super) fn syntax(&mut self, name: &str) {
        let names = self.names;
        let own: Vec<&Function> =
            self.catalog().functions(names, None, name).filter(|function| !function.builtin()).collect();
        for function in own {
            self.not_known(function, "a function to older servers, syntax to newer ones");
        }
    }

    /// A function that something else calls.
    pub(super) fn hidden(&mut self, oid: u32, why: &str) {
        match self.catalog().function(oid) {
            Some(function) if function.builtin() => {
                if effect(function) != Effect::None {
                    self.not_known(function, why);
                }
            }
            Some(function) if only_computes(self.catalog(), function) => {}
            Some(function) => self.not_known(function, why),
            None if oid < FIRST_NORMAL_OID => {}
            None => self.opaque(&format!("an unknown function, {why}")),
        }
    }

    fn not_known(&mut self, function: &Function, why: &str) {
        self.asks_session = true;
        let resource = self.resource(ResourceKind::Function, &[&function.schema, &function.name]);
        self.opaque_on(resource, why);
    }

    fn builtin(&mut self, function: &Function, args: &[Node], tags: &TagSet) {
        let first = args.first().and_then(|node| self.constant_argument(node));
        let effect = effect(function);
        self.asks_session |= told_by_session(&function.name);
        let file = |walker: &Self| walker.server(ResourceKind::Path, first.unwrap_or("*"));
        // What such a function does to whom is in its arguments.
        self.uses_constants |= effect != Effect::None;
        match effect {
            Effect::None if function.volatility != Volatility::Volatile => return,
            // How long it sleeps, or what it seeds, tells the value.
            Effect::None => {}
            // The table function under the view of that name.
            Effect::Activity => {
                let resource = self.resource(ResourceKind::Table, &["pg_catalog", "pg_stat_activity"]);
                self.act(ActionName::SQL_SELECT, resource);
                return;
            }
            Effect::Sequence => {
                let name = args.first().and_then(|node| self.sequence_argument(node));
                self.sequence(function, name);
            }
            Effect::Setting => match first {
                Some(name) => self.setting(name),
                None => self.not_known(function, "the name of the setting is computed"),
            },
            Effect::FileRead => {
                let resource = file(self);
                self.act(ActionName::SQL_FILE_READ, resource);
            }
            Effect::FileWrite => {
                let path = args.get(1).and_then(|node| self.constant_argument(node)).unwrap_or("*");
                let resource = self.server(ResourceKind::Path, path);
                self.act(ActionName::SQL_FILE_WRITE, resource);
                if &*function.name == "lo_export" {
                    self.large_objects(ActionName::SQL_SELECT);
                }
            }
            Effect::Signal | Effect::Lock | Effect::Replicate | Effect::Maintain => {
                let action = match effect {
                    Effect::Signal => ActionName::SQL_SIGNAL,
                    Effect::Lock => ActionName::SQL_LOCK,
                    Effect::Replicate => ActionName::SQL_REPLICATE,
                    _ => ActionName::SQL_MAINTAIN,
                };
                let resource = self.resource(ResourceKind::Function, &[&function.schema, &function.name]);
                self.act(action, resource);
                if function.name.starts_with("brin_") {
                    // It computes an index anew.
                    self.code_anywhere();
                }
            }
            Effect::Notify => match first {
                Some(channel) => {
                    let resource = self.resource(ResourceKind::Channel, &[channel]);
                    self.act(ActionName::SQL_NOTIFY, resource);
                }
                None => self.not_known(function, "the name of the channel is computed"),
            },
            Effect::LargeObjectRead => self.large_objects(ActionName::SQL_SELECT),
            Effect::LargeObjectWrite => {
                self.large_objects(ActionName::SQL_UPDATE);
                if &*function.name == "lo_import" {
                    let resource = file(self);
                    self.act(ActionName::SQL_FILE_READ, resource);
                }
            }
            Effect::Opaque => self.not_known(function, "a function that can run or reach anything"),
        }
        self.calls += 1;
        self.effects += usize::from(effect != Effect::None);
        self.leak(tags, &format!("given to {}", function.name));
    }

    /// The text that a function is given, where no cast can have changed it: one to a shorter type would cut it.
    fn constant_argument<'n>(&self, node: &'n Node) -> Option<&'n str> {
        let Some(NodeEnum::TypeCast(cast)) = &node.node else { return constant(node) };
        let kind = cast.type_name.as_ref().filter(|kind| kind.typmods.is_empty() && kind.array_bounds.is_empty())?;
        let (schema, name) = qualified_name(&kind.names)?;
        let builtin = |known: &Type| known.oid < FIRST_NORMAL_OID;
        let plain = matches!(name, "text" | "varchar")
            && self.catalog().type_named(self.names, schema, name).map_or(schema == Some("pg_catalog"), builtin);
        self.constant_argument(cast.arg.as_ref()?).filter(|_| plain)
    }

    /// The same of the name of a sequence, which is usually cast.
    fn sequence_argument<'n>(&self, node: &'n Node) -> Option<&'n str> {
        match &node.node {
            Some(NodeEnum::TypeCast(cast))
                if cast.type_name.as_ref().and_then(|kind| qualified_name(&kind.names)).is_some_and(
                    |(schema, name)| {
                        let known = self.catalog().type_named(self.names, schema, name);
                        name == "regclass" && known.is_some_and(|known| known.oid < FIRST_NORMAL_OID)
                    },
                ) =>
            {
                self.constant_argument(cast.arg.as_ref()?)
            }
            _ => self.constant_argument(node),
        }
    }

    fn sequence(&mut self, function: &Function, name: Option<&str>) {
        let parsed = name.and_then(relation_name);
        let Some((schema, name)) = parsed else {
            self.not_known(function, "the name of the sequence is computed");
            return;
        };
        let range = pg_query::protobuf::RangeVar {
            schemaname: schema.unwrap_or_default(),
            relname: name,
            ..Default::default()
        };
        let resource = match self.defined(&range) {
            Defined::Known(sequence) => self.table(sequence),
            Defined::Made(made) => self.made_resource(&made),
            Defined::Unknown => return,
        };
        self.act(ActionName::SQL_UPDATE, resource);
    }

    fn large_objects(&mut self, action: ActionName) {
        let resource = self.resource(ResourceKind::Table, &["pg_catalog", "pg_largeobject"]);
        self.act(action, resource);
    }

    /// A setting that is changed, by whatever means.
    pub(super) fn setting(&mut self, name: &str) {
        let name = name.to_ascii_lowercase();
        let action = match name.as_str() {
            "role" | "session_authorization" | "is_superuser" => ActionName::SQL_SET_ROLE,
            _ => ActionName::SQL_SET,
        };
        let resource: Resource = self.server(ResourceKind::Setting, &name);
        self.act(action, resource);
        self.resync.names |= super::statement::decides_names(&name);
    }
}

/// Whether a function or view of the system yields what a session may say as it likes.
pub(super) fn told_by_session(name: &str) -> bool {
    const SAID: [&str; 23] = [
        "current_query",
        "current_schema",
        "current_schemas",
        "current_setting",
        "currval",
        "lastval",
        "nextval",
        "pg_cursor",
        "pg_cursors",
        "pg_listening_channels",
        "pg_lock_status",
        "pg_locks",
        "pg_prepared_statement",
        "pg_prepared_statements",
        "pg_prepared_xact",
        "pg_prepared_xacts",
        "pg_settings",
        "pg_show_all_settings",
        "pg_stat_activity",
        "pg_stat_get_activity",
        "pg_stat_get_backend_activity",
        "pg_stat_get_progress_info",
        "random",
    ];
    SAID.contains(&name)
}

/// Whether a value of a type sets off functions that are not known: checks of a domain, casts.
#[must_use]
pub fn runs_code(catalog: &Catalog, names: &Names, type_oid: u32) -> bool {
    let known = |oid: u32| match catalog.function(oid) {
        Some(function) if function.builtin() => effect(function) == Effect::None,
        Some(function) => only_computes(catalog, function),
        None => oid < FIRST_NORMAL_OID,
    };
    let functions = catalog.code_of_types(names, [type_oid]);
    functions.others || !functions.known.into_iter().all(known)
}

/// Text of a string constant.
pub(super) fn constant(node: &Node) -> Option<&str> {
    match node.node.as_ref()? {
        NodeEnum::AConst(constant) => match constant.val.as_ref()? {
            a_const::Val::Sval(text) => Some(&text.sval),
            _ => None,
        },
        _ => string(node),
    }
}

/// Schema and name as `regclass` reads them.
fn relation_name(text: &str) -> Option<(Option<String>, String)> {
    let mut parts: Vec<String> = Vec::new();
    let mut chars = text.trim().chars().peekable();
    loop {
        let mut part = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next()? {
                    '"' if chars.next_if_eq(&'"').is_some() => part.push('"'),
                    '"' => break,
                    other => part.push(other),
                }
            }
        } else {
            while let Some(next) = chars.next_if(|next| next.is_alphanumeric() || matches!(next, '_' | '$')) {
                part.push(next.to_ascii_lowercase());
            }
        }
        if part.is_empty() {
            return None;
        }
        parts.push(part);
        match chars.next() {
            None => break,
            Some('.') => {}
            Some(_) => return None,
        }
    }
    let name = parts.pop()?;
    match parts.as_slice() {
        [] => Some((None, name)),
        [schema] => Some((Some(schema.clone()), name)),
        _ => None,
    }
}

/// Extensions whose functions, where they are not volatile, only compute.
const TRUSTED_EXTENSIONS: &[&str] = &[
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "earthdistance",
    "fuzzystrmatch",
    "hstore",
    "intarray",
    "isn",
    "ltree",
    "pg_trgm",
    "pgcrypto",
    "seg",
    "unaccent",
    "uuid-ossp",
    "vector",
];

fn trusted(function: &Function) -> bool {
    let known = function.extension.as_deref().is_some_and(|extension| TRUSTED_EXTENSIONS.contains(&extension));
    let harmless = function.volatility != Volatility::Volatile
        || matches!(
            (function.extension.as_deref(), &*function.name),
            (Some("pgcrypto"), "gen_random_bytes" | "gen_random_uuid" | "gen_salt")
                | (Some("uuid-ossp"), "uuid_generate_v1" | "uuid_generate_v1mc" | "uuid_generate_v4")
        );
    known && harmless && !function.security_definer && matches!(&*function.language, "c" | "internal" | "sql")
}

/// Whether a function that something calls unseen (an operator, a cast, a type, an index) only computes. That is what
/// extensions bring functions of C for, and such an operator or cast is there for whatever has the same symbol or type;
/// called by name, those of well-known extensions alone are trusted.
fn only_computes(catalog: &Catalog, function: &Function) -> bool {
    let inner = match &*function.language {
        // Support functions are not declared with care, since nobody looks.
        "c" | "internal" => function.volatility != Volatility::Volatile || catalog.is_support(function.oid),
        "sql" => function.volatility == Volatility::Immutable,
        _ => false,
    };
    trusted(function) || (function.extension.is_some() && inner && !function.security_definer)
}

/// Whether a call by that name shows what other sessions run.
pub(super) fn shows_statements(name: &str) -> bool {
    matches!(name, "pg_stat_get_activity" | "pg_stat_get_backend_activity" | "pg_stat_statements")
}

/// Functions of the system that give as many rows as their arguments say.
const SETS: &[&str] = &["generate_series", "generate_subscripts", "unnest", "string_to_table", "jsonb_path_query_tz"];

/// Whether a call by that name may give several rows, or none.
pub(super) fn gives_rows(name: &str) -> bool {
    let parts =
        ["_to_table", "_matches", "_elements", "_each", "_keys", "recordset", "_path_query", "ts_parse", "_debug"];
    SETS.contains(&name) || parts.iter().any(|part| name.contains(part))
}

/// Volatile functions of the system that change nothing that matters.
const HARMLESS: &[&str] = &[
    "clock_timestamp",
    "currval",
    "gen_random_uuid",
    "get_raw_page",
    "inet_client_addr",
    "lastval",
    // Giving up locks of its own hurts nobody: pools do it with every connection that comes back.
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_advisory_unlock_shared",
    "pg_backend_pid",
    "pg_blocking_pids",
    "pg_column_size",
    "pg_conf_load_time",
    "pg_current_snapshot",
    "pg_current_wal_insert_lsn",
    "pg_current_wal_lsn",
    "pg_current_xact_id",
    "pg_current_xact_id_if_assigned",
    "pg_cursor",
    "pg_database_size",
    "pg_get_backend_memory_contexts",
    "pg_get_sequence_data",
    "pg_indexes_size",
    "pg_is_in_recovery",
    "pg_is_wal_replay_paused",
    "pg_last_committed_xact",
    "pg_last_wal_receive_lsn",
    "pg_last_wal_replay_lsn",
    "pg_last_xact_replay_timestamp",
    "pg_lock_status",
    "pg_notification_queue_usage",
    "pg_partition_ancestors",
    "pg_partition_root",
    "pg_partition_tree",
    "pg_postmaster_start_time",
    "pg_prepared_statement",
    "pg_prepared_xact",
    "pg_relation_size",
    "pg_safe_snapshot_blocking_pids",
    "pg_sequence_last_value",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pg_stat_get_wal_receiver",
    "pg_stat_get_xact_tuples_inserted",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_timezone_names",
    "pg_total_relation_size",
    "pg_wal_lsn_diff",
    "pg_xact_commit_timestamp",
    "pg_xact_status",
    "random",
    "random_normal",
    "setseed",
    "timeofday",
    "txid_current",
    "txid_current_if_assigned",
    "txid_current_snapshot",
    "txid_status",
    "uuidv4",
    "uuidv7",
    "pg_nextoid_none",
    "pg_collation_actual_version",
    "pg_database_collation_actual_version",
];

fn effect(function: &Function) -> Effect {
    let name = &*function.name;
    let special = match name {
        "nextval" | "setval" => Effect::Sequence,
        "pg_stat_get_activity" | "pg_stat_get_backend_activity" => Effect::Activity,
        "set_config" => Effect::Setting,
        "pg_read_file"
        | "pg_read_binary_file"
        | "pg_read_file_old"
        | "pg_stat_file"
        | "pg_hba_file_rules"
        | "pg_ident_file_mappings"
        | "pg_show_all_file_settings"
        | "pg_current_logfile" => Effect::FileRead,
        "lo_export" | "pg_file_write" | "pg_file_rename" | "pg_file_unlink" | "pg_file_sync" => Effect::FileWrite,
        "pg_cancel_backend"
        | "pg_terminate_backend"
        | "pg_reload_conf"
        | "pg_rotate_logfile"
        | "pg_promote"
        | "pg_log_backend_memory_contexts" => Effect::Signal,
        "pg_notify" => Effect::Notify,
        "lo_get" | "loread" | "lo_open" | "lo_lseek" | "lo_lseek64" | "lo_tell" | "lo_tell64" | "lo_close" => {
            Effect::LargeObjectRead
        }
        "lo_creat" | "lo_create" | "lo_from_bytea" | "lo_import" | "lo_put" | "lo_truncate" | "lo_truncate64"
        | "lo_unlink" | "lowrite" => Effect::LargeObjectWrite,
        "ts_stat"
        | "ts_rewrite"
        | "domain_in"
        | "domain_recv"
        | "array_in"
        | "array_recv"
        | "record_in"
        | "record_recv"
        | "range_in"
        | "range_recv"
        | "multirange_in"
        | "multirange_recv"
        | "pg_input_is_valid"
        | "pg_input_error_info"
        | "pg_export_snapshot"
        | "fmgr_sql_validator" => Effect::Opaque,
        _ if name.contains("_to_xml") => Effect::Opaque,
        _ if name.starts_with("pg_ls_") => Effect::FileRead,
        _ if name.contains("advisory") && !name.contains("unlock") => Effect::Lock,
        _ if name.starts_with("pg_stat_reset") || name.starts_with("brin_") || name == "gin_clean_pending_list" => {
            Effect::Maintain
        }
        _ if name.contains("replication") || name.starts_with("pg_logical_") => match function.volatility {
            Volatility::Volatile => Effect::Replicate,
            _ => Effect::None,
        },
        _ if name.starts_with("dblink") => Effect::Opaque,
        _ => Effect::None,
    };
    if special != Effect::None {
        return special;
    }
    let calm = function.volatility != Volatility::Volatile
        || HARMLESS.contains(&name)
        || (name.starts_with("pg_stat_get_") && !function.security_definer);
    if calm { Effect::None } else { Effect::Opaque }
}
