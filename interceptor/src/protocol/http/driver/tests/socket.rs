//! WebSockets: an agent that masks its frames, and a target that says back what it was told.

use super::*;
use crate::protocol::http::codec::socket::{Messages, Said};

const ASK: &str = "GET /v1/live HTTP/1.1\r\nHost: api.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Extensions: permessage-deflate\r\nAuthorization: Bearer placeholder\r\n\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

/// Answers the head, then echoes; what it hears is kept.
#[derive(Debug)]
struct Echo {
    answer: String,
    head: Arc<Mutex<String>>,
    heard: Arc<Mutex<Vec<Said>>>,
}

impl Dial for Echo {
    fn dial(&self) -> BoxFuture<'_, io::Result<tls::Stream>> {
        let (ours, theirs) = tokio::io::duplex(ROOM);
        tokio::spawn(echo(theirs, self.answer.clone(), Arc::clone(&self.head), Arc::clone(&self.heard)));
        Box::pin(async { Ok(tls::Stream::Memory(ours)) })
    }

    fn place(&self) -> String {
        "10.0.0.1:443".to_owned()
    }
}

async fn echo(mut stream: DuplexStream, answer: String, head: Arc<Mutex<String>>, heard: Arc<Mutex<Vec<Said>>>) {
    let mut input = BytesMut::new();
    let end = loop {
        if let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut input).await.unwrap() == 0 {
            return;
        }
    };
    *head.lock() = String::from_utf8_lossy(&input.split_to(end)).into_owned();
    stream.write_all(answer.as_bytes()).await.unwrap();
    let mut messages = Messages::new(true, 1 << 22);
    loop {
        while let Some(said) = messages.next(&mut input).unwrap() {
            heard.lock().push(said.clone());
            // Who says so is told farewell, with what follows.
            let farewell = match &said {
                Said::Text(text) => {
                    text.strip_prefix(b"end: ").map(|why| Said::Close(Some(4001), Bytes::copy_from_slice(why)))
                }
                _ => None,
            };
            let mut out = Vec::new();
            farewell.unwrap_or(said).write(&mut out, None);
            let _gone = stream.write_all(&out).await;
        }
        if !matches!(stream.read_buf(&mut input).await, Ok(1..)) {
            return;
        }
    }
}

struct Live {
    gate: Arc<Script>,
    echo: Arc<Echo>,
    agent: DuplexStream,
    input: BytesMut,
    messages: Messages,
    served: tokio::task::JoinHandle<Result<Close, Failure>>,
}

