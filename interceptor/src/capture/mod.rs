//! Capture: the kernel programs, and the listener that turns a redirected connection into a [`Captured`].
//!
//! What the kernel recorded at `connect(2)` reaches us through the accepted socket's own storage: it cannot be forged
//! by the agent, raced, or outlived. A connection without such a record never becomes a [`Captured`].
//!
//! The order of a start: [`Listener::bind`] and [`dns::Relay::bind`] first, then [`Capture::start`], which loads,
//! attaches or re-adopts the pinned links. Links outlive the daemon on purpose: while nobody listens, governed
//! connections are refused. Only [`uninstall`] opens the host again.
//!
//! Not promised: capture in network namespaces other than the daemon's (connections there are refused); holding a root
//! agent; and, where the kernel takes no LSM programs ([`Modules`]), sockets that were made outside a governed cgroup and
//! passed into it, sockets of other families, and local daemons that do an agent's bidding.

mod btf;
pub mod cgroup;
mod config;
pub mod dns;
mod events;
mod grants;
mod listener;
mod loader;
mod maps;
mod modules;
mod pins;
mod probe;
mod sys;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

pub use self::config::{Config, Resolver, SecurityModules, is_plain};
pub use self::events::{Events, KernelEvent, PacketFault, Refusal};
pub use self::listener::{Listener, Unrecorded};
pub use self::loader::{Capture, CaptureError, Governed, governs, is_governed, uninstall};
pub use self::maps::Counters;
pub use self::modules::{Modules, are_held};
pub use self::probe::{ProbeResult, probe};

/// A redirected connection, with what the kernel knew of its caller.
#[derive(Debug)]
pub struct Captured {
    /// The accepted leg to the agent.
    pub stream: TcpStream,
    /// Who connected, and where to.
    pub origin: Origin,
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
