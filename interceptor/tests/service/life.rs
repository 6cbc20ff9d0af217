//! The whole daemon under a service manager: what it says, how it stops, and that it comes back where it was.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

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

#[test]
fn sessions_are_refused_by_nobody_while_it_is_killed_again_and_again() {
    let mut stage = stage("", None);
    // A session that is cut off is made anew; one that is refused, or gets another's answer, is a failure.
    let code = "import subprocess, sys\nwhile True:\n\
                \x20   done = subprocess.run(['psql', '-X', sys.argv[1], '-Atc', 'SELECT card FROM customers WHERE id = 1'], \
                capture_output=True, text=True)\n\
                \x20   if done.returncode == 0 and done.stdout.strip() == '************1111': print('fine', flush=True)\n\
                \x20   elif 'refused' in done.stderr or 'timeout' in done.stderr or done.returncode == 0: print('wrong', done, flush=True)\n\
                \x20   else: print('cut', flush=True)";
    let out = stage.path("out");
    let mut agent = Command::new("/usr/bin/python3");
    agent.args(["-c", code, &stage.url()]).stdin(Stdio::null());
    agent.stdout(fs::File::create(&out).unwrap()).stderr(Stdio::inherit());
    let mut agent = stage.spawn_agent(agent).unwrap();
    let fine = || fs::read_to_string(&out).unwrap().matches("fine").count();
    for round in 0..8_u64 {
        let before = fine();
        for _ in 0..600 {
            if fine() > before {
                break;
            }
            sleep(Duration::from_millis(50));
        }
        assert!(fine() > before, "nobody is served: {}\n{}", fs::read_to_string(&out).unwrap(), stage.log());
        sleep(Duration::from_millis(30 * round));
        stage.kill_daemon().unwrap();
        stage.world.remove(Place::Daemon).unwrap();
        stage.start_daemon().unwrap();
    }
    agent.kill().unwrap();
    agent.wait().unwrap();
    let told = fs::read_to_string(&out).unwrap();
    eprintln!("     fine {}, cut {}", fine(), told.matches("cut").count());
    assert!(!told.contains("wrong"), "{told}");
    assert!(!stage.log().contains("without a kernel record"), "{}", stage.log());
    let verified = stage.operate(&["recordings", "verify"]).unwrap();
    assert!(verified.status.success(), "{verified:?}");
}
