//! What is done to the body of an answer on its way to the agent: codings undone, values masked, echoes of the credential
//! blotted out. Bytes in, bytes out; nothing here waits.
//!
//! JSON (also many documents behind one another), server-sent events and text are masked as they come, holding no more than
//! one value, event or block of text; XML as a whole, up to [`MASK_LIMIT`]. Paths look into JSON alone: where one applies to
//! an answer that is no JSON, it does not pass, and neither does what no masker can look into.
//!
//! An answer that was coded passes as it is without the coding.

pub(super) mod coding;
mod events;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use super::MASK_LIMIT;
use super::codec::{Field, Fields, Length, ResponseHead};
use super::dialect::Place;
use super::grpc::{self, Answer, Called, Form, Passing, Spoken, Unread, frames};
use super::scrub::{Scrub, Spellings};
use crate::mask::json::NotJson;
use crate::mask::text::TooLong;
use crate::mask::{Carrier, JsonMasker, JsonPaths, Masker, Outcome, TextMasker, TreeMasker};
use crate::policy::Obligations;
use coding::{Broken, Decoder};
use events::Events;

/// How many values were masked, by where they stand.
pub type Counts = Vec<(String, u64)>;

/// What an identity must not see of an answer.
#[derive(Clone, Debug)]
pub struct Plan {
    masker: Masker,
    paths: JsonPaths,
    /// What is masked in the place of those where the request has failed.
    failed: Option<JsonPaths>,
    speech: Speech,
}

/// What an answer is the answer to.
#[derive(Clone, Debug)]
pub(in crate::protocol) enum Speech {
    /// A request of which nothing more is known.
    Plain,
    /// A request that some servers take for a call, in whatever form: its values may stand under other names.
    Unclear,
    /// A call whose messages consist of this.
    Messages(Spoken),
}

impl Plan {
    /// For an answer of this route (`/v1/customers/{id}`) of a target.
    #[must_use]
    pub fn new(masker: Masker, target: &str, route: Option<&str>) -> Self {
        let paths = masker.json_paths(target, route);
        Self { masker, paths, failed: None, speech: Speech::Plain }
    }

    /// For an answer that comes from there. `nests`: paths look into JSON that stands in strings.
    #[must_use]
    pub(in crate::protocol) fn of(masker: Masker, target: &str, place: &Place, nests: bool) -> Self {
        let paths = match place {
            Place::At(place) => masker.json_paths(target, place.as_deref()),
            Place::Anywhere => masker.json_paths_anywhere(target),
        };
        Self { masker, paths: if nests { paths.into_strings() } else { paths }, failed: None, speech: Speech::Plain }
    }

    /// The same, where a failure may say in these places what would be masked in an answer.
    #[must_use]
    pub(in crate::protocol) fn failing(mut self, target: &str, place: &Place, words: &[&str]) -> Self {
        if let (false, Place::At(place)) = (words.is_empty() || self.paths.is_empty(), place) {
            self.failed = Some(self.masker.json_paths_and(target, place.as_deref(), words));
        }
        self
    }

    /// The same for the answer to what calls that.
    #[must_use]
    pub(in crate::protocol) fn speaking(self, called: &Called<'_>) -> Self {
        let speech = match called {
            Called::Nothing => Speech::Plain,
            Called::Unclear => Speech::Unclear,
            Called::Method(call) => Speech::Messages(call.spoken()),
        };
        Self { speech, ..self }
    }

    /// For an answer that holds nothing to be masked.
    #[must_use]
    pub fn open() -> Self {
        let masker = Masker::new(std::sync::Arc::default(), &Obligations::default());
        Self { masker, paths: JsonPaths::default(), failed: None, speech: Speech::Plain }
    }

    /// What masks text that an answer consists of, without being one; nothing where no value is looked for.
    #[must_use]
    pub fn text(&self) -> Option<TextMasker> {
        self.masker.scans().then(|| TextMasker::new(self.masker.again()))
    }

