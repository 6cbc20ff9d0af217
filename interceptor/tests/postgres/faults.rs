//! What goes wrong: strangers, crashes, dead servers, garbage, full disks, broken configuration. Each ends in a clear error,
//! nothing reaches the server around interceptor, and everything works again afterwards.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use interceptor::testing::stage::{AGENT_UID, DATABASE, HOST, Stage, UPSTREAM_USER};
use interceptor::testing::world::{FAR4, Place};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::scene::{
    assert_nothing_forbidden, bounded, inline, operate, operate_json, psql, psql_fails, psql_ok, python, raw,
    reconfigure, recorded, run_in, said, stage, wait_for,
};

const MASKED: &str = "SELECT card FROM customers WHERE id = 1";

/// Masked reads pass and denied writes do not: interceptor does its work.
fn assert_works(stage: &Stage) {
    let answer = psql_ok(stage, &[MASKED]);
    assert!(answer.contains("************1111"), "{answer}");
    let told = psql_fails(stage, &["DELETE FROM customers WHERE id = 1 /* forbidden:faults */"]);
    assert!(told.contains("42501"), "{told}");
    assert_nothing_forbidden(stage);
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

#[test]
fn a_destination_without_a_target_is_denied_and_recorded() {
    let stage = stage();
    let sniffer = stage.world.sniff().unwrap();
    let output = stage.run_agent(bounded(&python(&stage, "raw.py", &["probe", &FAR4.to_string(), "9999"]))).unwrap();
    let told = said(&output);
    assert!(["not connected", "broken", "closed"].iter().any(|end| told.contains(end)), "{told}");
    drop(sniffer);
    let on_record = || {
        let events = recorded(&stage);
        (events.contains(&format!("{FAR4}:9999")) && events.contains("no target covers")).then_some(())
    };
    wait_for("the refusal on record", on_record);
    assert_works(&stage);
}

#[test]
fn who_is_not_governed_is_left_alone() {
    let mut stage = stage();
    let outside = |stage: &Stage| {
        let mut psql = Command::new("psql");
        psql.args(["-XAt", "-h", HOST, "-U", UPSTREAM_USER, "-d", DATABASE, "-c", &format!("{MASKED} /* outside */")]);
        psql.env("PGPASSWORD", fs::read_to_string(stage.path("orders_rw.password")).unwrap());
        let output = run_in(stage, Place::Outside, Some(AGENT_UID), &psql);
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains("4111111111111111"), "nothing is masked for it: {}", said(&output));
    };
    outside(&stage);
    assert!(stage.server.log().contains("/* outside */"));
    assert!(!recorded(&stage).contains("/* outside */"), "it is not recorded");
    stage.kill_daemon().unwrap();
    outside(&stage);
}

#[test]
fn a_killed_daemon_stops_its_agents_and_nobody_gets_around_it() {
    let mut stage = stage();
    assert_works(&stage);
    let code = "c = psycopg.connect(URL, autocommit=True)\n\
                print('open', flush=True)\n\
                sys.stdin.readline()\n\
                c.execute('SELECT 1 /* forbidden:crash */')\n";
    let out = stage.path("out");
    let mut command = inline(&stage, code);
    command.stdin(Stdio::piped()).stdout(fs::File::create(&out).unwrap()).stderr(Stdio::piped());
    let agent = stage.spawn_agent(command).unwrap();
    wait_for("an open session", || fs::read_to_string(&out).unwrap().contains("open").then_some(()));
    stage.kill_daemon().unwrap();
    // Closing its standard input lets the agent go on: its session is gone.
    let output = agent.wait_with_output().unwrap();
    assert!(!output.status.success(), "{}", said(&output));
    let told = psql_fails(&stage, &["SELECT 'forbidden:crash'"]);
    assert!(told.contains("connection"), "{told}");
    assert_nothing_forbidden(&stage);
    stage.start_daemon().unwrap();
    assert_works(&stage);
    operate(&stage, 0, &["recordings", "verify"]);
    assert!(recorded(&stage).contains("daemon_started"));
}

