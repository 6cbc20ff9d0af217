//! International bank account numbers: ISO 13616 lengths by country, check digits by ISO 7064 modulo 97-10.

use super::{Detector, Hits, before, byte};

/// Characters of the shortest one, Norway's.
pub(super) const MIN: usize = 15;

pub(super) fn find(text: &[u8], hits: &mut Hits) {
    let mut at = 0;
    while at + MIN <= text.len() {
        let starts = byte(text, at).is_ascii_alphabetic()
            && !before(text, at).is_ascii_alphanumeric()
            && byte(text, at + 1).is_ascii_alphabetic()
            && byte(text, at + 2).is_ascii_digit();
        match starts.then(|| end(text, at)).flatten() {
            Some(end) => {
                hits.push(Detector::Iban, at, end);
                at = end;
            }
            None => at += 1,
        }
    }
}

/// End of the IBAN at `start`. Groups may be set apart by one blank, dash or line end each.
fn end(text: &[u8], start: usize) -> Option<usize> {
    let country = [byte(text, start).to_ascii_uppercase(), byte(text, start + 1).to_ascii_uppercase()];
    let length = LENGTHS.iter().find(|(code, _)| **code == country).map(|(_, length)| *length)?;
    let mut signs = [0_u8; 34];
    let mut at = start;
    for (place, sign) in signs.iter_mut().take(length).enumerate() {
        if place > 0 && matches!(byte(text, at), b' ' | b'-' | b'\n' | b'.' | b'\t') {
            at += 1;
        }
        let next = byte(text, at).to_ascii_uppercase();
        if !next.is_ascii_alphanumeric() {
            return None;
        }
        *sign = next;
        at += 1;
    }
    let signs = signs.get(..length)?;
    let (head, rest) = signs.split_at_checked(4)?;
    if byte(text, at).is_ascii_alphanumeric() || !head.iter().skip(2).all(u8::is_ascii_digit) {
        return None;
    }
    let remainder = rest.iter().chain(head).fold(0_u32, |rest, sign| match sign {
        b'0'..=b'9' => (rest * 10 + u32::from(sign - b'0')) % 97,
        _ => (rest * 100 + u32::from(sign - b'A') + 10) % 97,
    });
    (remainder == 1).then_some(at)
}

/// Country and number of characters, from the SWIFT registry.
const LENGTHS: &[(&[u8; 2], usize)] = &[
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HN", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"RU", 33),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
    (b"YE", 30),
];
