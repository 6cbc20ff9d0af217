//! Received UDP: an answer of the relay shows the resolver as its source. The kernel allows no refusal here.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::question::asked;
use crate::sock_addr::{self, is_mapped, is_relay};

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    if let Some(settings) = sock_addr::settings()
        && is_relay(settings, &sock_addr::endpoint4(&ctx))
    {
        let asked = asked(&ctx, settings);
        if is_mapped(&asked.address) {
            sock_addr::set4(&ctx, &asked);
        }
    }
    1
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    if let Some(settings) = sock_addr::settings()
        && is_relay(settings, &sock_addr::endpoint6(&ctx))
    {
        sock_addr::set6(&ctx, &asked(&ctx, settings));
    }
    1
}
