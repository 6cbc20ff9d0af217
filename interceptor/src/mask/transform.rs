//! What stands in place of a value. Every function appends to `out` and shows nothing that its transform hides.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::secret::Secret;

/// Lower-case base32 of RFC 4648: no sign that JSON, XML, COPY, CSV or an array would have to escape.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Characters of a token: `tok_`, then 130 bits of hash.
pub(super) const TOKEN_LEN: usize = 30;

/// Keyed hashing, prepared once.
#[derive(Clone)]
pub(super) struct Tokens(Hmac<Sha256>);

impl Tokens {
    /// `None` for a key that HMAC does not take; there is none today.
    pub(super) fn new(key: &Secret) -> Option<Self> {
        Hmac::new_from_slice(key.expose()).ok().map(Self)
    }

    /// The same tag and value give the same token; another tag gives another one.
    pub(super) fn write(&self, tag: &str, value: &[u8], out: &mut Vec<u8>) {
        let mut mac = self.0.clone();
        mac.update(tag.as_bytes());
        // A tag has no NUL, so that no two pairs of tag and value feed the same bytes.
        mac.update(&[0]);
        mac.update(value);
        let hash = mac.finalize().into_bytes();
        out.extend_from_slice(b"tok_");
        let mut held: u32 = 0;
        let mut bits = 0;
        let mut bytes = hash.iter();
        for _ in 4..TOKEN_LEN {
            if bits < 5 {
                held = (held << 8) | bytes.next().copied().map_or(0, u32::from);
                bits += 8;
            }
            bits -= 5;
            let index = usize::try_from((held >> bits) & 31).unwrap_or(0);
            out.push(BASE32.get(index).copied().unwrap_or(b'a'));
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens(..)")
    }
}

/// The constant that names the tag. It has no sign that JSON strings, XML content, COPY, CSV or arrays escape.
pub(super) fn marker(tag: Option<&str>, out: &mut Vec<u8>) {
    match tag {
        Some(tag) => {
            out.extend_from_slice(b"[masked:");
            out.extend_from_slice(tag.as_bytes());
            out.push(b']');
        }
        None => out.extend_from_slice(b"[masked]"),
    }
}

/// The last `keep` characters, never more than a third; `*` for each of the others. Blanks at the end do not count.
/// `false`, and nothing written, where the value is not UTF-8: characters cannot be counted then.
pub(super) fn keep_last(value: &[u8], keep: u8, out: &mut Vec<u8>) -> bool {
    let Ok(text) = std::str::from_utf8(value) else { return false };
    let text = text.trim_end();
    let chars = text.chars().count();
    let keep = usize::from(keep).min(chars / 3);
    out.resize(out.len().saturating_add(chars - keep), b'*');
    let from = text.char_indices().rev().take(keep).last().map_or(text.len(), |(at, _)| at);
    out.extend_from_slice(value.get(from..text.len()).unwrap_or_default());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(key: &str, tag: &str, value: &str) -> String {
        let mut out = Vec::new();
        Tokens::new(&Secret::from(key)).unwrap().write(tag, value.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn kept(value: &str, keep: u8) -> String {
        let mut out = Vec::new();
        assert!(keep_last(value.as_bytes(), keep, &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_token_is_stable_and_separated_by_key_and_tag() {
        let one = token("k", "card", "4111111111111111");
        assert_eq!(one, token("k", "card", "4111111111111111"));
        assert_eq!(one.len(), TOKEN_LEN);
        assert!(one.strip_prefix("tok_").unwrap().bytes().all(|byte| BASE32.contains(&byte)));
        for other in
            [token("q", "card", "4111111111111111"), token("k", "pii", "4111111111111111"), token("k", "card", "4")]
        {
            assert_ne!(one, other);
        }
        assert_ne!(token("k", "ab", "c"), token("k", "a", "bc"));
    }

    #[test]
    fn a_token_is_an_hmac_that_others_can_compute() {
        // From another implementation: the first 130 bits of HMAC-SHA-256("Jefe", "t\0what ...") in base32.
        assert_eq!(token("Jefe", "t", "what do ya want for nothing?"), "tok_os5ncwm2ryqu2zvapk43jjmcpj");
    }

    #[test]
    fn no_more_than_a_third_is_kept() {
        assert_eq!(kept("4111111111111234", 4), "************1234");
        assert_eq!(kept("123456", 4), "****56");
        assert_eq!(kept("12", 4), "**");
        assert_eq!(kept("", 4), "");
        assert_eq!(kept("abc", 0), "***");
        assert_eq!(kept("äöüßéñ", 2), "****éñ");
        assert_eq!(kept("4111111111111234   ", 4), "************1234", "padding is not the value");
        assert!(!keep_last(b"\xff\xfe123456", 4, &mut Vec::new()));
    }
}
