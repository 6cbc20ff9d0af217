//! JSON that is masked while it passes: by path, and by detectors, without holding more than one value of it.
//!
//! Bytes that nothing is done to are copied as they stand, with their spaces and escapes. Names of fields are compared as
//! they read without escapes and in any case; of a name that stands twice, both values are masked. A value at a masked path
//! becomes what its tag's transform makes of a string, or null where it is a number or a boolean; of objects and arrays,
//! every value below does. The names of what is below stay, unless a detector finds something in them: detectors look at
//! each name, string and number on its own.
//!
//! Values may follow one another, as in a log or a watch (`application/json-seq`, `application/x-ndjson`): each is a
//! document of its own. What is no JSON is an error at its first byte. Whether bytes are UTF-8, the caller sees to.
//!
//! Paths look into JSON that stands in a string only where they were told to ([`JsonPaths::into_strings`]). What begins as JSON
//! there and is none is masked as a whole.
//!
//! Not promised: detectors do not find what is spread over several values; names that the agent chooses (aliases of GraphQL) are no names that a path knows.

mod paths;
mod string;
mod tree;

pub use paths::JsonPaths;
pub use tree::{Place, TreeMasker};

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::detect::SHORTEST;
use super::masker::{Carrier, ColumnMask, Masker, Outcome, unescape};
use string::{Reader, Stop};

/// The deepest that values may stand in one another.
pub const DEPTH_LIMIT: usize = 256;
/// The longest string that is looked into, in bytes; a longer one is replaced unseen.
pub const STRING_LIMIT: usize = 1 << 20;
/// The longest name of a field that is looked at, in bytes.
pub const NAME_LIMIT: usize = 64 << 10;
/// The longest number, in bytes.
pub const NUMBER_LIMIT: usize = 4 << 10;

/// Bytes of a buffer that are kept from one string to the next.
const KEPT: usize = 64 << 10;

/// Why it cannot go on. Nothing that comes behind it can be masked either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotJson {
    /// A byte that has no place there.
    #[error("it is no JSON: byte {0} has no place there")]
    Byte(u64),
    /// It ends within a value.
    #[error("its JSON ends too early")]
    Ends,
    /// It is too deep.
    #[error("its JSON is nested deeper than {DEPTH_LIMIT}")]
    Depth,
    /// A name or a number that is too long.
    #[error("its JSON has a name of more than {NAME_LIMIT} bytes, or a number of more than {NUMBER_LIMIT}")]
    Long,
}

/// Masks JSON as it comes, piece by piece.
#[derive(Clone, Debug)]
pub struct JsonMasker {
    masker: Masker,
    paths: JsonPaths,
    scan: ColumnMask,
    scans: bool,
    state: State,
    frames: Vec<Frame>,
    /// The sets of the frames, one behind the other.
    sets: Vec<u64>,
    /// Of the value that comes next.
    next: Vec<u64>,
    next_mask: Option<u16>,
    /// What is there of a value or name that is not complete.
    held: Vec<u8>,
    /// Bytes that came before this piece.
    before: u64,
    decoded: Vec<u8>,
    rewritten: Vec<u8>,
    text: Vec<u8>,
    folded: Vec<u8>,
    masked: Vec<u64>,
    found: u64,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    array: bool,
    /// Place of the element that comes next, or is being read.
    index: u64,
    /// All of it is masked in this way.
    mask: Option<u16>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Before all: there may be a byte order mark, of which so many bytes were seen.
    Start(u8),
    /// Before a value. Outside of all others, the end may come.
    Value,
    /// Behind `[`.
    First,
    /// Behind `{`.
    NameOrEnd,
    /// Behind `,` in an object.
    Name,
    /// Behind a name.
    Colon,
    /// Behind a value.
    After,
    /// In a string.
    String(Within),
    /// In a number, or a word.
    Bare,
    /// It was no JSON.
    Failed(NotJson),
}

