//! What launched agents leave behind: their registrations, and the cgroups that were made for them.

use std::fs;
use std::io;
use std::path::Path;

use crate::capture::cgroup;

/// Removes registrations of cgroups that are gone, and those that are empty with their cgroups. Cheap; call it now and then.
///
/// # Errors
/// When the folder of registrations cannot be read.
pub fn sweep(registry: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(registry) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if is_over(id) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether nobody is in the cgroup any more; it is then removed, unless somebody has made others within.
fn is_over(id: u64) -> bool {
    let path = match cgroup::cgroup_path(id) {
        Ok(path) => path,
        Err(error) => return error.raw_os_error() == Some(libc::ESTALE),
    };
    let Ok(directory) = cgroup::directory(&path) else { return false };
    let events = fs::read_to_string(directory.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 0") && fs::remove_dir(directory).is_ok()
}
