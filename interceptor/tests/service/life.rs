//! The whole daemon under a service manager: what it says, how it stops, and that it comes back where it was.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use interceptor::clock::{Clock as _, SystemClock};
use interceptor::testing::manager::Manager;
use interceptor::testing::stage::{Script, Stage};
use interceptor::testing::world::Place;

const SOON: Duration = Duration::from_secs(20);

fn stage(configuration: &str, watchdog: Option<Duration>) -> Stage {
    let script = Script { managed: true, watchdog, configuration: configuration.to_owned(), ..Script::default() };
    Stage::set(Path::new(env!("CARGO_BIN_EXE_interceptor")), &script)
        .unwrap_or_else(|error| panic!("no stage: {error}"))
}

fn manager(stage: &Stage) -> &Manager {
    stage.manager.as_ref().unwrap()
}

fn heard(stage: &Stage, line: &str, times: usize) {
    assert!(manager(stage).heard(line, times, SOON), "{line}: {:?}\n{}", manager(stage).said(), stage.log());
}

/// Starts psql as the agent, with these statements one by one.
fn start(stage: &Stage, statements: &[&str]) -> Child {
    let mut command = Command::new("timeout");
    let psql = stage.psql(statements);
    command.arg("60").arg(psql.get_program()).args(psql.get_args());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    stage.spawn_agent(command).unwrap()
}

fn said(child: Child) -> (bool, String) {
    let output = child.wait_with_output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

fn hang_up(stage: &Stage) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(stage.daemon_pid().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
}

/// Waits until the server runs a statement of the agent's.
fn wait_for_server(stage: &Stage, part: &str) {
    let query = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%{part}%' \
                         AND pid <> pg_backend_pid()"
    );
    for _ in 0..200 {
        if stage.server.sql(&query).unwrap().trim() != "0" {
            return;
        }
        sleep(Duration::from_millis(50));
    }
    panic!("the server never ran {part}");
}

#[test]
fn it_says_what_it_does() {
    let mut stage = stage("", Some(Duration::from_millis(600)));
    heard(&stage, "READY=1", 1);
    heard(&stage, "STATUS=0 sessions, 1 targets", 1);
    heard(&stage, "WATCHDOG=1", 3);
    hang_up(&stage);
    heard(&stage, "RELOADING=1", 1);
    heard(&stage, "MONOTONIC_USEC=", 1);
    heard(&stage, "READY=1", 2);
    // A mistake changes nothing, and is told.
    let path = stage.path("interceptor.toml");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{good}\n[polcy]\n")).unwrap();
    hang_up(&stage);
    heard(&stage, "STATUS=not reloaded, 1 problems", 1);
    heard(&stage, "READY=1", 3);
    fs::write(&path, &good).unwrap();
    let open = start(&stage, &["SELECT pg_sleep(1.5)"]);
    heard(&stage, "STATUS=1 sessions, 1 targets", 1);
    assert!(said(open).0);
    stage.stop_daemon().unwrap();
    heard(&stage, "STOPPING=1", 1);
    let said = manager(&stage).said();
    let place = |line: &str| said.iter().rposition(|other| other == line).unwrap();
    assert!(place("STOPPING=1") > place("READY=1"));
}

