//! From a request to what it would do, as policies see it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use sha2::Digest as _;

use super::claims::{self, offers};
use super::codec::{Field, RequestHead, is_alike};
use super::content::{self, Content};
use super::dialect::Asked;
use super::grpc::{self, Called};
use super::route::{self, Location, Route, Routes};
use crate::policy::{Action, ActionName, Command, Facts, GrpcFacts, HttpFacts, Parameter, Resource, ResourceKind};

/// What is known of the body when its request is judged.
#[derive(Clone, Debug)]
pub(in crate::protocol) enum Body {
    /// All of it.
    Whole(Bytes),
    /// It is too long to be held: only how long it says it is, where it does.
    Long(Option<u64>),
    /// A stream of messages, which come when the answer to the first may already be under way.
    Stream,
}

/// Fields by which some servers take another method than the one that stands there.
const OVERRIDES: &[&str] = &["x-http-method-override", "x-http-method", "x-method-override"];
/// Parameters that do the same, as the most lenient server reads them.
const OVERRIDING: &[&str] = &["_method", "x_http_method", "x_http_method_override", "x_method_override"];
/// Fields of a form by which servers take whoever sends it for somebody (RFC 6750, section 2.2).
const LOG_INS: &[&str] = &["access_token", "private_token"];
/// Fields by which some servers take another path or another host than those that stand there.
const DETOURS: &[&str] = &[
    "forwarded",
    "x-envoy-original-host",
    "x-envoy-original-path",
    "x-forwarded-host",
    "x-forwarded-path",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-forwarded-uri",
    "x-host",
    "x-http-host-override",
    "x-middleware-rewrite",
    "x-middleware-subrequest",
    "x-original-host",
    "x-original-uri",
    "x-original-url",
    "x-override-url",
    "x-proxy-url",
    "x-rewrite-url",
    "x-unencoded-url",
    "x-waws-unencoded-url",
];
/// Fields whose values are secrets: policies, people and recordings do not see them.
const SECRET: &[&str] = &["authorization", "proxy-authorization", "cookie", "set-cookie"];

