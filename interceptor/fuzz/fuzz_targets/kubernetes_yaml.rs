//! Bodies in YAML: no input panics; what is read is what another reader of the family that clusters use (libyaml's) reads as well,
//! and says the same as JSON.
#![no_main]

use interceptor::protocol::kubernetes::yaml;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(value) = yaml::read(data) else { return };
    let text = std::str::from_utf8(data).expect("what is read is text");
    // A reader that refuses what we read is a cluster that refuses it.
    if let Ok(other) = serde_norway::from_str::<serde_json::Value>(text) {
        assert_eq!(value, other, "{text}");
    }
    assert_eq!(yaml::read(value.to_string().as_bytes()).as_ref(), Ok(&value), "{text}");
});
