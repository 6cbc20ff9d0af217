//! What the spool keeps: saying what may go, before it does, and holding what must stay.

use std::io;
use std::time::Duration;

use super::{Spool, len64};
use crate::clock::Timestamp;
use crate::record::event::Event;
use crate::record::hold::{Change, Changed, Hold, Holds};
use crate::record::retention::{self, AtLimit, Now};
use crate::record::sink::Remover;
use crate::telemetry::SessionId;

impl Spool {
    /// Bytes of all segments.
    pub(in crate::record) const fn bytes(&self) -> u64 {
        self.stock.bytes().saturating_add(self.length)
    }

    /// Bytes of segments that may be deleted for room, as it was when it was looked last.
    pub(in crate::record) const fn deletable(&self) -> u64 {
        self.deletable
    }

    /// Says what is too old, or in the way, where it is time to look; `now` also where it is not. Nothing may be staged.
    ///
    /// That it goes is on record, signed, and on the disk before it does: then it is among [`Spool::doomed`], until it is gone, and is
    /// not said again.
    pub(in crate::record) fn retain(&mut self, now: bool) -> io::Result<()> {
        self.pay()?;
        let time = self.clock.monotonic();
        if !now && time < self.retain_at {
            return Ok(());
        }
        self.retain_at = time.saturating_add(LOOK_EVERY);
        let right = self.trust()?;
        let now = Now { time: self.clock.now(), right, room: self.wanted_room()? };
        self.deletable = self.stock.deletable(&self.retention, now);
        if self.beyond.is_spent(time) {
            return Ok(());
        }
        let Some(event) = self.stock.plan(&self.directory, &self.retention, now) else { return Ok(()) };
        if let Event::Deleted { reason, segments, .. } = &event {
            let numbers: Vec<u64> = segments.iter().map(|gone| gone.segment).collect();
            tracing::info!(segments = ?numbers, %reason, "segments are deleted");
        }
        self.record(&event)?;
        // There may be more.
        self.retain_at = time;
        Ok(())
    }

    /// Some segments that are to be removed, and who does that. What became of each is for [`Spool::removed`].
    pub(in crate::record) fn doomed(&mut self) -> Option<(Vec<u64>, Box<dyn Remover>)> {
        let numbers = self.stock.doomed(self.clock.monotonic(), MOST_AT_A_TIME);
        (!numbers.is_empty()).then(|| (numbers, self.sink.remover()))
    }

    /// What became of segments that were to be removed.
    pub(in crate::record) fn removed(&mut self, outcome: Vec<(u64, io::Result<()>)>) {
        for (number, result) in outcome {
            if let Err(error) = &result {
                tracing::error!(segment = number, %error, "a segment cannot be deleted: it is tried again later");
            }
            self.stock.removed(number, result.is_ok(), self.clock.monotonic());
        }
        self.stock.changed();
        self.space_checked = None;
        self.retain_at = self.clock.monotonic();
    }

    /// Makes room at once, for somebody who waits for it. Whether anything was removed.
    pub(in crate::record) fn make_room(&mut self) -> io::Result<bool> {
        self.retain(true)?;
        let mut made = false;
        for _ in 0..ROUNDS_AT_ONCE {
            let Some((numbers, remover)) = self.doomed() else { break };
            let outcome = remove(numbers, remover);
            made |= outcome.iter().any(|(_, result)| result.is_ok());
            self.removed(outcome);
        }
        Ok(made)
    }

    /// Holds something, or lets go of it.
    pub(in crate::record) fn change(&mut self, change: Change, by: &str) -> io::Result<Changed> {
        self.discard();
        if self.stock.holds.is_unknown() {
            self.stock.holds = Holds::of(&self.directory, &self.stock.ledger);
            self.stock.changed();
        }
        match change {
            Change::Hold(hold) => self.hold(hold, by),
            Change::Release(id) => self.release(&id, by).map(|done| Changed { done, gone: Vec::new() }),
        }
    }

