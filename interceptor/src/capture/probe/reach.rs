//! What stands within an agent's reach that the kernel programs do not see: the less of it there is, the more an adopted
//! agent is held. None of it keeps the daemon from running.

use super::host::Host;
use super::{Finding, Question};

const CORE: Question = Question {
    name: "core dumps",
    cost: "an adopted agent that crashes has the kernel start a program as root, outside of its cgroup",
    remedy: "sysctl kernel.core_pattern=core; launched and enrolled agents dump no core",
};
const USERS: Question = Question {
    name: "user namespaces",
    cost: "adopted agents get all rights within one of their own, and more of the kernel is in reach: they stay governed, but on \
           kernels of before April 2026 without LSM programs, where a wire leads out of it (docs/guarantees.md)",
    remedy: "sysctl user.max_user_namespaces=0, where nothing needs them; launched and enrolled agents get none",
};
const PING: Question = Question {
    name: "ping sockets",
    cost: "refused in governed cgroups; elsewhere a process that does an agent's bidding has them",
    remedy: "sysctl net.ipv4.ping_group_range='1 0'",
};
const URING: Question = Question {
    name: "io_uring",
    cost: "it makes sockets past filters of system calls: what the kernel programs do not see stays open to adopted agents",
    remedy: "sysctl kernel.io_uring_disabled=1 (Linux 6.6); launched and enrolled agents have none",
};
const PTRACE: Question = Question {
    name: "ptrace",
    cost: "adopted agents take descriptors from other processes of their user",
    remedy: "sysctl kernel.yama.ptrace_scope=1; a user of its own for each agent",
};
const BPF: Question = Question {
    name: "unprivileged BPF",
    cost: "adopted agents may load programs of some kinds",
    remedy: "sysctl kernel.unprivileged_bpf_disabled=1",
};

/// Families of sockets that no program at a cgroup sees: number, question, name in /proc/net/protocols, module.
const FAMILIES: &[(u32, Question, &str, &str)] = &[
    (40, family("AF_VSOCK", "adopted agents speak to the hypervisor, and to guests"), "AF_VSOCK", "vsock"),
    (21, family("RDS", "adopted agents have the kernel connect for them"), "RDS", "rds"),
    (30, family("TIPC", "adopted agents speak to the cluster"), "TIPC", "tipc"),
];

const fn family(name: &'static str, cost: &'static str) -> Question {
    Question {
        name,
        cost,
        remedy: "a line `install MODULE /bin/false` in /etc/modprobe.d; launched and enrolled agents have none",
    }
}

/// All of it.
pub(super) fn all(host: &Host) -> Vec<Finding> {
    let mut findings: Vec<Finding> = FAMILIES
        .iter()
        .map(|(number, question, protocol, module)| loadable(host, *number, *question, (protocol, module)))
        .collect();
    findings.extend([
        core_pattern(host),
        users(host),
        ping(host),
        io_uring(host),
        ptrace(host),
        unprivileged_bpf(host),
    ]);
    findings
}

fn loadable(host: &Host, number: u32, question: Question, (protocol, module): (&str, &str)) -> Finding {
    let loaded = host.text("/proc/net/protocols").unwrap_or_default();
    if loaded.lines().any(|line| line.split_whitespace().next() == Some(protocol)) {
        return question.weak("loaded");
    }
    let release = match host.release() {
        Ok(release) => release,
        Err(why) => return question.weak(why),
    };
    let builtin = host.text(&format!("/lib/modules/{release}/modules.builtin")).unwrap_or_default();
    if builtin.lines().any(|line| line.ends_with(&format!("/{module}.ko"))) {
        return question.weak("built into the kernel");
    }
    if host.text("/proc/sys/kernel/modules_disabled").is_ok_and(|text| text == "1") {
        return question.ok("not loaded, and no more modules are");
    }
    let alias = format!("net-pf-{number}");
    match host.maybe(&format!("/lib/modules/{release}/modules.alias")) {
        Err(why) => question.weak(why),
        Ok(Some(aliases)) if aliases.lines().any(|line| line.split(' ').nth(1) == Some(&alias)) => {
            if blocked(host, &[&alias, module]) {
                question.ok("not to be loaded")
            } else {
                question.weak("loaded when asked for")
            }
        }
        Ok(_) => question.ok("no module of it"),
    }
}

