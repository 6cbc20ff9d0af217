//! The bytes of a segment: a header, then entries. Pure framing, no I/O.
//!
//! All numbers are little endian. A segment begins with
//! ```text
//! magic "ICPTSPL\n" | version u16 | flags u16 | header length u32 | segment u64 | first frame u64 | created i64
//! chain before it [32] | public key [32] | subtrees u32 | sealing length u32 | subtrees [32] each | sealing | digest [32]
//! ```
//! where `digest` is SHA-256(3 | all before it). `sealing` is the key that the segment's frames are sealed with, wrapped to
//! the recipients: an age file (see [`seal`](super::seal)); there where flag bit 0 is set, and nowhere else. Each entry is
//! ```text
//! length of the rest u32 | kind u8 | flags u8 | zero u16 | index in the segment u32 | sequence u64 | session [16]
//! time i64 | length unpacked u32 | payload | chain [32]
//! ```
//! A *frame* (kind 1) holds an event and is a leaf of the Merkle tree: all its bytes before `chain`. A *checkpoint*
//! (kind 2) holds a signed note over the tree so far; its sequence is the tree's size. Flag bit 0: the payload is compressed
//! (zstd); bit 1: then sealed, as `counter u64 | AES-256-GCM of the payload, with its tag`, with the counter as the nonce and all from
//! `kind` to `length unpacked` as additional data. So what is signed are sealed bytes, and needs no key to be verified. `chain` is
//! SHA-256(2 | chain of the entry before, or the header's digest | leaf hash), so an entry vouches for all before it.
//!
//! Limits: a payload has at most [`MAX_PAYLOAD`] bytes, unpacked or not; unknown versions, kinds and flags are errors.

use std::borrow::Cow;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::event::{Direction, Event};
use super::merkle::{self, Hash};
use super::seal::{self, Opener, Sealer};
use crate::clock::Timestamp;
use crate::telemetry::SessionId;

/// What stands at the beginning of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the segment, from 0.
    pub segment: u64,
    /// Sequence number of its first frame: the size of the tree before it.
    pub first: u64,
    /// When it was begun.
    pub created: Timestamp,
    /// Chain of the last entry of the segment before.
    pub chain: Hash,
    /// Public key of the spool.
    pub public_key: [u8; 32],
    /// The tree before it.
    pub subtrees: Vec<Hash>,
    /// The wrapped key of a sealed segment; empty where it is none.
    pub sealing: Vec<u8>,
}

impl Header {
    /// The bytes of the header.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let length = HEADER_FIXED + self.subtrees.len() * HASH + self.sealing.len();
        let mut out = Vec::with_capacity(length);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.flags().to_le_bytes());
        out.extend_from_slice(&len32(length).to_le_bytes());
        out.extend_from_slice(&self.segment.to_le_bytes());
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.created.0.to_le_bytes());
        out.extend_from_slice(&self.chain);
        out.extend_from_slice(&self.public_key);
        out.extend_from_slice(&len32(self.subtrees.len()).to_le_bytes());
        out.extend_from_slice(&len32(self.sealing.len()).to_le_bytes());
        self.subtrees.iter().for_each(|hash| out.extend_from_slice(hash));
        out.extend_from_slice(&self.sealing);
        let digest = header_digest(&out);
        out.extend_from_slice(&digest);
        out
    }

    /// Reads a header: it, the digest with which the chain begins, and its length. `None`: more bytes are needed.
    ///
    /// # Errors
    /// When these bytes begin no segment that this version can read.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, Hash, usize)>, FormatError> {
        let mut cursor = Cursor(bytes);
        let Some(magic) = cursor.take(MAGIC.len()) else {
            return if MAGIC.starts_with(bytes) { Ok(None) } else { Err(FormatError::Magic) };
        };
        if magic != MAGIC {
            return Err(FormatError::Magic);
        }
        let Some((version, flags, length)) = cursor.version() else { return Ok(None) };
        if version != VERSION || flags & !SEALED_SEGMENT != 0 {
            return Err(FormatError::Version { version, flags });
        }
        if !(HEADER_FIXED..=MAX_HEADER).contains(&length) {
            return Err(FormatError::Header);
        }
        let Some(whole) = bytes.get(..length) else { return Ok(None) };
        let (covered, digest) = whole.split_last_chunk::<HASH>().ok_or(FormatError::Header)?;
        if header_digest(covered) != *digest {
            return Err(FormatError::Header);
        }
        let header = Self::fields(covered).filter(|header| header.flags() == flags).ok_or(FormatError::Header)?;
        Ok(Some((header, *digest, length)))
    }

    const fn flags(&self) -> u16 {
        if self.sealing.is_empty() { 0 } else { SEALED_SEGMENT }
    }

    fn fields(covered: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(covered.get(HEADER_START..)?);
        let (segment, first, created) = (cursor.u64()?, cursor.u64()?, cursor.i64()?);
        let (chain, public_key) = (cursor.hash()?, cursor.hash()?);
        let (subtrees, sealing) = (cursor.u32()?, cursor.u32()?);
        if subtrees > u64::BITS || subtrees != first.count_ones() {
            return None;
        }
        let subtrees = (0..subtrees).map(|_| cursor.hash()).collect::<Option<Vec<_>>>()?;
        let sealing = cursor.take(usize::try_from(sealing).ok()?)?.to_vec();
        cursor.0.is_empty().then_some(Self {
            segment,
            first,
            created: Timestamp(created),
            chain,
            public_key,
            subtrees,
            sealing,
        })
    }
}

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An event: a leaf of the tree.
    Frame,
    /// A signed checkpoint.
    Checkpoint,
}

