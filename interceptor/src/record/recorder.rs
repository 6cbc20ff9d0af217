//! The handle through which everything is recorded, and the thread behind it.
//!
//! Owns the queue's bounds (in entries and bytes; its order is `queue`'s), grouping many events into one write, who writes
//! (an appender itself where that is quick, else the thread), and what happens when writing fails: the appends of that write
//! fail, later ones fail at once, and the thread tries until it can write again. Events that nobody waits for are kept
//! meanwhile, in order; they may stay in memory for `TICK`, and are lost where the daemon is killed then. Does not promise
//! that a dropped handle has written all that was queued: [`Recorder::close`] does.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::{Notify, Semaphore, TryAcquireError, oneshot, watch};

use super::event::Event;
use super::format::{self, FormatError};
use super::pack::Packer;
use super::queue::{Ack, Job, Queue, What};
use super::sink::{Files, Sink};
use super::spool::Spool;
use super::{Config, Fsync, OpenError, RecordError};
use crate::clock::{Clock, Timestamp};
use crate::policy::Recorded;
use crate::telemetry::SessionId;
use crate::turn;

/// Records events. Cheap to clone; all clones write to the same spool.
#[derive(Clone, Debug)]
pub struct Recorder {
    handle: Arc<Handle>,
}

impl Recorder {
    /// Opens the spool, recovering it where the last writer crashed, and starts the recorder's thread.
    ///
    /// # Errors
    /// When the spool or the key is unusable: nothing may be governed then.
    pub fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Self::open_with(config, clock, Box::new(Files::new(config.spool.clone())))
    }

    /// As [`Recorder::open`], writing through another sink.
    ///
    /// # Errors
    /// As [`Recorder::open`].
    pub fn open_with(config: &Config, clock: Arc<dyn Clock>, sink: Box<dyn Sink>) -> Result<Self, OpenError> {
        let (spool, recovered) = Spool::open(config, Arc::clone(&clock), sink)?;
        let (report, finished) = watch::channel(None);
        let frames = AtomicU64::new(spool.frames());
        let mut worker = Worker {
            spool,
            clock: Arc::clone(&clock),
            fsync: config.fsync == Fsync::Group,
            checkpoint_every: Duration::from_secs(u64::from(config.checkpoint_seconds)),
            pending: VecDeque::new(),
            numbers: Vec::new(),
            outage: None,
            attempts: 0,
            here: false,
        };
        if let Some(event) = recovered {
            let (session, time) = (SessionId::NONE, clock.now());
            worker.pending.push_back(Job { session, time, what: What::Event(event), ack: None, cost: 0 });
        }
        let packer = Packer::new().map_err(OpenError::io("cannot compress for", &config.spool))?;
        let shared = Arc::new(Shared {
            worker: Mutex::new(worker),
            queue: Mutex::new(Queue::default()),
            wake: Condvar::new(),
            permits: Semaphore::new(usize::try_from(config.queue_bytes).unwrap_or(Semaphore::MAX_PERMITS)),
            queue_bytes: config.queue_bytes,
            least_cost: config.queue_bytes.div_ceil(config.queue_entries.max(1)),
            checkpoint_every: Duration::from_secs(u64::from(config.checkpoint_seconds)),
            failing: AtomicBool::new(false),
            failure: Mutex::new(Arc::from("")),
            failed: Notify::new(),
            frames,
            last: AtomicI64::new(0),
        });
        let run = Thread { shared: Arc::clone(&shared), report, packer };
        thread::Builder::new()
            .name("recorder".into())
            .spawn(move || run.run())
            .map_err(OpenError::io("cannot start a thread for", &config.spool))?;
        Ok(Self { handle: Arc::new(Handle { shared, clock, finished }) })
    }

    /// Records an event and waits until its frame has reached the file: only then may what it stands for happen.
    ///
    /// # Errors
    /// When it is not on record.
    pub async fn append(&self, session: SessionId, event: Event) -> Result<Recorded, RecordError> {
        let shared = &self.handle.shared;
        shared.admit(&event)?;
        let time = self.handle.clock.now();
        let event = if shared.is_burst(time) {
            event
        } else {
            match shared.write_at_once(session, time, event) {
                Ok(number) => return number.map(Recorded::at),
                Err(event) => event,
            }
        };
        let (ack, mut written) = oneshot::channel();
        self.submit(session, event, Some(ack)).await?;
        // The other sessions that are ready now come first: their events are written together with this one.
        turn::behind_the_others().await;
        match written.try_recv() {
            Ok(number) => return number.map(Recorded::at),
            Err(oneshot::error::TryRecvError::Closed) => return Err(RecordError::Closed),
            Err(oneshot::error::TryRecvError::Empty) => shared.write_here(),
        }
        written.await.map_err(|_| RecordError::Closed)?.map(Recorded::at)
    }

    /// Records an event, waiting only for a place in the queue. Events of one caller keep their order.
    ///
    /// # Errors
    /// When the spool cannot be written (now, or since an earlier event): the session has to end.
    pub async fn enqueue(&self, session: SessionId, event: Event) -> Result<(), RecordError> {
        self.submit(session, event, None).await
    }

    /// Records an event without waiting, for a `Drop`.
    ///
    /// # Errors
    /// [`RecordError::Full`] where there is no place in the queue, or as [`Recorder::enqueue`].
    pub fn try_enqueue(&self, session: SessionId, event: Event) -> Result<(), RecordError> {
        let shared = &self.handle.shared;
        let cost = shared.admit(&event)?;
        match shared.permits.try_acquire_many(cost) {
            Ok(permit) => permit.forget(),
            Err(TryAcquireError::NoPermits) => return Err(RecordError::Full),
            Err(TryAcquireError::Closed) => return Err(RecordError::Closed),
        }
        self.push(session, What::Event(event), None, cost)
    }

    /// Waits until all that was queued before is in the file, signed, and forced to the disk.
    ///
    /// # Errors
    /// When that failed.
    pub async fn flush(&self) -> Result<(), RecordError> {
        let (ack, written) = oneshot::channel();
        self.push(SessionId::NONE, What::Flush, Some(ack), 0)?;
        written.await.map_err(|_| RecordError::Closed)?.map(|_| ())
    }

    /// Takes no more, writes all that was queued, signs it, forces it to the disk and ends the thread.
    ///
    /// # Errors
    /// When that failed.
    pub async fn close(&self) -> Result<(), RecordError> {
        self.handle.shared.close();
        let mut finished = self.handle.finished.clone();
        let outcome = finished.wait_for(Option::is_some).await.map_err(|_| RecordError::Closed)?;
        match outcome.as_ref() {
            Some(Err(error)) => Err(RecordError::Storage(Arc::clone(error))),
            _ => Ok(()),
        }
    }

    /// How the recorder fares, for metrics and status.
    #[must_use]
    pub fn health(&self) -> Health {
        let shared = &self.handle.shared;
        let bytes = usize::try_from(shared.queue_bytes).unwrap_or(0);
        Health {
            frames: shared.frames.load(Ordering::Relaxed),
            queued_entries: shared.queue.lock().len(),
            queued_bytes: bytes.saturating_sub(shared.permits.available_permits()),
            failing: shared.failing.load(Ordering::Acquire).then(|| Arc::clone(&shared.failure.lock())),
        }
    }

    async fn submit(&self, session: SessionId, mut event: Event, ack: Option<Ack>) -> Result<(), RecordError> {
        if let Event::Data { direction, bytes } = &mut event {
            while bytes.len() > MAX_DATA {
                let part = Event::Data { direction: *direction, bytes: bytes.split_to(MAX_DATA) };
                self.place(session, part, None).await?;
            }
        }
        self.place(session, event, ack).await
    }

    async fn place(&self, session: SessionId, event: Event, ack: Option<Ack>) -> Result<(), RecordError> {
        let shared = &self.handle.shared;
        let cost = shared.admit(&event)?;
        match shared.permits.try_acquire_many(cost) {
            Ok(permit) => permit.forget(),
            Err(TryAcquireError::Closed) => return Err(RecordError::Closed),
            Err(TryAcquireError::NoPermits) => {
                // Registered before looking again, so that a failure in between is not missed.
                let mut failed = std::pin::pin!(shared.failed.notified());
                failed.as_mut().enable();
                shared.admit(&event)?;
                tokio::select! {
                    permit = shared.permits.acquire_many(cost) => permit.map_err(|_| RecordError::Closed)?.forget(),
                    () = failed => return Err(shared.error()),
                }
            }
        }
        self.push(session, What::Event(event), ack, cost)
    }

    fn push(&self, session: SessionId, what: What, ack: Option<Ack>, cost: u32) -> Result<(), RecordError> {
        let shared = &self.handle.shared;
        let job = Job { session, time: self.handle.clock.now(), what, ack, cost };
        let mut queue = shared.queue.lock();
        if queue.closed {
            return Err(RecordError::Closed);
        }
        let (asked, waited_for) = (job.ack.is_some(), job.is_waited_for());
        let light = queue.push(job);
        // What somebody waits for is written by `write_here`, or by whoever writes at that time, where it is light.
        let here = light && waited_for;
        let soon = !asked && queue.ticking && queue.len() < WAKE_ENTRIES && cost < WAKE_COST;
        if !soon && !here {
            shared.wake(&mut queue);
        }
        Ok(())
    }
}

