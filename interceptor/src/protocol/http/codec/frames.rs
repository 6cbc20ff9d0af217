//! How exchanges of HTTP/2 are recorded: in frames of HTTP/2 (RFC 9113, section 4), so that what belongs together bears the
//! number of its stream. Heads are in HPACK's plainest form (RFC 7541, section 6.2.3: literal, never indexed, no Huffman),
//! so that each can be read without those before it.

use super::{Field, Fields, HEAD_LIMIT, RequestHead, ResponseHead};

/// What a recording of HTTP/2 begins with, in the agent's direction (RFC 9113, section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The most that a frame has here: pieces of bodies are shorter, and heads too.
const FRAME_LIMIT: usize = 4 * HEAD_LIMIT;
/// The longest piece of a body in one frame.
const PIECE: usize = 64 * 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// It is none of the frames that are written here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no frame of a recording")]
pub struct NoFrame;

/// What stands in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// Fields, pseudo-fields among them: a head, or trailers.
    Fields(Fields),
    /// A piece of a body.
    Data(&'a [u8]),
}

/// A frame as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The stream that it belongs to.
    pub stream: u32,
    /// Nothing follows on it in this direction.
    pub last: bool,
    /// What is in it.
    pub content: Content<'a>,
}

/// What is written of a field in the place of its value.
type Shown<'a> = (&'a Field, &'a [u8]);

/// The head of a request, with another target. `shown` says what stands for a field's value.
pub fn put_request(
    out: &mut Vec<u8>,
    stream: u32,
    (head, target): (&RequestHead, &str),
    shown: impl Fn(&Field) -> &[u8],
    last: bool,
) {
    let host = head.fields.get("host").unwrap_or_default();
    let pseudo = [(":method", head.method.as_bytes()), (":path", target.as_bytes()), (":authority", host)];
    let fields = head.fields.0.iter().filter(|field| field.name != "host");
    put_fields(out, stream, &pseudo, fields.map(|field| (field, shown(field))), last);
}

/// The head of an answer.
pub fn put_response(out: &mut Vec<u8>, stream: u32, head: &ResponseHead, shown: impl Fn(&Field) -> &[u8], last: bool) {
    let status = head.status.to_string();
    let fields = head.fields.0.iter().map(|field| (field, shown(field)));
    put_fields(out, stream, &[(":status", status.as_bytes())], fields, last);
}

/// Trailers.
pub fn put_trailers(out: &mut Vec<u8>, stream: u32, fields: &Fields, shown: impl Fn(&Field) -> &[u8]) {
    put_fields(out, stream, &[], fields.0.iter().map(|field| (field, shown(field))), true);
}

/// A piece of a body.
pub fn put_data(out: &mut Vec<u8>, stream: u32, data: &[u8], last: bool) {
    let mut rest = data;
    loop {
        let (piece, later) = rest.split_at_checked(PIECE).unwrap_or((rest, &[]));
        let ends = last && later.is_empty();
        put_head(out, piece.len(), DATA, if ends { END_STREAM } else { 0 }, stream);
        out.extend_from_slice(piece);
        if later.is_empty() {
            return;
        }
        rest = later;
    }
}

/// The frame that the bytes begin with, and how many it has; nothing where it is not all there.
///
/// # Errors
/// [`NoFrame`].
pub fn read(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, NoFrame> {
    let Some((head, rest)) = bytes.split_first_chunk::<9>() else { return Ok(None) };
    let [a, b, c, kind, flags, number @ ..] = *head;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    if length > FRAME_LIMIT {
        return Err(NoFrame);
    }
    let Some(payload) = rest.get(..length) else { return Ok(None) };
    let content = match kind {
        DATA => Content::Data(payload),
        HEADERS => Content::Fields(read_fields(payload).ok_or(NoFrame)?),
        _ => return Err(NoFrame),
    };
    let frame = Frame { stream: u32::from_be_bytes(number), last: flags & END_STREAM != 0, content };
    Ok(Some((frame, 9 + length)))
}

fn put_head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(length.get(1..).unwrap_or_default());
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

fn put_fields<'a>(
    out: &mut Vec<u8>,
    stream: u32,
    pseudo: &[(&str, &[u8])],
    fields: impl Iterator<Item = Shown<'a>>,
    last: bool,
) {
    let mut block = Vec::new();
    let fields = fields.map(|(field, value)| (field.name.as_str(), value));
    for (name, value) in pseudo.iter().copied().chain(fields) {
        block.push(0x10);
        put_string(&mut block, name.as_bytes());
        put_string(&mut block, value);
    }
    put_head(out, block.len(), HEADERS, END_HEADERS | if last { END_STREAM } else { 0 }, stream);
    out.extend_from_slice(&block);
}

/// A string whose length is an integer with a prefix of seven bits (RFC 7541, section 5).
fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text.len();
    if rest < 127 {
        out.extend(u8::try_from(rest));
    } else {
        out.push(127);
        rest -= 127;
        while rest >= 128 {
            out.extend(u8::try_from(rest % 128).map(|low| low | 128));
            rest /= 128;
        }
        out.extend(u8::try_from(rest));
    }
    out.extend_from_slice(text);
}

fn read_fields(mut block: &[u8]) -> Option<Fields> {
    let mut fields = Vec::new();
    while let Some((first, rest)) = block.split_first() {
        if *first != 0x10 {
            return None;
        }
        let (name, rest) = read_string(rest)?;
        let (value, rest) = read_string(rest)?;
        fields.push(Field::new(std::str::from_utf8(name).ok()?, value.to_vec()));
        block = rest;
    }
    Some(Fields(fields))
}

fn read_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, mut rest) = bytes.split_first()?;
    let mut length = usize::from(*first);
    if length > 127 {
        return None;
    }
    if length == 127 {
        for shift in [0, 7, 14, 21] {
            let (byte, after) = rest.split_first()?;
            length += usize::from(byte & 127) << shift;
            rest = after;
            if byte & 128 == 0 {
                return rest.split_at_checked(length);
            }
        }
        return None;
    }
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::codec::Length;

    #[test]
    fn what_is_written_is_read_again() {
        let long = "x".repeat(20_000);
        let fields =
            Fields(vec![Field::new("host", "h"), Field::new("x", long.clone()), Field::new("y", vec![b'y'; 127])]);
        let head = RequestHead { method: "GET".into(), target: "/a".into(), fields, length: Length::Known(0) };
        let mut out = Vec::new();
        put_request(&mut out, 5, (&head, "/a"), |field| &field.value, false);
        put_data(&mut out, 5, b"abc", true);
        let Some((frame, used)) = read(&out).unwrap() else { panic!("not all there") };
        assert_eq!((frame.stream, frame.last), (5, false));
        let Content::Fields(found) = frame.content else { panic!("no head") };
        assert_eq!(
            (found.text(":path"), found.text(":authority"), found.text("x")),
            (Some("/a"), Some("h"), Some(&*long))
        );
        assert_eq!((found.get("host"), found.get("y").map(<[u8]>::len)), (None, Some(127)));
        let rest = Frame { stream: 5, last: true, content: Content::Data(b"abc") };
        assert_eq!(read(&out[used..]).unwrap(), Some((rest, 12)));
        for end in 0..12 {
            assert_eq!(read(&out[used..used + end]), Ok(None));
        }
        assert!(read(b"\0\0\0\x04\0\0\0\0\0").is_err() && read(b"\xff\0\0\x00\0\0\0\0\0").is_err());
        assert!(read(b"\0\0\x03\x01\0\0\0\0\x01\x10\x05a").is_err());
    }
}
