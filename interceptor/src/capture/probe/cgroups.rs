//! cgroups: how the host has them, and what stands at those that are to be governed.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use aya::programs::loaded_programs;
use interceptor_ebpf::AGENT_PROGRAMS;

use super::host::Host;
use super::{Finding, Question};
use crate::capture::sys::{self, Attached};
use crate::capture::{Config, cgroup};

const HIERARCHY: Question = Question {
    name: "cgroup v2",
    cost: "no process can be governed",
    remedy: "boot with systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none /sys/fs/cgroup/unified",
};
const NET_CLASSES: Question = Question {
    name: "net_cls and net_prio (cgroup v1)",
    cost: "before Linux 5.15 they turn off what is attached to sockets",
    remedy: "boot with cgroup_no_v1=net_cls,net_prio",
};
const OWNERS: Question = Question {
    name: "owners of governed cgroups",
    cost: "whoever owns a cgroup above moves processes out: the daemon does not start",
    remedy: "govern a cgroup of the system's, or set allow_delegated where no agent runs as that user",
};
const FOREIGN: Question = Question {
    name: "programs of others",
    cost: "they hold a cgroup for themselves: ours cannot be attached",
    remedy: "take IPAddressDeny=, IPAddressAllow= and IPAccounting= from the unit, govern a slice, or set Delegate=yes",
};
const ALLOWED: Question = Question {
    name: "programs of others",
    cost: "they run beside ours, and may let less through",
    remedy: "know whose they are; none of them can let more through",
};

const BELOW: Question = Question {
    name: "programs of others",
    cost: "they let less through than ours: where they keep agents from the loopback, those reach nothing at all",
    remedy: "add IPAddressAllow=localhost to a unit with IPAddressDeny= (`interceptor enroll` does), or take both from it",
};
const CILIUM: Question = Question {
    name: "programs of others",
    cost: "Cilium's run beside ours and after them: agents' connections they see as what ours have made of them, and the \
           daemon's as everybody's, so that it reaches services by their addresses; what they drop, nobody reaches",
    remedy: "none is needed; give agents no Cilium policy that keeps them from the loopback",
};

/// cgroups below a governed one that are looked at.
const MAX_BELOW: usize = 1024;

/// How the kernel lets programs share a cgroup.
const BPF_F_ALLOW_OVERRIDE: u32 = 1;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// How cgroup v2 is mounted.
pub(super) fn hierarchy(host: &Host) -> Finding {
    let mounts = match host.text("/proc/self/mounts") {
        Ok(mounts) => mounts,
        Err(why) => return HIERARCHY.missing(why),
    };
    let of = |kind: &str| -> Vec<&str> {
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        fields.filter(|fields| fields.get(2) == Some(&kind)).filter_map(|fields| fields.get(1).copied()).collect()
    };
    match (of("cgroup2").first(), of("cgroup").len()) {
        (None, _) => HIERARCHY.missing("not mounted"),
        (Some(at), 0) => HIERARCHY.ok(format!("pure, at {at}")),
        (Some(at), v1) => HIERARCHY.ok(format!("hybrid, at {at}, beside {v1} of version 1")),
    }
}

/// Before Linux 5.15 a v1 hierarchy of these two silently turns off the hooks of cgroup v2.
pub(super) fn net_classes(host: &Host) -> Finding {
    let mounts = match host.text("/proc/self/mounts") {
        Ok(mounts) => mounts,
        Err(why) => return NET_CLASSES.weak(why),
    };
    let v1 = mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(2);
        fields.next() == Some("cgroup")
            && fields.next().is_some_and(|options| options.split(',').any(|o| o == "net_cls" || o == "net_prio"))
    });
    if v1 { NET_CLASSES.weak("mounted") } else { NET_CLASSES.ok("not mounted") }
}

/// What stands in the way of governing what is configured.
pub(super) fn configured(config: &Config) -> Vec<Finding> {
    if config.cgroups.is_empty() {
        return vec![OWNERS.ok("nothing is to be governed")];
    }
    vec![owners(config), foreign(config)]
}

