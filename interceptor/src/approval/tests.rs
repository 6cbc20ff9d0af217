//! The store from outside: grants are single use, bound to every byte, and outlive the store.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::approval::{OPEN_LIMIT_PER_IDENTITY, Question};
use crate::clock::ManualClock;
use crate::identity::ProcessFacts;
use crate::policy::{Action, ActionName, Command, Facts, Held, Parameter, Resource, ResourceKind};
use crate::telemetry::SessionId;

struct Bench {
    directory: TempDir,
    clock: Arc<ManualClock>,
}

impl Bench {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_unix(1_000)));
        Self { directory: TempDir::new().unwrap(), clock }
    }

    fn store(&self) -> Store {
        let config = Config {
            state: self.directory.path().join("approvals"),
            timeout_seconds: 60,
            grant_seconds: 600,
            approvers: BTreeMap::from([("dba".to_owned(), vec!["alice".to_owned()])]),
        };
        Store::open(config, Arc::clone(&self.clock) as Arc<dyn Clock>).unwrap()
    }
}

fn command(statement: &str, value: Option<&'static [u8]>) -> Command {
    let resource = Resource { kind: ResourceKind::Table, path: ["t", "d", "s", "x"].map(Arc::from).to_vec() };
    let action = Action {
        name: ActionName::SQL_DROP,
        resource,
        columns: Default::default(),
        tags: Default::default(),
        note: None,
    };
    let parameter = Parameter { type_oid: 0, binary: false, value: value.map(Bytes::from_static) };
    Command {
        analysis: 1,
        statement: statement.into(),
        parameters: Arc::new([parameter]),
        actions: Arc::new([action]),
        facts: Arc::new(Facts::default()),
        in_transaction: false,
    }
}

fn question_of(identity: &str, command: &Command) -> Question {
    Question {
        digest: Digest::of(identity, "orders-db", command),
        session: SessionId::NONE,
        identity: identity.to_owned(),
        facts: ProcessFacts {
            pid: 1,
            uid: 2,
            gid: 3,
            cgroup: "/agents/a".into(),
            unit: None,
            container: None,
            exe: None,
            exe_sha256: None,
            ancestry: Vec::new(),
            guarantee: Default::default(),
        },
        groups: Vec::new(),
        target: "orders-db".into(),
        statement: command.statement.to_string(),
        parameters: Vec::new(),
        actions: Vec::new(),
        held: Held::scripted("dba"),
        estimated_rows: None,
        note: None,
        recent: Vec::new(),
    }
}

fn question(statement: &str) -> Question {
    question_of("bot", &command(statement, None))
}

fn waiting(asked: Asked) -> Ticket {
    match asked {
        Asked::Waiting { ticket, .. } => ticket,
        other => panic!("not waiting: {other:?}"),
    }
}

fn yes(at: i64) -> Answer {
    let approver = Approver { uid: 0, name: "root".into() };
    Answer { approver, at: Timestamp::from_unix(at), reason: None }
}

#[test]
fn a_grant_is_used_once() {
    let bench = Bench::new();
    let store = bench.store();
    let ticket = waiting(store.ask(question("DROP TABLE x")).unwrap());
    store.answer(ticket.id, true, yes(1_001)).unwrap();
    assert!(matches!(store.ask(question("DROP TABLE x")).unwrap(), Asked::Granted(..)));
    let again = store.ask(question("DROP TABLE x")).unwrap();
    assert!(matches!(again, Asked::Waiting { fresh: true, .. }), "the second use opens a request of its own");
}

#[test]
fn one_changed_byte_voids_a_grant() {
    let bench = Bench::new();
    let store = bench.store();
    let granted = command("DELETE FROM x WHERE id = $1", Some(b"1"));
    let ticket = waiting(store.ask(question_of("bot", &granted)).unwrap());
    store.answer(ticket.id, true, yes(1_001)).unwrap();
    let mut elsewhere = command("DELETE FROM x WHERE id = $1", Some(b"1"));
    let moved = Resource { kind: ResourceKind::Table, path: ["t", "d", "other", "x"].map(Arc::from).to_vec() };
    elsewhere.actions = Arc::new([Action { resource: moved, ..granted.actions[0].clone() }]);
    let others = [
        question_of("bot", &command("DELETE FROM x WHERE id = $1 ", Some(b"1"))),
        question_of("bot", &command("DELETE FROM x WHERE id = $1", Some(b"2"))),
        question_of("bot", &command("DELETE FROM x WHERE id = $1", None)),
        question_of("bot", &elsewhere),
        question_of("other-bot", &granted),
    ];
    for other in others {
        assert!(matches!(store.ask(other).unwrap(), Asked::Waiting { fresh: true, .. }));
    }
    assert!(matches!(store.ask(question_of("bot", &granted)).unwrap(), Asked::Granted(..)));
}

#[test]
fn requests_and_grants_survive_a_restart_and_a_used_grant_does_not() {
    let bench = Bench::new();
    let store = bench.store();
    let ticket = waiting(store.ask(question("DROP TABLE x")).unwrap());
    drop(store);
    let store = bench.store();
    assert_eq!(store.list().len(), 1);
    store.answer(ticket.id, true, yes(1_001)).unwrap();
    drop(store);
    let store = bench.store();
    assert!(matches!(store.ask(question("DROP TABLE x")).unwrap(), Asked::Granted(..)));
    drop(store);
    assert!(bench.store().list().is_empty());
}

