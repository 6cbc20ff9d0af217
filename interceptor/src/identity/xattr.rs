//! Extended attributes of files (access lists, and a word of ours at cgroups): three system calls that the libraries lack.
#![expect(unsafe_code, reason = "getxattr, setxattr and removexattr, fenced here")]

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;

/// Longest value that is read: a list of some hundred entries. A longer one is an error.
const VALUE_MAX: usize = 4096;

const ACCESS_LIST: &CStr = c"system.posix_acl_access";

/// The access list of a file; none where it has none, or its file system knows none.
pub(super) fn access_list(path: &CStr) -> nix::Result<Option<Vec<u8>>> {
    get(path, ACCESS_LIST)
}

/// An attribute of a file; none where it has none of that name.
pub(super) fn read(path: &Path, name: &CStr) -> nix::Result<Option<Vec<u8>>> {
    get(&terminated(path)?, name)
}

/// Writes an attribute of a file.
pub(super) fn write(path: &Path, name: &CStr, value: &[u8]) -> nix::Result<()> {
    set(&terminated(path)?, name, value)
}

/// Removes an attribute of a file, where it has one of that name.
pub(super) fn remove(path: &Path, name: &CStr) -> nix::Result<()> {
    let path = terminated(path)?;
    // SAFETY: two strings that end in zero, and outlive the call.
    match Errno::result(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) }) {
        Err(error) if !matches!(error, Errno::ENODATA | Errno::EOPNOTSUPP) => Err(error),
        _ => Ok(()),
    }
}

fn terminated(path: &Path) -> nix::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)
}

fn get(path: &CStr, name: &CStr) -> nix::Result<Option<Vec<u8>>> {
    let mut list = vec![0; VALUE_MAX];
    // SAFETY: two strings that end in zero, and a buffer of the length that is given; all outlive the call.
    let length = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    match usize::try_from(length) {
        Ok(length) => {
            list.truncate(length);
            Ok(Some(list))
        }
        Err(_) => match Errno::last() {
            Errno::ENODATA | Errno::EOPNOTSUPP => Ok(None),
            error => Err(error),
        },
    }
}

fn set(path: &CStr, name: &CStr, value: &[u8]) -> nix::Result<()> {
    // SAFETY: two strings that end in zero, and a buffer of the length that is given; all outlive the call.
    let result = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result).map(drop)
}

/// Writes an access list as it is.
#[cfg(test)]
pub(super) fn set_access_list(path: &CStr, list: &[u8]) -> nix::Result<()> {
    set(path, ACCESS_LIST, list)
}

/// Removes an access list, where there is one.
#[cfg(test)]
pub(super) fn remove_access_list(path: &CStr) {
    let path = Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
    let _absent = remove(path, ACCESS_LIST);
}
