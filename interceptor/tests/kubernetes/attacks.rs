//! Ways round what is masked and forbidden, by whoever writes requests of their own.

use super::masked::HIDDEN;
use super::scene::Scene;
use super::ways::{bounded, kubectl_with, run};

const SECRET: &str = "/api/v1/namespaces/default/secrets/db";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

/// Each reads a secret that the agent may read masked, in a way of its own: arguments of curl, and a path.
const READS: &[(&[&str], &str)] = &[
    (&["--http1.1"], SECRET),
    (&["--http2"], SECRET),
    (&["--compressed"], SECRETS),
    (&[], "/api/v1/namespaces/default/secrets/db?pretty=true"),
    (&[], "/api/v1/namespaces/default/secrets/?fieldSelector=metadata.name%3Ddb"),
    (&[], "/api/v1/namespaces/default/%73ecrets/db"),
    (&[], "/api/v1/watch/namespaces/default/secrets?timeoutSeconds=1"),
    (&[], "/api/v1/watch/namespaces/default/secrets/db?timeoutSeconds=1"),
    (&[], "/api/v1/namespaces/default/secrets?watch=true&timeoutSeconds=1"),
    (&[], "/api/v1/namespaces/default/secrets?watch=1&timeoutSeconds=1&allowWatchBookmarks=true"),
    (&["-H", "Accept: application/json;as=Table;g=meta.k8s.io;v=v1"], SECRETS),
    (
        &["-H", "Accept: application/json;as=Table;g=meta.k8s.io;v=v1"],
        "/api/v1/namespaces/default/secrets?includeObject=Object",
    ),
    (&["-H", "Accept: application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"], SECRET),
    (&["-H", "Accept: application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"], SECRETS),
    (&["-H", "Accept: application/vnd.kubernetes.protobuf"], SECRET),
    (&["-H", "Accept: application/vnd.kubernetes.protobuf, application/json;q=0.1"], SECRETS),
    (
        &["-H", "Accept: application/vnd.kubernetes.protobuf;stream=watch"],
        "/api/v1/namespaces/default/secrets?watch=1&timeoutSeconds=1",
    ),
    (&["-H", "Accept: application/yaml"], SECRET),
    (&["-H", "Accept: text/html"], SECRET),
    (&["-H", "Accept;"], SECRET),
    (&["-H", "Accept-Encoding: gzip"], SECRETS),
    (&["-H", "Range: bytes=10-"], SECRET),
    (&["-H", "User-Agent: curl"], SECRET),
    (
        &["-X", "PATCH", "-H", "Content-Type: application/merge-patch+json", "-d", "{}"],
        "/api/v1/namespaces/default/secrets/db?dryRun=All",
    ),
    (
        &[
            "-X",
            "PATCH",
            "-H",
            "Content-Type: application/strategic-merge-patch+json",
            "-d",
            "{\"metadata\":{\"labels\":{\"a\":\"b\"}}}",
        ],
        "/api/v1/namespaces/default/secrets/db?dryRun=All",
    ),
    (&["-X", "DELETE"], "/api/v1/namespaces/default/secrets/db?dryRun=All"),
    // Changes that fail: the cluster prints what they would have made of it.
    (&["-X", "PATCH", "-H", MERGE, "-d", "{\"data\":5}"], "/api/v1/namespaces/default/secrets/db?dryRun=All"),
    (&["-X", "PATCH", "-H", MERGE, "-d", "{\"data\":{\"z\":\"!\"}}"], SECRET),
    (&["-X", "PATCH", "-H", MERGE, "-d", "{\"immutable\":\"x\"}"], SECRET),
    (
        &[
            "-X",
            "PATCH",
            "-H",
            "Content-Type: application/json-patch+json",
            "-d",
            "[{\"op\":\"add\",\"path\":\"/data\",\"value\":7}]",
        ],
        SECRET,
    ),
    (&["-X", "PATCH", "-H", "Content-Type: application/strategic-merge-patch+json", "-d", "{\"data\":5}"], SECRET),
];

