//! Frames of a WebSocket (RFC 6455, section 5) to messages and back.
//!
//! Strict where readers differ: no bits are reserved for extensions, lengths are written as short as they can be, agents mask
//! and targets do not, control frames are whole and short, and a message is put together before anybody looks at it.

use bytes::{Buf as _, Bytes, BytesMut};

/// What is wrong with a frame: the code to close with (RFC 6455, section 7.4.1), and a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The frame is none.
    #[error("a frame of it is none, or belongs to an extension that was not agreed on")]
    Frame,
    /// It is masked, or not.
    #[error("a frame of it is masked where it must not be, or is not where it must")]
    Mask,
    /// A message is longer than is held.
    #[error("a message of it is too long")]
    TooLong,
    /// Text that is none.
    #[error("a text of it is no UTF-8")]
    Text,
}

impl Broken {
    /// The code to close with.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Frame | Self::Mask => 1002,
            Self::TooLong => 1009,
            Self::Text => 1007,
        }
    }
}

/// What was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Text, which is UTF-8.
    Text(Bytes),
    /// Bytes.
    Binary(Bytes),
    /// A question whether anybody is there.
    Ping(Bytes),
    /// The answer to it.
    Pong,
    /// A farewell: its code and reason.
    Close(Option<u16>, Bytes),
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// The longest payload of a control frame.
const CONTROL_LIMIT: usize = 125;

/// Puts messages of one direction together.
#[derive(Debug)]
pub struct Messages {
    /// They come from the side that has to mask.
    masked: bool,
    limit: usize,
    /// The kind of a message of which not all has come, and what has.
    begun: Option<(u8, BytesMut)>,
}

impl Messages {
    /// Of whoever has to mask, or has not to; of at most so many bytes each.
    #[must_use]
    pub const fn new(masked: bool, limit: usize) -> Self {
        Self { masked, limit, begun: None }
    }

    /// How many bytes are held of a message that is not complete.
    #[must_use]
    pub fn held(&self) -> usize {
        self.begun.as_ref().map_or(0, |(_, text)| text.len())
    }

    /// Takes the next that is complete out of the bytes; `None` where more of them are needed.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Said>, Broken> {
        loop {
            let Some((first, length, key, head)) = self.head(input)? else { return Ok(None) };
            if input.len() < head + length {
                return Ok(None);
            }
            input.advance(head);
            let mut payload = input.split_to(length);
            if let Some(key) = key {
                unmask(&mut payload, key);
            }
            let (last, kind) = (first & FIN != 0, first & 0xF);
            if kind >= CLOSE {
                return control(kind, payload.freeze()).map(Some);
            }
            let (kind, whole) = match (self.begun.take(), kind) {
                (None, TEXT | BINARY) => (kind, payload),
                (Some((kind, mut text)), CONTINUATION) => {
                    text.extend_from_slice(&payload);
                    (kind, text)
                }
                _ => return Err(Broken::Frame),
            };
            if !last {
                self.begun = Some((kind, whole));
                continue;
            }
            if kind == BINARY {
                return Ok(Some(Said::Binary(whole.freeze())));
            }
            if std::str::from_utf8(&whole).is_err() {
                return Err(Broken::Text);
            }
            return Ok(Some(Said::Text(whole.freeze())));
        }
    }

    /// The first byte of the next frame, the length of its payload, its key, and the length of its head.
    fn head(&self, input: &[u8]) -> Result<Option<Head>, Broken> {
        let Some((&[first, second], rest)) = input.split_first_chunk::<2>() else { return Ok(None) };
        let kind = first & 0xF;
        if first & 0x70 != 0 || !matches!(kind, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
            return Err(Broken::Frame);
        }
        if (second & MASKED != 0) != self.masked {
            return Err(Broken::Mask);
        }
        let (length, used) = match second & 0x7F {
            126 => {
                let Some(two) = rest.first_chunk::<2>() else { return Ok(None) };
                let length = u64::from(u16::from_be_bytes(*two));
                (length, if length < 126 { return Err(Broken::Frame) } else { 2 })
            }
            127 => {
                let Some(eight) = rest.first_chunk::<8>() else { return Ok(None) };
                let length = u64::from_be_bytes(*eight);
                (length, if length < 1 << 16 { return Err(Broken::Frame) } else { 8 })
            }
            short => (u64::from(short), 0),
        };
        if kind >= CLOSE && (first & FIN == 0 || length > CONTROL_LIMIT as u64) {
            return Err(Broken::Frame);
        }
        let room = (self.limit - self.held().min(self.limit)) as u64;
        if kind < CLOSE && length > room {
            return Err(Broken::TooLong);
        }
        let length = usize::try_from(length).map_err(|_| Broken::TooLong)?;
        if !self.masked {
            return Ok(Some((first, length, None, 2 + used)));
        }
        let Some(key) = rest.get(used..).and_then(|rest| rest.first_chunk::<4>()) else { return Ok(None) };
        Ok(Some((first, length, Some(*key), 2 + used + 4)))
    }
}

/// The first byte of a frame, the length of its payload, its key, and the length of all that.
type Head = (u8, usize, Option<[u8; 4]>, usize);

