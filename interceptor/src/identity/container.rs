//! The container that a cgroup path names: its engine, its id, and the pod that it belongs to.
//!
//! Read from the top: the first component that an engine's naming fits is the container, and nothing below it counts. What
//! lies below is named by whoever is inside. What lies above is named by the engine only where nobody but root may make
//! cgroups there: with a delegated one above, say of a user's own engine, the name is whatever that user likes. Such a
//! container is shown, and never matches: [`Container::trusted`].
//!
//! Not promised: containers whose engine puts them into cgroups of no known naming (a hand-written `cgroupsPath`), and, on
//! hybrid hosts, those of engines that leave the unified hierarchy alone.

use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::capture::cgroup;

/// A container, as its cgroup names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Which engine names cgroups so: `docker`, `podman`, `containerd`, `crio`, `nspawn`, `lxc`, or `unknown`.
    pub engine: String,
    /// Its id; of `nspawn` and `lxc`, its name.
    pub id: String,
    /// Uid of the Kubernetes pod, with dashes; id of podman's pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Nobody but root could have given the cgroup this name.
    pub trusted: bool,
}

impl Container {
    /// The container of a cgroup path below the mount. `is_roots` says of a path whether root alone may make cgroups in it.
    #[must_use]
    pub fn of(cgroup: &str, is_roots: &dyn Fn(&str) -> bool) -> Option<Self> {
        let mut pod = None;
        let mut above = None;
        let mut end = 0;
        for part in cgroup.split('/').skip(1) {
            let start = end;
            end += part.len() + 1;
            if let Some((engine, id)) = named(part, above) {
                let parent = cgroup.get(..start).filter(|parent| !parent.is_empty()).unwrap_or("/");
                return Some(Self { engine: engine.to_owned(), id, pod, trusted: is_roots(parent) });
            }
            pod = pod_of(part).or(pod);
            above = Some(part);
        }
        None
    }
}

/// cgroups of containers whose id begins so, as paths below the mount; looks at [`SEARCHED`] of them.
///
/// # Errors
/// When there is no cgroup file system, or too much in it.
pub fn find(prefix: &str) -> io::Result<Vec<String>> {
    let (mut found, mut searched) = (Vec::new(), 0);
    let mut waiting = vec![(String::new(), cgroup::mount()?)];
    while let Some((path, directory)) = waiting.pop() {
        searched += 1;
        if searched > SEARCHED {
            return Err(io::Error::other(format!(
                "there are more than {SEARCHED} cgroups: name the container's with --cgroup"
            )));
        }
        match Container::of(&path, &|_| false) {
            // What lies below is the container's own.
            Some(container) if container.id.starts_with(prefix) => found.push(path),
            Some(_) => {}
            None => {
                for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                    if let (Ok(kind), Ok(name)) = (entry.file_type(), entry.file_name().into_string())
                        && kind.is_dir()
                    {
                        waiting.push((format!("{path}/{name}"), entry.path()));
                    }
                }
            }
        }
    }
    Ok(found)
}

/// cgroups that [`find`] looks at.
const SEARCHED: usize = 65_536;

/// Engines by how they begin the names of cgroups; what runs beside a container (conmon) is none.
const ENGINES: &[(&str, &str)] = &[
    ("docker-", "docker"),
    ("libpod-payload-", "podman"),
    ("libpod-", "podman"),
    ("cri-containerd-", "containerd"),
    ("nerdctl-", "containerd"),
    ("crio-", "crio"),
];

/// Engine and id, where a component below `above` is a container.
fn named(part: &str, above: Option<&str>) -> Option<(&'static str, String)> {
    let bare = part.strip_suffix(".scope").unwrap_or(part);
    for (prefix, engine) in ENGINES {
        if let Some(id) = bare.strip_prefix(prefix).filter(|id| is_id(id)) {
            return Some((engine, id.to_owned()));
        }
    }
    if is_id(part) {
        // The cgroupfs driver: the id alone.
        let pod = above.is_some_and(|above| above.starts_with("pod") && pod_of(above).is_some());
        return Some((
            if above == Some("docker") {
                "docker"
            } else if pod {
                "containerd"
            } else {
                "unknown"
            },
            part.to_owned(),
        ));
    }
    let name = |name: &str| (!name.is_empty()).then(|| unescaped(name));
    if let Some(instance) = part.strip_prefix("systemd-nspawn@").and_then(|rest| rest.strip_suffix(".service")) {
        return Some(("nspawn", name(instance)?));
    }
    if let Some(machine) = part.strip_prefix("machine-").and_then(|rest| rest.strip_suffix(".scope")) {
        return Some(("nspawn", name(machine)?));
    }
    let lxc = part.strip_prefix("lxc.payload.").or_else(|| (above == Some("lxc")).then_some(part))?;
    Some(("lxc", name(lxc)?))
}

/// 64 hexadecimal digits, as every engine of the OCI makes them.
fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The pod's uid in `kubepods-burstable-pod<uid>.slice` (dashes as underscores), `pod<uid>`, or podman's pod.
fn pod_of(part: &str) -> Option<String> {
    if let Some(id) = part.strip_suffix(".slice").and_then(|bare| bare.strip_prefix("machine-libpod_pod_")) {
        return is_id(id).then(|| id.to_owned());
    }
    let uid = match part.strip_suffix(".slice") {
        Some(slice) => {
            let (before, uid) = slice.rsplit_once("-pod")?;
            before.split('-').any(|word| word == "kubepods").then(|| uid.replace('_', "-"))?
        }
        None => part.strip_prefix("pod")?.to_owned(),
    };
    // The API server's form, or, of static pods, a hash.
    let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let lengths: Vec<usize> = uid.split('-').map(str::len).collect();
    let form = matches!(lengths.as_slice(), [8, 4, 4, 4, 12] | [32]);
    (form && uid.split('-').all(hex)).then_some(uid)
}

/// A unit's part without systemd's escapes (`\x2d` for a dash).
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x") {
        plain.push_str(before);
        let byte = after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(u8::is_ascii_graphic);
        match (byte, after.get(2..)) {
            (Some(byte), Some(tail)) => {
                plain.push(char::from(byte));
                rest = tail;
            }
            _ => {
                plain.push_str("\\x");
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
#[path = "container_tests.rs"]
mod tests;
