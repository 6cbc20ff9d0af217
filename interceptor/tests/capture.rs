//! Capture against the real kernel: what is redirected, what is refused, and that nothing leaves any other way.
//!
//! Needs root, and says so by failing. Each test has a [`World`] of its own and a daemon of its own: this test program
//! once more, started in the daemon's cgroup. Agents are odd Python programs.

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Lines, Write as _};
    use std::process::{Child, ChildStdout, Command, Stdio};
    use std::time::Duration;

    use interceptor::capture::dns::Fate;
    use interceptor::capture::{
        Capture, CaptureError, Config, KernelEvent, Listener, Origin, Refusal, Resolver, Scope, Verdict, cgroup, probe,
        uninstall,
    };
    use interceptor::testing::answering::{self, Answering};
    use interceptor::testing::world::{self, FAR4, FAR6, Place, World};
    use interceptor_ebpf::{AGENT_PROGRAMS, EVENTS_A_SECOND, SCHEMA};
    use serde_json::Value;

    const LIMIT: Duration = Duration::from_secs(30);
    const AGENT: u32 = 1000;
    const EPERM: i64 = 1;
    const ECONNREFUSED: i64 = 111;
    const EPROTONOSUPPORT: i64 = 93;

    fn world() -> World {
        World::new(&["orders-db.internal"]).expect("these tests need root, cgroup v2, bpffs, and `ip`")
    }

    fn config(world: &World) -> Config {
        Config {
            cgroups: vec![world.agents_cgroup()],
            daemon_cgroup: Some(world.cgroup(Place::Daemon)),
            pin_directory: world.pins().join("interceptor"),
            resolver: Resolver::At((FAR4, 53).into()),
            dns_names: vec!["asked".to_owned(), "nobody.example".to_owned()],
            ..Config::default()
        }
    }

    #[test]
    #[ignore = "started by the other tests, in the daemon's cgroup"]
    fn daemon() {
        answering::run();
    }

    struct Daemon(Answering);

    impl Daemon {
        fn start(world: &World, config: &Config) -> Self {
            Self(Answering::start(world, config, "tests::daemon").unwrap_or_else(|words| panic!("{words}")))
        }

        fn wait(&self, what: &str, accept: impl Fn(&str) -> bool) {
            let said = self.0.says(|daemon| daemon.unrecorded(0).iter().any(|line| accept(line)));
            assert!(said, "the daemon never reported {what}: {:?}", self.0);
        }

        fn wait_event(&self, what: &str, accept: impl Fn(&KernelEvent) -> bool) {
            let said = self.0.says(|daemon| daemon.events(0).iter().any(&accept));
            assert!(said, "the daemon never reported {what}: {:?}", self.0);
        }

        fn kill(self) {
            self.0.kill().unwrap();
        }
    }

    const PRELUDE: &str = r#"
def record(host, port, family=INET, prepare=None):
    with connect(host, port, family, prepare) as s:
        peer = s.getpeername()[:2]
        return {"peer": peer, "record": json.loads(read(s))}
"#;

    fn python(script: &str) -> Command {
        world::python(PRELUDE, script)
    }

    fn run(world: &World, place: Place<'_>, uid: Option<u32>, script: &str) -> Value {
        let output = world.output(place, uid, python(script), LIMIT).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"))
    }

    fn agent(world: &World, script: &str) -> Value {
        run(world, Place::Agent("one"), Some(AGENT), script)
    }

    /// Starts a server in the background and waits for its first line.
    fn server(world: &World, place: Place<'_>, script: &str) -> Child {
        let mut command = python(script);
        command.stdout(Stdio::piped());
        let mut child = world.spawn_in(place, command).unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "\"ready\"");
        child
    }

    const ECHO: &str = r#"
l = socket.create_server(("::", 7000), family=INET6, dualstack_ipv6=True); out("ready")
import threading
def serve(s):
    try:
        while data := s.recv(4096): s.sendall(data)
    except OSError: pass
while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
"#;

    const DNS: &str = r#"
