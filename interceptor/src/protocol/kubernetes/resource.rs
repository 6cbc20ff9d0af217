//! From a path and a method to what is asked of which resource, as API servers read it (`RequestInfo` of k8s.io/apiserver).

use crate::protocol::http::route::Location;

/// What the path of a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// What the cluster is and offers.
    Discovery,
    /// Any other path that is no resource: `/metrics`, `/logs/...`
    Path,
    /// A resource.
    Resource(Request),
}

/// A request for a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) verb: Verb,
    /// API group; `core` for the one that has no name.
    pub(super) group: String,
    pub(super) version: String,
    /// Empty where there is none, or all are meant.
    pub(super) namespace: String,
    /// In the plural, as paths have it.
    pub(super) resource: String,
    pub(super) subresource: Option<String>,
    pub(super) name: Option<String>,
    /// What could be taken for something else.
    pub(super) doubt: Option<String>,
}

/// The verb of a request, as role-based access control knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
    Proxy,
    /// A method that no resource has.
    Unknown,
}

/// What the group without a name is called here.
pub(super) const CORE: &str = "core";

/// Paths where the cluster says what it is and offers, with all below them.
const DISCOVERY: &[&str] = &["version", "healthz", "livez", "readyz", "openapi"];

/// What the path names. Where something of it is doubtful, the object is told all the same, with the doubt: what is forbidden on
/// it stays so.
pub(super) fn named(method: &str, location: &Location) -> Named {
    let mut parts: Vec<&str> = location.segments.iter().map(String::as_str).collect();
    // Servers cut the slash at the end.
    if parts.last() == Some(&"") {
        parts.pop();
    }
    let mut parts = parts.as_slice();
    let prefix = match parts {
        [prefix @ ("api" | "apis"), rest @ ..] => {
            parts = rest;
            *prefix
        }
        [first, ..] if DISCOVERY.contains(first) => return discovery(method),
        [] => return discovery(method),
        _ => return Named::Path,
    };
    let (mut group, mut doubt) = (CORE, None);
    if prefix == "apis" {
        let [own, rest @ ..] = parts else { return discovery(method) };
        if *own == CORE {
            doubt = Some(format!("`{CORE}` stands for the group without a name, and is the name of another here"));
        }
        (group, parts) = (own, rest);
    }
    let [version, rest @ ..] = parts else { return discovery(method) };
    match resource((method, location), (group, version), rest) {
        Some(request) => Named::Resource(Request { doubt: doubt.or(request.doubt), ..request }),
        None => discovery(method),
    }
}

/// Nothing is changed there; what is sent there all the same, nobody knows.
fn discovery(method: &str) -> Named {
    if matches!(method, "GET" | "HEAD") { Named::Discovery } else { Named::Path }
}

fn resource((method, location): (&str, &Location), (group, version): (&str, &str), parts: &[&str]) -> Option<Request> {
    let mut verb = match method {
        "GET" | "HEAD" => Verb::Get,
        "POST" => Verb::Create,
        "PUT" => Verb::Update,
        "PATCH" => Verb::Patch,
        "DELETE" => Verb::Delete,
        _ => Verb::Unknown,
    };
    let mut parts = parts;
    match parts {
        // How watches and proxies were asked for once.
        ["watch", rest @ ..] if !rest.is_empty() => (verb, parts) = (Verb::Watch, rest),
        ["proxy", rest @ ..] if !rest.is_empty() => (verb, parts) = (Verb::Proxy, rest),
        _ => {}
    }
    let mut namespace = "";
    match parts {
        ["namespaces", own] => namespace = own,
        ["namespaces", own, "status" | "finalize", ..] => namespace = own,
        ["namespaces", own, rest @ ..] if !rest.is_empty() => (namespace, parts) = (own, rest),
        _ => {}
    }
    let [resource, rest @ ..] = parts else { return None };
    let mut name = rest.first().map(|name| (*name).to_owned());
    let subresource = rest.get(1).filter(|_| verb != Verb::Proxy).map(|name| (*name).to_owned());
    // Only what is proxied has more behind it, which is the other's own path.
    let more = rest.len() > 2 && !matches!(subresource.as_deref(), Some("proxy")) && verb != Verb::Proxy;
    let doubt = more.then(|| "its path has more steps than a resource can have".to_owned());
    if name.is_none() {
        (verb, name) = collection(verb, location);
    }
    Some(Request {
        doubt,
        verb,
        group: group.to_owned(),
        version: version.to_owned(),
        namespace: namespace.to_owned(),
        resource: (*resource).to_owned(),
        subresource,
        name,
    })
}

