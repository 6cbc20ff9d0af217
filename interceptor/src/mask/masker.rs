//! Rules joined with a decision's obligations: what happens to one value.
//!
//! Whoever holds a [`Masker`] asks it once per column what to do ([`ColumnMask`]), then once per value. It allocates
//! for values that it changes, and reuses its buffers from value to value.

use std::ops::Range;
use std::sync::Arc;

use super::config::Transform;
use super::detect::{Detector, DetectorSet, Found, Span, Work};
use super::json::JsonPaths;
use super::path::JsonRule;
use super::rules::Rules;
use super::transform::{TOKEN_LEN, keep_last, marker};
use crate::policy::{Obligations, Tag, TagSet};

/// What a value can carry in its place, so that whoever reads it still can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// Any text, up to so many characters.
    Text {
        /// `n` of `varchar(n)`.
        max_chars: Option<usize>,
    },
    /// A JSON document in UTF-8.
    Json,
    /// XML content.
    Xml,
    /// Text inside that can be looked at but not replaced: a composite, an array, an unknown type. NULL takes its place.
    Opaque,
    /// No text: a number, a date. Only NULL can take its place, and detectors do not look at it.
    Other,
}

/// What became of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passes as it is; nothing was written.
    Unchanged,
    /// What was appended to the buffer takes its place.
    Replaced,
    /// NULL takes its place; nothing was written.
    Null,
}

/// What happens to the values of one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnMask(Plan);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    Pass,
    Scan,
    Whole { transform: Transform, tag: Option<Tag> },
}

impl ColumnMask {
    /// Whether every value passes unseen.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        self.0 == Plan::Pass
    }

    /// Whether every value is replaced, whatever it is.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self.0, Plan::Whole { .. })
    }

    /// More where it hides more.
    pub(super) fn strictness(&self) -> u16 {
        match &self.0 {
            Plan::Pass => 0,
            Plan::Scan => 1,
            Plan::Whole { transform, .. } => 2 + transform.rank(),
        }
    }
}

/// Masks the values of one answer, or of all answers under the same obligations.
#[derive(Clone, Debug)]
pub struct Masker {
    terms: Arc<Terms>,
    work: Work,
    decoded: Vec<u8>,
    rewritten: Vec<u8>,
}

/// Rules joined with obligations; many maskers share it.
#[derive(Debug)]
struct Terms {
    rules: Arc<Rules>,
    masked: TagSet,
    wanted: DetectorSet,
    /// For each detector that looks, in the order of [`Detector::ALL`]: the strictest of its masked tags.
    hits: Vec<Option<(Transform, Tag)>>,
}

impl Masker {
    /// What `rules` mean under `obligations`.
    #[must_use]
    pub fn new(rules: Arc<Rules>, obligations: &Obligations) -> Self {
        let masked = Arc::clone(&obligations.masked);
        let mut wanted = DetectorSet::default();
        let hits = Detector::ALL
            .iter()
            .map(|detector| {
                let tags = rules.detectors().iter().filter(|(of, _)| of == detector).map(|(_, tag)| tag);
                let hit = strictest(&rules, tags.filter(|tag| masked.contains(*tag)));
                if hit.is_some() {
                    wanted.insert(*detector);
                }
                hit
            })
            .collect();
        Self::of(Arc::new(Terms { rules, masked, wanted, hits }))
    }

