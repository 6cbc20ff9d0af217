//! JSON whose secrets are blotted out in place, in one pass. Whatever is no JSON is left, to the end of its line.
//!
//! Lengths stay, and it stays JSON: a number becomes a text, which nobody takes for another number. One digit in a list becomes
//! `*`, which is no JSON any more; one that stands alone is no secret.

use std::borrow::Cow;
use std::ops::Range;

use super::BLOT;
use super::beside::{self, Says};
use super::reasons::{self, Reasons};

pub use super::beside::{is_name, is_value};

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

/// What some write before a text.
pub(super) const BOM: &[u8] = b"\xef\xbb\xbf";
/// What may stand before each of several documents (RFC 7464).
pub(super) const SEPARATOR: u8 = 0x1e;
/// The deepest that is looked into.
const DEPTH_LIMIT: usize = 128;

/// Blots out every text and number under a key that is to be hidden, and what stands as a value beside a name that would be.
pub fn blot(text: &mut [u8], hides: &dyn Fn(&str) -> Hides) {
    blot_telling(text, hides, &mut Reasons::default());
}

/// The same, and tells what it was.
pub(super) fn blot_telling(text: &mut [u8], hides: &dyn Fn(&str) -> Hides, reasons: &mut Reasons) {
    let at = if text.starts_with(BOM) { BOM.len() } else { 0 };
    let mut blotter = Blotter { text, at, hides, path: Vec::new(), beside: Vec::new(), reasons, told: None };
    // One document may stand behind another. What is none ends with its line.
    while blotter.at < blotter.text.len() {
        blotter.path.clear();
        if blotter.value(Under::default(), 0).is_none() {
            let rest = blotter.text.get(blotter.at..).unwrap_or_default();
            blotter.at += memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        }
    }
}

struct Blotter<'a> {
    text: &'a mut [u8],
    at: usize,
    hides: &'a dyn Fn(&str) -> Hides,
    /// Names and places that lead to what is looked at.
    path: Vec<Step>,
    /// Values of the objects that are read, innermost last, that may turn out to be hidden by what stands beside them.
    beside: Vec<Spot>,
    reasons: &'a mut Reasons,
    /// Where the list begins of which was told last, and whether a number was.
    told: Option<(usize, bool)>,
}

/// A step of a path.
enum Step {
    Name(String),
    Place(usize),
}

/// A text or a number.
struct Spot {
    range: Range<usize>,
    is_text: bool,
    /// Where the list begins that it stands in.
    list: Option<usize>,
    /// The name that it stands under, where it is known later whether it is hidden.
    name: &'static str,
}

/// What is known of a value before it is read.
#[derive(Clone, Copy)]
struct Under {
    hidden: Hides,
    /// Where the name of its own may stand beside it: the name that it has.
    value: Option<&'static str>,
    /// Where the outermost list begins that it stands in.
    list: Option<usize>,
}

impl Default for Under {
    fn default() -> Self {
        Self { hidden: Hides::Nothing, value: None, list: None }
    }
}

