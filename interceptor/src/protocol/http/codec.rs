//! Bytes to heads and bodies, and back: HTTP/1.1 as RFC 9112 has it, without anything that two readers could read in two
//! ways. `two` has the heads of HTTP/2, `frames` how its exchanges are recorded.
//!
//! Where the specification lets a reader be lenient, this one refuses: what is judged here has to be what the target reads.
//! So: lines end with CRLF, a field line is not folded, no space stands before a colon, no name but for a few stands twice,
//! `Content-Length` stands alone and is digits, `Transfer-Encoding` is `chunked` and nothing else, and there is one `Host`.
//! `None` means that more bytes are needed, `Err` that it was the peer's fault.
//!
//! Not promised: HTTP/1.0, upgrades, trailers (they are dropped), and extensions of chunks (they are refused).

mod body;
pub mod frames;
pub mod socket;
#[cfg(test)]
mod tests;
pub mod two;

pub use body::{Chunked, Piece};
use bytes::Bytes;
use memchr::memmem;
use smol_str::SmolStr;

/// The most that a head may have, in bytes.
pub const HEAD_LIMIT: usize = 64 * 1024;
/// The most field lines that a head may have.
pub const FIELDS_LIMIT: usize = 128;
/// What most heads do with.
const FIELDS_EXPECTED: usize = 12;
/// The longest request target.
pub const TARGET_LIMIT: usize = 8 * 1024;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The head does not fit.
    #[error("its head is larger than {HEAD_LIMIT} bytes, or has more than {FIELDS_LIMIT} fields")]
    TooLarge,
    /// The request line.
    #[error("its request line is no `METHOD target HTTP/1.1`")]
    RequestLine,
    /// The status line.
    #[error("its status line is no `HTTP/1.1 200 reason`")]
    StatusLine,
    /// Another version.
    #[error("it is of another version than HTTP/1.1")]
    Version,
    /// A line that does not end as lines do.
    #[error("a line of its head does not end with CRLF")]
    LineEnd,
    /// A field line.
    #[error("a field of its head is folded, has no name, or characters that fields have not")]
    Field,
    /// A field that may stand once stands again.
    #[error("a field stands twice that has one value")]
    Twice,
    /// `Host`.
    #[error("it has no `Host`, or one that is no host")]
    Host,
    /// How long the body is.
    #[error("how long its body is can be read in more than one way")]
    Framing,
    /// A chunk.
    #[error("a chunk of its body is not framed as chunks are")]
    Chunk,
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes.
    Known(u64),
    /// In chunks.
    Chunked,
    /// Until the peer closes: answers alone.
    UntilClose,
}

/// One field line: the name in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name, in lower case.
    pub name: SmolStr,
    /// Its value, without white space around it. Bytes above 127 are kept.
    pub value: Bytes,
}

impl Field {
    /// A field; the name is in lower case.
    #[must_use]
    pub fn new(name: &str, value: impl Into<Bytes>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

/// Field lines, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<Field>);

impl Fields {
    /// The first value of that name (lower case).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// The first value of that name as text, where it is.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// Every value of that name.
    pub fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.0.iter().filter(move |field| is_alike(&field.name, name)).map(|field| &*field.value)
    }

    /// Whether some value of that name lists this token, in whatever case.
    #[must_use]
    pub fn lists(&self, name: &str, token: &str) -> bool {
        let is = |part: &[u8]| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes());
        self.all(name).any(|value| value.split(|byte| *byte == b',').any(is))
    }

    /// Takes every field of that name away.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|field| !is_alike(&field.name, name));
    }

    /// Makes one field of all of that name, which have lists (RFC 9110, section 5.3).
    pub fn join(&mut self, name: &str) {
        let all: Vec<&[u8]> = self.all(name).collect();
        if all.len() > 1 {
            let joined = all.join(&b", "[..]);
            self.set(name, joined);
        }
    }

    /// Puts a field in the place of all of that name.
    pub fn set(&mut self, name: &str, value: impl Into<Bytes>) {
        self.remove(name);
        self.0.push(Field::new(name, value));
    }

    /// Fields that `Connection` names, in lower case, beside those that belong to one connection in any case.
    pub fn named_by_connection(&self) -> impl Iterator<Item = String> {
        let named = self.all("connection").flat_map(|value| value.split(|byte| *byte == b','));
        let named = named.map(|part| String::from_utf8_lossy(part.trim_ascii()).to_ascii_lowercase());
        named.filter(|name| !name.is_empty() && name != "close" && !is_hop_by_hop(name))
    }

    /// Takes away what belongs to one connection alone (RFC 9110, section 7.6.1), with what `Connection` names.
    pub fn end_to_end(&mut self) {
        let named: Vec<String> = self.named_by_connection().collect();
        let belongs = |name: &str| is_hop_by_hop(name) || named.iter().any(|other| is_alike(name, other));
        self.0.retain(|field| !belongs(&field.name));
    }

    fn write(&self, out: &mut Vec<u8>, shown: impl Fn(&Field) -> &[u8]) {
        for field in &self.0 {
            out.extend_from_slice(field.name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(shown(field));
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Fields that belong to one connection, and those that say how a body is framed on it.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.iter().any(|known| is_alike(name, known))
}

/// Whether a name, as [`super::claims::field`] has it, means something to all of HTTP.
pub(super) fn is_reserved(name: &str) -> bool {
    is_hop_by_hop(name)
        || (ONCE.contains(&name) && !name.starts_with("x-"))
        || FRAMING.contains(&name)
        || name.ends_with("cookie")
        || name == "cookie2"
}

/// Whether two names (lower case) are one to some servers: those that hand fields on as variables take `_` for `-`
/// (RFC 3875, section 4.1.18).
pub(super) fn is_alike(one: &str, other: &str) -> bool {
    let dashed = |byte: u8| if byte == b'_' { b'-' } else { byte };
    one.len() == other.len() && one.bytes().map(dashed).eq(other.bytes().map(dashed))
}

/// Fields whose first and second value two readers could choose between.
const ONCE: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "content-range",
    "transfer-encoding",
    "authorization",
    "proxy-authorization",
    "expect",
    "location",
    "origin",
    "range",
    "user-agent",
    "x-http-method-override",
];

/// What an agent asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The method, as it stands.
    pub method: SmolStr,
    /// The request target, as it stands.
    pub target: String,
    /// The fields.
    pub fields: Fields,
    /// How long its body is.
    pub length: Length,
}

