//! A bucket of tokens: so many at once, refilled at a rate.

use tokio::time::Instant;

/// What may still be spent.
#[derive(Debug)]
pub(super) struct Budget {
    rate: u32,
    burst: u32,
    left: f64,
    since: Instant,
}

impl Budget {
    /// A full one: `burst` at once, and `rate` more a second.
    pub(super) fn new(rate: u32, burst: u32, now: Instant) -> Self {
        Self { rate, burst, left: f64::from(burst), since: now }
    }

    /// Spends one, where there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let enough = self.left >= 1.0;
        self.left -= if enough { 1.0 } else { 0.0 };
        enough
    }

    /// Whether nothing of it is spent: a new one would be the same.
    pub(super) fn is_whole(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left >= f64::from(self.burst)
    }

    fn refill(&mut self, now: Instant) {
        let refilled = now.saturating_duration_since(self.since).as_secs_f64() * f64::from(self.rate);
        self.left = (self.left + refilled).min(f64::from(self.burst));
        self.since = now;
    }
}
