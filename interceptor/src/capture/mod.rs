//! Capture: the kernel programs, and the listener that turns a redirected connection into a [`Captured`].
//!
//! What the kernel recorded at `connect(2)` reaches us through the accepted socket's own storage: it cannot be forged
//! by the agent, raced, or outlived. A connection without such a record never becomes a [`Captured`].
//!
//! The order of a start: [`Listener::take_over`] and [`dns::Relay::take_over`] first, then [`Capture::start`], which loads,
//! attaches or re-adopts the pinned links. Links outlive the daemon on purpose: while nobody listens, governed
//! connections are refused; across a restart the service manager keeps what listens ([`Kept`]), and they wait. Only
//! [`uninstall`] opens the host again.
//!
//! In network namespaces of agents' own the daemon listens as well: [`Namespaces`].
//!
//! Not promised: holding a root agent; and, where the kernel takes no LSM programs ([`Modules`]), sockets that were made
//! outside a governed cgroup and passed into it, sockets of other families, and local daemons that do an agent's bidding.

mod btf;
mod budget;
pub mod cgroup;
mod config;
mod destroy;
pub mod dns;
mod events;
mod foreign;
mod grants;
mod kept;
mod listener;
mod loader;
mod maps;
mod modules;
mod netlink;
mod netns;
mod own;
mod pins;
mod probe;
mod strays;
mod sys;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

pub use self::config::{Config, Resolver, SecurityModules, is_plain};
pub use self::destroy::Ended;
pub use self::events::{Events, KernelEvent, PacketFault, Refusal};
pub use self::kept::Kept;
pub use self::listener::{Listener, Unrecorded};
pub use self::loader::{
    Capture, CaptureError, Governed, Refreshed, Reloaded, all_governed, end_open, govern, governs, is_governed,
    prepare, prepare_doorkeeper, regovern, release, uninstall,
};
pub use self::maps::Counters;
pub use self::modules::{Modules, are_held};
pub use self::netns::{
    Arrivals, Door, Doorkeeper, KeptNamespaces, NAMESPACE_DESCRIPTORS, Namespace, NamespaceError, Namespaces,
    QUESTIONS_IN_FLIGHT, Wish, move_to_new,
};
pub use self::probe::{Finding, Scope, Verdict, probe};
pub use self::strays::{Looked, Stray, Strays};

/// A redirected connection, with what the kernel knew of its caller.
#[derive(Debug)]
pub struct Captured {
    /// The accepted leg to the agent.
    pub stream: TcpStream,
    /// Who connected, and where to.
    pub origin: Origin,
    /// The destination is an address of the agent's own network namespace, which is not the daemon's: it means another
    /// machine than the same address does here.
    pub own_address: bool,
}

impl Captured {
    /// Moves the connection from the reactor that accepted it to the caller's.
    ///
    /// # Errors
    /// When the system refuses to wait for it there; the connection is closed.
    pub fn adopt(self) -> std::io::Result<Self> {
        let stream = TcpStream::from_std(self.stream.into_std()?)?;
        Ok(Self { stream, ..self })
    }
}

/// What the kernel recorded when the agent called `connect(2)`. Written by kernel programs only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Where the agent wanted to go. A v4-mapped destination is given as IPv4.
    pub destination: SocketAddr,
    /// Process id (thread group) in the initial pid namespace.
    pub pid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Real user id in the initial user namespace.
    pub uid: u32,
    /// Real group id in the initial user namespace.
    pub gid: u32,
    /// cgroup v2 id in which the socket was created: what policy goes by.
    pub cgroup: u64,
    /// cgroup v2 id of the process when it connected; differing from `cgroup` is an anomaly.
    pub current_cgroup: u64,
    /// Start of the process (leader), nanoseconds since boot, as in field 22 of `/proc/PID/stat`; 0 when unknown.
    pub start_boottime: u64,
    /// Network namespace cookie.
    pub netns: u64,
    /// Socket cookie of the agent's socket.
    pub socket: u64,
    /// The thread's name: forgeable by the agent, for display only.
    pub comm: String,
}
