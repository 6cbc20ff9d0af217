//! What servers may take a path for that read it less strictly than it stands: without regard to case, to a slash, dots or blanks at
//! its end, to what looks like another character, to an ending (`.json`), or to what stands behind a `?` that was escaped.
//!
//! A request that some server could take for one on another route is judged on that as well; where that is another path, which is
//! on no route, on the target as a whole. Of routes that say less than the one that it is on, only the first is looked at, and
//! that where the path has to be read as another to be on it.

use std::collections::BTreeSet;

use super::{Route, Step};
use crate::mask::fold;

/// A route as it is compared: what is written out, folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Step>);

impl Pattern {
    pub(super) fn of(route: &Route) -> Self {
        let mut steps: Vec<Step> = route.steps.iter().map(folded).collect();
        if steps.len() > 1 && matches!(steps.last(), Some(Step::Literal(last)) if last.is_empty()) {
            steps.pop();
        }
        Self(steps)
    }

    fn is_match(&self, reading: &[String]) -> bool {
        let mut segments = reading.iter();
        for step in &self.0 {
            let Some(segment) = segments.next() else { return false };
            let is_last = segments.len() == 0;
            match step {
                Step::Literal(text) if text == segment || (is_last && has_ending(segment, text)) => {}
                Step::One if !segment.is_empty() => {}
                Step::Rest => return true,
                _ => return false,
            }
        }
        segments.next().is_none()
    }
}

fn folded(step: &Step) -> Step {
    match step {
        Step::Literal(text) => Step::Literal(segment(text)),
        other => other.clone(),
    }
}

/// Whether that is the step with an ending.
fn has_ending(segment: &str, step: &str) -> bool {
    !step.is_empty() && segment.strip_prefix(step).is_some_and(|rest| rest.starts_with('.'))
}

/// A step of a path, as those read it who read everything into it.
fn segment(text: &str) -> String {
    let plain: String = text.chars().map(plain).collect();
    let trimmed = plain.trim_start().trim_end_matches(|c: char| c.is_whitespace() || c == '.');
    fold(if trimmed.is_empty() { &plain } else { trimmed })
}

/// The ASCII that a character looks like; some servers take it for that ("best fit").
const fn plain(character: char) -> char {
    match character {
        '\u{ff01}'..='\u{ff5e}' => match char::from_u32(character as u32 - 0xfee0) {
            Some(ascii) => ascii,
            None => character,
        },
        '\u{2024}' => '.',
        '\u{2044}' | '\u{2215}' | '\u{29f8}' => '/',
        '\u{2216}' | '\u{29f5}' => '\\',
        other => other,
    }
}

/// Whether all servers read it alike.
pub(super) fn is_plain(segments: &[String]) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_~".contains(&byte);
    segments.iter().all(|segment| !segment.is_empty() && segment.bytes().all(plain))
}

/// What a path may be taken for, folded.
struct Reading {
    steps: Vec<String>,
    /// It is another path, and not the same with a slash less, or in other letters.
    is_other: bool,
}

fn readings(segments: &[String]) -> Vec<Reading> {
    const CUTS: [char; 4] = ['?', '#', '\u{ff1f}', '\u{ff03}'];
    let mut all = vec![segments.to_vec()];
    if let Some(at) = segments.iter().position(|segment| segment.contains(CUTS)) {
        let mut before: Vec<String> = segments.iter().take(at + 1).cloned().collect();
        if let Some(last) = before.last_mut() {
            *last = last.split(CUTS).next().unwrap_or_default().to_owned();
        }
        all.push(before);
    }
    // What looks like a slash divides for some.
    let divided = |one: &Vec<String>| -> Vec<String> {
        let text: String = one.join("/").chars().map(plain).collect();
        text.split(['/', '\\']).map(str::to_owned).collect()
    };
    // Other characters may look like some, too: only more steps are another path.
    let looks: Vec<Vec<String>> = all
        .iter()
        .map(|one| (one.len(), divided(one)))
        .filter(|(count, one)| *count != one.len())
        .map(|(_, one)| one)
        .collect();
    all.extend(looks);
    let mut readings = Vec::new();
    for (index, one) in all.iter().enumerate() {
        // A slash at the end is one more step to some, and none to others.
        let ends = one.len() > 1 && one.last().is_some_and(String::is_empty);
        let ended = ends.then(|| one.iter().take(one.len() - 1));
        let is_other = index > 0;
        readings.extend(ended.map(|steps| Reading { steps: steps.map(|text| segment(text)).collect(), is_other }));
        let is_other = is_other && !ends;
        readings.push(Reading { steps: one.iter().map(|text| segment(text)).collect(), is_other });
    }
    readings
}

/// What else a path may be on than the pattern that it is on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Beside {
    /// The places of patterns.
    pub(super) patterns: BTreeSet<usize>,
    /// It may be on none.
    pub(super) none: bool,
}

/// What a path may be taken for: on a reading that its own pattern has as well, whatever says more than that; on another, the first that
/// has it, and whatever says more than its own.
pub(super) fn beside(patterns: &[Pattern], on: Option<usize>, segments: &[String]) -> Beside {
    let mut found = Beside::default();
    let own = on.and_then(|on| patterns.get(on));
    for reading in readings(segments) {
        let mut matching =
            patterns.iter().enumerate().filter(|(_, pattern)| pattern.is_match(&reading.steps)).peekable();
        let first = matching.peek().map(|(at, _)| *at);
        let is_own = own.is_some_and(|own| own.is_match(&reading.steps));
        found.none |= on.is_some() && reading.is_other && first.is_none();
        let before = on.unwrap_or(patterns.len());
        let counts = |at: usize| at < before || (!is_own && first == Some(at));
        found.patterns.extend(matching.filter(|(at, pattern)| Some(*pattern) != own && counts(*at)).map(|(at, _)| at));
    }
    found
}

/// Whether all servers read the routes alike.
pub(super) fn are_plain(routes: &[Route]) -> bool {
    let written = |step: &Step| match step {
        Step::Literal(text) => Some(text.clone()),
        Step::One | Step::Rest => None,
    };
    routes.iter().all(|route| is_plain(&route.steps.iter().filter_map(written).collect::<Vec<_>>()))
}

/// Whether a step leads up, or nowhere, to whoever cuts blanks, or takes what looks like dots for them.
pub(super) fn leads_up(text: &str) -> bool {
    let plain: String = text.chars().map(plain).collect();
    plain.split(['/', '\\']).any(|step| matches!(step.trim(), "." | ".."))
        || (!text.is_empty() && plain.trim().is_empty())
}
