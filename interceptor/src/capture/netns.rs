//! Agents in other network namespaces: containers, and whoever makes a namespace of its own.
//!
//! The kernel programs follow a cgroup into every namespace, and send what connects there to the daemon's port on *that*
//! namespace's loopback. So the daemon has a listener in each: made by a thread that enters the namespace, and ends; where the
//! daemon may enter none, by one of the [`Doorkeeper`]'s. It is made when the container's runtime says so, when a governed
//! process is found there, and otherwise after the first connect (or question to a resolver) was refused for want of it.
//!
//! What an agent can cause is bounded: how many there are, in all and for one cgroup, how fast, and one thread at a time.
//! Beyond that its connects stay refused, and that is on record. A listener keeps its namespace in the kernel, so it is
//! closed once no governed process is in there.
//!
//! An address that is a namespace's own (loopback, link-local, or configured in it) means a machine that the daemon cannot
//! reach, whatever the host has at that address: [`Probe`] tells, and such connections lead to no target.
//!
//! Not promised: a listener for a socket that was made in one namespace and is connected from a process in another; one
//! where somebody in the namespace has the daemon's port.

mod door;
mod doorkeeper;
mod enter;
mod error;
mod fresh;
mod keeping;
mod limits;
mod live;
mod probe;
mod sockets;

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use self::door::Door;
pub use self::doorkeeper::Doorkeeper;
use self::enter::{Made, Wanted};
pub use self::error::NamespaceError;
pub use self::fresh::move_to_new;
pub use self::keeping::KeptNamespaces;
use self::keeping::Origin;
use self::limits::{Claims, Limits};
pub(super) use self::probe::Probe;
use self::sockets::{Ports, Sockets};
use super::listener::Likeness;
use super::pins::Pins;
use super::{Captured, Config, KernelEvent, Listener, Unrecorded, dns, loader};

/// Descriptors of a namespace: two to listen, two that relay, one that probes.
pub const NAMESPACE_DESCRIPTORS: usize = 5;
/// Questions of all namespaces that are in flight at once.
pub const QUESTIONS_IN_FLIGHT: usize = 512;
/// A namespace that nobody is found in stays for so long after it was last of use.
const IDLE: Duration = Duration::from_secs(10);
/// Accepted connections that wait to be served: the kernel holds the others.
const ARRIVALS: usize = 64;
/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a listener is wanted in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A process was refused in the namespace with this cookie; it was in this cgroup.
    Refused {
        /// Process id in the initial pid namespace.
        pid: u32,
        /// Network namespace cookie.
        cookie: u64,
        /// cgroup v2 id.
        cgroup: u64,
    },
    /// The operator, or a container's runtime, says that this process is an agent.
    Announced {
        /// Process id in the initial pid namespace.
        pid: u32,
    },
    /// A governed process was found.
    Found {
        /// Process id in the initial pid namespace.
        pid: u32,
    },
}

impl Wish {
    /// What a refusal asks for, where it is one for want of a listener.
    #[must_use]
    pub fn of(event: &KernelEvent) -> Option<Self> {
        Some(Self::Refused { pid: event.pid?, cookie: event.netns?, cgroup: event.cgroup })
    }

    /// The process.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        match self {
            Self::Refused { pid, .. } | Self::Announced { pid } | Self::Found { pid } => *pid,
        }
    }

    /// The cookie of the namespace, where that one and no other is meant.
    const fn cookie(&self) -> Option<u64> {
        match self {
            Self::Refused { cookie, .. } => Some(*cookie),
            Self::Announced { .. } | Self::Found { .. } => None,
        }
    }
}

/// A namespace in which the daemon listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its cookie, as in records of connections.
    pub cookie: u64,
    /// Its inode number, as `lsns` and `/proc/PID/ns/net` have it.
    pub inode: u64,
    /// The process for which the listener was made.
    pub pid: u32,
    /// The cgroup of that process.
    pub cgroup: String,
    /// Connections captured so far.
    pub captured: u64,
}

/// All namespaces in which the daemon listens, beside its own. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Namespaces(Arc<Inner>);

/// Captured connections of all namespaces.
pub type Arrivals = mpsc::Receiver<Result<Captured, Unrecorded>>;

