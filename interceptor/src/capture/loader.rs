//! The loader: programs into the kernel, links onto cgroups, both pinned so that they outlive the daemon.
//!
//! A start is safe at every step: the maps deny until the settings are written, the fence is attached before anything
//! is redirected, a pinned link gets its new program in one step, and a failure removes nothing.

mod prepare;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::{fmt, io};

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf, SkStorage};
use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfError, EbpfLoader};
use interceptor_ebpf::{
    AGENT_PROGRAMS, DAEMON_PROGRAMS, Device, EVENT_BYTES, Event, LSM_PROGRAMS, MAX_ASKERS, MAX_DEVICES, MAX_HANDSHAKES,
    MAX_LOCAL_PEERS, Mark, REASONS, Record, Settings, Tuple, map,
};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use parking_lot::Mutex;

use super::grants::Grants;
use super::maps::{KernelAskers, Records};
use super::modules::{self, Modules};
use super::own::Own;
use super::pins::{Attached, Pins};
use super::sys::Plain;
use super::{Config, Counters, Events, Listener, SecurityModules, btf, cgroup, dns, foreign};

pub use self::prepare::{govern, prepare, prepare_doorkeeper, release};

/// The kernel object, as committed and as `cargo xtask ebpf` rebuilds it.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../interceptor-ebpf/interceptor.bpf.o"));

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
         this cgroup, before it (the unit does), or run the daemon as root"
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

/// A governed cgroup, with its programs attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Governed {
    /// Path below the cgroup2 mount.
    pub path: String,
    /// cgroup v2 id.
    pub id: u64,
    /// False where this is only still governed because an earlier configuration said so: [`uninstall`] ends that.
    pub configured: bool,
}

/// What became of the governed cgroups.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// Those that are governed.
    pub governed: Vec<Governed>,
    /// Why others are not.
    pub failures: Vec<CaptureError>,
}

impl Refreshed {
    fn add(&mut self, one: Result<Governed, CaptureError>) {
        match one {
            Ok(governed) => self.governed.push(governed),
            Err(error) => self.failures.push(error),
        }
    }

    /// All of them.
    ///
    /// # Errors
    /// When one of them is not governed: every reason.
    pub fn whole(mut self) -> Result<Vec<Governed>, CaptureError> {
        match self.failures.len() {
            0 => Ok(self.governed),
            1 => Err(self.failures.remove(0)),
            _ => Err(CaptureError::Several(self.failures)),
        }
    }
}

/// Capture in force. Dropping it changes nothing in the kernel: links are pinned.
pub struct Capture {
    config: Config,
    pins: Pins,
    /// None where this process may not attach any: [`prepare`] has done so.
    agent_programs: Option<Vec<Loaded>>,
    modules: Modules,
    grants: Mutex<Grants>,
    counters: PerCpuArray<MapData, u64>,
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").field("config", &self.config).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) name: &'static str,
    pub(super) attach_type: u32,
    pub(super) fd: OwnedFd,
}

