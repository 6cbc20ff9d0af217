//! How much of the past is kept, and what is not: segments that are closed, the oldest first, and never without a word.
//!
//! Owns which segments there are, how large they are and what each ends with, and which of them may go. Whoever removes some puts that
//! on record first (see [`Event::Deleted`](super::Event::Deleted)): `verify` takes that record, and nothing else, for the
//! reason why they are not there. Ages are by the host's clock. Not owned: removing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Event, hex};
use super::format::Header;
use super::hold::Holds;
use super::ledger::{self, Gone, Ledger, Lost, MOST_STRETCHES, Rule};
use super::merkle::{Hash, Tree};
use super::scan::{Scan, Step};
use super::sink;
use crate::clock::Timestamp;

/// `[record.retention]`: without it nothing is ever deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Segments whose last frame is older than that are deleted. 0: none for its age.
    pub max_age_days: u32,
    /// Bytes that all segments may have together. 0: as many as the file system takes.
    pub max_bytes: u64,
    /// What happens where they have as many, or the file system has no more than `record.free_space_floor` left.
    pub at_limit: AtLimit,
    /// Nothing younger is deleted to make room: else an agent that says much would push out what it did before.
    pub min_age_days: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_age_days: 0, max_bytes: 0, at_limit: AtLimit::Refuse, min_age_days: 7 }
    }
}

/// What happens at the bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AtLimit {
    /// Nothing is recorded, so that governed commands are refused.
    #[default]
    Refuse,
    /// The oldest segments are deleted; where none may be, the same.
    DeleteOldest,
}

impl Config {
    /// Says what is wrong with the values.
    pub(super) fn validate(&self, segment_bytes: u64) -> Result<(), String> {
        if self.max_bytes != 0 && self.max_bytes < segment_bytes.saturating_mul(LEAST_SEGMENTS) {
            return Err(format!("max_bytes: at least {LEAST_SEGMENTS} times record.segment_bytes, or 0"));
        }
        Ok(())
    }

    /// How long a segment that is not full may stay open, so that it can be deleted at all.
    pub(super) fn longest_open(&self) -> Option<Duration> {
        (self.max_age_days != 0).then_some(DAY)
    }
}

/// What the spool holds, and how each closed segment ends.
#[derive(Debug, Default)]
pub(super) struct Stock {
    closed: BTreeMap<u64, Closed>,
    /// Bytes of them.
    bytes: u64,
    /// When it is looked next for some that are to be removed.
    sweep_at: Duration,
    /// Those that are being removed.
    going: BTreeMap<u64, Closed>,
    /// What is on record.
    pub(super) ledger: Ledger,
    pub(super) holds: Holds,
    /// The latest time that a segment was begun at.
    latest: Timestamp,
    /// What has to be put on record, before anything else is deleted.
    pub(super) owed: Vec<Event>,
    /// Whether all of it has to be said again then: something that says other things is there, and nobody has signed it.
    pub(super) restate: bool,
}

/// A segment that nobody writes to any more.
#[derive(Debug)]
struct Closed {
    bytes: u64,
    first: u64,
    begun: Timestamp,
    ended: Timestamp,
    end: End,
    /// How often it could not be removed, and when that is tried again.
    stuck: (u32, Duration),
}

#[derive(Debug)]
enum End {
    Known(Ends),
    /// Nothing follows it any more: it has to be read.
    Unread,
    /// It cannot be read: that is evidence, and stays.
    Unreadable,
}

#[derive(Debug)]
struct Ends {
    frames: u64,
    root: Hash,
    chain: Hash,
}

/// What decides what is to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) time: Timestamp,
    /// Whether that can be known to be right.
    pub(super) right: bool,
    /// Bytes that are wanted.
    pub(super) room: u64,
}

impl Stock {
    /// Looks at what lies in the directory before the open segment, whose header is given, and holds it against what is on record.
    /// Reads the beginnings alone.
    pub(super) fn look(directory: &Path, open: &Header, on_record: Ledger, now: Timestamp) -> io::Result<Self> {
        let numbers = sink::segments(directory)?.into_iter().filter(|number| *number < open.segment);
        let found: Vec<(u64, u64, Option<Header>)> = numbers
            .map(|number| {
                let path = sink::segment_path(directory, number);
                let bytes = fs::metadata(&path).map_or(0, |found| found.len());
                let header = beginning(&path, number).unwrap_or_default();
                if header.is_none() {
                    tracing::error!(segment = number, "a segment cannot be read: it is not deleted, whatever its age");
                }
                (number, bytes, header)
            })
            .collect();
        let holds = Holds::of(directory, &on_record);
        let mut stock = Self { holds, ledger: on_record, ..Self::default() };
        let mut times = Vec::with_capacity(found.len());
        for at in 0..found.len() {
            let next = found.get(at.saturating_add(1)).map_or(Some(open), |(.., header)| header.as_ref());
            let begun = found.get(at).and_then(|(.., header)| header.as_ref()).map(|header| header.created);
            for created in begun.into_iter().chain(next.map(|next| next.created)).filter(is_a_time) {
                stock.latest = stock.latest.max(created);
            }
            times.push(stock.latest);
        }
        stock.latest = stock.latest.max(Some(open.created).filter(is_a_time).unwrap_or_default());
        stock.add_all(found, times, open, now);
        let unrecorded = stock.holds.unrecorded(&stock.ledger).into_iter();
        let held: Vec<Event> = unrecorded.map(|hold| Event::Held(stock.held(hold, open))).collect();
        stock.owed.extend(held);
        Ok(stock)
    }

