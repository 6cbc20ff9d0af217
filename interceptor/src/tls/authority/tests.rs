//! Tests of the host CA: what it may attest to, who can read its key, how it is rotated, and how leaves age.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{CertificateError, RootCertStore};
use tempfile::TempDir;

use super::*;
use crate::clock::ManualClock;

const NOW: Timestamp = Timestamp::from_unix(1_800_000_000);

fn names(texts: &[&str]) -> Vec<Name> {
    texts.iter().map(|text| Name::parse(text).unwrap()).collect()
}

fn store(texts: &[&str]) -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&Config { dir: dir.path().join("ca") });
    store.init("host-1", &names(texts), None, NOW).unwrap();
    (dir, store)
}

fn load(store: &Store, clock: &Arc<ManualClock>) -> Authority {
    store.load(Arc::clone(clock) as Arc<dyn Clock>).unwrap()
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(NOW))
}

/// What a client that trusts the authority says to a certificate, at a time.
fn verify(authority: &Authority, leaf: &Leaf, name: &str, at: Timestamp) -> Result<(), rustls::Error> {
    verify_by(std::slice::from_ref(authority.certificate()), leaf, name, at)
}

/// The same of one that trusts these.
fn verify_by(trusted: &[Certificate], leaf: &Leaf, name: &str, at: Timestamp) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    trusted.iter().for_each(|one| roots.add(one.der().clone()).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let (name, at) = (ServerName::try_from(name.to_owned()).unwrap(), u64::try_from(at.unix()).unwrap());
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
    verifier.verify_server_cert(&leaf.chain[0], &leaf.chain[1..], &name, &[], at).map(|_verified| ())
}

#[test]
fn names_are_read_as_certificates_have_them() {
    assert_eq!(Name::parse("Orders-DB.internal.").unwrap(), Name::Dns("orders-db.internal".into()));
    assert_eq!(Name::parse("::ffff:10.0.0.1").unwrap(), Name::Address("10.0.0.1".parse().unwrap()));
    assert!(matches!(Name::parse("fd00::1").unwrap(), Name::Address(_)));
    for odd in ["", ".", "a..b", "a b", "a/b", "*.internal", "ü.de", &"a".repeat(64), "a\0b"] {
        assert_eq!(Name::parse(odd), None, "{odd:?}");
    }
}

#[test]
fn leaves_are_accepted_for_their_name_and_no_other() {
    let (_dir, store) = store(&["db.internal", "10.0.0.1", "fd00::1"]);
    let authority = load(&store, &clock());
    for name in ["db.internal", "10.0.0.1", "fd00::1"] {
        let leaf = authority.mint(&Name::parse(name).unwrap()).unwrap();
        verify(&authority, &leaf, name, NOW).unwrap();
        assert!(verify(&authority, &leaf, "other.internal", NOW).is_err());
    }
    for name in ["other.internal", "xdb.internal", "internal", "10.0.0.2", "fd00::2"] {
        let refused = authority.mint(&Name::parse(name).unwrap()).err();
        assert!(matches!(refused, Some(AuthorityError::NotPermitted(_))), "{name}");
    }
    authority.mint(&Name::parse("replica.db.internal").unwrap()).unwrap();
}

/// A stolen key signs whatever the thief likes; it is the client that refuses.
#[test]
fn clients_refuse_what_a_stolen_key_attests_to_beyond_the_targets() {
    for (own, foreign) in [
        (vec!["db.internal"], vec!["bank.example", "xdb.internal", "10.0.0.1", "fd00::1"]),
        (vec!["10.0.0.1"], vec!["bank.example", "10.0.0.2", "fd00::1"]),
        (vec!["fd00::1"], vec!["bank.example", "10.0.0.1", "fd00::2"]),
    ] {
        let (_dir, store) = store(&own);
        let thief = load(&store, &clock());
        for name in foreign {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![name.to_owned(), own[0].to_owned()]).unwrap();
            params.use_authority_key_identifier_extension = true;
            let forged = params.signed_by(&key, &thief.issuer).unwrap();
            let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
            let chain = vec![forged.der().clone(), thief.signing.clone().unwrap()];
            let leaf = Leaf { chain, key, renew_at: NOW };
            let refused = verify(&thief, &leaf, name, NOW).unwrap_err();
            assert!(format!("{refused:?}").contains("NameConstraintViolation"), "{own:?} {name}: {refused:?}");
        }
    }
}

