//! etcd, the API server, and what stands before it on demand.

use std::process::Command;

use super::{Cluster, FRONT_PORT, PORT, UPSTREAM_USER};
use crate::testing::stage::Failure;
use crate::testing::world::{FAR4, FAR6};

/// Starts both, the second once the first answers, and waits for it.
pub(super) fn start(cluster: &mut Cluster) -> Result<(), Failure> {
    let mut etcd = Command::new(Cluster::program("etcd"));
    etcd.arg("--data-dir").arg(cluster.path("etcd")).args(["--log-level", "warn"]);
    for (flag, port) in [("client", 2379), ("peer", 2380)] {
        etcd.arg(format!("--listen-{flag}-urls=http://127.0.0.1:{port}"));
    }
    etcd.args(["--advertise-client-urls=http://127.0.0.1:2379", "--initial-advertise-peer-urls=http://127.0.0.1:2380"]);
    etcd.arg("--initial-cluster=default=http://127.0.0.1:2380");
    cluster.spawn("etcd", etcd)?;
    let server = server(cluster);
    cluster.spawn("kube-apiserver", server)?;
    cluster.wait("kube-apiserver", &|cluster| {
        cluster.kubectl(&["get", "--raw", "/readyz"]).is_ok_and(|output| output.status.success())
    })
}

/// Starts what makes newer servers' streams of older ones.
pub(super) fn start_front(cluster: &mut Cluster) -> Result<(), Failure> {
    let mut front = Command::new(Cluster::program("front"));
    front.args(["server.crt", "server.key", "ca.crt"].map(|name| cluster.secrets.path(name)));
    front.args([format!("127.0.0.1:{PORT}"), format!("{FAR4}:{FRONT_PORT}"), format!("[{FAR6}]:{FRONT_PORT}")]);
    cluster.spawn("front", front)?;
    let server = format!("--server=https://{FAR4}:{FRONT_PORT}");
    cluster.wait("front", &|cluster| {
        cluster.kubectl(&[&server, "get", "--raw", "/readyz"]).is_ok_and(|output| output.status.success())
    })
}

fn server(cluster: &Cluster) -> Command {
    let mut server = Command::new(Cluster::program("kube-apiserver"));
    let files = [
        ("tls-cert-file", "server.crt"),
        ("tls-private-key-file", "server.key"),
        ("client-ca-file", "ca.crt"),
        ("token-auth-file", "tokens.csv"),
        ("service-account-key-file", "accounts.crt"),
        ("service-account-signing-key-file", "accounts.key"),
        ("kubelet-client-certificate", "kubelet-client.crt"),
        ("kubelet-client-key", "kubelet-client.key"),
        ("kubelet-certificate-authority", "ca.crt"),
        ("audit-policy-file", "audit.yaml"),
    ];
    for (flag, name) in files {
        server.arg(format!("--{flag}={}", cluster.secrets.path(name).display()));
    }
    for (flag, name) in [("audit-log-path", "audit.log"), ("cert-dir", "node")] {
        server.arg(format!("--{flag}={}", cluster.path(name).display()));
    }
    server.arg(format!("--secure-port={PORT}")).arg(format!("--advertise-address={FAR4}"));
    server.args([
        "--etcd-servers=http://127.0.0.1:2379",
        "--bind-address=::",
        "--authorization-mode=Node,RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--kubelet-preferred-address-types=Hostname",
        // Pods need no account of a controller that is not there.
        "--disable-admission-plugins=ServiceAccount",
        "--allow-privileged=true",
        "--endpoint-reconciler-type=none",
    ]);
    server
}

/// What [`UPSTREAM_USER`] may do: work on what lies in namespaces, act for others; but not change rights or nodes.
pub(super) fn rights() -> String {
    format!(
        r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {UPSTREAM_USER}}}
rules:
- {{apiGroups: ["", apps, batch], resources: ["*"], verbs: [get, list, watch, create, update, patch, delete, deletecollection]}}
- {{apiGroups: [""], resources: [users, groups, serviceaccounts], verbs: [impersonate]}}
- {{apiGroups: [apiextensions.k8s.io, rbac.authorization.k8s.io], resources: ["*"], verbs: [get, list, watch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {UPSTREAM_USER}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {UPSTREAM_USER}}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: {UPSTREAM_USER}}}]
"#
    )
}
