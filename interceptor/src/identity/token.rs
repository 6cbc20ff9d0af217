//! Verification of a JWT: form, algorithm, key, signature, then each claim. Every failure says which check it was.
//!
//! The header is read only for `alg` and `kid`; keys come from the configured issuer and nowhere else. Nothing of the
//! token but its `iss`, `aud`, `sub` and `kid` is ever repeated in a message. Every check is made each time; only the
//! arithmetic of a signature is not done twice for the same bytes and the same key (see `Signatures`). Not promised: that
//! a token was not revoked before it expires; OIDC has no way to ask that offline.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use lru::LruCache;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::TokenFacts;
use super::config::{IssuerConfig, TokenConfig};
use super::error::quote;
use super::fetch::FetchError;
use super::jwks::{Key, KeyError, KeyStore};
use super::source::TOKEN_MAX;
use super::strict::{self, StrictError};
use crate::clock::{Clock, Timestamp};

/// Most groups that a token may hold.
pub const GROUPS_MAX: usize = 512;
/// Longest name of a group, subject or token id, in bytes.
pub const NAME_MAX: usize = 512;
/// Latest time stamp that is taken for one: the end of the year 9999.
const LATEST: i64 = 253_402_300_799;

/// Accepted `typ` of the header, where there is one: logout, event and proof tokens carry others.
const TYPES: [&str; 4] = ["JWT", "at+jwt", "application/jwt", "application/at+jwt"];

