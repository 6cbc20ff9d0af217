//! UDP: nothing but the resolver, and no way round on the way there.

use interceptor::capture::{PacketFault, Refusal};
use interceptor::testing::world::Place;

use super::row::{By, EPERM, Level, Row, Site, UDP, kind, packet};
use super::run::Played;
use super::stage::Stage;

pub(crate) fn rows() -> Vec<Row> {
    [refused(), strange(), resolver(), resolver6()].into_iter().flatten().collect()
}

fn refused() -> Vec<Row> {
    let refused = |name, body| Row::python(name, body).errno(EPERM, Refusal::Udp).closed_by("M, E");
    let connected = |name, body| Row::python(name, body).errno(EPERM, Refusal::Udp).closed_by("C, E");
    vec![
        refused("sendto, IPv4", "return tell(FAR4)"),
        refused("sendto, IPv6", "return tell(FAR6, 9999, INET6)"),
        refused("sendto, IPv4 mapped", "return tell(MAPPED, 9999, INET6)"),
        connected("UDP connect, IPv4", "s = new(INET, UDP)\ns.connect((FAR4, 9999))\nreturn s.send(b'x')"),
        connected("UDP connect, IPv6", "s = new(INET6, UDP)\ns.connect((FAR6, 9999))\nreturn s.send(b'x')"),
        connected("UDP connect, IPv4 mapped", "s = new(INET6, UDP)\ns.connect((MAPPED, 9999))\nreturn s.send(b'x')"),
        Row::program("sendmmsg", &["raw", "sendmmsg"]).errno(EPERM, Refusal::Udp).closed_by("M, E"),
        Row::program("io_uring: sendmsg", &["raw", "uring-udp"])
            .errno(EPERM, Refusal::Udp)
            .closed_by("M, E")
            .may_be_absent(),
        refused(
            "UDP_SEGMENT",
            "s = new(INET, UDP)\ns.setsockopt(17, 103, 100)\nreturn s.sendto(bytes(900), (FAR4, 9999))",
        ),
        refused("a datagram that would be fragmented", "return tell(FAR4, data=bytes(8000))"),
        refused("a datagram that would be fragmented, IPv6", "return tell(FAR6, 9999, INET6, bytes(8000))"),
        refused("a QUIC Initial packet to port 443 (HTTP/3)", QUIC),
        refused(
            "a broadcast",
            "s = new(INET, UDP)\ns.setsockopt(1, 6, 1)\nreturn s.sendto(b'x', ('10.99.0.255', 9999))",
        ),
        refused("to a multicast group", "return tell('224.0.0.251', 5353)"),
        refused(
            "to a multicast group, IPv6",
            "s = new(INET6, UDP)\nreturn s.sendto(b'x', ('ff02::fb', 5353, 0, near()))",
        ),
    ]
}

fn strange() -> Vec<Row> {
    let refused = |name, body| Row::python(name, body).errno(EPERM, Refusal::Udp).closed_by("M, E");
    vec![
        refused("an address of family AF_UNSPEC", UNSPECIFIED),
        refused("an IPv4 address on an IPv6 socket", FOUR_ON_SIX),
        refused("IPV6_ADDRFORM turns a socket that is connected to the resolver into an IPv4 one", ADDRFORM),
        refused("the relay itself", "return tell('127.0.0.1', 15053)").without_control(),
        refused("the resolver at another port", "return tell(FAR4, 54)"),
        refused("another resolver", "return tell('10.99.0.3', 53)").without_control(),
        Row::python("a second destination while the first is corked", CORKED)
            .in_vain()
            .closed_by("M: the first one holds"),
        Row::python("UDP-Lite", "return socket.socket(INET, UDP, 136).fileno()")
            .errno(libc::EPROTONOSUPPORT, kind(2, 136))
            .closed_by("S, E")
            .may_be_absent(),
    ]
}

/// By the permitted way to the relay, with something on the packet that leads elsewhere.
fn resolver() -> Vec<Row> {
    let device = packet(UDP, PacketFault::Device);
    let options = packet(UDP, PacketFault::Options);
    vec![
        Row::python("to the resolver, through a device by IP_PKTINFO", PKTINFO).nothing(device),
        Row::python("the same, large enough for fragments", PKTINFO_LARGE).nothing(device),
        Row::python(
            "to the resolver, SO_BINDTODEVICE",
            "s = new(INET, UDP)\ndevice(s)\nreturn s.sendto(query(), (FAR4, 53))",
        )
        .nothing(device),
        Row::python(
            "to the resolver, a source route by IP_RETOPTS",
            "return tell(FAR4, 53, INET, query(), 0, [(0, 7, LSRR)])",
        )
        .by(By::Container)
        .nothing(options),
        Row::python(
            "to the resolver, a source route by IP_RETOPTS, unprivileged",
            "return tell(FAR4, 53, INET, query(), 0, [(0, 7, LSRR)])",
        )
        .kernel(EPERM),
    ]
}

