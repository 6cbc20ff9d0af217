//! Sockets that are older than the capture, or that come from outside of it.

use interceptor::capture::{PacketFault, Refusal};
use interceptor::testing::world::Place;
use serde_json::{Value, json};

use super::row::{By, EPERM, Expected, Level, Row, TCP, UDP, inbound, packet, scoped};
use super::stage::{Stage, attempt};

/// A raw socket from before sends something to a server.
macro_rules! raw {
    ($name:literal, $made:literal, $sent:literal, $to:literal, $event:expr) => {
        Row::early($name, concat!($made, "\nwait()\ns.sendto(", $sent, ", (", $to, ", 0))"))
            .by(By::Container)
            .nothing($event)
    };
}

pub(crate) fn rows() -> Vec<Row> {
    [older(), older_on_this_host(), older_kinds(), inherited(), passed(), taken()].into_iter().flatten().collect()
}

/// Connections to other hosts from before.
fn older() -> Vec<Row> {
    let device = packet(TCP, PacketFault::Device);
    vec![
        Row::early(
            "a connection from before",
            "s = new()\ns.connect((FAR4, 7001))\nwait()\ns.settimeout(0.5)\ns.send(b'q')\nreturn said(s)",
        )
        .nothing(device)
        .closed_by("A, E"),
        Row::early(
            "a connection from before, IPv6",
            "s = new(INET6)\ns.connect((FAR6, 7001))\nwait()\ns.settimeout(0.5)\ns.send(b'q')\nreturn said(s)",
        )
        .nothing(device)
        .closed_by("A, E"),
        Row::early(
            "a connected UDP socket from before",
            "s = new(INET, UDP)\ns.connect((FAR4, 9999))\nwait()\nreturn s.send(b'x')",
        )
        .in_vain()
        .closed_by("A, E"),
        Row::early("a socket from before, connected now", "s = new()\nwait()\ns.connect((FAR4, 7000))\nreturn said(s)")
            .errno(EPERM, Refusal::NoRecord)
            .closed_by("C, E"),
        Row::early("a listener from before", "l = socket.create_server(('0.0.0.0', 7100))\nwait()\nreturn accepted(l)")
            // From here: to another host the kernel answers that nobody listens.
            .visitor(Place::Outside, "return visit(TCP, NEAR4)")
            .in_vain()
            .closed_by("A, I, E"),
        Row::early(
            "a bound UDP socket from before",
            "s = new(INET, UDP)\ns.bind(('0.0.0.0', 7100))\nwait()\nreturn received(s)",
        )
        .visitor(Place::Far, "return visit(UDP, NEAR4)")
        .nothing(inbound(UDP, PacketFault::Device))
        .closed_by("I"),
    ]
}

/// Connections to processes outside on the same host.
fn older_on_this_host() -> Vec<Row> {
    const OUTSIDE: &str = "
l = socket.create_server(('127.0.0.1', 7200))
out('ready')
while True:
    with l.accept()[0] as s: s.recv(1); s.sendall(b'\"outside\"')";
    const OUTSIDE_SPEAKS: &str = "
l = socket.create_server(('127.0.0.1', 7201))
out('ready')
s = l.accept()[0]
while not os.path.exists(DIR + '/open/speak'): time.sleep(0.01)
s.sendall(b'\"outside\"')
s.close()
time.sleep(10)";
    vec![
        Row::early(
            "a connection from before to a process outside on this host",
            "s = new()\ns.connect(('127.0.0.1', 7200))\nwait()\ns.settimeout(0.5)\ns.send(b'q')\nreturn said(s)",
        )
        .helper(Place::Outside, OUTSIDE)
        .nothing(packet(TCP, PacketFault::Peer))
        .closed_by("A, E"),
        Row::early(
            "the same, where only the process outside speaks",
            "s = new()\ns.connect(('127.0.0.1', 7201))\nwait()\ns.settimeout(0.5)\nreturn said(s)",
        )
        .helper(Place::Outside, OUTSIDE_SPEAKS)
        .visitor(Place::Outside, "open(DIR + '/open/speak', 'w')\ntime.sleep(0.1)")
        .in_vain()
        .closed_by("A, I"),
    ]
}