/// How the recorder fares.
#[derive(Clone, Debug)]
pub struct Health {
    /// Frames in the spool.
    pub frames: u64,
    /// Events that wait.
    pub queued_entries: usize,
    /// Bytes that wait.
    pub queued_bytes: usize,
    /// Why nothing can be written, while that is so.
    pub failing: Option<Arc<str>>,
}

/// How much longer an event can be in its frame than in memory, at most.
const LARGEST_GROWTH: usize = 8;
/// Longest data in one frame.
const MAX_DATA: usize = 1 << 20;
/// Bytes that are staged before they are written.
const GROUP_BYTES: usize = 4 << 20;
/// While frames arrive, the thread looks for events that nobody waits for this often instead of being woken by each.
const TICK: Duration = Duration::from_millis(5);
/// Ticks without an event after which the thread sleeps until it is woken.
const IDLE_TICKS: u32 = 100;
/// Events that wait, or bytes of one of them, from which on the thread is woken before its tick.
const WAKE_ENTRIES: usize = 256;
const WAKE_COST: u32 = 64 << 10;
/// Most events, and bytes of them, that an appender writes itself.
const HERE_ENTRIES: usize = 256;
const HERE_COST: u64 = 64 << 10;
/// Times that an appender writes for others in a row before the thread takes over.
const HERE_ROUNDS: usize = 8;
/// Microseconds between two events within which a third can be expected.
const BURST: i64 = 100;
/// Looks at the lock before it is given up: some microseconds.
const SPINS: usize = 100;
/// Time between two attempts to write again.
const RETRY: Duration = Duration::from_millis(200);
/// Attempts that closing makes on a spool that cannot be written.
const CLOSING_ATTEMPTS: u32 = 5;

