//! Access tokens for a client of its own (OAuth 2, RFC 6749, section 4.4): the issuer is asked with the client's id and secret,
//! and the token that it gives is what the target sees.
//!
//! A token is kept until shortly before its end, for all sessions; one is asked for at a time, and where that fails, nobody
//! asks again for a moment. What the issuer says in words goes to nobody; its code of an error does. Not promised: that the
//! secret is wiped from what was sent.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::source::{Fetched, SecretSource, SourceError};
use super::{MAX_PASSWORD, Misconfigured};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::identity::fetch::{self, Fetcher, Form};
use crate::secret::Secret;

/// So long before its end a token is asked for anew, or a quarter of its life, where that is less.
const MARGIN: Duration = Duration::from_secs(60);
/// How long nobody asks again, where the issuer gave none.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest life of a token that is believed: a day.
const LIFE_LIMIT: u64 = 24 * 60 * 60;

/// `credential = { ..., oauth = { token_url = "https://idp.example/token" } }`: user and password are the client's.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where tokens are issued: https, or http to a loopback address.
    pub token_url: String,
    /// What the token is to be good for, with spaces between.
    pub scope: Option<String>,
    /// Whom the token is for, where the issuer wants to be told.
    pub audience: Option<String>,
    /// How the client says who it is.
    #[serde(default)]
    pub auth: Auth,
    /// Certificate authorities of the issuer (PEM); the system's, where absent.
    pub ca: Option<PathBuf>,
}

/// How a client says who it is (RFC 6749, section 2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Auth {
    /// In `Authorization: Basic`.
    #[default]
    Basic,
    /// In the form.
    Post,
}

/// The source.
pub(super) struct OAuth {
    config: Config,
    client: String,
    secret: Arc<dyn SecretSource>,
    fetcher: Fetcher,
    clock: Arc<dyn Clock>,
    /// One is asked for at a time, for all sessions that wait.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: Option<Kept>,
    failed: Option<(Duration, String)>,
}

#[derive(Clone, Debug)]
struct Kept {
    token: Secret,
    /// Until when it is handed out, by the clock that never steps back.
    until: Duration,
    /// The same by the wall's.
    ends: Timestamp,
}

impl Kept {
    fn fetched(&self) -> Fetched {
        Fetched { until: Some(self.ends), ..Fetched::of(self.token.clone()) }
    }
}

impl fmt::Debug for OAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuth").field("config", &self.config).field("client", &self.client).finish_non_exhaustive()
    }
}

impl OAuth {
    /// Checks the settings; the issuer is not asked yet.
    pub(super) fn new(config: Config, client: String, secret: Arc<dyn SecretSource>) -> Result<Self, Misconfigured> {
        fetch::allowed(&config.token_url).map_err(Misconfigured::OAuth)?;
        let fetcher = Fetcher::new(config.ca.as_deref()).map_err(Misconfigured::OAuth)?;
        Ok(Self { config, client, secret, fetcher, clock: Arc::new(SystemClock::new()), state: Mutex::default() })
    }

    #[cfg(test)]
    pub(super) fn at(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    async fn token(&self) -> Result<Fetched, SourceError> {
        let mut state = self.state.lock().await;
        let now = self.clock.monotonic();
        if let Some(kept) = state.kept.as_ref().filter(|kept| now < kept.until) {
            return Ok(kept.fetched());
        }
        if let Some((_, why)) = state.failed.as_ref().filter(|(at, _)| now < at.saturating_add(PAUSE)) {
            return Err(SourceError::Issuer(why.clone()));
        }
        // Whoever waits for it may be gone before it ends: that it was asked is known all the same.
        state.failed = Some((now, "the issuer did not answer in time".to_owned()));
        match self.ask().await {
            // Nobody knows until when it is good: it is for this session alone.
            Ok((token, None)) => {
                *state = State::default();
                Ok(Fetched::of(token))
            }
            Ok((token, Some(life))) => {
                let life = life.saturating_sub(MARGIN.min(life / 4));
                let kept = Kept { token, until: now.saturating_add(life), ends: self.clock.now().plus(life) };
                let given = kept.fetched();
                *state = State { kept: Some(kept), failed: None };
                Ok(given)
            }
            Err(SourceError::Issuer(why)) => {
                state.failed = Some((self.clock.monotonic(), why.clone()));
                Err(SourceError::Issuer(why))
            }
            Err(other) => Err(other),
        }
    }

    /// A token, and how long it lives.
    async fn ask(&self) -> Result<(Secret, Option<Duration>), SourceError> {
        let secret = self.secret.fetch().await?;
        let secret = secret.expose_str().ok_or(SourceError::Nul)?;
        let mut pairs = vec![("grant_type", "client_credentials")];
        pairs.extend(self.config.scope.as_deref().map(|scope| ("scope", scope)));
        pairs.extend(self.config.audience.as_deref().map(|audience| ("audience", audience)));
        let mut authorization = None;
        match self.config.auth {
            // Both are escaped before they are joined.
            Auth::Basic => {
                let pair = format!("{}:{}", escaped(&self.client), escaped(secret));
                authorization = Some(format!("Basic {}", BASE64.encode(pair)));
            }
            Auth::Post => pairs.extend([("client_id", self.client.as_str()), ("client_secret", secret)]),
        }
        let body = pairs.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect::<Vec<_>>().join("&");
        let answer = self.fetcher.post(&self.config.token_url, Form { body, authorization }).await;
        let (status, body) = answer.map_err(|error| SourceError::Issuer(error.to_string()))?;
        read(status, &body)
    }
}

impl SecretSource for OAuth {
    fn describe(&self) -> String {
        format!("oauth:{} with {}", self.config.token_url, self.secret.describe())
    }

    fn fetch(&self) -> BoxFuture<'_, Result<Secret, SourceError>> {
        Box::pin(async { self.token().await.map(|fetched| fetched.secret) })
    }

    fn fetch_until(&self) -> BoxFuture<'_, Result<Fetched, SourceError>> {
        Box::pin(self.token())
    }
}

#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    token_type: Option<String>,
    expires_in: Option<u64>,
    error: Option<String>,
}

/// The token, and how long it lives, where the issuer says so.
fn read(status: u16, body: &[u8]) -> Result<(Secret, Option<Duration>), SourceError> {
    let refused = |why: String| Err(SourceError::Issuer(why));
    let answer: Option<Answer> = serde_json::from_slice(body).ok();
    if status != 200 {
        // RFC 6749, section 5.2: a word of letters and underscores.
        let is_code =
            |code: &String| code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let code = answer.and_then(|answer| answer.error).filter(is_code).map(|code| format!(" {code}"));
        return refused(format!("the issuer answered {status}{}", code.unwrap_or_default()));
    }
    let Some(Answer { access_token: Some(token), token_type, expires_in, .. }) = answer else {
        return refused("the issuer answered without a token".to_owned());
    };
    let token = Secret::new(token.into_bytes());
    if !token_type.is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
        return refused("the issuer gave a token that is none for bearers".to_owned());
    }
    let bytes = token.expose();
    if bytes.is_empty() || bytes.len() > MAX_PASSWORD || !bytes.iter().all(u8::is_ascii_graphic) {
        return refused(format!(
            "the issuer gave a token that is empty, has more than {MAX_PASSWORD} bytes, or odd ones"
        ));
    }
    Ok((token, expires_in.map(|life| Duration::from_secs(life.min(LIFE_LIMIT)))))
}

/// As a form has it (`application/x-www-form-urlencoded`).
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
#[path = "oauth_tests.rs"]
mod tests;
