//! What stands in the body of a request: an object, or what a patch puts into one.
//!
//! Names of fields are looked for wherever they stand, so that no kind of object has to be known, and without regard to case.
//! That finds too much rather than too little.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

use super::action::BREAKING;
use crate::policy::KubernetesFacts;

/// How a patch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patch {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl Patch {
    /// The one of that media type.
    pub(super) fn of(media: &str) -> Option<Self> {
        match media {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Merge => "merge",
            Self::Strategic => "strategic",
            Self::Apply => "apply",
        }
    }
}

/// What was found beside the facts.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// It sets `spec.replicas`, or takes it away.
    pub(super) scales: bool,
    /// It asks what stands in the object: by a test, or by a copy of it.
    pub(super) asks: bool,
    /// What nobody knows before it is applied.
    pub(super) opaque: Option<String>,
    /// `metadata.name`.
    pub(super) name: Option<String>,
    /// Of a Secret: it is, or becomes, one by which a cluster lets somebody in.
    pub(super) lets_in: bool,
    /// `dryRun`, as it stands in the body.
    pub(super) dry_run: bool,
}

/// Capabilities that a container may have without being able to leave it (the baseline of the Pod Security Standards).
const HARMLESS: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Types of SELinux that a container may have likewise.
const HARMLESS_TYPES: &[&str] = &["container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

/// Types of Secrets that a cluster fills with a token, or takes for one.
const TOKENS: &[&str] = &["kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"];

/// Verbs of a role by which whoever has it makes himself master of what it is about, or of the cluster.
const MASTERS: &[&str] = &["*", "escalate", "bind", "impersonate"];

/// Tells what a body says.
pub(super) fn read(body: &Value, patch: Option<Patch>, facts: &mut KubernetesFacts) -> Found {
    let mut found = Found { lets_in: lets_in(body), ..Found::default() };
    if patch == Some(Patch::Json) {
        operations(body, facts, &mut found);
        facts.privileged = !facts.privileges.is_empty();
        look_for_harm(body, &mut found);
        return found;
    }
    let listed = field(body, "items").and_then(Value::as_array);
    for object in listed.into_iter().flatten().chain([body]) {
        root(object, facts, &mut found);
    }
    // What lets something pass is read as servers read it: with its case.
    found.name = body.get("metadata").and_then(|meta| meta.get("name")).and_then(text);
    let dry = body.get("dryRun").and_then(Value::as_array);
    found.dry_run = dry.is_some_and(|dry| dry.len() == 1 && dry.first().and_then(Value::as_str) == Some("All"));
    walk(body, facts);
    facts.privileged = !facts.privileges.is_empty();
    look_for_harm(body, &mut found);
    found
}

/// What Secrets are called by which nodes join.
pub(super) const JOINING: &str = "bootstrap-token-";

/// Whether it names an account whose token a cluster would put there, or a token by which nodes join. Of changes, the type need not stand
/// there.
fn lets_in(value: &Value) -> bool {
    const ACCOUNT: &str = "kubernetes.io/service-account.";
    match value {
        Value::Array(items) => items.iter().any(lets_in),
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            let name = name.to_ascii_lowercase();
            let said = value.as_str().unwrap_or_default();
            let is_joining = matches!(name.as_str(), "name" | "generatename" | "value") && said.starts_with(JOINING);
            // A step of a path of a JSON patch.
            let is_path = name == "path" && said.to_ascii_lowercase().replace("~1", "/").contains(ACCOUNT);
            name.starts_with(ACCOUNT) || is_joining || is_path || lets_in(value)
        }),
        _ => false,
    }
}

/// What nobody wants, wherever it stands: masks that are written back in the place of what they hide, and what breaks a cluster.
fn look_for_harm(value: &Value, found: &mut Found) {
    match value {
        Value::String(text) if is_mask(text.as_bytes()) || BASE64.decode(text).is_ok_and(|plain| is_mask(&plain)) => {
            found.opaque = Some("it writes what was masked back in the place of what it hides".to_owned());
        }
        Value::Array(items) => items.iter().for_each(|item| look_for_harm(item, found)),
        Value::Object(fields) => {
            if fields.get(BREAKING).is_some_and(|value| value.as_bool() != Some(false)) {
                found.opaque = Some(format!("`{BREAKING}` breaks what the cluster keeps"));
            }
            fields.values().for_each(|value| look_for_harm(value, found));
        }
        _ => {}
    }
}

