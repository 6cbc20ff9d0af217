//! How fast HTTP is through interceptor, beside direct connections and other proxies, in one run.
//!
//! `cargo xtask bench http` runs it. Everything stands in namespaces of its own: nginx on the far side of a wire, clients
//! (h2load) and proxies on the near side, all in clear, so that each proxy adds the same hops. interceptor always has policy,
//! masking rules and recording on: once for an agent that may see everything, and once ("masking") for one whose answers are
//! looked through by detectors. Figures are ratios to direct of the same run.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark talks to the person at the terminal")]

#[path = "../common/mod.rs"]
mod common;

#[path = "../postgres/measure.rs"]
#[expect(dead_code, reason = "the other benchmark needs the rest of it")]
mod measure;
mod report;
mod routes;

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
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Only scenarios whose name holds this
    #[arg(long)]
    pub(crate) only: Option<String>,
    /// Only these routes: direct, nginx, haproxy, mitmproxy, interceptor, masking
    #[arg(long, value_delimiter = ',')]
    pub(crate) routes: Vec<String>,
    #[command(flatten)]
    files: Files,
}

fn main() -> ExitCode {
    end(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let rows = routes::measure(arguments)?;
    let table = report::markdown(&rows);
    println!("{table}");
    arguments.files.write(&table, &report::json(&rows)?)
}