fn owners(config: &Config) -> Finding {
    let mut wrong = Vec::new();
    for path in &config.cgroups {
        match cgroup::delegated(path) {
            Ok(None) => {}
            Ok(Some((above, uid))) => wrong.push(format!("{path}: {above} belongs to user {uid}")),
            // It is made when the daemon starts.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => wrong.push(format!("{path}: {error}")),
        }
    }
    match (wrong.is_empty(), config.allow_delegated) {
        (true, _) => OWNERS.ok(format!("root's alone: {}", config.cgroups.join(", "))),
        (false, true) => OWNERS.weak(format!("{}; allow_delegated is set", wrong.join("; "))),
        (false, false) => OWNERS.missing(wrong.join("; ")),
    }
}

/// A program of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Other {
    cgroup: String,
    /// Our program that is to go there.
    ours: &'static str,
    flags: u32,
    /// Its name, and the user that loaded it.
    name: String,
    uid: Option<u32>,
}

fn foreign(config: &Config) -> Finding {
    let mut others = Vec::new();
    for path in &config.cgroups {
        for above in Path::new(path).ancestors() {
            if let Err(why) = at(&above.to_string_lossy(), &mut others) {
                return FOREIGN.missing(why);
            }
        }
    }
    let mut below = Vec::new();
    if let Err(why) = config.cgroups.iter().try_for_each(|path| at_those_below(path, &mut below)) {
        return FOREIGN.missing(why);
    }
    others.dedup();
    below.dedup();
    judge_foreign(&others, &below)
}

/// As [`at`], for the cgroups in this one.
fn at_those_below(path: &str, others: &mut Vec<Other>) -> Result<(), String> {
    let mut waiting = vec![path.to_owned()];
    for _ in 0..MAX_BELOW {
        let Some(path) = waiting.pop() else { return Ok(()) };
        let entries = cgroup::directory(&path).and_then(std::fs::read_dir).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let within = format!("{path}/{}", entry.file_name().to_string_lossy());
            at(&within, others)?;
            waiting.push(within);
        }
    }
    Ok(())
}

fn at(path: &str, others: &mut Vec<Other>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{path}: {error}");
    let directory = match cgroup::directory(path).and_then(File::open) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(failed)?,
    };
    let mut names = BTreeMap::new();
    for (ours, attach_type) in AGENT_PROGRAMS {
        let Attached { flags, programs } = sys::attached(directory.as_fd(), attach_type).map_err(failed)?;
        if !programs.is_empty() && names.is_empty() {
            names = all_programs();
        }
        for id in programs {
            let (name, uid) = names.get(&id).cloned().unwrap_or_else(|| (format!("program {id}"), None));
            // The kernel keeps fifteen characters.
            if !AGENT_PROGRAMS.iter().any(|(ours, _)| ours.get(..15).unwrap_or(ours) == name) {
                others.push(Other { cgroup: path.to_owned(), ours, flags, name, uid });
            }
        }
    }
    Ok(())
}

/// Name and loader of every program, by id. Those that cannot be read have none.
fn all_programs() -> BTreeMap<u32, (String, Option<u32>)> {
    let readable = loaded_programs().filter_map(Result::ok);
    let described = readable.map(|info| {
        let name = info.name_as_str().filter(|name| !name.is_empty()).unwrap_or("without a name").to_owned();
        (info.id(), (name, info.created_by_uid()))
    });
    described.collect()
}

/// Those that stand in our way, or beside us, and those at cgroups below.
fn judge_foreign(others: &[Other], below: &[Other]) -> Finding {
    match (others, below) {
        ([], []) => FOREIGN.ok("none at the governed cgroups and above them"),
        (others, _) if others.iter().any(|other| other.flags & BPF_F_ALLOW_MULTI == 0) => FOREIGN.missing(told(others)),
        ([], below) => BELOW.weak(told(below)),
        // Newer systemd shares, and stands in nobody's way; but it drops what goes to the daemon.
        (others, below) if others.iter().any(|other| is_systemds(&other.name)) => {
            BELOW.weak(told(&[others, below].concat()))
        }
        (others, []) if others.iter().all(|other| is_ciliums(&other.name)) => CILIUM.weak(told(others)),
        (others, _) => ALLOWED.weak(told(&[others, below].concat())),
    }
}

