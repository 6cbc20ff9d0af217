//! Loading policies: all or nothing, with every error at once.
//!
//! Owns parsing, validation and slicing. A set of policies that is not understood to the last word is refused whole:
//! no entry is ever skipped. Does not read files; the caller hands over names and texts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cedar_policy::ffi::DetailedError;
use cedar_policy::{EntityUid, PolicyId, PolicySet, ValidationMode, ValidationWarning, Validator};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::action::{ActionName, ResourceKind};
use super::evaluate::Reach;
use super::rule::Rule;
use super::schema::{SCHEMA, Vocabulary};

/// Most policies in one set: loading slices them, and evaluation is linear in what applies.
pub const MAX_POLICIES: usize = 20_000;

/// Most bytes of one policy file.
pub const MAX_FILE: usize = 4 << 20;

/// Something in a policy file that cannot stand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PolicyError {
    /// Name of the file, as the caller gave it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// How to put it right.
    pub help: Option<String>,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "\n    help: {help}"))
    }
}

impl std::error::Error for PolicyError {}

/// A validated set of policies, sliced for evaluation. Immutable: a reload makes another one.
pub struct Policies {
    pub(super) vocabulary: &'static Vocabulary,
    pub(super) rules: Vec<Rule>,
    pub(super) by_id: HashMap<PolicyId, usize>,
    pub(super) slices: HashMap<(ActionName, ResourceKind), Arc<Slice>>,
    /// Attributes that some policy reads: what nobody reads need not be computed.
    pub(super) reads: BTreeSet<String>,
    digest: String,
    generation: u64,
}

/// The policies that can apply to one action on one kind of resource.
#[derive(Debug, Default)]
pub(super) struct Slice {
    /// Those that name neither principal nor resource in their scope.
    pub(super) open: PolicySet,
    /// The indices of `open`.
    pub(super) open_rules: Vec<usize>,
    /// The narrowest reach of `open`.
    pub(super) open_reach: Reach,
    /// The others, by the principal that they name or else by the resource.
    pub(super) bound: HashMap<EntityUid, Vec<usize>>,
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rules, digest, generation) = (self.rules.len(), &self.digest, self.generation);
        write!(f, "Policies {{ rules: {rules}, digest: {digest}, generation: {generation} }}")
    }
}

impl Policies {
    /// Parses and validates the files, given as names and texts. An empty set is valid, and denies everything.
    ///
    /// # Errors
    /// Every error of every file, in their order.
    pub fn load<N: AsRef<str>, T: AsRef<str>>(files: &[(N, T)]) -> Result<Self, Vec<PolicyError>> {
        static GENERATION: AtomicU64 = AtomicU64::new(1);
        let vocabulary =
            Vocabulary::shipped().map_err(|message| vec![at("interceptor.cedarschema", "", 0, message)])?;
        let mut errors = Vec::new();
        let mut rules = Vec::new();
        let mut digest = Sha256::new();
        digest.update(SCHEMA.as_bytes());
        for (name, text) in files {
            let (name, text) = (name.as_ref(), text.as_ref());
            for part in [name, text] {
                digest.update(part.len().to_be_bytes());
                digest.update(part.as_bytes());
            }
            match parse(name, text) {
                Ok(found) => rules.extend(found),
                Err(found) => errors.extend(found),
            }
        }
        if rules.len() > MAX_POLICIES {
            errors.push(at("", "", 0, format!("more than {MAX_POLICIES} policies")));
        }
        let texts: BTreeMap<&str, &str> = files.iter().map(|(name, text)| (name.as_ref(), text.as_ref())).collect();
        if texts.len() != files.len() {
            errors.push(at("", "", 0, "two policy files have the same name".into()));
        }
        let (set, by_id) = index(&rules, &texts, &mut errors);
        validate(vocabulary, &set, &rules, &by_id, &texts, &mut errors);
        if !errors.is_empty() {
            errors.sort();
            errors.dedup();
            return Err(errors);
        }
        let slices = slice(vocabulary, &rules).map_err(|message| vec![at("", "", 0, message)])?;
        let reads = rules.iter().flat_map(|rule| rule.reads.iter().cloned()).collect();
        let digest = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
        Ok(Self { vocabulary, rules, by_id, slices, reads, digest, generation })
    }

