//! Development tasks: `cargo xtask demo`, `cargo xtask test`, `cargo xtask ebpf`.

mod demo;

mod install;
mod run;
mod test;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "interceptor's development tasks")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Watch an unmodified agent be governed against a real PostgreSQL; cleans up after itself
    Demo(demo::Arguments),
    /// Run every test: fast ones first, then those that need root, real servers and real clients
    Test(test::Arguments),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.task {
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
    }
}