struct Handle {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    finished: watch::Receiver<Option<Result<(), Arc<str>>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

struct Shared {
    /// Locked before `queue`, and never waited for by an appender.
    worker: Mutex<Worker>,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// One permit a byte. An event costs at least `least_cost`, so that the same number bounds entries.
    permits: Semaphore,
    queue_bytes: u32,
    least_cost: u32,
    checkpoint_every: Duration,
    failing: AtomicBool,
    failure: Mutex<Arc<str>>,
    failed: Notify,
    frames: AtomicU64,
    /// When somebody last asked for an event to be written.
    last: AtomicI64,
}

impl Shared {
    /// The cost of an event, where it may be queued at all. The end of a session may be, even while writing fails.
    fn admit(&self, event: &Event) -> Result<u32, RecordError> {
        let bytes = event.weight();
        // The exact bound is looked at only where it could matter.
        if bytes > format::MAX_PAYLOAD / LARGEST_GROWTH && event.most_encoded() > format::MAX_PAYLOAD {
            return Err(RecordError::TooLarge { bytes });
        }
        if self.failing.load(Ordering::Acquire) && !matches!(event, Event::SessionClosed { .. }) {
            return Err(self.error());
        }
        Ok(u32::try_from(bytes).unwrap_or(u32::MAX).clamp(self.least_cost, self.queue_bytes))
    }

    fn error(&self) -> RecordError {
        RecordError::Storage(Arc::clone(&self.failure.lock()))
    }

    fn close(&self) {
        self.permits.close();
        let mut queue = self.queue.lock();
        queue.closed = true;
        self.wake(&mut queue);
    }

