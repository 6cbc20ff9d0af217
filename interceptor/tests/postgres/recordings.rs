//! What was recorded: listed, shown, replayed, exported, verified; and what must never be in it.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use interceptor::testing::stage::{CARD, EMAIL, Stage};
use serde_json::Value;

use super::scene::{operate, operate_json, psql, psql_ok, recorded, stage};

/// What may stand nowhere, with a word for the message.
fn secrets(stage: &Stage) -> Vec<(&'static str, String)> {
    let read = |name: &str| fs::read_to_string(stage.path(name)).unwrap().trim().to_owned();
    vec![
        ("a card number", CARD.to_owned()),
        ("a card number", "4111 1111 1111 1111".to_owned()),
        ("another card number", "5500005555555559".to_owned()),
        ("an address", EMAIL.to_owned()),
        ("an address in capitals", EMAIL.to_uppercase()),
        ("a social security number", "078-05-1120".to_owned()),
        ("the upstream password", read("orders_rw.password")),
        ("the agent's token", read("token")),
        ("the agent's own password", "the-shared-password".to_owned()),
    ]
}

/// Neither the spool (as it lies there, and as it reads), nor a log, nor the approvals, nor the admin API hold a secret.
pub(super) fn assert_no_canary(stage: &Stage) {
    let mut places = vec![("the daemon's log".to_owned(), stage.log().into_bytes())];
    let events = recorded(stage);
    assert!(events.lines().count() > 5, "there is something to look at");
    places.push(("the recording".to_owned(), unpacked(&events)));
    for directory in ["spool", "approvals"] {
        files(&stage.path(directory), &mut places);
    }
    for asked in [&["status"][..], &["sessions"], &["approvals", "list"], &["recordings", "list"]] {
        places.push((asked.join(" "), operate_json(stage, asked).to_string().into_bytes()));
    }
    for (what, secret) in secrets(stage) {
        for (place, bytes) in &places {
            assert!(!contains(bytes, secret.as_bytes()), "{what} stands in {place}");
        }
    }
}

/// Every text of the events, and what those that are base64 stand for.
fn unpacked(events: &str) -> Vec<u8> {
    let mut all = Vec::new();
    for line in events.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        texts(&event, &mut all);
    }
    all
}

fn texts(value: &Value, all: &mut Vec<u8>) {
    match value {
        Value::String(text) => {
            all.extend_from_slice(text.as_bytes());
            all.push(b'\n');
            all.extend(STANDARD.decode(text).unwrap_or_default());
            all.push(b'\n');
        }
        Value::Array(items) => items.iter().for_each(|item| texts(item, all)),
        Value::Object(fields) => fields.values().for_each(|field| texts(field, all)),
        _ => {}
    }
}

fn files(directory: &Path, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path(), into),
            _ => into.push((entry.path().display().to_string(), fs::read(entry.path()).unwrap_or_default())),
        }
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// The recorded session in which most was denied.
fn session(stage: &Stage) -> Value {
    let listed = operate_json(stage, &["recordings", "list"]);
    let denied = |session: &&Value| session["denied"].as_u64().unwrap_or_default();
    listed.as_array().unwrap().iter().max_by_key(denied).unwrap().clone()
}

#[test]
fn a_session_is_listed_shown_and_replayed_as_the_agent_saw_it() {
    let stage = stage();
    psql(
        &stage,
        &[
            "SELECT id, name, card, email FROM customers ORDER BY id",
            "UPDATE customers SET name = 'Mallory' WHERE id = 1 /* forbidden:record */",
            "SELECT upper(email), note FROM customers, orders WHERE orders.id = 1",
        ],
    );
    sleep(Duration::from_millis(500));
    let listed = session(&stage);
    assert_eq!(listed["identity"], "billing-bot");
    assert_eq!(listed["attested"], true);
    assert_eq!(listed["denied"], 1);
    assert!(listed["commands"].as_u64().unwrap() >= 3 && listed["masked_cells"].as_u64().unwrap() >= 4, "{listed}");
    let id = listed["id"].as_str().unwrap();
    let shown = operate(&stage, 0, &["recordings", "show", id]);
    for wanted in ["billing-bot", "orders-db", "forbidden:record", "customers-are-read-only", "masked"] {
        assert!(shown.contains(wanted), "{wanted} is not in {shown}");
    }
    let replayed = operate(&stage, 0, &["recordings", "replay", id, "--no-wait"]);
    for wanted in
        ["SELECT id, name, card", "Ada Lovelace", "************1111", "[masked:pii]", "Grace Hopper", "SELECT 3"]
    {
        assert!(replayed.contains(wanted), "{wanted} is not in {replayed}");
    }
    assert_no_canary(&stage);
}

#[test]
fn a_flipped_byte_is_found_and_named() {
    let stage = stage();
    for _ in 0..3 {
        psql_ok(&stage, &["SELECT * FROM customers", "SELECT * FROM scratch"]);
    }
    // A checkpoint is signed every two seconds.
    sleep(Duration::from_secs(3));
    operate(&stage, 0, &["recordings", "verify"]);
    let copy = stage.path("copy");
    fs::create_dir(&copy).unwrap();
    let mut segment = None;
    for entry in fs::read_dir(stage.path("spool")).unwrap().flatten() {
        let to = copy.join(entry.file_name());
        fs::copy(entry.path(), &to).unwrap();
        if to.extension().is_some_and(|extension| extension == "spool") {
            segment = Some(to);
        }
    }
    let copied = copy.to_str().unwrap();
    operate(&stage, 0, &["recordings", "--spool", copied, "verify"]);
    let segment = segment.expect("a segment");
    let whole = fs::read(&segment).unwrap();
    for part in [3, 2] {
        let mut bytes = whole.clone();
        let at = bytes.len() / part;
        bytes[at] ^= 1;
        fs::write(&segment, bytes).unwrap();
        let told = operate(&stage, 1, &["recordings", "--spool", copied, "verify"]);
        assert!(told.contains("frame") && told.contains("NOT WHOLE"), "byte {at}: {told}");
    }
    // Cut off: the newest checkpoint signs more than there is.
    fs::write(&segment, &whole[..whole.len() / 2]).unwrap();
    operate(&stage, 1, &["recordings", "--spool", copied, "verify"]);
    operate(&stage, 0, &["recordings", "verify"]);
}
