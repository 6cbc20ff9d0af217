//! What a target echoes of the credential that was put into a request: found, in the ways in which programs write such
//! things out, and blotted out, however the bytes come. Lengths stay as they are.
//!
//! Looked for are the secret as it is, in base64 (both alphabets, at whatever place within a longer text), in hexadecimal, all of these
//! also where lines break within; percent-encoded, quoted-printable, and as JSON, HTML and gRPC's statuses escape it, or each of its characters.
//! Not promised: any other transformation, a secret of less than
//! [`SHORTEST`] bytes, and a target that can be made to say a few bytes of it at a time (`Range`).

mod broken;
mod spelt;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, Match, MatchKind};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::codec::{Fields, ResponseHead};
use crate::secret::Secret;
use broken::Broken;

/// Secrets that are shorter are not looked for: they would be found everywhere.
pub(super) const SHORTEST: usize = 6;
/// What stands in the place of each byte.
const BLOT: u8 = b'*';

/// How a secret may be written.
pub struct Spellings {
    /// What they begin with, as many bytes as the shortest may have: few and short, and so found fast.
    heads: AhoCorasick,
    finder: AhoCorasick,
    /// Those that lines may break.
    broken: Option<Broken>,
    /// In order.
    all: Vec<Vec<u8>>,
    /// What they begin with.
    first: [bool; 256],
    shortest: usize,
    longest: usize,
}

impl fmt::Debug for Spellings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} spellings", self.all.len())
    }
}

impl Spellings {
    /// Those of a secret; nothing where it is too short, or too long to be looked for.
    #[cfg(test)]
    pub(in crate::protocol) fn of(secret: &[u8]) -> Option<Self> {
        Self::of_all([secret])
    }

    /// Those of some secrets; nothing where all of them are too short, or they are too long to be looked for.
    pub(in crate::protocol) fn of_all<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut all = BTreeSet::new();
        for secret in secrets.into_iter().filter(|secret| secret.len() >= SHORTEST) {
            all.extend(spelt::all(secret));
        }
        let all: Vec<Vec<u8>> = all.into_iter().filter(|one| one.len() >= SHORTEST).collect();
        let lengths = || all.iter().map(Vec::len);
        let heads: BTreeSet<&[u8]> = all.iter().filter_map(|one| one.get(..SHORTEST)).collect();
        let heads = AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(heads).ok()?;
        // It takes little memory, and runs where a head was found.
        let kind = Some(AhoCorasickKind::ContiguousNFA);
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).kind(kind).build(&all).ok()?;
        let (shortest, longest) = (lengths().min()?, lengths().max()?);
        let mut first = [false; 256];
        for byte in all.iter().filter_map(|one| one.first()) {
            if let Some(begins) = first.get_mut(usize::from(*byte)) {
                *begins = true;
            }
        }
        Some(Self { heads, finder, broken: Broken::of(all.iter()), all, first, shortest, longest })
    }

    /// Blots out all that is found. Whether anything was.
    pub(in crate::protocol) fn blot(&self, bytes: &mut [u8]) -> bool {
        let end = bytes.len();
        self.blot_before(bytes, end)
    }

    /// The same of what begins before there.
    fn blot_before(&self, bytes: &mut [u8], end: usize) -> bool {
        let is_broken = self.broken.as_ref().is_some_and(|broken| broken.blot_before(bytes, end));
        self.blot_whole(bytes, end) || is_broken
    }

    fn blot_whole(&self, bytes: &mut [u8], end: usize) -> bool {
        let Some(first) = self.heads.find(&*bytes) else { return false };
        let found = self.finder.find_iter(Input::new(&*bytes).range(first.start()..));
        let found: Vec<_> = found.map(|found: Match| found.range()).filter(|range| range.start < end).collect();
        for range in &found {
            if let Some(part) = bytes.get_mut(range.clone()) {
                part.fill(BLOT);
            }
        }
        !found.is_empty()
    }

    /// The same of what more may follow: how many bytes are ready to pass, and whether anything was found in them. What may be
    /// a part of something longer waits with it.
    pub(in crate::protocol) fn settle(&self, bytes: &mut [u8]) -> (usize, bool) {
        let ready = bytes.len() - self.begun(bytes);
        (ready, self.blot_before(bytes, ready))
    }

    /// The same of a head.
    pub(super) fn blot_head(&self, head: &mut ResponseHead) -> bool {
        let mut found = self.blot_fields(&mut head.fields);
        if self.is_in(head.reason.as_bytes()) {
            let mut reason = head.reason.as_bytes().to_vec();
            found |= self.blot(&mut reason);
            head.reason = String::from_utf8(reason).unwrap_or_default().into();
        }
        found
    }

    /// The same of fields.
    pub(super) fn blot_fields(&self, fields: &mut Fields) -> bool {
        let mut found = false;
        for field in fields.0.iter_mut().filter(|field| self.is_in(&field.value)) {
            let mut value = field.value.to_vec();
            found |= self.blot(&mut value);
            field.value = value.into();
        }
        found
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        self.is_whole_in(bytes) || self.broken.as_ref().is_some_and(|broken| broken.is_in(bytes))
    }

    fn is_whole_in(&self, bytes: &[u8]) -> bool {
        bytes.len() >= self.shortest
            && self
                .heads
                .find(bytes)
                .is_some_and(|first| self.finder.is_match(Input::new(bytes).range(first.start()..)))
    }

    /// How many bytes at the end may be the beginning of something.
    fn begun(&self, bytes: &[u8]) -> usize {
        let most = bytes.len().min(self.longest - 1);
        let begins = |count: &usize| {
            let end = bytes.get(bytes.len() - count..).unwrap_or_default();
            let may = end.first().and_then(|byte| self.first.get(usize::from(*byte))).is_some_and(|begins| *begins);
            // Whatever is longer and begins so stands right behind it.
            may && {
                let at = self.all.partition_point(|one| one.as_slice() <= end);
                self.all.get(at).is_some_and(|one| one.starts_with(end))
            }
        };
        let whole = (1..=most).rev().find(begins).unwrap_or(0);
        whole.max(self.broken.as_ref().map_or(0, |broken| broken.begun(bytes)))
    }
}

