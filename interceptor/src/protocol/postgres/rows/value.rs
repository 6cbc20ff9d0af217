//! One value of a row: what its type can carry, and how its text is wrapped in the wire format.

use crate::mask::{Carrier, ColumnMask, Masker, Outcome};

/// Version byte in front of a binary `jsonb`.
const JSONB_VERSION: u8 = 1;

/// How a type's value is read and replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// The bytes are what the carrier says.
    Plain(Carrier),
    /// Text, padded with blanks to its width.
    Padded { max_chars: Option<usize> },
    /// A version byte, then JSON.
    Jsonb,
    /// Bytes, as `\x` and hexadecimal digits.
    Hex,
}

impl Cell {
    /// From the type's OID and modifier.
    pub(super) fn of(oid: u32, typmod: i32, binary: bool, is_text: &dyn Fn(u32) -> bool) -> Self {
        let text = |max_chars| Self::Plain(Carrier::Text { max_chars });
        // The modifier of a character type counts four bytes of its own.
        let width = typmod.checked_sub(4).filter(|width| *width > 0).and_then(|width| usize::try_from(width).ok());
        match oid {
            // text, unknown, cstring, refcursor.
            25 | 705 | 2275 | 1790 => text(None),
            // varchar; bpchar; name; "char".
            1043 => text(width),
            1042 => Self::Padded { max_chars: width },
            19 => text(Some(63)),
            18 => text(Some(1)),
            // json; jsonb; xml.
            114 => Self::Plain(Carrier::Json),
            3802 if binary => Self::Jsonb,
            3802 => Self::Plain(Carrier::Json),
            142 => Self::Plain(Carrier::Xml),
            // bytea.
            17 if !binary => Self::Hex,
            _ if is_text(oid) => text(None),
            _ if is_number(oid) => Self::Plain(Carrier::Other),
            // Arrays, composites, ranges, enums, hstore, tsvector, bytea, and whatever else there is.
            _ => Self::Plain(Carrier::Opaque),
        }
    }

    fn carrier(self) -> Carrier {
        match self {
            Self::Plain(carrier) => carrier,
            Self::Padded { max_chars } => Carrier::Text { max_chars },
            Self::Jsonb => Carrier::Json,
            Self::Hex => Carrier::Opaque,
        }
    }
}

/// Built-in types that hold no text: numbers, times, addresses, bits, geometry, object ids, and arrays of them.
fn is_number(oid: u32) -> bool {
    matches!(
        oid,
        // bool, int8, int2, int2vector, int4, oid, tid, xid, cid, oidvector, float4, float8, money.
        16 | 20..=23 | 26..=30 | 700 | 701 | 790
        // date, time, timestamp, timestamptz, interval, timetz, numeric, uuid, pg_lsn, xid8.
        | 1082 | 1083 | 1114 | 1184 | 1186 | 1266 | 1700 | 2950 | 3220 | 5069
        // point, lseg, path, box, polygon, line, circle, macaddr8, macaddr, inet, cidr, bit, varbit, void.
        | 600..=604 | 628 | 718 | 774 | 829 | 869 | 650 | 1560 | 1562 | 2278
        // Arrays: bool, int2, int4, oid, int8, float4, float8, date, time, timestamp, timestamptz, interval, numeric,
        // timetz, uuid, inet, cidr, macaddr.
        | 1000 | 1005 | 1007 | 1028 | 1016 | 1021 | 1022 | 1182 | 1183 | 1115 | 1185 | 1187 | 1231 | 1270 | 2951
        | 1041 | 651 | 1040
    )
}

/// A column: its mask, its type, and how often a value of it was masked.
#[derive(Debug)]
pub(super) struct Column {
    name: String,
    mask: ColumnMask,
    cell: Cell,
    idle: bool,
    masked: u64,
}

impl Column {
    pub(super) fn new(name: &str, mask: ColumnMask, cell: Cell) -> Self {
        let idle = mask.is_pass() || (!mask.is_whole() && cell.carrier() == Carrier::Other);
        Self { name: name.to_owned(), mask, cell, idle, masked: 0 }
    }
}

/// The columns of a result, and buffers that live from value to value.
#[derive(Debug)]
pub(super) struct Columns {
    masker: Masker,
    columns: Vec<Column>,
    value: Vec<u8>,
    decoded: Vec<u8>,
}

impl Columns {
    pub(super) fn new(masker: Masker, columns: Vec<Column>) -> Self {
        Self { masker, columns, value: Vec::new(), decoded: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.columns.len()
    }

    pub(super) fn is_identity(&self) -> bool {
        // Values where no columns are announced are none that may pass.
        !self.columns.is_empty() && self.columns.iter().all(|column| column.idle)
    }

    /// Masks a value that is not NULL; a replacement stands in [`Self::masked`] until the next call.
    pub(super) fn mask(&mut self, index: usize, value: &[u8]) -> Outcome {
        // A value without a column cannot be judged.
        let Some(column) = self.columns.get_mut(index) else { return Outcome::Null };
        if column.idle {
            return Outcome::Unchanged;
        }
        let (masker, out) = (&mut self.masker, &mut self.value);
        out.clear();
        let mut apply = |carrier, value: &[u8]| masker.apply(&column.mask, carrier, value, out);
        let outcome = match column.cell {
            Cell::Plain(carrier) => apply(carrier, value),
            Cell::Padded { max_chars } => apply(Carrier::Text { max_chars }, trim_blanks(value)),
            Cell::Hex => match hex(value, &mut self.decoded) {
                true => apply(Carrier::Opaque, &self.decoded),
                false => apply(Carrier::Opaque, value),
            },
            Cell::Jsonb => match value.split_first() {
                Some((&JSONB_VERSION, document)) => apply(Carrier::Json, document),
                // Another version is not understood.
                _ => Outcome::Null,
            },
        };
        if outcome == Outcome::Replaced && column.cell == Cell::Jsonb {
            out.insert(0, JSONB_VERSION);
        }
        if outcome != Outcome::Unchanged {
            column.masked = column.masked.saturating_add(1);
        }
        outcome
    }

    pub(super) fn masked(&self) -> &[u8] {
        &self.value
    }

    pub(super) fn take_counts(&mut self) -> Vec<(String, u64)> {
        let touched = self.columns.iter_mut().filter(|column| column.masked > 0);
        touched.map(|column| (column.name.clone(), std::mem::take(&mut column.masked))).collect()
    }

    pub(super) const fn masker(&self) -> &Masker {
        &self.masker
    }

    pub(super) fn into_masker(self) -> Masker {
        self.masker
    }
}

fn trim_blanks(value: &[u8]) -> &[u8] {
    let end = value.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    value.get(..end).unwrap_or(value)
}

/// Decodes `\x..`; `false` where the value is in the older escape format, which shows ASCII as it is.
fn hex(value: &[u8], out: &mut Vec<u8>) -> bool {
    out.clear();
    let Some(digits) = value.strip_prefix(b"\\x") else { return false };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    for pair in digits.chunks(2) {
        match pair {
            [high, low] if let (Some(high), Some(low)) = (digit(*high), digit(*low)) => out.push(high << 4 | low),
            _ => return false,
        }
    }
    true
}
