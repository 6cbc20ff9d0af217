//! Codings of content (RFC 9110, section 8.4), undone step by step: what one step makes is bounded, however much a few bytes
//! stand for.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder as Zstd, InBuffer, Operation as _, OutBuffer};

/// The most that one step makes, in bytes.
pub(super) const STEP: usize = 64 << 10;
/// The most of what came before that zstd may refer to, as a power of two: 8 MiB (RFC 9659). Brotli's is 16 MiB.
const ZSTD_WINDOW: u32 = 23;

/// Codings that can be undone, as `Accept-Encoding` and `Content-Encoding` call them.
pub(super) const KNOWN: &[&str] = &["gzip", "x-gzip", "deflate", "br", "zstd", "identity"];

/// What is coded is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol::http) struct Broken;

/// Undoes one coding.
pub(in crate::protocol::http) struct Decoder {
    kind: Kind,
    /// Something has begun that has not ended.
    within: bool,
    /// There may be more without any more bytes.
    full: bool,
    /// Bytes that it has made.
    made: usize,
}

enum Kind {
    Identity,
    Gzip(Decompress),
    /// With a head of zlib, or, as some send it, without; its first byte tells, with the second.
    Deflate {
        inflate: Option<Decompress>,
        first: Option<u8>,
    },
    Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>),
    Zstd(Zstd<'static>),
    /// Nothing may follow.
    Ended,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("within", &self.within).finish_non_exhaustive()
    }
}

impl Decoder {
    /// Of a coding by its name, in lower case; `None` where it cannot be undone.
    pub(in crate::protocol::http) fn of(coding: &str) -> Option<Self> {
        let kind = match coding {
            "" | "identity" => Kind::Identity,
            "gzip" | "x-gzip" => Kind::Gzip(Decompress::new_gzip(15)),
            "deflate" => Kind::Deflate { inflate: None, first: None },
            "br" => {
                let alloc = StandardAlloc::default;
                Kind::Brotli(Box::new(BrotliState::new_strict(alloc(), alloc(), alloc())))
            }
            "zstd" => {
                let mut zstd = Zstd::new().ok()?;
                zstd.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW)).ok()?;
                Kind::Zstd(zstd)
            }
            _ => return None,
        };
        Some(Self { kind, within: false, full: false, made: 0 })
    }

    /// Whether nothing is done to bytes.
    pub(super) fn is_identity(&self) -> bool {
        matches!(self.kind, Kind::Identity)
    }

    /// Undoes some of it: takes bytes off the front of `input`, and appends at most [`STEP`]. Whether there may be more.
    pub(in crate::protocol::http) fn step(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<bool, Broken> {
        if input.is_empty() && !self.full {
            return Ok(false);
        }
        let before = out.len();
        match &mut self.kind {
            Kind::Ended if input.is_empty() => {}
            Kind::Ended => return Err(Broken),
            Kind::Identity => {
                let (now, later) = input.split_at_checked(STEP).unwrap_or((input, &[]));
                out.extend_from_slice(now);
                *input = later;
            }
            Kind::Gzip(inflate) => {
                self.within |= !input.is_empty();
                if inflated(inflate, input, out)? {
                    // Another member may follow (RFC 1952, section 2.2).
                    self.kind = Kind::Gzip(Decompress::new_gzip(15));
                    self.within = false;
                }
            }
            Kind::Deflate { inflate: Some(inflate), .. } => {
                if inflated(inflate, input, out)? {
                    self.kind = Kind::Ended;
                    self.within = false;
                }
            }
            Kind::Deflate { inflate, first } => {
                self.within |= !input.is_empty();
                begin(inflate, first, input, out)?;
            }
            Kind::Brotli(state) => {
                self.within |= !input.is_empty();
                if unbrotli(state, input, out)? {
                    self.kind = Kind::Ended;
                    self.within = false;
                }
            }
            Kind::Zstd(zstd) => {
                let start = out.len();
                out.resize(start + STEP, 0);
                let mut from = InBuffer::around(input);
                let room = out.get_mut(start..).unwrap_or_default();
                let mut to = OutBuffer::around(room);
                let hint = zstd.run(&mut from, &mut to).map_err(|_| Broken)?;
                let (taken, made) = (from.pos(), to.pos());
                *input = input.get(taken..).unwrap_or_default();
                out.truncate(start + made);
                if taken > 0 || made > 0 {
                    self.within = hint != 0;
                }
                if taken == 0 && made == 0 && !input.is_empty() {
                    return Err(Broken);
                }
            }
        }
        self.made = self.made.saturating_add(out.len() - before);
        self.full = out.len() - before == STEP;
        Ok(self.full || !input.is_empty())
    }

    /// Bytes that it keeps of what it has made, at most: what comes may refer to them.
    pub(super) fn held(&self) -> usize {
        let window = match &self.kind {
            Kind::Identity | Kind::Ended => 0,
            Kind::Gzip(_) | Kind::Deflate { .. } => 32 << 10,
            Kind::Brotli(_) => 16 << 20,
            Kind::Zstd(_) => 1 << ZSTD_WINDOW,
        };
        self.made.min(window)
    }

    /// Nothing comes any more: whether that is the end.
    pub(in crate::protocol::http) fn finish(&self) -> Result<(), Broken> {
        if self.within { Err(Broken) } else { Ok(()) }
    }
}

/// Decides by the first two bytes whether there is a head of zlib, and gives them to the decoder.
fn begin(
    inflate: &mut Option<Decompress>,
    first: &mut Option<u8>,
    input: &mut &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Broken> {
    let Some((byte, rest)) = input.split_first() else { return Ok(()) };
    let Some(before) = *first else {
        *first = Some(*byte);
        *input = rest;
        return Ok(());
    };
    let is_head = before & 0x8f == 8 && u16::from_be_bytes([before, *byte]).is_multiple_of(31);
    let mut made = Decompress::new(is_head);
    let mut head: &[u8] = &[before];
    inflated(&mut made, &mut head, out)?;
    *inflate = Some(made);
    Ok(())
}

/// Whether it ended.
fn inflated(inflate: &mut Decompress, input: &mut &[u8], out: &mut Vec<u8>) -> Result<bool, Broken> {
    let start = out.len();
    out.resize(start + STEP, 0);
    let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
    let room = out.get_mut(start..).unwrap_or_default();
    let status = inflate.decompress(input, room, FlushDecompress::None).map_err(|_| Broken)?;
    let taken = usize::try_from(inflate.total_in() - before_in).unwrap_or(usize::MAX);
    let made = usize::try_from(inflate.total_out() - before_out).unwrap_or(usize::MAX);
    *input = input.get(taken..).unwrap_or_default();
    out.truncate(start + made);
    if status != Status::StreamEnd && taken == 0 && made == 0 && !input.is_empty() {
        return Err(Broken);
    }
    Ok(status == Status::StreamEnd)
}

/// Whether it ended.
fn unbrotli(
    state: &mut BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    input: &mut &[u8],
    out: &mut Vec<u8>,
) -> Result<bool, Broken> {
    let start = out.len();
    out.resize(start + STEP, 0);
    let (mut left, mut taken, mut room, mut made, mut total) = (input.len(), 0, STEP, 0, 0);
    let to = out.get_mut(start..).unwrap_or_default();
    let done = BrotliDecompressStream(&mut left, &mut taken, input, &mut room, &mut made, to, &mut total, state);
    *input = input.get(taken..).unwrap_or_default();
    out.truncate(start + made);
    match done {
        BrotliResult::ResultFailure => Err(Broken),
        BrotliResult::ResultSuccess => Ok(true),
        BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => Ok(false),
    }
}
