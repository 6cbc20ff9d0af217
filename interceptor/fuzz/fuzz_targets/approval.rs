//! The file of a held command: what is read is written back as the same, and its id names the same file.
#![no_main]

use interceptor::approval::{Request, RequestId};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(request) = serde_json::from_slice::<Request>(data) else { return };
    let text = serde_json::to_vec(&request).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<Request>(&text).expect("and read again"), request);
    assert_eq!(request.id.to_string().parse::<RequestId>(), Ok(request.id));
});
