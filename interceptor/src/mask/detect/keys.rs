//! Keys and tokens that a prefix gives away: API keys, JSON web tokens, armoured private keys. One automaton finds all
//! prefixes in one pass; what follows is then held against the form of the key.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Detector, DetectorSet, Hits, before, byte, run};

/// Bytes of the shortest key.
pub(super) const MIN: usize = 14;
/// Bytes of a JSON web token's header that are decoded.
const MAX_HEADER: usize = 4096;
/// Bytes of an armour line's label.
const MAX_LABEL: usize = 64;
/// Characters of an AWS secret access key.
const AWS_SECRET: usize = 40;

/// A key: a prefix, then so many characters of a set.
#[derive(Debug)]
struct Form {
    prefix: &'static str,
    set: Set,
    min: usize,
    max: usize,
}

#[derive(Clone, Copy, Debug)]
enum Set {
    /// Capitals and digits.
    Upper,
    /// Letters and digits.
    Alnum,
    /// Letters, digits and `_`.
    Word,
    /// Letters, digits and `-`.
    Dashed,
    /// Letters, digits, `_` and `-`.
    Url,
    /// Letters, digits, `_`, `-` and `.`.
    Dotted,
    /// Letters, digits, `+`, `/` and `=`.
    Base64,
}

impl Set {
    fn has(self, byte: u8) -> bool {
        match self {
            Self::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
            Self::Alnum => byte.is_ascii_alphanumeric(),
            Self::Word => byte.is_ascii_alphanumeric() || byte == b'_',
            Self::Dashed => byte.is_ascii_alphanumeric() || byte == b'-',
            Self::Url => byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-',
            Self::Dotted => byte.is_ascii_alphanumeric() || b"_-.".contains(&byte),
            Self::Base64 => byte.is_ascii_alphanumeric() || b"+/=".contains(&byte),
        }
    }
}

const fn form(prefix: &'static str, set: Set, min: usize, max: usize) -> Form {
    Form { prefix, set, min, max }
}

/// No upper bound: the whole run is taken.
const ANY: usize = usize::MAX;

static FORMS: &[Form] = &[
    // Amazon: long-lived and temporary access key ids.
    form("AKIA", Set::Upper, 16, 16),
    form("ASIA", Set::Upper, 16, 16),
    // Google: API key, OAuth access token and client secret.
    form("AIza", Set::Url, 35, 35),
    form("ya29.", Set::Url, 20, ANY),
    form("GOCSPX-", Set::Url, 24, ANY),
    // Azure storage.
    form("AccountKey=", Set::Base64, 40, ANY),
    // GitHub, GitLab.
    form("ghp_", Set::Alnum, 36, ANY),
    form("gho_", Set::Alnum, 36, ANY),
    form("ghu_", Set::Alnum, 36, ANY),
    form("ghs_", Set::Alnum, 36, ANY),
    form("ghr_", Set::Alnum, 36, ANY),
    form("github_pat_", Set::Word, 22, ANY),
    form("glpat-", Set::Dotted, 20, ANY),
    // Slack.
    form("xoxa-", Set::Dashed, 10, ANY),
    form("xoxb-", Set::Dashed, 10, ANY),
    form("xoxe-", Set::Dashed, 10, ANY),
    form("xoxe.", Set::Dotted, 10, ANY),
    form("xoxo-", Set::Dashed, 10, ANY),
    form("xoxp-", Set::Dashed, 10, ANY),
    form("xoxr-", Set::Dashed, 10, ANY),
    form("xoxs-", Set::Dashed, 10, ANY),
    form("xapp-", Set::Dashed, 10, ANY),
    // Stripe.
    form("sk_live_", Set::Alnum, 16, ANY),
    form("sk_test_", Set::Alnum, 16, ANY),
    form("rk_live_", Set::Alnum, 16, ANY),
    form("rk_test_", Set::Alnum, 16, ANY),
    form("whsec_", Set::Base64, 24, ANY),
    // Others whose prefix is theirs alone.
    form("sk-ant-", Set::Url, 20, ANY),
    form("sk-proj-", Set::Url, 20, ANY),
    form("SG.", Set::Dotted, 60, ANY),
    form("npm_", Set::Alnum, 36, 36),
    form("pypi-AgE", Set::Url, 40, ANY),
    form("dop_v1_", Set::Alnum, 64, 64),
    form("hvs.", Set::Url, 24, ANY),
];

