//! The thread that enters a network namespace, makes sockets there, and ends.
//!
//! The namespace is that of a pinned process: an open `/proc/PID` refers to that process whoever has its number later.
//! Where a refusal names a namespace, the one that was entered must have the very cookie that the kernel recorded: a
//! process that moves meanwhile, or whose number was taken, leads nowhere.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::thread;

use nix::fcntl::{OFlag, open, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;

use super::super::{Config, cgroup, loader, sys};
use super::sockets::{Ports, Sockets};
use super::{NamespaceError, Wish};

/// Threads of a process that are looked at, where its first one is elsewhere than the one that was refused.
const THREADS: usize = 64;
/// Namespaces of its threads that are entered.
const TRIED: usize = 4;
/// Longest `/proc/PID/cgroup`.
const CGROUP_FILE: u64 = 16 * 1024;

/// What is to be made, and for whom.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) wish: Wish,
    pub(super) config: Config,
    /// Inodes of the namespaces that are no agent's own: the daemon's.
    pub(super) homes: Vec<u64>,
    pub(super) ports: Ports,
    /// Cookies of the namespaces that have a listener, by inode.
    pub(super) known: HashMap<u64, u64>,
}

/// A namespace, and what was made in it.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) cookie: u64,
    pub(super) inode: u64,
    /// Path and id of the process' cgroup.
    pub(super) cgroup: (String, u64),
    /// Nothing where there was a listener already.
    pub(super) sockets: Option<Sockets>,
}

/// What there is to enter.
#[derive(Debug)]
pub(super) struct Doors {
    cgroup: (String, u64),
    namespaces: Vec<(File, u64)>,
}

/// Looks where the process is, without going there. Something was made already where that namespace has a listener.
pub(super) fn look(wanted: &Wanted) -> Result<Result<Doors, Made>, NamespaceError> {
    let pid = wanted.wish.pid();
    let gone = |error| process_error(pid, error);
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let process = open(format!("/proc/{pid}").as_str(), flags, Mode::empty()).map_err(gone)?;
    let cgroup = governed(&process, wanted)?;
    let expected = wanted.wish.cookie();
    let mut new = Vec::new();
    for (namespace, inode) in namespaces(&process, expected.is_some()).map_err(gone)? {
        match (wanted.known.get(&inode), expected) {
            (None, None) if wanted.homes.contains(&inode) => return Err(NamespaceError::Home { pid }),
            // Somebody else's wish was the same.
            (Some(cookie), _) if expected.is_none_or(|expected| expected == *cookie) => {
                return Ok(Err(Made { cookie: *cookie, inode, cgroup, sockets: None }));
            }
            (Some(_), _) => {}
            (None, Some(_)) if wanted.homes.contains(&inode) => {}
            (None, _) => new.push((namespace, inode)),
        }
    }
    Ok(Ok(Doors { cgroup, namespaces: new }))
}

/// Makes the sockets. Blocks until the thread has ended.
pub(super) fn make(wanted: Wanted) -> Result<Made, NamespaceError> {
    match look(&wanted)? {
        Err(open) => Ok(open),
        Ok(doors) => enter(wanted, doors),
    }
}

/// As [`make`], once it was looked.
pub(super) fn enter(wanted: Wanted, doors: Doors) -> Result<Made, NamespaceError> {
    let thread = thread::Builder::new().name("namespace".to_owned()).spawn(move || within(&wanted, doors));
    let ended = thread.map_err(NamespaceError::Enter)?.join();
    ended.unwrap_or_else(|_| Err(NamespaceError::Enter(io::Error::other("the thread broke"))))
}

/// On a thread of its own: it never comes back to where it was.
fn within(wanted: &Wanted, doors: Doors) -> Result<Made, NamespaceError> {
    let Doors { cgroup, namespaces } = doors;
    let expected = wanted.wish.cookie();
    for (namespace, inode) in namespaces {
        setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|error| NamespaceError::Enter(error.into()))?;
        let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
        let any = any.map_err(|error| NamespaceError::Sockets(error.into()))?;
        let cookie = sys::socket_option(any.as_fd(), libc::SO_NETNS_COOKIE).map_err(NamespaceError::Sockets)?;
        if expected.is_none_or(|expected| expected == cookie) {
            let sockets = Sockets::make(wanted.ports)?;
            return Ok(Made { cookie, inode, cgroup, sockets: Some(sockets) });
        }
    }
    Err(NamespaceError::Elsewhere { pid: wanted.wish.pid() })
}

fn process_error(pid: u32, error: nix::Error) -> NamespaceError {
    match error {
        nix::Error::ENOENT | nix::Error::ESRCH => NamespaceError::Gone { pid },
        other => NamespaceError::Enter(other.into()),
    }
}

/// The process' cgroup, where it is governed.
fn governed(process: &OwnedFd, wanted: &Wanted) -> Result<(String, u64), NamespaceError> {
    let pid = wanted.wish.pid();
    let file = openat(process, "cgroup", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
    let mut text = String::new();
    let read = File::from(file.map_err(|error| process_error(pid, error))?).take(CGROUP_FILE).read_to_string(&mut text);
    read.map_err(|_| NamespaceError::Gone { pid })?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned();
    // A cgroup that is gone has no links, and no process that goes on.
    if !loader::is_governed(&wanted.config, &path).unwrap_or(false) {
        return Err(NamespaceError::NotGoverned { pid, cgroup: path });
    }
    let id = cgroup::cgroup_id(&path).map_err(|_| NamespaceError::Gone { pid })?;
    Ok((path, id))
}

/// The namespace of the process, and, where those count, of its threads: each once, with its inode.
fn namespaces(process: &OwnedFd, threads: bool) -> nix::Result<Vec<(File, u64)>> {
    let mut found: Vec<(File, u64)> = Vec::new();
    let mut look = |path: &str| -> nix::Result<()> {
        let namespace = File::from(openat(process, path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?);
        let inode = namespace.metadata().map_err(|_| nix::Error::EIO)?.ino();
        if found.len() < TRIED && !found.iter().any(|(_, known)| *known == inode) {
            found.push((namespace, inode));
        }
        Ok(())
    };
    look("ns/net")?;
    if threads {
        // A thread may end at any time.
        let listed = fs::read_dir(format!("/proc/self/fd/{}/task", process.as_raw_fd()));
        for task in listed.into_iter().flatten().flatten().take(THREADS) {
            let _ended = look(&format!("task/{}/ns/net", task.file_name().to_string_lossy()));
        }
    }
    Ok(found)
}
