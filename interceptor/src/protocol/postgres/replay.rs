//! Recorded PostgreSQL streams, back into what the agent saw.
//!
//! Owns the view of a replay: statements, result grids, messages. Judges nothing, and never fails: what it cannot read
//! is summed up as [`Shown::Other`], and after a stream that makes no sense it shows byte counts only. Holds at most one
//! message of each direction ([`HELD_LIMIT`]) and [`NAMES_LIMIT`] prepared statements and portals.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::fmt::Write as _;

use super::codec::{self, Backend, Bind, Field, Frontend, Malformed, Notice, Rows, Side, Startup};
use crate::clock::Timestamp;
use crate::protocol::{Direction, Replayer, Shown};
use crate::wire::Reader;

/// Reads one session.
#[derive(Debug, Default)]
pub(super) struct Replay {
    agent: Stream,
    target: Stream,
    statements: HashMap<Vec<u8>, Prepared>,
    portals: HashMap<Vec<u8>, Portal>,
    /// What the target said of prepared statements, by [`Prepared::id`].
    described: HashMap<u64, Described>,
    parsed: u64,
    /// What the agent asked for and the target has not answered, oldest first.
    asked: VecDeque<Asked>,
    /// Columns of the result that is being shown.
    columns: Vec<Column>,
    headed: bool,
    copied: u64,
}

#[derive(Clone, Debug)]
struct Prepared {
    id: u64,
    text: String,
}

#[derive(Clone, Debug)]
struct Portal {
    statement: u64,
    /// The statement with its values.
    line: String,
    /// Format codes of the result: none, one for all, or one a column.
    binary: Vec<bool>,
}

#[derive(Debug, Default)]
struct Described {
    types: Vec<u32>,
    columns: Vec<(String, u32)>,
}

#[derive(Debug)]
enum Asked {
    /// What a statement's parameters and columns are.
    Describe(u64),
    /// Rows of a portal.
    Execute(Portal),
    /// Everything up to ReadyForQuery.
    Ready,
}

#[derive(Clone, Copy, Debug)]
struct Column {
    type_oid: u32,
    binary: bool,
}

#[derive(Debug, Default)]
struct Stream {
    held: Vec<u8>,
    started: bool,
    lost: bool,
}

impl Replayer for Replay {
    fn feed(&mut self, direction: Direction, bytes: &[u8]) -> Vec<Shown> {
        let mut shown = Vec::new();
        let stream = match direction {
            Direction::FromAgent => &mut self.agent,
            Direction::ToAgent => &mut self.target,
        };
        let mut held = std::mem::take(&mut stream.held);
        held.extend_from_slice(bytes);
        let mut at = 0;
        while !self.stream(direction).lost {
            let rest = held.get(at..).unwrap_or_default();
            match self.next(direction, rest, &mut shown) {
                Ok(0) if rest.len() <= HELD_LIMIT => break,
                Ok(length) if length > 0 => at += length,
                _ => self.stream(direction).lost = true,
            }
        }
        let rest = held.split_off(at.min(held.len()));
        let stream = self.stream(direction);
        if stream.lost && !rest.is_empty() {
            let way = if direction == Direction::FromAgent { "from" } else { "to" };
            shown.push(Shown::Other(format!("{} bytes {way} the agent that are not readable as messages", rest.len())));
        } else {
            stream.held = rest;
        }
        shown
    }
}

impl Replay {
    fn stream(&mut self, direction: Direction) -> &mut Stream {
        match direction {
            Direction::FromAgent => &mut self.agent,
            Direction::ToAgent => &mut self.target,
        }
    }

