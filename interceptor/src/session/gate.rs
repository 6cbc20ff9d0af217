//! The gate of one session: identity, then policy -> approval -> record -> permit. Whatever fails on the way is a
//! denial, and is on record before the agent hears of it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::SetOnce;

use super::house::House;
use super::rare::Sort;
use super::registry::Live;
use super::target::BoundTarget;
use crate::approval::{Asked, Digest, Question, Request as ApprovalRequest, Ticket, Waited};
use crate::clock::Timestamp;
use crate::identity::{self, Attest as _, Attested, Candidates, Guarantee, IdentityError};
use crate::mask::Rules;
use crate::policy::{
    Command, Decision, Denial, Denied, Fault, Held, Permit, Permitted, Recorded, Request, Retry, SessionFacts,
};
use crate::protocol::{Admitted, Cancel, Gate, Impact, Login, Observation, Verdict};
use crate::record::{self, Event, Outcome, RecordedVerdict};
use crate::secret::Secret;

/// A token's end is looked at again at least this often, so that a clock that is set does not keep a session open.
const EXPIRY_CHECK: Duration = Duration::from_secs(30);

/// What a driver may ask for, for one session.
pub(super) struct SessionGate {
    pub(super) house: Arc<House>,
    pub(super) live: Arc<Live>,
    pub(super) target: Arc<BoundTarget>,
    pub(super) candidates: Result<Candidates, IdentityError>,
    /// The masking rules that the session began with: their tags are the ones that its answers are masked by.
    pub(super) rules: Arc<Rules>,
    pub(super) attested: SetOnce<Attested>,
    /// Until when what logs in at the target can be used, where that is known.
    pub(super) lease_ends: SetOnce<Timestamp>,
}

impl fmt::Debug for SessionGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionGate").field("live", &self.live).finish_non_exhaustive()
    }
}

impl Gate for SessionGate {
    fn wants_token(&self) -> bool {
        self.candidates.as_ref().is_ok_and(Candidates::wants_token)
    }

    fn attest(&self, presented: Option<Secret>) -> BoxFuture<'_, Result<Admitted, Denial>> {
        Box::pin(async move {
            match self.identify(presented).await {
                Ok(admitted) => Ok(admitted),
                Err(denial) => {
                    self.house.rare.count(Sort::Refused, denial.fault.as_str(), 1);
                    self.record(Event::Refused { denial: denial.clone() }).await?;
                    Err(denial)
                }
            }
        })
    }

    fn judge<'a>(&'a self, command: &'a Command) -> BoxFuture<'a, Result<Verdict, Denial>> {
        Box::pin(self.decide(command))
    }

    fn rejudge<'a>(&'a self, command: &'a Command) -> BoxFuture<'a, Result<Verdict, Denial>> {
        Box::pin(self.decide_anew(command))
    }

    fn seal(&self, bytes: &[u8]) -> Option<String> {
        self.house.approvals.seal(bytes)
    }

    fn hold<'a>(&'a self, command: &'a Command, held: Held, impact: Impact) -> BoxFuture<'a, Result<Permit, Denial>> {
        Box::pin(self.wait_for_human(command, held, impact))
    }

    fn observe(&self, event: Observation) -> BoxFuture<'_, Result<(), Denial>> {
        let counters = &self.live.counters;
        let event = match event {
            Observation::Data(direction, bytes) => {
                let (direction, counter) = match direction {
                    crate::protocol::Direction::FromAgent => (record::Direction::FromAgent, &counters.from_agent),
                    crate::protocol::Direction::ToAgent => (record::Direction::ToAgent, &counters.to_agent),
                };
                counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Event::Data { direction, bytes }
            }
            Observation::Denied(denial) => Event::Denied { denial },
            Observation::Masked { cells } => {
                counters.masked.fetch_add(cells.iter().map(|(_, count)| count).sum(), Ordering::Relaxed);
                Event::Masked { cells }
            }
            Observation::Note(text) => Event::Note { text },
        };
        Box::pin(self.note(event))
    }

    fn holds(&self, bytes: usize) -> Result<(), Denial> {
        self.live.hold(bytes, &self.house.limits).map_err(|reason| {
            tracing::warn!(session = %self.live.id, %reason, "no memory");
            let mut denial = self.denial(Fault::Interceptor, "more memory for this session", &reason, Retry::Later);
            denial.remedy = Some("send less at once, and read what was asked for".to_owned());
            denial
        })
    }

    fn ended(&self) -> BoxFuture<'_, Denial> {
        Box::pin(async {
            let why = tokio::select! {
                why = self.live.ended() => why,
                why = self.token_ended() => why,
            };
            // A session waits here for as long as it lasts: what comes in the end takes its memory then.
            Box::pin(self.note_end(why)).await
        })
    }

    fn leaving(&self) -> BoxFuture<'_, Denial> {
        Box::pin(async {
            let why = tokio::select! {
                why = self.live.leaving() => why,
                why = self.lease_ended() => why,
            };
            Box::pin(self.note_end(why)).await
        })
    }

    fn policies(&self) -> u64 {
        self.house.registry.policies()
    }

    fn replaced(&self, policies: u64) -> BoxFuture<'_, ()> {
        Box::pin(self.house.registry.replaced_since(policies))
    }

    fn publish_cancel(&self, key: Bytes, cancel: Arc<dyn Cancel>) {
        self.house.registry.publish_cancel(self.live.id, key, cancel);
    }

    fn cancel(&self, key: &[u8]) -> BoxFuture<'_, Result<Arc<dyn Cancel>, Denial>> {
        let key = key.to_vec();
        Box::pin(async move {
            let found = self.house.registry.find_cancel(&key);
            let candidates = self.candidates.as_ref().map_err(|error| self.unidentified(error))?;
            // A key of another identity is answered like an unknown one: nothing is to be learned by trying.
            let own = found.filter(|(live, _)| {
                live.target == self.live.target
                    && live.identity().is_some_and(|owner| candidates.names().any(|name| name == &**owner))
            });
            match own {
                Some((live, cancel)) => {
                    self.record(Event::Note { text: format!("cancels what session {} is doing", live.id) }).await?;
                    Ok(cancel)
                }
                None => {
                    let denial = self.denial(
                        Fault::Agent,
                        "a cancel request",
                        "no session of this identity has that key",
                        Retry::Never,
                    );
                    self.house.rare.count(Sort::Refused, denial.fault.as_str(), 1);
                    self.record(Event::Refused { denial: denial.clone() }).await?;
                    Err(denial)
                }
            }
        })
    }
}

