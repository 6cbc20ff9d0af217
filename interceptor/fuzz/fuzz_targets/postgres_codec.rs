//! PostgreSQL's framing: no input panics, a frame is exactly the bytes that it came from, and what decodes encodes to
//! itself.
#![no_main]

use bytes::BytesMut;
use interceptor::protocol::postgres::codec::{self, HEADER, write};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    let mut again = BytesMut::new();
    while let Ok(Some(frame)) = codec::frame(rest, codec::backend_limit) {
        assert_eq!(&frame.raw[HEADER..], frame.body);
        assert_eq!(&rest[..frame.raw.len()], frame.raw);
        if let Ok(message) = codec::Frontend::decode(frame) {
            assert!(write::frontend(&mut again, &message));
            assert_eq!(&again.split()[..], frame.raw, "{message:?}");
        }
        if let Ok(message) = codec::Backend::decode(frame) {
            assert!(write::backend(&mut again, &message));
            assert_eq!(&again.split()[..], frame.raw, "{message:?}");
        }
        rest = &rest[frame.raw.len()..];
    }
});
