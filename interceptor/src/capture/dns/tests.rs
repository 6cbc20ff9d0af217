//! The relay, with a resolver and agents of the test.

use super::*;
use parking_lot::Mutex;

/// Answers type A only, with a number of its own.
fn query(id: u16, flags: u8, name: &str, kind: u8) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([flags, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, kind, 0, 1]);
    bytes
}

/// Targets at `db` and `db.internal`.
#[derive(Debug, Default)]
struct Two {
    asked: Mutex<Vec<Asked>>,
    /// Nothing can be put on record.
    unrecorded: bool,
    learned: Mutex<Vec<(String, IpAddr)>>,
}

impl Names for Two {
    fn covers(&self, name: &str) -> bool {
        matches!(name, "db" | "db.internal")
    }

    fn asked(&self, question: Asked) {
        self.asked.lock().push(question);
    }

    fn passing(&self, question: Asked) -> BoxFuture<'_, bool> {
        self.asked.lock().push(question);
        Box::pin(std::future::ready(!self.unrecorded))
    }

    fn learned(&self, name: &str, addresses: &[(IpAddr, Duration)]) {
        self.learned.lock().extend(addresses.iter().map(|(address, _)| (name.to_owned(), *address)));
    }
}

/// Each client is an agent in a cgroup of its own, which has the number of its port; without an address, nobody.
#[derive(Debug)]
struct ByPort;

impl Askers for ByPort {
    fn of(&self, _netns: u64, client: SocketAddr, relay: SocketAddr) -> Result<Option<Origin>, MapError> {
        let origin = Origin {
            destination: relay,
            pid: 7,
            tid: 7,
            uid: 1000,
            gid: 1000,
            cgroup: client.port().into(),
            current_cgroup: client.port().into(),
            start_boottime: 0,
            netns: 1,
            socket: 1,
            comm: "agent".to_owned(),
        };
        Ok((client.ip() == Ipv4Addr::LOCALHOST).then_some(origin))
    }
}

/// All clients are processes of one cgroup.
#[derive(Debug)]
struct OneCgroup;

impl Askers for OneCgroup {
    fn of(&self, netns: u64, client: SocketAddr, relay: SocketAddr) -> Result<Option<Origin>, MapError> {
        Ok(ByPort.of(netns, client, relay)?.map(|origin| Origin { cgroup: 1, ..origin }))
    }
}

async fn relay(upstream: &UdpSocket, names: Arc<dyn Names>) -> UdpSocket {
    relay_for(upstream, names, Box::new(ByPort)).await
}

async fn relay_for(upstream: &UdpSocket, names: Arc<dyn Names>, askers: Box<dyn Askers>) -> UdpSocket {
    let config = Config {
        dns_port: 0,
        resolver: super::super::Resolver::At("192.0.2.1:53".parse().unwrap()),
        dns_upstream: Some(upstream.local_addr().unwrap()),
        dns_names: vec!["api.example".into(), "*.corp.example".into()],
        dns_label_bytes: 1024,
        ..Config::default()
    };
    let mut relay = Relay::bind(&config).unwrap().unwrap();
    Arc::get_mut(&mut relay.common.0).unwrap().search = vec!["lan.example".into()];
    relay.common.0.askers.set(askers).unwrap();
    let client = from(Ipv4Addr::LOCALHOST, relay.port()).await;
    tokio::spawn(async move { relay.run(names).await });
    client
}

async fn from(address: Ipv4Addr, relay: u16) -> UdpSocket {
    let client = UdpSocket::bind((address, 0)).await.unwrap();
    client.connect(("127.0.0.1", relay)).await.unwrap();
    client
}