impl SessionGate {
    async fn identify(&self, presented: Option<Secret>) -> Result<Admitted, Denial> {
        let candidates = self.candidates.as_ref().map_err(|error| self.unidentified(error))?;
        let attested = self.house.attestor().attest(candidates, presented.as_ref()).await;
        let attested = attested.map_err(|error| self.unidentified(&error))?;
        self.is_held_well(&attested.facts.guarantee)?;
        // This and the lease go to the file in one write with what follows them, at the latest with the verdict on the
        // log-in, before which nothing reaches the target.
        self.note(Event::attested(&attested)).await?;
        let name = Arc::clone(&attested.name);
        self.live.identify(&name, attested.facts.guarantee.level);
        if self.attested.set(attested).is_err() {
            return Err(self.denial(Fault::Interceptor, "a second log-in", "a session has one identity", Retry::Never));
        }
        let lease = self.target.credential.lease().await.map_err(|error| {
            tracing::error!(session = %self.live.id, target = %self.live.target, %error, "no credential");
            let mut denial = self.denial(
                Fault::Operator,
                "the log-in at the target",
                "interceptor has no usable credential for it",
                Retry::Later,
            );
            denial.remedy = Some("the operator finds the cause in interceptor's log".to_owned());
            denial
        })?;
        self.note(Event::Note { text: format!("lease {} of user {}", lease.id, lease.user) }).await?;
        if let Some(until) = lease.until {
            let _only_once = self.lease_ends.set(until);
        }
        Ok(Admitted {
            identity: name,
            login: Login { user: lease.user, password: lease.password, session: lease.session },
        })
    }

    /// Whether the agent is held as well as the target wants.
    fn is_held_well(&self, guarantee: &Guarantee) -> Result<(), Denial> {
        let wanted = self.target.level;
        if guarantee.level >= wanted {
            return Ok(());
        }
        let what = format!("a session at {}", self.target.name);
        let mut reason = format!("the target wants agents that are {wanted}, and this one is {}", guarantee.level);
        if !guarantee.lacks.is_empty() {
            reason.push_str(&format!(": {}", guarantee.lacks.join("; ")));
        }
        let mut denial = self.denial(Fault::Agent, &what, &reason, Retry::Never);
        denial.remedy = Some("start it with `interceptor exec`, or have its unit enrolled".to_owned());
        Err(denial)
    }

