//! Frames of SPDY/3.1 (draft 3.1, section 2), as exec, attach and port-forward of Kubernetes speak it below an upgrade of HTTP.
//!
//! One direction each, and strict: what a peer has no reason to send is refused, with words of its own. Data is given out as
//! it comes and never held. All other frames are short, and wait in the input until they are whole. Whether a stream is
//! there, and what it is for, is not known here.

mod decode;
mod encode;
mod headers;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;

pub use decode::Decoder;
pub use encode::Encoder;
pub use headers::{BLOCK_LIMIT, HEADERS_LIMIT, Headers, PAIRS_LIMIT};

/// The most bytes of data that are given out at a time.
pub const PIECE_LIMIT: usize = 64 * 1024;
/// The most settings of a frame.
pub const SETTINGS_LIMIT: usize = 128;

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Another version.
    #[error("a frame of it is of another version than 3")]
    Version,
    /// A kind of frame that there is not.
    #[error("a frame of it is of an unknown kind")]
    Kind,
    /// A flag that frames of the kind do not have.
    #[error("a frame of it has flags that it cannot have")]
    Flags,
    /// A length that frames of the kind cannot have.
    #[error("a frame of it is shorter or longer than its kind")]
    Length,
    /// More than is held.
    #[error("a frame of it is too long")]
    Long,
    /// The number of no stream.
    #[error("a frame of it belongs to stream 0")]
    Stream,
    /// A bit that stands for nothing.
    #[error("a frame of it uses bits that are reserved")]
    Reserved,
    /// A value that stands for nothing: a status or a delta that is 0.
    #[error("a frame of it has a value that means nothing")]
    Value,
    /// Headers that do not inflate.
    #[error("headers of it are not compressed as they must be")]
    Compression,
    /// Headers that are none when they are inflated.
    #[error("headers of it end early, or something stands behind them")]
    Block,
    /// Headers that are more than is held.
    #[error("headers of it are too many or too long")]
    Headers,
    /// A header's name.
    #[error("a header of it has a name that is none")]
    Name,
    /// A header's name that was there before.
    #[error("a header of it stands there twice")]
    Twice,
}

/// What is sent.
#[derive(Clone, PartialEq, Eq)]
pub enum Frame {
    /// SYN_STREAM: a stream begins.
    SynStream {
        /// Its number: odd where a client begins it.
        id: u32,
        /// The stream that it belongs to, or 0.
        associated: u32,
        /// From 0, the highest, to 7.
        priority: u8,
        /// The sender will send nothing on it.
        fin: bool,
        /// Nor will the receiver.
        unidirectional: bool,
        /// What it is for.
        headers: Headers,
    },
    /// SYN_REPLY: it was accepted.
    SynReply {
        /// The stream.
        id: u32,
        /// The sender will send nothing on it.
        fin: bool,
        /// More about it.
        headers: Headers,
    },
    /// RST_STREAM: it is over, in both directions.
    Reset {
        /// The stream.
        id: u32,
        /// Why (draft 3.1, section 2.6.3), and never 0.
        status: u32,
    },
    /// SETTINGS.
    Settings {
        /// What was stored of settings is to be forgotten.
        clear: bool,
        /// Flags (1: store it; 2: it was stored), number of at most 24 bits, value.
        entries: Vec<(u8, u32, u32)>,
    },
    /// PING, or the answer to it: its number is odd where a client asked.
    Ping(u32),
    /// GOAWAY: no more streams.
    GoAway {
        /// The last stream that was accepted, or 0.
        last: u32,
        /// Why (draft 3.1, section 2.6.6).
        status: u32,
    },
    /// HEADERS: more of them.
    Headers {
        /// The stream.
        id: u32,
        /// The sender will send nothing more on it.
        fin: bool,
        /// More about it.
        headers: Headers,
    },
    /// WINDOW_UPDATE: more may be sent.
    WindowUpdate {
        /// The stream, or 0 for all of them.
        id: u32,
        /// How many bytes more, and never 0.
        delta: u32,
    },
    /// Data, or a piece of it.
    Data {
        /// The stream.
        id: u32,
        /// The sender will send nothing more on it.
        fin: bool,
        /// The bytes.
        payload: Bytes,
    },
}

/// All but what is sent: only its length is shown.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SynStream { id, associated, priority, fin, unidirectional, headers } => write!(
                f,
                "SynStream({id}, of {associated}, priority {priority}, fin {fin}, unidirectional {unidirectional}, {headers:?})"
            ),
            Self::SynReply { id, fin, headers } => write!(f, "SynReply({id}, fin {fin}, {headers:?})"),
            Self::Reset { id, status } => write!(f, "Reset({id}, status {status})"),
            Self::Settings { clear, entries } => write!(f, "Settings(clear {clear}, {entries:?})"),
            Self::Ping(number) => write!(f, "Ping({number})"),
            Self::GoAway { last, status } => write!(f, "GoAway(last {last}, status {status})"),
            Self::Headers { id, fin, headers } => write!(f, "Headers({id}, fin {fin}, {headers:?})"),
            Self::WindowUpdate { id, delta } => write!(f, "WindowUpdate({id}, {delta} bytes)"),
            Self::Data { id, fin, payload } => write!(f, "Data({id}, fin {fin}, {} bytes)", payload.len()),
        }
    }
}

const CONTROL: u32 = 1 << 31;
const VERSION: u32 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;
const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;
const CLEAR: u8 = 1;
const PERSISTENCE: u8 = 3;
/// The most that a length or a setting's number can say.
const U24: u32 = (1 << 24) - 1;

/// A number of 31 bits.
const fn short(number: u32) -> Result<u32, Broken> {
    if number & CONTROL == 0 { Ok(number) } else { Err(Broken::Reserved) }
}

/// A stream that is one.
const fn some(id: u32) -> Result<u32, Broken> {
    if id == 0 { Err(Broken::Stream) } else { Ok(id) }
}

/// A status or a delta that means something.
const fn positive(value: u32) -> Result<u32, Broken> {
    if value == 0 { Err(Broken::Value) } else { Ok(value) }
}

/// Flags of which each is known.
const fn known(flags: u8, may: u8) -> Result<(), Broken> {
    if flags & !may == 0 { Ok(()) } else { Err(Broken::Flags) }
}
