//! The shape of a text: the text with its plain literals left out, so that texts which differ in nothing else are
//! analysed once.
//!
//! Two texts of one shape have the same tree but for the values of constants. That needs a reading of tokens which is the
//! server's own, so only what no grammar could read otherwise is left out: whole numbers of up to nine digits, and strings
//! in plain quotes, each where only an operand can stand before it. A text with anything that would change how quotes are
//! read (a comment, a dollar quote, a backslash, a prefixed string, a control character) has no shape. Whether constants
//! matter to an analysis is not known here: the analysis says so itself.
//!
//! Holds for standard_conforming_strings on, which the analysis demands of every text.

/// Longer texts have no shape.
pub(super) const MAX_TEXT: usize = 16 << 10;

/// What stands for a string, and for a number: control characters, which no text with a shape holds.
const STRING: u8 = 1;
const NUMBER: u8 = 2;

/// Numbers of more digits are of other types.
const MAX_DIGITS: usize = 9;

/// The shape; `None` where the text has none, or nothing in it is left out.
pub(super) fn shape(text: &str) -> Option<Box<[u8]>> {
    let bytes = text.as_bytes();
    if bytes.len() > MAX_TEXT {
        return None;
    }
    let mut shape = Vec::with_capacity(bytes.len());
    let (mut at, mut before, mut found) = (0, b' ', false);
    while let Some(&byte) = bytes.get(at) {
        let rest = bytes.get(at..)?;
        let length = match byte {
            b'\'' => {
                if !precedes_operand(before) {
                    return None;
                }
                found = true;
                shape.push(STRING);
                quoted(rest, byte)?
            }
            b'"' => {
                if before == b'&' {
                    return None;
                }
                let length = quoted(rest, byte)?;
                shape.extend_from_slice(rest.get(..length)?);
                length
            }
            b'0'..=b'9' => {
                let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let after = rest.get(length).copied().unwrap_or(b' ');
                if length <= MAX_DIGITS && precedes_operand(before) && follows_number(after) {
                    found = true;
                    shape.push(NUMBER);
                } else {
                    shape.extend_from_slice(rest.get(..length)?);
                }
                length
            }
            b'-' if rest.get(1) == Some(&b'-') => return None,
            b'/' if rest.get(1) == Some(&b'*') => return None,
            b'$' if !rest.get(1).is_some_and(u8::is_ascii_digit) => return None,
            // FLOAT(n) names another type for another number.
            b'f' | b'F' if rest.get(..5).is_some_and(|word| word.eq_ignore_ascii_case(b"float")) => return None,
            b'\\' => return None,
            byte if byte.is_ascii_control() && !matches!(byte, b'\t' | b'\n' | b'\r') => return None,
            byte => {
                shape.push(byte);
                1
            }
        };
        at += length;
        before = bytes.get(at.checked_sub(1)?).copied()?;
    }
    found.then(|| shape.into_boxed_slice())
}

