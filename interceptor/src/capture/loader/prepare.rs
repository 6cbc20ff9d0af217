//! What root does for a daemon that may attach nothing: before its start, for its doorkeeper, and while it runs.
//!
//! One at a time: whoever looks at links and changes them holds the directory of pins locked.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aya::maps::PerCpuArray;
use interceptor_ebpf::map;
use parking_lot::Mutex;

use super::super::config::MAX_CGROUPS;
use super::super::grants::Grants;
use super::super::pins::Pins;
use super::super::{Config, cgroup, maps};
use super::{
    Capture, CaptureError, FENCE, Governed, Loaded, Programs, check_shapes, daemon_cgroup, governed, make_pins,
    pinned_map, redirection_first, whole,
};

/// Does what needs privileges that the daemon has no use for afterwards: makes the governed cgroups, loads the programs, and
/// attaches them, also to the cgroup that this process runs in, which is the daemon's. Maps that are new deny everything
/// until the daemon writes to them, which members of `group` may.
///
/// # Errors
/// As [`Capture::start`]. Where one cgroup cannot be governed, the others are.
pub fn prepare(config: &Config, group: Option<u32>) -> Result<Vec<Governed>, CaptureError> {
    let daemon = checked(config)?;
    let _alone = lock(config)?;
    let (capture, daemons) = load(config)?;
    // Whether sockets were kept the daemon alone is told.
    let installed = capture.install(&daemon, &daemons, true);
    if let Some(group) = group {
        capture.pins.share(group).map_err(|source| capture.pin_error(source))?;
    }
    installed?;
    capture.refresh().whole()
}

/// What is accepted on sockets that are made in this process' cgroup has its record handed over, as in the daemon's.
///
/// # Errors
/// As [`prepare`], and when no daemon of this version runs.
pub fn prepare_doorkeeper(config: &Config) -> Result<(), CaptureError> {
    // It is not in the daemon's.
    let own = checked(&Config { daemon_cgroup: None, ..config.clone() })?;
    // Maps that are new would be nobody's, and links that are the daemon's must not get them.
    running(config)?;
    let _alone = lock(config)?;
    let (capture, daemons) = load(config)?;
    capture.attach(&own, &daemons)?;
    // Of doorkeepers before this one, what left no socket.
    capture.hand_over(own.id, &daemons, true)?;
    capture.share()
}

/// Governs one more cgroup, beside a running daemon, until it is gone, released, or all is uninstalled: also after a restart.
///
/// # Errors
/// When it is none that may be governed, too many are, or no daemon of this version runs.
pub fn govern(config: &Config, path: &str) -> Result<Governed, CaptureError> {
    let at = |source| CaptureError::Cgroup { path: path.to_owned(), source };
    let mut wanted = Config { cgroups: vec![path.to_owned()], ..config.clone() };
    wanted.daemon_cgroup = Some(running(config)?);
    if let Some(fault) = wanted.faults().into_iter().next() {
        return Err(CaptureError::Config(fault));
    }
    // It must be there: one that was made here would hold nobody.
    let id = cgroup::cgroup_id(path).map_err(at)?;
    if !config.allow_delegated {
        whole(path)?;
    }
    let _alone = lock(config)?;
    let pins = |source| CaptureError::Pins { path: config.pin_directory.clone(), source };
    let others = governed(config).map_err(pins)?;
    if others.len() >= MAX_CGROUPS {
        return Err(CaptureError::Config(format!("{MAX_CGROUPS} cgroups are governed, and no more can be")));
    }
    let others: Vec<_> = others.into_iter().filter(|(other, _)| *other != id).collect();
    apart(path, &others)?;
    let (capture, _) = load(config)?;
    let one = Governed { path: path.to_owned(), id, configured: false };
    // Whoever is interrupted leaves it to the next start.
    capture.pins.note_older(id).map_err(pins)?;
    capture.attach(&one, capture.agent_programs.as_deref().unwrap_or_default())?;
    capture.share()?;
    Ok(one)
}

/// Lets a cgroup go that [`govern`] governs. False where it does not.
///
/// # Errors
/// When it is configured, or a link cannot be removed.
pub fn release(config: &Config, path: &str) -> Result<bool, CaptureError> {
    if config.cgroups.iter().any(|configured| configured == path) {
        return Err(CaptureError::Config(format!("{path} is governed by the configuration: [capture] cgroups")));
    }
    let id = cgroup::cgroup_id(path).map_err(|source| CaptureError::Cgroup { path: path.to_owned(), source })?;
    let _alone = lock(config)?;
    let pins = Pins::new(&config.pin_directory);
    if !pins.has(id, FENCE) {
        return Ok(false);
    }
    let detached = pins.detach(id, &redirection_first());
    detached.map_err(|source| CaptureError::Pins { path: config.pin_directory.clone(), source })?;
    Ok(true)
}

/// Refuses a cgroup that contains one of these, or lies within it: programs that ran twice would take the proxy for what the agent
/// asked for.
pub(super) fn apart(path: &str, governed: &[(u64, String)]) -> Result<(), CaptureError> {
    let contains = |known: &str| Path::new(path).starts_with(known) || Path::new(known).starts_with(path);
    match governed.iter().find(|(_, known)| contains(known)) {
        Some((_, known)) => {
            Err(CaptureError::Config(format!("{path}: {known} is governed already, and one contains the other")))
        }
        None => Ok(()),
    }
}

/// This process' cgroup, where the configuration is sound.
fn checked(config: &Config) -> Result<Governed, CaptureError> {
    match config.faults().into_iter().next() {
        Some(fault) => Err(CaptureError::Config(fault)),
        None => daemon_cgroup(config),
    }
}

/// The cgroup of the daemon that runs, of this version.
pub(super) fn running(config: &Config) -> Result<String, CaptureError> {
    let settings = maps::settings(&Pins::new(&config.pin_directory).map(map::SETTINGS));
    let settings = settings.map_err(|error| CaptureError::NoDaemon(error.to_string()))?;
    cgroup::cgroup_path(settings.daemon_cgroup).map_err(|error| CaptureError::NoDaemon(error.to_string()))
}

pub(super) fn lock(config: &Config) -> Result<fs::File, CaptureError> {
    let pins = Pins::new(&config.pin_directory);
    make_pins(config, &pins)?;
    pins.lock().map_err(|source| CaptureError::Pins { path: config.pin_directory.clone(), source })
}

/// All programs, in the kernel, and those of the daemon.
pub(super) fn load(config: &Config) -> Result<(Capture, Vec<Loaded>), CaptureError> {
    let pins = Pins::new(&config.pin_directory);
    let Programs { agents, daemons, modules } = Programs::load(config, &pins)?;
    check_shapes(&pins)?;
    let counters = PerCpuArray::try_from(pinned_map(&pins, map::COUNTERS)?)?;
    let grants = Mutex::new(Grants::open(&pins)?);
    let config = config.clone();
    let named = Mutex::new(config.cgroups.clone());
    Ok((Capture { config, pins, agent_programs: Some(agents), modules, named, grants, counters }, daemons))
}

impl Capture {
    /// Lets those see new links who see the others.
    pub(super) fn share(&self) -> Result<(), CaptureError> {
        let group = fs::metadata(&self.config.pin_directory).map_err(|source| self.pin_error(source))?.gid();
        if group == 0 { Ok(()) } else { self.pins.share(group).map_err(|source| self.pin_error(source)) }
    }
}