#[tokio::test]
async fn who_asks_is_told_and_what_nobody_asks_is_refused() {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let names = Arc::new(Two::default());
    let client = relay(&upstream, Arc::clone(&names) as Arc<dyn Names>).await;
    let stranger = from(Ipv4Addr::new(127, 0, 0, 2), client.peer_addr().unwrap().port()).await;
    let mut buffer = [0; 600];
    stranger.send(&query(5, 1, "db", 1)).await.unwrap();
    stranger.recv(&mut buffer).await.unwrap();
    assert_eq!((&buffer[..2], buffer[3] & 0x0f), (&[0, 5][..], 5));
    client.send(&query(6, 1, "db", 1)).await.unwrap();
    upstream.recv(&mut buffer).await.unwrap();
    let asked = names.asked.lock();
    let told: Vec<_> = asked.iter().map(|asked| (asked.fate, asked.asker.as_ref().map(|who| who.cgroup))).collect();
    let own = client.local_addr().unwrap().port().into();
    assert_eq!(told, [(Fate::Unknown, None), (Fate::PassedOn, Some(own))]);
}

#[tokio::test]
async fn what_cannot_be_put_on_record_does_not_leave() {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let names = Arc::new(Two { unrecorded: true, ..Two::default() });
    let client = relay(&upstream, Arc::clone(&names) as Arc<dyn Names>).await;
    let mut buffer = [0; 600];
    client.send(&query(5, 1, "db", 1)).await.unwrap();
    client.recv(&mut buffer).await.unwrap();
    assert_eq!((&buffer[..2], buffer[3] & 0x0f), (&[0, 5][..], 2), "a failure of the server");
    assert!(upstream.try_recv(&mut buffer).is_err());
    assert_eq!(names.asked.lock().len(), 1);
}

#[tokio::test]
async fn answers_come_back_and_strays_do_not() {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let names = Arc::new(Two::default());
    let client = relay(&upstream, Arc::clone(&names) as Arc<dyn Names>).await;
    client.send(&query(7, 1, "DB.internal", 1)).await.unwrap();
    let mut buffer = [0; 600];
    let (length, from) = upstream.recv_from(&mut buffer).await.unwrap();
    let id = u16::from_be_bytes([buffer[0], buffer[1]]);
    assert_eq!(buffer.get(..length).unwrap(), query(id, 1, "db.internal", 1));
    upstream.send_to(&query(id.wrapping_add(1), 0x81, "db.internal", 1), from).await.unwrap();
    upstream.send_to(&query(id, 0x81, "evil.internal", 1), from).await.unwrap();
    upstream.send_to(&query(id, 0x01, "db.internal", 1), from).await.unwrap();
    let mut right = query(id, 0x81, "db.internal", 1);
    right[7] = 1;
    right.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 7]);
    upstream.send_to(&right, from).await.unwrap();
    let length = client.recv(&mut buffer).await.unwrap();
    let mut expected = query(7, 0x81, "DB.internal", 1);
    expected[7] = 1;
    assert_eq!(buffer.get(..expected.len()).unwrap(), expected);
    assert_eq!(length, right.len());
    assert_eq!(*names.learned.lock(), [("db.internal".to_owned(), "10.0.0.7".parse().unwrap())]);
}

#[tokio::test]
async fn names_that_nobody_covers_do_not_exist_and_reach_no_resolver() {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let names = Arc::new(Two::default());
    let client = relay(&upstream, Arc::clone(&names) as Arc<dyn Names>).await;
    let mut buffer = [0; 600];
    for (name, kind, code) in [
        ("c2VjcmV0.evil.example", 1, 3),
        ("db.internal.evil.example", 1, 3),
        ("xdb.internal", 1, 3),
        ("corp.example", 1, 3),
        ("db.internal", 16, 0),
        ("db.internal", 10, 0),
        ("db.internal", 255, 0),
    ] {
        client.send(&query(3, 1, name, kind)).await.unwrap();
        let length = client.recv(&mut buffer).await.unwrap();
        assert_eq!((buffer[3] & 0x0f, &buffer[6..8]), (code, &[0, 0][..]), "{name} {kind}");
        assert_eq!(length, query(3, 1, name, kind).len());
    }
    assert_eq!(names.asked.lock().len(), 7);
    for allowed in ["db", "db.lan.example", "api.example", "x.y.corp.example"] {
        client.send(&query(4, 1, allowed, 1)).await.unwrap();
        let length = upstream.recv(&mut buffer).await.unwrap();
        assert_eq!(buffer.get(2..length), query(4, 1, allowed, 1).get(2..), "{allowed}");
    }
}

