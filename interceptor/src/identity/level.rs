//! How well a process is held: measured where the kernel says so, and registered where it does not.
//!
//! `/proc/PID/status` tells capabilities, `no_new_privs` and whether there is a filter of system calls, but not which one. That
//! a process has the filter of `interceptor exec` is known by its cgroup: one that `exec` has made, and registered in a folder
//! that root alone writes to, and into which nobody but root could have moved another process.

use std::ffi::CStr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use serde::{Deserialize, Serialize};

use super::facts::unit_of;
use super::xattr;
use crate::capture;

/// `CAP_NET_ADMIN`, `CAP_NET_RAW`, `CAP_SYS_MODULE`, `CAP_SYS_RAWIO`, `CAP_SYS_PTRACE`, `CAP_SYS_ADMIN`, `CAP_BPF`: each
/// leads around the kernel programs, or away with them.
const DANGEROUS: &[(u32, &str)] = &[
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (16, "CAP_SYS_MODULE"),
    (17, "CAP_SYS_RAWIO"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (39, "CAP_BPF"),
];

/// Those that count in a network namespace which belongs to the process' own user namespace: they send frames past the
/// kernel programs, or have the kernel do so.
const IN_NETWORK: &[u32] = &[12, 13];

/// Bytes of a registration, at most.
const REGISTRATION_MAX: u64 = 4096;

/// How well a process is held. Better ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// It is root, or has rights by which the kernel programs can be got around: nothing is promised.
    #[default]
    Privileged,
    /// The kernel programs hold all that speaks IP. Sockets of other families, sockets that others made, and local daemons
    /// are left to how the process was started.
    Adopted,
    /// Started by systemd with the drop-in of `interceptor enroll`.
    Enrolled,
    /// Started by `interceptor exec`.
    Launched,
}

impl Level {
    /// Its name, as configuration, policies and recordings have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Adopted => "adopted",
            Self::Enrolled => "enrolled",
            Self::Launched => "launched",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A level, and what it lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guarantee {
    /// How well the process is held.
    pub level: Level,
    /// What keeps it from the next level, and what the level leaves open here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
}

/// What `interceptor exec` registers of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launched {
    /// The `[[agent]]` that it was started as.
    pub agent: String,
    /// Abstract sockets made outside are out of its reach.
    pub scoped: bool,
}

/// Who started a process, as far as that is written down where root alone writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Its cgroup was made by `interceptor exec`.
    pub launched: Option<Launched>,
    /// systemd started its unit with the drop-in of `interceptor enroll` that is there now.
    pub enrolled: bool,
    /// Hooks of the kernel's security modules hold its cgroup.
    pub modules: bool,
}

/// Where starts are written down.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// Folder of launched cgroups.
    pub launched: PathBuf,
    /// Folder of systemd's units and drop-ins.
    pub units: PathBuf,
    /// Where the links of the kernel programs are pinned.
    pub pins: PathBuf,
}

/// Name of the drop-in below `UNIT.d`: the last that systemd reads, so that others do not undo it.
pub const DROP_IN: &str = "zz-interceptor.conf";

impl Registry {
    /// The folder beside an admin socket, systemd's own, and the pins.
    #[must_use]
    pub fn beside(admin_socket: &Path, pins: &Path) -> Self {
        let folder = admin_socket.parent().unwrap_or(Path::new("/run/interceptor"));
        let units = PathBuf::from("/etc/systemd/system");
        Self { launched: folder.join("launched"), units, pins: pins.to_owned() }
    }

    /// How the processes of a cgroup were started. What cannot be read is not known.
    #[must_use]
    pub fn start(&self, (id, cgroup): (u64, &str)) -> Start {
        let launched = self.launched.join(id.to_string());
        let unit = unit_of(cgroup);
        let enrolled = unit.is_some_and(|unit| self.is_enrolled(cgroup, &unit).unwrap_or(false));
        let modules = capture::are_held(&self.pins, cgroup).unwrap_or(false);
        Start { launched: read(&launched).ok(), enrolled, modules }
    }

