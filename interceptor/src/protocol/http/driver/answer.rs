//! The answer of the target, to the agent: passed on as it comes, rewritten where something has to be masked or blotted
//! out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::time::{sleep, timeout};

use super::agent::Answering;
use super::basis::Progress;
use super::exchange::Next;
use super::leg::LegError;
use super::outbox::Outbox;
use super::served::Served;
use super::socket::farewell;
use super::upstream::Hearing;
use super::{FAREWELL_TIMEOUT, agent_failed};
use crate::policy::Denial;
use crate::protocol::http::codec::{Fields, ResponseHead};
use crate::protocol::http::denial;
use crate::protocol::http::dialect::{Asker, Upgrade, WEBSOCKET};
use crate::protocol::http::grpc::{self, Form};
use crate::protocol::http::rewrite::{self, Plan, Rewriter};
use crate::protocol::http::scrub::Spellings;
use crate::protocol::http::transcript::Transcript;
use crate::protocol::{Failure, Observation};

/// How long a text that has to be masked waits for what may go on behind its last line.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long the body of an answer is that goes to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// It has none, whatever its head says.
    Bodiless,
    /// As its head says.
    Known,
    /// It shows when it has ended.
    Streamed,
}

/// An answer that was passed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// The target can be asked again on the same connection.
    pub(super) is_reusable: bool,
}

/// The way of one answer to the agent.
pub(super) struct Delivery<'a> {
    served: &'a Served<'a>,
    pub(super) out: Outbox<'a>,
    /// The connection closes behind the answer.
    pub(super) closes: bool,
    /// The agent expects a body.
    pub(super) with_body: bool,
    /// The agent expects a status of gRPC, in this form.
    pub(super) grpc: Option<Form>,
    /// The target may say nothing for as long as it likes.
    pub(super) endless: bool,
    /// What a refusal names of the request.
    pub(super) asker: Asker,
    /// The target has said all.
    pub(super) heard_all: Arc<AtomicBool>,
    /// The request is in the recording, so that its answer has to be.
    pub(super) on_record: bool,
    /// How far it has come.
    pub(super) progress: Progress,
    /// It goes on as a WebSocket, whose farewell can be said.
    socket: bool,
}

impl<'a> Delivery<'a> {
    pub(super) fn new(served: &'a Served<'a>, answering: Answering<'a>, transcript: Transcript) -> Self {
        Self {
            served,
            out: Outbox::new(served, answering, transcript),
            closes: false,
            with_body: true,
            grpc: None,
            endless: false,
            asker: Asker::default(),
            heard_all: Arc::default(),
            on_record: false,
            progress: Progress::default(),
            socket: false,
        }
    }

    /// Asks the agent for the body.
    pub(super) async fn proceed(&mut self) -> Result<(), Failure> {
        self.out.answering.proceed().await.map_err(agent_failed)
    }

    /// Says natively that it came to nothing, for the record as well.
    pub(super) async fn refuse(&mut self, denial: Denial) -> Result<Next, Failure> {
        self.served.observe(Observation::Denied(denial.clone())).await?;
        let (head, body) = self.refusal(&denial);
        if self.on_record {
            let shown = self.grpc.map_or_else(|| head.clone(), |form| denial::grpc(&denial, form));
            let bare = self.grpc.is_some() || !self.with_body;
            self.out.refused(&shown, if bare { None } else { Some(&body) }).await?;
        }
        self.say((head, body), &denial).await.map_err(agent_failed)?;
        Ok(if self.closes { Next::Shut } else { Next::Open })
    }

    /// The same for a call whose answer may have begun: its status is the last that is said.
    pub(super) async fn refuse_call(&mut self, denial: Denial) -> Result<Next, Failure> {
        if !self.out.begun {
            return self.refuse(denial).await;
        }
        self.served.observe(Observation::Denied(denial.clone())).await?;
        if self.grpc != Some(Form::Native) {
            self.closes = true;
            self.cut().await;
            return Ok(Next::Shut);
        }
        let mut status = denial::grpc(&denial, Form::Native).fields;
        status.remove("content-type");
        self.end(Some(status)).await?;
        Ok(Next::Open)
    }

    /// Ends what is under way, as it is not permitted any more.
    pub(super) async fn withdraw(&mut self, denial: Denial) -> Result<Next, Failure> {
        self.closes = true;
        if !(self.out.begun && self.socket) {
            return self.refuse_call(denial).await;
        }
        self.served.observe(Observation::Denied(denial.clone())).await?;
        self.tell(&denial).await;
        Ok(Next::Shut)
    }

