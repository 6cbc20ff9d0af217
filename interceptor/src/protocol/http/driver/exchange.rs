//! One request and its answer, over whichever HTTP: all of it read and found to mean one thing only; the verdict; the
//! target; the answer, masked where it must be. Nothing reaches the target before the permit is spent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use bytes::{Bytes, BytesMut};

use super::agent::{Answering, Asking};
use super::answer::Delivery;
use super::basis::Basis;
use super::calls::Relay;
use super::leg::LegError;
use super::served::{Holding, Served};
use super::upstream::{Hearing, Sending, Way, again};
use super::{Opened, agent_failed};
use crate::clock::{Clock as _, SystemClock};
use crate::mask::Masker;
use crate::policy::{Command, Denial, Fault, Held, Obligations, Permit};
use crate::protocol::http::BODY_LIMIT;
use crate::protocol::http::action::Body;
use crate::protocol::http::claims::{Claim, offers};
use crate::protocol::http::codec::{Length, RequestHead};
use crate::protocol::http::dialect::{Meaning, Place, Upgrade};
use crate::protocol::http::grpc::{self, Form};
use crate::protocol::http::rewrite::{self, Plan};
use crate::protocol::http::route::Location;
use crate::protocol::http::transcript::Transcript;
use crate::protocol::{Direction, Failure, Impact, Observation, Verdict};

/// How long a target that takes no more of a request may take to say why.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(2);

/// A body that is no longer than this, in bytes, stands in one frame of the recording with its head.
const TOGETHER: usize = 8 * 1024;

/// What most heads have, in bytes.
pub(super) const HEAD_EXPECTED: usize = 512;

/// Signatures say when they were made.
static CLOCK: LazyLock<SystemClock> = LazyLock::new(SystemClock::new);

/// How an exchange left a connection of HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum Next {
    /// Ready for the next request.
    Open,
    /// To be closed.
    Shut,
}

/// A request that may be forwarded.
struct Permitted<'a> {
    head: RequestHead,
    location: Location,
    sent: Sent,
    permit: Permit,
    /// Where its answer comes from.
    place: Place,
    held: Holding<'a>,
    basis: Basis<'a>,
}

/// A request whose permit is spent.
struct Spent<'a> {
    head: RequestHead,
    location: Location,
    sent: Sent,
    obligations: Obligations,
    place: Place,
    held: Holding<'a>,
}

/// What is known of a request's body.
struct Sent {
    known: Bytes,
    /// The same as recordings have it, where that is another.
    shown: Option<Bytes>,
    /// How long all of it is, where its head said so.
    length: Option<u64>,
    /// The agent waits to be asked for it.
    expects: bool,
    /// All of it is in the recording.
    on_record: bool,
}

/// Why the rest of a request was not sent.
pub(super) enum Unsent {
    /// The agent broke it off.
    Agent(Failure),
    /// A message of it may not pass.
    Denied(Denial),
    /// The target takes no more.
    Target(LegError),
}

/// One request and its answer.
pub(super) struct Exchange<'a> {
    pub(super) served: &'a Served<'a>,
    pub(super) asking: Asking<'a>,
    pub(super) delivery: Delivery<'a>,
    pub(super) transcript: Transcript,
}

impl<'a> Exchange<'a> {
    /// Serves it. Whoever can still be told of a failure has been told.
    pub(super) async fn run(mut self, head: RequestHead) -> Result<Next, Failure> {
        let served = self.served;
        self.delivery.closes = head.fields.lists("connection", "close");
        self.delivery.with_body = head.method != "HEAD";
        let is_two = self.delivery.out.speaks_two();
        self.delivery.grpc = grpc::form(&head.fields).filter(|form| is_two || *form != Form::Native);
        let done = tokio::select! {
            done = self.attempt(head) => done,
            why = served.ended() => {
                self.delivery.closes = true;
                self.delivery.tell(&why).await;
                return Ok(Next::Shut);
            }
        };
        match &done {
            Err(Failure::Denied(why) | Failure::Overfull(why)) => {
                self.delivery.closes = true;
                self.delivery.tell(why).await;
            }
            Err(_) => self.delivery.cut().await,
            Ok(_) => {}
        }
        done
    }

