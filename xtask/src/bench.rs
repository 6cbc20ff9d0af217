//! `cargo xtask bench`: speed and memory beside direct connections and other proxies, in one run.

use anyhow::{Context as _, Result, ensure};

use crate::install::{self, For};
use crate::run::{as_root, cargo, clients, output, root, run as execute, say};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to measure: postgres, http, capture: what a connect and a packet cost more, masks: how fast answers are masked,
    /// decisions: what a verdict costs, or record: what recording costs
    #[arg(default_value = "postgres")]
    name: String,
    /// Replace the figures, the table and the chart in docs/bench
    #[arg(long)]
    publish: bool,
    /// For the benchmark itself: --seconds N, --rounds N, --only TEXT, --routes A,B
    #[arg(last = true)]
    more: Vec<String>,
}

/// As cargo knows them.
const BENCHMARKS: &[&str] = &["postgres", "http", "capture", "masks", "decisions", "record"];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(BENCHMARKS.contains(&arguments.name.as_str()), "there are these benchmarks: {}", BENCHMARKS.join(", "));
    install::ensure(For::Benches)?;
    say("building, optimised (the first time takes many minutes)");
    let mut command = as_root(build(&arguments.name)?);
    command.env("INTERCEPTOR_CLIENTS", clients());
    if arguments.publish {
        let folder = root().join("docs/bench");
        std::fs::create_dir_all(&folder)?;
        let chart = (arguments.name == "postgres").then_some(("--chart", "svg"));
        for (option, extension) in [("--json", "json"), ("--markdown", "md")].into_iter().chain(chart) {
            command.arg(option).arg(folder.join(format!("{}.{extension}", arguments.name)));
        }
    }
    execute(command.args(&arguments.more))
}

/// Builds a benchmark, and says where it is.
fn build(name: &str) -> Result<String> {
    let mut command = cargo();
    command.args(["bench", "--no-run", "--package", "interceptor", "--features", "testing"]);
    let built = output(command.args(["--bench", name, "--message-format=json"]))?;
    built
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message.pointer("/target/kind/0").and_then(|kind| kind.as_str()) == Some("bench"))
        .find_map(|message| Some(message.pointer("/executable")?.as_str()?.to_owned()))
        .context("cargo names no benchmark")
}
