//! Why capture does not start, or not for all cgroups.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

/// Why capture did not start, or not for all cgroups.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The configuration contradicts itself.
    #[error("capture configuration: {0}")]
    Config(String),
    /// The daemon runs elsewhere than configured.
    #[error("the daemon runs in cgroup {actual}, but must run in {expected}: the fence lets agents reach only that")]
    OwnCgroup {
        /// As configured.
        expected: String,
        /// As `/proc` says.
        actual: String,
    },
    /// A cgroup cannot be used.
    #[error("cgroup {path}: {source}")]
    Cgroup {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The agents could leave the cgroup.
    #[error(
        "cgroup {path} lies in {ancestor}, which belongs to user {uid}: that user can move its processes out of it. \
         Use a cgroup of the system's, or set `allow_delegated` where no agent runs as that user"
    )]
    Delegated {
        /// The governed one.
        path: String,
        /// The one that is delegated.
        ancestor: String,
        /// To whom; or root, where others may write there, too.
        uid: u32,
    },
    /// The pin directory cannot be used.
    #[error("pin directory {path}: {source}")]
    Pins {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused the object.
    #[error("loading the kernel programs: {0}")]
    Load(#[from] EbpfError),
    /// The kernel refused a program.
    #[error("loading the kernel program {name}: {source}")]
    Program {
        /// Which.
        name: &'static str,
        /// Why, with the verifier's words.
        source: ProgramError,
    },
    /// A map cannot be used.
    #[error("kernel maps: {0}")]
    Map(#[from] MapError),
    /// A pinned map has another shape than this version expects.
    #[error("the pinned map {0} belongs to another version: run `interceptor` of that version, or uninstall first")]
    MapShape(&'static str),
    /// The object lacks a map or program: it was not built from this source.
    #[error("the kernel object lacks {0}")]
    Missing(&'static str),
    /// Attaching failed.
    #[error("attaching {program} to {cgroup}: {source}{why}")]
    Attach {
        /// Which program.
        program: &'static str,
        /// Where.
        cgroup: String,
        /// Why.
        source: io::Error,
        /// Whose program stands in the way, and what to do; empty where none does.
        why: String,
    },
    /// The hooks of security modules are required, and not to be had.
    #[error("[capture] security_modules = \"required\", but {0}")]
    Modules(String),
    /// This process may attach nothing, and what should be attached is not.
    #[error(
        "no kernel programs are attached to {0}, and this process may attach none: run `interceptor prepare` as root, in \
         this cgroup, before it (the unit does), or run the daemon as root; while it runs, `interceptor reload` as root does it"
    )]
    Unprepared(String),
    /// Who has a running daemon enroll cgroups has to be of its version.
    #[error("no daemon of this version runs here: start it, or restart it after an upgrade ({0})")]
    NoDaemon(String),
    /// More than one of them.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<CaptureError>),
    /// The kernel's type information cannot be read.
    #[error("reading the kernel's type information (BTF): {0}")]
    Btf(io::Error),
}

impl CaptureError {
    /// Whether root has to prepare something before the daemon can go on.
    #[must_use]
    pub fn is_unprepared(&self) -> bool {
        match self {
            Self::Unprepared(_) => true,
            Self::Several(all) => all.iter().any(Self::is_unprepared),
            _ => false,
        }
    }
}
