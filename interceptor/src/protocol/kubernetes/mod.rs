//! Kubernetes: the API of a cluster, over HTTP.
//!
//! # A primer
//!
//! **An API server** keeps objects, each of a kind, in an API group and a version of it, and most in a namespace. Their paths
//! say all of that: `/api/v1/namespaces/shop/pods/web` for the group without a name (`core` here), and
//! `/apis/apps/v1/namespaces/shop/deployments/web` for others. Without a name, all of a kind are meant; without a namespace,
//! those of all namespaces. Behind the name may stand a subresource: `/scale`, `/status`, `/log`, `/exec`. The method makes the
//! verb: GET is get, list or watch, POST create, PUT update, PATCH patch (JSON patch, merge patch, strategic merge patch, or
//! server-side apply), DELETE delete. Objects go as JSON, YAML, or in Protocol Buffers; lists also as tables, which is what
//! `kubectl get` asks for. A watch answers with one JSON document after the other, for as long as it is listened to.
//!
//! **exec, attach and port-forward** upgrade their connection: to a WebSocket, whose messages begin with a byte that says
//! which stream they belong to, or to SPDY/3.1, which has streams of its own. Both carry standard input, output and error, the
//! size of the terminal, and in the end a `Status` that says how it went.
//!
//! # What is done with it
//!
//! HTTP is the house's own (`protocol::http`): its driver frames, holds, passes on and records. `resource` reads paths,
//! `object` bodies (`yaml` and `proto` those that are no JSON), `action` makes verbs on objects of both; `masks` are what is secret by its kind; `denial` words refusals;
//! Credentials are put in as for any other web service: the agent's kubeconfig stays as it is.
//!
//! Answers that have to be masked are asked for as JSON: a client that also takes Protocol Buffers gets JSON, one that takes
//! nothing else is told by the cluster that there is no such answer.
//!
//! Not promised: watches and logs over WebSockets are refused; Protocol Buffers of kinds that are not built in are not read, nor
//! YAML that readers could read in more than one way: it is `k8s:opaque`.
//!
//! # Specification
//!
//! - <https://kubernetes.io/docs/reference/using-api/api-concepts/>
//! - <https://kubernetes.io/docs/reference/access-authn-authz/authorization/>
//! - <https://github.com/kubernetes/kubernetes/tree/master/staging/src/k8s.io/apiserver/pkg/endpoints/request>

mod action;
mod denial;
pub mod masks;
mod object;
pub mod proto;
mod replay;
mod resource;
pub mod spdy;
mod streams;
#[cfg(test)]
mod tests;
pub mod yaml;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::http::claims::Claim;
use super::http::codec::{RequestHead, ResponseHead};
use super::http::dialect::{Asked, Dialect, Upgrade};
use super::http::driver::{Next, Opened};
use super::http::redact::json::Hides;
use super::http::rewrite;
use super::http::route::{Location, Routes};
use super::http::{Config, ONE, Settings, Spoken, TWO};
use super::{Failure, Registration};
use crate::policy::{Command, Denial};
use crate::tls::authority::Name;
use resource::Named;

/// The registry line.
pub const REGISTRATION: Registration = Registration {
    name: "kubernetes",
    default_port: 6443,
    alpn: &[TWO, ONE],
    protocol: &Spoken { replayer: || Box::new(replay::Cluster::default()) },
};

/// What the protocol makes of HTTP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kubernetes;

/// Checks the settings of a target that has these names: those of web services, without routes.
///
/// # Errors
/// A sentence for each thing that is wrong.
pub fn settings(config: &Config, names: Vec<Name>) -> Result<Settings, Vec<String>> {
    if !config.routes.is_empty() {
        return Err(vec!["http.routes: a cluster has objects, and no routes".to_owned()]);
    }
    config.settings_of(&Kubernetes, names)
}

