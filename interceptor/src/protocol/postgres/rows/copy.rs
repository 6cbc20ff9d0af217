//! COPY OUT under masking: the text, CSV and binary formats with the server's default options.
//!
//! The server sends a row in a message of its own, but does not promise it: chunks are put together here. What does
//! not have the announced form is an error; a partial row at the end is, too.

use super::value::{Cell, Column, Columns};
use super::{Malformed, Row};
use crate::mask::{Masker, Outcome};
use crate::policy::TagSet;

/// Longest row that is put together from chunks.
pub const MAX_COPY_ROW: usize = 64 << 20;

/// Signature of the binary format.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, length of the header's extension.
const HEADER: usize = 19;

/// Form of the copied data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    /// Tabs between values, `\N` for NULL, backslash escapes.
    Text {
        /// The first line has the column names.
        header: bool,
    },
    /// Commas, double quotes, an empty value for NULL.
    Csv {
        /// The first line has the column names.
        header: bool,
    },
    /// The binary format.
    Binary,
}

impl CopyFormat {
    /// From the options of a COPY statement, in lower case, without quotes: `("format", Some("csv"))`,
    /// `("header", None)`.
    ///
    /// # Errors
    /// [`Unsupported`] for every option that changes the form: deny the statement.
    pub fn parse(options: &[(&str, Option<&str>)]) -> Result<Self, Unsupported> {
        let mut format = Self::Text { header: false };
        let mut header = false;
        for (name, value) in options {
            match (*name, *value) {
                ("format", Some("text")) => format = Self::Text { header: false },
                ("format", Some("csv")) => format = Self::Csv { header: false },
                ("format", Some("binary")) => format = Self::Binary,
                ("header", None | Some("true" | "on" | "1")) => header = true,
                ("header", Some("false" | "off" | "0")) => header = false,
                _ => return Err(Unsupported((*name).to_owned())),
            }
        }
        match format {
            Self::Text { .. } => Ok(Self::Text { header }),
            Self::Csv { .. } => Ok(Self::Csv { header }),
            Self::Binary if header => Err(Unsupported("header".to_owned())),
            Self::Binary => Ok(Self::Binary),
        }
    }
}

/// One column of the copied data.
#[derive(Clone, Debug)]
pub struct CopyColumn<'a> {
    /// Name, for the record.
    pub name: &'a str,
    /// Tags that flow into it.
    pub tags: TagSet,
    /// Whether it is computed from tagged columns.
    pub computed: bool,
    /// Type, or 0 where it is not known: a masked value is NULL then.
    pub type_oid: u32,
    /// Modifier of the type, or -1.
    pub typmod: i32,
}

/// Masks the rows of one COPY OUT.
#[derive(Debug)]
pub struct CopyMasker {
    columns: Columns,
    format: CopyFormat,
    /// Start of a row whose end has not come.
    partial: Vec<u8>,
    decoded: Vec<u8>,
    row: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    Rows,
    Ended,
}

impl CopyMasker {
    /// Prepares the masking. `width` is the number of columns in CopyOutResponse; where `columns` are not known, or
    /// not as many, all are masked whole.
    #[must_use]
    pub fn new(
        masker: Masker,
        format: CopyFormat,
        width: usize,
        columns: Option<&[CopyColumn<'_>]>,
        is_text: &dyn Fn(u32) -> bool,
    ) -> Self {
        let binary = format == CopyFormat::Binary;
        let columns = match columns {
            Some(columns) if columns.len() == width => columns
                .iter()
                .map(|column| {
                    let cell = Cell::of(column.type_oid, column.typmod, binary, is_text);
                    Column::new(column.name, masker.column(&column.tags, column.computed), cell)
                })
                .collect(),
            _ => (1..=width)
                .map(|number| {
                    Column::new(&format!("column {number}"), masker.unknown_column(), Cell::of(0, -1, binary, is_text))
                })
                .collect(),
        };
        let state = match format {
            CopyFormat::Binary | CopyFormat::Csv { header: true } | CopyFormat::Text { header: true } => State::Header,
            CopyFormat::Csv { .. } | CopyFormat::Text { .. } => State::Rows,
        };
        Self {
            columns: Columns::new(masker, columns),
            format,
            partial: Vec::new(),
            decoded: Vec::new(),
            row: Vec::new(),
            state,
        }
    }

    /// Whether nothing can change: forward the chunks without a look.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.columns.is_identity()
    }

