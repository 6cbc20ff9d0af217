//! The DNS relay: governed processes resolve names, and nothing else, over UDP.
//!
//! The kernel sends what agents address to their resolver here. A query is passed on as it is, from a socket of its own:
//! a random source port, connected, so that only the resolver can answer. The answer goes back when its id and its
//! question are the query's. Bounded in size, number and time.
//!
//! Not promised: DNS over TCP (that is a connection, and captured as one); judging names; secrecy of queries. Names can
//! carry data out: what leaves this way is for the resolver to limit.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Config;
use super::listener::has_no_v6;

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

const HEADER: usize = 12;
const REFUSED: u8 = 5;

/// The relay's sockets.
#[derive(Debug)]
pub struct Relay {
    v4: Arc<UdpSocket>,
    v6: Option<Arc<UdpSocket>>,
    port: u16,
    resolver: SocketAddr,
    upstream: SocketAddr,
}

impl Relay {
    /// Binds the configured port on both loopback addresses; nothing when the configuration turns UDP off. Call it
    /// inside a tokio runtime, from within the daemon's cgroup.
    ///
    /// # Errors
    /// When the port is taken, or the system's resolver cannot be found.
    pub fn bind(config: &Config) -> io::Result<Option<Self>> {
        let Some(resolver) = config.resolver()? else { return Ok(None) };
        let upstream = config.dns_upstream.unwrap_or(resolver);
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..PORT_TRIES {
            match Self::bind_port(config.dns_port, resolver, upstream) {
                Err(error) if config.dns_port == 0 && error.kind() == io::ErrorKind::AddrInUse => last = error,
                other => return other.map(Some),
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
        Ok(Self { v4, v6, port, resolver, upstream })
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

    /// Relays until dropped.
    pub async fn run(&self) {
        let room = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        let v6 = async {
            match &self.v6 {
                Some(socket) => self.serve(socket, &room).await,
                None => std::future::pending().await,
            }
        };
        tokio::join!(self.serve(&self.v4, &room), v6);
    }

    async fn serve(&self, socket: &Arc<UdpSocket>, room: &Arc<Semaphore>) {
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
            if !query.is_lookup() {
                // A lost refusal is asked for again.
                let _lost = socket.send_to(&query.refusal(), client).await;
                continue;
            }
            // No room: the client asks again.
            let Ok(seat) = Arc::clone(room).try_acquire_owned() else { continue };
            let (socket, upstream) = (Arc::clone(socket), self.upstream);
            tokio::spawn(async move {
                match timeout(ANSWER_TIME, ask(upstream, &query)).await {
                    Ok(Ok(answer)) => {
                        // A client that is gone is no fault.
                        let _lost = socket.send_to(&answer, client).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%error, "DNS relay: asking"),
                    Err(_) => tracing::debug!("DNS relay: no answer in time"),
                }
                drop(seat);
            });
        }
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
    socket.send(&query.0).await?;
    let mut buffer = vec![0; MAX_ANSWER + 1];
    for _ in 0..MAX_STRAYS {
        let length = socket.recv(&mut buffer).await?;
        if length <= MAX_ANSWER
            && let Some(answer) = buffer.get(..length)
            && query.is_answered_by(answer)
        {
            return Ok(answer.to_vec());
        }
    }
    Err(io::Error::other("only answers to other questions came"))
}

/// A well-formed query: header and exactly one question.
#[derive(Clone, Debug)]
struct Query(Vec<u8>);

impl Query {
    fn read(bytes: &[u8]) -> Option<Self> {
        let is_query = bytes.get(2)? & 0x80 == 0;
        (is_query && question(bytes).is_some()).then(|| Self(bytes.to_vec()))
    }

    /// Opcode 0; updates, notifications and the like are not relayed.
    fn is_lookup(&self) -> bool {
        self.0.get(2).is_some_and(|flags| flags & 0x78 == 0)
    }

    fn refusal(&self) -> Vec<u8> {
        let mut answer = self.0.get(..HEADER).unwrap_or_default().to_vec();
        for (index, byte) in answer.iter_mut().enumerate() {
            *byte = match index {
                0 | 1 => *byte,
                2 => (*byte & 0x79) | 0x80,
                3 => REFUSED,
                _ => 0,
            };
        }
        answer
    }

    fn is_answered_by(&self, answer: &[u8]) -> bool {
        let is_answer = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
        let same_id = answer.get(..2) == self.0.get(..2);
        let asked = question(&self.0);
        // Servers may leave the question out of an error.
        let no_question = answer.get(4..6) == Some(&[0, 0]) && answer.get(3).is_some_and(|code| code & 0x0f != 0);
        let same_question = match (asked, question(answer)) {
            (Some(asked), Some(answered)) => asked.eq_ignore_ascii_case(answered),
            _ => false,
        };
        is_answer && same_id && (same_question || no_question)
    }
}

/// The bytes of the only question: name, type, class.
fn question(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = HEADER;
    loop {
        let label = usize::from(*bytes.get(at)?);
        at += 1;
        match label {
            0 => return bytes.get(HEADER..at + 4).filter(|question| question.len() <= 255 + 4),
            // A question's name is not compressed.
            64.. => return None,
            _ => at += label,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn query(id: u16, flags: u8, name: &str) -> Vec<u8> {
        let mut bytes = id.to_be_bytes().to_vec();
        bytes.extend([flags, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.extend([0, 0, 1, 0, 1]);
        bytes
    }

    async fn relay(upstream: &UdpSocket) -> (Arc<Relay>, UdpSocket) {
        let config = Config {
            dns_port: 0,
            resolver: super::super::Resolver::At("192.0.2.1:53".parse().unwrap()),
            dns_upstream: Some(upstream.local_addr().unwrap()),
            ..Config::default()
        };
        let relay = Arc::new(Relay::bind(&config).unwrap().unwrap());
        let running = Arc::clone(&relay);
        tokio::spawn(async move { running.run().await });
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(("127.0.0.1", relay.port())).await.unwrap();
        (relay, client)
    }

    #[tokio::test]
    async fn answers_come_back_and_strays_do_not() {
        let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (_relay, client) = relay(&upstream).await;
        let asked = query(7, 1, "orders-db.internal");
        client.send(&asked).await.unwrap();
        let mut buffer = [0; 600];
        let (length, from) = upstream.recv_from(&mut buffer).await.unwrap();
        assert_eq!(buffer.get(..length).unwrap(), asked);
        upstream.send_to(&query(8, 0x81, "orders-db.internal"), from).await.unwrap();
        upstream.send_to(&query(7, 0x81, "evil.internal"), from).await.unwrap();
        upstream.send_to(&query(7, 0x01, "orders-db.internal"), from).await.unwrap();
        let right = query(7, 0x81, "ORDERS-db.internal");
        upstream.send_to(&right, from).await.unwrap();
        let length = client.recv(&mut buffer).await.unwrap();
        assert_eq!(buffer.get(..length).unwrap(), right);
    }

    #[tokio::test]
    async fn what_is_no_lookup_never_reaches_the_resolver() {
        let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (_relay, client) = relay(&upstream).await;
        let long = query(1, 1, &vec!["a".repeat(63); 20].join("."));
        assert!(long.len() > MAX_QUERY);
        for dropped in [b"short".to_vec(), query(2, 0x81, "answer"), long] {
            client.send(&dropped).await.unwrap();
        }
        client.send(&query(3, 5 << 3, "update")).await.unwrap();
        let mut buffer = [0; 600];
        let length = client.recv(&mut buffer).await.unwrap();
        assert_eq!(buffer.get(..length).unwrap(), [0, 3, 0x80 | (5 << 3), REFUSED, 0, 0, 0, 0, 0, 0, 0, 0]);
        client.send(&query(4, 1, "lookup")).await.unwrap();
        let length = upstream.recv(&mut buffer).await.unwrap();
        assert_eq!(buffer.get(..length).unwrap(), query(4, 1, "lookup"));
    }

    #[tokio::test]
    async fn queries_in_flight_are_bounded() {
        let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (_relay, client) = relay(&upstream).await;
        let (mut arrived, mut buffer) = (0, [0; 600]);
        for id in 0..u16::try_from(MAX_IN_FLIGHT + 64).unwrap() {
            client.send(&query(id, 1, "a")).await.unwrap();
            // One at a time, so that no socket buffer is what bounds them.
            if timeout(Duration::from_millis(200), upstream.recv(&mut buffer)).await.is_ok() {
                arrived += 1;
            } else {
                break;
            }
        }
        assert_eq!(arrived, MAX_IN_FLIGHT);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Some(read) = Query::read(&bytes) {
                prop_assert_eq!(read.refusal().len(), HEADER);
                prop_assert!(!read.is_answered_by(&bytes));
            }
        }
    }
}
