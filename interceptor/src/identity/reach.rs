//! Opening a file as far as an agent could, for a daemon that can read every file (`CAP_DAC_READ_SEARCH`) and cannot take the
//! agent's rights: it walks the path itself, and looks at each step whether the agent might take it.
//!
//! What counts is what the kernel would look at: owner, group, mode and access list of each folder and of the file, as they
//! are on the opened object, so that nothing can be exchanged in between. Links stay within the root. Supplementary groups
//! do not count, and neither do security modules.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::xattr;

/// Symbolic links that one path may lead through, as the kernel has it.
const LINKS_MAX: usize = 40;
/// Names in one path, links included.
const NAMES_MAX: usize = 256;

/// Whose rights count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

const READ: u32 = 4;
const SEARCH: u32 = 1;

/// Opens the file for reading. What is no regular file is found, and cannot be read through what is returned.
pub(super) fn open(root: &OwnedFd, path: &str, who: Who) -> nix::Result<OwnedFd> {
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_DAC_READ_SEARCH).unwrap_or(false) {
        return Err(Errno::EPERM);
    }
    let mut folders = vec![root.try_clone().map_err(|_| Errno::EMFILE)?];
    let mut rest: Vec<OsString> = Vec::new();
    push(&mut rest, OsStr::new(path));
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == ".." {
            folders.truncate(folders.len().saturating_sub(1).max(1));
            continue;
        }
        let Some(here) = folders.last() else { break };
        who.may(here, SEARCH)?;
        let found =
            openat(here, name.as_os_str(), OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        // What the kernel makes up depends on who asks, and that is the daemon.
        if fstatfs(&found)?.filesystem_type() == PROC_SUPER_MAGIC {
            return Err(Errno::EACCES);
        }
        match SFlag::from_bits_truncate(fstat(&found)?.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFLNK => {
                links += 1;
                let target = readlinkat(&found, "")?;
                if target.as_bytes().first() == Some(&b'/') {
                    folders.truncate(1);
                }
                push(&mut rest, &target);
                if links > LINKS_MAX || rest.len() > NAMES_MAX {
                    return Err(Errno::ELOOP);
                }
            }
            SFlag::S_IFDIR => folders.push(found),
            _ if !rest.is_empty() => return Err(Errno::ENOTDIR),
            SFlag::S_IFREG => {
                who.may(&found, READ)?;
                return reopen(&found);
            }
            _ => return Ok(found),
        }
    }
    Err(Errno::EISDIR)
}

/// Puts a path's names before what is left to walk.
fn push(rest: &mut Vec<OsString>, path: &OsStr) {
    let names = path.as_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    let names: Vec<OsString> = names.map(|name| OsString::from_vec(name.to_vec())).collect();
    rest.extend(names.into_iter().rev());
}

fn reopen(found: &OwnedFd) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    nix::fcntl::open(own(found).as_c_str(), flags, Mode::empty())
}

/// A name of an open file.
fn own(file: &OwnedFd) -> CString {
    CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default()
}

impl Who {
    fn may(self, file: &OwnedFd, want: u32) -> nix::Result<()> {
        let found = fstat(file)?;
        let granted = if self.uid == 0 {
            READ | SEARCH
        } else if self.uid == found.st_uid {
            found.st_mode >> 6
        } else {
            match xattr::access_list(&own(file))? {
                Some(list) => self.listed(&list, found.st_gid).ok_or(Errno::EACCES)?,
                None if self.gid == found.st_gid => found.st_mode >> 3,
                None => found.st_mode,
            }
        };
        if granted & want == want { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// What an access list grants to somebody who is not the owner. Nothing where it is malformed.
    fn listed(self, list: &[u8], owning_group: u32) -> Option<u32> {
        let (version, entries) = list.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != VERSION {
            return None;
        }
        let (entries, rest) = entries.as_chunks::<8>();
        if !rest.is_empty() {
            return None;
        }
        let entries: Vec<(u16, u32, u32)> = entries
            .iter()
            .map(|[t, u, p, q, a, b, c, d]| {
                let permissions = u32::from(u16::from_le_bytes([*p, *q]));
                (u16::from_le_bytes([*t, *u]), permissions, u32::from_le_bytes([*a, *b, *c, *d]))
            })
            .collect();
        let of = |tag| entries.iter().find(|entry| entry.0 == tag).map(|entry| entry.1);
        let mask = of(MASK).unwrap_or(7);
        if let Some(named) = entries.iter().find(|entry| entry.0 == USER && entry.2 == self.uid) {
            return Some(named.1 & mask);
        }
        let is_in = |entry: &&(u16, u32, u32)| match entry.0 {
            OWNING_GROUP => owning_group == self.gid,
            GROUP => entry.2 == self.gid,
            _ => false,
        };
        let groups: Vec<u32> = entries.iter().filter(is_in).map(|entry| entry.1 & mask).collect();
        if groups.is_empty() { of(OTHER) } else { Some(groups.iter().fold(0, |all, one| all | one)) }
    }
}

const VERSION: u32 = 2;
const USER: u16 = 2;
const OWNING_GROUP: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;

#[cfg(test)]
#[path = "reach_tests.rs"]
mod tests;
