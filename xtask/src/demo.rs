//! `cargo xtask demo`: installs what is missing, builds, and hands over to the demo program with root's rights.

use anyhow::Result;

use crate::install::{self, For};
use crate::run::{as_root, cargo, clients, run as execute, say, talk};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave everything running at the end, and say how to play with it
    #[arg(long)]
    pub(crate) keep: bool,
    /// Do not pause between the steps
    #[arg(long)]
    pub(crate) fast: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    install::ensure(For::Demo)?;
    say("building (the first time takes some minutes)");
    execute(cargo().args([
        "build",
        "--package",
        "interceptor",
        "--features",
        "testing",
        "--bins",
        "--example",
        "demo",
    ]))?;
    // It is built beside this very program, wherever that is.
    let mut command = as_root(std::env::current_exe()?.with_file_name("examples").join("demo"));
    if arguments.keep {
        command.arg("--keep");
    }
    if arguments.fast {
        command.arg("--fast");
    }
    talk(command.env("INTERCEPTOR_CLIENTS", clients()))
}
