//! Why policy says what it says, and what would change the answer.
//!
//! Owns the variations that are tried: approval, other facts of the command, further groups, each forbid left out. Does not
//! promise to find every change that would do: the ones tried are those that an author or an agent can act on.

use std::collections::BTreeSet;
use std::sync::Arc;

use cedar_policy::PrincipalConstraint;
use serde::{Deserialize, Serialize};

use super::action::{Action, Command, Facts};
use super::decision::Decision;
use super::evaluate::{Asker, Outcome, Request, Verdict, describe, unmask};
use super::load::Policies;
use super::rule::Rule;
use crate::identity::Attested;

/// Most groups that are tried, and most permits that are shown as near.
pub const MAX_TRIED: usize = 32;
/// Most permits that are shown as near, for each action.
pub const MAX_NEAR: usize = 5;

/// The decision on a command, action by action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What policy says of the whole.
    pub verdict: Verdict,
    /// Ids of the policies that determined it.
    pub rules: Vec<String>,
    /// Who may approve, where it is held.
    pub approvers: Vec<String>,
    /// Why, where it is not permitted.
    pub reason: Option<String>,
    /// What to do, where a policy says so.
    pub remedy: Option<String>,
    /// Tags whose values would be masked, where it is permitted or held.
    pub masked: Vec<String>,
    /// Every action of the command, and `unmask` for every known tag.
    pub actions: Vec<ActionExplanation>,
}

/// The decision on one action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionExplanation {
    /// `sql:drop on Table::"orders-db/orders/public/customers"`.
    pub action: String,
    /// What policy says of it.
    pub verdict: Verdict,
    /// The policies that determined it; none where nothing permits.
    pub rules: Vec<RuleExplanation>,
    /// What went wrong, where it could not be judged.
    pub fault: Option<String>,
    /// Single changes that lead to another verdict.
    pub changes: Vec<Change>,
    /// Where it is denied because nothing permits: the permits that come closest.
    pub near: Vec<Near>,
}

/// One policy, as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleExplanation {
    /// Its `@id`.
    pub id: String,
    /// `permit` or `forbid`.
    pub effect: String,
    /// Where it stands: `baseline.cedar:12`.
    pub place: String,
    /// Its `@reason`.
    pub reason: Option<String>,
}

/// One change, and what policy would say then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `with a WHERE`, `in group "dba"`, `without the forbid no-drop` ...
    pub what: String,
    /// The verdict then.
    pub verdict: Verdict,
}

/// A permit for this action that does not apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Near {
    /// The permit.
    pub rule: RuleExplanation,
    /// What of it does not hold: `principal`, `resource`, `conditions`.
    pub fails: Vec<String>,
}

impl Policies {
    /// Judges the command as [`Policies::evaluate`] does, and says why.
    #[must_use]
    pub fn explain(&self, request: &Request<'_>) -> Explanation {
        let mut explanation = summary(self.evaluate(request));
        let tags = request.tags.iter().map(unmask);
        let actions = request.command.actions.iter().take(super::evaluate::MAX_ACTIONS).cloned().chain(tags);
        explanation.actions = actions.map(|action| self.explain_action(request, &action)).collect();
        explanation
    }

    fn explain_action(&self, request: &Request<'_>, action: &Action) -> ActionExplanation {
        let mut explanation = ActionExplanation {
            action: describe(action),
            verdict: Verdict::Deny,
            rules: Vec::new(),
            fault: None,
            changes: Vec::new(),
            near: Vec::new(),
        };
        let outcome = match Asker::new(self, request).and_then(|asker| asker.ask(action)) {
            Ok(outcome) => outcome,
            Err(denied) => {
                explanation.fault = Some(denied.reason);
                return explanation;
            }
        };
        explanation.verdict = outcome.verdict;
        explanation.rules = self.these(&outcome.rules).map(RuleExplanation::of).collect();
        explanation.changes = self.changes(request, action, &outcome);
        if outcome.verdict == Verdict::Deny && outcome.rules.is_empty() {
            explanation.near = self.near(request, action);
        }
        explanation
    }

