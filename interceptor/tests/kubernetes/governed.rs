//! What agents may do in a cluster, and what they see of it: requests and their answers.

use std::process::Command;

use interceptor::testing::cluster::said;
use serde_json::Value;

use super::attacks;
use super::clients;
use super::masked;
use super::scene::{LogIn, PLACEHOLDER, POLICIES, Scene};
use super::ways::{self, KUBECTLS, kubectl, kubectl_with};
use super::yaml;

/// An object without anything secret.
pub(crate) const KEPT: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept}\ndata: {colour: red}\n";

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "registry.corp.example/web:1"}]}
"#;

const PRIVILEGED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: escape}
spec: {nodeName: localhost, containers: [{name: c, image: x, securityContext: {privileged: true}}]}
"#;

/// One scene for all, as it takes seconds to set.
#[test]
fn agents_work_in_a_cluster_as_policy_has_it() {
    let scene = Scene::set(POLICIES, LogIn::Token, false);
    scene.cluster.apply(KEPT).unwrap();
    scene.cluster.apply(DEPLOYMENT).unwrap();
    for name in KUBECTLS {
        what_is_permitted_passes_with_our_credential(&scene, name);
        changes_are_held(&scene, name);
        denials_are_read_by_people(&scene, name);
        what_the_cluster_refuses_is_told(&scene, name);
    }
    masked::secrets_are_masked_for_every_client(&scene);
    attacks::nothing_hidden_is_told(&scene);
    yaml::objects_in_yaml_are_judged(&scene);
    clients::python_is_an_agent_as_well(&scene);
    clients::go_is_an_agent_as_well(&scene);
    recordings_hold_what_was_done_without_secrets(&scene);
}

fn what_is_permitted_passes_with_our_credential(scene: &Scene, name: &str) {
    scene.cluster.kubectl(&["delete", "configmap", "settings", "--ignore-not-found"]).unwrap();
    ways::objects_are_made_and_read(scene, name);
    ways::watches_go_on(scene, name, &scene.cluster);
    let arrived = scene.cluster.arrived();
    for wanted in ["create configmaps default/", "get configmaps default/settings", "watch configmaps default/"] {
        assert!(arrived.iter().any(|line| line.starts_with(wanted)), "{wanted}: {arrived:#?}");
    }
    // The agent's own credential is good for nothing, and never shown to the cluster.
    assert!(!scene.cluster.log("audit").contains("system:anonymous\"},\"verb\":\"create"));
    assert!(!scene.cluster.log("kube-apiserver").contains(PLACEHOLDER));
}

/// Starts a change, and lets it pass or not once it waits.
fn held(scene: &Scene, name: &str, arguments: &[&str], input: &str, words: &str, passes: bool) -> (i32, String) {
    std::thread::scope(|scope| {
        let change = scope.spawn(|| kubectl_with(scene, name, arguments, input));
        let request = if passes { scene.approve(words) } else { scene.refuse(words) };
        assert_eq!(request["approvers"][0], "cluster-oncall", "{request}");
        assert_eq!(request["target"], "kube", "{request}");
        change.join().unwrap()
    })
}

fn truth(scene: &Scene, arguments: &[&str]) -> String {
    said(&scene.cluster.kubectl(arguments).unwrap())
}

fn changes_are_held(scene: &Scene, name: &str) {
    // A patch, by apply.
    let (changed, path) = (KEPT.replace("red", name), "PATCH /api/v1/namespaces/default/configmaps/kept");
    let colour = ["get", "configmap", "kept", "--output=jsonpath={.data.colour}"];
    let before = truth(scene, &colour);
    let (code, told) = held(scene, name, &["apply", "-f", "-"], &changed, path, false);
    assert!(code == 1 && told.contains("not today") && told.contains("hold-cluster-change"), "{name}: {told}");
    assert_eq!(truth(scene, &colour), before);
    let (code, told) = held(scene, name, &["apply", "-f", "-"], &changed, path, true);
    assert!(code == 0 && told.contains("configmap/kept configured"), "{name}: {told}");
    assert_eq!(truth(scene, &colour), name);

    let replicas = if name == KUBECTLS[0] { "3" } else { "4" };
    let scale = ["scale", "deployment", "web", "--replicas", replicas];
    let (code, told) = held(scene, name, &scale, "", "deployments/web/scale", true);
    assert!(code == 0 && told.contains("scaled"), "{name}: {told}");
    assert_eq!(truth(scene, &["get", "deployment", "web", "--output=jsonpath={.spec.replicas}"]), replicas);

    let gone = format!("seen-by-{name}");
    let (code, told) = kubectl(scene, name, &["delete", "configmap", &gone, "--dry-run=server"]);
    assert!(code == 0 && told.contains("(server dry run)"), "{name}: {told}");
    let path = format!("DELETE /api/v1/namespaces/default/configmaps/{gone}");
    let (code, told) = held(scene, name, &["delete", "configmap", &gone], "", &path, true);
    assert!(code == 0 && told.contains("deleted"), "{name}: {told}");
    assert!(truth(scene, &["get", "configmap", &gone]).contains("NotFound"));
}

