//! `interceptor ca install`: the host CA in the system's store.
//!
//! Files of ours have names of their own, [`PREFIX`] and the beginning of the certificate's digest, one certificate each:
//! what is not called so is never touched.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::cli::enroll::confirmed;
use crate::cli::{Printer, REFUSED};
use crate::tls::authority::{Certificate, Store};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// Take it out of the system's store again
    #[arg(long)]
    undo: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// How our files in the system's store begin.
const PREFIX: &str = "interceptor-ca-";

/// What makes the store of Debian's Java anew.
const JAVA: &str = "/etc/ca-certificates/update.d/jks-keystore";

/// Where a distribution takes additional authorities from, and what has it look there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Anchors {
    directory: PathBuf,
    extension: &'static str,
    update: &'static [&'static str],
}

/// Debian and its kin, Fedora and its kin, SUSE, Arch: the first that is there.
const KNOWN: &[(&str, &str, &[&str])] = &[
    ("/etc/pki/ca-trust/source/anchors", "pem", &["update-ca-trust", "extract"]),
    ("/etc/pki/trust/anchors", "pem", &["update-ca-certificates"]),
    ("/etc/ca-certificates/trust-source/anchors", "crt", &["update-ca-trust"]),
    ("/usr/local/share/ca-certificates", "crt", &["update-ca-certificates"]),
];

/// One change to the store.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Add(PathBuf, String),
    Remove(PathBuf),
}

pub(super) fn run(store: &Store, arguments: &Arguments, out: &mut Printer) -> Result<ExitCode, String> {
    let anchors = anchors(Path::new("/"))
        .ok_or("this system has no store of certificate authorities that is known; have programs read bundle.pem")?;
    // What is to go is known by its name, whether the authority is still there or not.
    let wanted = if arguments.undo {
        Vec::new()
    } else {
        store.refresh_bundle().map_err(|error| error.to_string())?;
        store.certificates().map_err(|error| error.to_string())?
    };
    let changes = anchors.changes(&wanted).map_err(|error| format!("{}: {error}", anchors.directory.display()))?;
    if changes.is_empty() {
        out.line(&format!("{}: nothing to change", anchors.directory.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    for change in &changes {
        out.line(&match change {
            Change::Add(path, _) => format!("+ {}", path.display()),
            Change::Remove(path) => format!("- {}", path.display()),
        })?;
    }
    let update = anchors.update(&changes, Path::new(JAVA).exists());
    for command in &update {
        out.line(&format!("and then: {}", command.join(" ")))?;
    }
    if !arguments.yes && !confirmed(out)? {
        out.line("Nothing is changed. Answer y, or say --yes, to do it.")?;
        return Ok(ExitCode::from(REFUSED));
    }
    changes.iter().try_for_each(Change::apply)?;
    update.iter().try_for_each(|command| refresh(command))?;
    if !arguments.undo {
        // The system's own file has ours as well now.
        store.refresh_bundle().map_err(|error| error.to_string())?;
    }
    out.line("Programs that read the system's store see it when they start anew.")?;
    Ok(ExitCode::SUCCESS)
}

/// Whether the system's store has all of our certificates.
pub(super) fn is_installed(store: &Store) -> bool {
    let Some(anchors) = anchors(Path::new("/")) else { return false };
    store.certificates().is_ok_and(|wanted| anchors.changes(&wanted).is_ok_and(|changes| changes.is_empty()))
}

fn anchors(root: &Path) -> Option<Anchors> {
    KNOWN.iter().find_map(|(directory, extension, update)| {
        let directory = root.join(directory.trim_start_matches('/'));
        directory.is_dir().then_some(Anchors { directory, extension, update })
    })
}

impl Anchors {
    /// What has to change for the store to have these of ours, and no others.
    fn changes(&self, wanted: &[Certificate]) -> std::io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        let files: Vec<(PathBuf, String)> = wanted.iter().map(|one| (self.path(one), one.pem())).collect();
        for (path, text) in &files {
            if fs::read_to_string(path).ok().as_ref() != Some(text) {
                changes.push(Change::Add(path.clone(), text.clone()));
            }
        }
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
            if ours && !files.iter().any(|(wanted, _)| *wanted == path) {
                changes.push(Change::Remove(path));
            }
        }
        Ok(changes)
    }

    fn path(&self, one: &Certificate) -> PathBuf {
        let short: String = one.sha256.chars().take(16).collect();
        self.directory.join(format!("{PREFIX}{short}.{}", self.extension))
    }

    /// What has the store look at these changes. Debian's leaves links to what goes, unless it makes all of them anew, and tells
    /// Java's of what comes alone.
    fn update(&self, changes: &[Change], java: bool) -> Vec<Vec<&'static str>> {
        let goes = changes.iter().any(|change| matches!(change, Change::Remove(_)));
        if !goes || self.update != ["update-ca-certificates"] {
            return vec![self.update.to_vec()];
        }
        let java = java.then(|| vec![JAVA, "--fresh"]);
        std::iter::once(vec!["update-ca-certificates", "--fresh"]).chain(java).collect()
    }
}

fn refresh(update: &[&str]) -> Result<(), String> {
    let (program, arguments) = update.split_first().ok_or("no command refreshes the store")?;
    let done = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if !done.status.success() {
        return Err(format!("{program}: {}", String::from_utf8_lossy(&done.stderr).trim()));
    }
    Ok(())
}

impl Change {
    fn apply(&self) -> Result<(), String> {
        let done = match self {
            Self::Remove(path) => (path, fs::remove_file(path)),
            Self::Add(path, text) => (path, replace(path, text)),
        };
        done.1.map_err(|error| format!("{}: {error}", done.0.display()))
    }
}

/// Everybody reads it, whatever the umask.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let next = path.with_extension("new");
    let mut file = fs::File::create(&next)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    fs::rename(next, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::tls::authority::{Config, Name};

    #[test]
    fn only_files_of_ours_come_and_go() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("usr/local/share/ca-certificates");
        assert_eq!(anchors(root.path()), None);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("corporate.crt"), "theirs").unwrap();
        let anchors = anchors(root.path()).unwrap();

        let store = Store::new(&Config { dir: root.path().join("ca") });
        let names = [Name::parse("db.internal").unwrap()];
        store.init("h", &names, None, Timestamp::from_unix(1_800_000_000)).unwrap();
        let first = store.certificates().unwrap();
        let apply = |wanted: &[Certificate]| {
            let changes = anchors.changes(wanted).unwrap();
            let goes = changes.iter().any(|change| matches!(change, Change::Remove(_)));
            let expected = if goes {
                vec![vec!["update-ca-certificates", "--fresh"], vec![JAVA, "--fresh"]]
            } else {
                vec![vec!["update-ca-certificates"]]
            };
            assert_eq!(anchors.update(&changes, true), expected);
            assert_eq!(anchors.update(&changes, false).len(), 1);
            changes.iter().for_each(|change| change.apply().unwrap());
            changes.len()
        };
        assert_eq!((apply(&first), apply(&first)), (1, 0));
        store.begin("h", &names, None, Timestamp::from_unix(1_800_000_001)).unwrap();
        assert_eq!(apply(&store.certificates().unwrap()), 1);
        store.switch().unwrap();
        store.finish().unwrap();
        assert_eq!(apply(&store.certificates().unwrap()), 1, "the former one goes");
        assert_eq!(apply(&[]), 1);
        let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["corporate.crt"]);
    }
}