#[test]
fn what_is_under_way_is_finished_and_who_comes_later_waits_for_the_next_run() {
    let mut stage = stage("", None);
    let working = start(&stage, &["SELECT pg_sleep(2), 'finished'", "SELECT 'forbidden:later'"]);
    wait_for_server(&stage, "pg_sleep(2)");
    let mut stopping = stage.terminate_daemon().unwrap().unwrap();
    heard(&stage, "STOPPING=1", 1);
    let later = start(&stage, &["SELECT 'served later'"]);
    let (ended_well, text) = said(working);
    assert!(!ended_well && text.contains("finished") && text.contains("57P01"), "{text}");
    assert!(text.contains("interceptor is stopping"), "{text}");
    assert!(stopping.wait().unwrap().success());
    stage.world.remove(Place::Daemon).unwrap();
    stage.start_daemon().unwrap();
    let (ended_well, text) = said(later);
    assert!(ended_well && text.contains("served later"), "{text}\n{}", stage.log());
    assert!(!stage.server.log().contains("forbidden:"));
    let verified = stage.operate(&["recordings", "verify"]).unwrap();
    assert!(verified.status.success(), "{verified:?}");
    let kept = stage.operate(&["recordings", "export", "--format", "jsonl"]).unwrap();
    let kept = String::from_utf8(kept.stdout).unwrap();
    assert!(kept.contains("ended by interceptor: interceptor is stopping") && kept.contains("daemon_stopped"));
}

/// Writes down what is posted to it.
const KEEPER: &str = "
import http.server, sys
class Keeper(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['content-length']))
        with open(sys.argv[1], 'ab') as kept: kept.write(body + b'\\n')
        self.send_response(204)
        self.end_headers()
    def log_message(self, *words): pass
http.server.HTTPServer(('127.0.0.1', 7878), Keeper).serve_forever()";

#[test]
fn witnesses_are_told_of_what_is_signed_also_of_the_last() {
    // The second one takes what it is told, and never answers: nobody else waits for it.
    let silent = "{ url = \"http://127.0.0.1:7879/\" }";
    let configuration =
        format!("[record.witness]\nevery_seconds = 1\nhttp = [{{ url = \"http://127.0.0.1:7878/\" }}, {silent}]\n");
    let mut stage = stage(&configuration, None);
    let kept = stage.path("kept");
    let python = |script: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(&kept);
        stage.world.spawn_in(Place::Daemon, command).unwrap()
    };
    let silence = "import socket, time\nl = socket.create_server(('127.0.0.1', 7879))\ntime.sleep(600)";
    let mut others = [python(KEEPER), python(silence)];
    let lines = || fs::read_to_string(&kept).unwrap_or_default().lines().count();
    assert!((0..600).any(|_| lines() > 0 || wait()), "{}", stage.log());
    assert!(said(start(&stage, &["SELECT 1"])).0);
    let knows = || {
        let status = stage.operate(&["status", "--json"]).unwrap().stdout;
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
        status["witnesses"].as_array().unwrap().iter().any(|one| {
            one["name"].as_str().is_some_and(|name| name.contains("7878"))
                && !one["told_at"].is_null()
                && one["frames"].as_u64() > Some(0)
        })
    };
    assert!((0..600).any(|_| knows() || wait()), "{}", stage.log());
    stage.stop_daemon().unwrap();
    for other in &mut others {
        other.kill().unwrap();
        other.wait().unwrap();
    }
    let newest = fs::read_to_string(stage.path("spool/checkpoint")).unwrap();
    let last = fs::read_to_string(&kept).unwrap();
    let last: serde_json::Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
    assert_eq!(last["note"], newest.as_str());
    assert!(last["host"].as_str().is_some_and(|host| !host.is_empty()));
    let verify = ["recordings", "verify", "--checkpoint", kept.to_str().unwrap()];
    let verified = stage.operate(&verify).unwrap();
    assert!(verified.status.success(), "{verified:?}");
}

/// Always false.
fn wait() -> bool {
    sleep(Duration::from_millis(50));
    false
}

