//! Recorded HTTP streams, back into what the agent sent and saw.
//!
//! Never fails: what it cannot read is summed up. Holds at most one head of each direction, and [`SHOWN_LIMIT`] of a body.

use std::collections::VecDeque;

use super::codec::{self, Chunked, Length, Piece};
use crate::protocol::{Direction, Replayer, Shown};

/// What is shown of a body, in bytes.
const SHOWN_LIMIT: usize = 64 * 1024;
/// Requests that may wait for their answers.
const ASKED_LIMIT: usize = 1024;

/// Reads one session.
#[derive(Debug, Default)]
pub(super) struct Replay {
    agent: Stream,
    target: Stream,
    /// Of what was asked and not answered yet: whether it was HEAD, whose answer has no body. The oldest first.
    asked: VecDeque<bool>,
}

#[derive(Debug, Default)]
struct Stream {
    held: Vec<u8>,
    body: Option<Body>,
    lost: bool,
}

#[derive(Debug)]
struct Body {
    left: Left,
    shown: Vec<u8>,
    length: u64,
}

#[derive(Debug)]
enum Left {
    Known(u64),
    Chunked(Chunked),
}

impl Replayer for Replay {
    fn feed(&mut self, direction: Direction, bytes: &[u8]) -> Vec<Shown> {
        match direction {
            Direction::FromAgent => self.agent.feed(true, bytes, &mut self.asked),
            Direction::ToAgent => self.target.feed(false, bytes, &mut self.asked),
        }
    }
}

impl Stream {
    fn feed(&mut self, from_agent: bool, bytes: &[u8], asked: &mut VecDeque<bool>) -> Vec<Shown> {
        if self.lost {
            return vec![Shown::Other(format!("{} bytes", bytes.len()))];
        }
        self.held.extend_from_slice(bytes);
        let mut shown = Vec::new();
        loop {
            match &mut self.body {
                None => match self.head(from_agent, asked) {
                    Ok(Some(line)) => shown.push(line),
                    Ok(None) => return shown,
                    Err(()) => {
                        self.lost = true;
                        shown.push(Shown::Other(format!("{} bytes that are no HTTP", self.held.len())));
                        self.held.clear();
                        return shown;
                    }
                },
                Some(body) => {
                    if !body.take(&mut self.held) {
                        return shown;
                    }
                    if let Some(body) = self.body.take().filter(|body| body.length > 0) {
                        let text = String::from_utf8_lossy(&body.shown).into_owned();
                        let more = body.length.saturating_sub(body.shown.len() as u64);
                        let more = if more > 0 { format!(" ... {more} bytes more") } else { String::new() };
                        shown.push(Shown::Other(format!("{text}{more}")));
                    }
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
        self.body = Some(Body { left, shown: Vec::new(), length: 0 });
        Ok(Some(line))
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
            let room = SHOWN_LIMIT.saturating_sub(self.shown.len());
            self.shown.extend(held.drain(..count).take(room));
            self.length += count as u64;
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
