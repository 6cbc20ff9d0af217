//! Values that must never be seen: wiped on drop, absent from `Debug`, and without any serialisation.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit as _, Mac as _};
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

    /// What stands for bytes, to whoever has the key that this is: HMAC with SHA-256 (RFC 2104).
    #[must_use]
    pub fn digest(&self, bytes: &[u8]) -> Option<[u8; 32]> {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(bytes);
        Some(mac.finalize().into_bytes().into())
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
    /// A key of another length than is made here.
    #[error("it holds {0} bytes, and no key that was made here: remove it, and another is made")]
    NoKey(usize),
    /// The operating system gives no randomness.
    #[error("the operating system gives no randomness")]
    Randomness,
}

/// Reads a secret from a file of at most `limit` bytes (and never more than [`MAX_FILE`]). Blocks.
///
/// The checks are made on the opened file, so that it cannot be exchanged between check and read: a regular file, owned
/// by root or by the daemon's user, with no permission for others.
///
/// # Errors
/// [`Unreadable`]; nothing of the content is in it.
pub fn read_file(path: &Path, limit: u64) -> Result<Secret, Unreadable> {
    read_opened(path, limit, (0, 0o007))
}

/// The same with flags to open it with, and what others may not do with it.
fn read_opened(path: &Path, limit: u64, (flags, forbidden): (i32, u32)) -> Result<Secret, Unreadable> {
    // Opening must not hang on a FIFO.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | flags).open(path)?;
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Err(Unreadable::NotAFile);
    }
    if facts.mode() & forbidden != 0 {
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

/// What a key has that is made here, in bytes.
const KEY_LENGTH: usize = 32;

/// Reads a key of ours, which nobody but its owner can read and no link leads to, or makes one there. Blocks.
///
/// # Errors
/// [`Unreadable`]: what is there is never written over.
pub fn key(path: &Path) -> Result<Secret, Unreadable> {
    let read = || {
        let key = read_opened(path, KEY_LENGTH as u64, (libc::O_NOFOLLOW, 0o077))?;
        if key.0.len() == KEY_LENGTH { Ok(key) } else { Err(Unreadable::NoKey(key.0.len())) }
    };
    match read() {
        Err(Unreadable::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
        known => return known,
    }
    let mut bytes = Zeroizing::new([0u8; KEY_LENGTH]);
    getrandom::fill(bytes.as_mut()).map_err(|_| Unreadable::Randomness)?;
    match write_new(path, bytes.as_ref(), 0o600) {
        // Somebody was faster: there is one key.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error.into()),
        _ => read(),
    }
}

/// Writes a file that does not exist yet; it appears whole or not at all, and stays. Blocks.
///
/// # Errors
/// It exists, or cannot be written.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    // What a crash has left behind; a link there is not followed.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let attempt = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::hard_link(&temporary, path)
    };
    let result = attempt();
    let _absent_where_creating_failed = fs::remove_file(&temporary);
    result?;
    match path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
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
    fn a_key_is_made_once_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("body.key");
        // What a crash has left behind.
        fs::write(dir.path().join(format!("body.key.{}.tmp", std::process::id())), "half").unwrap();
        let first = key(&path).unwrap();
        assert!(first.expose().len() == 32 && key(&path).unwrap().matches(first.expose()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let digest = first.digest(b"a body").unwrap();
        assert!(key(&path).unwrap().digest(b"a body") == Some(digest) && first.digest(b"another") != Some(digest));
        assert_ne!(key(&dir.path().join("other.key")).unwrap().digest(b"a body"), Some(digest));
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(key(&path), Err(Unreadable::Exposed(_))), "{mode:o}");
        }
    }

    #[test]
    fn what_is_no_key_of_ours_is_neither_used_nor_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (dir.path().join("body.key"), dir.path().join("elsewhere"));
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        // A link that leads nowhere yet is none to be followed either.
        assert!(key(&path).is_err() && !elsewhere.exists());
        fs::write(&elsewhere, [7; 32]).unwrap();
        fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(key(&path), Err(Unreadable::Io(_))));
        for wrong in ["", "short", "a key that has more bytes than one that is made"] {
            fs::write(&elsewhere, wrong).unwrap();
            assert!(matches!(key(&elsewhere), Err(Unreadable::NoKey(_) | Unreadable::TooLarge(_))), "{wrong}");
            assert_eq!(fs::read_to_string(&elsewhere).unwrap(), wrong);
        }
        if nix::unistd::geteuid().is_root() {
            fs::write(&elsewhere, [7; 32]).unwrap();
            std::os::unix::fs::chown(&elsewhere, Some(12_345), None).unwrap();
            assert!(matches!(key(&elsewhere), Err(Unreadable::Foreign(12_345))));
        }
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
