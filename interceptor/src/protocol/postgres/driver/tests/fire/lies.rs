//! A target that lies: about lengths, about what it was asked, about columns, without end. The session ends with a native
//! error or goes on in step; nothing that is masked passes.

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Duration, timeout};

use super::super::fake::{Ends, bytes, query, reached, session_with};
use super::super::{Answer, ScriptedGate};
use super::script::messages;
use crate::mask::{Config, Rules, Transform};
use crate::protocol::postgres::codec::{Field, Side, write};
use crate::protocol::postgres::driver::legs::HIGH_WATER;

/// In every value that the target sends, and every message text.
const SECRET: &[u8] = b"SECRET";

fn rules() -> Rules {
    let columns = vec!["*.v".to_owned()];
    let entry = Config {
        tag: "pii".to_owned(),
        columns,
        json: Vec::new(),
        detect: Vec::new(),
        base64: false,
        transform: Transform::Redact,
    };
    Rules::compile(&[entry], None).unwrap()
}

fn described(columns: usize) -> Vec<u8> {
    let field =
        Field { name: b"v", table_oid: 4242, column: 1, type_oid: 25, type_size: -1, type_modifier: -1, format: 0 };
    bytes(|out| write::row_description(out, vec![field; columns].into_iter()))
}

fn row(columns: usize) -> Vec<u8> {
    bytes(|out| write::data_row(out, vec![Some(SECRET); columns].into_iter()))
}

fn done() -> Vec<u8> {
    bytes(|out| {
        write::command_complete(out, b"SELECT 1");
        write::ready(out, b'I');
    })
}

fn raw(tag: u8, body: &[u8]) -> Vec<u8> {
    bytes(|out| write::message(out, tag, |out| out.put_slice(body)))
}

fn lying(tag: u8, length: u32, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

fn noise(tag: u8) -> Vec<u8> {
    bytes(|out| write::notice(out, tag, [(b'S', &b"NOTICE"[..]), (b'C', b"XX000"), (b'M', SECRET)]))
}

/// What the agent gets where the target answers its question with these bytes, and then is silent.
async fn answered(gate: &ScriptedGate, question: &[u8], last: u8, lie: &[u8]) -> Vec<u8> {
    let (session, Ends { mut agent, mut target }) = session_with(gate, rules());
    let talk = async {
        agent.write_all(question).await.unwrap();
        let _until_it_is_there = reached(&mut target, &mut BytesMut::new(), last).await;
        let mut received = Vec::new();
        let listen = async {
            let mut some = [0; 16 << 10];
            // Silence is as good as an end.
            while let Ok(Ok(length @ 1..)) = timeout(Duration::from_secs(2), agent.read(&mut some)).await {
                received.extend_from_slice(&some[..length]);
            }
        };
        let tell = async {
            let _as_long_as_it_is_read = target.write_all(lie).await;
        };
        futures_util::join!(listen, tell);
        drop(agent);
        let _ends = target.read_to_end(&mut Vec::new()).await;
        received
    };
    let (_closed, received) = futures_util::join!(Box::new(session).run(), talk);
    assert!(!received.windows(SECRET.len()).any(|seen| seen == SECRET), "{}", received.escape_ascii());
    received
}

/// Types of messages; errors with their code.
fn heard(received: &[u8]) -> String {
    let word = |message: &Vec<u8>| match message[0] {
        b'E' => {
            let code = message.windows(2).position(|pair| pair == b"\0C").unwrap() + 2;
            format!("E{}", String::from_utf8_lossy(&message[code..code + 5]))
        }
        tag => char::from(tag).to_string(),
    };
    messages(received).iter().map(word).collect::<Vec<_>>().join(" ")
}

fn masking() -> ScriptedGate {
    ScriptedGate::new(|_| Answer::Permit(&["pii"]))
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_none_end_the_session() {
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a row before its description", row(1)),
        ("a row of more columns", [described(1), row(2)].concat()),
        ("a row where none has columns", [described(0), row(1)].concat()),
        ("COPY data where a row is due", [described(0), raw(b'd', SECRET)].concat()),
        ("a row of fewer columns", [described(2), row(1)].concat()),
        ("a value of negative length", [described(1), raw(b'D', b"\0\x01\xff\xff\xff\xfeSECRET")].concat()),
        ("a value longer than its row", [described(1), raw(b'D', b"\0\x01\0\0\0\x09SECRET")].concat()),
        ("bytes behind the row", [described(1), raw(b'D', b"\0\x01\0\0\0\x01xSECRET")].concat()),
        ("rows of a second result that was not described", [described(1), done(), row(1)].concat()),
        ("rows behind the end of a result", [described(1), raw(b'C', b"SELECT 1\0"), row(1)].concat()),
        ("a COPY that nobody asked for", [raw(b'H', b"\0\0\x01\0\0"), raw(b'd', SECRET)].concat()),
        ("a COPY both ways", [raw(b'W', b"\0\0\0"), raw(b'd', SECRET)].concat()),
        ("COPY data without a COPY", raw(b'd', SECRET)),
        ("the result of a call", raw(b'V', b"\0\0\0\x06SECRET")),
        ("an answer to Parse", raw(b'1', b"")),
        ("an answer to Bind", raw(b'2', b"")),
        ("an answer to Close", raw(b'3', b"")),
        ("parameters of a statement", raw(b't', b"\0\0")),
        ("no data", raw(b'n', b"")),
        ("a suspended portal", raw(b's', b"")),
        ("a request for a password", raw(b'R', b"\0\0\0\x03")),
        ("a key", raw(b'K', b"\0\0\0\x01SECRET")),
        ("another version", raw(b'v', b"\0\0\0\0\xff\xff\xff\xff")),
        ("an unknown message", raw(0xfe, SECRET)),
        ("a message of the agent's", raw(b'Q', b"SECRET\0")),
        ("a status that is none", raw(b'Z', b"X")),
        ("a length of zero", lying(b'Z', 0, b"I")),
        ("a length of three", lying(b'Z', 3, b"I")),
        ("a negative length", lying(b'D', 0x8000_0000, SECRET)),
        ("a length of minus one", lying(b'D', u32::MAX, SECRET)),
        ("2 GiB", lying(b'D', 0x7fff_ffff, SECRET)),
        ("a row of 1 GiB that has to be looked into", [described(1), lying(b'D', (1 << 30) - 1, SECRET)].concat()),
        ("a status of 32 MiB", lying(b'Z', 32 << 20, b"I")),
        ("a body that is too short", lying(b'Z', 4, b"")),
        ("a body that is too long", lying(b'Z', 6, b"II")),
        ("an end that is not text", lying(b'C', 10, SECRET)),
        ("another answer behind the end", [done(), described(1), row(1)].concat()),
        ("a second end", [done(), done()].concat()),
    ];
    for (what, lie) in cases {
        let received = answered(&masking(), &query("SELECT v FROM t"), b'Q', &lie).await;
        assert!(heard(&received).ends_with("E08006"), "{what}: {}", heard(&received));
    }
}

#[tokio::test(start_paused = true)]
async fn answers_to_a_pipeline_are_those_to_its_messages() {
    let pipeline = bytes(|out| {
        write::parse(out, b"", b"SELECT v FROM t");
        write::bind(out, b"", b"");
        write::describe(out, Side::Portal, b"");
        write::execute(out, b"", 0);
        write::bare(out, b'S');
    });
    let (parsed, bound) = (raw(b'1', b""), raw(b'2', b""));
    let begun = [parsed.clone(), bound.clone()].concat();
    let honest = [&begun[..], &described(1), &row(1), &done()].concat();
    assert_eq!(heard(&answered(&masking(), &pipeline, b'S', &honest).await), "1 2 T D C Z");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("bound before it is parsed", bound.clone()),
        ("parsed twice", [parsed.clone(), parsed.clone()].concat()),
        ("rows without a description", [begun.clone(), row(1)].concat()),
        ("another description at the Execute", [&begun[..], &described(1), &described(2), &row(2)].concat()),
        ("rows of another description", [&begun[..], &described(1), &row(2)].concat()),
        ("ready in the middle", [begun.clone(), raw(b'Z', b"I")].concat()),
        ("an end before it has begun", done()),
        ("two results", [&begun[..], &described(1), &row(1), &raw(b'C', b"SELECT 1\0"), &row(1)].concat()),
        ("results of statements never sent", [honest.clone(), begun.clone()].concat()),
    ];
    for (what, lie) in cases {
        let received = answered(&masking(), &pipeline, b'S', &lie).await;
        assert!(heard(&received).ends_with("E08006"), "{what}: {}", heard(&received));
    }
}

