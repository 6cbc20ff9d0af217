//! `[[agent]]` and `[[issuer]]` as written in the configuration file, and the checks that need more than one of them.
//!
//! What one value alone can get wrong is refused while it is read, so that the error has its file and line. What only
//! shows between values (an unknown issuer, two agents that nothing tells apart) is found by [`validate`].

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;

use globset::{GlobBuilder, GlobMatcher};
use jsonwebtoken::Algorithm;
use serde::de::{self, Deserializer, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::fetch;

/// Largest clock skew that an issuer may be granted, in seconds.
pub const LEEWAY_MAX: u64 = 300;
/// Longest that a token may be configured to live, in seconds: a year.
pub const LIFETIME_MAX: u64 = 366 * 86_400;
/// Longest that keys may be used without the issuer being reached, in hours: 30 days.
pub const OFFLINE_MAX: u64 = 720;

/// One machine identity: what its process is, and which token it holds. Both must hold.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Its name, the principal in policies: `Machine::"name"`.
    pub name: String,
    /// What must be true of the process.
    #[serde(rename = "match")]
    pub matches: MatchConfig,
    /// What must be true of the token.
    pub token: TokenConfig,
    /// Lets it in although it is root, or has capabilities that lead around the kernel programs: nothing is promised then.
    #[serde(default)]
    pub allow_privileged: bool,
}

/// Facts that a process must have: every field given must hold; within a field, one of its values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatchConfig {
    /// cgroup v2 path below the mount. `*` and `?` stop at `/`, `**` does not, `{a,b}` is a choice. The whole path must
    /// match: children of a cgroup match only where the glob says so (`/a.slice/**`).
    #[serde(default, deserialize_with = "cgroup_globs")]
    pub cgroup: Vec<Glob>,
    /// systemd unit, as the system manager named the cgroup.
    #[serde(default, deserialize_with = "one_or_many")]
    pub unit: Vec<Glob>,
    /// Id of the container, as its engine named the cgroup; of nspawn and LXC, its name.
    #[serde(default, deserialize_with = "one_or_many")]
    pub container: Vec<Glob>,
    /// Uid of the Kubernetes pod that the container belongs to; id of podman's pod.
    #[serde(default, deserialize_with = "one_or_many")]
    pub pod: Vec<Glob>,
    /// Effective user id in the initial user namespace.
    #[serde(default, deserialize_with = "one_or_many")]
    pub uid: Vec<u32>,
    /// Effective group id in the initial user namespace.
    #[serde(default, deserialize_with = "one_or_many")]
    pub gid: Vec<u32>,
    /// SHA-256 of the executable. It says which program runs, not what that program was told to do: an interpreter
    /// runs anything.
    #[serde(default, deserialize_with = "one_or_many")]
    pub exe_sha256: Vec<Sha256Hex>,
    /// Path of the executable. The agent's own mount namespace decides paths, so this narrows and never suffices.
    #[serde(default, deserialize_with = "path_globs")]
    pub exe: Vec<Glob>,
}

impl MatchConfig {
    /// Whether at least one fact is asked for that the agent cannot choose itself.
    #[must_use]
    pub fn has_binding_fact(&self) -> bool {
        !(self.cgroup.is_empty()
            && self.unit.is_empty()
            && self.container.is_empty()
            && self.pod.is_empty()
            && self.uid.is_empty()
            && self.gid.is_empty()
            && self.exe_sha256.is_empty())
    }
}

/// Where the token comes from, and what it must say.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// Name of the `[[issuer]]` that must vouch.
    pub issuer: String,
    /// Where the token is found.
    pub from: Source,
    /// The `sub` claim, exactly.
    pub subject: String,
    /// Groups that the token must hold, all of them; they are the agent's groups in policies.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Groups that the agent has in policies where the token holds them. A group that is in neither list never
    /// reaches a policy.
    #[serde(default)]
    pub optional_groups: Vec<String>,
    /// Further claims (dotted paths) that must have exactly this value, or hold it in an array.
    #[serde(default)]
    pub claims: BTreeMap<String, ClaimValue>,
}

