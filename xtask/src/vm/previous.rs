//! The package of an earlier revision, built from its own sources: what is upgraded from may know less, and pins other maps.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::folder;
use crate::deb::Build;
use crate::run::{cargo, output, root, run_in, say};

/// Builds it in a folder of its own, and keeps it: the next time it is only copied.
pub(super) fn package(revision: &str, build: Build, version: &str, into: &Path) -> Result<()> {
    let commit =
        output(Command::new("git").args(["rev-parse", "--verify", "--quiet"]).arg(format!("{revision}^{{commit}}")))
            .with_context(|| format!("no revision is called {revision}"))?;
    let commit = commit.trim();
    let quick = build == Build::Quick;
    let kept = folder().join(format!("previous-{commit}-{version}{}.deb", if quick { "-quick" } else { "" }));
    if !kept.exists() {
        say(&format!("building the package of {commit}"));
        let checkout = check_out(commit)?;
        let mut deb = cargo();
        // Its own, whatever this one was started with.
        deb.env_remove("CARGO_TARGET_DIR");
        let unfinished = kept.with_extension("unfinished");
        deb.args(["xtask", "deb", "--version", version, "--output"]).arg(&unfinished);
        if quick {
            deb.arg("--quick");
        }
        run_in(&mut deb, &checkout)?;
        fs::rename(&unfinished, &kept)?;
    }
    fs::copy(&kept, into).with_context(|| format!("{} cannot be copied", kept.display()))?;
    Ok(())
}

/// The files of a commit. The folder is that of all of them, so that what others were built with is built once.
fn check_out(commit: &str) -> Result<PathBuf> {
    let checkout = folder().join("previous");
    fs::create_dir_all(&checkout)?;
    for entry in fs::read_dir(&checkout)?.flatten().filter(|entry| entry.file_name() != "target") {
        let path = entry.path();
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }?;
    }
    let mut archive = Command::new("git");
    let mut archive = archive.args(["archive", commit]).current_dir(root()).stdout(Stdio::piped()).spawn()?;
    let files = archive.stdout.take().context("git says nothing")?;
    let unpacked = Command::new("tar").arg("-x").current_dir(&checkout).stdin(files).status()?;
    ensure!(archive.wait()?.success() && unpacked.success(), "the files of {commit} cannot be had");
    Ok(checkout)
}
