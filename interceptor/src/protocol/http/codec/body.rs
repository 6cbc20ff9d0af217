//! Bodies in chunks (RFC 9112, section 7.1), read piece by piece.

use super::Malformed;

/// Where a reader of chunks stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunked(State);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before a line with a size.
    #[default]
    Size,
    /// Within a chunk: so many bytes are missing.
    Within(u64),
    /// Before the end of the line behind a chunk.
    Behind,
    /// Behind the last chunk: trailers, so many bytes of them so far, and whether the line is empty so far.
    Trailers(usize),
    /// All was read.
    Done,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// More bytes are needed.
    More,
    /// So many bytes are framing, and are to be skipped.
    Skip(usize),
    /// So many bytes are the body's.
    Data(usize),
    /// The body has ended, nothing more belongs to it.
    End,
}

/// The longest line with a size: 15 digits are more than anybody sends.
const SIZE_DIGITS: usize = 15;
/// The most that trailers may have together, in bytes.
const TRAILERS_LIMIT: usize = 8 * 1024;

impl Chunked {
    /// What the bytes at hand begin with. The reader stands behind it then.
    ///
    /// # Errors
    /// [`Malformed::Chunk`].
    pub fn next(&mut self, bytes: &[u8]) -> Result<Piece, Malformed> {
        match self.0 {
            State::Size => self.size(bytes),
            State::Within(_) if bytes.is_empty() => Ok(Piece::More),
            State::Within(left) => {
                let here = u64::try_from(bytes.len()).unwrap_or(u64::MAX).min(left);
                self.0 = if here == left { State::Behind } else { State::Within(left - here) };
                Ok(Piece::Data(usize::try_from(here).unwrap_or(bytes.len())))
            }
            State::Behind => match bytes {
                [b'\r', b'\n', ..] => {
                    self.0 = State::Size;
                    Ok(Piece::Skip(2))
                }
                [] | [b'\r'] => Ok(Piece::More),
                _ => Err(Malformed::Chunk),
            },
            State::Trailers(seen) => self.trailer(bytes, seen),
            State::Done => Ok(Piece::End),
        }
    }

    fn size(&mut self, bytes: &[u8]) -> Result<Piece, Malformed> {
        let digits = bytes.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        if digits > SIZE_DIGITS {
            return Err(Malformed::Chunk);
        }
        let (size, rest) = bytes.split_at_checked(digits).ok_or(Malformed::Chunk)?;
        match (digits, rest) {
            // An extension, a sign, a space: somebody else may read another number.
            (0, [_, ..]) => return Err(Malformed::Chunk),
            (_, [] | [b'\r']) => return Ok(Piece::More),
            (_, [b'\r', b'\n', ..]) => {}
            _ => return Err(Malformed::Chunk),
        }
        let text = std::str::from_utf8(size).map_err(|_| Malformed::Chunk)?;
        let size = u64::from_str_radix(text, 16).map_err(|_| Malformed::Chunk)?;
        self.0 = if size == 0 { State::Trailers(0) } else { State::Within(size) };
        Ok(Piece::Skip(digits + 2))
    }

    /// One line of the trailers, or the empty one that ends the body.
    fn trailer(&mut self, bytes: &[u8], seen: usize) -> Result<Piece, Malformed> {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            return if seen + bytes.len() > TRAILERS_LIMIT { Err(Malformed::Chunk) } else { Ok(Piece::More) };
        };
        let line = bytes.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Malformed::Chunk)?;
        let seen = seen + end + 1;
        if line.contains(&b'\r')
            || seen > TRAILERS_LIMIT
            || (!line.is_empty() && super::field(&bytes::Bytes::copy_from_slice(line)).is_err())
        {
            return Err(Malformed::Chunk);
        }
        self.0 = if line.is_empty() { State::Done } else { State::Trailers(seen) };
        Ok(Piece::Skip(end + 1))
    }
}
