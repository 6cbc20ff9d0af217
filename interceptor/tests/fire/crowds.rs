//! Many at once: storms of connections, crowds of sessions, floods of cancel requests, agents that say nothing.

use interceptor::testing::stage::{HOST, Script};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::parrot::{PORT, Parrot};
use super::scene::{operate, psql_fails, psql_ok, recorded, stage, stage_with, wait_for};
use super::watch::{Attack, Watch, fire, fire_at, gone, served, sessions};

/// Sessions at once; fewer where the system gives the daemon fewer descriptors (in a guest of `cargo xtask vm`, nobody does).
const CROWD: usize = 10_000;

/// Descriptors of a session in the daemon, and those that it keeps for itself: also for network namespaces of agents' own,
/// and for the questions from there.
const EACH: u64 = 3;
const OTHERS: u64 = 512 + 1024 + 256 * 6 + 512;

#[test]
fn a_storm_of_connections_passes() {
    let stage = stage();
    let watch = Watch::new(&stage);
    let mut storms: Vec<Attack> = (0..4)
        .map(|number| Attack::start(&stage, &format!("storm{number}"), fire(&stage, &["storm", "2500"])))
        .collect();
    served(&stage);
    for storm in &mut storms {
        storm.line(0, 100);
    }
    for storm in storms {
        assert!(storm.finish().contains("of 2500"));
    }
    watch.within(&stage, "10,000 connects", 200);
    watch.recovered(&stage);
    operate(&stage, 0, &["recordings", "verify"]);
}

#[test]
fn wrong_keys_cancel_nothing_and_cost_nothing_that_stays() {
    let stage = stage();
    let watch = Watch::new(&stage);
    let mut flood = Attack::start(&stage, "cancels", fire(&stage, &["cancels", "1500"]));
    // A query that somebody could have cancelled.
    psql_ok(&stage, &["SELECT pg_sleep(2)"]);
    assert_eq!(flood.line(0, 100), "sent");
    gone(&stage);
    flood.finish();
    watch.within(&stage, "1,500 cancel requests", 100);
    watch.recovered(&stage);
    let refused = recorded(&stage).matches("no session of this identity has that key").count();
    assert!(refused >= 1500, "{refused} refusals are on record");
}

#[test]
fn who_says_nothing_or_a_byte_a_second_is_not_waited_for_forever() {
    // Time enough for the first bytes, one a second, by which the protocol is known.
    let script = Script { configuration: "[limits]\nhandshake_seconds = 8\n".to_owned(), ..Script::default() };
    let stage = stage_with(&script);
    let watch = Watch::new(&stage);
    let mut silent = Attack::start(&stage, "silent", fire(&stage, &["silent", "300"]));
    let mut loris = Attack::start(&stage, "loris", fire(&stage, &["loris", "300"]));
    wait_for("both to have come", || (sessions(&stage) >= 600).then_some(()));
    served(&stage);
    for (attack, within) in [(&mut silent, 30), (&mut loris, 45)] {
        let line = attack.line(0, 100);
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[1], "300", "{line}");
        assert!(words[3].parse::<u64>().unwrap() <= within, "{line}");
    }
    drop((silent, loris));
    watch.within(&stage, "600 slow agents", 100);
    watch.recovered(&stage);
    let told = recorded(&stage);
    assert!(told.contains("sent nothing for") && told.contains("no start-up packet in time"), "{told}");
}

#[test]
fn who_finds_no_room_is_told_so_natively() {
    let script = Script { configuration: "[limits]\nsessions_per_uid = 3\n".to_owned(), ..Script::default() };
    let stage = stage_with(&script);
    let mut crowd = Attack::start(&stage, "crowd", fire(&stage, &["crowd", "3"]));
    assert_eq!(crowd.line(0, 60), "open 3 refused 0");
    let told = psql_fails(&stage, &["SELECT 1 /* forbidden:crowd */"]);
    assert!(told.contains("53300") || told.contains("limit for one user"), "{told}");
    assert!(told.contains("3 sessions of uid"), "{told}");
    assert!(recorded(&stage).contains("which is the limit for one user"));
    assert!(crowd.finish().contains("answered 1 of 1"));
    gone(&stage);
    served(&stage);
}

#[test]
fn ten_thousand_sessions_at_once() {
    let descriptors = raise();
    let configuration = format!(
        "[limits]\nsessions = {CROWD}\nsessions_per_uid = {CROWD}\n\
         [[target]]\nname = \"crowd-db\"\nprotocol = \"postgres\"\nhosts = [\"{HOST}:{PORT}\"]\n\
         tls = {{ upstream = \"disable\" }}\ncredential = {{ user = \"orders_rw\" }}\n"
    );
    let stage = stage_with(&Script { configuration, ..Script::default() });
    let _parrot = Parrot::new(&stage);
    let watch = Watch::new(&stage);
    let most = CROWD.min(usize::try_from(descriptors.saturating_sub(OTHERS) / EACH).unwrap());
    // Some places are left for the honest agent and its looks at the catalog.
    let count = (most - 50).to_string();
    let port = PORT.to_string();
    let mut crowd = Attack::start(&stage, "crowd", fire_at(&stage, HOST, &port, &["crowd", &count]));
    let line = crowd.line(0, 300);
    eprintln!("{line}, of {descriptors} descriptors");
    assert_eq!(line, format!("open {count} refused 0"), "{}", stage.log());
    watch.within(&stage, &format!("{count} sessions"), 700);
    served(&stage);
    let said = crowd.finish();
    let questions = (most - 50).div_ceil(100);
    assert!(said.contains(&format!("answered {questions} of {questions}")), "{said}");
    watch.recovered(&stage);
}

/// As many descriptors as the system lets this process, and what it starts, have.
fn raise() -> u64 {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = 65_536.max(hard);
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return wanted;
    }
    if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft }
}

#[test]
fn bulk_that_is_never_finished_is_bounded_for_all_together() {
    let script = Script {
        configuration: "[limits]\nmemory_bytes = 268435456\nmemory_bytes_per_uid = 134217728\n".to_owned(),
        ..Script::default()
    };
    let stage = stage_with(&script);
    let watch = Watch::new(&stage);
    let mut bulk = Attack::start(&stage, "bulk", fire(&stage, &["bulk", "12", "40"]));
    bulk.line(0, 200);
    watch.within(&stage, "12 sessions with 40 MiB each", 400);
    served(&stage);
    let said = bulk.finish();
    assert!(said.contains("53200"), "{said}");
    watch.recovered(&stage);
    assert!(recorded(&stage).contains("more than one user may"));
}
