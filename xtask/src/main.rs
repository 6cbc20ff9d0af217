//! Development tasks: `cargo xtask ebpf`.

mod ebpf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "interceptor's development tasks")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Rebuild the committed kernel object from source, or check that it is what the source gives
    Ebpf(ebpf::Arguments),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.task {
        Task::Ebpf(arguments) => ebpf::run(&arguments),
    }
}
