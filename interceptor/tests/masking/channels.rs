//! Ways beside the result of a query: what is written and read back, definitions, errors, notifications, statistics, and
//! sequences of steps that change what names mean.

use super::corpus::Corpus;

fn steps(steps: &[&str]) -> Vec<String> {
    steps.iter().map(|step| (*step).to_owned()).collect()
}

impl Corpus {
    /// A value goes into a column that is not tagged, and is read from there.
    pub(super) fn written(&mut self) -> Vec<String> {
        let scalar = self.scalar();
        let (from, value) = self.source("p");
        let text = self.text(&value);
        let back = "SELECT * FROM agent.sink";
        let insert =
            |columns: &str, query: String| vec![format!("INSERT INTO agent.sink ({columns}) {query}"), back.to_owned()];
        match self.draws.below(26) {
            0 => insert("id, v", format!("SELECT p.id, {text} FROM {from}")),
            1 => insert("v", format!("VALUES ({scalar})")),
            2 => insert("j", format!("SELECT jsonb_build_object('k', {text}) FROM {from}")),
            3 => insert("b", format!("SELECT convert_to({text}, 'UTF8') FROM {from}")),
            4 => insert("a", format!("SELECT ARRAY[{text}] FROM {from}")),
            5 => insert("i[1:2]", format!("SELECT ARRAY[ascii({text}), 2] FROM {from}")),
            6 => insert("c.a", format!("SELECT {text} FROM {from}")),
            7 => insert("id, v, w", format!("SELECT 1, 'x', {text} FROM {from}")),
            8 => vec![
                "INSERT INTO agent.sink (id) VALUES (1)".into(),
                format!("UPDATE agent.sink SET v = {scalar}"),
                back.into(),
            ],
            9 => vec![
                "INSERT INTO agent.sink (id) VALUES (1)".into(),
                format!("UPDATE agent.sink SET v = {text} FROM {from} WHERE agent.sink.id = p.id"),
                back.into(),
            ],
            10 => vec![
                "INSERT INTO agent.sink (id) VALUES (1)".into(),
                format!("UPDATE agent.sink SET (v, w) = (SELECT 'x', {text} FROM {from} LIMIT 1)"),
                back.into(),
            ],
            11 => vec![
                "INSERT INTO agent.sink (id, j) VALUES (1, '{}')".into(),
                format!("UPDATE agent.sink s SET j[{text}] = '1' FROM {from} WHERE s.id = p.id"),
                back.into(),
            ],
            12 => vec![
                "INSERT INTO agent.sink (id, j, i) VALUES (1, '{}', '{1}')".into(),
                format!("UPDATE agent.sink SET i[ascii({scalar})] = 1"),
                "SELECT id, array_upper(i, 1) FROM agent.sink".into(),
            ],
            13 => vec![
                "INSERT INTO agent.sink (id, c) VALUES (1, ('a', 'b'))".into(),
                format!("UPDATE agent.sink SET c.b = {scalar}"),
                back.into(),
            ],
            14 => vec![
                format!("INSERT INTO agent.unique_sink VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET v = {scalar}"),
                format!(
                    "INSERT INTO agent.unique_sink VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET v = {scalar} RETURNING v"
                ),
                "TABLE agent.unique_sink".into(),
            ],
            15 => vec![
                format!("INSERT INTO agent.unique_sink SELECT p.id, {text} FROM {from} ON CONFLICT DO NOTHING"),
                "TABLE agent.unique_sink".into(),
            ],
            16 => vec![
                format!(
                    "MERGE INTO agent.sink t USING (SELECT p.id, {text} AS v FROM {from}) s ON t.id = s.id \
                     WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, s.v) WHEN MATCHED THEN UPDATE SET v = s.v"
                ),
                back.into(),
            ],
            17 => vec![
                format!("WITH w AS (INSERT INTO agent.sink (v) SELECT {text} FROM {from} RETURNING v) SELECT * FROM w"),
                back.into(),
            ],
            18 => vec![format!("INSERT INTO agent.misleading SELECT p.id, {text} FROM {from}"), back.into()],
            19 => vec![
                "INSERT INTO agent.sink (id) VALUES (1)".into(),
                format!("UPDATE agent.misleading SET ssn = {scalar}"),
                back.into(),
            ],
            20 => vec![
                format!("INSERT INTO agent.tagged SELECT p.id, {text} FROM {from}"),
                "SELECT * FROM agent.tagged".into(),
            ],
            21 => vec![format!("UPDATE people SET note = {scalar}"), "SELECT id, note FROM people".into()],
            22 => vec!["UPDATE people SET note = ssn".into(), "SELECT id, note FROM people".into()],
            23 => vec!["UPDATE people SET card = left(ssn, 4)".into(), "SELECT id, card FROM people".into()],
            24 => vec![
                format!("UPDATE people SET card = {scalar}, ref = {scalar}"),
                "SELECT id, card, ref FROM people".into(),
            ],
            _ => vec![
                format!("CREATE TEMP TABLE t (id int, v text)"),
                format!("INSERT INTO t SELECT p.id, {text} FROM {from}"),
                "TABLE t".into(),
            ],
        }
    }

