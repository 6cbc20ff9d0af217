//! The DNS relay: governed processes resolve the names of targets, and what else the operator allows, and nothing more.
//!
//! The kernel sends what agents address to their resolver here. A question about a name that is covered is asked anew, from
//! a socket of its own: a random source port and id, connected, so that only the resolver can answer. All other names do
//! not exist. So names carry nothing out: what the resolver sees are names that the operator has written, and how often.
//! Bounded in size, number, rate and time (`room.rs`). Addresses in answers lead to the target that the name is of
//! ([`Names::learned`]).
//!
//! Who asks is what the kernel recorded when the question left the agent's socket: a question that nobody of the governed
//! has sent is refused.
//!
//! Not promised: DNS over TCP (that is a connection, and captured as one); secrecy of queries. When an agent asks, and for
//! which of the names that it may ask for, is told to the resolver.

mod query;
mod room;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aya::maps::MapError;
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use self::query::{Code, Query, addresses};
pub use self::room::MAX_IN_FLIGHT;
use self::room::{Room, Shares};
use super::kept::keep;
use super::listener::has_no_v6;
use super::maps::Askers;
use super::own::Own;
use super::{Config, Kept, Origin, sys};

/// Bytes of a query at most; longer ones are dropped.
pub const MAX_QUERY: usize = 1232;
/// Bytes of an answer at most; longer ones are dropped.
pub const MAX_ANSWER: usize = 4096;
/// How long an answer is waited for.
pub const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Answers with a wrong id or question that one query puts up with.
const MAX_STRAYS: u32 = 16;
/// Tries to find one port that is free in both families.
const PORT_TRIES: u32 = 16;
/// Pause after a receive error, so that a lasting one does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// Types of records that may be asked for: addresses, aliases, and where a service is.
const KINDS: &[u16] = &[1, 28, 5, 33, 64, 65];

/// Who knows which names may be asked for, and is told what becomes of them.
pub trait Names: fmt::Debug + Send + Sync {
    /// Whether a name (lower case, without a last dot) is one of a target's.
    fn covers(&self, name: &str) -> bool;

    /// A name was asked for.
    fn asked(&self, question: Asked);

    /// A covered name has these addresses, each for so long.
    fn learned(&self, name: &str, addresses: &[(IpAddr, Duration)]);
}

/// A question of an agent's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Who asked, and which resolver it meant; nobody where that is not known.
    pub asker: Option<Origin>,
    /// Lower case, without a last dot.
    pub name: String,
    /// Type of the records.
    pub kind: u16,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fate {
    /// The resolver is asked.
    PassedOn,
    /// The name is not covered: it does not exist.
    Uncovered,
    /// Records of that type are not asked for: there are none.
    Kind,
    /// Too many questions.
    Limited,
    /// Nobody who is governed has asked.
    Unknown,
}

impl Fate {
    /// In one word, as recordings have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PassedOn => "passed on",
            Self::Uncovered => "not covered",
            Self::Kind => "not of that type",
            Self::Limited => "too many",
            Self::Unknown => "asked by nobody who is known",
        }
    }
}

/// The relay's sockets.
#[derive(Debug)]
pub struct Relay {
    v4: Arc<UdpSocket>,
    v6: Option<Arc<UdpSocket>>,
    /// Cookie of its network namespace.
    netns: u64,
    room: Room,
    common: Likeness,
    /// What the service manager does not keep yet.
    unkept: Vec<&'static str>,
}

/// The relays of all network namespaces, but for their sockets.
#[derive(Clone, Debug)]
pub(super) struct Likeness(Arc<Common>);

#[derive(Debug)]
struct Common {
    port: u16,
    resolver: SocketAddr,
    upstream: SocketAddr,
    allowed: Vec<String>,
    search: Vec<String>,
    askers: OnceLock<Box<dyn Askers>>,
    shares: Arc<Shares>,
}

