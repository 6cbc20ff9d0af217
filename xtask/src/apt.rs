//! Debian's packages and sources, through lists of our own: neither the machine's lists nor what is installed changes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::run::{run, run_in};

/// A folder with a list of sources, what apt knows of them, and what was fetched.
pub(crate) struct Sources {
    folder: PathBuf,
}

impl Sources {
    /// Lists of the named release, and of these kinds (`deb`, `deb-src`), fetched and verified.
    pub(crate) fn of(release: &str, kinds: &[&str], folder: &Path) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(folder.join(part))?;
        }
        let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let line = |kind: &&str| format!("{kind} [signed-by={keys}] http://deb.debian.org/debian {release} main\n");
        std::fs::write(folder.join("sources.list"), kinds.iter().map(line).collect::<String>())?;
        let sources = Self { folder: folder.to_owned() };
        sources.get(&["update"])?;
        Ok(sources)
    }

    /// Fetches the source of a package, and gives its upstream archive.
    pub(crate) fn source(&self, package: &str) -> Result<PathBuf> {
        self.get(&["source", "--download-only", package])?;
        self.find(&|name| name.contains(".orig.tar.")).context("apt fetched no archive")
    }

    /// Fetches packages and unpacks them into a folder; nothing of them is run.
    pub(crate) fn unpack(&self, packages: &[&str], into: &Path) -> Result<()> {
        self.get(&[&["download"], packages].concat())?;
        for package in packages {
            let start = format!("{package}_");
            let file = self.find(&|name| name.starts_with(&start) && name.ends_with(".deb"));
            let file = file.with_context(|| format!("apt fetched no package {package}"))?;
            run(Command::new("dpkg-deb").arg("--extract").arg(file).arg(into))?;
        }
        Ok(())
    }

    fn get(&self, verb: &[&str]) -> Result<()> {
        let option = |name: &str, path: &Path| format!("{name}={}", path.display());
        let mut command = Command::new("apt-get");
        command.arg("-qq");
        for option in [
            option("Dir::Etc::SourceList", &self.folder.join("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            option("Dir::State::Lists", &self.folder.join("lists")),
            option("Dir::Cache", &self.folder.join("cache")),
            // The folder may be closed to apt's own user.
            "APT::Sandbox::User=".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        // It leaves what it fetches where it runs.
        run_in(command.args(verb), &self.folder)
    }

    fn find(&self, wanted: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
        let mut entries = std::fs::read_dir(&self.folder).ok()?.flatten();
        entries.find(|entry| entry.file_name().to_str().is_some_and(wanted)).map(|entry| entry.path())
    }
}
