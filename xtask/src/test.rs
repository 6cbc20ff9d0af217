//! `cargo xtask test`: everything, in groups, the quick ones first.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::install::{self, For, Newest};
use crate::run::{as_root, cargo, output, run as execute, say};
use crate::{cluster, demo};

/// Test binaries that make namespaces and cgroups, attach kernel programs, or start servers as another user.
const ROOT_GROUPS: &[&str] =
    &["capture", "bypass", "containers", "launch", "service", "postgres", "http", "mcp", KUBERNETES, "fire"];

/// The group that runs against a cluster.
const KUBERNETES: &str = "kubernetes";

/// Building that cluster, where its group is run; minutes, once.
const CLUSTER: &str = "cluster";

/// Storms, floods and faults: the whole daemon, and before it both legs of the driver.
const FIRE: &str = "fire";

/// The package in a virtual machine: the short set.
const VM: &str = "vm";

/// What the README shows, from beginning to end.
const DEMO: &str = "demo";

/// The group that runs against the newest server.
const NEWEST: &str = "postgres-18";

/// A part of `cargo xtask differential`; starts servers, needs no root.
const DIFFERENTIAL: &str = "differential";

/// A part of `cargo xtask masks`, likewise.
const MASKING: &str = "masking";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only this group: lint, fast, vm, demo, postgres-18, or the name of a test file
    #[arg(long, value_name = "GROUP")]
    only: Vec<String>,
    /// Leave this group out
    #[arg(long, value_name = "GROUP")]
    skip: Vec<String>,
}

pub(crate) fn run_groups(arguments: &Arguments) -> Result<Vec<(String, f64)>> {
    let wanted = |group: &str| {
        let group = if group == CLUSTER { KUBERNETES } else { group };
        (arguments.only.is_empty() || arguments.only.iter().any(|only| only == group))
            && !arguments.skip.iter().any(|skip| skip == group)
    };
    let mut times = Vec::new();
    let mut group = |name: &str, action: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        if wanted(name) {
            say(&format!("test group: {name}"));
            let start = now();
            action().with_context(|| format!("test group {name} failed"))?;
            times.push((name.to_owned(), start.elapsed().as_secs_f64()));
        }
        Ok(())
    };
    group("lint", &mut lint)?;
    group("fast", &mut fast)?;
    group(DIFFERENTIAL, &mut || differential(None))?;
    group(MASKING, &mut || masking(None))?;
    group(CLUSTER, &mut cluster::ensure)?;
    let built = ROOT_GROUPS.iter().any(|name| wanted(name)) || wanted(NEWEST);
    let binaries = if built { binaries()? } else { Vec::new() };
    for name in ROOT_GROUPS {
        let Some((_, path)) = binaries.iter().find(|(binary, _)| binary == name) else { continue };
        group(name, &mut || {
            if *name == FIRE {
                faults()?;
            }
            let mut command = as_root(path);
            execute(command.args(["--test-threads=1"]).env("INTERCEPTOR_CLIENTS", crate::run::clients()))
        })?;
    }
    group(VM, &mut crate::vm::short)?;
    group(DEMO, &mut || demo::run(&demo::Arguments { keep: false, fast: true }))?;
    if wanted(NEWEST) {
        match Newest::install() {
            Ok(installed) => group(NEWEST, &mut || newest(&installed, &binaries))?,
            // What it comes from are registries that the rest cannot do without, either.
            Err(error) if std::env::var_os("CI").is_some() => {
                return Err(error.context("PostgreSQL 18 is not left out"));
            }
            Err(error) => say(&format!("test group: {NEWEST}: left out, it cannot be installed: {error:#}")),
        }
    }
    Ok(times)
}

/// What of the tests depends on the server's version, against PostgreSQL 18: the driver's own, every client, with the
/// server's own psql, pgbench and pg_dump; TLS on both legs, with those of the distribution, as the others have none; and
/// what is held against a server.
fn newest(installed: &Newest, binaries: &[(String, String)]) -> Result<()> {
    let mut driver = cargo();
    driver.args(["test", "--package", "interceptor", "--lib", "--", "protocol::postgres::driver::tests"]);
    installed.serve(&mut driver);
    installed.ask(&mut driver)?;
    execute(driver.arg("protocol::postgres::login::tests"))?;
    let Some((_, tests)) = binaries.iter().find(|(name, _)| name == "postgres") else {
        bail!("the tests with real clients are not built");
    };
    let with = |parts: &[&str]| {
        let mut command = as_root(tests);
        command.arg("--test-threads=1").args(parts).env("INTERCEPTOR_CLIENTS", crate::run::clients());
        installed.serve(&mut command);
        command
    };
    let mut clients = with(&["clients::", "hold::", "pending::", "protocol::", "masks::", "tools::"]);
    installed.ask(&mut clients)?;
    execute(&mut clients)?;
    execute(&mut with(&["agent_tls::", "upstream_tls::"]))?;
    differential(Some(installed))?;
    masking(Some(installed))
}

