//! cgroups and namespaces that come and go by the thousand leave nothing behind.

use std::time::Duration;

use interceptor::capture::cgroup;
use interceptor::testing::world::Place;
use serde_json::json;

use super::scene::{Agent, Scene};

/// Makes and removes 2,000 cgroups, ten at a time; an agent connects in each, in each tenth from a namespace of its own.
const CHURN: &str = "
root = sys.argv[-1]
def agent(n):
    path = f'{root}/churn-{n}'
    os.mkdir(path)
    pid = os.fork()
    if pid: return pid
    open(path + '/cgroup.procs', 'w').write('0')
    if n % 10 == 0: contain()
    drop()
    result = until(lambda: talk(FAR4), 500)
    good = 'ok' in result and result['ok']['origin']['pid'] == os.getpid()
    if not good: print(n, result, file=sys.stderr, flush=True)
    os._exit(0 if good else 1)
bad, running = 0, {}
def reap():
    global bad
    pid, status = os.wait()
    bad += status != 0
    os.rmdir(f'{root}/churn-{running.pop(pid)}')
for n in range(2000):
    if len(running) == 10: reap()
    running[agent(n)] = n
while running: reap()
out(bad)";

#[test]
fn thousands_of_cgroups_and_hundreds_of_namespaces_leave_nothing_behind() {
    let mut scene = Scene::with(false, |config| config.namespaces = 512);
    // Whatever is made once is made now.
    let first = scene.agent("first", "contain()\ndrop()\nout(until(lambda: talk(FAR4)))");
    assert!(first.value()["ok"].is_object());
    drop(first);
    std::thread::sleep(Duration::from_secs(11));
    assert_eq!(scene.daemon.order("sweep").as_array().unwrap().len(), 1);
    let links = || pins(&scene.config.pin_directory.join("links"));
    let (descriptors, pinned) = (scene.daemon.descriptors(), links());

    let agents = cgroup::mount().unwrap().join(scene.world.agents_cgroup().trim_start_matches('/'));
    let churn = CHURN.replace("sys.argv[-1]", &format!("{:?}", agents.display().to_string()));
    let churned = Agent::start(&scene.world, Place::Outside, None, &churn);
    let bad = (0..20).find_map(|_| churned.value_within(Duration::from_secs(15)));
    assert_eq!(bad, Some(json!(0)), "every one was captured as itself: {:?}", scene.daemon.failures());
    assert!(scene.daemon.count("@open") >= 200);

    std::thread::sleep(Duration::from_secs(11));
    let closed = scene.daemon.order("sweep").as_array().unwrap().len();
    assert!(closed <= 200 && scene.daemon.list().is_empty(), "{closed}");
    scene.daemon.wait("end of its descriptors", |daemon| (daemon.descriptors() == descriptors).then_some(()));
    assert_eq!(pins(&scene.config.pin_directory.join("links")), pinned);
}

/// Everything that is pinned below a folder.
fn pins(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        found.extend(std::fs::read_dir(entry.path()).unwrap().flatten().map(|entry| entry.path()));
    }
    found.sort();
    found
}
