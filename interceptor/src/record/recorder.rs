//! The handle through which everything is recorded, and the thread behind it.
//!
//! Owns the queue (bounded in entries and bytes), grouping many events into one write, and what happens when writing
//! fails: the appends of that write fail, later ones fail at once, and the thread tries until it can write again. Events
//! that nobody waited for are kept meanwhile, in order. Does not promise that a dropped handle has written all that was
//! queued: [`Recorder::close`] does.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, Semaphore, TryAcquireError, oneshot, watch};

use super::event::Event;
use super::format;
use super::sink::{Files, Sink};
use super::spool::Spool;
use super::{Config, Fsync, OpenError, RecordError};
use crate::clock::{Clock, Timestamp};
use crate::policy::Recorded;
use crate::telemetry::SessionId;

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
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::default()),
            wake: Condvar::new(),
            permits: Semaphore::new(usize::try_from(config.queue_bytes).unwrap_or(Semaphore::MAX_PERMITS)),
            queue_bytes: config.queue_bytes,
            least_cost: config.queue_bytes.div_ceil(config.queue_entries.max(1)),
            failing: AtomicBool::new(false),
            failure: Mutex::new(Arc::from("")),
            failed: Notify::new(),
            frames: AtomicU64::new(spool.frames()),
        });
        let mut worker = Worker {
            spool,
            shared: Arc::clone(&shared),
            clock: Arc::clone(&clock),
            fsync: config.fsync == Fsync::Group,
            checkpoint_every: Duration::from_secs(u64::from(config.checkpoint_seconds)),
            pending: VecDeque::new(),
            numbers: Vec::new(),
            outage: None,
            report,
        };
        if let Some(event) = recovered {
            worker.pending.push_back(Job {
                session: SessionId::NONE,
                time: clock.now(),
                event: Some(event),
                ack: None,
                cost: 0,
            });
        }
        thread::Builder::new()
            .name("recorder".into())
            .spawn(move || worker.run())
            .map_err(OpenError::io("cannot start a thread for", &config.spool))?;
        Ok(Self { handle: Arc::new(Handle { shared, clock, finished }) })
    }

    /// Records an event and waits until its frame has reached the file: only then may what it stands for happen.
    ///
    /// # Errors
    /// When it is not on record.
    pub async fn append(&self, session: SessionId, event: Event) -> Result<Recorded, RecordError> {
        let (ack, written) = oneshot::channel();
        self.submit(session, event, Some(ack)).await?;
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
        self.push(session, Some(event), None, cost)
    }

    /// Waits until all that was queued before is in the file, signed, and forced to the disk.
    ///
    /// # Errors
    /// When that failed.
    pub async fn flush(&self) -> Result<(), RecordError> {
        let (ack, written) = oneshot::channel();
        self.push(SessionId::NONE, None, Some(ack), 0)?;
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
            queued_entries: shared.queue.lock().jobs.len(),
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
        self.push(session, Some(event), ack, cost)
    }

    fn push(&self, session: SessionId, event: Option<Event>, ack: Option<Ack>, cost: u32) -> Result<(), RecordError> {
        let shared = &self.handle.shared;
        let job = Job { session, time: self.handle.clock.now(), event, ack, cost };
        let mut queue = shared.queue.lock();
        if queue.closed {
            return Err(RecordError::Closed);
        }
        queue.jobs.push_back(job);
        if queue.waiting {
            queue.waiting = false;
            shared.wake.notify_one();
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

/// Longest data in one frame.
const MAX_DATA: usize = 1 << 20;
/// Bytes that are staged before they are written.
const GROUP_BYTES: usize = 4 << 20;
/// Time between two attempts to write again.
const RETRY: Duration = Duration::from_millis(200);
/// Attempts that closing makes on a spool that cannot be written.
const CLOSING_ATTEMPTS: u32 = 5;

type Ack = oneshot::Sender<Result<u64, RecordError>>;

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
    queue: Mutex<Queue>,
    wake: Condvar,
    /// One permit a byte. An event costs at least `least_cost`, so that the same number bounds entries.
    permits: Semaphore,
    queue_bytes: u32,
    least_cost: u32,
    failing: AtomicBool,
    failure: Mutex<Arc<str>>,
    failed: Notify,
    frames: AtomicU64,
}

impl Shared {
    /// The cost of an event, where it may be queued at all. The end of a session may be, even while writing fails.
    fn admit(&self, event: &Event) -> Result<u32, RecordError> {
        let bytes = event.weight();
        if event.most_encoded() > format::MAX_PAYLOAD {
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
        queue.waiting = false;
        self.wake.notify_one();
    }
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    waiting: bool,
    closed: bool,
}

struct Job {
    session: SessionId,
    time: Timestamp,
    /// None for a flush.
    event: Option<Event>,
    ack: Option<Ack>,
    cost: u32,
}

/// A time in which nothing can be written.
struct Outage {
    reason: Arc<str>,
    refused: u64,
    tried: Duration,
}

struct Worker {
    spool: Spool,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    fsync: bool,
    checkpoint_every: Duration,
    /// Taken from the queue, not yet written.
    pending: VecDeque<Job>,
    /// Numbers of the frames that the group in hand stages, one a job.
    numbers: Vec<Result<u64, RecordError>>,
    outage: Option<Outage>,
    report: watch::Sender<Option<Result<(), Arc<str>>>>,
}

impl Worker {
    fn run(mut self) {
        let mut attempts = 0;
        loop {
            let closed = self.take();
            if self.outage.is_some() && !self.heal(closed) {
                self.refuse();
                attempts += u32::from(closed);
                if attempts >= CLOSING_ATTEMPTS {
                    break;
                }
                continue;
            }
            while !self.pending.is_empty() && self.outage.is_none() {
                self.write_group();
            }
            if self.outage.is_some() {
                continue;
            }
            let due = self.spool.unsigned_for().is_some_and(|waited| waited >= self.checkpoint_every);
            if due || closed {
                self.spool.stage_checkpoint();
                if let Err(error) = self.spool.commit(self.fsync || closed) {
                    self.fail(&error);
                    continue;
                }
            }
            self.spool.publish(closed);
            if closed {
                break;
            }
        }
        let outcome = self.outage.as_ref().map_or(Ok(()), |outage| Err(Arc::clone(&outage.reason)));
        // Whoever waits for the end may open the spool again at once.
        self.spool.unlock();
        self.report.send_replace(Some(outcome));
    }

    /// Waits for work and takes all of it. True once the recorder is closed.
    fn take(&mut self) -> bool {
        let mut queue = self.shared.queue.lock();
        if queue.jobs.is_empty() && (!queue.closed || self.outage.is_some()) && self.ready_to_wait() {
            queue.waiting = true;
            self.shared.wake.wait_for(&mut queue, if self.outage.is_some() { RETRY } else { self.checkpoint_every });
            queue.waiting = false;
        }
        if self.pending.is_empty() {
            std::mem::swap(&mut self.pending, &mut queue.jobs);
        } else {
            self.pending.append(&mut queue.jobs);
        }
        queue.closed
    }

    /// With work in hand there is nothing to wait for, unless it cannot be written.
    fn ready_to_wait(&self) -> bool {
        self.pending.is_empty() || self.outage.is_some()
    }

    /// Stages jobs up to the bound of a group, writes them, and tells who waits.
    fn write_group(&mut self) {
        if let Err(error) = self.spool.rotate_when_full() {
            return self.fail(&error);
        }
        self.numbers.clear();
        let (mut sync, mut checkpoint) = (self.fsync, false);
        for job in &self.pending {
            let number = match &job.event {
                None => {
                    (sync, checkpoint) = (true, true);
                    Ok(self.spool.frames())
                }
                Some(event) => {
                    checkpoint |= matches!(event, Event::SessionClosed { .. } | Event::DaemonStopped { .. });
                    // Bounded by `admit`, an event always fits; were one not to, its absence is put on record.
                    self.spool
                        .stage(job.session, job.time, event)
                        .map_err(|_| RecordError::TooLarge { bytes: event.weight() })
                }
            };
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
            return self.fail(&error);
        }
        self.shared.frames.store(self.spool.frames(), Ordering::Relaxed);
        let mut freed = 0usize;
        for (job, number) in self.pending.drain(..self.numbers.len()).zip(self.numbers.drain(..)) {
            freed = freed.saturating_add(usize::try_from(job.cost).unwrap_or(0));
            if let Some(ack) = job.ack {
                let _nobody_waits_any_more = ack.send(number);
            }
        }
        self.shared.permits.add_permits(freed);
        if checkpoint {
            self.spool.publish(sync);
        }
    }

    fn fail(&mut self, error: &io::Error) {
        let reason: Arc<str> = Arc::from(error.to_string());
        tracing::error!(%error, "the recording cannot be written: governed commands are refused until it can be");
        *self.shared.failure.lock() = Arc::clone(&reason);
        self.shared.failing.store(true, Ordering::Release);
        self.outage = Some(Outage { reason, refused: 0, tried: self.clock.monotonic() });
        self.refuse();
        self.shared.failed.notify_waiters();
    }

    /// Tells everybody who waits that it is not on record, and keeps the rest.
    fn refuse(&mut self) {
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
        self.shared.permits.add_permits(freed);
    }

    /// Tries to write again: what is written first says that there was a gap.
    fn heal(&mut self, now: bool) -> bool {
        let Some(outage) = &mut self.outage else { return true };
        let time = self.clock.monotonic();
        if !now && time.saturating_sub(outage.tried) < RETRY {
            return false;
        }
        outage.tried = time;
        let gap = Event::Gap { reason: outage.reason.to_string(), refused: outage.refused };
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
        self.shared.failing.store(false, Ordering::Release);
        true
    }
}

/// Whatever ends the thread, nobody waits for it for ever.
impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.permits.close();
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        queue.jobs.clear();
    }
}
