//! The recordings commands over a small spool, as a person and as a program read them.

use std::sync::Arc;

use bytes::Bytes;
use clap::Parser;

use super::*;
use crate::clock::SystemClock;
use crate::policy::{Fault, Retry};
use crate::record::{Actions, Counters, Effect, Origin, Parameters, RecordedVerdict, Recorder};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

struct Fixture {
    _dir: tempfile::TempDir,
    config: Config,
}

const ID: [u8; 16] = [0xab; 16];

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[tag], length.as_slice(), body].concat()
}

fn opened() -> Event {
    Event::SessionOpened {
        identity: Some("billing-bot".into()),
        origin: Origin {
            destination: "10.0.0.5:5432".parse().unwrap(),
            pid: 42,
            tid: 42,
            uid: 1001,
            gid: 1001,
            cgroup: 7,
            current_cgroup: 7,
            netns: 1,
            socket: 2,
            comm: "evil\x1b]0;root\x07".into(),
        },
        facts: None,
        target: Some("orders-db".into()),
        protocol: Some("postgres".into()),
    }
}

fn events() -> Vec<Event> {
    let data = |direction, bytes: Vec<u8>| Event::Data { direction, bytes: Bytes::from(bytes) };
    let description = [b"\0\x01name\0".as_slice(), &[0; 6], &25u32.to_be_bytes(), &[0xff; 6], &[0, 0]].concat();
    let answer = [
        message(b'T', &description),
        message(b'D', b"\0\x01\0\0\0\x09\x1b[2JAlice"),
        message(b'C', b"SELECT 1\0"),
        message(b'Z', b"I"),
    ];
    let denial = Denial {
        fault: Fault::Agent,
        what: "sql:drop".into(),
        rule: Some("no-drop".into()),
        reason: "tables stay".into(),
        remedy: Some("ask the dba".into()),
        retry: Retry::Never,
        session: SessionId::from_bytes(ID),
    };
    vec![
        opened(),
        Event::Command {
            statement: "select name from customers".into(),
            parameters: Parameters::Read(Vec::new()),
            actions: Actions::Read(Vec::new()),
            in_transaction: false,
            verdict: Some(RecordedVerdict {
                effect: Effect::Permit,
                rules: Arc::from(["analyst".to_owned()]),
                reason: None,
            }),
        },
        data(Direction::FromAgent, message(b'Q', b"select name from customers\0")),
        data(Direction::ToAgent, answer.concat()),
        Event::Masked { cells: vec![("customers.name".into(), 1)] },
        Event::HoldOpened { request: "r1".into(), approvers: vec!["dba".into()], reason: "risky".into() },
        Event::Approval { request: "r1".into(), approver: None, outcome: Outcome::Timeout, reason: None },
        Event::Denied { denial },
        Event::SessionClosed { reason: "the agent said goodbye".into(), counters: Counters::default() },
    ]
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let (spool, key) = (dir.path().join("spool"), dir.path().join("key"));
    let config = Config { spool, key, free_space_floor: 0, ..Config::default() };
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let recorder = Recorder::open(&config, Arc::new(SystemClock::new())).unwrap();
        for event in events() {
            recorder.append(SessionId::from_bytes(ID), event).await.unwrap();
        }
        recorder.append(SessionId::from_bytes([0xac; 16]), Event::Note { text: "another".into() }).await.unwrap();
        recorder.close().await.unwrap();
    });
    Fixture { _dir: dir, config }
}

impl Fixture {
    fn run(&self, line: &[&str], json: bool) -> (Result<ExitCode, RecordingsError>, String) {
        let line = Line::try_parse_from(["recordings"].iter().chain(line)).unwrap();
        let mut out = Vec::new();
        let code = run(&line.arguments, &self.config, None, json, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.chars().all(|c| c == '\n' || !is_hostile(c)), "{text:?}");
        (code, text)
    }

    fn text(&self, line: &[&str]) -> String {
        let (code, text) = self.run(line, false);
        assert_eq!(code.unwrap(), ExitCode::SUCCESS);
        text
    }

