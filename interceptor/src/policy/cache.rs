//! Decisions kept for one session, so that a repeated statement costs a look-up.
//!
//! Owns when a decision may be kept: only where no policy that was asked reads `context.time` or `context.session`.
//! A cache belongs to one session, so it needs no lock. It holds for one identity, one target, one set of tags and one
//! generation of policies; whenever one of them differs from the last request, it is emptied. Inside it, the key is the
//! analysis (equal numbers mean equal actions and facts) and whether a transaction is open. Does not promise anything
//! about time: a session ends when its token does.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use super::action::TagSet;
use super::decision::Decision;
use super::evaluate::Request;
use super::load::Policies;
use crate::identity::Attested;

/// Decisions that one session keeps, unless told otherwise.
pub const DEFAULT_CAPACITY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);

/// A bounded cache of decisions for one session.
#[derive(Debug)]
pub struct DecisionCache {
    kept: LruCache<(u64, bool), Decision>,
    holds_for: Option<Scope>,
}

#[derive(Debug)]
struct Scope {
    generation: u64,
    principal: Attested,
    target: Arc<str>,
    tags: TagSet,
}

impl Scope {
    fn covers(&self, policies: &Policies, request: &Request<'_>) -> bool {
        self.generation == policies.generation()
            && (Arc::ptr_eq(&self.tags, request.tags) || self.tags == *request.tags)
            && *self.target == *request.target
            && self.principal == *request.principal
    }
}

impl DecisionCache {
    /// An empty cache for at most that many decisions.
    #[must_use]
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self { kept: LruCache::new(capacity), holds_for: None }
    }

    /// The decision: a kept one, or [`Policies::evaluate`].
    pub fn decide(&mut self, policies: &Policies, request: &Request<'_>) -> Decision {
        if !self.holds_for.as_ref().is_some_and(|scope| scope.covers(policies, request)) {
            self.kept.clear();
            self.holds_for = Some(Scope {
                generation: policies.generation(),
                principal: request.principal.clone(),
                target: request.target.into(),
                tags: Arc::clone(request.tags),
            });
        }
        let key = (request.command.analysis, request.command.in_transaction);
        if let Some(decision) = self.kept.get(&key) {
            return decision.clone();
        }
        let judged = policies.judge(request);
        if judged.stable {
            self.kept.put(key, judged.decision.clone());
        }
        judged.decision
    }

    /// Decisions kept now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

impl Default for DecisionCache {
    fn default() -> Self {
        Self::new(DEFAULT_CAPACITY)
    }
}
