//! Calls whose messages are known: what is judged is what passes, and nothing else does.

use std::io::Write as _;

use super::*;
use crate::protocol::http::Settings;
use crate::protocol::http::grpc::Schema;
use crate::protocol::http::grpc::frames;
use crate::protocol::http::grpc::wire::{self, Payload};

const SET: &[u8] = include_bytes!("../../../grpc/testdata/shop.protoset");

/// A target whose methods are known.
async fn scene(answer: Answer, target: &Arc<Two>) -> Scene {
    let dial = Arc::clone(target) as Arc<dyn Dial>;
    let config = Config { routes: vec!["/shop.Orders/{method}".into()], ..Config::default() };
    let settings = config.settings(vec![Name::parse("api.test").unwrap()]).unwrap();
    let settings = Settings { calls: Some(Arc::new(Schema::parse(SET).unwrap())), ..settings };
    let target = Target {
        name: "api".into(),
        host: "api.test".into(),
        agent_tls: None,
        upstream_tls: tls::Upstream::default(),
        http: Some(Arc::new(settings)),
    };
    let masks = [
        "tag = 'card'\ndetect = ['card']\ntransform = { keep_last = 4 }",
        "tag = 'nick'\njson = ['api/shop.Orders/{method}:$..nickname']",
    ];
    let rules = Arc::new(Rules::compile(&masks.map(|text| toml::from_str(text).unwrap()), None).unwrap());
    let known = |agent| Conn { target: Arc::new(target), rules, ..conn(agent, dial) };
    Scene::of(Arc::new(script(answer)), known, true).await
}

/// `Line { text, from: Customer { nickname } }`, behind what stands before a message.
fn line(text: &str, nickname: &str) -> Vec<u8> {
    let (mut from, mut line, mut out) = (Vec::new(), Vec::new(), Vec::new());
    wire::put(&mut from, 5, Payload::Bytes(nickname.as_bytes()));
    wire::put(&mut line, 1, Payload::Bytes(text.as_bytes()));
    wire::put(&mut line, 2, Payload::Bytes(&from));
    frames::put(&mut out, 0, &line);
    out
}

fn order(currency: &str) -> Vec<u8> {
    let (mut order, mut out) = (Vec::new(), Vec::new());
    wire::put(&mut order, 1, Payload::Bytes(currency.as_bytes()));
    frames::put(&mut out, 0, &order);
    out
}

fn judged(scene: &Scene) -> Vec<(Vec<String>, Vec<String>)> {
    let told = |command: &Command| {
        let fields = command.facts.http.as_ref().unwrap().fields.iter().cloned().collect();
        (command.actions.iter().map(|action| action.name.to_string()).collect(), fields)
    };
    scene.gate.judged.lock().iter().map(told).collect()
}

/// A call that goes on, and what is heard of it.
struct Talk {
    sending: h2::SendStream<Bytes>,
    body: h2::RecvStream,
}

impl Talk {
    /// `Chat`, whose target has answered the first message.
    async fn begin(scene: &Scene, first: Vec<u8>) -> Self {
        let mut agent = scene.agent.clone().ready().await.unwrap();
        let (response, mut sending) = agent.send_request(post("/shop.Orders/Chat", "application/grpc"), false).unwrap();
        sending.send_data(first.into(), false).unwrap();
        let body = timeout(Duration::from_secs(5), response).await.unwrap().unwrap().into_body();
        Self { sending, body }
    }

    fn say(&mut self, bytes: impl Into<Bytes>, ends: bool) {
        self.sending.send_data(bytes.into(), ends).unwrap();
    }

    /// So many bytes.
    async fn hear(&mut self, count: usize) -> Vec<u8> {
        let mut heard = Vec::new();
        while heard.len() < count {
            let piece = timeout(Duration::from_secs(5), self.body.data()).await.unwrap().unwrap().unwrap();
            self.body.flow_control().release_capacity(piece.len()).unwrap();
            heard.extend_from_slice(&piece);
        }
        heard
    }

    async fn ends(mut self) -> HeaderMap {
        while let Some(piece) = timeout(Duration::from_secs(5), self.body.data()).await.unwrap() {
            assert!(piece.unwrap().is_empty());
        }
        timeout(Duration::from_secs(5), self.body.trailers()).await.unwrap().unwrap().unwrap()
    }
}

fn status(trailers: &HeaderMap) -> (&str, &str) {
    let text = |name: &str| trailers.get(name).map_or("", |value| value.to_str().unwrap());
    (text("grpc-status"), text("grpc-message"))
}