#[expect(clippy::print_stderr, reason = "the summary is for the person at the terminal")]
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    install::ensure(For::Tests)?;
    let times = run_groups(arguments)?;
    if times.is_empty() {
        bail!("no test group has that name");
    }
    eprintln!();
    for (name, seconds) in &times {
        eprintln!("{name:<12} passed in {seconds:.1} s");
    }
    Ok(())
}

fn lint() -> Result<()> {
    execute(cargo().args(["fmt", "--all", "--check"]))?;
    execute(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--no-deps", "--", "-D", "warnings"]))?;
    let mut denies = Command::new("cargo-deny");
    if !denies.arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        // It takes minutes to install: `cargo install cargo-deny --locked`.
        return Ok(());
    }
    // Advisories change without the code: `cargo deny check advisories`, by hand and with the network.
    execute(cargo().args(["deny", "--offline", "check", "licenses", "bans", "sources"]))
}

fn fast() -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--lib", "--bins"]);
    execute(&mut command)?;
    let mut command = cargo();
    command.args(["test", "--package", "interceptor"]);
    for name in test_files()? {
        if !ROOT_GROUPS.contains(&name.as_str()) && ![DIFFERENTIAL, MASKING].contains(&name.as_str()) {
            command.args(["--test", &name]);
        }
    }
    execute(&mut command)
}

/// Every fault on both legs, against a real server.
fn faults() -> Result<()> {
    let filter = "protocol::postgres::driver::tests::fire::";
    execute(cargo().args(["test", "--package", "interceptor", "--lib", "--", "--include-ignored", filter]))
}

fn differential(installed: Option<&Newest>) -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--package", "interceptor", "--test", DIFFERENTIAL, "--", "--nocapture"]);
    match installed.map_or_else(install::regression_suite, Newest::regression_suite) {
        Ok(suite) => drop(command.env("INTERCEPTOR_REGRESS", suite)),
        Err(error) => say(&format!("PostgreSQL's regression suite is left out, its source cannot be had: {error:#}")),
    }
    if let Some(installed) = installed {
        installed.serve_plain(&mut command);
    }
    execute(&mut command)
}

fn masking(installed: Option<&Newest>) -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--package", "interceptor", "--test", MASKING, "--", "--nocapture"]);
    if let Some(installed) = installed {
        installed.serve(&mut command);
    }
    execute(&mut command)
}

fn test_files() -> Result<Vec<String>> {
    let folder = crate::run::root().join("interceptor/tests");
    let mut names: Vec<String> = std::fs::read_dir(folder)?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

/// Name and path of every integration test that needs root, built.
fn binaries() -> Result<Vec<(String, String)>> {
    let files = test_files()?;
    let names: Vec<&str> = files.iter().map(String::as_str).filter(|name| ROOT_GROUPS.contains(name)).collect();
    programs(&names)
}

/// Name and path of these integration tests of the main package, built, with the programs that they use.
pub(crate) fn programs(names: &[&str]) -> Result<Vec<(String, String)>> {
    execute(cargo().args(["build", "--package", "interceptor", "--bins", "--examples", "--features", "testing"]))?;
    let mut command: Command = cargo();
    command.args(["test", "--package", "interceptor", "--no-run", "--message-format=json"]);
    for name in names {
        command.args(["--test", name]);
    }
    let mut found = Vec::new();
    for line in output(&mut command)?.lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let kind = message.pointer("/target/kind/0").and_then(|kind| kind.as_str());
        let name = message.pointer("/target/name").and_then(|name| name.as_str());
        let path = message.pointer("/executable").and_then(|path| path.as_str());
        if let (Some("test"), Some(name), Some(path)) = (kind, name, path) {
            found.push((name.to_owned(), path.to_owned()));
        }
    }
    Ok(found)
}

#[expect(clippy::disallowed_methods, reason = "a task may look at the clock")]
fn now() -> Instant {
    Instant::now()
}
