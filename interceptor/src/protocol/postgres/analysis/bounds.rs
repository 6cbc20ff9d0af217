//! What may be given to the parser at all. The parser recurses over the tree that it makes, so a hostile text could
//! exhaust its stack: how deep a tree can become is bounded here first, from the server's own tokens, without recursion.
//!
//! An estimate from above, not the true depth: an honest text that is refused is opaque, never waved through.

use pg_query::protobuf::{KeywordKind, Token};

/// Bytes of a text, at most.
pub const MAX_TEXT: usize = 1 << 20;

/// Depth of the tree, as estimated, at most. A test parses that deep on a stack of half a mebibyte.
pub const MAX_DEPTH: usize = 400;

/// Why a text is not parsed.
pub(super) fn check(text: &str) -> Result<(), &'static str> {
    if text.len() > MAX_TEXT {
        return Err("the text is longer than is analysed");
    }
    if text.contains('\0') {
        return Err("the text holds a zero byte");
    }
    // Each level takes a byte at least.
    if text.len() <= MAX_DEPTH {
        return Ok(());
    }
    let tokens = pg_query::scan(text).map_err(|_| "the text has no tokens of SQL")?.tokens;
    let mut depth = Depth { open: vec![Bracket::default()], total: 0 };
    for token in tokens {
        depth.take(token.token, token.keyword_kind);
        if depth.total > MAX_DEPTH {
            return Err("the text nests deeper than is analysed");
        }
    }
    Ok(())
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
                Token::Ident | Token::Uident | Token::Sconst | Token::Usconst | Token::Iconst | Token::Fconst
                | Token::Bconst | Token::Xconst | Token::Param | Token::Ascii46 | Token::SqlComment | Token::CComment,
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
    use super::{MAX_DEPTH, check};

    #[test]
    fn a_wide_text_is_not_deep() {
        let rows = vec!["(1, 'a', now(), 2 + 3)"; 2000].join(", ");
        assert_eq!(check(&format!("INSERT INTO t VALUES {rows}")), Ok(()));
        let terms = vec!["(a = 1)"; 2000].join(" OR ");
        assert_eq!(check(&format!("SELECT 1 FROM t WHERE {terms}")), Ok(()));
        assert_eq!(check(&format!("SELECT '{}'", "(".repeat(5000))), Ok(()));
    }

    #[test]
    fn every_way_to_nest_counts() {
        for text in [
            "(", "[", "1+", "NOT ", "- ", "a::", "SELECT 1, 2 UNION ", "CASE WHEN a, ", "a COLLATE x ", "a AT TIME ZONE ",
            "a JOIN b ON c, ", "x[1]", "f(1)", "E'\\'' (", "$a$ ) $a$ (", "/* ) */(", "U&\"\" (", "a IS NULL ",
        ] {
            assert!(check(&text.repeat(MAX_TEXT_OF_TEST / text.len())).is_err(), "{text}");
        }
    }

    #[test]
    fn the_parser_holds_what_is_let_through() {
        let depth = MAX_DEPTH - 20;
        for (open, middle, close) in
            [("(", "1", ")"), ("1+", "1", ""), ("NOT ", "true", ""), ("(SELECT ", "1", ")"), ("CASE WHEN true THEN ", "1", " END")]
        {
            let text = format!("SELECT {}{middle}{}", open.repeat(depth), close.repeat(depth));
            let run = move || drop(pg_query::parse(&text, 0));
            std::thread::Builder::new().stack_size(512 << 10).spawn(run).unwrap().join().unwrap();
        }
    }

    const MAX_TEXT_OF_TEST: usize = 100_000;
}
