//! The same over HTTP/2: a real client of it as the agent, and targets that speak it or do not.

use futures_util::future::{join, join_all};
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};

use super::*;

mod calls;

/// What a target of HTTP/2 does with a request.
#[derive(Clone, Copy, Debug)]
enum Behaviour {
    /// Answers `hi`, after all of the request.
    Plain,
    /// Says each message as it comes, then a status in the trailers.
    Grpc,
    /// Answers with its trailers alone.
    GrpcRefusal,
    /// Answers before it has read the request.
    Early,
    /// Breaks off within the answer.
    Broken,
    /// Takes one request a connection, and its time for it.
    Leaving,
}

/// A target that speaks HTTP/2 in clear, and keeps the heads that reached it.
#[derive(Debug)]
struct Two {
    behaviour: Behaviour,
    heads: Arc<Mutex<Vec<Request<()>>>>,
    bodies: Arc<Mutex<Vec<u8>>>,
    dialled: AtomicUsize,
}

impl Dial for Two {
    fn dial(&self) -> BoxFuture<'_, io::Result<tls::Stream>> {
        let (ours, theirs) = tokio::io::duplex(ROOM);
        self.dialled.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(serve_two(theirs, self.behaviour, Arc::clone(&self.heads), Arc::clone(&self.bodies)));
        Box::pin(async { Ok(tls::Stream::Memory(ours)) })
    }

    fn place(&self) -> String {
        "10.0.0.1:443".to_owned()
    }
}

async fn serve_two(
    stream: DuplexStream,
    behaviour: Behaviour,
    heads: Arc<Mutex<Vec<Request<()>>>>,
    bodies: Arc<Mutex<Vec<u8>>>,
) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (heads, bodies) = (Arc::clone(&heads), Arc::clone(&bodies));
        if let Behaviour::Leaving = behaviour {
            connection.graceful_shutdown();
        }
        tokio::spawn(async move {
            if let Behaviour::Leaving = behaviour {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            let (parts, mut body) = request.into_parts();
            let parts_kind = parts.headers.get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
            heads.lock().push(Request::from_parts(parts, ()));
            let head = |kind: &str| {
                let said = parts_kind.as_deref().filter(|said| said.contains("grpc-web")).unwrap_or(kind);
                Response::builder().header("content-type", said).header("alt-svc", "h3=\":1\"").body(()).unwrap()
            };
            let trailers = |status: &str| {
                let mut map = HeaderMap::new();
                map.insert("grpc-status", status.parse().unwrap());
                map.insert("grpc-message", "Bearer s3cret".parse().unwrap());
                map
            };
            if let Behaviour::GrpcRefusal = behaviour {
                let mut refusal = head("application/grpc");
                refusal.headers_mut().extend(trailers("5"));
                respond.send_response(refusal, true).unwrap();
                return;
            }
            if let Behaviour::Early = behaviour {
                let mut out = respond.send_response(head("text/plain"), false).unwrap();
                out.send_data("early".into(), true).unwrap();
                return;
            }
            if let Behaviour::Grpc = behaviour {
                let mut out = respond.send_response(head("application/grpc"), false).unwrap();
                while let Some(Ok(data)) = body.data().await {
                    body.flow_control().release_capacity(data.len()).unwrap();
                    bodies.lock().extend_from_slice(&data);
                    out.send_data(data, false).unwrap();
                }
                out.send_trailers(trailers("0")).unwrap();
                return;
            }
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
                bodies.lock().extend_from_slice(&data);
            }
            let mut out = respond.send_response(head("application/json"), false).unwrap();
            out.send_data("hi".into(), !matches!(behaviour, Behaviour::Broken)).unwrap();
            if matches!(behaviour, Behaviour::Broken) {
                tokio::task::yield_now().await;
                out.send_reset(h2::Reason::INTERNAL_ERROR);
            }
        });
    }
}

