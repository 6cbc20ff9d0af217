//! What agents try in namespaces of their own, and between them.

use std::time::Duration;

use interceptor::capture::{KernelEvent, PacketFault, Refusal};
use interceptor::testing::world::{Place, World};
use serde_json::json;

use super::scene::{Agent, ECONNREFUSED, Scene, inode};

const ENETUNREACH: i64 = 101;
const EPERM: i64 = 1;

#[test]
fn namespaces_in_a_loop_are_bounded_and_cost_others_nothing() {
    let mut scene = Scene::set();
    // Forty that want a listener, again and again, for fifteen seconds; then they stay.
    let mut hostile = scene.user(
        "hostile",
        "for n in range(40):\n    if os.fork() == 0:\n        own()\n        until(lambda: talk(FAR4), 750)\n        time.sleep(120)\nout('ready')\ngo()",
    );
    hostile.ready();
    std::thread::sleep(Duration::from_secs(2));
    let honest = scene.agent("honest", "contain()\ndrop()\nout(until(lambda: talk(FAR4)))\ngo()");
    assert!(honest.value()["ok"].is_object(), "others wait for nobody");
    std::thread::sleep(Duration::from_secs(13));
    let open = scene.daemon.list();
    let theirs = open.iter().filter(|one| one.cgroup.ends_with("/hostile")).count();
    assert_eq!((theirs, open.len()), (16, 17), "{open:?}");
    assert!(scene.daemon.said("@failed", "faster than") && scene.daemon.said("@failed", "and in no more of one"));
    drop(honest);
}

#[test]
fn who_takes_the_daemons_port_first_gets_nothing() {
    let mut scene = Scene::set();
    let wire = scene.world.sniff().unwrap();
    // A bind to the port is refused; but who administers the namespace decides which port is the free one.
    let mut agent = scene.user(
        "one",
        "own(up=False)\nopen('/proc/sys/net/ipv4/ip_local_port_range', 'w').write('15001 15001')\nlo_up()\n\
         l = socket.socket(INET, TCP)\nl.listen()\nout(l.getsockname())\n\
         open('/proc/sys/net/ipv4/ip_local_port_range', 'w').write('32768 60999')\n\
         out(attempt(lambda: talk(FAR4, limit=1.5)))\nl.setblocking(False)\nout(attempt(lambda: l.accept()[1]))\nout('ready')\ngo()",
    );
    assert_eq!(agent.value(), json!(["0.0.0.0", 15001]));
    assert_eq!(agent.value(), json!({ "errno": ECONNREFUSED }));
    assert_eq!(agent.value(), json!({ "errno": 11 }), "nobody came to the squatter");
    agent.ready();
    scene.daemon.wait("failure", |daemon| daemon.said("@failed", "port 15001 cannot be had").then_some(()));
    assert!(scene.daemon.events().iter().any(|event| event.refusal == Refusal::NoListener));
    let said = scene.daemon.order(&format!("announce {}", agent.id()));
    assert!(said.as_str().unwrap().starts_with("port 15001 cannot be had"), "{said}");
    assert_eq!((scene.daemon.list(), wire.count()), (vec![], 0));
}

#[test]
fn with_the_loopback_down_nothing_is_reached() {
    let mut scene = Scene::set();
    let agent = scene.user(
        "one",
        "own(up=False)\nout(until(lambda: talk(FAR4)))\nip('link', 'set', 'lo', 'name', 'eth0')\nip('link', 'add', 'lo', 'type', 'veth', 'peer', 'name', 'other')\n\
         ip('addr', 'add', '127.0.0.1/8', 'dev', 'lo')\nip('link', 'set', 'lo', 'up')\nout(attempt(lambda: talk(FAR4, limit=1.5)))\nout('ready')\ngo()",
    );
    assert_eq!(agent.value(), json!({ "errno": ENETUNREACH }));
    // Another device of that name is not the loopback.
    let value = agent.value();
    assert!(value.get("ok").is_none(), "{value}");
    assert_eq!(agent.value(), "ready");
    assert_eq!(scene.daemon.list()[0].captured, 0);
}

