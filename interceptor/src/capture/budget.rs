//! Buckets of tokens: so many at once, refilled at a rate.

use std::collections::HashMap;

use tokio::time::Instant;

/// cgroups whose budgets are kept at once; while as many are busy, no other has any.
pub(super) const CGROUPS: usize = 1024;

/// How much a bucket holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// A second, on average.
    pub(super) average: u32,
    /// At once.
    pub(super) burst: u32,
}

/// What may still be spent.
#[derive(Debug)]
pub(super) struct Budget {
    a_second: f64,
    most: f64,
    left: f64,
    since: Instant,
}

impl Budget {
    /// A full one.
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Self::hourly(f64::from(rate.average) * 3600.0, f64::from(rate.burst), now)
    }

    /// A full one, of what is refilled slowly.
    pub(super) fn hourly(an_hour: f64, burst: f64, now: Instant) -> Self {
        Self { a_second: an_hour / 3600.0, most: burst, left: burst, since: now }
    }

    /// Spends one, where there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let enough = self.left(now) >= 1.0;
        self.spend(if enough { 1.0 } else { 0.0 });
        enough
    }

    /// What may be spent now.
    pub(super) fn left(&mut self, now: Instant) -> f64 {
        let refilled = now.saturating_duration_since(self.since).as_secs_f64() * self.a_second;
        self.left = (self.left + refilled).min(self.most);
        self.since = now;
        self.left
    }

    /// Spends that much, of which there is enough.
    pub(super) fn spend(&mut self, amount: f64) {
        self.left -= amount;
    }

    /// Whether nothing of it is spent: a new one would be the same.
    pub(super) fn is_whole(&mut self, now: Instant) -> bool {
        self.left(now) >= self.most
    }
}

/// A budget for each cgroup, and one for all of them together.
#[derive(Debug)]
pub(super) struct Budgets {
    each: Rate,
    together: Rate,
    all: Option<Budget>,
    cgroups: HashMap<u64, Budget>,
}

impl Budgets {
    /// Full ones.
    pub(super) fn new(each: Rate, together: Rate) -> Self {
        Self { each, together, all: None, cgroups: HashMap::new() }
    }

    /// Spends one of a cgroup's, where there is one.
    pub(super) fn take(&mut self, cgroup: u64, now: Instant) -> bool {
        if !self.cgroups.contains_key(&cgroup) && self.cgroups.len() >= CGROUPS {
            self.cgroups.retain(|_, budget| !budget.is_whole(now));
            if self.cgroups.len() >= CGROUPS {
                return false;
            }
        }
        let own = self.cgroups.entry(cgroup).or_insert_with(|| Budget::new(self.each, now));
        let all = self.all.get_or_insert_with(|| Budget::new(self.together, now));
        // Its own comes first: who has used that up takes nothing from others.
        own.take(now) && all.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const EACH: Rate = Rate { average: 1, burst: 8 };
    const TOGETHER: Rate = Rate { average: 50, burst: 200 };

    #[test]
    fn a_budget_is_refilled() {
        let start = Instant::now();
        let mut budget = Budget::new(Rate { average: 100, burst: 400 }, start);
        assert_eq!((0..1000).filter(|_| budget.take(start)).count(), 400);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| budget.take(later)).count(), 100);
    }

    #[test]
    fn who_asks_in_a_loop_is_held_and_others_are_not() {
        let (mut budgets, now) = (Budgets::new(EACH, TOGETHER), Instant::now());
        assert_eq!((0..10_000).filter(|_| budgets.take(1, now)).count(), 8);
        assert!(budgets.take(2, now));
        let later = now + Duration::from_secs(1);
        assert!(budgets.take(1, later));
        assert!(!budgets.take(1, later));
    }

    #[test]
    fn what_is_kept_of_cgroups_is_bounded_and_given_back() {
        let (mut budgets, now) = (Budgets::new(EACH, TOGETHER), Instant::now());
        assert_eq!((0..5000).filter(|cgroup| budgets.take(*cgroup, now)).count(), 200);
        assert_eq!(budgets.cgroups.len(), CGROUPS);
        assert!(budgets.take(9999, now + Duration::from_secs(60)));
        assert_eq!(budgets.cgroups.len(), 1);
    }
}
