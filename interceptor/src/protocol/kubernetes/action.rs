//! From a request to what it would do to a cluster, as policies see it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::object::{self, Found, Patch};
use super::resource::{self, CORE, Named, Request, Verb};
use super::{proto, yaml};
use crate::policy::{Action, ActionName, Command, Facts, KubernetesFacts, Resource, ResourceKind};
use crate::protocol::http::action as http;
use crate::protocol::http::claims::Claim;
use crate::protocol::http::codec::RequestHead;
use crate::protocol::http::content::{self, Limits};
use crate::protocol::http::dialect::Asked;
use crate::protocol::http::route;

/// What a body may have to be looked into: a config map is as long as a body may be.
const LIMITS: Limits = Limits { fields: 16 * 1024, depth: 64, value: 1 << 20 };
/// Parameters that may stand more than once, and mean all of them.
const REPEATED: &[&str] = &["command", "ports"];
/// A parameter, and a field of a body, by which a removal is not held up by what it leaves broken.
pub(super) const BREAKING: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";
/// Fields by which an API server takes whoever asks for somebody else, where it trusts whoever sends them.
const REMOTE: &str = "x-remote-";
/// Fields by which whoever asks wants to be taken for somebody else.
const IMPERSONATE: &str = "impersonate-";

/// What becomes of a field that says who asks: such are judged here, and none but those of impersonation are the agent's.
pub(super) fn claim(name: &str) -> Claim {
    match name {
        own if own.starts_with(IMPERSONATE) => Claim::Passes,
        remote if remote.starts_with(REMOTE) => Claim::Judged,
        _ => Claim::Gone,
    }
}

/// The command of a request.
pub(super) fn command(asked: &Asked<'_>) -> Command {
    let Asked { target, head, location, body, .. } = *asked;
    let mut reading = Reading {
        target,
        actions: BTreeSet::new(),
        object: None,
        changes_secret: false,
        opaque: http::doubts(head).collect(),
    };
    let (mut k8s, mut fields, mut found) = (KubernetesFacts::default(), Vec::new(), Found::default());
    let patch = head.fields.text("content-type").and_then(|kind| Patch::of(essence(kind)));
    match read_body(asked, patch) {
        Ok(Some((values, value))) => {
            fields = values;
            found = object::read(&value, patch, &mut k8s);
        }
        Ok(None) => {}
        Err(why) => reading.opaque.push(why),
    }
    reading.opaque.extend(found.opaque.take());
    if head.fields.0.iter().any(|field| field.name.replace('_', "-").starts_with(REMOTE)) {
        reading.opaque.push(format!("it has a field `{REMOTE}...`, which says who asks"));
    }
    // Who sends what cannot be read may ask for anything in it.
    let unread = !reading.opaque.is_empty() && body.size() > 0;
    match resource::named(&head.method, location) {
        Named::Discovery => reading.act(ActionName::K8S_DISCOVER, None),
        Named::Path => reading.opaque.push("its path is no resource of the cluster".to_owned()),
        Named::Resource(request) => reading.request(&request, asked, (&mut k8s, &found, patch), unread),
    }
    reading.impersonations(head);
    // People read the fields, and not the bytes.
    let is_binary =
        asked.head.fields.text("content-type").is_some_and(|kind| essence(kind).eq_ignore_ascii_case(proto::MEDIA));
    let parameters = if is_binary { http::called_with(body, &fields) } else { http::parameters(body) };
    let facts = Facts {
        has_where: true,
        statements: 1,
        // A test, or a copy to where it can be seen, asks for what is masked; so does any change of a Secret, of which the
        // cluster says whether it was one.
        filters_on_masked: found.asks || reading.changes_secret,
        http: Some(Arc::new(http::facts(head, location, fields, body.size()))),
        k8s: Some(Arc::new(k8s)),
        ..Facts::default()
    };
    Command {
        analysis: http::number(),
        statement: statement(head).into(),
        parameters,
        actions: reading.actions(),
        facts: Arc::new(facts),
        in_transaction: false,
    }
}

/// What a request was found to do.
struct Reading<'a> {
    target: &'a Arc<str>,
    /// In their order by name, each once.
    actions: BTreeSet<(ActionName, Resource)>,
    /// What the path names.
    object: Option<Resource>,
    changes_secret: bool,
    opaque: Vec<String>,
}

