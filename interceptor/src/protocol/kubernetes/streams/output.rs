//! What a program prints, masked and without the credential as it comes.
//!
//! Text is held until it is known that no value goes on behind it, or until nothing has come for [`PATIENCE`]: whoever waits at
//! a prompt sees it. So a value that a program prints in pieces, with pauses, passes: detectors are a net, and no wall. Bytes that are
//! no text (an archive, as `kubectl cp` has it) pass unchanged or not at all: they would be broken by what stands in the place
//! of a value.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use crate::mask::TextMasker;
use crate::protocol::http::scrub::Spellings;

/// How long text waits for what may go on behind it.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// So much of the beginning of the credential says nothing of it, and may as well be the end of a prompt.
const KNOWN: usize = 3;

/// Why what a program prints does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unprintable {
    /// Bytes that cannot be masked.
    #[error("it prints bytes that are no text, with a value in them that has to be masked")]
    Binary,
    /// A value without end.
    #[error("it prints a value that has to be masked, and is too long")]
    TooLong,
}

/// One stream of a program.
#[derive(Debug)]
pub(super) struct Output {
    text: Option<TextMasker>,
    spellings: Option<Arc<Spellings>>,
    /// What may be the beginning of the credential.
    waiting: BytesMut,
    /// It has printed what no text has.
    binary: bool,
    count: u64,
    echoed: bool,
}

impl Output {
    pub(super) fn new(text: Option<TextMasker>, spellings: Option<Arc<Spellings>>) -> Self {
        Self { text, spellings, waiting: BytesMut::new(), binary: false, count: 0, echoed: false }
    }

    /// What can be passed on, now that this was printed.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Unprintable> {
        self.binary |= bytes.contains(&0);
        let mut masked = Vec::new();
        match &mut self.text {
            None => masked.extend_from_slice(bytes),
            Some(text) => text.push(bytes, &mut masked).map_err(|_| Unprintable::TooLong)?,
        }
        self.scrubbed(&masked, 0)
    }

    /// What waits, though more may come: but for what has begun to be a key over many lines, or the credential.
    pub(super) fn release(&mut self) -> Result<Vec<u8>, Unprintable> {
        let mut masked = Vec::new();
        if let Some(text) = self.text.as_mut().filter(|text| !text.is_open()) {
            text.finish(&mut masked);
        }
        self.scrubbed(&masked, KNOWN)
    }

    /// All that waits: nothing comes any more.
    pub(super) fn finish(&mut self) -> Result<Vec<u8>, Unprintable> {
        let mut masked = Vec::new();
        if let Some(text) = &mut self.text {
            text.finish(&mut masked);
        }
        self.scrubbed(&masked, usize::MAX)
    }

    /// Bytes that it holds.
    pub(super) fn held(&self) -> usize {
        self.waiting.len() + self.text.as_ref().map_or(0, TextMasker::held)
    }

    /// Whether something waits.
    pub(super) fn is_holding(&self) -> bool {
        !self.waiting.is_empty() || self.text.as_ref().is_some_and(TextMasker::is_waiting)
    }

    /// Values that were masked since it was asked last.
    pub(super) const fn take_count(&mut self) -> u64 {
        std::mem::replace(&mut self.count, 0)
    }

    /// Whether the credential was found since.
    pub(super) const fn take_echo(&mut self) -> bool {
        std::mem::replace(&mut self.echoed, false)
    }

    /// `shown`: as much of what may be the beginning of the credential passes.
    fn scrubbed(&mut self, masked: &[u8], shown: usize) -> Result<Vec<u8>, Unprintable> {
        let found = self.text.as_mut().map_or(0, TextMasker::take_count);
        self.count += found;
        if found > 0 && self.binary {
            return Err(Unprintable::Binary);
        }
        let Some(spellings) = &self.spellings else { return Ok(masked.to_vec()) };
        self.waiting.extend_from_slice(masked);
        let (mut ready, found) = spellings.settle(&mut self.waiting);
        self.echoed |= found;
        if self.waiting.len() - ready <= shown {
            self.echoed |= spellings.blot(&mut self.waiting);
            ready = self.waiting.len();
        }
        Ok(self.waiting.split_to(ready).to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::{Config, Detector, Masker, Rules, Transform};
    use crate::policy::Obligations;

    const CARD: &str = "4111111111111111";

    fn output() -> Output {
        let detect = Detector::ALL.to_vec();
        let (columns, json) = (Vec::new(), Vec::new());
        let entry = Config { tag: "x".into(), columns, json, detect, base64: false, transform: Transform::Redact };
        let rules = Arc::new(Rules::compile(&[entry], None).unwrap());
        let masker = Masker::new(rules, &Obligations { masked: Arc::new([Arc::from("x")].into()) });
        Output::new(Some(TextMasker::new(masker)), Spellings::of(b"the-credential").map(Arc::new))
    }

    fn printed(pieces: &[&str]) -> String {
        let mut output = output();
        let mut out: Vec<u8> = pieces.iter().flat_map(|piece| output.push(piece.as_bytes()).unwrap()).collect();
        out.extend(output.finish().unwrap());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_and_the_credential_are_found_wherever_messages_end() {
        let text = format!("card {CARD} token the-credential.\n");
        let expected = "card [masked:x] token **************.\n";
        for at in 1..text.len() - 1 {
            let (one, other) = text.split_at(at);
            assert_eq!(printed(&[one, other]), expected, "cut at {at}");
        }
        let each: Vec<String> = text.chars().map(String::from).collect();
        assert_eq!(printed(&each.iter().map(String::as_str).collect::<Vec<_>>()), expected);
    }

    #[test]
    fn a_prompt_does_not_wait_for_more() {
        let mut output = output();
        let mut out = output.push(b"line\npassword for 7: ").unwrap();
        assert!(output.is_holding());
        out.extend(output.release().unwrap());
        assert_eq!(out, b"line\npassword for 7: ");
        assert!(!output.is_holding());
        out.extend(output.push(format!("\nthen {CARD}\n").as_bytes()).unwrap());
        out.extend(output.release().unwrap());
        assert!(out.ends_with(b"\nthen [masked:x]\n"), "{}", String::from_utf8_lossy(&out));
    }

    #[test]
    fn what_has_begun_to_be_a_key_or_the_credential_waits() {
        let mut output = output();
        let mut out = output.push(b"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n").unwrap();
        out.extend(output.release().unwrap());
        out.extend(output.push(b"kqhkiG9w0B\n-----END PRIVATE KEY-----\nthe-cred").unwrap());
        out.extend(output.release().unwrap());
        out.extend(output.push(b"ential\n").unwrap());
        out.extend(output.finish().unwrap());
        assert_eq!(String::from_utf8(out).unwrap(), "[masked:x]\n**************\n");
    }

    #[test]
    fn bytes_that_are_no_text_pass_as_they_are_or_not_at_all() {
        let mut clean = output();
        let archive = [b"web/index.html\0\0\0".as_slice(), &[0xff, 0xfe, 7, 0]].concat();
        let mut out = clean.push(&archive).unwrap();
        out.extend(clean.release().unwrap());
        assert_eq!(out, archive);
        let mut found = output();
        let done =
            found.push(b"customers.csv\0\0").and_then(|_| found.push(CARD.as_bytes())).and_then(|_| found.release());
        assert_eq!(done, Err(Unprintable::Binary));
        assert_eq!(found.take_count(), 1);
    }
}
