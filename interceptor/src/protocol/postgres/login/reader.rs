//! Reads whole backend messages, within bounds. Does not promise anything about their order.

use std::io;

use bytes::BytesMut;
use postgres_protocol::message::backend::{Header, Message};
use tokio::io::AsyncReadExt;

use crate::tls::Stream;

/// A reader over a leg and what was already read from it.
pub(super) struct Reader<'a> {
    stream: &'a mut Stream,
    buffer: &'a mut BytesMut,
    largest: usize,
    left: usize,
}

/// Why no message came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The leg broke.
    #[error("{0}")]
    Io(io::Error),
    /// The target closed the leg.
    #[error("it closed the connection")]
    Closed,
    /// The target broke the protocol, or one of our bounds.
    #[error("{0}")]
    Protocol(String),
}

impl<'a> Reader<'a> {
    /// Messages of up to `largest` bytes, `left` bytes in all.
    pub(super) const fn new(stream: &'a mut Stream, buffer: &'a mut BytesMut, largest: usize, left: usize) -> Self {
        Self { stream, buffer, largest, left }
    }

    /// How much more may be read.
    pub(super) const fn left(&self) -> usize {
        self.left
    }

    /// The next message. The length is checked before anything is buffered for it.
    pub(super) async fn message(&mut self) -> Result<Message, ReadError> {
        loop {
            if let Some(header) = Header::parse(self.buffer).map_err(broken)? {
                let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
                if header.tag() == b'v' {
                    return Err(ReadError::Protocol("it negotiates a protocol version that was not asked for".into()));
                }
                if length > self.largest {
                    return Err(ReadError::Protocol(format!("a message of {length} bytes is too large here")));
                }
                if length >= self.left {
                    return Err(ReadError::Protocol("it sends too much".into()));
                }
                if let Some(message) = Message::parse(self.buffer).map_err(broken)? {
                    self.left -= length + 1;
                    return Ok(message);
                }
            }
            if self.stream.read_buf(self.buffer).await.map_err(ReadError::Io)? == 0 {
                return Err(ReadError::Closed);
            }
        }
    }
}

fn broken(error: io::Error) -> ReadError {
    ReadError::Protocol(error.to_string())
}