impl Body {
    /// How long it is; as long as can be where nobody knows.
    pub(in crate::protocol) fn size(&self) -> u64 {
        match self {
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Long(size) => size.unwrap_or(u64::MAX),
            Self::Stream => u64::MAX,
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// A sentence that says why it cannot be looked into.
    pub(in crate::protocol) fn whole(&self) -> Result<&Bytes, String> {
        match self {
            Self::Whole(bytes) => Ok(bytes),
            Self::Long(_) => Err("its body is too long to be looked into".to_owned()),
            Self::Stream => Err("its body is a stream of messages of which no schema is known".to_owned()),
        }
    }
}

/// Whether the body of a request is compressed, or coded otherwise.
pub(in crate::protocol) fn is_encoded(head: &RequestHead) -> bool {
    head.fields.get("content-encoding").is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity"))
}

/// What in the head may lead elsewhere than it says.
pub(in crate::protocol) fn doubts(head: &RequestHead) -> impl Iterator<Item = String> {
    let named: Vec<_> = head.fields.0.iter().map(|field| claims::field(&field.name)).collect();
    let asked = |names: &'static [&'static str]| names.iter().find(|name| named.iter().any(|other| other == *name));
    let method = asked(OVERRIDES).map(|name| format!("`{name}` asks for another method"));
    let detour = asked(DETOURS).map(|name| format!("`{name}` may lead to another path or host"));
    method.into_iter().chain(detour)
}

/// The command of a request.
#[must_use]
pub(super) fn command(asked: &Asked<'_>) -> Command {
    let Asked { target, routes, head, location, body, called } = *asked;
    let mut opaque: Vec<String> = Vec::new();
    let call = called.known();
    if matches!(called, Called::Unclear) {
        // Some servers take whatever comes there for a call; others take JSON, with other names.
        opaque.push(
            "its path is that of a method of gRPC, and it is no call of it that all servers read alike".to_owned(),
        );
    }
    let kind = head.fields.text("content-type");
    let read = match (call, body) {
        // What is said comes later, and is judged then.
        (Some(call), Body::Stream) if call.is_stream() => Ok(Content::default()),
        (Some(call), Body::Whole(bytes)) => call.read(bytes),
        _ => {
            let read = |bytes: &Bytes| content::read(kind, is_encoded(head), bytes, content::Limits::default());
            body.whole().and_then(read)
        }
    };
    let Content { values: fields, names } = read.unwrap_or_else(|why| {
        opaque.push(why);
        Content::default()
    });
    let asked = location.query.iter().map(|(name, _)| name);
    if let Some(name) = route::repeated(asked.chain(&names).map(String::as_str)) {
        opaque.push(format!(
            "`{name:.100}` stands more than once in its query and body, and servers differ in which one counts"
        ));
    }
    opaque.extend(doubts(head));
    let mut asked = location.query.iter().map(|(name, _)| name).chain(&names);
    if let Some(name) = asked.find(|name| OVERRIDING.contains(&&*claims::parameter_as_it_begins(name))) {
        opaque.push(format!("`{name:.100}` asks for another method"));
    }
    let is_form = kind.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded"));
    if let Some(name) = names.iter().find(|name| is_form && LOG_INS.contains(&&*claims::parameter(name))) {
        opaque.push(format!("`{name:.100}` in its form is a log-in of its own to some servers"));
    }
    let name = ActionName::http(&head.method);
    if name.is_none() {
        opaque.push(format!("its method is {}", head.method));
    }
    let parameters = if call.is_some() { called_with(body, &fields) } else { parameters(body) };
    let said = Said { statement: statement(head), parameters, fields, size: body.size() };
    built(name, &opaque, (target, routes), (head, location, called.is_method()), said)
}

/// The command of a message on a WebSocket that was asked for so.
#[must_use]
pub(super) fn message(
    target: &Arc<str>,
    routes: &Routes,
    (head, location): (&RequestHead, &Location),
    is_text: bool,
    text: &Bytes,
) -> Command {
    let read = if is_text {
        content::read(Some("application/json"), false, text, content::Limits::default())
    } else {
        Err("it is binary".into())
    };
    heard(target, routes, (head, location), text, read)
}

/// The command of a message of a call or a WebSocket that was begun so, and what was read in it.
#[must_use]
pub(super) fn heard(
    target: &Arc<str>,
    routes: &Routes,
    (head, location): (&RequestHead, &Location),
    bytes: &Bytes,
    read: Result<Content, String>,
) -> Command {
    let (fields, opaque) = read.map_or_else(|why| (Vec::new(), vec![why]), |content| (content.values, Vec::new()));
    let body = Body::Whole(bytes.clone());
    let said = Said {
        statement: format!("MESSAGE {}\nopened: sha256 {}", head.target, digest(statement(head).as_bytes(), 16)),
        parameters: if grpc::form(&head.fields).is_some() { called_with(&body, &fields) } else { parameters(&body) },
        fields,
        size: bytes.len() as u64,
    };
    built(Some(ActionName::HTTP_MESSAGE), &opaque, (target, routes), (head, location, false), said)
}

/// What is said by a request or a message.
struct Said {
    statement: String,
    parameters: Arc<[Parameter]>,
    /// The values of its body.
    fields: Vec<String>,
    size: u64,
}

fn built(
    name: Option<ActionName>,
    opaque: &[String],
    (target, routes): (&Arc<str>, &Routes),
    (head, location, names_method): (&RequestHead, &Location, bool),
    said: Said,
) -> Command {
    let act = |name, route: Option<&Route>, note: Option<String>| Action {
        name,
        resource: resource(target, route),
        columns: BTreeSet::new(),
        tags: Arc::default(),
        note: note.map(Into::into),
    };
    let beside = routes.beside(&location.segments);
    let actions = match name {
        Some(name) if opaque.is_empty() && beside.is_empty() => {
            routes.plain(name, &location.segments, || act(name, routes.find(&location.segments), None))
        }
        name => {
            let opaque = (!opaque.is_empty()).then(|| opaque.join("; "));
            let asked = |on| {
                let opaque = opaque.clone().map(|why| act(ActionName::HTTP_OPAQUE, on, Some(why)));
                name.map(|name| act(name, on, None)).into_iter().chain(opaque)
            };
            std::iter::once(routes.find(&location.segments)).chain(beside).flat_map(asked).collect()
        }
    };
    let mut http = facts(head, location, said.fields, said.size);
    if names_method {
        http.grpc = method(location);
    }
    Command {
        analysis: number(),
        statement: said.statement.into(),
        parameters: said.parameters,
        actions,
        facts: Arc::new(Facts { has_where: true, statements: 1, http: Some(Arc::new(http)), ..Facts::default() }),
        in_transaction: false,
    }
}

/// What stands in a request.
pub(in crate::protocol) fn facts(head: &RequestHead, location: &Location, fields: Vec<String>, size: u64) -> HttpFacts {
    HttpFacts {
        host: head.fields.text("host").unwrap_or_default().to_ascii_lowercase(),
        path: location.path(),
        query: location.query.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        headers: shown(head).collect(),
        fields: fields.into_iter().collect(),
        size,
        grpc: grpc::form(&head.fields).and_then(|_| method(location)),
    }
}

/// What a call of gRPC calls: its path says so.
fn method(location: &Location) -> Option<GrpcFacts> {
    match &location.segments[..] {
        [service, method] => Some(GrpcFacts { service: service.clone(), method: method.clone() }),
        _ => None,
    }
}

/// The route, or the target as a whole where none was configured that it is on.
fn resource(target: &Arc<str>, route: Option<&Route>) -> Resource {
    match route {
        None => Resource { kind: ResourceKind::Target, path: vec![Arc::clone(target)] },
        Some(route) => {
            let steps = route.parts().map(Arc::from);
            Resource { kind: ResourceKind::Route, path: std::iter::once(Arc::clone(target)).chain(steps).collect() }
        }
    }
}

/// All that the target reads of it, but for secrets: the agent's own are replaced, and never those that were judged. To the others, the
/// command is bound by [`bind`].
pub(in crate::protocol) fn statement(head: &RequestHead) -> String {
    let length = head.fields.0.iter().map(|field| field.name.len() + field.value.len() + 3).sum::<usize>();
    let mut all = String::with_capacity(head.method.len() + 1 + head.target.len() + length);
    all.push_str(&head.method);
    all.push(' ');
    all.push_str(&head.target);
    // The key of a WebSocket is another each time, and says nothing: a grant is not for one key.
    // How long a client waits for its call differs each time as well.
    let upgrades = head.fields.get("upgrade").is_some();
    let calls = grpc::form(&head.fields).is_some();
    let is_key = |field: &&Field| {
        (upgrades && is_alike(&field.name, "sec-websocket-key")) || (calls && field.name == "grpc-timeout")
    };
    for field in visible(head).filter(|field| !is_key(field)) {
        all.push('\n');
        put_line(&mut all, field);
    }
    all
}

/// Binds a command to the agent's own secrets, which stand in none, so that a grant is for these and no others: by what nobody
/// can find them out by (`seal`).
pub(in crate::protocol) fn bind(command: &mut Command, head: &RequestHead, seal: impl Fn(&[u8]) -> Option<String>) {
    let secret = |field: &&Field| is_hidden(field) && field.name != "authorization";
    let mut lines = head.fields.0.iter().filter(secret).peekable();
    if lines.peek().is_none() {
        return;
    }
    let mut statement = command.statement.to_string();
    for field in lines {
        // Without one, a request is never the same as another.
        let sealed = seal(&field.value).unwrap_or_else(|| format!("unknown, of analysis {}", command.analysis));
        statement.push_str(&format!("\n{}: hmac {sealed}", field.name));
    }
    command.statement = statement.into();
}

pub(super) fn is_secret(name: &str) -> bool {
    SECRET.iter().any(|secret| is_alike(name, secret)) || claims::is_log_in(name)
}

/// Whether the value of a field is a secret, by its name or by what it is.
pub(super) fn is_hidden(field: &Field) -> bool {
    is_secret(&field.name) || (is_alike(&field.name, offers::FIELD) && offers::has_token(&field.value))
}

/// So many bytes of a digest, in hexadecimal.
pub(super) fn digest(bytes: &[u8], length: usize) -> String {
    sha2::Sha256::digest(bytes).iter().take(length).map(|byte| format!("{byte:02x}")).collect()
}

/// The fields that go to the target and are no secrets.
fn visible(head: &RequestHead) -> impl Iterator<Item = &Field> {
    head.fields.0.iter().filter(|field| !is_hidden(field))
}

/// The same, as `name: value`.
fn shown(head: &RequestHead) -> impl Iterator<Item = String> {
    visible(head).map(|field| {
        let mut line = String::with_capacity(field.name.len() + field.value.len() + 2);
        put_line(&mut line, field);
        line
    })
}

/// A field as `name: value`. The name as servers read it that see no difference; bytes of the value that are no UTF-8 stand
/// behind a sign that no field can have, so that no two values are one.
fn put_line(out: &mut String, field: &Field) {
    out.extend(field.name.chars().map(|character| if character == '_' { '-' } else { character }));
    out.push_str(": ");
    for chunk in field.value.utf8_chunks() {
        out.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| out.push_str(&format!("\u{1}{byte:02x}")));
    }
}

