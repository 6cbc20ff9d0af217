//! How fast PostgreSQL is through interceptor, beside direct connections and other proxies, in one run.
//!
//! `cargo xtask bench postgres` runs it. Everything stands in namespaces of its own: the server on the far side of a wire,
//! clients and proxies on the near side, so that each proxy adds the same hops. interceptor always has policy, masking
//! rules and recording on: once for an agent that may see everything, and once ("masking") for one that may not. Figures are ratios to direct of the same run, since the machine differs from hour to hour.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark talks to the person at the terminal")]

#[path = "../common/mod.rs"]
mod common;

mod client;
mod load;
mod measure;
mod report;
mod rivals;
mod scenarios;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
pub(crate) use common::Failure;
use common::{Files, end};

#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5)]
    pub(crate) seconds: u32,
    /// Rounds, of which the median counts
    #[arg(long, default_value_t = 1)]
    pub(crate) rounds: usize,
    /// Only scenarios whose name holds this
    #[arg(long)]
    pub(crate) only: Option<String>,
    /// Only these routes: direct, pgbouncer, haproxy, envoy, interceptor, masking
    #[arg(long, value_delimiter = ',')]
    pub(crate) routes: Vec<String>,
    #[command(flatten)]
    files: Files,
    /// Draws the chart as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) chart: Option<PathBuf>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let done = match words.get(1).map(String::as_str) {
        Some("client") => client::run(words.get(2..).unwrap_or_default()),
        _ => run(&Arguments::parse()),
    };
    end(done)
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let rows = scenarios::run_all(arguments)?;
    println!("{}", report::table(&rows));
    arguments.files.write(&report::markdown(&rows), &report::json(&rows)?)?;
    if let Some(path) = &arguments.chart {
        std::fs::write(path, report::chart(&rows))?;
    }
    Ok(())
}
