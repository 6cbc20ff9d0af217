//! `cargo xtask regress`: PostgreSQL's own regression suite, direct and through the driver with everything permitted.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::install::{self, For, Newest};
use crate::run::{OPTIMISED, cargo, root, run as execute, say};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only this version of the server, 15 or 18
    #[arg(long, value_name = "MAJOR", value_parser = clap::value_parser!(u32).range(15..=18))]
    server: Option<u32>,
    /// Tests to run, after `test_setup`, by themselves; the whole suite where none is named
    tests: Vec<String>,
}

/// What the suite of one version is run with.
struct Kit {
    major: u32,
    /// `src/test/regress`.
    source: PathBuf,
    pg_regress: PathBuf,
    headers: PathBuf,
    /// The server and its clients, where they are not the installed ones.
    newest: Option<Newest>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    install::ensure(For::Server)?;
    let wanted = |major: u32| arguments.server.is_none_or(|server| server == major);
    if !wanted(15) && !wanted(18) {
        bail!("there are suites of 15 and 18 only");
    }
    let kits = [(15, distribution as fn() -> Result<Kit>), (18, newest)];
    kits.into_iter().filter(|(major, _)| wanted(*major)).try_for_each(|(_, kit)| compare(&kit()?, &arguments.tests))
}

fn distribution() -> Result<Kit> {
    install::server_dev()?;
    Ok(Kit {
        major: 15,
        source: install::suite_of(15, "bookworm")?,
        pg_regress: "/usr/lib/postgresql/15/lib/pgxs/src/test/regress/pg_regress".into(),
        headers: "/usr/include/postgresql/15/server".into(),
        newest: None,
    })
}

fn newest() -> Result<Kit> {
    let newest = Newest::install()?;
    Ok(Kit {
        major: 18,
        source: newest.regression_suite()?,
        pg_regress: newest.pg_regress(),
        headers: newest.headers(),
        newest: Some(newest),
    })
}

/// Runs the suite twice.
fn compare(kit: &Kit, tests: &[String]) -> Result<()> {
    let suite = suite(kit)?;
    let schedule = if tests.is_empty() {
        std::fs::read_to_string(suite.join("parallel_schedule"))?
    } else {
        let tests = tests.iter().map(|test| format!("test: {test}\n"));
        std::iter::once("test: test_setup\n".to_owned()).chain(tests).collect()
    };
    std::fs::write(suite.join("schedule"), schedule)?;
    let major = kit.major;
    say(&format!(
        "running the suite of PostgreSQL {major} twice (every DDL has the catalog read again: it takes long)"
    ));
    let mut command = cargo();
    command.args(["test", "--package", "interceptor", "--config", OPTIMISED, "--lib"]);
    command.args(["--", "--ignored", "--nocapture", "the_servers_own"]);
    if tests.is_empty() {
        command.env("INTERCEPTOR_REGRESS_REPORT", root().join("docs/regress.md"));
    }
    if let Some(newest) = &kit.newest {
        newest.serve_plain(&mut command);
        newest.ask(&mut command)?;
    }
    execute(command.env("INTERCEPTOR_REGRESS", &suite))
}

/// Puts together what `pg_regress` wants, with the library that its tests load.
fn suite(kit: &Kit) -> Result<PathBuf> {
    let suite = root().join("target/regress").join(kit.major.to_string());
    std::fs::create_dir_all(&suite)?;
    let mut copy = Command::new("cp");
    copy.arg("-r")
        .args(["sql", "expected", "data", "parallel_schedule", "resultmap"].map(|name| kit.source.join(name)));
    execute(copy.arg(&suite))?;
    // It finds its libraries from where it is.
    execute(Command::new("ln").arg("-sf").arg(&kit.pg_regress).arg(suite.join("pg_regress")))?;
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-O1", "-w", "-I"]).arg(&kit.headers);
    execute(compile.arg("-o").arg(suite.join("regress.so")).arg(Path::new(&kit.source).join("regress.c")))?;
    execute(Command::new("chmod").args(["-R", "a+rX"]).arg(&suite))?;
    Ok(suite)
}