#[derive(Clone, Copy, Debug)]
enum Kind {
    Key(&'static Form),
    Jwt,
    ArmourBegin,
    ArmourEnd,
    /// A private key in one line, of this set.
    Line(Set),
    /// A private key file whose parts are not armoured: all of the rest.
    Rest,
    /// A word beside which an AWS secret may stand.
    Secret,
}

static MARKS: &[(&str, Kind)] = &[
    // A brace and a quote, a blank or a line end, in base64url.
    ("eyJ", Kind::Jwt),
    ("eyA", Kind::Jwt),
    ("ewo", Kind::Jwt),
    ("ew0", Kind::Jwt),
    ("-----BEGIN ", Kind::ArmourBegin),
    ("-----END ", Kind::ArmourEnd),
    ("AGE-SECRET-KEY-1", Kind::Line(Set::Upper)),
    ("PuTTY-User-Key-File-", Kind::Rest),
    ("secret", Kind::Secret),
    ("Secret", Kind::Secret),
    ("SECRET", Kind::Secret),
];

/// The automaton over all prefixes.
#[derive(Debug)]
pub(super) struct Literals {
    automaton: AhoCorasick,
    kinds: Vec<Kind>,
}

impl Literals {
    pub(super) fn new() -> Option<Self> {
        let patterns = FORMS.iter().map(|form| form.prefix).chain(MARKS.iter().map(|(text, _)| *text));
        let automaton = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::DFA))
            .match_kind(MatchKind::Standard)
            .build(patterns)
            .ok()?;
        let kinds = FORMS.iter().map(Kind::Key).chain(MARKS.iter().map(|(_, kind)| *kind)).collect();
        Some(Self { automaton, kinds })
    }

    pub(super) fn find(&self, wanted: DetectorSet, text: &[u8], hits: &mut Hits) {
        let mut search = Search { text, hits, wanted, key_until: 0, jwt_until: 0, armour: None, aws: false };
        for found in self.automaton.find_overlapping_iter(text) {
            if let Some(kind) = self.kinds.get(found.pattern().as_usize()) {
                search.mark(*kind, found.start(), found.end());
            }
        }
        search.finish();
    }
}

struct Search<'a> {
    text: &'a [u8],
    hits: &'a mut Hits,
    wanted: DetectorSet,
    /// What is already part of a key: prefixes inside of it are not looked at, which keeps the search linear.
    key_until: usize,
    jwt_until: usize,
    armour: Option<usize>,
    aws: bool,
}