/// One entry of a segment, still packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What it holds.
    pub kind: Kind,
    /// Whether the payload is compressed (zstd).
    pub packed: bool,
    /// Whether the payload is sealed.
    pub sealed: bool,
    /// Its place in the segment, counting both kinds.
    pub index: u32,
    /// Number of the frame in the spool; for a checkpoint, of frames before it.
    pub sequence: u64,
    /// Session it belongs to.
    pub session: SessionId,
    /// When it happened.
    pub time: Timestamp,
    /// Length of the payload when unpacked.
    pub unpacked: u32,
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Appends the entry to `out` as it is, and moves `chain` on. Gives the leaf hash.
    pub fn encode(&self, out: &mut Vec<u8>, chain: &mut Hash) -> Hash {
        let start = self.begin(out, self.payload.len());
        out.extend_from_slice(self.payload);
        finish((out, start), chain)
    }

    /// The same with its payload sealed, or an error, and then nothing is appended.
    pub(super) fn seal(self, out: &mut Vec<u8>, chain: &mut Hash, sealer: &mut Sealer) -> Result<Hash, FormatError> {
        let start = Self { sealed: true, ..self }.begin(out, self.payload.len() + seal::ADDED);
        if sealer.seal(out, start + LENGTH..start + LENGTH + CONTEXT, self.payload).is_err() {
            out.truncate(start);
            return Err(FormatError::Sealing);
        }
        Ok(finish((out, start), chain))
    }

    /// Appends all before the payload. Gives where it begins.
    fn begin(&self, out: &mut Vec<u8>, payload: usize) -> usize {
        let start = out.len();
        out.extend_from_slice(&len32(ENTRY_FIXED - LENGTH + payload).to_le_bytes());
        out.extend_from_slice(&self.context());
        start
    }

    /// All between the length and the payload.
    fn context(&self) -> [u8; CONTEXT] {
        let kind = match self.kind {
            Kind::Frame => 1,
            Kind::Checkpoint => 2,
        };
        let flags = (u8::from(self.packed) * PACKED) | (u8::from(self.sealed) * SEALED);
        let mut context = [0; CONTEXT];
        let mut rest = context.as_mut_slice();
        for field in [
            [kind, flags, 0, 0].as_slice(),
            &self.index.to_le_bytes(),
            &self.sequence.to_le_bytes(),
            &self.session.to_bytes(),
            &self.time.0.to_le_bytes(),
            &self.unpacked.to_le_bytes(),
        ] {
            let (place, after) = rest.split_at_mut(field.len());
            place.copy_from_slice(field);
            rest = after;
        }
        context
    }

    /// Reads an entry: it, its hashes, and its length. `None`: more bytes are needed. Does not look at the chain.
    ///
    /// # Errors
    /// When no entry begins with these bytes.
    pub fn decode(bytes: &'a [u8]) -> Result<Option<(Self, Hashes, usize)>, FormatError> {
        let Some(length) = entry_length(bytes)? else { return Ok(None) };
        let Some(whole) = bytes.get(..length) else { return Ok(None) };
        let (covered, chain) = whole.split_last_chunk::<HASH>().ok_or(FormatError::Entry)?;
        let entry = Self::fields(covered).ok_or(FormatError::Entry)?;
        Ok(Some((entry, Hashes { leaf: merkle::leaf(covered), chain: *chain }, length)))
    }

    /// The payload, unsealed and unpacked.
    ///
    /// # Errors
    /// [`FormatError::Sealed`] where it is sealed and `opener` is none; when it does not open, or unpack to the length that the
    /// entry names.
    pub fn unpack(&self, opener: Option<&Opener>) -> Result<Cow<'a, [u8]>, FormatError> {
        let unpacked = usize::try_from(self.unpacked).map_err(|_| FormatError::Payload)?;
        let opened = if self.sealed {
            let opener = opener.ok_or(FormatError::Sealed)?;
            Cow::Owned(opener.open(&self.context(), self.payload).ok_or(FormatError::Payload)?)
        } else {
            Cow::Borrowed(self.payload)
        };
        let payload = if self.packed {
            Cow::Owned(zstd::bulk::decompress(&opened, unpacked).map_err(|_| FormatError::Payload)?)
        } else {
            opened
        };
        if payload.len() == unpacked { Ok(payload) } else { Err(FormatError::Payload) }
    }

    fn fields(covered: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor(covered.get(LENGTH..)?);
        let kind = match cursor.u8()? {
            1 => Kind::Frame,
            2 => Kind::Checkpoint,
            _ => return None,
        };
        let flags = cursor.u8()?;
        let (packed, sealed) = (flags & PACKED != 0, flags & SEALED != 0);
        if flags & !(PACKED | SEALED) != 0 || (sealed && kind == Kind::Checkpoint) || cursor.take(2)? != [0, 0] {
            return None;
        }
        let (index, sequence) = (cursor.u32()?, cursor.u64()?);
        let session = SessionId::from_bytes(*cursor.take(16)?.first_chunk()?);
        let (time, unpacked) = (Timestamp(cursor.i64()?), cursor.u32()?);
        (usize::try_from(unpacked).ok()? <= MAX_PAYLOAD).then_some(Self {
            kind,
            packed,
            sealed,
            index,
            sequence,
            session,
            time,
            unpacked,
            payload: cursor.0,
        })
    }
}

