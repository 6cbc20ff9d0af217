//! TLS on both legs, and the one stream type that drivers read and write.
//!
//! Owns the [`Stream`], its two handshakes, and what channel binding needs to know of a server's certificate. How a leg
//! is configured stands in [`setup`], what agents are shown in `agents`, and where that comes from in [`authority`]. Does
//! not promise revocation checks (neither CRL nor OCSP is read), nor resumption:
//! each upstream session is a full handshake, so that each one verifies the certificate, and so is each of an agent's.

mod agents;
pub mod authority;
mod setup;
#[cfg(test)]
mod tests;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use sha2::Digest as _;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;

pub use agents::{Agents, Known};
pub use setup::{Agent, Config, Mode, SetupError, Unverified, Upstream};

/// How long a TLS handshake may take, on either leg.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// One leg of a session. An enum, so that the data path has no virtual calls.
#[derive(Debug)]
pub enum Stream {
    /// In clear.
    Tcp(TcpStream),
    /// TLS, we are the server.
    Server(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// TLS, we are the client.
    Client(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    /// In memory, for tests.
    Memory(DuplexStream),
}

impl Stream {
    /// Whether what is written is encrypted.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Server(_) | Self::Client(_))
    }

    /// Channel binding data `tls-server-end-point` (RFC 5929, section 4) of the server that we are connected to: the hash
    /// of its certificate, with the hash of the certificate's signature, or SHA-256 where that is MD5 or SHA-1.
    ///
    /// `None` where this is not a TLS connection to a server, or where the certificate's signature names no single hash
    /// (Ed25519): no binding is defined for those.
    #[must_use]
    pub fn server_end_point(&self) -> Option<Vec<u8>> {
        let Self::Client(stream) = self else { return None };
        let (_, session) = stream.get_ref();
        end_point(session.peer_certificates()?.first()?)
    }

    /// The name that an agent has asked for inside of TLS (SNI), where it did.
    #[must_use]
    pub fn asked_name(&self) -> Option<&str> {
        let Self::Server(stream) = self else { return None };
        stream.get_ref().1.server_name()
    }

    /// What ALPN settled on.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Server(stream) => stream.get_ref().1.alpn_protocol(),
            Self::Client(stream) => stream.get_ref().1.alpn_protocol(),
            Self::Tcp(_) | Self::Memory(_) => None,
        }
    }
}

/// Why a TLS handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The configuration of this leg has no TLS, or no server name.
    #[error("TLS is not configured for this leg: {0}")]
    NotConfigured(&'static str),
    /// The stream is not a plain TCP connection.
    #[error("TLS can only start on a plain TCP connection")]
    NotPlain,
    /// The peer was silent.
    #[error("the TLS handshake was not finished within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    TimedOut,
    /// The peer's certificate was not accepted.
    #[error("the server's certificate was refused: {0}")]
    Certificate(String),
    /// The peer broke the handshake off, as it does when it does not accept our certificate.
    #[error(
        "the other side refused TLS ({0}): it may want another client certificate (tls.cert), or other versions of TLS"
    )]
    Alert(String),
    /// An agent asks for another name than those of the target that it has connected to.
    #[error("it asks for `{asked}` (SNI), which is no name of {target}, the target that it has connected to")]
    WrongName {
        /// What it asks for.
        asked: String,
        /// Where the kernel says that it goes.
        target: String,
    },
    /// An agent does not accept the certificate that it was shown.
    #[error(
        "the agent does not trust the certificate that it was shown for `{name}`, issued by {issuer} (alert {alert}): \
         either it does not know that authority, or it has pinned another certificate"
    )]
    Distrusted {
        /// What it says about it.
        alert: String,
        /// What it was shown a certificate for.
        name: String,
        /// Who has issued that.
        issuer: String,
    },
    /// There is no certificate that could be shown to an agent.
    #[error("{0}")]
    Authority(#[from] authority::AuthorityError),
    /// Anything else that rustls or the operating system reported.
    #[error("the TLS handshake failed: {0}")]
    Failed(io::Error),
}

/// Starts TLS as the client, on a connection on which nothing is left unread.
///
/// # Errors
/// [`HandshakeError`]; the connection is gone then. It is never used in clear instead.
pub async fn connect(stream: Stream, upstream: &Upstream) -> Result<Stream, HandshakeError> {
    connect_as(stream, upstream, None).await
}

/// The same, offering these protocols (ALPN) alone, the one that is liked best first.
///
/// # Errors
/// As [`connect`].
pub async fn connect_offering(stream: Stream, upstream: &Upstream, alpn: &[&[u8]]) -> Result<Stream, HandshakeError> {
    connect_as(stream, upstream, Some(alpn)).await
}

