//! The queries that describe a database (PostgreSQL 13 to 18), and the reading of their rows.
//!
//! Runs nothing itself: feed every row of every query, in order, to a [`Loader`]. Rows and cells are bounded; anything
//! unexpected is an error, since a catalog with gaps would resolve names wrongly.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, LazyLock};

use super::{Catalog, Column, Function, MAX_FAMILY, Names, Operator, Relation, RelationKind, Type, Volatility};

/// Rows of one query, at most.
pub const MAX_ROWS: usize = 500_000;

/// Bytes of one cell (a view's definition), at most.
pub const MAX_CELL: usize = 1 << 20;

/// To be run first on the connection that loads: view definitions then name everything in full, and nothing is compiled
/// for queries that run once. Nor does the server go on with what nobody waits for any more: whoever holds a lock for long
/// would have it collect connections of ours until it has no room.
pub const SETUP: &str = "SELECT pg_catalog.set_config('search_path', '', false), \
     pg_catalog.set_config('jit', 'off', false), pg_catalog.set_config('lock_timeout', '2000', false), \
     pg_catalog.set_config('statement_timeout', '45000', false)";

/// The queries, in the order in which a [`Loader`] takes their rows. All columns are text.
pub const QUERIES: &[&str] = &[
    // 0: schemas
    "SELECT nspname::text FROM pg_catalog.pg_namespace",
    // 1: relations; what a server is asked for each of thousands of rows takes longer than one join. The definition of a
    // view is read under a lock on what it reads: where somebody holds another, it is empty, and so cannot be understood.
    "SELECT c.oid::text, n.nspname::text, c.relname::text, c.relkind::text, \
     CASE WHEN c.relkind IN ('v','m') AND c.oid >= 16384 THEN CASE WHEN held.view IS NOT NULL THEN '' \
       ELSE COALESCE(pg_catalog.pg_get_viewdef(c.oid), '') END END, \
     c.relhastriggers::text, \
     (EXISTS (SELECT 1 FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type <> '1'))::text, x.code \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     LEFT JOIN (SELECT o.relation, pg_catalog.string_agg(d.refobjid::text, ',' ORDER BY d.refobjid) AS code FROM ( \
       SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass AS kind, a.oid AS object, a.adrelid AS relation \
        FROM pg_catalog.pg_attrdef a \
       UNION ALL SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid, k.conrelid \
        FROM pg_catalog.pg_constraint k WHERE k.conrelid <> 0 \
       UNION ALL SELECT 'pg_catalog.pg_policy'::pg_catalog.regclass, p.oid, p.polrelid FROM pg_catalog.pg_policy p \
       UNION ALL SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, i.indexrelid, i.indrelid FROM pg_catalog.pg_index i) AS o \
      JOIN pg_catalog.pg_depend d ON d.classid = o.kind AND d.objid = o.object \
       AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass GROUP BY o.relation) AS x ON x.relation = c.oid \
     LEFT JOIN (SELECT DISTINCT r.ev_class AS view FROM pg_catalog.pg_locks l \
       JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = l.relation \
       JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid \
       WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' \
        AND l.database IN (0, (SELECT b.oid FROM pg_catalog.pg_database b WHERE b.datname = pg_catalog.current_database())) \
        AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()) AS held ON held.view = c.oid \
     WHERE c.relkind IN ('r','p','v','m','f','S','c') AND n.nspname !~ '^pg_(temp|toast)'",
    // 2: columns
    "SELECT a.attrelid::text, a.attnum::text, a.attname::text, a.atttypid::text \
     FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r','p','v','m','f','S','c') \
     AND n.nspname !~ '^pg_(temp|toast)' ORDER BY a.attrelid, a.attnum",
    // 3: functions
    "SELECT p.oid::text, n.nspname::text, p.proname::text, p.provolatile::text, p.prosecdef::text, l.lanname::text, \
     e.name FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
     JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
     LEFT JOIN (SELECT d.objid, pg_catalog.min(e.extname::text) AS name FROM pg_catalog.pg_depend d \
       JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass \
       AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e' GROUP BY d.objid) AS e \
      ON e.objid = p.oid",
    // 4: operators not of the system
    "SELECT n.nspname::text, o.oprname::text, o.oprcode::oid::text \
     FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace WHERE o.oid >= 16384",
    // 5: types
    "SELECT t.oid::text, n.nspname::text, t.typname::text, t.typtype::text, \
     CASE WHEN t.typtype = 'd' THEN t.typbasetype::text ELSE t.typelem::text END, t.typrelid::text, x.code \
     FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
     LEFT JOIN (SELECT o.type, pg_catalog.string_agg(d.refobjid::text, ',' ORDER BY d.refobjid) AS code FROM ( \
       SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass AS kind, k.oid AS object, k.contypid AS type \
        FROM pg_catalog.pg_constraint k WHERE k.contypid <> 0 \
       UNION ALL SELECT 'pg_catalog.pg_type'::pg_catalog.regclass, y.oid, y.oid FROM pg_catalog.pg_type y \
        WHERE y.typtype = 'd') AS o \
      JOIN pg_catalog.pg_depend d ON d.classid = o.kind AND d.objid = o.object \
       AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass GROUP BY o.type) AS x ON x.type = t.oid",
    // 6: casts not of the system, by function
    "SELECT castsource::text, casttarget::text, castfunc::text FROM pg_catalog.pg_cast \
     WHERE oid >= 16384 AND castfunc <> 0",
    // 7: inheritance and partitions
    "SELECT inhrelid::text, inhparent::text FROM pg_catalog.pg_inherits i \
     JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid WHERE c.relkind IN ('r','p','f')",
    // 8: what columns are generated from; which object depends on it is another one since version 15
    "SELECT a.attrelid::text, a.attnum::text, d.refobjsubid::text FROM pg_catalog.pg_attribute a \
     JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum \
     JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
      AND d.refobjid = a.attrelid AND d.refobjsubid > 0 AND d.refobjsubid <> a.attnum \
     WHERE a.attgenerated <> '' AND NOT a.attisdropped AND ( \
      (d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = f.oid) OR \
      (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = a.attrelid AND d.objsubid = a.attnum))",
];

/// State of one session that decides what names mean; read its rows with [`Names::from_rows`].
pub const SESSION_QUERY: &str = "SELECT kind, a, b, c, d, e FROM ( \
     SELECT 0 AS part, 'path' AS kind, x.name::text AS a, NULL::text AS b, NULL::text AS c, NULL::text AS d, \
      NULL::text AS e, x.place AS place \
      FROM pg_catalog.unnest(pg_catalog.current_schemas(true)) WITH ORDINALITY AS x(name, place) \
     UNION ALL SELECT 1, 'user', current_user::text, session_user::text, NULL, NULL, NULL, 0 \
     UNION ALL SELECT 2, 'text', pg_catalog.current_setting('standard_conforming_strings'), \
      pg_catalog.current_setting('client_encoding'), NULL, NULL, NULL, 0 \
     UNION ALL SELECT 3, 'relation', c.oid::text, n.nspname::text, c.relname::text, \
      c.relkind::text || CASE WHEN c.relhastriggers THEN 't' ELSE '' END || CASE WHEN EXISTS (SELECT 1 \
       FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type <> '1') THEN 'r' ELSE '' END, \
      CASE WHEN c.relkind = 'v' THEN pg_catalog.pg_get_viewdef(c.oid) END, 0 \
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
      WHERE c.relnamespace = pg_catalog.pg_my_temp_schema() AND c.relkind IN ('r','p','v','m','f','S') \
     UNION ALL SELECT 5, 'code', a.adrelid::text, d.refobjid::text, NULL, NULL, NULL, 0 \
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attrdef a ON a.adrelid = c.oid \
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = a.oid \
      WHERE c.relnamespace = pg_catalog.pg_my_temp_schema() \
      AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass \
     UNION ALL SELECT 5, 'code', k.conrelid::text, d.refobjid::text, NULL, NULL, NULL, 0 \
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_constraint k ON k.conrelid = c.oid \
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND d.objid = k.oid \
      WHERE c.relnamespace = pg_catalog.pg_my_temp_schema() \
      AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass \
     UNION ALL SELECT 5, 'code', i.indrelid::text, d.refobjid::text, NULL, NULL, NULL, 0 \
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_index i ON i.indrelid = c.oid \
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = i.indexrelid \
      WHERE c.relnamespace = pg_catalog.pg_my_temp_schema() \
      AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass \
     UNION ALL SELECT 4, 'column', a.attrelid::text, a.attnum::text, a.attname::text, a.atttypid::text, NULL, a.attnum \
      FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
      WHERE c.relnamespace = pg_catalog.pg_my_temp_schema() AND c.relkind IN ('r','p','v','m','f','S') \
      AND a.attnum > 0 AND NOT a.attisdropped) AS state ORDER BY part, place";