/// Sockets of kinds that none can make now.
fn older_kinds() -> Vec<Row> {
    vec![
        Row::early("an ICMP echo socket from before", "s = socket.socket(INET, UDP, 1)\nwait()\nreturn s.sendto(b'\\x08' + bytes(11), (FAR4, 0))")
            .nothing(packet(1, PacketFault::Protocol)),
        Row::early("an ICMPv6 echo socket from before", "s = socket.socket(INET6, UDP, 58)\nwait()\ns.sendto(b'\\x80' + bytes(11), (FAR6, 0))")
            .nothing(packet(58, PacketFault::Protocol)),
        Row::early("a raw socket from before", "s = socket.socket(INET, RAW, 253)\nwait()\nreturn s.sendto(b'x', (FAR4, 0))")
            .by(By::Container)
            .nothing(packet(253, PacketFault::Protocol)),
        raw!("IPv4 in IPv4 by a raw socket from before", "s = socket.socket(INET, RAW, 4)", "b'E' + bytes(19)", "FAR4", packet(4, PacketFault::Protocol)),
        raw!("GRE by a raw socket from before", "s = socket.socket(INET, RAW, 47)", "bytes(8)", "FAR4", packet(47, PacketFault::Protocol)),
        raw!("a fragment by a raw socket from before", "s = socket.socket(INET, RAW, 255)", "FRAGMENT4", "FAR4", packet(UDP, PacketFault::Fragment)),
        raw!("UDP by a raw socket from before", "s = socket.socket(INET, RAW, 17)", "bytes.fromhex('1b581b5800080000')", "FAR4", packet(UDP, PacketFault::Device)),
        raw!("a fragment by a raw socket from before, IPv6", "s = socket.socket(INET6, RAW, 44)", "bytes.fromhex('11000001000000011b581b5800080000')", "FAR6", packet(44, PacketFault::Protocol)),
        Row::early("a UDP-Lite socket from before", "s = socket.socket(INET, UDP, 136)\nwait()\nreturn s.sendto(b'x', (FAR4, 9999))")
            .nothing(Refusal::Udp)
            .closed_by("M, E")
            .may_be_absent(),
        Row::early(
            "a multicast group joined before and left now: the kernel reports it",
            "s = new(INET, UDP)\ns.setsockopt(0, 35, GROUP4 + ANY4 + struct.pack('=i', near()))\ntime.sleep(2)\nwait()\ns.close()\ntime.sleep(0.2)",
        )
        .open("nothing of a launched agent is older than its capture")
        .launched(Expected::NoStart),
    ]
}

fn inherited() -> Vec<Row> {
    const CLOSES: &str = "closed descriptors, a start within the cgroup; lsm socket_* hooks";
    const BADF: Expected = Expected::Errno(libc::EBADF);
    vec![
        Row::act("a connection inherited from outside", |stage, level| {
            inherit(stage, level, 7, "s = new()\ns.connect((FAR4, 7001))", "s.send(b'q')\nreturn said(s)")
        })
        .open(CLOSES)
        .launched(BADF),
        Row::act("a socket inherited from outside, connected now", |stage, level| {
            inherit(stage, level, 7, "s = new()", "s.connect((FAR4, 7000))\nreturn said(s)")
        })
        .open(CLOSES)
        .launched(BADF),
        Row::act("a connection as standard error", |stage, level| {
            inherit(stage, level, 2, "s = new()\ns.connect((FAR4, 7001))", "s.send(b'q')\nreturn said(s)")
        })
        .open("the start is refused; lsm socket_* hooks")
        .launched(Expected::NoStart),
        Row::act("a connection passed over a local socket that is standard error (SCM_RIGHTS)", |stage, level| {
            inherit(stage, level, 2, HANDED, "s = received_socket(s)\ns.send(b'q')\nreturn said(s)")
        })
        .open("whoever starts it hands it no such socket; lsm file_receive")
        .modules(Refusal::Descriptor)
        .launched_too(),
    ]
}

/// A socket whose other end hands over a connection.
const HANDED: &str = "
s, ours = socket.socketpair()
connection = new()
connection.connect((FAR4, 7001))
socket.send_fds(ours, [b'here'], [connection.fileno()])";

