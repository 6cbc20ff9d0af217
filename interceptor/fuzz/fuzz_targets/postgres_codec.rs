//! PostgreSQL's framing: no input panics, and a frame is exactly the bytes that it came from.

#![no_main]

use interceptor::protocol::postgres::codec::{self, HEADER};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _packet = codec::startup(data);
    let mut rest = data;
    while let Ok(Some(frame)) = codec::frame(rest, codec::frontend_limit) {
        assert_eq!(&frame.raw[HEADER..], frame.body);
        assert_eq!(&rest[..frame.raw.len()], frame.raw);
        let _message = codec::Frontend::decode(frame);
        let _answer = codec::Backend::decode(frame);
        rest = &rest[frame.raw.len()..];
    }
});
