//! How long tests wait: longer on machines that are emulated.

use std::sync::OnceLock;
use std::time::Duration;

/// Names how many times as long things may take.
pub const SLOWNESS: &str = "INTERCEPTOR_TEST_PATIENCE";

/// How many times as long things may take here.
#[must_use]
pub fn slowness() -> u32 {
    static HERE: OnceLock<u32> = OnceLock::new();
    *HERE.get_or_init(|| std::env::var(SLOWNESS).ok().and_then(|times| times.parse().ok()).unwrap_or(1))
}

/// A time that suits a quick machine, for this one.
#[must_use]
pub fn patience(quick: Duration) -> Duration {
    quick * slowness()
}
