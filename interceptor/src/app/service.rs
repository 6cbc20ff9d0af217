//! What the service manager is told: readiness, reloads, the state in a line, the stop; and the watchdog, which is fed only
//! while those parts answer without which nobody is served. Without a service manager nothing is said.
//!
//! Watched are the loop that accepts connections and each worker that serves them: both have to answer within the time that
//! the manager allows for a sign of life. Not watched is the recorder: a disk that does not answer is a fault that agents
//! are told of (nothing is forwarded), and a restart would not mend it.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::workers::Pulse;
use crate::session::House;

/// Signs of life within the time that the manager allows.
const SIGNS: u32 = 3;
/// The accept loop answers one question at a time.
const QUESTIONS: usize = 1;

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager was not told");
    }
}

/// The daemon serves.
pub(super) fn ready(house: &House) {
    tell(&[NotifyState::Ready, NotifyState::Status(&state(house))]);
}

/// A reload has begun.
pub(super) fn reloading() {
    let now = NotifyState::monotonic_usec_now();
    let mut state = vec![NotifyState::Reloading, NotifyState::Status("reloading")];
    state.extend(now);
    tell(&state);
}

/// A reload is over.
pub(super) fn reloaded(house: &House, problems: usize) {
    let mut line = state(house);
    if problems > 0 {
        line = format!("not reloaded, {problems} problems: `interceptor check` lists them; {line}");
    }
    tell(&[NotifyState::Ready, NotifyState::Status(&line)]);
}

/// What the manager shows of the state, told where it has changed.
#[derive(Debug, Default)]
pub(super) struct Status(String);

impl Status {
    pub(super) fn tell(&mut self, house: &House) {
        let now = state(house);
        if now != self.0 {
            tell(&[NotifyState::Status(&now)]);
            self.0 = now;
        }
    }
}

/// The daemon stops.
pub(super) fn stopping(house: &House) {
    let line = format!("stopping; {} sessions end", house.registry.len());
    tell(&[NotifyState::Stopping, NotifyState::Status(&line)]);
}

fn state(house: &House) -> String {
    let served = format!("{} sessions, {} targets", house.registry.len(), house.loaded.load().targets.len());
    match house.recorder.health().failing {
        Some(why) => format!("nothing is forwarded, the spool takes nothing: {why}; {served}"),
        None => served,
    }
}

/// Asks the accept loop for a sign of life.
pub(super) type Question = oneshot::Sender<()>;

/// The watchdog, and where the accept loop finds its questions.
pub(super) fn watchdog(workers: Vec<Pulse>) -> (impl Future<Output = ()> + Send + 'static, mpsc::Receiver<Question>) {
    let (accepting, questions) = mpsc::channel(QUESTIONS);
    let watch = async move {
        if let Some(allowed) = sd_notify::watchdog_enabled() {
            watch(allowed, &workers, &accepting).await;
        }
    };
    (watch, questions)
}

async fn watch(allowed: Duration, workers: &[Pulse], accepting: &mpsc::Sender<Question>) {
    let patience = allowed / SIGNS;
    let mut period = tokio::time::interval(patience);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        match timeout(patience, everybody_answers(workers, accepting)).await {
            Ok(()) => tell(&[NotifyState::Watchdog]),
            Err(_elapsed) => {
                tracing::error!("sessions are not served: a worker, or the loop that accepts, does not answer")
            }
        }
    }
}

/// Resolves once everybody has answered.
async fn everybody_answers(workers: &[Pulse], accepting: &mpsc::Sender<Question>) {
    for worker in workers {
        worker.answers().await;
    }
    let (answer, answered) = oneshot::channel();
    // A loop that has ended has nobody to accept: the daemon stops.
    if accepting.send(answer).await.is_ok() {
        let _ended = answered.await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::workers::Workers;
    use super::*;
    use tokio::task::JoinSet;

    const MOMENT: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn a_worker_that_does_not_answer_is_missed() {
        let workers = Workers::start(2).unwrap();
        let (accepting, mut questions) = mpsc::channel::<Question>(QUESTIONS);
        let loop_that_accepts = tokio::spawn(async move {
            while let Some(question) = questions.recv().await {
                let _nobody_waits = question.send(());
            }
        });
        let pulses = workers.pulses();
        assert!(timeout(MOMENT, everybody_answers(&pulses, &accepting)).await.is_ok());
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let mut sessions = JoinSet::new();
        // A session that gives its worker's other sessions no turn.
        workers.serve(&mut sessions, async move {
            let _told = gone.recv();
        });
        assert!(timeout(MOMENT, everybody_answers(&pulses, &accepting)).await.is_err());
        drop(go);
        assert!(timeout(MOMENT * 50, everybody_answers(&pulses, &accepting)).await.is_ok());
        loop_that_accepts.abort();
    }

    #[tokio::test]
    async fn a_loop_that_accepts_nothing_is_missed_and_one_that_has_ended_is_not() {
        let (accepting, mut questions) = mpsc::channel::<Question>(QUESTIONS);
        assert!(timeout(MOMENT, everybody_answers(&[], &accepting)).await.is_err());
        drop(questions.try_recv());
        // It takes the question, and stands still.
        let stuck = tokio::spawn(async move {
            let question = questions.recv().await;
            tokio::time::sleep(MOMENT * 3).await;
            drop((question, questions));
        });
        assert!(timeout(MOMENT, everybody_answers(&[], &accepting)).await.is_err());
        stuck.await.unwrap();
        assert!(timeout(MOMENT, everybody_answers(&[], &accepting)).await.is_ok());
    }
}
