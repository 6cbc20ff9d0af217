//! TCP: every way to open a connection.

use interceptor::capture::{PacketFault, Refusal};
use interceptor::testing::world::Place;

use super::row::{By, EPERM, Expected, Row, TCP, kind, option, packet};

const FAR: &str = "10.99.0.2:7000";
const FAR6: &str = "[fd99::2]:7000";

pub(crate) fn rows() -> Vec<Row> {
    [plain(), fast_open(), bare(), marked(), devices(), addresses()].into_iter().flatten().collect()
}

fn plain() -> Vec<Row> {
    vec![
        Row::python("TCP, IPv4", "return talk(FAR4)").captured(FAR).launched_too(),
        Row::python("TCP, IPv6", "return talk(FAR6, 7000, INET6)").captured(FAR6).launched_too(),
        Row::python("TCP, IPv4 mapped", "return talk(MAPPED, 7000, INET6)").captured(FAR).launched_too(),
        Row::python("nonblocking connect, repeated, at last with another address", NONBLOCKING)
            .captured(FAR)
            .launched_too(),
        Row::python("bind to 0.0.0.0, then connect", "return talk(FAR4, 7000, INET, lambda s: s.bind(('0.0.0.0', 0)))")
            .captured(FAR),
        Row::python("bind to ::, then connect", "return talk(FAR6, 7000, INET6, lambda s: s.bind(('::', 0)))")
            .captured(FAR6),
        Row::python("bind to the host's own address", "socket.socket(INET, TCP).bind((NEAR4, 0))\nreturn 'bound'")
            .errno(EPERM, Refusal::Bind)
            .launched_too()
            .closed_by("B"),
        Row::python(
            "bind to the host's own address, IPv6",
            "socket.socket(INET6, TCP).bind((NEAR6, 0))\nreturn 'bound'",
        )
        .errno(EPERM, Refusal::Bind)
        .closed_by("B"),
        Row::python("flow label", FLOW_LABEL).captured(FAR6),
        Row::python("link-local address with a scope", LINK_LOCAL).captured("[fe80::1234]:7000").without_control(),
        Row::python("AF_UNSPEC, then connect again", RECONNECT).captured(FAR).launched_too(),
        Row::python("the resolver's port over TCP", "return talk(FAR4, 53, limit=1)")
            .captured("10.99.0.2:53")
            .without_control(),
        Row::python("DNS over TLS: a ClientHello to port 853", DOT).captured("10.99.0.2:853").launched_too(),
        Row::python("DNS over HTTPS: a question as a body to port 443", DOH).captured("10.99.0.2:443").launched_too(),
    ]
}

/// The head of one is enough: whoever answers it is not the server.
const DOT: &str = "
s = connect(FAR4, 853)
s.sendall(bytes.fromhex('16030100c8010000c40303') + bytes(190))
return said(s)";

const DOH: &str = "
s, question = connect(FAR4, 443), query(b'c2VjcmV0')
head = f'POST /dns-query HTTP/1.1\\r\\nHost: dns.test\\r\\nContent-Type: application/dns-message\\r\\nContent-Length: {len(question)}\\r\\n\\r\\n'
s.sendall(head.encode() + question)
return said(s)";

fn fast_open() -> Vec<Row> {
    vec![
        Row::python(
            "fast open by sendto",
            "s = new(limit=None)\ns.sendto(b'early', 0x20000000, (FAR4, 7000))\nreturn said(s)",
        )
        .captured(FAR),
        Row::python(
            "fast open by sendto, IPv6",
            "s = new(INET6, TCP, None)\ns.sendto(b'early', 0x20000000, (FAR6, 7000))\nreturn said(s)",
        )
        .captured(FAR6),
        Row::python("fast open by TCP_FASTOPEN_CONNECT", FAST_OPEN_CONNECT).captured(FAR).launched_too(),
        Row::python("fast open with AF_UNSPEC", FAST_OPEN_UNSPEC).kernel(libc::EOPNOTSUPP),
    ]
}

fn bare() -> Vec<Row> {
    vec![
        Row::program("io_uring: socket and connect", &["raw", "uring"])
            .captured(FAR)
            .launched(Expected::Errno(libc::ENOSYS))
            .may_be_absent(),
        Row::program("io_uring: by a worker (IOSQE_ASYNC)", &["raw", "uring-async"])
            .captured(FAR)
            .launched(Expected::Errno(libc::ENOSYS)),
        Row::program("io_uring: by the kernel's thread (SQPOLL)", &["raw", "uring-sqpoll"])
            .captured(FAR)
            .launched(Expected::Errno(libc::ENOSYS)),
        Row::program("the 32-bit system calls (int 0x80)", &["raw", "connect32"])
            .captured(FAR)
            .launched(Expected::Killed)
            .may_be_absent(),
        Row::python("MPTCP", "return socket.socket(INET, TCP, 262).fileno()")
            .errno(libc::EPROTONOSUPPORT, kind(1, 262))
            .closed_by("S, E")
            .may_be_absent(),
        Row::python("TCP_ULP espintcp on a captured connection", ESPINTCP).captured(FAR),
    ]
}

