//! Facts of a process, from the kernel's record of its connection.
//!
//! The process is pinned first: an open `/proc/PID` directory refers to that process, not to the number, so that every
//! read through it fails with `ESRCH` once the process is gone, whoever has the number by then. Its start time must be
//! the one that the kernel recorded at `connect(2)`, which closes the time before the directory was opened.
//!
//! cgroup, uid and gid come from the kernel's record, never from `/proc`. Not promised:
//! - between `connect(2)` and the hash the process may `execve` another program, or hand the socket to one: the hash
//!   says what the process runs now, not what made the socket. A change *during* the reading is seen and refused.
//! - the path of the executable is what the agent's mount namespace makes it; only its hash binds content.
//! - the ancestry is what it is now: orphans belong to their reaper.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use lru::LruCache;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::ProcessFacts;
use super::container::Container;
use super::level::{Guarantee, Inside, Level, Measured, Registry, Start};
use crate::capture::{Origin, cgroup};
use crate::clock::Clock;

/// Nanoseconds in a tick of field 22 of `/proc/PID/stat` (`USER_HZ` is 100 wherever the kernel programs run).
const TICK_NANOS: u64 = 10_000_000;
/// Largest file of `/proc/PID` that is read whole, but for the environment.
const PROC_FILE_MAX: usize = 16 * 1024;
/// What the files of `/proc/PID` hold at most, as a rule.
const PROC_FILE_USUAL: usize = 1024;
/// Parents whose executables are recorded.
pub const ANCESTRY_MAX: usize = 8;
/// Largest executable that is hashed: 512 MiB.
pub const EXE_MAX: u64 = 512 * 1024 * 1024;
/// Longest that hashing may take.
pub const HASH_TIME_MAX: Duration = Duration::from_secs(5);
/// Hashes that are remembered.
const CACHE_ENTRIES: NonZeroUsize = match NonZeroUsize::new(1024) {
    Some(entries) => entries,
    None => NonZeroUsize::MIN,
};
/// A file that changed this recently is not remembered: a second change could leave the same time stamps.
const SETTLED: Duration = Duration::from_secs(2);

/// Why there are no facts of a process.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// The socket was made in one cgroup and connected from another.
    #[error("its socket was made in cgroup {created} and used from cgroup {current}")]
    MovedCgroup {
        /// Where the socket was made: a path, or the id where that has none.
        created: String,
        /// Where the process was when it connected.
        current: String,
    },
    /// The kernel's record has no start time, so that a reused process id could not be told.
    #[error("the kernel's record of process {0} has no start time")]
    NoStartTime(u32),
    /// The process ended.
    #[error("process {0} has ended")]
    Gone(u32),
    /// The process id belongs to another process now.
    #[error("process id {pid} was reused: the caller started at tick {recorded}, this process at tick {found}")]
    Reused {
        /// The id.
        pid: u32,
        /// Start of the caller, in ticks since boot.
        recorded: u64,
        /// Start of the present owner of the id.
        found: u64,
    },
    /// The cgroup id names no cgroup.
    #[error("cgroup {id} has no path: {error}")]
    Cgroup {
        /// The id.
        id: u64,
        /// Why.
        error: io::Error,
    },
    /// The executable changed while it was read.
    #[error("process {0} replaced its executable while it was read")]
    ExeChanged(u32),
    /// `/proc` could not be read.
    #[error("/proc/{pid}/{file}: {error}")]
    Proc {
        /// The process.
        pid: u32,
        /// The file below `/proc/PID`.
        file: &'static str,
        /// Why.
        error: io::Error,
    },
}

/// A pinned process: reads through it never reach another process.
#[derive(Debug)]
pub struct Process {
    dir: OwnedFd,
    pid: u32,
    /// As it was pinned.
    pinned: Stat,
}