impl Reading<'_> {
    fn act(&mut self, name: ActionName, resource: Option<Resource>) {
        let resource = resource.unwrap_or_else(|| self.whole());
        self.actions.insert((name, resource));
    }

    fn whole(&self) -> Resource {
        Resource { kind: ResourceKind::Target, path: vec![Arc::clone(self.target)] }
    }

    fn object(&self, request: &Request, with_subresource: bool, name: Option<&str>) -> Resource {
        let resource = match &request.subresource {
            Some(subresource) if with_subresource => format!("{}/{subresource}", request.resource),
            _ => request.resource.clone(),
        };
        let parts = [&request.namespace, &request.group, &resource].map(|part| Arc::from(part.as_str()));
        let path = std::iter::once(Arc::clone(self.target)).chain(parts).chain(name.map(Arc::from)).collect();
        Resource { kind: ResourceKind::KubernetesObject, path }
    }

    fn request(
        &mut self,
        request: &Request,
        asked: &Asked<'_>,
        (k8s, found, patch): (&mut KubernetesFacts, &Found, Option<Patch>),
        unread: bool,
    ) {
        k8s.version.clone_from(&request.version);
        k8s.patch = patch.filter(|_| request.verb == Verb::Patch).map(|patch| patch.as_str().to_owned());
        let connects = connects(request);
        self.opaque.extend(request.doubt.clone());
        self.parameters(request, asked, connects.is_some(), k8s);
        let name = request.name.as_deref().or(found.name.as_deref().filter(|_| request.verb == Verb::Create));
        let whole = self.object(request, false, name);
        self.object = Some(whole.clone());
        if let Some(name) = connects {
            self.act(name, Some(whole));
            return;
        }
        // A body of its own takes the place of what the query says of how to delete.
        let deletes = matches!(request.verb, Verb::Delete | Verb::DeleteCollection);
        if deletes && asked.body.size() > 0 {
            k8s.dry_run = found.dry_run && is_own(&request.group);
        }
        let changes = matches!(request.verb, Verb::Create | Verb::Update | Verb::Patch);
        let unread = unread || (request.verb == Verb::Patch && patch.is_none());
        if changes && unread {
            k8s.privileged = true;
            k8s.privileges.insert("unknown".to_owned());
        }
        k8s.makes_token |=
            changes && whole_is(&whole, "serviceaccounts") && request.subresource.as_deref() == Some("token");
        let lets_in = unread || found.lets_in || name.is_some_and(|name| name.starts_with(object::JOINING));
        k8s.makes_token |= changes && lets_in && touches_secrets(&whole);
        self.changes_secret = changes && request.verb != Verb::Create && touches_secrets(&whole);
        let own = self.object(request, true, name);
        match request.verb {
            Verb::Get if request.is_pods("log") => self.act(ActionName::K8S_LOG, Some(whole)),
            Verb::Get => self.act(ActionName::K8S_GET, Some(own)),
            Verb::List => self.act(ActionName::K8S_LIST, Some(own)),
            Verb::Watch => self.act(ActionName::K8S_WATCH, Some(own)),
            Verb::Create if request.is_pods("eviction") => self.act(ActionName::K8S_DELETE, Some(whole)),
            Verb::Create => self.act(ActionName::K8S_CREATE, Some(own)),
            Verb::Update | Verb::Patch if request.subresource.as_deref() == Some("scale") => {
                self.act(ActionName::K8S_SCALE, Some(whole));
            }
            Verb::Update | Verb::Patch => {
                let is_patch = request.verb == Verb::Patch;
                if is_patch && patch.is_none() {
                    self.opaque.push("nobody knows how its patch is written".to_owned());
                }
                self.act(if is_patch { ActionName::K8S_PATCH } else { ActionName::K8S_UPDATE }, Some(own));
                let replaces = !is_patch || patch == Some(Patch::Apply);
                let scales = unread || found.scales || (replaces && has_replicas(request));
                if request.subresource.is_none() && scales {
                    self.act(ActionName::K8S_SCALE, Some(whole));
                }
            }
            Verb::Delete => self.act(ActionName::K8S_DELETE, Some(own)),
            Verb::DeleteCollection => {
                self.act(ActionName::K8S_DELETE, Some(own.clone()));
                self.act(ActionName::K8S_DELETE_COLLECTION, Some(own));
            }
            Verb::Proxy | Verb::Unknown => {
                self.opaque.push(format!("its method is {:.40}", asked.head.method));
            }
        }
        if changes && request.group == "autoscaling" && request.resource == "horizontalpodautoscalers" {
            self.act(ActionName::K8S_SCALE, Some(self.object(request, false, name)));
        }
        if request.spans_namespaces() {
            let all = self.object(request, true, None);
            self.act(ActionName::K8S_ALL_NAMESPACES, Some(all));
        }
    }

    /// What the query says.
    fn parameters(&mut self, request: &Request, asked: &Asked<'_>, connects: bool, k8s: &mut KubernetesFacts) {
        // What is proxied has a query of its own.
        if is_proxy(request) {
            return;
        }
        let location = asked.location;
        let names = location.query.iter().map(|(name, _)| name.as_str()).filter(|name| !REPEATED.contains(name));
        if let Some(name) = route::repeated(names) {
            self.opaque.push(format!("`{name:.100}` stands more than once in its query"));
        }
        if resource::is_set(resource::first(location, BREAKING)) {
            self.opaque.push(format!("`{BREAKING}` breaks what the cluster keeps"));
        }
        // Other subresources than these do not look at it.
        let tries = matches!(request.subresource.as_deref(), None | Some("status" | "scale")) && is_own(&request.group);
        k8s.dry_run = tries && resource::first(location, "dryRun") == Some("All");
        k8s.label_selector = resource::first(location, "labelSelector").map(str::to_owned);
        k8s.container = resource::first(location, "container").filter(|name| !name.is_empty()).map(str::to_owned);
        if !connects {
            return;
        }
        k8s.stdin = resource::is_set(resource::first(location, "stdin"));
        k8s.tty = resource::is_set(resource::first(location, "tty"));
        let words: Vec<&str> = resource::all(location, "command").collect();
        k8s.program = words.first().map(|word| (*word).to_owned());
        k8s.command = (!words.is_empty()).then(|| words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
        for port in resource::all(location, "ports").flat_map(|ports| ports.split(',')) {
            match port.parse::<u16>() {
                Ok(port) => drop(k8s.ports.insert(port.into())),
                Err(_) => self.opaque.push(format!("`ports={port:.20}` is no port")),
            }
        }
    }

    /// Who else it wants to be.
    fn impersonations(&mut self, head: &RequestHead) {
        for field in &head.fields.0 {
            let name = field.name.replace('_', "-");
            let Some(kind) = name.strip_prefix(IMPERSONATE) else { continue };
            let value = String::from_utf8_lossy(&field.value);
            let account = value.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
            let (namespace, group, resource, named): (&str, &str, &str, &str) = match (kind, account) {
                ("user", Some((namespace, account))) => (namespace, CORE, "serviceaccounts", account),
                ("user", None) => ("", CORE, "users", &value),
                ("group", _) => ("", CORE, "groups", &value),
                ("uid", _) => ("", "authentication.k8s.io", "uids", &value),
                (other, _) => match other.strip_prefix("extra-") {
                    Some(key) if !key.contains('%') => {
                        let request = subject("", "authentication.k8s.io", &format!("userextras/{key}"));
                        let resource = self.object(&request, false, Some(&value));
                        self.act(ActionName::K8S_IMPERSONATE, Some(resource));
                        continue;
                    }
                    _ => {
                        self.opaque.push(format!("nobody knows what `{name:.60}` asks for"));
                        continue;
                    }
                },
            };
            let resource = self.object(&subject(namespace, group, resource), false, Some(named));
            self.act(ActionName::K8S_IMPERSONATE, Some(resource));
        }
    }

    fn actions(self) -> Arc<[Action]> {
        let whole = self.whole();
        let opaque = (!self.opaque.is_empty()).then(|| (ActionName::K8S_OPAQUE, self.opaque.join("; ")));
        // What cannot be known is asked for of the same object, or of the target where there is none.
        let place = self.object.unwrap_or(whole);
        let note = opaque.map(|(name, note)| action(name, place, Some(note.into())));
        self.actions.into_iter().map(|(name, resource)| action(name, resource, None)).chain(note).collect()
    }
}