/// Whether that is what stands in the place of a masked value, of whichever transform.
fn is_mask(text: &[u8]) -> bool {
    let token =
        text.strip_prefix(b"tok_").is_some_and(|rest| rest.len() == 26 && rest.iter().all(u8::is_ascii_alphanumeric));
    token || text.starts_with(b"[masked") || text.starts_with(b"***")
}

/// What stands at the top of an object.
fn root(object: &Value, facts: &mut KubernetesFacts, found: &mut Found) {
    if let Some(Value::Object(labels)) = object.get("metadata").and_then(|meta| meta.get("labels")) {
        let shown = |(name, value): (&String, &Value)| format!("{name}={}", value.as_str().unwrap_or_default());
        facts.labels.extend(labels.iter().map(shown));
    }
    if field(object, "subjects").is_some() && field(object, "roleRef").is_none() {
        // Into whatever binding that is: the one to `cluster-admin`, perhaps.
        facts.privileges.insert("subjects".to_owned());
    }
    // What takes the place of all takes that of the replicas as well.
    found.scales |= field(object, "$patch").is_some() || field(object, "$retainKeys").is_some();
    let Some(spec) = field(object, "spec") else { return };
    let Value::Object(fields) = spec else {
        found.scales |= spec.is_null();
        return;
    };
    found.scales |= field(spec, "$patch").is_some();
    found.scales |= field(spec, "replicas").is_some();
    match spec.get("replicas") {
        None | Some(Value::Null) => {}
        Some(replicas) => match whole(replicas) {
            Some(count) => facts.replicas = Some(count),
            None => found.opaque = Some("its replicas are no whole number".to_owned()),
        },
    }
    // `$retainKeys` names what stays, and so what goes.
    found.scales |= fields.contains_key("$retainKeys");
}

/// A number as servers read it that want a whole one: some take `5e2` for one.
fn whole(value: &Value) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "it is whole, and small enough to be exact")]
    let exact = |number: f64| (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(exact))
}

/// The operations of a JSON patch (RFC 6902).
fn operations(body: &Value, facts: &mut KubernetesFacts, found: &mut Found) {
    let Value::Array(operations) = body else {
        found.opaque = Some("its JSON patch is no list of operations".to_owned());
        return;
    };
    for operation in operations {
        let said = |name: &str| operation.get(name).and_then(Value::as_str);
        let (Some(op), Some(path)) = (said("op"), said("path")) else {
            found.opaque = Some("an operation of its JSON patch has no `op`, or no `path`".to_owned());
            return;
        };
        let steps: Vec<String> =
            path.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
        if steps.len() > STEPS_LIMIT || steps.iter().any(|step| is_odd(step)) {
            found.opaque = Some("its JSON patch leads to a place that servers read in ways of their own".to_owned());
            return;
        }
        let leads = |to: &[&str]| steps.iter().zip(to).all(|(step, to)| step.eq_ignore_ascii_case(to));
        found.asks |= matches!(op, "test" | "copy" | "move");
        if op == "test" {
            continue;
        }
        found.scales |= leads(&["spec", "replicas"]) && steps.len() <= 2;
        match (op, operation.get("value")) {
            ("add" | "replace", Some(value)) => {
                let whole = wrapped(&steps, value);
                root(&whole, facts, found);
                walk(&whole, facts);
            }
            ("remove", _) => {}
            ("copy" | "move", _) => {
                found.opaque = Some("its JSON patch copies what stands in the object".to_owned());
            }
            _ => found.opaque = Some(format!("its JSON patch has an operation `{op:.40}`")),
        }
    }
}

/// The longest path of an operation.
const STEPS_LIMIT: usize = 64;

