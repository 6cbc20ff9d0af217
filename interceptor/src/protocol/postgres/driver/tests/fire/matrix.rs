//! Every fault, at every message, on both legs, both ways.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::fake::bytes;
use super::super::{Answer, ScriptedGate};
use super::script::{DENIED, SECRETS, TABLES, converse, messages};
use crate::mask::Rules;
use crate::protocol::postgres::Postgres;
use crate::protocol::postgres::catalog::SESSION_QUERY;
use crate::protocol::postgres::codec::write;
use crate::protocol::{Conn, Dial, Direction, Observation, Patience, Protocol, Target};
use crate::telemetry::SessionId;
use crate::testing::faults::{Fault, Passed, Plan, Random, Way, Wire};
use crate::testing::postgres::{Options, Postgres as Server};
use crate::testing::proxy::Local;
use crate::tls;

/// Sessions at the same time.
const AT_ONCE: usize = 12;

/// How long a session may live on when its agent has given up: the longest deadline of the driver, and some.
const ENDS_WITHIN: Duration = Duration::from_secs(90);

/// How long the agent waits for each answer where something is wrong, and where nothing is.
const IMPATIENT: Duration = Duration::from_millis(300);
const PATIENT: Duration = Duration::from_secs(30);

/// The leg that the fault is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    Agent,
    Target,
}

/// The same server behind every fault: its catalog is loaded once.
#[derive(Debug)]
struct Faulty(Local);

impl Dial for Faulty {
    fn dial(&self) -> BoxFuture<'_, io::Result<tls::Stream>> {
        self.0.dial()
    }

    fn place(&self) -> String {
        "faulty".to_owned()
    }
}

/// What a session comes to.
struct Outcome {
    received: Vec<u8>,
    /// What passed on the leg to the target.
    passed: Passed,
    gate: Arc<ScriptedGate>,
    wrong: Vec<String>,
}

struct Scene {
    server: Server,
    target: Arc<Target>,
    rules: Arc<Rules>,
}

impl Scene {
    fn new() -> Self {
        let server = Server::start(Options { auth: "trust", ..Options::default() }).unwrap();
        server.sql(TABLES).unwrap();
        let target = Arc::new(Target {
            name: format!("f{}", server.port()).into(),
            host: "localhost".into(),
            agent_tls: None,
            http: None,
            upstream_tls: tls::Upstream::default(),
        });
        Self { server, target, rules: Arc::new(rules()) }
    }

    /// One session with one fault.
    async fn run(&self, leg: Leg, plan: &Plan, patience: Duration) -> Outcome {
        let gate = |command: &crate::policy::Command| {
            if command.statement.contains(DENIED) { Answer::Deny } else { Answer::Permit(&["pii", "card"]) }
        };
        let gate = Arc::new(ScriptedGate::new(gate));
        let chosen = |wanted| if leg == wanted { plan.clone() } else { Plan::peaceful() };
        let server = SocketAddr::from(([127, 0, 0, 1], self.server.port()));
        let back = Wire::new(server, chosen(Leg::Target)).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = Wire::new(listener.local_addr().unwrap(), chosen(Leg::Agent)).await.unwrap();
        let (dial, target, rules) =
            (Arc::new(Faulty(Local(back.address.port()))), Arc::clone(&self.target), Arc::clone(&self.rules));
        let judge = Arc::clone(&gate);
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let session = SessionId::NONE;
            let agent = tls::Stream::Tcp(stream);
            let conn = Conn { agent, target, dial, rules, session, patience: Patience::default() };
            let _whoever_broke_it = Postgres.serve(conn, &*judge).await;
        });
        let received = converse(front.address, patience).await;
        let mut wrong = Vec::new();
        match timeout(ENDS_WITHIN, serving).await {
            Err(_elapsed) => wrong.push("the session has not ended".to_owned()),
            Ok(Err(panic)) => wrong.push(format!("the session has panicked: {panic}")),
            Ok(Ok(())) => {}
        }
        Outcome { received, passed: back.passed(), gate, wrong }
    }
}

impl Outcome {
    /// What must hold whatever goes wrong. `altered`: the leg to the target may say something else than interceptor did;
    /// `asks`: somebody asks a question of his own there, and gets its answer in place of another's. Nothing but TLS helps
    /// against that.
    fn judge(mut self, altered: bool, asks: bool) -> Vec<String> {
        for secret in SECRETS {
            if !asks && self.received.windows(secret.len()).any(|seen| seen.eq_ignore_ascii_case(secret)) {
                self.wrong.push(format!("shows {}", String::from_utf8_lossy(secret)));
            }
        }
        if !altered {
            self.nothing_unjudged();
        }
        self.wrong
    }

