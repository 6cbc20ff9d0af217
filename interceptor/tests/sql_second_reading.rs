//! sqlparser reads the corpora of the PostgreSQL analysis as an independent second opinion. A table that it sees read or
//! written, and that the verdict does not name, is a failure; what it cannot parse is counted and shown.

use std::collections::BTreeSet;
use std::sync::Arc;

use interceptor::policy::{ActionName, ResourceKind, TagSet};
use interceptor::protocol::postgres::analysis::{ColumnTags, NothingKnown, Scope, analyze};
use interceptor::protocol::postgres::catalog::{Loader, Names};
use interceptor::protocol::sql;
use sqlparser::dialect::PostgreSqlDialect;

const EFFECTS: &str = include_str!("../src/protocol/postgres/testdata/effects.txt");
const EVASIONS: &str = include_str!("../src/protocol/postgres/testdata/evasions.txt");
const CATALOG: &str = include_str!("../src/protocol/postgres/testdata/catalog.json");

struct NoTags;

impl ColumnTags for NoTags {
    fn tags(&self, _: &str, _: &str, _: &str, _: &str, _: &str) -> TagSet {
        TagSet::default()
    }

    fn all(&self) -> TagSet {
        TagSet::default()
    }
}

fn statements() -> impl Iterator<Item = &'static str> {
    EFFECTS.lines().chain(EVASIONS.lines()).filter(|line| !line.starts_with(['#', '>', '=']) && !line.is_empty())
}

#[test]
fn the_second_reading_sees_nothing_that_the_verdict_does_not_name() {
    let queries: Vec<Vec<Vec<Option<String>>>> = serde_json::from_str(CATALOG).unwrap();
    let mut loader = Loader::new();
    for rows in &queries {
        loader.rows(rows).unwrap();
    }
    let catalog = loader.finish().unwrap();
    let names = Names::standard("agent");
    let scope = Scope {
        target: "db",
        database: "shop",
        catalog: &catalog,
        names: &names,
        tags: &NoTags,
        known: &NothingKnown,
        parsed: None,
    };
    let (mut tried, mut compared, mut unread) = (0, 0, Vec::new());
    let mut wrong = Vec::new();
    for text in statements() {
        tried += 1;
        let verdict = analyze(text, &scope);
        let Some(reading) = sql::read(text, &PostgreSqlDialect {}) else {
            unread.push(text);
            continue;
        };
        // What is opaque as a whole names nothing, and permits nothing. A prepared statement is judged when it is
        // executed, and a plan changes nothing.
        let whole = |action: &interceptor::policy::Action| {
            action.name == ActionName::SQL_OPAQUE && action.resource.kind == ResourceKind::Database
        };
        if verdict.actions.iter().any(whole) || text.starts_with("PREPARE") || text.starts_with("EXPLAIN") {
            continue;
        }
        compared += 1;
        let named = |writes: bool| -> BTreeSet<Vec<Arc<str>>> {
            let reads = [ActionName::SQL_SELECT, ActionName::SQL_LOCK];
            let of_kind = verdict.actions.iter().filter(|action| !writes || !reads.contains(&action.name));
            of_kind
                .filter(|action| action.resource.kind == ResourceKind::Table)
                .map(|action| action.resource.path.iter().skip(2).cloned().collect())
                .collect()
        };
        for (seen, by) in [(&reading.relations, named(false)), (&reading.written, named(true))] {
            for name in seen {
                let same = |path: &Vec<Arc<str>>| {
                    path.iter().rev().zip(name.iter().rev()).all(|(one, other)| **one == **other)
                };
                if !by.iter().any(same) {
                    wrong.push(format!("{text}\n  {name:?} is not in {by:?}"));
                }
            }
        }
    }
    println!("{tried} statements, {compared} compared, {} that sqlparser cannot parse:", unread.len());
    for text in &unread {
        println!("  {text}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared * 2 > tried, "too few were compared");
}
