//! Containers of podman and of Docker: an agent is known by the id that the engine has drawn.
//!
//! The engines keep everything below the stage's folder, make cgroups below its governed one, and no networks. Docker's daemon has
//! pids of its own, so that nothing of it outlives the test.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use interceptor::testing::stage::{AGENT_UID, DATABASE, HOST, Script, Stage};
use interceptor::testing::world::{FAR4, Place};
use serde_json::json;

use super::engine::{operate, psql, said};

const BINARY: &str = env!("CARGO_BIN_EXE_interceptor");
/// Where Docker's own bridge is.
const BRIDGE4: &str = "172.30.99.1";
/// Nobody stays longer.
const SECONDS: &str = "90";
/// The unified hierarchy alone, as on a host that has no other, and a `/run` that ends with who writes to it.
const ONLY_V2: &str =
    "umount -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && mount -t tmpfs tmpfs /run && exec \"$@\"";
/// The first connect of a container that nobody has announced is refused.
const AGAIN: &str = "for n in $(seq 50); do \"$@\" && exit 0; sleep 0.2; done; exit 1";

/// An engine.
enum Engine {
    Podman,
    /// With its daemon.
    Docker(Child),
}

struct Scene {
    engine: Engine,
    stage: Stage,
}

impl Scene {
    fn podman() -> Self {
        let scene = Self { engine: Engine::Podman, stage: stage() };
        scene.write_runtime("crun");
        let settings =
            "[engine]\nlock_type = \"file\"\nevents_logger = \"none\"\n[containers]\nlog_driver = \"none\"\n";
        fs::write(scene.stage.path("containers.conf"), settings).unwrap();
        // Have the daemon listen before the container's program runs.
        let (hooks, config) = (scene.stage.path("hooks"), scene.stage.path("interceptor.toml"));
        fs::create_dir(&hooks).unwrap();
        let hook = json!({
            "version": "1.0.0", "when": { "always": true }, "stages": ["createRuntime"],
            "hook": { "path": BINARY, "args": ["interceptor", "--config", config, "oci-hook"] },
        });
        fs::write(hooks.join("interceptor.json"), hook.to_string()).unwrap();
        scene
    }

    fn docker() -> Self {
        // No network is made.
        Self::docker_with(&[
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--ip-masq=false",
            "--ip-forward=false",
        ])
    }

    /// With a network of its own: a bridge in the stage's namespace, and a way out by translated addresses.
    fn docker_with_bridge() -> Self {
        Self::docker_with(&[&format!("--bip={BRIDGE4}/24"), "--ip6tables=false", "--userland-proxy=false"])
    }

