//! The messages of an answer in which nothing is masked, followed so that no echo of the credential passes unseen: those that
//! are compressed by gzip go on without that, and any other compression does not pass.
//!
//! A message that is not compressed passes as it comes, however long it is. Whoever reads messages reads each by itself: what
//! stands partly in one and partly in the next is not looked for.

use bytes::{Buf as _, BytesMut};

use super::Form;
use super::frames::{self, COMPRESSED, HEAD, TRAILERS, Unarmoured, Unframed};
use super::masks::Unread;
use crate::protocol::http::MASK_LIMIT;
use crate::protocol::http::codec::{Fields, ResponseHead};
use crate::protocol::http::scrub::Scrub;

/// Follows the body of an answer as it comes.
#[derive(Debug)]
pub(in crate::protocol::http) struct Passing {
    form: Form,
    /// How the head says that its messages may be compressed.
    coding: String,
    unarmoured: Unarmoured,
    input: BytesMut,
    /// What is still to come of a message that passes as it comes.
    left: usize,
}

impl Passing {
    /// Of an answer with this head; nothing where it is no answer of gRPC.
    pub(in crate::protocol::http) fn of(head: &ResponseHead) -> Option<Self> {
        let coding = coding(&head.fields);
        let kinds = head.fields.all("content-type").map(|kind| String::from_utf8_lossy(kind).to_ascii_lowercase());
        let form = kinds.filter_map(|kind| Form::of(kind.trim())).next();
        // What names a compression of messages has messages, whatever it calls them.
        let form = form.or((coding != "identity").then_some(Form::Native))?;
        Some(Self { form, coding, unarmoured: Unarmoured::default(), input: BytesMut::new(), left: 0 })
    }

    pub(in crate::protocol::http) const fn form(&self) -> Form {
        self.form
    }

    /// Whether its messages may be compressed in a way that is not known: it is refused where one is.
    pub(in crate::protocol::http) fn is_doubtful(&self) -> bool {
        !matches!(self.coding.as_str(), "identity" | "gzip")
    }

    /// Takes bytes, and appends what is decided, never in base64: of what is compressed, one message at most.
    pub(in crate::protocol::http) fn push(
        &mut self,
        bytes: &[u8],
        scrub: &mut Scrub<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Unread> {
        if self.form == Form::WebText {
            let mut plain = Vec::new();
            self.unarmoured.push(bytes, &mut plain)?;
            self.input.extend_from_slice(&plain);
        } else {
            self.input.extend_from_slice(bytes);
        }
        while self.step(scrub, out)? {}
        Ok(())
    }

    /// Whether there is more to be had without any more bytes.
    pub(in crate::protocol::http) fn is_pending(&self) -> bool {
        match frames::head(&self.input) {
            _ if self.left > 0 => !self.input.is_empty(),
            Some((COMPRESSED | TRAILERS, size)) => size > MASK_LIMIT || self.input.len() >= HEAD + size,
            head => head.is_some(),
        }
    }

    /// Nothing comes any more.
    pub(in crate::protocol::http) fn finish(&self) -> Result<(), Unread> {
        let whole = self.left == 0 && self.input.is_empty() && self.unarmoured.is_whole();
        if whole { Ok(()) } else { Err(Unframed::Ends.into()) }
    }

    pub(in crate::protocol::http) fn held(&self) -> usize {
        self.input.len()
    }

    /// Whether to go on at once.
    fn step(&mut self, scrub: &mut Scrub<'_>, out: &mut Vec<u8>) -> Result<bool, Unread> {
        if self.left > 0 {
            let part = self.input.split_to(self.left.min(self.input.len()));
            self.left -= part.len();
            out.extend_from_slice(&scrub.push(&part));
            if self.left == 0 {
                out.extend_from_slice(&scrub.finish());
            }
            return Ok(self.left == 0);
        }
        let Some((flags, size)) = frames::head(&self.input) else { return Ok(false) };
        match flags {
            0 => {}
            TRAILERS if self.form != Form::Native => return self.trailers(size, scrub, out).map(|()| false),
            COMPRESSED => return self.compressed(size, scrub, out).map(|()| false),
            _ => return Err(Unread::Flags),
        }
        out.extend_from_slice(&self.input.split_to(HEAD));
        self.left = size;
        Ok(true)
    }

    /// The next message, which is compressed, where all of it has come.
    fn compressed(&mut self, size: usize, scrub: &mut Scrub<'_>, out: &mut Vec<u8>) -> Result<(), Unread> {
        match self.coding.as_str() {
            "gzip" => {}
            "identity" => return Err(Unread::Flags),
            other => return Err(Unread::Coding(other.to_owned())),
        }
        let Some(message) = self.whole(size)? else { return Ok(()) };
        put_clean(out, 0, &frames::unzipped(&message, MASK_LIMIT)?, scrub);
        Ok(())
    }

    /// Trailers, where all of them have come. Cookies do not pass there: no client keeps them.
    fn trailers(&mut self, size: usize, scrub: &mut Scrub<'_>, out: &mut Vec<u8>) -> Result<(), Unread> {
        const COOKIE: &[u8] = b"set-cookie";
        let Some(trailers) = self.whole(size)? else { return Ok(()) };
        let is_cookie = |line: &[u8]| {
            let name = line.trim_ascii_start().get(..COOKIE.len());
            name.is_some_and(|name| name.eq_ignore_ascii_case(COOKIE))
        };
        let lines = trailers.split_inclusive(|byte| *byte == b'\n');
        put_clean(out, TRAILERS, &lines.filter(|line| !is_cookie(line)).collect::<Vec<_>>().concat(), scrub);
        Ok(())
    }

    /// What stands behind the head of the next message, where all of it has come.
    fn whole(&mut self, size: usize) -> Result<Option<BytesMut>, Unread> {
        if size > MASK_LIMIT {
            return Err(Unframed::Long(u32::try_from(size).unwrap_or(u32::MAX)).into());
        }
        if self.input.len() < HEAD + size {
            return Ok(None);
        }
        let mut message = self.input.split_to(HEAD + size);
        message.advance(HEAD);
        Ok(Some(message))
    }
}

/// Appends a message in which the credential is blotted out. Blots are as long as what they stand for.
fn put_clean(out: &mut Vec<u8>, flags: u8, message: &[u8], scrub: &mut Scrub<'_>) {
    let mut clean = scrub.push(message).to_vec();
    clean.extend_from_slice(&scrub.finish());
    frames::put(out, flags, &clean);
}

/// The compression that a head names, in lower case; several as they stand, which nobody knows.
fn coding(fields: &Fields) -> String {
    let named = ["grpc-encoding", "connect-content-encoding"].into_iter().flat_map(|name| fields.all(name));
    let named: Vec<String> = named.map(|name| String::from_utf8_lossy(name).trim().to_ascii_lowercase()).collect();
    if named.is_empty() { "identity".to_owned() } else { named.join(", ") }
}
