//! How an exchange is recorded: as the agent's connection frames it, in heads that show no secrets.

use bytes::Bytes;

use super::codec::frames;
use super::codec::{Fields, RequestHead, ResponseHead};

/// The last chunk of a body of HTTP/1.1.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// One direction of an exchange.
#[derive(Clone, Copy, Debug)]
pub(super) enum Transcript {
    /// HTTP/1.1: whether the body goes in chunks.
    One { chunked: bool },
    /// HTTP/2: which stream it is.
    Two { stream: u32 },
}

impl Transcript {
    /// The head of a request.
    pub(super) fn request(self, head: &RequestHead, over: bool) -> Bytes {
        let mut out = Vec::new();
        match self {
            Self::One { .. } => head.write(&mut out),
            Self::Two { stream } => frames::put_request(&mut out, stream, head, over),
        }
        out.into()
    }

    /// The head of an answer.
    pub(super) fn response(self, head: &ResponseHead, over: bool) -> Bytes {
        let mut out = Vec::new();
        match self {
            Self::One { .. } => head.write(&mut out),
            Self::Two { stream } => frames::put_response(&mut out, stream, head, over),
        }
        out.into()
    }

    /// A piece of a body, which is not empty.
    pub(super) fn piece(self, piece: &Bytes) -> Bytes {
        match self {
            Self::One { chunked: false } => piece.clone(),
            Self::One { chunked: true } => {
                let mut out = Vec::with_capacity(piece.len() + 16);
                out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                out.extend_from_slice(piece);
                out.extend_from_slice(b"\r\n");
                out.into()
            }
            Self::Two { stream } => {
                let mut out = Vec::with_capacity(piece.len() + 9);
                frames::put_data(&mut out, stream, piece, false);
                out.into()
            }
        }
    }

    /// The end of a body, where it takes bytes to say so.
    pub(super) fn end(self, trailers: Option<&Fields>) -> Option<Bytes> {
        match (self, trailers) {
            (Self::One { chunked }, _) => chunked.then(|| Bytes::from_static(LAST_CHUNK)),
            (Self::Two { stream }, None) => {
                let mut out = Vec::new();
                frames::put_data(&mut out, stream, b"", true);
                Some(out.into())
            }
            (Self::Two { stream }, Some(trailers)) => {
                let mut out = Vec::new();
                frames::put_trailers(&mut out, stream, trailers);
                Some(out.into())
            }
        }
    }
}