    pub(super) fn returning(&mut self) -> Vec<String> {
        let scalar = self.scalar();
        let text = self.text("ssn");
        let old = if self.version >= 18 {
            self.draws.one(&["old.ssn", "new.ssn", "old.*", "new", "old::text", "to_jsonb(old)"])
        } else {
            "ssn"
        };
        let list = self.draws.one(&[
            "*",
            "id, ¤",
            "people",
            "people.*",
            "row_to_json(people)",
            "(people).*",
            "id, ssn, email, card, ref",
            "OLD",
            "people::text",
            "SCALAR",
        ]);
        let list = list.replace('¤', &text).replace("SCALAR", &scalar).replace("OLD", old);
        let statement = match self.draws.below(if self.version >= 17 { 10 } else { 9 }) {
            9 => format!(
                "MERGE INTO people USING (VALUES (1)) s(i) ON people.id = s.i WHEN MATCHED THEN UPDATE SET note = 'z' RETURNING merge_action(), {list}"
            ),
            0 => format!("UPDATE people SET note = 'x' RETURNING {list}"),
            1 => format!("UPDATE people SET note = 'x' WHERE id = 1 RETURNING {list}"),
            2 => format!("INSERT INTO people (id) VALUES (90) RETURNING {list}"),
            3 => format!("INSERT INTO people SELECT * FROM people WHERE id < 0 RETURNING {list}"),
            4 => format!("DELETE FROM people WHERE id < 0 RETURNING {list}"),
            5 => {
                format!("INSERT INTO people (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET note = 'y' RETURNING {list}")
            }
            6 => format!("WITH w AS (UPDATE people SET note = 'x' RETURNING {list}) SELECT * FROM w"),
            7 => format!("DELETE FROM agent.tagged RETURNING ssn, agent.tagged, {scalar}"),
            _ => format!(
                "DELETE FROM orders RETURNING orders.ssn, {scalar}, (SELECT p FROM people p WHERE p.id = orders.person)"
            ),
        };
        let how = self.draws.one(&["", ":text ", ":binary "]);
        vec![format!("{how}{statement}")]
    }