#[tokio::test]
async fn what_is_no_lookup_never_reaches_the_resolver() {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let client = relay(&upstream, Arc::new(AnyName)).await;
    let long = query(1, 1, &vec!["a".repeat(63); 20].join("."), 1);
    assert!(long.len() > MAX_QUERY);
    for dropped in [b"short".to_vec(), query(2, 0x81, "answer", 1), long] {
        client.send(&dropped).await.unwrap();
    }
    client.send(&query(3, 5 << 3, "update", 1)).await.unwrap();
    let mut buffer = [0; 600];
    client.recv(&mut buffer).await.unwrap();
    assert_eq!((&buffer[..2], buffer[3] & 0x0f), (&[0, 3][..], 5));
    client.send(&query(4, 1, "lookup", 1)).await.unwrap();
    let length = upstream.recv(&mut buffer).await.unwrap();
    assert_eq!(buffer.get(2..length), query(4, 1, "lookup", 1).get(2..));
}

#[tokio::test]
async fn one_agent_cannot_use_up_what_others_may_ask() {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let client = relay(&upstream, Arc::new(AnyName)).await;
    let (mut arrived, mut buffer) = (0, [0; 600]);
    for id in 0..200 {
        client.send(&query(id, 1, "a", 1)).await.unwrap();
        // One at a time, so that no socket buffer is what bounds them.
        if timeout(Duration::from_millis(20), upstream.recv(&mut buffer)).await.is_ok() {
            arrived += 1;
        }
    }
    assert_eq!(arrived, room::CGROUP_IN_FLIGHT);
    let other = from(Ipv4Addr::LOCALHOST, client.peer_addr().unwrap().port()).await;
    other.send(&query(1, 1, "a", 1)).await.unwrap();
    timeout(ANSWER_TIME, upstream.recv(&mut buffer)).await.unwrap().unwrap();
}

/// The name of a question, as the resolver sees it.
fn name_in(question: &[u8]) -> String {
    Query::read(question).unwrap().name
}

/// An answer to a question: a code, how many records of answers and authorities there are, and these.
fn answer_to(question: &[u8], code: u8, counts: (u8, u8), records: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    (answer[2], answer[3], answer[7], answer[9]) = (0x81, 0x80 | code, counts.0, counts.1);
    answer.extend(records);
    answer
}

/// A record at the name that was asked for.
fn record(kind: u8, ttl: u8, data: &[u8]) -> Vec<u8> {
    let mut record = vec![0xc0, 12, 0, kind, 0, 1, 0, 0, 0, ttl, 0, u8::try_from(data.len()).unwrap()];
    record.extend(data);
    record
}

/// A resolver that writes down which names it is asked for, and answers that there are none.
fn denying(upstream: UdpSocket) -> Arc<Mutex<Vec<String>>> {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 600];
        while let Ok((length, from)) = upstream.recv_from(&mut buffer).await {
            seen.lock().push(name_in(&buffer[..length]));
            let _gone = upstream.send_to(&answer_to(&buffer[..length], 3, (0, 0), &[]), from).await;
        }
    });
    asked
}

/// Asks, and gives the code of the answer.
async fn ask_for(client: &UdpSocket, name: &str) -> u8 {
    let mut buffer = [0; 600];
    client.send(&query(9, 1, name, 1)).await.unwrap();
    timeout(ANSWER_TIME, client.recv(&mut buffer)).await.expect("an answer").unwrap();
    buffer[3] & 0x0f
}

