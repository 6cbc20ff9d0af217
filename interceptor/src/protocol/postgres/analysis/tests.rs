//! Tests of the analysis against the corpus in `testdata/`, and of what no corpus can show: bounds, sessions, silence.

mod cascade;
mod family;
mod gained;
mod keys;
mod laundered;

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use super::{
    Analysis, ColumnTags, Cursor, Known, NothingKnown, Output, OutputColumn, Parsed, Prepared, Scope, SessionEffect,
    Transaction, analyze,
};
use crate::policy::{Action, ActionName, TagSet};
use crate::protocol::postgres::catalog::{Catalog, Loader, Names};
use crate::protocol::postgres::shape::{other_values, shape};

pub(crate) static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let queries: Vec<Vec<Vec<Option<String>>>> =
        serde_json::from_str(include_str!("../testdata/catalog.json")).expect("the fixture is JSON");
    let mut loader = Loader::new();
    for rows in &queries {
        loader.rows(rows).unwrap();
    }
    loader.finish().unwrap()
});

struct Tags;

fn set(tags: &[&str]) -> TagSet {
    Arc::new(tags.iter().map(|tag| Arc::from(*tag)).collect())
}

impl ColumnTags for Tags {
    fn tags(&self, _: &str, _: &str, schema: &str, table: &str, column: &str) -> TagSet {
        match (schema, table, column) {
            ("public", "users", "ssn" | "email") | ("public", "events", "ssn") => set(&["pii"]),
            ("public", "cards", "number") => set(&["card"]),
            _ => set(&[]),
        }
    }

    fn all(&self) -> TagSet {
        set(&["card", "pii"])
    }
}

fn with(text: &str, names: &Names, known: &dyn Known) -> Analysis {
    analyze(text, &Scope { target: "db", database: "shop", catalog: &CATALOG, names, tags: &Tags, known, parsed: None })
}

fn judge(text: &str) -> Analysis {
    with(text, &Names::standard("agent"), &NothingKnown)
}

fn tags(tags: &TagSet) -> String {
    tags.iter().map(|tag| format!("!{tag}")).collect()
}

fn shown(action: &Action) -> String {
    let name = action.name.as_str().trim_start_matches("sql:");
    let path = &action.resource.path;
    let resource = match path.as_slice() {
        [_, _, schema, object] => {
            format!(
                "{schema}{}{object}",
                if action.resource.kind == crate::policy::ResourceKind::Object { "/" } else { "." }
            )
        }
        [.., last] => last.to_string(),
        [] => String::new(),
    };
    let columns: Vec<&str> = action.columns.iter().map(|column| &**column).collect();
    let columns = if columns.is_empty() { String::new() } else { format!("({})", columns.join(",")) };
    match (action.name, path.len()) {
        (ActionName::SQL_OPAQUE, 2) => "opaque".to_owned(),
        (ActionName::UNMASK, _) => format!("unmask {resource}"),
        _ => format!("{name} {resource}{columns}{}", tags(&action.tags)),
    }
}

fn column(column: &OutputColumn) -> String {
    let computed = if column.computed && !(column.name.as_deref() == Some("?column?") && column.tags.is_empty()) {
        "~"
    } else {
        ""
    };
    format!("{computed}{}{}", column.name.as_deref().unwrap_or("?"), tags(&column.tags))
}

fn output(output: &Output) -> Option<String> {
    match output {
        Output::None => None,
        Output::Unknown(all) => Some(format!("?{}", tags(all))),
        Output::Columns(list) => Some(list.iter().map(column).collect::<Vec<_>>().join(" ")),
    }
}

fn actions(analysis: &Analysis) -> BTreeSet<String> {
    analysis.actions.iter().map(shown).collect()
}

fn opaque(text: &str) -> bool {
    judge(text).opaque
}

