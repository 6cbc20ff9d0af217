//! The handle through which everything is recorded, and the thread behind it.
//!
//! Owns the queue's bounds (in entries and bytes; its order is `queue`'s), who writes (an appender itself where that is quick,
//! else the thread; how is `worker`'s), and what happens when writing fails: the appends of that write
//! fail, later ones fail at once, and the thread tries until it can write again. Events that nobody waits for are kept
//! meanwhile, in order; they may stay in memory for some milliseconds, and are lost where the daemon is killed then. Does not promise
//! that a dropped handle has written all that was queued: [`Recorder::close`] does.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::{Notify, Semaphore, TryAcquireError, oneshot, watch};

use super::event::Event;
use super::format;
use super::hold::{Change, Changed};
use super::pack::Packer;
use super::queue::{Ack, Job, Queue, What};
use super::room::Room;
use super::sink::{Files, Sink};
use super::spool::keep;
use super::worker::{Thread, Worker, wants_signature};
use super::{Config, OpenError, RecordError};
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
        let shared = Arc::new(Shared::open(config, Arc::clone(&clock), sink)?);
        let packer = Packer::new().map_err(OpenError::io("cannot compress for", &config.spool))?;
        let (report, finished) = watch::channel(None);
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
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Holds segments, or lets go of them; blocks while others write.
    ///
    /// # Errors
    /// Where it cannot be done, or put on record; what was to be held may be held all the same.
    pub fn change_holds(&self, change: Change, by: &str) -> io::Result<Changed> {
        let shared = &self.handle.shared;
        shared.worker.lock().holds(shared, change, by)
    }

    /// Takes note of what room there is, for whoever asks.
    pub fn set_room(&self, room: Room) {
        *self.handle.shared.room.lock() = Some(room);
    }

    /// How the recorder fares, for metrics and status.
    #[must_use]
    pub fn health(&self) -> Health {
        let shared = &self.handle.shared;
        let bytes = usize::try_from(shared.queue_bytes).unwrap_or(0);
        Health {
            frames: shared.frames.load(Ordering::Relaxed),
            bytes: shared.bytes.load(Ordering::Relaxed),
            deletable: shared.deletable.load(Ordering::Relaxed),
            room: *shared.room.lock(),
            queued_entries: shared.queue.lock().len(),
            queued_bytes: bytes.saturating_sub(shared.permits.available_permits()),
            failing: shared.failing.load(Ordering::Acquire).then(|| shared.error().reason().into()),
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
    /// Bytes of all its segments.
    pub bytes: u64,
    /// Of those, how many may be deleted where room is wanted.
    pub deletable: u64,
    /// What room there is for more, as it was seen last.
    pub room: Option<Room>,
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
/// Events that wait, or bytes of one of them, from which on the thread is woken before its tick.
const WAKE_ENTRIES: usize = 256;
const WAKE_COST: u32 = 64 << 10;
/// Most events, and bytes of them, that an appender writes itself.
pub(super) const HERE_ENTRIES: usize = 256;
pub(super) const HERE_COST: u64 = 64 << 10;
/// Times that an appender writes for others in a row before the thread takes over.
const HERE_ROUNDS: usize = 8;
/// Microseconds between two events within which a third can be expected.
const BURST: i64 = 100;
/// Looks at the lock before it is given up: some microseconds.
const SPINS: usize = 100;

struct Handle {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    finished: watch::Receiver<Option<Result<(), RecordError>>>,
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

pub(super) struct Shared {
    /// Locked before `queue`, and never waited for by an appender.
    pub(super) worker: Mutex<Worker>,
    pub(super) queue: Mutex<Queue>,
    pub(super) wake: Condvar,
    /// One permit a byte. An event costs at least `least_cost`, so that the same number bounds entries.
    pub(super) permits: Semaphore,
    pub(super) queue_bytes: u32,
    pub(super) least_cost: u32,
    pub(super) checkpoint_every: Duration,
    pub(super) failing: AtomicBool,
    pub(super) failure: Mutex<RecordError>,
    pub(super) failed: Notify,
    pub(super) frames: AtomicU64,
    /// Of all segments.
    pub(super) bytes: AtomicU64,
    /// Of those, what may be deleted for room.
    pub(super) deletable: AtomicU64,
    room: Mutex<Option<Room>>,
    /// When somebody last asked for an event to be written.
    pub(super) last: AtomicI64,
}

impl Shared {
    /// Opens the spool; what recovery has to say of it waits to be written first.
    pub(super) fn open(config: &Config, clock: Arc<dyn Clock>, sink: Box<dyn Sink>) -> Result<Self, OpenError> {
        let worker = Worker::open(config, clock, sink)?;
        Ok(Self {
            frames: AtomicU64::new(worker.frames()),
            bytes: AtomicU64::new(worker.bytes()),
            deletable: AtomicU64::new(0),
            room: Mutex::default(),
            worker: Mutex::new(worker),
            queue: Mutex::new(Queue::default()),
            wake: Condvar::new(),
            permits: Semaphore::new(usize::try_from(config.queue_bytes).unwrap_or(Semaphore::MAX_PERMITS)),
            queue_bytes: config.queue_bytes,
            least_cost: config.queue_bytes.div_ceil(config.queue_entries.max(1)),
            checkpoint_every: Duration::from_secs(u64::from(config.checkpoint_seconds)),
            failing: AtomicBool::new(false),
            failure: Mutex::new(RecordError::Closed),
            failed: Notify::new(),
            last: AtomicI64::new(0),
        })
    }

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

    pub(super) fn error(&self) -> RecordError {
        self.failure.lock().clone()
    }

    /// Removes some segments of which it is on record that they go; nobody waits for that who writes.
    pub(super) fn sweep(&self) -> bool {
        let Some((numbers, remover)) = self.worker.lock().doomed() else { return false };
        let outcome = keep::remove(numbers, remover);
        self.worker.lock().removed(self, outcome);
        true
    }

    fn close(&self) {
        self.permits.close();
        let mut queue = self.queue.lock();
        queue.closed = true;
        self.wake(&mut queue);
    }

    pub(super) fn wake(&self, queue: &mut Queue) {
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
