//! Hooks of the kernel's security modules, at the agents' cgroups: what the socket hooks do not see. Attached where the
//! kernel takes them.
//!
//! Each hook runs for the cgroup of the running task, or of the socket where a socket comes first. What cannot be read is
//! refused.

mod bpf;
mod file_receive;
mod netlink;
mod ptrace;
mod socket_create;
mod unix;

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;
use interceptor_ebpf::Offsets;

/// Written by the loader.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets {
    task_cgroups: 0,
    set_cgroup: 0,
    cgroup_node: 0,
    node_id: 0,
    socket_sock: 0,
    sock_cgroup: 0,
    file_inode: 0,
    inode_mode: 0,
    file_private: 0,
    sock_net: 0,
    net_owner: 0,
    owner_level: 0,
    message_length: 0,
    message_data: 0,
};

/// The offsets, or nothing where the loader knew none.
#[inline(always)]
fn offsets() -> Option<Offsets> {
    // SAFETY: a static of this program; volatile, since the loader writes it after compilation.
    let offsets = unsafe { core::ptr::read_volatile(core::ptr::addr_of!(OFFSETS)) };
    (offsets.node_id != 0).then_some(offsets)
}

/// The word at an offset of a kernel structure.
#[inline(always)]
fn word(base: u64, offset: u32) -> Option<u64> {
    // SAFETY: the helper checks the address, and fails on a bad one.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const u64) }.ok()
}

/// The id of the cgroup at this address.
#[inline(always)]
fn id_of(cgroup: u64, offsets: &Offsets) -> Option<u64> {
    word(word(cgroup, offsets.cgroup_node)?, offsets.node_id)
}

/// The id of the cgroup in which a `struct sock` was made.
#[inline(always)]
fn cgroup_of_sock(sock: u64, offsets: &Offsets) -> Option<u64> {
    id_of(word(sock, offsets.sock_cgroup)?, offsets)
}

/// The id of the cgroup in which a `struct socket` was made.
#[inline(always)]
fn cgroup_of_socket(socket: u64, offsets: &Offsets) -> Option<u64> {
    cgroup_of_sock(word(socket, offsets.socket_sock)?, offsets)
}

/// The id of the cgroup of a `struct task_struct`.
#[inline(always)]
fn cgroup_of_task(task: u64, offsets: &Offsets) -> Option<u64> {
    id_of(word(word(task, offsets.task_cgroups)?, offsets.set_cgroup)?, offsets)
}

#[inline(always)]
fn current_cgroup() -> u64 {
    // SAFETY: takes no arguments.
    unsafe { bpf_get_current_cgroup_id() }
}

/// A pointer argument as the number that it is.
#[inline(always)]
fn number(pointer: *const c_void) -> u64 {
    pointer as u64
}
