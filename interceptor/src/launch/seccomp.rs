//! System calls that an agent is denied: ways to the network that no kernel program sees, and ways to what others hold.
//!
//! All else is permitted: an agent runs unmodified. What programs probe for and have a fallback for is answered as by a
//! kernel that does not know it (`ENOSYS`, `EAFNOSUPPORT`), the rest with `EPERM`. Calls of another architecture end the
//! process; those of the x32 ABI do not exist.

use std::collections::BTreeMap;
use std::io;

use libc::{c_long, *};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};

/// A system call: the name of its constant, and its number.
pub(super) type Call = (&'static str, c_long);

macro_rules! calls {
    ($($name:ident),* $(,)?) => {
        &[$((stringify!($name), $name)),*]
    };
}

/// Denied whatever its arguments, with `EPERM`.
pub(super) const DENIED: &[Call] = calls![
    // What another process holds.
    SYS_ptrace,
    SYS_pidfd_getfd,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_kcmp,
    SYS_perf_event_open,
    // The kernel, and what it runs on behalf of others.
    SYS_bpf,
    SYS_add_key,
    SYS_request_key,
    SYS_keyctl,
    SYS_userfaultfd,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_kexec_file_load,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_acct,
    SYS_quotactl,
    SYS_quotactl_fd,
    SYS_syslog,
    // Another view of files, and other namespaces.
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_move_mount,
    SYS_open_tree,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_mount_setattr,
    SYS_open_by_handle_at,
    SYS_setns,
    SYS_unshare,
    SYS_fanotify_init,
];

/// As by a kernel that does not have them: sockets could be made past every other rule, and flags lie in memory.
pub(super) const UNKNOWN: &[Call] = calls![SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register, SYS_clone3];

/// `clone(2)` with any of these makes a namespace.
const NAMESPACES: &[i32] =
    &[CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWCGROUP];

/// `ioctl(2)` that types into the terminal that the agent was started from.
const TYPING: &[i32] = &[0x5412, 0x541c];

/// Families of sockets that there are, `AF_NETLINK` for routes alone: the resolver of libc asks for addresses with it.
const FAMILIES: &[i32] = &[AF_UNIX, AF_INET, AF_INET6, AF_NETLINK];
const NETLINK_ROUTE: i32 = 0;
/// A type that makes any family `AF_PACKET`.
const SOCK_PACKET: i32 = 10;
/// The bits of a type that are no flags.
const KIND: u64 = 0xf;

/// Calls from here on are those of the x32 ABI.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// Denies them to the calling thread, and to whatever it becomes and starts. Needs `no_new_privs`.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn apply() -> io::Result<()> {
    for filter in filters()? {
        seccompiler::apply_filter(&filter).map_err(io::Error::other)?;
    }
    Ok(())
}

fn filters() -> io::Result<Vec<BpfProgram>> {
    let mut denied: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|(_, call)| (*call, Vec::new())).collect();
    denied.insert(SYS_clone, NAMESPACES.iter().map(|flag| rule(&[has(0, *flag)])).collect::<io::Result<_>>()?);
    denied.insert(SYS_ioctl, TYPING.iter().map(|request| rule(&[is(1, *request)])).collect::<io::Result<_>>()?);
    let unknown = UNKNOWN.iter().map(|(_, call)| (*call, Vec::new())).collect();
    let others: Vec<_> = FAMILIES.iter().map(|family| is_not(0, *family)).collect();
    let families =
        vec![rule(&others)?, rule(&[is(0, AF_NETLINK), is_not(2, NETLINK_ROUTE)])?, rule(&[is_kind(1, SOCK_PACKET)])?];
    // TIPC makes pairs as well, whose halves speak to others.
    let pairs = vec![rule(&[is_not(0, AF_UNIX)])?];
    let families = BTreeMap::from([(SYS_socket, families), (SYS_socketpair, pairs)]);
    let mut filters = Vec::new();
    #[cfg(target_arch = "x86_64")]
    filters.push(without_x32());
    for (rules, error) in [(denied, EPERM), (unknown, ENOSYS), (families, EAFNOSUPPORT)] {
        filters.push(filter(rules, error)?);
    }
    Ok(filters)
}

fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>, error: i32) -> io::Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let errno = SeccompAction::Errno(error.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, errno, arch).map_err(io::Error::other)?;
    filter.try_into().map_err(io::Error::other)
}

fn rule(conditions: &[Condition]) -> io::Result<SeccompRule> {
    let made = conditions.iter().map(|condition| condition.make()).collect::<io::Result<_>>()?;
    SeccompRule::new(made).map_err(io::Error::other)
}

/// On the lower half of an argument, since the kernel reads no more of an `int`.
struct Condition {
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
}

impl Condition {
    fn make(&self) -> io::Result<SeccompCondition> {
        SeccompCondition::new(self.argument, SeccompCmpArgLen::Dword, self.operator.clone(), self.value)
            .map_err(io::Error::other)
    }
}

fn is(argument: u8, value: i32) -> Condition {
    Condition { argument, operator: SeccompCmpOp::Eq, value: u64::from(value.unsigned_abs()) }
}

fn is_not(argument: u8, value: i32) -> Condition {
    Condition { argument, operator: SeccompCmpOp::Ne, value: u64::from(value.unsigned_abs()) }
}

fn is_kind(argument: u8, kind: i32) -> Condition {
    Condition { argument, operator: SeccompCmpOp::MaskedEq(KIND), value: u64::from(kind.unsigned_abs()) }
}

fn has(argument: u8, flag: i32) -> Condition {
    let flag = u64::from(flag.cast_unsigned());
    Condition { argument, operator: SeccompCmpOp::MaskedEq(flag), value: flag }
}

/// A filter of its own, since no rule can compare the number of a call.
#[cfg(target_arch = "x86_64")]
fn without_x32() -> BpfProgram {
    let (load, jump_if_at_least, give) = (0x20, 0x35, 0x06);
    let errno = 0x0005_0000 | ENOSYS.unsigned_abs();
    vec![
        sock_filter { code: load, jt: 0, jf: 0, k: 0 },
        sock_filter { code: jump_if_at_least, jt: 0, jf: 1, k: X32 },
        sock_filter { code: give, jt: 0, jf: 0, k: errno },
        sock_filter { code: give, jt: 0, jf: 0, k: 0x7fff_0000 },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_and_name_no_call_twice() {
        assert_eq!(filters().unwrap().len(), if cfg!(target_arch = "x86_64") { 4 } else { 3 });
        let mut all: Vec<_> = DENIED.iter().chain(UNKNOWN).map(|(_, call)| *call).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
