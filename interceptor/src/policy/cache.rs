//! Decisions kept for a while, so that a repeated statement costs a look-up.
//!
//! Owns when a decision may be kept: only where no policy that was asked reads `context.time` or `context.session`, and
//! nothing failed. A kept decision is found by a hash and used only where all that policy could see is equal: the
//! generation of the policies, the identity (but not its pid or its token's number), the target, the known tags, whether a
//! transaction is open, and the analysis (equal numbers mean equal actions and facts). Where another analysis is of equal actions
//! and facts, its decision is the same: a statement that was never seen is not judged anew where it does what others did. Of
//! requests, each of which is analysed anew, it is these alone that are equal, but for what stands in the request: decisions of
//! policies that look at that are not kept. Does not look at the token's end: the session ends with it.
//!
//! One cache serves all sessions. It is cut into shards, each with its own lock, held for one look-up or one insertion.

use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::action::{Action, Command, Facts, TagSet};
use super::decision::Decision;
use super::evaluate::{Reach, Request};
use super::load::Policies;
use crate::identity::Attested;

/// Decisions kept, unless told otherwise: about one kilobyte each, five at the most.
pub const DEFAULT_CAPACITY: usize = 4096;

const SHARDS: usize = 16;

/// A bounded cache of decisions.
#[derive(Debug)]
pub struct DecisionCache {
    shards: [Mutex<LruCache<u64, Kept>>; SHARDS],
    // Keyed at random: an agent cannot aim for collisions. A collision costs an evaluation, never a wrong answer.
    hasher: RandomState,
}

#[derive(Debug)]
struct Kept {
    generation: u64,
    what: What,
    in_transaction: bool,
    principal: Attested,
    target: Arc<str>,
    tags: TagSet,
    decision: Decision,
}

impl DecisionCache {
    /// An empty cache for at most that many decisions, rounded up to a multiple of the shards.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let each = NonZeroUsize::new(capacity.div_ceil(SHARDS)).unwrap_or(NonZeroUsize::MIN);
        Self { shards: std::array::from_fn(|_| Mutex::new(LruCache::new(each))), hasher: RandomState::new() }
    }

    /// The decision: a kept one, or [`Policies::evaluate`].
    pub fn decide(&self, policies: &Policies, request: &Request<'_>) -> Decision {
        let command = request.command;
        let analysis = (!is_request(command)).then(|| self.hash(policies, request, &command.analysis));
        if let Some(known) = analysis.and_then(|hash| self.find(hash, policies, request)) {
            return known;
        }
        let deeds = What::is_small(command).then(|| self.hash(policies, request, &command.actions));
        if let Some(known) = deeds.and_then(|hash| self.find(hash, policies, request)) {
            if let Some(analysis) = analysis {
                self.keep(analysis, What::Analysis(command.analysis), policies, request, &known);
            }
            return known;
        }
        let judged = policies.judge(request);
        if let Some(analysis) = analysis.filter(|_| judged.reach >= Reach::Command) {
            self.keep(analysis, What::Analysis(command.analysis), policies, request, &judged.decision);
        }
        if let Some(deeds) = deeds.filter(|_| judged.reach >= Reach::Actions) {
            self.keep(deeds, What::deeds(command), policies, request, &judged.decision);
        }
        judged.decision
    }

    fn shard(&self, hash: u64) -> Option<&Mutex<LruCache<u64, Kept>>> {
        self.shards.get(usize::try_from(hash >> 32).unwrap_or_default() % SHARDS)
    }

    fn find(&self, hash: u64, policies: &Policies, request: &Request<'_>) -> Option<Decision> {
        let mut shard = self.shard(hash)?.lock();
        shard.get(&hash).filter(|kept| kept.answers(policies, request)).map(|kept| kept.decision.clone())
    }

    fn keep(&self, hash: u64, what: What, policies: &Policies, request: &Request<'_>, decision: &Decision) {
        let kept = Kept {
            generation: policies.generation(),
            what,
            in_transaction: request.command.in_transaction,
            principal: request.principal.clone(),
            target: request.target.into(),
            tags: Arc::clone(request.tags),
            decision: decision.clone(),
        };
        if let Some(shard) = self.shard(hash) {
            // What it pushes out is dropped after the lock.
            let _gone = shard.lock().push(hash, kept);
        }
    }

    /// Decisions kept now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn hash(&self, policies: &Policies, request: &Request<'_>, what: &impl Hash) -> u64 {
        let who = request.principal;
        self.hasher.hash_one((
            (policies.generation(), what, request.command.in_transaction),
            (&who.name, &who.groups, &who.facts.cgroup, who.facts.uid, &who.token.subject),
            request.target,
        ))
    }
}