const MERGE: &str = "Content-Type: application/merge-patch+json";

const HIDES: &str = "/apis/apps/v1/namespaces/default/statefulsets/hides";
const STATUS: &str = "/apis/apps/v1/namespaces/default/statefulsets/hides/status";

/// The same of an object in which the configuration masks something.
const OWN: &[(&[&str], &str)] = &[
    (&[], HIDES),
    (&[], STATUS),
    (
        &["-X", "PATCH", "-H", MERGE, "-d", "{}"],
        "/apis/apps/v1/namespaces/default/statefulsets/hides/status?dryRun=All",
    ),
    (
        &["-X", "PATCH", "-H", MERGE, "-d", "{\"metadata\":{\"labels\":5}}"],
        "/apis/apps/v1/namespaces/default/statefulsets/hides?dryRun=All",
    ),
    (&["-X", "PATCH", "-H", MERGE, "-d", "{\"spec\":{\"template\":5}}"], STATUS),
    (&["-X", "PATCH", "-H", MERGE, "-d", "{\"spec\":{\"serviceName\":\"other\"}}"], HIDES),
    (&["-X", "PUT", "-H", "Content-Type: application/json", "-d", "{\"spec\":{}}"], STATUS),
];

/// Each would read what the agent may not read at all.
const FORBIDDEN: &[(&[&str], &str)] = &[
    (&[], "/api/v1/namespaces/kube-system/secrets/admin"),
    (&[], "/api/v1/namespaces/default/../kube-system/secrets/admin"),
    (&[], "/api/v1/namespaces/default/%2e%2e/kube-system/secrets/admin"),
    (&[], "/api/v1/namespaces/default/secrets/..%2f..%2fkube-system/secrets/admin"),
    (&[], "//api/v1/namespaces/kube-system/secrets/admin"),
    (&[], "/api/v1//namespaces/kube-system/secrets/admin"),
    (&[], "/api/v1/namespaces/kube-system%2fsecrets/admin"),
    (&[], "/api/v1/namespaces/kube%2Dsystem/secrets/admin"),
    (&[], "/api/v1/secrets"),
    (&[], "/api/v1/secrets?fieldSelector=metadata.namespace%3Dkube-system"),
    (&[], "/api/v1/watch/secrets?timeoutSeconds=1"),
    (&[], "/api/v1/watch/namespaces/kube-system/secrets?timeoutSeconds=1"),
    (&[], "/api/v1/namespaces/kube-system/secrets?watch=1&timeoutSeconds=1"),
    (&[], "/api/v1/namespaces/default/secrets?namespace=kube-system&watch=0&watch=1&timeoutSeconds=1"),
    (&["-H", "X-HTTP-Method-Override: GET"], "/api/v1/namespaces/kube-system/secrets/admin"),
    (&["-H", "X-Original-URL: /api/v1/namespaces/kube-system/secrets/admin"], SECRET),
    (&["-H", "Impersonate-User: admin", "-H", "Impersonate-Group: system:masters"], "/api/v1/namespaces/default/pods"),
    (
        &["-H", "X-Remote-User: admin", "-H", "X-Remote-Group: system:masters"],
        "/api/v1/namespaces/kube-system/secrets/admin",
    ),
    (&[], "/api/v1/nodes/localhost/proxy/pods"),
    (&[], "/api/v1/namespaces/kube-system/services/https:api:443/proxy/"),
    (
        &["-X", "POST", "-H", "Content-Type: application/json", "-d", "{\"spec\":{}}"],
        "/api/v1/namespaces/kube-system/serviceaccounts/default/token",
    ),
    (&["-X", "DELETE"], "/api/v1/namespaces/default/configmaps/kept"),
    (&["-X", "DELETE"], "/api/v1/namespaces/default/configmaps/%6bept"),
];

