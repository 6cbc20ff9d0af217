//! Answers that go on for hours: they may be quiet, and end when they are not permitted any more.

use super::*;

const ASKED: &str = "GET /v1/events HTTP/1.1\r\nHost: api.test\r\n\r\n";
const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

/// A target that says what a test says.
#[derive(Debug, Default)]
struct Played(Mutex<Option<DuplexStream>>);

impl Dial for Played {
    fn dial(&self) -> BoxFuture<'_, io::Result<tls::Stream>> {
        let (ours, theirs) = tokio::io::duplex(ROOM);
        *self.0.lock() = Some(theirs);
        Box::pin(async { Ok(tls::Stream::Memory(ours)) })
    }

    fn place(&self) -> String {
        "10.0.0.1:443".to_owned()
    }
}

struct Stream {
    gate: Arc<Script>,
    agent: DuplexStream,
    target: DuplexStream,
    heard: String,
}

impl Stream {
    async fn begin(answer: Answer, told: &str) -> Self {
        Self::begin_with(answer, told, ASKED).await
    }

    async fn begin_with(answer: Answer, told: &str, asked: &str) -> Self {
        let (gate, played) = (Arc::new(script(answer)), Arc::new(Played::default()));
        let (mut agent, ours) = tokio::io::duplex(ROOM);
        let conn = conn(tls::Stream::Memory(ours), Arc::clone(&played) as Arc<dyn Dial>);
        let gate_of_task = Arc::clone(&gate);
        tokio::spawn(async move { serve(conn, &*gate_of_task).await });
        agent.write_all(asked.as_bytes()).await.unwrap();
        let target = loop {
            if let Some(target) = played.0.lock().take() {
                break target;
            }
            tokio::task::yield_now().await;
        };
        let mut stream = Self { gate, agent, target, heard: String::new() };
        let mut reached = Vec::new();
        while !String::from_utf8_lossy(&reached).ends_with(asked.split("\r\n\r\n").last().unwrap()) {
            stream.target.read_buf(&mut reached).await.unwrap();
        }
        stream.say(told).await;
        stream.hears("\r\n\r\n").await;
        stream
    }

    /// Others are in force, which permit it or not, and it was judged by them.
    async fn policies_are_replaced(&self, deny: bool) {
        let before = self.gate.judged.lock().len();
        self.gate.deny.store(deny, Ordering::SeqCst);
        self.gate.policies.send_modify(|count| *count += 1);
        while self.gate.judged.lock().len() == before {
            tokio::task::yield_now().await;
        }
    }