#[tokio::test]
async fn a_call_is_judged_with_its_message() {
    let target = two(Behaviour::Grpc);
    let scene = scene(Answer::Permit(&[]), &target).await;
    let place = || post("/shop.Orders/Place", "application/grpc");
    let (_, body, trailers) = scene.ask(place(), &order("EUR")).await.unwrap();
    assert_eq!((body, status(&trailers.unwrap()).0), (order("EUR"), "0"));
    let (actions, fields) = judged(&scene).remove(0);
    assert_eq!(actions, ["http:POST"]);
    assert!(fields.contains(&"currency=EUR".to_owned()) && fields.contains(&"state=NEW".to_owned()), "{fields:?}");
    {
        let judged = scene.gate.judged.lock();
        let http = judged[0].facts.http.clone().unwrap();
        assert_eq!(http.grpc.clone().unwrap().method, "Place");
        let shown: Vec<_> =
            judged[0].parameters.iter().filter(|one| !one.binary).filter_map(|one| one.value.clone()).collect();
        assert!(String::from_utf8_lossy(shown.last().unwrap()).starts_with("currency=EUR\n"), "{shown:?}");
    }

    // What is compressed is undone before it is judged, and what was judged passes.
    target.bodies.lock().clear();
    let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    zip.write_all(&order("USD")[5..]).unwrap();
    let mut zipped = Vec::new();
    frames::put(&mut zipped, 1, &zip.finish().unwrap());
    let mut compressed = place();
    compressed.headers_mut().insert("grpc-encoding", "gzip".parse().unwrap());
    scene.ask(compressed, &zipped).await.unwrap();
    assert_eq!(*target.bodies.lock(), order("USD"));
    let (actions, fields) = judged(&scene).remove(1);
    assert!(actions == ["http:POST"] && fields.contains(&"currency=USD".to_owned()), "{fields:?}");

    // What cannot be understood is opaque as well, and so is a second message.
    for (body, kind) in [
        (zipped, "application/grpc"),
        ([order("EUR"), order("USD")].concat(), "application/grpc"),
        ([order("EUR"), vec![0]].concat(), "application/grpc"),
        (b"\0\0\0\0\x02\x98\x06".to_vec(), "application/grpc"),
        (order("EUR"), "application/grpc+json"),
        (order("EUR"), "application/grpc;json"),
        (order("EUR"), "application/grpc-web+json"),
    ] {
        scene.gate.judged.lock().clear();
        // The target says it again, which is no answer either.
        let _echo = scene.ask(post("/shop.Orders/Place", kind), &body).await;
        assert_eq!(
            judged(&scene),
            [(vec!["http:POST".to_owned(), "http:opaque".to_owned()], vec![])],
            "{kind} {body:?}"
        );
    }
    scene.gate.judged.lock().clear();
    scene.ask(post("/shop.Orders/Unknown", "application/grpc"), &order("EUR")).await.unwrap();
    assert_eq!(judged(&scene)[0].0, ["http:POST", "http:opaque"]);
}

#[tokio::test]
async fn a_call_that_is_denied_never_arrives() {
    for kind in ["application/grpc", "application/grpc-web+proto", "application/grpc-web-text"] {
        let target = two(Behaviour::Grpc);
        let scene = scene(Answer::Deny, &target).await;
        let (head, body, _) = scene.ask(post("/shop.Orders/Place", kind), &order("EUR")).await.unwrap();
        assert_eq!((head.status().as_u16(), status(head.headers()).0, body.len()), (200, "7", 0), "{kind}");
        assert!(status(head.headers()).1.contains("scripted-rule"), "{kind}");
        assert!(head.headers()["content-type"].to_str().unwrap().starts_with(kind), "{kind}");
        assert_eq!((target.heads.lock().len(), target.bodies.lock().len()), (0, 0), "{kind}");
    }
}

