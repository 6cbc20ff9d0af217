//! The fence's other side: what reaches an agent's socket. Default deny.
//!
//! A packet passes when it came in through `lo`, and a TCP connection is opened, or a datagram sent, by the daemon or
//! (TCP alone) by a socket of the same cgroup. So nobody outside can talk to an agent past the daemon, not even one way.
//! What belongs to a connection that exists was decided when it was opened, by this program or by the fence: where the
//! socket is one that the programs know. Others, older or accepted, are judged by their next packet.

use core::ffi::c_void;

use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use interceptor_ebpf::{Fault, Reason, STATE_KNOWN};

use crate::event;
use crate::packet::{self, LO, Packet, TCP_ACK, TCP_SYN};
use crate::sock_addr::{self, IPPROTO_UDP};

const TCP_LISTEN: u32 = 10;

#[cgroup_skb(ingress)]
pub fn ingress(ctx: SkBuffContext) -> i32 {
    let cgroup = packet::cgroup(&ctx);
    let packet = match Packet::read(&ctx) {
        Ok(packet) => packet,
        Err(refused) => {
            event::refuse_packet(Reason::Inbound, refused.fault, refused.protocol, None, cgroup);
            return 0;
        }
    };
    match judge(&ctx, &packet, cgroup) {
        None => 1,
        Some(fault) => {
            event::refuse_packet(Reason::Inbound, fault, packet.protocol, Some(&packet.source), cgroup);
            0
        }
    }
}

/// What is wrong with the packet, if anything.
#[inline(always)]
fn judge(ctx: &SkBuffContext, packet: &Packet, cgroup: u64) -> Option<Fault> {
    // SAFETY: the kernel passes a valid context; the pointer is checked before use.
    let (device, sk) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).__bindgen_anon_2.sk) };
    if sk.is_null() || cgroup == 0 {
        return Some(Fault::Socket);
    }
    if device != LO {
        return Some(Fault::Device);
    }
    let datagram = u32::from(packet.protocol) == IPPROTO_UDP;
    let opens = datagram || packet.flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
    if !opens && sock_addr::record(sk.cast()).is_some() {
        return None;
    }
    let Some(settings) = sock_addr::settings() else { return Some(Fault::Settings) };
    let sender = packet::owner(ctx, packet, &packet.destination, &packet.source);
    let known = sender.listens
        || sender.cgroup == settings.daemon_cgroup
        || (!datagram && sender.cgroup != 0 && sender.cgroup == cgroup);
    if !known {
        return Some(Fault::Peer);
    }
    // The peer may be gone before the connection is: its last packets then tell nothing of it. A listener is nobody's peer.
    // SAFETY: a socket, checked above.
    if !opens && unsafe { (*sk).state } != TCP_LISTEN {
        remember(sk.cast(), cgroup);
    }
    None
}

/// Notes whom the socket is connected with. Without memory for that, every packet is judged.
#[inline(always)]
fn remember(sk: *mut c_void, cgroup: u64) {
    if let Some(record) = sock_addr::new_record(sk) {
        record.cgroup = cgroup;
        record.state = STATE_KNOWN;
    }
}
