//! The hand-over: the agent's record, keyed by the handshake, moves into the storage of the socket that the daemon
//! accepts. It is there before `accept(2)` can return, since the kernel holds the child's lock until then.

use core::ptr::{addr_of, read_volatile};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_sk_storage_get};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use interceptor_ebpf::{Address, STATE_CAPTURED, Tuple, mapped_word};

use crate::maps::{ACCEPTED, HANDSHAKES};
use crate::sock_addr::{self, is_mapped};

const AF_INET: u32 = 2;
const TCP_CLOSE: u32 = 7;

/// On the agent's socket: publishes the record before the first packet, takes it back when the connection dies.
#[sock_ops]
pub fn agent_ops(ctx: SockOpsContext) -> u32 {
    let op = ctx.op();
    if op == BPF_SOCK_OPS_TCP_CONNECT_CB as u32 {
        publish(&ctx);
    } else if op == BPF_SOCK_OPS_STATE_CB as u32 && ctx.arg(1) == TCP_CLOSE {
        // A miss is the usual case: the daemon took the record.
        let _missing = HANDSHAKES.remove(tuple(&ctx, true));
    }
    1
}

#[inline(always)]
fn publish(ctx: &SockOpsContext) {
    let sk = socket(ctx);
    if sk.is_null() {
        return;
    }
    // Without a record nothing is published, and the daemon closes what it cannot attribute.
    let Some(record) = sock_addr::record(sk) else { return };
    if record.state != STATE_CAPTURED || HANDSHAKES.insert(tuple(ctx, true), &*record, 0).is_err() {
        return;
    }
    // Failing leaves the entry to the LRU order.
    let _flags = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG as u32) as i32);
}

/// On the daemon's side: a connection was established passively.
#[sock_ops]
pub fn daemon_ops(ctx: SockOpsContext) -> u32 {
    if ctx.op() != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB as u32 {
        return 1;
    }
    let sk = socket(&ctx);
    if sk.is_null() {
        return 1;
    }
    let tuple = tuple(&ctx, false);
    // No record: the daemon closes the connection.
    let Some(record) = HANDSHAKES.get_ptr_mut(tuple) else { return 1 };
    let create = BPF_SK_STORAGE_GET_F_CREATE as u64;
    // SAFETY: a socket and a map value that the verifier tracks; the helper copies, or returns null when out of
    // memory, which leaves the connection without a record.
    unsafe { bpf_sk_storage_get(addr_of!(ACCEPTED).cast_mut().cast(), sk, record.cast(), create) };
    let _missing = HANDSHAKES.remove(tuple);
    1
}

#[inline(always)]
fn socket(ctx: &SockOpsContext) -> *mut core::ffi::c_void {
    // SAFETY: the kernel passes a valid context; the field is a pointer that the verifier tracks.
    unsafe { (*ctx.ops).__bindgen_anon_2.sk.cast() }
}

/// The connection as the agent sees it. A mapped connection is an IPv4 one on the daemon's side, so it is one here.
#[inline(always)]
fn tuple(ctx: &SockOpsContext, agent: bool) -> Tuple {
    let (local_port, remote_port) = (ctx.local_port() as u16, u32::from_be(ctx.remote_port()) as u16);
    let (local, remote) = addresses(ctx);
    Tuple {
        // SAFETY: the helper takes the valid context.
        netns: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        source: if agent { local } else { remote },
        destination: if agent { remote } else { local },
        source_port: if agent { local_port } else { remote_port },
        destination_port: if agent { remote_port } else { local_port },
        reserved: 0,
    }
}

#[inline(always)]
fn addresses(ctx: &SockOpsContext) -> (Address, Address) {
    let ops = ctx.ops;
    // SAFETY: words of a valid context, one at a time, as the verifier wants them.
    unsafe {
        if read_volatile(addr_of!((*ops).family)) != AF_INET {
            let remote = [
                read_volatile(addr_of!((*ops).remote_ip6[0])),
                read_volatile(addr_of!((*ops).remote_ip6[1])),
                read_volatile(addr_of!((*ops).remote_ip6[2])),
                read_volatile(addr_of!((*ops).remote_ip6[3])),
            ];
            if !is_mapped(&remote) {
                let local = [
                    read_volatile(addr_of!((*ops).local_ip6[0])),
                    read_volatile(addr_of!((*ops).local_ip6[1])),
                    read_volatile(addr_of!((*ops).local_ip6[2])),
                    read_volatile(addr_of!((*ops).local_ip6[3])),
                ];
                return (local, remote);
            }
        }
        let (local, remote) = (read_volatile(addr_of!((*ops).local_ip4)), read_volatile(addr_of!((*ops).remote_ip4)));
        (mapped_word(local), mapped_word(remote))
    }
}