/// Whether that can be the place of an answer: `/apps/deployments`, `/core/serviceaccounts/token`.
#[must_use]
pub fn is_place(place: &str) -> bool {
    let parts: Vec<&str> = place.strip_prefix('/').into_iter().flat_map(|place| place.split('/')).collect();
    let is_own = |subresource: &&str| masks::APART.contains(subresource);
    matches!(parts.len(), 2 | 3) && parts.iter().all(|part| !part.is_empty()) && parts.get(2).is_none_or(is_own)
}

impl Dialect for Kubernetes {
    fn command(&self, asked: &Asked<'_>) -> Command {
        action::command(asked)
    }

    fn place(&self, _routes: &Routes, location: &Location) -> Option<String> {
        let Named::Resource(request) = resource::named("GET", location) else { return None };
        // Others (`status`, `ephemeralcontainers`, `finalize`) answer the object itself.
        let apart = request.subresource.filter(|name| masks::APART.contains(&name.as_str()));
        let subresource = apart.map(|name| format!("/{name}")).unwrap_or_default();
        Some(format!("/{}/{}{subresource}", request.group, request.resource))
    }

    fn secrets(&self, location: &Location) -> &'static [&'static str] {
        let Named::Resource(request) = resource::named("POST", location) else { return &[] };
        let is_secret = request.group == resource::CORE && request.resource == "secrets";
        if is_secret { &masks::SAID } else { &masks::SAID_AGAIN }
    }

    fn blot(&self, body: &mut [u8], hides: &dyn Fn(&str) -> Hides) -> bool {
        proto::blot(body, hides)
    }

    fn words_of_failure(&self, head: &RequestHead) -> &'static [&'static str] {
        // It prints what a change would have made of an object, or how that differs.
        if matches!(head.method.as_str(), "PATCH" | "PUT") { &masks::FAILURE } else { &[] }
    }

    fn clean(&self, head: &mut RequestHead) {
        streams::clean(head);
    }

    fn judges_claims(&self) -> bool {
        true
    }

    fn claim(&self, name: &str) -> Claim {
        action::claim(name)
    }

    fn is_open(&self, head: &RequestHead, location: &Location) -> bool {
        resource::named(&head.method, location) == Named::Discovery
    }

    fn is_endless(&self, head: &RequestHead, location: &Location) -> bool {
        let Named::Resource(request) = resource::named(&head.method, location) else { return false };
        let follows = request.is_pods("log") && resource::is_set(resource::first(location, "follow"));
        request.verb == resource::Verb::Watch || follows
    }

    fn refusal(&self, denial: &Denial) -> (ResponseHead, Bytes) {
        denial::status(denial)
    }

    fn refusal_of_upgrade(&self, head: &RequestHead, denial: &Denial) -> Option<(ResponseHead, Bytes)> {
        streams::refusal(head, denial)
    }

    fn upgrade(&self, head: &RequestHead, location: &Location) -> Result<Option<Upgrade>, &'static str> {
        streams::upgrade(head, location)
    }

    fn readable(&self, head: &mut RequestHead) {
        rewrite::whole(&mut head.fields);
        // Streams are no kind of answer: a server that is asked for one of them as JSON has none (406).
        if head.fields.get("upgrade").is_some() {
            head.fields.remove("accept");
            return;
        }
        let readable = readable(head);
        head.fields.set("accept", readable);
    }

    fn relay<'a>(&'a self, opened: Opened<'a>) -> BoxFuture<'a, Result<Next, Failure>> {
        Box::pin(streams::relay(opened))
    }
}

/// What the agent takes, as far as it can be looked into.
fn readable(head: &RequestHead) -> String {
    let can_be = |part: &str| {
        let media = part.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        matches!(media.as_str(), "application/json" | "application/*" | "*/*") || media.starts_with("text/")
    };
    let listed = head.fields.all("accept").flat_map(|value| value.split(|byte| *byte == b','));
    let listed = listed.filter_map(|part| std::str::from_utf8(part).ok()).map(str::trim).filter(|part| can_be(part));
    let listed = listed.collect::<Vec<_>>().join(", ");
    if listed.is_empty() { "application/json".to_owned() } else { listed }
}