    /// Holds what the hold is of, from now on. It is held, once it is in the file, even where that cannot be put on record.
    fn hold(&mut self, hold: Hold, by: &str) -> io::Result<Changed> {
        let all = self.stock.holds.with(hold.clone()).map_err(io::Error::other)?;
        let held = self.stock.held((hold.id.clone(), hold.scope.clone()), &self.header);
        let stretches: usize = self.stock.ledger.holds.iter().map(|one| one.present.len()).sum();
        if stretches.saturating_add(held.present.len()) > MOST_PRESENT {
            return Err(io::Error::other(format!("what is held has more than {MOST_PRESENT} stretches of segments")));
        }
        // Also where that fails halfway, and it stands in the file.
        let stored = all.store(&self.directory);
        self.stock.holds = all;
        stored?;
        let gone = self.stock.gone(&hold.scope, self.header.segment);
        self.stock.owed.push(Event::Held(held));
        self.pay()?;
        self.note(format!("{by} holds {} as {}: {}", hold.of, hold.id, hold.reason))?;
        Ok(Changed { done: true, gone })
    }

    /// Ends a hold, once that is on record. False where there is none of that name.
    fn release(&mut self, id: &str, by: &str) -> io::Result<bool> {
        let Some((rest, words)) = self.stock.holds.without(id) else { return Ok(false) };
        self.pay()?;
        self.note(format!("{by} ends the hold {id} {words}"))?;
        self.record(&Event::Released { hold: id.to_owned() })?;
        rest.store(&self.directory)?;
        self.stock.holds = rest;
        self.stock.changed();
        Ok(true)
    }

    /// Puts on record what has to be before anything else is deleted.
    fn pay(&mut self) -> io::Result<()> {
        while let Some(event) = self.stock.owed.first().cloned() {
            self.record(&event)?;
            self.stock.owed.remove(0);
        }
        if self.stock.restate {
            self.record(&Event::Kept(self.stock.ledger.clone()))?;
            self.stock.restate = false;
        }
        Ok(())
    }

    /// Whether the clock can be known to be right. That it was set is put on record.
    fn trust(&mut self) -> io::Result<bool> {
        let (right, set) = self.trusted.look(&*self.clock);
        if let Some(by) = set {
            let minutes = by.as_secs() / 60;
            let text = format!(
                "the clock was set by {minutes} minutes, or the host slept: nothing is deleted for its age for a day, unless it is synchronised"
            );
            tracing::warn!("{text}");
            if let Err(error) = self.note(text) {
                tracing::error!(%error, "that the clock was set is not on record");
            }
        }
        Ok(right)
    }

    /// Records what was done, sealed where all is.
    fn note(&mut self, text: String) -> io::Result<()> {
        self.unbounded = true;
        let begun = self.begin_sealing();
        self.unbounded = false;
        begun.and_then(|()| self.say(&Event::Note { text }))
    }

    /// Puts something of the spool's own history on record.
    fn record(&mut self, event: &Event) -> io::Result<()> {
        self.say(event)?;
        self.stock.ledger.apply(event);
        self.stock.changed();
        Ok(())
    }

    /// Puts something on record that has to be there whatever the bounds are: signed, and forced to the disk.
    fn say(&mut self, event: &Event) -> io::Result<()> {
        if self.creating {
            // There may be a segment already that would be the newest one at the next start.
            self.rotate(None)?;
        }
        let time: Timestamp = self.clock.now();
        if let Err(error) = self.stage(SessionId::NONE, time, event) {
            self.discard();
            return Err(io::Error::other(error));
        }
        self.stage_checkpoint();
        let wanted = len64(&self.buffer);
        self.unbounded = true;
        let said = self.commit(true);
        self.unbounded = false;
        said?;
        self.beyond.add(self.clock.monotonic(), wanted);
        self.publish(true);
        Ok(())
    }

    /// A segment that was taken over has no key to seal with.
    fn begin_sealing(&mut self) -> io::Result<()> {
        if self.sealer.is_none() && !self.recipients.is_empty() { self.rotate(None) } else { Ok(()) }
    }

