//! Bodies in YAML, where every reader finds the same in them: read into the values that the same body has in JSON.
//!
//! Clusters read YAML 1.1 (with additions of Go's reader), this side YAML 1.2, and each reader has liberties of its own. So only what
//! is plain is read: one document, a mapping at its top, keys that are text and stand once (in whatever case). No anchors,
//! aliases, tags, directives, merge keys, explicit keys (`?`), folded text (`>`), no text over several lines but in `|`, no tabs, and
//! nothing without quotes that is text for one reader and something else for another (`yes`, `0777`, `1_000`, `12:30:00`,
//! `2001-01-01`, `1e3`). Whatever the parser says of where something stands is held against the text itself, and what stands
//! between is looked at as well. Anything else is an error, and so opaque.
//!
//! JSON is YAML: what clients send as JSON by the name of YAML is read here, too.

mod scalar;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, StructureStyle};
use serde_json::{Map, Value};

use crate::mask::fold;

/// Values, of whatever kind, that a document may have.
const NODES: usize = 32 * 1024;
/// How deep they may be nested.
const DEPTH: usize = 64;

/// What the document says.
///
/// # Errors
/// A sentence: another reader may find something else in it.
pub fn read(body: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(body).map_err(|_| "its YAML is no UTF-8".to_owned())?;
    let odd = |char: &char| {
        *char != '\n' && (char.is_control() || "\u{2028}\u{2029}\u{feff}\u{fffe}\u{ffff}".contains(*char))
    };
    if let Some(odd) = text.chars().find(odd) {
        return Err(format!("its YAML has the character U+{:04X} in it", u32::from(odd)));
    }
    let mut reader = Reader { text, at: 0, flows: 0, nodes: 0, open: Vec::new(), whole: None, documents: 0 };
    for event in Parser::new_from_str_with_options(text, options()) {
        let (event, span) = event.map_err(|_| "its YAML cannot be read".to_owned())?;
        reader.event(&event, span).map_err(|why| format!("its YAML can be read in more than one way: {why}"))?;
    }
    reader.between(text.len()).map_err(|why| format!("its YAML can be read in more than one way: {why}"))?;
    reader.whole.filter(Value::is_object).ok_or_else(|| "its YAML is no mapping".to_owned())
}

fn options() -> Options {
    granit_parser::options! {
        disallow_directives: true,
        block_scalar_eof_without_line_feed: true,
        flow_nesting_limit: DEPTH,
        block_nesting_limit: DEPTH,
    }
}

type Plain<T> = Result<T, &'static str>;

struct Reader<'a> {
    text: &'a str,
    /// All before it has been looked at.
    at: usize,
    /// How many of what is open stand in brackets or braces.
    flows: usize,
    nodes: usize,
    open: Vec<Open>,
    whole: Option<Value>,
    documents: usize,
}

/// A collection that has not ended.
enum Open {
    Sequence { items: Vec<Value>, flow: bool },
    Mapping { fields: Map<String, Value>, seen: HashSet<String>, key: Option<String>, flow: bool },
}

