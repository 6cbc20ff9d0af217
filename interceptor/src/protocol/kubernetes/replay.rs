//! Recorded requests to clusters, back into what the agent sent and saw: HTTP, with programs as terminals, and with objects
//! that were seen before as what has changed in them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::streams::{Kind, PORT, RESIZE, STDERR, STDIN, STDOUT};
use crate::protocol::http::replay::Replay;
use crate::protocol::http::route::Location;
use crate::protocol::{Direction, Replayer, Shown, Terminal};

/// Objects that are remembered, of all that a session has seen.
const OBJECTS_LIMIT: usize = 256;
/// Lines of one difference.
const LINES_LIMIT: usize = 200;

/// Reads one session.
#[derive(Debug)]
pub(super) struct Cluster {
    http: Replay,
    /// Objects as they were seen last.
    objects: BTreeMap<String, Value>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self { http: Replay::showing(message), objects: BTreeMap::new() }
    }
}

impl Replayer for Cluster {
    fn feed(&mut self, direction: Direction, bytes: &[u8]) -> Vec<Shown> {
        let shown = self.http.feed(direction, bytes);
        if direction == Direction::FromAgent {
            return shown;
        }
        shown.into_iter().map(|shown| self.compared(shown)).collect()
    }
}

impl Cluster {
    /// An object that was seen before, as what has changed in it.
    fn compared(&mut self, shown: Shown) -> Shown {
        let Shown::Other(text) = &shown else { return shown };
        let start = text.find('{').filter(|start| *start < 16).unwrap_or(text.len());
        let (lead, json) = text.split_at_checked(start).unwrap_or((text, ""));
        let Ok(mut object) = serde_json::from_str::<Value>(json) else { return shown };
        let Some(key) = key(&object) else { return shown };
        // Who changed which field last is told once, by the server, for itself.
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("managedFields");
        }
        if !self.objects.contains_key(&key) && self.objects.len() == OBJECTS_LIMIT {
            self.objects.pop_first();
        }
        let Some(before) = self.objects.insert(key.clone(), object.clone()) else { return shown };
        let mut lines = Vec::new();
        differ("", &before, &object, &mut lines);
        lines.truncate(LINES_LIMIT);
        let told = if lines.is_empty() { "unchanged".to_owned() } else { format!("changed:\n{}", lines.join("\n")) };
        Shown::Other(format!("{lead}{key} {told}"))
    }
}

