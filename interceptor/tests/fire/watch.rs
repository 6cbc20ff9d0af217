//! What is held against the bounds: the daemon's memory and descriptors, its sessions, and another agent beside it all.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use interceptor::clock::{Clock as _, SystemClock};
use interceptor::testing::patience::{patience, slowness};
use interceptor::testing::stage::{HOST, Stage};

use super::scene::{bounded, installed, operate_json, program, psql_ok, python, said, wait_for};

/// How long an honest agent may wait for its answer while others attack, client's start and log-in included.
const SERVED_WITHIN: Duration = Duration::from_secs(45);

/// How the daemon stood before.
pub(super) struct Watch {
    pid: u32,
    rss: u64,
    descriptors: usize,
}

impl Watch {
    /// Looks at a daemon that has served a session already, so that what it loads once is there.
    pub(super) fn new(stage: &Stage) -> Self {
        served(stage);
        let pid = stage.daemon_pid().unwrap();
        gone(stage);
        Self { pid, rss: rss(pid), descriptors: descriptors(pid) }
    }

    /// Mebibytes by which the daemon has grown.
    pub(super) fn grown(&self) -> u64 {
        rss(self.pid).saturating_sub(self.rss) >> 10
    }

    /// The daemon lives, and holds no more than this many mebibytes more.
    pub(super) fn within(&self, stage: &Stage, what: &str, mebibytes: u64) {
        assert_eq!(stage.daemon_pid(), Some(self.pid), "{}", stage.log());
        let grown = self.grown();
        eprintln!("{what}: grown by {grown} MiB, {} descriptors", descriptors(self.pid));
        assert!(grown <= mebibytes, "{what}: the daemon has grown by {grown} MiB");
    }

    /// Sessions are back at none, descriptors where they were, nothing has panicked, and an honest agent is served.
    pub(super) fn recovered(&self, stage: &Stage) {
        gone(stage);
        wait_for("the descriptors to be closed", || (descriptors(self.pid) <= self.descriptors + 8).then_some(()));
        served(stage);
        assert!(!stage.log().contains("panicked") && !stage.log().contains("task broke"), "{}", stage.log());
        assert!(fs::metadata(format!("/proc/{}", self.pid)).is_ok());
    }
}

/// An honest agent gets its answer in time, with what is masked masked.
pub(super) fn served(stage: &Stage) {
    let clock = SystemClock::new();
    let began = clock.monotonic();
    let answer = psql_ok(stage, &["SELECT card FROM customers WHERE id = 1"]);
    assert!(answer.contains("************1111"), "{answer}");
    let took = clock.monotonic().saturating_sub(began);
    assert!(took < patience(SERVED_WITHIN), "an honest agent waited for {took:?}");
}

/// Waits until no session is left.
pub(super) fn gone(stage: &Stage) {
    wait_for("all sessions to end", || (sessions(stage) == 0).then_some(()));
}

pub(super) fn sessions(stage: &Stage) -> usize {
    let listed = operate_json(stage, &["sessions", "list"]);
    listed.as_array().map_or(0, Vec::len)
}

fn rss(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    resident.trim().trim_end_matches(" kB").parse().unwrap()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// The agent that attacks, at the server's own port.
pub(super) fn fire(stage: &Stage, arguments: &[&str]) -> Command {
    fire_at(stage, HOST, "5432", arguments)
}

/// The same, elsewhere.
pub(super) fn fire_at(stage: &Stage, host: &str, port: &str, arguments: &[&str]) -> Command {
    let (mode, rest) = arguments.split_first().unwrap();
    let arguments = [&[*mode, host, port], rest].concat();
    // Not written anew while another one reads it.
    if !stage.path("fire.py").exists() {
        program(stage, "raw.py");
        return python(stage, "fire.py", &arguments);
    }
    let mut command = Command::new(installed().join("python/bin/python"));
    command.arg(stage.path("fire.py")).args(arguments);
    command
}

/// Runs it to its end; what it printed.
pub(super) fn attack(stage: &Stage, arguments: &[&str]) -> String {
    let output = stage.run_agent(bounded(&fire(stage, arguments))).unwrap();
    assert!(output.status.success(), "{arguments:?}: {}\n{}", said(&output), stage.log());
    said(&output)
}

/// An attack that goes on until it is told to.
pub(super) struct Attack {
    child: Child,
    out: std::path::PathBuf,
}

impl Attack {
    /// Starts it.
    pub(super) fn start(stage: &Stage, name: &str, command: Command) -> Self {
        let out = stage.path(name);
        let mut command = command;
        command.stdin(Stdio::piped()).stdout(fs::File::create(&out).unwrap()).stderr(Stdio::inherit());
        Self { child: stage.spawn_agent(command).unwrap(), out }
    }

    /// What it has printed.
    pub(super) fn said(&self) -> String {
        fs::read_to_string(&self.out).unwrap()
    }

    /// Waits as long as it takes, at most so many seconds, until it has printed so many lines.
    pub(super) fn line(&mut self, number: usize, seconds: u64) -> String {
        for _ in 0..seconds * 10 * u64::from(slowness()) {
            let said = self.said();
            if let Some(line) = said.lines().nth(number).filter(|_| said.matches('\n').count() > number) {
                return line.to_owned();
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("it has ended ({status}): {said}");
            }
            sleep(Duration::from_millis(100));
        }
        panic!("nothing after {seconds} s: {}", self.said());
    }

    /// Lets it go on to its end; all that it printed.
    pub(super) fn finish(mut self) -> String {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{}", self.said());
        self.said()
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        let _ended_already = (self.child.kill(), self.child.wait());
    }
}
