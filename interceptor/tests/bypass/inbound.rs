//! What comes in: from other hosts, and from processes of this one that nobody governs.

use interceptor::capture::PacketFault;
use interceptor::testing::world::Place;

use super::row::{Row, TCP, UDP, inbound};

pub(crate) fn rows() -> Vec<Row> {
    [datagrams(), connections(), signals()].into_iter().flatten().collect()
}

fn datagrams() -> Vec<Row> {
    let far = |name, body, visit| {
        Row::python(name, body).visitor(Place::Far, visit).nothing(inbound(UDP, PacketFault::Device)).closed_by("I")
    };
    let outside = |name, body, visit| {
        Row::python(name, body).visitor(Place::Outside, visit).nothing(inbound(UDP, PacketFault::Peer)).closed_by("I")
    };
    const FOUR: &str = "return visited(UDP, '0.0.0.0')";
    const SIX: &str = "return visited(UDP, '::')";
    vec![
        far("a datagram from another host", FOUR, "return visit(UDP, NEAR4)"),
        far("a datagram from another host, IPv6", SIX, "return visit(UDP, NEAR6)"),
        far("a datagram from another host, to an IPv6 socket over IPv4", SIX, "return visit(UDP, NEAR4)"),
        far("a broadcast from another host", FOUR, "return visit(UDP, '10.99.0.255')"),
        far(
            "a multicast from another host",
            FOUR,
            "s = new(INET, UDP)\ns.setsockopt(0, 32, struct.pack('=4s4si', ANY4, ANY4, socket.if_nametoindex('far')))\nreturn s.sendto(b'in', ('224.0.0.1', 7100))",
        ),
        outside("a datagram from outside on this host", FOUR, "return visit(UDP, '127.0.0.1')"),
        outside("a datagram from outside on this host, IPv6", SIX, "return visit(UDP, '::1')"),
        outside("a datagram from outside to the host's own address", FOUR, "return visit(UDP, NEAR4)"),
    ]
}

fn connections() -> Vec<Row> {
    let far = |name, body, visit| {
        Row::python(name, body).visitor(Place::Far, visit).nothing(inbound(TCP, PacketFault::Device)).closed_by("I, E")
    };
    let outside = |name, body, visit| {
        Row::python(name, body)
            .visitor(Place::Outside, visit)
            .nothing(inbound(TCP, PacketFault::Peer))
            .closed_by("I, E")
    };
    const FOUR: &str = "return visited(TCP, '0.0.0.0')";
    const SIX: &str = "return visited(TCP, '::')";
    vec![
        far("a connection from another host", FOUR, "return visit(TCP, NEAR4)"),
        far("a connection from another host, IPv6", SIX, "return visit(TCP, NEAR6)"),
        outside("a connection from outside on this host", FOUR, "return visit(TCP, '127.0.0.1')"),
        outside("a connection from outside on this host, IPv6", SIX, "return visit(TCP, '::1')"),
        outside("a connection from outside to the host's own address", FOUR, "return visit(TCP, NEAR4)"),
        far(
            "data in a SYN from another host (fast open)",
            FAST_OPEN,
            "s = new(limit=0.4)\ns.sendto(b'in', 0x20000000, (NEAR4, 7100))\nreturn 'connected'",
        ),
    ]
}

/// Whether a port is taken shows from afar: refused, or silence.
fn signals() -> Vec<Row> {
    const PROBE: &str = "
results = []
for port in (7101, 7102):
    s = new(limit=0.4)
    results.append('connection refused' if s.connect_ex((NEAR4, port)) == errno.ECONNREFUSED else 'silence')
return 'connected' if results == ['silence', 'connection refused'] else results";
    vec![
        Row::python(
            "a signal by which ports are taken: another host sees silence, or a refusal",
            "l = socket.create_server(('0.0.0.0', 7101))\nwait()\nreturn None",
        )
        .visitor(Place::Far, PROBE)
        .open("a network namespace of the agent's own; a firewall of the host's")
        .launched_too(),
    ]
}

const FAST_OPEN: &str = "
l = socket.socket(INET, TCP)
l.setsockopt(6, 23, 5)
l.bind(('0.0.0.0', 7100))
l.listen()
wait()
return accepted(l)";
