//! Servers of the Model Context Protocol: the driver between a client and a server, both played here.

use super::*;
use crate::protocol::mcp;

const CARD: &str = "4111111111111111";
const CALL: &str =
    r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"get_customer","arguments":{"id":7}}}"#;

fn tools(answer: Answer, told: &str) -> Scene {
    let names = ["crm"].iter().filter_map(|name| Name::parse(name)).collect();
    let masks = [
        "tag = 'card'\ndetect = ['card']",
        "tag = 'pii'\njson = ['crm/get_customer:$.result..email', 'crm:$.result.token']",
    ];
    let masks = masks.map(|text| toml::from_str(text).unwrap());
    let gate = Arc::new(script(answer));
    let fake = Arc::new(Fake { answer: told.as_bytes().to_vec(), ..Fake::default() });
    let (agent, ours) = tokio::io::duplex(ROOM);
    let conn = Conn {
        agent: tls::Stream::Memory(ours),
        target: Arc::new(Target {
            name: "crm".into(),
            host: "crm".into(),
            agent_tls: None,
            upstream_tls: tls::Upstream::default(),
            http: Some(Arc::new(mcp::settings(&Config::default(), names).unwrap())),
        }),
        dial: Arc::clone(&fake) as Arc<dyn Dial>,
        rules: Arc::new(Rules::compile(&masks, None).unwrap()),
        session: SessionId::NONE,
        patience: Patience { handshake: Duration::from_secs(5), stalled: Duration::from_secs(5) },
    };
    let gate_of_task = Arc::clone(&gate);
    let served = tokio::spawn(async move { serve(conn, &*gate_of_task).await });
    Scene { gate, fake, agent, served }
}

