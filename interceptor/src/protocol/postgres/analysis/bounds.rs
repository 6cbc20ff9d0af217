//! What may be given to the parser at all. The parser recurses over the tree that it makes, so a hostile text could
//! exhaust its stack: how deep a tree can become is bounded here first, from the server's own tokens, without recursion.
//!
//! An estimate from above, not the true depth: an honest text that is refused is opaque, never waved through.

use std::panic::catch_unwind;
use std::sync::Arc;

use pg_query::protobuf::{KeywordKind, ParseResult, Token};

/// Bytes of a text, at most.
pub const MAX_TEXT: usize = 1 << 20;

/// Words and signs of a text, at most, commas aside: what the parser makes of each takes about a kilobyte for a while. The
/// most parameters that a statement can have are fewer, each with a cast and in brackets of its own (`($1::int)`).
pub const MAX_TOKENS: usize = 7 << 16;

/// Bytes of a text from which on it is parsed by a thread of its own ([`Parsed`]).
pub const LONG_TEXT: usize = 16 << 10;

/// Bytes that one analysis may parse beside its own text: definitions of views, statements of PREPARE.
pub(super) const MAX_BESIDE: usize = 256 << 10;

/// Depth of the tree, as estimated, at most.
pub const MAX_DEPTH: usize = 150;

/// Depth up to which the caller's stack is trusted with the parser. A test parses that deep on three quarters of what
/// a worker thread has.
const MAX_SHALLOW: usize = 24;

/// Stack of the thread that parses deeper texts. A test parses [`MAX_DEPTH`] on it.
const DEEP_STACK: usize = 8 << 20;

/// A text that was parsed ahead of its analysis.
pub struct Parsed {
    text: Arc<str>,
    tree: Result<ParseResult, String>,
}

impl Parsed {
    /// Parses it here: a long text takes hundreds of milliseconds.
    #[must_use]
    pub fn new(text: Arc<str>) -> Self {
        Self { tree: parse(&text), text }
    }

    /// It could not be parsed, and why: its analysis is opaque.
    #[must_use]
    pub fn failed(text: Arc<str>, why: &str) -> Self {
        Self { text, tree: Err(why.to_owned()) }
    }

    /// The text.
    #[must_use]
    pub const fn text(&self) -> &Arc<str> {
        &self.text
    }

    pub(super) const fn tree(&self) -> &Result<ParseResult, String> {
        &self.tree
    }
}

impl std::fmt::Debug for Parsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parsed").field("bytes", &self.text.len()).finish_non_exhaustive()
    }
}

/// Parses a text that can be parsed within bounds.
///
/// # Errors
/// Why it is not parsed, or does not parse.
pub(super) fn parse(text: &str) -> Result<ParseResult, String> {
    if check(text)? <= MAX_SHALLOW {
        return parse_here(text);
    }
    let owned = text.to_owned();
    let thread = std::thread::Builder::new().name("sql-parser".to_owned()).stack_size(DEEP_STACK);
    match thread.spawn(move || parse_here(&owned)).map(std::thread::JoinHandle::join) {
        Ok(Ok(result)) => result,
        _ => Err("no thread could parse the text".to_owned()),
    }
}

fn parse_here(text: &str) -> Result<ParseResult, String> {
    // The parser's wrapper slices what it was given: should it ever panic, nothing is known of the text.
    match catch_unwind(|| pg_query::parse(text, 0)) {
        Ok(Ok(parsed)) => Ok(parsed.protobuf),
        Ok(Err(error)) => Err(format!("the text does not parse: {error}").chars().take(MAX_MESSAGE).collect()),
        Err(_) => Err("the text cannot be parsed".to_owned()),
    }
}

/// Characters of the parser's message that are kept.
const MAX_MESSAGE: usize = 300;

/// How deep the tree of a text can be, or why the text is not parsed.
fn check(text: &str) -> Result<usize, &'static str> {
    if text.len() > MAX_TEXT {
        return Err("the text is longer than is analysed");
    }
    if text.contains('\0') {
        return Err("the text holds a zero byte");
    }
    let tokens = tokens_at_most(text);
    if tokens > MAX_TOKENS {
        return Err("the text has more words than are analysed");
    }
    if tokens <= MAX_SHALLOW {
        return Ok(tokens);
    }
    let tokens = pg_query::scan(text).map_err(|_| "the text has no tokens of SQL")?.tokens;
    let mut depth = Depth { open: vec![Bracket::default()], total: 0 };
    let mut deepest = 0;
    for token in tokens {
        depth.take(token.token, token.keyword_kind);
        deepest = deepest.max(depth.total);
        if deepest > MAX_DEPTH {
            return Err("the text nests deeper than is analysed");
        }
    }
    Ok(deepest)
}

/// A bound that is cheap: no level takes less than a symbol or a word.
fn tokens_at_most(text: &str) -> usize {
    let mut tokens = 0;
    let mut in_word = false;
    for byte in text.bytes() {
        let word = byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
        tokens += usize::from(if word { !in_word } else { !byte.is_ascii_whitespace() && byte != b',' });
        in_word = word;
    }
    tokens
}

/// For every open bracket one level, and in each bracket a level for whatever could nest since the last separator.
struct Depth {
    open: Vec<Bracket>,
    total: usize,
}