async fn connect_as(stream: Stream, upstream: &Upstream, alpn: Option<&[&[u8]]>) -> Result<Stream, HandshakeError> {
    let (mut config, name) = upstream.client()?;
    if let Some(alpn) = alpn {
        Arc::make_mut(&mut config).alpn_protocols = alpn.iter().map(|id| id.to_vec()).collect();
    }
    let Stream::Tcp(tcp) = stream else { return Err(HandshakeError::NotPlain) };
    let handshake = tokio_rustls::TlsConnector::from(config).connect(name, tcp);
    match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Err(_elapsed) => Err(HandshakeError::TimedOut),
        Ok(Err(error)) => Err(explain(error, upstream)),
        Ok(Ok(stream)) => Ok(Stream::Client(Box::new(stream))),
    }
}

/// Starts TLS as the server, on a connection on which nothing is left unread.
///
/// # Errors
/// [`HandshakeError`]; the connection is gone then. An agent that asks for another target's name has been told so.
pub async fn accept(stream: Stream, agents: &Agents) -> Result<Stream, HandshakeError> {
    let Stream::Tcp(tcp) = stream else { return Err(HandshakeError::NotPlain) };
    match timeout(HANDSHAKE_TIMEOUT, agents.accept(tcp)).await {
        Err(_elapsed) => Err(HandshakeError::TimedOut),
        Ok(accepted) => Ok(Stream::Server(Box::new(accepted?))),
    }
}

/// Tells a refused certificate from other failures, and says what to do about it.
fn explain(error: io::Error, upstream: &Upstream) -> HandshakeError {
    use rustls::CertificateError as Bad;
    let Some(rustls::Error::InvalidCertificate(bad)) =
        error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
    else {
        return alert(&error).unwrap_or(HandshakeError::Failed(error));
    };
    HandshakeError::Certificate(match bad {
        Bad::UnknownIssuer => format!("no certificate authority in {} has issued it", upstream.roots()),
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => format!(
            "it has no subjectAltName for `{}` (a common name does not count); see tls.server_name",
            upstream.name().unwrap_or_default()
        ),
        Bad::BadSignature => format!(
            "a signature does not verify: another authority of the same name issued it ({} is trusted), or the server \
             does not hold its key",
            upstream.roots()
        ),
        Bad::Expired | Bad::ExpiredContext { .. } => "it has expired".into(),
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => "it is not valid yet".into(),
        other => match format!("{other:?}") {
            text if text.contains("CaUsedAsEndEntity") => {
                "it is a certificate authority's own (self-signed with CA:TRUE): give the server one that the CA issued"
                    .into()
            }
            text => text,
        },
    })
}

/// The peer's TLS alert, where that is why reading or writing failed. With TLS 1.3 a refused client certificate shows only
/// after the handshake.
pub(crate) fn alert(error: &io::Error) -> Option<HandshakeError> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(HandshakeError::Alert(format!("{alert:?}"))),
        _ => None,
    }
}

fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let signature = SignatureAlgorithm::try_from(&parsed.signature_algorithm).ok()?;
    let oid = match &signature {
        SignatureAlgorithm::RSASSA_PSS(parameters) => parameters.hash_algorithm_oid().to_id_string(),
        _ => parsed.signature_algorithm.algorithm.to_id_string(),
    };
    Some(match oid.as_str() {
        MD5_RSA | SHA1_RSA | SHA1_ECDSA | SHA1 | SHA256_RSA | SHA256_ECDSA | SHA256 => {
            sha2::Sha256::digest(certificate).to_vec()
        }
        SHA384_RSA | SHA384_ECDSA | SHA384 => sha2::Sha384::digest(certificate).to_vec(),
        SHA512_RSA | SHA512_ECDSA | SHA512 => sha2::Sha512::digest(certificate).to_vec(),
        SHA224_RSA | SHA224_ECDSA | SHA224 => sha2::Sha224::digest(certificate).to_vec(),
        _ => return None,
    })
}

// Signature algorithms of RFC 8017 and RFC 5758, and the hashes that RSASSA-PSS parameters name.
const MD5_RSA: &str = "1.2.840.113549.1.1.4";
const SHA1_RSA: &str = "1.2.840.113549.1.1.5";
const SHA224_RSA: &str = "1.2.840.113549.1.1.14";
const SHA256_RSA: &str = "1.2.840.113549.1.1.11";
const SHA384_RSA: &str = "1.2.840.113549.1.1.12";
const SHA512_RSA: &str = "1.2.840.113549.1.1.13";
const SHA1_ECDSA: &str = "1.2.840.10045.4.1";
const SHA224_ECDSA: &str = "1.2.840.10045.4.3.1";
const SHA256_ECDSA: &str = "1.2.840.10045.4.3.2";
const SHA384_ECDSA: &str = "1.2.840.10045.4.3.3";
const SHA512_ECDSA: &str = "1.2.840.10045.4.3.4";
const SHA1: &str = "1.3.14.3.2.26";
const SHA256: &str = "2.16.840.1.101.3.4.2.1";
const SHA384: &str = "2.16.840.1.101.3.4.2.2";
const SHA512: &str = "2.16.840.1.101.3.4.2.3";
const SHA224: &str = "2.16.840.1.101.3.4.2.4";

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Server($stream) => $call,
            Stream::Client($stream) => $call,
            Stream::Memory($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
