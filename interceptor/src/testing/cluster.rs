//! A Kubernetes cluster on the far side of a [`World`]: etcd, the API server with TLS and RBAC, and on demand a node (containerd
//! and kubelet) on which a pod runs.
//!
//! Needs root, and the programs that `cargo xtask test` gets into the folder of clients (`INTERCEPTOR_CLIENTS`). Everything runs
//! in the servers' network namespace and in a cgroup below theirs, with mount namespaces of its own: nothing of the host is
//! written to, and no chains of iptables are made. Dropping it ends it; what a killed test leaves, the next world sweeps away.
//!
//! There are neither controllers nor a scheduler: deployments have no pods, and pods name their node. Tried with cgroups of
//! version 2 beside older hierarchies; with version 2 alone, kubelet wants its controllers (`cpu cpuset memory pids hugetlb`)
//! in the root's `cgroup.subtree_control`, which is left as it is.

mod files;
mod image;
mod node;
mod server;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

pub use self::files::Secrets;
use super::stage::{CLUSTER, Failure};
use super::world::{Entrance, Place, World};
use crate::clock::{Clock as _, SystemClock};

/// The folder of programs among the clients.
const PROGRAMS: &str = "kubernetes-1.20.2";
/// Name of the cgroup that everything of a cluster runs in.
const GROUP: &str = "cluster";
/// The API server's port.
pub const PORT: u16 = 6443;
/// The port of the same server, with the streams that newer ones have ([`Cluster::start_front`]).
pub const FRONT_PORT: u16 = 6444;
/// The user that interceptor logs in as.
pub const UPSTREAM_USER: &str = "interceptor";
/// The only node.
pub const NODE: &str = "localhost";
/// The pod that runs on it: its one container serves [`PAGE`] on [`POD_PORT`] and logs a line each second.
pub const POD: &str = "box";
/// Where the pod listens, on its loopback.
pub const POD_PORT: u16 = 8090;
/// What the pod serves.
pub const PAGE: &str = "a page of the pod";
/// How long anything may take to come up.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a client of the administrator may take.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(200);

/// The cluster. It must be dropped before its world.
#[derive(Debug)]
pub struct Cluster {
    children: Vec<Child>,
    secrets: Secrets,
    directory: PathBuf,
    entrance: Entrance,
    /// Paths of the cgroups of its programs and of what runs in pods, below the mounts.
    group: String,
    pods: String,
}

impl Cluster {
    /// Starts etcd and the API server, and makes the rights of [`UPSTREAM_USER`].
    ///
    /// # Errors
    /// When a program is missing or does not come up; with its log.
    pub fn start(world: &World, secrets: Secrets) -> Result<Self, Failure> {
        let place = Place::FarIn(GROUP);
        let directory = world.directory().join("cluster");
        for part in ["home", "tmp", "log", "node"] {
            fs::create_dir_all(directory.join(part))?;
        }
        // The world's folder is open to all.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
        let (entrance, group, pods) = (world.entrance(place)?, world.cgroup(place), world.cgroup(Place::Pods));
        let mut cluster = Self { children: Vec::new(), secrets, directory, entrance, group, pods };
        server::start(&mut cluster)?;
        cluster.apply(&server::rights())?;
        Ok(cluster)
    }

