//! The ABI between the kernel programs and the daemon: records, map names, constants.
//!
//! Every type is `repr(C)` without implicit padding, so that each byte that crosses has a name. A change of any layout or
//! of a map's shape is a new [`SCHEMA`]: the daemon pins maps below a directory named after it and never mixes two.
//! Promises nothing about the order in which programs see a socket.
#![no_std]

/// Version of every layout in this file and of the maps in `main.rs`.
pub const SCHEMA: u32 = 6;

/// Names of the maps, as pinned.
pub mod map {
    /// Array of one [`super::Settings`].
    pub const SETTINGS: &str = "SETTINGS";
    /// Storage of agents' sockets: [`super::Record`].
    pub const SOCKETS: &str = "SOCKETS";
    /// Storage of the daemon's accepted sockets: [`super::Record`].
    pub const ACCEPTED: &str = "ACCEPTED";
    /// Storage of the sockets that the daemon listens on: [`super::Mark`]. Written by the daemon alone.
    pub const OWN: &str = "OWN";
    /// LRU hash of handshakes in flight: [`super::Tuple`] to [`super::Record`].
    pub const HANDSHAKES: &str = "HANDSHAKES";
    /// LRU hash of questions to the relay, by where they came from: [`super::Tuple`] to [`super::Record`].
    pub const ASKERS: &str = "ASKERS";
    /// Ring of [`super::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// Counters by [`super::Reason`], one set a CPU.
    pub const COUNTERS: &str = "COUNTERS";
    /// Hash of cgroup ids, whose local sockets agents may use, to [`super::DATAGRAMS`] or [`super::ALL_SOCKETS`].
    pub const LOCAL_PEERS: &str = "LOCAL_PEERS";
    /// Hash of [`super::Device`]s that agents may use beside the usual ones, to 1.
    pub const DEVICES: &str = "DEVICES";
    /// LRU hash of cgroup ids to [`super::Pace`].
    pub const PACES: &str = "PACES";

    /// All of them.
    pub const ALL: [&str; 11] =
        [SETTINGS, SOCKETS, ACCEPTED, OWN, HANDSHAKES, ASKERS, EVENTS, COUNTERS, LOCAL_PEERS, DEVICES, PACES];
}

/// Entries of [`map::LOCAL_PEERS`] at most.
pub const MAX_LOCAL_PEERS: usize = 256;
/// Entries of [`map::DEVICES`] at most.
pub const MAX_DEVICES: usize = 256;
/// Of a local peer: agents may send it datagrams.
pub const DATAGRAMS: u32 = 1;
/// Of a local peer: agents may send it datagrams, and connect.
pub const ALL_SOCKETS: u32 = 2;

/// A device file: what `stat(2)` says of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// [`BLOCK_DEVICE`] or [`CHARACTER_DEVICE`].
    pub kind: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// A block device.
pub const BLOCK_DEVICE: u32 = 1;
/// A character device.
pub const CHARACTER_DEVICE: u32 = 2;

/// Byte offsets of members of the running kernel's structures, in read-only data of the programs: all zero, as the object
/// has them, means that the programs that need them refuse.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `task_struct.cgroups`
    pub task_cgroups: u32,
    /// `css_set.dfl_cgrp`
    pub set_cgroup: u32,
    /// `cgroup.kn`
    pub cgroup_node: u32,
    /// `kernfs_node.id`
    pub node_id: u32,
    /// `socket.sk`
    pub socket_sock: u32,
    /// `sock.sk_cgrp_data`, and in it the cgroup
    pub sock_cgroup: u32,
    /// `file.f_inode`
    pub file_inode: u32,
    /// `inode.i_mode`
    pub inode_mode: u32,
    /// `file.private_data`
    pub file_private: u32,
    /// `sock.sk_net`
    pub sock_net: u32,
    /// `net.user_ns`
    pub net_owner: u32,
    /// `user_namespace.level`
    pub owner_level: u32,
    /// `sk_buff.len`
    pub message_length: u32,
    /// `sk_buff.data`
    pub message_data: u32,
}