impl Capture {
    /// Loads the programs, arms the listener, and attaches or re-adopts every governed cgroup.
    ///
    /// Make the listener and the relay first: as soon as the programs are attached, agents are sent to them. Without a
    /// relay all UDP is refused.
    ///
    /// # Errors
    /// When anything is not as it must be. Links of an earlier run then stay as they are, so governed traffic stays
    /// closed.
    pub fn start(config: &Config, listener: &Listener, relay: Option<&dns::Relay>) -> Result<Self, CaptureError> {
        if let Some(fault) = config.faults().into_iter().next() {
            return Err(CaptureError::Config(fault));
        }
        let daemon = daemon_cgroup(config)?;
        let pins = Pins::new(&config.pin_directory);
        let programs = if may_attach() { Some(Programs::load(config, &pins)?) } else { None };
        check_shapes(&pins)?;
        // Known to the programs before anybody is sent there.
        let mut own = Own::new(pinned_map(&pins, map::OWN)?)?;
        if let Some(relay) = relay {
            let askers = KernelAskers::new(HashMap::try_from(pinned_map(&pins, map::ASKERS)?)?);
            relay.arm(&mut own, Box::new(askers))?;
        }
        listener.arm(Records::new(SkStorage::try_from(pinned_map(&pins, map::ACCEPTED)?)?), own)?;
        write_settings(&pins, &settings(daemon.id, listener, relay)?)?;
        let counters = PerCpuArray::try_from(pinned_map(&pins, map::COUNTERS)?)?;

        let grants = Mutex::new(Grants::open(&pins)?);
        let (agents, daemons, modules) = match programs {
            Some(all) => (Some(all.agents), all.daemons, all.modules),
            None => (None, Vec::new(), modules::installed(config)?),
        };
        let capture = Self { config: config.clone(), pins, agent_programs: agents, modules, grants, counters };
        match capture.agent_programs {
            Some(_) => capture.install(&daemon, &daemons, listener.is_kept())?,
            None => capture.is_installed(&daemon)?,
        }
        listener.keep();
        if let Some(relay) = relay {
            relay.keep();
        }
        Ok(capture)
    }

    /// Attaches everything, in an order in which nothing is let through meanwhile.
    fn install(&self, daemon: &Governed, programs: &[Loaded], kept: bool) -> Result<(), CaptureError> {
        // The hand-over comes first: a connection without it would be closed.
        self.attach(daemon, programs)?;
        self.hand_over(daemon.id, programs, kept)?;
        for governed in self.refresh().whole()?.iter().filter(|governed| !governed.configured) {
            tracing::warn!(cgroup = %governed.path, "no longer configured, but stays governed until uninstalled");
        }
        self.sweep()?;
        self.pins.forget_other_maps().map_err(|source| self.pin_error(source))
    }

    /// Whether [`prepare`] has attached everything.
    fn is_installed(&self, daemon: &Governed) -> Result<(), CaptureError> {
        if DAEMON_PROGRAMS.iter().any(|(program, _)| !self.pins.has(daemon.id, program)) {
            return Err(CaptureError::Unprepared(daemon.path.clone()));
        }
        self.refresh().whole().map(drop)
    }

    /// Attaches governed cgroups that appeared (again) since the last time, and those that an earlier configuration
    /// named. Cheap; call it now and then, since a removed and remade cgroup is another one to the kernel. One that cannot be
    /// governed keeps no other from it.
    pub fn refresh(&self) -> Refreshed {
        let mut all = Refreshed::default();
        for path in &self.config.cgroups {
            all.add(self.configured(path));
        }
        match self.pinned() {
            Ok(pinned) => {
                for id in pinned.into_iter().filter(|id| self.pins.has(*id, FENCE)) {
                    if !all.governed.iter().any(|one| one.id == id)
                        && let Some(found) = self.still_pinned(id).transpose()
                    {
                        all.add(found);
                    }
                }
            }
            Err(error) => all.failures.push(error),
        }
        // Last: without what they may use agents are held all the same.
        let granted = self.grants.lock().refresh(&self.config, self.agent_programs.is_some());
        all.failures.extend(granted.err().map(CaptureError::from));
        all
    }

    fn configured(&self, path: &str) -> Result<Governed, CaptureError> {
        let id = if self.agent_programs.is_some() { make_cgroup(path)? } else { self.prepared(path)? };
        let one = Governed { path: path.to_owned(), id, configured: true };
        if !self.config.allow_delegated {
            whole(path)?;
        }
        self.attach(&one, self.agent_programs.as_deref().unwrap_or_default())?;
        Ok(one)
    }

