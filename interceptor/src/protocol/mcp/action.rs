//! From a request to what it would do at a server of the Model Context Protocol, as policies see it.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::IgnoredAny;

use super::json;
use super::message::{self, Kind, Message, Said};
use crate::mask::fold;
use crate::policy::{Action, ActionName, Command, Facts, McpFacts, Parameter, Resource, ResourceKind};
use crate::protocol::http::action as http;
use crate::protocol::http::codec::RequestHead;
use crate::protocol::http::content::{self, Limits};
use crate::protocol::http::dialect::{Asked, Asker, Meaning, Place};

/// The longest name of a tool or a prompt, or uri, in bytes.
const NAME_LIMIT: usize = 1024;
/// Parameters that servers go by.
const KNOWN: &[&str] = &["name", "arguments", "uri", "task", "_meta", "ref", "argument", "cursor"];
/// Fields that say once more what the body says, and that some go by.
const MIRRORS: &str = "mcp-";
/// What the values of those stand in that a field cannot have as they are.
const CODED: (&str, &str) = ("=?base64?", "?=");
/// Fields that name a session, or how much is sent: a call is the same in every session.
const OF_ONE_RUN: &[&str] = &["content-length", "last-event-id", "mcp-session-id", "traceparent", "tracestate"];
/// Parameters of the older transport that name a session.
const SESSION: &[&str] = &["session_id", "sessionId"];

/// What a request is.
pub(super) fn meaning(asked: &Asked<'_>) -> Meaning {
    let Asked { target, head, location, body, routes, .. } = *asked;
    let mut reading = Reading::new(target, http::doubts(head).collect());
    if routes.find(&location.segments).is_none() {
        reading.opaque.push("its path is no endpoint of the server".to_owned());
    }
    let said = match head.method.as_str() {
        "POST" => body
            .whole()
            .and_then(|bytes| message::read(head.fields.text("content-type"), http::is_encoded(head), bytes).map(Some)),
        "GET" | "DELETE" if body.size() == 0 => {
            reading.act(ActionName::MCP_SESSION, None);
            Ok(None)
        }
        other => Err(format!("nobody knows what {other:.40} is to do there, with a body or without")),
    };
    reading.facts.method = head.method.to_string();
    let said = said.unwrap_or_else(|why| {
        reading.opaque.push(why);
        None
    });
    if let Some(said) = &said {
        reading.messages(said, head);
    }
    let asker = said.as_ref().map(asker).unwrap_or_default();
    let answers = said.as_ref().is_some_and(|said| said.messages.iter().any(|message| message.kind == Kind::Answer));
    let (parameters, fields) = match said {
        Some(said) => (said.messages.into_iter().map(parameter).collect(), said.values),
        None => (http::parameters(body), Vec::new()),
    };
    let statement = statement(head, &reading, answers).into();
    let facts = Facts {
        has_where: true,
        statements: 1,
        http: Some(Arc::new(http::facts(head, location, fields, body.size()))),
        mcp: Some(Arc::new(std::mem::take(&mut reading.facts))),
        ..Facts::default()
    };
    let command = Command {
        analysis: http::number(),
        statement,
        parameters,
        actions: reading.actions(),
        facts: Arc::new(facts),
        in_transaction: false,
    };
    // Servers answer by the id alone: what comes may be the answer to whatever else has the same.
    Meaning { command, place: Place::Anywhere, asker }
}

/// What a request was found to do.
struct Reading<'a> {
    target: &'a Arc<str>,
    /// In their order by name, each once.
    actions: BTreeSet<(ActionName, Resource)>,
    opaque: Vec<String>,
    facts: McpFacts,
    /// Methods, and what they name, for people to read.
    shown: Vec<String>,
}

impl<'a> Reading<'a> {
    fn new(target: &'a Arc<str>, opaque: Vec<String>) -> Self {
        Self { target, actions: BTreeSet::new(), opaque, facts: McpFacts::default(), shown: Vec::new() }
    }

    fn act(&mut self, name: ActionName, tool: Option<&str>) {
        let mut path = vec![Arc::clone(self.target)];
        path.extend(tool.map(Arc::from));
        let kind = if tool.is_some() { ResourceKind::Tool } else { ResourceKind::Target };
        self.actions.insert((name, Resource { kind, path }));
    }

