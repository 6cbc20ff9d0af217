//! Requests to a cluster, as policies see them.

use std::sync::Arc;

use super::*;
use crate::protocol::http::action::Body;
use crate::protocol::http::codec;
use crate::protocol::http::grpc::Called;

/// What a request would do: `verb resource`, one after the other; and its facts.
fn asked(head: &str, body: &str) -> Command {
    let text = format!("{}\r\nhost: cluster\r\ncontent-length: {}\r\n\r\n", head.replace('\n', "\r\n"), body.len());
    let (head, _) = codec::request(text.as_bytes()).unwrap().unwrap();
    let location = Location::read(&head.target).unwrap();
    let body = Body::Whole(Bytes::copy_from_slice(body.as_bytes()));
    let (target, routes): (Arc<str>, _) = ("prod".into(), Routes::default());
    action::command(&Asked {
        target: &target,
        routes: &routes,
        head: &head,
        location: &location,
        body: &body,
        called: Called::Nothing,
    })
}

fn actions(head: &str, body: &str) -> Vec<String> {
    let command = asked(head, body);
    command.actions.iter().map(|action| format!("{} {}", action.name.as_str(), action.resource.id())).collect()
}

const JSON: &str = "\ncontent-type: application/json";
const WEB: &str = "/apis/apps/v1/namespaces/shop/deployments/web HTTP/1.1";

#[test]
fn requests_are_verbs_on_objects() {
    for (head, expected) in [
        ("GET /api/v1/namespaces/shop/pods/web HTTP/1.1", "k8s:get prod/shop/core/pods/web"),
        ("GET /api/v1/namespaces/shop/pods/web/log?follow=1 HTTP/1.1", "k8s:log prod/shop/core/pods/web"),
        ("GET /api/v1/namespaces/shop/pods?watch=1 HTTP/1.1", "k8s:watch prod/shop/core/pods"),
        (
            "GET /apis/apps/v1/namespaces/shop/deployments/web/scale HTTP/1.1",
            "k8s:get prod/shop/apps/deployments%2Fscale/web",
        ),
        ("POST /api/v1/namespaces/shop/pods/web/eviction HTTP/1.1", "k8s:delete prod/shop/core/pods/web"),
        ("POST /api/v1/namespaces/shop/pods/web/exec?command=ls HTTP/1.1", "k8s:exec prod/shop/core/pods/web"),
        ("GET /api/v1/namespaces/shop/pods/web/exec?command=ls HTTP/1.1", "k8s:exec prod/shop/core/pods/web"),
        ("GET /api/v1/namespaces/shop/pods/web/attach HTTP/1.1", "k8s:attach prod/shop/core/pods/web"),
        ("POST /api/v1/namespaces/shop/pods/web/portforward HTTP/1.1", "k8s:portforward prod/shop/core/pods/web"),
        ("DELETE /api/v1/namespaces/shop/pods/web/proxy/x?a=1&a=2 HTTP/1.1", "k8s:proxy prod/shop/core/pods/web"),
        ("GET /api/v1/nodes/n1/proxy/run/kube-system/x/y HTTP/1.1", "k8s:proxy prod//core/nodes/n1"),
        ("GET /openapi/v2 HTTP/1.1", "k8s:discover prod"),
        ("GET /metrics HTTP/1.1", "k8s:opaque prod"),
        ("GET /api/v1/nodes HTTP/1.1", "k8s:list prod//core/nodes"),
    ] {
        assert_eq!(actions(head, ""), [expected], "{head}");
    }
    let all = actions("DELETE /api/v1/pods HTTP/1.1", "");
    let expected =
        ["k8s:all_namespaces prod//core/pods", "k8s:delete prod//core/pods", "k8s:deletecollection prod//core/pods"];
    assert_eq!(all, expected);
}