impl Likeness {
    fn new(config: &Config, resolver: SocketAddr, port: u16) -> Self {
        Self(Arc::new(Common {
            port,
            resolver,
            upstream: config.dns_upstream.unwrap_or(resolver),
            allowed: config.dns_names.clone(),
            search: config.search(),
            askers: OnceLock::new(),
            shares: Arc::default(),
        }))
    }

    pub(super) fn port(&self) -> u16 {
        self.0.port
    }

    /// A relay of another network namespace, from sockets that were made there. It asks from the daemon's own. Call it
    /// inside a tokio runtime.
    ///
    /// # Errors
    /// When the sockets cannot be waited for.
    pub(super) fn within(
        &self,
        (v4, v6): (std::net::UdpSocket, Option<std::net::UdpSocket>),
        questions: Arc<Semaphore>,
    ) -> io::Result<Relay> {
        let v6 = v6.map(UdpSocket::from_std).transpose()?.map(Arc::new);
        let v4 = Arc::new(UdpSocket::from_std(v4)?);
        Ok(Relay::of((v4, v6), Room::away(questions), self.clone(), Vec::new()))
    }
}

/// Names under which the service manager keeps the sockets.
const KEPT_V4: &str = "dns4";
const KEPT_V6: &str = "dns6";

impl Relay {
    /// Binds the configured port on both loopback addresses; nothing when the configuration turns UDP off. Call it
    /// inside a tokio runtime.
    ///
    /// # Errors
    /// When the port is taken, or the system's resolver cannot be found.
    pub fn bind(config: &Config) -> io::Result<Option<Self>> {
        let Some(resolver) = config.resolver()? else { return Ok(None) };
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..PORT_TRIES {
            match bind_port(config.dns_port) {
                Err(error) if config.dns_port == 0 && error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(error),
                Ok((sockets, port)) => {
                    let common = Likeness::new(config, resolver, port);
                    return Ok(Some(Self::of(sockets, Room::home(), common, vec![KEPT_V4, KEPT_V6])));
                }
            }
        }
        Err(last)
    }

    fn of((v4, v6): Sockets, room: Room, common: Likeness, unkept: Vec<&'static str>) -> Self {
        // Where the kernel (before 5.14) does not tell, no question is known to be anybody's.
        let netns = sys::socket_option(v4.as_fd(), libc::SO_NETNS_COOKIE).unwrap_or(0);
        Self { v4, v6, netns, room, common, unkept }
    }

    /// As [`Self::bind`], but goes on with the sockets that the service manager kept.
    ///
    /// # Errors
    /// When the port is taken, or the system's resolver cannot be found.
    pub async fn take_over(config: &Config, kept: &mut Kept) -> io::Result<Option<Self>> {
        let Some(resolver) = config.resolver()? else { return Ok(None) };
        let Some(v4) = kept.datagrams(KEPT_V4, (Ipv4Addr::LOCALHOST, config.dns_port).into()) else {
            kept.discard(KEPT_V6);
            return kept.anew(|| Self::bind(config)).await;
        };
        let port = v4.local_addr()?.port();
        let address = (Ipv6Addr::LOCALHOST, port).into();
        let (v6, unkept) = match kept.datagrams(KEPT_V6, address) {
            Some(v6) => (Some(Arc::new(v6)), Vec::new()),
            None => match kept.anew(|| socket(address)).await {
                Ok(v6) => (Some(Arc::new(v6)), vec![KEPT_V6]),
                Err(error) if has_no_v6(&error) => (None, Vec::new()),
                Err(error) => return Err(error),
            },
        };
        let common = Likeness::new(config, resolver, port);
        Ok(Some(Self::of((Arc::new(v4), v6), Room::home(), common, unkept)))
    }

    /// Makes the sockets known to the kernel programs, and lets those who ask be found from now on.
    pub(super) fn arm(&self, own: &mut Own, askers: Box<dyn Askers>) -> Result<(), MapError> {
        own.mark(&*self.v4)?;
        self.v6.iter().try_for_each(|v6| own.mark(&**v6))?;
        let _already = self.common.0.askers.set(askers);
        Ok(())
    }

