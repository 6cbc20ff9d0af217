//! Local (Unix) sockets: of the agent's own cgroup, and of those that the operator names. Others belong to daemons that
//! might do the agent's bidding outside.

use core::ffi::c_void;

use aya_ebpf::macros::lsm_cgroup;
use aya_ebpf::programs::LsmContext;
use interceptor_ebpf::{ALL_SOCKETS, DATAGRAMS, Reason};

use super::{cgroup_of_sock, cgroup_of_socket, number, offsets};
use crate::event;
use crate::maps::LOCAL_PEERS;

#[lsm_cgroup(hook = "unix_stream_connect")]
pub fn lsm_connect(ctx: LsmContext) -> i32 {
    let (own, other): (*const c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
    let ends = offsets()
        .and_then(|offsets| Some((cgroup_of_sock(number(own), &offsets)?, cgroup_of_sock(number(other), &offsets)?)));
    verdict(ends, ALL_SOCKETS)
}

#[lsm_cgroup(hook = "unix_may_send")]
pub fn lsm_send(ctx: LsmContext) -> i32 {
    let (own, other): (*const c_void, *const c_void) = (ctx.arg(0), ctx.arg(1));
    let ends = offsets().and_then(|offsets| {
        Some((cgroup_of_socket(number(own), &offsets)?, cgroup_of_socket(number(other), &offsets)?))
    });
    verdict(ends, DATAGRAMS)
}

/// By the cgroups in which both ends were made: whoever else holds the agent's socket by now makes it no other.
#[inline(always)]
fn verdict(ends: Option<(u64, u64)>, needed: u32) -> i32 {
    if let Some((own, other)) = ends {
        // SAFETY: a word, read once.
        let granted = unsafe { LOCAL_PEERS.get(&other) }.map_or(0, |granted| *granted);
        if own == other || granted >= needed {
            return 1;
        }
    }
    event::refuse_other(Reason::LocalSocket, needed, ends.map_or(0, |(_, other)| other));
    0
}