    /// Whether the unit was started with the drop-in, which has not changed since.
    fn is_enrolled(&self, cgroup: &str, unit: &str) -> io::Result<bool> {
        let drop_in = self.units.join(format!("{unit}.d")).join(DROP_IN);
        let started = xattr::read(&capture::cgroup::directory(cgroup)?, STARTED)?;
        Ok(started.is_some_and(|started| stamp(&drop_in).is_ok_and(|stamp| stamp == started)))
    }
}

/// What a unit's cgroup bears that was started with our drop-in: which. Root alone writes such, and it goes with the cgroup.
const STARTED: &CStr = c"security.interceptor";

/// Where it is written down which units were looked at before they start. Root's alone; empty after a boot.
const LOOKED_AT: &str = "/run/interceptor-enrolled";

/// Writes down that a unit, with this drop-in, is about to start as it was enrolled.
///
/// # Errors
/// When it cannot be written.
pub fn look_at(unit: &str, drop_in: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(LOOKED_AT)?;
    fs::write(Path::new(LOOKED_AT).join(unit), stamp(drop_in)?)
}

/// Forgets an earlier look at a unit, that nothing came of.
///
/// # Errors
/// When it cannot be removed.
pub fn look_away(unit: &str) -> io::Result<()> {
    match fs::remove_file(Path::new(LOOKED_AT).join(unit)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Forgets who was looked at, and at the cgroups below this one who was started so: nothing has held them meanwhile.
pub fn forget(cgroup: &str) {
    let _none = fs::remove_dir_all(LOOKED_AT);
    let mut waiting = Vec::from_iter(capture::cgroup::directory(cgroup));
    while let Some(directory) = waiting.pop() {
        let _none = xattr::remove(&directory, STARTED);
        let below = fs::read_dir(&directory).into_iter().flatten().flatten();
        waiting
            .extend(below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
    }
}

/// Writes down at the cgroup in which a unit starts that it does so with this drop-in, where [`look_at`] has said that it will, and
/// nobody but the caller is in there by now. Else nothing: it is no enrolled unit then.
///
/// # Errors
/// When something cannot be reached, or the caller is not root.
pub fn mark_enrolled(cgroup: &str, (unit, drop_in): (&str, &Path)) -> io::Result<()> {
    let directory = capture::cgroup::directory(cgroup)?;
    // Of an earlier start: where processes outlive it, the cgroup does.
    xattr::remove(&directory, STARTED)?;
    let looked = match fs::read(Path::new(LOOKED_AT).join(unit)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        looked => looked?,
    };
    // For one start.
    look_away(unit)?;
    let now = stamp(drop_in)?;
    if looked != now {
        return Err(io::Error::other("its drop-in has changed since it was looked at"));
    }
    if !is_alone(&directory)? {
        tracing::warn!(unit, "processes of an earlier start are left in its cgroup: it counts as adopted");
        return Ok(());
    }
    Ok(xattr::write(&directory, STARTED, &now)?)
}

/// Whether this process is the only one at or below a cgroup.
fn is_alone(directory: &Path) -> io::Result<bool> {
    let listed = fs::read_to_string(directory.join("cgroup.procs"))?;
    let own = std::process::id().to_string();
    let mut below =
        fs::read_dir(directory)?.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(listed.lines().all(|pid| pid == own) && below.next().is_none())
}

/// Tells a file from any other, and from itself once it has changed.
fn stamp(path: &Path) -> io::Result<Vec<u8>> {
    let found = path.metadata()?;
    Ok(format!("{}:{}.{}", found.ino(), found.mtime(), found.mtime_nsec()).into_bytes())
}

fn read(path: &Path) -> io::Result<Launched> {
    if path.metadata()?.len() > REGISTRATION_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Effective and real user id are root's, in the initial user namespace.
    root: bool,
    /// Capabilities that it has, or gets by starting a program.
    capabilities: u64,
    no_new_privs: bool,
    filtered: bool,
    inside: Inside,
}

/// In which namespaces a process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// It is in a user namespace of its own: its capabilities count nothing outside.
    pub contained: bool,
    /// It is in another network namespace than the daemon. That may belong to its user namespace: there, its capabilities
    /// lead around the kernel programs to whatever wire has been put in.
    pub networked: bool,
}

impl Inside {
    /// Whether a capability counts.
    fn counts(self, capability: u32) -> bool {
        !self.contained || (self.networked && IN_NETWORK.contains(&capability))
    }
}

impl Measured {
    /// From `/proc/PID/status`.
    #[must_use]
    pub fn read(status: &str, inside: Inside) -> Option<Self> {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let set = |name| u64::from_str_radix(field(name)?, 16).ok();
        let ids: Vec<u32> = field("Uid:")?.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Self {
            root: ids.contains(&0),
            capabilities: set("CapPrm:")? | set("CapEff:")? | set("CapInh:")? | set("CapAmb:")?,
            no_new_privs: field("NoNewPrivs:") == Some("1"),
            filtered: field("Seccomp:") == Some("2"),
            inside,
        })
    }

    fn dangers(&self) -> Vec<&'static str> {
        let held = |bit: u32| self.capabilities & (1 << bit) != 0;
        DANGEROUS.iter().filter(|(bit, _)| held(*bit) && self.inside.counts(*bit)).map(|(_, name)| *name).collect()
    }

    /// How well it is held, given how it was started.
    #[must_use]
    pub fn guarantee(&self, start: &Start) -> Guarantee {
        let dangers = self.dangers();
        let mut lacks = Vec::new();
        if self.root {
            lacks.push("it runs as root".to_owned());
        }
        lacks.extend(dangers.iter().map(|name| format!("it has {name}")));
        if self.root || !dangers.is_empty() {
            return Guarantee { level: Level::Privileged, lacks };
        }
        if self.capabilities != 0 && !self.inside.contained {
            lacks.push("it has capabilities".to_owned());
        }
        if !self.no_new_privs {
            lacks.push("programs with more rights than it has can be started (no_new_privs is off)".to_owned());
        }
        if !self.filtered {
            lacks.push("no filter of system calls (seccomp)".to_owned());
        }
        let plain = lacks.is_empty();
        match (&start.launched, start.enrolled) {
            (Some(launched), _) if plain => {
                if !launched.scoped && !start.modules {
                    lacks.push(
                        "abstract sockets of local daemons, and devices, are in reach (Linux 6.12 hides them)"
                            .to_owned(),
                    );
                }
                Guarantee { level: Level::Launched, lacks }
            }
            (None, true) if plain => {
                if !start.modules {
                    lacks.push("abstract sockets of local daemons are in reach".to_owned());
                }
                Guarantee { level: Level::Enrolled, lacks }
            }
            (launched, enrolled) => {
                if launched.is_none() && !enrolled {
                    lacks.push("it was started by neither `interceptor exec` nor an enrolled unit".to_owned());
                }
                if !start.modules {
                    lacks.push(
                        "sockets of other families, handed-over sockets and local daemons are in reach (no LSM programs)"
                            .to_owned(),
                    );
                }
                Guarantee { level: Level::Adopted, lacks }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: &str = "Name:\tx\nUid:\t7\t7\t7\t7\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
                        CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n\
                        NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t4\n";

    fn of(status: &str, contained: bool, start: &Start) -> Guarantee {
        Measured::read(status, Inside { contained, networked: false }).unwrap().guarantee(start)
    }

    fn launched(scoped: bool) -> Start {
        Start { launched: Some(Launched { agent: "a".into(), scoped }), enrolled: false, modules: false }
    }

    #[test]
    fn a_level_is_measured_and_registered() {
        assert_eq!(of(HELD, false, &launched(true)), Guarantee { level: Level::Launched, lacks: Vec::new() });
        let unscoped = of(HELD, false, &launched(false));
        assert!(unscoped.level == Level::Launched && unscoped.lacks[0].contains("abstract"), "{unscoped:?}");
        assert_eq!(of(HELD, false, &Start { enrolled: true, ..Start::default() }).level, Level::Enrolled);
        let modules = Start { modules: true, ..launched(false) };
        assert_eq!(of(HELD, false, &modules).lacks, Vec::<String>::new());
        assert_eq!(of(HELD, false, &Start { modules: true, ..Start::default() }).lacks.len(), 1);
        let adopted = of(HELD, false, &Start::default());
        assert!(adopted.level == Level::Adopted && adopted.lacks[0].contains("neither"), "{adopted:?}");
    }

    #[test]
    fn whoever_is_registered_and_not_so_held_is_not_so_called() {
        for (from, to) in [
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("Seccomp:\t2", "Seccomp:\t0"),
            ("CapPrm:\t0000000000000000", "CapPrm:\t0000000000000001"),
        ] {
            let found = of(&HELD.replace(from, to), false, &launched(true));
            assert!(found.level == Level::Adopted && found.lacks.len() == 2, "{to}: {found:?}");
        }
    }

    #[test]
    fn root_and_what_is_as_good_is_privileged() {
        for (from, to) in [
            ("Uid:\t7\t7\t7\t7", "Uid:\t0\t0\t0\t0"),
            ("Uid:\t7\t7\t7\t7", "Uid:\t7\t7\t0\t7"),
            ("CapEff:\t0000000000000000", "CapEff:\t0000000000002000"),
            ("CapInh:\t0000000000000000", "CapInh:\t0000008000000000"),
        ] {
            let found = of(&HELD.replace(from, to), false, &launched(true));
            assert!(found.level == Level::Privileged && !found.lacks.is_empty(), "{to}: {found:?}");
        }
        // Root of a container's own user namespace is nobody outside.
        let full = HELD.replace("CapEff:\t0000000000000000", "CapEff:\t000001ffffffffff");
        assert_eq!(of(&full, true, &Start::default()).level, Level::Adopted);
    }

    #[test]
    fn in_a_network_namespace_of_its_own_a_containers_root_counts() {
        let inside = Inside { contained: true, networked: true };
        let with = |capabilities: &str| {
            let status = HELD.replace("CapEff:\t0000000000000000", &format!("CapEff:\t{capabilities}"));
            Measured::read(&status, inside).unwrap().guarantee(&Start::default())
        };
        for (capabilities, name) in [("0000000000001000", "CAP_NET_ADMIN"), ("0000000000002000", "CAP_NET_RAW")] {
            let found = with(capabilities);
            assert!(found.level == Level::Privileged && found.lacks[0].contains(name), "{found:?}");
        }
        // What docker and podman leave to root, but for CAP_NET_RAW; and what counts on the whole host alone.
        for capabilities in ["00000000a80405fb", "0000008000290000", "0000000000000000"] {
            assert_eq!(with(capabilities).level, Level::Adopted, "{capabilities}");
        }
    }

    #[test]
    fn registrations_are_read_by_cgroup_and_unit() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry {
            launched: folder.path().join("l"),
            units: folder.path().join("u"),
            pins: folder.path().join("p"),
        };
        std::fs::create_dir_all(registry.units.join("a.service.d")).unwrap();
        std::fs::create_dir_all(&registry.launched).unwrap();
        std::fs::write(registry.units.join("a.service.d").join(DROP_IN), "").unwrap();
        let written = Launched { agent: "a".into(), scoped: true };
        std::fs::write(registry.launched.join("7"), serde_json::to_vec(&written).unwrap()).unwrap();
        std::fs::write(registry.launched.join("8"), "{").unwrap();
        assert_eq!(registry.start((7, "/x")).launched, Some(written));
        assert_eq!(registry.start((8, "/b.service")), Start::default());
        // The drop-in is there, and no cgroup of the unit's that bears its stamp.
        assert_eq!(registry.start((9, "/a.service")), Start::default());
        let drop_in = registry.units.join("a.service.d").join(DROP_IN);
        let before = stamp(&drop_in).unwrap();
        assert_eq!(stamp(&drop_in).unwrap(), before);
        std::fs::write(drop_in.with_extension("new"), "").unwrap();
        std::fs::rename(drop_in.with_extension("new"), &drop_in).unwrap();
        assert_ne!(stamp(&drop_in).unwrap(), before);
    }

    #[test]
    fn what_is_malformed_is_nothing() {
        assert_eq!(Measured::read("", Inside::default()), None);
        assert_eq!(Measured::read(&HELD.replace("CapEff", "CapXxx"), Inside::default()), None);
    }
}
