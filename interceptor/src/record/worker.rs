//! Who writes to the spool: the recorder's thread, or an appender in its place.
//!
//! Owns grouping many events into one write, when that is forced to the disk, and what happens when it fails: who waits is
//! refused, and it is tried again until it works; what nobody waits for is kept meanwhile, in order.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::event::Event;
use super::format::FormatError;
use super::hold::{Change, Changed};
use super::pack::Packer;
use super::queue::{Job, What};
use super::recorder::{HERE_COST, HERE_ENTRIES, Shared};
use super::sink::{Remover, Sink};
use super::spool::Spool;
use super::{Config, Fsync, OpenError, RecordError};
use crate::clock::Clock;
use crate::telemetry::SessionId;

/// A time in which nothing can be written.
struct Outage {
    error: RecordError,
    refused: u64,
    tried: Duration,
}

/// The recorder's thread: writes what appenders did not, signs, rotates, tries again after failures.
pub(super) struct Thread {
    pub(super) shared: Arc<Shared>,
    pub(super) report: watch::Sender<Option<Result<(), RecordError>>>,
    pub(super) packer: Packer,
}

impl Thread {
    pub(super) fn run(mut self) {
        let (mut idle, mut failing) = (IDLE_TICKS, false);
        loop {
            self.wait(idle < IDLE_TICKS, failing);
            // Made ready beside whoever writes meanwhile.
            let mut heavy = self.shared.queue.lock().take_heavy();
            heavy.iter_mut().for_each(|job| job.prepare(&mut self.packer));
            let mut worker = self.shared.worker.lock();
            let before = worker.spool.frames();
            if worker.turn(&self.shared, heavy) {
                let outcome = worker.outage.as_ref().map_or(Ok(()), |outage| Err(outage.error.clone()));
                // Whoever waits for the end may open the spool again at once.
                worker.spool.unlock();
                worker.pending.clear();
                self.report.send_replace(Some(outcome));
                return;
            }
            failing = worker.outage.is_some();
            let wrote = worker.spool.frames() > before || worker.wrote_here();
            drop(worker);
            self.shared.sweep();
            idle = if wrote { 0 } else { idle.saturating_add(1) };
        }
    }

    fn wait(&self, ticking: bool, failing: bool) {
        let mut queue = self.shared.queue.lock();
        let work = queue.woken || queue.waited_for || (!ticking && !queue.is_empty());
        // While nothing can be written, being woken is no reason to try before it is time to.
        if !work || failing {
            (queue.waiting, queue.ticking) = (true, ticking);
            let until = match (failing, ticking) {
                (true, _) => RETRY,
                (false, true) => TICK,
                (false, false) => self.shared.checkpoint_every,
            };
            self.shared.wake.wait_for(&mut queue, until);
        }
        (queue.waiting, queue.woken) = (false, false);
    }
}

/// Whatever ends the thread, nobody waits for it for ever.
impl Drop for Thread {
    fn drop(&mut self) {
        self.shared.permits.close();
        self.shared.queue.lock().close();
        self.shared.worker.lock().pending.clear();
    }
}

/// Who writes: the thread, or an appender in its place.
pub(super) struct Worker {
    spool: Spool,
    clock: Arc<dyn Clock>,
    fsync: Fsync,
    checkpoint_every: Duration,
    /// Taken from the queue, not yet written.
    pub(super) pending: VecDeque<Job>,
    /// Numbers of the frames that the group in hand stages, one a job.
    numbers: Vec<Result<u64, RecordError>>,
    outage: Option<Outage>,
    /// Attempts to write again since closing.
    attempts: u32,
    /// Whether an appender wrote since the thread last looked.
    here: bool,
}