/// Handshakes in flight at once; the oldest gives way, and its connection is then closed for want of a record.
pub const MAX_HANDSHAKES: usize = 16_384;
/// Sockets that asked the relay lately; the oldest gives way, and what it asked is then not answered.
pub const MAX_ASKERS: usize = 4096;
/// Bytes of the ring of events; when full, events are counted as lost.
pub const EVENT_BYTES: usize = 1 << 20;
/// cgroups whose pace is known; the oldest gives way, and begins anew.
pub const MAX_PACES: usize = 4096;
/// Events of one cgroup in one second at most, of each of the sorts of [`Pace`]; more are counted as lost. The ring holds some 10,900.
pub const EVENTS_A_SECOND: u32 = 1000;
/// Questions to the relay of one cgroup in one second at most; more are dropped. The relay answers a tenth of that.
pub const QUESTIONS_A_SECOND: u32 = 1000;

/// What a cgroup has caused within a second. Counted without locks: of increments at the same moment one may be lost.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// The second since boot.
    pub second: u64,
    /// Events in it, but for the following.
    pub events: u32,
    /// Events of packets that came in.
    pub inbound: u32,
    /// Events of connects where nobody listens.
    pub listeners: u32,
    /// Questions in it.
    pub questions: u32,
}

/// What the daemon tells the programs. All zero, as a fresh map is, means: deny everything.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// cgroup v2 id of the daemon, by which its connections to servers of agents are known; 0 denies everything.
    pub daemon_cgroup: u64,
    /// Cookie of the daemon's network namespace. In every other one, all that is asked at [`DNS_PORT`] goes to the relay: the
    /// resolvers that containers know are none of the host's.
    pub home: u64,
    /// Resolver that agents may ask, IPv4 as mapped; meaningful where `has_resolver` is 1.
    pub resolver: Address,
    /// Offset of `start_boottime` in `task_struct`; 0 when unknown.
    pub start_boottime_offset: u32,
    /// Offset of `group_leader` in `task_struct`; 0 when unknown.
    pub group_leader_offset: u32,
    /// The proxy's TCP port on 127.0.0.1 and ::1, host order.
    pub proxy_port: u16,
    /// The DNS relay's UDP port on 127.0.0.1 and ::1, host order.
    pub dns_port: u16,
    /// The resolver's port, host order.
    pub resolver_port: u16,
    /// 1 where UDP to the resolver is relayed, 0 where all UDP is denied.
    pub has_resolver: u16,
}

/// What makes a socket the daemon's: only who may write to the map can mark one, and only a socket that it holds open. It
/// stays with the socket, whichever process has it, and is not inherited by the connections that it accepts.
pub type Mark = u32;

/// Where names are asked for.
pub const DNS_PORT: u16 = 53;

/// What the kernel knows of one agent's socket. In [`map::SOCKETS`] from `socket(2)` on, complete from `connect(2)` on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Socket cookie.
    pub socket: u64,
    /// Network namespace cookie.
    pub netns: u64,
    /// cgroup id at `socket(2)`.
    pub cgroup: u64,
    /// cgroup id at `connect(2)`.
    pub current_cgroup: u64,
    /// Start of the process, nanoseconds since boot; 0 when unknown.
    pub start_boottime: u64,
    /// Original destination, IPv4 as mapped; of UDP, the resolver that was asked last.
    pub address: Address,
    /// Thread group (process) in the initial pid namespace.
    pub tgid: u32,
    /// Thread in the initial pid namespace.
    pub tid: u32,
    /// Real user id in the initial user namespace.
    pub uid: u32,
    /// Real group id in the initial user namespace.
    pub gid: u32,
    /// Original destination port, host order.
    pub port: u16,
    /// [`STATE_CREATED`], [`STATE_CAPTURED`], [`STATE_LOCAL`], [`STATE_KNOWN`] or [`STATE_ASKED`].
    pub state: u16,
    /// Zero.
    pub reserved: u32,
    /// The thread's name, zero padded; forgeable.
    pub comm: [u8; 16],
}

