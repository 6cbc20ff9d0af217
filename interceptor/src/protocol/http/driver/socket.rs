//! A WebSocket (RFC 6455): what an agent says is judged message by message, what it is told is masked likewise.
//!
//! Messages are put together before they are judged or masked, up to a limit each. Pings are answered on the leg that they
//! came on; extensions are never agreed on, so that each side says what it says in clear.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex as Kept;
use tokio::sync::Mutex;

use super::exchange::Next;
use super::leg::{LegError, Reader, Writer};
use super::served::{Holding, Served};
use super::{Opened, agent_failed};
use crate::mask::Masker;
use crate::policy::{Denial, Permit};
use crate::protocol::http::codec::RequestHead;
use crate::protocol::http::codec::socket::{Broken, Messages, Said};
use crate::protocol::http::dialect::Place;
use crate::protocol::http::redact::Redaction;
use crate::protocol::http::rewrite::{Counts, Plan, Refused};
use crate::protocol::http::route::Location;
use crate::protocol::http::{BODY_LIMIT, MASK_LIMIT};
use crate::protocol::{Direction, Failure, Impact, Observation, Verdict};

/// Different masks that may apply on one socket: which it is depends on what was permitted on it.
const MASKS_LIMIT: usize = 16;
/// What recordings do not show of what an agent says.
const MESSAGE: Redaction<'_> = Redaction { more: &[], kind: None, call: None, dialect: None };
/// The longest reason that a farewell can have, in bytes.
const REASON_LIMIT: usize = 123;

/// Passes messages on until either side ends it.
pub(in crate::protocol) async fn relay(opened: Opened<'_>) -> Result<Next, Failure> {
    let Opened { served, asked: (head, location), place, plan, agent: (agent, to_agent), target, .. } = opened;
    let (mut from_target, to_target) = target;
    let masks = Kept::new(vec![plan]);
    let (to_agent, to_target) = (Mutex::new(to_agent), Mutex::new(to_target));
    Socket { served, head, location, place, masks, to_agent, to_target }.relay(agent, &mut from_target).await
}

/// A socket between an agent and a target.
struct Socket<'a> {
    served: &'a Served<'a>,
    /// What was asked for, and where.
    head: &'a RequestHead,
    location: &'a Location,
    /// Where what the target says comes from.
    place: Place,
    masks: Kept<Vec<Plan>>,
    to_agent: Mutex<&'a mut Writer>,
    to_target: Mutex<Writer>,
}

/// How one direction ended.
enum End {
    /// Whoever spoke said farewell, or closed.
    Farewell(Option<u16>, Bytes),
    /// Policy, or what an agent broke.
    Refused(Denial, u16),
    /// What the target broke.
    Target(String),
}

