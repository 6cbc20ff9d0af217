//! Cookies: what targets set, and what agents bring.

use super::*;

const SET: &str =
    "HTTP/1.1 200 OK\r\nSet-Cookie: session=of-the-credential\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nhi";
const ASKED: &str =
    "GET /v1/orders HTTP/1.1\r\nHost: api.test\r\nCookie: session=of-somebody-else\r\nX-Kept: 1\r\n\r\n";

fn scene(told: &str, kept: bool) -> Scene {
    let gate = Arc::new(script(Answer::Permit(&[])));
    let fake = Arc::new(Fake { answer: told.as_bytes().to_vec(), ..Fake::default() });
    let (agent, ours) = tokio::io::duplex(ROOM);
    let mut conn = conn(tls::Stream::Memory(ours), Arc::clone(&fake) as Arc<dyn Dial>);
    let text = if kept { "cookies = 'keep'" } else { "" };
    let config: Config = toml::from_str(text).unwrap();
    let names = vec![Name::parse("api.test").unwrap()];
    conn.target = Arc::new(Target {
        name: "api".into(),
        host: "api.test".into(),
        agent_tls: None,
        upstream_tls: tls::Upstream::default(),
        http: Some(Arc::new(config.settings(names).unwrap())),
    });
    let gate_of_task = Arc::clone(&gate);
    let served = tokio::spawn(async move { serve(conn, &*gate_of_task).await });
    Scene { gate, fake, agent, served }
}

#[tokio::test]
async fn neither_log_ins_of_targets_nor_of_others_pass() {
    for kept in [false, true] {
        let mut scene = scene(SET, kept);
        let (head, body) = scene.ask(ASKED).await;
        assert_eq!(
            (head.fields.get("set-cookie").is_some(), head.fields.text("x-kept"), &*body),
            (kept, Some("1"), &b"hi"[..])
        );
        assert_eq!(scene.reached().contains("of-somebody-else"), kept, "{}", scene.reached());
        assert!(scene.reached().contains("x-kept: 1"));
        // Neither is on record, whether it passes or not.
        let recorded = scene.recorded();
        assert!(!recorded.contains("of-the-credential") && !recorded.contains("of-somebody-else"), "{recorded}");
    }
    assert!(toml::from_str::<Config>("cookies = 'some'").is_err());
}

#[tokio::test]
async fn cookies_in_trailers_and_of_sockets_do_not_pass() {
    let told = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Set-Cookie: session=of-the-credential\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let asked = "GET /v1/live HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nCookie: a=b\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut scene = scene(told, false);
    let (head, _) = scene.ask(asked).await;
    assert_eq!((head.status, head.fields.get("set-cookie")), (101, None));
    assert!(!scene.reached().contains("cookie"), "{}", scene.reached());
}
