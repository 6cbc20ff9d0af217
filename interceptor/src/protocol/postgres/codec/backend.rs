//! Messages of the target.

use super::frontend::value;
use super::{Frame, Malformed};
use crate::wire::Reader;

/// A message of the target, of those that a session has to understand. Bodies of the others are opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend<'a> {
    /// `R`: a step of authentication; the body.
    Authentication(&'a [u8]),
    /// `S`: a setting and its value.
    ParameterStatus(&'a [u8], &'a [u8]),
    /// `K`: what a cancel request has to name.
    BackendKeyData {
        /// Process id.
        process_id: u32,
        /// Secret of 4 to 256 bytes.
        secret: &'a [u8],
    },
    /// `v`: the newest version, and the options that were not understood (zero-terminated names).
    NegotiateProtocolVersion {
        /// Newest version that the target speaks, major and minor: as servers send it and libpq reads it, whatever the
        /// documentation says of the minor number alone.
        version: u32,
        /// Options that it does not know, each with its closing zero.
        options: &'a [u8],
    },
    /// `Z`: ready, with `I`, `T` or `E`.
    ReadyForQuery(u8),
    /// `T`: columns of a result.
    RowDescription(Fields<'a>),
    /// `t`: parameter types, four bytes each.
    ParameterDescription(&'a [u8]),
    /// `D`: a row.
    DataRow(Values<'a>),
    /// `C`: a command's tag, such as `SELECT 3`.
    CommandComplete(&'a [u8]),
    /// `I`: the text was empty.
    EmptyQueryResponse,
    /// `n`: no columns.
    NoData,
    /// `1`
    ParseComplete,
    /// `2`
    BindComplete,
    /// `3`
    CloseComplete,
    /// `s`: the row limit was reached.
    PortalSuspended,
    /// `E`: an error.
    ErrorResponse(Notice<'a>),
    /// `N`: a notice.
    NoticeResponse(Notice<'a>),
    /// `A`: a notification.
    NotificationResponse {
        /// Who notified.
        process_id: u32,
        /// Channel.
        channel: &'a [u8],
        /// Payload.
        payload: &'a [u8],
    },
    /// `G`: send data.
    CopyInResponse(Rows<'a>),
    /// `H`: data comes.
    CopyOutResponse(Rows<'a>),
    /// `W`: replication.
    CopyBothResponse(Rows<'a>),
    /// `d`: data of a COPY.
    CopyData(&'a [u8]),
    /// `c`: end of a COPY.
    CopyDone,
    /// `V`: result of the fast path.
    FunctionCallResponse(&'a [u8]),
}

/// One column of a RowDescription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Name, in the session's encoding.
    pub name: &'a [u8],
    /// Table it comes from, or 0.
    pub table_oid: u32,
    /// Attribute number in that table, or 0.
    pub column: i16,
    /// Type.
    pub type_oid: u32,
    /// Size of the type; negative where it varies.
    pub type_size: i16,
    /// Modifier of the type, or -1.
    pub type_modifier: i32,
    /// 0 text, 1 binary; 0 where it is not known yet.
    pub format: u16,
}

/// The columns of a RowDescription, checked for layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields<'a> {
    left: usize,
    body: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let mut reader = Reader::new(self.body);
        let field = field(&mut reader)?;
        self.body = reader.rest();
        Some(field)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Fields<'_> {}

/// The values of a DataRow, checked for layout; `None` is NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values<'a> {
    left: usize,
    body: &'a [u8],
}

impl<'a> Iterator for Values<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let mut reader = Reader::new(self.body);
        let value = value(&mut reader)?;
        self.body = reader.rest();
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Values<'_> {}

/// What a COPY response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows<'a> {
    /// Whether the whole is in COPY's binary format.
    pub binary: bool,
    /// Format of each column, two bytes each.
    pub formats: &'a [u8],
}

/// Fields of an error or notice, checked for layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice<'a> {
    body: &'a [u8],
}

impl<'a> Notice<'a> {
    /// The field with that code, such as `C` for the SQLSTATE.
    #[must_use]
    pub fn field(&self, code: u8) -> Option<&'a [u8]> {
        self.fields().find(|(known, _)| *known == code).map(|(_, text)| text)
    }

    /// Every field: its code and text.
    #[must_use]
    pub const fn fields(&self) -> NoticeFields<'a> {
        NoticeFields { body: self.body }
    }
}

/// Fields of an error or notice: code and text.
#[derive(Clone, Copy, Debug)]
pub struct NoticeFields<'a> {
    body: &'a [u8],
}

impl<'a> Iterator for NoticeFields<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let mut reader = Reader::new(self.body);
        let code = reader.u8().filter(|code| *code != 0)?;
        let text = reader.cstr()?;
        self.body = reader.rest();
        Some((code, text))
    }
}

impl<'a> Backend<'a> {
    /// Reads the body of a message.
    ///
    /// # Errors
    /// [`Malformed`] when the type is unknown or the body is not laid out as it should be.
    pub fn decode(frame: Frame<'a>) -> Result<Self, Malformed> {
        let tag = frame.tag;
        let mut reader = Reader::new(frame.body);
        let all = frame.body.len();
        let message = match tag {
            b'R' => reader.bytes(all).map(Self::Authentication),
            b'S' => parameter_status(&mut reader),
            b'K' => backend_key(&mut reader),
            b'v' => negotiate(&mut reader),
            b'Z' => reader.u8().filter(|status| matches!(status, b'I' | b'T' | b'E')).map(Self::ReadyForQuery),
            b'T' => row_description(&mut reader).map(Self::RowDescription),
            b't' => parameter_description(&mut reader),
            b'D' => data_row(&mut reader).map(Self::DataRow),
            b'C' => reader.cstr().map(Self::CommandComplete),
            b'I' => Some(Self::EmptyQueryResponse),
            b'n' => Some(Self::NoData),
            b'1' => Some(Self::ParseComplete),
            b'2' => Some(Self::BindComplete),
            b'3' => Some(Self::CloseComplete),
            b's' => Some(Self::PortalSuspended),
            b'E' => notice(&mut reader).map(Self::ErrorResponse),
            b'N' => notice(&mut reader).map(Self::NoticeResponse),
            b'A' => notification(&mut reader),
            b'G' => copy(&mut reader).map(Self::CopyInResponse),
            b'H' => copy(&mut reader).map(Self::CopyOutResponse),
            b'W' => copy(&mut reader).map(Self::CopyBothResponse),
            b'd' => reader.bytes(all).map(Self::CopyData),
            b'c' => Some(Self::CopyDone),
            b'V' => reader.bytes(all).map(Self::FunctionCallResponse),
            _ => return Err(Malformed::Unknown { tag }),
        };
        message.filter(|_| reader.is_empty()).ok_or(Malformed::Layout { tag })
    }
}

fn parameter_status<'a>(reader: &mut Reader<'a>) -> Option<Backend<'a>> {
    Some(Backend::ParameterStatus(reader.cstr()?, reader.cstr()?))
}