/// The spellings of what a target was shown last, for all sessions that show it the same: to make them takes time and memory.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Option<(Vec<Secret>, Arc<Spellings>)>>);

impl Kept {
    /// Those of these secrets.
    pub(super) fn of(&self, secrets: &[&Secret]) -> Option<Arc<Spellings>> {
        if secrets.iter().all(|secret| secret.expose().len() < SHORTEST) {
            return None;
        }
        let is_same = |kept: &[Secret]| {
            kept.len() == secrets.len() && kept.iter().zip(secrets).all(|(kept, secret)| kept.matches(secret.expose()))
        };
        let known = self.0.lock().as_ref().filter(|(kept, _)| is_same(kept)).map(|(_, known)| Arc::clone(known));
        if known.is_some() {
            return known;
        }
        let made = Arc::new(Spellings::of_all(secrets.iter().map(|secret| secret.expose()))?);
        let kept = secrets.iter().map(|secret| (*secret).clone()).collect();
        *self.0.lock() = Some((kept, Arc::clone(&made)));
        Some(made)
    }
}

/// A body that comes in pieces. What may be the beginning of a secret waits for the next one.
#[derive(Debug)]
pub(super) struct Scrub<'a> {
    spellings: &'a Spellings,
    waiting: BytesMut,
    /// Something was found.
    pub(super) found: bool,
}

impl<'a> Scrub<'a> {
    pub(super) fn new(spellings: &'a Spellings) -> Self {
        Self { spellings, waiting: BytesMut::new(), found: false }
    }

    /// The same for a piece in which nothing is found, and before which nothing waits: it is not copied. Nothing where that is
    /// not so, and nothing is taken then.
    pub(super) fn pass(&mut self, piece: &Bytes) -> Option<Bytes> {
        if !self.waiting.is_empty() || self.spellings.is_in(piece) {
            return None;
        }
        let mut ready = piece.clone();
        let waits = ready.split_off(ready.len() - self.spellings.begun(piece));
        self.waiting.extend_from_slice(&waits);
        Some(ready)
    }

    /// What can be passed on, now that this has come.
    pub(super) fn push(&mut self, piece: &[u8]) -> Bytes {
        self.waiting.extend_from_slice(piece);
        let (ready, found) = self.spellings.settle(&mut self.waiting);
        self.found |= found;
        self.waiting.split_to(ready).freeze()
    }