impl Process {
    /// Pins whatever process has this id now.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(pid: u32) -> Result<Self, FactsError> {
        let path = format!("/proc/{pid}");
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = openat(AT_FDCWD, path.as_str(), flags, Mode::empty()).map_err(|error| proc_error(pid, "", error))?;
        let pinned = stat_of(dir.as_fd(), pid)?;
        Ok(Self { dir, pid, pinned })
    }

    /// Pins the process that made this connection.
    ///
    /// # Errors
    /// When it is gone, or its id belongs to another process by now.
    pub fn of(origin: &Origin) -> Result<Self, FactsError> {
        if origin.start_boottime == 0 {
            return Err(FactsError::NoStartTime(origin.pid));
        }
        let process = Self::open(origin.pid)?;
        let recorded = origin.start_boottime / TICK_NANOS;
        if process.pinned.start != recorded {
            return Err(FactsError::Reused { pid: origin.pid, recorded, found: process.pinned.start });
        }
        Ok(process)
    }

    /// The process id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// When it started, in ticks (10 ms) since boot.
    #[must_use]
    pub const fn start_ticks(&self) -> u64 {
        self.pinned.start
    }

    /// The open `/proc/PID`.
    #[must_use]
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Fails when the process has ended.
    ///
    /// # Errors
    /// [`FactsError::Gone`], or what reading `/proc` gave.
    pub fn alive(&self) -> Result<(), FactsError> {
        let now = stat_of(self.dir(), self.pid)?;
        if now.start != self.pinned.start {
            return Err(FactsError::Reused { pid: self.pid, recorded: self.pinned.start, found: now.start });
        }
        if matches!(now.state, 'Z' | 'X' | 'x') { Err(FactsError::Gone(self.pid)) } else { Ok(()) }
    }

    /// At most `limit` bytes of a file below `/proc/PID`; longer content is an error.
    ///
    /// # Errors
    /// When it cannot be read, or is longer.
    pub fn read(&self, file: &'static str, limit: usize) -> Result<Vec<u8>, FactsError> {
        read_of(self.dir(), self.pid, file, limit)
    }

    /// User and group id (effective) as `/proc/PID/status` has them: for explaining, where no connection was recorded.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn effective_ids(&self) -> Result<(u32, u32), FactsError> {
        let status = String::from_utf8_lossy(&self.read("status", PROC_FILE_MAX)?).into_owned();
        let id = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        id("Uid:").zip(id("Gid:")).ok_or_else(|| self.malformed("status"))
    }

    /// The cgroup path as `/proc/PID/cgroup` has it now: for explaining, where no connection was recorded.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn current_cgroup(&self) -> Result<String, FactsError> {
        let content = String::from_utf8_lossy(&self.read("cgroup", PROC_FILE_MAX)?).into_owned();
        let path = content.lines().find_map(|line| line.strip_prefix("0::"));
        path.map(str::to_owned).ok_or_else(|| self.malformed("cgroup"))
    }

    /// How well it is held, given how it was started. What the kernel does not tell counts as privileged.
    fn guarantee(&self, start: &Start) -> Guarantee {
        let unknown = |why: String| Guarantee { level: Level::Privileged, lacks: vec![why] };
        let status = match self.read("status", PROC_FILE_MAX) {
            Ok(status) => String::from_utf8_lossy(&status).into_owned(),
            Err(error) => return unknown(format!("it cannot be measured: {error}")),
        };
        // Where it is not known, its capabilities count.
        let contained = self.is_elsewhere("user").unwrap_or(false);
        let networked = self.is_elsewhere("net").unwrap_or(true);
        let measured = Measured::read(&status, Inside { contained, networked });
        measured.map_or_else(|| unknown("/proc/PID/status has another form".to_owned()), |found| found.guarantee(start))
    }

    /// Whether it is in another namespace of this kind than the daemon.
    fn is_elsewhere(&self, kind: &str) -> io::Result<bool> {
        let path = format!("ns/{kind}");
        let theirs = readlinkat(&self.dir, path.as_str())?;
        Ok(fs::read_link(Path::new("/proc/self").join(&path))?.as_os_str() != theirs)
    }

    fn malformed(&self, file: &'static str) -> FactsError {
        malformed(self.pid, file)
    }

    /// Path of the executable, where it has one that is UTF-8. Of a removed file it ends in ` (deleted)`.
    fn exe_path(&self) -> Option<String> {
        readlinkat(&self.dir, "exe").ok().map(OsString::into_string).and_then(Result::ok)
    }

    fn exe_stat(&self) -> nix::Result<FileStat> {
        fstatat(&self.dir, "exe", AtFlags::empty())
    }

    /// Executables of the parents, nearest first. A parent that started after its child is a reused id: the end.
    fn ancestry(&self) -> Vec<String> {
        let mut executables = Vec::new();
        let mut child = self.pinned;
        while executables.len() < ANCESTRY_MAX && child.parent != 0 {
            let Ok(parent) = Self::open(child.parent) else { break };
            if parent.pinned.start > child.start {
                break;
            }
            executables.push(parent.exe_path().unwrap_or_else(|| "?".to_owned()));
            child = parent.pinned;
        }
        executables
    }
}

