//! Text as a reader sees it: without invisible characters, with the ASCII counterparts of Unicode digits, dashes,
//! blanks and full-width signs; and the way back to the original bytes.

/// Plain text, and for each of its bytes where the original character starts.
#[derive(Clone, Debug, Default)]
pub(super) struct Plain {
    text: Vec<u8>,
    starts: Vec<u32>,
}

impl Plain {
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Reads a value of at most [`super::MAX_VALUE`] bytes, so that a position fits into 32 bits.
    pub(super) fn read(&mut self, value: &[u8]) {
        self.text.clear();
        self.starts.clear();
        let mut at = 0_u32;
        for chunk in value.utf8_chunks() {
            for char in chunk.valid().chars() {
                match ascii(char) {
                    Reading::Nothing => {}
                    Reading::As(byte) => self.push(byte, at),
                    Reading::Itself => {
                        for byte in char.encode_utf8(&mut [0; 4]).bytes() {
                            self.push(byte, at);
                        }
                    }
                }
                at = at.saturating_add(u32::try_from(char.len_utf8()).unwrap_or(4));
            }
            for byte in chunk.invalid() {
                self.push(*byte, at);
                at = at.saturating_add(1);
            }
        }
    }

    fn push(&mut self, byte: u8, at: u32) {
        self.text.push(byte);
        self.starts.push(at);
    }

    /// The original bytes of a span: from the start of its first character to the end of its last.
    pub(super) fn original(&self, start: usize, end: usize, value: &[u8]) -> (usize, usize) {
        let place = |at: usize| self.starts.get(at).and_then(|at| usize::try_from(*at).ok());
        let first = place(start).unwrap_or(value.len());
        let last = end.checked_sub(1).and_then(place).unwrap_or(value.len());
        let mut after = last.saturating_add(1).min(value.len());
        while value.get(after).is_some_and(|byte| (*byte & 0xc0) == 0x80) {
            after += 1;
        }
        (first, after)
    }
}

enum Reading {
    Nothing,
    As(u8),
    Itself,
}

fn ascii(char: char) -> Reading {
    let code = u32::from(char);
    match code {
        0..=0x7f => Reading::As(u8::try_from(code).unwrap_or(b'?')),
        // Soft hyphen, joiners, directions, variation selectors, fillers, tags: nothing to see.
        0xad
        | 0x34f
        | 0x61c
        | 0x115f
        | 0x1160
        | 0x17b4
        | 0x17b5
        | 0x180b..=0x180f
        | 0x200b..=0x200f
        | 0x202a..=0x202e
        | 0x2060..=0x206f
        | 0x3164
        | 0xfe00..=0xfe0f
        | 0xfeff
        | 0xffa0
        | 0xfff9..=0xfffb
        | 0xe0000..=0xe0fff => Reading::Nothing,
        0xa0 | 0x1680 | 0x2000..=0x200a | 0x2028 | 0x2029 | 0x202f | 0x205f | 0x3000 => Reading::As(b' '),
        0x2010..=0x2015 | 0x2043 | 0x2212 | 0xfe58 | 0xfe63 => Reading::As(b'-'),
        // Quotes, ellipses and brackets end a word; the ideographic full stop is one.
        0xab | 0xbb | 0x2018..=0x201f | 0x2026 | 0x2039 | 0x203a | 0x3001 | 0x3003 | 0x3008..=0x3011 => {
            Reading::As(b'"')
        }
        0x3002 | 0xff61 => Reading::As(b'.'),
        0xff01..=0xff5e => Reading::As(u8::try_from(code - 0xff01 + 0x21).unwrap_or(b'?')),
        0x1d7ce..=0x1d7ff => digit((code - 0x1d7ce) % 10),
        _ => match ZEROS.partition_point(|zero| *zero <= code).checked_sub(1).and_then(|at| ZEROS.get(at)) {
            Some(zero) if code - zero < 10 => digit(code - zero),
            _ => Reading::Itself,
        },
    }
}

fn digit(value: u32) -> Reading {
    Reading::As(u8::try_from(value).map_or(b'?', |value| b'0' + value))
}

/// The zero of each run of ten decimal digits (general category Nd) outside of ASCII, full-width and mathematical.
const ZEROS: [u32; 60] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0, 0xf20,
    0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0,
    0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450,
    0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x11f50, 0x16a60, 0x16ac0,
    0x16b50, 0x1e140, 0x1e2f0, 0x1e4f0, 0x1e950,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_digit_run_is_known_to_the_standard_library() {
        assert!(ZEROS.is_sorted());
        for zero in ZEROS {
            for code in zero..zero + 10 {
                assert!(char::from_u32(code).unwrap().is_numeric(), "{code:x}");
            }
        }
    }

    #[test]
    fn spans_lead_back_to_whole_characters() {
        let value = "é４\u{200b}１x".as_bytes();
        let mut plain = Plain::default();
        plain.read(value);
        assert_eq!(plain.text(), "é41x".as_bytes());
        let (start, end) = plain.original(2, 4, value);
        assert_eq!(&value[start..end], "４\u{200b}１".as_bytes());
        assert_eq!(plain.original(0, 1, value), (0, 2), "half a character is a whole one");
    }

    #[test]
    fn bytes_that_are_not_utf8_stay() {
        let value = b"\xff41\xe2\x80";
        let mut plain = Plain::default();
        plain.read(value);
        assert_eq!(plain.text(), value);
        assert_eq!(plain.original(1, 3, value), (1, 3));
    }
}
