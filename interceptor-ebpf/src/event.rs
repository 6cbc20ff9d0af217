//! Events and counters of refusals. A full ring loses the event, never the refusal, and counts the loss; so does a cgroup that
//! has caused too many, which so takes no room from others.

use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_ktime_get_boot_ns};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use interceptor_ebpf::{Event, Fault, Reason};

use crate::maps::{COUNTERS, EVENTS};
use crate::pace;
use crate::sock_addr::Endpoint;

/// Reports a refusal by the running task.
#[inline(always)]
pub(crate) fn refuse(reason: Reason, detail: u32, endpoint: Option<&Endpoint>, cgroup: Option<u64>) {
    let mut event = of_task(reason, detail, endpoint);
    event.cgroup = cgroup.unwrap_or(event.cgroup);
    emit(&event);
}

/// Reports that nobody of the daemon's listens in the network namespace that the task connects in.
#[inline(always)]
pub(crate) fn no_listener(endpoint: &Endpoint, netns: u64) {
    let mut event = of_task(Reason::NoListener, 0, Some(endpoint));
    event.netns = netns;
    emit(&event);
}

/// Reports a refusal by the running task, of something that belongs to another cgroup (or a device, by its numbers).
#[inline(always)]
pub(crate) fn refuse_other(reason: Reason, detail: u32, other: u64) {
    let mut event = of_task(reason, detail, None);
    event.other = other;
    emit(&event);
}

/// Reports a refused packet, whose sender is only known by cgroup: the running task may be any.
#[inline(always)]
pub(crate) fn refuse_packet(reason: Reason, fault: Fault, protocol: u8, endpoint: Option<&Endpoint>, cgroup: u64) {
    let mut event = blank(reason, ((fault as u32) << 16) | u32::from(protocol), endpoint);
    event.cgroup = cgroup;
    emit(&event);
}

#[inline(always)]
fn of_task(reason: Reason, detail: u32, endpoint: Option<&Endpoint>) -> Event {
    let mut event = blank(reason, detail, endpoint);
    // SAFETY: takes no arguments and reads the running task.
    event.cgroup = unsafe { bpf_get_current_cgroup_id() };
    event.tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    event.uid = bpf_get_current_uid_gid() as u32;
    event.comm = bpf_get_current_comm().unwrap_or_default();
    event
}

#[inline(always)]
fn blank(reason: Reason, detail: u32, endpoint: Option<&Endpoint>) -> Event {
    let (address, port) = endpoint.map_or(([0; 4], 0), |endpoint| (endpoint.address, endpoint.port));
    Event {
        // SAFETY: takes no arguments.
        boottime: unsafe { bpf_ktime_get_boot_ns() },
        cgroup: 0,
        netns: 0,
        other: 0,
        address,
        tgid: 0,
        uid: 0,
        reason: reason as u32,
        detail,
        port,
        reserved: [0; 3],
        comm: [0; 16],
    }
}

#[inline(always)]
fn emit(event: &Event) {
    count(event.reason);
    if !pace::event(event.cgroup, event.reason) || EVENTS.output(event, 0).is_err() {
        count(Reason::LostEvent as u32);
    }
}

#[inline(always)]
fn count(reason: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason) {
        // SAFETY: a value of this CPU's own; a lost increment under preemption is harmless.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}
