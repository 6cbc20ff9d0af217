//! `[[mask]]` entries, compiled: tags by column, detectors and transforms by tag.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::config::{Config, Transform};
use super::detect::{Detector, Scanner};
use super::glob::{ColumnGlob, ColumnName, GlobError};
use super::path::{JsonRule, PathError};
use super::transform::Tokens;
use crate::policy::{Tag, TagSet};
use crate::secret::Secret;

/// `[[mask]]` entries, and the globs of all of them together, at most.
pub const MAX_RULES: usize = 4096;

/// Paths into JSON of all entries together, at most: each costs a bit for each of its steps wherever JSON is nested.
pub const MAX_PATHS: usize = 512;

/// Bytes of a tag. A marker carries it.
const MAX_TAG: usize = 32;

/// Bytes of a key, at least: half of what the hash gives.
const MIN_KEY: usize = 16;

/// Compiled `[[mask]]` rules: which columns carry which tags, which values are detected, and how each is transformed.
/// The default has no rule.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    columns: Vec<(ColumnGlob, TagSet)>,
    json: Vec<(JsonRule, TagSet)>,
    transforms: BTreeMap<Tag, Transform>,
    detectors: Vec<(Detector, Tag)>,
    known: TagSet,
    none: TagSet,
    tokens: Option<Tokens>,
    scanner: Option<Arc<Scanner>>,
}

impl Rules {
    /// Compiles all entries, and reports every error at once. `key` is what tokens are made with: without one a random
    /// key is drawn, so that tokens hold until the rules are compiled again: a daemon keeps a [`Self::random_key`] instead.
    ///
    /// # Errors
    /// Every [`MaskError`] of every entry; nothing is skipped.
    pub fn compile(config: &[Config], key: Option<Secret>) -> Result<Self, Vec<MaskError>> {
        let mut errors = Vec::new();
        let mut rules = Self::default();
        for entry in config {
            rules.add(entry, &mut errors);
        }
        if config.len() > MAX_RULES || rules.columns.len() > MAX_RULES {
            errors.push(MaskError::TooMany);
        }
        if rules.json.len() > MAX_PATHS {
            errors.push(MaskError::TooManyPaths);
        }
        rules.known = Arc::new(rules.transforms.keys().cloned().collect());
        match tokens(key) {
            Ok(tokens) => rules.tokens = Some(tokens),
            Err(error) => errors.push(error),
        }
        if !rules.detectors.is_empty() {
            rules.scanner = Scanner::new().map(Arc::new);
            if rules.scanner.is_none() {
                errors.push(MaskError::Scanner);
            }
        }
        if errors.is_empty() { Ok(rules) } else { Err(errors) }
    }

    /// A key to compile with where the operator names none. Drawn once and kept by a daemon, its tokens stay the same
    /// over reloads; they change with a restart.
    ///
    /// # Errors
    /// [`MaskError::Random`] where the operating system gives no randomness.
    pub fn random_key() -> Result<Secret, MaskError> {
        let mut bytes = vec![0; 32];
        getrandom::fill(&mut bytes).map_err(|_| MaskError::Random)?;
        Ok(Secret::new(bytes))
    }

    /// Tags of a column. Costs a walk over the globs: keep the answer with the catalog. One tag, or none, is shared.
    #[must_use]
    pub fn tags(&self, target: &str, database: &str, schema: &str, table: &str, column: &str) -> TagSet {
        let name = ColumnName { target, database, schema, table, column };
        let mut found = Arc::clone(&self.none);
        for (glob, tags) in &self.columns {
            if tags.is_subset(&found) || !glob.matches(&name) {
                continue;
            }
            found = if found.is_empty() { Arc::clone(tags) } else { Arc::new(found.union(tags).cloned().collect()) };
        }
        found
    }

    /// Every tag that an entry names.
    #[must_use]
    pub fn known_tags(&self) -> TagSet {
        Arc::clone(&self.known)
    }

    /// The empty set, shared.
    #[must_use]
    pub fn no_tags(&self) -> TagSet {
        Arc::clone(&self.none)
    }

