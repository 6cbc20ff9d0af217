//! The directory of the host CA: made once, rotated in steps, never overwritten. `ca.pem` is what agents trust; `ca.key` has the key that
//! signs, with the certificate by which that is attested to.
//!
//! A rotation overlaps. *Begin* puts the certificate of the next authority into `ca.pem` beside the one that signs, and its
//! key into `next.key`; once agents trust both, *switch* has it sign; *finish* takes the former one out. Files are replaced
//! by rename: a crash leaves the one or the other, and each step can be repeated.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::User;
use rcgen::{Issuer, KeyPair, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use sha2::Digest as _;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::make::{Made, make};
use super::{Authority, AuthorityError, Config, Name, crypto};
use crate::clock::{Clock, Timestamp};
use crate::secret;

/// Certificates that `ca.pem` may hold: the one that signs, the next, and former ones.
const CERTIFICATES_LIMIT: usize = 16;

/// The directory.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

/// What a certificate in `ca.pem` is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It signs.
    Signing,
    /// It will sign after the switch.
    Next,
    /// It has signed; agents may still trust it alone.
    Former,
}

/// A certificate authority's certificate.
#[derive(Clone, Debug, Serialize)]
pub struct Certificate {
    /// What it is for.
    pub role: Role,
    /// Its subject.
    pub subject: String,
    /// SHA-256 of it, hexadecimal.
    pub sha256: String,
    /// When it begins to be valid.
    pub not_before: Timestamp,
    /// When it ends to be valid.
    pub not_after: Timestamp,
    /// DNS names that it may attest to, with what lies below them.
    pub names: Vec<String>,
    /// Addresses that it may attest to, with their masks.
    pub addresses: Vec<String>,
    /// Whether it signs leaves itself, or will: then Java looks at none of its constraints.
    pub signs_by_itself: bool,
    #[serde(skip)]
    permitted: Permitted,
    #[serde(skip)]
    der: CertificateDer<'static>,
    #[serde(skip)]
    public_key: Vec<u8>,
    /// By which what it has signed names it.
    #[serde(skip)]
    id: Option<Vec<u8>>,
}

/// The key that signs, and its certificate where that is none that agents trust by itself.
struct Signer {
    key: KeyPair,
    certificate: Option<CertificateDer<'static>>,
}

impl Signer {
    /// Whether agents that trust this certificate trust what it signs.
    fn is_trusted_by(&self, trusted: &Certificate) -> bool {
        let Some(own) = &self.certificate else { return self.key.der_bytes() == trusted.public_key };
        let Ok((_, own)) = X509Certificate::from_der(own) else { return false };
        let signed_by = own.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(named) => named.key_identifier.as_ref().map(|id| id.0.to_vec()),
            _ => None,
        });
        let is_own = *own.public_key().subject_public_key.data == *self.key.der_bytes();
        is_own && signed_by.is_some() && signed_by == trusted.id
    }
}

#[derive(Clone, Debug, Default)]
struct Permitted {
    names: Vec<String>,
    /// Address and mask, of 4 or 16 bytes each.
    addresses: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Certificate {
    /// Whether it permits its key to attest to a name. One without constraints permits nothing: it is not ours.
    #[must_use]
    pub fn permits(&self, name: &Name) -> bool {
        match name {
            Name::Dns(name) => self.permitted.names.iter().any(|base| {
                let rest = name.strip_suffix(base.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }),
            Name::Address(address) => {
                let octets = match address {
                    std::net::IpAddr::V4(address) => address.octets().to_vec(),
                    std::net::IpAddr::V6(address) => address.octets().to_vec(),
                };
                self.permitted.addresses.iter().any(|(base, mask)| {
                    base.len() == octets.len()
                        && base.iter().zip(mask).zip(&octets).all(|((base, mask), octet)| base & mask == octet & mask)
                })
            }
        }
    }

    /// In PEM, with a line that says what it is.
    #[must_use]
    pub fn pem(&self) -> String {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(&self.der);
        let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
        format!("# {}\n-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", self.subject, lines.join("\n"))
    }

    /// In DER.
    #[must_use]
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    pub(super) fn read(der: CertificateDer<'static>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        if !parsed.is_ca() {
            return Err("a certificate in it is no certificate authority's".to_owned());
        }
        let mut permitted = Permitted::default();
        let constraints = parsed.name_constraints().map_err(|error| error.to_string())?;
        for subtree in constraints.into_iter().filter_map(|found| found.value.permitted_subtrees.as_ref()).flatten() {
            match &subtree.base {
                GeneralName::DNSName(name) => permitted.names.push(name.to_ascii_lowercase()),
                GeneralName::IPAddress(bytes) => {
                    let (base, mask) = bytes.split_at_checked(bytes.len() / 2).unwrap_or_default();
                    permitted.addresses.push((base.to_vec(), mask.to_vec()));
                }
                _ => {}
            }
        }
        let digest = sha2::Sha256::digest(&der);
        Ok(Self {
            role: Role::Former,
            subject: parsed.subject().to_string(),
            sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            not_before: Timestamp::from_unix(parsed.validity().not_before.timestamp()),
            not_after: Timestamp::from_unix(parsed.validity().not_after.timestamp()),
            names: permitted.names.clone(),
            addresses: permitted.addresses.iter().map(|(base, mask)| network(base, mask)).collect(),
            signs_by_itself: false,
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
            id: parsed.iter_extensions().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            }),
            permitted,
            der: der.clone(),
        })
    }
}

