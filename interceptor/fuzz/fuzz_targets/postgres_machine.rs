//! The conversation's machine: between an honest agent and an honest target, or two that know no rules.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| interceptor::protocol::postgres::fuzz::machine(data));
