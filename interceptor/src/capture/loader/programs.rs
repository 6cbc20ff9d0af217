//! The kernel object, and its programs in the kernel.

use std::os::fd::{AsFd, OwnedFd};

use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader};
use interceptor_ebpf::{AGENT_PROGRAMS, DAEMON_PROGRAMS, map};

use super::super::Config;
use super::super::modules::{self, Modules};
use super::super::pins::Pins;
use super::{CaptureError, make_pins};

/// The kernel object, as committed and as `cargo xtask ebpf` rebuilds it.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../interceptor-ebpf/interceptor.bpf.o"));

#[derive(Debug)]
pub(in crate::capture) struct Loaded {
    pub(in crate::capture) name: &'static str,
    pub(in crate::capture) attach_type: u32,
    pub(in crate::capture) fd: OwnedFd,
}

/// Loads the object without pinning or attaching anything: whether this kernel takes every program.
pub(in crate::capture) fn try_load() -> Result<(), CaptureError> {
    let mut object = EbpfLoader::new().load(OBJECT)?;
    programs(&mut object, &AGENT_PROGRAMS)?;
    programs(&mut object, &DAEMON_PROGRAMS).map(drop)
}

/// As [`try_load`], the hooks of security modules.
pub(in crate::capture) fn try_modules() -> Result<(), String> {
    let offsets = modules::offsets().map_err(|error| error.to_string())?;
    let mut loader = EbpfLoader::new();
    let loaded = loader.override_global(modules::OFFSETS, &offsets, true).load(OBJECT);
    modules::try_load(&mut loaded.map_err(|error| error.to_string())?).map(drop)
}

/// Whether this process may load and attach kernel programs, and pin what it attaches: only root makes pins.
pub(super) fn may_attach() -> bool {
    let has = |capability| caps::has_cap(None, caps::CapSet::Effective, capability).unwrap_or(false);
    nix::unistd::geteuid().is_root() && has(caps::Capability::CAP_BPF) && has(caps::Capability::CAP_NET_ADMIN)
}

/// All programs, in the kernel; their maps are pinned.
pub(super) struct Programs {
    pub(super) agents: Vec<Loaded>,
    pub(super) daemons: Vec<Loaded>,
    pub(super) modules: Modules,
}

impl Programs {
    pub(super) fn load(config: &Config, pins: &Pins) -> Result<Self, CaptureError> {
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
