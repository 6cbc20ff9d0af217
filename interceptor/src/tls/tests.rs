//! Tests of TLS set-up and of both handshakes, over loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::testing::certificates::{Authority, Issued, Validity};

struct Pki {
    dir: TempDir,
    authority: Authority,
    ca: PathBuf,
}

impl Pki {
    fn new() -> Self {
        Self::named("test CA")
    }

    fn named(name: &str) -> Self {
        let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new(name).unwrap());
        let ca = dir.path().join("ca.pem");
        fs::write(&ca, authority.pem()).unwrap();
        Self { dir, authority, ca }
    }

    fn server(&self, names: &[&str]) -> Arc<rustls::ServerConfig> {
        self.serve(&self.authority.issue("server", names, Validity::Now).unwrap())
    }

    fn serve(&self, issued: &Issued) -> Arc<rustls::ServerConfig> {
        issued.server(&[b"postgresql"]).unwrap()
    }

    fn config(&self, upstream: Mode) -> Config {
        Config { upstream, ca: Some(self.ca.clone()), ..Config::default() }
    }
}

fn names(config: &Config) -> Vec<authority::Name> {
    config.names(["a.test"].into_iter()).unwrap()
}

fn known(names: &[authority::Name]) -> Known<'_> {
    Known { target: "t", names, alpn: &[b"postgresql"] }
}

/// The host CA is used where the operator gave no certificate, and has to be for every name of the target.
#[test]
fn the_host_ca_is_for_targets_without_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let store = authority::Store::new(&authority::Config { dir: dir.path().join("ca") });
    let clock = crate::clock::SystemClock::new();
    store.init("h", &names(&Config::default()), None, crate::clock::Clock::now(&clock)).unwrap();
    let host = Arc::new(store.load(Arc::new(clock)).unwrap());
    let agents = |config: &Config| config.agents(known(&names(config)), Some(&host)).map(|found| format!("{found:?}"));
    assert!(agents(&Config::default()).unwrap().contains("minted: true"));
    assert_eq!(agents(&Config { agent: Agent::Off, ..Config::default() }).unwrap(), "None");
    let (cert, key) =
        Pki::new().authority.issue("a", &["a.test"], Validity::Now).unwrap().write(dir.path(), "a").unwrap();
    let given = Config { agent_cert: Some(cert), agent_key: Some(key), ..Config::default() };
    assert!(agents(&given).unwrap().contains("minted: false"));
    let beyond = Config { agent_names: vec!["b.test".into()], ..Config::default() };
    assert!(agents(&beyond).unwrap_err().to_string().contains("ca rotate"));
}

async fn pair() -> (Stream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (Stream::Tcp(client.unwrap()), Stream::Tcp(server.unwrap().0))
}

/// A server's part of a handshake, whatever it is asked for.
async fn serve(stream: Stream, server: Arc<rustls::ServerConfig>) -> Result<Stream, HandshakeError> {
    let Stream::Tcp(tcp) = stream else { return Err(HandshakeError::NotPlain) };
    let accepted = tokio_rustls::TlsAcceptor::from(server).accept(tcp).await;
    Ok(Stream::Server(Box::new(accepted.map_err(HandshakeError::Failed)?)))
}

/// Both handshakes; the client's outcome after one byte each way.
async fn handshake(server: Arc<rustls::ServerConfig>, upstream: &Upstream) -> Result<Stream, HandshakeError> {
    let (client, far) = pair().await;
    let serving = tokio::spawn(async move {
        let mut stream = serve(far, server).await?;
        let byte = stream.read_u8().await.map_err(HandshakeError::Failed)?;
        stream.write_u8(byte).await.map_err(HandshakeError::Failed)?;
        stream.flush().await.map_err(HandshakeError::Failed)
    });
    let mut stream = connect(client, upstream).await?;
    stream.write_u8(7).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), 7);
    serving.await.unwrap().unwrap();
    Ok(stream)
}