    /// One that an earlier configuration named, or an operator. Nothing where it is gone.
    fn still_pinned(&self, id: u64) -> Result<Option<Governed>, CaptureError> {
        let path = match cgroup::cgroup_path(id) {
            Ok(path) => path,
            Err(error) => {
                // Whoever was in there is gone, and so is what it was attached to.
                // A daemon that may attach nothing removes nothing either: the next one is prepared without it.
                if error.raw_os_error() == Some(libc::ESTALE) && self.agent_programs.is_some() {
                    self.pins.detach(id, &[]).map_err(|source| self.pin_error(source))?;
                }
                return Ok(None);
            }
        };
        let one = Governed { path, id, configured: false };
        self.attach(&one, self.agent_programs.as_deref().unwrap_or_default())?;
        Ok(Some(one))
    }

    /// Whether the hooks of security modules hold the governed cgroups as well.
    #[must_use]
    pub fn modules(&self) -> &Modules {
        &self.modules
    }

    /// What it was started with.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// A reader of refusals. One at a time; inside a tokio runtime.
    ///
    /// # Errors
    /// When the ring cannot be opened.
    pub fn events(&self) -> Result<Events, CaptureError> {
        let ring = MapData::from_pin(self.pins.map(map::EVENTS))?;
        let ring = RingBuf::try_from(Map::RingBuf(ring))?;
        Events::new(ring).map_err(|source| self.pin_error(source))
    }

    /// How often the programs refused.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn counters(&self) -> Result<Counters, CaptureError> {
        Ok(Counters::read(&self.counters)?)
    }

    fn attach(&self, cgroup: &Governed, programs: &[Loaded]) -> Result<(), CaptureError> {
        let at = |source| CaptureError::Cgroup { path: cgroup.path.clone(), source };
        let directory = File::open(cgroup::directory(&cgroup.path).map_err(at)?).map_err(at)?;
        for &Loaded { name: program, attach_type, ref fd } in programs {
            let done = self.pins.attach((cgroup.id, &directory), (program, attach_type), fd).map_err(|source| {
                let refused = source.raw_os_error() == Some(libc::EPERM);
                let why = refused.then(|| foreign::explain(&cgroup.path, attach_type)).flatten().unwrap_or_default();
                CaptureError::Attach { program, cgroup: cgroup.path.clone(), source, why }
            })?;
            if done == Attached::Created {
                tracing::debug!(cgroup = %cgroup.path, program, "attached");
            }
        }
        // Those of an earlier configuration; what may attach nothing may not remove them either.
        if self.config.security_modules == SecurityModules::Off && self.agent_programs.is_some() {
            let names = LSM_PROGRAMS.map(|(program, _)| program);
            self.pins.detach_some(cgroup.id, &names).map_err(|source| self.pin_error(source))?;
        }
        Ok(())
    }

    /// Sockets that were kept belong to the cgroup in which an earlier daemon made them, also where that is removed: its
    /// link gets the new program. Links of earlier daemons that left no socket go.
    fn hand_over(&self, daemon: u64, programs: &[Loaded], kept: bool) -> Result<(), CaptureError> {
        for id in self.pinned()?.into_iter().filter(|id| *id != daemon && !self.pins.has(*id, FENCE)) {
            let mut needed = kept;
            for program in programs {
                let renew = || self.pins.renew(id, program.name, &program.fd);
                needed = needed && renew().map_err(|source| self.pin_error(source))?;
            }
            if !needed {
                self.pins.detach(id, &[]).map_err(|source| self.pin_error(source))?;
            }
        }
        Ok(())
    }

    /// Removes pins of governed cgroups that are gone.
    fn sweep(&self) -> Result<(), CaptureError> {
        for id in self.pinned()?.into_iter().filter(|id| self.pins.has(*id, FENCE)) {
            if cgroup::cgroup_path(id).is_err_and(|error| error.raw_os_error() == Some(libc::ESTALE)) {
                self.pins.detach(id, &[]).map_err(|source| self.pin_error(source))?;
            }
        }
        Ok(())
    }

    /// The id of a cgroup whose programs are all attached already.
    fn prepared(&self, path: &str) -> Result<u64, CaptureError> {
        let found = cgroup::cgroup_id(path).ok();
        let governed = found.filter(|id| AGENT_PROGRAMS.iter().all(|(program, _)| self.pins.has(*id, program)));
        governed.ok_or_else(|| CaptureError::Unprepared(path.to_owned()))
    }

    fn pinned(&self) -> Result<Vec<u64>, CaptureError> {
        self.pins.cgroups().map_err(|source| self.pin_error(source))
    }

    fn pin_error(&self, source: io::Error) -> CaptureError {
        CaptureError::Pins { path: self.config.pin_directory.clone(), source }
    }
}

