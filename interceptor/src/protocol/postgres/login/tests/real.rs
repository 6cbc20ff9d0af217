//! A real PostgreSQL server: every method, TLS in each mode, and an impostor between us and it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::super::*;
use super::{clear, credential, parameters, target};
use crate::policy::Fault;
use crate::testing::certificates::{Authority, Validity};
use crate::testing::postgres::{Options, Postgres, ServerTls};
use crate::tls::{Config, Mode, Unverified};

const PASSWORD: &str = "pass wörd";

struct World {
    server: Postgres,
    authority: Authority,
    dir: TempDir,
    ca: PathBuf,
}

impl World {
    /// One server for every method: each user has its own.
    fn new(authority: Authority) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        fs::write(&ca, authority.pem()).unwrap();
        let issued = authority.issue("server", &["db.test"], Validity::Now).unwrap();
        let methods = [("t", "trust"), ("p", "password"), ("m", "md5"), ("s", "scram-sha-256"), ("c", "cert")];
        let server = Postgres::start(Options {
            auth: "reject",
            hba: methods
                .map(|(user, method)| match method {
                    "cert" => format!("hostssl all {user} all {method}"),
                    _ => format!("host all {user} all {method}"),
                })
                .into(),
            tls: Some(ServerTls { cert: issued.cert, key: issued.key, client_ca: Some(authority.pem()) }),
            ..Options::default()
        })
        .unwrap();
        for (user, method) in methods {
            let stored = if method == "md5" { "md5" } else { "scram-sha-256" };
            let sql = format!("SET password_encryption = '{stored}'; CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'");
            server.sql(&sql).unwrap();
        }
        Self { server, authority, dir, ca }
    }

    fn config(&self, upstream: Mode) -> Config {
        let ca = (upstream > Mode::Require).then(|| self.ca.clone());
        Config { upstream, ca, ..Config::default() }
    }

    fn verified(&self) -> Target {
        self.at("db.test", &self.config(Mode::VerifyFull))
    }

    fn at(&self, host: &str, config: &Config) -> Target {
        target(config.upstream(host, &[ALPN]).unwrap())
    }

    async fn dial(&self) -> Stream {
        Stream::Tcp(TcpStream::connect(("127.0.0.1", self.server.port())).await.unwrap())
    }

    async fn login(&self, target: &Target, user: &str, password: Option<&str>) -> Result<LoggedIn, LoginError> {
        let parameters = parameters(&[("user", "agent"), ("database", "postgres"), ("application_name", "psql")]);
        login(self.dial().await, target, &credential(user, password), &parameters).await
    }

    async fn mechanism(&self, target: &Target, user: &str) -> &'static str {
        let mut logged_in = self.login(target, user, Some(PASSWORD)).await.unwrap();
        let rows = logged_in.query("SELECT current_user, NULL", &Bounds::default()).await.unwrap();
        assert_eq!(rows, [[Some(user.to_owned()), None]]);
        logged_in.mechanism
    }
}

#[tokio::test]
async fn every_method_logs_in_as_far_as_the_target_is_trusted() {
    let world = World::new(Authority::new("CA").unwrap());
    // Verified: the target is who it says.
    let verified = world.verified();
    for (user, mechanism) in [("t", "none"), ("p", "password"), ("m", "md5"), ("s", "SCRAM-SHA-256-PLUS")] {
        assert_eq!(world.mechanism(&verified, user).await, mechanism);
    }
    let verify_ca = world.at("other.test", &world.config(Mode::VerifyCa));
    assert_eq!(world.mechanism(&verify_ca, "p").await, "password");
    // Encrypted, unverified: SCRAM alone, bound to the connection.
    let required = world.at("other.test", &world.config(Mode::Require));
    assert_eq!(world.mechanism(&required, "s").await, "SCRAM-SHA-256-PLUS");
    // In clear: SCRAM alone, unless the operator lowers it.
    assert_eq!(world.mechanism(&clear(Unverified::Proof), "s").await, "SCRAM-SHA-256");
    for user in ["t", "p", "m"] {
        for target in [&required, &clear(Unverified::Proof)] {
            let error = world.login(target, user, Some(PASSWORD)).await.unwrap_err();
            assert!(matches!(error, LoginError::Weak { .. }), "{user}: {error}");
        }
    }
    assert_eq!(world.mechanism(&clear(Unverified::Hash), "m").await, "md5");
    assert_eq!(world.mechanism(&clear(Unverified::Clear), "p").await, "password");
    assert_eq!(world.login(&clear(Unverified::Proof), "t", None).await.unwrap().mechanism, "none");
    let statements = world.server.statements();
    assert_eq!(statements.len(), 9);
    assert!(statements.iter().all(|statement| statement.text == "SELECT current_user, NULL"));
}