impl Reader<'_> {
    fn event(&mut self, event: &Event<'_>, span: Span) -> Plain<()> {
        let (start, end) = (span.start.byte_offset(), span.end.byte_offset());
        let (Some(start), Some(end)) = (start, end) else { return Err("nobody knows what stands where") };
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(explicit, version) => {
                self.documents += 1;
                if self.documents > 1 || version.is_some() {
                    return Err("it has more than one document, or directives");
                }
                if *explicit { self.marker(start) } else { Ok(()) }
            }
            Event::Scalar(value, style, 0, None) => self.scalar(value, *style, start, end),
            Event::SequenceStart(style, 0, None) => {
                let flow = self.starts(*style, start, "[")?;
                self.enter(Open::Sequence { items: Vec::new(), flow })
            }
            Event::MappingStart(style, 0, None) => {
                let flow = self.starts(*style, start, "{")?;
                self.enter(Open::Mapping { fields: Map::new(), seen: HashSet::new(), key: None, flow })
            }
            Event::SequenceEnd => match self.open.pop() {
                Some(Open::Sequence { items, flow }) => self.ends(flow, start, "]", Value::Array(items)),
                _ => Err("its brackets do not fit"),
            },
            Event::MappingEnd => match self.open.pop() {
                Some(Open::Mapping { fields, key: None, flow, .. }) => {
                    self.ends(flow, start, "}", Value::Object(fields))
                }
                _ => Err("its braces do not fit"),
            },
            Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) => Err("it has anchors or tags"),
            _ => Err("it has aliases"),
        }
    }

    /// `---` on a line of its own, before anything else.
    fn marker(&mut self, start: usize) -> Plain<()> {
        self.between(start)?;
        let rest = self.text.get(start..).and_then(|rest| rest.strip_prefix("---")).ok_or("its start is no `---`")?;
        let line = rest.lines().next().unwrap_or_default().trim_start_matches(' ');
        if !line.is_empty() && !line.starts_with('#') {
            return Err("something stands behind `---`");
        }
        self.at = start + "---".len();
        Ok(())
    }

    /// The beginning of a collection. Whether it stands in brackets.
    fn starts(&mut self, style: StructureStyle, start: usize, bracket: &str) -> Plain<bool> {
        if style == StructureStyle::Block {
            return if self.flows == 0 { Ok(false) } else { Err("a block stands in brackets") };
        }
        self.token(start, bracket)?;
        self.flows += 1;
        Ok(true)
    }

    fn ends(&mut self, flow: bool, start: usize, bracket: &str, value: Value) -> Plain<()> {
        if flow {
            self.token(start, bracket)?;
            self.flows = self.flows.saturating_sub(1);
        }
        self.put(value)
    }

    fn token(&mut self, start: usize, token: &str) -> Plain<()> {
        self.between(start)?;
        if !self.text.get(start..).is_some_and(|rest| rest.starts_with(token)) {
            return Err("a collection does not begin or end with its bracket");
        }
        self.at = start + token.len();
        Ok(())
    }

    fn enter(&mut self, open: Open) -> Plain<()> {
        if let Some(Open::Mapping { key: None, .. }) = self.open.last() {
            return Err("a key is no text");
        }
        if self.open.len() == DEPTH {
            return Err("it is nested too deep");
        }
        self.count()?;
        self.open.push(open);
        Ok(())
    }

    fn count(&mut self) -> Plain<()> {
        self.nodes += 1;
        if self.nodes > NODES { Err("it has too many values") } else { Ok(()) }
    }

    fn scalar(&mut self, value: &str, style: ScalarStyle, start: usize, end: usize) -> Plain<()> {
        self.count()?;
        let is_key = matches!(self.open.last(), Some(Open::Mapping { key: None, .. }));
        // Nothing at all.
        if style == ScalarStyle::Plain && start == end {
            return if is_key { Err("a key is missing") } else { self.put(Value::Null) };
        }
        let start = if style == ScalarStyle::Literal { self.header(start)? } else { start };
        self.between(start)?;
        let rest = self.text.get(start..).unwrap_or_default();
        let length = scalar::length(rest, value, style)?;
        self.at = start + length;
        let read = match style {
            ScalarStyle::Plain => scalar::plain(value, self.flows > 0)?,
            _ => Value::String(value.to_owned()),
        };
        if !is_key {
            return self.put(read);
        }
        match (read, self.open.last_mut()) {
            (Value::String(name), Some(Open::Mapping { seen, key, .. })) if style != ScalarStyle::Literal => {
                if matches!(name.as_str(), "<<" | "=") {
                    return Err("a key stands for others");
                }
                // Some readers see no difference between A and a.
                if !seen.insert(fold(&name)) {
                    return Err("a key stands twice in one mapping");
                }
                *key = Some(name);
                Ok(())
            }
            _ => Err("a key is no text"),
        }
    }

    /// Where the `|` is whose text begins there.
    fn header(&self, start: usize) -> Plain<usize> {
        let before = self.text.get(self.at..start).ok_or("what it says does not stand where it should")?;
        before.rfind('|').map(|place| self.at + place).ok_or("a text behind `|` is written in a way of its own")
    }

    fn put(&mut self, value: Value) -> Plain<()> {
        match self.open.last_mut() {
            Some(Open::Sequence { items, .. }) => items.push(value),
            Some(Open::Mapping { fields, key, .. }) => {
                let key = key.take().ok_or("a key is no text")?;
                fields.insert(key, value);
            }
            None if self.whole.is_none() => self.whole = Some(value),
            None => return Err("it has more than one document"),
        }
        Ok(())
    }

    /// What stands between two tokens: blanks, comments, at most one `:` and one `,`, and dashes of sequences.
    fn between(&mut self, until: usize) -> Plain<()> {
        let mut gap = self.text.get(self.at..until).ok_or("what it says does not stand where it should")?;
        let (mut colons, mut commas, mut same_line) = (0, 0, false);
        let mut before = self.text.get(..self.at).and_then(|before| before.chars().next_back()).unwrap_or('\n');
        while let Some(char) = gap.chars().next() {
            let behind = gap.get(char.len_utf8()..).unwrap_or_default();
            let apart = behind.is_empty() && until == self.text.len() || behind.starts_with([' ', '\n']);
            match char {
                ' ' => {}
                '\n' => same_line = false,
                '#' if matches!(before, ' ' | '\n') => {
                    let end = gap.find('\n').unwrap_or(gap.len());
                    before = '#';
                    gap = gap.get(end..).unwrap_or_default();
                    continue;
                }
                // Directly before what follows, some take it for a part of a word that has no quotes.
                ':' if apart || (self.flows > 0 && matches!(before, '"' | '\'')) => {
                    colons += 1;
                    same_line = true;
                }
                ',' if self.flows > 0 => commas += 1,
                '-' if apart && self.flows == 0 && !same_line && matches!(before, ' ' | '\n') => {}
                _ => return Err("something stands in it that is neither value nor key"),
            }
            before = char;
            gap = behind;
        }
        if colons > 1 || commas > 1 {
            return Err("a colon or comma stands beside another");
        }
        self.at = until;
        Ok(())
    }
}
