//! What newer servers understand: syntax up to PostgreSQL 18. On an older server each is that server's error; on none
//! does it give away what is masked.

use super::real::Stage;
use super::{Answer, ScriptedGate};
use crate::mask::Rules;

const SETUP: &str = "CREATE TABLE people (id int PRIMARY KEY, email text, card text,
        shout text GENERATED ALWAYS AS (upper(email)) STORED, plain int GENERATED ALWAYS AS (id * 2) STORED);
    INSERT INTO people VALUES (1, 'treasure@example.com', '4929000011112222');
    CREATE TABLE docs (id int, doc jsonb); INSERT INTO docs VALUES (1, '{\"n\": [1, 2]}');";

/// Known to a server of version 18 alone.
const SETUP_18: &str =
    "CREATE TABLE lively (id int, email text, shout text GENERATED ALWAYS AS (upper(email)) VIRTUAL);
    INSERT INTO lively VALUES (1, 'treasure@example.com');
    CREATE EXTENSION btree_gist;
    CREATE TABLE rooms (room int, during tstzrange, PRIMARY KEY (room, during WITHOUT OVERLAPS));";

/// Statements, and what version 18 answers; what cannot be masked is refused instead.
const STATEMENTS: &[(&str, &str)] = &[
    ("SELECT 'a', shout, plain FROM people", "a|[masked:pii]|2"),
    ("SELECT shout || card FROM people", ""),
    ("UPDATE people SET id = 2 WHERE id = 1 RETURNING OLD.id, NEW.id, OLD.email, NEW.card", "1|2|[masked:pii]|"),
    ("UPDATE people SET id = 1 WHERE id = 2 RETURNING WITH (OLD AS o, NEW AS n) o.id, n.id, o.email || n.card", "2|1|"),
    ("INSERT INTO people VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET card = '1' RETURNING OLD.*, NEW.id", ""),
    (
        "MERGE INTO people p USING (SELECT 1 AS id) s ON p.id = s.id WHEN MATCHED THEN UPDATE SET card = p.card \
         RETURNING merge_action(), OLD.email, p.shout, p.id",
        "UPDATE|",
    ),
    (
        "MERGE INTO docs d USING (SELECT id, upper(email) AS e FROM people) s ON d.id = s.id \
         WHEN MATCHED THEN UPDATE SET id = d.id RETURNING *",
        "1|[masked:pii]|1|",
    ),
    ("SELECT j.n FROM docs, JSON_TABLE(doc, '$.n[*]' COLUMNS (n int PATH '$')) j", "1\n2"),
    ("SELECT j.x FROM people, JSON_TABLE(to_jsonb(email), '$' COLUMNS (x text PATH '$')) j", ""),
    ("SELECT JSON_VALUE(to_jsonb(email), '$'), JSON_QUERY(to_jsonb(card), '$') FROM people", ""),
    ("SELECT JSON_SERIALIZE(JSON_OBJECT('e': email)), JSON_SCALAR(card) FROM people", ""),
    ("SELECT shout FROM lively", ""),
    ("SELECT l FROM lively l", ""),
    ("SELECT 'b', id FROM lively WHERE id = 1", "b|1"),
    ("INSERT INTO rooms VALUES (1, '[2020-01-01, 2021-01-01)') RETURNING room", "1"),
    ("SELECT 'c', EXTRACT(year FROM lower(during)) FROM rooms", "c|"),
    ("SELECT any_value(email), 1_000, 0xff FROM people", "|1000|255"),
    ("SELECT reverse('abc'::bytea), uuid_extract_version(uuidv7()), casefold('A')", "|7|a"),
    ("COPY people (id, email) TO STDOUT (FORMAT csv, FORCE_QUOTE *)", ""),
    ("COPY docs (id) TO STDOUT (FORMAT csv, HEADER)", "id\n1"),
    ("EXPLAIN (ANALYZE, MEMORY, SERIALIZE) SELECT email FROM people", ""),
];

fn rules() -> Rules {
    let config = "[[mask]]\ntag = \"pii\"\ncolumns = [\"*.email\"]\ntransform = \"redact\"\n\
                  [[mask]]\ntag = \"card\"\ncolumns = [\"*.card\"]\ntransform = { keep_last = 4 }\n";
    crate::testing::masks::rules(config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_syntax_is_answered_and_masked() {
    let stage = Stage::new(ScriptedGate::new(|_| Answer::Permit(&["pii", "card"])), rules()).await;
    stage.server.sql(SETUP).unwrap();
    let newest = stage.server.sql("SHOW server_version_num").unwrap().parse::<u32>().unwrap() >= 180_000;
    if newest {
        stage.server.sql(SETUP_18).unwrap();
    }
    // Where the server does not know a COPY, its data follow as statements that it does not know either.
    let mut wrong = Vec::new();
    for (statement, answer) in STATEMENTS.iter().filter(|(statement, _)| newest || !statement.contains("FROM STDIN")) {
        let said = stage.psql(&format!("{statement};\nSELECT 'in ' || 'step';\n")).await;
        let lower = said.to_lowercase();
        assert!(!lower.contains("treasure") && !lower.contains("4929"), "{statement} shows it: {said}");
        assert!(said.contains("in step"), "{statement}: {said}");
        let answered = said.contains("ERROR:  42501") || (!said.contains("ERROR") && said.contains(answer));
        if newest && !answered {
            wrong.push(format!("{statement}: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
