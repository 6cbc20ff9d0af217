//! A secret whose characters stand on several lines, as mail, PEM and `base64` write what is long: in base64, in hexadecimal, or as it is.
//!
//! Lines end with LF or CR LF, or as JSON escapes those (`\n`), and may be indented; `=` may stand before (quoted-printable). Only what stands
//! around the ends of lines is looked at, each byte at most twice. Not found: lines that other signs begin or end (`>`, `|`), and a secret spread over so
//! many lines that most of it is their ends.
//!
//! Where an answer pauses at the end of a line, fewer than [`BEGINNING`] characters do not wait for what comes behind it: any
//! line may end so. What comes is found without them.

use std::collections::BTreeSet;
use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::BLOT;

/// Spellings that are shorter are not looked for: words of two lines could be one.
const SHORTEST: usize = 8;
/// What comes of one behind the end of a line that has passed is looked for where it is no shorter.
const REST: usize = 6;
/// So many characters at the end of a line are the beginning of a secret, and fewer are any.
const BEGINNING: usize = 4;
/// How many bytes may stand for one character of a secret, with the ends of lines.
const SPREAD: usize = 4;

/// How a secret may be written on several lines.
pub(super) struct Broken {
    finder: AhoCorasick,
    /// In order.
    all: Vec<Vec<u8>>,
    /// What they consist of.
    members: [bool; 256],
    shortest: usize,
    longest: usize,
}

/// A run of characters without the ends of lines between them.
#[derive(Default)]
struct Run {
    characters: Vec<u8>,
    /// Where each stands.
    places: Vec<usize>,
}

/// How what has come so far ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    /// Within a line.
    Within,
    /// With the end of a line.
    LineEnd,
    /// With what may be a part of one.
    Cut,
}

