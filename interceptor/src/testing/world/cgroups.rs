//! The end of cgroups: of the world's own, and of those of the same name that container runtimes make in older hierarchies
//! (version 1), where a machine has any.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::capture::cgroup;
use crate::clock::{Clock, SystemClock};

/// How long the end of killed processes is waited for.
const KILL_TIME: Duration = Duration::from_secs(5);

/// Ends every process in a cgroup and removes it with all below it, in every hierarchy; the path is from the mount on. Best
/// effort: the next sweep tries again.
pub(super) fn end(path: &str) {
    let directories: Vec<PathBuf> = mounts().iter().map(|mount| mount.join(path)).collect();
    for directory in &directories {
        let _absent = fs::write(directory.join("cgroup.kill"), "1");
    }
    let clock = SystemClock::new();
    // Those of version 2 come first: what they kill is gone from the others as well.
    while !directories.iter().all(|directory| remove_tree(directory)) && clock.monotonic() < KILL_TIME {
        thread::sleep(Duration::from_millis(10));
    }
}

/// Makes a cgroup in every hierarchy, with the controllers that its parent has.
pub(super) fn make(path: &str) -> io::Result<()> {
    for directory in mounts().iter().map(|mount| mount.join(path)) {
        fs::create_dir_all(&directory)?;
        let Some(parent) = directory.parent() else { continue };
        // Older hierarchies have neither file, and need neither.
        let controllers = fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
        for controller in controllers.split_whitespace() {
            fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"))?;
        }
    }
    Ok(())
}

/// Names of the cgroups just below the mounts, each once.
pub(super) fn names() -> BTreeSet<String> {
    let entries = mounts().into_iter().flat_map(|mount| fs::read_dir(mount).into_iter().flatten().flatten());
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Where cgroups are mounted: version 2, then older hierarchies.
fn mounts() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    cgroup::mount().into_iter().chain(older(&table)).collect()
}

/// Mount points of the older hierarchies in a table of mounts.
fn older(table: &str) -> Vec<PathBuf> {
    let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let older = fields.filter(|fields| fields.get(2) == Some(&"cgroup"));
    older.filter_map(|fields| fields.get(1).map(PathBuf::from)).collect()
}

fn remove_tree(directory: &Path) -> bool {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    match fs::remove_dir(directory) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_hierarchies_are_found_in_the_table() {
        let table = "proc /proc proc rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                     cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\nbroken\n";
        assert_eq!(older(table), [PathBuf::from("/sys/fs/cgroup/cpu")]);
    }
}
