//! How fast HTTP is through interceptor, beside direct connections and other proxies, in one run.
//!
//! `cargo xtask bench http` runs it. Everything stands in namespaces of its own: nginx on the far side of a wire, clients
//! (h2load) and proxies on the near side, all in clear, so that each proxy adds the same hops. interceptor always has policy,
//! masking rules and recording on: once for an agent that may see everything, and once ("masking") for one whose answers are
//! looked through by detectors. Figures are ratios to direct of the same run.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark talks to the person at the terminal")]

#[path = "../postgres/measure.rs"]
#[expect(dead_code, reason = "the other benchmark needs the rest of it")]
mod measure;
mod report;
mod routes;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// What can go wrong.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

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
    /// Writes the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Writes the table as Markdown
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// `cargo bench` says so
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the benchmark failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let rows = routes::measure(arguments)?;
    println!("{}", report::markdown(&rows));
    if let Some(path) = &arguments.json {
        std::fs::write(path, report::json(&rows)?)?;
    }
    if let Some(path) = &arguments.markdown {
        std::fs::write(path, report::markdown(&rows))?;
    }
    Ok(())
}