/// The socket exists and was never connected.
pub const STATE_CREATED: u16 = 0;
/// The socket was redirected to the proxy.
pub const STATE_CAPTURED: u16 = 1;
/// The socket goes to a server of its own cgroup on this host's loopback.
pub const STATE_LOCAL: u16 = 2;

/// The socket was found to be connected with the daemon, or with a socket of its own cgroup: it was accepted, or is older
/// than the programs.
pub const STATE_KNOWN: u16 = 3;
/// The socket (of UDP) was used to ask a resolver.
pub const STATE_ASKED: u16 = 4;

/// One TCP connection, or question over UDP, in one network namespace, seen from the agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuple {
    /// Network namespace cookie.
    pub netns: u64,
    /// The agent's address, IPv4 as mapped.
    pub source: Address,
    /// The proxy's address, IPv4 as mapped.
    pub destination: Address,
    /// The agent's port, host order.
    pub source_port: u16,
    /// The proxy's port, host order.
    pub destination_port: u16,
    /// Zero.
    pub reserved: u32,
}

/// One refusal.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds since boot.
    pub boottime: u64,
    /// cgroup id of the socket, or of the process where the socket has none yet.
    pub cgroup: u64,
    /// Cookie of the socket's network namespace, with [`Reason::NoListener`]; 0 otherwise.
    pub netns: u64,
    /// cgroup id of the other end, with [`Reason::Descriptor`], [`Reason::Process`] and [`Reason::LocalSocket`]; major number
    /// in the upper half and minor number in the lower, with [`Reason::Device`]; 0 otherwise.
    pub other: u64,
    /// Destination, local address or (of what came in) source, IPv4 as mapped; zero when there is none.
    pub address: Address,
    /// Process in the initial pid namespace; 0 where a packet left no trace of its sender.
    pub tgid: u32,
    /// Real user id; 0 with `tgid` 0.
    pub uid: u32,
    /// A [`Reason`].
    pub reason: u32,
    /// What the reason is about: protocol (a packet's with its [`Fault`] in the upper half), or socket option (level in
    /// the upper half).
    pub detail: u32,
    /// Port that belongs to `address`, host order.
    pub port: u16,
    /// Zero.
    pub reserved: [u16; 3],
    /// The thread's name, zero padded; forgeable.
    pub comm: [u8; 16],
}

/// Why a program refused. Also the index in [`map::COUNTERS`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Not a refusal: an event that found the ring full, or was one too many of its cgroup.
    LostEvent = 0,
    /// The daemon never wrote its settings.
    NoSettings = 1,
    /// A socket of another kind than TCP or UDP.
    SocketKind = 2,
    /// A socket without storage: older than the programs, or memory is exhausted.
    NoRecord = 3,
    /// UDP to anything but the resolver.
    Udp = 4,
    /// A bind to an address that others can reach, or to a port of the daemon.
    Bind = 5,
    /// A socket option that would lead around the capture.
    SocketOption = 6,
    /// A packet that is not for the daemon, nor for a server of the agent's own cgroup.
    Packet = 7,
    /// A connect on a socket that is neither TCP nor UDP.
    ConnectKind = 8,
    /// A packet that came in past the daemon.
    Inbound = 9,
    /// A connect, or a question to a resolver, in a network namespace in which the daemon does not listen, or while there is
    /// no daemon.
    NoListener = 10,
    /// A socket of a family that the programs do not see.
    SocketFamily = 11,
    /// A socket of another cgroup, handed over.
    Descriptor = 12,
    /// A look into, or a hold of, a process of another cgroup.
    Process = 13,
    /// A use of `bpf(2)`.
    Bpf = 14,
    /// A local (Unix) socket of another cgroup.
    LocalSocket = 15,
    /// A device that is not among those that agents may use.
    Device = 16,
    /// A new network interface, by whoever has rights in a user namespace of his own alone.
    Interface = 17,
}

