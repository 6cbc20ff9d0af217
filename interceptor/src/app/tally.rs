//! Counts of what agents cause, so that what is written of it is bounded: pure.
//!
//! Each cgroup has room of its own: who causes a flood hides only what it does itself.

use std::collections::HashMap;
use std::hash::Hash;

/// Kinds that are told apart of one cgroup.
const KINDS_OF_CGROUP: usize = 64;
/// Kinds that are told apart in all.
const KINDS: usize = 1024;

/// What was counted since it was last taken.
#[derive(Debug)]
pub(super) struct Tally<K, V> {
    cgroups: HashMap<u64, Part<K, V>>,
    kinds: usize,
    others: u64,
}

#[derive(Debug)]
struct Part<K, V> {
    kinds: HashMap<K, (V, u64)>,
    others: u64,
}

/// One line of a tally.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<K, V> {
    /// So often, the last time like this.
    Kind(K, V, u64),
    /// So many more of this cgroup, of too many kinds to list.
    OthersOf(u64, u64),
    /// So many more of all cgroups.
    Others(u64),
}

impl<K, V> Default for Tally<K, V> {
    fn default() -> Self {
        Self { cgroups: HashMap::new(), kinds: 0, others: 0 }
    }
}

impl<K: Eq + Hash, V> Tally<K, V> {
    /// Counts one of a kind, of a cgroup.
    pub(super) fn count(&mut self, cgroup: u64, kind: K, last: V) {
        let has_room = self.kinds < KINDS;
        if !has_room && !self.cgroups.contains_key(&cgroup) {
            self.others = self.others.saturating_add(1);
            return;
        }
        let part = self.cgroups.entry(cgroup).or_insert_with(|| Part { kinds: HashMap::new(), others: 0 });
        if let Some((known, count)) = part.kinds.get_mut(&kind) {
            *known = last;
            *count = count.saturating_add(1);
        } else if has_room && part.kinds.len() < KINDS_OF_CGROUP {
            self.kinds += 1;
            part.kinds.insert(kind, (last, 1));
        } else {
            part.others = part.others.saturating_add(1);
        }
    }

    /// Takes what was counted, and begins again.
    pub(super) fn take(&mut self) -> Vec<Line<K, V>> {
        let Self { cgroups, others, .. } = std::mem::take(self);
        let mut lines = Vec::new();
        for (cgroup, part) in cgroups {
            lines.extend(part.kinds.into_iter().map(|(kind, (last, count))| Line::Kind(kind, last, count)));
            lines.extend((part.others > 0).then_some(Line::OthersOf(cgroup, part.others)));
        }
        lines.extend((others > 0).then_some(Line::Others(others)));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_hides_nobody_else() {
        let mut tally = Tally::default();
        for name in 0..10_000 {
            tally.count(1, name, ());
        }
        tally.count(2, 7, ());
        tally.count(2, 7, ());
        let lines = tally.take();
        assert_eq!(lines.len(), KINDS_OF_CGROUP + 2);
        assert!(lines.contains(&Line::Kind(7, (), 2)));
        assert!(lines.contains(&Line::OthersOf(1, 10_000 - 64)));
        assert!(tally.take().is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded_and_nothing_is_lost_from_the_count() {
        let mut tally = Tally::default();
        for cgroup in 0..100 {
            for name in 0..100 {
                tally.count(cgroup, name, name);
            }
        }
        let (mut kinds, mut sum) = (0, 0);
        for line in tally.take() {
            sum += match line {
                Line::Kind(_, _, count) => {
                    kinds += 1;
                    count
                }
                Line::OthersOf(_, count) | Line::Others(count) => count,
            };
        }
        assert_eq!((kinds, sum), (KINDS, 10_000));
    }
}
