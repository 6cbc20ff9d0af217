//! cgroup v2: where it is mounted, and paths and ids of cgroups.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::sys;

/// The cgroup2 mount: `/sys/fs/cgroup` where cgroup v2 rules alone, `/sys/fs/cgroup/unified` or another on hybrid hosts.
///
/// # Errors
/// When no cgroup2 file system is mounted.
pub fn mount() -> io::Result<PathBuf> {
    static MOUNT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(found) = MOUNT.get() {
        return Ok(found.clone());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let found = find_mount(&mounts)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 file system is mounted"))?;
    Ok(MOUNT.get_or_init(|| found).clone())
}

/// The mount of the whole hierarchy, rather than of a part of it.
fn find_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        // Spaces and the like are written as octal escapes; no host mounts cgroup2 at such a path.
        (kind.split(' ').next() == Some("cgroup2") && root == "/" && !point.contains('\\')).then(|| point.into())
    })
}

/// The path of a cgroup below the mount, as `/agents.slice/billing.service`.
///
/// # Errors
/// `ESTALE` when the cgroup is gone; needs `CAP_DAC_READ_SEARCH`.
pub fn cgroup_path(id: u64) -> io::Result<String> {
    let root = mount()?;
    let opened = sys::open_cgroup(File::open(&root)?.as_fd(), id)?;
    let path = fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))?;
    let below = path.strip_prefix(&root).map_err(io::Error::other)?;
    let below = below.to_str().ok_or_else(|| io::Error::other("the cgroup's path is not UTF-8"))?;
    // A removed cgroup that somebody still holds open answers under this name.
    if below.ends_with(" (deleted)") {
        return Err(io::Error::from_raw_os_error(libc::ESTALE));
    }
    Ok(format!("/{below}"))
}

/// The id of the cgroup at this path below the mount.
///
/// # Errors
/// When there is no such cgroup.
pub fn cgroup_id(path: &str) -> io::Result<u64> {
    // Since Linux 5.5 the inode number of the directory is the id.
    Ok(fs::metadata(directory(path)?)?.ino())
}

/// The cgroup that this process runs in, as a path below the mount.
///
/// # Errors
/// When `/proc` does not say.
pub fn own() -> io::Result<String> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("0::"));
    line.map(str::to_owned).ok_or_else(|| io::Error::other("/proc/self/cgroup names no cgroup v2"))
}

/// The cgroup above this one, and its owner, where it is not root's alone: who may write to the `cgroup.procs` of a common
/// ancestor moves processes between all cgroups below it that he owns.
///
/// # Errors
/// When a cgroup on the way cannot be looked at.
pub(super) fn delegated(path: &str) -> io::Result<Option<(String, u32)>> {
    for ancestor in Path::new(path).ancestors().skip(1).filter(|ancestor| *ancestor != Path::new("/")) {
        let name = ancestor.to_string_lossy().into_owned();
        let procs = fs::metadata(directory(&name)?.join("cgroup.procs"))?;
        if procs.uid() != 0 || procs.mode() & 0o022 != 0 {
            return Ok(Some((name, procs.uid())));
        }
    }
    Ok(None)
}

/// The directory of a cgroup.
///
/// # Errors
/// When no cgroup2 file system is mounted, or the path is not absolute.
pub fn directory(path: &str) -> io::Result<PathBuf> {
    Ok(mount()?.join(Path::new(path).strip_prefix("/").map_err(io::Error::other)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_on_pure_and_hybrid_hosts() {
        let hybrid = "30 25 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      31 25 0:28 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find_mount("31 25 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"), Some("/sys/fs/cgroup".into()));
        assert_eq!(find_mount("31 25 0:28 /part /mnt rw - cgroup2 cgroup2 rw"), None);
        assert_eq!(find_mount("garbage - cgroup2"), None);
    }
}
