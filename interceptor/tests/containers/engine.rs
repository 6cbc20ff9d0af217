//! Containers of a real runtime (crun) against the whole program and a real PostgreSQL.
//!
//! The runtime sees the unified hierarchy alone, as on a host that has no other, whatever this one has.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use interceptor::capture::cgroup;
use interceptor::testing::stage::{AGENT_UID, DATABASE, HOST, Script, Stage};
use interceptor::testing::world::{self, FAR4, Place};
use serde_json::{Value, json};

use super::scene::{Agent, SHARED};

/// As a container's engine draws it.
pub(super) const ID: &str = "4f1b6c0e6a2d9c8b7a6f5e4d3c2b1a09876543210fedcba9876543210abcdef0";
pub(super) const OTHER: &str = "00000c0e6a2d9c8b7a6f5e4d3c2b1a09876543210fedcba9876543210abcdef0";
const BINARY: &str = env!("CARGO_BIN_EXE_interceptor");
/// Nobody stays longer.
const SECONDS: &str = "90";

/// One container: an agent whom its id names, and whose token lies inside.
pub(super) struct Container<'a> {
    stage: &'a Stage,
    bundle: PathBuf,
    id: &'a str,
    announced: bool,
}

/// An agent that is a container, and a target on the host's own loopback.
fn stage() -> Stage {
    stage_with(Script::default())
}

pub(super) fn stage_with(script: Script) -> Stage {
    let configuration = format!(
        r#"
[[agent]]
name = "contained-bot"
match = {{ container = "{ID}", uid = {AGENT_UID} }}
token = {{ issuer = "corp", from = "file:/run/token", subject = "svc:contained", groups = ["finance"] }}

[[target]]
name = "host-db"
protocol = "postgres"
hosts = ["127.0.0.1:5432"]
tls = {{ upstream = "disable" }}
credential = {{ user = "nobody", password = "file:/nonexistent" }}
"#
    );
    let script = Script { configuration, ..script };
    Stage::set(Path::new(BINARY), &script).unwrap_or_else(|error| panic!("no stage: {error}"))
}

impl<'a> Container<'a> {
    pub(super) fn new(stage: &'a Stage, id: &'a str, announced: bool) -> Self {
        let bundle = stage.path(&format!("bundle-{}", id.get(..8).unwrap()));
        let root = bundle.join("rootfs");
        for folder in ["usr", "bin", "sbin", "lib", "lib64", "etc", "proc", "dev", "tmp", "run"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("etc/hosts"), format!("127.0.0.1 localhost\n{FAR4} {HOST}\n")).unwrap();
        fs::write(root.join("etc/passwd"), format!("agent:x:{AGENT_UID}:{AGENT_UID}::/:/bin/sh\n")).unwrap();
        let token = stage.token("svc:contained", 3600).unwrap();
        fs::write(root.join("run/token"), token).unwrap();
        fs::set_permissions(root.join("run/token"), Permissions::from_mode(0o644)).unwrap();
        Self { stage, bundle, id, announced }
    }

    /// The runtime, as an engine calls it.
    fn run(&self, arguments: &[&str]) -> Command {
        let binds =
            ["usr", "bin", "sbin", "lib", "lib64"].into_iter().filter(|name| Path::new("/").join(name).exists());
        let mut mounts = vec![json!({ "destination": "/proc", "type": "proc", "source": "proc" })];
        mounts.extend(binds.map(|name| {
            let path = format!("/{name}");
            json!({ "destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"] })
        }));
        let config = self.stage.path("interceptor.toml");
        let hook = json!({ "path": BINARY, "args": ["interceptor", "--config", config, "oci-hook"] });
        let hooks = if self.announced { json!({ "createRuntime": [hook] }) } else { json!({}) };
        let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
        let spec = json!({
            "ociVersion": "1.0.0",
            "process": {
                "user": { "uid": AGENT_UID, "gid": AGENT_UID }, "args": arguments, "cwd": "/", "noNewPrivileges": true,
                "env": ["PATH=/usr/bin:/bin"], "capabilities": {},
            },
            "root": { "path": "rootfs", "readonly": true },
            "mounts": mounts,
            "hooks": hooks,
            "linux": { "cgroupsPath": self.cgroup(), "namespaces": namespaces },
        });
        fs::write(self.bundle.join("config.json"), spec.to_string()).unwrap();
        let only_v2 = "umount -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";
        let mut command = Command::new("timeout");
        command.args([SECONDS, "unshare", "-m", "sh", "-c", only_v2, "sh", "crun", "--root"]);
        command.arg(self.bundle.join("state")).args(["run", "--bundle"]).arg(&self.bundle).arg(self.id);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(super) fn cgroup(&self) -> String {
        format!("{}/{}", self.stage.world.agents_cgroup(), self.id)
    }

