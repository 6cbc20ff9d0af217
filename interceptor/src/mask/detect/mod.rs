//! Detectors: sensitive values recognised by their own form, inside longer text.
//!
//! One pass over the bytes decides which detectors have anything to look for; a clean value costs that pass. Text is
//! read without invisible characters, with Unicode digits, full-width letters, dashes and blanks as their ASCII
//! counterparts; spans are given in the original text. Every search is linear in the value.
//!
//! Not promised: values in another encoding than UTF-8 are read as bytes, where only ASCII is understood; a value that
//! is encoded, compressed, reversed, cut up by other signs than blanks, dashes, dots, slashes and line ends, or spread
//! over several values is not found; neither is what merely looks like an identifier (a card number without a valid
//! check digit, nine bare digits without the word SSN beside them).

mod email;
mod iban;
mod keys;
mod numbers;
mod plain;

use serde::Deserialize;

use self::keys::Literals;
use self::plain::Plain;

/// Longest value that is looked into. A longer one counts as a hit.
pub(super) const MAX_VALUE: usize = 32 << 20;

/// Bytes of the shortest value that any detector finds: `a@b.cc`.
pub(super) const SHORTEST: usize = 6;

/// Hits in one value. With more it is masked whole.
const MAX_SPANS: usize = 65_536;

/// Times that what is left between finds is looked through. If there was something to the last, the value is masked whole.
const MAX_ROUNDS: usize = 16;

/// A kind of value that is recognised by its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detector {
    /// Payment card number: 13 to 19 digits, a known issuer range, Luhn.
    Card,
    /// E-mail address.
    Email,
    /// International bank account number: country, its length, modulo 97.
    Iban,
    /// Social security number of the United States: `123-45-6789`, or nine digits after the word.
    #[serde(alias = "ssn")]
    UsSsn,
    /// Telephone number: `+` form, North American, and common European national forms.
    Phone,
    /// JSON web token: a header that decodes and names an algorithm.
    Jwt,
    /// Key of a cloud or an API, by its prefix.
    ApiKey,
    /// Private key in PEM or a similar armour.
    PrivateKey,
}

impl Detector {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Card, Self::Email, Self::Iban, Self::UsSsn, Self::Phone, Self::Jwt, Self::ApiKey, Self::PrivateKey];

    const fn bit(self) -> u8 {
        match self {
            Self::Card => 1,
            Self::Email => 2,
            Self::Iban => 4,
            Self::UsSsn => 8,
            Self::Phone => 16,
            Self::Jwt => 32,
            Self::ApiKey => 64,
            Self::PrivateKey => 128,
        }
    }
}

/// A set of detectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DetectorSet(u8);

impl DetectorSet {
    pub(super) fn insert(&mut self, detector: Detector) {
        self.0 |= detector.bit();
    }

    pub(super) fn contains(self, detector: Detector) -> bool {
        self.0 & detector.bit() != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Where a value was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) detector: Detector,
    /// Another detector found something here, too.
    pub(super) mixed: bool,
}

/// What a scan found; the spans are in [`Work::spans`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Spans,
    /// The value is too long, or has too many hits: it can only be masked whole.
    TooMuch,
}

/// Buffers that live from value to value.
#[derive(Clone, Debug, Default)]
pub(super) struct Work {
    hits: Hits,
    plain: Plain,
}

impl Work {
    /// Sorted, without overlaps.
    pub(super) fn spans(&self) -> &[Span] {
        &self.hits.spans
    }
}

/// Collects spans, bounded.
#[derive(Clone, Debug, Default)]
struct Hits {
    spans: Vec<Span>,
    /// Where the text that is searched begins.
    base: usize,
    overflow: bool,
    /// Which texts between spans this round has searched, and which the round before: what is as it was has nothing new.
    between: Vec<(usize, usize)>,
    before: Vec<(usize, usize)>,
}

impl Hits {
    fn push(&mut self, detector: Detector, start: usize, end: usize) {
        if self.spans.len() >= MAX_SPANS {
            self.overflow = true;
            return;
        }
        self.spans.push(Span { start: self.base + start, end: self.base + end, detector, mixed: false });
    }

    fn clear(&mut self) {
        self.spans.clear();
        self.between.clear();
        (self.base, self.overflow) = (0, false);
    }

    /// Sorts, and joins what overlaps.
    fn settle(&mut self) {
        self.spans.sort_unstable_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
        self.spans.dedup_by(|next, kept| {
            let overlaps = next.start < kept.end;
            if overlaps {
                kept.mixed |= next.mixed || next.detector != kept.detector;
                kept.end = kept.end.max(next.end);
            }
            overlaps
        });
    }
}

/// The detectors, built once.
#[derive(Debug)]
pub(super) struct Scanner {
    literals: Literals,
}

