//! Result rows under masking: DataRow bodies, text and binary, COPY OUT, and messages that quote values.
//!
//! A row whose columns nobody masks is not even parsed ([`RowMasker::is_identity`]); a row in which nothing was found
//! is reported as unchanged, so that the original bytes go on. Masked values stay correct for their type: text where
//! the type carries text, JSON in JSON, NULL in everything else. A malformed row is an error, never passed on.
//!
//! Columns are known from two sources that add up: the lineage that the statement's analysis found, and the origin
//! that the server itself names for each column. Where one is missing or they disagree, the column is masked whole.
//!
//! Not promised: whether a value is NULL stays visible. Values in a client encoding whose characters embed ASCII bytes
//! (SJIS, BIG5, GBK, UHC, GB18030, JOHAB) are not understood by detectors and COPY; do not let an agent choose one.

mod copy;
mod notice;
mod value;

pub use copy::{CopyColumn, CopyError, CopyFormat, CopyMasker, MAX_COPY_ROW, Unsupported};
pub use notice::mask_notice;

use self::value::{Cell, Column, Columns};
use crate::mask::{ColumnMask, Masker, Outcome};
use crate::policy::TagSet;

/// Longest body that a message's length field can announce.
const MAX_BODY: usize = 0x7fff_fffb;

/// One column of a RowDescription.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// Name in the result.
    pub name: &'a str,
    /// Table that the column is from, or 0.
    pub table_oid: u32,
    /// Number of the column in that table; 0 where there is none, negative for a system column.
    pub attnum: i16,
    /// Type.
    pub type_oid: u32,
    /// Modifier of the type, or -1.
    pub typmod: i32,
    /// 0 for text, 1 for binary.
    pub format: i16,
}

/// What the analysis of the statement knows of its result columns, in their order.
#[derive(Clone, Copy, Debug)]
pub enum Lineage<'a> {
    /// Tags that flow into each column, and whether it is computed from them rather than a copy.
    Known(&'a [(TagSet, bool)]),
    /// Nothing. A column passes only if the catalog knows the table column that the server says it is.
    Unknown,
}

/// What the catalog knows.
#[derive(Clone, Copy)]
pub struct Lookup<'a> {
    /// Tags of a table's column, by the table's OID and the column's number. `None` where the catalog does not know
    /// it: the column is masked whole. For a view's column the answer has to hold what the view reads, or be `None`.
    pub tags: &'a dyn Fn(u32, i16) -> Option<TagSet>,
    /// Whether a type that is not built in carries any text (`citext`). `false` is always safe.
    pub is_text: &'a dyn Fn(u32) -> bool,
}

impl std::fmt::Debug for Lookup<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lookup(..)")
    }
}

/// Whether a row has to be rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// Forward the original bytes; nothing was written.
    Unchanged,
    /// Forward what was appended.
    Masked,
}

/// Masks the rows of one result.
#[derive(Debug)]
pub struct RowMasker {
    columns: Columns,
}

impl RowMasker {
    /// Prepares the masking of a result. `formats` are the result format codes of Bind (none: all text; one: for all;
    /// else one a column); `None` takes those of `fields`, as after a Describe of a portal or in a simple query.
    ///
    /// # Errors
    /// [`Malformed`] where format codes are unknown or too few.
    pub fn new(
        masker: Masker,
        fields: &[Field<'_>],
        formats: Option<&[i16]>,
        lineage: Lineage<'_>,
        lookup: Lookup<'_>,
    ) -> Result<Self, Malformed> {
        let mut columns = Vec::with_capacity(fields.len());
        for (index, field) in fields.iter().enumerate() {
            let format = match formats {
                None => field.format,
                Some([]) => 0,
                Some([format]) => *format,
                Some(formats) if formats.len() == fields.len() => formats.get(index).copied().unwrap_or(-1),
                Some(formats) => return Err(Malformed::Formats { columns: fields.len(), codes: formats.len() }),
            };
            if !matches!(format, 0 | 1) {
                return Err(Malformed::Format(format));
            }
            let mask = column_mask(&masker, fields.len(), index, field, lineage, lookup);
            let cell = Cell::of(field.type_oid, field.typmod, format == 1, lookup.is_text);
            columns.push(Column::new(field.name, mask, cell));
        }
        Ok(Self { columns: Columns::new(masker, columns) })
    }

    /// Whether no row of this result can change: forward its bytes without a look.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.columns.is_identity()
    }

