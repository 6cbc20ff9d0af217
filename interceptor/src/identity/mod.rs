//! Identity: from the kernel's record of a process, and the token it presents, to a machine identity.
//!
//! Both must match one configured `[[agent]]`: the process facts *and* the attested token. The order is fixed: the
//! process is pinned and its facts are read ([`facts`]); the agents whose `match` holds are the candidates; each
//! candidate's token is fetched from where its configuration says ([`source`]) and verified ([`token`], [`jwks`]);
//! exactly one candidate may be left. None, or two, is a refusal.
//!
//! Not promised: that two processes of one uid in one cgroup can be told apart. Such processes can trace each other,
//! share sockets and read each other's tokens; give every agent its own uid and cgroup.

pub mod attestor;
pub mod config;
pub mod container;
pub mod error;
pub mod explain;
pub mod facts;
pub mod fetch;
pub mod jwks;
pub mod level;
mod reach;
pub mod source;
pub mod strict;
pub mod token;
mod xattr;

pub use attestor::{Attest, Attestor, Candidates, CgroupPath};
pub use config::{AgentConfig, ConfigError, IssuerConfig};
pub use container::Container;
pub use error::{Fault, IdentityError, Refusal};
pub use explain::WhoAmI;
pub use level::{Guarantee, Level};
pub use token::TokenError;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Facts about a process, each read from the kernel. Paths of executables depend on the agent's mounts: they inform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// User id in the initial user namespace.
    pub uid: u32,
    /// Group id in the initial user namespace.
    pub gid: u32,
    /// cgroup v2 path below the mount, as `/agents.slice/billing.service`.
    pub cgroup: String,
    /// systemd unit that the cgroup path names, where it names one.
    pub unit: Option<String>,
    /// Container that the cgroup path names, where it names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// Executable, as the kernel resolves `/proc/PID/exe`.
    pub exe: Option<String>,
    /// SHA-256 of the executable, lower-case hexadecimal.
    pub exe_sha256: Option<String>,
    /// Executables of the parents, nearest first; bounded.
    pub ancestry: Vec<String>,
    /// How well it is held. Of recordings from before there were levels: unknown, so the least.
    #[serde(default)]
    pub guarantee: Guarantee,
}

/// A verified token, without the token itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenFacts {
    /// Name of the `[[issuer]]` that vouches.
    pub issuer: String,
    /// The `sub` claim.
    pub subject: String,
    /// The `jti` claim.
    pub id: Option<String>,
    /// When the token, and with it the session, ends.
    pub expires_at: Timestamp,
}

/// A machine identity: a configured agent whose process facts and token both match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attested {
    /// Name of the configured agent.
    pub name: Arc<str>,
    /// Groups from the token that the agent's configuration admits.
    pub groups: Arc<[String]>,
    /// What matched on the process side.
    pub facts: ProcessFacts,
    /// What matched on the token side.
    pub token: TokenFacts,
}