    async fn decide(&self, command: &Command) -> Result<Verdict, Denial> {
        // The driver learns of the end when it is next woken, which may be after it has read another command: whoever was told
        // that the session is ended has to be right.
        if let Some(why) = self.live.end_reason() {
            return Ok(Verdict::Ended(why));
        }
        let number = self.live.counters.commands.fetch_add(1, Ordering::Relaxed);
        let decision = self.decision(command, number)?;
        self.live.remember(&command.statement);
        let recorded = self.append(Event::command(command, recorded_verdict(&decision))).await?;
        if let Some(why) = self.live.end_reason() {
            return Ok(Verdict::Ended(why));
        }
        match decision {
            Decision::Permit(permitted) => Ok(Verdict::Permit(permitted.into_permit(recorded))),
            Decision::Hold(held) => {
                self.live.counters.held.fetch_add(1, Ordering::Relaxed);
                Ok(Verdict::Hold(held))
            }
            Decision::Deny(denied) => {
                self.live.counters.denied.fetch_add(1, Ordering::Relaxed);
                Err(self.denied(denied))
            }
        }
    }

    /// The same of what is under way. It is no command of its own: neither counted, nor shown to people as one.
    async fn decide_anew(&self, command: &Command) -> Result<Verdict, Denial> {
        // It was counted itself.
        let number = self.live.counters.commands.load(Ordering::Relaxed).saturating_sub(1);
        let decision = self.decision(command, number)?;
        let found = match &decision {
            Decision::Permit(_) => "is permitted",
            Decision::Hold(_) => "wants an approval",
            Decision::Deny(_) => "is denied",
        };
        let text = format!("judged anew, as policies were replaced: {found} now: {:.200}", command.statement);
        let recorded = self.append(Event::Note { text }).await?;
        match decision {
            Decision::Permit(permitted) => Ok(Verdict::Permit(permitted.into_permit(recorded))),
            Decision::Hold(held) => Ok(Verdict::Hold(held)),
            Decision::Deny(denied) => Err(self.denied(denied)),
        }
    }

    fn decision(&self, command: &Command, number: u64) -> Result<Decision, Denial> {
        let now = self.house.clock.now();
        let loaded = self.house.loaded.load();
        let tags = self.rules.known_tags();
        let request = Request {
            principal: self.attested()?,
            target: &self.live.target,
            command,
            session: SessionFacts { commands: number, age_seconds: now.since(self.live.opened_at).as_secs() },
            now,
            tags: &tags,
        };
        Ok(self.house.decisions.decide(&loaded.policies, &request))
    }

    async fn wait_for_human(&self, command: &Command, held: Held, impact: Impact) -> Result<Permit, Denial> {
        let attested = self.attested()?;
        loop {
            let question = Question {
                digest: Digest::of(&attested.name, &self.live.target, command),
                session: self.live.id,
                identity: attested.name.to_string(),
                facts: attested.facts.clone(),
                groups: attested.groups.to_vec(),
                target: self.live.target.to_string(),
                statement: command.statement.to_string(),
                parameters: show_parameters(&command.parameters),
                actions: command
                    .actions
                    .iter()
                    .map(|action| format!("{} on {}", action.name, action.resource))
                    .collect(),
                held: held.clone(),
                estimated_rows: impact.rows,
                note: impact.note.clone(),
                recent: self.live.recent(),
            };
            let asked = self.house.approvals.ask(question).map_err(|error| self.unapprovable(&error))?;
            let waited = match asked {
                Asked::Granted(approval, request, answer) => Waited::Granted(approval, request, answer),
                Asked::Refused(request, answer) => Waited::Refused(request, answer),
                Asked::Waiting { ticket, fresh } => {
                    self.opened(&ticket, &held, fresh).await?;
                    self.house.approvals.wait(&ticket).await.map_err(|error| self.unapprovable(&error))?
                }
            };
            match waited {
                Waited::Granted(approval, request, answer) => {
                    self.record(approval_event(&request, Some(&answer.approver), Outcome::Redeemed, answer.reason))
                        .await?;
                    return self.permit(held.approve(&approval), approval.request()).await;
                }
                Waited::Refused(request, answer) => {
                    let why = answer.reason.map_or_else(String::new, |reason| format!(": {reason}"));
                    let reason = format!("{} said no to request {}{why}", answer.approver, request.id);
                    let mut denial = self.denial(Fault::Agent, "the command", &reason, Retry::Never);
                    denial.rule = held.rules.first().cloned();
                    return Err(denial);
                }
                Waited::TimedOut => {
                    let reason = format!("nobody of {} answered in time", held.approvers.join(", "));
                    let mut denial = self.denial(Fault::Agent, "the command", &reason, Retry::Later);
                    denial.rule = held.rules.first().cloned();
                    denial.remedy = Some("send it again to ask again".to_owned());
                    return Err(denial);
                }
                // Another connection used the one grant: this command needs one of its own.
                Waited::Taken => {}
            }
        }
    }

