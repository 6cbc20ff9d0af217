//! Log-in at a PostgreSQL target, with interceptor's own credential.
//!
//! Takes a fresh leg in clear through SSLRequest, start-up and authentication to the first ReadyForQuery. Speaks protocol
//! 3.0. What a target may ask for depends on who it proved to be: with a verified certificate (`verify-ca`,
//! `verify-full`) trust, clear text, md5 and SCRAM; without, no less than `tls.unverified_password` says, so that an
//! impostor or a forced downgrade gets no password out of us. Everything the target sends is bounded in size, count and
//! time. Does not promise that the copies of a password inside HMAC and rustls are wiped.
//!
//! Specification: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP> and
//! <https://www.postgresql.org/docs/current/sasl-authentication.html>.

mod authentication;
mod failure;
mod query;
mod reader;
mod scram;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use zeroize::Zeroize;

use super::super::{Login, Target};
use crate::tls::{self, Stream, Upstream};
use authentication::Authentication;
use reader::Reader;

pub(crate) use failure::{Complaint, LoginError};
pub(crate) use query::{Bounds, query_with};
#[cfg(test)]
pub(crate) use query::{QueryError, Row, query};

/// The protocol's ALPN id; only direct TLS, which is not spoken yet, needs it.
#[cfg(test)]
pub(crate) const ALPN: &[u8] = b"postgresql";
/// How long a log-in may take, TLS included.
pub(crate) const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a cancel request may take.
pub(crate) const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest message that is read during a log-in, in bytes.
pub(crate) const MAX_LOGIN_MESSAGE: usize = 64 << 10;
/// All that is read during a log-in, in bytes: an endless run of notices ends here.
pub(crate) const MAX_LOGIN_BYTES: usize = 256 << 10;
/// How many parameters a target may report.
pub(crate) const MAX_PARAMETERS: usize = 256;
/// The largest start-up message, in bytes: what the server takes (`MAX_STARTUP_PACKET_LENGTH`).
pub(crate) const MAX_STARTUP: usize = 10_000;

/// A leg that is ready for its first command.
pub(crate) struct LoggedIn {
    /// The leg; TLS where that was configured.
    pub(crate) stream: Stream,
    /// What the target reported of itself, in its order.
    pub(crate) parameters: Vec<(String, String)>,
    /// For cancel requests; zero where the target gave none.
    pub(crate) process_id: i32,
    /// For cancel requests; zero where the target gave none.
    pub(crate) secret_key: i32,
    /// What was read behind ReadyForQuery: it comes before anything read from `stream`.
    pub(crate) leftover: BytesMut,
    /// How the log-in was proven: `SCRAM-SHA-256-PLUS`, `md5`, `none`..., for the record.
    pub(crate) mechanism: &'static str,
}

/// Without the cancel key.
impl fmt::Debug for LoggedIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoggedIn").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

/// Logs in over a fresh leg, within [`LOGIN_TIMEOUT`].
///
/// `parameters` are the agent's: its `user` gives way to the credential's, and protocol extensions (`_pq_.`) stay behind,
/// as they are negotiated with each side apart.
///
/// # Errors
/// [`LoginError`] says whose fault it is. The leg is closed, and nothing is tried again with less security.
pub(crate) async fn login(
    stream: Stream,
    target: &Target,
    login: &Login,
    parameters: &[(String, String)],
) -> Result<LoggedIn, LoginError> {
    let upstream = &target.upstream_tls;
    timeout(LOGIN_TIMEOUT, attempt(stream, upstream, login, parameters)).await.unwrap_or(Err(LoginError::TimedOut))
}

async fn attempt(
    stream: Stream,
    upstream: &Upstream,
    login: &Login,
    parameters: &[(String, String)],
) -> Result<LoggedIn, LoginError> {
    let startup = startup(login, parameters)?;
    let mut stream = secure(stream, upstream).await?;
    stream.write_all(&startup).await?;
    stream.flush().await?;

    let mut leftover = BytesMut::new();
    let mechanism = authenticate(&mut stream, &mut leftover, upstream, login).await?;
    let mut reader = Reader::new(&mut stream, &mut leftover, MAX_LOGIN_MESSAGE, MAX_LOGIN_BYTES);
    let mut reported = Vec::new();
    let (mut process_id, mut secret_key) = (0, 0);
    loop {
        match reader.message().await? {
            Message::ParameterStatus(status) => {
                if reported.len() == MAX_PARAMETERS {
                    return Err(LoginError::Protocol("it reports too many parameters".into()));
                }
                reported.push((text(status.name())?, text(status.value())?));
            }
            Message::BackendKeyData(key) => (process_id, secret_key) = (key.process_id(), key.secret_key()),
            Message::NoticeResponse(_) => {}
            Message::ErrorResponse(body) => return Err(Complaint::read(&body).into()),
            Message::ReadyForQuery(ready) if ready.status() == b'I' => break,
            _ => return Err(LoginError::Protocol("it sent a message that has no place before ReadyForQuery".into())),
        }
    }
    Ok(LoggedIn { stream, parameters: reported, process_id, secret_key, leftover, mechanism })
}

