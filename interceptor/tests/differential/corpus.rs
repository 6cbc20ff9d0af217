//! Statements that a seeded generator makes over a schema with one of everything: views, partitions, inheritance, rules,
//! triggers, foreign keys, functions, domains, sequences, row policies, temporary tables.
//!
//! The same seed gives the same statements. Most of them run; what the server refuses is counted.

use interceptor::testing::draw::Draw;

/// The schema.
pub(crate) const SCHEMA: &str = include_str!("schema.sql");

/// Draws statements.
pub(crate) struct Corpus {
    draws: Draw,
    /// For names that must be new.
    made: u32,
    depth: u32,
}

/// Everything with the columns id, a, b, c that can be read.
const READABLE: &[&str] = &[
    "plain",
    "other",
    "parent",
    "child",
    "parts",
    "parts_low",
    "part_view",
    "view_plain",
    "view_join",
    "view_deep",
    "matview",
    "guarded",
    "referring",
    "watched",
    "ruled",
    "public.plain",
    "side.plain",
    "scratch",
    "serials",
    "checked",
    "generated_view",
];
/// What can be written.
const WRITABLE: &[&str] = &[
    "plain",
    "other",
    "parent",
    "child",
    "parts",
    "parts_low",
    "part_view",
    "view_plain",
    "view_deep",
    "referring",
    "watched",
    "ruled",
    "side.plain",
    "scratch",
    "serials",
    "checked",
    "instead",
];
const PURE: &[&str] = &[
    "abs(#)",
    "coalesce(#, 0)",
    "(# + 1)",
    "greatest(#, 3)",
    "length($)",
    "(# % 7)",
    "least(#, 100)",
    "(#)::bigint::int",
];
const CODE: &[&str] = &["reads_other(#)", "writes_other(#)", "pure_sql(#)", "definer(#)"];

impl Corpus {
    /// Starts from a seed.
    pub(crate) const fn new(seed: u64) -> Self {
        Self { draws: Draw::new(seed), made: 0, depth: 0 }
    }

    fn draw(&mut self, below: usize) -> usize {
        self.draws.below(below)
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        self.draws.one(of)
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.draw(100) < percent
    }

    fn fresh(&mut self) -> String {
        self.made += 1;
        format!("made_{}", self.made)
    }

    /// A text for psql: one statement, or a few that belong together.
    pub(crate) fn next(&mut self) -> String {
        self.depth = 0;
        match self.draw(100) {
            0..=34 => self.query(),
            35..=49 => self.insert(),
            50..=60 => self.update(),
            61..=68 => self.delete(),
            69..=72 => self.merge(),
            73..=76 => format!("WITH w AS ({}) {}", self.returning(), self.query()),
            77..=79 => {
                format!("EXPLAIN {} {}", self.one(&["", "ANALYZE", "(COSTS OFF)", "VERBOSE"]), self.any_plannable())
            }
            80..=82 => self.session(),
            83..=85 => self.copy(),
            86..=88 => self.transaction(),
            _ => self.define(),
        }
    }

    fn any_plannable(&mut self) -> String {
        match self.draw(4) {
            0 => self.insert(),
            1 => self.update(),
            2 => self.delete(),
            _ => self.query(),
        }
    }

    fn returning(&mut self) -> String {
        let statement = match self.draw(3) {
            0 => self.insert(),
            1 => self.update(),
            _ => self.delete(),
        };
        if statement.contains("RETURNING") { statement } else { format!("{statement} RETURNING *") }
    }

    /// An integer expression over an alias.
    fn value(&mut self, alias: &str) -> String {
        self.depth += 1;
        let number = match self.draw(4) {
            0 => self.draw(50).to_string(),
            1 => format!("{alias}.a"),
            2 => format!("{alias}.c"),
            _ => format!("{alias}.id"),
        };
        if self.depth > 12 {
            return number;
        }
        match self.draw(20) {
            0..=8 => number,
            9..=13 => self.one(PURE).replace('#', &number).replace('$', &format!("{alias}.b")),
            14 => self.one(CODE).replace('#', &number),
            15 => format!("(SELECT count(*)::int FROM {} s WHERE s.id = {number})", self.one(READABLE)),
            16 => format!("(SELECT max(s.a) FROM ({}) s)", self.select()),
            17 => format!("nextval('{}')::int", self.one(&["counter", "side.counter", "public.counter"])),
            18 => format!("CASE WHEN {} THEN {number} ELSE 0 END", self.condition(alias)),
            _ => format!("(ARRAY[{number}, 1])[1]"),
        }
    }