fn resolver6() -> Vec<Row> {
    let header =
        |name, body, protocol| Row::python(name, body).at(Site::Six).nothing(packet(protocol, PacketFault::Protocol));
    let root = |name, body, protocol| header(name, body, protocol).by(By::Container);
    vec![
        Row::python("IPv6 segment routing header by cmsg", "return tell(FAR6, 53, INET6, query(), 0, [(41, 57, SRH)])")
            .at(Site::Six)
            .kernel(libc::EINVAL),
        header(
            "IPv6 routing header of type 2 by cmsg",
            "return tell(FAR6, 53, INET6, query(), 0, [(41, 57, RH2)])",
            43,
        )
        .may_be_absent(),
        root("IPv6 hop-by-hop options by cmsg", "return tell(FAR6, 53, INET6, query(), 0, [(41, 54, PAD)])", 0),
        root(
            "IPv6 hop-by-hop options of a jumbogram's kind by cmsg",
            "return tell(FAR6, 53, INET6, query(), 0, [(41, 54, JUMBO)])",
            0,
        ),
        root("IPv6 destination options by cmsg", "return tell(FAR6, 53, INET6, query(), 0, [(41, 59, PAD)])", 60),
        root(
            "IPv6 destination options before a routing header, by cmsg",
            "return tell(FAR6, 53, INET6, query(), 0, [(41, 55, PAD), (41, 57, RH2)])",
            60,
        )
        .may_be_absent(),
        root(
            "IPv6 hop-by-hop options by cmsg, old number",
            "return tell(FAR6, 53, INET6, query(), 0, [(41, 3, PAD)])",
            0,
        ),
        root(
            "IPv6 destination options by cmsg, old number",
            "return tell(FAR6, 53, INET6, query(), 0, [(41, 4, PAD)])",
            60,
        ),
        root("IPv6 routing header by cmsg, old number", "return tell(FAR6, 53, INET6, query(), 0, [(41, 5, RH2)])", 43)
            .may_be_absent(),
        Row::python("to the resolver, through a device by IPV6_PKTINFO", PKTINFO6)
            .at(Site::Six)
            .nothing(packet(UDP, PacketFault::Device)),
        Row::python("to the resolver, through a device by a sticky IPV6_PKTINFO", STICKY6)
            .at(Site::Six)
            .nothing(packet(UDP, PacketFault::Device)),
        Row::python("to the resolver by a scope", "s = new(INET6, UDP)\ns.sendto(query(), (FAR6, 53, 0, near()))")
            .at(Site::Six)
            .in_vain()
            .closed_by("M")
            .without_control(),
        Row::scene("names asked of the resolver carry data", names)
            .open(Level::Launched, "the resolver: which names, how many"),
        Row::python("UDP over IPv4 beside an IPv6 resolver", "return tell(FAR4, 53, INET, query())")
            .at(Site::Six)
            .errno(EPERM, Refusal::Udp)
            .closed_by("M, E"),
    ]
}

/// The permitted way: the question, whatever it says, reaches the resolver.
fn names() -> Played {
    let mut stage = Stage::open(Site::Four);
    stage.config.dns_upstream = None;
    stage.attend();
    let wire = stage.world.sniff().unwrap();
    let value = stage.python(Place::Agent("one"), By::User, "tell(FAR4, 53, INET, query(b'secret'))\ntime.sleep(0.2)");
    let seen = wire.count();
    Played { stage, value, seen }
}

const UNSPECIFIED: &str = "
s = socket.socket(INET, UDP)
return call(libc.sendto, s.fileno(), b'x', 1, 0, address4(FAR4, 9999, 0), 16)";

const FOUR_ON_SIX: &str = "
s = socket.socket(INET6, UDP)
return call(libc.sendto, s.fileno(), b'x', 1, 0, address4(FAR4, 9999), 16)";

const ADDRFORM: &str = "
s = new(INET6, UDP)
s.connect(('::ffff:10.99.0.2', 53))
s.setsockopt(41, 1, 2)
return call(libc.sendto, s.fileno(), b'x', 1, 0, address4(FAR4, 9999), 16)";

const CORKED: &str = "
s = new(INET, UDP)
s.sendto(query(), 0x8000, (FAR4, 53))
s.sendto(b'x', (FAR4, 9999))";

const PKTINFO: &str = "
info = struct.pack('=i4s4s', near(), bytes(4), bytes(4))
return tell(FAR4, 53, INET, query(), 0, [(0, 8, info)])";

const PKTINFO_LARGE: &str = "
info = struct.pack('=i4s4s', near(), bytes(4), bytes(4))
return tell(FAR4, 53, INET, bytes(8000), 0, [(0, 8, info)])";

const PKTINFO6: &str = "
info = bytes(16) + struct.pack('=I', near())
return tell(FAR6, 53, INET6, query(), 0, [(41, 50, info)])";

const STICKY6: &str = "
s = new(INET6, UDP)
s.setsockopt(41, 50, bytes(16) + struct.pack('=I', near()))
return s.sendto(query(), (FAR6, 53))";

/// Appendix A.2 of RFC 9001: the header, protected, and what follows it.
const QUIC: &str = concat!("return tell(FAR4, 443, data=bytes.fromhex('", include_str!("quic-initial.hex"), "'))");
