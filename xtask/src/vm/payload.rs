//! The disk with what is tested: two packages that differ in their version, the test programs, and the suites.
//!
//! Test programs have the paths of their checkout built in: `paths` tells the guest what to put there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{folder, previous, system};
use crate::deb::{self, Build};
use crate::run::{root, run as execute, run_in, say};
use crate::test;

/// Test programs that run in guests.
const TESTS: &[&str] = &["bypass", "launch", "fire"];
/// Programs of their agents, in Python.
const CLIENTS: &[&str] = &["raw.py", "fire.py"];

/// What every guest gets.
#[derive(Debug)]
pub(super) struct Payload {
    /// The disk.
    pub(super) disk: PathBuf,
}

/// Builds all of it. `rows`: parts of the names of the attempts that the bypass suite makes; all, where there are none.
/// `previous`: the revision that the older package is of; this one, where there is none.
pub(super) fn build(release: bool, rows: &str, previous: Option<&str>) -> Result<Payload> {
    let place = folder().join("payload");
    let _old = fs::remove_dir_all(&place);
    for part in ["bin", "suites", "policies", "clients"] {
        fs::create_dir_all(place.join(part))?;
    }
    say("building the package");
    let build = if release { Build::Release } else { Build::Quick };
    let version = env!("CARGO_PKG_VERSION");
    let (older, newer) = (format!("{version}~vm1"), format!("{version}~vm2"));
    match previous {
        None => deb::build(build, Some(&older), &place.join("old.deb"))?,
        Some(revision) => previous::package(revision, build, &older, &place.join("old.deb"))?,
    }
    deb::build(build, Some(&newer), &place.join("new.deb"))?;
    say("building the test programs");
    programs(&place.join("bin"))?;
    copy(&root().join("vm-tests"), &place, "py")?;
    copy(&root().join("vm-tests/suites"), &place.join("suites"), "py")?;
    copy(&root().join("policies"), &place.join("policies"), "cedar")?;
    for name in CLIENTS {
        fs::copy(root().join("interceptor/tests/clients").join(name), place.join("clients").join(name))?;
    }
    fs::write(place.join("checkout"), root().display().to_string())?;
    fs::write(place.join("rows"), rows)?;
    let disk = folder().join("payload.img");
    system::disk(&place, &disk, 16)?;
    Ok(Payload { disk })
}

/// The test programs without what debuggers read, and what the bypass suite compiles.
fn programs(into: &Path) -> Result<()> {
    let built = test::programs(TESTS)?;
    for (name, path) in &built {
        strip(Path::new(path), &into.join(name))?;
    }
    strip(&root().join("target/debug/examples/demo"), &into.join("demo"))?;
    // The daemon of the demo and of the launch suite is the installed one.
    let (_, bypass) = built.iter().find(|(name, _)| name == "bypass").context("no bypass suite was built")?;
    execute(std::process::Command::new(bypass).args(["--exact", "stage::compiles", "--ignored"]))?;
    copy(&root().join("target/tmp/bypass"), into, "")
}

fn strip(from: &Path, to: &Path) -> Result<()> {
    run_in(std::process::Command::new("strip").arg("-o").arg(to).arg(from), &folder())
}

/// The files of a folder that end so.
fn copy(from: &Path, to: &Path, extension: &str) -> Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("reading {}", from.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let fits = path.extension().map_or("", |found| found.to_str().unwrap_or_default()) == extension
            || (extension.is_empty() && path.extension().is_some_and(|found| found == "so"));
        if let (true, Some(name)) = (fits && path.is_file(), path.file_name()) {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}
