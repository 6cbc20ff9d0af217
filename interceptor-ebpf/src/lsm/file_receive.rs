//! Descriptors that come from elsewhere (`SCM_RIGHTS`, `pidfd_getfd(2)`): no socket that was made in another cgroup.

use core::ffi::c_void;

use aya_ebpf::macros::lsm_cgroup;
use aya_ebpf::programs::LsmContext;
use interceptor_ebpf::{Offsets, Reason};

use super::{cgroup_of_socket, current_cgroup, number, offsets, word};
use crate::event;

const S_IFMT: u64 = 0o170_000;
const S_IFSOCK: u64 = 0o140_000;

#[lsm_cgroup(hook = "file_receive")]
pub fn lsm_receive(ctx: LsmContext) -> i32 {
    let file: *const c_void = ctx.arg(0);
    let verdict = offsets().and_then(|offsets| foreign(number(file), &offsets));
    match verdict {
        Some(None) => 1,
        Some(Some(cgroup)) => refuse(cgroup),
        None => refuse(0),
    }
}

fn refuse(cgroup: u64) -> i32 {
    event::refuse_other(Reason::Descriptor, 0, cgroup);
    0
}

/// The cgroup of a socket that is not of the running task's; nothing in `Some` where the file may pass.
#[inline(always)]
fn foreign(file: u64, offsets: &Offsets) -> Option<Option<u64>> {
    let inode = word(file, offsets.file_inode)?;
    if word(inode, offsets.inode_mode)? & S_IFMT != S_IFSOCK {
        return Some(None);
    }
    let cgroup = cgroup_of_socket(word(file, offsets.file_private)?, offsets)?;
    Some((cgroup != current_cgroup()).then_some(cgroup))
}
