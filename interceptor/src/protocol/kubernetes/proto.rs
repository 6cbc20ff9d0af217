//! Objects in Protocol Buffers (`application/vnd.kubernetes.protobuf`), as the JSON that they would be: policies, approvers and
//! recordings see their fields.
//!
//! What the cluster's own clients send begins with `k8s` and a zero byte, then comes an envelope (`runtime.Unknown`) that names version and
//! kind, then the object. `schema.txt` has the fields of the built-in kinds that agents send, as `k8s.io/api` publishes their numbers: a line
//! for each kind of message, and a word for each field: its number, `*` for a list or `%` for a map, its name in JSON (none
//! where its fields stand in the outer object), and what it is: `=s` text, `=b` true or false, `=i` and `=l` numbers of 32 and 64 bits, `=u`, `=d`, `=y` bytes, `=t`
//! a time, `=q` a quantity, `=o` a number or text, `=r` JSON, `=x` what is not told, `:name` another message; `-` alone is the status, which clusters ignore where it is not asked for by
//! its own path.
//!
//! Strict where readers differ: whatever is not in the schema, stands twice, or is longer than need be, is not understood. What an
//! object without presence has as its default is left out, as in JSON.
//!
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>

mod hidden;

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Number, Value};

use crate::protocol::http::grpc::wire::{Fields, Payload};
pub use hidden::blot;

/// The type of such bodies.
pub const MEDIA: &str = "application/vnd.kubernetes.protobuf";
/// What they begin with.
const MAGIC: &[u8] = b"k8s\0";
/// The deepest that messages may stand in one another.
const DEPTH_LIMIT: usize = 48;
/// Messages, values and entries that an object may have: each counts before it is read.
const COUNT_LIMIT: usize = 16 * 1024;
/// What `DeleteOptions` consist of: clients send them under the version of whatever they delete.
const DELETE_OPTIONS: &str = "meta.DeleteOptions";

const SCHEMA: &str = include_str!("proto/schema.txt");

/// The built-in kinds.
#[derive(Debug, Default)]
struct Schema {
    /// Version and kind to the message.
    kinds: HashMap<(&'static str, &'static str), &'static str>,
    messages: HashMap<&'static str, Vec<Field>>,
}

#[derive(Clone, Copy, Debug)]
struct Field {
    number: u32,
    shape: Shape,
    /// Empty where its fields stand in the outer object.
    name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    One,
    List,
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Bool,
    Int32,
    Int64,
    Uint32,
    Double,
    Bytes,
    Time,
    Quantity,
    IntOrString,
    Json,
    Untold,
    Status,
    Message(&'static str),
}

static KNOWN: LazyLock<Schema> = LazyLock::new(|| Schema::parse(SCHEMA));

/// Reads an object.
///
/// # Errors
/// A sentence: another reader may find something else in it, or its kind is not known.
pub fn read(bytes: &[u8]) -> Result<Value, String> {
    read_all(bytes).map(|(value, _)| value)
}

/// The same, and whether it says something of a status, which is not read.
///
/// # Errors
/// The same.
pub(super) fn read_all(bytes: &[u8]) -> Result<(Value, bool), String> {
    let wrong = |why: &str| format!("its Protocol Buffers are not understood: {why}");
    let envelope = bytes.strip_prefix(MAGIC).ok_or_else(|| wrong("they have no envelope"))?;
    let [types, raw, encoding, media] = parts(envelope).map_err(|why| wrong(&why))?;
    if !encoding.is_empty() || !media.is_empty() {
        return Err(wrong("what is in the envelope is coded once more"));
    }
    let (version, kind) = kind_of(types).map_err(|why| wrong(&why))?;
    let message = message_of((version, kind))
        .ok_or_else(|| wrong(&format!("nobody knows here what a {kind:.60} of {version:.60} consists of")))?;
    let mut reading = Reading { left: COUNT_LIMIT, has_status: false };
    let mut object = Map::from_iter([("apiVersion".to_owned(), version.into()), ("kind".to_owned(), kind.into())]);
    reading.message(message, raw, DEPTH_LIMIT, &mut object).map_err(|why| wrong(&why))?;
    Ok((Value::Object(object), reading.has_status))
}

/// The version and the kind that an envelope says.
fn kind_of(types: &[u8]) -> Result<(&str, &str), String> {
    let [version, kind, ..] = parts(types)?.map(std::str::from_utf8);
    version.and_then(|version| Ok((version, kind?))).map_err(|_| "its kind is no text".to_owned())
}

/// What an object of that version and kind consists of.
fn message_of((version, kind): (&str, &str)) -> Option<&'static str> {
    let known = KNOWN.kinds.get(&(version, kind)).copied();
    known.or_else(|| (kind == "DeleteOptions").then_some(DELETE_OPTIONS))
}

