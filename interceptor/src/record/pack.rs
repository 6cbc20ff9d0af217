//! Payloads of frames: an event as bytes, compressed where that pays.

use std::io;

use super::event::Event;
use super::format::{self, FormatError};

/// One of zstd's fast levels: a recording is read far less often than it is written, and compressing it was the largest
/// part of what a large result costs.
const LEVEL: i32 = -3;
/// Shorter payloads gain little from compression, and cost as much time as all the rest of a frame.
const PACK_FROM: usize = 2048;

/// A payload, as its entry holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Payload<B> {
    /// Whether it is compressed.
    pub(super) packed: bool,
    /// Its length when unpacked.
    pub(super) unpacked: u32,
    /// Its bytes.
    pub(super) bytes: B,
}

impl Payload<Vec<u8>> {
    /// The same, borrowed.
    pub(super) fn as_slice(&self) -> Payload<&[u8]> {
        Payload { packed: self.packed, unpacked: self.unpacked, bytes: &self.bytes }
    }
}

/// Makes payloads.
pub(super) struct Packer {
    plain: Vec<u8>,
    packed: Vec<u8>,
    compressor: zstd::bulk::Compressor<'static>,
}

impl Packer {
    /// A new one.
    ///
    /// # Errors
    /// Where there is no memory for it.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { plain: Vec::new(), packed: Vec::new(), compressor: zstd::bulk::Compressor::new(LEVEL)? })
    }

    /// The payload that `encode` writes, until the next call.
    pub(super) fn pack(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), FormatError>,
    ) -> Result<Payload<&[u8]>, FormatError> {
        encode(&mut self.plain)?;
        let unpacked = u32::try_from(self.plain.len()).map_err(|_| FormatError::Payload)?;
        let packed = self.plain.len() >= PACK_FROM && self.compress();
        Ok(Payload { packed, unpacked, bytes: if packed { &self.packed } else { &self.plain } })
    }

    /// The payload of an event, to be kept.
    pub(super) fn keep(&mut self, event: &Event) -> Result<Payload<Vec<u8>>, FormatError> {
        let Payload { packed, unpacked, bytes } = self.pack(|out| format::encode_event(event, out))?;
        Ok(Payload { packed, unpacked, bytes: bytes.to_vec() })
    }

    fn compress(&mut self) -> bool {
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(self.plain.len()));
        let packed = self.compressor.compress_to_buffer(&self.plain, &mut self.packed);
        packed.is_ok() && self.packed.len() < self.plain.len()
    }
}
