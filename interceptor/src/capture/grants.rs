//! What agents may use beside the network: local sockets of named cgroups, and named devices. Written to the maps of the
//! kernel programs; what is named and not there (yet) is skipped, and looked at again with each refresh.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use aya::maps::{HashMap, MapData, MapError};
use interceptor_ebpf::{
    ALL_SOCKETS, BLOCK_DEVICE, CHARACTER_DEVICE, DATAGRAMS, Device, MAX_DEVICES, MAX_LOCAL_PEERS, map,
};

use super::pins::Pins;
use super::sys::Plain;
use super::{Config, cgroup, loader};

/// Where systemd's own sockets are: those that it is notified by, and those of the log.
const INIT: &str = "/init.scope";

/// The maps.
pub(super) struct Grants {
    local_peers: HashMap<MapData, u64, u32>,
    devices: HashMap<MapData, Plain<Device>, u32>,
}

impl Grants {
    pub(super) fn open(pins: &Pins) -> Result<Self, MapError> {
        Ok(Self {
            local_peers: HashMap::try_from(loader::pinned_map(pins, map::LOCAL_PEERS)?)?,
            devices: HashMap::try_from(loader::pinned_map(pins, map::DEVICES)?)?,
        })
    }

    /// Grants what the configuration names, and nothing else. Devices only where this process sees the host's: a daemon that
    /// may attach nothing has a `/dev` of its own, and leaves them as they were prepared.
    pub(super) fn refresh(&mut self, config: &Config, sees_devices: bool) -> Result<(), MapError> {
        let peers = peers(config);
        for old in self.local_peers.keys().collect::<Result<Vec<_>, _>>()? {
            if !peers.iter().any(|(id, _)| *id == old) {
                self.local_peers.remove(&old)?;
            }
        }
        for (id, what) in peers {
            self.local_peers.insert(id, what, 0)?;
        }
        if !sees_devices {
            return Ok(());
        }
        let devices = devices(&config.devices);
        for old in self.devices.keys().collect::<Result<Vec<_>, _>>()? {
            if !devices.contains(&old.0) {
                self.devices.remove(&old)?;
            }
        }
        for device in devices {
            self.devices.insert(Plain(device), 1, 0)?;
        }
        Ok(())
    }
}

fn peers(config: &Config) -> Vec<(u64, u32)> {
    let init = cgroup::cgroup_id(INIT).ok().map(|id| (id, DATAGRAMS));
    let named = config.local_peers.iter().filter_map(|path| Some((cgroup::cgroup_id(path).ok()?, ALL_SOCKETS)));
    // What is named counts for more than what is always allowed: it comes last.
    init.into_iter().chain(named).take(MAX_LOCAL_PEERS).collect()
}

/// The devices at these paths, and in these folders.
fn devices(paths: &[impl AsRef<Path>]) -> Vec<Device> {
    let mut found = Vec::new();
    for path in paths.iter().map(AsRef::as_ref) {
        found.extend(device(path));
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        found.extend(entries.take(MAX_DEVICES).filter_map(|entry| device(&entry.path())));
        if found.len() > MAX_DEVICES {
            tracing::warn!(limit = MAX_DEVICES, "[capture] devices names more devices than fit: the last are refused");
            found.truncate(MAX_DEVICES);
            break;
        }
    }
    found
}

fn device(path: &Path) -> Option<Device> {
    let metadata = fs::metadata(path).ok()?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => CHARACTER_DEVICE,
        kind if kind.is_block_device() => BLOCK_DEVICE,
        _ => return None,
    };
    let number = |number: u64| u32::try_from(number).ok();
    let (major, minor) = (nix::sys::stat::major(metadata.rdev()), nix::sys::stat::minor(metadata.rdev()));
    Some(Device { kind, major: number(major)?, minor: number(minor)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_by_path_and_folder() {
        let zero = Device { kind: CHARACTER_DEVICE, major: 1, minor: 5 };
        assert_eq!(devices(&["/dev/zero", "/dev/there-is-none"]), [zero]);
        assert!(devices(&["/dev"]).contains(&zero));
        assert!(devices(&["/etc"]).is_empty() && devices(&["/etc/passwd"]).is_empty());
    }
}
