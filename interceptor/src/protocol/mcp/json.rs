//! Parts of JSON as they stand: numbers are compared by their digits, and not by what a reader makes of them.
//!
//! All that comes in was read as JSON before (`protocol::http::content`), in which no key stands twice. What was not gets
//! nothing, or nonsense, but no panic.

/// The deepest that values may stand in one another.
pub const DEPTH_LIMIT: usize = 64;

/// The members of an object, in their order: the key, decoded, and the value as it stands.
#[must_use]
pub fn members(object: &[u8]) -> Option<Vec<(String, &[u8])>> {
    let mut found = Vec::new();
    let mut rest = inside(object, b'{', b'}')?;
    while !rest.is_empty() {
        let (key, after) = value(rest)?;
        let (member, after) = value(after.trim_ascii_start().strip_prefix(b":")?)?;
        found.push((string(key)?, member));
        rest = next(after)?;
    }
    Some(found)
}

/// The elements of an array, in their order.
#[must_use]
pub fn elements(array: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    let mut rest = inside(array, b'[', b']')?;
    while !rest.is_empty() {
        let (element, after) = value(rest)?;
        found.push(element);
        rest = next(after)?;
    }
    Some(found)
}

/// A string, decoded.
#[must_use]
pub fn string(token: &[u8]) -> Option<String> {
    serde_json::from_slice(token).ok()
}

/// Writes a value in the one way that all spellings of it have: without spaces, keys in order, no escapes but those that have to
/// be. Left out is what `leaves_out` says of the keys that lead there.
pub fn canonical(
    token: &[u8],
    path: &mut Vec<String>,
    leaves_out: &dyn Fn(&[String]) -> bool,
    out: &mut Vec<u8>,
) -> Option<()> {
    let token = token.trim_ascii();
    if path.len() > DEPTH_LIMIT {
        return None;
    }
    match token.first()? {
        b'{' => {
            let mut members = members(token)?;
            members.sort();
            let mut separator = b'{';
            for (key, member) in members {
                path.push(key);
                if !leaves_out(path) {
                    out.push(separator);
                    separator = b',';
                    serde_json::to_writer(&mut *out, path.last()?).ok()?;
                    out.push(b':');
                    canonical(member, path, leaves_out, out)?;
                }
                path.pop();
            }
            if separator == b'{' {
                out.push(separator);
            }
            out.push(b'}');
        }
        b'[' => {
            let mut separator = b'[';
            for element in elements(token)? {
                out.push(separator);
                separator = b',';
                path.push(String::new());
                canonical(element, path, leaves_out, out)?;
                path.pop();
            }
            if separator == b'[' {
                out.push(separator);
            }
            out.push(b']');
        }
        b'"' => serde_json::to_writer(&mut *out, &string(token)?).ok()?,
        _ => out.extend_from_slice(token),
    }
    Some(())
}

fn inside(token: &[u8], opens: u8, closes: u8) -> Option<&[u8]> {
    Some(token.trim_ascii().strip_prefix(&[opens])?.strip_suffix(&[closes])?.trim_ascii())
}

/// What stands behind the comma that stands next, if anything does.
fn next(rest: &[u8]) -> Option<&[u8]> {
    let rest = rest.trim_ascii_start();
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b",").map(<[u8]>::trim_ascii_start) }
}

/// The value that stands first, and what stands behind it.
fn value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.trim_ascii_start();
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for (at, byte) in text.iter().enumerate() {
        if quoted {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => continue,
            }
            if !quoted && depth == 0 {
                return text.split_at_checked(at + 1);
            }
            continue;
        }
        match byte {
            b'"' => quoted = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 1 => return text.split_at_checked(at + 1),
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => return text.split_at_checked(at),
            _ => {}
        }
    }
    (depth == 0 && !quoted && !text.is_empty()).then_some((text, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let mut out = Vec::new();
        canonical(text.as_bytes(), &mut Vec::new(), &|path| path == ["id"], &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn parts_are_found_as_they_stand() {
        let object = br#" { "a" : 1.50 , "b\u0041" : [1, {"x":"]}"}, "\"" ] ,"c":{}} "#;
        let found = members(object).unwrap();
        let found: Vec<_> =
            found.iter().map(|(key, value)| (key.as_str(), std::str::from_utf8(value).unwrap())).collect();
        assert_eq!(found, [("a", "1.50"), ("bA", r#"[1, {"x":"]}"}, "\"" ]"#), ("c", "{}")]);
        assert_eq!(elements(br#"[1 ,"a\\", [] ]"#).unwrap(), [&b"1"[..], br#""a\\""#, b"[]"]);
        assert_eq!((elements(b"[]").unwrap().len(), members(b"{ }").unwrap().len()), (0, 0));
        for wrong in ["", "{", "[1", "{1:2}", "{\"a\"}", "[1 2]", "\"", "]", "[}]"] {
            let bytes = wrong.as_bytes();
            assert!(members(bytes).is_none() && elements(bytes).is_none_or(|found| found == [b"}"]), "{wrong}");
        }
    }

    #[test]
    fn spellings_of_one_value_are_one_and_other_values_are_others() {
        let one = shown(r#"{"id": 7, "b": {"y": [1, null], "x": "\u0061\/"}, "a": {}, "c": []}"#);
        assert_eq!(one, r#"{"a":{},"b":{"x":"a/","y":[1,null]},"c":[]}"#);
        assert_eq!(one, shown(r#"{"c":[],"a":{},"b":{"x":"a/","y":[1,null]},"id":"8"}"#));
        // Readers that know no such numbers would take these for one.
        assert_ne!(shown("{\"n\":123456789012345678901}"), shown("{\"n\":123456789012345678902}"));
        assert_ne!(shown("{\"n\":1}"), shown("{\"n\":\"1\"}"));
        // Only what was meant is left out.
        assert_ne!(shown(r#"{"a":{"id":1}}"#), shown(r#"{"a":{"id":2}}"#));
        assert_ne!(shown(r#"[{"id":1}]"#), shown(r#"[{"id":2}]"#));
    }
}
