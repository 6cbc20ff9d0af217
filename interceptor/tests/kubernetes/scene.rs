//! A cluster behind interceptor, and agents before it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use interceptor::testing::cluster::{Cluster, FRONT_PORT, PORT, Secrets, UPSTREAM_USER, said};
use interceptor::testing::stage::{AGENT_UID, CLUSTER, HOST, Script, Stage};
use serde_json::Value;
use tempfile::TempDir;

use super::ways::{Way, bounded};

/// What agents have for a credential: it is good for nothing.
pub(crate) const PLACEHOLDER: &str = "a-token-that-nobody-knows";

/// What the agents of all tests may do.
pub(crate) const POLICIES: &str = r#"
@id("discovers")
permit (principal in Group::"finance", action == Action::"k8s:discover", resource in Target::"kube");

@id("works")
permit (
  principal in Group::"finance",
  action in [Action::"k8s:read", Action::"k8s:write", Action::"k8s:connect", Action::"k8s:impersonate"],
  resource in Namespace::"kube/default"
);

// What cannot be read: held by the baseline.
@id("works-unread")
permit (principal in Group::"finance", action == Action::"k8s:opaque", resource in Target::"kube");

@id("kept")
@reason("others depend on it")
@remedy("write to its owner")
forbid (principal, action == Action::"k8s:delete", resource == KubernetesObject::"kube/default/core/configmaps/kept");
"#;

/// A cluster, the daemon before it, and a governed agent.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) stage: Stage,
    home: PathBuf,
    _files: TempDir,
}

/// How the daemon logs in at the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogIn {
    Token,
    Certificate,
    /// What a plugin of kubectl prints.
    Program,
}

impl Scene {
    /// Sets it, with a node where `node` says so.
    pub(crate) fn set(policies: &str, log_in: LogIn, node: bool) -> Self {
        let files = tempfile::tempdir().unwrap();
        let directory = files.path();
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        let secrets = Secrets::draw(&directory.join("secrets")).unwrap();
        let target = target(&secrets, log_in);
        let ca = format!("[ca]\ndir = \"{}/ca\"\n", directory.display());
        // The authority has to be for every target: the stage has one of its own.
        initialise(directory, &format!("{ca}{target}").replacen("hosts = [", &format!("hosts = [\"{HOST}\", "), 1));
        let masks =
            "[[mask]]\ntag = \"own\"\ntransform = \"redact\"\njson = [\"kube/apps/statefulsets:$..env[*].value\"]\n";
        let configuration = format!("{ca}{target}{masks}");
        let script = Script { policies: policies.to_owned(), configuration, ..Script::default() };
        let stage = Stage::set(Path::new(env!("CARGO_BIN_EXE_interceptor")), &script)
            .unwrap_or_else(|error| panic!("no stage: {error}"));
        let mut cluster = Cluster::start(&stage.world, secrets).unwrap_or_else(|error| panic!("no cluster: {error}"));
        if node {
            cluster.start_node().unwrap_or_else(|error| panic!("no node: {error}"));
        }
        let home = directory.join("home");
        fs::create_dir(&home).unwrap();
        chown(&home, Some(AGENT_UID), Some(AGENT_UID)).unwrap();
        let kubeconfig = Cluster::kubeconfig(PORT, &directory.join("ca/ca.pem"), PLACEHOLDER);
        fs::write(home.join("kubeconfig"), kubeconfig).unwrap();
        Self { cluster, stage, home, _files: files }
    }

