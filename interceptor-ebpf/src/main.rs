//! interceptor's kernel programs: maps, licence, panic handler; no logic. One file a hook.
//!
//! Built for `bpfel-unknown-none` by `cargo xtask ebpf`; the daemon embeds the committed object.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod bind;
#[cfg(target_arch = "bpf")]
mod caller;
#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod device;
#[cfg(target_arch = "bpf")]
mod egress;
#[cfg(target_arch = "bpf")]
mod event;
#[cfg(target_arch = "bpf")]
mod getpeername;
#[cfg(target_arch = "bpf")]
mod ingress;
#[cfg(target_arch = "bpf")]
mod lsm;
#[cfg(target_arch = "bpf")]
mod pace;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod question;
#[cfg(target_arch = "bpf")]
mod recvmsg;
#[cfg(target_arch = "bpf")]
mod sendmsg;
#[cfg(target_arch = "bpf")]
mod setsockopt;
#[cfg(target_arch = "bpf")]
mod sock_addr;
#[cfg(target_arch = "bpf")]
mod sock_create;
#[cfg(target_arch = "bpf")]
mod sock_ops;

#[cfg(target_arch = "bpf")]
mod maps {
    use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SkStorage};
    use aya_ebpf::macros::btf_map;
    use interceptor_ebpf::{
        Device, EVENT_BYTES, Event, MAX_ASKERS, MAX_DEVICES, MAX_HANDSHAKES, MAX_LOCAL_PEERS, MAX_PACES, Mark, Pace,
        REASONS, Record, Settings, Tuple,
    };

    #[btf_map]
    pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();
    #[btf_map]
    pub(crate) static SOCKETS: SkStorage<Record> = SkStorage::new();
    #[btf_map]
    pub(crate) static ACCEPTED: SkStorage<Record> = SkStorage::new();
    #[btf_map]
    pub(crate) static OWN: SkStorage<Mark> = SkStorage::new();
    #[btf_map]
    pub(crate) static HANDSHAKES: LruHashMap<Tuple, Record, MAX_HANDSHAKES> = LruHashMap::new();
    #[btf_map]
    pub(crate) static ASKERS: LruHashMap<Tuple, Record, MAX_ASKERS> = LruHashMap::new();
    #[btf_map]
    pub(crate) static EVENTS: RingBuf<Event, EVENT_BYTES> = RingBuf::new();
    #[btf_map]
    pub(crate) static COUNTERS: PerCpuArray<u64, REASONS> = PerCpuArray::new();
    #[btf_map]
    pub(crate) static LOCAL_PEERS: HashMap<u64, u32, MAX_LOCAL_PEERS> = HashMap::new();
    #[btf_map]
    pub(crate) static DEVICES: HashMap<Device, u32, MAX_DEVICES> = HashMap::new();
    #[btf_map]
    pub(crate) static PACES: LruHashMap<u64, Pace, MAX_PACES> = LruHashMap::new();
}

/// Helpers that read kernel memory are open to programs under a GPL-compatible licence only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // No panic survives compilation; the verifier refuses a program that could get here.
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