#[tokio::test]
async fn what_the_target_reports_is_collected() {
    let world = World::new(Authority::new("CA").unwrap());
    let mut logged_in = world.login(&world.verified(), "s", Some(PASSWORD)).await.unwrap();
    let reported =
        |name: &str| logged_in.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    assert!(reported("server_version").is_some_and(|version| !version.is_empty()));
    assert_eq!(reported("application_name").as_deref(), Some("psql"));
    assert_eq!(reported("session_authorization").as_deref(), Some("s"));
    let pid = logged_in.query("SELECT pg_backend_pid()", &Bounds::default()).await.unwrap();
    assert_eq!(pid, [[Some(logged_in.process_id.to_string())]]);
    assert!(logged_in.stream.is_tls() && logged_in.leftover.is_empty());

    // A refused query leaves the leg usable; a cancel request reaches the session.
    let error = logged_in.query("SELECT * FROM nonsense", &Bounds::default()).await.unwrap_err();
    assert!(matches!(&error, QueryError::Refused(why) if why.sqlstate == "42P01"), "{error}");
    let (process_id, secret_key) = (logged_in.process_id, logged_in.secret_key);
    let cancelling = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        cancel(world.dial().await, &world.verified(), process_id, secret_key).await.unwrap();
    };
    let bounds = Bounds::default();
    let (outcome, ()) = tokio::join!(logged_in.query("SELECT pg_sleep(20)", &bounds), cancelling);
    assert!(matches!(outcome, Err(QueryError::Refused(why)) if why.sqlstate == "57014"));
    assert_eq!(logged_in.query("SELECT 1; SELECT 2", &bounds).await.unwrap().len(), 2);
}

