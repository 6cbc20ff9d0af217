//! A throw-away certificate authority for tests.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SignatureAlgorithm,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
}

/// How long a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// From 1975 to 4096.
    Now,
    /// It ended in 1976.
    Past,
}

impl Authority {
    /// An authority that signs with ECDSA P-256 and SHA-256.
    ///
    /// # Errors
    /// Key generation failed.
    pub fn new(name: &str) -> Result<Self, rcgen::Error> {
        Self::signing_with(name, &PKCS_ECDSA_P256_SHA256)
    }

    /// An authority with another signature algorithm.
    ///
    /// # Errors
    /// Key generation failed.
    pub fn signing_with(name: &str, algorithm: &'static SignatureAlgorithm) -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate_for(algorithm)?)?))
    }

    /// Its own certificate, in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Its own certificate and key: what a server with a self-signed certificate shows.
    #[must_use]
    pub fn as_leaf(&self) -> Issued {
        Issued { cert: self.0.pem(), key: self.0.key().serialize_pem() }
    }

    /// A certificate for a server at `names` (DNS names and addresses), or a client called `common_name`.
    ///
    /// # Errors
    /// Key generation failed, or a name is not one.
    pub fn issue(&self, common_name: &str, names: &[&str], validity: Validity) -> Result<Issued, rcgen::Error> {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if validity == Validity::Past {
            params.not_after = rcgen::date_time_ymd(1976, 1, 1);
        }
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.0)?;
        Ok(Issued { cert: cert.pem(), key: key.serialize_pem() })
    }
}

impl Issued {
    /// A server that shows it to whoever comes, with these ALPN ids.
    ///
    /// # Errors
    /// The certificate or the key cannot be used.
    pub fn server(&self, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, Box<dyn Error + Send + Sync>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = CertificateDer::pem_slice_iter(self.cert.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key)?;
        config.alpn_protocols = alpn.iter().map(|id| id.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// Writes `NAME.crt` and `NAME.key` (mode 0600).
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, dir: &Path, name: &str) -> io::Result<(PathBuf, PathBuf)> {
        use std::os::unix::fs::PermissionsExt;
        let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        fs::write(&cert, &self.cert)?;
        fs::write(&key, &self.key)?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        Ok((cert, key))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(..)")
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Issued(..)")
    }
}
