//! One agent that breaks every rule: messages without end, lengths that lie, pipelines that nobody reads, names by the ten
//! thousand, halves of connections.

use interceptor::testing::stage::Script;

use super::scene::{psql_ok, recorded, stage, stage_with};
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
fn a_long_write_is_not_lost_piece_by_piece() {
    let stage = stage();
    let told = attack(&stage, &["long"]);
    let (end, seconds) = told.trim().split_once(' ').unwrap();
    assert_eq!(end, "42501", "more than is analysed");
    assert!(seconds.parse::<u64>().unwrap() < 15, "{told}");
    assert!(!stage.log().contains("a packet of protocol 0"), "{}", stage.log());
}

#[test]
fn a_pipeline_that_nobody_reads_is_held_back_and_answered_in_the_end() {
    let stage = stage();
    let watch = Watch::new(&stage);
    let many = PIPELINED;
    for (kind, count, answered) in [
        ("sync", many, true),
        ("parse", many, false),
        ("bind", many, false),
        ("query", many, false),
        ("bind", 20_000, true),
    ] {
        let (name, text) = (format!("pipeline-{kind}-{count}"), count.to_string());
        let mut pipeline = Attack::start(&stage, &name, fire(&stage, &["pipeline", kind, &text]));
        // How much of it is taken depends on the buffers of this kernel.
        let line = pipeline.line(0, 100);
        eprintln!("{kind}: {line}");
        watch.within(&stage, &format!("{count} of {kind} unread"), 150);
        served(&stage);
        if answered {
            let said = pipeline.finish();
            assert!(said.contains(&format!("answers {count}")), "{kind}: {said}");
        }
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

#[test]
fn a_target_that_is_gone_without_a_word_is_found_out() {
    let script = Script { configuration: "[limits]\nlost_seconds = 12\n".to_owned(), ..Script::default() };
    let stage = stage_with(&script);
    let watch = Watch::new(&stage);
    let mut lost = Attack::start(&stage, "lost", fire(&stage, &["lost"]));
    assert_eq!(lost.line(0, 30), "open");
    stage.world.cut().unwrap();
    assert_eq!(lost.line(1, 60), "08006");
    lost.finish();
    stage.world.mend().unwrap();
    watch.recovered(&stage);
}
