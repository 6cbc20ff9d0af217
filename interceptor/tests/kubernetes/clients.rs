//! Clients other than kubectl: Python's and Go's, as programs use them.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::scene::Scene;
use super::ways::{Way as _, bounded, run};

const PYTHON: &str = r#"
import json, sys
from kubernetes import client, config, watch
config.load_kube_config(sys.argv[1])
core = client.CoreV1Api()
print("list", sorted(one.metadata.name for one in core.list_namespaced_config_map("default").items if one.metadata.name == "kept"))
print("secret", core.read_namespaced_secret("db", "default").data)
made = core.create_namespaced_config_map("default", {"metadata": {"name": "by-python"}, "data": {"x": "y"}})
print("made", made.metadata.name, made.data)
for event in watch.Watch().stream(core.list_namespaced_config_map, "default", field_selector="metadata.name=by-python", timeout_seconds=20):
    print("watch", event["type"], event["object"].metadata.name)
    break
def denied(what, work):
    try: print(what, "passed", work())
    except client.ApiException as error:
        status = json.loads(error.body)
        print(what, error.status, status["kind"], status["reason"], [one["message"] for one in status["details"]["causes"] if one["reason"] == "Rule"])
denied("delete", lambda: core.delete_namespaced_config_map("kept", "default"))
denied("others", lambda: core.list_namespaced_secret("kube-system"))
denied("collection", lambda: core.delete_collection_namespaced_config_map("default"))
"#;

pub(crate) fn python_is_an_agent_as_well(scene: &Scene) {
    let mut python = bounded(installed().join("kubernetes/bin/python"));
    python.args(["-c", PYTHON]).arg(scene.kubeconfig());
    let (code, told) = run(scene, python, "");
    assert_eq!(code, 0, "{told}");
    for wanted in [
        "list ['kept']",
        "secret {'password': 'W21hc2tlZDpzZWNyZXRd'}",
        "made by-python {'x': 'y'}",
        "watch ADDED by-python",
        "delete 403 Status Forbidden",
        "others 403 Status Forbidden []",
        "collection 403 Status Forbidden",
    ] {
        assert!(told.contains(wanted), "{wanted}: {told}\n{}", scene.stage.log());
    }
}

pub(crate) fn go_is_an_agent_as_well(scene: &Scene) {
    let mut delete = go(scene, &["delete", "kept"]);
    let (code, told) = run(scene, delete, "");
    assert!(code == 1 && told.contains("error \"Forbidden\"") && told.contains("others depend on it"), "{told}");
    delete = go(scene, &["delete", "nothing-of-that-name"]);
    let told = std::thread::scope(|scope| {
        let run = scope.spawn(|| run(scene, delete, ""));
        scene.approve("configmaps/nothing-of-that-name");
        run.join().unwrap().1
    });
    assert!(told.contains("error \"NotFound\""), "{told}");
    // What it sends in Protocol Buffers is read: nobody has to approve of it for that.
    let (code, told) = run(scene, go(scene, &["create", "by-go"]), "");
    assert!(code == 0 && told.contains("made by-go"), "{told}");
    let (code, told) = run(scene, go(scene, &["create", "by-go", "privileged"]), "");
    assert!(code == 1 && told.contains("error \"Forbidden\"") && told.contains("no-privileged-pods"), "{told}");
    // As controllers do, until what is made later is there.
    let told = std::thread::scope(|scope| {
        let run = scope.spawn(|| run(scene, go(scene, &["inform", "for-go"]), ""));
        std::thread::sleep(std::time::Duration::from_millis(500));
        scene.cluster.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: for-go}\n").unwrap();
        run.join().unwrap().1
    });
    assert!(told.contains("synced") && told.contains("informed of for-go"), "{told}");
}

const PYTHON_EXEC: &str = r#"
import sys
from kubernetes import client, config
from kubernetes.stream import stream
config.load_kube_config(sys.argv[1])
core = client.CoreV1Api()
command = ["sh", "-c", "read said; echo got $said; echo aside >&2; exit 4"]
talk = stream(core.connect_get_namespaced_pod_exec, "box", "default", command=command,
              stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False)
talk.write_stdin("told by Python\n")
talk.run_forever(timeout=30)
print("stdout", repr(talk.read_stdout()), "stderr", repr(talk.read_stderr()), "code", talk.returncode)
try: print("removed", stream(core.connect_get_namespaced_pod_exec, "box", "default", command=["rm", "/www/index.html"], stdout=True, stderr=True))
except client.ApiException as error: print("denied", error.status, error.reason)
"#;

/// Over WebSockets, in version 4 of the protocol.
pub(crate) fn python_runs_programs(scene: &Scene) {
    let mut python = bounded(installed().join("kubernetes/bin/python"));
    python.args(["-c", PYTHON_EXEC]).arg(scene.kubeconfig());
    let (code, told) = run(scene, python, "");
    assert_eq!(code, 0, "{told}");
    assert!(told.contains(r"stdout 'got told by Python\n' stderr 'aside\n' code 4"), "{told}");
    assert!(told.contains("denied 403") || (told.contains("denied 0") && told.contains("403")), "{told}");
}

/// Over SPDY.
pub(crate) fn go_runs_programs(scene: &Scene) {
    let (code, told) = run(scene, go(scene, &["exec", "box", "cat"]), "");
    assert!(code == 0 && told.contains("told by Go") && told.contains("ended well"), "{told}");
    let (code, told) = run(scene, go(scene, &["exec", "box", "rm", "/www/index.html"]), "");
    assert!(code == 1 && told.contains("files in containers are never removed"), "{told}");
}

fn go(scene: &Scene, arguments: &[&str]) -> Command {
    let mut command = scene.program("go-client");
    command.args(arguments);
    command
}

fn installed() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients");
    std::env::var_os("INTERCEPTOR_CLIENTS").map_or_else(default, PathBuf::from)
}
