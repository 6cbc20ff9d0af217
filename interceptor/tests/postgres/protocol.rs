//! Corners of the protocol, said message by message: start-ups, the fast path, unknown messages, portals, notifications.

use interceptor::testing::stage::{AGENT_UID, DATABASE, HOST, Script, Stage, UPSTREAM_USER};
use interceptor::testing::world::Place;

use super::hold::{approve, refuse, waiting};
use super::scene::{
    agent, assert_nothing_forbidden, configuration, operate, psql_ok, recorded, reload, run_in, said, stage,
    stage_with, start, truth, wait_for, wire, wire_command,
};

/// The lines but for the settings that a server reports.
fn told(stage: &Stage, steps: &[&str]) -> Vec<String> {
    wire(stage, steps).into_iter().filter(|line| line != "S").collect()
}

#[test]
fn the_protocol_is_spoken_as_servers_speak_it() {
    let stage = stage();
    every_start_up_is_answered_as_a_server_does(&stage);
    a_driver_of_the_newest_protocol_connects_and_cancels(&stage);
    replication_is_refused_before_the_server_hears_of_it(&stage);
    a_function_call_is_refused_and_the_session_goes_on(&stage);
    what_is_no_message_ends_its_own_session_only(&stage);
    of_several_statements_none_runs_where_the_last_is_denied(&stage);
    portals_stop_at_their_row_limit_with_masks_in_place(&stage);
    notifications_cross_sessions_without_what_detectors_find(&stage);
    pools_clean_up_after_their_users(&stage);
    // getaddrinfo connects UDP sockets to learn addresses; nobody is to be alarmed by that.
    assert!(!stage.log().contains("refused in the kernel"), "{}", stage.log());
    assert!(recorded(&stage).contains("UDP to anything but the resolver"));
}