/// Kind, namespace and name of an object.
fn key(object: &Value) -> Option<String> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let meta = object.get("metadata")?;
    let (kind, name) = (text(object, "kind")?, text(meta, "name")?);
    Some(match text(meta, "namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    })
}

/// What is not the same: `spec.replicas: 3 -> 0`.
fn differ(path: &str, before: &Value, after: &Value, lines: &mut Vec<String>) {
    if before == after || lines.len() >= LINES_LIMIT {
        return;
    }
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let none = Value::Null;
    match (before, after) {
        (Value::Object(one), Value::Object(other)) => {
            let new = other.keys().filter(|name| !one.contains_key(*name));
            for name in one.keys().chain(new) {
                let (was, is) = (one.get(name).unwrap_or(&none), other.get(name).unwrap_or(&none));
                differ(&below(name), was, is, lines);
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            for index in 0..one.len().max(other.len()) {
                let (was, is) = (one.get(index).unwrap_or(&none), other.get(index).unwrap_or(&none));
                differ(&below(&index.to_string()), was, is, lines);
            }
        }
        _ => lines.push(format!("  {path}: {before} -> {after}")),
    }
}

/// A message of a program, or of a port.
fn message(asked: &str, from_agent: bool, message: &[u8]) -> Option<Shown> {
    let (channel, payload) = message.split_first()?;
    // As it was read when it was asked: `GET /api/...`.
    let location = asked.split_once(' ').and_then(|(_, target)| Location::read(target).ok())?;
    if Kind::of(&location)? == Kind::Ports {
        return Some(Shown::Other(passed(*channel, payload, from_agent)));
    }
    let stream = match *channel {
        STDIN => Terminal::Stdin,
        STDOUT => Terminal::Stdout,
        STDERR => Terminal::Stderr,
        RESIZE => size(payload)?,
        _ => return Some(Shown::Message(String::from_utf8_lossy(payload).into_owned())),
    };
    let is_size = matches!(stream, Terminal::Resize { .. });
    Some(Shown::Terminal { stream, bytes: if is_size { Vec::new() } else { payload.to_vec() } })
}

/// What went through a port, in words.
fn passed(channel: u8, payload: &[u8], from_agent: bool) -> String {
    let way = if from_agent { "to" } else { "from" };
    match (channel, payload) {
        (PORT.., [a, b, c, d, high, low, rest @ ..]) => {
            let (stream, port) = (u32::from_be_bytes([*a, *b, *c, *d]), u16::from_be_bytes([*high, *low]));
            format!("{} bytes {way} port {port}, stream {stream}", rest.len())
        }
        _ => format!("{} bytes {way} a port, connection {}", payload.len(), channel / 2),
    }
}

/// `{"Width":80,"Height":24}`.
fn size(payload: &[u8]) -> Option<Terminal> {
    let size: Value = serde_json::from_slice(payload).ok()?;
    let side = |name: &str| size.get(name)?.as_u64()?.try_into().ok();
    Some(Terminal::Resize { width: side("Width")?, height: side("Height")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::codec::socket::Said;

    fn answer(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[test]
    fn an_object_that_was_seen_is_shown_as_what_has_changed() {
        let mut replay = Cluster::default();
        let web = |replicas: u32, image: &str| {
            format!(
                r#"{{"kind":"Deployment","metadata":{{"name":"web","namespace":"shop","managedFields":[{replicas}]}},"spec":{{"replicas":{replicas},"images":["{image}"]}}}}"#
            )
        };
        let mut told = |body: String| match replay.feed(Direction::ToAgent, answer(&body).as_bytes()).pop() {
            Some(Shown::Other(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(told(web(3, "a")).starts_with('{'));
        assert_eq!(told(web(3, "a")), "Deployment shop/web unchanged");
        assert_eq!(
            told(web(0, "b")),
            "Deployment shop/web changed:\n  spec.replicas: 3 -> 0\n  spec.images.0: \"a\" -> \"b\""
        );
    }

    #[test]
    fn programs_are_shown_as_terminals() {
        let mut replay = Cluster::default();
        replay.feed(
            Direction::FromAgent,
            b"GET /api/v1/namespaces/s/pods/p/exec?command=sh HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\n\r\n",
        );
        replay.feed(Direction::ToAgent, b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n");
        let mut said = |direction: Direction, message: &[u8]| {
            let mut bytes = Vec::new();
            Said::Binary(message.to_vec().into()).write(&mut bytes, None);
            replay.feed(direction, &bytes)
        };
        let terminal = |stream, text: &str| vec![Shown::Terminal { stream, bytes: text.into() }];
        assert_eq!(said(Direction::ToAgent, b"\x01$ "), terminal(Terminal::Stdout, "$ "));
        assert_eq!(said(Direction::FromAgent, b"\0ls\r"), terminal(Terminal::Stdin, "ls\r"));
        let size = Terminal::Resize { width: 90, height: 30 };
        assert_eq!(said(Direction::FromAgent, b"\x04{\"Width\":90,\"Height\":30}"), terminal(size, ""));
        assert_eq!(said(Direction::ToAgent, b"\x03{}"), [Shown::Message("{}".into())]);
    }

    #[test]
    fn ports_are_no_terminals_however_their_path_is_written() {
        for path in ["pods/p/portforward/?ports=80", "pods/p/portforwar%64"] {
            let mut replay = Cluster::default();
            let head = format!("GET /api/v1/namespaces/s/{path} HTTP/1.1\r\nhost: h\r\nupgrade: x\r\n\r\n");
            replay.feed(Direction::FromAgent, head.as_bytes());
            replay.feed(Direction::ToAgent, b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n");
            let mut bytes = Vec::new();
            Said::Binary(b"\xf0\0\0\0\x03\0\x50hello".to_vec().into()).write(&mut bytes, None);
            let shown = replay.feed(Direction::ToAgent, &bytes);
            assert_eq!(shown, [Shown::Other("5 bytes from port 80, stream 3".into())], "{path}");
        }
    }
}
