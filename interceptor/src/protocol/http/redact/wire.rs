//! Messages of Protocol Buffers whose secrets are blotted out in place, by where they stand: lengths stay as they are, and what could be read can
//! be read still.
//!
//! Lenient where readers that judge are strict: what they do not understand may hold secrets all the same. Of a message that breaks off, the rest
//! is blotted out. Not found: what stands in fields that the schema has not.

use std::collections::HashMap;
use std::ops::Range;

use super::BLOT;
use super::beside::{self, Says};
use super::json::{self, Hides};
use crate::protocol::http::grpc::wire::{Fields, Payload};

/// The deepest that is looked into: what is deeper is blotted out.
const DEPTH_LIMIT: usize = 100;

/// The longest number, in bytes.
const LONGEST: usize = 10;

/// What messages consist of.
pub trait Schema {
    /// A kind of message.
    type Message: Copy;

    /// A field of one.
    fn field(&self, message: Self::Message, number: u32) -> Option<Field<'_, Self::Message>>;

    /// Whether a message of this kind stands for a value of its own, under whatever name it has itself: what hides it hides what it holds.
    fn is_value(&self, _message: Self::Message) -> bool {
        false
    }

    /// The kind that a message of this kind holds, as these bytes of its say, and the number of the field that it stands in.
    fn within(&self, _message: Self::Message, _bytes: &[u8]) -> Option<(Self::Message, u32)> {
        None
    }
}

/// A field, as far as that matters here.
#[derive(Clone, Copy, Debug)]
pub struct Field<'s, M> {
    /// What it is called, in the schema and in JSON.
    pub names: [&'s str; 2],
    /// What its values are.
    pub kind: Kind<M>,
    /// Its values stand in entries, each under a key (1): they are the second field of those.
    pub is_map: bool,
}

/// What a value is.
#[derive(Clone, Copy, Debug)]
pub enum Kind<M> {
    /// True or false, which is no secret.
    Flag,
    /// Text, bytes, a number, several numbers; or a message that means as much.
    Plain,
    /// JSON, in the first field of a message.
    Json,
    /// A message.
    Message(M),
}

/// Blots out every secret of a message of that kind.
pub fn blot<S: Schema>(schema: &S, kind: S::Message, bytes: &mut [u8], hides: &dyn Fn(&str) -> Hides) {
    let mut finder = Finder { schema, hides, known: HashMap::new(), found: Vec::new() };
    finder.message(kind, (bytes, 0), Hides::Nothing, DEPTH_LIMIT);
    for blot in finder.found {
        let Some(part) = bytes.get_mut(blot.range().clone()) else { continue };
        match blot {
            Blot::Text(_) => part.fill(BLOT),
            Blot::Number(_) => {
                // As many bytes as it had, and no more than it needs; the longest is -1, which fits numbers of 32 bits as well.
                part.fill(if part.len() == LONGEST { 0xff } else { 0x80 });
                part.last_mut().into_iter().for_each(|last| *last = 1);
            }
            Blot::Json(_, shown) => part.copy_from_slice(&shown),
        }
    }
}

/// What is to be blotted out.
#[derive(Clone, Debug)]
enum Blot {
    Text(Range<usize>),
    /// As type 0 is written.
    Number(Range<usize>),
    /// Something else of the same length stands there.
    Json(Range<usize>, Vec<u8>),
}

impl Blot {
    const fn range(&self) -> &Range<usize> {
        match self {
            Self::Text(range) | Self::Number(range) | Self::Json(range, _) => range,
        }
    }
}

struct Finder<'a, S> {
    schema: &'a S,
    hides: &'a dyn Fn(&str) -> Hides,
    /// Names that were asked about: few, and often.
    known: HashMap<String, Hides>,
    found: Vec<Blot>,
}

/// A name, and the values that stand beside it.
#[derive(Default)]
struct Pair {
    /// It stands for a value, and has no names.
    is_value: bool,
    says: Option<Says>,
    /// Each with whether it is a text.
    values: Vec<(Blot, bool)>,
}

/// Bytes, and where they stand in all.
type Placed<'b> = (&'b [u8], usize);