#[test]
fn a_wire_that_root_gives_to_a_container_carries_nothing_of_its_agents() {
    let scene = Scene::set();
    let mut agent = scene.agent(
        "one",
        "contain()\nout('ready')\ngo()\nopen('/proc/sys/net/ipv6/conf/wire/disable_ipv6', 'w').write('1')\n\
         ip('addr', 'add', '10.77.0.2/24', 'dev', 'wire')\nip('link', 'set', 'wire', 'up')\n\
         ip('route', 'add', 'default', 'via', '10.77.0.1')\nout('ready')\ngo()\ndrop()\n\
         out(until(lambda: talk(FAR4)))\n\
         out(attempt(lambda: socket.socket(INET, UDP).sendto(b'x', (FAR4, 9999))))\n\
         out(attempt(lambda: talk(FAR4, 7000, INET, lambda s: s.setsockopt(1, 25, b'wire\\0'), 1.5)))\n\
         out(asked(FAR4))\n\
         def beside():\n    s = socket.socket(INET, UDP)\n    s.setsockopt(1, 25, b'wire\\0')\n    return s.sendto(query(), (FAR4, 53))\n\
         out(attempt(beside))\nout(attempt(lambda: socket.socket(INET, RAW, 1)))\n\
         out(attempt(lambda: socket.socket(INET, UDP).bind(('10.77.0.2', 0))))\nout('ready')\ngo()",
    );
    agent.ready();
    let give = format!(
        "ip('link', 'add', 'given', 'type', 'veth', 'peer', 'name', 'wire', 'netns', '{}')\n\
         open('/proc/sys/net/ipv6/conf/given/disable_ipv6', 'w').write('1')\n\
         ip('addr', 'add', '10.77.0.1/24', 'dev', 'given')\nip('link', 'set', 'given', 'up')\nout('ready')",
        agent.id()
    );
    Agent::start(&scene.world, Place::Far, None, &give).ready();
    agent.tell("");
    agent.ready();
    // Who is not governed has a way out there: the control.
    let enter = format!(
        "n = open('/proc/{}/ns/net')\ncall(libc.setns, n.fileno(), NEWNET)\nout(attempt(lambda: talk(FAR4)))",
        agent.id()
    );
    assert_eq!(Agent::start(&scene.world, Place::Outside, None, &enter).value(), json!({ "ok": "far" }));
    let wire = scene.world.sniff().unwrap();
    let captured = agent.go();
    assert_eq!(captured["ok"]["origin"]["destination"], "10.99.0.2:7000", "{captured}");
    assert_eq!(agent.value(), json!({ "errno": EPERM }), "UDP");
    assert_eq!(agent.value(), json!({ "timeout": true }), "TCP through the device");
    assert_eq!(agent.value(), json!({ "ok": ["10.99.0.2", 53, null, "123481"] }));
    let _sent = agent.value();
    assert!(agent.value().get("ok").is_none(), "a raw socket");
    assert_eq!(agent.value(), json!({ "errno": EPERM }), "a bind to its own address");
    agent.ready();
    let leaked: Vec<_> = wire.seen().into_iter().filter(|seen| !from_relay(seen)).collect();
    assert!(leaked.is_empty(), "{leaked:?}");
}

/// What the relay asks the resolver itself, from the host's own namespace.
fn from_relay(seen: &interceptor::testing::world::Seen) -> bool {
    seen.port == 53 && seen.source == std::net::IpAddr::from(interceptor::testing::world::NEAR4)
}