    fn json(&self, line: &[&str]) -> Vec<serde_json::Value> {
        let (code, text) = self.run(line, true);
        assert_eq!(code.unwrap(), ExitCode::SUCCESS);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn the_list_counts_what_each_session_did() {
    let fixture = fixture();
    let listed = &fixture.json(&["list"])[0];
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let session = &listed[0];
    assert_eq!(session["identity"], "billing-bot");
    assert_eq!(session["attested"], false);
    assert_eq!((&session["commands"], &session["denied"], &session["masked_cells"]), (&1.into(), &1.into(), &1.into()));
    let text = fixture.text(&["list"]);
    assert!(
        text.contains("orders-db") && text.contains("billing-bot (not") && text.contains("no end recorded"),
        "{text}"
    );
}

#[test]
fn a_replay_shows_statement_grid_verdict_hold_and_denial_in_order() {
    let text = fixture().text(&["replay", "abab", "--no-wait"]);
    let mut rest = text.as_str();
    for wanted in [
        "agent> select name from customers",
        "verdict: permit by analyst",
        "name",
        "\u{fffd}[2JAlice",
        "SELECT 1",
        "masked: customers.name (1)",
        "held as r1 for dba: risky",
        "request r1: not answered in time",
        "denied: sql:drop: tables stay [no-drop]; remedy: ask the dba",
        "closed: the agent said goodbye",
    ] {
        let Some((_, after)) = rest.split_once(wanted) else { panic!("{wanted:?} is not in {rest:?} of {text}") };
        rest = after;
    }
    assert_eq!(text.matches("select name").count(), 1, "{text}");
}

#[test]
fn a_replay_for_programs_has_the_grid_too() {
    let lines = fixture().json(&["replay", "abab", "--no-wait"]);
    let row = lines.iter().find(|line| line["shown"]["row"].is_array()).unwrap();
    assert_eq!(row["shown"]["row"][0], "\u{1b}[2JAlice");
}

#[test]
fn show_leaves_the_data_out_and_export_has_it() {
    let fixture = fixture();
    assert!(!fixture.text(&["show", "abab"]).contains("Alice"));
    let exported = fixture.json(&["export", "--session", "abab"]);
    let recorded: Vec<Event> = exported.iter().map(|line| serde_json::from_value(line.clone()).unwrap()).collect();
    assert_eq!(recorded, events());
    assert_eq!(fixture.json(&["export", "--format", "jsonl"]).len(), events().len() + 1);
}

#[test]
fn verify_says_whole_and_then_names_the_flipped_byte() {
    let fixture = fixture();
    assert!(fixture.text(&["verify"]).starts_with("nothing was altered: 1 segments, 10 frames"));
    let segment = fixture.config.spool.join("0000000000.spool");
    let mut bytes = std::fs::read(&segment).unwrap();
    let (_, _, header) = crate::record::format::Header::decode(&bytes).unwrap().unwrap();
    bytes[header + 100] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let (code, text) = fixture.run(&["verify"], false);
    assert_eq!(code.unwrap(), ExitCode::from(FOUND));
    assert!(text.starts_with("frame 0 (segment 0, byte "), "{text}");
    let (code, text) = fixture.run(&["verify"], true);
    assert_eq!(code.unwrap(), ExitCode::from(FOUND));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["findings"][0]["problem"], "altered");
}

#[test]
fn errors_say_what_to_do() {
    let fixture = fixture();
    let error = |line: &[&str]| fixture.run(line, false).0.unwrap_err().to_string();
    assert!(error(&["show", "ff"]).contains("recordings list"));
    assert!(error(&["show", "a"]).contains("2 sessions begin with"));
    assert!(error(&["show", ""]).contains("give more of the id"));
    assert!(error(&["--spool", "/nonexistent", "list"]).contains("--spool"));
    assert!(error(&["verify", "--key", "/nonexistent"]).contains("--key"));
    let empty = tempfile::tempdir().unwrap();
    assert!(error(&["list", "--spool", empty.path().to_str().unwrap()]).contains("holds no recording"));
    assert!(Line::try_parse_from(["recordings", "replay", "ab", "--speed", "0"]).is_err());
}

#[test]
fn a_program_is_exported_as_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, key) = (dir.path().join("spool"), dir.path().join("key"));
    let config = Config { spool, key, free_space_floor: 0, ..Config::default() };
    let message = |payload: &[u8]| {
        let mut frame = vec![0x82, u8::try_from(payload.len()).unwrap()];
        frame.extend_from_slice(payload);
        frame
    };
    let asked = b"GET /api/v1/namespaces/s/pods/p/exec?command=sh HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\n\r\n";
    let data = |direction, bytes: &[u8]| Event::Data { direction, bytes: Bytes::copy_from_slice(bytes) };
    let Event::SessionOpened { identity, origin, facts, target, .. } = opened() else { panic!() };
    let events = [
        Event::SessionOpened { identity, origin, facts, target, protocol: Some("kubernetes".into()) },
        data(Direction::FromAgent, asked),
        data(Direction::ToAgent, b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n"),
        data(Direction::FromAgent, &message(b"\x04{\"Width\":90,\"Height\":30}")),
        data(Direction::ToAgent, &message(b"\x01\x1b[1m\xc3")),
        data(Direction::ToAgent, &message(b"\x01\xbc $ ")),
        data(Direction::FromAgent, &message(b"\0exit\r")),
    ];
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let recorder = Recorder::open(&config, Arc::new(SystemClock::new())).unwrap();
        for event in events {
            recorder.append(SessionId::from_bytes(ID), event).await.unwrap();
        }
        recorder.append(SessionId::from_bytes([0xac; 16]), opened()).await.unwrap();
        recorder.close().await.unwrap();
    });
    let fixture = Fixture { _dir: dir, config };
    let (code, text) = fixture.run(&["export", "--format", "asciicast", "--session", "abab"], false);
    code.unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["version"], &lines[0]["width"], &lines[0]["height"]), (&2.into(), &90.into(), &30.into()));
    let kinds: Vec<(&str, &str)> =
        lines.iter().skip(1).map(|line| (line[1].as_str().unwrap(), line[2].as_str().unwrap())).collect();
    assert_eq!(kinds, [("r", "90x30"), ("o", "\u{1b}[1m"), ("o", "\u{fc} $ "), ("i", "exit\r")]);
    let (_, replayed) = fixture.run(&["replay", "--no-wait", "abab"], false);
    assert!(replayed.contains("stdin> exit") && replayed.contains("terminal: 90x30"), "{replayed}");
    assert!(matches!(fixture.run(&["export", "--format", "asciicast"], false).0, Err(RecordingsError::WhichSession)));
    let none = fixture.run(&["export", "--format", "asciicast", "--session", "ac"], false).0;
    assert!(matches!(none, Err(RecordingsError::NoTerminal(_))), "{none:?}");
}

