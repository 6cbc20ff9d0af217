//! The only `unsafe` of the fixtures: what a child does between `fork` and `exec`.
#![expect(unsafe_code, reason = "Command::pre_exec, fenced here")]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write};
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
}

impl Entry {
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            procs: self.procs.try_clone()?,
            namespace: self.namespace.try_clone()?,
            binds: self.binds.clone(),
            uid: self.uid,
        })
    }
}

/// Lets the child enter all of that, and give up root last.
pub(super) fn enter_before_exec(command: &mut Command, entry: Entry) {
    let Entry { mut procs, namespace, binds, uid } = entry;
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
        Ok(())
    };
    // SAFETY: only system calls on values made before the fork: no allocation, no locks.
    unsafe { command.pre_exec(enter) };
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
