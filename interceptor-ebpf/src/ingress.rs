//! The fence's other side: what reaches an agent's socket. Default deny.
//!
//! A packet passes when it came in through `lo`, and a TCP connection is opened, or a datagram sent, by the daemon or (TCP
//! alone) by a socket of the same cgroup. So nobody outside can talk to an agent past the daemon, not even one way. What
//! belongs to a connection that exists was decided when it was opened, by this program or by the fence.

use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use interceptor_ebpf::Reason;

use crate::event;
use crate::packet::{self, LO, Packet, TCP_ACK, TCP_SYN};
use crate::sock_addr::{self, IPPROTO_UDP};

#[cgroup_skb(ingress)]
pub fn ingress(ctx: SkBuffContext) -> i32 {
    // SAFETY: the kernel passes a valid context.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    let cgroup = packet::cgroup(&ctx);
    let Some(packet) = Packet::read(&ctx) else {
        event::refuse_packet(Reason::Inbound, 0, None, cgroup);
        return 0;
    };
    if passes(&ctx, &packet, device, cgroup) {
        return 1;
    }
    event::refuse_packet(Reason::Inbound, u32::from(packet.protocol), Some(&packet.source), cgroup);
    0
}

#[inline(always)]
fn passes(ctx: &SkBuffContext, packet: &Packet, device: u32, cgroup: u64) -> bool {
    if device != LO || cgroup == 0 {
        return false;
    }
    let datagram = u32::from(packet.protocol) == IPPROTO_UDP;
    if !datagram && packet.flags & (TCP_SYN | TCP_ACK) != TCP_SYN {
        return true;
    }
    let Some(settings) = sock_addr::settings() else { return false };
    let sender = packet::owner(ctx, packet, &packet.destination, &packet.source);
    sender == settings.daemon_cgroup || (!datagram && sender != 0 && sender == cgroup)
}
