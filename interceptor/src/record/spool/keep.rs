//! What the spool keeps: deleting what may go, once that is on record, and holding what must stay.

use std::io;
use std::time::Duration;

use super::Spool;
use crate::clock::Timestamp;
use crate::record::event::Event;
use crate::record::hold::Hold;
use crate::record::retention::AtLimit;
use crate::telemetry::SessionId;

impl Spool {
    /// Bytes of all segments.
    pub(in crate::record) const fn bytes(&self) -> u64 {
        self.stock.bytes().saturating_add(self.length)
    }

    /// Deletes what is too old, or in the way, where it is time to look; `now` also where it is not. Whether anything was. Nothing may
    /// be staged.
    ///
    /// That it goes is on record, signed, and on the disk before it does. What could not be removed then is, later, by another
    /// record.
    pub(in crate::record) fn retain(&mut self, now: bool) -> io::Result<bool> {
        let time = self.clock.monotonic();
        if !now && time < self.retain_at {
            return Ok(false);
        }
        self.retain_at = time.saturating_add(LOOK_EVERY);
        let room = self.wanted_room()?;
        let Some(plan) = self.stock.plan(&self.retention, self.clock.now(), room) else { return Ok(false) };
        let numbers: Vec<u64> = plan.segments.iter().map(|gone| gone.segment).collect();
        tracing::info!(segments = ?numbers, reason = %plan.reason, "segments are deleted");
        let event = Event::Deleted { reason: plan.reason, segments: plan.segments, missing: plan.missing };
        self.say([(SessionId::NONE, &event)])?;
        for (done, number) in numbers.into_iter().enumerate() {
            if let Err(error) = self.sink.remove(number) {
                tracing::error!(segment = number, %error, "a segment cannot be deleted");
                self.retain_at = time.saturating_add(REST);
                return Ok(done > 0);
            }
            self.stock.forget(number);
        }
        // There may be more.
        self.retain_at = time;
        self.space_checked = None;
        Ok(true)
    }

    /// Holds what the hold is of, from now on. It is held, once it is in the file, even where that cannot be put on record.
    pub(in crate::record) fn hold(&mut self, hold: Hold, by: &str) -> io::Result<()> {
        self.discard();
        let all = self.stock.holds.with(hold.clone()).map_err(io::Error::other)?;
        all.store(&self.directory)?;
        self.stock.holds = all;
        let text = format!("{by} holds {} as {}: {}", hold.of, hold.id, hold.reason);
        let held = Event::Held { hold: hold.id, scope: hold.scope };
        self.say([(SessionId::NONE, &held), (SessionId::NONE, &Event::Note { text })])
    }

    /// Ends a hold, once that is on record. False where there is none of that name.
    pub(in crate::record) fn release(&mut self, id: &str, by: &str) -> io::Result<bool> {
        self.discard();
        let Some((rest, hold)) = self.stock.holds.without(id) else { return Ok(false) };
        let text = format!("{by} ends the hold {} of {}: {}", hold.id, hold.of, hold.reason);
        let released = Event::Released { hold: hold.id };
        self.say([(SessionId::NONE, &released), (SessionId::NONE, &Event::Note { text })])?;
        rest.store(&self.directory)?;
        self.stock.holds = rest;
        Ok(true)
    }

    /// Puts something on record that has to be there whatever the bounds are: signed, and forced to the disk.
    fn say<'a>(&mut self, events: impl IntoIterator<Item = (SessionId, &'a Event)>) -> io::Result<()> {
        self.begin_sealing()?;
        let time: Timestamp = self.clock.now();
        for (session, event) in events {
            if let Err(error) = self.stage(session, time, event) {
                self.discard();
                return Err(io::Error::other(error));
            }
        }
        self.stage_checkpoint();
        self.unbounded = true;
        let said = self.commit(true);
        self.unbounded = false;
        said?;
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

/// How often it is looked, while no segment is closed.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How long nothing is deleted after that has failed.
const REST: Duration = Duration::from_secs(3600);
