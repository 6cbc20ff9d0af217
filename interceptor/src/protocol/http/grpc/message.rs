//! What a message says, where every reader finds the same in it.
//!
//! Readers of Protocol Buffers are lenient, each in its own way: of a field that stands twice the last counts, or messages are
//! merged; of a choice the last; what they do not know they skip, keep, or refuse. A message that no encoder writes so is not
//! understood here, and whoever asks gets a sentence.
//!
//! Values are told under the names of the schema: `customer.email=a@example.org`, `items.0.price=3`, `labels.env=prod`. A field
//! that has no presence of its own reads as its default where it is not written, and is told so wherever its message stands.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::value::Error;

use super::schema::{Field, Kind, Message, Schema, Shape};
use super::value::{self, Packed, Width};
use super::wire::{Fields, Payload};
use crate::protocol::http::content::{Content, Found, Limits, step};

/// The number of the key of an entry of a map, and that of its value.
pub(super) const ENTRY: (u32, u32) = (1, 2);
/// The number of the name of the type in `google.protobuf.Any`, and that of what is of this type.
pub(super) const ANY: (u32, u32) = (1, 2);

/// What it says.
///
/// # Errors
/// A sentence: readers may differ in what stands in it, or the schema does not know.
pub(super) fn read(schema: &Schema, place: usize, bytes: &[u8], limits: Limits) -> Result<Content, String> {
    let mut reading = Reading { schema, found: Found::new(limits) };
    reading.message(place, bytes).map_err(|why| format!("its message is not understood: {why}"))?;
    Ok(reading.found.done())
}

/// The kind of message that an `Any` says it holds.
pub(super) fn held_in_any(schema: &Schema, url: &[u8]) -> Option<usize> {
    let (_, name) = std::str::from_utf8(url).ok()?.rsplit_once('/')?;
    schema.named(name)
}

struct Reading<'s> {
    schema: &'s Schema,
    found: Found,
}

/// What was seen of one message.
#[derive(Default)]
struct Seen {
    fields: HashSet<u32>,
    choices: HashSet<usize>,
    lists: Vec<List>,
}

/// Of a list or map in it.
struct List {
    number: u32,
    count: usize,
    packed: bool,
    keys: HashSet<String>,
}

impl Seen {
    fn list(&mut self, number: u32) -> Option<&mut List> {
        if self.fields.insert(number) {
            self.lists.push(List { number, count: 0, packed: false, keys: HashSet::new() });
        }
        self.lists.iter_mut().find(|list| list.number == number)
    }
}