#[derive(Default)]
struct Bracket {
    /// Nests on over commas: set operations, joins, CASE.
    lasting: usize,
    /// Ends at a comma: operators, and every keyword that is not known to be flat.
    passing: usize,
}

impl Depth {
    fn take(&mut self, token: i32, keyword: i32) {
        match Token::try_from(token) {
            Ok(Token::Ascii40 | Token::Ascii91) => {
                self.open.push(Bracket::default());
                self.total += 1;
            }
            Ok(Token::Ascii41 | Token::Ascii93) => self.close(),
            // Lists, and what the grammar keeps as a list.
            Ok(Token::Ascii44 | Token::And | Token::Or | Token::When) => self.separate(),
            Ok(Token::Ascii59) if self.open.len() == 1 => *self = Self { open: vec![Bracket::default()], total: 0 },
            Ok(Token::Union | Token::Intersect | Token::Except | Token::Join | Token::Case) => self.add(true),
            Ok(
                Token::Ident
                | Token::Uident
                | Token::Sconst
                | Token::Usconst
                | Token::Iconst
                | Token::Fconst
                | Token::Bconst
                | Token::Xconst
                | Token::Param
                | Token::Ascii46
                | Token::SqlComment
                | Token::CComment,
            ) => {}
            // A word that can be a name does not nest.
            _ if KeywordKind::try_from(keyword) == Ok(KeywordKind::UnreservedKeyword)
                && Token::try_from(token) != Ok(Token::At) => {}
            _ => self.add(false),
        }
    }

    fn add(&mut self, lasting: bool) {
        if let Some(bracket) = self.open.last_mut() {
            *(if lasting { &mut bracket.lasting } else { &mut bracket.passing }) += 1;
            self.total += 1;
        }
    }

    fn separate(&mut self) {
        if let Some(bracket) = self.open.last_mut() {
            self.total = self.total.saturating_sub(bracket.passing);
            bracket.passing = 0;
        }
    }

    fn close(&mut self) {
        if self.open.len() < 2 {
            return;
        }
        if let Some(bracket) = self.open.pop() {
            self.total = self.total.saturating_sub(bracket.lasting + bracket.passing + 1);
        }
        // What stood in the bracket is an operand now; a chain of brackets nests, too.
        self.add(false);
    }
}

#[cfg(test)]
mod tests {
    use super::{DEEP_STACK, MAX_DEPTH, MAX_SHALLOW, MAX_TOKENS, check};

    #[test]
    fn a_wide_text_is_not_deep() {
        let rows = vec!["(1, 'a', now(), 2 + 3)"; 2000].join(", ");
        assert!(check(&format!("INSERT INTO t VALUES {rows}")).unwrap() < 20);
        let terms = vec!["(a = 1)"; 2000].join(" OR ");
        assert!(check(&format!("SELECT 1 FROM t WHERE {terms}")).unwrap() < 20);
        assert!(check(&format!("SELECT '{}'", "(".repeat(5000))).unwrap() < 20);
    }

    #[test]
    fn a_statement_with_all_its_parameters_is_analysed() {
        let rows = (1..=u16::MAX).map(|number| format!("(${number}::int)")).collect::<Vec<_>>().join(",");
        assert!(check(&format!("INSERT INTO t VALUES {rows}")).is_ok());
        assert!(check(&format!("INSERT INTO t VALUES {}", vec!["((1))"; MAX_TOKENS / 5].join(","))).is_err());
    }

    #[test]
    fn every_way_to_nest_counts() {
        for text in [
            "(",
            "[",
            "1+",
            "NOT ",
            "- ",
            "a::",
            "SELECT 1, 2 UNION ",
            "CASE WHEN a, ",
            "a COLLATE x ",
            "a AT TIME ZONE ",
            "a JOIN b ON c, ",
            "x[1]",
            "f(1)",
            "E'\\'' (",
            "$a$ ) $a$ (",
            "/* ) */(",
            "U&\"\" (",
            "a IS NULL ",
        ] {
            assert!(check(&text.repeat(MAX_TEXT_OF_TEST / text.len())).is_err(), "{text}");
        }
    }

    #[test]
    fn the_parser_holds_what_is_let_through() {
        for (open, middle, close) in [
            ("(", "1", ")"),
            ("1+", "1", ""),
            ("NOT ", "true", ""),
            ("(SELECT ", "1", ")"),
            ("CASE WHEN true THEN ", "1", " END"),
        ] {
            let text = |depth: usize| format!("SELECT {}{middle}{}", open.repeat(depth), close.repeat(depth));
            for (limit, stack) in [(MAX_SHALLOW, MOST_OF_A_WORKER), (MAX_DEPTH, DEEP_STACK)] {
                let fits = |depth: &usize| check(&text(*depth)).is_ok_and(|depth| depth <= limit);
                let text = text((1..=MAX_DEPTH).rev().find(fits).unwrap());
                let run = move || drop(pg_query::parse(&text, 0));
                std::thread::Builder::new().stack_size(stack).spawn(run).unwrap().join().unwrap();
            }
        }
    }

    const MOST_OF_A_WORKER: usize = 3 << 19;
    const MAX_TEXT_OF_TEST: usize = 100_000;
}