/// What agents trust has signed once, and its key is nowhere: whoever looks at no constraint of what he trusts looks at those of what signs.
#[test]
fn what_signs_is_constrained_by_itself_and_is_not_what_agents_trust() {
    let (dir, store) = store(&["db.internal"]);
    let key = fs::read_to_string(dir.path().join("ca/ca.key")).unwrap();
    assert_eq!((key.matches("PRIVATE KEY").count(), key.matches("BEGIN CERTIFICATE").count()), (2, 1));
    let authority = load(&store, &clock());
    let signing = Certificate::read(authority.signing.clone().unwrap()).unwrap();
    assert_ne!(signing.sha256, authority.certificate().sha256);
    assert_eq!(
        (&signing.names, signing.names.as_slice()),
        (&authority.certificate().names, &["db.internal".to_owned()][..])
    );
    let leaf = authority.mint(&Name::parse("db.internal").unwrap()).unwrap();
    assert_eq!(leaf.chain.len(), 2);
    let alone = Leaf { chain: vec![leaf.chain[0].clone()], ..leaf };
    assert!(verify(&authority, &alone, "db.internal", NOW).is_err(), "it is not signed by what agents trust");
}

/// What an earlier version has made: certificate and key, in PEM.
fn made_before(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    let permitted_subtrees = vec![rcgen::GeneralSubtree::DnsName("db.internal".into())];
    params.name_constraints = Some(rcgen::NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// Those that an earlier version has made sign by themselves until they are rotated.
#[test]
fn an_authority_that_signs_by_itself_goes_on() {
    let (dir, store) = store(&["db.internal"]);
    let (certificate, key) = made_before("before");
    fs::write(dir.path().join("ca/ca.pem"), certificate).unwrap();
    fs::write(dir.path().join("ca/ca.key"), key).unwrap();
    let mint = || load(&store, &clock()).mint(&Name::parse("db.internal").unwrap()).unwrap();
    let check = |trusted: &[Certificate], leaf: &Leaf| verify_by(trusted, leaf, "db.internal", NOW);
    let (old, leaf) = (store.certificates().unwrap(), mint());
    assert_eq!((leaf.chain.len(), old[0].signs_by_itself), (1, true));
    check(&old, &leaf).unwrap();
    store.begin("host-1", &names(&["db.internal"]), None, NOW.plus(Duration::from_secs(1))).unwrap();
    let both = store.certificates().unwrap();
    assert_eq!(both.iter().map(|one| one.signs_by_itself).collect::<Vec<_>>(), [true, false]);
    check(&both, &mint()).unwrap();
    store.switch().unwrap();
    let leaf = mint();
    assert_eq!(leaf.chain.len(), 2);
    check(&both, &leaf).unwrap();
    assert!(check(&old, &leaf).is_err(), "who trusts the former alone does not trust what the next has signed");
    store.finish().unwrap();
    let new = store.certificates().unwrap();
    assert_eq!((new.len(), new[0].signs_by_itself), (1, false));
    check(&new, &mint()).unwrap();
    check(&new, &leaf).unwrap();
}

/// A rotation that an earlier version has begun is gone through with, and followed by another.
#[test]
fn a_rotation_that_an_earlier_version_has_begun_goes_on() {
    let (dir, store) = store(&["db.internal"]);
    let ((first, key), (second, next)) = (made_before("before"), made_before("after"));
    fs::write(dir.path().join("ca/ca.pem"), first + &second).unwrap();
    fs::write(dir.path().join("ca/ca.key"), key).unwrap();
    secret_file(&dir.path().join("ca/next.key"), &next);
    let roles = || store.certificates().unwrap().iter().map(|one| one.role).collect::<Vec<_>>();
    let mint = || load(&store, &clock()).mint(&Name::parse("db.internal").unwrap()).unwrap();
    let check = |trusted: &[Certificate], leaf: &Leaf| verify_by(trusted, leaf, "db.internal", NOW);
    assert_eq!(roles(), [Role::Signing, Role::Next]);
    let both = store.certificates().unwrap();
    check(&both[..1], &mint()).unwrap();
    store.switch().unwrap();
    assert_eq!(roles(), [Role::Former, Role::Signing]);
    let leaf = mint();
    check(&both, &leaf).unwrap();
    assert!(check(&both[..1], &leaf).is_err());
    store.finish().unwrap();
    let alone = store.certificates().unwrap();
    assert!(alone.len() == 1 && alone[0].signs_by_itself);
    check(&alone, &leaf).unwrap();
    store.begin("host-1", &names(&["db.internal"]), None, NOW.plus(Duration::from_secs(1))).unwrap();
    store.switch().unwrap();
    check(&store.certificates().unwrap(), &mint()).unwrap();
    assert!(check(&alone, &mint()).is_err());
}

/// Nobody else can read it.
fn secret_file(path: &std::path::Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The names go along in each handshake.
#[test]
fn names_below_others_are_not_listed_and_the_list_has_an_end() {
    let (_dir, store) = store(&["db.internal", "a.db.internal", "b.a.db.internal", "xdb.internal", "10.0.0.1"]);
    let authority = load(&store, &clock());
    assert_eq!(authority.certificate().names, ["db.internal", "xdb.internal"]);
    let leaf = authority.mint(&Name::parse("b.a.db.internal").unwrap()).unwrap();
    verify(&authority, &leaf, "b.a.db.internal", NOW).unwrap();

    let many = |count: usize| -> Vec<Name> {
        (0..count).map(|at| Name::parse(&format!("service-{at:04}.production.internal")).unwrap()).collect()
    };
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&Config { dir: dir.path().join("ca") });
    let refused = store.init("h", &many(1000), None, NOW).unwrap_err();
    assert!(matches!(refused, AuthorityError::TooLong(length) if length > LENGTH_LIMIT), "{refused}");
    assert!(!dir.path().join("ca").exists(), "nothing is left behind");
    store.init("h", &many(500), None, NOW).unwrap();
    let later = NOW.plus(Duration::from_secs(1));
    assert!(matches!(store.begin("h", &many(1000), None, later), Err(AuthorityError::TooLong(_))));
    let domain = Name::parse("production.internal").unwrap();
    store.begin("h", &[many(1000), vec![domain]].concat(), None, later).unwrap();
}

#[test]
fn a_leaf_lives_for_two_days_and_never_longer_than_the_authority() {
    let (_dir, store) = store(&["db.internal"]);
    let clock = clock();
    let authority = load(&store, &clock);
    let name = Name::parse("db.internal").unwrap();
    let leaf = authority.mint(&name).unwrap();
    assert_eq!(leaf.renew_at, NOW.plus(LEAF_LIFE / 2));
    let expired = verify(&authority, &leaf, "db.internal", NOW.plus(LEAF_LIFE + Duration::from_secs(1))).unwrap_err();
    let over = |error: &rustls::Error| {
        matches!(error, rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { .. }))
    };
    assert!(over(&expired), "{expired:?}");

    clock.advance(AUTHORITY_LIFE - Duration::from_secs(3600));
    let last = authority.mint(&name).unwrap();
    verify(&authority, &last, "db.internal", clock.now()).unwrap();
    let after =
        verify(&authority, &last, "db.internal", NOW.plus(AUTHORITY_LIFE + Duration::from_secs(1))).unwrap_err();
    assert!(over(&after), "{after:?}");
    clock.advance(Duration::from_secs(3600));
    assert!(matches!(authority.mint(&name).err(), Some(AuthorityError::Expired(_))));
}

#[test]
fn the_key_is_its_owners_and_is_not_overwritten() {
    let (dir, store) = store(&["db.internal"]);
    let key = dir.path().join("ca/ca.key");
    assert_eq!(fs::metadata(&key).unwrap().mode() & 0o7777, 0o600);
    let before = fs::read(&key).unwrap();
    let again = store.init("host-1", &names(&["db.internal"]), None, NOW).unwrap_err();
    assert!(matches!(again, AuthorityError::Exists(_)), "{again}");
    assert_eq!(fs::read(&key).unwrap(), before);
    // Either of the two alone is enough to refuse.
    fs::remove_file(dir.path().join("ca/ca.pem")).unwrap();
    assert!(store.init("host-1", &names(&["db.internal"]), None, NOW).is_err());
    fs::set_permissions(&key, fs::Permissions::from_mode(0o604)).unwrap();
    let open = store.load(clock()).unwrap_err().to_string();
    assert!(open.contains("opens it to everybody"), "{open}");
}

#[test]
fn a_link_in_the_way_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&Config { dir: dir.path().to_owned() });
    let victim = dir.path().join("victim");
    fs::write(&victim, "before").unwrap();
    std::os::unix::fs::symlink(&victim, dir.path().join("ca.new")).unwrap();
    store.init("host-1", &names(&["db.internal"]), None, NOW).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "before");
    std::os::unix::fs::symlink(&victim, dir.path().join("next.new")).unwrap();
    store.begin("host-1", &names(&["db.internal"]), None, NOW).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "before");
    assert_eq!(fs::metadata(dir.path().join("next.key")).unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn it_is_made_for_its_owner() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&Config { dir: dir.path().join("ca") });
    let mut owner = nix::unistd::User::from_uid(0.into()).unwrap().unwrap();
    (owner.uid, owner.gid) = (54_321.into(), 54_322.into());
    store.init("host-1", &names(&["db.internal"]), Some(&owner), NOW).unwrap();
    let facts = |name: &str| fs::metadata(dir.path().join("ca").join(name)).unwrap();
    assert_eq!((facts("ca.key").uid(), facts("ca.key").mode() & 0o7777), (54_321, 0o600));
    assert_eq!(
        (facts("ca.pem").uid(), facts("ca.pem").mode() & 0o7777),
        (0, 0o644),
        "agents' trust is root's to change"
    );
}

