//! Refusals as clients of the Model Context Protocol show them: errors of JSON-RPC, in an answer of HTTP that says 200. Some
//! clients look at no body of any other status, and wait for an answer that never comes.

use bytes::Bytes;
use serde_json::json;

use crate::policy::{Denial, Fault};
use crate::protocol::http::codec::{Field, Fields, Length, ResponseHead};
use crate::protocol::http::dialect::Asker;

/// The answer: its head, and its body. What has no id gets a status: nobody reads a body there.
pub(super) fn error(denial: &Denial, asker: &Asker) -> (ResponseHead, Bytes) {
    let (code, words) = match denial.fault {
        Fault::Agent | Fault::Operator | Fault::Identity => (403, "Forbidden"),
        Fault::Upstream => (502, "Bad Gateway"),
        Fault::Interceptor => (503, "Service Unavailable"),
    };
    let error = document(denial, code).to_string();
    // Ids stand as they came: they were read as JSON.
    let one = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#);
    let all: Vec<String> = asker.ids.iter().map(|id| one(id)).collect();
    let body = match &all[..] {
        [] => one("null"),
        [only] if !asker.is_list => only.clone(),
        several => format!("[{}]", several.join(",")),
    };
    let (status, reason) = if all.is_empty() { (code, words) } else { (200, "OK") };
    let field = |name: &str, value: &str| Field::new(name, value.to_owned());
    let fields = Fields(vec![
        field("content-type", "application/json"),
        field("content-length", &body.len().to_string()),
        field("cache-control", "no-store"),
    ]);
    let length = Length::Known(body.len() as u64);
    (ResponseHead { status, reason: reason.into(), fields, length }, body.into())
}

/// The error. Its code is the application's own (below -32000 are those of JSON-RPC and of the protocol): the status that HTTP
/// would have.
fn document(denial: &Denial, code: u16) -> serde_json::Value {
    let session = denial.session.to_string();
    let data = json!({
        "rule": denial.rule,
        "reason": denial.reason,
        "remedy": denial.remedy,
        "retry": denial.retry.as_str(),
        "session": session,
    });
    json!({"code": code, "message": denial.line(), "data": data})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Retry;
    use crate::telemetry::SessionId;

    #[test]
    fn a_refusal_is_an_error_for_each_id() {
        let denial = Denial {
            fault: Fault::Agent,
            what: "mcp:call on Tool::\"crm/delete\"".into(),
            rule: Some("no-delete".into()),
            reason: "customers are \"kept\"".into(),
            remedy: Some("mark it as closed".into()),
            retry: Retry::Never,
            session: SessionId::NONE,
        };
        let told = |ids: &[&str], is_list| {
            let asker = Asker { ids: ids.iter().map(|id| (*id).to_owned()).collect(), is_list };
            let (head, body) = error(&denial, &asker);
            assert_eq!(head.length, Length::Known(body.len() as u64));
            (head.status, serde_json::from_slice::<serde_json::Value>(&body).unwrap())
        };
        let (status, one) = told(&["7"], false);
        assert_eq!((status, &one["id"], &one["error"]["code"]), (200, &7.into(), &403.into()));
        let message = one["error"]["message"].as_str().unwrap();
        assert!(message.contains("customers are \"kept\"; rule: no-delete; remedy: mark it as closed"), "{message}");
        assert_eq!(one["error"]["data"]["rule"], "no-delete");
        let (status, several) = told(&["\"a\"", "8"], true);
        assert_eq!((status, &several[0]["id"], &several[1]["id"]), (200, &"a".into(), &8.into()));
        assert!(told(&["1"], true).1.is_array());
        let (status, none) = told(&[], false);
        assert_eq!((status, &none["id"]), (403, &serde_json::Value::Null));
    }
}
