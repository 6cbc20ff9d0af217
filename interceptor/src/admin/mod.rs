//! The admin API on a Unix socket: root and one group, and nothing that runs in a governed cgroup.
//!
//! HTTP/1.1 with JSON bodies. Who asks is what the kernel says of the peer (`SO_PEERCRED`), never what a header says.
//! Denied are peers that are neither root nor in the configured group, and any peer, root included, whose cgroup is at
//! or below a governed one. Request bodies are bounded to [`BODY_LIMIT`] bytes.

pub mod client;
pub mod metrics;
mod peer;
mod routes;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::os::unix::net::UnixListener;

use crate::capture::{Capture, Namespace, Namespaces};
use crate::clock::Timestamp;
use crate::config::Problem;
use crate::identity::Level;
use crate::record::witness::WitnessState;
use crate::session::House;

pub use routes::router;

/// Largest request body.
pub const BODY_LIMIT: usize = 64 << 10;

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The socket; its directory is created with mode 0755, the socket has 0660 (0600 without a group).
    pub socket: PathBuf,
    /// Unix group whose members may use it besides root.
    pub group: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { socket: PathBuf::from("/run/interceptor/admin.sock"), group: None }
    }
}

/// Takes note of a cgroup that was enrolled, or let go.
pub type Enroll = Box<dyn Fn(Enrolled) -> BoxFuture<'static, Result<Enrolled, String>> + Send + Sync>;

/// What the API speaks for.
pub struct Api {
    /// What all sessions share.
    pub house: Arc<House>,
    /// Loads configuration and policies again; the text says what is in force.
    pub reload: Box<dyn Fn() -> Result<String, Vec<Problem>> + Send + Sync>,
    /// What is governed, by the configuration and by the pins: what runs there is never served.
    pub capture: Arc<Capture>,
    /// Why hooks of the kernel's security modules do not hold them as well.
    pub without_modules: Option<String>,
    /// Governed cgroups, as they were last looked at.
    pub governed: Arc<ArcSwap<Vec<String>>>,
    /// Takes note of a cgroup that was enrolled, or let go.
    pub enroll: Enroll,
    /// Network namespaces of agents' own.
    pub namespaces: Namespaces,
    /// Witnesses of the recording, and what each knows.
    pub witnesses: Arc<ArcSwap<Vec<WitnessState>>>,
    /// gid of the group that may ask.
    pub group: Option<u32>,
    /// When the daemon started.
    pub started_at: Timestamp,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("capture", &self.capture).finish_non_exhaustive()
    }
}

/// `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Governed cgroups.
    pub governed: Vec<String>,
    /// Why hooks of the kernel's security modules do not hold them as well; `None` when they do.
    pub without_modules: Option<String>,
    /// Network namespaces of agents' own in which the daemon listens.
    #[serde(default)]
    pub namespaces: Vec<Namespace>,
    /// The host CA that signs, and until when; `None` where there is none.
    #[serde(default)]
    pub ca: Option<String>,
    /// Digest of the policies in force.
    pub policies: String,
    /// Configured targets.
    pub targets: Vec<String>,
    /// Live sessions.
    pub sessions: usize,
    /// How many of them each level has; those without an identity yet have none.
    #[serde(default)]
    pub levels: BTreeMap<Level, usize>,
    /// Commands that wait for a human.
    pub waiting: usize,
    /// Whether the recorder takes events; `None` when it does, else why not.
    pub recorder_fault: Option<String>,
    /// Witnesses of the recording, and what each knows.
    #[serde(default)]
    pub witnesses: Vec<WitnessState>,
    /// What room there is for recordings, and how long it lasts; `None` before it was first seen.
    #[serde(default)]
    pub recorder_room: Option<String>,
}

/// `POST /v1/approvals/ID`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerBody {
    /// Yes or no.
    pub approve: bool,
    /// Why, for the record and the agent.
    pub reason: Option<String>,
}

/// `POST /v1/cgroups`: what root has done.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolled {
    /// Path below the cgroup2 mount.
    pub cgroup: String,
    /// Whether it is governed now.
    pub governed: bool,
    /// Connections from before that were ended.
    pub destroyed: usize,
}

/// `POST /v1/namespaces`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdoptBody {
    /// A governed process, in whose network namespace the daemon is to listen.
    pub pid: u32,
}

/// An error answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// What is wrong, and what to do.
    pub error: String,
}

/// Makes the socket.
///
/// # Errors
/// When the directory cannot be made, the group does not exist, or another daemon answers on the socket.
pub fn bind(config: &Config) -> io::Result<(UnixListener, Option<u32>)> {
    let group = match &config.group {
        None => None,
        Some(name) => {
            let group = nix::unistd::Group::from_name(name)?;
            let missing = || io::Error::new(io::ErrorKind::NotFound, format!("admin.group: there is no group {name}"));
            Some(group.ok_or_else(missing)?.gid)
        }
    };
    if let Some(directory) = config.socket.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    }
    remove_stale(&config.socket)?;
    let listener = UnixListener::bind(&config.socket)?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    if let Some(gid) = group {
        nix::unistd::chown(&config.socket, None, Some(gid))?;
    }
    fs::set_permissions(&config.socket, fs::Permissions::from_mode(mode))?;
    Ok((listener, group.map(nix::unistd::Gid::as_raw)))
}

/// Serves until `stop` resolves.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    listener: UnixListener,
    api: Arc<Api>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let service = router(api).into_make_service_with_connect_info::<peer::Peer>();
    axum::serve(listener, service).with_graceful_shutdown(stop).await
}

fn remove_stale(socket: &Path) -> io::Result<()> {
    match std::os::unix::net::UnixStream::connect(socket) {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another interceptor answers on {}; stop it first", socket.display()),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => fs::remove_file(socket),
    }
}
