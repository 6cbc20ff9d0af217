//! Where a spool's bytes go: files, or in tests something that fails on demand.
//!
//! Owns file names and file operations. A [`Sink`] promises nothing about what it holds after an error: the spool
//! truncates back to the last whole frame before it writes again.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The writing side of a spool's storage. One segment is open at a time.
pub trait Sink: fmt::Debug + Send {
    /// Opens an existing segment, to go on after its first `length` bytes; what follows them is removed.
    ///
    /// # Errors
    /// What the storage says; nothing is open then.
    fn open(&mut self, segment: u64, length: u64) -> io::Result<()>;

    /// Creates the next segment with these first bytes, in place of one that an earlier attempt left unfinished.
    ///
    /// # Errors
    /// What the storage says; the segment that was open stays open then.
    fn create(&mut self, segment: u64, header: &[u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, the end of the open segment.
    ///
    /// # Errors
    /// What the storage says; any part of `bytes` may have been written.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Removes what follows the first `length` bytes of the open segment.
    ///
    /// # Errors
    /// What the storage says.
    fn truncate(&mut self, length: u64) -> io::Result<()>;

    /// Forces the open segment to the disk.
    ///
    /// # Errors
    /// What the storage says.
    fn sync(&mut self) -> io::Result<()>;

    /// Bytes that can still be written to the file system.
    ///
    /// # Errors
    /// What the storage says.
    fn free_space(&mut self) -> io::Result<u64>;

    /// Replaces the newest checkpoint, that lies beside the segments.
    ///
    /// # Errors
    /// What the storage says.
    fn publish(&mut self, checkpoint: &[u8]) -> io::Result<()>;
}

/// Segments in a directory.
#[derive(Debug)]
pub struct Files {
    directory: PathBuf,
    open: Option<File>,
}

impl Files {
    /// Segments in that directory.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory, open: None }
    }

    fn current(&self) -> io::Result<&File> {
        self.open.as_ref().ok_or_else(|| io::Error::other("no segment is open"))
    }
}

impl Sink for Files {
    fn open(&mut self, segment: u64, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(segment_path(&self.directory, segment))?;
        file.set_len(length)?;
        self.open = Some(file);
        Ok(())
    }

    fn create(&mut self, segment: u64, header: &[u8]) -> io::Result<()> {
        let path = segment_path(&self.directory, segment);
        // Not `create_new`: an attempt that failed half-way is repeated over its own remains.
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let written = file.write_all_at(header, 0).and_then(|()| file.sync_all());
        if let Err(error) = written {
            let _keeps_the_first_error = fs::remove_file(&path);
            return Err(error);
        }
        File::open(&self.directory)?.sync_all()?;
        self.open = Some(file);
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.current()?.write_all_at(bytes, offset)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.current()?.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.current()?.sync_data()
    }

    fn free_space(&mut self) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(&self.directory)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }

    fn publish(&mut self, checkpoint: &[u8]) -> io::Result<()> {
        let temporary = self.directory.join("checkpoint.tmp");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(checkpoint)?;
        fs::rename(&temporary, self.directory.join(CHECKPOINT))
    }
}

/// File of a segment.
#[must_use]
pub fn segment_path(directory: &Path, segment: u64) -> PathBuf {
    directory.join(format!("{segment:010}.spool"))
}

/// Numbers of the segments in a directory, ascending.
///
/// # Errors
/// When the directory cannot be read.
pub fn segments(directory: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".spool")).filter(|stem| stem.len() >= 10);
        if let Some(number) = number.and_then(|stem| stem.parse().ok()) {
            found.push(number);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Name of the file with the newest checkpoint.
pub(super) const CHECKPOINT: &str = "checkpoint";
