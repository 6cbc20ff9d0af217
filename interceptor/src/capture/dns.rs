//! The DNS relay: governed processes resolve the names of targets, and what else the operator allows, and nothing more.
//!
//! The kernel sends what agents address to their resolver here. A question about a name that is covered is asked anew, from
//! a socket of its own: a random source port and id, connected, so that only the resolver can answer. All other names do
//! not exist. So names carry nothing out: what the resolver sees are names that the operator has written, and how often.
//! Bounded in size, number, rate and time. Addresses in answers lead to the target that the name is of ([`Names::learned`]).
//!
//! Not promised: DNS over TCP (that is a connection, and captured as one); secrecy of queries. When an agent asks, and for
//! which of the names that it may ask for, is told to the resolver.

mod query;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aya::maps::MapError;
use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use self::query::{Code, Query, addresses};
use super::budget::Budget;
use super::kept::keep;
use super::listener::has_no_v6;
use super::own::Own;
use super::{Config, Kept};

/// Queries in flight at once; more are dropped, and clients ask again.
pub const MAX_IN_FLIGHT: usize = 512;
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

/// Questions a second that are passed on, on average, and at once; more are dropped, and clients ask again.
const RATE: u32 = 100;
const BURST: u32 = 400;
/// Queries in flight at once in one network namespace that is not the daemon's.
const NAMESPACE_IN_FLIGHT: usize = 32;

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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// Lower case, without a last dot.
    pub name: String,
    /// Type of the records.
    pub kind: u16,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// The resolver is asked.
    PassedOn,
    /// The name is not covered: it does not exist.
    Uncovered,
    /// Records of that type are not asked for: there are none.
    Kind,
    /// Too many questions.
    Limited,
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
        }
    }
}

/// The relay's sockets.
#[derive(Debug)]
pub struct Relay {
    v4: Arc<UdpSocket>,
    v6: Option<Arc<UdpSocket>>,
    port: u16,
    resolver: SocketAddr,
    upstream: SocketAddr,
    allowed: Vec<String>,
    search: Vec<String>,
    room: Room,
    /// What the service manager does not keep yet.
    unkept: Vec<&'static str>,
}

/// How many queries may be in flight.
#[derive(Clone, Debug)]
struct Room {
    own: Arc<Semaphore>,
    /// With the relays of other network namespaces together.
    shared: Option<Arc<Semaphore>>,
}

/// The relays of all network namespaces, but for their sockets.
#[derive(Clone, Debug)]
pub(super) struct Likeness {
    port: u16,
    resolver: SocketAddr,
    upstream: SocketAddr,
    allowed: Vec<String>,
    search: Vec<String>,
}

impl Likeness {
    pub(super) const fn port(&self) -> u16 {
        self.port
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
        let Self { port, resolver, upstream, allowed, search } = self.clone();
        let v6 = v6.map(UdpSocket::from_std).transpose()?.map(Arc::new);
        let room = Room { own: Arc::new(Semaphore::new(NAMESPACE_IN_FLIGHT)), shared: Some(questions) };
        Ok(Relay {
            v4: Arc::new(UdpSocket::from_std(v4)?),
            v6,
            port,
            resolver,
            upstream,
            allowed,
            search,
            room,
            unkept: Vec::new(),
        })
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
        let upstream = config.dns_upstream.unwrap_or(resolver);
        let search = config.search();
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..PORT_TRIES {
            match Self::bind_port(config.dns_port, resolver, upstream) {
                Err(error) if config.dns_port == 0 && error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(error),
                Ok(bound) => return Ok(Some(Self { allowed: config.dns_names.clone(), search, ..bound })),
            }
        }
        Err(last)
    }

    fn bind_port(port: u16, resolver: SocketAddr, upstream: SocketAddr) -> io::Result<Self> {
        let v4 = Arc::new(socket((Ipv4Addr::LOCALHOST, port).into())?);
        let port = v4.local_addr()?.port();
        let v6 = match socket((Ipv6Addr::LOCALHOST, port).into()) {
            Ok(socket) => Some(Arc::new(socket)),
            Err(error) if has_no_v6(&error) => None,
            Err(error) => return Err(error),
        };
        let unkept = vec![KEPT_V4, KEPT_V6];
        let room = Room { own: Arc::new(Semaphore::new(MAX_IN_FLIGHT)), shared: None };
        Ok(Self { v4, v6, port, resolver, upstream, allowed: Vec::new(), search: Vec::new(), room, unkept })
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
        let upstream = config.dns_upstream.unwrap_or(resolver);
        let (allowed, search) = (config.dns_names.clone(), config.search());
        let room = Room { own: Arc::new(Semaphore::new(MAX_IN_FLIGHT)), shared: None };
        Ok(Some(Self { v4: Arc::new(v4), v6, port, resolver, upstream, allowed, search, room, unkept }))
    }

