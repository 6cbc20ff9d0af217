//! Whether the clock is right, which no library asks.
#![expect(unsafe_code, reason = "a raw system call, fenced here")]

use std::io;

/// Whether somebody keeps the clock right, by what he has told the kernel.
pub(super) fn is_synchronised() -> io::Result<bool> {
    // SAFETY: all of it is integers, and zero asks for nothing to be changed.
    let mut asked: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is valid and outlives the call.
    let state = unsafe { libc::adjtimex(&raw mut asked) };
    if state < 0 { Err(io::Error::last_os_error()) } else { Ok(asked.status & libc::STA_UNSYNC == 0) }
}