    /// Whether it is what these ask for.
    #[must_use]
    pub fn is_for(&self, obligations: &Obligations) -> bool {
        self.masker.is_for(obligations)
    }

    /// A message of its own, masked: its bytes, and how many values by where they stand.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn message(&self, is_json: bool, text: &[u8]) -> Result<(Vec<u8>, Counts), Refused> {
        let kind = if is_json { "application/json" } else { "text/plain" };
        let fields = Fields(vec![Field::new("content-type", kind.to_owned())]);
        let length = Length::Known(text.len() as u64);
        let head = ResponseHead { status: 200, reason: "".into(), fields, length };
        let Some(mut rewriter) = Rewriter::new(self.clone(), None, &head) else {
            return Ok((text.to_vec(), Vec::new()));
        };
        let (mut rest, mut out) = (text, Vec::new());
        while rewriter.push(&mut rest, &mut out)? {}
        rewriter.finish(&mut out)?;
        Ok((out, rewriter.take_counts()))
    }

    /// Whether anything may have to be masked.
    #[must_use]
    pub fn masks(&self) -> bool {
        self.masker.scans() || !self.paths.is_empty()
    }
}

/// Why an answer does not pass, or not any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nobody knows how to look into it.
    #[error("its answer has to be masked, and cannot be looked into ({0:.100})")]
    Kind(String),
    /// Values are masked by path, and it is no JSON.
    #[error("its answer has to be masked by path, and is no JSON ({0:.100})")]
    NoPaths(String),
    /// A part of a whole.
    #[error("its answer has to be masked, and is only a part of it")]
    Part,
    /// Coded in a way that cannot be undone.
    #[error("its answer has to be looked into, and is coded as `{0:.100}`")]
    Coding(String),
    /// What is coded is broken, or was cut off.
    #[error("its answer has to be looked into, and cannot be decoded")]
    Broken,
    /// Other bytes than it says.
    #[error("its answer has to be masked, and is no UTF-8")]
    Charset,
    /// JSON that is none.
    #[error("its answer has to be masked, and {0}")]
    Json(#[from] NotJson),
    /// Text that cannot be cut.
    #[error("its answer has to be masked, and {0}")]
    Text(#[from] TooLong),
    /// An event that is too long.
    #[error("its answer has to be masked, and has an event of more than {} bytes", events::EVENT_LIMIT)]
    Event,
    /// Messages of a call that cannot be read.
    #[error("its answer has to be looked into, and {0}")]
    Messages(#[from] Unread),
    /// XML that is too long.
    #[error("its answer has to be masked, and is longer than {MASK_LIMIT} bytes")]
    Long,
}

impl From<Broken> for Refused {
    fn from(_: Broken) -> Self {
        Self::Broken
    }
}

/// What vouches for the bytes of a body, but for its tag.
const VOUCHERS: [&str; 6] =
    ["content-md5", "digest", "content-digest", "repr-digest", "accept-ranges", "content-range"];

/// Takes away from the head of an answer whose body is not sent what says something about what would be masked in it.
pub fn conceal(fields: &mut Fields) {
    ["etag", "content-length"].into_iter().chain(VOUCHERS).for_each(|name| fields.remove(name));
}

/// Asks for an answer as a whole, also not for how it differs from another (RFC 3229). Conditions on what is hidden would be questions about it.
pub(in crate::protocol) fn whole(fields: &mut Fields) {
    let parts = ["range", "if-range", "if-match", "if-none-match", "request-range", "a-im"];
    let digests = ["want-digest", "want-content-digest", "want-repr-digest"];
    parts.into_iter().chain(digests).for_each(|name| fields.remove(name));
}

/// Rewrites the body of one answer.
#[derive(Debug)]
pub struct Rewriter<'a> {
    decoder: Decoder,
    masks: bool,
    kind: Kind,
    scrub: Option<Scrub<'a>>,
    utf8: Utf8,
    decoded: Vec<u8>,
    masked: Vec<u8>,
}

#[derive(Debug)]
enum Kind {
    Pass,
    Json(Box<JsonMasker>),
    Events(Box<Events>),
    Text(Box<TextMasker>),
    Xml(Box<(Masker, Vec<u8>, u64)>),
    Messages(Box<Answer>),
    /// Messages in which nothing is masked.
    Calls(Box<Passing>),
    /// Only an empty one passes.
    Opaque(Refused),
}

impl<'a> Rewriter<'a> {
    /// For an answer with this head; nothing where it passes as it is.
    #[must_use]
    pub fn new(plan: Plan, spellings: Option<&'a Spellings>, head: &ResponseHead) -> Option<Self> {
        let masks = plan.masks();
        if !masks && spellings.is_none() {
            return None;
        }
        let coding = coding(&head.fields);
        let (decoder, kind) = match Decoder::of(&coding) {
            Some(decoder) if masks => (decoder, Kind::of(plan, head)),
            Some(decoder) => (decoder, Passing::of(head).map_or(Kind::Pass, |calls| Kind::Calls(Box::new(calls)))),
            None => (Decoder::of("identity")?, Kind::Opaque(Refused::Coding(coding))),
        };
        let (decoded, masked) = (Vec::new(), Vec::new());
        Some(Self { decoder, masks, kind, scrub: spellings.map(Scrub::new), utf8: Utf8::default(), decoded, masked })
    }

    /// Takes away from the head what vouches for other bytes than those that pass, or counts them.
    pub fn head(&self, head: &mut ResponseHead) {
        if self.decoder.is_identity() && !self.masks && !matches!(self.kind, Kind::Calls(_)) {
            return;
        }
        head.length = Length::Chunked;
        let weak = |etag: &[u8]| etag.starts_with(b"W/");
        if self.masks || !head.fields.get("etag").is_some_and(weak) {
            head.fields.remove("etag");
        }
        ["content-length", "content-encoding"].into_iter().chain(VOUCHERS).for_each(|name| head.fields.remove(name));
    }

    /// Whether it may not pass once it is not empty: the head may not go before that is known.
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        match &self.kind {
            Kind::Opaque(_) => true,
            Kind::Calls(calls) => calls.is_doubtful(),
            _ => false,
        }
    }

    /// A piece that passes as it is, but for what may be the beginning of a credential at its end. Nothing where it has to be
    /// pushed.
    pub fn pass(&mut self, piece: &Bytes) -> Option<Bytes> {
        match (&self.kind, &mut self.scrub) {
            (Kind::Pass, Some(scrub)) if self.decoder.is_identity() => scrub.pass(piece),
            _ => None,
        }
    }

    /// Takes some bytes off the front of a piece, and appends what is decided. Whether it is to be called again with the
    /// rest of the piece, be it empty: what one call appends is bounded, whatever the bytes stand for.
    ///
    /// # Errors
    /// [`Refused`]: nothing that comes behind may pass.
    pub fn push(&mut self, piece: &mut &[u8], out: &mut Vec<u8>) -> Result<bool, Refused> {
        if self.decoder.is_identity() {
            let (now, later) = piece.split_at_checked(coding::STEP).unwrap_or((piece, &[]));
            *piece = later;
            self.take(now, out)?;
            return Ok(!later.is_empty() || self.kind.is_pending());
        }
        let mut decoded = std::mem::take(&mut self.decoded);
        decoded.clear();
        let more = self.decoder.step(piece, &mut decoded)?;
        let taken = self.take(&decoded, out);
        self.decoded = decoded;
        taken.map(|()| more || self.kind.is_pending())
    }

    /// Nothing comes any more, and the last call of [`Rewriter::push`] said so.
    ///
    /// # Errors
    /// [`Refused`]: it was cut off.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Refused> {
        self.decoder.finish()?;
        if !self.utf8.is_whole() {
            return Err(Refused::Charset);
        }
        let Some(scrub) = &mut self.scrub else { return self.kind.finish(out) };
        self.masked.clear();
        self.kind.finish(&mut self.masked)?;
        out.extend_from_slice(&scrub.push(&self.masked));
        out.extend_from_slice(&scrub.finish());
        Ok(())
    }

    /// Passes on what is complete of a text, though nothing has come behind it for a while: whoever follows a log sees it.
    /// Whether there was anything.
    pub fn release(&mut self, out: &mut Vec<u8>) -> bool {
        let Kind::Text(text) = &mut self.kind else { return false };
        self.masked.clear();
        let released = text.release_lines(&mut self.masked);
        match &mut self.scrub {
            Some(scrub) => out.extend_from_slice(&scrub.push(&self.masked)),
            None => out.extend_from_slice(&self.masked),
        }
        released
    }

    /// How many values were masked since it was asked last, by the path that they stand at; `body` is for detectors.
    pub fn take_counts(&mut self) -> Counts {
        let (mut counts, found) = match &mut self.kind {
            Kind::Json(json) => json.take_counts(),
            Kind::Events(events) => events.take_counts(),
            Kind::Text(text) => (Vec::new(), text.take_count()),
            Kind::Messages(messages) => messages.take_counts(),
            Kind::Xml(xml) => (Vec::new(), std::mem::take(&mut xml.2)),
            Kind::Pass | Kind::Calls(_) | Kind::Opaque(_) => (Vec::new(), 0),
        };
        if found > 0 {
            counts.push(("body".to_owned(), found));
        }
        counts
    }

    /// Whether the credential was found.
    #[must_use]
    pub fn echoed(&self) -> bool {
        self.scrub.as_ref().is_some_and(|scrub| scrub.found)
    }

    /// Bytes that it holds, but for a few of its own.
    #[must_use]
    pub fn held(&self) -> usize {
        let held = match &self.kind {
            Kind::Json(json) => json.held(),
            Kind::Events(events) => events.held(),
            Kind::Text(text) => text.held(),
            Kind::Xml(xml) => xml.1.len(),
            Kind::Messages(messages) => messages.held(),
            Kind::Calls(calls) => calls.held(),
            Kind::Pass | Kind::Opaque(_) => 0,
        };
        held + self.decoded.len() + self.masked.len() + self.decoder.held()
    }

    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
        if let Some(form) = self.kind.form() {
            return self.take_messages(bytes, form, out);
        }
        if !matches!(self.kind, Kind::Pass) && !self.utf8.push(bytes) {
            return Err(match &self.kind {
                Kind::Opaque(why) => why.clone(),
                _ => Refused::Charset,
            });
        }
        let Some(scrub) = &mut self.scrub else { return self.kind.push(bytes, out) };
        self.masked.clear();
        self.kind.push(bytes, &mut self.masked)?;
        out.extend_from_slice(&scrub.push(&self.masked));
        Ok(())
    }

    /// The same of messages. Each is looked through by itself, before it is put in base64.
    fn take_messages(&mut self, bytes: &[u8], form: Form, out: &mut Vec<u8>) -> Result<(), Refused> {
        let mut clean = Vec::new();
        match (&mut self.kind, &mut self.scrub) {
            (Kind::Calls(calls), Some(scrub)) => calls.push(bytes, scrub, &mut clean)?,
            (kind, Some(scrub)) => {
                self.masked.clear();
                kind.push(bytes, &mut self.masked)?;
                clean.extend_from_slice(&scrub.push(&self.masked));
                clean.extend_from_slice(&scrub.finish());
            }
            (kind, None) => kind.push(bytes, &mut clean)?,
        }
        if form == Form::WebText {
            frames::armour(&clean, out);
        } else {
            out.append(&mut clean);
        }
        Ok(())
    }
}

