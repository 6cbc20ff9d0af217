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
#[path = "masking/rig.rs"]
mod rig;
#[path = "masking/run.rs"]
mod run;
#[path = "masking/values.rs"]
mod values;

mod tests {
    use super::rig::Rig;
    use super::run;

    #[test]
    fn no_value_passes() {
        let rig = Rig::new();
        let number = |name: &str, otherwise: u64| std::env::var(name).map_or(otherwise, |text| text.parse().unwrap());
        let (seed, cases) = (number("INTERCEPTOR_MASKING_SEED", 1), number("INTERCEPTOR_MASKING_CASES", 300));
        let cases = usize::try_from(cases).unwrap();
        let started = std::time::Instant::now();
        let checked = run::self_check(&rig, seed, cases / 4);
        println!("{:?}", started.elapsed());
        println!("{checked:#?}");
        let findings = run::search(&rig, seed, cases);
        println!("{:?}", started.elapsed());
        println!("{:#?}\n{:#?}\n{:#?} {:#?}", findings.classes, findings.reasons, findings.needless, findings.untagged);
        println!("{:#?}", findings.broken);
        assert!(findings.leaks.is_empty(), "{}:\n{}", findings.leaks.len(), findings.leaks.join("\n"));
    }
}
