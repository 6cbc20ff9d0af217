//! Client credentials against an issuer that the test plays, over TLS.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex as Kept;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::{Credential, Place};
use super::*;
use crate::clock::ManualClock;

/// Answers with what it has for now, and keeps what it was asked.
struct Issuer {
    url: String,
    ca: tempfile::NamedTempFile,
    answer: Arc<Kept<(u16, String)>>,
    asked: Arc<Kept<Vec<String>>>,
    count: Arc<AtomicUsize>,
}

impl Issuer {
    async fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/token", listener.local_addr().unwrap());
        let ca = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(ca.path(), made.cert.pem()).unwrap();
        let issuer = Self { url, ca, answer: Arc::default(), asked: Arc::default(), count: Arc::default() };
        let (answer, asked, count) = (Arc::clone(&issuer.answer), Arc::clone(&issuer.asked), Arc::clone(&issuer.count));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(socket).await else { continue };
                let mut held = Vec::new();
                while !is_whole(&held) && stream.read_buf(&mut held).await.is_ok_and(|count| count > 0) {}
                asked.lock().push(String::from_utf8(held).unwrap());
                count.fetch_add(1, Ordering::SeqCst);
                let (status, body) = answer.lock().clone();
                let length = body.len();
                let told =
                    format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                let _sent = stream.write_all(told.as_bytes()).await;
                let _closed = stream.shutdown().await;
            }
        });
        issuer.gives("t0ken", Some(600));
        issuer
    }

    fn gives(&self, token: &str, life: Option<u64>) {
        let life = life.map(|life| format!(",\"expires_in\":{life}")).unwrap_or_default();
        self.says(200, &format!("{{\"access_token\":\"{token}\",\"token_type\":\"Bearer\"{life}}}"));
    }

    fn says(&self, status: u16, body: &str) {
        *self.answer.lock() = (status, body.to_owned());
    }

    fn credential(&self, clock: &Arc<ManualClock>, auth: Auth) -> Credential {
        let config = Config {
            token_url: self.url.clone(),
            scope: Some("read write".to_owned()),
            audience: Some("https://api".to_owned()),
            auth,
            ca: Some(self.ca.path().to_owned()),
        };
        let secret = Place::from("plain:s3cret:&").source().unwrap();
        let source = OAuth::new(config, "cli ent".to_owned(), secret).unwrap().at(Arc::clone(clock) as Arc<dyn Clock>);
        Credential::new("cli ent", Some(Arc::new(source)))
    }
}

fn is_whole(held: &[u8]) -> bool {
    let text = String::from_utf8_lossy(held);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.is_some_and(|length| body.len() >= length.parse::<usize>().unwrap())
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_unix(1_000_000)))
}

