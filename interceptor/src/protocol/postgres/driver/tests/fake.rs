//! A fake target that counts what reaches it: denials, garbage, huge messages, dead ends, and who waits for whom.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use super::super::catalogs::Library;
use super::super::legs::{HIGH_WATER, Legs};
use super::super::session::Session;
use super::{Answer, ScriptedGate};
use crate::mask::Rules;
use crate::protocol::postgres::analyst::SessionAnalyst;
use crate::protocol::postgres::cancel::Waiting;
use crate::protocol::postgres::catalog::{Catalog, Names};
use crate::protocol::postgres::codec::{Backend, Side, backend_limit, frame, frontend_limit, write};
use crate::protocol::postgres::machine::Machine;
use crate::protocol::{Close, Dial, Direction, Failure, Observation, Patience, Target};
use crate::telemetry::SessionId;
use crate::tls;

#[derive(Debug)]
struct Nowhere;

impl Dial for Nowhere {
    fn dial(&self) -> BoxFuture<'_, io::Result<tls::Stream>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }

    fn place(&self) -> String {
        "nowhere".to_owned()
    }
}

/// The agent's end and the target's end of a session.
pub(super) struct Ends {
    pub(super) agent: DuplexStream,
    pub(super) target: DuplexStream,
}

pub(super) fn session(gate: &ScriptedGate) -> (Session<'_>, Ends) {
    session_with(gate, Rules::default())
}

pub(super) fn session_with(gate: &ScriptedGate, rules: Rules) -> (Session<'_>, Ends) {
    session_over(gate, rules, 4096)
}

/// With that much room on the way to the agent.
fn session_over(gate: &ScriptedGate, rules: Rules, room: usize) -> (Session<'_>, Ends) {
    let (agent, ours) = tokio::io::duplex(room);
    let (target, theirs) = tokio::io::duplex(4096);
    let rules = Arc::new(rules);
    let analyst = SessionAnalyst::new(
        "t".into(),
        "d".into(),
        (Arc::new(Catalog::default()), Arc::default(), 0),
        Names::standard("agent"),
        Arc::clone(&rules),
    );
    let legs = Legs::new(
        gate,
        (tls::Stream::Memory(ours), BytesMut::new()),
        (tls::Stream::Memory(theirs), BytesMut::new()),
        Machine::new(SessionId::NONE, rules),
        analyst,
        Patience::default(),
    );
    let database = Arc::new(Target {
        name: "t".into(),
        host: "h".into(),
        agent_tls: None,
        http: None,
        upstream_tls: tls::Upstream::default(),
    });
    let session = Session {
        gate,
        legs,
        library: Library::open(Arc::new(Nowhere), database, gate.login.clone(), "d"),
        session: SessionId::NONE,
        waiting: Arc::new(Waiting::default()),
    };
    (session, Ends { agent, target })
}

pub(super) fn bytes<T>(write: impl FnOnce(&mut BytesMut) -> T) -> Vec<u8> {
    let mut out = BytesMut::new();
    let _written = write(&mut out);
    out.to_vec()
}

pub(super) fn query(text: &str) -> Vec<u8> {
    bytes(|out| {
        write::query(out, text.as_bytes());
    })
}

/// Types of the messages up to and with the first of type `last`; errors as `E` and their SQLSTATE.
pub(super) async fn until(stream: &mut DuplexStream, buffer: &mut BytesMut, last: u8) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        while let Some(found) = frame(buffer, backend_limit).unwrap() {
            let (tag, length) = (found.tag, found.raw.len());
            seen.push(match Backend::decode(found) {
                Ok(Backend::ErrorResponse(notice)) => {
                    format!("E{}", String::from_utf8_lossy(notice.field(b'C').unwrap()))
                }
                Ok(Backend::ReadyForQuery(status)) => format!("Z{}", char::from(status)),
                _ => char::from(tag).to_string(),
            });
            let _consumed = buffer.split_to(length);
            if tag == last {
                return seen;
            }
        }
        let read = timeout(Duration::from_secs(5), stream.read_buf(buffer)).await.expect("no answer in time").unwrap();
        assert!(read > 0, "closed after {seen:?}");
    }
}

