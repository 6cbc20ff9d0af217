//! Credential: what interceptor logs in with at a target, and where it comes from.
//!
//! A [`Config`] names a user and where its password is. [`Config::credential`] checks it at load time;
//! [`Credential::lease`] fetches it anew for each session, so that a rotated file is used from the next session on. A
//! source that fails is a session that fails: there is no other source, no cached value and no empty password to fall
//! back to. Does not promise that the configuration's own text, where it holds a `plain:` password, is wiped.

mod exec;
pub mod oauth;
mod source;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::timeout;

pub use source::{Fetched, Keys, Place, SecretSource, SourceError};

use crate::clock::Timestamp;
use crate::identity::fetch::FetchError;
use crate::secret::Secret;

/// How long a source may take.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// The most that a password may hold, in bytes; what targets take is far less.
pub const MAX_PASSWORD: usize = 4096;
/// The most that a user name may hold, in bytes.
pub const MAX_USER: usize = 255;

/// The `credential` table of a target.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// User at the target.
    pub user: String,
    /// Where the password is; absent where a client certificate, or nothing, logs in.
    pub password: Option<Place>,
    /// User and password are those of a client at an issuer, whose tokens the target takes.
    pub oauth: Option<oauth::Config>,
}

impl Config {
    /// Checks the settings; the source is not asked yet.
    ///
    /// # Errors
    /// [`Misconfigured`], which never shows what stands in the configuration as a password.
    pub fn credential(&self) -> Result<Credential, Misconfigured> {
        if self.user.is_empty() || self.user.len() > MAX_USER || self.user.contains('\0') {
            return Err(Misconfigured::User);
        }
        let mut source = self.password.as_ref().map(Place::source).transpose()?;
        if let Some(config) = &self.oauth {
            let secret = source.ok_or(Misconfigured::NoSecret)?;
            source = Some(Arc::new(oauth::OAuth::new(config.clone(), self.user.clone(), secret)?));
        }
        Ok(Credential { user: self.user.clone(), source, signs: false })
    }
}

/// Why a `credential` table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Misconfigured {
    /// The user name is empty, too long, or holds a NUL.
    #[error("credential.user: a name of 1 to {MAX_USER} bytes, without NUL")]
    User,
    /// The password names no source.
    #[error(
        "credential.password: a password does not belong into the configuration. Put it into a file and write \
         \"file:/path\", or hand it to the service (LoadCredential=NAME:/path) and write \"systemd:NAME\", or \
         \"env:NAME\" for the daemon's environment, or \"exec:/path ...\" for a program that prints it. \"plain:...\" accepts it here all the same"
    )]
    Literal,
    /// There is nothing that an issuer would know the client by.
    #[error("credential.oauth: the secret of the client belongs into `password`, and its id into `user`")]
    NoSecret,
    /// Nobody can ask the issuer.
    #[error("credential.oauth: {0}")]
    OAuth(FetchError),
    /// The source's name is not usable.
    #[error("credential.password: `{scheme}:` needs {needs}")]
    Name {
        /// Which source.
        scheme: &'static str,
        /// What it needs.
        needs: &'static str,
    },
}

/// A checked credential of a target.
#[derive(Clone)]
pub struct Credential {
    user: String,
    source: Option<Arc<dyn SecretSource>>,
    signs: bool,
}

impl Credential {
    /// A credential from another source.
    #[must_use]
    pub fn new(user: impl Into<String>, source: Option<Arc<dyn SecretSource>>) -> Self {
        Self { user: user.into(), source, signs: false }
    }

    /// The same for a target that is never shown the secret, only what it signs: keys of AWS are for such alone.
    #[must_use]
    pub fn signing(self, signs: bool) -> Self {
        Self { signs, ..self }
    }

    /// User at the target.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Fetches the credential for one session, within [`FETCH_TIMEOUT`].
    ///
    /// # Errors
    /// [`Unavailable`] says what is wrong with which source; the session cannot be.
    pub async fn lease(&self) -> Result<Lease, Unavailable> {
        let id = lease_id()?;
        let Some(source) = &self.source else {
            return Ok(Lease { id, user: self.user.clone(), password: None, session: None, until: None });
        };
        let Fetched { secret, until, keys } = fetch(&**source).await?;
        if keys.is_some() && !self.signs {
            return Err(Unavailable::Source { place: source.describe(), error: SourceError::Keys });
        }
        let Keys { user, session } = keys.unwrap_or_else(|| Keys { user: self.user.clone(), session: None });
        Ok(Lease { id, user, password: Some(secret), session, until })
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("user", &self.user)
            .field("source", &self.source.as_ref().map(|source| source.describe()))
            .finish()
    }
}

/// A credential obtained for one session.
#[derive(Debug)]
pub struct Lease {
    /// Names this lease in the recording.
    pub id: String,
    /// User at the target.
    pub user: String,
    /// Password, where there is one. Never empty.
    pub password: Option<Secret>,
    /// The token of a session of AWS, which is shown beside what the password signs.
    pub session: Option<Secret>,
    /// Until when it can be used, where that is known.
    pub until: Option<Timestamp>,
}

/// Why there is no credential for a session.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The source failed.
    #[error("the credential {place} is not available: {error}")]
    Source {
        /// As configured: `file:/path`.
        place: String,
        /// Why.
        error: SourceError,
    },
    /// The source was too slow.
    #[error("the credential {place} did not arrive within {} s", FETCH_TIMEOUT.as_secs())]
    TimedOut {
        /// As configured.
        place: String,
    },
    /// The operating system gave no randomness for the lease's id.
    #[error("no randomness: {0}")]
    Randomness(getrandom::Error),
}

async fn fetch(source: &dyn SecretSource) -> Result<Fetched, Unavailable> {
    let failed = |error| Unavailable::Source { place: source.describe(), error };
    let fetched = match timeout(FETCH_TIMEOUT, source.fetch_until()).await {
        Err(_elapsed) => return Err(Unavailable::TimedOut { place: source.describe() }),
        Ok(fetched) => fetched.map_err(failed)?,
    };
    match fetched.secret.expose() {
        [] => Err(failed(SourceError::Empty)),
        bytes if bytes.len() > MAX_PASSWORD => Err(failed(SourceError::TooLong)),
        bytes if bytes.contains(&0) => Err(failed(SourceError::Nul)),
        _ => Ok(fetched),
    }
}

fn lease_id() -> Result<String, Unavailable> {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).map_err(Unavailable::Randomness)?;
    Ok(format!("lease-{:032x}", u128::from_be_bytes(random)))
}
