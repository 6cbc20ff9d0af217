//! The messages of an answer, masked: each is read by its schema, and written anew without what may not be seen.
//!
//! Text becomes what its tag's transform makes of it, a number the default of its kind. What the schema does not know goes,
//! where something may be masked at that place: it could be the same values under a newer name. Of a field that stands twice,
//! every value is masked.

use std::sync::Arc;

use bytes::Bytes;

use super::Form;
use super::frames::{self, Frames, TRAILERS, Unarmoured, Unframed};
use super::message::{ANY, ENTRY, held_in_any};
use super::schema::{Field, Kind, Message, Schema, Shape};
use super::value::{self, Packed, Width};
use super::wire::{self, Broken, Fields, Payload};
use crate::mask::{Outcome, Place, TreeMasker};
use crate::protocol::http::MASK_LIMIT;

/// How deep messages may stand in one another: as deep as readers go.
const DEPTH_LIMIT: usize = 100;
/// What a message may become, in bytes.
const GROWN_LIMIT: usize = 4 * MASK_LIMIT;

/// Why no more of an answer passes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// Its messages cannot be told apart.
    #[error("{0}")]
    Unframed(#[from] Unframed),
    /// A message is none.
    #[error("a message of it cannot be read: {0}")]
    Broken(#[from] Broken),
    /// Compressed in a way that cannot be undone.
    #[error("a message of it is compressed as `{0:.100}`")]
    Coding(String),
    /// A flag that nobody knows, or that has no place there.
    #[error("a message of it is compressed in another way than is said, or is none")]
    Flags,
    /// Text that is none.
    #[error("a text in a message of it is no UTF-8")]
    Charset,
    /// A key of a map that no key of its kind can be.
    #[error("a key of a map in a message of it is out of range")]
    Key,
    /// It is nested too deep.
    #[error("a message of it is nested deeper than {DEPTH_LIMIT}")]
    Depth,
    /// It has grown too long.
    #[error("a message of it has more than {GROWN_LIMIT} bytes once it is masked")]
    Long,
    /// The schema is not whole.
    #[error("a message of it is of a kind that its schema has not")]
    Kind,
}

/// What the answers to a method consist of.
#[derive(Clone, Debug)]
pub(in crate::protocol) struct Spoken {
    pub(in crate::protocol) schema: Arc<Schema>,
    /// The kind of its messages.
    pub(in crate::protocol) output: usize,
}

/// Masks the body of an answer as it comes.
#[derive(Debug)]
pub(in crate::protocol) struct Answer {
    spoken: Spoken,
    tree: TreeMasker,
    form: Form,
    /// Messages may be compressed by gzip.
    gzip: bool,
    frames: Frames,
    unarmoured: Unarmoured,
    /// The trailers have come.
    ended: bool,
}

impl Answer {
    /// `gzip`: its head says that its messages may be compressed so.
    pub(in crate::protocol) fn new(spoken: Spoken, tree: TreeMasker, form: Form, gzip: bool) -> Self {
        let (frames, unarmoured) = (Frames::new(MASK_LIMIT), Unarmoured::default());
        Self { spoken, tree, form, gzip, frames, unarmoured, ended: false }
    }

    /// Takes bytes, and appends the next message, where it is complete, never in base64.
    pub(in crate::protocol) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Unread> {
        if self.form == Form::WebText {
            let mut plain = Vec::new();
            self.unarmoured.push(bytes, &mut plain)?;
            self.frames.push(&plain);
        } else {
            self.frames.push(bytes);
        }
        let Some(frame) = self.frames.take()? else { return Ok(()) };
        if self.ended {
            return Err(Unread::Flags);
        }
        match frame.flags {
            0 => self.message(&frame.message, out)?,
            frames::COMPRESSED if self.gzip => {
                let plain = frames::unzipped(&frame.message, MASK_LIMIT)?;
                self.message(&plain, out)?;
            }
            TRAILERS if self.form != Form::Native => {
                self.ended = true;
                frames::put(out, TRAILERS, &status(&frame.message));
            }
            _ => return Err(Unread::Flags),
        }
        Ok(())
    }

    pub(in crate::protocol) const fn form(&self) -> Form {
        self.form
    }

    /// Whether a message waits that is complete.
    pub(in crate::protocol) fn is_pending(&self) -> bool {
        self.frames.is_pending()
    }

    /// Nothing comes any more.
    pub(in crate::protocol) fn finish(&self) -> Result<(), Unread> {
        let whole = self.frames.held() == 0 && self.unarmoured.is_whole();
        if whole { Ok(()) } else { Err(Unframed::Ends.into()) }
    }

    pub(in crate::protocol) fn held(&self) -> usize {
        self.frames.held()
    }

    pub(in crate::protocol) fn take_counts(&mut self) -> (Vec<(String, u64)>, u64) {
        self.tree.take_counts()
    }

    fn message(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), Unread> {
        let masked = masked(&self.spoken, &mut self.tree, message)?;
        frames::put(out, 0, &masked);
        Ok(())
    }
}

/// Of trailers, what says nothing in words (gRPC-web).
fn status(trailers: &Bytes) -> Vec<u8> {
    const NAME: &[u8] = b"grpc-status:";
    let named = |line: &&[u8]| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME));
    let lines = trailers.split(|byte| matches!(byte, b'\r' | b'\n')).filter(named);
    lines.flat_map(|line| [line, b"\r\n"].concat()).collect()
}