#[test]
fn a_reading_by_shape_is_the_reading_of_the_text() {
    let corpora = [include_str!("../testdata/effects.txt"), include_str!("../testdata/evasions.txt")];
    let honest = [
        "SELECT id, ssn FROM users WHERE id = 42 AND name = 'x'",
        "INSERT INTO orders (id, note) VALUES (1, 'a'), (2, 'b') RETURNING note",
        "UPDATE users SET note = 'it''s' WHERE id IN (1, 2, 3)",
        "DELETE FROM orders WHERE id < 5",
        "SELECT name FROM users ORDER BY id + 1",
    ];
    let bound = ["SELECT nextval('s') + 1", "SELECT ssn, id FROM users ORDER BY 1", "SELECT id FROM users LIMIT 5"];
    let (mut shared, mut tried) = (0, 0);
    for text in corpora.iter().flat_map(|corpus| corpus.lines()).chain(honest).chain(bound) {
        let Some(shape) = shape(text) else { continue };
        let found = judge(text);
        tried += 1;
        if !found.is_of_shape() {
            assert!(!honest.contains(&text), "{text} is analysed each time");
            continue;
        }
        assert!(!bound.contains(&text), "{text} depends on its constants");
        let other = other_values(&shape);
        let again = judge(&other);
        assert_eq!((found.actions, found.facts), (again.actions, again.facts), "{text} and {other}");
        for (one, two) in found.statements.iter().zip(&again.statements) {
            assert_eq!((&one.output, &one.reads_tagged, &one.effect), (&two.output, &two.reads_tagged, &two.effect));
            assert_eq!(one.resync, two.resync);
        }
        shared += 1;
    }
    assert!(shared > 20 && tried > shared, "{shared} of {tried}");
}

