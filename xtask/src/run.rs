//! Running other programs, visibly.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// For long runs of tests: a good part of their time goes into loading catalogs, which is slow unoptimised.
pub(crate) const OPTIMISED: &str = "profile.dev.package.interceptor.opt-level=1";

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Where client programs are installed. Agents run as another user, who must be able to reach it: below the checkout
/// where that is open to all, else in a folder of this user's below /var/tmp.
pub(crate) fn clients() -> PathBuf {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let own = root();
    let open = |folder: &Path| folder.metadata().is_ok_and(|found| found.permissions().mode() & 0o001 != 0);
    if own.ancestors().all(open) {
        return own.join("target/clients");
    }
    let uid = std::fs::metadata("/proc/self").map_or(0, |found| found.uid());
    PathBuf::from(format!("/var/tmp/interceptor-clients-{uid}"))
}

/// Prints a heading.
#[expect(clippy::print_stderr, reason = "progress is for the person at the terminal")]
pub(crate) fn say(text: &str) {
    eprintln!("\n\x1b[1m==> {text}\x1b[0m");
}

/// Runs a command in the checkout, with its output shown.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    run_in(command, &root())
}

/// Runs a command in a folder, with its output shown.
pub(crate) fn run_in(command: &mut Command, folder: &Path) -> Result<()> {
    let shown = show(command);
    let status =
        command.current_dir(folder).stdin(Stdio::null()).status().with_context(|| format!("cannot run {shown}"))?;
    if !status.success() {
        bail!("{shown} failed ({status})");
    }
    Ok(())
}

/// Runs a command that may ask the person at the terminal.
pub(crate) fn talk(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command.current_dir(root()).status().with_context(|| format!("cannot run {shown}"))?;
    if !status.success() {
        bail!("{shown} failed ({status})");
    }
    Ok(())
}

/// Runs a command and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command.current_dir(root()).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        bail!("{shown} failed ({})", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `cargo`, the one that runs this task.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A command that runs with root's rights: as it is where we are root, through sudo elsewhere.
pub(crate) fn as_root(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--preserve-env=PATH,RUST_LOG,RUST_BACKTRACE,CI,INTERCEPTOR_CLIENTS,INTERCEPTOR_POSTGRES").arg(program);
    command
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("Uid:")).unwrap_or_default();
    line.split_whitespace().nth(2) == Some("0")
}

fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    words.join(" ")
}
