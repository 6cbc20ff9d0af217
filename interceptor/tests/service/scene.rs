//! A world, a manager, a daemon that answers, and agents that call it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use interceptor::capture::{Config, Resolver};
use interceptor::testing::answering::Answering;
use interceptor::testing::manager::Manager;
use interceptor::testing::world::{self, FAR4, Place, World};
use serde_json::Value;

pub(crate) const AGENT: u32 = 1000;
/// Name of the ignored test that becomes the daemon.
const ENTRY: &str = "daemon";
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Scene {
    pub(crate) manager: Manager,
    pub(crate) config: Config,
    pub(crate) world: World,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let world = World::new(&[]).expect("these tests need root, cgroup v2, bpffs, and `ip`");
        let config = Config {
            cgroups: vec![world.agents_cgroup()],
            daemon_cgroup: Some(world.cgroup(Place::Daemon)),
            pin_directory: world.pins().join("interceptor"),
            resolver: Resolver::At((FAR4, 53).into()),
            dns_names: vec!["asked".to_owned()],
            ..Config::default()
        };
        Self { manager: Manager::new(world.directory()).unwrap(), config, world }
    }

    /// Starts the daemon with all that the manager keeps.
    pub(crate) fn start(&self) -> Answering {
        self.try_start().unwrap_or_else(|words| panic!("{words}"))
    }

    pub(crate) fn try_start(&self) -> Result<Answering, String> {
        Answering::start_by(&self.manager, &self.world, &self.config, ENTRY)
    }

    /// Starts the daemon as a shell would: nothing is kept.
    pub(crate) fn start_alone(&self) -> Answering {
        Answering::start(&self.world, &self.config, ENTRY).unwrap_or_else(|words| panic!("{words}"))
    }

    /// Waits until the manager keeps all four sockets.
    pub(crate) fn all_kept(&self) {
        self.keeps(&["dns4", "dns6", "proxy4", "proxy6"]);
    }

    /// Waits until the manager keeps exactly these.
    pub(crate) fn keeps(&self, names: &[&str]) {
        assert!(self.manager.keeps(names, Duration::from_secs(5)), "{:?}", self.manager);
    }

    /// Runs a script in a place, and gives what it printed.
    pub(crate) fn run(&self, place: Place<'_>, script: &str) -> Value {
        let uid = matches!(place, Place::Agent(_)).then_some(AGENT);
        let output = self.world.output(place, uid, python(script), LIMIT).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"))
    }

    pub(crate) fn agent(&self, script: &str) -> Value {
        self.run(Place::Agent("one"), script)
    }

    /// Starts a script in a place, and waits until it is ready.
    pub(crate) fn begin(&self, place: Place<'_>, script: &str) -> Running {
        let mut command = python(script);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let uid = matches!(place, Place::Agent(_)).then_some(AGENT);
        let mut child = self.world.spawn_as(place, uid, command).unwrap();
        let mut running =
            Running { stdin: child.stdin.take(), stdout: BufReader::new(child.stdout.take().unwrap()), child };
        assert_eq!(running.value(), "ready");
        running
    }
}

fn python(script: &str) -> Command {
    world::python(include_str!("agent.py"), script)
}

/// A script under way.
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    /// The next line that it prints.
    pub(crate) fn value(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Lets it go on.
    pub(crate) fn go(&mut self) {
        drop(self.stdin.take());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