    fn output(&self, arguments: &[&str]) -> Output {
        let output = self.stage.world.spawn_in(Place::Outside, self.run(arguments)).unwrap().wait_with_output();
        output.expect("these tests need crun")
    }

    /// Runs psql in the container, against this host.
    pub(super) fn psql(&self, host: &str, statement: &str) -> Output {
        let url = format!("postgres://billing:the-shared-password@{host}:5432/{DATABASE}?sslmode=disable");
        self.output(&[&psql(), "-X", "-t", "-A", &url, "-c", statement])
    }

    /// Starts a program of Python in the container, which talks in lines.
    pub(super) fn start(&self, code: &str) -> Agent {
        let program = world::python(SHARED, code);
        let words = std::iter::once(program.get_program()).chain(program.get_args());
        let words: Vec<&str> = words.filter_map(|word| word.to_str()).collect();
        let mut command = self.run(&words);
        command.stderr(Stdio::inherit());
        Agent::of(self.stage.world.spawn_in(Place::Outside, command).unwrap())
    }
}

/// The program itself: Debian's wrapper wants more of its host.
pub(super) fn psql() -> String {
    let mut found: Vec<_> = fs::read_dir("/usr/lib/postgresql").unwrap().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found.pop().unwrap().join("bin/psql").display().to_string()
}

pub(super) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub(super) fn operate(stage: &Stage, code: i32, arguments: &[&str]) -> String {
    let output = stage.operate(arguments).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
    said(&output)
}

pub(super) fn status(stage: &Stage) -> Value {
    serde_json::from_str(&operate(stage, 0, &["status", "--json"])).unwrap()
}

/// Pid of the first process in a cgroup.
pub(super) fn process_of(cgroup: &str) -> u32 {
    let procs = cgroup::directory(cgroup).unwrap().join("cgroup.procs");
    let listed = fs::read_to_string(procs).unwrap();
    listed.lines().next().unwrap().parse().unwrap()
}

#[test]
fn a_container_is_known_by_its_id_and_its_own_token_from_its_first_connect_on() {
    let stage = stage();
    let container = Container::new(&stage, ID, true);
    let output = container.psql(HOST, "SELECT name, card FROM customers WHERE id = 1");
    assert_eq!(said(&output), "Ada Lovelace|************1111\n", "{}", stage.log());
    let open = &status(&stage)["namespaces"][0];
    assert_eq!((&open["cgroup"], &open["captured"]), (&json!(container.cgroup()), &json!(1)));
    assert!(operate(&stage, 0, &["status"]).contains("1 captured"));
    let sessions = operate(&stage, 0, &["recordings", "list", "--json"]);
    assert!(sessions.contains("contained-bot"), "{sessions}");
}

#[test]
fn an_unannounced_container_is_refused_once_and_another_one_is_nobody() {
    let stage = stage();
    let container = Container::new(&stage, ID, false);
    let agent = container.start("out(attempt(lambda: talk(FAR4, 5432)))\nout(until(lambda: socket.create_connection((FAR4, 5432)).getpeername()))\ngo()");
    assert_eq!(agent.value(), json!({ "errno": 111 }), "{}", stage.log());
    assert_eq!(agent.value(), json!({ "ok": ["10.99.0.2", 5432] }), "{}", stage.log());
    let pid = process_of(&container.cgroup());
    // What whoever asks is told of it.
    let who = operate(&stage, 0, &["whoami", "--pid", &pid.to_string()]);
    assert!(who.contains(ID) && who.contains("contained-bot") && who.contains("adopted"), "{who}");
    assert_eq!(operate(&stage, 0, &["adopt", "--pid", &pid.to_string()]).matches(ID).count(), 1);
    drop(agent);
    // The same image and token under another id.
    let other = Container::new(&stage, OTHER, true);
    let output = other.psql(HOST, "SELECT 1");
    assert!(!output.status.success() && said(&output).contains("contained-bot"), "{}", said(&output));
}

#[test]
fn nobody_is_led_from_a_container_to_the_hosts_own_addresses() {
    let stage = stage();
    let container = Container::new(&stage, ID, true);
    let output = container.psql("127.0.0.1", "SELECT 1");
    assert!(!output.status.success(), "{}", said(&output));
    assert!(
        stage.log().contains("127.0.0.1:5432 is an address of the agent's own network namespace"),
        "{}",
        stage.log()
    );
    assert!(!stage.log().contains("host-db"), "{}", stage.log());
    // On the host, the same address is the target.
    let mut near = Command::new(psql());
    near.args(["-X", "postgres://billing:x@127.0.0.1:5432/orders?sslmode=disable", "-c", "SELECT 1"]);
    let output = stage.run_agent(near).unwrap();
    assert!(!output.status.success() && said(&output).contains("FATAL"), "{}", said(&output));
}