s = socket.socket(INET6, UDP); s.setsockopt(41, 26, 0); s.bind(("::", 53)); out("ready")
while True:
    q, client = s.recvfrom(2048)
    end = q.index(0, 12) + 5
    answer = q[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + q[12:end]
    if q[end-4:end] == b"\0\1\0\1": answer += b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x0a\x63\0\x2a"
    else: answer = answer[:6] + b"\0\0" + answer[8:]
    s.sendto(answer, client)
"#;

    fn origin(value: &Value) -> Origin {
        serde_json::from_value(value["record"].clone()).unwrap()
    }

    #[test]
    fn every_way_to_connect_is_captured_with_its_true_destination_and_process() {
        let world = world();
        let daemon = Daemon::start(&world, &config(&world));
        let wire = world.sniff().unwrap();
        let result = agent(
            &world,
            r#"
def nonblocking(s):
    s.setblocking(False)
    try: s.connect((FAR4, 5435))
    except BlockingIOError: pass
    import select; select.select([], [s], [], 5); s.settimeout(5)
def loop():
    s = socket.socket(INET, TCP); nonblocking(s)
    return {"peer": s.getpeername()[:2], "record": json.loads(read(s))}
def fast():
    s = socket.socket(INET, TCP)
    s.sendto(b"early", 0x20000000, (FAR4, 5437))
    return {"peer": s.getpeername()[:2], "record": json.loads(read(s))}
out({"pid": os.getpid(), "start": int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19]), "seen": {
    "10.99.0.2:5432": record(FAR4, 5432),
    "[fd99::2]:5433": record(FAR6, 5433, INET6),
    "mapped 10.99.0.2:5434": record(MAPPED, 5434, INET6),
    "10.99.0.2:5435": loop(),
    "10.99.0.2:5436": record(FAR4, 5436, INET, lambda s: s.bind(("0.0.0.0", 0))),
    "10.99.0.2:5437": fast(),
    "10.99.0.2:5438": record("orders-db.internal", 5438),
    "127.0.0.1:5439": record("127.0.0.1", 5439),
    "8.8.8.8:443": record("8.8.8.8", 443),
}})"#,
        );
        let cgroup = cgroup::cgroup_id(&world.cgroup(Place::Agent("one"))).unwrap();
        let seen = result["seen"].as_object().unwrap();
        assert_eq!(seen.len(), 9);
        for (name, value) in seen {
            let origin = origin(value);
            let expected = name.trim_start_matches("mapped ");
            assert_eq!(origin.destination, expected.parse().unwrap(), "{name}");
            assert_eq!(u64::from(origin.pid), result["pid"].as_u64().unwrap(), "{name}");
            assert_eq!(origin.tid, origin.pid, "{name}");
            assert_eq!((origin.uid, origin.gid), (AGENT, AGENT), "{name}");
            assert_eq!((origin.cgroup, origin.current_cgroup), (cgroup, cgroup), "{name}");
            assert_eq!(origin.start_boottime / 10_000_000, result["start"].as_u64().unwrap(), "{name}");
            assert_eq!(origin.comm, "python3");
            assert!(origin.netns != 0 && origin.socket != 0);
            let (host, port) = (value["peer"][0].as_str().unwrap(), &value["peer"][1]);
            let host = host.trim_start_matches("::ffff:").parse::<std::net::IpAddr>().unwrap();
            assert_eq!((host, port.as_u64().unwrap()), (origin.destination.ip(), origin.destination.port().into()));
            assert_eq!(name.starts_with("mapped"), value["peer"][0].as_str().unwrap().starts_with("::ffff:"));
        }
        assert_eq!(wire.seen(), []);
        daemon.kill();
    }

    #[test]
    fn a_few_thousand_connections_at_once_each_have_their_own_record() {
        let world = world();
        let daemon = Daemon::start(&world, &config(&world));
        let script = r#"
import threading
bad, done, lock = [], [0], threading.Lock()
def hammer(base):
    tid = threading.get_native_id()
    for n in range(500):
        host, family = ((FAR4, INET), (FAR6, INET6), (MAPPED, INET6))[n % 3]
        try: r = record(host, base + n, family)["record"]
        except Exception as error: bad.append(repr(error)); continue
        want = ("[%s]:%d" if n % 3 == 1 else "%s:%d") % (FAR6 if n % 3 == 1 else FAR4, base + n)
        if r["destination"] != want or r["pid"] != os.getpid() or r["tid"] != tid: bad.append(r)
        with lock: done[0] += 1
threads = [threading.Thread(target=hammer, args=(10000 + 1000 * t,)) for t in range(3)]
[t.start() for t in threads]; [t.join() for t in threads]
out({"bad": bad, "done": done[0]})"#;
        std::thread::scope(|scope| {
            let agents: Vec<_> = ["one", "two"]
                .map(|name| scope.spawn(|| run(&world, Place::Agent(name), Some(AGENT), script)))
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect();
            for result in agents {
                assert_eq!(result["bad"], serde_json::json!([]));
                assert_eq!(result["done"], 1500);
            }
        });
        daemon.kill();
    }

    /// Whoever closes first keeps the port for a minute. Here that is not the agent.
    #[test]
    fn a_port_that_has_just_been_used_can_be_used_again() {
        let world = world();
        let daemon = Daemon::start(&world, &config(&world));
        let mut server = server(
            &world,
            Place::Agent("one"),
            "l = socket.create_server(('::', 7000), family=INET6, dualstack_ipv6=True); out('ready')\n\
             while True: l.accept()[0].close()",
        );
        let result = agent(
            &world,
            r#"
def again(host, family, own, port, read):
    def prepare(s):
        s.setsockopt(1, 2, 1)
        s.bind((own, port))
    for _ in range(3):
        with connect(host, 7000, family, prepare, 3) as s: read(s)
        time.sleep(0.05)
    waiting = [line.split() for name in ("tcp", "tcp6") for line in open("/proc/net/" + name).read().splitlines()[1:]]
    return any(w[2].endswith(":%04X" % port) and w[3] == "06" for w in waiting)
rest = lambda s: read(s)
out([attempt(lambda: again(FAR4, INET, "127.0.0.1", 7501, rest)), attempt(lambda: again(FAR6, INET6, "::1", 7502, rest)),
     attempt(lambda: again("127.0.0.1", INET, "127.0.0.1", 7503, rest)), attempt(lambda: again("::1", INET6, "::1", 7504, rest))])"#,
        );
        // Each port was used three times, and the other end waits now.
        assert_eq!(result, serde_json::json!([{"ok": true}, {"ok": true}, {"ok": true}, {"ok": true}]));
        server.kill().unwrap();
        server.wait().unwrap();
        daemon.kill();
    }

    #[test]
    fn udp_is_refused_and_dns_is_relayed() {
        let world = world();
        let mut server = server(&world, Place::Far, DNS);
        let daemon = Daemon::start(&world, &config(&world));
        let wire = world.sniff().unwrap();
        let refused = agent(
            &world,
            r#"
out([attempt(lambda: udp(FAR4, 9999)), attempt(lambda: udp(FAR6, 9999, INET6)), attempt(lambda: udp(MAPPED, 9999, INET6)),
     attempt(lambda: udp(FAR6, 53, INET6)), attempt(lambda: udp(FAR4, 54)), attempt(lambda: udp("127.0.0.1", 15053)),
     attempt(lambda: socket.socket(INET, UDP).connect((FAR4, 9999))),
     attempt(lambda: socket.socket(INET6, UDP).connect((FAR6, 9999)))])"#,
        );
        for (index, result) in refused.as_array().unwrap().iter().enumerate() {
            assert_eq!(result["errno"], EPERM, "{index}");
        }
        daemon.wait_event("the refusal", |event| {
            event.refusal == Refusal::Udp && event.address == Some((FAR4, 9999).into()) && event.uid == Some(AGENT)
        });
        assert_eq!(wire.seen(), []);
        let relayed = agent(
            &world,
            r#"
def plain(host, family):
    s = socket.socket(family, UDP); s.settimeout(3); s.sendto(query(), (host, 53))
    data, source = s.recvfrom(600); return [data[-4:].hex(), source[0], source[1]]
def connected():
    s = socket.socket(INET, UDP); s.settimeout(3); s.connect((FAR4, 53)); s.send(query())
    return [s.recv(600)[-4:].hex(), *s.getpeername()]
out([plain(FAR4, INET), connected(), plain(MAPPED, INET6), socket.gethostbyname("nobody.example")])"#,
        );
        assert_eq!(relayed[0], serde_json::json!(["0a63002a", "10.99.0.2", 53]));
        assert_eq!(relayed[1], relayed[0]);
        assert_eq!(relayed[2], serde_json::json!(["0a63002a", "::ffff:10.99.0.2", 53]));
        assert_eq!(relayed[3], "10.99.0.42");
        let seen = wire.seen();
        assert!(!seen.is_empty() && seen.iter().all(|packet| (packet.protocol, packet.port) == (17, 53)), "{seen:?}");
        server.kill().unwrap();
        server.wait().unwrap();
        daemon.kill();
    }

    #[test]
    fn questions_belong_to_who_has_asked_them() {
        let world = world();
        let mut server = server(&world, Place::Far, DNS);
        let daemon = Daemon::start(&world, &config(&world));
        // Unconnected and connected, in both families; then as many as one may ask at once, and many more.
        let flood = r#"
def ask(s): s.settimeout(3); s.send(query()); return s.recv(600)[3] & 15
def plain(host, family):
    s = socket.socket(family, UDP); s.settimeout(3); s.sendto(query(), (host, 53)); return s.recv(600)[3] & 15
def connected():
    s = socket.socket(INET, UDP); s.connect((FAR4, 53)); return ask(s)
codes = [plain(FAR4, INET), plain(MAPPED, INET6), connected()]
s = socket.socket(INET, UDP); s.connect((FAR4, 53))
refused = 0
for _ in range(3000):
    try: s.send(query())
    except PermissionError: refused += 1
out(codes + [refused > 0])"#;
        assert_eq!(agent(&world, flood), serde_json::json!([0, 0, 0, true]));
        let plain = r#"
def plain():
    s = socket.socket(INET, UDP); s.settimeout(10); s.sendto(query(), (FAR4, 53)); return s.recv(600)[3] & 15
out([os.getpid(), plain()])"#;
        let other = run(&world, Place::Agent("two"), Some(1001), plain);
        assert_eq!(other[1], 0);
        // Whoever is not governed has no business with the relay.
        let stranger = r#"
s = socket.socket(INET, UDP); s.settimeout(3); s.sendto(query(), ("127.0.0.1", 15053)); out(s.recv(600)[3] & 15)"#;
        assert_eq!(run(&world, Place::Outside, Some(1001), stranger), 5);
        let id = |name| cgroup::cgroup_id(&world.cgroup(Place::Agent(name))).unwrap();
        let asked = daemon.0.asked(0);
        let of = |cgroup: u64, uid: u32| {
            let whose = asked.iter().filter_map(|asked| asked.asker.as_ref()).filter(move |who| who.cgroup == cgroup);
            whose.map(move |who| (who.uid == uid, who.destination, who.comm.clone(), who.pid)).collect::<Vec<_>>()
        };
        let (one, two) = (of(id("one"), AGENT), of(id("two"), 1001));
        assert!(one.len() > 100 && one.iter().all(|who| who.0 && who.1 == (FAR4, 53).into()), "{one:?}");
        assert_eq!(
            two,
            [(true, (FAR4, 53).into(), "python3".to_owned(), other[0].as_u64().unwrap().try_into().unwrap())]
        );
        assert_eq!(asked.iter().filter(|asked| asked.asker.is_none()).count(), 1);
        assert!(asked.iter().filter(|asked| asked.asker.is_none()).all(|asked| asked.fate == Fate::Unknown));
        server.kill().unwrap();
        server.wait().unwrap();
        daemon.kill();
    }

    /// Even of one that does it faster than anybody can read.
    #[test]
    fn a_flood_of_refusals_hides_none_of_others() {
        let world = world();
        let daemon = Daemon::start(&world, &config(&world));
        let signal = |name: &str| Command::new("kill").args([name, &daemon.0.id().to_string()]).status().unwrap();
        signal("-STOP");
        let flood = r#"
s = socket.socket(INET, UDP)
def refused():
    try: s.sendto(b"x", (FAR4, 9))
    except PermissionError: return 1
began = time.monotonic()
assert sum(refused() for _ in range(30000)) == 30000
out(int(time.monotonic() - began))"#;
        let seconds = agent(&world, flood).as_u64().unwrap() + 2;
        let other = r#"
s = socket.socket(INET, UDP)
try: s.sendto(b"x", (FAR4, 10))
except PermissionError: out("refused")"#;
        assert_eq!(run(&world, Place::Agent("two"), Some(1001), other), "refused");
        signal("-CONT");
        let id = |name| cgroup::cgroup_id(&world.cgroup(Place::Agent(name))).unwrap();
        let of = |daemon: &Answering, cgroup: u64| {
            daemon.events(0).iter().filter(|event| event.cgroup == cgroup).count() as u64
        };
        let (one, two) = (id("one"), id("two"));
        assert!(daemon.0.says(|daemon| of(daemon, two) == 1 && of(daemon, one) + daemon.lost(0) == 30_000));
        assert!(of(&daemon.0, one) <= seconds * u64::from(EVENTS_A_SECOND), "{} in {seconds} s", of(&daemon.0, one));
        daemon.kill();
    }

    /// Of two that wait at ports which everybody knows, the agent alone does not hear what passes for an answer: neither from the
    /// resolver's own address past the relay, nor from processes of this host.
    #[test]
    fn an_answer_is_the_relays_or_does_not_arrive() {
        let world = world();
        const FORGE: &str = r#"
def forge(*ways):
    answer = query()[:2] + b"\x81\x80" + query()[4:]
    sockets = []
    for family, source, target in ways:
        s = socket.socket(family, UDP); s.bind(source); sockets.append((s, target))
    out("ready")
    while True:
        for s, target in sockets:
            for port in (40040, 40041): s.sendto(answer, (target, port))
        time.sleep(0.02)
"#;
        let far = format!("{FORGE}\nforge((INET, (FAR4, 53), NEAR4), (INET6, (FAR6, 53), NEAR6))");
        let near = format!(
            "{FORGE}\nforge((INET, ('127.0.0.1', 53), '127.0.0.1'), (INET6, ('::1', 53), '::1'), (INET, (NEAR4, 53), NEAR4))"
        );
        let daemon = Daemon::start(&world, &config(&world));
        let mut forgers = [server(&world, Place::Far, &far), server(&world, Place::Outside, &near)];
        let wait = |port: u16| {
            format!(
                r#"
s = socket.socket(INET6, UDP); s.setsockopt(41, 26, 0); s.bind(("::", {port})); s.settimeout(0.5)
try: s.sendto(query(), (MAPPED, 53))
except OSError: pass
heard, end = set(), time.monotonic() + 2
while time.monotonic() < end:
    try: data, source = s.recvfrom(600)
    except TimeoutError: continue
    if data[3] == 0x80: heard.add(source[0])
out(sorted(heard))"#
            )
        };
        let outside = run(&world, Place::Outside, None, &wait(40041));
        assert_eq!(
            outside,
            serde_json::json!(["::1", "::ffff:10.99.0.1", "::ffff:10.99.0.2", "::ffff:127.0.0.1", "fd99::2"])
        );
        assert_eq!(agent(&world, &wait(40040)), serde_json::json!([]));
        let asked = daemon.0.asked(0);
        assert!(asked.iter().any(|asked| asked.asker.is_some()), "it has asked: {asked:?}");
        for forger in &mut forgers {
            forger.kill().unwrap();
            forger.wait().unwrap();
        }
        daemon.kill();
    }

    /// As Cilium has its own: shared, above what is governed.
    #[test]
    fn programs_of_others_above_are_named_and_change_nothing() {
        const ATTACH: &str = r#"
def permits(kind, attach, directory, name):
    code = struct.pack('=BBhiBBhi', 0xb7, 0, 0, 1, 0x95, 0, 0, 0)
    buffer, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b'GPL')
    load = struct.pack('=IIQQ', kind, 2, ctypes.addressof(buffer), ctypes.addressof(licence)) + bytes(24) + name + struct.pack('=II', 0, attach)
    program = call(libc.syscall, 321, 5, ctypes.create_string_buffer(load, 128), 72)
    where = os.open(directory, os.O_RDONLY)
    call(libc.syscall, 321, 8, struct.pack('=IIII', where, program, attach, 2), 16)
