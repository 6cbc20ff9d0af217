//! UDP: nothing but the resolver, and no way round on the way there.

use interceptor::capture::{PacketFault, Refusal};
use interceptor::testing::world::Place;

use super::row::{By, EPERM, Expected, Level, Row, Site, UDP, kind, packet};
use super::run::Played;
use super::stage::{Process, Stage, attempt};
use serde_json::{Value, json};

pub(crate) fn rows() -> Vec<Row> {
    [refused(), strange(), resolver(), resolver6()].into_iter().flatten().collect()
}

fn refused() -> Vec<Row> {
    let refused = |name, body| Row::python(name, body).errno(EPERM, Refusal::Udp).closed_by("M, E");
    let connected = |name, body| Row::python(name, body).errno(EPERM, Refusal::Udp).closed_by("C, E");
    vec![
        refused("sendto, IPv4", "return tell(FAR4)").launched_too(),
        refused("sendto, IPv6", "return tell(FAR6, 9999, INET6)").launched_too(),
        refused("sendto, IPv4 mapped", "return tell(MAPPED, 9999, INET6)").launched_too(),
        connected("UDP connect, IPv4", "s = new(INET, UDP)\ns.connect((FAR4, 9999))\nreturn s.send(b'x')"),
        connected("UDP connect, IPv6", "s = new(INET6, UDP)\ns.connect((FAR6, 9999))\nreturn s.send(b'x')"),
        connected("UDP connect, IPv4 mapped", "s = new(INET6, UDP)\ns.connect((MAPPED, 9999))\nreturn s.send(b'x')"),
        Row::program("sendmmsg", &["raw", "sendmmsg"]).errno(EPERM, Refusal::Udp).closed_by("M, E"),
        Row::program("io_uring: sendmsg", &["raw", "uring-udp"])
            .errno(EPERM, Refusal::Udp)
            .closed_by("M, E")
            .launched(Expected::Errno(libc::ENOSYS))
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
        Row::python("to the resolver, through a device by IP_PKTINFO", PKTINFO).nothing(device).launched_too(),
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
            .in_vain()
            .launched_too()
            .closed_by("the relay: the operator's names alone, asked anew")
            .without_control(),
        Row::scene("which of the operator's names is asked for, and when", signals)
            .open("a resolver of the daemon's own that always knows the answer")
            .launched_too(),
        Row::python("UDP over IPv4 beside an IPv6 resolver", "return tell(FAR4, 53, INET, query())")
            .at(Site::Six)
            .errno(EPERM, Refusal::Udp)
            .closed_by("M, E"),
    ]
}

/// Names and questions that say more than that a name is asked for. The resolver tells what it was asked.
fn names(level: Level) -> Played {
    resolved(level, &format!("{SMUGGLE}{ANSWERED}"))
}

/// A name that may be asked for: the resolver learns that it was.
fn signals(level: Level) -> Played {
    let mut played = resolved(level, ANSWERED);
    played.value["ok"] = played.value["asked"].clone();
    played
}

/// What the resolver was asked, but for the plain question, as `ok`, with the number of questions. The agent must get its answer.
fn resolved(level: Level, body: &str) -> Played {
    let mut stage = Stage::open(Site::Four);
    stage.config.dns_upstream = None;
    let open = asked(&stage, || stage.start(Place::Outside, By::User, attempt(By::User, body)));
    stage.attend();
    let mut value = asked(&stage, || stage.start_agent(level, "one", By::User, attempt(By::User, body)));
    if open["asked"].as_u64() < Some(1) {
        value = json!({ "broken": format!("nothing was asked where nobody is governed: {open}") });
    }
    Played { stage, value, seen: 0 }
}

fn asked(stage: &Stage, agent: impl FnOnce() -> Process) -> Value {
    let mut resolver = stage.start(Place::Far, By::Root, attempt(By::Root, RESOLVER));
    resolver.ready();
    let answered = agent().value();
    if answered["ok"] != "answered" {
        return json!({ "broken": answered });
    }
    resolver.go();
    let mut value = resolver.value();
    let told = value["ok"].take();
    json!({ "ok": told["odd"], "asked": told["asked"] })
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

/// A resolver that knows one address, and remembers what it was asked.
const RESOLVER: &str = "
s = socket.socket(INET, UDP)
s.bind((FAR4, 53))
out('ready')
heard = []
while sys.stdin not in (ready := select.select([s, sys.stdin], [], [])[0]) or s in ready:
    data, asker = s.recvfrom(2000)
    heard.append(data)
    answer = b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4' + socket.inet_aton(FAR4)
    if data[2:] == query()[2:]: s.sendto(data[:2] + b'\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0' + data[12:] + answer, asker)
edns = query()[2:11] + b'\\1' + query()[12:] + b'\\0\\0\\x29' + struct.pack('!H', 1232) + bytes(6)
odd = [data.hex() for data in heard if data[2:] not in (query()[2:], edns)]
if sum(data[:2] == b'se' for data in heard) > 2: odd.append('ids')
return {'odd': odd or None, 'asked': len(heard)}";

/// A name that may be asked for is found: the last that is asked, since questions are passed on in turn.
const ANSWERED: &str = "
s = new(INET, UDP)
s.sendto(query(), (FAR4, 53))
answer = s.recv(500)
time.sleep(0.1)
return 'answered' if answer[:2] == query()[:2] and answer.endswith(socket.inet_aton(FAR4)) else answer.hex()
";

const SMUGGLE: &str = "
def smuggle(name, kind=1, group=1, flags=0x0100, more=b'', counts=(1, 0, 0, 0)):
    labels = b''.join(bytes([len(label)]) + label for label in name.split(b'.'))
    tell(FAR4, 53, INET, struct.pack('!6H', 0x7365, flags, *counts) + labels + b'\\0' + struct.pack('!2H', kind, group) + more)
for name in (b'secret', b'secret.asked', b'asked.secret', b'c2VjcmV0.far.test', b'\\xffsecret', b'asked\\0secret', b'a' * 63): smuggle(name)
for name in (b'AsKeD', b'ASKED', b'askeD'): smuggle(name)
for kind in (16, 10, 255, 252, 41, 0, 65280): smuggle(b'asked', kind)
for group in (3, 254, 255, 0x7365): smuggle(b'asked', 1, group)
for flags in (0, 0x0110, 0x0120, 0x0140, 0x0170, 0x0300, 0x0500, 0x0107, 0x0980, 0x2100, 0x2900, 0x8180): smuggle(b'asked', flags=flags)
option = struct.pack('!HH', 65001, 6) + b'secret'
smuggle(b'asked', more=b'\\0' + struct.pack('!HHIH', 41, 1232, 0, len(option)) + option, counts=(1, 0, 0, 1))
smuggle(b'asked', more=b'\\0' + struct.pack('!HHIH', 41, 0x7365, 0x63726574, 0), counts=(1, 0, 0, 1))
smuggle(b'asked', more=b'secret')
smuggle(b'asked', more=query(b'secret')[12:], counts=(2, 0, 0, 0))
smuggle(b'asked', more=b'\\xc0\\x0c\\0\\x10\\0\\1\\0\\0\\0\\0\\0\\7\\6secret', counts=(1, 1, 0, 0))
smuggle(b'asked', more=b'\\xc0\\x0c\\0\\x10\\0\\1\\0\\0\\0\\0\\0\\7\\6secret', counts=(1, 0, 0, 1))
";
