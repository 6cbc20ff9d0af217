//! What a spool says of its own past: which segments were deleted, which were found missing, and what is held.
//!
//! Owns how that follows from one record to the next, for whoever writes them and for whoever verifies them. Each segment begins with
//! what was so then ([`Event::Kept`]), so that it is known from the newest segment alone. A segment counts as deleted where a record
//! said so before it went; that it is not there makes no such record: it is found missing then, for ever.

use serde::{Deserialize, Serialize};

use super::event::Event;
use super::hold::Scope;
use crate::clock::Timestamp;

/// A segment that is deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// Its number.
    pub segment: u64,
    /// Its first frame.
    pub first: u64,
    /// How many it had.
    pub frames: u64,
    /// How long it was.
    pub bytes: u64,
    /// When it was begun.
    pub begun: Timestamp,
    /// When it was closed: the latest that it, or one before it, says; where one of the two was no time, the next that is one.
    pub ended: Timestamp,
    /// Root of the tree at its end, hexadecimal.
    pub root: String,
    /// Chain at its end, hexadecimal.
    pub chain: String,
    /// Why it may go.
    pub rule: Rule,
}

/// Why a segment may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// It is as old as `max_age_days`, which this is.
    Age(u32),
    /// There is no more room, and it is as old as `min_age_days`, which this is.
    Room(u32),
}

impl Rule {
    /// The least age in days.
    #[must_use]
    pub const fn days(self) -> u32 {
        let (Self::Age(days) | Self::Room(days)) = self;
        days
    }

    /// In words.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Age(days) => format!("record.retention.max_age_days = {days}"),
            Self::Room(_) => "there is no more room, and record.retention.at_limit = delete_oldest".to_owned(),
        }
    }
}

/// Segments in a row that were deleted: what the one that follows goes on from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The first of them.
    pub from: u64,
    /// The last of them.
    pub to: u64,
    /// Frames of the spool up to its end.
    pub frames: u64,
    /// Root of the tree at its end, hexadecimal.
    pub root: String,
    /// Chain at its end, hexadecimal.
    pub chain: String,
}

/// Segments in a row that were not there, and of which no record says that they were deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The first of them.
    pub from: u64,
    /// The last of them.
    pub to: u64,
    /// When that was found.
    pub found: Timestamp,
}

/// A hold, as it is on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its name.
    pub hold: String,
    /// What it is of.
    #[serde(flatten)]
    pub scope: Scope,
    /// Segments that were there then and are of it, in stretches.
    #[serde(default)]
    pub present: Vec<(u64, u64)>,
    /// The newest segment then.
    #[serde(default)]
    pub newest: u64,
}

impl Held {
    /// The first segment of a stretch that has to be there: it was when the hold began, or came later and is named.
    pub(super) fn wants(&self, (from, to): (u64, u64)) -> Option<u64> {
        let later = self
            .scope
            .segments
            .iter()
            .map(|(first, last)| ((*first).max(self.newest.saturating_add(1)), last.unwrap_or(u64::MAX)));
        let all = self.present.iter().copied().chain(later);
        all.filter_map(|(first, last)| Some(first.max(from)).filter(|both| *both <= last.min(to))).min()
    }
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Segments that were deleted, or are about to be.
    pub missing: Vec<Missing>,
    /// Segments that were found missing.
    pub lost: Vec<Lost>,
    /// What is held.
    pub holds: Vec<Held>,
}

impl Ledger {
    pub(super) const fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.lost.is_empty() && self.holds.is_empty()
    }

    /// Takes in what a record says. False where it says nothing of this.
    pub(super) fn apply(&mut self, event: &Event) -> bool {
        match event {
            Event::Deleted { segments, before, .. } => {
                *self = before.clone();
                segments.iter().for_each(|gone| widen(&mut self.missing, gone));
            }
            Event::Kept(ledger) => *self = ledger.clone(),
            Event::Held(held) => {
                self.holds.retain(|other| other.hold != held.hold);
                self.holds.push(held.clone());
            }
            Event::Released { hold } => self.holds.retain(|other| other.hold != *hold),
            Event::FoundMissing { stretches } => stretches.iter().for_each(|one| self.lose(one.clone())),
            _ => return false,
        }
        true
    }

    /// A stretch was found missing. Where there are too many, what lies between two is said to be as well.
    pub(super) fn lose(&mut self, one: Lost) {
        if subtract((one.from, one.to), self.lost()).is_empty() {
            return;
        }
        self.lost.push(one);
        self.lost.sort_by_key(|lost| lost.from);
        while self.lost.len() > MOST_STRETCHES {
            let Some(last) = self.lost.pop() else { return };
            if let Some(before) = self.lost.last_mut() {
                before.to = before.to.max(last.to);
            }
        }
    }

    /// Stretches that were deleted.
    pub(super) fn deleted(&self) -> impl Iterator<Item = (u64, u64)> {
        self.missing.iter().map(|one| (one.from, one.to))
    }

    /// Stretches that were found missing.
    pub(super) fn lost(&self) -> impl Iterator<Item = (u64, u64)> {
        self.lost.iter().map(|one| (one.from, one.to))
    }

    /// Whether it was said that a segment goes.
    pub(super) fn says_deleted(&self, number: u64) -> bool {
        self.deleted().any(|(from, to)| (from..=to).contains(&number))
    }

    /// Of a stretch, what nothing says of why it is missing; what a hold wants to be there was not deleted.
    pub(super) fn unsaid(&self, stretch: (u64, u64)) -> Vec<(u64, u64)> {
        let mut unsaid = subtract(stretch, self.deleted().chain(self.lost()));
        for (from, to) in self.holds.iter().flat_map(|held| held.present.iter().copied()) {
            let both = (from.max(stretch.0), to.min(stretch.1));
            if both.0 <= both.1 {
                unsaid.extend(subtract(both, self.lost().chain(unsaid.clone())));
            }
        }
        unsaid
    }
}

