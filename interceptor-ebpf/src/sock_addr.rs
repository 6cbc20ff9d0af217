//! What the socket address hooks share: reading and writing the address of the context, a socket's storage, settings.
//!
//! Context fields are read and written one 32-bit word at a time through volatile accesses: merged stores are refused
//! by the verifier.

use core::ffi::c_void;
use core::ptr::{addr_of, addr_of_mut, null_mut, read_volatile, write_volatile};

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_addr};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::programs::SockAddrContext;
use interceptor_ebpf::{Record, Settings, mapped};

use crate::maps::{SETTINGS, SOCKETS};

pub(crate) const IPPROTO_TCP: u32 = 6;
pub(crate) const IPPROTO_UDP: u32 = 17;
pub(crate) const SOCK_STREAM: u32 = 1;
pub(crate) const SOCK_DGRAM: u32 = 2;
pub(crate) const LOOPBACK4: [u8; 4] = [127, 0, 0, 1];
pub(crate) const LOOPBACK6: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const LOOPBACK4_WORD: u32 = u32::from_ne_bytes(LOOPBACK4);
const MAPPED_WORD: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
const LOOPBACK6_WORD: u32 = u32::from_ne_bytes([0, 0, 0, 1]);

/// An address and port, IPv4 as mapped, port in host order.
#[derive(Clone, Copy)]
pub(crate) struct Endpoint {
    pub(crate) address: [u8; 16],
    pub(crate) port: u16,
}

/// The settings, or nothing while the daemon has not written any.
#[inline(always)]
pub(crate) fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0).filter(|settings| settings.daemon_cgroup != 0)
}

/// The storage that `socket(2)` gave to this socket.
///
/// `sk` must be a socket pointer that the verifier knows as such.
#[inline(always)]
pub(crate) fn record(sk: *mut c_void) -> Option<&'static mut Record> {
    // SAFETY: the helper returns null or a pointer to the socket's value, which lives as long as the socket.
    unsafe { bpf_sk_storage_get(addr_of!(SOCKETS).cast_mut().cast(), sk, null_mut(), 0).cast::<Record>().as_mut() }
}

/// As [`record`], made where it is missing: only `sock_create` may do so.
#[inline(always)]
pub(crate) fn new_record(sk: *mut c_void) -> Option<&'static mut Record> {
    let create = BPF_SK_STORAGE_GET_F_CREATE as u64;
    // SAFETY: as above; a new value is all zero.
    unsafe { bpf_sk_storage_get(addr_of!(SOCKETS).cast_mut().cast(), sk, null_mut(), create).cast::<Record>().as_mut() }
}

/// The context's socket.
#[inline(always)]
pub(crate) fn socket(ctx: &SockAddrContext) -> *mut c_void {
    // SAFETY: the kernel passes a valid context; the field is a pointer that the verifier tracks.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk.cast() }
}

#[inline(always)]
fn context(ctx: &SockAddrContext) -> *mut bpf_sock_addr {
    ctx.sock_addr
}

/// Protocol of the socket, where its type fits that protocol; 0 otherwise.
#[inline(always)]
pub(crate) fn protocol(ctx: &SockAddrContext) -> u32 {
    let ctx = context(ctx);
    // SAFETY: the kernel passes a valid context.
    let (kind, protocol) = unsafe { (read_volatile(addr_of!((*ctx).type_)), read_volatile(addr_of!((*ctx).protocol))) };
    match (kind, protocol) {
        (SOCK_STREAM, IPPROTO_TCP) => IPPROTO_TCP,
        (SOCK_DGRAM, IPPROTO_UDP) => IPPROTO_UDP,
        _ => 0,
    }
}

#[inline(always)]
fn port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: the kernel passes a valid context; the port is in the low half, network order.
    u16::from_be(unsafe { read_volatile(addr_of!((*context(ctx)).user_port)) } as u16)
}

#[inline(always)]
fn set_port(ctx: &SockAddrContext, port: u16) {
    // SAFETY: the kernel passes a valid context.
    unsafe { write_volatile(addr_of_mut!((*context(ctx)).user_port), u32::from(port.to_be())) }
}

/// The address of an IPv4 hook.
#[inline(always)]
pub(crate) fn endpoint4(ctx: &SockAddrContext) -> Endpoint {
    // SAFETY: the kernel passes a valid context.
    let word = unsafe { read_volatile(addr_of!((*context(ctx)).user_ip4)) };
    Endpoint { address: mapped(word.to_ne_bytes()), port: port(ctx) }
}

