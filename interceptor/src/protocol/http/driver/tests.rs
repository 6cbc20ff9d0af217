//! The driver between an agent and a target that counts what reaches it. Every refusal is held against that count.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::Notify;

mod answers;
mod claims;
mod cluster;
mod cookies;
mod quiet;
mod redacted;
mod routes;
mod socket;
mod tools;
mod two;

use super::leg::Left;
use super::*;
use crate::mask::Rules;
use crate::policy::{Fault, Held, Permit, Permitted, Recorded, Retry};
use crate::protocol::http::{BODY_LIMIT, Config};
use crate::protocol::{Admitted, Cancel, Dial, Direction, Impact, Login, Observation, Verdict};
use crate::secret::Secret;
use crate::telemetry::SessionId;

const ROOM: usize = 256 * 1024;
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Permit(&'static [&'static str]),
    Deny,
    Hold,
}

#[derive(Debug)]
struct Script {
    answer: Answer,
    judged: Mutex<Vec<Command>>,
    observed: Mutex<Vec<Observation>>,
    approve: Notify,
    dropped: AtomicUsize,
    unrecordable: AtomicBool,
    /// From now on.
    deny: AtomicBool,
    room: usize,
    /// The target has a credential.
    logs_in: bool,
    token: Option<&'static [u8]>,
    end: Notify,
    policies: tokio::sync::watch::Sender<u64>,
}

fn denial(what: &str) -> Denial {
    Denial {
        fault: Fault::Agent,
        what: what.to_owned(),
        rule: Some("scripted-rule".to_owned()),
        reason: "the script says so".to_owned(),
        remedy: Some("ask the author".to_owned()),
        retry: Retry::Never,
        session: SessionId::NONE,
    }
}

/// Counts requests whose hold was given up.
struct GivenUp<'a>(&'a AtomicUsize);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Gate for Script {
    fn wants_token(&self) -> bool {
        self.token.is_some()
    }

    fn attest(&self, presented: Option<Secret>) -> BoxFuture<'_, Result<Admitted, Denial>> {
        let known = self.token.is_none_or(|token| presented.is_some_and(|shown| shown.matches(token)));
        let login = Login { user: "svc".into(), password: self.logs_in.then(|| Secret::from("s3cret")), session: None };
        Box::pin(async move {
            let refused = Denial { fault: Fault::Identity, ..denial("the token") };
            known.then_some(Admitted { identity: "tester".into(), login }).ok_or(refused)
        })
    }

    fn judge(&self, command: &Command) -> BoxFuture<'_, Result<Verdict, Denial>> {
        self.judged.lock().push(command.clone());
        let answer = if self.deny.load(Ordering::SeqCst) { Answer::Deny } else { self.answer };
        Box::pin(async move {
            match answer {
                Answer::Permit(masked) => Ok(Verdict::Permit(Permitted::scripted(masked).into_permit(Recorded::at(1)))),
                Answer::Deny => Err(denial("a request")),
                Answer::Hold => Ok(Verdict::Hold(Held::scripted("oncall"))),
            }
        })
    }

    fn seal(&self, bytes: &[u8]) -> Option<String> {
        Some(format!("{:?}", Secret::from("a key").digest(bytes)?))
    }

    fn hold<'a>(&'a self, _: &'a Command, _: Held, _: Impact) -> BoxFuture<'a, Result<Permit, Denial>> {
        Box::pin(async {
            let counted = GivenUp(&self.dropped);
            self.approve.notified().await;
            std::mem::forget(counted);
            Ok(Permitted::scripted(&[]).into_permit(Recorded::at(2)))
        })
    }

    fn observe(&self, event: Observation) -> BoxFuture<'_, Result<(), Denial>> {
        let full = self.unrecordable.load(Ordering::SeqCst);
        if !full {
            self.observed.lock().push(event);
        }
        Box::pin(async move { if full { Err(denial("the record")) } else { Ok(()) } })
    }

    fn holds(&self, bytes: usize) -> Result<(), Denial> {
        if bytes > self.room { Err(denial("more memory")) } else { Ok(()) }
    }

    fn ended(&self) -> BoxFuture<'_, Denial> {
        Box::pin(async {
            self.end.notified().await;
            denial("this session")
        })
    }

    fn policies(&self) -> u64 {
        *self.policies.borrow()
    }

    fn replaced(&self, policies: u64) -> BoxFuture<'_, ()> {
        let mut seen = self.policies.subscribe();
        Box::pin(async move { drop(seen.wait_for(|now| *now != policies).await.unwrap()) })
    }

    fn publish_cancel(&self, _: Bytes, _: Arc<dyn Cancel>) {}

    fn cancel(&self, _: &[u8]) -> BoxFuture<'_, Result<Arc<dyn Cancel>, Denial>> {
        Box::pin(async { Err(denial("a cancel request")) })
    }
}

