//! What being captured costs: latency added to a connect and to a round trip, as ratios to direct and to an nftables
//! REDIRECT of the same run.
//!
//! `cargo xtask bench capture` runs it. Each route has namespaces of its own, so that no rule of one weighs on another; in
//! each the same program connects to the same echo on the loopback: by itself, sent there by nftables, or sent there by the
//! kernel programs from a governed cgroup, whose fence and events are on. Rounds go through the routes in turn.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark talks to the person at the terminal")]

#[path = "../common/mod.rs"]
mod common;

mod report;
mod roles;
mod routes;

use std::process::ExitCode;

use clap::Parser;
pub(crate) use common::Failure;
use common::{Files, end};

#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    /// Rounds through all routes, of which the median counts
    #[arg(long, default_value_t = 9)]
    pub(crate) rounds: usize,
    /// Connects in each round
    #[arg(long, default_value_t = 3000)]
    pub(crate) connects: usize,
    /// Round trips in each round
    #[arg(long, default_value_t = 20_000)]
    pub(crate) trips: usize,
    #[command(flatten)]
    files: Files,
}

fn main() -> ExitCode {
    let done = roles::play().unwrap_or_else(|| run(&Arguments::parse()));
    end(done)
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let rows = routes::measure(arguments)?;
    let table = report::markdown(&rows);
    println!("{table}");
    arguments.files.write(&table, &report::json(&rows)?)
}