impl Scanner {
    pub(super) fn new() -> Option<Self> {
        Some(Self { literals: Literals::new()? })
    }

    /// Looks for what `wanted` names in `value`.
    pub(super) fn scan(&self, wanted: DetectorSet, value: &[u8], work: &mut Work) -> Found {
        let Work { hits, plain } = work;
        hits.clear();
        if value.len() > MAX_VALUE {
            return Found::TooMuch;
        }
        let signs = Signs::of(value);
        if signs.high {
            plain.read(value);
            self.search_through(wanted, Signs::of(plain.text()), plain.text(), hits);
            for span in &mut hits.spans {
                (span.start, span.end) = plain.original(span.start, span.end, value);
            }
        } else {
            self.search_through(wanted, signs, value, hits);
        }
        if hits.overflow {
            return Found::TooMuch;
        }
        if hits.spans.is_empty() {
            return Found::Nothing;
        }
        hits.settle();
        Found::Spans
    }

    /// Finds everything, also what is a value only once another that it touches is gone: `4111...+4930...`.
    fn search_through(&self, wanted: DetectorSet, signs: Signs, text: &[u8], hits: &mut Hits) {
        self.search(wanted, signs, text, hits);
        for _ in 0..MAX_ROUNDS {
            if hits.spans.is_empty() || hits.overflow {
                return;
            }
            hits.settle();
            let known = hits.spans.len();
            self.search_between(wanted, text, hits);
            if hits.spans.len() == known {
                return;
            }
        }
        hits.overflow = true;
    }

    /// Searches each text that lies before, between and behind what was found, as if it stood alone.
    fn search_between(&self, wanted: DetectorSet, text: &[u8], hits: &mut Hits) {
        let (mut start, known) = (0, hits.spans.len());
        std::mem::swap(&mut hits.between, &mut hits.before);
        hits.between.clear();
        for at in 0..=known {
            let found = hits.spans.get(at).filter(|_| at < known);
            let (stop, next) = found.map_or((text.len(), text.len()), |span| (span.start, span.end));
            hits.between.push((start, stop));
            let is_new = hits.before.binary_search(&(start, stop)).is_err();
            if let Some(between) = text.get(start..stop).filter(|between| is_new && between.len() >= SHORTEST) {
                hits.base = start;
                self.search(wanted, Signs::of(between), between, hits);
            }
            start = next;
        }
        hits.base = 0;
    }

    fn search(&self, wanted: DetectorSet, signs: Signs, text: &[u8], hits: &mut Hits) {
        let has = |detector| wanted.contains(detector);
        if has(Detector::Card) && signs.digits >= numbers::CARD_MIN {
            numbers::cards(text, hits);
        }
        if has(Detector::UsSsn) && signs.digits >= 9 {
            numbers::ssns(text, hits);
        }
        if has(Detector::Phone) && signs.digits >= numbers::PHONE_MIN {
            numbers::phones(text, hits);
        }
        if has(Detector::Iban) && signs.letter_digit && signs.digits >= 2 && text.len() >= iban::MIN {
            iban::find(text, hits);
        }
        if has(Detector::Email) && signs.at {
            email::find(text, hits);
        }
        let keys = has(Detector::Jwt) || has(Detector::ApiKey) || has(Detector::PrivateKey);
        if keys && text.len() >= keys::MIN {
            self.literals.find(wanted, text, hits);
        }
    }
}

/// What one pass over the bytes tells.
#[derive(Clone, Copy, Debug, Default)]
struct Signs {
    digits: usize,
    letter_digit: bool,
    at: bool,
    high: bool,
}

impl Signs {
    fn of(text: &[u8]) -> Self {
        let mut signs = Self::default();
        let mut letter = false;
        for byte in text {
            let digit = byte.is_ascii_digit();
            signs.digits += usize::from(digit);
            signs.letter_digit |= letter & digit;
            letter = byte.is_ascii_alphabetic();
            signs.at |= *byte == b'@';
            signs.high |= *byte >= 0x80;
        }
        signs
    }
}

/// The byte at `at`; 0, which is in no value of interest, outside of the text.
fn byte(text: &[u8], at: usize) -> u8 {
    text.get(at).copied().unwrap_or(0)
}

/// The byte before `at`, likewise.
fn before(text: &[u8], at: usize) -> u8 {
    at.checked_sub(1).map_or(0, |at| byte(text, at))
}

/// End of the run of bytes from `start` that `of` accepts.
fn run(text: &[u8], start: usize, of: impl Fn(u8) -> bool) -> usize {
    let rest = text.get(start..).unwrap_or_default();
    start + rest.iter().position(|byte| !of(*byte)).unwrap_or(rest.len())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
