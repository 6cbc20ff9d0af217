//! Runs cases in both worlds, compares, and makes smaller what is found.

use std::collections::BTreeMap;

use interceptor::testing::draw::Draw;

use super::agent::{Said, Script};
use super::corpus::{Case, Corpus};
use super::rig::{Governed, Outcome, Rig, Rule};

/// Runs spent on making one finding smaller.
const SHRINKS: usize = 300;
/// Class of the cases that are to fail.
pub(crate) const FAILING: &str = "error";
/// Class of those that only ask.
pub(crate) const ASKING: &str = "filter";
/// Findings after which a run stops looking.
const ENOUGH: usize = 40;

/// Counts of one class of cases.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) cases: usize,
    pub(crate) refused: usize,
    /// The server refused them.
    pub(crate) failed: usize,
    pub(crate) ran: usize,
    pub(crate) leaks: usize,
    /// Differed between the worlds, with `filters_on_masked` set.
    pub(crate) flagged: usize,
}

impl Figures {
    pub(crate) fn add(&mut self, other: &Self) {
        self.cases += other.cases;
        self.refused += other.refused;
        self.failed += other.failed;
        self.ran += other.ran;
        self.leaks += other.leaks;
        self.flagged += other.flagged;
    }
}

/// What a run found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) classes: BTreeMap<&'static str, Figures>,
    pub(crate) reasons: BTreeMap<String, usize>,
    pub(crate) leaks: Vec<String>,
    /// Differences in the order of rows that went with the statistics that had grown apart.
    pub(crate) plans: usize,
    /// Cases without tagged columns: how many ran, and those that came out masked, by why.
    pub(crate) untagged: usize,
    pub(crate) needless: BTreeMap<String, usize>,
    /// Sessions that ended before their time.
    pub(crate) broken: Vec<String>,
}

/// Agents in both worlds.
pub(crate) struct Pair([Governed; 2]);

impl Pair {
    pub(crate) fn new(rig: &Rig, rule: Rule) -> Self {
        Self([rig.agent(0, rule), rig.agent(1, rule)])
    }

    pub(crate) fn run(&mut self, case: &Case) -> [Outcome; 2] {
        let [one, two] = &mut self.0;
        std::thread::scope(|scope| {
            let other = scope.spawn(|| two.run(case));
            let one = one.run(case);
            [one, other.join().unwrap()]
        })
    }
}

/// A value that passed, or a difference that nothing flags.
pub(crate) fn leak(rig: &Rig, outcomes: &[Outcome; 2]) -> Option<String> {
    if let Some(found) = outcomes.iter().find_map(|outcome| rig.finder.find(&outcome.script)) {
        return Some(found);
    }
    let flagged = outcomes.iter().any(Outcome::filters);
    difference(outcomes).filter(|_| !flagged)
}

/// What an agent could tell the worlds apart by.
pub(crate) fn difference([one, two]: &[Outcome; 2]) -> Option<String> {
    let (one, two) = (comparable(&one.script), comparable(&two.script));
    if one == two {
        return None;
    }
    let mut pairs = one.iter().zip(&two).filter(|(one, two)| one != two);
    Some(match pairs.next() {
        Some((one, two)) => format!("the worlds differ: {one:?} / {two:?}"),
        None => format!("the worlds differ: {} / {} parts", one.len(), two.len()),
    })
}

/// Everything said, with tokens that have to differ made alike.
fn comparable(script: &Script) -> Vec<String> {
    let shown = |said: &Said| {
        let kind = match said {
            Said::Cell { .. } => "cell",
            Said::Null => "null",
            Said::Name(_) => "name",
            Said::Copy(_) => "copy",
            Said::Error(..) => "error",
            Said::Text(_) => "text",
            Said::Tag(_) => "tag",
        };
        let text = String::from_utf8_lossy(said.bytes()).replace("masking/two", "masking/one");
        format!("{kind} {}", without_tokens(&text))
    };
    script.said.iter().map(shown).collect()
}

