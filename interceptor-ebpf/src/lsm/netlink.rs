//! Netlink: no new network interface in a network that belongs to a user namespace of the agent's own.
//!
//! Many kernels do not ask whether he who makes a pair of interfaces has any rights where the second one is put: an agent in
//! a namespace of its own lays a wire into the host's, and what comes from there has no socket that the fence could look at.
//! Interfaces that are there already may be set up, and whoever has his rights from the host is not asked.

use core::ffi::c_void;

use aya_ebpf::macros::lsm_cgroup;
use aya_ebpf::programs::LsmContext;
use interceptor_ebpf::{Offsets, Reason};

use super::{number, offsets, word};
use crate::event;

const RTM_NEWLINK: u16 = 16;
const NLM_F_CREATE: u16 = 0x400;
/// Bytes of `struct nlmsghdr`.
const HEADER: u32 = 16;
/// Requests in one message that are read; one with more is refused.
const MAX_REQUESTS: usize = 16;

#[lsm_cgroup(hook = "netlink_send")]
pub fn lsm_netlink(ctx: LsmContext) -> i32 {
    let (sock, message): (*const c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
    if offsets().and_then(|offsets| makes_interface(number(sock), number(message), &offsets)) == Some(false) {
        return 1;
    }
    event::refuse(Reason::Interface, 0, None, None);
    0
}

/// Whether the message asks for an interface in such a network. It is the kernel's copy: nobody changes it any more.
#[inline(always)]
fn makes_interface(sock: u64, message: u64, offsets: &Offsets) -> Option<bool> {
    let owner = word(word(sock, offsets.sock_net)?, offsets.net_owner)?;
    if word(owner, offsets.owner_level)? as u32 == 0 {
        return Some(false);
    }
    let data = word(message, offsets.message_data)?;
    let mut left = word(message, offsets.message_length)? as u32;
    let mut at = 0;
    // As the kernel walks it (`netlink_rcv_skb`).
    for _ in 0..MAX_REQUESTS {
        if left < HEADER {
            return Some(false);
        }
        let header = word(data + at, 0)?;
        let (length, kind, flags) = (header as u32, (header >> 32) as u16, (header >> 48) as u16);
        if length < HEADER || length > left {
            return Some(false);
        }
        if kind == RTM_NEWLINK && flags & NLM_F_CREATE != 0 {
            return Some(true);
        }
        let step = (u64::from(length) + 3) & !3;
        at += step;
        left = left.saturating_sub(step as u32);
    }
    Some(true)
}