#[test]
fn what_a_grant_is_bound_to_unseen_is_the_same_after_a_restart_and_for_this_store_alone() {
    let (bench, other) = (Bench::new(), Bench::new());
    let store = bench.store();
    let sealed = store.seal(b"a body").unwrap();
    let ticket = waiting(store.ask(question(&format!("POST /\nbody: hmac {sealed}"))).unwrap());
    store.answer(ticket.id, true, yes(1_001)).unwrap();
    drop(store);
    let store = bench.store();
    assert!(sealed.len() == 32 && store.seal(b"another").unwrap() != sealed);
    let again = question(&format!("POST /\nbody: hmac {}", store.seal(b"a body").unwrap()));
    assert!(matches!(store.ask(again).unwrap(), Asked::Granted(..)));
    assert_ne!(other.store().seal(b"a body").unwrap(), sealed);
    // What somebody else has put there is not used.
    drop(store);
    fs::write(bench.directory.path().join("approvals").join(KEY), [7; 31]).unwrap();
    let config = Config { state: bench.directory.path().join("approvals"), ..Config::default() };
    assert!(Store::open(config, Arc::clone(&bench.clock) as Arc<dyn Clock>).is_err());
}

#[test]
fn a_refusal_is_told_once() {
    let bench = Bench::new();
    let store = bench.store();
    let ticket = waiting(store.ask(question("DROP TABLE x")).unwrap());
    store.answer(ticket.id, false, yes(1_001)).unwrap();
    assert!(matches!(store.ask(question("DROP TABLE x")).unwrap(), Asked::Refused(..)));
    assert!(matches!(store.ask(question("DROP TABLE x")).unwrap(), Asked::Waiting { fresh: true, .. }));
}

#[test]
fn a_request_is_answered_once_and_by_those_who_may() {
    let bench = Bench::new();
    let store = bench.store();
    let ticket = waiting(store.ask(question("DROP TABLE x")).unwrap());
    let mallory = Answer { approver: Approver { uid: 7, name: "mallory".into() }, ..yes(1_001) };
    assert!(matches!(store.answer(ticket.id, true, mallory), Err(ApprovalError::NotAllowed { .. })));
    let alice = Answer { approver: Approver { uid: 8, name: "alice".into() }, ..yes(1_001) };
    store.answer(ticket.id, false, alice).unwrap();
    assert!(matches!(store.answer(ticket.id, true, yes(1_002)), Err(ApprovalError::Settled { .. })));
}

#[tokio::test]
async fn the_waiting_connection_hears_the_answer_and_one_of_two_gets_the_grant() {
    let bench = Bench::new();
    let store = Arc::new(bench.store());
    let ticket = waiting(store.ask(question("DROP TABLE x")).unwrap());
    let (first, second) = (Arc::clone(&store), Arc::clone(&store));
    let (one, two) = (ticket.clone(), ticket.clone());
    let first = tokio::spawn(async move { first.wait(&one).await.unwrap() });
    let second = tokio::spawn(async move { second.wait(&two).await.unwrap() });
    tokio::task::yield_now().await;
    store.answer(ticket.id, true, yes(1_001)).unwrap();
    let ended = [first.await.unwrap(), second.await.unwrap()];
    assert_eq!(ended.iter().filter(|waited| matches!(waited, Waited::Granted(..))).count(), 1);
    assert_eq!(ended.iter().filter(|waited| matches!(waited, Waited::Taken)).count(), 1);
}

#[tokio::test]
async fn what_nobody_answers_times_out_and_leaves_no_file() {
    let bench = Bench::new();
    let store = bench.store();
    let ticket = waiting(store.ask(question("DROP TABLE x")).unwrap());
    bench.clock.advance(Duration::from_secs(61));
    assert_eq!(store.expire().len(), 1);
    assert!(matches!(store.wait(&ticket).await.unwrap(), Waited::TimedOut));
    assert!(bench.store().list().is_empty());
}

#[test]
fn an_unused_grant_ends() {
    let bench = Bench::new();
    let store = bench.store();
    let ticket = waiting(store.ask(question("DROP TABLE x")).unwrap());
    store.answer(ticket.id, true, yes(1_001)).unwrap();
    bench.clock.advance(Duration::from_secs(602));
    assert!(matches!(store.ask(question("DROP TABLE x")).unwrap(), Asked::Waiting { fresh: true, .. }));
}

#[test]
fn one_identity_cannot_bury_the_others() {
    let bench = Bench::new();
    let store = bench.store();
    for number in 0..OPEN_LIMIT_PER_IDENTITY {
        store.ask(question(&format!("DROP TABLE x{number}"))).unwrap();
    }
    assert!(matches!(store.ask(question("DROP TABLE y")), Err(ApprovalError::Full { .. })));
    let other = question_of("quiet-bot", &command("DROP TABLE y", None));
    assert!(matches!(store.ask(other).unwrap(), Asked::Waiting { fresh: true, .. }));
}

#[test]
fn a_damaged_grant_is_never_guessed() {
    let bench = Bench::new();
    let store = bench.store();
    let ticket = waiting(store.ask(question("DROP TABLE x")).unwrap());
    let path = store.path(ticket.id);
    drop(store);
    fs::write(&path, b"{\"state\":\"approved\"}").unwrap();
    let config = Config { state: bench.directory.path().join("approvals"), ..Config::default() };
    assert!(Store::open(config, Arc::clone(&bench.clock) as Arc<dyn Clock>).is_err());
}