fn without_tokens(text: &str) -> String {
    const TOKEN: usize = 26;
    let mut parts = text.split("tok_");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.char_indices().nth(TOKEN).map_or(part.len(), |(at, _)| at);
        let (token, rest) = part.split_at(end);
        let token = token.chars().all(|sign| sign.is_ascii_lowercase() || sign.is_ascii_digit());
        out.push_str("tok_");
        out.push_str(if token { rest } else { part });
    }
    out
}

/// Runs so many cases.
pub(crate) fn search(rig: &Rig, seed: u64, cases: usize) -> Findings {
    let mut corpus = Corpus::new(Draw::new(seed), rig.version);
    let mut pair = Pair::new(rig, Rule::Permissive);
    let mut direct = rig.direct(0);
    let mut findings = Findings::default();
    for _ in 0..cases {
        let (case, choices) = corpus.next();
        let outcomes = pair.run(&case);
        let refused = outcomes[0].refused();
        let figures = findings.classes.entry(case.class).or_default();
        figures.cases += 1;
        figures.refused += usize::from(refused.is_some());
        figures.failed += usize::from(refused.is_none() && outcomes[0].failed());
        figures.ran += usize::from(refused.is_none() && !outcomes[0].failed());
        figures.flagged += usize::from(outcomes[0].filters() && difference(&outcomes).is_some());
        if let Some(why) = &refused {
            *findings.reasons.entry(why.clone()).or_default() += 1;
        }
        if let Some(broke) = outcomes.iter().find_map(|outcome| outcome.broke.as_ref()) {
            findings.broken.push(format!("{broke}: {:?}", case.steps));
        }
        if case.plain {
            plain(&case, &outcomes[0], refused, &mut direct, &mut findings);
        }
        if let Some(found) = leak(rig, &outcomes) {
            if !outcomes.iter().any(|outcome| rig.finder.find(&outcome.script).is_some())
                && goes_with_statistics(rig, &mut pair, &case)
            {
                findings.plans += 1;
                continue;
            }
            let (case, found) = smaller(rig, &mut pair, (case, found), choices);
            findings.classes.entry(case.class).or_default().leaks += 1;
            findings.leaks.push(format!("{}: {found}\n    {}", case.class, case.steps.join("\n    ")));
            println!("{}", findings.leaks.last().map_or("", String::as_str));
            if findings.leaks.len() >= ENOUGH {
                break;
            }
        }
    }
    findings
}

/// Whether the worlds no longer differ once their statistics are those of their rows, and nothing else is in their files:
/// plans depend on both, and on plans the order of rows that nobody has asked for.
fn goes_with_statistics(rig: &Rig, pair: &mut Pair, case: &Case) -> bool {
    rig.renew();
    leak(rig, &pair.run(case)).is_none()
}

/// What a case without tagged columns should have shown.
fn plain(case: &Case, outcome: &Outcome, refused: Option<String>, direct: &mut Governed, findings: &mut Findings) {
    let truth = direct.run(case);
    if truth.failed() {
        return;
    }
    findings.untagged += 1;
    let reason = match refused {
        Some(why) => format!("refused: {why}"),
        None if comparable(&truth.script) == comparable(&outcome.script) => return,
        None => format!("masked: {}", case.steps.first().and_then(|step| step.split(' ').next()).unwrap_or_default()),
    };
    *findings.needless.entry(reason).or_default() += 1;
}

