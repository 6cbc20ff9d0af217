//! Listeners in namespaces: made after a refusal or before it, and closed again.

use std::time::Duration;

use interceptor::testing::world::Place;
use serde_json::json;

use super::scene::{Agent, ECONNREFUSED, Scene, inode};

#[test]
fn a_refused_connect_makes_the_listener_and_the_next_one_is_captured() {
    let mut scene = Scene::set();
    let wire = scene.world.sniff().unwrap();
    let mut agent = scene.agent(
        "one",
        "contain()\ndrop()\nout(attempt(lambda: talk(FAR4)))\nfor host, family in ((FAR4, INET), (FAR6, INET6), (MAPPED, INET6)):\n    \
         out(until(lambda: talk(host, 7000, family)))\nout('ready')\ngo()",
    );
    assert_eq!(agent.value(), json!({ "errno": ECONNREFUSED }));
    let mut cookies = Vec::new();
    for destination in ["10.99.0.2:7000", "[fd99::2]:7000", "10.99.0.2:7000"] {
        let value = agent.value();
        let origin = &value["ok"]["origin"];
        assert_eq!(origin["destination"], destination, "{value}");
        assert_eq!((&origin["pid"], &origin["uid"]), (&json!(agent.id()), &json!(1000)));
        assert_eq!(value["ok"]["own_address"], false);
        cookies.push(origin["netns"].as_u64().unwrap());
    }
    agent.ready();
    let open = scene.daemon.list();
    assert_eq!(open.len(), 1, "{open:?}");
    assert_eq!((open[0].inode, open[0].captured), (inode(agent.id()), 3));
    assert_eq!(open[0].cgroup, scene.world.cgroup(Place::Agent("one")));
    assert!(cookies.iter().all(|cookie| *cookie == open[0].cookie), "{cookies:?} {open:?}");
    assert_eq!(wire.count(), 0);
}

#[test]
fn resolvers_that_only_the_container_knows_are_the_relay() {
    let scene = Scene::set();
    let mut agent = scene.agent(
        "one",
        "contain()\ndrop()\nfor resolver in ('127.0.0.11', '10.96.0.10', '10.99.0.2'):\n    \
         out(asked(resolver))\n    out(asked(resolver, connected=True))\n\
         out(asked('fd00::10', family=INET6))\nout(asked('::ffff:10.96.0.10', family=INET6))\n\
         out(attempt(lambda: socket.socket(INET, UDP).sendto(b'x', ('10.96.0.10', 54))))\nout('ready')\ngo()",
    );
    for resolver in ["127.0.0.11", "10.96.0.10", "10.99.0.2"] {
        assert_eq!(agent.value(), json!({ "ok": [resolver, 53, null, "123481"] }), "{resolver}");
        assert_eq!(agent.value(), json!({ "ok": [resolver, 53, resolver, "123481"] }), "{resolver}");
    }
    assert_eq!(agent.value(), json!({ "ok": ["fd00::10", 53, null, "123481"] }));
    assert_eq!(agent.value(), json!({ "ok": ["::ffff:10.96.0.10", 53, null, "123481"] }));
    assert_eq!(agent.value(), json!({ "errno": 1 }));
    agent.ready();
    // The question alone has told the daemon.
    assert!(scene.daemon.events().iter().any(|event| event.netns.is_some() && event.address.unwrap().port() == 53));
}

#[test]
fn in_the_hosts_own_namespace_there_is_one_resolver() {
    let scene = Scene::set();
    let agent = scene.user("one", "out(asked(FAR4))\nout(attempt(lambda: ask('10.96.0.10')))");
    assert_eq!(agent.value(), json!({ "ok": ["10.99.0.2", 53, null, "123481"] }));
    assert_eq!(agent.value(), json!({ "errno": 1 }));
}

#[test]
fn what_is_announced_is_captured_from_the_first_connect_on() {
    let mut scene = Scene::set();
    // The loopback comes up later than the announcement.
    let mut agent = scene.agent("one", "contain(up=False)\nout('ready')\ngo()\nlo_up()\ndrop()\nout(attempt(lambda: talk(FAR4)))\nout(attempt(lambda: talk(FAR6, 7000, INET6)))\ngo()");
    agent.ready();
    let pid = agent.id();
    let seen = scene.daemon.order(&format!("announce {pid}"));
    assert_eq!(seen["inode"], inode(pid), "{seen}");
    assert_eq!(scene.daemon.order(&format!("announce {pid}")), seen, "twice is once");
    assert_eq!(agent.go()["ok"]["origin"]["destination"], "10.99.0.2:7000");
    assert_eq!(agent.value()["ok"]["origin"]["destination"], "[fd99::2]:7000");
    assert!(!scene.daemon.events().iter().any(|event| event.netns.is_some()));
}