fn every_start_up_is_answered_as_a_server_does(stage: &Stage) {
    let opened = |version: &str, more: &[&str]| {
        let start = [&["start", version], more].concat().join(" ");
        told(stage, &["gss", "answer", &start, "ready", "query SELECT 4", "ready"])
    };
    let session = |key: &str, negotiated: &[&str]| {
        let lines = [&["N"], negotiated, &["R", key, "Z I", "T", "D 4", "C SELECT 1", "Z I"]].concat();
        lines.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(opened("3.0", &[]), session("K 4", &[]));
    assert_eq!(opened("3.2", &[]), session("K 32", &[]), "the key is long since 3.2");
    assert_eq!(opened("3.1", &[]), session("K 4", &["v 3.0 0"]), "there is no 3.1");
    assert_eq!(opened("3.9", &[]), session("K 32", &["v 3.2 0"]));
    assert_eq!(opened("3.0", &["_pq_.novelty=1"]), session("K 4", &["v 3.0 1"]));
    assert_eq!(opened("3.9", &["_pq_.novelty=1"]), session("K 32", &["v 3.2 1"]));
    assert_eq!(opened("3.0", &["replication=off"]), session("K 4", &[]));
    assert_eq!(told(stage, &["gss", "answer", "start 2.0", "end"]), ["N", "E 0A000", "closed"]);
    // The server itself, past interceptor, words it the same way. Before 18 it knew of 3.0 alone.
    let newest = truth(stage, "SELECT current_setting('server_version_num')::int >= 180000") == "t";
    let direct = wire_command(stage, &["start 3.9 _pq_.novelty=1", "until R"]);
    let output = run_in(stage, Place::Outside, Some(AGENT_UID), &direct);
    let version = if newest { "3.2" } else { "3.0" };
    assert!(said(&output).starts_with(&format!("v {version} 1\nR")), "{}", said(&output));
}

fn a_driver_of_the_newest_protocol_connects_and_cancels(stage: &Stage) {
    let code = "import threading\n\
                for version in ('3.0', '3.2', 'latest'):\n\
                \x20   with psycopg.connect(URL + '&max_protocol_version=' + version, autocommit=True) as c:\n\
                \x20       threading.Timer(0.5, c.cancel_safe).start()\n\
                \x20       try:\n\
                \x20           c.execute('SELECT count(*) FROM scratch a, scratch b, scratch c WHERE a.id + b.id + c.id < 0')\n\
                \x20           print('not canceled')\n\
                \x20       except psycopg.errors.QueryCanceled as error:\n\
                \x20           print(version, error.sqlstate, c.execute('SELECT 1').fetchone())\n";
    let lines: String = ["3.0", "3.2", "latest"].map(|version| format!("{version} 57014 (1,)\n")).concat();
    assert_eq!(agent(stage, code), lines);
}

fn replication_is_refused_before_the_server_hears_of_it(stage: &Stage) {
    psql_ok(stage, &["SELECT 1"]);
    let before = stage.server.log();
    for start in ["start 3.0 replication=database", "start 3.0 replication=true", "start 3.0 replication=1"] {
        assert_eq!(told(stage, &[start, "query IDENTIFY_SYSTEM", "end"]), ["R", "E 42501", "closed"][1..], "{start}");
    }
    assert_eq!(stage.server.log(), before, "the server was not even connected to");
    assert!(recorded(stage).contains("no-replication"));
}

/// Where policy permits it and nothing is masked, an unmodified `pg_recvlogical` follows the changes, on record.
#[test]
fn permitted_replication_passes_on_record() {
    let policies = "@id(\"may-replicate\")\n\
                    permit (principal in Group::\"finance\", action in [Action::\"sql:replicate\", Action::\"sql:opaque\"], \
                    resource);\n";
    let server_settings = vec![("wal_level".to_owned(), "logical".to_owned())];
    let stage = stage_with(&Script { policies: policies.to_owned(), server_settings, ..Script::default() });
    let baseline = stage.path("policies/baseline.cedar");
    let text = std::fs::read_to_string(&baseline).unwrap();
    let allowed = text.split("\n\n").filter(|rule| !rule.contains("no-replication")).collect::<Vec<_>>().join("\n\n");
    std::fs::write(&baseline, allowed).unwrap();
    reload(&stage, &unmasked(&configuration(&stage)));
    stage.server.sql(&format!("ALTER ROLE {UPSTREAM_USER} REPLICATION")).unwrap();
    truth(&stage, "SELECT pg_create_logical_replication_slot('changes', 'test_decoding')");
    truth(&stage, "INSERT INTO scratch VALUES (-5, 'replicated')");
    let mut follow = std::process::Command::new("timeout");
    follow
        .args(["-s", "INT", "5"])
        .arg(installed_program("pg_recvlogical"))
        .args(["-h", HOST, "-U", "billing", "-d", DATABASE, "--slot", "changes", "--start", "-f", "-"]);
    follow.arg("--no-loop").env("PGSSLMODE", "disable").env("PGPASSWORD", "x");
    follow.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let follower = stage.spawn_agent(follow).unwrap();
    // The baseline holds what cannot be known.
    approve(&stage, "replication=database");
    let output = follower.wait_with_output().unwrap();
    assert!(said(&output).contains("replicated"), "{}\n{}", said(&output), stage.log());
    assert!(recorded(&stage).contains("sql:replicate"));
    operate(&stage, 0, &["recordings", "verify"]);
}

/// A program of the newest server's package.
fn installed_program(name: &str) -> std::path::PathBuf {
    let mut found: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .unwrap()
        .flatten()
        .map(|version| version.path().join("bin").join(name))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop().unwrap()
}

fn unmasked(text: &str) -> String {
    let (head, rest) = text.split_once("[[mask]]").unwrap();
    let (_, tail) = rest.split_once("[policy]").unwrap();
    format!("{head}[policy]{tail}")
}

/// A stage without masks, on which an agent may ask for what cannot be known.
fn permissive() -> Stage {
    let policies = "@id(\"may-ask-for-the-unknown\")\n\
                    permit (principal in Group::\"finance\", action == Action::\"sql:opaque\", resource);\n";
    let stage = stage_with(&Script { policies: policies.to_owned(), ..Script::default() });
    reload(&stage, &unmasked(&configuration(&stage)));
    stage
}

/// The function `int4pl`.
const ADD: &str = "call 177 3 4";

fn a_function_call_is_refused_and_the_session_goes_on(stage: &Stage) {
    let lines = told(
        stage,
        &[
            "start 3.0",
            "ready",
            ADD,
            "ready",
            "query BEGIN",
            "ready",
            ADD,
            "ready",
            "query ROLLBACK; SELECT 5",
            "ready",
        ],
    );
    let start = lines.iter().position(|line| line == "Z I").unwrap() + 1;
    assert_eq!(
        lines[start..],
        ["E 42501", "Z I", "C BEGIN", "Z T", "E 42501", "Z E", "C ROLLBACK", "T", "D 5", "C SELECT 1", "Z I"]
    );
    // Its layout is looked at, too.
    let broken = told(stage, &["start 3.0", "ready", "bytes 46 0000000a 000000b1 0009", "end"]);
    assert!(broken.ends_with(&["E 08P01".to_owned(), "closed".to_owned()]), "{broken:?}");
    assert_nothing_forbidden(stage);
}

#[test]
fn a_function_call_runs_where_policy_and_a_human_permit_it_and_no_other() {
    let stage = permissive();
    let call = |call: &str| start(&stage, wire_command(&stage, &["start 3.0", "ready", call, "ready"]));
    let ended = |child: std::process::Child| said(&child.wait_with_output().unwrap());
    let first = call(ADD);
    let request = waiting(&stage, "FunctionCall 177");
    assert_eq!(request["parameters"], serde_json::json!(["3", "4"]), "{request}");
    approve(&stage, "FunctionCall 177");
    assert!(ended(first).ends_with("V 7\nZ I\n"));

    // A grant for one call is none for another: neither other arguments, nor another function.
    let mut gone = call(ADD);
    waiting(&stage, "FunctionCall 177");
    gone.kill().unwrap();
    gone.wait().unwrap();
    approve(&stage, "FunctionCall 177");
    let other = call("call 177 3 5");
    refuse(&stage, "FunctionCall 177");
    assert!(ended(other).ends_with("E 42501\nZ I\n"));
    let other = call("call 181 3 4");
    refuse(&stage, "FunctionCall 181");
    assert!(ended(other).ends_with("E 42501\nZ I\n"));
    assert!(ended(call(ADD)).ends_with("V 7\nZ I\n"), "its own grant was waiting for it");
}

fn what_is_no_message_ends_its_own_session_only(stage: &Stage) {
    for nonsense in ["bytes 79 00000004", "bytes 70 00000006 7800", "bytes 51 00000003", "bytes 58 00000005 00"] {
        let lines = told(stage, &["start 3.0", "ready", nonsense, "query SELECT 'forbidden:nonsense'", "end"]);
        assert!(lines.ends_with(&["E 08P01".to_owned(), "closed".to_owned()]), "{nonsense}: {lines:?}");
    }
    assert_nothing_forbidden(stage);
    psql_ok(stage, &["SELECT 1"]);
}

fn of_several_statements_none_runs_where_the_last_is_denied(stage: &Stage) {
    let several = "query INSERT INTO orders (customer, item) VALUES (1, 'forbidden:several'); \
                   DELETE FROM customers WHERE id = 1";
    let lines = told(stage, &["start 3.0", "ready", several, "query SELECT 6", "ready", "ready"]);
    assert!(lines.ends_with(&["E 42501", "Z I", "T", "D 6", "C SELECT 1", "Z I"].map(str::to_owned)), "{lines:?}");
    assert_nothing_forbidden(stage);
}

fn portals_stop_at_their_row_limit_with_masks_in_place(stage: &Stage) {
    let lines = told(
        stage,
        &[
            "start 3.0",
            "ready",
            "parse s SELECT id, card FROM customers WHERE id >= $1 ORDER BY id",
            "bind p s 1",
            "describe p",
            "execute p 2",
            "flush",
            "until s",
            "execute p 2",
            "sync",
            "ready",
            "bind - s 2",
            "execute - 1",
            "sync",
            "ready",
        ],
    );
    let start = lines.iter().position(|line| line == "Z I").unwrap() + 1;
    assert_eq!(
        lines[start..],
        [
            "1",
            "2",
            "T",
            "D 1|************1111",
            "D 2|************5559",
            "s",
            "D 3|NULL",
            "C SELECT 1",
            "Z I",
            "2",
            "D 2|************5559",
            "s",
            "Z I"
        ]
    );
    let code = "with psycopg.connect(URL) as c:\n\
                \x20   for binary in (False, True):\n\
                \x20       with c.cursor('server_side', binary=binary) as cursor:\n\
                \x20           cursor.itersize = 2\n\
                \x20           print(list(cursor.execute('SELECT id, card, email FROM customers ORDER BY id')))\n";
    let rows = "[(1, '************1111', '[masked:pii]'), (2, '************5559', '[masked:pii]'), (3, None, None)]\n";
    assert_eq!(agent(stage, code), rows.repeat(2));
}

fn notifications_cross_sessions_without_what_detectors_find(stage: &Stage) {
    let listener =
        start(stage, wire_command(stage, &["start 3.0", "ready", "query LISTEN jobs", "ready", "until A", "until A"]));
    let listens = || truth(stage, "SELECT count(*) FROM pg_stat_activity WHERE query = 'LISTEN jobs'") == "1";
    wait_for("the listener", || listens().then_some(()));
    psql_ok(stage, &["NOTIFY jobs, 'from another agent'"]);
    // From past interceptor, with what no agent may see.
    truth(stage, "NOTIFY jobs, 'paid with 4111111111111111 today'");
    let heard = said(&listener.wait_with_output().unwrap());
    assert!(heard.contains("jobs\0from another agent"), "{heard}");
    assert!(heard.contains("jobs\0paid with ************1111 today"), "{heard}");
    let leak = "SELECT pg_notify('jobs', email) FROM customers /* forbidden:notify */";
    assert!(super::scene::psql_fails(stage, &[leak]).contains("42501"));
    assert_nothing_forbidden(stage);
}

fn pools_clean_up_after_their_users(stage: &Stage) {
    let asyncpg = "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;";
    let told = psql_ok(
        stage,
        &["SET statement_timeout = 5", asyncpg, "DISCARD ALL", "SELECT card FROM customers WHERE id = 1"],
    );
    assert!(told.contains("RESET") && told.contains("DISCARD ALL") && told.contains("************1111"), "{told}");
}
