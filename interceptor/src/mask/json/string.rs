//! Where a JSON string ends, eight bytes at a time, and over the ends of pieces.

/// A reader within a string, behind its first quote.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reader {
    escape: Escape,
    /// There was an escape.
    pub(super) escaped: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum Escape {
    #[default]
    None,
    /// Behind a backslash.
    Sign,
    /// So many hexadecimal digits are missing.
    Digits(u8),
}

/// What became of the bytes at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// All of them are the string's.
    More,
    /// So many are, the quote at its end included.
    End(usize),
    /// At this place stands what has no place in a string.
    Bad(usize),
}

impl Reader {
    pub(super) fn read(&mut self, bytes: &[u8]) -> Stop {
        let mut at = 0;
        loop {
            if matches!(self.escape, Escape::None) {
                at += plain(bytes.get(at..).unwrap_or_default());
            }
            let Some(byte) = bytes.get(at) else { return Stop::More };
            at += 1;
            self.escape = match (self.escape, byte) {
                (Escape::None, b'"') => return Stop::End(at),
                (Escape::None, b'\\') => {
                    self.escaped = true;
                    Escape::Sign
                }
                (Escape::Sign, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Escape::None,
                (Escape::Sign, b'u') => Escape::Digits(4),
                (Escape::Digits(left), digit) if digit.is_ascii_hexdigit() => match left {
                    0 | 1 => Escape::None,
                    _ => Escape::Digits(left - 1),
                },
                _ => return Stop::Bad(at - 1),
            };
        }
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// How many bytes at the front are no quote, backslash or control character.
fn plain(bytes: &[u8]) -> usize {
    let (words, tail) = bytes.as_chunks::<8>();
    let mut at = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        let zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        // What is set above the lowest may be a borrow; the lowest is right.
        let special = zero(word ^ (ONES * 0x22)) | zero(word ^ (ONES * 0x5c)) | control;
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + tail.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..0x20)).unwrap_or(tail.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_at_a_time_is_what_one_at_a_time_is() {
        for length in 0..20 {
            for at in 0..length {
                for byte in 0..=255u8 {
                    let mut bytes = vec![b'x'; length];
                    bytes[at] = byte;
                    let slow = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..0x20)).unwrap_or(length);
                    assert_eq!(plain(&bytes), slow, "{byte} at {at} of {length}");
                }
            }
        }
        assert_eq!(plain(b"\x21\x20\x7f\x80\xff\x22\x00\x5c"), 5);
    }

    #[test]
    fn strings_end_where_they_end() {
        let read = |text: &[u8]| Reader::default().read(text);
        assert_eq!(read(br#"abc" x"#), Stop::End(4));
        assert_eq!(read(br#"a\"b\\" x"#), Stop::End(7));
        assert_eq!(read(br#"\u0022""#), Stop::End(7));
        assert_eq!((read(b"abc"), read(b"abc\\")), (Stop::More, Stop::More));
        assert_eq!((read(b"ab\n\""), read(br#"\x""#), read(br#"\u00g0""#)), (Stop::Bad(2), Stop::Bad(1), Stop::Bad(4)));
    }
}
