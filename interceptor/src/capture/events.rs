//! Refusals by the kernel programs, as they happen.

use std::net::SocketAddr;
use std::{fmt, io};

use aya::maps::{MapData, PerCpuArray, RingBuf};
use interceptor_ebpf::Event;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::{Counters, maps, sys};

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
    /// cgroup v2 id of the other end, of [`Refusal::Descriptor`], [`Refusal::Process`] and [`Refusal::LocalSocket`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<u64>,
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
        /// `IPPROTO_...`, also of an extension header; 0 where it is not known.
        protocol: u32,
        /// What was wrong with it.
        #[serde(default)]
        fault: PacketFault,
    },
    /// A connect on a socket that is neither TCP nor UDP.
    ConnectKind,
    /// A packet that came in past the daemon; the address is its source.
    Inbound {
        /// As of [`Refusal::Packet`].
        protocol: u32,
        /// What was wrong with it.
        #[serde(default)]
        fault: PacketFault,
    },
    /// A connect in a network namespace in which the daemon does not listen, or while there was no daemon.
    NoListener,
    /// A socket of a family that the programs do not see.
    SocketFamily {
        /// `AF_...`
        family: u32,
        /// Of netlink, the kind.
        protocol: u32,
    },
    /// A socket of another cgroup, handed over.
    Descriptor,
    /// A look into, or a hold of, a process of another cgroup.
    Process,
    /// A use of `bpf(2)`.
    Bpf {
        /// `BPF_...`
        command: u32,
    },
    /// A connect or a datagram to a local (Unix) socket of another cgroup.
    LocalSocket,
    /// A device that is not among those that agents may use.
    Device {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A new network interface in a network of the agent's own: its other end could be in one of somebody else's.
    Interface,
    /// A reason that this version does not know.
    Unknown {
        /// Its number.
        reason: u32,
    },
}

/// What was wrong with a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PacketFault {
    /// Its other end was neither the daemon nor a socket of the agent's own cgroup.
    Peer,
    /// It was neither IPv4 nor IPv6.
    Family,
    /// It had IPv4 options.
    Options,
    /// It was a fragment.
    Fragment,
    /// Neither TCP nor UDP followed the IP header.
    Protocol,
    /// It ended within a header.
    Short,
    /// It was on another device than `lo`.
    Device,
    /// It went to an address other than 127.0.0.1 and `::1`.
    Address,
    /// It had no socket.
    Socket,
    /// The daemon never wrote its settings.
    Settings,
    /// Not known: of an older version, or of a newer kernel object.
    #[default]
    Unknown,
}

impl PacketFault {
    const fn of(number: u32) -> Self {
        match number {
            0 => Self::Peer,
            1 => Self::Family,
            2 => Self::Options,
            3 => Self::Fragment,
            4 => Self::Protocol,
            5 => Self::Short,
            6 => Self::Device,
            7 => Self::Address,
            8 => Self::Socket,
            9 => Self::Settings,
            _ => Self::Unknown,
        }
    }
}

/// For people: the packet's fault, as the end of a sentence.
impl fmt::Display for PacketFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peer => "its other end is neither the daemon nor of the agent's cgroup",
            Self::Family => "it is neither IPv4 nor IPv6",
            Self::Options => "it has IP options",
            Self::Fragment => "it is a fragment",
            Self::Protocol => "it is neither plain TCP nor plain UDP",
            Self::Short => "it is too short",
            Self::Device => "it is not on lo",
            Self::Address => "it is for another address than 127.0.0.1 and ::1",
            Self::Socket => "it has no socket",
            Self::Settings => "the daemon wrote no settings",
            Self::Unknown => "for a reason unknown",
        })
    }
}

impl Refusal {
    /// All that [`Refusal::kind`] says.
    pub const KINDS: [&str; 18] = [
        "settings",
        "socket_kind",
        "no_record",
        "udp",
        "bind",
        "socket_option",
        "packet",
        "connect_kind",
        "inbound",
        "no_listener",
        "socket_family",
        "descriptor",
        "process",
        "bpf",
        "local_socket",
        "device",
        "interface",
        "unknown",
    ];

