//! While nobody will come back, governed traffic is refused at once, and all else goes on.

use interceptor::testing::world::Place;
use serde_json::{Value, json};

use super::scene::Scene;

const EPERM: i64 = 1;
const ECONNREFUSED: i64 = 111;
/// How long a refusal may take.
const AT_ONCE_MS: f64 = 100.0;

const ATTEMPTS: &str = "[attempt(lambda: connect(host, 7000, family, limit=20).getpeername()) for host, family in WAYS] + \
                        [attempt(lambda: udp(FAR4, 9999)), attempt(lambda: udp(FAR6, 9999, INET6)), \
                         attempt(lambda: udp(FAR4, 53, INET, query()))]";

fn assert_refused(results: &Value) {
    let results = results.as_array().unwrap();
    let errors: Vec<_> = results.iter().map(|result| result["errno"].as_i64()).collect();
    let expected = [ECONNREFUSED, ECONNREFUSED, ECONNREFUSED, EPERM, EPERM, EPERM];
    assert_eq!(errors, expected.map(Some), "{results:?}");
    assert!(results.iter().all(|result| result["ms"].as_f64().unwrap() < AT_ONCE_MS), "{results:?}");
}

#[test]
fn without_a_manager_a_killed_daemon_means_refusals_at_once() {
    let scene = Scene::new();
    scene.start_alone().kill().unwrap();
    let wire = scene.world.sniff().unwrap();
    assert_refused(&scene.agent(&format!("out({ATTEMPTS})")));
    assert_eq!(wire.seen(), []);
    // And the next one takes over.
    let daemon = scene.start_alone();
    assert!(scene.agent("out(attempt(lambda: told(FAR4, 7000)))")["ok"].is_object());
    daemon.kill().unwrap();
}

#[test]
fn a_service_that_is_stopped_means_refusals_at_once_also_for_who_waits() {
    let scene = Scene::new();
    let daemon = scene.start();
    scene.all_kept();
    daemon.kill().unwrap();
    let wire = scene.world.sniff().unwrap();
    // They wait for the restart that does not come.
    let waiting = "waiting = [connect(host, 7000, family, limit=20) for host, family in WAYS]; out('ready')\n\
                   sys.stdin.readline(); out([attempt(lambda: read(s).decode()) for s in waiting])";
    let mut waiting = scene.begin(Place::Agent("one"), waiting);
    scene.manager.forget();
    waiting.go();
    for ended in waiting.value().as_array().unwrap() {
        assert_eq!(ended["errno"], 104, "{ended}");
        assert!(ended["ms"].as_f64().unwrap() < AT_ONCE_MS, "{ended}");
    }
    assert_refused(&scene.agent(&format!("out({ATTEMPTS})")));
    assert_eq!(wire.seen(), []);
}

#[test]
fn the_rest_of_the_host_notices_nothing() {
    let scene = Scene::new();
    let echo = "import threading\nl = socket.create_server(('::', 7000), family=INET6, dualstack_ipv6=True); out('ready')\n\
                def serve(s):\n    with s: s.sendall(s.recv(100))\n\
                while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()";
    let _echo = scene.begin(Place::Far, echo);
    let talk = "def talk(host, family):\n    with connect(host, 7000, family) as s: s.sendall(b'hello'); return read(s).decode()\n\
                out([talk(host, family) for host, family in WAYS] + [udp(FAR4, 9999), udp(FAR6, 9999, INET6)])";
    let expected = json!(["hello", "hello", "hello", 1, 1]);
    let before = scene.run(Place::Outside, talk);
    let daemon = scene.start();
    let beside = scene.run(Place::Outside, talk);
    daemon.kill().unwrap();
    let without = scene.run(Place::Outside, talk);
    scene.manager.forget();
    assert_eq!([before, beside, without, scene.run(Place::Outside, talk)], [(); 4].map(|()| expected.clone()));
}
