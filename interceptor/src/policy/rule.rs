//! One policy with what the judge needs to know of it: who must approve, what it reads, to whom it can apply.
//!
//! Owns the meaning of annotations. `@id`, `@reason`, `@remedy` and `@approval` exist; any other is an error, so that a
//! misspelt `@approval` cannot silently change what a policy does.

use std::collections::BTreeSet;

use cedar_policy::{ActionConstraint, Effect, EntityUid, Policy, PolicyId, PrincipalConstraint, ResourceConstraint};
use serde_json::Value;

use super::action::{ActionName, Resource, ResourceKind};
use super::evaluate::Reach;
use super::schema::Vocabulary;

/// Longest `@id`, `@reason`, `@remedy` or `@approval`, in bytes: they travel in error frames.
pub const MAX_ANNOTATION: usize = 1000;

/// Deepest nesting of a policy's expressions: Cedar's evaluator recurses, and gives up where the stack of a worker thread
/// ends. A chain of `&&` or `||` nests once a term; sets do not.
pub const MAX_DEPTH: usize = 24;

/// A policy that passed every check.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) id: String,
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) policy: Policy,
    pub(super) reason: Option<String>,
    pub(super) remedy: Option<String>,
    /// Groups of `@approval`; empty where there is none.
    pub(super) approvers: BTreeSet<String>,
    /// Attributes that it reads, of whatever.
    pub(super) reads: BTreeSet<String>,
}

/// What is wrong with one policy, and how to put it right.
pub(super) type Complaint = (String, Option<String>);

impl Rule {
    /// Reads the annotations and the conditions; collects every complaint.
    pub(super) fn read(policy: Policy, id: String, file: &str, line: usize) -> Result<Self, Vec<Complaint>> {
        let mut complaints = Vec::new();
        let (mut reason, mut remedy, mut approvers) = (None, None, BTreeSet::new());
        for (key, value) in policy.annotations() {
            if let Some(complaint) = check_annotation(key, value) {
                complaints.push(complaint);
                continue;
            }
            match key {
                "reason" => reason = Some(value.to_owned()),
                "remedy" => remedy = Some(value.to_owned()),
                "approval" => approvers = value.split(',').map(|group| group.trim().to_owned()).collect(),
                _ => {}
            }
        }
        let held = policy.annotation("approval").is_some();
        let mut reads = BTreeSet::new();
        match policy.to_json() {
            Ok(json) if !reads_of(&json, &mut reads) => complaints.push((
                "`context` is used as a whole".into(),
                Some("read its attributes one by one: `context.has_where`".into()),
            )),
            Ok(json) if depth_of(&json) > MAX_DEPTH => complaints.push((
                format!("its expressions are nested deeper than {MAX_DEPTH}"),
                Some("cut it into several policies, or write a long `||` as a set: `[...].contains(...)`".into()),
            )),
            Ok(_) => {}
            Err(error) => complaints.push((format!("the policy cannot be analysed: {error}"), None)),
        }
        let approved = reads.contains("approved");
        complaints.extend(check_approval(&policy, held, approved));
        complaints.extend(policy.entity_literals().iter().filter_map(check_literal));
        let policy = policy.new_id(PolicyId::new(&id));
        let rule = Self { id, file: file.to_owned(), line, policy, reason, remedy, approvers, reads };
        if complaints.is_empty() { Ok(rule) } else { Err(complaints) }
    }

    /// Whether it forbids until a human approves.
    pub(super) fn holds(&self) -> bool {
        !self.approvers.is_empty()
    }

    /// Whether it forbids.
    pub(super) fn forbids(&self) -> bool {
        self.policy.effect() == Effect::Forbid
    }

    /// For which other commands of the same identity its answer is the same.
    pub(super) fn reach(&self) -> Reach {
        let reads = |names: &[&str]| names.iter().any(|name| self.reads.contains(*name));
        match (reads(&["time", "session"]), reads(&["http", "k8s", "mcp"])) {
            (true, _) => Reach::Once,
            (false, true) => Reach::Command,
            (false, false) => Reach::Actions,
        }
    }

    /// The entity that the principal must be, or be in.
    pub(super) fn principal(&self) -> Option<EntityUid> {
        match self.policy.principal_constraint() {
            PrincipalConstraint::Eq(uid) | PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => {
                Some(uid)
            }
            PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
        }
    }

    /// The entity that the resource must be, or be in.
    pub(super) fn resource(&self) -> Option<EntityUid> {
        match self.policy.resource_constraint() {
            ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => Some(uid),
            ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
        }
    }

    /// Whether its scope lets it apply to that action on that kind of resource. Never false where Cedar would match.
    pub(super) fn concerns(&self, vocabulary: &Vocabulary, action: ActionName, kind: ResourceKind) -> bool {
        self.concerns_action(vocabulary, action)
            && match self.policy.resource_constraint() {
                ResourceConstraint::Is(name) | ResourceConstraint::IsIn(name, _) => {
                    vocabulary.kind(&name) == Some(kind)
                }
                ResourceConstraint::Eq(uid) => vocabulary.kind(uid.type_name()) == Some(kind),
                ResourceConstraint::Any | ResourceConstraint::In(_) => true,
            }
    }