/// What a target answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status.
    pub status: u16,
    /// The reason, as it stands.
    pub reason: SmolStr,
    /// The fields.
    pub fields: Fields,
    /// How long its body is, unless what was asked for leaves it out.
    pub length: Length,
}

/// Reads the head of a request, and how many bytes it has.
///
/// # Errors
/// [`Malformed`].
pub fn request(bytes: &[u8]) -> Result<Option<(RequestHead, usize)>, Malformed> {
    let Some((first, fields, length)) = head(bytes)? else { return Ok(None) };
    let first = std::str::from_utf8(&first).map_err(|_| Malformed::RequestLine)?;
    let mut words = first.split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Malformed::RequestLine);
    };
    if !is_token(method) || target.is_empty() || target.len() > TARGET_LIMIT {
        return Err(Malformed::RequestLine);
    }
    // What a path may hold is looked at later; here, only that a line is what it seems.
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Malformed::RequestLine);
    }
    if version != VERSION {
        return Err(if version.starts_with("HTTP/") { Malformed::Version } else { Malformed::RequestLine });
    }
    if fields.get("host").is_none_or(|host| host.is_empty() || !host.iter().all(|byte| is_host(*byte))) {
        return Err(Malformed::Host);
    }
    let body = framing(&fields)?.unwrap_or(Length::Known(0));
    let head = RequestHead { method: method.into(), target: target.to_owned(), fields, length: body };
    Ok(Some((head, length)))
}

/// Reads the head of an answer, and how many bytes it has.
///
/// # Errors
/// [`Malformed`].
pub fn response(bytes: &[u8]) -> Result<Option<(ResponseHead, usize)>, Malformed> {
    let Some((first, fields, length)) = head(bytes)? else { return Ok(None) };
    let first = std::str::from_utf8(&first).map_err(|_| Malformed::StatusLine)?;
    let rest = first.strip_prefix(VERSION).and_then(|rest| rest.strip_prefix(' ')).ok_or(Malformed::StatusLine)?;
    // A space stands behind the status even where no reason does; many leave it out.
    let (status, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    if status.len() != 3 || !status.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed::StatusLine);
    }
    let status: u16 = status.parse().map_err(|_| Malformed::StatusLine)?;
    if !(100..600).contains(&status) {
        return Err(Malformed::StatusLine);
    }
    let body = framing(&fields)?.unwrap_or(Length::UntilClose);
    Ok(Some((ResponseHead { status, reason: reason.into(), fields, length: body }, length)))
}

impl RequestHead {
    /// Writes it, followed by nothing: the body is the caller's.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_as(out, &self.target, |field| &field.value);
    }

    /// The same with another target, and with other values of fields.
    pub(super) fn write_as(&self, out: &mut Vec<u8>, target: &str, shown: impl Fn(&Field) -> &[u8]) {
        for part in [&self.method, " ", target, " ", VERSION, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        self.fields.write(out, shown);
    }
}

impl ResponseHead {
    /// Writes it, followed by nothing: the body is the caller's.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_as(out, |field| &field.value);
    }

    /// The same with other values of fields.
    pub(super) fn write_as(&self, out: &mut Vec<u8>, shown: impl Fn(&Field) -> &[u8]) {
        for part in [VERSION, " ", &self.status.to_string(), " ", &self.reason, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        self.fields.write(out, shown);
    }
}

const VERSION: &str = "HTTP/1.1";

