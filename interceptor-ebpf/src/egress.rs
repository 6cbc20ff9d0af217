//! The fence: the last look at every packet of an agent's socket. Default deny.
//!
//! A packet passes when all of this holds: it has a socket; it leaves through `lo`; it is plain IPv4 or IPv6 without
//! options, fragments or extension headers (but for one, see `packet.rs`), TCP or UDP; it goes to 127.0.0.1 or ::1; and
//! there it reaches the daemon, or, over TCP, a socket of the same cgroup. What the other hooks miss ends here.
//!
//! Runs after the OUTPUT chain's address translation and before fragmentation.

use core::ptr::{addr_of, read_volatile};

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use interceptor_ebpf::{Fault, Reason, STATE_CAPTURED, STATE_CREATED, STATE_KNOWN, STATE_LOCAL, Settings, mapped_word};

use crate::event;
use crate::packet::{self, LO, Packet, TCP_ACK, TCP_RST, TCP_SYN};
use crate::question::publish;
use crate::sock_addr::{self, Endpoint, IPPROTO_UDP, LOOPBACK4, LOOPBACK6, same};

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
    if reaches(ctx, settings, packet, sk, cgroup) { None } else { Some(Fault::Peer) }
}

/// Whether the packet is for the daemon, or for a socket of the same cgroup.
#[inline(always)]
fn reaches(ctx: &SkBuffContext, settings: &Settings, packet: &Packet, sk: *mut bpf_sock, cgroup: u64) -> bool {
    if u32::from(packet.protocol) == IPPROTO_UDP {
        return settings.has_resolver == 1
            && packet.destination.port == settings.dns_port
            && packet::owner(ctx, packet, &packet.source, &packet.destination).listens
            && is_own(packet, sk)
            && publish(packet, sk);
    }
    let opening = packet.flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
    let state = sock_addr::record(sk.cast()).map_or(STATE_CREATED, |record| record.state);
    let to_proxy = packet.destination.port == settings.proxy_port && state == STATE_CAPTURED;
    // Whoever may translate addresses in its own network namespace could speak as another socket there: what the daemon knows
    // of a connection, it knows by the agent's address and port.
    if to_proxy && !is_own(packet, sk) {
        return false;
    }
    // The packets that open a connection decide who answers: also where both sides open it at once.
    if to_proxy && packet.flags & TCP_SYN == 0 {
        return true;
    }
    let mut receiver = packet::owner(ctx, packet, &packet.source, &packet.destination);
    if opening && receiver.cgroup == 0 {
        // A connection from the same port that ended a moment ago (TIME_WAIT): the kernel gives the port to who listens.
        receiver = packet::owner(ctx, packet, &Endpoint { port: 0, ..packet.source }, &packet.destination);
    }
    if receiver.listens || receiver.cgroup == settings.daemon_cgroup {
        // Connections into the daemon are captured ones, and to what it listens on; other packets may answer the daemon's
        // own connections.
        return !opening || (to_proxy && receiver.listens);
    }
    if receiver.cgroup == 0 {
        // The last packets of a connection may find no socket any more. Without them the agent's would stay for minutes.
        return packet.flags & TCP_SYN == 0 && (state == STATE_LOCAL || state == STATE_KNOWN);
    }
    !to_proxy && receiver.cgroup == cgroup
}

/// Whether the packet's source is the socket's own address and port.
#[inline(always)]
fn is_own(packet: &Packet, sk: *mut bpf_sock) -> bool {
    // SAFETY: a socket, which the caller has checked; words of it, one at a time, as the verifier wants them. Both addresses are
    // read whichever counts: a choice between them would become a computed offset.
    let (four, six, port) = unsafe {
        let six = [
            read_volatile(addr_of!((*sk).src_ip6[0])),
            read_volatile(addr_of!((*sk).src_ip6[1])),
            read_volatile(addr_of!((*sk).src_ip6[2])),
            read_volatile(addr_of!((*sk).src_ip6[3])),
        ];
        (read_volatile(addr_of!((*sk).src_ip4)), six, read_volatile(addr_of!((*sk).src_port)))
    };
    let address = if packet.six { six } else { mapped_word(four) };
    // A socket that is closed with something unread has given its port back by the time it says so.
    let last_word = port == 0 && packet.flags & TCP_RST != 0;
    // A socket of UDP may have none: then the kernel gives each packet the address of its way.
    let any = u32::from(packet.protocol) == IPPROTO_UDP && (same(&address, &mapped_word(0)) || same(&address, &[0; 4]));
    (last_word || u32::from(packet.source.port) == port) && (any || same(&packet.source.address, &address))
}
