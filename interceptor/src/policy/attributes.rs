//! What policies see of a request: attributes of machines and resources, and the context.
//!
//! Owns the values behind the names of the schema. A value is computed only where some policy reads that name. Does not
//! decide anything.

use std::collections::HashMap;
use std::sync::Arc;

use cedar_policy::RestrictedExpression as Value;

use super::action::{Action, HttpFacts, KubernetesFacts, McpFacts, Resource, ResourceKind};
use super::evaluate::Request;
use super::load::Policies;
use crate::clock::Timestamp;
use crate::identity::Attested;

/// Names of the schema, and how to compute their values.
pub(super) type Pairs<'a> = Vec<(&'static str, Box<dyn FnOnce() -> Value + 'a>)>;

/// Computes the values that some policy reads.
pub(super) fn wanted<'a>(policies: &'a Policies, pairs: Pairs<'a>) -> impl Iterator<Item = (String, Value)> + 'a {
    pairs.into_iter().filter(|(name, _)| policies.reads.contains(*name)).map(|(name, value)| (name.to_owned(), value()))
}

/// Attributes of the principal.
pub(super) fn machine(principal: &Attested) -> Pairs<'_> {
    let facts = &principal.facts;
    let mut pairs: Pairs<'_> = vec![
        ("name", Box::new(|| text(&principal.name))),
        ("uid", Box::new(|| Value::new_long(facts.uid.into()))),
        ("gid", Box::new(|| Value::new_long(facts.gid.into()))),
        ("cgroup", Box::new(|| text(&facts.cgroup))),
        ("ancestry", Box::new(|| texts(&facts.ancestry))),
        ("level", Box::new(|| text(facts.guarantee.level.as_str()))),
        ("issuer", Box::new(|| text(&principal.token.issuer))),
        ("subject", Box::new(|| text(&principal.token.subject))),
    ];
    // What others than root could have named is nobody's word.
    let container = facts.container.as_ref().filter(|found| found.trusted);
    let (container, pod) = (container.map(|found| &found.id), container.and_then(|found| found.pod.as_ref()));
    for (name, value) in [
        ("unit", facts.unit.as_ref()),
        ("container", container),
        ("pod", pod),
        ("exe", facts.exe.as_ref()),
        ("exe_sha256", facts.exe_sha256.as_ref()),
    ] {
        if let Some(value) = value {
            pairs.push((name, Box::new(|| text(value))));
        }
    }
    pairs
}

/// The part of the context that all actions of a command share.
pub(super) fn circumstances<'a>(request: &'a Request<'_>) -> Pairs<'a> {
    let (facts, session) = (&request.command.facts, request.session);
    let mut pairs: Pairs<'a> = vec![
        ("target", Box::new(|| text(request.target))),
        ("has_where", Box::new(|| Value::new_bool(facts.has_where))),
        ("functions", Box::new(|| texts(&facts.functions))),
        ("filters_on_masked", Box::new(|| Value::new_bool(facts.filters_on_masked))),
        ("statements", Box::new(|| Value::new_long(facts.statements.into()))),
        ("in_transaction", Box::new(|| Value::new_bool(request.command.in_transaction))),
        ("time", Box::new(|| time(request.now))),
        (
            "session",
            Box::new(move || {
                record([("commands", long(session.commands)), ("age_seconds", long(session.age_seconds))])
            }),
        ),
    ];
    if let Some(http) = &facts.http {
        pairs.push(("http", Box::new(|| request_of(http))));
    }
    if let Some(k8s) = &facts.k8s {
        pairs.push(("k8s", Box::new(|| cluster_request(k8s))));
    }
    if let Some(mcp) = &facts.mcp {
        pairs.push(("mcp", Box::new(|| tool_request(mcp))));
    }
    if let Some(limit) = facts.row_limit {
        pairs.push(("row_limit", Box::new(move || long(limit))));
    }
    pairs
}

/// The part of the context that belongs to one action.
pub(super) fn of_action(action: &Action, approved: bool) -> Pairs<'_> {
    let mut pairs: Pairs<'_> = vec![
        ("columns", Box::new(|| texts(&action.columns))),
        ("tags", Box::new(|| texts(action.tags.as_ref()))),
        ("approved", Box::new(move || Value::new_bool(approved))),
    ];
    if let Some(note) = &action.note {
        pairs.push(("note", Box::new(|| text(note))));
    }
    pairs
}

/// Attributes of the resource.
pub(super) fn attributes_of(resource: &Resource) -> Pairs<'_> {
    let mut pairs: Pairs<'_> = Vec::new();
    if resource.kind == ResourceKind::Route {
        let steps = resource.path.get(1..).unwrap_or_default();
        pairs.push(("name", Box::new(|| text(&format!("/{}", steps.join("/"))))));
        if let Some(target) = resource.path.first() {
            pairs.push(("target", Box::new(|| text(target))));
        }
        return pairs;
    }
    if resource.kind == ResourceKind::KubernetesObject {
        return attributes_of_object(resource);
    }
    if let Some(name) = resource.path.last() {
        pairs.push(("name", Box::new(|| text(name))));
    }
    if resource.kind != ResourceKind::Tag {
        for (name, part) in ["target", "database", "schema"].into_iter().zip(in_which(resource)) {
            pairs.push((name, Box::new(|| text(part))));
        }
    }
    pairs
}