fn post(body: &str) -> String {
    let length = body.len();
    format!(
        "POST /mcp HTTP/1.1\r\nHost: crm\r\nContent-Type: application/json\r\nMcp-Session-Id: s\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn answers(kind: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_refusal_is_an_error_of_its_id_and_nothing_reaches_the_server() {
    let mut scene = tools(Answer::Deny, OK);
    for (body, id) in [
        (CALL.to_owned(), serde_json::json!(7)),
        (CALL.replace(":7,\"method", ":\"a\\u0062\",\"method"), "ab".into()),
        (CALL.replace("tools/call", "tools/unknown"), 7.into()),
    ] {
        let (head, told) = scene.ask(post(&body)).await;
        let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
        assert_eq!((head.status, head.fields.text("content-type")), (200, Some("application/json")));
        assert_eq!((&told["id"], &told["error"]["data"]["rule"]), (&id, &"scripted-rule".into()), "{told}");
    }
    let batch = format!("[{CALL},{}]", CALL.replace(":7,", ":8,"));
    let (head, told) = scene.ask(post(&batch)).await;
    let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
    assert_eq!((head.status, &told[0]["id"], &told[1]["id"]), (200, &7.into(), &8.into()));
    // What has no id, or none that can be read, gets a status.
    for body in [
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        "{",
        &CALL.replace("\"id\":7,", "\"id\":7,\"ID\":8,"),
    ] {
        let (head, told) = scene.ask(post(body)).await;
        let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
        assert_eq!((head.status, &told["id"]), (403, &serde_json::Value::Null), "{body}");
    }
    let (head, _) = scene.ask("GET /mcp HTTP/1.1\r\nHost: crm\r\nAccept: text/event-stream\r\n\r\n").await;
    assert_eq!(head.status, 403);
    let upgrade = "GET /mcp HTTP/1.1\r\nHost: crm\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert_eq!(scene.ask(upgrade).await.0.status, 403);
    assert_eq!((scene.reached(), scene.fake.dialled.load(Ordering::SeqCst)), (String::new(), 0));
}

#[tokio::test]
async fn a_dead_server_is_an_error_of_the_id_as_well() {
    let mut scene = tools(Answer::Permit(&[]), "nonsense\r\n\r\n");
    let (head, told) = scene.ask(post(CALL)).await;
    let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
    assert_eq!((head.status, &told["id"], &told["error"]["code"]), (200, &7.into(), &502.into()), "{told}");
}

#[tokio::test]
async fn a_held_call_waits_and_then_goes_as_it_was() {
    let mut scene = tools(Answer::Hold, &answers("application/json", r#"{"jsonrpc":"2.0","id":7,"result":{}}"#));
    scene.agent.write_all(post(CALL).as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(scene.reached(), "");
    scene.gate.approve.notify_one();
    assert_eq!(scene.answer().await.0.status, 200);
    assert!(scene.reached().ends_with(CALL) && scene.reached().contains("authorization: Bearer s3cret"));
    assert_eq!(scene.actions(), ["mcp:call crm/get_customer"]);
}

#[tokio::test]
async fn results_are_masked_in_structure_in_text_and_in_streams() {
    let inner = r#"{\"name\":\"Ada\",\"email\":\"ada@x.example\"}"#;
    let result = format!(
        r#"{{"jsonrpc":"2.0","id":7,"result":{{"content":[{{"type":"text","text":"{inner}"}},{{"type":"text","text":"card {CARD}"}}],"structuredContent":{{"email":"ada@x.example","name":"Ada"}},"token":"t0k"}}}}"#
    );
    let stream = format!("event: message\ndata: {result}\n\n");
    for (kind, told) in [("application/json", &result), ("text/event-stream", &stream)] {
        let mut scene = tools(Answer::Permit(&["card", "pii"]), &answers(kind, told));
        let (_, body) = scene.ask(post(CALL)).await;
        let body = String::from_utf8(body).unwrap();
        assert!(!body.contains("ada@x.example") && !body.contains(CARD) && !body.contains("t0k"), "{body}");
        assert!(body.contains(r#"{\"name\":\"Ada\",\"email\":\"[masked:pii]\"}"#), "{body}");
        assert!(body.contains(r#""structuredContent":{"email":"[masked:pii]","name":"Ada"}"#), "{body}");
        assert!(!scene.recorded().contains("ada@x.example") && !scene.recorded().contains("t0k"));
    }
    // Servers answer by the id alone: what comes may be the answer to another call that has it, and may come in a list.
    for told in [result.clone(), format!("[{result}]")] {
        let mut scene = tools(Answer::Permit(&["card", "pii"]), &answers("application/json", &told));
        let (_, body) = scene.ask(post(&CALL.replace("get_customer", "other"))).await;
        let body = String::from_utf8(body).unwrap();
        assert!(!body.contains("ada@x.example") && !body.contains(CARD) && !body.contains("t0k"), "{body}");
    }
    // The rest of an answer that was broken off may be any tool's.
    for asked in [
        "GET /mcp HTTP/1.1\r\nHost: crm\r\nLast-Event-ID: 3\r\n\r\n".to_owned(),
        post(&format!("[{},{CALL}]", CALL.replace("get_customer", "other"))),
        post(r#"{"jsonrpc":"2.0","id":1,"method":"tasks/result","params":{"taskId":"1"}}"#),
    ] {
        let mut scene = tools(Answer::Permit(&["card", "pii"]), &answers("text/event-stream", &stream));
        let (_, body) = scene.ask(&asked).await;
        assert!(!String::from_utf8_lossy(&body).contains("ada@x.example"), "{asked}");
    }
}

#[tokio::test]
async fn a_server_that_echoes_the_credential_is_not_heard() {
    let told = r#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"you are s3cret, czNjcmV0"}]}}"#;
    for (kind, told) in [("application/json", told.to_owned()), ("text/event-stream", format!("data: {told}\n\n"))] {
        let mut scene = tools(Answer::Permit(&[]), &answers(kind, &told));
        let (_, body) = scene.ask(post(CALL)).await;
        let body = String::from_utf8(body).unwrap();
        assert!(!body.contains("s3cret") && !body.contains("czNjcmV0") && body.contains("you are"), "{body}");
        assert!(!scene.recorded().contains("czNjcmV0"));
    }
}