    /// The same, once the upgrade was agreed to that it belongs to.
    pub(super) async fn refuse_upgraded(
        &mut self,
        (head, words): (ResponseHead, Bytes),
        denial: Denial,
    ) -> Result<Next, Failure> {
        self.served.observe(Observation::Denied(denial)).await?;
        (self.out.begun, self.closes) = (true, true);
        self.out.answering.head(&head, false).map_err(agent_failed)?;
        self.out.answering.piece(words, false).await.map_err(agent_failed)?;
        self.out.flush().await?;
        Ok(Next::Shut)
    }

    /// The last words, where anything can still be said.
    pub(super) async fn tell(&mut self, why: &Denial) {
        if self.out.begun {
            self.leave_socket(why).await;
            self.cut().await;
            return;
        }
        let refusal = self.refusal(why);
        let _best_effort = timeout(FAREWELL_TIMEOUT, self.say(refusal, why)).await;
    }

    fn refusal(&self, denial: &Denial) -> (ResponseHead, Bytes) {
        self.served.settings.dialect.refusal_to(denial, &self.asker)
    }

    async fn leave_socket(&mut self, why: &Denial) {
        if let (true, Answering::One { writer, .. }) = (self.socket, &mut self.out.answering) {
            let mut bytes = Vec::new();
            farewell(why, 1008).write(&mut bytes, None);
            let _best_effort = timeout(FAREWELL_TIMEOUT, writer.put(&bytes)).await;
        }
    }

    /// Says a refusal, as the agent expects it.
    pub(super) async fn say(
        &mut self,
        (mut head, body): (ResponseHead, Bytes),
        denial: &Denial,
    ) -> Result<(), LegError> {
        self.out.clear();
        self.out.begun = true;
        let answering = &mut self.out.answering;
        if let Some(form) = self.grpc {
            let mut head = denial::grpc(denial, form);
            if self.closes && matches!(answering, Answering::One { .. }) {
                head.fields.set("connection", "close");
            }
            answering.head(&head, true)?;
            return answering.flush().await;
        }
        if self.closes && matches!(answering, Answering::One { .. }) {
            head.fields.set("connection", "close");
        }
        answering.head(&head, false)?;
        if self.with_body {
            answering.piece(body, true).await?;
        }
        answering.end(None).await
    }

    /// Tells the agent that the target agrees to an upgrade, and how.
    pub(super) async fn agree(
        &mut self,
        heard: Result<ResponseHead, String>,
        upgrade: Upgrade,
    ) -> Result<ResponseHead, Failure> {
        let mut head = heard.map_err(Failure::Upstream)?;
        let agrees = head.fields.get("upgrade").is_some_and(|name| name.eq_ignore_ascii_case(upgrade.as_bytes()));
        if !agrees || head.fields.get("sec-websocket-extensions").is_some() {
            let why = "it agrees to another protocol, or to an extension, that it was not asked for";
            self.closes = true;
            self.fail(why).await?;
            return Err(Failure::Upstream(why.to_owned()));
        }
        self.clean(&mut head).await?;
        head.fields.set("connection", "Upgrade");
        head.fields.set("upgrade", upgrade);
        self.send_head(head.clone(), Extent::Bodiless, true);
        self.socket = upgrade == WEBSOCKET;
        self.progress.streams();
        self.out.flush().await?;
        Ok(head)
    }

    /// Lets the agent see that what it got is not all.
    pub(super) async fn cut(&mut self) {
        self.out.answering.cut().await;
    }

    /// Passes the answer on.
    pub(super) async fn answer(
        &mut self,
        heard: Result<ResponseHead, String>,
        hearing: &mut Hearing<'_>,
        plan: Plan,
    ) -> Result<Told, Failure> {
        let mut head = match heard {
            Ok(head) => head,
            Err(why) => return self.fail(&why).await,
        };
        let bodiless = !self.with_body || matches!(head.status, 204 | 304);
        self.endless |= rewrite::is_stream(&head.fields);
        if self.endless || rewrite::may_go_on(&head.fields) {
            self.progress.streams();
        } else {
            self.progress.answers();
        }
        let ends = head.fields.lists("connection", "close") || hearing.ends_with_close();
        self.clean(&mut head).await?;
        let spellings = self.spellings();
        let masks = plan.masks();
        if bodiless && masks {
            rewrite::conceal(&mut head.fields);
        }
        if head.status == 204 {
            head.fields.remove("content-length");
        }
        if masks {
            grpc::conceal(&mut head.fields);
        }
        // One without a body may bear its trailers in its head, and has to end with it.
        let rewriter =
            if bodiless || hearing.is_over() { None } else { Rewriter::new(plan, spellings.as_deref(), &head) };
        let done = match rewriter {
            None => self.unchanged(head, hearing, bodiless).await?,
            Some(rewriter) => self.rewritten(head, hearing, rewriter, masks).await?,
        };
        match done {
            Ok(()) => Ok(Told { is_reusable: !ends }),
            // The agent sees that it is incomplete: it is cut off.
            Err(why) if self.out.begun => Err(Failure::Upstream(why)),
            Err(why) => self.fail(&why).await,
        }
    }

