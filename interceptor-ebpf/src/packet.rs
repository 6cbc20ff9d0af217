//! A packet of an agent's socket: what of it matters, and whose sockets it is between.

use core::mem::{size_of_val, zeroed};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{
    bpf_sk_cgroup_id, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release, bpf_skb_cgroup_id, bpf_skb_load_bytes,
};
use aya_ebpf::programs::SkBuffContext;
use interceptor_ebpf::{Fault, address, mapped};

use crate::sock_addr::{Endpoint, IPPROTO_TCP, IPPROTO_UDP, is_marked};

/// The loopback device has this index in every network namespace.
pub(crate) const LO: u32 = 1;
const ETH_P_IP: u32 = 0x0800;
const ETH_P_IPV6: u32 = 0x86dd;
/// The next header that says: options for every hop.
const HOP_BY_HOP: u8 = 0;
/// The option that says how long the packet is, where 16 bits do not.
const JUMBO: u8 = 0xc2;
pub(crate) const TCP_SYN: u8 = 0x02;
pub(crate) const TCP_RST: u8 = 0x04;
pub(crate) const TCP_ACK: u8 = 0x10;

/// The cgroup of the packet's own socket: its sender's on the way out, its receiver's on the way in.
#[inline(always)]
pub(crate) fn cgroup(ctx: &SkBuffContext) -> u64 {
    // SAFETY: the helper takes the valid context.
    unsafe { bpf_skb_cgroup_id(ctx.skb.skb) }
}

/// What the verdict needs of a packet of an admissible shape.
pub(crate) struct Packet {
    pub(crate) source: Endpoint,
    pub(crate) destination: Endpoint,
    pub(crate) protocol: u8,
    /// TCP flags; 0 for UDP.
    pub(crate) flags: u8,
    pub(crate) six: bool,
}

/// Why a packet does not pass, and its protocol as far as that is known.
#[derive(Clone, Copy)]
pub(crate) struct Refused {
    pub(crate) fault: Fault,
    pub(crate) protocol: u8,
}

impl Refused {
    #[inline(always)]
    fn new(fault: Fault, protocol: u8) -> Self {
        Self { fault, protocol }
    }
}

impl Packet {
    /// The packet, where its shape is one of the two that are allowed.
    #[inline(always)]
    pub(crate) fn read(ctx: &SkBuffContext) -> Result<Self, Refused> {
        // SAFETY: the kernel passes a valid context.
        let ethertype = u32::from(u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16));
        let (source, destination, protocol, offset, six) = match ethertype {
            ETH_P_IP => {
                let header: [u8; 20] = load(ctx, 0)?;
                // Version 4 with five words: no options. No fragments.
                if header[0] != 0x45 {
                    return Err(Refused::new(Fault::Options, header[9]));
                }
                if header[6] & 0x3f != 0 || header[7] != 0 {
                    return Err(Refused::new(Fault::Fragment, header[9]));
                }
                let source = mapped([header[12], header[13], header[14], header[15]]);
                let destination = mapped([header[16], header[17], header[18], header[19]]);
                (source, destination, header[9], 20, false)
            }
            ETH_P_IPV6 => {
                let start: [u8; 8] = load(ctx, 0)?;
                if start[0] >> 4 != 6 {
                    return Err(Refused::new(Fault::Family, 0));
                }
                let (protocol, offset) =
                    if start[6] == HOP_BY_HOP { (jumbo(ctx, &start)?, 48) } else { (start[6], 40) };
                (address(load(ctx, 8)?), address(load(ctx, 24)?), protocol, offset, true)
            }
            _ => return Err(Refused::new(Fault::Family, 0)),
        };
        let flags = match u32::from(protocol) {
            IPPROTO_TCP => load::<1>(ctx, offset + 13)?[0],
            IPPROTO_UDP => 0,
            _ => return Err(Refused::new(Fault::Protocol, protocol)),
        };
        let [s, t, d, e] = load::<4>(ctx, offset)?;
        Ok(Self {
            source: Endpoint { address: source, port: u16::from_be_bytes([s, t]) },
            destination: Endpoint { address: destination, port: u16::from_be_bytes([d, e]) },
            protocol,
            flags,
            six,
        })
    }
}

/// The protocol behind the one extension header that the kernel itself puts in front of more than 64 KiB of TCP at once:
/// hop by hop, with the jumbo option alone. Without it a long write would be lost, and its parts sent again one by one.
#[inline(always)]
fn jumbo(ctx: &SkBuffContext, start: &[u8; 8]) -> Result<u8, Refused> {
    let [next, length, option, size] = load::<4>(ctx, 40)?;
    let is_jumbo = start[4] == 0 && start[5] == 0 && length == 0 && option == JUMBO && size == 4;
    if is_jumbo && u32::from(next) == IPPROTO_TCP { Ok(next) } else { Err(Refused::new(Fault::Protocol, HOP_BY_HOP)) }
}

/// Whose a socket is.
pub(crate) struct Owner {
    /// Its cgroup; 0 where there is no socket.
    pub(crate) cgroup: u64,
    /// The daemon listens on it.
    pub(crate) listens: bool,
}

/// Whose the socket is that would receive a packet of this kind from `source` at `destination`.
#[inline(always)]
pub(crate) fn owner(ctx: &SkBuffContext, packet: &Packet, source: &Endpoint, destination: &Endpoint) -> Owner {
    // SAFETY: an all-zero tuple is valid; the context is valid; a found socket is released on the only path.
    unsafe {
        let mut tuple: bpf_sock_tuple = zeroed();
        let length = if packet.six {
            let six = &mut tuple.__bindgen_anon_1.ipv6;
            six.saddr = source.address;
            six.daddr = destination.address;
            six.sport = source.port.to_be();
            six.dport = destination.port.to_be();
            size_of_val(six)
        } else {
            let four = &mut tuple.__bindgen_anon_1.ipv4;
            four.saddr = source.address[3];
            four.daddr = destination.address[3];
            four.sport = source.port.to_be();
            four.dport = destination.port.to_be();
            size_of_val(four)
        } as u32;
        let netns = BPF_F_CURRENT_NETNS as i64 as u64;
        let found = if u32::from(packet.protocol) == IPPROTO_TCP {
            bpf_sk_lookup_tcp(ctx.as_ptr(), &raw mut tuple, length, netns, 0)
        } else {
            bpf_sk_lookup_udp(ctx.as_ptr(), &raw mut tuple, length, netns, 0)
        };
        if found.is_null() {
            return Owner { cgroup: 0, listens: false };
        }
        let owner = Owner { cgroup: bpf_sk_cgroup_id(found.cast()), listens: is_marked(found.cast()) };
        bpf_sk_release(found.cast());
        owner
    }
}

#[inline(always)]
fn load<const N: usize>(ctx: &SkBuffContext, offset: u32) -> Result<[u8; N], Refused> {
    let mut bytes = [0u8; N];
    // SAFETY: the helper writes exactly N bytes into a local of N bytes, or fails.
    let failed = unsafe { bpf_skb_load_bytes(ctx.as_ptr().cast_const(), offset, bytes.as_mut_ptr().cast(), N as u32) };
    if failed == 0 { Ok(bytes) } else { Err(Refused::new(Fault::Short, 0)) }
}
