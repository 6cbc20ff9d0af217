//! Values that must never be seen: wiped on drop, absent from `Debug`, and without any serialisation.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

/// A password, token or key. Compare in constant time with [`Secret::matches`].
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over; they are wiped when the secret is dropped.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves: hand them to a handshake, never to a log or a record.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The secret as text, where it is UTF-8.
    #[must_use]
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Whether both are equal, in a time that does not depend on where they differ.
    #[must_use]
    pub fn matches(&self, other: &[u8]) -> bool {
        self.0.len() == other.len() && self.0.iter().zip(other).fold(0u8, |acc, (a, b)| acc | (a ^ b)) == 0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes().to_vec())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The most that a file with a secret may hold, in bytes.
pub const MAX_FILE: u64 = 1 << 20;

/// Why a file with a secret was not read. The path is the caller's to add.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The operating system said no.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Not a regular file.
    #[error("it is not a regular file")]
    NotAFile,
    /// Others than its owner and group can read or write it.
    #[error("mode {0:04o} opens it to everybody: chmod o= it")]
    Exposed(u32),
    /// Somebody else could have written it.
    #[error("it belongs to uid {0}: it has to belong to root or to the daemon's own user")]
    Foreign(u32),
    /// Larger than allowed.
    #[error("it holds more than {0} bytes")]
    TooLarge(u64),
}

/// Reads a secret from a file of at most `limit` bytes (and never more than [`MAX_FILE`]). Blocks.
///
/// The checks are made on the opened file, so that it cannot be exchanged between check and read: a regular file, owned
/// by root or by the daemon's user, with no permission for others.
///
/// # Errors
/// [`Unreadable`]; nothing of the content is in it.
pub fn read_file(path: &Path, limit: u64) -> Result<Secret, Unreadable> {
    // Opening must not hang on a FIFO.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Err(Unreadable::NotAFile);
    }
    if facts.mode() & 0o007 != 0 {
        return Err(Unreadable::Exposed(facts.mode() & 0o7777));
    }
    let owner = facts.uid();
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        return Err(Unreadable::Foreign(owner));
    }
    let limit = limit.min(MAX_FILE);
    if facts.len() > limit {
        return Err(Unreadable::TooLarge(limit));
    }
    // The whole capacity at once: growing would leave an unwiped copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(limit).unwrap_or(0).saturating_add(1)));
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Unreadable::TooLarge(limit));
    }
    Ok(Secret(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_read_when_only_its_owner_can() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "s3cret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(read_file(&path, 64).unwrap().expose(), b"s3cret");
        assert!(matches!(read_file(&path, 5), Err(Unreadable::TooLarge(5))));
        for mode in [0o644, 0o602, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read_file(&path, 64), Err(Unreadable::Exposed(_))), "{mode:o}");
        }
    }

    #[test]
    fn what_is_not_a_plain_file_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(read_file(&fifo, 64), Err(Unreadable::NotAFile)));
        assert!(matches!(read_file(dir.path(), 64), Err(Unreadable::NotAFile)));
        assert!(matches!(read_file(&dir.path().join("none"), 64), Err(Unreadable::Io(_))));
    }

    #[test]
    fn a_file_that_another_user_owns_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "planted").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        assert!(matches!(read_file(&path, 64), Err(Unreadable::Foreign(12_345))));
    }

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret::from("hunter2")), "Secret(..)");
    }

    #[test]
    fn matching_looks_at_every_byte() {
        assert!(Secret::from("abc").matches(b"abc"));
        assert!(!Secret::from("abc").matches(b"abd"));
        assert!(!Secret::from("abc").matches(b"ab"));
    }
}