/// The value that a claim must have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ClaimValue {
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A string.
    Text(String),
}

impl ClaimValue {
    /// Whether the claim is this value, or an array that holds it.
    #[must_use]
    pub fn matches(&self, claim: &serde_json::Value) -> bool {
        match claim {
            serde_json::Value::Array(items) => items.iter().any(|item| self.equals(item)),
            other => self.equals(other),
        }
    }

    fn equals(&self, claim: &serde_json::Value) -> bool {
        match self {
            Self::Bool(value) => claim.as_bool() == Some(*value),
            Self::Integer(value) => claim.as_i64() == Some(*value),
            Self::Text(value) => claim.as_str() == Some(value),
        }
    }
}

/// Where an agent's token is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// `file:/path`: a file as the agent sees it, in its mount namespace. `{unit}`, `{uid}` and `{agent}` are filled in.
    File(String),
    /// `env:NAME`: the environment that the process was started with.
    Env(String),
    /// `connection`: given as the password when the agent logs in.
    Connection,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{path}"),
            Self::Env(name) => write!(f, "env:{name}"),
            Self::Connection => f.write_str("connection"),
        }
    }
}

impl std::str::FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "connection" {
            return Ok(Self::Connection);
        }
        if let Some(path) = text.strip_prefix("file:") {
            return file_template(path).map(Self::File);
        }
        if let Some(name) = text.strip_prefix("env:") {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err("env: needs the name of a variable, as env:AGENT_TOKEN".to_owned());
            }
            return Ok(Self::Env(name.to_owned()));
        }
        Err("a token comes from \"file:/path\", \"env:NAME\" or \"connection\"".to_owned())
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

fn file_template(path: &str) -> Result<String, String> {
    if !path.starts_with('/') || path.contains('\0') {
        return Err("file: needs an absolute path, as the agent sees it".to_owned());
    }
    let bare = path.replace("{unit}", "").replace("{uid}", "").replace("{agent}", "");
    if bare.contains(['{', '}']) {
        return Err("file: knows the placeholders {unit}, {uid} and {agent} only".to_owned());
    }
    Ok(path.to_owned())
}

/// An identity provider whose tokens count.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The name that agents refer to.
    pub name: String,
    /// What kind of token it signs.
    pub kind: IssuerKind,
    /// The `iss` claim, exactly; with `jwks = "discovery"` also where discovery is found.
    pub issuer: String,
    /// Accepted `aud` values: the token must hold one of them.
    #[serde(deserialize_with = "one_or_many")]
    pub audience: Vec<String>,
    /// Accepted signature algorithms.
    #[serde(default = "default_algorithms", deserialize_with = "algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// Where the keys are: `discovery`, a URL, or the absolute path of a file.
    #[serde(default)]
    pub jwks: JwksSource,
    /// Certificate authorities (PEM) to trust for `discovery` and URLs, instead of the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Clock skew granted, in seconds; at most [`LEEWAY_MAX`].
    #[serde(default = "default_leeway", deserialize_with = "leeway")]
    pub leeway_seconds: u64,
    /// Where the groups are: a claim's name, or a dotted path.
    #[serde(default = "default_groups_claim")]
    pub groups_claim: String,
    /// Longest accepted life of a token, in seconds, from `iat` (or from now) to `exp`. Default one day.
    #[serde(default = "default_lifetime", deserialize_with = "lifetime")]
    pub max_lifetime_seconds: u64,
    /// How long known keys count while the issuer cannot be reached, in hours. Default 24.
    #[serde(default = "default_offline", deserialize_with = "offline")]
    pub offline_hours: u64,
}

/// What kind of token an issuer signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssuerKind {
    /// `OpenID` Connect: JWTs, keys in a JWKS.
    Oidc,
}