    /// Takes the content of one CopyData and appends whole masked rows to `out`: put them into a CopyData of their
    /// own, or send none where nothing was appended.
    ///
    /// # Errors
    /// [`CopyError`]; the copy must end.
    pub fn feed(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), CopyError> {
        if self.partial.is_empty() {
            let rest = self.rows(chunk, out)?;
            self.partial.extend_from_slice(rest);
        } else {
            let mut held = std::mem::take(&mut self.partial);
            held.extend_from_slice(chunk);
            let left = self.rows(&held, out)?.len();
            held.drain(..held.len() - left);
            self.partial = held;
        }
        // A message is no longer than the codec lets it be; what is kept of them is bounded here.
        if self.partial.len() > MAX_COPY_ROW { Err(CopyError::RowTooLong) } else { Ok(()) }
    }

    /// Handles whole rows, and returns the start of the next one.
    fn rows<'a>(&mut self, mut rest: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], CopyError> {
        while !rest.is_empty() {
            match self.next(rest, out)? {
                Some(after) => rest = after,
                None => break,
            }
        }
        Ok(rest)
    }

    /// To be called at CopyDone.
    ///
    /// # Errors
    /// [`CopyError::Partial`] where a row has no end.
    pub fn finish(&mut self) -> Result<(), CopyError> {
        // What passes without a look was not fed.
        let ended = self.format != CopyFormat::Binary || self.state == State::Ended || self.is_identity();
        if self.partial.is_empty() && ended { Ok(()) } else { Err(CopyError::Partial) }
    }

    /// Columns in which values were masked since the last call, and how many.
    pub fn take_counts(&mut self) -> Vec<(String, u64)> {
        self.columns.take_counts()
    }

    /// Handles the header or one row at the start of `rest`; `None` where it is not complete.
    fn next<'a>(&mut self, rest: &'a [u8], out: &mut Vec<u8>) -> Result<Option<&'a [u8]>, CopyError> {
        if self.format == CopyFormat::Binary {
            return self.tuple(rest, out);
        }
        let csv = matches!(self.format, CopyFormat::Csv { .. });
        let end = if csv { csv_row_end(rest) } else { rest.iter().position(|byte| *byte == b'\n') };
        let Some(end) = end else { return Ok(None) };
        let (line, after) = rest.split_at_checked(end + 1).unwrap_or((rest, &[]));
        let body = line.get(..end).unwrap_or_default();
        if self.state == State::Header {
            self.state = State::Rows;
            out.extend_from_slice(line);
            return Ok(Some(after));
        }
        if csv {
            self.csv_row(body, out)?
        } else {
            self.text_row(body, out)?
        }
        out.push(b'\n');
        Ok(Some(after))
    }

    fn text_row(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), CopyError> {
        let mut found = 0;
        // A table without columns has lines without values.
        if !(line.is_empty() && self.columns.len() == 0) {
            for raw in TextValues(Some(line)) {
                if found > 0 {
                    out.push(b'\t');
                }
                self.text_value(found, raw, out)?;
                found += 1;
            }
        }
        self.count(found)
    }

    fn text_value(&mut self, index: usize, raw: &[u8], out: &mut Vec<u8>) -> Result<(), CopyError> {
        if raw == b"\\N" {
            out.extend_from_slice(raw);
            return Ok(());
        }
        let outcome = if raw.contains(&b'\\') {
            self.decoded.clear();
            unescape(raw, &mut self.decoded)?;
            self.columns.mask(index, &self.decoded)
        } else {
            self.columns.mask(index, raw)
        };
        match outcome {
            Outcome::Unchanged => out.extend_from_slice(raw),
            Outcome::Null => out.extend_from_slice(b"\\N"),
            Outcome::Replaced => escape(self.columns.masked(), out),
        }
        Ok(())
    }

    fn csv_row(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), CopyError> {
        let mut found = 0;
        if !(line.is_empty() && self.columns.len() == 0) {
            let mut rest = Some(line);
            while let Some(line) = rest {
                if found > 0 {
                    out.push(b',');
                }
                rest = self.csv_value(found, line, out)?;
                found += 1;
            }
        }
        self.count(found)
    }

    /// Handles the value at the start of `line`, and returns what follows its comma.
    fn csv_value<'a>(
        &mut self,
        index: usize,
        line: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>, CopyError> {
        let (raw, rest) = csv_split(line);
        if raw.is_empty() {
            return Ok(rest);
        }
        let outcome = if raw.contains(&b'"') {
            // Quotes stand around a whole value, or nowhere.
            let inner = raw.strip_prefix(b"\"").and_then(|raw| raw.strip_suffix(b"\"")).ok_or(CopyError::Quotes)?;
            self.decoded.clear();
            let mut inner = inner.iter();
            while let Some(byte) = inner.next() {
                if *byte == b'"' && inner.next() != Some(&b'"') {
                    return Err(CopyError::Quotes);
                }
                self.decoded.push(*byte);
            }
            self.columns.mask(index, &self.decoded)
        } else {
            self.columns.mask(index, raw)
        };
        match outcome {
            Outcome::Unchanged => out.extend_from_slice(raw),
            Outcome::Null => {}
            Outcome::Replaced => {
                // A quoted value is never NULL, whatever is in it.
                out.push(b'"');
                for byte in self.columns.masked() {
                    if *byte == b'"' {
                        out.push(b'"');
                    }
                    out.push(*byte);
                }
                out.push(b'"');
            }
        }
        Ok(rest)
    }

    fn count(&self, found: usize) -> Result<(), CopyError> {
        let expected = self.columns.len();
        if found == expected { Ok(()) } else { Err(CopyError::Row(Malformed::Count { expected, found })) }
    }

    fn tuple<'a>(&mut self, rest: &'a [u8], out: &mut Vec<u8>) -> Result<Option<&'a [u8]>, CopyError> {
        match self.state {
            State::Ended => return Err(CopyError::Row(Malformed::Trailing)),
            State::Header => {
                let Some((header, after)) = binary_header(rest)? else { return Ok(None) };
                self.state = State::Rows;
                out.extend_from_slice(header);
                return Ok(Some(after));
            }
            State::Rows => {}
        }
        if let Some(after) = rest.strip_prefix(&(-1_i16).to_be_bytes()) {
            self.state = State::Ended;
            out.extend_from_slice(&(-1_i16).to_be_bytes());
            return Ok(Some(after));
        }
        if !is_whole_tuple(rest)? {
            return Ok(None);
        }
        self.row.clear();
        let (row, after) = self.columns.mask_tuple(rest, &mut self.row).map_err(CopyError::Row)?;
        match row {
            Row::Masked => out.extend_from_slice(&self.row),
            Row::Unchanged => out.extend_from_slice(rest.get(..rest.len() - after.len()).unwrap_or_default()),
        }
        Ok(Some(after))
    }
}

