//! Reading what a host says of itself in files, below a root that tests put elsewhere.

use std::fs;
use std::io;
use std::path::PathBuf;

/// Bytes of a file that are read, at most: lists of module aliases have about a million.
const MAX: usize = 8 << 20;

/// A host, by its files.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// Where its files begin.
    pub(super) root: PathBuf,
}

impl Host {
    /// The text of a file, without white space around it.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub(super) fn text(&self, path: &str) -> Result<String, String> {
        self.read(path).map_err(|error| format!("{path}: {error}"))
    }

    /// As [`Host::text`]; nothing where there is no such file.
    pub(super) fn maybe(&self, path: &str) -> Result<Option<String>, String> {
        match self.read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some).map_err(|error| format!("{path}: {error}")),
        }
    }

    fn read(&self, path: &str) -> io::Result<String> {
        let bytes = fs::read(self.root.join(path.trim_start_matches('/')))?;
        let bytes = bytes.get(..bytes.len().min(MAX)).unwrap_or_default();
        Ok(String::from_utf8_lossy(bytes).trim().to_owned())
    }

    /// The texts of the files in a folder that end so.
    pub(super) fn texts(&self, folder: &str, ending: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(folder.trim_start_matches('/'))).into_iter().flatten().flatten();
        let named = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(ending));
        named.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect()
    }

    /// What `uname -r` says.
    pub(super) fn release(&self) -> Result<String, String> {
        self.text("/proc/sys/kernel/osrelease")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A host with these files.
    pub(in super::super) fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host { root: root.path().to_owned() };
        (root, host)
    }

    #[test]
    fn what_is_not_there_is_told_from_what_cannot_be_read() {
        let (_root, host) = host(&[("/a/b.conf", " x \n"), ("/a/c.txt", "y")]);
        assert_eq!(host.text("/a/b.conf"), Ok("x".to_owned()));
        assert_eq!(host.maybe("/a/none"), Ok(None));
        assert!(host.maybe("/a").is_err());
        assert!(host.text("/a/none").unwrap_err().starts_with("/a/none: "));
        assert_eq!(host.texts("/a", ".conf"), [" x \n"]);
    }
}
