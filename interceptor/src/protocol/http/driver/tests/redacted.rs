//! Secrets that agents say in bodies: they reach the target and policies, and neither recordings nor approvers.

use super::*;

fn post(kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /v1/login HTTP/1.1\r\nHost: api.test\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn what_an_agent_logs_in_with_is_not_on_record() {
    for (kind, body) in [
        ("application/json", r#"{"user":"ada","password":"hunter-2"}"#),
        ("application/x-www-form-urlencoded", "user=ada&client_secret=hunter-2&grant_type=password"),
    ] {
        let mut scene = Scene::new(Answer::Permit(&[]), OK);
        assert_eq!(scene.ask(post(kind, body)).await.0.status, 200);
        assert!(scene.reached().ends_with(body) && scene.recorded().contains("********"), "{}", scene.recorded());
        let recorded = scene.recorded();
        assert!(!recorded.contains("hunter-2") && recorded.contains("ada"), "{recorded}");
        let judged = scene.gate.judged.lock()[0].clone();
        let shown = judged.parameters[0].value.clone().unwrap();
        assert!(!String::from_utf8_lossy(&shown).contains("hunter-2") && judged.statement.contains("\nbody: hmac "));
        // Policies see what is said, and a grant is for that.
        let http = judged.facts.http.clone().unwrap();
        assert!(http.fields.iter().any(|field| field.ends_with("=hunter-2")), "{:?}", http.fields);
        let mut other = Scene::new(Answer::Permit(&[]), OK);
        other.ask(post(kind, &body.replace("hunter-2", "hunter-3"))).await;
        let other = other.gate.judged.lock()[0].clone();
        assert_eq!(other.parameters[0].value.clone().unwrap(), shown);
        assert_ne!(other.statement, judged.statement);
    }
    let mut scene = Scene::new(Answer::Permit(&[]), OK);
    scene.ask(post("application/json", r#"{"pageToken":"x","name":"ada"}"#)).await;
    assert!(scene.recorded().contains(r#"{"pageToken":"x","name":"ada"}"#));
    assert!(!scene.gate.judged.lock()[0].statement.contains("body: "));
}

/// The agent chooses the names by which values are hidden.
#[tokio::test]
async fn approvers_are_told_what_they_do_not_see() {
    let asked = async |kind: &str, body: &str| {
        let mut scene = Scene::new(Answer::Permit(&[]), OK);
        assert_eq!(scene.ask(post(kind, body)).await.0.status, 200);
        let judged = scene.gate.judged.lock()[0].clone();
        let shown = String::from_utf8_lossy(judged.parameters[0].value.as_ref().unwrap()).into_owned();
        (judged.statement.to_string(), shown, scene.recorded())
    };
    let body = r#"{"amount":{"value":9500000,"name":"token"},"replicas":500}"#;
    let (statement, shown, recorded) = asked("application/json", body).await;
    assert!(statement.ends_with("\nhidden: amount.value (beside name: token), a number"), "{statement}");
    assert_eq!(shown, r#"{"amount":{"value":"*****","name":"token"},"replicas":500}"#);
    assert!(recorded.contains(&shown), "{recorded}");
    // The same finds its grant again.
    assert_eq!(asked("application/json", body).await.0, statement);
    assert_ne!(asked("application/json", &body.replace("9500000", "9500001")).await.0, statement);
    // A currency is no secret.
    let body = r#"{"amount":{"value":9500000,"currency":"EUR","type":"token"}}"#;
    let (statement, shown, _) = asked("application/json", body).await;
    assert!(!statement.contains("hidden") && shown == body, "{statement} {shown}");
    // What merely says that it is in Protocol Buffers is read as what it is.
    let (statement, _, recorded) = asked("application/vnd.x.protobuf+json", r#"{"password":"hunter-2"}"#).await;
    assert!(!recorded.contains("hunter-2") && statement.ends_with("\nhidden: password"), "{recorded} {statement}");
}
