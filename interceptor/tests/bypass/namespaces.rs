//! Namespaces of the agent's own, other cgroups, and what root can do to the programs.

use interceptor::capture::{PacketFault, Refusal, cgroup};
use interceptor::testing::world::Place;
use serde_json::{Value, json};

use super::daemon;
use super::row::{By, EPERM, Expected, Level, Row, Site, TCP, family, packet};
use super::run::Played;
use super::stage::{Stage, attempt};

const FAR: &str = "10.99.0.2:7000";

pub(crate) fn rows() -> Vec<Row> {
    [own(), others(), cgroups(), starts(), administration()].into_iter().flatten().collect()
}

/// A user and network namespace of its own.
fn own() -> Vec<Row> {
    let captured = |name, body, at| {
        Row::python(name, body).captured(at).without_control().may_be_absent().launched(Expected::Errno(EPERM))
    };
    vec![
        Row::python("a network namespace of its own, the first connect", "unshare(0x50000000)\nmap_ids()\nlo_up()\nreturn talk(FAR4)")
            .errno(libc::ECONNREFUSED, Refusal::NoListener)
            .closed_by("C, E")
            .without_control()
            .may_be_absent()
            .launched(Expected::Errno(EPERM)),
        Row::python("the same, lo down", "unshare(0x50000000)\nmap_ids()\nreturn again(lambda: talk(FAR4))")
            .kernel(libc::ENETUNREACH)
            .launched(Expected::Errno(EPERM)),
        captured("the same, lo up", "unshare(0x50000000)\nmap_ids()\nlo_up()\nreturn again(lambda: talk(FAR4))", FAR),
        captured("the same, IPv6", "unshare(0x50000000)\nmap_ids()\nlo_up()\nreturn again(lambda: talk(FAR6, 7000, INET6))", "[fd99::2]:7000"),
        Row::python("setns into a namespace of its own", SETNS)
            .captured(FAR)
            .without_control()
            .may_be_absent()
            .launched_as(UNSHARE, Expected::Errno(EPERM)),
        Row::python(
            "a server at the proxy's port in a namespace of its own",
            "unshare(0x50000000)\nmap_ids()\nlo_up()\nsocket.create_server(('127.0.0.1', 15001))\nreturn 'bound'",
        )
        .errno(EPERM, Refusal::Bind)
        .closed_by("B")
        .may_be_absent(),
        Row::python(
            "AF_PACKET in a namespace of its own",
            "unshare(0x50000000)\nmap_ids()\nlo_up()\ns = socket.socket(17, RAW, 0)\ns.bind(('lo', 0))\ns.send(bytes(60))",
        )
        .in_vain()
        .closed_by("the kernel: it leads to no other namespace")
        .without_control(),
        Row::python("a pid namespace of its own: the daemon is told the true process", PID_NAMESPACE).captured(FAR).launched(Expected::Errno(EPERM)).may_be_absent(),
    ]
    .into_iter()
    .chain(wires())
    .collect()
}

/// An interface in this namespace that an agent has the other end of, in one of its own: what it sends there has no socket
/// that the fence could look at.
fn wires() -> [Row; 3] {
    let alone =
        Row::python("a wire from a namespace of its own into the host's, alone, asked for second", TWO_REQUESTS)
            .helper(Place::Outside, "out('ready')\ntime.sleep(60)")
            .without_control();
    let alone = if peers_are_made_unasked() {
        alone.open("a kernel that wants rights in both namespaces; no user namespaces; lsm netlink_send")
    } else {
        alone.in_vain().closed_by("the kernel")
    };
    let sent = |name, scene| Row::scene(name, scene).in_vain().closed_by("the kernel: the other end stays down");
    [
        alone,
        sent("by such a wire, a datagram to a server of the host's", wired),
        sent("by such a wire, a datagram to the servers, where the host forwards", forwarded),
    ]
    .map(|row| row.launched(Expected::Errno(EPERM)).modules(Refusal::Interface))
}

