//! How a leg speaks TLS: from a target's configuration to rustls.
//!
//! Every file is read, bounded and checked when the configuration is loaded, so that a session never finds out that a
//! certificate is missing. TLS 1.2 and 1.3, by aws-lc-rs, whatever the process's default provider is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde::Deserialize;

use super::authority::{Authority, AuthorityError, Name};
use super::{Agents, HandshakeError, Known};
use crate::secret::{self, Unreadable};

/// The `tls` table of a target.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How much is asked of the target's TLS.
    pub upstream: Mode,
    /// PEM file with the certificate authorities that the target's certificate may come from; the system's where absent.
    pub ca: Option<PathBuf>,
    /// PEM file with the certificate (chain) that logs in at the target.
    pub cert: Option<PathBuf>,
    /// PEM file with the key of `cert`.
    pub key: Option<PathBuf>,
    /// Name in the target's certificate, where it is not the host that is dialled.
    pub server_name: Option<String>,
    /// What a target may learn of a password when its certificate was not verified.
    pub unverified_password: Unverified,
    /// Whether agents may have TLS.
    pub agent: Agent,
    /// Names beside those in `hosts` by which agents ask for the target (SNI).
    pub agent_names: Vec<String>,
    /// PEM file with the certificate (chain) that is shown to agents; without it one of the host CA (`[ca]`), and without
    /// that they are answered in clear.
    pub agent_cert: Option<PathBuf>,
    /// PEM file with the key of `agent_cert`.
    pub agent_key: Option<PathBuf>,
}

/// How much is asked of a target's TLS, with libpq's names and meanings. There is no `allow` and no `prefer`: whoever
/// sits on the path could turn them into `disable`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// In clear.
    Disable,
    /// Encrypted, to whoever answers: stops listeners, not impostors.
    Require,
    /// The certificate comes from `ca`, for whatever name. Needs `ca`, as every name on the Internet is in the system's.
    VerifyCa,
    /// The certificate comes from `ca` (or the system's) and is valid for the host.
    #[default]
    VerifyFull,
}

/// Whether agents may have TLS at a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Agent {
    /// Where there is a certificate to show: `agent_cert`, or the host CA's.
    #[default]
    Offer,
    /// Never: they are answered in clear.
    Off,
}

/// The least proof that a password is used for, towards a target whose certificate was not verified. (Where it was
/// verified, the target is who it says, and every method is as good as the operator made it.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unverified {
    /// The password itself.
    Clear,
    /// A hash that can be guessed offline: PostgreSQL's md5.
    Hash,
    /// An exchange that teaches nothing and proves that the target knows the password too: SCRAM. An impostor who relays
    /// it to the real target stays possible.
    #[default]
    Proof,
    /// As `proof`, bound to this TLS connection, which no impostor can relay: SCRAM-PLUS.
    Bound,
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let text = String::deserialize(deserializer)?;
        Ok(match text.as_str() {
            "disable" => Self::Disable,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            "allow" | "prefer" => {
                return Err(D::Error::custom(format!(
                    "`{text}` lets anybody on the path switch TLS off: use `require`, `verify-ca` or `verify-full`, or \
                     `disable` where the path is trusted"
                )));
            }
            _ => return Err(D::Error::custom("expected `disable`, `require`, `verify-ca` or `verify-full`")),
        })
    }
}

/// Why a TLS configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file could not be read.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Settings that do not go together.
    #[error("tls.{key}: {advice}")]
    Setting {
        /// Which.
        key: &'static str,
        /// What to write instead.
        advice: String,
    },
    /// The host CA cannot be used for this target.
    #[error("{0}")]
    Authority(#[from] AuthorityError),
    /// The system has no usable certificate authorities.
    #[error("the system's certificate authorities cannot be read ({0}): name a file in tls.ca")]
    SystemRoots(String),
}

/// How to speak TLS with a target. Cheap to clone. The default speaks in clear; the default of a [`Config`] does not.
#[derive(Clone, Default)]
pub struct Upstream {
    mode: Option<Tls>,
    name: Option<ServerName<'static>>,
    fixed_name: bool,
    unverified: Unverified,
}

#[derive(Clone)]
struct Tls {
    config: Arc<ClientConfig>,
    verified: bool,
    roots: Arc<str>,
    has_certificate: bool,
}

impl Upstream {
    /// Whether the protocol has to start TLS.
    #[must_use]
    pub const fn wants_tls(&self) -> bool {
        self.mode.is_some()
    }

