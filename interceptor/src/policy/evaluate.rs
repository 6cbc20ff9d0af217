//! The verdict on one command: a pure function of the request and the policies.
//!
//! Owns default deny, "any deny wins", holds, and the obligation to mask. Cedar skips a policy whose evaluation fails; here
//! such a failure denies, because a forbid that is skipped forbids nothing. Does not promise to name every reason for a
//! denial: the first action refused is named. `explain` tells the rest.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use cedar_policy::{
    Authorizer, Context, Decision as Answer, Entities, Entity, EntityUid, PolicyId, PolicySet, Request as CedarRequest,
};

use super::action::{Action, Command, Resource, ResourceKind, Tag, TagSet};
use super::attributes::{attributes_of, circumstances, machine, of_action, wanted};
use super::decision::{Decision, Denied, Held, Obligations, Permitted};
use super::denial::{Fault, Retry};
use super::load::{Policies, Slice};
use super::rule::Rule;
use crate::clock::Timestamp;
use crate::identity::Attested;

/// Most actions that one command may cause. More are refused: each costs an evaluation.
pub const MAX_ACTIONS: usize = 2048;

/// Longest description of an action, and longest note, in a denial; in characters.
pub const MAX_TEXT: usize = 400;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who asks.
    pub principal: &'a Attested,
    /// Name of the target that the connection leads to; every resource of the command must lie in it.
    pub target: &'a str,
    /// What is asked for.
    pub command: &'a Command,
    /// The session so far.
    pub session: SessionFacts,
    /// When.
    pub now: Timestamp,
    /// Every tag that the mask rules and detectors know.
    pub tags: &'a TagSet,
}

/// Counters of a session, that policies see as `context.session`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionFacts {
    /// Commands judged before this one.
    pub commands: u64,
    /// Seconds since the session began.
    pub age_seconds: u64,
}

/// A decision, and for which other commands of the same identity it would be the same.
#[derive(Clone, Debug)]
pub struct Judged {
    /// What policy says.
    pub decision: Decision,
    /// How far that goes.
    pub reach: Reach,
}

/// For which other commands of the same identity a decision is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// For none: a policy that was asked reads the time or the session's counters, or something failed.
    Once,
    /// For the same command at another time.
    Command,
    /// For all that do the same, whatever else stands in their requests (`context.http`, `context.k8s`, `context.mcp`).
    #[default]
    Actions,
}

impl Policies {
    /// What policy says of the command.
    #[must_use]
    pub fn evaluate(&self, request: &Request<'_>) -> Decision {
        self.judge(request).decision
    }

    /// [`Policies::evaluate`], and whether the decision may be kept.
    #[must_use]
    pub fn judge(&self, request: &Request<'_>) -> Judged {
        let mut reach = Reach::Actions;
        let decision = self.decide(request, &mut reach).unwrap_or_else(|denied| {
            // A fault can heal.
            if denied.fault != Fault::Agent {
                reach = Reach::Once;
            }
            Decision::Deny(denied)
        });
        Judged { decision, reach }
    }

    fn decide(&self, request: &Request<'_>, reach: &mut Reach) -> Result<Decision, Denied> {
        let actions = &request.command.actions;
        if actions.is_empty() || actions.len() > MAX_ACTIONS {
            return Err(broken(
                format!("a command with {} actions", actions.len()),
                format!("a command must cause 1 to {MAX_ACTIONS} actions to be judged"),
                Fault::Interceptor,
            ));
        }
        let asker = Asker::new(self, request)?;
        let (mut permits, mut forbids) = (BTreeSet::new(), BTreeSet::new());
        for action in actions.iter() {
            let outcome = asker.ask(action)?;
            *reach = outcome.reach.min(*reach);
            match outcome.verdict {
                Verdict::Permit => permits.extend(outcome.rules),
                Verdict::Hold => {
                    forbids.extend(outcome.rules);
                    permits.extend(outcome.when_approved);
                }
                Verdict::Deny => return Err(self.refuse(action, &outcome.rules)),
            }
        }
        let mut masked = BTreeSet::new();
        for tag in request.tags.iter() {
            let outcome = asker.ask(&unmask(tag))?;
            *reach = outcome.reach.min(*reach);
            if outcome.verdict != Verdict::Permit {
                masked.insert(Arc::clone(tag));
            }
        }
        let permitted =
            Permitted { rules: self.names(&permits), obligations: Obligations { masked: Arc::new(masked) } };
        if forbids.is_empty() {
            return Ok(Decision::Permit(permitted));
        }
        self.hold(actions, &forbids, permitted).map(Decision::Hold)
    }

