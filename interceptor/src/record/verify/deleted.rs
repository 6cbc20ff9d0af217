//! Segments that are not there, held against what is on record of them.
//!
//! Owns which stretches are missing, and which of them a record says were deleted. Such a record stands in a segment that is younger
//! than all that it names, and what follows a stretch has to go on from the very tree and chain that the record says it ends with. What
//! one record says was missing before has to be what the one before says, as far as that can be seen.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::record::event::{Event, hex};
use crate::record::format::Header;
use crate::record::ledger::{Gone, Ledger, subtract, words};
use crate::record::merkle::Tree;
use crate::record::retention::is_a_time;

/// All stretches so far, and what is on record.
#[derive(Debug)]
pub(super) struct Deletions {
    pub(super) stretches: Vec<Stretch>,
    ledger: Ledger,
    /// Whether what was said before can be seen.
    seen: bool,
    /// The latest record of a deletion by age: when, and in which frame.
    aged: Option<(Timestamp, u64)>,
}

impl Default for Deletions {
    fn default() -> Self {
        Self { stretches: Vec::new(), ledger: Ledger::default(), seen: true, aged: None }
    }
}

/// Segments in a row that are not there.
#[derive(Debug)]
pub(super) struct Stretch {
    pub(super) from: u64,
    pub(super) to: u64,
    /// The first frame that is not there, and the first that is again.
    pub(super) frames: (u64, u64),
    root: String,
    chain: String,
    /// When what follows was begun.
    created: Timestamp,
    /// By a record of a deletion, and by one of what is kept.
    deleted: Option<Said>,
    kept: Option<Said>,
}

/// When, why, and in which frame it is said.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) time: Timestamp,
    pub(super) reason: String,
    pub(super) frame: u64,
}

impl Deletions {
    /// Segments from that one on, and frames, are not there before the one with that header.
    pub(super) fn missing(&mut self, from: u64, frame: u64, header: &Header, tree: &Tree) {
        self.seen = false;
        self.stretches.push(Stretch {
            from,
            to: header.segment.saturating_sub(1),
            frames: (frame, header.first),
            root: hex(&tree.root()),
            chain: hex(&header.chain),
            created: header.created,
            deleted: None,
            kept: None,
        });
    }

    /// The first frame of a segment. What does not begin with it, had nothing of the kind before it.
    pub(super) fn begins(&mut self, event: Option<&Event>) {
        if !self.seen && !matches!(event, Some(Event::Kept(_))) {
            self.ledger = Ledger { lost: std::mem::take(&mut self.ledger.lost), ..Ledger::default() };
            self.seen = true;
        }
    }

    /// A frame is of that time. Gives what is wrong with it.
    pub(super) fn time(&mut self, time: Timestamp) -> Option<String> {
        let (then, frame) = self.aged.filter(|(then, _)| is_a_time(&time) && time.plus(AN_HOUR) < *then)?;
        self.aged = None;
        Some(format!(
            "it is of a time before frame {frame}, which says that segments were old enough at {then}: the clock had been set ahead, or was set back"
        ))
    }

    /// A record says something of what is missing, or held. Gives what is wrong with that.
    pub(super) fn record(&mut self, (frame, time): (u64, Timestamp), event: &Event) -> Vec<String> {
        let mut wrong = Vec::new();
        match event {
            Event::Deleted { segments, before, .. } => {
                self.goes_on(before, &mut wrong);
                segments.iter().for_each(|gone| self.may_go(gone, time, &mut wrong));
                if segments.iter().any(|gone| gone.rule.days() > 0) {
                    self.aged = Some((time, frame));
                }
            }
            Event::Kept(ledger) => self.goes_on(ledger, &mut wrong),
            _ => {}
        }
        let lost = std::mem::take(&mut self.ledger.lost);
        self.ledger.apply(event);
        lost.into_iter().for_each(|one| self.ledger.lose(one));
        self.seen = true;
        match event {
            Event::Deleted { reason, segments, .. } => {
                let said = Said { time, reason: reason.clone(), frame };
                for stretch in self.stretches.iter_mut().filter(|stretch| stretch.deleted.is_none()) {
                    if stretch.is_said(&self.ledger, segments) {
                        wrong.extend(stretch.ended_later(segments));
                        stretch.deleted = Some(said.clone());
                    }
                }
            }
            Event::Kept(_) => {
                let said = Said { time, reason: "they were deleted before that".to_owned(), frame };
                for stretch in self.stretches.iter_mut().filter(|stretch| stretch.kept.is_none()) {
                    stretch.kept = stretch.is_said(&self.ledger, &[]).then(|| said.clone());
                }
            }
            _ => {}
        }
        wrong
    }

