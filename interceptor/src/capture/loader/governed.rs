//! What is governed: asked of the pins, with or without a daemon.

use std::io;
use std::path::Path;

use interceptor_ebpf::AGENT_PROGRAMS;

use super::super::pins::Pins;
use super::super::{Config, cgroup};
use super::CaptureError;

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
    pub(super) fn add(&mut self, one: Result<Governed, CaptureError>) {
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

/// The program without which a cgroup is not governed.
pub(super) const FENCE: &str = "egress";

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

/// Paths of the cgroups that are governed, whoever named them.
///
/// # Errors
/// When the pins cannot be read.
pub fn all_governed(config: &Config) -> io::Result<Vec<String>> {
    Ok(governed(config)?.into_iter().map(|(_, path)| path).collect())
}

/// The cgroups that have the fence, by the pins; those that are gone are left out.
pub(in crate::capture) fn governed(config: &Config) -> io::Result<Vec<(u64, String)>> {
    let pins = Pins::new(&config.pin_directory);
    let fenced = pins.cgroups()?.into_iter().filter(|id| pins.has(*id, FENCE));
    Ok(fenced.filter_map(|id| Some((id, cgroup::cgroup_path(id).ok()?))).collect())
}