#[tokio::test(start_paused = true)]
async fn data_is_not_asked_for_by_what_is_no_copy() {
    let received = answered(&masking(), &query("SELECT 1"), b'Q', &raw(b'G', b"\0\0\x01\0\0")).await;
    assert_eq!(heard(&received), "E08006");
}

#[tokio::test(start_paused = true)]
async fn what_is_described_twice_is_masked_by_the_second() {
    let lie = [described(1), described(3), row(3), done()].concat();
    let received = answered(&masking(), &query("SELECT v FROM t"), b'Q', &lie).await;
    assert_eq!(heard(&received), "T T D C Z");
}

#[tokio::test(start_paused = true)]
async fn an_error_within_a_result_hides_its_text_and_what_follows() {
    let lie = [described(1), noise(b'E'), row(1), noise(b'E'), raw(b'Z', b"I")].concat();
    let received = answered(&masking(), &query("SELECT v FROM t"), b'Q', &lie).await;
    assert_eq!(heard(&received), "T EXX000 D EXX000 Z");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_messages_that_nobody_asked_for_passes_within_bounds() {
    let notices = noise(b'N').repeat(50_000);
    let settings = bytes(|out| write::parameter_status(out, b"application_name", b"x")).repeat(50_000);
    let notifications = raw(b'A', b"\0\0\0\x01channel\0payload\0").repeat(50_000);
    for flood in [notices, settings, notifications] {
        let gate = masking();
        let lie = [&flood[..], &described(1), &row(1), &done()].concat();
        let received = answered(&gate, &query("SELECT v FROM t"), b'Q', &lie).await;
        assert!(heard(&received).ends_with(" T D C Z"));
        assert_eq!(messages(&received).len(), 50_004);
        let held = gate.held.load(std::sync::atomic::Ordering::SeqCst);
        assert!(held < 4 * HIGH_WATER, "{held} bytes were held");
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_row_that_nobody_masks_passes_in_pieces_and_may_break_off() {
    let gate = ScriptedGate::open();
    let lie = [described(1), lying(b'D', (1 << 30) - 1, &vec![b'x'; 8 << 20])].concat();
    let received = answered(&gate, &query("SELECT v FROM t"), b'Q', &lie).await;
    // Nothing can be said within a message, so the agent hears only that it breaks off.
    assert_eq!(heard(&received), "T");
    assert!(received.len() > 8 << 20);
    let held = gate.held.load(std::sync::atomic::Ordering::SeqCst);
    assert!(held < 4 * HIGH_WATER, "{held} bytes were held");
}
