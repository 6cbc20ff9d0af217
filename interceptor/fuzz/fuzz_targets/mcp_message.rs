//! Messages of the Model Context Protocol: no input panics; parts of JSON are where its reader finds them, and the canonical
//! form of a message reads as what was sent, but for what is left out, and is its own canonical form.
#![no_main]

use interceptor::protocol::mcp::json;
use interceptor::protocol::mcp::message::{self, Kind};
use serde_json::Value;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // What was not read as JSON before gets nothing, or nonsense.
    let _nonsense = (json::members(data), json::elements(data));
    let Ok(said) = message::read(Some("application/json"), false, data) else { return };
    let whole: Value = serde_json::from_slice(data).unwrap();
    let values = if said.is_list { whole.as_array().unwrap().clone() } else { vec![whole] };
    assert_eq!(values.len(), said.messages.len());
    for (mut value, message) in values.into_iter().zip(said.messages) {
        if let Some(id) = message.id {
            assert_eq!(serde_json::from_str::<Value>(id).unwrap(), value["id"]);
        }
        if let Kind::Request { method, params } = &message.kind {
            assert_eq!(value["method"], method.as_str());
            for (key, part) in params {
                assert_eq!(serde_json::from_slice::<Value>(part).unwrap(), value["params"][key]);
            }
        }
        if message.kind != Kind::Answer {
            value.as_object_mut().unwrap().remove("id");
        }
        if let Some(meta) = value.pointer_mut("/params/_meta").and_then(Value::as_object_mut) {
            ["progressToken", "traceparent", "tracestate"].into_iter().for_each(|key| drop(meta.remove(key)));
        }
        assert_eq!(serde_json::from_slice::<Value>(&message.essence).unwrap(), value);
        let mut again = Vec::new();
        json::canonical(&message.essence, &mut Vec::new(), &|_| false, &mut again).unwrap();
        assert_eq!(again, message.essence);
    }
});