    fn wake(&self, queue: &mut Queue) {
        queue.woken = true;
        if std::mem::take(&mut queue.waiting) {
            self.wake.notify_one();
        }
    }

    /// Whether the last event came but a moment ago: then more of them can be expected.
    fn is_burst(&self, time: Timestamp) -> bool {
        time.0.saturating_sub(self.last.swap(time.0, Ordering::Relaxed)) < BURST
    }

    /// Writes an event, and what was queued before it, on the caller's thread, where nobody else writes and it is quick.
    /// Gives the event back where it has to be queued.
    fn write_at_once(
        &self,
        session: SessionId,
        time: Timestamp,
        event: Event,
    ) -> Result<Result<u64, RecordError>, Event> {
        let heavy = u64::try_from(event.weight()).unwrap_or(u64::MAX) > HERE_COST;
        if heavy || wants_signature(&event) || self.queue.lock().is_behind(session) {
            return Err(event);
        }
        let Some(mut worker) = self.lock_soon() else { return Err(event) };
        if !worker.takes_little(self) {
            drop(worker);
            self.wake(&mut self.queue.lock());
            return Err(event);
        }
        worker.pending.push_back(Job { session, time, what: What::Event(event), ack: None, cost: 0 });
        let number = worker.write_last(self);
        drop(worker);
        if self.queue.lock().waited_for {
            self.write_here();
        }
        Ok(number)
    }

    /// Writes what is queued on the caller's thread, where it is little and nobody else writes: that saves the way to
    /// the recorder's thread and back. Anything slow or out of the ordinary is left to that thread.
    ///
    /// Where somebody else writes, nobody is woken: whoever has written looks once more after letting go, and finds what
    /// was queued before the lock was refused.
    fn write_here(&self) {
        for _ in 0..HERE_ROUNDS {
            let Some(mut worker) = self.lock_soon() else { return };
            let written = worker.write_little(self);
            drop(worker);
            let queue = self.queue.lock();
            match (written, queue.waited_for) {
                (true, false) => return,
                (true, true) => {}
                (false, _) => break,
            }
        }
        self.wake(&mut self.queue.lock());
    }

    /// What another writes takes a few microseconds: waiting for that busily is cheaper than being woken.
    fn lock_soon(&self) -> Option<MutexGuard<'_, Worker>> {
        (0..SPINS).find_map(|_| {
            let worker = self.worker.try_lock();
            if worker.is_none() {
                std::hint::spin_loop();
            }
            worker
        })
    }
}

/// A time in which nothing can be written.
struct Outage {
    reason: Arc<str>,
    refused: u64,
    tried: Duration,
}

/// The recorder's thread: writes what appenders did not, signs, rotates, tries again after failures.
struct Thread {
    shared: Arc<Shared>,
    report: watch::Sender<Option<Result<(), Arc<str>>>>,
    packer: Packer,
}