"#;
        let world = world();
        let config = config(&world);
        let agents = cgroup::mount().unwrap().join(world.agents_cgroup().trim_start_matches('/'));
        let above = agents.parent().unwrap().display();
        let attach = |name: &str, kind, hook| {
            let name = format!("b'{name}'.ljust(16, b'\\0')");
            let code = format!("{ATTACH}\npermits({kind}, {hook}, '{above}', {name})\nout('attached')");
            assert_eq!(run(&world, Place::Outside, None, &code), "attached");
        };
        let found = || {
            let scope = Scope { capture: Some(&config), spool: None };
            probe(scope).into_iter().find(|found| found.name == "programs of others").unwrap()
        };
        attach("cil_sock4_conne", 18, 10);
        let first = found();
        assert!(first.verdict == Verdict::Weak && first.detail.contains("cil_sock4_conne"), "{first:?}");
        assert!(first.detail.contains("Cilium's") && first.cost.contains("after them"), "{first:?}");
        // Beside it, before and after the daemon's.
        let daemon = Daemon::start(&world, &config);
        attach("theirs", 8, 1);
        let second = found();
        assert!(second.detail.contains("theirs") && second.detail.contains("cil_sock4_conne"), "{second:?}");
        let told = agent(&world, "out(record(FAR4, 7000))");
        assert_eq!(told["record"]["destination"], "10.99.0.2:7000");
        daemon.kill();
    }

    #[test]
    fn dns_is_relayed_to_an_ipv6_resolver_and_nowhere_else() {
        let world = world();
        let mut server = server(&world, Place::Far, DNS);
        let config = Config { resolver: Resolver::At((FAR6, 53).into()), ..config(&world) };
        let daemon = Daemon::start(&world, &config);
        let wire = world.sniff().unwrap();
        // A routing header would lead the packet past ::1; it needs CAP_NET_RAW, which containers' root has.
        let routed = run(
            &world,
            Place::Agent("root"),
            None,
            r#"
def routed():
    header = struct.pack("=BBBBBBH", 0, 2, 4, 0, 0, 0, 0) + socket.inet_pton(INET6, FAR6)
    s = socket.socket(INET6, UDP)
    return s.sendmsg([query()], [(41, 57, header)], 0, (FAR6, 53))
out([attempt(routed), attempt(lambda: udp(FAR4, 53, INET, query()))])"#,
        );
        assert!(routed[0]["ok"].is_null(), "{routed}");
        assert_eq!(routed[1]["errno"], EPERM);
        assert_eq!(wire.seen(), []);
        let relayed = agent(
            &world,
            r#"
def plain():
    s = socket.socket(INET6, UDP); s.settimeout(3); s.sendto(query(), (FAR6, 53))
    data, source = s.recvfrom(600); return [data[-4:].hex(), source[0], source[1]]
def connected():
    s = socket.socket(INET6, UDP); s.settimeout(3); s.connect((FAR6, 53)); s.send(query())
    return [s.recv(600)[-4:].hex(), *s.getpeername()[:2]]
out([plain(), connected()])"#,
        );
        assert_eq!(relayed[0], serde_json::json!(["0a63002a", "fd99::2", 53]));
        assert_eq!(relayed[1], relayed[0]);
        server.kill().unwrap();
        server.wait().unwrap();
        daemon.kill();
    }

    #[test]
    fn a_network_namespace_of_their_own_leads_agents_nowhere() {
        let world = world();
        let daemon = Daemon::start(&world, &config(&world));
        let results = run(
            &world,
            Place::Agent("root"),
            None,
            r#"
import ctypes
assert ctypes.CDLL(None).unshare(0x40000000) == 0
out([attempt(lambda: connect(FAR4, 7000) and 1), attempt(lambda: connect("127.0.0.1", 15001) and 1),
     attempt(lambda: connect(FAR6, 7000, INET6) and 1)])"#,
        );
        for result in results.as_array().unwrap() {
            assert_eq!(result["errno"], ECONNREFUSED, "{results}");
        }
        daemon.kill();
    }

    #[test]
    fn other_kinds_of_sockets_are_refused_even_to_root() {
        let world = world();
        let daemon = Daemon::start(&world, &config(&world));
        let kinds = [(2, 1), (3, 1), (3, 6), (3, 17), (3, 255), (2, 136), (1, 132), (5, 132), (1, 262)];
        for family in ["INET", "INET6"] {
            for (kind, protocol) in kinds {
                let script = format!("out(attempt(lambda: socket.socket({family}, {kind}, {protocol}).fileno()))");
                let result = run(&world, Place::Agent("root"), None, &script);
                let outside = run(&world, Place::Outside, None, &script);
                if outside["ok"].is_null() {
                    // The kernel has no such sockets.
                    assert_eq!(result, outside, "{family} {kind} {protocol}");
                } else {
                    assert_eq!(result["errno"], EPROTONOSUPPORT, "{family} {kind} {protocol}");
                    daemon.wait_event("the refusal", |event| {
                        event.refusal == Refusal::SocketKind { socket_type: kind, protocol: protocol & 0xffff }
                    });
                }
            }
        }
        daemon.wait_event("raw ICMP", |event| {
            event.refusal == Refusal::SocketKind { socket_type: 3, protocol: 1 } && event.uid == Some(0)
        });
        daemon.kill();
    }

    /// Root takes every link off, and leaves the pins.
    const DETACH: &str = r#"