/// One more is not there; neighbours become one.
pub(super) fn widen(missing: &mut Vec<Missing>, gone: &Gone) {
    let number = gone.segment;
    if missing.iter().any(|one| (one.from..=one.to).contains(&number)) {
        return;
    }
    let frames = gone.first.saturating_add(gone.frames);
    let mut one = Missing { from: number, to: number, frames, root: gone.root.clone(), chain: gone.chain.clone() };
    missing.retain(|other| {
        if other.to.saturating_add(1) == number {
            one.from = other.from;
        } else if other.from == number.saturating_add(1) {
            one = Missing { from: one.from, ..other.clone() };
        } else {
            return true;
        }
        false
    });
    missing.push(one);
    missing.sort_by_key(|one| one.from);
}

/// What is left of a stretch without others.
pub(super) fn subtract(from: (u64, u64), others: impl IntoIterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut left = vec![from];
    for (first, last) in others {
        let mut next = Vec::with_capacity(left.len());
        for (from, to) in left {
            if last < from || first > to {
                next.push((from, to));
                continue;
            }
            next.extend(
                first.checked_sub(1).filter(|before| *before >= from && first > from).map(|before| (from, before)),
            );
            next.extend(last.checked_add(1).filter(|after| *after <= to).map(|after| (after, to)));
        }
        left = next;
    }
    left
}

/// Numbers, ascending, as stretches of those in a row.
pub(super) fn stretches(numbers: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match all.last_mut() {
            Some((_, to)) if to.saturating_add(1) == number => *to = number,
            _ => all.push((number, number)),
        }
    }
    all
}

/// Stretches in words.
#[must_use]
pub fn words((from, to): (u64, u64)) -> String {
    if from == to { format!("segment {from}") } else { format!("segments {from} to {to}") }
}

/// Most stretches of a kind.
pub(super) const MOST_STRETCHES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_stretch() {
        assert_eq!(subtract((2, 9), [(0, 1), (10, 20)]), [(2, 9)]);
        assert_eq!(subtract((2, 9), [(4, 5), (9, 9)]), [(2, 3), (6, 8)]);
        assert!(subtract((0, u64::MAX), [(0, u64::MAX)]).is_empty());
        assert_eq!(subtract((0, 3), [(0, 0)]), [(1, 3)]);
        assert_eq!(stretches([1, 2, 4]), [(1, 2), (4, 4)]);
    }

    #[test]
    fn a_hold_wants_what_was_there_and_what_it_names_of_later() {
        let scope = Scope { segments: vec![(3, Some(20))], times: None };
        let held = Held { hold: "a".into(), scope, present: vec![(5, 7)], newest: 10 };
        assert_eq!(held.wants((0, 4)), None, "it was gone");
        assert_eq!((held.wants((0, 6)), held.wants((8, 10)), held.wants((0, 30))), (Some(5), None, Some(5)));
        assert_eq!((held.wants((8, 15)), held.wants((21, 30))), (Some(11), None));
    }

    #[test]
    fn what_is_lost_is_bounded_and_stays() {
        let mut ledger = Ledger::default();
        for number in 0..3000 {
            ledger.lose(Lost { from: number * 2, to: number * 2, found: Timestamp(1) });
        }
        assert_eq!(ledger.lost.len(), MOST_STRETCHES);
        assert!((0..3000).all(|number| ledger.unsaid((number * 2, number * 2)).is_empty()));
        let held = Held {
            hold: "a".into(),
            present: vec![(7, 7)],
            ..Held { hold: String::new(), scope: Scope::default(), present: Vec::new(), newest: 0 }
        };
        let gone = Missing { from: 0, to: 9, frames: 1, root: String::new(), chain: String::new() };
        let ledger = Ledger { missing: vec![gone], holds: vec![held], ..Ledger::default() };
        assert_eq!(ledger.unsaid((5, 11)), [(10, 11), (7, 7)]);
    }
}