    fn condition(&mut self, alias: &str) -> String {
        self.depth += 1;
        if self.depth > 12 {
            return format!("{alias}.id < 30");
        }
        match self.draw(9) {
            0 => format!("EXISTS (SELECT 1 FROM {} e WHERE e.id = {alias}.id)", self.one(READABLE)),
            1 => format!("{alias}.id IN (SELECT i.a FROM {} i)", self.one(READABLE)),
            2 => format!("{} > {}", self.value(alias), self.value(alias)),
            3 => format!("{alias}.b LIKE '%x%'"),
            4 => format!("{alias}.id = ANY (ARRAY[1, 2, {}])", self.value(alias)),
            5 => format!("{} AND {}", self.condition(alias), self.condition(alias)),
            6 => format!("NOT ({})", self.condition(alias)),
            _ => format!("{alias}.id < {}", self.draw(40)),
        }
    }

    fn source(&mut self, alias: &str) -> String {
        self.depth += 1;
        match if self.depth > 8 { 0 } else { self.draw(12) } {
            8 => format!("({}) {alias}", self.select()),
            9 => format!("LATERAL (SELECT * FROM {} l LIMIT 3) {alias}", self.one(READABLE)),
            10 => format!("(SELECT g AS id, g AS a, g::text AS b, g AS c FROM generate_series(1, 5) g) {alias}"),
            11 => format!("(TABLE {}) {alias}", self.one(READABLE)),
            _ => format!("{} {alias}", self.one(READABLE)),
        }
    }

    /// A query of the columns id, a, b, c.
    fn select(&mut self) -> String {
        self.depth += 1;
        let from = self.source("t");
        let from = match self.draw(6) {
            0 => format!("{from} JOIN {} ON t.id = u.id", self.source("u")),
            1 => format!("{from} LEFT JOIN {} ON {}", self.source("u"), self.condition("t")),
            2 => format!("{from}, {}", self.source("u")),
            _ => from,
        };
        let list = format!("{} AS id, {} AS a, t.b, {} AS c", self.value("t"), self.value("t"), self.value("t"));
        let filter = if self.chance(60) { format!(" WHERE {}", self.condition("t")) } else { String::new() };
        let query = format!("SELECT {list} FROM {from}{filter}");
        match if self.depth > 8 { 9 } else { self.draw(10) } {
            0 => format!("{query} UNION ALL SELECT id, a, b, c FROM {}", self.one(READABLE)),
            1 => format!("{query} EXCEPT SELECT id, a, b, c FROM {}", self.one(READABLE)),
            2 => format!("WITH q AS ({query}) SELECT id, a, b, c FROM q"),
            3 => format!(
                "WITH {} AS (SELECT 1 AS id, 2 AS a, 'x' AS b, 3 AS c) {query}",
                self.one(&["plain", "other", "q"])
            ),
            _ => query,
        }
    }

    fn query(&mut self) -> String {
        let query = self.select();
        match self.draw(12) {
            0 => format!("SELECT * FROM {} t WHERE {} FOR UPDATE", self.one(WRITABLE), self.condition("t")),
            1 => format!(
                "SELECT t.id FROM {} t, {} u FOR {} OF t",
                self.one(WRITABLE),
                self.one(READABLE),
                self.one(&["SHARE", "NO KEY UPDATE", "KEY SHARE"])
            ),
            2 => format!(
                "WITH RECURSIVE r(id) AS (SELECT 1 UNION SELECT t.a + 1 FROM {} t JOIN r ON t.id = r.id WHERE t.a < 9) SELECT * FROM r",
                self.one(READABLE)
            ),
            3 => format!(
                "SELECT t.b, sum({}) FILTER (WHERE {}) FROM {} t GROUP BY t.b ORDER BY 1 LIMIT 5",
                self.value("t"),
                self.condition("t"),
                self.one(READABLE)
            ),
            4 => format!("SELECT t, row_to_json(t), rank() OVER (ORDER BY t.a) FROM {} t", self.one(READABLE)),
            5 => format!("{query} ORDER BY 1 LIMIT 10"),
            6 => format!("TABLE {}", self.one(READABLE)),
            7 => format!(
                "SELECT {}",
                self.one(&[
                    "pg_advisory_xact_lock(7)",
                    "txid_current()",
                    "set_config('work_mem', '5MB', true)",
                    "currval('counter')",
                    "lo_creat(-1)",
                    "pg_notify('chan', 'x')",
                    "setval('counter', 5)",
                    "to_regclass('plain')",
                    "pg_get_viewdef('view_deep'::regclass)",
                    "pg_total_relation_size('plain')",
                    "(SELECT max(last_value) FROM pg_sequences)",
                    "query_to_xml('SELECT * FROM other', true, false, '')"
                ])
            ),
            _ => query,
        }
    }

