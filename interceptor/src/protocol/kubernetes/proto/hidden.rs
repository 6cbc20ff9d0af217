//! The secrets of an object, blotted out in place for recordings.

use super::{KNOWN, Kind, MAGIC, Schema, Shape, message_of};
use crate::protocol::http::grpc::wire::{Fields, Payload};
use crate::protocol::http::redact::BLOT;
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

/// Blots the secrets out of an object with its envelope; whether that is what it is. Of kinds that are not known, nothing is, but where all
/// that objects have is hidden (`data` in a Secret): there, readers may take for one whatever does not say clearly that it is another.
pub fn blot(bytes: &mut [u8], hides: &dyn Fn(&str) -> Hides) -> bool {
    let Some(envelope) = bytes.strip_prefix(MAGIC) else { return false };
    let (mut fields, mut kinds, mut raw, mut is_clear) = (Fields::of(envelope), Vec::new(), Vec::new(), true);
    loop {
        let begun = fields.taken();
        match fields.read() {
            Ok(Some((1, Payload::Bytes(types)))) => kinds.push(super::kind_of(types).ok().and_then(message_of)),
            Ok(Some((2, Payload::Bytes(_)))) => raw.push(fields.value()),
            // In which way it is coded.
            Ok(Some((3, Payload::Bytes([])))) => {}
            Ok(Some((3, _))) => is_clear = false,
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(_) => {
                // Whatever it is.
                raw.push(begun..envelope.len());
                is_clear = false;
                break;
            }
        }
    }
    let is_clear = is_clear && kinds.len() == 1;
    let (known, all_is_hidden) = (kinds.last().copied().flatten(), hides("data") == Hides::All);
    let known = known.filter(|_| is_clear || !all_is_hidden);
    for range in raw {
        let range = range.start + MAGIC.len()..range.end + MAGIC.len();
        match (bytes.get_mut(range), known) {
            (Some(object), Some(kind)) => wire::blot(&*KNOWN, kind, object, hides),
            (Some(object), None) if all_is_hidden => object.fill(BLOT),
            _ => {}
        }
    }
    true
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
        let elsewhere = |name: &str| if name == "data" { Hides::Nothing } else { hides(name) };
        let mut widget = object("v1", "Widget", &data);
        assert!(blot(&mut widget, &elsewhere) && widget == object("v1", "Widget", &data));
        let mut bare = data.clone();
        assert!(!blot(&mut bare, &hides) && bare == data);
    }

    /// Clusters take what comes to `secrets` for one where its kind does not stand there.
    #[test]
    fn where_secrets_are_nothing_is_shown_of_what_is_not_clearly_something_else() {
        let data = message(&[(1, said("p")), (2, said("s3c"))]);
        let raw = message(&[(2, Payload::Bytes(&data))]);
        let types = |kind: &str| message(&[(1, said("v1")), (2, said(kind))]);
        let (secret, pod, none) = (types("Secret"), types("Pod"), message(&[]));
        let envelope = |fields: &[(u32, Payload<'_>)]| [&b"k8s\0"[..], &message(fields)].concat();
        let object = (2, Payload::Bytes(&raw));
        for odd in [
            envelope(&[object]),
            envelope(&[(1, Payload::Bytes(&none)), object]),
            envelope(&[(1, Payload::Bytes(&secret)), (1, Payload::Bytes(&pod)), object]),
            envelope(&[(1, Payload::Bytes(b"\x0a\x7f")), object]),
            envelope(&[(1, Payload::Bytes(&pod)), object, (3, said("gzip"))]),
            [envelope(&[(1, Payload::Bytes(&pod))]), b"\x12\x7fs3c".to_vec()].concat(),
        ] {
            let out = blotted(&odd);
            assert!(!out.windows(3).any(|three| three == b"s3c") && out.len() == odd.len(), "{odd:?}");
        }
        let options = super::super::tests::object("v1", "DeleteOptions", &message(&[(1, Payload::Varint(30))]));
        assert_eq!(blotted(&options), options);
    }
}