/// A message, masked.
///
/// # Errors
/// [`Unread`].
pub(in crate::protocol) fn masked(spoken: &Spoken, tree: &mut TreeMasker, message: &[u8]) -> Result<Vec<u8>, Unread> {
    let root = tree.root();
    let mut out = Vec::with_capacity(message.len());
    Walk { schema: &spoken.schema, tree, depth: 0 }.message(spoken.output, message, &root, &mut out)?;
    Ok(out)
}

struct Walk<'a> {
    schema: &'a Schema,
    tree: &'a mut TreeMasker,
    depth: usize,
}

impl Walk<'_> {
    fn message(&mut self, kind: usize, bytes: &[u8], at: &Place, out: &mut Vec<u8>) -> Result<(), Unread> {
        if self.tree.passes(at) {
            out.extend_from_slice(bytes);
            return Ok(());
        }
        if self.depth == DEPTH_LIMIT {
            return Err(Unread::Depth);
        }
        let schema = self.schema;
        let message = schema.message(kind).ok_or(Unread::Kind)?;
        self.depth += 1;
        let done =
            if message.is_any { self.any(message, bytes, at, out) } else { self.fields(message, bytes, at, out) };
        self.depth -= 1;
        done
    }

    fn fields(&mut self, message: &Message, bytes: &[u8], at: &Place, out: &mut Vec<u8>) -> Result<(), Unread> {
        let mut counts: Vec<(u32, u64)> = Vec::new();
        let mut fields = Fields::of(bytes);
        while let Some((number, payload)) = fields.read()? {
            let known = message.field(number).filter(|field| fits(field, payload));
            let Some(field) = known else {
                self.tree.note_unknown();
                continue;
            };
            let place = self.tree.field(at, &[&field.name, &field.json]);
            match field.shape {
                Shape::One => self.value(field, payload, &place, out)?,
                Shape::Map => self.entry(field, payload, &place, out)?,
                Shape::List => {
                    if !counts.iter().any(|(of, _)| *of == number) {
                        counts.push((number, 0));
                    }
                    let Some((_, count)) = counts.iter_mut().find(|(of, _)| *of == number) else { continue };
                    self.list(field, payload, (&place, count), out)?;
                }
            }
            if out.len() > GROWN_LIMIT {
                return Err(Unread::Long);
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        field: &Field,
        payload: Payload<'_>,
        (place, count): (&Place, &mut u64),
        out: &mut Vec<u8>,
    ) -> Result<(), Unread> {
        let packed = match payload {
            Payload::Bytes(bytes) if field.kind.width() != Width::Length => bytes,
            payload => {
                let place = self.tree.element(place, *count);
                *count += 1;
                return self.value(field, payload, &place, out);
            }
        };
        let (mut values, mut written) = (Packed::of(packed, field.kind), Vec::with_capacity(packed.len()));
        while let Some(payload) = values.next()? {
            let place = self.tree.element(place, *count);
            *count += 1;
            match self.number(field.kind, payload, &place) {
                Payload::Varint(value) => wire::put_varint(&mut written, value),
                Payload::Fixed64(bytes) => written.extend_from_slice(&bytes),
                Payload::Fixed32(bytes) => written.extend_from_slice(&bytes),
                Payload::Bytes(_) => return Err(Unread::Kind),
            }
        }
        wire::put(out, field.number, Payload::Bytes(&written));
        Ok(())
    }

    fn value(&mut self, field: &Field, payload: Payload<'_>, place: &Place, out: &mut Vec<u8>) -> Result<(), Unread> {
        let mut written = Vec::new();
        let payload = match (field.kind, payload) {
            (Kind::Message(kind), Payload::Bytes(bytes)) => {
                self.message(kind, bytes, place, &mut written)?;
                Payload::Bytes(&written)
            }
            (Kind::String, Payload::Bytes(bytes)) => {
                if !self.tree.passes(place) && std::str::from_utf8(bytes).is_err() {
                    return Err(Unread::Charset);
                }
                let outcome = self.tree.text(place, bytes, &mut written);
                if outcome == Outcome::Replaced && std::str::from_utf8(&written).is_err() {
                    written = String::from_utf8_lossy(&written).into_owned().into_bytes();
                }
                Payload::Bytes(if outcome == Outcome::Unchanged { bytes } else { &written })
            }
            (Kind::Bytes, Payload::Bytes(bytes)) => {
                let outcome = self.tree.bytes(place, bytes, &mut written);
                Payload::Bytes(if outcome == Outcome::Unchanged { bytes } else { &written })
            }
            (kind, payload) => self.number(kind, payload, place),
        };
        wire::put(out, field.number, payload);
        Ok(())
    }

    /// A number, or the default in its place.
    fn number<'a>(&mut self, kind: Kind, payload: Payload<'a>, place: &Place) -> Payload<'a> {
        if self.tree.passes(place) {
            return payload;
        }
        let shown = match kind {
            Kind::Bool | Kind::Enum(_) => String::new(),
            kind => value::text(self.schema, kind, payload).unwrap_or_else(|_out_of_range| format!("{payload:?}")),
        };
        if !self.tree.number(place, &shown) {
            return payload;
        }
        let first = match kind {
            Kind::Enum(one) => self.schema.enumeration(one).map_or(0, |one| one.first),
            _ => 0,
        };
        match payload {
            Payload::Fixed64(_) => Payload::Fixed64([0; 8]),
            Payload::Fixed32(_) => Payload::Fixed32([0; 4]),
            Payload::Varint(_) | Payload::Bytes(_) => Payload::Varint(i64::from(first).cast_unsigned()),
        }
    }

    /// An entry of a map: its value stands under its key.
    fn entry(&mut self, field: &Field, payload: Payload<'_>, place: &Place, out: &mut Vec<u8>) -> Result<(), Unread> {
        let (Kind::Message(kind), Payload::Bytes(bytes)) = (field.kind, payload) else { return Err(Unread::Kind) };
        let schema = self.schema;
        let message = schema.message(kind).ok_or(Unread::Kind)?;
        let (of_key, of_value) = message.field(ENTRY.0).zip(message.field(ENTRY.1)).ok_or(Unread::Kind)?;
        let (mut key, mut values) = (None, Vec::new());
        let mut fields = Fields::of(bytes);
        while let Some((number, payload)) = fields.read()? {
            match number {
                number if number == ENTRY.0 && fits(of_key, payload) => key = Some(payload),
                number if number == ENTRY.1 && fits(of_value, payload) => values.push(payload),
                _ => self.tree.note_unknown(),
            }
        }
        let (mut written, mut name) = (Vec::new(), Vec::new());
        let shown = match key {
            Some(Payload::Bytes(bytes)) => std::str::from_utf8(bytes).map_err(|_| Unread::Charset)?.to_owned(),
            // A path may name it: what it reads as has to be known.
            Some(payload) => value::text(schema, of_key.kind, payload).map_err(|_| Unread::Key)?,
            None => value::default(schema, of_key.kind).unwrap_or_default(),
        };
        if let Some(key) = key {
            let payload = match (key, of_key.kind) {
                (Payload::Bytes(bytes), Kind::String) => {
                    let outcome = self.tree.name(bytes, &mut name);
                    Payload::Bytes(if outcome == Outcome::Unchanged { bytes } else { &name })
                }
                (payload, _) if self.tree.name(shown.as_bytes(), &mut name) == Outcome::Unchanged => payload,
                (Payload::Fixed64(_), _) => Payload::Fixed64([0; 8]),
                (Payload::Fixed32(_), _) => Payload::Fixed32([0; 4]),
                _ => Payload::Varint(0),
            };
            wire::put(&mut written, ENTRY.0, payload);
        }
        let place = self.tree.field(place, &[&shown]);
        for payload in values {
            self.value(of_value, payload, &place, &mut written)?;
        }
        wire::put(out, field.number, Payload::Bytes(&written));
        Ok(())
    }

    /// A message of whichever kind it says. Of one that the schema has not, nothing but its name passes.
    fn any(&mut self, message: &Message, bytes: &[u8], at: &Place, out: &mut Vec<u8>) -> Result<(), Unread> {
        let (mut url, mut held) = (&[][..], &[][..]);
        let mut fields = Fields::of(bytes);
        while let Some((number, payload)) = fields.read()? {
            match (number, payload) {
                (number, Payload::Bytes(bytes)) if number == ANY.0 => url = bytes,
                (number, Payload::Bytes(bytes)) if number == ANY.1 => held = bytes,
                _ => self.tree.note_unknown(),
            }
        }
        let (of_url, of_held) = message.field(ANY.0).zip(message.field(ANY.1)).ok_or(Unread::Kind)?;
        let kind = held_in_any(self.schema, url);
        let place = self.tree.field(at, &[&of_url.name, &of_url.json]);
        self.value(of_url, Payload::Bytes(url), &place, out)?;
        let place = self.tree.field(at, &[&of_held.name]);
        let mut written = Vec::new();
        match kind {
            Some(kind) => self.message(kind, held, &place, &mut written)?,
            None if held.is_empty() => {}
            None if self.tree.passes(&place) => written.extend_from_slice(held),
            None => self.tree.note_unknown(),
        }
        wire::put(out, of_held.number, Payload::Bytes(&written));
        Ok(())
    }
}

/// Whether a reader takes it for the field: what is written as another kind, it does not know.
fn fits(field: &Field, payload: Payload<'_>) -> bool {
    let (width, written) = (field.kind.width(), payload.width());
    let packs = field.shape == Shape::List && !matches!(width, Width::Length | Width::None);
    width == written || (packs && written == Width::Length)
}
