//! Calls of gRPC whose messages are known, by a schema that the configuration names.
//!
//! # A primer
//!
//! **A call** is a `POST` on `/package.Service/Method`. Bodies are messages, each behind a flag (compressed or not) and its length;
//! how it went stands in the trailers (`grpc-status`). A method takes one message or a stream of them, and answers either. gRPC-web
//! is the same for clients that see no trailers: those stand behind the last message, with a flag of their own; in one form of
//! it, all of that is base64.
//!
//! **A message** is a run of fields: a number, how it is written, the value. What the number means, the schema says, which
//! sender and reader have; a set of file descriptors holds it (`protoc --descriptor_set_out`).
//!
//! # What is done with it
//!
//! `schema` reads such sets once; `wire` and `value` read what is written, `message` what it says, where all readers find the same;
//! `frames` tells messages apart; `masks` writes those of answers anew, `passing` follows
//! them where nothing is masked; `hidden` finds what recordings do not show. What is compressed is undone before it is judged, and
//! passes so. The one message of a call is judged with it, those of a stream one by one as they come.
//!
//! Not promised: files of an edition, groups, extensions, compression by anything but gzip.
//!
//! # Specification
//!
//! - <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md>
//! - <https://protobuf.dev/programming-guides/encoding/>

pub mod frames;
mod hidden;
mod masks;
mod message;
mod passing;
pub mod schema;
#[cfg(test)]
mod tests;
mod value;
pub mod wire;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::BODY_LIMIT;
use super::codec::{Fields, RequestHead};
use super::content::{Content, Limits};
use super::route::Location;
use crate::mask::TreeMasker;
use frames::{COMPRESSED, Frame};
pub use hidden::blotted;
pub use masks::Unread;
pub(in crate::protocol) use masks::{Answer, Spoken};
pub(in crate::protocol::http) use passing::Passing;
use schema::Method;
pub use schema::{Config, Schema};

/// How a call stands in HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// gRPC over HTTP/2.
    Native,
    /// gRPC-web.
    Web,
    /// gRPC-web in base64.
    WebText,
}

impl Form {
    /// What a body is that is said to be of this type, whatever its messages are written in.
    #[must_use]
    pub fn of(kind: &str) -> Option<Self> {
        let end = kind.find(['+', ';']).unwrap_or(kind.len());
        match kind.get(..end)?.trim_ascii_end() {
            "application/grpc" => Some(Self::Native),
            "application/grpc-web" => Some(Self::Web),
            "application/grpc-web-text" => Some(Self::WebText),
            _ => None,
        }
    }

    /// The same, where its messages are those of a schema. Some readers choose how they read by whatever stands behind.
    #[must_use]
    pub fn of_messages(kind: &str) -> Option<Self> {
        let plain = kind.strip_suffix("+proto").unwrap_or(kind);
        Self::of(plain).filter(|_| !plain.contains([';', '+', ' ']))
    }

    /// What its bodies are said to be.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "application/grpc",
            Self::Web => "application/grpc-web+proto",
            Self::WebText => "application/grpc-web-text+proto",
        }
    }
}

/// Which form a request or an answer with these fields has, if any.
pub(in crate::protocol) fn form(fields: &Fields) -> Option<Form> {
    Form::of(fields.text("content-type")?)
}

/// What a request calls.
#[derive(Clone, Copy, Debug)]
pub(in crate::protocol) enum Called<'s> {
    /// No method that the schema has.
    Nothing,
    /// Its path is that of a method, and it is no call of it that all servers read alike: some take a request there for a call
    /// whatever it says of itself, others take JSON.
    Unclear,
    /// A method.
    Method(Call<'s>),
}

impl<'s> Called<'s> {
    /// By a request with this head, whose path is read so.
    pub(in crate::protocol) fn of(schema: Option<&'s Arc<Schema>>, head: &RequestHead, location: &Location) -> Self {
        let names = |schema: &Arc<Schema>| location.segments.len() == 2 && schema.method(&location.path()).is_some();
        match Call::of(schema, head) {
            Some(call) => Self::Method(call),
            None if schema.is_some_and(names) => Self::Unclear,
            None => Self::Nothing,
        }
    }

    /// The call, where it is one that all servers read alike.
    pub(in crate::protocol) const fn known(self) -> Option<Call<'s>> {
        match self {
            Self::Method(call) => Some(call),
            Self::Nothing | Self::Unclear => None,
        }
    }

    /// Whether its path is that of a method.
    pub(in crate::protocol) const fn is_method(&self) -> bool {
        !matches!(self, Self::Nothing)
    }
}

/// A call of a method that the schema has.
#[derive(Clone, Copy, Debug)]
pub(in crate::protocol) struct Call<'s> {
    schema: &'s Arc<Schema>,
    method: &'s Method,
    form: Form,
    /// Its messages may be compressed so.
    gzip: bool,
}

