//! The daemon as a user of its own, with the capabilities of its unit: it does all that it does as root, each capability is
//! needed, and there are no others.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Output;
use std::thread::sleep;
use std::time::Duration;

use interceptor::testing::stage::{AGENT_UID, CARD, Script, Stage};
use interceptor::testing::units;
use interceptor::testing::world::Place;

fn script() -> Script {
    Script { managed: true, capabilities: Some(units::capabilities(units::DAEMON)), ..Script::default() }
}

fn stage(script: &Script) -> Stage {
    Stage::set(Path::new(env!("CARGO_BIN_EXE_interceptor")), script).unwrap_or_else(|error| panic!("no stage: {error}"))
}

fn psql(stage: &Stage) -> Output {
    stage.run_agent(stage.psql(&["SELECT name, card FROM customers WHERE id = 1"])).unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The token as agents usually have it: nobody else reads it.
fn close_token(stage: &Stage) {
    chown(stage.path("token"), Some(AGENT_UID), Some(AGENT_UID)).unwrap();
    fs::set_permissions(stage.path("token"), fs::Permissions::from_mode(0o600)).unwrap();
}

fn status(stage: &Stage, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", stage.daemon_pid().unwrap())).unwrap();
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
}

/// As `/proc/PID/status` has them.
fn mask(capabilities: &[String]) -> String {
    let bits = capabilities.iter().map(|name| match name.as_str() {
        "dac_read_search" => 2,
        "sys_ptrace" => 19,
        other => panic!("docs/service.md does not argue for {other}"),
    });
    format!("{:016x}", bits.fold(0u64, |mask, bit| mask | 1 << bit))
}

#[test]
fn it_serves_as_a_user_of_its_own_with_what_its_unit_gives_and_no_more() {
    let script = script();
    let mut stage = stage(&script);
    close_token(&stage);
    for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(status(&stage, set), mask(&units::capabilities(units::DAEMON)), "{set}");
    }
    assert_eq!(status(&stage, "Uid:"), "65534\t65534\t65534\t65534");
    assert_eq!((status(&stage, "NoNewPrivs:"), status(&stage, "Groups:")), ("1".to_owned(), String::new()));
    let output = psql(&stage);
    assert!(output.status.success() && said(&output).contains("Ada Lovelace"), "{}\n{}", said(&output), stage.log());
    assert!(!said(&output).contains(CARD), "{}", said(&output));
    // Only who may, may: root does, and the agent does not.
    assert!(stage.operate(&["status"]).unwrap().status.success());
    let mode = fs::metadata(stage.path("admin.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Killed and started, with a cgroup that is new or not, nothing is lost.
    for remade in [false, true] {
        stage.kill_daemon().unwrap();
        if remade {
            stage.world.remove(Place::Daemon).unwrap();
        }
        stage.start_daemon().unwrap();
        let output = psql(&stage);
        assert!(output.status.success(), "{}\n{}", said(&output), stage.log());
    }
    assert!(!stage.log().contains("cannot be removed"), "{}", stage.log());
    assert!(stage.operate(&["recordings", "verify"]).unwrap().status.success());
    // Everything goes when that is asked for, and not while the daemon would attach it again.
    let pins = stage.world.pins().join("interceptor");
    let refused = stage.operate(&["uninstall"]).unwrap();
    assert!(refused.status.code() == Some(1) && said(&refused).contains("stop it first"), "{}", said(&refused));
    assert!(pins.exists() && psql(&stage).status.success());
    stage.stop_daemon().unwrap();
    assert!(stage.operate(&["uninstall"]).unwrap().status.success());
    assert!(!pins.exists());
}

#[test]
fn each_capability_is_needed() {
    for missing in units::capabilities(units::DAEMON) {
        let mut stage = stage(&script());
        close_token(&stage);
        assert!(psql(&stage).status.success());
        stage.kill_daemon().unwrap();
        stage.capabilities =
            Some(units::capabilities(units::DAEMON).into_iter().filter(|one| *one != missing).collect());
        // It does not start, or it lets nobody in.
        if stage.start_daemon().is_ok() {
            let output = psql(&stage);
            assert!(!output.status.success(), "nothing needs {missing}: {}", said(&output));
            assert!(said(&output).contains("FATAL:  interceptor"), "{missing}: {}", said(&output));
        }
    }
}

#[test]
fn a_start_brings_what_agents_are_to_trust_up_to_date() {
    let mut stage = stage(&script());
    let text = fs::read_to_string(stage.path("interceptor.toml")).unwrap();
    fs::write(stage.path("interceptor.toml"), format!("{text}\n[ca]\ndir = {:?}\n", stage.path("ca"))).unwrap();
    let made = stage.operate(&["ca", "init", "--user", "nobody"]).unwrap();
    assert!(made.status.success(), "{}", said(&made));
    let bundle = fs::read(stage.path("ca/bundle.pem")).unwrap();
    fs::write(stage.path("ca/bundle.pem"), "what was trusted once").unwrap();
    stage.kill_daemon().unwrap();
    stage.start_daemon().unwrap();
    assert!(fs::read(stage.path("ca/bundle.pem")).unwrap() == bundle);
}

#[test]
fn what_root_has_not_prepared_is_not_governed_and_the_daemon_says_so() {
    let mut stage = stage(&script());
    stage.kill_daemon().unwrap();
    // Another cgroup to the kernel, and nobody has prepared it.
    stage.world.remove(Place::Daemon).unwrap();
    let unprepared = stage.start_unprepared().unwrap_err().to_string();
    assert!(unprepared.contains("interceptor prepare"), "{unprepared}");
    // A governed cgroup that is made again while the daemon runs: it ends, so that the next start has it governed.
    stage.start_daemon().unwrap();
    let agents = interceptor::capture::cgroup::directory(&stage.world.agents_cgroup()).unwrap();
    for entry in fs::read_dir(&agents).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        fs::remove_dir(entry.path()).unwrap();
    }
    fs::remove_dir(&agents).unwrap();
    fs::create_dir(&agents).unwrap();
    for _ in 0..400 {
        if stage.log().contains("the daemon ends") {
            break;
        }
        sleep(Duration::from_millis(100));
    }
    assert!(stage.log().contains("no kernel programs are attached to"), "{}", stage.log());
    stage.kill_daemon().unwrap();
    stage.start_daemon().unwrap();
    assert!(psql(&stage).status.success());
}

#[test]
fn a_cgroup_that_cannot_be_governed_keeps_no_other_from_it() {
    let mut stage = stage(&script());
    stage.kill_daemon().unwrap();
    let agents = stage.world.agents_cgroup();
    let world = agents.strip_suffix("/agents").unwrap();
    // Somebody may move processes out of what lies in here.
    let given = interceptor::capture::cgroup::directory(&format!("{world}/given")).unwrap();
    fs::create_dir(&given).unwrap();
    chown(given.join("cgroup.procs"), Some(AGENT_UID), None).unwrap();
    let path = stage.path("interceptor.toml");
    let text = fs::read_to_string(&path).unwrap();
    let four = format!("cgroups = [\"{world}/given/a\", \"{agents}\", \"{world}/given/b\", \"{world}/later\"]");
    fs::write(&path, text.replace(&format!("cgroups = [\"{agents}\"]"), &four)).unwrap();
    let failed = stage.prepare().unwrap_err().to_string();
    assert!(["given/a", "given/b"].iter().all(|one| failed.contains(one)) && !failed.contains("later"), "{failed}");
    for (cgroup, code) in [("later", 0), ("agents", 0), ("given/a", 1), ("given/b", 1)] {
        let output = stage.operate(&["governs", &format!("{world}/{cgroup}")]).unwrap();
        assert_eq!(output.status.code(), Some(code), "{cgroup}: {}", said(&output));
    }
}
