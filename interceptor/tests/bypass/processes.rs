//! Processes that are made to be missed, or to be taken for others.

use std::process::Command;
use std::time::Duration;

use interceptor::testing::forks;
use serde_json::{Value, json};

use super::row::{By, Expected, Level, Row, family};
use super::stage::{Stage, patience};

const FAR: &str = "10.99.0.2:7000";
const CHILDREN: usize = 10_000;

pub(crate) fn rows() -> Vec<Row> {
    const PRIVILEGES: &str = "no_new_privs, seccomp; lsm socket_create";
    vec![
        Row::python(
            "LD_PRELOAD replaces connect(2)",
            "os.execve(DIR + '/raw', ['raw', 'connect'], {'LD_PRELOAD': DIR + '/preload.so'})",
        )
        .captured(FAR)
        .launched_too(),
        Row::python("a static Go program with an empty environment", "os.execve(DIR + '/static', ['static'], {})")
            .captured(FAR)
            .launched_too()
            .may_be_absent(),
        Row::python("a set-user-id program connects", "os.execv(DIR + '/set-user-id', ['raw', 'connect'])")
            .captured(FAR)
            .launched_too(),
        Row::python("a set-user-id program opens AF_PACKET", "os.execv(DIR + '/set-user-id', ['raw', 'packet'])")
            .open(PRIVILEGES)
            .modules(family(17, 0x300))
            .launched(Expected::Errno(libc::EAFNOSUPPORT)),
        Row::python(
            "a program with file capabilities opens AF_PACKET",
            "os.execv(DIR + '/capable', ['raw', 'packet'])",
        )
        .open(PRIVILEGES)
        .modules(family(17, 0x300))
        .launched(Expected::Errno(libc::EPERM)),
        Row::act("10,000 connections of children that are gone at once", children)
            .attributed()
            .launched_too()
            .closed_by("C"),
    ]
}

/// Every connection that the daemon gets is told with its true process, and each that was answered was told.
fn children(stage: &Stage, level: Level) -> (Value, u64) {
    let wire = stage.world.sniff().unwrap();
    let daemon = stage.daemon.as_ref().unwrap();
    let mark = daemon.mark();
    let mut command = Command::new(stage.world.directory().join("forks"));
    command.arg(CHILDREN.to_string());
    let output = stage.start_agent(level, "one", By::User, command).all(patience(Duration::from_secs(60)));
    let mut told = daemon.origins(mark);
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(50));
        let more = daemon.origins(mark);
        if more.len() == told.len() {
            break;
        }
        told = more;
    }
    let tally = serde_json::to_value(forks::tally(&output, &told, 7000)).unwrap();
    let told_of = json!({ "tally": tally, "unrecorded": daemon.unrecorded(mark).len() });
    eprintln!("     {told_of}");
    (told_of, wire.count())
}

/// What is wrong with that, if anything.
pub(crate) fn wrongly_attributed(value: &Value) -> Option<String> {
    let number =
        |name: &str| value["tally"][name].as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or_default();
    let complete = number("children") == CHILDREN
        && number("told") == number("names")
        && number("answered") * 4 > CHILDREN * 9 / 10
        && number("told") > CHILDREN / 2;
    (!complete || value["tally"]["wrong"] != json!([]))
        .then(|| "connections are missing, or told with another process".to_owned())
}
