//! What agents say of who asks, beside the log-in that is put in for them.

use super::*;

const CLAIMING: &str = "GET /v1/orders?key=shoes HTTP/1.1\r\nHost: api.test\r\nX-Forwarded-User: admin\r\nX_Remote_User: admin\r\n\
                        X-Api-Key: of-somebody-else\r\nX-Real-IP: 127.0.0.1\r\nX-Kept: 1\r\n\r\n";

fn scene(text: &str) -> Scene {
    let gate = Arc::new(script(Answer::Permit(&[])));
    let fake = Arc::new(Fake { answer: OK.as_bytes().to_vec(), ..Fake::default() });
    let (agent, ours) = tokio::io::duplex(ROOM);
    let mut conn = conn(tls::Stream::Memory(ours), Arc::clone(&fake) as Arc<dyn Dial>);
    let config: Config = toml::from_str(text).unwrap();
    conn.target = Arc::new(Target {
        name: "api".into(),
        host: "api.test".into(),
        agent_tls: None,
        upstream_tls: tls::Upstream::default(),
        http: Some(Arc::new(config.settings(vec![Name::parse("api.test").unwrap()]).unwrap())),
    });
    let gate_of_task = Arc::clone(&gate);
    let served = tokio::spawn(async move { serve(conn, &*gate_of_task).await });
    Scene { gate, fake, agent, served }
}

#[tokio::test]
async fn nobody_is_somebody_else_because_a_field_says_so() {
    let mut scene = scene("");
    for _ in 0..2 {
        assert_eq!(scene.ask(CLAIMING).await.0.status, 200);
    }
    let reached = scene.reached();
    assert!(!reached.contains("admin") && !reached.contains("127.0.0.1"), "{reached}");
    assert!(!reached.contains("of-somebody-else") && reached.contains("x-kept: 1"), "{reached}");
    assert!(reached.contains("GET /v1/orders?key=shoes") && reached.contains("authorization: Bearer s3cret"));
    // Nobody judges what does not pass, and the record says so once.
    let judged = scene.gate.judged.lock()[0].clone();
    assert!(!judged.statement.contains("admin") && judged.statement.contains("x-kept"), "{}", judged.statement);
    let notes = scene.recorded().matches("is not told").count();
    assert!(notes == 1 && scene.recorded().contains("x-forwarded-user, x-remote-, x-api-key, x-real-ip"));
}

#[tokio::test]
async fn whoever_acts_for_somebody_else_is_told_so_and_not_taken_for_the_log_in() {
    for field in ["Sudo", "X-Hasura-Role", "es-security-runas-user", "Impersonate-User", "X_Run_As"] {
        for (text, passes) in [("".to_owned(), false), (format!("claims = {{ keep = ['{field}'] }}"), true)] {
            let mut scene = scene(&text);
            let (head, body) =
                scene.ask(format!("GET /v1/orders HTTP/1.1\r\nHost: api.test\r\n{field}: somebody\r\n\r\n")).await;
            assert_eq!((head.status == 200, scene.reached().contains("somebody")), (passes, passes), "{field}");
            assert!(passes || String::from_utf8_lossy(&body).contains("http.claims.keep"), "{field}");
        }
    }
}

#[tokio::test]
async fn what_the_configuration_keeps_passes() {
    let mut scene = scene("claims = { keep = ['X-Real-IP', 'token'], more = ['X-Kept'] }");
    let (head, _) = scene.ask(CLAIMING.replace("key=shoes", "token=0f8fad5b-d9cb-469f-a165-70867728950e")).await;
    let reached = scene.reached();
    assert_eq!(head.status, 200);
    assert!(reached.contains("x-real-ip: 127.0.0.1") && reached.contains("token=0f8f"), "{reached}");
    assert!(!reached.contains("x-kept") && !reached.contains("admin"), "{reached}");
}