#[test]
fn what_is_held_is_named_and_on_record() {
    let fixture = fixture();
    let add = |name: &str, more: &[&str]| {
        let mut line = vec!["hold", "add", name, "--reason", "litigation"];
        line.extend(more);
        fixture.run(&line, false)
    };
    let said = |name: &str, more: &[&str]| {
        let (code, text) = add(name, more);
        assert_eq!(code.unwrap(), ExitCode::SUCCESS);
        text
    };
    let refused = |name: &str, more: &[&str]| add(name, more).0.unwrap_err().to_string();
    // One that has ended is in one place; what goes on is held as it comes.
    assert_eq!(said("a", &["--session", "ab"]), "a holds session ab, segment 0\n");
    assert_eq!(said("b", &["--session", "ac"]), "b holds session ac, segments from 0 on\n");
    assert_eq!(said("c", &["--agent", "billing-bot"]), "c holds agent billing-bot, segment 0\n");
    let times =
        said("d", &["--from", "2026-01-01", "--to", "2026-12-31T23:59:59Z", "--segments", "7-12", "--segments", "20-"]);
    assert!(times.contains("from 2026-01-01T00:00:00.000000Z to 2026-12-31T23:59:59"), "{times}");
    assert!(times.contains("segments 7 to 12, segments from 20 on"), "{times}");
    assert!(refused("a", &["--segments", "1"]).contains("already"));
    assert!(refused("e", &["--agent", "nobody"]).contains("no session on record"));
    assert!(refused("e", &["--session", "ff"]).contains("recordings list"));
    assert!(refused("e", &[]).contains("a hold of nothing"));
    for odd in [["--segments", "x"], ["--from", "yesterday"], ["--to", "2026-01-01"]] {
        let line = ["recordings", "hold", "add", "e", "--reason", "r"];
        assert!(Line::try_parse_from(line.into_iter().chain(odd)).is_err(), "{odd:?}");
    }

    let list = fixture.text(&["hold", "list"]);
    assert!(list.contains("litigation") && list.contains("session ac"), "{list}");
    assert_eq!(fixture.text(&["hold", "remove", "a"]), "a holds nothing any more\n");
    assert!(fixture.run(&["hold", "remove", "a"], false).0.unwrap_err().to_string().contains("hold list"));
    let (_, list) = fixture.run(&["hold", "list"], true);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&list).unwrap().as_array().unwrap().len(), 3);
    let exported = fixture.text(&["export"]);
    assert_eq!(exported.matches("\"event\":\"held\"").count(), 4);
    assert!(exported.contains("\"event\":\"released\"") && exported.contains("ends the hold a of session ab"));
    assert_eq!(fixture.run(&["verify"], false).0.unwrap(), ExitCode::SUCCESS);
}