pub(crate) fn nothing_hidden_is_told(scene: &Scene) {
    let admin = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: admin, namespace: kube-system}}\ndata: {{password: {}}}\n",
        HIDDEN[1]
    );
    scene.cluster.apply(&admin).unwrap();
    let hides = format!(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: hides}}\nspec:\n  serviceName: s\n  selector: {{matchLabels: {{a: b}}}}\n  \
         template:\n    metadata: {{labels: {{a: b}}}}\n    spec: {{containers: [{{name: c, image: i, env: [{{name: E, value: {}}}]}}]}}\n",
        HIDDEN[0]
    );
    scene.cluster.apply(&hides).unwrap();
    let before = scene.cluster.arrived().len();
    // Whatever a human says, so that it is masking that hides it.
    scene.approving(|| {
        for (arguments, path) in READS.iter().chain(OWN) {
            let told = curl(scene, arguments, path);
            assert!(told.starts_with("HTTP/"), "{arguments:?} {path}: {told}");
            assert!(!HIDDEN.iter().any(|hidden| told.contains(hidden)), "{arguments:?} {path}: {told}");
        }
        for (arguments, path) in OWN {
            let told = curl(scene, arguments, path);
            assert!(told.contains("[masked:own]"), "{arguments:?} {path}: {told}");
        }
        what_is_written_does_not_come_back(scene);
    });
    let told = curl(scene, &["--http2"], SECRET);
    assert!(told.starts_with("HTTP/2 200") && told.contains("W21hc2tlZDpzZWNyZXRd"), "{told}");
    for (arguments, path) in FORBIDDEN {
        let told = curl(scene, arguments, path);
        let first = told.lines().next().unwrap_or_default();
        // What cannot be known waits for a human.
        let refused =
            ["400", "403", "404", "405"].iter().any(|code| first.contains(code)) || told.contains("timed out");
        assert!(refused, "{arguments:?} {path}: {told}");
        assert!(!HIDDEN.iter().any(|hidden| told.contains(hidden)), "{arguments:?} {path}: {told}");
    }
    let arrived = scene.cluster.arrived();
    let new = arrived.get(before..).unwrap();
    let beyond = |line: &&String| {
        ["kube-system", "secrets /", "nodes", "proxy", "token", "delete configmaps"]
            .iter()
            .any(|word| line.contains(word))
    };
    assert_eq!(new.iter().find(beyond), None, "{new:#?}");
}

/// Answers to writes hold the whole object, also what was there before.
fn what_is_written_does_not_come_back(scene: &Scene) {
    let labelled = "apiVersion: v1\nkind: Secret\nmetadata: {name: db, labels: {by: agent}}\n";
    for (arguments, input) in [
        (&["label", "secret", "db", "x=y", "--dry-run=server", "-o", "yaml"][..], ""),
        (&["annotate", "secret", "db", "x=y", "--dry-run=server", "-o", "json"], ""),
        (&["patch", "secret", "db", "--dry-run=server", "-o", "yaml", "-p", "{}"], ""),
        (&["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-o", "yaml", "-f", "-"], labelled),
        (&["apply", "view-last-applied", "secret", "db"], ""),
        (&["get", "secret", "db", "-o", "yaml", "--show-managed-fields"], ""),
    ] {
        let (_, told) = kubectl_with(scene, "kubectl-new", arguments, input);
        assert!(!told.is_empty(), "{arguments:?}");
        assert!(!HIDDEN.iter().any(|hidden| told.contains(hidden)), "{arguments:?}: {told}");
    }
}

fn curl(scene: &Scene, arguments: &[&str], path: &str) -> String {
    let mut curl = bounded("curl");
    curl.args(["-sS", "-i", "--path-as-is", "--max-time", "4", "--cacert"]).arg(scene.authority());
    curl.args(arguments).arg(format!("{}{path}", scene.url()));
    run(scene, curl, "").1
}
