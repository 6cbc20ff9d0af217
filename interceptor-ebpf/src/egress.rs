//! The fence: the last look at every packet of an agent's socket. Default deny.
//!
//! A packet passes when all of this holds: it has a socket; it leaves through `lo`; it is plain IPv4 or IPv6 without
//! options, fragments or extension headers (but for one, see `packet.rs`), TCP or UDP; it goes to 127.0.0.1 or ::1; and
//! there it reaches the daemon, or, over TCP, a socket of the same cgroup. What the other hooks miss ends here.
//!
//! Runs after the OUTPUT chain's address translation and before fragmentation.

use core::ffi::c_void;

use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use interceptor_ebpf::{Fault, Reason, STATE_CAPTURED, STATE_CREATED, STATE_KNOWN, STATE_LOCAL, Settings};

use crate::event;
use crate::packet::{self, LO, Packet, TCP_ACK, TCP_SYN};
use crate::sock_addr::{self, IPPROTO_UDP, LOOPBACK4, LOOPBACK6, same};

#[cgroup_skb(egress)]
pub fn egress(ctx: SkBuffContext) -> i32 {
    let cgroup = packet::cgroup(&ctx);
    let packet = match Packet::read(&ctx) {
        Ok(packet) => packet,
        Err(refused) => {
            event::refuse_packet(Reason::Packet, refused.fault, refused.protocol, None, cgroup);
            return 0;
        }
    };
    match judge(&ctx, &packet, cgroup) {
        None => 1,
        Some(fault) => {
            event::refuse_packet(Reason::Packet, fault, packet.protocol, Some(&packet.destination), cgroup);
            0
        }
    }
}

/// What is wrong with the packet, if anything.
#[inline(always)]
fn judge(ctx: &SkBuffContext, packet: &Packet, cgroup: u64) -> Option<Fault> {
    let Some(settings) = sock_addr::settings() else { return Some(Fault::Settings) };
    // SAFETY: the kernel passes a valid context; the pointer is checked before use.
    let (device, sk) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).__bindgen_anon_2.sk) };
    if sk.is_null() || cgroup == 0 {
        return Some(Fault::Socket);
    }
    if device != LO {
        return Some(Fault::Device);
    }
    let loopback = if packet.six { LOOPBACK6 } else { LOOPBACK4 };
    if !same(&packet.destination.address, &loopback) {
        return Some(Fault::Address);
    }
    if reaches(ctx, settings, packet, sk.cast(), cgroup) { None } else { Some(Fault::Peer) }
}

/// Whether the packet is for the daemon, or for a socket of the same cgroup.
#[inline(always)]
fn reaches(ctx: &SkBuffContext, settings: &Settings, packet: &Packet, sk: *mut c_void, cgroup: u64) -> bool {
    if u32::from(packet.protocol) == IPPROTO_UDP {
        return settings.has_resolver == 1
            && packet.destination.port == settings.dns_port
            && packet::owner(ctx, packet, &packet.source, &packet.destination) == settings.daemon_cgroup;
    }
    let opening = packet.flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
    let state = sock_addr::record(sk).map_or(STATE_CREATED, |record| record.state);
    let to_proxy = packet.destination.port == settings.proxy_port && state == STATE_CAPTURED;
    // The packets that open a connection decide who answers: also where both sides open it at once.
    if to_proxy && packet.flags & TCP_SYN == 0 {
        return true;
    }
    let receiver = packet::owner(ctx, packet, &packet.source, &packet.destination);
    if receiver == settings.daemon_cgroup {
        // Connections into the daemon are captured ones; other packets may answer the daemon's own connections.
        return to_proxy || !opening;
    }
    if receiver == 0 {
        // The last packets of a connection may find no socket any more. Without them the agent's would stay for minutes.
        return packet.flags & TCP_SYN == 0 && (state == STATE_LOCAL || state == STATE_KNOWN);
    }
    !to_proxy && receiver == cgroup
}