    /// Has the service manager keep the sockets from now on.
    pub(super) fn keep(&self) {
        for name in &self.unkept {
            match (*name, &self.v6) {
                (KEPT_V4, _) => keep(name, &*self.v4),
                (_, Some(v6)) => keep(name, &**v6),
                (_, None) => {}
            }
        }
    }

    /// The port, in both families.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.common.port()
    }

    /// The resolver as agents know it.
    #[must_use]
    pub fn resolver(&self) -> SocketAddr {
        self.common.0.resolver
    }

    /// What relays of other network namespaces are to be like.
    pub(super) fn likeness(&self) -> Likeness {
        self.common.clone()
    }

    /// Relays until dropped.
    pub async fn run(&self, names: Arc<dyn Names>) {
        let v6 = async {
            match &self.v6 {
                Some(socket) => self.serve(socket, &names).await,
                None => std::future::pending().await,
            }
        };
        tokio::join!(self.serve(&self.v4, &names), v6);
    }

    async fn serve(&self, socket: &Arc<UdpSocket>, names: &Arc<dyn Names>) {
        let mut buffer = vec![0; MAX_QUERY + 1];
        loop {
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "DNS relay: receiving");
                    tokio::time::sleep(ERROR_PAUSE).await;
                    continue;
                }
            };
            let Some(query) = buffer.get(..length).filter(|_| length <= MAX_QUERY).and_then(Query::read) else {
                continue;
            };
            self.answer(socket, query, client, names).await;
        }
    }

    /// Answers itself, or has the resolver asked.
    async fn answer(&self, socket: &Arc<UdpSocket>, query: Query, client: SocketAddr, names: &Arc<dyn Names>) {
        let refuse = async |code| {
            // A lost refusal is asked for again.
            let _lost = socket.send_to(&query.refusal(code), client).await;
        };
        if !query.is_lookup() {
            return refuse(Code::Refused).await;
        }
        let asker = socket.local_addr().ok().and_then(|relay| self.asker(client, relay));
        let (fate, target) = self.judge(&query, names.as_ref(), asker.as_ref());
        let cgroup = asker.as_ref().map_or(0, |asker| asker.cgroup);
        names.asked(Asked { asker, name: query.name.clone(), kind: query.kind, fate });
        match fate {
            Fate::Uncovered => return refuse(Code::NoName).await,
            Fate::Kind => return refuse(Code::NoData).await,
            Fate::Unknown => return refuse(Code::Refused).await,
            Fate::Limited => return,
            Fate::PassedOn => {}
        }
        // No room: the client asks again.
        let Some(seat) = self.room.take(&self.common.0.shares, cgroup) else { return };
        let (socket, upstream, names) = (Arc::clone(socket), self.common.0.upstream, Arc::clone(names));
        tokio::spawn(async move {
            match timeout(ANSWER_TIME, ask(upstream, &query)).await {
                Ok(Ok(answer)) => {
                    if let Some(target) = target {
                        names.learned(&target, &addresses(&answer));
                    }
                    // A client that is gone is no fault.
                    let _lost = socket.send_to(&query.restored(answer), client).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "DNS relay: asking"),
                Err(_) => tracing::debug!("DNS relay: no answer in time"),
            }
            drop(seat);
        });
    }

    /// Who has asked, as the kernel says. What cannot be read is nobody.
    fn asker(&self, client: SocketAddr, relay: SocketAddr) -> Option<Origin> {
        match self.common.0.askers.get()?.of(self.netns, client, relay) {
            Ok(asker) => asker,
            Err(error) => {
                tracing::error!(%error, "DNS relay: who asks cannot be read");
                None
            }
        }
    }

    /// What becomes of a question, and the name of the target's that it is about.
    fn judge(&self, query: &Query, names: &dyn Names, asker: Option<&Origin>) -> (Fate, Option<String>) {
        let Common { search, allowed, shares, .. } = &*self.common.0;
        let Some(asker) = asker else { return (Fate::Unknown, None) };
        // A short name is asked for with each of the search domains, too.
        let suffixes = search.iter().filter_map(|suffix| query.name.strip_suffix(suffix.as_str())?.strip_suffix('.'));
        let target = std::iter::once(query.name.as_str()).chain(suffixes).find(|name| names.covers(name));
        let is_allowed = || allowed.iter().any(|pattern| matches(pattern, &query.name));
        let fate = match () {
            () if target.is_none() && !is_allowed() => Fate::Uncovered,
            () if !KINDS.contains(&query.kind) => Fate::Kind,
            () if !shares.spend(asker.cgroup, Instant::now()) => Fate::Limited,
            () => Fate::PassedOn,
        };
        (fate, target.map(str::to_owned))
    }
}

