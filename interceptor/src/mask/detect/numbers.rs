//! Numbers made of groups of digits: payment cards, social security numbers, telephone numbers.

use super::{Detector, Hits, before, byte, run};

/// Digits of the shortest card number.
pub(super) const CARD_MIN: usize = 13;
/// Digits of the longest card number.
const CARD_MAX: usize = 19;
/// Digits of the shortest telephone number that is looked for.
pub(super) const PHONE_MIN: usize = 9;
/// Digits of the longest one: 15, and an international prefix.
const PHONE_MAX: usize = 17;
/// How far before nine bare digits a word may say what they are.
const CONTEXT: usize = 32;

/// A run of digits.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    start: usize,
    end: usize,
}

impl Group {
    fn len(self) -> usize {
        self.end - self.start
    }

    /// The run of digits at or after `from`.
    fn next(text: &[u8], from: usize) -> Option<Self> {
        let start = run(text, from, |byte| !byte.is_ascii_digit());
        let end = run(text, start, |byte| byte.is_ascii_digit());
        (start < end).then_some(Self { start, end })
    }

    /// The run of exactly `len` digits that starts at `start`.
    fn of(text: &[u8], start: usize, len: usize) -> Option<Self> {
        let end = run(text, start, |byte| byte.is_ascii_digit());
        (end - start == len).then_some(Self { start, end })
    }
}

/// The last groups that only separators stand between, as many as a card number can have.
#[derive(Default)]
struct Chain {
    groups: [Group; CARD_MAX],
    len: usize,
}

impl Chain {
    fn push(&mut self, group: Group) {
        if self.len == self.groups.len() {
            self.groups.rotate_left(1);
            self.len -= 1;
        }
        if let Some(place) = self.groups.get_mut(self.len) {
            *place = group;
            self.len += 1;
        }
    }

    fn groups(&self) -> &[Group] {
        self.groups.get(..self.len).unwrap_or_default()
    }
}

/// Finds card numbers, with or without separators.
pub(super) fn cards(text: &[u8], hits: &mut Hits) {
    let mut chain = Chain::default();
    let mut from = 0;
    while let Some(group) = Group::next(text, from) {
        let gap = text.get(from..group.start).unwrap_or_default();
        let joined = from > 0 && (1..=3).contains(&gap.len()) && gap.iter().all(|byte| b" -._/\t\r\n".contains(byte));
        if !joined || group.len() > CARD_MAX {
            chain.len = 0;
        }
        from = group.end;
        if group.len() > CARD_MAX {
            continue;
        }
        chain.push(group);
        if !ends_word(text, group.end) {
            continue;
        }
        let groups = chain.groups();
        let first = (0..groups.len()).find(|first| {
            let groups = groups.get(*first..).unwrap_or_default();
            groups.first().is_some_and(|group| starts_word(text, group.start)) && is_card(text, groups)
        });
        if let Some(start) = first.and_then(|first| groups.get(first)) {
            hits.push(Detector::Card, start.start, group.end);
            chain.len = 0;
        }
    }
}

/// Whether a number can start here: not in the middle of hexadecimal or mixed text. A word in front (`PAN4111...`) is
/// none of both.
fn starts_word(text: &[u8], start: usize) -> bool {
    let head = text.get(..start).unwrap_or_default();
    let letters = head.iter().rev().take_while(|byte| byte.is_ascii_alphabetic());
    let (count, word) = letters.fold((0, false), |(count, word), byte| (count + 1, word || !byte.is_ascii_hexdigit()));
    count == 0 || (word && !before(head, start - count).is_ascii_digit())
}

/// Whether a number can end here, likewise.
fn ends_word(text: &[u8], end: usize) -> bool {
    let tail = text.get(end..).unwrap_or_default();
    let letters = tail.iter().take_while(|byte| byte.is_ascii_alphabetic());
    let (count, word) = letters.fold((0, false), |(count, word), byte| (count + 1, word || !byte.is_ascii_hexdigit()));
    count == 0 || (word && !byte(tail, count).is_ascii_digit())
}

fn is_card(text: &[u8], groups: &[Group]) -> bool {
    let total: usize = groups.iter().map(|group| group.len()).sum();
    if !(CARD_MIN..=CARD_MAX).contains(&total) || !is_card_shape(groups) {
        return false;
    }
    let mut digits = [0_u8; CARD_MAX];
    let found = groups.iter().flat_map(|group| text.get(group.start..group.end).unwrap_or_default());
    for (digit, found) in digits.iter_mut().zip(found) {
        *digit = found - b'0';
    }
    let digits = digits.get(..total).unwrap_or_default();
    is_issued(digits) && luhn(digits)
}

