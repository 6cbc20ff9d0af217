//! In which network namespaces governed processes are now.
//!
//! By processes, not by threads: a thread that alone has a namespace of its own keeps the listener there only by using it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::super::cgroup;

/// Processes and cgroups that are looked at; where there are more, nothing counts as unused.
const MOST: usize = 65_536;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Inode of each namespace, and a process that is in it.
    pub(super) namespaces: HashMap<u64, u32>,
    /// Whether every process was looked at.
    pub(super) complete: bool,
}

/// Looks at every process at or below these cgroups.
///
/// # Errors
/// When there is no cgroup file system. What vanishes meanwhile is no error.
pub(super) fn walk(roots: &[String]) -> io::Result<Live> {
    let mut live = Live { complete: true, ..Live::default() };
    let mut waiting: Vec<PathBuf> = roots.iter().map(|root| cgroup::directory(root)).collect::<io::Result<_>>()?;
    let (mut cgroups, mut processes) = (0, 0);
    while let Some(directory) = waiting.pop() {
        cgroups += 1;
        if cgroups > MOST || processes > MOST {
            live.complete = false;
            return Ok(live);
        }
        // A threaded cgroup lists no processes: those are listed by the one above.
        let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        for pid in listed.lines().filter_map(|line| line.parse::<u32>().ok()) {
            processes += 1;
            look(pid, &mut live);
        }
        let below = fs::read_dir(&directory).into_iter().flatten().flatten();
        waiting
            .extend(below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
    }
    Ok(live)
}

fn look(pid: u32, live: &mut Live) {
    match fs::metadata(format!("/proc/{pid}/ns/net")) {
        Ok(namespace) => {
            live.namespaces.entry(namespace.ino()).or_insert(pid);
        }
        // It ended, or is a zombie.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {}
        Err(_) => live.complete = false,
    }
}