/// What is wrong with a packet that was refused.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its other end is neither the daemon nor, over TCP, a socket of the same cgroup.
    Peer = 0,
    /// It is neither IPv4 nor IPv6.
    Family = 1,
    /// It has IPv4 options.
    Options = 2,
    /// It is a fragment.
    Fragment = 3,
    /// Neither TCP nor UDP follows the IP header: the protocol says what does, say an extension header.
    Protocol = 4,
    /// It ends within a header.
    Short = 5,
    /// It is on another device than `lo`.
    Device = 6,
    /// It goes to another address than 127.0.0.1 and ::1.
    Address = 7,
    /// It has no socket, or one without a cgroup.
    Socket = 8,
    /// The daemon never wrote its settings.
    Settings = 9,
}

/// Number of [`Reason`]s.
pub const REASONS: usize = 18;

/// The kernel programs, in the order in which they are attached: the boundary first, redirection last, so that at no
/// moment something is redirected that is not also fenced in.
pub const AGENT_PROGRAMS: [(&str, u32); 16] = [
    ("egress", 1),
    ("ingress", 0),
    ("sock_create", 2),
    ("device", 6),
    ("agent_ops", 3),
    ("set_option", 22),
    ("bind4", 8),
    ("bind6", 9),
    ("recvmsg4", 19),
    ("recvmsg6", 20),
    ("sendmsg4", 14),
    ("sendmsg6", 15),
    ("getpeername4", 29),
    ("getpeername6", 30),
    ("connect4", 10),
    ("connect6", 11),
];

/// Attach type of programs at a cgroup for hooks of the kernel's security modules.
pub const LSM_CGROUP: u32 = 43;

/// The programs that are attached where the kernel takes them (BPF among its security modules, Linux 6.0), each with its
/// hook. The kernel has room for ten hooks in all.
pub const LSM_PROGRAMS: [(&str, &str); 7] = [
    ("lsm_socket", "socket_create"),
    ("lsm_receive", "file_receive"),
    ("lsm_ptrace", "ptrace_access_check"),
    ("lsm_bpf", "bpf"),
    ("lsm_connect", "unix_stream_connect"),
    ("lsm_send", "unix_may_send"),
    ("lsm_netlink", "netlink_send"),
];

/// The program at the daemon's own cgroup, with its attach type.
pub const DAEMON_PROGRAMS: [(&str, u32); 1] = [("daemon_ops", 3)];

const _: () = assert!(size_of::<Settings>() == 48);
const _: () = assert!(size_of::<Record>() == 96);
const _: () = assert!(size_of::<Tuple>() == 48);
const _: () = assert!(size_of::<Event>() == 88);
const _: () = assert!(size_of::<Device>() == 12);
const _: () = assert!(size_of::<Pace>() == 24);
const _: () = assert!(size_of::<Offsets>() == 56);

/// An IPv6 address as the four words that its sixteen octets are in memory; IPv4 as mapped (`::ffff:a.b.c.d`). Words, since
/// kernel programs may not read their context in bytes.
pub type Address = [u32; 4];

/// The address of sixteen octets.
#[must_use]
pub const fn address(o: [u8; 16]) -> Address {
    [
        u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
        u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
        u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
        u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
    ]
}

/// The sixteen octets of an address.
#[must_use]
pub const fn octets(address: Address) -> [u8; 16] {
    let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] =
        [address[0].to_ne_bytes(), address[1].to_ne_bytes(), address[2].to_ne_bytes(), address[3].to_ne_bytes()];
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// `::ffff:a.b.c.d` of an IPv4 address.
#[must_use]
pub const fn mapped(v4: [u8; 4]) -> Address {
    mapped_word(u32::from_ne_bytes(v4))
}

/// As [`mapped`], of an IPv4 address as it lies in memory.
#[must_use]
pub const fn mapped_word(v4: u32) -> Address {
    [0, 0, MAPPED_WORD, v4]
}

/// The third word of every mapped address.
pub const MAPPED_WORD: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