    /// What is said to be missing, and held, has to be what was said before.
    fn goes_on(&self, next: &Ledger, wrong: &mut Vec<String>) {
        if !self.seen {
            return;
        }
        let unsaid = next.deleted().flat_map(|stretch| subtract(stretch, self.ledger.deleted())).next();
        wrong.extend(unsaid.map(|stretch| {
            format!("{} were missing then, and no record before says that they were deleted", words(stretch))
        }));
        let dropped = self.ledger.holds.iter().find(|held| !next.holds.contains(held));
        wrong.extend(
            dropped.map(|held| format!("the hold {} is not there any more, and nobody has ended it", held.hold)),
        );
    }

    /// Whether the stated rule lets a segment go.
    fn may_go(&self, gone: &Gone, time: Timestamp, wrong: &mut Vec<String>) {
        let number = gone.segment;
        let held = self
            .ledger
            .holds
            .iter()
            .find(|held| held.scope.hold(number, gone.begun, gone.ended) || held.wants((number, number)).is_some());
        wrong.extend(held.map(|held| format!("segment {number} was deleted although {} held it", held.hold)));
        let least = A_DAY.saturating_mul(gone.rule.days());
        if time.plus(A_MINUTE).since(gone.ended) < least {
            let (ended, days) = (gone.ended, gone.rule.days());
            wrong.push(format!("segment {number} was deleted although it ended at {ended}, not {days} days before"));
        }
    }

    /// Stretches that are held, or were found missing, once all is read: the first frame that is missing, the segment, and the words.
    pub(super) fn wrong(&self) -> Vec<(u64, u64, String)> {
        let mut wrong = Vec::new();
        let frame = |number: u64| {
            let within = self.stretches.iter().find(|stretch| (stretch.from..=stretch.to).contains(&number));
            within.map_or(0, |stretch| stretch.frames.0)
        };
        for lost in &self.ledger.lost {
            let text = format!(
                "{} were found missing at {}, and no record says that they were deleted",
                words((lost.from, lost.to)),
                lost.found
            );
            wrong.push((frame(lost.from), lost.from, text));
        }
        for stretch in &self.stretches {
            for held in &self.ledger.holds {
                if let Some(number) = held.wants((stretch.from, stretch.to)) {
                    let text = format!("segment {number} is missing although {} holds it", held.hold);
                    wrong.push((stretch.frames.0, number, text));
                }
            }
        }
        wrong
    }
}

impl Stretch {
    /// The record that says, signed, that it was deleted.
    pub(super) fn said(&self, signed: u64) -> Option<&Said> {
        let signed = |said: &&Said| said.frame < signed;
        self.deleted.as_ref().filter(signed).or_else(|| self.kept.as_ref().filter(signed))
    }

    /// Whether a record says of all of it why it is not there, and that it ends as what follows it goes on.
    fn is_said(&self, ledger: &Ledger, segments: &[Gone]) -> bool {
        let end = (self.frames.1, &self.root, &self.chain);
        let missing = ledger.missing.iter().filter(|one| one.to == self.to);
        let mut of_missing = missing.map(|one| (one.frames, &one.root, &one.chain)).peekable();
        let of_segment = segments.iter().filter(|gone| gone.segment == self.to);
        let mut of_segment =
            of_segment.map(|gone| (gone.first.saturating_add(gone.frames), &gone.root, &gone.chain)).peekable();
        // The end of what lies within a longer one is said by nobody: what is there behind it goes on to the end of that.
        let unknown = of_missing.peek().is_none() && of_segment.peek().is_none();
        let ends = unknown || of_missing.chain(of_segment).any(|said| said == end);
        ends && ledger.unsaid((self.from, self.to)).is_empty()
    }

    /// What follows says that it was begun later than the record says that this ended.
    fn ended_later(&self, segments: &[Gone]) -> Option<String> {
        let gone = segments.iter().find(|gone| gone.segment == self.to)?;
        (self.created > gone.ended).then(|| {
            let (number, ended, created) = (gone.segment, gone.ended, self.created);
            format!("segment {number} ended at {ended}, it says, and the next one was begun at {created}")
        })
    }
}

const A_MINUTE: Duration = Duration::from_secs(60);
const AN_HOUR: Duration = Duration::from_secs(3600);
const A_DAY: Duration = Duration::from_secs(24 * 3600);
