//! What the kernel knows of its clock: whether a time daemon keeps it right.
#![expect(unsafe_code, reason = "adjtimex has no wrapper")]

/// Whether one does, as far as it told the kernel. Setting the clock by hand ends that.
pub(super) fn is_synchronised() -> bool {
    // SAFETY: all of a `timex` is numbers, of which zero is one; `modes` of zero asks, and changes nothing.
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut timex)
    };
    state >= 0 && state != libc::TIME_ERROR
}
