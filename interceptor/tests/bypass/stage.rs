//! Where attempts run: a world with servers and, but for the control, a daemon.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use interceptor::capture::{Config, Resolver, cgroup};
use interceptor::testing::world::{self, FAR4, FAR6, Place, World};
use serde_json::{Value, json};

use super::daemon::{self, Daemon};
use super::row::{By, Level, Site};

pub(crate) const AGENT: u32 = 1000;
/// How long a program may take to say its next line.
const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) use interceptor::testing::patience::patience;

const FAR: &str = include_str!("far.py");
const CONFIGURATION: &str = "interceptor.toml";
const PROGRAMS: [(&str, &str, &[&str]); 3] = [
    ("raw", include_str!("raw.c"), &[]),
    ("forks", interceptor::testing::forks::SOURCE, &[]),
    ("preload.so", include_str!("preload.c"), &["-shared", "-fPIC"]),
];

pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) config: Config,
    pub(crate) daemon: Option<Daemon>,
    far: Child,
    /// Folders that everybody may write to, beside the world's directory.
    elsewhere: [PathBuf; 2],
}

impl Stage {
    /// A world that nobody governs.
    pub(crate) fn open(site: Site) -> Self {
        let world = World::new(&[]).expect("these tests need root, cgroup v2, bpffs, and `ip`");
        provide(world.directory());
        let resolver = if site == Site::Six { (FAR6, 53).into() } else { (FAR4, 53).into() };
        let config = Config {
            cgroups: vec![world.agents_cgroup()],
            daemon_cgroup: Some(world.cgroup(Place::Daemon)),
            pin_directory: world.pins().join("interceptor"),
            resolver: Resolver::At(resolver),
            // The one name that the attempts may ask for.
            dns_names: vec!["asked".to_owned()],
            // Nobody is there: what goes to the resolver by the permitted way does not reach the wire.
            dns_upstream: Some("127.0.0.1:15054".parse().unwrap()),
            ..Config::default()
        };
        let mut far = python(FAR);
        far.stdout(Stdio::piped());
        let mut far = world.spawn_in(Place::Far, far).unwrap();
        let mut line = String::new();
        BufReader::new(far.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "\"ready\"");
        configure(&world, &config);
        let elsewhere = ["/var/lib", "/dev/shm"].map(|folder| elsewhere(folder, &world));
        Self { world, config, daemon: None, far, elsewhere }
    }

    /// A world whose agents are governed.
    pub(crate) fn governed(site: Site) -> Self {
        let mut stage = Self::open(site);
        stage.attend();
        if site == Site::Unattended {
            stage.daemon.take().unwrap().kill().unwrap();
        }
        stage
    }

    /// Starts the daemon.
    pub(crate) fn attend(&mut self) {
        self.daemon = Some(daemon::start(&self.world, &self.config).unwrap_or_else(|words| panic!("{words}")));
    }