    /// The agent's own kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.home.join("kubeconfig")
    }

    /// The authority that the agent trusts.
    pub(crate) fn authority(&self) -> PathBuf {
        self.home.with_file_name("ca").join("ca.pem")
    }

    /// Where it finds the cluster.
    pub(crate) fn url(&self) -> String {
        format!("https://{CLUSTER}:{PORT}")
    }

    /// What the operator is told, who succeeds.
    pub(crate) fn operate(&self, arguments: &[&str]) -> String {
        let output: Output = self.stage.operate(arguments).unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        said(&output)
    }

    /// Everything on record.
    pub(crate) fn recorded(&self) -> String {
        self.operate(&["recordings", "export", "--format", "jsonl"])
    }

    /// The request that waits, with `words` in its statement.
    pub(crate) fn waiting(&self, words: &str) -> Value {
        for _ in 0..400 {
            let requests: Value = serde_json::from_str(&self.operate(&["--json", "approvals", "list"])).unwrap();
            let fits = |request: &&Value| {
                request["state"]["state"] == "waiting"
                    && request["statement"].as_str().is_some_and(|text| text.contains(words))
            };
            if let Some(request) = requests.as_array().unwrap().iter().find(fits) {
                return request.clone();
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("nothing waits with {words:?}\n{}", self.stage.log());
    }

    /// Says yes to whatever waits meanwhile.
    pub(crate) fn approving(&self, work: impl FnOnce()) {
        /// Ends the loop also where the work panics.
        struct Ends<'a>(&'a AtomicBool);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let _ends = Ends(&done);
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let listed = self.operate(&["--json", "approvals", "list"]);
                    let requests: Value = serde_json::from_str(&listed).unwrap();
                    let waiting = requests.as_array().unwrap().iter().filter(|one| one["state"]["state"] == "waiting");
                    for id in waiting.filter_map(|one| one["id"].as_str()) {
                        // Whoever asked may have gone.
                        let _gone = self.stage.operate(&["approvals", "approve", id]).unwrap();
                    }
                    thread::sleep(Duration::from_millis(50));
                }
            });
            work();
        });
    }

    /// Lets the request that waits with `words` pass.
    pub(crate) fn approve(&self, words: &str) -> Value {
        let request = self.waiting(words);
        self.operate(&["approvals", "approve", request["id"].as_str().unwrap(), "--reason", "looked at it"]);
        request
    }

    /// Says no to it.
    pub(crate) fn refuse(&self, words: &str) -> Value {
        let request = self.waiting(words);
        self.operate(&["approvals", "deny", request["id"].as_str().unwrap(), "--reason", "not today"]);
        request
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}the daemon:\n{}", self.cluster.trouble(), self.stage.log());
        }
    }
}

impl Way for Scene {
    fn program(&self, name: &str) -> Command {
        let mut command = bounded(Cluster::program(name));
        if name == "go-client" {
            command.arg(self.kubeconfig());
            return command;
        }
        command.arg("--kubeconfig").arg(self.kubeconfig()).arg("--cache-dir").arg(self.home.join("cache"));
        command.env("KUBERC", "off");
        command
    }

    fn start(&self, command: Command) -> Child {
        self.stage.spawn_agent(command).unwrap()
    }

    fn folder(&self) -> &Path {
        &self.home
    }
}

fn target(secrets: &Secrets, log_in: LogIn) -> String {
    let (certificate, key) = secrets.certificate();
    let (tls, password) = match log_in {
        LogIn::Token => (String::new(), format!(", password = \"file:{}\"", secrets.token_file().display())),
        LogIn::Program => (String::new(), format!(", password = \"exec:{}\"", plugin(secrets).display())),
        LogIn::Certificate => {
            (format!(", cert = \"{}\", key = \"{}\"", certificate.display(), key.display()), String::new())
        }
    };
    format!(
        r#"
[[target]]
name = "kube"
protocol = "kubernetes"
hosts = ["{CLUSTER}:{PORT}", "{CLUSTER}:{FRONT_PORT}"]
tls = {{ upstream = "verify-full", ca = "{}"{tls} }}
credential = {{ user = "{UPSTREAM_USER}"{password} }}
"#,
        secrets.authority().display(),
    )
}

/// A program that logs in for whoever runs it.
fn plugin(secrets: &Secrets) -> PathBuf {
    let status = serde_json::json!({ "token": secrets.token() });
    let version = "client.authentication.k8s.io/v1";
    let said = serde_json::json!({ "apiVersion": version, "kind": "ExecCredential", "status": status });
    let path = secrets.token_file().with_file_name("plugin");
    fs::write(&path, format!("#!/bin/sh\necho '{said}'\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

/// Makes the host's certificate authority.
fn initialise(directory: &Path, configuration: &str) {
    fs::write(directory.join("init.toml"), configuration).unwrap();
    let mut init = Command::new(env!("CARGO_BIN_EXE_interceptor"));
    init.args(["ca", "init", "--user", "root", "--config"]).arg(directory.join("init.toml"));
    let made = init.output().unwrap();
    assert!(made.status.success(), "{}", said(&made));
}
