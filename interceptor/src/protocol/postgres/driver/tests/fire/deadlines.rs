//! Peers that are slow, or never read, or half gone: each is waited for as long as its bound says, and no longer.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use super::super::super::catalogs::{FRESH, Library, PATIENCE};
use super::super::super::legs::HALF_CLOSED_TIMEOUT;
use super::super::super::session::ANSWER_TIMEOUT;
use super::super::ScriptedGate;
use super::super::fake::{Ends, bytes, query, reached, session, until};
use crate::mask::Rules;
use crate::protocol::postgres::Postgres;
use crate::protocol::postgres::codec::write;
use crate::protocol::{Close, Conn, Dial, Failure, Patience, Protocol, Target};
use crate::telemetry::SessionId;
use crate::tls;

/// A bound is kept when it took no longer than this beyond it.
const SLACK: Duration = Duration::from_secs(10);

/// A target that never picks up.
#[derive(Debug)]
struct Hangs;

impl Dial for Hangs {
    fn dial(&self) -> BoxFuture<'_, io::Result<tls::Stream>> {
        Box::pin(pending())
    }

    fn place(&self) -> String {
        "hangs".to_owned()
    }
}

fn target() -> Arc<Target> {
    let upstream_tls = tls::Upstream::default();
    Arc::new(Target { name: "slow".into(), host: "h".into(), agent_tls: None, http: None, upstream_tls })
}

fn conn(agent: tokio::io::DuplexStream) -> Conn {
    Conn {
        agent: tls::Stream::Memory(agent),
        target: target(),
        dial: Arc::new(Hangs),
        rules: Arc::new(Rules::default()),
        session: SessionId::NONE,
        patience: Patience::default(),
    }
}

/// The answer to a query of no rows.
fn answer() -> Vec<u8> {
    bytes(|out| {
        write::command_complete(out, b"BEGIN");
        write::ready(out, b'T');
    })
}

