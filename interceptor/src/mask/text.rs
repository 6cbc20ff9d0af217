//! Text that is masked while it passes, by detectors, without holding much of it.
//!
//! It is cut into blocks by what stands in it alone, never by how it comes: at the end of a line behind which no value can
//! go on, or else at [`BLOCK`] bytes less [`OVERLAP`], before whatever was found across that place. Each block is looked at
//! with some of the text before it, which may say what its values are.
//!
//! A line that ends in digits waits for the next: groups of a number may stand on several lines.

use super::masker::Masker;

/// As much is held at most before it is cut somewhere, in bytes.
pub const BLOCK: usize = 64 << 10;
/// What stands closer to the end of what is held waits, in bytes: a value may begin there.
const OVERLAP: usize = 8 << 10;
/// The longest value that is waited for, in bytes.
pub const VALUE_LIMIT: usize = 1 << 20;
/// Bytes of the text before that are looked at with a block.
const CONTEXT: usize = 128;
/// As many bytes before the end of a line decide whether a value can go on behind it.
const TAIL: usize = 40;

/// A value is longer than [`VALUE_LIMIT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has a value of more than {VALUE_LIMIT} bytes")]
pub struct TooLong;

/// Masks text as it comes, piece by piece.
#[derive(Clone, Debug)]
pub struct TextMasker {
    masker: Masker,
    /// Text that was passed on, then text that was not.
    held: Vec<u8>,
    passed: usize,
    /// Where the line begins that was not looked at.
    line: usize,
    /// Up to here, it has no end.
    searched: usize,
    /// The next look at what is held is due at this length.
    due: usize,
    /// Something that goes on over lines has begun.
    open: Open,
    found: u64,
}

impl TextMasker {
    /// One for answers under the masker's obligations.
    #[must_use]
    pub fn new(masker: Masker) -> Self {
        Self { masker, held: Vec::new(), passed: 0, line: 0, searched: 0, due: BLOCK, open: Open::No, found: 0 }
    }

    /// Takes the next piece, and appends what is decided.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
        self.held.extend_from_slice(bytes);
        loop {
            if let Some(end) = self.line_end() {
                self.write(end, end, out);
                continue;
            }
            let waiting = self.held.len() - self.passed;
            if waiting < self.due {
                break;
            }
            self.cut(out)?;
        }
        self.forget();
        Ok(())
    }

    /// Whether something waits for what may come behind it.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.held.len() > self.passed
    }

    /// Whether something has begun that goes on over lines.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open != Open::No
    }

    /// Nothing comes any more; or it does, and what waits does not wait for it.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.write(self.held.len(), self.held.len(), out);
    }

    /// Passes on the lines that are complete, though a value may go on behind them; whether there was one. For whoever has
    /// waited for more in vain, as one that follows a log does.
    pub fn release_lines(&mut self, out: &mut Vec<u8>) -> bool {
        if self.open != Open::No {
            return false;
        }
        let waiting = self.held.get(self.passed..).unwrap_or_default();
        let Some(end) = waiting.iter().rposition(|byte| *byte == b'\n') else { return false };
        let end = self.passed + end + 1;
        self.write(end, end, out)
    }

    /// How many values were masked since it was asked last.
    pub fn take_count(&mut self) -> u64 {
        std::mem::take(&mut self.found)
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Cuts what is held at a place that depends on its first bytes alone, however many more there are.
    fn cut(&mut self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let until = (self.passed + self.due).min(self.held.len());
        let wanted = self.gap(until - OVERLAP);
        if self.write(wanted, until, out) {
            self.due = BLOCK;
            return Ok(());
        }
        // One value from the first byte on.
        self.due += BLOCK;
        if self.due > VALUE_LIMIT { Err(TooLong) } else { Ok(()) }
    }

    /// The last blank before `to`, or else `to`: what has no blank in it is not cut, unless it is longer than a block.
    fn gap(&self, to: usize) -> usize {
        let free = self.held.get(self.passed..to).unwrap_or_default();
        let blank = free.iter().rposition(u8::is_ascii_whitespace);
        blank.map_or_else(|| boundary(&self.held, self.passed, to), |at| self.passed + at + 1)
    }

    /// The end of the next line behind which no value can go on, if it is in the next block.
    fn line_end(&mut self) -> Option<usize> {
        let limit = (self.passed + self.due).min(self.held.len());
        while let Some(at) = self.held.get(self.searched..limit)?.iter().position(|byte| *byte == b'\n') {
            let end = self.searched + at + 1;
            let line = self.held.get(self.line..end).unwrap_or_default();
            self.open = self.open.behind(line);
            (self.line, self.searched) = (end, end);
            let tail = self.held.get(end.saturating_sub(TAIL).max(self.passed)..end).unwrap_or_default();
            if self.open == Open::No && ends_quietly(tail) {
                return Some(end);
            }
        }
        self.searched = limit.max(self.searched);
        None
    }

    /// Writes what stands before `to`, or before a value that goes on behind it, with all before `until` looked at.
    /// Whether that was anything.
    fn write(&mut self, to: usize, until: usize, out: &mut Vec<u8>) -> bool {
        let from = self.passed;
        let context = boundary(&self.held, 0, from.saturating_sub(CONTEXT));
        let looked = self.held.get(context..until).unwrap_or_default();
        let (cut, found) = self.masker.part(looked, from - context..to - context, out);
        let cut = cut + context;
        if cut <= from {
            return false;
        }
        self.found += found;
        self.passed = cut;
        (self.line, self.searched, self.open) = (cut, cut, Open::No);
        true
    }

    /// Drops what was passed on and is no context any more: once for each piece, as the rest moves.
    fn forget(&mut self) {
        // A character has up to four bytes, and its start is looked for.
        let spare = self.passed.saturating_sub(CONTEXT + 4);
        self.held.drain(..spare);
        for place in [&mut self.passed, &mut self.line, &mut self.searched] {
            *place -= spare;
        }
    }
}