/// The verb where all of a kind are meant, and the one that is picked of them by its name.
fn collection(verb: Verb, location: &Location) -> (Verb, Option<String>) {
    match verb {
        Verb::Get | Verb::Watch => {
            let watches = verb == Verb::Watch || is_set(first(location, "watch"));
            let picked = first(location, "fieldSelector").and_then(exact_name);
            (if watches { Verb::Watch } else { Verb::List }, picked)
        }
        Verb::Delete => (Verb::DeleteCollection, None),
        other => (other, None),
    }
}

/// The name that a field selector asks for: `metadata.name=web`, perhaps with more behind commas.
fn exact_name(selector: &str) -> Option<String> {
    let terms = selector.split(',').filter(|term| !term.contains("!="));
    let mut names = terms.filter_map(|term| {
        let (field, value) = term.split_once('=')?;
        (field == "metadata.name").then(|| value.strip_prefix('=').unwrap_or(value))
    });
    let name = names.next()?;
    // Nothing that is escaped, and nothing that no name can be.
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte));
    (is_name && names.next().is_none()).then(|| name.to_owned())
}

/// The first value of a parameter: the one that counts. That there are no others, whoever asks sees to.
pub(super) fn first<'a>(location: &'a Location, name: &str) -> Option<&'a str> {
    all(location, name).next()
}

/// Every value of a parameter.
pub(super) fn all<'a>(location: &'a Location, name: &str) -> impl Iterator<Item = &'a str> {
    location.query.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.as_str())
}

/// As servers read what may be true: whatever is there, but for these.
pub(super) fn is_set(value: Option<&str>) -> bool {
    value.is_some_and(|value| !value.eq_ignore_ascii_case("false") && value != "0")
}

impl Request {
    /// Whether it is for all of a kind, in every namespace that there is.
    pub(super) fn spans_namespaces(&self) -> bool {
        matches!(self.verb, Verb::List | Verb::Watch | Verb::DeleteCollection)
            && self.namespace.is_empty()
            && !is_of_cluster(&self.group, &self.resource)
    }

    /// Whether it is for that subresource of pods.
    pub(super) fn is_pods(&self, subresource: &str) -> bool {
        self.group == CORE && self.resource == "pods" && self.subresource.as_deref() == Some(subresource)
    }
}