impl Worker {
    /// Opens the spool. What recovery has to say of it waits to be written first.
    pub(super) fn open(config: &Config, clock: Arc<dyn Clock>, sink: Box<dyn Sink>) -> Result<Self, OpenError> {
        let (spool, recovered) = Spool::open(config, Arc::clone(&clock), sink)?;
        let (session, time) = (SessionId::NONE, clock.now());
        let first = recovered.map(|event| Job { session, time, what: What::Event(event), ack: None, cost: 0 });
        Ok(Self {
            spool,
            clock,
            fsync: config.fsync,
            checkpoint_every: Duration::from_secs(u64::from(config.checkpoint_seconds)),
            pending: first.into_iter().collect(),
            numbers: Vec::new(),
            outage: None,
            attempts: 0,
            here: false,
        })
    }

    /// Frames in the spool.
    pub(super) const fn frames(&self) -> u64 {
        self.spool.frames()
    }

    /// Holds segments, or lets go of them.
    pub(super) fn holds(&mut self, shared: &Shared, change: Change, by: &str) -> io::Result<Changed> {
        let done = self.spool.change(change, by);
        shared.frames.store(self.spool.frames(), Ordering::Relaxed);
        done
    }

    /// Some segments that are to be removed, while others write.
    pub(super) fn doomed(&mut self) -> Option<(Vec<u64>, Box<dyn Remover>)> {
        self.spool.doomed()
    }

    /// What became of these.
    pub(super) fn removed(&mut self, shared: &Shared, outcome: Vec<(u64, io::Result<()>)>) {
        self.spool.removed(outcome);
        shared.bytes.store(self.spool.bytes(), Ordering::Relaxed);
    }

    /// Bytes of all segments.
    pub(super) const fn bytes(&self) -> u64 {
        self.spool.bytes()
    }

    /// Does what there is to do, with what is ready of what was heavy. True when the recorder is closed and nothing is left.
    pub(super) fn turn(&mut self, shared: &Shared, heavy: Vec<Job>) -> bool {
        let closed = self.take_all(shared, heavy);
        if self.outage.is_some() && !self.heal(shared, closed) {
            self.refuse(shared);
            self.attempts = self.attempts.saturating_add(u32::from(closed));
            return self.attempts >= CLOSING_ATTEMPTS;
        }
        while !self.pending.is_empty() && self.outage.is_none() {
            let _told = self.write_group(shared);
        }
        if self.outage.is_some() {
            return false;
        }
        self.spool.discard();
        if self.spool.is_old() {
            self.spool.renew();
            if let Err(error) = self.spool.rotate_when_full() {
                self.fail(shared, &error);
                return false;
            }
        }
        if let Err(error) = self.spool.retain(false) {
            self.fail(shared, &error);
            return false;
        }
        shared.bytes.store(self.spool.bytes(), Ordering::Relaxed);
        shared.deletable.store(self.spool.deletable(), Ordering::Relaxed);
        let due = self.spool.unsigned_for().is_some_and(|waited| waited >= self.checkpoint_every);
        if due || closed {
            self.spool.stage_checkpoint();
            if let Err(error) = self.spool.commit(self.forces() || closed) {
                self.fail(shared, &error);
                return false;
            }
        }
        self.spool.publish(closed);
        closed
    }

    /// Writes what is queued, where that is quick. False where it is left to the thread.
    pub(super) fn write_little(&mut self, shared: &Shared) -> bool {
        if !self.takes_little(shared) {
            return false;
        }
        if !self.pending.is_empty() {
            let _told = self.write_group(shared);
        }
        self.pending.is_empty() && self.outage.is_none()
    }

    /// Writes all that is pending, and gives the number of the last frame; nobody waits for that one but the caller.
    pub(super) fn write_last(&mut self, shared: &Shared) -> Result<u64, RecordError> {
        let number = self.write_group(shared);
        if let Some(number) = number.filter(|_| self.pending.is_empty()) {
            return number;
        }
        // It was the last, and is not to be written later.
        self.pending.pop_back();
        if let Some(outage) = &mut self.outage {
            outage.refused = outage.refused.saturating_add(1);
        }
        Err(shared.error())
    }