#[test]
fn whoever_translates_addresses_there_speaks_for_nobody_else() {
    let scene = Scene::set();
    // One is root in the container, two is another agent in the same namespace. What two asks for never leaves, so that
    // what the kernel noted of it waits for whoever comes from its port.
    let mut one = scene.agent(
        "one",
        "contain()\nuntil(lambda: talk(FAR4))\nnft('table ip t { chain o { type filter hook output priority 0; tcp sport 40002 drop; }; \
         chain p { type nat hook postrouting priority 100; tcp sport 40001 snat to 127.0.0.1:40002; }; }')\nout('ready')\ngo()\n\
         out(attempt(lambda: talk(FAR4, 7000, INET, lambda s: s.bind(('127.0.0.1', 40001)), 2)))\n\
         nft('delete table ip t')\n\
         nft('table ip t { chain o { type filter hook output priority 0; tcp sport 40002 drop; tcp sport 40001 tcp sport set 40002; }; }')\n\
         out(attempt(lambda: talk(FAR4, 7000, INET, lambda s: (s.setsockopt(1, 2, 1), s.bind(('127.0.0.1', 40001))), 2)))\nout('ready')\ngo()",
    );
    one.ready();
    let enter = format!(
        "n = open('/proc/{}/ns/net')\ncall(libc.setns, n.fileno(), NEWNET)\ndrop()\ns = socket.socket(INET, TCP)\n\
         s.bind(('127.0.0.1', 40002))\ns.setblocking(False)\nout(s.connect_ex((FAR4, 7000)))\ngo()",
        one.id()
    );
    let two = scene.agent("two", &enter);
    assert_eq!(two.value(), 115, "under way");
    for how in ["by connection tracking", "by the packet"] {
        let value = if how == "by connection tracking" { one.go() } else { one.value() };
        assert_eq!(value, json!({ "timeout": true }), "{how}");
    }
    one.ready();
    drop(two);
}

/// Who has asked what is known by where a question comes from, and where its answer goes.
#[test]
fn whoever_translates_addresses_there_asks_in_nobody_elses_name() {
    let scene = Scene::set();
    let mut one = scene.agent(
        "one",
        "contain()\nout(asked(FAR4))\nout('ready')\ngo()\n\
         def ask_from(port):\n    s = socket.socket(INET, UDP)\n    s.settimeout(1.5)\n    s.bind(('127.0.0.1', port))\n\
         \x20   s.sendto(query(), (FAR4, 53))\n    return len(s.recv(600))\n\
         out(attempt(lambda: ask_from(40010)))\n\
         nft('table ip t { chain p { type nat hook postrouting priority 100; udp sport 40011 snat to 127.0.0.1:40019; }; }')\n\
         out(attempt(lambda: ask_from(40011)))\nnft('delete table ip t')\n\
         nft('table ip t { chain o { type filter hook output priority 0; udp sport 40012 udp sport set 40019; }; }')\n\
         out(attempt(lambda: ask_from(40012)))\ngo()",
    );
    assert_eq!(one.value()["ok"][0], "10.99.0.2");
    one.ready();
    let enter = format!(
        "n = open('/proc/{}/ns/net')\ncall(libc.setns, n.fileno(), NEWNET)\ndrop()\ns = socket.socket(INET, UDP)\n\
         s.bind(('127.0.0.1', 40019))\ns.settimeout(5)\ns.sendto(query(), (FAR4, 53))\nout(len(s.recv(600)))\ngo()\n\
         s.setblocking(False)\nout(attempt(lambda: len(s.recv(600))))",
        one.id()
    );
    let mut two = scene.agent("two", &enter);
    let length = two.value();
    assert_eq!(one.go(), json!({ "ok": length }), "what is as it was is answered");
    for how in ["by connection tracking", "by the packet"] {
        assert_eq!(one.value(), json!({ "errno": EPERM }), "{how}");
    }
    assert_eq!(two.go(), json!({ "errno": libc::EAGAIN }), "what one has asked is not answered to two");
    let refused = |event: &KernelEvent| event.refusal == Refusal::Packet { protocol: 17, fault: PacketFault::Peer };
    scene.daemon.wait("refusal", |daemon| daemon.events().iter().any(refused).then_some(()));
}