/// Agent and gate, and whatever target.
struct Scene {
    gate: Arc<Script>,
    agent: SendRequest<Bytes>,
    served: tokio::task::JoinHandle<Result<Close, Failure>>,
    connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl Scene {
    async fn new(answer: Answer, dial: Arc<dyn Dial>) -> Self {
        Self::with(answer, dial, |_| {}).await
    }

    async fn with(answer: Answer, dial: Arc<dyn Dial>, change: impl FnOnce(&mut Script)) -> Self {
        Self::set(answer, dial, true, change).await
    }

    /// `two`: the target is spoken to as the agent speaks, as it is where both are in clear.
    async fn set(answer: Answer, dial: Arc<dyn Dial>, two: bool, change: impl FnOnce(&mut Script)) -> Self {
        let mut script = script(answer);
        change(&mut script);
        let gate = Arc::new(script);
        Self::of(gate, |ours| conn(ours, dial), two).await
    }

    async fn of(gate: Arc<Script>, conn: impl FnOnce(tls::Stream) -> Conn, two: bool) -> Self {
        let (agent, ours) = tokio::io::duplex(ROOM);
        let conn = conn(tls::Stream::Memory(ours));
        let gate_of_task = Arc::clone(&gate);
        let served = tokio::spawn(async move {
            if two {
                return serve(conn, &*gate_of_task).await;
            }
            let (served, agent) = Served::new(conn, &*gate_of_task);
            served.upstreams.offer_two(false);
            crate::protocol::http::driver::two::serve(&served, Rewound::new(Bytes::new(), agent), Scheme::HTTP).await
        });
        let (agent, connection) = h2::client::handshake(agent).await.unwrap();
        let connection = tokio::spawn(connection);
        Self { gate, agent, served, connection }
    }

    async fn ask(
        &self,
        request: Request<()>,
        body: &[u8],
    ) -> Result<(Response<()>, Vec<u8>, Option<HeaderMap>), h2::Error> {
        let mut agent = self.agent.clone().ready().await?;
        let (response, mut sending) = agent.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            sending.send_data(Bytes::copy_from_slice(body), true)?;
        }
        let (parts, mut body) =
            timeout(Duration::from_secs(5), response).await.expect("no answer in time")?.into_parts();
        let mut whole = Vec::new();
        while let Some(data) = body.data().await {
            whole.extend_from_slice(&data?);
        }
        let trailers = body.trailers().await?;
        Ok((Response::from_parts(parts, ()), whole, trailers))
    }

    fn recorded(&self) -> Vec<Observation> {
        self.gate.observed.lock().clone()
    }
}

fn get(path: &str) -> Request<()> {
    Request::builder()
        .uri(format!("http://api.test{path}"))
        .header("authorization", "Bearer placeholder")
        .body(())
        .unwrap()
}

fn post(path: &str, kind: &str) -> Request<()> {
    Request::builder()
        .method("POST")
        .uri(format!("http://api.test{path}"))
        .header("content-type", kind)
        .header("te", "trailers")
        .body(())
        .unwrap()
}

fn two(behaviour: Behaviour) -> Arc<Two> {
    Arc::new(Two { behaviour, heads: Arc::default(), bodies: Arc::default(), dialled: AtomicUsize::new(0) })
}

#[tokio::test]
async fn many_requests_are_judged_each_and_share_a_connection() {
    let target = two(Behaviour::Plain);
    let scene = Scene::new(Answer::Permit(&[]), Arc::clone(&target) as Arc<dyn Dial>).await;
    let asked =
        (0..40).map(|number| scene.ask(post(&format!("/v1/customers/{number}"), "application/json"), b"{\"a\": 1}"));
    for answer in join_all(asked).await {
        let (head, body, _) = answer.unwrap();
        assert_eq!((head.status().as_u16(), &body[..], head.headers().get("alt-svc")), (200, &b"hi"[..], None));
    }
    {
        let (judged, heads) = (scene.gate.judged.lock(), target.heads.lock());
        assert_eq!((judged.len(), heads.len(), target.dialled.load(Ordering::SeqCst)), (40, 40, 1));
        assert!(judged.iter().all(|command| command.facts.http.as_ref().unwrap().fields.contains("a=1")));
        for head in &*heads {
            let shown: Vec<_> = head.headers().get_all("authorization").iter().collect();
            assert_eq!(shown, ["Bearer s3cret"]);
            assert_eq!((head.uri().host(), head.headers().get("host")), (Some("api.test"), None));
        }
    }
    let recorded: Vec<u8> = scene.recorded().iter().flat_map(data).collect();
    let text = String::from_utf8_lossy(&recorded);
    assert!(text.contains("/v1/customers/39") && !text.contains("s3cret") && !text.contains("placeholder"));
    drop(scene.agent);
    assert_eq!(scene.served.await.unwrap().unwrap(), Close::Agent);
}