    fn docker_with(network: &[&str]) -> Self {
        let stage = stage();
        let mut daemon = Command::new("unshare");
        daemon.args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            ONLY_V2,
            "sh",
            "dockerd",
        ]);
        let at = |name: &str| stage.path(name).display().to_string();
        daemon.args(["--data-root", &at("docker"), "--exec-root", &at("docker-run"), "--pidfile", &at("docker.pid")]);
        daemon.args(["--host", &format!("unix://{}", at("docker.sock")), "--storage-driver", "vfs"]);
        daemon.args(network);
        daemon.args(["--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", &stage.world.agents_cgroup()]);
        daemon.args(["--add-runtime", &format!("bare={}", at("runtime")), "--default-runtime", "bare"]);
        let log = fs::File::create(stage.path("docker.log")).unwrap();
        daemon.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = stage.world.spawn_in(Place::Outside, daemon).expect("this test needs dockerd");
        let scene = Self { engine: Engine::Docker(daemon), stage };
        scene.write_runtime("runc");
        let answers = || scene.run(&["version"]).status.success();
        let ready = (0..200).any(|_| answers() || (sleep(Duration::from_millis(100)), false).1);
        assert!(ready, "dockerd: {}", fs::read_to_string(scene.stage.path("docker.log")).unwrap());
        scene
    }

    fn write_runtime(&self, program: &str) {
        let path = self.stage.path("runtime");
        let state = self.stage.path("runtime-state").display().to_string();
        let text = include_str!("runtime.py").replace("@PROGRAM@", program).replace("@STATE@", &state);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }

    /// The engine's own program.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.args([SECONDS, "unshare", "--mount", "sh", "-c", ONLY_V2, "sh"]);
        let at = |name: &str| self.stage.path(name).display().to_string();
        match self.engine {
            Engine::Podman => {
                command.args([
                    "podman",
                    "--root",
                    &at("podman"),
                    "--runroot",
                    &at("podman-run"),
                    "--tmpdir",
                    &at("podman-tmp"),
                ]);
                command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", &at("runtime")]);
                command.args(["--hooks-dir", &at("hooks")]).env("CONTAINERS_CONF", at("containers.conf"));
            }
            Engine::Docker(_) => {
                command.args(["docker", "--host", &format!("unix://{}", at("docker.sock"))]).env("HOME", at(""));
            }
        }
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.stage
            .world
            .spawn_in(Place::Outside, command)
            .unwrap()
            .wait_with_output()
            .expect("this test needs the engine")
    }

    fn must(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}\n{}", said(&output), self.stage.log());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Makes a container that runs these statements, and gives its id.
    fn create(&self, network: &str, statement: &str) -> String {
        let url = format!("postgres://billing:the-shared-password@{HOST}:5432/{DATABASE}?sslmode=disable");
        let psql = psql();
        let words = ["/bin/sh", "-c", AGAIN, "sh", &psql, "-X", "-t", "-A", &url, "-c", statement];
        self.create_with(network, &self.stage.world.agents_cgroup(), &words)
    }

    /// Makes a container that runs this in a cgroup below that one, and gives its id.
    fn create_with(&self, network: &str, parent: &str, words: &[&str]) -> String {
        let user = format!("{AGENT_UID}:{AGENT_UID}");
        let (host, token) = (format!("{HOST}:{FAR4}"), format!("{}:/token:ro", self.stage.path("token").display()));
        let mut create = vec!["create", "--network", network, "--cap-drop", "all", "--user", &user, "-v", &token];
        create.extend(["--cgroup-parent", parent, "--security-opt", "no-new-privileges"]);
        if network != "host" {
            create.extend(["--add-host", &host]);
        }
        let binds: Vec<String> = binds().collect();
        binds.iter().for_each(|bind| create.extend(["-v", bind]));
        let image = self.image();
        if matches!(self.engine, Engine::Podman) {
            create.push("--rootfs");
        }
        create.push(&image);
        create.extend(words);
        self.must(&create)
    }

    /// Nothing but folders; what runs in it is the host's.
    fn image(&self) -> String {
        let root = self.stage.path("rootfs");
        for folder in ["usr", "bin", "sbin", "lib", "lib64", "etc", "proc", "sys", "dev", "tmp", "run"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let root = root.display().to_string();
        match self.engine {
            Engine::Podman => root,
            Engine::Docker(_) => {
                let archive = self.stage.path("image.tar").display().to_string();
                assert!(Command::new("tar").args(["-C", &root, "-cf", &archive, "."]).status().unwrap().success());
                self.must(&["import", &archive, "folders"]);
                "folders".to_owned()
            }
        }
    }

    /// Has the configuration know the container, as whoever runs it would, without a restart.
    fn know(&self, id: &str) {
        let path = self.stage.path("interceptor.toml");
        let text = fs::read_to_string(&path).unwrap();
        let agent = format!(
            "[[agent]]\nname = \"contained-bot\"\nmatch = {{ container = \"{id}\", uid = {AGENT_UID} }}\n\
             token = {{ issuer = \"corp\", from = \"file:/token\", subject = \"svc:billing\", groups = [\"finance\"] }}\n"
        );
        fs::write(path, format!("{text}\n{agent}")).unwrap();
        operate(&self.stage, 0, &["reload"]);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Engine::Docker(daemon) = &mut self.engine {
            // With it, all that it started: they have its pids.
            let _gone = daemon.kill();
            let _gone = daemon.wait();
        }
    }
}

fn stage() -> Stage {
    Stage::set(Path::new(BINARY), &Script::default()).unwrap_or_else(|error| panic!("no stage: {error}"))
}

fn binds() -> impl Iterator<Item = String> {
    let folders = ["/usr", "/bin", "/sbin", "/lib", "/lib64"].into_iter().map(PathBuf::from);
    folders.filter(|path| path.exists()).map(|path| format!("{0}:{0}:ro", path.display()))
}

/// Reads, is masked, and is known; another one with the same token is nobody.
fn is_governed(scene: &Scene) {
    let id = scene.create("none", "SELECT name, card FROM customers WHERE id = 1");
    assert_eq!(id.len(), 64, "{id}");
    scene.know(&id);
    let read = scene.must(&["start", "--attach", &id]);
    assert_eq!(read, "Ada Lovelace|************1111", "{}", scene.stage.log());
    let sessions = operate(&scene.stage, 0, &["recordings", "list", "--json"]);
    assert!(sessions.contains("contained-bot"), "{sessions}");
    let other = scene.create("none", "SELECT 1");
    let refused = scene.run(&["start", "--attach", &other]);
    assert!(!refused.status.success() && said(&refused).contains("contained-bot"), "{}", said(&refused));
    // In the host's network, the same.
    let beside = scene.create("host", "SELECT 1");
    let refused = scene.run(&["start", "--attach", &beside]);
    assert!(!refused.status.success() && said(&refused).contains("FATAL:  interceptor"), "{}", said(&refused));
    for container in [&id, &other, &beside] {
        scene.must(&["rm", "--force", container]);
    }
}

