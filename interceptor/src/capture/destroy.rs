//! Ends the connections that processes had before they were governed.
//!
//! The kernel programs see every socket that is made from then on. Those that are older belong to the cgroup as well, and
//! the fence drops what they send; but sockets that were made elsewhere and inherited belong to another cgroup, and pass no
//! program. So all of the internet's sockets that processes of the cgroup hold, or that were made in it, are destroyed: by
//! cgroup, and by the inodes of their descriptors, in each network namespace that one of the processes is in.
//!
//! A socket that a process outside holds as well is destroyed under it, too.
//!
//! What that ends is the connection, and not the descriptor: a socket that was made elsewhere can be connected again, or listen
//! again, and passes no program then, either; so does one that was not connected yet, which the kernel does not list. How many
//! are listed at the end is told: processes that hold such have to be started again. Not promised: sockets of kinds that the kernel
//! does not destroy (SCTP, MPTCP, other families), those that a program keeps in rings of io_uring, and those under way between
//! processes (`SCM_RIGHTS`) at that moment.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockProtocol};

use super::cgroup::{self, Listed};
use super::netlink::{ACKNOWLEDGED, DUMP, NLMSG_DONE, NLMSG_ERROR, Netlink, attributes, error_of, number};
use super::sys;

/// Processes that are looked at, threads of one, and descriptors in all.
const MOST: usize = 65_536;
const MOST_DESCRIPTORS: usize = 1 << 20;
/// Sockets of one kind in one namespace that are destroyed.
const MOST_SOCKETS: usize = 65_536;
/// How often it is looked whether there are more.
const ROUNDS: u32 = 8;
/// Bytes of one piece of an answer.
const PIECE: usize = 64 << 10;
/// How often the kernel is asked for more of one answer.
const ANSWERS: usize = 65_536;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// Length of `inet_diag_sockid` and `inet_diag_msg`.
const ID: usize = 48;
const MESSAGE: usize = 72;
/// `INET_DIAG_CGROUP_ID`.
const CGROUP_ID: u16 = 21;
const KINDS: [(AddressFamily, u8); 4] =
    [(AddressFamily::Inet, 6), (AddressFamily::Inet6, 6), (AddressFamily::Inet, 17), (AddressFamily::Inet6, 17)];

/// What processes of a cgroup hold.
#[derive(Debug, Default)]
struct Held {
    cgroups: HashSet<u64>,
    inodes: HashSet<u64>,
    /// Namespaces by inode.
    namespaces: HashMap<u64, File>,
    /// Descriptors that were looked at.
    looked: usize,
}

/// Which sockets are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Those that the processes hold, and those that were made in the cgroup.
    All,
    /// Of those that the processes hold, what was made elsewhere: what is the cgroup's own may be governed by now.
    Foreign,
}

/// What became of sockets from before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Connections and other sockets that were ended.
    pub destroyed: usize,
    /// Sockets that were made elsewhere, and are still held: ended or not, they can be used again.
    pub foreign: usize,
}

/// Destroys the sockets at or below a cgroup, and looks again until there are no new ones: a process that was starting another
/// one may have handed it a socket meanwhile. Each is told to end once: some stay, ended. Blocks.
///
/// # Errors
/// When the kernel does not destroy sockets (`CONFIG_INET_DIAG_DESTROY`) or does not list them, a namespace cannot be entered, there
/// is too much to look at, or there are new ones each time.
pub(super) fn destroy_all(path: &str, reach: Reach) -> io::Result<Ended> {
    let (mut told, mut reach) = (HashSet::new(), reach);
    for _ in 0..ROUNDS {
        let before = told.len();
        let foreign = destroy(path, reach, &mut told)?;
        if told.len() == before {
            return Ok(Ended { destroyed: told.len(), foreign });
        }
        reach = Reach::Foreign;
    }
    Err(io::Error::other(format!("{} sockets were ended, and there are new ones each time", told.len())))
}