fn action(name: ActionName, resource: Resource, note: Option<Arc<str>>) -> Action {
    Action { name, resource, columns: BTreeSet::new(), tags: Arc::default(), note }
}

/// The action of a request that leads into a container, or through the API server.
fn connects(request: &Request) -> Option<ActionName> {
    if is_proxy(request) {
        return Some(ActionName::K8S_PROXY);
    }
    [("exec", ActionName::K8S_EXEC), ("attach", ActionName::K8S_ATTACH), ("portforward", ActionName::K8S_PORT_FORWARD)]
        .into_iter()
        .find(|(subresource, _)| request.is_pods(subresource))
        .map(|(_, name)| name)
}

fn is_proxy(request: &Request) -> bool {
    request.verb == Verb::Proxy || request.subresource.as_deref() == Some("proxy")
}

/// Whether whatever takes the place of one of these has a number of replicas, said or not.
fn has_replicas(request: &Request) -> bool {
    match request.group.as_str() {
        CORE => request.resource == "replicationcontrollers",
        "apps" | "extensions" => matches!(request.resource.as_str(), "deployments" | "replicasets" | "statefulsets"),
        // What others define may have them.
        group => !is_own(group),
    }
}

/// Whether a group is one of the cluster's own. What another server serves, or does not, only that server knows.
fn is_own(group: &str) -> bool {
    !group.contains('.') || group.ends_with(".k8s.io")
}