/// A target that says the same to whatever it is asked, and keeps all that reached it.
#[derive(Debug, Default)]
struct Fake {
    answer: Vec<u8>,
    closes: bool,
    reached: Arc<Mutex<Vec<u8>>>,
    dialled: AtomicUsize,
}

impl Dial for Fake {
    fn dial(&self) -> BoxFuture<'_, io::Result<tls::Stream>> {
        let (ours, theirs) = tokio::io::duplex(ROOM);
        self.dialled.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(serve_fake(theirs, self.answer.clone(), self.closes, Arc::clone(&self.reached)));
        Box::pin(async { Ok(tls::Stream::Memory(ours)) })
    }

    fn place(&self) -> String {
        "10.0.0.1:443".to_owned()
    }
}

async fn serve_fake(mut stream: DuplexStream, answer: Vec<u8>, closes: bool, reached: Arc<Mutex<Vec<u8>>>) {
    let (mut held, mut body) = (Vec::new(), None::<Left>);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // Whatever comes is kept; a request is over when its body is.
        while let Some(left) = &mut body {
            let count = match left {
                Left::Known(more) => {
                    let here = usize::try_from(*more).unwrap().min(held.len());
                    *more -= here as u64;
                    if *more == 0 {
                        *left = Left::Nothing;
                    } else if here == 0 {
                        break;
                    }
                    here
                }
                Left::Chunked(reader) => match reader.next(&held).unwrap() {
                    codec::Piece::Data(count) | codec::Piece::Skip(count) => count,
                    codec::Piece::More => break,
                    codec::Piece::End => {
                        *left = Left::Nothing;
                        0
                    }
                },
                Left::Nothing | Left::UntilClose => {
                    body = None;
                    if stream.write_all(&answer).await.is_err() || closes {
                        return;
                    }
                    0
                }
            };
            held.drain(..count);
        }
        if body.is_none()
            && let Some((head, used)) = codec::request(&held).unwrap()
        {
            held.drain(..used);
            body = Some(Left::from(head.length));
            continue;
        }
        match stream.read(&mut buffer).await {
            Ok(count @ 1..) => {
                reached.lock().extend_from_slice(&buffer[..count]);
                held.extend_from_slice(&buffer[..count]);
            }
            _ => return,
        }
    }
}

fn script(answer: Answer) -> Script {
    Script {
        answer,
        judged: Mutex::default(),
        observed: Mutex::default(),
        approve: Notify::new(),
        dropped: AtomicUsize::new(0),
        unrecordable: AtomicBool::new(false),
        deny: AtomicBool::new(false),
        room: usize::MAX,
        logs_in: true,
        token: None,
        end: Notify::new(),
        policies: tokio::sync::watch::Sender::new(0),
    }
}

fn conn(agent: tls::Stream, dial: Arc<dyn Dial>) -> Conn {
    let config = Config { routes: vec!["/v1/customers/{id}".into(), "/v1/{rest*}".into()], ..Config::default() };
    let names = ["api.test", "10.0.0.1"].iter().filter_map(|name| Name::parse(name)).collect();
    let masks = [
        "tag = 'card'\ndetect = ['card']\ntransform = { keep_last = 4 }",
        "tag = 'pii'\njson = ['api/v1/customers/{id}:$.email']",
    ];
    let masks = masks.map(|text| toml::from_str(text).unwrap());
    Conn {
        agent,
        target: Arc::new(Target {
            name: "api".into(),
            host: "api.test".into(),
            agent_tls: None,
            upstream_tls: tls::Upstream::default(),
            http: Some(Arc::new(config.settings(names).unwrap())),
        }),
        dial,
        rules: Arc::new(Rules::compile(&masks, None).unwrap()),
        session: SessionId::NONE,
        patience: Patience { handshake: Duration::from_secs(5), stalled: Duration::from_secs(5) },
    }
}

/// Agent, gate and target.
struct Scene {
    gate: Arc<Script>,
    fake: Arc<Fake>,
    agent: DuplexStream,
    served: tokio::task::JoinHandle<Result<Close, Failure>>,
}

impl Scene {
    fn new(answer: Answer, told: impl AsRef<[u8]>) -> Self {
        Self::with(answer, told, |_, _| {})
    }