/// Destroys what was not told to end before, and gives how many were there that were made elsewhere.
fn destroy(path: &str, reach: Reach, told: &mut HashSet<u64>) -> io::Result<usize> {
    let Held { cgroups, inodes, mut namespaces, .. } = held(path)?;
    let own = File::open("/proc/self/ns/net")?;
    namespaces.entry(own.metadata()?.ino()).or_insert(own);
    let is_foreign = |socket: &Socket| inodes.contains(&socket.inode) && !cgroups.contains(&socket.cgroup);
    let is_wanted = |socket: &Socket| is_foreign(socket) || (reach == Reach::All && cgroups.contains(&socket.cgroup));
    let (mut foreign, mut ended) = (0, Vec::new());
    for namespace in namespaces.into_values() {
        thread::scope(|scope| {
            let look = || {
                setns(&namespace, CloneFlags::CLONE_NEWNET)?;
                within(&|socket| is_wanted(socket) && !told.contains(&socket.cookie()), &is_foreign)
            };
            let thread = thread::Builder::new().name("destroy".to_owned()).spawn_scoped(scope, look)?;
            let (more, new) = thread.join().map_err(|_| io::Error::other("the thread broke"))??;
            foreign += more;
            ended.extend(new);
            io::Result::Ok(())
        })?;
    }
    told.extend(ended);
    Ok(foreign)
}

fn held(path: &str) -> io::Result<Held> {
    let mut held = Held::default();
    let mut processes = 0;
    let end = cgroup::walk(path, Listed::Processes, |directory, pids| {
        // What vanishes meanwhile holds nothing.
        let Ok(metadata) = fs::metadata(directory) else { return ControlFlow::Continue(()) };
        held.cgroups.insert(metadata.ino());
        for pid in pids {
            processes += 1;
            if processes > MOST {
                return ControlFlow::Break(io::Error::other(format!("{path} has more than {MOST} processes")));
            }
            if let Err(error) = look(pid, &mut held) {
                return ControlFlow::Break(error);
            }
        }
        ControlFlow::Continue(())
    })?;
    match end {
        ControlFlow::Continue(()) => Ok(held),
        ControlFlow::Break(error) => Err(error),
    }
}

/// Takes note of what a process holds. Threads may have descriptors, and a namespace, of their own; and live on when the first
/// one has ended.
fn look(pid: u32, held: &mut Held) -> io::Result<()> {
    for (count, thread) in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().enumerate() {
        if count >= MOST {
            return Err(io::Error::other(format!("process {pid} has more than {MOST} threads")));
        }
        let thread = thread.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(pid);
        let place = format!("/proc/{pid}/task/{thread}");
        if let Ok(namespace) = File::open(format!("{place}/ns/net"))
            && let Ok(metadata) = namespace.metadata()
        {
            held.namespaces.entry(metadata.ino()).or_insert(namespace);
        }
        if thread == pid || !sys::share_descriptors(pid, thread) {
            look_at_descriptors(&place, held)?;
        }
    }
    Ok(())
}

fn look_at_descriptors(place: &str, held: &mut Held) -> io::Result<()> {
    for descriptor in fs::read_dir(format!("{place}/fd")).into_iter().flatten().flatten() {
        held.looked += 1;
        if held.looked > MOST_DESCRIPTORS {
            return Err(io::Error::other(format!("they have more than {MOST_DESCRIPTORS} descriptors")));
        }
        let Ok(link) = fs::read_link(descriptor.path()) else { continue };
        let inode: Option<u64> =
            link.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        held.inodes.extend(inode);
    }
    Ok(())
}

/// A socket, as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Socket {
    /// What names it.
    id: Vec<u8>,
    inode: u64,
    cgroup: u64,
}

impl Socket {
    /// What tells it from all others of the kernel's life: the last word of its id.
    fn cookie(&self) -> u64 {
        self.id.last_chunk().map_or(0, |cookie| u64::from_ne_bytes(*cookie))
    }
}