    /// One approval must be enough for all that holds: whoever approves must be named by every holding policy, or a
    /// command could be bundled with another to be approved by the wrong people.
    fn hold(&self, actions: &[Action], forbids: &BTreeSet<usize>, when_approved: Permitted) -> Result<Held, Denied> {
        let mut approvers: Option<BTreeSet<&String>> = None;
        for rule in self.these(forbids) {
            approvers = Some(match approvers {
                None => rule.approvers.iter().collect(),
                Some(so_far) => so_far.into_iter().filter(|group| rule.approvers.contains(*group)).collect(),
            });
        }
        let approvers: Vec<String> = approvers.into_iter().flatten().cloned().collect();
        let reason = join(self.these(forbids).filter_map(|rule| rule.reason.as_deref()))
            .unwrap_or_else(|| "a human must approve this".into());
        if approvers.is_empty() {
            return Err(Denied {
                rules: self.names(forbids),
                action: actions.first().map(describe).unwrap_or_default(),
                reason: format!("no single group may approve all of it: {reason}"),
                remedy: Some("send its parts as separate commands, to be approved one by one".into()),
                retry: Retry::Never,
                fault: Fault::Agent,
            });
        }
        Ok(Held { approvers, rules: self.names(forbids), reason, when_approved })
    }

    fn refuse(&self, action: &Action, rules: &BTreeSet<usize>) -> Denied {
        let note = action.note.as_ref().map(|note| format!(" ({})", shorten(note.to_string()))).unwrap_or_default();
        let plain = |index: &usize| self.rules.get(*index).is_some_and(|rule| !rule.holds());
        let (plain, holds): (BTreeSet<usize>, BTreeSet<usize>) = rules.iter().copied().partition(plain);
        // Where only holds forbid, and it is denied all the same, no approval would help: none is promised. Nor is it where
        // something else forbids as well.
        let (reason, remedy) = if plain.is_empty() {
            let reason = format!("no policy permits it{note}");
            (reason, Some("ask security for a policy that permits this action on this resource".into()))
        } else {
            let reasons = join(self.these(&plain).filter_map(|rule| rule.reason.as_deref()));
            let reason = reasons.unwrap_or_else(|| "a policy forbids it".into()) + &note;
            (reason, join(self.these(&plain).filter_map(|rule| rule.remedy.as_deref())))
        };
        let rules = self.these(&plain).chain(self.these(&holds)).map(|rule| rule.id.clone()).collect();
        Denied { rules, action: describe(action), reason, remedy, retry: Retry::Never, fault: Fault::Agent }
    }

    pub(super) fn these<'a>(&'a self, rules: &'a BTreeSet<usize>) -> impl Iterator<Item = &'a Rule> {
        rules.iter().filter_map(|index| self.rules.get(*index))
    }

    fn names(&self, rules: &BTreeSet<usize>) -> Arc<[String]> {
        self.these(rules).map(|rule| rule.id.clone()).collect()
    }
}

/// What policy says of one action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It may be done.
    Permit,
    /// It may be done once a human approves.
    Hold,
    /// It may not be done.
    Deny,
}

impl Verdict {
    /// `permit`, `hold` or `deny`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::Hold => "hold",
            Self::Deny => "deny",
        }
    }
}

/// The verdict on one action, with indices of rules.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    /// Those that determined it.
    pub(super) rules: BTreeSet<usize>,
    /// Those that permit once a human approves.
    pub(super) when_approved: BTreeSet<usize>,
    pub(super) reach: Reach,
}

/// One requester in one set of circumstances, ready to ask for any action.
pub(super) struct Asker<'a> {
    policies: &'a Policies,
    target: &'a str,
    uid: EntityUid,
    groups: Vec<EntityUid>,
    entity: Entity,
    context: Context,
}

impl<'a> Asker<'a> {
    pub(super) fn new(policies: &'a Policies, request: &Request<'a>) -> Result<Self, Denied> {
        let vocabulary = policies.vocabulary;
        let uid = vocabulary.machine(&request.principal.name);
        let groups: Vec<_> = request.principal.groups.iter().map(|group| vocabulary.group(group)).collect();
        let attributes = wanted(policies, machine(request.principal)).collect();
        let entity = Entity::new(uid.clone(), attributes, groups.iter().cloned().collect())
            .map_err(|error| internal(error.to_string()))?;
        let context = Context::from_pairs(wanted(policies, circumstances(request)))
            .map_err(|error| internal(error.to_string()))?;
        Ok(Self { policies, target: request.target, uid, groups, entity, context })
    }