/// A step that some readers take for a place in a list, counted from its end or with a sign, or for no step at all.
fn is_odd(step: &str) -> bool {
    let digits = step.strip_prefix(['+', '-']);
    step.is_empty()
        || digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A value with all that it stands in.
fn wrapped(steps: &[String], value: &Value) -> Value {
    let mut whole = value.clone();
    for (at, step) in steps.iter().enumerate().rev() {
        let is_place = step == "-" || step.bytes().all(|byte| byte.is_ascii_digit());
        // There is no list of labels.
        let is_place = is_place && at.checked_sub(1).and_then(|at| steps.get(at)).is_none_or(|of| of != "labels");
        whole =
            if is_place { Value::Array(vec![whole]) } else { Value::Object(Map::from_iter([(step.clone(), whole)])) };
    }
    whole
}

/// Everything that stands anywhere. What is read is nested no deeper than its reader lets it be.
fn walk(value: &Value, facts: &mut KubernetesFacts) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, facts)),
        Value::Object(fields) => {
            for (name, value) in fields {
                look(&name.to_ascii_lowercase(), value, facts);
                walk(value, facts);
            }
        }
        _ => {}
    }
}

/// One field, by its name in lower case.
fn look(name: &str, value: &Value, facts: &mut KubernetesFacts) {
    let named = |value: &Value| field(value, "name").and_then(text);
    facts.makes_token |= name == "type" && value.as_str().is_some_and(|kind| TOKENS.contains(&kind));
    match name {
        "image" | "reference" => facts.images.extend(text(value)),
        "serviceaccountname" | "serviceaccount" => facts.service_accounts.extend(text(value)),
        "secretname" => facts.secrets.extend(text(value)),
        "secret" | "secretkeyref" => facts.secrets.extend(named(value)),
        reference if reference.ends_with("secretref") => facts.secrets.extend(named(value)),
        "imagepullsecrets" | "secrets" => {
            facts.secrets.extend(value.as_array().into_iter().flatten().filter_map(named))
        }
        _ => facts.privileges.extend(privilege(name, value)),
    }
    if name == "capabilities" {
        let added = field(value, "add").and_then(Value::as_array).into_iter().flatten().filter_map(text);
        let added = added.map(|name| name.to_ascii_uppercase());
        let added = added.filter(|name| !HARMLESS.contains(&name.strip_prefix("CAP_").unwrap_or(name)));
        facts.privileges.extend(added.map(|name| format!("capability={name}")));
    }
    if name == "rules" {
        let verbs = value.as_array().into_iter().flatten().filter_map(|rule| field(rule, "verbs")?.as_array());
        let verbs = verbs.flatten().filter_map(Value::as_str).filter(|verb| MASTERS.contains(verb));
        facts.privileges.extend(verbs.map(|verb| format!("rule={verb}")));
    }
    if name == "sysctls" {
        let names = value.as_array().into_iter().flatten().filter_map(named);
        facts.privileges.extend(names.map(|name| format!("sysctl={name}")));
    }
}

/// What a field asks for that leads out of a container, or makes somebody master of the cluster.
fn privilege(name: &str, value: &Value) -> Option<String> {
    let is_true = value.as_bool() == Some(true);
    let inner = |name: &str| field(value, name).and_then(text);
    let is_not = |text: &String, other: &str| !text.eq_ignore_ascii_case(other);
    match name {
        "privileged" if is_true => Some("privileged".to_owned()),
        "hostnetwork" if is_true => Some("hostNetwork".to_owned()),
        "hostpid" if is_true => Some("hostPID".to_owned()),
        "hostipc" if is_true => Some("hostIPC".to_owned()),
        "hostprocess" if is_true => Some("hostProcess".to_owned()),
        "hostpath" if !value.is_null() => Some(format!("hostPath={}", inner("path").unwrap_or_default())),
        "hostport" if value.as_i64() != Some(0) && !value.is_null() => Some(format!("hostPort={value}")),
        "local" => inner("path").map(|path| format!("local={path}")),
        "flexvolume" if !value.is_null() => Some(format!("flexVolume={}", inner("driver").unwrap_or_default())),
        "selinuxoptions" => {
            let harmless = |kind: &String| HARMLESS_TYPES.contains(&kind.as_str());
            let kind = inner("type").filter(|kind| !harmless(kind));
            kind.or_else(|| inner("user")).or_else(|| inner("role")).map(|what| format!("seLinux={what}"))
        }
        "aggregationrule" if !value.is_null() => Some("aggregationRule".to_owned()),
        "procmount" => text(value).filter(|kind| is_not(kind, "Default")).map(|kind| format!("procMount={kind}")),
        "seccompprofile" | "apparmorprofile" => {
            inner("type").filter(|kind| kind.eq_ignore_ascii_case("Unconfined")).map(|_| format!("{name}=Unconfined"))
        }
        "roleref" => inner("name").filter(|role| role == "cluster-admin").map(|role| format!("role={role}")),
        annotation if annotation.contains("apparmor") || annotation.contains("seccomp") => text(value)
            .filter(|kind| kind.eq_ignore_ascii_case("unconfined"))
            .map(|_| format!("{annotation}=unconfined")),
        _ => None,
    }
}

