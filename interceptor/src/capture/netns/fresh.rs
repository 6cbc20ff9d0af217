//! A network namespace of one's own.

use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::SockProtocol;

use super::super::netlink::{ACKNOWLEDGED, NLMSG_ERROR, Netlink, error_of};

/// Bytes of the kernel's answer at most.
const ANSWER: usize = 4096;
const RTM_SETLINK: u16 = 19;
/// Index of the loopback, which is the first interface of each namespace.
const LOOPBACK: i32 = 1;
const UP: u32 = libc::IFF_UP.cast_unsigned();

/// Moves the calling thread into a new network namespace, in which there is a loopback and no other interface.
///
/// # Errors
/// When the kernel refuses: it takes CAP_SYS_ADMIN.
pub fn move_to_new() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let mut netlink = Netlink::open(SockProtocol::NetlinkRoute, ANSWER)?;
    // `ifinfomsg`: no family, no type, the index, the flags, and which of them are meant.
    let up = [&[0; 4][..], &LOOPBACK.to_ne_bytes(), &UP.to_ne_bytes(), &UP.to_ne_bytes()].concat();
    netlink.ask(RTM_SETLINK, ACKNOWLEDGED, &up)?;
    match netlink.answer()?.first() {
        Some((NLMSG_ERROR, body)) if error_of(body) == 0 => Ok(()),
        Some((NLMSG_ERROR, body)) => Err(io::Error::from_raw_os_error(error_of(body))),
        _ => Err(io::Error::other("the kernel does not say whether the loopback is up")),
    }
}
