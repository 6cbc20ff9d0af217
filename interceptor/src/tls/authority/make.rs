//! What stands in the certificates of a host CA: pure, but for the randomness of the keys.
//!
//! Agents trust one certificate, and another signs that the first has attested to once: its key is nowhere after that. Both are
//! constrained. Some clients (Java's) look at the constraints of all certificates but the one that they trust; whoever steals the key that is
//! there is held by them all the same.

use std::collections::HashSet;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, date_time_ymd,
};

use super::{AUTHORITY_LIFE, AuthorityError, BACKDATED, LENGTH_LIMIT, Name, crypto, micros};
use crate::clock::Timestamp;
use crate::secret::Secret;

/// A new certificate authority, in PEM.
pub(super) struct Made {
    /// Of the one that agents trust.
    pub(super) certificate: String,
    /// Of the one that signs, with its certificate behind it.
    pub(super) key: Secret,
}

/// A DNS name that exists nowhere (RFC 6761), for an authority whose targets have addresses only: an empty list would permit
/// every name.
const NOWHERE: &str = "invalid";

/// Makes a certificate authority that can attest to these names, and names below them, alone.
pub(super) fn make(host: &str, names: &[Name], now: Timestamp) -> Result<Made, AuthorityError> {
    if names.is_empty() {
        return Err(AuthorityError::NoNames);
    }
    // Two of one host must differ in their names: clients look an issuer up by name. The most that a common name holds is 64.
    let host: String = host.trim().chars().filter(char::is_ascii_graphic).take(24).collect();
    let named = |what: &str| format!("interceptor {what} of {host} {}", now.unix());
    let (trusted_key, key) = (KeyPair::generate().map_err(crypto)?, KeyPair::generate().map_err(crypto)?);
    let trusted = params(&named("CA"), 1, names, now);
    let certificate = trusted.self_signed(&trusted_key).map_err(crypto)?;
    let signing = params(&named("signing CA"), 0, names, now);
    let signing = signing.signed_by(&key, &Issuer::from_params(&trusted, trusted_key)).map_err(crypto)?;
    let length = signing.der().len().max(certificate.der().len());
    if length > LENGTH_LIMIT {
        return Err(AuthorityError::TooLong(length));
    }
    let key = Secret::new([key.serialize_pem(), signing.pem()].concat().into_bytes());
    Ok(Made { certificate: certificate.pem(), key })
}

/// Of an authority below which so many may stand.
fn params(name: &str, below: u8, names: &[Name], now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "interceptor");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = below == 0;
    params.name_constraints = Some(constraints(names));
    params.not_before = date(Timestamp(now.0.saturating_sub(micros(BACKDATED))));
    params.not_after = date(now.plus(AUTHORITY_LIFE));
    params
}

fn constraints(names: &[Name]) -> NameConstraints {
    let listed: HashSet<&str> = names
        .iter()
        .filter_map(|name| match name {
            Name::Dns(name) => Some(name.as_str()),
            Name::Address(_) => None,
        })
        .collect();
    let mut permitted = Vec::new();
    // What is permitted by another is, without being listed.
    let is_below = |name: &Name| match name {
        Name::Dns(name) => above(name).any(|domain| listed.contains(domain)),
        Name::Address(_) => false,
    };
    for name in names.iter().filter(|&name| !is_below(name)) {
        permitted.push(match name {
            Name::Dns(name) => GeneralSubtree::DnsName(name.clone()),
            Name::Address(address) => {
                let bits = if address.is_ipv4() { 32 } else { 128 };
                GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(*address, bits))
            }
        });
    }
    // A kind of name of which nothing is listed is not constrained at all.
    let mut excluded = Vec::new();
    if !names.iter().any(|name| matches!(name, Name::Dns(_))) {
        permitted.push(GeneralSubtree::DnsName(NOWHERE.to_owned()));
    }
    if !names.iter().any(|name| matches!(name, Name::Address(_))) {
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])));
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])));
    }
    permitted.push(GeneralSubtree::Rfc822Name(NOWHERE.to_owned()));
    NameConstraints { permitted_subtrees: permitted, excluded_subtrees: excluded }
}

/// The domains that a name is below.
fn above(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(name.split_once('.'), |(_, rest)| rest.split_once('.')).map(|(_, rest)| rest)
}

/// A stamp as certificates have it: whole seconds, not before 1970.
pub(super) fn date(at: Timestamp) -> DateTime {
    date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(at.unix()).unwrap_or(0))
}

type DateTime = time::OffsetDateTime;
