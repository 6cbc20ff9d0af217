//! The encoding of Protocol Buffers: tags, varints, lengths. Nothing here knows a schema.
//!
//! Groups are told of and never looked into. Whether bytes are written as every encoder writes them, [`Fields::is_plain`] says.

use std::ops::Range;

/// The highest number that a field can have.
const LAST_FIELD: u64 = (1 << 29) - 1;

/// What is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It ends within a field.
    #[error("it ends within a field")]
    Ends,
    /// A number of more than 64 bits.
    #[error("a number in it has no end")]
    Varint,
    /// No number of a field, or no type on the wire.
    #[error("a field in it has no number, or no type that there is")]
    Tag,
    /// A group, which has no length.
    #[error("it has a group")]
    Group,
}

/// What a field holds, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// Type 0.
    Varint(u64),
    /// Type 1.
    Fixed64([u8; 8]),
    /// Type 2.
    Bytes(&'a [u8]),
    /// Type 5.
    Fixed32([u8; 4]),
}

/// The fields of a message, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
    plain: bool,
    /// Bytes of all.
    length: usize,
    /// Where the value of the last field begins.
    value: usize,
}

impl<'a> Fields<'a> {
    /// Of these bytes.
    #[must_use]
    pub const fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, plain: true, length: bytes.len(), value: 0 }
    }

    /// Whether no number that was read so far has more bytes than it needs.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.plain
    }

    /// How many bytes were read.
    #[must_use]
    pub const fn taken(&self) -> usize {
        self.length - self.rest.len()
    }

    /// Where the value of the field stands that was read last, without its length.
    #[must_use]
    pub const fn value(&self) -> Range<usize> {
        self.value..self.taken()
    }

    /// The next field: its number, and what it holds.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn read(&mut self) -> Result<Option<(u32, Payload<'a>)>, Broken> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 || number > LAST_FIELD {
            return Err(Broken::Tag);
        }
        let number = u32::try_from(number).map_err(|_| Broken::Tag)?;
        self.value = self.taken();
        let payload = match tag & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(self.array()?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Broken::Ends)?;
                self.value = self.taken();
                Payload::Bytes(self.take(length)?)
            }
            5 => Payload::Fixed32(self.array()?),
            3 | 4 => return Err(Broken::Group),
            _ => return Err(Broken::Tag),
        };
        Ok(Some((number, payload)))
    }

    /// The next number of a packed list; nothing at its end.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn packed_varint(&mut self) -> Result<Option<u64>, Broken> {
        if self.rest.is_empty() { Ok(None) } else { self.varint().map(Some) }
    }

    /// The next of a packed list, where each has so many bytes.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn packed_array<const N: usize>(&mut self) -> Result<Option<[u8; N]>, Broken> {
        if self.rest.is_empty() { Ok(None) } else { self.array().map(Some) }
    }

    fn varint(&mut self) -> Result<u64, Broken> {
        let mut value: u64 = 0;
        for place in 0..10u32 {
            let (byte, rest) = self.rest.split_first().ok_or(Broken::Ends)?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if place == 9 && bits > 1 {
                return Err(Broken::Varint);
            }
            value |= bits << (7 * place);
            if byte & 0x80 == 0 {
                self.plain &= place == 0 || bits != 0;
                return Ok(value);
            }
        }
        Err(Broken::Varint)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Broken::Ends)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Broken::Ends)?;
        self.rest = rest;
        Ok(*taken)
    }
}

/// Appends a number.
pub fn put_varint(out: &mut Vec<u8>, value: u64) {
    let mut rest = value;
    while rest >= 0x80 {
        out.push(u8::try_from(rest & 0x7f).unwrap_or(0) | 0x80);
        rest >>= 7;
    }
    out.push(u8::try_from(rest).unwrap_or(0));
}

/// Appends a field.
pub fn put(out: &mut Vec<u8>, number: u32, payload: Payload<'_>) {
    let tag = |kind: u64| (u64::from(number) << 3) | kind;
    match payload {
        Payload::Varint(value) => {
            put_varint(out, tag(0));
            put_varint(out, value);
        }
        Payload::Fixed64(bytes) => {
            put_varint(out, tag(1));
            out.extend_from_slice(&bytes);
        }
        Payload::Bytes(bytes) => {
            put_varint(out, tag(2));
            put_varint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
        Payload::Fixed32(bytes) => {
            put_varint(out, tag(5));
            out.extend_from_slice(&bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let fields = [
            (1, Payload::Varint(0)),
            (15, Payload::Varint(u64::MAX)),
            (16, Payload::Fixed64([1; 8])),
            ((1 << 29) - 1, Payload::Bytes(b"abc")),
            (3, Payload::Fixed32([2; 4])),
            (4, Payload::Bytes(b"")),
        ];
        let mut bytes = Vec::new();
        fields.iter().for_each(|(number, payload)| put(&mut bytes, *number, *payload));
        let mut read = Fields::of(&bytes);
        for field in fields {
            let begun = read.taken();
            assert_eq!(read.read().unwrap(), Some(field));
            let value = &bytes[read.value()];
            assert!(read.value().start > begun && read.value().end == read.taken());
            match field.1 {
                Payload::Bytes(expected) => assert_eq!(value, expected),
                Payload::Fixed64(expected) => assert_eq!(value, expected),
                Payload::Fixed32(expected) => assert_eq!(value, expected),
                Payload::Varint(expected) => assert_eq!(value.len(), if expected == 0 { 1 } else { 10 }),
            }
        }
        assert_eq!(read.read().unwrap(), None);
        assert!(read.is_plain());
        for end in 1..bytes.len() {
            let mut read = Fields::of(&bytes[..end]);
            let failed = loop {
                match read.read() {
                    Ok(Some(_)) => {}
                    Ok(None) => break false,
                    Err(_) => break true,
                }
            };
            let whole = [2, 13, 23, 32, 37].contains(&end);
            assert!(failed || whole, "{end}");
        }
    }

    #[test]
    fn what_is_no_field_is_none() {
        for (bytes, why) in [
            (&[0x00, 0x01][..], Broken::Tag),
            (&[0x0e, 0x01], Broken::Tag),
            (&[0x0f, 0x01], Broken::Tag),
            (&[0x0b], Broken::Group),
            (&[0x0c], Broken::Group),
            (&[0x0a, 0x02, 0x01], Broken::Ends),
            (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], Broken::Ends),
            (&[0x08, 0x80], Broken::Ends),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], Broken::Varint),
            (&[0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00], Broken::Varint),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x01, 0x00], Broken::Tag),
        ] {
            assert_eq!(Fields::of(bytes).read(), Err(why), "{bytes:?}");
        }
        for bytes in [&[0x08, 0x81, 0x00][..], &[0x88, 0x00, 0x01], &[0x0a, 0x80, 0x00]] {
            let mut fields = Fields::of(bytes);
            assert!(fields.read().is_ok() && !fields.is_plain(), "{bytes:?}");
        }
    }
}