    /// Takes away from a head what is not the agent's.
    async fn clean(&self, head: &mut ResponseHead) -> Result<(), Failure> {
        head.fields.end_to_end();
        self.served.settings.cookies.answered(&mut head.fields);
        // It would lead past us: HTTP/3 is not spoken here.
        ["alt-svc", "alternate-protocol"].into_iter().for_each(|name| head.fields.remove(name));
        let echoes = self.spellings().is_some_and(|spellings| spellings.blot_head(head));
        self.note_echo(echoes).await
    }

    fn spellings(&self) -> Option<Arc<Spellings>> {
        self.served.who().and_then(|who| who.spellings.clone())
    }

    async fn fail(&mut self, why: &str) -> Result<Told, Failure> {
        self.refuse(self.served.upstream_fault(why)).await?;
        Ok(Told { is_reusable: false })
    }

    /// As it comes. The inner error is the target's.
    async fn unchanged(
        &mut self,
        head: ResponseHead,
        hearing: &mut Hearing<'_>,
        bodiless: bool,
    ) -> Result<Result<(), String>, Failure> {
        let extent = match head.fields.get("content-length") {
            _ if bodiless => Extent::Bodiless,
            Some(_) => Extent::Known,
            None => Extent::Streamed,
        };
        let over = bodiless || (hearing.is_over() && self.out.speaks_two());
        self.send_head(head, extent, over);
        if over {
            self.heard_all.store(true, Ordering::Relaxed);
            return self.out.flush().await.map(Ok);
        }
        loop {
            match self.next(hearing).await? {
                Ok(Some(piece)) => self.out.piece(piece).await?,
                Ok(None) => break,
                Err(why) => return Ok(Err(why)),
            }
        }
        let trailers = match hearing.trailers().await {
            Ok(trailers) => trailers,
            Err(error) => return Ok(Err(error.to_string())),
        };
        self.heard_all.store(true, Ordering::Relaxed);
        self.end(trailers).await.map(Ok)
    }

    /// Rewritten as it comes. What can be refused at its first bytes is refused before anything went out. The inner error is
    /// the target's.
    async fn rewritten(
        &mut self,
        mut head: ResponseHead,
        hearing: &mut Hearing<'_>,
        mut rewriter: Rewriter<'_>,
        masks: bool,
    ) -> Result<Result<(), String>, Failure> {
        let counted = head.fields.get("content-length").is_some();
        rewriter.head(&mut head);
        let mut waits = Some(head);
        if !counted && !rewriter.is_opaque() {
            // Whoever answers in pieces may do so for hours: the agent knows at once that there is an answer.
            self.begin(&mut waits, None);
        }
        let (mut held, mut echoed) = (self.served.holding(), false);
        loop {
            let heard = match self.next_within(hearing, Some(PATIENCE)).await? {
                Some(heard) => heard,
                None => {
                    self.released(&mut rewriter, (&mut waits, &mut echoed)).await?;
                    self.next(hearing).await?
                }
            };
            let piece = match heard {
                Ok(piece) => piece,
                Err(why) => return Ok(Err(why)),
            };
            let ends = piece.is_none() || hearing.is_over();
            let piece = piece.unwrap_or_default();
            if let Some(clean) = rewriter.pass(&piece) {
                let mut rest = Vec::new();
                if ends && let Err(why) = rewriter.finish(&mut rest) {
                    return Ok(Err(why.to_string()));
                }
                self.note(&mut rewriter, &mut echoed).await?;
                let whole = ends.then_some(clean.len() + rest.len());
                if whole.is_some() || !clean.is_empty() {
                    self.begin(&mut waits, whole);
                }
                self.out.piece(clean).await?;
                self.out.piece(rest.into()).await?;
                if ends {
                    break;
                }
                continue;
            }
            let mut rest = &piece[..];
            loop {
                let mut out = Vec::new();
                let pushed = rewriter.push(&mut rest, &mut out).and_then(|more| {
                    if ends && !more {
                        rewriter.finish(&mut out)?;
                    }
                    Ok(more)
                });
                let more = match pushed {
                    Ok(more) => more,
                    Err(why) => return Ok(Err(why.to_string())),
                };
                self.note(&mut rewriter, &mut echoed).await?;
                let whole = (ends && !more).then_some(out.len());
                if whole.is_some() || !out.is_empty() {
                    self.begin(&mut waits, whole);
                }
                self.out.piece(out.into()).await?;
                if !more {
                    break;
                }
                held.set(rewriter.held())?;
                self.out.flush().await?;
                // A few bytes can stand for very many: others have their turn.
                tokio::task::yield_now().await;
            }
            held.set(rewriter.held())?;
            if ends {
                break;
            }
        }
        let trailers = match hearing.trailers().await {
            Ok(trailers) => trailers,
            Err(error) => return Ok(Err(error.to_string())),
        };
        self.heard_all.store(true, Ordering::Relaxed);
        let status = |mut trailers: Fields| {
            trailers.0.retain(|field| !masks || field.name == "grpc-status");
            trailers
        };
        self.end(trailers.map(status)).await.map(Ok)
    }