/// Whether this kernel lets everybody make the other end of a wire in a namespace where he has no rights, as Linux 6.1 does.
/// Tried between two namespaces that are gone afterwards.
fn peers_are_made_unasked() -> bool {
    const TRY: &str = "setpriv --reuid 1000 --regid 1000 --clear-groups unshare --user --map-root-user --net \
                       ip link add here type veth peer name there netns $$";
    let mut tried = std::process::Command::new("unshare");
    tried.args(["--net", "sh", "-c", &format!("{TRY}; exit $?")]).stderr(std::process::Stdio::null());
    tried.status().is_ok_and(|status| status.success())
}

/// Namespaces of others.
fn others() -> Vec<Row> {
    const ENTER: &str = "namespace = open(f'/proc/{FAR_PID}/ns/net')\ncall(libc.setns, namespace.fileno(), 0x40000000)\nreturn talk(FAR4)";
    vec![
        Row::python("setns into the servers' namespace", ENTER)
            .by(By::Root)
            .refused_or_captured("10.99.0.2:7000")
            .closed_by("C, E")
            .modules(Refusal::Process),
        Row::python("setns into the servers' namespace, unprivileged", ENTER)
            .kernel(libc::EACCES)
            .launched(Expected::Errno(libc::EACCES)),
        Row::python("nsenter into the servers' namespace", "return within([DIR + '/raw', 'connect'], '-n')")
            .by(By::Root)
            .refused_or_captured("10.99.0.2:7000")
            .closed_by("C, E")
            .modules(Refusal::Process),
        Row::python(
            "nsenter into the servers' namespace, unprivileged",
            "return within([DIR + '/raw', 'connect'], '-n')",
        )
        .kernel(EPERM)
        .launched(Expected::Errno(EPERM)),
        Row::python(
            "nsenter into all namespaces of the servers, unprivileged",
            "return within([DIR + '/raw', 'connect'], '-a')",
        )
        .kernel(EPERM)
        .launched(Expected::Errno(EPERM)),
    ]
}

fn cgroups() -> Vec<Row> {
    vec![
        Row::python(
            "into another cgroup",
            "open(CGROUPS + '/outside/cgroup.procs', 'w').write('0')\nreturn talk(FAR4)",
        )
        .kernel(libc::EACCES),
        Row::python("into another cgroup by clone3(CLONE_INTO_CGROUP)", CLONE3)
            .kernel(libc::EACCES)
            .launched(Expected::Errno(libc::ENOSYS)),
        Row::python("a cgroup of its own", "os.mkdir(CGROUPS + '/own')\nreturn 'made'").kernel(libc::EACCES),
        Row::python("in a child cgroup", "return talk(FAR4)")
            .within("one/child")
            .captured(FAR)
            .closed_by("C: children inherit"),
        Row::python(
            "into another cgroup",
            "open(CGROUPS + '/outside/cgroup.procs', 'w').write('0')\nreturn talk(FAR4)",
        )
        .by(By::Root)
        .open("no root; a cgroup file system that is not writable")
        .launched(READ_ONLY),
    ]
}

fn starts() -> Vec<Row> {
    vec![
        Row::scene("a governed cgroup within a delegated one", delegated).no_start(),
        Row::scene("the same with `allow_delegated`, into another cgroup of the same user", allowed)
            .open("the default; a cgroup file system that is not writable")
            .launched(READ_ONLY),
        Row::scene("a foreign program holds the cgroup for itself", exclusive).no_start(),
    ]
}

/// What an agent with the host's capabilities can do. Such an agent is not governed.
fn administration() -> Vec<Row> {
    vec![
        Row::scene("the links detached", detached)
            .by(By::Root)
            .open("no CAP_BPF, seccomp; lsm bpf")
            .modules(Refusal::Bpf { command: 7 })
            .launched(Expected::Errno(libc::ENOENT)),
        Row::scene("traffic control on lo mirrors what goes to the proxy", mirrored)
            .by(By::Root)
            .open("no CAP_NET_ADMIN")
            .launched(Expected::Errno(EPERM)),
        Row::python("nft: the proxy's address translated to a server's", TRANSLATED)
            .by(By::Root)
            .nothing(packet(TCP, PacketFault::Device))
            .modules(family(16, 12))
            .may_be_absent(),
    ]
}

/// Lets the user move processes in and out of a cgroup.
fn delegate(cgroup: &str) {
    let procs = cgroup::mount().unwrap().join(cgroup.trim_start_matches('/')).join("cgroup.procs");
    std::os::unix::fs::chown(procs, Some(1000), Some(1000)).unwrap();
}

