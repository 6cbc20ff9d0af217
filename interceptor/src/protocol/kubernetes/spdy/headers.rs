//! Headers of SPDY, and the compression that all blocks of a direction share (draft 3.1, section 2.6.10).
//!
//! One reading each: a block is a whole number of bytes of the stream, ends where a flush does, inflates to one list of
//! headers and nothing behind it, and is held against its limits while it inflates. What cannot be read cannot be written.

use std::collections::HashSet;
use std::fmt;

use bytes::Buf as _;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::Broken;

/// The most bytes of a block as it is sent.
pub const BLOCK_LIMIT: usize = 16 * 1024;
/// The most bytes of a block when it is inflated.
pub const HEADERS_LIMIT: usize = 64 * 1024;
/// The most headers of a block.
pub const PAIRS_LIMIT: usize = 128;

/// How much is inflated or deflated at a time.
const PIECE: usize = 4096;
/// How far back a stream can point: so much is kept of what was read.
const WINDOW: usize = 32 * 1024;
/// What every flush ends with: the lengths of an empty block that is stored (RFC 1951, section 3.2.4).
const FLUSHED: [u8; 4] = [0, 0, 0xFF, 0xFF];
/// A stream begins from a dictionary (RFC 1950, section 2.2: FDICT).
const FROM_DICTIONARY: u8 = 0x20;

/// Headers in their order: names in lower case, no two alike, and values. Several values of a name stand in one, NUL between.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, Vec<u8>)>);

impl Headers {
    /// Headers that may be sent.
    ///
    /// # Errors
    /// [`Broken::Name`], [`Broken::Twice`], and [`Broken::Headers`] where they are too many or too long.
    pub fn new(pairs: Vec<(String, Vec<u8>)>) -> Result<Self, Broken> {
        let length = pairs.iter().fold(4, |length, (name, value)| length + 8 + name.len() + value.len());
        if pairs.len() > PAIRS_LIMIT || length > HEADERS_LIMIT {
            return Err(Broken::Headers);
        }
        let mut seen = HashSet::new();
        for (name, _) in &pairs {
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()) {
                return Err(Broken::Name);
            }
            if !seen.insert(name) {
                return Err(Broken::Twice);
            }
        }
        Ok(Self(pairs))
    }

    /// The value of a name, which is in lower case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    fn read(mut block: &[u8]) -> Result<Self, Broken> {
        let count = block.try_get_u32().map_err(|_| Broken::Block)?;
        let count = usize::try_from(count).ok().filter(|count| *count <= PAIRS_LIMIT).ok_or(Broken::Headers)?;
        let mut pairs = Vec::with_capacity(count);
        for _ in 0..count {
            let name = String::from_utf8(string(&mut block)?.to_vec()).map_err(|_| Broken::Name)?;
            pairs.push((name, string(&mut block)?.to_vec()));
        }
        if !block.is_empty() {
            return Err(Broken::Block);
        }
        Self::new(pairs)
    }

    fn write(&self) -> Result<Vec<u8>, Broken> {
        let mut block = Vec::new();
        put_length(&mut block, self.0.len())?;
        for (name, value) in self.iter() {
            put_length(&mut block, name.len())?;
            block.extend_from_slice(name.as_bytes());
            put_length(&mut block, value.len())?;
            block.extend_from_slice(value);
        }
        Ok(block)
    }
}

/// Names, and how long what they stand for is.
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (name, value.len()))).finish()
    }
}

fn string<'a>(block: &mut &'a [u8]) -> Result<&'a [u8], Broken> {
    let length = block.try_get_u32().map_err(|_| Broken::Block)?;
    let (text, rest) =
        usize::try_from(length).ok().and_then(|length| block.split_at_checked(length)).ok_or(Broken::Block)?;
    *block = rest;
    Ok(text)
}

fn put_length(block: &mut Vec<u8>, length: usize) -> Result<(), Broken> {
    block.extend_from_slice(&u32::try_from(length).map_err(|_| Broken::Headers)?.to_be_bytes());
    Ok(())
}

/// Reads the blocks of one direction, in their order.
#[derive(Debug)]
pub(super) struct Inflater {
    stream: Decompress,
    /// The dictionary was asked for and given.
    begun: bool,
}

impl Inflater {
    pub(super) fn new() -> Self {
        Self { stream: Decompress::new(true), begun: false }
    }

    /// How many bytes of what was read are kept, for what follows to point back to.
    pub(super) fn held(&self) -> usize {
        usize::try_from(self.stream.total_out()).map_or(WINDOW, |read| read.min(WINDOW))
    }

