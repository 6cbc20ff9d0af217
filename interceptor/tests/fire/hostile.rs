//! One agent that breaks every rule: messages without end, lengths that lie, pipelines that nobody reads, names by the ten
//! thousand, halves of connections.

use super::scene::{psql_ok, recorded, stage};
use super::watch::{Attack, Watch, attack, fire, served};

/// Messages of a pipeline that nobody reads.
const PIPELINED: usize = 1_000_000;

#[test]
fn lengths_that_lie_and_statements_without_end_are_refused() {
    let stage = stage();
    let watch = Watch::new(&stage);
    for length in ["0", "3", "-1", "2147483647", "2147483648", "1073741824", "16777217"] {
        assert_eq!(attack(&stage, &["length", length]).trim(), "08P01", "{length}");
    }
    let told = attack(&stage, &["endless"]);
    assert!(["08P01", "closed", "broken", "42501", "54000"].iter().any(|end| told.contains(end)), "{told}");
    watch.within(&stage, "lengths", 200);
    watch.recovered(&stage);
    assert!(recorded(&stage).contains("the agent broke the protocol"));
}

#[test]
fn a_pipeline_that_nobody_reads_is_held_back_and_answered_in_the_end() {
    let stage = stage();
    let watch = Watch::new(&stage);
    let count = PIPELINED.to_string();
    for (kind, answers, mebibytes) in
        [("sync", PIPELINED, 200), ("parse", 20_000, 200), ("bind", 20_000, 200), ("query", 500, 200)]
    {
        let count = if answers == PIPELINED { count.clone() } else { answers.to_string() };
        let name = format!("pipeline-{kind}");
        let mut pipeline = Attack::start(&stage, &name, fire(&stage, &["pipeline", kind, &count]));
        let line = pipeline.line(0, 60);
        eprintln!("{kind}: {line}");
        watch.within(&stage, &format!("{count} of {kind} unread"), mebibytes);
        served(&stage);
        let said = pipeline.finish();
        assert!(said.contains(&format!("answers {answers}")), "{kind}: {said}");
    }
    watch.recovered(&stage);
}

#[test]
fn names_and_portals_end_at_their_bounds() {
    let stage = stage();
    let watch = Watch::new(&stage);
    let portals = attack(&stage, &["portals", "60"]);
    eprintln!("portals: {portals}");
    assert!(portals.starts_with("54000"), "{portals}");
    let names = attack(&stage, &["names", "5000"]);
    assert!(names.contains("none after 5000"), "{names}");
    watch.within(&stage, "names and portals", 400);
    watch.recovered(&stage);
}

#[test]
fn half_a_connection_is_answered_and_what_is_not_read_costs_nobody_else() {
    let stage = stage();
    let watch = Watch::new(&stage);
    assert_eq!(attack(&stage, &["half"]).trim(), "half");
    let mut unread: Vec<Attack> =
        (0..8).map(|number| Attack::start(&stage, &format!("unread{number}"), fire(&stage, &["unread"]))).collect();
    for one in &mut unread {
        one.line(0, 30);
    }
    served(&stage);
    watch.within(&stage, "8 agents that do not read", 100);
    psql_ok(&stage, &["SELECT count(*) FROM scratch"]);
    drop(unread);
    watch.recovered(&stage);
}