    fn with(answer: Answer, told: impl AsRef<[u8]>, change: impl FnOnce(&mut Script, &mut Fake)) -> Self {
        let mut script = script(answer);
        let mut fake = Fake { answer: told.as_ref().to_vec(), ..Fake::default() };
        change(&mut script, &mut fake);
        let (gate, fake) = (Arc::new(script), Arc::new(fake));
        let (agent, ours) = tokio::io::duplex(ROOM);
        let conn = conn(tls::Stream::Memory(ours), Arc::clone(&fake) as Arc<dyn Dial>);
        let gate_of_task = Arc::clone(&gate);
        let served = tokio::spawn(async move { serve(conn, &*gate_of_task).await });
        Self { gate, fake, agent, served }
    }

    /// Sends, and reads one answer: its head, and its body as it is framed.
    async fn ask(&mut self, bytes: impl AsRef<[u8]>) -> (codec::ResponseHead, Vec<u8>) {
        self.agent.write_all(bytes.as_ref()).await.unwrap();
        self.answer().await
    }

    async fn answer(&mut self) -> (codec::ResponseHead, Vec<u8>) {
        let mut held = Vec::new();
        let mut buffer = vec![0; 4096];
        loop {
            if let Some((head, used)) = codec::response(&held).unwrap() {
                let mut body = held.split_off(used);
                let wanted = |body: &[u8]| match head.length {
                    codec::Length::Known(length) => body.len() as u64 >= length,
                    codec::Length::Chunked => body.ends_with(b"0\r\n\r\n"),
                    codec::Length::UntilClose => true,
                };
                while !wanted(&body) {
                    let count = self.read(&mut buffer).await;
                    assert!(count > 0, "cut off: {:?}", String::from_utf8_lossy(&body));
                    body.extend_from_slice(&buffer[..count]);
                }
                return (head, body);
            }
            let count = self.read(&mut buffer).await;
            assert!(count > 0, "closed: {:?}", String::from_utf8_lossy(&held));
            held.extend_from_slice(&buffer[..count]);
        }
    }

    async fn read(&mut self, buffer: &mut [u8]) -> usize {
        timeout(Duration::from_secs(5), self.agent.read(buffer)).await.expect("no answer in time").unwrap()
    }

    fn reached(&self) -> String {
        String::from_utf8_lossy(&self.fake.reached.lock()).into_owned()
    }

    fn recorded(&self) -> String {
        let observed = self.gate.observed.lock();
        observed
            .iter()
            .map(|event| match event {
                Observation::Data(_, bytes) => String::from_utf8_lossy(bytes).into_owned(),
                other => format!("{other:?}"),
            })
            .collect()
    }

    fn actions(&self) -> Vec<String> {
        let judged = self.gate.judged.lock();
        let actions = judged.iter().flat_map(|command| command.actions.iter().cloned().collect::<Vec<_>>());
        actions.map(|action| format!("{} {}", action.name, action.resource.id())).collect()
    }
}

#[tokio::test]
async fn a_request_is_judged_and_goes_with_our_credential() {
    let mut scene = Scene::new(Answer::Permit(&[]), OK);
    let asked = "GET /v1/customers/7?x=1 HTTP/1.1\r\nHost: api.test\r\nAuthorization: Bearer placeholder\r\n\r\n";
    for _ in 0..2 {
        let (head, body) = scene.ask(asked).await;
        assert_eq!((head.status, &body[..]), (200, &b"hi"[..]));
    }
    assert_eq!(scene.actions(), ["http:GET api/v1/customers/{id}", "http:GET api/v1/customers/{id}"]);
    let reached = scene.reached();
    assert!(reached.contains("authorization: Bearer s3cret") && !reached.contains("placeholder"), "{reached}");
    assert_eq!(scene.fake.dialled.load(Ordering::SeqCst), 1, "the connection is kept");
    let recorded = scene.recorded();
    assert!(recorded.contains("GET /v1/customers/7?x=1") && recorded.contains("hi"), "{recorded}");
    assert!(!recorded.contains("s3cret") && !recorded.contains("placeholder"), "{recorded}");
    let http = scene.gate.judged.lock()[0].facts.http.clone().unwrap();
    assert_eq!((&*http.host, &*http.path, http.query.contains("x=1")), ("api.test", "/v1/customers/7", true));
    drop(scene.agent);
    assert_eq!(scene.served.await.unwrap().unwrap(), Close::Agent);
}

