//! An agent on the wire: it sends what it is told, and keeps every byte that comes back.
//!
//! A step is a simple query, or a line that begins with `:`
//!
//!     :text SQL        extended protocol, results as text
//!     :binary SQL      extended protocol, results in binary
//!     :parse NAME SQL  a statement of that name
//!     :run NAME        binds and runs it, results as text; `:runbin NAME` in binary
//!     :describe NAME   describes it

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use interceptor::protocol::postgres::codec::{Backend, ProtocolVersion, Side, backend_limit, frame, write};
use interceptor::testing::postgres::Postgres;

/// Longer than any statement may run.
const PATIENCE: Duration = Duration::from_secs(60);

/// One thing that an agent was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// A value of a row; its number, where it is one.
    Cell { bytes: Vec<u8>, number: Option<i64> },
    /// A NULL.
    Null,
    /// A column's name.
    Name(Vec<u8>),
    /// Data of a COPY.
    Copy(Vec<u8>),
    /// SQLSTATE, and all text of an error.
    Error(String, Vec<u8>),
    /// Text of a notice, a notification, a changed setting.
    Text(Vec<u8>),
    /// What was done, and how often.
    Tag(Vec<u8>),
}

impl Said {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Cell { bytes, .. } | Self::Name(bytes) | Self::Copy(bytes) | Self::Error(_, bytes) => bytes,
            Self::Text(bytes) | Self::Tag(bytes) => bytes,
            Self::Null => &[],
        }
    }
}

/// All that an agent was told in a case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) said: Vec<Said>,
    /// Every byte.
    pub(crate) raw: Vec<u8>,
}

impl Script {
    /// SQLSTATE and text of the errors.
    pub(crate) fn errors(&self) -> impl Iterator<Item = (&str, String)> {
        self.said.iter().filter_map(|said| match said {
            Said::Error(state, text) => Some((state.as_str(), String::from_utf8_lossy(text).into_owned())),
            _ => None,
        })
    }
}

/// A connection.
pub(crate) struct Agent {
    stream: TcpStream,
    buffer: BytesMut,
    out: BytesMut,
    script: Script,
    types: Vec<(u32, bool)>,
}

impl Agent {
    /// Connects, and waits until the session is ready.
    pub(crate) fn connect(port: u16, user: &str, database: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (buffer, out) = (BytesMut::new(), BytesMut::new());
        let mut agent = Self { stream, buffer, out, script: Script::default(), types: Vec::new() };
        let parameters = [(&b"user"[..], user.as_bytes()), (b"database", database.as_bytes())];
        write::startup(&mut agent.out, ProtocolVersion::V3_0, parameters);
        agent.until_ready()?;
        match agent.take().errors().next() {
            Some((_, text)) => Err(io::Error::other(text)),
            None => Ok(agent),
        }
    }

    /// Does one step.
    pub(crate) fn step(&mut self, step: &str) -> io::Result<()> {
        let (word, rest) = match step.strip_prefix(':') {
            Some(rest) => rest.split_once(' ').unwrap_or((rest, "")),
            None => ("", step),
        };
        self.types.clear();
        match word {
            "text" | "binary" => {
                write::parse(&mut self.out, b"", rest.as_bytes());
                self.run(b"", word == "binary");
            }
            "parse" => {
                let (name, text) = rest.split_once(' ').unwrap_or_default();
                write::parse(&mut self.out, name.as_bytes(), text.as_bytes());
            }
            "run" | "runbin" => self.run(rest.as_bytes(), word == "runbin"),
            "describe" => drop(write::describe(&mut self.out, Side::Statement, rest.as_bytes())),
            _ => drop(write::query(&mut self.out, step.as_bytes())),
        }
        if !word.is_empty() {
            write::bare(&mut self.out, b'S');
        }
        self.until_ready()
    }

    /// What was said since this was last asked.
    pub(crate) fn take(&mut self) -> Script {
        std::mem::take(&mut self.script)
    }

    fn run(&mut self, statement: &[u8], binary: bool) {
        write::message(&mut self.out, b'B', |out| {
            out.put_u8(0);
            out.put_slice(statement);
            out.put_slice(&[0, 0, 0, 0, 0, 0, 1, 0, u8::from(binary)]);
        });
        write::describe(&mut self.out, Side::Portal, b"");
        write::execute(&mut self.out, b"", 0);
    }