    /// Masks the body of one DataRow, that is without its type and length. Appends the new body to `out` where
    /// anything changed.
    ///
    /// # Errors
    /// [`Malformed`] for a row that is not what was announced; `out` is as before. The row must not be forwarded.
    pub fn mask_row(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<Row, Malformed> {
        let start = out.len();
        let masked = self.columns.mask_tuple(body, out).and_then(|(row, rest)| match rest {
            [] if out.len() - start <= MAX_BODY => Ok(row),
            [] => Err(Malformed::TooLong),
            _ => Err(Malformed::Trailing),
        });
        if masked.is_err() {
            out.truncate(start);
        }
        masked
    }

    /// Columns in which values were masked since the last call, and how many: for the record.
    pub fn take_counts(&mut self) -> Vec<(String, u64)> {
        self.columns.take_counts()
    }

    /// What masks the values.
    #[must_use]
    pub const fn masker(&self) -> &Masker {
        self.columns.masker()
    }

    /// The masker, with its buffers, for the next result.
    #[must_use]
    pub fn into_masker(self) -> Masker {
        self.columns.into_masker()
    }
}

fn column_mask(
    masker: &Masker,
    width: usize,
    index: usize,
    field: &Field<'_>,
    lineage: Lineage<'_>,
    lookup: Lookup<'_>,
) -> ColumnMask {
    if masker.is_idle() {
        return masker.unknown_column();
    }
    let flows = match lineage {
        // The server describes another result than the one that was analysed.
        Lineage::Known(flows) if flows.len() != width => return masker.unknown_column(),
        Lineage::Known(flows) => flows.get(index),
        Lineage::Unknown => None,
    };
    let origin = match (field.table_oid, field.attnum) {
        (0, _) | (_, 0) => None,
        // System columns hold nothing that anybody stored.
        (_, ..0) => flows.is_none().then(TagSet::default),
        (table, column) => match (lookup.tags)(table, column) {
            Some(tags) => Some(tags),
            None => return masker.unknown_column(),
        },
    };
    // The server names an origin for whatever it merely passes on. Without one the value is taken for computed, whatever
    // the analysis says; a UNION is then, too.
    let computed = flows.is_some_and(|(_, computed)| *computed) || (flows.is_some() && field.table_oid == 0);
    match (flows, origin) {
        (None, None) => masker.unknown_column(),
        (None, Some(tags)) => masker.column(&tags, computed),
        (Some((tags, _)), None) => masker.column(tags, computed),
        (Some((tags, _)), Some(origin)) if origin.is_subset(tags) => masker.column(tags, computed),
        (Some((tags, _)), Some(origin)) => {
            masker.column(&TagSet::new(tags.union(&origin).cloned().collect()), computed)
        }
    }
}

impl Columns {
    /// Masks one tuple at the start of `body` (a count, then a length and a value each) and returns what follows it.
    /// Appends to `out` where anything changed, or an error left half of it there.
    fn mask_tuple<'a>(&mut self, body: &'a [u8], out: &mut Vec<u8>) -> Result<(Row, &'a [u8]), Malformed> {
        let (count, mut rest) = body.split_first_chunk::<2>().ok_or(Malformed::Length)?;
        let found = usize::from(u16::from_be_bytes(*count));
        if found != self.len() {
            return Err(Malformed::Count { expected: self.len(), found });
        }
        // What stands before the next changed value, and has not been copied.
        let mut kept = body;
        let mut row = Row::Unchanged;
        for index in 0..found {
            let from = rest;
            let (length, after) = rest.split_first_chunk::<4>().ok_or(Malformed::Length)?;
            rest = after;
            let length = match i32::from_be_bytes(*length) {
                -1 => continue,
                length => usize::try_from(length).map_err(|_| Malformed::Length)?,
            };
            let (value, after) = rest.split_at_checked(length).ok_or(Malformed::Length)?;
            rest = after;
            let outcome = self.mask(index, value);
            if outcome == Outcome::Unchanged {
                continue;
            }
            row = Row::Masked;
            out.extend_from_slice(kept.get(..kept.len() - from.len()).unwrap_or_default());
            kept = rest;
            if outcome == Outcome::Null {
                out.extend_from_slice(&(-1_i32).to_be_bytes());
                continue;
            }
            let length = i32::try_from(self.masked().len()).map_err(|_| Malformed::TooLong)?;
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(self.masked());
        }
        if row == Row::Masked {
            out.extend_from_slice(kept.get(..kept.len() - rest.len()).unwrap_or_default());
        }
        Ok((row, rest))
    }
}

/// Why a row cannot be masked, and so not be forwarded. The server's fault, or ours where it and the announcement are
/// of different commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not as many values as columns were announced.
    #[error("a row has {found} values where {expected} columns were announced")]
    Count {
        /// Columns announced.
        expected: usize,
        /// Values in the row.
        found: usize,
    },
    /// A length that is negative or longer than the row.
    #[error("a length in a row is wrong")]
    Length,
    /// Bytes after the last value.
    #[error("a row goes on after its last value")]
    Trailing,
    /// The masked row would be longer than a message can be.
    #[error("a masked row is too long for a message")]
    TooLong,
    /// A format that is neither text nor binary.
    #[error("the format code {0} is unknown")]
    Format(i16),
    /// Neither none, one, nor one format code a column.
    #[error("{codes} format codes for {columns} columns")]
    Formats {
        /// Columns of the result.
        columns: usize,
        /// Codes in Bind.
        codes: usize,
    },
}

#[cfg(test)]
mod tests;
