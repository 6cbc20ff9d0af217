//! Unconnected UDP: what goes to the resolver goes to the relay, all else is refused.
//!
//! A mapped destination on an IPv6 socket arrives in the IPv4 hook.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use interceptor_ebpf::Reason;

use crate::event;
use crate::question::ask;
use crate::sock_addr::{self, Endpoint, IPPROTO_UDP, is_mapped, is_resolver, redirect4, redirect6};

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    match relay_port(&ctx, &sock_addr::endpoint4(&ctx)) {
        Some(port) => {
            redirect4(&ctx, port);
            1
        }
        None => 0,
    }
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    let endpoint = sock_addr::endpoint6(&ctx);
    match relay_port(&ctx, &endpoint) {
        Some(port) => {
            redirect6(&ctx, port, is_mapped(&endpoint.address));
            1
        }
        None => 0,
    }
}

#[inline(always)]
fn relay_port(ctx: &SockAddrContext, endpoint: &Endpoint) -> Option<u16> {
    let Some(settings) = sock_addr::settings() else {
        event::refuse(Reason::NoSettings, IPPROTO_UDP, Some(endpoint), None);
        return None;
    };
    if is_resolver(ctx, settings, endpoint) {
        ask(ctx, settings, endpoint);
        return Some(settings.dns_port);
    }
    event::refuse(Reason::Udp, IPPROTO_UDP, Some(endpoint), None);
    None
}