/// One group, American Express' or Diners' grouping, or equal groups with a shorter one at the end.
fn is_card_shape(groups: &[Group]) -> bool {
    let [first, others @ ..] = groups else { return false };
    let [middle @ .., last] = others else { return true };
    let even = first.len() <= 6 && middle.iter().all(|group| group.len() == first.len()) && last.len() <= first.len();
    let uneven = matches!((first.len(), middle, last.len()), (4, [six], 4 | 5) if six.len() == 6);
    even || uneven
}

/// Whether a card network issues numbers of this start and length.
fn is_issued(digits: &[u8]) -> bool {
    let start = digits.iter().take(6).fold(0_u32, |number, digit| number * 10 + u32::from(*digit));
    match start {
        // Visa.
        400_000..=499_999 => matches!(digits.len(), 13 | 16 | 18 | 19),
        // Mastercard.
        510_000..=559_999 | 222_100..=272_099 => digits.len() == 16,
        // American Express.
        340_000..=349_999 | 370_000..=379_999 => digits.len() == 15,
        // Diners Club.
        300_000..=305_999 | 309_500..=309_599 | 360_000..=369_999 | 380_000..=399_999 => {
            matches!(digits.len(), 14 | 16 | 19)
        }
        // RuPay.
        600_000..=601_099 | 601_200..=609_999 | 820_000..=829_999 => digits.len() == 16,
        // Discover, UnionPay, JCB, Mir, Maestro.
        601_100..=601_199
        | 644_000..=659_999
        | 620_000..=629_999
        | 810_000..=819_999
        | 352_800..=358_999
        | 220_000..=220_499
        | 500_000..=509_999
        | 560_000..=589_999
        | 630_400..=630_499
        | 639_000..=639_099
        | 670_000..=679_999 => digits.len() >= 16,
        _ => false,
    }
}

fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (place % 2, u32::from(*digit)) {
            (0, digit) => digit,
            (_, digit @ 0..=4) => digit * 2,
            (_, digit) => digit * 2 - 9,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Finds `AAA-GG-SSSS`, with dashes or blanks, and nine bare digits after a word that says what they are.
pub(super) fn ssns(text: &[u8], hits: &mut Hits) {
    let mut from = 0;
    while let Some(group) = Group::next(text, from) {
        from = group.end;
        let end = match group.len() {
            3 => ssn_groups(text, group),
            9 if is_ssn(text, [(group.start, 3), (group.start + 3, 2), (group.start + 5, 4)]) => {
                let context = text.get(group.start.saturating_sub(CONTEXT)..group.start).unwrap_or_default();
                let says = |word: &[u8]| context.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
                ((says(b"ssn") || says(b"social sec")) && !byte(text, group.end).is_ascii_alphabetic())
                    .then_some(group.end)
            }
            _ => None,
        };
        if let Some(end) = end {
            hits.push(Detector::UsSsn, group.start, end);
            from = end;
        }
    }
}

fn ssn_groups(text: &[u8], area: Group) -> Option<usize> {
    let separator = byte(text, area.end);
    if !matches!(separator, b'-' | b' ') || before(text, area.start).is_ascii_alphanumeric() {
        return None;
    }
    let middle = Group::of(text, area.end + 1, 2).filter(|group| byte(text, group.end) == separator)?;
    let serial = Group::of(text, middle.end + 1, 4)?;
    let valid = is_ssn(text, [(area.start, 3), (middle.start, 2), (serial.start, 4)])
        && stands_alone(text, area.start, serial.end, separator)
        && !byte(text, serial.end).is_ascii_alphabetic();
    valid.then_some(serial.end)
}

/// Area, group and serial number: none is zero; areas 666 and from 900 on were never given.
fn is_ssn(text: &[u8], parts: [(usize, usize); 3]) -> bool {
    let [area, group, serial] = parts.map(|(start, len)| {
        let digits = text.get(start..start + len).unwrap_or_default();
        digits.iter().fold(0_u32, |number, digit| number * 10 + u32::from(digit.wrapping_sub(b'0')))
    });
    !matches!(area, 0 | 666 | 900..) && group != 0 && serial != 0
}

/// Whether no further group of digits is joined on either side: part numbers and dates go on.
fn stands_alone(text: &[u8], start: usize, end: usize, separator: u8) -> bool {
    let joins = |byte: u8| byte == separator || matches!(byte, b'-' | b'.');
    let left = joins(before(text, start)) && before(text, start - 1).is_ascii_digit();
    let right = joins(byte(text, end)) && byte(text, end + 1).is_ascii_digit();
    !left && !right
}

/// Finds telephone numbers.
pub(super) fn phones(text: &[u8], hits: &mut Hits) {
    let mut from = 0;
    while let Some(group) = Group::next(text, from) {
        from = group.end;
        let lead = before(text, group.start);
        let found = if lead == b'+' {
            let start = group.start - 1;
            let free = !before(text, start).is_ascii_alphanumeric() && byte(text, group.start) != b'0';
            free.then(|| dialled(text, group, PHONE_MIN, 15, false)).flatten().map(|end| (start, end))
        } else if lead.is_ascii_alphanumeric() {
            None
        } else if text.get(group.start..group.end).is_some_and(|digits| digits.starts_with(b"00")) {
            let country = byte(text, group.start + 2);
            let country = if group.len() == 2 { byte(text, group.end + 1) } else { country };
            let free = matches!(country, b'1'..=b'9');
            free.then(|| dialled(text, group, 11, PHONE_MAX, true)).flatten().map(|end| (group.start, end))
        } else {
            american(text, group).or_else(|| european(text, group))
        };
        if let Some((start, end)) = found {
            hits.push(Detector::Phone, start, end);
            from = end;
        }
    }
}

/// Groups of digits with one separator each (or a closing and opening sign), up to `max` digits in all.
fn dialled(text: &[u8], first: Group, min: usize, max: usize, grouped: bool) -> Option<usize> {
    let mut end = first.end;
    let mut total = first.len();
    let mut groups = 1;
    loop {
        let start = run(text, end, |byte| b" -./()".contains(&byte));
        if !(end + 1..=end + 3).contains(&start) {
            break;
        }
        let next = run(text, start, |byte| byte.is_ascii_digit());
        if next == start || total + (next - start) > max {
            break;
        }
        total += next - start;
        end = next;
        groups += 1;
    }
    let fits = (min..=max).contains(&total) && (!grouped || groups > 1);
    (fits && !byte(text, end).is_ascii_alphabetic()).then_some(end)
}

/// `(212) 555-0123`, `212-555-0123`, `212.555.0123`, `212 555 0123`, `1-212-555-0123`.
fn american(text: &[u8], first: Group) -> Option<(usize, usize)> {
    let trunk = first.len() == 1 && byte(text, first.start) == b'1' && b" -.".contains(&byte(text, first.end));
    let mut at = if trunk { first.end + 1 } else { first.start };
    if trunk && byte(text, at) == b'(' {
        at += 1;
    }
    let area = Group::of(text, at, 3)?;
    let braced = before(text, area.start) == b'(' && byte(text, area.end) == b')';
    let mut at = area.end + 1;
    let mut separator = byte(text, area.end);
    if braced {
        at = run(text, at, |byte| b" -.".contains(&byte)).min(at + 1);
    }
    let exchange = Group::of(text, at, 3)?;
    if braced {
        separator = byte(text, exchange.end);
    }
    if !matches!(separator, b'-' | b'.' | b' ') || byte(text, exchange.end) != separator {
        return None;
    }
    let line = Group::of(text, exchange.end + 1, 4)?;
    let given = |group: Group| {
        let eleven = byte(text, group.start + 1) == b'1' && byte(text, group.start + 2) == b'1';
        matches!(byte(text, group.start), b'2'..=b'9') && !eleven
    };
    let start = if braced && !trunk { area.start - 1 } else { first.start };
    let free = stands_alone(text, start, line.end, separator) && !byte(text, line.end).is_ascii_alphabetic();
    (free && given(area) && given(exchange)).then_some((start, line.end))
}

/// `01 23 45 67 89`, `020 7946 0958`, `0161 496 0000`, `07700 900123`, `030/12345678`: a trunk zero and the usual groups.
fn european(text: &[u8], first: Group) -> Option<(usize, usize)> {
    if byte(text, first.start) != b'0' || !matches!(byte(text, first.start + 1), b'1'..=b'9') {
        return None;
    }
    let separator = byte(text, first.end);
    let next = |at: usize, len: usize| Group::of(text, at, len).map(|group| group.end);
    let end = match separator {
        b'/' => {
            let end = run(text, first.end + 1, |byte| byte.is_ascii_digit());
            ((3..=5).contains(&first.len()) && (6..=8).contains(&(end - first.end - 1))).then_some(end)
        }
        b' ' | b'-' | b'.' => {
            let patterns: [&[usize]; 5] = [&[2, 2, 2, 2, 2], &[3, 4, 4], &[4, 3, 4], &[5, 6], &[5, 3, 3]];
            patterns.iter().find_map(|pattern| {
                let (head, others) = pattern.split_first()?;
                if first.len() != *head {
                    return None;
                }
                others.iter().try_fold(first.end, |end, len| {
                    (byte(text, end) == separator).then(|| next(end + 1, *len)).flatten()
                })
            })
        }
        _ => None,
    }?;
    let free = stands_alone(text, first.start, end, separator) && !byte(text, end).is_ascii_alphabetic();
    free.then_some((first.start, end))
}