    /// Reads a block. After an error, no other can be read.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, Broken> {
        if block.len() > BLOCK_LIMIT {
            return Err(Broken::Long);
        }
        if !block.ends_with(&FLUSHED) || !self.begun && block.get(1).is_none_or(|byte| byte & FROM_DICTIONARY == 0) {
            return Err(Broken::Compression);
        }
        let (mut rest, mut headers, mut piece) = (block, Vec::new(), [0; PIECE]);
        loop {
            let before = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.decompress(rest, &mut piece, FlushDecompress::Sync);
            let used = passed(before.0, self.stream.total_in());
            rest = rest.get(used..).ok_or(Broken::Compression)?;
            let made = passed(before.1, self.stream.total_out());
            headers.extend_from_slice(piece.get(..made).ok_or(Broken::Compression)?);
            if headers.len() > HEADERS_LIMIT {
                return Err(Broken::Headers);
            }
            match status {
                Ok(Status::Ok | Status::BufError) if rest.is_empty() && made < PIECE => break,
                Ok(Status::Ok | Status::BufError) if used > 0 || made > 0 => {}
                Err(error) if error.needs_dictionary().is_some() && !self.begun => {
                    self.stream.set_dictionary(&dictionary()).map_err(|_| Broken::Compression)?;
                    self.begun = true;
                }
                _ => return Err(Broken::Compression),
            }
        }
        Headers::read(&headers)
    }
}

/// Writes the blocks of one direction, in their order.
#[derive(Debug)]
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new() -> Result<Self, Broken> {
        let mut stream = Compress::new(Compression::default(), true);
        stream.set_dictionary(&dictionary()).map_err(|_| Broken::Compression)?;
        Ok(Self(stream))
    }

    /// Writes a block. After an error, no other may be written.
    pub(super) fn write(&mut self, headers: &Headers) -> Result<Vec<u8>, Broken> {
        let text = headers.write()?;
        let (mut rest, mut block, mut piece) = (text.as_slice(), Vec::new(), [0; PIECE]);
        loop {
            let before = (self.0.total_in(), self.0.total_out());
            self.0.compress(rest, &mut piece, FlushCompress::Sync).map_err(|_| Broken::Compression)?;
            rest = rest.get(passed(before.0, self.0.total_in())..).ok_or(Broken::Compression)?;
            let made = passed(before.1, self.0.total_out());
            block.extend_from_slice(piece.get(..made).ok_or(Broken::Compression)?);
            if block.len() > BLOCK_LIMIT {
                return Err(Broken::Long);
            }
            // A flush is complete where it leaves room.
            if rest.is_empty() && made < PIECE {
                return Ok(block);
            }
        }
    }
}

fn passed(before: u64, after: u64) -> usize {
    usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX)
}

/// What both sides take for sent before the first block: words with their lengths, and what stood in heads in 2011.
fn dictionary() -> Vec<u8> {
    let mut all = Vec::new();
    for word in WORDS.split('|') {
        all.extend(u32::try_from(word.len()).into_iter().flat_map(u32::to_be_bytes));
        all.extend_from_slice(word.as_bytes());
    }
    all.extend_from_slice(TEXT.as_bytes());
    all
}

const WORDS: &str = "options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|\
    accept-ranges|age|allow|authorization|cache-control|connection|content-base|content-encoding|content-language|\
    content-length|content-location|content-md5|content-range|content-type|date|etag|expect|expires|from|host|if-match|\
    if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|location|max-forwards|pragma|\
    proxy-authenticate|proxy-authorization|range|referer|retry-after|server|te|trailer|transfer-encoding|upgrade|\
    user-agent|vary|via|warning|www-authenticate|method|get|status|200 OK|version|HTTP/1.1|url|public|set-cookie|\
    keep-alive|origin";

const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 \
    Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept \
    Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
    charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

#[cfg(test)]
mod tests {
    use super::*;

    /// A block with this text, compressed.
    fn block(text: &[u8], from: &[u8], flush: FlushCompress) -> Vec<u8> {
        let (mut stream, mut block) = (Compress::new(Compression::best(), true), Vec::with_capacity(1 << 20));
        if !from.is_empty() {
            stream.set_dictionary(from).unwrap();
        }
        stream.compress_vec(text, &mut block, flush).unwrap();
        block
    }

    fn text(pairs: &[(&str, &[u8])], count: u32) -> Vec<u8> {
        let mut text = count.to_be_bytes().to_vec();
        for part in pairs.iter().flat_map(|(name, value)| [name.as_bytes(), value]) {
            put_length(&mut text, part.len()).unwrap();
            text.extend_from_slice(part);
        }
        text
    }

    fn read(block: &[u8]) -> Result<Headers, Broken> {
        Inflater::new().read(block)
    }