/// A field, whatever its case.
fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let fields = value.as_object()?;
    fields
        .get(name)
        .or_else(|| fields.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts(body: &Value, patch: Option<Patch>) -> (KubernetesFacts, Found) {
        let mut facts = KubernetesFacts::default();
        let found = read(body, patch, &mut facts);
        (facts, found)
    }

    fn privileges(body: Value) -> Vec<String> {
        let (facts, _) = facts(&body, None);
        assert_eq!(facts.privileged, !facts.privileges.is_empty());
        facts.privileges.into_iter().collect()
    }

    fn pod(spec: Value) -> Value {
        json!({"kind": "Deployment", "spec": {"template": {"spec": spec}}})
    }

    #[test]
    fn an_object_tells_what_it_would_run_and_as_whom() {
        let (facts, found) = facts(
            &json!({
                "metadata": {"name": "web", "labels": {"app": "web", "tier": "front"}},
                "spec": {"replicas": 3, "template": {"spec": {
                    "serviceAccountName": "robot",
                    "imagePullSecrets": [{"name": "pull"}],
                    "initContainers": [{"image": "busybox:1"}],
                    "containers": [{"image": "nginx:1", "env": [{"valueFrom": {"secretKeyRef": {"name": "db", "key": "p"}}}]}],
                    "volumes": [{"secret": {"secretName": "tls"}}, {"image": {"reference": "data:1"}},
                                {"projected": {"sources": [{"secret": {"name": "more"}}]}}],
                }}},
            }),
            None,
        );
        assert_eq!(facts.labels.iter().collect::<Vec<_>>(), ["app=web", "tier=front"]);
        assert_eq!((facts.replicas, found.scales, found.name.as_deref()), (Some(3), true, Some("web")));
        assert_eq!(facts.images.iter().collect::<Vec<_>>(), ["busybox:1", "data:1", "nginx:1"]);
        assert_eq!(facts.secrets.iter().collect::<Vec<_>>(), ["db", "more", "pull", "tls"]);
        assert_eq!(facts.service_accounts.iter().collect::<Vec<_>>(), ["robot"]);
        assert!(!facts.privileged);
    }

    #[test]
    fn what_leads_out_of_a_container_is_told() {
        for (spec, expected) in [
            (json!({"containers": [{"securityContext": {"privileged": true}}]}), "privileged"),
            (json!({"containers": [{"securityContext": {"Privileged": true}}]}), "privileged"),
            (json!({"ephemeralContainers": [{"securityContext": {"privileged": true}}]}), "privileged"),
            (json!({"hostNetwork": true}), "hostNetwork"),
            (json!({"hostPID": true}), "hostPID"),
            (json!({"hostIPC": true}), "hostIPC"),
            (json!({"volumes": [{"hostPath": {"path": "/"}}]}), "hostPath=/"),
            (json!({"containers": [{"ports": [{"hostPort": 80}]}]}), "hostPort=80"),
            (
                json!({"containers": [{"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]}),
                "capability=SYS_ADMIN",
            ),
            (
                json!({"containers": [{"securityContext": {"capabilities": {"add": ["cap_bpf"]}}}]}),
                "capability=CAP_BPF",
            ),
            (json!({"containers": [{"securityContext": {"capabilities": {"add": ["ALL"]}}}]}), "capability=ALL"),
            (json!({"containers": [{"securityContext": {"procMount": "Unmasked"}}]}), "procMount=Unmasked"),
            (json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}), "seccompprofile=Unconfined"),
            (json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}}), "sysctl=kernel.msgmax"),
            (json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}), "hostProcess"),
            (json!({"securityContext": {"seLinuxOptions": {"type": "spc_t"}}}), "seLinux=spc_t"),
            (json!({"securityContext": {"seLinuxOptions": {"type": "unconfined_t"}}}), "seLinux=unconfined_t"),
            (json!({"securityContext": {"seLinuxOptions": {"type": "container_t", "user": "root"}}}), "seLinux=root"),
            (json!({"volumes": [{"flexVolume": {"driver": "x/y"}}]}), "flexVolume=x/y"),
        ] {
            assert_eq!(privileges(pod(spec.clone())), [expected], "{spec}");
        }
        let role = json!({"kind": "ClusterRole", "rules": [{"verbs": ["get", "escalate"]}]});
        assert_eq!(privileges(role), ["rule=escalate"]);
        assert_eq!(
            privileges(json!({"kind": "PersistentVolume", "spec": {"local": {"path": "/etc"}}})),
            ["local=/etc"]
        );
        let binding =
            json!({"kind": "ClusterRoleBinding", "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"}});
        assert_eq!(privileges(binding), ["role=cluster-admin"]);
        let members = json!({"subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "shop"}]});
        assert_eq!(privileges(members), ["subjects"]);
        let harmless = json!({"containers": [{"securityContext": {"privileged": false, "capabilities": {"add": ["CHOWN"], "drop": ["ALL"]}}}]});
        assert!(privileges(pod(harmless)).is_empty());
    }

    #[test]
    fn a_secret_that_is_filled_with_a_token_is_told() {
        for (kind, is) in
            [("kubernetes.io/service-account-token", true), ("bootstrap.kubernetes.io/token", true), ("Opaque", false)]
        {
            assert_eq!(facts(&json!({"kind": "Secret", "type": kind}), None).0.makes_token, is, "{kind}");
            assert_eq!(facts(&json!({"items": [{"Type": kind}]}), None).0.makes_token, is, "{kind}");
            let patch = json!([{"op": "replace", "path": "/type", "value": kind}]);
            assert_eq!(facts(&patch, Some(Patch::Json)).0.makes_token, is, "{kind}");
        }
    }

    #[test]
    fn patches_tell_what_they_put_in() {
        let put = json!([
            {"op": "add", "path": "/spec/template/spec/containers/-", "value": {"image": "evil", "securityContext": {"privileged": true}}},
            {"op": "replace", "path": "/metadata/labels/a~1b", "value": "c"},
            {"op": "add", "path": "/spec/template/spec/hostNetwork", "value": true},
        ]);
        let (facts_, found) = facts(&put, Some(Patch::Json));
        assert_eq!(facts_.privileges.iter().collect::<Vec<_>>(), ["hostNetwork", "privileged"]);
        assert!(facts_.images.contains("evil") && facts_.labels.contains("a/b=c") && facts_.privileged);
        assert!(!found.scales && !found.asks && found.opaque.is_none());
        for (patch, kind) in [
            (json!([{"op": "replace", "path": "/spec/replicas", "value": 0}]), Patch::Json),
            (json!([{"op": "remove", "path": "/spec/replicas"}]), Patch::Json),
            (json!([{"op": "replace", "path": "/spec", "value": {}}]), Patch::Json),
            (json!([{"op": "replace", "path": "", "value": {}}]), Patch::Json),
            (json!({"spec": {"replicas": 0}}), Patch::Merge),
            (json!({"spec": {"replicas": null}}), Patch::Merge),
            (json!({"spec": null}), Patch::Merge),
            (json!({"spec": {"Replicas": 0}}), Patch::Merge),
            (json!({"spec": {"$patch": "replace"}}), Patch::Strategic),
            (json!({"$patch": "replace", "metadata": {}}), Patch::Strategic),
            (json!({"spec": {"$retainKeys": ["template"]}}), Patch::Strategic),
            (json!({"spec": {"replicas": 5}}), Patch::Apply),
        ] {
            assert!(facts(&patch, Some(kind)).1.scales, "{patch}");
        }
        assert!(!facts(&json!({"spec": {"paused": true}}), Some(Patch::Merge)).1.scales);
    }

    #[test]
    fn places_that_servers_count_in_ways_of_their_own_are_opaque() {
        for step in ["+0", "-1", "+12", ""] {
            for path in [
                format!("/spec/template/spec/containers/0/securityContext/capabilities/add/{step}"),
                format!("/rules/{step}/verbs/0"),
                format!("/spec/{step}/replicas"),
            ] {
                let patch = json!([{"op": "add", "path": path, "value": "SYS_ADMIN"}]);
                assert!(facts(&patch, Some(Patch::Json)).1.opaque.is_some(), "{path}");
            }
        }
        let deep = format!("/a{}", "/b".repeat(STEPS_LIMIT));
        let patch = json!([{"op": "add", "path": deep, "value": {"privileged": true}}]);
        assert!(facts(&patch, Some(Patch::Json)).1.opaque.is_some());
        for path in ["/metadata/labels/-x", "/metadata/labels/a~1+b", "/spec/template/spec/containers/-"] {
            let patch = json!([{"op": "add", "path": path, "value": "x"}]);
            assert!(facts(&patch, Some(Patch::Json)).1.opaque.is_none(), "{path}");
        }
        let label = json!([{"op": "add", "path": "/metadata/labels/1", "value": "x"}]);
        assert!(facts(&label, Some(Patch::Json)).0.labels.contains("1=x"));
        let subjects = json!([{"op": "add", "path": "/subjects/-", "value": {"kind": "User", "name": "mallory"}}]);
        assert!(facts(&subjects, Some(Patch::Json)).0.privileges.contains("subjects"));
    }

    #[test]
    fn replicas_are_what_servers_take_for_a_whole_number() {
        let replicas = |value: Value| {
            let (facts, found) = facts(&json!({"spec": {"replicas": value}}), Some(Patch::Strategic));
            assert!(found.scales);
            (facts.replicas, found.opaque.is_some())
        };
        assert_eq!(replicas(json!(3)), (Some(3), false));
        assert_eq!(replicas(json!(0.0)), (Some(0), false));
        assert_eq!(replicas(json!(5e2)), (Some(500), false));
        assert_eq!(replicas(json!(null)), (None, false));
        for odd in [json!(0.5), json!("0"), json!([0]), json!(1e300), json!(u64::MAX)] {
            assert_eq!(replicas(odd), (None, true));
        }
    }

    #[test]
    fn patches_that_ask_or_cannot_be_known_are_told() {
        assert!(facts(&json!([{"op": "test", "path": "/data/p", "value": "eA=="}]), Some(Patch::Json)).1.asks);
        for patch in [
            json!([{"op": "copy", "from": "/data/p", "path": "/metadata/labels/p"}]),
            json!([{"op": "move", "from": "/data/p", "path": "/metadata/labels/p"}]),
            json!([{"op": "merge", "path": "/"}]),
            json!([{"path": "/"}]),
            json!({"spec": {}}),
        ] {
            assert!(facts(&patch, Some(Patch::Json)).1.opaque.is_some(), "{patch}");
        }
    }

    #[test]
    fn what_lets_something_pass_is_read_with_its_case() {
        let body = json!({"metadata": {"Name": "a", "Labels": {"team": "a"}}, "spec": {"Replicas": 5}});
        let (facts, found) = facts(&body, None);
        assert_eq!((found.name, facts.replicas, found.scales), (None, None, true));
        assert!(facts.labels.is_empty());
    }

    #[test]
    fn masks_are_not_written_back() {
        let token = "tok_abcdefghijklmnopqrstuvwxyz";
        for text in ["[masked:secret]", "****abcd", token] {
            let body = json!({"stringData": {"p": text}, "data": {"p": BASE64.encode(text)}});
            assert!(facts(&body, Some(Patch::Merge)).1.opaque.is_some(), "{body}");
            let body = json!({"data": {"p": BASE64.encode(text)}});
            assert!(facts(&body, Some(Patch::Merge)).1.opaque.is_some(), "{body}");
        }
        assert!(facts(&json!({BREAKING: true}), None).1.opaque.is_some());
    }

    #[test]
    fn only_a_body_that_says_so_alone_is_tried_only() {
        assert!(facts(&json!({"kind": "DeleteOptions", "dryRun": ["All"]}), None).1.dry_run);
        for body in [
            json!({}),
            json!({"DryRun": ["All"]}),
            json!({"dryRun": []}),
            json!({"dryRun": ["all"]}),
            json!({"dryRun": "All"}),
        ] {
            assert!(!facts(&body, None).1.dry_run, "{body}");
        }
    }
}