#[tokio::test]
async fn what_names_below_a_wildcard_say_ends_soon() {
    const REFUSED: u8 = 5;
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let names = Arc::new(Two::default());
    let first = relay_for(&upstream, Arc::clone(&names) as Arc<dyn Names>, Box::new(OneCgroup)).await;
    let second = from(Ipv4Addr::LOCALHOST, first.peer_addr().unwrap().port()).await;
    let seen = denying(upstream);
    // Two processes of one cgroup have one budget: 2,048 bytes at once, of which each of these takes 42.
    let mut codes = Vec::new();
    for number in 0..60 {
        let client = if number % 2 == 0 { &first } else { &second };
        codes.push(ask_for(client, &format!("{:a>40}.corp.example", format!("{number}"))).await);
    }
    assert_eq!(codes.iter().position(|code| *code == REFUSED), Some(48), "{codes:?}");
    assert!(codes[48..].iter().all(|code| *code == REFUSED));
    // In another case it is the same name, and an order of known names costs as well: 32 bytes are left, two are a question.
    let known = |number: usize| format!("{:A>40}.cOrP.example", format!("{number}"));
    let mut again = 0;
    while ask_for(&first, &known(again % 40)).await != REFUSED {
        again += 1;
    }
    assert_eq!(again, 16);
    // What the operator has written out is not concerned, nor is another cgroup.
    assert_eq!((ask_for(&first, "api.example").await, ask_for(&first, "db.internal").await), (3, 3));
    let said: usize = seen.lock().iter().filter_map(|name| Some(name.strip_suffix(".corp.example")?.len() + 2)).sum();
    assert_eq!(said, 48 * 42 + 16 * 42);
    assert!(names.asked.lock().iter().any(|asked| asked.fate == Fate::Spent));
}

#[tokio::test]
async fn names_that_nobody_gives_are_refused_below_a_wildcard() {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let names = Arc::new(Two::default());
    let client = relay(&upstream, Arc::clone(&names) as Arc<dyn Names>).await;
    let seen = denying(upstream);
    let long = [["m"; 50].concat(), ["n"; 50].concat()].join(".");
    for name in [long.as_str(), "a.b.c.d.e.f.g", &["x"; 100].join(".")] {
        assert_eq!(ask_for(&client, &format!("{name}.corp.example")).await, 5, "{name}");
    }
    assert!(seen.lock().is_empty());
    assert!(names.asked.lock().iter().all(|asked| asked.fate == Fate::Wordy));
    assert_eq!(ask_for(&client, "_pg._tcp.orders.shop.svc.cluster.corp.example").await, 3);
}

