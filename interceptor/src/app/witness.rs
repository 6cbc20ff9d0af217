//! Tells witnesses of the newest checkpoint, and says on record where one cannot be told.
//!
//! On a thread of its own: files and names may be slow, and nobody else has to wait for that.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::StartError;
use crate::clock::Clock;
use crate::record::witness::{self, Statement, Witness, WitnessError, WitnessState};
use crate::record::{self, Event, Recorder};
use crate::telemetry::SessionId;

/// How often it is looked whether there is something to tell; a checkpoint is put down at most once a second.
const LOOK: Duration = Duration::from_secs(1);
/// How long they are waited for when the daemon stops, all of them together.
const LAST: Duration = Duration::from_secs(5);
/// One that could not be told is tried again after this time, and after twice as long each time.
const RETRY: Duration = Duration::from_secs(1);
/// At most this long.
const RETRY_MOST: Duration = Duration::from_secs(300);
/// How long one may be out of reach, as when a host starts, before that is put on record.
const GRACE: Duration = Duration::from_secs(10);

/// All witnesses, and what each of them knows.
pub(super) struct Witnesses {
    all: Vec<Told>,
    spool: PathBuf,
    host: String,
    clock: Arc<dyn Clock>,
    states: Arc<ArcSwap<Vec<WitnessState>>>,
}

/// Witnesses that are told, until that is ended.
pub(super) struct Telling {
    stop: oneshot::Sender<()>,
    done: oneshot::Receiver<()>,
}

impl Telling {
    /// Has them told of the last checkpoint, and waits for that, but not long.
    pub(super) async fn end(self) {
        drop(self.stop);
        let _late = timeout(LAST + LOOK, self.done).await;
    }
}

impl Witnesses {
    /// Reads certificates; blocks.
    pub(super) fn open(config: &record::Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let all = config.witness.open(&config.spool, config.free_space_floor);
        let all = all.map_err(|words| StartError::failed("opening [record.witness]")(&words))?;
        let now = clock.monotonic();
        let all: Vec<Told> = all.into_iter().map(|(witness, every)| Told::new(witness, every, now)).collect();
        Ok(Self {
            states: Arc::new(ArcSwap::from_pointee(all.iter().map(|told| told.state.clone()).collect())),
            all,
            spool: config.spool.clone(),
            host: nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned(),
            clock,
        })
    }

    /// What each knows, as it was last told.
    pub(super) fn states(&self) -> Arc<ArcSwap<Vec<WitnessState>>> {
        Arc::clone(&self.states)
    }

    /// Tells whoever is due from now on. Nothing where there is nobody.
    pub(super) fn start(mut self, recorder: Recorder) -> io::Result<Option<Telling>> {
        if self.all.is_empty() {
            return Ok(None);
        }
        let ((stop, stopped), (ended, done)) = (oneshot::channel(), oneshot::channel());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("witness".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = self.keep(&recorder) => {}
                }
                let _late = timeout(LAST, self.round(true)).await;
            });
            let _nobody_waits = ended.send(());
            runtime.shutdown_background();
        })?;
        Ok(Some(Telling { stop, done }))
    }

    async fn keep(&mut self, recorder: &Recorder) {
        loop {
            sleep(LOOK).await;
            for text in self.round(false).await {
                if let Err(error) = recorder.enqueue(SessionId::NONE, Event::Note { text }).await {
                    tracing::error!(%error, "a note on a witness is not on record");
                }
            }
        }
    }

    /// Tells whoever is due. Gives what is worth a line on record.
    async fn round(&mut self, last: bool) -> Vec<String> {
        let now = self.clock.monotonic();
        if !self.all.iter().any(|told| told.has_rested(now, last)) {
            return Vec::new();
        }
        let note = match witness::newest(&self.spool) {
            Ok(Some(note)) => note,
            Ok(None) => return Vec::new(),
            Err(error) => {
                tracing::error!(%error, "the newest checkpoint cannot be read, or what it is of not forced to the disk");
                return Vec::new();
            }
        };
        let statement = Statement { note, host: self.host.clone(), time: self.clock.now() };
        let due = self.all.iter_mut().filter(|told| told.is_due(&statement.note, now, last));
        let tell = due.map(|told| async {
            let result = told.witness.tell(&statement).await;
            (told, result)
        });
        let told = join_all(tell).await;
        let now = self.clock.monotonic();
        let lines = told.into_iter().filter_map(|(told, result)| told.learn(&statement, now, result)).collect();
        self.states.store(Arc::new(self.all.iter().map(|told| told.state.clone()).collect()));
        lines
    }
}

