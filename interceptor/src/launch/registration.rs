//! What is written down of a cgroup when something is started in it, where root alone writes and the daemon reads.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use crate::capture::cgroup;

/// Writes down that systemd starts a unit in this cgroup, held by our drop-in.
///
/// # Errors
/// When it cannot be written.
pub fn enrolled(registry: &Path, id: u64, unit: &str) -> io::Result<()> {
    write(registry, id, unit.as_bytes())?;
    forget_gone(registry)
}

/// Writes the registration of a cgroup, in one step.
pub(super) fn write(registry: &Path, id: u64, text: &[u8]) -> io::Result<()> {
    // Root's, and open to the daemon, which is another user.
    fs::DirBuilder::new().recursive(true).mode(0o755).create(registry)?;
    let (path, next) = (registry.join(id.to_string()), registry.join(format!("{id}.new")));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&next)?;
    // Whatever the umask of whoever launches.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    fs::set_permissions(registry, fs::Permissions::from_mode(0o755))?;
    file.write_all(text)?;
    fs::rename(next, path)
}

/// Removes registrations of cgroups that are gone.
fn forget_gone(registry: &Path) -> io::Result<()> {
    for entry in fs::read_dir(registry)? {
        let entry = entry?;
        let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if id.is_some_and(is_gone) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether there is no such cgroup any more.
pub(super) fn is_gone(id: u64) -> bool {
    cgroup::cgroup_path(id).is_err_and(|error| error.raw_os_error() == Some(libc::ESTALE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_written_as_a_whole_and_goes_with_its_cgroup() {
        let root = tempfile::tempdir().unwrap();
        let registry = root.path().join("enrolled");
        let own = cgroup::cgroup_id(&cgroup::own().unwrap()).unwrap();
        write(&registry, u64::MAX >> 8, b"x.service").unwrap();
        enrolled(&registry, own, "a.service").unwrap();
        assert_eq!(fs::read_to_string(registry.join(own.to_string())).unwrap(), "a.service");
        assert_eq!(fs::read_dir(&registry).unwrap().count(), 1);
    }
}
