//! `socket(2)`, `socketpair(2)` and their like of `io_uring`: families that the other hooks see, and netlink for routes.

use aya_ebpf::helpers::generated::bpf_set_retval;
use aya_ebpf::macros::lsm_cgroup;
use aya_ebpf::programs::LsmContext;
use interceptor_ebpf::Reason;

use crate::event;

const AF_UNIX: i32 = 1;
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
const AF_NETLINK: i32 = 16;
const NETLINK_ROUTE: i32 = 0;
/// Of this type a socket of the internet's family becomes one of `AF_PACKET`.
const SOCK_PACKET: i32 = 10;
const EAFNOSUPPORT: i32 = 97;

#[lsm_cgroup(hook = "socket_create")]
pub fn lsm_socket(ctx: LsmContext) -> i32 {
    let (family, kind, protocol, by_kernel): (i32, i32, i32, i32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2), ctx.arg(3));
    let seen = match family {
        AF_UNIX | AF_INET6 => true,
        AF_INET => kind != SOCK_PACKET,
        AF_NETLINK => protocol == NETLINK_ROUTE,
        _ => false,
    };
    if seen || by_kernel != 0 {
        return 1;
    }
    event::refuse(Reason::SocketFamily, ((family as u32) << 16) | (protocol as u32 & 0xffff), None, None);
    // SAFETY: takes a number.
    unsafe { bpf_set_retval(-EAFNOSUPPORT) };
    0
}
