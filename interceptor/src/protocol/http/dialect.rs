//! What requests and answers mean, where a family of services gives them a meaning of its own, as Kubernetes does. How they
//! are framed, held, passed on and recorded is alike for all; the driver asks its target's dialect for the rest.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::action::{self, Body};
use super::claims::Claim;
use super::codec::{RequestHead, ResponseHead};
use super::denial;
use super::driver::{Next, Opened, socket};
use super::grpc::Called;
use super::redact::json::Hides;
use super::rewrite;
use super::route::{Location, Routes};
use crate::policy::{Command, Denial};
use crate::protocol::Failure;

/// A request that was read, and means one thing only as far as HTTP goes.
#[derive(Clone, Copy, Debug)]
pub(in crate::protocol) struct Asked<'a> {
    /// Name of the target.
    pub(in crate::protocol) target: &'a Arc<str>,
    /// Its routes.
    pub(in crate::protocol) routes: &'a Routes,
    pub(in crate::protocol) head: &'a RequestHead,
    pub(in crate::protocol) location: &'a Location,
    pub(in crate::protocol) body: &'a Body,
    /// What it calls, where the target's schema has that.
    pub(in crate::protocol) called: Called<'a>,
}

/// What a connection may be upgraded to, as `Upgrade` has it.
pub(in crate::protocol) type Upgrade = &'static str;

/// What WebSockets are called.
pub(in crate::protocol) const WEBSOCKET: Upgrade = "websocket";

/// Where an answer comes from, as paths into JSON name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum Place {
    /// A place of the target: `/v1/customers/{id}`; or the target alone.
    At(Option<String>),
    /// It may be the answer to any request to the target.
    Anywhere,
}

/// What a refusal names of the request that it answers, where the dialect has such.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::protocol) struct Asker {
    /// Ids, as JSON.
    pub(in crate::protocol) ids: Vec<String>,
    /// They stood in a list.
    pub(in crate::protocol) is_list: bool,
}

/// What a request was found to be.
#[derive(Debug)]
pub(in crate::protocol) struct Meaning {
    /// What it would do.
    pub(in crate::protocol) command: Command,
    pub(in crate::protocol) place: Place,
    pub(in crate::protocol) asker: Asker,
}

/// A family of services that speak HTTP.
pub(in crate::protocol) trait Dialect: fmt::Debug + Send + Sync {
    /// What a request would do.
    fn command(&self, asked: &Asked<'_>) -> Command;

    /// Where the answer comes from, as paths into JSON name it behind the target: `/v1/customers/{id}`.
    fn place(&self, routes: &Routes, location: &Location) -> Option<String>;

    /// All of that at once.
    fn meaning(&self, asked: &Asked<'_>) -> Meaning {
        let place = Place::At(self.place(asked.routes, asked.location));
        Meaning { command: self.command(asked), place, asker: Asker::default() }
    }

    /// Whether strings in its answers hold JSON, so that paths look into them.
    fn nests(&self) -> bool {
        false
    }

    /// Names of fields of a body sent there that are secrets, beside those that are everywhere.
    fn secrets(&self, _location: &Location) -> &'static [&'static str] {
        &[]
    }

    /// Blots out of a body in Protocol Buffers what is hidden; whether it is one that is known.
    fn blot(&self, _body: &mut [u8], _hides: &dyn Fn(&str) -> Hides) -> bool {
        false
    }

    /// Where the answer to a request that has failed may tell of what was there, as paths into JSON.
    fn words_of_failure(&self, _head: &RequestHead) -> &'static [&'static str] {
        &[]
    }

    /// Takes out of a request what is nobody's business, before anybody looks at it.
    fn clean(&self, _head: &mut RequestHead) {}

    /// Whether some fields that say who asks are judged here.
    fn judges_claims(&self) -> bool {
        false
    }

    /// What becomes of a field (lower case, with `-` for all else) that says who asks.
    fn claim(&self, _name: &str) -> Claim {
        Claim::Gone
    }

    /// Whether what is answered there says nothing of anybody's data, and so is never masked.
    fn is_open(&self, _head: &RequestHead, _location: &Location) -> bool {
        false
    }

    /// Whether the answer may pause for as long as it likes.
    fn is_endless(&self, _head: &RequestHead, _location: &Location) -> bool {
        false
    }

    /// A refusal.
    fn refusal(&self, denial: &Denial) -> (ResponseHead, Bytes);

    /// How a refusal is told to clients that take any other answer to a request for an upgrade for a lack of it, and ask again
    /// in another way: the head that agrees to it, and all that is said then.
    fn refusal_of_upgrade(&self, _head: &RequestHead, _denial: &Denial) -> Option<(ResponseHead, Bytes)> {
        None
    }

    /// A refusal of a request that was read.
    fn refusal_to(&self, denial: &Denial, _asker: &Asker) -> (ResponseHead, Bytes) {
        self.refusal(denial)
    }

    /// What a request wants its connection to be upgraded to.
    ///
    /// # Errors
    /// A sentence: that is not passed on.
    fn upgrade(&self, head: &RequestHead, location: &Location) -> Result<Option<Upgrade>, &'static str>;

    /// Sees to it that the answer to a request that goes to the target comes so that it can be looked into.
    fn readable(&self, head: &mut RequestHead);

    /// Passes on what is said on a connection that was upgraded, until either side ends it.
    fn relay<'a>(&'a self, opened: Opened<'a>) -> BoxFuture<'a, Result<Next, Failure>>;
}

/// Web services of which nothing more is known than their routes.
#[derive(Clone, Copy, Debug)]
pub(in crate::protocol) struct Web;

impl Dialect for Web {
    fn command(&self, asked: &Asked<'_>) -> Command {
        action::command(asked)
    }

    fn place(&self, routes: &Routes, location: &Location) -> Option<String> {
        routes.find(&location.segments).map(ToString::to_string)
    }

    fn meaning(&self, asked: &Asked<'_>) -> Meaning {
        let place = if asked.routes.beside(&asked.location.segments).is_empty() {
            Place::At(self.place(asked.routes, asked.location))
        } else {
            Place::Anywhere
        };
        Meaning { command: self.command(asked), place, asker: Asker::default() }
    }

    fn refusal(&self, denial: &Denial) -> (ResponseHead, Bytes) {
        denial::problem(denial)
    }

    fn upgrade(&self, head: &RequestHead, _location: &Location) -> Result<Option<Upgrade>, &'static str> {
        Ok(socket::asks(head)?.then_some(WEBSOCKET))
    }

    fn readable(&self, head: &mut RequestHead) {
        rewrite::whole(&mut head.fields);
    }

    fn relay<'a>(&'a self, opened: Opened<'a>) -> BoxFuture<'a, Result<Next, Failure>> {
        Box::pin(socket::relay(opened))
    }
}