fn marked() -> Vec<Row> {
    let marked = |name, body, event| {
        Row::python(name, body).by(By::Root).captured(FAR).event(event).launched_too().closed_by("O, C")
    };
    vec![
        marked(
            "SO_MARK, then connect",
            "return talk(FAR4, 7000, INET, lambda s: attempt(lambda: s.setsockopt(1, 36, 1)))",
            option(1, 36),
        ),
        marked(
            "IP_TRANSPARENT, then connect",
            "return talk(FAR4, 7000, INET, lambda s: attempt(lambda: s.setsockopt(0, 19, 1)))",
            option(0, 19),
        ),
        marked(
            "TCP_REPAIR, then connect",
            "def repair(s):\n    if 'errno' not in attempt(lambda: s.setsockopt(6, 19, 1)): s.setsockopt(6, 19, 0)\nreturn talk(FAR4, 7000, INET, repair)",
            option(6, 19),
        ),
        Row::python(
            "IP_FREEBIND, then bind to a foreign address",
            "s = new()\ns.setsockopt(0, 15, 1)\ns.bind(('10.1.2.3', 0))\nreturn 'bound'",
        )
        .errno(EPERM, Refusal::Bind)
        .closed_by("B, E"),
    ]
}

fn devices() -> Vec<Row> {
    let device = packet(TCP, PacketFault::Device);
    vec![
        Row::python("SO_BINDTODEVICE, then connect", "return talk(FAR4, 7000, INET, device, 0.5)").nothing(device).launched_too(),
        Row::python("SO_BINDTODEVICE, then connect, IPv6", "return talk(FAR6, 7000, INET6, device, 0.5)")
            .nothing(device),
        Row::python(
            "SO_BINDTODEVICE, then fast open",
            "s = new(limit=None)\ns.setsockopt(1, 21, struct.pack('=qq', 0, 500000))\ndevice(s)\ns.sendto(b'early', 0x20000000, (FAR4, 7000))\nreturn said(s)",
        )
        .nothing(device),
    ]
}

fn addresses() -> Vec<Row> {
    let servers = "import threading\nfor host, port in (('127.0.0.1', 9911), ('127.0.0.1', 9912)):\n    \
                   l = socket.create_server((host, port))\n    def run(l=l):\n        while True:\n            \
                   with l.accept()[0] as s: s.sendall(b'\"outside\"')\n    threading.Thread(target=run, daemon=True).start()\n\
                   out('ready')\ntime.sleep(60)";
    vec![
        Row::python(
            "a port of the daemon's on the loopback, such as an admin interface",
            "return talk('127.0.0.1', 9911)",
        )
        .captured("127.0.0.1:9911")
        .launched_too()
        .helper(Place::Daemon, servers),
        Row::python("a server outside on the same host", "return talk('127.0.0.1', 9912)")
            .captured("127.0.0.1:9912")
            .launched_too()
            .helper(Place::Outside, servers),
        Row::python("the same by the unspecified address", "return talk('0.0.0.0', 9913, limit=1)")
            .captured("0.0.0.0:9913")
            .without_control(),
        Row::python("the proxy itself", "return talk('127.0.0.1', 15001)")
            .in_vain()
            .closed_by("the daemon")
            .without_control(),
        Row::python("the proxy itself, IPv6", "return talk('::1', 15001, INET6)")
            .in_vain()
            .closed_by("the daemon")
            .without_control(),
        Row::python(
            "a socket connected to itself",
            "return talk('127.0.0.1', 7300, INET, lambda s: s.bind(('127.0.0.1', 7300)))",
        )
        .captured("127.0.0.1:7300")
        .without_control(),
    ]
}

const NONBLOCKING: &str = "
s = new()
s.setblocking(False)
for host in (FAR4, FAR4, FAR4, '10.99.0.77'):
    e = s.connect_ex((host, 7000))
    if e not in (0, errno.EINPROGRESS, errno.EALREADY, errno.EISCONN): raise OSError(e, '')
select.select([], [s], [], 5)
s.settimeout(5)
return said(s)";

const FLOW_LABEL: &str = "
s = new(INET6)
s.setsockopt(41, 33, 1)
label = socket.inet_pton(INET6, FAR6) + struct.pack('!I', 0x12345) + struct.pack('=BBHHHI', 0, 255, 1, 0, 0, 0)
s.setsockopt(41, 32, label)
s.connect((FAR6, 7000, 0x12345, 0))
return said(s)";

const LINK_LOCAL: &str = "
s = new(INET6)
s.connect(('fe80::1234', 7000, 0, near()))
return said(s)";

const RECONNECT: &str = "
s = new()
s.connect((FAR4, 7000))
s.setblocking(True)
call(libc.connect, s.fileno(), address4('0.0.0.0', 0, 0), 16)
s.settimeout(5)
s.connect((FAR4, 7000))
return said(s)";

const FAST_OPEN_CONNECT: &str = "
s = new()
s.setsockopt(6, 30, 1)
s.connect((FAR4, 7000))
s.send(b'early')
return said(s)";

const FAST_OPEN_UNSPEC: &str = "
s = socket.socket(INET, TCP)
return call(libc.sendto, s.fileno(), b'early', 5, 0x20000000, address4(FAR4, 7000, 0), 16)";

const ESPINTCP: &str = "
s = new()
s.connect((FAR4, 7000))
attempt(lambda: s.setsockopt(6, 31, b'espintcp'))
return said(s)";