fn touches_secrets(resource: &Resource) -> bool {
    whole_is(resource, "secrets")
}

/// Whether that is one of a kind of the group without a name.
fn whole_is(resource: &Resource, kind: &str) -> bool {
    let [_, _, group, resource, ..] = resource.path.as_slice() else { return false };
    group.as_ref() == CORE && resource.as_ref() == kind
}

fn subject(namespace: &str, group: &str, resource: &str) -> Request {
    Request {
        verb: Verb::Get,
        group: group.to_owned(),
        version: String::new(),
        namespace: namespace.to_owned(),
        resource: resource.to_owned(),
        subresource: None,
        name: None,
        doubt: None,
    }
}

type Body = (Vec<String>, Value);

/// The values of the body, and the body itself; nothing where there is none.
fn read_body(asked: &Asked<'_>, patch: Option<Patch>) -> Result<Option<Body>, String> {
    let bytes = asked.body.whole()?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let kind = asked.head.fields.text("content-type").unwrap_or_default();
    // Clients write what is YAML by its name also as JSON, which is YAML.
    if essence(kind).eq_ignore_ascii_case(proto::MEDIA) {
        return read_proto(asked, bytes).map(Some);
    }
    if patch == Some(Patch::Apply) || essence(kind) == "application/yaml" {
        return read_yaml(kind, http::is_encoded(asked.head), bytes).map(Some);
    }
    // A server takes what has no type for JSON.
    let kind = if kind.is_empty() { "application/json" } else { kind };
    let content = content::read(Some(kind), http::is_encoded(asked.head), bytes, LIMITS)?;
    let value = serde_json::from_slice(bytes).map_err(|error| format!("its JSON cannot be read: {error}"))?;
    Ok(Some((content.values, value)))
}

/// Whether a request may change the status of an object.
fn counts_status(asked: &Asked<'_>) -> bool {
    match resource::named(&asked.head.method, asked.location) {
        Named::Resource(request) => {
            request.resource == "nodes" || matches!(request.subresource.as_deref(), Some("status" | "approval"))
        }
        Named::Discovery | Named::Path => false,
    }
}

/// The same of Protocol Buffers.
fn read_proto(asked: &Asked<'_>, bytes: &[u8]) -> Result<Body, String> {
    if http::is_encoded(asked.head) {
        return Err("its body is compressed".to_owned());
    }
    let (value, has_status) = proto::read_all(bytes)?;
    // Elsewhere a server leaves it out.
    if has_status && counts_status(asked) {
        return Err("what its Protocol Buffers say of a status is not looked into".to_owned());
    }
    let json = serde_json::to_vec(&value).map_err(|error| format!("it is no JSON: {error}"))?;
    let content = content::read(Some("application/json"), false, &json, LIMITS)?;
    Ok((content.values, value))
}

/// The same of YAML, as the JSON that it would be.
fn read_yaml(kind: &str, encoded: bool, bytes: &[u8]) -> Result<Body, String> {
    if encoded {
        return Err("its body is compressed".to_owned());
    }
    let value = yaml::read(bytes)?;
    let json = serde_json::to_vec(&value).map_err(|error| format!("its YAML is no JSON: {error}"))?;
    let kind = kind.replacen(essence(kind), "application/json", 1);
    let content = content::read(Some(&kind), false, &json, LIMITS)?;
    Ok((content.values, value))
}

fn essence(media: &str) -> &str {
    media.split(';').next().unwrap_or_default().trim()
}

/// A word as shells quote it.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// All that the cluster reads of it. What names one run of a client alone is left out, so that the same command finds its
/// grant again.
fn statement(head: &RequestHead) -> String {
    const OF_ONE_RUN: &str = "kubectl-session: ";
    let text = http::statement(head);
    text.lines().filter(|line| !line.starts_with(OF_ONE_RUN)).collect::<Vec<_>>().join("\n")
}