    /// SHA-256 over the schema and the names and texts of the files, in their order; lower-case hexadecimal.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Number of this load in this process; never the same for two loads.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Every group that an `@approval` names.
    #[must_use]
    pub fn approver_groups(&self) -> BTreeSet<&str> {
        self.rules.iter().flat_map(|rule| rule.approvers.iter().map(String::as_str)).collect()
    }

    /// How many policies there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none, so that everything is denied.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Ids of all policies, in the order of their files.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.id.as_str())
    }
}

/// Reads one file into rules.
fn parse(file: &str, text: &str) -> Result<Vec<Rule>, Vec<PolicyError>> {
    if text.len() > MAX_FILE {
        return Err(vec![at(file, text, 0, format!("the file is longer than {MAX_FILE} bytes"))]);
    }
    let set = PolicySet::from_str(text).map_err(|error| details(file, text, 0, &DetailedError::from(&error)))?;
    let mut errors: Vec<_> = set
        .templates()
        .map(|template| {
            let start = template.as_ref().loc().map_or(0, |loc| loc.start());
            at(file, text, start, "templates (?principal, ?resource) are not supported: nothing would link them".into())
        })
        .collect();
    let mut policies: Vec<_> =
        set.policies().map(|policy| (policy.as_ref().loc().map_or(0, |loc| loc.start()), policy.clone())).collect();
    policies.sort_by_key(|(start, _)| *start);
    let mut rules = Vec::with_capacity(policies.len());
    let (mut line, mut seen) = (1, 0);
    for (number, (start, policy)) in (1usize..).zip(policies) {
        line += text.bytes().take(start).skip(seen).filter(|byte| *byte == b'\n').count();
        seen = start;
        let id = policy.annotation("id").map_or_else(|| format!("{file}#{number}"), str::to_owned);
        match Rule::read(policy, id, file, line) {
            Ok(rule) => rules.push(rule),
            Err(complaints) => errors.extend(
                complaints.into_iter().map(|(message, help)| PolicyError { help, ..at(file, text, start, message) }),
            ),
        }
    }
    if errors.is_empty() { Ok(rules) } else { Err(errors) }
}

/// One set of all rules, and each rule's index by its id.
fn index(
    rules: &[Rule],
    texts: &BTreeMap<&str, &str>,
    errors: &mut Vec<PolicyError>,
) -> (PolicySet, HashMap<PolicyId, usize>) {
    let mut set = PolicySet::new();
    let mut by_id: HashMap<PolicyId, usize> = HashMap::with_capacity(rules.len());
    for (index, rule) in rules.iter().enumerate() {
        let text = texts.get(rule.file.as_str()).copied().unwrap_or_default();
        if let Some(first) = by_id.get(rule.policy.id()).and_then(|first| rules.get(*first)) {
            let message = format!("@id(\"{}\") is taken by {}:{}", rule.id, first.file, first.line);
            errors.push(PolicyError {
                help: Some("give each policy its own @id".into()),
                ..at(&rule.file, text, start(rule), message)
            });
            continue;
        }
        by_id.insert(rule.policy.id().clone(), index);
        if let Err(error) = set.add(rule.policy.clone()) {
            errors.push(at(&rule.file, text, start(rule), error.to_string()));
        }
    }
    (set, by_id)
}

