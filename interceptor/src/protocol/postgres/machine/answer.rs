//! The answer to one Query or Execute: which of its statements is answered just now, and the masking of what comes.
//!
//! Columns are masked by [`super::super::rows`]; this says which lineage goes with which result. Error and notice texts can
//! quote values: of a statement that reads masked columns they are replaced as a whole (the SQLSTATE stays), of others
//! they are looked through by the detectors. That an error occurs at all stays visible.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use super::super::analysis::{self, CopyKind, Output, SessionEffect};
use super::super::codec::{Backend, Fields, Frame, Notice, Rows, write};
use super::super::rows::{self, CopyColumn, CopyFormat, CopyMasker, Lineage, Lookup, Row, RowMasker};
use super::super::statement::{Analyst, Reading};
use super::announced::{Announced, Kept};
use super::{Fate, Fault};
use crate::mask::{Carrier, Masker, Outcome};
use crate::policy::{Obligations, TagSet};

/// An answer that is under way.
#[derive(Debug)]
pub(super) struct Answer {
    reading: Arc<Reading>,
    obligations: Obligations,
    masker: Masker,
    index: usize,
    mask: Mask,
    buffer: Vec<u8>,
    /// Its messages may be of what earlier statements have deferred, and those may quote masked values.
    late: bool,
    /// The catalog's version under which it was judged.
    version: u64,
    /// It ended in an error.
    pub(super) failed: bool,
}

#[derive(Debug)]
enum Mask {
    /// Nothing of it is masked.
    Idle,
    /// No columns are announced.
    Unannounced,
    Rows(Box<Announced>),
    Copy(Box<CopyMasker>),
}

impl Answer {
    /// `version`: where the catalog's is another when the answer comes, somebody has changed what the text means: what the
    /// target does not trace to a table's column is masked then. `quotable`: an earlier answer of the transaction may have
    /// read what is masked.
    pub(super) fn new(
        reading: Arc<Reading>,
        obligations: Obligations,
        masker: Masker,
        quotable: bool,
        version: u64,
    ) -> Self {
        let late = quotable && reading.ends_deferral();
        let mask = if obligations.masked.is_empty() { Mask::Idle } else { Mask::Unannounced };
        Self { reading, obligations, masker, index: 0, mask, buffer: Vec::new(), late, version, failed: false }
    }

    pub(super) fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Whether the catalog is still the one under which it was judged.
    pub(super) fn is_settled(&self, analyst: &dyn Analyst) -> bool {
        analyst.version() == self.version
    }

    /// Whether messages of this type pass as they are just now: rows, or data of a COPY.
    pub(super) fn passes(&self, tag: u8) -> bool {
        match &self.mask {
            Mask::Idle => true,
            Mask::Unannounced => false,
            Mask::Rows(announced) => tag == b'D' && announced.rows.is_identity(),
            Mask::Copy(copy) => tag == b'd' && copy.is_identity(),
        }
    }

    /// Whether it runs what others have deferred: an error of theirs is not about what this reads.
    pub(super) fn settles(&self) -> bool {
        self.reading.ends_deferral()
    }

    /// Whether any of it may be masked.
    pub(super) fn masks(&self) -> bool {
        !self.obligations.masked.is_empty()
    }

