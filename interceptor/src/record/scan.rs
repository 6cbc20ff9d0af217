//! Reading a segment front to back, entry by entry, with memory bounded by the longest entry.
//!
//! Owns buffering. Does not judge the chain: recovery, verification and listing each do with a break what they must.

use std::io::{self, Read};

use super::format::{Entry, FormatError, Hashes, Header, entry_length};
use super::merkle::Hash;

/// What comes next in a segment.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// An entry, its hashes, and the offset where it begins.
    Entry(Entry<'a>, Hashes, u64),
    /// The end, after a whole entry.
    End,
    /// The end, inside an entry: that many bytes of it are there.
    Torn(u64),
    /// Bytes that begin no entry.
    Bad(FormatError),
}

/// A segment being read.
#[derive(Debug)]
pub(super) struct Scan<R> {
    source: R,
    buffer: Vec<u8>,
    start: usize,
    offset: u64,
    chunk: usize,
}

impl<R: Read> Scan<R> {
    pub(super) const fn new(source: R) -> Self {
        Self { source, buffer: Vec::new(), start: 0, offset: 0, chunk: CHUNK }
    }

    /// The same for who wants the beginning alone.
    pub(super) const fn of_beginning(source: R) -> Self {
        Self { source, buffer: Vec::new(), start: 0, offset: 0, chunk: LITTLE }
    }

    /// Offset of what comes next.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads the header; `Ok(Err(None))` where the segment ends before its header does.
    pub(super) fn header(&mut self) -> io::Result<Result<(Header, Hash), Option<FormatError>>> {
        loop {
            match Header::decode(self.rest()) {
                Ok(Some((header, digest, length))) => {
                    self.advance(length);
                    return Ok(Ok((header, digest)));
                }
                Ok(None) if self.fill(1)? => {}
                Ok(None) => return Ok(Err(None)),
                Err(error) => return Ok(Err(Some(error))),
            }
        }
    }

    /// The next entry.
    pub(super) fn step(&mut self) -> io::Result<Step<'_>> {
        let length = loop {
            match entry_length(self.rest()) {
                Err(error) => return Ok(Step::Bad(error)),
                Ok(Some(length)) if self.rest().len() >= length => break length,
                Ok(wanted) => {
                    let missing = wanted.unwrap_or(4).saturating_sub(self.rest().len());
                    if !self.fill(missing)? {
                        let there = u64::try_from(self.rest().len()).unwrap_or(u64::MAX);
                        return Ok(if there == 0 { Step::End } else { Step::Torn(there) });
                    }
                }
            }
        };
        let (start, offset) = (self.start, self.offset);
        self.advance(length);
        match Entry::decode(self.buffer.get(start..).unwrap_or_default()) {
            Ok(Some((entry, hashes, _))) => Ok(Step::Entry(entry, hashes, offset)),
            Ok(None) => Ok(Step::Bad(FormatError::Entry)),
            Err(error) => Ok(Step::Bad(error)),
        }
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    fn advance(&mut self, length: usize) {
        self.start = self.start.saturating_add(length);
        self.offset = self.offset.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    }

    /// Reads at least one of `missing` more bytes; false at the end.
    fn fill(&mut self, missing: usize) -> io::Result<bool> {
        self.buffer.drain(..self.start.min(self.buffer.len()));
        self.start = 0;
        let limit = u64::try_from(missing.clamp(self.chunk, MOST)).unwrap_or(u64::MAX);
        // `read_to_end` of a limited reader grows by what is there, not by what a damaged length claims.
        Ok(self.source.by_ref().take(limit).read_to_end(&mut self.buffer)? > 0)
    }
}

const CHUNK: usize = 256 << 10;
const LITTLE: usize = 4 << 10;
const MOST: usize = 4 << 20;
