//! A server to which checkpoints are posted, one JSON object each.

use std::fmt;
use std::path::PathBuf;

use hyper::Uri;

use super::{Http, Statement, WitnessError, without_secrets};
use crate::identity::fetch::{self, Fetcher, Sent};
use crate::secret::{self, Secret};

/// Largest file with a token, in bytes.
const TOKEN_MAX: u64 = 16 << 10;

/// Where it is, and how we log in.
#[derive(Debug)]
pub struct Server {
    url: Uri,
    token: Option<PathBuf>,
    fetcher: Fetcher,
}

impl Http {
    pub(super) fn check(&self) -> Result<(), String> {
        // The address may hold a secret.
        let error = fetch::allowed(&self.url).map(drop);
        error.map_err(|error| format!("http: {}", error.to_string().replace(&self.url, "...")))
    }
}

impl Server {
    pub(super) fn open(config: &Http) -> Result<Self, String> {
        let fetcher = Fetcher::new(config.ca.as_deref()).map_err(|error| format!("http {}: {error}", config.url))?;
        let url = fetch::allowed(&config.url).map_err(|error| format!("http: {error}"))?;
        Ok(Self { url, token: config.token.clone(), fetcher })
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
        let sent = self.fetcher.send(self.url.clone(), sent).await;
        let (status, _answer) = sent.map_err(|error| WitnessError::of(&error, &self.url))?;
        match status {
            200 | 201 | 202 | 204 => Ok(()),
            status => Err(WitnessError::Answer(format!("it answered {status}"))),
        }
    }
}

fn bearer(token: &Secret) -> Option<String> {
    let token = token.expose_str()?.trim();
    (!token.is_empty()).then(|| format!("Bearer {token}"))
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_secrets(&self.url))
    }
}
