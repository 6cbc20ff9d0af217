//! Functions that nobody names: what a real server's catalog says of casts, types, operator classes, indexes, statistics
//! and policies, and how statements that set them off are read.

use std::sync::Arc;

use crate::policy::TagSet;
use crate::protocol::postgres::analysis::{Analysis, ColumnTags, NothingKnown, Scope, analyze};
use crate::protocol::postgres::catalog::{Catalog, Loader, Names, QUERIES, SESSION_QUERY, SETUP};
use crate::testing::postgres::{Options, Postgres as Server};

type Rows = Vec<Vec<Option<String>>>;

/// `users.ssn` is tagged, wherever it stands.
struct Tags;

impl ColumnTags for Tags {
    fn tags(&self, _: &str, _: &str, _: &str, _: &str, column: &str) -> TagSet {
        if column == "ssn" { self.all() } else { TagSet::default() }
    }

    fn all(&self) -> TagSet {
        Arc::new([Arc::from("pii")].into())
    }
}

pub(super) async fn connect(server: &Server, database: &str) -> tokio_postgres::Client {
    let url = format!("host=127.0.0.1 port={} user=postgres dbname={database}", server.port());
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn rows(client: &tokio_postgres::Client, sql: &str) -> Rows {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
    let row = |message: &tokio_postgres::SimpleQueryMessage| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
        }
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

/// A database as a session of it sees it.
pub(super) struct View {
    pub(super) catalog: Catalog,
    pub(super) names: Names,
}

impl View {
    pub(super) async fn of(client: &tokio_postgres::Client) -> Self {
        let names = Names::from_rows(&rows(client, SESSION_QUERY).await).unwrap();
        client.batch_execute("BEGIN").await.unwrap();
        client.simple_query(&SETUP.replace("false)", "true)")).await.unwrap();
        let mut loader = Loader::new();
        for query in QUERIES {
            loader.rows(&rows(client, query).await).unwrap();
        }
        client.batch_execute("COMMIT").await.unwrap();
        Self { catalog: loader.finish().unwrap(), names: Names { settled: true, ..names } }
    }

    pub(super) fn read(&self, text: &str) -> Analysis {
        let (catalog, names) = (&self.catalog, &self.names);
        let scope =
            Scope { target: "t", database: "d", catalog, names, tags: &Tags, known: &NothingKnown, parsed: None };
        analyze(text, &scope)
    }
}

/// Everything with code that runs unseen: each table has one thing of it.
const CODE: &str = r"
CREATE TABLE users (id int PRIMARY KEY, name text, ssn text, doc json);
CREATE TABLE plain (id int PRIMARY KEY, name text, at timestamptz DEFAULT now(), doc jsonb);
CREATE FUNCTION touch(anyelement) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN 1; END $$;
CREATE FUNCTION same(int, int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN true; END $$;
CREATE FUNCTION order_of(int, int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN 0; END $$;
CREATE OPERATOR ~~~ (LEFTARG = int, RIGHTARG = int, PROCEDURE = same);
CREATE TABLE by_operator (id int, a int CHECK (a ~~~ 1));
CREATE TABLE by_default (id int, a bool DEFAULT (1 ~~~ 2));
CREATE TABLE by_index (id int);
CREATE INDEX ON by_index ((id ~~~ 1));
CREATE TABLE by_predicate (id int);
CREATE INDEX ON by_predicate (id) WHERE id ~~~ 1;
CREATE TABLE by_policy (id int);
CREATE POLICY p ON by_policy USING (id ~~~ 1);
CREATE VIEW looks AS SELECT touch(id) AS id FROM plain;
CREATE TABLE by_policy_view (id int);
CREATE VIEW looks_again AS SELECT id FROM looks;
CREATE POLICY p ON by_policy_view USING (id IN (SELECT id FROM looks_again));
CREATE TABLE by_policy_policy (id int);
CREATE POLICY p ON by_policy_policy USING (id IN (SELECT id FROM by_policy));
CREATE VIEW looks_at_policy AS SELECT id FROM by_policy;
CREATE TABLE by_policy_view_policy (id int);
CREATE POLICY p ON by_policy_view_policy USING (id IN (SELECT id FROM looks_at_policy));
CREATE TABLE by_own_policy (id int);
CREATE POLICY p ON by_own_policy USING (id IN (SELECT o.id FROM by_own_policy o) AND id IN (SELECT id FROM by_policy_policy));
CREATE TABLE by_statistics (id int, a int);
CREATE STATISTICS s ON (touch(a)), id FROM by_statistics;
CREATE TABLE by_partition (id int) PARTITION BY LIST ((touch(id)));
CREATE TABLE by_partition_1 PARTITION OF by_partition FOR VALUES IN (1);
CREATE TABLE by_generated (id int, b int GENERATED ALWAYS AS (touch(id)) STORED);
CREATE DOMAIN checked AS text CHECK (touch(VALUE) = 1);
CREATE TABLE by_domain_in_check (id int, a text CHECK (a::checked IS NOT NULL));
CREATE TABLE by_domain (id int, a checked);
CREATE TABLE by_array (id int, a checked[]);
CREATE TYPE inner_pair AS (a checked);
CREATE TYPE outer_pair AS (b inner_pair);
CREATE TABLE by_composite (id int, a outer_pair);
CREATE OPERATOR CLASS odd_ops FOR TYPE int USING btree AS
 OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 order_of(int, int);
CREATE TABLE by_class (id int);
CREATE INDEX ON by_class (id odd_ops);
CREATE TABLE by_partition_class (id int) PARTITION BY RANGE (id odd_ops);
CREATE TABLE by_exclusion (id int, EXCLUDE USING btree (id odd_ops WITH =));
CREATE TYPE odd_range AS RANGE (SUBTYPE = int, SUBTYPE_OPCLASS = odd_ops);
CREATE TABLE by_range (id int, a odd_range);
CREATE FUNCTION apart(int, int) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN 1; END $$;
CREATE TYPE far_range AS RANGE (SUBTYPE = int, SUBTYPE_DIFF = apart);
CREATE TABLE by_range_diff (id int, a far_range);
CREATE TYPE plain_range AS RANGE (SUBTYPE = date);
CREATE TABLE ranges (id int, a plain_range);
CREATE TYPE checked_range AS RANGE (SUBTYPE = checked);
CREATE TABLE by_range_of_domain (id int, a checked_range);
CREATE TYPE cased;
CREATE FUNCTION cased_in(cstring) RETURNS cased LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION cased_out(cased) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE cased (INPUT = cased_in, OUTPUT = cased_out, LIKE = text);
CREATE CAST (text AS cased) WITHOUT FUNCTION AS IMPLICIT;
CREATE TABLE by_type (id int, a cased);
CREATE FUNCTION json_order(json, json) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN 0; END $$;
CREATE FUNCTION json_less(json, json) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN false; END $$;
CREATE OPERATOR <<< (LEFTARG = json, RIGHTARG = json, PROCEDURE = json_less);
CREATE TYPE coloured AS ENUM ('red', 'green');
CREATE TABLE ordinary (id serial PRIMARY KEY, c coloured DEFAULT 'red', r int4range, n numeric CHECK (n > 0), d date,
 EXCLUDE USING gist (r WITH &&));
CREATE INDEX ON ordinary (lower(n::text)) WHERE n > 1;
";

const TABLES: &[&str] = &[
    "by_operator",
    "by_default",
    "by_index",
    "by_predicate",
    "by_policy",
    "by_policy_view",
    "by_policy_policy",
    "by_policy_view_policy",
    "by_own_policy",
    "by_statistics",
    "by_partition",
    "by_partition_1",
    "by_generated",
    "by_domain_in_check",
    "by_domain",
    "by_array",
    "by_composite",
    "by_class",
    "by_partition_class",
    "by_exclusion",
    "by_range",
    "by_range_diff",
    "by_range_of_domain",
    "by_type",
];

/// Those of them whose code is of defaults, checks, policies and keys of partitions alone.
const NOT_KEPT: &[&str] = &[
    "by_operator",
    "by_default",
    "by_policy",
    "by_policy_view",
    "by_policy_policy",
    "by_policy_view_policy",
    "by_own_policy",
    "by_partition",
    "by_partition_1",
    "by_generated",
    "by_domain_in_check",
    "by_partition_class",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_that_nobody_names_are_found() {
    let server = Server::start(Options { auth: "trust", ..Options::default() }).unwrap();
    let client = connect(&server, "postgres").await;
    client.batch_execute(CODE).await.unwrap();
    let view = View::of(&client).await;
    let mut wrong = Vec::new();
    for table in TABLES {
        for text in [
            format!("INSERT INTO {table} (id) VALUES (1)"),
            format!("ANALYZE {table}"),
            format!("REINDEX TABLE {table}"),
        ] {
            // What keeps a table in order runs nothing of these.
            let runs = text.starts_with("INSERT") || !NOT_KEPT.contains(table);
            if view.read(&text).opaque != runs {
                wrong.push(format!("{text} is {}opaque", if runs { "not " } else { "" }));
            }
        }
    }
    for text in [
        "SELECT 1 ORDER BY 1 USING <",
        "SELECT '1'::odd_range",
        "SELECT 'x'::cased",
        "CREATE INDEX ON plain (id odd_ops)",
        "CREATE TABLE x (id int) PARTITION BY RANGE (id odd_ops)",
        "CREATE TABLE x (id int, EXCLUDE USING btree (id WITH ~~~))",
        "CREATE INDEX ON plain (id nowhere.odd_ops)",
        "SELECT sum(id) OVER (ORDER BY id USING >) FROM plain",
    ] {
        if !view.read(text).opaque {
            wrong.push(format!("{text} is not opaque"));
        }
    }
    for text in [
        "SELECT * FROM plain WHERE id = 1 AND name < 'x' ORDER BY name DESC, at",
        "INSERT INTO ordinary (c, r, n, d) VALUES ('green', '[1,2)', 2, now()) RETURNING *",
        "SELECT c, r, n FROM ordinary WHERE r && '[1,2]' ORDER BY c",
        "ANALYZE ordinary",
        "ANALYZE plain",
        "INSERT INTO ranges VALUES (1, '[2020-01-01, 2021-01-01)') RETURNING a",
        "SELECT a FROM ranges WHERE a && '[2020-01-01, 2021-01-01)'::plain_range ORDER BY a",
        "CREATE INDEX ON plain (name text_pattern_ops)",
        "CREATE INDEX ON plain USING gin (doc jsonb_path_ops)",
        "SELECT DISTINCT doc, count(*) FROM plain GROUP BY doc, name",
        "UPDATE plain SET name = 'x' WHERE id BETWEEN 1 AND 2",
    ] {
        let found = view.read(text);
        if found.opaque {
            wrong.push(format!("{text} is opaque: {:?}", found.actions));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_added_to_types_of_the_system_runs_where_they_meet() {
    let server = Server::start(Options { auth: "trust", ..Options::default() }).unwrap();
    let client = connect(&server, "postgres").await;
    client.batch_execute(CODE).await.unwrap();
    assert!(!View::of(&client).await.read("SELECT doc FROM users").opaque);
    client
        .batch_execute(
            "CREATE OPERATOR CLASS json_ops DEFAULT FOR TYPE json USING btree AS OPERATOR 1 <<<, FUNCTION 1 json_order(json, json)",
        )
        .await
        .unwrap();
    let view = View::of(&client).await;
    assert!(view.read("SELECT doc FROM users").opaque && !view.read("SELECT id, doc FROM plain").opaque);
    client
        .batch_execute(
            "CREATE FUNCTION mixed(int, text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN true; END $$;
             CREATE OPERATOR ==== (LEFTARG = int, RIGHTARG = text, PROCEDURE = mixed);
             ALTER OPERATOR FAMILY integer_ops USING btree ADD OPERATOR 3 ==== (int, text);",
        )
        .await
        .unwrap();
    assert!(View::of(&client).await.read("SELECT id FROM plain WHERE id = 1").opaque);
}

/// Extensions add casts and operators to what everybody uses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extensions_make_nothing_opaque_that_does_not_use_them() {
    let server = Server::start(Options { auth: "trust", ..Options::default() }).unwrap();
    let client = connect(&server, "postgres").await;
    client
        .batch_execute("CREATE TABLE plain (id int PRIMARY KEY, name text, at timestamptz DEFAULT now(), tags text[])")
        .await
        .unwrap();
    let mut made = 0;
    for extension in [
        "citext",
        "ltree",
        "hstore",
        "cube",
        "seg",
        "isn",
        "btree_gist",
        "btree_gin",
        "intarray",
        "pg_trgm",
        "lo",
        "bloom",
    ] {
        made += usize::from(client.batch_execute(&format!("CREATE EXTENSION {extension}")).await.is_ok());
    }
    assert!(made > 0);
    client.batch_execute("CREATE TABLE own (id int, v citext, p ltree, EXCLUDE USING gist (id WITH =))").await.unwrap();
    // As PostGIS and others do it, whose functions are not among the trusted ones.
    client.batch_execute("UPDATE pg_extension SET extname = 'geography' WHERE extname = 'cube'").await.unwrap();
    client.batch_execute("CREATE TABLE places (id int, v cube); CREATE INDEX ON places USING gist (v)").await.unwrap();
    let view = View::of(&client).await;
    for text in [
        "SELECT id, name FROM plain WHERE id = 1 AND name || 'x' <> 'y' AND tags && ARRAY['a'] ORDER BY at",
        "INSERT INTO plain (id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = excluded.name",
        "ANALYZE plain",
        "SELECT v, p FROM own WHERE v = 'x' AND p <@ 'a.b'",
        "INSERT INTO own VALUES (1, 'x', 'a.b')",
        "SELECT v FROM places WHERE v && '(1,2)' ORDER BY v",
        "INSERT INTO places VALUES (1, '(1,2)')",
        "ANALYZE places",
    ] {
        let found = view.read(text);
        assert!(!found.opaque, "{text} is opaque: {:?}", found.actions);
    }
    assert!(view.read("SELECT cube_dim(v) FROM places").opaque, "by name it is asked for");
}

/// What other sessions keep for themselves is no change of the database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn temporary_things_of_others_change_nothing() {
    let server = Server::start(Options { auth: "trust", ..Options::default() }).unwrap();
    let (one, other) = (connect(&server, "postgres").await, connect(&server, "postgres").await);
    one.batch_execute("CREATE TABLE users (id int, ssn text)").await.unwrap();
    let before = View::of(&one).await;
    other
        .batch_execute(
            "CREATE TEMP TABLE mine (more text, loud text GENERATED ALWAYS AS (upper(ssn)) STORED) INHERITS (users);
             CREATE TEMP VIEW seen AS SELECT 1; CREATE DOMAIN pg_temp.odd AS text CHECK (length(VALUE) < 3);
             CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
             CREATE OPERATOR pg_temp.=== (LEFTARG = int, RIGHTARG = int, PROCEDURE = int4eq);
             CREATE INDEX ON mine (more)",
        )
        .await
        .unwrap();
    let after = View::of(&one).await;
    assert_eq!(before.catalog.fingerprint(), after.catalog.fingerprint());
    assert!(!after.read("SELECT id FROM users").opaque);
    let own = View::of(&other).await;
    assert_eq!(own.catalog.fingerprint(), before.catalog.fingerprint());
    let tags = |text: &str| own.read(text).statements[0].reads_tagged.len();
    assert_eq!((tags("SELECT loud FROM mine"), tags("SELECT more FROM mine"), tags("SELECT id FROM users")), (1, 0, 0));
    assert!(!own.read("SELECT 'a'::odd").opaque && !own.read("SELECT * FROM pg_temp.seen").opaque);
    assert!(own.read("SELECT pg_temp.f()").opaque && own.read("SELECT 1 OPERATOR(pg_temp.===) 1").opaque);
}
