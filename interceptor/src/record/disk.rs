//! What a spool asks of a file system: the host's, or in tests one whose power is cut.
//!
//! Owns single operations, and the little that is promised of them: what was written, renamed or removed, and not synced since,
//! may be lost by a power cut, in part and in any order.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// A file system.
pub trait Disk: fmt::Debug + Send + Clone + 'static {
    /// An open file.
    type File: fmt::Debug + Send;

    /// Opens a file to write to it.
    ///
    /// # Errors
    /// What the file system says; so everywhere here.
    fn open(&mut self, path: &Path) -> io::Result<Self::File>;

    /// Creates an empty file that its owner alone may read, or empties the one that is there.
    ///
    /// # Errors
    /// What the file system says.
    fn create(&mut self, path: &Path) -> io::Result<Self::File>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the file system says; any part of `bytes` may have been written.
    fn write(&mut self, file: &Self::File, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts a file off, or lengthens it with zeros.
    ///
    /// # Errors
    /// What the file system says.
    fn set_len(&mut self, file: &Self::File, length: u64) -> io::Result<()>;

    /// Forces what a file holds, and its length, to the disk; not that it has a name.
    ///
    /// # Errors
    /// What the file system says; what was written since the last time may be lost then, whatever a second call says.
    fn sync(&mut self, file: &Self::File) -> io::Result<()>;

    /// Forces the names in a directory to the disk.
    ///
    /// # Errors
    /// What the file system says.
    fn sync_directory(&mut self, path: &Path) -> io::Result<()>;

    /// Gives a file another name, in place of whatever had it.
    ///
    /// # Errors
    /// What the file system says.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the file system says.
    fn remove(&mut self, path: &Path) -> io::Result<()>;

    /// Bytes that can still be written there.
    ///
    /// # Errors
    /// What the file system says.
    fn free_space(&mut self, directory: &Path) -> io::Result<u64>;
}

/// The file system of this host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host;

impl Disk for Host {
    type File = File;

    fn open(&mut self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).open(path)
    }

    fn create(&mut self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
    }

    fn write(&mut self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn set_len(&mut self, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_directory(&mut self, path: &Path) -> io::Result<()> {
        sync_directory(path)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn free_space(&mut self, directory: &Path) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(directory)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }
}

/// Forces the names in a directory to the disk.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a directory that its owner alone may look into, and those above it, and forces all of that to the disk.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    let there = path.ancestors().position(|part| part.is_dir()).unwrap_or(usize::MAX);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    for made in path.ancestors().take(there.saturating_add(1)).filter(|part| !part.as_os_str().is_empty()) {
        match sync_directory(made) {
            // What is above may be another's to read.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && made != path => {}
            synced => synced?,
        }
    }
    Ok(())
}