impl<'s> Call<'s> {
    /// What is called by a request with this head, as every reader has it.
    pub(in crate::protocol) fn of(schema: Option<&'s Arc<Schema>>, head: &RequestHead) -> Option<Self> {
        let schema = schema?;
        let method = schema.method(&head.target).filter(|_| head.method == "POST")?;
        let form = Form::of_messages(head.fields.text("content-type")?)?;
        if head.fields.all("content-type").count() > 1 {
            return None;
        }
        let gzip = gzip(&head.fields)?;
        let coded = head.fields.all("content-encoding").any(|coding| !coding.eq_ignore_ascii_case(b"identity"));
        if coded || (form == Form::WebText && method.streams_in) {
            return None;
        }
        Some(Self { schema, method, form, gzip })
    }

    /// Whether its messages come one after the other, while it may be answered already.
    pub(in crate::protocol) const fn is_stream(&self) -> bool {
        self.method.streams_in
    }

    /// What its answers consist of.
    pub(in crate::protocol) fn spoken(&self) -> Spoken {
        Spoken { schema: Arc::clone(self.schema), output: self.method.output }
    }

    /// The body of a call that takes one message, without compression, where it can be undone; that is judged, and passes.
    pub(in crate::protocol) fn plain(&self, body: Bytes) -> Bytes {
        let undone = || {
            let frame = self.single(&body).ok()??;
            let message = self.undone(&frame).ok().filter(|_| frame.flags == COMPRESSED)?;
            let (mut framed, mut out) = (Vec::new(), Vec::new());
            frames::put(&mut framed, 0, &message);
            if self.form == Form::WebText {
                frames::armour(&framed, &mut out);
            }
            Some(if self.form == Form::WebText { out } else { framed })
        };
        undone().map_or_else(|| body.clone(), Bytes::from)
    }

    /// What such a body says.
    ///
    /// # Errors
    /// A sentence: it is no message that all readers read alike.
    pub(in crate::protocol) fn read(&self, body: &[u8]) -> Result<Content, String> {
        let frame = self.single(body)?.ok_or("its call takes one message, and has none")?;
        self.content(&frame)
    }

    /// A message of a stream: what passes of it, and what it says.
    pub(in crate::protocol) fn one(&self, frame: &Frame) -> (Bytes, Result<Content, String>) {
        let message = match self.undone(frame) {
            Ok(message) => message,
            Err(why) => return (frame.whole.clone(), Err(why)),
        };
        let read = self.said(&message);
        let mut framed = Vec::with_capacity(frames::HEAD + message.len());
        frames::put(&mut framed, 0, &message);
        (framed.into(), read)
    }

    fn single(&self, body: &[u8]) -> Result<Option<Frame>, String> {
        let body = match self.form {
            Form::WebText => Cow::Owned(frames::unarmoured(body).map_err(|why| why.to_string())?),
            Form::Native | Form::Web => Cow::Borrowed(body),
        };
        frames::single(&body, BODY_LIMIT)
    }

    fn content(&self, frame: &Frame) -> Result<Content, String> {
        self.said(&self.undone(frame)?)
    }

    fn said(&self, message: &[u8]) -> Result<Content, String> {
        message::read(self.schema, self.method.input, message, Limits::default())
    }

    fn undone(&self, frame: &Frame) -> Result<Bytes, String> {
        match frame.flags {
            0 => Ok(frame.message.clone()),
            COMPRESSED if self.gzip => {
                let plain = frames::unzipped(&frame.message, BODY_LIMIT).map_err(|why| why.to_string())?;
                Ok(plain.into())
            }
            _ => Err("its message is compressed in a way that is not known here".to_owned()),
        }
    }
}

/// What a message to a method says; nothing where the schema has no such method.
///
/// # Errors
/// A sentence: readers may differ in what stands in it.
#[must_use]
pub fn understood(schema: &Schema, path: &str, message: &[u8]) -> Option<Result<Vec<String>, String>> {
    let method = schema.method(path)?;
    Some(message::read(schema, method.input, message, Limits::default()).map(|content| content.values))
}

/// A message that a method answers, masked; nothing where the schema has no such method.
///
/// # Errors
/// [`Unread`].
#[must_use]
pub fn masked(
    schema: &Arc<Schema>,
    path: &str,
    tree: &mut TreeMasker,
    message: &[u8],
) -> Option<Result<Vec<u8>, Unread>> {
    let spoken = Spoken { schema: Arc::clone(schema), output: schema.method(path)?.output };
    Some(masks::masked(&spoken, tree, message))
}

/// Whether messages may be compressed by gzip; nothing where they may be in another way, or in several.
pub(in crate::protocol) fn gzip(fields: &Fields) -> Option<bool> {
    let mut named = fields.all("grpc-encoding");
    let first = named.next().unwrap_or(b"identity");
    match (first, named.next()) {
        (b"identity", None) => Some(false),
        (b"gzip", None) => Some(true),
        _ => None,
    }
}

/// Takes away from the head of an answer what its status says in words, and whatever else stands there in the place of trailers:
/// where all of an answer is a status, they stand in its head.
pub(in crate::protocol) fn conceal(fields: &mut Fields) {
    const STATUS: [&str; 3] = ["grpc-status", "grpc-message", "grpc-status-details-bin"];
    const KEPT: [&str; 4] = ["grpc-status", "content-type", "content-length", "date"];
    if STATUS.iter().any(|name| fields.get(name).is_some()) {
        fields.0.retain(|field| KEPT.contains(&&*field.name));
    }
}