    /// Something is made over a value, and read.
    pub(super) fn defined(&mut self) -> Vec<String> {
        let query = self.query();
        let (from, value) = self.source("p");
        let text = self.text(&value);
        let one = format!("SELECT p.id AS a, {text} AS b FROM {from}");
        match self.draws.below(19) {
            0 => vec![format!("CREATE VIEW agent.v AS {one}"), "TABLE agent.v".into()],
            1 => vec![format!("CREATE VIEW agent.v (x, y) AS {one}"), "SELECT x, y, upper(y) FROM agent.v".into()],
            2 => vec![
                format!("CREATE VIEW agent.v AS {one}"),
                "CREATE VIEW agent.w AS SELECT b AS c FROM agent.v".into(),
                "SELECT w, c FROM agent.w w".into(),
            ],
            3 => vec![format!("CREATE TABLE agent.t AS {one}"), "TABLE agent.t".into()],
            4 => vec![format!("CREATE TEMP TABLE t AS {one}"), "TABLE t".into()],
            5 => vec![
                format!("CREATE MATERIALIZED VIEW agent.m AS {one}"),
                "TABLE agent.m".into(),
                "SELECT upper(b) FROM agent.m".into(),
            ],
            6 => vec![format!("SELECT p.id AS a, {text} AS b INTO agent.t FROM {from}"), "TABLE agent.t".into()],
            7 => vec![format!("CREATE TEMP VIEW v AS {one}"), "COPY (SELECT * FROM v) TO STDOUT".into()],
            8 => vec![
                format!("PREPARE q AS {query}"),
                "CREATE TABLE agent.t AS EXECUTE q".into(),
                "TABLE agent.t".into(),
            ],
            9 => vec![
                format!("CREATE VIEW agent.v AS {one}"),
                "ALTER VIEW agent.v RENAME COLUMN b TO z".into(),
                "SELECT z FROM agent.v".into(),
            ],
            10 => vec![
                "CREATE VIEW agent.v AS SELECT 1 AS a, 'x'::text AS b".into(),
                format!("CREATE OR REPLACE VIEW agent.v AS SELECT 1 AS a, ({text})::text AS b FROM {from}"),
                "SELECT b FROM agent.v".into(),
            ],
            11 => vec![
                format!("CREATE VIEW agent.v AS {one}"),
                "CREATE MATERIALIZED VIEW agent.m AS TABLE agent.v".into(),
                "CREATE OR REPLACE VIEW agent.v AS SELECT 1 AS a, ''::text AS b".into(),
                "TABLE agent.m".into(),
            ],
            12 => vec![
                format!("CREATE RECURSIVE VIEW agent.v (a, b) AS {one} UNION ALL SELECT a + 10, b FROM v WHERE a < 5"),
                "TABLE agent.v".into(),
            ],
            13 => vec![
                format!("CREATE MATERIALIZED VIEW agent.m AS {one} WITH NO DATA"),
                "REFRESH MATERIALIZED VIEW agent.m".into(),
                "TABLE agent.m".into(),
            ],
            14 => vec![
                "CREATE TABLE agent.t (LIKE people INCLUDING ALL)".into(),
                "INSERT INTO agent.t SELECT * FROM people".into(),
                "TABLE agent.t".into(),
            ],
            15 => vec![
                "CREATE TABLE agent.kid (more int) INHERITS (people)".into(),
                "INSERT INTO agent.kid SELECT * FROM people".into(),
                "TABLE agent.kid".into(),
            ],
            16 => vec![
                "ALTER TABLE people ADD COLUMN shown text GENERATED ALWAYS AS (upper(ssn)) STORED".into(),
                "SELECT id, shown FROM people".into(),
            ],
            17 => vec![
                "CREATE VIEW agent.v AS SELECT 1 AS a, ''::text AS b".into(),
                "CREATE VIEW agent.w AS SELECT n FROM generate_series(0, 200) n, agent.v v WHERE n = ascii(md5(v.b))"
                    .into(),
                format!("CREATE OR REPLACE VIEW agent.v AS SELECT 1 AS a, ({text})::text AS b FROM {from}"),
                "SELECT n FROM agent.w".into(),
            ],
            _ => vec![
                format!("CREATE VIEW agent.v WITH (security_invoker) AS {one}"),
                "SELECT v::text, row_to_json(v) FROM agent.v v".into(),
            ],
        }
    }

