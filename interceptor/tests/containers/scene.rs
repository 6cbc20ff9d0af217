//! What these tests do over and over: a world with a daemon, agents that are told to go on, cgroups that must be as before.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use interceptor::capture::{Config, Resolver};
use interceptor::testing::world::{self, FAR4, Place, World};
use serde_json::Value;

use super::daemon::Daemon;

/// User of the agents.
pub(crate) const AGENT: u32 = 1000;
pub(crate) const ECONNREFUSED: i64 = 111;
const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const SHARED: &str = include_str!("agent.py");
/// Answers whatever is asked, with the same question and the flags of an answer.
const RESOLVER: &str = "
s = socket.socket(INET, UDP)
s.bind((FAR4, 53))
out('ready')
while True:
    data, source = s.recvfrom(600)
    s.sendto(data[:2] + b'\\x81\\x80' + data[4:], source)";
/// Says `far` to whoever comes.
const SERVER: &str = "
import threading
def serve(host, family):
    l = socket.create_server((host, 7000), family=family)
    while True:
        with l.accept()[0] as s: s.sendall(b'\"far\"')
for host, family in ((FAR4, INET), (FAR6, INET6)): threading.Thread(target=serve, args=(host, family)).start()
out('ready')";

pub(crate) struct Scene {
    pub(crate) daemon: Daemon,
    pub(crate) servers: [Agent; 2],
    pub(crate) config: Config,
    pub(crate) world: World,
}

impl Scene {
    pub(crate) fn set() -> Self {
        Self::with(false, |_| {})
    }

    /// A daemon that opens namespaces when it is told to.
    pub(crate) fn by_hand() -> Self {
        Self::with(true, |_| {})
    }

    pub(crate) fn with(by_hand: bool, change: impl FnOnce(&mut Config)) -> Self {
        let world = World::new(&[]).expect("these tests need root, cgroup v2, bpffs, and `ip`");
        let mut config = Config {
            cgroups: vec![world.agents_cgroup()],
            daemon_cgroup: Some(world.cgroup(Place::Daemon)),
            pin_directory: world.pins().join("interceptor"),
            resolver: Resolver::At((FAR4, 53).into()),
            ..Config::default()
        };
        change(&mut config);
        let servers = [RESOLVER, SERVER].map(|code| {
            let mut server = Agent::start(&world, Place::Far, None, code);
            server.ready();
            server
        });
        let daemon = Daemon::start(&world, &config, by_hand);
        Self { daemon, servers, config, world }
    }

    /// Starts an agent's program as root, which gives that up by itself.
    pub(crate) fn agent(&self, cgroup: &str, code: &str) -> Agent {
        Agent::start(&self.world, Place::Agent(cgroup), None, code)
    }

    /// The same as the agent's user.
    pub(crate) fn user(&self, cgroup: &str, code: &str) -> Agent {
        Agent::start(&self.world, Place::Agent(cgroup), Some(AGENT), code)
    }
}

/// A program that talks in lines of JSON, and is killed when dropped.
pub(crate) struct Agent {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Agent {
    pub(crate) fn start(world: &World, place: Place<'_>, uid: Option<u32>, code: &str) -> Self {
        let mut command = world::python(SHARED, code);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self::of(world.spawn_as(place, uid, command).unwrap())
    }

    /// A program that was started elsewhere, with its input and output piped.
    pub(crate) fn of(mut child: Child) -> Self {
        let reader = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        // Ends with the program's output, or with the receiver.
        std::thread::spawn(move || reader.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { stdin: child.stdin.take().unwrap(), child, lines }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next thing it says.
    pub(crate) fn value(&self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE).expect("the program said nothing: see above");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"))
    }

    /// The next thing it says, where that comes in time.
    pub(crate) fn value_within(&self, limit: Duration) -> Option<Value> {
        serde_json::from_str(&self.lines.recv_timeout(limit).ok()?).ok()
    }

    pub(crate) fn ready(&mut self) {
        assert_eq!(self.value(), "ready");
    }

    /// Tells it to go on, and gives what it says next.
    pub(crate) fn go(&mut self) -> Value {
        self.tell("");
        self.value()
    }

    pub(crate) fn tell(&mut self, words: &str) {
        self.stdin.write_all(format!("{words}\n").as_bytes()).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Inode of a process' network namespace.
pub(crate) fn inode(pid: u32) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(format!("/proc/{pid}/ns/net")).unwrap().ino()
}