#[derive(Debug)]
struct Inner {
    config: Config,
    home: u64,
    listener: Likeness,
    relay: Option<dns::Likeness>,
    names: Arc<dyn dns::Names>,
    questions: Arc<Semaphore>,
    runtime: Handle,
    arrivals: mpsc::Sender<Result<Captured, Unrecorded>>,
    table: Mutex<Table>,
    /// Held while a thread is in a namespace.
    entering: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<u64, Open>,
    claims: Claims,
}

#[derive(Debug)]
struct Open {
    seen: Namespace,
    /// The cgroup that counts it, where an agent has caused it.
    cgroup: Option<u64>,
    /// Under which name the service manager keeps its sockets.
    origin: Origin,
    usage: Arc<Mutex<Usage>>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Usage {
    captured: u64,
    last: Instant,
}

impl Open {
    fn now(&self) -> Namespace {
        Namespace { captured: self.usage.lock().captured, ..self.seen.clone() }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // The tasks own the sockets.
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Namespaces {
    /// Listens nowhere yet. Call it inside the runtime that is to accept, with the listener and the relay of the daemon's
    /// own namespace, which those of others are like.
    ///
    /// # Errors
    /// When the system does not say which namespace this is.
    pub fn new(
        config: &Config,
        listener: &Listener,
        relay: Option<&dns::Relay>,
        names: Arc<dyn dns::Names>,
    ) -> io::Result<(Self, Arrivals)> {
        let (arrivals, arriving) = mpsc::channel(ARRIVALS);
        let inner = Inner {
            config: config.clone(),
            home: std::fs::metadata("/proc/self/ns/net")?.ino(),
            listener: listener.likeness(),
            relay: relay.map(dns::Relay::likeness),
            names,
            questions: Arc::new(Semaphore::new(QUESTIONS_IN_FLIGHT)),
            runtime: Handle::current(),
            arrivals,
            table: Mutex::default(),
            entering: tokio::sync::Mutex::default(),
        };
        Ok((Self(Arc::new(inner)), arriving))
    }

    /// Those that are open, in the order of their inodes.
    #[must_use]
    pub fn list(&self) -> Vec<Namespace> {
        let table = self.0.table.lock();
        let mut all: Vec<Namespace> = table.open.values().map(Open::now).collect();
        all.sort_by_key(|one| one.inode);
        all
    }

    /// How namespaces are opened; asks whoever does it for the daemon, which starts it where it does not run yet. Takes 30
    /// seconds at most.
    ///
    /// # Errors
    /// When the question cannot be put.
    pub async fn door(&self) -> io::Result<Door> {
        let config = self.0.config.clone();
        tokio::task::spawn_blocking(move || door::which(&config)).await.map_err(io::Error::other)
    }

    /// Whether the namespace that a refusal names has a listener.
    #[must_use]
    pub fn is_open(&self, wish: Wish) -> bool {
        matches!(wish, Wish::Refused { cookie, .. } if self.0.table.lock().open.contains_key(&cookie))
    }

    /// Listens in a namespace. One that is open already is given as it is.
    ///
    /// # Errors
    /// When a bound is reached, the process is gone or elsewhere by now, is not governed, or the daemon's port is taken.
    pub async fn open(&self, wish: Wish) -> Result<Namespace, NamespaceError> {
        if let Wish::Refused { cookie, .. } = wish
            && let Some(open) = self.0.table.lock().open.get(&cookie)
        {
            return Ok(open.seen.clone());
        }
        self.0.limits().claim(&mut self.0.table.lock().claims, wish, Instant::now())?;
        let _alone = self.0.entering.lock().await;
        let wanted = self.0.wanted(wish);
        let made = tokio::task::spawn_blocking(move || door::make(wanted)).await;
        let made = made.map_err(|error| NamespaceError::Enter(io::Error::other(error)))??;
        self.adopt(wish, made)
    }

    /// Takes note of what was made, and has it served.
    fn adopt(&self, wish: Wish, made: Made) -> Result<Namespace, NamespaceError> {
        let Made { cookie, inode, cgroup: (cgroup, cgroup_id), sockets } = made;
        let _reactor = self.0.runtime.enter();
        let mut table = self.0.table.lock();
        let Some(sockets) = sockets else {
            // The thread found it open already.
            let open = table.open.get(&cookie).ok_or(NamespaceError::Elsewhere { pid: wish.pid() })?;
            return Ok(open.seen.clone());
        };
        let counted = match wish {
            Wish::Announced { .. } => None,
            Wish::Refused { cgroup, .. } => Some(cgroup),
            Wish::Found { .. } => Some(cgroup_id),
        };
        let origin = Origin { cookie, inode, cgroup: cgroup_id };
        let seen = Namespace { cookie, inode, pid: wish.pid(), cgroup, captured: 0 };
        self.0.serve(&mut table, (wish, counted), (seen, origin), sockets)
    }

    /// Goes on with what the service manager kept of the last run: who has connected since then waits in it. What is not as it
    /// was said, is of nobody any more, or is too many, is dropped, and made anew when it is wanted. Blocks on `/proc` away from
    /// the runtime.
    ///
    /// # Errors
    /// When the cgroups cannot be walked.
    pub async fn take_over(&self, kept: KeptNamespaces) -> io::Result<()> {
        if kept.0.is_empty() {
            return Ok(());
        }
        let live = self.live().await?;
        let pins = Pins::new(&self.0.config.pin_directory);
        let _reactor = self.0.runtime.enter();
        for (origin, parts) in kept.0 {
            let Origin { cookie, inode, cgroup } = origin;
            let taken = Sockets::from_parts(parts, (cookie, self.0.ports()), Some(&pins));
            let pid = live.namespaces.get(&inode).copied().filter(|_| inode != self.0.home);
            let taken = taken.map_err(|error| error.to_string()).and_then(|sockets| {
                let pid = pid.ok_or_else(|| "no governed process is in it".to_owned())?;
                let path = super::cgroup::cgroup_path(cgroup).unwrap_or_else(|_| "a cgroup that is gone".to_owned());
                let seen = Namespace { cookie, inode, pid, cgroup: path, captured: 0 };
                let wish = (Wish::Found { pid }, Some(cgroup));
                let served = self.0.serve(&mut self.0.table.lock(), wish, (seen, origin), sockets);
                served.map_err(|error| error.to_string())
            });
            match taken {
                Ok(seen) => tracing::info!(inode = seen.inode, "still listens in a network namespace"),
                Err(why) => {
                    tracing::warn!(inode, %why, "what was kept of a network namespace is not used");
                    origin.forget();
                }
            }
        }
        Ok(())
    }

    /// Closes those that no governed process is in any more, and opens those in which one is found. Gives what was closed.
    /// Blocks on `/proc` away from the runtime.
    ///
    /// # Errors
    /// When the cgroups cannot be walked: nothing is closed then.
    pub async fn sweep(&self, discover: bool) -> io::Result<Vec<Namespace>> {
        if !discover && self.0.table.lock().open.is_empty() {
            return Ok(Vec::new());
        }
        let live = self.live().await?;
        let now = Instant::now();
        let closed = self.close(&live, |open| now.saturating_duration_since(open.usage.lock().last) >= IDLE);
        if discover {
            self.discover(&live).await;
        }
        Ok(closed)
    }

    /// Closes at once those of a cgroup that was let go: nobody is sent there any more. Those in which other governed processes
    /// are stay. Gives what was closed. Blocks on `/proc` away from the runtime.
    ///
    /// # Errors
    /// When the cgroups cannot be walked: nothing is closed then, and the next sweep does it.
    pub async fn leave(&self, cgroup: &str) -> io::Result<Vec<Namespace>> {
        // What is being made for it counts as well.
        let _alone = self.0.entering.lock().await;
        let its = |open: &Open| Path::new(&open.seen.cgroup).starts_with(cgroup);
        if !self.0.table.lock().open.values().any(its) {
            return Ok(Vec::new());
        }
        let live = self.live().await?;
        Ok(self.close(&live, its))
    }

    /// Where governed processes are.
    async fn live(&self) -> io::Result<live::Live> {
        let config = self.0.config.clone();
        let live = tokio::task::spawn_blocking(move || {
            let roots: Vec<String> = loader::governed(&config)?.into_iter().map(|(_, path)| path).collect();
            live::walk(&roots)
        });
        live.await.map_err(io::Error::other)?
    }

    /// Closes those that are done with, where no governed process is. Where not every process was looked at, none.
    fn close(&self, live: &live::Live, done: impl Fn(&Open) -> bool) -> Vec<Namespace> {
        let mut table = self.0.table.lock();
        let left = |open: &Open| live.complete && !live.namespaces.contains_key(&open.seen.inode) && done(open);
        let gone: Vec<u64> = table.open.iter().filter(|(_, open)| left(open)).map(|(cookie, _)| *cookie).collect();
        let closed = gone.iter().filter_map(|cookie| table.open.remove(cookie));
        closed.inspect(|open| open.origin.forget()).map(|open| open.now()).collect()
    }

    async fn discover(&self, live: &live::Live) {
        let known: Vec<u64> = self.0.table.lock().open.values().map(|open| open.seen.inode).collect();
        let new = live.namespaces.iter().filter(|(inode, _)| **inode != self.0.home && !known.contains(inode));
        for (_, pid) in new {
            match self.open(Wish::Found { pid: *pid }).await {
                Ok(seen) => tracing::info!(inode = seen.inode, pid, "listens in a network namespace that was found"),
                // Its first connect says so again, and that is on record.
                Err(error) => tracing::debug!(pid, %error, "no listener in a network namespace that was found"),
            }
        }
    }
}

impl Inner {
    const fn limits(&self) -> Limits {
        Limits::new(self.config.namespaces)
    }

    fn wanted(&self, wish: Wish) -> Wanted {
        let known = self.table.lock().open.values().map(|open| (open.seen.inode, open.seen.cookie)).collect();
        Wanted { wish, config: self.config.clone(), homes: vec![self.home], ports: self.ports(), known }
    }

    fn ports(&self) -> Ports {
        Ports { proxy: self.listener.port(), dns: self.relay.as_ref().map(dns::Likeness::port) }
    }

    /// Has the sockets served, where there is room. Call it inside the runtime.
    fn serve(
        &self,
        table: &mut Table,
        (wish, counted): (Wish, Option<u64>),
        (seen, origin): (Namespace, Origin),
        sockets: Sockets,
    ) -> Result<Namespace, NamespaceError> {
        let of_cgroup = table.open.values().filter(|open| counted.is_some() && open.cgroup == counted).count();
        self.limits().room(wish, table.open.len(), of_cgroup)?;
        // Only then is anybody sent there.
        sockets.mark(&self.config).map_err(NamespaceError::Sockets)?;
        let again = if sockets.kept { Vec::new() } else { origin.duplicates(&sockets) };
        let listener = self.listener.within(sockets.tcp, sockets.probe).map_err(NamespaceError::Sockets)?;
        let relay =
            self.relay.as_ref().zip(sockets.udp).map(|(like, udp)| like.within(udp, Arc::clone(&self.questions)));
        let relay = relay.transpose().map_err(NamespaceError::Sockets)?;
        origin.keep(&again);
        let usage = Arc::new(Mutex::new(Usage { captured: 0, last: Instant::now() }));
        let mut tasks = vec![self.runtime.spawn(serve(listener, self.arrivals.clone(), Arc::clone(&usage)))];
        if let Some(relay) = relay {
            let names = Arc::clone(&self.names);
            tasks.push(self.runtime.spawn(async move { relay.run(names).await }));
        }
        table.open.insert(seen.cookie, Open { seen: seen.clone(), cgroup: counted, origin, usage, tasks });
        Ok(seen)
    }
}

/// Accepts in one namespace until it is closed.
async fn serve(listener: Listener, arrivals: mpsc::Sender<Result<Captured, Unrecorded>>, usage: Arc<Mutex<Usage>>) {
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                {
                    let mut usage = usage.lock();
                    usage.captured = usage.captured.saturating_add(u64::from(accepted.is_ok()));
                    usage.last = Instant::now();
                }
                if arrivals.send(accepted).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "accepting failed in a network namespace");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