/// The body, as what a grant is bound to beside the statement.
pub(in crate::protocol) fn parameters(body: &Body) -> Arc<[Parameter]> {
    match body {
        Body::Whole(bytes) if !bytes.is_empty() => {
            let binary = std::str::from_utf8(bytes).is_err();
            Arc::from([Parameter { type_oid: 0, binary, value: Some(bytes.clone()) }])
        }
        _ => Arc::from([]),
    }
}

/// The message of a call: its bytes, and what people can read of it.
pub(in crate::protocol) fn called_with(body: &Body, fields: &[String]) -> Arc<[Parameter]> {
    /// The rest stands in the bytes.
    const SHOWN_LIMIT: usize = 12 * 1024;
    let mut text = String::new();
    for (index, field) in fields.iter().enumerate() {
        if text.len() > SHOWN_LIMIT {
            text.push_str(&format!("... and {} more values, which are not shown\n", fields.len() - index));
            break;
        }
        put_shown(&mut text, field);
        text.push('\n');
    }
    let readable = Parameter { type_oid: 0, binary: false, value: Some(text.into()) };
    let bytes = parameters(body);
    bytes.iter().cloned().chain((!bytes.is_empty()).then_some(readable)).collect()
}

/// A value on one line, so that none can be taken for several, nor hide behind a long one.
fn put_shown(out: &mut String, field: &str) {
    const LENGTH: usize = 256;
    for character in field.chars().take(LENGTH) {
        match character {
            '"' | '\'' => out.push(character),
            other => out.extend(other.escape_debug()),
        }
    }
    let more = field.chars().skip(LENGTH).count();
    if more > 0 {
        out.push_str(&format!("... and {more} more characters, which are not shown"));
    }
}

/// Requests differ in what policies may look at: each has a number of its own, between those of texts, which go up, and
/// those of log-ins, which come down.
pub(in crate::protocol) fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 62);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