impl Kind {
    /// Whether there is more to be had without any more bytes.
    fn is_pending(&self) -> bool {
        match self {
            Self::Messages(messages) => messages.is_pending(),
            Self::Calls(calls) => calls.is_pending(),
            _ => false,
        }
    }

    /// How messages stand in it.
    fn form(&self) -> Option<Form> {
        match self {
            Self::Messages(messages) => Some(messages.form()),
            Self::Calls(calls) => Some(calls.form()),
            _ => None,
        }
    }

    fn of(plan: Plan, head: &ResponseHead) -> Self {
        let Plan { masker, paths, failed, speech } = plan;
        let paths = failed.filter(|_| is_wordy(head.status)).unwrap_or(paths);
        let media = head.fields.text("content-type").unwrap_or("of no type");
        let by_path = !paths.is_empty();
        if head.status == 206 || head.fields.get("content-range").is_some() {
            return Self::Opaque(Refused::Part);
        }
        match (speech, grpc::Form::of_messages(media), grpc::gzip(&head.fields)) {
            (Speech::Messages(spoken), Some(form), Some(gzip)) => {
                return Self::Messages(Box::new(Answer::new(spoken, TreeMasker::new(masker, paths), form, gzip)));
            }
            // JSON of the same messages has other names.
            (Speech::Messages(_) | Speech::Unclear, ..) => return Self::Opaque(Refused::Kind(media.to_owned())),
            (Speech::Plain, ..) => {}
        }
        let Some(kind) = essence(media) else { return Self::Opaque(Refused::Kind(media.to_owned())) };
        match kind.as_str() {
            json if is_json(json) => Self::Json(Box::new(JsonMasker::new(masker, paths))),
            "text/event-stream" => Self::Events(Box::new(Events::new(masker, paths))),
            _ if by_path => Self::Opaque(Refused::NoPaths(kind)),
            xml if xml == "application/xml" || xml == "text/xml" || xml.ends_with("+xml") => {
                Self::Xml(Box::new((masker, Vec::new(), 0)))
            }
            text if text.starts_with("text/") => Self::Text(Box::new(TextMasker::new(masker))),
            _ => Self::Opaque(Refused::Kind(kind)),
        }
    }

    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
        match self {
            Self::Pass => out.extend_from_slice(bytes),
            Self::Json(json) => json.push(bytes, out)?,
            Self::Events(events) => events.push(bytes, out)?,
            Self::Text(text) => text.push(bytes, out)?,
            Self::Messages(messages) => messages.push(bytes, out)?,
            Self::Xml(xml) if xml.1.len() + bytes.len() <= MASK_LIMIT => xml.1.extend_from_slice(bytes),
            Self::Xml(_) => return Err(Refused::Long),
            Self::Calls(_) | Self::Opaque(_) if bytes.is_empty() => {}
            // It is followed where what is looked for is at hand.
            Self::Calls(_) => return Err(Unread::Kind.into()),
            Self::Opaque(why) => return Err(why.clone()),
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Refused> {
        match self {
            Self::Pass | Self::Opaque(_) => {}
            Self::Json(json) => json.finish(out)?,
            Self::Events(events) => events.finish(out),
            Self::Text(text) => text.finish(out),
            Self::Messages(messages) => messages.finish()?,
            Self::Calls(calls) => calls.finish()?,
            Self::Xml(xml) => {
                let (masker, body, count) = &mut **xml;
                let column = masker.column(&std::sync::Arc::default(), false);
                match masker.apply(&column, Carrier::Xml, body, out) {
                    Outcome::Unchanged => out.extend_from_slice(body),
                    Outcome::Replaced | Outcome::Null => *count += 1,
                }
                body.clear();
            }
        }
        Ok(())
    }
}

/// Whether an answer of this status may say what was found to be wrong with a value, and what stands there. Others say who or
/// what was asked for.
const fn is_wordy(status: u16) -> bool {
    status >= 400 && !matches!(status, 401 | 403 | 404 | 409 | 429)
}

/// What a target may be told that it may code its answers in, of what the agent takes: what can be undone here.
#[must_use]
pub(super) fn accepted(agent: &Fields) -> String {
    let known = |coding: &str| {
        let name = coding.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        coding::KNOWN.contains(&name.as_str())
    };
    let listed = agent.all("accept-encoding").flat_map(|value| value.split(|byte| *byte == b','));
    let listed = listed.filter_map(|part| std::str::from_utf8(part).ok()).map(str::trim).filter(|part| known(part));
    let accepted = listed.collect::<Vec<_>>().join(", ");
    if accepted.is_empty() { "identity".to_owned() } else { accepted }
}

/// The one coding of an answer, in lower case; several as they stand, which no decoder knows.
fn coding(fields: &Fields) -> String {
    let all = fields.all("content-encoding").map(|value| String::from_utf8_lossy(value).to_ascii_lowercase());
    let all = all.collect::<Vec<_>>().join(",");
    let applied: Vec<&str> =
        all.split(',').map(str::trim).filter(|one| !one.is_empty() && *one != "identity").collect();
    applied.join(", ")
}

/// The type of a body in UTF-8, in lower case, without parameters; nothing where it is of another charset.
fn essence(media: &str) -> Option<String> {
    let lower = media.to_ascii_lowercase();
    let mut parts = lower.split(';');
    let kind = parts.next()?.trim().to_owned();
    let mut charsets = parts.filter_map(|part| part.split_once('=')).filter(|(name, _)| name.trim() == "charset");
    let fits = |charset: &str| matches!(charset.trim(), "utf-8" | "\"utf-8\"" | "utf8" | "us-ascii" | "\"us-ascii\"");
    charsets.all(|(_, charset)| fits(charset)).then_some(kind)
}

/// Whether an answer is a stream of events or documents, which may pause for as long as it likes.
#[must_use]
pub(super) fn is_stream(fields: &Fields) -> bool {
    const STREAMS: &[&str] = &[
        "application/json-seq",
        "application/jsonl",
        "application/ndjson",
        "application/stream+json",
        "application/x-json-stream",
        "application/x-ndjson",
        "multipart/x-mixed-replace",
        "text/event-stream",
    ];
    let kind = fields.text("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim();
    STREAMS.iter().any(|stream| kind.eq_ignore_ascii_case(stream))
}

/// Whether an answer is of a kind that may go on for as long as it likes, though it is not said to: calls, events, logs.
pub(super) fn may_go_on(fields: &Fields) -> bool {
    const STARTS: &[&str] = &[
        "application/connect+",
        "application/grpc",
        "application/jsonlines",
        "application/vnd.amazon.eventstream",
        "application/vnd.docker.",
        "application/x-jsonl",
    ];
    let kind = fields.text("content-type").unwrap_or_default().trim().to_ascii_lowercase();
    fields.text("content-length").is_none() && STARTS.iter().any(|start| kind.starts_with(start))
}

fn is_json(kind: &str) -> bool {
    const LISTED: &[&str] = &[
        "application/json",
        "text/json",
        "application/json-seq",
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonl",
        "application/jsonlines",
        "application/x-jsonlines",
        "application/x-json-stream",
    ];
    LISTED.contains(&kind) || kind.ends_with("+json") || kind.ends_with("+json-seq")
}

/// Whether bytes are UTF-8, however they are cut.
#[derive(Debug, Default)]
struct Utf8 {
    /// The beginning of a character.
    begun: [u8; 4],
    count: usize,
}

impl Utf8 {
    fn push(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while self.count > 0 {
            let Some((byte, after)) = rest.split_first() else { return true };
            rest = after;
            let Some(place) = self.begun.get_mut(self.count) else { return false };
            *place = *byte;
            self.count += 1;
            match std::str::from_utf8(self.begun.get(..self.count).unwrap_or_default()) {
                Ok(_) => self.count = 0,
                Err(error) if error.error_len().is_some() => return false,
                Err(_) => {}
            }
        }
        let Err(error) = std::str::from_utf8(rest) else { return true };
        let tail = rest.get(error.valid_up_to()..).unwrap_or_default();
        if error.error_len().is_some() || tail.len() > 3 {
            return false;
        }
        if let Some(begun) = self.begun.get_mut(..tail.len()) {
            begun.copy_from_slice(tail);
        }
        self.count = tail.len();
        true
    }

    fn is_whole(&self) -> bool {
        self.count == 0
    }
}