    /// Another one for the same obligations, with buffers of its own. Cheap.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::of(Arc::clone(&self.terms))
    }

    /// Whether one was made of the other by [`Masker::again`].
    #[must_use]
    pub fn has_terms_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.terms, &other.terms)
    }

    /// Whether it is for these obligations.
    #[must_use]
    pub fn is_for(&self, obligations: &Obligations) -> bool {
        let masked = &self.terms.masked;
        Arc::ptr_eq(masked, &obligations.masked) || *masked == obligations.masked
    }

    fn of(terms: Arc<Terms>) -> Self {
        Self { terms, work: Work::default(), decoded: Vec::new(), rewritten: Vec::new() }
    }

    /// Whether nothing at all is masked: every answer passes as it is.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.terms.masked.is_empty()
    }

    /// Whether values of untagged columns are looked at.
    #[must_use]
    pub fn scans(&self) -> bool {
        !self.terms.wanted.is_empty()
    }

    /// What happens to a column with these tags. A computed column shows nothing of its value: not its end, and no
    /// token either, since a function of the value would be joined with.
    #[must_use]
    pub fn column(&self, tags: &TagSet, computed: bool) -> ColumnMask {
        let plan = match strictest(&self.terms.rules, tags.iter().filter(|tag| self.terms.masked.contains(*tag))) {
            Some((Transform::KeepLast(_) | Transform::Token, tag)) if computed => {
                Plan::Whole { transform: Transform::Redact, tag: Some(tag) }
            }
            Some((transform, tag)) => Plan::Whole { transform, tag: Some(tag) },
            None if self.scans() => Plan::Scan,
            None => Plan::Pass,
        };
        ColumnMask(plan)
    }

    /// What is masked by its path in JSON that this route of a target answers.
    #[must_use]
    pub fn json_paths(&self, target: &str, route: Option<&str>) -> JsonPaths {
        let found = self.terms.rules.json_rules().filter(|(rule, _)| rule.is_of(target, route));
        let masks = found.map(|(rule, tags)| (rule, self.column(tags, false)));
        JsonPaths::new(masks.filter(|(_, mask)| mask.is_whole()).collect())
    }

    /// The same, and where anything is masked so, what stands at these paths as well, by the strictest of its masks. What is
    /// no path is left out.
    #[must_use]
    pub fn json_paths_and(&self, target: &str, route: Option<&str>, more: &[&str]) -> JsonPaths {
        let more: Vec<JsonRule> = more.iter().filter_map(|path| JsonRule::parse(path).ok()).collect();
        let found = self.terms.rules.json_rules().filter(|(rule, _)| rule.is_of(target, route));
        let masks = found.map(|(rule, tags)| (rule, self.column(tags, false)));
        let mut masks: Vec<_> = masks.filter(|(_, mask)| mask.is_whole()).collect();
        if let Some(strictest) = masks.iter().map(|(_, mask)| mask).max_by_key(|mask| mask.strictness()).cloned() {
            masks.extend(more.iter().map(|rule| (rule, strictest.clone())));
        }
        JsonPaths::new(masks)
    }

    /// What is masked by its path in JSON that a target answers, wherever that comes from.
    #[must_use]
    pub fn json_paths_anywhere(&self, target: &str) -> JsonPaths {
        let found = self.terms.rules.json_rules().filter(|(rule, _)| rule.is_within(target));
        let masks = found.map(|(rule, tags)| (rule, self.column(tags, false)));
        JsonPaths::new(masks.filter(|(_, mask)| mask.is_whole()).collect())
    }

    /// The empty set of tags, shared.
    pub(super) fn no_tags(&self) -> TagSet {
        self.terms.rules.no_tags()
    }

    /// What happens to a column of which nothing is known: it is masked whole as soon as anything is masked at all.
    #[must_use]
    pub fn unknown_column(&self) -> ColumnMask {
        if self.is_idle() {
            return ColumnMask(Plan::Pass);
        }
        ColumnMask(Plan::Whole { transform: Transform::Redact, tag: None })
    }

    /// Masks one value that is not NULL. Appends to `out` only where the answer is [`Outcome::Replaced`].
    pub fn apply(&mut self, column: &ColumnMask, carrier: Carrier, value: &[u8], out: &mut Vec<u8>) -> Outcome {
        match &column.0 {
            Plan::Pass => Outcome::Unchanged,
            Plan::Whole { transform, tag } => self.whole(*transform, tag.as_deref(), carrier, value, out),
            Plan::Scan => match carrier {
                Carrier::Text { max_chars } => self.scan_text(value, max_chars, out),
                Carrier::Json => self.scan_json(value, out),
                Carrier::Xml => self.scan_xml(value, out),
                Carrier::Opaque if self.find(value) != Found::Nothing => Outcome::Null,
                Carrier::Opaque | Carrier::Other => Outcome::Unchanged,
            },
        }
    }

    /// Masks a part of a text, of which what stands around it is known. Appends it up to its end, or up to a value that
    /// goes on behind that; says how far, and how many values there were.
    pub(super) fn part(&mut self, text: &[u8], part: Range<usize>, out: &mut Vec<u8>) -> (usize, u64) {
        if self.find(text) == Found::TooMuch {
            marker(None, out);
            return (part.end, 1);
        }
        let (mut at, mut count) = (part.start, 0);
        for span in self.work.spans().iter().filter(|span| span.end > part.start) {
            if span.start >= part.end {
                break;
            }
            if span.end > part.end {
                out.extend_from_slice(text.get(at..span.start).unwrap_or_default());
                return (span.start.max(part.start), count);
            }
            out.extend_from_slice(text.get(at..span.start).unwrap_or_default());
            let (transform, tag) = self.hit(span);
            self.replace(transform, tag, text.get(span.start..span.end).unwrap_or_default(), None, out);
            (at, count) = (span.end, count + 1);
        }
        out.extend_from_slice(text.get(at..part.end).unwrap_or_default());
        (part.end, count)
    }

    fn whole(
        &self,
        transform: Transform,
        tag: Option<&str>,
        carrier: Carrier,
        value: &[u8],
        out: &mut Vec<u8>,
    ) -> Outcome {
        match (carrier, transform) {
            (_, Transform::Null) | (Carrier::Opaque | Carrier::Other, _) => return Outcome::Null,
            (Carrier::Text { max_chars }, _) => self.replace(transform, tag, value, max_chars, out),
            (Carrier::Json, _) => {
                out.push(b'"');
                // The end of a document is punctuation, or somebody's name: it is not kept.
                let transform = if transform == Transform::Token { transform } else { Transform::Redact };
                self.replace(transform, tag, value, None, out);
                out.push(b'"');
            }
            (Carrier::Xml, Transform::Token) => self.replace(transform, tag, value, None, out),
            (Carrier::Xml, _) => marker(tag, out),
        }
        Outcome::Replaced
    }

    /// Writes what stands for `value`, where text can stand. What does not fit becomes a shorter constant.
    fn replace(&self, transform: Transform, tag: Option<&str>, value: &[u8], max: Option<usize>, out: &mut Vec<u8>) {
        let room = max.unwrap_or(usize::MAX);
        match (transform, self.terms.rules.tokens()) {
            // The rest is no longer than the value was, so it fits.
            (Transform::KeepLast(kept), _) if keep_last(value, kept, out) => return,
            (Transform::Token, Some(tokens)) if room >= TOKEN_LEN => {
                return tokens.write(tag.unwrap_or_default(), value, out);
            }
            _ => {}
        }
        let start = out.len();
        marker(tag, out);
        if out.len() - start > room {
            out.truncate(start);
            out.extend(std::iter::repeat_n(b'*', room.min(3)));
        }
    }

    fn find(&mut self, value: &[u8]) -> Found {
        match self.terms.rules.scanner() {
            Some(scanner) => scanner.scan(self.terms.wanted, value, &mut self.work),
            None => Found::Nothing,
        }
    }

    fn scan_text(&mut self, value: &[u8], max: Option<usize>, out: &mut Vec<u8>) -> Outcome {
        match self.find(value) {
            Found::Nothing => Outcome::Unchanged,
            Found::TooMuch => self.whole(Transform::Redact, None, Carrier::Text { max_chars: max }, value, out),
            Found::Spans => {
                if let [span] = self.work.spans()
                    && span.start == 0
                    && span.end == value.len()
                    && self.hit(span).0 == Transform::Null
                {
                    return Outcome::Null;
                }
                let start = out.len();
                self.write_spans(value, out);
                if let Some(max) = max {
                    fit(out, start, max);
                }
                Outcome::Replaced
            }
        }
    }

    /// Transform and tag for a span. Where several detectors overlap, none of their transforms fits: redact.
    fn hit(&self, span: &Span) -> (Transform, Option<&str>) {
        let hit = Detector::ALL.iter().zip(&self.terms.hits).find(|(detector, _)| **detector == span.detector);
        match hit {
            Some((_, Some((transform, tag)))) if !span.mixed => (*transform, Some(tag)),
            Some((_, Some((_, tag)))) => (Transform::Redact, Some(tag)),
            _ => (Transform::Redact, None),
        }
    }

    /// Copies `value` with each found span replaced.
    fn write_spans(&self, value: &[u8], out: &mut Vec<u8>) {
        let mut from = 0;
        for span in self.work.spans() {
            out.extend_from_slice(value.get(from..span.start).unwrap_or_default());
            let (transform, tag) = self.hit(span);
            self.replace(transform, tag, value.get(span.start..span.end).unwrap_or_default(), None, out);
            from = span.end;
        }
        out.extend_from_slice(value.get(from..).unwrap_or_default());
    }

    /// Strings and numbers are looked at one by one, strings as they read without escapes.
    fn scan_json(&mut self, value: &[u8], out: &mut Vec<u8>) -> Outcome {
        let escapes = value.contains(&b'\\');
        match self.find(value) {
            Found::TooMuch => return self.whole(Transform::Redact, None, Carrier::Json, value, out),
            Found::Nothing if !escapes => return Outcome::Unchanged,
            Found::Nothing | Found::Spans => {}
        }
        let start = out.len();
        let mut changed = false;
        let mut rest = value;
        while let Some(&first) = rest.first() {
            let Some(len) = token_len(first, rest) else {
                // Not JSON at all. Whatever is in it, it goes.
                out.truncate(start);
                return self.whole(Transform::Redact, None, Carrier::Json, value, out);
            };
            let (token, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            rest = after;
            match first {
                b'"' => changed |= self.json_string(token, out),
                b'-' | b'0'..=b'9' => changed |= self.json_number(token, out),
                _ => out.extend_from_slice(token),
            }
        }
        if changed {
            return Outcome::Replaced;
        }
        out.truncate(start);
        Outcome::Unchanged
    }

    fn json_string(&mut self, token: &[u8], out: &mut Vec<u8>) -> bool {
        let inner = token.get(1..token.len().saturating_sub(1)).unwrap_or_default();
        let mut decoded = std::mem::take(&mut self.decoded);
        decoded.clear();
        unescape(inner, &mut decoded);
        let found = self.find(&decoded);
        match found {
            Found::Nothing => out.extend_from_slice(token),
            Found::TooMuch => {
                self.whole(Transform::Redact, None, Carrier::Json, inner, out);
            }
            Found::Spans => {
                let mut rewritten = std::mem::take(&mut self.rewritten);
                rewritten.clear();
                self.write_spans(&decoded, &mut rewritten);
                let start = out.len();
                if serde_json::to_writer(&mut *out, &String::from_utf8_lossy(&rewritten)).is_err() {
                    out.truncate(start);
                    self.whole(Transform::Redact, None, Carrier::Json, inner, out);
                }
                self.rewritten = rewritten;
            }
        }
        self.decoded = decoded;
        found != Found::Nothing
    }

    fn json_number(&mut self, token: &[u8], out: &mut Vec<u8>) -> bool {
        if self.find(token) == Found::Nothing {
            out.extend_from_slice(token);
            return false;
        }
        out.push(b'"');
        self.write_spans(token, out);
        out.push(b'"');
        true
    }

    /// Text, but where character references could spell a value, all of it goes.
    fn scan_xml(&mut self, value: &[u8], out: &mut Vec<u8>) -> Outcome {
        if !value.windows(2).any(|pair| pair == b"&#") {
            return self.scan_text(value, None, out);
        }
        let mut decoded = std::mem::take(&mut self.decoded);
        decoded.clear();
        resolve_references(value, &mut decoded);
        let found = self.find(&decoded);
        self.decoded = decoded;
        if found == Found::Nothing {
            return Outcome::Unchanged;
        }
        self.whole(Transform::Redact, None, Carrier::Xml, value, out)
    }
}

