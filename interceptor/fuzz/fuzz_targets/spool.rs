//! The spool's framing: whatever decodes, encodes to the same bytes, and nothing panics.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| interceptor::record::format::fuzz(data));