    fn insert(&mut self) -> String {
        let table = self.one(WRITABLE);
        let rows = if self.chance(50) {
            format!("SELECT q.id % 40, q.a, q.b, q.c FROM ({}) q LIMIT 3", self.select())
        } else {
            format!("VALUES ({}, {}, 'x', {})", self.draw(40), self.draw(40), self.draw(9))
        };
        let tail = match self.draw(5) {
            0 => " ON CONFLICT DO NOTHING",
            1 if matches!(table, "plain" | "other" | "scratch") => {
                " ON CONFLICT (id) DO UPDATE SET a = excluded.a, c = (SELECT max(a) FROM child)"
            }
            2 => " RETURNING id",
            _ => "",
        };
        if self.chance(10) {
            return format!("INSERT INTO {table} DEFAULT VALUES");
        }
        format!("INSERT INTO {table} (id, a, b, c) {rows}{tail}")
    }

    fn update(&mut self) -> String {
        let (table, value) = (self.one(WRITABLE), self.value("t"));
        match self.draw(4) {
            0 => format!("UPDATE {table} t SET a = u.a, c = {value} FROM {} WHERE u.id = t.id", self.source("u")),
            1 => format!("UPDATE {table} t SET (a, b) = (SELECT s.a, s.b FROM {} s LIMIT 1)", self.one(READABLE)),
            2 => format!("UPDATE {table} t SET id = t.id + 100 WHERE t.id = {}", self.draw(40)),
            _ => format!("UPDATE {table} t SET a = {value} WHERE {}", self.condition("t")),
        }
    }

    fn delete(&mut self) -> String {
        let table = self.one(WRITABLE);
        if self.chance(30) {
            return format!("DELETE FROM {table} t USING {} WHERE u.id = t.a", self.source("u"));
        }
        format!("DELETE FROM {table} t WHERE t.id = {} AND {}", self.draw(40), self.condition("t"))
    }

    fn merge(&mut self) -> String {
        let actions = [
            "WHEN MATCHED THEN DELETE",
            "WHEN MATCHED AND u.a > 5 THEN UPDATE SET a = u.a",
            "WHEN NOT MATCHED THEN INSERT (id, a, b, c) VALUES (u.id, u.a, u.b, u.c)",
            "WHEN MATCHED THEN DO NOTHING",
        ];
        let (table, source) =
            (self.one(&["plain", "other", "parent", "parts", "watched", "scratch", "checked"]), self.source("u"));
        format!("MERGE INTO {table} t USING {source} ON t.id = u.id {}", self.one(&actions))
    }

    fn session(&mut self) -> String {
        match self.draw(7) {
            0 => format!(
                "SET search_path = {}",
                self.one(&["public, side", "side, public", "public", "pg_temp, public", "\"$user\", public"])
            ),
            1 => "RESET search_path".to_owned(),
            2 => {
                let name = self.fresh();
                format!("PREPARE {name} AS {};\nEXECUTE {name};\nDEALLOCATE {name}", self.any_plannable())
            }
            3 => format!("SET {} = off", self.one(&["enable_hashjoin", "enable_seqscan", "jit"])),
            4 => "BEGIN;\nDISCARD TEMP;\nROLLBACK".to_owned(),
            5 => "BEGIN;\nUPDATE pg_proc SET provolatile = 's' WHERE proname = 'pure_sql';\nROLLBACK".to_owned(),
            _ => "DISCARD PLANS".to_owned(),
        }
    }

    fn copy(&mut self) -> String {
        match self.draw(3) {
            0 => format!("COPY ({}) TO STDOUT", self.query()),
            1 => format!(
                "COPY {} (id, a) TO STDOUT",
                self.one(&["plain", "other", "child", "parts_low", "watched", "scratch"])
            ),
            _ => format!(
                "COPY {} (id, a) FROM STDIN;\n7\t8\n\\.\nSELECT 1",
                self.one(&["plain", "parts", "watched", "serials", "checked", "parent"])
            ),
        }
    }