    async fn attempt(&mut self, head: RequestHead) -> Result<Next, Failure> {
        let upgraded = head.fields.get("upgrade").is_some().then(|| head.clone());
        let denial = match self.permit(head).await? {
            Ok(permitted) => return self.forward(permitted).await,
            Err(denial) => denial,
        };
        let dialect = self.served.settings.dialect;
        match upgraded.and_then(|head| dialect.refusal_of_upgrade(&head, &denial)) {
            Some(told) if self.asking.is_over() => self.delivery.refuse_upgraded(told, denial).await,
            _ => self.refuse(denial).await,
        }
    }

    /// Says natively that it came to nothing. What was not read of the request would be taken for the next one.
    async fn refuse(&mut self, denial: Denial) -> Result<Next, Failure> {
        self.delivery.closes |= !self.asking.is_over();
        self.delivery.refuse(denial).await
    }

    /// Reads the request, and has it judged.
    async fn permit(&mut self, mut head: RequestHead) -> Result<Result<Permitted<'a>, Denial>, Failure> {
        self.served.settings.dialect.clean(&mut head);
        self.served.settings.log_in.clean(&mut head);
        // What one says of the next is not to be lost between two fields.
        head.fields.join(offers::FIELD);
        if let Err(denial) = self.served.check_delegation(&head) {
            return Ok(Err(denial));
        }
        self.served.claimed(&mut head, Claim::Gone).await?;
        let location = match self.served.checked(&head) {
            Ok(location) => location,
            Err(denial) => return Ok(Err(denial)),
        };
        let mut held = self.served.holding();
        let (body, mut sent) = match self.read_body(&head, &mut held).await? {
            Ok(read) => read,
            Err(denial) => return Ok(Err(denial)),
        };
        let policies = self.served.gate.policies();
        let Meaning { mut command, place, asker } = self.served.meaning(&head, &location, &body);
        let redaction = self.served.redaction(&head, &location);
        let shown = redaction.body(&sent.known);
        redaction.command(&mut command, (&sent.known, shown.as_ref()), self.served.gate);
        sent.shown = shown.map(|shown| shown.bytes);
        let told = command.facts.http.as_ref().map_or(0, |http| http.fields.iter().map(String::len).sum());
        held.set(sent.known.len() + told)?;
        self.delivery.asker = asker;
        let (permit, approved) = match self.judged(&command).await? {
            Ok(permitted) => permitted,
            Err(denial) => return Ok(Err(denial)),
        };
        held.set(sent.known.len())?;
        let basis = Basis::new(command, policies, approved, self.served.holding())?;
        Ok(Ok(Permitted { head, location, sent, permit, place, held, basis }))
    }

    /// As much of the body as is looked into.
    async fn read_body(
        &mut self,
        head: &RequestHead,
        held: &mut Holding<'_>,
    ) -> Result<Result<(Body, Sent), Denial>, Failure> {
        let expects = head.fields.lists("expect", "100-continue");
        let length = match head.length {
            Length::Known(length) => Some(length),
            Length::Chunked | Length::UntilClose => None,
        };
        let unread = |expects| Sent { known: Bytes::new(), shown: None, length, expects, on_record: false };
        let call = self.served.call(head);
        let is_stream = match call {
            Some(call) => call.is_stream(),
            None => grpc::form(&head.fields) == Some(Form::Native),
        };
        if is_stream && !self.asking.is_over() {
            // What is compressed in messages that are looked into passes without that, and is longer.
            let length = if call.is_some() { None } else { length };
            return Ok(Ok((Body::Stream, Sent { length, ..unread(expects) })));
        }
        if length.is_some_and(|length| length > BODY_LIMIT as u64) {
            return Ok(Ok((Body::Long(length), unread(expects))));
        }
        if expects && !self.asking.is_over() && self.asking.is_silent() {
            self.delivery.proceed().await?;
        }
        match self.gather(held).await? {
            Ok((known, whole)) => {
                let known = if whole && let Some(call) = call { call.plain(known) } else { known };
                let body = if whole { Body::Whole(known.clone()) } else { Body::Long(None) };
                let length = if whole { Some(known.len() as u64) } else { length };
                Ok(Ok((body, Sent { known, shown: None, length, expects: false, on_record: false })))
            }
            Err(error @ (LegError::Malformed(_) | LegError::Stalled(_))) => {
                Ok(Err(self.served.agents_fault("the request", &error.to_string())))
            }
            Err(error) => Err(agent_failed(error)),
        }
    }

    /// What comes of the body, up to the limit, and whether that is all of it. It counts as held from its first piece on: an
    /// agent may send the last one never.
    async fn gather(&mut self, held: &mut Holding<'_>) -> Result<Result<(Bytes, bool), LegError>, Failure> {
        let mut known = BytesMut::new();
        loop {
            match self.asking.piece().await {
                Ok(Some(piece)) => known.extend_from_slice(&piece),
                Ok(None) => return Ok(Ok((known.freeze(), true))),
                Err(error) => return Ok(Err(error)),
            }
            held.set(known.len())?;
            if known.len() > BODY_LIMIT {
                return Ok(Ok((known.freeze(), false)));
            }
        }
    }

    /// The verdict. An agent that leaves meanwhile takes its request along; one that is held stays, for the next time.
    async fn judged(&mut self, command: &Command) -> Result<Result<(Permit, Option<Held>), Denial>, Failure> {
        let gate = self.served.gate;
        Ok(match gate.judge(command).await {
            Ok(Verdict::Permit(permit)) => Ok((permit, None)),
            Ok(Verdict::Ended(denial)) | Err(denial) => Err(denial),
            Ok(Verdict::Hold(held)) => {
                let left = || Failure::Agent("it left while its request was held".to_owned());
                let approved = Some(held.clone());
                tokio::select! {
                    answered = gate.hold(command, held, Impact::default()) => answered.map(|permit| (permit, approved)),
                    () = self.asking.gone() => return Err(left()),
                    () = self.delivery.out.answering.reset() => return Err(left()),
                }
            }
        })
    }

    /// Sends what is permitted, and passes the answer on, for as long as it is permitted.
    async fn forward(&mut self, permitted: Permitted<'_>) -> Result<Next, Failure> {
        let Permitted { head, location, sent, permit, place, held, mut basis } = permitted;
        let (obligations, _recorded) = permit.spend();
        basis.obligations = obligations.clone();
        let (served, progress) = (self.served, self.delivery.progress.clone());
        tokio::select! {
            biased;
            done = self.pass(Spent { head, location, sent, obligations, place, held }) => done,
            denial = basis.outdated(served, progress) => self.delivery.withdraw(denial).await,
        }
    }

    async fn pass(&mut self, spent: Spent<'_>) -> Result<Next, Failure> {
        let Spent { mut head, location, sent, obligations, place, held } = spent;
        let served = self.served;
        self.delivery.endless = served.settings.dialect.is_endless(&head, &location);
        let upgrade = served.settings.dialect.upgrade(&head, &location).ok().flatten();
        let asked = upgrade.map(|upgrade| (upgrade, head.clone()));
        let plan = {
            let masker = Masker::new(Arc::clone(&served.rules), &obligations);
            if served.settings.dialect.is_open(&head, &location) {
                Plan::open()
            } else {
                let (target, dialect) = (&served.target.name, served.settings.dialect);
                Plan::of(masker, target, &place, dialect.nests()).failing(
                    target,
                    &place,
                    dialect.words_of_failure(&head),
                )
            }
        };
        let called = served.called(&head, &location);
        let plan = plan.speaking(&called);
        let streamed = called.known().filter(|call| call.is_stream()).map(|call| (call, head.clone()));
        let way = match served.upstreams.reach().await {
            Ok(way) => way,
            Err(why) => return self.refuse(served.upstream_fault(&why)).await,
        };
        served.claimed(&mut head, Claim::Judged).await?;
        if let Err(why) = self.prepare(&mut head, (&sent, upgrade), &way, plan.masks()) {
            let denial = Denial { fault: Fault::Operator, ..served.agents_fault("the log-in at the target", &why) };
            return self.refuse(denial).await;
        }
        let over = self.asking.is_over() && sent.known.is_empty();
        let sent = self.record(&head, sent, over).await?;
        self.delivery.on_record = true;
        let (mut sending, hearing) = match way.begin(&head, over).await {
            Ok(begun) => begun,
            Err(error) => return self.refuse(served.upstream_fault(&error.to_string())).await,
        };
        if sent.expects {
            if let Err(error) = sending.flush().await {
                return self.refuse(served.upstream_fault(&error.to_string())).await;
            }
            self.delivery.proceed().await?;
        }
        match asked {
            Some((upgrade, asked)) => {
                // Seldom, and large.
                Box::pin(self.upgraded((upgrade, &asked, &location), (sending, hearing), (plan, place))).await
            }
            None => {
                let location = &location;
                let relay = streamed.as_ref().map(|(call, head)| Relay {
                    served,
                    call: *call,
                    head,
                    location,
                    plan: plan.clone(),
                });
                self.answer((sent, held, over), (sending, hearing), plan, relay).await
            }
        }
    }

    /// Puts the request on record: its head, and with it all of its body where that is short. `over`: it has none.
    async fn record(&mut self, head: &RequestHead, mut sent: Sent, over: bool) -> Result<Sent, Failure> {
        self.transcript = self.transcript.framed(head.fields.get("transfer-encoding").is_some());
        let mut recorded = Vec::with_capacity(HEAD_EXPECTED + sent.known.len().min(TOGETHER));
        self.transcript.put_request(&mut recorded, head, &self.served.settings.log_in, over);
        sent.on_record = self.asking.is_over() && sent.known.len() <= TOGETHER;
        if sent.on_record && !over {
            self.transcript.put_piece(&mut recorded, sent.shown.as_ref().unwrap_or(&sent.known));
            self.transcript.put_end(&mut recorded, None);
        }
        self.served.observe(Observation::Data(Direction::FromAgent, recorded.into())).await?;
        Ok(sent)
    }

    /// Passes messages on, where the target agrees to that.
    async fn upgraded(
        &mut self,
        (upgrade, head, location): (Upgrade, &RequestHead, &Location),
        (mut sending, mut hearing): (Sending, Hearing<'_>),
        (plan, place): (Plan, Place),
    ) -> Result<Next, Failure> {
        if let Err(error) = sending.flush().await {
            return self.refuse(self.served.upstream_fault(&error.to_string())).await;
        }
        let heard = tokio::select! {
            heard = hearing.head(false) => heard,
            () = self.asking.gone() => return Err(Failure::Agent("it left before the answer".to_owned())),
        };
        let Self { served, asking, delivery, .. } = self;
        if !matches!(&heard, Ok(head) if head.status == 101) {
            delivery.closes = true;
            return delivery.answer(heard, &mut hearing, plan).await.map(|_| Next::Shut);
        }
        let agreed = delivery.agree(heard, upgrade).await?;
        let (Asking::One { reader: agent, .. }, Answering::One { writer, .. }) = (asking, &mut delivery.out.answering)
        else {
            return Err(Failure::Agent("it upgrades HTTP/2".to_owned()));
        };
        let (Sending::One { writer: to_target, .. }, Hearing::One { reader, .. }) = (sending, hearing) else {
            return Err(Failure::Upstream("it upgrades HTTP/2".to_owned()));
        };
        let opened = Opened {
            served,
            asked: (head, location),
            place,
            plan,
            agreed: &agreed,
            agent: (agent, writer),
            target: (reader, to_target),
        };
        served.settings.dialect.relay(opened).await
    }

    /// The head as the target gets it.
    fn prepare(
        &self,
        head: &mut RequestHead,
        (sent, upgrade): (&Sent, Option<Upgrade>),
        way: &Way<'_>,
        masks: bool,
    ) -> Result<(), String> {
        let trailers = way.is_two() && head.fields.lists("te", "trailers");
        head.fields.end_to_end();
        if let Some(upgrade) = upgrade {
            if way.is_two() {
                return Err("the target speaks HTTP/2, which upgrades nothing".to_owned());
            }
            head.fields.set("connection", "Upgrade");
            head.fields.set("upgrade", upgrade);
            // Nothing is agreed on that would have to be understood.
            head.fields.remove("sec-websocket-extensions");
        }
        self.served.settings.cookies.asked(&mut head.fields);
        head.fields.remove("expect");
        head.fields.remove("content-length");
        match sent.length {
            Some(0) if !has_content(&head.method) => {}
            Some(length) => head.fields.set("content-length", length.to_string()),
            None if way.is_two() => {}
            None => head.fields.set("transfer-encoding", "chunked"),
        }
        if trailers {
            head.fields.set("te", "trailers");
        }
        let who = self.served.who().ok_or("the agent has no identity yet")?;
        if masks || who.spellings.is_some() {
            // What is looked through has to come so that it can be decoded.
            head.fields.set("accept-encoding", rewrite::accepted(&head.fields));
            if grpc::form(&head.fields).is_some() {
                head.fields.set("grpc-accept-encoding", "identity");
            }
            head.fields.remove("connect-accept-encoding");
        }
        if masks {
            self.served.settings.dialect.readable(head);
        }
        let body = self.asking.is_over().then_some(&sent.known[..]);
        self.served.settings.log_in.put(head, &who.admitted.login, (CLOCK.now(), body))
    }

    /// Sends the body, and passes the answer on, which some targets begin before they have heard the request out. `over`: the
    /// head has said that nothing follows it.
    async fn answer(
        &mut self,
        (sent, held, over): (Sent, Holding<'_>, bool),
        (mut sending, mut hearing): (Sending, Hearing<'_>),
        plan: Plan,
        relay: Option<Relay<'_>>,
    ) -> Result<Next, Failure> {
        let served = self.served;
        let Self { asking, delivery, transcript, .. } = self;
        let asked_head = !delivery.with_body;
        let left = || Failure::Agent("it left before the answer".to_owned());
        let sent = {
            let progress = delivery.progress.clone();
            let rest = async {
                let done = match &relay {
                    Some(relay) => relay.run(asking, &mut sending, (*transcript, held, over)).await,
                    None => send_rest(served, asking, &mut sending, (*transcript, sent, held, over)).await,
                };
                if done.is_ok() {
                    progress.sent();
                }
                done
            };
            tokio::pin!(rest);
            tokio::select! {
                biased;
                sent = &mut rest => sent,
                early = hearing.head(asked_head) => {
                    delivery.closes = true;
                    let told = {
                        // Seldom, and large.
                        let mut told = Box::pin(delivery.answer(early, &mut hearing, plan));
                        tokio::select! {
                            told = &mut told => Ok(told?),
                            sent = &mut rest => match sent {
                                Err(Unsent::Agent(failure)) => return Err(failure),
                                Err(Unsent::Denied(denial)) => Err(denial),
                                Ok(()) | Err(Unsent::Target(_)) => Ok(told.await?),
                            }
                        }
                    };
                    return match told {
                        Ok(_told) => Ok(Next::Shut),
                        Err(denial) => delivery.refuse_call(denial).await,
                    };
                }
                // While a message of it is held, nothing is read that would say so.
                () = delivery.out.answering.reset(), if relay.is_some() => return Err(left()),
            }
        };
        let complete = sent.is_ok();
        let heard = match sent {
            Err(Unsent::Agent(failure)) => return Err(failure),
            Err(Unsent::Denied(denial)) => {
                delivery.closes |= !asking.is_over();
                return delivery.refuse_call(denial).await;
            }
            Err(Unsent::Target(error)) => {
                delivery.closes |= !asking.is_over();
                let words = tokio::time::timeout(LAST_WORDS, hearing.head(asked_head)).await;
                words.unwrap_or_else(|_silent| Err(error.to_string()))
            }
            Ok(()) => tokio::select! {
                heard = hearing.head(asked_head) => heard,
                () = asking.gone() => return Err(left()),
                () = delivery.out.answering.reset() => return Err(left()),
            },
        };
        let over = Arc::clone(&delivery.heard_all);
        let told = tokio::select! {
            biased;
            told = delivery.answer(heard, &mut hearing, plan) => told?,
            () = leaves(asking, &over) => return Err(left()),
        };
        if complete
            && told.is_reusable
            && let Some(leg) = again(sending, hearing)
        {
            served.upstreams.keep(leg);
        }
        Ok(if delivery.closes { Next::Shut } else { Next::Open })
    }
}

/// Resolves when the agent leaves before the target has said all.
async fn leaves(asking: &mut Asking<'_>, heard_all: &AtomicBool) {
    asking.gone().await;
    if heard_all.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

/// Sends what was read of a body, and passes on what is still to come of it.
async fn send_rest(
    served: &Served<'_>,
    asking: &mut Asking<'_>,
    sending: &mut Sending,
    (transcript, sent, held, over): (Transcript, Sent, Holding<'_>, bool),
) -> Result<(), Unsent> {
    let Sent { known, shown, length, on_record, .. } = sent;
    let mut count = known.len() as u64;
    // Of what is longer or shorter than its head has said, the target would take the rest for another request.
    let counts = |count: u64, ends: bool| match length {
        Some(length) if count > length || (ends && count < length) => {
            Err(Unsent::Agent(Failure::Agent(format!("its body has other than the {length} bytes that it says"))))
        }
        _ => Ok(()),
    };
    if over {
        return sending.end().await.map_err(Unsent::Target);
    }
    let record = async |bytes: Bytes| {
        if on_record || bytes.is_empty() {
            return Ok(());
        }
        served.observe(Observation::Data(Direction::FromAgent, bytes)).await.map_err(Unsent::Agent)
    };
    counts(count, false)?;
    if !known.is_empty() {
        record(transcript.piece(shown.as_ref().unwrap_or(&known))).await?;
        sending.piece(known).await.map_err(Unsent::Target)?;
        drop(held);
    }
    while !asking.is_over() {
        sending.flush().await.map_err(Unsent::Target)?;
        let Some(piece) = asking.piece().await.map_err(|error| Unsent::Agent(agent_failed(error)))? else { break };
        if !piece.is_empty() {
            count += piece.len() as u64;
            counts(count, false)?;
            record(transcript.piece(&piece)).await?;
            sending.piece(piece).await.map_err(Unsent::Target)?;
        }
    }
    counts(count, true)?;
    let mut recorded = Vec::new();
    transcript.put_end(&mut recorded, None);
    record(recorded.into()).await?;
    sending.end().await.map_err(Unsent::Target)
}

/// Whether a request without a body says so (RFC 9110, section 8.6).
fn has_content(method: &str) -> bool {
    matches!(method, "POST" | "PUT" | "PATCH")
}