    fn messages(&mut self, said: &Said<'_>, head: &RequestHead) {
        // A policy looks at one message: what it says of one would count for the others.
        if said.is_list {
            self.opaque.push("its body is a list of messages".to_owned());
        }
        for (index, message) in said.messages.iter().enumerate() {
            let facts = self.message(message);
            if index == 0 {
                let within = if said.is_list { "0.params.arguments." } else { "params.arguments." };
                let arguments = said.values.iter().filter_map(|value| value.strip_prefix(within));
                let takes = facts.tool.is_some() || facts.prompt.is_some();
                let mut arguments: BTreeSet<String> = arguments.filter(|_| takes).map(str::to_owned).collect();
                self.unpack(&mut arguments);
                self.facts = McpFacts { arguments, ..facts };
            }
        }
        if let Err(why) = mirrors(head, &self.facts) {
            self.opaque.push(why);
        }
    }

    fn message(&mut self, message: &Message<'_>) -> McpFacts {
        let mut facts = McpFacts::default();
        let (method, params) = match &message.kind {
            Kind::Request { method, params } => (method, params),
            Kind::Answer => {
                self.shown.push("an answer".to_owned());
                self.act(ActionName::MCP_RESPOND, None);
                return facts;
            }
            Kind::Odd(why) => {
                self.opaque.push((*why).to_owned());
                return facts;
            }
        };
        facts.method.clone_from(method);
        if let Err(why) = self.request(method, params, &mut facts) {
            self.opaque.push(why);
        }
        if params.iter().any(|(key, _)| fold(key) == "inputresponses") {
            self.act(ActionName::MCP_RESPOND, None);
        }
        let named = [&facts.tool, &facts.uri, &facts.prompt].into_iter().flatten().next();
        self.shown.push(one_line(&named.map_or_else(|| method.clone(), |name| format!("{method} {name}"))));
        facts
    }

    /// Some servers read an argument that is a text as the JSON that stands in it: its values are told as well.
    fn unpack(&mut self, arguments: &mut BTreeSet<String>) {
        let mut inner = Vec::new();
        for argument in arguments.iter() {
            let Some((name, text)) = split(argument) else { continue };
            if !text.trim_start().starts_with(['{', '[']) {
                continue;
            }
            if serde_json::from_str::<IgnoredAny>(text).is_err() {
                if serde_json::from_str::<IgnoredAny>(&lenient(text)).is_ok() {
                    self.opaque
                        .push(format!("`{name:.100}` is a text that some servers take for JSON, and others do not"));
                }
                continue;
            }
            match content::read(Some("application/json"), false, text.as_bytes(), Limits::default()) {
                Ok(content) => inner.extend(content.values.into_iter().map(|value| format!("{name}.{value}"))),
                Err(why) => self.opaque.push(format!("`{name:.100}` is a text that holds JSON: {why}")),
            }
        }
        arguments.extend(inner);
    }

    /// What a request or a notification asks for.
    fn request(&mut self, method: &str, params: &[(String, &[u8])], facts: &mut McpFacts) -> Result<(), String> {
        let text = |name: &str| {
            let member = params.iter().find(|(key, _)| key == name).and_then(|(_, value)| json::string(value));
            let fits = |text: &String| !text.is_empty() && text.len() <= NAME_LIMIT;
            member
                .filter(fits)
                .ok_or_else(|| format!("{method} has no `{name}` that is a text of {NAME_LIMIT} bytes at most"))
        };
        // Some servers see no difference in case.
        let twin = params.iter().find(|(key, _)| !KNOWN.contains(&key.as_str()) && KNOWN.contains(&fold(key).as_str()));
        if let Some((key, _)) = twin {
            return Err(format!("some servers take `{key:.40}` for what others do not"));
        }
        let action = match method {
            "tools/call" => {
                arguments(params)?;
                let tool = text("name")?;
                self.act(ActionName::MCP_CALL, Some(&tool));
                facts.tool = Some(tool);
                return Ok(());
            }
            "resources/read" | "resources/subscribe" => {
                let uri = text("uri")?;
                if !is_normal(&uri) {
                    return Err("its uri is one that servers write otherwise before they go by it".to_owned());
                }
                facts.uri = Some(uri);
                ActionName::MCP_READ
            }
            "prompts/get" => {
                arguments(params)?;
                facts.prompt = Some(text("name")?);
                ActionName::MCP_PROMPT
            }
            "tools/list" | "resources/list" | "resources/templates/list" | "prompts/list" => ActionName::MCP_LIST,
            // The result of a task is that of any tool, and of anybody who has the same credential at the server.
            "tasks/get" | "tasks/result" | "tasks/list" | "tasks/cancel" => {
                return Err("a task may be anybody's, and its result that of any tool".to_owned());
            }
            "subscriptions/listen" if params.iter().any(|(key, value)| names_resources(key, value)) => {
                return Err("it follows resources".to_owned());
            }
            "completion/complete" => completed(params, facts)?,
            "initialize"
            | "server/discover"
            | "ping"
            | "logging/setLevel"
            | "resources/unsubscribe"
            | "subscriptions/listen"
            | "notifications/initialized"
            | "notifications/cancelled"
            | "notifications/progress"
            | "notifications/roots/list_changed"
            | "notifications/tasks/status"
            | "notifications/elicitation/complete" => ActionName::MCP_SESSION,
            other => return Err(format!("nobody knows what {other:.100} does")),
        };
        self.act(action, None);
        Ok(())
    }