    /// Starts a node as well, and waits until [`POD`] runs on it.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_node(&mut self) -> Result<(), Failure> {
        super::world::make_cgroup(&self.pods)?;
        node::start(self)?;
        self.apply(&node::pod())?;
        let limit = format!("--timeout={}s", START_TIMEOUT.as_secs());
        let ready = self.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{POD}"), &limit])?;
        if ready.status.success() {
            return Ok(());
        }
        let pods = self.kubectl(&["describe", "pods"])?;
        Err(format!("the pod does not run: {}{}\n{}", said(&ready), said(&pods), self.log("kubelet")).into())
    }

    /// Starts a program before the API server that does what newer ones do: commands over version 5 of the protocol on
    /// WebSockets, and forwarded ports in a WebSocket.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_front(&mut self) -> Result<(), Failure> {
        server::start_front(self)
    }

    /// A path of a program of the cluster, or of its clients: `kubectl`, `kubectl-new`, `go-client`.
    #[must_use]
    pub fn program(name: &str) -> PathBuf {
        let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients");
        std::env::var_os("INTERCEPTOR_CLIENTS").map_or_else(default, PathBuf::from).join(PROGRAMS).join(name)
    }

    /// A kubeconfig for the API server at [`CLUSTER`] and a port, with a token and an authority to trust.
    #[must_use]
    pub fn kubeconfig(port: u16, authority: &Path, token: &str) -> String {
        files::kubeconfig(&format!("https://{CLUSTER}:{port}"), authority, token)
    }

    /// Runs kubectl of the cluster's own version as its administrator, on the far side.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn kubectl(&self, arguments: &[&str]) -> io::Result<Output> {
        let mut command = self.administer("kubectl");
        self.beside(&mut command);
        command.args(arguments).stdin(Stdio::null()).output()
    }

    /// A kubectl (`kubectl`, `kubectl-new`) as the cluster's administrator, which ends by itself after [`CLIENT_TIMEOUT`]; to be
    /// run [`Cluster::beside`] it.
    #[must_use]
    pub fn administer(&self, program: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", &CLIENT_TIMEOUT.as_secs().to_string()]).arg(Self::program(program));
        command.arg("--kubeconfig").arg(self.secrets.path("admin.kubeconfig")).env("HOME", self.path("home"));
        command
    }

    /// Lets a command's child run beside the cluster, on the far side.
    pub fn beside(&self, command: &mut Command) {
        self.entrance.enter_before_exec(command);
    }

    /// Has the cluster have these objects, as YAML.
    ///
    /// # Errors
    /// With what it says against them.
    pub fn apply(&self, objects: &str) -> Result<(), Failure> {
        let file = self.path("apply.yaml");
        fs::write(&file, objects)?;
        let applied = self.kubectl(&["apply", "--filename", &file.display().to_string()])?;
        if applied.status.success() { Ok(()) } else { Err(said(&applied).into()) }
    }

    /// What reached the API server from [`UPSTREAM_USER`], in its order: `list secrets default/`, `create pods/exec default/box`.
    /// A watch and the like are there once they are answered.
    #[must_use]
    pub fn arrived(&self) -> Vec<String> {
        self.log("audit").lines().filter_map(|line| arrival(&serde_json::from_str(line).ok()?)).collect()
    }

    /// The log of one of its programs: `etcd`, `kube-apiserver`, `front`, `containerd`, `kubelet`; or `audit`.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        let log = fs::read(self.path(&format!("{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// What its programs say of a fatal error, for a test that has failed.
    #[must_use]
    pub fn trouble(&self) -> String {
        let is_fatal = |line: &str| ["panic: ", "fatal error: "].iter().any(|start| line.starts_with(start));
        let of = |name: &&str| {
            let log = self.log(name);
            let first = log.lines().position(is_fatal)?;
            Some(format!("{name}:\n{}\n", log.lines().skip(first).take(40).collect::<Vec<_>>().join("\n")))
        };
        ["etcd", "kube-apiserver", "front", "containerd", "kubelet"].iter().filter_map(of).collect()
    }

    /// Its certificates and tokens.
    #[must_use]
    pub const fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// A path of the cluster's state.
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Starts one of its programs, which then writes its log.
    fn spawn(&mut self, name: &str, mut command: Command) -> io::Result<()> {
        let log = fs::File::create(self.path(&format!("{name}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
        command.env_clear().env("HOME", self.path("home")).env("TMPDIR", self.path("tmp"));
        // Containerd looks for its own parts there, and kubelet for `mount`.
        let own = Self::program("").display().to_string();
        command.env("PATH", format!("{own}:/usr/sbin:/usr/bin:/sbin:/bin"));
        self.entrance.enter_before_exec(&mut command);
        self.children.push(command.spawn()?);
        Ok(())
    }

    /// Waits until something holds, while the program started last runs.
    fn wait(&mut self, name: &str, holds: &dyn Fn(&Self) -> bool) -> Result<(), Failure> {
        let clock = SystemClock::new();
        while clock.monotonic() < START_TIMEOUT {
            if holds(self) {
                return Ok(());
            }
            if let Some(status) = self.children.last_mut().map(Child::try_wait).transpose()?.flatten() {
                return Err(format!("{name} ended with {status}:\n{}", self.log(name)).into());
            }
            thread::sleep(PAUSE);
        }
        Err(format!("{name} does not come up:\n{}", self.log(name)).into())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Those first that would start others again.
        super::world::end_cgroup(&self.group);
        super::world::end_cgroup(&self.pods);
        for child in &mut self.children {
            let _reaped = child.wait();
        }
    }
}

/// Both outputs of a program.
#[must_use]
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// One line of [`Cluster::arrived`].
fn arrival(event: &Value) -> Option<String> {
    let text = |path: &str| event.pointer(path).and_then(Value::as_str);
    if text("/user/username") != Some(UPSTREAM_USER) {
        return None;
    }
    let verb = text("/verb")?;
    let Some(resource) = text("/objectRef/resource") else {
        return Some(format!("{verb} {}", text("/requestURI")?));
    };
    let part = text("/objectRef/subresource").map(|part| format!("/{part}")).unwrap_or_default();
    let (namespace, name) = (text("/objectRef/namespace"), text("/objectRef/name"));
    Some(format!("{verb} {resource}{part} {}/{}", namespace.unwrap_or_default(), name.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_is_read_from_the_audit_log() {
        let event = |text: &str| arrival(&serde_json::from_str(text).unwrap());
        let exec = r#"{"verb":"create","user":{"username":"interceptor"},
            "objectRef":{"resource":"pods","subresource":"exec","namespace":"default","name":"box"}}"#;
        assert_eq!(event(exec).as_deref(), Some("create pods/exec default/box"));
        let path = r#"{"verb":"get","user":{"username":"interceptor"},"requestURI":"/version"}"#;
        assert_eq!(event(path).as_deref(), Some("get /version"));
        assert_eq!(event(r#"{"verb":"get","user":{"username":"admin"},"requestURI":"/version"}"#), None);
    }
}