    /// Tries one change after the other and keeps those that lead to another verdict.
    fn changes(&self, request: &Request<'_>, action: &Action, outcome: &Outcome) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut keep = |what: String, other: Option<Verdict>| {
            if let Some(verdict) = other.filter(|verdict| *verdict != outcome.verdict) {
                changes.push(Change { what, verdict });
            }
        };
        if outcome.verdict == Verdict::Hold {
            keep("approved by a human".into(), Some(Verdict::Permit));
        }
        for (what, command) in variations(request.command) {
            keep(what.to_owned(), self.verdict(&Request { command: &command, ..*request }, action));
        }
        for group in self.groups().into_iter().take(MAX_TRIED) {
            let principal = joined(request.principal, &group);
            keep(format!("in group {group:?}"), self.verdict(&Request { principal: &principal, ..*request }, action));
        }
        if outcome.verdict != Verdict::Permit {
            for rule in self.these(&outcome.rules).take(MAX_TRIED) {
                keep(format!("without the forbid {}", rule.id), self.verdict_without(request, action, rule));
            }
        }
        changes
    }

    fn verdict(&self, request: &Request<'_>, action: &Action) -> Option<Verdict> {
        Asker::new(self, request).and_then(|asker| asker.ask(action)).ok().map(|outcome| outcome.verdict)
    }

    fn verdict_without(&self, request: &Request<'_>, action: &Action, rule: &Rule) -> Option<Verdict> {
        let asker = Asker::new(self, request).ok()?;
        asker.ask_without(action, Some(rule.policy.id())).ok().map(|outcome| outcome.verdict)
    }

    /// Groups that some policy names.
    fn groups(&self) -> BTreeSet<String> {
        self.rules
            .iter()
            .flat_map(|rule| rule.policy.entity_literals())
            .filter(|uid| self.vocabulary.is_group(uid.type_name()))
            .map(|uid| uid.id().unescaped().to_owned())
            .collect()
    }

    /// Permits that name the action but do not apply, those with the fewest mismatches first.
    fn near(&self, request: &Request<'_>, action: &Action) -> Vec<Near> {
        let Ok(asker) = Asker::new(self, request) else { return Vec::new() };
        let mut near: Vec<Near> = self
            .rules
            .iter()
            .filter(|rule| !rule.forbids() && rule.concerns_action(self.vocabulary, action.name))
            .map(|rule| {
                let mut fails = Vec::new();
                let named = rule.principal();
                if named.as_ref().is_some_and(|uid| !asker.is_or_is_in(uid)) {
                    fails.push(format!("principal: it is for {}", principal_scope(rule)));
                }
                if !asker.lies_in(rule, action) {
                    fails.push("resource: its scope does not cover this one".into());
                }
                if fails.is_empty() {
                    fails.push("conditions: its when/unless clauses do not hold".into());
                }
                Near { rule: RuleExplanation::of(rule), fails }
            })
            .collect();
        near.sort_by_key(|near| near.fails.len());
        near.truncate(MAX_NEAR);
        near
    }
}

impl RuleExplanation {
    fn of(rule: &Rule) -> Self {
        Self {
            id: rule.id.clone(),
            effect: if rule.forbids() { "forbid" } else { "permit" }.into(),
            place: format!("{}:{}", rule.file, rule.line),
            reason: rule.reason.clone(),
        }
    }
}

fn summary(decision: Decision) -> Explanation {
    let mut explanation = Explanation {
        verdict: Verdict::Permit,
        rules: Vec::new(),
        approvers: Vec::new(),
        reason: None,
        remedy: None,
        masked: Vec::new(),
        actions: Vec::new(),
    };
    let masked = |obligations: &super::Obligations| obligations.masked.iter().map(ToString::to_string).collect();
    match decision {
        Decision::Permit(permitted) => {
            explanation.rules = permitted.rules().to_vec();
            explanation.masked = masked(permitted.obligations());
        }
        Decision::Hold(held) => {
            explanation.verdict = Verdict::Hold;
            explanation.rules = held.rules.to_vec();
            explanation.masked = masked(held.when_approved.obligations());
            explanation.approvers = held.approvers;
            explanation.reason = Some(held.reason);
        }
        Decision::Deny(denied) => {
            explanation.verdict = Verdict::Deny;
            explanation.rules = denied.rules.to_vec();
            explanation.reason = Some(denied.reason);
            explanation.remedy = denied.remedy;
        }
    }
    explanation
}

/// The same command in other circumstances.
fn variations(command: &Command) -> Vec<(&'static str, Command)> {
    let facts = &*command.facts;
    let with = |facts: Facts| Command { facts: Arc::new(facts), ..command.clone() };
    let mut variations = Vec::new();
    if !facts.has_where {
        variations.push(("with a WHERE", with(Facts { has_where: true, ..facts.clone() })));
    }
    if facts.row_limit != Some(1) {
        variations.push(("with LIMIT 1", with(Facts { row_limit: Some(1), ..facts.clone() })));
    }
    if facts.filters_on_masked {
        let changed = Facts { filters_on_masked: false, ..facts.clone() };
        variations.push(("without filtering, joining or sorting on a tagged column", with(changed)));
    }
    if !facts.functions.is_empty() {
        let changed = Facts { functions: BTreeSet::new(), ..facts.clone() };
        variations.push(("without calling functions", with(changed)));
    }
    if facts.statements != 1 {
        variations.push(("as a single statement", with(Facts { statements: 1, ..facts.clone() })));
    }
    let other = !command.in_transaction;
    let what = if other { "inside a transaction" } else { "outside a transaction" };
    variations.push((what, Command { in_transaction: other, ..command.clone() }));
    variations
}

fn joined(principal: &Attested, group: &str) -> Attested {
    let groups = principal.groups.iter().cloned().chain([group.to_owned()]).collect::<BTreeSet<_>>();
    Attested { groups: groups.into_iter().collect(), ..principal.clone() }
}

fn principal_scope(rule: &Rule) -> String {
    match rule.policy.principal_constraint() {
        PrincipalConstraint::Eq(uid) => uid.to_string(),
        PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => format!("members of {uid}"),
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => "any machine".into(),
    }
}
