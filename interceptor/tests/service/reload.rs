//! Other cgroups by a reload: what is added is governed, or nothing has changed; what is not named any more is let go where nobody
//! runs in it, and at no other moment.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use interceptor::capture::cgroup;
use interceptor::testing::stage::{AGENT_UID, Script, Stage};
use interceptor::testing::units;
use interceptor::testing::world::Place;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

struct Scene {
    stage: Stage,
    /// The configuration as it was.
    text: String,
    /// A cgroup with processes that nobody governs so far.
    outside: String,
}

impl Scene {
    /// A daemon that may attach nothing.
    fn set() -> Self {
        Self::with(Some(units::capabilities(units::DAEMON)))
    }

    fn with(capabilities: Option<Vec<String>>) -> Self {
        let script = Script { managed: true, capabilities, ..Script::default() };
        let stage = Stage::set(Path::new(env!("CARGO_BIN_EXE_interceptor")), &script);
        let stage = stage.unwrap_or_else(|error| panic!("no stage: {error}"));
        let text = fs::read_to_string(stage.path("interceptor.toml")).unwrap();
        Self { outside: stage.world.cgroup(Place::Outside), stage, text }
    }

    /// Has the configuration name these beside the agents' cgroup.
    fn name(&self, more: &[&str]) {
        let agents = format!("cgroups = [\"{}\"", self.stage.world.agents_cgroup());
        let more: String = more.iter().map(|path| format!(", \"{path}\"")).collect();
        fs::write(self.stage.path("interceptor.toml"), self.text.replace(&agents, &format!("{agents}{more}"))).unwrap();
    }