/// The first four fields of a message of bytes alone.
fn parts(bytes: &[u8]) -> Result<[&[u8]; 4], String> {
    let (mut found, mut fields) = ([None; 4], Fields::of(bytes));
    while let Some((number, payload)) = fields.read().map_err(|broken| broken.to_string())? {
        let place = usize::try_from(number).ok().and_then(|number| found.get_mut(number - 1));
        let (Some(place), Payload::Bytes(bytes)) = (place, payload) else {
            return Err("its envelope has more than is known".to_owned());
        };
        if place.replace(bytes).is_some() {
            return Err("a field of its envelope stands twice".to_owned());
        }
    }
    plain(&fields)?;
    Ok(found.map(Option::unwrap_or_default))
}

fn plain(fields: &Fields<'_>) -> Result<(), String> {
    if fields.is_plain() { Ok(()) } else { Err("a number in it is longer than it needs to be".to_owned()) }
}

/// What may still be read.
struct Reading {
    left: usize,
    /// A status stood there.
    has_status: bool,
}

impl Reading {
    fn count(&mut self) -> Result<(), String> {
        self.left = self.left.checked_sub(1).ok_or_else(|| format!("it has more than {COUNT_LIMIT} values"))?;
        Ok(())
    }

    fn message(&mut self, name: &str, bytes: &[u8], depth: usize, out: &mut Map<String, Value>) -> Result<(), String> {
        self.count()?;
        let depth = depth.checked_sub(1).ok_or("it is nested too deep")?;
        let known = KNOWN.messages.get(name).ok_or("its schema is not known")?;
        let (mut fields, mut seen) = (Fields::of(bytes), Vec::new());
        while let Some((number, payload)) = fields.read().map_err(|broken| broken.to_string())? {
            self.count()?;
            let found = known.iter().find(|field| field.number == number);
            let field = *found.ok_or_else(|| format!("{name} has no field {number} that is known"))?;
            if field.shape == Shape::One && seen.contains(&number) {
                return Err(format!("`{}` stands twice", field.name));
            }
            seen.push(number);
            self.field(field, payload, depth, out)?;
        }
        plain(&fields)
    }

