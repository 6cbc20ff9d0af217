//! Requests to servers of the Model Context Protocol, as policies see them.

use std::sync::Arc;

use super::*;
use crate::protocol::http::action::Body;
use crate::protocol::http::codec;
use crate::protocol::http::dialect::Place;
use crate::protocol::http::grpc::Called;

const HEAD: &str = "POST /mcp HTTP/1.1\ncontent-type: application/json";

/// What a request is.
fn asked(head: &str, body: &str) -> Meaning {
    let text = format!("{}\r\nhost: crm\r\ncontent-length: {}\r\n\r\n", head.replace('\n', "\r\n"), body.len());
    let (head, _) = codec::request(text.as_bytes()).unwrap().unwrap();
    let location = Location::read(&head.target).unwrap();
    let body = Body::Whole(Bytes::copy_from_slice(body.as_bytes()));
    let (target, routes): (Arc<str>, _) = ("crm".into(), Routes::parse(&[ENDPOINT.to_owned()]).unwrap());
    action::meaning(&Asked {
        target: &target,
        routes: &routes,
        head: &head,
        location: &location,
        body: &body,
        called: Called::Nothing,
    })
}

fn actions(head: &str, body: &str) -> Vec<String> {
    let command = asked(head, body).command;
    command.actions.iter().map(|action| format!("{} {}", action.name.as_str(), action.resource.id())).collect()
}

fn request(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
}

fn call(params: &str) -> String {
    request("tools/call", params)
}