impl<'de> Deserialize<'de> for IssuerKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "oidc" => Ok(Self::Oidc),
            kind @ ("saml" | "spiffe") => Err(de::Error::custom(format_args!(
                "issuers of kind \"{kind}\" are not supported yet; this version verifies \"oidc\""
            ))),
            kind => Err(de::Error::custom(format_args!("unknown kind {}; use \"oidc\"", super::error::quote(kind)))),
        }
    }
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum JwksSource {
    /// `jwks_uri` of `ISSUER/.well-known/openid-configuration`.
    #[default]
    Discovery,
    /// A URL: https, or http to loopback.
    Url(String),
    /// A file on this host, read again when it changes. Replace it by rename.
    File(PathBuf),
}

impl<'de> Deserialize<'de> for JwksSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "discovery" {
            return Ok(Self::Discovery);
        }
        let path = text.strip_prefix("file:").unwrap_or(&text);
        if path.starts_with('/') {
            return Ok(Self::File(PathBuf::from(path)));
        }
        fetch::allowed(&text).map_err(de::Error::custom)?;
        Ok(Self::Url(text))
    }
}

fn default_algorithms() -> Vec<Algorithm> {
    vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA, Algorithm::PS256]
}
const fn default_leeway() -> u64 {
    30
}
fn default_groups_claim() -> String {
    "groups".to_owned()
}
const fn default_lifetime() -> u64 {
    86_400
}
const fn default_offline() -> u64 {
    24
}

fn bounded<'de, D: Deserializer<'de>>(deserializer: D, least: u64, most: u64) -> Result<u64, D::Error> {
    let value = u64::deserialize(deserializer)?;
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(de::Error::custom(format_args!("must be between {least} and {most}")))
}
fn leeway<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    bounded(deserializer, 0, LEEWAY_MAX)
}
fn lifetime<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    bounded(deserializer, 1, LIFETIME_MAX)
}
fn offline<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    bounded(deserializer, 1, OFFLINE_MAX)
}

fn algorithms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Algorithm>, D::Error> {
    let names: Vec<String> = one_or_many(deserializer)?;
    if names.is_empty() {
        return Err(de::Error::custom("algorithms is empty: nothing could be verified"));
    }
    names.iter().map(|name| asymmetric(name).map_err(de::Error::custom)).collect()
}

/// The named algorithm, where it has a public key.
fn asymmetric(name: &str) -> Result<Algorithm, String> {
    match name.parse() {
        Ok(Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) => {
            Err(format!("{name} is refused: whoever can verify such a token can also forge it"))
        }
        Ok(algorithm) => Ok(algorithm),
        Err(_) if name.eq_ignore_ascii_case("none") => Err("\"none\" is refused: it is no signature".to_owned()),
        Err(_) => Err(format!(
            "unknown algorithm {}; known: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA",
            super::error::quote(name)
        )),
    }
}

/// A glob whose `*` and `?` stop at `/`. A backslash is itself, as in escaped unit names; classes (`[..]`) are refused,
/// because one such as `[!x]` would match `/`.
#[derive(Clone)]
pub struct Glob {
    text: String,
    matcher: GlobMatcher,
}

impl Glob {
    /// The glob as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        self.matcher.is_match(text)
    }
}

impl std::str::FromStr for Glob {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty glob matches nothing".to_owned());
        }
        if text.contains('[') {
            return Err("character classes ([..]) are not supported in globs; use ?, *, ** or {a,b}".to_owned());
        }
        GlobBuilder::new(text)
            .literal_separator(true)
            .backslash_escape(false)
            .build()
            .map(|glob| Self { text: text.to_owned(), matcher: glob.compile_matcher() })
            .map_err(|error| format!("bad glob: {error}"))
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl PartialEq for Glob {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl Eq for Glob {}

impl<'de> Deserialize<'de> for Glob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

fn rooted<E: de::Error>(globs: Vec<Glob>, what: &str) -> Result<Vec<Glob>, E> {
    match globs.iter().find(|glob| !glob.text.starts_with('/')) {
        Some(glob) => Err(E::custom(format_args!("{what} starts with /, but {:?} does not", glob.text))),
        None => Ok(globs),
    }
}
fn cgroup_globs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Glob>, D::Error> {
    rooted(one_or_many(deserializer)?, "a cgroup path")
}
fn path_globs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Glob>, D::Error> {
    rooted(one_or_many(deserializer)?, "the path of an executable")
}

/// A SHA-256 in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sha256Hex(pub String);

impl<'de> Deserialize<'de> for Sha256Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?.to_ascii_lowercase();
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self(text));
        }
        Err(de::Error::custom("a SHA-256 is 64 hexadecimal digits, as sha256sum prints"))
    }
}

