//! A hundred kills under load: nobody is refused, nobody is taken for another, and not one packet leaves.

use std::thread::sleep;
use std::time::Duration;

use interceptor::capture::uninstall;
use interceptor::testing::world::Place;
use serde_json::json;

use super::scene::Scene;

const KILLS: u64 = 100;

#[test]
fn a_hundred_kills_under_load_refuse_nobody_and_let_nothing_out() {
    let scene = Scene::new();
    let mut daemon = scene.start();
    scene.all_kept();
    let wire = scene.world.sniff().unwrap();
    let hammer = "hammer = Hammer(2); out('ready'); sys.stdin.readline(); out(hammer.stop())";
    let mut agents = ["one", "two"].map(|name| scene.begin(Place::Agent(name), hammer));
    let (mut unrecorded, mut refused) = (Vec::new(), Vec::new());
    for round in 0..KILLS {
        sleep(Duration::from_millis(10 + round * 7 % 50));
        unrecorded.extend(daemon.unrecorded(0));
        refused.extend(daemon.events(0));
        daemon.kill().unwrap();
        // A service manager removes the cgroup, and the next run gets another; or it keeps it.
        if round % 4 != 3 {
            scene.world.remove(Place::Daemon).unwrap();
        }
        if round % 8 == 7 {
            sleep(Duration::from_millis(200));
        }
        daemon = scene.start();
    }
    sleep(Duration::from_millis(300));
    let results = agents.each_mut().map(|agent| {
        agent.go();
        agent.value()
    });
    unrecorded.extend(daemon.unrecorded(0));
    refused.extend(daemon.events(0));
    eprintln!("     {} refusals: {:?}", refused.len(), refused.get(..4));
    eprintln!("     {KILLS} kills: {}; {}", results[0], results[1]);
    for result in &results {
        assert_eq!((&result["failed"], &result["wrong"]), (&json!([]), &json!([])), "{result}");
        assert!(
            result["told"].as_u64().unwrap() > 10 * KILLS && result["waited"].as_u64().unwrap() > KILLS,
            "{result}"
        );
    }
    assert_eq!(unrecorded, Vec::<String>::new());
    assert_eq!(wire.seen(), []);
    // What a hundred runs have left: links of the agents, of the daemon, and of the run that made the sockets.
    let links = std::fs::read_dir(scene.config.pin_directory.join("links")).unwrap().count();
    assert!(links <= 4, "{links} cgroups have links");
    scene.all_kept();
    daemon.kill().unwrap();
    scene.manager.forget();
    assert!(uninstall(&scene.config).unwrap() > 15);
    assert!(!scene.config.pin_directory.exists());
}

#[test]
fn questions_for_names_wait_as_well() {
    let scene = Scene::new();
    let daemon = scene.start();
    scene.all_kept();
    let mut resolver = scene.begin(
        Place::Far,
        "s = socket.socket(INET, UDP); s.bind((FAR4, 53)); out('ready')\n\
         q, client = s.recvfrom(2048); s.sendto(q[:2] + b'\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0' + q[12:] \
         + b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4\\x0a\\x63\\0\\x2a', client); out('answered')",
    );
    daemon.kill().unwrap();
    let mut asking = scene.begin(
        Place::Agent("one"),
        "s = socket.socket(INET, UDP); s.settimeout(20); s.sendto(query(), (FAR4, 53)); out('ready')\n\
         data, source = s.recvfrom(600); out([data[-4:].hex(), source])",
    );
    let daemon = scene.start();
    assert_eq!(asking.value(), json!(["0a63002a", ["10.99.0.2", 53]]));
    assert_eq!(resolver.value(), "answered");
    daemon.kill().unwrap();
}
