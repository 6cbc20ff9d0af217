//! Lines of YAML whose secrets are blotted out in place, as far as names stand on lines of their own.

use super::beside::{self, Says};
use super::json::Hides;
use super::reasons::{self, Reasons};
use super::{BLOT, is_word};

/// Blots out what stands behind names that are to be hidden, and values beside such a name, before it or behind.
pub(super) fn blot(out: &mut [u8], hides: &dyn Fn(&str) -> Hides, reasons: &mut Reasons) {
    let beside = Beside::of(out, hides);
    let mut lines = Lines { hides, beside, reasons, text: None, all: None, list: None, names: Vec::new() };
    for (number, line) in out.split_mut(|byte| *byte == b'\n').enumerate() {
        lines.line(line, number);
    }
}

/// A line as it is read.
struct Line {
    /// Where its name begins, or its text.
    indent: usize,
    /// It begins an item of a list.
    is_item: bool,
    /// The name, with what stands behind it on the line.
    named: Option<(String, String)>,
    /// Where the name ends, from where it begins.
    colon: usize,
}

impl Line {
    /// `None` where nothing stands on it.
    fn of(line: &[u8]) -> Option<Self> {
        if line.trim_ascii().is_empty() {
            return None;
        }
        let indent = line.iter().take_while(|byte| matches!(byte, b' ' | b'-')).count();
        let is_item = line.iter().take(indent).any(|byte| *byte == b'-');
        let text = line.get(indent..).unwrap_or_default();
        let plain = |text: Option<&[u8]>| {
            let text = String::from_utf8_lossy(text.unwrap_or_default()).into_owned();
            text.trim().trim_matches(['"', '\'']).trim().to_owned()
        };
        let colon = key_of(text);
        let named = colon.map(|at| (plain(text.get(..at)), plain(text.get(at + 1..))));
        Some(Self { indent, is_item, named, colon: colon.unwrap_or_default() })
    }
}

/// What names say of values that stand beside them, in whichever order.
struct Beside {
    /// The mapping that each line is in.
    mappings: Vec<usize>,
    /// What is said in each, and where.
    said: Vec<Option<(Says, String, String)>>,
}

impl Beside {
    fn of(text: &[u8], hides: &dyn Fn(&str) -> Hides) -> Self {
        let (mut mappings, mut said) = (Vec::new(), Vec::<Option<(Says, String, String)>>::new());
        // Those that are open, the innermost last, by their columns.
        let mut open: Vec<(usize, usize)> = Vec::new();
        for line in text.split(|byte| *byte == b'\n') {
            if is_border(line) {
                open.clear();
            }
            let Some(line) = Line::of(line) else {
                mappings.push(usize::MAX);
                continue;
            };
            open.retain(|(column, _)| *column < line.indent || (*column == line.indent && !line.is_item));
            let place = match open.last() {
                Some((column, place)) if *column == line.indent => *place,
                _ => {
                    said.push(None);
                    open.push((line.indent, said.len() - 1));
                    said.len() - 1
                }
            };
            mappings.push(place);
            let Some((name, text)) = line.named else { continue };
            let text = text.split(" #").next().unwrap_or_default().trim_end().trim_end_matches(['"', '\'']).to_owned();
            let says = beside::says(&name, &text, hides);
            let text = if hides(&name) > Hides::Nothing { "...".to_owned() } else { text };
            if let Some(known) = said.get_mut(place)
                && says > known.as_ref().map_or(Says::Nothing, |(known, ..)| *known)
            {
                *known = Some((says, name, text));
            }
        }
        Self { mappings, said }
    }

    /// What says of a value on that line that it is a secret.
    fn of_line(&self, number: usize, value: &str) -> Option<(&str, &str)> {
        let (says, name, said) = self.said.get(*self.mappings.get(number)?)?.as_ref()?;
        (*says == Says::All || !beside::is_number(value)).then_some((name.as_str(), said.as_str()))
    }
}

/// Below which columns something is hidden.
struct Lines<'a> {
    hides: &'a dyn Fn(&str) -> Hides,
    beside: Beside,
    reasons: &'a mut Reasons,
    /// A text, which goes on over several lines.
    text: Option<usize>,
    /// Everything.
    all: Option<usize>,
    /// What has no names of its own.
    list: Option<usize>,
    /// Names that lead to the line, by their columns.
    names: Vec<(usize, String)>,
}

impl Lines<'_> {
    fn line(&mut self, line: &mut [u8], number: usize) {
        if is_border(line) {
            (self.text, self.all, self.list) = (None, None, None);
            self.names.clear();
        }
        let Some(Line { indent, named, colon, .. }) = Line::of(line) else { return };
        for below in [&mut self.text, &mut self.all, &mut self.list] {
            *below = below.filter(|outer| indent > *outer);
        }
        let text = line.get_mut(indent..).unwrap_or_default();
        if self.text.is_some() {
            return fill(text);
        }
        let Some((name, said)) = named else {
            if self.all.is_some() || self.list.is_some() {
                let names = &self.names;
                self.reasons.note(|| told(names, indent, number), is_number(text), None);
                fill(text);
            }
            return;
        };
        self.names.retain(|(column, _)| *column < indent);
        self.names.push((indent, name.clone()));
        let mut hides = (self.hides)(&name);
        let beside = beside::is_value(&name).then(|| self.beside.of_line(number, &said)).flatten();
        let is_held = self.list.is_some() && beside::is_value(&name);
        if beside.is_some() || is_held {
            hides = hides.max(Hides::Value);
        }
        if self.all.is_none() && (hides == Hides::Nothing || (!said.is_empty() && is_word(&said))) {
            return;
        }
        if said.is_empty() {
            if hides == Hides::All {
                self.all = self.all.or(Some(indent));
            } else if hides == Hides::Value {
                self.list = self.list.or(Some(indent));
            }
            return;
        }
        let (names, beside) = (&self.names, beside.filter(|_| self.all.is_none()));
        self.reasons.note(|| told(names, indent + 1, number), beside::is_number(&said), beside);
        self.text = Some(indent);
        if !matches!(said.chars().next(), Some('|' | '>')) {
            fill(text.get_mut(colon + 1..).unwrap_or_default());
        }
    }
}

/// Where a name of a line ends. What is quoted may have colons.
fn key_of(text: &[u8]) -> Option<usize> {
    let quote = text.first().copied().filter(|byte| matches!(byte, b'"' | b'\''));
    let from = quote.map_or(Some(0), |quote| Some(memchr::memchr(quote, text.get(1..)?)? + 2))?;
    let ends = |at: &usize| text.get(at + 1).is_none_or(u8::is_ascii_whitespace);
    memchr::memchr_iter(b':', text.get(from..)?).map(|at| at + from).find(ends)
}

/// Where a line is, as people read it, with the names above that column.
fn told(names: &[(usize, String)], column: usize, number: usize) -> String {
    let above = names.iter().rev().filter(|(at, _)| *at < column).map(|(_, name)| name.as_str());
    format!("line {}: {}", number + 1, reasons::path(above))
}

fn is_number(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(beside::is_number)
}

/// Whether one document ends there, or the next one begins.
fn is_border(line: &[u8]) -> bool {
    let behind = line.strip_prefix(b"---").or_else(|| line.strip_prefix(b"..."));
    behind.is_some_and(|rest| rest.first().is_none_or(u8::is_ascii_whitespace))
}

fn fill(text: &mut [u8]) {
    text.iter_mut().filter(|byte| !matches!(byte, b' ' | b'\r')).for_each(|byte| *byte = BLOT);
}
