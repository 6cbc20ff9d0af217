//! An issuer's public keys: parsed strictly, cached, refreshed off the hot path, and never trusted for ever.
//!
//! A file is read again when it changes, and not usable while it is broken. Keys from the network are used for
//! [`FRESH`]; then used and refreshed behind the request; after [`MUST_REFRESH`] the request waits for the refresh, and
//! where that fails known keys count until `offline_hours`. An unknown key id asks the issuer at most once in
//! [`REFRESH_INTERVAL`]. One refresh runs at a time.
//!
//! A reload takes over what is known of the same issuer; a restart asks anew.
//!
//! Not promised: that a key which the issuer withdrew is refused at once; it is after [`MUST_REFRESH`] at the latest,
//! while the issuer can be reached.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use super::config::{IssuerConfig, JwksSource};
use super::error::quote;
use super::fetch::{self, FetchError, Fetcher};
use super::strict;
use crate::clock::Clock;

/// How long fetched keys are used without a thought.
pub const FRESH: Duration = Duration::from_secs(5 * 60);
/// How long fetched keys are used before a request waits for their refresh.
pub const MUST_REFRESH: Duration = Duration::from_secs(60 * 60);
/// Shortest time between two questions to an issuer whose keys are known.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(30);
/// Shortest time between two questions to an issuer whose keys are not known yet.
pub const FIRST_INTERVAL: Duration = Duration::from_secs(5);
/// Most keys in a set.
pub const KEYS_MAX: usize = 128;
/// Largest JWKS file, in bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// Why there is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The set is known and has no such key.
    #[error("its keys do not include key id {kid} ({known} known)")]
    Unknown {
        /// The key id, quoted.
        kid: String,
        /// How many keys are known.
        known: usize,
    },
    /// The keys were never had, or are too old.
    #[error("its keys are not available: {0}")]
    Unavailable(String),
}

/// One public key, and what it may be used with.
#[derive(Debug)]
pub struct Key {
    /// The key for verification.
    pub decoding: DecodingKey,
    algorithms: Vec<Algorithm>,
    /// What it is, for messages: `RSA`, `EC P-256` ...
    pub kind: &'static str,
}

impl Key {
    /// Whether a signature of this algorithm can be made with this key.
    #[must_use]
    pub fn serves(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }
}

type Keys = HashMap<String, Arc<Key>>;

/// Reads a JWK set. Keys for encryption, of unknown types, symmetric, or without an id are left out, as RFC 7517 asks;
/// a key that is of a known type but malformed, or an id that is used twice, refuses the whole set.
///
/// # Errors
/// What is wrong with it.
pub fn parse(document: &[u8]) -> Result<Keys, String> {
    let document = strict::object(document).map_err(|error| format!("the JWKS is unusable: {error}"))?;
    let Some(Value::Array(listed)) = document.get("keys") else {
        return Err("the JWKS has no array \"keys\"".to_owned());
    };
    if listed.len() > KEYS_MAX {
        return Err(format!("the JWKS holds {} keys; at most {KEYS_MAX} are read", listed.len()));
    }
    let mut keys = Keys::new();
    for jwk in listed {
        let Some(jwk) = jwk.as_object() else { return Err("the JWKS lists what is not a key".to_owned()) };
        let Some(kid) = jwk.get("kid").and_then(Value::as_str) else { continue };
        let Some(key) = key(jwk).map_err(|error| format!("key {}: {error}", quote(kid)))? else { continue };
        if keys.insert(kid.to_owned(), Arc::new(key)).is_some() {
            return Err(format!("the JWKS holds two keys with id {}", quote(kid)));
        }
    }
    Ok(keys)
}

fn key(jwk: &Map<String, Value>) -> Result<Option<Key>, String> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let need = |name: &'static str| text(name).ok_or(format!("has no {name}"));
    if jwk.contains_key("d") {
        return Err("is a private key: publish the public half only, and replace this key".to_owned());
    }
    if text("use").is_some_and(|usage| usage != "sig") {
        return Ok(None);
    }
    if let Some(Value::Array(operations)) = jwk.get("key_ops")
        && !operations.iter().any(|operation| operation == "verify")
    {
        return Ok(None);
    }
    let bad = |error: jsonwebtoken::errors::Error| format!("is malformed: {error}");
    let (decoding, kind, mut algorithms) = match (text("kty"), text("crv")) {
        (Some("RSA"), _) => {
            let key = DecodingKey::from_rsa_components(need("n")?, need("e")?).map_err(bad)?;
            (key, "RSA", RSA_ALGORITHMS.to_vec())
        }
        (Some("EC"), Some("P-256")) => {
            (DecodingKey::from_ec_components(need("x")?, need("y")?).map_err(bad)?, "EC P-256", vec![Algorithm::ES256])
        }
        (Some("EC"), Some("P-384")) => {
            (DecodingKey::from_ec_components(need("x")?, need("y")?).map_err(bad)?, "EC P-384", vec![Algorithm::ES384])
        }
        (Some("OKP"), Some("Ed25519")) => {
            (DecodingKey::from_ed_components(need("x")?).map_err(bad)?, "Ed25519", vec![Algorithm::EdDSA])
        }
        _ => return Ok(None),
    };
    if let Some(stated) = text("alg") {
        algorithms.retain(|algorithm| stated.parse() == Ok(*algorithm));
    }
    Ok(Some(Key { decoding, algorithms, kind }))
}