    /// Asks for one action: as it is, and, where only forbids with `@approval` stand against it, as if approved.
    pub(super) fn ask(&self, action: &Action) -> Result<Outcome, Denied> {
        self.ask_without(action, None)
    }

    /// [`Asker::ask`], as if one policy did not exist: for explanations only.
    pub(super) fn ask_without(&self, action: &Action, absent: Option<&PolicyId>) -> Result<Outcome, Denied> {
        let policies = self.policies;
        let place = self.place(&action.resource).ok_or_else(|| {
            let reason = "the resource is not a place in this session's target".to_owned();
            broken(describe(action), reason, Fault::Interceptor)
        })?;
        let Some(slice) = policies.slices.get(&(action.name, action.resource.kind)) else {
            return Ok(Outcome {
                verdict: Verdict::Deny,
                rules: BTreeSet::new(),
                when_approved: BTreeSet::new(),
                reach: Reach::Actions,
            });
        };
        let (mut set, reach) = self.select(slice, &place).map_err(internal)?;
        if let Some(absent) = absent.filter(|id| set.policy(id).is_some()) {
            set.to_mut().remove_static(absent.clone()).map_err(|error| internal(error.to_string()))?;
        }
        let entities = self.entities(action, &place).map_err(internal)?;
        let (answer, rules) = self.consult(action, &place.uid, &set, &entities, false)?;
        let mut outcome = Outcome { verdict: Verdict::Permit, rules, when_approved: BTreeSet::new(), reach };
        if answer == Answer::Allow {
            return Ok(outcome);
        }
        outcome.verdict = Verdict::Deny;
        let can_be_lifted = !outcome.rules.is_empty() && policies.these(&outcome.rules).all(Rule::holds);
        // Unmasking is an obligation, not a command: nobody is asked to approve it.
        if can_be_lifted && action.resource.kind != ResourceKind::Tag {
            let (answer, rules) = self.consult(action, &place.uid, &set, &entities, true)?;
            if answer == Answer::Allow {
                outcome.verdict = Verdict::Hold;
                outcome.when_approved = rules;
            }
        }
        Ok(outcome)
    }

    /// One question to Cedar. Any policy that fails denies.
    fn consult(
        &self,
        action: &Action,
        resource: &EntityUid,
        set: &PolicySet,
        entities: &Entities,
        approved: bool,
    ) -> Result<(Answer, BTreeSet<usize>), Denied> {
        let uid = self.policies.vocabulary.action_uids.get(&action.name);
        let uid = uid.ok_or_else(|| internal(format!("{} is not in the schema", action.name)))?.clone();
        let context = Context::from_pairs(wanted(self.policies, of_action(action, approved)))
            .map_err(|error| error.to_string())
            .and_then(|own| self.context.clone().merge(own).map_err(|error| error.to_string()))
            .map_err(internal)?;
        let request = CedarRequest::new(self.uid.clone(), uid, resource.clone(), context, None)
            .map_err(|error| internal(error.to_string()))?;
        let response = Authorizer::new().is_authorized(&request, set, entities);
        if let Some(error) = response.diagnostics().errors().next() {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
            let mut denied = broken(
                describe(action),
                format!("policy {} could not be evaluated: {}", error.policy_id(), error.inner()),
                Fault::Operator,
            );
            denied.rules = Arc::from([error.policy_id().to_string()]);
            return Err(denied);
        }
        let rules = response.diagnostics().reason().filter_map(|id| self.policies.by_id.get(id).copied()).collect();
        Ok((response.decision(), rules))
    }