    /// The rest.
    pub(super) fn finish(&mut self) -> Bytes {
        self.found |= self.spellings.blot(&mut self.waiting);
        self.waiting.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::alphabet::{STANDARD, URL_SAFE};
    use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "s3cr\"et&+/value";

    fn scrubbed(spellings: &Spellings, text: &[u8], step: usize) -> (Vec<u8>, bool) {
        let mut scrub = Scrub::new(spellings);
        let mut out: Vec<u8> = text.chunks(step).flat_map(|piece| scrub.push(piece)).collect();
        out.extend(scrub.finish());
        (out, scrub.found)
    }

    fn engine(alphabet: &base64::alphabet::Alphabet, padded: bool) -> GeneralPurpose {
        GeneralPurpose::new(alphabet, GeneralPurposeConfig::new().with_encode_padding(padded))
    }

    #[test]
    fn every_spelling_is_blotted_out_wherever_pieces_end() {
        let spellings = Spellings::of(SECRET.as_bytes()).unwrap();
        let mut texts = vec![
            SECRET.to_owned(),
            serde_json::json!({ "authorization": format!("Bearer {SECRET}") }).to_string(),
            "s3cr&quot;et&amp;+/value".to_owned(),
            "s3cr%22et%26%2B%2Fvalue".to_owned(),
            "s3cr%22et%26%2b%2fvalue".to_owned(),
            SECRET.bytes().map(|byte| format!("{byte:02X}")).collect(),
            SECRET.bytes().map(|byte| format!("{byte:02x}")).collect(),
            SECRET.bytes().map(|byte| format!("\\u{byte:04x}")).collect(),
            SECRET.bytes().map(|byte| format!("&#{byte};")).collect(),
            SECRET.bytes().map(|byte| format!("={byte:02X}")).collect(),
            SECRET.replace('"', "\\u0022").replace('&', "\\u0026"),
            SECRET.replace('/', "\\/").replace('"', "\\\""),
        ];
        for before in ["", "u", "us", "Bearer ", "svc:"] {
            for behind in ["", "x", "xy", "xyz"] {
                for (alphabet, padded) in [(&STANDARD, true), (&STANDARD, false), (&URL_SAFE, true), (&URL_SAFE, false)]
                {
                    texts.push(engine(alphabet, padded).encode(format!("{before}{SECRET}{behind}")));
                }
            }
        }
        for text in texts {
            let whole = format!("<< {text} >> {text}");
            for step in [1, 2, 3, 7, 16, 4096] {
                let (out, found) = scrubbed(&spellings, whole.as_bytes(), step);
                let out = String::from_utf8(out).unwrap();
                assert!(found && out.len() == whole.len() && out.starts_with("<< ") && out.contains(" >> "), "{out}");
                // What is left of it is at most what it shares with its surroundings: a character of base64 at each end.
                let blots = out.bytes().filter(|byte| *byte == BLOT).count();
                assert!(blots >= 2 * (SECRET.len() - 2), "{text}: {out}");
                assert_eq!(out, String::from_utf8(scrubbed(&spellings, whole.as_bytes(), 4096).0).unwrap());
            }
        }
    }

    #[test]
    fn what_is_none_passes_at_once() {
        let spellings = Spellings::of(SECRET.as_bytes()).unwrap();
        let mut scrub = Scrub::new(&spellings);
        assert_eq!(scrub.push(b"data: an event\n\n"), "data: an event\n\n");
        assert_eq!(scrub.push(b"s3cr"), "");
        assert_eq!(scrub.push(b"etly"), "s3cretly");
        assert_eq!((scrub.push(b"ends with s3c"), scrub.finish()), ("ends with ".into(), "s3c".into()));
        assert!(!scrub.found);
        assert!(Spellings::of(b"short").is_none());
    }

    #[test]
    fn sessions_that_show_the_same_share_what_looks_for_it() {
        let kept = Kept::default();
        let (one, other) = (Secret::from("first-secret"), Secret::from("second-secret"));
        let first = kept.of(&[&one]).unwrap();
        assert!(Arc::ptr_eq(&first, &kept.of(&[&Secret::from("first-secret")]).unwrap()));
        let both = kept.of(&[&one, &other]).unwrap();
        assert!(!Arc::ptr_eq(&first, &both) && both.is_in(b"a second-secret") && !first.is_in(b"a second-secret"));
        assert!(kept.of(&[]).is_none() && kept.of(&[&Secret::from("short")]).is_none());
    }

    /// What is coded, on lines of that width.
    fn on_lines(coded: &str, width: usize, end: &str) -> String {
        let lines: Vec<&str> = coded.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect();
        lines.join(end)
    }

    #[test]
    fn lines_may_break_within() {
        let secrets = [
            "0123456789abcdefghijABCDEFGHIJ.-_~xyz!",
            "short-s3cret",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
            "p a+/=\u{e9}",
        ];
        for secret in secrets {
            let spellings = Spellings::of(secret.as_bytes()).unwrap();
            let header = |before: usize| format!("{}Bearer {secret}, and more behind it", "x".repeat(before));
            let hexadecimal: String = header(9).bytes().map(|byte| format!("{byte:02x}")).collect();
            let coded = (0..60).map(|before| engine(&STANDARD, true).encode(header(before)));
            let coded: Vec<String> = coded.chain([engine(&URL_SAFE, false).encode(header(2)), hexadecimal]).collect();
            for (coded, (width, end)) in coded.iter().flat_map(|coded| {
                [
                    (64, "\n"),
                    (76, "\r\n"),
                    (60, "\n  "),
                    (64, "\\n"),
                    (76, "\\r\\n"),
                    (76, "=\r\n"),
                    (5, "\n"),
                    (1, "\n"),
                ]
                .map(|line| (coded, line))
            }) {
                let text = format!("<< \n{}\n >>", on_lines(coded, width, end));
                let (whole, found) = scrubbed(&spellings, text.as_bytes(), 4096);
                let blots = whole.iter().filter(|byte| **byte == BLOT).count();
                // Characters that depend on what stands beside it are not its own.
                let own = if coded.ends_with("6974") { 2 * secret.len() } else { secret.len() * 4 / 3 - 1 };
                assert!(
                    found && blots >= own && whole.len() == text.len(),
                    "{width}: {}",
                    String::from_utf8_lossy(&whole)
                );
                let kept = |text: &[u8]| text.iter().filter(|byte| byte.is_ascii_whitespace()).count();
                assert_eq!(kept(&whole), kept(text.as_bytes()));
                // Where a few characters come by themselves, with the end of their line, they are any.
                let steps = if width < 4 { vec![] } else { vec![1, 2, 3, 7, width, width + end.len()] };
                for step in steps {
                    let (out, found) = scrubbed(&spellings, text.as_bytes(), step);
                    let shown = out.iter().filter(|byte| **byte == BLOT).count();
                    assert!(found && shown + 3 >= blots, "{width} {step}: {}", String::from_utf8_lossy(&out));
                }
            }
        }
    }

    #[test]
    fn lines_that_are_none_of_it_pass_at_once() {
        let spellings = Spellings::of(b"0123456789abcdefghijABCDEFGHIJ").unwrap();
        let mut scrub = Scrub::new(&spellings);
        let certificate = on_lines(&engine(&STANDARD, true).encode([7; 300]), 64, "\n");
        for text in [
            "data: it is done\n\n",
            "M\n",
            "0\r\n",
            "a line that ends with MD\n",
            "  x = {\\\n",
            "\n\n\n",
            "012\n",
            &certificate,
        ] {
            let piece = Bytes::copy_from_slice(text.as_bytes());
            assert_eq!(scrub.pass(&piece).unwrap(), piece, "{text:?}");
            assert_eq!(scrub.push(&piece), piece, "{text:?}");
        }
        // More than a few characters of it wait, with the end of their line.
        assert_eq!((scrub.push(b"is MDEyMz\n"), scrub.push(b"Q or not")), ("is ".into(), "MDEyMz\nQ or not".into()));
        assert!(!scrub.found);
        let short = Spellings::of(b"short1").unwrap();
        assert!(!short.is_in(b"sho\nrt1"), "words of two lines are not one");
    }

    #[test]
    fn several_secrets_are_looked_for_at_once() {
        let spellings = Spellings::of_all([&b"first-secret"[..], b"short", b"a-session-token"]).unwrap();
        let (out, found) = scrubbed(&spellings, b"first-secret, short, a-session-token", 5);
        assert_eq!((&*out, found), (&b"************, short, ***************"[..], true));
        assert!(Spellings::of_all([&b"short"[..]]).is_none() && Spellings::of_all([]).is_none());
    }

    #[test]
    fn heads_are_looked_at_as_well() {
        let spellings = Spellings::of(b"plain-secret").unwrap();
        let text = b"HTTP/1.1 200 plain-secret\r\nX-Echo: Bearer plain-secret!\r\nContent-Length: 0\r\n\r\n";
        let (mut head, _) = super::super::codec::response(text).unwrap().unwrap();
        assert!(spellings.blot_head(&mut head));
        assert_eq!((head.fields.text("x-echo"), &*head.reason), (Some("Bearer ************!"), "************"));
        assert!(!spellings.blot_head(&mut head));
    }

    proptest! {
        #[test]
        fn pieces_change_nothing(text in "[ab%25s3cr]{0,80}", cut in 1usize..9) {
            let spellings = Spellings::of(b"s3cr%ab").unwrap();
            let (whole, pieces) = (scrubbed(&spellings, text.as_bytes(), 4096), scrubbed(&spellings, text.as_bytes(), cut));
            prop_assert_eq!(whole, pieces);
        }
    }
}
