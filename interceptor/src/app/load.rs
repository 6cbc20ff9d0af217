//! From configuration to what a reload replaces. Reads policy files; touches nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::capture;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Located, Problem};
use crate::identity::Attestor;
use crate::identity::level::Registry;
use crate::mask::{self, MaskError, Rules};
use crate::policy::{Policies, PolicyError};
use crate::protocol::kubernetes;
use crate::secret::{self, Secret};
use crate::session::{BoundTarget, Loaded};
use crate::tls::authority::Store;

/// Policy files larger than this, all together, are refused.
const POLICY_BYTES: u64 = 16 << 20;

/// A token key larger than this is no key.
const KEY_BYTES: u64 = 4096;

/// What does not come from files, and is the same at every reload.
#[derive(Clone, Debug)]
pub struct Means {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Key of masking tokens where the configuration names none: drawn once, so that a reload changes no token.
    pub token_key: Secret,
}

impl Means {
    /// The system's clock, and a fresh key.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn draw() -> Result<Self, MaskError> {
        Ok(Self { clock: Arc::new(SystemClock::new()), token_key: Rules::random_key()? })
    }
}

/// Builds policies, masking rules and targets, and checks everything else that can be checked.
///
/// # Errors
/// Every problem, with file and line.
pub fn load(path: &Path, config: &Config, means: &Means) -> Result<Loaded, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut wrong = |line: usize, message: String| {
        problems.push(Problem { file: path.to_path_buf(), line, column: 0, message });
    };
    unique("target", config.targets.iter().map(|target| (target.value.name.as_str(), target.line)), &mut wrong);
    let attestor = attestor(config, &means.clock, &mut wrong);
    let authority = match config.ca.as_ref().map(|ca| Store::new(ca).load(Arc::clone(&means.clock))).transpose() {
        Ok(authority) => authority.map(Arc::new),
        Err(error) => {
            wrong(0, format!("[ca] {error}"));
            None
        }
    };
    let mut targets = Vec::new();
    for Located { value: target, line } in &config.targets {
        match BoundTarget::bind(target, authority.as_ref()) {
            Ok(target) => targets.push(Arc::new(target)),
            Err(messages) => messages.into_iter().for_each(|message| wrong(*line, message)),
        }
    }
    if let Err(error) = config.record.validate() {
        wrong(0, error.to_string());
    }
    config.capture.faults().into_iter().for_each(|fault| wrong(0, format!("[capture] {fault}")));
    config.limits.faults().into_iter().for_each(|fault| wrong(0, format!("[limits] {fault}")));
    let rules = rules(config, &means.token_key, &mut wrong);
    // A misspelt place would be one where nothing is masked.
    let places: BTreeSet<&str> = rules.iter().flat_map(Rules::json_places).collect();
    for place in places {
        if !config.targets.iter().any(|target| target.value.answers_json_at(place)) {
            wrong(
                0,
                format!(
                    "a mask has json paths for `{place}`, which is no target that answers JSON, nor one with one of its routes, kinds (with their group: prod/core/configmaps) or tools"
                ),
            );
        }
    }
    let policies = policies(&config.policy.dir, &mut problems);
    if let Some(policies) = &policies {
        // A misspelt group would be one that nobody listed, and so one that more people may answer for.
        let listed = &config.approval.approvers;
        for group in policies.approver_groups() {
            if !listed.is_empty() && !listed.contains_key(group) {
                problems.push(Problem {
                    file: path.to_path_buf(),
                    line: 0,
                    column: 0,
                    message: format!(
                        "a policy names @approval(\"{group}\"), and [approval] approvers does not list it"
                    ),
                });
            }
        }
    }
    match (policies, rules, attestor) {
        (Some(policies), Some(rules), Some(attestor)) if problems.is_empty() => {
            Ok(Loaded { attestor, policies: Arc::new(policies), rules: Arc::new(rules), targets, authority })
        }
        _ => Err(problems),
    }
}

