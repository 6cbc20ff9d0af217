//! What happens seldom, counted for metrics: refusals, alarms, answers of people.
//!
//! What it is counted by is of few words; at [`WORDS`] of one sort, all others count as `other`.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::capture::Refusal;
use crate::capture::dns::Fate;

/// Words that are told apart of one sort.
const WORDS: usize = 64;

/// A sort of what happens seldom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sort {
    /// The kernel programs denied something, by what it was.
    Kernel,
    /// A process left its governed cgroup, by whether it is governed where it went.
    Stray,
    /// A connection was refused, by whose fault that is.
    Refused,
    /// A command waits for people, or was answered, by what came of it.
    Approval,
    /// A name was asked for, by what became of it.
    Name,
}

impl Sort {
    const ALL: [Self; 5] = [Self::Kernel, Self::Stray, Self::Refused, Self::Approval, Self::Name];

    /// What is counted of it: known before it happens, so that the first time is seen as more than before.
    fn words(self) -> Vec<&'static str> {
        match self {
            Self::Kernel => [&Refusal::KINDS[..], &["lookup", "unlisted", "untold"]].concat(),
            Self::Stray => vec!["governed", "free", "unlisted"],
            Self::Refused => vec!["agent", "identity", "upstream", "operator", "interceptor", "tls"],
            Self::Approval => vec!["asked", "approved", "refused", "timeout"],
            Self::Name => Fate::ALL.iter().map(|fate| fate.as_str()).chain(["unlisted"]).collect(),
        }
    }
}

/// Counts of it.
#[derive(Debug)]
pub struct Rare(Mutex<BTreeMap<Sort, BTreeMap<String, u64>>>);

impl Default for Rare {
    fn default() -> Self {
        let words = |sort: Sort| sort.words().into_iter().map(|word| (word.to_owned(), 0)).collect();
        Self(Mutex::new(Sort::ALL.into_iter().map(|sort| (sort, words(sort))).collect()))
    }
}

impl Rare {
    /// So many more.
    pub fn count(&self, sort: Sort, word: &str, more: u64) {
        let mut sorts = self.0.lock();
        let words = sorts.entry(sort).or_default();
        let word = if words.len() < WORDS || words.contains_key(word) { word } else { "other" };
        match words.get_mut(word) {
            Some(count) => *count = count.saturating_add(more),
            None => drop(words.insert(word.to_owned(), more)),
        }
    }

    /// What was counted of a sort.
    #[must_use]
    pub fn of(&self, sort: Sort) -> BTreeMap<String, u64> {
        self.0.lock().get(&sort).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_and_bounded() {
        let rare = Rare::default();
        (0..100).for_each(|at| rare.count(Sort::Name, &format!("w{at}"), 1));
        rare.count(Sort::Name, "w1", 2);
        let names = rare.of(Sort::Name);
        assert_eq!((names.len(), names["w1"], names["passed on"]), (WORDS + 1, 3, 0));
        assert_eq!(names.values().sum::<u64>(), 102);
        assert_eq!(rare.of(Sort::Stray)["free"], 0);
    }
}