/// One of them.
struct Told {
    witness: Witness,
    every: Duration,
    /// When it is told again.
    next: Duration,
    /// What it was told last.
    note: Option<String>,
    failures: u32,
    failing_since: Option<Duration>,
    /// Whether that it fails is on record.
    on_record: bool,
    state: WitnessState,
}

impl Told {
    fn new(witness: Witness, every: Duration, now: Duration) -> Self {
        let rest = witness.told_ago().map_or(Duration::ZERO, |ago| every.saturating_sub(ago));
        let next = now.saturating_add(rest);
        let state = WitnessState { name: witness.to_string(), told_at: None, frames: None, failing: None };
        Self { witness, every, next, note: None, failures: 0, failing_since: None, on_record: false, state }
    }

    fn has_rested(&self, now: Duration, last: bool) -> bool {
        now >= self.next || (last && self.witness.wants_the_last())
    }

    fn is_due(&self, note: &str, now: Duration, last: bool) -> bool {
        self.has_rested(now, last) && self.note.as_deref() != Some(note)
    }

    /// What is worth a line: that it fails, once, and that it works again.
    fn learn(&mut self, statement: &Statement, now: Duration, result: Result<(), WitnessError>) -> Option<String> {
        match result {
            Ok(()) => {
                tracing::debug!(witness = %self.witness, frames = statement.frames(), "told of a checkpoint");
                self.note = Some(statement.note.clone());
                self.next = now.saturating_add(self.every);
                (self.failures, self.failing_since) = (0, None);
                let (told_at, frames) = (Some(statement.time), Some(statement.frames()));
                self.state = WitnessState { told_at, frames, failing: None, ..self.state.clone() };
                std::mem::take(&mut self.on_record).then(|| format!("{} is told of checkpoints again", self.witness))
            }
            Err(error) => {
                tracing::error!(witness = %self.witness, %error, "a witness is not told of the newest checkpoint");
                self.state.failing = Some(error.to_string());
                let wait = RETRY.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
                self.next = now.saturating_add(wait.min(RETRY_MOST));
                self.failures = self.failures.saturating_add(1);
                let since = *self.failing_since.get_or_insert(now);
                let is_new = now.saturating_sub(since) >= GRACE && !std::mem::replace(&mut self.on_record, true);
                is_new.then(|| format!("{} is not told of checkpoints: {error}", self.witness))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn one() -> Told {
        let config = witness::Config { journald: true, ..witness::Config::default() };
        let (witness, every) = config.open(std::path::Path::new("/"), 0).unwrap().pop().unwrap();
        Told::new(witness, every, Duration::ZERO)
    }

    fn statement(note: &str) -> Statement {
        Statement { note: note.to_owned(), host: String::new(), time: Timestamp(0) }
    }

    #[test]
    fn what_is_known_is_not_told_again_and_a_new_one_waits_its_time() {
        let (mut told, second) = (one(), Duration::from_secs(1));
        assert!(told.is_due("a", Duration::ZERO, false));
        assert_eq!(told.learn(&statement("a"), second, Ok(())), None);
        assert_eq!((told.state.told_at, &told.state.failing), (Some(Timestamp(0)), &None));
        assert!(!told.is_due("a", second * 1000, false) && !told.is_due("a", second, true));
        assert!(!told.is_due("b", second * 60, false) && told.is_due("b", second * 61, false));
        assert!(told.is_due("b", second, true));
    }

    #[test]
    fn one_out_of_reach_is_tried_again_soon_and_told_of_once() {
        let mut told = one();
        let fail = |told: &mut Told, at: u64| {
            let at = Duration::from_secs(at);
            assert!(told.is_due("a", at, false), "{at:?}");
            let text = told.learn(&statement("a"), at, Err(WitnessError::Timeout));
            assert!(!told.is_due("a", at, false));
            text
        };
        for at in [1, 2, 4, 8] {
            assert_eq!(fail(&mut told, at), None);
        }
        assert!(fail(&mut told, 16).unwrap().contains("the journal is not told of checkpoints: no answer"));
        assert!(told.state.failing.as_ref().unwrap().contains("no answer") && told.state.told_at.is_none());
        for at in [32, 64, 128, 256, 512, 812, 1112] {
            assert_eq!(fail(&mut told, at), None);
        }
        let again = told.learn(&statement("a"), Duration::from_secs(1412), Ok(()));
        assert!(again.unwrap().contains("again"));
        assert_eq!(told.state.failing, None);
        assert_eq!(told.learn(&statement("b"), Duration::from_secs(1413), Err(WitnessError::Timeout)), None);
    }
}