/// Strict validation against the shipped schema. A policy that can never apply is an error too: a forbid that never
/// forbids protects nothing.
fn validate(
    vocabulary: &Vocabulary,
    set: &PolicySet,
    rules: &[Rule],
    by_id: &HashMap<PolicyId, usize>,
    texts: &BTreeMap<&str, &str>,
    errors: &mut Vec<PolicyError>,
) {
    let result = Validator::new(vocabulary.schema.clone()).validate(set, ValidationMode::Strict);
    let mut report = |id: &PolicyId, error: DetailedError| {
        let Some(rule) = by_id.get(id).and_then(|index| rules.get(*index)) else {
            errors.push(at("", "", 0, error.message));
            return;
        };
        let text = texts.get(rule.file.as_str()).copied().unwrap_or_default();
        errors.extend(details(&rule.file, text, start(rule), &error));
    };
    for error in result.validation_errors() {
        report(error.policy_id(), DetailedError::from(error));
    }
    for warning in result.validation_warnings() {
        // Names of real tables may mix scripts. Text that reads otherwise than it runs, and policies that never apply,
        // mislead.
        let harmless = matches!(
            warning,
            ValidationWarning::MixedScriptString(_)
                | ValidationWarning::MixedScriptIdentifier(_)
                | ValidationWarning::ConfusableIdentifier(_)
        );
        if !harmless {
            report(warning.policy_id(), DetailedError::from(warning));
        }
    }
}

/// Cuts the rules by action and kind; equal slices are shared.
fn slice(vocabulary: &Vocabulary, rules: &[Rule]) -> Result<HashMap<(ActionName, ResourceKind), Arc<Slice>>, String> {
    let mut shared: HashMap<Vec<usize>, Arc<Slice>> = HashMap::new();
    let mut slices = HashMap::new();
    for action in ActionName::all() {
        let of_action: Vec<_> =
            rules.iter().enumerate().filter(|(_, rule)| rule.concerns_action(vocabulary, action)).collect();
        for kind in ResourceKind::ALL.iter().copied() {
            if (action == ActionName::UNMASK) != (kind == ResourceKind::Tag) {
                continue;
            }
            let chosen: Vec<usize> = of_action
                .iter()
                .filter(|(_, rule)| rule.concerns(vocabulary, action, kind))
                .map(|(index, _)| *index)
                .collect();
            let slice = match shared.get(&chosen) {
                Some(slice) => Arc::clone(slice),
                None => {
                    let slice = Arc::new(Slice::of(&chosen, rules)?);
                    shared.insert(chosen, Arc::clone(&slice));
                    slice
                }
            };
            slices.insert((action, kind), slice);
        }
    }
    Ok(slices)
}

impl Slice {
    fn of(chosen: &[usize], rules: &[Rule]) -> Result<Self, String> {
        let mut slice = Self::default();
        for index in chosen.iter().copied() {
            let Some(rule) = rules.get(index) else { continue };
            match rule.principal().or_else(|| rule.resource()) {
                Some(uid) => slice.bound.entry(uid).or_default().push(index),
                None => {
                    slice.open.add(rule.policy.clone()).map_err(|error| error.to_string())?;
                    slice.open_rules.push(index);
                    slice.open_reach = slice.open_reach.min(rule.reach());
                }
            }
        }
        Ok(slice)
    }
}

fn start(rule: &Rule) -> usize {
    rule.policy.as_ref().loc().map_or(0, |loc| loc.start())
}

/// An error and those related to it, each at its own place.
fn details(file: &str, text: &str, fallback: usize, error: &DetailedError) -> Vec<PolicyError> {
    let label = error.source_locations.first();
    let mut message = error.message.clone();
    if let Some(expected) = label.and_then(|label| label.label.as_ref()).filter(|label| !message.contains(*label)) {
        message = format!("{message} ({expected})");
    }
    let start = label.map_or(fallback, |label| label.loc.start);
    let first = PolicyError { help: error.help.clone(), ..at(file, text, start, message) };
    std::iter::once(first)
        .chain(error.related.iter().flat_map(|related| details(file, text, fallback, related)))
        .collect()
}

fn at(file: &str, text: &str, offset: usize, message: String) -> PolicyError {
    let (line, column) = position(text, offset);
    PolicyError { file: file.to_owned(), line, column, message, help: None }
}

/// Line and column of a byte offset, both from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let (mut line, mut column) = (1, 1);
    for (index, character) in text.char_indices() {
        if index >= offset {
            break;
        }
        if character == '\n' {
            (line, column) = (line + 1, 1);
        } else {
            column += 1;
        }
    }
    (line, column)
}