/// Whether modprobe is told not to load it.
fn blocked(host: &Host, names: &[&str]) -> bool {
    let folders = ["/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"];
    let texts: Vec<String> = folders.iter().flat_map(|folder| host.texts(folder, ".conf")).collect();
    let mut lines = texts.iter().flat_map(|text| text.lines()).map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.any(|words| match words.as_slice() {
        ["install", name, program, ..] => {
            names.contains(name) && (program.ends_with("/false") || program.ends_with("/true"))
        }
        // By alias alone: whoever asks for the family does.
        ["blacklist", name, ..] => names.contains(name),
        _ => false,
    })
}

fn core_pattern(host: &Host) -> Finding {
    match host.text("/proc/sys/kernel/core_pattern") {
        Ok(pattern) if pattern.starts_with('|') => CORE.weak(pattern),
        Ok(pattern) => CORE.ok(format!("a file: {pattern:?}")),
        Err(why) => CORE.weak(why),
    }
}

fn users(host: &Host) -> Finding {
    let zero = |path| host.maybe(path).is_ok_and(|text| text.as_deref() == Some("0"));
    if zero("/proc/sys/user/max_user_namespaces") {
        return USERS.ok("none may be made (user.max_user_namespaces)");
    }
    if zero("/proc/sys/kernel/unprivileged_userns_clone") {
        return USERS.ok("root alone makes them (kernel.unprivileged_userns_clone)");
    }
    let apparmor = host.maybe("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    if apparmor.is_ok_and(|text| text.as_deref() == Some("1")) {
        return USERS.ok("for programs that AppArmor names");
    }
    USERS.weak("everybody may make them")
}

fn ping(host: &Host) -> Finding {
    match host.text("/proc/sys/net/ipv4/ping_group_range") {
        Ok(range) => {
            let groups: Vec<u64> = range.split_whitespace().filter_map(|group| group.parse().ok()).collect();
            match groups.as_slice() {
                [first, last] if first > last => PING.ok("nobody's"),
                [first, last] => PING.weak(format!("groups {first} to {last}")),
                _ => PING.weak(format!("{range:?} is no range")),
            }
        }
        Err(why) => PING.weak(why),
    }
}

fn io_uring(host: &Host) -> Finding {
    match host.maybe("/proc/sys/kernel/io_uring_disabled") {
        Ok(Some(text)) if text == "0" => URING.weak("open to every process"),
        Ok(Some(text)) => URING.ok(format!("kernel.io_uring_disabled = {text}")),
        // Before Linux 6.6 there was no way to turn it off.
        Ok(None) => match host.maybe("/proc/kallsyms") {
            Ok(Some(symbols)) if symbols.contains("__x64_sys_io_uring_setup") => URING.weak("open to every process"),
            Ok(Some(symbols)) if symbols.contains("__arm64_sys_io_uring_setup") => URING.weak("open to every process"),
            _ => URING.ok("not in this kernel"),
        },
        Err(why) => URING.weak(why),
    }
}

fn ptrace(host: &Host) -> Finding {
    match host.maybe("/proc/sys/kernel/yama/ptrace_scope") {
        Ok(Some(text)) if text != "0" => PTRACE.ok(format!("kernel.yama.ptrace_scope = {text}")),
        Ok(Some(_)) => PTRACE.weak("open to processes of the same user"),
        Ok(None) => PTRACE.weak("open to processes of the same user: no Yama"),
        Err(why) => PTRACE.weak(why),
    }
}

