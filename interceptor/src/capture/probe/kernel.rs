//! What the daemon stands on: rights, kernel, file systems, systemd, the clock, room for recordings.

use std::path::Path;
use std::process::Command;

use nix::sys::statvfs::statvfs;

use super::host::Host;
use super::{Finding, Question, time};
use crate::capture::{btf, loader};

const PRIVILEGES: Question = Question {
    name: "privileges",
    cost: "nothing can be loaded or attached, and much of this cannot be seen",
    remedy: "run it as root, with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
};
const VERSION: Question = Question {
    name: "kernel version",
    cost: "programs may not load; then capture does not start. Older ones than 6.1 are not tested",
    remedy: "Linux 6.1 or later",
};
const BTF: Question = Question {
    name: "type information (BTF)",
    cost: "the start time of a process is not in its record: a process id that is used again could be taken for another",
    remedy: "a kernel with CONFIG_DEBUG_INFO_BTF",
};
const LOCKDOWN: Question = Question {
    name: "lockdown",
    cost: "kernel programs may not read the start time of a process; capture may not start",
    remedy: "boot with lockdown=integrity, or none",
};
const BPFFS: Question = Question {
    name: "bpffs",
    cost: "programs cannot outlive the daemon, so it does not start",
    remedy: "mount -t bpf bpf /sys/fs/bpf; systemd does it at boot",
};
const SYSTEMD: Question = Question {
    name: "systemd",
    cost: "services cannot be enrolled, and nothing starts the daemon again; older versions than 252 are not tested",
    remedy: "systemd 252 or later; without, start agents by `interceptor exec`",
};
const CLOCK: Question = Question {
    name: "clock",
    cost: "tokens are valid by this clock: where it is wrong, good ones are refused, or expired ones accepted",
    remedy: "synchronise it: systemd-timesyncd, chrony or the like",
};
const ROOM: Question = Question {
    name: "room for recordings",
    cost: "without a record nothing is forwarded: all governed traffic is refused",
    remedy: "a larger file system for [record] spool, or a lower free_space_floor",
};

/// The oldest kernel that is tested.
const OLDEST_KERNEL: (u32, u32) = (6, 1);
/// The oldest systemd that is tested.
const OLDEST_SYSTEMD: u32 = 252;
/// `CAP_NET_ADMIN`, `CAP_PERFMON`, `CAP_BPF`; `CAP_SYS_ADMIN` stands for the last two.
const CAPABILITIES: &[(u32, &str)] = &[(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
const CAP_SYS_ADMIN: u32 = 21;

pub(super) fn privileges(host: &Host) -> Finding {
    let status = match host.text("/proc/self/status") {
        Ok(status) => status,
        Err(why) => return PRIVILEGES.missing(why),
    };
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()) else {
        return PRIVILEGES.missing("/proc/self/status names no capabilities");
    };
    let held = |bit: u32| effective & (1 << bit) != 0;
    let enough = |bit: u32| held(bit) || (bit > CAP_SYS_ADMIN && held(CAP_SYS_ADMIN));
    let lacks = CAPABILITIES.iter().filter(|(bit, _)| !enough(*bit));
    let lacks: Vec<&str> = lacks.map(|(_, name)| *name).collect();
    if lacks.is_empty() { PRIVILEGES.ok("enough") } else { PRIVILEGES.missing(format!("no {}", lacks.join(", "))) }
}

pub(super) fn version(host: &Host) -> Finding {
    let release = match host.release() {
        Ok(release) => release,
        Err(why) => return VERSION.weak(why),
    };
    let mut parts = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if found >= OLDEST_KERNEL { VERSION.ok(release) } else { VERSION.weak(release) }
}

pub(super) fn type_information() -> Finding {
    match btf::task_offsets() {
        Ok((0, _) | (_, 0)) => BTF.weak("task_struct is not described"),
        Ok((start, leader)) => BTF.ok(format!("task_struct: start_boottime at {start}, group_leader at {leader}")),
        Err(error) => BTF.weak(error.to_string()),
    }
}

pub(super) fn lockdown(host: &Host) -> Finding {
    match host.maybe("/sys/kernel/security/lockdown") {
        Ok(None) => LOCKDOWN.ok("not in this kernel, or securityfs is not mounted"),
        Ok(Some(modes)) => {
            let mode = modes.split_whitespace().find_map(|mode| mode.strip_prefix('[')?.strip_suffix(']'));
            match mode {
                Some("confidentiality") => LOCKDOWN.weak("confidentiality"),
                Some(mode) => LOCKDOWN.ok(mode),
                None => LOCKDOWN.weak(format!("no mode in `{modes}`")),
            }
        }
        Err(why) => LOCKDOWN.weak(why),
    }
}

pub(super) fn bpffs() -> Finding {
    match loader::on_bpffs(Path::new("/sys/fs/bpf")) {
        Ok(true) => BPFFS.ok("/sys/fs/bpf"),
        Ok(false) => BPFFS.missing("/sys/fs/bpf is none"),
        Err(error) => BPFFS.missing(error.to_string()),
    }
}

pub(super) fn systemd() -> Finding {
    if !Path::new("/run/systemd/system").is_dir() {
        return SYSTEMD.weak("it does not run here");
    }
    match Command::new("systemctl").arg("--version").output() {
        Ok(output) => judge_systemd(&String::from_utf8_lossy(&output.stdout)),
        Err(error) => SYSTEMD.weak(format!("systemctl: {error}")),
    }
}

fn judge_systemd(told: &str) -> Finding {
    let first = told.lines().next().unwrap_or_default();
    let version = first.strip_prefix("systemd ").and_then(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    });
    match version {
        Some(version) if version >= OLDEST_SYSTEMD => SYSTEMD.ok(first),
        Some(_) => SYSTEMD.weak(first),
        None => SYSTEMD.weak("systemctl does not tell its version"),
    }
}