impl Thread {
    fn run(mut self) {
        let (mut idle, mut failing) = (IDLE_TICKS, false);
        loop {
            self.wait(idle < IDLE_TICKS, failing);
            // Made ready beside whoever writes meanwhile.
            let mut heavy = self.shared.queue.lock().take_heavy();
            heavy.iter_mut().for_each(|job| job.prepare(&mut self.packer));
            let mut worker = self.shared.worker.lock();
            let before = worker.spool.frames();
            if worker.turn(&self.shared, heavy) {
                let outcome = worker.outage.as_ref().map_or(Ok(()), |outage| Err(Arc::clone(&outage.reason)));
                // Whoever waits for the end may open the spool again at once.
                worker.spool.unlock();
                worker.pending.clear();
                self.report.send_replace(Some(outcome));
                return;
            }
            failing = worker.outage.is_some();
            idle = if worker.spool.frames() > before || worker.wrote_here() { 0 } else { idle.saturating_add(1) };
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
struct Worker {
    spool: Spool,
    clock: Arc<dyn Clock>,
    fsync: bool,
    checkpoint_every: Duration,
    /// Taken from the queue, not yet written.
    pending: VecDeque<Job>,
    /// Numbers of the frames that the group in hand stages, one a job.
    numbers: Vec<Result<u64, RecordError>>,
    outage: Option<Outage>,
    /// Attempts to write again since closing.
    attempts: u32,
    /// Whether an appender wrote since the thread last looked.
    here: bool,
}

impl Worker {
    /// Does what there is to do, with what is ready of what was heavy. True when the recorder is closed and nothing is left.
    fn turn(&mut self, shared: &Shared, heavy: Vec<Job>) -> bool {
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
        let due = self.spool.unsigned_for().is_some_and(|waited| waited >= self.checkpoint_every);
        if due || closed {
            self.spool.stage_checkpoint();
            if let Err(error) = self.spool.commit(self.fsync || closed) {
                self.fail(shared, &error);
                return false;
            }
        }
        self.spool.publish(closed);
        closed
    }

    /// Writes what is queued, where that is quick. False where it is left to the thread.
    fn write_little(&mut self, shared: &Shared) -> bool {
        if !self.takes_little(shared) {
            return false;
        }
        if !self.pending.is_empty() {
            let _told = self.write_group(shared);
        }
        self.pending.is_empty() && self.outage.is_none()
    }

    /// Writes all that is pending, and gives the number of the last frame; nobody waits for that one but the caller.
    fn write_last(&mut self, shared: &Shared) -> Result<u64, RecordError> {
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
    fn takes_little(&mut self, shared: &Shared) -> bool {
        if self.fsync || self.outage.is_some() || !self.pending.is_empty() || self.spool.is_full() {
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

    /// Stages jobs up to the bound of a group, writes them, and tells who waits. Gives the number of the last of them that
    /// nobody waits for; `None` also where nothing could be written.
    fn write_group(&mut self, shared: &Shared) -> Option<Result<u64, RecordError>> {
        self.spool.discard();
        if let Err(error) = self.spool.rotate_when_full() {
            self.fail(shared, &error);
            return None;
        }
        self.numbers.clear();
        let (mut sync, mut checkpoint) = (self.fsync, false);
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
                self.fail(shared, &io::Error::other(FormatError::Sealing));
                return None;
            }
            // Bounded by `admit`, an event always fits; were one not to, its absence is put on record.
            let number = number.map_err(|_| RecordError::TooLarge { bytes: job.weight() });
            if number.is_err() && job.ack.is_none() {
                let text = "an event was too large to be recorded".to_owned();
                let _a_short_note_fits = self.spool.stage(job.session, job.time, &Event::Note { text });
            }
            self.numbers.push(number);
            if self.spool.staged_bytes() >= GROUP_BYTES {
                break;
            }
        }
        if checkpoint {
            self.spool.stage_checkpoint();
        }
        if let Err(error) = self.spool.commit(sync) {
            self.fail(shared, &error);
            return None;
        }
        shared.frames.store(self.spool.frames(), Ordering::Relaxed);
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
        let reason: Arc<str> = Arc::from(error.to_string());
        tracing::error!(%error, "the recording cannot be written: governed commands are refused until it can be");
        *shared.failure.lock() = Arc::clone(&reason);
        shared.failing.store(true, Ordering::Release);
        self.outage = Some(Outage { reason, refused: 0, tried: self.clock.monotonic() });
        self.refuse(shared);
        shared.failed.notify_waiters();
        // Whoever wrote: the thread tries again.
        shared.wake(&mut shared.queue.lock());
    }

    /// Tells everybody who waits that it is not on record, and keeps the rest.
    fn refuse(&mut self, shared: &Shared) {
        let Some(outage) = &mut self.outage else { return };
        let (mut freed, reason, mut refused) = (0usize, Arc::clone(&outage.reason), 0u64);
        self.pending.retain_mut(|job| {
            let Some(ack) = job.ack.take() else { return true };
            freed = freed.saturating_add(usize::try_from(job.cost).unwrap_or(0));
            refused = refused.saturating_add(1);
            let _nobody_waits_any_more = ack.send(Err(RecordError::Storage(Arc::clone(&reason))));
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
        let gap = Event::Gap { reason: outage.reason.to_string(), refused: outage.refused };
        self.spool.discard();
        let healed = self.spool.rotate_when_full().and_then(|()| {
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

fn wants_signature(event: &Event) -> bool {
    matches!(event, Event::SessionClosed { .. } | Event::DaemonStopped { .. })
}