#[tokio::test(start_paused = true)]
async fn a_byte_a_second_does_not_keep_a_start_up_open() {
    let (mut agent, ours) = tokio::io::duplex(4096);
    let gate = ScriptedGate::open();
    let began = Instant::now();
    let (closed, ()) = futures_util::join!(Postgres.serve(conn(ours), &gate), async {
        // The packet says that it is long.
        for byte in [&[0, 0, 0x20, 0, 0, 3, 0, 0][..], &[b'x'; 600]].concat() {
            if agent.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
    });
    assert!(matches!(closed, Err(Failure::Agent(_))), "{closed:?}");
    assert!(began.elapsed() <= Patience::default().handshake + SLACK, "{:?}", began.elapsed());
    let mut told = BytesMut::new();
    assert_eq!(until(&mut agent, &mut told, b'E').await, ["E08000"]);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_sends_no_password_is_told_so() {
    let (mut agent, ours) = tokio::io::duplex(4096);
    let gate = ScriptedGate { token: Some(b"token"), ..ScriptedGate::open() };
    let began = Instant::now();
    let talk = async {
        let packet = bytes(|out| {
            write::startup(out, crate::protocol::postgres::codec::ProtocolVersion::V3_0, [(&b"user"[..], &b"a"[..])]);
        });
        agent.write_all(&packet).await.unwrap();
        let mut told = BytesMut::new();
        // The request for a password comes at once.
        while told.len() < 9 {
            agent.read_buf(&mut told).await.unwrap();
        }
        let mut told = BytesMut::from(&told[9..]);
        while told.is_empty() {
            agent.read_buf(&mut told).await.unwrap();
        }
        until(&mut agent, &mut told, b'E').await
    };
    let (closed, told) = futures_util::join!(Postgres.serve(conn(ours), &gate), talk);
    assert!(matches!(closed, Err(Failure::Agent(_))), "{closed:?}");
    assert_eq!(told, ["E08000"]);
    assert!(began.elapsed() <= Patience::default().handshake + SLACK);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_shuts_its_half_still_gets_what_it_asked_for() {
    let gate = ScriptedGate::open();
    let (session, Ends { mut agent, mut target }) = session(&gate);
    let talk = async {
        agent.write_all(&[query("BEGIN"), query("SAVEPOINT a")].concat()).await.unwrap();
        agent.shutdown().await.unwrap();
        let mut from = BytesMut::new();
        for _ in 0..2 {
            assert_eq!(reached(&mut target, &mut from, b'Q').await, "Q");
            sleep(Duration::from_secs(20)).await;
            target.write_all(&answer()).await.unwrap();
        }
        let mut heard = BytesMut::new();
        for _ in 0..2 {
            assert_eq!(until(&mut agent, &mut heard, b'Z').await, ["C", "ZT"]);
        }
        assert_eq!(agent.read_buf(&mut heard).await.unwrap(), 0);
        assert_eq!(reached(&mut target, &mut from, b'X').await, "X");
    };
    let (closed, ()) = futures_util::join!(Box::new(session).run(), talk);
    assert_eq!(closed.unwrap(), Close::Agent);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_shuts_its_half_is_not_waited_for_where_no_answer_can_come() {
    let unsynced = bytes(|out| write::parse(out, b"", b"BEGIN"));
    for (says, within) in [(query("BEGIN"), HALF_CLOSED_TIMEOUT), (unsynced, Duration::ZERO), (vec![], Duration::ZERO)]
    {
        let gate = ScriptedGate::open();
        let (session, Ends { mut agent, target }) = session(&gate);
        let began = Instant::now();
        let talk = async {
            agent.write_all(&says).await.unwrap();
            agent.shutdown().await.unwrap();
        };
        let (closed, ()) = futures_util::join!(Box::new(session).run(), talk);
        assert_eq!(closed.unwrap(), Close::Agent);
        let took = began.elapsed();
        assert!(took >= within && took <= within + SLACK, "{took:?}");
        drop((agent, target));
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_reads_nothing_does_not_hold_the_target_forever() {
    let gate = ScriptedGate::open();
    let (session, Ends { mut agent, mut target }) = session(&gate);
    let began = Instant::now();
    let talk = async {
        agent.write_all(&query("BEGIN")).await.unwrap();
        let mut from = BytesMut::new();
        assert_eq!(reached(&mut target, &mut from, b'Q').await, "Q");
        let flood = bytes(|out| write::notice(out, b'N', [(b'C', &b"00000"[..])])).repeat(100_000);
        let _held_back = timeout(Duration::from_secs(5), target.write_all(&flood)).await;
        // What it is told last does not reach it, either.
        let mut rest = Vec::new();
        let _ended = target.read_to_end(&mut rest).await;
    };
    let (closed, ()) = futures_util::join!(Box::new(session).run(), talk);
    assert!(matches!(closed, Err(Failure::Agent(_))), "{closed:?}");
    let took = began.elapsed();
    assert!(took >= Patience::default().stalled && took <= Patience::default().stalled + 3 * SLACK, "{took:?}");
    drop(agent);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_reads_slowly_is_waited_for() {
    let gate = ScriptedGate::open();
    let (session, Ends { mut agent, mut target }) = session(&gate);
    let stalled = Patience::default().stalled;
    let began = Instant::now();
    let talk = async {
        agent.write_all(&query("BEGIN")).await.unwrap();
        let mut from = BytesMut::new();
        assert_eq!(reached(&mut target, &mut from, b'Q').await, "Q");
        let rest = bytes(|out| write::notice(out, b'N', [(b'C', &b"00000"[..]), (b'M', &[b'x'; 60_000])]));
        let all = [rest, answer()].concat();
        target.write_all(&all).await.unwrap();
        let mut got = 0;
        while got < all.len() {
            sleep(stalled - SLACK).await;
            let mut some = [0; 8192];
            got += agent.read(&mut some).await.unwrap();
        }
        assert_eq!(got, all.len());
        agent.shutdown().await.unwrap();
    };
    let (closed, ()) = futures_util::join!(Box::new(session).run(), talk);
    assert_eq!(closed.unwrap(), Close::Agent);
    assert!(began.elapsed() > 3 * stalled);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_does_not_answer_our_own_question_ends_the_session() {
    let gate = ScriptedGate::open();
    let (session, Ends { mut agent, mut target }) = session(&gate);
    let began = Instant::now();
    let talk = async {
        let (mut from, mut heard) = (BytesMut::new(), BytesMut::new());
        agent.write_all(&query("SET search_path = elsewhere")).await.unwrap();
        assert_eq!(reached(&mut target, &mut from, b'Q').await, "Q");
        target
            .write_all(&bytes(|out| {
                write::command_complete(out, b"SET");
                write::ready(out, b'I');
            }))
            .await
            .unwrap();
        assert_eq!(until(&mut agent, &mut heard, b'Z').await, ["C", "ZI"]);
        agent.write_all(&query("SELECT 1")).await.unwrap();
        assert_eq!(reached(&mut target, &mut from, b'S').await, "CCPBECCPBECCS");
        while heard.is_empty() {
            agent.read_buf(&mut heard).await.unwrap();
        }
        assert_eq!(until(&mut agent, &mut heard, b'E').await, ["E08006"]);
    };
    let (closed, ()) = futures_util::join!(Box::new(session).run(), talk);
    assert!(matches!(closed, Err(Failure::Upstream(_))), "{closed:?}");
    assert!(began.elapsed() >= ANSWER_TIMEOUT && began.elapsed() <= ANSWER_TIMEOUT + SLACK);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_catalog_forever() {
    let login = ScriptedGate::open().login;
    let library = Library::open(Arc::new(Hangs), target(), login, "slow");
    let began = Instant::now();
    // All but the first wait for the one that loads.
    let waiting = (0..20).map(|_| library.catalog(FRESH));
    assert!(futures_util::future::join_all(waiting).await.iter().all(Result::is_err));
    assert!(began.elapsed() <= PATIENCE + SLACK, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_would_hold_too_much_ends_with_the_reason() {
    let gate = ScriptedGate::open();
    let room = 1 << 20;
    gate.room.store(room, Ordering::SeqCst);
    let (session, Ends { mut agent, target }) = session(&gate);
    let talk = async {
        let huge = query(&"x".repeat(15 << 20));
        let mut sent = 0;
        for piece in huge.chunks(16 << 10) {
            if agent.write_all(piece).await.is_err() {
                break;
            }
            sent += piece.len();
        }
        assert!(sent < 2 * room, "{sent} bytes were taken");
        let mut heard = BytesMut::new();
        assert_eq!(until(&mut agent, &mut heard, b'E').await, ["E53200"]);
    };
    let (closed, ()) = futures_util::join!(Box::new(session).run(), talk);
    assert!(matches!(closed, Err(Failure::Overfull(_))), "{closed:?}");
    assert!(gate.held.load(Ordering::SeqCst) <= room + (128 << 10));
    drop(target);
}
