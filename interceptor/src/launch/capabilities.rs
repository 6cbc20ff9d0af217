//! No capability, and no way to one: user, groups, capability sets, `no_new_privs`, core dumps.

use std::io;

use caps::{CapSet, Capability};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// Becomes this user for good. The order matters: each step needs what the next one gives up.
///
/// # Errors
/// When the kernel refuses a step, or keeps a capability.
pub(super) fn give_up(uid: Uid, gid: Gid) -> io::Result<()> {
    // A program that the kernel hands a dump to runs as root, outside of every cgroup; a limit of one byte keeps it from that.
    setrlimit(Resource::RLIMIT_CORE, 1, 1)?;
    setgroups(&[gid])?;
    setresgid(gid, gid, gid)?;
    for capability in caps::runtime::thread_all_supported() {
        caps::drop(None, CapSet::Bounding, capability).map_err(io::Error::other)?;
    }
    setresuid(uid, uid, uid)?;
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::clear(None, set).map_err(io::Error::other)?;
    }
    prctl::set_no_new_privs()?;
    let left = |set| caps::read(None, set).map_err(io::Error::other);
    for set in [CapSet::Bounding, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient] {
        if let Some(kept) = left(set)?.into_iter().next() {
            return Err(io::Error::other(format!("the kernel kept {}", name(kept))));
        }
    }
    Ok(())
}

fn name(capability: Capability) -> String {
    capability.to_string()
}
