//! `bind(2)`: loopback and unspecified addresses only, and never a port of the daemon.
//!
//! A bind to the unspecified address is common and harmless: the fence drops whatever its socket sends to others.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use interceptor_ebpf::{Address, Reason};

use crate::event;
use crate::sock_addr::{self, Endpoint, LOOPBACK6, is_mapped, same};

#[cgroup_sock_addr(bind4)]
pub fn bind4(ctx: SockAddrContext) -> i32 {
    allowed(&sock_addr::endpoint4(&ctx))
}

#[cgroup_sock_addr(bind6)]
pub fn bind6(ctx: SockAddrContext) -> i32 {
    allowed(&sock_addr::endpoint6(&ctx))
}

#[inline(always)]
fn allowed(endpoint: &Endpoint) -> i32 {
    let Some(settings) = sock_addr::settings() else {
        event::refuse(Reason::NoSettings, 0, Some(endpoint), None);
        return 0;
    };
    let ours = endpoint.port != 0 && (endpoint.port == settings.proxy_port || endpoint.port == settings.dns_port);
    if ours || !local(&endpoint.address) {
        event::refuse(Reason::Bind, 0, Some(endpoint), None);
        return 0;
    }
    1
}

#[inline(always)]
fn local(address: &Address) -> bool {
    if is_mapped(address) {
        return address[3].to_ne_bytes()[0] == 127 || address[3] == 0;
    }
    same(address, &LOOPBACK6) || same(address, &[0; 4])
}
