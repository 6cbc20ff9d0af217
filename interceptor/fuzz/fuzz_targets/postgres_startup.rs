//! The packet that opens a connection: what decodes encodes to itself, and is understood alike by all who look at it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| interceptor::protocol::postgres::fuzz::startup(data));
