//! The figures, as Markdown for the documentation.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::run::{ASKING, FAILING, Figures, Findings, Questions, shown};

/// Figures of all that ran at one server.
pub(crate) struct Report<'a> {
    pub(crate) version: u32,
    pub(crate) seed: u64,
    pub(crate) findings: &'a Findings,
    /// Of cases with values in clear, those that ran, and those in which values were found; by class.
    pub(crate) checked: &'a BTreeMap<&'static str, (usize, usize)>,
    pub(crate) questions: &'a Questions,
}

impl Report<'_> {
    /// The whole document.
    pub(crate) fn document(&self) -> String {
        format!("{INTRODUCTION}{}{LIMITS}", self.section())
    }

    /// What is of this server alone.
    pub(crate) fn section(&self) -> String {
        let mut sum = Figures::default();
        self.findings.classes.values().for_each(|figures| sum.add(figures));
        let mut out = format!("\n## PostgreSQL {}\n\nSeed {}.\n\n| | |\n|---|---:|\n", self.version, self.seed);
        let mut line = |what: &str, value: String| {
            let _ = writeln!(out, "| {what} | {value} |");
        };
        line("cases", sum.cases.to_string());
        line("**values or unflagged differences that passed**", format!("**{}**", self.findings.leaks.len()));
        line("refused by policy or driver", share(sum.refused, sum.cases));
        line("failed at the server", share(sum.failed, sum.cases));
        line("ran to the end", share(sum.ran, sum.cases));
        line("differed between the worlds, with `filters_on_masked` set", share(sum.flagged, sum.cases));
        let needless: usize = self.findings.needless.values().sum();
        line("differences that were the planner's: gone with fresh statistics", self.findings.plans.to_string());
        line("cases without tagged columns that the server runs", self.findings.untagged.to_string());
        line("of these, masked or refused needlessly", share(needless, self.findings.untagged));
        let (ran, found) = shown(self.checked);
        line("self-check: cases run with every value in clear, that show them", ran.to_string());
        line("self-check: values or differences found in them", share(found, ran));
        for (class, what) in [
            (FAILING, "self-check: statements that failed, whose errors showed them"),
            (ASKING, "self-check: questions about values, whose answers differed"),
        ] {
            let (ran, found) = self.checked.get(class).copied().unwrap_or_default();
            line(what, format!("{} of {ran}", share(found, ran)));
        }
        let questions = self.questions;
        line("questions about values, under the shipped baseline", questions.asked.to_string());
        line("of these, held", share(questions.held, questions.asked));
        line("of these, denied for another reason", share(questions.denied, questions.asked));
        line("**of these, answered**", format!("**{}**", questions.answered.len()));
        line("queries without tagged columns under the baseline", questions.plain.to_string());
        line("of these, permitted", share(questions.plain_permitted, questions.plain));
        self.classes(&mut out);
        self.reasons(&mut out);
        out
    }

    fn classes(&self, out: &mut String) {
        out.push_str("\n| class | cases | refused | failed | ran | passed | self-check: ran | found |\n|---|---:|---:|---:|---:|---:|---:|---:|\n");
        for (class, figures) in &self.findings.classes {
            let (ran, found) = self.checked.get(class).copied().unwrap_or_default();
            let Figures { cases, refused, failed, ran: done, leaks, .. } = figures;
            let _ = writeln!(out, "| {class} | {cases} | {refused} | {failed} | {done} | {leaks} | {ran} | {found} |");
        }
    }

    fn reasons(&self, out: &mut String) {
        out.push_str("\n| why refused | times |\n|---|---:|\n");
        let mut reasons: Vec<_> = self.findings.reasons.iter().collect();
        reasons.sort_by_key(|(why, times)| (std::cmp::Reverse(**times), (*why).clone()));
        for (why, times) in reasons.into_iter().take(REASONS) {
            let _ = writeln!(out, "| {} | {times} |", why.replace('|', "\\|"));
        }
        out.push_str("\n| masked or refused needlessly | times |\n|---|---:|\n");
        for (why, times) in &self.findings.needless {
            let _ = writeln!(out, "| {} | {times} |", why.replace('|', "\\|"));
        }
    }
}

const REASONS: usize = 25;

fn share(part: usize, all: usize) -> String {
    let tenths = (part * 1000 + all / 2).checked_div(all).unwrap_or(0);
    format!("{part} ({}.{} %)", tenths / 10, tenths % 10)
}

const INTRODUCTION: &str = "# The search for ways round the masking\n\n\
`cargo xtask masks` writes this file. A seeded generator makes queries and sequences of statements over tagged columns of\n\
every sort of type; they run through the whole driver, under real policies, in front of a throw-away PostgreSQL. The agent\n\
may read, write, define and set; it may not do what is opaque, and it sees no tag in clear.\n\n\
The tagged columns hold unique values of high entropy. Every byte that reaches the agent (rows in text and binary, COPY\n\
data, errors, notices, notifications, settings, names, tags of commands) is searched for them: whole and in pieces of six\n\
characters, forwards and backwards, in any case of letters, hexadecimal, base64, as code points, split over arrays and\n\
rows, hashed by the server, and in binary form.\n\n\
Each case runs in two worlds, databases that differ in tagged values alone. Whatever differs in what the agents are told\n\
counts as passed as well, unless `context.filters_on_masked` was set for the case: that finds whatever no list of encodings\n\
names, down to single bits.\n\n\
The self-check runs a part of the cases with every value in clear, and must find it in nearly all of those that show\n\
anything: in rows, and, of as many that fail, in errors. Of questions about values, which show none, it must see by the\n\
worlds' difference what it can: most ask what is alike in both. Questions about values (filters, order, groups, conflicts, failing computations) are put under the shipped\n\
baseline, which has to hold or deny each.\n";

const LIMITS: &str = "\n## Known limits\n\n\
- Whether a value is NULL stays visible; under `keep_last` the last characters and the length, under `token` equality.\n\
- Whoever may filter on masked columns (an approval, or the group `masked-filters`) can ask for values bit by bit.\n\
- Whether a constraint of the table's owner is broken (a unique key, a check) shows by the SQLSTATE of a plain write of what the agent gives itself.\n\
- How long a statement takes, and how large a table is after a computed value was written into a column of the same tag.\n\
- Whether the elements of tagged arrays fit together in an array expression, and whether a result fits into memory.\n\
- The order of rows that nothing asks for, where statistics make the planner choose another plan.\n\
- What owners design: names of partitions, views that filter, triggers, and functions that policy permits to call.\n\
- Functions of the system in defaults, checks, policies, domains and indexes (`set_config`, `pg_notify`, `query_to_xml`): servers keep no record of what calls those, so that a statement which sets them off shows none of it. What makes such a default, check or index is judged as it names them.\n\
- Tags in a tree of tables: a column has those of its name in every table below, in those above it, and above those below. A sibling has none of them: name the parent in rules. Tables with more than 512 below take masked values by the rules that name them alone.\n";
