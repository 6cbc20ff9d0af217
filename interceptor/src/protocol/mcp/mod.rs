//! MCP: the Model Context Protocol, by which agents use tools, over HTTP.
//!
//! # A primer
//!
//! **A server** has tools that can be called, resources that can be read, and prompts that can be taken. A client speaks
//! JSON-RPC 2.0 with it: a request has an `id`, a `method` and `params`, a notification no `id`, an answer the `id` and a
//! `result` or an `error`. `tools/call` names a tool and its arguments; its result has `content` (texts, images, resources) and
//! perhaps `structuredContent`, the same once more as JSON.
//!
//! **Streamable HTTP** has one endpoint, commonly `/mcp`. Each message of the client is the body of a POST. What it answers is
//! JSON, or a stream of events (SSE), in which the server may also ask the client for something; the client answers that by
//! another POST. A GET listens to what the server has to say besides, or hears the rest of a stream that broke
//! (`Last-Event-ID`). A session begins with `initialize`, is named by `Mcp-Session-Id`, and ends with a DELETE; since revision
//! 2026-07-28 there is none, and `Mcp-Method`, `Mcp-Name` and `Mcp-Param-...` say once more in the head what the body says.
//! Revision 2025-03-26 knows batches: several messages in one body. The older transport (a GET for a stream, POSTs to the
//! address that it tells) has the same POSTs.
//!
//! # What is done with it
//!
//! HTTP is the house's own (`protocol::http`): its driver frames, holds, passes on and records. `message` reads bodies, as
//! strictly as they can be read, `json` finds the parts of them; `action` makes `mcp:call` on a tool and its like; `denial`
//! words refusals as errors of JSON-RPC. Paths of masks are those of one tool, and look into JSON that stands in texts.
//!
//! Not promised: what a server asks of its client (for words of a model, for input) is not judged, but masked; the answer is
//! judged. Messages are judged one by one: a body with several is `mcp:opaque` beside all that they ask for. WebSockets are
//! refused.
//!
//! # Specification
//!
//! - <https://modelcontextprotocol.io/specification/2025-11-25/basic/transports>
//! - <https://modelcontextprotocol.io/specification/2025-03-26/basic>: batches
//! - <https://www.jsonrpc.org/specification>

mod action;
mod denial;
pub mod json;
pub mod message;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::http::codec::{RequestHead, ResponseHead};
use super::http::dialect::{Asked, Asker, Dialect, Meaning, Upgrade};
use super::http::driver::{Next, Opened, socket};
use super::http::rewrite;
use super::http::route::{Location, Routes};
use super::http::{Config, ONE, Settings, Spoken, TWO, replay};
use super::{Failure, Registration};
use crate::policy::{Command, Denial};
use crate::tls::authority::Name;

/// The registry line.
pub const REGISTRATION: Registration = Registration {
    name: "mcp",
    default_port: 443,
    alpn: &[TWO, ONE],
    protocol: &Spoken { replayer: || Box::new(replay::Replay::default()) },
};

/// Where servers are spoken to, unless `routes` says so.
const ENDPOINT: &str = "/mcp";

/// What the protocol makes of HTTP.
#[derive(Clone, Copy, Debug)]
struct Mcp;

/// Checks the settings of a target that has these names: those of web services, whose routes are endpoints.
///
/// # Errors
/// A sentence for each thing that is wrong.
pub fn settings(config: &Config, names: Vec<Name>) -> Result<Settings, Vec<String>> {
    let mut config = config.clone();
    if config.routes.is_empty() {
        config.routes.push(ENDPOINT.to_owned());
    }
    config.settings_of(&Mcp, names)
}

/// Whether that can be the place of an answer: `/get_customer`, the name of a tool.
#[must_use]
pub fn is_place(place: &str) -> bool {
    place.strip_prefix('/').is_some_and(|tool| !tool.is_empty())
}

impl Dialect for Mcp {
    fn command(&self, asked: &Asked<'_>) -> Command {
        action::meaning(asked).command
    }

    fn place(&self, _routes: &Routes, _location: &Location) -> Option<String> {
        None
    }

    fn meaning(&self, asked: &Asked<'_>) -> Meaning {
        action::meaning(asked)
    }

    fn nests(&self) -> bool {
        true
    }

    fn is_endless(&self, head: &RequestHead, _location: &Location) -> bool {
        // What it says of the method was held against the body, which is judged by then.
        head.method == "GET" || head.fields.text("mcp-method") == Some("subscriptions/listen")
    }

    fn refusal(&self, denial: &Denial) -> (ResponseHead, Bytes) {
        denial::error(denial, &Asker::default())
    }

    fn refusal_to(&self, denial: &Denial, asker: &Asker) -> (ResponseHead, Bytes) {
        denial::error(denial, asker)
    }

    fn upgrade(&self, head: &RequestHead, _location: &Location) -> Result<Option<Upgrade>, &'static str> {
        if socket::asks(head)? { Err("MCP over WebSockets is not understood, and so not passed on") } else { Ok(None) }
    }

    fn readable(&self, head: &mut RequestHead) {
        rewrite::whole(&mut head.fields);
    }

    fn relay<'a>(&'a self, opened: Opened<'a>) -> BoxFuture<'a, Result<Next, Failure>> {
        // Nothing is ever upgraded.
        Box::pin(socket::relay(opened))
    }
}
