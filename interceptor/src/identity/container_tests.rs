//! A corpus of cgroup paths: as engines make them, and as agents would like them to be read.

use super::*;

const ID: &str = "4f1b6c0e6a2d9c8b7a6f5e4d3c2b1a09876543210fedcba9876543210abcdef0";
const OTHER: &str = "00000c0e6a2d9c8b7a6f5e4d3c2b1a09876543210fedcba9876543210abcdef0";
const POD: &str = "8f2c3a1e-5b6d-4c7e-9a8b-1c2d3e4f5a6b";

fn of(path: &str) -> Option<(String, String, Option<String>)> {
    let path =
        path.replace("ID", ID).replace("OTHER", OTHER).replace("PODS", &POD.replace('-', "_")).replace("POD", POD);
    Container::of(&path, &|_| true).map(|found| (found.engine, found.id, found.pod))
}

#[test]
fn every_engine_is_read() {
    let pod = Some(POD.to_owned());
    for (path, engine, expected) in [
        ("/system.slice/docker-ID.scope", "docker", None),
        ("/agents.slice/docker-ID.scope", "docker", None),
        ("/docker/ID", "docker", None),
        ("/machine.slice/libpod-ID.scope", "podman", None),
        ("/machine.slice/libpod-ID.scope/container", "podman", None),
        ("/system.slice/billing.service/libpod-payload-ID", "podman", None),
        ("/libpod_parent/libpod-ID", "podman", None),
        ("/machine.slice/machine-libpod_pod_OTHER.slice/libpod-ID.scope/container", "podman", Some(OTHER.to_owned())),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container", "podman", None),
        ("/kubepods.slice/kubepods-podPODS.slice/cri-containerd-ID.scope", "containerd", pod.clone()),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPODS.slice/cri-containerd-ID.scope",
            "containerd",
            pod.clone(),
        ),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podPODS.slice/crio-ID.scope",
            "crio",
            pod.clone(),
        ),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podPODS.slice/crio-ID.scope/container",
            "crio",
            pod.clone(),
        ),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPODS.slice/docker-ID.scope",
            "docker",
            pod.clone(),
        ),
        (
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podPODS.slice/cri-containerd-ID.scope",
            "containerd",
            pod.clone(),
        ),
        ("/kubepods/burstable/podPOD/ID", "containerd", pod.clone()),
        ("/kubepods/podPOD/ID", "containerd", pod.clone()),
        ("/kubepods/besteffort/podPOD/crio-ID", "crio", pod.clone()),
        ("/system.slice/k3s.service/kubepods/burstable/podPOD/ID", "containerd", pod),
        ("/system.slice/nerdctl-ID.scope", "containerd", None),
        ("/custom/ID", "unknown", None),
    ] {
        assert_eq!(of(path), Some((engine.to_owned(), ID.to_owned(), expected)), "{path}");
    }
    let stat = "0123456789abcdef0123456789abcdef";
    let path = format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{stat}.slice/crio-ID.scope");
    assert_eq!(of(&path).unwrap().2.as_deref(), Some(stat), "a static pod");
    for (path, engine, name) in [
        ("/machine.slice/systemd-nspawn@web.service/payload", "nspawn", "web"),
        ("/machine.slice/systemd-nspawn@my\\x2dweb.service/payload/system.slice/x.service", "nspawn", "my-web"),
        ("/machine.slice/machine-web.scope/payload", "nspawn", "web"),
        ("/lxc.payload.web/init.scope", "lxc", "web"),
        ("/lxc/web", "lxc", "web"),
    ] {
        assert_eq!(of(path), Some((engine.to_owned(), name.to_owned(), None)), "{path}");
    }
}

#[test]
fn what_is_no_container_is_none() {
    for path in [
        "/",
        "",
        "/agents.slice/billing.service",
        "/system.slice/docker.service",
        "/machine.slice/libpod-conmon-ID.scope",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPODS.slice",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPODS.slice/crio-conmon-ID.scope",
        "/system.slice/docker-short.scope",
        "/system.slice/docker-IDff.scope",
        "/machine.slice/systemd-nspawn@.service",
        "/system.slice/docker-ID.service",
    ] {
        assert_eq!(of(path), None, "{path}");
    }
    assert_eq!(of(&format!("/docker/{}", ID.to_uppercase())), None);
}

#[test]
fn what_an_agent_names_within_its_container_does_not_count() {
    let pod = Some(POD.to_owned());
    let mine = Some(("docker".to_owned(), ID.to_owned(), None));
    for forged in [
        "/system.slice/docker-ID.scope/docker-OTHER.scope",
        "/system.slice/docker-ID.scope/kubepods.slice/kubepods-podPODS.slice/cri-containerd-OTHER.scope",
        "/system.slice/docker-ID.scope/system.slice/docker-OTHER.scope/container",
    ] {
        assert_eq!(of(forged), mine, "{forged}");
    }
    // A pod's slice below the container is not the container's pod.
    let path = "/kubepods/podPOD/ID/kubepods-pod00000000_0000_0000_0000_000000000000.slice";
    assert_eq!(of(path), Some(("containerd".to_owned(), ID.to_owned(), pod)));
    // Words that look like a pod's, elsewhere.
    assert_eq!(of("/agents.slice/podPOD.service/docker-ID.scope").unwrap().2, None);
    assert_eq!(of("/agents-podPODS.slice/docker-ID.scope").unwrap().2, None);
}

#[test]
fn a_name_that_others_than_root_could_give_is_not_trusted() {
    let path = format!("/user.slice/user-1000.slice/user@1000.service/docker-{ID}.scope/x");
    let asked = std::cell::RefCell::new(Vec::new());
    let found = Container::of(&path, &|parent| {
        asked.borrow_mut().push(parent.to_owned());
        false
    });
    assert!(!found.unwrap().trusted);
    assert_eq!(*asked.borrow(), ["/user.slice/user-1000.slice/user@1000.service"]);
    Container::of(&format!("/{ID}"), &|parent| {
        assert_eq!(parent, "/");
        true
    })
    .unwrap();
}

#[test]
fn escapes_are_undone_where_they_are_whole() {
    for (text, plain) in
        [("a\\x2db", "a-b"), ("a\\x2", "a\\x2"), ("\\xzz", "\\xzz"), ("\\x00a", "\\x00a"), ("é\\x2dé", "é-é")]
    {
        assert_eq!(unescaped(text), plain);
    }
}
