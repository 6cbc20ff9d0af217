//! What agents may do in a cluster, and what they see of it.

use super::scene::Scene;
use super::ways::{self, KUBECTLS};

const POLICIES: &str = r#"
@id("plumbing")
permit (principal in Group::"finance", action in [Action::"http:read", Action::"http:write", Action::"http:opaque", Action::"unmask"], resource);
"#;

#[test]
fn plumbing() {
    let scene = Scene::set(POLICIES, "", true);
    for name in KUBECTLS {
        eprintln!("{:?}", ways::kubectl(&scene, name, &["get", "nodes"]));
        eprintln!("{:?}", ways::kubectl(&scene, name, &["get", "pods"]));
        eprintln!("{:?}", ways::kubectl(&scene, name, &["get", "clusterroles"]));
        scene.cluster.kubectl(&["delete", "configmap", "settings", "--ignore-not-found"]).unwrap();
        ways::objects_are_made_read_and_changed(&scene, name);
        ways::watches_go_on(&scene, name, &scene.cluster);
        ways::logs_are_followed(&scene, name);
        eprintln!("{:?}", ways::kubectl(&scene, name, &["exec", "box", "--", "id"]));
    }
    eprintln!("{:#?}", scene.cluster.arrived());
    eprintln!("{}", scene.stage.log());
}
