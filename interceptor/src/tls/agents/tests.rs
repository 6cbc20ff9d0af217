//! Tests of what agents are shown, and of what they try: names of others, protocols of others, hellos without end, sessions
//! of others. Over loopback, with rustls as the agent, for both versions of TLS.

use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::tls::authority::{Config, LEAF_LIFE, Store};
use crate::tls::{Stream, accept};

const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

struct Scene {
    _dir: TempDir,
    authority: Arc<Authority>,
    clock: Arc<ManualClock>,
    agents: Agents,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&Config { dir: dir.path().join("ca") });
        let names: Vec<Name> = ["db.test", "127.0.0.1", "alias.test"].map(|text| Name::parse(text).unwrap()).into();
        let others = [Name::parse("other.test").unwrap()];
        // The clients verify by the system's clock.
        let clock = Arc::new(ManualClock::at(crate::clock::SystemClock::new().now()));
        store.init("h", &[&names[..], &others].concat(), None, clock.now()).unwrap();
        let authority = Arc::new(store.load(Arc::clone(&clock) as Arc<dyn Clock>).unwrap());
        let known = Known { target: "orders-db", names: &names, alpn: &[b"postgresql"] };
        let agents = Agents::minted(known, Arc::clone(&authority)).unwrap();
        Self { _dir: dir, authority, clock, agents }
    }

    /// An agent that trusts the authority.
    fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.certificate().der().clone()).unwrap();
        client_with(roots, versions)
    }

    /// What either side says of a handshake; the agent's part, after a byte each way, where both are content.
    async fn meet(&self, client: &ClientConfig, name: &str) -> Met {
        meet(&self.agents, client, name).await
    }
}

fn client_with(roots: RootCertStore, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

struct Met {
    agent: Result<tokio_rustls::client::TlsStream<TcpStream>, String>,
    ours: Result<Stream, HandshakeError>,
}

impl Met {
    fn shown(&self) -> &CertificateDer<'static> {
        &self.agent.as_ref().unwrap().get_ref().1.peer_certificates().unwrap()[0]
    }
}

async fn meet(agents: &Agents, client: &ClientConfig, name: &str) -> Met {
    let (near, far) = pair().await;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let agent = async {
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(client.clone())).connect(name, near).await?;
        stream.write_u8(7).await?;
        stream.flush().await?;
        stream.read_u8().await?;
        Ok::<_, io::Error>(stream)
    };
    let ours = async {
        let mut stream = accept(Stream::Tcp(far), agents).await?;
        let byte = stream.read_u8().await.map_err(HandshakeError::Failed)?;
        stream.write_u8(byte).await.map_err(HandshakeError::Failed)?;
        stream.flush().await.map_err(HandshakeError::Failed)?;
        Ok(stream)
    };
    let (agent, ours) = tokio::join!(agent, ours);
    Met { agent: agent.map_err(|error| error.to_string()), ours }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

#[tokio::test]
async fn a_target_is_known_by_its_names_and_without_one() {
    let scene = Scene::new();
    for versions in [TLS12, TLS13] {
        for name in ["db.test", "DB.Test", "alias.test"] {
            let met = scene.meet(&scene.client(versions), name).await;
            assert!(met.agent.is_ok() && met.ours.is_ok(), "{name} {:?}", met.ours);
        }
        // An address is never said (RFC 6066): what is shown is the host that the connection leads to.
        let by_address = scene.agents.for_host("127.0.0.1");
        let met = meet(&by_address, &scene.client(versions), "127.0.0.1").await;
        assert!(met.agent.is_ok(), "{:?}", met.agent);
        let mut silent = scene.client(versions);
        silent.enable_sni = false;
        assert!(scene.meet(&silent, "db.test").await.agent.is_ok());
        assert!(scene.meet(&silent, "alias.test").await.agent.is_err());
    }
}

