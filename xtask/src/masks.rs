//! `cargo xtask masks`: the search for ways round the masking at full length, and `docs/masking.md` with the figures.

use anyhow::Result;

use crate::install::{self, For, Newest};
use crate::run::{OPTIMISED, cargo, root, run as execute, say};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Seed of the generator
    #[arg(long)]
    seed: Option<u64>,
    /// Cases, at each server
    #[arg(long, default_value_t = 3000)]
    cases: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    install::ensure(For::Server)?;
    let folder = root().join("docs");
    std::fs::create_dir_all(&folder)?;
    let search = || {
        let mut command = cargo();
        command.args([
            "test",
            "--package",
            "interceptor",
            "--config",
            OPTIMISED,
            "--test",
            "masking",
            "--",
            "--nocapture",
        ]);
        command.env("INTERCEPTOR_MASKING", folder.join("masking.md"));
        command.env("INTERCEPTOR_MASKING_CASES", arguments.cases.to_string());
        if let Some(seed) = arguments.seed {
            command.env("INTERCEPTOR_MASKING_SEED", seed.to_string());
        }
        command
    };
    say("searching for ways round the masking");
    execute(&mut search())?;
    match Newest::install() {
        Ok(newest) => {
            say("the same at PostgreSQL 18");
            let mut command = search();
            newest.serve(&mut command);
            execute(command.env("INTERCEPTOR_MASKING_ADD", "1"))
        }
        Err(error) => {
            say(&format!("PostgreSQL 18 is left out, it cannot be installed: {error:#}"));
            Ok(())
        }
    }
}
