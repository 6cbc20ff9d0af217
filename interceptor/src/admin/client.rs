//! The other end of the admin socket: what the command line speaks through.

use std::io;
use std::path::Path;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::Fault;

/// An answer longer than this is not read.
const ANSWER_LIMIT: usize = 64 << 20;

/// Why the daemon gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket is not there, or closed to us.
    #[error("no daemon answers on {path}: {source}. Is interceptor running, and may you use its socket?")]
    Unreachable {
        /// Which socket.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The daemon said no.
    #[error("{0}")]
    Refused(String),
    /// The answer makes no sense: another program, or another version.
    #[error("the daemon's answer cannot be understood: {0}")]
    Garbled(String),
}

/// Asks the daemon and understands its answer.
///
/// # Errors
/// When it cannot be reached, says no, or answers in a way that cannot be understood.
pub async fn call<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&(impl Serialize + Sync)>,
) -> Result<T, ClientError> {
    let unreachable = |source| ClientError::Unreachable { path: socket.display().to_string(), source };
    let garbled = |error: &dyn std::fmt::Display| ClientError::Garbled(error.to_string());
    let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| garbled(&error))?;
    tokio::spawn(connection);
    let bytes = match body {
        Some(body) => serde_json::to_vec(body).map_err(|error| garbled(&error))?,
        None => Vec::new(),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "interceptor")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(bytes)))
        .map_err(|error| garbled(&error))?;
    let response = sender.send_request(request).await.map_err(|error| garbled(&error))?;
    let status = response.status();
    let answer = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await.map_err(|error| garbled(&error))?;
    let answer = answer.to_bytes();
    if !status.is_success() {
        let said = serde_json::from_slice::<Fault>(&answer).map_or_else(|_| status.to_string(), |fault| fault.error);
        return Err(ClientError::Refused(said));
    }
    serde_json::from_slice(&answer).map_err(|error| garbled(&error))
}

/// Asks without a body.
///
/// # Errors
/// As [`call`].
pub async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, ClientError> {
    call(socket, Method::GET, path, None::<&()>).await
}