async fn token(credential: &Credential) -> Result<String, String> {
    let lease = credential.lease().await.map_err(|error| error.to_string())?;
    Ok(lease.password.unwrap().expose_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_token_is_asked_for_once_for_all_sessions_and_anew_before_its_end() {
    let (issuer, clock) = (Issuer::new().await, clock());
    let credential = issuer.credential(&clock, Auth::Basic);
    let all = futures_util::future::join_all((0..10).map(|_| token(&credential))).await;
    assert!(all.iter().all(|token| token.as_deref() == Ok("t0ken")), "{all:?}");
    assert_eq!(issuer.count.load(Ordering::SeqCst), 1);
    let asked = issuer.asked.lock()[0].clone();
    assert!(asked.starts_with("POST /token HTTP/1.1\r\n"), "{asked}");
    let basic = BASE64.encode("cli%20ent:s3cret%3A%26");
    assert!(asked.contains(&format!("authorization: Basic {basic}\r\n")), "{asked}");
    assert!(asked.ends_with("grant_type=client_credentials&scope=read%20write&audience=https%3A%2F%2Fapi"), "{asked}");
    assert_eq!(credential.lease().await.unwrap().until, Some(Timestamp::from_unix(1_000_540)));
    issuer.gives("second", Some(600));
    clock.advance(Duration::from_secs(539));
    assert_eq!(token(&credential).await.unwrap(), "t0ken");
    clock.advance(Duration::from_secs(1));
    assert_eq!(token(&credential).await.unwrap(), "second");
    assert_eq!(issuer.count.load(Ordering::SeqCst), 2);
    // A short life has a short margin; one that is not told is for one session.
    clock.advance(Duration::from_secs(600));
    issuer.gives("short", Some(20));
    assert_eq!(token(&credential).await.unwrap(), "short");
    clock.advance(Duration::from_secs(14));
    issuer.gives("untold", None);
    assert_eq!(token(&credential).await.unwrap(), "short");
    clock.advance(Duration::from_secs(1));
    assert_eq!(credential.lease().await.unwrap().until, None);
    issuer.gives("next", None);
    assert_eq!(token(&credential).await.unwrap(), "next");
}

#[tokio::test]
async fn the_secret_may_stand_in_the_form() {
    let (issuer, clock) = (Issuer::new().await, clock());
    token(&issuer.credential(&clock, Auth::Post)).await.unwrap();
    let asked = issuer.asked.lock()[0].clone();
    assert!(!asked.contains("authorization"), "{asked}");
    assert!(asked.ends_with("&client_id=cli%20ent&client_secret=s3cret%3A%26"), "{asked}");
}

#[tokio::test]
async fn no_token_is_no_session_and_nobody_asks_again_at_once() {
    let (issuer, clock) = (Issuer::new().await, clock());
    let credential = issuer.credential(&clock, Auth::Basic);
    token(&credential).await.unwrap();
    // What was good once is not fallen back to.
    clock.advance(Duration::from_secs(600));
    issuer.says(401, r#"{"error":"invalid_client","error_description":"s3cret:& is wrong"}"#);
    let why = token(&credential).await.unwrap_err();
    assert!(why.contains("401 invalid_client") && !why.contains("s3cret"), "{why}");
    assert_eq!(token(&credential).await.unwrap_err(), why);
    assert_eq!(issuer.count.load(Ordering::SeqCst), 2);
    clock.advance(PAUSE);
    issuer.gives("again", Some(60));
    assert_eq!(token(&credential).await.unwrap(), "again");
    // An issuer that is not the one that is meant is told nothing.
    let other = Issuer::new().await;
    let strange = Issuer { ca: other.ca, ..issuer };
    let before = strange.count.load(Ordering::SeqCst);
    let why = token(&strange.credential(&clock, Auth::Post)).await.unwrap_err();
    assert!(why.contains("certificate") && strange.count.load(Ordering::SeqCst) == before, "{why}");
}

#[tokio::test]
async fn what_is_no_token_is_none() {
    let (issuer, clock) = (Issuer::new().await, clock());
    let long = "x".repeat(MAX_PASSWORD + 1);
    for (status, body) in [
        (200, "no".to_owned()),
        (200, "{}".to_owned()),
        (200, r#"{"access_token":"t"}"#.to_owned()),
        (200, r#"{"access_token":"t","token_type":"mac"}"#.to_owned()),
        (200, r#"{"access_token":"","token_type":"bearer"}"#.to_owned()),
        (200, r#"{"access_token":"a\r\nb: c","token_type":"bearer"}"#.to_owned()),
        (200, r#"{"access_token":7,"token_type":"bearer"}"#.to_owned()),
        (200, format!(r#"{{"access_token":"{long}","token_type":"bearer"}}"#)),
        (302, r#"{"access_token":"t","token_type":"bearer"}"#.to_owned()),
        (500, r#"{"error":"<b>Bad\r\n"}"#.to_owned()),
    ] {
        issuer.says(status, &body);
        let why = token(&issuer.credential(&clock, Auth::Basic)).await.unwrap_err();
        assert!(why.contains("the issuer") && !why.contains("<b>"), "{body:.60}: {why}");
    }
}

#[test]
fn an_issuer_that_could_be_overheard_or_a_client_without_a_secret_is_refused() {
    let read = |text: &str| {
        let config: super::super::Config = toml::from_str(text).unwrap();
        config.credential().map(|credential| format!("{credential:?}")).map_err(|error| error.to_string())
    };
    let plain = "user = 'c'\npassword = 'plain:s3cret'\n";
    assert!(read(&format!("{plain}oauth = {{ token_url = 'http://idp.example/t' }}")).unwrap_err().contains("https"));
    let without = "user = 'c'\noauth = { token_url = 'https://idp.example/t' }";
    assert!(read(without).unwrap_err().contains("`password`"));
    let shown = read(&format!("{plain}oauth = {{ token_url = 'https://idp.example/t', auth = 'post' }}")).unwrap();
    assert!(shown.contains("oauth:https://idp.example/t") && !shown.contains("s3cret"), "{shown}");
}
