//! Held commands: shown whole, approved once, denied, given up on, timed out, kept over a restart.

use std::process::Child;
use std::thread::sleep;
use std::time::Duration;

use interceptor::testing::stage::{Script, Stage};
use interceptor::testing::world::Place;
use serde_json::Value;

use super::scene::{
    inline, operate, operate_json, psql_fails, psql_ok, reconfigure, recorded, run_in, said, stage_with, start_psql,
    truth, wait_for,
};

/// A stage on which an agent may ask to truncate, too.
fn patient() -> Stage {
    let truncate = "@id(\"may-ask-to-truncate\")\n\
                    permit (principal in Group::\"finance\", action == Action::\"sql:truncate\", resource);\n";
    stage_with(&Script { policies: truncate.to_owned(), ..Script::default() })
}

/// The request that waits for a statement with `words` in it.
pub(super) fn waiting(stage: &Stage, words: &str) -> Value {
    wait_for(words, || {
        let requests = operate_json(stage, &["approvals", "list"]);
        let fits = |request: &&Value| {
            request["state"]["state"] == "waiting"
                && request["statement"].as_str().is_some_and(|text| text.contains(words))
        };
        requests.as_array().unwrap().iter().find(fits).cloned()
    })
}

fn id(request: &Value) -> &str {
    request["id"].as_str().unwrap()
}

/// Lets the request for `words` pass.
pub(super) fn approve(stage: &Stage, words: &str) {
    let request = waiting(stage, words);
    operate(stage, 0, &["approvals", "approve", id(&request), "--reason", "looked at it"]);
}

/// Says no to the request for `words`.
pub(super) fn refuse(stage: &Stage, words: &str) {
    let request = waiting(stage, words);
    operate(stage, 0, &["approvals", "deny", id(&request), "--reason", "not today"]);
}

/// What a client wrote, which has to end soon.
pub(super) fn ended(child: Child, passed: bool) -> String {
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.success(), passed, "{}", said(&output));
    said(&output)
}

/// How many rows `scratch` has.
fn rows(stage: &Stage) -> String {
    truth(stage, "SELECT count(*) FROM scratch")
}

fn refill(stage: &Stage) {
    truth(stage, "INSERT INTO scratch SELECT n, 'row' FROM generate_series(1, 10) n");
}

const TRUNCATE: &str = "TRUNCATE scratch";

#[test]
fn a_drop_waits_for_a_human_and_runs_once() {
    let stage = patient();
    let psql = start_psql(&stage, &["SELECT 'before it'", "DROP TABLE scratch"]);
    let request = waiting(&stage, "DROP TABLE");
    assert_eq!(request["identity"], "billing-bot");
    assert_eq!(request["target"], "orders-db");
    assert_eq!(request["approvers"][0], "dba-oncall");
    assert_eq!(request["rules"][0], "hold-drop");
    assert_eq!(request["groups"][0], "finance");
    assert_eq!(request["facts"]["uid"], 61_001);
    assert!(request["facts"]["cgroup"].as_str().unwrap().ends_with("/billing"), "{request}");
    assert!(request["recent"].to_string().contains("before it"), "{request}");
    assert!(request["actions"].to_string().contains("sql:drop"), "{request}");
    assert_eq!(request["estimated_rows"], 1000, "{request}");
    let shown = operate(&stage, 0, &["approvals", "show", id(&request)]);
    for wanted in
        ["DROP TABLE scratch", "billing-bot", "hold-drop", "dba-oncall", "61001", "lose data for good", "1000"]
    {
        assert!(shown.contains(wanted), "{wanted} is not in {shown}");
    }
    assert!(!stage.server.log().contains("DROP TABLE"), "a held command does not reach the server");
    assert_eq!(rows(&stage), "1000");
    operate(&stage, 0, &["approvals", "approve", id(&request)]);
    assert!(ended(psql, true).contains("DROP TABLE"));
    assert_eq!(truth(&stage, "SELECT to_regclass('public.scratch') IS NULL"), "t");
    assert_eq!(stage.server.log().matches("DROP TABLE scratch").count(), 1, "it ran once");
    operate(&stage, 1, &["approvals", "approve", id(&request)]);
    let events = recorded(&stage);
    for wanted in ["hold_opened", "approval", id(&request), "\"root\""] {
        assert!(events.contains(wanted), "{wanted} is not on record");
    }
}