    fn field(
        &mut self,
        field: Field,
        payload: Payload<'_>,
        depth: usize,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        match (field.shape, field.kind) {
            (_, Kind::Status) => {
                self.has_status |= !matches!(payload, Payload::Bytes(b""));
                return Ok(());
            }
            (_, Kind::Untold) => return Ok(()),
            (Shape::One, Kind::Message(inner)) if field.name.is_empty() => {
                return self.message(inner, length(field, payload)?, depth, out);
            }
            _ => {}
        }
        if field.shape == Shape::Map {
            return self.entry(field, length(field, payload)?, depth, out);
        }
        let value = self.value(field, payload, depth)?;
        match field.shape {
            Shape::List => {
                let list = out.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                list.as_array_mut().ok_or("a list is none")?.push(value);
            }
            // What clients write though it is not said.
            _ if value == Value::String(String::new()) => {}
            _ => {
                let twice = out.insert(field.name.to_owned(), value).is_some();
                if twice {
                    return Err(format!("`{}` stands twice", field.name));
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, field: Field, bytes: &[u8], depth: usize, out: &mut Map<String, Value>) -> Result<(), String> {
        let (mut key, mut value) = (None, None);
        let mut fields = Fields::of(bytes);
        while let Some((number, payload)) = fields.read().map_err(|broken| broken.to_string())? {
            let twice = match number {
                1 => key.replace(length(field, payload)?).is_some(),
                2 => value.replace(payload).is_some(),
                _ => true,
            };
            if twice {
                return Err(format!("an entry of `{}` is none", field.name));
            }
        }
        plain(&fields)?;
        let key = text(field, key.unwrap_or_default())?;
        let value = self.value(field, value.unwrap_or(Payload::Bytes(&[])), depth)?;
        let map = out.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
        let map = map.as_object_mut().ok_or("a map is none")?;
        if map.insert(key, value).is_some() {
            return Err(format!("a key of `{}` stands twice", field.name));
        }
        Ok(())
    }

    fn value(&mut self, field: Field, payload: Payload<'_>, depth: usize) -> Result<Value, String> {
        Ok(match field.kind {
            Kind::Text => text(field, length(field, payload)?)?.into(),
            Kind::Bytes => BASE64.encode(length(field, payload)?).into(),
            Kind::Bool => match payload {
                Payload::Varint(0) => false.into(),
                Payload::Varint(1) => true.into(),
                _ => return Err(format!("`{}` is neither true nor false", field.name)),
            },
            Kind::Int64 => varint(field, payload)?.into(),
            Kind::Int32 => i32::try_from(varint(field, payload)?).map_err(|_| out_of_range(field))?.into(),
            Kind::Uint32 => u32::try_from(varint(field, payload)?).map_err(|_| out_of_range(field))?.into(),
            Kind::Double => match payload {
                Payload::Fixed64(bytes) => {
                    Number::from_f64(f64::from_le_bytes(bytes)).map_or(Value::Null, Value::Number)
                }
                _ => return Err(out_of_range(field)),
            },
            Kind::Time => time(field, length(field, payload)?)?,
            Kind::Quantity => {
                let [quantity, ..] = parts(length(field, payload)?)?;
                text(field, quantity)?.into()
            }
            Kind::IntOrString => int_or_string(field, length(field, payload)?)?,
            Kind::Json => {
                let [raw, ..] = parts(length(field, payload)?)?;
                serde_json::from_slice(raw).map_err(|error| format!("`{}` is no JSON: {error}", field.name))?
            }
            Kind::Untold | Kind::Status => Value::Null,
            Kind::Message(inner) => {
                let mut object = Map::new();
                self.message(inner, length(field, payload)?, depth, &mut object)?;
                Value::Object(object)
            }
        })
    }
}

fn out_of_range(field: Field) -> String {
    format!("`{}` is no number of its kind", field.name)
}

fn length<'a>(field: Field, payload: Payload<'a>) -> Result<&'a [u8], String> {
    match payload {
        Payload::Bytes(bytes) => Ok(bytes),
        _ => Err(format!("`{}` is not written as its kind is", field.name)),
    }
}

fn text(field: Field, bytes: &[u8]) -> Result<String, String> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| format!("`{}` is no UTF-8", field.name))
}

fn varint(field: Field, payload: Payload<'_>) -> Result<i64, String> {
    match payload {
        Payload::Varint(value) => Ok(value.cast_signed()),
        _ => Err(out_of_range(field)),
    }
}

/// The numbers of a message of numbers, and the text that it may have as its third.
fn numbers(field: Field, bytes: &[u8]) -> Result<([Option<i64>; 3], Option<String>), String> {
    let (mut found, mut said, mut fields) = ([None; 3], None, Fields::of(bytes));
    while let Some((number, payload)) = fields.read().map_err(|broken| broken.to_string())? {
        let place = usize::try_from(number)
            .ok()
            .and_then(|number| found.get_mut(number - 1))
            .ok_or_else(|| out_of_range(field))?;
        let twice = match payload {
            Payload::Bytes(bytes) if number == 3 => said.replace(text(field, bytes)?).is_some(),
            payload => place.replace(varint(field, payload)?).is_some(),
        };
        if twice {
            return Err(format!("`{}` says something twice", field.name));
        }
    }
    plain(&fields)?;
    Ok((found, said))
}

/// Seconds and nanoseconds; nobody decides by them.
fn time(field: Field, bytes: &[u8]) -> Result<Value, String> {
    let ([seconds, ..], _) = numbers(field, bytes)?;
    Ok(seconds.map_or(Value::Null, Value::from))
}

fn int_or_string(field: Field, bytes: &[u8]) -> Result<Value, String> {
    let ([kind, number, _], said) = numbers(field, bytes)?;
    match kind.unwrap_or_default() {
        0 => Ok(i32::try_from(number.unwrap_or_default()).map_err(|_| out_of_range(field))?.into()),
        1 => Ok(said.unwrap_or_default().into()),
        _ => Err(out_of_range(field)),
    }
}

