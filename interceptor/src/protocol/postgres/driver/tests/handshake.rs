//! The start-up: who gets in, who is told what, and that nobody who does not get in reaches the target.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use super::{Answer, ScriptedGate};
use crate::mask::Rules;
use crate::protocol::postgres::Postgres;
use crate::protocol::postgres::cancel::Key;
use crate::protocol::postgres::codec::{Backend, ProtocolVersion, backend_limit, frame, write};
use crate::protocol::{Cancel, Close, Conn, Dial, Failure, Patience, Protocol, Target};
use crate::telemetry::SessionId;
use crate::tls;

/// Counts who wants to reach the target; nobody does.
#[derive(Debug, Default)]
struct Counting(AtomicUsize);

impl Dial for Counting {
    fn dial(&self) -> BoxFuture<'_, io::Result<tls::Stream>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }

    fn place(&self) -> String {
        "counted".to_owned()
    }
}

#[derive(Debug, Default)]
struct Canceled(AtomicUsize);

impl Cancel for Canceled {
    fn cancel(&self) -> BoxFuture<'_, io::Result<()>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Ok(()) })
    }
}

/// Serves one connection; gives how it closed, all that the agent was sent, and how often the target was dialled.
async fn serve(gate: &ScriptedGate, send: &[&[u8]]) -> (Result<Close, Failure>, Vec<u8>, usize) {
    let (mut agent, ours) = tokio::io::duplex(64 << 10);
    let dial = Arc::new(Counting::default());
    let conn = Conn {
        agent: tls::Stream::Memory(ours),
        target: Arc::new(Target {
            name: "t".into(),
            host: "h".into(),
            agent_tls: None,
            http: None,
            upstream_tls: tls::Upstream::default(),
        }),
        dial: Arc::clone(&dial) as Arc<dyn Dial>,
        rules: Arc::new(Rules::default()),
        session: SessionId::NONE,
        patience: Patience::default(),
    };
    let (closed, received) = futures_util::join!(Postgres.serve(conn, gate), talk(&mut agent, send));
    (closed, received, dial.0.load(Ordering::SeqCst))
}

async fn talk(agent: &mut DuplexStream, send: &[&[u8]]) -> Vec<u8> {
    let mut received = Vec::new();
    for piece in send {
        agent.write_all(piece).await.unwrap();
        let mut buffer = BytesMut::new();
        // Give it time to answer what was sent, so that the next piece is an answer to that.
        let _nothing_or_closed = timeout(Duration::from_millis(20), agent.read_buf(&mut buffer)).await;
        received.extend_from_slice(&buffer);
    }
    agent.shutdown().await.unwrap();
    agent.read_to_end(&mut received).await.unwrap();
    received
}