#[test]
fn what_takes_longer_than_the_deadline_is_told_so_and_ended() {
    let mut stage = stage("[limits]\ndrain_seconds = 1\n", None);
    let working = start(&stage, &["SELECT pg_sleep(40)"]);
    wait_for_server(&stage, "pg_sleep(40)");
    let held = start(&stage, &["TRUNCATE scratch"]);
    let waiting = || String::from_utf8(stage.operate(&["approvals", "list"]).unwrap().stdout).unwrap();
    for _ in 0..100 {
        if waiting().contains("TRUNCATE") || waiting().contains("truncate") {
            break;
        }
        sleep(Duration::from_millis(50));
    }
    let mut stopping = stage.terminate_daemon().unwrap().unwrap();
    for child in [working, held] {
        let (ended_well, text) = said(child);
        assert!(!ended_well && text.contains("57P01"), "{text}\n{}", stage.log());
    }
    assert!(stopping.wait().unwrap().success());
    assert!(stage.log().contains("what sessions do takes too long"), "{}", stage.log());
    // The request outlives the run.
    stage.start_daemon().unwrap();
    let listed = String::from_utf8(stage.operate(&["approvals", "list"]).unwrap().stdout).unwrap();
    assert!(listed.to_lowercase().contains("truncate"), "{listed}");
}

/// Kills of the whole daemon, where nothing else is said: as many as pass in about a minute.
const KILLS: u64 = 30;
/// Names another number.
const KILLS_VARIABLE: &str = "INTERCEPTOR_KILLS";
/// The second agent's name, which is its cgroup's as well.
const OTHER: &str = "reporting";

/// Sessions without end, each with a statement that names the agent, and connects to where no target is. A session that is cut
/// off is made anew; one that is refused, or gets another's answer, is a failure.
const LOAD: &str = r#"
import socket, subprocess, sys, threading, time
url, name = sys.argv[1:]
def knock():
    while True:
        try:
            with socket.create_connection(("10.99.0.2", 7777), timeout=20) as s: s.recv(100) and print("wrong: an answer", flush=True)
        except ConnectionRefusedError: print("wrong: refused", flush=True)
        except TimeoutError: print("wrong: timeout", flush=True)
        except OSError: pass
        print("knocked", flush=True)
        time.sleep(0.02)
for _ in range(2): threading.Thread(target=knock, daemon=True).start()
while True:
    done = subprocess.run(["psql", "-X", url, "-Atc", f"SELECT card, '{name}' FROM customers WHERE id = 1"], capture_output=True, text=True)
    if done.returncode == 0 and done.stdout.strip() == "************1111|" + name: print("fine", flush=True)
    elif "refused" in done.stderr or "timeout" in done.stderr or done.returncode == 0: print("wrong:", done, flush=True)
    else: print("cut", flush=True)
"#;

/// An agent under way, and what it says.
struct Load {
    agent: Child,
    out: std::path::PathBuf,
}

impl Load {
    fn start(stage: &Stage, name: &str) -> Self {
        let out = stage.path(&format!("{name}.out"));
        let mut agent = Command::new("/usr/bin/python3");
        agent.args(["-c", LOAD, &stage.url(), name]).stdin(Stdio::null());
        agent.stdout(fs::File::create(&out).unwrap()).stderr(Stdio::inherit());
        Self { agent: stage.spawn_agent_in(name, agent).unwrap(), out }
    }

    fn told(&self, word: &str) -> usize {
        fs::read_to_string(&self.out).unwrap().lines().filter(|line| line.starts_with(word)).count()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _gone = self.agent.kill();
        let _gone = self.agent.wait();
    }
}

