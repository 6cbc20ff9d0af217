//! How many namespaces, and how fast: pure arithmetic.
//!
//! An agent can make namespaces in a loop. What it asks for is held per cgroup, so that it costs others nothing, and in all;
//! a part of the room is kept for namespaces that the operator's runtime announces.

use std::collections::HashMap;

use tokio::time::Instant;

use super::super::budget::Budget;
use super::{NamespaceError, Wish};

/// Namespaces of one cgroup that its agents may cause.
const SHARE: usize = 16;
/// One part in so many is kept for those that are announced.
const KEPT: usize = 4;
/// Namespaces a second that one cgroup may cause on average, and at once.
const CGROUP_RATE: (u32, u32) = (1, 8);
/// As above, all cgroups together.
const RATE: (u32, u32) = (50, 200);
/// cgroups whose rates are kept at once; while as many are busy, no other is served.
const CGROUPS: usize = 1024;

/// The bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    most: usize,
}

/// What was asked for lately.
#[derive(Debug, Default)]
pub(super) struct Claims {
    all: Option<Budget>,
    cgroups: HashMap<u64, Budget>,
}

impl Limits {
    pub(super) const fn new(most: usize) -> Self {
        Self { most }
    }

    /// Whether there is room for one more, beside so many, and so many that the agents of its cgroup have caused.
    pub(super) fn room(self, wish: Wish, open: usize, of_cgroup: usize) -> Result<(), NamespaceError> {
        let most = match wish {
            Wish::Announced { .. } => self.most,
            Wish::Refused { .. } | Wish::Found { .. } => self.most - self.most / KEPT,
        };
        if open >= most {
            return Err(NamespaceError::Full { open });
        }
        if of_cgroup >= SHARE { Err(NamespaceError::Share { open: of_cgroup }) } else { Ok(()) }
    }

    /// Takes one from what may be asked for now. Announcements are the operator's, and not held.
    pub(super) fn claim(self, claims: &mut Claims, wish: Wish, now: Instant) -> Result<(), NamespaceError> {
        let Wish::Refused { cgroup, .. } = wish else { return Ok(()) };
        if !claims.cgroups.contains_key(&cgroup) && claims.cgroups.len() >= CGROUPS {
            claims.cgroups.retain(|_, budget| !budget.is_whole(now));
            if claims.cgroups.len() >= CGROUPS {
                return Err(NamespaceError::Rate);
            }
        }
        let (rate, burst) = CGROUP_RATE;
        let own = claims.cgroups.entry(cgroup).or_insert_with(|| Budget::new(rate, burst, now));
        let all = claims.all.get_or_insert_with(|| Budget::new(RATE.0, RATE.1, now));
        // Its own comes first: who has used that up takes nothing from others.
        if own.take(now) && all.take(now) { Ok(()) } else { Err(NamespaceError::Rate) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const fn refused(cgroup: u64) -> Wish {
        Wish::Refused { pid: 1, cookie: 2, cgroup }
    }

    #[test]
    fn a_cgroup_has_a_share_and_the_operator_keeps_a_part() {
        let limits = Limits::new(8);
        assert!(limits.room(refused(1), 5, 0).is_ok());
        assert!(matches!(limits.room(refused(1), 6, 0), Err(NamespaceError::Full { open: 6 })));
        assert!(limits.room(Wish::Announced { pid: 1 }, 7, 0).is_ok());
        assert!(matches!(limits.room(Wish::Announced { pid: 1 }, 8, 0), Err(NamespaceError::Full { .. })));
        let limits = Limits::new(1000);
        assert!(limits.room(refused(1), 500, SHARE - 1).is_ok());
        assert!(matches!(limits.room(refused(1), 500, SHARE), Err(NamespaceError::Share { .. })));
        assert!(Limits::new(0).room(Wish::Announced { pid: 1 }, 0, 0).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_in_a_loop_is_held_and_others_are_not() {
        let (limits, mut claims) = (Limits::new(8), Claims::default());
        let mut passed = 0;
        for _ in 0..10_000 {
            passed += u32::from(limits.claim(&mut claims, refused(1), Instant::now()).is_ok());
        }
        assert_eq!(passed, 8);
        assert!(limits.claim(&mut claims, refused(2), Instant::now()).is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(limits.claim(&mut claims, refused(1), Instant::now()).is_ok());
        assert!(limits.claim(&mut claims, refused(1), Instant::now()).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_of_cgroups_is_bounded_and_given_back() {
        let (limits, mut claims) = (Limits::new(8), Claims::default());
        let mut passed = 0;
        for cgroup in 0..5000 {
            passed += u32::from(limits.claim(&mut claims, refused(cgroup), Instant::now()).is_ok());
        }
        assert_eq!((passed, claims.cgroups.len()), (200, CGROUPS));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(limits.claim(&mut claims, refused(9999), Instant::now()).is_ok());
        assert_eq!(claims.cgroups.len(), 1);
    }
}