#[tokio::test]
async fn failures_say_whose_they_are() {
    let world = World::new(Authority::new("CA").unwrap());
    let verified = world.verified();
    for (user, password) in [("s", "wrong"), ("m", "wrong"), ("p", "wrong"), ("nobody", "x")] {
        let error = world.login(&verified, user, Some(password)).await.unwrap_err();
        assert!(matches!(error, LoginError::Refused(_)), "{error}");
        assert_eq!(error.fault(), Fault::Operator);
    }
    assert!(matches!(world.login(&verified, "s", None).await, Err(LoginError::NoPassword(_))));

    let elsewhere = parameters(&[("database", "nonsense")]);
    let outcome = login(world.dial().await, &verified, &credential("s", Some(PASSWORD)), &elsewhere).await;
    let error = outcome.unwrap_err();
    assert_eq!((error.fault(), error.for_agent().sqlstate.as_str()), (Fault::Upstream, "3D000"));

    world.server.sql("ALTER ROLE s CONNECTION LIMIT 0").unwrap();
    let error = world.login(&verified, "s", Some(PASSWORD)).await.unwrap_err();
    assert_eq!((error.fault(), error.for_agent().sqlstate.as_str()), (Fault::Upstream, "53300"));

    let odd = parameters(&[("database", "postgres"), ("client_encoding", "nonsense")]);
    let outcome = login(world.dial().await, &verified, &credential("t", None), &odd).await;
    assert!(matches!(outcome, Err(LoginError::Rejected(why)) if why.sqlstate == "22023"));

    for (host, ca) in [
        ("other.test", world.ca.clone()),
        ("db.test", {
            let foreign = world.dir.path().join("foreign.pem");
            fs::write(&foreign, Authority::new("foreign").unwrap().pem()).unwrap();
            foreign
        }),
    ] {
        let target = world.at(host, &Config { ca: Some(ca), ..world.config(Mode::VerifyFull) });
        let error = world.login(&target, "s", Some(PASSWORD)).await.unwrap_err();
        assert!(matches!(error, LoginError::Tls(tls::HandshakeError::Certificate(_))), "{error}");
        assert_eq!(error.fault(), Fault::Operator);
    }
    assert_eq!(world.server.statements(), [], "nothing of this reached a session");
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to_in_clear() {
    let server = Postgres::start(Options { auth: "trust", ..Options::default() }).unwrap();
    let config = Config { upstream: Mode::Require, ..Config::default() };
    let target = target(config.upstream("db.test", &[ALPN]).unwrap());
    let stream = Stream::Tcp(TcpStream::connect(("127.0.0.1", server.port())).await.unwrap());
    let error = login(stream, &target, &credential("postgres", None), &[]).await.unwrap_err();
    assert!(matches!(error, LoginError::NoTls));
    assert_eq!(error.fault(), Fault::Operator);
}

#[tokio::test]
async fn a_client_certificate_logs_in() {
    let world = World::new(Authority::new("CA").unwrap());
    let with = |name: &str, issued: crate::testing::certificates::Issued| {
        let (cert, key) = issued.write(world.dir.path(), name).unwrap();
        world.at("db.test", &Config { cert: Some(cert), key: Some(key), ..world.config(Mode::VerifyFull) })
    };
    let own = with("c", world.authority.issue("c", &[], Validity::Now).unwrap());
    assert_eq!(world.login(&own, "c", None).await.unwrap().mechanism, "none");
    let other = with("d", world.authority.issue("d", &[], Validity::Now).unwrap());
    assert!(matches!(world.login(&other, "c", None).await, Err(LoginError::Refused(_))));
    assert!(matches!(world.login(&world.verified(), "c", None).await, Err(LoginError::Refused(_))));
    let foreign = with("f", Authority::new("foreign").unwrap().issue("c", &[], Validity::Now).unwrap());
    let error = world.login(&foreign, "c", None).await.unwrap_err();
    assert!(matches!(error, LoginError::Tls(tls::HandshakeError::Alert(_))), "{error}");
    assert_eq!(error.fault(), Fault::Operator);
}

#[tokio::test]
async fn channel_binding_follows_the_certificates_own_hash() {
    let world = World::new(Authority::signing_with("CA", &rcgen::PKCS_ECDSA_P384_SHA384).unwrap());
    assert_eq!(world.mechanism(&world.verified(), "s").await, "SCRAM-SHA-256-PLUS");
}

/// Somebody on the path, with a certificate of its own, relays the exchange to the real server: `require` lets it, and the
/// binding tells. With `strip`, it takes -PLUS off the list, too: then the server sees that we could have.
async fn relayed(strip: bool) -> String {
    let world = World::new(Authority::new("CA").unwrap());
    let required = world.config(Mode::Require);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issued = Authority::new("impostor").unwrap().issue("i", &["db.test"], Validity::Now).unwrap();
    let server = issued.server(&[ALPN]).unwrap();
    let (far, upstream) = (world.dial().await, required.upstream("db.test", &[ALPN]).unwrap());
    let address = listener.local_addr().unwrap();
    let impostor = async {
        let (mut victim, _) = listener.accept().await.unwrap();
        let mut request = [0; 8];
        victim.read_exact(&mut request).await.unwrap();
        victim.write_all(b"S").await.unwrap();
        let mut near = tokio_rustls::TlsAcceptor::from(server).accept(victim).await.unwrap();
        let mut far = secure(far, &upstream).await.unwrap();
        if strip {
            let length = near.read_u32().await.unwrap();
            let mut startup = vec![0; length as usize - 4];
            near.read_exact(&mut startup).await.unwrap();
            far.write_all(&[&length.to_be_bytes(), &startup[..]].concat()).await.unwrap();
            far.flush().await.unwrap();
            let mut offer = [0; 5 + 4 + 19 + 14 + 1];
            far.read_exact(&mut offer).await.unwrap();
            assert!(offer.ends_with(b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"));
            near.write_all(b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0").await.unwrap();
            near.flush().await.unwrap();
        }
        let _ended = copy_bidirectional(&mut near, &mut far).await;
    };
    let victim = async {
        let stream = Stream::Tcp(TcpStream::connect(address).await.unwrap());
        let target = world.at("db.test", &required);
        login(stream, &target, &credential("s", Some(PASSWORD)), &parameters(&[("database", "postgres")])).await
    };
    let (outcome, ()) = tokio::join!(victim, impostor);
    outcome.unwrap_err().to_string()
}

#[tokio::test]
async fn an_impostor_that_relays_scram_is_found_out() {
    let error = relayed(false).await;
    assert!(error.contains("SCRAM channel binding check failed"), "{error}");
}

#[tokio::test]
async fn an_impostor_that_takes_the_binding_off_the_list_is_found_out() {
    let error = relayed(true).await;
    assert!(error.contains("SCRAM channel binding negotiation error"), "{error}");
}
