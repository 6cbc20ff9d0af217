//! Refusals by the kernel programs, as they happen.

use std::net::SocketAddr;
use std::{fmt, io};

use aya::maps::{MapData, RingBuf};
use interceptor_ebpf::Event;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::{maps, sys};

/// One refusal by a kernel program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelEvent {
    /// When, in nanoseconds since boot.
    pub boottime: u64,
    /// cgroup v2 id of the socket, or of the process where the socket has none yet.
    pub cgroup: u64,
    /// The address that was asked for, where there was one.
    pub address: Option<SocketAddr>,
    /// Process id in the initial pid namespace; none for packets, which do not tell.
    pub pid: Option<u32>,
    /// Real user id in the initial user namespace; none with `pid`.
    pub uid: Option<u32>,
    /// Network namespace cookie, of [`Refusal::NoListener`].
    pub netns: Option<u64>,
    /// Why.
    pub refusal: Refusal,
    /// The thread's name: forgeable, for display only.
    pub comm: String,
}

/// Why a kernel program refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Refusal {
    /// The daemon never wrote its settings.
    NoSettings,
    /// A socket of another kind than TCP or UDP.
    SocketKind {
        /// `SOCK_...`
        socket_type: u32,
        /// `IPPROTO_...`
        protocol: u32,
    },
    /// A connect on a socket that is older than the programs, or for which memory ran out.
    NoRecord,
    /// UDP to anything but the resolver.
    Udp,
    /// A bind to an address that others reach, or to a port of the daemon.
    Bind,
    /// A socket option that would lead around the capture.
    SocketOption {
        /// `SOL_...`
        level: u32,
        /// The option's number.
        name: u32,
    },
    /// A packet that was for neither the daemon nor a server of the agent's own cgroup.
    Packet {
        /// `IPPROTO_...`; 0 where the packet's shape alone was refused.
        protocol: u32,
    },
    /// A connect on a socket that is neither TCP nor UDP.
    ConnectKind,
    /// A packet that came in past the daemon; the address is its source.
    Inbound {
        /// `IPPROTO_...`; 0 where the packet's shape alone was refused.
        protocol: u32,
    },
    /// A connect in a network namespace in which the daemon does not listen, or while there was no daemon.
    NoListener,
    /// A reason that this version does not know.
    Unknown {
        /// Its number.
        reason: u32,
    },
}

/// For people: what was tried.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSettings => f.write_str("any network use, before the daemon wrote its settings"),
            Self::SocketKind { socket_type, protocol } => {
                write!(f, "a socket of type {socket_type}, protocol {protocol}: only TCP and UDP are allowed")
            }
            Self::NoRecord => f.write_str("a connect on a socket that has no record"),
            Self::Udp => f.write_str("UDP to anything but the resolver"),
            Self::Bind => f.write_str("a bind that others could reach, or to a port of the daemon"),
            Self::SocketOption { level, name } => write!(f, "socket option {name} of level {level}"),
            Self::Packet { protocol } => write!(f, "a packet of protocol {protocol} past the daemon"),
            Self::ConnectKind => f.write_str("a connect that is neither TCP nor UDP"),
            Self::Inbound { protocol } => write!(f, "a packet of protocol {protocol} from outside"),
            Self::NoListener => f.write_str("a connect in a network namespace without the daemon"),
            Self::Unknown { reason } => write!(f, "reason {reason} of a newer kernel object"),
        }
    }
}

/// The reader of the ring. One at a time: readers of one ring take events from each other.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        Ok(Self { ring: sys::watch(ring)? })
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// When the ring cannot be waited for.
    pub async fn next(&mut self) -> io::Result<KernelEvent> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            while let Some(item) = ready.get_inner_mut().next() {
                if let Some(event) = sys::event(&item) {
                    return Ok(kernel_event(&event));
                }
            }
            ready.clear_ready();
        }
    }
}

fn kernel_event(event: &Event) -> KernelEvent {
    let detail = event.detail;
    let refusal = match event.reason {
        1 => Refusal::NoSettings,
        2 => Refusal::SocketKind { socket_type: detail >> 16, protocol: detail & 0xffff },
        3 => Refusal::NoRecord,
        4 => Refusal::Udp,
        5 => Refusal::Bind,
        6 => Refusal::SocketOption { level: detail >> 16, name: detail & 0xffff },
        7 => Refusal::Packet { protocol: detail },
        8 => Refusal::ConnectKind,
        9 => Refusal::Inbound { protocol: detail },
        10 => Refusal::NoListener,
        reason => Refusal::Unknown { reason },
    };
    let known = event.tgid != 0;
    KernelEvent {
        boottime: event.boottime,
        cgroup: event.cgroup,
        address: (event.address != [0; 4] || event.port != 0).then(|| maps::endpoint(event.address, event.port)),
        pid: known.then_some(event.tgid),
        uid: known.then_some(event.uid),
        netns: (event.netns != 0).then_some(event.netns),
        refusal,
        comm: maps::name(&event.comm),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use interceptor_ebpf::{REASONS, Reason, mapped};

    #[test]
    fn every_reason_has_a_name_and_a_packet_has_no_process() {
        for reason in 1..REASONS {
            let reason = u32::try_from(reason).unwrap();
            let event = kernel_event(&Event { reason, ..Event::default() });
            assert!(!matches!(event.refusal, Refusal::Unknown { .. }), "{reason}");
            assert_eq!((event.pid, event.address), (None, None));
        }
        let event = Event {
            reason: Reason::SocketKind as u32,
            detail: (5 << 16) | 132,
            tgid: 3,
            address: mapped([1, 2, 3, 4]),
            port: 9,
            ..Event::default()
        };
        let event = kernel_event(&event);
        assert_eq!(event.refusal, Refusal::SocketKind { socket_type: 5, protocol: 132 });
        assert_eq!((event.pid, event.address), (Some(3), Some("1.2.3.4:9".parse().unwrap())));
        assert_eq!(sys::event(&[0; 79]), None);
    }
}
