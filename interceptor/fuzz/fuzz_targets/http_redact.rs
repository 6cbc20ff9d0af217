//! Secrets in bodies: no input panics, lengths stay; what is JSON stays JSON with the same keys, without any text below a key that
//! is to be hidden, and with whatever else it had.
#![no_main]

use interceptor::protocol::http::redact::json::{self, Hides};
use serde_json::Value;

fn hides(name: &str) -> Hides {
    match name {
        "a" => Hides::All,
        name if name.ends_with("token") => Hides::Value,
        _ => Hides::Nothing,
    }
}

/// What is hidden below that, in an object.
fn below(hidden: Hides, name: &str) -> Hides {
    let outer = if hidden == Hides::All { Hides::All } else { Hides::Nothing };
    outer.max(hides(name))
}

/// Whether a value may be hidden by what stands beside it. Of names that stand twice, the reader here keeps one.
fn is_pair(fields: &serde_json::Map<String, Value>) -> bool {
    fields.keys().any(|name| json::is_name(name)) && fields.keys().any(|name| json::is_value(name))
}

/// Values whose name stands beside them, as text, are hidden.
fn check_pairs(value: &Value) {
    match value {
        Value::Object(fields) => {
            // Of other names, few words count.
            let is_name = |name: &str| ["key", "name"].iter().any(|known| known.eq_ignore_ascii_case(name));
            let names = fields.iter().filter(|(name, _)| is_name(name)).filter_map(|(_, said)| said.as_str());
            let said: Vec<&str> = names.collect();
            for (_, value) in fields.iter().filter(|(name, _)| json::is_value(name)) {
                let is_hidden = said.iter().any(|said| hides(said) > Hides::Nothing);
                let is_shown = value.as_str().is_some_and(|text| text.bytes().any(|byte| byte != b'*'));
                assert!(!(is_hidden && is_shown), "{value} beside {said:?}");
            }
            fields.values().for_each(check_pairs);
        }
        Value::Array(items) => items.iter().for_each(check_pairs),
        _ => {}
    }
}

/// With the numbers of one digit that stood in lists, which become what is no JSON: each is 1.
fn readable(data: &[u8], out: &[u8]) -> Vec<u8> {
    let is_plain = |at: Option<usize>| at.and_then(|at| out.get(at)).is_none_or(|byte| !matches!(byte, b'*' | b'"'));
    let stands_alone = |at: usize| is_plain(at.checked_sub(1)) && is_plain(Some(at + 1));
    let byte = |(at, (was, is)): (usize, (&u8, &u8))| {
        if was.is_ascii_digit() && *is == b'*' && stands_alone(at) { b'1' } else { *is }
    };
    data.iter().zip(out).enumerate().map(byte).collect()
}

/// What should come of it.
fn blotted(value: &Value, hidden: Hides) -> Value {
    match value {
        Value::Object(fields) if is_pair(fields) => Value::Null,
        Value::Object(fields) => Value::Object(
            fields.iter().map(|(name, value)| (name.clone(), blotted(value, below(hidden, name)))).collect(),
        ),
        Value::Array(items) => items.iter().map(|item| blotted(item, hidden)).collect(),
        Value::String(_) | Value::Number(_) if hidden > Hides::Nothing => Value::Null,
        other => other.clone(),
    }
}

/// Without what is hidden, which may have any length.
fn without(value: &Value, hidden: Hides) -> Value {
    match value {
        Value::String(text) if hidden > Hides::Nothing => {
            assert!(text.bytes().all(|byte| byte == b'*'), "{text}");
            Value::Null
        }
        Value::Number(number) if hidden > Hides::Nothing => {
            assert_eq!(number.to_string().len(), 1, "{number}");
            Value::Null
        }
        Value::Object(fields) if is_pair(fields) => Value::Null,
        Value::Object(fields) => Value::Object(
            fields.iter().map(|(name, value)| (name.clone(), without(value, below(hidden, name)))).collect(),
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
    let shown = serde_json::from_slice::<Value>(&readable(data, &out)).expect("JSON stays JSON");
    assert_eq!(without(&shown, Hides::Nothing), blotted(&read, Hides::Nothing));
    check_pairs(&shown);
    // What is hidden already is hidden no further.
    let once = out.clone();
    json::blot(&mut out, &hides);
    assert_eq!(out, once);
});
