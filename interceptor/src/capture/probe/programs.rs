//! Which kinds of kernel programs this kernel takes, by loading a trivial one of each, and whether it takes ours.

use aya::programs::{ProgramError, ProgramType};
use aya::sys::is_program_supported;

use super::{Finding, Question};
use crate::capture::loader;

/// Without these capture does not start.
const NEEDED: &[(ProgramType, Question)] = &[
    (ProgramType::CgroupSkb, needed("programs at packets", "the fence: nothing holds back what an agent sends")),
    (ProgramType::CgroupSockAddr, needed("programs at connect, sendmsg and bind", "no connection is redirected")),
    (ProgramType::CgroupSock, needed("programs at socket", "sockets of any kind can be made")),
    (ProgramType::SockOps, needed("programs at handshakes", "no connection is told with its process")),
    (ProgramType::CgroupSockopt, needed("programs at setsockopt", "sockets can be led around the proxy")),
    (ProgramType::CgroupDevice, needed("programs at devices", "devices that everybody may open lead around the proxy")),
];

const fn needed(name: &'static str, cost: &'static str) -> Question {
    Question { name, cost, remedy: "Linux 6.1 or later with CONFIG_CGROUP_BPF, and root with all capabilities" }
}

const OURS: Question = Question {
    name: "kernel programs",
    cost: "capture does not start",
    remedy: "Linux 6.1 or later; what the verifier says of it goes to a bug report",
};

const LSM: Question = Question {
    name: "LSM programs",
    cost: "AF_VSOCK, sockets that are passed between processes and local daemons are not held for adopted agents; launched \
           and enrolled ones are held by seccomp",
    remedy: "Linux 6.0 with CONFIG_BPF_LSM, and `bpf` at the end of lsm= on its command line",
};

/// One finding a kind.
pub(super) fn types() -> Vec<Finding> {
    NEEDED.iter().map(|(kind, question)| needed_kind(*question, is_program_supported(*kind))).collect()
}

fn needed_kind(question: Question, loaded: Result<bool, ProgramError>) -> Finding {
    match loaded {
        Ok(true) => question.ok("a trivial one loads"),
        Ok(false) => question.missing("this kernel does not know them"),
        Err(error) => question.missing(format!("a trivial one does not load: {}", with_cause(&error))),
    }
}

/// All of ours, loaded and thrown away.
pub(super) fn ours() -> Finding {
    match loader::try_load() {
        Ok(()) => OURS.ok("all of interceptor's load"),
        Err(error) => OURS.missing(error.to_string()),
    }
}

/// Whether programs at security hooks of a cgroup can be loaded, and would be called.
pub(super) fn lsm() -> Finding {
    match loader::try_modules() {
        Ok(()) => LSM.ok("all of interceptor's load, and bpf is among the security modules"),
        Err(why) => LSM.weak(why),
    }
}

/// An error with what caused it.
fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", with_cause(cause)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn refused() -> ProgramError {
        let io_error = std::io::Error::from_raw_os_error(libc::EPERM);
        ProgramError::SyscallError(aya::sys::SyscallError { call: "bpf_prog_load", io_error })
    }

    #[test]
    fn a_kind_that_does_not_load_is_missing() {
        let question = NEEDED[0].1;
        assert_eq!(needed_kind(question, Ok(true)).verdict, Verdict::Ok);
        assert_eq!(needed_kind(question, Ok(false)).verdict, Verdict::Missing);
        let found = needed_kind(question, Err(refused()));
        assert!(found.verdict == Verdict::Missing && found.detail.contains("not permitted"), "{found:?}");
    }
}
