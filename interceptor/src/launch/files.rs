//! The agent's view of files: `/run`, `/tmp` and shared memory of its own, so that no socket of a local daemon is in sight.
//!
//! A daemon that does the bidding of whoever connects (a container engine, a message bus, an agent for keys, a database on
//! a local socket) would carry an agent's words past every kernel program. Their sockets lie below these folders.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::capture::cgroup;

/// Covered by an empty folder; `/var/run` is `/run` wherever the standard is followed.
const COVERED: &[(&str, &str)] = &[
    ("/run", "mode=755,size=16m"),
    ("/tmp", "mode=1777,size=50%"),
    ("/var/tmp", "mode=1777,size=50%"),
    ("/dev/shm", "mode=1777,size=50%"),
];

/// Where queues of messages are files, those of the IPC namespace that it was mounted in.
const QUEUES: &str = "/dev/mqueue";

/// What stays: where `/etc/resolv.conf` may lead. The sockets beside these do not.
const RESOLVER: &[&str] = &[
    "/run/systemd/resolve/stub-resolv.conf",
    "/run/systemd/resolve/resolv.conf",
    "/run/resolvconf/resolv.conf",
    "/run/NetworkManager/resolv.conf",
];

/// Whether an agent sees it only where it is kept.
#[must_use]
pub fn is_covered(path: &Path) -> bool {
    COVERED.iter().any(|(folder, _)| path.starts_with(folder)) || path.starts_with("/var/run")
}

/// Gives the calling process a view of its own, in which of the covered folders only `keep` is left.
///
/// # Errors
/// When the kernel refuses, or `keep` is not there.
pub(super) fn cover(keep: &[PathBuf]) -> io::Result<()> {
    let here = std::env::current_dir();
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let kept = keep.iter().map(|path| Kept::open(path, true));
    let resolver = RESOLVER.iter().map(|path| Kept::open(Path::new(path), false));
    let kept: Vec<Kept> = kept.chain(resolver).collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    for (folder, options) in COVERED.iter().filter(|(folder, _)| Path::new(folder).is_dir()) {
        mount(Some("tmpfs"), *folder, Some("tmpfs"), flags, Some(*options))
            .map_err(|error| at(Path::new(folder), error.into()))?;
    }
    if Path::new(QUEUES).is_dir() {
        mount(Some("mqueue"), QUEUES, Some("mqueue"), flags, None::<&str>)
            .map_err(|error| at(Path::new(QUEUES), error.into()))?;
    }
    keep_cgroups()?;
    for one in &kept {
        one.show().map_err(|error| at(&one.path, error))?;
    }
    // The folder that it was in may be covered now; what stays reachable by it must not be more than what is in sight.
    let _elsewhere = here.and_then(std::env::set_current_dir).or_else(|_| std::env::set_current_dir("/"));
    Ok(())
}

/// Cgroups can be read, and not changed: where others of the agent's user may move processes, it could leave its own.
fn keep_cgroups() -> io::Result<()> {
    let root = cgroup::mount()?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let bind = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(None::<&str>, &root, None::<&str>, bind | flags, None::<&str>).map_err(|error| at(&root, error.into()))
}

/// Something that stays in sight.
struct Kept {
    path: PathBuf,
    file: File,
    folder: bool,
}

impl Kept {
    /// Nothing where the path is not covered, or not there and not asked for.
    fn open(path: &Path, asked_for: bool) -> io::Result<Option<Self>> {
        let target =
            path.strip_prefix("/var/run").map_or_else(|_| path.to_owned(), |rest| Path::new("/run").join(rest));
        let covered = |folder: &&(&str, &str)| target.starts_with(folder.0);
        if !COVERED.iter().any(|folder| covered(&folder)) {
            return Ok(None);
        }
        if COVERED.iter().any(|(folder, _)| target == Path::new(folder)) {
            return Err(at(path, io::Error::other("this whole folder cannot stay in sight: name what lies in it")));
        }
        // Whoever may write to a folder on the way could lead root to any place by a link.
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC);
        let how = how.resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let file = match openat2(AT_FDCWD, &target, how) {
            Ok(file) => File::from(file),
            Err(_) if !asked_for => return Ok(None),
            Err(Errno::ELOOP) => {
                let why = "it leads over a symbolic link, which somebody could turn elsewhere: name the place itself";
                return Err(at(path, io::Error::other(why)));
            }
            Err(error) => return Err(at(path, error.into())),
        };
        let folder = file.metadata()?.is_dir();
        Ok(Some(Self { path: target, file, folder }))
    }

    fn show(&self) -> io::Result<()> {
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent)?;
        }
        if self.folder {
            fs::create_dir_all(&self.path)?;
        } else {
            File::create(&self.path)?;
        }
        let source = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        mount(Some(source.as_str()), &self.path, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
        Ok(())
    }
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