/// Closes an entry that begins at `start`, and moves `chain` on. Gives the leaf hash.
fn finish((out, start): (&mut Vec<u8>, usize), chain: &mut Hash) -> Hash {
    let leaf = merkle::leaf(out.get(start..).unwrap_or_default());
    *chain = next_chain(chain, &leaf);
    out.extend_from_slice(chain);
    leaf
}

/// The hashes of an entry that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashes {
    /// Its leaf hash, computed.
    pub leaf: Hash,
    /// Its chain, as it stands in the segment.
    pub chain: Hash,
}

impl Hashes {
    /// Whether the entry follows the one whose chain is `before`, unaltered.
    #[must_use]
    pub fn follows(&self, before: &Hash) -> bool {
        next_chain(before, &self.leaf) == self.chain
    }
}

/// Length of the entry that begins with these bytes. `None`: more bytes are needed to tell.
///
/// # Errors
/// When it is out of bounds.
pub fn entry_length(bytes: &[u8]) -> Result<Option<usize>, FormatError> {
    let Some(length) = Cursor(bytes).u32() else { return Ok(None) };
    let length = usize::try_from(length).map_err(|_| FormatError::Entry)?.saturating_add(LENGTH);
    if (ENTRY_FIXED..=ENTRY_FIXED + MAX_PAYLOAD + seal::ADDED).contains(&length) {
        Ok(Some(length))
    } else {
        Err(FormatError::Entry)
    }
}

/// Writes the payload of an event: data as it is, everything else as JSON.
///
/// # Errors
/// When it is longer than [`MAX_PAYLOAD`].
pub fn encode_event(event: &Event, out: &mut Vec<u8>) -> Result<(), FormatError> {
    out.clear();
    match event {
        Event::Data { direction, bytes } => {
            out.push(match direction {
                Direction::FromAgent => DATA_FROM_AGENT,
                Direction::ToAgent => DATA_TO_AGENT,
            });
            out.extend_from_slice(bytes);
        }
        other => return encode_json(other, out),
    }
    if out.len() <= MAX_PAYLOAD { Ok(()) } else { Err(FormatError::Payload) }
}

/// Writes the payload of an event that is kept as JSON.
pub(super) fn encode_json(event: &impl Serialize, out: &mut Vec<u8>) -> Result<(), FormatError> {
    out.clear();
    out.push(JSON);
    serde_json::to_writer(&mut *out, event).map_err(|_| FormatError::Payload)?;
    if out.len() <= MAX_PAYLOAD { Ok(()) } else { Err(FormatError::Payload) }
}

