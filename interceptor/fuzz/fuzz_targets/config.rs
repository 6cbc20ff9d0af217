//! The configuration file: any text is read or refused, and every problem has its place in the text.
#![no_main]

use std::path::Path;

use interceptor::config;
use interceptor::mask::Rules;

libfuzzer_sys::fuzz_target!(|text: &str| {
    match config::parse(Path::new("fuzz.toml"), text) {
        Ok(config) => {
            let masks: Vec<_> = config.masks.iter().map(|mask| mask.value.clone()).collect();
            let _rules = Rules::compile(&masks, None);
            let issuers: Vec<_> = config.issuers.iter().map(|issuer| issuer.value.clone()).collect();
            let agents: Vec<_> = config.agents.iter().map(|agent| agent.value.clone()).collect();
            let _faults = interceptor::identity::config::validate(&issuers, &agents);
            let _faults = config.capture.faults();
            let _fault = config.record.validate();
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                assert!(problem.line <= text.matches('\n').count() + 1, "{problem}");
                assert!(!problem.message.is_empty());
            }
        }
    }
});
