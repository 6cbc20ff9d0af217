//! Secrets in bodies: no input panics, lengths stay; what is JSON stays JSON with the same keys, without any text below a key that
//! is to be hidden, and with whatever else it had.
#![no_main]

use interceptor::protocol::http::redact::json;
use serde_json::Value;

fn hides(name: &str) -> bool {
    name == "a" || name.ends_with("token")
}

/// What should come of it.
fn blotted(value: &Value, hidden: bool) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields.iter().map(|(name, value)| (name.clone(), blotted(value, hidden || hides(name)))).collect(),
        ),
        Value::Array(items) => items.iter().map(|item| blotted(item, hidden)).collect(),
        Value::String(_) | Value::Number(_) if hidden => Value::Null,
        other => other.clone(),
    }
}

/// Without what is hidden, which may have any length.
fn without(value: &Value, hidden: bool) -> Value {
    match value {
        Value::String(text) if hidden => {
            assert!(text.bytes().all(|byte| byte == b'*'), "{text}");
            Value::Null
        }
        Value::Number(number) if hidden => {
            assert_eq!(number.as_f64(), Some(0.0));
            Value::Null
        }
        Value::Object(fields) => Value::Object(
            fields.iter().map(|(name, value)| (name.clone(), without(value, hidden || hides(name)))).collect(),
        ),
        Value::Array(items) => items.iter().map(|item| without(item, hidden)).collect(),
        other => other.clone(),
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut out = data.to_vec();
    json::blot(&mut out, &hides);
    assert_eq!(out.len(), data.len());
    let Ok(read) = serde_json::from_slice::<Value>(data) else { return };
    let shown = serde_json::from_slice::<Value>(&out).expect("JSON stays JSON");
    assert_eq!(without(&shown, false), blotted(&read, false));
});
