//! A server to which checkpoints are posted, one JSON object each.

use std::fmt;
use std::path::PathBuf;

use super::{Http, Statement, WitnessError};
use crate::identity::fetch::{self, FetchError, Fetcher, Sent};
use crate::secret::{self, Secret};

/// Largest file with a token, in bytes.
const TOKEN_MAX: u64 = 16 << 10;

/// Where it is, and how we log in.
#[derive(Debug)]
pub struct Server {
    url: String,
    token: Option<PathBuf>,
    fetcher: Fetcher,
}

impl Http {
    pub(super) fn check(&self) -> Result<(), String> {
        fetch::allowed(&self.url).map(drop).map_err(|error| format!("http: {error}"))
    }
}

impl Server {
    pub(super) fn open(config: &Http) -> Result<Self, String> {
        let fetcher = Fetcher::new(config.ca.as_deref()).map_err(|error| format!("http {}: {error}", config.url))?;
        Ok(Self { url: config.url.clone(), token: config.token.clone(), fetcher })
    }

    pub(super) async fn tell(&self, statement: &Statement) -> Result<(), WitnessError> {
        let authorization = match &self.token {
            None => None,
            Some(path) => {
                // Small, and local: read where we are.
                let token = secret::read_file(path, TOKEN_MAX).map_err(|error| error.to_string());
                let token = token.and_then(|token| bearer(&token).ok_or_else(|| "it is no token".to_owned()));
                Some(token.map_err(|why| WitnessError::Answer(format!("{}: {why}", path.display())))?)
            }
        };
        let body = statement.line();
        let sent = Sent { kind: "application/json", accept: "*/*", body: body.into(), authorization };
        let (status, _answer) = self.fetcher.send(fetch::allowed(&self.url)?, sent).await?;
        match status {
            200 | 201 | 202 | 204 => Ok(()),
            status => Err(FetchError::Status { url: self.url.clone(), status }.into()),
        }
    }
}

fn bearer(token: &Secret) -> Option<String> {
    let token = token.expose_str()?.trim();
    (!token.is_empty()).then(|| format!("Bearer {token}"))
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.url)
    }
}
