//! An eye on the wire: every frame that reaches the servers' namespace from elsewhere, whatever source it claims.
//!
//! What the kernel says by itself on an idle wire is left out, and nothing else: ARP and neighbour
//! discovery for the two addresses, router discovery, reports of the groups that belong to the interface's own addresses.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use parking_lot::Mutex;

use super::{FAR4, FAR6, NEAR4, NEAR6, sys};

/// Packets kept; later ones are only counted.
const MAX_SEEN: usize = 4096;
/// How long the last packets may take to arrive.
const SETTLE: Duration = Duration::from_millis(120);

/// One packet that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Type of the frame: 0x0800 for IPv4, 0x86dd for IPv6. Of others the rest is zero.
    pub ethertype: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port of TCP and UDP, 0 otherwise.
    pub port: u16,
}

/// Watches until dropped.
#[derive(Debug)]
pub struct Sniffer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    count: AtomicU64,
    seen: Mutex<Vec<Seen>>,
}

impl Sniffer {
    /// With a port, what goes to that one is left out.
    pub(super) fn start(namespace: File, beside: Option<u16>) -> io::Result<Self> {
        let socket = sys::in_thread(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
            setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
            Ok(socket)
        })?;
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        let thread = Some(thread::spawn(move || watch(&socket, beside, &watched)));
        Ok(Self { shared, thread })
    }

    /// Packets that arrived so far, after a moment for the last ones.
    #[must_use]
    pub fn count(&self) -> u64 {
        thread::sleep(SETTLE);
        self.shared.count.load(Ordering::SeqCst)
    }

    /// The packets that arrived so far (the first few thousand), after a moment for the last ones.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        thread::sleep(SETTLE);
        self.shared.seen.lock().clone()
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // It cannot panic; a test that does is reported by itself.
            let _ended = thread.join();
        }
    }
}

fn watch(socket: &OwnedFd, beside: Option<u16>, shared: &Shared) {
    let mut frame = vec![0; 2048];
    while !shared.stop.load(Ordering::SeqCst) {
        let Ok((length, from)) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame) else { continue };
        // What the servers say themselves.
        if from.is_some_and(|from| from.pkttype() == libc::PACKET_OUTGOING) {
            continue;
        }
        let Some(seen) = frame.get(..length).and_then(read) else { continue };
        if Some(seen.port) == beside {
            continue;
        }
        shared.count.fetch_add(1, Ordering::SeqCst);
        let mut list = shared.seen.lock();
        if list.len() < MAX_SEEN {
            list.push(seen);
        }
    }
}

fn read(frame: &[u8]) -> Option<Seen> {
    let packet = frame.get(14..)?;
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let protocol = *packet.get(9)?;
            let source = <[u8; 4]>::try_from(packet.get(12..16)?).ok()?;
            let destination = <[u8; 4]>::try_from(packet.get(16..20)?).ok()?;
            Some(Seen {
                ethertype: 0x0800,
                protocol,
                source: Ipv4Addr::from(source).into(),
                destination: Ipv4Addr::from(destination).into(),
                port: port(protocol, packet.get(header..)),
            })
        }
        [0x86, 0xdd] => {
            let protocol = *packet.get(6)?;
            let source = <[u8; 16]>::try_from(packet.get(8..24)?).ok()?;
            let destination = Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?);
            if (protocol == 58 && discovers(packet.get(40..)?))
                || (protocol == 0 && reports_own_groups(packet.get(40..)?))
            {
                return None;
            }
            Some(Seen {
                ethertype: 0x86dd,
                protocol,
                source: Ipv6Addr::from(source).into(),
                destination: destination.into(),
                port: port(protocol, packet.get(40..)),
            })
        }
        [0x08, 0x06] if asks_for_a_known_address(packet) => None,
        [high, low] => Some(Seen {
            ethertype: u16::from_be_bytes([*high, *low]),
            protocol: 0,
            source: Ipv4Addr::UNSPECIFIED.into(),
            destination: Ipv4Addr::UNSPECIFIED.into(),
            port: 0,
        }),
        _ => None,
    }
}

/// ARP between the two addresses.
fn asks_for_a_known_address(arp: &[u8]) -> bool {
    let address =
        |at: usize| arp.get(at..at + 4).and_then(|octets| <[u8; 4]>::try_from(octets).ok()).map(Ipv4Addr::from);
    let known = [Some(NEAR4), Some(FAR4)];
    known.contains(&address(14)) && known.contains(&address(24))
}

/// Discovery of routers, and of neighbours at the two addresses or at link-local ones that interfaces give themselves.
fn discovers(icmp: &[u8]) -> bool {
    match icmp {
        [133 | 134, ..] => true,
        [135 | 136, _, _, _, _, _, _, _, rest @ ..] => rest.first_chunk::<16>().is_some_and(|target| {
            let own = matches!(target, [0xfe, 0x80, 0, 0, 0, 0, 0, 0, _, _, _, 0xff, 0xfe, ..]);
            own || [NEAR6, FAR6].contains(&Ipv6Addr::from(*target))
        }),
        _ => false,
    }
}

/// A report of multicast listeners (behind the hop-by-hop header) for groups that come with an interface's addresses only:
/// those of solicited nodes, all nodes, all routers.
fn reports_own_groups(rest: &[u8]) -> bool {
    let own = |group: &[u8]| {
        matches!(group, [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, _, _, _])
            || matches!(group, [0xff, 1 | 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1 | 2 | 0x6a])
    };
    let Some(([0x3a, 0, ..], icmp)) = rest.split_first_chunk::<8>() else { return false };
    match icmp {
        [143, _, _, _, _, _, high, low, records @ ..] => {
            let (records, rest) = records.as_chunks::<20>();
            // No sources, and nothing behind the last group.
            let plain = |record: &[u8; 20]| matches!(record, [_, 0, 0, 0, group @ ..] if own(group));
            rest.is_empty()
                && records.len() == usize::from(u16::from_be_bytes([*high, *low]))
                && records.iter().all(plain)
        }
        [131 | 132, ..] => icmp.get(8..24).is_some_and(own),
        _ => false,
    }
}

fn port(protocol: u8, transport: Option<&[u8]>) -> u16 {
    match (protocol, transport) {
        (6 | 17, Some([_, _, high, low, ..])) => u16::from_be_bytes([*high, *low]),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_and_bad_ones_are_not() {
        let mut frame = vec![0; 14];
        frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 99, 0, 1, 10, 99, 0, 2, 0, 1, 0, 53]);
        assert_eq!(read(&frame).unwrap().ethertype, 0);
        frame.splice(12..14, [0x08, 0x00]);
        let seen = read(&frame).unwrap();
        assert_eq!((seen.protocol, seen.port, seen.destination), (17, 53, FAR4.into()));
        let solicitation = |target: Ipv6Addr| [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets()].concat();
        assert!(discovers(&solicitation(FAR6)) && !discovers(&solicitation("fd99::77".parse().unwrap())));
        for length in 0..34 {
            assert_eq!(read(frame.get(..length).unwrap()), None, "{length}");
        }
    }
}