    /// What reached the target is what was recorded, in that order; and what was recorded was judged.
    fn nothing_unjudged(&mut self) {
        let recorded: Vec<u8> = {
            let observed = self.gate.observed.lock();
            let data = observed.iter().filter_map(|event| match event {
                Observation::Data(Direction::FromAgent, bytes) => Some(bytes.to_vec()),
                _ => None,
            });
            data.collect::<Vec<_>>().concat()
        };
        let all = recorded;
        let mut recorded: VecDeque<Vec<u8>> = messages(&all).into_iter().filter(|message| is_judged(message)).collect();
        let judged = self.gate.statements();
        for message in self.passed.up.iter().skip(1).filter(|message| is_judged(message) && !is_own(message)) {
            // What was sent of a message that has no end.
            let whole = !messages(message).is_empty();
            let on_record = if whole { recorded.pop_front().as_ref() == Some(message) } else { all.ends_with(message) };
            if !on_record {
                self.wrong.push(format!("not on record: {}", message.escape_ascii()));
                return;
            }
            let text = String::from_utf8_lossy(&message[5..]);
            if matches!(message[0], b'Q' | b'P') && !judged.iter().any(|judged| text.contains(judged.as_str())) {
                self.wrong.push(format!("not judged: {text}"));
            }
            if text.contains(DENIED) {
                self.wrong.push(format!("denied, and there: {text}"));
            }
        }
    }
}

/// The first message that is another one.
fn difference(received: &[Vec<u8>], expected: &[Vec<u8>]) -> Option<String> {
    let at = (0..received.len().max(expected.len())).find(|at| received.get(*at) != expected.get(*at))?;
    let shown = |messages: &[Vec<u8>]| messages.get(at).map(|message| message.escape_ascii().to_string());
    Some(format!("is not what it is in peace: {:?}, not {:?}", shown(received), shown(expected)))
}

/// Whether it is something that is done, rather than asked about or ended.
fn is_judged(message: &[u8]) -> bool {
    matches!(message.first(), Some(b'Q' | b'P' | b'B' | b'E' | b'd' | b'f' | b'F'))
}

/// Interceptor's own: under names of its own, a refusal's statement, or the question at the start of each session.
fn is_own(message: &[u8]) -> bool {
    let asks =
        |question: &str| message.get(5..).is_some_and(|body| body.strip_suffix(&[0]) == Some(question.as_bytes()));
    asks(SESSION_QUERY) || message.windows(12).any(|word| word == b"interceptor_" || word == b"interceptor ")
}

fn rules() -> Rules {
    let config = r#"
        [[mask]]
        tag = "pii"
        columns = ["public.people.email"]
        transform = "redact"
        [[mask]]
        tag = "card"
        columns = ["public.people.card"]
        transform = { keep_last = 4 }
    "#;
    crate::testing::masks::rules(config)
}

/// Faults of either way.
fn faults(way: Way) -> Vec<Fault> {
    let mut faults = vec![
        Fault::Bytewise,
        Fault::Chunks,
        Fault::Delay(Duration::from_millis(60)),
        Fault::Stall(Duration::from_millis(900)),
        Fault::HalfClose,
        Fault::Reset,
        Fault::Cut,
        Fault::Flip,
        Fault::Flip,
        Fault::Length(0),
        Fault::Length(3),
        Fault::Length(5),
        Fault::Length(1 << 20),
        Fault::Length(0x7fff_ffff),
        Fault::Length(0x8000_0000),
        Fault::Twice,
        Fault::Lost,
        Fault::Late,
    ];
    let injected = match way {
        Way::Up => vec![
            bytes(|out| write::query(out, b"SELECT 'injected', upper(email) FROM people")),
            bytes(|out| write::query(out, b"SELECT 'forbidden injected'")),
            bytes(|out| write::parse(out, b"s", b"SELECT upper(email) FROM people")),
            bytes(|out| write::execute(out, b"", 0)),
            bytes(|out| write::bare(out, b'S')),
            bytes(|out| write::message(out, b'd', |out| out.extend_from_slice(b"9\tnine\n"))),
            b"?\0\0\0\x04".to_vec(),
        ],
        Way::Down => vec![
            bytes(|out| write::notice(out, b'N', [(b'C', &b"00000"[..]), (b'M', b"psst")])),
            bytes(|out| write::notice(out, b'E', [(b'C', &b"XX000"[..]), (b'M', b"treason")])),
            bytes(|out| write::parameter_status(out, b"client_encoding", b"LATIN1")),
            bytes(|out| write::ready(out, b'I')),
            bytes(|out| write::ready(out, b'T')),
            b"H\0\0\0\x07\0\0\0".to_vec(),
            b"G\0\0\0\x07\0\0\0".to_vec(),
            b"W\0\0\0\x07\0\0\0".to_vec(),
            b"T\0\0\0\x06\0\0".to_vec(),
            bytes(|out| write::data_row(out, [Some(&b"1"[..]); 9].into_iter())),
            bytes(|out| write::command_complete(out, b"SELECT 1")),
            b"1\0\0\0\x04".to_vec(),
            b"A\0\0\0\x08\0\0\0\0".to_vec(),
            b"\xff\0\0\0\x04".to_vec(),
        ],
    };
    faults.extend(injected.into_iter().map(Fault::Before));
    faults
}

