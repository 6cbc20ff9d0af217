//! JSON whose secrets are blotted out in place. Whatever is no JSON is left where it stops to be any.

use super::BLOT;

/// The deepest that is looked into.
const DEPTH_LIMIT: usize = 128;

/// Blots out every text and number below a key that is to be hidden.
pub fn blot(text: &mut [u8], hides: &dyn Fn(&str) -> bool) {
    let _as_far_as_it_goes = Blotter { text, at: 0, hides }.value(false, 0);
}

struct Blotter<'a> {
    text: &'a mut [u8],
    at: usize,
    hides: &'a dyn Fn(&str) -> bool,
}

impl Blotter<'_> {
    fn next(&mut self) -> Option<u8> {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn value(&mut self, hidden: bool, depth: usize) -> Option<()> {
        if depth > DEPTH_LIMIT {
            return None;
        }
        match self.next()? {
            b'{' => self.members(hidden, depth),
            b'[' => self.elements(hidden, depth),
            b'"' => {
                let (from, to) = self.string()?;
                if hidden {
                    self.text.get_mut(from..to)?.fill(BLOT);
                }
                Some(())
            }
            _ => self.word(hidden),
        }
    }

    fn members(&mut self, hidden: bool, depth: usize) -> Option<()> {
        self.at += 1;
        loop {
            match self.next()? {
                b'}' => {
                    self.at += 1;
                    return Some(());
                }
                b',' => self.at += 1,
                b'"' => {
                    let start = self.at;
                    self.string()?;
                    let quoted = self.text.get(start..self.at)?;
                    let is_hidden = match std::str::from_utf8(quoted).ok()?.strip_prefix('"')?.strip_suffix('"')? {
                        escaped if escaped.contains('\\') => {
                            (self.hides)(&serde_json::from_slice::<String>(quoted).ok()?)
                        }
                        plain => (self.hides)(plain),
                    };
                    (self.next()? == b':').then_some(())?;
                    self.at += 1;
                    self.value(hidden || is_hidden, depth + 1)?;
                }
                _ => return None,
            }
        }
    }

    fn elements(&mut self, hidden: bool, depth: usize) -> Option<()> {
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

    fn word(&mut self, hidden: bool) -> Option<()> {
        let from = self.at;
        while let Some(byte) = self.text.get_mut(self.at)
            && (byte.is_ascii_alphanumeric() || b"+-._".contains(byte))
        {
            if hidden && byte.is_ascii_digit() {
                *byte = b'0';
            }
            self.at += 1;
        }
        (self.at > from).then_some(())
    }
}
