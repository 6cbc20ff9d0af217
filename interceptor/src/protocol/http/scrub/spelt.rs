//! How programs write a secret out: as it is, coded as a whole, or character by character.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::NO_PAD;

use crate::protocol::http::denial::escaped;

/// Secrets that are longer are not looked for in what makes several characters of each.
const LONG: usize = 256;

/// All spellings of a secret.
pub(super) fn all(secret: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut all = BTreeSet::from([secret.to_vec()]);
    all.extend([hexadecimal(secret, false), hexadecimal(secret, true)]);
    all.extend(within_base64(secret));
    all.extend(percent(secret));
    all.extend(named(secret));
    if let Ok(text) = std::str::from_utf8(secret) {
        all.extend(json(text));
    }
    if secret.len() <= LONG {
        all.extend(by_character(secret));
        // As mail has it (quoted-printable, RFC 2045).
        let stays = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'=';
        all.insert(escape(secret, stays, |byte| format!("={byte:02X}")));
    }
    all
}

/// The characters that a secret has in the base64 of any text in which it stands.
fn within_base64(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for alphabet in [&STANDARD, &URL_SAFE] {
        let engine = GeneralPurpose::new(alphabet, NO_PAD);
        for coded in (0..3).map(|offset| at(&engine, secret, offset)) {
            if secret.len() <= LONG {
                // JSON and queries escape what the alphabet has beside letters and digits.
                all.extend([json_slashes(&coded), escape(&coded, |byte| byte.is_ascii_alphanumeric(), percents(true))]);
            }
            all.push(coded);
        }
    }
    all
}

/// Those that stand so many bytes behind a multiple of three.
fn at(engine: &GeneralPurpose, secret: &[u8], offset: usize) -> Vec<u8> {
    let mut text = vec![0; offset];
    text.extend_from_slice(secret);
    let coded = engine.encode(&text).into_bytes();
    // Characters that depend on what stands before or behind it say nothing of it for certain.
    let first = (offset * 8).div_ceil(6);
    let last = text.len() * 8 / 6;
    coded.get(first..last).unwrap_or_default().to_vec()
}

fn hexadecimal(bytes: &[u8], upper: bool) -> Vec<u8> {
    let digits = |byte: &u8| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") };
    bytes.iter().flat_map(|byte| digits(byte).into_bytes()).collect()
}

/// Escapes whatever is not plain.
fn escape(bytes: &[u8], plain: impl Fn(u8) -> bool, with: impl Fn(u8) -> String) -> Vec<u8> {
    bytes.iter().flat_map(|byte| if plain(*byte) { vec![*byte] } else { with(*byte).into_bytes() }).collect()
}

fn percents(upper: bool) -> impl Fn(u8) -> String {
    move |byte| if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") }
}

/// In addresses and forms: libraries differ in what they leave as it is.
fn percent(secret: &[u8]) -> Vec<Vec<u8>> {
    const LEFT: [&[u8]; 5] = [b"-._~", b"-._~/", b"-._~!*'()", b"-._~!$&'()*+,;=:@/?", b"*-._"];
    let mut all = vec![escaped(secret).into_bytes()];
    for (left, upper) in LEFT.into_iter().flat_map(|left| [(left, true), (left, false)]) {
        let written = escape(secret, |byte| byte.is_ascii_alphanumeric() || left.contains(&byte), percents(upper));
        all.push(replaced(&written, b"%20", b"+"));
        all.push(written);
    }
    all
}

fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memmem::find(rest, from) {
        out.extend_from_slice(rest.get(..at).unwrap_or_default());
        out.extend_from_slice(to);
        rest = rest.get(at + from.len()..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out
}

/// As JSON has it: with as few escapes as can be, with those for HTML (Go, PHP, .NET), with `\/`, with all that is no ASCII escaped
/// (Python), and each of them in a string within JSON.
fn json(text: &str) -> BTreeSet<Vec<u8>> {
    const ESCAPED: [&str; 5] = ["", "<>&", "<>&'", "<>&'\"", "<>&'\"+`"];
    let mut all = BTreeSet::new();
    for escaped in ESCAPED {
        for (ascii, upper) in [(false, false), (false, true), (true, false), (true, true)] {
            let written: String = text.chars().map(|c| within_json(c, (escaped, ascii), upper)).collect();
            all.insert(json_slashes(written.as_bytes()));
            all.insert(written.into_bytes());
        }
    }
    let is_plain = |byte: u8| !matches!(byte, b'"' | b'\\');
    let twice = |one: &Vec<u8>| escape(one, is_plain, |byte| format!("\\{}", char::from(byte)));
    let nested: Vec<Vec<u8>> = all.iter().map(twice).collect();
    all.extend(nested);
    all
}

fn json_slashes(text: &[u8]) -> Vec<u8> {
    replaced(text, b"/", b"\\/")
}

fn within_json(character: char, (escaped, ascii): (&str, bool), upper: bool) -> String {
    if escaped.contains(character) || (ascii && !character.is_ascii()) {
        let mut units = [0; 2];
        let escape = |unit: &mut u16| if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") };
        return character.encode_utf16(&mut units).iter_mut().map(escape).collect();
    }
    let quoted = serde_json::Value::String(character.to_string()).to_string();
    quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default().to_owned()
}

/// As HTML and XML have it, by name or number.
fn named(secret: &[u8]) -> Vec<Vec<u8>> {
    const QUOTES: [(&str, &str, &str); 7] = [
        ("&quot;", "&#39;", "+"),
        ("&#34;", "&#39;", "+"),
        ("&#34;", "&#39;", "&#43;"),
        ("&quot;", "&#039;", "+"),
        ("&quot;", "&apos;", "+"),
        ("&quot;", "&#x27;", "+"),
        ("&#x22;", "&#x27;", "+"),
    ];
    let of = |(double, single, plus): (&str, &str, &str)| {
        let escape = |byte: &u8| match byte {
            b'&' => "&amp;".to_owned().into_bytes(),
            b'<' => b"&lt;".to_vec(),
            b'>' => b"&gt;".to_vec(),
            b'"' => double.as_bytes().to_vec(),
            b'\'' => single.as_bytes().to_vec(),
            b'+' => plus.as_bytes().to_vec(),
            other => vec![*other],
        };
        secret.iter().flat_map(escape).collect::<Vec<u8>>()
    };
    let mut all: Vec<Vec<u8>> = QUOTES.into_iter().map(of).collect();
    // Quotes may stay as they are in a text.
    all.push(escape(
        secret,
        |byte| !matches!(byte, b'&' | b'<' | b'>'),
        |byte| match byte {
            b'&' => "&amp;".to_owned(),
            b'<' => "&lt;".to_owned(),
            _ => "&gt;".to_owned(),
        },
    ));
    all
}

/// Each character, or each that is neither letter nor digit, escaped by its number: JSON, JavaScript, HTML, addresses.
fn by_character(secret: &[u8]) -> Vec<Vec<u8>> {
    let writers: [fn(u8) -> String; 14] = [
        |byte| format!("\\u{byte:04x}"),
        |byte| format!("\\u{byte:04X}"),
        |byte| format!("\\\\u{byte:04x}"),
        |byte| format!("\\x{byte:02x}"),
        |byte| format!("\\x{byte:02X}"),
        |byte| format!("\\{byte:03o}"),
        |byte| format!("&#{byte};"),
        |byte| format!("&#{byte:03};"),
        |byte| format!("&#x{byte:x};"),
        |byte| format!("&#x{byte:X};"),
        |byte| format!("%{byte:02x}"),
        |byte| format!("%{byte:02X}"),
        |byte| format!("%25{byte:02X}"),
        |byte| format!("={byte:02X}"),
    ];
    let all = writers.into_iter().flat_map(|with| {
        let odd = escape(secret, |byte| byte.is_ascii_alphanumeric(), with);
        let most = escape(secret, |byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte), with);
        [odd, most, escape(secret, |_| false, with)]
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_write_a_secret_in_these_ways() {
        let spellings = all("p/w<\"é+ '1&=".as_bytes());
        for one in [
            r#"p/w<\"é+ '1&="#,
            r#"p\/w<\"\u00e9+ '1&="#,
            r#"p/w\u003c\"é+ \u00271\u0026="#,
            r#"p/w<\\\"é+ '1&="#,
            "p/w&lt;&#34;é+ &#39;1&amp;=",
            "p/w&lt;\"é+ '1&amp;=",
            "p/w&lt;&#34;é&#43; &#39;1&amp;=",
            "p/w&lt;&quot;é+ &#039;1&amp;=",
            "p/w%3C%22%C3%A9%2B%20%271%26%3D",
            "p%2Fw%3C%22%C3%A9%2B+%271%26%3D",
            "p%2fw%3c%22%c3%a9%2b%20%271%26%3d",
            "p%252Fw%253C%2522%25C3%25A9%252B%2520%25271%2526%253D",
            "p/w<\"=C3=A9+ '1&=3D",
            "&#112;&#47;&#119;&#60;&#34;&#195;&#169;&#43;&#32;&#39;&#49;&#38;&#61;",
            r"\u0070\u002f\u0077\u003c\u0022\u00c3\u00a9\u002b\u0020\u0027\u0031\u0026\u003d",
        ] {
            assert!(spellings.contains(one.as_bytes()), "{one}");
        }
        let long = all(&[b'x'; 4096]);
        assert!(long.len() < 64 && long.iter().map(Vec::len).max() == Some(8192), "{}", long.len());
    }
}
