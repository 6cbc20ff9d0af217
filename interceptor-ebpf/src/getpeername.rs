//! `getpeername(2)`: agents see the peer that they asked for.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use interceptor_ebpf::STATE_CAPTURED;

use crate::question::asked;
use crate::sock_addr::{self, Endpoint, IPPROTO_TCP, is_relay};

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(endpoint) = original(&ctx, &sock_addr::endpoint4(&ctx)) {
        sock_addr::set4(&ctx, &endpoint);
    }
    1
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(endpoint) = original(&ctx, &sock_addr::endpoint6(&ctx)) {
        sock_addr::set6(&ctx, &endpoint);
    }
    1
}

/// What the agent asked for, where that differs. A miss shows the true address: the kernel allows no refusal here, and
/// nothing is reached through a name.
#[inline(always)]
fn original(ctx: &SockAddrContext, shown: &Endpoint) -> Option<Endpoint> {
    let settings = sock_addr::settings()?;
    if sock_addr::protocol(ctx) == IPPROTO_TCP {
        let record = sock_addr::record(sock_addr::socket(ctx))?;
        return (record.state == STATE_CAPTURED).then_some(Endpoint { address: record.address, port: record.port });
    }
    is_relay(settings, shown).then(|| asked(ctx, settings))
}