#[test]
fn processes_that_are_no_agents_are_not_adopted() {
    let stage = stage();
    let mut sleep = Command::new("sleep");
    sleep.arg("60");
    let mut child = stage.world.spawn_in(Place::Outside, sleep).unwrap();
    let refused = operate(&stage, 2, &["adopt", "--pid", &child.id().to_string()]);
    assert!(refused.contains("which is not governed"), "{refused}");
    child.kill().unwrap();
    child.wait().unwrap();
    // The hook has nothing to do with what is not governed, nor keeps anybody from starting.
    let mut hook = stage.interceptor(&["--socket", "/nonexistent", "oci-hook"]);
    hook.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut hook = stage.world.spawn_in(Place::Outside, hook).unwrap();
    std::io::Write::write_all(&mut hook.stdin.take().unwrap(), br#"{"pid":1,"id":"x"}"#).unwrap();
    let output = hook.wait_with_output().unwrap();
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""));
}

#[test]
fn a_name_that_the_agent_could_have_given_and_rights_of_its_own_are_told() {
    let stage = stage();
    let parent = cgroup::directory(&stage.world.cgroup(Place::Agent("delegated"))).unwrap();
    fs::create_dir_all(parent.join(format!("docker-{ID}.scope"))).unwrap();
    std::os::unix::fs::chown(&parent, Some(AGENT_UID), Some(AGENT_UID)).unwrap();
    let place = format!("delegated/docker-{ID}.scope");
    let mut forged = Agent::start(&stage.world, Place::Agent(&place), Some(AGENT_UID), "out('ready')\ngo()");
    forged.ready();
    let who = operate(&stage, 1, &["whoami", "--pid", &forged.id().to_string()]);
    assert!(who.contains("others than root could have named it so"), "{who}");
    // Root in user and network namespaces of its own could send frames to whatever wire it is given there.
    let mut own = Agent::start(&stage.world, Place::Agent("billing"), Some(AGENT_UID), "own()\nout('ready')\ngo()");
    own.ready();
    let who = operate(&stage, 1, &["whoami", "--pid", &own.id().to_string()]);
    assert!(who.contains("privileged") && who.contains("CAP_NET_RAW"), "{who}");
}

#[test]
fn a_container_that_runs_already_is_enrolled_and_loses_what_it_had() {
    let stage = stage();
    // Outside of every governed cgroup, in the host's network, with a connection of its own and one that it inherited.
    let parent = stage.world.cgroup(Place::Outside);
    let cgroup = format!("{parent}/{ID}");
    fs::create_dir_all(cgroup::directory(&cgroup).unwrap()).unwrap();
    let code = format!(
        "inherited = socket.create_connection((FAR4, 5432))\n\
         open('{}/cgroup.procs', 'w').write('0')\nown = socket.create_connection((FAR4, 5432))\ndrop({AGENT_UID})\nout('ready')\n\
         go()\nfor s in (inherited, own):\n    s.settimeout(3)\n    out(attempt(lambda: s.sendall(b'x') or s.recv(1)))\n\
         out(attempt(lambda: socket.create_connection((FAR4, 5432)).getsockname()[0]))\ngo()\n\
         time.sleep(0.5)\nout(attempt(lambda: socket.create_connection((FAR4, 5432)).getsockname()[0]))",
        cgroup::directory(&cgroup).unwrap().display()
    );
    let mut agent = Agent::start(&stage.world, Place::Outside, None, &code);
    agent.ready();
    let short = ID.get(..8).unwrap();
    assert!(operate(&stage, 1, &["enroll", "--container", short]).contains("Nothing is changed"));
    assert!(operate(&stage, 2, &["enroll", "--yes", "--container", "ffffffff"]).contains("no cgroup is named"));
    let done = operate(&stage, 0, &["enroll", "--yes", "--container", short]);
    assert!(done.contains(&cgroup) && done.contains(" 2 connections"), "{done}");
    agent.tell("");
    for _ in 0..2 {
        let value = agent.value();
        assert!(value["errno"].is_number(), "cut off: {value}");
    }
    assert_eq!(agent.value(), json!({ "ok": "127.0.0.1" }), "captured");
    assert!(operate(&stage, 0, &["status"]).contains(&cgroup));
    for within in [parent, format!("{}/billing", stage.world.agents_cgroup())] {
        fs::create_dir_all(cgroup::directory(&within).unwrap()).unwrap();
        let refused = operate(&stage, 2, &["enroll", "--yes", "--cgroup", &within]);
        assert!(refused.contains("contains the other") || refused.contains("is governed"), "{within}: {refused}");
    }
    operate(&stage, 0, &["enroll", "--yes", "--undo", "--cgroup", &cgroup]);
    assert_eq!(agent.go(), json!({ "ok": "10.99.0.1" }), "free again");
    assert!(operate(&stage, 2, &["enroll", "--yes", "--undo", "--cgroup", &cgroup]).contains("is not governed"));
}