impl Store {
    /// The directory that the configuration names.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self { dir: config.dir.clone() }
    }

    /// The certificates that agents are to trust.
    #[must_use]
    pub fn certificates_path(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The system's certificate authorities and ours, for programs that take one file.
    #[must_use]
    pub fn bundle_path(&self) -> PathBuf {
        self.dir.join("bundle.pem")
    }

    fn key_path(&self) -> PathBuf {
        self.dir.join("ca.key")
    }

    fn next_path(&self) -> PathBuf {
        self.dir.join("next.key")
    }

    /// The authority that signs. Blocks.
    ///
    /// # Errors
    /// A file cannot be used, or the key belongs to no certificate.
    pub fn load(&self, clock: Arc<dyn Clock>) -> Result<Authority, AuthorityError> {
        let Signer { key, certificate: signing } = self.signer(&self.key_path())?;
        let certificate = self.certificates()?.into_iter().find(|found| found.role == Role::Signing);
        let certificate = certificate.ok_or_else(|| AuthorityError::Stray(self.key_path()))?;
        let issuer = signing.as_ref().unwrap_or(&certificate.der);
        let issuer = Issuer::from_ca_cert_der(issuer, key).map_err(crypto)?;
        Ok(Authority { issuer, certificate, signing, clock })
    }

    /// Every certificate that agents are to trust, with what it is for as far as the keys can be read. Blocks.
    ///
    /// # Errors
    /// `ca.pem` cannot be read.
    pub fn certificates(&self) -> Result<Vec<Certificate>, AuthorityError> {
        let path = self.certificates_path();
        if !path.exists() {
            return Err(AuthorityError::Missing(path));
        }
        let wrong = |why: String| AuthorityError::File { path: path.clone(), why };
        if fs::metadata(&path).map_err(|error| wrong(error.to_string()))?.len() > secret::MAX_FILE {
            return Err(wrong(format!("it holds more than {} bytes", secret::MAX_FILE)));
        }
        let pem = fs::read(&path).map_err(|error| wrong(error.to_string()))?;
        let keys = [(self.key_path(), Role::Signing), (self.next_path(), Role::Next)];
        let signers: Vec<(Signer, Role)> =
            keys.into_iter().filter_map(|(path, role)| Some((self.signer(&path).ok()?, role))).collect();
        let mut found = Vec::new();
        for der in CertificateDer::pem_slice_iter(&pem) {
            let mut one = Certificate::read(der.map_err(|error| wrong(error.to_string()))?).map_err(wrong)?;
            if let Some((signer, role)) = signers.iter().find(|(signer, _)| signer.is_trusted_by(&one)) {
                (one.role, one.signs_by_itself) = (*role, signer.certificate.is_none());
            }
            found.push(one);
        }
        if found.is_empty() || found.len() > CERTIFICATES_LIMIT {
            return Err(wrong(format!("it holds {} certificates, of 1 to {CERTIFICATES_LIMIT}", found.len())));
        }
        Ok(found)
    }

    /// Makes an authority for these names, whose key `owner` alone can read. Refuses where there is one. Blocks.
    ///
    /// # Errors
    /// It exists, or a file cannot be written.
    pub fn init(&self, host: &str, names: &[Name], owner: Option<&User>, now: Timestamp) -> Result<(), AuthorityError> {
        for path in [self.key_path(), self.certificates_path()] {
            if fs::symlink_metadata(&path).is_ok() {
                return Err(AuthorityError::Exists(path));
            }
        }
        let made = make(host, names, now)?;
        let at = |error: io::Error| AuthorityError::File { path: self.dir.clone(), why: error.to_string() };
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.dir).map_err(at)?;
        // The key last: without it, what is there is no authority yet, and the certificate says so.
        self.write(&self.certificates_path(), made.certificate.as_bytes(), 0o644, None)?;
        self.write(&self.key_path(), made.key.expose(), 0o600, owner)
    }

    /// Puts another authority beside the one that signs, for agents to trust before it signs. Blocks.
    ///
    /// # Errors
    /// There is none to be followed, another rotation is under way, or a file cannot be written.
    pub fn begin(
        &self,
        host: &str,
        names: &[Name],
        owner: Option<&User>,
        now: Timestamp,
    ) -> Result<(), AuthorityError> {
        let known = self.certificates()?;
        if known.iter().any(|one| one.role == Role::Next) {
            return Err(AuthorityError::Rotation(
                "a rotation has begun already: once agents trust both, `interceptor ca rotate --switch`",
            ));
        }
        if known.len() >= CERTIFICATES_LIMIT {
            return Err(AuthorityError::Rotation("ca.pem is full of former ones: `interceptor ca rotate --finish`"));
        }
        let Made { certificate, key } = make(host, names, now)?;
        self.write(&self.next_path(), key.expose(), 0o600, owner)?;
        let text: String = known.iter().map(Certificate::pem).collect();
        self.write(&self.certificates_path(), (text + &certificate).as_bytes(), 0o644, None)
    }

    /// Has the next authority sign, from the next reload on. Blocks.
    ///
    /// # Errors
    /// No rotation has begun, or a file cannot be written.
    pub fn switch(&self) -> Result<(), AuthorityError> {
        if !self.certificates()?.iter().any(|one| one.role == Role::Next) {
            return Err(AuthorityError::Rotation("no rotation has begun: `interceptor ca rotate`"));
        }
        let path = self.key_path();
        fs::rename(self.next_path(), &path).map_err(|error| AuthorityError::File { path, why: error.to_string() })
    }

    /// Has agents trust only the authority that signs. Blocks.
    ///
    /// # Errors
    /// The switch is still to come, or a file cannot be written.
    pub fn finish(&self) -> Result<(), AuthorityError> {
        let known = self.certificates()?;
        if known.iter().any(|one| one.role == Role::Next) {
            return Err(AuthorityError::Rotation("first the next one has to sign: `interceptor ca rotate --switch`"));
        }
        let kept: String = known.iter().filter(|one| one.role == Role::Signing).map(Certificate::pem).collect();
        if kept.is_empty() {
            return Err(AuthorityError::Stray(self.key_path()));
        }
        self.write(&self.certificates_path(), kept.as_bytes(), 0o644, None)
    }

    /// Writes the bundle anew, where it is not as it should be. Gives whether it was written. Blocks.
    ///
    /// # Errors
    /// `ca.pem` cannot be read, or the bundle not written.
    pub fn refresh_bundle(&self) -> Result<bool, AuthorityError> {
        let text = super::bundle(super::system_bundle().as_deref(), &self.certificates()?);
        let path = self.bundle_path();
        if fs::read(&path).is_ok_and(|found| found == text.as_bytes()) {
            return Ok(false);
        }
        self.write(&path, text.as_bytes(), 0o644, None)?;
        Ok(true)
    }

    fn signer(&self, path: &Path) -> Result<Signer, AuthorityError> {
        if !path.exists() {
            return Err(AuthorityError::Missing(path.to_owned()));
        }
        let wrong = |why: String| AuthorityError::File { path: path.to_owned(), why };
        let pem = secret::read_file(path, secret::MAX_FILE).map_err(|error| wrong(error.to_string()))?;
        let text = pem.expose_str().ok_or_else(|| wrong("there is no key (PEM) in it".to_owned()))?;
        // What the error says may hold parts of the key.
        let key = KeyPair::from_pem(text).map_err(|_| wrong("there is no key (PEM) in it".to_owned()))?;
        let certificate = CertificateDer::pem_slice_iter(pem.expose()).next().transpose();
        Ok(Signer { key, certificate: certificate.map_err(|error| wrong(error.to_string()))? })
    }

    /// Writes a file as a whole: nobody sees half of it, and the key is never open to others for a moment.
    fn write(&self, path: &Path, bytes: &[u8], mode: u32, owner: Option<&User>) -> Result<(), AuthorityError> {
        let write = || -> io::Result<()> {
            let next = path.with_extension("new");
            // What a crash has left behind; a link there is not followed.
            match fs::remove_file(&next) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
            file.write_all(bytes)?;
            if let Some(owner) = owner {
                fchown(&file, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
            }
            // Whatever the umask.
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.sync_all()?;
            fs::rename(next, path)
        };
        write().map_err(|error| AuthorityError::File { path: path.to_owned(), why: error.to_string() })
    }
}

fn network(base: &[u8], mask: &[u8]) -> String {
    let address = <[u8; 4]>::try_from(base)
        .map(|octets| std::net::IpAddr::from(octets).to_string())
        .or_else(|_| <[u8; 16]>::try_from(base).map(|octets| std::net::IpAddr::from(octets).to_string()));
    let bits: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    format!("{}/{bits}", address.unwrap_or_else(|_| "?".to_owned()))
}
