//! Bytes to messages and back: framing for both directions.
//!
//! Headers are parsed in place, bodies stay where they are. `Ok(None)` means that more bytes are needed, `Err` that the
//! peer broke the protocol; bytes left over in a body are an error. Says nothing of the order in which messages may come.
//!
//! Bounds, each tested: a start-up packet has at most [`STARTUP_LIMIT`] bytes, as at the server; a message has at most
//! what [`frontend_limit`] and [`backend_limit`] give for its type. Only rows and COPY data may be larger where they are
//! passed on in pieces ([`peek`] alone, without [`frame`]).

mod backend;
mod frontend;
mod startup;
pub mod write;

pub use backend::{Backend, Field, Fields, Notice, NoticeFields, Rows, Values};
pub use frontend::{Bind, Call, Formats, Frontend, Parameters, Side};
pub use startup::{ProtocolVersion, Startup, StartupParameters, startup};

use crate::wire::Reader;

/// The longest start-up packet, length field included: the server's MAX_STARTUP_PACKET_LENGTH.
pub const STARTUP_LIMIT: usize = 10_000;

/// The longest message of a kind that has no business being long: the server's PQ_SMALL_MESSAGE_LIMIT.
pub const SMALL_LIMIT: usize = 10_000;

/// The longest statement text, as Query or Parse.
pub const STATEMENT_LIMIT: usize = 16 << 20;

/// The longest message that is held in memory whole: Bind, and rows that have to be looked into.
pub const MESSAGE_LIMIT: usize = 64 << 20;

/// The longest message that may be passed on in pieces: the server's own bound.
pub const STREAM_LIMIT: usize = 1 << 30;

/// How a peer broke the framing or a message's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The length field is smaller than itself.
    #[error("message {} has an impossible length", display_tag(*tag))]
    Length {
        /// Type of the message; 0 for a start-up packet.
        tag: u8,
    },
    /// The message is longer than its type may be.
    #[error("message {} of {length} bytes is longer than {limit}", display_tag(*tag))]
    TooLong {
        /// Type of the message; 0 for a start-up packet.
        tag: u8,
        /// Its length in bytes.
        length: usize,
        /// The bound.
        limit: usize,
    },
    /// The body does not have the layout of its type.
    #[error("message {} is not laid out as its type says", display_tag(*tag))]
    Layout {
        /// Type of the message; 0 for a start-up packet.
        tag: u8,
    },
    /// No message has this type.
    #[error("unknown message {}", display_tag(*tag))]
    Unknown {
        /// The type.
        tag: u8,
    },
}

fn display_tag(tag: u8) -> String {
    match tag {
        0 => "of the start-up".to_owned(),
        tag if tag.is_ascii_graphic() => format!("'{}'", char::from(tag)),
        tag => format!("0x{tag:02x}"),
    }
}

/// The five bytes before each body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Type of the message.
    pub tag: u8,
    /// Bytes of the whole message, these five included.
    pub length: usize,
}

/// Bytes of a [`Header`].
pub const HEADER: usize = 5;

/// One whole message, where it stands in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Type of the message.
    pub tag: u8,
    /// What follows the header.
    pub body: &'a [u8],
    /// The whole message.
    pub raw: &'a [u8],
}

/// The header at the start of `buffer`, whose length is then at most [`STREAM_LIMIT`].
///
/// # Errors
/// [`Malformed`] when the length is impossible.
pub fn peek(buffer: &[u8]) -> Result<Option<Header>, Malformed> {
    let mut reader = Reader::new(buffer);
    let (Some(tag), Some(length)) = (reader.u8(), reader.i32()) else { return Ok(None) };
    let length = usize::try_from(length).ok().filter(|length| *length >= 4).ok_or(Malformed::Length { tag })? + 1;
    if length > STREAM_LIMIT {
        return Err(Malformed::TooLong { tag, length, limit: STREAM_LIMIT });
    }
    Ok(Some(Header { tag, length }))
}

/// The message at the start of `buffer`, no longer than `limit` says for its type.
///
/// # Errors
/// [`Malformed`] as soon as the header is there, so that nobody waits for the rest of what will be refused.
pub fn frame(buffer: &[u8], limit: fn(u8) -> usize) -> Result<Option<Frame<'_>>, Malformed> {
    let Some(Header { tag, length }) = peek(buffer)? else { return Ok(None) };
    let limit = limit(tag);
    if length > limit {
        return Err(Malformed::TooLong { tag, length, limit });
    }
    let Some(raw) = buffer.get(..length) else { return Ok(None) };
    let body = raw.get(HEADER..).unwrap_or_default();
    Ok(Some(Frame { tag, body, raw }))
}

/// Bound for a message of the agent, by type.
#[must_use]
pub const fn frontend_limit(tag: u8) -> usize {
    match tag {
        b'Q' | b'P' => STATEMENT_LIMIT,
        b'B' | b'd' | b'F' => MESSAGE_LIMIT,
        // A token presented as the password can be longer than a password.
        b'p' => 1 << 16,
        _ => SMALL_LIMIT,
    }
}

/// Bound for a message of the target that has to be held whole, by type.
#[must_use]
pub const fn backend_limit(tag: u8) -> usize {
    match tag {
        b'D' | b'd' | b'E' | b'N' | b'T' | b't' | b'A' | b'V' => MESSAGE_LIMIT,
        _ => STATEMENT_LIMIT,
    }
}

#[cfg(test)]
mod tests;