#[tokio::test]
async fn messages_of_a_stream_are_judged_one_by_one() {
    let target = two(Behaviour::Grpc);
    let scene = scene(Answer::Permit(&[]), &target).await;
    let mut talk = Talk::begin(&scene, line("one", "x")).await;
    assert_eq!(talk.hear(line("one", "x").len()).await, line("one", "x"));
    // In pieces, and two at once.
    let all = [line("two", "x"), line("three", "x")].concat();
    all.chunks(3).for_each(|part| talk.say(part.to_vec(), false));
    assert_eq!(talk.hear(all.len()).await, all);
    let found = judged(&scene);
    assert_eq!(found[0], (vec!["http:POST".to_owned()], vec![]));
    for (told, text) in found[1..].iter().zip(["one", "two", "three"]) {
        assert_eq!(told.0, ["http:message"]);
        assert!(told.1.contains(&format!("text={text}")), "{told:?}");
    }
    // What is not understood is opaque as well.
    talk.say(&b"\0\0\0\0\x02\x98\x06"[..], false);
    talk.hear(7).await;
    assert_eq!(judged(&scene)[4].0, ["http:message", "http:opaque"]);

    // The answer has begun: the status is the last that is said, and the message has not arrived.
    scene.gate.deny.store(true, Ordering::SeqCst);
    talk.say(line("drop", "d"), false);
    let trailers = talk.ends().await;
    assert_eq!(status(&trailers).0, "7");
    assert!(status(&trailers).1.contains("scripted-rule"), "{trailers:?}");
    assert!(!target.bodies.lock().windows(4).any(|part| part == b"drop"));
    assert!(scene.recorded().iter().any(|event| matches!(event, Observation::Denied(_))));
    let recorded: Vec<u8> = scene.recorded().iter().flat_map(data).collect();
    assert!(recorded.windows(5).any(|part| part == b"three") && !recorded.windows(4).any(|part| part == b"drop"));
    // Others go on.
    scene.gate.deny.store(false, Ordering::SeqCst);
    let (_, _, trailers) = scene.ask(post("/shop.Orders/Chat", "application/grpc"), &line("x", "y")).await.unwrap();
    assert_eq!(status(&trailers.unwrap()).0, "0");
}

#[tokio::test]
async fn what_is_no_message_ends_its_stream() {
    for (bytes, why) in [
        (&b"\0\x7f\0\0\0"[..], "more than are looked into"),
        (b"\0\0\0\0\x05ab", "ends within a message"),
        (b"\0\0", "ends within a message"),
    ] {
        let target = two(Behaviour::Grpc);
        let scene = scene(Answer::Permit(&[]), &target).await;
        let mut talk = Talk::begin(&scene, line("one", "x")).await;
        talk.hear(line("one", "x").len()).await;
        talk.say(bytes, true);
        let trailers = talk.ends().await;
        assert_eq!(status(&trailers).0, "7");
        assert!(status(&trailers).1.contains(why), "{trailers:?}");
        assert_eq!(*target.bodies.lock(), line("one", "x"));
    }
}

#[tokio::test]
async fn a_message_that_is_held_goes_with_its_call() {
    let target = two(Behaviour::Grpc);
    let scene = scene(Answer::Hold, &target).await;
    let mut agent = scene.agent.clone().ready().await.unwrap();
    let (response, mut sending) = agent.send_request(post("/shop.Orders/Chat", "application/grpc"), false).unwrap();
    // The call itself is approved; its message waits, and its agent does not.
    scene.gate.approve.notify_one();
    sending.send_data(line("one", "x").into(), false).unwrap();
    while scene.gate.judged.lock().len() < 2 {
        tokio::task::yield_now().await;
    }
    sending.send_reset(h2::Reason::CANCEL);
    drop(response);
    while scene.gate.dropped.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(target.bodies.lock().len(), 0);
}

#[tokio::test]
async fn answers_are_masked_message_by_message() {
    let target = two(Behaviour::Grpc);
    let scene = scene(Answer::Permit(&["nick", "card"]), &target).await;
    let mut talk = Talk::begin(&scene, line("hello", "secret")).await;
    let hidden = line("hello", "[masked:nick]");
    assert_eq!(talk.hear(hidden.len()).await, hidden);
    talk.say(line(CARD, ""), false);
    let told = talk.hear(line(CARD, "[masked:nick]").len()).await;
    assert!(!String::from_utf8_lossy(&told).contains(CARD) && told.ends_with(b"[masked:nick]"), "{told:?}");
    assert_eq!(target.heads.lock()[0].headers()["grpc-accept-encoding"], "identity");
    talk.say(Bytes::new(), true);
    // What a status says in words is nothing that is masked.
    assert_eq!(status(&talk.ends().await), ("0", ""));
    let masked = |event: &Observation| matches!(event, Observation::Masked { cells } if cells[0].0 == "$..nickname");
    assert!(scene.recorded().iter().any(masked));

    // The same for gRPC-web, in both of its forms.
    let web = post("/shop.Orders/Chat", "application/grpc-web+proto");
    let (_, body, _) = scene.ask(web, &line("hello", "secret")).await.unwrap();
    assert_eq!(body, hidden);
    // What the target says cannot be read: it breaks off.
    let broken = scene.ask(post("/shop.Orders/Place", "application/grpc"), b"\0\0\0\0\x02\x08\x80").await;
    assert!(broken.is_err(), "{broken:?}");
}
