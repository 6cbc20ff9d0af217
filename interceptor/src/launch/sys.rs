//! Descriptors: the one system call that has no safe wrapper.
#![expect(unsafe_code, reason = "close_range has no wrapper")]

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};

/// Has every descriptor but the standard three closed when another program is started.
///
/// # Errors
/// When the kernel refuses (before 5.11 it does not know this).
pub(super) fn close_on_exec() -> io::Result<()> {
    // SAFETY: takes numbers, and closes nothing now.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Refuses sockets that somebody else made as standard input, output or error: no kernel program would see what goes over
/// them. A Unix socket, as a service's log is one, may be.
///
/// # Errors
/// Which it is.
pub(super) fn no_sockets_at_hand() -> io::Result<()> {
    let all = [io::stdin().as_raw_fd(), io::stdout().as_raw_fd(), io::stderr().as_raw_fd()];
    for descriptor in all {
        // Whatever is no socket has no name.
        let Ok(name) = getsockname::<SockaddrStorage>(descriptor) else { continue };
        if name.family() != Some(AddressFamily::Unix) {
            return Err(io::Error::other(format!("descriptor {descriptor} is a socket made outside")));
        }
    }
    Ok(())
}