import ctypes, os, struct
bpf = lambda command, attributes: ctypes.CDLL(None).syscall(321, command, attributes, len(attributes))
for path in [os.path.join(at, name) for at, _, names in os.walk(LINKS) for name in names]:
    name = ctypes.create_string_buffer(path.encode())
    link = bpf(7, struct.pack("=QII", ctypes.addressof(name), 0, 0))
    assert link >= 0 and bpf(34, struct.pack("=I", link)) == 0, path
out("done")"#;

    #[test]
    fn links_that_somebody_has_detached_are_made_anew_by_the_next_start() {
        let world = world();
        let config = config(&world);
        let daemon = Daemon::start(&world, &config);
        let mut echo = server(&world, Place::Far, ECHO);
        let talk = r#"s = connect(FAR4, 7000); s.sendall(b"hello"); out(read(s)[:5].decode())"#;
        assert_ne!(agent(&world, talk), "hello");
        let links = format!("LINKS = {:?}\n", config.pin_directory.join("links"));
        assert_eq!(run(&world, Place::Outside, None, &format!("{links}{DETACH}")), "done");
        let open = r#"s = connect(FAR4, 7000); s.sendall(b"hello"); out(s.recv(5).decode())"#;
        assert_eq!(agent(&world, open), "hello");
        daemon.kill();

        let daemon = Daemon::start(&world, &config);
        assert_ne!(agent(&world, talk), "hello");
        assert!(daemon.0.says(|daemon| daemon.origins(0).len() == 1), "{:?}", daemon.0);
        echo.kill().unwrap();
        echo.wait().unwrap();
        daemon.kill();
    }

    #[test]
    fn what_slips_past_the_redirection_ends_at_the_fence() {
        let world = world();
        let mut echo = server(&world, Place::Far, ECHO);
        // A connection from before anything was attached.
        let mut command = python(
            r#"
s = connect(FAR4, 7000); s.sendall(b"before"); s.recv(6); out("ready")
sys.stdin.readline()
out(attempt(lambda: (s.sendall(b"after"), s.settimeout(1), s.recv(5).decode())[2]))"#,
        );
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut old = world.spawn_as(Place::Agent("one"), Some(AGENT), command).unwrap();
        let mut old_lines = BufReader::new(old.stdout.take().unwrap()).lines();
        assert_eq!(old_lines.next().unwrap().unwrap(), "\"ready\"");

        let daemon = Daemon::start(&world, &config(&world));
        let wire = world.sniff().unwrap();
        drop(old.stdin.take());
        let after: Value = serde_json::from_str(&old_lines.next().unwrap().unwrap()).unwrap();
        assert!(after["ok"].is_null(), "{after}");
        old.kill().unwrap();
        old.wait().unwrap();

        let results = agent(
            &world,
            r#"
def device(s): s.setsockopt(socket.SOL_SOCKET, 25, b"near\0")
def packet_info():
    s = socket.socket(INET, UDP)
    info = struct.pack("=i4s4s", socket.if_nametoindex("near"), bytes(4), bytes(4))
    return s.sendmsg([query()], [(socket.IPPROTO_IP, 8, info)], 0, (FAR4, 53))
out([attempt(lambda: connect(FAR4, 7000, INET, device, 1) and 1), attempt(lambda: connect(FAR6, 7000, INET6, device, 1) and 1),
     attempt(packet_info)])"#,
        );
        assert!(results.as_array().unwrap().iter().all(|result| result["ok"].is_null()), "{results}");
        // Source routing through control messages needs CAP_NET_RAW, which containers' root has.
        let results = run(
            &world,
            Place::Agent("root"),
            None,
            r#"
def options():
    route = bytes([131, 7, 4, 10, 99, 0, 2, 0])
    s = socket.socket(INET, UDP)
    return s.sendmsg([query()], [(socket.IPPROTO_IP, 7, route)], 0, (FAR4, 53))
out(attempt(options))"#,
        );
        assert!(results["ok"].is_null(), "{results}");
        daemon.wait_event("a dropped packet", |event| {
            matches!(event.refusal, Refusal::Packet { .. }) && event.pid.is_none() && event.cgroup != 0
        });
        assert_eq!(wire.seen(), []);
        echo.kill().unwrap();
        echo.wait().unwrap();
        daemon.kill();
    }

    /// A process from outside that is in the agents' cgroup before anything governs that: its script writes to PROCS when it joins.
    struct Joined {
        process: Child,
        lines: Lines<BufReader<ChildStdout>>,
    }

    impl Joined {
        /// Waits until it says that it is ready.
        fn new(world: &World, script: &str) -> Self {
            let procs = cgroup::directory(&world.cgroup(Place::Agent("one"))).unwrap().join("cgroup.procs");
            std::fs::create_dir_all(procs.parent().unwrap()).unwrap();
            let mut command = python(&format!("PROCS = {procs:?}\n{script}"));
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut process = world.spawn_in(Place::Outside, command).unwrap();
            let lines = BufReader::new(process.stdout.take().unwrap()).lines();
            let mut joined = Self { process, lines };
            assert_eq!(joined.told(), "ready");
            joined
        }

        fn told(&mut self) -> Value {
            serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap()
        }

        /// Has it go on, and gives what it says then.
        fn next(&mut self) -> Value {
            writeln!(self.process.stdin.as_mut().unwrap(), "now").unwrap();
            self.told()
        }
    }

    impl Drop for Joined {
        fn drop(&mut self) {
            let _gone = self.process.kill();
            let _gone = self.process.wait();
        }
    }

    /// A socket of another cgroup passes no fence: what processes hold of those when their cgroup is governed first is ended.
    #[test]
    fn connections_from_before_are_ended_when_a_cgroup_is_governed_first() {
        let world = world();
        let mut echo = server(&world, Place::Far, ECHO);
        let mut old = Joined::new(
            &world,
            r#"
s = connect(FAR4, 7000); s.sendall(b"before"); s.recv(6)
open(PROCS, "w").write("0"); out("ready")
for line in sys.stdin: out(attempt(lambda: (s.sendall(b"after"), s.settimeout(5), s.recv(5).decode())[2]))"#,
        );
        assert_eq!(old.next()["ok"], "after");
        let daemon = Daemon::start(&world, &config(&world));
        let ended = old.next();
        assert!(ended["ok"].is_null(), "{ended}");
        drop(old);
        echo.kill().unwrap();
        echo.wait().unwrap();
        daemon.kill();
    }

    /// Each once: what stays listed is not ended again and again, nor is what was begun meanwhile.
    #[test]
    fn connections_from_before_are_ended_once() {
        let world = world();
        let mut echo = server(&world, Place::Far, ECHO);
        // A bound UDP socket stays in the kernel's list, ended.
        let mut old = Joined::new(
            &world,
            r#"
outside = socket.socket(INET, UDP); outside.bind(("127.0.0.1", 7711))
open(PROCS, "w").write("0")
own = socket.socket(INET, UDP); own.bind(("127.0.0.1", 7712))
s = connect(FAR4, 7000); s.sendall(b"before"); s.recv(6); out("ready")
sys.stdin.readline()
ended = attempt(lambda: (s.sendall(b"after"), s.settimeout(1), s.recv(5).decode())[2])
new = connect(FAR4, 7000); out(ended)
sys.stdin.readline()
new.settimeout(0.5)
out(attempt(lambda: new.recv(1) == b""))"#,
        );
        let daemon = Daemon::start(&world, &config(&world));
        let ended = old.next();
        assert!(ended["ok"].is_null(), "{ended}");
        // As where it was tried in vain: the socket that was made outside is told of, and what is governed goes on.
        let path = world.cgroup(Place::Agent("one"));
        let (config, id) = (config(&world), cgroup::cgroup_id(&path).unwrap());
        std::fs::create_dir_all(config.pin_directory.join(format!("older/{id}/tried"))).unwrap();
        let again = interceptor::capture::end_open(&config, &path).unwrap();
        assert_eq!((again.foreign, again.destroyed), (1, 1), "{again:?}");
        assert!(!config.pin_directory.join(format!("older/{id}")).exists());
        // It has what the daemon answers, and not its end.
        let kept = old.next();
        assert_eq!(kept["ok"], false, "{kept}");
        drop(old);
        echo.kill().unwrap();
        echo.wait().unwrap();
        daemon.kill();
    }

    #[test]
    fn options_that_lead_around_are_refused_and_others_work() {
        let world = world();
        let daemon = Daemon::start(&world, &config(&world));
        let results = run(
            &world,
            Place::Agent("root"),
            None,
            r#"
four, six = socket.socket(INET, TCP), socket.socket(INET6, TCP)
refused = [(four, 1, 36), (four, 1, 62), (four, 0, 3), (four, 0, 4), (four, 0, 19), (four, 0, 50), (four, 6, 19),
           (six, 41, 54), (six, 41, 57), (six, 41, 59), (six, 41, 75), (six, 41, 76)]
out({"refused": [attempt(lambda: s.setsockopt(level, name, 1)) for s, level, name in refused],
     "allowed": [attempt(lambda: four.setsockopt(6, 1, 1)), attempt(lambda: four.setsockopt(1, 9, 1)),
                 attempt(lambda: four.setsockopt(6, 1, b"\1\0\0\0" + bytes(5000)))],
     "nodelay": four.getsockopt(6, 1)})"#,
        );
        for (index, result) in results["refused"].as_array().unwrap().iter().enumerate() {
            assert_eq!(result["errno"], EPERM, "{index}");
        }
        assert!(results["allowed"].as_array().unwrap().iter().all(|result| result["errno"].is_null()), "{results}");
        assert_eq!(results["nodelay"], 1);
        daemon.wait_event("SO_MARK", |event| event.refusal == Refusal::SocketOption { level: 1, name: 36 });
        daemon.kill();
    }

    #[test]
    fn connections_to_the_proxy_itself_and_from_outside_are_closed() {
        let world = world();
        let mut echo = server(&world, Place::Far, ECHO);
        let daemon = Daemon::start(&world, &config(&world));
        let script = r#"
def closed(host, family):
    with connect(host, 15001, family) as s: return read(s).decode()
out([closed("127.0.0.1", INET), closed("127.0.0.9", INET), closed("0.0.0.0", INET), closed("::1", INET6), os.getpid()])"#;
        let results = agent(&world, script);
        assert_eq!(results.as_array().unwrap()[..4], ["", "", "", ""]);
        let pid = results[4].clone();
        daemon.wait("a governed caller", |line| *line == format!("proxy {pid}"));
        // Others are not governed: the proxy knows nothing of them, and the world is theirs.
        let outside = run(
            &world,
            Place::Outside,
            Some(AGENT),
            r#"
def closed(host, family):
    with connect(host, 15001, family) as s: return attempt(lambda: read(s).decode())
def echo():
    with connect(FAR4, 7000) as s: s.sendall(b"hello"); return [s.recv(5).decode(), s.getpeername()[1]]
out([closed("127.0.0.1", INET), closed("::1", INET6), echo(), udp(FAR4, 9999)])"#,
        );
        assert_eq!(outside[0]["ok"], "");
        assert_eq!(outside[1]["ok"], "");
        assert_eq!(outside[2], serde_json::json!(["hello", 7000]));
        assert_eq!(outside[3], 1);
        daemon.wait("a caller from outside", |line| line == "none");
        echo.kill().unwrap();
        echo.wait().unwrap();
        daemon.kill();
    }

    #[test]
    fn servers_of_the_same_cgroup_are_reached_directly_and_others_are_not() {
        let world = world();
        let daemon = Daemon::start(&world, &config(&world));
        let mut echo = server(&world, Place::Agent("one"), ECHO);
        let direct = r#"
def echo(host, family):
    with connect(host, 7000, family) as s: s.sendall(b"hello"); return s.recv(5).decode()
out([echo("127.0.0.1", INET), echo("::1", INET6), echo("::ffff:127.0.0.1", INET6)])"#;
        assert_eq!(agent(&world, direct), serde_json::json!(["hello", "hello", "hello"]));
        let other = run(&world, Place::Agent("two"), Some(AGENT), "out(record('127.0.0.1', 7000))");
        assert_eq!(origin(&other).destination, "127.0.0.1:7000".parse().unwrap());
        // The daemon may dial an agent's server, for a policy that permits it; a neighbour on the host may not.
        let reach = "out(attempt(lambda: connect('127.0.0.1', 7000, INET, None, 1) and 1))";
        assert_eq!(run(&world, Place::Daemon, None, reach)["ok"], 1);
        assert_eq!(run(&world, Place::Outside, None, reach)["timeout"], true);
        // The server listens on all addresses, but its answers go nowhere.
        let far =
            run(&world, Place::Far, None, "out(attempt(lambda: connect('10.99.0.1', 7000, INET, None, 1) and 1))");
        assert_eq!(far["timeout"], true, "{far}");
        let binds = agent(
            &world,
            r#"
def bind(host, port, family=INET, kind=TCP): return attempt(lambda: socket.socket(family, kind).bind((host, port)))
out([bind("10.99.0.1", 0), bind("fd99::1", 0, INET6), bind("::ffff:10.99.0.1", 0, INET6), bind("127.0.0.1", 15001),
     bind("0.0.0.0", 15001), bind("::", 15053, INET6, UDP), bind("127.0.0.1", 0), bind("::1", 0, INET6), bind("::", 0, INET6)])"#,
        );
        for (index, bind) in binds.as_array().unwrap().iter().enumerate() {
            assert_eq!(bind["errno"] == EPERM, index < 6, "{index}: {bind}");
        }
        echo.kill().unwrap();
        echo.wait().unwrap();
        daemon.kill();
    }

    #[test]
    fn nothing_leaves_while_the_daemon_is_dead_and_uninstall_opens() {
        let world = world();
        let mut echo = server(&world, Place::Far, ECHO);
        let config = config(&world);
        Daemon::start(&world, &config).kill();
        let wire = world.sniff().unwrap();
        let attempts = r#"
out([attempt(lambda: connect(FAR4, 7000) and 1), attempt(lambda: connect(FAR6, 7000, INET6) and 1),
     attempt(lambda: connect(MAPPED, 7000, INET6) and 1), attempt(lambda: udp(FAR4, 9999)), attempt(lambda: udp(FAR4, 53))])"#;
        let closed = agent(&world, attempts);
        let errors: Vec<_> =
            closed.as_array().unwrap().iter().map(|result| result["errno"].as_i64().unwrap()).collect();
        assert_eq!(errors, [ECONNREFUSED, ECONNREFUSED, ECONNREFUSED, EPERM, EPERM]);
        // An outsider who takes the port meanwhile gets nothing.
        let mut squatter = server(
            &world,
            Place::Outside,
            "l = socket.create_server(('127.0.0.1', 15001)); out('ready')\nwhile True: l.accept()[0].sendall(b'mine')",
        );
        let squatted = agent(&world, "out(attempt(lambda: connect(FAR4, 7000, INET, None, 1).recv(4).decode()))");
        assert!(squatted["ok"].is_null(), "{squatted}");
        squatter.kill().unwrap();
        squatter.wait().unwrap();
        assert_eq!(wire.seen(), []);
        assert_eq!(uninstall(&config).unwrap(), AGENT_PROGRAMS.len() + 1);
        assert_eq!(uninstall(&config).unwrap(), 0);
        let open = agent(&world, attempts);
        assert!(open.as_array().unwrap()[..3].iter().all(|result| result["ok"] == 1), "{open}");
        assert_ne!(wire.count(), 0);
        echo.kill().unwrap();
        echo.wait().unwrap();
    }

    #[test]
    fn not_one_packet_leaves_while_the_daemon_restarts() {
        restarts_under_load(&world(), &[], |_config, _turn| {});
    }

    /// Maps of another layout are not used: a new version makes its own, puts its programs into the links that there are, and
    /// removes what the old ones left.
    #[test]
    fn not_one_packet_leaves_while_a_version_with_other_maps_takes_over() {
        let world = world();
        let maps = |config: &Config, version: u32| config.pin_directory.join(format!("maps-v{version}"));
        // Sockets from before have no record in them, and until the daemon has written to them they deny everything.
        restarts_under_load(&world, &["[Errno 1] Operation not permitted"], |config, turn| {
            assert!(maps(config, SCHEMA).join("SETTINGS").exists());
            assert!(turn == 0 || !maps(config, SCHEMA + turn).exists());
            std::fs::rename(maps(config, SCHEMA), maps(config, SCHEMA + turn + 1)).unwrap();
        });
        assert!(!maps(&config(&world), SCHEMA + 6).exists() && maps(&config(&world), SCHEMA).exists());
    }

    /// Six times, with a process that connects all the time, and may be refused with these words. `meanwhile` has the configuration, while nobody runs, and is told
    /// which time it is.
    fn restarts_under_load(world: &World, words: &[&str], meanwhile: impl Fn(&Config, u32)) {
        let config = config(world);
        let mut daemon = Daemon::start(world, &config);
        let wire = world.sniff().unwrap();
        let mut command = python(
            r#"
import threading
served, refused, strange, stop = [0], [0], [], []
def hammer():
    while not stop:
        try: served[0] += record(FAR4, 7000)["record"]["pid"] == os.getpid()
        except ConnectionRefusedError: refused[0] += 1
        except (ConnectionError, ValueError, BrokenPipeError): pass
        except OSError as error:
            if error.errno != 107: strange.append(str(error))
threading.Thread(target=hammer).start(); out("ready"); sys.stdin.readline(); stop.append(1)
time.sleep(0.3); out([served[0], refused[0], strange[:3]])"#,
        );
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut hammer = world.spawn_as(Place::Agent("one"), Some(AGENT), command).unwrap();
        let mut lines = BufReader::new(hammer.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "\"ready\"");
        for turn in 0..6 {
            std::thread::sleep(Duration::from_millis(150));
            daemon.kill();
            meanwhile(&config, turn);
            daemon = Daemon::start(world, &config);
        }
        std::thread::sleep(Duration::from_millis(150));
        drop(hammer.stdin.take());
        let result: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        hammer.wait().unwrap();
        assert!(result[0].as_u64().unwrap() > 100, "{result}");
        assert!(result[1].as_u64().unwrap() > 0, "the restarts were not noticed: {result}");
        assert!(
            result[2].as_array().unwrap().iter().all(|strange| words.contains(&strange.as_str().unwrap())),
            "{result}"
        );
        assert_eq!(wire.seen(), []);
        daemon.kill();
    }

    #[test]
    fn pins_follow_cgroups_and_paths_follow_ids() {
        let world = world();
        let mut config = config(&world);
        let extra = format!("{}/extra", world.agents_cgroup().replace("/agents", ""));
        config.cgroups.push(extra.clone());
        Daemon::start(&world, &config).kill();
        let id = cgroup::cgroup_id(&extra).unwrap();
        let pins = config.pin_directory.join("links").join(id.to_string());
        assert_eq!(cgroup::cgroup_path(id).unwrap(), extra);
        assert_eq!(pins.read_dir().unwrap().count(), AGENT_PROGRAMS.len());
        // A removed cgroup that is configured is made again, under another id; the old pins are swept.
        std::fs::remove_dir(cgroup::mount().unwrap().join(extra.trim_start_matches('/'))).unwrap();
        assert_eq!(cgroup::cgroup_path(id).unwrap_err().raw_os_error(), Some(116));
        Daemon::start(&world, &config).kill();
        assert!(!pins.exists());
        let again = cgroup::cgroup_id(&extra).unwrap();
        assert_ne!(again, id);
        // One that is no longer configured stays governed.
        config.cgroups.pop();
        Daemon::start(&world, &config).kill();
        assert!(config.pin_directory.join("links").join(again.to_string()).exists());
        assert_eq!(uninstall(&config).unwrap(), AGENT_PROGRAMS.len() * 2 + 1);
    }

    #[tokio::test]
    async fn a_daemon_in_the_wrong_place_does_not_start() {
        let world = world();
        let mut config = config(&world);
        let listener = Listener::bind(&Config { proxy_port: 0, ..config.clone() }).unwrap();
        let error = Capture::start(&config, &listener, None).unwrap_err();
        assert!(matches!(error, CaptureError::OwnCgroup { .. }), "{error}");
        config.daemon_cgroup = Some(cgroup::own().unwrap());
        config.pin_directory = world.directory().join("no-bpffs");
        let error = Capture::start(&config, &listener, None).unwrap_err();
        assert!(matches!(error, CaptureError::Pins { .. } | CaptureError::Config(_)), "{error}");
        assert!(!world.pins().join("interceptor").exists());
    }
}