fn unprivileged_bpf(host: &Host) -> Finding {
    match host.text("/proc/sys/kernel/unprivileged_bpf_disabled") {
        Ok(text) if text == "0" => BPF.weak("open to every process"),
        Ok(text) => BPF.ok(format!("kernel.unprivileged_bpf_disabled = {text}")),
        Err(why) => BPF.weak(why),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::host::tests::host;
    use super::*;

    const RELEASE: (&str, &str) = ("/proc/sys/kernel/osrelease", "6.1.0-40-cloud-amd64\n");
    const ALIASES: (&str, &str) =
        ("/lib/modules/6.1.0-40-cloud-amd64/modules.alias", "# Aliases\nalias net-pf-40 vsock\nalias net-pf-21 rds\n");

    fn vsock(files: &[(&str, &str)]) -> Finding {
        let all: Vec<(&str, &str)> = [RELEASE].into_iter().chain(files.iter().copied()).collect();
        let (_root, host) = host(&all);
        let (number, question, protocol, module) = FAMILIES[0];
        loadable(&host, number, question, (protocol, module))
    }

    #[test]
    fn a_family_is_in_reach_where_it_is_loaded_or_can_be() {
        let protocols = ("/proc/net/protocols", "protocol  size sockets\nAF_VSOCK  1248  0\nTCP 1 2\n");
        let builtin = ("/lib/modules/6.1.0-40-cloud-amd64/modules.builtin", "kernel/net/vmw_vsock/vsock.ko\n");
        let mut cases = vec![
            (vec![], Verdict::Ok),
            (vec![ALIASES], Verdict::Weak),
            (vec![protocols], Verdict::Weak),
            (vec![builtin], Verdict::Weak),
            (vec![ALIASES, ("/proc/sys/kernel/modules_disabled", "1\n")], Verdict::Ok),
        ];
        for (line, verdict) in [
            ("install vsock /bin/false\n", Verdict::Ok),
            ("install net-pf-40 /usr/bin/false\n", Verdict::Ok),
            ("blacklist vsock\n", Verdict::Ok),
            ("# blacklist vsock\n", Verdict::Weak),
            ("install vsock_diag /bin/false\n", Verdict::Weak),
            ("install vsock /sbin/modprobe --ignore-install vsock\n", Verdict::Weak),
        ] {
            cases.push((vec![ALIASES, ("/etc/modprobe.d/agents.conf", line)], verdict));
        }
        for (files, verdict) in cases {
            assert_eq!(vsock(&files).verdict, verdict, "{files:?}");
        }
    }

    #[test]
    fn settings_are_judged_by_what_they_let_agents_do() {
        type Case<'a> = (fn(&Host) -> Finding, &'a [(&'a str, &'a str)], Verdict);
        let cases: &[Case<'_>] = &[
            (
                core_pattern,
                &[("/proc/sys/kernel/core_pattern", "|/usr/lib/systemd/systemd-coredump %P")],
                Verdict::Weak,
            ),
            (core_pattern, &[("/proc/sys/kernel/core_pattern", "core")], Verdict::Ok),
            (users, &[("/proc/sys/user/max_user_namespaces", "15000")], Verdict::Weak),
            (users, &[("/proc/sys/user/max_user_namespaces", "0")], Verdict::Ok),
            (users, &[("/proc/sys/kernel/unprivileged_userns_clone", "0")], Verdict::Ok),
            (users, &[("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1")], Verdict::Ok),
            (ping, &[("/proc/sys/net/ipv4/ping_group_range", "1\t0")], Verdict::Ok),
            (ping, &[("/proc/sys/net/ipv4/ping_group_range", "0\t2147483647")], Verdict::Weak),
            (ping, &[("/proc/sys/net/ipv4/ping_group_range", "x")], Verdict::Weak),
            (io_uring, &[("/proc/sys/kernel/io_uring_disabled", "0")], Verdict::Weak),
            (io_uring, &[("/proc/sys/kernel/io_uring_disabled", "2")], Verdict::Ok),
            (io_uring, &[("/proc/kallsyms", "0 T __x64_sys_io_uring_setup")], Verdict::Weak),
            (io_uring, &[], Verdict::Ok),
            (ptrace, &[("/proc/sys/kernel/yama/ptrace_scope", "0")], Verdict::Weak),
            (ptrace, &[("/proc/sys/kernel/yama/ptrace_scope", "1")], Verdict::Ok),
            (ptrace, &[], Verdict::Weak),
            (unprivileged_bpf, &[("/proc/sys/kernel/unprivileged_bpf_disabled", "0")], Verdict::Weak),
            (unprivileged_bpf, &[("/proc/sys/kernel/unprivileged_bpf_disabled", "2")], Verdict::Ok),
        ];
        for (judge, files, verdict) in cases {
            let (_root, host) = host(files);
            assert_eq!(judge(&host).verdict, *verdict, "{files:?}");
        }
    }
}
