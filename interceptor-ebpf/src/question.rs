//! Questions to a resolver: they go to the relay, which finds who asked by where the packet came from.

use core::mem::{size_of_val, zeroed};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release};
use aya_ebpf::programs::SockAddrContext;
use interceptor_ebpf::{STATE_ASKED, Settings, Tuple};

use crate::maps::ASKERS;
use crate::packet::Packet;
use crate::sock_addr::{self, Endpoint, LOOPBACK4, LOOPBACK6, is_foreign, is_mapped, is_marked, netns, record, socket};
use crate::{caller, event, pace};

/// Keeps who asks, and which resolver; says where the relay is missing: what is sent to it then ends at the fence.
#[inline(always)]
pub(crate) fn ask(ctx: &SockAddrContext, settings: &Settings, endpoint: &Endpoint) {
    // Without a record the fence drops the question.
    if let Some(record) = record(socket(ctx)) {
        caller::fill(ctx, settings, endpoint, record);
        record.state = STATE_ASKED;
    }
    if is_foreign(ctx, settings) && !relayed(ctx, settings, is_mapped(&endpoint.address)) {
        event::no_listener(endpoint, netns(ctx));
    }
}

/// Publishes who asked, for the relay to find. False where nobody did, its cgroup has asked too often, or it cannot be kept:
/// then nothing may be sent.
#[inline(always)]
pub(crate) fn publish(packet: &Packet, sk: *mut bpf_sock) -> bool {
    let Some(record) = sock_addr::record(sk.cast()) else { return false };
    if record.state != STATE_ASKED || !pace::question(record.cgroup) {
        return false;
    }
    let tuple = Tuple {
        netns: record.netns,
        source: packet.source.address,
        destination: packet.destination.address,
        source_port: packet.source.port,
        destination_port: packet.destination.port,
        reserved: 0,
    };
    ASKERS.insert(tuple, &*record, 0).is_ok()
}

/// Whether the daemon receives at the relay's port.
#[inline(always)]
fn relayed(ctx: &SockAddrContext, settings: &Settings, four: bool) -> bool {
    // SAFETY: an all-zero tuple is valid; the context is valid; a found socket is released on the only path.
    unsafe {
        let mut tuple: bpf_sock_tuple = zeroed();
        let length = if four {
            let four = &mut tuple.__bindgen_anon_1.ipv4;
            four.saddr = LOOPBACK4[3];
            four.daddr = LOOPBACK4[3];
            four.dport = settings.dns_port.to_be();
            size_of_val(four)
        } else {
            let six = &mut tuple.__bindgen_anon_1.ipv6;
            six.saddr = LOOPBACK6;
            six.daddr = LOOPBACK6;
            six.dport = settings.dns_port.to_be();
            size_of_val(six)
        };
        let netns = BPF_F_CURRENT_NETNS as i64 as u64;
        let found = bpf_sk_lookup_udp(ctx.as_ptr(), &raw mut tuple, length as u32, netns, 0);
        if found.is_null() {
            return false;
        }
        let marked = is_marked(found.cast());
        bpf_sk_release(found.cast());
        marked
    }
}

/// What the agent asked when it hears from the relay.
#[inline(always)]
pub(crate) fn asked(ctx: &SockAddrContext, settings: &Settings) -> Endpoint {
    if is_foreign(ctx, settings)
        && let Some(record) = record(socket(ctx))
        && record.port != 0
    {
        return Endpoint { address: record.address, port: record.port };
    }
    Endpoint { address: settings.resolver, port: settings.resolver_port }
}