impl Schema {
    /// Lines that are none are left out; a test reads them all.
    fn parse(text: &'static str) -> Self {
        let mut schema = Self::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            match (words.next(), words.next()) {
                (Some("kind"), Some(version)) => {
                    if let (Some(kind), Some(message)) = (words.next(), words.next()) {
                        schema.kinds.insert((version, kind), message);
                    }
                }
                (Some(name), first) => {
                    let fields = first.into_iter().chain(words).filter_map(Field::parse).collect();
                    schema.messages.insert(name, fields);
                }
                (None, _) => {}
            }
        }
        schema
    }
}

impl Field {
    fn parse(word: &'static str) -> Option<Self> {
        let end = word.find(|character: char| !character.is_ascii_digit())?;
        let (number, rest) = word.split_at_checked(end)?;
        let number = number.parse().ok()?;
        let (shape, rest) = match rest.strip_prefix('*') {
            Some(rest) => (Shape::List, rest),
            None => rest.strip_prefix('%').map_or((Shape::One, rest), |rest| (Shape::Map, rest)),
        };
        if rest == "-" {
            return Some(Self { number, shape, name: "status", kind: Kind::Status });
        }
        if let Some((name, message)) = rest.split_once(':') {
            return Some(Self { number, shape, name, kind: Kind::Message(message) });
        }
        let (name, kind) = rest.split_once('=')?;
        let kind = match kind {
            "s" => Kind::Text,
            "b" => Kind::Bool,
            "i" => Kind::Int32,
            "l" => Kind::Int64,
            "u" => Kind::Uint32,
            "d" => Kind::Double,
            "y" => Kind::Bytes,
            "t" => Kind::Time,
            "q" => Kind::Quantity,
            "o" => Kind::IntOrString,
            "r" => Kind::Json,
            "x" => Kind::Untold,
            _ => return None,
        };
        Some(Self { number, shape, name, kind })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::http::grpc::wire::put;

    /// A message of fields: texts, numbers and other messages.
    pub(super) fn message(fields: &[(u32, Payload<'_>)]) -> Vec<u8> {
        let mut out = Vec::new();
        fields.iter().for_each(|(number, payload)| put(&mut out, *number, *payload));
        out
    }

    pub(super) fn said(text: &str) -> Payload<'_> {
        Payload::Bytes(text.as_bytes())
    }

    pub(super) fn object(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let types = message(&[(1, said(version)), (2, said(kind))]);
        let envelope = message(&[(1, Payload::Bytes(&types)), (2, Payload::Bytes(raw)), (3, said("")), (4, said(""))]);
        [MAGIC, &envelope].concat()
    }

    #[test]
    fn every_line_of_the_schema_is_read() {
        for line in SCHEMA.lines() {
            let mut words = line.split(' ');
            let name = words.next().unwrap();
            if name == "kind" {
                assert!(KNOWN.messages.contains_key(words.nth(2).unwrap()), "{line}");
                continue;
            }
            let fields = &KNOWN.messages[name];
            assert_eq!(fields.len(), words.filter(|word| !word.is_empty()).count(), "{line}");
            for field in fields {
                let is_known = !matches!(field.kind, Kind::Message(inner) if !KNOWN.messages.contains_key(inner));
                assert!(is_known, "{line}");
                assert_eq!(fields.iter().filter(|other| other.number == field.number).count(), 1, "{line}");
            }
        }
        assert!(KNOWN.messages.len() > 200 && KNOWN.kinds.len() > 40);
    }

    /// What a pod is made of, by the numbers of the published schema.
    fn pod(privileged: u64) -> Vec<u8> {
        let security = message(&[(2, Payload::Varint(privileged))]);
        let container = message(&[(1, said("web")), (2, said("nginx:1")), (15, Payload::Bytes(&security))]);
        let secret = message(&[(1, said("tls"))]);
        let source = message(&[(6, Payload::Bytes(&secret))]);
        let volume = message(&[(1, said("v")), (2, Payload::Bytes(&source))]);
        let spec = message(&[(1, Payload::Bytes(&volume)), (2, Payload::Bytes(&container)), (8, said("robot"))]);
        let label = message(&[(1, said("app")), (2, said("web"))]);
        let meta = message(&[(1, said("web")), (2, said("")), (11, Payload::Bytes(&label))]);
        message(&[(1, Payload::Bytes(&meta)), (2, Payload::Bytes(&spec)), (3, Payload::Bytes(&[]))])
    }

    #[test]
    fn an_object_is_the_json_that_it_would_be() {
        let expected = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {
                "volumes": [{"name": "v", "secret": {"secretName": "tls"}}],
                "containers": [{"name": "web", "image": "nginx:1", "securityContext": {"privileged": true}}],
                "serviceAccountName": "robot",
            },
        });
        assert_eq!(read(&object("v1", "Pod", &pod(1))).unwrap(), expected);
        let data = message(&[(1, said("p")), (2, said("x"))]);
        let secret = message(&[(2, Payload::Bytes(&data)), (3, said("Opaque"))]);
        assert_eq!(read(&object("v1", "Secret", &secret)).unwrap()["data"], json!({"p": "eA=="}));
        let options = message(&[(1, Payload::Varint(0)), (5, said("All"))]);
        let read_options = read(&object("apps/v1", "DeleteOptions", &options)).unwrap();
        assert_eq!((&read_options["gracePeriodSeconds"], &read_options["dryRun"]), (&json!(0), &json!(["All"])));
    }