fn backend_key<'a>(reader: &mut Reader<'a>) -> Option<Backend<'a>> {
    let process_id = reader.u32()?;
    let secret = reader.bytes(reader.rest().len())?;
    (4..=super::startup::SECRET_LIMIT).contains(&secret.len()).then_some(Backend::BackendKeyData { process_id, secret })
}

fn negotiate<'a>(reader: &mut Reader<'a>) -> Option<Backend<'a>> {
    let (version, count) = (reader.u32()?, reader.u32()?);
    let options = reader.rest();
    for _ in 0..count {
        reader.cstr()?;
    }
    Some(Backend::NegotiateProtocolVersion { version, options })
}

fn row_description<'a>(reader: &mut Reader<'a>) -> Option<Fields<'a>> {
    let left = usize::from(reader.u16()?);
    let body = reader.rest();
    for _ in 0..left {
        field(reader)?;
    }
    Some(Fields { left, body })
}

fn field<'a>(reader: &mut Reader<'a>) -> Option<Field<'a>> {
    Some(Field {
        name: reader.cstr()?,
        table_oid: reader.u32()?,
        column: reader.i16()?,
        type_oid: reader.u32()?,
        type_size: reader.i16()?,
        type_modifier: reader.i32()?,
        format: reader.u16()?,
    })
}

fn parameter_description<'a>(reader: &mut Reader<'a>) -> Option<Backend<'a>> {
    let count = usize::from(reader.u16()?);
    reader.bytes(count * 4).map(Backend::ParameterDescription)
}

fn data_row<'a>(reader: &mut Reader<'a>) -> Option<Values<'a>> {
    let left = usize::from(reader.u16()?);
    let body = reader.rest();
    for _ in 0..left {
        value(reader)?;
    }
    Some(Values { left, body })
}

fn notice<'a>(reader: &mut Reader<'a>) -> Option<Notice<'a>> {
    let body = reader.rest();
    loop {
        match reader.u8()? {
            0 => return Some(Notice { body }),
            _ => reader.cstr()?,
        };
    }
}

fn notification<'a>(reader: &mut Reader<'a>) -> Option<Backend<'a>> {
    let process_id = reader.u32()?;
    Some(Backend::NotificationResponse { process_id, channel: reader.cstr()?, payload: reader.cstr()? })
}

fn copy<'a>(reader: &mut Reader<'a>) -> Option<Rows<'a>> {
    let binary = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let count = usize::from(reader.u16()?);
    Some(Rows { binary, formats: reader.bytes(count * 2)? })
}
