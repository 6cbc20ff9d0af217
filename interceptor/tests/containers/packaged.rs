//! The daemon as it is packaged: a user of its own that may enter no namespace, and what opens them for it.

use std::fs;
use std::time::Duration;

use interceptor::capture::cgroup;
use interceptor::testing::stage::{AGENT_UID, HOST, Script, Stage};
use interceptor::testing::units;
use interceptor::testing::world::Place;
use serde_json::json;

use super::engine::{Container, ID, OTHER, operate, said, stage_with, status};
use super::scene::{Agent, ECONNREFUSED, inode};

/// Whom the stage has the daemon be.
const DAEMON: u32 = 65_534;
/// Of a container that nobody governs yet; other tests look for those of theirs.
const LOOSE: &str = "10053c0e6a2d9c8b7a6f5e4d3c2b1a09876543210fedcba9876543210abcdef0";
const EPERM: i64 = 1;
const EACCES: i64 = 13;
const DOOR: &str = include_str!("door.py");

fn alone() -> Stage {
    let capabilities = Some(units::capabilities(units::DAEMON));
    stage_with(Script { managed: true, capabilities, ..Script::default() })
}

fn packaged() -> Stage {
    let mut stage = alone();
    stage.start_doorkeeper().unwrap_or_else(|error| panic!("{error}"));
    stage
}

fn log(stage: &Stage) -> String {
    format!("{}\n{}", stage.log(), fs::read_to_string(stage.path("doorkeeper.log")).unwrap_or_default())
}

/// A program of somebody's who knows where the door is.
fn knocks(stage: &Stage, place: Place<'_>, uid: Option<u32>, code: &str) -> Agent {
    let path = stage.path("namespaces.sock").display().to_string();
    Agent::start(&stage.world, place, uid, &format!("{DOOR}\nPATH = {path:?}\n{code}"))
}

/// The same, by who has taken over the daemon.
fn taken_over(stage: &Stage, code: &str) -> Agent {
    knocks(stage, Place::Daemon, Some(DAEMON), code)
}

#[test]
fn containers_are_governed_by_a_daemon_that_may_not_enter_them() {
    let stage = packaged();
    let container = Container::new(&stage, ID, true);
    let output = container.psql(HOST, "SELECT name, card FROM customers WHERE id = 1");
    assert_eq!(said(&output), "Ada Lovelace|************1111\n", "{}", log(&stage));
    let open = &status(&stage)["namespaces"][0];
    assert_eq!((&open["cgroup"], &open["captured"]), (&json!(container.cgroup()), &json!(1)));
    // Its own addresses are told from the host's by a socket that the daemon could not have made.
    let own = container.psql("127.0.0.1", "SELECT 1");
    assert!(!own.status.success(), "{}", said(&own));
    assert!(stage.log().contains("an address of the agent's own network namespace"), "{}", log(&stage));
    // What nobody announces is found, or made after a refusal.
    let agent = Container::new(&stage, OTHER, false)
        .start("out(until(lambda: socket.create_connection((FAR4, 5432)).getpeername()))\ngo()");
    assert_eq!(agent.value(), json!({ "ok": ["10.99.0.2", 5432] }), "{}", log(&stage));
}

#[test]
fn without_it_the_daemon_says_what_is_missing() {
    let stage = alone();
    let container = Container::new(&stage, ID, true);
    let agent = container.start("out(until(lambda: socket.create_connection((FAR4, 5432)), 100))\ngo()");
    assert_eq!(agent.value(), json!({ "errno": ECONNREFUSED }));
    wait("words", || stage.log().contains("cannot be entered (that takes CAP_SYS_ADMIN"), || stage.log());
}

