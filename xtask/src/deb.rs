//! `cargo xtask deb`: the Debian package, by cargo-deb, with what the program says of itself: manual pages and completions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::install::{self, For};
use crate::run::{cargo, root, run as execute, say};

/// Which one is installed, where none is.
const CARGO_DEB: &str = "3.8.0";

/// Shells, the name of a completion's file, and where Debian's packages put it, beside the binary's manual.
const SHELLS: &[(&str, &str)] = &[("bash", "interceptor.bash"), ("zsh", "_interceptor"), ("fish", "interceptor.fish")];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where the package is written
    #[arg(long, value_name = "FILE", default_value = "target/interceptor.deb")]
    output: PathBuf,
    /// Version, where it is not to be the crate's
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Package a build that is quick to make and slow to run, for tests
    #[arg(long)]
    quick: bool,
}

/// What is packaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// What users get.
    Release,
    /// What is quick to build.
    Quick,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    install::ensure(For::Package)?;
    let build_as = if arguments.quick { Build::Quick } else { Build::Release };
    let output = root().join(&arguments.output);
    build(build_as, arguments.version.as_deref(), &output)?;
    say(&format!("{} is ready: apt-get install {}", output.display(), output.display()));
    Ok(())
}

/// Builds the program, has it describe itself, and packages both.
pub(crate) fn build(build: Build, version: Option<&str>, output: &Path) -> Result<()> {
    let tool = tool()?;
    let profile = match build {
        Build::Release => "release",
        Build::Quick => "dev",
    };
    execute(cargo().args(["build", "--package", "interceptor", "--bin", "interceptor", "--profile", profile]))?;
    let folder = root().join("target").join(if build == Build::Quick { "debug" } else { "release" });
    describe(&folder.join("interceptor"))?;
    let mut deb = Command::new(tool);
    // As `cargo deb` would call it.
    deb.arg("deb").args(["--package", "interceptor", "--no-build", "--profile", profile, "--output"]).arg(output);
    deb.arg("--quiet");
    if build == Build::Quick {
        // Packed quickly, rather than small.
        deb.arg("--fast");
    }
    if let Some(version) = version {
        deb.args(["--deb-version", version]);
    }
    execute(&mut deb)
}

/// Manual pages and completions, where the package's list of files takes them from.
fn describe(program: &Path) -> Result<()> {
    let folder = root().join("target/package");
    let _old = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("man"))?;
    execute(Command::new(program).args(["man", "--to"]).arg(folder.join("man")))?;
    for (shell, name) in SHELLS {
        let script = Command::new(program).args(["completions", shell]).stderr(Stdio::inherit()).output()?;
        anyhow::ensure!(script.status.success(), "no completions for {shell}");
        fs::write(folder.join(name), script.stdout)?;
    }
    Ok(())
}

/// cargo-deb: the one on PATH, or installed below `target/tools`.
fn tool() -> Result<PathBuf> {
    let works = |program: &Path| {
        let version = Command::new(program).args(["deb", "--version"]).stderr(Stdio::null()).output();
        version
            .is_ok_and(|output| output.status.success() && String::from_utf8_lossy(&output.stdout).contains(CARGO_DEB))
    };
    let own = root().join("target/tools/bin/cargo-deb");
    if let Some(found) = [PathBuf::from("cargo-deb"), own.clone()].into_iter().find(|program| works(program)) {
        return Ok(found);
    }
    say(&format!("installing cargo-deb {CARGO_DEB} into target/tools"));
    let mut install = cargo();
    install.args(["install", "cargo-deb", "--version", CARGO_DEB, "--locked", "--root"]);
    install.arg(root().join("target/tools")).arg("--target-dir").arg(root().join("target/tools/build"));
    execute(&mut install).context("cargo-deb could not be installed")?;
    Ok(own)
}