impl Live {
    async fn open(answer: Answer, behind: &str) -> Self {
        let mut live = Self::ask(answer, &format!("{AGREED}\r\n{behind}")).await;
        let head = live.head().await;
        assert_eq!((head.status, head.fields.text("upgrade")), (101, Some("websocket")));
        assert_eq!(head.fields.text("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        live
    }

    async fn ask(answer: Answer, told: &str) -> Self {
        Self::ask_with(script(answer), ASK, told).await
    }

    async fn ask_with(script: Script, asked: &str, told: &str) -> Self {
        let echo = Arc::new(Echo { answer: told.to_owned(), head: Arc::default(), heard: Arc::default() });
        let gate = Arc::new(script);
        let (mut agent, ours) = tokio::io::duplex(ROOM);
        let conn = conn(tls::Stream::Memory(ours), Arc::clone(&echo) as Arc<dyn Dial>);
        let gate_of_task = Arc::clone(&gate);
        let served = tokio::spawn(async move { serve(conn, &*gate_of_task).await });
        agent.write_all(asked.as_bytes()).await.unwrap();
        Self { gate, echo, agent, input: BytesMut::new(), messages: Messages::new(false, 1 << 22), served }
    }

    async fn head(&mut self) -> codec::ResponseHead {
        loop {
            if let Some((head, used)) = codec::response(&self.input).unwrap() {
                let _head = self.input.split_to(used);
                return head;
            }
            self.more().await;
        }
    }

    async fn more(&mut self) {
        let read = timeout(Duration::from_secs(5), self.agent.read_buf(&mut self.input)).await;
        assert!(read.expect("nothing came in time").unwrap() > 0, "closed: {:?}", self.input);
    }

    async fn say(&mut self, said: &Said) {
        let mut out = Vec::new();
        said.write(&mut out, Some([1, 2, 3, 4]));
        self.agent.write_all(&out).await.unwrap();
    }

    async fn hear(&mut self) -> Said {
        loop {
            if let Some(said) = self.messages.next(&mut self.input).unwrap() {
                return said;
            }
            self.more().await;
        }
    }

    async fn hear_farewell(&mut self) -> (u16, String) {
        match self.hear().await {
            Said::Close(Some(code), reason) => (code, String::from_utf8_lossy(&reason).into_owned()),
            other => panic!("{other:?}"),
        }
    }
}

fn text(text: &str) -> Said {
    Said::Text(Bytes::copy_from_slice(text.as_bytes()))
}

#[tokio::test]
async fn each_message_is_judged_and_recorded() {
    let mut live = Live::open(Answer::Permit(&[]), "").await;
    for said in [text("{\"do\": \"list\"}"), text("plain"), Said::Binary("\u{1}".into())] {
        live.say(&said).await;
        assert_eq!(live.hear().await, said);
    }
    // Pings are answered here: what stands in them goes nowhere.
    live.say(&Said::Ping("s".into())).await;
    assert_eq!(live.hear().await, Said::Pong);
    live.say(&Said::Close(Some(1000), "hidden".into())).await;
    assert_eq!(live.hear().await, Said::Close(Some(1000), Bytes::new()));
    assert_eq!(live.served.await.unwrap().unwrap(), Close::Agent);
    let judged = live.gate.judged.lock();
    let names: Vec<String> = judged
        .iter()
        .map(|command| command.actions.iter().map(|action| action.name.to_string()).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(names, ["http:GET", "http:message", "http:message http:opaque", "http:message http:opaque"]);
    assert!(judged[1].facts.http.as_ref().unwrap().fields.contains("do=list"));
    assert_eq!(judged[1].parameters.len(), 1);
    assert!(judged[1].statement.starts_with("MESSAGE /v1/live\nopened: sha256 "), "{}", judged[1].statement);
    assert!(!judged[0].statement.contains("dGhlIHNhbXBsZSBub25jZQ"), "a key is another each time");
    let head = live.echo.head.lock().to_ascii_lowercase();
    assert!(head.contains("authorization: bearer s3cret") && head.contains("upgrade: websocket"), "{head}");
    assert!(!head.contains("placeholder") && !head.contains("sec-websocket-extensions"), "{head}");
    let heard = live.echo.heard.lock();
    assert!(
        !heard.iter().any(|said| matches!(said, Said::Ping(_)) || format!("{said:?}").contains("hidden")),
        "{heard:?}"
    );

    let mut replay = crate::protocol::http::replay::Replay::default();
    let mut shown = Vec::new();
    for event in live.gate.observed.lock().iter() {
        let Observation::Data(direction, bytes) = event else { continue };
        for piece in bytes.chunks(5) {
            shown.extend(crate::protocol::Replayer::feed(&mut replay, *direction, piece));
        }
    }
    let shown = format!("{shown:?}");
    for expected in [
        "Statement(\"GET /v1/live\")",
        "Complete(\"101 Switching Protocols\")",
        "Statement(\"plain\")",
        "Other(\"plain\")",
        "closed: 1000",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
}

#[tokio::test]
async fn what_is_denied_ends_it_and_never_arrives() {
    let mut live = Live::ask(Answer::Deny, &format!("{AGREED}\r\n")).await;
    assert_eq!(live.head().await.status, 403);
    assert_eq!(live.echo.head.lock().len(), 0);

    let mut live = Live::open(Answer::Permit(&[]), "").await;
    live.gate.deny.store(true, Ordering::SeqCst);
    live.say(&text("{\"do\": \"drop\"}")).await;
    let (code, reason) = live.hear_farewell().await;
    assert_eq!(code, 1008);
    assert!(reason.contains("the script says so; rule: scripted-rule"), "{reason}");
    assert_eq!(live.served.await.unwrap().unwrap(), Close::Agent);
    assert!(!format!("{:?}", live.echo.heard.lock()).contains("drop"));
    assert!(live.gate.observed.lock().iter().any(|event| matches!(event, Observation::Denied(_))));
}

#[tokio::test]
async fn what_is_told_is_masked_and_without_the_credential() {
    for said in [format!("{{\"card\": \"{CARD}\"}}"), format!("the card is {CARD}")] {
        let mut live = Live::open(Answer::Permit(&["card"]), "").await;
        live.say(&text(&said)).await;
        let told = format!("{:?}", live.hear().await);
        assert!(told.contains("************1111") && !told.contains(CARD), "{told}");
        // In pieces, it is put together before it is looked at.
        let (one, other) = said.split_at(said.len() - 8);
        for (first, part) in [(0x01u8, one), (0x80, other)] {
            let mut frame = vec![first, 0x80 | u8::try_from(part.len()).unwrap(), 0, 0, 0, 0];
            frame.extend_from_slice(part.as_bytes());
            live.agent.write_all(&frame).await.unwrap();
        }
        let told = format!("{:?}", live.hear().await);
        assert!(told.contains("************1111") && !told.contains(CARD), "{told}");
        live.say(&text("{\"a\": \"Bearer s3cret\"}")).await;
        assert_eq!(live.hear().await, text("{\"a\": \"Bearer ******\"}"));
        live.say(&Said::Binary(CARD.as_bytes().into())).await;
        let (code, reason) = live.hear_farewell().await;
        assert!(code == 1011 && reason.contains("cannot be looked into"), "{reason}");
        let told: Vec<Observation> = live.gate.observed.lock().clone();
        let to_agent = told.iter().filter(|event| matches!(event, Observation::Data(Direction::ToAgent, _)));
        assert!(
            !to_agent
                .flat_map(|event| match event {
                    Observation::Data(_, bytes) => bytes.to_vec(),
                    _ => Vec::new(),
                })
                .collect::<Vec<u8>>()
                .windows(CARD.len())
                .any(|window| window == CARD.as_bytes())
        );
    }
}

#[tokio::test]
async fn a_targets_farewell_is_masked_and_without_the_credential() {
    let mut live = Live::open(Answer::Permit(&["card"]), "").await;
    live.say(&text(&format!("end: Bearer s3cret of {CARD}"))).await;
    let (code, reason) = live.hear_farewell().await;
    assert_eq!((code, &*reason), (4001, "Bearer ****** of ************1111"));
    let observed = live.gate.observed.lock();
    assert!(observed.iter().any(|event| matches!(event, Observation::Masked { .. })));
    assert!(!observed.iter().any(|event| {
        let Observation::Data(Direction::ToAgent, bytes) = event else { return false };
        bytes.windows(6).any(|window| window == b"s3cret")
    }));
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_it() {
    for (bytes, code) in [
        (&b"\x81\x02hi"[..], 1002),
        (b"\xc1\x80\0\0\0\0", 1002),
        (b"\x81\x81\0\0\0\0\xff", 1007),
        (b"\x81\xff\0\0\0\0\0\x20\0\0\0\0\0\0", 1009),
    ] {
        let mut live = Live::open(Answer::Permit(&[]), "").await;
        live.agent.write_all(bytes).await.unwrap();
        assert_eq!(live.hear_farewell().await.0, code);
        assert!(live.echo.heard.lock().iter().all(|said| matches!(said, Said::Close(..))));
    }
    // A target that says what is no frame, or reserves a bit.
    for behind in ["\u{3}\u{0}", "A\u{0}"] {
        let mut live = Live::open(Answer::Permit(&[]), behind).await;
        assert_eq!(live.hear_farewell().await.0, 1011, "{behind:?}");
    }
    for (fields, status) in [
        ("Upgrade: h2c\r\nConnection: Upgrade\r\n", 403),
        ("Upgrade: websocket\r\n", 403),
        ("Upgrade: websocket, h2c\r\nConnection: Upgrade\r\n", 403),
        ("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n", 403),
        (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            403,
        ),
    ] {
        let mut scene = Scene::new(Answer::Permit(&[]), OK);
        let (head, _) = scene.ask(format!("GET /v1/x HTTP/1.1\r\nHost: api.test\r\n{fields}\r\n")).await;
        assert_eq!((head.status, scene.reached().as_str()), (status, ""), "{fields}");
    }
    // A target that agrees to what it was not asked for, or does not agree.
    for (answer, status) in [
        (format!("{AGREED}Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"), 502),
        ("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n".to_owned(), 502),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(), 404),
    ] {
        let mut live = Live::ask(Answer::Permit(&[]), &answer).await;
        assert_eq!(live.head().await.status, status, "{answer}");
    }
}

#[tokio::test]
async fn a_session_that_ends_says_farewell_on_a_socket() {
    let mut live = Live::open(Answer::Permit(&[]), "").await;
    live.say(&text("1")).await;
    assert_eq!(live.hear().await, text("1"));
    live.gate.end.notify_one();
    let (code, reason) = live.hear_farewell().await;
    assert!(code == 1008 && reason.contains("the script says so"), "{code} {reason}");
    assert_eq!(timeout(Duration::from_secs(5), live.served).await.unwrap().unwrap().unwrap(), Close::Ended);
}

/// A message that was approved on one socket is not approved on one that was opened as somebody else.
#[tokio::test]
async fn a_grant_is_for_the_socket_as_it_was_opened() {
    let mut statements = Vec::new();
    for (tenant, key) in
        [("one", "dGhlIHNhbXBsZSBub25jZQ=="), ("one", "AAAAIHNhbXBsZSBub25jZQ=="), ("two", "dGhlIHNhbXBsZSBub25jZQ==")]
    {
        let asked = ASK.replace("dGhlIHNhbXBsZSBub25jZQ==", &format!("{key}\r\nX-Tenant: {tenant}"));
        let mut live = Live::ask_with(script(Answer::Permit(&[])), &asked, &format!("{AGREED}\r\n")).await;
        assert_eq!(live.head().await.status, 101);
        live.say(&text("{\"pay\": 1}")).await;
        live.hear().await;
        let judged = live.gate.judged.lock();
        statements.push(judged.iter().map(|command| command.statement.clone()).collect::<Vec<_>>());
    }
    assert_eq!(statements[0], statements[1]);
    assert!(statements[0].iter().zip(&statements[2]).all(|(one, other)| one != other), "{statements:?}");
}

#[tokio::test]
async fn what_is_heard_of_a_message_counts_before_it_is_whole() {
    let script = Script { room: 100_000, ..script(Answer::Permit(&[])) };
    let mut live = Live::ask_with(script, ASK, &format!("{AGREED}\r\n")).await;
    live.head().await;
    let mut begun = b"\x81\xff\0\0\0\0\0\x08\0\0\0\0\0\0".to_vec();
    begun.extend(vec![b'x'; 150_000]);
    live.agent.write_all(&begun).await.unwrap();
    assert_eq!(live.hear_farewell().await.0, 1008);
    assert!(matches!(live.served.await.unwrap(), Err(Failure::Overfull(_))));
}

#[tokio::test]
async fn a_token_among_protocols_passes_to_where_nobody_logs_in_and_is_not_on_record() {
    for offered in [
        "chat, bearer, of-the-agent",
        "bearer\r\nSec-WebSocket-Protocol: of-the-agent",
        "graphql-ws, header-of-the-agent",
        "v1.kernel.websocket.jupyter.org, v1.token.websocket.jupyter.org.of-the-agent",
    ] {
        let gate = Script { logs_in: false, ..script(Answer::Permit(&[])) };
        let asked = ASK.replace("\r\n\r\n", &format!("\r\nSec-WebSocket-Protocol: {offered}\r\n\r\n"));
        // Some say in their answer which they have chosen.
        let agreed = format!("{AGREED}Sec-WebSocket-Protocol: header-of-the-agent\r\n\r\n");
        let mut live = Live::ask_with(gate, &asked, &agreed).await;
        assert_eq!(live.head().await.status, 101, "{offered}");
        assert!(live.echo.head.lock().contains("of-the-agent"), "{offered}");
        let (judged, observed) = (live.gate.judged.lock(), live.gate.observed.lock());
        let recorded = observed.iter().map(|event| match event {
            Observation::Data(_, bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => format!("{other:?}"),
        });
        let told = format!("{judged:?}{}", recorded.collect::<String>());
        assert!(!told.contains("of-the-agent") && told.contains("sec-websocket-protocol: hmac "), "{told}");
        // What could be tried out without a key is not there, also not where messages are bound to what opened it.
        let tokens = offered.split(['\n', ' ', ',']).map(str::trim);
        for token in tokens.chain([offered]).filter(|token| token.contains("of-the-agent")) {
            assert!(!told.contains(&action::digest(token.as_bytes(), 8)), "{token}: {told}");
        }
    }
    let gate = Script { logs_in: false, ..script(Answer::Permit(&[])) };
    let asked = ASK.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: graphql-ws\r\n\r\n");
    let mut live = Live::ask_with(gate, &asked, &format!("{AGREED}Sec-WebSocket-Protocol: graphql-ws\r\n\r\n")).await;
    assert_eq!(live.head().await.fields.text("sec-websocket-protocol"), Some("graphql-ws"));
    assert!(live.gate.judged.lock()[0].statement.contains("sec-websocket-protocol: graphql-ws"));
}