    fn transaction(&mut self) -> String {
        match self.draw(3) {
            0 => format!("BEGIN;\n{};\n{};\nROLLBACK", self.any_plannable(), self.define()),
            1 => format!(
                "BEGIN;\nDECLARE cur CURSOR FOR {};\nFETCH 2 FROM cur;\nMOVE ALL FROM cur;\nCLOSE cur;\nCOMMIT",
                self.select()
            ),
            _ => format!("BEGIN;\nSAVEPOINT s;\n{};\nROLLBACK TO s;\n{};\nCOMMIT", self.define(), self.any_plannable()),
        }
    }

    fn define(&mut self) -> String {
        let name = self.fresh();
        let table = self.one(&["plain", "other", "parent", "parts", "child", "scratch", "side.plain"]);
        match self.draw(22) {
            0 => format!("CREATE TABLE {name} AS {}", self.select()),
            1 => format!("CREATE TEMP TABLE {name} AS {}", self.select()),
            2 => format!("CREATE VIEW {name} AS {};\nSELECT * FROM {name};\nDROP VIEW {name}", self.select()),
            3 => format!(
                "CREATE MATERIALIZED VIEW {name} AS {};\nREFRESH MATERIALIZED VIEW {name};\nDROP MATERIALIZED VIEW {name}",
                self.select()
            ),
            4 => format!(
                "CREATE TABLE {name} (id int PRIMARY KEY, a int REFERENCES plain (id), b text, c int);\nDROP TABLE {name}"
            ),
            5 => format!("CREATE INDEX {name} ON {table} (a);\nDROP INDEX {name}"),
            6 => {
                format!("ALTER TABLE {table} ADD COLUMN {name} int DEFAULT 1;\nALTER TABLE {table} DROP COLUMN {name}")
            }
            7 => format!(
                "ALTER TABLE {table} RENAME COLUMN b TO {name};\nSELECT * FROM {table};\nALTER TABLE {table} RENAME COLUMN {name} TO b"
            ),
            8 => format!(
                "ALTER TABLE {table} ADD CONSTRAINT {name} CHECK (a < 1000000) NOT VALID;\nALTER TABLE {table} VALIDATE CONSTRAINT {name};\nALTER TABLE {table} DROP CONSTRAINT {name}"
            ),
            9 => format!("CREATE TABLE {name} (LIKE {table} INCLUDING ALL);\nDROP TABLE {name}"),
            10 => format!(
                "CREATE TABLE {name} () INHERITS (parent);\nINSERT INTO {name} (id) VALUES (3);\nDROP TABLE {name}"
            ),
            11 => "TRUNCATE side.plain".to_owned(),
            12 => format!(
                "LOCK TABLE {table} IN {} MODE",
                self.one(&["ACCESS SHARE", "ROW EXCLUSIVE", "ACCESS EXCLUSIVE"])
            ),
            13 => format!("ANALYZE {table}"),
            14 => format!("COMMENT ON TABLE {table} IS '{name}'"),
            15 => format!("SELECT id, a, b, c INTO TEMP {name} FROM {table}"),
            16 => format!("CREATE TEMP VIEW {name} AS {};\nSELECT * FROM {name};\nDROP VIEW {name}", self.select()),
            17 => format!("CREATE SEQUENCE {name};\nSELECT nextval('{name}');\nDROP SEQUENCE {name}"),
            18 => format!(
                "CREATE DOMAIN {name} AS int CHECK (VALUE < 100000);\nSELECT a::{name} FROM {table};\nDROP DOMAIN {name}"
            ),
            19 => format!(
                "CREATE FUNCTION {name}(int) RETURNS int LANGUAGE sql AS 'SELECT max(a) FROM other';\nSELECT {name}(a) FROM {table};\nDROP FUNCTION {name}"
            ),
            20 => format!(
                "ALTER TABLE {table} ALTER COLUMN c TYPE bigint USING c + 1;\nALTER TABLE {table} ALTER COLUMN c TYPE int"
            ),
            _ => format!("GRANT SELECT ON {table} TO PUBLIC;\nREVOKE SELECT ON {table} FROM PUBLIC"),
        }
    }
}
