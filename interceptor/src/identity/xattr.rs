//! Access lists of files, as the kernel keeps them: one system call that the libraries lack.
#![expect(unsafe_code, reason = "getxattr, fenced here")]

use std::ffi::CStr;

use nix::errno::Errno;

/// Longest list that is read: some hundred entries. A longer one is an error.
const LIST_MAX: usize = 4096;

/// The access list of a file; none where it has none, or its file system knows none.
pub(super) fn access_list(path: &CStr) -> nix::Result<Option<Vec<u8>>> {
    let mut list = vec![0; LIST_MAX];
    let name = c"system.posix_acl_access";
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

/// Writes an access list as it is.
#[cfg(test)]
pub(super) fn set_access_list(path: &CStr, list: &[u8]) -> nix::Result<()> {
    // SAFETY: two strings that end in zero, and a buffer of the length that is given; all outlive the call.
    let result = unsafe {
        libc::setxattr(path.as_ptr(), c"system.posix_acl_access".as_ptr(), list.as_ptr().cast(), list.len(), 0)
    };
    Errno::result(result).map(drop)
}

/// Removes an access list, where there is one.
#[cfg(test)]
pub(super) fn remove_access_list(path: &CStr) {
    // SAFETY: two strings that end in zero.
    let _absent = unsafe { libc::removexattr(path.as_ptr(), c"system.posix_acl_access".as_ptr()) };
}
