//! The secrets of an object, blotted out in place for recordings.

use super::{KNOWN, Kind, MAGIC, Schema, Shape, message_of};
use crate::protocol::http::grpc::wire::{Fields, Payload};
use crate::protocol::http::redact::json::Hides;
use crate::protocol::http::redact::wire::{self, Field};

impl wire::Schema for Schema {
    type Message = &'static str;

    fn field(&self, message: &'static str, number: u32) -> Option<Field<'_, &'static str>> {
        let field = self.messages.get(message)?.iter().find(|field| field.number == number)?;
        let kind = match field.kind {
            Kind::Message(inner) => wire::Kind::Message(inner),
            Kind::Bool => wire::Kind::Flag,
            Kind::Json => wire::Kind::Json,
            _ => wire::Kind::Plain,
        };
        Some(Field { names: [field.name; 2], kind, is_map: field.shape == Shape::Map })
    }
}

/// Blots the secrets out of an object with its envelope. Of kinds that are not known, nothing is.
pub fn blot(bytes: &mut [u8], hides: &dyn Fn(&str) -> Hides) {
    let Some(envelope) = bytes.strip_prefix(MAGIC) else { return };
    let (mut fields, mut kind, mut raw) = (Fields::of(envelope), None, Vec::new());
    while let Ok(Some((number, payload))) = fields.read() {
        match (number, payload) {
            (1, Payload::Bytes(types)) => kind = super::kind_of(types).ok().and_then(message_of),
            (2, Payload::Bytes(_)) => raw.push(fields.value()),
            _ => {}
        }
    }
    let Some(kind) = kind else { return };
    for range in raw {
        let range = range.start + MAGIC.len()..range.end + MAGIC.len();
        if let Some(object) = bytes.get_mut(range) {
            wire::blot(&*KNOWN, kind, object, hides);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{message, object, said};
    use super::*;
    use crate::protocol::http::redact;

    fn hides(name: &str) -> Hides {
        match name {
            "data" => Hides::All,
            name if redact::is_secret(name) => Hides::Value,
            _ => Hides::Nothing,
        }
    }

    fn blotted(object: &[u8]) -> Vec<u8> {
        let mut out = object.to_vec();
        blot(&mut out, &hides);
        out
    }

    #[test]
    fn what_is_hidden_stands_there_no_more_and_the_rest_reads_as_ever() {
        let variables = [("DB_PASSWORD", "s3c"), ("HOME", "/root"), ("API_TOKEN", "true")];
        let variables = variables.map(|(name, value)| message(&[(1, said(name)), (2, said(value))]));
        let mut container = message(&[(1, said("web"))]);
        variables.iter().for_each(|one| container.extend(message(&[(7, Payload::Bytes(one))])));
        let spec = message(&[(2, Payload::Bytes(&container)), (21, Payload::Varint(1))]);
        let pod = object("v1", "Pod", &message(&[(2, Payload::Bytes(&spec))]));
        let (before, after) = (super::super::read(&pod).unwrap(), super::super::read(&blotted(&pod)).unwrap());
        assert_eq!(before.to_string().replace("s3c", "***"), after.to_string());
        let data = message(&[(1, said("p")), (2, said("s3c"))]);
        let meta = message(&[(1, said("web"))]);
        let secret = object("v1", "Secret", &message(&[(1, Payload::Bytes(&meta)), (2, Payload::Bytes(&data))]));
        let read = super::super::read(&blotted(&secret)).unwrap();
        assert_eq!((&read["metadata"]["name"], &read["data"]["p"]), (&"web".into(), &"Kioq".into()));
    }

    #[test]
    fn what_cannot_be_read_is_hidden_from_where_it_breaks_off_and_of_others_nothing_is() {
        let data = message(&[(1, said("p")), (2, said("s3c"))]);
        for behind in [&b"\x12\x7fs3c"[..], b"\x00s3c", b"\x0b s3c"] {
            let secret = object("v1", "Secret", &[&message(&[(2, Payload::Bytes(&data))]), behind].concat());
            let out = blotted(&secret);
            assert!(!out.windows(3).any(|three| three == b"s3c") && out.len() == secret.len(), "{behind:?}");
        }
        for whole in [object("v1", "Widget", &data), data] {
            assert_eq!(blotted(&whole), whole);
        }
    }
}