/// Why a catalog could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A row is not of the form that the query gives.
    #[error("query {0} of the catalog gave a row that cannot be read")]
    Row(usize),
    /// More than [`MAX_ROWS`], or a cell of more than [`MAX_CELL`].
    #[error("query {0} of the catalog gave more than can be held")]
    TooMuch(usize),
    /// Not every query was answered.
    #[error("the catalog has {0} of its queries answered")]
    Unfinished(usize),
}

/// Keyed by chance, so that nobody can make two catalogs look the same.
static HASHING: LazyLock<RandomState> = LazyLock::new(RandomState::new);

type Cells<'a> = &'a [Option<&'a str>];

/// Builds a [`Catalog`] from the rows of [`QUERIES`].
#[derive(Debug, Default)]
pub struct Loader {
    catalog: Catalog,
    names: HashMap<String, Arc<str>>,
    casts: Vec<[u32; 3]>,
    edges: Vec<[u32; 2]>,
    next: usize,
    /// Rows of the next query so far.
    taken: usize,
}

impl Loader {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes all rows of the next query.
    ///
    /// # Errors
    /// [`LoadError`]; the loader is of no more use then.
    pub fn rows(&mut self, rows: &[Vec<Option<String>>]) -> Result<(), LoadError> {
        for row in rows {
            self.take(&borrowed(row))?;
        }
        self.end();
        Ok(())
    }

    /// Takes one row of the next query.
    ///
    /// # Errors
    /// [`LoadError`]; the loader is of no more use then.
    pub fn take(&mut self, row: &[Option<&str>]) -> Result<(), LoadError> {
        let query = self.next;
        self.taken += 1;
        if self.taken > MAX_ROWS || row.iter().flatten().any(|cell| cell.len() > MAX_CELL) {
            return Err(LoadError::TooMuch(query));
        }
        self.row(query, row).ok_or(LoadError::Row(query))?;
        let hash = HASHING.hash_one((query, row));
        self.catalog.fingerprint = self.catalog.fingerprint.wrapping_add(hash);
        Ok(())
    }

    /// The next query has no more rows.
    pub fn end(&mut self) {
        (self.next, self.taken) = (self.next + 1, 0);
    }

    /// The catalog, once every query was answered.
    ///
    /// # Errors
    /// [`LoadError::Unfinished`].
    pub fn finish(mut self) -> Result<Catalog, LoadError> {
        if self.next != QUERIES.len() {
            return Err(LoadError::Unfinished(self.next));
        }
        for [source, target, function] in std::mem::take(&mut self.casts) {
            let builtin = |oid: u32| oid < super::FIRST_NORMAL_OID;
            if builtin(source) && builtin(target) {
                self.catalog.builtin_cast_functions.push(function);
            }
            for end in [source, target] {
                if !builtin(end) {
                    self.catalog.casts.entry(end).or_default().push(function);
                }
            }
        }
        self.catalog.family = families(&self.edges);
        Ok(self.catalog)
    }

    fn row(&mut self, query: usize, row: Cells<'_>) -> Option<()> {
        match query {
            0 => {
                let name = self.name(text(row, 0)?);
                self.catalog.schemas.insert(name);
            }
            1 => self.relation(row)?,
            2 => {
                let column = Column {
                    number: text(row, 1)?.parse().ok()?,
                    name: self.name(text(row, 2)?),
                    type_oid: number(row, 3)?,
                    generated_from: Vec::new(),
                };
                // A relation made between the two queries is not known yet: it is unknown until the next load.
                if let Some(relation) = self.catalog.relations.get_mut(&number(row, 0)?) {
                    relation.columns.push(column);
                }
            }
            3 => self.function(row)?,
            4 => {
                let name = self.name(text(row, 1)?);
                let operator =
                    Operator { schema: self.name(text(row, 0)?), name: Arc::clone(&name), function: number(row, 2)? };
                self.catalog.operators.entry(name).or_default().push(operator);
            }
            5 => self.type_row(row)?,
            6 => self.casts.push([number(row, 0)?, number(row, 1)?, number(row, 2)?]),
            7 => self.edges.push([number(row, 0)?, number(row, 1)?]),
            8 => {
                let (column, source): (i16, i16) = (text(row, 1)?.parse().ok()?, text(row, 2)?.parse().ok()?);
                let relation = self.catalog.relations.get_mut(&number(row, 0)?);
                let known = relation.and_then(|found| found.columns.iter_mut().find(|known| known.number == column));
                if let Some(known) = known {
                    known.generated_from.push(source);
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn relation(&mut self, row: Cells<'_>) -> Option<()> {
        let kind = text(row, 3)?;
        let relation = Relation {
            oid: number(row, 0)?,
            schema: self.name(text(row, 1)?),
            name: self.name(text(row, 2)?),
            kind: if kind == "c" { RelationKind::Table } else { relation_kind(kind)? },
            columns: Vec::new(),
            definition: cell(row, 4)?.map(Into::into),
            triggers: flag(row, 5)?,
            rules: flag(row, 6)?,
            code: oids(cell(row, 7)?)?,
        };
        // A composite type has columns, but no name that a FROM could use.
        if kind != "c" {
            self.catalog.by_name.entry(Arc::clone(&relation.name)).or_default().push(relation.oid);
        }
        self.catalog.relations.insert(relation.oid, relation);
        Some(())
    }

    fn function(&mut self, row: Cells<'_>) -> Option<()> {
        let function = Function {
            oid: number(row, 0)?,
            schema: self.name(text(row, 1)?),
            name: self.name(text(row, 2)?),
            volatility: match text(row, 3)? {
                "i" => Volatility::Immutable,
                "s" => Volatility::Stable,
                "v" => Volatility::Volatile,
                _ => return None,
            },
            security_definer: flag(row, 4)?,
            language: self.name(text(row, 5)?),
            extension: cell(row, 6)?.map(|name| self.name(name)),
        };
        let same = self.catalog.functions.entry(Arc::clone(&function.name)).or_default();
        self.catalog.function_oids.insert(function.oid, (Arc::clone(&function.name), same.len()));
        same.push(function);
        Some(())
    }

    fn type_row(&mut self, row: Cells<'_>) -> Option<()> {
        let found = Type {
            oid: number(row, 0)?,
            schema: self.name(text(row, 1)?),
            name: self.name(text(row, 2)?),
            kind: text(row, 3)?.chars().next()?,
            base: number(row, 4)?,
            relation: number(row, 5)?,
            code: oids(cell(row, 6)?)?,
        };
        self.catalog.types_by_name.entry(Arc::clone(&found.name)).or_default().push(found.oid);
        self.catalog.types.insert(found.oid, found);
        Some(())
    }

    fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.names.get(text) {
            return Arc::clone(known);
        }
        let name: Arc<str> = text.into();
        self.names.insert(text.to_owned(), Arc::clone(&name));
        name
    }
}

impl Names {
    /// Reads the rows of [`SESSION_QUERY`].
    ///
    /// # Errors
    /// [`LoadError`]: nothing about the session's names is known then.
    pub fn from_rows(rows: &[Vec<Option<String>>]) -> Result<Self, LoadError> {
        let query = QUERIES.len();
        if rows.len() > MAX_ROWS {
            return Err(LoadError::TooMuch(query));
        }
        let mut names = Self::default();
        let mut complete = 0;
        for row in rows {
            complete += names.row(&borrowed(row)).ok_or(LoadError::Row(query))?;
        }
        if complete == 2 { Ok(names) } else { Err(LoadError::Row(query)) }
    }

    /// Reads one row; says how many of the rows that must be there exactly once this is.
    fn row(&mut self, row: Cells<'_>) -> Option<u32> {
        match text(row, 0)? {
            "path" => self.search_path.push(text(row, 1)?.into()),
            "user" => {
                self.user = text(row, 1)?.into();
                self.session_user = text(row, 2)?.into();
                return Some(1);
            }
            "text" => {
                self.plain_text = text(row, 1)? == "on" && matches!(text(row, 2)?, "UTF8" | "SQL_ASCII");
                return Some(1);
            }
            "relation" => self.temporary.push(Relation {
                oid: number(row, 1)?,
                schema: text(row, 2)?.into(),
                name: text(row, 3)?.into(),
                kind: relation_kind(text(row, 4)?.get(..1)?)?,
                columns: Vec::new(),
                definition: cell(row, 5)?.map(Into::into),
                // Flags stand after the kind.
                triggers: text(row, 4)?.get(1..)?.contains('t'),
                rules: text(row, 4)?.get(1..)?.contains('r'),
                code: Vec::new(),
            }),
            "code" => {
                let oid = number(row, 1)?;
                let relation = self.temporary.iter_mut().find(|known| known.oid == oid)?;
                relation.code.push(number(row, 2)?);
            }
            "column" => {
                let oid = number(row, 1)?;
                let relation = self.temporary.iter_mut().find(|known| known.oid == oid)?;
                relation.columns.push(Column {
                    number: text(row, 2)?.parse().ok()?,
                    name: text(row, 3)?.into(),
                    type_oid: number(row, 4)?,
                    generated_from: Vec::new(),
                });
            }
            _ => return None,
        }
        Some(0)
    }
}

/// For each relation of an inheritance tree all the others of it that lie above or below.
fn families(edges: &[[u32; 2]]) -> HashMap<u32, Vec<u32>> {
    let mut up: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut down: HashMap<u32, Vec<u32>> = HashMap::new();
    for [child, parent] in edges {
        up.entry(*child).or_default().push(*parent);
        down.entry(*parent).or_default().push(*child);
    }
    let members: BTreeSet<u32> = edges.iter().flatten().copied().collect();
    members.into_iter().map(|oid| (oid, reach(oid, &up).into_iter().chain(reach(oid, &down)).collect())).collect()
}

fn reach(from: u32, edges: &HashMap<u32, Vec<u32>>) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![from];
    while let Some(oid) = waiting.pop() {
        for next in edges.get(&oid).into_iter().flatten() {
            if *next != from && found.len() < MAX_FAMILY && found.insert(*next) {
                waiting.push(*next);
            }
        }
    }
    found
}

fn relation_kind(text: &str) -> Option<RelationKind> {
    Some(match text {
        "r" => RelationKind::Table,
        "p" => RelationKind::Partitioned,
        "v" => RelationKind::View,
        "m" => RelationKind::Materialized,
        "f" => RelationKind::Foreign,
        "S" => RelationKind::Sequence,
        _ => return None,
    })
}

/// The cell at a place; `None` outside of the row.
fn cell<'a>(row: Cells<'a>, at: usize) -> Option<Option<&'a str>> {
    row.get(at).copied()
}

fn borrowed(row: &[Option<String>]) -> Vec<Option<&str>> {
    row.iter().map(Option::as_deref).collect()
}

fn text<'a>(row: Cells<'a>, at: usize) -> Option<&'a str> {
    cell(row, at)?
}

fn number(row: Cells<'_>, at: usize) -> Option<u32> {
    text(row, at)?.parse().ok()
}

fn flag(row: Cells<'_>, at: usize) -> Option<bool> {
    match text(row, at)? {
        "t" | "true" => Some(true),
        "f" | "false" => Some(false),
        _ => None,
    }
}

fn oids(list: Option<&str>) -> Option<Vec<u32>> {
    list.map_or(Some(Vec::new()), |list| list.split(',').map(|oid| oid.parse().ok()).collect())
}
