//! Where attempts run: a world with servers and, but for the control, a daemon.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use interceptor::capture::{Config, Resolver, cgroup};
use interceptor::testing::world::{FAR4, FAR6, Place, World};
use serde_json::{Value, json};

use super::daemon::Daemon;
use super::row::{By, Site};

pub(crate) const AGENT: u32 = 1000;
/// How long a program may take to say its next line.
const PATIENCE: Duration = Duration::from_secs(20);
const SHARED: &str = include_str!("attempt.py");
const FAR: &str = include_str!("far.py");
const PROGRAMS: [(&str, &str, &[&str]); 3] = [
    ("raw", include_str!("raw.c"), &[]),
    ("forks", include_str!("forks.c"), &[]),
    ("preload.so", include_str!("preload.c"), &["-shared", "-fPIC"]),
];

pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) config: Config,
    pub(crate) daemon: Option<Daemon>,
    far: Child,
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
        Self { world, config, daemon: None, far }
    }

    /// A world whose agents are governed.
    pub(crate) fn governed(site: Site) -> Self {
        let mut stage = Self::open(site);
        stage.attend();
        if site == Site::Unattended {
            stage.daemon.take().unwrap().kill();
        }
        stage
    }

    /// Starts the daemon.
    pub(crate) fn attend(&mut self) {
        self.daemon = Some(Daemon::start(&self.world, &self.config).unwrap_or_else(|words| panic!("{words}")));
    }

    /// Starts a program in a place.
    pub(crate) fn start(&self, place: Place<'_>, by: By, mut command: Command) -> Process {
        command.env("BYPASS_DIR", self.world.directory()).env("BYPASS_FAR", self.far.id().to_string());
        command.env("BYPASS_CGROUPS", cgroup_root(&self.world));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let uid = (by == By::User).then_some(AGENT);
        Process::new(self.world.spawn_as(place, uid, command).unwrap())
    }

    /// Runs the body of a Python function in a place, and gives what it came to.
    pub(crate) fn python(&self, place: Place<'_>, by: By, body: &str) -> Value {
        self.start(place, by, attempt(by, body)).value()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _gone = self.far.kill();
        let _gone = self.far.wait();
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
        }
    }
}

/// The directory that holds the world's cgroups.
fn cgroup_root(world: &World) -> std::path::PathBuf {
    let agents = cgroup::mount().unwrap().join(world.agents_cgroup().trim_start_matches('/'));
    agents.parent().unwrap().to_path_buf()
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

fn build() -> PathBuf {
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
    if !go.status().is_ok_and(|status| status.success()) {
        eprintln!("no Go: the static program is left out");
        let _absent = std::fs::remove_file(directory.join("static"));
    }
    directory
}

/// Python code after what all share.
pub(crate) fn python(code: &str) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", &format!("{SHARED}\n{code}")]);
    command
}

/// A program whose one function has this body, and which prints what that came to.
pub(crate) fn attempt(by: By, body: &str) -> Command {
    let lines: String = body.lines().map(|line| format!("    {line}\n")).collect();
    let limit = if by == By::Container { "keep(CONTAINER)\n" } else { "" };
    python(&format!(
        "{limit}def t():\n{lines}    return None\nresult = attempt(t)\nout({{\"pid\": SELF or os.getpid(), **result}})"
    ))
}

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

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line, or what stands for its absence.
    pub(crate) fn value(&self) -> Value {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => serde_json::from_str(&line).unwrap_or_else(|_| json!({ "broken": line })),
            Err(_) => json!({ "broken": "it said nothing" }),
        }
    }

    /// Every line up to the end.
    pub(crate) fn all(&self, limit: Duration) -> Vec<String> {
        std::iter::from_fn(|| self.lines.recv_timeout(limit).ok()).collect()
    }

    /// Waits until it is ready.
    pub(crate) fn ready(&self) {
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