impl<S: Schema> Finder<'_, S> {
    fn message(&mut self, kind: S::Message, (bytes, base): Placed<'_>, hidden: Hides, depth: usize) {
        let all = base..base + bytes.len();
        let Some(depth) = depth.checked_sub(1) else { return self.found.push(Blot::Text(all)) };
        let held = self.schema.within(kind, bytes);
        let (mut fields, mut pair) =
            (Fields::of(bytes), Pair { is_value: self.schema.is_value(kind), ..Pair::default() });
        loop {
            let begun = fields.taken();
            let (number, payload) = match fields.read() {
                Ok(Some(read)) => read,
                Ok(None) => break,
                Err(_) => {
                    self.found.push(Blot::Text(base + begun..all.end));
                    break;
                }
            };
            let payload = placed(payload, fields.value(), base);
            match (self.schema.field(kind, number), held) {
                (_, Some((kind, at))) if at == number => self.below(Kind::Message(kind), payload, hidden, depth),
                (Some(field), _) => self.field(field, payload, (hidden, depth), &mut pair),
                (None, _) if hidden == Hides::All => self.found.push(payload.blot()),
                (None, _) => {}
            }
        }
        let says = pair.says.unwrap_or(Says::Nothing);
        let secrets =
            pair.values.into_iter().filter(|(_, is_text)| says == Says::All || (says == Says::Texts && *is_text));
        self.found.extend(secrets.map(|(blot, _)| blot));
    }

    fn field(
        &mut self,
        field: Field<'_, S::Message>,
        payload: Value<'_>,
        (hidden, depth): (Hides, usize),
        pair: &mut Pair,
    ) {
        let named = field.names.into_iter().map(|name| self.hides(name)).max().unwrap_or(Hides::Nothing);
        // A secret's own value.
        let is_held = pair.is_value || field.names.into_iter().any(json::is_value);
        let hidden = named.max(if is_held { hidden } else { hidden.below() });
        if field.is_map {
            return self.entry(field.kind, payload, hidden.below(), depth);
        }
        // Looked at once more: only once, or what is nested would take twice as long at each level.
        if !pair.is_value {
            self.beside(&field, &payload, depth, pair);
        }
        self.below(field.kind, payload, hidden, depth);
    }

    /// Notes what may be one half of a name and its value.
    fn beside(&mut self, field: &Field<'_, S::Message>, payload: &Value<'_>, depth: usize, pair: &mut Pair) {
        let name = field.names.into_iter().find(|name| json::is_name(name));
        let is_value = field.names.into_iter().any(json::is_value);
        match field.kind {
            Kind::Plain => match (payload.text(), name) {
                (Some(text), Some(name)) => pair.note(self.says(name, text)),
                (Some(text), None) if super::is_word(text) => {}
                (text, None) if is_value => pair.values.push((payload.blot(), text.is_some())),
                _ => {}
            },
            Kind::Message(kind) if self.schema.is_value(kind) => match (payload.held(), name) {
                (Some(text), Some(name)) => pair.note(self.says(name, text)),
                (_, None) if is_value => {
                    let known = self.found.len();
                    self.below(field.kind, payload.clone(), Hides::Value, depth);
                    pair.values.extend(self.found.split_off(known).into_iter().map(|blot| {
                        let is_text = matches!(blot, Blot::Text(_));
                        (blot, is_text)
                    }));
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn says(&self, name: &str, said: &str) -> Says {
        beside::says(name, said, self.hides)
    }

    /// An entry of a map, whose key is the name of its value.
    fn entry(&mut self, kind: Kind<S::Message>, payload: Value<'_>, hidden: Hides, depth: usize) {
        let Some((bytes, base)) = payload.bytes else { return };
        let (mut name, mut values) = (Hides::Nothing, Vec::new());
        let mut fields = Fields::of(bytes);
        loop {
            let begun = fields.taken();
            match fields.read() {
                Ok(Some((1, Payload::Bytes(key)))) => {
                    name = name.max(std::str::from_utf8(key).map_or(Hides::Value, |key| self.hides(key)));
                }
                Ok(Some((1, _))) => {}
                Ok(Some((_, value))) => values.push(placed(value, fields.value(), base)),
                Ok(None) => break,
                Err(_) => {
                    self.found.push(Blot::Text(base + begun..base + bytes.len()));
                    break;
                }
            }
        }
        values.into_iter().for_each(|value| self.below(kind, value, hidden.max(name), depth));
    }

    /// A value, which is hidden so.
    fn below(&mut self, kind: Kind<S::Message>, payload: Value<'_>, hidden: Hides, depth: usize) {
        match (kind, payload.bytes) {
            (Kind::Flag, _) => {}
            (Kind::Message(kind), Some(placed)) => {
                self.message(kind, placed, hidden, depth);
            }
            (Kind::Json, Some(placed)) => self.json(placed, hidden),
            _ if hidden == Hides::Nothing || payload.text().is_some_and(super::is_word) => {}
            _ => self.found.push(payload.blot()),
        }
    }

    fn json(&mut self, (bytes, base): Placed<'_>, hidden: Hides) {
        let mut fields = Fields::of(bytes);
        while let Ok(Some((number, payload))) = fields.read() {
            let Payload::Bytes(text) = payload else { continue };
            let range = base + fields.value().start..base + fields.value().end;
            if hidden > Hides::Nothing {
                self.found.push(Blot::Text(range));
            } else if number == 1 {
                let mut shown = text.to_vec();
                json::blot(&mut shown, self.hides);
                if shown != text {
                    self.found.push(Blot::Json(range, shown));
                }
            }
        }
    }

    fn hides(&mut self, name: &str) -> Hides {
        const LONGEST: usize = 256;
        const KEPT: usize = 4096;
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        let hides = (self.hides)(name);
        if name.len() <= LONGEST && self.known.len() < KEPT {
            self.known.insert(name.to_owned(), hides);
        }
        hides
    }
}

impl Pair {
    fn note(&mut self, says: Says) {
        self.says = self.says.max(Some(says));
    }
}

/// What a field holds, and where it stands in all.
#[derive(Clone)]
struct Value<'b> {
    range: Range<usize>,
    /// Where it has a length.
    bytes: Option<Placed<'b>>,
    is_varint: bool,
}

fn placed(payload: Payload<'_>, value: Range<usize>, base: usize) -> Value<'_> {
    let range = base + value.start..base + value.end;
    let bytes = match payload {
        Payload::Bytes(bytes) => Some((bytes, range.start)),
        _ => None,
    };
    Value { range, bytes, is_varint: matches!(payload, Payload::Varint(_)) }
}

impl<'b> Value<'b> {
    fn text(&self) -> Option<&'b str> {
        std::str::from_utf8(self.bytes?.0).ok()
    }

    /// The text that a message holds alone.
    fn held(&self) -> Option<&'b str> {
        match Fields::of(self.bytes?.0).read() {
            Ok(Some((_, Payload::Bytes(text)))) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    fn blot(&self) -> Blot {
        if self.is_varint { Blot::Number(self.range.clone()) } else { Blot::Text(self.range.clone()) }
    }
}
