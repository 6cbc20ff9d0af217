//! What the names in a statement mean: a snapshot of one database's relations, functions, operators and types, and the
//! name-resolving state of one session.
//!
//! Pure data. It does not talk to a server (`load` has the queries and reads their rows), does not know privileges, and
//! does not promise to be fresh: whoever loads it reloads after DDL. A name that is absent is unknown, never harmless.

mod code;
mod keys;
mod load;
mod queries;
mod tree;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use code::{Class, Comparisons, Member};
pub use code::{Code, Functions};
pub use keys::{ForeignKey, Keys, Reaction};
pub use load::{LoadError, Loader, MAX_CELL, MAX_ROWS};
pub use queries::{QUERIES, SESSION_QUERY, SETUP};
pub use tree::{Edges, Tree};

/// First OID that is given to objects made after `initdb`.
pub const FIRST_NORMAL_OID: u32 = 16_384;

/// One database, as its system catalog described it.
#[derive(Debug, Default)]
pub struct Catalog {
    relations: HashMap<u32, Relation>,
    by_name: HashMap<Arc<str>, Vec<u32>>,
    functions: HashMap<Arc<str>, Vec<Function>>,
    function_oids: HashMap<u32, (Arc<str>, usize)>,
    operators: HashMap<Arc<str>, Vec<Operator>>,
    types: HashMap<u32, Type>,
    types_by_name: HashMap<Arc<str>, Vec<u32>>,
    casts: HashMap<u32, Vec<u32>>,
    builtin_cast_functions: Vec<u32>,
    members: Vec<Member>,
    classes: HashMap<u32, Class>,
    comparisons: Comparisons,
    event_triggers: bool,
    edges: Edges,
    keys: Keys,
    /// `server_version_num`.
    version: u32,
    schemas: BTreeSet<Arc<str>>,
    fingerprint: u64,
}

/// What kind of relation it is, as `pg_class.relkind` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    /// An ordinary table (`r`).
    Table,
    /// A partitioned table (`p`).
    Partitioned,
    /// A view (`v`).
    View,
    /// A materialised view (`m`).
    Materialized,
    /// A foreign table (`f`).
    Foreign,
    /// A sequence (`S`).
    Sequence,
    /// A composite type (`c`), which no FROM can name.
    Composite,
}

/// A relation with columns.
#[derive(Clone, Debug)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema.
    pub schema: Arc<str>,
    /// Name within the schema.
    pub name: Arc<str>,
    /// Kind.
    pub kind: RelationKind,
    /// Live columns, by attribute number.
    pub columns: Vec<Column>,
    /// The query of a view or materialised view, every name in it qualified; absent for those of the system.
    pub definition: Option<Arc<str>>,
    /// Whether it has triggers.
    pub triggers: bool,
    /// Whether it has rewrite rules beyond a view's own.
    pub rules: bool,
    /// What its defaults, checks, indexes, statistics, partition key or policies call.
    pub code: Code,
    /// What its indexes and statistics alone call.
    pub kept: Code,
    /// Whether a view or a row policy, its own or another's, reads it.
    pub looked_at: bool,
    /// Whether row policies decide which of its rows are seen.
    pub policies: bool,
    /// What these look at.
    pub hidden_by: Vec<Look>,
    /// Columns of its constraints, by the names of these; 0 is the whole row, -1 no column of which the value is looked at.
    pub constraints: Vec<(Arc<str>, i16)>,
}

/// What a row policy looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// `pg_class.oid` of the table or view.
    pub relation: u32,
    /// What of it.
    pub at: Looked,
    /// Whether the policy hides rows from whoever reads, and not only from who writes.
    pub reading: bool,
}

/// What of a table or view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Whether there are rows.
    Rows,
    /// A row as a whole.
    Row,
    /// The column of that number.
    Column(i16),
}

/// A column.
#[derive(Clone, Debug)]
pub struct Column {
    /// `pg_attribute.attnum`.
    pub number: i16,
    /// Name.
    pub name: Arc<str>,
    /// `pg_attribute.atttypid`.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`: its length, where it has one.
    pub typmod: i32,
    /// Whether a value can be refused for what it is: by a key, a check, an index of an expression, what is generated from it.
    pub bound: bool,
    /// Whether it is of the primary key.
    pub primary: bool,
    /// Whether its table is partitioned by it.
    pub partitions: bool,
    /// Whether its values can be equal and not the same, by a collation of its own or of an index.
    pub alike: bool,
    /// Columns of its table that it is generated from: stored, or when it is read.
    pub generated_from: Vec<i16>,
}