#[test]
fn a_rotation_overlaps() {
    let (dir, store) = store(&["db.internal"]);
    let roles = || store.certificates().unwrap().iter().map(|one| one.role).collect::<Vec<_>>();
    let signing = || load(&store, &clock()).certificate().sha256.clone();
    let first = signing();
    assert_eq!(roles(), [Role::Signing]);
    assert!(matches!(store.switch(), Err(AuthorityError::Rotation(_))));

    let later = NOW.plus(Duration::from_secs(1));
    store.begin("host-1", &names(&["db.internal", "new.internal"]), None, later).unwrap();
    assert_eq!((roles(), signing() == first), (vec![Role::Signing, Role::Next], true));
    assert!(matches!(store.begin("host-1", &names(&["x"]), None, later), Err(AuthorityError::Rotation(_))));
    assert!(matches!(store.finish(), Err(AuthorityError::Rotation(_))));

    store.switch().unwrap();
    assert_eq!((roles(), signing() == first), (vec![Role::Former, Role::Signing], false));
    // Who trusts both accepts what either has signed.
    let authority = load(&store, &clock());
    assert!(authority.permits(&Name::parse("new.internal").unwrap()));
    store.finish().unwrap();
    assert_eq!(roles(), [Role::Signing]);
    assert!(!dir.path().join("ca/next.key").exists());
}