    /// Makes the sockets known to the kernel programs.
    pub(super) fn arm(&self, own: &mut Own) -> Result<(), MapError> {
        own.mark(&*self.v4)?;
        self.v6.iter().try_for_each(|v6| own.mark(&**v6))
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
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The resolver as agents know it.
    #[must_use]
    pub const fn resolver(&self) -> SocketAddr {
        self.resolver
    }

    /// What relays of other network namespaces are to be like.
    pub(super) fn likeness(&self) -> Likeness {
        Likeness {
            port: self.port,
            resolver: self.resolver,
            upstream: self.upstream,
            allowed: self.allowed.clone(),
            search: self.search.clone(),
        }
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
        let mut budget = Budget::new(RATE, BURST, Instant::now());
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
            if !query.is_lookup() {
                // A lost refusal is asked for again.
                let _lost = socket.send_to(&query.refusal(Code::Refused), client).await;
                continue;
            }
            let (fate, target) = self.judge(&query, names.as_ref(), &mut budget);
            names.asked(Asked { name: query.name.clone(), kind: query.kind, fate });
            let refused = match fate {
                Fate::PassedOn => None,
                Fate::Uncovered => Some(Code::NoName),
                Fate::Kind => Some(Code::NoData),
                Fate::Limited => continue,
            };
            if let Some(code) = refused {
                let _lost = socket.send_to(&query.refusal(code), client).await;
                continue;
            }
            // No room: the client asks again.
            let Some(seat) = self.room.take() else { continue };
            let (socket, upstream, names) = (Arc::clone(socket), self.upstream, Arc::clone(names));
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
    }

    /// What becomes of a question, and the name of the target's that it is about.
    fn judge(&self, query: &Query, names: &dyn Names, budget: &mut Budget) -> (Fate, Option<String>) {
        // A short name is asked for with each of the search domains, too.
        let suffixes =
            self.search.iter().filter_map(|suffix| query.name.strip_suffix(suffix.as_str())?.strip_suffix('.'));
        let target = std::iter::once(query.name.as_str()).chain(suffixes).find(|name| names.covers(name));
        let allowed = || self.allowed.iter().any(|pattern| matches(pattern, &query.name));
        let fate = match () {
            () if target.is_none() && !allowed() => Fate::Uncovered,
            () if !KINDS.contains(&query.kind) => Fate::Kind,
            () if !budget.take(Instant::now()) => Fate::Limited,
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

impl Room {
    /// Room for one more, given back when dropped.
    fn take(&self) -> Option<(OwnedSemaphorePermit, Option<OwnedSemaphorePermit>)> {
        let own = Arc::clone(&self.own).try_acquire_owned().ok()?;
        let shared = match &self.shared {
            Some(shared) => Some(Arc::clone(shared).try_acquire_owned().ok()?),
            None => None,
        };
        Some((own, shared))
    }
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

    async fn relay(upstream: &UdpSocket, names: Arc<dyn Names>) -> UdpSocket {
        let config = Config {
            dns_port: 0,
            resolver: super::super::Resolver::At("192.0.2.1:53".parse().unwrap()),
            dns_upstream: Some(upstream.local_addr().unwrap()),
            dns_names: vec!["api.example".into(), "*.corp.example".into()],
            ..Config::default()
        };
        let relay = Relay { search: vec!["lan.example".into()], ..Relay::bind(&config).unwrap().unwrap() };
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(("127.0.0.1", relay.port())).await.unwrap();
        tokio::spawn(async move { relay.run(names).await });
        client
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
    async fn queries_in_flight_and_their_rate_are_bounded() {
        let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let client = relay(&upstream, Arc::new(AnyName)).await;
        let (mut arrived, mut buffer) = (0, [0; 600]);
        for id in 0..u16::try_from(MAX_IN_FLIGHT + 64).unwrap() {
            client.send(&query(id, 1, "a", 1)).await.unwrap();
            // One at a time, so that no socket buffer is what bounds them.
            if timeout(Duration::from_millis(20), upstream.recv(&mut buffer)).await.is_ok() {
                arrived += 1;
            }
        }
        assert!((BURST..=MAX_IN_FLIGHT.try_into().unwrap()).contains(&arrived), "{arrived}");
    }

    #[test]
    fn a_budget_is_refilled() {
        let start = Instant::now();
        let mut budget = Budget::new(RATE, BURST, start);
        let taken = (0..1000).filter(|_| budget.take(start)).count();
        assert_eq!(taken, usize::try_from(BURST).unwrap());
        let later = start + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| budget.take(later)).count(), usize::try_from(RATE).unwrap());
    }
}
