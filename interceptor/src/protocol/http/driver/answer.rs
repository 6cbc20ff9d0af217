//! The answer of the target, to the agent: passed on as it comes where nothing is masked, as a whole where something is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::time::timeout;

use super::agent::Answering;
use super::exchange::Next;
use super::leg::LegError;
use super::served::Served;
use super::socket::farewell;
use super::upstream::Hearing;
use super::{FAREWELL_TIMEOUT, agent_failed};
use crate::mask::{Carrier, Masker, Outcome};
use crate::policy::Denial;
use crate::protocol::http::codec::{Fields, ResponseHead};
use crate::protocol::http::scrub::Scrub;
use crate::protocol::http::transcript::Transcript;
use crate::protocol::http::{MASK_LIMIT, denial, inject};
use crate::protocol::{Direction, Failure, Observation};

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
    pub(super) answering: Answering<'a>,
    transcript: Transcript,
    /// The connection closes behind the answer.
    pub(super) closes: bool,
    /// The agent expects a body.
    pub(super) with_body: bool,
    /// The agent expects a status of gRPC.
    pub(super) grpc: bool,
    /// The target has said all.
    pub(super) heard_all: Arc<AtomicBool>,
    /// Part of an answer is out: nothing else can be said.
    begun: bool,
    /// But in a farewell of a WebSocket.
    socket: bool,
}

impl<'a> Delivery<'a> {
    pub(super) fn new(served: &'a Served<'a>, answering: Answering<'a>, transcript: Transcript) -> Self {
        Self {
            served,
            answering,
            transcript,
            closes: false,
            with_body: true,
            grpc: false,
            heard_all: Arc::default(),
            begun: false,
            socket: false,
        }
    }

    /// Asks the agent for the body.
    pub(super) async fn proceed(&mut self) -> Result<(), Failure> {
        self.answering.proceed().await.map_err(agent_failed)
    }

    /// Says natively that it came to nothing, for the record as well.
    pub(super) async fn refuse(&mut self, denial: Denial) -> Result<Next, Failure> {
        self.served.observe(Observation::Denied(denial.clone())).await?;
        self.say(denial::problem(&denial), &denial).await.map_err(agent_failed)?;
        Ok(if self.closes { Next::Shut } else { Next::Open })
    }

    /// The last words, where anything can still be said.
    pub(super) async fn tell(&mut self, why: &Denial) {
        if self.begun {
            self.leave_socket(why).await;
            self.cut().await;
            return;
        }
        let _best_effort = timeout(FAREWELL_TIMEOUT, self.say(denial::problem(why), why)).await;
    }