/// A process that makes a socket outside, and becomes an agent that does `then` with it, as descriptor `number`. What it
/// did outside is on the wire as well, so that the answer alone counts.
fn inherit(stage: &Stage, level: Level, number: u32, before: &str, then: &str) -> (Value, u64) {
    let agent = attempt(By::User, &format!("s = socket.socket(fileno={number})\ns.settimeout(5)\n{then}"));
    let started = if level == Level::Launched { stage.launch(&agent) } else { agent };
    let words: Vec<_> = std::iter::once(started.get_program()).chain(started.get_args()).collect();
    let words = json!(words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>());
    let become_agent = "os.makedirs(CGROUPS + '/agents/one', exist_ok=True)\n\
                        open(CGROUPS + '/agents/one/cgroup.procs', 'w').write('0')\n\
                        os.setgroups([])\nos.setgid(1000)\nos.setuid(1000)";
    let become_agent = if level == Level::Launched { "" } else { become_agent };
    let body = format!("{before}\nos.dup2(s.fileno(), {number})\n{become_agent}\nos.execv({words}[0], {words})");
    (stage.start(Place::Outside, By::Root, attempt(By::Root, &body)).value(), 0)
}

fn passed() -> Vec<Row> {
    const CLOSES: &str = "a Landlock scope, empty /run, /tmp and /var/tmp; lsm file_receive";
    vec![
        Row::python(
            "a connection passed from outside (SCM_RIGHTS)",
            "s = receive_socket('\\0passed')\ns.send(b'q')\nreturn said(s)",
        )
        .helper(Place::Outside, "s = new()\ns.connect((FAR4, 7001))\npass_socket('\\0passed', s)")
        .open(CLOSES)
        .modules(Refusal::LocalSocket)
        .launched(scoped(EPERM)),
        Row::python(
            "a socket passed from outside, connected now",
            "s = receive_socket('\\0passed')\ns.connect((FAR4, 7000))\nreturn said(s)",
        )
        .helper(Place::Outside, "pass_socket('\\0passed', new())")
        .open(CLOSES)
        .modules(Refusal::LocalSocket)
        .launched(scoped(EPERM)),
        Row::python(
            "a UDP socket passed from outside",
            "return receive_socket('\\0passed').sendto(b'x', (FAR4, 9999))",
        )
        .helper(Place::Outside, "pass_socket('\\0passed', new(INET, UDP))")
        .open(CLOSES)
        .modules(Refusal::LocalSocket)
        .launched(scoped(EPERM)),
    ]
}

fn taken() -> Vec<Row> {
    const CLOSES: &str = "seccomp, a Landlock domain; lsm ptrace_access_check";
    const HOLDER: &str = "s = new()\ns.connect((FAR4, 7001))\nout('ready')\ntime.sleep(60)";
    vec![
        Row::python("a socket taken from a process of the same user (pidfd_getfd)", PIDFD_GETFD)
            .helper(Place::Outside, HOLDER)
            .open(CLOSES)
            .modules(Refusal::Process)
            .launched(Expected::Errno(libc::EACCES))
            .may_be_absent(),
        Row::python("ptrace of a process of the same user", PTRACE)
            .helper(Place::Outside, HOLDER)
            .open(CLOSES)
            .modules(Refusal::Process)
            .launched(Expected::Errno(EPERM))
            .may_be_absent(),
        Row::untried(
            "a socket that a process outside puts into the agent's ring (io_uring, MSG_RING with a descriptor)",
            "the process outside has to want it: as the relays there; lsm file_receive does not see it",
            "seccomp: no io_uring",
        ),
    ]
}

const PIDFD_GETFD: &str = "
pidfd = os.pidfd_open(int(HELPER_PID))
for name in os.listdir(f'/proc/{HELPER_PID}/fd'):
    if os.readlink(f'/proc/{HELPER_PID}/fd/{name}').startswith('socket:'):
        s = socket.socket(fileno=call(libc.syscall, 438, pidfd, int(name), 0))
s.settimeout(5)
s.send(b'q')
return said(s)";

const PTRACE: &str = "
pid = int(HELPER_PID)
call(libc.ptrace, 16, pid, 0, 0)
os.waitpid(pid, 0x40000000)
call(libc.ptrace, 17, pid, 0, 0)
return 'attached'";