impl Broken {
    /// Of those spellings that nothing else than the end of a line breaks; nothing where there are none.
    pub(super) fn of<'a>(spellings: impl Iterator<Item = &'a Vec<u8>>) -> Option<Self> {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_.~".contains(byte);
        let whole = spellings.filter(|one| one.iter().all(plain));
        let whole = whole.filter(|one| one.len() >= SHORTEST);
        let from = |one: &'a Vec<u8>| (0..BEGINNING).filter_map(|from| one.get(from..));
        let all: BTreeSet<&[u8]> = whole.flat_map(from).filter(|one| one.len() >= REST).collect();
        let all: Vec<Vec<u8>> = all.into_iter().map(<[u8]>::to_vec).collect();
        let lengths = || all.iter().map(Vec::len);
        let (shortest, longest) = (lengths().min()?, lengths().max()?);
        let kind = Some(AhoCorasickKind::ContiguousNFA);
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).kind(kind).build(&all).ok()?;
        let mut members = [false; 256];
        for byte in all.iter().flatten() {
            if let Some(is) = members.get_mut(usize::from(*byte)) {
                *is = true;
            }
        }
        Some(Self { finder, all, members, shortest, longest })
    }

    /// Whether it is in there.
    pub(super) fn is_in(&self, bytes: &[u8]) -> bool {
        let mut is_found = false;
        self.each(bytes, |_| {
            is_found = true;
            false
        });
        is_found
    }

    /// Blots out all that begins before there. Whether anything was.
    pub(super) fn blot_before(&self, bytes: &mut [u8], end: usize) -> bool {
        let mut found: Vec<usize> = Vec::new();
        self.each(bytes, |places| {
            if places.first().is_some_and(|first| *first < end) {
                found.extend(places);
            }
            true
        });
        for place in &found {
            bytes.get_mut(*place).into_iter().for_each(|byte| *byte = BLOT);
        }
        !found.is_empty()
    }

    /// How many bytes at the end may be the beginning of something.
    pub(super) fn begun(&self, bytes: &[u8]) -> usize {
        let from = bytes.len().saturating_sub(self.longest.saturating_mul(SPREAD));
        let Some(window) = bytes.get(from..) else { return 0 };
        let may_end = |byte: &u8| {
            self.is_member(*byte) || matches!(byte, b'\n' | b'\r' | b'\\' | b'=' | b' ' | b'\t' | b'n' | b'r')
        };
        if !window.last().is_some_and(may_end) {
            return 0;
        }
        let (run, tail, is_all) = self.last_run(window);
        let least = if tail == Tail::LineEnd { BEGINNING } else { 1 };
        let most = run.characters.len().min(self.longest - 1);
        let waits = |count: &usize| {
            let end = run.characters.get(run.characters.len() - count..).unwrap_or_default();
            let next = self.all.partition_point(|one| one.as_slice() <= end);
            let begins = self.all.get(next).is_some_and(|one| one.starts_with(end));
            // What stands on one line waits by itself, but for what goes on from an end that has passed.
            let is_broken = tail != Tail::Within || run.span(window, *count) > *count;
            begins && (is_broken || (is_all && from == 0 && *count == run.characters.len()))
        };
        (least..=most).rev().find(waits).map_or(0, |count| run.span(window, count))
    }

    /// What stands on the last lines, how they end, and whether it is all that stands there.
    fn last_run(&self, window: &[u8]) -> (Run, Tail, bool) {
        let (mut run, mut at, mut tail, mut is_all) = (Run::default(), 0, Tail::LineEnd, true);
        while let Some(byte) = window.get(at) {
            let rest = window.get(at..).unwrap_or_default();
            if matches!(rest, b"\\" | b"=" | b"=\\") {
                return (run, Tail::Cut, is_all);
            }
            match line_end(rest, tail == Tail::LineEnd) {
                0 if self.is_member(*byte) => {
                    run.push(*byte, at);
                    (at, tail) = (at + 1, Tail::Within);
                }
                0 => {
                    run.clear();
                    (at, tail, is_all) = (at + 1, Tail::Within, false);
                }
                size => (at, tail) = (at + size, Tail::LineEnd),
            }
        }
        (run, tail, is_all)
    }

    fn is_member(&self, byte: u8) -> bool {
        self.members.get(usize::from(byte)).is_some_and(|is| *is)
    }

    /// Tells of each that is found where its characters stand, for as long as the answer is yes.
    fn each(&self, bytes: &[u8], mut tell: impl FnMut(&[usize]) -> bool) {
        let mut run = Run::default();
        // A line may have ended where these begin.
        let (mut at, mut next, mut is_first) = (0, Some(0..0), true);
        while let Some(end) = next {
            run.clear();
            self.before(bytes, end.start, &mut run);
            at = self.behind(bytes, end.end, &mut run).max(at + 1);
            if run.characters.len() >= self.shortest {
                for found in self.finder.find_iter(&run.characters) {
                    let places = run.places.get(found.range()).unwrap_or_default();
                    let goes_on = is_first && found.start() == 0;
                    let is_broken =
                        places.first().zip(places.last()).is_some_and(|(first, last)| last - first >= places.len());
                    if (is_broken || goes_on) && !tell(places) {
                        return;
                    }
                }
            }
            (next, is_first) = (next_end(bytes, at), false);
        }
    }

    /// What stands on the line that ends there.
    fn before(&self, bytes: &[u8], end: usize, run: &mut Run) {
        let line = bytes.get(end.saturating_sub(self.longest - 1)..end).unwrap_or_default();
        let count = line.iter().rev().take_while(|byte| self.is_member(**byte)).count();
        for (place, byte) in bytes.iter().enumerate().take(end).skip(end - count) {
            run.push(*byte, place);
        }
    }

    /// What stands on the lines behind: where there is none any more.
    fn behind(&self, bytes: &[u8], begin: usize, run: &mut Run) -> usize {
        let (mut at, mut on_line, mut indents) = (begin, 0, true);
        while let Some(byte) = bytes.get(at) {
            let size = line_end(bytes.get(at..).unwrap_or_default(), indents);
            if size > 0 {
                (on_line, indents) = (0, true);
                at += size;
                continue;
            }
            // The end of a line that is longer is looked at by itself.
            if !self.is_member(*byte) || on_line == self.longest {
                break;
            }
            run.push(*byte, at);
            (on_line, indents) = (on_line + 1, false);
            at += 1;
        }
        at
    }
}

impl Run {
    fn push(&mut self, character: u8, place: usize) {
        self.characters.push(character);
        self.places.push(place);
    }

    /// Bytes from where so many of the last ones begin.
    fn span(&self, window: &[u8], count: usize) -> usize {
        let start = self.places.get(self.places.len() - count).copied().unwrap_or(window.len());
        window.len() - start
    }

    fn clear(&mut self) {
        self.characters.clear();
        self.places.clear();
    }
}

/// The next end of a line, from there on.
fn next_end(bytes: &[u8], from: usize) -> Option<Range<usize>> {
    let mut at = from;
    loop {
        at += memchr::memchr2(b'\n', b'\\', bytes.get(at..)?)?;
        let size = line_end(bytes.get(at..)?, false);
        if size > 0 {
            let end = at + size;
            // What stands before is no part of the line either.
            let before = bytes.get(..at)?;
            let before = before.strip_suffix(b"\r").or_else(|| before.strip_suffix(b"\\r")).unwrap_or(before);
            let before = before.strip_suffix(b"=").unwrap_or(before);
            return Some(before.len()..end);
        }
        at += 1;
    }
}

/// How many bytes stand there of the end of a line. `indents`: one stands right before.
fn line_end(bytes: &[u8], indents: bool) -> usize {
    match bytes {
        [b'\n' | b'\r', ..] => 1,
        [b' ' | b'\t', ..] if indents => 1,
        [b'\\', b'n' | b'r', ..] => 2,
        [b'=', b'\n' | b'\r', ..] | [b'=', b'\\', b'n' | b'r', ..] => 1,
        _ => 0,
    }
}