impl Reading<'_> {
    fn message(&mut self, place: usize, bytes: &[u8]) -> Result<(), String> {
        let schema = self.schema;
        let message = schema.message(place).ok_or("its kind is not known")?;
        if message.is_any {
            return self.any(message, bytes);
        }
        let (mut fields, mut seen) = (Fields::of(bytes), Seen::default());
        while let Some((number, payload)) = fields.read().map_err(|broken| broken.to_string())? {
            let field = message.field(number).ok_or_else(|| format!("its schema has no field {number}"))?;
            if field.choice.is_some_and(|choice| !seen.choices.insert(choice)) {
                return Err(format!("`{}` is one of several, of which another stands as well", field.name));
            }
            match field.shape {
                Shape::One if !seen.fields.insert(number) => return Err(format!("`{}` stands twice", field.name)),
                Shape::One => self.field(field, payload)?,
                Shape::List => self.list(field, payload, &mut seen)?,
                Shape::Map => self.entry(field, payload, &mut seen)?,
            }
        }
        plain(&fields)?;
        for field in message.implicit().filter(|field| !seen.fields.contains(&field.number)) {
            self.default(field)?;
        }
        Ok(())
    }

    fn field(&mut self, field: &Field, payload: Payload<'_>) -> Result<(), String> {
        self.within(field.name.clone())?;
        self.value(field, payload)?;
        self.found.leave();
        Ok(())
    }

    fn value(&mut self, field: &Field, payload: Payload<'_>) -> Result<(), String> {
        let text = match (field.kind, payload) {
            (Kind::Message(place), Payload::Bytes(bytes)) => return self.message(place, bytes),
            (Kind::String, Payload::Bytes(bytes)) => {
                let text = std::str::from_utf8(bytes).map_err(|_| format!("`{}` is no UTF-8", field.name))?;
                return self.told(text);
            }
            (Kind::Bytes, Payload::Bytes(bytes)) => BASE64.encode(bytes),
            (kind, payload) => {
                value::text(self.schema, kind, payload).map_err(|why| format!("`{}` {why}", field.name))?
            }
        };
        self.told(&text)
    }

    fn list(&mut self, field: &Field, payload: Payload<'_>, seen: &mut Seen) -> Result<(), String> {
        let list = seen.list(field.number).ok_or("a list is lost")?;
        let width = field.kind.width();
        let packed = match payload {
            Payload::Bytes(bytes) if !matches!(width, Width::Length | Width::None) => Some(bytes),
            _ => None,
        };
        if list.packed || (packed.is_some() && list.count > 0) {
            return Err(format!("`{}` stands in several pieces", field.name));
        }
        self.within(field.name.clone())?;
        match packed {
            None => {
                self.element(field, payload, list.count)?;
                list.count += 1;
            }
            Some(bytes) => {
                list.packed = true;
                let mut values = Packed::of(bytes, field.kind);
                while let Some(payload) = values.next().map_err(|broken| broken.to_string())? {
                    self.element(field, payload, list.count)?;
                    list.count += 1;
                }
                plain(&values.fields)?;
            }
        }
        self.found.leave();
        Ok(())
    }

    fn element(&mut self, field: &Field, payload: Payload<'_>, index: usize) -> Result<(), String> {
        self.within(index.to_string())?;
        self.value(field, payload)?;
        self.found.leave();
        Ok(())
    }

    /// An entry of a map: what is not written of it reads as its default.
    fn entry(&mut self, field: &Field, payload: Payload<'_>, seen: &mut Seen) -> Result<(), String> {
        let wrong = |why: &str| format!("an entry of `{}` {why}", field.name);
        let (Kind::Message(place), Payload::Bytes(bytes)) = (field.kind, payload) else {
            return Err(wrong("is not written as one is"));
        };
        let message = self.schema.message(place).ok_or_else(|| wrong("is not known"))?;
        let (mut key, mut value) = (None, None);
        let mut fields = Fields::of(bytes);
        while let Some((number, payload)) = fields.read().map_err(|broken| broken.to_string())? {
            let slot = match number {
                number if number == ENTRY.0 => &mut key,
                number if number == ENTRY.1 => &mut value,
                _ => return Err(wrong("has more than a key and a value")),
            };
            if slot.replace(payload).is_some() {
                return Err(wrong("has a key or a value twice"));
            }
        }
        plain(&fields)?;
        let (of_key, of_value) = message.field(ENTRY.0).zip(message.field(ENTRY.1)).ok_or_else(|| wrong("is none"))?;
        let name = match (of_key.kind, key) {
            (Kind::String, Some(Payload::Bytes(bytes))) => {
                std::str::from_utf8(bytes).map_err(|_| wrong("has a key that is no UTF-8"))?.to_owned()
            }
            (kind, Some(payload)) => value::text(self.schema, kind, payload).map_err(|why| format!("a key {why}"))?,
            (kind, None) => value::default(self.schema, kind).unwrap_or_default(),
        };
        let list = seen.list(field.number).ok_or("a map is lost")?;
        if !list.keys.insert(name.clone()) {
            return Err(wrong("has a key that another has"));
        }
        self.within(field.name.clone())?;
        self.within(step(name))?;
        match value {
            Some(payload) => self.value(of_value, payload)?,
            None => self.absent(of_value)?,
        }
        self.found.leave();
        self.found.leave();
        Ok(())
    }

    /// A message of whichever kind it says.
    fn any(&mut self, message: &Message, bytes: &[u8]) -> Result<(), String> {
        let (mut url, mut value) = (None, None);
        let mut fields = Fields::of(bytes);
        while let Some((number, payload)) = fields.read().map_err(|broken| broken.to_string())? {
            let (slot, Payload::Bytes(bytes)) = (
                match number {
                    number if number == ANY.0 => &mut url,
                    number if number == ANY.1 => &mut value,
                    _ => return Err(format!("its schema has no field {number}")),
                },
                payload,
            ) else {
                return Err("an `Any` is not written as one is".to_owned());
            };
            if slot.replace(bytes).is_some() {
                return Err("an `Any` has a type or a value twice".to_owned());
            }
        }
        plain(&fields)?;
        let Some(url) = url.filter(|url| !url.is_empty()) else {
            return if value.is_none_or(<[u8]>::is_empty) { Ok(()) } else { Err("an `Any` has no type".to_owned()) };
        };
        let place = held_in_any(self.schema, url).ok_or("an `Any` is of a type that its schema has not")?;
        let [name, held] = [ANY.0, ANY.1].map(|number| message.field(number).map_or("", |field| field.name.as_str()));
        self.within(name.to_owned())?;
        self.told(&String::from_utf8_lossy(url))?;
        self.found.leave();
        self.within(held.to_owned())?;
        self.message(place, value.unwrap_or_default())?;
        self.found.leave();
        Ok(())
    }

    fn default(&mut self, field: &Field) -> Result<(), String> {
        self.within(field.name.clone())?;
        self.absent(field)?;
        self.found.leave();
        Ok(())
    }

    fn absent(&mut self, field: &Field) -> Result<(), String> {
        match field.kind {
            Kind::Message(place) => self.message(place, &[]),
            kind => {
                let text = value::default(self.schema, kind).ok_or("a value is not known")?;
                self.told(&text)
            }
        }
    }

    fn told(&mut self, text: &str) -> Result<(), String> {
        self.found.value::<Error>(text).map_err(|why| why.to_string())
    }

    fn within(&mut self, step: String) -> Result<(), String> {
        self.found.within::<Error>(step).map_err(|why| why.to_string())
    }
}

fn plain(fields: &Fields<'_>) -> Result<(), String> {
    if fields.is_plain() { Ok(()) } else { Err("a number in it is longer than it needs to be".to_owned()) }
}