    #[test]
    fn headers_that_do_not_add_up_are_broken() {
        let good = text(&[("a", b"1"), ("b", b"")], 2);
        let many: Vec<String> = (0..129).map(|number| format!("n{number}")).collect();
        let many: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), &b""[..])).collect();
        for (text, why) in [
            (good.clone(), None),
            (text(&many[..128], 128), None),
            (text(&many, 129), Some(Broken::Headers)),
            (text(&[], u32::MAX), Some(Broken::Headers)),
            (text(&[("a", &vec![b'x'; HEADERS_LIMIT - 13])], 1), None),
            (text(&[("a", &vec![b'x'; HEADERS_LIMIT - 12])], 1), Some(Broken::Headers)),
            // More or fewer than there are, and lengths that reach beyond.
            (text(&[("a", b"1")], 2), Some(Broken::Block)),
            (text(&[("a", b"1"), ("b", b"2")], 1), Some(Broken::Block)),
            ([&good[..], b"x"].concat(), Some(Broken::Block)),
            (good[..good.len() - 1].to_vec(), Some(Broken::Block)),
            (b"\0\0\0\x01\xff\xff\xff\xffa\0\0\0\0".to_vec(), Some(Broken::Block)),
            (vec![0; 3], Some(Broken::Block)),
            (vec![], Some(Broken::Block)),
            // Names.
            (text(&[("", b"1")], 1), Some(Broken::Name)),
            (text(&[("streamType", b"stdin")], 1), Some(Broken::Name)),
            (text(&[("a\0", b"1")], 1), Some(Broken::Name)),
            (text(&[("a b", b"1")], 1), Some(Broken::Name)),
            (text(&[("a\x7f", b"1")], 1), Some(Broken::Name)),
            (text(&[("\u{e4}", b"1")], 1), Some(Broken::Name)),
            (b"\0\0\0\x01\0\0\0\x01\xff\0\0\0\0".to_vec(), Some(Broken::Name)),
            (text(&[("a", b"1"), ("b", b"1"), ("a", b"1")], 3), Some(Broken::Twice)),
        ] {
            let found = read(&block(&text, &dictionary(), FlushCompress::Sync));
            assert_eq!(found.as_ref().err(), why.as_ref(), "{:?}", text.get(..20));
        }
        // Nor can they be written.
        let pairs = |count: usize| (0..count).map(|number| (format!("n{number}"), vec![])).collect();
        assert_eq!(Headers::new(pairs(PAIRS_LIMIT)).map(|_| ()), Ok(()));
        assert_eq!(Headers::new(pairs(PAIRS_LIMIT + 1)), Err(Broken::Headers));
        assert_eq!(Headers::new(vec![("a".into(), vec![0; HEADERS_LIMIT - 12])]), Err(Broken::Headers));
    }

    #[test]
    fn compression_is_one_stream_from_the_one_dictionary_and_flushed() {
        let text = text(&[("a", b"1")], 1);
        let good = block(&text, &dictionary(), FlushCompress::Sync);
        let ended = block(&text, &dictionary(), FlushCompress::Finish);
        assert_eq!(read(&good).unwrap().get("a"), Some(&b"1"[..]));
        for bad in [
            block(&text, b"", FlushCompress::Sync),
            block(&text, b"options", FlushCompress::Sync),
            block(&text, &dictionary(), FlushCompress::None),
            block(&text, &dictionary(), FlushCompress::Partial),
            ended.clone(),
            // The stream ends, and something that looks like a flush stands behind it.
            [&ended[..], &FLUSHED].concat(),
            // Two streams, or one that ends within a flush.
            [&good[..], &good].concat(),
            good[..good.len() - 1].to_vec(),
            b"\x78\xf9\xe3\xc6\xa7\xc2\x07\0\0\xff\xff".to_vec(),
            FLUSHED.to_vec(),
            vec![],
        ] {
            assert_eq!(read(&bad), Err(Broken::Compression), "{bad:x?}");
        }
        // Nor does a second begin with a dictionary, or the first without.
        let mut inflater = Inflater::new();
        inflater.read(&good).unwrap();
        assert_eq!(inflater.read(&good), Err(Broken::Compression));
    }

    #[test]
    fn a_bomb_is_refused_while_it_inflates() {
        let bomb = block(&vec![0; 8 << 20], &dictionary(), FlushCompress::Sync);
        assert!(bomb.len() < BLOCK_LIMIT);
        let mut inflater = Inflater::new();
        assert_eq!(inflater.read(&bomb), Err(Broken::Headers));
        let inflated = usize::try_from(inflater.stream.total_out()).unwrap();
        assert!(inflated <= HEADERS_LIMIT + PIECE, "{inflated}");
        assert_eq!(Inflater::new().read(&[&[0x78, 0xF9], &*vec![0; BLOCK_LIMIT]].concat()), Err(Broken::Long));
    }

    #[test]
    fn many_blocks_point_back_no_further_than_is_held() {
        let (mut inflater, mut deflater) = (Inflater::new(), Deflater::new().unwrap());
        for number in 0..100u32 {
            let value = [&number.to_be_bytes()[..], &[b'x'; 1000]].concat();
            let headers = Headers::new(vec![("a".into(), value)]).unwrap();
            let block = deflater.write(&headers).unwrap();
            assert!(number == 0 || block.len() < 50, "{}", block.len());
            assert_eq!(inflater.read(&block), Ok(headers));
        }
        assert_eq!(inflater.held(), WINDOW);
    }

    #[test]
    fn the_dictionary_is_that_of_version_3() {
        assert_eq!(dictionary().len(), 1423);
        // Its checksum stands in the first block (RFC 1950, section 2.2).
        let block = Deflater::new().unwrap().write(&Headers::default()).unwrap();
        assert_eq!(block.get(2..6), Some(&[0xE3, 0xC6, 0xA7, 0xC2][..]));
    }
}