/// `pg_proc.provolatile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volatility {
    /// Only computes.
    Immutable,
    /// Reads the database.
    Stable,
    /// May do anything.
    Volatile,
}

/// A function, procedure or aggregate.
#[derive(Clone, Debug)]
pub struct Function {
    /// `pg_proc.oid`.
    pub oid: u32,
    /// Schema.
    pub schema: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Volatility as declared: a promise of whoever wrote it.
    pub volatility: Volatility,
    /// Whether it runs as its owner.
    pub security_definer: bool,
    /// Language.
    pub language: Arc<str>,
    /// The extension that it belongs to.
    pub extension: Option<Arc<str>>,
}

impl Function {
    /// Whether `initdb` made it.
    #[must_use]
    pub fn builtin(&self) -> bool {
        self.oid < FIRST_NORMAL_OID
    }
}

/// An operator that `initdb` did not make.
#[derive(Clone, Debug)]
pub struct Operator {
    /// Schema.
    pub schema: Arc<str>,
    /// Symbol.
    pub name: Arc<str>,
    /// OID of the function behind it.
    pub function: u32,
}

/// A type.
#[derive(Clone, Debug)]
pub struct Type {
    /// `pg_type.oid`.
    pub oid: u32,
    /// Schema.
    pub schema: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// `pg_type.typtype`: b, c, d, e, m, p, r.
    pub kind: char,
    /// The type under a domain, of an array's elements, of a range's bounds; 0 for none.
    pub base: u32,
    /// The relation of a composite type; 0 for none.
    pub relation: u32,
    /// What its checks, its default, its input and output or its comparisons call.
    pub code: Code,
}

impl Catalog {
    /// The relation of that OID.
    #[must_use]
    pub fn relation(&self, oid: u32) -> Option<&Relation> {
        self.relations.get(&oid)
    }

    /// Every relation, in no order.
    pub fn relations(&self) -> impl Iterator<Item = &Relation> {
        self.relations.values()
    }

    /// The relation of that name in that schema.
    #[must_use]
    pub fn relation_in(&self, schema: &str, name: &str) -> Option<&Relation> {
        let candidates = self.by_name.get(name)?;
        candidates.iter().filter_map(|oid| self.relations.get(oid)).find(|found| &*found.schema == schema)
    }

    /// What an unqualified or qualified name means to a session, as the server looks it up.
    #[must_use]
    pub fn resolve<'a>(&'a self, names: &'a Names, schema: Option<&str>, name: &str) -> Option<&'a Relation> {
        match schema {
            Some(schema) if names.is_temp(schema) => names.temp(name),
            Some(schema) => self.relation_in(schema, name),
            None => names.search_path.iter().find_map(|schema| {
                if names.is_temp(schema) { names.temp(name) } else { self.relation_in(schema, name) }
            }),
        }
    }

