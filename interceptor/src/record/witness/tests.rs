//! What witnesses are told, and what is read of what they kept.

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const NOTE: &str = "interceptor/0011223344556677\n7\nAAAA\nchain BBBB\n\n\u{2014} interceptor/0011223344556677 c2ln\n";

fn statement() -> Statement {
    Statement { note: NOTE.to_owned(), host: "db host".to_owned(), time: Timestamp(1_700_000_000_000_000) }
}

#[test]
fn what_witnesses_kept_is_read_in_each_form() {
    let line = statement().line();
    let syslog = format!("Nov 28 09:00:00 logs interceptor: {line}\n");
    let journal = json!({ "__CURSOR": "s=1", journal::FIELD: NOTE, "PRIORITY": "5" }).to_string();
    for kept in [NOTE.to_owned(), line.clone(), format!("{line}\n"), syslog.clone(), journal.clone()] {
        assert_eq!(super::kept(kept.as_bytes()).notes, [NOTE.as_bytes()], "{kept}");
    }
    let all = format!("# begins\n{line}\n{{\"other\":1}}\n{syslog}{journal}\n{{broken");
    assert_eq!(kept(all.as_bytes()).notes, [NOTE.as_bytes(); 3]);
    // Braces before it, and around it in text; and what was cut.
    let nested = json!({ "message": line, "host": "logs" }).to_string();
    let odd = format!("<109>1 - [x {{a}}] {{y}} {line}\n{nested}\n{}\n", line.get(..line.len() - 9).unwrap());
    let read = kept(odd.as_bytes());
    assert_eq!(read, Kept { notes: vec![NOTE.as_bytes().to_vec(); 2], unread: 1 });
    for nothing in ["", "\n", "{}", "abc"] {
        assert_eq!(kept(nothing.as_bytes()), Kept::default());
    }
    assert_eq!(statement().frames(), 7);
}

#[test]
fn what_cannot_be_used_is_said() {
    let faults = |text: &str| toml::from_str::<Config>(text).unwrap().validate().err().unwrap_or_default();
    assert_eq!(faults("journald = true"), "");
    assert!(faults("every_seconds = 0").contains("from 1 to 86400"));
    assert!(faults("syslog = [{ address = 'logs.example' }]").contains("logs.example:6514"));
    assert_eq!(faults("syslog = [{ address = '[2001:db8::1]:6514' }]"), "");
    let open = faults("http = [{ url = 'http://logs.example/x?key=s3cret' }]");
    assert!(open.contains("https") && !open.contains("s3cret"), "{open}");
    assert_eq!(faults("http = [{ url = 'http://127.0.0.1:1/x' }]\ntimestamp = [{ url = 'http://tsa.example' }]"), "");
    assert!(faults("timestamp = [{ url = 'tsa.example' }]").contains("scheme"));
    assert!(faults(&format!("http = [{}]", "{ url = 'https://x.example' },".repeat(9))).contains("more than 8"));
    assert!(toml::from_str::<Config>("jurnald = true").is_err());
    let missing = "syslog = [{ address = 'logs.example:6514', ca = '/nowhere.pem' }]";
    assert!(toml::from_str::<Config>(missing).unwrap().open(Path::new("/"), 0).unwrap_err().contains("/nowhere.pem"));
}

#[tokio::test]
async fn the_journal_gets_the_whole_note_in_a_field() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let journal = UnixDatagram::bind(&socket).unwrap();
    let witness = Witness::Journald(journal::Journal::at(socket));
    witness.tell(&statement()).await.unwrap();
    let mut room = [0; 4096];
    let length = journal.recv(&mut room).unwrap();
    let mut expected = format!("{}\n", journal::FIELD).into_bytes();
    expected.extend_from_slice(&(NOTE.len() as u64).to_le_bytes());
    expected.extend_from_slice(NOTE.as_bytes());
    expected.push(b'\n');
    let said = room.get(..length).unwrap();
    assert!(said.starts_with(b"MESSAGE=checkpoint of 7 frames") && said.ends_with(&expected));
    drop(journal);
    assert!(matches!(witness.tell(&statement()).await, Err(WitnessError::Io(_))));
}