    /// An error that would quote a value.
    pub(super) fn failing(&mut self) -> Vec<String> {
        let (from, value) = self.source("p");
        let text = self.text(&value);
        let scalar = self.scalar();
        let kind = self.draws.one(&[
            "int",
            "bigint",
            "numeric",
            "date",
            "timestamptz",
            "uuid",
            "json",
            "jsonb",
            "inet",
            "interval",
            "bool",
            "int4range",
            "point",
            "regclass",
            "regtype",
            "regproc",
            "regrole",
            "bytea",
            "bit",
            "tsquery",
            "xml",
            "money",
            "macaddr",
            "pg_lsn",
            "int[]",
            "pair",
            "short",
            "hstore",
            "oid",
            "\"char\"[]",
        ]);
        let call = self.draws.one(&[
            "to_regtype(¤)",
            "currval(¤)",
            "nextval(¤)",
            "set_config(¤, 'x', true)",
            "current_setting(¤)",
            "convert(¤::bytea, ¤, 'UTF8')",
            "date_trunc(¤, now())",
            "date_part(¤, now())",
            "to_number(¤, 'x')",
            "to_date(¤, 'YYYY')",
            "encode('x', ¤)",
            "digest('x', ¤)",
            "regexp_match('x', '(' || ¤)",
            "'x' ~ ('[' || ¤)",
            "jsonb_path_query('{}', ¤::jsonpath)",
            "xmlparse(document '<' || ¤)",
            "to_tsvector(¤::regconfig, 'x')",
            "timezone(¤, now())",
            "'x' LIKE '\\' || ¤ ESCAPE ¤",
            "pg_get_viewdef(¤)",
            "has_table_privilege(¤, 'select')",
            "json_build_object(NULL, ¤)",
            "jsonb_set('1', ARRAY[¤], '1')",
            "chr(-ascii(¤))",
            "repeat(¤, 2000000000)",
            "parse_ident(¤)",
            "array_fill(¤, NULL)",
            "1 / (length(¤) - length(¤))",
            "lo_get(¤::oid)",
            "pg_relation_size(¤)",
            "format('%' || ¤)",
            "unistr('\\' || ¤)",
            "normalize('x', ¤)",
            "decode(¤, 'hex')",
        ]);
        match self.draws.below(24) {
            0..=4 => vec![format!("SELECT p.id, ({text})::{kind} FROM {from}")],
            5..=8 => vec![format!("SELECT {} FROM {from}", call.replace('¤', &text))],
            9 => vec![format!("SELECT {scalar}::{kind}")],
            10 => vec![format!("INSERT INTO strict (id, v) SELECT p.id, {text} FROM {from}")],
            11 => steps(&["INSERT INTO booked (id, ssn) SELECT 9, ssn FROM booked"]),
            12 => steps(&["UPDATE people SET id = NULL WHERE id = 1"]),
            13 => steps(&["UPDATE strict SET v = 'much too long'"]),
            14 => steps(&["CREATE UNIQUE INDEX ON twice (ssn)"]),
            15 => steps(&["ALTER TABLE twice ADD UNIQUE (ssn)"]),
            16 => steps(&["ALTER TABLE twice ADD PRIMARY KEY (ssn)"]),
            17 => steps(&["ALTER TABLE twice ADD EXCLUDE USING btree (ssn WITH =)"]),
            18 => steps(&["ALTER TABLE twice ADD FOREIGN KEY (ssn) REFERENCES agent.unique_sink (v)"]),
            19 => vec![format!("ALTER TABLE people ALTER COLUMN ssn TYPE {kind} USING ssn::{kind}")],
            20 => steps(&["ALTER TABLE twice ALTER COLUMN ssn TYPE regclass"]),
            21 => vec![format!(
                "CREATE INDEX ON people ((ssn::{}))",
                self.draws.one(&["int", "bigint", "numeric", "jsonb", "uuid", "oid"])
            )],
            22 => vec![
                format!(
                    "CREATE STATISTICS agent.s ON (ssn::{}), id FROM people",
                    self.draws.one(&["int", "bigint", "uuid", "oid"])
                ),
                "ANALYZE people".into(),
            ],
            _ => vec![format!("SELECT 1 FROM {from} WHERE ({text})::{kind} IS NULL")],
        }
    }

