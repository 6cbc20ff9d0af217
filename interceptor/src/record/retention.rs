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

use super::event::hex;
use super::format::Header;
use super::hold::Holds;
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

/// A segment that was deleted.
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
    /// When it was closed.
    pub ended: Timestamp,
    /// Root of the tree at its end, hexadecimal.
    pub root: String,
    /// Chain at its end, hexadecimal.
    pub chain: String,
}

/// Segments in a row that are not there any more: what the one that follows goes on from.
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

/// What the spool holds, and how each closed segment ends.
#[derive(Debug, Default)]
pub(super) struct Stock {
    closed: BTreeMap<u64, Closed>,
    /// Bytes of them.
    bytes: u64,
    missing: Vec<Missing>,
    pub(super) holds: Holds,
}

/// A segment that nobody writes to any more.
#[derive(Debug)]
struct Closed {
    bytes: u64,
    /// None where it cannot be read: that is evidence, and stays.
    ends: Option<Ends>,
}

#[derive(Debug)]
struct Ends {
    first: u64,
    begun: Timestamp,
    ended: Timestamp,
    frames: u64,
    root: Hash,
    chain: Hash,
}

/// What is to go, and what is not there once it has gone.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) reason: String,
    pub(super) segments: Vec<Gone>,
    pub(super) missing: Vec<Missing>,
}

impl Stock {
    /// Looks at what lies in the directory before the open segment, whose header is given. Reads headers alone, but of what has no
    /// neighbour any more.
    pub(super) fn look(directory: &Path, open: &Header) -> io::Result<Self> {
        let mut stock = Self { holds: Holds::of(directory), ..Self::default() };
        let (mut after, mut follows) = (open.segment, Some(open.clone()));
        for number in sink::segments(directory)?.into_iter().rev().filter(|number| *number < open.segment) {
            let path = sink::segment_path(directory, number);
            let bytes = fs::metadata(&path)?.len();
            let header = Scan::new(File::open(&path)?).header()?.ok().map(|(header, _)| header);
            let next = number.saturating_add(1);
            let ends = match (&header, &follows) {
                (Some(header), Some(follows)) if next == after => Ends::before(header, follows),
                (Some(header), follows) if next != after => {
                    Ends::read(&path, header, follows.as_ref().map_or(open.created, |follows| follows.created))?
                }
                _ => None,
            };
            if ends.is_none() {
                tracing::error!(segment = number, "a segment cannot be read: it is not deleted, whatever its age");
            }
            stock.missing.extend(follows.as_ref().and_then(|follows| missing(next, follows)));
            stock.add(number, Closed { bytes, ends });
            (after, follows) = (number, header);
        }
        stock.missing.extend(follows.as_ref().and_then(|first| missing(0, first)));
        stock.missing.sort_by_key(|one| one.from);
        Ok(stock)
    }

    /// The open segment was closed, and another follows.
    pub(super) fn close(&mut self, (header, bytes): (&Header, u64), follows: &Header) {
        self.add(header.segment, Closed { bytes, ends: Ends::before(header, follows) });
    }

    fn add(&mut self, number: u64, closed: Closed) {
        self.bytes = self.bytes.saturating_add(closed.bytes);
        self.closed.insert(number, closed);
    }

    /// Bytes of closed segments.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What may go now: for its age, or, where `room` bytes are wanted, to make that much.
    pub(super) fn plan(&self, config: &Config, now: Timestamp, room: u64) -> Option<Plan> {
        let (mut segments, mut freed, mut aged, mut missing) = (Vec::new(), 0u64, false, self.missing.clone());
        for (number, closed) in &self.closed {
            let Some(ends) = closed.ends.as_ref().filter(|ends| !self.holds.hold(*number, ends.begun, ends.ended))
            else {
                continue;
            };
            let age = now.since(ends.ended);
            let is_old = config.max_age_days != 0 && age >= days(config.max_age_days);
            let makes_room = freed < room && age >= days(config.min_age_days);
            if segments.len() >= MOST_AT_ONCE || !(is_old || makes_room) {
                break;
            }
            let mut wider = missing.clone();
            widen(&mut wider, *number, ends);
            if wider.len() > MOST_MISSING {
                continue;
            }
            missing = wider;
            aged |= is_old;
            freed = freed.saturating_add(closed.bytes);
            segments.push(ends.gone(*number, closed.bytes));
        }
        let age = format!("record.retention.max_age_days = {}", config.max_age_days);
        let reason =
            if aged { age } else { "there is no more room, and record.retention.at_limit = delete_oldest".into() };
        (!segments.is_empty()).then_some(Plan { reason, segments, missing })
    }

    /// One of a plan is gone.
    pub(super) fn forget(&mut self, number: u64) {
        let Some(closed) = self.closed.remove(&number) else { return };
        self.bytes = self.bytes.saturating_sub(closed.bytes);
        if let Some(ends) = &closed.ends {
            widen(&mut self.missing, number, ends);
        }
    }
}

impl Ends {
    /// Of the segment with that header, which another follows.
    fn before(header: &Header, follows: &Header) -> Option<Self> {
        let root = Tree::from_parts(follows.first, follows.subtrees.clone())?.root();
        Some(Self {
            first: header.first,
            begun: header.created,
            ended: follows.created,
            frames: follows.first,
            root,
            chain: follows.chain,
        })
    }

    /// Reads it to its end.
    fn read(path: &Path, header: &Header, ended: Timestamp) -> io::Result<Option<Self>> {
        let mut scan = Scan::new(File::open(path)?);
        let Ok((_, digest)) = scan.header()? else { return Ok(None) };
        let Some(mut tree) = Tree::from_parts(header.first, header.subtrees.clone()) else { return Ok(None) };
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
        let (first, begun) = (header.first, header.created);
        Ok(Some(Self { first, begun, ended, frames: tree.size(), root: tree.root(), chain }))
    }

    fn gone(&self, segment: u64, bytes: u64) -> Gone {
        Gone {
            segment,
            first: self.first,
            frames: self.frames.saturating_sub(self.first),
            bytes,
            begun: self.begun,
            ended: self.ended,
            root: hex(&self.root),
            chain: hex(&self.chain),
        }
    }
}

/// All from a segment on that are not there before the one with that header.
fn missing(from: u64, follows: &Header) -> Option<Missing> {
    let to = follows.segment.checked_sub(1).filter(|to| *to >= from)?;
    let root = Tree::from_parts(follows.first, follows.subtrees.clone())?.root();
    Some(Missing { from, to, frames: follows.first, root: hex(&root), chain: hex(&follows.chain) })
}

/// One more is not there; neighbours become one.
fn widen(missing: &mut Vec<Missing>, number: u64, ends: &Ends) {
    let mut one =
        Missing { from: number, to: number, frames: ends.frames, root: hex(&ends.root), chain: hex(&ends.chain) };
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

fn days(count: u32) -> Duration {
    DAY.saturating_mul(count)
}

const DAY: Duration = Duration::from_secs(24 * 3600);
/// The least that `max_bytes` holds.
const LEAST_SEGMENTS: u64 = 4;
/// Most segments that one record says were deleted.
const MOST_AT_ONCE: usize = 64;
/// Most stretches that may be missing; more come of holds alone.
const MOST_MISSING: usize = 1024;

#[cfg(test)]
mod tests;
