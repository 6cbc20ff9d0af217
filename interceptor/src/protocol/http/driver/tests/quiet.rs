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
        let (gate, played) = (Arc::new(script(answer)), Arc::new(Played::default()));
        let (mut agent, ours) = tokio::io::duplex(ROOM);
        let conn = conn(tls::Stream::Memory(ours), Arc::clone(&played) as Arc<dyn Dial>);
        let gate_of_task = Arc::clone(&gate);
        tokio::spawn(async move { serve(conn, &*gate_of_task).await });
        agent.write_all(ASKED.as_bytes()).await.unwrap();
        let target = loop {
            if let Some(target) = played.0.lock().take() {
                break target;
            }
            tokio::task::yield_now().await;
        };
        let mut stream = Self { gate, agent, target, heard: String::new() };
        stream.say(told).await;
        stream.hears("\r\n\r\n").await;
        stream
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
    stream.gate.deny.store(true, Ordering::SeqCst);
    stream.gate.policies.send_modify(|count| *count += 1);
    while stream.gate.judged.lock().len() < 2 {
        tokio::task::yield_now().await;
    }
    stream.say("defghi").await;
    stream.hears("defghi").await;
    let observed = stream.gate.observed.lock();
    assert!(!observed.iter().any(|event| matches!(event, Observation::Denied(_))), "{observed:?}");
}
