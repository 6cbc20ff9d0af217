//! What an agent does to the daemon, rather than to get past it: its process, its socket, its kernel programs.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use interceptor::capture::Refusal;
use interceptor::testing::world::Place;

use super::row::{By, EPERM, Expected, Level, Row, Site};
use super::run::Played;
use super::stage::{Stage, attempt, patience};

pub(crate) fn rows() -> Vec<Row> {
    [process(), programs(), socket()].into_iter().flatten().collect()
}

/// The daemon is root here; installed, it is a user that no agent is.
fn process() -> Vec<Row> {
    const TRACE: &str = "return call(libc.ptrace, 0x4206, int(DAEMON), None, None) == 0 and 'traced'";
    let refused = |name, body, errno| Row::python(name, body).kernel(errno);
    vec![
        refused("the daemon, traced", TRACE, EPERM).launched(Expected::Errno(EPERM)),
        refused("the daemon, traced", TRACE, EPERM).by(By::Container),
        Row::python("the daemon, traced", TRACE)
            .by(By::Root)
            .open("no root; lsm ptrace_access_check")
            .modules(Refusal::Process)
            .launched(Expected::Errno(EPERM)),
        refused(
            "the daemon's sockets, by pidfd_getfd(2)",
            "return call(libc.syscall, 438, call(libc.syscall, 434, int(DAEMON), 0), 3, 0)",
            EPERM,
        )
        .launched(Expected::Errno(EPERM)),
        refused("the daemon's memory", "return open(f'/proc/{DAEMON}/mem', 'r+b') and 'open'", libc::EACCES)
            .launched(Expected::Errno(libc::EACCES)),
        refused("the daemon, killed", "os.kill(int(DAEMON), 9)", EPERM).launched(Expected::Errno(EPERM)),
    ]
}

fn programs() -> Vec<Row> {
    vec![
        Row::python(
            "a program that permits everything, above the governed cgroup, to be overridden",
            "return permits(18, 10, CGROUPS, 1)",
        )
        .kernel(EPERM)
        .launched(Expected::Errno(EPERM)),
        Row::scene("programs that permit everything, above, at and below the governed cgroup, then TCP", overridden)
            .by(By::Root)
            .captured("10.99.0.2:7000")
            .launched_too()
            .closed_by("C: the kernel runs all programs of a cgroup and of those above"),
    ]
}

fn socket() -> Vec<Row> {
    vec![
        Row::scene("the daemon's admin socket", asked_by_user)
            .in_vain()
            .launched_too()
            .closed_by("root's alone, mode 600"),
        Row::scene("the daemon's admin socket", asked_by_root)
            .by(By::Container)
            .in_vain()
            .modules(Refusal::LocalSocket)
            .closed_by("the daemon: not from a governed cgroup"),
    ]
}

fn overridden(level: Level) -> Played {
    let stage = Stage::governed(Site::Four);
    let wire = stage.world.sniff().unwrap();
    let value = stage.start_agent(level, "one", By::Root, attempt(By::Root, OVERRIDES)).value();
    let seen = wire.count();
    Played { stage, value, seen }
}

fn asked_by_user(level: Level) -> Played {
    asked(level, By::User)
}

fn asked_by_root(level: Level) -> Played {
    asked(level, By::Container)
}

/// The real daemon: the one that answers in other rows has no such socket.
fn asked(level: Level, by: By) -> Played {
    let stage = Stage::open(Site::Four);
    let mut daemon = Real::start(&stage);
    daemon.answers(&stage);
    let value = stage.start_agent(level, "one", by, attempt(by, ADMIN)).value();
    Played { stage, value, seen: 0 }
}

/// `interceptor run`, ended when dropped.
struct Real(Child);

impl Real {
    fn start(stage: &Stage) -> Self {
        let directory = stage.world.directory();
        let config = directory.join("real.toml");
        std::fs::write(&config, configuration(stage, directory)).unwrap();
        std::fs::create_dir(directory.join("policies")).unwrap();
        let policies = include_str!("../../../policies/baseline.cedar");
        std::fs::write(directory.join("policies/baseline.cedar"), policies).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_interceptor"));
        command.arg("--config").arg(&config).arg("run").stdout(Stdio::null()).stderr(Stdio::null());
        Self(stage.world.spawn_in(Place::Daemon, command).unwrap())
    }

    /// Waits until it answers who may ask: otherwise a refusal shows nothing.
    fn answers(&mut self, stage: &Stage) {
        for _ in 0..200 {
            if stage.python(Place::Outside, By::Root, ADMIN)["ok"] == "200" {
                return;
            }
            assert!(self.0.try_wait().unwrap().is_none(), "it has ended");
            std::thread::sleep(patience(Duration::from_millis(50)));
        }
        panic!("nobody answers at the admin socket");
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

fn configuration(stage: &Stage, directory: &Path) -> String {
    let (path, agents, daemon) = (directory.display(), stage.world.agents_cgroup(), stage.world.cgroup(Place::Daemon));
    let pins = stage.config.pin_directory.display();
    format!(
        r#"
[capture]
cgroups = ["{agents}"]
daemon_cgroup = "{daemon}"
pin_directory = "{pins}"
resolver = "none"
namespaces = 0

[admin]
socket = "{path}/admin.sock"

[record]
spool = "{path}/spool"
key = "{path}/spool.key"

[policy]
dir = "{path}/policies"

[approval]
state = "{path}/approvals"
"#
    )
}

/// Whatever is refused of it, the connection is what counts.
const OVERRIDES: &str = "
for directory in (CGROUPS, CGROUPS + '/agents', CGROUPS + '/agents/one'):
    for kind, attach in ((8, 1), (18, 10)):
        for flags in (0, 1, 2): attempt(lambda: permits(kind, attach, directory, flags))
return talk(FAR4)";

const ADMIN: &str = "
s = socket.socket(UNIX, TCP)
s.settimeout(5)
s.connect(DIR + '/admin.sock')
s.sendall(b'GET /v1/status HTTP/1.1\\r\\nHost: interceptor\\r\\nConnection: close\\r\\n\\r\\n')
code = s.recv(4096).split(b' ')[1].decode()
return None if code == '403' else code";