#[derive(Clone, Copy, Debug)]
struct Within {
    reader: Reader,
    name: bool,
    how: How,
    length: usize,
}

/// What is done with the bytes of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Pass,
    Hold,
    Drop,
}

/// The piece at hand: what stands before `kept` is done with, and what stands before `at` was read.
#[derive(Debug)]
struct Input<'a> {
    bytes: &'a [u8],
    kept: usize,
    at: usize,
    /// Where the value or name began, if it did in this piece.
    token: usize,
}

impl Input<'_> {
    fn part(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Passes on all that stands before `to` and was not dealt with.
    fn pass(&mut self, to: usize, out: &mut Vec<u8>) {
        if self.kept < to {
            out.extend_from_slice(self.part(self.kept..to));
        }
        self.kept = self.kept.max(to);
    }
}

impl JsonMasker {
    /// One for answers under these obligations.
    #[must_use]
    pub fn new(masker: Masker, paths: JsonPaths) -> Self {
        let scan = masker.column(&masker.no_tags(), false);
        let mut new = Self {
            scans: masker.scans(),
            masker,
            scan,
            state: State::Start(0),
            frames: Vec::new(),
            sets: Vec::new(),
            next: paths.start().to_vec(),
            next_mask: paths.strictest(paths.start(), None),
            held: Vec::new(),
            before: 0,
            decoded: Vec::new(),
            rewritten: Vec::new(),
            text: Vec::new(),
            folded: Vec::new(),
            masked: vec![0; paths.masks().len()],
            found: 0,
            paths,
        };
        new.reset();
        new
    }

    /// Forgets what it was in the middle of: a new document comes. Counts stay.
    pub fn reset(&mut self) {
        self.state = State::Start(0);
        self.frames.clear();
        self.sets.clear();
        self.held.clear();
        self.before = 0;
        self.root();
    }

