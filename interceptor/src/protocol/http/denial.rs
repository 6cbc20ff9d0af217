//! Refusals as problem documents (RFC 9457), for agents to read.

use bytes::Bytes;
use serde_json::json;

use super::codec::{Field, Fields, Length, ResponseHead};
use super::grpc::Form;
use crate::policy::{Denial, Fault, Retry};

/// The status, and what it is called.
fn status(denial: &Denial) -> (u16, &'static str) {
    match denial.fault {
        Fault::Agent | Fault::Operator => (403, "Forbidden"),
        Fault::Identity => (401, "Unauthorized"),
        Fault::Upstream => (502, "Bad Gateway"),
        Fault::Interceptor => (503, "Service Unavailable"),
    }
}

/// The answer: its head, and its body.
#[must_use]
pub(super) fn problem(denial: &Denial) -> (ResponseHead, Bytes) {
    answer(status(denial), denial)
}

/// The same for a request that is none, or none that is understood here.
#[must_use]
pub(super) fn unreadable(code: (u16, &'static str), denial: &Denial) -> (ResponseHead, Bytes) {
    answer(code, denial)
}

/// The same as callers of gRPC expect it: a status in the place of a body.
#[must_use]
pub(super) fn grpc(denial: &Denial, form: Form) -> ResponseHead {
    let status = match (denial.fault, denial.retry) {
        (Fault::Identity, _) => "16",
        (Fault::Upstream, _) | (Fault::Interceptor, Retry::Later) => "14",
        _ => "7",
    };
    let mut fields = Fields(vec![
        field("content-type", form.name()),
        field("grpc-status", status),
        field("grpc-message", &escaped(denial.line().as_bytes())),
    ]);
    if form != Form::Native {
        // Over HTTP/1.1 it has to say that nothing follows.
        fields.0.push(field("content-length", "0"));
    }
    ResponseHead { status: 200, reason: "OK".into(), fields, length: Length::Known(0) }
}

/// As gRPC's protocol over HTTP/2 has `Status-Message`.
pub(super) fn escaped(text: &[u8]) -> String {
    let plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'%';
    text.iter().map(|byte| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn field(name: &str, value: &str) -> Field {
    Field::new(name, value.to_owned())
}

fn answer((status, reason): (u16, &'static str), denial: &Denial) -> (ResponseHead, Bytes) {
    let document = json!({
        "type": "about:blank",
        "title": reason,
        "status": status,
        "detail": format!("interceptor: {}: {}", denial.what, denial.reason),
        "rule": denial.rule,
        "reason": denial.reason,
        "remedy": denial.remedy,
        "retry": denial.retry.as_str(),
        "session": denial.session.to_string(),
    });
    let body = document.to_string();
    let mut fields = Fields(vec![
        field("content-type", "application/problem+json"),
        field("content-length", &body.len().to_string()),
        field("cache-control", "no-store"),
    ]);
    if status == 401 {
        fields.0.push(field("www-authenticate", "Bearer realm=\"interceptor\""));
    }
    let length = Length::Known(body.len() as u64);
    (ResponseHead { status, reason: reason.into(), fields, length }, body.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::SessionId;

    #[test]
    fn a_refusal_says_what_why_and_what_next() {
        let denial = Denial {
            fault: Fault::Agent,
            what: "http:DELETE on Route::\"api/v1/customers/{id}\"".into(),
            rule: Some("no-delete".into()),
            reason: "customers are \"kept\"\r\n".into(),
            remedy: Some("mark it as closed".into()),
            retry: Retry::Never,
            session: SessionId::NONE,
        };
        let (head, body) = problem(&denial);
        assert_eq!((head.status, head.fields.text("content-type")), (403, Some("application/problem+json")));
        assert_eq!(head.length, Length::Known(body.len() as u64));
        let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(document["rule"], "no-delete");
        assert_eq!(document["retry"], "never");
        assert_eq!(document["remedy"], "mark it as closed");
        assert_eq!(document["reason"], "customers are \"kept\"\r\n");
        let head = grpc(&denial, Form::Native);
        assert_eq!((head.status, head.fields.text("grpc-status")), (200, Some("7")));
        let said = head.fields.text("grpc-message").unwrap();
        assert!(said.contains("customers are \"kept\"%0D%0A; rule: no-delete"), "{said}");
    }
}