    /// Shows the message at the start of `rest`, and gives its length; 0 where it is not whole.
    fn next(&mut self, direction: Direction, rest: &[u8], shown: &mut Vec<Shown>) -> Result<usize, Malformed> {
        if direction == Direction::ToAgent {
            let Some(frame) = codec::frame(rest, |_| HELD_LIMIT)? else { return Ok(0) };
            match Backend::decode(frame) {
                Ok(message) => self.backend(message, shown),
                Err(error) => shown.push(Shown::Other(format!("from the target: {error}"))),
            }
            return Ok(frame.raw.len());
        }
        // A typed message begins with a letter; the length of a start-up packet begins with a zero.
        if !self.agent.started && rest.first() == Some(&0) {
            let Some((packet, length)) = codec::startup(rest)? else { return Ok(0) };
            shown.push(Shown::Other(opening(packet)));
            return Ok(length);
        }
        let Some(frame) = codec::frame(rest, |_| HELD_LIMIT)? else { return Ok(0) };
        self.agent.started = true;
        match Frontend::decode(frame) {
            Ok(message) => self.frontend(message, shown),
            Err(error) => shown.push(Shown::Other(format!("from the agent: {error}"))),
        }
        Ok(frame.raw.len())
    }

    fn frontend(&mut self, message: Frontend<'_>, shown: &mut Vec<Shown>) {
        match message {
            Frontend::Query(sql) => {
                shown.push(Shown::Statement(text(sql)));
                self.ask(Asked::Ready);
            }
            Frontend::Parse { name, text: sql, types } => self.parse(name, sql, types),
            Frontend::Bind(bind) => self.bind(&bind),
            Frontend::Describe(side, name) => {
                let statement = match side {
                    Side::Statement => self.statements.get(name).map(|prepared| prepared.id),
                    Side::Portal => self.portals.get(name).map(|portal| portal.statement),
                };
                self.ask(Asked::Describe(statement.unwrap_or(0)));
            }
            Frontend::Execute { portal, max_rows } => {
                let unknown = || Portal { statement: 0, line: "rows of a cursor".into(), binary: Vec::new() };
                let portal = self.portals.get(portal).cloned().unwrap_or_else(unknown);
                let limit = if max_rows > 0 { format!("  -- at most {max_rows} rows") } else { String::new() };
                shown.push(Shown::Statement(format!("{}{limit}", portal.line)));
                self.ask(Asked::Execute(portal));
            }
            Frontend::Close(Side::Statement, name) => drop(self.statements.remove(name)),
            Frontend::Close(Side::Portal, name) => drop(self.portals.remove(name)),
            Frontend::CopyData(data) => self.copied = self.copied.saturating_add(len64(data)),
            Frontend::CopyDone => self.copy_ended(shown, "sent"),
            Frontend::CopyFail(reason) => {
                self.copy_ended(shown, "sent");
                shown.push(Shown::Other(format!("the agent gave the copy up: {}", text(reason))));
            }
            Frontend::FunctionCall(call) => {
                let (function, count) = (call.function, call.arguments.len());
                shown.push(Shown::Other(format!("a call of function {function} with {count} arguments")));
                self.ask(Asked::Ready);
            }
            Frontend::Password(_) => shown.push(Shown::Other("an authentication message".into())),
            Frontend::Terminate => shown.push(Shown::Other("the agent said goodbye".into())),
            Frontend::Sync => self.ask(Asked::Ready),
            Frontend::Flush => {}
        }
    }

    fn ask(&mut self, asked: Asked) {
        if self.asked.len() < NAMES_LIMIT {
            self.asked.push_back(asked);
        }
    }

    fn parse(&mut self, name: &[u8], sql: &[u8], types: &[u8]) {
        self.parsed = self.parsed.saturating_add(1);
        if self.described.len() >= NAMES_LIMIT {
            self.described.clear();
        }
        let types = types.as_chunks::<4>().0.iter().map(|oid| u32::from_be_bytes(*oid)).collect();
        self.described.insert(self.parsed, Described { types, columns: Vec::new() });
        remember(&mut self.statements, name, Prepared { id: self.parsed, text: text(sql) });
    }