#[test]
fn a_namespace_is_found_before_anybody_connects_in_it() {
    let mut scene = Scene::set();
    let mut agent =
        scene.agent("one/deep/below", "contain()\nout('ready')\ngo()\ndrop()\nout(attempt(lambda: talk(FAR4)))\ngo()");
    agent.ready();
    assert_eq!(scene.daemon.order("discover"), json!([]));
    assert_eq!(agent.go()["ok"]["origin"]["destination"], "10.99.0.2:7000");
    assert_eq!(scene.daemon.list()[0].inode, inode(agent.id()));
}

#[test]
fn a_listener_is_closed_once_nobody_is_there_and_the_namespace_goes_with_it() {
    let mut scene = Scene::set();
    let before = scene.daemon.descriptors();
    let mut agent = scene.agent("one", "contain()\ndrop()\nout(until(lambda: talk(FAR4)))\ngo()");
    assert!(agent.value()["ok"].is_object());
    let other = inode(agent.id());
    assert!(scene.daemon.descriptors() > before);
    // In use: it stays however long nobody connects.
    std::thread::sleep(Duration::from_secs(11));
    assert_eq!(scene.daemon.order("sweep"), json!([]));
    drop(agent);
    let closed = scene.daemon.order("sweep");
    assert_eq!((closed[0]["inode"].as_u64(), closed[0]["captured"].as_u64()), (Some(other), Some(1)), "{closed}");
    assert_eq!(scene.daemon.list(), []);
    scene.daemon.wait("end of its descriptors", |daemon| (daemon.descriptors() == before).then_some(()));
    // A new one, with a new listener.
    agent = scene.agent("one", "contain()\ndrop()\nout(until(lambda: talk(FAR4)))\ngo()");
    assert!(agent.value()["ok"].is_object());
}

#[test]
fn a_restart_finds_those_that_are_there() {
    let mut scene = Scene::set();
    let mut agent = scene.agent("one", "contain()\ndrop()\nout(until(lambda: talk(FAR4)))\ngo()\nout(attempt(lambda: talk(FAR4)))\ngo()\nout(attempt(lambda: talk(FAR4)))\ngo()");
    assert!(agent.value()["ok"].is_object());
    let Scene { daemon, servers, config, world } = scene;
    drop(daemon);
    assert_eq!(agent.go(), json!({ "errno": ECONNREFUSED }), "nobody listens");
    let mut daemon = super::daemon::Daemon::start(&world, &config, false);
    daemon.order("discover");
    assert!(agent.go()["ok"].is_object());
    scene = Scene { daemon, servers, config, world };
    assert_eq!(scene.daemon.list().len(), 1);
}

#[test]
fn addresses_of_its_own_namespace_are_told_from_the_hosts() {
    let scene = Scene::set();
    // 10.99.0.2 is the servers', and here it is also the container's own.
    let mut agent = scene.agent(
        "one",
        "contain()\nuntil(lambda: talk(FAR4))\nip('addr', 'add', '10.5.0.1/24', 'dev', 'lo')\n\
         for host in ('127.0.0.1', '127.0.0.53', '0.0.0.0', '169.254.1.1', '10.5.0.1', '10.5.0.2', '10.6.0.2', FAR4): out(attempt(lambda: talk(host, 5432)))\n\
         for host in ('::1', 'fd99::2', '::ffff:127.0.0.1'): out(attempt(lambda: talk(host, 5432, INET6)))\n\
         ip('addr', 'add', FAR4 + '/32', 'dev', 'lo')\nout(attempt(lambda: talk(FAR4, 5432)))\nout('ready')\ngo()",
    );
    for (own, host) in [
        (true, "127.0.0.1"),
        (true, "127.0.0.53"),
        (true, "0.0.0.0"),
        (true, "169.254.1.1"),
        (true, "10.5.0.1"),
        // What is on the loopback's own network never leaves.
        (true, "10.5.0.2"),
        (false, "10.6.0.2"),
        (false, "10.99.0.2"),
        (true, "::1"),
        (false, "fd99::2"),
        (true, "::ffff:127.0.0.1"),
        (true, "10.99.0.2, its own by now"),
    ] {
        let value = agent.value();
        assert_eq!(value["ok"]["own_address"], own, "{host}: {value}");
    }
    agent.ready();
    // The same addresses, asked for in the host's namespace, are the host's.
    let near =
        Agent::start(&scene.world, Place::Agent("two"), Some(1000), "out(attempt(lambda: talk('127.0.0.1', 5432)))");
    assert_eq!(near.value()["ok"]["own_address"], false);
}

/// The daemon closes first, so that its end of the last connection lingers.
#[test]
fn a_port_that_was_used_before_can_be_used_again() {
    let scene = Scene::set();
    let again = "for n in range(3): out(until(lambda: talk(FAR4, 7000, INET, lambda s: s.bind(('127.0.0.1', 40100)))))";
    for first in ["", "contain()\n"] {
        let agent = scene.agent("one", &format!("{first}drop()\n{again}"));
        for n in 0..3 {
            let value = agent.value();
            assert_eq!(value["ok"]["origin"]["pid"], agent.id(), "{n}: {value}");
        }
    }
}