#[test]
fn whatever_may_scale_is_a_scale() {
    let scale = "k8s:scale prod/shop/apps/deployments/web";
    for (head, body) in [
        (format!("PATCH {}", WEB.replace("web ", "web/scale ")), "{}"),
        (format!("PUT {}", WEB.replace("web ", "web/scale ")), "{}"),
        (format!("PUT {WEB}{JSON}"), "{\"spec\":{}}"),
        (format!("PATCH {WEB}\ncontent-type: application/merge-patch+json"), "{\"spec\":{\"replicas\":0}}"),
        (format!("PATCH {WEB}\ncontent-type: application/apply-patch+yaml"), "{\"spec\":{}}"),
        (
            format!("PATCH {WEB}\ncontent-type: application/json-patch+json"),
            r#"[{"op":"remove","path":"/spec/replicas"}]"#,
        ),
    ] {
        assert!(actions(&head, body).iter().any(|action| action == scale), "{head} {body}");
    }
    let scaler =
        "POST /apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers HTTP/1.1\ncontent-type: application/json";
    assert!(actions(scaler, "{}").contains(&"k8s:scale prod/shop/autoscaling/horizontalpodautoscalers".to_owned()));
    let other = format!("PATCH {WEB}\ncontent-type: application/merge-patch+json");
    assert_eq!(actions(&other, "{\"metadata\":{}}"), ["k8s:patch prod/shop/apps/deployments/web"]);
}

