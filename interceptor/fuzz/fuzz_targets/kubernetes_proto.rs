//! Bodies in Protocol Buffers: no input panics; what is read is JSON that reads as itself, of the kind that the envelope says; and without
//! what recordings do not show it reads the same, but for what is hidden.
#![no_main]

use interceptor::protocol::http::redact::json::{Hides, is_name, is_value};
use interceptor::protocol::kubernetes::proto;
use serde_json::Value;

/// Kinds that are looked into.
const KINDS: [(&str, &str); 4] =
    [("v1", "Pod"), ("apps/v1", "Deployment"), ("v1", "Secret"), ("networking.k8s.io/v1", "Ingress")];

/// A field of bytes.
fn put(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    let mut rest = bytes.len();
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out.extend_from_slice(bytes);
}

fn hides(name: &str) -> Hides {
    match name {
        "data" | "annotations" => Hides::All,
        name if name.ends_with("Name") => Hides::Value,
        _ => Hides::Nothing,
    }
}

/// Nothing of what is hidden stands there, and whatever else did.
fn compare(before: &Value, after: &Value, hidden: Hides) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            assert!(before.keys().eq(after.keys()), "{before:?} {after:?}");
            // What one of two says of the other, hides it or not.
            let is_pair = before.keys().any(|name| is_name(name)) && before.keys().any(|name| is_value(name));
            for (name, value) in before.iter().filter(|(name, _)| !(is_pair && is_value(name))) {
                compare(value, &after[name], hidden.below().max(hides(name)));
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            assert_eq!(before.len(), after.len());
            before.iter().zip(after).for_each(|(before, after)| compare(before, after, hidden));
        }
        (Value::String(before), Value::String(after)) if hidden > Hides::Nothing => {
            let is_word = matches!(before.as_str(), "" | "true" | "false" | "null");
            // Bytes are told in base64.
            let is_blot = |text: &str| text.bytes().all(|byte| b"*Kiogq=".contains(&byte));
            assert!(is_word || is_blot(after), "{before} {after}");
        }
        (before, after) if hidden > Hides::Nothing => assert_eq!(before.is_number(), after.is_number()),
        (before, after) => assert_eq!(before, after),
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _as_it_is = proto::read(data);
    let mut shown = data.to_vec();
    proto::blot(&mut shown, &hides);
    assert_eq!(shown.len(), data.len());
    let Some((first, raw)) = data.split_first() else { return };
    let (version, kind) = KINDS[usize::from(*first) % KINDS.len()];
    let (mut types, mut whole) = (Vec::new(), b"k8s\0".to_vec());
    put(&mut types, 1, version.as_bytes());
    put(&mut types, 2, kind.as_bytes());
    put(&mut whole, 1, &types);
    put(&mut whole, 2, raw);
    let Ok(value) = proto::read(&whole) else { return };
    assert_eq!((value["apiVersion"].as_str(), value["kind"].as_str()), (Some(version), Some(kind)));
    let text = serde_json::to_vec(&value).expect("it is JSON");
    assert_eq!(serde_json::from_slice::<Value>(&text).expect("it is JSON"), value);
    proto::blot(&mut whole, &hides);
    // A quantity or a time whose name ends so would not be one any more: there is none.
    compare(&value, &proto::read(&whole).expect("it is still understood"), Hides::Nothing);
});
