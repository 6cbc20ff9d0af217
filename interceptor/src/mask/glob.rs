//! Globs over qualified column names: `[target:][[database.]schema.]table.column`.
//!
//! Comparison is exact and case-sensitive, as the catalog stores names. There are no character classes and no braces;
//! outside of quotes their signs are refused, so that nobody believes in them.

/// Bytes of one glob.
const MAX_GLOB: usize = 1024;

/// A place of the catalog, from the target down to the column.
#[derive(Clone, Copy, Debug)]
pub(super) struct ColumnName<'a> {
    pub(super) target: &'a str,
    pub(super) database: &'a str,
    pub(super) schema: &'a str,
    pub(super) table: &'a str,
    pub(super) column: &'a str,
}

/// A compiled glob. Parts that were left out match everything.
#[derive(Clone, Debug)]
pub(super) struct ColumnGlob {
    target: Part,
    database: Part,
    schema: Part,
    table: Part,
    column: Part,
}

impl ColumnGlob {
    pub(super) fn parse(text: &str) -> Result<Self, GlobError> {
        if text.len() > MAX_GLOB {
            return Err(GlobError::TooLong);
        }
        let mut target = Part::any();
        let mut parts: Vec<Part> = Vec::new();
        let mut rest = text.chars().peekable();
        loop {
            let (part, end) = Part::parse(&mut rest)?;
            match end {
                Some(':') if parts.is_empty() && target.is_any() => target = part,
                Some(':') => return Err(GlobError::Colon),
                Some(_) => parts.push(part),
                None => {
                    parts.push(part);
                    break;
                }
            }
        }
        let count = parts.len();
        let mut parts = parts.into_iter();
        if !(2..=4).contains(&count) {
            return Err(if count < 2 { GlobError::NoTable } else { GlobError::TooManyParts });
        }
        let database = if count == 4 { parts.next() } else { None };
        let schema = if count >= 3 { parts.next() } else { None };
        let (Some(table), Some(column)) = (parts.next(), parts.next()) else {
            return Err(GlobError::NoTable);
        };
        Ok(Self {
            target,
            database: database.unwrap_or_else(Part::any),
            schema: schema.unwrap_or_else(Part::any),
            table,
            column,
        })
    }

    pub(super) fn matches(&self, name: &ColumnName<'_>) -> bool {
        self.column.matches(name.column)
            && self.table.matches(name.table)
            && self.schema.matches(name.schema)
            && self.database.matches(name.database)
            && self.target.matches(name.target)
    }
}

/// One part: literal characters and wildcards.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part(Vec<Item>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Char(char),
    One,
    Many,
}

impl Part {
    fn any() -> Self {
        Self(vec![Item::Many])
    }

    fn is_any(&self) -> bool {
        self.0 == [Item::Many]
    }

