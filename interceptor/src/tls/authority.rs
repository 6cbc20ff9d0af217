//! The host's own certificate authority: certificates that agents are shown for targets.
//!
//! It lives in one directory: `ca.pem`, the certificates that agents are to trust, and `ca.key`, the key of the one among
//! them that signs, which the daemon's user alone can read. `files` makes and rotates them, `make` says what stands in
//! them, `trust` is how they reach agents. A certificate authority of ours is constrained to the names and addresses of
//! the targets (RFC 5280, section 4.2.1.10): whoever steals its key can pretend to be those, and nobody else.
//!
//! Leaves are minted on demand, for names that a target has, and live for [`LEAF_LIFE`]. Not promised: revocation. A key
//! that leaked is answered by a rotation, and by taking the old certificate out of the stores.

mod files;
mod make;
#[cfg(test)]
mod tests;
mod trust;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Deserialize;

use crate::clock::{Clock, Timestamp};

pub use files::{Certificate, Role, Store};
pub use trust::{ENVIRONMENT, Trust, bundle, system_bundle};

/// `[ca]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory of the certificates and the key, which agents can read but for the key.
    pub dir: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self { dir: PathBuf::from("/etc/interceptor/ca") }
    }
}

/// How long a leaf is valid. It is minted anew when half of that is over.
pub const LEAF_LIFE: Duration = Duration::from_hours(48);
/// How long a certificate authority is valid.
pub const AUTHORITY_LIFE: Duration = Duration::from_hours(2 * 365 * 24);
/// When the end of a certificate authority is near enough to be spoken of.
pub const RENEW_BEFORE: Duration = Duration::from_hours(60 * 24);
/// The longest certificate of an authority, in bytes of DER: it goes along in each handshake, of which Java takes 32 KiB in all.
pub const LENGTH_LIMIT: usize = 24 * 1024;
/// How far validity begins in the past, for clocks that differ.
const BACKDATED: Duration = Duration::from_hours(1);

/// A host's name or address, as targets have them and certificates attest to them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// A DNS name, in lower case, without a dot at its end.
    Dns(String),
    /// An address.
    Address(IpAddr),
}

impl Name {
    /// Reads a host; `None` where it is neither a name nor an address.
    #[must_use]
    pub fn parse(host: &str) -> Option<Self> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Some(Self::Address(address.to_canonical()));
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        (host.len() <= 253 && host.split('.').all(label)).then(|| Self::Dns(host.to_ascii_lowercase()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Why the host's certificate authority cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file is missing, or cannot be read or written.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// There is none.
    #[error("{}: there is no host CA yet: `interceptor ca init` makes one", .0.display())]
    Missing(PathBuf),
    /// It exists already, and is not overwritten.
    #[error("{} exists: agents trust it. `interceptor ca rotate` makes another beside it", .0.display())]
    Exists(PathBuf),
    /// No certificate in `ca.pem` is of this key.
    #[error("{}: it is the key of no certificate in ca.pem", .0.display())]
    Stray(PathBuf),
    /// A rotation stands elsewhere.
    #[error("{0}")]
    Rotation(&'static str),
    /// A certificate or a key could not be made.
    #[error("no certificate can be made: {0}")]
    Crypto(String),
    /// It has no names that it could be constrained to.
    #[error("the configuration has no target: a certificate authority is constrained to the names of targets")]
    NoNames,
    /// It may not attest to a name.
    #[error("the host CA is not for `{0}`: its targets were others when it was made; `interceptor ca rotate`")]
    NotPermitted(String),
    /// It would have so many bytes.
    #[error(
        "the host CA would have {0} bytes, for the names of all targets, and more than {limit} are more than some clients (Java) take in a \
         handshake: give targets certificates of their own (`tls.agent_cert`), or name a domain above theirs in `tls.agent_names`",
        limit = LENGTH_LIMIT
    )]
    TooLong(usize),
    /// Its time is over.
    #[error("the host CA has expired at {0}: `interceptor ca rotate`")]
    Expired(Timestamp),
}

/// The certificate authority that signs, with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
    /// What stands between that and leaves; nothing where an earlier version has made it.
    signing: Option<CertificateDer<'static>>,
    clock: Arc<dyn Clock>,
}

/// A certificate for one name, with its key.
pub(super) struct Leaf {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) renew_at: Timestamp,
}

impl Authority {
    /// Its certificate.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Whether its certificate permits it to attest to a name.
    #[must_use]
    pub fn permits(&self, name: &Name) -> bool {
        self.certificate.permits(name)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A new certificate for a name, which ends no later than the authority's own.
    pub(super) fn mint(&self, name: &Name) -> Result<Leaf, AuthorityError> {
        let (now, end) = (self.clock.now(), self.certificate.not_after);
        if now >= end {
            return Err(AuthorityError::Expired(end));
        }
        if !self.permits(name) {
            return Err(AuthorityError::NotPermitted(name.to_string()));
        }
        let key = KeyPair::generate().map_err(crypto)?;
        let not_after = now.plus(LEAF_LIFE).min(end);
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![match name {
            Name::Dns(name) => SanType::DnsName(name.clone().try_into().map_err(crypto)?),
            Name::Address(address) => SanType::IpAddress(*address),
        }];
        params.distinguished_name = rcgen::DistinguishedName::new();
        // Names longer than 64 bytes are no common names (RFC 5280, appendix A); nobody reads it any more.
        params.distinguished_name.push(DnType::CommonName, "interceptor");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = make::date(Timestamp(now.0.saturating_sub(micros(BACKDATED))));
        params.not_after = make::date(not_after);
        let certificate = params.signed_by(&key, &self.issuer).map_err(crypto)?;
        Ok(Leaf {
            chain: std::iter::once(certificate.der().clone()).chain(self.signing.clone()).collect(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            renew_at: now.plus(not_after.since(now) / 2),
        })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

fn crypto(error: impl fmt::Display) -> AuthorityError {
    AuthorityError::Crypto(error.to_string())
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