    /// Whether a finished handshake proves who the target is (`verify-ca`, `verify-full`).
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.mode.as_ref().is_some_and(|tls| tls.verified)
    }

    /// Whether a client certificate is shown to a target that asks for one.
    #[must_use]
    pub fn has_certificate(&self) -> bool {
        self.mode.as_ref().is_some_and(|tls| tls.has_certificate)
    }

    /// The least proof that a password may be used for at this target; `None` where every one will do.
    #[must_use]
    pub fn least_proof(&self) -> Option<Unverified> {
        (!self.is_verified()).then_some(self.unverified)
    }

    /// The same settings for another of the target's hosts. Changes nothing where `tls.server_name` is configured.
    ///
    /// # Errors
    /// When `host` is neither a DNS name nor an address.
    pub fn for_host(&self, host: &str) -> Result<Self, SetupError> {
        if self.fixed_name || self.mode.is_none() {
            return Ok(self.clone());
        }
        Ok(Self { name: Some(server_name(host)?), ..self.clone() })
    }

    pub(super) fn client(&self) -> Result<(Arc<ClientConfig>, ServerName<'static>), HandshakeError> {
        let tls = self.mode.as_ref().ok_or(HandshakeError::NotConfigured("tls.upstream is `disable`"))?;
        let name = self.name.clone().ok_or(HandshakeError::NotConfigured("there is no server name"))?;
        Ok((Arc::clone(&tls.config), name))
    }

    pub(super) fn roots(&self) -> &str {
        self.mode.as_ref().map_or("nothing", |tls| &tls.roots)
    }

    pub(super) fn name(&self) -> Option<String> {
        self.name.as_ref().map(|name| name.to_str().into_owned())
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("tls", &self.wants_tls())
            .field("verified", &self.is_verified())
            .field("name", &self.name)
            .field("certificate", &self.has_certificate())
            .field("unverified", &self.unverified)
            .finish()
    }
}

