//! Messages of JSON-RPC 2.0 in a body: one, or several in a list. Pure: bytes in, messages out.
//!
//! Strict where servers differ: of keys that are none of JSON-RPC, values of another type than they should have, and ids that
//! are neither text nor whole numbers, nobody says what is read in them.

use super::json;
use crate::protocol::http::content::{self, Limits};

/// What a body may have to be looked into: an argument may be a file.
const LIMITS: Limits = Limits { fields: 16 * 1024, depth: json::DEPTH_LIMIT, value: 1 << 20 };
/// The most messages in a list.
pub const MESSAGES_LIMIT: usize = 64;
/// The longest id, in bytes as it stands.
pub const ID_LIMIT: usize = 256;

/// What a body says.
#[derive(Debug, PartialEq, Eq)]
pub struct Said<'a> {
    /// Its messages.
    pub messages: Vec<Message<'a>>,
    /// They stand in a list.
    pub is_list: bool,
    /// Its values: `params.arguments.id=7`.
    pub values: Vec<String>,
}

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its id, as it stands; nothing where it has none that an answer could name.
    pub id: Option<&'a str>,
    /// What it is.
    pub kind: Kind<'a>,
    /// All that it says, but for what is another in each run.
    pub essence: Vec<u8>,
}

/// What a message is.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A request, or a notification.
    Request {
        /// Its method.
        method: String,
        /// The members of its parameters, as they stand.
        params: Vec<(String, &'a [u8])>,
    },
    /// The answer to what the server has asked.
    Answer,
    /// None that is understood: why not.
    Odd(&'static str),
}

/// Reads the body of a request of this type.
///
/// # Errors
/// A sentence: another reader may find something else in it.
pub fn read<'a>(content_type: Option<&str>, encoded: bool, body: &'a [u8]) -> Result<Said<'a>, String> {
    let is_json = content_type
        .is_some_and(|kind| kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json"));
    if !is_json {
        return Err("its body is not application/json".to_owned());
    }
    if body.is_empty() {
        return Err("it has no body".to_owned());
    }
    let values = content::read(content_type, encoded, body, LIMITS)?.values;
    let odd = || "its body is no message, and no list of messages".to_owned();
    let body = body.trim_ascii();
    let is_list = body.first() == Some(&b'[');
    let parts = if is_list { json::elements(body).ok_or_else(odd)? } else { vec![body] };
    if parts.is_empty() {
        return Err(odd());
    }
    if parts.len() > MESSAGES_LIMIT {
        return Err(format!("its body has more than {MESSAGES_LIMIT} messages"));
    }
    let messages = parts.into_iter().map(|part| message(part).ok_or_else(odd)).collect::<Result<_, _>>()?;
    Ok(Said { messages, is_list, values })
}

fn message(text: &[u8]) -> Option<Message<'_>> {
    let members = json::members(text)?;
    let kind = kind(&members);
    // An answer of the client is to what its id names; a request is the same whatever its id.
    let keeps_id = kind == Kind::Answer;
    let mut essence = Vec::new();
    json::canonical(text, &mut Vec::new(), &|path| is_of_one_run(path, keeps_id), &mut essence)?;
    let id = members.iter().find(|(key, _)| key == "id").and_then(|(_, id)| readable(id));
    Some(Message { id, kind, essence })
}

fn kind<'a>(members: &[(String, &'a [u8])]) -> Kind<'a> {
    let member = |name: &str| members.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
    let known = ["jsonrpc", "id", "method", "params", "result", "error"];
    if members.iter().any(|(key, _)| !known.contains(&key.as_str())) {
        return Kind::Odd("it has a key that JSON-RPC does not know");
    }
    if member("jsonrpc").and_then(json::string).as_deref() != Some("2.0") {
        return Kind::Odd("it is no JSON-RPC 2.0");
    }
    if member("id").is_some_and(|id| readable(id).is_none()) {
        return Kind::Odd("its id is neither text nor a whole number, or too long");
    }
    let answers = [member("result"), member("error")].into_iter().flatten().count();
    let Some(method) = member("method") else {
        let is_answer = answers == 1 && member("id").is_some() && member("params").is_none();
        return if is_answer { Kind::Answer } else { Kind::Odd("it has no method, and is no answer") };
    };
    if answers > 0 {
        return Kind::Odd("it asks and answers");
    }
    let Some(method) = json::string(method) else { return Kind::Odd("its method is no text") };
    let params = member("params").map_or(Some(Vec::new()), json::members);
    params.map_or(Kind::Odd("its parameters are no object"), |params| Kind::Request { method, params })
}

/// An id that an answer may name: text, or a whole number.
fn readable(id: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(id.trim_ascii()).ok().filter(|text| text.len() <= ID_LIMIT)?;
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    (is_number || text.starts_with('"')).then_some(text)
}

/// Whether what stands there names one run of a client alone: the same call, sent again, has another. None of it changes what is
/// done.
fn is_of_one_run(path: &[String], keeps_id: bool) -> bool {
    match path {
        [id] => id == "id" && !keeps_id,
        [params, meta, key] => {
            params == "params"
                && meta == "_meta"
                && matches!(key.as_str(), "progressToken" | "traceparent" | "tracestate")
        }
        _ => false,
    }
}