/// At most `limit` bytes of a file below a `/proc/PID` that is open; longer content is an error.
fn read_of(dir: BorrowedFd<'_>, pid: u32, file: &'static str, limit: usize) -> Result<Vec<u8>, FactsError> {
    let fault = |error: io::Error| match error.raw_os_error() {
        Some(libc::ESRCH | libc::ENOENT) => FactsError::Gone(pid),
        _ => FactsError::Proc { pid, file, error },
    };
    let fd =
        openat(dir, file, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(|error| fault(error.into()))?;
    // Room for all of most files, so that they come in one read.
    let mut content = Vec::with_capacity(limit.min(PROC_FILE_USUAL));
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    File::from(fd).take(bound).read_to_end(&mut content).map_err(fault)?;
    if content.len() > limit {
        return Err(fault(io::Error::other(format!("longer than {limit} bytes"))));
    }
    Ok(content)
}

fn stat_of(dir: BorrowedFd<'_>, pid: u32) -> Result<Stat, FactsError> {
    let content = read_of(dir, pid, "stat", PROC_FILE_MAX)?;
    Stat::parse(&String::from_utf8_lossy(&content)).ok_or_else(|| malformed(pid, "stat"))
}

fn malformed(pid: u32, file: &'static str) -> FactsError {
    FactsError::Proc { pid, file, error: io::Error::other("not in the form that proc(5) documents") }
}

/// What is used of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: u32,
    start: u64,
}

impl Stat {
    /// Field 2 is the agent's to choose, parentheses and spaces included: the fields behind it start after the last `)`.
    fn parse(content: &str) -> Option<Self> {
        let (_, rest) = content.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        // Fields 3 and 4 are taken; 22 is the eighteenth of those left.
        let start = fields.nth(17)?.parse().ok()?;
        Some(Self { state, parent, start })
    }
}

/// The facts of the process that made a connection, and the pinned process.
///
/// `registry` is where it is written down how processes were started. `wants_hash` is asked whether the hash of the executable matters, with all other facts at hand; an executable that
/// only root can change is hashed in any case, because that is remembered.
///
/// # Errors
/// When the process cannot be pinned, moved between cgroups, or changed while it was read. An executable that cannot be
/// hashed is no error: `exe_sha256` is then `None`, and matches nothing.
pub fn gather(
    origin: &Origin,
    (path_of, registry): (&(dyn Fn(u64) -> io::Result<String> + Send + Sync), &Registry),
    hasher: &Hasher,
    wants_hash: &dyn Fn(&ProcessFacts) -> bool,
) -> Result<(Process, ProcessFacts), FactsError> {
    if origin.cgroup != origin.current_cgroup {
        let name = |id| path_of(id).unwrap_or_else(|_| format!("id {id}"));
        return Err(FactsError::MovedCgroup { created: name(origin.cgroup), current: name(origin.current_cgroup) });
    }
    let process = Process::of(origin)?;
    let cgroup = path_of(origin.cgroup).map_err(|error| FactsError::Cgroup { id: origin.cgroup, error })?;
    let start = registry.start((origin.cgroup, &cgroup));
    let facts = complete(&process, (origin.uid, origin.gid), (cgroup, &start), hasher, wants_hash)?;
    Ok((process, facts))
}

/// The facts of a pinned process whose ids and cgroup are known.
pub(super) fn complete(
    process: &Process,
    (uid, gid): (u32, u32),
    (cgroup, start): (String, &Start),
    hasher: &Hasher,
    wants_hash: &dyn Fn(&ProcessFacts) -> bool,
) -> Result<ProcessFacts, FactsError> {
    let before = process.exe_stat().ok();
    let mut facts = ProcessFacts {
        pid: process.pid,
        uid,
        gid,
        unit: unit_of(&cgroup),
        container: Container::of(&cgroup, &|parent| cgroup::is_roots(parent).unwrap_or(false)),
        cgroup,
        exe: process.exe_path(),
        exe_sha256: None,
        ancestry: process.ancestry(),
        guarantee: process.guarantee(start),
    };
    let cheap = before.as_ref().is_some_and(only_root_changes);
    if wants_hash(&facts) || cheap {
        facts.exe_sha256 = hasher.hash(process, before.as_ref())?;
    }
    let after = process.exe_stat().ok();
    process.alive()?;
    if before.map(|stat| (stat.st_dev, stat.st_ino)) != after.map(|stat| (stat.st_dev, stat.st_ino)) {
        return Err(FactsError::ExeChanged(process.pid));
    }
    Ok(facts)
}