/// Types of the agent's messages that reached the target, up to and with the first of type `last`.
pub(super) async fn reached(stream: &mut DuplexStream, buffer: &mut BytesMut, last: u8) -> String {
    let mut seen = String::new();
    loop {
        while let Some(found) = frame(buffer, frontend_limit).unwrap() {
            let (tag, length) = (found.tag, found.raw.len());
            seen.push(char::from(tag));
            let _consumed = buffer.split_to(length);
            if tag == last {
                return seen;
            }
        }
        let read = timeout(Duration::from_secs(5), stream.read_buf(buffer)).await.expect("nothing came").unwrap();
        assert!(read > 0, "closed after {seen:?}");
    }
}

/// What has come so far, without waiting for more.
pub(super) async fn pending(stream: &mut DuplexStream) -> usize {
    let mut buffer = BytesMut::new();
    match timeout(Duration::from_millis(50), stream.read_buf(&mut buffer)).await {
        Ok(read) => read.unwrap(),
        Err(_nothing) => 0,
    }
}

/// Runs a session beside a conversation with it.
macro_rules! converse {
    ($gate:expr, |$ends:ident| $body:expr) => {{
        let (session, mut $ends) = session($gate);
        let (closed, value) = futures_util::join!(Box::new(session).run(), async {
            let value = $body;
            // The agent leaves first, and the target is there to see it.
            let Ends { agent, mut target } = $ends;
            drop(agent);
            let mut rest = Vec::new();
            let _ends_or_broke = target.read_to_end(&mut rest).await;
            value
        });
        (closed, value)
    }};
}

#[tokio::test(start_paused = true)]
async fn no_byte_of_a_denied_query_reaches_the_target() {
    let gate = ScriptedGate::denying("secret");
    let (closed, ()) = converse!(&gate, |ends| {
        let mut buffer = BytesMut::new();
        for text in ["SELECT 'secret'", "SELECT 1; SELECT 'secret'"] {
            ends.agent.write_all(&query(text)).await.unwrap();
            assert_eq!(until(&mut ends.agent, &mut buffer, b'Z').await, ["E42501", "ZI"]);
        }
        assert_eq!(pending(&mut ends.target).await, 0);
    });
    assert_eq!(closed.unwrap(), Close::Agent);
    assert_eq!(gate.denials(), 2);
}

#[tokio::test(start_paused = true)]
async fn no_byte_of_a_denied_pipeline_reaches_the_target() {
    let gate = ScriptedGate::denying("secret");
    let (closed, ()) = converse!(&gate, |ends| {
        let mut buffer = BytesMut::new();
        let pipeline = bytes(|out| {
            write::parse(out, b"", b"SELECT 'secret'");
            write::bind(out, b"", b"");
            write::describe(out, Side::Portal, b"");
            write::execute(out, b"", 0);
            write::bare(out, b'S');
        });
        ends.agent.write_all(&pipeline).await.unwrap();
        assert_eq!(until(&mut ends.agent, &mut buffer, b'Z').await, ["E42501", "ZI"]);
        assert_eq!(pending(&mut ends.target).await, 0);
    });
    assert_eq!(closed.unwrap(), Close::Agent);
}

#[tokio::test(start_paused = true)]
async fn a_function_call_is_denied_unless_policy_says_otherwise() {
    let gate = ScriptedGate::denying("FunctionCall");
    let (_, ()) = converse!(&gate, |ends| {
        let mut buffer = BytesMut::new();
        ends.agent
            .write_all(&bytes(|out| {
                write::message(out, b'F', |out| out.put_slice(&[0; 10]));
            }))
            .await
            .unwrap();
        assert_eq!(until(&mut ends.agent, &mut buffer, b'Z').await, ["E42501", "ZI"]);
        assert_eq!(pending(&mut ends.target).await, 0);
    });
    assert_eq!(gate.statements(), ["FunctionCall 0"]);
}

