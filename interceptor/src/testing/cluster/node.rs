//! A node: containerd and kubelet, and the pod that runs on it.
//!
//! Both write to fixed places of a host, so each starts in a mount namespace where those are the cluster's own: `/run`,
//! `/var/log`. Settings of the kernel that kubelet would change are covered with files that say what it wants.

use std::fs;
use std::process::Command;

use super::image::{self, BOX, PAUSE};
use super::{Cluster, NODE, PAGE, POD, POD_PORT, said};
use crate::testing::stage::Failure;
use crate::testing::world::FAR4;

/// What kubelet wants of the kernel: it refuses to start where it reads something else, and changes nothing.
const SETTINGS: &[(&str, &str)] = &[
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Starts both, and waits until kubelet has made the node known.
pub(super) fn start(cluster: &mut Cluster) -> Result<(), Failure> {
    let directory = cluster.path("node").display().to_string();
    let image = image::make(&cluster.path("node"))?;
    fs::write(cluster.path("containerd.toml"), containerd(&directory))?;
    let mut command = covered(cluster)?;
    command.arg(Cluster::program("containerd")).arg("--config").arg(cluster.path("containerd.toml"));
    cluster.spawn("containerd", command)?;
    let socket = cluster.path("node/containerd.sock");
    cluster.wait("containerd", &|_| socket.exists())?;
    let mut import = Command::new(Cluster::program("ctr"));
    import.arg("--address").arg(&socket).args(["--namespace", "k8s.io", "images", "import", "--snapshotter", "native"]);
    let imported = import.arg(image).output()?;
    if !imported.status.success() {
        return Err(format!("no image: {}{}", said(&imported), cluster.log("containerd")).into());
    }

    fs::write(cluster.path("kubelet.yaml"), kubelet(cluster))?;
    let mut command = covered(cluster)?;
    command.arg(Cluster::program("kubelet")).args(["--container-runtime=remote", &format!("--node-ip={FAR4}")]);
    command.arg(format!("--container-runtime-endpoint=unix://{}", socket.display()));
    command.arg(format!("--hostname-override={NODE}"));
    for (flag, name) in [
        ("config", "kubelet.yaml"),
        ("root-dir", "node/kubelet"),
        ("cert-dir", "node/kubelet"),
        ("seccomp-profile-root", "node/kubelet/seccomp"),
    ] {
        command.arg(format!("--{flag}={}", cluster.path(name).display()));
    }
    command.arg("--kubeconfig").arg(cluster.secrets.path("node.kubeconfig"));
    cluster.spawn("kubelet", command)?;
    cluster
        .wait("kubelet", &|cluster| cluster.kubectl(&["get", "node", NODE]).is_ok_and(|output| output.status.success()))
}

/// A shell that covers the host's places and then becomes the program that follows.
fn covered(cluster: &Cluster) -> Result<Command, Failure> {
    let mut script =
        format!("set -e; mount -t tmpfs none /run; mount --bind {} /var/log; ", cluster.path("log").display());
    for (name, value) in SETTINGS {
        let file = cluster.path("node").join(name.replace('/', "."));
        fs::write(&file, format!("{value}\n"))?;
        script.push_str(&format!("mount --bind {} /proc/sys/{name}; ", file.display()));
    }
    script.push_str("exec \"$@\"");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script, "sh"]);
    Ok(command)
}

fn containerd(directory: &str) -> String {
    format!(
        r#"
version = 2
root = "{directory}/root"
state = "{directory}/state"
[grpc]
address = "{directory}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{directory}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
stream_server_address = "127.0.0.1"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{directory}/cni/bin"
conf_dir = "{directory}/cni/conf"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#
    )
}

fn kubelet(cluster: &Cluster) -> String {
    let path = |name: &str| cluster.secrets.path(name).display().to_string();
    let (authority, certificate, key) = (path("ca.crt"), path("kubelet.crt"), path("kubelet.key"));
    let (group, plugins) = (&cluster.pods, cluster.path("node/plugins"));
    format!(
        r#"
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
readOnlyPort: 0
healthzPort: 0
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: false}}, x509: {{clientCAFile: "{authority}"}}}}
authorization: {{mode: AlwaysAllow}}
tlsCertFile: "{certificate}"
tlsPrivateKeyFile: "{key}"
failSwapOn: false
cgroupRoot: "{group}"
cgroupsPerQOS: true
enforceNodeAllocatable: []
cgroupDriver: cgroupfs
protectKernelDefaults: true
makeIPTablesUtilChains: false
evictionHard: {{memory.available: "50Mi"}}
resolvConf: ""
imageGCHighThresholdPercent: 100
volumePluginDir: "{}"
featureGates: {{DevicePlugins: false}}
"#,
        plugins.display()
    )
}

/// [`POD`].
pub(super) fn pod() -> String {
    let script = format!(
        "echo {PAGE} > /www/index.html; httpd -p 127.0.0.1:{POD_PORT} -h /www; \
         n=0; while :; do n=$((n+1)); echo line $n; sleep 1; done"
    );
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {POD}, labels: {{app: {POD}}}}}
spec:
  nodeName: {NODE}
  hostNetwork: true
  automountServiceAccountToken: false
  enableServiceLinks: false
  dnsPolicy: Default
  terminationGracePeriodSeconds: 1
  tolerations: [{{operator: Exists}}]
  containers:
  - {{name: {POD}, image: "{BOX}", imagePullPolicy: Never, command: [/bin/sh, -c, "{script}"]}}
"#
    )
}