#[test]
fn a_daemon_that_is_told_to_stop_tells_its_sessions_and_records_their_ends() {
    let mut stage = stage();
    let code = "c = psycopg.connect(URL, autocommit=True)\n\
                c.execute('SELECT 1')\n\
                print('open', flush=True)\n\
                sys.stdin.readline()\n\
                try:\n\
                \x20   c.execute('SELECT 1 /* forbidden:stop */')\n\
                except psycopg.Error as error:\n\
                \x20   print(error.sqlstate, error, flush=True)\n";
    let out = stage.path("out");
    let mut command = inline(&stage, code);
    command.stdin(Stdio::piped()).stdout(fs::File::create(&out).unwrap()).stderr(Stdio::piped());
    let agent = stage.spawn_agent(command).unwrap();
    wait_for("an open session", || fs::read_to_string(&out).unwrap().contains("open").then_some(()));
    stage.stop_daemon().unwrap();
    agent.wait_with_output().unwrap();
    let told = fs::read_to_string(&out).unwrap();
    assert!(told.contains("interceptor is stopping") && told.contains("57P01"), "{told}");
    assert_nothing_forbidden(&stage);
    stage.start_daemon().unwrap();
    operate(&stage, 0, &["recordings", "verify"]);
    let kept = recorded(&stage);
    assert!(kept.contains("ended by interceptor") && kept.contains("daemon_stopped"), "{kept}");
}

#[test]
fn a_dead_server_is_a_native_error() {
    let stage = stage();
    assert_works(&stage);
    signal(stage.server.pid(), Signal::SIGINT);
    let told = wait_for("the server to be gone", || {
        let output = psql(&stage, &[MASKED]);
        (!output.status.success()).then(|| said(&output))
    });
    assert!(told.contains("FATAL") || told.contains("ERROR"), "{told}");
    assert!(told.to_lowercase().contains("interceptor") || told.contains("08"), "{told}");
    // The daemon itself lives on, and says so.
    assert!(operate(&stage, 0, &["status"]).contains("orders-db"));
}

