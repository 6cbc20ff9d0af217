//! Reading and writing the bytes of binary protocols: a cursor that cannot run past its end, and length-prefixed writing.
//!
//! Owns no protocol's rules. Nothing here allocates but the buffer that is written to; integers are big-endian.

use bytes::{BufMut, BytesMut};

/// A cursor over a whole message. `None` means that the message is shorter than it says it is.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A cursor at the start.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.rest.split_first_chunk::<N>()?;
        self.rest = tail;
        Some(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes, unsigned.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Two bytes, signed.
    pub fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    /// Four bytes, unsigned.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Four bytes, signed.
    pub fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    /// The next `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(length)?;
        self.rest = tail;
        Some(head)
    }

    /// Bytes up to a zero byte, which is consumed and left out.
    pub fn cstr(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| *byte == 0)?;
        let head = self.bytes(end)?;
        self.u8()?;
        Some(head)
    }
}

/// Writes a four-byte length that counts itself and what `body` writes. False, with the buffer as it was, when that does
/// not fit into an `i32`.
pub fn length_prefixed(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) -> bool {
    let start = out.len();
    out.put_u32(0);
    body(out);
    let Ok(length) = i32::try_from(out.len() - start) else {
        out.truncate(start);
        return false;
    };
    if let Some(place) = out.get_mut(start..).and_then(|tail| tail.first_chunk_mut::<4>()) {
        *place = length.to_be_bytes();
    }
    true
}

/// Writes text or bytes with a closing zero; what follows a zero byte inside is left out, so that nothing can be injected.
pub fn put_cstr(out: &mut BytesMut, text: &[u8]) {
    let clean = text.split(|byte| *byte == 0).next().unwrap_or_default();
    out.put_slice(clean);
    out.put_u8(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_never_runs_past_its_end() {
        let mut reader = Reader::new(&[0, 1, b'a', 0, 9]);
        assert_eq!(reader.u16(), Some(1));
        assert_eq!(reader.cstr(), Some(&b"a"[..]));
        assert_eq!(reader.u32(), None);
        assert_eq!(reader.bytes(2), None);
        assert_eq!(reader.u8(), Some(9));
        assert!(reader.is_empty());
        assert_eq!(reader.cstr(), None);
    }

    #[test]
    fn a_length_counts_itself() {
        let mut out = BytesMut::from(&b"x"[..]);
        assert!(length_prefixed(&mut out, |out| put_cstr(out, b"ab\0cd")));
        assert_eq!(&out[..], b"x\0\0\0\x07ab\0");
    }
}