/// The systemd unit of a cgroup path: the first component below the slices, as systemd itself reads it. What lies
/// deeper was named by whoever the unit delegates to, which may be the agent, and is never taken for a unit.
#[must_use]
pub fn unit_of(cgroup: &str) -> Option<String> {
    let mut parts = cgroup.split('/').filter(|part| !part.is_empty());
    let first = parts.find(|part| !unescaped(part).ends_with(".slice"))?;
    let unit = unescaped(first);
    let (stem, kind) = unit.rsplit_once('.')?;
    (matches!(kind, "service" | "scope") && !stem.is_empty()).then(|| unit.to_owned())
}

/// systemd puts `_` before names that the kernel would take for its own files.
fn unescaped(part: &str) -> &str {
    part.strip_prefix('_').unwrap_or(part)
}

fn proc_error(pid: u32, file: &'static str, error: nix::Error) -> FactsError {
    match error {
        nix::Error::ENOENT | nix::Error::ESRCH => FactsError::Gone(pid),
        other => FactsError::Proc { pid, file, error: other.into() },
    }
}

/// A file that only root can change: owned by root, written by none else.
fn only_root_changes(stat: &FileStat) -> bool {
    stat.st_uid == 0 && stat.st_mode & 0o022 == 0
}

/// Hashes executables. What only root can change is remembered by (device, inode, size, times); what an agent can
/// change is hashed each time, because a write through a mapping can leave every time stamp as it was.
#[derive(Debug)]
pub struct Hasher {
    cache: Mutex<LruCache<FileKey, String>>,
    clock: std::sync::Arc<dyn Clock>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FileKey {
    device: u64,
    inode: u64,
    size: i64,
    changed: (i64, i64),
    modified: (i64, i64),
}

impl FileKey {
    const fn of(stat: &FileStat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            changed: (stat.st_ctime, stat.st_ctime_nsec),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
        }
    }
}

impl Hasher {
    /// An empty cache.
    #[must_use]
    pub fn new(clock: std::sync::Arc<dyn Clock>) -> Self {
        Self { cache: Mutex::new(LruCache::new(CACHE_ENTRIES)), clock }
    }

    /// SHA-256 of the executable; `None` where there is none or it is too large, too slow or unreadable.
    fn hash(&self, process: &Process, expected: Option<&FileStat>) -> Result<Option<String>, FactsError> {
        // The link leads to the very file that runs, whatever its path, so what is known of that file need not be opened.
        if let Some(known) = expected.and_then(|stat| self.known(stat)) {
            return Ok(Some(known));
        }
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let Ok(fd) = openat(process.dir(), "exe", flags, Mode::empty()) else { return Ok(None) };
        let Ok(before) = fstat(&fd) else { return Ok(None) };
        if expected.is_none_or(|stat| (stat.st_dev, stat.st_ino) != (before.st_dev, before.st_ino)) {
            return Err(FactsError::ExeChanged(process.pid()));
        }
        let regular = SFlag::from_bits_truncate(before.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
        if !regular || u64::try_from(before.st_size).map_or(true, |size| size > EXE_MAX) {
            return Ok(None);
        }
        let key = FileKey::of(&before);
        if let Some(known) = self.known(&before) {
            return Ok(Some(known));
        }
        let mut file = File::from(fd);
        let Some(digest) = self.digest(&mut file) else { return Ok(None) };
        match fstat(&file) {
            Ok(after) if FileKey::of(&after) == key => {}
            _ => return Err(FactsError::ExeChanged(process.pid())),
        }
        let settled = i64::try_from(SETTLED.as_secs()).unwrap_or(i64::MAX);
        if only_root_changes(&before) && self.clock.now().unix().saturating_sub(before.st_ctime) > settled {
            self.cache.lock().put(key, digest.clone());
        }
        Ok(Some(digest))
    }

    /// What was remembered of a file that only root can change.
    fn known(&self, stat: &FileStat) -> Option<String> {
        only_root_changes(stat).then(|| self.cache.lock().get(&FileKey::of(stat)).cloned()).flatten()
    }

    fn digest(&self, file: &mut File) -> Option<String> {
        let start = self.clock.monotonic();
        let mut hasher = Sha256::new();
        let mut buffer = vec![0u8; 256 * 1024];
        let mut total = 0u64;
        loop {
            let read = file.read(&mut buffer).ok()?;
            if read == 0 {
                return Some(hex(&hasher.finalize()));
            }
            hasher.update(buffer.get(..read)?);
            total = total.saturating_add(u64::try_from(read).ok()?);
            if total > EXE_MAX || self.clock.monotonic().saturating_sub(start) > HASH_TIME_MAX {
                return None;
            }
        }
    }

    #[cfg(test)]
    fn remembered(&self) -> usize {
        self.cache.lock().len()
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
#[path = "facts_tests.rs"]
pub(super) mod tests;
