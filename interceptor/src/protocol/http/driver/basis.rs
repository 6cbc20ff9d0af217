//! What a request was permitted by. An answer may go on for hours: where policies are replaced meanwhile, it is judged anew, and
//! ends where it would not pass so any more: while the request is still on its way, or once its answer is a stream. An ordinary answer to a
//! request that the target has got goes to its end, since what it asked for may have been done.

use std::sync::Arc;

use tokio::sync::watch;

use super::served::Served;
use crate::policy::{Command, Denial, Fault, Held, Obligations, Retry};
use crate::protocol::Verdict;

/// Bytes that a request may have to be kept while its answer is under way. What is longer ends when policies are replaced.
const KEPT_LIMIT: usize = 32 * 1024;

/// How far an exchange has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// The target does not have all of the request yet.
    #[default]
    Sending,
    /// It has, and answers as usual.
    Answering,
    /// Its answer goes on for as long as it likes.
    Streaming,
}

/// The same, for whoever waits for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<watch::Sender<Phase>>);

impl Progress {
    /// The target has all of the request.
    pub(super) fn sent(&self) {
        self.0.send_if_modified(|phase| {
            let is_next = *phase == Phase::Sending;
            if is_next {
                *phase = Phase::Answering;
            }
            is_next
        });
    }

    /// The answer is a stream.
    pub(super) fn streams(&self) {
        self.0.send_replace(Phase::Streaming);
    }

    /// Resolves once it may be ended.
    async fn can_end(&self) {
        let mut phase = self.0.subscribe();
        if phase.wait_for(|phase| *phase != Phase::Answering).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What a request was permitted by.
pub(super) struct Basis {
    /// What was judged, where it is short enough to be kept.
    command: Option<Command>,
    policies: u64,
    /// What a human has permitted.
    held: Option<Held>,
    /// What the answer undergoes.
    pub(super) obligations: Obligations,
}

impl Basis {
    pub(super) fn new(command: Command, policies: u64, held: Option<Held>) -> Self {
        let said = command.parameters.iter().filter_map(|parameter| parameter.value.as_ref());
        let fields = command.facts.http.iter().flat_map(|http| &http.fields);
        let said = said.map(bytes::Bytes::len).chain(fields.map(String::len));
        let weight = command.statement.len() + said.sum::<usize>();
        let command = (weight <= KEPT_LIMIT).then_some(command);
        Self { command, policies, held, obligations: Obligations::default() }
    }

    /// Resolves once it is not permitted any more, as it was, and may be ended.
    pub(super) async fn outdated(mut self, served: &Served<'_>, progress: Progress) -> Denial {
        loop {
            served.gate.replaced(self.policies).await;
            self.policies = served.gate.policies();
            if let Some(denial) = self.judged(served).await {
                tokio::select! {
                    () = progress.can_end() => return denial,
                    // What comes next may permit it again.
                    () = served.gate.replaced(self.policies) => {}
                }
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
        let Some(command) = &self.command else { return Some(denial) };
        match Box::pin(served.gate.rejudge(command)).await {
            Ok(Verdict::Permit(permit)) => {
                let (obligations, _recorded) = permit.spend();
                (obligations != self.obligations).then_some(denial)
            }
            Ok(Verdict::Hold(held)) => (self.held.as_ref() != Some(&held)).then_some(denial),
            Ok(Verdict::Ended(why)) => Some(why),
            Err(why) => Some(Denial { reason: format!("{}; what it asked for may have been done", why.reason), ..why }),
        }
    }
}