#[test]
fn a_process_that_has_moved_on_leads_nowhere() {
    let mut scene = Scene::by_hand();
    let mut agent = scene.agent(
        "one",
        "contain()\nout(attempt(lambda: talk(FAR4)))\ngo()\ncontain()\nout('ready')\ngo()\n\
         import threading\ndef apart():\n    contain()\n    out(attempt(lambda: talk(FAR4)))\n    go()\n    out(attempt(lambda: talk(FAR4)))\n    go()\n\
         t = threading.Thread(target=apart)\nt.start()\nt.join()",
    );
    assert_eq!(agent.value(), json!({ "errno": ECONNREFUSED }));
    let event = scene.daemon.wait("event", |daemon| daemon.events().into_iter().find(|event| event.netns.is_some()));
    assert_eq!(agent.go(), "ready");
    let (pid, cookie, cgroup) = (event.pid.unwrap(), event.netns.unwrap(), event.cgroup);
    let said = scene.daemon.order(&format!("refused {pid} {cookie} {cgroup}"));
    assert!(said.as_str().unwrap().contains("not in the network namespace any more"), "{said}");
    assert_eq!(scene.daemon.list(), []);
    // A thread that alone is elsewhere is found.
    assert_eq!(agent.go(), json!({ "errno": ECONNREFUSED }));
    let other = scene.daemon.wait("event", |daemon| {
        daemon.events().into_iter().find(|event| event.netns.is_some_and(|other| other != cookie))
    });
    let opened = scene.daemon.order(&format!("refused {pid} {} {cgroup}", other.netns.unwrap()));
    assert_ne!(opened["inode"].as_u64().unwrap(), inode(pid), "{opened}");
    assert_eq!(agent.go()["ok"]["origin"]["netns"].as_u64(), other.netns);
}

#[test]
fn only_governed_processes_that_are_there_get_a_listener() {
    let mut scene = Scene::by_hand();
    let mut outside = Agent::start(&scene.world, Place::Outside, None, "contain()\nout('ready')\ngo()");
    let mut near = scene.user("one", "out('ready')\ngo()");
    outside.ready();
    near.ready();
    let ended = near.id();
    for (pid, why) in
        [(outside.id(), "is not governed"), (near.id(), "host's own network namespace"), (u32::MAX / 2, "has ended")]
    {
        let said = scene.daemon.order(&format!("announce {pid}"));
        assert!(said.as_str().unwrap().contains(why), "{said}");
    }
    drop(near);
    // The number of a process that has ended, and that of another one that has it by now.
    for (pid, why) in [(ended, "has ended"), (outside.id(), "is not governed")] {
        let said = scene.daemon.order(&format!("refused {pid} 4711 1"));
        assert!(said.as_str().unwrap().contains(why), "{said}");
    }
    assert_eq!(scene.daemon.list(), []);
}

#[test]
fn no_namespaces_are_no_listeners() {
    let scene = Scene::with(false, |config| config.namespaces = 0);
    let agent = scene.agent("one", "contain()\ndrop()\nout(until(lambda: talk(FAR4), 20))");
    assert_eq!(agent.value(), json!({ "errno": ECONNREFUSED }));
    assert!(scene.daemon.said("@failed", "allows no more"));
}

#[test]
fn abstract_sockets_of_the_host_are_in_another_namespace() {
    let scene = Scene::set();
    let name = scene.world.agents_cgroup();
    let serve =
        format!("l = socket.socket(UNIX, TCP)\nl.bind('\\0{name}')\nl.listen()\nout('ready')\nwhile True: l.accept()");
    let mut server = Agent::start(&scene.world, Place::Outside, None, &serve);
    server.ready();
    let reach = |world: &World, first: &str| {
        let code = format!("{first}\ndrop()\nout(attempt(lambda: socket.socket(UNIX, TCP).connect('\\0{name}')))");
        Agent::start(world, Place::Agent("one"), None, &code).value()
    };
    assert_eq!(reach(&scene.world, "contain()"), json!({ "errno": ECONNREFUSED }));
    assert_eq!(reach(&scene.world, ""), json!({ "ok": null }), "the control");
}
