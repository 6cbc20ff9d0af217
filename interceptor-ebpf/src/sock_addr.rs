//! What the socket address hooks share: reading and writing the address of the context, a socket's storage, settings.
//!
//! Context fields are read and written one 32-bit word at a time through volatile accesses: merged stores are refused
//! by the verifier.

use core::ffi::c_void;
use core::ptr::{addr_of, addr_of_mut, null_mut, read_volatile, write_volatile};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_addr};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_sk_storage_get};
use aya_ebpf::programs::SockAddrContext;
use interceptor_ebpf::{Address, DNS_PORT, MAPPED_WORD, Record, Settings, mapped, mapped_word};

use crate::maps::{OWN, SETTINGS, SOCKETS};

pub(crate) const IPPROTO_TCP: u32 = 6;
pub(crate) const IPPROTO_UDP: u32 = 17;
pub(crate) const SOCK_STREAM: u32 = 1;
pub(crate) const SOCK_DGRAM: u32 = 2;
/// 127.0.0.1, mapped.
pub(crate) const LOOPBACK4: Address = mapped([127, 0, 0, 1]);
/// ::1.
pub(crate) const LOOPBACK6: Address = [0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1])];

/// An address and port, IPv4 as mapped, port in host order.
#[derive(Clone, Copy)]
pub(crate) struct Endpoint {
    pub(crate) address: Address,
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

/// As [`record`], made where it is missing: only where a socket begins, or is found to be connected with its own.
#[inline(always)]
pub(crate) fn new_record(sk: *mut c_void) -> Option<&'static mut Record> {
    let create = BPF_SK_STORAGE_GET_F_CREATE as u64;
    // SAFETY: as above; a new value is all zero.
    unsafe { bpf_sk_storage_get(addr_of!(SOCKETS).cast_mut().cast(), sk, null_mut(), create).cast::<Record>().as_mut() }
}

/// Whether this is a socket that the daemon listens on. Not by its cgroup: such sockets outlive the process and the cgroup
/// that they were made in, and others may be in that cgroup.
///
/// `sk` must be a socket pointer that the verifier knows as such.
#[inline(always)]
pub(crate) fn is_marked(sk: *mut c_void) -> bool {
    // SAFETY: the helper returns null or a pointer to the socket's value, which is not looked at.
    unsafe { !bpf_sk_storage_get(addr_of!(OWN).cast_mut().cast(), sk, null_mut(), 0).is_null() }
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
    Endpoint { address: mapped_word(word), port: port(ctx) }
}

/// The address of an IPv6 hook.
#[inline(always)]
pub(crate) fn endpoint6(ctx: &SockAddrContext) -> Endpoint {
    let source = context(ctx);
    // SAFETY: four words of a valid context.
    let address = unsafe {
        [
            read_volatile(addr_of!((*source).user_ip6[0])),
            read_volatile(addr_of!((*source).user_ip6[1])),
            read_volatile(addr_of!((*source).user_ip6[2])),
            read_volatile(addr_of!((*source).user_ip6[3])),
        ]
    };
    Endpoint { address, port: port(ctx) }
}

/// Writes an IPv4 address, given as mapped, and a port.
#[inline(always)]
pub(crate) fn set4(ctx: &SockAddrContext, endpoint: &Endpoint) {
    // SAFETY: the kernel passes a valid context.
    unsafe { write_volatile(addr_of_mut!((*context(ctx)).user_ip4), endpoint.address[3]) };
    set_port(ctx, endpoint.port);
}

/// Writes an IPv6 (or mapped) address and a port.
#[inline(always)]
pub(crate) fn set6(ctx: &SockAddrContext, endpoint: &Endpoint) {
    set6_words(ctx, &endpoint.address);
    set_port(ctx, endpoint.port);
}

#[inline(always)]
fn set6_words(ctx: &SockAddrContext, words: &Address) {
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
    unsafe { write_volatile(addr_of_mut!((*context(ctx)).user_ip4), LOOPBACK4[3]) };
    set_port(ctx, port);
}

/// Points an IPv6 context at ::1, or at ::ffff:127.0.0.1 where it held a mapped address.
#[inline(always)]
pub(crate) fn redirect6(ctx: &SockAddrContext, port: u16, was_mapped: bool) {
    set6_words(ctx, if was_mapped { &LOOPBACK4 } else { &LOOPBACK6 });
    set_port(ctx, port);
}

/// Whether two addresses are equal, word by word: a call of `memcmp` would be one more program to verify.
#[inline(always)]
pub(crate) fn same(a: &Address, b: &Address) -> bool {
    a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3]
}

/// Whether the address is IPv4 in mapped form.
#[inline(always)]
pub(crate) fn is_mapped(address: &Address) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == MAPPED_WORD
}

/// The loopback address that a connect to `address` would reach, where it is one that the fence lets pass:
/// 127.0.0.1, ::1, and the unspecified addresses, which the kernel takes for them.
#[inline(always)]
pub(crate) fn loopback_of(address: &Address) -> Option<Address> {
    if is_mapped(address) {
        return (address[3] == LOOPBACK4[3] || address[3] == 0).then_some(LOOPBACK4);
    }
    let plain = address[0] == 0 && address[1] == 0 && address[2] == 0;
    (plain && (address[3] == LOOPBACK6[3] || address[3] == 0)).then_some(LOOPBACK6)
}

/// Cookie of the network namespace of the context's socket.
#[inline(always)]
pub(crate) fn netns(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the valid context.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// Whether the context's socket is in another network namespace than the daemon.
#[inline(always)]
pub(crate) fn is_foreign(ctx: &SockAddrContext, settings: &Settings) -> bool {
    settings.home != 0 && netns(ctx) != settings.home
}

/// Whether this endpoint is a resolver: the one that the settings name, or, in another namespace than the daemon's, any.
#[inline(always)]
pub(crate) fn is_resolver(ctx: &SockAddrContext, settings: &Settings, endpoint: &Endpoint) -> bool {
    if settings.has_resolver != 1 {
        return false;
    }
    let named = endpoint.port == settings.resolver_port && same(&endpoint.address, &settings.resolver);
    named || (endpoint.port == DNS_PORT && is_foreign(ctx, settings))
}

/// Whether this endpoint is the daemon's DNS relay.
#[inline(always)]
pub(crate) fn is_relay(settings: &Settings, endpoint: &Endpoint) -> bool {
    settings.has_resolver == 1
        && endpoint.port == settings.dns_port
        && (same(&endpoint.address, &LOOPBACK6) || same(&endpoint.address, &LOOPBACK4))
}