/// Which check a token failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message is the documentation of its variant and fields")]
pub enum TokenError {
    #[error("the token is longer than {TOKEN_MAX} bytes")]
    TooLarge,
    #[error("the token is not a signed JWT: {0}")]
    Malformed(&'static str),
    #[error("the {part} of the token cannot be read: {error}")]
    Unreadable { part: &'static str, error: StrictError },
    #[error("the token is encrypted or nested (cty, enc or zip in its header); give the plain signed token")]
    Nested,
    #[error("the token is of type {0}: made for another purpose than to identify its bearer")]
    Type(String),
    #[error("the token's header demands extensions (crit) that are not supported")]
    Critical,
    #[error("the token's header brings its own key ({0}); keys come from the configured issuer only")]
    KeyInHeader(&'static str),
    #[error("the token is not signed (alg none)")]
    Unsigned,
    #[error("the token is signed with a shared secret ({0}); only public-key signatures count")]
    Symmetric(String),
    #[error("the token is signed with {got}; issuer {issuer} is configured for {expected}")]
    AlgorithmNotAllowed { issuer: String, expected: String, got: String },
    #[error("the token names no key (kid)")]
    NoKeyId,
    #[error("issuer {issuer}: {error}")]
    Keys { issuer: String, error: KeyError },
    #[error("the token says {algorithm}, but key {kid} of issuer {issuer} is {kind} and does not serve that")]
    WrongKeyType { issuer: String, kid: String, kind: &'static str, algorithm: String },
    #[error("the signature is wrong: the token was altered, or was not signed by issuer {issuer}")]
    Signature { issuer: String },
    #[error("the token has no {0}")]
    MissingClaim(&'static str),
    #[error("the token's {0} is not of the right type or size")]
    BadClaim(&'static str),
    #[error("the token is from another issuer: expected iss {expected}, got {got}")]
    Issuer { expected: String, got: String },
    #[error("the token is for another audience: expected aud {expected}, got {got}")]
    Audience { expected: String, got: String },
    #[error("the token is for another subject: expected sub {expected}, got {got}")]
    Subject { expected: String, got: String },
    #[error("the token expired at {at}, {ago} s ago (now {now})")]
    Expired { at: Timestamp, now: Timestamp, ago: u64 },
    #[error("the token is not valid before {from} (now {now})")]
    NotYetValid { from: Timestamp, now: Timestamp },
    #[error("the token was issued in the future, at {at} (now {now})")]
    IssuedInFuture { at: Timestamp, now: Timestamp },
    #[error("the token's times contradict each other: it ends before it begins")]
    Times,
    #[error("the token lives until {until}, longer than max_lifetime_seconds = {most} allows")]
    LivesTooLong { until: Timestamp, most: u64 },
    #[error("the token holds more than {GROUPS_MAX} groups")]
    TooManyGroups,
    #[error("the token lacks the group {0}")]
    MissingGroup(String),
    #[error("the token's claim {0} does not have the configured value")]
    Claim(String),
}

impl TokenError {
    /// What to do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Expired { .. } => "obtain a new token; if it was just issued, set this host's clock",
            Self::NotYetValid { .. } | Self::IssuedInFuture { .. } => "set this host's clock, or wait",
            Self::Keys { error: KeyError::Unavailable(_), .. } => "try again; the operator checks the issuer's jwks",
            Self::Keys { .. } => "obtain a new token; if the issuer just changed keys, try again in a minute",
            Self::Audience { .. } => "request the token for the expected audience",
            Self::Issuer { .. } | Self::Subject { .. } => "use the token that was issued to this agent",
            Self::LivesTooLong { .. } => "request a shorter token; the operator may raise max_lifetime_seconds",
            Self::AlgorithmNotAllowed { .. } => "the operator sets algorithms of this [[issuer]] to what it signs with",
            Self::MissingGroup(_) | Self::Claim(_) => "the issuer grants it, or the operator changes [[agent]] token",
            _ => "obtain a token from the configured issuer and use it unaltered",
        }
    }

    /// Whether it can pass later as it is.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Keys { .. } | Self::NotYetValid { .. } | Self::IssuedInFuture { .. })
    }
}

/// What an issuer vouches for.
#[derive(Clone, Debug)]
pub struct Verified {
    claims: Map<String, Value>,
    groups: Vec<String>,
    /// The facts that go into the identity.
    pub facts: TokenFacts,
}

/// An issuer, ready to verify.
#[derive(Debug)]
pub struct Issuer {
    config: IssuerConfig,
    keys: Arc<KeyStore>,
    clock: Arc<dyn Clock>,
    signatures: Signatures,
}

impl Issuer {
    /// An issuer whose keys are fetched on first use.
    ///
    /// # Errors
    /// When its certificate authorities cannot be read.
    pub fn new(config: IssuerConfig, clock: Arc<dyn Clock>) -> Result<Self, FetchError> {
        let keys = KeyStore::new(&config, Arc::clone(&clock))?;
        Ok(Self { config, keys, clock, signatures: Signatures::default() })
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Its keys.
    #[must_use]
    pub const fn keys(&self) -> &Arc<KeyStore> {
        &self.keys
    }

    /// Checks everything that does not depend on the agent.
    ///
    /// # Errors
    /// The first check that failed.
    pub async fn verify(&self, token: &[u8]) -> Result<Verified, TokenError> {
        let parts = Parts::of(token)?;
        let (algorithm, kid) = self.header(&parts)?;
        let issuer = || self.config.name.clone();
        let key = self.keys.key(&kid).await.map_err(|error| TokenError::Keys { issuer: issuer(), error })?;
        if !key.serves(algorithm) {
            let (kid, algorithm) = (quote(&kid), format!("{algorithm:?}"));
            return Err(TokenError::WrongKeyType { issuer: issuer(), kid, kind: key.kind, algorithm });
        }
        if !self.signatures.holds(&parts, &key, algorithm) {
            return Err(TokenError::Signature { issuer: issuer() });
        }
        self.claims(&parts)
    }

    /// `alg`, where it is allowed, and `kid`. Nothing else of a header that its sender wrote counts.
    fn header(&self, parts: &Parts<'_>) -> Result<(Algorithm, String), TokenError> {
        let header = decoded("header", parts.header)?;
        for name in ["jku", "x5u", "jwk"] {
            if header.contains_key(name) {
                return Err(TokenError::KeyInHeader(name));
            }
        }
        if header.contains_key("crit") || header.contains_key("b64") {
            return Err(TokenError::Critical);
        }
        if ["cty", "enc", "zip"].iter().any(|name| header.contains_key(*name)) {
            return Err(TokenError::Nested);
        }
        match header.get("typ") {
            None => {}
            Some(Value::String(typ)) if TYPES.iter().any(|known| typ.eq_ignore_ascii_case(known)) => {}
            Some(other) => return Err(TokenError::Type(quote(other.as_str().unwrap_or_default()))),
        }
        let named = header.get("alg").and_then(Value::as_str).ok_or(TokenError::Malformed("its header has no alg"))?;
        if named.eq_ignore_ascii_case("none") || named.is_empty() {
            return Err(TokenError::Unsigned);
        }
        let allowed = &self.config.algorithms;
        let algorithm = match named.parse() {
            Ok(Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) => {
                return Err(TokenError::Symmetric(named.to_owned()));
            }
            Ok(algorithm) if allowed.contains(&algorithm) => algorithm,
            _ => {
                let expected: Vec<String> = allowed.iter().map(|algorithm| format!("{algorithm:?}")).collect();
                let (issuer, expected) = (self.config.name.clone(), expected.join(", "));
                return Err(TokenError::AlgorithmNotAllowed { issuer, expected, got: quote(named) });
            }
        };
        match header.get("kid") {
            Some(Value::String(kid)) if !kid.is_empty() => Ok((algorithm, kid.clone())),
            _ => Err(TokenError::NoKeyId),
        }
    }

    fn claims(&self, parts: &Parts<'_>) -> Result<Verified, TokenError> {
        let claims = decoded("claims", parts.claims)?;
        let issuer = name(&claims, "iss")?.ok_or(TokenError::MissingClaim("iss"))?;
        if issuer != self.config.issuer {
            return Err(TokenError::Issuer { expected: quote(&self.config.issuer), got: quote(&issuer) });
        }
        self.audience(&claims)?;
        let expires_at = self.times(&claims)?;
        let subject = name(&claims, "sub")?.ok_or(TokenError::MissingClaim("sub"))?;
        let id = name(&claims, "jti")?;
        let groups = groups(strict::lookup(&claims, &self.config.groups_claim))?;
        let facts = TokenFacts { issuer: self.config.name.clone(), subject, id, expires_at };
        Ok(Verified { claims, groups, facts })
    }

    fn audience(&self, claims: &Map<String, Value>) -> Result<(), TokenError> {
        let held: Vec<&str> = match claims.get("aud") {
            None => return Err(TokenError::MissingClaim("aud")),
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(all)) if all.len() <= GROUPS_MAX => {
                all.iter().map(Value::as_str).collect::<Option<_>>().ok_or(TokenError::BadClaim("aud"))?
            }
            Some(_) => return Err(TokenError::BadClaim("aud")),
        };
        if held.iter().any(|held| self.config.audience.iter().any(|accepted| accepted == held)) {
            return Ok(());
        }
        Err(TokenError::Audience { expected: quote(&self.config.audience.join(", ")), got: quote(&held.join(", ")) })
    }

    /// Checks `exp`, `nbf` and `iat`, and gives the moment at which this verification begins to fail.
    fn times(&self, claims: &Map<String, Value>) -> Result<Timestamp, TokenError> {
        let now = self.clock.now();
        let leeway = i64::try_from(self.config.leeway_seconds).unwrap_or(0);
        let most = self.config.max_lifetime_seconds;
        let expires = time(claims, "exp")?.ok_or(TokenError::MissingClaim("exp"))?;
        let (begins, issued) = (time(claims, "nbf")?, time(claims, "iat")?);
        if now.unix() >= expires.saturating_add(leeway) {
            let at = Timestamp::from_unix(expires);
            return Err(TokenError::Expired { at, now, ago: now.since(at).as_secs() });
        }
        if let Some(begins) = begins
            && now.unix() < begins.saturating_sub(leeway)
        {
            return Err(TokenError::NotYetValid { from: Timestamp::from_unix(begins), now });
        }
        if let Some(issued) = issued
            && now.unix() < issued.saturating_sub(leeway)
        {
            return Err(TokenError::IssuedInFuture { at: Timestamp::from_unix(issued), now });
        }
        if begins.is_some_and(|begins| begins > expires) || issued.is_some_and(|issued| issued > expires) {
            return Err(TokenError::Times);
        }
        // Counted from now as well, because iat is optional.
        let from = issued.unwrap_or_else(|| now.unix()).min(now.unix());
        let longest = i64::try_from(most).unwrap_or(i64::MAX).saturating_add(leeway);
        if expires.saturating_sub(from) > longest {
            return Err(TokenError::LivesTooLong { until: Timestamp::from_unix(expires), most });
        }
        Ok(Timestamp::from_unix(expires.saturating_add(leeway)))
    }
}

/// Checks what one agent's configuration asks of a token, and gives the groups that it admits.
///
/// # Errors
/// The first check that failed.
pub fn admit(verified: &Verified, wanted: &TokenConfig) -> Result<Arc<[String]>, TokenError> {
    let subject = &verified.facts.subject;
    if *subject != wanted.subject {
        return Err(TokenError::Subject { expected: quote(&wanted.subject), got: quote(subject) });
    }
    if let Some(group) = wanted.groups.iter().find(|group| !verified.groups.contains(group)) {
        return Err(TokenError::MissingGroup(quote(group)));
    }
    for (path, value) in &wanted.claims {
        if !strict::lookup(&verified.claims, path).is_some_and(|claim| value.matches(claim)) {
            return Err(TokenError::Claim(quote(path)));
        }
    }
    let optional = wanted.optional_groups.iter().filter(|group| verified.groups.contains(group));
    let mut groups: Vec<String> = wanted.groups.iter().chain(optional).cloned().collect();
    groups.sort();
    groups.dedup();
    Ok(groups.into())
}

/// Signatures that were found right.
///
/// Why it is safe: whether a signature is right depends on the token's bytes (its header, which names the algorithm, is
/// among them) and on the key alone. What is remembered is the hash of all bytes and the very key, which the issuer has
/// to list now: a key that was fetched or read anew is another. Times, audience, claims, allowed algorithms and the key's
/// place in the issuer's set are looked at each time. Wrong signatures are not remembered.
#[derive(Debug)]
struct Signatures(Mutex<LruCache<[u8; 32], Arc<Key>>>);

/// Signatures that are remembered of an issuer.
const SIGNATURES_KEPT: usize = 1024;

impl Default for Signatures {
    fn default() -> Self {
        // Bounded by `holds`: a bound given to it would take its memory at once.
        Self(Mutex::new(LruCache::unbounded()))
    }
}

impl Signatures {
    fn holds(&self, parts: &Parts<'_>, key: &Arc<Key>, algorithm: Algorithm) -> bool {
        // Neither part holds a dot at its edge, so that the two are one text only in one way.
        let id = Sha256::new().chain_update(parts.signed).chain_update(".").chain_update(parts.signature).finalize();
        let id: [u8; 32] = id.into();
        if self.0.lock().get(&id).is_some_and(|known| Arc::ptr_eq(known, key)) {
            return true;
        }
        let right = jsonwebtoken::crypto::verify(parts.signature, parts.signed.as_bytes(), &key.decoding, algorithm);
        if !matches!(right, Ok(true)) {
            return false;
        }
        let mut known = self.0.lock();
        known.put(id, Arc::clone(key));
        while known.len() > SIGNATURES_KEPT {
            known.pop_lru();
        }
        true
    }
}

/// The three parts of a compact JWS.
#[derive(Debug)]
struct Parts<'a> {
    header: &'a str,
    claims: &'a str,
    signature: &'a str,
    /// Header, dot, claims: what the signature covers.
    signed: &'a str,
}

impl<'a> Parts<'a> {
    fn of(token: &'a [u8]) -> Result<Self, TokenError> {
        if token.len() > TOKEN_MAX {
            return Err(TokenError::TooLarge);
        }
        let token = std::str::from_utf8(token).map_err(|_| TokenError::Malformed("it is not text"))?;
        let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if !token.bytes().all(alphabet) {
            return Err(TokenError::Malformed("it holds other characters than base64url and dots"));
        }
        let parts: Vec<&str> = token.split('.').collect();
        let &[header, claims, signature] = parts.as_slice() else {
            return Err(match parts.len() {
                5 => TokenError::Nested,
                _ => TokenError::Malformed("it does not have three parts"),
            });
        };
        let signed = token.rsplit_once('.').map(|(signed, _)| signed).unwrap_or_default();
        Ok(Self { header, claims, signature, signed })
    }
}

fn decoded(part: &'static str, text: &str) -> Result<Map<String, Value>, TokenError> {
    let bytes =
        URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed("a part of it is not canonical base64url"))?;
    strict::object(&bytes).map_err(|error| TokenError::Unreadable { part, error })
}

/// A claim that must be a short, non-empty string where it is present.
fn name(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<String>, TokenError> {
    match claims.get(claim) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() && text.len() <= NAME_MAX => Ok(Some(text.clone())),
        Some(_) => Err(TokenError::BadClaim(claim)),
    }
}

/// A NumericDate: whole seconds, or with a fraction that is dropped.
fn time(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<i64>, TokenError> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    let whole = value.as_i64().or_else(|| {
        let seconds = value.as_f64()?;
        // Printed and read back, because a cast would saturate silently.
        format!("{:.0}", seconds.floor()).parse().ok()
    });
    match whole {
        Some(seconds) if (0..=LATEST).contains(&seconds) => Ok(Some(seconds)),
        _ => Err(TokenError::BadClaim(claim)),
    }
}

fn groups(claim: Option<&Value>) -> Result<Vec<String>, TokenError> {
    let listed = match claim {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(one)) if one.len() <= NAME_MAX => return Ok(vec![one.clone()]),
        Some(Value::Array(listed)) => listed,
        Some(_) => return Err(TokenError::BadClaim("groups claim")),
    };
    if listed.len() > GROUPS_MAX {
        return Err(TokenError::TooManyGroups);
    }
    let group = |value: &Value| value.as_str().filter(|name| name.len() <= NAME_MAX).map(str::to_owned);
    listed.iter().map(|value| group(value).ok_or(TokenError::BadClaim("groups claim"))).collect()
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