    /// Starts a program in a place.
    pub(crate) fn start(&self, place: Place<'_>, by: By, mut command: Command) -> Process {
        command.env("BYPASS_DIR", self.world.directory()).env("BYPASS_FAR", self.far.id().to_string());
        if let Some(daemon) = &self.daemon {
            command.env("BYPASS_DAEMON", daemon.id().to_string());
        }
        command.env("BYPASS_CGROUPS", cgroup_root(&self.world)).env("BYPASS_ELSEWHERE", &self.elsewhere[0]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let uid = (by == By::User).then_some(AGENT);
        Process::new(self.world.spawn_as(place, uid, command).unwrap())
    }

    /// Starts a program as an agent.
    pub(crate) fn start_agent(&self, level: Level, cgroup: &str, by: By, command: Command) -> Process {
        match level {
            Level::Adopted => self.start(Place::Agent(cgroup), by, command),
            Level::Launched => self.start(Place::Outside, By::Root, self.launch(&command)),
        }
    }

    /// The command that starts another as a launched agent. Of the world's directory it sees the programs alone.
    pub(crate) fn launch(&self, command: &Command) -> Command {
        let mut launch = Command::new(env!("CARGO_BIN_EXE_interceptor"));
        launch.arg("--config").arg(self.world.directory().join(CONFIGURATION)).args(["exec", "--agent", "bypasser"]);
        let programs = PROGRAMS.map(|(name, _, _)| name).into_iter().chain(["static", "set-user-id", "capable"]);
        for program in programs.map(|name| self.world.directory().join(name)).filter(|path| path.exists()) {
            launch.arg("--keep").arg(program);
        }
        launch.arg("--").arg(command.get_program()).args(command.get_args()).current_dir("/");
        launch.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        launch
    }

    /// Runs the body of a Python function in a place, and gives what it came to.
    pub(crate) fn python(&self, place: Place<'_>, by: By, body: &str) -> Value {
        self.start(place, by, attempt(by, body)).value()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for folder in &self.elsewhere {
            let _gone = std::fs::remove_dir_all(folder);
        }
        let _gone = self.far.kill();
        let _gone = self.far.wait();
        if let Some(daemon) = self.daemon.take() {
            let _gone = daemon.kill();
        }
    }
}

/// The directory that holds the world's cgroups.
fn cgroup_root(world: &World) -> std::path::PathBuf {
    let agents = cgroup::mount().unwrap().join(world.agents_cgroup().trim_start_matches('/'));
    agents.parent().unwrap().to_path_buf()
}

/// What `interceptor exec` reads. The agent is the user that others in the world are as well: the harder case.
fn configure(world: &World, capture: &Config) {
    let directory = world.directory();
    let (path, agents) = (directory.display(), world.agents_cgroup());
    let daemon = world.cgroup(Place::Daemon);
    let pins = capture.pin_directory.display();
    std::fs::create_dir(directory.join("token")).unwrap();
    let text = format!(
        r#"
[capture]
cgroups = ["{agents}"]
daemon_cgroup = "{daemon}"
pin_directory = "{pins}"
resolver = "none"

[admin]
socket = "{path}/admin.sock"

[[issuer]]
name = "corp"
kind = "oidc"
issuer = "https://idp.corp.example"
audience = "interceptor"
jwks = "{path}/jwks.json"

[[agent]]
name = "bypasser"
match = {{ cgroup = "{agents}/launched-*", uid = {AGENT} }}
token = {{ issuer = "corp", from = "file:{path}/token/token", subject = "svc:bypasser" }}
"#
    );
    std::fs::write(directory.join(CONFIGURATION), text).unwrap();
}

/// A folder in another one, named as the world is. Those of worlds that were killed go.
fn elsewhere(folder: &str, world: &World) -> PathBuf {
    let is_stale = |name: &str| {
        let pid = name.strip_prefix("interceptor-test-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    };
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.file_name().to_str().is_some_and(is_stale) {
            let _gone = std::fs::remove_dir_all(entry.path());
        }
    }
    let path = Path::new(folder).join(world.directory().file_name().unwrap());
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    path
}

/// Puts the programs into the world's directory, and makes a place where everybody may write.
fn provide(directory: &Path) {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(build);
    for name in PROGRAMS.map(|(name, _, _)| name).into_iter().chain(["static"]) {
        // The Go program is missing where there is no Go: its row says so.
        let _missing = std::fs::copy(built.join(name), directory.join(name));
    }
    for (name, mode) in [("set-user-id", 0o4755), ("capable", 0o755)] {
        std::fs::copy(built.join("raw"), directory.join(name)).unwrap();
        std::fs::set_permissions(directory.join(name), Permissions::from_mode(mode)).unwrap();
    }
    std::fs::create_dir(directory.join("open")).unwrap();
    std::fs::set_permissions(directory.join("open"), Permissions::from_mode(0o777)).unwrap();
    // Version 2, effective, CAP_NET_RAW, as ping has it.
    let give = "import os, struct, sys\n\
                os.setxattr(sys.argv[1], 'security.capability', struct.pack('<5I', 0x02000001, 1 << 13, 0, 0, 0))";
    let given = Command::new("/usr/bin/python3").args(["-c", give]).arg(directory.join("capable")).status();
    assert!(given.unwrap().success());
}

/// Names a folder with the programs, built elsewhere: for hosts without compilers.
const BUILT: &str = "INTERCEPTOR_BYPASS_PROGRAMS";

/// Builds the programs for a run with [`BUILT`].
#[test]
#[ignore = "by itself it shows nothing"]
fn compiles() {
    build();
}

fn build() -> PathBuf {
    if let Some(built) = std::env::var_os(BUILT) {
        return built.into();
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bypass");
    std::fs::create_dir_all(&directory).unwrap();
    for (name, source, flags) in PROGRAMS {
        let file = directory.join(format!("{name}.c"));
        std::fs::write(&file, source).unwrap();
        let built = Command::new("cc").args(["-O1", "-o"]).arg(directory.join(name)).args(flags).arg(&file).status();
        assert!(built.expect("these tests need a C compiler").success(), "{name} does not compile");
    }
    let source = directory.join("static.go");
    std::fs::write(&source, include_str!("static.go")).unwrap();
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/go");
    std::fs::create_dir_all(&cache).unwrap();
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(directory.join("static")).arg(&source).env("CGO_ENABLED", "0");
    go.env("GOCACHE", cache.canonicalize().unwrap()).env("GO111MODULE", "off").env("GOFLAGS", "");
    match go.status() {
        Ok(built) => assert!(built.success(), "static.go does not compile"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("no Go: the static program is left out");
            let _absent = std::fs::remove_file(directory.join("static"));
        }
        Err(error) => panic!("go: {error}"),
    }
    directory
}

/// Python code after what all share.
pub(crate) fn python(code: &str) -> Command {
    world::python(include_str!("attempt.py"), code)
}

/// A program whose one function has this body, and which prints what that came to.
pub(crate) fn attempt(by: By, body: &str) -> Command {
    let lines: String = body.lines().map(|line| format!("    {line}\n")).collect();
    let limit = if by == By::Container { "keep(CONTAINER)\n" } else { "" };
    python(&format!(
        "{limit}def t():\n{lines}    return None\nresult = attempt(t)\nout({{\"pid\": SELF or os.getpid(), **result}})"
    ))
}

/// How `interceptor exec` ends where it starts nothing.
const NOT_STARTED: i32 = 2;

/// A program that talks in lines of JSON, and is killed when dropped.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    fn new(mut child: Child) -> Self {
        let reader = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        // Ends with the program's output, or with the receiver.
        std::thread::spawn(move || reader.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { stdin: child.stdin.take(), child, lines }
    }

    /// What stands for the next line, where there is none: the signal that killed it, or why it was not started.
    fn end(&mut self) -> Value {
        if self.lines.recv_timeout(Duration::ZERO) != Err(RecvTimeoutError::Disconnected) {
            return json!({ "broken": "it said nothing" });
        }
        let status = self.child.wait().unwrap();
        match (status.signal(), status.code()) {
            (Some(signal), _) => json!({ "killed": signal }),
            (None, Some(NOT_STARTED)) => json!({ "refused": true }),
            (None, code) => json!({ "broken": format!("it said nothing: {code:?}") }),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line, or what stands for its absence.
    pub(crate) fn value(&mut self) -> Value {
        match self.lines.recv_timeout(patience(PATIENCE)) {
            Ok(line) => serde_json::from_str(&line).unwrap_or_else(|_| json!({ "broken": line })),
            Err(_) => self.end(),
        }
    }

    /// Every line up to the end.
    pub(crate) fn all(&self, limit: Duration) -> Vec<String> {
        std::iter::from_fn(|| self.lines.recv_timeout(limit).ok()).collect()
    }

    /// Waits until it is ready.
    pub(crate) fn ready(&mut self) {
        assert_eq!(self.value(), "ready");
    }

    /// Lets it go on.
    pub(crate) fn go(&mut self) {
        let _gone = self.stdin.take().map(|mut stdin| stdin.write_all(b"\n"));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