/// The smallest case with a leak that can be made of the choices.
fn smaller(rig: &Rig, pair: &mut Pair, first: (Case, String), choices: Vec<usize>) -> (Case, String) {
    let (mut best, mut choices) = (first, choices);
    let size = |case: &Case| case.steps.iter().map(String::len).sum::<usize>();
    let mut left = SHRINKS;
    let mut try_with = |choices: Vec<usize>, best: &mut (Case, String)| {
        let mut corpus = Corpus::new(Draw::again(choices), rig.version);
        let (case, made) = corpus.next();
        let found = (size(&case) < size(&best.0)).then(|| leak(rig, &pair.run(&case)))??;
        *best = (case, found);
        Some(made)
    };
    loop {
        let mut shrunk = false;
        // The first choice is the class: it stays.
        let mut at = 1;
        while at < choices.len() && left > 0 {
            let mut candidates = vec![choices[..at].to_vec()];
            let mut without = choices.clone();
            without.remove(at);
            candidates.push(without);
            if choices[at] > 0 {
                let mut zeroed = choices.clone();
                zeroed[at] = 0;
                candidates.push(zeroed);
            }
            for candidate in candidates {
                left = left.saturating_sub(1);
                if let Some(made) = try_with(candidate, &mut best) {
                    choices = made;
                    shrunk = true;
                    break;
                }
            }
            at += 1;
        }
        if !shrunk || left == 0 {
            return best;
        }
    }
}

/// Runs cases with every value in clear: whether the search would see them. Gives how many ran, and those found, by class;
/// of what is to fail how many failed. What only asks about values shows them in few cases, and only between the worlds;
/// there are too few of it, and of errors, among all others, so that some more are run of each.
pub(crate) fn self_check(rig: &Rig, seed: u64, cases: usize) -> BTreeMap<&'static str, (usize, usize)> {
    let mut corpus = Corpus::new(Draw::new(seed), rig.version).mild();
    let mut pair = Pair::new(rig, Rule::Open);
    let mut found: BTreeMap<&'static str, (usize, usize)> = BTreeMap::new();
    let mut all: Vec<Case> = (0..cases).map(|_| corpus.next().0).collect();
    all.extend((0..cases).flat_map(|_| [corpus.failing_case(), corpus.asking_case()]));
    for case in all.into_iter().filter(|case| !case.plain) {
        let outcomes = pair.run(&case);
        let counts = found.entry(case.class).or_default();
        let ended = outcomes[0].failed() == (case.class == FAILING);
        counts.0 += usize::from(ended);
        let seen = outcomes.iter().any(|outcome| rig.finder.find(&outcome.script).is_some());
        counts.1 += usize::from(ended && (seen || difference(&outcomes).is_some()));
    }
    found
}

/// The sum of what was checked of cases that show values by themselves.
pub(crate) fn shown(checked: &BTreeMap<&'static str, (usize, usize)>) -> (usize, usize) {
    let showing = checked.iter().filter(|(class, _)| ![FAILING, ASKING].contains(*class));
    showing.fold((0, 0), |sum, (_, one)| (sum.0 + one.0, sum.1 + one.1))
}

/// What came of questions about values under the shipped baseline.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    pub(crate) asked: usize,
    pub(crate) held: usize,
    pub(crate) denied: usize,
    /// Those that were answered, or not flagged: there must be none.
    pub(crate) answered: Vec<String>,
    /// Queries without tagged columns, and those that were permitted.
    pub(crate) plain: usize,
    pub(crate) plain_permitted: usize,
}

/// Puts every kind of question, and so many others; then so many queries without tagged columns.
pub(crate) fn questions(rig: &Rig, seed: u64, more: usize) -> Questions {
    let mut corpus = Corpus::new(Draw::new(seed), rig.version);
    let mut agent = rig.agent(0, Rule::Baseline);
    let mut questions = Questions::default();
    for (kind, question) in corpus.oracles(more) {
        let outcome = agent.run(&Case { class: "question", steps: vec![question.clone()], ..Case::default() });
        questions.asked += 1;
        let refused = outcome.refused().is_some();
        let held = outcome.judged.iter().any(|judged| judged.held && judged.filters);
        questions.held += usize::from(held);
        questions.denied += usize::from(refused && !held);
        // What is denied as opaque needs no flag.
        if !refused {
            let said =
                outcome.script.errors().map(|(state, text)| format!("{state} {text}")).collect::<Vec<_>>().join("; ");
            questions.answered.push(format!("{kind}: {question}: {said}"));
        }
    }
    for _ in 0..more {
        let outcome = agent.run(&corpus.plain_case());
        questions.plain += 1;
        questions.plain_permitted += usize::from(outcome.refused().is_none());
    }
    questions
}
