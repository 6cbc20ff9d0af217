//! Who has left the governed cgroup that it was in.
//!
//! A socket is its cgroup's: what a process makes elsewhere passes no program of ours. Only root, or whoever may write to both
//! cgroups, moves a process; nothing here prevents it. It is noticed by looking now and then, so that who comes and goes
//! between two looks is not; the kernel's tracepoint would see that, and be the whole host's.
//!
//! Threads are looked at, since a process whose first thread has ended stays listed where that was. One is known by its number, and
//! by the time of the look that found it: whoever has the number now, and began before that look, is the one that was found. What
//! an agent can write into `/proc` (its name) decides nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use nix::time::{ClockId, clock_gettime};

use super::cgroup::{self, Listed};
use super::maps;

/// Threads and cgroups that are watched, of all governed cgroups together; each has its share, and what is beyond is not.
const MOST: usize = 65_536;

/// A process that is elsewhere now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// The thread's name, forgeable.
    pub comm: String,
    /// The governed cgroup that it was in, as a path below the mount.
    pub cgroup: String,
    /// The cgroup that it is in now.
    pub to: String,
}

/// What a look has found.
#[derive(Debug, Default)]
pub struct Looked {
    /// Who has left since the last one.
    pub strays: Vec<Stray>,
    /// Whether everybody is watched: there may be too many.
    pub complete: bool,
}

/// Who was where when it was last looked.
#[derive(Debug, Default)]
pub struct Strays {
    seen: HashMap<String, Seen>,
}

/// Who was in one governed cgroup.
#[derive(Debug, Default)]
struct Seen {
    threads: HashSet<u32>,
    /// Since boot, in hundredths of a second, as `/proc/PID/stat` counts: when all of them had begun.
    at: u64,
}

impl Strays {
    /// Looks at every process at or below the governed cgroups, and for those that were there.
    ///
    /// # Errors
    /// When one of them cannot be looked at: what was known before stays known.
    pub fn look(&mut self, governed: &[String]) -> io::Result<Looked> {
        let mut looked = Looked { complete: true, ..Looked::default() };
        let share = MOST / governed.len().max(1);
        let mut seen = HashMap::with_capacity(governed.len());
        for root in governed {
            let (now, complete) = in_tree(root, share)?;
            looked.complete &= complete;
            seen.insert(root.clone(), now);
        }
        let mut found = BTreeMap::new();
        // One that is gone had to be left first; one that is let go still has its processes.
        for (root, before) in std::mem::replace(&mut self.seen, seen) {
            let mut now = self.seen.get_mut(&root);
            for thread in before.threads {
                if now.as_ref().is_some_and(|now| now.threads.contains(&thread)) {
                    continue;
                }
                match whereabouts(thread, before.at, &root) {
                    Whereabouts::Gone => {}
                    // It moved about meanwhile, or there are too many.
                    Whereabouts::Within => now.iter_mut().for_each(|now| now.threads.extend([thread])),
                    Whereabouts::Elsewhere(stray) => {
                        found.entry((stray.pid, stray.to.clone())).or_insert(stray);
                    }
                }
            }
        }
        looked.strays.extend(found.into_values());
        Ok(looked)
    }
}

fn in_tree(root: &str, share: usize) -> io::Result<(Seen, bool)> {
    let (mut seen, mut room) = (Seen::default(), share);
    let end = cgroup::walk(root, Listed::Threads, |_, threads| {
        for thread in std::iter::once(None).chain(threads.map(Some)) {
            let Some(rest) = room.checked_sub(1) else { return ControlFlow::Break(()) };
            room = rest;
            seen.threads.extend(thread);
        }
        ControlFlow::Continue(())
    })?;
    seen.at = uptime()?;
    Ok((seen, end.is_continue()))
}

/// Where a thread is that was found in a governed cgroup.
#[derive(Debug, PartialEq, Eq)]
enum Whereabouts {
    /// It has ended.
    Gone,
    /// There.
    Within,
    /// Not there.
    Elsewhere(Stray),
}

