//! Programs of others at cgroups that are to be governed: who they belong to, where the kernel refuses ours because of them.
//!
//! A program that was attached for its cgroup alone (systemd's IPAddressDeny= does that) keeps all others from that cgroup and
//! those below, and one that may be overridden keeps them from that cgroup. Others that share, as ours do, run beside ours
//! and can only let less through.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use aya::programs::loaded_programs;

use super::cgroup;
use super::sys::{self, Attached};

const SHARED: u32 = 2;
/// Suffixes of the names that systemd gives to cgroups of units.
const UNITS: &[&str] = &[".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// Why nothing more can be attached at a cgroup for this hook, and what to do; nothing where the programs there share.
pub(super) fn explain(path: &str, attach_type: u32) -> Option<String> {
    // The nearest cgroup with programs decides.
    for above in Path::new(path).ancestors() {
        let above = above.to_string_lossy();
        match attached(&above, attach_type) {
            Ok(found) if found.programs.is_empty() => {}
            Ok(found) if found.flags & SHARED != 0 => return None,
            Ok(found) => return Some(words(&above, &found, &names())),
            Err(error) => return Some(format!("; who holds it cannot be seen: {above}: {error}")),
        }
    }
    None
}

fn attached(path: &str, attach_type: u32) -> io::Result<Attached> {
    sys::attached(File::open(cgroup::directory(path)?)?.as_fd(), attach_type)
}

/// Names of programs, as far as this process may see them.
fn names() -> BTreeMap<u32, String> {
    let readable = loaded_programs().filter_map(Result::ok);
    readable.filter_map(|info| Some((info.id(), info.name_as_str()?.to_owned()))).collect()
}

fn words(path: &str, found: &Attached, names: &BTreeMap<u32, String>) -> String {
    let named = |id: &u32| names.get(id).filter(|name| !name.is_empty()).map_or(format!("program {id}"), Clone::clone);
    let programs: Vec<String> = found.programs.iter().map(named).collect();
    let programs = programs.join(", ");
    let last = path.rsplit('/').next().unwrap_or_default();
    let unit = UNITS.iter().any(|suffix| last.ends_with(suffix)).then_some(last);
    let systemds = programs.split(", ").all(|name| name.starts_with("sd_"));
    let remedy = match unit {
        Some(unit) if unit.ends_with(".slice") => {
            format!("take IPAddressDeny=, IPAddressAllow= and IPAccounting= from {unit} (`systemctl edit {unit}`)")
        }
        Some(unit) => format!(
            "take IPAddressDeny=, IPAddressAllow= and IPAccounting= from {unit} (`systemctl edit {unit}`), or set \
             Delegate=yes there, or govern the slice that it is in"
        ),
        None => {
            "have its owner attach it so that others may be beside it (BPF_F_ALLOW_MULTI), or govern another cgroup"
                .to_owned()
        }
    };
    let whose = match unit {
        Some(unit) if systemds => format!("; {programs}, systemd's for {unit}, holds {path} for itself"),
        _ => format!("; {programs} holds {path} for itself"),
    };
    format!("{whose}: {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_named_with_what_to_do() {
        let found = Attached { flags: 0, programs: vec![7] };
        let systemds = BTreeMap::from([(7, "sd_fw_egress".to_owned())]);
        let told = words("/agents.slice/billing.service", &found, &systemds);
        assert!(
            told.contains("sd_fw_egress, systemd's for billing.service, holds /agents.slice/billing.service"),
            "{told}"
        );
        assert!(told.contains("systemctl edit billing.service") && told.contains("Delegate=yes"), "{told}");
        let told = words("/agents.slice", &found, &BTreeMap::new());
        assert!(told.contains("program 7 holds /agents.slice") && !told.contains("Delegate"), "{told}");
        assert!(words("/kubepods/x", &found, &BTreeMap::new()).contains("BPF_F_ALLOW_MULTI"));
    }
}
