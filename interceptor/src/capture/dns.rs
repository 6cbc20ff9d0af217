//! The DNS relay: governed processes resolve the names of targets, and what else the operator allows, and nothing more.
//!
//! The kernel sends what agents address to their resolver here. A question about a name that is covered is asked anew, from
//! a socket of its own: a random source port and id, connected, so that only the resolver can answer. All other names do
//! not exist. So names carry nothing out: what the resolver sees are names that the operator has written, and how often.
//! Where he has written a wildcard, agents make names up: what they can say by that is bounded in bytes (`labels.rs`). What
//! is asked again is answered from memory for as long as the answer holds (`answers.rs`). Bounded in size, number, rate and
//! time (`room.rs`). Addresses in answers lead to the target that the name is of ([`Names::learned`]).
//!
//! Who asks is what the kernel recorded when the question left the agent's socket: a question that nobody of the governed
//! has sent is refused.
//!
//! Not promised: DNS over TCP (that is a connection, and captured as one); secrecy of queries. When an agent asks, and for
//! which of the names that it may ask for, is told to the resolver, once for each time that an answer holds: of names that
//! are written out, and whose answers do not hold, 100 choices a second.

mod answers;
mod labels;
mod query;
mod room;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aya::maps::MapError;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use self::answers::Answers;
use self::labels::Labels;
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

    /// A name was asked for, of which nothing leaves.
    fn asked(&self, question: Asked);

    /// A name is about to be asked for. Resolves once that is on record: false where it cannot be, and then nothing leaves.
    fn passing(&self, question: Asked) -> BoxFuture<'_, bool>;

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
    /// Answered as before, without asking the resolver.
    Again,
    /// Only a wildcard covers the name, and it is no name that people give.
    Wordy,
    /// Only a wildcard covers the name, and enough was said in such names.
    Spent,
    /// Nobody who is governed has asked.
    Unknown,
}

impl Fate {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::PassedOn,
        Self::Uncovered,
        Self::Kind,
        Self::Limited,
        Self::Again,
        Self::Wordy,
        Self::Spent,
        Self::Unknown,
    ];

    /// In one word, as recordings have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PassedOn => "passed on",
            Self::Uncovered => "not covered",
            Self::Kind => "not of that type",
            Self::Limited => "too many",
            Self::Again => "answered as before",
            Self::Wordy => "too long, or too many labels, below a wildcard",
            Self::Spent => "too much said in names below wildcards",
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
    labels: Labels,
    answers: Answers,
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
            labels: Labels::new(config.dns_label_bytes),
            answers: Answers::default(),
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
        let cover = self.cover(&query, names.as_ref());
        let (fate, known) = self.judge(&query, cover, asker.as_ref());
        let cgroup = asker.as_ref().map_or(0, |asker| asker.cgroup);
        let asked = Asked { asker, name: query.name.clone(), kind: query.kind, fate };
        let code = match fate {
            Fate::Uncovered => Some(Code::NoName),
            Fate::Kind => Some(Code::NoData),
            Fate::Unknown | Fate::Wordy | Fate::Spent => Some(Code::Refused),
            Fate::Limited | Fate::Again | Fate::PassedOn => None,
        };
        if let Some(code) = code {
            names.asked(asked);
            return refuse(code).await;
        }
        if fate == Fate::Limited {
            return names.asked(asked);
        }
        let target = match cover {
            Some(Cover::Target(name)) => Some(name.to_owned()),
            Some(Cover::Written | Cover::Below(_)) | None => None,
        };
        if let Some(known) = known {
            names.asked(asked);
            // The agent may connect for as long as it is told, and a little longer.
            if let Some(target) = &target {
                names.learned(target, &addresses(&known));
            }
            // As a refusal: what is lost is asked for again.
            let _lost = socket.send_to(&query.restored(known), client).await;
            return;
        }
        // No room: the client asks again.
        let Some(seat) = self.room.take(&self.common.0.shares, cgroup) else {
            return names.asked(Asked { fate: Fate::Limited, ..asked });
        };
        let (socket, common, names) = (Arc::clone(socket), Arc::clone(&self.common.0), Arc::clone(names));
        tokio::spawn(async move {
            if !timeout(ANSWER_TIME, names.passing(asked)).await.unwrap_or(false) {
                let _lost = socket.send_to(&query.refusal(Code::Failure), client).await;
                return;
            }
            match timeout(ANSWER_TIME, ask(common.upstream, &query)).await {
                Ok(Ok(answer)) => {
                    if let Some(target) = target {
                        names.learned(&target, &addresses(&answer));
                    }
                    common.answers.keep(cgroup, &query, &answer, Instant::now());
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

    /// What covers a name; nothing where it may not be asked for.
    fn cover<'a>(&self, query: &'a Query, names: &dyn Names) -> Option<Cover<'a>> {
        let Common { search, allowed, .. } = &*self.common.0;
        let name = query.name.as_str();
        // A short name is asked for with each of the search domains, too.
        let suffixes = search.iter().filter_map(|suffix| name.strip_suffix(suffix.as_str())?.strip_suffix('.'));
        if let Some(target) = std::iter::once(name).chain(suffixes).find(|name| names.covers(name)) {
            return Some(Cover::Target(target));
        }
        if allowed.iter().any(|written| written == name) {
            return Some(Cover::Written);
        }
        let below = allowed.iter().filter_map(|pattern| labels::below(pattern, name));
        below.min_by_key(|labels| labels.len()).map(Cover::Below)
    }

    /// What becomes of a question, and the answer where that is known.
    fn judge(&self, query: &Query, cover: Option<Cover<'_>>, asker: Option<&Origin>) -> (Fate, Option<Vec<u8>>) {
        let Common { shares, labels, answers, .. } = &*self.common.0;
        let (Some(asker), now) = (asker, Instant::now()) else { return (Fate::Unknown, None) };
        let cgroup = asker.cgroup;
        match cover {
            None => return (Fate::Uncovered, None),
            _ if !KINDS.contains(&query.kind) => return (Fate::Kind, None),
            Some(Cover::Below(below)) if !labels::are_plain(below) => return (Fate::Wordy, None),
            _ if !shares.spend(cgroup, now) => return (Fate::Limited, None),
            Some(_) => {}
        }
        let known = answers.find(cgroup, query, now);
        let fate = match cover {
            _ if known.is_some() => Fate::Again,
            Some(Cover::Below(below)) if !labels.spend(cgroup, &query.name, below, now) => Fate::Spent,
            _ => Fate::PassedOn,
        };
        (fate, known)
    }
}

/// Why a name may be asked for.
#[derive(Clone, Copy, Debug)]
enum Cover<'a> {
    /// It is one of a target's, this one.
    Target(&'a str),
    /// The operator has written it.
    Written,
    /// It is below a name that the operator has written, with these labels more.
    Below(&'a str),
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

    fn passing(&self, _question: Asked) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }

    fn learned(&self, _name: &str, _addresses: &[(IpAddr, Duration)]) {}
}

#[cfg(test)]
mod tests;
