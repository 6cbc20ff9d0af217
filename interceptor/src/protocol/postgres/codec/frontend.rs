//! Messages of the agent, after the start-up.

use super::{Frame, Malformed};
use crate::wire::Reader;

/// A message of the agent. Texts are bytes: their encoding is the session's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frontend<'a> {
    /// `Q`: run this text.
    Query(&'a [u8]),
    /// `P`: prepare a statement.
    Parse {
        /// Name of the statement; empty for the unnamed one.
        name: &'a [u8],
        /// Its text.
        text: &'a [u8],
        /// Declared parameter types: OIDs in network order, four bytes each.
        types: &'a [u8],
    },
    /// `B`: make a portal of a statement.
    Bind(Bind<'a>),
    /// `D`: describe.
    Describe(Side, &'a [u8]),
    /// `E`: run a portal.
    Execute {
        /// Name of the portal.
        portal: &'a [u8],
        /// Rows at most; 0 or less for all.
        max_rows: i32,
    },
    /// `C`: forget.
    Close(Side, &'a [u8]),
    /// `H`: send what is ready.
    Flush,
    /// `S`: end of a pipeline.
    Sync,
    /// `X`: goodbye.
    Terminate,
    /// `d`: data of a COPY.
    CopyData(&'a [u8]),
    /// `c`: end of a COPY.
    CopyDone,
    /// `f`: give a COPY up.
    CopyFail(&'a [u8]),
    /// `F`: the fast path, obsolete.
    FunctionCall(Call<'a>),
    /// `p`: password, or a step of another authentication.
    Password(&'a [u8]),
}

/// What `Describe` and `Close` speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A prepared statement.
    Statement,
    /// A portal.
    Portal,
}

impl Side {
    /// As it stands in a message.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Statement => b'S',
            Self::Portal => b'P',
        }
    }
}

/// The layout of a Bind message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// Name of the portal; empty for the unnamed one.
    pub portal: &'a [u8],
    /// Name of the statement; empty for the unnamed one.
    pub statement: &'a [u8],
    /// Formats of the parameters.
    pub formats: Formats<'a>,
    /// The parameters.
    pub parameters: Parameters<'a>,
    /// Formats of the result's columns.
    pub results: Formats<'a>,
}

/// The layout of a FunctionCall message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call<'a> {
    /// OID of the function.
    pub function: u32,
    /// Formats of the arguments.
    pub formats: Formats<'a>,
    /// The arguments.
    pub arguments: Parameters<'a>,
    /// Whether the result is to be binary.
    pub binary_result: bool,
}

/// Format codes: none for all text, one for all, or one for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats<'a> {
    codes: &'a [u8],
}

impl Formats<'_> {
    /// Whether the value at `index` is binary.
    #[must_use]
    pub fn is_binary(&self, index: usize) -> bool {
        let (codes, _) = self.codes.as_chunks::<2>();
        let code = if codes.len() == 1 { codes.first() } else { codes.get(index) };
        code == Some(&[0, 1])
    }

    /// How many codes there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.codes.len() / 2
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }

    /// The codes as they stand in the message: two bytes each.
    #[must_use]
    pub const fn codes(&self) -> &[u8] {
        self.codes
    }
}

/// Values of a Bind or FunctionCall message; `None` is NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters<'a> {
    left: usize,
    body: &'a [u8],
}

impl<'a> Iterator for Parameters<'a> {
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

impl ExactSizeIterator for Parameters<'_> {}

/// A length-prefixed value, -1 standing for NULL. The outer `None` is a layout error.
#[expect(clippy::option_option, reason = "absent and NULL are different things")]
pub(super) fn value<'a>(reader: &mut Reader<'a>) -> Option<Option<&'a [u8]>> {
    match reader.i32()? {
        -1 => Some(None),
        length => reader.bytes(usize::try_from(length).ok()?).map(Some),
    }
}

impl<'a> Frontend<'a> {
    /// Reads the body of a message.
    ///
    /// # Errors
    /// [`Malformed`] when the type is unknown or the body is not laid out as it should be.
    pub fn decode(frame: Frame<'a>) -> Result<Self, Malformed> {
        let tag = frame.tag;
        let mut reader = Reader::new(frame.body);
        let message = match tag {
            b'Q' => reader.cstr().map(Self::Query),
            b'P' => parse(&mut reader),
            b'B' => bind(&mut reader).map(Self::Bind),
            b'D' => named(&mut reader).map(|(side, name)| Self::Describe(side, name)),
            b'C' => named(&mut reader).map(|(side, name)| Self::Close(side, name)),
            b'E' => execute(&mut reader),
            b'H' => Some(Self::Flush),
            b'S' => Some(Self::Sync),
            b'X' => Some(Self::Terminate),
            b'c' => Some(Self::CopyDone),
            b'f' => reader.cstr().map(Self::CopyFail),
            b'd' => reader.bytes(frame.body.len()).map(Self::CopyData),
            b'F' => call(&mut reader).map(Self::FunctionCall),
            b'p' => reader.bytes(frame.body.len()).map(Self::Password),
            _ => return Err(Malformed::Unknown { tag }),
        };
        message.filter(|_| reader.is_empty()).ok_or(Malformed::Layout { tag })
    }
}

fn parse<'a>(reader: &mut Reader<'a>) -> Option<Frontend<'a>> {
    let (name, text) = (reader.cstr()?, reader.cstr()?);
    let count = usize::from(reader.u16()?);
    let types = reader.bytes(count * 4)?;
    Some(Frontend::Parse { name, text, types })
}

fn bind<'a>(reader: &mut Reader<'a>) -> Option<Bind<'a>> {
    let (portal, statement) = (reader.cstr()?, reader.cstr()?);
    let (formats, parameters) = values(reader)?;
    let results = self::formats(reader)?;
    Some(Bind { portal, statement, formats, parameters, results })
}

fn call<'a>(reader: &mut Reader<'a>) -> Option<Call<'a>> {
    let function = reader.u32()?;
    let (formats, arguments) = values(reader)?;
    let binary_result = match reader.u16()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    Some(Call { function, formats, arguments, binary_result })
}

/// Formats, and the values that they are of.
fn values<'a>(reader: &mut Reader<'a>) -> Option<(Formats<'a>, Parameters<'a>)> {
    let formats = formats(reader)?;
    let left = usize::from(reader.u16()?);
    let start = reader.rest();
    for _ in 0..left {
        value(reader)?;
    }
    let body = start.get(..start.len() - reader.rest().len())?;
    if formats.len() > 1 && formats.len() != left {
        return None;
    }
    Some((formats, Parameters { left, body }))
}

fn formats<'a>(reader: &mut Reader<'a>) -> Option<Formats<'a>> {
    let count = usize::from(reader.u16()?);
    let codes = reader.bytes(count * 2)?;
    codes.as_chunks::<2>().0.iter().all(|code| matches!(code, [0, 0 | 1])).then_some(Formats { codes })
}

fn named<'a>(reader: &mut Reader<'a>) -> Option<(Side, &'a [u8])> {
    let side = match reader.u8()? {
        b'S' => Side::Statement,
        b'P' => Side::Portal,
        _ => return None,
    };
    Some((side, reader.cstr()?))
}

fn execute<'a>(reader: &mut Reader<'a>) -> Option<Frontend<'a>> {
    Some(Frontend::Execute { portal: reader.cstr()?, max_rows: reader.i32()? })
}