/// The raw values of a line: a tab that no backslash precedes ends one.
struct TextValues<'a>(Option<&'a [u8]>);

impl<'a> Iterator for TextValues<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let line = self.0?;
        let mut escaped = false;
        let end = line.iter().position(|byte| {
            let ends = *byte == b'\t' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        });
        self.0 = end.and_then(|end| line.get(end + 1..));
        line.get(..end.unwrap_or(line.len()))
    }
}

/// The letters of the format's escapes, and what they stand for.
const ESCAPES: [(u8, u8); 7] =
    [(b'b', 8), (b'f', 12), (b'n', b'\n'), (b'r', b'\r'), (b't', b'\t'), (b'v', 11), (b'\\', b'\\')];

fn unescape(raw: &[u8], out: &mut Vec<u8>) -> Result<(), CopyError> {
    let mut raw = raw.iter();
    while let Some(byte) = raw.next() {
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        let letter = raw.next().ok_or(CopyError::Escape)?;
        let (_, plain) = ESCAPES.iter().find(|(known, _)| known == letter).ok_or(CopyError::Escape)?;
        out.push(*plain);
    }
    Ok(())
}

fn escape(value: &[u8], out: &mut Vec<u8>) {
    for byte in value {
        match ESCAPES.iter().find(|(_, plain)| plain == byte) {
            Some((letter, _)) => out.extend_from_slice(&[b'\\', *letter]),
            None => out.push(*byte),
        }
    }
}

