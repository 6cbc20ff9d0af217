//! `bpf(2)`: agents have no business with it. It is how the programs would be detached.

use aya_ebpf::macros::lsm_cgroup;
use aya_ebpf::programs::LsmContext;
use interceptor_ebpf::Reason;

use crate::event;

#[lsm_cgroup(hook = "bpf")]
pub fn lsm_bpf(ctx: LsmContext) -> i32 {
    let command: i32 = ctx.arg(0);
    event::refuse(Reason::Bpf, command as u32, None, None);
    0
}