fn refusal(outcome: Result<Stream, HandshakeError>) -> String {
    match outcome {
        Err(HandshakeError::Certificate(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn verify_full_wants_the_authority_and_the_name() {
    let pki = Pki::new();
    let config = pki.config(Mode::VerifyFull);
    let upstream = config.upstream("db.test", &[b"postgresql"]).unwrap();
    assert!(upstream.is_verified() && upstream.least_proof().is_none());
    let stream = handshake(pki.server(&["db.test"]), &upstream).await.unwrap();
    assert!(stream.is_tls());
    assert_eq!(stream.alpn(), Some(&b"postgresql"[..]));

    let why = refusal(handshake(pki.server(&["other.test"]), &upstream).await);
    assert!(why.contains("subjectAltName for `db.test`"), "{why}");
    for (name, reason) in [("another CA", "no certificate authority in"), ("test CA", "of the same name")] {
        let why = refusal(handshake(Pki::named(name).server(&["db.test"]), &upstream).await);
        assert!(why.contains(reason) && why.contains("ca.pem"), "{why}");
    }
    let past = pki.authority.issue("server", &["db.test"], Validity::Past).unwrap();
    assert!(refusal(handshake(pki.serve(&past), &upstream).await).contains("expired"));
    let why = refusal(handshake(pki.serve(&pki.authority.as_leaf()), &upstream).await);
    assert!(why.contains("CA:TRUE"), "{why}");
    // A common name is not a name.
    let nameless = pki.authority.issue("db.test", &[], Validity::Now).unwrap();
    assert!(refusal(handshake(pki.serve(&nameless), &upstream).await).contains("common name"));
}

#[tokio::test]
async fn names_are_hosts_addresses_or_configured() {
    let pki = Pki::new();
    let config = pki.config(Mode::VerifyFull);
    let upstream = config.upstream("127.0.0.1", &[]).unwrap();
    handshake(pki.server(&["127.0.0.1"]), &upstream).await.unwrap();
    assert!(handshake(pki.server(&["localhost"]), &upstream).await.is_err());
    handshake(pki.server(&["b.test"]), &upstream.for_host("b.test").unwrap()).await.unwrap();
    assert!(upstream.for_host("not a host").is_err());
    let fixed = Config { server_name: Some("db.test".into()), ..config };
    let upstream = fixed.upstream("10.0.0.1", &[]).unwrap().for_host("b.test").unwrap();
    handshake(pki.server(&["db.test"]), &upstream).await.unwrap();
}

#[tokio::test]
async fn verify_ca_wants_the_authority_alone_and_require_nothing() {
    let pki = Pki::new();
    let upstream = pki.config(Mode::VerifyCa).upstream("db.test", &[]).unwrap();
    assert!(upstream.is_verified());
    handshake(pki.server(&["other.test"]), &upstream).await.unwrap();
    assert!(refusal(handshake(Pki::new().server(&["db.test"]), &upstream).await).contains("ca.pem"));
    let past = pki.authority.issue("server", &["db.test"], Validity::Past).unwrap();
    assert!(refusal(handshake(pki.serve(&past), &upstream).await).contains("expired"));

    let require = Config { upstream: Mode::Require, ..Config::default() };
    let upstream = require.upstream("db.test", &[]).unwrap();
    assert_eq!(upstream.least_proof(), Some(Unverified::Proof));
    handshake(Pki::new().server(&["other.test"]), &upstream).await.unwrap();
}

/// Whoever shows a certificate without its key must fail in every mode: channel binding stands on it.
#[tokio::test]
async fn a_certificate_without_its_key_is_worth_nothing() {
    let pki = Pki::new();
    let (real, other) =
        (pki.authority.issue("s", &["db.test"], Validity::Now), pki.authority.issue("o", &[], Validity::Now));
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let chain = vec![CertificateDer::from_pem_slice(real.unwrap().cert.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(other.unwrap().key.as_bytes()).unwrap();
    let forged = CertifiedKey::new(chain, provider.key_provider.load_private_key(key).unwrap());
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13][..]] {
        let server = rustls::ServerConfig::builder_with_provider(Arc::new(provider.clone()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(forged.clone())));
        let server = Arc::new(server);
        for mode in [Mode::VerifyFull, Mode::VerifyCa, Mode::Require] {
            let ca = (mode != Mode::Require).then(|| pki.ca.clone());
            let upstream = Config { upstream: mode, ca, ..Config::default() }.upstream("db.test", &[]).unwrap();
            assert!(
                refusal(handshake(Arc::clone(&server), &upstream).await).contains("does not hold its key"),
                "{mode:?}"
            );
        }
    }
}

#[tokio::test]
async fn channel_binding_hashes_the_certificate_as_it_was_signed() {
    use sha2::{Sha256, Sha384};
    let upstream = Config { upstream: Mode::Require, ..Config::default() }.upstream("db.test", &[]).unwrap();
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let pki = Pki { authority: Authority::signing_with("ca", algorithm).unwrap(), ..Pki::new() };
        let issued = pki.authority.issue("server", &["db.test"], Validity::Now).unwrap();
        let der = CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap();
        let expected = if algorithm == &rcgen::PKCS_ECDSA_P256_SHA256 {
            Some(Sha256::digest(&der).to_vec())
        } else if algorithm == &rcgen::PKCS_ECDSA_P384_SHA384 {
            Some(Sha384::digest(&der).to_vec())
        } else {
            None
        };
        let stream = handshake(pki.serve(&issued), &upstream).await.unwrap();
        assert_eq!(stream.server_end_point(), expected);
    }
    assert_eq!(end_point(b"no certificate"), None);
    assert_eq!(pair().await.0.server_end_point(), None);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up() {
    let pki = Pki::new();
    let upstream = pki.config(Mode::VerifyFull).upstream("db.test", &[]).unwrap();
    let (client, _silent) = pair().await;
    assert!(matches!(connect(client, &upstream).await, Err(HandshakeError::TimedOut)));
    let (_silent, server) = pair().await;
    let (cert, key) = pki.authority.issue("a", &["a.test"], Validity::Now).unwrap().write(pki.dir.path(), "a").unwrap();
    let config = Config { agent_cert: Some(cert), agent_key: Some(key), ..Config::default() };
    let agents = config.agents(known(&names(&config)), None).unwrap().unwrap();
    assert!(matches!(accept(server, &agents).await, Err(HandshakeError::TimedOut)));
}

#[tokio::test]
async fn garbage_is_no_handshake_and_clear_is_never_tried() {
    let pki = Pki::new();
    let upstream = pki.config(Mode::VerifyFull).upstream("db.test", &[]).unwrap();
    let (client, mut far) = pair().await;
    far.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    assert!(matches!(connect(client, &upstream).await, Err(HandshakeError::Failed(_))));
    let (near, _far) = tokio::io::duplex(64);
    assert!(matches!(connect(Stream::Memory(near), &upstream).await, Err(HandshakeError::NotPlain)));
    let (client, _far) = pair().await;
    assert!(matches!(connect(client, &Upstream::default()).await, Err(HandshakeError::NotConfigured(_))));
}

#[test]
fn the_configuration_defaults_to_the_strictest() {
    let config: Config = toml::from_str("").unwrap();
    assert_eq!((config.upstream, config.unverified_password), (Mode::VerifyFull, Unverified::Proof));
    let all = "upstream = 'verify-ca'\nca = '/a'\ncert = '/b'\nkey = '/c'\nserver_name = 'd'\n\
               unverified_password = 'bound'\nagent_cert = '/e'\nagent_key = '/f'";
    let config: Config = toml::from_str(all).unwrap();
    assert_eq!((config.upstream, config.unverified_password), (Mode::VerifyCa, Unverified::Bound));
}

#[test]
fn what_could_be_switched_off_by_others_or_is_unknown_is_refused() {
    for (mode, advice) in [("prefer", "switch TLS off"), ("allow", "switch TLS off"), ("verify_full", "expected")] {
        let error = toml::from_str::<Config>(&format!("upstream = '{mode}'")).unwrap_err().to_string();
        assert!(error.contains(advice), "{error}");
    }
    assert!(toml::from_str::<Config>("verify = false").is_err());
    assert!(toml::from_str::<Config>("unverified_password = 'none'").is_err());
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let path = || Some(PathBuf::from("/nonexistent"));
    let base = Config::default;
    for config in [
        Config { upstream: Mode::Disable, ca: path(), ..base() },
        Config { upstream: Mode::Disable, cert: path(), key: path(), ..base() },
        Config { upstream: Mode::Disable, server_name: Some("a".into()), ..base() },
        Config { upstream: Mode::Disable, unverified_password: Unverified::Bound, ..base() },
        Config { upstream: Mode::Require, ca: path(), ..base() },
        Config { upstream: Mode::VerifyCa, ..base() },
        Config { cert: path(), ..base() },
        Config { key: path(), ..base() },
        Config { server_name: Some("not a name".into()), ..base() },
    ] {
        assert!(matches!(config.upstream("db.test", &[]), Err(SetupError::Setting { .. })), "{config:?}");
    }
    let both = || Config { agent_cert: path(), agent_key: path(), ..base() };
    for config in [
        Config { agent_cert: path(), ..base() },
        Config { agent_key: path(), ..base() },
        Config { agent: Agent::Off, ..both() },
    ] {
        let refused = config.agents(known(&names(&config)), None);
        assert!(matches!(refused, Err(SetupError::Setting { .. })), "{config:?}");
    }
    assert!(matches!(both().agents(known(&names(&both())), None), Err(SetupError::File { .. })));
    assert!(base().agents(known(&names(&base())), None).unwrap().is_none());
    let odd = Config { agent_names: vec!["not a name".into()], ..base() };
    assert!(matches!(odd.names(["a.test"].into_iter()), Err(SetupError::Setting { .. })));
}

#[test]
fn files_that_cannot_be_used_are_named() {
    use std::os::unix::fs::PermissionsExt;
    let pki = Pki::new();
    let (cert, key) = pki.authority.issue("c", &[], Validity::Now).unwrap().write(pki.dir.path(), "c").unwrap();
    let (_, foreign) = pki.authority.issue("d", &[], Validity::Now).unwrap().write(pki.dir.path(), "d").unwrap();
    let empty = pki.dir.path().join("empty.pem");
    fs::write(&empty, "-- nothing --").unwrap();
    fs::set_permissions(&empty, fs::Permissions::from_mode(0o600)).unwrap();
    let failure = |ca: &Path, cert: &Path, key: &Path| {
        let paths = [ca, cert, key].map(|path| Some(path.to_owned()));
        let [ca, cert, key] = paths;
        let outcome = Config { ca, cert, key, ..Config::default() }.upstream("db.test", &[]);
        outcome.map(|_| ()).map_err(|error| error.to_string())
    };
    let missing = pki.dir.path().join("missing.pem");
    for (ca, cert, key, named) in [
        (&missing, &cert, &key, "missing.pem: No such file"),
        (&empty, &cert, &key, "empty.pem: there is no certificate"),
        (&pki.dir.path().to_owned(), &cert, &key, "not a regular file"),
        (&pki.ca, &missing, &key, "missing.pem: No such file"),
        (&pki.ca, &cert, &empty, "empty.pem: no private key"),
        (&pki.ca, &cert, &foreign, "d.key: "),
    ] {
        let error = failure(ca, cert, key).unwrap_err();
        assert!(error.contains(named), "{error}");
    }
    failure(&pki.ca, &cert, &key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(failure(&pki.ca, &cert, &key).unwrap_err().contains("c.key: mode 0644"));
}

#[test]
fn the_systems_authorities_are_the_default() {
    let upstream = Config::default().upstream("db.test", &[]).unwrap();
    assert!(upstream.is_verified());
    assert_eq!(upstream.roots(), "the system's trust store");
}