impl Socket<'_> {
    /// Passes messages on until either side ends it.
    async fn relay(&self, agent: &mut Reader, target: &mut Reader) -> Result<Next, Failure> {
        let end = tokio::select! {
            end = self.up(agent) => end?,
            end = self.down(target) => end?,
        };
        let (to_agent, to_target) = match end {
            End::Farewell(code, reason) => {
                // What cannot be masked is not said.
                let (reason, cells) = self.masked(&reason).unwrap_or_default();
                if !cells.is_empty() {
                    self.served.observe(Observation::Masked { cells }).await?;
                }
                let reason = shortened(&self.blotted(reason).await?);
                let farewell = Said::Close(code, reason);
                (farewell.clone(), farewell)
            }
            End::Refused(denial, code) => {
                self.served.observe(Observation::Denied(denial.clone())).await?;
                (farewell(&denial, code), Said::Close(Some(1001), Bytes::new()))
            }
            End::Target(why) => {
                let denial = self.served.upstream_fault(&why);
                self.served.observe(Observation::Denied(denial.clone())).await?;
                (farewell(&denial, 1011), Said::Close(Some(1002), Bytes::new()))
            }
        };
        self.tell(&to_agent).await?;
        // It may be gone, and has nothing to say any more.
        let mut bytes = Vec::new();
        to_target.write(&mut bytes, Some(key()?));
        let mut writer = self.to_target.lock().await;
        let _best_effort = send(&mut writer, &bytes).await;
        Ok(Next::Shut)
    }

    /// What the agent says.
    async fn up(&self, agent: &mut Reader) -> Result<End, Failure> {
        let mut messages = Messages::new(true, BODY_LIMIT);
        let mut holding = self.served.holding();
        loop {
            let said = match hear(agent, &mut messages, &mut holding).await? {
                Heard::Said(said) => said,
                Heard::Broken(broken) => {
                    let denial = self.served.agents_fault("a WebSocket", &broken.to_string());
                    return Ok(End::Refused(denial, broken.code()));
                }
                Heard::Closed => return Ok(End::Farewell(Some(1001), Bytes::new())),
                Heard::Failed(error) => return Err(agent_failed(error)),
            };
            match &said {
                Said::Ping(payload) => {
                    let mut bytes = Vec::new();
                    Said::write_pong(&mut bytes, payload, None);
                    // Who is being told something knows that we are there; to wait for that could be to wait for ever.
                    if let Ok(mut writer) = self.to_agent.try_lock() {
                        send(&mut writer, &bytes).await.map_err(agent_failed)?;
                    }
                }
                Said::Pong => {}
                // Its reason is nothing that anybody has judged.
                Said::Close(code, _) => return Ok(End::Farewell(*code, Bytes::new())),
                Said::Text(payload) | Said::Binary(payload) => {
                    holding.set(payload.len())?;
                    match self.judged(&said, payload, agent).await? {
                        Ok(permit) => {
                            if let Err(denial) = self.spend(permit) {
                                return Ok(End::Refused(denial, 1011));
                            }
                        }
                        Err(denial) => return Ok(End::Refused(denial, 1008)),
                    }
                    if let Err(error) = self.pass(&said).await? {
                        return Ok(End::Target(error.to_string()));
                    }
                    holding.set(0)?;
                }
            }
        }
    }

    async fn judged(
        &self,
        said: &Said,
        payload: &Bytes,
        agent: &mut Reader,
    ) -> Result<Result<Permit, Denial>, Failure> {
        let served = self.served;
        let is_text = matches!(said, Said::Text(_));
        let mut command = served.message(self.head, self.location, is_text, payload);
        MESSAGE.command(&mut command, (payload, MESSAGE.body(payload).as_ref()), served.gate);
        Ok(match served.gate.judge(&command).await {
            Ok(Verdict::Permit(permit)) => Ok(permit),
            Ok(Verdict::Ended(denial)) | Err(denial) => Err(denial),
            Ok(Verdict::Hold(held)) => {
                let hold: BoxFuture<'_, _> = served.gate.hold(&command, held, Impact::default());
                tokio::select! {
                    answered = hold => answered,
                    () = agent.gone() => {
                        return Err(Failure::Agent("it left while its message was held".to_owned()));
                    }
                }
            }
        })
    }

    /// What the permit of a message asks of what is said back counts from now on, with all that counted before.
    fn spend(&self, permit: Permit) -> Result<(), Denial> {
        let (obligations, _recorded) = permit.spend();
        let mut masks = self.masks.lock();
        if masks.iter().any(|plan| plan.is_for(&obligations)) {
            return Ok(());
        }
        if masks.len() == MASKS_LIMIT {
            let why = format!("what may be seen on it has changed more than {MASKS_LIMIT} times");
            return Err(self.served.agents_fault("a WebSocket", &why));
        }
        let masker = Masker::new(Arc::clone(&self.served.rules), &obligations);
        masks.push(Plan::of(masker, &self.served.target.name, &self.place, false));
        Ok(())
    }

    /// Sends a message to the target; the inner error is the target's.
    async fn pass(&self, said: &Said) -> Result<Result<(), LegError>, Failure> {
        let mut recorded = Vec::new();
        let shown = match said {
            Said::Text(text) => MESSAGE.body(text).map(|shown| Said::Text(shown.bytes)),
            _ => None,
        };
        shown.as_ref().unwrap_or(said).write(&mut recorded, None);
        self.served.observe(Observation::Data(Direction::FromAgent, recorded.into())).await?;
        let mut bytes = Vec::new();
        said.write(&mut bytes, Some(key()?));
        Ok(send(&mut *self.to_target.lock().await, &bytes).await)
    }

    /// What the target says.
    async fn down(&self, target: &mut Reader) -> Result<End, Failure> {
        let mut messages = Messages::new(false, MASK_LIMIT);
        let mut holding = self.served.holding();
        loop {
            let said = match hear(target, &mut messages, &mut holding).await? {
                Heard::Said(said) => said,
                Heard::Broken(broken) => return Ok(End::Target(broken.to_string())),
                Heard::Closed => return Ok(End::Farewell(Some(1001), Bytes::new())),
                Heard::Failed(error) => return Ok(End::Target(error.to_string())),
            };
            let payload = match &said {
                Said::Ping(payload) => {
                    let mut bytes = Vec::new();
                    Said::write_pong(&mut bytes, payload, Some(key()?));
                    if let Ok(mut writer) = self.to_target.try_lock()
                        && let Err(error) = send(&mut writer, &bytes).await
                    {
                        return Ok(End::Target(error.to_string()));
                    }
                    continue;
                }
                Said::Pong => continue,
                Said::Close(code, reason) => return Ok(End::Farewell(*code, reason.clone())),
                Said::Text(payload) | Said::Binary(payload) => payload,
            };
            holding.set(payload.len())?;
            let masks = self.masks.lock().iter().any(Plan::masks);
            if masks && matches!(said, Said::Binary(_)) {
                return Ok(End::Target("its message has to be masked, and cannot be looked into".to_owned()));
            }
            let payload = match self.masked(payload) {
                Ok((payload, cells)) => {
                    if !cells.is_empty() {
                        self.served.observe(Observation::Masked { cells }).await?;
                    }
                    payload
                }
                Err(refused) => return Ok(End::Target(refused.to_string())),
            };
            let payload = self.blotted(payload).await?;
            let told = if matches!(said, Said::Text(_)) { Said::Text(payload) } else { Said::Binary(payload) };
            self.tell(&told).await?;
            holding.set(0)?;
        }
    }

    /// Without what may not be seen, and how many values that were, by where they stand.
    fn masked(&self, text: &Bytes) -> Result<(Bytes, Counts), Refused> {
        let mut plans: Vec<Plan> = self.masks.lock().iter().filter(|plan| plan.masks()).cloned().collect();
        let is_json = !plans.is_empty() && serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok();
        let (mut text, mut cells) = (text.clone(), Vec::new());
        for plan in plans.drain(..) {
            let (masked, counted) = plan.message(is_json, &text)?;
            text = masked.into();
            cells.extend(counted);
        }
        Ok((text, cells))
    }

    /// Without the credential.
    async fn blotted(&self, payload: Bytes) -> Result<Bytes, Failure> {
        let Some(spellings) = self.served.who().and_then(|who| who.spellings.clone()) else { return Ok(payload) };
        let mut bytes = payload.to_vec();
        if !spellings.blot(&mut bytes) {
            return Ok(payload);
        }
        let text = format!("{} echoed the credential: it was blotted out", self.served.target.name);
        self.served.observe(Observation::Note(text)).await?;
        Ok(bytes.into())
    }

    async fn tell(&self, said: &Said) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        said.write(&mut bytes, None);
        let bytes = Bytes::from(bytes);
        self.served.observe(Observation::Data(Direction::ToAgent, bytes.clone())).await?;
        send(&mut **self.to_agent.lock().await, &bytes).await.map_err(agent_failed)
    }
}