fn control(kind: u8, payload: Bytes) -> Result<Said, Broken> {
    match (kind, payload.first_chunk::<2>()) {
        (PING, _) => Ok(Said::Ping(payload)),
        (PONG, _) => Ok(Said::Pong),
        (_, None) if payload.is_empty() => Ok(Said::Close(None, payload)),
        (_, None) => Err(Broken::Frame),
        (_, Some(code)) => {
            let code = u16::from_be_bytes(*code);
            let reason = payload.slice(2..);
            // Codes that say that there was no frame cannot stand in one.
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(Broken::Frame);
            }
            if std::str::from_utf8(&reason).is_err() {
                return Err(Broken::Text);
            }
            Ok(Said::Close(Some(code), reason))
        }
    }
}

fn unmask(payload: &mut [u8], key: [u8; 4]) {
    for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

impl Said {
    /// Writes it as one frame; with a key where the receiver wants frames masked.
    pub fn write(&self, out: &mut Vec<u8>, key: Option<[u8; 4]>) {
        let mut text = Vec::new();
        let (kind, payload): (u8, &[u8]) = match self {
            Self::Text(payload) => (TEXT, payload),
            Self::Binary(payload) => (BINARY, payload),
            Self::Ping(payload) => (PING, payload),
            Self::Pong => (PONG, &[]),
            Self::Close(None, _) => (CLOSE, &[]),
            Self::Close(Some(code), reason) => {
                text.extend_from_slice(&code.to_be_bytes());
                text.extend_from_slice(reason);
                (CLOSE, &text)
            }
        };
        put(out, kind, payload, key);
    }

    /// The answer to a ping.
    pub fn write_pong(out: &mut Vec<u8>, payload: &[u8], key: Option<[u8; 4]>) {
        put(out, PONG, payload, key);
    }
}

fn put(out: &mut Vec<u8>, kind: u8, payload: &[u8], key: Option<[u8; 4]>) {
    let masked = if key.is_some() { MASKED } else { 0 };
    out.push(FIN | kind);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ 0..=125), _) => out.push(masked | short),
        (_, Ok(length)) => {
            out.push(masked | 126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend(key.iter().flatten());
    let from = out.len();
    out.extend_from_slice(payload);
    if let (Some(key), Some(payload)) = (key, out.get_mut(from..)) {
        unmask(payload, key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8], masked: bool, step: usize) -> Result<Vec<Said>, Broken> {
        let (mut messages, mut input, mut said) = (Messages::new(masked, 70_000), BytesMut::new(), Vec::new());
        for part in bytes.chunks(step) {
            input.extend_from_slice(part);
            while let Some(one) = messages.next(&mut input)? {
                said.push(one);
            }
        }
        Ok(said)
    }

    #[test]
    fn what_is_written_is_read_again_however_it_comes() {
        let said = [
            Said::Text("{\"a\": 1}".into()),
            Said::Binary(vec![7; 126].into()),
            Said::Text("x".repeat(65_536).into()),
            Said::Ping("there?".into()),
            Said::Pong,
            Said::Close(Some(1008), "no".into()),
            Said::Close(None, Bytes::new()),
        ];
        for key in [None, Some([1, 2, 3, 250])] {
            let mut out = Vec::new();
            said.iter().for_each(|one| one.write(&mut out, key));
            for step in [1, 3, 1 << 20] {
                assert_eq!(all(&out, key.is_some(), step).unwrap(), said, "{key:?} {step}");
            }
            assert_eq!(all(&out, key.is_none(), 100), Err(Broken::Mask));
        }
    }

    #[test]
    fn pieces_are_one_message_and_control_frames_may_stand_between() {
        let bytes = b"\x01\x02he\x89\x01!\x00\x01l\x80\x02lo";
        assert_eq!(all(bytes, false, 1).unwrap(), [Said::Ping("!".into()), Said::Text("hello".into())]);
    }

    #[test]
    fn what_readers_could_take_for_another_thing_is_broken() {
        let long = [&b"\x81\x7f"[..], &70_001u64.to_be_bytes()].concat();
        for (bytes, why) in [
            (&b"\xc1\x00"[..], Broken::Frame),
            (b"\x83\x00", Broken::Frame),
            (b"\x80\x00", Broken::Frame),
            (b"\x01\x01a\x01\x01b", Broken::Frame),
            (b"\x09\x00", Broken::Frame),
            (b"\x89\x7e\x00\x7e", Broken::Frame),
            (b"\x81\x7e\x00\x01a", Broken::Frame),
            (b"\x81\x7f\x00\x00\x00\x00\x00\x00\x00\x7e", Broken::Frame),
            (b"\x88\x01\x03", Broken::Frame),
            (b"\x88\x02\x03\xed", Broken::Frame),
            (b"\x81\x01\xff", Broken::Text),
            (b"\x88\x03\x03\xe8\xff", Broken::Text),
            (&long, Broken::TooLong),
        ] {
            assert_eq!(all(bytes, false, 100), Err(why), "{bytes:?}");
        }
        // The limit is the message's, not the frame's.
        let mut pieces = b"\x01\x7e\xff\xff".to_vec();
        pieces.extend_from_slice(&[b'x'; 65_535]);
        pieces.extend_from_slice(b"\x80\x7e\xff\xff");
        assert_eq!(all(&pieces, false, 1000), Err(Broken::TooLong));
    }
}
