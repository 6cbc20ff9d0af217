//! What a program prints: a secret as it is, an `ExecCredential` of kubectl's plugins, or what AWS's `credential_process` prints.

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock::Timestamp;
use crate::credential::MAX_USER;
use crate::credential::source::{Fetched, Keys, MAX_SESSION, SourceError};
use crate::secret::Secret;

#[derive(Deserialize)]
#[serde(untagged)]
enum Printed {
    Aws(Aws),
    Kubernetes(ExecCredential),
}

/// <https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html>
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Aws {
    version: u32,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<String>,
}

#[derive(Deserialize)]
struct ExecCredential {
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    token: Option<String>,
    expiration_timestamp: Option<String>,
}

/// The secret, and what is said of it.
///
/// # Errors
/// It is none of the three.
pub(super) fn read(printed: &Secret) -> Result<Fetched, SourceError> {
    let bytes = printed.expose();
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        let line = bytes.strip_suffix(b"\n").map_or(bytes, |line| line.strip_suffix(b"\r").unwrap_or(line));
        return Ok(Fetched::of(Secret::new(line.to_vec())));
    }
    // What it says of an error would quote it.
    match serde_json::from_slice(bytes).map_err(|_| SourceError::NoToken)? {
        Printed::Kubernetes(ExecCredential { status: Status { token, expiration_timestamp } }) => {
            let token = token.filter(|token| !token.is_empty()).ok_or(SourceError::NoToken)?;
            let until = expiration_timestamp.as_deref().map(stamp).transpose()?;
            Ok(Fetched { until, ..Fetched::of(Secret::new(token.into_bytes())) })
        }
        Printed::Aws(aws) => keys(aws),
    }
}

fn keys(aws: Aws) -> Result<Fetched, SourceError> {
    let Aws { version, access_key_id: user, secret_access_key, session_token, expiration } = aws;
    let secret = Secret::new(secret_access_key.into_bytes());
    let session = session_token.map(|token| Secret::new(token.into_bytes()));
    let is_word =
        |bytes: &[u8], most| !bytes.is_empty() && bytes.len() <= most && bytes.iter().all(u8::is_ascii_graphic);
    let is_id =
        is_word(user.as_bytes(), MAX_USER) && user.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let is_session = session.as_ref().is_none_or(|token| is_word(token.expose(), MAX_SESSION));
    if version != 1 || !is_id || !is_session {
        return Err(SourceError::NoKeys);
    }
    let until = expiration.as_deref().map(stamp).transpose()?;
    Ok(Fetched { secret, until, keys: Some(Keys { user, session }) })
}

/// A moment as RFC 3339 has it.
fn stamp(text: &str) -> Result<Timestamp, SourceError> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| SourceError::NoToken)?;
    Ok(Timestamp::from_unix(moment.unix_timestamp()))
}