    /// Whether any value is looked at, whatever column it stands in.
    #[must_use]
    pub fn has_detectors(&self) -> bool {
        !self.detectors.is_empty()
    }

    /// The targets, and routes of them, that paths into JSON are limited to.
    pub fn json_places(&self) -> impl Iterator<Item = &str> {
        self.json.iter().filter_map(|(rule, _)| rule.place.as_deref())
    }

    /// Whether nothing of a value with this tag is shown, not even whether it equals another.
    #[must_use]
    pub fn hides_all(&self, tag: &Tag) -> bool {
        matches!(self.transform(tag), Transform::Redact | Transform::Null)
    }

    /// How a tag is transformed. A tag without an entry (of an older configuration) is redacted.
    pub(super) fn transform(&self, tag: &Tag) -> Transform {
        self.transforms.get(tag).copied().unwrap_or_default()
    }

    pub(super) fn detectors(&self) -> &[(Detector, Tag)] {
        &self.detectors
    }

    pub(super) fn json_rules(&self) -> impl Iterator<Item = (&JsonRule, &TagSet)> {
        self.json.iter().map(|(rule, tags)| (rule, tags))
    }

    pub(super) fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_ref()
    }

    pub(super) fn scanner(&self) -> Option<&Arc<Scanner>> {
        self.scanner.as_ref()
    }

    fn add(&mut self, entry: &Config, errors: &mut Vec<MaskError>) {
        let tag: Tag = Arc::from(entry.tag.as_str());
        if !is_tag(&tag) {
            errors.push(MaskError::Tag(entry.tag.clone()));
            return;
        }
        if entry.columns.is_empty() && entry.json.is_empty() && entry.detect.is_empty() {
            errors.push(MaskError::Empty(entry.tag.clone()));
        }
        match entry.transform {
            Transform::KeepLast(0) => errors.push(MaskError::KeepNothing(entry.tag.clone())),
            transform => {
                if *self.transforms.entry(Arc::clone(&tag)).or_insert(transform) != transform {
                    errors.push(MaskError::Transforms(entry.tag.clone()));
                }
            }
        }
        let tags: TagSet = Arc::new([Arc::clone(&tag)].into());
        for text in &entry.columns {
            match ColumnGlob::parse(text) {
                Ok(glob) => self.columns.push((glob, Arc::clone(&tags))),
                Err(error) => errors.push(MaskError::Glob { tag: entry.tag.clone(), glob: text.clone(), error }),
            }
        }
        for text in &entry.json {
            match JsonRule::parse(text) {
                Ok(rule) => self.json.push((JsonRule { base64: entry.base64, ..rule }, Arc::clone(&tags))),
                Err(error) => errors.push(MaskError::Path { tag: entry.tag.clone(), path: text.clone(), error }),
            }
        }
        for detector in &entry.detect {
            if !self.detectors.iter().any(|(known, of)| known == detector && *of == tag) {
                self.detectors.push((*detector, Arc::clone(&tag)));
            }
        }
    }
}