    fn bind(&mut self, bind: &Bind<'_>) {
        let prepared = self.statements.get(bind.statement);
        let (statement, mut line) =
            prepared.map_or_else(|| (0, "a statement prepared with SQL".into()), |p| (p.id, p.text.clone()));
        let types = self.described.get(&statement).map_or([].as_slice(), |described| described.types.as_slice());
        for (index, value) in bind.parameters.enumerate() {
            let oid = types.get(index).copied().unwrap_or(0);
            let shown = value.map_or_else(|| "NULL".into(), |bytes| cell(oid, bind.formats.is_binary(index), bytes));
            let (lead, number) = (if index == 0 { "  -- " } else { ", " }, index + 1);
            let _infallible = write!(line, "{lead}${number} = {shown}");
        }
        let binary = (0..bind.results.len()).map(|index| bind.results.is_binary(index)).collect();
        remember(&mut self.portals, bind.portal, Portal { statement, line, binary });
    }

    /// A description: of a prepared statement where one was asked for, else of the rows that follow.
    fn described(&mut self, fields: &[Field<'_>], shown: &mut Vec<Shown>) {
        if let Some(Asked::Describe(id)) = self.asked.front() {
            if let Some(described) = self.described.get_mut(id) {
                described.columns = fields.iter().map(|field| (text(field.name), field.type_oid)).collect();
            }
            self.asked.pop_front();
            return;
        }
        self.columns =
            fields.iter().map(|field| Column { type_oid: field.type_oid, binary: field.format == 1 }).collect();
        shown.push(Shown::Header(fields.iter().map(|field| text(field.name)).collect()));
    }

    /// Before the first row of a portal: its columns, from the description and the formats that the agent asked for.
    fn head(&mut self, shown: &mut Vec<Shown>) {
        let Some(Asked::Execute(portal)) = self.asked.front() else { return };
        if std::mem::replace(&mut self.headed, true) {
            return;
        }
        let described = self.described.get(&portal.statement).map_or([].as_slice(), |d| d.columns.as_slice());
        let all = if let [all] = portal.binary.as_slice() { Some(*all) } else { None };
        let binary = |index| all.or_else(|| portal.binary.get(index).copied()).unwrap_or(false);
        self.columns = described
            .iter()
            .enumerate()
            .map(|(index, (_, oid))| Column { type_oid: *oid, binary: binary(index) })
            .collect();
        if !described.is_empty() {
            shown.push(Shown::Header(described.iter().map(|(name, _)| name.clone()).collect()));
        }
    }

    fn completed(&mut self, words: String, shown: &mut Vec<Shown>) {
        self.headed = false;
        if matches!(self.asked.front(), Some(Asked::Execute(_))) {
            self.asked.pop_front();
        }
        shown.push(Shown::Complete(words));
    }

    fn backend(&mut self, message: Backend<'_>, shown: &mut Vec<Shown>) {
        match message {
            Backend::RowDescription(fields) => self.described(&fields.collect::<Vec<_>>(), shown),
            Backend::NoData => {
                if matches!(self.asked.front(), Some(Asked::Describe(_))) {
                    self.asked.pop_front();
                }
            }
            Backend::ParameterDescription(types) => {
                if let Some(Asked::Describe(id)) = self.asked.front()
                    && let Some(described) = self.described.get_mut(id)
                {
                    described.types = types.as_chunks::<4>().0.iter().map(|oid| u32::from_be_bytes(*oid)).collect();
                }
            }
            Backend::DataRow(values) => {
                self.head(shown);
                let row = values.enumerate().map(|(index, value)| {
                    let column = self.columns.get(index);
                    let (oid, binary) = column.map_or((0, false), |column| (column.type_oid, column.binary));
                    value.map(|bytes| cell(oid, binary, bytes))
                });
                shown.push(Shown::Row(row.collect()));
            }
            Backend::CommandComplete(tag) => self.completed(text(tag), shown),
            Backend::EmptyQueryResponse => self.completed("an empty statement".into(), shown),
            Backend::PortalSuspended => self.completed("suspended: the row limit was reached".into(), shown),
            Backend::ErrorResponse(notice) => {
                // The target skips what was asked until the pipeline ends.
                self.headed = false;
                while matches!(self.asked.front(), Some(Asked::Describe(_) | Asked::Execute(_))) {
                    self.asked.pop_front();
                }
                shown.push(Shown::Message(notice_text(&notice)));
            }
            Backend::NoticeResponse(notice) => shown.push(Shown::Message(notice_text(&notice))),
            Backend::ReadyForQuery(_) => {
                self.headed = false;
                while let Some(asked) = self.asked.pop_front() {
                    if matches!(asked, Asked::Ready) {
                        break;
                    }
                }
            }
            Backend::NotificationResponse { channel, payload, .. } => {
                shown.push(Shown::Other(format!("notification on {}: {}", text(channel), text(payload))));
            }
            Backend::CopyInResponse(rows) => shown.push(Shown::Other(copy_text("the target asks for data", &rows))),
            Backend::CopyOutResponse(rows) => shown.push(Shown::Other(copy_text("the target sends data", &rows))),
            Backend::CopyBothResponse(rows) => shown.push(Shown::Other(copy_text("replication begins", &rows))),
            Backend::CopyData(data) => {
                self.copied = self.copied.saturating_add(len64(data));
                shown.push(Shown::Other(copied_row(data)));
            }
            Backend::CopyDone => self.copy_ended(shown, "received"),
            Backend::FunctionCallResponse(body) => {
                shown.push(Shown::Other(format!("a function's result, {} bytes", body.len())))
            }
            Backend::ParameterStatus(name, value) => {
                shown.push(Shown::Other(format!("{} is {}", text(name), text(value))));
            }
            Backend::Authentication(_)
            | Backend::BackendKeyData { .. }
            | Backend::NegotiateProtocolVersion { .. }
            | Backend::ParseComplete
            | Backend::BindComplete
            | Backend::CloseComplete => {}
        }
    }

    fn copy_ended(&mut self, shown: &mut Vec<Shown>, what: &str) {
        shown.push(Shown::Other(format!("{} bytes of copy data {what}", self.copied)));
        self.copied = 0;
    }
}

/// Most bytes of one message that are held until it is whole.
const HELD_LIMIT: usize = codec::MESSAGE_LIMIT;
/// Most prepared statements, and most portals, that are remembered.
const NAMES_LIMIT: usize = 10_000;
/// Most bytes of one line of copy data that are shown.
const COPY_SHOWN: usize = 200;

/// Days from 1970-01-01 to 2000-01-01, where PostgreSQL's dates begin.
const EPOCH_DAYS: i64 = 10_957;

fn remember<V>(names: &mut HashMap<Vec<u8>, V>, name: &[u8], value: V) {
    if names.len() < NAMES_LIMIT || names.contains_key(name) {
        names.insert(name.to_vec(), value);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn len64(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn opening(packet: Startup<'_>) -> String {
    match packet {
        Startup::Ssl => "the agent asks for TLS".into(),
        Startup::GssEnc => "the agent asks for GSSAPI encryption".into(),
        Startup::Cancel { process_id, .. } => format!("a cancel request for {process_id}"),
        Startup::Open { version, parameters } => {
            let mut line = format!("the agent opens protocol {}.{}:", version.major, version.minor);
            for (name, value) in parameters {
                let _infallible = write!(line, " {}={}", text(name), text(value));
            }
            line
        }
    }
}

fn copy_text(what: &str, rows: &Rows<'_>) -> String {
    format!("COPY: {what}{}", if rows.binary { ", in the binary format" } else { "" })
}

fn copied_row(data: &[u8]) -> String {
    let line = std::str::from_utf8(data).map(|line| line.trim_end_matches('\n'));
    match line {
        Ok(line) if line.len() <= COPY_SHOWN => format!("COPY: {line}"),
        _ => format!("COPY: {} bytes", data.len()),
    }
}

/// As a client prints it: severity, text, code, then detail and hint.
fn notice_text(notice: &Notice<'_>) -> String {
    let field = |code| notice.field(code).map(text);
    let severity = field(b'V').or_else(|| field(b'S')).unwrap_or_else(|| "ERROR".into());
    let mut line = format!("{severity}: {}", field(b'M').unwrap_or_default());
    for (code, before, after) in [(b'C', " (", ")"), (b'D', "\nDETAIL: ", ""), (b'H', "\nHINT: ", "")] {
        if let Some(value) = field(code) {
            let _infallible = write!(line, "{before}{value}{after}");
        }
    }
    line
}

/// A value as text: as it came in the text format, by its type in the binary one, in hexadecimal where it is neither.
fn cell(type_oid: u32, binary: bool, bytes: &[u8]) -> String {
    if !binary {
        return text(bytes);
    }
    binary_cell(type_oid, bytes).unwrap_or_else(|| hexadecimal(bytes))
}

/// Types by the OIDs of `pg_type.dat`.
fn binary_cell(type_oid: u32, bytes: &[u8]) -> Option<String> {
    let mut reader = Reader::new(bytes);
    let shown = match type_oid {
        16 => if reader.u8()? == 0 { "f" } else { "t" }.to_owned(),
        21 => reader.i16()?.to_string(),
        23 => reader.i32()?.to_string(),
        26 | 24 | 2205 | 2206 => reader.u32()?.to_string(),
        20 => long(&mut reader)?.to_string(),
        700 => f32::from_bits(reader.u32()?).to_string(),
        701 => f64::from_bits(long(&mut reader)?.cast_unsigned()).to_string(),
        18 | 19 | 25 | 114 | 142 | 705 | 1042 | 1043 => {
            std::str::from_utf8(reader.bytes(bytes.len())?).ok()?.to_owned()
        }
        3802 => {
            (reader.u8()? == 1).then_some(())?;
            std::str::from_utf8(reader.bytes(bytes.len().checked_sub(1)?)?).ok()?.to_owned()
        }
        1082 => date(i64::from(reader.i32()?))?,
        1083 => time_of_day(long(&mut reader)?)?,
        1114 => moment(long(&mut reader)?)?,
        1184 => format!("{}+00", moment(long(&mut reader)?)?),
        1700 => numeric(&mut reader)?,
        2950 => uuid(reader.bytes(16)?),
        _ => return None,
    };
    reader.is_empty().then_some(shown)
}

fn long(reader: &mut Reader<'_>) -> Option<i64> {
    reader.bytes(8)?.first_chunk().map(|bytes| i64::from_be_bytes(*bytes))
}

fn date(days: i64) -> Option<String> {
    let stamp = days.checked_add(EPOCH_DAYS)?.checked_mul(86_400)?;
    Timestamp::from_unix(stamp).to_string().split_once('T').map(|(day, _)| day.to_owned())
}

fn moment(micros: i64) -> Option<String> {
    let stamp = Timestamp(micros.checked_add(EPOCH_DAYS * 86_400 * 1_000_000)?).to_string();
    let (day, time) = stamp.strip_suffix('Z')?.split_once('T')?;
    Some(format!("{day} {}", trimmed(time)))
}

fn time_of_day(micros: i64) -> Option<String> {
    let stamp = Timestamp(micros).to_string();
    stamp.strip_suffix('Z')?.split_once('T').map(|(_, time)| trimmed(time).to_owned())
}

/// Without the zeros at the end of the fraction, as the server prints it.
fn trimmed(time: &str) -> &str {
    match time.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|digit| digit == b'0') => whole,
        Some(_) => time.trim_end_matches('0'),
        None => time,
    }
}

/// `numeric_send`: count of base-10000 digits, weight of the first, sign, digits after the point, digits.
fn numeric(reader: &mut Reader<'_>) -> Option<String> {
    let (count, weight, sign, scale) = (reader.u16()?, reader.i16()?, reader.u16()?, usize::from(reader.u16()?));
    let sign = match sign {
        0 => "",
        0x4000 => "-",
        0xc000 => return Some("NaN".into()),
        0xd000 => return Some("Infinity".into()),
        0xf000 => return Some("-Infinity".into()),
        _ => return None,
    };
    let digits = (0..count).map(|_| reader.u16()).collect::<Option<Vec<u16>>>()?;
    let group = |place: i32| -> u16 {
        usize::try_from(i32::from(weight) - place).ok().and_then(|index| digits.get(index)).copied().unwrap_or(0)
    };
    let mut shown = sign.to_owned();
    let _infallible = write!(shown, "{}", group(i32::from(weight).max(0)));
    for place in (0..i32::from(weight)).rev() {
        let _infallible = write!(shown, "{:04}", group(place));
    }
    if scale > 0 {
        let mut fraction = String::new();
        let mut place = -1;
        while fraction.len() < scale {
            let _infallible = write!(fraction, "{:04}", group(place));
            place -= 1;
        }
        fraction.truncate(scale);
        let _infallible = write!(shown, ".{fraction}");
    }
    Some(shown)
}

fn uuid(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
        let _infallible = write!(shown, "{dash}{byte:02x}");
    }
    shown
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut shown = String::from("\\x");
    for byte in bytes {
        let _infallible = write!(shown, "{byte:02x}");
    }
    shown
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut as _, BytesMut};
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::postgres::codec::write;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        assert!(write::message(&mut out, tag, |out| out.put_slice(body)));
        out.to_vec()
    }

    fn fields(columns: &[(&str, u32, u16)]) -> Vec<u8> {
        let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
        for (name, oid, format) in columns {
            body.extend_from_slice(name.as_bytes());
            body.extend_from_slice(&[0; 7]);
            body.extend_from_slice(&oid.to_be_bytes());
            body.extend_from_slice(&[0, 4, 0xff, 0xff, 0xff, 0xff]);
            body.extend_from_slice(&format.to_be_bytes());
        }
        message(b'T', &body)
    }

    fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
        let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for value in values {
            body.extend_from_slice(&value.map_or(-1, |v| i32::try_from(v.len()).unwrap()).to_be_bytes());
            body.extend_from_slice(value.unwrap_or_default());
        }
        message(b'D', &body)
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn a_simple_query_is_a_grid() {
        let mut replay = Replay::default();
        let sent = replay.feed(Direction::FromAgent, &message(b'Q', b"select 1\0"));
        assert_eq!(sent, [Shown::Statement("select 1".into())]);
        let answer = [fields(&[("a", 25, 0), ("b", 23, 0)]), row(&[Some(b"x"), None]), message(b'C', b"SELECT 1\0")];
        let shown = replay.feed(Direction::ToAgent, &answer.concat());
        let wanted = [
            Shown::Header(strings(&["a", "b"])),
            Shown::Row(vec![Some("x".into()), None]),
            Shown::Complete("SELECT 1".into()),
        ];
        assert_eq!(shown, wanted);
    }

    /// As drivers do: the statement is described once, and run later with binary results.
    fn extended() -> [(Direction, Vec<u8>); 4] {
        let prepare = [message(b'P', b"s\0select $1\0\0\0"), message(b'D', b"Ss\0"), message(b'S', b"")];
        let bind = b"\0s\0\0\x01\0\x01\0\x01\0\0\0\x04\0\0\0\x2a\0\x01\0\x01";
        let run = [message(b'B', bind), message(b'E', b"\0\0\0\0\0"), message(b'S', b"")];
        let described =
            [message(b'1', b""), message(b't', b"\0\x01\0\0\0\x17"), fields(&[("n", 23, 0)]), message(b'Z', b"I")];
        let rows =
            [message(b'2', b""), row(&[Some(&[0, 0, 0, 42])]), message(b'C', b"SELECT 1\0"), message(b'Z', b"I")];
        let (from, to) = (Direction::FromAgent, Direction::ToAgent);
        [(from, prepare.concat()), (to, described.concat()), (from, run.concat()), (to, rows.concat())]
    }

    #[test]
    fn values_of_a_prepared_statement_are_shown_by_type() {
        let mut replay = Replay::default();
        let shown: Vec<Shown> = extended().iter().flat_map(|(way, bytes)| replay.feed(*way, bytes)).collect();
        let wanted = [
            Shown::Statement("select $1  -- $1 = 42".into()),
            Shown::Header(strings(&["n"])),
            Shown::Row(vec![Some("42".into())]),
            Shown::Complete("SELECT 1".into()),
        ];
        assert_eq!(shown, wanted);
        assert!(replay.asked.is_empty());
    }

    #[test]
    fn an_error_ends_what_was_asked_until_sync() {
        let mut replay = Replay::default();
        let pipeline = [message(b'P', b"\0drop table x\0\0\0"), message(b'D', b"S\0"), message(b'S', b"")];
        replay.feed(Direction::FromAgent, &pipeline.concat());
        let error = b"SERROR\0VERROR\0C42501\0Mdenied\0Hask the owner\0\0";
        let shown = replay.feed(Direction::ToAgent, &[message(b'E', error), message(b'Z', b"I")].concat());
        assert_eq!(shown, [Shown::Message("ERROR: denied (42501)\nHINT: ask the owner".into())]);
        assert!(replay.asked.is_empty());
    }

    #[test]
    fn binary_values_read_as_the_server_prints_them() {
        let shown = |oid, bytes: &[u8]| cell(oid, true, bytes);
        assert_eq!(shown(16, &[1]), "t");
        assert_eq!(shown(20, &(-5i64).to_be_bytes()), "-5");
        assert_eq!(shown(701, &1.5f64.to_be_bytes()), "1.5");
        assert_eq!(shown(1082, &0i32.to_be_bytes()), "2000-01-01");
        assert_eq!(shown(1114, &1_500_000i64.to_be_bytes()), "2000-01-01 00:00:01.5");
        assert_eq!(shown(1184, &0i64.to_be_bytes()), "2000-01-01 00:00:00+00");
        let numeric = |parts: &[u16]| shown(1700, &parts.iter().flat_map(|p| p.to_be_bytes()).collect::<Vec<_>>());
        assert_eq!(numeric(&[2, 0, 0, 2, 12, 3400]), "12.34");
        assert_eq!(numeric(&[2, 1, 0x4000, 0, 1, 2]), "-10002");
        assert_eq!(numeric(&[1, 0xffff, 0, 4, 42]), "0.0042");
        assert_eq!(numeric(&[0, 0, 0, 2]), "0.00");
        assert_eq!(numeric(&[0, 0, 0xc000, 0]), "NaN");
        assert_eq!(shown(3802, b"\x01{}"), "{}");
        assert_eq!(shown(23, &[1, 2]), "\\x0102");
        assert_eq!(shown(99_999, &[0xab]), "\\xab");
    }

    #[test]
    fn nonsense_is_summed_up() {
        let mut replay = Replay::default();
        let shown = replay.feed(Direction::ToAgent, b"D\0\0\0\0more");
        assert_eq!(shown, [Shown::Other("9 bytes to the agent that are not readable as messages".into())]);
    }

    proptest! {
        #[test]
        fn any_split_shows_the_same(cut in 0..200usize) {
            let (mut whole, mut split) = (Replay::default(), Replay::default());
            for (direction, bytes) in extended() {
                let (a, b) = bytes.split_at(cut.min(bytes.len()));
                let mut parts = split.feed(direction, a);
                parts.extend(split.feed(direction, b));
                prop_assert_eq!(parts, whole.feed(direction, &bytes));
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), oid in 0..4000u32, to_agent: bool) {
            let _text = cell(oid, true, &bytes);
            let direction = if to_agent { Direction::ToAgent } else { Direction::FromAgent };
            let _shown = Replay::default().feed(direction, &bytes);
        }
    }
}