/// Whether a name is the pattern's, or below it where that begins with `*.`.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(parent) => name.strip_suffix(parent).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        None => pattern == name,
    }
}

type Sockets = (Arc<UdpSocket>, Option<Arc<UdpSocket>>);

fn bind_port(port: u16) -> io::Result<(Sockets, u16)> {
    let v4 = Arc::new(socket((Ipv4Addr::LOCALHOST, port).into())?);
    let port = v4.local_addr()?.port();
    let v6 = match socket((Ipv6Addr::LOCALHOST, port).into()) {
        Ok(socket) => Some(Arc::new(socket)),
        Err(error) if has_no_v6(&error) => None,
        Err(error) => return Err(error),
    };
    Ok(((v4, v6), port))
}

fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

async fn ask(upstream: SocketAddr, query: &Query) -> io::Result<Vec<u8>> {
    let any: SocketAddr =
        if upstream.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = socket(any)?;
    socket.connect(upstream).await?;
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    let id = u16::from_be_bytes(id);
    socket.send(&query.anew(id)).await?;
    let mut buffer = vec![0; MAX_ANSWER + 1];
    for _ in 0..MAX_STRAYS {
        let length = socket.recv(&mut buffer).await?;
        if length <= MAX_ANSWER
            && let Some(answer) = buffer.get(..length)
            && query.is_answered_by(id, answer)
        {
            return Ok(answer.to_vec());
        }
    }
    Err(io::Error::other("only answers to other questions came"))
}

/// Every name may be asked for, and nobody is told: for tests.
#[cfg(any(test, feature = "testing"))]
#[derive(Clone, Copy, Debug)]
pub struct AnyName;

#[cfg(any(test, feature = "testing"))]
impl Names for AnyName {
    fn covers(&self, _name: &str) -> bool {
        true
    }

    fn asked(&self, _question: Asked) {}

    fn learned(&self, _name: &str, _addresses: &[(IpAddr, Duration)]) {}
}

#[cfg(test)]
mod tests {
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
        learned: Mutex<Vec<(String, IpAddr)>>,
    }

    impl Names for Two {
        fn covers(&self, name: &str) -> bool {
            matches!(name, "db" | "db.internal")
        }

        fn asked(&self, question: Asked) {
            self.asked.lock().push(question);
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

    async fn relay(upstream: &UdpSocket, names: Arc<dyn Names>) -> UdpSocket {
        let config = Config {
            dns_port: 0,
            resolver: super::super::Resolver::At("192.0.2.1:53".parse().unwrap()),
            dns_upstream: Some(upstream.local_addr().unwrap()),
            dns_names: vec!["api.example".into(), "*.corp.example".into()],
            ..Config::default()
        };
        let mut relay = Relay::bind(&config).unwrap().unwrap();
        Arc::get_mut(&mut relay.common.0).unwrap().search = vec!["lan.example".into()];
        relay.common.0.askers.set(Box::new(ByPort)).unwrap();
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
}
