//! How messages stand in the bodies of calls: each behind five bytes (a flag, and its length); in the form of gRPC-web that is
//! text, all of that in base64.

use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf as _, Bytes, BytesMut};
use flate2::bufread::GzDecoder;

/// Bytes before a message.
pub const HEAD: usize = 5;
/// The flag of a message that is compressed.
pub const COMPRESSED: u8 = 1;
/// The flag of trailers, in the place of a message (gRPC-web).
pub const TRAILERS: u8 = 0x80;

/// What is no message in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unframed {
    /// It is too long.
    #[error("it has a message of {0} bytes, more than are looked into")]
    Long(u32),
    /// It is no base64.
    #[error("it is no base64")]
    Base64,
    /// It ends within a message.
    #[error("it ends within a message")]
    Ends,
    /// What is compressed is broken, or longer than it may be.
    #[error("what is compressed in it is broken, or too long")]
    Coding,
}

/// A message as it stands in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What is said of it.
    pub flags: u8,
    /// The message.
    pub message: Bytes,
    /// With what stands before it.
    pub whole: Bytes,
}

/// Puts messages together as their bytes come.
#[derive(Debug)]
pub struct Frames {
    held: BytesMut,
    limit: usize,
}

impl Frames {
    /// Of messages that have so many bytes at most.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { held: BytesMut::new(), limit }
    }

    /// More bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next message, where it is complete.
    ///
    /// # Errors
    /// [`Unframed::Long`], as soon as its length is known.
    pub fn take(&mut self) -> Result<Option<Frame>, Unframed> {
        let Some((flags, size)) = head(&self.held) else { return Ok(None) };
        if size > self.limit {
            return Err(Unframed::Long(u32::try_from(size).unwrap_or(u32::MAX)));
        }
        if self.held.len() < HEAD + size {
            return Ok(None);
        }
        let whole = self.held.split_to(HEAD + size).freeze();
        let mut message = whole.clone();
        message.advance(HEAD);
        Ok(Some(Frame { flags, message, whole }))
    }

    /// Whether [`Frames::take`] has something to say.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        head(&self.held).is_some_and(|(_, size)| size > self.limit || self.held.len() >= HEAD + size)
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

/// What stands before a message: its flag and its length, once both have come.
#[must_use]
pub fn head(bytes: &[u8]) -> Option<(u8, usize)> {
    let (flags, rest) = bytes.split_first()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    Some((*flags, usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX)))
}

/// Appends a message that is not compressed, or trailers.
pub fn put(out: &mut Vec<u8>, flags: u8, message: &[u8]) {
    out.push(flags);
    out.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(message);
}

/// The one message of a body; nothing of an empty one.
///
/// # Errors
/// A sentence: there are others, or there is none.
pub fn single(body: &[u8], limit: usize) -> Result<Option<Frame>, String> {
    if body.is_empty() {
        return Ok(None);
    }
    let mut frames = Frames::new(limit);
    frames.push(body);
    let frame = frames.take().map_err(|why| why.to_string())?.ok_or("its body is no message")?;
    if frames.held() > 0 {
        return Err("its call takes one message, and more stands behind it".to_owned());
    }
    Ok(Some(frame))
}

/// What was compressed by gzip, in one piece: not all readers go on behind it.
///
/// # Errors
/// [`Unframed::Coding`]: it is broken, or stands for more than so many bytes.
pub fn unzipped(bytes: &[u8], limit: usize) -> Result<Vec<u8>, Unframed> {
    let (mut decoder, mut out) = (GzDecoder::new(bytes), Vec::new());
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    decoder.by_ref().take(most).read_to_end(&mut out).map_err(|_| Unframed::Coding)?;
    if out.len() > limit || !decoder.into_inner().is_empty() { Err(Unframed::Coding) } else { Ok(out) }
}

/// Undoes base64 as it comes: it may be padded wherever whoever sent it has paused.
#[derive(Debug, Default)]
pub struct Unarmoured {
    begun: Vec<u8>,
}

impl Unarmoured {
    /// Takes signs, and appends the bytes that they stand for.
    ///
    /// # Errors
    /// [`Unframed::Base64`].
    pub fn push(&mut self, signs: &[u8], out: &mut Vec<u8>) -> Result<(), Unframed> {
        self.begun.extend_from_slice(signs);
        let whole = self.begun.len() - self.begun.len() % 4;
        let left = self.begun.split_off(whole);
        let quads = std::mem::replace(&mut self.begun, left);
        let (quads, _) = quads.as_chunks::<4>();
        for part in quads.split_inclusive(|quad| quad.ends_with(b"=")) {
            BASE64.decode_vec(part.as_flattened(), out).map_err(|_| Unframed::Base64)?;
        }
        Ok(())
    }

    /// Whether nothing is incomplete.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.begun.is_empty()
    }
}

/// Base64 of a request: one run of it, as every reader has it.
///
/// # Errors
/// [`Unframed::Base64`].
pub fn unarmoured(signs: &[u8]) -> Result<Vec<u8>, Unframed> {
    BASE64.decode(signs).map_err(|_| Unframed::Base64)
}

/// Appends base64.
pub fn armour(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(BASE64.encode(bytes).as_bytes());
}