    /// Reads up to a `.` or `:` outside of quotes, which is returned, or to the end.
    fn parse(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<(Self, Option<char>), GlobError> {
        let mut items = Vec::new();
        let quoted = rest.next_if_eq(&'"').is_some();
        if quoted {
            loop {
                match rest.next() {
                    Some('"') if rest.next_if_eq(&'"').is_some() => items.push(Item::Char('"')),
                    Some('"') => break,
                    Some(char) => items.push(Item::Char(char)),
                    None => return Err(GlobError::OpenQuote),
                }
            }
        }
        let end = loop {
            match rest.next() {
                None => break None,
                Some(end @ ('.' | ':')) => break Some(end),
                Some(char) if quoted => return Err(GlobError::Character(char)),
                // Two stars in a row match what one does.
                Some('*') if items.last() == Some(&Item::Many) => {}
                Some('*') => items.push(Item::Many),
                Some('?') => items.push(Item::One),
                Some(char) if char.is_control() || char.is_whitespace() || "\"[]{}\\,;".contains(char) => {
                    return Err(GlobError::Character(char));
                }
                Some(char) => items.push(Item::Char(char)),
            }
        };
        if items.is_empty() {
            return Err(GlobError::EmptyPart);
        }
        Ok((Self(items), end))
    }

    /// Wildcard matching without recursion: on a mismatch the latest star takes one character more.
    fn matches(&self, text: &str) -> bool {
        let mut items = self.0.as_slice();
        let mut chars = text.chars();
        let mut retry: Option<(&[Item], std::str::Chars<'_>)> = None;
        loop {
            let mut ahead = chars.clone();
            let step = match (items.split_first(), ahead.next()) {
                (Some((Item::Many, after)), _) => {
                    retry = Some((after, chars.clone()));
                    items = after;
                    continue;
                }
                (None, None) => return true,
                (Some((Item::One, after)), Some(_)) => Some(after),
                (Some((Item::Char(wanted), after)), Some(char)) if *wanted == char => Some(after),
                _ => None,
            };
            if let Some(after) = step {
                items = after;
                chars = ahead;
                continue;
            }
            let Some((after, mut from)) = retry.take() else { return false };
            if from.next().is_none() {
                return false;
            }
            items = after;
            chars = from.clone();
            retry = Some((after, from));
        }
    }
}

/// Why a column glob cannot be read. The operator's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// Longer than 1024 bytes.
    #[error("it is longer than {MAX_GLOB} bytes")]
    TooLong,
    /// One part only.
    #[error("it names no table: write `*.column` for a column of any table")]
    NoTable,
    /// Five parts or more.
    #[error("it has too many parts: `[target:][[database.]schema.]table.column`")]
    TooManyParts,
    /// A part without characters.
    #[error("a part is empty: `*` stands for any name")]
    EmptyPart,
    /// A quote that is not closed.
    #[error("a double quote is not closed")]
    OpenQuote,
    /// A colon elsewhere than after the target.
    #[error("a colon stands elsewhere than after the target: put a name that has one into double quotes")]
    Colon,
    /// A character that has no meaning here.
    #[error("{0:?} has no meaning here: put a name that has it into double quotes")]
    Character(char),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(glob: &str, place: [&str; 5]) -> bool {
        let [target, database, schema, table, column] = place;
        ColumnGlob::parse(glob).unwrap().matches(&ColumnName { target, database, schema, table, column })
    }

    const CARD: [&str; 5] = ["orders-db", "orders", "public", "customers", "card_no"];

    #[test]
    fn parts_left_out_match_everything() {
        for glob in [
            "orders-db:orders.public.customers.card_*",
            "orders-db:customers.card_no",
            "orders-*:*.*.*.*",
            "public.customers.card_no",
            "orders.public.customers.card_??",
            "*.card_no",
            "*.*",
            "\"customers\".\"card_no\"",
            "cust*s.c*d*o",
        ] {
            assert!(matches(glob, CARD), "{glob}");
        }
        for glob in [
            "orders:customers.card_no",
            "other.customers.card_no",
            "Customers.card_no",
            "customers.card",
            "customers.card_n",
            "customers.card_no?",
            "\"cust*\".card_no",
            "public.customers.*.card_no",
        ] {
            assert!(!matches(glob, CARD), "{glob}");
        }
    }

    #[test]
    fn quotes_carry_any_name() {
        assert!(matches("\"a.b\".\"say \"\"hi\"\": *\"", ["t", "d", "s", "a.b", "say \"hi\": *"]));
        assert!(!matches("\"a.b\".\"*\"", ["t", "d", "s", "a.b", "c"]));
        assert!(matches("\"t:1\":a.b", ["t:1", "d", "s", "a", "b"]));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (glob, error) in [
            ("ssn", GlobError::NoTable),
            ("t:ssn", GlobError::NoTable),
            ("a.b.c.d.e", GlobError::TooManyParts),
            ("a..b", GlobError::EmptyPart),
            ("", GlobError::EmptyPart),
            (".b", GlobError::EmptyPart),
            ("a.\"b", GlobError::OpenQuote),
            ("a.b:c", GlobError::Colon),
            ("x:y:a.b", GlobError::Colon),
            ("a.b c", GlobError::Character(' ')),
            ("a.[bc]", GlobError::Character('[')),
            ("a.\"b\"c", GlobError::Character('c')),
        ] {
            assert_eq!(ColumnGlob::parse(glob).unwrap_err(), error, "{glob}");
        }
        assert_eq!(ColumnGlob::parse(&"a".repeat(MAX_GLOB + 1)).unwrap_err(), GlobError::TooLong);
    }

    proptest! {
        #[test]
        fn a_quoted_name_matches_itself_alone(name in "\\PC{1,20}", other in "\\PC{1,20}") {
            let glob = format!("t.\"{}\"", name.replace('"', "\"\""));
            prop_assert!(matches(&glob, ["x", "d", "s", "t", &name]));
            prop_assert_eq!(matches(&glob, ["x", "d", "s", "t", &other]), name == other);
        }

        #[test]
        fn stars_agree_with_a_regular_expression(glob in "[ab*?]{1,8}", text in "[ab]{0,10}") {
            let regex = format!("^{}$", glob.replace('*', ".*").replace('?', "."));
            let expected = regex::Regex::new(&regex).unwrap().is_match(&text);
            prop_assert_eq!(matches(&format!("t.{glob}"), ["x", "d", "s", "t", &text]), expected);
        }
    }
}
