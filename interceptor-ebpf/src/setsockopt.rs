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
        // IP_HDRINCL, IP_OPTIONS, IP_TRANSPARENT, IP_UNICAST_IF.
        SOL_IP => name == 3 || name == 4 || name == 19 || name == 50,
        // TCP_REPAIR.
        SOL_TCP => name == 19,
        // IPV6_2292 HOPOPTS, DSTOPTS, RTHDR and PKTOPTIONS, HDRINCL, HOPOPTS, RTHDRDSTOPTS, RTHDR, DSTOPTS, TRANSPARENT, UNICAST_IF.
        SOL_IPV6 => matches!(name, 3..=6 | 36 | 54 | 55 | 57 | 59 | 75 | 76),
        _ => false,
    }
}