    /// Without what is left out where it is a default, and without times, which are told as numbers.
    fn bare(value: &Value) -> Option<Value> {
        match value {
            Value::Object(fields) => {
                let kept = fields.iter().filter(|(name, _)| {
                    !name.ends_with("Time")
                        && !name.ends_with("Timestamp")
                        && !matches!(name.as_str(), "status" | "fieldsV1")
                });
                let kept: Map<_, _> = kept.filter_map(|(name, value)| Some((name.clone(), bare(value)?))).collect();
                (!kept.is_empty()).then_some(Value::Object(kept))
            }
            Value::Array(items) => Some(items.iter().map(|item| bare(item).unwrap_or_default()).collect()),
            Value::Null | Value::Bool(false) => None,
            Value::String(text) if text.is_empty() => None,
            Value::Number(number) if number.as_i64() == Some(0) => None,
            other => Some(other.clone()),
        }
    }

    /// What Kubernetes 1.20 has encoded: a name, its bytes in hexadecimal, and its JSON.
    #[test]
    fn what_the_clusters_own_library_writes_is_what_it_says() {
        let lines: Vec<&str> = include_str!("proto/golden.txt").lines().collect();
        assert!(lines.len() >= 40);
        for three in lines.chunks(3) {
            let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
            let bytes: Vec<u8> = three[1].as_bytes().chunks(2).map(byte).collect();
            if three[0] == "CronJob" || three[0] == "Eviction" {
                // Of versions that are no more.
                assert!(read(&bytes).is_err());
                continue;
            }
            let expected: Value = serde_json::from_str(three[2]).unwrap();
            assert_eq!(bare(&read(&bytes).unwrap()), bare(&expected), "{}", three[0]);
        }
    }

    #[test]
    fn what_readers_could_read_in_two_ways_is_not_understood() {
        let twice = |raw: &[u8]| [raw, &message(&[(2, Payload::Bytes(&[]))])].concat();
        let types = message(&[(1, said("v1")), (2, said("Pod"))]);
        let coded = message(&[(1, Payload::Bytes(&types)), (2, Payload::Bytes(&pod(1))), (3, said("gzip"))]);
        let unknown = message(&[(99, said("x"))]);
        for bytes in [
            pod(1),
            object("v1", "Pod", &pod(2)),
            object("v1", "Pod", &twice(&pod(1))),
            object("v1", "Pod", &unknown),
            object("v1", "Widget", &pod(1)),
            object("", "", &pod(1)),
            [MAGIC, &coded].concat(),
            object("v1", "Pod", &[0x08, 0x01]),
            object("v1", "Pod", &[0x1a, 0x80, 0x00]),
            object("v1", "Pod", b"\x12\x05x"),
        ] {
            assert!(read(&bytes).is_err(), "{bytes:?}");
        }
        // Empty messages count as well: each would become more than it weighs.
        let many = message(&vec![(2, Payload::Bytes(&[])); COUNT_LIMIT]);
        let spec = message(&[(2, Payload::Bytes(&many))]);
        assert!(read(&object("v1", "Pod", &spec)).unwrap_err().contains("more than"));
    }
}