#[test]
fn a_grant_is_for_one_run_of_one_command() {
    let stage = patient();
    let psql = start_psql(&stage, &[TRUNCATE]);
    approve(&stage, TRUNCATE);
    ended(psql, true);
    assert_eq!(rows(&stage), "0");
    refill(&stage);
    // The same again is held again, and this time refused.
    let psql = start_psql(&stage, &[TRUNCATE]);
    refuse(&stage, TRUNCATE);
    let told = ended(psql, false);
    assert!(told.contains("42501") && told.contains("not today") && told.contains("hold-drop"), "{told}");
    assert_eq!(rows(&stage), "10");
    // A grant for one value is none for another.
    let mut psql = start_psql(&stage, &["UPDATE scratch SET what = 'one'"]);
    waiting(&stage, "'one'");
    psql.kill().unwrap();
    psql.wait().unwrap();
    approve(&stage, "'one'");
    let psql = start_psql(&stage, &["UPDATE scratch SET what = 'two'"]);
    refuse(&stage, "'two'");
    ended(psql, false);
    assert_eq!(truth(&stage, "SELECT DISTINCT what FROM scratch"), "row");
    assert!(psql_ok(&stage, &["UPDATE scratch SET what = 'one'"]).contains("UPDATE 10"));
}

#[test]
fn bind_values_are_shown_and_bound() {
    let stage = patient();
    let code = "with psycopg.connect(URL, autocommit=True) as c:\n\
                \x20   print(c.execute('UPDATE scratch SET what = %s', (sys.argv[2],)).rowcount)";
    let run = |value: &str| {
        let mut command = inline(&stage, code);
        command.arg(value).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        stage.spawn_agent(command).unwrap()
    };
    let agent = run("the-bound-value");
    let request = waiting(&stage, "UPDATE scratch");
    assert!(request["parameters"].to_string().contains("the-bound-value"), "{request}");
    assert_eq!(request["estimated_rows"], 1000, "{request}");
    assert!(operate(&stage, 0, &["approvals", "show", id(&request)]).contains("the-bound-value"));
    operate(&stage, 0, &["approvals", "approve", id(&request)]);
    assert!(ended(agent, true).contains("1000"));
    let agent = run("another-value");
    refuse(&stage, "UPDATE scratch");
    ended(agent, false);
    assert_eq!(truth(&stage, "SELECT DISTINCT what FROM scratch"), "the-bound-value");
}

#[test]
fn a_request_outlives_its_client_and_a_restart() {
    let mut stage = patient();
    for restart in [false, true] {
        let mut psql = start_psql(&stage, &[TRUNCATE]);
        let request = waiting(&stage, TRUNCATE);
        psql.kill().unwrap();
        psql.wait().unwrap();
        sleep(Duration::from_millis(300));
        assert_eq!(id(&waiting(&stage, TRUNCATE)), id(&request), "the request lives on");
        approve(&stage, TRUNCATE);
        if restart {
            stage.stop_daemon().unwrap();
            stage.start_daemon().unwrap();
        }
        assert_ne!(rows(&stage), "0", "nothing runs while nobody waits");
        psql_ok(&stage, &[TRUNCATE]);
        assert_eq!(rows(&stage), "0");
        refill(&stage);
        let psql = start_psql(&stage, &[TRUNCATE]);
        refuse(&stage, TRUNCATE);
        ended(psql, false);
        assert_eq!(rows(&stage), "10", "the grant was used up (restart: {restart})");
    }
}

#[test]
fn nobody_answers_in_time() {
    let mut stage = patient();
    reconfigure(&mut stage, "timeout_seconds = 20", "timeout_seconds = 2");
    let told = psql_fails(&stage, &["TRUNCATE scratch /* forbidden:hold:time-out */"]);
    assert!(told.contains("42501") && told.contains("in time") && told.contains("dba-oncall"), "{told}");
    assert_eq!(rows(&stage), "1000");
    assert!(!stage.server.log().contains("forbidden:hold"));
    let on_record = || recorded(&stage).to_lowercase().contains("timeout").then_some(());
    wait_for("the time-out on record", on_record);
    let still = operate_json(&stage, &["approvals", "list"]);
    assert_eq!(still.as_array().unwrap().len(), 0, "{still}");
}

#[test]
fn an_agent_cannot_approve_its_own_command() {
    let stage = patient();
    let psql = start_psql(&stage, &[TRUNCATE]);
    let request = waiting(&stage, TRUNCATE);
    let command = stage.interceptor(&["approvals", "approve", id(&request)]);
    // Not as itself, and not even as root while in a governed cgroup.
    for uid in [Some(61_001), None] {
        let output = run_in(&stage, Place::Agent("billing"), uid, &command);
        assert!(!output.status.success(), "uid {uid:?}: {}", said(&output));
    }
    assert_eq!(rows(&stage), "1000");
    refuse(&stage, TRUNCATE);
    ended(psql, false);
}