#[tokio::test]
async fn the_name_of_another_target_is_refused_natively() {
    let scene = Scene::new();
    for versions in [TLS12, TLS13] {
        for name in ["other.test", "test", "x.db.test", "db.test.evil.example", "localhost"] {
            let met = scene.meet(&scene.client(versions), name).await;
            let told = met.agent.unwrap_err();
            assert!(told.contains("UnrecognisedName"), "{name}: {told}");
            match met.ours {
                Err(HandshakeError::WrongName { asked, target }) => {
                    assert_eq!((&*asked, &*target), (name, "orders-db"))
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn the_protocol_of_another_service_is_refused() {
    let scene = Scene::new();
    for versions in [TLS12, TLS13] {
        let mut client = scene.client(versions);
        for (offered, agreed) in
            [(&["postgresql"][..], true), (&["h2", "postgresql"], true), (&["http/1.1", "h2"], false)]
        {
            client.alpn_protocols = offered.iter().map(|id| id.as_bytes().to_vec()).collect();
            let met = scene.meet(&client, "db.test").await;
            assert_eq!(met.agent.is_ok(), agreed, "{offered:?}");
            if let Ok(stream) = met.ours {
                assert_eq!(stream.alpn(), Some(&b"postgresql"[..]));
            }
        }
    }
}

#[tokio::test]
async fn an_agent_that_does_not_trust_us_is_understood() {
    let scene = Scene::new();
    for versions in [TLS12, TLS13] {
        let mut roots = RootCertStore::empty();
        let other = crate::testing::certificates::Authority::new("pinned").unwrap();
        roots.add(CertificateDer::from_pem_slice(other.pem().as_bytes()).unwrap()).unwrap();
        let met = scene.meet(&client_with(roots, versions), "db.test").await;
        assert!(met.agent.is_err());
        match met.ours {
            Err(HandshakeError::Distrusted { alert, name, issuer }) => {
                assert!(
                    alert == "UnknownCA" && name == "db.test" && issuer.contains("interceptor CA of h"),
                    "{alert} {issuer}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Another agent that has got hold of a session's secrets does not continue it: nothing is ever resumed.
#[tokio::test]
async fn no_session_is_resumed_and_no_data_comes_early() {
    let scene = Scene::new();
    for versions in [TLS12, TLS13] {
        let mut client = scene.client(versions);
        client.resumption = Resumption::in_memory_sessions(16);
        client.enable_early_data = true;
        for _ in 0..3 {
            let met = scene.meet(&client, "db.test").await;
            let stream = met.agent.unwrap();
            let session = stream.get_ref().1;
            assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
            assert!(!session.is_early_data_accepted());
            assert_eq!(session.tls13_tickets_received(), 0);
        }
    }
}

#[tokio::test]
async fn a_hello_in_many_pieces_is_read_and_one_without_end_is_not() {
    let scene = Scene::new();
    for versions in [TLS12, TLS13] {
        let mut client = scene.client(versions);
        client.max_fragment_size = Some(32);
        assert!(scene.meet(&client, "db.test").await.agent.is_ok());
    }
    // A hello that says it has 16 MiB, and sends as much as it may.
    let (mut near, far) = pair().await;
    let agents = scene.agents.clone();
    let ours = tokio::spawn(async move { accept(Stream::Tcp(far), &agents).await.map(|_| ()) });
    let mut sent = 0usize;
    let mut record = vec![0x16, 3, 1, 0x40, 0];
    record.extend([1, 0xff, 0xff, 0xff]);
    record.resize(5 + 0x4000, 0);
    while sent < 4 << 20 && near.write_all(&record).await.is_ok() {
        sent += record.len();
        record.truncate(5);
        record.resize(5 + 0x4000, 0);
        tokio::task::yield_now().await;
    }
    let refused = ours.await.unwrap().unwrap_err();
    assert!(matches!(refused, HandshakeError::Failed(_)), "{refused:?}");
}

#[tokio::test]
async fn garbage_ends_and_so_does_a_hello_that_is_cut_off() {
    let scene = Scene::new();
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0, 0], &[0x16, 3, 1, 0, 4, 1, 0, 0, 0], &[0x80, 0x2e, 1, 3, 1]]
    {
        let (mut near, far) = pair().await;
        near.write_all(bytes).await.unwrap();
        near.shutdown().await.unwrap();
        let refused = accept(Stream::Tcp(far), &scene.agents).await.unwrap_err();
        assert!(matches!(refused, HandshakeError::Failed(_)), "{refused:?}");
    }
}

#[tokio::test]
async fn certificates_are_made_for_names_of_the_target_alone_and_kept() {
    let scene = Scene::new();
    let Source::Minted { leaves, .. } = &scene.agents.shown.source else { panic!("not minted") };
    let made = || leaves.iter().filter(|leaf| leaf.lock().is_some()).count();
    for number in 0..1000 {
        assert!(scene.agents.config(Some(&format!("n{number}.db.test"))).is_err());
    }
    assert_eq!(made(), 0);
    let client = scene.client(TLS13);
    let first = scene.meet(&client, "db.test").await.shown().clone();
    assert_eq!(scene.meet(&client, "db.test").await.shown(), &first);
    assert_ne!(scene.meet(&client, "alias.test").await.shown(), &first);
    assert_eq!(made(), 2);
    // Half of its time is over.
    scene.clock.advance(LEAF_LIFE / 2 - Duration::from_secs(1));
    assert_eq!(scene.meet(&client, "db.test").await.shown(), &first);
    scene.clock.advance(Duration::from_secs(1));
    assert_ne!(scene.agents.config(Some("db.test")).unwrap().1.alpn_protocols.len(), 0);
    let renewed = leaves[0].lock().as_ref().unwrap().renew_at;
    assert_eq!(renewed, scene.clock.now().plus(LEAF_LIFE / 2));
}

#[tokio::test]
async fn an_authority_whose_time_is_over_shows_nothing() {
    let scene = Scene::new();
    scene.clock.advance(crate::tls::authority::AUTHORITY_LIFE);
    let met = scene.meet(&scene.client(TLS13), "db.test").await;
    assert!(met.agent.unwrap_err().contains("InternalError"));
    assert!(matches!(met.ours, Err(HandshakeError::Authority(_))));
}