    /// Adds what was found, the newest first, and says what is not there.
    fn add_all(
        &mut self,
        found: Vec<(u64, u64, Option<Header>)>,
        times: Vec<Timestamp>,
        open: &Header,
        now: Timestamp,
    ) {
        let mut lost = Vec::new();
        let mut follows = (open.segment, Some(open.clone()));
        // The next one that is a time.
        let mut time = Some(open.created).filter(is_a_time);
        for ((number, bytes, header), latest) in found.into_iter().zip(times).rev() {
            let next = number.saturating_add(1);
            lost.extend(self.unsaid(next, &follows));
            if let Some(created) = follows.1.as_ref().map(|header| header.created).filter(is_a_time) {
                time = Some(created);
            }
            let end = match (&header, &follows.1) {
                (None, _) => End::Unreadable,
                (Some(_), Some(header)) if next == follows.0 => {
                    Ends::before(header).map_or(End::Unreadable, End::Known)
                }
                _ => End::Unread,
            };
            // Without any time it is not known how old it is: it is not.
            let ended = time.map_or(Timestamp(i64::MAX), |time| time.max(latest));
            let (first, begun) = header.as_ref().map_or((0, Timestamp(0)), |header| (header.first, header.created));
            let begun = follows.1.as_ref().map_or(begun, |follows| begun.min(follows.created));
            self.add(number, Closed { bytes, first, begun, ended, end, stuck: (0, Duration::ZERO) });
            follows = (number, header);
        }
        lost.extend(self.unsaid(0, &follows));
        if lost.is_empty() {
            return;
        }
        let stretches: Vec<Lost> = lost.into_iter().map(|(from, to)| Lost { from, to, found: now }).collect();
        tracing::error!(?stretches, "segments are missing, and no record says that they were deleted");
        self.owed.push(Event::FoundMissing { stretches });
    }

    /// Of the segments from one to before another, those of which nothing says why they are missing.
    fn unsaid(&self, from: u64, (number, header): &(u64, Option<Header>)) -> Vec<(u64, u64)> {
        let Some(to) = number.checked_sub(1).filter(|to| *to >= from) else { return Vec::new() };
        // What follows has to go on from the end that was said.
        let other_end =
            header.as_ref().and_then(|header| Some((header, Ends::before(header)?))).is_some_and(|(_, ends)| {
                let said = self.ledger.missing.iter().filter(|one| one.to == to);
                said.clone().count() > 0
                    && !said.clone().any(|one| {
                        (one.frames, &one.root, &one.chain) == (ends.frames, &hex(&ends.root), &hex(&ends.chain))
                    })
            });
        if other_end {
            return ledger::subtract((from, to), self.ledger.lost());
        }
        self.ledger.unsaid((from, to))
    }

    /// The open segment was closed, and another follows.
    pub(super) fn close(&mut self, (header, bytes): (&Header, u64), follows: &Header) {
        let created = [header.created, follows.created].into_iter().filter(is_a_time).max();
        self.latest = self.latest.max(created.unwrap_or_default());
        let ended = if is_a_time(&follows.created) { self.latest } else { Timestamp(i64::MAX) };
        let end = Ends::before(follows).map_or(End::Unreadable, End::Known);
        let begun = header.created.min(follows.created);
        self.add(header.segment, Closed { bytes, first: header.first, begun, ended, end, stuck: (0, Duration::ZERO) });
    }

    fn add(&mut self, number: u64, closed: Closed) {
        self.bytes = self.bytes.saturating_add(closed.bytes);
        self.closed.insert(number, closed);
    }

    /// Bytes of closed segments.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A hold, with what of it is there.
    pub(super) fn held(&self, (hold, scope): (String, super::hold::Scope), open: &Header) -> ledger::Held {
        let closed = self.closed.iter().filter(|(number, one)| scope.hold(**number, one.begun, one.ended));
        let is_open = scope.hold(open.segment, open.created, Timestamp(i64::MAX)).then_some(open.segment);
        let present = ledger::stretches(closed.map(|(number, _)| *number).chain(is_open));
        ledger::Held { hold, scope, present, newest: open.segment }
    }