    fn actions(self) -> Arc<[Action]> {
        let whole = Resource { kind: ResourceKind::Target, path: vec![Arc::clone(self.target)] };
        let note = (!self.opaque.is_empty()).then(|| self.opaque.join("; ").into());
        let opaque = note.map(|note| action(ActionName::MCP_OPAQUE, whole, Some(note)));
        self.actions.into_iter().map(|(name, resource)| action(name, resource, None)).chain(opaque).collect()
    }
}

/// A text without what only some readers of JSON take: numbers that are none, and halves of characters.
fn lenient(text: &str) -> String {
    let text = ["-Infinity", "Infinity", "NaN"].iter().fold(text.to_owned(), |text, word| text.replace(word, "0"));
    let mut parts = text.split("\\u");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_half =
            part.starts_with(['d', 'D']) && part.chars().nth(1).is_some_and(|digit| "89abcdefABCDEF".contains(digit));
        out.push_str("\\u");
        out.push_str(if is_half { "0041" } else { part.get(..4).unwrap_or(part) });
        out.push_str(part.get(4..).unwrap_or_default());
    }
    out
}

/// Without what would look like more than one line to whoever approves it.
fn one_line(text: &str) -> String {
    let shown = |sign: char| if sign.is_control() { sign.escape_unicode().to_string() } else { sign.to_string() };
    text.chars().map(shown).collect()
}

fn action(name: ActionName, resource: Resource, note: Option<Arc<str>>) -> Action {
    Action { name, resource, columns: BTreeSet::new(), tags: Arc::default(), note }
}

/// What is completed: an argument of a prompt, or what a template of resources leaves open, which tells of them.
fn completed(params: &[(String, &[u8])], facts: &mut McpFacts) -> Result<ActionName, String> {
    let unknown = || "nobody knows what it completes".to_owned();
    let reference = params.iter().find(|(key, _)| key == "ref").map(|(_, value)| *value).ok_or_else(unknown)?;
    let members = json::members(reference).ok_or_else(unknown)?;
    let text = |name: &str| {
        let mut named = members.iter().filter(|(key, _)| fold(key) == name);
        let only = named.next().filter(|(key, _)| named.next().is_none() && key == name);
        only.and_then(|(_, value)| json::string(value)).filter(|text| !text.is_empty() && text.len() <= NAME_LIMIT)
    };
    match text("type").as_deref() {
        Some("ref/prompt") => {
            facts.prompt = Some(text("name").ok_or_else(unknown)?);
            Ok(ActionName::MCP_PROMPT)
        }
        Some("ref/resource") => {
            let uri = text("uri").filter(|uri| is_normal(&uri.replace(['{', '}'], "x"))).ok_or_else(unknown)?;
            facts.uri = Some(uri);
            Ok(ActionName::MCP_READ)
        }
        _ => Err(unknown()),
    }
}

fn arguments(params: &[(String, &[u8])]) -> Result<(), String> {
    let given = params.iter().find(|(key, _)| key == "arguments").map(|(_, value)| *value);
    let is_object = given.is_none_or(|value| value == b"null" || json::members(value).is_some());
    if is_object { Ok(()) } else { Err("its arguments are no object".to_owned()) }
}

/// Whether what the head says once more is what the body says.
fn mirrors(head: &RequestHead, facts: &McpFacts) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for field in &head.fields.0 {
        let name = field.name.replace('_', "-");
        let Some(what) = name.strip_prefix(MIRRORS) else { continue };
        if !seen.insert(name.clone()) {
            return Err(format!("`{name:.100}` stands twice"));
        }
        let value = decoded(&field.value).ok_or_else(|| format!("`{name:.100}` is no text"))?;
        let agrees = match what {
            "session-id" | "protocol-version" => true,
            "method" => value == facts.method,
            "name" => [&facts.tool, &facts.uri, &facts.prompt].into_iter().flatten().any(|named| *named == value),
            // Which argument it repeats, only the server's schema says.
            param if param.starts_with("param-") => facts.arguments.iter().any(|argument| is_value(argument, &value)),
            _ => false,
        };
        if !agrees {
            return Err(format!("`{name:.100}` says something else than its body, or nothing that is known"));
        }
    }
    Ok(())
}

