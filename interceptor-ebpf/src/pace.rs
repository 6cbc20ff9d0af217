//! How much a cgroup may cause within a second, so that it takes nothing from others: of the ring of events, and of what is
//! known of those who asked the relay.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use interceptor_ebpf::{EVENTS_A_SECOND, Pace, QUESTIONS_A_SECOND, Reason};

use crate::maps::PACES;

/// Of `bpf_map_update_elem`: only where there is none.
const BPF_NOEXIST: u64 = 1;

/// Whether one more event of the cgroup goes into the ring. What others cause it counts by itself, and so does what gets a
/// namespace its listener: neither is for a flood of the cgroup's own to take.
#[inline(always)]
pub(crate) fn event(cgroup: u64, reason: u32) -> bool {
    let Some(pace) = now(cgroup) else { return true };
    let count = if reason == Reason::Inbound as u32 {
        &mut pace.inbound
    } else if reason == Reason::NoListener as u32 {
        &mut pace.listeners
    } else {
        &mut pace.events
    };
    *count = count.saturating_add(1);
    *count <= EVENTS_A_SECOND
}

/// Whether one more question of the cgroup goes to the relay.
#[inline(always)]
pub(crate) fn question(cgroup: u64) -> bool {
    let Some(pace) = now(cgroup) else { return true };
    pace.questions = pace.questions.saturating_add(1);
    pace.questions <= QUESTIONS_A_SECOND
}

/// What the cgroup has caused in this second. Nothing where memory is short: it counts for nothing then.
#[inline(always)]
fn now(cgroup: u64) -> Option<&'static mut Pace> {
    // SAFETY: takes no arguments.
    let second = unsafe { bpf_ktime_get_boot_ns() } / 1_000_000_000;
    let new = Pace { second, events: 0, inbound: 0, listeners: 0, questions: 0 };
    if PACES.get_ptr_mut(&cgroup).is_none() {
        let _known_by_now = PACES.insert(cgroup, new, BPF_NOEXIST);
    }
    let pace = PACES.get_ptr_mut(&cgroup)?;
    // SAFETY: the memory of the map's values is the map's as long as it lives. Others may write it at the same time, and it may
    // become another cgroup's: then a count is off by one, or begins anew.
    let pace = unsafe { &mut *pace };
    if pace.second != second {
        *pace = new;
    }
    Some(pace)
}