fn attestor(config: &Config, clock: &Arc<dyn Clock>, wrong: &mut impl FnMut(usize, String)) -> Option<Attestor> {
    let issuers = config.issuers.iter().map(|issuer| issuer.value.clone()).collect();
    let agents = config.agents.iter().map(|agent| agent.value.clone()).collect();
    let registry = Registry::beside(&config.admin.socket, &config.capture.pin_directory);
    match Attestor::new(issuers, agents, (Arc::new(capture::cgroup::cgroup_path), registry), Arc::clone(clock)) {
        Ok(attestor) => Some(attestor),
        Err(faults) => {
            for fault in faults {
                let issuer = config.issuers.iter().find(|at| fault.at == format!("[[issuer]] {}", at.value.name));
                let agent = config.agents.iter().find(|at| fault.at == format!("[[agent]] {}", at.value.name));
                let line = issuer.map(|at| at.line).or(agent.map(|at| at.line)).unwrap_or(0);
                wrong(line, fault.to_string());
            }
            None
        }
    }
}

fn rules(config: &Config, fallback: &Secret, wrong: &mut impl FnMut(usize, String)) -> Option<Rules> {
    let key = match config.masking.token_key.as_deref().map(|path| secret::read_file(path, KEY_BYTES)).transpose() {
        Ok(key) => Some(key.unwrap_or_else(|| fallback.clone())),
        Err(error) => {
            wrong(0, format!("masking.token_key: {error}"));
            return None;
        }
    };
    let mut listed: Vec<_> = config.masks.iter().map(|mask| mask.value.clone()).collect();
    listed.extend(by_kind(config));
    match Rules::compile(&listed, key.clone()) {
        Ok(rules) => Some(rules),
        Err(errors) => {
            // Each entry once more on its own, to say on which line it stands.
            let mut located = 0;
            for Located { value, line } in &config.masks {
                for error in Rules::compile(std::slice::from_ref(value), key.clone()).err().into_iter().flatten() {
                    located += 1;
                    wrong(*line, error.to_string());
                }
            }
            if located < errors.len() {
                errors.into_iter().for_each(|error| wrong(0, error.to_string()));
            }
            None
        }
    }
}

/// What clusters answer that is a secret by its kind.
fn by_kind(config: &Config) -> impl Iterator<Item = mask::Config> {
    let own = config.masks.iter().map(|mask| &mask.value).find(|mask| mask.tag == kubernetes::masks::TAG);
    let transform = own.map(|mask| mask.transform).unwrap_or_default();
    let clusters = config.targets.iter().map(|target| &target.value);
    let clusters = clusters.filter(|target| target.protocol == kubernetes::REGISTRATION.name);
    clusters.flat_map(move |target| {
        let beside = config.masks.iter().filter_map(|mask| kubernetes::masks::beside(&target.name, &mask.value));
        kubernetes::masks::of(&target.name, transform).into_iter().chain(beside)
    })
}

fn policies(directory: &Path, problems: &mut Vec<Problem>) -> Option<Policies> {
    let mut failed = |file: &Path, message: String| {
        problems.push(Problem { file: file.to_path_buf(), line: 0, column: 0, message });
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            failed(directory, format!("the policy folder cannot be read: {error}"));
            return None;
        }
    };
    let mut files = Vec::new();
    let mut total = 0;
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => {
                failed(directory, format!("the policy folder cannot be read: {error}"));
                return None;
            }
        };
        if path.extension().is_none_or(|extension| extension != "cedar") {
            continue;
        }
        match fs::read_to_string(&path) {
            Ok(text) => {
                total += text.len() as u64;
                files.push((path.display().to_string(), text));
            }
            Err(error) => failed(&path, format!("cannot be read: {error}")),
        }
    }
    if total > POLICY_BYTES {
        failed(directory, format!("the policies have {total} bytes together; the limit is {POLICY_BYTES}"));
        return None;
    }
    if files.is_empty() {
        failed(directory, "the policy folder holds no *.cedar file; without a policy everything is denied".to_owned());
        return None;
    }
    files.sort();
    let named: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    match Policies::load(&named) {
        Ok(policies) => Some(policies),
        Err(errors) => {
            problems.extend(errors.into_iter().map(|error| Problem {
                file: error.file.clone().into(),
                line: error.line,
                column: error.column,
                message: advice(&error),
            }));
            None
        }
    }
}

fn advice(error: &PolicyError) -> String {
    match &error.help {
        Some(help) => format!("{} ({help})", error.message),
        None => error.message.clone(),
    }
}

fn unique<'a>(what: &str, names: impl Iterator<Item = (&'a str, usize)>, wrong: &mut impl FnMut(usize, String)) {
    let mut seen = BTreeSet::new();
    for (name, line) in names {
        if !seen.insert(name) {
            wrong(line, format!("a second {what} is called `{name}`; names are unique"));
        }
    }
}