    async fn leave_socket(&mut self, why: &Denial) {
        if let (true, Answering::One { writer, .. }) = (self.socket, &mut self.answering) {
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
        self.begun = true;
        if self.grpc {
            return self.answering.head(&denial::grpc(denial), true).await;
        }
        if self.closes && matches!(self.answering, Answering::One { .. }) {
            head.fields.set("connection", "close");
        }
        self.answering.head(&head, false).await?;
        if self.with_body {
            self.answering.piece(body).await?;
        }
        self.answering.end(None).await
    }

    /// Tells the agent that the target agrees to a WebSocket.
    pub(super) async fn agree(&mut self, heard: Result<ResponseHead, String>) -> Result<(), Failure> {
        let mut head = heard.map_err(Failure::Upstream)?;
        let is_socket = head.fields.get("upgrade").is_some_and(|name| name.eq_ignore_ascii_case(b"websocket"));
        if !is_socket || head.fields.get("sec-websocket-extensions").is_some() {
            let why = "it agrees to another protocol, or to an extension, that it was not asked for";
            self.fail(why).await?;
            return Err(Failure::Upstream(why.to_owned()));
        }
        head.fields.end_to_end();
        let spellings = self.served.who().and_then(|who| who.spellings.clone());
        let echoes = spellings.is_some_and(|spellings| spellings.blot_head(&mut head));
        self.note_echo(echoes).await?;
        head.fields.set("connection", "Upgrade");
        head.fields.set("upgrade", "websocket");
        self.send_head(head, Extent::Bodiless, true).await?;
        self.socket = true;
        self.flush().await
    }

    /// Lets the agent see that what it got is not all.
    pub(super) async fn cut(&mut self) {
        self.answering.cut().await;
    }

    /// Passes the answer on.
    pub(super) async fn answer(
        &mut self,
        heard: Result<ResponseHead, String>,
        hearing: &mut Hearing<'_>,
        masker: Masker,
    ) -> Result<Told, Failure> {
        let mut head = match heard {
            Ok(head) => head,
            Err(why) => return self.fail(&why).await,
        };
        let bodiless = !self.with_body || matches!(head.status, 204 | 304);
        let ends = head.fields.lists("connection", "close") || hearing.ends_with_close();
        head.fields.end_to_end();
        // It would lead past us: HTTP/3 is not spoken here.
        ["alt-svc", "alternate-protocol"].into_iter().for_each(|name| head.fields.remove(name));
        let spellings = self.served.who().and_then(|who| who.spellings.clone());
        let echoes = spellings.as_ref().is_some_and(|spellings| spellings.blot_head(&mut head));
        self.note_echo(echoes).await?;
        if spellings.is_some() && !hearing.is_over() && is_encoded(&head) {
            let why = "its answer is compressed, though it was asked for one that is not, and may echo the credential; \
                       where it never does, say `scrub = false` in [target.http]";
            return self.fail(why).await;
        }
        let done = if masker.scans() && !bodiless {
            self.masked(head, hearing, masker).await?
        } else {
            let scrub = spellings.as_deref().map(Scrub::new);
            self.unmasked(head, hearing, scrub, (bodiless, masker.scans())).await?
        };
        match done {
            Ok(()) => Ok(Told { is_reusable: !ends }),
            // The agent sees that it is incomplete: it is cut off.
            Err(why) if self.begun => Err(Failure::Upstream(why)),
            Err(why) => self.fail(&why).await,
        }
    }

    async fn fail(&mut self, why: &str) -> Result<Told, Failure> {
        self.refuse(self.served.upstream_fault(why)).await?;
        Ok(Told { is_reusable: false })
    }

    /// As it comes. The inner error is the target's.
    async fn unmasked(
        &mut self,
        mut head: ResponseHead,
        hearing: &mut Hearing<'_>,
        mut scrub: Option<Scrub<'_>>,
        (bodiless, scans): (bool, bool),
    ) -> Result<Result<(), String>, Failure> {
        if head.status == 204 || (bodiless && scans) {
            // How long it would be is something about what it says.
            head.fields.remove("content-length");
        }
        let extent = match head.fields.get("content-length") {
            _ if bodiless => Extent::Bodiless,
            Some(_) => Extent::Known,
            None => Extent::Streamed,
        };
        let over = bodiless || (hearing.is_over() && matches!(self.answering, Answering::Two { .. }));
        self.send_head(head, extent, over).await?;
        if over {
            self.heard_all.store(true, Ordering::Relaxed);
            return self.flush().await.map(Ok);
        }
        loop {
            match self.next(hearing).await? {
                Ok(Some(piece)) => {
                    let piece = scrub.as_mut().map_or_else(|| piece.clone(), |scrub| scrub.push(&piece));
                    self.deliver(piece).await?;
                }
                Ok(None) => break,
                Err(why) => return Ok(Err(why)),
            }
        }
        let trailers = match hearing.trailers().await {
            Ok(trailers) => trailers,
            Err(error) => return Ok(Err(error.to_string())),
        };
        self.heard_all.store(true, Ordering::Relaxed);
        if let Some(mut scrub) = scrub {
            self.deliver(scrub.finish()).await?;
            self.note_echo(scrub.found).await?;
        }
        self.end(trailers.filter(|_| !scans)).await.map(Ok)
    }

    /// The next piece. What was sent so far goes out before it is waited for.
    async fn next(&mut self, hearing: &mut Hearing<'_>) -> Result<Result<Option<Bytes>, String>, Failure> {
        let piece = match hearing.piece().now_or_never() {
            Some(piece) => piece,
            None => {
                self.flush().await?;
                tokio::select! {
                    piece = hearing.piece() => piece,
                    () = self.answering.reset() => {
                        return Err(Failure::Agent("it wants no more of the answer".to_owned()));
                    }
                }
            }
        };
        Ok(piece.map_err(|error| error.to_string()))
    }

    /// As a whole, with every value looked at. What cannot be looked into does not pass.
    async fn masked(
        &mut self,
        mut head: ResponseHead,
        hearing: &mut Hearing<'_>,
        mut masker: Masker,
    ) -> Result<Result<(), String>, Failure> {
        let body = tokio::select! {
            read = hearing.body(MASK_LIMIT) => match read {
                Ok((body, true)) => body,
                Ok((_, false)) => {
                    return Ok(Err(format!("its answer has to be masked, and is longer than {MASK_LIMIT} bytes")));
                }
                Err(error) => return Ok(Err(error.to_string())),
            },
            () = self.answering.reset() => return Err(Failure::Agent("it wants no more of the answer".to_owned())),
        };
        self.heard_all.store(true, Ordering::Relaxed);
        let mut held = self.served.holding();
        held.set(body.len())?;
        let Some(carrier) = carrier(&head, &body) else {
            let kind = head.fields.text("content-type").unwrap_or("of no type").to_owned();
            return Ok(Err(format!("its answer has to be masked, and cannot be looked into ({kind:.100})")));
        };
        let column = masker.column(&Arc::default(), false);
        let mut out = Vec::new();
        let outcome = masker.apply(&column, carrier, &body, &mut out);
        let body: Bytes = match outcome {
            Outcome::Unchanged => body.freeze(),
            Outcome::Replaced => out.into(),
            Outcome::Null => Bytes::from_static(if carrier == Carrier::Json { b"null" } else { b"" }),
        };
        if outcome != Outcome::Unchanged {
            self.served.observe(Observation::Masked { cells: vec![("body".to_owned(), 1)] }).await?;
        }
        let mut body: Vec<u8> = body.into();
        let spellings = self.served.who().and_then(|who| who.spellings.clone());
        let found = spellings.is_some_and(|spellings| spellings.blot(&mut body));
        self.note_echo(found).await?;
        let body = Bytes::from(body);
        // What vouches for other bytes.
        ["etag", "content-md5", "digest", "content-digest", "repr-digest", "accept-ranges", "content-range"]
            .into_iter()
            .for_each(|name| head.fields.remove(name));
        head.fields.set("content-length", body.len().to_string());
        self.send_head(head, Extent::Known, false).await?;
        self.deliver(body).await?;
        self.end(None).await.map(Ok)
    }

    async fn note_echo(&self, found: bool) -> Result<(), Failure> {
        if !found {
            return Ok(());
        }
        let text = format!("{} echoed the credential: it was blotted out", self.served.target.name);
        self.served.observe(Observation::Note(text)).await
    }

    /// `over`: nothing follows it.
    async fn send_head(&mut self, mut head: ResponseHead, extent: Extent, over: bool) -> Result<(), Failure> {
        if matches!(self.answering, Answering::One { .. }) {
            let chunked = extent == Extent::Streamed;
            if chunked {
                head.fields.set("transfer-encoding", "chunked");
            }
            if self.closes {
                head.fields.set("connection", "close");
            }
            self.transcript = Transcript::One { chunked };
        }
        let mut recorded = head.clone();
        inject::redact(&mut recorded.fields);
        let recorded = self.transcript.response(&recorded, over);
        self.served.observe(Observation::Data(Direction::ToAgent, recorded)).await?;
        self.begun = true;
        self.answering.head(&head, over).await.map_err(agent_failed)
    }

    async fn deliver(&mut self, piece: Bytes) -> Result<(), Failure> {
        if piece.is_empty() {
            return Ok(());
        }
        let recorded = self.transcript.piece(&piece);
        self.served.observe(Observation::Data(Direction::ToAgent, recorded)).await?;
        self.answering.piece(piece).await.map_err(agent_failed)
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        self.answering.flush().await.map_err(agent_failed)
    }

    async fn end(&mut self, mut trailers: Option<Fields>) -> Result<(), Failure> {
        if let Some(trailers) = &mut trailers {
            trailers.end_to_end();
            let spellings = self.served.who().and_then(|who| who.spellings.clone());
            let found = spellings.is_some_and(|spellings| spellings.blot_fields(trailers));
            self.note_echo(found).await?;
        }
        if let Some(recorded) = self.transcript.end(trailers.as_ref()) {
            self.served.observe(Observation::Data(Direction::ToAgent, recorded)).await?;
        }
        self.answering.end(trailers.as_ref()).await.map_err(agent_failed)
    }
}

fn is_encoded(head: &ResponseHead) -> bool {
    head.fields.get("content-encoding").is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity"))
}

/// What the body is to a masker; `None` where it cannot be looked into. An empty one is anything.
fn carrier(head: &ResponseHead, body: &[u8]) -> Option<Carrier> {
    if body.is_empty() {
        return Some(Carrier::Text { max_chars: None });
    }
    if is_encoded(head) {
        return None;
    }
    let kind = head.fields.text("content-type")?.to_ascii_lowercase();
    let (kind, parameters) = kind.split_once(';').unwrap_or((&kind, ""));
    let utf8 = !parameters.contains("charset") || parameters.contains("utf-8") || parameters.contains("us-ascii");
    if !utf8 || std::str::from_utf8(body).is_err() {
        return None;
    }
    match kind.trim() {
        json if json == "application/json" || json.ends_with("+json") => Some(Carrier::Json),
        xml if xml == "application/xml" || xml == "text/xml" || xml.ends_with("+xml") => Some(Carrier::Xml),
        text if text.starts_with("text/") => Some(Carrier::Text { max_chars: None }),
        _ => None,
    }
}