/// The program without which a cgroup is not governed.
const FENCE: &str = "egress";

/// Whether every agent program is attached to this cgroup or to one above it: by the pins, so with or without a daemon.
///
/// # Errors
/// When a cgroup on the way is not there.
pub fn is_governed(config: &Config, path: &str) -> io::Result<bool> {
    let pins = Pins::new(&config.pin_directory);
    for above in Path::new(path).ancestors().filter(|above| *above != Path::new("/")) {
        let id = cgroup::cgroup_id(&above.to_string_lossy())?;
        if AGENT_PROGRAMS.iter().all(|(program, _)| pins.has(id, program)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether what runs in this cgroup is an agent: by the configuration, and by what is pinned, which may be of an earlier one. A
/// cgroup that cannot be read is taken for an agent's.
#[must_use]
pub fn governs(config: &Config, path: &str) -> bool {
    let pins = Pins::new(&config.pin_directory);
    let mut above = Path::new(path).ancestors().filter(|above| *above != Path::new("/"));
    above.any(|above| {
        let named = config.cgroups.iter().any(|cgroup| Path::new(cgroup) == above);
        named || cgroup::cgroup_id(&above.to_string_lossy()).map_or(true, |id| pins.has(id, FENCE))
    })
}

/// The cgroups that have the fence, by the pins; those that are gone are left out.
pub(super) fn governed(config: &Config) -> io::Result<Vec<(u64, String)>> {
    let pins = Pins::new(&config.pin_directory);
    let fenced = pins.cgroups()?.into_iter().filter(|id| pins.has(*id, FENCE));
    Ok(fenced.filter_map(|id| Some((id, cgroup::cgroup_path(id).ok()?))).collect())
}

/// Ends all capture: removes links, redirection first and the fence last, then the maps. Gives the number of links
/// removed. Governed processes then reach whatever they like.
///
/// # Errors
/// When a pin cannot be removed; what was removed by then stays removed.
pub fn uninstall(config: &Config) -> Result<usize, CaptureError> {
    let pins = Pins::new(&config.pin_directory);
    let failed = |source| CaptureError::Pins { path: config.pin_directory.clone(), source };
    let mut order: Vec<&str> = AGENT_PROGRAMS.iter().map(|(name, _)| *name).collect();
    order.reverse();
    let mut removed = 0;
    for cgroup in pins.cgroups().map_err(failed)? {
        removed += pins.detach(cgroup, &order).map_err(failed)?;
    }
    pins.remove().map_err(failed)?;
    Ok(removed)
}

/// Loads the object without pinning or attaching anything: whether this kernel takes every program.
pub(super) fn try_load() -> Result<(), CaptureError> {
    let mut object = EbpfLoader::new().load(OBJECT)?;
    programs(&mut object, &AGENT_PROGRAMS)?;
    programs(&mut object, &DAEMON_PROGRAMS).map(drop)
}

/// As [`try_load`], the hooks of security modules.
pub(super) fn try_modules() -> Result<(), String> {
    let offsets = modules::offsets().map_err(|error| error.to_string())?;
    let mut loader = EbpfLoader::new();
    let loaded = loader.override_global(modules::OFFSETS, &offsets, true).load(OBJECT);
    modules::try_load(&mut loaded.map_err(|error| error.to_string())?).map(drop)
}

/// Whether the path, or the nearest of its parents that exists, is on a bpffs.
pub(super) fn on_bpffs(path: &Path) -> io::Result<bool> {
    let nearest = path.ancestors().find(|part| part.exists()).unwrap_or(Path::new("/"));
    Ok(statfs(nearest)?.filesystem_type() == BPF_FS_MAGIC)
}

fn daemon_cgroup(config: &Config) -> Result<Governed, CaptureError> {
    let unknown = |source| CaptureError::Cgroup { path: "of the daemon".to_owned(), source };
    let actual = cgroup::own().map_err(unknown)?;
    if let Some(expected) = &config.daemon_cgroup
        && *expected != actual
    {
        return Err(CaptureError::OwnCgroup { expected: expected.clone(), actual });
    }
    if actual == "/" {
        let remedy = "the daemon runs in the root cgroup: start it as a systemd unit, or in a cgroup of its own";
        return Err(CaptureError::Config(remedy.to_owned()));
    }
    // The defaults are only known now, so the check for overlap is made again.
    let resolved = Config { daemon_cgroup: Some(actual.clone()), ..config.clone() };
    if let Some(fault) = resolved.faults().into_iter().next() {
        return Err(CaptureError::Config(fault));
    }
    let id = cgroup::cgroup_id(&actual).map_err(unknown)?;
    Ok(Governed { path: actual, id, configured: true })
}

fn make_cgroup(path: &str) -> Result<u64, CaptureError> {
    let failed = |source| CaptureError::Cgroup { path: path.to_owned(), source };
    fs::create_dir_all(cgroup::directory(path).map_err(failed)?).map_err(failed)?;
    cgroup::cgroup_id(path).map_err(failed)
}

/// Refuses a cgroup that the user of another one, above it, can move processes out of.
fn whole(path: &str) -> Result<(), CaptureError> {
    let failed = |source| CaptureError::Cgroup { path: path.to_owned(), source };
    match cgroup::delegated(path).map_err(failed)? {
        None => Ok(()),
        Some((ancestor, uid)) => Err(CaptureError::Delegated { path: path.to_owned(), ancestor, uid }),
    }
}

fn make_pins(config: &Config, pins: &Pins) -> Result<(), CaptureError> {
    let failed = |source| CaptureError::Pins { path: config.pin_directory.clone(), source };
    if !on_bpffs(&config.pin_directory).map_err(failed)? {
        return Err(failed(io::Error::other("not on a bpffs; mount one: mount -t bpf bpf /sys/fs/bpf")));
    }
    pins.prepare().map_err(failed)
}

/// Whether this process may load and attach kernel programs, and pin what it attaches: only root makes pins.
fn may_attach() -> bool {
    let has = |capability| caps::has_cap(None, caps::CapSet::Effective, capability).unwrap_or(false);
    nix::unistd::geteuid().is_root() && has(caps::Capability::CAP_BPF) && has(caps::Capability::CAP_NET_ADMIN)
}

/// All programs, in the kernel; their maps are pinned.
struct Programs {
    agents: Vec<Loaded>,
    daemons: Vec<Loaded>,
    modules: Modules,
}

impl Programs {
    fn load(config: &Config, pins: &Pins) -> Result<Self, CaptureError> {
        make_pins(config, pins)?;
        let offsets = modules::offsets()?;
        let mut loader = EbpfLoader::new();
        loader.override_global(modules::OFFSETS, &offsets, true);
        for name in map::ALL {
            loader.map_pin_path(name, pins.map(name));
        }
        let mut object = loader.load(OBJECT)?;
        let mut agents = programs(&mut object, &AGENT_PROGRAMS)?;
        let (modules, hooks) = modules::load(&mut object, config.security_modules)?;
        agents.extend(hooks);
        Ok(Self { agents, daemons: programs(&mut object, &DAEMON_PROGRAMS)?, modules })
    }
}

fn check_shapes(pins: &Pins) -> Result<(), CaptureError> {
    for (name, key, value, entries) in shapes() {
        let info = MapData::from_pin(pins.map(name))?.info()?;
        let entries_fit = entries.is_none_or(|entries| usize::try_from(info.max_entries()) == Ok(entries));
        let fits = |actual: u32, expected: usize| usize::try_from(actual) == Ok(expected);
        if !fits(info.key_size(), key) || !fits(info.value_size(), value) || !entries_fit {
            return Err(CaptureError::MapShape(name));
        }
    }
    Ok(())
}

/// Key size, value size, entries of each map. A pin of the right name but another shape must not be taken up.
const fn shapes() -> [(&'static str, usize, usize, Option<usize>); 10] {
    [
        (map::SETTINGS, 4, size_of::<Settings>(), Some(1)),
        (map::SOCKETS, 4, size_of::<Record>(), None),
        (map::ACCEPTED, 4, size_of::<Record>(), None),
        (map::OWN, 4, size_of::<Mark>(), None),
        (map::HANDSHAKES, size_of::<Tuple>(), size_of::<Record>(), Some(MAX_HANDSHAKES)),
        (map::ASKERS, size_of::<Tuple>(), size_of::<Record>(), Some(MAX_ASKERS)),
        (map::EVENTS, 0, 0, Some(EVENT_BYTES)),
        (map::COUNTERS, 4, 8, Some(REASONS)),
        (map::LOCAL_PEERS, 8, 4, Some(MAX_LOCAL_PEERS)),
        (map::DEVICES, size_of::<Device>(), 4, Some(MAX_DEVICES)),
    ]
}

const _: () = assert!(size_of::<Event>() < EVENT_BYTES);

fn programs(object: &mut Ebpf, wanted: &[(&'static str, u32)]) -> Result<Vec<Loaded>, CaptureError> {
    wanted
        .iter()
        .map(|&(name, attach_type)| {
            let program = object.program_mut(name).ok_or(CaptureError::Missing(name))?;
            let failed = |source| CaptureError::Program { name, source };
            match program {
                Program::CgroupDevice(program) => program.load(),
                Program::CgroupSkb(program) => program.load(),
                Program::CgroupSock(program) => program.load(),
                Program::CgroupSockAddr(program) => program.load(),
                Program::CgroupSockopt(program) => program.load(),
                Program::SockOps(program) => program.load(),
                _ => return Err(CaptureError::Missing(name)),
            }
            .map_err(failed)?;
            let fd = program.fd().map_err(failed)?.as_fd().try_clone_to_owned();
            let fd = fd.map_err(|error| failed(ProgramError::IOError(error)))?;
            Ok(Loaded { name, attach_type, fd })
        })
        .collect()
}

pub(super) fn pinned_map(pins: &Pins, name: &str) -> Result<Map, MapError> {
    MapData::from_pin(pins.map(name)).and_then(Map::from_map_data)
}

fn settings(daemon_cgroup: u64, listener: &Listener, relay: Option<&dns::Relay>) -> Result<Settings, CaptureError> {
    let (start_boottime_offset, group_leader_offset) = btf::task_offsets().map_err(CaptureError::Btf)?;
    let base = Settings {
        daemon_cgroup,
        home: listener.netns(),
        start_boottime_offset,
        group_leader_offset,
        proxy_port: listener.port(),
        ..Settings::default()
    };
    Ok(relay.map_or(base, |relay| Settings {
        resolver: words(relay.resolver()),
        resolver_port: relay.resolver().port(),
        dns_port: relay.port(),
        has_resolver: 1,
        ..base
    }))
}

fn words(address: SocketAddr) -> interceptor_ebpf::Address {
    match address {
        SocketAddr::V4(v4) => interceptor_ebpf::mapped(v4.ip().octets()),
        SocketAddr::V6(v6) => interceptor_ebpf::address(v6.ip().octets()),
    }
}

fn write_settings(pins: &Pins, settings: &Settings) -> Result<(), CaptureError> {
    let mut map: Array<MapData, Plain<Settings>> = Array::try_from(pinned_map(pins, map::SETTINGS)?)?;
    Ok(map.set(0, Plain(*settings), 0)?)
}