fn denials_are_read_by_people(scene: &Scene, name: &str) {
    let before = scene.cluster.arrived();
    let cases: [(&[&str], &str, &[&str]); 6] = [
        (
            &["delete", "configmap", "kept"],
            "",
            &["Error from server (Forbidden)", "others depend on it", "write to its owner"],
        ),
        (&["get", "pods", "--all-namespaces"], "", &["Error from server (Forbidden)", "k8s:all_namespaces"]),
        (&["get", "nodes"], "", &["Error from server (Forbidden)", "nodes"]),
        (&["get", "secrets", "--namespace", "kube-system"], "", &["Error from server (Forbidden)", "kube-system"]),
        (&["get", "pods", "--as", "admin"], "", &["Error from server (Forbidden)", "rule: admin-impersonates"]),
        (&["create", "-f", "-"], PRIVILEGED, &["(Forbidden)", "rule: no-privileged-pods"]),
    ];
    for (arguments, input, wanted) in cases {
        let (code, told) = kubectl_with(scene, name, arguments, input);
        assert_eq!(code, 1, "{name} {arguments:?}: {told}");
        for words in wanted {
            assert!(told.contains(words), "{name} {arguments:?}: {words}: {told}");
        }
    }
    let after = scene.cluster.arrived();
    let new: Vec<_> = after.get(before.len()..).unwrap().iter().collect();
    let harmless = |line: &&&String| line.starts_with("get /") || line.as_str() == "get configmaps default/kept";
    assert!(new.iter().all(|line| harmless(&line)), "{name}: {new:#?}");
}

/// Its own rules hold behind ours, and its words pass.
fn what_the_cluster_refuses_is_told(scene: &Scene, name: &str) {
    let (code, told) = kubectl(scene, name, &["get", "ingresses"]);
    assert_eq!(code, 1, "{name}: {told}");
    assert!(told.contains("Error from server (Forbidden)") && told.contains("User \"interceptor\""), "{name}: {told}");
}

fn recordings_hold_what_was_done_without_secrets(scene: &Scene) {
    let events = scene.recorded();
    for absent in [scene.cluster.secrets().token(), PLACEHOLDER].into_iter().chain(masked::HIDDEN) {
        assert!(!events.contains(absent), "{absent} is on record");
    }
    for present in
        ["k8s:delete", "k8s:scale", "kube/default/core/configmaps/kept", "looked at it", "no-privileged-pods"]
    {
        assert!(events.contains(present), "{present} is not on record");
    }
    scene.operate(&["recordings", "verify"]);
    let listed: Value = serde_json::from_str(&scene.operate(&["--json", "recordings", "list"])).unwrap();
    let sessions = listed.as_array().unwrap().iter().filter(|one| one["target"] == "kube");
    let replays: Vec<String> = sessions
        .filter_map(|one| one["id"].as_str())
        .map(|id| scene.operate(&["recordings", "replay", id, "--no-wait"]))
        .collect();
    let one = |words: &[&str]| replays.iter().any(|text| words.iter().all(|word| text.contains(word)));
    assert!(one(&["PATCH /api/v1/namespaces/default/configmaps/kept", "colour"]), "no replay shows the patch");
}

#[test]
fn certificates_and_plugins_log_in_as_well() {
    for log_in in [LogIn::Certificate, LogIn::Program] {
        let scene = Scene::set(POLICIES, log_in, false);
        scene.cluster.apply(KEPT).unwrap();
        for name in KUBECTLS {
            let (code, told) = kubectl(&scene, name, &["get", "configmaps", "-o", "yaml"]);
            assert!(code == 0 && told.contains("colour: red"), "{log_in:?} {name}: {told}");
        }
        let arrived = scene.cluster.arrived();
        assert!(arrived.iter().any(|line| line == "list configmaps default/"), "{log_in:?}: {arrived:#?}");
    }
}

#[test]
fn the_clients_are_there() {
    for name in KUBECTLS {
        let mut version = Command::new(interceptor::testing::cluster::Cluster::program(name));
        let told = said(&version.args(["version", "--client"]).output().unwrap());
        assert!(told.contains("v1."), "{name}: {told}");
    }
}