/// The address of an IPv6 hook.
#[inline(always)]
pub(crate) fn endpoint6(ctx: &SockAddrContext) -> Endpoint {
    let mut address = [0u8; 16];
    let source = context(ctx);
    let target = address.as_mut_ptr().cast::<u32>();
    // SAFETY: four words of a valid context, into four words of a local array.
    unsafe {
        target.add(0).write_unaligned(read_volatile(addr_of!((*source).user_ip6[0])));
        target.add(1).write_unaligned(read_volatile(addr_of!((*source).user_ip6[1])));
        target.add(2).write_unaligned(read_volatile(addr_of!((*source).user_ip6[2])));
        target.add(3).write_unaligned(read_volatile(addr_of!((*source).user_ip6[3])));
    }
    Endpoint { address, port: port(ctx) }
}

/// Writes an IPv4 address, given as mapped, and a port.
#[inline(always)]
pub(crate) fn set4(ctx: &SockAddrContext, endpoint: &Endpoint) {
    let [.., a, b, c, d] = endpoint.address;
    // SAFETY: the kernel passes a valid context.
    unsafe { write_volatile(addr_of_mut!((*context(ctx)).user_ip4), u32::from_ne_bytes([a, b, c, d])) };
    set_port(ctx, endpoint.port);
}

/// Writes an IPv6 (or mapped) address and a port.
#[inline(always)]
pub(crate) fn set6(ctx: &SockAddrContext, endpoint: &Endpoint) {
    let words = words(&endpoint.address);
    set6_words(ctx, words);
    set_port(ctx, endpoint.port);
}

#[inline(always)]
fn set6_words(ctx: &SockAddrContext, words: [u32; 4]) {
    let target = context(ctx);
    // SAFETY: four words of a valid context.
    unsafe {
        write_volatile(addr_of_mut!((*target).user_ip6[0]), words[0]);
        write_volatile(addr_of_mut!((*target).user_ip6[1]), words[1]);
        write_volatile(addr_of_mut!((*target).user_ip6[2]), words[2]);
        write_volatile(addr_of_mut!((*target).user_ip6[3]), words[3]);
    }
}

/// Points an IPv4 context at 127.0.0.1.
#[inline(always)]
pub(crate) fn redirect4(ctx: &SockAddrContext, port: u16) {
    // SAFETY: the kernel passes a valid context.
    unsafe { write_volatile(addr_of_mut!((*context(ctx)).user_ip4), LOOPBACK4_WORD) };
    set_port(ctx, port);
}

/// Points an IPv6 context at ::1, or at ::ffff:127.0.0.1 where it held a mapped address.
#[inline(always)]
pub(crate) fn redirect6(ctx: &SockAddrContext, port: u16, was_mapped: bool) {
    set6_words(ctx, if was_mapped { [0, 0, MAPPED_WORD, LOOPBACK4_WORD] } else { [0, 0, 0, LOOPBACK6_WORD] });
    set_port(ctx, port);
}

/// The four words of an address, as they lie in memory.
#[inline(always)]
pub(crate) fn words(address: &[u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

/// Whether two addresses are equal; compares words, since the verifier's budget is better spent elsewhere.
#[inline(always)]
pub(crate) fn same(a: &[u8; 16], b: &[u8; 16]) -> bool {
    let (a, b) = (words(a), words(b));
    a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3]
}

/// Whether the address is IPv4 in mapped form.
#[inline(always)]
pub(crate) fn is_mapped(address: &[u8; 16]) -> bool {
    let words = words(address);
    words[0] == 0 && words[1] == 0 && words[2] == MAPPED_WORD
}

/// The loopback address that a connect to `address` would reach, where it is one that the fence lets pass:
/// 127.0.0.1, ::1, and the unspecified addresses, which the kernel takes for them.
#[inline(always)]
pub(crate) fn loopback_of(address: &[u8; 16]) -> Option<[u8; 16]> {
    let words = words(address);
    if is_mapped(address) {
        return (words[3] == LOOPBACK4_WORD || words[3] == 0).then_some(mapped(LOOPBACK4));
    }
    let plain = words[0] == 0 && words[1] == 0 && words[2] == 0;
    (plain && (words[3] == LOOPBACK6_WORD || words[3] == 0)).then_some(LOOPBACK6)
}

/// Whether the settings name this endpoint as the resolver.
#[inline(always)]
pub(crate) fn is_resolver(settings: &Settings, endpoint: &Endpoint) -> bool {
    settings.has_resolver == 1 && endpoint.port == settings.resolver_port && same(&endpoint.address, &settings.resolver)
}

/// Whether this endpoint is the daemon's DNS relay.
#[inline(always)]
pub(crate) fn is_relay(settings: &Settings, endpoint: &Endpoint) -> bool {
    settings.has_resolver == 1
        && endpoint.port == settings.dns_port
        && (same(&endpoint.address, &LOOPBACK6) || same(&endpoint.address, &mapped(LOOPBACK4)))
}

/// The resolver, as agents know it.
#[inline(always)]
pub(crate) fn resolver(settings: &Settings) -> Endpoint {
    Endpoint { address: settings.resolver, port: settings.resolver_port }
}
