//! The figures, as Markdown for the documentation; and whatever must not be, in words.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::compare::{EXEMPTIONS, Finding};
use super::run::{Figures, Run};

/// Figures of all that ran.
#[derive(Default)]
pub(crate) struct Report {
    files: Vec<(String, Figures)>,
    reasons: BTreeMap<String, (usize, usize)>,
    wrong: Vec<String>,
    exempt: BTreeMap<&'static str, Vec<String>>,
    unparsed: Vec<String>,
    /// Files that the suite has.
    pub(crate) scheduled: usize,
    /// The server's version.
    pub(crate) version: String,
}

impl Report {
    /// Keeps the figures of a file, and shows them.
    pub(crate) fn add(&mut self, name: &str, figures: Figures) {
        println!("{}", row(name, &figures));
        self.files.push((name.to_owned(), figures));
    }

    /// Keeps what a run collected beside figures.
    pub(crate) fn take(&mut self, run: &mut Run) {
        for (reason, (all, needless)) in std::mem::take(&mut run.reasons) {
            let counts = self.reasons.entry(reason).or_default();
            *counts = (counts.0 + all, counts.1 + needless);
        }
        run.wrong.iter().for_each(|wrong| println!("{wrong}"));
        self.wrong.append(&mut run.wrong);
        self.unparsed.append(&mut run.unparsed);
        for (why, some) in std::mem::take(&mut run.exempt) {
            self.exempt.entry(why).or_default().extend(some);
        }
    }

    /// What keeps it from showing anything: too little ran, was seen to touch something, or would have been found; too much is opaque.
    pub(crate) fn blind(&self) -> Vec<String> {
        let mut blind = Vec::new();
        for (name, is_generated) in [("generated", true), ("regression suite", false)] {
            let mut sum = Figures::default();
            self.files
                .iter()
                .filter(|(file, _)| (file == GENERATED) == is_generated)
                .for_each(|(_, figures)| sum.add(figures));
            if sum.tried == 0 {
                continue;
            }
            let mut least = |what: &str, part: usize, all: usize, percent: usize| {
                if part * 100 < all * percent {
                    blind.push(format!("{name}: {what}: {part} of {all}, and {percent} % at least are wanted"));
                }
            };
            least("ran", sum.ran(), sum.tried, RAN);
            least("not opaque", sum.ran() - sum.opaque, sum.ran(), NOT_OPAQUE);
            least("touched something", sum.touched, sum.ran(), TOUCHED);
            least("would have been found", sum.would_show, sum.touched, WOULD_SHOW);
        }
        blind
    }

    /// Whatever must not be.
    pub(crate) fn wrong(&self) -> &[String] {
        &self.wrong
    }

    /// The figures at one server.
    pub(crate) fn section(&self) -> String {
        let mut out = format!("\n## PostgreSQL {}\n\n", self.version);
        let sum = |wanted: fn(&str) -> bool| {
            let mut sum = Figures::default();
            for (_, figures) in self.files.iter().filter(|(name, _)| wanted(name)) {
                sum.add(figures);
            }
            sum
        };
        let sums = [sum(|name| name == GENERATED), sum(|name| name != GENERATED)];
        let files = self.files.iter().filter(|(name, _)| name != GENERATED).count();
        let _ = writeln!(out, "Of the regression suite {files} of {} files were run.\n", self.scheduled);
        out.push_str("| | generated | regression suite |\n|---|---:|---:|\n");
        let mut line = |what: &str, of: &dyn Fn(&Figures) -> String| {
            let [one, two] = sums.each_ref().map(of);
            let _ = writeln!(out, "| {what} | {one} | {two} |");
        };
        line("statements tried", &|sum| sum.tried.to_string());
        line("refused by the server, so that nothing came of them", &|sum| sum.refused.to_string());
        line("ran", &|sum| sum.ran().to_string());
        line("of these, not to be observed", &|sum| sum.unobserved.to_string());
        line("touched something of a user's", &|sum| share(sum.touched, sum.ran()));
        line("of these, a verdict that names nothing would have been found wrong", &|sum| {
            share(sum.would_show, sum.touched)
        });
        line("**writes missed**", &|sum| format!("**{}**", sum.count(Finding::WriteMissed)));
        line("**reads missed**", &|sum| format!("**{}**", sum.count(Finding::ReadMissed)));
        line("changes of what names mean missed", &|sum| sum.count(Finding::ChangeMissed).to_string());
        line("opaque, of those that ran", &|sum| share(sum.opaque, sum.ran()));
        line("opaque, though nothing was written and no function of a user ran", &|sum| share(sum.needless, sum.ran()));
        line("needed the catalog", &|sum| share(sum.needed_catalog, sum.ran()));
        line("the server understood, the parser did not", &|sum| share(sum.unparsed, sum.ran()));
        line("commands of psql left out", &|sum| sum.skipped.to_string());
        self.exemptions(&mut out);
        self.opaque(&mut out);
        out.push_str("\n### By file\n\n");
        out.push_str(
            "| file | tried | refused | not observed | writes missed | reads missed | opaque | needed the catalog |\n",
        );
        out.push_str("|---|---:|---:|---:|---:|---:|---:|---:|\n");
        for (name, figures) in &self.files {
            out.push_str(&row(name, figures));
            out.push('\n');
        }
        out
    }