/// Another agent with a token of its own, under the same user.
fn add_other(stage: &mut Stage) {
    let token = stage.token("svc:reporting", 3600).unwrap();
    fs::write(stage.path("token.reporting"), token).unwrap();
    fs::set_permissions(stage.path("token.reporting"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let path = stage.path("interceptor.toml");
    let text = fs::read_to_string(&path).unwrap();
    let (_, first) = text.split_once("[[agent]]").unwrap();
    let (first, _) = first.split_once("[[target]]").unwrap();
    let first = &format!("[[agent]]{first}");
    let other = first
        .replace("billing-bot", "reporting-bot")
        .replace("/billing\"", "/reporting\"")
        .replace("/token\"", "/token.reporting\"")
        .replace("svc:billing", "svc:reporting");
    fs::write(&path, text.replace(first, &format!("{first}{other}"))).unwrap();
    stage.kill_daemon().unwrap();
    stage.start_daemon().unwrap();
}

/// Sessions on record in which somebody was taken for another, and how many there are of each agent.
fn identities(stage: &Stage) -> (Vec<String>, [usize; 2]) {
    let kept = stage.operate(&["recordings", "export", "--format", "jsonl"]).unwrap();
    let lines = String::from_utf8(kept.stdout).unwrap();
    let mut known = std::collections::HashMap::new();
    let (mut wrong, mut sessions) = (Vec::new(), [0, 0]);
    for line in lines.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        let session = entry["session"].as_str().unwrap_or_default().to_owned();
        if entry["event"] == "attested" {
            let (identity, cgroup) = (entry["identity"].as_str().unwrap(), entry["facts"]["cgroup"].as_str().unwrap());
            let name = identity.strip_suffix("-bot").unwrap();
            if !cgroup.ends_with(&format!("/{name}")) {
                wrong.push(line.to_owned());
            }
            sessions[usize::from(name == OTHER)] += 1;
            known.insert(session, name.to_owned());
        } else if entry["event"] == "command"
            && let Some(statement) = entry["statement"].as_str().filter(|text| text.starts_with("SELECT card"))
            && known.get(&session).is_none_or(|name| !statement.contains(&format!("'{name}'")))
        {
            wrong.push(line.to_owned());
        }
    }
    (wrong, sessions)
}

#[test]
fn nobody_is_refused_or_taken_for_another_while_the_daemon_is_killed_again_and_again() {
    let kills = std::env::var(KILLS_VARIABLE).map_or(KILLS, |number| number.parse().unwrap());
    let mut stage = stage("", None);
    add_other(&mut stage);
    let wire = stage.world.sniff_beside(5432).unwrap();
    let agents = ["billing", OTHER].map(|name| Load::start(&stage, name));
    let clock = SystemClock::new();
    let began = clock.monotonic();
    for round in 0..kills {
        let before = agents.each_ref().map(|agent| agent.told("fine"));
        let served = || agents.iter().zip(before).all(|(agent, before)| agent.told("fine") > before);
        for _ in 0..600 {
            if served() {
                break;
            }
            sleep(Duration::from_millis(50));
        }
        assert!(served(), "not everybody is served\n{}", stage.log());
        // At another moment of what they do each time.
        sleep(Duration::from_millis(round * 13 % 90));
        stage.kill_daemon().unwrap();
        if round % 4 != 3 {
            stage.world.remove(Place::Daemon).unwrap();
        }
        stage.start_daemon().unwrap();
    }
    let took = clock.monotonic() - began;
    let figures = agents.each_ref().map(|agent| ["fine", "cut", "knocked"].map(|word| agent.told(word)));
    for agent in agents {
        assert_eq!(agent.told("wrong"), 0, "{}", fs::read_to_string(&agent.out).unwrap());
    }
    let (wrong, sessions) = identities(&stage);
    eprintln!("     {kills} kills in {} s; [fine, cut, knocked] {figures:?}; on record {sessions:?}", took.as_secs());
    assert_eq!(wrong, Vec::<String>::new());
    for (agent, sessions) in figures.iter().zip(sessions) {
        assert!(
            agent[2] as u64 > kills && sessions >= agent[0] && agent[0] as u64 >= kills,
            "{figures:?} {sessions:?}"
        );
    }
    // To the target's port goes the daemon alone: what an agent sends there itself would name a user that the server lacks.
    assert_eq!(wire.seen(), []);
    assert!(!stage.server.log().contains("\"billing\""), "{}", stage.server.log());
    assert!(!stage.log().contains("without a kernel record"), "{}", stage.log());
    let verified = stage.operate(&["recordings", "verify"]).unwrap();
    assert!(verified.status.success(), "{verified:?}");
}