#[tokio::test]
async fn a_refusal_is_native_and_the_connection_stays_in_step() {
    let mut scene = Scene::new(Answer::Deny, OK);
    for body in ["", "{\"a\": 1}", "GET /smuggled HTTP/1.1\r\nHost: api.test\r\n\r\n"] {
        let length = body.len();
        let (head, told) = scene
            .ask(format!("POST /v1/customers/7 HTTP/1.1\r\nHost: api.test\r\nContent-Length: {length}\r\n\r\n{body}"))
            .await;
        assert_eq!((head.status, head.fields.text("connection")), (403, None));
        let document: serde_json::Value = serde_json::from_slice(&told).unwrap();
        assert_eq!((&document["rule"], &document["retry"]), (&"scripted-rule".into(), &"never".into()));
    }
    assert_eq!(scene.gate.judged.lock().len(), 3, "what stands in a body is no request");
    scene.agent.write_all(b"HEAD /v1/x HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut told = Vec::new();
    timeout(Duration::from_secs(5), scene.agent.read_to_end(&mut told)).await.unwrap().unwrap();
    let (head, used) = codec::response(&told).unwrap().unwrap();
    assert_eq!((head.status, used), (403, told.len()), "an answer to HEAD has no body");
    assert_eq!((scene.reached().as_str(), scene.fake.dialled.load(Ordering::SeqCst)), ("", 0));
}

/// Whatever two readers could read in two ways ends here: nothing of it reaches the target, nor does what follows it.
#[tokio::test]
async fn smugglers_are_cut_off() {
    let after = "GET /v1/behind HTTP/1.1\r\nHost: api.test\r\n\r\n";
    for (asked, status) in [
        ("POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", 400),
        ("GET / HTTP/1.1\r\nHost: api.test\r\nHost: other.test\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: api.test\r\nX: a\r\n b\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: api.test\n\n", 400),
        ("GET / HTTP/1.0\r\nHost: api.test\r\n\r\n", 505),
        ("POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n4;x\r\nabcd\r\n0\r\n\r\n", 403),
    ] {
        let mut scene = Scene::new(Answer::Permit(&[]), OK);
        let (head, _) = scene.ask(format!("{asked}{after}")).await;
        assert_eq!((head.status, head.fields.text("connection")), (status, Some("close")), "{asked:?}");
        let mut rest = Vec::new();
        let _ended = timeout(Duration::from_secs(5), scene.agent.read_to_end(&mut rest)).await.unwrap();
        assert!(!String::from_utf8_lossy(&rest).contains("200 OK"), "{asked:?}");
        assert_eq!((scene.reached().as_str(), scene.gate.judged.lock().len()), ("", 0), "{asked:?}");
    }
}

#[tokio::test]
async fn who_means_another_target_or_another_protocol_is_refused() {
    for (line, fields) in [
        ("GET /v1/x", "Host: other.test"),
        ("GET /v1/x", "Host: api.test:8443"),
        ("GET /v1/x", "Host: api.test.evil.test"),
        ("GET http://api.test/v1/x", "Host: api.test"),
        ("GET http://other.test/v1/x", "Host: api.test"),
        ("OPTIONS *", "Host: api.test"),
        ("CONNECT api.test:443", "Host: api.test:443"),
        ("TRACE /v1/x", "Host: api.test"),
        ("GET /v1/x", "Host: api.test\r\nUpgrade: h2c"),
        ("GET /v1/../admin", "Host: api.test"),
        ("GET /v1/%2e%2e/admin", "Host: api.test"),
        ("GET /v1//admin", "Host: api.test"),
        ("GET /v1/a;b", "Host: api.test"),
        ("GET /v1/x", "Host: api.test\r\nExpect: something"),
        // What the target would not get, though it was judged.
        ("GET /v1/x", "Host: api.test\r\nX-Tenant: mine\r\nConnection: keep-alive, X-Tenant"),
        ("GET /v1/x", "Host: api.test\r\nConnection: close, content-type"),
        ("GET /v1/x", "Host: api.test\r\nConnection: host"),
    ] {
        let mut scene = Scene::new(Answer::Permit(&[]), OK);
        let (head, _) = scene.ask(format!("{line} HTTP/1.1\r\n{fields}\r\n\r\n")).await;
        assert_eq!((head.status, scene.reached().as_str()), (403, ""), "{line} {fields}");
        assert_eq!(scene.gate.judged.lock().len(), 0, "{line}");
    }
    let mut scene = Scene::new(Answer::Permit(&[]), OK);
    for host in ["api.test", "API.test.", "api.test:443", "10.0.0.1"] {
        assert_eq!(scene.ask(format!("GET /v1/x HTTP/1.1\r\nHost: {host}\r\n\r\n")).await.0.status, 200, "{host}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_opaque() {
    for (fields, body, opaque) in [
        ("Content-Type: application/json", "{\"a\":1}", false),
        ("Content-Type: application/json", "{\"a\":1,\"a\":2}", true),
        ("Content-Type: application/json\r\nContent-Encoding: gzip", "xx", true),
        ("Content-Type: text/csv", "a,b", true),
        ("X-HTTP-Method-Override: DELETE", "", true),
        ("X-Original-URL: /admin", "", true),
        ("X-Forwarded-Host: other.test", "", true),
        ("X_Original_URL: /admin", "", true),
        ("X_HTTP_Method_Override: DELETE", "", true),
        ("X.HTTP.Method-Override: DELETE", "", true),
        ("X-Middleware-Subrequest: middleware", "", true),
        ("X-Request-Id: 7", "", false),
        ("Content-Type: application/json", "{\"access_token\":\"x\"}", false),
        ("Content-Type: application/x-www-form-urlencoded", "a=1&access_token=x", true),
        ("Content-Type: application/x-www-form-urlencoded", "_Method%5B%5D=DELETE", true),
        ("Content-Type: application/x-www-form-urlencoded", "_method=DELETE", true),
        ("Content-Type: application/x-www-form-urlencoded", "a=1", false),
        ("Content-Type: application/x-www-form-urlencoded", "currency=EUR&currency=USD", true),
    ] {
        let mut scene = Scene::new(Answer::Deny, OK);
        let length = body.len();
        scene
            .ask(format!("POST /v1/x HTTP/1.1\r\nHost: api.test\r\n{fields}\r\nContent-Length: {length}\r\n\r\n{body}"))
            .await;
        let actions = scene.actions();
        assert_eq!(
            actions.iter().any(|action| action.starts_with("http:opaque")),
            opaque,
            "{fields} {body}: {actions:?}"
        );
    }
    let mut scene = Scene::new(Answer::Deny, OK);
    scene.ask("PURGE /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    scene.ask("GET /elsewhere?_method=PUT HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    assert_eq!(scene.actions(), ["http:opaque api/v1/{rest*}", "http:GET api", "http:opaque api"]);
    // Which of the two counts, the query's or the body's?
    for (query, opaque) in [("?amount=9", false), ("?currency=USD", true)] {
        let mut scene = Scene::new(Answer::Deny, OK);
        let body = "{\"currency\": \"EUR\"}";
        let fields = format!("Content-Type: application/json\r\nContent-Length: {}", body.len());
        scene.ask(format!("POST /v1/x{query} HTTP/1.1\r\nHost: api.test\r\n{fields}\r\n\r\n{body}")).await;
        assert_eq!(scene.actions().len() > 1, opaque, "{query}");
    }
}

#[tokio::test]
async fn long_bodies_are_opaque_and_pass_as_they_are() {
    let long = "x".repeat(BODY_LIMIT + 70_000);
    let chunked: String = long
        .as_bytes()
        .chunks(30_000)
        .map(|part| format!("{:x}\r\n{}\r\n", part.len(), "x".repeat(part.len())))
        .collect();
    for (framing, body) in [
        (format!("Content-Length: {}", long.len()), long.clone()),
        ("Transfer-Encoding: chunked".to_owned(), format!("{chunked}0\r\n\r\n")),
    ] {
        let mut scene = Scene::new(Answer::Permit(&[]), OK);
        let asked = format!("POST /v1/x HTTP/1.1\r\nHost: api.test\r\n{framing}\r\n\r\n{body}");
        let (head, _) = scene.ask(asked).await;
        assert_eq!(head.status, 200);
        assert_eq!(scene.actions(), ["http:POST api/v1/{rest*}", "http:opaque api/v1/{rest*}"]);
        let reached = scene.reached();
        assert_eq!(
            reached.matches('x').count() - reached.split("\r\n\r\n").next().unwrap().matches('x').count(),
            long.len()
        );
        assert!(scene.recorded().matches('x').count() >= long.len());

        // Denied, nothing of it is read on, and nothing is taken for the next request.
        let mut scene = Scene::new(Answer::Deny, OK);
        let (head, _) = scene
            .ask(
                format!("POST /v1/x HTTP/1.1\r\nHost: api.test\r\n{framing}\r\n\r\n")
                    .into_bytes()
                    .into_iter()
                    .chain(body.bytes().take(if framing.starts_with('C') { 0 } else { BODY_LIMIT + 65_000 }))
                    .collect::<Vec<_>>(),
            )
            .await;
        assert_eq!((head.status, head.fields.text("connection"), scene.reached().as_str()), (403, Some("close"), ""));
    }
}

#[tokio::test]
async fn answers_that_two_readers_end_elsewhere_do_not_pass() {
    for told in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
        "HTTP/1.1 200 OK\r\nX: a\n\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\nhi",
        "no http\r\n\r\n",
        &"HTTP/1.1 100 Continue\r\n\r\n".repeat(17),
    ] {
        let mut scene = Scene::new(Answer::Permit(&[]), told);
        let (head, body) = scene.ask("GET /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
        assert_eq!(head.status, 502, "{told:?}");
        assert!(String::from_utf8_lossy(&body).contains("\"retry\":\"later\""));
    }
    // What follows an answer is no answer to anything.
    let mut scene = Scene::new(Answer::Permit(&[]), format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nplante"));
    for _ in 0..2 {
        let (_, body) = scene.ask("GET /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
        assert_eq!(body, b"hi");
    }
    assert_eq!(scene.fake.dialled.load(Ordering::SeqCst), 2);
}

/// The credential is never the agent's, also where the target says what it was sent.
#[tokio::test]
async fn what_a_target_echoes_of_the_credential_is_blotted_out() {
    let body = "{\"authorization\": \"Bearer s3cret\", \"basic\": \"c3ZjOnMzY3JldA==\", \"hex\": \"733363726574\"}";
    let length = format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let chunks: String = body
        .as_bytes()
        .chunks(5)
        .map(|part| format!("{:x}\r\n{}\r\n", part.len(), String::from_utf8_lossy(part)))
        .collect();
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
    for framed in [length, chunked] {
        let told =
            format!("HTTP/1.1 200 s3cret\r\nX-Echo: Bearer s3cret\r\nContent-Type: application/json\r\n{framed}");
        for masks in [&[][..], &["card"]] {
            let mut scene = Scene::new(Answer::Permit(masks), &told);
            let asked = "GET /v1/x HTTP/1.1\r\nHost: api.test\r\nAccept-Encoding: gzip\r\n\r\n";
            let (head, shown) = scene.ask(asked).await;
            let shown = String::from_utf8(shown).unwrap();
            for text in ["s3cret", "MzY3Jld", "733363726574"] {
                assert!(
                    !shown.replace("\r\n", "").contains(text) && !scene.recorded().contains(text),
                    "{text}: {shown}"
                );
            }
            assert_eq!((head.fields.text("x-echo"), &*head.reason), (Some("Bearer ******"), "******"));
            assert!(scene.reached().contains("accept-encoding: gzip\r\n"));
        }
    }
    // What says that it is compressed, and is not, does not pass.
    let told = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi";
    let mut scene = Scene::new(Answer::Permit(&[]), told);
    assert_eq!(scene.ask("GET /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n").await.0.status, 502);
}

const CARD: &str = "4111111111111111";

#[tokio::test]
async fn what_is_masked_is_masked_wherever_it_stands() {
    for (kind, body) in [
        ("application/json", format!("{{\"a\": [\"paid with {CARD}\", {CARD}], \"n\": 1}}")),
        ("application/problem+json", format!("{{\"\\u0061\": \"4111\\u0031111111111\u{0031}11\", \"b\": \"{CARD}\"}}")),
        ("text/plain; charset=utf-8", format!("card {CARD}.")),
    ] {
        let told = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nETag: \"1\"\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut scene = Scene::new(Answer::Permit(&["card"]), told);
        let asked = "GET /v1/x HTTP/1.1\r\nHost: api.test\r\nAccept-Encoding: gzip, br\r\nRange: bytes=0-3\r\n\r\n";
        let (head, shown) = scene.ask(asked).await;
        let shown = String::from_utf8(shown).unwrap();
        assert!(!shown.contains(CARD) && shown.contains("1111"), "{kind}: {shown}");
        assert_eq!((head.length, head.fields.get("etag")), (codec::Length::Known(shown.len() as u64), None));
        assert!(scene.reached().contains("accept-encoding: gzip, br") && !scene.reached().contains("range:"));
        let recorded = scene.recorded();
        assert!(!recorded.contains(CARD) && recorded.contains("Masked"), "{recorded}");
    }
}

#[tokio::test]
async fn what_would_have_to_be_masked_and_cannot_be_looked_into_does_not_pass() {
    let long = format!("<a>{}</a>", "x".repeat(crate::protocol::http::MASK_LIMIT));
    for (fields, body) in [
        ("Content-Type: application/json\r\nContent-Encoding: gzip", CARD),
        ("Content-Type: application/octet-stream", CARD),
        ("Content-Type: text/plain; charset=utf-16", CARD),
        ("X: y", CARD),
        ("Content-Type: application/json", "{\"a\": no"),
        ("Content-Type: application/xml", &long),
    ] {
        let told = format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let mut scene = Scene::new(Answer::Permit(&["card"]), told);
        let (head, shown) = scene.ask("GET /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
        assert_eq!(head.status, 502, "{fields}");
        // The request is on record, and so is its answer: who replays it pairs them.
        assert!(scene.recorded().contains("HTTP/1.1 502 Bad Gateway"), "{fields}");
        assert!(!String::from_utf8_lossy(&shown).contains(CARD) && !scene.recorded().contains(CARD));
    }
    // What is said about what would be masked says what it is.
    let said = format!("Content-Length: {}\r\nETag: \"1\"\r\nDigest: sha-256=x\r\nRepr-Digest: x=:y:", CARD.len());
    let mut scene = Scene::new(Answer::Permit(&["card"]), format!("HTTP/1.1 200 OK\r\n{said}\r\n\r\n"));
    let asked = "HEAD /v1/x HTTP/1.1\r\nHost: api.test\r\nIf-None-Match: \"1\"\r\nIf-Match: \"2\"\r\n\r\n";
    let (head, _) = scene.ask(asked).await;
    assert_eq!((head.status, head.length), (200, codec::Length::UntilClose));
    assert!(["etag", "digest", "repr-digest"].iter().all(|name| head.fields.get(name).is_none()), "{head:?}");
    assert!(!scene.reached().contains("if-"), "{}", scene.reached());
}

#[tokio::test]
async fn what_stands_at_a_path_of_the_route_is_masked_in_any_coding_and_framing() {
    let body = "{\"email\": \"ada@x.org\", \"name\": \"Ada\"}";
    let masked = "{\"email\": \"[masked:pii]\", \"name\": \"Ada\"}";
    let compressed = zstd::encode_all(body.as_bytes(), 1).unwrap();
    let known = |fields: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{fields}Content-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let pieces: String = body
        .as_bytes()
        .chunks(3)
        .map(|part| format!("{:x}\r\n{}\r\n", part.len(), String::from_utf8_lossy(part)))
        .collect();
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{pieces}0\r\n\r\n"
    );
    for told in [known("", body.as_bytes()), known("Content-Encoding: zstd\r\n", &compressed), chunked.into_bytes()] {
        let mut scene = Scene::new(Answer::Permit(&["pii"]), &told);
        let (head, shown) =
            scene.ask("GET /v1/customers/7 HTTP/1.1\r\nHost: api.test\r\nAccept-Encoding: zstd\r\n\r\n").await;
        let shown = String::from_utf8(shown).unwrap();
        match head.length {
            codec::Length::Known(_) => assert_eq!(shown, masked),
            _ => assert!(shown.contains("[masked:pii]") && shown.ends_with("0\r\n\r\n"), "{shown}"),
        }
        assert!(!shown.contains("ada") && head.fields.get("content-encoding").is_none());
        let recorded = scene.recorded();
        assert!(!recorded.contains("ada@") && recorded.contains("Masked { cells: [(\"$.email\", 1)] }"), "{recorded}");
        // On another route it is none of the path's.
        let (_, shown) = scene.ask("GET /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
        assert!(!String::from_utf8_lossy(&shown).contains("[masked"));
    }
    // What is no JSON cannot be masked by path; and a `HEAD` does not say how long it would have been.
    let told = "HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nContent-Length: 9\r\n\r\nada@x.org";
    let mut scene = Scene::new(Answer::Permit(&["pii"]), told);
    let (head, shown) = scene.ask("GET /v1/customers/7 HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    assert!(head.status == 502 && String::from_utf8_lossy(&shown).contains("is no JSON"));
    let mut scene = Scene::new(Answer::Permit(&["pii"]), told.strip_suffix("ada@x.org").unwrap());
    let (head, _) = scene.ask("HEAD /v1/customers/7 HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    assert_eq!((head.status, head.fields.get("content-length")), (200, None));
}

#[tokio::test]
async fn a_held_request_waits_and_one_whose_agent_left_does_not_run() {
    let mut scene = Scene::new(Answer::Hold, OK);
    scene.gate.approve.notify_one();
    assert_eq!(scene.ask("POST /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n").await.0.status, 200);

    let mut scene = Scene::new(Answer::Hold, OK);
    scene.agent.write_all(b"POST /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n").await.unwrap();
    while scene.gate.judged.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    drop(scene.agent);
    assert!(matches!(scene.served.await.unwrap(), Err(Failure::Agent(_))));
    assert_eq!((scene.gate.dropped.load(Ordering::SeqCst), scene.fake.dialled.load(Ordering::SeqCst)), (1, 0));
}

#[tokio::test]
async fn what_is_not_recorded_is_not_forwarded() {
    let scene = Scene::with(Answer::Permit(&[]), OK, |script, _| *script.unrecordable.get_mut() = true);
    let Scene { mut agent, served, fake, .. } = scene;
    agent.write_all(b"POST /v1/x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
    assert!(served.await.unwrap().is_err());
    assert_eq!(fake.reached.lock().len(), 0);
}

#[tokio::test]
async fn who_holds_too_much_and_who_is_unknown_is_refused() {
    let scene = Scene::with(Answer::Permit(&[]), OK, |script, _| script.room = 10);
    let Scene { mut agent, served, fake, .. } = scene;
    agent.write_all(b"POST /v1/x HTTP/1.1\r\nHost: api.test\r\nContent-Length: 11\r\n\r\nhello world").await.unwrap();
    assert!(matches!(served.await.unwrap(), Err(Failure::Overfull(_))));
    assert_eq!(fake.reached.lock().len(), 0);

    for (token, status) in [("right", 200), ("wrong", 401)] {
        let mut scene = Scene::with(Answer::Permit(&[]), OK, |script, _| script.token = Some(b"right"));
        let asked = format!("GET /v1/x HTTP/1.1\r\nHost: api.test\r\nAuthorization: Bearer {token}\r\n\r\n");
        assert_eq!(scene.ask(asked).await.0.status, status);
        assert!(!scene.reached().contains("right"));
    }
}

#[tokio::test]
async fn a_session_that_ends_says_so_between_answers() {
    let mut scene = Scene::new(Answer::Hold, OK);
    scene.agent.write_all(b"POST /v1/x HTTP/1.1\r\nHost: api.test\r\n\r\n").await.unwrap();
    while scene.gate.judged.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    scene.gate.end.notify_one();
    let (head, _) = scene.answer().await;
    assert_eq!((head.status, head.fields.text("connection")), (403, Some("close")));
    assert_eq!(scene.served.await.unwrap().unwrap(), Close::Ended);
}

#[tokio::test]
async fn a_body_that_is_waited_for_is_asked_for() {
    let mut scene = Scene::new(Answer::Permit(&[]), OK);
    let asked = "POST /v1/x HTTP/1.1\r\nHost: api.test\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let (head, _) = scene.ask(asked).await;
    assert_eq!(head.status, 100);
    let (head, _) = scene.ask("hi").await;
    assert_eq!(head.status, 200);
    assert!(!scene.reached().contains("expect"));
}

#[test]
fn a_text_is_understood_as_a_request() {
    let config = Config { routes: vec!["/v1/{id}".into()], ..Config::default() };
    let question = |text: &'static str| Question {
        text,
        database: None,
        target: Arc::new(Target {
            name: "api".into(),
            host: "api.test".into(),
            agent_tls: None,
            upstream_tls: tls::Upstream::default(),
            http: Some(Arc::new(config.settings(Vec::new()).unwrap())),
        }),
        reach: Box::pin(async { panic!("nothing is asked") }),
        rules: Arc::new(Rules::default()),
    };
    let command = understand(&question("POST /v1/7\nContent-Type: application/json\n\n{\"a\":1}")).unwrap();
    assert_eq!(command.actions.len(), 1);
    let http = command.facts.http.clone().unwrap();
    assert!(http.fields.contains("a=1") && http.host == "api.test");
    let command = understand(&question("MESSAGE /v1/7\n\n{\"do\":\"list\"}")).unwrap();
    let names: Vec<String> = command.actions.iter().map(|action| action.name.to_string()).collect();
    assert_eq!(
        (names, command.facts.http.clone().unwrap().fields.contains("do=list")),
        (vec!["http:message".into()], true)
    );
    assert!(understand(&question("POST /v1/../7")).is_err());
    assert!(understand(&question("SELECT 1")).is_err());
}
