//! The configuration file: one struct a module, unknown keys refused, every error at once with file, line and column.
//!
//! Owns reading and locating. What a value means is the business of the module whose struct it fills; what only shows
//! when all sections are seen together (a target that names no known protocol) is checked by `app`.

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::{admin, approval, capture, identity, mask, record, session, tls};

/// Where the daemon looks when it is not told otherwise.
pub const DEFAULT_PATH: &str = "/etc/interceptor/interceptor.toml";
/// A configuration file larger than this is refused.
const SIZE_LIMIT: u64 = 4 << 20;

/// The whole file.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `[capture]`.
    pub capture: capture::Config,
    /// `[[issuer]]`.
    pub issuers: Vec<Located<identity::IssuerConfig>>,
    /// `[[agent]]`.
    pub agents: Vec<Located<identity::AgentConfig>>,
    /// `[[target]]`.
    pub targets: Vec<Located<session::TargetConfig>>,
    /// `[[mask]]`.
    pub masks: Vec<Located<mask::Config>>,
    /// `[masking]`.
    pub masking: MaskingConfig,
    /// `[policy]`.
    pub policy: PolicyConfig,
    /// `[approval]`.
    pub approval: approval::Config,
    /// `[record]`.
    pub record: record::Config,
    /// `[limits]`.
    pub limits: session::Limits,
    /// `[admin]`.
    pub admin: admin::Config,
    /// `[metrics]`.
    pub metrics: admin::metrics::Config,
    /// `[ca]`: the host CA, where there is one.
    pub ca: Option<tls::authority::Config>,
}

/// `[policy]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// Folder of `*.cedar` files; all of them are loaded.
    pub dir: PathBuf,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self { dir: PathBuf::from("/etc/interceptor/policies") }
    }
}

/// `[masking]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaskingConfig {
    /// File with the key of the `token` transform, 32 bytes or more, readable by the daemon alone. Without it tokens
    /// are the same until the next start only.
    pub token_key: Option<PathBuf>,
}

/// A value, and the line on which it starts.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Line in the file, from 1.
    pub line: usize,
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Line from 1, or 0 for the file as a whole.
    pub line: usize,
    /// Column from 1, or 0.
    pub column: usize,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:", self.line)?;
        }
        if self.column > 0 {
            write!(f, "{}:", self.column)?;
        }
        write!(f, " {}", self.message)
    }
}

/// Reads a file.
///
/// # Errors
/// Every problem that the file has.
pub fn read(path: &Path) -> Result<Config, Vec<Problem>> {
    let whole = |message: String| vec![Problem { file: path.to_path_buf(), line: 0, column: 0, message }];
    let size = fs::metadata(path).map_err(|error| whole(format!("cannot be read: {error}")))?.len();
    if size > SIZE_LIMIT {
        return Err(whole(format!("is {size} bytes long; the limit is {SIZE_LIMIT}")));
    }
    let text = fs::read_to_string(path).map_err(|error| whole(format!("cannot be read: {error}")))?;
    parse(path, &text)
}

/// Understands the text of a file.
///
/// # Errors
/// Every problem that the text has.
pub fn parse(path: &Path, text: &str) -> Result<Config, Vec<Problem>> {
    let mut reader = Reader { path, text, problems: Vec::new() };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        reader.problem(error.span(), error.message());
    }
    let mut config = Config::default();
    for (key, value) in table.into_inner() {
        match key.get_ref().as_ref() {
            "capture" => reader.section(value, &mut config.capture),
            "policy" => reader.section(value, &mut config.policy),
            "approval" => reader.section(value, &mut config.approval),
            "record" => reader.section(value, &mut config.record),
            "limits" => reader.section(value, &mut config.limits),
            "admin" => reader.section(value, &mut config.admin),
            "metrics" => reader.section(value, &mut config.metrics),
            "ca" => reader.section(value, config.ca.get_or_insert_default()),
            "masking" => reader.section(value, &mut config.masking),
            "issuer" => reader.list("issuer", value, &mut config.issuers),
            "agent" => reader.list("agent", value, &mut config.agents),
            "target" => reader.list("target", value, &mut config.targets),
            "mask" => reader.list("mask", value, &mut config.masks),
            unknown => {
                let message = format!(
                    "unknown section `{unknown}`; there are capture, issuer, agent, target, mask, masking, policy, \
                     approval, record, limits, ca, admin and metrics"
                );
                reader.problem(Some(key.span()), &message);
            }
        }
    }
    if reader.problems.is_empty() { Ok(config) } else { Err(reader.problems) }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn section<T: DeserializeOwned>(&mut self, value: Spanned<DeValue<'_>>, into: &mut T) {
        if let Some(read) = self.value(value) {
            *into = read.value;
        }
    }

    fn list<T: DeserializeOwned>(&mut self, name: &str, value: Spanned<DeValue<'_>>, into: &mut Vec<Located<T>>) {
        let span = value.span();
        match value.into_inner() {
            DeValue::Array(items) => {
                for item in items {
                    into.extend(self.value(item));
                }
            }
            _ => self.problem(Some(span), &format!("`{name}` is a list: write [[{name}]]")),
        }
    }

    fn value<T: DeserializeOwned>(&mut self, value: Spanned<DeValue<'_>>) -> Option<Located<T>> {
        let span = value.span();
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(read) => Some(Located { value: read, line: self.place(span.start).0 }),
            Err(error) => {
                self.problem(error.span().or(Some(span)), error.message());
                None
            }
        }
    }

    fn problem(&mut self, span: Option<Range<usize>>, message: &str) {
        let (line, column) = span.map_or((0, 0), |span| self.place(span.start));
        self.problems.push(Problem { file: self.path.to_path_buf(), line, column, message: message.to_owned() });
    }

    fn place(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        (line, column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        parse(Path::new("t.toml"), text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_empty_file_is_all_defaults() {
        let config = parse(Path::new("t.toml"), "").unwrap();
        assert!(config.targets.is_empty());
    }

    #[test]
    fn every_problem_is_named_at_once_with_its_line() {
        let found = problems("[approval]\ntimeout_secs = 5\n\n[polcy]\n\n[record]\nspol = \"x\"\n");
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.iter().any(|p| p.starts_with("t.toml:2:1:") && p.contains("timeout_secs")), "{found:?}");
        assert!(found.iter().any(|p| p.starts_with("t.toml:4:2:") && p.contains("unknown section `polcy`")));
        assert!(found.iter().any(|p| p.starts_with("t.toml:7:1:")));
    }

    #[test]
    fn a_syntax_error_has_its_place() {
        let found = problems("[capture\n");
        assert!(found.iter().any(|problem| problem.starts_with("t.toml:1:")), "{found:?}");
    }

    #[test]
    fn a_table_where_a_list_belongs_says_how_to_write_it() {
        assert!(problems("[target]\nname = \"x\"\n").iter().any(|problem| problem.contains("[[target]]")));
    }
}