impl Blotter<'_> {
    fn next(&mut self) -> Option<u8> {
        while self.text.get(self.at).is_some_and(|byte| byte.is_ascii_whitespace() || *byte == SEPARATOR) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn value(&mut self, under: Under, depth: usize) -> Option<()> {
        if depth > DEPTH_LIMIT {
            return None;
        }
        match self.next()? {
            b'{' => self.members(under.hidden, depth),
            b'[' => self.elements(under, depth),
            b'"' => {
                let (from, to) = self.string()?;
                self.found(from..to, true, under);
                Some(())
            }
            _ => self.word(under),
        }
    }

    /// A text or a number.
    fn found(&mut self, range: Range<usize>, is_text: bool, under: Under) {
        let spot = Spot { range, is_text, list: under.list, name: under.value.unwrap_or_default() };
        if under.hidden > Hides::Nothing {
            // Of a list, once for its texts, and once for what its numbers are.
            let is_number = self.is_number(&spot);
            let of_list = spot.list.map(|list| (list, is_number));
            let is_told = of_list.is_some() && of_list == self.told;
            if self.fill(&spot) && !is_told {
                self.told = of_list;
                let path = &self.path;
                self.reasons.note(|| told(path, ""), is_number, None);
            }
        } else if under.value.is_some() {
            self.beside.push(spot);
        }
    }

    /// Whether it is a number, in quotes or not.
    fn is_number(&self, spot: &Spot) -> bool {
        let text = self.text.get(spot.range.clone()).and_then(|text| std::str::from_utf8(text).ok());
        !spot.is_text || text.is_some_and(beside::is_number)
    }

    /// Whether there was anything to be hidden.
    fn fill(&mut self, spot: &Spot) -> bool {
        let Some(part) = self.text.get_mut(spot.range.clone()) else { return false };
        match part {
            [] => return false,
            text if spot.is_text => text.fill(BLOT),
            [_] if spot.list.is_none() => return false,
            [one] => *one = BLOT,
            [first, between @ .., last] => {
                between.fill(BLOT);
                (*first, *last) = (b'"', b'"');
            }
        }
        true
    }

    fn members(&mut self, outer: Hides, depth: usize) -> Option<()> {
        self.at += 1;
        let (begun, deep, mut says) = (self.beside.len(), self.path.len(), None::<Said>);
        let done = self.each_member(outer, depth, &mut says);
        self.path.truncate(deep);
        let spots = self.beside.split_off(begun);
        if let Some(said) = says {
            let mut is_told = ("", false);
            for spot in spots.into_iter().filter(|spot| spot.is_text || said.says == Says::All) {
                let is_number = self.is_number(&spot);
                if self.fill(&spot) && is_told != (spot.name, is_number) {
                    is_told = (spot.name, is_number);
                    let path = &self.path;
                    self.reasons.note(|| told(path, spot.name), is_number, Some((&said.name, &said.said)));
                }
            }
        }
        done
    }

    fn each_member(&mut self, outer: Hides, depth: usize, says: &mut Option<Said>) -> Option<()> {
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
                    self.note_beside(&name, says);
                    // A secret's own value: `"adminPassword": {"value": ...}`.
                    let value = beside::value(&name);
                    let above = if value.is_some() { outer } else { outer.below() };
                    let under = Under { hidden: above.max((self.hides)(&name)), value, list: None };
                    self.path.push(Step::Name(name));
                    self.value(under, depth + 1)?;
                    self.path.pop();
                }
                _ => return None,
            }
        }
    }

    /// Notes what a member says of the values beside it.
    fn note_beside(&mut self, name: &str, says: &mut Option<Said>) {
        if !is_name(name) || self.next() != Some(b'"') {
            return;
        }
        let start = self.at;
        if let Some(said) = self.text_of_string() {
            let found = beside::says(name, &said, self.hides);
            if found > says.as_ref().map_or(Says::Nothing, |known| known.says) {
                // What says so may be hidden itself.
                let said = if (self.hides)(name) > Hides::Nothing { "...".to_owned() } else { said };
                *says = Some(Said { name: name.to_owned(), said, says: found });
            }
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

    fn elements(&mut self, under: Under, depth: usize) -> Option<()> {
        let under = Under { list: under.list.or(Some(self.at)), ..under };
        self.at += 1;
        let mut place = 0;
        loop {
            match self.next()? {
                b']' => {
                    self.at += 1;
                    return Some(());
                }
                b',' => self.at += 1,
                _ => {
                    self.path.push(Step::Place(place));
                    self.value(under, depth + 1)?;
                    self.path.pop();
                    place += 1;
                }
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

    /// A number, or what is no secret: true, false, null.
    fn word(&mut self, under: Under) -> Option<()> {
        let from = self.at;
        let mut is_number = false;
        while let Some(byte) = self.text.get(self.at)
            && (byte.is_ascii_alphanumeric() || b"+-._".contains(byte))
        {
            is_number |= byte.is_ascii_digit();
            self.at += 1;
        }
        if is_number {
            self.found(from..self.at, false, under);
        }
        (self.at > from).then_some(())
    }
}

/// What stands beside values, and says that they are secrets.
struct Said {
    name: String,
    said: String,
    says: Says,
}

/// As people read it, with a name behind it; without the places at its end, since what hides one of a list hides all.
fn told(path: &[Step], name: &str) -> String {
    let inner = path.iter().rev().skip_while(|step| name.is_empty() && matches!(step, Step::Place(_)));
    let steps = inner.map(|step| match step {
        Step::Name(name) => Cow::Borrowed(name.as_str()),
        Step::Place(place) => Cow::Owned(place.to_string()),
    });
    let steps: Vec<Cow<'_, str>> = (!name.is_empty()).then_some(Cow::Borrowed(name)).into_iter().chain(steps).collect();
    reasons::path(steps.iter().map(|step| &**step))
}