/// Reads `x` as `[x]`. An empty list is refused: left out and "none at all" must not look alike.
fn one_or_many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct OneOrMany<T>(std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("one value, or a list of values")
        }
        fn visit_str<E: de::Error>(self, value: &str) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(value.into_deserializer())?])
        }
        fn visit_i64<E: de::Error>(self, value: i64) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(value.into_deserializer())?])
        }
        fn visit_u64<E: de::Error>(self, value: u64) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(value.into_deserializer())?])
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(item) = items.next_element()? {
                all.push(item);
            }
            if all.is_empty() {
                return Err(de::Error::custom("the list is empty; leave the key out, or name at least one value"));
            }
            Ok(all)
        }
    }
    deserializer.deserialize_any(OneOrMany(std::marker::PhantomData))
}

/// A fault that shows only between values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {message}")]
pub struct ConfigError {
    /// The entry, as `[[agent]] billing-bot`.
    pub at: String,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Every fault in issuers and agents taken together; empty when they may be used.
#[must_use]
pub fn validate(issuers: &[IssuerConfig], agents: &[AgentConfig]) -> Vec<ConfigError> {
    let mut faults = Vec::new();
    let mut names = HashSet::new();
    for issuer in issuers {
        let mut fault = |message: String| {
            faults.push(ConfigError { at: format!("[[issuer]] {}", issuer.name), message });
        };
        if issuer.name.is_empty() || !names.insert(issuer.name.as_str()) {
            fault("its name is empty or used twice; give each issuer its own".to_owned());
        }
        if issuer.issuer.is_empty() || issuer.audience.iter().any(String::is_empty) {
            fault("issuer and audience must not be empty".to_owned());
        }
        if issuer.jwks == JwksSource::Discovery
            && let Err(error) = fetch::allowed(&issuer.issuer)
        {
            fault(format!("jwks = \"discovery\" needs issuer to be a URL: {error}"));
        }
    }
    let mut names = HashSet::new();
    for (index, agent) in agents.iter().enumerate() {
        let mut fault = |message: String| {
            faults.push(ConfigError { at: format!("[[agent]] {}", agent.name), message });
        };
        if agent.name.is_empty() || !names.insert(agent.name.as_str()) {
            fault("its name is empty or used twice; give each agent its own".to_owned());
        }
        for message in agent_faults(agent, issuers) {
            fault(message);
        }
        if let Some(twin) = agents.iter().take(index).find(|other| same_agent(other, agent)) {
            fault(format!("nothing tells it from agent {:?}: same match, same issuer and subject", twin.name));
        }
    }
    faults
}

fn agent_faults(agent: &AgentConfig, issuers: &[IssuerConfig]) -> Vec<String> {
    let mut faults = Vec::new();
    if !agent.matches.has_binding_fact() {
        let facts = "cgroup, unit, container, pod, uid, gid or exe_sha256";
        faults.push(format!("match needs at least one of {facts}: a token alone, or a path alone, binds nothing"));
    }
    if !issuers.iter().any(|issuer| issuer.name == agent.token.issuer) {
        faults.push(format!("no [[issuer]] is named {:?}", agent.token.issuer));
    }
    if agent.token.subject.is_empty() {
        faults.push("token.subject must not be empty".to_owned());
    }
    if matches!(&agent.token.from, Source::File(path) if path.contains("{agent}")) && agent.name.contains('/') {
        faults.push("{agent} in a path needs a name without /".to_owned());
    }
    faults
}

fn same_agent(a: &AgentConfig, b: &AgentConfig) -> bool {
    a.matches == b.matches
        && a.token.issuer == b.token.issuer
        && a.token.subject == b.token.subject
        && a.token.claims == b.token.claims
        && a.token.groups == b.token.groups
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
