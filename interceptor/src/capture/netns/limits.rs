//! How many namespaces, and how fast: pure arithmetic.
//!
//! An agent can make namespaces in a loop. What it asks for is held per cgroup, so that it costs others nothing, and in all;
//! a part of the room is kept for namespaces that the operator's runtime announces.

use tokio::time::Instant;

use super::super::budget::{Budgets, Rate};
use super::{NamespaceError, Wish};

/// Namespaces of one cgroup that its agents may cause.
const SHARE: usize = 16;
/// One part in so many is kept for those that are announced.
const KEPT: usize = 4;
/// Namespaces a second that one cgroup may cause on average, and at once.
const CGROUP_RATE: Rate = Rate { average: 1, burst: 8 };
/// As above, all cgroups together.
const RATE: Rate = Rate { average: 50, burst: 200 };

/// The bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    most: usize,
}

/// What may still be asked for.
#[derive(Debug)]
pub(super) struct Claims(Budgets);

impl Default for Claims {
    fn default() -> Self {
        Self(Budgets::new(CGROUP_RATE, RATE))
    }
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
        if claims.0.take(cgroup, now) { Ok(()) } else { Err(NamespaceError::Rate) }
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
}