    /// Whether its scope names that action, or a group that it is in, or none at all.
    pub(super) fn concerns_action(&self, vocabulary: &Vocabulary, action: ActionName) -> bool {
        let Some(groups) = vocabulary.action_groups.get(&action) else { return true };
        match self.policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(uid) => vocabulary.action_uids.get(&action) == Some(&uid),
            ActionConstraint::In(uids) => uids.iter().any(|uid| groups.contains(uid)),
        }
    }
}

fn check_annotation(key: &str, value: &str) -> Option<Complaint> {
    if !["id", "reason", "remedy", "approval"].contains(&key) {
        return Some((
            format!("unknown annotation @{key}"),
            Some("@id, @reason, @remedy and @approval are known".into()),
        ));
    }
    if value.trim().is_empty() {
        return Some((format!("@{key} is empty"), Some(format!("write @{key}(\"...\") with a text"))));
    }
    if value.len() > MAX_ANNOTATION {
        return Some((format!("@{key} is longer than {MAX_ANNOTATION} bytes"), None));
    }
    if value.chars().any(char::is_control) {
        return Some((format!("@{key} contains a line break or another control character"), None));
    }
    if key == "approval" && value.split(',').any(|group| group.trim().is_empty()) {
        return Some(("@approval names an empty group".into(), Some("write @approval(\"dba, security\")".into())));
    }
    None
}

fn check_approval(policy: &Policy, held: bool, approved: bool) -> Option<Complaint> {
    let forbids = policy.effect() == Effect::Forbid;
    if held && !forbids {
        return Some((
            "@approval stands on a permit".into(),
            Some("hold with a forbid: `forbid (...) unless { context.approved };`".into()),
        ));
    }
    if held && !approved {
        return Some((
            "@approval on a forbid that does not look at context.approved: no approval could lift it".into(),
            Some("add `unless { context.approved }`".into()),
        ));
    }
    if forbids && approved && !held {
        return Some((
            "a forbid looks at context.approved but has no @approval: nobody could approve".into(),
            Some("add @approval(\"group\"), naming who may approve".into()),
        ));
    }
    let unmask = match policy.action_constraint() {
        ActionConstraint::Eq(uid) => uid.id().unescaped() == ActionName::UNMASK.as_str(),
        ActionConstraint::In(uids) => uids.iter().all(|uid| uid.id().unescaped() == ActionName::UNMASK.as_str()),
        ActionConstraint::Any => false,
    };
    (held && unmask).then(|| {
        (
            "unmask cannot be held: approvals are for commands".into(),
            Some("hold the sql:select with `context.tags.contains(...)`, or permit unmask".into()),
        )
    })
}

/// An id that no resource can have would make a forbid that never applies.
fn check_literal(uid: &EntityUid) -> Option<Complaint> {
    let kind = ResourceKind::parse(uid.type_name().to_string().as_str())?;
    let id = uid.id().unescaped();
    if Resource::from_id(kind, id).is_some() {
        return None;
    }
    let depth = kind.depth();
    Some((
        format!("{uid} can never be the id of a {}", kind.as_str()),
        Some(format!(
            "the path has {} to {} parts from the target down, joined by `/`; inside a part write %2F for `/` and %25 for `%`",
            depth.start(),
            depth.end()
        )),
    ))
}

/// How deep the conditions nest, each `when` and `unless` counting once more. In Cedar's JSON every expression is an
/// object that holds its operands in another one.
fn depth_of(json: &Value) -> usize {
    let conditions = json.get("conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut open: Vec<(&Value, usize)> = conditions.iter().map(|condition| (condition, 0)).collect();
    let mut deepest = 0;
    while let Some((value, objects)) = open.pop() {
        deepest = deepest.max(objects);
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, objects))),
            Value::Object(fields) => open.extend(fields.values().map(|inner| (inner, objects + 1))),
            _ => {}
        }
    }
    deepest / 2 + conditions.len()
}

/// Collects every attribute name that is read or tested, whatever it is read from: a superset of what matters. False
/// where `context` occurs as a value of its own, because then more may be read than is named.
fn reads_of(json: &Value, reads: &mut BTreeSet<String>) -> bool {
    let mut open = vec![json];
    let mut only_attributes = true;
    while let Some(value) = open.pop() {
        match value {
            Value::Array(items) => open.extend(items),
            Value::Object(fields) => {
                for (key, inner) in fields {
                    let Some(attribute) = inner.get("attr").filter(|_| key == "." || key == "has") else {
                        only_attributes &= key != "Var" || inner.as_str() != Some("context");
                        open.push(inner);
                        continue;
                    };
                    match attribute {
                        Value::String(name) => drop(reads.insert(name.clone())),
                        Value::Array(names) => reads.extend(names.iter().filter_map(Value::as_str).map(str::to_owned)),
                        _ => only_attributes = false,
                    }
                    let left = inner.get("left");
                    if left.and_then(|left| left.get("Var")).and_then(Value::as_str) != Some("context") {
                        open.extend(left);
                    }
                }
            }
            _ => {}
        }
    }
    only_attributes
}