#[test]
fn a_rotation_that_broke_off_can_be_begun_again() {
    let (dir, store) = store(&["db.internal"]);
    let before = fs::read(dir.path().join("ca/ca.pem")).unwrap();
    store.begin("host-1", &names(&["db.internal"]), None, NOW.plus(Duration::from_secs(1))).unwrap();
    // The key was written, the certificate was not.
    fs::write(dir.path().join("ca/ca.pem"), &before).unwrap();
    assert!(matches!(store.switch(), Err(AuthorityError::Rotation(_))));
    store.begin("host-1", &names(&["db.internal"]), None, NOW.plus(Duration::from_secs(2))).unwrap();
    store.switch().unwrap();
    load(&store, &clock());
}

#[test]
fn files_that_are_no_authority_are_refused() {
    let (dir, store) = store(&["db.internal"]);
    let (_other, another) = self::store(&["db.internal"]);
    let at = |name: &str| dir.path().join("ca").join(name);
    fs::copy(another.certificates_path().with_file_name("ca.key"), at("ca.key")).unwrap();
    assert!(matches!(store.load(clock()), Err(AuthorityError::Stray(_))), "a key of another");
    fs::write(at("ca.key"), "no key").unwrap();
    assert!(store.load(clock()).is_err());
    let none = Store::new(&Config { dir: "/nonexistent".into() }).load(clock()).unwrap_err().to_string();
    assert!(none.contains("`interceptor ca init` makes one"), "{none}");
    fs::write(at("ca.pem"), "no certificate").unwrap();
    assert!(store.certificates().is_err());
    let many = fs::read_to_string(another.certificates_path()).unwrap().repeat(17);
    fs::write(at("ca.pem"), many).unwrap();
    assert!(store.certificates().unwrap_err().to_string().contains("17"));
    let leaf = crate::testing::certificates::Authority::new("x").unwrap();
    let leaf = leaf.issue("x", &["x"], crate::testing::certificates::Validity::Now).unwrap();
    fs::write(at("ca.pem"), leaf.cert).unwrap();
    assert!(store.certificates().unwrap_err().to_string().contains("no certificate authority"));
}

#[test]
fn the_bundle_holds_the_systems_and_ours_and_follows_both() {
    let (_dir, store) = store(&["db.internal"]);
    assert!(store.refresh_bundle().unwrap());
    assert!(!store.refresh_bundle().unwrap(), "it is as it should be");
    let text = fs::read_to_string(store.bundle_path()).unwrap();
    let own = store.certificates().unwrap()[0].pem();
    assert!(text.ends_with(&own));
    assert!(text.contains(system_bundle().unwrap_or_default().as_str()));
    store.begin("host-1", &names(&["db.internal"]), None, NOW.plus(Duration::from_secs(1))).unwrap();
    assert!(store.refresh_bundle().unwrap());
    assert_eq!(bundle(Some("system"), &[]).lines().last(), Some("system"));
}

#[test]
fn without_a_target_there_is_nothing_to_attest_to() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&Config { dir: dir.path().join("ca") });
    assert!(matches!(store.init("h", &[], None, NOW), Err(AuthorityError::NoNames)));
    assert!(!dir.path().join("ca").exists(), "nothing is left behind");
}
