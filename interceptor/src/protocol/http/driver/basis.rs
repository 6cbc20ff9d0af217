//! What a request was permitted by. An answer may go on for hours: where policies are replaced meanwhile, it is judged anew, and
//! ends where it would not pass so any more: while the request is still on its way, once its answer is a stream, and soon after where it is
//! any other. An ordinary answer to a request that the target has got comes to its end, since what it asked for may have been done, but is not
//! waited for: it cannot be told from one that goes on for as long as it likes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::served::{Holding, Served};
use crate::policy::{Command, Denial, Fault, Held, Obligations, Retry};
use crate::protocol::{Failure, Verdict};

/// How long an ordinary answer that has begun goes on once it is not permitted any more.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How far an exchange has come. Some targets answer before they have heard the request out: the one does not say the other.
#[derive(Clone, Copy, Debug, Default)]
struct Phase {
    /// The target has all of the request.
    sent: bool,
    /// It has begun an ordinary answer then.
    told: Option<Instant>,
    /// Its answer goes on for as long as it likes.
    streams: bool,
}

impl Phase {
    /// When it may be ended, which it may since then; nothing where that is not known yet.
    fn end(self, since: Instant) -> Option<Instant> {
        if self.streams || !self.sent {
            return Some(since);
        }
        self.told.map(|begun| begun.max(since) + LAST_WORDS)
    }
}

/// The same, for whoever waits for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<watch::Sender<Phase>>);

impl Progress {
    /// The target has all of the request.
    pub(super) fn sent(&self) {
        self.0.send_modify(|phase| phase.sent = true);
    }

    /// The answer has begun.
    pub(super) fn answers(&self) {
        self.0.send_modify(|phase| phase.told = phase.told.or_else(|| Some(Instant::now())));
    }

    /// The answer is a stream.
    pub(super) fn streams(&self) {
        self.0.send_modify(|phase| phase.streams = true);
    }

    /// Resolves once it may be ended, which it may since then.
    async fn can_end(&self, since: Instant) {
        let mut phase = self.0.subscribe();
        let found = phase.wait_for(|phase| phase.end(since).is_some()).await.ok().and_then(|phase| phase.end(since));
        match found {
            Some(end) => sleep_until(end).await,
            None => std::future::pending().await,
        }
    }
}

/// What a request was permitted by.
pub(super) struct Basis<'a> {
    /// What was judged, but for what nobody but people and the target reads.
    command: Command,
    /// The memory that this takes.
    _held: Holding<'a>,
    policies: u64,
    /// What a human has permitted.
    approved: Option<Held>,
    /// What the answer undergoes.
    pub(super) obligations: Obligations,
}

impl<'a> Basis<'a> {
    pub(super) fn new(
        command: Command,
        policies: u64,
        approved: Option<Held>,
        mut held: Holding<'a>,
    ) -> Result<Self, Failure> {
        let fields = command.facts.http.iter().flat_map(|http| &http.fields);
        held.set(command.statement.len() + fields.map(String::len).sum::<usize>())?;
        let command = Command { parameters: Arc::from([]), ..command };
        Ok(Self { command, _held: held, policies, approved, obligations: Obligations::default() })
    }

    /// Resolves once it is not permitted any more, as it was, and may be ended.
    pub(super) async fn outdated(mut self, served: &Served<'_>, progress: Progress) -> Denial {
        // Since when it was never permitted.
        let mut since = None;
        loop {
            served.gate.replaced(self.policies).await;
            self.policies = served.gate.policies();
            match self.judged(served).await {
                Some(denial) => tokio::select! {
                    () = progress.can_end(*since.get_or_insert_with(Instant::now)) => return denial,
                    // What comes next may permit it again.
                    () = served.gate.replaced(self.policies) => {}
                },
                None => since = None,
            }
        }
    }

    async fn judged(&self, served: &Served<'_>) -> Option<Denial> {
        let changed = "policies have changed since it was permitted; what it asked for may have been done";
        let denial = Denial {
            fault: Fault::Operator,
            retry: Retry::Later,
            remedy: Some("see whether it was done before you send it again".to_owned()),
            ..served.agents_fault(&format!("an answer of {}", served.target.name), changed)
        };
        // Seldom, and large.
        match Box::pin(served.gate.rejudge(&self.command)).await {
            Ok(Verdict::Permit(permit)) => {
                let (obligations, _recorded) = permit.spend();
                (obligations != self.obligations).then_some(denial)
            }
            Ok(Verdict::Hold(held)) => (self.approved.as_ref() != Some(&held)).then_some(denial),
            Ok(Verdict::Ended(why)) => Some(why),
            Err(why) => Some(Denial { reason: format!("{}; what it asked for may have been done", why.reason), ..why }),
        }
    }
}
