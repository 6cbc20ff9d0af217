//! How the host CA reaches agents: the variables that programs look at, and the bundles that they point to.
//!
//! A variable that names *the* certificate authorities is pointed to a bundle of the system's and ours, so that nothing
//! that was trusted stops being trusted. `PGSSLROOTCERT` is left alone: it would have `sslmode=require` verify (libpq,
//! section 34.19.1), also at targets whose certificate the operator chose.

use std::fs;
use std::path::{Path, PathBuf};

use super::Certificate;

/// What a variable is pointed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The system's certificate authorities and ours.
    Bundle,
    /// Ours alone, in addition to what the program has.
    Extra,
}

/// The variables, and what each is pointed to.
pub const ENVIRONMENT: &[(&str, Trust)] = &[
    // OpenSSL, Go, rustls-native-certs, Python's ssl and with it aiohttp and httpx.
    ("SSL_CERT_FILE", Trust::Bundle),
    ("REQUESTS_CA_BUNDLE", Trust::Bundle),
    ("CURL_CA_BUNDLE", Trust::Bundle),
    ("GIT_SSL_CAINFO", Trust::Bundle),
    ("AWS_CA_BUNDLE", Trust::Bundle),
    ("PIP_CERT", Trust::Bundle),
    ("CARGO_HTTP_CAINFO", Trust::Bundle),
    ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", Trust::Bundle),
    ("DENO_CERT", Trust::Extra),
    ("NODE_EXTRA_CA_CERTS", Trust::Extra),
];

/// Where distributions keep the system's certificate authorities in one file.
const SYSTEM: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// The most that is read of it, in bytes.
const SYSTEM_LIMIT: u64 = 16 << 20;

/// The system's certificate authorities, in PEM, where it has them in one file. Blocks.
#[must_use]
pub fn system_bundle() -> Option<String> {
    let fits = |path: &&Path| fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= SYSTEM_LIMIT);
    let path: PathBuf = SYSTEM.iter().map(Path::new).find(fits)?.to_owned();
    fs::read_to_string(path).ok()
}

/// The system's certificate authorities and ours, in PEM.
#[must_use]
pub fn bundle(system: Option<&str>, ours: &[Certificate]) -> String {
    let mut text =
        String::from("# Written by interceptor: the system's certificate authorities, and this host's own.\n");
    if let Some(system) = system {
        text.push_str(system);
        if !system.ends_with('\n') {
            text.push('\n');
        }
    }
    for one in ours {
        text.push_str(&one.pem());
    }
    text
}
