//! Sockets of other kinds than TCP and UDP.

use interceptor::capture::Refusal;

use super::row::{By, EPERM, Expected, Row, family, kind};

pub(crate) fn rows() -> Vec<Row> {
    [kinds(), packets(), others()].into_iter().flatten().collect()
}

fn kinds() -> Vec<Row> {
    let refused = |name, body, type_, protocol| {
        Row::python(name, body).errno(libc::EPROTONOSUPPORT, kind(type_, protocol)).closed_by("S, E")
    };
    vec![
        refused("ICMP echo socket (ping)", "return socket.socket(INET, UDP, 1).fileno()", 2, 1),
        refused("ICMPv6 echo socket (ping)", "return socket.socket(INET6, UDP, 58).fileno()", 2, 58),
        refused("raw ICMP", "return socket.socket(INET, RAW, 1).fileno()", 3, 1).by(By::Container),
        refused("raw ICMPv6", "return socket.socket(INET6, RAW, 58).fileno()", 3, 58).by(By::Container),
        refused("raw with headers of its own (IPPROTO_RAW)", "return socket.socket(INET, RAW, 255).fileno()", 3, 255)
            .by(By::Container),
        refused("raw with headers of its own, IPv6", "return socket.socket(INET6, RAW, 255).fileno()", 3, 255)
            .by(By::Container),
        refused("raw TCP", "return socket.socket(INET, RAW, 6).fileno()", 3, 6).by(By::Container),
        Row::python("raw, unprivileged", "return socket.socket(INET, RAW, 1).fileno()").kernel(libc::EPERM),
        refused("SCTP, one to one", "return socket.socket(INET, 1, 132).fileno()", 1, 132).may_be_absent(),
        refused("SCTP, one to many", "return socket.socket(INET, 5, 132).fileno()", 5, 132).may_be_absent(),
        refused("DCCP", "return socket.socket(INET, 6, 33).fileno()", 6, 33).may_be_absent(),
        refused("L2TP", "return socket.socket(INET, UDP, 115).fileno()", 2, 115).may_be_absent(),
    ]
}

fn packets() -> Vec<Row> {
    const CLOSES: &str = "seccomp, no CAP_NET_RAW; lsm socket_create";
    vec![
        Row::python("AF_PACKET, frames", "s = socket.socket(17, RAW, 0)\ns.bind(('near', 0))\nreturn s.send(b'\\xff' * 6 + bytes(6) + b'\\x88\\xb5' + bytes(46))")
            .by(By::Container)
            .open(CLOSES).modules(family(17, 0)).launched(NO_FAMILY),
        Row::python("AF_PACKET, datagrams", "s = socket.socket(17, UDP, 0)\nreturn s.sendto(b'out', ('near', 0x88b5, 0, 0, b'\\xff' * 6))")
            .by(By::Container)
            .open(CLOSES).modules(family(17, 0)).launched(NO_FAMILY),
        Row::python("AF_INET with type SOCK_PACKET, which becomes AF_PACKET", "return socket.socket(INET, 10, 0x300).fileno()")
            .by(By::Container)
            .open(CLOSES).modules(family(17, 0x300)).launched(NO_FAMILY),
        Row::python("AF_PACKET, unprivileged", "return socket.socket(17, RAW, 0).fileno()").kernel(libc::EPERM).modules(family(17, 0)),
        Row::python("AF_XDP", "return socket.socket(44, RAW, 0).fileno()").by(By::Container).open(CLOSES).modules(family(44, 0)).launched(NO_FAMILY).may_be_absent(),
        Row::python("AF_XDP, unprivileged", "return socket.socket(44, RAW, 0).fileno()").kernel(libc::EPERM).modules(family(44, 0)).may_be_absent(),
    ]
}

fn others() -> Vec<Row> {
    const SECCOMP: &str = "seccomp, io_uring denied; lsm socket_create";
    vec![
        Row::python("AF_VSOCK: a socket", "return socket.socket(40, TCP, 0).fileno()")
            .open(SECCOMP)
            .modules(family(40, 0))
            .launched(NO_FAMILY)
            .may_be_absent(),
        Row::program("AF_VSOCK by io_uring: a socket", &["raw", "uring-vsock"])
            .open(SECCOMP)
            .modules(family(40, 0))
            .launched(Expected::Errno(libc::ENOSYS))
            .may_be_absent(),
        Row::program("AF_PACKET by io_uring: a socket", &["raw", "uring-packet"])
            .by(By::Container)
            .open(SECCOMP)
            .modules(family(17, 0))
            .launched(Expected::Errno(libc::ENOSYS))
            .may_be_absent(),
        Row::untried("AF_VSOCK: a connection", "it would reach the host of this machine", SECCOMP),
        // The TCP socket within it is the kernel's, and the programs do not see it being made.
        Row::python("AF_SMC, which becomes TCP", SMC)
            .errno(EPERM, Refusal::NoRecord)
            .closed_by("C")
            .modules(family(43, 0))
            .launched(NO_FAMILY)
            .may_be_absent(),
        Row::python(
            "AF_NETLINK for routes: a socket",
            "s = socket.socket(16, RAW, 0)\ns.bind((0, 0))\nreturn s.fileno()",
        )
        .open("nothing: the resolver of libc needs it. It leads nowhere without CAP_NET_ADMIN")
        .launched_too(),
        Row::python("AF_NETLINK of all other kinds", NETLINK).open(SECCOMP).modules(family(16, 9)).launched(NO_FAMILY),
        Row::python("a pair of another family (TIPC)", PAIRS)
            .open(SECCOMP)
            .modules(family(30, 0))
            .launched(NO_FAMILY)
            .may_be_absent(),
        Row::python("every other family and type", SWEEP)
            .open(SECCOMP)
            .modules(family(31, 0))
            .launched(NO_FAMILY)
            .may_be_absent(),
        Row::python("every other family and type", SWEEP)
            .by(By::Root)
            .open(SECCOMP)
            .modules(family(31, 0))
            .launched(NO_FAMILY)
            .may_be_absent(),
    ]
}

const SMC: &str = "
s = socket.socket(43, TCP, 0)
call(libc.connect, s.fileno(), address4(FAR4, 7000), 16)
return said(s)";

/// The kernel itself says of the internet's families that they make no pairs.
const PAIRS: &str = "
found = []
for family in range(2, 64):
    for kind in (1, 2, 4, 5):
        if family != 40 and 'ok' in attempt(lambda: socket.socketpair(family, kind)): found.append((family, kind))
if not found: raise OSError(attempt(lambda: socket.socketpair(30, 4))['errno'], '')
return str(found)";

const NO_FAMILY: Expected = Expected::Errno(libc::EAFNOSUPPORT);

const NETLINK: &str = "
found = [kind for kind in range(1, 32) if 'ok' in attempt(lambda: socket.socket(16, RAW, kind).fileno())]
if not found: raise OSError(errno.EAFNOSUPPORT, '')
return str(found)";

/// All families but those of rows of their own: UNIX, INET, INET6, NETLINK, PACKET, VSOCK, XDP.
const SWEEP: &str = "
found = []
for family in range(1, 64):
    if family in (1, 2, 10, 16, 17, 40, 44): continue
    for kind in (1, 2, 3, 4, 5, 6, 10):
        if 'ok' in attempt(lambda: socket.socket(family, kind, 0).fileno()): found.append((family, kind))
if not found: raise OSError(errno.EAFNOSUPPORT, '')
return found";
