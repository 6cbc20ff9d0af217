//! HTTP/1.1 and HTTP/2, in clear and over TLS.
//!
//! # A primer
//!
//! **A connection** of HTTP/1.1 carries requests one after the other, and their answers in the same order. Either side may
//! keep it open or close it behind an answer (`Connection: close`). A connection of HTTP/2 begins with a preface and carries
//! frames; each request and its answer are a stream of them, and many streams are under way at once. Which of the two is
//! spoken is settled inside of TLS (ALPN); in clear, the preface says so.
//!
//! **A request** is a head and a body. The head of HTTP/1.1 is a line `METHOD target HTTP/1.1`, then fields `Name: value`, then
//! an empty line; all lines end with CRLF. `Host` says whom the agent means, beside the address that it has connected to and
//! the name that it gave inside of TLS (SNI). How long the body is, the head says: `Content-Length`, or `Transfer-Encoding:
//! chunked`, and then each chunk says its own length. An answer has a line `HTTP/1.1 200 reason` in the place of the first.
//! In HTTP/2 the first line and `Host` are fields as well (`:method`, `:path`, `:authority`, `:status`), heads are compressed
//! (HPACK), and bodies are frames, which may be followed by more fields (trailers). gRPC is HTTP/2 with messages in
//! both bodies and the outcome in the trailers; where its schema is known, `grpc` reads them.
//!
//! **Smuggling** lives from two readers that see the end of a body, a field or a path in two places. `codec` refuses what can
//! be framed in two ways, `route` what can be a path in two ways, and what is passed on is written anew from what was read,
//! also from one version to the other.
//!
//! # What is done with it
//!
//! Every request is judged: `action` makes `http:GET` on a route of the target of it (`/v1/customers/{id}`), with the host,
//! path, query, fields and, where it is JSON or a form, the body as context. A body that is too long or cannot be read is
//! `http:opaque` as well. `driver` reads, asks the gate, and passes on; `inject` puts the credential in the place of whatever
//! the agent has, `cookies` takes away what stands for a log-in beside, and `claims` what says who asks; `scrub` takes it out of answers that echo it; `rewrite` undoes codings and masks what passes; `redact` keeps secrets of bodies out of recordings; `denial` words
//! refusals as problem documents (RFC 9457), or as a status of gRPC; `transcript` is how it is recorded.
//!
//! Not promised: HTTP/1.0, upgrades (WebSocket), CONNECT, TRACE, pushes: they are refused. Trailers of requests, and those of
//! HTTP/1.1, are dropped. Of an answer that has to be masked, what cannot be looked into is refused.
//!
//! # Specification
//!
//! - <https://www.rfc-editor.org/rfc/rfc9110>: semantics
//! - <https://www.rfc-editor.org/rfc/rfc9112>: HTTP/1.1
//! - <https://www.rfc-editor.org/rfc/rfc9113>, <https://www.rfc-editor.org/rfc/rfc7541>: HTTP/2, HPACK
//! - <https://www.rfc-editor.org/rfc/rfc9457>: problem documents
//! - <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>: gRPC

pub(super) mod action;
pub(super) mod claims;
pub mod codec;
pub(super) mod content;
mod cookies;
mod denial;
pub(super) mod dialect;
pub(super) mod driver;
pub mod grpc;
mod inject;
pub mod redact;
pub(super) mod replay;
pub mod rewrite;
pub mod route;
pub mod scrub;
mod transcript;

use std::sync::Arc;

use dialect::Dialect;
use futures_util::future::BoxFuture;
use serde::Deserialize;

use super::{Close, Conn, Failure, Gate, Protocol, Question, Registration, Replayer, Sniff, Target};
use crate::policy::{Command, Denial};
use crate::tls;
use crate::tls::authority::Name;

/// The registry line.
pub const REGISTRATION: Registration = Registration {
    name: "http",
    default_port: 443,
    alpn: &[TWO, ONE],
    protocol: &Spoken { replayer: || Box::new(replay::Replay::default()) },
};

/// What HTTP/1.1 is called in ALPN.
pub(super) const ONE: &[u8] = b"http/1.1";
/// What HTTP/2 is called in ALPN.
pub(super) const TWO: &[u8] = b"h2";

/// The most that is held of a request's body to be looked into, in bytes.
pub const BODY_LIMIT: usize = 1 << 20;
/// The most that an answer in XML may have that has to be masked, in bytes: it is held as a whole.
pub const MASK_LIMIT: usize = 4 << 20;

/// `[target.http]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Patterns of paths that policies can name: `/v1/customers/{id}`, `/files/{path*}`.
    pub routes: Vec<String>,
    /// How the password of `credential` is shown to the target.
    pub log_in: inject::LogIn,
    /// Blot out the password where an answer echoes it.
    pub scrub: bool,
    /// Whether cookies pass, of the target and of the agent.
    pub cookies: cookies::Cookies,
    /// What may be said of who asks, beside the log-in.
    pub claims: claims::Claims,
    /// What is known of the messages of its calls.
    pub grpc: grpc::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            routes: Vec::new(),
            log_in: inject::LogIn::default(),
            scrub: true,
            cookies: cookies::Cookies::default(),
            claims: claims::Claims::default(),
            grpc: grpc::Config::default(),
        }
    }
}

