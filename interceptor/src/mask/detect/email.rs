//! E-mail addresses: `local@label.label`, with a last label of letters. Quoted local parts and address literals are
//! not looked for; nobody's address has them.

use super::{Detector, Hits, before, byte};

const MAX_LOCAL: usize = 64;
const MAX_DOMAIN: usize = 255;

pub(super) fn find(text: &[u8], hits: &mut Hits) {
    let mut from = 0;
    while let Some(at) = text.get(from..).and_then(|rest| rest.iter().position(|byte| *byte == b'@')) {
        let at = from + at;
        let (Some(start), Some(end)) = (local(text, at), domain(text, at + 1)) else {
            from = at + 1;
            continue;
        };
        hits.push(Detector::Email, start, end);
        from = end;
    }
}

/// Start of the local part that ends before `at`.
fn local(text: &[u8], at: usize) -> Option<usize> {
    let mut start = at;
    while at - start < MAX_LOCAL {
        match before(text, start) {
            byte if byte.is_ascii_alphanumeric() || byte >= 0x80 || b"._%+-".contains(&byte) => start -= 1,
            // o'brien@, but not 'brien@: quotes belong to the text around.
            b'\'' | b'&' | b'#' | b'~' | b'!' if start >= 2 && before(text, start - 1).is_ascii_alphanumeric() => {
                start -= 1
            }
            _ => break,
        }
    }
    while start < at && matches!(byte(text, start), b'.' | b'-' | b'%') {
        start += 1;
    }
    (start < at).then_some(start)
}

/// End of the domain that starts at `start`.
fn domain(text: &[u8], start: usize) -> Option<usize> {
    let mut label = start;
    let mut first = 0;
    let mut end = None;
    while label - start < MAX_DOMAIN {
        let stop = super::run(text, label, |byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte >= 0x80);
        let name = text.get(label..stop).unwrap_or_default();
        let trimmed = name.strip_suffix(b"-").unwrap_or(name);
        if trimmed.is_empty() || name.first() == Some(&b'-') {
            break;
        }
        if label == start {
            first = label;
        } else if let Some(top) = top(trimmed) {
            end = Some(label + top);
        }
        if byte(text, stop) != b'.' || trimmed.len() != name.len() {
            break;
        }
        label = stop + 1;
    }
    // icon@2x.png is a file.
    let scaled = byte(text, first).is_ascii_digit() && byte(text, first + 1) == b'x' && byte(text, first + 2) == b'.';
    end.filter(|_| !scaled)
}

/// Length of what can be the last label: all of it, or what stands before a dash, which may lead to the next address.
fn top(label: &[u8]) -> Option<usize> {
    if is_top(label) {
        return Some(label.len());
    }
    let dash = label.iter().position(|byte| *byte == b'-')?;
    label.get(..dash).is_some_and(is_top).then_some(dash)
}

/// Whether a label can be the last one.
fn is_top(label: &[u8]) -> bool {
    let letters = label.iter().all(|byte| byte.is_ascii_alphabetic() || *byte >= 0x80);
    label.len() >= 2 && (letters || label.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"xn--")))
}