    /// Passes on what is complete, though nothing has come behind it.
    async fn released(
        &mut self,
        rewriter: &mut Rewriter<'_>,
        (waits, echoed): (&mut Option<ResponseHead>, &mut bool),
    ) -> Result<(), Failure> {
        let mut out = Vec::new();
        if !rewriter.release(&mut out) {
            return Ok(());
        }
        self.note(rewriter, echoed).await?;
        self.begin(waits, None);
        self.out.piece(out.into()).await?;
        self.out.flush().await
    }

    /// Sends the head, if it still waits. `whole`: how much there is, where that is all.
    fn begin(&mut self, waits: &mut Option<ResponseHead>, whole: Option<usize>) {
        let Some(mut head) = waits.take() else { return };
        if let Some(length) = whole {
            head.fields.set("content-length", length.to_string());
        }
        let known = head.fields.get("content-length").is_some();
        self.send_head(head, if known { Extent::Known } else { Extent::Streamed }, false);
    }

    /// What was masked or blotted out is on record before it goes out.
    async fn note(&mut self, rewriter: &mut Rewriter<'_>, echoed: &mut bool) -> Result<(), Failure> {
        let cells = rewriter.take_counts();
        if !cells.is_empty() {
            self.served.observe(Observation::Masked { cells }).await?;
        }
        let found = rewriter.echoed();
        self.note_echo(found && !std::mem::replace(echoed, found)).await
    }

    /// The next piece. What was sent so far goes out before it is waited for.
    async fn next(&mut self, hearing: &mut Hearing<'_>) -> Result<Result<Option<Bytes>, String>, Failure> {
        loop {
            if let Some(heard) = self.next_within(hearing, None).await? {
                return Ok(heard);
            }
        }
    }

    /// The same; nothing where nothing has come for so long. What is being sent is never given up.
    async fn next_within(
        &mut self,
        hearing: &mut Hearing<'_>,
        patience: Option<Duration>,
    ) -> Result<Option<Result<Option<Bytes>, String>>, Failure> {
        let piece = match hearing.piece().now_or_never() {
            Some(piece) => piece,
            None => {
                self.out.flush().await?;
                tokio::select! {
                    piece = hearing.piece() => piece,
                    () = self.out.answering.reset() => {
                        return Err(Failure::Agent("it wants no more of the answer".to_owned()));
                    }
                    () = sleep(patience.unwrap_or_default()), if patience.is_some() => return Ok(None),
                }
            }
        };
        match piece {
            // Whoever follows a log, or what changes, may hear nothing for hours.
            Err(LegError::Stalled(_)) if self.endless => Ok(None),
            piece => Ok(Some(piece.map_err(|error| error.to_string()))),
        }
    }

    async fn note_echo(&self, found: bool) -> Result<(), Failure> {
        if !found {
            return Ok(());
        }
        let text = format!("{} echoed the credential: it was blotted out", self.served.target.name);
        self.served.observe(Observation::Note(text)).await
    }

    /// `over`: nothing follows it.
    fn send_head(&mut self, mut head: ResponseHead, extent: Extent, over: bool) {
        let chunked = extent == Extent::Streamed && !self.out.speaks_two();
        if chunked {
            head.fields.set("transfer-encoding", "chunked");
        }
        if self.closes && !self.out.speaks_two() {
            head.fields.set("connection", "close");
        }
        self.out.head(head, chunked, over);
    }

    async fn end(&mut self, mut trailers: Option<Fields>) -> Result<(), Failure> {
        if let Some(trailers) = &mut trailers {
            trailers.end_to_end();
            self.served.settings.cookies.answered(trailers);
            let found = self.spellings().is_some_and(|spellings| spellings.blot_fields(trailers));
            self.note_echo(found).await?;
        }
        self.out.end(trailers).await
    }
}