    fn until_ready(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.out.split())?;
        loop {
            while let Some((length, ready)) = self.message()? {
                self.script.raw.extend_from_slice(&self.buffer[..length]);
                let _consumed = self.buffer.split_to(length);
                self.stream.write_all(&self.out.split())?;
                if ready {
                    return Ok(());
                }
            }
            let mut chunk = [0; 16384];
            match self.stream.read(&mut chunk)? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the session was closed")),
                read => self.buffer.extend_from_slice(&chunk[..read]),
            }
        }
    }

    /// Length of the next message, and whether it ends the answer.
    fn message(&mut self) -> io::Result<Option<(usize, bool)>> {
        let malformed = |what| io::Error::other(format!("{what:?}"));
        let Some(found) = frame(&self.buffer, backend_limit).map_err(malformed)? else { return Ok(None) };
        let length = found.raw.len();
        let said = &mut self.script.said;
        match Backend::decode(found).map_err(malformed)? {
            Backend::RowDescription(fields) => {
                self.types = fields.map(|field| (field.type_oid, field.format == 1)).collect();
                said.extend(fields.map(|field| Said::Name(field.name.to_vec())));
            }
            Backend::DataRow(values) => {
                for (at, value) in values.enumerate() {
                    let Some(value) = value else {
                        said.push(Said::Null);
                        continue;
                    };
                    let number = number(self.types.get(at).copied().unwrap_or_default(), value);
                    said.push(Said::Cell { bytes: value.to_vec(), number });
                }
            }
            Backend::CopyData(data) => said.push(Said::Copy(data.to_vec())),
            Backend::CopyInResponse(_) => drop(write::message(&mut self.out, b'f', |out| out.put_u8(0))),
            Backend::CommandComplete(tag) => said.push(Said::Tag(tag.to_vec())),
            Backend::ErrorResponse(notice) => {
                let state = String::from_utf8_lossy(notice.field(b'C').unwrap_or_default()).into_owned();
                let fields = notice.fields().filter(|(code, _)| *code != b'L');
                said.push(Said::Error(state, fields.map(|(_, text)| text).collect::<Vec<_>>().join(&b' ')));
            }
            Backend::NoticeResponse(notice) => {
                let fields = notice.fields().filter(|(code, _)| *code != b'L');
                said.push(Said::Text(fields.map(|(_, text)| text).collect::<Vec<_>>().join(&b' ')));
            }
            Backend::NotificationResponse { channel, payload, .. } => {
                said.push(Said::Text([channel, b" ", payload].concat()));
            }
            Backend::ParameterStatus(name, value) => said.push(Said::Text([name, b" ", value].concat())),
            Backend::ReadyForQuery(_) => return Ok(Some((length, true))),
            _ => {}
        }
        Ok(Some((length, false)))
    }
}

/// The number that an integer in binary is.
fn number((kind, binary): (u32, bool), value: &[u8]) -> Option<i64> {
    match (kind, binary) {
        (20 | 21 | 23, true) if value.len() <= 8 => Some(
            value.iter().fold(if value.first()? & 0x80 == 0 { 0 } else { -1 }, |all, byte| all << 8 | i64::from(*byte)),
        ),
        (20 | 21 | 23, false) => std::str::from_utf8(value).ok()?.parse().ok(),
        _ => None,
    }
}

/// Name and binary form of every value of the table `people` that is not to be seen, straight from the server.
pub(crate) fn binary_cells(server: &Postgres, database: &str) -> Vec<(String, Vec<u8>)> {
    let mut agent = Agent::connect(server.port(), "postgres", database).unwrap();
    agent.step(":binary SELECT * FROM people").unwrap();
    let said = agent.take().said;
    let names: Vec<String> = said
        .iter()
        .filter_map(|said| match said {
            Said::Name(name) => Some(String::from_utf8_lossy(name).into_owned()),
            _ => None,
        })
        .collect();
    let cells = said.into_iter().filter_map(|said| match said {
        Said::Cell { bytes, .. } => Some(bytes),
        Said::Null => Some(Vec::new()),
        _ => None,
    });
    let visible = ["id", "name", "team", "note"];
    let named = names.iter().cycle().cloned().zip(cells);
    named.filter(|(name, _)| !visible.contains(&name.as_str())).collect()
}