    /// The target says that each second: of most answers, silence is the end.
    async fn goes_on(&mut self, more: &str, seconds: usize) {
        for _ in 0..seconds {
            self.say(more).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn say(&mut self, text: &str) {
        self.target.write_all(text.as_bytes()).await.unwrap();
    }

    async fn hears(&mut self, text: &str) {
        let mut buffer = vec![0; 4096];
        while !self.heard.contains(text) {
            let count = self.agent.read(&mut buffer).await.unwrap();
            assert!(count > 0, "{text} was not in {}", self.heard);
            self.heard.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    }

    async fn ends(&mut self) {
        let mut rest = Vec::new();
        self.agent.read_to_end(&mut rest).await.unwrap();
        self.heard.push_str(&String::from_utf8_lossy(&rest));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_events_may_be_quiet_for_hours() {
    for masked in [&[][..], &["card"]] {
        let mut stream = Stream::begin(Answer::Permit(masked), EVENTS).await;
        tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
        stream.say("data: 4111111111111111 at last\n\n").await;
        stream.hears("at last").await;
        assert_eq!(stream.heard.contains("4111111111111111"), masked.is_empty(), "{}", stream.heard);
    }
    // Of any other answer, silence is its end.
    let mut stream = Stream::begin(
        Answer::Permit(&[]),
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nabc",
    )
    .await;
    stream.ends().await;
}

#[tokio::test]
async fn a_stream_is_judged_anew_where_policies_are_replaced() {
    let mut stream = Stream::begin(Answer::Permit(&[]), EVENTS).await;
    stream.gate.policies.send_modify(|count| *count += 1);
    stream.say("data: one\n\n").await;
    stream.hears("one").await;
    stream.gate.deny.store(true, Ordering::SeqCst);
    stream.gate.policies.send_modify(|count| *count += 1);
    stream.ends().await;
    assert!(!stream.heard.ends_with("0\r\n\r\n"), "the agent sees that it is cut off: {}", stream.heard);
    assert_eq!(stream.gate.judged.lock().len(), 3);
    let observed = stream.gate.observed.lock();
    assert!(observed.iter().any(|event| matches!(event, Observation::Denied(_))), "{observed:?}");
}

#[tokio::test]
async fn what_is_cut_off_is_masked_to_its_last_byte() {
    let told = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\ncard 4111111111111111 tail 41111111";
    let mut stream = Stream::begin(Answer::Permit(&["card"]), told).await;
    let (gone, _) = tokio::io::duplex(1);
    stream.target = gone;
    stream.ends().await;
    assert!(!stream.heard.contains("411111111111"), "{}", stream.heard);
}

#[tokio::test]
async fn an_ordinary_answer_goes_to_its_end() {
    let told = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nabc";
    let mut stream = Stream::begin(Answer::Permit(&[]), told).await;
    stream.policies_are_replaced(true).await;
    stream.say("defghi").await;
    stream.hears("defghi").await;
    let observed = stream.gate.observed.lock();
    assert!(!observed.iter().any(|event| matches!(event, Observation::Denied(_))), "{observed:?}");
}

#[tokio::test]
async fn a_stream_that_was_asked_for_at_length_is_judged_anew_too() {
    let body = format!("[{}\"\"]", format!("\"{}\",", "x".repeat(1024)).repeat(100));
    let asked = format!(
        "POST /v1/events HTTP/1.1\r\nHost: api.test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = Stream::begin_with(Answer::Permit(&[]), EVENTS, &asked).await;
    stream.policies_are_replaced(false).await;
    stream.say("data: one\n\n").await;
    stream.hears("one").await;
    {
        let judged = stream.gate.judged.lock();
        let fields = |at: usize| judged[at].facts.http.as_ref().unwrap().fields.clone();
        assert!(judged[1].parameters.is_empty() && fields(1) == fields(0) && fields(0).len() == 101);
    }
    stream.policies_are_replaced(true).await;
    stream.ends().await;
    assert!(!stream.heard.ends_with("0\r\n\r\n"), "{}", stream.heard);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_to_its_end_is_not_waited_for() {
    let kinds = ["text/plain", "application/json", "application/octet-stream"];
    let extents = [
        ("Transfer-Encoding: chunked\r\n\r\n5\r\n[\"fir\r\n", "1\r\n.\r\n"),
        ("Content-Length: 99999\r\n\r\n[\"fir", "."),
    ];
    for (kind, (extent, more)) in kinds.into_iter().flat_map(|kind| extents.map(|extent| (kind, extent))) {
        let told = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{extent}");
        let mut stream = Stream::begin(Answer::Permit(&[]), &told).await;
        stream.hears("fir").await;
        stream.policies_are_replaced(true).await;
        stream.goes_on(more, 4).await;
        // It is permitted again, and goes on for longer than it could have.
        stream.policies_are_replaced(false).await;
        stream.goes_on(more, 4).await;
        let begun = tokio::time::Instant::now();
        stream.policies_are_replaced(true).await;
        stream.goes_on(more, 3).await;
        // Nothing gives it more time.
        stream.policies_are_replaced(true).await;
        stream.ends().await;
        let took = begun.elapsed().as_secs();
        assert!((4..=6).contains(&took) && !stream.heard.ends_with("0\r\n\r\n"), "{took}: {}", stream.heard);
    }
}

/// A target may begin its answer before it has heard the request out.
#[tokio::test(start_paused = true)]
async fn an_answer_that_begins_before_the_request_is_sent_out_is_not_waited_for_either() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 99999\r\n\r\nfirst";
    for is_long in [false, true] {
        let length = BODY_LIMIT + 1;
        let asked = format!("POST /v1/a HTTP/1.1\r\nHost: api.test\r\nContent-Length: {length}\r\n\r\nbegin");
        let mut stream = Stream::begin_with(Answer::Permit(&[]), head, &asked).await;
        stream.hears("first").await;
        let rest = vec![b'x'; length - "begin".len()];
        let mut reached = vec![0; rest.len()];
        let (sent, got) = tokio::join!(stream.agent.write_all(&rest), stream.target.read_exact(&mut reached));
        assert!(sent.is_ok() && got.is_ok());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begun = tokio::time::Instant::now();
        stream.policies_are_replaced(true).await;
        if is_long {
            stream.goes_on(".", 4).await;
            stream.ends().await;
            assert_eq!(begun.elapsed().as_secs(), 5, "{}", stream.heard);
        } else {
            stream.goes_on(".", 3).await;
            stream.say(&"y".repeat(99_999 - "first...".len())).await;
            stream.ends().await;
            let body = stream.heard.split("\r\n\r\n").last().unwrap();
            assert_eq!(body.len(), 99_999);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_done_is_told_whenever_the_target_answers() {
    let (gate, played) = (Arc::new(script(Answer::Permit(&[]))), Arc::new(Played::default()));
    let (mut agent, ours) = tokio::io::duplex(ROOM);
    let conn = conn(tls::Stream::Memory(ours), Arc::clone(&played) as Arc<dyn Dial>);
    let gate_of_task = Arc::clone(&gate);
    tokio::spawn(async move { serve(conn, &*gate_of_task).await });
    agent.write_all(b"DELETE /v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut target = played.0.lock().take().unwrap();
    gate.deny.store(true, Ordering::SeqCst);
    gate.policies.send_modify(|count| *count += 1);
    tokio::time::sleep(Duration::from_secs(4)).await;
    target.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await.unwrap();
    let mut stream = Stream { gate, agent, target, heard: String::new() };
    stream.hears("done").await;
}
