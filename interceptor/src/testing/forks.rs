//! Many short connections, each from a child process of its own, some of which are gone before anybody looks: what each child
//! says of itself, held against what the daemon was told.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::capture::Origin;

/// The program: number of children, and the port that they connect to.
pub const SOURCE: &str = include_str!("forks.c");

/// Nanoseconds in a tick of `/proc/PID/stat`.
const TICK: u64 = 10_000_000;
/// A child that got its answer.
const ANSWERED: u64 = 3;

/// Builds the program in a directory.
///
/// # Errors
/// Without a C compiler.
pub fn build(directory: &Path) -> io::Result<PathBuf> {
    let (source, program) = (directory.join("forks.c"), directory.join("forks"));
    std::fs::write(&source, SOURCE)?;
    let built = Command::new("cc").args(["-O1", "-o"]).arg(&program).arg(&source).status()?;
    if built.success() { Ok(program) } else { Err(io::Error::other("forks.c does not compile")) }
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Children that ran.
    pub children: usize,
    /// Connections that the daemon got.
    pub told: usize,
    /// Different children among them.
    pub names: usize,
    /// Children that waited for an answer, and got one.
    pub answered: usize,
    /// Connections that were told with another process, or not at all though they were answered; the first few.
    pub wrong: Vec<String>,
}

/// Holds the lines that the program printed against the connections to its port.
#[must_use]
pub fn tally(lines: &[String], origins: &[Origin], port: u16) -> Tally {
    let mut tally = Tally::default();
    let mut by_child = HashMap::new();
    for origin in origins.iter().filter(|origin| origin.destination.port() == port) {
        tally.told += 1;
        let IpAddr::V4(address) = origin.destination.ip() else { continue };
        let [_, _, high, low] = address.octets();
        by_child.insert(u64::from(u16::from_be_bytes([high, low])), origin);
    }
    tally.names = by_child.len();
    for line in lines {
        let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        let &[n, pid, start, state] = numbers.as_slice() else {
            tally.wrong.push(line.clone());
            continue;
        };
        tally.children += 1;
        tally.answered += usize::from(state == ANSWERED);
        match by_child.get(&n) {
            Some(origin) if (u64::from(origin.pid), origin.start_boottime / TICK) == (pid, start) => {}
            // Refused, or gone before it was accepted.
            None if state != ANSWERED => {}
            other => tally.wrong.push(format!("{line}: {other:?}")),
        }
    }
    tally.wrong.truncate(3);
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_taken_for_another_shows() {
        let origin = |n: u8, pid, start_boottime| Origin {
            destination: ([10, 77, 0, n], 7000).into(),
            pid,
            tid: pid,
            uid: 1,
            gid: 1,
            cgroup: 1,
            current_cgroup: 1,
            start_boottime,
            netns: 1,
            socket: 1,
            comm: "child".to_owned(),
        };
        let lines = ["0 10 5 3", "1 11 5 1", "2 12 5 3", "3 13 5 2"].map(str::to_owned);
        let told = [origin(0, 10, 5 * TICK), origin(1, 99, 5 * TICK), origin(2, 12, 6 * TICK)];
        let found = tally(&lines, &told, 7000);
        assert_eq!((found.children, found.told, found.names, found.answered, found.wrong.len()), (4, 3, 3, 2, 2));
        // An answer that nobody gave.
        assert_eq!(tally(&lines, &told[..2], 7000).wrong.len(), 2);
        assert_eq!(tally(&lines, &[], 7000).wrong.len(), 2);
    }
}