#[test]
fn doctor_says_whether_somebody_opens_namespaces_and_answers() {
    let mut stage = alone();
    let found = |stage: &Stage| {
        let output = stage.operate(&["doctor", "--json"]).unwrap();
        let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut found = findings.as_array().unwrap().iter();
        let found = found.find(|found| found["name"] == "network namespaces of agents").unwrap().clone();
        (found["verdict"].as_str().unwrap().to_owned(), found["detail"].as_str().unwrap().to_owned())
    };
    let (verdict, detail) = found(&stage);
    assert!(verdict == "weak" && detail.ends_with("No such file or directory (os error 2)"), "{verdict} {detail}");
    stage.start_doorkeeper().unwrap();
    let answers = ("ok".to_owned(), "interceptor-namespaces opens them, and answers".to_owned());
    assert_eq!(found(&stage), answers, "{}", log(&stage));
    // Its socket is there, and nobody listens any more.
    stage.doorkeeper = None;
    let (verdict, detail) = found(&stage);
    assert!(verdict == "weak" && detail.contains("Connection refused"), "{verdict} {detail}");
    // Somebody does who is not root, and says nothing.
    fs::remove_file(stage.path("namespaces.sock")).unwrap();
    let code = format!(
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\ns.bind({:?})\ns.listen()\nout('ready')\ngo()",
        stage.path("namespaces.sock").display().to_string()
    );
    fs::set_permissions(stage.directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let mut impostor = Agent::start(&stage.world, Place::Daemon, Some(DAEMON), &code);
    impostor.ready();
    let (verdict, detail) = found(&stage);
    assert!(verdict == "weak" && detail.contains("is not root's"), "{verdict} {detail}");
    // Without a daemon there is nobody to ask, and nothing is started.
    stage.stop_daemon().unwrap();
    let (verdict, detail) = found(&stage);
    assert!(verdict == "ok" && detail.contains("no daemon runs that would ask"), "{verdict} {detail}");
}

#[test]
fn it_comes_and_goes_and_what_it_made_stays() {
    let mut stage = packaged();
    let code = "def connected(): return socket.create_connection((FAR4, 5432)).getpeername()\n\
                out(until(connected))\nwhile sys.stdin.readline(): out(until(connected))";
    let mut agent = Container::new(&stage, ID, false).start(code);
    assert_eq!(agent.value(), json!({ "ok": ["10.99.0.2", 5432] }), "{}", log(&stage));
    // Gone, with its cgroup: the kernel programs stay with the sockets.
    stage.doorkeeper = None;
    stage.world.remove(Place::Doorkeeper).unwrap();
    assert_eq!(agent.go(), json!({ "ok": ["10.99.0.2", 5432] }), "{}", log(&stage));
    // Another one, and a daemon that is started again: it has the namespace opened anew.
    stage.start_doorkeeper().unwrap();
    stage.kill_daemon().unwrap();
    stage.start_daemon().unwrap();
    assert_eq!(agent.go(), json!({ "ok": ["10.99.0.2", 5432] }), "{}", log(&stage));
    // What it left in the pins goes once nothing of it is left.
    let links = |stage: &Stage| fs::read_dir(stage.world.pins().join("interceptor/links")).unwrap().count();
    let before = links(&stage);
    for _ in 0..3 {
        stage.doorkeeper = None;
        stage.world.remove(Place::Doorkeeper).unwrap();
        stage.start_doorkeeper().unwrap();
    }
    assert!(links(&stage) <= before, "{before} {}", links(&stage));
}

#[test]
fn who_has_taken_over_the_daemon_gets_listeners_of_agents_and_nothing_else() {
    let mut stage = packaged();
    let mut governed = Agent::start(&stage.world, Place::Agent("one"), None, "contain()\ndrop()\nout('ready')\ngo()");
    let mut near = Agent::start(&stage.world, Place::Agent("two"), Some(AGENT_UID), "out('ready')\ngo()");
    let mut outside = Agent::start(&stage.world, Place::Outside, None, "contain()\nout('ready')\ngo()");
    [&mut governed, &mut near, &mut outside].into_iter().for_each(Agent::ready);
    // The daemon that is there would open it first.
    stage.kill_daemon().unwrap();
    let [pid, host, free] = [governed.id(), near.id(), outside.id()];
    let code = format!(
        "good = question({pid})\n\
         out([why(PATH, question({free})), why(PATH, question(1)), why(PATH, question({host})), why(PATH, question(os.getpid()))])\n\
         out([why(PATH, question(2**32 - 1)), why(PATH, question({pid}, 4711)), why(PATH, question({free}, 4711))])\n\
         out([why(PATH, data) for data in (question(0), b'', b'x', good[:-1], good + b'\\0', good + b'x' * 60000, b'\\xff' * 24, b'{{}}')])\n\
         out(why(PATH, good, [0, 1, 2]))\n\
         answer, got = ask(PATH, {pid})\nout(answer)\n\
         held = [socket.socket(fileno=one) for one in got]\n\
         out([[s.family, s.type & 0xf, s.getsockname()[:2] if s.family != 16 else None] for s in held])\n\
         out([tried(s) for s in held[:2]])\nout(administers(held[2]))"
    );
    let taken = taken_over(&stage, &code);
    assert_eq!(taken.value(), json!(["NotGoverned", "NotGoverned", "Home", "NotGoverned"]), "{}", log(&stage));
    assert_eq!(taken.value(), json!(["Gone", "Elsewhere", "NotGoverned"]));
    assert_eq!(taken.value(), json!(vec!["nothing"; 8]), "what is no question has no answer");
    // What comes with a question is nobody's; and what is in use is in use.
    assert_eq!(taken.value(), "opened");
    let answer = taken.value();
    assert_eq!(answer["Ok"]["inode"].as_u64(), Some(inode(pid)), "{answer}");
    assert_eq!(answer["Ok"]["parts"], json!(["proxy4", "proxy6", "probe"]), "no names are relayed on this stage");
    let held = taken.value();
    assert_eq!(held, json!([[2, 1, ["127.0.0.1", 15001]], [10, 1, ["::1", 15001]], [16, 3, null]]), "{held}");
    let refused = json!({ "mark": EPERM, "transparent": EPERM, "forced": EPERM });
    assert_eq!(taken.value(), json!([refused, refused]), "they are sockets without rights");
    assert_eq!(taken.value(), json!([EPERM, EPERM]), "it asks, and changes nothing");
    drop(taken);
    assert!(stage.doorkeeper.as_mut().unwrap().runs().unwrap(), "{}", log(&stage));
}

#[test]
fn nobody_but_the_daemon_is_answered() {
    let stage = packaged();
    let mut governed = Agent::start(&stage.world, Place::Agent("one"), None, "contain()\nout('ready')\ngo()");
    governed.ready();
    let code = format!("out(attempt(lambda: why(PATH, question({}))))", governed.id());
    let asked = |place, uid| knocks(&stage, place, uid, &code).value();
    for uid in [AGENT_UID, 65_533] {
        assert_eq!(asked(Place::Daemon, Some(uid)), json!({ "errno": EACCES }), "{uid}: it cannot even knock");
    }
    // Root, wherever; the daemon's user elsewhere, also where agents are.
    for (place, uid) in [
        (Place::Daemon, None),
        (Place::Outside, None),
        (Place::Outside, Some(DAEMON)),
        (Place::Agent("one"), Some(DAEMON)),
        (Place::Doorkeeper, Some(DAEMON)),
    ] {
        assert_eq!(asked(place, uid), json!({ "ok": "nothing" }), "{place:?} {uid:?}");
    }
    let told = log(&stage);
    assert!(told.contains("user 0 is not the daemon's") && told.contains("is not in the daemon's cgroup"), "{told}");
}

#[test]
fn floods_and_the_slow_are_bounded_and_it_goes_on() {
    let mut stage = packaged();
    let mut outside = Agent::start(&stage.world, Place::Outside, None, "contain()\nout('ready')\ngo()");
    outside.ready();
    let code = format!(
        "began = time.monotonic()\nslow = [visit(PATH) for n in range(3)]\nout(why(PATH, question({pid})))\n\
         out(time.monotonic() - began)\nbegan = time.monotonic()\n\
         all = [why(PATH, question({pid})) for n in range(1500)]\ntook = time.monotonic() - began\n\
         out([all.count('NotGoverned'), all.count('Rate'), took])\nfor n in range(300): why(PATH, b'nothing')\n\
         left = [visit(PATH) for n in range(10)]\ndel left\nout('ready')",
        pid = outside.id()
    );
    let mut taken = taken_over(&stage, &code);
    assert_eq!(taken.value(), "NotGoverned");
    let waited = taken.value().as_f64().unwrap();
    assert!((2.0..8.0).contains(&waited), "a second for each that says nothing: {waited}");
    let value = taken.value();
    let [looked, rate, took] = [0, 1, 2].map(|place| value[place].as_f64().unwrap());
    assert!(looked <= took.mul_add(50.0, 201.0) && rate > 0.0 && (looked + rate - 1500.0).abs() < 0.5, "{value}");
    taken.ready();
    drop(taken);
    // A line a second, and not one a question.
    assert!(log(&stage).lines().count() < 200, "{}", log(&stage).lines().count());
    // The daemon is served as before.
    std::thread::sleep(Duration::from_secs(1));
    let output = Container::new(&stage, ID, true).psql(HOST, "SELECT 1");
    assert_eq!(said(&output), "1\n", "{}", log(&stage));
    assert!(stage.doorkeeper.as_mut().unwrap().runs().unwrap());
}

#[test]
fn a_container_that_runs_already_is_enrolled_and_stays_so_over_a_restart() {
    let mut stage = packaged();
    // Outside of every governed cgroup, in a network of its own, with a connection between two of its processes.
    let parent = stage.world.cgroup(Place::Outside);
    let cgroup = format!("{parent}/{LOOSE}");
    fs::create_dir_all(cgroup::directory(&cgroup).unwrap()).unwrap();
    let code = format!(
        "open('{}/cgroup.procs', 'w').write('0')\ncontain()\nl = socket.create_server(('127.0.0.1', 7001))\n\
         own, other = socket.create_connection(('127.0.0.1', 7001)), l.accept()[0]\ndrop({AGENT_UID})\nout('ready')\n\
         go()\nown.settimeout(3)\nout(attempt(lambda: own.sendall(b'x') or own.recv(1)))\n\
         def connected(): return socket.create_connection((FAR4, 5432)).getsockname()[0]\n\
         out(attempt(connected))\nwhile sys.stdin.readline(): out(until(connected, 300))",
        cgroup::directory(&cgroup).unwrap().display()
    );
    let mut agent = Agent::start(&stage.world, Place::Outside, None, &code);
    agent.ready();
    let done = operate(&stage, 0, &["enroll", "--yes", "--container", LOOSE]);
    assert!(done.contains(&cgroup) && done.contains("is governed from now on"), "{done}");
    let destroyed = done.split("; ").nth(1).and_then(|words| words.split(' ').next()).unwrap().parse::<u32>().unwrap();
    assert!(destroyed >= 2, "{done}");
    let cut = agent.go();
    assert!(cut["errno"].is_number(), "{cut}");
    assert_eq!(agent.value(), json!({ "ok": "127.0.0.1" }), "captured from its first connect on: {}", log(&stage));
    let namespaces = |stage: &Stage| status(stage)["namespaces"].as_array().unwrap().len();
    assert!(operate(&stage, 0, &["status"]).contains(&cgroup) && namespaces(&stage) == 1);
    stage.kill_daemon().unwrap();
    stage.start_daemon().unwrap();
    assert!(operate(&stage, 0, &["status"]).contains(&cgroup), "{}", log(&stage));
    assert_eq!(agent.go(), json!({ "ok": "127.0.0.1" }), "{}", log(&stage));
    // Free again, in a network that leads nowhere.
    operate(&stage, 0, &["enroll", "--yes", "--undo", "--cgroup", &cgroup]);
    assert_eq!(namespaces(&stage), 0, "nobody is sent there any more: {}", log(&stage));
    assert_eq!(agent.go(), json!({ "errno": 101 }), "{}", log(&stage));
    let governed = status(&stage)["governed"].to_string();
    assert!(!governed.contains(&cgroup), "{governed}");
    assert!(operate(&stage, 2, &["enroll", "--yes", "--undo", "--cgroup", &cgroup]).contains("is not governed"));
    // Without a daemon nobody would listen: it is not begun.
    stage.stop_daemon().unwrap();
    stage.world.remove(Place::Daemon).unwrap();
    let refused = operate(&stage, 2, &["enroll", "--yes", "--cgroup", &cgroup]);
    assert!(refused.contains("no daemon of this version runs here"), "{refused}");
    assert!(operate(&stage, 1, &["governs", &cgroup]).contains("is not governed"));
}

#[test]
fn connects_in_a_container_wait_for_the_daemon_to_come_back() {
    let mut stage = packaged();
    // What the server asks of TLS is answered with one byte, once somebody serves.
    let code = "def asked():\n    s = socket.create_connection((FAR4, 5432))\n    s.settimeout(60)\n    \
                s.sendall(bytes([0, 0, 0, 8, 4, 210, 22, 47]))\n    return s.recv(1).decode()\n\
                out(until(asked))\nwhile sys.stdin.readline():\n    out('begins')\n    out(attempt(asked))";
    let mut agent = Container::new(&stage, ID, false).start(code);
    assert_eq!(agent.value(), json!({ "ok": "N" }), "{}", log(&stage));
    let kept = |stage: &Stage| -> Vec<String> {
        let all = stage.manager.as_ref().unwrap().kept();
        all.into_iter().filter(|name| name.starts_with("netns.")).collect()
    };
    assert_eq!(kept(&stage).len(), 3, "{:?}", kept(&stage));
    let before = status(&stage)["namespaces"][0].clone();
    for doorkeeper in [true, false] {
        stage.kill_daemon().unwrap();
        if !doorkeeper {
            stage.doorkeeper = None;
            stage.world.remove(Place::Doorkeeper).unwrap();
        }
        assert_eq!(agent.go(), "begins");
        std::thread::sleep(Duration::from_millis(500));
        stage.start_daemon().unwrap();
        assert_eq!(agent.value(), json!({ "ok": "N" }), "it has waited: {}", log(&stage));
        let after = &status(&stage)["namespaces"][0];
        for what in ["cookie", "inode", "cgroup"] {
            assert_eq!(after[what], before[what], "{what}");
        }
    }
    // What says that it is of a namespace, and is not, is dropped; and so is what nobody needs any more.
    stage.kill_daemon().unwrap();
    let [name, other] = ["netns.1.2.3.proxy4", "netns.1.2.3.probe"];
    let stranger = stage.world.listen(Place::Outside, ([127, 0, 0, 1], 0).into()).unwrap();
    stage.manager.as_ref().unwrap().plant(name, stranger);
    stage.manager.as_ref().unwrap().plant(other, fs::File::open("/dev/null").unwrap());
    stage.start_daemon().unwrap();
    wait("end of strangers", || kept(&stage).len() == 3, || log(&stage));
    assert!(stage.log().contains("what was kept of a network namespace is not used"), "{}", stage.log());
    drop(agent);
    wait("end of what is kept", || kept(&stage).is_empty(), || format!("{:?}", kept(&stage)));
}

fn wait(what: &str, done: impl Fn() -> bool, words: impl Fn() -> String) {
    for _ in 0..600 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no {what}: {}", words());
}