/// Destroys what is wanted, in this thread's namespace. Gives how many are foreign, and the cookies of what was destroyed.
fn within(wanted: &dyn Fn(&Socket) -> bool, is_foreign: &dyn Fn(&Socket) -> bool) -> io::Result<(usize, Vec<u64>)> {
    let mut kernel = Netlink::open(SockProtocol::NetlinkSockDiag, PIECE)?;
    let (mut foreign, mut destroyed, mut failed) = (0, Vec::new(), None);
    for (family, protocol) in KINDS {
        let all = list(&mut kernel, family, protocol)?;
        foreign += all.iter().filter(|found| is_foreign(found)).count();
        for found in all.iter().filter(|found| wanted(found)).take(MOST_SOCKETS) {
            kernel.ask(SOCK_DESTROY, ACKNOWLEDGED, &request(family, protocol, Some(&found.id)))?;
            let answer = kernel.answer()?;
            let acknowledged = answer.iter().find(|(kind, _)| *kind == NLMSG_ERROR);
            match acknowledged.map_or(libc::EBADMSG, |(_, body)| error_of(body)) {
                0 => destroyed.push(found.cookie()),
                // It is gone by itself; or shares its port with others, and the kernel finds another one than this. What is still there
                // counts as foreign.
                libc::ENOENT => {}
                // One that stays does not keep the others.
                error => failed = Some(io::Error::from_raw_os_error(error)),
            }
        }
    }
    failed.map_or(Ok((foreign, destroyed)), Err)
}

/// `inet_diag_req_v2`: every state, of one socket or of all.
fn request(family: AddressFamily, protocol: u8, id: Option<&[u8]>) -> Vec<u8> {
    let family = u8::try_from(family as i32).unwrap_or_default();
    let mut bytes = vec![family, protocol, 0, 0];
    bytes.extend(u32::MAX.to_ne_bytes());
    match id {
        Some(id) => bytes.extend(id),
        None => bytes.resize(bytes.len() + ID, 0),
    }
    bytes
}

fn list(kernel: &mut Netlink, family: AddressFamily, protocol: u8) -> io::Result<Vec<Socket>> {
    kernel.ask(SOCK_DIAG_BY_FAMILY, DUMP, &request(family, protocol, None))?;
    let mut found = Vec::new();
    for _ in 0..ANSWERS {
        for (kind, body) in kernel.answer()? {
            match (kind, error_of(&body)) {
                (NLMSG_DONE, _) => return Ok(found),
                // No such kind here.
                (NLMSG_ERROR, libc::ENOENT | libc::EAFNOSUPPORT) if family == AddressFamily::Inet6 => return Ok(found),
                (NLMSG_ERROR, error) => return Err(io::Error::from_raw_os_error(error)),
                _ => found.extend(read(&body)),
            }
        }
    }
    Err(io::Error::other("the kernel lists sockets without end"))
}

fn read(body: &[u8]) -> Option<Socket> {
    let cgroup = attributes(body.get(MESSAGE..)?).find(|(kind, _)| *kind == CGROUP_ID);
    let cgroup = cgroup.and_then(|(_, value)| Some(u64::from_ne_bytes(value.try_into().ok()?)));
    Some(Socket {
        id: body.get(4..4 + ID)?.to_vec(),
        inode: u64::from(number(body, MESSAGE - 4)?),
        cgroup: cgroup.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn sockets_are_listed_with_their_inode_and_what_is_cut_off_is_nothing() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let mut kernel = Netlink::open(SockProtocol::NetlinkSockDiag, PIECE).unwrap();
        let all = list(&mut kernel, AddressFamily::Inet, 6).unwrap();
        assert!(all.iter().any(|found| link.to_str().unwrap() == format!("socket:[{}]", found.inode)));
        for length in 0..MESSAGE {
            assert_eq!(read(&vec![0; length]), None);
        }
    }
}
