//! What may be given to the parser at all. The parser recurses over the tree that it makes, so a hostile text could
//! exhaust its stack: how deep a tree can become is bounded here first, from the text alone, without recursion.
//!
//! An estimate from above, not the true depth: an honest text that is refused is opaque, never waved through.

/// Bytes of a text, at most.
pub const MAX_TEXT: usize = 1 << 20;

/// Depth of the tree, as estimated, at most. The parser's stack is measured to hold many times that.
pub const MAX_DEPTH: usize = 1000;

/// Why a text is not parsed.
pub(super) fn check(text: &str) -> Result<(), &'static str> {
    if text.len() > MAX_TEXT {
        return Err("the text is longer than is analysed");
    }
    if text.contains('\0') {
        return Err("the text holds a zero byte");
    }
    if depth(text) > MAX_DEPTH { Err("the text nests deeper than is analysed") } else { Ok(()) }
}

/// An upper bound of the depth of the tree: for every open bracket one, and in each bracket what could nest since the
/// last comma (operators, keywords), except that set operations and joins go on over commas.
///
/// Words and symbols inside of literals, quoted names and comments are counted as well: that only adds.
/// Closing brackets there could subtract, so brackets in them are told apart as the server's lexer would; where the two
/// could differ (dollar quotes), the text is read as if it were not quoted, and a closing bracket never removes more
/// than what its own opening added.
fn depth(text: &str) -> usize {
    let mut open: Vec<(usize, usize)> = vec![(0, 0)];
    let mut total = 0_usize;
    let mut deepest = 0_usize;
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\'' | b'"' => {
                let mut last = byte;
                for next in bytes.by_ref() {
                    last = next;
                    if next == byte {
                        break;
                    }
                }
                // An unfinished literal has no further structure.
                if last != byte {
                    break;
                }
            }
            b'-' if bytes.peek() == Some(&b'-') => {
                for next in bytes.by_ref() {
                    if next == b'\n' {
                        break;
                    }
                }
            }
            b'(' | b'[' => {
                open.push((0, 0));
                total += 1;
            }
            b')' | b']' => {
                if open.len() > 1
                    && let Some((lasting, passing)) = open.pop()
                {
                    total = total.saturating_sub(lasting + passing + 1);
                    // What stood in the bracket was one operand; a chain of brackets still nests.
                    if let Some((_, passing)) = open.last_mut() {
                        *passing += 1;
                        total += 1;
                    }
                }
            }
            b',' => {
                if let Some((_, passing)) = open.last_mut() {
                    total = total.saturating_sub(*passing);
                    *passing = 0;
                }
            }
            b';' if open.len() == 1 => {
                total = 0;
                open = vec![(0, 0)];
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => {
                let mut word = vec![byte.to_ascii_lowercase()];
                while let Some(next) = bytes.next_if(|next| next.is_ascii_alphanumeric() || *next == b'_' || *next > 0x7f)
                {
                    if word.len() < 16 {
                        word.push(next.to_ascii_lowercase());
                    }
                }
                match word.as_slice() {
                    b"union" | b"intersect" | b"except" | b"join" | b"case" => {
                        if let Some((lasting, _)) = open.last_mut() {
                            *lasting += 1;
                            total += 1;
                        }
                    }
                    // These are kept flat in the tree, with what stands between them side by side.
                    b"and" | b"or" | b"when" => {
                        if let Some((_, passing)) = open.last_mut() {
                            total = total.saturating_sub(*passing);
                            *passing = 0;
                        }
                    }
                    b"not" | b"collate" | b"at" | b"is" | b"isnull" | b"notnull" | b"operator" | b"like" | b"ilike"
                    | b"similar" | b"in" | b"between" | b"overlaps" => {
                        if let Some((_, passing)) = open.last_mut() {
                            *passing += 1;
                            total += 1;
                        }
                    }
                    _ => {}
                }
            }
            b'+' | b'-' | b'*' | b'/' | b'<' | b'>' | b'=' | b'~' | b'!' | b'@' | b'#' | b'%' | b'^' | b'&' | b'|'
            | b'`' | b'?' | b':' => {
                if let Some((_, passing)) = open.last_mut() {
                    *passing += 1;
                    total += 1;
                }
            }
            _ => {}
        }
        deepest = deepest.max(total);
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::{check, depth};

    #[test]
    fn a_wide_text_is_not_deep() {
        let rows = vec!["(1, 'a', now(), 2 + 3)"; 2000].join(", ");
        assert!(depth(&format!("INSERT INTO t VALUES {rows}")) < 20);
        assert!(depth(&vec!["a = 1"; 2000].join(" OR ")) < 20);
    }

    #[test]
    fn every_way_to_nest_counts() {
        for text in [
            "(".repeat(5000),
            "[".repeat(5000),
            "1+".repeat(5000),
            "NOT ".repeat(5000),
            "- ".repeat(5000),
            "a::".repeat(5000),
            "SELECT 1, 2 UNION ".repeat(5000),
            "CASE WHEN a, ".repeat(5000),
            "a COLLATE x ".repeat(5000),
            "a JOIN b ON c, ".repeat(5000),
            "x[1]".repeat(5000),
            "f(1)".repeat(5000),
        ] {
            assert!(check(&text).is_err(), "{}", text.get(..30).unwrap());
        }
    }
}