impl Search<'_> {
    fn mark(&mut self, kind: Kind, start: usize, end: usize) {
        let wanted = self.wanted;
        match kind {
            Kind::Key(form) if wanted.contains(Detector::ApiKey) => self.key(form, start, end),
            Kind::Secret => self.aws = true,
            Kind::Jwt if wanted.contains(Detector::Jwt) => self.jwt(start),
            _ if !wanted.contains(Detector::PrivateKey) => {}
            Kind::ArmourBegin if self.armour.is_none() && is_private(self.text, end) => self.armour = Some(start),
            Kind::ArmourEnd => {
                if let Some(begin) = self.armour.take() {
                    let stop = label_end(self.text, end).unwrap_or(self.text.len());
                    self.hits.push(Detector::PrivateKey, begin, stop);
                }
            }
            Kind::Line(set) => {
                let stop = run(self.text, end, |byte| set.has(byte));
                if stop - end >= 50 {
                    self.hits.push(Detector::PrivateKey, start, stop);
                }
            }
            Kind::Rest => self.armour = self.armour.or(Some(start)),
            Kind::Key(_) | Kind::Jwt | Kind::ArmourBegin => {}
        }
    }

    fn key(&mut self, form: &Form, start: usize, end: usize) {
        if start < self.key_until || before(self.text, start).is_ascii_alphanumeric() {
            return;
        }
        // One character beyond the longest form tells that it is none, and keeps the search linear.
        let within = self.text.get(..end.saturating_add(form.max).saturating_add(1)).unwrap_or(self.text);
        let mut stop = run(within, end, |byte| form.set.has(byte));
        // The full stop of a sentence is not part of it.
        stop -= usize::from(before(self.text, stop) == b'.' && stop > end);
        let fits = (form.min..=form.max).contains(&(stop - end));
        let cut = byte(self.text, stop).is_ascii_alphanumeric();
        if fits && !cut {
            self.hits.push(Detector::ApiKey, start, stop);
            self.key_until = stop;
            self.aws |= form.prefix.ends_with("IA");
        }
    }

    fn jwt(&mut self, start: usize) {
        let text = self.text;
        if start < self.jwt_until || before(text, start).is_ascii_alphanumeric() {
            return;
        }
        let header = run(text, start, |byte| Set::Url.has(byte));
        if byte(text, header) != b'.' || !is_header(text.get(start..header).unwrap_or_default()) {
            self.jwt_until = header;
            return;
        }
        let mut end = run(text, header, |byte| Set::Dotted.has(byte));
        self.jwt_until = end;
        let parts = text.get(start..end).unwrap_or_default().split(|byte| *byte == b'.').count();
        let payload = byte(text, header + 1) != b'.';
        // The full stop of a sentence is not part of it; an empty signature is.
        if parts > 3 && before(text, end) == b'.' {
            end -= 1;
        }
        if parts >= 3 && payload {
            self.hits.push(Detector::Jwt, start, end);
        }
    }

    fn finish(&mut self) {
        if let Some(begin) = self.armour {
            // An armour without its end may have been cut off: the key is still in it.
            self.hits.push(Detector::PrivateKey, begin, self.text.len());
        }
        if self.aws && self.wanted.contains(Detector::ApiKey) {
            self.aws_secrets();
        }
    }

    /// Forty characters that mix capitals, small letters and digits: a commit hash does not.
    fn aws_secrets(&mut self) {
        let of = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'/' || byte == b'+';
        let mut at = 0;
        while at < self.text.len() {
            let start = run(self.text, at, |byte| !of(byte));
            let end = run(self.text, start, of);
            let key = self.text.get(start..end).unwrap_or_default();
            let mixed = key.iter().any(u8::is_ascii_uppercase)
                && key.iter().any(u8::is_ascii_lowercase)
                && key.iter().any(u8::is_ascii_digit);
            if key.len() == AWS_SECRET && mixed {
                self.hits.push(Detector::ApiKey, start, end);
            }
            at = end.max(start + 1);
        }
    }
}

/// Whether the armour label at `start` names a private key.
fn is_private(text: &[u8], start: usize) -> bool {
    const WORDS: &[u8] = b"PRIVATE KEY";
    let Some(end) = label_end(text, start) else { return false };
    text.get(start..end).is_some_and(|label| label.windows(WORDS.len()).any(|part| part == WORDS))
}

/// End of the dashes that close the label at `start`.
fn label_end(text: &[u8], start: usize) -> Option<usize> {
    let rest = text.get(start..)?;
    let at = rest.windows(5).take(MAX_LABEL).position(|part| part == b"-----")?;
    Some(start + at + 5)
}

/// Whether this is a header that names an algorithm.
fn is_header(text: &[u8]) -> bool {
    if text.len() > MAX_HEADER {
        return false;
    }
    let Ok(header) = URL_SAFE_NO_PAD.decode(text) else { return false };
    header.first() == Some(&b'{') && header.windows(5).any(|part| part == b"\"alg\"")
}