    /// Takes the next piece, and appends what is decided.
    ///
    /// # Errors
    /// [`NotJson`], from then on; what was appended may be passed on, and nothing behind it.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), NotJson> {
        let mut input = Input { bytes, kept: 0, at: 0, token: 0 };
        let done = self.walk(&mut input, out);
        if let Err(why) = done {
            self.state = State::Failed(why);
            self.held.clear();
            return Err(why);
        }
        if matches!(self.state, State::String(Within { how: How::Hold, .. })) {
            self.hold(&mut input, out);
        }
        input.pass(bytes.len(), out);
        self.before += bytes.len() as u64;
        Ok(())
    }

    /// Nothing comes any more.
    ///
    /// # Errors
    /// [`NotJson::Ends`], or what was found before.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), NotJson> {
        let mut input = Input { bytes: &[], kept: 0, at: 0, token: 0 };
        if matches!(self.state, State::Bare) {
            self.bare_done(&mut input, out)?;
        }
        match self.state {
            State::Start(0) | State::Value if self.frames.is_empty() => Ok(()),
            State::Failed(why) => Err(why),
            _ => Err(NotJson::Ends),
        }
    }

    /// How many values were masked and not asked for yet.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.found + self.masked.iter().sum::<u64>()
    }

    /// How many values were masked since it was asked last: by path, and by detectors.
    pub fn take_counts(&mut self) -> (Vec<(String, u64)>, u64) {
        let counts = self.masked.iter_mut().map(std::mem::take);
        let named = self.paths.masks().iter().zip(counts).filter(|(_, count)| *count > 0);
        (named.map(|((_, path), count)| (path.clone(), count)).collect(), std::mem::take(&mut self.found))
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    fn walk(&mut self, input: &mut Input<'_>, out: &mut Vec<u8>) -> Result<(), NotJson> {
        while let Some(&byte) = input.bytes.get(input.at) {
            match self.state {
                State::String(within) => self.string(within, input, out)?,
                State::Bare => self.bare(input, out)?,
                State::Failed(why) => return Err(why),
                State::Start(seen) => self.start(seen, byte, input)?,
                _ if is_space(byte) => input.at += 1,
                State::Value => self.value(byte, input)?,
                State::First => {
                    if byte == b']' {
                        self.leave(input);
                    } else {
                        self.value(byte, input)?;
                    }
                }
                State::After => self.after(byte, input)?,
                State::Colon if byte == b':' => {
                    input.at += 1;
                    self.state = State::Value;
                }
                State::NameOrEnd if byte == b'}' => self.leave(input),
                State::NameOrEnd | State::Name if byte == b'"' => {
                    let looks = self.scans || self.paths.wants_names(self.set());
                    self.open(true, looks, input);
                }
                State::Colon | State::NameOrEnd | State::Name => return self.bad(input.at),
            }
        }
        Ok(())
    }

    fn bad<T>(&self, at: usize) -> Result<T, NotJson> {
        Err(NotJson::Byte(self.before + at as u64))
    }

    /// A byte order mark passes, where it stands before all.
    fn start(&mut self, seen: u8, byte: u8, input: &mut Input<'_>) -> Result<(), NotJson> {
        match (seen, byte) {
            (0, 0xef) | (1, 0xbb) => self.state = State::Start(seen + 1),
            (2, 0xbf) => self.state = State::Value,
            (0, _) => {
                self.state = State::Value;
                return Ok(());
            }
            _ => return self.bad(input.at),
        }
        input.at += 1;
        Ok(())
    }

    fn value(&mut self, byte: u8, input: &mut Input<'_>) -> Result<(), NotJson> {
        match byte {
            b'{' | b'[' => return self.enter(byte == b'[', input),
            b'"' => {
                let looks = self.scans || self.next_mask.is_some() || self.paths.looks_into_strings(&self.next);
                self.open(false, looks, input);
            }
            b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                input.token = input.at;
                self.state = State::Bare;
            }
            // What each document of a sequence begins with (RFC 7464).
            0x1e if self.frames.is_empty() => input.at += 1,
            _ => return self.bad(input.at),
        }
        Ok(())
    }

    fn after(&mut self, byte: u8, input: &mut Input<'_>) -> Result<(), NotJson> {
        let array = self.frames.last().is_some_and(|frame| frame.array);
        match (byte, array) {
            (b',', true) => {
                if let Some(frame) = self.frames.last_mut() {
                    frame.index += 1;
                }
                self.element();
                self.state = State::Value;
            }
            (b',', false) => self.state = State::Name,
            (b']', true) | (b'}', false) => {
                self.leave(input);
                return Ok(());
            }
            _ => return self.bad(input.at),
        }
        input.at += 1;
        Ok(())
    }

    fn enter(&mut self, array: bool, input: &mut Input<'_>) -> Result<(), NotJson> {
        if self.frames.len() == DEPTH_LIMIT {
            return Err(NotJson::Depth);
        }
        input.at += 1;
        self.frames.push(Frame { array, index: 0, mask: self.next_mask });
        self.sets.extend_from_slice(&self.next);
        if array {
            self.element();
            self.state = State::First;
        } else {
            self.state = State::NameOrEnd;
        }
        Ok(())
    }

    fn leave(&mut self, input: &mut Input<'_>) {
        input.at += 1;
        self.frames.pop();
        self.sets.truncate(self.frames.len() * self.paths.words());
        self.value_done();
    }

    fn value_done(&mut self) {
        if self.frames.is_empty() {
            self.root();
            self.state = State::Value;
        } else {
            self.state = State::After;
        }
    }

    /// A value comes that stands in no other.
    fn root(&mut self) {
        self.next.clear();
        self.next.extend_from_slice(self.paths.start());
        self.next_mask = self.paths.strictest(&self.next, None);
    }

    /// The set of the innermost frame.
    fn set(&self) -> &[u64] {
        self.sets.get(self.sets.len() - self.paths.words()..).unwrap_or_default()
    }

    /// An element comes.
    fn element(&mut self) {
        let Some(frame) = self.frames.last().copied() else { return };
        let set = self.sets.get(self.sets.len() - self.paths.words()..).unwrap_or_default();
        if self.frames.len() == 1 && self.paths.are_of_messages() {
            self.next.clear();
            self.next.extend_from_slice(self.paths.start());
        } else {
            self.paths.element(set, frame.index, &mut self.next);
        }
        self.next_mask = self.paths.strictest(&self.next, frame.mask);
    }

    fn open(&mut self, name: bool, looks: bool, input: &mut Input<'_>) {
        input.token = input.at;
        input.at += 1;
        let how = if looks { How::Hold } else { How::Pass };
        self.state = State::String(Within { reader: Reader::default(), name, how, length: 1 });
    }

    fn string(&mut self, mut within: Within, input: &mut Input<'_>, out: &mut Vec<u8>) -> Result<(), NotJson> {
        let stop = within.reader.read(input.rest());
        let (count, ends) = match stop {
            Stop::More => (input.rest().len(), false),
            Stop::End(count) => (count, true),
            Stop::Bad(at) => return self.bad(input.at + at),
        };
        input.at += count;
        within.length = within.length.saturating_add(count);
        if within.how == How::Hold && within.name && within.length > NAME_LIMIT {
            return Err(NotJson::Long);
        }
        if within.how == How::Hold && within.length > STRING_LIMIT {
            self.give_up(input, out);
            within.how = How::Drop;
        }
        if within.how == How::Drop {
            input.kept = input.at;
        }
        if !ends {
            self.state = State::String(within);
            return Ok(());
        }
        match (within.how, within.name) {
            (How::Hold, true) => self.name_done(within.reader.escaped, input, out),
            (How::Hold, false) => self.string_done(within.reader.escaped, input, out),
            (How::Pass, true) => self.field(false),
            (How::Pass | How::Drop, _) => {}
        }
        if within.name {
            self.state = State::Colon;
        } else {
            self.value_done();
        }
        Ok(())
    }

    /// Keeps what is there of a value or name, until the rest comes.
    fn hold(&mut self, input: &mut Input<'_>, out: &mut Vec<u8>) {
        input.pass(input.token, out);
        self.held.extend_from_slice(input.part(input.token..input.bytes.len()));
        (input.kept, input.token) = (input.bytes.len(), input.bytes.len());
    }

    /// What is too long to be held is replaced as a whole.
    fn give_up(&mut self, input: &mut Input<'_>, out: &mut Vec<u8>) {
        input.pass(input.token, out);
        self.held.clear();
        let is_base64 = self.next_mask.is_some_and(|mask| self.paths.is_base64(mask));
        out.extend_from_slice(if is_base64 { b"\"W21hc2tlZF0=\"" } else { b"\"[masked]\"" });
        self.note(self.next_mask);
    }

    /// The value or name that ends here, and the buffer to be given back.
    fn token<'a>(&mut self, input: &Input<'a>) -> (Vec<u8>, &'a [u8]) {
        let part = input.bytes.get(input.token..input.at).unwrap_or_default();
        let mut held = std::mem::take(&mut self.held);
        if held.is_empty() {
            return (held, part);
        }
        held.extend_from_slice(part);
        (held, &[])
    }

    fn name_done(&mut self, escaped: bool, input: &mut Input<'_>, out: &mut Vec<u8>) {
        let (mut held, part) = self.token(input);
        let token = if held.is_empty() { part } else { &held };
        let inner = token.get(1..token.len().saturating_sub(1)).unwrap_or_default();
        self.decoded.clear();
        if escaped {
            unescape(inner, &mut self.decoded);
        } else if self.paths.words() > 0 {
            self.decoded.extend_from_slice(inner);
        }
        self.field(true);
        let outcome = self.scanned(token);
        if self.settle(outcome, &held, input, out) {
            self.note(None);
        }
        held.clear();
        self.held = held;
    }

    /// The value of a field comes; its name is in `decoded`, where it `matters`.
    fn field(&mut self, matters: bool) {
        let above = self.frames.last().and_then(|frame| frame.mask);
        let set = self.sets.get(self.sets.len() - self.paths.words()..).unwrap_or_default();
        if self.paths.leads_on(set) {
            let name: &[u8] = if matters { &self.decoded } else { &[] };
            self.paths.field(set, name, &mut self.next, &mut self.folded);
        } else {
            self.next.clear();
            self.next.extend_from_slice(set);
        }
        self.next_mask = self.paths.strictest(&self.next, above);
    }

    fn string_done(&mut self, escaped: bool, input: &mut Input<'_>, out: &mut Vec<u8>) {
        let (mut held, part) = self.token(input);
        let token = if held.is_empty() { part } else { &held };
        let inner = if self.next_mask.is_none() { self.nested(token, escaped) } else { None };
        let outcome = match (inner, self.next_mask) {
            (Some(outcome), _) => outcome,
            (None, Some(mask)) => self.masked_string(mask, token, escaped),
            (None, None) => self.scanned(token),
        };
        // What is masked in it is counted one by one.
        if self.settle(outcome, &held, input, out) && inner.is_none() {
            self.note(self.next_mask);
        }
        held.clear();
        self.held = held;
        for buffer in [&mut self.held, &mut self.decoded, &mut self.text, &mut self.rewritten] {
            if buffer.capacity() > KEPT {
                *buffer = Vec::new();
            }
        }
    }

    /// What stands for a string that holds JSON, in `rewritten`; nothing where it is none that is looked into.
    fn nested(&mut self, token: &[u8], escaped: bool) -> Option<Outcome> {
        if !self.paths.looks_into_strings(&self.next) {
            return None;
        }
        let inner = token.get(1..token.len().saturating_sub(1)).unwrap_or_default();
        self.decoded.clear();
        if escaped {
            unescape(inner, &mut self.decoded);
        } else {
            self.decoded.extend_from_slice(inner);
        }
        let begins = self.decoded.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.decoded).trim_ascii_start();
        // Another string may hold JSON in its turn; or it is text that begins with a quotation.
        let is_quoted = match begins.first() {
            Some(b'{' | b'[') => false,
            Some(b'"') => true,
            _ => return None,
        };
        self.rewritten.clear();
        self.text.clear();
        if let Some(paths) = self.paths.within(&self.next) {
            let mut json = Self::new(self.masker.again(), paths);
            let done = json.push(&self.decoded, &mut self.text).and_then(|()| json.finish(&mut self.text));
            if done.is_ok() {
                let (found, counts) = (json.found, &json.masked);
                self.found += found;
                self.masked.iter_mut().zip(counts).for_each(|(count, more)| *count += more);
                let text = String::from_utf8_lossy(&self.text);
                let is_changed = json.count() > 0 && serde_json::to_writer(&mut self.rewritten, &text).is_ok();
                return Some(if is_changed { Outcome::Replaced } else { Outcome::Unchanged });
            }
            if is_quoted {
                return None;
            }
        }
        self.found += 1;
        self.rewritten.clear();
        self.rewritten.extend_from_slice(b"\"[masked]\"");
        Some(Outcome::Replaced)
    }

    /// What stands for a string at a masked path, in `rewritten`.
    fn masked_string(&mut self, mask: u16, token: &[u8], escaped: bool) -> Outcome {
        self.rewritten.clear();
        let inner = token.get(1..token.len().saturating_sub(1)).unwrap_or_default();
        self.decoded.clear();
        let value = if escaped {
            unescape(inner, &mut self.decoded);
            &self.decoded
        } else {
            inner
        };
        let Some(column) = self.paths.mask(mask) else { return Outcome::Null };
        self.text.clear();
        let is_base64 = self.paths.is_base64(mask);
        // What is none is masked as it stands.
        let plain = if is_base64 { BASE64.decode(value).ok() } else { None };
        let value = plain.as_deref().unwrap_or(value);
        let outcome = self.masker.apply(column, Carrier::Text { max_chars: None }, value, &mut self.text);
        if is_base64 {
            self.text = BASE64.encode(&self.text).into_bytes();
        }
        if outcome == Outcome::Replaced
            && serde_json::to_writer(&mut self.rewritten, &String::from_utf8_lossy(&self.text)).is_ok()
        {
            return Outcome::Replaced;
        }
        Outcome::Null
    }

    /// What detectors make of a string or number, in `rewritten`.
    fn scanned(&mut self, token: &[u8]) -> Outcome {
        // Without its escapes it is no longer than with them.
        let quotes = if token.first() == Some(&b'"') { 2 } else { 0 };
        if !self.scans || token.len() < SHORTEST + quotes {
            return Outcome::Unchanged;
        }
        self.rewritten.clear();
        self.masker.apply(&self.scan, Carrier::Json, token, &mut self.rewritten)
    }

    /// Writes what became of the value or name that ends here; `held`: of which so much was kept from earlier pieces.
    /// Whether that is anything else.
    fn settle(&mut self, outcome: Outcome, held: &[u8], input: &mut Input<'_>, out: &mut Vec<u8>) -> bool {
        if outcome == Outcome::Unchanged {
            if !held.is_empty() {
                out.extend_from_slice(held);
                (input.kept, input.token) = (input.at, input.at);
            }
            return false;
        }
        if held.is_empty() {
            input.pass(input.token, out);
        }
        out.extend_from_slice(if outcome == Outcome::Null { b"null" } else { &self.rewritten });
        input.kept = input.at;
        true
    }

    fn note(&mut self, mask: Option<u16>) {
        match mask.and_then(|mask| self.masked.get_mut(usize::from(mask))) {
            Some(count) => *count += 1,
            None => self.found += 1,
        }
    }

    fn bare(&mut self, input: &mut Input<'_>, out: &mut Vec<u8>) -> Result<(), NotJson> {
        let ends = input.rest().iter().position(|byte| !is_bare(*byte));
        input.at += ends.unwrap_or(input.rest().len());
        if self.held.len() + (input.at - input.token) > NUMBER_LIMIT {
            return Err(NotJson::Long);
        }
        if ends.is_some() {
            return self.bare_done(input, out);
        }
        self.hold(input, out);
        Ok(())
    }

    fn bare_done(&mut self, input: &mut Input<'_>, out: &mut Vec<u8>) -> Result<(), NotJson> {
        let (mut held, part) = self.token(input);
        let token = if held.is_empty() { part } else { &held };
        let word = matches!(token, b"true" | b"false" | b"null");
        if !word && !is_number(token) {
            return self.bad(input.at);
        }
        let outcome = match self.next_mask {
            Some(_) if token == b"null" => Outcome::Unchanged,
            Some(_) => Outcome::Null,
            None if word => Outcome::Unchanged,
            None => self.scanned(token),
        };
        if self.settle(outcome, &held, input, out) {
            self.note(self.next_mask);
        }
        held.clear();
        self.held = held;
        self.value_done();
        Ok(())
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Whether a byte can stand in a number or a word.
fn is_bare(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

/// RFC 8259, section 6.
fn is_number(token: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let rest = token.strip_prefix(b"-").unwrap_or(token);
    let whole = digits(rest);
    let mut rest = rest.get(whole..).unwrap_or_default();
    if whole == 0 || (whole > 1 && token.strip_prefix(b"-").unwrap_or(token).first() == Some(&b'0')) {
        return false;
    }
    if let Some(fraction) = rest.strip_prefix(b".") {
        let count = digits(fraction);
        if count == 0 {
            return false;
        }
        rest = fraction.get(count..).unwrap_or_default();
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = exponent.strip_prefix(b"+").or(exponent.strip_prefix(b"-")).unwrap_or(exponent);
        return !exponent.is_empty() && digits(exponent) == exponent.len();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests;
