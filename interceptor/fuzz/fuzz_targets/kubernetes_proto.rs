//! Bodies in Protocol Buffers: no input panics; what is read is JSON that reads as itself, of the kind that the envelope says.
#![no_main]

use interceptor::protocol::kubernetes::proto;

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

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _as_it_is = proto::read(data);
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
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&text).expect("it is JSON"), value);
});