/// What has begun that goes on over lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    No,
    /// An armoured key, until its last line.
    Armour,
    /// A key file that is not armoured, until the end of all.
    Rest,
}

impl Open {
    fn behind(self, line: &[u8]) -> Self {
        // All marks have one.
        if !line.contains(&b'-') {
            return self;
        }
        let last = |mark: &[u8]| line.windows(mark.len()).rposition(|part| part == mark);
        if self == Self::Rest || last(b"PuTTY-User-Key-File-").is_some() {
            return Self::Rest;
        }
        match (last(b"-----BEGIN "), last(b"-----END ")) {
            (None, None) => self,
            (begin, end) if begin > end => Self::Armour,
            _ => Self::No,
        }
    }
}

/// The start of the character at or before `at`, but not before `from`.
fn boundary(text: &[u8], from: usize, at: usize) -> usize {
    let inside = |at: &usize| text.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
    (from..=at).rev().take(4).find(|at| !inside(at)).unwrap_or(at)
}

/// Whether no number, and nothing that could be read as one, stands at the end of a line.
fn ends_quietly(tail: &[u8]) -> bool {
    let last = tail.get(tail.len().saturating_sub(4)..).unwrap_or_default();
    !tail.iter().any(|byte| byte.is_ascii_digit() || *byte >= 0x80) && !last.iter().any(|byte| b"+(".contains(byte))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, LazyLock};

    use proptest::prelude::*;

    use super::*;
    use crate::mask::{Config, Detector, Rules, Transform};
    use crate::policy::Obligations;

    const CARD: &str = "4111111111111111";

    static ALL: LazyLock<TextMasker> = LazyLock::new(|| {
        let detect = Detector::ALL.to_vec();
        let entry = Config {
            tag: "x".into(),
            columns: Vec::new(),
            json: Vec::new(),
            detect,
            base64: false,
            transform: Transform::Redact,
        };
        let rules = Arc::new(Rules::compile(&[entry], None).unwrap());
        TextMasker::new(Masker::new(rules, &Obligations { masked: Arc::new([Arc::from("x")].into()) }))
    });

    fn run(text: &[u8], step: usize) -> Result<(String, usize), TooLong> {
        let mut masker = ALL.clone();
        let (mut out, mut most) = (Vec::new(), 0);
        for piece in text.chunks(step) {
            masker.push(piece, &mut out)?;
            most = most.max(masker.held());
        }
        masker.finish(&mut out);
        Ok((String::from_utf8(out).unwrap(), most))
    }

    /// At every cut alike, and nothing of a value in it.
    fn masked(text: &str) -> String {
        let (whole, _) = run(text.as_bytes(), usize::MAX).unwrap();
        let steps: &[usize] = if text.len() > BLOCK { &[32768] } else { &[1, 2, 3, 7, 100, 4096] };
        for step in steps {
            let step = *step;
            assert!(run(text.as_bytes(), step).unwrap().0 == whole, "{text:.100} in steps of {step}");
        }
        whole
    }

    #[test]
    fn values_are_found_wherever_text_is_cut() {
        assert_eq!(masked(&format!("card {CARD}.\nnext")), "card [masked:x].\nnext");
        // On two lines; over the end of a block; between characters of several bytes.
        assert_eq!(masked("pay 4111 1111\n1111 1111 now\n"), "pay [masked:x] now\n");
        assert_eq!(masked("ssn:\n123456789\nx\n"), "ssn:\n[masked:x]\nx\n");
        for shift in [0, 1, 7, 8, 15, 16, 17, 18] {
            for filler in ["x", "é", "7 ", "a\n"] {
                let text = format!(
                    "{}{CARD} {}",
                    filler.repeat((BLOCK - OVERLAP - shift) / filler.len()),
                    "y ".repeat(BLOCK / 4)
                );
                let out = masked(&text);
                assert!(!out.contains(CARD) && !out.contains("11111111"), "{filler} {shift}");
            }
        }
    }

    #[test]
    fn lines_pass_as_they_come_where_nothing_can_go_on_behind_them() {
        let mut masker = ALL.clone();
        let mut out = Vec::new();
        masker.push(b"server started\nlistening on port 80\nand", &mut out).unwrap();
        assert_eq!(out, b"server started\n");
        masker.push(b" more words that have nothing to do with it\n", &mut out).unwrap();
        assert!(out.ends_with(b"with it\n"));
    }

    #[test]
    fn lines_do_not_wait_for_ever() {
        let mut masker = ALL.clone();
        let mut out = Vec::new();
        masker.push(format!("took 17\ncard {CARD}\nbegins 4111").as_bytes(), &mut out).unwrap();
        assert_eq!(out, b"");
        assert!(masker.release_lines(&mut out) && !masker.release_lines(&mut out));
        assert_eq!(out, b"took 17\ncard [masked:x]\n");
        masker.push(b"111111111111 ends\n", &mut out).unwrap();
        masker.finish(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "took 17\ncard [masked:x]\nbegins [masked:x] ends\n");
        // A key goes on over lines: it waits.
        let mut masker = ALL.clone();
        masker.push(b"-----BEGIN PRIVATE KEY-----\nMIIEvQ\n", &mut Vec::new()).unwrap();
        assert!(!masker.release_lines(&mut Vec::new()));
    }

    #[test]
    fn a_key_on_many_lines_is_one_value() {
        let body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj\n".repeat(40);
        let key = format!("-----BEGIN PRIVATE KEY-----\n{body}-----END PRIVATE KEY-----\n");
        assert_eq!(masked(&format!("a\n{key}b\n")), "a\n[masked:x]\nb\n");
        for pad in [BLOCK - 10, BLOCK - OVERLAP - 10, BLOCK - 1000] {
            let text = format!("{}\n{key}b\n", "w".repeat(pad));
            assert!(masked(&text).ends_with("w\n[masked:x]\nb\n"));
        }
        let endless = format!("-----BEGIN PRIVATE KEY-----\n{}", "Mabcdefghijk\n".repeat(VALUE_LIMIT / 12));
        assert_eq!(run(endless.as_bytes(), 4096), Err(TooLong));
    }

    #[test]
    fn what_is_held_is_bounded() {
        for text in ["1 ".repeat(90_000), "x".repeat(180_000), "9\n".repeat(90_000), "é".repeat(90_000)] {
            let (out, most) = run(text.as_bytes(), 1000).unwrap();
            assert!(most <= BLOCK + CONTEXT + 1010, "{most}");
            assert_eq!(out.len(), text.len());
        }
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            text in "(\n|[a-z ]{1,30}\n|4111[ \n-]?1111|ada@x[.]org|ssn|\\+49 |[0-9]{1,9}|é|٣|-----(BEGIN|END) PRIVATE KEY-----|eyJ){0,60}",
            step in 1usize..50,
        ) {
            prop_assert_eq!(run(text.as_bytes(), step).unwrap().0, run(text.as_bytes(), usize::MAX).unwrap().0);
        }
    }
}