/// Kinds that lie in no namespace, in this group. Of others, nobody knows.
fn is_of_cluster(group: &str, resource: &str) -> bool {
    let known: &[&str] = match group {
        CORE => &["nodes", "namespaces", "persistentvolumes", "componentstatuses"],
        "rbac.authorization.k8s.io" => &["clusterroles", "clusterrolebindings"],
        "storage.k8s.io" => &["storageclasses", "volumeattachments", "csidrivers", "csinodes"],
        "apiextensions.k8s.io" => &["customresourcedefinitions"],
        "apiregistration.k8s.io" => &["apiservices"],
        "scheduling.k8s.io" => &["priorityclasses"],
        "node.k8s.io" => &["runtimeclasses"],
        "networking.k8s.io" => &["ingressclasses"],
        "certificates.k8s.io" => &["certificatesigningrequests"],
        "policy" => &["podsecuritypolicies"],
        "flowcontrol.apiserver.k8s.io" => &["flowschemas", "prioritylevelconfigurations"],
        "admissionregistration.k8s.io" => &[
            "mutatingwebhookconfigurations",
            "validatingwebhookconfigurations",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
        ],
        _ => &[],
    };
    known.contains(&resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, target: &str) -> Named {
        named(method, &Location::read(target).unwrap())
    }

    fn shown(method: &str, target: &str) -> String {
        match read(method, target) {
            Named::Resource(it) => {
                let sub = it.subresource.as_ref().map(|sub| format!("/{sub}")).unwrap_or_default();
                let name = it.name.clone().unwrap_or_default();
                let spans = if it.spans_namespaces() { " in all" } else { "" };
                let spans = if it.doubt.is_some() { " in doubt" } else { spans };
                format!(
                    "{:?} {}:{} [{}] {}{sub} {name}{spans}",
                    it.verb, it.group, it.version, it.namespace, it.resource
                )
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn requests_are_read_as_api_servers_read_them() {
        for (method, target, expected) in [
            ("GET", "/api/v1/namespaces/shop/pods/web-1", "Get core:v1 [shop] pods web-1"),
            ("HEAD", "/api/v1/namespaces/shop/pods/web-1/", "Get core:v1 [shop] pods web-1"),
            ("GET", "/api/v1/namespaces/shop/pods", "List core:v1 [shop] pods "),
            ("GET", "/api/v1/namespaces/shop/pods?watch=1", "Watch core:v1 [shop] pods "),
            ("GET", "/api/v1/namespaces/shop/pods?watch=", "Watch core:v1 [shop] pods "),
            ("GET", "/api/v1/namespaces/shop/pods?watch=False", "List core:v1 [shop] pods "),
            ("GET", "/api/v1/namespaces/shop/pods?watch=0", "List core:v1 [shop] pods "),
            ("GET", "/api/v1/watch/namespaces/shop/pods/web", "Watch core:v1 [shop] pods web"),
            ("GET", "/api/v1/watch/pods", "Watch core:v1 [] pods  in all"),
            ("GET", "/api/v1/pods?limit=500", "List core:v1 [] pods  in all"),
            ("GET", "/apis/example.org/v1/widgets", "List example.org:v1 [] widgets  in all"),
            ("GET", "/api/v1/nodes", "List core:v1 [] nodes "),
            ("GET", "/api/v1/namespaces", "List core:v1 [] namespaces "),
            ("GET", "/api/v1/namespaces/shop", "Get core:v1 [shop] namespaces shop"),
            ("PUT", "/api/v1/namespaces/shop/finalize", "Update core:v1 [shop] namespaces/finalize shop"),
            ("POST", "/api/v1/namespaces/shop/status", "Create core:v1 [shop] namespaces/status shop"),
            ("DELETE", "/apis/apps/v1/namespaces/shop/deployments/web", "Delete apps:v1 [shop] deployments web"),
            ("DELETE", "/apis/apps/v1/namespaces/shop/deployments", "DeleteCollection apps:v1 [shop] deployments "),
            ("DELETE", "/apis/apps/v1/deployments", "DeleteCollection apps:v1 [] deployments  in all"),
            ("PATCH", "/apis/apps/v1/namespaces/s/deployments/web/scale", "Patch apps:v1 [s] deployments/scale web"),
            ("POST", "/api/v1/namespaces/s/pods/web/exec?command=sh", "Create core:v1 [s] pods/exec web"),
            ("GET", "/api/v1/namespaces/s/services/web:80/proxy/a/b", "Get core:v1 [s] services/proxy web:80"),
            ("GET", "/api/v1/proxy/namespaces/s/services/web/a/b", "Proxy core:v1 [s] services web"),
            ("GET", "/api/v1/nodes/n1/proxy/exec/s/p/c", "Get core:v1 [] nodes/proxy n1"),
            ("OPTIONS", "/api/v1/nodes/n1", "Unknown core:v1 [] nodes n1"),
            ("GET", "/api/v1/secrets?fieldSelector=metadata.name%3Ddb", "List core:v1 [] secrets db in all"),
            (
                "GET",
                "/api/v1/namespaces/s/secrets?watch=1&fieldSelector=type=x,metadata.name==db",
                "Watch core:v1 [s] secrets db",
            ),
            ("GET", "/api/v1/namespaces/s/secrets?fieldSelector=metadata.name!=db", "List core:v1 [s] secrets "),
            (
                "GET",
                "/api/v1/namespaces/s/secrets?fieldSelector=metadata.name=a,metadata.name=b",
                "List core:v1 [s] secrets ",
            ),
            ("GET", "/api", "Discovery"),
            ("GET", "/api/v1", "Discovery"),
            ("GET", "/apis/apps/v1/", "Discovery"),
            ("GET", "/openapi/v3/apis/apps/v1?hash=1", "Discovery"),
            ("GET", "/version", "Discovery"),
            ("GET", "/", "Discovery"),
            ("POST", "/api/v1", "Path"),
            ("GET", "/metrics", "Path"),
            ("GET", "/API/v1/namespaces/shop/pods", "Path"),
            ("GET", "/logs/audit.log", "Path"),
            ("GET", "/api/v1/namespaces/s/pods/web/log/more", "Get core:v1 [s] pods/log web in doubt"),
            ("GET", "/apis/core/v1/namespaces/s/secrets/x", "Get core:v1 [s] secrets x in doubt"),
            ("GET", "/api/v1/pods?watch=0&watch=1", "List core:v1 [] pods  in all"),
        ] {
            assert_eq!(shown(method, target), expected, "{method} {target}");
        }
    }
}
