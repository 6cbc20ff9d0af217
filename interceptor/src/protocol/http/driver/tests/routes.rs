//! Paths that a target may take for those of another route.

use super::*;

#[tokio::test]
async fn a_path_that_some_server_takes_for_another_is_judged_and_masked_as_both() {
    let body = r#"{"email":"ada@x.example","id":7}"#;
    let told =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for (path, on) in [
        ("/v1/customers/7", &["http:GET api/v1/customers/{id}"][..]),
        ("/v1/customers/7/", &["http:GET api/v1/{rest*}", "http:GET api/v1/customers/{id}"]),
        ("/v1/Customers/7", &["http:GET api/v1/{rest*}", "http:GET api/v1/customers/{id}"]),
        ("/V1/customers/7", &["http:GET api", "http:GET api/v1/customers/{id}", "http:GET api/v1/{rest*}"]),
    ] {
        let mut scene = Scene::new(Answer::Permit(&["pii"]), &told);
        let (_, shown) = scene.ask(format!("GET {path} HTTP/1.1\r\nHost: api.test\r\n\r\n")).await;
        let shown = String::from_utf8_lossy(&shown);
        assert!(shown.contains(r#""email":"[masked:pii]""#) && shown.contains(r#""id":7"#), "{path}: {shown}");
        assert_eq!(scene.actions(), on, "{path}");
    }
    // Elsewhere nothing is asked for beside, and nothing is masked by that path.
    let mut scene = Scene::new(Answer::Permit(&["pii"]), &told);
    let (_, shown) = scene.ask("GET /v1/orders/7 HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
    assert!(String::from_utf8_lossy(&shown).contains("ada@x.example"));
    assert_eq!(scene.actions(), ["http:GET api/v1/{rest*}"]);
}