    /// Places that others, or the session itself, look into.
    pub(super) fn channel(&mut self) -> Vec<String> {
        let scalar = self.scalar();
        let (from, value) = self.source("p");
        let text = self.text(&value);
        match self.draws.below(20) {
            0 => vec!["LISTEN way".into(), format!("SELECT pg_notify('way', {scalar})"), "COMMIT".into()],
            1 => vec![format!("SELECT pg_notify({scalar}, '')"), "COMMIT".into()],
            2 => vec![
                format!("SELECT set_config('my.way', {scalar}, false)"),
                "SELECT current_setting('my.way')".into(),
                "SHOW my.way".into(),
            ],
            3 => vec![
                format!("SELECT set_config('application_name', {scalar}, true)"),
                "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()".into(),
            ],
            4 => vec![format!("SELECT lo_from_bytea(777, convert_to({scalar}, 'UTF8'))"), "SELECT lo_get(777)".into()],
            5 => vec![
                "SELECT lo_create(778)".into(),
                format!("SELECT lo_put(778, 0, convert_to({scalar}, 'UTF8'))"),
                "SELECT data FROM pg_largeobject".into(),
            ],
            6 => vec![
                format!("SELECT setval('agent.counter', ascii({scalar}))"),
                "SELECT last_value FROM agent.counter".into(),
            ],
            7 => vec![
                format!("SELECT nextval('agent.counter') FROM {from}, generate_series(1, ascii({text}))"),
                "SELECT last_value FROM agent.counter".into(),
            ],
            8 => vec![
                format!("SELECT pg_advisory_lock(hashtext({scalar}))"),
                "SELECT objid FROM pg_locks WHERE locktype = 'advisory'".into(),
            ],
            9 => vec![
                format!("SELECT CASE WHEN {scalar} < 'm' THEN nextval('agent.counter') END"),
                "SELECT last_value FROM agent.counter".into(),
            ],
            10 => vec![
                format!("SELECT {scalar} < 'm' AND nextval('agent.counter') > 0"),
                "SELECT last_value FROM agent.counter".into(),
            ],
            11 => vec![format!("SELECT setseed(ascii({scalar}) / 256.0)"), "SELECT random()".into()],
            12 => vec![
                format!("SELECT query_to_xml('SELECT ssn FROM people', true, false, '')"),
                "SELECT table_to_xml('people', true, false, '')".into(),
            ],
            13 => vec![format!("DO $$ BEGIN RAISE NOTICE '%', (SELECT ssn FROM people LIMIT 1); END $$")],
            14 => vec!["SELECT * FROM person(1)".into(), "SELECT couple_of(1)".into()],
            15 => vec![format!("SELECT (echo({text})), shout({text}) FROM {from}")],
            16 => vec![
                format!("SELECT pg_try_advisory_xact_lock(ascii({scalar}))"),
                "SELECT objid FROM pg_locks WHERE locktype = 'advisory'".into(),
            ],
            17 => vec![format!(
                "CREATE SEQUENCE agent.s; SELECT setval('agent.s', length({scalar})); SELECT currval('agent.s')"
            )],
            18 => vec![
                format!("SELECT coalesce(nullif({scalar} < 'm', false)::text, nextval('agent.counter')::text)"),
                "SELECT last_value FROM agent.counter".into(),
            ],
            _ => vec![format!("SELECT query, {scalar} FROM pg_stat_activity WHERE pid = pg_backend_pid()")],
        }
    }

    pub(super) fn explained(&mut self) -> Vec<String> {
        let query = self.query();
        let options = self.draws.one(&[
            "",
            "VERBOSE ",
            "(ANALYZE, TIMING OFF, SUMMARY OFF) ",
            "(ANALYZE, VERBOSE, TIMING OFF, SUMMARY OFF) ",
            "(COSTS OFF, VERBOSE) ",
            "(FORMAT json) ",
            "(FORMAT xml, ANALYZE, TIMING OFF, SUMMARY OFF) ",
            "(ANALYZE, BUFFERS OFF, COSTS OFF, TIMING OFF, SUMMARY OFF) ",
        ]);
        match self.draws.below(12) {
            0..=4 => vec![format!("EXPLAIN {options}{query}")],
            5 => vec![format!("PREPARE q AS {query}"), format!("EXPLAIN {options}EXECUTE q")],
            6 => steps(&[
                "SELECT * FROM pg_stats WHERE schemaname IN ('public', 'agent') ORDER BY tablename, attname, inherited",
            ]),
            7 => steps(&[
                "SELECT most_common_vals, histogram_bounds::text FROM pg_stats",
                "SELECT array_agg(s) FROM pg_stats s",
            ]),
            8 => steps(&[
                "SELECT * FROM pg_statistic ORDER BY 1, 2, 3",
                "COPY (TABLE pg_catalog.pg_statistic ORDER BY 1, 2, 3) TO STDOUT",
            ]),
            9 => steps(&[
                "SELECT tablename, attname, correlation, n_distinct, avg_width, most_common_freqs FROM pg_stats WHERE schemaname = 'public' ORDER BY tablename, attname, inherited",
            ]),
            10 => steps(&[
                "CREATE STATISTICS agent.s (mcv, ndistinct, dependencies) ON ssn, email FROM people",
                "ANALYZE people",
                "SELECT * FROM pg_stats_ext",
                "SELECT m.* FROM pg_statistic_ext_data, pg_mcv_list_items(stxdmcv) m",
            ]),
            _ => steps(&[
                "CREATE STATISTICS agent.s ON (upper(ssn)), (left(email, 9)) FROM people",
                "ANALYZE people",
                "SELECT * FROM pg_stats_ext_exprs",
                "SELECT stxdexpr FROM pg_statistic_ext_data",
            ]),
        }
    }

