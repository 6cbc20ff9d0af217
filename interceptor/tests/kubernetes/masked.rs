//! Secrets, by whatever way they are asked for.

use super::scene::Scene;
use super::ways::{Following, KUBECTLS, Way, kubectl, run};
use interceptor::testing::cluster::Cluster;

/// What stands in a secret, and how it reads in base64.
pub(crate) const HIDDEN: [&str; 2] = ["correct-horse-battery-staple", "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZQ=="];
/// What stands in its place.
const MASKED: &str = "[masked:secret]";

/// Applied as people do, so that what was applied stands in an annotation as well.
fn secret(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, annotations: {{note: {}}}}}\ndata: {{password: {}}}\n",
        HIDDEN[0], HIDDEN[1]
    )
}

fn nothing_is_seen(name: &str, what: &str, told: &str) {
    for hidden in HIDDEN {
        assert!(!told.contains(hidden), "{name} sees it by {what}: {told}");
    }
}

pub(crate) fn secrets_are_masked_for_every_client(scene: &Scene) {
    scene.cluster.apply(&secret("db")).unwrap();
    let stored = scene.cluster.kubectl(&["get", "secret", "db", "-o", "yaml"]).unwrap();
    let stored = String::from_utf8(stored.stdout).unwrap();
    assert!(HIDDEN.iter().all(|hidden| stored.contains(hidden)), "{stored}");
    for name in KUBECTLS {
        for output in [
            "yaml",
            "json",
            "wide",
            "name",
            "jsonpath={..data}",
            "custom-columns=X:.data.password,Y:.metadata.annotations",
        ] {
            for what in [&["secret", "db"][..], &["secrets"], &["secret,configmap"]] {
                let (code, told) = kubectl(scene, name, &[&["get"], what, &["-o", output]].concat());
                assert!(code == 0 && !told.is_empty(), "{name} {output}: {told}");
                nothing_is_seen(name, output, &told);
            }
        }
        let (code, told) = kubectl(scene, name, &["get", "secrets"]);
        assert!(code == 0 && told.contains("db") && told.contains("Opaque"), "{name}: {told}");
        let (code, told) =
            kubectl(scene, name, &["get", "secret", "db", "-o", "go-template={{.data.password|base64decode}}"]);
        assert_eq!((code, told.as_str()), (0, MASKED), "{name}");
        for words in [
            &["describe", "secret", "db"][..],
            &["get", "--raw", "/api/v1/namespaces/default/secrets"],
            &["get", "--raw", "/api/v1/namespaces/default/secrets/db"],
            &["get", "secret", "db", "-v=9"],
            &["get", "secrets", "-v=9"],
            &["get", "secrets", "--show-labels"],
            &["get", "secrets", "--chunk-size=1", "-o", "yaml"],
        ] {
            let (code, told) = kubectl(scene, name, words);
            assert_eq!((code, told.contains("db")), (0, true), "{name}: {told}");
            nothing_is_seen(name, &words.join(" "), &told);
        }
        for output in ["yaml", "wide"] {
            let mut following = Following::start(scene, name, &["get", "secrets", "--watch-only", "-o", output]);
            let seen = format!("seen-{output}-by-{name}");
            // The watch has begun once its first event is there: until then there are more.
            let said = std::thread::scope(|scope| {
                let line = scope.spawn(|| following.until("seen-"));
                for n in 0..100 {
                    scene.cluster.apply(&secret(&format!("{seen}-{n}"))).unwrap();
                    if line.is_finished() {
                        break;
                    }
                }
                line.join().unwrap()
            });
            nothing_is_seen(name, "a watch", &said);
            nothing_is_seen(name, "a watch", &following.rest());
        }
    }
    protobuf_is_no_way_round(scene);
}

fn protobuf_is_no_way_round(scene: &Scene) {
    let mut list = scene.program("go-client");
    list.arg("secrets");
    let (code, told) = run(scene, list, "");
    assert!(code == 0 && told.contains(&format!("secret db password={MASKED}")), "{told}");
    nothing_is_seen("client-go", "a list", &told);
    let mut watch = scene.program("go-client");
    watch.args(["watch", "db"]);
    let (code, told) = run(scene, watch, "");
    assert!(code == 0 && told.contains(&format!("ADDED db password={MASKED}")), "{told}");
    nothing_is_seen("client-go", "a watch", &told);
    // Whoever takes nothing else gets nothing else that could be read.
    for accept in [
        "application/vnd.kubernetes.protobuf",
        "application/yaml",
        "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1",
    ] {
        let mut curl = super::ways::bounded("curl");
        curl.args(["-sS", "--cacert"]).arg(scene.authority()).args(["-H", &format!("Accept: {accept}")]);
        curl.arg(format!("{}/api/v1/namespaces/default/secrets/db", scene.url()));
        let (_, told) = run(scene, curl, "");
        assert!(!told.is_empty(), "{accept}");
        nothing_is_seen("curl", accept, &told);
    }
    assert!(Cluster::program("go-client").exists());
}