    /// Of segments that a hold names, those that are gone.
    pub(super) fn gone(&self, scope: &super::hold::Scope, open: u64) -> Vec<(u64, u64)> {
        let there = ledger::stretches(self.closed.keys().copied().chain([open]));
        let named = scope.segments.iter().map(|(from, to)| (*from, to.unwrap_or(open).min(open)));
        let named = named.filter(|(from, to)| from <= to);
        named.flat_map(|stretch| ledger::subtract(stretch, there.iter().copied())).take(MOST_STRETCHES).collect()
    }

    fn is_held(&self, number: u64, closed: &Closed) -> bool {
        // What a hold says on record to be there stays, whatever its times turn out to be.
        let is_named = |held: &ledger::Held| held.wants((number, number)).is_some();
        self.holds.hold(number, closed.begun, closed.ended) || self.ledger.holds.iter().any(is_named)
    }

    /// Those of which it is on record that they go, and that are there.
    fn announced(&self) -> impl Iterator<Item = (u64, &Closed)> {
        let said = |number| self.ledger.says_deleted(number);
        let all = self.closed.iter().map(|(number, closed)| (*number, closed));
        all.filter(move |(number, closed)| said(*number) && !self.is_held(*number, closed))
    }

    /// What may go now, and by which rules: for its age, or, where room is wanted, to make that much. What is about to go already
    /// makes room, where it can be removed.
    pub(super) fn plan(&mut self, directory: &Path, config: &Config, now: Now) -> Option<Event> {
        let going: Vec<(u64, bool)> = self.announced().map(|(_, one)| (one.bytes, one.stuck.0 == 0)).collect();
        let most = MOST_AT_ONCE.saturating_sub(going.len());
        let mut freed: u64 = going.iter().filter(|(_, goes)| *goes).map(|(bytes, _)| *bytes).sum();
        freed = freed.saturating_add(self.going.values().map(|one| one.bytes).sum());
        let (mut segments, mut missing, mut read) = (Vec::new(), self.ledger.missing.clone(), false);
        let numbers: Vec<u64> = self.closed.keys().copied().collect();
        for number in numbers {
            let Some(closed) = self.closed.get(&number) else { continue };
            let passed = matches!(closed.end, End::Unreadable) || self.is_held(number, closed);
            if passed || self.ledger.says_deleted(number) {
                continue;
            }
            let age = now.time.since(closed.ended);
            let of_age = |days: u32| age >= DAY.saturating_mul(days) && now.right;
            let rule = if config.max_age_days != 0 && of_age(config.max_age_days) {
                Rule::Age(config.max_age_days)
            } else if freed < now.room && (config.min_age_days == 0 || of_age(config.min_age_days)) {
                Rule::Room(config.min_age_days)
            } else {
                break;
            };
            if segments.len() >= most {
                break;
            }
            // One at a time: others wait meanwhile.
            if matches!(closed.end, End::Unread)
                && (std::mem::replace(&mut read, true) || !self.read(directory, number))
            {
                continue;
            }
            let Some((gone, bytes)) =
                self.closed.get(&number).and_then(|one| Some((one.gone(number, rule)?, one.bytes)))
            else {
                continue;
            };
            let mut wider = missing.clone();
            ledger::widen(&mut wider, &gone);
            if wider.len() > MOST_STRETCHES {
                continue;
            }
            missing = wider;
            freed = freed.saturating_add(bytes);
            segments.push(gone);
        }
        let mut rules: Vec<String> = Vec::new();
        for words in segments.iter().map(|gone| gone.rule.words()) {
            if !rules.contains(&words) {
                rules.push(words);
            }
        }
        let (reason, before) = (rules.join("; "), self.ledger.clone());
        (!segments.is_empty()).then_some(Event::Deleted { reason, segments, before })
    }

    /// Bytes of what may go where room is wanted.
    pub(super) fn deletable(&self, config: &Config, now: Now) -> u64 {
        if config.at_limit == AtLimit::Refuse {
            return 0;
        }
        let least = DAY.saturating_mul(config.min_age_days);
        let may = |number: u64, closed: &Closed| {
            let old = config.min_age_days == 0 || now.right && now.time.since(closed.ended) >= least;
            old && closed.stuck.0 == 0 && !matches!(closed.end, End::Unreadable) && !self.is_held(number, closed)
        };
        let all = self.closed.iter().filter(|(number, closed)| may(**number, closed));
        all.map(|(_, closed)| closed.bytes).fold(0, u64::saturating_add)
    }

