//! Refusals as clients of a cluster expect them: a `Status` (k8s.io/apimachinery, meta/v1).

use bytes::Bytes;
use serde_json::json;

use crate::policy::{Denial, Fault};
use crate::protocol::http::codec::{Field, Fields, Length, ResponseHead};

/// The answer: its head, and its body. Clients show the message of whatever is not 401: that one they word themselves.
pub(super) fn status(denial: &Denial) -> (ResponseHead, Bytes) {
    let (code, reason) = match denial.fault {
        Fault::Agent | Fault::Operator | Fault::Identity => (403, "Forbidden"),
        Fault::Upstream | Fault::Interceptor => (503, "ServiceUnavailable"),
    };
    let body = document(denial, (code, reason)).to_string();
    let field = |name: &str, value: &str| Field::new(name, value.to_owned());
    let fields = Fields(vec![
        field("content-type", "application/json"),
        field("content-length", &body.len().to_string()),
        field("cache-control", "no-store"),
    ]);
    let length = Length::Known(body.len() as u64);
    let words = if code == 403 { "Forbidden" } else { "Service Unavailable" };
    (ResponseHead { status: code, reason: words.into(), fields, length }, body.into())
}

/// The same as a document of its own.
pub(super) fn document(denial: &Denial, (code, reason): (u16, &str)) -> serde_json::Value {
    let session = denial.session.to_string();
    let causes = [
        ("Rule", denial.rule.as_deref()),
        ("Reason", Some(denial.reason.as_str())),
        ("Remedy", denial.remedy.as_deref()),
        ("Retry", Some(denial.retry.as_str())),
        ("Session", Some(session.as_str())),
    ];
    let causes: Vec<_> = causes
        .into_iter()
        .filter_map(|(reason, message)| Some(json!({"reason": reason, "message": message?})))
        .collect();
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": denial.line(),
        "reason": reason,
        "details": {"causes": causes},
        "code": code,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Retry;
    use crate::telemetry::SessionId;

    #[test]
    fn a_refusal_is_a_status_that_says_what_why_and_what_next() {
        let denial = Denial {
            fault: Fault::Identity,
            what: "k8s:delete on KubernetesObject::\"prod/shop/apps/deployments/web\"".into(),
            rule: Some("no-delete".into()),
            reason: "deployments are kept".into(),
            remedy: Some("scale it to zero".into()),
            retry: Retry::Never,
            session: SessionId::NONE,
        };
        let (head, body) = status(&denial);
        assert_eq!((head.status, head.length), (403, Length::Known(body.len() as u64)));
        let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (&document["kind"], &document["reason"], &document["code"]),
            (&"Status".into(), &"Forbidden".into(), &403.into())
        );
        let message = document["message"].as_str().unwrap();
        assert!(message.contains("deployments are kept; rule: no-delete; remedy: scale it to zero; retry: never"));
        assert_eq!(document["details"]["causes"][0]["message"], "no-delete");
    }
}