    async fn opened(&self, ticket: &Ticket, held: &Held, fresh: bool) -> Result<(), Denial> {
        if !fresh {
            return self.record(Event::Note { text: format!("waits with request {}", ticket.id) }).await;
        }
        tracing::info!(session = %self.live.id, request = %ticket.id, "a command waits for approval");
        self.house.rare.count(Sort::Approval, "asked", 1);
        self.record(Event::HoldOpened {
            request: ticket.id.to_string(),
            approvers: held.approvers.clone(),
            reason: held.reason.clone(),
        })
        .await
    }

    async fn permit(&self, permitted: Permitted, request: &str) -> Result<Permit, Denial> {
        let verdict = RecordedVerdict {
            effect: record::Effect::Permit,
            rules: permitted.shared_rules(),
            reason: Some(format!("approved by request {request}").into()),
        };
        let recorded = self.append(Event::Decision(verdict)).await?;
        self.live.end_reason().map_or_else(|| Ok(permitted.into_permit(recorded)), Err)
    }

    async fn note_end(&self, why: Denial) -> Denial {
        // The session ends all the same when this cannot be recorded: that is the safe side.
        let _unrecorded = self.note(Event::Note { text: format!("ended by interceptor: {}", why.reason) }).await;
        why
    }

    /// Resolves when what logs in at the target cannot be used any longer: whoever connects again gets another.
    async fn lease_ended(&self) -> Denial {
        let until = self.lease_ends.wait().await;
        loop {
            let left = until.since(self.house.clock.now());
            if left.is_zero() {
                let reason = "what the target is shown comes to its end";
                let mut denial = self.denial(Fault::Interceptor, "the session", reason, Retry::Later);
                denial.remedy = Some("connect again: the next session has another".to_owned());
                return denial;
            }
            tokio::time::sleep(left.min(EXPIRY_CHECK)).await;
        }
    }

    /// Resolves when the token has expired and its source has no newer one.
    async fn token_ended(&self) -> Denial {
        let attested = self.attested.wait().await;
        let mut until = attested.token.expires_at;
        loop {
            let left = until.since(self.house.clock.now());
            if left.is_zero() {
                let renewed = match &self.candidates {
                    Ok(candidates) => self.house.attestor().refresh(candidates, attested).await.ok(),
                    Err(_) => None,
                };
                match renewed {
                    Some(renewed) if renewed.token.expires_at > until => {
                        until = renewed.token.expires_at;
                        continue;
                    }
                    Some(_) | None => {
                        let reason = format!("the token of {} expired at {until}", attested.name);
                        let mut denial = self.denial(Fault::Identity, "the session", &reason, Retry::Later);
                        denial.remedy = Some("connect again with a fresh token".to_owned());
                        return denial;
                    }
                }
            }
            tokio::time::sleep(left.min(EXPIRY_CHECK)).await;
        }
    }

    fn attested(&self) -> Result<&Attested, Denial> {
        self.attested.get().ok_or_else(|| {
            self.denial(Fault::Interceptor, "the command", "the session has no identity yet", Retry::Never)
        })
    }

    /// Puts an event on record, and waits until it is there.
    async fn record(&self, event: Event) -> Result<(), Denial> {
        self.append(event).await.map(|_recorded| ())
    }

    async fn append(&self, event: Event) -> Result<Recorded, Denial> {
        self.house.recorder.append(self.live.id, event).await.map_err(|error| self.unrecorded(&error))
    }

    /// Hands an event to the recorder, in order, waiting for a place in its queue only.
    async fn note(&self, event: Event) -> Result<(), Denial> {
        self.house.recorder.enqueue(self.live.id, event).await.map_err(|error| self.unrecorded(&error))
    }

