//! Recorded HTTP streams, back into what the agent sent and saw.
//!
//! Never fails: what it cannot read is summed up. Holds at most one head of each direction, and [`SHOWN_LIMIT`] of a body; of
//! HTTP/2, of [`STREAMS_LIMIT`] bodies.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;

use super::codec::frames::{self, Content, PREFACE};
use super::codec::socket::{Messages, Said};
use super::codec::{self, Chunked, Fields, Length, Piece};
use crate::protocol::{Direction, Replayer, Shown};

/// What is shown of a body, in bytes.
const SHOWN_LIMIT: usize = 64 * 1024;
/// Requests that may wait for their answers.
const ASKED_LIMIT: usize = 1024;
/// The longest message of a WebSocket.
const MESSAGE_LIMIT: usize = 16 << 20;
/// Streams of HTTP/2 whose bodies are held until they have ended.
const STREAMS_LIMIT: usize = 200;

/// Reads one session.
#[derive(Debug, Default)]
pub(in crate::protocol) struct Replay {
    agent: Stream,
    target: Stream,
    /// Of what was asked and not answered yet: whether it was HEAD, whose answer has no body. The oldest first.
    asked: VecDeque<bool>,
    /// The agent speaks HTTP/2.
    is_two: bool,
    /// It has become a WebSocket.
    is_socket: bool,
    /// How messages of a cluster's sockets are shown.
    shows: Option<ShowMessage>,
    /// What was asked for last.
    last: String,
}

/// Shows a binary message that goes this way, on a socket that was asked for so; `None` where it is no more than bytes.
pub(in crate::protocol) type ShowMessage = fn(asked: &str, from_agent: bool, message: &[u8]) -> Option<Shown>;

impl Replay {
    /// One that shows messages so.
    pub(in crate::protocol) fn showing(shows: ShowMessage) -> Self {
        Self { shows: Some(shows), ..Self::default() }
    }
}

#[derive(Debug, Default)]
struct Stream {
    held: Vec<u8>,
    body: Option<Body>,
    lost: bool,
    /// What is read of a WebSocket.
    messages: Option<Messages>,
    /// What has come of the bodies of HTTP/2, by stream.
    bodies: BTreeMap<u32, Shortened>,
}

/// The beginning of a body.
#[derive(Debug, Default)]
struct Shortened {
    shown: Vec<u8>,
    length: u64,
}

impl Shortened {
    fn push(&mut self, bytes: &[u8]) {
        let room = SHOWN_LIMIT.saturating_sub(self.shown.len());
        self.shown.extend(bytes.iter().take(room));
        self.length += bytes.len() as u64;
    }

    /// As it is shown; nothing where there is none.
    fn text(&self) -> Option<String> {
        let more = self.length.saturating_sub(self.shown.len() as u64);
        let more = if more > 0 { format!(" ... {more} bytes more") } else { String::new() };
        (self.length > 0).then(|| format!("{}{more}", String::from_utf8_lossy(&self.shown)))
    }
}

#[derive(Debug)]
struct Body {
    left: Left,
    shown: Shortened,
}

#[derive(Debug)]
enum Left {
    Known(u64),
    Chunked(Chunked),
}

impl Replayer for Replay {
    fn feed(&mut self, direction: Direction, bytes: &[u8]) -> Vec<Shown> {
        let stream = match direction {
            Direction::FromAgent => &mut self.agent,
            Direction::ToAgent => &mut self.target,
        };
        let from_agent = direction == Direction::FromAgent;
        if stream.lost {
            return vec![Shown::Other(format!("{} bytes", bytes.len()))];
        }
        stream.held.extend_from_slice(bytes);
        if from_agent && !self.is_two {
            if PREFACE.starts_with(&stream.held) && stream.held.len() < PREFACE.len() {
                return Vec::new();
            }
            if stream.held.starts_with(PREFACE) {
                self.is_two = true;
                stream.held.drain(..PREFACE.len());
            }
        }
        if self.is_two {
            return stream.frames();
        }
        if self.is_socket {
            return stream.said(from_agent, (self.shows, &self.last));
        }
        let mut shown = stream.messages(from_agent, &mut self.asked, &mut self.is_socket);
        if let Some(Shown::Statement(text)) = shown.iter().rfind(|shown| matches!(shown, Shown::Statement(_))) {
            self.last.clone_from(text);
        }
        if self.is_socket {
            shown.extend(self.target.said(false, (self.shows, &self.last)));
        }
        shown
    }
}

