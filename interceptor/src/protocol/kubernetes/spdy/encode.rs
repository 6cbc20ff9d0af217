//! Frames to bytes.

use super::headers::{Deflater, Headers};
use super::{
    Broken, CLEAR, CONTROL, FIN, Frame, GOAWAY, HEADERS, PERSISTENCE, PING, RST_STREAM, SETTINGS, SETTINGS_LIMIT,
    SYN_REPLY, SYN_STREAM, U24, UNIDIRECTIONAL, VERSION, WINDOW_UPDATE, known, positive, short, some,
};

/// Writes the frames of one direction: only those that a [`super::Decoder`] reads.
#[derive(Debug)]
pub struct Encoder {
    /// Begun with the first headers; what it was asked in vain, it is not asked again.
    deflater: Result<Option<Deflater>, Broken>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// At the first byte of a direction.
    #[must_use]
    pub const fn new() -> Self {
        Self { deflater: Ok(None) }
    }

    /// Writes a frame; data as several where it is longer than one can be. After an error, nothing of it is written.
    ///
    /// # Errors
    /// [`Broken`], where it cannot be said. Where that were headers that were compressed, no others can be.
    pub fn write(&mut self, frame: &Frame, out: &mut Vec<u8>) -> Result<(), Broken> {
        match frame {
            Frame::Data { id, fin, payload } => put_data(out, some(short(*id)?)?, *fin, payload),
            Frame::SynStream { id, associated, priority, fin, unidirectional, headers } => {
                let mut body = two(some(short(*id)?)?, short(*associated)?);
                body.extend_from_slice(&[priority.checked_mul(32).ok_or(Broken::Reserved)?, 0]);
                self.put_headers(
                    out,
                    SYN_STREAM,
                    flag(*fin, FIN) | flag(*unidirectional, UNIDIRECTIONAL),
                    body,
                    headers,
                )
            }
            Frame::SynReply { id, fin, headers } => {
                self.put_headers(out, SYN_REPLY, flag(*fin, FIN), one(some(short(*id)?)?), headers)
            }
            Frame::Headers { id, fin, headers } => {
                self.put_headers(out, HEADERS, flag(*fin, FIN), one(some(short(*id)?)?), headers)
            }
            Frame::Reset { id, status } => put(out, RST_STREAM, 0, &two(some(short(*id)?)?, positive(*status)?)),
            Frame::Settings { clear, entries } => put(out, SETTINGS, flag(*clear, CLEAR), &settings(entries)?),
            Frame::Ping(number) => put(out, PING, 0, &one(*number)),
            Frame::GoAway { last, status } => put(out, GOAWAY, 0, &two(short(*last)?, *status)),
            Frame::WindowUpdate { id, delta } => {
                put(out, WINDOW_UPDATE, 0, &two(short(*id)?, positive(short(*delta)?)?))
            }
        }
    }

    fn put_headers(
        &mut self,
        out: &mut Vec<u8>,
        kind: u16,
        flags: u8,
        mut body: Vec<u8>,
        headers: &Headers,
    ) -> Result<(), Broken> {
        match self.deflate(headers) {
            Ok(block) => body.extend_from_slice(&block),
            Err(broken) => {
                self.deflater = Err(broken);
                return Err(broken);
            }
        }
        put(out, kind, flags, &body)
    }

    fn deflate(&mut self, headers: &Headers) -> Result<Vec<u8>, Broken> {
        let begun = self.deflater.as_mut().map_err(|broken| *broken)?;
        let deflater = match begun {
            Some(deflater) => deflater,
            None => begun.insert(Deflater::new()?),
        };
        deflater.write(headers)
    }
}

fn put(out: &mut Vec<u8>, kind: u16, flags: u8, body: &[u8]) -> Result<(), Broken> {
    put_head(out, CONTROL | VERSION << 16 | u32::from(kind), flags, body.len())?;
    out.extend_from_slice(body);
    Ok(())
}

fn put_data(out: &mut Vec<u8>, id: u32, fin: bool, mut payload: &[u8]) -> Result<(), Broken> {
    let most = usize::try_from(U24).map_err(|_| Broken::Long)?;
    while let Some((frame, rest)) = payload.split_at_checked(most).filter(|(_, rest)| !rest.is_empty()) {
        put_head(out, id, 0, frame.len())?;
        out.extend_from_slice(frame);
        payload = rest;
    }
    put_head(out, id, flag(fin, FIN), payload.len())?;
    out.extend_from_slice(payload);
    Ok(())
}

fn put_head(out: &mut Vec<u8>, first: u32, flags: u8, length: usize) -> Result<(), Broken> {
    let length = u32::try_from(length).ok().filter(|length| *length <= U24).ok_or(Broken::Long)?;
    out.extend_from_slice(&first.to_be_bytes());
    out.extend_from_slice(&(u32::from(flags) << 24 | length).to_be_bytes());
    Ok(())
}

fn settings(entries: &[(u8, u32, u32)]) -> Result<Vec<u8>, Broken> {
    let count = u32::try_from(entries.len()).ok().filter(|_| entries.len() <= SETTINGS_LIMIT).ok_or(Broken::Long)?;
    let mut body = one(count);
    for (flags, name, value) in entries {
        known(*flags, PERSISTENCE)?;
        if *name > U24 {
            return Err(Broken::Reserved);
        }
        body.extend_from_slice(&two(u32::from(*flags) << 24 | name, *value));
    }
    Ok(body)
}

fn one(first: u32) -> Vec<u8> {
    first.to_be_bytes().to_vec()
}

fn two(first: u32, second: u32) -> Vec<u8> {
    [first.to_be_bytes(), second.to_be_bytes()].concat()
}

const fn flag(is: bool, flag: u8) -> u8 {
    if is { flag } else { 0 }
}
