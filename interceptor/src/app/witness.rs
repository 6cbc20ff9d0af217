//! Tells witnesses of the newest checkpoint, and says on record where one cannot be told.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::StartError;
use crate::clock::Clock;
use crate::record::witness::{Statement, Witness, WitnessError};
use crate::record::{self, Event, Recorder};
use crate::telemetry::SessionId;

/// How often it is looked whether there is something to tell; a checkpoint is put down at most once a second.
const LOOK: Duration = Duration::from_secs(1);
/// How long they are waited for when the daemon stops.
const LAST: Duration = Duration::from_secs(5);
/// Most bytes of the file with the newest checkpoint.
const NOTE_MAX: u64 = 4096;

/// All witnesses, and what each of them knows.
pub(super) struct Witnesses {
    all: Vec<Told>,
    checkpoint: PathBuf,
    host: String,
    clock: Arc<dyn Clock>,
}

/// One of them.
struct Told {
    witness: Witness,
    every: Duration,
    /// When it was last told, or tried.
    tried: Option<Duration>,
    /// What it was told last.
    note: Option<String>,
    failing: bool,
}

impl Witnesses {
    /// Reads certificates; blocks.
    pub(super) fn open(config: &record::Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let all = config.witness.open(&config.spool);
        let all = all.map_err(|words| StartError::failed("opening [record.witness]")(&words))?;
        let told = |(witness, every)| Told { witness, every, tried: None, note: None, failing: false };
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Ok(Self {
            all: all.into_iter().map(told).collect(),
            checkpoint: config.spool.join(record::CHECKPOINT),
            host: host.trim().to_owned(),
            clock,
        })
    }

    /// Tells whoever is due, until the task ends.
    pub(super) async fn keep(mut self, recorder: Recorder, mut stop: tokio::sync::oneshot::Receiver<()>) {
        if self.all.is_empty() {
            return;
        }
        loop {
            let stopping = tokio::select! {
                _ = &mut stop => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            if stopping {
                let _late = tokio::time::timeout(LAST, self.round(None, true)).await;
                return;
            }
            self.round(Some(&recorder), false).await;
        }
    }

    async fn round(&mut self, recorder: Option<&Recorder>, all: bool) {
        let Some(note) = read(&self.checkpoint) else { return };
        let now = self.clock.monotonic();
        let statement = Statement { note, host: self.host.clone(), time: self.clock.now() };
        let due = self.all.iter_mut().filter(|told| told.is_due(&statement.note, now, all));
        let tell = due.map(|told| async {
            let result = told.witness.tell(&statement).await;
            (told, result)
        });
        for (told, result) in join_all(tell).await {
            if let Some(text) = told.learn(&statement, now, result)
                && let Some(recorder) = recorder
                && let Err(error) = recorder.enqueue(SessionId::NONE, Event::Note { text }).await
            {
                tracing::error!(%error, "a note on a witness is not on record");
            }
        }
    }
}

impl Told {
    fn is_due(&self, note: &str, now: Duration, all: bool) -> bool {
        let rested = self.tried.is_none_or(|tried| now.saturating_sub(tried) >= self.every);
        (rested || all) && self.note.as_deref() != Some(note)
    }

    /// What is worth a line: that it fails, once, and that it works again.
    fn learn(&mut self, statement: &Statement, now: Duration, result: Result<(), WitnessError>) -> Option<String> {
        self.tried = Some(now);
        let failed = std::mem::replace(&mut self.failing, result.is_err());
        match result {
            Ok(()) => {
                self.note = Some(statement.note.clone());
                tracing::debug!(witness = %self.witness, frames = statement.frames(), "told of a checkpoint");
                failed.then(|| format!("{} is told of checkpoints again", self.witness))
            }
            Err(error) => {
                tracing::error!(witness = %self.witness, %error, "a witness is not told of the newest checkpoint");
                (!failed).then(|| format!("{} is not told of checkpoints: {error}", self.witness))
            }
        }
    }
}

fn read(path: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(NOTE_MAX).read_to_string(&mut text).ok()?;
    (!text.is_empty()).then_some(text)
}
