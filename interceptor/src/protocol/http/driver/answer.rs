//! The answer of the target, to the agent: passed on as it comes where nothing is masked, as a whole where something is.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::leg::{Left, LegError};
use super::{LAST_CHUNK, Next, Served, put_piece};
use crate::mask::{Carrier, Masker, Outcome};
use crate::protocol::http::codec::{self, ResponseHead};
use crate::protocol::http::scrub::Scrub;
use crate::protocol::http::{MASK_LIMIT, inject};
use crate::protocol::{Direction, Failure, Observation};

/// Answers that come before the one that counts, at most.
const INTERIM_LIMIT: usize = 16;

impl Served<'_> {
    /// Passes the answer on.
    pub(super) async fn answer(&mut self, method: &str, masker: Masker, closes: bool) -> Result<Next, Failure> {
        let mut head = match self.final_head().await? {
            Ok(head) => head,
            Err(why) => {
                self.upstream = None;
                return self.fail(self.upstream_fault(&why), false, method).await;
            }
        };
        let bodiless = method == "HEAD" || matches!(head.status, 204 | 304);
        let mut left = if bodiless { Left::Nothing } else { Left::from(head.length) };
        let ends = head.fields.lists("connection", "close") || matches!(left, Left::UntilClose);
        head.fields.end_to_end();
        // It would lead past us: HTTP/3 is not spoken here.
        ["alt-svc", "alternate-protocol"].into_iter().for_each(|name| head.fields.remove(name));
        let spellings = self.spellings.clone();
        let echoes = spellings.as_ref().is_some_and(|spellings| spellings.blot_head(&mut head));
        self.note_echo(echoes).await?;
        if spellings.is_some() && !matches!(left, Left::Nothing) && is_encoded(&head) {
            self.upstream = None;
            let why = "its answer is compressed, though it was asked for one that is not, and may echo the credential;                        where it never does, say `scrub = false` in [target.http]";
            return self.fail(self.upstream_fault(why), false, method).await;
        }
        let done = if masker.scans() && !bodiless {
            self.masked(head, &mut left, masker, closes).await?
        } else {
            let scrub = spellings.as_deref().map(Scrub::new);
            self.unmasked(head, (left, scrub), closes, (bodiless, masker.scans())).await?.map(|()| Next::Open)
        };
        match done {
            Ok(next) => {
                if ends {
                    self.upstream = None;
                }
                Ok(next)
            }
            Err(why) => {
                self.upstream = None;
                if self.answering {
                    // The agent sees that it is incomplete: it is cut off.
                    return Err(Failure::Upstream(why));
                }
                self.fail(self.upstream_fault(&why), false, method).await
            }
        }
    }

    /// The head that counts. An agent that leaves meanwhile is not waited with.
    async fn final_head(&mut self) -> Result<Result<ResponseHead, String>, Failure> {
        let Some(upstream) = &mut self.upstream else { return Ok(Err("its connection is gone".to_owned())) };
        for _ in 0..INTERIM_LIMIT {
            let head = tokio::select! {
                head = upstream.head(codec::response) => head,
                () = self.agent.gone() => return Err(Failure::Agent("it left before the answer".to_owned())),
            };
            match head {
                Ok(Some(head)) if head.status == 101 => return Ok(Err("it upgrades what was not to be".to_owned())),
                Ok(Some(head)) if head.status < 200 => {}
                Ok(Some(head)) => return Ok(Ok(head)),
                Ok(None) => return Ok(Err("it closed without an answer".to_owned())),
                Err(error) => return Ok(Err(error.to_string())),
            }
        }
        Ok(Err("it sends interim answers without end".to_owned()))
    }

    /// As it comes. The inner error is the target's.
    async fn unmasked(
        &mut self,
        mut head: ResponseHead,
        (mut left, mut scrub): (Left, Option<Scrub<'_>>),
        closes: bool,
        (bodiless, scans): (bool, bool),
    ) -> Result<Result<(), String>, Failure> {
        let chunked = matches!(left, Left::Chunked(_) | Left::UntilClose);
        if chunked {
            head.fields.remove("content-length");
            head.fields.set("transfer-encoding", "chunked");
        } else if bodiless && scans {
            // How long it would be is something about what it says.
            head.fields.remove("content-length");
        } else if head.status == 204 {
            head.fields.remove("content-length");
        }
        self.send_head(head, closes).await?;
        loop {
            let Some(upstream) = &mut self.upstream else { return Ok(Err("its connection is gone".to_owned())) };
            let piece = match upstream.piece(&mut left).await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => return Ok(Err(error.to_string())),
            };
            let piece = scrub.as_mut().map_or_else(|| piece.clone(), |scrub| scrub.push(&piece));
            self.pass(&piece, chunked).await?;
        }
        if let Some(mut scrub) = scrub {
            self.pass(&scrub.finish(), chunked).await?;
            self.note_echo(scrub.found).await?;
        }
        if chunked {
            self.deliver(Bytes::from_static(LAST_CHUNK)).await?;
        }
        Ok(Ok(()))
    }

    /// As a whole, with every value looked at. What cannot be looked into does not pass.
    async fn masked(
        &mut self,
        mut head: ResponseHead,
        left: &mut Left,
        mut masker: Masker,
        closes: bool,
    ) -> Result<Result<Next, String>, Failure> {
        let read = match &mut self.upstream {
            Some(upstream) => upstream.body(left, MASK_LIMIT).await,
            None => Err(LegError::Closed),
        };
        let body = match read {
            Ok((body, true)) => body,
            Ok((_, false)) => {
                return Ok(Err(format!("its answer has to be masked, and is longer than {MASK_LIMIT} bytes")));
            }
            Err(error) => return Ok(Err(error.to_string())),
        };
        self.gate.holds(body.len()).map_err(Failure::Overfull)?;
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
            self.observe(Observation::Masked { cells: vec![("body".to_owned(), 1)] }).await?;
        }
        let mut body: Vec<u8> = body.into();
        let found = self.spellings.as_ref().is_some_and(|spellings| spellings.blot(&mut body));
        self.note_echo(found).await?;
        let body = Bytes::from(body);
        // What vouches for other bytes.
        ["etag", "content-md5", "digest", "content-digest", "repr-digest", "accept-ranges", "content-range"]
            .into_iter()
            .for_each(|name| head.fields.remove(name));
        head.fields.set("content-length", body.len().to_string());
        self.send_head(head, closes).await?;
        self.deliver(body).await?;
        self.gate.holds(0).map_err(Failure::Overfull)?;
        Ok(Ok(Next::Open))
    }

    async fn pass(&mut self, piece: &[u8], chunked: bool) -> Result<(), Failure> {
        let mut framed = BytesMut::with_capacity(piece.len() + 16);
        put_piece(&mut framed, piece, chunked);
        self.deliver(framed.freeze()).await
    }

    async fn note_echo(&self, found: bool) -> Result<(), Failure> {
        if !found {
            return Ok(());
        }
        let text = format!("{} echoed the credential: it was blotted out", self.target.name);
        self.observe(Observation::Note(text)).await
    }

    async fn send_head(&mut self, mut head: ResponseHead, closes: bool) -> Result<(), Failure> {
        if closes {
            head.fields.set("connection", "close");
        }
        let mut recorded = head.clone();
        inject::redact(&mut recorded.fields);
        let mut bytes = Vec::new();
        recorded.write(&mut bytes);
        self.observe(Observation::Data(Direction::ToAgent, bytes.into())).await?;
        let mut bytes = Vec::new();
        head.write(&mut bytes);
        self.answering = true;
        self.send(&bytes).await
    }

    async fn deliver(&mut self, bytes: Bytes) -> Result<(), Failure> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.observe(Observation::Data(Direction::ToAgent, bytes.clone())).await?;
        self.answering = true;
        self.send(&bytes).await
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
