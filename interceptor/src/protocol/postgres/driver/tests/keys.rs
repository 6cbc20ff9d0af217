//! Foreign keys as real servers describe them, and what they do there: between trees on both sides, over several levels.

use std::collections::BTreeSet;

use super::implicit::{View, connect};
use crate::testing::postgres::{Options, Postgres as Server};

const TABLES: &str = r"
CREATE COLLATION alike (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE customers (id int PRIMARY KEY, name text);
CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE lines (id int, item int REFERENCES orders ON DELETE CASCADE, noted int REFERENCES customers ON DELETE SET NULL);
CREATE TABLE kept (id int, customer int REFERENCES customers);
CREATE TABLE nodes (id int PRIMARY KEY, up int REFERENCES nodes ON DELETE CASCADE);
CREATE TABLE regions (id int, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
CREATE TABLE regions_1 PARTITION OF regions FOR VALUES IN (1);
CREATE TABLE regions_2 PARTITION OF regions FOR VALUES IN (2);
CREATE TABLE visits (id int, region int, day int,
 FOREIGN KEY (region, day) REFERENCES regions ON DELETE CASCADE ON UPDATE CASCADE) PARTITION BY LIST (day);
CREATE TABLE visits_1 PARTITION OF visits FOR VALUES IN (1);
CREATE TABLE visits_2 PARTITION OF visits FOR VALUES IN (2) PARTITION BY LIST (id);
CREATE TABLE visits_2_1 PARTITION OF visits_2 DEFAULT;
CREATE TABLE of_one (id int, day int, FOREIGN KEY (id, day) REFERENCES regions_1 ON DELETE CASCADE);
CREATE VIEW all_customers AS SELECT id, name FROM customers;
CREATE TABLE coded (code text PRIMARY KEY, day date UNIQUE, loose text COLLATE alike UNIQUE);
CREATE TABLE coded_by (code text REFERENCES coded ON UPDATE CASCADE, day date REFERENCES coded (day) ON UPDATE CASCADE,
 loose text COLLATE alike REFERENCES coded (loose) ON UPDATE CASCADE);
CREATE TABLE indexed (code text PRIMARY KEY);
CREATE UNIQUE INDEX ON indexed (code COLLATE alike);
CREATE TABLE indexed_by (code text REFERENCES indexed ON UPDATE CASCADE);
INSERT INTO customers VALUES (1, 'a'), (2, 'b');
INSERT INTO orders VALUES (1, 1), (2, 2);
INSERT INTO lines VALUES (1, 1, 2), (2, 2, NULL);
INSERT INTO regions VALUES (1, 1), (2, 2);
INSERT INTO visits VALUES (1, 1, 1), (2, 2, 2);
INSERT INTO nodes VALUES (1, NULL), (2, 1);
";

/// What a statement is said to write.
fn written(view: &View, text: &str) -> BTreeSet<String> {
    let found = view.read(text);
    assert!(!found.opaque, "{text} {:?}", found.actions);
    let writes = found.actions.iter().filter(|action| matches!(action.name.as_str(), "sql:update" | "sql:delete"));
    let shown =
        |columns: Vec<&str>| if columns.is_empty() { String::new() } else { format!("({})", columns.join(",")) };
    writes
        .map(|action| {
            let columns = shown(action.columns.iter().map(|column| &**column).collect());
            format!("{} {}{columns}", action.name.as_str(), action.resource.path.last().unwrap()).split_off(4)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keys_write_is_named() {
    let server = Server::start(Options { auth: "trust", ..Options::default() }).unwrap();
    let client = connect(&server, "postgres").await;
    client.batch_execute(TABLES).await.unwrap();
    let version: i32 = client.query_one("SELECT current_setting('server_version_num')::int", &[]).await.unwrap().get(0);
    let newer = version >= 150_000;
    if newer {
        let some = "CREATE TABLE partly (id int, day int, other int, FOREIGN KEY (id, day) REFERENCES regions ON DELETE SET NULL (id))";
        client.batch_execute(some).await.unwrap();
    }
    if version >= 180_000 {
        let off = "CREATE TABLE off (id int, customer int REFERENCES customers ON DELETE CASCADE NOT ENFORCED)";
        client.batch_execute(off).await.unwrap();
    }
    client
        .batch_execute(
            "CREATE TEMP TABLE one (id int PRIMARY KEY); CREATE TEMP TABLE two (up int REFERENCES one ON DELETE CASCADE)",
        )
        .await
        .unwrap();
    let view = View::of(&client).await;
    let mut of_regions = vec!["delete regions", "delete visits"];
    of_regions.extend(newer.then_some("update partly(id)"));
    of_regions.push("delete of_one");
    let mut of_one = of_regions.clone();
    of_one[0] = "delete regions_1";
    let mut moved = if newer { vec!["delete of_one"] } else { of_regions.clone() };
    // Before version 15, what moves to another partition is removed.
    moved.retain(|write| *write != "delete regions");
    moved.extend(["update regions(day)", "update visits(day)"]);
    for (text, expected) in [
        (
            "DELETE FROM customers WHERE id = 1",
            vec!["delete customers", "delete lines", "delete orders", "update lines(noted)"],
        ),
        ("UPDATE customers SET id = 3 WHERE id = 1", vec!["update customers(id)", "update orders(customer)"]),
        ("UPDATE customers SET name = 'x' WHERE id = 1", vec!["update customers(name)"]),
        ("DELETE FROM nodes WHERE id = 1", vec!["delete nodes"]),
        ("DELETE FROM regions WHERE id = 1", of_regions),
        ("DELETE FROM regions_1", of_one),
        ("UPDATE regions SET day = 2", moved),
        ("UPDATE regions_1 SET id = 7", vec!["update regions_1(id)", "update visits(region)"]),
        ("UPDATE visits SET day = 2", vec!["update visits(day)"]),
        ("DELETE FROM one", vec!["delete one", "delete two"]),
        ("DELETE FROM kept", vec!["delete kept"]),
        (
            "INSERT INTO coded (code, day) VALUES ('a', '2024-01-01') ON CONFLICT (code) DO UPDATE SET code = excluded.code",
            vec!["update coded(code)"],
        ),
        (
            "INSERT INTO coded (code, day) VALUES ('a', '2024-01-01') ON CONFLICT (day) DO UPDATE SET day = excluded.day",
            vec!["update coded(day)"],
        ),
        (
            "INSERT INTO coded (loose) VALUES ('a') ON CONFLICT (loose) DO UPDATE SET loose = excluded.loose",
            vec!["update coded(loose)", "update coded_by(loose)"],
        ),
        (
            "INSERT INTO indexed VALUES ('a') ON CONFLICT (code) DO UPDATE SET code = excluded.code",
            vec!["update indexed(code)", "update indexed_by(code)"],
        ),
        (
            "INSERT INTO all_customers VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET id = excluded.id, name = excluded.name",
            vec!["update all_customers(id,name)", "update customers(id,name)"],
        ),
        (
            "INSERT INTO regions VALUES (1, 1) ON CONFLICT (id, day) DO UPDATE SET day = excluded.day + 1",
            vec!["update regions(day)", "update visits(day)"],
        ),
    ] {
        let expected: BTreeSet<String> = expected.into_iter().map(str::to_owned).collect();
        assert_eq!(written(&view, text), expected, "{text}");
    }
    // Who gives a table tags is told what reads it.
    let looked = |name: &str| view.catalog.relation_in("public", name).unwrap().looked_at;
    assert!(looked("customers") && !looked("orders") && !looked("all_customers"));
    // It is as said: rows of what refers move along, and go.
    client.batch_execute("UPDATE regions_1 SET id = 7; UPDATE customers SET id = 3 WHERE id = 1").await.unwrap();
    let moved: i64 = client.query_one("SELECT count(*) FROM visits_1 WHERE region = 7", &[]).await.unwrap().get(0);
    client.batch_execute("DELETE FROM customers WHERE id = 3").await.unwrap();
    let left: i64 =
        client.query_one("SELECT count(*) FROM lines WHERE item = 1 OR noted = 3", &[]).await.unwrap().get(0);
    assert_eq!((moved, left), (1, 0));
}
