//! Masking rules, as a configuration has them.

use crate::mask::{Config, Rules};

#[derive(serde::Deserialize)]
struct Masks {
    mask: Vec<Config>,
}

/// The rules of these `[[mask]]` entries.
///
/// # Panics
/// When they are no configuration: it is a test's own.
#[must_use]
#[expect(clippy::panic, reason = "a fixture that is wrong is a test that is wrong")]
pub fn rules(toml: &str) -> Rules {
    let read = toml::from_str::<Masks>(toml).unwrap_or_else(|error| panic!("{error}"));
    Rules::compile(&read.mask, None).unwrap_or_else(|errors| panic!("{errors:?}"))
}