/// What a target says beside what all have.
#[derive(Debug)]
pub struct Settings {
    dialect: &'static dyn Dialect,
    routes: route::Routes,
    log_in: inject::LogIn,
    /// Answers are not looked through for the credential.
    unscrubbed: bool,
    /// What looks for it.
    spellings: scrub::Kept,
    cookies: cookies::Cookies,
    claims: claims::Claims,
    /// What the target may be called in `Host`.
    names: Vec<Name>,
    /// Its methods of gRPC, and their messages.
    calls: Option<Arc<grpc::Schema>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dialect: &dialect::Web,
            routes: route::Routes::default(),
            log_in: inject::LogIn::default(),
            unscrubbed: false,
            spellings: scrub::Kept::default(),
            cookies: cookies::Cookies::default(),
            claims: claims::Claims::default(),
            names: Vec::new(),
            calls: None,
        }
    }
}

impl Config {
    /// Checks the settings of a target that has these names.
    ///
    /// # Errors
    /// A sentence for each thing that is wrong.
    pub fn settings(&self, names: Vec<Name>) -> Result<Settings, Vec<String>> {
        let calls = grpc::Schema::load(&self.grpc);
        let settings = Self { grpc: grpc::Config::default(), ..self.clone() }.settings_of(&dialect::Web, names);
        match (settings, calls) {
            (Ok(settings), Ok(calls)) => Ok(Settings { calls: calls.map(Arc::new), ..settings }),
            (settings, calls) => Err([settings.err(), calls.err()].into_iter().flatten().flatten().collect()),
        }
    }

    /// The same for a family of services of its own.
    pub(super) fn settings_of(&self, dialect: &'static dyn Dialect, names: Vec<Name>) -> Result<Settings, Vec<String>> {
        if self.grpc != grpc::Config::default() {
            return Err(vec!["http.grpc is for targets with protocol = \"http\"".to_owned()]);
        }
        let routes = route::Routes::parse(&self.routes)?;
        self.log_in.check().map_err(|why| vec![why])?;
        self.claims.check()?;
        Ok(Settings {
            dialect,
            routes,
            log_in: self.log_in.clone(),
            unscrubbed: !self.scrub,
            cookies: self.cookies,
            claims: self.claims.clone(),
            names,
            ..Settings::default()
        })
    }
}

impl Settings {
    /// Whether the target is shown what the password signs, and never the password.
    #[must_use]
    pub fn signs(&self) -> bool {
        matches!(self.log_in, inject::LogIn::Sigv4(_))
    }
}

/// The protocol, for every family of services that speaks it: which that is, the target's settings say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spoken {
    /// What reads its recordings.
    pub(super) replayer: fn() -> Box<dyn Replayer>,
}

impl Protocol for Spoken {
    fn sniff(&self, first: &[u8]) -> Sniff {
        sniff(first)
    }

    fn serve<'a>(&'a self, conn: Conn, gate: &'a dyn Gate) -> BoxFuture<'a, Result<Close, Failure>> {
        Box::pin(driver::serve(conn, gate))
    }

    fn refuse(&self, agent: tls::Stream, target: Arc<Target>, denial: Denial) -> BoxFuture<'static, ()> {
        Box::pin(driver::refuse(agent, target, denial))
    }

    fn understand<'a>(&'a self, question: Question<'a>) -> BoxFuture<'a, Result<Command, String>> {
        Box::pin(async move { driver::understand(&question) })
    }

    fn replayer(&self) -> Box<dyn Replayer> {
        (self.replayer)()
    }
}

/// A handshake of TLS, or a method and a space.
fn sniff(first: &[u8]) -> Sniff {
    const LONGEST_METHOD: usize = 24;
    match first {
        [0x16, 3, ..] => return Sniff::Match,
        [] | [0x16] => return Sniff::NeedMore,
        _ => {}
    }
    let method: Vec<u8> = first.iter().copied().take_while(|byte| *byte != b' ').collect();
    let upper = method.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'-');
    match (upper && method.len() <= LONGEST_METHOD, method.len() < first.len()) {
        (false, _) => Sniff::Mismatch,
        // The preface of HTTP/2 looks like a method as well.
        (true, true) => Sniff::Match,
        (true, false) => Sniff::NeedMore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_protocols_are_told_apart() {
        for (first, said) in [
            (&b"GET / HTTP/1.1"[..], Sniff::Match),
            (b"M-SEARCH /", Sniff::Match),
            (b"GE", Sniff::NeedMore),
            (b"", Sniff::NeedMore),
            (b"PRI * HTTP/2.0\r\n", Sniff::Match),
            (b"\x16\x03\x01", Sniff::Match),
            (b"\x16", Sniff::NeedMore),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Sniff::Mismatch),
            (b"SSH-2.0-x\r\n", Sniff::Mismatch),
            (b"get / HTTP/1.1", Sniff::Mismatch),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Sniff::Mismatch),
        ] {
            assert_eq!(sniff(first), said, "{:?}", String::from_utf8_lossy(first));
        }
    }
}