    /// Reads how a segment ends. False where it cannot be read.
    fn read(&mut self, directory: &Path, number: u64) -> bool {
        let found = Ends::read(&sink::segment_path(directory, number)).unwrap_or_default();
        let Some(closed) = self.closed.get_mut(&number) else { return false };
        closed.end = found.map_or(End::Unreadable, End::Known);
        matches!(closed.end, End::Known(_))
    }

    /// Takes some of those that are to be removed; each comes back by [`Stock::removed`].
    pub(super) fn doomed(&mut self, now: Duration, most: usize) -> Vec<u64> {
        if now < self.sweep_at {
            return Vec::new();
        }
        let due = self.announced().filter(|(_, closed)| closed.stuck.1 <= now);
        let due: Vec<u64> = due.map(|(number, _)| number).take(most).collect();
        if due.is_empty() {
            self.sweep_at = self.announced().map(|(_, closed)| closed.stuck.1).min().unwrap_or(Duration::MAX);
        }
        for number in &due {
            if let Some(closed) = self.closed.remove(number) {
                self.going.insert(*number, closed);
            }
        }
        due
    }

    /// What is on record, or held, has changed: something may be to be removed.
    pub(super) const fn changed(&mut self) {
        self.sweep_at = Duration::ZERO;
    }

    /// One of these is gone, or cannot be removed: it is put aside, for ever longer.
    pub(super) fn removed(&mut self, number: u64, gone: bool, now: Duration) {
        let Some(mut closed) = self.going.remove(&number) else { return };
        if gone {
            self.bytes = self.bytes.saturating_sub(closed.bytes);
            return;
        }
        let tries = closed.stuck.0.saturating_add(1);
        let rest = LEAST_REST.saturating_mul(1 << tries.saturating_sub(1).min(6)).min(MOST_REST);
        closed.stuck = (tries, now.saturating_add(rest));
        self.closed.insert(number, closed);
    }
}

impl Closed {
    fn gone(&self, segment: u64, rule: Rule) -> Option<Gone> {
        let End::Known(ends) = &self.end else { return None };
        Some(Gone {
            segment,
            first: self.first,
            frames: ends.frames.saturating_sub(self.first),
            bytes: self.bytes,
            begun: self.begun,
            ended: self.ended,
            root: hex(&ends.root),
            chain: hex(&ends.chain),
            rule,
        })
    }
}

impl Ends {
    /// Of what the segment with that header follows.
    fn before(follows: &Header) -> Option<Self> {
        let root = Tree::from_parts(follows.first, follows.subtrees.clone())?.root();
        Some(Self { frames: follows.first, root, chain: follows.chain })
    }

    /// Reads a segment to its end.
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let mut scan = Scan::new(File::open(path)?);
        let Ok((header, digest)) = scan.header()? else { return Ok(None) };
        let Some(mut tree) = Tree::from_parts(header.first, header.subtrees) else { return Ok(None) };
        let mut chain = digest;
        loop {
            match scan.step()? {
                Step::Entry(entry, hashes, _) if hashes.follows(&chain) => {
                    chain = hashes.chain;
                    if entry.kind == super::format::Kind::Frame {
                        tree.push(hashes.leaf);
                    }
                }
                Step::End => break,
                _ => return Ok(None),
            }
        }
        Ok(Some(Self { frames: tree.size(), root: tree.root(), chain }))
    }
}

/// The header of a segment, where it is that of this number, and what stands first follows it.
fn beginning(path: &Path, number: u64) -> io::Result<Option<Header>> {
    let mut scan = Scan::of_beginning(File::open(path)?);
    let Ok((header, digest)) = scan.header()? else { return Ok(None) };
    let follows = match scan.step()? {
        Step::Entry(_, hashes, _) => hashes.follows(&digest),
        Step::End => true,
        _ => false,
    };
    // The wrapped key is not looked at.
    Ok((follows && header.segment == number).then(|| Header { sealing: Vec::new(), ..header }))
}

/// Whether a host could know what time it was.
pub(super) fn is_a_time(time: &Timestamp) -> bool {
    *time >= Timestamp::from_unix(BEFORE_ALL)
}

const DAY: Duration = Duration::from_secs(24 * 3600);
/// The first second of 2025: what was before, a host without a clock has said.
const BEFORE_ALL: i64 = 1_735_689_600;
/// The least that `max_bytes` holds.
const LEAST_SEGMENTS: u64 = 4;
/// Most segments that are on record as deleted, and still there.
const MOST_AT_ONCE: usize = 64;
/// How long what cannot be removed is left alone, at first and at most.
const LEAST_REST: Duration = Duration::from_secs(60);
const MOST_REST: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