    fn unrecorded(&self, error: &record::RecordError) -> Denial {
        tracing::error!(session = %self.live.id, %error, "not recorded, so not forwarded");
        let reason = match error {
            record::RecordError::Limit(_) => {
                "the recording has come to the bound that its operator has set, and what is not recorded is not forwarded"
            }
            _ => "it cannot be recorded, and what is not recorded is not forwarded",
        };
        let mut denial = self.denial(Fault::Interceptor, "the command", reason, Retry::Later);
        denial.remedy = Some("the operator of this host looks after interceptor's spool".to_owned());
        denial
    }

    fn unapprovable(&self, error: &crate::approval::ApprovalError) -> Denial {
        tracing::error!(session = %self.live.id, %error, "no approval possible");
        self.denial(Fault::Interceptor, "the command", &error.to_string(), Retry::Later)
    }

    fn unidentified(&self, error: &IdentityError) -> Denial {
        Denial {
            fault: match error.fault {
                identity::Fault::Agent => Fault::Identity,
                identity::Fault::Operator => Fault::Operator,
                identity::Fault::Interceptor => Fault::Interceptor,
            },
            what: error.what.clone(),
            rule: None,
            reason: error.reason.clone(),
            remedy: Some(error.remedy.clone()),
            retry: if error.transient { Retry::Later } else { Retry::Never },
            session: self.live.id,
        }
    }

    fn denied(&self, denied: Denied) -> Denial {
        Denial {
            fault: denied.fault,
            what: denied.action,
            rule: denied.rules.first().cloned(),
            reason: denied.reason,
            remedy: denied.remedy,
            retry: denied.retry,
            session: self.live.id,
        }
    }

    fn denial(&self, fault: Fault, what: &str, reason: &str, retry: Retry) -> Denial {
        Denial {
            fault,
            what: what.to_owned(),
            rule: None,
            reason: reason.to_owned(),
            remedy: None,
            retry,
            session: self.live.id,
        }
    }
}

/// The event of an answered, redeemed or expired request.
pub(super) fn approval_event(
    request: &ApprovalRequest,
    approver: Option<&crate::approval::Approver>,
    outcome: Outcome,
    reason: Option<String>,
) -> Event {
    Event::Approval {
        request: request.id.to_string(),
        approver: approver.map(|who| record::Approver { uid: who.uid, name: Some(who.name.clone()) }),
        outcome,
        reason,
    }
}

fn recorded_verdict(decision: &Decision) -> RecordedVerdict {
    match decision {
        Decision::Permit(permitted) => {
            RecordedVerdict { effect: record::Effect::Permit, rules: permitted.shared_rules(), reason: None }
        }
        Decision::Hold(held) => RecordedVerdict {
            effect: record::Effect::Hold,
            rules: Arc::clone(&held.rules),
            reason: Some(held.reason.as_str().into()),
        },
        Decision::Deny(denied) => RecordedVerdict {
            effect: record::Effect::Deny,
            rules: Arc::clone(&denied.rules),
            reason: Some(denied.reason.as_str().into()),
        },
    }
}

/// Bind values, or a body, as approvers see them. What is not shown is counted.
fn show_parameters(parameters: &[crate::policy::Parameter]) -> Vec<String> {
    const ALL: usize = 64 << 10;
    let (mut shown, mut length) = (Vec::new(), 0);
    for (index, parameter) in parameters.iter().enumerate() {
        if length > ALL {
            shown.push(format!("... and {} more, which are not shown", parameters.len() - index));
            break;
        }
        let one = show_parameter(parameter);
        length += one.len();
        shown.push(one);
    }
    shown
}

fn show_parameter(parameter: &crate::policy::Parameter) -> String {
    const TEXT: usize = 16 << 10;
    const BYTES: usize = 256;
    let cut = |shown: String, more: usize, what: &str| match more {
        0 => shown,
        more => format!("{shown}... and {more} more {what}, which are not shown"),
    };
    match &parameter.value {
        None => "NULL".to_owned(),
        Some(value) => match std::str::from_utf8(value) {
            Ok(text) if !parameter.binary => {
                cut(text.chars().take(TEXT).collect(), text.chars().skip(TEXT).count(), "characters")
            }
            _ => {
                let digits: String = value.iter().take(BYTES).map(|byte| format!("{byte:02x}")).collect();
                cut(format!("\\x{digits}"), value.len().saturating_sub(BYTES), "bytes")
            }
        },
    }
}

/// A dial that the operating system, or our time limit, refused.
pub(super) fn dial_failed(address: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{address}: {error}"))
}
