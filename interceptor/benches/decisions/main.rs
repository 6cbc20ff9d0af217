//! What a decision costs on one processor: of a statement that was never seen, step by step, and of one that is known.
//!
//! `cargo xtask bench decisions` runs it, with the shipped policies. Statements are read against the catalog of the tests of
//! the analysis. The median of the rounds counts.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark talks to the person at the terminal")]

#[path = "../common/mod.rs"]
mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use common::{Failure, Files, end};
use interceptor::clock::{Clock as _, SystemClock, Timestamp};
use interceptor::policy::{Command, DecisionCache, Policies, Request, SessionFacts, TagSet};
use interceptor::protocol::postgres::analysis::{ColumnTags, NothingKnown, Scope, analyze};
use interceptor::protocol::postgres::catalog::{Catalog, Loader, Names};
use interceptor::testing::agents::attested;

#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds of each step
    #[arg(long, default_value_t = 2000)]
    rounds: usize,
    #[command(flatten)]
    files: Files,
}

/// Shipped policies that are loaded together.
const POLICIES: &[&str] = &["baseline", "analyst-readonly", "migration-bot"];

/// What is asked, from short to long.
const STATEMENTS: &[(&str, &str)] = &[
    ("a row by its key", "SELECT id, name FROM users WHERE id = 4711"),
    (
        "a join with a sub-select",
        "SELECT u.name, o.total FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id IN (SELECT user_id FROM cards) \
         ORDER BY o.total DESC LIMIT 10",
    ),
    ("a change", "UPDATE users SET name = 'Ada' WHERE id = 4711"),
];

/// One statement, in microseconds.
#[derive(serde::Serialize)]
struct Row {
    statement: &'static str,
    /// Parsed, and resolved against the catalog.
    analysis: f64,
    /// Judged by all policies.
    judged: f64,
    /// Found among the decisions that are kept.
    known: f64,
}

struct Tags;

impl ColumnTags for Tags {
    fn tags(&self, _: &str, _: &str, _: &str, table: &str, column: &str) -> TagSet {
        if (table, column) == ("users", "ssn") { self.all() } else { TagSet::default() }
    }

    fn all(&self) -> TagSet {
        Arc::new([Arc::from("pii")].into())
    }
}

fn main() -> ExitCode {
    end(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (catalog, policies) = (catalog()?, policies()?);
    let mut rows = Vec::new();
    for (name, text) in STATEMENTS {
        rows.push(measure((name, text), &catalog, &policies, arguments.rounds)?);
    }
    let mut table =
        "| statement | analysis | judged | never seen: both | known |\n|---|---:|---:|---:|---:|\n".to_owned();
    for Row { statement, analysis, judged, known } in &rows {
        let both = analysis + judged;
        writeln!(table, "| {statement} | {analysis:.1} us | {judged:.1} us | {both:.1} us | {known:.2} us |")?;
    }
    println!("{table}");
    arguments.files.write(&table, &serde_json::to_string_pretty(&rows)?)
}

fn measure(
    (name, text): (&'static str, &'static str),
    catalog: &Catalog,
    policies: &Policies,
    rounds: usize,
) -> Result<Row, Failure> {
    let names = Names::standard("agent");
    let scope = Scope {
        target: "db",
        database: "shop",
        catalog,
        names: &names,
        tags: &Tags,
        known: &NothingKnown,
        parsed: None,
    };
    let analysis = analyze(text, &scope);
    if analysis.opaque {
        return Err(format!("{name} is opaque").into());
    }
    let command = Command {
        analysis: analysis.id,
        statement: text.into(),
        parameters: Arc::from([]),
        actions: Arc::clone(&analysis.actions),
        facts: Arc::clone(&analysis.facts),
        in_transaction: false,
    };
    let (principal, tags) = (attested("bot", &["analysts"], Timestamp::from_unix(0)), Tags.all());
    let request = Request {
        principal: &principal,
        target: "db",
        command: &command,
        session: SessionFacts::default(),
        now: Timestamp::from_unix(0),
        tags: &tags,
    };
    let cache = DecisionCache::new(64);
    cache.decide(policies, &request);
    if cache.is_empty() {
        return Err(format!("the decision on {name} is not kept").into());
    }
    Ok(Row {
        statement: name,
        analysis: median(rounds, 1, || drop(std::hint::black_box(analyze(text, &scope)))),
        judged: median(rounds, 1, || drop(std::hint::black_box(policies.judge(&request)))),
        // Reading the clock takes as long as one of them.
        known: median(rounds, 100, || drop(std::hint::black_box(cache.decide(policies, &request)))),
    })
}

/// Microseconds that one takes, by the middle of the rounds.
fn median(rounds: usize, times: u32, mut work: impl FnMut()) -> f64 {
    let clock = SystemClock::new();
    let mut took: Vec<Duration> = (0..rounds.max(1))
        .map(|_| {
            let begun = clock.monotonic();
            (0..times).for_each(|_| work());
            clock.monotonic().saturating_sub(begun) / times
        })
        .collect();
    took.sort();
    took.get(took.len() / 2).map_or(0.0, |took| took.as_secs_f64() * 1e6)
}

fn catalog() -> Result<Catalog, Failure> {
    let queries: Vec<Vec<Vec<Option<String>>>> =
        serde_json::from_str(include_str!("../../src/protocol/postgres/testdata/catalog.json"))?;
    let mut loader = Loader::new();
    for rows in &queries {
        loader.rows(rows).map_err(|error| format!("{error:?}"))?;
    }
    loader.finish().map_err(|error| format!("{error:?}").into())
}

fn policies() -> Result<Policies, Failure> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let mut files = Vec::new();
    for name in POLICIES {
        files.push((*name, std::fs::read_to_string(folder.join(format!("{name}.cedar")))?));
    }
    Policies::load(&files).map_err(|errors| format!("{errors:?}").into())
}