#[test]
fn garbage_truncated_and_huge_messages_cost_nobody_else_anything() {
    let stage = stage();
    let daemon = stage.daemon_pid().unwrap();
    for (mode, ends) in [
        ("garbage", &["closed", "broken", "08P01"][..]),
        ("truncated", &["left"]),
        ("huge", &["closed", "broken", "08P01", "54000"]),
    ] {
        for _ in 0..3 {
            let told = said(&stage.run_agent(bounded(&raw(&stage, mode, &[]))).unwrap());
            assert!(ends.iter().any(|end| told.contains(end)), "{mode}: {told}");
        }
    }
    let code = "c = psycopg.connect(URL, autocommit=True)\n\
                text = 'x' * 8_000_000\n\
                try:\n\
                \x20   print('length', c.execute('SELECT length(%s::text)', (text,)).fetchone()[0])\n\
                except psycopg.Error as error:\n\
                \x20   print('refused', error.sqlstate)\n\
                print('then', c.execute('SELECT 1').fetchone()[0])\n";
    let told = said(&stage.run_agent(bounded(&inline(&stage, code))).unwrap());
    assert!((told.contains("length 8000000") || told.contains("refused")) && told.contains("then 1"), "{told}");
    let status = fs::read_to_string(format!("/proc/{daemon}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kilobytes: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 512 * 1024, "the daemon holds {kilobytes} kB");
    assert_eq!(stage.daemon_pid(), Some(daemon));
    assert_works(&stage);
}

#[test]
fn a_cancel_request_works_within_the_identity_only() {
    let stage = stage();
    let cgroup = stage.world.cgroup(Place::Agent("audit"));
    let path = stage.path("interceptor.toml");
    let token = stage.path("audit-token");
    fs::write(&token, stage.token("svc:audit", 3600).unwrap()).unwrap();
    let agent = format!(
        "\n[[agent]]\nname = \"audit-bot\"\nmatch = {{ cgroup = \"{cgroup}\", uid = {AGENT_UID} }}\n\
         token = {{ issuer = \"corp\", from = \"file:{}\", subject = \"svc:audit\", groups = [\"finance\"] }}\n",
        token.display()
    );
    fs::write(&path, fs::read_to_string(&path).unwrap() + &agent).unwrap();
    operate(&stage, 0, &["reload"]);
    let out = stage.path("out");
    let mut command = raw(&stage, "run", &[]);
    command.stdin(Stdio::null()).stdout(fs::File::create(&out).unwrap()).stderr(Stdio::inherit());
    let mut running = stage.spawn_agent(command).unwrap();
    let line = wait_for("the cancel key", || {
        let text = fs::read_to_string(&out).unwrap();
        text.lines().next().filter(|_| text.contains('\n')).map(str::to_owned)
    });
    sleep(Duration::from_millis(300));
    let key: Vec<&str> = line.split_whitespace().collect();
    let mut foreign = bounded(&raw(&stage, "cancel", &key));
    foreign.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    stage.spawn_agent_in("audit", foreign).unwrap().wait_with_output().unwrap();
    sleep(Duration::from_secs(1));
    assert!(
        running.try_wait().unwrap().is_none(),
        "another identity cancelled it: {}",
        fs::read_to_string(&out).unwrap()
    );
    stage.run_agent(bounded(&raw(&stage, "cancel", &key))).unwrap();
    wait_for("the cancelled query to end", || running.try_wait().unwrap());
    assert!(fs::read_to_string(&out).unwrap().contains("57014"));
    assert!(recorded(&stage).contains("no session of this identity has that key"));
}

/// A small file system in memory, gone with its value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), Some("size=32m,mode=0700")).unwrap();
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _gone_already = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_stops_governed_commands_until_there_is_room() {
    let mut stage = stage();
    let disk = SmallDisk::mount(stage.path("small"));
    let directory = stage.directory.path().display().to_string();
    let (from, to) = (
        format!("spool = \"{directory}/spool\""),
        format!("spool = \"{directory}/small/spool\"\nfree_space_floor = 4194304"),
    );
    reconfigure(&mut stage, &from, &to);
    assert_works(&stage);
    // On one session as long as it lasts, and then on new ones.
    let code = "c = None\n\
                for n in range(240):\n\
                \x20   try:\n\
                \x20       c = c if c and not c.closed else psycopg.connect(URL, autocommit=True)\n\
                \x20       c.execute('SELECT 1')\n\
                \x20       print('fine', flush=True)\n\
                \x20   except psycopg.Error as error:\n\
                \x20       print('refused', error.sqlstate, str(error).replace(chr(10), ' '), flush=True)\n\
                \x20   time.sleep(0.25)\n";
    let out = stage.path("out");
    let mut command = inline(&stage, code);
    command.stdin(Stdio::null()).stdout(fs::File::create(&out).unwrap()).stderr(Stdio::inherit());
    let mut agent = stage.spawn_agent(command).unwrap();
    let lines = || fs::read_to_string(&out).unwrap();
    wait_for("a session", || lines().contains("fine").then_some(()));
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![0_u8; 29 << 20]).unwrap();
    let told = wait_for("the disk to be found full", || {
        lines().lines().find(|line| line.starts_with("refused")).map(str::to_owned)
    });
    assert!(told.contains("58000") && told.contains("cannot be recorded"), "{told}");
    let seen = stage.server.log().matches("'full-disk-after'").count();
    psql_fails(&stage, &["SELECT 'full-disk-after'"]);
    assert_eq!(stage.server.log().matches("'full-disk-after'").count(), seen, "no record, no forward");
    operate(&stage, 1, &["status"]);
    fs::remove_file(&ballast).unwrap();
    wait_for("the agent to go on", || lines().trim_end().ends_with("fine").then_some(()));
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert_works(&stage);
    operate(&stage, 0, &["recordings", "verify"]);
    stage.stop_daemon().unwrap();
}

#[test]
fn the_bound_of_the_spool_refuses_with_a_word_and_root_says_what_is_held() {
    let mut stage = stage();
    let spool = format!("spool = \"{}/spool\"", stage.directory.path().display());
    let bounded_spool = format!("{spool}\nsegment_bytes = 16384\nretention = {{ max_bytes = 200000 }}");
    reconfigure(&mut stage, &spool, &bounded_spool);
    let room = || operate_json(&stage, &["status"])["recorder_room"].to_string();
    wait_for("the room to be known", || room().contains("left for recordings").then_some(()));
    let code = "c = psycopg.connect(URL, autocommit=True)\n\
                try:\n\
                \x20   for n in range(5000):\n\
                \x20       c.execute('SELECT 1')\n\
                except psycopg.Error as error:\n\
                \x20   print('refused', error.sqlstate, str(error).replace(chr(10), ' '))\n";
    let told = said(&stage.run_agent(bounded(&inline(&stage, code))).unwrap());
    assert!(told.contains("58000") && told.contains("the recording has come to the bound"), "{told}");
    operate(&stage, 1, &["status"]);
    // Through the daemon, whose spool it is, and on record in spite of the bound.
    operate(&stage, 0, &["recordings", "hold", "add", "case", "--reason", "litigation", "--segments", "0-"]);
    assert!(operate(&stage, 0, &["recordings", "hold", "list"]).contains("litigation"));
    assert!(recorded(&stage).contains("\"event\":\"held\""));
    operate(&stage, 0, &["recordings", "hold", "remove", "case"]);
    reconfigure(&mut stage, "max_bytes = 200000", "max_bytes = 0");
    assert_works(&stage);
    operate(&stage, 0, &["recordings", "verify"]);
    stage.stop_daemon().unwrap();
}

#[test]
fn a_broken_configuration_names_its_line_and_changes_nothing() {
    let stage = stage();
    operate(&stage, 0, &["check"]);
    let path = stage.path("interceptor.toml");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{good}\n[polcy]\ndir = \"x\"\n")).unwrap();
    let line = good.lines().count() + 2;
    let told = operate(&stage, 1, &["check"]);
    assert!(told.contains(&format!("interceptor.toml:{line}:")) && told.contains("polcy"), "{told}");
    let output = stage.operate(&["--socket", stage.path("admin.sock").to_str().unwrap(), "reload"]).unwrap();
    assert!(!output.status.success() && said(&output).contains("polcy"), "{}", said(&output));
    assert_works(&stage);
    fs::write(&path, &good).unwrap();
    let policy = stage.path("policies/broken.cedar");
    for (text, words) in [
        ("\n\npermit (principal, action, resource", "broken.cedar:"),
        ("@id(\"x\")\npermit (principal, action == Action::\"sql:everything\", resource);\n", "sql:everything"),
    ] {
        fs::write(&policy, text).unwrap();
        let told = operate(&stage, 1, &["check"]);
        assert!(told.contains("broken.cedar:") && told.contains(words), "{told}");
        let output = stage.operate(&["reload"]).unwrap();
        assert!(!output.status.success() && said(&output).contains("broken.cedar"), "{}", said(&output));
        signal(stage.daemon_pid().unwrap(), Signal::SIGHUP);
        wait_for("the reload to be refused", || stage.log().contains("stays in force").then_some(()));
        assert_works(&stage);
    }
    fs::remove_file(&policy).unwrap();
    fs::write(
        stage.path("policies/test.cedar"),
        "@id(\"no-scratch\")\nforbid (principal, action, resource == Table::\"orders-db/orders/public/scratch\");\n",
    )
    .unwrap();
    let told = psql_ok(&stage, &["SELECT count(*) FROM scratch"]);
    assert!(told.contains("1000"), "{told}");
    operate(&stage, 0, &["reload"]);
    let told = psql_fails(&stage, &["SELECT count(*) FROM scratch /* forbidden:reloaded */"]);
    assert!(told.contains("no-scratch"), "{told}");
    assert_works(&stage);
}