fn parent(stage: &Stage) -> String {
    stage.world.agents_cgroup().replace("/agents", "")
}

fn started(stage: Stage, hint: &str) -> Played {
    let value = match daemon::start(&stage.world, &stage.config) {
        Err(words) if words.contains(hint) => json!({ "refused": words }),
        Err(words) => json!({ "broken": words }),
        Ok(daemon) => {
            daemon.kill().unwrap();
            Value::Null
        }
    };
    Played { stage, value, seen: 0 }
}

fn delegated(_level: Level) -> Played {
    let stage = Stage::open(Site::Four);
    delegate(&parent(&stage));
    started(stage, "allow_delegated")
}

fn allowed(level: Level) -> Played {
    let mut stage = Stage::open(Site::Four);
    delegate(&parent(&stage));
    delegate(&stage.world.cgroup(Place::Outside));
    stage.config.allow_delegated = true;
    stage.attend();
    let body = "open(CGROUPS + '/outside/cgroup.procs', 'w').write('0')\nreturn talk(FAR4)";
    let value = stage.start_agent(level, "one", By::User, attempt(By::User, body)).value();
    Played { stage, value, seen: 0 }
}

fn exclusive(_level: Level) -> Played {
    let stage = Stage::open(Site::Four);
    let held = stage.python(Place::Outside, By::Root, "return permits(8, 1, CGROUPS + '/agents', 0)");
    assert_eq!(held["ok"], "attached");
    started(stage, "for itself")
}

fn detached(level: Level) -> Played {
    let stage = Stage::governed(Site::Four);
    let value = stage.start_agent(level, "one", By::Root, attempt(By::Root, DETACH)).value();
    Played { stage, value, seen: 0 }
}

fn mirrored(level: Level) -> Played {
    let stage = Stage::governed(Site::Four);
    let wire = stage.world.sniff().unwrap();
    let mut value = stage.start_agent(level, "one", By::Root, attempt(By::Root, MIRROR)).value();
    let seen = wire.count();
    // The connection itself is captured; what counts is what is on the wire.
    value["ok"] = Value::Null;
    Played { stage, value, seen }
}

fn wired(level: Level) -> Played {
    let stage = Stage::governed(Site::Four);
    let (value, seen) = lay_wire(&stage, level);
    Played { stage, value, seen }
}

/// As hosts with containers do.
fn forwarded(level: Level) -> Played {
    let stage = Stage::governed(Site::Four);
    let forward = "open('/proc/sys/net/ipv6/conf/all/forwarding', 'w').write('1')";
    stage.python(Place::Outside, By::Root, forward);
    let (mut value, seen) = lay_wire(&stage, level);
    // What counts is what is on the wire to the servers.
    if value["ok"] == "heard" {
        value["ok"] = Value::Null;
    }
    Played { stage, value, seen }
}

fn lay_wire(stage: &Stage, level: Level) -> (Value, u64) {
    let mut server = stage.start(Place::Outside, By::Root, attempt(By::Root, HEARS));
    server.ready();
    let mut command = attempt(By::User, WIRE);
    command.env("BYPASS_HELPER", server.id().to_string());
    let wire = stage.world.sniff().unwrap();
    let value = stage.start_agent(level, "one", By::User, command).value();
    // A host that has begun to forward says more on its own.
    (value, wire.seen().iter().filter(|seen| seen.port == 7301).count() as u64)
}

const READ_ONLY: Expected = Expected::Errno(libc::EROFS);

/// Should it work, the process is none the less in no other namespace.
const UNSHARE: &str = "unshare(0x50000000)";

const SETNS: &str = "
theirs, ours = os.pipe()
pid = os.fork()
if pid == 0:
    unshare(0x50000000)
    map_ids()
    lo_up()
    os.write(ours, b'x')
    time.sleep(60)
os.read(theirs, 1)
namespaces = [open(f'/proc/{pid}/ns/{name}') for name in ('user', 'net')]
for namespace in namespaces: call(libc.setns, namespace.fileno(), 0)
os.kill(pid, 9)
os.waitpid(pid, 0)
return again(lambda: talk(FAR4))";

