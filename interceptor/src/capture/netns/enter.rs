//! The thread that enters a network namespace, makes sockets there, and ends.
//!
//! The namespace is that of a pinned process: an open `/proc/PID` refers to that process whoever has its number later.
//! Where a refusal names a namespace, the one that was entered must have the very cookie that the kernel recorded: a
//! process that moves meanwhile, or whose number was taken, leads nowhere.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::thread;

use nix::fcntl::{OFlag, open, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};
use nix::sys::stat::Mode;

use super::super::listener::{BACKLOG, has_no_v6};
use super::super::{Config, cgroup, loader, sys};
use super::{NamespaceError, Probe, Wish};

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
    /// Inode of the daemon's own namespace.
    pub(super) home: u64,
    pub(super) proxy_port: u16,
    pub(super) dns_port: Option<u16>,
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

/// Sockets on a namespace's loopback: of IPv4, and of IPv6 where it has that.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) tcp: (TcpListener, Option<TcpListener>),
    pub(super) udp: Option<(UdpSocket, Option<UdpSocket>)>,
    pub(super) probe: Probe,
}

/// Makes the sockets. Blocks until the thread has ended.
pub(super) fn make(wanted: Wanted) -> Result<Made, NamespaceError> {
    let thread = thread::Builder::new().name("namespace".to_owned()).spawn(move || within(&wanted));
    let ended = thread.map_err(NamespaceError::Enter)?.join();
    ended.unwrap_or_else(|_| Err(NamespaceError::Enter(io::Error::other("the thread broke"))))
}

/// On a thread of its own: it never comes back to where it was.
fn within(wanted: &Wanted) -> Result<Made, NamespaceError> {
    let pid = wanted.wish.pid();
    let gone = |error| process_error(pid, error);
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let process = open(format!("/proc/{pid}").as_str(), flags, Mode::empty()).map_err(gone)?;
    let cgroup = governed(&process, wanted)?;
    let expected = match wanted.wish {
        Wish::Refused { cookie, .. } => Some(cookie),
        Wish::Announced { .. } | Wish::Found { .. } => None,
    };
    for (namespace, inode) in namespaces(&process, expected.is_some()).map_err(gone)? {
        match (wanted.known.get(&inode), expected) {
            (None, None) if inode == wanted.home => return Err(NamespaceError::Home { pid }),
            // Somebody else's wish was the same.
            (Some(cookie), _) if expected.is_none_or(|expected| expected == *cookie) => {
                return Ok(Made { cookie: *cookie, inode, cgroup, sockets: None });
            }
            (Some(_), _) => continue,
            (None, Some(_)) if inode == wanted.home => continue,
            (None, _) => {}
        }
        setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|error| NamespaceError::Enter(error.into()))?;
        let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
        let any = any.map_err(|error| NamespaceError::Sockets(error.into()))?;
        let cookie = sys::socket_option(any.as_fd(), libc::SO_NETNS_COOKIE).map_err(NamespaceError::Sockets)?;
        if expected.is_none_or(|expected| expected == cookie) {
            return Ok(Made { cookie, inode, cgroup, sockets: Some(sockets(wanted)?) });
        }
    }
    Err(NamespaceError::Elsewhere { pid })
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

fn sockets(wanted: &Wanted) -> Result<Sockets, NamespaceError> {
    let taken = |port| move |source| NamespaceError::Port { port, source };
    let pair =
        |port: u16| -> [SocketAddr; 2] { [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()] };
    let [v4, v6] = pair(wanted.proxy_port);
    let tcp = |address| bound(address, SockType::Stream).map(TcpListener::from);
    let listening = (tcp(v4).map_err(taken(wanted.proxy_port))?, where_v6(tcp(v6)).map_err(taken(wanted.proxy_port))?);
    let relaying = match wanted.dns_port {
        None => None,
        Some(port) => {
            let [v4, v6] = pair(port);
            let udp = |address| bound(address, SockType::Datagram).map(UdpSocket::from);
            Some((udp(v4).map_err(taken(port))?, where_v6(udp(v6)).map_err(taken(port))?))
        }
    };
    Ok(Sockets { tcp: listening, udp: relaying, probe: Probe::open().map_err(NamespaceError::Sockets)? })
}

/// Nothing, where the namespace has no IPv6.
fn where_v6<T>(made: io::Result<T>) -> io::Result<Option<T>> {
    match made {
        Err(error) if has_no_v6(&error) => Ok(None),
        other => other.map(Some),
    }
}

/// A socket on the loopback, also where that is not up yet: a container's may come up later than it is announced.
fn bound(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let made = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&made, sockopt::IpFreebind, &true)?;
    if kind == SockType::Stream {
        // Connections of the last run may still be in TIME_WAIT.
        setsockopt(&made, sockopt::ReuseAddr, &true)?;
    }
    bind(made.as_raw_fd(), &SockaddrStorage::from(address))?;
    if kind == SockType::Stream {
        listen(&made, Backlog::new(i32::try_from(BACKLOG).unwrap_or(i32::MAX))?)?;
    }
    Ok(made)
}
