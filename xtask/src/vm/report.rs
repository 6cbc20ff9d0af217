//! What the suites say, line by line, and what becomes of it: a table, and files for the documentation.
//!
//! `@begin SUITE`, `@end SUITE passed|failed|skipped TEXT`, `@file NAME|LINE` (a line of a file that the suite made); what
//! stands between is its output. Only root of the guest writes there.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::guest::now;
use super::{Plan, SUITES};
use crate::run::root;

/// Lines of its output that a failed suite shows.
const SHOWN: usize = 200;
/// Lines and files that are kept of one guest, at most.
const LINES: usize = 100_000;

/// How a suite went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it must be.
    Passed,
    /// Not here, for this reason.
    Skipped(String),
    /// Not as it must be.
    Failed(String),
}

/// A suite that ran, or was to run.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    suite: String,
    verdict: Verdict,
    seconds: f64,
    output: Vec<String>,
}

impl Outcome {
    pub(super) fn failed(&self) -> bool {
        matches!(self.verdict, Verdict::Failed(_))
    }
}

/// A guest that is done.
#[derive(Debug, Default)]
pub(super) struct Ran {
    pub(super) outcomes: Vec<Outcome>,
    files: BTreeMap<String, String>,
}

/// Reads along.
pub(super) struct Reader {
    awaited: VecDeque<String>,
    current: Option<(String, Instant)>,
    output: Vec<String>,
    lines: usize,
    ran: Ran,
}

impl Reader {
    pub(super) fn new<'a>(suites: impl Iterator<Item = &'a str>) -> Self {
        let awaited = suites.map(str::to_owned).collect();
        Self { awaited, current: None, output: Vec::new(), lines: 0, ran: Ran::default() }
    }

    pub(super) fn line(&mut self, line: &str) {
        self.lines += 1;
        if self.lines > LINES {
            return;
        }
        let line = line.trim_end_matches('\r');
        let words = line.split_once(' ').unwrap_or((line, ""));
        match words {
            ("@begin", suite) => {
                self.current = Some((suite.to_owned(), now()));
                self.output.clear();
            }
            ("@end", rest) => self.ended(rest),
            ("@file", rest) => {
                if let Some((name, text)) = rest.split_once('|') {
                    let file = self.ran.files.entry(name.to_owned()).or_default();
                    file.push_str(text);
                    file.push('\n');
                }
            }
            _ => self.output.push(line.to_owned()),
        }
    }

    /// A suite that has had its time.
    pub(super) fn late(&self) -> Option<String> {
        let (name, begun) = self.current.as_ref()?;
        let limit = SUITES.iter().find(|suite| suite.name == name)?.seconds;
        (begun.elapsed() > Duration::from_secs(limit)).then(|| format!("it was not done after {limit} s"))
    }

    fn ended(&mut self, rest: &str) {
        let mut words = rest.splitn(3, ' ');
        let (suite, verdict, why) = (words.next(), words.next(), words.next().unwrap_or_default().to_owned());
        let verdict = match verdict {
            Some("passed") => Verdict::Passed,
            Some("skipped") => Verdict::Skipped(why),
            _ => Verdict::Failed(why),
        };
        self.note(suite.unwrap_or_default(), verdict);
    }

    fn note(&mut self, suite: &str, verdict: Verdict) {
        let seconds = self.current.take().map_or(0.0, |(_, begun)| begun.elapsed().as_secs_f64());
        self.awaited.retain(|awaited| awaited != suite);
        let outcome = Outcome { suite: suite.to_owned(), verdict, seconds, output: std::mem::take(&mut self.output) };
        show(&outcome);
        self.ran.outcomes.push(outcome);
    }

    /// The guest is gone. Whatever it has not done has failed.
    pub(super) fn end(mut self, broke: Option<&str>) -> Ran {
        let why = broke.unwrap_or("the guest ended before");
        if let Some((suite, begun)) = self.current.clone() {
            self.note(&suite, Verdict::Failed(format!("{why} ({:.0} s)", begun.elapsed().as_secs_f64())));
        }
        for suite in std::mem::take(&mut self.awaited) {
            self.note(&suite, Verdict::Failed(why.to_owned()));
        }
        self.ran
    }
}

