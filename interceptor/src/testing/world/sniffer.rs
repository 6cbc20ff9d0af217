//! An eye on the wire: every IP packet that reaches the servers' namespace from elsewhere.
//!
//! Link-local chatter of the kernel (ARP, neighbour and multicast discovery) is left out, and nothing else.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use parking_lot::Mutex;

use super::{World, sys};

/// Packets kept; later ones are only counted.
const MAX_SEEN: usize = 4096;
/// How long the last packets may take to arrive.
const SETTLE: Duration = Duration::from_millis(120);

/// One packet that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
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
    pub(super) fn start(namespace: File) -> io::Result<Self> {
        let socket = sys::in_thread(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
            setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
            Ok(socket)
        })?;
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        let thread = Some(thread::spawn(move || watch(&socket, &watched)));
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

fn watch(socket: &OwnedFd, shared: &Shared) {
    let mut frame = vec![0; 2048];
    while !shared.stop.load(Ordering::SeqCst) {
        let Ok(length) = recv(socket.as_raw_fd(), &mut frame, nix::sys::socket::MsgFlags::empty()) else { continue };
        let Some(seen) = frame.get(..length).and_then(read) else { continue };
        if World::is_far(seen.source) || seen.source.is_loopback() {
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
            // Hop-by-hop to a multicast group is listener discovery; ICMPv6 133 to 137 is neighbour discovery.
            let discovery = protocol == 58 && matches!(packet.get(40), Some(133..=137));
            if discovery || (protocol == 0 && destination.is_multicast()) {
                return None;
            }
            Some(Seen {
                protocol,
                source: Ipv6Addr::from(source).into(),
                destination: destination.into(),
                port: port(protocol, packet.get(40..)),
            })
        }
        _ => None,
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
        assert_eq!(read(&frame), None);
        frame.splice(12..14, [0x08, 0x00]);
        let seen = read(&frame).unwrap();
        assert_eq!((seen.protocol, seen.port, seen.destination), (17, 53, super::super::FAR4.into()));
        for length in 0..34 {
            assert_eq!(read(frame.get(..length).unwrap()), None, "{length}");
        }
    }
}