#[tokio::test]
async fn what_is_asked_again_below_a_wildcard_is_answered_from_memory() {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let names = Arc::new(Two::default());
    let client = relay(&upstream, Arc::clone(&names) as Arc<dyn Names>).await;
    let mut buffer = [0; 600];
    client.send(&query(1, 1, "x.corp.example", 1)).await.unwrap();
    let (length, from) = upstream.recv_from(&mut buffer).await.unwrap();
    let found = answer_to(&buffer[..length], 0, (1, 0), &record(1, 60, &[10, 0, 0, 7]));
    upstream.send_to(&found, from).await.unwrap();
    let length = client.recv(&mut buffer).await.unwrap();
    let first = buffer[..length].to_vec();
    for id in 2..100 {
        client.send(&query(id, 1, "X.corp.EXAMPLE", 1)).await.unwrap();
        let length = client.recv(&mut buffer).await.unwrap();
        assert_eq!(buffer[..2], id.to_be_bytes());
        assert_eq!(buffer[12..28], query(id, 1, "X.corp.EXAMPLE", 1)[12..28]);
        assert_eq!(buffer[length - 4..length], first[first.len() - 4..]);
    }
    let fates: Vec<Fate> = names.asked.lock().iter().map(|asked| asked.fate).collect();
    assert_eq!((fates[0], fates.iter().filter(|fate| **fate == Fate::Again).count()), (Fate::PassedOn, 98));
    // Nothing of that reached the resolver.
    assert_eq!(upstream.try_recv(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

/// Asks for a name of a target's, has this answered, and gives what was learned.
async fn learned_from(kind: u8, counts: (u8, u8), records: &[u8]) -> Vec<(String, IpAddr)> {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let names = Arc::new(Two::default());
    let client = relay(&upstream, Arc::clone(&names) as Arc<dyn Names>).await;
    let mut buffer = [0; 600];
    client.send(&query(1, 1, "db.internal", kind)).await.unwrap();
    let (length, from) = upstream.recv_from(&mut buffer).await.unwrap();
    upstream.send_to(&answer_to(&buffer[..length], 0, counts, records), from).await.unwrap();
    client.recv(&mut buffer).await.unwrap();
    let learned = names.learned.lock();
    learned.clone()
}

#[tokio::test]
async fn addresses_of_a_target_are_learned_anew_from_memory() {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let names = Arc::new(Two::default());
    let client = relay(&upstream, Arc::clone(&names) as Arc<dyn Names>).await;
    let mut buffer = [0; 600];
    client.send(&query(1, 1, "db.internal", 1)).await.unwrap();
    let (length, from) = upstream.recv_from(&mut buffer).await.unwrap();
    let found = answer_to(&buffer[..length], 0, (1, 0), &record(1, 60, &[10, 0, 0, 7]));
    upstream.send_to(&found, from).await.unwrap();
    client.recv(&mut buffer).await.unwrap();
    // Who is told just before the answer ends connects just after: where it leads is known from then on.
    client.send(&query(2, 1, "db.internal", 1)).await.unwrap();
    timeout(ANSWER_TIME, client.recv(&mut buffer)).await.unwrap().unwrap();
    let fates: Vec<Fate> = names.asked.lock().iter().map(|asked| asked.fate).collect();
    assert_eq!(fates, [Fate::PassedOn, Fate::Again]);
    let once = ("db.internal".to_owned(), "10.0.0.7".parse().unwrap());
    assert_eq!(*names.learned.lock(), [once.clone(), once]);
}

#[tokio::test]
async fn every_address_of_an_answer_is_learned_whatever_it_is_called_there() {
    let alias = |to: &[u8]| record(5, 5, to);
    let at = |name: &[u8], kind: u8, data: &[u8]| {
        let mut bytes = name.to_vec();
        bytes.extend(&record(kind, 5, data)[2..]);
        bytes
    };
    // db.internal is an alias of a.cloud, that of b.cloud, which has two addresses.
    let chain = [
        alias(b"\x01a\x05cloud\x00"),
        at(b"\x01a\x05cloud\x00", 5, b"\x01b\x05cloud\x00"),
        at(b"\x01b\x05cloud\x00", 1, &[10, 0, 0, 7]),
        at(b"\x01b\x05cloud\x00", 1, &[10, 0, 0, 8]),
    ];
    let learned = learned_from(1, (4, 0), &chain.concat()).await;
    let expected = ["10.0.0.7", "10.0.0.8"].map(|address| ("db.internal".to_owned(), address.parse().unwrap()));
    assert_eq!(learned, expected);
    let six: std::net::Ipv6Addr = "fd99::2".parse().unwrap();
    let learned = learned_from(28, (1, 0), &record(28, 1, &six.octets())).await;
    assert_eq!(learned, [("db.internal".to_owned(), IpAddr::V6(six))]);
    // What stands elsewhere in an answer is nobody's.
    assert_eq!(learned_from(1, (0, 1), &record(1, 60, &[10, 0, 0, 9])).await, []);
}

#[tokio::test]
async fn an_answer_that_is_cut_off_says_so_to_the_agent() {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let client = relay(&upstream, Arc::new(Two::default())).await;
    let mut buffer = [0; 600];
    client.send(&query(1, 1, "x.corp.example", 1)).await.unwrap();
    let (length, from) = upstream.recv_from(&mut buffer).await.unwrap();
    let mut cut = answer_to(&buffer[..length], 0, (0, 0), &[]);
    cut[2] |= 2;
    upstream.send_to(&cut, from).await.unwrap();
    client.recv(&mut buffer).await.unwrap();
    // It asks again over TCP, which is a connection, and captured as one. Such an answer is not kept.
    assert_eq!(buffer[2] & 2, 2);
    client.send(&query(2, 1, "x.corp.example", 1)).await.unwrap();
    timeout(ANSWER_TIME, upstream.recv(&mut buffer)).await.unwrap().unwrap();
}