#[expect(clippy::print_stderr, reason = "progress is for the person at the terminal")]
fn show(outcome: &Outcome) {
    match &outcome.verdict {
        Verdict::Passed => eprintln!("{:<12} passed in {:.1} s", outcome.suite, outcome.seconds),
        Verdict::Skipped(why) => eprintln!("{:<12} LEFT OUT: {why}", outcome.suite),
        Verdict::Failed(why) => {
            let from = outcome.output.len().saturating_sub(SHOWN);
            let last = outcome.output.get(from..).unwrap_or_default();
            eprintln!("{:<12} FAILED: {why}\n{}", outcome.suite, last.join("\n"));
        }
    }
}

/// One line a suite, one column a guest.
#[expect(clippy::print_stderr, reason = "the table is for the person at the terminal")]
pub(super) fn table(guests: &[(String, Vec<Outcome>)]) {
    eprint!("\n{:<12}", "");
    guests.iter().for_each(|(name, _)| eprint!(" {name:>22}"));
    eprintln!();
    for suite in SUITES {
        let cell = |outcomes: &[Outcome]| match outcomes.iter().find(|outcome| outcome.suite == suite.name) {
            None => "-".to_owned(),
            Some(Outcome { verdict: Verdict::Passed, seconds, .. }) => format!("{seconds:.0} s"),
            Some(Outcome { verdict: Verdict::Skipped(_), .. }) => "left out".to_owned(),
            Some(Outcome { verdict: Verdict::Failed(_), .. }) => "FAILED".to_owned(),
        };
        eprint!("{:<12}", suite.name);
        guests.iter().for_each(|(_, outcomes)| eprint!(" {:>22}", cell(outcomes)));
        eprintln!();
    }
}

/// Keeps the files that a guest's suites made where the documentation takes them from.
pub(super) fn publish(plan: &Plan, ran: &Ran) -> Result<()> {
    let folder = kept();
    fs::create_dir_all(&folder)?;
    for (name, content) in &ran.files {
        // A name is a name, whatever the guest says.
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) && !name.starts_with('.');
        // What is for people is in the guest's words alone.
        if plain && name.ends_with(".json") {
            fs::write(folder.join(format!("{}-{name}", plan.name())), content)?;
        }
    }
    Ok(())
}

fn kept() -> PathBuf {
    root().join("docs/kernels")
}

/// Ends the name of what doctor said of a guest.
const DOCTOR: &str = "-doctor.json";

/// What doctor said of every guest whose words are kept, side by side: `docs/doctor.md`.
pub(super) fn doctor() -> Result<()> {
    let mut guests = Vec::new();
    for entry in fs::read_dir(kept())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(guest) = name.strip_suffix(DOCTOR) {
            let findings: Vec<Finding> = serde_json::from_str(&fs::read_to_string(entry.path())?)?;
            guests.push((guest.replace("-without-bpf-lsm", ", without bpf in lsm="), findings));
        }
    }
    // As numbers, and words last.
    guests.sort_by_key(|(guest, _)| (guest.starts_with(|c: char| c.is_alphabetic()), guest.len(), guest.clone()));
    fs::write(root().join("docs/doctor.md"), document(&guests))?;
    Ok(())
}

/// One finding of `interceptor doctor --json`.
#[derive(Clone, Debug, serde::Deserialize)]
struct Finding {
    name: String,
    verdict: String,
    detail: String,
    cost: String,
    remedy: String,
}

const INTRODUCTION: &str = "# What hosts offer

`interceptor doctor` looks at a host, primitive by primitive, and says what is missing, what that costs, and how to get it. It
loads a trivial program of each kind, and all of interceptor's, rather than believe what files say; it changes nothing. It ends
with 0 where the daemon can run, and with 1 where it cannot (*missing*); what is *weak* is held less well than it could be.
`--for CONFIG` looks at what a configuration is to govern, too: owners of the cgroups, programs of others at them, above and
below (systemd's for IPAddressDeny=, Cilium's: `docs/service.md`), room for recordings. A daemon that runs is asked whether somebody opens network namespaces for it, and answers.