fn start(version: ProtocolVersion, more: &[(&str, &str)]) -> Vec<u8> {
    let mut out = BytesMut::new();
    let pairs = [("user", "agent"), ("database", "orders")].iter().chain(more);
    write::startup(&mut out, version, pairs.map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    out.to_vec()
}

fn error(received: &[u8]) -> (String, String) {
    let mut rest = received;
    while let Some(found) = frame(rest, backend_limit).unwrap() {
        if let Ok(Backend::ErrorResponse(notice)) = Backend::decode(found) {
            let field = |code| String::from_utf8_lossy(notice.field(code).unwrap_or_default()).into_owned();
            return (field(b'C'), format!("{} | {} | {}", field(b'M'), field(b'D'), field(b'H')));
        }
        rest = &rest[found.raw.len()..];
    }
    panic!("no error in {received:?}");
}

#[tokio::test(start_paused = true)]
async fn who_is_not_identified_never_reaches_the_target() {
    let gate = ScriptedGate { token: Some(b"good"), ..ScriptedGate::open() };
    let mut wrong = BytesMut::new();
    write::password(&mut wrong, b"bad");
    let (closed, received, dialled) = serve(&gate, &[&start(ProtocolVersion::V3_0, &[]), &wrong]).await;
    assert!(matches!(closed, Err(Failure::Denied(_))), "{closed:?}");
    assert_eq!(&received[..9], b"R\0\0\0\x08\0\0\0\x03");
    let (state, text) = error(&received);
    assert_eq!(state, "28000");
    assert!(text.contains("the script says so") && text.contains("ask the author"), "{text}");
    assert_eq!(dialled, 0);
}

#[tokio::test(start_paused = true)]
async fn who_may_not_connect_never_reaches_the_target() {
    let gate = ScriptedGate::new(|command| {
        let denied = command.actions.iter().any(|action| action.name.as_str() == "sql:set");
        if denied { Answer::Deny } else { Answer::Permit(&[]) }
    });
    let packet = start(ProtocolVersion::V3_0, &[("options", "-c search_path=evil")]);
    let (closed, received, dialled) = serve(&gate, &[&packet]).await;
    assert!(matches!(closed, Err(Failure::Denied(_))), "{closed:?}");
    assert_eq!(error(&received).0, "42501");
    assert_eq!(dialled, 0);
    let judged = gate.judged.lock();
    assert!(judged[0].actions.iter().any(|action| action.name.as_str() == "sql:connect"));
}

#[tokio::test(start_paused = true)]
async fn replication_is_refused() {
    let packet = start(ProtocolVersion::V3_0, &[("replication", "database")]);
    // Where policy says so, and where it permits but masks.
    let denying = ScriptedGate::new(|command| {
        let name = |wanted| command.actions.iter().any(|action| action.name.as_str() == wanted);
        if name("sql:replicate") && name("sql:opaque") { Answer::Deny } else { Answer::Permit(&[]) }
    });
    for gate in [denying, ScriptedGate::new(|_| Answer::Permit(&["pii"]))] {
        let (closed, received, dialled) = serve(&gate, &[&packet]).await;
        assert!(matches!(closed, Err(Failure::Denied(_))), "{closed:?}");
        assert_eq!((error(&received).0.as_str(), dialled), ("42501", 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_cannot_be_reached_is_reported() {
    let (closed, received, dialled) = serve(&ScriptedGate::open(), &[&start(ProtocolVersion::V3_0, &[])]).await;
    assert!(matches!(closed, Err(Failure::Login(_))), "{closed:?}");
    assert_eq!((error(&received).0.as_str(), dialled), ("08001", 1));
}

#[tokio::test(start_paused = true)]
async fn encryption_that_is_not_there_is_declined_and_the_session_goes_on() {
    let (mut ssl, mut gss) = (BytesMut::new(), BytesMut::new());
    write::ssl_request(&mut ssl);
    write::startup_packet(&mut gss, &crate::protocol::postgres::codec::Startup::GssEnc);
    let packet = start(ProtocolVersion::V3_0, &[]);
    let (_, received, dialled) = serve(&ScriptedGate::open(), &[&gss, &ssl, &packet]).await;
    assert_eq!(&received[..3], b"NNE");
    assert_eq!(dialled, 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_in_clear_behind_a_request_for_tls_is_an_attack() {
    let mut both = BytesMut::new();
    write::ssl_request(&mut both);
    both.extend_from_slice(&start(ProtocolVersion::V3_0, &[]));
    let (closed, received, dialled) = serve(&ScriptedGate::open(), &[&both]).await;
    assert!(matches!(closed, Err(Failure::Agent(_))), "{closed:?}");
    assert_eq!((error(&received).0.as_str(), dialled), ("08P01", 0));
}

#[tokio::test(start_paused = true)]
async fn newer_protocols_and_their_options_are_negotiated_down() {
    let version = ProtocolVersion { major: 3, minor: 9 };
    let (_, received, _) = serve(&ScriptedGate::open(), &[&start(version, &[("_pq_.novelty", "1")])]).await;
    let mut wanted = BytesMut::new();
    write::negotiate(&mut wanted, ProtocolVersion::V3_2, &[b"_pq_.novelty"]);
    assert_eq!(&received[..wanted.len()], &wanted[..]);
    let (closed, received, dialled) =
        serve(&ScriptedGate::open(), &[&start(ProtocolVersion { major: 2, minor: 0 }, &[])]).await;
    assert!(closed.is_err());
    assert_eq!((error(&received).0.as_str(), dialled), ("0A000", 0));
}

#[tokio::test(start_paused = true)]
async fn garbage_and_silence_end_without_the_target() {
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0\0\x04", b"\x16\x03\x01\x02\0", b"\0\0\0\x0c\0\x03\0\0user"] {
        let (closed, _, dialled) = serve(&ScriptedGate::open(), &[garbage]).await;
        assert!(matches!(closed, Err(Failure::Agent(_))), "{closed:?}");
        assert_eq!(dialled, 0);
    }
    let (closed, _, _) = serve(&ScriptedGate::open(), &[]).await;
    assert_eq!(closed.unwrap(), Close::Agent);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_says_nothing_is_not_waited_for_forever() {
    let (agent, ours) = tokio::io::duplex(64);
    let conn = Conn {
        agent: tls::Stream::Memory(ours),
        target: Arc::new(Target {
            name: "t".into(),
            host: "h".into(),
            agent_tls: None,
            http: None,
            upstream_tls: tls::Upstream::default(),
        }),
        dial: Arc::new(Counting::default()),
        rules: Arc::new(Rules::default()),
        session: SessionId::NONE,
        patience: Patience::default(),
    };
    let gate = ScriptedGate::open();
    assert!(matches!(Postgres.serve(conn, &gate).await, Err(Failure::Agent(_))));
    drop(agent);
}

#[tokio::test(start_paused = true)]
async fn only_the_right_key_cancels() {
    let gate = ScriptedGate::open();
    let canceled = Arc::new(Canceled::default());
    let key = Key::generate(ProtocolVersion::V3_2).unwrap();
    assert_eq!(key.secret.len(), 32);
    assert_eq!(Key::generate(ProtocolVersion::V3_0).unwrap().secret.len(), 4);
    let published = Key::published(key.process_id, &key.secret);
    gate.cancels.lock().insert(published, Arc::clone(&canceled) as Arc<dyn Cancel>);
    let request = |secret: &[u8]| {
        let mut out = BytesMut::new();
        write::cancel_request(&mut out, key.process_id, secret);
        out.to_vec()
    };
    let mut wrong = key.secret.to_vec();
    wrong[31] ^= 1;
    for secret in [&wrong[..], &key.secret[..4], &[&key.secret[..], b"x"].concat()] {
        let (closed, received, dialled) = serve(&gate, &[&request(secret)]).await;
        assert!(matches!(closed, Err(Failure::Denied(_))), "{closed:?}");
        assert!(received.is_empty() && dialled == 0);
    }
    assert_eq!(canceled.0.load(Ordering::SeqCst), 0);
    let (closed, _, _) = serve(&gate, &[&request(&key.secret)]).await;
    assert_eq!(closed.unwrap(), Close::Cancel);
    assert_eq!(canceled.0.load(Ordering::SeqCst), 1);
}
