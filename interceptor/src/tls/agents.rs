//! TLS towards agents: which names a target may be asked for, and what is shown for each.
//!
//! An agent says in clear whom it wants to talk to (SNI, RFC 6066, section 3). The target stands already, by the address
//! that the kernel recorded: another target's name is refused with the alert `unrecognized_name`, and no name is taken for
//! the host that the address belongs to. Certificates are minted for the names of targets alone, so that what an agent
//! asks for cannot have many of them made.
//!
//! Nothing is resumed: no tickets, no early data. A session that one agent began is never continued by another, and each
//! handshake checks the name anew.

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{Acceptor, NoServerSessionStorage};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::HandshakeError;
use super::authority::{Authority, Name};
use crate::clock::Timestamp;

/// TLS towards the agents of one target. Cheap to clone.
#[derive(Clone)]
pub struct Agents {
    shown: Arc<Shown>,
    host: Name,
}

struct Shown {
    target: String,
    alpn: Vec<Vec<u8>>,
    /// Every name that the target may be asked for.
    names: Vec<Name>,
    source: Source,
}

enum Source {
    /// The operator's certificate.
    Given(Arc<ServerConfig>),
    /// The host CA's, one for each name, when it is first asked for.
    Minted { authority: Arc<Authority>, leaves: Vec<Mutex<Option<Minted>>> },
}

struct Minted {
    config: Arc<ServerConfig>,
    renew_at: Timestamp,
}

/// What a target is called, and what is spoken at it.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The target's name in the configuration.
    pub target: &'a str,
    /// The names and addresses by which agents may ask for it; the first is taken where none is said.
    pub names: &'a [Name],
    /// Its protocol's ALPN ids; the first that the agent offers as well is chosen.
    pub alpn: &'a [&'a [u8]],
}

impl Agents {
    pub(super) fn given(
        known: Known<'_>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Option<Self>, rustls::Error> {
        let alpn: Vec<Vec<u8>> = known.alpn.iter().map(|id| id.to_vec()).collect();
        let source = Source::Given(configured(chain, key, &alpn)?);
        Ok(Self::new(known, alpn, source))
    }

    pub(super) fn minted(known: Known<'_>, authority: Arc<Authority>) -> Option<Self> {
        let alpn = known.alpn.iter().map(|id| id.to_vec()).collect();
        let leaves = known.names.iter().map(|_| Mutex::new(None)).collect();
        Self::new(known, alpn, Source::Minted { authority, leaves })
    }

    fn new(known: Known<'_>, alpn: Vec<Vec<u8>>, source: Source) -> Option<Self> {
        let host = known.names.first()?.clone();
        let shown = Shown { target: known.target.to_owned(), alpn, names: known.names.to_vec(), source };
        Some(Self { shown: Arc::new(shown), host })
    }

    /// The same for another of the target's hosts; unchanged where `host` is none.
    #[must_use]
    pub fn for_host(&self, host: &str) -> Self {
        let host = Name::parse(host).filter(|host| self.shown.names.contains(host));
        Self { host: host.unwrap_or_else(|| self.host.clone()), ..self.clone() }
    }

    /// Speaks the server's part of a handshake.
    pub(super) async fn accept(&self, tcp: TcpStream) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), tcp).await.map_err(HandshakeError::Failed)?;
        let asked = start.client_hello().server_name().map(str::to_owned);
        let (name, config) = match self.config(asked.as_deref()) {
            Ok(found) => found,
            Err(error) => {
                let mut tcp = start.io;
                let alert =
                    if matches!(error, HandshakeError::WrongName { .. }) { UNRECOGNIZED_NAME } else { INTERNAL };
                // Best effort: an agent that does not read is closed all the same.
                let _told = async {
                    tcp.write_all(&alert).await?;
                    tcp.shutdown().await
                }
                .await;
                return Err(error);
            }
        };
        start.into_stream(config).await.map_err(|error| self.explain(error, &name))
    }

    /// What is shown to an agent that asks for this name.
    fn config(&self, asked: Option<&str>) -> Result<(Name, Arc<ServerConfig>), HandshakeError> {
        let Shown { target, names, source, alpn } = &*self.shown;
        let name = match asked {
            None => self.host.clone(),
            Some(text) => Name::parse(text)
                .filter(|name| names.contains(name))
                .ok_or_else(|| HandshakeError::WrongName { asked: text.to_owned(), target: target.clone() })?,
        };
        let config = match source {
            Source::Given(config) => Arc::clone(config),
            Source::Minted { authority, leaves } => {
                let leaf = names.iter().position(|known| *known == name).and_then(|at| leaves.get(at));
                let leaf = leaf.ok_or(HandshakeError::NotConfigured("no certificate for the host"))?;
                fresh(&mut leaf.lock(), authority, &name, alpn)?
            }
        };
        Ok((name, config))
    }

    fn explain(&self, error: io::Error, name: &Name) -> HandshakeError {
        use rustls::AlertDescription as Alert;
        let alert = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => *alert,
            _ => return HandshakeError::Failed(error),
        };
        match alert {
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateRevoked
            | Alert::CertificateExpired => HandshakeError::Distrusted {
                alert: format!("{alert:?}"),
                name: name.to_string(),
                issuer: match &self.shown.source {
                    Source::Given(_) => "tls.agent_cert".to_owned(),
                    Source::Minted { authority, .. } => authority.certificate().subject.clone(),
                },
            },
            _ => HandshakeError::Failed(error),
        }
    }
}

impl fmt::Debug for Agents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minted = matches!(self.shown.source, Source::Minted { .. });
        f.debug_struct("Agents")
            .field("host", &self.host)
            .field("names", &self.shown.names)
            .field("minted", &minted)
            .finish()
    }
}

/// The leaf in its place, minted where there is none, or where it is half over.
fn fresh(
    place: &mut Option<Minted>,
    authority: &Authority,
    name: &Name,
    alpn: &[Vec<u8>],
) -> Result<Arc<ServerConfig>, HandshakeError> {
    if let Some(minted) = place.as_ref().filter(|minted| authority.now() < minted.renew_at) {
        return Ok(Arc::clone(&minted.config));
    }
    let leaf = authority.mint(name)?;
    let config =
        configured(leaf.chain, leaf.key, alpn).map_err(|error| HandshakeError::Failed(io::Error::other(error)))?;
    *place = Some(Minted { config: Arc::clone(&config), renew_at: leaf.renew_at });
    Ok(config)
}

fn configured(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    alpn: &[Vec<u8>],
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = alpn.to_vec();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// A fatal alert in a record of its own (RFC 5246, section 7.2; the version is the one that every client reads).
const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 112];
const INTERNAL: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 80];
