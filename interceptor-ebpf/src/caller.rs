//! Who calls: the running task, as records keep it.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_task, bpf_get_socket_cookie, bpf_probe_read_kernel,
};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use aya_ebpf::programs::SockAddrContext;
use interceptor_ebpf::{Record, Settings};

use crate::sock_addr::{self, Endpoint};

/// Writes into a socket's record who the running task is, and where it wants to go.
#[inline(always)]
pub(crate) fn fill(ctx: &SockAddrContext, settings: &Settings, endpoint: &Endpoint, record: &mut Record) {
    record.netns = sock_addr::netns(ctx);
    // SAFETY: the helpers take the valid context, or nothing.
    unsafe {
        record.socket = bpf_get_socket_cookie(ctx.as_ptr());
        record.current_cgroup = bpf_get_current_cgroup_id();
    }
    let task = bpf_get_current_pid_tgid();
    record.tgid = (task >> 32) as u32;
    record.tid = task as u32;
    let user = bpf_get_current_uid_gid();
    record.uid = user as u32;
    record.gid = (user >> 32) as u32;
    record.start_boottime = start_boottime(settings);
    record.comm = bpf_get_current_comm().unwrap_or_default();
    record.address = endpoint.address;
    record.port = endpoint.port;
}

/// When the running process started; 0 where the daemon did not find the offsets.
#[inline(always)]
fn start_boottime(settings: &Settings) -> u64 {
    if settings.start_boottime_offset == 0 || settings.group_leader_offset == 0 {
        return 0;
    }
    // SAFETY: `task_struct` of the running task; the helper checks each address and fails on a bad one.
    unsafe {
        let task = bpf_get_current_task();
        let leader = read_kernel(task + u64::from(settings.group_leader_offset));
        if leader == 0 { 0 } else { read_kernel(leader + u64::from(settings.start_boottime_offset)) }
    }
}

#[inline(always)]
unsafe fn read_kernel(address: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: the caller's; eight bytes into a local.
    let failed = unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 8, address as *const _) };
    if failed == 0 { value } else { 0 }
}