/// Reads the payload of an event.
///
/// # Errors
/// When it is none that this version knows.
pub fn decode_event(payload: &[u8]) -> Result<Event, FormatError> {
    let (tag, rest) = payload.split_first().ok_or(FormatError::Payload)?;
    let data = |direction| Event::Data { direction, bytes: bytes::Bytes::copy_from_slice(rest) };
    match *tag {
        DATA_FROM_AGENT => Ok(data(Direction::FromAgent)),
        DATA_TO_AGENT => Ok(data(Direction::ToAgent)),
        JSON => serde_json::from_slice(rest).map_err(|_| FormatError::Payload),
        _ => Err(FormatError::Payload),
    }
}

/// The oracle of the fuzz target: what decodes, encodes to the same bytes.
#[doc(hidden)]
#[expect(clippy::panic, reason = "a fuzz target reports by panicking; nothing else calls this")]
pub fn fuzz(data: &[u8]) {
    if let Ok(Some((header, _, length))) = Header::decode(data)
        && header.encode().as_slice() != data.get(..length).unwrap_or_default()
    {
        panic!("a header changes when it is written again");
    }
    let Ok(Some((entry, hashes, length))) = Entry::decode(data) else { return };
    let (mut again, mut chain) = (Vec::new(), [0; 32]);
    let leaf = entry.encode(&mut again, &mut chain);
    let covered = length - HASH;
    if leaf != hashes.leaf || again.get(..covered) != data.get(..covered) {
        panic!("an entry changes when it is written again");
    }
    if let Ok(payload) = entry.unpack(None)
        && let Ok(event) = decode_event(&payload)
    {
        let mut payload = Vec::new();
        let read = encode_event(&event, &mut payload).and_then(|()| decode_event(&payload));
        if read.is_ok_and(|read| read != event) {
            panic!("an event changes when it is written again");
        }
    }
}

/// Why bytes are no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It does not begin as one.
    #[error("this is no segment of a spool")]
    Magic,
    /// Another version.
    #[error("version {version} with flags {flags:#x}: this program reads version {VERSION} and knows flag bit 0")]
    Version {
        /// Version that it names.
        version: u16,
        /// Flags that it has.
        flags: u16,
    },
    /// The header does not agree with its digest.
    #[error("the header is damaged")]
    Header,
    /// No entry begins here.
    #[error("no entry begins here")]
    Entry,
    /// The payload does not open or unpack, or is no event that this version knows.
    #[error("the payload cannot be read")]
    Payload,
    /// The payload is sealed to the recipients of the segment.
    #[error("the payload is sealed")]
    Sealed,
    /// The payload could not be sealed.
    #[error("the payload cannot be sealed")]
    Sealing,
}

/// Longest payload of one entry, in bytes.
pub const MAX_PAYLOAD: usize = 256 << 20;

/// Longest header of a segment, in bytes.
pub const MAX_HEADER: usize = HEADER_FIXED + 64 * HASH + (64 << 10);

/// Bytes of a header that tell how long it is.
pub(super) const HEADER_TELLS: usize = HEADER_FIXED - HASH;

/// Length of the header that begins so, by what it says of its parts. `None`: too few bytes. An error where it contradicts itself.
pub(super) fn header_length(start: &[u8]) -> Result<Option<u64>, FormatError> {
    let mut cursor = Cursor(start);
    let Some(claimed) = cursor.take(HEADER_START - LENGTH).and_then(|_| cursor.u32()) else { return Ok(None) };
    let parts =
        cursor.take(HEADER_TELLS - HEADER_START - 2 * LENGTH).and_then(|_| Some((cursor.u32()?, cursor.u32()?)));
    let Some((subtrees, sealing)) = parts else { return Ok(None) };
    let fixed = u64::try_from(HEADER_FIXED).unwrap_or(u64::MAX);
    let length = u64::from(subtrees).saturating_mul(32).saturating_add(sealing.into()).saturating_add(fixed);
    if length == u64::from(claimed) { Ok(Some(length)) } else { Err(FormatError::Header) }
}

const MAGIC: &[u8; 8] = b"ICPTSPL\n";
const VERSION: u16 = 1;
const HASH: usize = 32;
const HEADER_START: usize = 8 + 2 + 2 + 4;
const HEADER_FIXED: usize = HEADER_START + 3 * 8 + 2 * HASH + 2 * 4 + HASH;
const LENGTH: usize = 4;
const CONTEXT: usize = 4 + 4 + 8 + 16 + 8 + 4;
const ENTRY_FIXED: usize = LENGTH + CONTEXT + HASH;
const SEALED_SEGMENT: u16 = 1;
const PACKED: u8 = 1;
const SEALED: u8 = 2;
const DATA_FROM_AGENT: u8 = 1;
const DATA_TO_AGENT: u8 = 2;
const JSON: u8 = 3;

