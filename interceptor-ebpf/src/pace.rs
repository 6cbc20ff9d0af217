//! How much a cgroup may cause within a second, so that it takes nothing from others: of the ring of events, and of what is
//! known of those who asked the relay.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use interceptor_ebpf::{EVENTS_A_SECOND, Pace, QUESTIONS_A_SECOND};

use crate::maps::PACES;

/// Whether one more event of the cgroup goes into the ring.
#[inline(always)]
pub(crate) fn event(cgroup: u64) -> bool {
    let Some(pace) = now(cgroup) else { return true };
    pace.events = pace.events.saturating_add(1);
    pace.events <= EVENTS_A_SECOND
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
    if PACES.get_ptr_mut(&cgroup).is_none() {
        let _full = PACES.insert(cgroup, Pace { second, events: 0, questions: 0 }, 0);
    }
    let pace = PACES.get_ptr_mut(&cgroup)?;
    // SAFETY: a value of the map stays where it is while a program runs; others may write it, and then a count is off by one.
    let pace = unsafe { &mut *pace };
    if pace.second != second {
        *pace = Pace { second, events: 0, questions: 0 };
    }
    Some(pace)
}
