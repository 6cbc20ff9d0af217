//! Server-sent events (the HTML standard, section 9.2) that are masked while they pass, event by event.
//!
//! What an event says stands in lines `data: ...`, which belong together: as JSON where they are, as text where not. All
//! other lines (`event`, `id`, `retry`, comments) are looked at by detectors one by one, and pass at once where no data
//! stands before them. Where values are masked by path, those that could hold a document do not pass. Where data is masked, it is written as new lines in the place of its first one.
//!
//! Not promised: a value that a target spreads over several events (a model that answers word by word) is not found.

use super::Refused;
use crate::mask::{Carrier, ColumnMask, JsonMasker, JsonPaths, Masker, Outcome};

/// The most that an event may have, in bytes.
pub(super) const EVENT_LIMIT: usize = 1 << 20;
/// What ends the answers of some well-known services, and is no JSON.
const DONE: &[u8] = b"[DONE]";
/// What stands for data that would have to be masked by path, and is no JSON.
const MASKED: &[u8] = b"[masked]";

/// Masks events as they come, piece by piece.
#[derive(Debug)]
pub(super) struct Events {
    masker: Masker,
    json: JsonMasker,
    scan: ColumnMask,
    by_path: bool,
    /// The line that is not complete.
    line: Vec<u8>,
    /// All lines from the first with data on, as they would pass.
    raw: Vec<u8>,
    /// Those of them without data.
    others: Vec<u8>,
    /// What the lines with data say together.
    data: Option<Vec<u8>>,
    /// The last line ended with CR: LF may belong to it.
    returned: bool,
    /// Where that would belong to.
    last: Last,
    begun: bool,
    rewritten: Vec<u8>,
    found: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Passed,
    Data,
    Other,
}

impl Events {
    pub(super) fn new(masker: Masker, paths: JsonPaths) -> Self {
        Self {
            json: JsonMasker::new(masker.again(), paths.clone()),
            scan: masker.column(&std::sync::Arc::default(), false),
            by_path: !paths.is_empty(),
            masker,
            line: Vec::new(),
            raw: Vec::new(),
            others: Vec::new(),
            data: None,
            returned: false,
            last: Last::Passed,
            begun: false,
            rewritten: Vec::new(),
            found: 0,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
        let mut rest = bytes;
        while let Some(&first) = rest.first() {
            if std::mem::take(&mut self.returned) && first == b'\n' {
                self.end_of_line(first, out);
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let (part, after) = rest.split_at_checked(end.unwrap_or(rest.len())).unwrap_or((rest, &[]));
            self.line.extend_from_slice(part);
            if self.held() > EVENT_LIMIT {
                return Err(Refused::Event);
            }
            rest = after;
            if let Some((&end, after)) = after.split_first() {
                rest = after;
                self.returned = end == b'\r';
                self.line(Some(end), out);
            }
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.line.is_empty() {
            self.line(None, out);
        }
        self.dispatch(out);
    }

    pub(super) fn held(&self) -> usize {
        self.line.len() + self.raw.len() + self.data.as_ref().map_or(0, Vec::len)
    }

    pub(super) fn take_counts(&mut self) -> (Vec<(String, u64)>, u64) {
        let (by_path, found) = self.json.take_counts();
        (by_path, found + std::mem::take(&mut self.found))
    }

    /// The second byte of CRLF.
    fn end_of_line(&mut self, byte: u8, out: &mut Vec<u8>) {
        if self.last == Last::Passed {
            out.push(byte);
            return;
        }
        self.raw.push(byte);
        if self.last == Last::Other {
            self.others.push(byte);
        }
    }

    fn line(&mut self, end: Option<u8>, out: &mut Vec<u8>) {
        let whole = std::mem::take(&mut self.line);
        let mut line = whole.as_slice();
        if !std::mem::replace(&mut self.begun, true)
            && let Some(rest) = line.strip_prefix(b"\xef\xbb\xbf")
        {
            out.extend_from_slice(b"\xef\xbb\xbf");
            line = rest;
        }
        if let Some(data) = data(line) {
            match &mut self.data {
                Some(known) => known.push(b'\n'),
                None => self.data = Some(Vec::new()),
            }
            self.data.get_or_insert_default().extend_from_slice(data);
            self.raw.extend_from_slice(line);
            self.raw.extend(end);
            self.last = Last::Data;
        } else if line.is_empty() {
            self.dispatch(out);
            out.extend(end);
        } else {
            self.other(line, end, out);
        }
        self.line = whole;
        self.line.clear();
    }

    fn other(&mut self, line: &[u8], end: Option<u8>, out: &mut Vec<u8>) {
        self.rewritten.clear();
        let hides = self.by_path && !is_short(line);
        let outcome = self.masker.apply(&self.scan, Carrier::Text { max_chars: None }, line, &mut self.rewritten);
        let shown: &[u8] = match outcome {
            _ if hides => &[],
            Outcome::Unchanged => line,
            Outcome::Replaced => &self.rewritten,
            Outcome::Null => &[],
        };
        self.found += u64::from(hides || outcome != Outcome::Unchanged);
        // A line without anything would end the event.
        let shown = if shown.is_empty() { b":" } else { shown };
        if self.data.is_none() {
            out.extend_from_slice(shown);
            out.extend(end);
            self.last = Last::Passed;
            return;
        }
        for to in [&mut self.raw, &mut self.others] {
            to.extend_from_slice(shown);
            to.extend(end);
        }
        self.last = Last::Other;
    }

    /// An event is complete.
    fn dispatch(&mut self, out: &mut Vec<u8>) {
        self.last = Last::Passed;
        let Some(data) = self.data.take() else { return };
        if self.masked(&data) {
            for line in self.rewritten.split(|byte| matches!(byte, b'\n' | b'\r')) {
                out.extend_from_slice(b"data: ");
                out.extend_from_slice(line);
                out.push(b'\n');
            }
            out.extend_from_slice(&self.others);
        } else {
            out.extend_from_slice(&self.raw);
        }
        self.raw.clear();
        self.others.clear();
    }

    /// What stands for data, in `rewritten`; whether that is anything else.
    fn masked(&mut self, data: &[u8]) -> bool {
        self.rewritten.clear();
        self.json.reset();
        let before = self.json.count();
        let read = self.json.push(data, &mut self.rewritten).and_then(|()| self.json.finish(&mut self.rewritten));
        if read.is_ok() {
            return self.json.count() != before;
        }
        self.rewritten.clear();
        if self.by_path && data != DONE {
            self.rewritten.extend_from_slice(MASKED);
            self.found += 1;
            return true;
        }
        let outcome = self.masker.apply(&self.scan, Carrier::Text { max_chars: None }, data, &mut self.rewritten);
        self.found += u64::from(outcome != Outcome::Unchanged);
        outcome != Outcome::Unchanged
    }
}

/// Whether a line without data says what such lines are for, and has no room for a document: paths look into data alone.
fn is_short(line: &[u8]) -> bool {
    const LONGEST: usize = 256;
    let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
    let (name, value) = line.split_at_checked(colon).unwrap_or((line, &[]));
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b" :._-/=+~,|#".contains(byte);
    match name {
        // A comment keeps a connection alive.
        b"" => value.len() <= 32 && value.iter().all(plain),
        b"event" | b"id" | b"retry" => line.len() <= LONGEST && value.iter().all(plain),
        _ => value.is_empty(),
    }
}

/// What a line says that has data.
fn data(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"data")?;
    let Some(value) = rest.strip_prefix(b":") else { return rest.is_empty().then_some(rest) };
    Some(value.strip_prefix(b" ").unwrap_or(value))
}
