//! A search for ways round the masking: generated queries and sequences of statements over tagged columns, through the
//! whole driver in front of a real server, under real policies; whatever arrives is searched for the true values.
#![cfg(test)]

#[path = "masking/agent.rs"]
mod agent;
#[path = "masking/canary.rs"]
mod canary;
#[path = "masking/channels.rs"]
mod channels;
#[path = "masking/corpus.rs"]
mod corpus;
#[path = "masking/oracle.rs"]
mod oracle;
#[path = "masking/queries.rs"]
mod queries;
#[path = "masking/report.rs"]
mod report;
#[path = "masking/rig.rs"]
mod rig;
#[path = "masking/run.rs"]
mod run;
#[path = "masking/values.rs"]
mod values;

mod tests {
    use std::collections::BTreeMap;
    use std::fs::OpenOptions;
    use std::io::Write as _;

    use super::report::Report;
    use super::rig::Rig;
    use super::run::{self, Findings, Questions};

    /// Cases of a part; `cargo xtask masks` runs more.
    const CASES: u64 = 150;
    const SEED: u64 = 20_261_126;

    /// Path of a report, to which the figures are written.
    const REPORT: &str = "INTERCEPTOR_MASKING";

    #[test]
    fn no_value_passes() {
        let number = |name: &str, otherwise: u64| std::env::var(name).map_or(otherwise, |text| text.parse().unwrap());
        let seed = number("INTERCEPTOR_MASKING_SEED", SEED);
        let cases = usize::try_from(number("INTERCEPTOR_MASKING_CASES", CASES)).unwrap();
        let rig = Rig::new();
        let checked = run::self_check(&rig, seed, cases / 3);
        let questions = run::questions(&rig, seed, cases / 5);
        let findings = run::search(&rig, seed, cases);
        let report =
            Report { version: rig.version, seed, findings: &findings, checked: &checked, questions: &questions };
        println!("{}", report.section());
        publish(&report);
        holds(&findings, &questions);
        could_fail(&checked, &findings);
    }

    /// Nothing passed, and nothing broke.
    fn holds(findings: &Findings, questions: &Questions) {
        assert!(findings.leaks.is_empty(), "{} passed:\n{}", findings.leaks.len(), findings.leaks.join("\n"));
        assert!(findings.broken.is_empty(), "sessions broke:\n{}", findings.broken.join("\n"));
        assert!(questions.answered.is_empty(), "questions answered:\n{}", questions.answered.join("\n"));
    }

    /// It would have found something, and did not merely see everything refused.
    fn could_fail(checked: &BTreeMap<&'static str, (usize, usize)>, findings: &Findings) {
        let (ran, found) = run::shown(checked);
        assert!(
            found * 100 >= ran * FOUND && found > 15,
            "of {ran} cases in clear only {found} were found: {checked:?}"
        );
        for (class, least) in LEAST {
            let (ran, found) = checked.get(class).copied().unwrap_or_default();
            assert!(found * 100 >= ran * least && found > 0, "{class}: {found} of {ran} in clear");
        }
        let (cases, ran) = findings.classes.values().fold((0, 0), |sum, one| (sum.0 + one.cases, sum.1 + one.ran));
        assert!(ran * 100 >= cases * RAN, "of {cases} cases only {ran} ran");
        let needless: usize = findings.needless.values().sum();
        assert!(needless * 100 <= findings.untagged * NEEDLESS, "{needless} of {}", findings.untagged);
    }

    /// Least share of cases in clear in which the search finds something, in percent.
    const FOUND: usize = 75;
    /// The same of those that quote values where they fail, and of those that ask about them.
    const LEAST: [(&str, usize); 2] = [(run::FAILING, 60), (run::ASKING, 12)];
    /// Least share of cases that run to their end.
    const RAN: usize = 35;
    /// Most that may be masked or refused though nothing of it is tagged.
    const NEEDLESS: usize = 25;

    /// Writes the report, or adds another server's figures to it.
    fn publish(report: &Report<'_>) {
        let Some(path) = std::env::var_os(REPORT) else { return };
        if std::env::var_os("INTERCEPTOR_MASKING_ADD").is_some() {
            let mut file = OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(report.section().as_bytes()).unwrap();
        } else {
            std::fs::write(path, report.document()).unwrap();
        }
    }
}
