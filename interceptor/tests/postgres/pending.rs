//! Holds in awkward places: under COPY, inside a pipeline, inside a transaction, canceled, given up on, and raced for.

use std::thread::sleep;
use std::time::Duration;

use interceptor::testing::stage::{Script, Stage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::hold::{approve, ended, refuse, waiting};
use super::scene::{
    assert_nothing_forbidden, inline, operate, operate_json, psql_ok, said, stage_with, start, start_psql, truth,
    wait_for, wire_command,
};

/// A stage on which loading `scratch`, and truncating it, wait for a human.
fn patient() -> Stage {
    let policies = "@id(\"hold-loads\")\n@approval(\"dba-oncall\")\n@reason(\"loads are looked at\")\n\
                    forbid (principal, action == Action::\"sql:insert\", \
                    resource == Table::\"orders-db/orders/public/scratch\") unless { context.approved };\n";
    stage_with(&Script { policies: policies.to_owned(), ..Script::default() })
}

/// What the agent reads after its start-up when it says all of this at once, and the one request is answered.
fn pipelined(stage: &Stage, steps: &[&str], words: &str, yes: bool) -> Vec<String> {
    let agent = start(stage, wire_command(stage, &[&["start 3.0", "ready"], steps].concat()));
    waiting(stage, words);
    match yes {
        true => approve(stage, words),
        false => refuse(stage, words),
    }
    let text = said(&agent.wait_with_output().unwrap());
    let (_, after) = text.split_once("Z I\n").unwrap_or_else(|| panic!("no session: {text}"));
    after.lines().map(str::to_owned).collect()
}

fn refill(stage: &Stage) {
    truth(stage, "DELETE FROM scratch; INSERT INTO scratch SELECT n, 'row' FROM generate_series(1, 1000) n");
}

fn count(stage: &Stage, table: &str, condition: &str) -> String {
    truth(stage, &format!("SELECT count(*) FROM {table} WHERE {condition}"))
}

#[test]
fn a_held_copy_takes_the_data_that_was_sent_along_or_none_of_it() {
    let stage = patient();
    let copy = |mark: &str| format!("query COPY scratch (id, what) FROM STDIN /* {mark} */");
    let (first, second) = (copy("loaded"), copy("forbidden:load"));
    let steps = |copy: &'static str| ["data 70001\tpiped", "data 70002\tpiped", "done", copy, "ready", "ready"];
    let all = [&[first.as_str()][..], &steps("query SELECT 9")].concat();
    let lines = pipelined(&stage, &all, "loaded", true);
    assert_eq!(lines, ["G", "C COPY 2", "Z I", "T", "D 9", "C SELECT 1", "Z I"]);
    assert_eq!(count(&stage, "scratch", "what = 'piped'"), "2");
    assert_eq!(stage.server.log().matches("COPY scratch").count(), 1);

    let all = [&[second.as_str()][..], &steps("query SELECT 9")].concat();
    let lines = pipelined(&stage, &all, "forbidden:load", false);
    assert_eq!(lines, ["E 42501", "Z I", "T", "D 9", "C SELECT 1", "Z I"]);
    assert_eq!(count(&stage, "scratch", "what = 'piped'"), "2");
    assert_nothing_forbidden(&stage);

    // The same in the extended protocol, where the data of a denied COPY is skipped up to the Sync.
    let extended = |mark: &str| format!("parse - COPY scratch (id, what) FROM STDIN /* {mark} */");
    let (first, second) = (extended("extended"), extended("forbidden:extended"));
    let steps = ["bind - -", "execute - 0", "data 70003\tpiped", "done", "sync", "query SELECT 9", "ready", "ready"];
    let lines = pipelined(&stage, &[&[first.as_str()][..], &steps].concat(), "extended", true);
    assert_eq!(lines, ["1", "2", "G", "C COPY 1", "Z I", "T", "D 9", "C SELECT 1", "Z I"]);
    let lines = pipelined(&stage, &[&[second.as_str()][..], &steps].concat(), "forbidden:extended", false);
    // Its Parse and Bind went out before, as they run nothing.
    assert!(lines.contains(&"E 42501".to_owned()) && !lines.iter().any(|line| line.starts_with("C COPY")), "{lines:?}");
    assert!(lines.ends_with(&["D 9", "C SELECT 1", "Z I"].map(str::to_owned)), "{lines:?}");
    assert_eq!(count(&stage, "scratch", "what = 'piped'"), "3");
}

#[test]
fn a_hold_keeps_its_place() {
    let stage = patient();
    a_hold_inside_a_pipeline_keeps_its_place(&stage);
    refill(&stage);
    a_hold_inside_a_transaction_decides_about_all_of_it(&stage);
    refill(&stage);
    a_wait_is_canceled_like_any_query(&stage);
    refill(&stage);
    a_wait_ends_with_its_session(&stage);
}

fn a_hold_inside_a_pipeline_keeps_its_place(stage: &Stage) {
    let insert = |item: &str| format!("parse - INSERT INTO orders (customer, item) VALUES (1, '{item}')");
    let (first, last) = (insert("pipe-first"), insert("pipe-last"));
    let steps = [
        first.as_str(),
        "bind - -",
        "execute - 0",
        "parse - TRUNCATE scratch",
        "bind - -",
        "execute - 0",
        last.as_str(),
        "bind - -",
        "execute - 0",
        "sync",
        "query SELECT 9",
        "ready",
        "ready",
    ];
    let lines = pipelined(stage, &steps, "TRUNCATE scratch", false);
    assert_eq!(lines, ["1", "2", "C INSERT 0 1", "1", "2", "E 42501", "Z I", "T", "D 9", "C SELECT 1", "Z I"]);
    assert_eq!(count(stage, "orders", "item LIKE 'pipe-%'"), "0", "a pipeline is one transaction");
    assert_eq!(count(stage, "scratch", "true"), "1000");
    let lines = pipelined(stage, &steps, "TRUNCATE scratch", true);
    let done = ["1", "2", "C INSERT 0 1", "1", "2", "C TRUNCATE TABLE", "1", "2", "C INSERT 0 1", "Z I"];
    assert_eq!(lines[..done.len()], done);
    assert_eq!(count(stage, "orders", "item LIKE 'pipe-%'"), "2");
    assert_eq!(count(stage, "scratch", "true"), "0");
}

fn a_hold_inside_a_transaction_decides_about_all_of_it(stage: &Stage) {
    let code = "with psycopg.connect(URL) as c:\n\
                \x20   c.execute(\"INSERT INTO orders (customer, item) VALUES (1, 'held')\")\n\
                \x20   try:\n\
                \x20       c.execute('TRUNCATE scratch')\n\
                \x20       print('ran', c.info.transaction_status.name)\n\
                \x20   except psycopg.Error as error:\n\
                \x20       print('refused', error.sqlstate, c.info.transaction_status.name)\n\
                \x20   c.commit()\n\
                \x20   print(c.execute('SELECT count(*) FROM scratch').fetchone())\n";
    let agent = start(stage, inline(stage, code));
    refuse(stage, "TRUNCATE");
    assert_eq!(ended(agent, true), "refused 42501 INERROR\n(1000,)\n");
    assert_eq!(count(stage, "orders", "item = 'held'"), "0");
    let agent = start(stage, inline(stage, code));
    waiting(stage, "TRUNCATE");
    assert_eq!(count(stage, "orders", "item = 'held'"), "0", "the transaction is open as long as it waits");
    approve(stage, "TRUNCATE");
    assert_eq!(ended(agent, true), "ran INTRANS\n(0,)\n");
    assert_eq!(count(stage, "orders", "item = 'held'"), "1");
}

fn a_wait_is_canceled_like_any_query(stage: &Stage) {
    let runs = || stage.server.log().matches("TRUNCATE scratch").count();
    let before = runs();
    // As Ctrl-C does: psql sends a cancel request and reads on.
    let psql = start_psql(stage, &["BEGIN", "TRUNCATE scratch", "ROLLBACK"]);
    waiting(stage, "TRUNCATE");
    kill(Pid::from_raw(i32::try_from(psql.id()).unwrap()), Signal::SIGINT).unwrap();
    let output = psql.wait_with_output().unwrap();
    assert!(said(&output).contains("ERROR:  57014"), "{}", said(&output));
    let code = "import threading\n\
                with psycopg.connect(URL + '&max_protocol_version=3.2', autocommit=True) as c:\n\
                \x20   threading.Timer(2, c.cancel_safe).start()\n\
                \x20   try:\n\
                \x20       c.execute('TRUNCATE scratch')\n\
                \x20   except psycopg.errors.QueryCanceled as error:\n\
                \x20       print(error.sqlstate, c.execute('SELECT 8').fetchone())\n";
    let agent = start(stage, inline(stage, code));
    assert_eq!(ended(agent, true), "57014 (8,)\n");
    assert_eq!(count(stage, "scratch", "true"), "1000");
    // Both waited with one request, which lives on; once approved, the command runs without a wait, once.
    assert_eq!(operate_json(stage, &["approvals", "list"]).as_array().unwrap().len(), 1);
    approve(stage, "TRUNCATE");
    assert_eq!(count(stage, "scratch", "true"), "1000", "nothing runs while nobody waits");
    psql_ok(stage, &["TRUNCATE scratch"]);
    assert_eq!(count(stage, "scratch", "true"), "0");
    assert_eq!(runs(), before + 1);
}

#[test]
fn values_sent_again_find_their_grant_once_and_of_two_one_runs() {
    let stage = patient();
    let code = "with psycopg.connect(URL, autocommit=True) as c:\n\
                \x20   try:\n\
                \x20       print(c.execute('INSERT INTO scratch VALUES (%s, %s)', (1, 'granted')).rowcount)\n\
                \x20   except psycopg.Error as error:\n\
                \x20       print(error.sqlstate)\n";
    let agent = || start(&stage, inline(&stage, code));
    let mut gone = agent();
    waiting(&stage, "INSERT INTO scratch");
    gone.kill().unwrap();
    gone.wait().unwrap();
    approve(&stage, "INSERT INTO scratch");
    sleep(Duration::from_millis(300));
    assert_eq!(count(&stage, "scratch", "what = 'granted'"), "0");
    assert_eq!(ended(agent(), true), "1\n");
    // Two wait for one answer: it is for one of them, and the other asks anew.
    let (one, two) = (agent(), agent());
    let request = waiting(&stage, "INSERT INTO scratch");
    let both = || stage.log().matches("a command waits for approval").count();
    sleep(Duration::from_secs(1));
    let before = both();
    approve(&stage, "INSERT INTO scratch");
    wait_for("the other to ask anew", || (both() > before).then_some(()));
    assert_ne!(waiting(&stage, "INSERT INTO scratch")["id"], request["id"]);
    assert_eq!(count(&stage, "scratch", "what = 'granted'"), "2");
    refuse(&stage, "INSERT INTO scratch");
    let mut told = [ended(one, true), ended(two, true)];
    told.sort();
    assert_eq!(told, ["1\n", "42501\n"]);
    assert_eq!(count(&stage, "scratch", "what = 'granted'"), "2");
}

fn a_wait_ends_with_its_session(stage: &Stage) {
    let psql = start_psql(stage, &["TRUNCATE scratch"]);
    let request = waiting(stage, "TRUNCATE");
    let sessions = operate_json(stage, &["sessions"]);
    let [session] = sessions.as_array().unwrap().as_slice() else { panic!("not one session: {sessions}") };
    assert_eq!((&session["identity"], &session["held"]), (&"billing-bot".into(), &1.into()), "{session}");
    operate(stage, 0, &["sessions", "kill", session["id"].as_str().unwrap()]);
    let told = ended(psql, false);
    assert!(told.contains("FATAL:  57P01") && told.contains(session["id"].as_str().unwrap()), "{told}");
    operate(stage, 2, &["sessions", "kill", session["id"].as_str().unwrap()]);
    assert_eq!(waiting(stage, "TRUNCATE")["id"], request["id"], "the request lives on");
    refuse(stage, "TRUNCATE");
    assert_eq!(count(stage, "scratch", "true"), "1000");
}