#[test]
fn what_cannot_be_known_is_opaque() {
    let widget = "POST /apis/example.org/v1/namespaces/shop/widgets HTTP/1.1";
    for (head, body) in [
        (format!("{widget}\ncontent-type: application/vnd.kubernetes.protobuf"), "k8s"),
        (format!("{widget}\ncontent-type: application/yaml"), "a: &x b"),
        (format!("{widget}\ncontent-type: application/yaml"), "a: yes"),
        (format!("{widget}\ncontent-type: application/yaml"), "a: b\nA: c"),
        (format!("{widget}\ncontent-type: application/yaml; charset=utf-16"), "a: b"),
        (format!("{widget}\ncontent-type: application/yaml\ncontent-encoding: gzip"), "a: b"),
        (format!("PATCH {WEB}\ncontent-type: application/apply-patch+yaml"), "a: b\n---\nc: d"),
        (format!("{widget}{JSON}"), "{\"a\":1,\"A\":2}"),
        (format!("{widget}{JSON}\ncontent-encoding: gzip"), "{}"),
        (format!("PATCH {WEB}{JSON}"), "{}"),
        (
            format!("PATCH {WEB}\ncontent-type: application/json-patch+json"),
            r#"[{"op":"copy","from":"/a","path":"/b"}]"#,
        ),
        ("GET /api/v1/pods?watch=0&watch=1 HTTP/1.1".to_owned(), ""),
        ("GET /api/v1/namespaces/s/pods?labelSelector=a&labelSelector=b HTTP/1.1".to_owned(), ""),
        ("GET /api/v1/namespaces/s/pods/p/portforward?ports=x HTTP/1.1".to_owned(), ""),
        ("OPTIONS /api/v1/namespaces/s/pods/p HTTP/1.1".to_owned(), ""),
        ("GET /api/v1/namespaces/s/pods/p HTTP/1.1\nx-remote-user: admin".to_owned(), ""),
        ("GET /api/v1/namespaces/s/pods/p HTTP/1.1\nimpersonate-whatever: admin".to_owned(), ""),
        ("GET /api/v1/namespaces/s/pods/p HTTP/1.1\nx-http-method-override: DELETE".to_owned(), ""),
    ] {
        let found = actions(&head, body);
        assert!(found.iter().any(|action| action.starts_with("k8s:opaque ")), "{head} {body}: {found:?}");
    }
    // Plain YAML is read, and JSON by its name.
    let yaml = format!("{widget}\ncontent-type: application/yaml; charset=utf-8");
    let named = "metadata:\n  name: w\n";
    assert_eq!(actions(&yaml, named), ["k8s:create prod/shop/example.org/widgets/w"]);
    let yaml = format!("{widget}\ncontent-type: application/yaml");
    assert_eq!(actions(&yaml, r#"{"metadata":{"name":"w"}}"#), ["k8s:create prod/shop/example.org/widgets/w"]);
}

#[test]
fn acting_as_somebody_else_is_an_action() {
    let head = "GET /api/v1/namespaces/s/pods/p HTTP/1.1\nimpersonate-user: system:serviceaccount:kube-system:admin\n\
                impersonate-group: system:masters\nimpersonate-extra-scopes: all\nimpersonate-uid: 7";
    let expected = [
        "k8s:get prod/s/core/pods/p",
        "k8s:impersonate prod//authentication.k8s.io/uids/7",
        "k8s:impersonate prod//authentication.k8s.io/userextras%2Fscopes/all",
        "k8s:impersonate prod//core/groups/system:masters",
        "k8s:impersonate prod/kube-system/core/serviceaccounts/admin",
    ];
    let mut found = actions(head, "");
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn the_command_line_is_known() {
    let exec = "POST /api/v1/namespaces/s/pods/p/exec?container=app&command=sh&command=-c&command=echo+'hi'%20%26%26+rm&stdin=true&tty=0 HTTP/1.1";
    let facts = asked(exec, "").facts.k8s.clone().unwrap();
    assert_eq!((facts.program.as_deref(), facts.container.as_deref()), (Some("sh"), Some("app")));
    assert_eq!(facts.command.as_deref(), Some(r"sh -c 'echo '\''hi'\'' && rm'"));
    assert_eq!((facts.stdin, facts.tty), (true, false));
    let forward = "GET /api/v1/namespaces/s/pods/p/portforward?ports=80,443&ports=5432 HTTP/1.1";
    assert_eq!(asked(forward, "").facts.k8s.clone().unwrap().ports, [80, 443, 5432].into());
}

#[test]
fn dry_runs_are_what_the_cluster_takes_for_one() {
    let dry = |head: &str, body: &str| asked(head, body).facts.k8s.clone().unwrap().dry_run;
    let delete = "DELETE /api/v1/namespaces/s/pods/p?dryRun=All HTTP/1.1\ncontent-type: application/json";
    assert!(dry(delete, ""));
    // The body takes the place of the query.
    assert!(!dry(delete, "{\"kind\":\"DeleteOptions\"}"));
    assert!(dry(delete, "{\"dryRun\":[\"All\"]}"));
    assert!(!dry("DELETE /api/v1/namespaces/s/pods/p?dryRun=all HTTP/1.1", ""));
    assert!(!dry("POST /api/v1/namespaces/s/pods/p/exec?dryRun=All&command=x HTTP/1.1", ""));
    assert!(!dry("POST /api/v1/namespaces/s/pods/p/eviction?dryRun=All HTTP/1.1", ""));
}

#[test]
fn a_test_of_a_secret_asks_for_what_is_masked() {
    let patch = |resource: &str, op: &str| {
        let head =
            format!("PATCH /api/v1/namespaces/s/{resource}/db HTTP/1.1\ncontent-type: application/json-patch+json");
        asked(&head, &format!(r#"[{{"op":"{op}","path":"/data/p","value":"eA=="}}]"#)).facts.filters_on_masked
    };
    assert!(patch("secrets", "test") && patch("secrets", "copy") && patch("configmaps", "test"));
    // The cluster says whether any change of a Secret was one.
    assert!(patch("secrets", "replace") && !patch("configmaps", "replace"));
    let put = "PUT /api/v1/namespaces/s/secrets/db?dryRun=All HTTP/1.1\ncontent-type: application/json";
    assert!(asked(put, "{}").facts.filters_on_masked);
}

#[test]
fn what_is_sent_through_a_proxy_is_no_dry_run() {
    let proxied = "DELETE /api/v1/namespaces/shop/services/web:80/proxy/admin?dryRun=All HTTP/1.1\ncontent-type: application/json";
    let command = asked(proxied, "{\"dryRun\":[\"All\"]}");
    assert!(!command.facts.k8s.clone().unwrap().dry_run);
    // Nor is a token that is made all the same.
    let token = "POST /api/v1/namespaces/s/serviceaccounts/x/token?dryRun=All HTTP/1.1\ncontent-type: application/json";
    assert!(!asked(token, "{}").facts.k8s.clone().unwrap().dry_run);
}

#[test]
fn what_is_forbidden_on_an_object_stays_so_where_something_is_in_doubt() {
    let head = "GET /api/v1/namespaces/kube-system/secrets?watch=0&watch=0 HTTP/1.1\nimpersonate-user: system:serviceaccount:shop:x";
    let expected = [
        "k8s:impersonate prod/shop/core/serviceaccounts/x",
        "k8s:list prod/kube-system/core/secrets",
        "k8s:opaque prod/kube-system/core/secrets",
    ];
    let mut found = actions(head, "");
    found.sort();
    assert_eq!(found, expected);
    let place = Kubernetes.place(&Routes::default(), &Location::read("/api/v1/secrets?watch=0&watch=0").unwrap());
    assert_eq!(place.as_deref(), Some("/core/secrets"));
    let exec = "POST /api/v1/namespaces/s/pods/p/exec?command=rm&x=1&x=2 HTTP/1.1";
    assert_eq!(asked(exec, "").facts.k8s.clone().unwrap().program.as_deref(), Some("rm"));
}

#[test]
fn what_cannot_be_read_may_ask_for_anything() {
    for (kind, body) in
        [("application/json", "{\"spec\":{\"hostPID\":true,\"hostPID\":true}}"), ("application/yaml", "a: &x b")]
    {
        let pods = format!("POST /api/v1/namespaces/s/pods HTTP/1.1\ncontent-type: {kind}");
        assert!(asked(&pods, body).facts.k8s.clone().unwrap().privileges.contains("unknown"), "{body}");
        let web = format!("PUT {WEB}\ncontent-type: {kind}");
        assert!(actions(&web, body).iter().any(|action| action.starts_with("k8s:scale ")), "{body}");
    }
    let pods = "POST /api/v1/namespaces/s/pods HTTP/1.1\ncontent-type: application/json";
    assert!(!asked(pods, "{}").facts.k8s.clone().unwrap().privileged);
}

/// Whatever is known of an object in JSON is known of it in YAML.
#[test]
fn yaml_says_what_json_says() {
    let json = r#"{"metadata":{"name":"web","labels":{"app":"web"}},"spec":{"replicas":3,"template":{"spec":{"hostPID":true,
        "containers":[{"image":"nginx:1","securityContext":{"capabilities":{"add":["SYS_ADMIN"]}}}]}}}}"#;
    let yaml = "metadata: {name: web, labels: {app: web}}\nspec:\n  replicas: 3\n  template:\n    spec:\n      hostPID: true\n\
                \x20     containers:\n      - image: nginx:1\n        securityContext:\n          capabilities: {add: [SYS_ADMIN]}\n";
    let make = "POST /apis/apps/v1/namespaces/shop/deployments HTTP/1.1\ncontent-type: application";
    let (json, yaml) = (asked(&format!("{make}/json"), json), asked(&format!("{make}/yaml"), yaml));
    assert_eq!(json.actions, yaml.actions);
    assert_eq!(json.facts.k8s, yaml.facts.k8s);
    let fields = |command: &Command| command.facts.http.as_ref().map(|http| http.fields.clone());
    assert_eq!(fields(&json), fields(&yaml));
    assert!(yaml.facts.k8s.as_ref().is_some_and(|facts| facts.privileges.contains("capability=SYS_ADMIN")));
    let apply = format!("PATCH {WEB}\ncontent-type: application/apply-patch+yaml");
    assert!(actions(&apply, "spec:\n  replicas: 0\n").contains(&"k8s:scale prod/shop/apps/deployments/web".to_owned()));
    let pods = "PATCH /api/v1/namespaces/s/pods/p HTTP/1.1\ncontent-type: application/apply-patch+yaml";
    assert_eq!(actions(pods, "metadata: {labels: {a: b}}\n"), ["k8s:patch prod/s/core/pods/p"]);
}

#[test]
fn a_grant_is_not_for_one_run_of_a_client() {
    let statement = |session: &str| {
        let head =
            format!("GET /api/v1/namespaces/s/pods/p HTTP/1.1\nkubectl-session: {session}\nkubectl-command: get");
        asked(&head, "").statement.to_string()
    };
    assert_eq!(statement("1"), statement("2"));
    assert!(statement("1").contains("kubectl-command: get"));
}

#[test]
fn answers_that_are_masked_are_asked_for_as_json() {
    let accepts = |accept: &str| {
        let text = format!("GET / HTTP/1.1\r\nhost: a\r\naccept: {accept}\r\n\r\n");
        readable(&codec::request(text.as_bytes()).unwrap().unwrap().0)
    };
    for (accept, expected) in [
        ("application/vnd.kubernetes.protobuf, */*", "*/*"),
        ("application/vnd.kubernetes.protobuf,application/json", "application/json"),
        ("application/vnd.kubernetes.protobuf", "application/json"),
        ("application/cbor;q=1, application/yaml", "application/json"),
        (
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            "application/json;as=Table;v=v1;g=meta.k8s.io, application/json",
        ),
        ("", "application/json"),
    ] {
        assert_eq!(accepts(accept), expected);
    }
}

#[test]
fn places_are_kinds() {
    for (place, is) in [
        ("/core/secrets", true),
        ("/core/serviceaccounts/token", true),
        ("/core", false),
        ("/core/pods/status", false),
        ("core/secrets", false),
        ("/core//x", false),
    ] {
        assert_eq!(is_place(place), is, "{place}");
    }
    let place = |target: &str| Kubernetes.place(&Routes::default(), &Location::read(target).unwrap());
    assert_eq!(place("/api/v1/watch/namespaces/s/secrets/x").as_deref(), Some("/core/secrets"));
    assert_eq!(place("/api/v1/namespaces/s/serviceaccounts/x/token").as_deref(), Some("/core/serviceaccounts/token"));
    for (path, expected) in [
        ("pods/x/status", "/core/pods"),
        ("pods/x/ephemeralcontainers", "/core/pods"),
        ("pods/x/log", "/core/pods/log"),
        ("pods/x/whatever", "/core/pods"),
    ] {
        assert_eq!(place(&format!("/api/v1/namespaces/s/{path}")).as_deref(), Some(expected));
    }
    assert_eq!(place("/version"), None);
}

#[test]
fn tokens_that_a_cluster_makes_are_told() {
    let token = |head: &str, body: &str| asked(head, body).facts.k8s.clone().unwrap().makes_token;
    let path = "/api/v1/namespaces/shop/serviceaccounts/robot/token HTTP/1.1\ncontent-type: application/json";
    assert!(token(&format!("POST {path}"), r#"{"kind":"TokenRequest"}"#));
    let secrets = "/api/v1/namespaces/shop/secrets HTTP/1.1\ncontent-type: application/json";
    assert!(token(&format!("POST {secrets}"), r#"{"type":"kubernetes.io/service-account-token"}"#));
    // What cannot be read may be one.
    assert!(token(&format!("POST {secrets}; charset=utf-7"), r#"{"type":"Opaque"}"#));
    assert!(!token(&format!("POST {secrets}"), r#"{"type":"Opaque"}"#));
    let one = "PATCH /api/v1/namespaces/shop/secrets/db HTTP/1.1\ncontent-type: application";
    let account = r#"{"metadata":{"annotations":{"kubernetes.io/service-account.name":"robot"}}}"#;
    assert!(token(&format!("{one}/merge-patch+json"), account));
    let joining = "PATCH /api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef HTTP/1.1";
    assert!(token(&format!("{joining}\ncontent-type: application/merge-patch+json"), r#"{"stringData":{}}"#));
    assert!(token(&format!("POST {secrets}"), r#"{"metadata":{"name":"bootstrap-token-abcdef"}}"#));
    let path = "/metadata/annotations/kubernetes.io~1service-account.name";
    let patch = |path: &str| format!(r#"[{{"op":"add","path":"{path}","value":"robot"}}]"#);
    assert!(token(&format!("{one}/json-patch+json"), &patch(path)));
    assert!(!token(&format!("{one}/json-patch+json"), &patch("/metadata/labels/app")));
    assert!(!token(&format!("{one}/merge-patch+json"), r#"{"stringData":{"password":"x"}}"#));
    assert!(!token("POST /api/v1/namespaces/shop/pods HTTP/1.1\ncontent-type: application/json", account));
    assert!(!token("POST /api/v1/namespaces/shop/serviceaccounts HTTP/1.1\ncontent-type: application/json", "{}"));
}

#[test]
fn protocol_buffers_are_read_as_what_they_say() {
    let head = "POST /api/v1/namespaces/shop/secrets HTTP/1.1\ncontent-type: application/vnd.kubernetes.protobuf";
    // kind and version; then data and type of a Secret, by their numbers.
    let raw = "\x12\x09\x0a\x01p\x12\x04s3cr\x1a\x23kubernetes.io/service-account-token";
    let body =
        format!("k8s\0\x0a\x0c\x0a\x02v1\x12\x06Secret\x12{}{raw}", char::from(u8::try_from(raw.len()).unwrap()));
    let command = asked(head, &body);
    assert_eq!(actions(head, &body), ["k8s:create prod/shop/core/secrets"]);
    assert!(command.facts.k8s.clone().unwrap().makes_token);
    let shown = command.parameters[1].value.clone().unwrap();
    assert!(String::from_utf8_lossy(&shown).contains("data.p=czNjcg==\n"), "{shown:?}");
    let broken = actions(head, &body.replace("Secret", "Secrex"));
    assert_eq!(broken, ["k8s:create prod/shop/core/secrets", "k8s:opaque prod/shop/core/secrets"]);
}

#[test]
fn a_status_in_protocol_buffers_counts_where_it_is_what_is_changed() {
    let kind = "HTTP/1.1\ncontent-type: application/vnd.kubernetes.protobuf";
    let body = |kind: &str, raw: &str| {
        let end = raw.len() + kind.len() + 10;
        assert!(end < 128);
        let kinds = format!("\x0a\x02v1\x12{}{kind}", char::from(u8::try_from(kind.len()).unwrap()));
        let (types, whole) =
            (char::from(u8::try_from(kinds.len()).unwrap()), char::from(u8::try_from(raw.len()).unwrap()));
        format!("k8s\0\x0a{types}{kinds}\x12{whole}{raw}")
    };
    let is_opaque = |head: &str, body: &str| actions(head, body).iter().any(|action| action.starts_with("k8s:opaque"));
    // Of a Pod and a Node, the status has number 3.
    let (pod, node) = (body("Pod", "\x1a\x02\x0a\x00"), body("Node", "\x1a\x02\x0a\x00"));
    assert!(!is_opaque(&format!("PUT /api/v1/namespaces/shop/pods/x {kind}"), &pod));
    assert!(is_opaque(&format!("PUT /api/v1/namespaces/shop/pods/x/status {kind}"), &pod));
    assert!(is_opaque(&format!("PUT /api/v1/nodes/x {kind}"), &node));
}

#[test]
fn what_is_put_into_a_secret_is_one() {
    let hidden = |target: &str| Kubernetes.secrets(&Location::read(target).unwrap()).contains(&"data");
    assert!(hidden("/api/v1/namespaces/shop/secrets") && hidden("/api/v1/namespaces/shop/secrets/db"));
    assert!(!hidden("/api/v1/namespaces/shop/configmaps/db") && !hidden("/apis/x.example/v1/namespaces/shop/secrets"));
}