impl Stream {
    /// Frames of HTTP/2.
    fn frames(&mut self) -> Vec<Shown> {
        let mut shown = Vec::new();
        loop {
            let (stream, last, used) = match frames::read(&self.held) {
                Ok(Some((frame, used))) => {
                    let (stream, last) = (frame.stream, frame.last);
                    match frame.content {
                        Content::Fields(fields) => shown.push(head_of(stream, &fields)),
                        Content::Data(data)
                            if self.bodies.len() < STREAMS_LIMIT || self.bodies.contains_key(&stream) =>
                        {
                            self.bodies.entry(stream).or_default().push(data);
                        }
                        Content::Data([]) => {}
                        Content::Data(data) => shown.push(Shown::Other(format!("#{stream} {} bytes", data.len()))),
                    }
                    (stream, last, used)
                }
                Ok(None) => return shown,
                Err(frames::NoFrame) => {
                    shown.push(self.lose());
                    return shown;
                }
            };
            self.held.drain(..used);
            if last && let Some(text) = self.bodies.remove(&stream).and_then(|body| body.text()) {
                shown.push(Shown::Other(format!("#{stream} {text}")));
            }
        }
    }

    /// Messages of a WebSocket.
    fn said(&mut self, from_agent: bool, (shows, asked): (Option<ShowMessage>, &str)) -> Vec<Shown> {
        let mut shown = Vec::new();
        let messages = self.messages.get_or_insert_with(|| Messages::new(false, MESSAGE_LIMIT));
        let mut input = BytesMut::from(self.held.as_slice());
        let lost = loop {
            let text = match messages.next(&mut input) {
                Ok(None) => break false,
                Err(_) => break true,
                Ok(Some(Said::Text(text))) => shortened(&text),
                Ok(Some(Said::Binary(bytes))) => match shows.and_then(|shows| shows(asked, from_agent, &bytes)) {
                    Some(message) => {
                        shown.push(message);
                        continue;
                    }
                    None => format!("{} bytes", bytes.len()),
                },
                Ok(Some(Said::Close(code, reason))) => {
                    let code = code.map(|code| format!(" {code}")).unwrap_or_default();
                    shown.push(Shown::Message(
                        format!("closed:{code} {}", String::from_utf8_lossy(&reason)).trim().to_owned(),
                    ));
                    continue;
                }
                Ok(Some(Said::Ping(_) | Said::Pong)) => continue,
            };
            shown.push(if from_agent { Shown::Statement(text) } else { Shown::Other(text) });
        };
        self.held = input.to_vec();
        if lost {
            shown.push(self.lose());
        }
        shown
    }

    fn lose(&mut self) -> Shown {
        self.lost = true;
        let held = std::mem::take(&mut self.held);
        Shown::Other(format!("{} bytes that are no HTTP", held.len()))
    }

    /// Messages of HTTP/1.1.
    fn messages(&mut self, from_agent: bool, asked: &mut VecDeque<bool>, is_socket: &mut bool) -> Vec<Shown> {
        let mut shown = Vec::new();
        loop {
            match &mut self.body {
                None => match self.head(from_agent, asked) {
                    Ok(Some(Shown::Complete(line))) if line.starts_with("101 ") => {
                        shown.push(Shown::Complete(line));
                        *is_socket = true;
                        return shown;
                    }
                    Ok(Some(line)) => shown.push(line),
                    Ok(None) => return shown,
                    Err(()) => {
                        shown.push(self.lose());
                        return shown;
                    }
                },
                Some(body) => {
                    if !body.take(&mut self.held) {
                        return shown;
                    }
                    shown.extend(self.body.take().and_then(|body| body.shown.text()).map(Shown::Other));
                }
            }
        }
    }

