//! JSON whose secrets are blotted out in place. Whatever is no JSON is left, to the end of its line.

use super::BLOT;

/// What a name says of the value that stands under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hides {
    /// Nothing.
    Nothing,
    /// It is hidden where it is a text, a number, or a list of those.
    Value,
    /// It is hidden, with all that stands below it.
    All,
}

impl Hides {
    /// What it says of what has names of its own below: only whole subtrees are hidden with all that they have.
    #[must_use]
    pub const fn below(self) -> Self {
        match self {
            Self::All => Self::All,
            Self::Nothing | Self::Value => Self::Nothing,
        }
    }
}

/// Names of what says in words what the value beside it is of: variables of environments are written so, tags, parameters, credentials.
const NAMES: &[&str] =
    &["attribute", "field", "key", "name", "parameterkey", "parametername", "property", "type", "variable"];
/// Names of such values.
const VALUES: &[&str] = &["parametervalue", "stringvalue", "value", "values"];

/// Whether what stands under that name may say what the value beside it is of.
#[must_use]
pub fn is_name(name: &str) -> bool {
    NAMES.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether that is the name of such a value.
#[must_use]
pub fn is_value(name: &str) -> bool {
    VALUES.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// What some write before a text.
pub(super) const BOM: &[u8] = b"\xef\xbb\xbf";
/// What may stand before each of several documents (RFC 7464).
pub(super) const SEPARATOR: u8 = 0x1e;
/// The deepest that is looked into.
const DEPTH_LIMIT: usize = 128;

/// Blots out every text and number under a key that is to be hidden, and what stands as a value beside a name that would be.
pub fn blot(text: &mut [u8], hides: &dyn Fn(&str) -> Hides) {
    let at = if text.starts_with(BOM) { BOM.len() } else { 0 };
    let mut blotter = Blotter { text, at, hides, again: false };
    // One document may stand behind another. What is none ends with its line.
    while blotter.at < blotter.text.len() {
        if blotter.value(Hides::Nothing, 0).is_none() {
            let rest = blotter.text.get(blotter.at..).unwrap_or_default();
            blotter.at += memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        }
    }
}

struct Blotter<'a> {
    text: &'a mut [u8],
    at: usize,
    hides: &'a dyn Fn(&str) -> Hides,
    /// What is looked at was looked at before.
    again: bool,
}

impl Blotter<'_> {
    fn next(&mut self) -> Option<u8> {
        while self.text.get(self.at).is_some_and(|byte| byte.is_ascii_whitespace() || *byte == SEPARATOR) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn value(&mut self, hidden: Hides, depth: usize) -> Option<()> {
        if depth > DEPTH_LIMIT {
            return None;
        }
        match self.next()? {
            b'{' => self.members(hidden, depth),
            b'[' => self.elements(hidden, depth),
            b'"' => {
                let (from, to) = self.string()?;
                if hidden > Hides::Nothing {
                    self.text.get_mut(from..to)?.fill(BLOT);
                }
                Some(())
            }
            _ => self.word(hidden),
        }
    }

    fn members(&mut self, hidden: Hides, depth: usize) -> Option<()> {
        self.at += 1;
        let mut pair = Pair::default();
        let done = self.each_member(hidden.below(), depth, &mut pair);
        if pair.is_secret && !self.again {
            self.blot_again(&pair.values, depth);
        }
        done
    }

    /// Blots out values of which it was found out only behind them.
    fn blot_again(&mut self, values: &[usize], depth: usize) {
        let at = self.at;
        self.again = true;
        for value in values {
            self.at = *value;
            // What has names of its own is told by these.
            if self.next() != Some(b'{') {
                self.value(Hides::Value, depth + 1);
            }
        }
        (self.again, self.at) = (false, at);
    }

    fn each_member(&mut self, below: Hides, depth: usize, pair: &mut Pair) -> Option<()> {
        loop {
            match self.next()? {
                b'}' => {
                    self.at += 1;
                    return Some(());
                }
                b',' => self.at += 1,
                b'"' => {
                    let name = self.text_of_string()?;
                    (self.next()? == b':').then_some(())?;
                    self.at += 1;
                    let hidden = below.max((self.hides)(&name));
                    self.beside(&name, pair);
                    self.value(hidden, depth + 1)?;
                }
                _ => return None,
            }
        }
    }

    /// Notes what may be one half of a name and its value.
    fn beside(&mut self, name: &str, pair: &mut Pair) {
        let start = self.at;
        if is_value(name) {
            pair.values.push(start);
        } else if is_name(name)
            && self.next() == Some(b'"')
            && let Some(said) = self.text_of_string()
        {
            pair.is_secret |= (self.hides)(&said) > Hides::Nothing;
        }
        self.at = start;
    }

    fn text_of_string(&mut self) -> Option<String> {
        let start = self.at;
        self.string()?;
        let quoted = self.text.get(start..self.at)?;
        match std::str::from_utf8(quoted).ok()?.strip_prefix('"')?.strip_suffix('"')? {
            escaped if escaped.contains('\\') => serde_json::from_slice::<String>(quoted).ok(),
            plain => Some(plain.to_owned()),
        }
    }

    fn elements(&mut self, hidden: Hides, depth: usize) -> Option<()> {
        self.at += 1;
        loop {
            match self.next()? {
                b']' => {
                    self.at += 1;
                    return Some(());
                }
                b',' => self.at += 1,
                _ => self.value(hidden, depth + 1)?,
            }
        }
    }

    /// Where its text begins and ends. What is not complete ends with all.
    fn string(&mut self) -> Option<(usize, usize)> {
        self.at += 1;
        let from = self.at;
        loop {
            match self.text.get(self.at) {
                Some(b'\\') => self.at += 2,
                Some(b'"') => {
                    let to = self.at;
                    self.at += 1;
                    return Some((from, to));
                }
                Some(_) => self.at += 1,
                None => return Some((from.min(self.text.len()), self.text.len())),
            }
        }
    }

    /// A number that is to be hidden is 1 and as many zeros: others are none, to some readers.
    fn word(&mut self, hidden: Hides) -> Option<()> {
        let from = self.at;
        let mut digit = b'1';
        while let Some(byte) = self.text.get_mut(self.at)
            && (byte.is_ascii_alphanumeric() || b"+-._".contains(byte))
        {
            if hidden > Hides::Nothing && byte.is_ascii_digit() {
                *byte = std::mem::replace(&mut digit, b'0');
            }
            self.at += 1;
        }
        (self.at > from).then_some(())
    }
}

/// A name, and the values that stand beside it.
#[derive(Default)]
struct Pair {
    /// The name is that of a secret.
    is_secret: bool,
    /// Where they begin.
    values: Vec<usize>,
}