fn whereabouts(thread: u32, at: u64, root: &str) -> Whereabouts {
    let place = format!("/proc/{thread}");
    let stat = fs::read(format!("{place}/stat")).ok().and_then(|stat| parse(&stat));
    let Some(Stat { comm, .. }) = stat.filter(|stat| !stat.ended && stat.begun <= at) else {
        return Whereabouts::Gone;
    };
    let Some(to) = cgroup_of(&place) else { return Whereabouts::Gone };
    if Path::new(&to).starts_with(root) {
        return Whereabouts::Within;
    }
    let pid = process_of(&place).unwrap_or(thread);
    Whereabouts::Elsewhere(Stray { pid, comm, cgroup: root.to_owned(), to })
}

/// The process that a thread is of.
fn process_of(place: &str) -> Option<u32> {
    let status = fs::read(format!("{place}/status")).ok()?;
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Tgid:"))?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

fn cgroup_of(place: &str) -> Option<String> {
    let text = fs::read(format!("{place}/cgroup")).ok()?;
    let line = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    Some(String::from_utf8_lossy(line).into_owned())
}

/// What is read of a thread.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    comm: String,
    /// Though nobody may have asked how.
    ended: bool,
    begun: u64,
}

/// The name is in parentheses, and may contain anything.
fn parse(stat: &[u8]) -> Option<Stat> {
    let (open, close) = (stat.iter().position(|byte| *byte == b'(')?, stat.iter().rposition(|byte| *byte == b')')?);
    let mut comm = [0; 16];
    comm.iter_mut().zip(stat.get(open + 1..close)?).for_each(|(to, from)| *to = *from);
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    Some(Stat { comm: maps::name(&comm), ended, begun: fields.nth(18)?.parse().ok()? })
}

/// Since boot, in hundredths of a second. The service sees nothing of `/proc` but processes, so not from there.
fn uptime() -> io::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
    let hundredths = now.tv_sec().checked_mul(100).and_then(|seconds| seconds.checked_add(now.tv_nsec() / 10_000_000));
    hundredths.and_then(|sum| sum.try_into().ok()).ok_or_else(|| io::Error::other("the clock since boot is not right"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let line = |name: &[u8], state: &str| {
            let rest =
                format!(") {state} 1 7 7 0 -1 4194560 9 0 0 0 1 2 0 0 20 0 1 0 4321 8192 10 18446744073709551615");
            [b"7 (", name, rest.as_bytes()].concat()
        };
        let read = |name: &[u8], state: &str| parse(&line(name, state)).map(|stat| (stat.comm, stat.ended, stat.begun));
        assert_eq!(read(b"sh", "S"), Some(("sh".to_owned(), false, 4321)));
        assert_eq!(read(b"a) Z 1 (b", "R"), Some(("a) Z 1 (b".to_owned(), false, 4321)));
        assert_eq!(read(b"\xff\nx", "R"), Some(("\u{fffd}\u{fffd}x".to_owned(), false, 4321)));
        assert_eq!(read(b"sh", "Z"), Some(("sh".to_owned(), true, 4321)));
        assert_eq!(parse(b"7 (sh"), None);
        assert_eq!(parse(b"7 )sh("), None);
    }

    #[test]
    fn whoever_has_the_number_now_and_began_later_is_somebody_else() {
        let own = std::process::id();
        let Some(place) = cgroup_of("/proc/self") else { return };
        let now = uptime().unwrap();
        let Whereabouts::Elsewhere(found) = whereabouts(own, now, "/nowhere") else { panic!("not elsewhere") };
        assert_eq!((found.pid, found.to.as_str()), (own, place.as_str()));
        assert_eq!(whereabouts(own, 0, "/nowhere"), Whereabouts::Gone);
        assert_eq!(whereabouts(own, now, &place), Whereabouts::Within);
        assert_eq!(whereabouts(u32::MAX, now, "/nowhere"), Whereabouts::Gone);
    }
}