    /// The next head, where it is complete.
    fn head(&mut self, from_agent: bool, asked: &mut VecDeque<bool>) -> Result<Option<Shown>, ()> {
        let (line, length, used) = if from_agent {
            match codec::request(&self.held).map_err(|_| ())? {
                None => return Ok(None),
                Some((head, used)) => {
                    asked.truncate(ASKED_LIMIT);
                    asked.push_back(head.method == "HEAD");
                    (Shown::Statement(format!("{} {}", head.method, head.target)), head.length, used)
                }
            }
        } else {
            match codec::response(&self.held).map_err(|_| ())? {
                None => return Ok(None),
                Some((head, used)) => {
                    let bodiless = asked.pop_front().unwrap_or(false) || matches!(head.status, 100..=199 | 204 | 304);
                    let length = if bodiless { Length::Known(0) } else { head.length };
                    (Shown::Complete(format!("{} {}", head.status, head.reason)), length, used)
                }
            }
        };
        self.held.drain(..used);
        let left = match length {
            Length::Known(length) => Left::Known(length),
            Length::Chunked => Left::Chunked(Chunked::default()),
            // An answer without a body: what is passed on says how long it is otherwise.
            Length::UntilClose => Left::Known(0),
        };
        self.body = Some(Body { left, shown: Shortened::default() });
        Ok(Some(line))
    }
}

fn shortened(bytes: &[u8]) -> String {
    let mut body = Shortened::default();
    body.push(bytes);
    body.text().unwrap_or_default()
}

/// The head of a request or an answer of HTTP/2, or trailers.
fn head_of(stream: u32, fields: &Fields) -> Shown {
    match (fields.text(":method"), fields.text(":path"), fields.text(":status")) {
        (Some(method), Some(path), _) => Shown::Statement(format!("#{stream} {method} {path}")),
        (_, _, Some(status)) => {
            // That of gRPC may come without any message before it.
            let grpc = fields.text("grpc-status").map(|status| format!(", grpc-status: {status}")).unwrap_or_default();
            Shown::Complete(format!("#{stream} {status}{grpc}"))
        }
        _ => {
            let lines =
                fields.0.iter().map(|field| format!("{}: {}", field.name, String::from_utf8_lossy(&field.value)));
            Shown::Other(format!("#{stream} {}", lines.collect::<Vec<_>>().join(", ")))
        }
    }
}

impl Body {
    /// Takes what there is of it; whether that was all.
    fn take(&mut self, held: &mut Vec<u8>) -> bool {
        loop {
            let count = match &mut self.left {
                Left::Known(0) => return true,
                Left::Known(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(held.len());
                    if here == 0 {
                        return false;
                    }
                    *left -= here as u64;
                    here
                }
                Left::Chunked(reader) => match reader.next(held) {
                    Ok(Piece::Data(count)) => count,
                    Ok(Piece::Skip(count)) => {
                        held.drain(..count);
                        continue;
                    }
                    Ok(Piece::More) => return false,
                    Ok(Piece::End) | Err(_) => return true,
                },
            };
            self.shown.push(held.get(..count).unwrap_or_default());
            held.drain(..count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_shown_however_the_bytes_came() {
        let sent = b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhiGET /b HTTP/1.1\r\nhost: h\r\n\r\n";
        let got = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nHTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n";
        for size in [1, 7, 1000] {
            let mut replay = Replay::default();
            let mut shown: Vec<Shown> =
                sent.chunks(size).flat_map(|part| replay.feed(Direction::FromAgent, part)).collect();
            shown.extend(got.chunks(size).flat_map(|part| replay.feed(Direction::ToAgent, part)));
            let expected = [
                Shown::Statement("POST /a".into()),
                Shown::Other("hi".into()),
                Shown::Statement("GET /b".into()),
                Shown::Complete("200 OK".into()),
                Shown::Other("abc".into()),
                Shown::Complete("204 No Content".into()),
            ];
            assert_eq!(shown, expected, "{size}");
        }
        let mut replay = Replay::default();
        replay.feed(Direction::FromAgent, b"HEAD /a HTTP/1.1\r\nhost: h\r\n\r\n");
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nHTTP/1.1 204 No\r\n\r\n";
        assert_eq!(replay.feed(Direction::ToAgent, head).len(), 2, "an answer to HEAD has no body");
        let mut replay = Replay::default();
        let lost = replay.feed(Direction::ToAgent, b"no head\n\n");
        assert!(matches!(&lost[..], [Shown::Other(text)] if text.contains("no HTTP")), "{lost:?}");
    }
}
