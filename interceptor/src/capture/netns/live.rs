//! In which network namespaces governed processes are now.
//!
//! By processes, not by threads: a thread that alone has a namespace of its own keeps the listener there only by using it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;

use super::super::cgroup::{self, Listed};

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
    let (mut cgroups, mut processes) = (0, 0);
    for root in roots {
        let end = cgroup::walk(root, Listed::Processes, |_, pids| {
            cgroups += 1;
            for pid in pids {
                processes += 1;
                look(pid, &mut live);
            }
            if cgroups > MOST || processes > MOST { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if end.is_break() {
            live.complete = false;
            break;
        }
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