    /// What was tried, in a word for metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NoSettings => "settings",
            Self::SocketKind { .. } => "socket_kind",
            Self::NoRecord => "no_record",
            Self::Udp => "udp",
            Self::Bind => "bind",
            Self::SocketOption { .. } => "socket_option",
            Self::Packet { .. } => "packet",
            Self::ConnectKind => "connect_kind",
            Self::Inbound { .. } => "inbound",
            Self::NoListener => "no_listener",
            Self::SocketFamily { .. } => "socket_family",
            Self::Descriptor => "descriptor",
            Self::Process => "process",
            Self::Bpf { .. } => "bpf",
            Self::LocalSocket => "local_socket",
            Self::Device { .. } => "device",
            Self::Interface => "interface",
            Self::Unknown { .. } => "unknown",
        }
    }
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
            Self::Packet { protocol, fault } => write!(f, "a packet of protocol {protocol} past the daemon: {fault}"),
            Self::ConnectKind => f.write_str("a connect that is neither TCP nor UDP"),
            Self::Inbound { protocol, fault } => write!(f, "a packet of protocol {protocol} from outside: {fault}"),
            Self::NoListener => f.write_str("a connect in a network namespace without the daemon"),
            Self::SocketFamily { family, protocol } => write!(f, "a socket of family {family}, protocol {protocol}"),
            Self::Descriptor => f.write_str("a socket that another cgroup handed over"),
            Self::Process => f.write_str("a look into a process of another cgroup"),
            Self::Bpf { command } => write!(f, "bpf(2), command {command}"),
            Self::LocalSocket => f.write_str("a local socket of a cgroup that is not among `[capture] local_peers`"),
            Self::Device { major, minor } => {
                write!(f, "the device {major}:{minor}; `[capture] devices` names those allowed")
            }
            Self::Interface => f.write_str("a network interface, by rights in a user namespace of its own"),
            Self::Unknown { reason } => write!(f, "reason {reason} of a newer kernel object"),
        }
    }
}

/// The reader of the ring. One at a time: readers of one ring take events from each other.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
    counters: PerCpuArray<MapData, u64>,
    /// Events that were lost, as they were counted last.
    lost: u64,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>, counters: PerCpuArray<MapData, u64>) -> io::Result<Self> {
        Ok(Self { ring: sys::watch(ring)?, counters, lost: 0 })
    }

    /// How many refusals nobody was told of, since this was asked last: too many of one cgroup at once, or a full ring. The first
    /// time, since the programs were first loaded: nobody may have asked while no daemon ran.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn newly_lost(&mut self) -> io::Result<u64> {
        let now = Counters::read(&self.counters).map_err(io::Error::other)?.lost_events;
        Ok(now.wrapping_sub(std::mem::replace(&mut self.lost, now)))
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
        7 => Refusal::Packet { protocol: detail & 0xffff, fault: PacketFault::of(detail >> 16) },
        8 => Refusal::ConnectKind,
        9 => Refusal::Inbound { protocol: detail & 0xffff, fault: PacketFault::of(detail >> 16) },
        10 => Refusal::NoListener,
        11 => Refusal::SocketFamily { family: detail >> 16, protocol: detail & 0xffff },
        12 => Refusal::Descriptor,
        13 => Refusal::Process,
        14 => Refusal::Bpf { command: detail },
        15 => Refusal::LocalSocket,
        16 => {
            let [upper, lower] = halves(event.other);
            Refusal::Device { major: upper, minor: lower }
        }
        17 => Refusal::Interface,
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
        other: (event.other != 0 && !matches!(refusal, Refusal::Device { .. })).then_some(event.other),
        refusal,
        comm: maps::name(&event.comm),
    }
}

/// The upper and the lower half.
fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_be_bytes();
    [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])]
}

#[cfg(test)]
mod tests {
    use super::*;
    use interceptor_ebpf::{Fault, REASONS, Reason, mapped};

    #[test]
    fn every_reason_has_a_name_and_a_packet_has_no_process() {
        for reason in 1..REASONS {
            let reason = u32::try_from(reason).unwrap();
            let event = kernel_event(&Event { reason, ..Event::default() });
            assert!(!matches!(event.refusal, Refusal::Unknown { .. }), "{reason}");
            assert!(Refusal::KINDS.contains(&event.refusal.kind()), "{reason}");
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
        assert_eq!(sys::event(&[0; 87]), None);
        let tun = Event { reason: Reason::Device as u32, other: (10 << 32) | 200, ..Event::default() };
        let tun = kernel_event(&tun);
        assert_eq!((tun.refusal, tun.other), (Refusal::Device { major: 10, minor: 200 }, None));
        let relay = kernel_event(&Event { reason: Reason::LocalSocket as u32, other: 77, ..Event::default() });
        assert_eq!((relay.refusal, relay.other), (Refusal::LocalSocket, Some(77)));
    }

    #[test]
    fn packets_say_what_was_wrong_with_them() {
        let packet = |fault: u32| {
            let detail = (fault << 16) | 43;
            kernel_event(&Event { reason: Reason::Packet as u32, detail, ..Event::default() }).refusal
        };
        for fault in 0..=Fault::Settings as u32 {
            assert_ne!(packet(fault), Refusal::Packet { protocol: 43, fault: PacketFault::Unknown });
        }
        let extension = Refusal::Packet { protocol: 43, fault: PacketFault::Protocol };
        assert_eq!(packet(Fault::Protocol as u32), extension);
        assert!(extension.to_string().ends_with("protocol 43 past the daemon: it is neither plain TCP nor plain UDP"));
        let old: Refusal = serde_json::from_str(r#"{"kind":"packet","protocol":6}"#).unwrap();
        assert_eq!(old, Refusal::Packet { protocol: 6, fault: PacketFault::Unknown });
    }
}