    /// The policies of the slice whose scope can match, and how far what they say goes.
    fn select<'s>(&self, slice: &'s Slice, place: &Place) -> Result<(Cow<'s, PolicySet>, Reach), String> {
        let policies = self.policies;
        let mut set = Cow::Borrowed(&slice.open);
        let mut reach = slice.open_reach;
        let keys = std::iter::once(&self.uid).chain(&self.groups).chain([&place.uid]).chain(&place.parents);
        let keys: HashSet<&EntityUid> = keys.collect();
        for rule in keys.iter().filter_map(|key| slice.bound.get(*key)).flatten() {
            let Some(rule) = policies.rules.get(*rule) else { continue };
            if rule.resource().is_some_and(|uid| !keys.contains(&uid)) {
                continue;
            }
            reach = reach.min(rule.reach());
            set.to_mut().add(rule.policy.clone()).map_err(|error| error.to_string())?;
        }
        Ok((set, reach))
    }

    /// Whether the principal is that entity, or in it.
    pub(super) fn is_or_is_in(&self, uid: &EntityUid) -> bool {
        self.uid == *uid || self.groups.contains(uid)
    }

    /// Whether the scope of the rule covers the resource.
    pub(super) fn lies_in(&self, rule: &Rule, action: &Action) -> bool {
        rule.concerns(self.policies.vocabulary, action.name, action.resource.kind)
            && rule.resource().is_none_or(|uid| {
                self.place(&action.resource).is_some_and(|place| place.uid == uid || place.parents.contains(&uid))
            })
    }

    fn entities(&self, action: &Action, place: &Place) -> Result<Entities, String> {
        let known = self.policies.vocabulary.actions.get(&action.name);
        let known = known.ok_or_else(|| format!("{} is not in the schema", action.name))?;
        let attributes = wanted(self.policies, attributes_of(&action.resource)).collect();
        let resource = Entity::new(place.uid.clone(), attributes, place.parents.iter().cloned().collect())
            .map_err(|error| error.to_string())?;
        Entities::from_entities([self.entity.clone(), known.clone(), resource], None).map_err(|error| error.to_string())
    }

    /// Where a resource lies; `None` where its path does not fit its kind, or leads out of the session's target.
    fn place(&self, resource: &Resource) -> Option<Place> {
        let vocabulary = self.policies.vocabulary;
        let (kind, path) = (resource.kind, &resource.path);
        if !kind.depth().contains(&path.len()) {
            return None;
        }
        let uid = vocabulary.resource(kind, &resource.id())?;
        if kind == ResourceKind::Tag {
            return Some(Place { uid, parents: Vec::new() });
        }
        if path.first()?.as_ref() != self.target {
            return None;
        }
        let ladder = ladder(kind, path).iter().copied();
        let parents = (1..path.len())
            .zip(ladder)
            .map(|(length, kind)| vocabulary.resource(kind, &Resource::join(path.get(..length)?)))
            .collect::<Option<Vec<_>>>()?;
        Some(Place { uid, parents })
    }
}

/// What the places are that a resource lies in, from the target down.
fn ladder(kind: ResourceKind, path: &[Arc<str>]) -> &'static [ResourceKind] {
    match kind {
        // The steps of a route are no databases.
        ResourceKind::Route | ResourceKind::Namespace | ResourceKind::Tool => &[ResourceKind::Target],
        // What lies in no namespace has an empty one.
        ResourceKind::KubernetesObject if path.get(1).is_some_and(|namespace| !namespace.is_empty()) => {
            &[ResourceKind::Target, ResourceKind::Namespace]
        }
        ResourceKind::KubernetesObject => &[ResourceKind::Target],
        _ => &[ResourceKind::Target, ResourceKind::Database, ResourceKind::Schema],
    }
}

/// A resource among the entities, with all that it lies in.
struct Place {
    uid: EntityUid,
    parents: Vec<EntityUid>,
}

/// The question whether values of that tag may be seen in clear.
pub(super) fn unmask(tag: &Tag) -> Action {
    Action {
        name: super::ActionName::UNMASK,
        resource: Resource { kind: ResourceKind::Tag, path: vec![Arc::clone(tag)] },
        columns: BTreeSet::new(),
        tags: Arc::new(BTreeSet::new()),
        note: None,
    }
}

/// `sql:drop on Table::"orders-db/orders/public/customers"`, cut where names are longer than an error frame should be.
pub(super) fn describe(action: &Action) -> String {
    shorten(format!("{} on {}", action.name, action.resource))
}

/// The agent chooses names and notes quote it: neither may swell a denial.
fn shorten(text: String) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        None => text,
        Some(_) => text.chars().take(MAX_TEXT).chain(['…']).collect(),
    }
}

/// Distinct texts, one after the other.
fn join<'a>(texts: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut seen = HashSet::new();
    let texts: Vec<_> = texts.filter(|text| seen.insert(*text)).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

fn broken(action: String, reason: String, fault: Fault) -> Denied {
    let remedy = match fault {
        Fault::Operator => Some("tell security: this policy has to be corrected".into()),
        _ => None,
    };
    Denied { rules: Arc::from([]), action, reason, remedy, retry: Retry::Later, fault }
}

fn internal(reason: String) -> Denied {
    broken("the command".into(), format!("the policies could not be asked: {reason}"), Fault::Interceptor)
}