/// Attributes of an object of a cluster: `[target, namespace, group, resource, name]`, the last perhaps missing.
fn attributes_of_object(resource: &Resource) -> Pairs<'_> {
    let mut pairs: Pairs<'_> = Vec::new();
    let parts = ["target", "namespace", "group", "resource", "name"].into_iter().zip(&resource.path);
    for (name, part) in parts.filter(|(name, part)| *name != "namespace" || !part.is_empty()) {
        pairs.push((name, Box::new(|| text(part))));
    }
    pairs
}

/// Target, database and schema that a resource lies in, or is.
fn in_which(resource: &Resource) -> impl Iterator<Item = &Arc<str>> {
    use ResourceKind::{Database, Namespace, Schema, Target, Tool};
    if matches!(resource.kind, Namespace | Tool) {
        return resource.path.iter().take(1);
    }
    let own = matches!(resource.kind, Target | Database | Schema);
    let above = if own { resource.path.len() } else { resource.path.len().saturating_sub(1) };
    resource.path.iter().take(above)
}

fn request_of(http: &HttpFacts) -> Value {
    let all = [
        ("host", text(&http.host)),
        ("path", text(&http.path)),
        ("query", texts(&http.query)),
        ("headers", texts(&http.headers)),
        ("fields", texts(&http.fields)),
        ("size", long(http.size)),
    ];
    let grpc = http
        .grpc
        .as_ref()
        .map(|grpc| ("grpc", record([("service", text(&grpc.service)), ("method", text(&grpc.method))])));
    record(all.into_iter().chain(grpc))
}

fn cluster_request(k8s: &KubernetesFacts) -> Value {
    let all = [
        ("version", text(&k8s.version)),
        ("dry_run", Value::new_bool(k8s.dry_run)),
        ("labels", texts(&k8s.labels)),
        ("images", texts(&k8s.images)),
        ("service_accounts", texts(&k8s.service_accounts)),
        ("secrets", texts(&k8s.secrets)),
        ("privileged", Value::new_bool(k8s.privileged)),
        ("makes_token", Value::new_bool(k8s.makes_token)),
        ("privileges", texts(&k8s.privileges)),
        ("stdin", Value::new_bool(k8s.stdin)),
        ("tty", Value::new_bool(k8s.tty)),
        ("ports", Value::new_set(k8s.ports.iter().map(|port| Value::new_long(*port)))),
    ];
    let some = [
        ("label_selector", &k8s.label_selector),
        ("patch", &k8s.patch),
        ("container", &k8s.container),
        ("program", &k8s.program),
        ("command", &k8s.command),
    ];
    let some = some.into_iter().filter_map(|(name, value)| Some((name, text(value.as_ref()?))));
    let replicas = k8s.replicas.map(|count| ("replicas", Value::new_long(count)));
    record(all.into_iter().chain(some).chain(replicas))
}

fn tool_request(mcp: &McpFacts) -> Value {
    let all = [("method", text(&mcp.method)), ("arguments", texts(&mcp.arguments))];
    let some = [("tool", &mcp.tool), ("uri", &mcp.uri), ("prompt", &mcp.prompt)];
    let some = some.into_iter().filter_map(|(name, value)| Some((name, text(value.as_ref()?))));
    record(all.into_iter().chain(some))
}

fn time(now: Timestamp) -> Value {
    let (days, seconds) = (now.unix().div_euclid(86_400), now.unix().rem_euclid(86_400));
    // Cedar's datetime counts milliseconds; 1970-01-01 was a Thursday.
    let millis = Timestamp(now.0.div_euclid(1000).saturating_mul(1000)).to_string();
    let millis = millis.strip_suffix("000Z").map_or_else(|| millis.clone(), |stamp| format!("{stamp}Z"));
    record([
        ("now", Value::new_datetime(millis)),
        ("hour", Value::new_long(seconds / 3600)),
        ("weekday", Value::new_long((days + 3).rem_euclid(7) + 1)),
    ])
}

fn record<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    let fields: HashMap<String, Value> = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    // A record can only fail on a field that stands twice, which a map does not hold; the empty one then denies.
    Value::new_record(fields).unwrap_or_else(|_| Value::new_set([]))
}

fn text(value: &str) -> Value {
    Value::new_string(value.to_owned())
}

fn texts<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> Value {
    Value::new_set(values.into_iter().map(|value| text(value.as_ref())))
}

fn long(value: u64) -> Value {
    Value::new_long(i64::try_from(value).unwrap_or(i64::MAX))
}
