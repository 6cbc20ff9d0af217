//! Hooks of the kernel's security modules at governed cgroups: what the socket hooks do not see.
//!
//! They want Linux 6.0, and BPF among the modules that the kernel was started with (`lsm=`). A kernel that takes the programs
//! without having BPF among its modules would never run them, so both are asked.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use aya::Btf;
use aya::Ebpf;
use aya::programs::{Program, ProgramError};
use interceptor_ebpf::{LSM_CGROUP, LSM_PROGRAMS, Offsets};

use super::loader::Loaded;
use super::pins::Pins;
use super::sys::Plain;
use super::{CaptureError, Config, SecurityModules, btf, cgroup};

/// Name of the programs' static.
pub(super) const OFFSETS: &str = "OFFSETS";
/// The modules that the kernel was started with.
const ACTIVE: &str = "/sys/kernel/security/lsm";

/// Whether the hooks of security modules hold what the socket hooks do not see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Modules {
    /// They do.
    Held,
    /// They do not, and why.
    Absent(String),
}

impl Modules {
    /// Why they do not.
    #[must_use]
    pub fn why_not(&self) -> Option<&str> {
        match self {
            Self::Held => None,
            Self::Absent(why) => Some(why),
        }
    }
}

/// What the programs want to know of the kernel's structures; all zero where it does not tell: they then refuse.
pub(super) fn offsets() -> Result<Plain<Offsets>, CaptureError> {
    Ok(Plain(btf::module_offsets().map_err(CaptureError::Btf)?.unwrap_or_default()))
}

/// Loads the programs, where that is wanted and the kernel takes them all.
pub(super) fn load(object: &mut Ebpf, wanted: SecurityModules) -> Result<(Modules, Vec<Loaded>), CaptureError> {
    let loaded = match wanted {
        SecurityModules::Off => Err("[capture] security_modules is off".to_owned()),
        SecurityModules::Auto | SecurityModules::Required => try_load(object),
    };
    match loaded {
        Ok(programs) => Ok((Modules::Held, programs)),
        Err(why) if wanted == SecurityModules::Required => Err(CaptureError::Modules(why)),
        Err(why) => {
            tracing::info!(%why, "without hooks of security modules");
            Ok((Modules::Absent(why), Vec::new()))
        }
    }
}

/// What was prepared for a daemon that may attach nothing.
///
/// # Errors
/// Where the configuration requires them, and they are not there.
pub(super) fn installed(config: &Config) -> Result<Modules, CaptureError> {
    let held = |path: &String| are_held(&config.pin_directory, path).unwrap_or(false);
    if !config.cgroups.is_empty() && config.cgroups.iter().all(held) {
        return Ok(Modules::Held);
    }
    let why = active().err().unwrap_or_else(|| "they were not attached when the daemon was prepared".to_owned());
    if config.security_modules == SecurityModules::Required {
        return Err(CaptureError::Modules(why));
    }
    Ok(Modules::Absent(why))
}

pub(super) fn try_load(object: &mut Ebpf) -> Result<Vec<Loaded>, String> {
    active()?;
    if btf::module_offsets().ok().flatten().is_none() {
        return Err("the kernel does not describe its structures (BTF)".to_owned());
    }
    let types = Btf::from_sys_fs().map_err(|error| format!("the kernel's types cannot be read: {error}"))?;
    let one = |&(name, hook): &(&'static str, &'static str)| {
        load_one(object, name, hook, &types).map_err(|why| format!("the kernel refuses the hook {hook}: {why}"))
    };
    LSM_PROGRAMS.iter().map(one).collect()
}

fn load_one(object: &mut Ebpf, name: &'static str, hook: &str, types: &Btf) -> Result<Loaded, ProgramError> {
    let program = object.program_mut(name);
    let Some(Program::LsmCgroup(program)) = program else { return Err(ProgramError::UnexpectedProgramType) };
    program.load(hook, types)?;
    let fd = program.fd()?.as_fd().try_clone_to_owned().map_err(ProgramError::IOError)?;
    Ok(Loaded { name, attach_type: LSM_CGROUP, fd })
}

/// Whether BPF is among the modules that the kernel was started with.
pub(super) fn active() -> Result<String, String> {
    let list = fs::read_to_string(ACTIVE).map_err(|error| format!("{ACTIVE}: {error}; is securityfs mounted?"))?;
    let list = list.trim().to_owned();
    if list.split(',').any(|one| one == "bpf") {
        Ok(list)
    } else {
        Err(format!("bpf is not among the security modules ({list}): boot with `lsm={list},bpf`"))
    }
}

/// Whether hooks of security modules hold a cgroup: by the pins, so with or without a daemon.
///
/// # Errors
/// When a cgroup on the way is not there.
pub fn are_held(pin_directory: &Path, cgroup: &str) -> io::Result<bool> {
    if active().is_err() {
        return Ok(false);
    }
    let pins = Pins::new(pin_directory);
    for above in Path::new(cgroup).ancestors().filter(|above| *above != Path::new("/")) {
        let id = cgroup::cgroup_id(&above.to_string_lossy())?;
        if LSM_PROGRAMS.iter().all(|(program, _)| pins.has(id, program)) {
            return Ok(true);
        }
    }
    Ok(false)
}