/// Faults at each of so many messages: all where `stride` is 1, else every so many-th, another one at each message.
fn plans(way: Way, messages: usize, stride: usize) -> Vec<Plan> {
    let faults = faults(way);
    let mut plans = Vec::new();
    for at in 0..messages {
        for fault in faults.iter().skip(at % stride).step_by(stride) {
            let seed = Random((plans.len() as u64 + 1) * 0x9e37_79b9).next();
            let within = [0, 1, 5, 9][plans.len() % 4];
            plans.push(Plan { way, at, within, fault: fault.clone(), seed });
        }
    }
    plans
}

/// Every so many-th fault of each message, unless told otherwise: the whole takes a quarter of an hour.
fn stride() -> usize {
    std::env::var("INTERCEPTOR_FIRE_STRIDE").ok().and_then(|text| text.parse().ok()).unwrap_or(17)
}

/// A session for each plan, several at the same time: what went wrong.
async fn all(scene: &Arc<Scene>, plans: Vec<(Leg, Plan)>, expected: &[Vec<u8>]) -> Vec<String> {
    let (places, mut running) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for (leg, plan) in plans {
        let (scene, places, expected) = (Arc::clone(scene), Arc::clone(&places), expected.to_vec());
        running.spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            let harmless = plan.fault.is_harmless();
            let outcome = scene.run(leg, &plan, if harmless { PATIENT } else { IMPATIENT }).await;
            let other = difference(&messages(&outcome.received), &expected).filter(|_| harmless);
            let altered = leg == Leg::Target && plan.way == Way::Up;
            let asks = matches!(&plan.fault, Fault::Before(bytes) if matches!(bytes[0], b'Q' | b'P'));
            let mut wrong = outcome.judge(altered, altered && asks);
            wrong.extend(other);
            (!wrong.is_empty()).then(|| format!("{leg:?} {plan:?}: {}", wrong.join("; ")))
        });
    }
    running.join_all().await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: `cargo xtask test --only fire`"]
async fn whatever_goes_wrong_on_either_leg_nothing_passes_that_should_not() {
    let scene = Arc::new(Scene::new());
    let peace = scene.run(Leg::Agent, &Plan::peaceful(), PATIENT).await;
    let expected = messages(&peace.received);
    let (ups, downs) = (peace.passed.up.len(), expected.len());
    assert_eq!(peace.judge(false, false), Vec::<String>::new());
    assert!(ups > 25 && downs > 60, "{ups} {downs}");
    let before = crate::testing::faults::descriptors();

    let mut planned = Vec::new();
    for leg in [Leg::Agent, Leg::Target] {
        for (way, messages) in [(Way::Up, ups), (Way::Down, downs)] {
            planned.extend(plans(way, messages, stride()).into_iter().map(|plan| (leg, plan)));
        }
    }
    // What is not understood may have changed the catalog, and then the others that are answered just now are masked whole:
    // so those that must end as in peace are by themselves.
    let cases = planned.len();
    let (harmless, harmful): (Vec<_>, Vec<_>) = planned.into_iter().partition(|(_, plan)| plan.fault.is_harmless());
    let mut wrong = all(&scene, harmless, &expected).await;
    wrong.extend(all(&scene, harmful, &expected).await);
    assert!(wrong.is_empty(), "{} of {cases}:\n{}", wrong.len(), wrong.join("\n"));
    eprintln!("{cases} sessions with a fault");
    // All is as it was: an honest session works, and no descriptor is left behind.
    let peace = scene.run(Leg::Agent, &Plan::peaceful(), PATIENT).await;
    assert_eq!(messages(&peace.received), expected);
    drop(peace);
    let mut after = crate::testing::faults::descriptors();
    for _ in 0..200 {
        if after <= before + 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
        after = crate::testing::faults::descriptors();
    }
    assert!(after <= before + 4, "{before} descriptors before, {after} after");
}
