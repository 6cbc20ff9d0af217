//! The daemon is dead: nothing leaves, and nobody takes its place.

use interceptor::capture::{PacketFault, Refusal};
use interceptor::testing::world::Place;

use super::row::{EPERM, Row, Site, TCP, UDP, packet};

pub(crate) fn rows() -> Vec<Row> {
    [left_alone(), squatters()].into_iter().flatten().collect()
}

fn left_alone() -> Vec<Row> {
    let refused = |name, body| {
        Row::python(name, body).at(Site::Unattended).errno(libc::ECONNREFUSED, Refusal::NoListener).closed_by("C, E")
    };
    vec![
        refused("unattended: TCP, IPv4", "return talk(FAR4)").launched_too(),
        refused("unattended: TCP, IPv6", "return talk(FAR6, 7000, INET6)").launched_too(),
        refused("unattended: TCP, IPv4 mapped", "return talk(MAPPED, 7000, INET6)"),
        Row::python("unattended: UDP", "return tell(FAR4)")
            .at(Site::Unattended)
            .errno(EPERM, Refusal::Udp)
            .closed_by("M, E"),
        Row::python("unattended: the resolver", "return tell(FAR4, 53, INET, query())")
            .at(Site::Unattended)
            .nothing(packet(UDP, PacketFault::Peer)),
        Row::python("unattended: a device", "return talk(FAR4, 7000, INET, device, 0.5)")
            .at(Site::Unattended)
            .errno(libc::ECONNREFUSED, Refusal::NoListener)
            .closed_by("C, E"),
    ]
}

/// Others who take the daemon's ports.
fn squatters() -> Vec<Row> {
    let squatted_in = |place, name, body, helper| {
        Row::python(name, body).at(Site::Unattended).helper(place, helper).without_control()
    };
    let squatted = |name, body, helper| squatted_in(Place::Outside, name, body, helper);
    vec![
        squatted(
            "the proxy's port is taken by a process outside",
            "return talk(FAR4, limit=0.5)",
            "squat('127.0.0.1')",
        )
        .errno(libc::ECONNREFUSED, Refusal::NoListener)
        .closed_by("C, E"),
        squatted(
            "the proxy's port is taken by a process outside, IPv6",
            "return talk(FAR6, 7000, INET6, limit=0.5)",
            "squat('::1')",
        )
        .errno(libc::ECONNREFUSED, Refusal::NoListener)
        .closed_by("C, E"),
        squatted("the relay's port is taken by a process outside", ASK_RELAY, SQUAT_RELAY)
            .nothing(packet(UDP, PacketFault::Peer)),
        squatted_in(
            Place::Daemon,
            "the proxy's port is taken in the daemon's own cgroup",
            "return talk(FAR4, limit=0.5)",
            "squat('127.0.0.1')",
        )
        .errno(libc::ECONNREFUSED, Refusal::NoListener)
        .closed_by("C, E"),
        squatted_in(Place::Daemon, "the relay's port is taken in the daemon's own cgroup", ASK_RELAY, SQUAT_RELAY)
            .nothing(packet(UDP, PacketFault::Peer)),
        Row::early("both ends open the connection, the other from the proxy's port", SIMULTANEOUS_AGENT)
            .helper(Place::Outside, SIMULTANEOUS)
            .without_control()
            .nothing(packet(TCP, PacketFault::Peer)),
        Row::python(
            "the proxy's port is taken by an agent",
            "socket.create_server(('127.0.0.1', 15001))\nreturn 'bound'",
        )
        .at(Site::Unattended)
        .errno(EPERM, Refusal::Bind)
        .closed_by("B"),
        Row::python(
            "the proxy's port is taken by an agent, IPv6",
            "socket.create_server(('::', 15001), family=INET6)\nreturn 'bound'",
        )
        .at(Site::Unattended)
        .errno(EPERM, Refusal::Bind)
        .closed_by("B"),
        Row::python(
            "the relay's port is taken by an agent",
            "socket.socket(INET, UDP).bind(('127.0.0.1', 15053))\nreturn 'bound'",
        )
        .at(Site::Unattended)
        .errno(EPERM, Refusal::Bind)
        .closed_by("B"),
    ]
}

const ASK_RELAY: &str = "s = new(INET, UDP, 0.5)\ns.sendto(query(), (FAR4, 53))\nreturn s.recv(100).decode()";
const SQUAT_RELAY: &str = "s = new(INET, UDP, None)\ns.bind(('127.0.0.1', 15053))\nout('ready')\n\
                           while True: s.sendto(b'outside', s.recvfrom(100)[1])";

/// Its listener has the other's packet wait for an answer, until it opens the connection from the same port itself.
const SIMULTANEOUS_AGENT: &str = "
wait()
def reuse(s):
    s.setsockopt(1, 15, 1)
    s.bind(('127.0.0.1', 7400))
l = new(limit=None)
reuse(l)
l.listen()
time.sleep(0.6)
return talk(FAR4, 7000, INET, reuse, 1.5)";

/// It has the port from before the daemon listened there, which is what the agent is redirected to: but the agent's packets
/// would be the other's, who opens the same connection.
const SIMULTANEOUS: &str = "
s = socket.socket(INET, TCP)
s.setsockopt(1, 2, 1)
s.bind(('127.0.0.1', 15001))
s.setblocking(False)
out('ready')
while True:
    s.connect_ex(('127.0.0.1', 7400))
    for _ in range(20):
        time.sleep(0.01)
        if 'ok' in attempt(lambda: s.send(b'\"outside\"')): s.shutdown(1)";
