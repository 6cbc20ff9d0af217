//! How fast answers are masked: megabytes a second of what comes in decoded, on one processor.
//!
//! `cargo xtask bench masks` runs it. Each way goes through the same answer in pieces as they are read from a socket; the
//! fastest of its rounds counts, since whatever else runs can only make one slower.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark talks to the person at the terminal")]

#[path = "../common/mod.rs"]
mod common;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use common::{Failure, Files, end};
use interceptor::clock::{Clock as _, SystemClock};
use interceptor::mask::{Config, Detector, Masker, Rules, Transform};
use interceptor::policy::Obligations;
use interceptor::protocol::http::codec;
use interceptor::protocol::http::rewrite::{Plan, Rewriter};

#[derive(Debug, Parser)]
struct Arguments {
    /// Rounds of each way, of which the fastest counts
    #[arg(long, default_value_t = 40)]
    rounds: usize,
    #[command(flatten)]
    files: Files,
}

/// As much as is read from a socket at once.
const PIECE: usize = 32 << 10;
/// Rows of the answer: about a megabyte.
const ROWS: usize = 3000;

/// One way to mask an answer.
struct Way {
    name: &'static str,
    json: Vec<String>,
    detect: &'static [Detector],
    kind: &'static str,
    gzip: bool,
}

fn main() -> ExitCode {
    end(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let body = body();
    let mut rows = Vec::new();
    for way in ways() {
        rows.push((way.name, measure(&way, body.as_bytes(), arguments.rounds)?));
    }
    let mut table = "| what is done | MB/s |\n|---|---:|\n".to_owned();
    for (name, speed) in &rows {
        writeln!(table, "| {name} | {speed:.0} |")?;
    }
    println!("{table}");
    let rows: Vec<_> = rows.iter().map(|(name, speed)| serde_json::json!({ "name": name, "mb_s": speed })).collect();
    arguments.files.write(&table, &serde_json::to_string_pretty(&rows)?)
}

fn ways() -> Vec<Way> {
    let many = (0..50).map(|number| format!("$..field{number}")).chain(["$..email".to_owned()]).collect();
    let way = |name, json: &[&str], detect| {
        let json = json.iter().map(ToString::to_string).collect();
        Way { name, json, detect, kind: "application/json", gzip: false }
    };
    vec![
        way("JSON, a path that nothing is at", &["$.nothing"], &[]),
        way("JSON, one path: `$[*].email`", &["$[*].email"], &[]),
        way("JSON, one path at any depth: `$..email`", &["$..email"], &[]),
        Way { json: many, ..way("JSON, 51 paths at any depth", &[], &[]) },
        way("JSON, cards and addresses detected", &[], &[Detector::Card, Detector::Email]),
        way("JSON, one path, everything detected", &["$[*].email"], &Detector::ALL),
        Way { gzip: true, ..way("JSON in gzip, one path", &["$[*].email"], &[]) },
        Way { kind: "text/plain", ..way("text, everything detected", &[], &Detector::ALL) },
    ]
}

fn measure(way: &Way, body: &[u8], rounds: usize) -> Result<f64, Failure> {
    let (json, detect) = (way.json.clone(), way.detect.to_vec());
    let entry =
        Config { tag: "x".into(), columns: Vec::new(), json, detect, base64: false, transform: Transform::Redact };
    let rules = Rules::compile(&[entry], None).map_err(|errors| format!("{errors:?}"))?;
    let masker = Masker::new(Arc::new(rules), &Obligations { masked: Arc::new([Arc::from("x")].into()) });
    let plan = Plan::new(masker, "api", None);
    let coding = if way.gzip { "gzip" } else { "identity" };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {}\r\nContent-Encoding: {coding}\r\n\r\n", way.kind);
    let (head, _) = codec::response(head.as_bytes())?.ok_or("the head is none")?;
    let sent = if way.gzip { gzip(body)? } else { body.to_vec() };
    let clock = SystemClock::new();
    let (mut best, mut out) = (Duration::MAX, Vec::new());
    for _ in 0..rounds {
        let mut rewriter = Rewriter::new(plan.clone(), None, &head).ok_or("nothing is done")?;
        out.clear();
        let begun = clock.monotonic();
        for piece in sent.chunks(PIECE) {
            let mut rest = piece;
            while rewriter.push(&mut rest, &mut out)? {}
        }
        rewriter.finish(&mut out)?;
        best = best.min(clock.monotonic().saturating_sub(begun));
    }
    if out == body && way.name != "JSON, a path that nothing is at" {
        return Err(format!("{}: nothing was masked", way.name).into());
    }
    Ok(body.len() as f64 / best.as_secs_f64() / 1e6)
}

fn gzip(body: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    to.write_all(body)?;
    Ok(to.finish()?)
}

/// What an API says of customers.
fn body() -> String {
    let row = |number: usize| {
        format!(
            "{{\"id\":{number},\"name\":\"Customer Number {number}\",\"email\":\"someone{number}@example.org\",\"address\":\
             {{\"street\":\"Main Street {number}\",\"city\":\"Springfield\",\"zip\":\"0{number}\"}},\"tags\":[\"a\",\"bb\",\"ccc\"],\
             \"balance\":{number}.25,\"active\":true,\"note\":\"A longer text, such as people write about customers when they \
             have called; nothing of interest is in it.\"}}"
        )
    };
    format!("[{}]", (0..ROWS).map(row).collect::<Vec<_>>().join(",\n"))
}
