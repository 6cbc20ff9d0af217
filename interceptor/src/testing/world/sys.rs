//! The only `unsafe` of the fixtures: what a child does between `fork` and `exec`.
#![expect(unsafe_code, reason = "Command::pre_exec, fenced here")]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

/// What a child enters before it executes its program.
#[derive(Debug)]
pub(super) struct Entry {
    /// `cgroup.procs` of its cgroup, open for writing.
    pub(super) procs: File,
    /// Its network namespace.
    pub(super) namespace: File,
    /// Files to bind over others, in a mount namespace of its own.
    pub(super) binds: Vec<(CString, CString)>,
    /// Its user and group.
    pub(super) uid: Option<u32>,
    /// What it finds open from descriptor 3 on.
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Entry {
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            procs: self.procs.try_clone()?,
            namespace: self.namespace.try_clone()?,
            binds: self.binds.clone(),
            uid: self.uid,
            descriptors: self.descriptors.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?,
        })
    }
}

/// Lets the child enter all of that, and give up root last.
pub(super) fn enter_before_exec(command: &mut Command, entry: Entry) {
    let Entry { mut procs, namespace, binds, uid, descriptors } = entry;
    let enter = move || {
        procs.write_all(b"0")?;
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        let nothing: Option<&CStr> = None;
        mount(nothing, c"/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
        for (ours, theirs) in &binds {
            mount(Some(ours.as_c_str()), theirs.as_c_str(), nothing, MsFlags::MS_BIND, nothing)?;
        }
        if let Some(uid) = uid {
            setgroups(&[])?;
            setgid(Gid::from_raw(uid))?;
            setuid(Uid::from_raw(uid))?;
        }
        hand_over(&descriptors)
    };
    // SAFETY: only system calls on values made before the fork: no allocation, no locks.
    unsafe { command.pre_exec(enter) };
}

/// Places descriptors from 3 on. Whatever else was open there is of no use to the program that comes.
fn hand_over(descriptors: &[OwnedFd]) -> io::Result<()> {
    /// Above all that is handed over.
    const ASIDE: libc::c_int = 500;
    let check = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // First out of each other's way.
    for (place, descriptor) in (ASIDE..).zip(descriptors) {
        // SAFETY: duplicates an open descriptor.
        check(unsafe { libc::dup2(descriptor.as_raw_fd(), place) })?;
    }
    for ((place, aside), _) in (3..).zip(ASIDE..).zip(descriptors) {
        // SAFETY: the descriptor was made above.
        check(unsafe { libc::dup2(aside, place) })?;
        // SAFETY: likewise, and it is not used any more.
        check(unsafe { libc::close(aside) })?;
    }
    Ok(())
}

/// Descriptors that came with a message, now owned.
pub(in crate::testing) fn received(descriptors: Vec<RawFd>) -> Vec<OwnedFd> {
    // SAFETY: the kernel has just made them for this process, and nobody else knows of them.
    descriptors.into_iter().map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }).collect()
}

/// Lets the child run in a network namespace.
pub(super) fn set_namespace_before_exec(command: &mut Command, namespace: File) {
    let enter = move || Ok(setns(&namespace, CloneFlags::CLONE_NEWNET)?);
    // SAFETY: one system call on an open descriptor.
    unsafe { command.pre_exec(enter) };
}

/// Runs something that changes the thread it runs on, on a thread that then ends.
pub(super) fn in_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    thread::spawn(work).join().map_err(|_| io::Error::other("the thread panicked"))?
}
