//! `socket(2)`: TCP and UDP only, and a record for each, made before the agent could exhaust the memory for it.

use core::ptr::{addr_of, read_volatile};

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_set_retval};
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use interceptor_ebpf::Reason;

use crate::event;
use crate::sock_addr::{IPPROTO_TCP, IPPROTO_UDP, SOCK_DGRAM, SOCK_STREAM, new_record};

const EPROTONOSUPPORT: i32 = 93;

#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    // SAFETY: the kernel passes a valid context.
    let (kind, protocol) =
        unsafe { (read_volatile(addr_of!((*ctx.sock).type_)), read_volatile(addr_of!((*ctx.sock).protocol))) };
    match (kind, protocol) {
        (SOCK_STREAM, IPPROTO_TCP) | (SOCK_DGRAM, IPPROTO_UDP) => {}
        _ => {
            event::refuse(Reason::SocketKind, (kind << 16) | (protocol & 0xffff), None, None);
            // Programs fall back to TCP on this error; EPERM would end many of them.
            // SAFETY: takes a number.
            unsafe { bpf_set_retval(-EPROTONOSUPPORT) };
            return 0;
        }
    }
    let Some(record) = new_record(ctx.as_ptr()) else {
        event::refuse(Reason::NoRecord, protocol, None, None);
        return 0;
    };
    // SAFETY: takes no arguments.
    record.cgroup = unsafe { bpf_get_current_cgroup_id() };
    1
}
