//! Becoming the agent: each step takes something away, and none gives anything back.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::network::Herald;
use super::{Spec, capabilities, files, seccomp, sys};
use crate::capture::{self, cgroup};
use crate::identity::level::Launched;
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};

/// Starts the program in the place of the calling process, held by all that there is. `registry` is where the daemon
/// looks for launched cgroups. `announce`, where the agent is to have a network namespace of its own: has the daemon listen in the
/// calling process' once it reads a line, and says why it does not. The calling process must have one thread, and be root.
///
/// # Errors
/// Which step failed. The process may have lost rights by then, and should end.
pub fn enter(
    spec: &Spec,
    capture: &capture::Config,
    registry: &Path,
    announce: Option<Command>,
    (program, arguments): (&OsString, &[OsString]),
) -> Result<Infallible, String> {
    let step = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    sys::no_sockets_at_hand().map_err(step("standard input and output"))?;
    let herald = announce.map(Herald::leave).transpose().map_err(step("a network of its own"))?;
    let id = join(spec, capture, registry)?;
    // Whether Landlock can hide abstract sockets is known before it is too late to write it down.
    let scoped = domain(true).is_ok_and(|domain| domain.create().is_ok());
    register(registry, id, &Launched { agent: spec.agent.clone(), scoped }).map_err(step("the registry"))?;
    if let Some(herald) = herald {
        herald.announce().map_err(step("a listener in its network"))?;
    }
    files::cover(&spec.keep).map_err(step("a view of its own of /run and /tmp"))?;
    sys::close_on_exec().map_err(step("closing what was inherited"))?;
    capabilities::give_up(spec.uid, spec.gid).map_err(step("giving up privileges"))?;
    fence_off(scoped, &spec.keep).map_err(step("a domain of its own (Landlock)"))?;
    seccomp::apply().map_err(step("the filter of system calls (seccomp)"))?;
    let mut command = Command::new(program);
    command.args(arguments).env("HOME", &spec.home).envs(spec.environment.iter().map(|(name, path)| (name, path)));
    if let Some(user) = &spec.user {
        command.env("USER", user).env("LOGNAME", user);
    }
    Err(format!("{}: {}", program.display(), command.exec()))
}

/// Moves the calling process into a cgroup of its own, once that is known to be governed. Gives the cgroup's id.
fn join(spec: &Spec, capture: &capture::Config, registry: &Path) -> Result<u64, String> {
    let at = |error: io::Error| format!("cgroup {}: {error}", spec.cgroup);
    let directory = cgroup::directory(&spec.cgroup).map_err(at)?;
    fs::create_dir_all(&directory).map_err(at)?;
    if !capture::is_governed(capture, &spec.cgroup).map_err(at)? {
        return Err(format!(
            "cgroup {} is not governed: start the daemon first; it attaches the kernel programs, and they stay",
            spec.cgroup
        ));
    }
    let id = cgroup::cgroup_id(&spec.cgroup).map_err(at)?;
    // Whoever is in a registered cgroup counts as launched.
    let events = fs::read_to_string(directory.join("cgroup.events")).map_err(at)?;
    if events.lines().any(|line| line == "populated 1") && !registry.join(id.to_string()).exists() {
        return Err(format!("cgroup {} has processes that were not launched: let them end first", spec.cgroup));
    }
    fs::write(directory.join("cgroup.procs"), "0").map_err(at)?;
    Ok(id)
}

fn register(registry: &Path, id: u64, launched: &Launched) -> io::Result<()> {
    // Root's, and open to the daemon, which is another user.
    fs::DirBuilder::new().recursive(true).mode(0o755).create(registry)?;
    let (path, next) = (registry.join(id.to_string()), registry.join(format!("{id}.new")));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&next)?;
    // Whatever the umask of whoever launches.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    fs::set_permissions(registry, fs::Permissions::from_mode(0o755))?;
    file.write_all(&serde_json::to_vec(launched)?)?;
    fs::rename(next, path)
}

/// A Landlock domain: nobody within it traces, or reads the memory of, a process outside. `scoped`: nor signals one, nor
/// connects to its abstract sockets, nor has a device do anything (`/dev/vhost-vsock` is open to everybody on many hosts,
/// and speaks to listeners of the family that agents have no sockets of). A domain has to forbid something by itself: making
/// devices, here.
fn domain(scoped: bool) -> Result<Ruleset, RulesetError> {
    let domain = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let domain = domain.handle_access(AccessFs::MakeChar | AccessFs::MakeBlock)?;
    if scoped { domain.handle_access(AccessFs::IoctlDev)?.scope(Scope::from_all(ABI::V6)) } else { Ok(domain) }
}

/// Devices that lead nowhere: all that systemd leaves to a unit with `PrivateDevices`.
const DEVICES: &[&str] =
    &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts"];

fn fence_off(scoped: bool, keep: &[PathBuf]) -> io::Result<()> {
    let mut made = domain(scoped).and_then(Ruleset::create).map_err(io::Error::other)?;
    if scoped {
        // Only root decides what lies below /dev: elsewhere a link could lead there.
        let kept = keep.iter().map(PathBuf::as_path).filter(|path| path.starts_with("/dev"));
        let devices = DEVICES.iter().map(Path::new).chain(kept);
        made = made.add_rules(path_beneath_rules(devices, AccessFs::IoctlDev)).map_err(io::Error::other)?;
    }
    let status = made.restrict_self().map_err(io::Error::other)?;
    if status.ruleset != RulesetStatus::FullyEnforced {
        return Err(io::Error::other("the kernel does not enforce it; Landlock is needed (lsm=landlock,...)"));
    }
    Ok(())
}