    /// What an unqualified name would mean instead, were what it means dropped or renamed: of that name, further on the
    /// path. Another session can do that while a statement waits for its locks.
    pub fn behind<'a>(&'a self, names: &'a Names, found: &'a Relation) -> impl Iterator<Item = &'a Relation> {
        let mut path = names.search_path.iter().skip_while(move |schema| **schema != found.schema);
        let _found = path.next();
        path.filter(move |_| !names.is_temp(&found.schema) && &*found.schema != "pg_catalog")
            .filter_map(|schema| self.relation_in(schema, &found.name))
    }

    /// Every function of that name which a call could reach: in the given schema, or anywhere on the path. Functions
    /// are never looked up in a temporary schema unless it is named.
    pub fn functions<'a>(
        &'a self,
        names: &'a Names,
        schema: Option<&'a str>,
        name: &str,
    ) -> impl Iterator<Item = &'a Function> {
        self.functions.get(name).into_iter().flatten().filter(move |found| match schema {
            Some(schema) => &*found.schema == schema,
            None => names.search_path.contains(&found.schema),
        })
    }

    /// The function of that OID.
    #[must_use]
    pub fn function(&self, oid: u32) -> Option<&Function> {
        let (name, index) = self.function_oids.get(&oid)?;
        self.functions.get(name)?.get(*index)
    }

    /// Every operator of that symbol, not of the system, which an expression could reach.
    pub fn operators<'a>(
        &'a self,
        names: &'a Names,
        schema: Option<&'a str>,
        name: &str,
    ) -> impl Iterator<Item = &'a Operator> {
        self.operators.get(name).into_iter().flatten().filter(move |found| match schema {
            Some(schema) => &*found.schema == schema,
            None => names.search_path.contains(&found.schema),
        })
    }

    /// What a type's name means to a session.
    #[must_use]
    pub fn type_named<'a>(&'a self, names: &'a Names, schema: Option<&str>, name: &str) -> Option<&'a Type> {
        let find = |schema: &str| {
            if names.is_temp(schema) {
                return names.types.iter().find(|found| &*found.name == name);
            }
            let candidates = self.types_by_name.get(name)?;
            candidates.iter().filter_map(|oid| self.types.get(oid)).find(|found| &*found.schema == schema)
        };
        match schema {
            Some(schema) => find(schema),
            None => names.search_path.iter().find_map(|schema| find(schema)),
        }
    }

    /// The type of that OID.
    #[must_use]
    pub fn type_of(&self, oid: u32) -> Option<&Type> {
        self.types.get(&oid)
    }

    /// Functions of casts that somebody made between two types of the system: they can run anywhere, unseen.
    #[must_use]
    pub fn casts_between_builtins(&self) -> &[u32] {
        &self.builtin_cast_functions
    }

    /// Whether a row that an UPDATE moves to another partition counts as removed to what refers to the whole table: before
    /// version 15, and where the version is not known.
    #[must_use]
    pub const fn removes_what_moves(&self) -> bool {
        self.version < 150_000
    }

    /// Whether changes of definitions set off functions of somebody's.
    #[must_use]
    pub const fn has_event_triggers(&self) -> bool {
        self.event_triggers
    }

    /// Equal for catalogs that were loaded from the same rows by this process, whatever their order.
    #[must_use]
    pub const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Whether a schema of that name exists.
    #[must_use]
    pub fn has_schema(&self, name: &str) -> bool {
        self.schemas.contains(name)
    }
}

/// What decides, in one session, what a name means. Changes with `SET search_path`, `SET ROLE`, temporary objects,
/// roll-back: ask the server again with [`SESSION_QUERY`] after any of them.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// `current_schemas(true)`: effective, with the implicit ones, in order.
    pub search_path: Vec<Arc<str>>,
    /// `current_user`.
    pub user: Arc<str>,
    /// `session_user`.
    pub session_user: Arc<str>,
    /// Relations of the session's temporary schema.
    pub temporary: Vec<Relation>,
    /// Types of the session's temporary schema.
    pub types: Vec<Type>,
    /// Temporary tables that inherit, from what is temporary or not.
    pub heirs: Edges,
    /// Foreign keys between temporary tables.
    pub keys: Keys,
    /// `standard_conforming_strings` is on and `client_encoding` is UTF8 (or SQL_ASCII): text means what it seems to.
    pub plain_text: bool,
    /// Nothing in the open transaction, if there is one, may have changed what names mean: its end changes nothing
    /// back. Rows do not tell; where nobody promises it, a text that ends a transaction and goes on is opaque.
    pub settled: bool,
}

impl Names {
    /// A session with `"$user", public` as its path and no temporary objects.
    #[must_use]
    pub fn standard(user: &str) -> Self {
        Self {
            search_path: vec!["pg_catalog".into(), "public".into()],
            user: user.into(),
            session_user: user.into(),
            temporary: Vec::new(),
            types: Vec::new(),
            heirs: Edges::default(),
            keys: Keys::default(),
            plain_text: true,
            settled: true,
        }
    }

    fn temp(&self, name: &str) -> Option<&Relation> {
        self.temporary.iter().find(|found| &*found.name == name && found.kind != RelationKind::Composite)
    }

    /// Whether this schema is the session's temporary one. Those of other sessions are never looked into.
    #[must_use]
    pub fn is_temp(&self, schema: &str) -> bool {
        let own = || self.search_path.iter().any(|on_path| **on_path == *schema);
        schema == "pg_temp"
            || self.temporary.first().is_some_and(|first| &*first.schema == schema)
            || (schema.starts_with("pg_temp_") && own())
    }
}

#[cfg(test)]
mod tests;