fn tokens(key: Option<Secret>) -> Result<Tokens, MaskError> {
    let key = match key {
        Some(key) if key.expose().len() < MIN_KEY => return Err(MaskError::ShortKey),
        Some(key) => key,
        None => Rules::random_key()?,
    };
    Tokens::new(&key).ok_or(MaskError::ShortKey)
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(|first| first.is_ascii_alphabetic())
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// Why `[[mask]]` cannot be used. The operator's fault, but for the last two.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// A tag that a marker or a policy could not carry.
    #[error("mask tag {0:?}: a letter, then letters, digits, `-` or `_`, at most 32 in all")]
    Tag(String),
    /// An entry that tags nothing.
    #[error("mask {0:?} has neither `columns` nor `json` nor `detect`")]
    Empty(String),
    /// `keep_last = 0`.
    #[error("mask {0:?}: keep_last = 0 keeps nothing: write transform = \"redact\"")]
    KeepNothing(String),
    /// Two entries of one tag that disagree.
    #[error("mask {0:?} has two different transforms: entries of one tag agree on it")]
    Transforms(String),
    /// A glob that cannot be read.
    #[error("mask {tag:?}, column {glob:?}: {error}")]
    Glob {
        /// Tag of the entry.
        tag: String,
        /// The glob as written.
        glob: String,
        /// What is wrong with it.
        error: GlobError,
    },
    /// A path that cannot be read.
    #[error("mask {tag:?}, json {path:?}: {error}")]
    Path {
        /// Tag of the entry.
        tag: String,
        /// The path as written.
        path: String,
        /// What is wrong with it.
        error: PathError,
    },
    /// Too many paths.
    #[error("more than {MAX_PATHS} paths into JSON")]
    TooManyPaths,
    /// Too many entries or globs.
    #[error("more than {MAX_RULES} mask entries or column globs")]
    TooMany,
    /// A key that can be guessed.
    #[error("the mask key is shorter than {MIN_KEY} bytes")]
    ShortKey,
    /// The operating system gives no randomness.
    #[error("no random mask key could be drawn")]
    Random,
    /// The detectors could not be built.
    #[error("the value detectors could not be built")]
    Scanner,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tag: &str, columns: &[&str], transform: Transform) -> Config {
        let columns = columns.iter().map(ToString::to_string).collect();
        Config { tag: tag.into(), columns, json: Vec::new(), detect: Vec::new(), base64: false, transform }
    }

    fn names(tags: &TagSet) -> Vec<&str> {
        tags.iter().map(|tag| &**tag).collect()
    }

    #[test]
    fn a_column_has_the_tags_of_every_glob_that_matches() {
        let rules = Rules::compile(
            &[
                entry("card", &["orders-db:orders.public.customers.card_*"], Transform::Redact),
                entry("pii", &["customers.*", "*.ssn"], Transform::Token),
            ],
            None,
        )
        .unwrap();
        let tags = |table, column| rules.tags("orders-db", "orders", "public", table, column);
        assert_eq!(names(&tags("customers", "card_no")), ["card", "pii"]);
        assert_eq!(names(&tags("customers", "name")), ["pii"]);
        assert_eq!(names(&tags("staff", "ssn")), ["pii"]);
        assert!(tags("orders", "id").is_empty());
        assert!(Arc::ptr_eq(&tags("orders", "id"), &rules.no_tags()), "the empty set is shared");
        assert!(Arc::ptr_eq(&tags("staff", "ssn"), &tags("customers", "ssn")), "so is a single tag");
        assert_eq!(names(&rules.known_tags()), ["card", "pii"]);
        assert!(!rules.has_detectors());
    }

    #[test]
    fn every_error_is_reported_at_once() {
        let errors = Rules::compile(
            &[
                entry("9", &["a.b"], Transform::Redact),
                entry("a]", &["a.b"], Transform::Redact),
                entry("none", &[], Transform::Redact),
                entry("zero", &["a.b"], Transform::KeepLast(0)),
                entry("two", &["a.b"], Transform::Redact),
                entry("two", &["ssn", "a.c"], Transform::Token),
            ],
            Some(Secret::from("short")),
        )
        .unwrap_err();
        assert_eq!(errors.len(), 7, "{errors:#?}");
        assert!(errors.contains(&MaskError::ShortKey));
        assert!(errors.contains(&MaskError::Transforms("two".into())));
        assert!(errors.iter().any(|error| error.to_string().contains("names no table")));
    }

    #[test]
    fn rules_are_bounded() {
        let many = vec!["a.b"; MAX_RULES + 1];
        assert_eq!(Rules::compile(&[entry("t", &many, Transform::Redact)], None).unwrap_err(), [MaskError::TooMany]);
        assert_eq!(entry("t", &[], Transform::Null).transform, Transform::Null);
    }

    #[test]
    fn keys_are_drawn_anew() {
        let (one, other) = (Rules::random_key().unwrap(), Rules::random_key().unwrap());
        assert!(one.expose().len() >= MIN_KEY && !one.matches(other.expose()));
    }

    #[test]
    fn the_default_masks_nothing() {
        let rules = Rules::default();
        assert!(rules.known_tags().is_empty() && !rules.has_detectors());
        assert!(rules.tags("t", "d", "s", "t", "c").is_empty());
    }
}
