//! One question, as an agent asked it and as the resolver is asked: nothing but its name and type gets through.
//!
//! What an agent could hide in a query (an id of its choice, the case of letters, flags, options, padding) is left out: the
//! query is written anew. The answer is the resolver's, with the id and the question as the agent wrote them.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::RData;

const HEADER: usize = 12;
const IN: u16 = 1;
/// The record that says how long answers may be, and asks for extensions.
const OPT: u16 = 41;
/// Bytes of an answer that the resolver is told to keep to.
const PAYLOAD: u16 = 1232;

/// Why a question is answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// It has no records of that type.
    NoData = 0,
    /// It cannot be found out now.
    Failure = 2,
    /// It does not exist.
    NoName = 3,
    /// Such things are not done here.
    Refused = 5,
}

/// A question.
#[derive(Clone, Debug)]
pub(super) struct Query {
    header: [u8; HEADER],
    /// Name, type and class, as they came.
    question: Vec<u8>,
    /// Lower case, without the last dot.
    pub(super) name: String,
    /// Type of the records that are asked for.
    pub(super) kind: u16,
    class: u16,
    /// Whether an answer may be longer than 512 bytes.
    pub(super) extended: bool,
}

impl Query {
    /// A header and exactly one question, with nothing behind but what says how long an answer may be.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let header = *bytes.first_chunk::<HEADER>()?;
        let [_, _, flags, _, 0, 1, 0, 0, 0, 0, 0, more @ (0 | 1)] = header else { return None };
        if flags & 0x80 != 0 {
            return None;
        }
        let question = question(bytes)?.to_vec();
        let rest = bytes.get(HEADER + question.len()..)?;
        let extended = more == 1;
        // The root as its name, then its type.
        if extended && !matches!(rest, [0, high, low, ..] if u16::from_be_bytes([*high, *low]) == OPT) {
            return None;
        }
        let (labels, fixed) = question.split_last_chunk::<4>()?;
        let [a, b, c, d] = *fixed;
        let (kind, class) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        Some(Self { header, name: name(labels)?, kind, class, extended, question: question.clone() })
    }

    /// Opcode 0, of the internet; updates, notifications and the like are not relayed.
    pub(super) const fn is_lookup(&self) -> bool {
        self.header[2] & 0x78 == 0 && self.class == IN
    }

    /// As the resolver is asked.
    pub(super) fn anew(&self, id: u16) -> Vec<u8> {
        let mut bytes = id.to_be_bytes().to_vec();
        // Recursion is wanted, and nothing else.
        bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(self.extended)]);
        bytes.extend(self.question.iter().map(u8::to_ascii_lowercase));
        // Type and class are no letters.
        let fixed = bytes.len() - 4;
        bytes.truncate(fixed);
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend(self.class.to_be_bytes());
        if self.extended {
            bytes.extend([0, 0, 41]);
            bytes.extend(PAYLOAD.to_be_bytes());
            bytes.extend([0; 6]);
        }
        bytes
    }

    /// Whether this answers [`Query::anew`] with that id.
    pub(super) fn is_answered_by(&self, id: u16, answer: &[u8]) -> bool {
        let is_answer = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
        let same_id = answer.get(..2) == Some(&id.to_be_bytes());
        // Servers may leave the question out of an error.
        let no_question = answer.get(4..6) == Some(&[0, 0]) && answer.get(3).is_some_and(|code| code & 0x0f != 0);
        let same_question = question(answer).is_some_and(|answered| self.question.eq_ignore_ascii_case(answered));
        is_answer && same_id && (same_question || no_question)
    }

    /// The resolver's answer, with the id and the question as they came.
    pub(super) fn restored(&self, mut answer: Vec<u8>) -> Vec<u8> {
        for (to, from) in answer.iter_mut().zip(&self.header[..2]) {
            *to = *from;
        }
        if question(&answer).is_some_and(|found| found.len() == self.question.len()) {
            for (to, from) in answer.iter_mut().skip(HEADER).zip(&self.question) {
                *to = *from;
            }
        }
        answer
    }

    /// An answer without records.
    pub(super) fn refusal(&self, code: Code) -> Vec<u8> {
        let [first, second, flags, ..] = self.header;
        let mut answer = vec![first, second, (flags & 0x79) | 0x80, 0x80 | code as u8, 0, 1, 0, 0, 0, 0, 0, 0];
        answer.extend_from_slice(&self.question);
        answer
    }
}

