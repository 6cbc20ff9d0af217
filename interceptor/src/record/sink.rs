//! Where a spool's bytes go: files, or in tests something that fails on demand.
//!
//! Owns file names, and in which order what is done of files is forced to the disk; [`Disk`] does it. A [`Sink`] promises nothing about what it holds after an error: the spool
//! truncates back to the last whole frame before it writes again.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, Host};

/// The writing side of a spool's storage. One segment is open at a time.
pub trait Sink: fmt::Debug + Send {
    /// Opens an existing segment, to go on after its first `length` bytes; what follows them is removed.
    ///
    /// # Errors
    /// What the storage says; nothing is open then.
    fn open(&mut self, segment: u64, length: u64) -> io::Result<()>;

    /// Creates the next segment with these first bytes, in place of one that an earlier attempt left unfinished. It and its name
    /// are on the disk then.
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

    /// Who removes segments that are closed, beside whoever writes.
    fn remover(&self) -> Box<dyn Remover>;

    /// Replaces the newest checkpoint, that lies beside the segments. Where `sync`, what takes its place is on the disk before.
    ///
    /// # Errors
    /// What the storage says.
    fn publish(&mut self, checkpoint: &[u8], sync: bool) -> io::Result<()>;
}

/// Removes closed segments.
pub trait Remover: Send {
    /// Removes one. One that is not there is no error.
    ///
    /// # Errors
    /// What the storage says; it is still there then.
    fn remove(&mut self, segment: u64) -> io::Result<()>;

    /// Tells the disk. What it does not know yet may be there again after a power cut, and is removed again.
    ///
    /// # Errors
    /// What the storage says.
    fn settle(&mut self) -> io::Result<()>;
}

/// Segments in a directory.
///
/// A file that is begun under its name is whole: it is written beside, forced to the disk, and renamed. So a power cut leaves no
/// segment without its header.
#[derive(Debug)]
pub struct Files<D: Disk = Host> {
    directory: PathBuf,
    disk: D,
    open: Option<D::File>,
}

impl Files {
    /// Segments in that directory.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self::on(Host, directory)
    }
}

impl<D: Disk> Files<D> {
    /// Segments in a directory of that disk.
    #[must_use]
    pub const fn on(disk: D, directory: PathBuf) -> Self {
        Self { directory, disk, open: None }
    }

    /// Writes a file whole, under its name only once it is on the disk.
    fn place(&mut self, path: &Path, bytes: &[u8], sync: bool) -> io::Result<D::File> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".tmp");
        let beside = PathBuf::from(beside);
        let file = self.disk.create(&beside)?;
        let mut written = self.disk.write(&file, 0, bytes);
        if sync {
            written = written.and_then(|()| self.disk.sync(&file));
        }
        if let Err(error) = written.and_then(|()| self.disk.rename(&beside, path)) {
            let _keeps_the_first_error = self.disk.remove(&beside);
            return Err(error);
        }
        Ok(file)
    }
}

impl<D: Disk> Sink for Files<D> {
    fn open(&mut self, segment: u64, length: u64) -> io::Result<()> {
        let file = self.disk.open(&segment_path(&self.directory, segment))?;
        self.disk.set_len(&file, length)?;
        self.open = Some(file);
        Ok(())
    }

    fn create(&mut self, segment: u64, header: &[u8]) -> io::Result<()> {
        let path = segment_path(&self.directory, segment);
        let file = self.place(&path, header, true)?;
        if let Err(error) = self.disk.sync_directory(&self.directory) {
            // Else it would be the newest at the next start, and what is written before it is lost.
            let _keeps_the_first_error = self.disk.remove(&path);
            return Err(error);
        }
        self.open = Some(file);
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.open.as_ref().ok_or_else(closed)?;
        self.disk.write(file, offset, bytes)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let file = self.open.as_ref().ok_or_else(closed)?;
        self.disk.set_len(file, length)
    }

    fn sync(&mut self) -> io::Result<()> {
        let file = self.open.as_ref().ok_or_else(closed)?;
        self.disk.sync(file)
    }

    fn remover(&self) -> Box<dyn Remover> {
        Box::new(Closed { directory: self.directory.clone(), disk: self.disk.clone() })
    }

    fn free_space(&mut self) -> io::Result<u64> {
        self.disk.free_space(&self.directory)
    }

    fn publish(&mut self, checkpoint: &[u8], sync: bool) -> io::Result<()> {
        let path = self.directory.join(CHECKPOINT);
        self.place(&path, checkpoint, sync).map(|_file| ())
    }
}

/// Removes segments from a directory.
#[derive(Debug)]
struct Closed<D> {
    directory: PathBuf,
    disk: D,
}

impl<D: Disk> Remover for Closed<D> {
    fn remove(&mut self, segment: u64) -> io::Result<()> {
        match self.disk.remove(&segment_path(&self.directory, segment)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn settle(&mut self) -> io::Result<()> {
        self.disk.sync_directory(&self.directory)
    }
}

fn closed() -> io::Error {
    io::Error::other("no segment is open")
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
        let number = name.to_str().and_then(|name| name.strip_suffix(".spool")).filter(|stem| is_number(stem));
        if let Some(number) = number.and_then(|stem| stem.parse().ok()) {
            found.push(number);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether that is how [`segment_path`] writes one: no two names are of one segment.
fn is_number(stem: &str) -> bool {
    let digits = stem.len() >= 10 && stem.bytes().all(|byte| byte.is_ascii_digit());
    digits && (stem.len() == 10 || !stem.starts_with('0'))
}

/// Name of the file with the newest checkpoint.
pub(super) const CHECKPOINT: &str = "checkpoint";

#[cfg(test)]
mod tests {
    use super::*;

    /// The host's file system, whose directories cannot be synced.
    #[derive(Clone, Debug)]
    struct Unsynced;

    impl Disk for Unsynced {
        type File = fs::File;

        fn open(&mut self, path: &Path) -> io::Result<fs::File> {
            Host.open(path)
        }

        fn create(&mut self, path: &Path) -> io::Result<fs::File> {
            Host.create(path)
        }

        fn write(&mut self, file: &fs::File, offset: u64, bytes: &[u8]) -> io::Result<()> {
            Host.write(file, offset, bytes)
        }

        fn set_len(&mut self, file: &fs::File, length: u64) -> io::Result<()> {
            Host.set_len(file, length)
        }

        fn sync(&mut self, file: &fs::File) -> io::Result<()> {
            Host.sync(file)
        }

        fn sync_directory(&mut self, _: &Path) -> io::Result<()> {
            Err(io::Error::other("not synced"))
        }

        fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
            Host.rename(from, to)
        }

        fn remove(&mut self, path: &Path) -> io::Result<()> {
            Host.remove(path)
        }

        fn free_space(&mut self, directory: &Path) -> io::Result<u64> {
            Host.free_space(directory)
        }
    }

    #[test]
    fn a_segment_that_could_not_be_begun_for_good_is_not_there() {
        let place = tempfile::tempdir().unwrap();
        let mut files = Files::on(Unsynced, place.path().to_owned());
        assert!(files.create(1, b"header").is_err());
        assert!(segments(place.path()).unwrap().is_empty());
    }

    #[test]
    fn no_segment_has_two_names() {
        let place = tempfile::tempdir().unwrap();
        for name in ["0000000007.spool", "00000000007.spool", "12345678901.spool", "+000000007.spool", "7.spool"] {
            fs::write(place.path().join(name), []).unwrap();
        }
        assert_eq!(segments(place.path()).unwrap(), [7, 12_345_678_901]);
    }
}
