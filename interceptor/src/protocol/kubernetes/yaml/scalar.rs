//! Scalars of YAML that every reader reads alike.

use granit_parser::ScalarStyle;
use serde_json::{Number, Value};

/// Words that some reader takes for something else than text, in small letters.
const RESERVED: &[&str] = &[
    "y",
    "n",
    "yes",
    "no",
    "on",
    "off",
    "true",
    "false",
    "null",
    "~",
    "nan",
    ".nan",
    "inf",
    ".inf",
    "-.inf",
    "+.inf",
    "-inf",
    "+inf",
    "infinity",
    "-infinity",
    "+infinity",
    "=",
    "<<",
];

/// How long the scalar at the beginning of `rest` is in the text, which has to have the value that the parser found.
///
/// # Errors
/// It is written in a way that not all readers read alike.
pub(super) fn length(rest: &str, value: &str, style: ScalarStyle) -> Result<usize, &'static str> {
    match style {
        ScalarStyle::Plain if rest.starts_with(value) && !value.contains('\n') => Ok(value.len()),
        ScalarStyle::SingleQuoted => {
            let length = single(rest).ok_or("a text in quotes has more than one line")?;
            let inner = rest.get(1..length.saturating_sub(1)).unwrap_or_default().replace("''", "'");
            if inner == value { Ok(length) } else { Err("a text in quotes is another than it seems") }
        }
        ScalarStyle::DoubleQuoted => {
            let length = double(rest).ok_or("a text in quotes has more than one line")?;
            let inner: Option<String> = rest.get(..length).and_then(|text| serde_json::from_str(text).ok());
            // Beyond the escapes of JSON, readers differ.
            if inner.as_deref() == Some(value) { Ok(length) } else { Err("a text in quotes has escapes of its own") }
        }
        ScalarStyle::Literal => literal(rest, value),
        ScalarStyle::Plain => Err("a text without quotes has more than one line"),
        ScalarStyle::Folded => Err("a text is folded (`>`)"),
    }
}

fn single(rest: &str) -> Option<usize> {
    let mut bytes = rest.bytes().enumerate().skip(1).peekable();
    while let Some((place, byte)) = bytes.next() {
        match byte {
            b'\n' => return None,
            b'\'' if bytes.next_if(|(_, next)| *next == b'\'').is_none() => return Some(place + 1),
            _ => {}
        }
    }
    None
}

fn double(rest: &str) -> Option<usize> {
    let mut bytes = rest.bytes().enumerate().skip(1);
    while let Some((place, byte)) = bytes.next() {
        match byte {
            b'\n' => return None,
            b'\\' => drop(bytes.next()),
            b'"' => return Some(place + 1),
            _ => {}
        }
    }
    None
}

/// Lines behind `|`, `|-` or `|+`: the first has a character that is no blank, and each line of blanks has none.
fn literal(rest: &str, value: &str) -> Result<usize, &'static str> {
    const ODD: &str = "a text behind `|` is written in a way of its own";
    let (header, mut lines) = rest.split_once('\n').ok_or(ODD)?;
    let mut length = header.len() + 1;
    let first = lines.split('\n').next().unwrap_or_default();
    let indent = first.len() - first.trim_start_matches(' ').len();
    if indent == 0 || indent == first.len() {
        return Err(ODD);
    }
    let mut found = String::new();
    while !lines.is_empty() {
        let (line, behind) = lines.split_once('\n').unwrap_or((lines, ""));
        let blank = line.trim_start_matches(' ').is_empty();
        match line.get(indent..) {
            _ if blank && line.is_empty() => {}
            Some(content)
                if !blank && line.get(..indent).is_some_and(|margin| margin.bytes().all(|byte| byte == b' ')) =>
            {
                found.push_str(content);
            }
            _ if blank => return Err(ODD),
            _ => break,
        }
        if line.len() == lines.len() {
            return Err("a text behind `|` does not end its last line");
        }
        found.push('\n');
        length += line.len() + 1;
        lines = behind;
    }
    let ends = found.trim_end_matches('\n').len();
    match header {
        "|" => found.truncate(ends + 1),
        "|-" => found.truncate(ends),
        "|+" => {}
        _ => return Err(ODD),
    }
    if found == value { Ok(length) } else { Err(ODD) }
}

/// What a scalar without quotes is, where all readers agree.
///
/// # Errors
/// They do not, or may not.
pub(super) fn plain(text: &str, flow: bool) -> Result<Value, &'static str> {
    match text {
        "true" => return Ok(Value::Bool(true)),
        "false" => return Ok(Value::Bool(false)),
        "null" | "~" => return Ok(Value::Null),
        _ => {}
    }
    if let Some(number) = number(text) {
        return Ok(Value::Number(number));
    }
    let lower = text.to_lowercase();
    if RESERVED.contains(&lower.as_str()) || (is_like_a_number(&lower) && !is_dotted(text)) {
        return Err("a word without quotes is text for one reader, and something else for another");
    }
    let mut chars = text.chars();
    let first = chars.next().unwrap_or(' ');
    let begins = match first {
        '-' => chars.next().is_some_and(|next| next.is_ascii_alphanumeric() || matches!(next, '-' | '/' | '.' | '_')),
        _ => first.is_alphanumeric() || "/._$(+".contains(first),
    };
    let ambiguous = flow && text.contains([':', '?', '[', ']', '{', '}', ',']);
    if !begins || ambiguous || text.ends_with([':', ' ']) || text.contains(": ") || text.contains(" #") {
        return Err("a text without quotes has characters that mean something");
    }
    Ok(Value::String(text.to_owned()))
}

/// A number as JSON has it, of no more digits than every reader keeps: no exponent, and no fraction that is none.
fn number(text: &str) -> Option<Number> {
    const DIGITS: usize = 15;
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_whole = |part: &str| is_digits(part) && (part == "0" || !part.starts_with('0'));
    if unsigned.len() > DIGITS || text == "-0" {
        return None;
    }
    match unsigned.split_once('.') {
        None if is_whole(unsigned) => text.parse::<i64>().ok().map(Number::from),
        Some((whole, fraction)) if is_whole(whole) && is_digits(fraction) && !fraction.ends_with('0') => {
            text.parse::<f64>().ok().and_then(Number::from_f64)
        }
        _ => None,
    }
}

/// What some reader may take for a number, a time of the day, or a date: of small letters.
fn is_like_a_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let other_base = ["0x", "0o", "0b"].iter().any(|prefix| unsigned.starts_with(prefix));
    let of_digits = unsigned.bytes().all(|byte| byte.is_ascii_digit() || b"_.e+-:".contains(&byte));
    let date: Vec<u8> = unsigned.bytes().take(5).collect();
    let is_date =
        matches!(date.as_slice(), [year @ .., b'-'] if year.len() == 4 && year.iter().all(u8::is_ascii_digit));
    let has_digit = unsigned.bytes().any(|byte| byte.is_ascii_digit());
    other_base || is_date || (of_digits && (has_digit || unsigned.is_empty()))
}

/// An address, or a version: digits and at least two dots.
fn is_dotted(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    parts.len() > 2 && parts.iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}