/// Addresses in an answer, and how long each holds.
pub(super) fn addresses(answer: &[u8]) -> Vec<(IpAddr, Duration)> {
    let Ok(message) = Message::from_vec(answer) else { return Vec::new() };
    let address = |data: &RData| match data {
        RData::A(four) => Some(IpAddr::V4(four.0)),
        RData::AAAA(six) => Some(IpAddr::V6(six.0)),
        _ => None,
    };
    let found = message
        .answers
        .iter()
        .filter_map(|record| Some((address(&record.data)?, Duration::from_secs(u64::from(record.ttl)))));
    found.collect()
}

/// The bytes of the only question: name, type, class.
fn question(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = HEADER;
    loop {
        let label = usize::from(*bytes.get(at)?);
        at += 1;
        match label {
            0 => return bytes.get(HEADER..at + 4).filter(|question| question.len() <= 255 + 4),
            // A question's name is not compressed.
            64.. => return None,
            _ => at += label,
        }
    }
}

/// The name, where it is one of a host or a service.
fn name(mut labels: &[u8]) -> Option<String> {
    let mut name = String::new();
    loop {
        let (length, rest) = labels.split_first()?;
        let (label, rest) = rest.split_at_checked(usize::from(*length))?;
        if label.is_empty() {
            return Some(name);
        }
        if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
        labels = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn query(id: u16, flags: u8, name: &str, kind: u16, more: &[u8]) -> Vec<u8> {
        let mut bytes = id.to_be_bytes().to_vec();
        bytes.extend([flags, 0x30, 0, 1, 0, 0, 0, 0, 0, u8::from(!more.is_empty())]);
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(more);
        bytes
    }

    #[test]
    fn nothing_but_the_name_and_the_type_gets_through() {
        // Case, id, flags, and an option of the agent's.
        let option = [0, 0, 41, 0xff, 0xff, 1, 2, 0x80, 3, 0, 6, 0, 8, 0, 2, 0xbe, 0xef];
        let asked = Query::read(&query(0xbeef, 1, "oRdErS-DB.internal", 1, &option)).unwrap();
        assert_eq!((asked.name.as_str(), asked.kind), ("orders-db.internal", 1));
        let plain = query(7, 1, "orders-db.internal", 1, &[0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
        let mut expected = plain.clone();
        expected[3] = 0;
        assert_eq!(asked.anew(7), expected);
        assert_eq!(Query::read(&query(1, 1, "orders-db.internal", 28, &[])).unwrap().anew(7).len(), plain.len() - 11);
    }

    #[test]
    fn the_answer_is_to_what_was_asked() {
        let asked = Query::read(&query(0xbeef, 1, "Orders-DB.internal", 1, &[])).unwrap();
        let mut answer = query(7, 0x81, "orders-db.internal", 1, &[]);
        assert!(asked.is_answered_by(7, &answer) && !asked.is_answered_by(8, &answer));
        assert!(!asked.is_answered_by(7, &query(7, 0x81, "evil.internal", 1, &[])));
        assert!(!asked.is_answered_by(7, &query(7, 1, "orders-db.internal", 1, &[])));
        assert!(!asked.is_answered_by(7, &query(7, 0x81, "orders-db.internal", 28, &[])));
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 7]);
        answer[7] = 1;
        assert_eq!(addresses(&answer), [("10.0.0.7".parse().unwrap(), Duration::from_secs(60))]);
        let restored = asked.restored(answer);
        assert_eq!(restored[..2], [0xbe, 0xef]);
        assert_eq!(question(&restored).unwrap(), &query(0, 0, "Orders-DB.internal", 1, &[])[HEADER..]);
    }

    #[test]
    fn what_is_no_name_of_a_host_is_no_query() {
        for odd in ["a b", "a\u{e9}", "a;b", "*"] {
            assert!(Query::read(&query(1, 1, odd, 1, &[])).is_none(), "{odd}");
        }
        let mut two = query(1, 1, "a", 1, &[]);
        two[5] = 2;
        assert!(Query::read(&two).is_none());
        let mut answers = query(1, 1, "a", 1, &[]);
        answers[7] = 1;
        assert!(Query::read(&answers).is_none());
        assert!(Query::read(&query(1, 1, "a", 1, &[1, b'x', 0, 0, 16])).is_none());
        assert!(!Query::read(&query(1, 5 << 3, "a", 1, &[])).unwrap().is_lookup());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _found = addresses(&bytes);
            if let Some(read) = Query::read(&bytes) {
                prop_assert!(!read.is_answered_by(7, &bytes));
                prop_assert!(read.refusal(Code::NoName).len() < 300);
                prop_assert!(read.anew(7).len() < 300);
                let _restored = read.restored(bytes);
            }
        }
    }
}