/// The first line end outside of quotes.
fn csv_row_end(rest: &[u8]) -> Option<usize> {
    let mut quoted = false;
    rest.iter().position(|byte| {
        quoted ^= *byte == b'"';
        *byte == b'\n' && !quoted
    })
}

/// The value before the first comma outside of quotes, and what follows that.
fn csv_split(line: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut quoted = false;
    let comma = line.iter().position(|byte| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    });
    match comma {
        Some(at) => (line.get(..at).unwrap_or_default(), line.get(at + 1..)),
        None => (line, None),
    }
}

/// A part, and what follows it.
type Split<'a> = (&'a [u8], &'a [u8]);

/// The binary header and what follows it; `None` where it is not complete.
fn binary_header(rest: &[u8]) -> Result<Option<Split<'_>>, CopyError> {
    let Some(fixed) = rest.get(..HEADER) else {
        return if SIGNATURE.iter().zip(rest).all(|(a, b)| a == b) { Ok(None) } else { Err(CopyError::Header) };
    };
    let extension = fixed.last_chunk::<4>().map(|length| i32::from_be_bytes(*length)).ok_or(CopyError::Header)?;
    let extension = usize::try_from(extension).map_err(|_| CopyError::Header)?;
    if !fixed.starts_with(SIGNATURE) || extension > MAX_COPY_ROW {
        return Err(CopyError::Header);
    }
    Ok(rest.split_at_checked(HEADER + extension))
}

/// Whether all of a tuple is there; an error where it never will be.
fn is_whole_tuple(rest: &[u8]) -> Result<bool, CopyError> {
    let Some((count, mut rest)) = rest.split_first_chunk::<2>() else { return Ok(false) };
    for _ in 0..u16::from_be_bytes(*count) {
        let Some((length, after)) = rest.split_first_chunk::<4>() else { return Ok(false) };
        rest = match i32::from_be_bytes(*length) {
            -1 => after,
            length => {
                let length = usize::try_from(length).map_err(|_| CopyError::Row(Malformed::Length))?;
                let Some(after) = after.get(length..) else { return Ok(false) };
                after
            }
        };
    }
    Ok(true)
}

/// An option of COPY that masking does not understand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the COPY option {0:?} cannot be masked: use the default format options")]
pub struct Unsupported(pub String);

/// Why copied data cannot be masked, and so not be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// A row that is not what was announced.
    #[error("{0}")]
    Row(Malformed),
    /// An escape that the server does not write.
    #[error("an escape in copied text is unknown")]
    Escape,
    /// Quotes in the middle of a CSV value.
    #[error("a quote in copied CSV stands in the middle of a value")]
    Quotes,
    /// The binary header is wrong.
    #[error("the binary header of copied data is wrong")]
    Header,
    /// A row longer than [`MAX_COPY_ROW`].
    #[error("a row of copied data is longer than {MAX_COPY_ROW} bytes")]
    RowTooLong,
    /// The data ended within a row.
    #[error("the copied data ends within a row")]
    Partial,
}