fn header_digest(covered: &[u8]) -> Hash {
    Sha256::new().chain_update([3]).chain_update(covered).finalize().into()
}

fn next_chain(before: &Hash, leaf: &Hash) -> Hash {
    Sha256::new().chain_update([2]).chain_update(before).chain_update(leaf).finalize().into()
}

/// Lengths here are bounded far below 4 GiB; a longer one yields what no reader accepts.
fn len32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.first_chunk().copied()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn hash(&mut self) -> Option<Hash> {
        self.array()
    }

    fn version(&mut self) -> Option<(u16, u16, usize)> {
        let (version, flags) = (self.array().map(u16::from_le_bytes)?, self.array().map(u16::from_le_bytes)?);
        Some((version, flags, usize::try_from(self.u32()?).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header {
            segment: 4,
            first: 3,
            created: Timestamp(5),
            chain: [1; 32],
            public_key: [2; 32],
            subtrees: vec![[3; 32], [4; 32]],
            sealing: b"room".to_vec(),
        }
    }

    fn entry(payload: &[u8]) -> Entry<'_> {
        Entry {
            kind: Kind::Frame,
            packed: false,
            sealed: false,
            index: 1,
            sequence: 9,
            session: SessionId::from_bytes([7; 16]),
            time: Timestamp(-4),
            unpacked: u32::try_from(payload.len()).unwrap(),
            payload,
        }
    }

    #[test]
    fn headers_survive_and_no_byte_can_change() {
        let bytes = header().encode();
        let (read, _, length) = Header::decode(&bytes).unwrap().unwrap();
        assert_eq!((read, length), (header(), bytes.len()));
        for at in 0..bytes.len() {
            assert_eq!(Header::decode(&bytes[..at]), Ok(None), "cut at {at}");
            for bit in 0..8 {
                let mut altered = bytes.clone();
                altered[at] ^= 1 << bit;
                assert!(!matches!(Header::decode(&altered), Ok(Some(_))), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn a_payload_cannot_unpack_beyond_what_it_names() {
        let bomb = zstd::bulk::compress(&vec![0u8; 1 << 20], 1).unwrap();
        let claimed = Entry { packed: true, unpacked: 1000, ..entry(&bomb) };
        assert_eq!(claimed.unpack(None), Err(FormatError::Payload));
    }

    #[test]
    fn lengths_out_of_bounds_are_refused_at_once() {
        assert_eq!(Entry::decode(&[0xff; 4]), Err(FormatError::Entry));
        assert_eq!(Entry::decode(&[0; 4]), Err(FormatError::Entry));
    }

    proptest! {
        #[test]
        fn entries_survive_any_split(payload in prop::collection::vec(any::<u8>(), 0..300), sequence: u64, index: u32, time: i64, session: [u8; 16], frame: bool, packed: bool, sealed: bool) {
            let entry = Entry {
                kind: if frame { Kind::Frame } else { Kind::Checkpoint },
                packed, sealed: sealed && frame, index, sequence,
                session: SessionId::from_bytes(session),
                time: Timestamp(time),
                unpacked: 17,
                payload: &payload,
            };
            let (mut bytes, mut chain) = (Vec::new(), [5; 32]);
            let leaf = entry.encode(&mut bytes, &mut chain);
            for at in 0..bytes.len() {
                prop_assert_eq!(Entry::decode(&bytes[..at]), Ok(None));
            }
            let (read, hashes, length) = Entry::decode(&bytes).unwrap().unwrap();
            prop_assert_eq!((read, length, hashes), (entry, bytes.len(), Hashes { leaf, chain }));
            prop_assert!(hashes.follows(&[5; 32]));
            fuzz(&bytes);
        }

        #[test]
        fn no_byte_of_an_entry_can_change(payload in prop::collection::vec(any::<u8>(), 0..80), at: prop::sample::Index, bit in 0..8u8) {
            let (mut bytes, mut chain) = (Vec::new(), [5; 32]);
            entry(&payload).encode(&mut bytes, &mut chain);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let intact = matches!(Entry::decode(&bytes), Ok(Some((_, hashes, _))) if hashes.follows(&[5; 32]));
            prop_assert!(!intact);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _header = Header::decode(&bytes);
            if let Ok(Some((entry, _, _))) = Entry::decode(&bytes) {
                let _payload = entry.unpack(None);
            }
            let _event = decode_event(&bytes);
            fuzz(&bytes);
        }
    }
}