/// A refusal as a farewell.
pub(in crate::protocol) fn farewell(denial: &Denial, code: u16) -> Said {
    let mut text = format!("interceptor: {}", denial.reason);
    for (name, value) in [("rule", &denial.rule), ("remedy", &denial.remedy)] {
        if let Some(value) = value {
            text.push_str(&format!("; {name}: {value}"));
        }
    }
    Said::Close(Some(code), shortened(text.as_bytes()))
}

/// As much of it as fits into a farewell.
pub(in crate::protocol) fn shortened(reason: &[u8]) -> Bytes {
    let mut text = String::from_utf8_lossy(reason).into_owned();
    let end = (0..=REASON_LIMIT.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.truncate(end);
    text.into()
}

pub(in crate::protocol) async fn send(writer: &mut Writer, bytes: &[u8]) -> Result<(), LegError> {
    writer.put(bytes).await?;
    writer.flush().await
}

/// A key that nobody can guess, so that what an agent says does not look like another protocol to whoever stands between
/// (RFC 6455, section 10.3).
pub(in crate::protocol) fn key() -> Result<[u8; 4], Failure> {
    let mut key = [0; 4];
    getrandom::fill(&mut key).map_err(|error| Failure::Upstream(error.to_string()))?;
    Ok(key)
}

/// What came of listening to one side.
pub(in crate::protocol) enum Heard {
    Said(Said),
    Closed,
    Broken(Broken),
    Failed(LegError),
}

/// The next message. Waits as long as it takes; what has come of one counts as held meanwhile. Nothing is lost where this is
/// dropped.
pub(in crate::protocol) async fn hear(
    reader: &mut Reader,
    messages: &mut Messages,
    holding: &mut Holding<'_>,
) -> Result<Heard, Failure> {
    loop {
        match messages.next(reader.input()) {
            Ok(None) => {}
            Ok(Some(said)) => return Ok(Heard::Said(said)),
            Err(broken) => return Ok(Heard::Broken(broken)),
        }
        match reader.fill().await {
            Ok(1..) => {}
            Ok(0) if reader.is_empty() && messages.held() == 0 => return Ok(Heard::Closed),
            Ok(0) => return Ok(Heard::Failed(LegError::Closed)),
            Err(error) => return Ok(Heard::Failed(error)),
        }
        holding.set(reader.input().len() + messages.held())?;
    }
}

/// Whether a request asks for a WebSocket, as RFC 6455, section 4.1, has it; the sentence says what is wrong with one that does.
pub(in crate::protocol) fn asks(head: &RequestHead) -> Result<bool, &'static str> {
    let fields = &head.fields;
    let Some(upgrade) = fields.get("upgrade") else {
        return if fields.lists("connection", "upgrade") { Err("it upgrades to nothing") } else { Ok(false) };
    };
    if !upgrade.eq_ignore_ascii_case(b"websocket") {
        return Err("upgrades to other protocols than WebSocket are not understood, and so not passed on");
    }
    let bodiless = matches!(head.length, crate::protocol::http::codec::Length::Known(0));
    if head.method != "GET" || !bodiless || !fields.lists("connection", "upgrade") {
        return Err("it asks for a WebSocket in a way that is none");
    }
    if fields.text("sec-websocket-version") != Some("13") || !is_key(fields.text("sec-websocket-key")) {
        return Err("it asks for a WebSocket of another version than 13, or without a key");
    }
    Ok(true)
}

fn is_key(key: Option<&str>) -> bool {
    use base64::Engine as _;
    key.is_some_and(|key| base64::engine::general_purpose::STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16))
}
