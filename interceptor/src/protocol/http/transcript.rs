//! How an exchange is recorded: as the agent's connection frames it, in heads that show no secrets.

use bytes::Bytes;

use super::codec::frames;
use super::codec::{Fields, RequestHead, ResponseHead};
use super::inject::{self, LogIn};

/// The last chunk of a body of HTTP/1.1.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// One direction of an exchange. What follows each other at once stands in one frame of the recording: each puts behind what
/// is there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Transcript {
    /// HTTP/1.1: whether the body goes in chunks.
    One { chunked: bool },
    /// HTTP/2: which stream it is.
    Two { stream: u32 },
}

impl Transcript {
    /// The same for a head that frames its body anew: whether that goes in chunks is for HTTP/1.1 alone.
    pub(super) const fn framed(self, chunked: bool) -> Self {
        match self {
            Self::One { .. } => Self::One { chunked },
            Self::Two { stream } => Self::Two { stream },
        }
    }

    /// The head of a request, as it goes to the target that is logged in at so.
    pub(super) fn put_request(self, out: &mut Vec<u8>, head: &RequestHead, log_in: &LogIn, over: bool) {
        let target = log_in.shown_target(head);
        match self {
            Self::One { .. } => head.write_as(out, &target, |field| log_in.shown(field)),
            Self::Two { stream } => {
                frames::put_request(out, stream, (head, &target), |field| log_in.shown(field), over);
            }
        }
    }

    /// The head of an answer.
    pub(super) fn put_response(self, out: &mut Vec<u8>, head: &ResponseHead, over: bool) {
        match self {
            Self::One { .. } => head.write_as(out, inject::shown),
            Self::Two { stream } => frames::put_response(out, stream, head, inject::shown, over),
        }
    }

    /// A piece of a body, which is not empty.
    pub(super) fn put_piece(self, out: &mut Vec<u8>, piece: &[u8]) {
        match self {
            Self::One { chunked: false } => out.extend_from_slice(piece),
            Self::One { chunked: true } => {
                out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                out.extend_from_slice(piece);
                out.extend_from_slice(b"\r\n");
            }
            Self::Two { stream } => frames::put_data(out, stream, piece, false),
        }
    }

    /// The same, by itself: not copied where nothing is added to it.
    pub(super) fn piece(self, piece: &Bytes) -> Bytes {
        if matches!(self, Self::One { chunked: false }) {
            return piece.clone();
        }
        let mut out = Vec::with_capacity(piece.len() + 16);
        self.put_piece(&mut out, piece);
        out.into()
    }

    /// The end of a body, where it takes bytes to say so.
    pub(super) fn put_end(self, out: &mut Vec<u8>, trailers: Option<&Fields>) {
        match (self, trailers) {
            (Self::One { chunked: false }, _) => {}
            (Self::One { chunked: true }, _) => out.extend_from_slice(LAST_CHUNK),
            (Self::Two { stream }, None) => frames::put_data(out, stream, b"", true),
            (Self::Two { stream }, Some(trailers)) => frames::put_trailers(out, stream, trailers, inject::shown),
        }
    }
}