    /// Takes what is queued, where writing it is quick. False where it is left to the thread.
    pub(super) fn takes_little(&mut self, shared: &Shared) -> bool {
        if self.forces() || self.outage.is_some() || !self.pending.is_empty() || self.spool.is_full() {
            return false;
        }
        if self.take(shared) {
            return false;
        }
        let cost: u64 = self.pending.iter().map(|job| u64::from(job.cost)).sum();
        // A flush, and the end of a session, want a signature.
        let sign = self.pending.iter().any(|job| match &job.what {
            What::Flush => true,
            What::Event(event) => wants_signature(event),
            What::Packed(_) => false,
        });
        if sign || self.pending.len() > HERE_ENTRIES || cost > HERE_COST {
            return false;
        }
        self.here = true;
        true
    }

    /// Whether what is written is forced to the disk before anybody is told.
    fn forces(&self) -> bool {
        self.fsync != Fsync::None
    }

    fn wrote_here(&mut self) -> bool {
        std::mem::take(&mut self.here)
    }

    /// Takes what is light. True once the recorder is closed.
    fn take(&mut self, shared: &Shared) -> bool {
        let mut queue = shared.queue.lock();
        queue.take_light(&mut self.pending);
        queue.closed
    }

    /// Takes what is light, and then what was heavy. True once the recorder is closed and there is nothing else.
    fn take_all(&mut self, shared: &Shared, heavy: Vec<Job>) -> bool {
        let mut queue = shared.queue.lock();
        queue.take_light(&mut self.pending);
        queue.handed_over(&heavy);
        self.pending.extend(heavy);
        queue.closed && queue.is_empty()
    }