/// The strictest transform among `tags`, and the tag that asks for it.
fn strictest<'a>(rules: &Rules, tags: impl Iterator<Item = &'a Tag>) -> Option<(Transform, Tag)> {
    let mut found: Option<(Transform, &Tag)> = None;
    for tag in tags {
        let transform = rules.transform(tag);
        if found.is_none_or(|(other, _)| transform.is_stricter(other)) {
            found = Some((transform, tag));
        }
    }
    found.map(|(transform, tag)| (transform, Arc::clone(tag)))
}

/// Cuts what was appended since `start` to `max` characters.
fn fit(out: &mut Vec<u8>, start: usize, max: usize) {
    let text = out.get(start..).unwrap_or_default();
    // Continuation bytes belong to the character before them.
    let cut = text.iter().enumerate().filter(|(_, byte)| (**byte & 0xc0) != 0x80).nth(max).map(|(at, _)| at);
    if let Some(cut) = cut {
        out.truncate(start + cut);
    }
}

/// Bytes of the JSON token at the start of `rest`, or of one other character; `None` for a string without an end.
fn token_len(first: u8, rest: &[u8]) -> Option<usize> {
    match first {
        b'"' => {
            let mut escaped = false;
            for (at, byte) in rest.iter().enumerate().skip(1) {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' => escaped = true,
                    b'"' => return Some(at + 1),
                    _ => {}
                }
            }
            None
        }
        b'-' | b'0'..=b'9' => {
            let end = rest.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
            Some(end.unwrap_or(rest.len()))
        }
        _ => Some(1),
    }
}