fn data(event: &Observation) -> Vec<u8> {
    let Observation::Data(_, bytes) = event else { return Vec::new() };
    bytes.to_vec()
}

#[tokio::test]
async fn a_recording_is_shown_in_pairs() {
    let scene = Scene::new(Answer::Permit(&[]), two(Behaviour::Plain)).await;
    let (one, other) = join(scene.ask(get("/v1/a"), b""), scene.ask(post("/v1/b", "application/json"), b"[1]")).await;
    assert!(one.is_ok() && other.is_ok());
    for size in [1, 7, 100_000] {
        let mut replay = crate::protocol::http::replay::Replay::default();
        let mut shown = Vec::new();
        for event in scene.recorded() {
            let Observation::Data(direction, bytes) = event else { continue };
            for piece in bytes.chunks(size) {
                shown.extend(crate::protocol::Replayer::feed(&mut replay, direction, piece));
            }
        }
        let text = format!("{shown:?}");
        for expected in [
            "Statement(\"#1 GET /v1/a\")",
            "Statement(\"#3 POST /v1/b\")",
            "Other(\"#3 [1]\")",
            "Complete(\"#1 200\")",
            "Other(\"#1 hi\")",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        assert_eq!(shown.len(), 7, "{text}");
    }
}

#[tokio::test]
async fn a_target_of_the_older_version_is_spoken_to_as_it_speaks() {
    let fake = Arc::new(Fake { answer: OK.into(), ..Fake::default() });
    let scene = Scene::set(Answer::Permit(&[]), Arc::clone(&fake) as Arc<dyn Dial>, false, |_| {}).await;
    for _ in 0..2 {
        let (head, body, _) = scene.ask(post("/v1/x", "application/json"), b"{}").await.unwrap();
        assert_eq!((head.status().as_u16(), &body[..]), (200, &b"hi"[..]));
    }
    let reached = String::from_utf8_lossy(&fake.reached.lock()).into_owned();
    assert!(
        reached.starts_with("POST /v1/x HTTP/1.1\r\nhost: api.test\r\n") && reached.ends_with("\r\n\r\n{}"),
        "{reached}"
    );
    assert!(reached.contains("content-length: 2") && !reached.contains("te:"), "{reached}");
    assert_eq!(fake.dialled.load(Ordering::SeqCst), 1, "the connection is kept");
    let asked = (0..60).map(|_| scene.ask(get("/v1/x"), b""));
    assert!(join_all(asked).await.into_iter().all(|answer| answer.unwrap().1 == b"hi"));
    assert!(fake.dialled.load(Ordering::SeqCst) <= 16, "{:?}", fake.dialled);
}

/// What the older version would take for the end of a head, or for another framing, cannot be said in the newer one.
#[tokio::test]
async fn nothing_is_smuggled_from_one_version_to_the_other() {
    for (fields, body) in [
        (&[("transfer-encoding", "chunked")][..], &b"0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n"[..]),
        (&[("transfer_encoding", "chunked")], b"0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n"),
        // The library knows the length in one spelling alone, and the older version frames by it.
        (&[("content_length", "0"), ("content-type", "application/grpc")], b"GET /admin HTTP/1.1\r\n\r\n"),
        (&[("content-length", "0")], b"GET /admin HTTP/1.1\r\n\r\n"),
        (&[("content-length", "40")], b"{}"),
        (&[("content-length", "2"), ("content-length", "0")], b"{}"),
        (&[("connection", "x-tenant"), ("x-tenant", "mine")], b""),
        (&[("host", "other.test")], b""),
        (&[("upgrade", "websocket")], b""),
        (&[("te", "gzip")], b""),
        (&[("x-tenant", "1"), ("x_tenant", "2")], b""),
    ] {
        let fake = Arc::new(Fake { answer: OK.into(), ..Fake::default() });
        let scene = Scene::set(Answer::Permit(&[]), Arc::clone(&fake) as Arc<dyn Dial>, false, |_| {}).await;
        let mut request = Request::builder().method("POST").uri("http://api.test/v1/x");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let answer = scene.ask(request.body(()).unwrap(), body).await;
        let refused = answer.map_or(true, |(head, ..)| matches!(head.status().as_u16(), 400 | 403));
        assert!(refused, "{fields:?}");
        assert_eq!(fake.reached.lock().len(), 0, "{fields:?}");
        assert_eq!(scene.gate.judged.lock().len(), 0, "{fields:?}");
    }
    for uri in
        ["http://other.test/v1/x", "https://api.test/v1/x", "http://api.test/v1/../x", "http://api.test:8443/v1/x"]
    {
        let scene = Scene::new(Answer::Permit(&[]), two(Behaviour::Plain)).await;
        let answer = scene.ask(Request::builder().uri(uri).body(()).unwrap(), b"").await;
        assert!(answer.map_or(true, |(head, ..)| matches!(head.status().as_u16(), 400 | 403)), "{uri}");
        assert_eq!(scene.gate.judged.lock().len(), 0, "{uri}");
    }
    let scene = Scene::new(Answer::Permit(&[]), two(Behaviour::Plain)).await;
    let connect = Request::builder().method("CONNECT").uri("api.test:443").body(()).unwrap();
    assert!(scene.ask(connect, b"").await.map_or(true, |(head, ..)| head.status().as_u16() >= 400));
}

#[tokio::test]
async fn a_refusal_is_told_on_its_stream_and_others_go_on() {
    let scene = Scene::new(Answer::Deny, two(Behaviour::Plain)).await;
    for _ in 0..3 {
        let (head, body, _) = scene.ask(post("/v1/x", "application/json"), b"{}").await.unwrap();
        assert_eq!(
            (head.status().as_u16(), head.headers()["content-type"].as_bytes()),
            (403, &b"application/problem+json"[..])
        );
        assert!(String::from_utf8_lossy(&body).contains("scripted-rule"));
        // A call of gRPC has its own way to be told.
        let (head, body, _) = scene.ask(post("/shop.Orders/Place", "application/grpc"), b"\0\0\0\0\0").await.unwrap();
        assert_eq!(
            (head.status().as_u16(), head.headers()["grpc-status"].to_str().unwrap(), body.len()),
            (200, "7", 0)
        );
        assert!(head.headers()["grpc-message"].to_str().unwrap().contains("scripted-rule"));
    }
    assert!(!scene.served.is_finished());
}

#[tokio::test]
async fn calls_of_grpc_stream_both_ways_and_end_with_their_status() {
    let target = two(Behaviour::Grpc);
    let scene = Scene::new(Answer::Permit(&[]), Arc::clone(&target) as Arc<dyn Dial>).await;
    let mut agent = scene.agent.clone().ready().await.unwrap();
    let (response, mut sending) = agent.send_request(post("/shop.Orders/Chat", "application/grpc"), false).unwrap();
    let message = |text: &str| {
        let mut out = Vec::new();
        crate::protocol::http::grpc::frames::put(&mut out, 0, text.as_bytes());
        Bytes::from(out)
    };
    // What could be the beginning of the credential waits for nothing behind the end of a message.
    let first = message("first: s3c");
    sending.send_data(first.clone(), false).unwrap();
    let mut body = timeout(Duration::from_secs(5), response).await.unwrap().unwrap().into_body();
    // Each message is answered before the next is sent.
    let mut sent = first;
    for next in ["second: s", "3cret, and a s3cret: third"] {
        let mut heard = Vec::new();
        while heard.len() < sent.len() {
            let piece = timeout(Duration::from_secs(5), body.data()).await.unwrap().unwrap().unwrap();
            heard.extend_from_slice(&piece);
        }
        assert_eq!(heard, sent);
        sent = message(next);
        sending.send_data(sent.clone(), false).unwrap();
    }
    sending.send_data(Bytes::new(), true).unwrap();
    let mut rest = Vec::new();
    while let Some(piece) = timeout(Duration::from_secs(5), body.data()).await.unwrap() {
        rest.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(rest, message("3cret, and a ******: third"));
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(
        (trailers["grpc-status"].to_str().unwrap(), trailers["grpc-message"].to_str().unwrap()),
        ("0", "Bearer ******")
    );
    assert_eq!(target.heads.lock()[0].headers()["te"], "trailers");
    let actions: Vec<String> =
        scene.gate.judged.lock()[0].actions.iter().map(|action| action.name.to_string()).collect();
    assert_eq!(actions, ["http:POST", "http:opaque"]);

    let scene = Scene::new(Answer::Permit(&[]), two(Behaviour::GrpcRefusal)).await;
    let (head, body, _) = scene.ask(post("/shop.Orders/Place", "application/grpc"), b"\0\0\0\0\0").await.unwrap();
    assert_eq!(
        (head.headers()["grpc-status"].to_str().unwrap(), head.headers()["grpc-message"].to_str().unwrap(), body.len()),
        ("5", "Bearer ******", 0)
    );
    // Nor what its words may say where something has to be masked; and what cannot be looked into does not pass.
    let scene = Scene::new(Answer::Permit(&["card"]), two(Behaviour::GrpcRefusal)).await;
    let (head, _, _) = scene.ask(post("/shop.Orders/Place", "application/grpc"), b"\0\0\0\0\0").await.unwrap();
    assert_eq!((head.headers()["grpc-status"].to_str().unwrap(), head.headers().get("grpc-message")), ("5", None));
    let scene = Scene::new(Answer::Permit(&["card"]), two(Behaviour::Grpc)).await;
    let (head, body, _) = scene.ask(post("/shop.Orders/Chat", "application/grpc"), CARD.as_bytes()).await.unwrap();
    assert_eq!((head.headers()["grpc-status"].to_str().unwrap(), body.len()), ("14", 0));
}

#[tokio::test]
async fn a_target_that_answers_early_or_breaks_off_is_heard() {
    let scene = Scene::new(Answer::Permit(&[]), two(Behaviour::Early)).await;
    let mut agent = scene.agent.clone().ready().await.unwrap();
    let long = post("/v1/x", "text/plain");
    let (response, mut sending) = agent.send_request(long, false).unwrap();
    let piece = Bytes::from(vec![b'x'; 16 * 1024]);
    let sends = async {
        for _ in 0..100 {
            sending.reserve_capacity(piece.len());
            let room = timeout(Duration::from_secs(5), std::future::poll_fn(|cx| sending.poll_capacity(cx))).await;
            let Ok(Some(Ok(room))) = room else { return };
            if sending.send_data(piece.slice(..room.min(piece.len())), false).is_err() {
                return;
            }
        }
    };
    let (answer, ()) = join(timeout(Duration::from_secs(5), response), sends).await;
    assert_eq!(answer.unwrap().unwrap().status().as_u16(), 200);

    let scene = Scene::new(Answer::Permit(&[]), two(Behaviour::Broken)).await;
    for _ in 0..2 {
        assert!(scene.ask(get("/v1/x"), b"").await.is_err(), "what is incomplete does not look complete");
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_takes_its_request_along() {
    let target = two(Behaviour::Plain);
    let scene = Scene::new(Answer::Hold, Arc::clone(&target) as Arc<dyn Dial>).await;
    let mut agent = scene.agent.clone().ready().await.unwrap();
    let (response, mut sending) = agent.send_request(post("/v1/x", "application/json"), false).unwrap();
    sending.send_data("{}".into(), true).unwrap();
    while scene.gate.judged.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    sending.send_reset(h2::Reason::CANCEL);
    drop(response);
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!((scene.gate.dropped.load(Ordering::SeqCst), target.heads.lock().len()), (1, 0));
    // Another one waits, is approved, and goes.
    scene.gate.approve.notify_one();
    assert_eq!(scene.ask(get("/v1/x"), b"").await.unwrap().0.status().as_u16(), 200);
}

#[tokio::test]
async fn a_session_that_ends_says_so_on_every_stream() {
    let scene = Scene::new(Answer::Hold, two(Behaviour::Plain)).await;
    let asked = async { join(scene.ask(get("/v1/x"), b""), scene.ask(get("/v1/y"), b"")).await };
    let end = async {
        while scene.gate.judged.lock().len() < 2 {
            tokio::task::yield_now().await;
        }
        scene.gate.end.notify_one();
    };
    let ((one, other), ()) = join(asked, end).await;
    for answer in [one, other] {
        let (head, body, _) = answer.unwrap();
        assert_eq!(head.status().as_u16(), 403);
        assert!(String::from_utf8_lossy(&body).contains("this session"));
    }
    assert_eq!(timeout(Duration::from_secs(5), scene.served).await.unwrap().unwrap().unwrap(), Close::Ended);
    assert!(timeout(Duration::from_secs(5), scene.connection).await.is_ok());
}

#[tokio::test]
async fn who_is_unknown_holds_too_much_or_cannot_be_recorded_is_told_and_ended() {
    for (change, status) in [
        (&(|script: &mut Script| script.token = Some(b"right")) as &dyn Fn(&mut Script), 401),
        (&|script: &mut Script| script.room = 10, 403),
        (&|script: &mut Script| *script.unrecordable.get_mut() = true, 403),
    ] {
        let target = two(Behaviour::Plain);
        let scene =
            Scene::with(Answer::Permit(&[]), Arc::clone(&target) as Arc<dyn Dial>, |script| change(script)).await;
        let answer = scene.ask(post("/v1/x", "application/json"), b"{\"long\": \"enough\"}").await;
        let served = timeout(Duration::from_secs(6), scene.served).await.unwrap().unwrap();
        assert!(matches!(served, Err(Failure::Denied(_) | Failure::Overfull(_))), "{served:?}");
        assert_eq!(target.heads.lock().len(), 0);
        assert_eq!(answer.expect("it is told").0.status().as_u16(), status);
    }
}

/// A body that nobody reads holds no more than its window.
#[tokio::test]
async fn what_waits_is_bounded() {
    let scene = Scene::new(Answer::Hold, two(Behaviour::Plain)).await;
    let mut agent = scene.agent.clone().ready().await.unwrap();
    let (_response, mut sending) = agent.send_request(post("/v1/x", "application/grpc"), false).unwrap();
    sending.reserve_capacity(1 << 20);
    while scene.gate.judged.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    let room = std::future::poll_fn(|cx| sending.poll_capacity(cx)).await.unwrap().unwrap();
    assert!(room <= STREAM_WINDOW as usize, "{room}");
}

#[tokio::test]
async fn a_target_that_takes_no_more_requests_ends_its_answers() {
    let target = two(Behaviour::Leaving);
    let scene = Scene::new(Answer::Permit(&[]), Arc::clone(&target) as Arc<dyn Dial>).await;
    let later = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        scene.ask(get("/v1/y"), b"").await
    };
    let (one, other) = join(scene.ask(get("/v1/x"), b""), later).await;
    assert_eq!((one.unwrap().1, other.unwrap().1), (b"hi".to_vec(), b"hi".to_vec()));
    assert_eq!(target.dialled.load(Ordering::SeqCst), 2);
}

/// In clear nobody has said that the target speaks it: an older one could take what an agent says for requests.
#[tokio::test]
async fn a_target_in_clear_that_does_not_speak_it_hears_nothing_of_the_agent() {
    let fake = Arc::new(Fake { answer: OK.into(), ..Fake::default() });
    let scene = Scene::new(Answer::Permit(&[]), Arc::clone(&fake) as Arc<dyn Dial>).await;
    let (head, ..) = scene.ask(post("/v1/x", "application/json"), b"\"GET /v1/y HTTP/1.1\"").await.unwrap();
    assert_eq!(head.status().as_u16(), 502);
    let reached = String::from_utf8_lossy(&fake.reached.lock()).into_owned();
    assert!(reached.starts_with("PRI ") && !reached.contains("/v1/"), "{reached}");
}

/// An agent that lets nothing be sent, and asks for what is refused.
#[tokio::test]
async fn who_takes_no_answer_is_ended_all_the_same() {
    for identified in [true, false] {
        let gate = Arc::new(script(Answer::Permit(&[])));
        let (agent, ours) = tokio::io::duplex(ROOM);
        let mut conn = conn(tls::Stream::Memory(ours), two(Behaviour::Plain) as Arc<dyn Dial>);
        conn.patience.handshake = Duration::from_millis(500);
        let gate_of_task = Arc::clone(&gate);
        let served = tokio::spawn(async move { serve(conn, &*gate_of_task).await });
        let mut builder = h2::client::Builder::new();
        let (agent, connection) = builder.initial_window_size(0).handshake::<_, Bytes>(agent).await.unwrap();
        let _connection = tokio::spawn(connection);
        let mut agent = agent.ready().await.unwrap();
        if identified {
            let _answer = agent.send_request(get("/v1/x"), true).unwrap();
        }
        let refused = Request::builder().uri("http://api.test/v1/x").header("host", "other.test").body(()).unwrap();
        let _refusal = agent.send_request(refused, true).unwrap();
        while gate.observed.lock().iter().all(|event| !matches!(event, Observation::Denied(_))) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if identified {
            gate.end.notify_one();
        }
        // Who has not said who it is has no more time than for its first request.
        let ended = timeout(Duration::from_secs(15), served).await.expect("it goes on").unwrap();
        assert_eq!(ended.is_ok(), identified, "{ended:?}");
    }
}

#[tokio::test]
async fn long_bodies_are_recorded_in_frames_that_are_shown() {
    let scene = Scene::new(Answer::Permit(&[]), two(Behaviour::Plain)).await;
    let mut agent = scene.agent.clone().ready().await.unwrap();
    let (response, mut sending) = agent.send_request(post("/v1/long", "application/json"), false).unwrap();
    let body = Bytes::from(format!("\"{}\"", "x".repeat(300_000)));
    send_two(&mut sending, body, Duration::from_secs(5), false).await.unwrap();
    sending.send_data(Bytes::new(), true).unwrap();
    assert_eq!(response.await.unwrap().status().as_u16(), 200);
    scene.ask(get("/v1/behind"), b"").await.unwrap();
    let mut replay = crate::protocol::http::replay::Replay::default();
    let mut shown = Vec::new();
    for event in scene.recorded() {
        let Observation::Data(direction, bytes) = event else { continue };
        shown.extend(crate::protocol::Replayer::feed(&mut replay, direction, &bytes));
    }
    assert!(format!("{shown:?}").contains("GET /v1/behind"));
}

/// An agent may send the last byte never.
#[tokio::test]
async fn what_has_come_of_a_body_counts_before_it_is_whole() {
    let scene = Scene::with(Answer::Permit(&[]), two(Behaviour::Plain), |script| script.room = 400_000).await;
    let mut agent = scene.agent.clone().ready().await.unwrap();
    let mut begun = Vec::new();
    for _ in 0..4 {
        let (response, mut sending) = agent.send_request(post("/v1/x", "application/json"), false).unwrap();
        let _room_or_end = send_two(&mut sending, vec![b' '; 200_000].into(), Duration::from_secs(5), false).await;
        begun.push((response, sending));
        agent = match agent.ready().await {
            Ok(agent) => agent,
            Err(_ended) => break,
        };
    }
    let ended = timeout(Duration::from_secs(10), scene.served).await.expect("it goes on").unwrap();
    assert!(matches!(ended, Err(Failure::Overfull(_))), "{ended:?}");
}
