//! Processes of other cgroups: neither traced, nor looked into (`/proc/PID/mem`, `fd`, `environ`, `root`), nor robbed of a
//! descriptor (`pidfd_getfd(2)`).

use core::ffi::c_void;

use aya_ebpf::macros::lsm_cgroup;
use aya_ebpf::programs::LsmContext;
use interceptor_ebpf::Reason;

use super::{cgroup_of_task, current_cgroup, number, offsets};
use crate::event;

/// `PTRACE_MODE_NOAUDIT`: the caller only asks how much to show, say `/proc/PID/stat`.
const NO_AUDIT: u32 = 4;

#[lsm_cgroup(hook = "ptrace_access_check")]
pub fn lsm_ptrace(ctx: LsmContext) -> i32 {
    let (task, mode): (*const c_void, u32) = (ctx.arg(0), ctx.arg(1));
    let cgroup = offsets().and_then(|offsets| cgroup_of_task(number(task), &offsets));
    if cgroup == Some(current_cgroup()) {
        return 1;
    }
    if mode & NO_AUDIT == 0 {
        event::refuse_other(Reason::Process, mode, cgroup.unwrap_or(0));
    }
    0
}
