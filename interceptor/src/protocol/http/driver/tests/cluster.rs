//! Clusters: the driver between a client of Kubernetes and an API server, both played here.

use tokio::sync::mpsc;

use super::*;
use crate::protocol::http::codec::socket::{Messages, Said};
use crate::protocol::kubernetes::spdy::{Decoder, Encoder, Frame, Headers};
use crate::protocol::kubernetes::{self, masks};

const CARD: &str = "4111111111111111";
const EXEC: &str = "/api/v1/namespaces/shop/pods/web/exec?command=sh&command=-c&command=id&stdout=true";
const PORTS: &str = "/api/v1/namespaces/shop/pods/web/portforward";

/// Hands the other ends of its legs to the test.
#[derive(Debug)]
struct Handed(mpsc::UnboundedSender<DuplexStream>);

impl Dial for Handed {
    fn dial(&self) -> BoxFuture<'_, io::Result<tls::Stream>> {
        let (ours, theirs) = tokio::io::duplex(ROOM);
        self.0.send(theirs).unwrap();
        Box::pin(async { Ok(tls::Stream::Memory(ours)) })
    }

    fn place(&self) -> String {
        "10.0.0.1:6443".to_owned()
    }
}

/// One end that the test plays.
struct Side {
    stream: DuplexStream,
    input: BytesMut,
    messages: Messages,
    decoder: Decoder,
    encoder: Encoder,
}

impl Side {
    fn new(stream: DuplexStream, hears_masked: bool) -> Self {
        let messages = Messages::new(hears_masked, 1 << 22);
        Self { stream, input: BytesMut::new(), messages, decoder: Decoder::new(), encoder: Encoder::new() }
    }

    async fn more(&mut self) {
        let read = timeout(Duration::from_secs(5), self.stream.read_buf(&mut self.input)).await;
        assert!(read.expect("nothing came in time").unwrap() > 0, "closed: {:?}", self.input);
    }