    /// Writes a group of jobs, and tells who waits. Gives the number of the last of them that nobody waits for; `None` also
    /// where nothing could be written.
    fn write_group(&mut self, shared: &Shared) -> Option<Result<u64, RecordError>> {
        let mut written = self.commit_group();
        // One may want more room than is kept for it.
        let is_short =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::QuotaExceeded | io::ErrorKind::StorageFull);
        if written.as_ref().is_err_and(is_short) && self.spool.make_room().is_ok_and(|made| made) {
            written = self.commit_group();
        }
        match written {
            Ok((sync, checkpoint)) => self.group_is_written(shared, sync, checkpoint),
            Err(error) => {
                self.fail(shared, &error);
                None
            }
        }
    }

    /// Stages jobs up to the bound of a group, and writes them. Gives whether they are forced to the disk, and whether a signature is
    /// among them.
    fn commit_group(&mut self) -> io::Result<(bool, bool)> {
        self.spool.discard();
        // Where another segment begins, there may have to be room for it.
        let begins = self.spool.is_full();
        self.spool.rotate_when_full()?;
        if begins {
            self.spool.retain(false)?;
        }
        self.numbers.clear();
        let (mut sync, mut checkpoint) = (self.forces(), false);
        for job in &self.pending {
            let number = match &job.what {
                What::Flush => {
                    (sync, checkpoint) = (true, true);
                    Ok(self.spool.frames())
                }
                What::Packed(payload) => self.spool.stage_ready(job.session, job.time, payload.as_slice()),
                What::Event(event) => {
                    checkpoint |= wants_signature(event);
                    self.spool.stage(job.session, job.time, event)
                }
            };
            if matches!(number, Err(FormatError::Sealing)) {
                self.spool.discard();
                self.spool.renew();
                return Err(io::Error::other(FormatError::Sealing));
            }
            // Bounded by `admit`, an event always fits; were one not to, its absence is put on record.
            let number = number.map_err(|_| RecordError::TooLarge { bytes: job.weight() });
            if number.is_err() && job.ack.is_none() {
                let text = "an event was too large to be recorded".to_owned();
                let _a_short_note_fits = self.spool.stage(job.session, job.time, &Event::Note { text });
            }
            self.numbers.push(number);
            let alone = self.fsync == Fsync::Command && job.is_waited_for();
            if alone || self.spool.staged_bytes() >= GROUP_BYTES {
                break;
            }
        }
        if checkpoint {
            self.spool.stage_checkpoint();
        }
        self.spool.commit(sync)?;
        Ok((sync, checkpoint))
    }

    /// Tells who waits.
    fn group_is_written(&mut self, shared: &Shared, sync: bool, checkpoint: bool) -> Option<Result<u64, RecordError>> {
        shared.frames.store(self.spool.frames(), Ordering::Relaxed);
        shared.bytes.store(self.spool.bytes(), Ordering::Relaxed);
        let (mut freed, mut last) = (0usize, None);
        for (job, number) in self.pending.drain(..self.numbers.len()).zip(self.numbers.drain(..)) {
            freed = freed.saturating_add(usize::try_from(job.cost).unwrap_or(0));
            match job.ack {
                Some(ack) => {
                    let _nobody_waits_any_more = ack.send(number);
                }
                None => last = Some(number),
            }
        }
        if freed > 0 {
            shared.permits.add_permits(freed);
        }
        if checkpoint {
            self.spool.publish(sync);
        }
        last
    }

    fn fail(&mut self, shared: &Shared, error: &io::Error) {
        let error = RecordError::from(error);
        tracing::error!(%error, "the recording cannot be written: governed commands are refused until it can be");
        *shared.failure.lock() = error.clone();
        shared.failing.store(true, Ordering::Release);
        self.outage = Some(Outage { error, refused: 0, tried: self.clock.monotonic() });
        self.refuse(shared);
        shared.failed.notify_waiters();
        // Whoever wrote: the thread tries again.
        shared.wake(&mut shared.queue.lock());
    }

    /// Tells everybody who waits that it is not on record, and keeps the rest.
    fn refuse(&mut self, shared: &Shared) {
        let Some(outage) = &mut self.outage else { return };
        let (mut freed, mut refused) = (0usize, 0u64);
        self.pending.retain_mut(|job| {
            let Some(ack) = job.ack.take() else { return true };
            freed = freed.saturating_add(usize::try_from(job.cost).unwrap_or(0));
            refused = refused.saturating_add(1);
            let _nobody_waits_any_more = ack.send(Err(outage.error.clone()));
            false
        });
        outage.refused = outage.refused.saturating_add(refused);
        shared.permits.add_permits(freed);
    }

    /// Tries to write again: what is written first says that there was a gap.
    fn heal(&mut self, shared: &Shared, now: bool) -> bool {
        let Some(outage) = &mut self.outage else { return true };
        let time = self.clock.monotonic();
        if !now && time.saturating_sub(outage.tried) < RETRY {
            return false;
        }
        outage.tried = time;
        let gap = Event::Gap { reason: outage.error.reason(), refused: outage.refused };
        self.spool.discard();
        let healed = self.spool.make_room().and_then(|_| self.spool.rotate_when_full()).and_then(|()| {
            self.spool.stage(SessionId::NONE, self.clock.now(), &gap).map_err(io::Error::other)?;
            self.spool.commit(true)
        });
        if let Err(error) = healed {
            tracing::debug!(%error, "the recording still cannot be written");
            return false;
        }
        tracing::info!("the recording can be written again");
        self.outage = None;
        shared.failing.store(false, Ordering::Release);
        true
    }
}

pub(super) fn wants_signature(event: &Event) -> bool {
    matches!(event, Event::SessionClosed { .. } | Event::DaemonStopped { .. })
}

/// Bytes that are staged before they are written.
const GROUP_BYTES: usize = 4 << 20;
/// While frames arrive, the thread looks for events that nobody waits for this often instead of being woken by each.
const TICK: Duration = Duration::from_millis(5);
/// Ticks without an event after which the thread sleeps until it is woken.
const IDLE_TICKS: u32 = 100;
/// Time between two attempts to write again.
const RETRY: Duration = Duration::from_millis(200);
/// Attempts that closing makes on a spool that cannot be written.
const CLOSING_ATTEMPTS: u32 = 5;