#[test]
fn a_container_of_podmans_is_known_by_its_id() {
    let scene = Scene::podman();
    is_governed(&scene);
    // The hook had the daemon listen before the first connect.
    assert!(!scene.stage.log().contains("no listener"), "{}", scene.stage.log());
}

#[test]
fn a_container_of_dockers_is_known_by_its_id() {
    is_governed(&Scene::docker());
}

/// What a container with a way out tries: another host, the host beside it by its bridge, and a neighbour on it, over TCP and UDP.
const TRIES: &str = r#"
import errno, json, socket, sys, time
def tcp(host, port):
    s = socket.socket(); s.settimeout(3); s.connect((host, port)); s.sendall(b"q")
    return s.recv(7).decode() or "closed"
def udp(host, port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3); s.sendto(b"q", (host, port))
    return s.recv(7).decode()
def tried(way, host, port):
    try: return way(host, port)
    except TimeoutError: return "silence"
    except ConnectionResetError: return "closed"
    except OSError as error: return errno.errorcode.get(error.errno, str(error))
far, bridge, neighbour = sys.argv[1:]
for _ in range(100):
    if tried(tcp, far, 7000) != "ECONNREFUSED": break
    time.sleep(0.1)
print(json.dumps([tried(way, host, 7000) for host in (far, bridge, neighbour) for way in (tcp, udp)]))
"#;

/// Answers whoever asks, over TCP and UDP.
const ANSWERS: &str = r#"
import socket, threading
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("0.0.0.0", 7000))
l = socket.create_server(("0.0.0.0", 7000))
def datagrams():
    while True: u.sendto(b"reached", u.recvfrom(9)[1])
threading.Thread(target=datagrams, daemon=True).start()
print("ready", flush=True)
while True:
    try:
        with l.accept()[0] as s: s.sendall(b"reached"); s.recv(9)
    except OSError: pass
"#;

#[test]
fn a_bridge_of_dockers_leads_a_governed_container_nowhere() {
    let scene = Scene::docker_with_bridge();
    let world = &scene.stage.world;
    let _servers = [Place::Far, Place::Outside].map(|place| Server::start(&scene.stage, place));
    let free = world.cgroup(Place::Outside);
    let neighbour = scene.create_with("bridge", &free, &["/usr/bin/python3", "-c", ANSWERS]);
    scene.must(&["start", &neighbour]);
    let address = scene.must(&["inspect", "--format", "{{.NetworkSettings.IPAddress}}", &neighbour]);
    let far = FAR4.to_string();
    let tries = ["/usr/bin/python3", "-c", TRIES, &far, BRIDGE4, &address];
    // Where nobody is governed, the network leads everywhere.
    let control = scene.create_with("bridge", &free, &tries);
    let reached = scene.must(&["start", "--attach", &control]);
    assert_eq!(reached, r#"["reached", "reached", "reached", "reached", "reached", "reached"]"#);

    let wire = world.sniff().unwrap();
    let agent = scene.create_with("bridge", &world.agents_cgroup(), &tries);
    let found = scene.must(&["start", "--attach", &agent]);
    // Once there is a listener, connections are taken, and lead to no target.
    assert_eq!(found, r#"["closed", "EPERM", "closed", "EPERM", "closed", "EPERM"]"#, "{}", scene.stage.log());
    assert_eq!(wire.seen(), [], "{}", scene.stage.log());
    drop(wire);
    // And by it, as without a network, it is who it is.
    let known = scene.create("bridge", "SELECT name, card FROM customers WHERE id = 1");
    scene.know(&known);
    assert_eq!(scene.must(&["start", "--attach", &known]), "Ada Lovelace|************1111", "{}", scene.stage.log());
    for container in [&neighbour, &control, &agent, &known] {
        scene.must(&["rm", "--force", container]);
    }
}

/// Something that answers, until it is dropped.
struct Server(Child);

impl Server {
    fn start(stage: &Stage, place: Place<'_>) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", ANSWERS]).stdout(Stdio::piped());
        let mut child = stage.world.spawn_in(place, command).unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}
