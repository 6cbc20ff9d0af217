//! cgroup v2: where it is mounted, and paths and ids of cgroups.

use std::fs::{self, File};
use std::io;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, OnceLock};

use lru::LruCache;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use parking_lot::Mutex;

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
/// With `CAP_DAC_READ_SEARCH` the kernel says; without, the hierarchy is searched, where the path is not remembered from the
/// last time.
///
/// # Errors
/// `ESTALE` when the cgroup is gone.
pub fn cgroup_path(id: u64) -> io::Result<String> {
    match by_handle(id) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => by_search(id),
        found => found,
    }
}

/// Paths that were found by searching, for as long as the cgroup there has that id.
static FOUND: LazyLock<Mutex<LruCache<u64, String>>> = LazyLock::new(|| Mutex::new(LruCache::new(FOUND_LIMIT)));
const FOUND_LIMIT: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Nested cgroups at most, as deep as the hierarchy is searched.
const DEPTH: usize = 64;

fn by_search(id: u64) -> io::Result<String> {
    let known = FOUND.lock().get(&id).cloned();
    if let Some(known) = known.filter(|path| cgroup_id(path).is_ok_and(|found| found == id)) {
        return Ok(known);
    }
    let root = mount()?;
    let found = search(&root, id, DEPTH).ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))?;
    let path = below(&root, &found)?;
    FOUND.lock().put(id, path.clone());
    Ok(path)
}

/// The directory with this inode number. What vanishes meanwhile is passed over.
fn search(directory: &Path, id: u64, depth: usize) -> Option<PathBuf> {
    let mut within = Vec::new();
    for entry in fs::read_dir(directory).ok()?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.ino() == id {
                return Some(entry.path());
            }
            within.push(entry.path());
        }
    }
    let depth = depth.checked_sub(1)?;
    within.iter().find_map(|directory| search(directory, id, depth))
}

fn below(root: &Path, path: &Path) -> io::Result<String> {
    let below = path.strip_prefix(root).map_err(io::Error::other)?;
    let below = below.to_str().ok_or_else(|| io::Error::other("the cgroup's path is not UTF-8"))?;
    // A removed cgroup that somebody still holds open answers under this name.
    if below.ends_with(" (deleted)") {
        return Err(io::Error::from_raw_os_error(libc::ESTALE));
    }
    Ok(format!("/{below}"))
}

fn by_handle(id: u64) -> io::Result<String> {
    let root = mount()?;
    let opened = sys::open_cgroup(File::open(&root)?.as_fd(), id)?;
    let path = fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))?;
    below(&root, &path)
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

/// The cgroup of the process at the other end of a Unix socket; nothing where that has ended by then. Where the kernel refers to
/// that very process (Linux 6.5), one that ends at once is not taken for whoever gets its number next.
#[must_use]
pub fn of_peer(socket: &impl AsFd) -> Option<String> {
    let pid = getsockopt(socket, sockopt::PeerCredentials).ok()?.pid();
    of_process(pid, getsockopt(socket, sockopt::PeerPidfd).ok().as_ref())
}

fn of_process(pid: i32, process: Option<&OwnedFd>) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    if let Some(process) = process {
        // Readable once it has ended.
        let mut ended = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ended, PollTimeout::ZERO) != Ok(0) {
            return None;
        }
    }
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
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

/// Whether root alone may make cgroups directly below this one: it and all above it are root's, and nobody else may write
/// to them.
///
/// # Errors
/// When one of them cannot be looked at.
pub fn is_roots(path: &str) -> io::Result<bool> {
    for above in Path::new(path).ancestors() {
        let metadata = fs::metadata(directory(&above.to_string_lossy())?)?;
        if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether no process is at or below the cgroup.
///
/// # Errors
/// When it cannot be looked at.
pub fn is_empty(path: &str) -> io::Result<bool> {
    let events = std::fs::read_to_string(directory(path)?.join("cgroup.events"))?;
    Ok(events.lines().any(|line| line == "populated 0"))
}

/// What a cgroup lists.
#[derive(Clone, Copy, Debug)]
pub(super) enum Listed {
    /// Processes, also those whose first thread has ended here while others were moved elsewhere. A threaded cgroup lists none: the
    /// one above does.
    Processes,
    /// Threads.
    Threads,
}

/// Walks a cgroup and all below it: `each` sees every directory, and what it lists. What vanishes meanwhile is passed over.
///
/// # Errors
/// When one of them cannot be looked at.
pub(super) fn walk<B>(
    root: &str,
    listed: Listed,
    mut each: impl FnMut(&Path, &mut dyn Iterator<Item = u32>) -> ControlFlow<B>,
) -> io::Result<ControlFlow<B>> {
    let file = match listed {
        Listed::Processes => "cgroup.procs",
        Listed::Threads => "cgroup.threads",
    };
    let mut waiting = vec![directory(root)?];
    while let Some(directory) = waiting.pop() {
        let listed = match fs::read_to_string(directory.join(file)) {
            Ok(listed) => listed,
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => String::new(),
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        let end = each(&directory, &mut listed.lines().filter_map(|line| line.parse().ok()));
        if end.is_break() {
            return Ok(end);
        }
        let below = match fs::read_dir(&directory) {
            Ok(below) => below,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        for entry in below.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
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

    #[test]
    fn a_path_is_found_without_privileges_as_well() {
        let (Ok(own), Ok(root)) = (own(), mount()) else { return };
        // Tests run in containers whose cgroup is not below the mount.
        let Ok(id) = cgroup_id(&own).map_err(drop).and_then(|id| if own == "/" { Err(()) } else { Ok(id) }) else {
            return;
        };
        assert_eq!(by_search(id).unwrap(), own);
        assert_eq!(by_search(id).unwrap(), own);
        assert_eq!(by_search(u64::MAX).unwrap_err().raw_os_error(), Some(libc::ESTALE));
        assert!(search(&root, id, 0).is_none() || own.matches('/').count() == 1);
    }

    #[test]
    fn a_process_that_is_there_has_a_cgroup() {
        let (here, _there) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(of_peer(&here).is_some());
        // Before Linux 6.5 there is no descriptor.
        assert_eq!(of_process(i32::MAX, getsockopt(&here, sockopt::PeerPidfd).ok().as_ref()), None);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = i32::try_from(child.id()).unwrap();
        child.wait().unwrap();
        assert_eq!(of_process(process, None), None);
    }
}
