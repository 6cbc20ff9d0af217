//! The secrets that messages of calls hold, blotted out in place for recordings and approvers.

use super::message::{ANY, ENTRY, held_in_any};
use super::schema::{self, Schema, Shape};
use super::wire::{self, Payload};
use super::{Call, Form, frames};
use crate::protocol::http::redact::json::Hides;
use crate::protocol::http::redact::wire::{Field, Kind, Schema as Known, blot};

impl Known for Schema {
    type Message = usize;

    fn field(&self, message: usize, number: u32) -> Option<Field<'_, usize>> {
        let field = self.message(message)?.field(number)?;
        let is_map = field.shape == Shape::Map;
        let kind = match field.kind {
            schema::Kind::Message(entry) if is_map => self.message(entry)?.field(ENTRY.1)?.kind,
            kind => kind,
        };
        let kind = match kind {
            schema::Kind::Bool => Kind::Flag,
            // That there is none.
            schema::Kind::Enum(_) if field.name == "null_value" => Kind::Flag,
            schema::Kind::Message(place) => Kind::Message(place),
            _ => Kind::Plain,
        };
        Some(Field { names: [&field.name, &field.json], kind, is_map })
    }

    fn is_value(&self, message: usize) -> bool {
        self.message(message).is_some_and(|message| message.is_value)
    }

    fn within(&self, message: usize, bytes: &[u8]) -> Option<(usize, u32)> {
        if !self.message(message)?.is_any {
            return None;
        }
        let (mut fields, mut url) = (wire::Fields::of(bytes), None);
        while let Ok(Some((number, payload))) = fields.read() {
            if let Payload::Bytes(bytes) = payload
                && number == ANY.0
            {
                url = Some(bytes);
            }
        }
        Some((held_in_any(self, url?)?, ANY.1))
    }
}

impl Call<'_> {
    /// Blots the secrets out of its messages; out of a body in base64 that is written in an odd way, everything.
    pub(in crate::protocol::http) fn blot(&self, body: &mut [u8], hides: &dyn Fn(&str) -> Hides) {
        if self.form != Form::WebText {
            return self.blot_messages(body, hides);
        }
        let Ok(mut plain) = frames::unarmoured(body) else { return body.fill(b'*') };
        self.blot_messages(&mut plain, hides);
        let mut shown = Vec::with_capacity(body.len());
        frames::armour(&plain, &mut shown);
        if shown.len() == body.len() {
            body.copy_from_slice(&shown);
        } else {
            body.fill(b'*');
        }
    }

    fn blot_messages(&self, body: &mut [u8], hides: &dyn Fn(&str) -> Hides) {
        let mut rest = body;
        while let Some((flags, size)) = frames::head(rest) {
            let Some((_, behind)) = std::mem::take(&mut rest).split_at_mut_checked(frames::HEAD) else { return };
            let (message, behind) = behind.split_at_mut(size.min(behind.len()));
            if flags == 0 {
                blot(&**self.schema, self.method.input, message, hides);
            }
            rest = behind;
        }
    }
}

/// Blots the secrets out of a message to a method.
pub fn blotted(schema: &Schema, path: &str, message: &mut [u8], hides: &dyn Fn(&str) -> Hides) {
    if let Some(method) = schema.method(path) {
        blot(schema, method.input, message, hides);
    }
}
