//! What this host offers to capture, what is missing, and what that costs. Changes nothing.

use std::path::Path;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::{btf, cgroup, loader};

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// What was looked at.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What its absence costs; empty where nothing is missing.
    pub cost: String,
}

/// Looks at the kernel and the host; needs root to see everything. Never fails: what cannot be seen is a finding.
#[must_use]
pub fn probe() -> Vec<ProbeResult> {
    vec![root(), kernel(), cgroup2(), net_classes(), bpffs(), type_information(), programs(), lsm(), ping(), io_uring()]
}

fn finding(name: &str, result: Result<String, String>, cost: &str) -> ProbeResult {
    let (ok, detail) = match result {
        Ok(detail) => (true, detail),
        Err(detail) => (false, detail),
    };
    ProbeResult { name: name.to_owned(), ok, detail, cost: if ok { String::new() } else { cost.to_owned() } }
}

fn text(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(|error| format!("{path}: {error}"))
}

fn root() -> ProbeResult {
    let is_root = nix::unistd::geteuid().is_root();
    let result = if is_root { Ok("root".to_owned()) } else { Err("not root".to_owned()) };
    finding("privileges", result, "nothing can be loaded or attached")
}

fn kernel() -> ProbeResult {
    let release = text("/proc/sys/kernel/osrelease");
    let result = release.and_then(|release| {
        let mut parts = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
        let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        if version >= (6, 1) { Ok(release) } else { Err(format!("{release}; 6.1 is the oldest tested")) }
    });
    finding("kernel version", result, "programs may not load; then capture does not start")
}

fn cgroup2() -> ProbeResult {
    let result = cgroup::mount().map(|path| path.display().to_string()).map_err(|error| error.to_string());
    finding("cgroup v2", result, "no process can be governed")
}

/// Before Linux 5.15 a v1 hierarchy of these two silently turns off the hooks of cgroup v2.
fn net_classes() -> ProbeResult {
    let result = text("/proc/self/mounts").and_then(|mounts| {
        let v1 = mounts.lines().any(|line| {
            let mut fields = line.split(' ').skip(2);
            fields.next() == Some("cgroup")
                && fields.next().is_some_and(|options| options.split(',').any(|o| o == "net_cls" || o == "net_prio"))
        });
        if v1 { Err("net_cls or net_prio is mounted as cgroup v1".to_owned()) } else { Ok("none".to_owned()) }
    });
    finding("cgroup v1 network controllers", result, "before Linux 5.15 they turn off capture")
}

fn bpffs() -> ProbeResult {
    let result = match loader::on_bpffs(Path::new("/sys/fs/bpf")) {
        Ok(true) => Ok("/sys/fs/bpf".to_owned()),
        Ok(false) => Err("/sys/fs/bpf is no bpffs; mount -t bpf bpf /sys/fs/bpf".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    finding("bpffs", result, "links cannot outlive the daemon, so it does not start")
}

fn type_information() -> ProbeResult {
    let result = match btf::task_offsets() {
        Ok((0, _) | (_, 0)) => Err("task_struct is not described".to_owned()),
        Ok((start, leader)) => Ok(format!("task_struct: start_boottime at {start}, group_leader at {leader}")),
        Err(error) => Err(error.to_string()),
    };
    finding("type information (BTF)", result, "the start time of a process is not in its record")
}

fn programs() -> ProbeResult {
    let result = loader::try_load().map(|()| "all accepted".to_owned()).map_err(|error| error.to_string());
    finding("kernel programs", result, "capture does not start")
}

fn lsm() -> ProbeResult {
    let result = loader::try_modules().map(|()| "all hooks accepted".to_owned());
    let cost = "sockets passed between processes, AF_VSOCK and AF_UNIX are held by seccomp alone, \
                so only for agents that interceptor launches";
    finding("LSM programs", result, cost)
}

fn ping() -> ProbeResult {
    let result = text("/proc/sys/net/ipv4/ping_group_range");
    let groups = |range: String| range.split_whitespace().collect::<Vec<_>>().join(" to ");
    let shown = result.map(|range| format!("groups {}; refused in governed cgroups", groups(range)));
    finding("ping sockets", shown, "unknown")
}

fn io_uring() -> ProbeResult {
    let result = match fs::read_to_string("/proc/sys/kernel/io_uring_disabled") {
        Ok(text) if text.trim() == "0" => Err("open to every process".to_owned()),
        Ok(text) => Ok(format!("kernel.io_uring_disabled = {}", text.trim())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok("not in this kernel".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    finding("io_uring", result, "a seccomp filter on socket(2) must refuse io_uring_setup too")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_piece_says_what_it_costs() {
        for found in probe() {
            assert!(!found.detail.is_empty(), "{found:?}");
            assert_eq!(found.ok, found.cost.is_empty(), "{found:?}");
        }
    }
}