#[tokio::test]
async fn another_log_in_in_the_query_is_refused_and_not_on_record() {
    for query in [
        "access_token=of-somebody-else",
        "a=1&Access%5FToken[]=of-somebody-else",
        "api_key%00=of-somebody-else",
        "sudo=of-somebody-else",
        "X-Amz-Signature=of-somebody-else",
        "sv=1&sig=of-somebody-else",
        "state=x&code=of-somebody-else-0123456789",
        "ticket=ST-1-of-somebody-else",
        "username=admin&password=of-somebody-else",
        "header=eyJhIjoiYiJ9&payload=of-somebody-else",
        "run_as=of-somebody-else",
        "token=of-somebody-else-0123456789",
    ] {
        let mut scene = scene("");
        let (head, body) = scene.ask(format!("GET /v1/orders?{query} HTTP/1.1\r\nHost: api.test\r\n\r\n")).await;
        assert_eq!((head.status, scene.reached().as_str()), (403, ""), "{query}");
        assert!(String::from_utf8_lossy(&body).contains("http.claims.keep"));
        assert!(!scene.recorded().contains("of-somebody-else"), "{query}");
    }
    for query in [
        "key=shoes&token=next&code=DE",
        "page_token=abcdefghijklmnop1234567",
        "sig=1",
        "u=1",
        "_token=abcdefghijklmnop1234567&_method2=x",
        "state=BY&code=DE&username=alice",
        "continuationToken=abcdefghijklmnop1234567",
        "header=true&payload=full",
        "ticket=0f8fad5b-d9cb-469f-a165-70867728950e",
        "impersonate=false&run_as=&access_key=",
    ] {
        let mut scene = scene("");
        let (head, _) = scene.ask(format!("GET /v1/orders?{query} HTTP/1.1\r\nHost: api.test\r\n\r\n")).await;
        assert_eq!(head.status, 200, "{query}");
    }
}

#[tokio::test]
async fn no_spelling_of_the_parameter_stands_beside_ours() {
    for theirs in [
        "api_key=theirs",
        "api%5Fkey=theirs",
        "API_KEY=theirs",
        "api_key[]=theirs",
        "api_key%5B0%5D=theirs",
        "api_key%00=theirs",
        "+api_key=theirs",
        "api_key%20=theirs",
        "api.key=theirs",
        "api%255Fkey=theirs",
        "api_key=theirs&api_key=theirs",
    ] {
        let mut scene = scene("log_in = { query = 'api_key' }");
        let asked = format!("GET /v1/orders?{theirs}&page=2&{theirs} HTTP/1.1\r\nHost: api.test\r\n\r\n");
        assert_eq!(scene.ask(asked).await.0.status, 200, "{theirs}");
        let reached = scene.reached();
        assert!(reached.starts_with("GET /v1/orders?page=2&api_key=s3cret HTTP/1.1\r\n"), "{reached}");
    }
    for theirs in ["page=2;api_key=theirs", "api_key=theirs%zz", "a=1&access_token=theirs"] {
        let mut scene = scene("log_in = { query = 'api_key' }");
        let (head, _) = scene.ask(format!("GET /v1/orders?{theirs} HTTP/1.1\r\nHost: api.test\r\n\r\n")).await;
        assert_eq!((head.status, scene.reached().as_str()), (403, ""), "{theirs}");
    }
}

#[tokio::test]
async fn tokens_beside_ours_and_odd_names_do_not_pass() {
    for field in [
        "Sec-WebSocket-Protocol: chat, bearer, of-somebody-else",
        "Sec-WebSocket-Protocol: openai-insecure-api-key.of-somebody-else",
        "Sec-WebSocket-Protocol: token\r\nSec-WebSocket-Protocol: of-somebody-else",
        "Sec-WebSocket-Protocol: v1.token.websocket.jupyter.org.of-somebody-else",
        "Sec-WebSocket-Protocol: graphql-ws, header-of-somebody-else",
        "Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.of-somebody-else",
        "Impersonate.User: of-somebody-else",
        "Proxy.Authorization: of-somebody-else",
        "X-A!b: of-somebody-else",
    ] {
        let mut scene = scene("claims = { keep = ['impersonate-user'] }");
        let asked = format!("GET /v1/orders?a=of-somebody-else HTTP/1.1\r\nHost: api.test\r\n{field}\r\n\r\n");
        let (head, body) = scene.ask(asked).await;
        assert_eq!((head.status, scene.reached().as_str()), (403, ""), "{field}");
        let told = String::from_utf8_lossy(&body).into_owned() + &scene.recorded();
        assert!(!told.contains("of-somebody-else"), "{field}: {told}");
    }
    let mut scene = scene("");
    let asked = "GET /v1/orders HTTP/1.1\r\nHost: api.test\r\nX-Amz-Meta-a.b: 1\r\nSec-WebSocket-Protocol: chat, v2.bearers\r\n\r\n";
    assert_eq!(scene.ask(asked).await.0.status, 200);
    assert!(scene.reached().contains("x-amz-meta-a.b: 1"), "{}", scene.reached());
}

#[tokio::test]
async fn what_stands_in_authorization_is_shown_to_no_target() {
    for (text, keeps) in [("", false), ("claims = { keep = ['x-api-key'] }", true)] {
        let mut scene = scene(text);
        let asked =
            "GET /v1/orders HTTP/1.1\r\nHost: api.test\r\nAuthorization: Bearer theirs\r\nX-Api-Key: second\r\n\r\n";
        assert_eq!(scene.ask(asked).await.0.status, 200);
        let reached = scene.reached();
        assert!(!reached.contains("theirs") && reached.contains("second") == keeps, "{reached}");
    }
}
