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

/// What some write before a text.
pub(super) const BOM: &[u8] = b"\xef\xbb\xbf";
/// What may stand before each of several documents (RFC 7464).
pub(super) const SEPARATOR: u8 = 0x1e;
/// The deepest that is looked into.
const DEPTH_LIMIT: usize = 128;

/// Blots out every text and number under a key that is to be hidden, and what stands as `value` beside a `name` that would be.
pub fn blot(text: &mut [u8], hides: &dyn Fn(&str) -> Hides) {
    let at = if text.starts_with(BOM) { BOM.len() } else { 0 };
    let mut blotter = Blotter { text, at, hides };
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
        // Only whole subtrees are hidden with all that they have.
        let below = if hidden == Hides::All { Hides::All } else { Hides::Nothing };
        let mut pair = Pair::default();
        let done = self.each_member(below, depth, &mut pair);
        if pair.is_secret
            && let Some((from, to)) = pair.value
        {
            self.text.get_mut(from..to)?.fill(BLOT);
        }
        done
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

    /// Notes what may be one half of a name and its value: variables of an environment are written so.
    fn beside(&mut self, name: &str, pair: &mut Pair) {
        let start = self.at;
        if matches!(name, "name" | "key" | "value") && self.next() == Some(b'"') {
            let from = self.at;
            if name == "value" {
                pair.value = self.string();
            } else if let Some(said) = self.text_of_string() {
                pair.is_secret |= (self.hides)(&said) > Hides::Nothing;
            }
            self.at = from;
        } else {
            self.at = start;
        }
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

/// A name, and the value that stands beside it.
#[derive(Default)]
struct Pair {
    /// The name is that of a secret.
    is_secret: bool,
    /// Where the text of the value begins and ends.
    value: Option<(usize, usize)>,
}
