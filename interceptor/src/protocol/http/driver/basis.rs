//! What a request was permitted by. An answer may go on for hours: where policies are replaced meanwhile, it is judged anew, and
//! ends where it would not pass so any more.

use super::served::Served;
use crate::policy::{Command, Denial, Fault, Obligations, Retry};
use crate::protocol::Verdict;

/// Bytes that a request may have to be kept while its answer is under way. What is longer ends when policies are replaced.
const KEPT_LIMIT: usize = 32 * 1024;

/// What a request was permitted by.
pub(super) struct Basis {
    /// What was judged, where it is short enough to be kept.
    command: Option<Command>,
    policies: u64,
    /// A human has permitted it.
    was_held: bool,
    /// What the answer undergoes.
    pub(super) obligations: Obligations,
}

impl Basis {
    pub(super) fn new(command: Command, policies: u64, was_held: bool) -> Self {
        let said = command.parameters.iter().filter_map(|parameter| parameter.value.as_ref());
        let weight = command.statement.len() + said.map(bytes::Bytes::len).sum::<usize>();
        let command = (weight <= KEPT_LIMIT).then_some(command);
        Self { command, policies, was_held, obligations: Obligations::default() }
    }

    /// Resolves once it is not permitted any more, as it was.
    pub(super) async fn outdated(mut self, served: &Served<'_>) -> Denial {
        loop {
            served.gate.replaced(self.policies).await;
            self.policies = served.gate.policies();
            let changed = "policies have changed since it was permitted";
            let denial = Denial {
                fault: Fault::Operator,
                retry: Retry::Later,
                remedy: Some("send it again".to_owned()),
                ..served.agents_fault(&format!("an answer of {}", served.target.name), changed)
            };
            // Seldom, and large.
            let Some(command) = &self.command else { return denial };
            match Box::pin(served.gate.judge(command)).await {
                Ok(Verdict::Permit(permit)) => {
                    let (obligations, _recorded) = permit.spend();
                    if obligations != self.obligations {
                        return denial;
                    }
                }
                Ok(Verdict::Hold(_)) if self.was_held => {}
                Ok(Verdict::Hold(_)) => return denial,
                Ok(Verdict::Ended(denial)) | Err(denial) => return denial,
            }
        }
    }
}