`cargo xtask vm --publish` writes this file: what doctor says on Debian's cloud kernels, as their suites configure it, in virtual
machines.
";

fn document(guests: &[(String, Vec<Finding>)]) -> String {
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let mut text = format!("{INTRODUCTION}\n| what |{}\n|---|", titles(guests));
    text.push_str(&"---|".repeat(guests.len()));
    let all: Vec<&Finding> = guests.iter().flat_map(|(_, findings)| findings).collect();
    let mut names: Vec<&str> = Vec::new();
    all.iter().for_each(|found| {
        if !names.contains(&found.name.as_str()) {
            names.push(&found.name)
        }
    });
    for name in &names {
        text.push_str(&format!("\n| {} |", cell(name)));
        for (_, findings) in guests {
            let told = findings.iter().find(|found| found.name == *name).map_or_else(String::new, |found| {
                let verdict = if found.verdict == "ok" { String::new() } else { format!("**{}**: ", found.verdict) };
                format!("{verdict}{}", cell(&found.detail))
            });
            text.push_str(&format!(" {told} |"));
        }
    }
    text.push_str(
        "\n\n## What it costs\n\nOf what some kernel above lacks:\n\n| what | cost | how to get it |\n|---|---|---|\n",
    );
    for name in names {
        if let Some(found) = all.iter().find(|found| found.name == name && found.verdict != "ok") {
            text.push_str(&format!("| {} | {} | {} |\n", cell(name), cell(&found.cost), cell(&found.remedy)));
        }
    }
    text
}

fn titles(guests: &[(String, Vec<Finding>)]) -> String {
    guests.iter().map(|(guest, _)| format!(" {guest} |")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str], broke: Option<&str>) -> Ran {
        let mut reader = Reader::new(["install", "life"].into_iter());
        lines.iter().for_each(|line| reader.line(line));
        reader.end(broke)
    }

    fn verdicts(ran: &Ran) -> Vec<(&str, Verdict)> {
        ran.outcomes.iter().map(|outcome| (outcome.suite.as_str(), outcome.verdict.clone())).collect()
    }

    #[test]
    fn what_a_guest_did_not_do_has_failed() {
        let ran =
            read(&["@begin install", "unpacking", "@end install passed ", "@begin life", "half"], Some("a panic"));
        assert_eq!(ran.outcomes[0].verdict, Verdict::Passed);
        assert_eq!(ran.outcomes[0].output, ["unpacking"]);
        assert!(ran.outcomes[1].failed() && ran.outcomes[1].output == ["half"], "{:?}", verdicts(&ran));
        let silent = read(&[], None);
        assert_eq!(silent.outcomes.iter().filter(|outcome| outcome.failed()).count(), 2);
    }

    #[test]
    fn only_the_word_passed_is_a_pass() {
        let ran =
            read(&["@begin install", "@end install fine", "@begin life", "@end life skipped no such kernel"], None);
        assert!(ran.outcomes[0].failed());
        assert_eq!(ran.outcomes[1].verdict, Verdict::Skipped("no such kernel".to_owned()));
    }

    #[test]
    fn what_doctor_said_is_put_side_by_side() {
        let told = |verdict: &str| {
            let found = Finding {
                name: "LSM programs".into(),
                verdict: verdict.into(),
                detail: "a|b".into(),
                cost: "much".into(),
                remedy: "boot".into(),
            };
            vec![found]
        };
        let text = document(&[("6.1".into(), told("ok")), ("6.12".into(), told("weak"))]);
        assert!(
            text.contains("| what | 6.1 | 6.12 |\n|---|---|---|\n| LSM programs | a\\|b | **weak**: a\\|b |"),
            "{text}"
        );
        assert!(text.ends_with("| LSM programs | much | boot |\n"), "{text}");
    }

    #[test]
    fn files_come_line_by_line() {
        let ran = read(&["@file doctor.json|{", "@file doctor.json|}"], None);
        assert_eq!(ran.files["doctor.json"], "{\n}\n");
    }
}