    /// Steps that change what a later one means.
    pub(super) fn staged(&mut self) -> Vec<String> {
        let text = self.text("p.ssn");
        let run = self.draws.one(&["EXECUTE q", ":run q", ":runbin q"]);
        match self.draws.below(18) {
            0 => vec![
                "CREATE TABLE agent.base (ssn text, v text)".into(),
                "PREPARE q AS SELECT v FROM agent.base".into(),
                "ALTER TABLE agent.base DROP COLUMN v".into(),
                "ALTER TABLE agent.base RENAME ssn TO v".into(),
                run.into(),
            ],
            1 => vec![
                "CREATE TABLE agent.base (email text)".into(),
                ":parse q SELECT email FROM agent.base".into(),
                "ALTER TABLE people INHERIT agent.base".into(),
                run.into(),
            ],
            2 => vec![
                "CREATE TABLE agent.base (email text)".into(),
                "ALTER TABLE people INHERIT agent.base".into(),
                "SELECT email FROM agent.base".into(),
                "SELECT upper(email) FROM agent.base".into(),
            ],
            3 => vec![
                "CREATE TABLE agent.base (email text)".into(),
                "ALTER TABLE people INHERIT agent.base".into(),
                "CREATE MATERIALIZED VIEW agent.m AS SELECT email AS e FROM agent.base".into(),
                "ALTER TABLE people NO INHERIT agent.base".into(),
                "TABLE agent.m".into(),
            ],
            4 => vec![
                "CREATE VIEW agent.v AS SELECT 'x'::text AS b".into(),
                ":parse q SELECT b FROM agent.v".into(),
                format!("CREATE OR REPLACE VIEW agent.v AS SELECT ({text})::text AS b FROM people p"),
                run.into(),
            ],
            5 => vec![
                "CREATE TEMP TABLE folk (id int, x text)".into(),
                "SELECT x FROM folk".into(),
                "DROP TABLE folk".into(),
                format!("SELECT {} FROM folk", self.draws.one(&["x", "x || ''", "folk"])),
            ],
            6 => vec![
                "CREATE TABLE agent.people (id int, ssn text, note text)".into(),
                "SET search_path = agent, public".into(),
                "PREPARE q AS SELECT note FROM people".into(),
                "SET search_path = public".into(),
                run.into(),
            ],
            7 => vec![
                format!("DECLARE c CURSOR FOR SELECT {text} AS v FROM people p"),
                "ALTER TABLE people ADD COLUMN extra2 int".into(),
                "FETCH ALL FROM c".into(),
            ],
            8 => vec!["ALTER TABLE people RENAME ssn TO shown".into(), "SELECT shown FROM people".into()],
            9 => vec!["ALTER TABLE people RENAME TO folks".into(), "SELECT * FROM folks".into()],
            10 => vec!["ALTER TABLE people SET SCHEMA agent".into(), "SELECT * FROM agent.people".into()],
            11 => vec!["ALTER TABLE agent.tagged RENAME ssn TO shown".into(), "SELECT * FROM agent.tagged".into()],
            12 => vec![
                "ALTER TABLE people ALTER COLUMN note TYPE text USING ssn".into(),
                "SELECT id, note FROM people".into(),
            ],
            13 => vec!["ALTER TABLE logs DETACH PARTITION logs_low".into(), "SELECT * FROM logs_low".into()],
            14 => vec![
                "CREATE TABLE agent.part (id int, day date, who text, ssn text)".into(),
                "INSERT INTO agent.part SELECT * FROM logs_low".into(),
                "ALTER TABLE agent.part RENAME ssn TO s".into(),
                "TABLE agent.part".into(),
            ],
            15 => vec![
                "SAVEPOINT a".into(),
                "CREATE TEMP TABLE people (id int, v text)".into(),
                "SELECT * FROM people".into(),
                "ROLLBACK TO a".into(),
                "SELECT * FROM people".into(),
            ],
            16 => vec![
                "CREATE TABLE agent.base (id int, email text)".into(),
                "ALTER TABLE people INHERIT agent.base".into(),
                "CREATE TABLE agent.copy AS SELECT * FROM agent.base".into(),
                "TABLE agent.copy".into(),
            ],
            _ => vec![
                "ALTER TABLE made ADD COLUMN again text GENERATED ALWAYS AS (lower(ssn)) STORED".into(),
                "SELECT again, loud FROM made".into(),
                "ALTER TABLE made ALTER COLUMN loud DROP EXPRESSION".into(),
                "SELECT loud FROM made".into(),
            ],
        }
    }

    /// What is asked of a value without showing it: which rows, groups, order.
    pub(super) fn filtered(&mut self) -> Vec<String> {
        vec![self.oracle().1]
    }
}
