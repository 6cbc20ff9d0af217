//! The loader: programs into the kernel, links onto cgroups, both pinned so that they outlive the daemon.
//!
//! A start is safe at every step: the maps deny until the settings are written, the fence is attached before anything
//! is redirected, a pinned link gets its new program in one step, and a failure removes nothing.

mod error;
mod governed;
mod pinned;
mod prepare;
mod programs;
mod reload;

use std::fs::{self, File};
use std::path::Path;
use std::{fmt, io};

use aya::maps::{HashMap, Map, MapData, PerCpuArray, RingBuf, SkStorage};
use interceptor_ebpf::{AGENT_PROGRAMS, DAEMON_PROGRAMS, LSM_PROGRAMS, map};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use parking_lot::Mutex;

use super::destroy::{self, Ended, Reach};
use super::grants::Grants;
use super::maps::{KernelAskers, Records};
use super::modules::{self, Modules};
use super::own::Own;
use super::pins::{Attached, Pins};
use super::{Config, Counters, Events, Listener, SecurityModules, cgroup, dns, foreign};

pub use self::error::CaptureError;
pub use self::governed::{Governed, Refreshed, all_governed, governs, is_governed};
pub use self::prepare::{govern, prepare, prepare_doorkeeper, release};
pub use self::reload::{Reloaded, regovern};

pub(super) use self::governed::governed;
pub(super) use self::pinned::pinned_map;
pub(super) use self::programs::{Loaded, try_load, try_modules};

use self::governed::FENCE;
use self::pinned::{check_shapes, settings, write_settings};
use self::programs::{Programs, may_attach};
use self::reload::redirection_first;

/// Capture in force. Dropping it changes nothing in the kernel: links are pinned.
pub struct Capture {
    config: Config,
    pins: Pins,
    /// None where this process may not attach any: [`prepare`] has done so.
    agent_programs: Option<Vec<Loaded>>,
    modules: Modules,
    /// Cgroups that the configuration names; locked for as long as links are looked at and changed.
    named: Mutex<Vec<String>>,
    grants: Mutex<Grants>,
    counters: PerCpuArray<MapData, u64>,
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").field("config", &self.config).finish_non_exhaustive()
    }
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
        let named = Mutex::new(config.cgroups.clone());
        let capture = Self { config: config.clone(), pins, agent_programs: agents, modules, named, grants, counters };
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
        let named = self.named.lock();
        let mut all = Refreshed::default();
        for path in named.iter() {
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
        if self.agent_programs.is_some() {
            end_older(&self.pins);
        }
        all
    }

    fn configured(&self, path: &str) -> Result<Governed, CaptureError> {
        let id = if self.agent_programs.is_some() { make_cgroup(path)? } else { self.prepared(path)? };
        let one = Governed { path: path.to_owned(), id, configured: true };
        if !self.config.allow_delegated {
            whole(path)?;
        }
        if self.agent_programs.is_some() && !self.pins.has(id, FENCE) {
            self.pins.note_older(id).map_err(|source| self.pin_error(source))?;
        }
        self.attach(&one, self.agent_programs.as_deref().unwrap_or_default())?;
        if self.agent_programs.is_some() {
            self.pins.mark(id).map_err(|source| self.pin_error(source))?;
        }
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

    /// As [`governs`], by what the configuration names now.
    #[must_use]
    pub fn governs(&self, path: &str) -> bool {
        governs(&Config { cgroups: self.named.lock().clone(), ..self.config.clone() }, path)
    }

    /// What it was started with. The cgroups may be others since: [`Capture::reload`].
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
        let counters = PerCpuArray::try_from(pinned_map(&self.pins, map::COUNTERS)?)?;
        Events::new(ring, counters).map_err(|source| self.pin_error(source))
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
            match done {
                Attached::Created => tracing::debug!(cgroup = %cgroup.path, program, "attached"),
                // What was made meanwhile has passed no program.
                Attached::Anew if self.pins.has(cgroup.id, FENCE) => {
                    self.pins.note_older(cgroup.id).map_err(|source| self.pin_error(source))?;
                }
                Attached::Anew | Attached::Updated => {}
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

/// Ends all capture: removes links, redirection first and the fence last, then the maps. Gives the number of links
/// removed. Governed processes then reach whatever they like.
///
/// # Errors
/// When a pin cannot be removed; what was removed by then stays removed.
pub fn uninstall(config: &Config) -> Result<usize, CaptureError> {
    let pins = Pins::new(&config.pin_directory);
    let failed = |source| CaptureError::Pins { path: config.pin_directory.clone(), source };
    let order = redirection_first();
    let mut removed = 0;
    for cgroup in pins.cgroups().map_err(failed)? {
        removed += pins.detach(cgroup, &order).map_err(failed)?;
    }
    pins.remove().map_err(failed)?;
    Ok(removed)
}

/// Ends what processes of a cgroup have open from before it was governed. Blocks.
///
/// # Errors
/// When the kernel does not let us, or there is too much: what is left is tried again at the next start or reload.
pub fn end_open(config: &Config, path: &str) -> io::Result<Ended> {
    end(&Pins::new(&config.pin_directory), cgroup::cgroup_id(path)?, path)
}

/// Ends what processes had open before their cgroups were governed first. What cannot be ended now is tried again at the next start;
/// what was made in the cgroup ends at the fence all the same.
fn end_older(pins: &Pins) {
    let noted = pins.with_older().unwrap_or_else(|error| {
        tracing::error!(%error, "connections from before cgroups were governed are not ended");
        Vec::new()
    });
    for id in noted {
        let path = match cgroup::cgroup_path(id) {
            Ok(path) => path,
            Err(error) => {
                if error.raw_os_error() == Some(libc::ESTALE) {
                    let _gone = pins.older_ended(id);
                }
                continue;
            }
        };
        match end(pins, id, &path) {
            Ok(Ended { destroyed: 0, foreign: 0 }) => {}
            Ok(Ended { destroyed, foreign }) => {
                tracing::warn!(cgroup = path, destroyed, "connections from before it was governed are ended");
                if foreign > 0 {
                    tracing::warn!(
                        cgroup = path,
                        foreign,
                        "its processes hold sockets that were made elsewhere, and can use them again: restart them"
                    );
                }
            }
            Err(error) => {
                tracing::error!(cgroup = path, %error, "connections from before it was governed are not all ended");
            }
        }
    }
}

/// What is the cgroup's own is ended once: when it is tried again, that may be governed connections.
fn end(pins: &Pins, id: u64, path: &str) -> io::Result<Ended> {
    let empty = cgroup::is_empty(path).unwrap_or(false);
    let reach = if pins.older_tried(id)? { Reach::Foreign } else { Reach::All };
    let ended = if empty { Ended::default() } else { destroy::destroy_all(path, reach)? };
    pins.older_ended(id).map(|()| ended)
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