fn is_systemds(name: &str) -> bool {
    name.starts_with("sd_")
}

fn is_ciliums(name: &str) -> bool {
    name.starts_with("cil_")
}

fn told(others: &[Other]) -> String {
    let words = |other: &Other| {
        let whose = match (other.name.as_str(), other.uid) {
            (name, _) if is_systemds(name) => ", systemd's".to_owned(),
            (name, _) if is_ciliums(name) => ", Cilium's".to_owned(),
            (_, Some(uid)) => format!(", loaded by user {uid}"),
            (_, None) => String::new(),
        };
        let cgroup = &other.cgroup;
        format!("{} at {cgroup} ({}{whose}), where {} goes", other.name, sharing(other.flags), other.ours)
    };
    let told: Vec<String> = others.iter().map(words).collect();
    told.join("; ")
}

fn sharing(flags: u32) -> &'static str {
    match (flags & BPF_F_ALLOW_MULTI != 0, flags & BPF_F_ALLOW_OVERRIDE != 0) {
        (true, _) => "shared",
        (false, true) => "to be overridden below",
        (false, false) => "exclusive",
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::host::tests::host;
    use super::*;

    const PURE: &str = "sysfs /sys sysfs rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
    const HYBRID: &str = "tmpfs /sys/fs/cgroup tmpfs ro 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
                          cgroup /sys/fs/cgroup/net_cls,net_prio cgroup rw,net_cls,net_prio 0 0\n";

    #[test]
    fn pure_hybrid_and_old_hosts_are_told_apart() {
        for (mounts, verdict, words) in [
            (PURE, Verdict::Ok, "pure, at /sys/fs/cgroup"),
            (HYBRID, Verdict::Ok, "hybrid, at /sys/fs/cgroup/unified, beside 1 of version 1"),
            ("cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n", Verdict::Missing, "not mounted"),
        ] {
            let (_root, host) = host(&[("/proc/self/mounts", mounts)]);
            let found = hierarchy(&host);
            assert_eq!((found.verdict, found.detail.as_str()), (verdict, words));
        }
    }

    #[test]
    fn v1_of_the_network_is_seen() {
        for (mounts, verdict) in [(PURE, Verdict::Ok), (HYBRID, Verdict::Weak)] {
            let (_root, host) = host(&[("/proc/self/mounts", mounts)]);
            assert_eq!(net_classes(&host).verdict, verdict);
        }
    }

    #[test]
    fn programs_of_others_are_told_with_whose_they_are() {
        let other = |name: &str, flags| Other {
            cgroup: "/agents.slice".to_owned(),
            ours: "egress",
            flags,
            name: name.to_owned(),
            uid: Some(7),
        };
        assert_eq!(judge_foreign(&[], &[]).verdict, Verdict::Ok);
        let shared = judge_foreign(&[other("theirs", BPF_F_ALLOW_MULTI)], &[]);
        assert!(shared.verdict == Verdict::Weak && shared.detail.contains("user 7"), "{shared:?}");
        let cilium = judge_foreign(&[other("cil_sock4_conne", BPF_F_ALLOW_MULTI)], &[]);
        assert!(cilium.verdict == Verdict::Weak && cilium.detail.contains("Cilium's"), "{cilium:?}");
        assert!(cilium.cost.contains("after them"), "{cilium:?}");
        let fenced = judge_foreign(&[other("sd_fw_egress", BPF_F_ALLOW_MULTI)], &[]);
        assert!(fenced.verdict == Verdict::Weak && fenced.remedy.contains("IPAddressAllow=localhost"), "{fenced:?}");
        for flags in [0, BPF_F_ALLOW_OVERRIDE] {
            let held = judge_foreign(&[other("sd_fw_egress", flags)], &[]);
            assert!(held.verdict == Verdict::Missing && held.detail.contains("systemd's"), "{held:?}");
            // At a unit in a governed slice it stands in nobody's way, but may keep the unit from the daemon.
            let below = judge_foreign(&[], &[other("sd_fw_egress", flags)]);
            assert!(below.verdict == Verdict::Weak && below.remedy.contains("IPAddressAllow=localhost"), "{below:?}");
        }
    }
}
