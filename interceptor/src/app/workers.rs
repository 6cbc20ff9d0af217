//! The threads that serve sessions.
//!
//! Each worker is a thread with a runtime and a reactor of its own, and a session stays with the worker that it was given
//! to: what a session waits for wakes that thread alone, so that a round trip needs no other thread and no other core.
//! A connection goes to the worker with the fewest sessions.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Threads of each worker for what would block it: files, of which processes' own may be slow, and key derivation.
const BLOCKING: usize = 64;
/// How long a worker waits for the tasks that are left when it stops.
const PATIENCE: Duration = Duration::from_secs(5);

/// All workers. Dropping them ends what they still serve.
pub(super) struct Workers {
    all: Vec<Worker>,
}

struct Worker {
    runtime: Handle,
    sessions: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    /// Starts as many, or, where none are asked for, one for every two processors: agents and what they talk to need the
    /// others, and fewer workers find more to do each time that they wake.
    ///
    /// # Errors
    /// When the system gives no thread or no reactor.
    pub(super) fn start(asked: usize) -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let count = if asked == 0 { (processors / 2).max(1) } else { asked };
        Ok(Self { all: (0..count).map(Worker::start).collect::<io::Result<_>>()? })
    }

    /// What looks whether the workers answer.
    pub(super) fn pulses(&self) -> Vec<Pulse> {
        self.all.iter().map(|worker| Pulse(worker.runtime.clone())).collect()
    }

    /// Gives a session to the worker with the fewest of them.
    pub(super) fn serve<F>(&self, sessions: &mut JoinSet<()>, session: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let fewest = self.all.iter().min_by_key(|worker| worker.sessions.load(Ordering::Relaxed));
        let Some(worker) = fewest else { return };
        let place = Place::take(&worker.sessions);
        let served = async move {
            let _place = place;
            session.await;
        };
        sessions.spawn_on(served, &worker.runtime);
    }
}

impl Worker {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().max_blocking_threads(BLOCKING).build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name(format!("sessions-{number}")).spawn(move || {
            let _stopped_or_dropped = runtime.block_on(stopped);
            runtime.shutdown_timeout(PATIENCE);
        })?;
        Ok(Self { runtime: handle, sessions: Arc::default(), stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // All are told before any is waited for.
        for worker in &mut self.all {
            worker.stop = None;
        }
        for worker in &mut self.all {
            if worker.thread.take().is_some_and(|thread| thread.join().is_err()) {
                tracing::error!("a worker broke");
            }
        }
    }
}

/// Whether a worker answers.
pub(super) struct Pulse(Handle);

impl Pulse {
    /// Waits until the worker has done a task of its own, as it would do a session's.
    pub(super) async fn answers(&self) {
        // A worker that has ended is nobody to wait for.
        let _ended = self.0.spawn(async {}).await;
    }
}

/// One session's place with its worker.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(sessions: &Arc<AtomicUsize>) -> Self {
        sessions.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(sessions))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sessions_are_spread_and_stay_with_their_worker() {
        let workers = Workers { all: (0..2).map(|number| Worker::start(number).unwrap()).collect() };
        let mut sessions = JoinSet::new();
        let (named, mut names) = tokio::sync::mpsc::unbounded_channel();
        let (go, gone) = tokio::sync::watch::channel(false);
        for _ in 0..8 {
            let (named, mut gone) = (named.clone(), gone.clone());
            workers.serve(&mut sessions, async move {
                let first = thread::current().id();
                gone.wait_for(|gone| *gone).await.unwrap();
                assert_eq!(first, thread::current().id());
                named.send(first).unwrap();
            });
        }
        go.send_replace(true);
        let mut counts = std::collections::HashMap::new();
        for _ in 0..8 {
            *counts.entry(names.recv().await.unwrap()).or_insert(0) += 1;
        }
        assert_eq!(counts.into_values().collect::<Vec<_>>(), [4, 4]);
        while let Some(ended) = sessions.join_next().await {
            ended.unwrap();
        }
        assert!(workers.all.iter().all(|worker| worker.sessions.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn dropping_ends_what_is_served() {
        let workers = Workers { all: vec![Worker::start(0).unwrap()] };
        let mut sessions = JoinSet::new();
        workers.serve(&mut sessions, std::future::pending());
        drop(workers);
        let ended = Builder::new_current_thread().build().unwrap().block_on(sessions.join_next());
        assert!(ended.unwrap().unwrap_err().is_cancelled());
    }
}