    /// Bytes that are to be free, and are not: so that the next segment has room.
    fn wanted_room(&mut self) -> io::Result<u64> {
        if self.retention.at_limit == AtLimit::Refuse {
            return Ok(0);
        }
        // A segment ends with the group that fills it.
        let next = self.segment_bytes.saturating_add((self.segment_bytes / 2).max(self.refused));
        let beyond = match self.retention.max_bytes {
            0 => 0,
            most => self.stock.bytes().saturating_add(next).saturating_add(self.length).saturating_sub(most),
        };
        let short = self.free_space_floor.saturating_add(next).saturating_sub(self.sink.free_space()?);
        Ok(beyond.max(short))
    }
}

/// Removes segments, and tells the disk once.
pub(in crate::record) fn remove(numbers: Vec<u64>, mut remover: Box<dyn Remover>) -> Vec<(u64, io::Result<()>)> {
    let outcome = numbers.into_iter().map(|number| (number, remover.remove(number))).collect();
    if let Err(error) = remover.settle() {
        tracing::warn!(%error, "after a power cut, segments that were deleted may be there again, and are deleted again");
    }
    outcome
}

/// Whether the clock can be known to be right: somebody synchronises it, or it has gone on evenly for an hour since the start, or a
/// day since it was set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trusted {
    wall: Timestamp,
    even: Duration,
    /// From when on it can be, if nobody sets it again.
    from: Duration,
}

impl Trusted {
    pub(super) fn new(clock: &dyn crate::clock::Clock) -> Self {
        let even = clock.monotonic();
        Self { wall: clock.now(), even, from: even.saturating_add(AN_HOUR) }
    }

    /// Whether it is, and by how much it was set since the last time.
    fn look(&mut self, clock: &dyn crate::clock::Clock) -> (bool, Option<Duration>) {
        let (wall, even, synchronised) = (clock.now(), clock.monotonic(), clock.is_synchronised());
        let wanted = self.wall.plus(even.saturating_sub(self.even));
        let off = wall.since(wanted).max(wanted.since(wall));
        let set = (off > AN_HOUR).then_some(off);
        if set.is_some() {
            *self = Self { wall, even, from: even.saturating_add(A_DAY) };
        }
        (retention::is_a_time(&wall) && (synchronised || even >= self.from), set)
    }
}

/// What was written whatever the bounds are, in an hour.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beyond {
    since: Duration,
    bytes: u64,
}

impl Beyond {
    fn is_spent(&self, now: Duration) -> bool {
        self.bytes >= MOST_BEYOND && now.saturating_sub(self.since) < AN_HOUR
    }

    fn add(&mut self, now: Duration, bytes: u64) {
        if now.saturating_sub(self.since) >= AN_HOUR {
            *self = Self { since: now, bytes: 0 };
        }
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// How often it is looked, while no segment is closed.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const AN_HOUR: Duration = Duration::from_secs(3600);
const A_DAY: Duration = Duration::from_secs(24 * 3600);
/// Segments that are removed before others are let in, and rounds of that for who waits for room.
const MOST_AT_A_TIME: usize = 2;
const ROUNDS_AT_ONCE: usize = 4;
/// Bytes that say what is deleted, in an hour: after that nothing is deleted until it is over.
const MOST_BEYOND: u64 = 1 << 20;
/// Most stretches of segments that were there when holds began.
const MOST_PRESENT: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_beyond_the_bounds_is_bounded_by_the_hour() {
        let (mut beyond, start) = (Beyond::default(), Duration::from_secs(90_000));
        beyond.add(start, MOST_BEYOND - 1);
        assert!(!beyond.is_spent(start));
        beyond.add(start, 1);
        assert!(beyond.is_spent(start + AN_HOUR - A_SECOND) && !beyond.is_spent(start + AN_HOUR));
        beyond.add(start + AN_HOUR, 5);
        assert_eq!(beyond.bytes, 5);
    }

    const A_SECOND: Duration = Duration::from_secs(1);
}