const RSA_ALGORITHMS: [Algorithm; 6] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

#[derive(Debug)]
struct Snapshot {
    keys: Keys,
    /// Monotonic time of the fetch.
    fetched: Duration,
    /// Of a file, what it looked like when it was read.
    stamp: Option<Stamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp(u64, u64, u64, (i64, i64), (i64, i64));

#[derive(Debug, Default)]
struct Flight {
    last_attempt: Option<Duration>,
    last_error: Option<String>,
}

/// The keys of one issuer.
#[derive(Debug)]
pub struct KeyStore {
    issuer: String,
    source: JwksSource,
    ca: Option<PathBuf>,
    offline: Duration,
    fetcher: Option<Fetcher>,
    clock: Arc<dyn Clock>,
    snapshot: ArcSwapOption<Snapshot>,
    flight: tokio::sync::Mutex<Flight>,
}

impl KeyStore {
    /// A store that knows no key yet.
    ///
    /// # Errors
    /// When the issuer's certificate authorities cannot be read.
    pub fn new(config: &IssuerConfig, clock: Arc<dyn Clock>) -> Result<Arc<Self>, FetchError> {
        let fetcher = match config.jwks {
            JwksSource::File(_) => None,
            _ => Some(Fetcher::new(config.ca.as_deref())?),
        };
        Ok(Arc::new(Self {
            issuer: config.issuer.clone(),
            source: config.jwks.clone(),
            ca: config.ca.clone(),
            offline: Duration::from_secs(config.offline_hours.saturating_mul(3600)),
            fetcher,
            clock,
            snapshot: ArcSwapOption::empty(),
            flight: tokio::sync::Mutex::default(),
        }))
    }

    /// Takes over what the store of an earlier configuration knows of the same source, so that a reload while the issuer
    /// cannot be reached loses no keys. They stay as old as they are.
    pub fn adopt(&self, before: &Self) {
        let same = self.issuer == before.issuer && self.source == before.source && self.ca == before.ca;
        if same && !matches!(self.source, JwksSource::File(_)) {
            self.snapshot.store(before.snapshot.load_full());
        }
    }

    /// The key with this id.
    ///
    /// # Errors
    /// When the issuer has none, or its keys are not available.
    pub async fn key(self: &Arc<Self>, kid: &str) -> Result<Arc<Key>, KeyError> {
        if let JwksSource::File(path) = &self.source {
            return self.file_key(path.clone(), kid).await;
        }
        let seen = self.snapshot.load_full();
        if let Some(snapshot) = &seen
            && let Some(key) = snapshot.keys.get(kid)
        {
            let age = self.age(snapshot);
            if age < MUST_REFRESH.min(self.offline) {
                if age >= FRESH {
                    self.refresh_behind();
                }
                return Ok(Arc::clone(key));
            }
        }
        let failure = self.refresh(seen.as_ref()).await;
        let Some(snapshot) = self.snapshot.load_full() else {
            return Err(KeyError::Unavailable(failure.unwrap_or_else(|| "not fetched yet".to_owned())));
        };
        if self.age(&snapshot) >= self.offline {
            let why = failure.unwrap_or_else(|| "the issuer was not reached".to_owned());
            return Err(KeyError::Unavailable(format!("known keys are older than offline_hours; {why}")));
        }
        find(&snapshot.keys, kid)
    }

    /// Fetches the keys now, so that the first connection need not wait. Failure is only an early warning.
    ///
    /// # Errors
    /// Why they could not be had.
    pub async fn warm(self: &Arc<Self>) -> Result<usize, String> {
        if let JwksSource::File(path) = &self.source {
            let snapshot = self.file_snapshot(path.clone()).await?;
            return Ok(snapshot.keys.len());
        }
        let failure = self.refresh(self.snapshot.load_full().as_ref()).await;
        match (self.snapshot.load_full(), failure) {
            (_, Some(error)) => Err(error),
            (Some(snapshot), None) => Ok(snapshot.keys.len()),
            (None, None) => Err("asked too soon after the last try".to_owned()),
        }
    }

    fn age(&self, snapshot: &Snapshot) -> Duration {
        self.clock.monotonic().saturating_sub(snapshot.fetched)
    }

    fn refresh_behind(self: &Arc<Self>) {
        // Whoever holds the flight is refreshing already.
        if self.flight.try_lock().is_err() {
            return;
        }
        let store = Arc::clone(self);
        tokio::spawn(async move {
            let seen = store.snapshot.load_full();
            if let Some(error) = store.refresh(seen.as_ref()).await {
                tracing::warn!(issuer = %store.issuer, %error, "keys could not be refreshed; known keys are used");
            }
        });
    }

