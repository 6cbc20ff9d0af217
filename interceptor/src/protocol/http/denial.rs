//! Refusals as problem documents (RFC 9457), for agents to read.

use serde_json::json;

use super::codec::{Field, Fields, Length, ResponseHead};
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

/// The whole answer. `closes`: the connection is closed behind it.
#[must_use]
pub(super) fn problem(denial: &Denial, closes: bool, with_body: bool) -> Vec<u8> {
    answer(status(denial), denial, closes, with_body)
}

/// The same for a request that is none, or none that is understood here.
#[must_use]
pub(super) fn unreadable(code: (u16, &'static str), denial: &Denial) -> Vec<u8> {
    answer(code, denial, true, true)
}

fn answer((status, reason): (u16, &'static str), denial: &Denial, closes: bool, with_body: bool) -> Vec<u8> {
    let retry = match denial.retry {
        Retry::Never => "never",
        Retry::Later => "later",
        Retry::AfterApproval => "after approval",
    };
    let document = json!({
        "type": "about:blank",
        "title": reason,
        "status": status,
        "detail": format!("interceptor: {}: {}", denial.what, denial.reason),
        "rule": denial.rule,
        "reason": denial.reason,
        "remedy": denial.remedy,
        "retry": retry,
        "session": denial.session.to_string(),
    });
    let body = document.to_string();
    let field = |name: &str, value: &str| Field { name: name.to_owned(), value: value.as_bytes().to_vec() };
    let mut fields = Fields(vec![
        field("content-type", "application/problem+json"),
        field("content-length", &body.len().to_string()),
        field("cache-control", "no-store"),
    ]);
    if status == 401 {
        fields.0.push(field("www-authenticate", "Bearer realm=\"interceptor\""));
    }
    if closes {
        fields.0.push(field("connection", "close"));
    }
    let mut out = Vec::new();
    ResponseHead { status, reason: reason.to_owned(), fields, length: Length::Known(0) }.write(&mut out);
    if with_body {
        out.extend_from_slice(body.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::codec;
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
        let bytes = problem(&denial, false, true);
        let (head, length) = codec::response(&bytes).unwrap().unwrap();
        assert_eq!((head.status, head.fields.text("content-type")), (403, Some("application/problem+json")));
        assert_eq!(head.length, Length::Known((bytes.len() - length) as u64));
        let document: serde_json::Value = serde_json::from_slice(&bytes[length..]).unwrap();
        assert_eq!(document["rule"], "no-delete");
        assert_eq!(document["retry"], "never");
        assert_eq!(document["remedy"], "mark it as closed");
        assert_eq!(document["reason"], "customers are \"kept\"\r\n");
        let closing = codec::response(&problem(&denial, true, false)).unwrap().unwrap();
        assert_eq!(closing.0.fields.text("connection"), Some("close"));
    }
}