    /// A head, as text.
    async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.input.windows(4).position(|four| four == b"\r\n\r\n") {
                return String::from_utf8(self.input.split_to(end + 4).to_vec()).unwrap();
            }
            self.more().await;
        }
    }

    async fn body(&mut self) -> serde_json::Value {
        loop {
            if let Ok(value) = serde_json::from_slice(&self.input) {
                self.input.clear();
                return value;
            }
            self.more().await;
        }
    }

    async fn write(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.unwrap();
    }

    async fn say(&mut self, channel: u8, text: &str, masked: bool) {
        let mut out = Vec::new();
        Said::Binary([&[channel], text.as_bytes()].concat().into()).write(&mut out, masked.then_some([1, 2, 3, 4]));
        self.write(out).await;
    }

    async fn hear(&mut self) -> (u8, String) {
        loop {
            match self.messages.next(&mut self.input).unwrap() {
                Some(Said::Binary(bytes)) => return (bytes[0], String::from_utf8_lossy(&bytes[1..]).into_owned()),
                Some(Said::Close(code, reason)) => {
                    return (255, format!("{code:?} {}", String::from_utf8_lossy(&reason)));
                }
                Some(other) => panic!("{other:?}"),
                None => self.more().await,
            }
        }
    }

    async fn send(&mut self, frame: Frame) {
        let mut out = Vec::new();
        self.encoder.write(&frame, &mut out).unwrap();
        self.write(out).await;
    }

    async fn send_message(&mut self, frame: Frame, masked: bool) {
        let (mut inner, mut out) = (Vec::new(), Vec::new());
        self.encoder.write(&frame, &mut inner).unwrap();
        Said::Binary(inner.into()).write(&mut out, masked.then_some([1, 2, 3, 4]));
        self.write(out).await;
    }

    async fn frame_of_message(&mut self) -> Frame {
        let mut carried = BytesMut::new();
        loop {
            if let Some(frame) = self.decoder.next(&mut carried).unwrap() {
                return frame;
            }
            match self.messages.next(&mut self.input).unwrap() {
                Some(Said::Binary(bytes)) => carried.extend_from_slice(&bytes),
                Some(Said::Pong) => {}
                Some(other) => panic!("{other:?}"),
                None => self.more().await,
            }
        }
    }

    async fn frame(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.decoder.next(&mut self.input).unwrap() {
                return frame;
            }
            self.more().await;
        }
    }

    /// All that comes on a stream, up to its end.
    async fn words(&mut self, stream: u32) -> String {
        let mut all = Vec::new();
        loop {
            match self.frame().await {
                Frame::Data { id, fin, payload } if id == stream => {
                    all.extend_from_slice(&payload);
                    if fin {
                        return String::from_utf8(all).unwrap();
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Nothing comes any more.
    async fn silent_or_closed(&mut self) {
        let read = timeout(Duration::from_millis(200), self.stream.read_buf(&mut self.input)).await;
        assert!(!matches!(read, Ok(Ok(1..))), "{:?}", self.input);
    }

    /// Nothing comes.
    async fn silent(&mut self) {
        let read = timeout(Duration::from_millis(200), self.stream.read_buf(&mut self.input)).await;
        assert!(read.is_err() && self.input.is_empty(), "{:?}", self.input);
    }
}

struct Cluster {
    gate: Arc<Script>,
    agent: Side,
    legs: mpsc::UnboundedReceiver<DuplexStream>,
    served: tokio::task::JoinHandle<Result<Close, Failure>>,
}

impl Cluster {
    fn new(answer: Answer) -> Self {
        let names = ["cluster"].iter().filter_map(|name| Name::parse(name)).collect();
        let mut rules: Vec<_> = masks::of("prod", crate::mask::Transform::Redact).into();
        rules.push(toml::from_str("tag = 'card'\ndetect = ['card']").unwrap());
        let (agent, ours) = tokio::io::duplex(ROOM);
        let (send, legs) = mpsc::unbounded_channel();
        let conn = Conn {
            agent: tls::Stream::Memory(ours),
            target: Arc::new(Target {
                name: "prod".into(),
                host: "cluster".into(),
                agent_tls: None,
                upstream_tls: tls::Upstream::default(),
                http: Some(Arc::new(kubernetes::settings(&Config::default(), names).unwrap())),
            }),
            dial: Arc::new(Handed(send)),
            rules: Arc::new(Rules::compile(&rules, None).unwrap()),
            session: SessionId::NONE,
            patience: Patience { handshake: Duration::from_secs(5), stalled: Duration::from_secs(5) },
        };
        let gate = Arc::new(script(answer));
        let gate_of_task = Arc::clone(&gate);
        let served = tokio::spawn(async move { serve(conn, &*gate_of_task).await });
        Self { gate, agent: Side::new(agent, false), legs, served }
    }

    async fn ask(&mut self, first: &str, fields: &str) {
        self.agent.write(format!("{first} HTTP/1.1\r\nHost: cluster\r\n{fields}\r\n")).await;
    }

    async fn target(&mut self) -> Side {
        let leg = timeout(Duration::from_secs(5), self.legs.recv()).await.expect("nobody asks the cluster").unwrap();
        Side::new(leg, true)
    }

    /// Opens a WebSocket.
    async fn channels(answer: Answer, path: &str) -> (Self, Side) {
        let mut cluster = Self::new(answer);
        cluster
            .ask(
                &format!("GET {path}"),
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.dGhlaXJz, v5.channel.k8s.io\r\n",
            )
            .await;
        let mut target = cluster.target().await;
        let head = target.head().await.to_ascii_lowercase();
        assert!(head.contains("sec-websocket-protocol: v5.channel.k8s.io\r\n") && !head.contains("dghlaxjz"), "{head}");
        assert!(head.contains("authorization: bearer s3cret"), "{head}");
        target
            .write(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Protocol: v5.channel.k8s.io\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            )
            .await;
        assert!(cluster.agent.head().await.starts_with("HTTP/1.1 101 "));
        (cluster, target)
    }

    /// Opens SPDY.
    async fn multiplexed(answer: Answer, path: &str) -> (Self, Side) {
        let mut cluster = Self::new(answer);
        cluster
            .ask(
                &format!("POST {path}"),
                "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\
                 X-Stream-Protocol-Version: v4.channel.k8s.io\r\nX-Stream-Protocol-Version: v3.channel.k8s.io\r\n",
            )
            .await;
        let mut target = cluster.target().await;
        let head = target.head().await.to_ascii_lowercase();
        assert!(head.contains("upgrade: spdy/3.1\r\n") && head.contains("x-stream-protocol-version: v3"), "{head}");
        target
            .write(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
                 X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n",
            )
            .await;
        assert!(cluster.agent.head().await.contains("SPDY/3.1"));
        (cluster, target)
    }

    fn recorded(&self) -> String {
        let observed = self.gate.observed.lock();
        let shown = observed.iter().map(|event| match event {
            Observation::Data(_, bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => format!("{other:?}"),
        });
        shown.collect()
    }
}

fn headers(pairs: &[(&str, &str)]) -> Headers {
    Headers::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()).unwrap()
}

fn opens(id: u32, pairs: &[(&str, &str)]) -> Frame {
    let headers = headers(pairs);
    Frame::SynStream { id, associated: 0, priority: 0, fin: false, unidirectional: false, headers }
}

fn reply(id: u32) -> Frame {
    Frame::SynReply { id, fin: false, headers: Headers::default() }
}

fn data(id: u32, text: &str, fin: bool) -> Frame {
    Frame::Data { id, fin, payload: Bytes::copy_from_slice(text.as_bytes()) }
}

#[tokio::test]
async fn a_refusal_is_a_status_and_nothing_reaches_the_cluster() {
    let mut cluster = Cluster::new(Answer::Deny);
    for first in ["DELETE /api/v1/namespaces/shop/pods/web", &format!("POST {EXEC}")] {
        cluster.ask(first, "").await;
        assert!(cluster.agent.head().await.starts_with("HTTP/1.1 403 Forbidden\r\n"));
        let status = cluster.agent.body().await;
        assert_eq!((&status["kind"], &status["code"]), (&"Status".into(), &403.into()));
        assert!(status["message"].as_str().unwrap().contains("rule: scripted-rule"), "{status}");
    }
    assert!(cluster.legs.try_recv().is_err());
}

#[tokio::test]
async fn secrets_are_masked_in_whatever_form_they_come() {
    let (m, b) = ("[masked:secret]", "W21hc2tlZDpzZWNyZXRd");
    let secret = r#"{"kind":"Secret","metadata":{"name":"db","annotations":{"last":"{\"data\":{\"p\":\"aHVudGVyMg==\"}}"}},"data":{"p":"aHVudGVyMg=="},"stringData":{"q":"hunter2"}}"#;
    let masked = format!(
        r#"{{"kind":"Secret","metadata":{{"name":"db","annotations":{{"last":"{m}"}}}},"data":{{"p":"{b}"}},"stringData":{{"q":"{m}"}}}}"#
    );
    let of = |object: &str| {
        [
            object.to_owned(),
            format!(r#"{{"kind":"SecretList","items":[{object},{object}]}}"#),
            format!("{{\"type\":\"ADDED\",\"object\":{object}}}\n{{\"type\":\"MODIFIED\",\"object\":{object}}}\n"),
            format!(r#"{{"kind":"Table","rows":[{{"cells":["db","Opaque",1],"object":{object}}}]}}"#),
            format!(r#"{{"type":"ADDED","object":{{"kind":"Table","rows":[{{"cells":[],"object":{object}}}]}}}}"#),
        ]
    };
    let mut cluster = Cluster::new(Answer::Permit(&["secret"]));
    let mut target = None;
    for (told, expected) in of(secret).into_iter().zip(of(&masked)) {
        cluster
            .ask("GET /api/v1/namespaces/shop/secrets/db", "Accept: application/vnd.kubernetes.protobuf, */*\r\n")
            .await;
        if target.is_none() {
            target = Some(cluster.target().await);
        }
        let target = target.as_mut().unwrap();
        assert!(target.head().await.contains("accept: */*\r\n"));
        let length = told.len();
        target
            .write(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{told}"
            ))
            .await;
        let head = cluster.agent.head().await;
        let length = expected.len();
        assert!(head.contains(&format!("content-length: {length}\r\n")) || head.contains("chunked"), "{head}");
        let mut body = String::new();
        while !body.contains(&expected) {
            if cluster.agent.input.is_empty() {
                cluster.agent.more().await;
            }
            body.push_str(&String::from_utf8_lossy(&cluster.agent.input.split()));
            // Chunks of what comes at once are one.
            assert!(body.len() < 4 * expected.len(), "{body}\n{expected}");
        }
        while head.contains("chunked") && !body.ends_with("0\r\n\r\n") {
            cluster.agent.more().await;
            body.push_str(&String::from_utf8_lossy(&cluster.agent.input.split()));
        }
        assert!(!cluster.recorded().contains("hunter2") && !cluster.recorded().contains("aHVudGVyMg"));
    }
    // What cannot be looked into does not pass.
    cluster.ask("GET /api/v1/namespaces/shop/secrets/db", "").await;
    let target = target.as_mut().unwrap();
    target.head().await;
    let told = "k8s\0hunter2";
    target
        .write(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.kubernetes.protobuf\r\nContent-Length: {}\r\n\r\n{told}",
            told.len()
        ))
        .await;
    assert!(cluster.agent.head().await.starts_with("HTTP/1.1 503 "));
    assert!(!cluster.agent.body().await.to_string().contains("hunter2"));
}

#[tokio::test]
async fn what_the_cluster_offers_is_not_looked_into() {
    let mut cluster = Cluster::new(Answer::Permit(&["secret", "card"]));
    cluster.ask("GET /openapi/v2", "Accept: application/com.github.proto-openapi.spec.v2@v1.0+protobuf\r\n").await;
    let mut target = cluster.target().await;
    assert!(target.head().await.contains("accept: application/com.github.proto-openapi.spec.v2@v1.0+protobuf\r\n"));
    target.write("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 2\r\n\r\n\0\x01").await;
    assert!(cluster.agent.head().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_program_talks_over_channels_and_what_it_prints_is_masked() {
    let (mut cluster, mut target) = Cluster::channels(Answer::Permit(&["card"]), EXEC).await;
    cluster.agent.say(0, "typed\n", true).await;
    assert_eq!(target.hear().await, (0, "typed\n".into()));
    cluster.agent.say(4, "{\"Width\":80,\"Height\":24}", true).await;
    assert_eq!(target.hear().await.0, 4);
    cluster.agent.say(255, "\0", true).await;
    assert_eq!(target.hear().await, (255, "\0".into()));
    let (one, other) = CARD.split_at(7);
    target.say(1, &format!("card {one}"), false).await;
    target.say(2, "warning\n", false).await;
    target.say(1, &format!("{other}, token s3cret.\n"), false).await;
    assert_eq!(cluster.agent.hear().await, (2, "warning\n".into()));
    assert_eq!(cluster.agent.hear().await, (1, "card [masked:card], token ******.\n".into()));
    // A prompt does not wait.
    target.say(1, "code 7: ", false).await;
    assert_eq!(cluster.agent.hear().await, (1, "code 7: ".into()));
    target.say(1, "bye 1", false).await;
    target.say(3, "{\"status\":\"Success\"}", false).await;
    assert_eq!(cluster.agent.hear().await, (1, "bye 1".into()));
    assert_eq!(cluster.agent.hear().await, (3, "{\"status\":\"Success\"}".into()));
    let mut close = Vec::new();
    Said::Close(Some(1000), Bytes::new()).write(&mut close, None);
    target.write(close).await;
    assert_eq!(cluster.agent.hear().await, (255, "Some(1000) ".into()));
    assert!(matches!(cluster.served.await.unwrap(), Ok(Close::Agent)));
    assert_eq!(cluster.gate.judged.lock().len(), 1, "the command line is judged, and nothing that is typed");
    let recorded = {
        let observed = cluster.gate.observed.lock();
        observed.iter().map(|event| format!("{event:?}")).collect::<String>()
    };
    assert!(recorded.contains("typed") && recorded.contains("[masked:card]") && !recorded.contains(CARD));
    assert!(recorded.contains("(\"stdout\", 1)") && recorded.contains("echoed the credential"));
}

#[tokio::test]
async fn nothing_is_said_on_channels_that_are_not_the_agents() {
    for (channel, text) in [(1, "x"), (3, "{}"), (9, "x"), (255, "\u{1}"), (255, "")] {
        let (mut cluster, mut target) = Cluster::channels(Answer::Permit(&[]), EXEC).await;
        cluster.agent.say(channel, text, true).await;
        let (channel, status) = cluster.agent.hear().await;
        assert!(channel == 3 && status.contains("\"Failure\"") && status.contains("nothing to say"), "{status}");
        assert!(cluster.agent.hear().await.1.starts_with("Some(1008)"));
        assert_eq!(target.hear().await, (255, "Some(1000) ".into()));
    }
    // Neither does the cluster.
    let (mut cluster, mut target) = Cluster::channels(Answer::Permit(&[]), EXEC).await;
    target.say(7, "x", false).await;
    assert_eq!(cluster.agent.hear().await.0, 3);
}

#[tokio::test]
async fn bytes_that_would_be_broken_by_a_mask_do_not_pass() {
    let (mut cluster, mut target) = Cluster::channels(Answer::Permit(&["card"]), EXEC).await;
    target.say(1, &format!("file\0\0{CARD}\n"), false).await;
    let (channel, status) = cluster.agent.hear().await;
    assert!(channel == 3 && status.contains("no text"), "{status}");
}

#[tokio::test]
async fn upgrades_are_for_programs_and_ports_and_shared_in_known_ways_alone() {
    let socket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (first, fields) in [
        ("GET /api/v1/namespaces/shop/pods?watch=1", socket.to_owned()),
        (&*format!("GET {EXEC}"), socket.to_owned()),
        (&*format!("GET {EXEC}"), format!("{socket}Sec-WebSocket-Protocol: base64.channel.k8s.io\r\n")),
        (&*format!("GET {EXEC}"), format!("{socket}Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n")),
        (&*format!("POST {EXEC}"), "Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n".to_owned()),
        (&*format!("POST {EXEC}"), "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 2\r\n".to_owned()),
        (&*format!("POST {EXEC}"), "Upgrade: SPDY/3.1\r\nContent-Length: 0\r\n".to_owned()),
        ("POST /api/v1/namespaces/shop/services/web/proxy", "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n".to_owned()),
    ] {
        let mut cluster = Cluster::new(Answer::Permit(&[]));
        cluster.ask(first, &fields).await;
        assert!(cluster.agent.head().await.starts_with("HTTP/1.1 403 "), "{first} {fields}");
        assert!(cluster.legs.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_program_talks_over_spdy_and_what_it_prints_is_masked() {
    let (mut cluster, mut target) = Cluster::multiplexed(Answer::Permit(&["card"]), EXEC).await;
    for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
        cluster.agent.send(opens(id, &[("streamtype", kind)])).await;
        assert_eq!(target.frame().await, opens(id, &[("streamtype", kind)]));
        target.send(reply(id)).await;
        assert_eq!(cluster.agent.frame().await, reply(id));
    }
    cluster.agent.send(data(3, "typed", true)).await;
    assert_eq!(target.frame().await, data(3, "typed", true));
    let (one, other) = CARD.split_at(5);
    target.send(data(5, one, false)).await;
    target.send(data(5, &format!("{other}.\n"), false)).await;
    assert_eq!(cluster.agent.frame().await, data(5, "[masked:card].\n", false));
    target.send(data(5, "code 7: ", false)).await;
    assert_eq!(cluster.agent.frame().await, data(5, "code 7: ", false));
    target.send(data(7, "warning 9", true)).await;
    assert_eq!(cluster.agent.frame().await, data(7, "warning 9", true));
    target.send(data(5, "", true)).await;
    assert_eq!(cluster.agent.frame().await, data(5, "", true));
    target.send(data(1, "{\"status\":\"Success\"}", true)).await;
    assert_eq!(cluster.agent.frame().await, data(1, "{\"status\":\"Success\"}", true));
    drop(target);
    assert!(matches!(cluster.served.await.unwrap(), Ok(Close::Agent)));
    let observed = cluster.gate.observed.lock();
    let recorded: String = observed.iter().map(|event| format!("{event:?}")).collect();
    assert!(recorded.contains("typed") && recorded.contains("[masked:card]") && !recorded.contains(CARD));
}

#[tokio::test]
async fn streams_that_are_none_end_it() {
    let wrong: [&[Frame]; 4] = [
        &[data(1, "x", false)],
        &[opens(2, &[("streamtype", "stdin")])],
        &[opens(1, &[("streamtype", "else")])],
        &[opens(1, &[("streamtype", "stdin")]), opens(3, &[("streamtype", "stdin")])],
    ];
    for frames in wrong {
        let (mut cluster, _target) = Cluster::multiplexed(Answer::Permit(&[]), EXEC).await;
        for frame in frames {
            cluster.agent.send(frame.clone()).await;
        }
        assert!(matches!(cluster.agent.frame().await, Frame::GoAway { .. }));
        assert!(matches!(cluster.served.await.unwrap(), Ok(Close::Agent)));
        assert!(cluster.gate.observed.lock().iter().any(|event| matches!(event, Observation::Denied(_))));
    }
}

#[tokio::test]
async fn ports_are_reached_through_a_tunnel_as_well() {
    const TUNNEL: &str = "Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n";
    let mut cluster = Cluster::new(Answer::Permit(&[]));
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    cluster.ask(&format!("GET {PORTS}"), &format!("{upgrade}{key}{TUNNEL}")).await;
    let mut target = cluster.target().await;
    target.head().await;
    target.write(format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}{TUNNEL}\r\n")).await;
    cluster.agent.head().await;
    for frame in pair(1, "80", "0") {
        cluster.agent.send_message(frame.clone(), true).await;
        assert_eq!(target.frame_of_message().await, frame);
    }
    target.send_message(reply(3), false).await;
    assert_eq!(cluster.agent.frame_of_message().await, reply(3));
    cluster.agent.send_message(data(3, "GET /", true), true).await;
    assert_eq!(target.frame_of_message().await, data(3, "GET /", true));
    let mut ping = Vec::new();
    Said::Ping("alive".into()).write(&mut ping, None);
    target.write(ping).await;
    target.send_message(data(3, "hi", true), false).await;
    assert_eq!(cluster.agent.frame_of_message().await, data(3, "hi", true));
    assert_eq!(cluster.gate.judged.lock().len(), 2);
}

/// What a client opens for one connection.
fn pair(first: u32, port: &str, request: &str) -> [Frame; 2] {
    let of = |id, kind| opens(id, &[("streamtype", kind), ("port", port), ("requestid", request)]);
    [of(first, "error"), of(first + 2, "data")]
}

#[tokio::test]
async fn each_port_is_judged_when_it_is_first_asked_for() {
    let (mut cluster, mut target) = Cluster::multiplexed(Answer::Permit(&["card"]), PORTS).await;
    for (first, request) in [(1, "0"), (5, "1")] {
        for frame in pair(first, "80", request) {
            cluster.agent.send(frame.clone()).await;
            assert_eq!(target.frame().await, frame);
        }
        for id in [first, first + 2] {
            target.send(reply(id)).await;
            assert_eq!(cluster.agent.frame().await, reply(id));
        }
    }
    let ports = |cluster: &Cluster| -> Vec<String> {
        let judged = cluster.gate.judged.lock();
        judged.iter().map(|command| format!("{:?}", command.facts.k8s.as_ref().unwrap().ports)).collect()
    };
    assert_eq!(ports(&cluster), ["{}", "{80}"]);
    // Bytes of another protocol pass as they are.
    target.send(data(3, &format!("{CARD} s3cret"), false)).await;
    assert_eq!(cluster.agent.frame().await, data(3, &format!("{CARD} ******"), false));
    cluster.gate.deny.store(true, Ordering::SeqCst);
    let [error, stream] = pair(9, "5432", "2");
    cluster.agent.send(error).await;
    assert_eq!(cluster.agent.frame().await, reply(9));
    assert!(cluster.agent.words(9).await.contains("rule: scripted-rule"));
    cluster.agent.send(stream).await;
    assert_eq!(cluster.agent.frame().await, reply(11));
    assert_eq!(cluster.agent.frame().await, data(11, "", true));
    cluster.agent.send(data(11, "GET / HTTP/1.0\r\n\r\n", true)).await;
    target.silent().await;
    assert_eq!(ports(&cluster).last().unwrap(), "{5432}");
    // The others go on.
    cluster.agent.send(data(3, "more", true)).await;
    assert_eq!(target.frame().await, data(3, "more", true));
}

#[tokio::test]
async fn a_session_that_ends_ends_its_streams() {
    let (mut cluster, mut target) = Cluster::channels(Answer::Permit(&[]), EXEC).await;
    cluster.gate.end.notify_one();
    let (_, why) = cluster.agent.hear().await;
    assert!(why.contains("the script says so"), "{why}");
    assert!(matches!(cluster.served.await.unwrap(), Ok(Close::Ended)));
    assert_eq!(target.stream.read_buf(&mut target.input).await.unwrap(), 0);
}

#[tokio::test]
async fn whoever_follows_a_log_sees_its_last_line() {
    let mut cluster = Cluster::new(Answer::Permit(&["card"]));
    cluster.ask("GET /api/v1/namespaces/shop/pods/web/log?follow=true", "").await;
    let mut target = cluster.target().await;
    target.head().await;
    target.write("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert!(cluster.agent.head().await.starts_with("HTTP/1.1 200 "));
    for (line, told) in [("took 17\n", "took 17\n"), ("card 4111111111111111\n", "card [masked:card]\n")] {
        target.write(format!("{:x}\r\n{line}\r\n", line.len())).await;
        let expected = format!("{:x}\r\n{told}\r\n", told.len());
        while cluster.agent.input.len() < expected.len() {
            cluster.agent.more().await;
        }
        assert_eq!(String::from_utf8_lossy(&cluster.agent.input.split()), expected);
    }
}

#[tokio::test]
async fn whoever_reads_slowly_loses_nothing() {
    let mut cluster = Cluster::new(Answer::Permit(&["card"]));
    cluster.ask("GET /api/v1/namespaces/shop/pods/web/log?follow=true", "").await;
    let mut target = cluster.target().await;
    target.head().await;
    let lines: Vec<String> = (0..40_000).map(|number| format!("line {number} is written\n")).collect();
    let expected = lines.concat();
    let told = tokio::spawn(async move {
        target.write("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for part in lines.chunks(500) {
            let part = part.concat();
            target.write(format!("{:x}\r\n{part}\r\n", part.len())).await;
        }
        target.write("0\r\n\r\n").await;
        target
    });
    cluster.agent.head().await;
    // Longer than text waits for what may go on behind it, with more on its way than fits.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        cluster.agent.more().await;
    }
    while !cluster.agent.input.ends_with(b"0\r\n\r\n") {
        cluster.agent.more().await;
    }
    let (mut body, mut reader) = (Vec::new(), codec::Chunked::default());
    loop {
        match reader.next(&cluster.agent.input).unwrap() {
            codec::Piece::Data(count) => body.extend_from_slice(&cluster.agent.input.split_to(count)),
            codec::Piece::Skip(count) => drop(cluster.agent.input.split_to(count)),
            codec::Piece::More => panic!("cut off"),
            codec::Piece::End => break,
        }
    }
    assert!(body == expected.as_bytes(), "{} of {}", body.len(), expected.len());
    drop(told.await);
}

#[tokio::test]
async fn a_program_that_ends_before_its_input_says_how() {
    let (mut cluster, mut target) = Cluster::channels(Answer::Permit(&["card"]), EXEC).await;
    target.say(1, "first line\nsecond 2", false).await;
    target.say(3, "{\"status\":\"Success\"}", false).await;
    drop(target);
    for _ in 0..10 {
        cluster.agent.say(0, "y\n", true).await;
    }
    let mut printed = String::new();
    let status = loop {
        match cluster.agent.hear().await {
            (1, text) => printed.push_str(&text),
            (3, status) => break status,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((printed.as_str(), status.as_str()), ("first line\nsecond 2", "{\"status\":\"Success\"}"));
}

#[tokio::test]
async fn ports_that_may_not_be_reached_are_no_room_to_fill() {
    let (mut cluster, mut target) = Cluster::multiplexed(Answer::Permit(&[]), PORTS).await;
    cluster.gate.deny.store(true, Ordering::SeqCst);
    // The data stream first: its error stream is told why all the same.
    let [error, stream] = pair(1, "80", "0");
    let (Frame::SynStream { headers: of_error, .. }, Frame::SynStream { headers: of_data, .. }) = (error, stream)
    else {
        panic!()
    };
    let open = |id, fin, headers: &Headers| Frame::SynStream {
        id,
        associated: 0,
        priority: 0,
        fin,
        unidirectional: false,
        headers: headers.clone(),
    };
    cluster.agent.send(open(1, false, &of_data)).await;
    cluster.agent.send(open(3, true, &of_error)).await;
    assert_eq!(cluster.agent.frame().await, reply(1));
    assert_eq!(cluster.agent.frame().await, data(1, "", true));
    assert_eq!(cluster.agent.frame().await, reply(3));
    assert!(cluster.agent.words(3).await.contains("rule: scripted-rule"));
    assert_eq!(cluster.gate.judged.lock().len(), 2, "the request, and its port once");
    // Streams that are never ended are bounded.
    for id in (5..).step_by(2).take(400) {
        let request = id.to_string();
        let frame = opens(id, &[("streamtype", "error"), ("port", "80"), ("requestid", &request)]);
        let mut out = Vec::new();
        cluster.agent.encoder.write(&frame, &mut out).unwrap();
        if cluster.agent.stream.write_all(&out).await.is_err() {
            break;
        }
    }
    assert!(matches!(cluster.served.await.unwrap(), Ok(Close::Agent)));
    target.silent_or_closed().await;
}

#[tokio::test]
async fn clients_that_would_ask_again_are_refused_on_their_socket() {
    const SOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut cluster = Cluster::new(Answer::Deny);
    cluster.ask(&format!("GET {EXEC}"), &format!("{SOCKET}Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n")).await;
    let head = cluster.agent.head().await;
    assert!(
        head.starts_with("HTTP/1.1 101 ") && head.contains("sec-websocket-protocol: v5.channel.k8s.io\r\n"),
        "{head}"
    );
    assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    let (channel, status) = cluster.agent.hear().await;
    assert!(channel == 3 && status.contains("rule: scripted-rule") && status.contains("\"Failure\""), "{status}");
    assert_eq!(cluster.agent.hear().await, (255, "Some(1000) ".into()));
    assert!(cluster.legs.try_recv().is_err());
    assert!(matches!(cluster.served.await.unwrap(), Ok(Close::Agent)));
    // Others read the answer.
    for fields in [
        "Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n",
        "Sec-WebSocket-Protocol: v9, v5.channel.k8s.io\r\n",
        "Sec-WebSocket-Protocol: v5.channel.k8s.io, v4.channel.k8s.io\r\n",
    ] {
        let mut cluster = Cluster::new(Answer::Deny);
        cluster.ask(&format!("GET {EXEC}"), &format!("{SOCKET}{fields}")).await;
        assert!(cluster.agent.head().await.starts_with("HTTP/1.1 403 "), "{fields}");
    }
}
