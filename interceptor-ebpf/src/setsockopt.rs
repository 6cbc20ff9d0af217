//! `setsockopt(2)`: options that lead around the capture are refused, so that the agent learns it at once.
//!
//! The fence (`egress.rs`) holds without this file. `SO_BINDTODEVICE` is left to it: refusing the option would break
//! programs that bind to `lo`.

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use aya_ebpf::macros::cgroup_sockopt;
use aya_ebpf::programs::SockoptContext;
use interceptor_ebpf::Reason;

use crate::event;

/// The kernel copies at most one page of an option; a longer one passes untouched only when told so.
const PAGE: i32 = 4096;

const SOL_IP: i32 = 0;
const SOL_SOCKET: i32 = 1;
const SOL_TCP: i32 = 6;
const SOL_UDP: i32 = 17;
const SOL_IPV6: i32 = 41;

#[cgroup_sockopt(setsockopt)]
pub fn set_option(ctx: SockoptContext) -> i32 {
    // SAFETY: the kernel passes a valid context.
    let (level, name, length) = unsafe {
        (
            read_volatile(addr_of!((*ctx.sockopt).level)),
            read_volatile(addr_of!((*ctx.sockopt).optname)),
            read_volatile(addr_of!((*ctx.sockopt).optlen)),
        )
    };
    if refused(level, name) {
        event::refuse(Reason::SocketOption, ((level as u32) << 16) | (name as u32 & 0xffff), None, None);
        return 0;
    }
    if length > PAGE {
        // SAFETY: as above; volatile, so that the store stays four bytes wide.
        unsafe { write_volatile(addr_of_mut!((*ctx.sockopt).optlen), 0) };
    }
    1
}

#[inline(always)]
fn refused(level: i32, name: i32) -> bool {
    match level {
        // SO_MARK, SO_BINDTOIFINDEX.
        SOL_SOCKET => name == 36 || name == 62,
        // IP_OPTIONS, IP_HDRINCL, IPSEC_POLICY, XFRM_POLICY, TRANSPARENT, UNICAST_IF; and every way to join a multicast group:
        // the kernel reports that on the wire, by itself. ADD_MEMBERSHIP, ADD_SOURCE_MEMBERSHIP, MSFILTER, MCAST_JOIN_GROUP,
        // MCAST_JOIN_SOURCE_GROUP, MCAST_MSFILTER.
        SOL_IP => matches!(name, 3 | 4 | 16 | 17 | 19 | 50 | 35 | 39 | 41 | 42 | 46 | 48),
        // TCP_REPAIR.
        SOL_TCP => name == 19,
        // UDP_ENCAP.
        SOL_UDP => name == 100,
        // 2292 HOPOPTS, DSTOPTS, RTHDR and PKTOPTIONS, IPSEC_POLICY, XFRM_POLICY, HDRINCL, HOPOPTS, RTHDRDSTOPTS, RTHDR,
        // DSTOPTS, TRANSPARENT, UNICAST_IF; ADD_MEMBERSHIP, JOIN_ANYCAST, MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP,
        // MCAST_MSFILTER.
        SOL_IPV6 => matches!(name, 3..=6 | 34..=36 | 54 | 55 | 57 | 59 | 75 | 76 | 20 | 27 | 42 | 46 | 48),
        _ => false,
    }
}