    /// Replaces the snapshot unless someone else just did, or the issuer was asked too recently. The failure, if any.
    async fn refresh(&self, seen: Option<&Arc<Snapshot>>) -> Option<String> {
        let mut flight = self.flight.lock().await;
        let current = self.snapshot.load_full();
        if current.as_ref().map(Arc::as_ptr) != seen.map(Arc::as_ptr) {
            return None;
        }
        let now = self.clock.monotonic();
        let interval = if current.is_some() { REFRESH_INTERVAL } else { FIRST_INTERVAL };
        if flight.last_attempt.is_some_and(|last| now.saturating_sub(last) < interval) {
            return flight.last_error.clone();
        }
        let fetched = self.fetched().await;
        // Counted from the end: whoever has waited meanwhile takes this answer, rather than each waiting for its own.
        flight.last_attempt = Some(self.clock.monotonic());
        match fetched {
            Ok(keys) => {
                self.snapshot.store(Some(Arc::new(Snapshot { keys, fetched: now, stamp: None })));
                flight.last_error = None;
            }
            Err(error) => flight.last_error = Some(error),
        }
        flight.last_error.clone()
    }

    async fn fetched(&self) -> Result<Keys, String> {
        let fetcher = self.fetcher.as_ref().ok_or("no client")?;
        let url = match &self.source {
            JwksSource::Url(url) => url.clone(),
            _ => self.discovered(fetcher).await?,
        };
        let body = fetcher.get(&url).await.map_err(|error| error.to_string())?;
        parse(&body)
    }

    /// `jwks_uri`, where the discovery document names exactly this issuer.
    async fn discovered(&self, fetcher: &Fetcher) -> Result<String, String> {
        let url = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let body = fetcher.get(&url).await.map_err(|error| error.to_string())?;
        let document = strict::object(&body).map_err(|error| format!("{url}: {error}"))?;
        let text = |name: &str| document.get(name).and_then(Value::as_str);
        match text("issuer") {
            Some(issuer) if issuer == self.issuer => {}
            got => {
                let (expected, got) = (quote(&self.issuer), quote(got.unwrap_or_default()));
                return Err(format!("{url} describes another issuer: expected {expected}, got {got}"));
            }
        }
        let jwks = text("jwks_uri").ok_or_else(|| format!("{url} has no jwks_uri"))?;
        let target = fetch::allowed(jwks).map_err(|error| format!("{url}: jwks_uri {error}"))?;
        if self.issuer.starts_with("https:") && target.scheme_str() != Some("https") {
            return Err(format!("{url}: jwks_uri leaves https"));
        }
        Ok(jwks.to_owned())
    }

    async fn file_key(&self, path: PathBuf, kid: &str) -> Result<Arc<Key>, KeyError> {
        let snapshot = self.file_snapshot(path).await.map_err(KeyError::Unavailable)?;
        find(&snapshot.keys, kid)
    }

    async fn file_snapshot(&self, path: PathBuf) -> Result<Arc<Snapshot>, String> {
        let known = self.snapshot.load_full();
        let (before, now) = (known.clone(), self.clock.monotonic());
        let read = tokio::task::spawn_blocking(move || read_file(&path, before.as_deref(), now));
        match read.await.map_err(|error| error.to_string())?? {
            Some(fresh) => {
                let fresh = Arc::new(fresh);
                self.snapshot.store(Some(Arc::clone(&fresh)));
                Ok(fresh)
            }
            None => known.ok_or_else(|| "not read yet".to_owned()),
        }
    }
}

fn find(keys: &Keys, kid: &str) -> Result<Arc<Key>, KeyError> {
    keys.get(kid).cloned().ok_or_else(|| KeyError::Unknown { kid: quote(kid), known: keys.len() })
}

/// The file's keys; `None` where it is what it was.
fn read_file(path: &Path, known: Option<&Snapshot>, now: Duration) -> Result<Option<Snapshot>, String> {
    let fault = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let meta = std::fs::metadata(path).map_err(|error| fault(&error))?;
    if !meta.is_file() {
        return Err(fault(&"is not a regular file"));
    }
    if meta.mode() & 0o002 != 0 {
        return Err(fault(&"can be written by everyone, so anyone could add a key; chmod o-w"));
    }
    if meta.len() > FILE_MAX {
        return Err(fault(&"is larger than 1 MiB"));
    }
    let stamp =
        Stamp(meta.dev(), meta.ino(), meta.len(), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
    if known.is_some_and(|known| known.stamp == Some(stamp)) {
        return Ok(None);
    }
    let document = std::fs::read(path).map_err(|error| fault(&error))?;
    let keys = parse(&document).map_err(|error| fault(&error))?;
    Ok(Some(Snapshot { keys, fetched: now, stamp: Some(stamp) }))
}

#[cfg(test)]
#[path = "jwks_tests.rs"]
mod tests;
