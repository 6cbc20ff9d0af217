//! Who has left the governed cgroup that it was in.
//!
//! A socket is its cgroup's: what a process makes elsewhere passes no program of ours. Only root, or whoever may write to both
//! cgroups, moves a process; nothing here prevents it. It is noticed by looking now and then, so that who comes and goes
//! between two looks is not; the kernel's tracepoint would see that, and be the whole host's.
//!
//! A process is known by its number, and by the time of the look that found it: whoever has the number now, and began before that
//! look, is the one that was found.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::{fs, io};

use super::cgroup;

/// Processes and cgroups that are watched in all; what is beyond is not.
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
    pids: HashSet<u32>,
    /// Since boot, in hundredths of a second, as `/proc/PID/stat` counts: when all of them had begun.
    at: u64,
}

impl Strays {
    /// Looks at every process at or below the governed cgroups, and for those that were there.
    ///
    /// # Errors
    /// When there is no cgroup file system, or `/proc` does not tell the time.
    pub fn look(&mut self, governed: &[String]) -> io::Result<Looked> {
        let mut looked = Looked { complete: true, ..Looked::default() };
        let mut room = MOST;
        let mut seen = HashMap::with_capacity(governed.len());
        for root in governed {
            let (now, complete) = in_tree(root, &mut room)?;
            looked.complete &= complete;
            seen.insert(root.clone(), now);
        }
        // One that is gone had to be left first; one that is let go still has its processes.
        for (root, before) in std::mem::replace(&mut self.seen, seen) {
            let now = self.seen.get(&root);
            let gone = before.pids.iter().filter(|pid| now.is_none_or(|now| !now.pids.contains(pid)));
            looked.strays.extend(gone.filter_map(|pid| stray(*pid, before.at, &root)));
        }
        Ok(looked)
    }
}

fn in_tree(root: &str, room: &mut usize) -> io::Result<(Seen, bool)> {
    let mut seen = Seen::default();
    let end = cgroup::walk(root, |_, pids| {
        for pid in std::iter::once(None).chain(pids.map(Some)) {
            if *room == 0 {
                return ControlFlow::Break(());
            }
            *room -= 1;
            seen.pids.extend(pid);
        }
        ControlFlow::Continue(())
    })?;
    seen.at = uptime()?;
    Ok((seen, end.is_continue()))
}

/// The process that was found in the cgroup, where it is elsewhere now.
fn stray(pid: u32, at: u64, root: &str) -> Option<Stray> {
    let (comm, begun) = process(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    if begun > at {
        return None;
    }
    let to = cgroup::of(pid)?;
    let is_within = Path::new(&to).starts_with(root);
    (!is_within).then(|| Stray { pid, comm, cgroup: root.to_owned(), to })
}

/// The name of a process, and when it began; nothing where it has ended, though nobody has asked how.
fn process(stat: &str) -> Option<(String, u64)> {
    // The name is in parentheses, and may contain some.
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X");
    let begun = fields.nth(18)?.parse().ok()?;
    (!has_ended).then(|| (name.to_owned(), begun))
}

/// Since boot, in hundredths of a second.
fn uptime() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/uptime")?;
    hundredths(&text).ok_or_else(|| io::Error::other("/proc/uptime tells no time"))
}

fn hundredths(text: &str) -> Option<u64> {
    let (seconds, rest) = text.split(' ').next()?.split_once('.')?;
    seconds.parse::<u64>().ok()?.checked_mul(100)?.checked_add(rest.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let stat = |name: &str, state: &str| {
            format!("7 ({name}) {state} 1 7 7 0 -1 4194560 9 0 0 0 1 2 0 0 20 0 1 0 4321 8192 10 18446744073709551615")
        };
        assert_eq!(process(&stat("sh", "S")), Some(("sh".to_owned(), 4321)));
        assert_eq!(process(&stat("a) Z 1 (b", "R")), Some(("a) Z 1 (b".to_owned(), 4321)));
        assert_eq!(process(&stat("sh", "Z")), None);
        assert_eq!(process("7 (sh"), None);
        assert_eq!(hundredths("350735.47 234388.90\n"), Some(35_073_547));
        assert_eq!(hundredths("x"), None);
    }

    #[test]
    fn whoever_has_the_number_now_and_began_later_is_somebody_else() {
        let own = std::process::id();
        let Some(place) = cgroup::of(own) else { return };
        let now = uptime().unwrap();
        let found = stray(own, now, "/nowhere").unwrap();
        assert_eq!((found.pid, found.to.as_str()), (own, place.as_str()));
        assert_eq!(stray(own, 0, "/nowhere"), None);
        assert_eq!(stray(own, now, &place), None);
        // A path is more than its letters.
        assert_eq!(stray(u32::MAX, now, "/nowhere"), None);
    }
}