#[test]
fn every_statement_of_the_corpus_has_its_effects() {
    let mut wrong = Vec::new();
    let mut cases = 0;
    let mut lines = include_str!("../testdata/effects.txt").lines().peekable();
    while let Some(text) = lines.next() {
        if text.starts_with('#') {
            continue;
        }
        let mut expected = BTreeSet::new();
        let mut sends = None;
        while let Some(line) = lines.next_if(|line| line.starts_with("> ") || line.starts_with("= ")) {
            match line.strip_prefix("> ") {
                Some(action) => drop(expected.insert(action.to_owned())),
                None => sends = line.strip_prefix("= ").map(|text| text.replace("~?column?", "?column?")),
            }
        }
        let found = judge(text);
        let output = found.statements.last().and_then(|last| output(&last.output));
        let output = output.map(|text| text.replace("~?column?", "?column?"));
        if actions(&found) != expected || output != sends {
            let notes: Vec<_> = found.actions.iter().filter_map(|action| action.note.as_deref()).collect();
            wrong.push(format!(
                "{text}\n  expected {expected:?} {sends:?}\n  found    {:?} {output:?} {notes:?}",
                actions(&found)
            ));
        }
        cases += 1;
    }
    assert!(wrong.is_empty(), "{} of {cases}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cases > 100);
}

#[test]
fn no_evasion_of_the_corpus_succeeds() {
    let mut wrong = Vec::new();
    let mut lines = include_str!("../testdata/evasions.txt").lines().peekable();
    while let Some(text) = lines.next() {
        if text.starts_with('#') {
            continue;
        }
        let found = judge(text);
        let named = actions(&found);
        while let Some(expected) = lines.next_if(|line| line.starts_with("> ")).and_then(|line| line.strip_prefix("> "))
        {
            // Tags and columns beyond those that are asked for are no evasion.
            if !named.iter().any(|action| action == expected || action.starts_with(&format!("{expected}!"))) {
                wrong.push(format!("{text}\n  no {expected} in {named:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_session_path_decides_what_names_mean() {
    let mut names = Names::standard("agent");
    names.search_path = ["pg_catalog", "sales", "public"].map(Arc::from).to_vec();
    assert!(actions(&with("SELECT region FROM orders", &names, &NothingKnown)).contains("select sales.orders(region)"));
    names.search_path = ["evil", "pg_catalog", "public"].map(Arc::from).to_vec();
    assert!(with("SELECT lower('x')", &names, &NothingKnown).opaque);
    assert!(with("SELECT 'x'::text = 'y'", &names, &NothingKnown).opaque);
    assert!(!with("SELECT pg_catalog.lower('x')", &names, &NothingKnown).opaque);
}

#[test]
fn a_temporary_table_shadows_a_real_one() {
    let rows = [
        ["path", "pg_temp_3", "", "", "", ""],
        ["path", "pg_catalog", "", "", "", ""],
        ["path", "public", "", "", "", ""],
        ["user", "agent", "agent", "", "", ""],
        ["text", "on", "UTF8", "", "", ""],
        ["relation", "99999", "pg_temp_3", "users", "r", ""],
        ["column", "99999", "1", "mine", "25", ""],
    ]
    .map(|row| row.map(|cell| (!cell.is_empty()).then(|| cell.to_owned())).to_vec());
    let names = Names::from_rows(&rows).unwrap();
    assert_eq!(
        actions(&with("SELECT mine FROM users", &names, &NothingKnown)),
        ["select pg_temp.users(mine)".to_owned()].into()
    );
    assert_eq!(
        actions(&with("DELETE FROM public.users", &names, &NothingKnown)),
        ["delete public.users".to_owned()].into()
    );
}

#[test]
fn a_temporary_table_has_triggers_rules_and_code() {
    let wipe = CATALOG.functions(&Names::standard("agent"), None, "wipe").next().unwrap().oid.to_string();
    let with_kind = |kind: &str, code: &str| {
        let rows = [
            ["path", "pg_temp_3", "", "", "", ""],
            ["path", "pg_catalog", "", "", "", ""],
            ["user", "agent", "agent", "", "", ""],
            ["text", "on", "UTF8", "", "", ""],
            ["relation", "99999", "pg_temp_3", "scratch", kind, ""],
            ["column", "99999", "1", "mine", "25", ""],
            ["code", "99999", code, "", "", ""],
        ]
        .map(|row| row.map(|cell| (!cell.is_empty()).then(|| cell.to_owned())).to_vec());
        let rows = if code.is_empty() { &rows[..6] } else { &rows[..] };
        let names = Names::from_rows(rows).unwrap();
        with("INSERT INTO scratch VALUES ('x')", &names, &NothingKnown)
    };
    let noted = |analysis: &Analysis| analysis.actions.iter().any(|action| action.note.is_some());
    assert!(!noted(&with_kind("r", "")) && !with_kind("r", "").opaque);
    assert!(noted(&with_kind("rt", "")) && !with_kind("rt", "").opaque);
    assert!(with_kind("rr", "").opaque);
    assert!(actions(&with_kind("r", &wipe)).contains("opaque public.wipe"));
}

#[test]
fn what_is_made_is_where_the_server_puts_it() {
    let mut names = Names::standard("agent");
    names.search_path = ["pg_temp_3", "pg_catalog", "sales", "public"].map(Arc::from).to_vec();
    let found = with("CREATE TABLE t (a int)", &names, &NothingKnown);
    assert_eq!(actions(&found), ["create pg_temp.t".to_owned(), "create sales.t".to_owned()].into());
    assert!(found.statements[0].resync.names && found.statements[0].resync.catalog);
}

#[test]
fn text_that_is_read_otherwise_is_opaque() {
    let names = Names { plain_text: false, ..Names::standard("agent") };
    assert!(with("SELECT 1", &names, &NothingKnown).opaque);
}

#[test]
fn names_are_in_doubt_after_a_statement_that_changes_them() {
    assert!(opaque("SET search_path TO sales; DELETE FROM orders"));
    assert!(opaque("CREATE TEMP TABLE orders AS SELECT 1; SELECT * FROM orders"));
    assert!(opaque("SELECT set_config('search_path', 'sales', false); SELECT * FROM orders"));
    assert!(!opaque("BEGIN; SELECT id FROM orders; DELETE FROM audit; COMMIT; SELECT id FROM orders"));
    let names = Names { settled: false, ..Names::standard("agent") };
    assert!(with("COMMIT; SELECT id FROM orders", &names, &NothingKnown).opaque);
}

#[test]
fn each_statement_of_a_text_counts() {
    let found = judge("SELECT 1; /* ; */ DELETE FROM users; SELECT ';DROP TABLE orders;'");
    assert_eq!(found.statements.len(), 3);
    assert!(actions(&found).contains("delete public.users"));
    assert_eq!(found.facts.statements, 3);
    assert!(!found.facts.has_where);
    assert_eq!(found.statements[1].kind, "DeleteStmt");
    let text = "SELECT 1; /* ; */ DELETE FROM users; SELECT ';DROP TABLE orders;'";
    assert!(text.get(found.statements[1].range.clone()).unwrap().contains("DELETE FROM users"));
}

#[test]
fn facts_are_of_the_whole() {
    let found = judge("SELECT lower(name) FROM users WHERE ssn = 'x' LIMIT 7");
    assert!(found.facts.has_where && found.facts.filters_on_masked);
    assert_eq!(found.facts.row_limit, Some(7));
    assert!(found.facts.functions.contains("pg_catalog.lower"));
    assert!(judge("DELETE FROM users WHERE CURRENT OF c").facts.has_where);
    for text in
        ["DELETE FROM users WHERE true", "UPDATE users SET note = 'x' WHERE 1 = 1", "SELECT id FROM users WHERE $1"]
    {
        assert!(!judge(text).facts.has_where, "{text}");
    }
    for text in [
        "SELECT name FROM users ORDER BY ssn",
        "SELECT count(*) FROM users GROUP BY ssn",
        "SELECT name FROM users u JOIN cards c ON c.number = u.name",
        "SELECT name AS ssn, ssn AS x FROM users ORDER BY x",
        "SELECT DISTINCT ssn FROM users",
        "SELECT name AS email FROM users GROUP BY email, name",
        "SELECT 1 FROM users HAVING max(ssn) > 'a'",
        "SELECT count(*) FILTER (WHERE ssn > 'a') FROM users",
        "DELETE FROM users WHERE ssn > 'a'",
        "SELECT count(*) FROM users u, generate_series(1, ascii(u.ssn))",
        "SELECT generate_series(1, ascii(ssn)) FROM users",
        "SELECT count(*) FROM users u, LATERAL (SELECT unnest(string_to_array(u.ssn, NULL))) x",
        "SELECT 1 FROM users TABLESAMPLE bernoulli ((SELECT ascii(ssn) FROM users LIMIT 1))",
    ] {
        assert!(judge(text).facts.filters_on_masked, "{text}");
    }
    for text in [
        "SELECT ssn FROM users WHERE id = 1 ORDER BY name",
        "SELECT upper(ssn) || name, left(ssn, 3), ssn LIKE 'x%', format('%s', ssn), ssn::varchar(3) FROM users",
        "SELECT row_to_json(u), coalesce(ssn, ''), ARRAY[ssn], (SELECT max(ssn) FROM users) FROM users u",
        "INSERT INTO users (name, ssn) VALUES ('a', 'b') ON CONFLICT (id) DO UPDATE SET ssn = excluded.ssn",
        "EXPLAIN (COSTS OFF) SELECT ssn FROM users",
        "EXPLAIN ANALYZE SELECT id FROM users WHERE name = 'a'",
        "CREATE INDEX ON users (ssn)",
    ] {
        assert!(!judge(text).facts.filters_on_masked, "{text}");
    }
}

/// Whether a statement fails, what a plan measures, and what is there already, tell values as a filter does.
#[test]
fn what_tells_a_value_bit_by_bit_counts_as_a_filter() {
    for text in [
        "SELECT 1 / (CASE WHEN ssn < 'm' THEN 0 ELSE 1 END) FROM users",
        "SELECT ssn::int FROM users",
        "SELECT CAST(ssn AS short_text) FROM users",
        "SELECT chr(ascii(ssn) - 107) FROM users",
        "SELECT to_date(ssn, 'YYYY') FROM users",
        "SELECT repeat(ssn, 1000000) FROM users",
        "SELECT substr('x', 1, ascii(ssn) - 50) FROM users",
        "SELECT ssn LIKE 'k\\' FROM users",
        "SELECT 'x' ~ ssn FROM users",
        "SELECT xmlparse(document ssn) FROM users",
        "SELECT JSON_VALUE(ssn, '$' ERROR ON ERROR) FROM users",
        "SELECT 1 FROM users TABLESAMPLE bernoulli (50) REPEATABLE ((SELECT ascii(ssn) FROM users LIMIT 1))",
        "WITH RECURSIVE r AS (SELECT id, ssn FROM users UNION ALL SELECT id, ssn FROM r) CYCLE ssn SET c USING w SELECT id FROM r",
        "INSERT INTO users (ssn) VALUES ('guess') ON CONFLICT DO NOTHING",
        "INSERT INTO users (ssn) VALUES ('guess') ON CONFLICT (ssn) DO NOTHING",
        "INSERT INTO users (ssn) VALUES ('guess') ON CONFLICT ON CONSTRAINT some_key DO NOTHING",
        "CREATE INDEX ON users (id) WHERE ssn < 'm'",
        "CREATE UNIQUE INDEX ON users (ssn)",
        "ALTER TABLE users ADD CHECK (ssn < 'm')",
        "ALTER TABLE users ADD UNIQUE (ssn)",
        "ALTER TABLE users ADD FOREIGN KEY (ssn) REFERENCES cards (number)",
        "EXPLAIN SELECT ssn FROM users",
        "EXPLAIN (ANALYZE, COSTS OFF) SELECT repeat('x', length(ssn)) FROM users",
    ] {
        assert!(judge(text).facts.filters_on_masked, "{text}");
    }
}

#[derive(Default)]
struct Session {
    prepared: Option<Arc<Prepared>>,
    cursor: Option<Arc<Cursor>>,
}

impl Known for Session {
    fn prepared(&self, _name: &str) -> Option<Arc<Prepared>> {
        self.prepared.clone()
    }

    fn cursor(&self, _name: &str) -> Option<Arc<Cursor>> {
        self.cursor.clone()
    }
}

#[test]
fn execute_is_what_was_prepared() {
    let mut session = Session::default();
    let first = judge("PREPARE p AS DELETE FROM orders RETURNING note");
    let Some(SessionEffect::Prepare { prepared, .. }) = first.statements.first().map(|one| one.effect.clone()) else {
        panic!("{first:?}")
    };
    session.prepared = Some(Arc::clone(&prepared));
    let names = Names::standard("agent");
    let found = with("EXECUTE p", &names, &session);
    assert!(actions(&found).contains("delete public.orders") && found.session_bound && !found.opaque);
    let mut moved = names.clone();
    moved.search_path = ["pg_catalog", "sales", "public"].map(Arc::from).to_vec();
    assert!(
        with("EXECUTE p", &moved, &session).opaque
            || actions(&with("EXECUTE p", &moved, &session)).contains("delete sales.orders")
    );
    assert!(actions(&with("EXPLAIN ANALYZE EXECUTE p", &names, &session)).contains("delete public.orders"));
    assert!(actions(&judge("PREPARE q AS DELETE FROM orders; EXECUTE q")).contains("delete public.orders"));
    let scope = Scope {
        target: "db",
        database: "shop",
        catalog: &CATALOG,
        names: &names,
        tags: &Tags,
        known: &NothingKnown,
        parsed: None,
    };
    assert!(actions(&super::analyze_prepared(&prepared, &scope)).contains("delete public.orders"));
    session.prepared = Some(Arc::new(Prepared { text: "EXECUTE p".into(), first: None }));
    assert!(with("EXECUTE p", &names, &session).opaque);
}

#[test]
fn what_is_parsed_beside_a_text_is_bounded() {
    let names = Names::standard("agent");
    let of_length = |length: usize| format!("SELECT '{}'", "x".repeat(length));
    for (length, opaque) in [(super::bounds::MAX_BESIDE / 2, false), (super::bounds::MAX_BESIDE, true)] {
        let prepared = Some(Arc::new(Prepared { text: of_length(length).into(), first: None }));
        let session = Session { prepared, ..Session::default() };
        assert_eq!(with("EXECUTE p", &names, &session).opaque, opaque, "{length}");
    }
}

#[test]
fn a_text_that_was_parsed_ahead_is_not_parsed_again() {
    let text: Arc<str> = "SELECT 1".into();
    let names = Names::standard("agent");
    let scope = |parsed| Scope {
        target: "db",
        database: "shop",
        catalog: &CATALOG,
        names: &names,
        tags: &Tags,
        known: &NothingKnown,
        parsed,
    };
    let failed = Parsed::failed(Arc::clone(&text), "no thread");
    assert!(super::analyze(&text, &scope(Some(&failed))).opaque);
    // It is of another text.
    assert!(!super::analyze("SELECT 2", &scope(Some(&failed))).opaque);
    assert!(!super::analyze(&text, &scope(Some(&Parsed::new(text.clone())))).opaque);
}

#[test]
fn fetch_yields_what_was_declared() {
    let first = judge("DECLARE c BINARY CURSOR WITH HOLD FOR SELECT ssn FROM users");
    let Some(SessionEffect::DeclareCursor { cursor, hold: true, binary: true, .. }) =
        first.statements.first().map(|one| one.effect.clone())
    else {
        panic!("{first:?}")
    };
    let session = Session { cursor: Some(cursor), ..Session::default() };
    let found = with("FETCH ALL FROM c", &Names::standard("agent"), &session);
    assert_eq!(output(&found.statements[0].output).as_deref(), Some("ssn!pii"));
    assert!(actions(&found).contains("select public.users(ssn)!pii"));
    assert_eq!(tags(&found.statements[0].reads_tagged), "!pii");
}

#[test]
fn transactions_are_told_apart() {
    let effect = |text: &str| judge(text).statements.pop().map(|last| last.effect);
    assert_eq!(effect("ROLLBACK TO x"), Some(SessionEffect::Transaction(Transaction::RollbackTo("x".into()))));
    assert_eq!(effect("COMMIT AND CHAIN"), Some(SessionEffect::Transaction(Transaction::Commit { chain: true })));
    assert_eq!(effect("DEALLOCATE ALL"), Some(SessionEffect::Deallocate { name: None }));
}

#[test]
fn resynchronises_after_what_changes_names() {
    for text in [
        "SET search_path = x",
        "RESET ALL",
        "SET ROLE x",
        "DISCARD ALL",
        "DISCARD TEMP",
        "CREATE TEMP TABLE t (a int)",
        "SELECT wipe()",
    ] {
        assert!(judge(text).statements[0].resync.names, "{text}");
    }
    for text in [
        "CREATE TABLE t (a int)",
        "DROP TABLE orders",
        "ALTER TABLE orders ADD COLUMN x int",
        "CREATE VIEW v AS SELECT 1",
    ] {
        assert!(judge(text).statements[0].resync.catalog, "{text}");
    }
    assert_eq!(judge("SET statement_timeout = 1").statements[0].resync, super::Resync::default());
}

/// What names mean stands in tables, which a superuser can write like others.
#[test]
fn resynchronises_after_writes_to_the_catalog() {
    for text in [
        "INSERT INTO pg_class (oid, relname) VALUES (1, 'x')",
        "UPDATE pg_class SET relname = 'x' WHERE oid = 1",
        "UPDATE ONLY pg_catalog.pg_class SET relname = 'x'",
        "DELETE FROM pg_class WHERE oid = 1",
        "MERGE INTO pg_class USING orders o ON pg_class.oid = o.id WHEN MATCHED THEN DELETE",
        "MERGE INTO pg_class USING orders o ON pg_class.oid = o.id WHEN NOT MATCHED THEN INSERT (oid) VALUES (1)",
        "MERGE INTO pg_class USING orders o ON pg_class.oid = o.id WHEN MATCHED THEN UPDATE SET relname = 'x'",
        "COPY pg_class FROM STDIN",
        "TRUNCATE pg_class",
        "TRUNCATE orders, pg_class, users",
        "WITH d AS (DELETE FROM pg_class RETURNING oid) SELECT * FROM d",
        "WITH d AS (UPDATE pg_class SET relname = 'x' RETURNING oid) INSERT INTO audit SELECT 1 FROM d",
        "EXPLAIN ANALYZE DELETE FROM pg_class",
    ] {
        let found = judge(text);
        let resync = found.statements[0].resync;
        assert!(resync.names && resync.catalog && !found.opaque, "{text}: {resync:?} {:?}", actions(&found));
    }
    for text in ["DELETE FROM users", "TRUNCATE orders", "SELECT oid FROM pg_class", "COPY pg_class TO STDOUT"] {
        assert_eq!(judge(text).statements[0].resync, super::Resync::default(), "{text}");
    }
    assert!(opaque("DELETE FROM pg_class; SELECT id FROM orders"), "names are in doubt");
}

#[test]
fn discarding_drops_what_is_temporary() {
    let rows = [
        ["path", "pg_temp_3", "", "", "", ""],
        ["path", "pg_catalog", "", "", "", ""],
        ["user", "agent", "agent", "", "", ""],
        ["text", "on", "UTF8", "", "", ""],
        ["relation", "99999", "pg_temp_3", "scratch", "r", ""],
        ["relation", "99998", "pg_temp_3", "drawn", "S", ""],
    ]
    .map(|row| row.map(|cell| (!cell.is_empty()).then(|| cell.to_owned())).to_vec());
    let names = Names::from_rows(&rows).unwrap();
    let found = |text: &str| actions(&with(text, &names, &NothingKnown));
    let dropped = ["drop pg_temp.drawn".to_owned(), "drop pg_temp.scratch".to_owned(), "session shop".to_owned()];
    assert_eq!(found("DISCARD TEMP"), dropped.clone().into());
    assert_eq!(found("DISCARD TEMPORARY"), dropped.clone().into());
    assert_eq!(found("DISCARD ALL"), dropped.into_iter().chain(["set *".to_owned()]).collect());
    assert_eq!(found("DROP TABLE scratch"), ["drop pg_temp.scratch".to_owned()].into());
    for text in ["DISCARD PLANS", "DISCARD SEQUENCES"] {
        assert_eq!(found(text), ["session shop".to_owned()].into(), "{text}");
    }
}

#[test]
fn nothing_is_silent() {
    for text in ["", ";", "-- x", "SELECT 1; SELECT 2", "SHOW ALL"] {
        assert!(!judge(text).actions.is_empty(), "{text:?}");
    }
}

#[test]
fn hostile_nesting_is_bounded() {
    for (open, close) in [("(", ")"), ("(SELECT ", ")"), ("- ", ""), ("NOT ", ""), ("1+", ""), ("[", "]"), ("a::", "")]
    {
        for count in [50, 90, 400, 5000, 100_000] {
            let text = format!("SELECT {}1{}", open.repeat(count), close.repeat(count));
            judge(&text);
        }
        assert!(opaque(&format!("SELECT {}1{}", open.repeat(5000), close.repeat(5000))), "{open}");
    }
    assert!(opaque(&"x".repeat(super::MAX_TEXT + 1)));
    assert!(opaque("SELECT 1\0; DROP TABLE users"));
    assert!(opaque(&"SELECT 1;".repeat(super::MAX_STATEMENTS + 1)));
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        judge(&text);
    }

    #[test]
    fn arbitrary_sql_never_panics_and_is_never_silent(words in prop::collection::vec(prop::sample::select(WORDS), 1..30)) {
        let found = judge(&words.join(" "));
        prop_assert!(!found.actions.is_empty());
    }
}

const WORDS: &[&str] = &[
    "SELECT",
    "FROM",
    "users",
    "orders",
    "ssn",
    "id",
    "*",
    ",",
    "(",
    ")",
    "WITH",
    "AS",
    "x",
    "JOIN",
    "ON",
    "USING",
    "LATERAL",
    "UNION",
    "ALL",
    "WHERE",
    "=",
    "1",
    "'a'",
    "INSERT INTO",
    "VALUES",
    "UPDATE",
    "SET",
    "DELETE FROM",
    "RETURNING",
    "GROUP BY",
    "ORDER BY",
    "lower",
    "wipe",
    ";",
    "CREATE TABLE",
    "DROP",
    "TABLE",
    "ALTER",
    "COPY",
    "TO",
    "STDOUT",
    "EXPLAIN",
    "::",
    "text",
    ".",
    "[",
    "]",
    "CASE",
    "WHEN",
    "THEN",
    "END",
    "NOT",
    "EXISTS",
    "IN",
    "$1",
    "RECURSIVE",
    "OVER",
    "LIMIT",
    "FETCH",
    "EXECUTE",
];

#[test]
fn the_cost_of_an_analysis() {
    for text in [
        "SELECT id, name FROM users WHERE id = $1",
        "SELECT u.name, o.total FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id IN (SELECT user_id FROM cards) ORDER BY o.total DESC LIMIT 10",
    ] {
        judge(text);
        let clock = crate::clock::SystemClock::new();
        let started = crate::clock::Clock::monotonic(&clock);
        for _ in 0..200 {
            judge(text);
        }
        println!("{:?} an analysis of {text}", (crate::clock::Clock::monotonic(&clock) - started) / 200);
    }
}

#[test]
fn what_is_opaque_may_quote_anything() {
    for text in ["SELECT nothing FROM users", "SELECT * FROM nowhere", "SELECT nothing()", "DO $$ $$"] {
        let analysis = judge(text);
        assert!(analysis.opaque, "{text}");
        assert_eq!(analysis.statements[0].reads_tagged, set(&["card", "pii"]), "{text}");
    }
}