/// Takes one connection over TLS, and gives all that it says; and the certificate.
async fn log_server() -> (String, String, tokio::task::JoinHandle<Vec<u8>>) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heard = tokio::spawn(async move {
        let mut heard = Vec::new();
        let socket = listener.accept().await.unwrap().0;
        if let Ok(mut stream) = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(socket).await {
            stream.read_to_end(&mut heard).await.unwrap();
        }
        heard
    });
    (address, made.cert.pem(), heard)
}

#[tokio::test]
async fn a_log_server_gets_one_message_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let (address, pem, heard) = log_server().await;
    std::fs::write(&ca, pem).unwrap();
    let config =
        Config { syslog: vec![Syslog { address, ca: Some(ca.clone()), server_name: None }], ..Config::default() };
    let [(witness, every)] = <[_; 1]>::try_from(config.open(folder.path(), 0).unwrap()).unwrap();
    assert_eq!(every, Duration::from_secs(60));
    witness.tell(&statement()).await.unwrap();
    let heard = String::from_utf8(heard.await.unwrap()).unwrap();
    let (length, message) = heard.split_once(' ').unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), message.len());
    assert!(message.starts_with("<109>1 2023-11-14T22:13:20.000000Z dbhost interceptor - checkpoint - {"), "{message}");
    assert_eq!(kept(message.as_bytes()).notes, [NOTE.as_bytes()]);

    // Another server with another certificate learns nothing.
    let (address, _, heard) = log_server().await;
    let config = Config { syslog: vec![Syslog { address, ca: Some(ca), server_name: None }], ..Config::default() };
    let (witness, _) = config.open(folder.path(), 0).unwrap().pop().unwrap();
    assert!(matches!(witness.tell(&statement()).await, Err(WitnessError::Tls(_))));
    assert!(heard.await.unwrap().is_empty());
}

/// Answers one request with this status, and gives the request.
async fn web_server(status: u16) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/checkpoints", listener.local_addr().unwrap());
    let heard = tokio::spawn(async move {
        let mut socket = listener.accept().await.unwrap().0;
        let heard = request(&mut socket).await;
        socket.write_all(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.unwrap();
        heard
    });
    (url, heard)
}

async fn request(socket: &mut TcpStream) -> String {
    let mut heard = String::new();
    while !heard.contains("\\u2014") && !heard.contains('\u{2014}') {
        let mut room = [0; 4096];
        let length = socket.read(&mut room).await.unwrap();
        heard.push_str(&String::from_utf8_lossy(room.get(..length).unwrap()));
    }
    heard
}

#[tokio::test]
async fn a_web_server_is_told_with_a_token_and_has_to_take_it() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "w1tness\n").unwrap();
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let open = |url: String, token: Option<PathBuf>| {
        let config = Config { http: vec![Http { url, token, ca: None }], ..Config::default() };
        config.open(folder.path(), 0).unwrap().pop().unwrap().0
    };
    let (url, heard) = web_server(204).await;
    open(url, Some(token)).tell(&statement()).await.unwrap();
    let heard = heard.await.unwrap();
    assert!(heard.starts_with("POST /checkpoints ") && heard.contains("Bearer w1tness\r\n"), "{heard}");
    assert_eq!(kept(heard.as_bytes()).notes, [NOTE.as_bytes()]);

    let (url, _heard) = web_server(503).await;
    let refusing = open(format!("{url}?key=s3cret"), None);
    let error = refusing.tell(&statement()).await.unwrap_err();
    assert!(error.to_string().contains("503") && !format!("{error} {refusing}").contains("s3cret"), "{error}");
    let error = refusing.tell(&statement()).await.unwrap_err();
    assert!(!format!("{error} {refusing}").contains("s3cret"), "{error}");
    let (url, _heard) = web_server(204).await;
    let error = open(url, Some(folder.path().join("none"))).tell(&statement()).await.unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
}