    fn exemptions(&self, out: &mut String) {
        out.push_str("\n### Exemptions\n\nTouched, not named, and no miss: by the design of an owner, or by the server for itself. Each is taken only\nwhere the server's own catalog, counters or locks say so.\n\n| kind | times | what |\n|---|---:|---|\n");
        for (kind, what) in EXEMPTIONS {
            let times: usize = self.files.iter().map(|(_, figures)| figures.count(Finding::Exempt(kind))).sum();
            let _ = writeln!(out, "| {kind} | {times} | {what} |");
        }
    }

    fn opaque(&self, out: &mut String) {
        out.push_str("\n### Why opaque\n\nThe second number: nothing was written, and no function of a user ran. The most frequent reasons.\n\n| why | times | harmless this time |\n|---|---:|---:|\n");
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.0));
        for (reason, (all, needless)) in reasons.into_iter().take(REASONS) {
            let _ = writeln!(out, "| {} | {all} | {needless} |", reason.replace('|', "\\|"));
        }
    }

    /// Every exemption and every text that was not parsed, for whoever looks into them.
    pub(crate) fn details(&self) -> String {
        let mut out = self.wrong.join("\n");
        for (why, some) in &self.exempt {
            let _ = write!(out, "\n\n# {why}\n{}", some.join("\n"));
        }
        let _ = write!(out, "\n\n# not parsed\n{}", self.unparsed.join("\n"));
        for (reason, counts) in &self.reasons {
            let _ = write!(out, "\n# opaque {counts:?} {reason}");
        }
        out
    }
}

const REASONS: usize = 40;

/// Least shares, in percent, so that no finding means something.
const RAN: usize = 60;
const NOT_OPAQUE: usize = 80;
const TOUCHED: usize = 40;
const WOULD_SHOW: usize = 90;

/// Stands for a file where statements come from the generator: the suite has a file `generated`.
pub(crate) const GENERATED: &str = "(generated)";

/// What stands before them.
pub(crate) const INTRODUCTION: &str = "# Verdicts held against a server\n\n\
`cargo xtask differential` writes this file. Each statement is judged first, then run on a throw-away PostgreSQL in a\n\
transaction of its own where that can be. What it really touched is taken from the server: the locks on relations that it\n\
holds to its end, rows inserted, updated and deleted, functions of users that ran, transaction id, advisory locks, locks on\n\
other objects, what names mean in the session afterwards. All of it must be named by an action of the right sort, or the\n\
text must be `sql:opaque`.\n\n\
The suite's library of functions in C is not built for this: what needs it is refused by the server. Not to be observed are\n\
statements that no transaction block takes, and those that end one.\n";

fn row(name: &str, figures: &Figures) -> String {
    format!(
        "| {name} | {} | {} | {} | {} | {} | {} | {} |",
        figures.tried,
        figures.refused,
        figures.unobserved,
        figures.count(Finding::WriteMissed),
        figures.count(Finding::ReadMissed),
        figures.opaque,
        figures.needed_catalog
    )
}

fn share(part: usize, all: usize) -> String {
    let tenths = (part * 1000 + all / 2).checked_div(all).unwrap_or(0);
    format!("{part} ({}.{} %)", tenths / 10, tenths % 10)
}