/// What a kept decision is about.
#[derive(Debug)]
enum What {
    /// The analysis of that number.
    Analysis(u64),
    /// Whatever does this; the facts are without what stands in a request.
    Deeds(Arc<[Action]>, Facts),
}

impl What {
    /// Whether what a command does is kept at all: so that as many as there may be hold some megabytes.
    fn is_small(command: &Command) -> bool {
        const MOST: usize = 16;
        const LONGEST: usize = 4096;
        let length = |action: &Action| {
            let columns = action.columns.iter().map(|column| column.len() + 64).sum::<usize>();
            action.resource.path.iter().map(|step| step.len() + 32).sum::<usize>() + columns
        };
        let functions = command.facts.functions.iter().map(|name| name.len() + 64).sum::<usize>();
        command.actions.len() <= MOST && functions + command.actions.iter().map(length).sum::<usize>() <= LONGEST
    }

    fn deeds(command: &Command) -> Self {
        let facts = Facts { http: None, k8s: None, mcp: None, ..(*command.facts).clone() };
        Self::Deeds(Arc::clone(&command.actions), facts)
    }

    fn is(&self, command: &Command) -> bool {
        match self {
            Self::Analysis(number) => !is_request(command) && *number == command.analysis,
            Self::Deeds(actions, facts) => {
                (Arc::ptr_eq(actions, &command.actions) || *actions == command.actions)
                    && is_alike(facts, &command.facts)
            }
        }
    }
}

/// Whether it is one of which each is analysed anew.
fn is_request(command: &Command) -> bool {
    command.facts.http.is_some() || command.facts.k8s.is_some() || command.facts.mcp.is_some()
}

/// Whether facts are equal but for what stands in a request. Taken apart, so that a new one cannot be forgotten here.
fn is_alike(one: &Facts, other: &Facts) -> bool {
    let Facts { has_where, row_limit, functions, filters_on_masked, statements, http: _, k8s: _, mcp: _ } = one;
    *has_where == other.has_where
        && *row_limit == other.row_limit
        && *functions == other.functions
        && *filters_on_masked == other.filters_on_masked
        && *statements == other.statements
}

impl Default for DecisionCache {
    fn default() -> Self {
        Self::new(DEFAULT_CAPACITY)
    }
}

impl Kept {
    /// Whether policy would see the same.
    fn answers(&self, policies: &Policies, request: &Request<'_>) -> bool {
        self.generation == policies.generation()
            && self.what.is(request.command)
            && self.in_transaction == request.command.in_transaction
            && *self.target == *request.target
            && (Arc::ptr_eq(&self.tags, request.tags) || self.tags == *request.tags)
            && looks_like(&self.principal, request.principal)
    }
}

/// Whether both show the same attributes to policies. Taken apart, so that a new field cannot be forgotten here.
fn looks_like(one: &Attested, other: &Attested) -> bool {
    let Attested { name, groups, facts, token } = one;
    let crate::identity::ProcessFacts {
        pid: _,
        uid,
        gid,
        cgroup,
        unit,
        container,
        exe,
        exe_sha256,
        ancestry,
        guarantee,
    } = facts;
    let crate::identity::TokenFacts { issuer, subject, id: _, expires_at: _ } = token;
    *name == other.name
        && *groups == other.groups
        && *uid == other.facts.uid
        && *gid == other.facts.gid
        && *cgroup == other.facts.cgroup
        && *unit == other.facts.unit
        && *container == other.facts.container
        && *exe == other.facts.exe
        && *exe_sha256 == other.facts.exe_sha256
        && *ancestry == other.facts.ancestry
        && guarantee.level == other.facts.guarantee.level
        && *issuer == other.token.issuer
        && *subject == other.token.subject
}