const PID_NAMESPACE: &str = "
global SELF
unshare(0x30000000)
theirs, ours = os.pipe()
SELF = os.fork()
if SELF == 0:
    os.write(ours, json.dumps(talk(FAR4)).encode())
    os._exit(0)
os.waitpid(SELF, 0)
return json.loads(os.read(theirs, 4096))";

/// Frames by AF_PACKET: no address is needed at either end. The kernel opens no end while it is being made, and afterwards the
/// other one is the host's to open.
const WIRE: &str = "
global SELF
unshare(0x50000000)
map_ids()
words = 'link add here address 02:00:00:00:00:01 type veth peer name there address 02:00:00:00:00:02 netns ' + HELPER_PID
ip = subprocess.Popen(['ip', *words.split()], stderr=subprocess.DEVNULL)
SELF = ip.pid
if ip.wait(): raise OSError(errno.EPERM, 'no wire')
SELF = None
subprocess.run(['ip', 'link', 'set', 'here', 'up'], check=True)
s = socket.socket(17, RAW, socket.htons(3))
s.bind(('here', 0))
ethernet = bytes.fromhex('020000000002' '020000000001' '86dd')
for _ in range(100):
    for to in (NEAR6, FAR6): s.send(ethernet + datagram6('fd99::77', to, 7301, b'by wire'))
    time.sleep(0.02)
    if os.path.exists(DIR + '/open/heard'): return 'heard'
return False";

/// A question first, then the pair.
const TWO_REQUESTS: &str = "
unshare(0x50000000)
map_ids()
def attribute(kind, data): return struct.pack('=HH', 4 + len(data), kind) + data + bytes(-len(data) % 4)
def request(kind, flags, data): return struct.pack('=IHHII', 16 + len(data), kind, flags, 1, 0) + data
link = bytes(16)
peer = attribute(1, link + attribute(3, b'there') + attribute(19, struct.pack('=I', int(HELPER_PID))))
pair = attribute(3, b'here') + attribute(18, attribute(1, b'veth') + attribute(2, peer))
socket.socket(16, RAW, 0).send(request(18, 1, link) + request(16, 0x601, link + pair))
return 'here' in [name for _, name in socket.if_nameindex()]";

/// A server of the host's, that tells what it hears.
const HEARS: &str = "
s = new(INET6, UDP, None)
s.bind(('::', 7301))
out('ready')
s.recv(100)
open(DIR + '/open/heard', 'w').close()
time.sleep(60)";

const CLONE3: &str = "
directory = os.open(CGROUPS + '/outside', os.O_RDONLY)
arguments = struct.pack('=11Q', 0x200000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, directory)
if call(libc.syscall, 435, arguments, 88) == 0: os._exit(0)
return 'moved'";

/// The kernel itself routes nothing from 127.0.0.1 to elsewhere, unless it is told to.
const TRANSLATED: &str = "
routed = '/proc/sys/net/ipv4/conf/all/route_localnet'
open(routed, 'w').write('1')
rules = 'table ip t { chain c { type nat hook output priority -100; ip daddr 127.0.0.1 tcp dport 15001 dnat to 10.99.0.2:7000; }; }'
global SELF
nft = subprocess.Popen(['nft', rules])
SELF = nft.pid
if nft.wait(): raise OSError(errno.EACCES, 'nft has no netlink')
SELF = None
try: return talk(FAR4, limit=0.5)
finally:
    subprocess.run(['nft', 'delete table ip t'])
    open(routed, 'w').write('0')";

const DETACH: &str = "
root = DIR + '/bpf/interceptor/links/'
for path in [root + a + '/' + b for a in os.listdir(root) for b in os.listdir(root + a)]:
    name = ctypes.create_string_buffer(path.encode())
    link = call(libc.syscall, 321, 7, struct.pack('=QII', ctypes.addressof(name), 0, 0), 16)
    call(libc.syscall, 321, 34, struct.pack('=I', link), 4)
return talk(FAR4)";

const MIRROR: &str = "
for words in ('qdisc add dev lo clsact', 'filter add dev lo egress protocol all u32 match u32 0 0 action mirred egress mirror dev near'):
    if subprocess.run(['tc', *words.split()], stderr=subprocess.DEVNULL).returncode: raise OSError(errno.EPERM, '')
return talk(FAR4)";