impl Config {
    /// The upstream side, for a target at `host`; `alpn` are the protocol's ALPN ids. Reads files; blocks.
    ///
    /// # Errors
    /// Settings that contradict each other, and files that cannot be used, named.
    pub fn upstream(&self, host: &str, alpn: &[&[u8]]) -> Result<Upstream, SetupError> {
        self.check()?;
        if self.upstream == Mode::Disable {
            return Ok(Upstream { unverified: self.unverified_password, ..Upstream::default() });
        }
        let name = server_name(self.server_name.as_deref().unwrap_or(host))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (verifier, roots) = self.verifier(&provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| setting("upstream", error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let (chain, key_der) = (certificates(cert)?, private_key(key)?);
                builder.with_client_auth_cert(chain, key_der).map_err(|error| unusable(key, error))?
            }
            _ => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = alpn.iter().map(|id| id.to_vec()).collect();
        let tls = Tls {
            config: Arc::new(config),
            verified: self.upstream != Mode::Require,
            roots: roots.into(),
            has_certificate: self.cert.is_some(),
        };
        Ok(Upstream {
            mode: Some(tls),
            name: Some(name),
            fixed_name: self.server_name.is_some(),
            unverified: self.unverified_password,
        })
    }

    /// The agents' side, at a target with these hosts and names; `None` where they are answered in clear. Reads files;
    /// blocks.
    ///
    /// # Errors
    /// One of the two files is missing, or cannot be used; or the host CA may not attest to a name.
    pub fn agents(&self, known: Known<'_>, authority: Option<&Arc<Authority>>) -> Result<Option<Agents>, SetupError> {
        let given = match (&self.agent_cert, &self.agent_key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some((cert, key)),
            (Some(_), None) => return Err(setting("agent_key", "agent_cert needs its key")),
            (None, Some(_)) => return Err(setting("agent_cert", "agent_key needs its certificate")),
        };
        match (self.agent, given, authority) {
            (Agent::Off, Some(_), _) => Err(setting("agent", "`off` shows no certificate: remove agent_cert")),
            (Agent::Off, None, _) | (Agent::Offer, None, None) => Ok(None),
            (Agent::Offer, Some((cert, key)), _) => {
                Agents::given(known, certificates(cert)?, private_key(key)?).map_err(|error| unusable(key, error))
            }
            (Agent::Offer, None, Some(authority)) => {
                if let Some(name) = known.names.iter().find(|name| !authority.permits(name)) {
                    return Err(AuthorityError::NotPermitted(name.to_string()).into());
                }
                Ok(Agents::minted(known, Arc::clone(authority)))
            }
        }
    }

    /// The names by which agents ask for a target with these hosts, hosts first.
    ///
    /// # Errors
    /// One is neither a name nor an address.
    pub fn names<'a>(&'a self, hosts: impl Iterator<Item = &'a str>) -> Result<Vec<Name>, SetupError> {
        let mut names = Vec::new();
        for text in hosts.chain(self.agent_names.iter().map(String::as_str)) {
            let name = Name::parse(text)
                .ok_or_else(|| setting("agent_names", format!("`{text}` is neither a DNS name nor an IP address")))?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Refuses what libpq would quietly ignore, or read as something else.
    fn check(&self) -> Result<(), SetupError> {
        match (&self.cert, &self.key) {
            (Some(_), None) => return Err(setting("key", "cert needs its key")),
            (None, Some(_)) => return Err(setting("cert", "key needs its certificate")),
            _ => {}
        }
        let advice = match self.upstream {
            Mode::Disable if self.ca.is_some() || self.cert.is_some() || self.server_name.is_some() => {
                "`disable` uses neither ca, cert nor server_name: remove them, or use `verify-full`"
            }
            Mode::Require if self.ca.is_some() => "`require` verifies nothing: use `verify-ca`, or remove ca",
            Mode::VerifyCa if self.ca.is_none() => "`verify-ca` needs ca: any name that the system trusts would pass",
            Mode::Disable if self.unverified_password == Unverified::Bound => {
                "unverified_password = \"bound\" binds to TLS: it cannot go with `disable`"
            }
            _ => return Ok(()),
        };
        Err(setting("upstream", advice))
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<(Arc<dyn ServerCertVerifier>, String), SetupError> {
        if self.upstream == Mode::Require {
            return Ok((Arc::new(Nameless { roots: None, provider: Arc::clone(provider) }), "nothing".into()));
        }
        let (roots, from) = match &self.ca {
            Some(path) => (file_roots(path)?, path.display().to_string()),
            None => (system_roots()?, "the system's trust store".into()),
        };
        if self.upstream == Mode::VerifyCa {
            return Ok((Arc::new(Nameless { roots: Some(roots), provider: Arc::clone(provider) }), from));
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|error| setting("ca", error))?;
        Ok((verifier, from))
    }
}

/// Verifies no name: the chain alone (`verify-ca`), or not even that (`require`). Always verifies that the peer holds the
/// certificate's key, as channel binding to the certificate is worth nothing otherwise.
#[derive(Debug)]
struct Nameless {
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Nameless {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, SetupError> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| setting("server_name", format!("`{host}` is neither a DNS name nor an IP address")))
}

fn file_roots(path: &Path) -> Result<RootCertStore, SetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unusable(path, error))?;
    }
    Ok(roots)
}

/// Certificates that the system lists but rustls cannot read are passed over: they only narrow what is trusted.
fn system_roots() -> Result<RootCertStore, SetupError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (_added, _ignored) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(|| "none is installed".into(), ToString::to_string);
        return Err(SetupError::SystemRoots(why));
    }
    Ok(roots)
}

/// At least one certificate.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let facts = std::fs::metadata(path).map_err(|error| unusable(path, error))?;
    if facts.len() > secret::MAX_FILE {
        return Err(unusable(path, Unreadable::TooLarge(secret::MAX_FILE)));
    }
    if !facts.is_file() {
        return Err(unusable(path, Unreadable::NotAFile));
    }
    let pem = std::fs::read(path).map_err(|error| unusable(path, error))?;
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|error| unusable(path, error))?;
    if chain.is_empty() {
        return Err(unusable(path, "there is no certificate (PEM) in it"));
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, SetupError> {
    let pem = secret::read_file(path, secret::MAX_FILE).map_err(|error| unusable(path, error))?;
    PrivateKeyDer::from_pem_slice(pem.expose())
        .map_err(|error| unusable(path, format!("no private key in it: {error}")))
}

fn unusable(path: &Path, why: impl fmt::Display) -> SetupError {
    SetupError::File { path: path.to_owned(), why: why.to_string() }
}

fn setting(key: &'static str, advice: impl fmt::Display) -> SetupError {
    SetupError::Setting { key, advice: advice.to_string() }
}
