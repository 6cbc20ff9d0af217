//! `connect(2)`: TCP goes to the proxy and is recorded, UDP to the resolver goes to the relay, all else is refused.
//!
//! The kernel holds the socket's lock and the socket is closed while this runs, so a record cannot change under a live
//! connection. The hook's address family is trusted; `user_family` is the caller's word, and is not read.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{bpf_set_retval, bpf_sk_lookup_tcp, bpf_sk_release};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use interceptor_ebpf::{Address, Reason, STATE_CAPTURED, STATE_LOCAL, Settings};

use crate::question::ask;
use crate::sock_addr::{
    self, Endpoint, IPPROTO_TCP, IPPROTO_UDP, LOOPBACK4, LOOPBACK6, is_mapped, is_resolver, loopback_of, redirect4,
    redirect6,
};
use crate::{caller, event};

const ECONNREFUSED: i32 = 111;

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    let endpoint = sock_addr::endpoint4(&ctx);
    match judge(&ctx, &endpoint) {
        Verdict::Redirect(port) => redirect4(&ctx, port),
        Verdict::Leave => {}
        Verdict::Refuse => return 0,
    }
    1
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    let endpoint = sock_addr::endpoint6(&ctx);
    match judge(&ctx, &endpoint) {
        Verdict::Redirect(port) => redirect6(&ctx, port, is_mapped(&endpoint.address)),
        Verdict::Leave => {}
        Verdict::Refuse => return 0,
    }
    1
}

enum Verdict {
    /// To this port on the loopback address of the same kind.
    Redirect(u16),
    /// To where the agent said: a server of its own cgroup.
    Leave,
    Refuse,
}

#[inline(always)]
fn judge(ctx: &SockAddrContext, endpoint: &Endpoint) -> Verdict {
    let Some(settings) = sock_addr::settings() else {
        event::refuse(Reason::NoSettings, 0, Some(endpoint), None);
        return Verdict::Refuse;
    };
    match sock_addr::protocol(ctx) {
        IPPROTO_TCP => tcp(ctx, settings, endpoint),
        IPPROTO_UDP if is_resolver(ctx, settings, endpoint) => {
            ask(ctx, settings, endpoint);
            Verdict::Redirect(settings.dns_port)
        }
        IPPROTO_UDP => {
            event::refuse(Reason::Udp, IPPROTO_UDP, Some(endpoint), None);
            Verdict::Refuse
        }
        _ => {
            event::refuse(Reason::ConnectKind, 0, Some(endpoint), None);
            Verdict::Refuse
        }
    }
}

#[inline(always)]
fn tcp(ctx: &SockAddrContext, settings: &Settings, endpoint: &Endpoint) -> Verdict {
    let Some(record) = sock_addr::record(sock_addr::socket(ctx)) else {
        event::refuse(Reason::NoRecord, IPPROTO_TCP, Some(endpoint), None);
        return Verdict::Refuse;
    };
    caller::fill(ctx, settings, endpoint, record);
    if let Some(loopback) = loopback_of(&endpoint.address)
        && listener(ctx, &loopback, endpoint.port, |found| serves(found, record.cgroup))
    {
        record.state = STATE_LOCAL;
        return Verdict::Leave;
    }
    // The fence drops what the daemon would not take; saying so here saves the agent the wait for a time-out.
    let proxy = if is_mapped(&endpoint.address) { LOOPBACK4 } else { LOOPBACK6 };
    if !listener(ctx, &proxy, settings.proxy_port, sock_addr::is_marked) {
        event::no_listener(endpoint, record.netns);
        // SAFETY: takes a number.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
        return Verdict::Refuse;
    }
    record.state = STATE_CAPTURED;
    Verdict::Redirect(settings.proxy_port)
}

/// Whether this is a listener of an agent in `cgroup`. A child of such a listener has no storage of its own, so this is
/// false of it.
#[inline(always)]
fn serves(found: *mut c_void, cgroup: u64) -> bool {
    sock_addr::record(found).is_some_and(|record| record.cgroup == cgroup)
}

/// Whether a socket listens at this loopback address, and is the right one.
#[inline(always)]
fn listener(ctx: &SockAddrContext, loopback: &Address, port: u16, is_right: impl FnOnce(*mut c_void) -> bool) -> bool {
    // SAFETY: an all-zero tuple is valid; the context is valid; a found socket is released on the only path.
    unsafe {
        let mut tuple: bpf_sock_tuple = core::mem::zeroed();
        let length = if is_mapped(loopback) {
            let four = &mut tuple.__bindgen_anon_1.ipv4;
            four.saddr = loopback[3];
            four.daddr = loopback[3];
            four.dport = port.to_be();
            size_of_val(four)
        } else {
            let six = &mut tuple.__bindgen_anon_1.ipv6;
            six.saddr = LOOPBACK6;
            six.daddr = LOOPBACK6;
            six.dport = port.to_be();
            size_of_val(six)
        };
        let found =
            bpf_sk_lookup_tcp(ctx.as_ptr(), &raw mut tuple, length as u32, BPF_F_CURRENT_NETNS as i64 as u64, 0);
        if found.is_null() {
            return false;
        }
        let right = is_right(found.cast());
        bpf_sk_release(found.cast());
        right
    }
}