/// The first line, the fields, and the length of a head.
fn head(bytes: &[u8]) -> Result<Option<(Bytes, Fields, usize)>, Malformed> {
    let Some(end) = memmem::find(bytes.get(..HEAD_LIMIT + 3).unwrap_or(bytes), b"\r\n\r\n") else {
        // A line feed without a carriage return would end a line for others, and never does here.
        if bare_line_feed(bytes) {
            return Err(Malformed::LineEnd);
        }
        if memchr::memchr_iter(b'\n', bytes).count() > FIELDS_LIMIT + 1 {
            return Err(Malformed::TooLarge);
        }
        return if bytes.len() >= HEAD_LIMIT { Err(Malformed::TooLarge) } else { Ok(None) };
    };
    // Copied once: what is read of it are parts of this.
    let text = Bytes::copy_from_slice(bytes.get(..end).unwrap_or_default());
    if bare_line_feed(&text) {
        return Err(Malformed::LineEnd);
    }
    let mut rest = text.clone();
    let first = line(&mut rest);
    if !first.iter().all(|byte| *byte == b' ' || *byte == b'\t' || byte.is_ascii_graphic() || *byte > 127) {
        return Err(Malformed::Field);
    }
    let mut fields = Vec::with_capacity(FIELDS_EXPECTED);
    while !rest.is_empty() {
        if fields.len() == FIELDS_LIMIT {
            return Err(Malformed::TooLarge);
        }
        fields.push(field(&line(&mut rest))?);
    }
    let fields = Fields(fields);
    check(&fields)?;
    Ok(Some((first, fields, end + 4)))
}

/// Whether each field that has one value has one, in one spelling.
fn check(fields: &Fields) -> Result<(), Malformed> {
    if ONCE.iter().any(|name| fields.all(name).nth(1).is_some()) || is_spelt_twice(fields) {
        return Err(Malformed::Twice);
    }
    Ok(())
}

/// Whether a name stands there in two spellings: which of them counts, or both, depends on the server.
fn is_spelt_twice(fields: &Fields) -> bool {
    let odd = fields.0.iter().filter(|field| field.name.contains('_'));
    odd.into_iter().any(|odd| fields.0.iter().any(|other| other.name != odd.name && is_alike(&other.name, &odd.name)))
}

/// Whether a line ends with one of both alone. The very last byte may still become a line's end.
fn bare_line_feed(bytes: &[u8]) -> bool {
    let at = |at: Option<usize>| at.and_then(|at| bytes.get(at)).copied();
    memchr::memchr2_iter(b'\r', b'\n', bytes).any(|here| match at(Some(here)) {
        Some(b'\r') => at(here.checked_add(1)).is_some_and(|next| next != b'\n'),
        _ => at(here.checked_sub(1)) != Some(b'\r'),
    })
}

/// The line that the text begins with, which is taken off it.
fn line(rest: &mut Bytes) -> Bytes {
    let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |feed| feed + 1);
    let mut line = rest.split_to(end);
    if line.ends_with(b"\r\n") {
        line.truncate(line.len() - 2);
    }
    line
}

fn field(line: &Bytes) -> Result<Field, Malformed> {
    let colon = memchr::memchr(b':', line).ok_or(Malformed::Field)?;
    let (name, value) = line.split_at_checked(colon).ok_or(Malformed::Field)?;
    let value = value.get(1..).unwrap_or_default().trim_ascii();
    let name = std::str::from_utf8(name).ok().filter(|name| is_token(name)).ok_or(Malformed::Field)?;
    if !value.iter().all(|byte| *byte == b'\t' || *byte == b' ' || byte.is_ascii_graphic() || *byte > 127) {
        return Err(Malformed::Field);
    }
    let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        name.chars().map(|character| character.to_ascii_lowercase()).collect()
    } else {
        SmolStr::new(name)
    };
    Ok(Field { name, value: line.slice_ref(value) })
}

/// How long the body is, where the fields say so. Both ways at once are the oldest smuggler's trick.
fn framing(fields: &Fields) -> Result<Option<Length>, Malformed> {
    // In another spelling it frames for some readers, and for others it is any field.
    let other = |field: &Field| FRAMING.iter().any(|name| field.name != *name && is_alike(&field.name, name));
    if fields.0.iter().any(other) {
        return Err(Malformed::Framing);
    }
    let (encoding, length) = (fields.get("transfer-encoding"), fields.get("content-length"));
    match (encoding, length) {
        (None, None) => Ok(None),
        (Some(encoding), None) if encoding.eq_ignore_ascii_case(b"chunked") => Ok(Some(Length::Chunked)),
        (None, Some(digits)) if digits.iter().all(u8::is_ascii_digit) && (1..=15).contains(&digits.len()) => {
            let text = std::str::from_utf8(digits).map_err(|_| Malformed::Framing)?;
            text.parse().map(|length| Some(Length::Known(length))).map_err(|_| Malformed::Framing)
        }
        _ => Err(Malformed::Framing),
    }
}

const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

/// RFC 9110, section 5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    let other = |byte: u8| b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || other(byte))
}

fn is_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte)
}