    /// Columns are announced.
    pub(super) fn describe(
        &mut self,
        (fields, description): (Fields<'_>, &[u8]),
        analyst: &mut dyn Analyst,
        kept: &mut Kept,
    ) -> Result<(), Fault> {
        if matches!(self.mask, Mask::Idle) {
            return Ok(());
        }
        let key = (self.reading.analysis.id, analyst.epoch(), self.index);
        let settled = self.is_settled(analyst);
        if settled && let Some(announced) = kept.take(key, description, &self.masker) {
            self.mask = Mask::Rows(Box::new(announced));
            return Ok(());
        }
        let names: Vec<_> = fields.map(|field| String::from_utf8_lossy(field.name)).collect();
        let fields: Vec<_> = fields
            .zip(&names)
            .map(|(field, name)| rows::Field {
                name,
                table_oid: field.table_oid,
                attnum: field.column,
                type_oid: field.type_oid,
                typmod: field.type_modifier,
                format: i16::try_from(field.format).unwrap_or(-1),
            })
            .collect();
        let flows = self.flows(fields.len()).filter(|_| settled);
        let surprising = flows.as_ref().is_some_and(|flows| flows.len() != fields.len());
        if surprising {
            // All of it is masked whole. The next text is read with a catalog that has the new columns.
            analyst.surprise();
        }
        let analyst: &dyn Analyst = analyst;
        let lineage = flows.as_deref().map_or(Lineage::Unknown, Lineage::Known);
        let traced = flows.is_some();
        let lookup = Lookup {
            tags: &|table, column| analyst.column_tags(table, column, traced),
            is_text: &|type_oid| analyst.is_text(type_oid),
        };
        let rows = RowMasker::new(self.masker.again(), &fields, None, lineage, lookup)
            .map_err(|malformed| Fault::Upstream(malformed.to_string()))?;
        self.mask = Mask::Rows(Box::new(Announced::new(key, description, rows, settled && !surprising)));
        Ok(())
    }

    fn output(&self) -> Option<&Output> {
        self.reading.analysis.statements.get(self.index).map(|statement| &statement.output)
    }

    /// Tags that flow into each column, where they are known.
    fn flows(&self, width: usize) -> Option<Vec<(TagSet, bool)>> {
        match self.output()? {
            Output::Columns(columns) => {
                Some(columns.iter().map(|column| (Arc::clone(&column.tags), column.computed)).collect())
            }
            // Whatever the columns are, nothing of this is in them.
            Output::Unknown(tags) if tags.is_empty() => Some(vec![(Arc::clone(tags), true); width]),
            Output::Unknown(_) | Output::None => None,
        }
    }

    /// A row.
    pub(super) fn row(&mut self, frame: Frame<'_>, out: &mut BytesMut) -> Result<Fate, Fault> {
        let masker = match &mut self.mask {
            Mask::Idle => return Ok(Fate::Pass),
            Mask::Rows(announced) => &mut announced.rows,
            // A row that was not announced cannot be masked.
            Mask::Unannounced | Mask::Copy(_) => return Err(Fault::Upstream("a row before its description".into())),
        };
        self.buffer.clear();
        match masker.mask_row(frame.body, &mut self.buffer) {
            Ok(Row::Unchanged) => Ok(Fate::Pass),
            Ok(Row::Masked) => {
                write::message(out, b'D', |out| out.put_slice(&self.buffer));
                Ok(Fate::Replaced)
            }
            Err(malformed) => Err(Fault::Upstream(malformed.to_string())),
        }
    }

    /// COPY data will come.
    pub(super) fn copy_out(&mut self, announced: &Rows<'_>, analyst: &dyn Analyst) -> Result<(), Fault> {
        if matches!(self.mask, Mask::Idle) {
            return Ok(());
        }
        let format = self.reading.analysis.statements.get(self.index).and_then(|statement| match &statement.effect {
            SessionEffect::Copy { format, .. } => copy_format(format),
            _ => None,
        });
        // `cannot_mask` has refused this before.
        let format = format.ok_or_else(|| Fault::Upstream("a COPY in a form that cannot be masked".into()))?;
        let width = announced.formats.len() / 2;
        let columns: Option<Vec<_>> = match self.output() {
            Some(Output::Columns(columns)) if self.is_settled(analyst) => Some(
                columns
                    .iter()
                    .map(|column| CopyColumn {
                        name: column.name.as_deref().unwrap_or("?"),
                        tags: Arc::clone(&column.tags),
                        computed: column.computed,
                        type_oid: column
                            .source
                            .as_ref()
                            .map_or(0, |source| analyst.column_type(source.relation, source.attribute).unwrap_or(0)),
                        typmod: -1,
                    })
                    .collect(),
            ),
            _ => None,
        };
        let masker = self.masker.again();
        let is_text = |type_oid| analyst.is_text(type_oid);
        let copy = CopyMasker::new(masker, format, width, columns.as_deref(), &is_text);
        self.mask = Mask::Copy(Box::new(copy));
        Ok(())
    }

    /// Data of a COPY.
    pub(super) fn copy_data(&mut self, frame: Frame<'_>, out: &mut BytesMut) -> Result<Fate, Fault> {
        let copy = match &mut self.mask {
            Mask::Idle => return Ok(Fate::Pass),
            Mask::Copy(copy) if copy.is_identity() => return Ok(Fate::Pass),
            Mask::Copy(copy) => copy,
            Mask::Unannounced | Mask::Rows(_) => {
                return Err(Fault::Upstream("COPY data that was not announced".into()));
            }
        };
        self.buffer.clear();
        copy.feed(frame.body, &mut self.buffer).map_err(|error| Fault::Upstream(error.to_string()))?;
        if !self.buffer.is_empty() {
            write::message(out, b'd', |out| out.put_slice(&self.buffer));
        }
        Ok(Fate::Replaced)
    }

    /// The data of a COPY has ended.
    pub(super) fn copy_done(&mut self) -> Result<(), Fault> {
        match &mut self.mask {
            Mask::Copy(copy) => copy.finish().map_err(|error| Fault::Upstream(error.to_string())),
            _ => Ok(()),
        }
    }

    /// One statement is answered: which it was. The next one's columns are not announced yet.
    pub(super) fn next(&mut self, kept: &mut Kept) -> (Arc<Reading>, usize) {
        let index = self.index;
        self.index += 1;
        self.give_back(kept);
        (Arc::clone(&self.reading), index)
    }

    /// What masked the rows may be of use again.
    pub(super) fn give_back(&mut self, kept: &mut Kept) {
        if matches!(self.mask, Mask::Idle) {
            return;
        }
        if let Mask::Rows(announced) = std::mem::replace(&mut self.mask, Mask::Unannounced) {
            kept.put(*announced);
        }
    }

    /// Columns in which values were masked since the last call.
    pub(super) fn take_masked(&mut self) -> Vec<(String, u64)> {
        match &mut self.mask {
            Mask::Rows(announced) => announced.rows.take_counts(),
            Mask::Copy(copy) => copy.take_counts(),
            Mask::Idle | Mask::Unannounced => Vec::new(),
        }
    }

    /// An error or notice that may quote values.
    pub(super) fn scrub(&self, notice: &Notice<'_>, tag: u8, out: &mut BytesMut) -> Fate {
        if matches!(self.mask, Mask::Idle) {
            return Fate::Pass;
        }
        if self.late || self.reading.quotes(&self.obligations.masked) {
            put_scrubbed(notice, tag, out);
            return Fate::Replaced;
        }
        if self.masker.scans() { scan(self.masker.again(), notice, tag, out) } else { Fate::Pass }
    }
}

/// Replaces each text of a notice in which a detector finds something.
fn scan(mut masker: Masker, notice: &Notice<'_>, tag: u8, out: &mut BytesMut) -> Fate {
    let column = masker.column(&TagSet::default(), false);
    let mut fields = Vec::new();
    let mut fate = Fate::Pass;
    for (code, text) in notice.fields() {
        let mut masked = Vec::new();
        match masker.apply(&column, Carrier::Text { max_chars: None }, text, &mut masked) {
            Outcome::Unchanged => masked.extend_from_slice(text),
            Outcome::Replaced => fate = Fate::Replaced,
            Outcome::Null => {
                fate = Fate::Replaced;
                continue;
            }
        }
        fields.push((code, masked));
    }
    if fate == Fate::Replaced {
        write::notice(out, tag, fields.iter().map(|(code, text)| (*code, text.as_slice())));
    }
    fate
}

/// Writes a notification whose payload has in it what a detector finds, without that. Of which columns it was made,
/// nobody knows here: what would give tagged columns away is refused where it is sent.
pub(super) fn put_notification(
    mut masker: Masker,
    (process_id, channel): (u32, &[u8]),
    payload: &[u8],
    out: &mut BytesMut,
) -> Fate {
    let column = masker.column(&TagSet::default(), false);
    let mut masked = Vec::new();
    match masker.apply(&column, Carrier::Text { max_chars: None }, payload, &mut masked) {
        Outcome::Unchanged => return Fate::Pass,
        Outcome::Replaced | Outcome::Null => {}
    }
    write::backend(out, &Backend::NotificationResponse { process_id, channel, payload: &masked });
    Fate::Replaced
}

/// Writes an error or notice of which only the kind and the names of objects are left.
pub(super) fn put_scrubbed(notice: &Notice<'_>, tag: u8, out: &mut BytesMut) {
    const KEPT: &[u8] = b"SVCPstcdn";
    let text = "the target's message is withheld: it could quote values that this identity may not see";
    let kept = notice.fields().filter(|(code, _)| KEPT.contains(code));
    write::notice(out, tag, kept.chain([(b'M', text.as_bytes())]));
}

/// Why the answer to a text could not be masked, where it could not.
pub(super) fn cannot_mask(reading: &Reading) -> Option<&'static str> {
    let unfit = |effect: &SessionEffect| match effect {
        SessionEffect::Copy { direction: analysis::CopyDirection::Out, format } => copy_format(format).is_none(),
        _ => false,
    };
    let any = reading.analysis.statements.iter().any(|statement| unfit(&statement.effect));
    any.then_some("COPY with options other than FORMAT and HEADER cannot be masked")
}

/// The form that the masking understands, where it does.
fn copy_format(format: &analysis::CopyFormat) -> Option<CopyFormat> {
    let header = format.header;
    match format.kind {
        CopyKind::Text if format.delimiter == b'\t' && format.null == "\\N" => Some(CopyFormat::Text { header }),
        CopyKind::Csv
            if format.delimiter == b',' && format.null.is_empty() && format.quote == b'"' && format.escape == b'"' =>
        {
            Some(CopyFormat::Csv { header })
        }
        CopyKind::Binary => Some(CopyFormat::Binary),
        _ => None,
    }
}