/// Starts TLS where the configuration wants it. Bounded by the caller, but for the handshake, which bounds itself.
///
/// # Errors
/// The target has no TLS, sends something along with its answer (which could only have come from somebody on the path),
/// or fails the handshake. It is never gone on in clear.
pub(crate) async fn secure(mut stream: Stream, upstream: &Upstream) -> Result<Stream, LoginError> {
    if !upstream.wants_tls() {
        return Ok(stream);
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    stream.flush().await?;
    // Room for a second byte, only to notice that one came.
    let mut answer = [0u8; 2];
    let length = stream.read(&mut answer).await?;
    match answer.get(..length) {
        Some(b"S") => Ok(tls::connect(stream, upstream).await?),
        Some(b"N") => Err(LoginError::NoTls),
        Some([]) | None => Err(LoginError::Closed),
        Some([b'S' | b'N', _, ..]) => Err(LoginError::Smuggled),
        Some(_) => Err(LoginError::Protocol("it does not know how to answer SSLRequest".into())),
    }
}

/// Sends a cancel request over a fresh leg, within [`CANCEL_TIMEOUT`]; the target closes the leg when it has read it.
///
/// # Errors
/// As [`secure`]; a target gives no answer to the request itself.
pub(crate) async fn cancel(
    stream: Stream,
    target: &Target,
    process_id: i32,
    secret_key: i32,
) -> Result<(), LoginError> {
    let work = async {
        let mut stream = secure(stream, &target.upstream_tls).await?;
        let mut request = BytesMut::new();
        frontend::cancel_request(process_id, secret_key, &mut request);
        stream.write_all(&request).await?;
        stream.flush().await?;
        // The signal was sent when the target closes its end; a byte before that is as good.
        let mut end = [0u8; 1];
        let _closed = stream.read(&mut end).await;
        Ok(())
    };
    timeout(CANCEL_TIMEOUT, work).await.unwrap_or(Err(LoginError::TimedOut))
}

fn startup(login: &Login, parameters: &[(String, String)]) -> Result<BytesMut, LoginError> {
    let kept = parameters.iter().filter(|(name, _)| name != "user" && !name.starts_with("_pq_."));
    let pairs = kept.map(|(name, value)| (name.as_str(), value.as_str()));
    // An empty name would end the list, and what follows it would be garbage to the target.
    if parameters.iter().any(|(name, _)| name.is_empty()) {
        return Err(LoginError::Startup("a parameter has no name"));
    }
    let mut message = BytesMut::new();
    frontend::startup_message(std::iter::once(("user", login.user.as_str())).chain(pairs), &mut message)
        .map_err(|_nul| LoginError::Startup("a parameter holds a NUL"))?;
    if message.len() > MAX_STARTUP {
        return Err(LoginError::Startup("the parameters are too long"));
    }
    Ok(message)
}

async fn authenticate(
    stream: &mut Stream,
    leftover: &mut BytesMut,
    upstream: &Upstream,
    login: &Login,
) -> Result<&'static str, LoginError> {
    let mut authentication = Authentication::new(login, upstream.least_proof(), stream.server_end_point());
    let mut spent = 0;
    loop {
        let mut reader = Reader::new(stream, leftover, MAX_LOGIN_MESSAGE, MAX_LOGIN_BYTES.saturating_sub(spent));
        let message = reader.message().await?;
        spent = MAX_LOGIN_BYTES.saturating_sub(reader.left());
        match message {
            Message::NoticeResponse(_) => {}
            Message::ErrorResponse(body) => return Err(Complaint::read(&body).before_authentication()),
            Message::AuthenticationOk => return authentication.accepted(),
            request => {
                if let Some(mut answer) = authentication.answer(request).await? {
                    let sent = stream.write_all(&answer).await;
                    // It may hold the password.
                    answer.as_mut().zeroize();
                    sent?;
                    stream.flush().await?;
                }
            }
        }
    }
}

fn text(field: std::io::Result<&str>) -> Result<String, LoginError> {
    field.map(str::to_owned).map_err(|_| LoginError::Protocol("a parameter that it reports is not UTF-8".into()))
}
