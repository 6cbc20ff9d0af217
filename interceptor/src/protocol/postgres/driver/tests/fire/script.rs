//! The conversation that things go wrong in, and the agent that holds it as long as it can.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::protocol::postgres::codec::{ProtocolVersion, Side, write};

/// Tables of the conversation. The values of `email` and `card` must never be seen.
pub(super) const TABLES: &str = "CREATE TABLE people (id int PRIMARY KEY, email text, card text, note text); \
    INSERT INTO people VALUES (1, 'treasure@deep.test', '4929000011112222', 'plain'), \
    (2, 'x@treasure.test', '4929000033334444', 'plain'); CREATE TABLE inbox (id int, v text);";

/// Never to be seen by an agent.
pub(super) const SECRETS: [&[u8]; 2] = [b"treasure", b"49290000"];

/// Stands in what policy denies.
pub(super) const DENIED: &str = "forbidden";

/// What the agent sends, and how many messages of which type it then waits for.
pub(super) struct Act {
    pub(super) says: Vec<u8>,
    pub(super) until: (u8, usize),
}

fn act<T>(until: u8, write: impl FnOnce(&mut BytesMut) -> T) -> Act {
    let mut says = BytesMut::new();
    let _written = write(&mut says);
    Act { says: says.to_vec(), until: (until, 1) }
}

fn query(text: &'static str) -> Act {
    act(b'Z', |out| write::query(out, text.as_bytes()))
}

/// Start-up, simple and extended queries, a pipeline, COPY both ways, a cursor, a portal in steps, masks, denials, goodbye.
pub(super) fn conversation() -> Vec<Act> {
    let copied = |out: &mut BytesMut| {
        for line in ["7\tseven\n", "8\tei", "ght\n"] {
            write::message(out, b'd', |out| out.put_slice(line.as_bytes()));
        }
        write::bare(out, b'c');
    };
    vec![
        act(b'Z', |out| {
            let parameters = [(&b"user"[..], &b"agent"[..]), (b"database", b"postgres")];
            write::startup(out, ProtocolVersion::V3_0, parameters)
        }),
        query("SELECT id, email, card, note FROM people ORDER BY id"),
        query("SELECT upper(email), md5(note) FROM people; SELECT 1"),
        act(b'Z', |out| {
            write::parse(out, b"s", b"SELECT id, card, upper(email) FROM people ORDER BY id");
            write::bind(out, b"", b"s");
            write::describe(out, Side::Portal, b"");
            write::execute(out, b"", 0);
            write::parse(out, b"", b"SELECT note, email FROM people");
            write::bind(out, b"p", b"");
            write::execute(out, b"p", 1);
            write::bare(out, b'H');
            write::execute(out, b"p", 1);
            write::close(out, Side::Statement, b"s");
            write::bare(out, b'S');
        }),
        query("SELECT 'forbidden', email FROM people"),
        query("COPY people TO STDOUT"),
        act(b'G', |out| write::query(out, b"COPY inbox FROM STDIN")),
        act(b'Z', copied),
        query("BEGIN"),
        query("DECLARE c CURSOR FOR SELECT email, card FROM people"),
        query("FETCH 1 FROM c"),
        query("SELECT 'forbidden' IN THE BLOCK"),
        query("ROLLBACK"),
        query("SELECT count(*) FROM inbox WHERE false"),
        act(0, |out| write::bare(out, b'X')),
    ]
}

/// An agent that says its part, until it is not answered.
pub(super) async fn converse(address: SocketAddr, patience: Duration) -> Vec<u8> {
    let mut received = Vec::new();
    let Ok(mut stream) = TcpStream::connect(address).await else { return received };
    let mut seen = 0;
    for act in conversation() {
        if stream.write_all(&act.says).await.is_err() {
            break;
        }
        let (wanted, mut left) = act.until;
        while left > 0 && wanted != 0 {
            match timeout(patience, stream.read_buf(&mut received)).await {
                Ok(Ok(1..)) => {}
                _ => return received,
            }
            while let Some((tag, end)) = message(&received, seen) {
                left -= usize::from(tag == wanted).min(left);
                seen = end;
            }
        }
    }
    let _rest = timeout(patience, stream.read_to_end(&mut received)).await;
    received
}

/// Type and end of the whole message that starts there.
fn message(bytes: &[u8], start: usize) -> Option<(u8, usize)> {
    let header = bytes.get(start..start + 5)?;
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    let end = start + 1 + usize::try_from(length).ok()?.max(4);
    (end <= bytes.len()).then_some((header[0], end))
}

/// Messages, but for the key of cancel requests, which is another each time.
pub(super) fn messages(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut found, mut start) = (Vec::new(), 0);
    while let Some((tag, end)) = message(bytes, start) {
        found.push(if tag == b'K' { vec![tag] } else { bytes[start..end].to_vec() });
        start = end;
    }
    found
}