/// A JSON string without its escapes. What is no escape stays as it is.
pub(super) fn unescape(inner: &[u8], out: &mut Vec<u8>) {
    let mut rest = inner;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'\\' {
            out.push(first);
            continue;
        }
        let Some((&kind, after)) = rest.split_first() else { break };
        rest = after;
        match kind {
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => {
                let mut unit = hex4(&mut rest);
                if let Some(high @ 0xd800..=0xdbff) = unit
                    && let Some(mut low_half) = rest.strip_prefix(b"\\u")
                    && let Some(low @ 0xdc00..=0xdfff) = hex4(&mut low_half)
                {
                    rest = low_half;
                    unit = Some(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00));
                }
                push_char(unit.unwrap_or(0xfffd), out);
            }
            other => out.push(other),
        }
    }
}

fn hex4(rest: &mut &[u8]) -> Option<u32> {
    let (digits, after) = rest.split_at_checked(4)?;
    let value = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    *rest = after;
    Some(value)
}

fn push_char(code: u32, out: &mut Vec<u8>) {
    let char = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
}

/// XML with its numeric character references resolved.
fn resolve_references(value: &[u8], out: &mut Vec<u8>) {
    /// Zeros in front may make a reference longer, but nobody writes that.
    const LONGEST: usize = 16;
    let mut rest = value;
    while let Some((&first, after)) = rest.split_first() {
        if let Some(body) = rest.strip_prefix(b"&#")
            && let Some(end) = body.iter().take(LONGEST).position(|byte| *byte == b';')
            && let Some(text) = body.get(..end).and_then(|digits| std::str::from_utf8(digits).ok())
            && let Ok(code) =
                text.strip_prefix('x').map_or_else(|| text.parse(), |digits| u32::from_str_radix(digits, 16))
        {
            push_char(code, out);
            rest = body.get(end + 1..).unwrap_or_default();
            continue;
        }
        out.push(first);
        rest = after;
    }
}

#[cfg(test)]
#[path = "masker_tests.rs"]
mod tests;