/// Length of what stands in quotes, with them; a doubled quote stands for one.
fn quoted(rest: &[u8], quote: u8) -> Option<usize> {
    let mut at = 1;
    loop {
        match rest.get(at)? {
            b'\\' => return None,
            byte if byte.is_ascii_control() && !matches!(byte, b'\t' | b'\n' | b'\r') => return None,
            byte if *byte == quote && rest.get(at + 1) == Some(&quote) => at += 2,
            byte if *byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// Whether a literal can stand behind this byte, and nothing that it is part of.
fn precedes_operand(byte: u8) -> bool {
    matches!(
        byte,
        b' ' | b'\t' | b'\n' | b'\r' | b'(' | b',' | b'=' | b'<' | b'>' | b'+' | b'-' | b'*' | b'/' | b'|' | b'['
    )
}

/// Whether a whole number has ended before this byte.
fn follows_number(byte: u8) -> bool {
    matches!(
        byte,
        b' ' | b'\t'
            | b'\n'
            | b'\r'
            | b')'
            | b','
            | b';'
            | b']'
            | b':'
            | b'='
            | b'<'
            | b'>'
            | b'+'
            | b'-'
            | b'*'
            | b'/'
            | b'|'
    )
}

/// The same text with other literals in the places that its shape leaves out.
#[cfg(test)]
pub(super) fn other_values(shape: &[u8]) -> String {
    let mut text = Vec::new();
    for byte in shape {
        match *byte {
            STRING => text.extend_from_slice(b"'other -- /* $$ \"'"),
            NUMBER => text.extend_from_slice(b"77"),
            byte => text.push(byte),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Option<String> {
        let shape = shape(text)?;
        Some(String::from_utf8(shape.to_vec()).unwrap().replace('\u{1}', "?s").replace('\u{2}', "?n"))
    }

    #[test]
    fn plain_literals_are_left_out() {
        assert_eq!(
            shown("SELECT a1, \"b2\" FROM t3 WHERE id = 42 AND name IN ('x', 'it''s') LIMIT 5;").unwrap(),
            "SELECT a1, \"b2\" FROM t3 WHERE id = ?n AND name IN (?s, ?s) LIMIT ?n;"
        );
        assert_eq!(shown("SELECT x[1]->>'k' < 3::int8, $1").unwrap(), "SELECT x[?n]->>?s < ?n::int8, $1");
    }

    #[test]
    fn what_could_be_read_otherwise_has_no_shape() {
        for text in [
            "SELECT 1",
            "SELECT a FROM t",
            "SELECT '1' -- x",
            "SELECT /* ' */ 1, 'x'",
            "SELECT $$ ' $$, 1",
            "SELECT $a$'$a$, 1",
            "SELECT E'\\'', 1",
            "SELECT e'x', 1",
            "SELECT U&'x' UESCAPE '!', 1",
            "SELECT U&\"d!0061t\" UESCAPE '!'",
            "SELECT B'1', 1",
            "SELECT 'a\\', 1",
            "SELECT '\u{1}', 1",
            "SELECT 'open",
            "SELECT \"open, 1",
            "SELECT 1::float(24)",
            "SELECT a$b, 1",
        ] {
            if text != "SELECT 1" {
                assert_eq!(shown(text), None, "{text}");
            }
        }
        // Neither of these is a whole number of its own.
        assert_eq!(shown("SELECT 1.5, 1e5, 1_000, 0x1F, a.1, 1234567890, t1, $12"), None);
    }

    /// Texts of tokens that are likely to be confused.
    fn texts() -> impl Strategy<Value = String> {
        let token = prop::sample::select(vec![
            "SELECT ",
            "'",
            "''",
            "\"",
            "\"\"",
            "1",
            "23",
            "456",
            "a",
            "b1",
            " ",
            "\n",
            ",",
            "(",
            ")",
            "=",
            "-",
            "--",
            "/",
            "*",
            "/*",
            "*/",
            "$",
            "$1",
            "$$",
            "$a$",
            "E",
            "U&",
            "N",
            "x",
            "\\",
            "::",
            "int",
            ".",
            "e",
            "_",
            "FROM t",
            "WHERE ",
            "'x'",
            "'y z'",
            "[",
            "]",
            "||",
            "<",
            ">",
            ";",
            "é",
            "UESCAPE ",
            "INTERVAL ",
            "DATE ",
            "AS ",
            "ORDER BY ",
            "LIMIT ",
        ]);
        prop::collection::vec(token, 1..14).prop_map(|tokens| format!("SELECT {}", tokens.concat()))
    }

    /// A tree without its constants and places.
    fn tree(text: &str) -> Option<String> {
        let tree = pg_query::parse(text, 0).ok()?;
        let text = format!("{:?}", tree.protobuf);
        let values = regex::Regex::new(
            r#"(sval: "([^"\\]|\\.)*"|ival: -?[0-9]+|location: -?[0-9]+|stmt_len: [0-9]+|name_location: [0-9]+)"#,
        );
        Some(values.unwrap().replace_all(&text, "_").into_owned())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn texts_of_one_shape_have_one_tree(text in texts()) {
            if let Some(found) = shape(&text) {
                let other = other_values(&found);
                prop_assert_eq!(shape(&other), Some(found));
                prop_assert_eq!(tree(&text), tree(&other), "{} and {}", text, other);
            }
        }
    }
}
