//! How much may be asked, by whom: pure arithmetic.
//!
//! An agent can ask as fast as it can send. What it asks is held per cgroup, so that it costs others nothing, and in all.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::super::budget::{Budgets, Rate};

/// Queries in flight at once in one network namespace; more are dropped, and clients ask again.
pub const MAX_IN_FLIGHT: usize = 512;
/// As above, in one that is not the daemon's.
const NAMESPACE_IN_FLIGHT: usize = 32;
/// As above, of one cgroup, in all namespaces.
pub(super) const CGROUP_IN_FLIGHT: usize = 128;

/// Questions a second of one cgroup that are passed on, on average, and at once; more are dropped, and clients ask again.
pub(super) const CGROUP_RATE: Rate = Rate { average: 100, burst: 400 };
/// As above, of all cgroups together.
const RATE: Rate = Rate { average: 1000, burst: 4000 };

/// What is shared by the relays of all network namespaces.
#[derive(Debug)]
pub(super) struct Shares {
    budgets: Mutex<Budgets>,
    in_flight: Mutex<HashMap<u64, usize>>,
}

impl Default for Shares {
    fn default() -> Self {
        Self { budgets: Mutex::new(Budgets::new(CGROUP_RATE, RATE)), in_flight: Mutex::default() }
    }
}

impl Shares {
    /// Whether a cgroup may ask one more question now.
    pub(super) fn spend(&self, cgroup: u64, now: Instant) -> bool {
        self.budgets.lock().take(cgroup, now)
    }

    fn enter(self: &Arc<Self>, cgroup: u64) -> Option<Share> {
        let mut in_flight = self.in_flight.lock();
        let count = in_flight.entry(cgroup).or_default();
        (*count < CGROUP_IN_FLIGHT).then(|| {
            *count += 1;
            Share { shares: Arc::clone(self), cgroup }
        })
    }
}

/// One of a cgroup's questions that are in flight.
#[derive(Debug)]
struct Share {
    shares: Arc<Shares>,
    cgroup: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut in_flight = self.shares.in_flight.lock();
        if let Some(count) = in_flight.get_mut(&self.cgroup) {
            *count -= 1;
            if *count == 0 {
                in_flight.remove(&self.cgroup);
            }
        }
    }
}

/// How many queries may be in flight in one network namespace.
#[derive(Clone, Debug)]
pub(super) struct Room {
    own: Arc<Semaphore>,
    /// With the relays of other network namespaces together.
    all: Option<Arc<Semaphore>>,
}

/// Room for one query, given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    _share: Share,
    _own: OwnedSemaphorePermit,
    _all: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Of the daemon's own network namespace.
    pub(super) fn home() -> Self {
        Self { own: Arc::new(Semaphore::new(MAX_IN_FLIGHT)), all: None }
    }

    /// Of another one.
    pub(super) fn away(all: Arc<Semaphore>) -> Self {
        Self { own: Arc::new(Semaphore::new(NAMESPACE_IN_FLIGHT)), all: Some(all) }
    }

    /// Room for one more of a cgroup's.
    pub(super) fn take(&self, shares: &Arc<Shares>, cgroup: u64) -> Option<Seat> {
        // Its own comes first: who has used that up takes nothing from others.
        let share = shares.enter(cgroup)?;
        let own = Arc::clone(&self.own).try_acquire_owned().ok()?;
        let all = match &self.all {
            Some(all) => Some(Arc::clone(all).try_acquire_owned().ok()?),
            None => None,
        };
        Some(Seat { _share: share, _own: own, _all: all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cgroup_leaves_room_for_others_and_gives_it_back() {
        let (room, shares) = (Room::home(), Arc::new(Shares::default()));
        let seats: Vec<Seat> = std::iter::from_fn(|| room.take(&shares, 1)).collect();
        assert_eq!(seats.len(), CGROUP_IN_FLIGHT);
        let mut others: Vec<Seat> = (2..1000).filter_map(|cgroup| room.take(&shares, cgroup)).collect();
        assert_eq!(seats.len() + others.len(), MAX_IN_FLIGHT);
        drop(others.pop());
        assert!(room.take(&shares, 5000).is_some());
        drop((seats, others));
        assert!(shares.in_flight.lock().is_empty());
        assert!(room.take(&shares, 1).is_some());
    }

    #[test]
    fn a_namespace_has_less_and_all_of_them_share() {
        let (all, shares) = (Arc::new(Semaphore::new(40)), Arc::new(Shares::default()));
        let rooms = [Room::away(Arc::clone(&all)), Room::away(all)];
        let seats: Vec<Seat> = (0..).map_while(|cgroup| rooms[0].take(&shares, cgroup)).collect();
        assert_eq!(seats.len(), NAMESPACE_IN_FLIGHT);
        let rest: Vec<Seat> = (0..).map_while(|cgroup| rooms[1].take(&shares, cgroup)).collect();
        assert_eq!(rest.len(), 40 - NAMESPACE_IN_FLIGHT);
    }

    #[tokio::test(start_paused = true)]
    async fn who_floods_is_held_and_others_are_not() {
        let shares = Shares::default();
        let passed = |cgroup: u64| (0..10_000).filter(|_| shares.spend(cgroup, Instant::now())).count();
        assert_eq!(passed(1), 400);
        assert_eq!(passed(2), 400);
    }
}