#[tokio::test(start_paused = true)]
async fn the_arguments_of_a_function_call_are_judged_with_it() {
    let gate = ScriptedGate::denying("FunctionCall");
    let (_, ()) = converse!(&gate, |ends| {
        let mut buffer = BytesMut::new();
        let call = b"\0\0\x06\x3e\0\x01\0\x01\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\0";
        let call = bytes(|out| {
            write::message(out, b'F', |out| out.put_slice(call));
        });
        ends.agent.write_all(&call).await.unwrap();
        assert_eq!(until(&mut ends.agent, &mut buffer, b'Z').await, ["E42501", "ZI"]);
    });
    let judged = gate.judged.lock();
    assert_eq!(&*judged[0].statement, "FunctionCall 1598");
    let values: Vec<_> = judged[0].parameters.iter().map(|parameter| (parameter.binary, &parameter.value)).collect();
    assert_eq!(values, [(true, &Some(bytes::Bytes::from_static(b"x"))), (true, &None)]);
}

#[tokio::test]
async fn while_a_long_text_is_parsed_others_get_on() {
    let gate = ScriptedGate::denying("forbidden");
    let long = format!("SELECT 'forbidden'{}", ", 1".repeat(60_000));
    let ((slow, Ends { agent: mut slow_agent, target: _slow_target }), (session, Ends { mut agent, mut target })) =
        (session(&gate), session(&gate));
    let talk = async {
        slow_agent.write_all(&query(&long)).await.unwrap();
        let (mut heard, mut answers) = (BytesMut::new(), 0);
        let refused = until(&mut slow_agent, &mut heard, b'Z');
        tokio::pin!(refused);
        loop {
            agent.write_all(&query("SELECT 1")).await.unwrap();
            let mut asked = BytesMut::new();
            let answered = async {
                reached(&mut target, &mut asked, b'Q').await;
                target.write_all(&bytes(|out| write::ready(out, b'I'))).await.unwrap();
                until(&mut agent, &mut BytesMut::new(), b'Z').await;
            };
            tokio::select! {
                biased;
                refusal = &mut refused => break (refusal, answers),
                () = answered => answers += 1,
            }
        }
    };
    let both = async { futures_util::join!(Box::new(slow).run(), Box::new(session).run()) };
    let (refusal, answers) = tokio::select! { done = talk => done, _ = both => panic!("a session has ended") };
    assert_eq!(refusal, ["E42501", "ZI"]);
    assert!(answers > 3, "{answers} answers while one text was parsed");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_utf8_is_refused_before_it_is_judged() {
    let gate = ScriptedGate::open();
    let (_, ()) = converse!(&gate, |ends| {
        let mut buffer = BytesMut::new();
        ends.agent
            .write_all(&bytes(|out| {
                write::query(out, b"SELECT '\xe9'");
            }))
            .await
            .unwrap();
        assert_eq!(until(&mut ends.agent, &mut buffer, b'Z').await, ["E22021", "ZI"]);
        assert_eq!(pending(&mut ends.target).await, 0);
    });
    assert!(gate.statements().is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_forwarded_that_cannot_be_recorded() {
    let gate = ScriptedGate::open();
    gate.unrecordable.store(true, std::sync::atomic::Ordering::SeqCst);
    let (closed, ()) = converse!(&gate, |ends| {
        ends.agent.write_all(&query("BEGIN")).await.unwrap();
        // What comes is the goodbye, not the query.
        let mut buffer = BytesMut::new();
        assert_eq!(until(&mut ends.agent, &mut buffer, b'E').await, ["E58000"]);
        assert_eq!(reached(&mut ends.target, &mut buffer, b'X').await, "X");
    });
    assert!(matches!(closed, Err(Failure::Denied(_))), "{closed:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_recorded_is_replaced_by_the_reason() {
    let gate = ScriptedGate::open();
    let (closed, ()) = converse!(&gate, |ends| {
        let (mut buffer, mut from) = (BytesMut::new(), BytesMut::new());
        ends.agent.write_all(&query("BEGIN")).await.unwrap();
        assert_eq!(reached(&mut ends.target, &mut buffer, b'Q').await, "Q");
        let answer = |text: &'static [u8]| {
            bytes(|out| {
                write::command_complete(out, text);
            })
        };
        ends.target.write_all(&answer(b"BEGIN")).await.unwrap();
        assert_eq!(until(&mut ends.agent, &mut from, b'C').await, ["C"]);
        gate.unrecordable.store(true, std::sync::atomic::Ordering::SeqCst);
        ends.target.write_all(&answer(b"lost")).await.unwrap();
        assert_eq!(until(&mut ends.agent, &mut from, b'E').await, ["E58000"]);
    });
    assert!(matches!(closed, Err(Failure::Denied(_))), "{closed:?}");
}

#[tokio::test(start_paused = true)]
async fn garbage_and_huge_messages_end_the_session_with_a_clear_error() {
    let huge = [&b"Q"[..], &u32::MAX.to_be_bytes()].concat();
    let too_long = [&b"Q"[..], &(20_u32 << 20).to_be_bytes()].concat();
    for bad in [&b"?\0\0\0\x04"[..], b"Q\0\0\0\x03", b"Q\0\0\0\x06ab", &huge, &too_long, b"p\0\0\0\x06x\0", b"d\0\0"] {
        let gate = ScriptedGate::open();
        let (closed, ()) = converse!(&gate, |ends| {
            let mut buffer = BytesMut::new();
            ends.agent.write_all(bad).await.unwrap();
            if bad == b"d\0\0" {
                ends.agent.shutdown().await.unwrap();
            } else {
                assert_eq!(until(&mut ends.agent, &mut buffer, b'E').await, ["E08P01"]);
            }
            assert_eq!(reached(&mut ends.target, &mut BytesMut::new(), b'X').await, "X");
        });
        match closed {
            Ok(Close::Agent) => assert_eq!(bad, b"d\0\0"),
            closed => assert!(matches!(closed, Err(Failure::Agent(_))), "{closed:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_dies_within_a_result_is_reported() {
    let gate = ScriptedGate::open();
    let (closed, ()) = converse!(&gate, |ends| {
        let (mut buffer, mut from) = (BytesMut::new(), BytesMut::new());
        ends.agent.write_all(&query("BEGIN")).await.unwrap();
        assert_eq!(reached(&mut ends.target, &mut buffer, b'Q').await, "Q");
        ends.target
            .write_all(&bytes(|out| {
                write::command_complete(out, b"BEGIN");
            }))
            .await
            .unwrap();
        ends.target.shutdown().await.unwrap();
        drop(std::mem::replace(&mut ends.target, tokio::io::duplex(1).0));
        assert_eq!(until(&mut ends.agent, &mut from, b'E').await, ["C", "E08006"]);
    });
    assert_eq!(closed.unwrap(), Close::Upstream);
}

#[tokio::test(start_paused = true)]
async fn answers_that_nobody_asked_for_end_the_session() {
    for bad in [&b"D\0\0\0\x06\0\0"[..], b"W\0\0\0\x07\0\0\0", b"\xff\0\0\0\x04", b"Z\0\0\0\x05X"] {
        let gate = ScriptedGate::open();
        let (closed, ()) = converse!(&gate, |ends| {
            ends.target.write_all(bad).await.unwrap();
            assert_eq!(until(&mut ends.agent, &mut BytesMut::new(), b'E').await, ["E08006"]);
        });
        assert!(matches!(closed, Err(Failure::Upstream(_))), "{closed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_sends_without_reading_is_held_back() {
    let gate = ScriptedGate::open();
    let (_, sent) = converse!(&gate, |ends| {
        let row = vec![b'x'; 1000];
        let row = bytes(|out| {
            write::data_row(out, [Some(&row[..])].into_iter());
        });
        ends.agent.write_all(&query("BEGIN")).await.unwrap();
        assert_eq!(reached(&mut ends.target, &mut BytesMut::new(), b'Q').await, "Q");
        let mut sent = 0;
        // The target sends for as long as it is let; the agent reads nothing, but goes on sending.
        while timeout(Duration::from_secs(1), ends.target.write_all(&row)).await.is_ok() {
            sent += row.len();
            assert!(sent < 8 * HIGH_WATER, "nothing holds the target back");
        }
        let denied = query("BEGIN").repeat(100);
        let mut pushed = 0;
        while timeout(Duration::from_secs(1), ends.agent.write_all(&denied)).await.is_ok() {
            pushed += denied.len();
            assert!(pushed < 8 * HIGH_WATER, "nothing holds the agent back");
        }
        // Once it reads, all that was sent comes.
        let mut buffer = vec![0; 64 << 10];
        let mut read = 0;
        while read < sent {
            read += timeout(Duration::from_secs(5), ends.agent.read(&mut buffer)).await.expect("stuck").unwrap();
        }
        // Its later queries wait for an answer that never comes, until the target is gone.
        drop(std::mem::replace(&mut ends.target, tokio::io::duplex(1).0));
        sent
    });
    assert!(sent > 0);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_reads_again_is_served_though_the_target_reads_nothing() {
    // In a task of its own: what wakes only the test does not wake the session.
    let gate: &'static ScriptedGate = Box::leak(Box::new(ScriptedGate::open()));
    let (session, mut ends) = session_over(gate, Rules::default(), 4 * HIGH_WATER);
    let session = tokio::spawn(Box::new(session).run());
    let value = vec![b'x'; 32 << 10];
    let run = bytes(|out| {
        let length = u32::try_from(value.len()).unwrap();
        let mut bind = b"\0\0\0\0\0\x01".to_vec();
        bind.extend(length.to_be_bytes());
        bind.extend(&value);
        bind.extend(b"\0\0");
        for (tag, body) in [(b'B', &bind[..]), (b'E', b"\0\0\0\0\0")] {
            out.extend_from_slice(&[tag]);
            out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
            out.extend_from_slice(body);
        }
    });
    let parse = b"P\0\0\0\x10\0SELECT 1\0\0\0";
    ends.agent.write_all(parse).await.unwrap();
    // The target reads nothing, until nothing more goes to it.
    let mut pushed = 0;
    while timeout(Duration::from_secs(1), ends.agent.write_all(&run)).await.is_ok() {
        pushed += run.len();
        assert!(pushed < 8 * HIGH_WATER, "nothing holds the agent back");
    }
    assert!(pushed >= HIGH_WATER);
    // It answers all the same, until nobody takes its answers.
    let mut sent = 0;
    let row = bytes(|out| {
        write::data_row(out, [Some(&value[..1000])].into_iter());
    });
    ends.target.write_all(b"1\0\0\0\x042\0\0\0\x04").await.unwrap();
    while timeout(Duration::from_secs(1), ends.target.write_all(&row)).await.is_ok() {
        sent += row.len();
        assert!(sent < 8 * HIGH_WATER, "nothing holds the target back");
    }
    // All at once, so that all that waits goes in one write.
    let mut buffer = vec![0; 8 * HIGH_WATER];
    let mut read = 0;
    while read < sent {
        read += timeout(Duration::from_secs(5), ends.agent.read(&mut buffer)).await.expect("stuck").unwrap();
    }
    drop(ends);
    assert!(session.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_hold_outlives_the_agent_that_gives_up() {
    let gate = ScriptedGate::new(|_| Answer::Hold);
    let (closed, ()) = converse!(&gate, |ends| {
        ends.agent.write_all(&query("DROP TABLE t")).await.unwrap();
        while gate.holding.load(std::sync::atomic::Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        ends.agent.shutdown().await.unwrap();
        drop(std::mem::replace(&mut ends.agent, tokio::io::duplex(1).0));
        assert_eq!(reached(&mut ends.target, &mut BytesMut::new(), b'X').await, "X");
    });
    assert_eq!(closed.unwrap(), Close::Agent);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_has_to_end_is_told_so() {
    let gate = ScriptedGate::open();
    let (closed, ()) = converse!(&gate, |ends| {
        gate.end.notify_one();
        assert_eq!(until(&mut ends.agent, &mut BytesMut::new(), b'E').await, ["E57P01"]);
    });
    assert_eq!(closed.unwrap(), Close::Ended);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_comes_with_the_end_is_not_forwarded() {
    let gate = ScriptedGate::new(|_| Answer::End);
    let (closed, ()) = converse!(&gate, |ends| {
        ends.agent.write_all(&query("DELETE FROM t")).await.unwrap();
        assert_eq!(until(&mut ends.agent, &mut BytesMut::new(), b'E').await, ["E57P01"]);
        assert_eq!(reached(&mut ends.target, &mut BytesMut::new(), b'X').await, "X");
    });
    assert_eq!((closed.unwrap(), gate.denials()), (Close::Ended, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_recorded_is_what_was_delivered() {
    let gate = ScriptedGate::denying("secret");
    let (_, (sent, received)) = converse!(&gate, |ends| {
        let mut sent = query("BEGIN");
        let mut target = BytesMut::new();
        ends.agent.write_all(&sent).await.unwrap();
        assert_eq!(reached(&mut ends.target, &mut target, b'Q').await, "Q");
        let mut received = bytes(|out| {
            write::command_complete(out, b"BEGIN");
            write::ready(out, b'T');
        });
        ends.target.write_all(&received).await.unwrap();
        let mut back = vec![0; received.len()];
        ends.agent.read_exact(&mut back).await.unwrap();
        assert_eq!(back, received);
        // In the transaction a statement of ours makes it fail; neither it nor the denied one is the agent's record.
        ends.agent.write_all(&query("SELECT 'secret'")).await.unwrap();
        assert_eq!(reached(&mut ends.target, &mut target, b'Q').await, "Q");
        let failed = bytes(|out| {
            write::notice(out, b'E', [(b'C', &b"42601"[..])]);
            write::ready(out, b'E');
        });
        ends.target.write_all(&failed).await.unwrap();
        let mut agent = BytesMut::new();
        while !agent.ends_with(b"\x05E") {
            ends.agent.read_buf(&mut agent).await.unwrap();
        }
        received.extend_from_slice(&agent);
        sent.extend_from_slice(&query("ROLLBACK"));
        ends.agent.write_all(&query("ROLLBACK")).await.unwrap();
        assert_eq!(reached(&mut ends.target, &mut target, b'Q').await, "Q");
        (sent, received)
    });
    let recorded = |wanted| -> Vec<u8> {
        let observed = gate.observed.lock();
        let data = observed.iter().filter_map(|event| match event {
            Observation::Data(direction, bytes) if *direction == wanted => Some(bytes.to_vec()),
            _ => None,
        });
        data.collect::<Vec<_>>().concat()
    };
    assert_eq!(recorded(Direction::FromAgent), sent);
    assert_eq!(recorded(Direction::ToAgent), received);
}

#[tokio::test(start_paused = true)]
async fn a_denied_statement_is_not_even_prepared_by_sql() {
    let gate = ScriptedGate::denying("VALUES");
    let (_, ()) = converse!(&gate, |ends| {
        let mut buffer = BytesMut::new();
        ends.agent.write_all(&query("PREPARE p AS VALUES (1)")).await.unwrap();
        assert_eq!(until(&mut ends.agent, &mut buffer, b'Z').await, ["E42501", "ZI"]);
        assert_eq!(pending(&mut ends.target).await, 0);
    });
    // What a human may permit is prepared without waiting, since it is asked for again when it runs.
    let gate = ScriptedGate::new(|_| Answer::Hold);
    let (_, ()) = converse!(&gate, |ends| {
        ends.agent.write_all(&query("PREPARE p AS VALUES (1)")).await.unwrap();
        assert_eq!(reached(&mut ends.target, &mut BytesMut::new(), b'Q').await, "Q");
    });
    assert_eq!(gate.holding.load(std::sync::atomic::Ordering::SeqCst), 0);
}