    /// As `ExecReload=` does it: root, in the daemon's cgroup.
    fn reload(&self) -> (bool, String) {
        let mut command = self.stage.interceptor(&["reload"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.stage.world.spawn_in(Place::Daemon, command).unwrap().wait_with_output().unwrap();
        (output.status.success(), said(&output))
    }

    /// Sends the signal, and waits until the log says so.
    fn hang_up(&self, awaited: &str) {
        let before = self.stage.log().matches(awaited).count();
        kill(Pid::from_raw(self.stage.daemon_pid().unwrap() as i32), Signal::SIGHUP).unwrap();
        for _ in 0..400 {
            if self.stage.log().matches(awaited).count() > before {
                return;
            }
            sleep(Duration::from_millis(25));
        }
        panic!("never said {awaited}: {}", self.stage.log());
    }

    /// Whether what runs outside comes to the server itself.
    fn outside_is_free(&self) -> bool {
        let mut psql = self.stage.psql(&["SELECT 1"]);
        psql.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let psql = self.stage.world.spawn_as(Place::Outside, Some(AGENT_UID), psql).unwrap();
        let said = said(&psql.wait_with_output().unwrap());
        let (free, governed) = (said.contains("password authentication failed"), said.contains("FATAL:  interceptor"));
        assert!(free != governed, "{said}\n{}", self.stage.log());
        free
    }

    fn agent_works(&self) -> bool {
        said(&self.stage.run_agent(self.stage.psql(&["SELECT name FROM customers"])).unwrap()).contains("Ada Lovelace")
    }

    /// Somebody who runs outside, until killed.
    fn sleeper(&self) -> Child {
        let mut sleep = Command::new("sleep");
        sleep.arg("600");
        self.stage.world.spawn_as(Place::Outside, Some(AGENT_UID), sleep).unwrap()
    }

    fn governed(&self) -> String {
        let mut command = self.stage.interceptor(&["status", "--json"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        said(&self.stage.world.spawn_in(Place::Daemon, command).unwrap().wait_with_output().unwrap())
    }

    fn recorded(&self, words: &str) -> bool {
        self.export().contains(words)
    }

    fn export(&self) -> String {
        let mut command = self.stage.interceptor(&["recordings", "export", "--format", "jsonl"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        said(&self.stage.world.spawn_in(Place::Daemon, command).unwrap().wait_with_output().unwrap())
    }

    /// What is on record of a process that has left.
    fn strayed(&self, pid: u32) -> Vec<Value> {
        let export = self.export();
        let events = export.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|event| event["event"] == "strayed" && event["pid"] == pid).collect()
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_is_added_is_governed_and_what_is_not_named_is_let_go_once_nobody_runs_there() {
    let mut scene = Scene::set();
    assert!(scene.outside_is_free() && scene.agent_works());
    let outside = scene.outside.clone();
    // A daemon that may attach nothing says who does it, and stays as it is.
    scene.name(&[&outside]);
    scene.hang_up("`interceptor reload` as root does it");
    assert!(scene.outside_is_free() && !scene.governed().contains(&outside), "{}", scene.governed());

    let (done, words) = scene.reload();
    assert!(done && words.contains(&format!("cgroup {outside} is governed from now on")), "{words}");
    assert!(!scene.outside_is_free() && scene.agent_works() && scene.governed().contains(&outside));
    assert!(scene.recorded(&format!("cgroup {outside} is governed from now on")));
    // Nothing more to do, and nothing is undone by that.
    let (done, words) = scene.reload();
    assert!(done && !words.contains(&outside) && !scene.outside_is_free(), "{words}");

    // The signal alone lets nobody go.
    scene.name(&[]);
    scene.hang_up("are in force");
    assert!(!scene.outside_is_free());

    // Who runs there stays governed, also across a restart.
    let mut sleeper = scene.sleeper();
    let (done, words) = scene.reload();
    assert!(done && words.contains(&format!("{outside} is not configured any more, and stays governed")), "{words}");
    assert!(!scene.outside_is_free() && scene.governed().contains(&outside));
    scene.stage.kill_daemon().unwrap();
    scene.stage.start_daemon().unwrap();
    assert!(!scene.outside_is_free() && scene.governed().contains(&outside));

    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    let (done, words) = scene.reload();
    assert!(done && words.contains(&format!("{outside} is not governed any more")), "{words}");
    assert!(scene.outside_is_free() && scene.agent_works() && !scene.governed().contains(&outside));
    assert!(scene.recorded(&format!("cgroup {outside} is not governed any more")));
}

#[test]
fn where_one_cannot_be_governed_those_of_before_are_and_no_other() {
    let scene = Scene::set();
    let (outside, agents) = (scene.outside.clone(), scene.stage.world.agents_cgroup());
    let unchanged = |why: &str| {
        let (done, words) = scene.reload();
        assert!(!done && words.contains("nothing was changed") && words.contains(why), "{why}: {words}");
        assert!(scene.outside_is_free() && scene.agent_works() && !scene.governed().contains(&outside), "{why}");
    };
    // One that somebody else's cgroup contains, after one that can be governed.
    let theirs = cgroup::directory(&scene.stage.world.cgroup(Place::Far)).unwrap();
    chown(theirs.join("cgroup.procs"), Some(AGENT_UID), None).unwrap();
    let inner = format!("{}/inner", scene.stage.world.cgroup(Place::Far));
    scene.name(&[&outside, &inner]);
    unchanged("belongs to user");
    // One within another.
    scene.name(&[&outside, &format!("{agents}/billing")]);
    unchanged("contain one another");
    // One within another that is governed still, and not named.
    let mut sleeper = scene.stage.spawn_agent(sleeps()).unwrap();
    let text = scene
        .text
        .replace(&format!("cgroups = [\"{agents}\""), &format!("cgroups = [\"{outside}\", \"{agents}/inner\""));
    fs::write(scene.stage.path("interceptor.toml"), text).unwrap();
    unchanged("is governed already, and one contains the other");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    // What the daemon does not take.
    scene.name(&[&outside]);
    fs::write(scene.stage.path("policies/test.cedar"), "permit (principal").unwrap();
    unchanged("test.cedar");
    fs::write(scene.stage.path("policies/test.cedar"), "").unwrap();
    let (done, words) = scene.reload();
    assert!(done && !scene.outside_is_free(), "{words}");
}

#[test]
fn where_no_daemon_answers_nothing_is_begun() {
    let mut scene = Scene::set();
    scene.stage.kill_daemon().unwrap();
    let outside = scene.outside.clone();
    scene.name(&[&outside]);
    let (done, words) = scene.reload();
    assert!(!done && words.contains("no daemon answers"), "{words}");
    scene.name(&[]);
    scene.stage.start_daemon().unwrap();
    assert!(scene.outside_is_free() && scene.agent_works() && !scene.governed().contains(&outside));
}

fn sleeps() -> Command {
    let mut sleep = Command::new("sleep");
    sleep.arg("600");
    sleep
}

#[test]
fn what_an_operator_enrolled_is_not_let_go_by_a_reload() {
    let scene = Scene::set();
    let enroll = |more: &[&str]| {
        let mut command = scene.stage.interceptor(&[&["enroll", "--yes", "--cgroup", &scene.outside], more].concat());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = scene.stage.world.spawn_in(Place::Daemon, command).unwrap().wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    };
    enroll(&[]);
    let (done, words) = scene.reload();
    assert!(done && !words.contains(&scene.outside) && !scene.outside_is_free(), "{words}");
    // What is not named any more, and has somebody in it, is let go by hand.
    scene.name(&[&scene.outside]);
    assert!(scene.reload().0);
    let _sleeper = Killed(scene.sleeper());
    scene.name(&[]);
    let (_, words) = scene.reload();
    assert!(words.contains("enroll --undo --cgroup") && !scene.outside_is_free(), "{words}");
    enroll(&["--undo"]);
    assert!(scene.outside_is_free());
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// What an agent can do to its name and to its first thread, and a thread that lives on.
const HIDDEN: &str = "
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
libc = ctypes.CDLL(None)
libc.prctl(15, b'\\xff\\n) Z (', 0, 0, 0)
libc.syscall(60, 0)";

#[test]
fn who_leaves_a_governed_cgroup_is_told_of() {
    let scene = Scene::set();
    let agents = scene.stage.world.agents_cgroup();
    let mut hidden = Command::new("python3");
    hidden.args(["-c", HIDDEN]);
    for command in [sleeps(), hidden] {
        let mut agent = scene.stage.spawn_agent(command).unwrap();
        let pid = agent.id();
        // Within what is governed anybody may go anywhere.
        for round in 0.. {
            moved(pid, &format!("{agents}/other"));
            sleep(Duration::from_secs(2 << round));
            assert!(scene.strayed(pid).is_empty(), "{}", scene.stage.log());
            // Whoever was not there yet at a look is not missed at the next.
            moved(pid, &scene.outside);
            if (0..80).any(|_| !scene.strayed(pid).is_empty() || wait()) {
                break;
            }
            assert!(round < 3, "{}", scene.stage.log());
        }
        let [told] = &scene.strayed(pid)[..] else { panic!("not once: {}", scene.stage.log()) };
        assert_eq!(
            (&told["cgroup"], &told["to"], &told["governed"]),
            (&json!(agents), &json!(scene.outside), &json!(false))
        );
        agent.kill().unwrap();
        agent.wait().unwrap();
    }
    // Who has ended has not left.
    let mut ended = scene.stage.spawn_agent(sleeps()).unwrap();
    sleep(Duration::from_secs(3));
    ended.kill().unwrap();
    sleep(Duration::from_secs(3));
    ended.wait().unwrap();
    assert!(scene.strayed(ended.id()).is_empty());
}

fn moved(pid: u32, to: &str) {
    let directory = cgroup::directory(to).unwrap();
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("cgroup.procs"), pid.to_string()).unwrap();
}

/// Always false.
fn wait() -> bool {
    sleep(Duration::from_millis(100));
    false
}

#[test]
fn a_daemon_that_is_root_does_all_that_by_itself() {
    let scene = Scene::with(None);
    let outside = scene.outside.clone();
    scene.name(&[&outside]);
    scene.hang_up("is governed from now on");
    assert!(!scene.outside_is_free() && scene.agent_works());
    let mut sleeper = scene.sleeper();
    scene.name(&[]);
    scene.hang_up("stays governed: processes run there");
    assert!(!scene.outside_is_free());
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    scene.hang_up(&format!("{outside} is not governed any more"));
    assert!(scene.outside_is_free() && scene.agent_works());
    // One of two cannot be: neither is.
    scene.name(&[&outside, &format!("{}/inner", scene.stage.world.cgroup(Place::Daemon))]);
    scene.hang_up("not reloaded");
    assert!(scene.outside_is_free() && scene.agent_works());
}