pub(super) fn clock(host: &Host) -> Finding {
    let source = host.text("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let source = source.unwrap_or_else(|_| "unknown".to_owned());
    match time::is_synchronised() {
        Ok(true) => CLOCK.ok(format!("synchronised; source {source}")),
        Ok(false) => CLOCK.weak(format!("not synchronised; source {source}")),
        Err(error) => CLOCK.weak(format!("the kernel does not say whether it is synchronised: {error}")),
    }
}

pub(super) fn room(spool: &Path, floor: u64, short: u8) -> Finding {
    let nearest = spool.ancestors().find(|part| part.exists()).unwrap_or(Path::new("/"));
    match statvfs(nearest) {
        Ok(found) => {
            let free = found.blocks_available().saturating_mul(found.fragment_size());
            let all = found.blocks().saturating_mul(found.fragment_size()).saturating_sub(floor);
            let (left, detail) = (
                free.saturating_sub(floor),
                format!("{} MiB free at {}, {} MiB stay free", free >> 20, nearest.display(), floor >> 20),
            );
            let is_short = u128::from(left).saturating_mul(100) < u128::from(all).saturating_mul(short.into());
            match left {
                0 => ROOM.missing(detail),
                _ if is_short => ROOM.weak(format!("{detail}: less than {short} % is left")),
                _ => ROOM.ok(detail),
            }
        }
        Err(error) => ROOM.missing(format!("{}: {error}", nearest.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::host::tests::host;
    use super::*;

    #[test]
    fn rights_are_those_that_are_in_force() {
        let judged = |set: &str| {
            let (_root, host) = host(&[("/proc/self/status", &format!("Uid:\t0\nCapEff:\t{set}\n"))]);
            privileges(&host)
        };
        assert_eq!(judged("000001ffffffffff").verdict, Verdict::Ok);
        // As the service has it: CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF.
        assert_eq!(judged("000000c000001000").verdict, Verdict::Ok);
        // Before Linux 5.8, and in many containers: CAP_SYS_ADMIN and CAP_NET_ADMIN.
        assert_eq!(judged("0000000000201000").verdict, Verdict::Ok);
        let found = judged("0000000000000000");
        assert!(found.verdict == Verdict::Missing && found.detail.contains("CAP_BPF"), "{found:?}");
        assert_eq!(judged("000000c000000000").detail, "no CAP_NET_ADMIN");
    }

    #[test]
    fn kernels_are_compared_by_number() {
        for (release, verdict) in [
            ("6.1.0-40-cloud-amd64", Verdict::Ok),
            ("6.12.57+deb13-cloud-amd64", Verdict::Ok),
            ("10.0.1", Verdict::Ok),
            ("5.15.0-91-generic", Verdict::Weak),
            ("garbage", Verdict::Weak),
        ] {
            let (_root, host) = host(&[("/proc/sys/kernel/osrelease", release)]);
            assert_eq!(version(&host).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn lockdown_matters_where_it_keeps_secrets() {
        for (text, verdict) in [
            ("[none] integrity confidentiality", Verdict::Ok),
            ("none [integrity] confidentiality", Verdict::Ok),
            ("none integrity [confidentiality]", Verdict::Weak),
            ("none", Verdict::Weak),
        ] {
            let (_root, host) = host(&[("/sys/kernel/security/lockdown", text)]);
            assert_eq!(lockdown(&host).verdict, verdict, "{text}");
        }
        let (_root, host) = host(&[]);
        assert_eq!(lockdown(&host).verdict, Verdict::Ok);
    }

    #[test]
    fn versions_of_systemd_are_read() {
        for (told, verdict) in [
            ("systemd 252 (252.38-1~deb12u1)\n+PAM", Verdict::Ok),
            ("systemd 258~rc1-1 (x)", Verdict::Ok),
            ("systemd 249 (249.11-0ubuntu3)", Verdict::Weak),
            ("", Verdict::Weak),
        ] {
            assert_eq!(judge_systemd(told).verdict, verdict, "{told}");
        }
    }

    #[test]
    fn room_is_counted_where_the_spool_will_be() {
        let place = std::env::temp_dir().join("no/such/folder");
        assert_eq!(room(&place, 1, 0).verdict, Verdict::Ok);
        assert_eq!(room(&place, 1, u8::MAX).verdict, Verdict::Weak);
        assert_eq!(room(&place, u64::MAX, 0).verdict, Verdict::Missing);
    }
}
