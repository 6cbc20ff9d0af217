//! Another list of governed cgroups, while the daemon runs.
//!
//! What is new is attached first, all of it or nothing: where one cannot be governed, those of before are, and no other. What the
//! list names no more is let go last, and only where nobody runs in it: no agent gets free by a line that is missing. What an
//! operator enrolled was never on the list, and stays.

use std::io;

use interceptor_ebpf::AGENT_PROGRAMS;

use super::super::config::MAX_CGROUPS;
use super::super::pins::Pins;
use super::super::{Config, cgroup};
use super::governed::{FENCE, governed};
use super::prepare::{apart, load, lock, running};
use super::{Capture, CaptureError, end_older};

/// What another list has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Paths that are named from now on, and governed.
    pub added: Vec<String>,
    /// Not governed any more.
    pub released: Vec<String>,
    /// Not named any more, and governed all the same, since processes run there, or a link cannot be removed.
    pub held: Vec<String>,
}

impl Capture {
    /// Governs these cgroups instead of those that the configuration named before. Where this process may attach nothing, they
    /// have to be governed already ([`regovern`]), and it lets none go.
    ///
    /// # Errors
    /// When one of them cannot be governed: those of before then are, as they were.
    pub fn reload(&self, cgroups: &[String]) -> Result<Reloaded, CaptureError> {
        let mut named = self.named.lock();
        let new = if self.agent_programs.is_some() { missing(&self.config, cgroups)? } else { Vec::new() };
        self.all(cgroups, &new)?;
        let added = cgroups.iter().filter(|path| !named.contains(path)).cloned().collect();
        *named = cgroups.to_vec();
        if self.agent_programs.is_none() {
            return Ok(Reloaded { added, ..Reloaded::default() });
        }
        end_older(&self.pins);
        Ok(Reloaded { added, ..settle(&self.config, cgroups) })
    }

    /// Governs all of these; where one cannot be, those that are new are not.
    fn all(&self, cgroups: &[String], new: &[String]) -> Result<(), CaptureError> {
        let done = cgroups.iter().try_for_each(|path| self.configured(path).map(drop));
        done.inspect_err(|_| undo(&self.pins, new))
    }
}

/// Root's part of a reload, for a daemon that may attach nothing: attaches, has the daemon told, and lets go. Where the daemon
/// does not take the configuration, nothing has changed.
///
/// # Errors
/// When a cgroup cannot be governed; what `tell` says.
pub fn regovern<T, E: From<CaptureError>>(
    config: &Config,
    tell: impl FnOnce() -> Result<T, E>,
) -> Result<(T, Reloaded), E> {
    // Without one there is nobody to be told, as `tell` finds out.
    let Ok(daemon) = running(config) else { return Ok((tell()?, Reloaded::default())) };
    let checked = Config { daemon_cgroup: Some(daemon), ..config.clone() };
    if let Some(fault) = checked.faults().into_iter().next() {
        return Err(CaptureError::Config(fault).into());
    }
    let _alone = lock(config)?;
    let added = missing(config, &config.cgroups)?;
    if !added.is_empty() {
        attach(config, &added)?;
    }
    match tell() {
        Ok(told) => {
            // Not before: what is refused has changed nothing.
            end_older(&Pins::new(&config.pin_directory));
            Ok((told, Reloaded { added, ..settle(config, &config.cgroups) }))
        }
        Err(error) => {
            undo(&Pins::new(&config.pin_directory), &added);
            Err(error)
        }
    }
}

fn attach(config: &Config, new: &[String]) -> Result<(), CaptureError> {
    let (capture, _) = load(config)?;
    capture.all(new, new)?;
    capture.share().inspect_err(|_| undo(&capture.pins, new))
}

/// Back to what was governed before.
fn undo(pins: &Pins, new: &[String]) {
    // One that is not there was not begun.
    for (path, id) in new.iter().filter_map(|path| Some((path, cgroup::cgroup_id(path).ok()?))) {
        if let Err(error) = pins.detach(id, &redirection_first()) {
            tracing::error!(cgroup = %path, %error, "what was begun is not undone: it stays governed");
        }
    }
}

/// Notes what the list names, and lets go what it does not name, and the list of before did, where nobody runs. What is in force is
/// in force by now: where something cannot be noted or removed, more stays governed than has to be.
fn settle(config: &Config, cgroups: &[String]) -> Reloaded {
    let pins = Pins::new(&config.pin_directory);
    let mut reloaded = Reloaded::default();
    let all = governed(config).unwrap_or_else(|error| {
        tracing::error!(%error, "what is governed cannot be listed: nothing is let go");
        Vec::new()
    });
    for (id, path) in all {
        if cgroups.contains(&path) {
            if let Err(error) = pins.mark(id) {
                tracing::error!(cgroup = %path, %error, "that it is configured is not noted: no reload will let it go");
            }
        } else if pins.is_marked(id) {
            if cgroup::is_empty(&path).unwrap_or(false) && is_detached(&pins, id, &path) {
                reloaded.released.push(path);
            } else {
                reloaded.held.push(path);
            }
        }
    }
    reloaded
}

fn is_detached(pins: &Pins, id: u64, path: &str) -> bool {
    let gone = pins.detach(id, &redirection_first());
    gone.inspect_err(|error| tracing::error!(cgroup = %path, %error, "its links cannot be removed")).is_ok()
}

fn pin_error(config: &Config) -> impl Fn(io::Error) -> CaptureError + '_ {
    |source| CaptureError::Pins { path: config.pin_directory.clone(), source }
}

/// Those that have no fence yet. None of them may contain one that has, or lie within it.
fn missing(config: &Config, cgroups: &[String]) -> Result<Vec<String>, CaptureError> {
    let pins = Pins::new(&config.pin_directory);
    let is_governed = |path: &&String| cgroup::cgroup_id(path).is_ok_and(|id| pins.has(id, FENCE));
    let new: Vec<String> = cgroups.iter().filter(|path| !is_governed(path)).cloned().collect();
    let known = governed(config).map_err(pin_error(config))?;
    if known.len() + new.len() > MAX_CGROUPS {
        let told = format!("{} cgroups are governed already: no more than {MAX_CGROUPS} can be", known.len());
        return Err(CaptureError::Config(told));
    }
    new.iter().try_for_each(|path| apart(path, &known))?;
    Ok(new)
}

/// In which order links go.
pub(super) fn redirection_first() -> Vec<&'static str> {
    AGENT_PROGRAMS.iter().rev().map(|(name, _)| *name).collect()
}
