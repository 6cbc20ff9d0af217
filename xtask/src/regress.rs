//! `cargo xtask regress`: PostgreSQL's own regression suite, direct and through the driver with everything permitted.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::install::{self, For};
use crate::run::{OPTIMISED, cargo, root, run as execute, say};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Tests to run, after `test_setup`, by themselves; the whole suite where none is named
    tests: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    install::ensure(For::Build)?;
    let source = install::postgres_source()?;
    let suite = suite(&source)?;
    let schedule = if arguments.tests.is_empty() {
        std::fs::read_to_string(suite.join("parallel_schedule"))?
    } else {
        let tests = arguments.tests.iter().map(|test| format!("test: {test}\n"));
        std::iter::once("test: test_setup\n".to_owned()).chain(tests).collect()
    };
    std::fs::write(suite.join("schedule"), schedule)?;
    say("running the suite twice (every DDL has the catalog read again: through the driver it takes long)");
    let mut command = cargo();
    command.args(["test", "--package", "interceptor", "--config", OPTIMISED, "--lib"]);
    command.args(["--", "--ignored", "--nocapture", "the_servers_own"]);
    if arguments.tests.is_empty() {
        command.env("INTERCEPTOR_REGRESS_REPORT", root().join("docs/regress.md"));
    }
    execute(command.env("INTERCEPTOR_REGRESS", &suite))
}

/// Puts together what `pg_regress` wants, with the library that its tests load.
fn suite(source: &Path) -> Result<PathBuf> {
    let suite = root().join("target/regress");
    std::fs::create_dir_all(&suite)?;
    let from = source.join("src/test/regress");
    let mut copy = Command::new("cp");
    copy.arg("-r").args(["sql", "expected", "data", "parallel_schedule", "resultmap"].map(|name| from.join(name)));
    execute(copy.arg(&suite))?;
    let server = server()?;
    execute(Command::new("cp").arg(server.join("lib/pgxs/src/test/regress/pg_regress")).arg(&suite))?;
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-O1", "-w", "-I"]);
    let version = server.file_name().context("the server's folder has no name")?;
    compile.arg(Path::new("/usr/include/postgresql").join(version).join("server"));
    execute(compile.arg("-o").arg(suite.join("regress.so")).arg(from.join("regress.c")))?;
    execute(Command::new("chmod").args(["-R", "a+rX"]).arg(&suite))?;
    Ok(suite)
}

/// The folder of the server whose source it is.
fn server() -> Result<PathBuf> {
    let folder = PathBuf::from("/usr/lib/postgresql/15");
    if !folder.join("lib/pgxs/src/test/regress/pg_regress").exists() {
        bail!("install postgresql-server-dev-15");
    }
    Ok(folder)
}