/// Whether that is the value of an argument.
fn is_value(argument: &str, value: &str) -> bool {
    split(argument).is_some_and(|(_, own)| own == value)
}

/// Where a value stands, and the value. A key that has a `=` in it stands in quotes.
fn split(argument: &str) -> Option<(&str, &str)> {
    let (mut quoted, mut escaped) = (false, false);
    let at = argument.bytes().position(|byte| {
        let ends = byte == b'=' && !quoted;
        quoted ^= byte == b'"' && !escaped;
        escaped = byte == b'\\' && quoted && !escaped;
        ends
    })?;
    Some((argument.get(..at)?, argument.get(at + 1..)?))
}

/// Whether a parameter names resources, somewhere.
fn names_resources(key: &str, value: &[u8]) -> bool {
    const WORD: &[u8] = b"resourcesubscriptions";
    // What is escaped may be anything.
    fold(key).as_bytes() == WORD
        || value.contains(&b'\\')
        || value.to_ascii_lowercase().windows(WORD.len()).any(|part| part == WORD)
}

/// Whether a uri stands as servers write it before they go by it (the URL standard, section 4.5): they take steps with dots out
/// of it, blanks, and more.
fn is_normal(uri: &str) -> bool {
    const SPECIAL: &[&str] = &["http", "https", "ws", "wss", "ftp", "file"];
    let Some((scheme, rest)) = uri.split_once(':') else { return false };
    let is_scheme = scheme.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase())
        && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte));
    let odd = |byte: u8| !byte.is_ascii_graphic() || b"\"<>\\^`{|}".contains(&byte);
    if !is_scheme || rest.bytes().any(odd) || !are_escapes_needed(rest) {
        return false;
    }
    let special = SPECIAL.contains(&scheme);
    let path = match rest.strip_prefix("//") {
        Some(rest) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (host, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
            let is_host = !host.bytes().any(|byte| byte.is_ascii_uppercase() || b"%@:".contains(&byte));
            let is_file = scheme == "file";
            if !is_host
                || (is_file && host == "localhost")
                || (special && !is_file && (host.is_empty() || path.is_empty()))
            {
                return false;
            }
            path
        }
        None if special => return false,
        None => rest,
    };
    let steps = path.split(['?', '#']).next().unwrap_or_default();
    let dots = |step: &str| matches!(step.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    !steps.split('/').any(dots)
}

/// Whether every escape stands for something that has to be escaped there: servers undo them, once or twice, and go by what
/// comes of that.
fn are_escapes_needed(text: &str) -> bool {
    text.split('%').skip(1).all(|part| {
        let byte = part.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let byte = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        byte.is_some_and(|byte| {
            !byte.is_ascii_alphanumeric() && !byte.is_ascii_control() && !b"-._~/\\%".contains(&byte)
        })
    })
}

fn decoded(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    match text.strip_prefix(CODED.0).and_then(|text| text.strip_suffix(CODED.1)) {
        Some(coded) => String::from_utf8(BASE64.decode(coded).ok()?).ok(),
        None => Some(text.to_owned()),
    }
}

fn asker(said: &Said<'_>) -> Asker {
    // What the server has asked is not answered by an error of ours.
    let asks = said.messages.iter().filter(|message| message.kind != Kind::Answer);
    Asker { ids: asks.filter_map(|message| message.id).map(str::to_owned).collect(), is_list: said.is_list }
}

fn parameter(message: Message<'_>) -> Parameter {
    Parameter { type_oid: 0, binary: false, value: Some(Bytes::from(message.essence)) }
}

/// What it asks for, and all that the server reads of its head. What names one session, or one run, is left out, so that the
/// same call finds its grant again; what its messages say are its parameters.
fn statement(head: &RequestHead, reading: &Reading<'_>, answers: bool) -> String {
    let whole = http::statement(head);
    // An answer is to what one session was asked.
    if reading.shown.is_empty() || answers {
        return whole;
    }
    let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
    let is_session = |pair: &&str| SESSION.contains(&pair.split('=').next().unwrap_or_default());
    let query: Vec<&str> = query.split('&').filter(|pair| !is_session(pair)).collect();
    let names_one_run = |line: &&str| OF_ONE_RUN.contains(&line.split(':').next().unwrap_or_default());
    let fields = whole.lines().skip(1).filter(|line| !names_one_run(line));
    let first = format!("{}\n{} {path}?{}", reading.shown.join("\n"), head.method, query.join("&"));
    std::iter::once(first.trim_end_matches('?')).chain(fields).collect::<Vec<_>>().join("\n")
}
