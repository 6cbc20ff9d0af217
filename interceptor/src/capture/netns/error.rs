//! Why the daemon does not listen in a namespace.

use std::io;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why the daemon does not listen in a namespace. Connects there stay refused.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
pub enum NamespaceError {
    /// The process ended.
    #[error("process {pid} has ended")]
    Gone {
        /// Which.
        pid: u32,
    },
    /// The process is in the daemon's own namespace, which has a listener.
    #[error("process {pid} is in the host's own network namespace, where interceptor listens already")]
    Home {
        /// Which.
        pid: u32,
    },
    /// The process left the namespace in which it was refused, or connects a socket of another one.
    #[error("process {pid} is not in the network namespace any more in which it was refused")]
    Elsewhere {
        /// Which.
        pid: u32,
    },
    /// The process is not governed.
    #[error("process {pid} runs in cgroup {cgroup}, which is not governed")]
    NotGoverned {
        /// Which.
        pid: u32,
        /// Where.
        cgroup: String,
    },
    /// There are too many namespaces.
    #[error("interceptor listens in {open} network namespaces: [capture] namespaces allows no more")]
    Full {
        /// How many.
        open: usize,
    },
    /// There are too many of one cgroup's.
    #[error("interceptor listens in {open} network namespaces of that cgroup, and in no more of one")]
    Share {
        /// How many.
        open: usize,
    },
    /// They are asked for too fast.
    #[error("network namespaces are made faster than interceptor follows")]
    Rate,
    /// Somebody in the namespace has the daemon's port, or keeps the daemon from taking it.
    #[error("port {port} cannot be had in the network namespace: {source}")]
    Port {
        /// Which.
        port: u16,
        /// Why.
        #[serde(with = "number")]
        source: io::Error,
    },
    /// The namespace cannot be entered.
    #[error(
        "the network namespace cannot be entered (that takes CAP_SYS_ADMIN and CAP_SYS_PTRACE, or interceptor-namespaces.socket): {0}"
    )]
    Enter(#[serde(with = "number")] io::Error),
    /// Sockets cannot be made, or waited for.
    #[error("sockets for the network namespace: {0}")]
    Sockets(#[serde(with = "number")] io::Error),
    /// Who opens namespaces for the daemon does not answer, or not as it should.
    #[error("interceptor-namespaces does not open it: {0}")]
    Door(#[serde(with = "number")] io::Error),
}

impl NamespaceError {
    /// Whether it is a bound that was reached: then an agent may be asking for more than it should.
    #[must_use]
    pub const fn is_bound(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Share { .. } | Self::Rate)
    }
}

/// Of an error, its number is told: words of others are not taken over.
mod number {
    use super::{Deserialize, Deserializer, Serialize, Serializer, io};

    pub(super) fn serialize<S: Serializer>(error: &io::Error, to: S) -> Result<S::Ok, S::Error> {
        error.raw_os_error().unwrap_or(libc::EIO).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<io::Error, D::Error> {
        i32::deserialize(from).map(io::Error::from_raw_os_error)
    }
}