#[test]
fn messages_are_actions() {
    for (body, expected) in [
        (call(r#"{"name":"get_customer","arguments":{"id":7}}"#), "mcp:call crm/get_customer"),
        (call(r#"{"name":"files/read%2F"}"#), "mcp:call crm/files%2Fread%252F"),
        (call(r#"{"name":"g\u0065t","arguments":null}"#), "mcp:call crm/get"),
        (request("resources/read", r#"{"uri":"file:///a"}"#), "mcp:read crm"),
        (request("resources/subscribe", r#"{"uri":"file:///a"}"#), "mcp:read crm"),
        (request("prompts/get", r#"{"name":"p"}"#), "mcp:prompt crm"),
        (request("tools/list", "{}"), "mcp:list crm"),
        (request("resources/templates/list", r#"{"cursor":"x"}"#), "mcp:list crm"),
        (request("initialize", "{}"), "mcp:session crm"),
        (request("completion/complete", r#"{"ref":{"type":"ref/prompt","name":"p"}}"#), "mcp:prompt crm"),
        (request("completion/complete", r#"{"ref":{"type":"ref/resource","uri":"file:///a/{b}"}}"#), "mcp:read crm"),
        (request("subscriptions/listen", r#"{"notifications":{}}"#), "mcp:session crm"),
        (r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned(), "mcp:session crm"),
        (r#"{"jsonrpc":"2.0","id":0,"result":{"action":"accept"}}"#.to_owned(), "mcp:respond crm"),
        (r#"{"jsonrpc":"2.0","id":"x","error":{"code":-1,"message":"no"}}"#.to_owned(), "mcp:respond crm"),
    ] {
        assert_eq!(actions(HEAD, &body), [expected], "{body}");
    }
    for head in ["GET /mcp HTTP/1.1\nlast-event-id: 7", "DELETE /mcp HTTP/1.1\nmcp-session-id: 7"] {
        assert_eq!(actions(head, ""), ["mcp:session crm"]);
    }
}

#[test]
fn policies_see_what_is_called_with_what() {
    let body = call(r#"{"name":"get","arguments":{"id":7,"who":{"a.b":"x"},"tags":["n","\u006d"],"q":"y=z"}}"#);
    let facts = asked(HEAD, &body).command.facts.mcp.clone().unwrap();
    assert_eq!((facts.method.as_str(), facts.tool.as_deref(), facts.uri.as_deref()), ("tools/call", Some("get"), None));
    let arguments: Vec<&str> = facts.arguments.iter().map(String::as_str).collect();
    assert_eq!(arguments, ["id=7", "q=y=z", "tags.0=n", "tags.1=m", r#"who."a.b"=x"#]);
    // A key that looks like a path to arguments is none.
    let body = call(r#"{"name":"get","arguments.admin":"no","arguments":{}}"#);
    assert!(asked(HEAD, &body).command.facts.mcp.clone().unwrap().arguments.is_empty());
    let body = request("resources/read", r#"{"uri":"file:///a"}"#);
    assert_eq!(asked(HEAD, &body).command.facts.mcp.clone().unwrap().uri.as_deref(), Some("file:///a"));
    let body = request("prompts/get", r#"{"name":"p","arguments":{"x":"1"}}"#);
    let facts = asked(HEAD, &body).command.facts.mcp.clone().unwrap();
    assert_eq!((facts.prompt.as_deref(), facts.arguments.first().map(String::as_str)), (Some("p"), Some("x=1")));
    assert_eq!(asked("GET /mcp HTTP/1.1", "").command.facts.mcp.clone().unwrap().method, "GET");
}

#[test]
fn policies_see_what_is_completed() {
    let facts = |reference: &str| {
        let body = request("completion/complete", &format!(r#"{{"ref":{reference}}}"#));
        asked(HEAD, &body).command.facts.mcp.clone().unwrap()
    };
    assert_eq!(facts(r#"{"type":"ref/prompt","name":"p"}"#).prompt.as_deref(), Some("p"));
    assert_eq!(facts(r#"{"type":"ref/resource","uri":"file:///a/{b}"}"#).uri.as_deref(), Some("file:///a/{b}"));
}

#[test]
fn what_cannot_be_known_is_opaque() {
    let ping = request("ping", "{}");
    let good = call(r#"{"name":"get"}"#);
    let method = |method: &str| format!("{method} /mcp HTTP/1.1\ncontent-type: application/json");
    for (head, body) in [
        // Nothing, or no JSON, or nothing that anybody is sure of.
        (HEAD.to_owned(), String::new()),
        (HEAD.to_owned(), "ping".to_owned()),
        (HEAD.to_owned(), "3".to_owned()),
        (HEAD.to_owned(), "[]".to_owned()),
        (HEAD.to_owned(), format!("[{ping}]")),
        (HEAD.to_owned(), request("tasks/result", r#"{"taskId":"1"}"#)),
        (
            HEAD.to_owned(),
            request("subscriptions/listen", r#"{"notifications":{"resourceSubscriptions":["file:///a"]}}"#),
        ),
        (
            HEAD.to_owned(),
            request("subscriptions/listen", r#"{"notifications":{"resourceSubscript\u0069ons":["file:///a"]}}"#),
        ),
        (HEAD.to_owned(), request("subscriptions/listen", r#"{"resourceSubscriptions":["file:///a"]}"#)),
        (HEAD.to_owned(), request("completion/complete", r#"{"ref":{}}"#)),
        (HEAD.to_owned(), request("completion/complete", r#"{"ref":{"type":"ref/prompt","name":"p","Name":"q"}}"#)),
        (
            HEAD.to_owned(),
            request("completion/complete", r#"{"ref":{"type":"ref/resource","uri":"file:///a/../{b}"}}"#),
        ),
        (HEAD.to_owned(), call(r#"{"name":"get","arguments":{"who":"{\"path\":\"/etc/shadow\",\"x\":NaN}"}}"#)),
        (HEAD.to_owned(), call(r#"{"name":"get","arguments":{"who":"{\"path\":\"\\ud800\"}"}}"#)),
        // What some servers read otherwise.
        (HEAD.to_owned(), call(r#"{"name":"delete","Arguments":{"force":true}}"#)),
        (HEAD.to_owned(), call("{\"name\":\"refund\",\"argument\u{17f}\":{\"amount\":5000}}")),
        (HEAD.to_owned(), call(r#"{"name":"get","arguments":{"who":"{\"id\":1,\"id\":2}"}}"#)),
        (HEAD.to_owned(), call(&format!(r#"{{"name":"{}"}}"#, "x".repeat(2000)))),
        (HEAD.to_owned(), request("resources/read", r#"{"uri":"file:///srv/docs/../../etc/passwd"}"#)),
        (HEAD.to_owned(), request("resources/read", r#"{"uri":"file:///srv/%2E%2e/etc"}"#)),
        (HEAD.to_owned(), request("resources/read", r#"{"uri":"file:///data/..%2f..%2fetc%2fpasswd"}"#)),
        (HEAD.to_owned(), request("resources/read", r#"{"uri":"file:///data/%73ecret"}"#)),
        (HEAD.to_owned(), request("resources/read", r#"{"uri":"file:///data/%5c..%5cx"}"#)),
        (HEAD.to_owned(), request("resources/read", r#"{"uri":"file:///data/%252e"}"#)),
        (HEAD.to_owned(), request("resources/read", r#"{"uri":"file:///data/%zz"}"#)),
        (HEAD.to_owned(), request("resources/read", r#"{"uri":"file:///data/%"}"#)),
        (HEAD.to_owned(), request("resources/read", r#"{"uri":"FILE:///etc/passwd"}"#)),
        (HEAD.to_owned(), request("resources/read", r#"{"uri":"fi\tle:///etc/passwd"}"#)),
        (HEAD.to_owned(), request("resources/read", r#"{"uri":" file:///etc/passwd"}"#)),
        (HEAD.to_owned(), request("resources/read", r#"{"uri":"file:/etc/passwd"}"#)),
        (HEAD.to_owned(), request("resources/read", r#"{"uri":"file://localhost/etc"}"#)),
        (HEAD.to_owned(), request("resources/read", r#"{"uri":"http://Host/a"}"#)),
        (format!("{HEAD}\nmcp-param-region: eu"), call(r#"{"name":"get","arguments":{"region":"x=eu"}}"#)),
        (HEAD.to_owned(), format!("[[{ping}]]")),
        (HEAD.to_owned(), format!("{ping}{ping}")),
        (HEAD.to_owned(), format!("[{}]", vec![ping.as_str(); message::MESSAGES_LIMIT + 1].join(","))),
        ("POST /mcp HTTP/1.1".to_owned(), ping.clone()),
        ("POST /mcp HTTP/1.1\ncontent-type: text/plain".to_owned(), ping.clone()),
        ("POST /mcp HTTP/1.1\ncontent-type: application/rpc+json".to_owned(), ping.clone()),
        (format!("{HEAD}; charset=utf-16"), ping.clone()),
        (format!("{HEAD}\ncontent-encoding: gzip"), ping.clone()),
        // Twice, and twins.
        (HEAD.to_owned(), r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#.to_owned()),
        (HEAD.to_owned(), r#"{"jsonrpc":"2.0","id":1,"method":"ping","m\u0065thod":"tools/call"}"#.to_owned()),
        (HEAD.to_owned(), r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#.to_owned()),
        (HEAD.to_owned(), call(r#"{"name":"get","Name":"delete"}"#)),
        (HEAD.to_owned(), call(r#"{"name":"get","arguments":{"a":1,"A":2}}"#)),
        // Wrong types.
        (HEAD.to_owned(), r#"{"jsonrpc":"2.0","id":1,"method":["ping"]}"#.to_owned()),
        (HEAD.to_owned(), r#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#.to_owned()),
        (HEAD.to_owned(), r#"{"id":1,"method":"ping"}"#.to_owned()),
        (HEAD.to_owned(), r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#.to_owned()),
        (HEAD.to_owned(), r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#.to_owned()),
        (HEAD.to_owned(), format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "x".repeat(message::ID_LIMIT))),
        (HEAD.to_owned(), r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}"#.to_owned()),
        (HEAD.to_owned(), r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#.to_owned()),
        (HEAD.to_owned(), r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#.to_owned()),
        (HEAD.to_owned(), r#"{"jsonrpc":"2.0","result":{}}"#.to_owned()),
        (HEAD.to_owned(), r#"{"jsonrpc":"2.0","id":1,"method":"ping","also":{}}"#.to_owned()),
        (HEAD.to_owned(), call(r#"{"name":""}"#)),
        (HEAD.to_owned(), call(r#"{"name":["get"]}"#)),
        (HEAD.to_owned(), call(r#"{"name":"get","arguments":[1]}"#)),
        (HEAD.to_owned(), call(r#"{"name":"get","arguments":"{}"}"#)),
        (HEAD.to_owned(), request("resources/read", "{}")),
        // Methods that nobody knows, be they near to one.
        (HEAD.to_owned(), request("tools/Call", r#"{"name":"get"}"#)),
        (HEAD.to_owned(), request("tools/call ", r#"{"name":"get"}"#)),
        (HEAD.to_owned(), request("notifications/admin", "{}")),
        (HEAD.to_owned(), request("admin/reset", "{}")),
        // Elsewhere, or otherwise.
        ("POST /admin HTTP/1.1\ncontent-type: application/json".to_owned(), ping.clone()),
        ("POST /mcp/ HTTP/1.1\ncontent-type: application/json".to_owned(), ping.clone()),
        ("GET /admin HTTP/1.1".to_owned(), String::new()),
        (method("PUT"), ping.clone()),
        (method("GET"), ping.clone()),
        (method("DELETE"), ping.clone()),
        (format!("{HEAD}\nx-http-method-override: DELETE"), ping.clone()),
        (format!("{HEAD}\nx-original-url: /admin"), ping.clone()),
        // A head that says something else.
        (format!("{HEAD}\nmcp-method: tools/call"), ping.clone()),
        (format!("{HEAD}\nmcp-name: delete"), good.clone()),
        (format!("{HEAD}\nmcp-name: get\nmcp-name: get"), good.clone()),
        (format!("{HEAD}\nmcp-name: =?base64?ZGVsZXRl?="), good.clone()),
        (format!("{HEAD}\nmcp-param-region: eu"), good.clone()),
        (format!("{HEAD}\nmcp-whatever: 1"), good.clone()),
    ] {
        let found = actions(&head, &body);
        assert_eq!(found.last().map(String::as_str), Some("mcp:opaque crm"), "{head} {body:.200}: {found:?}");
    }
    let known = format!(
        "{HEAD}\nmcp-method: tools/call\nmcp-name: =?base64?Z2V0?=\nmcp-param-region: eu\nmcp-protocol-version: 2026-07-28"
    );
    assert_eq!(actions(&known, &call(r#"{"name":"get","arguments":{"region":"eu"}}"#)), ["mcp:call crm/get"]);
}

#[test]
fn a_batch_hides_nothing() {
    let body = format!(
        "[{},{},{}]",
        request("ping", "{}"),
        call(r#"{"name":"get","arguments":{"dry":true}}"#),
        call(r#"{"name":"delete"}"#)
    );
    let expected = ["mcp:call crm/delete", "mcp:call crm/get", "mcp:session crm", "mcp:opaque crm"];
    assert_eq!(actions(HEAD, &body), expected);
    let meaning = asked(HEAD, &body);
    assert_eq!((meaning.asker.ids.len(), meaning.asker.is_list), (3, true));
    // What one says does not count for the others.
    assert!(meaning.command.facts.mcp.clone().unwrap().arguments.is_empty());
    assert_eq!(meaning.command.parameters.len(), 3);
}

#[test]
fn a_grant_is_for_a_call_and_not_for_one_run() {
    let told = |head: &str, body: &str| {
        let command = asked(head, body).command;
        (command.statement.to_string(), command.parameters)
    };
    let first = told(
        &format!("{HEAD}\nmcp-session-id: 1\naccept: */*"),
        r#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"get","arguments":{"a":1,"b":2},"_meta":{"progressToken":9,"x":1}}}"#,
    );
    let again = told(
        &format!("{HEAD}\nmcp-session-id: other\naccept: */*"),
        r#"{"id":"10","method":"tools/call", "jsonrpc":"2.0","params":{"_meta":{"x":1,"progressToken":"10"},"name":"g\u0065t","arguments":{"b":2,"a":1}}}"#,
    );
    assert_eq!(first, again);
    assert!(first.0.starts_with("tools/call get\nPOST /mcp\n"), "{}", first.0);
    let plain = told(HEAD, &call(r#"{"name":"get","arguments":{"n":1}}"#));
    for (head, params) in [
        (HEAD.to_owned(), r#"{"name":"get","arguments":{"n":2}}"#),
        (HEAD.to_owned(), r#"{"name":"get","arguments":{"n":"1"}}"#),
        (HEAD.to_owned(), r#"{"name":"get","arguments":{"n":1.0}}"#),
        (HEAD.to_owned(), r#"{"name":"got","arguments":{"n":1}}"#),
        (HEAD.to_owned(), r#"{"name":"get","arguments":{"n":1},"_meta":{"user":"root"}}"#),
        (HEAD.to_owned(), r#"{"name":"get","arguments":{"n":1},"task":{}}"#),
        (HEAD.to_owned(), r#"{"name":"get","arguments":{"n":1,"_meta":{"progressToken":1}}}"#),
        (format!("{HEAD}\nx-tenant: b"), r#"{"name":"get","arguments":{"n":1}}"#),
        (HEAD.replace("/mcp", "/mcp?mode=admin"), r#"{"name":"get","arguments":{"n":1}}"#),
    ] {
        assert_ne!(told(&head, &call(params)), plain, "{head} {params}");
    }
    // The session of the older transport stands in the query.
    let of = |id: &str| told(&HEAD.replace("/mcp", &format!("/mcp?session_id={id}&a=1")), &request("ping", "{}"));
    assert_eq!(of("1"), of("2"));
    // An answer is to what was asked.
    let answer = |id: u8| told(HEAD, &format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"action":"accept"}}}}"#));
    assert_ne!(answer(1), answer(2));
    // A name is no second line.
    assert!(told(HEAD, &call(r#"{"name":"get\nPOST /other"}"#)).0.starts_with("tools/call get\\u{a}POST /other\n"));
}

#[test]
fn an_answer_may_be_to_whatever_has_the_same_id() {
    for body in [call(r#"{"name":"get"}"#), request("tools/list", "{}"), "no".to_owned()] {
        assert_eq!(asked(HEAD, &body).place, Place::Anywhere, "{body}");
    }
    assert_eq!(asked("GET /mcp HTTP/1.1\nlast-event-id: 7", "").place, Place::Anywhere);
    assert!(is_place("/get") && !is_place("/") && !is_place("get"));
}

#[test]
fn texts_that_hold_json_are_told_as_what_they_hold() {
    let body = call(r#"{"name":"get","arguments":{"customer":"{\"id\":7}","note":"{no","a=b":"[1]"}}"#);
    let facts = asked(HEAD, &body).command.facts.mcp.clone().unwrap();
    let has = |argument: &str| facts.arguments.contains(argument);
    assert!(has("customer.id=7") && has(r#"customer={"id":7}"#) && has("note={no") && has(r#""a=b".0=1"#), "{facts:?}");
}

#[test]
fn answers_within_requests_are_answers_and_stay_with_their_session() {
    let body = call(r#"{"name":"get","inputResponses":{"confirm":{"action":"accept"}}}"#);
    assert_eq!(actions(HEAD, &body), ["mcp:call crm/get", "mcp:respond crm"]);
    assert_eq!(actions(HEAD, &body.replace("inputR", "InputR")), ["mcp:call crm/get", "mcp:respond crm"]);
    let answer = |session: &str| {
        let head = format!("{HEAD}\nmcp-session-id: {session}");
        asked(&head, r#"{"jsonrpc":"2.0","id":0,"result":{"action":"accept"}}"#).command.statement.to_string()
    };
    assert_ne!(answer("a"), answer("b"));
}

#[test]
fn uris_pass_that_servers_leave_as_they_are() {
    for uri in [
        "file:///a/b.txt",
        "file://server/a",
        "https://h/a?b=c#d",
        "custom:x/y",
        "repo://owner.x/a..b",
        "file:///a%20b%C3%A4",
    ] {
        let body = request("resources/read", &format!(r#"{{"uri":"{uri}"}}"#));
        let found = actions(HEAD, &body);
        assert_eq!(found, ["mcp:read crm"], "{uri}");
    }
}
