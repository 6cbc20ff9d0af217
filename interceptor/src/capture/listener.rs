//! The listener: redirected connections, each with its record.
//!
//! Listens on 127.0.0.1 and ::1 with one port. It may listen before the programs are loaded: what arrives then has no
//! record and is closed.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::{Arc, OnceLock};

use aya::maps::MapError;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::kept::keep;
use super::maps::Records;
use super::netns::Probe;
use super::own::Own;
use super::{Captured, Config, Kept, Origin, sys};

/// Connections that wait for `accept` in each address family.
pub(super) const BACKLOG: u32 = 4096;
/// Tries to find one port that is free in both families.
const PORT_TRIES: u32 = 16;

/// Names under which the service manager keeps the sockets.
const KEPT_V4: &str = "proxy4";
const KEPT_V6: &str = "proxy6";

/// The proxy's listening sockets.
#[derive(Debug)]
pub struct Listener {
    v4: TcpListener,
    /// Missing on hosts without IPv6, where redirected IPv6 connections are refused.
    v6: Option<TcpListener>,
    port: u16,
    records: Arc<OnceLock<Records>>,
    /// What the service manager does not keep yet.
    unkept: Vec<&'static str>,
    /// It was taken over from an earlier run.
    kept: bool,
    /// In another network namespace than the daemon's: which addresses are its own.
    own: Option<Probe>,
}

/// What the listeners of all namespaces have in common.
#[derive(Clone, Debug)]
pub(super) struct Likeness {
    port: u16,
    records: Arc<OnceLock<Records>>,
}

/// Why an accepted connection was closed instead of handed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unrecorded {
    /// The kernel recorded nothing: the caller is not governed, and connected to the proxy by itself.
    #[error("{peer} came without a record of the kernel")]
    NoRecord {
        /// The other end.
        peer: SocketAddr,
    },
    /// A governed process asked for the proxy itself.
    #[error("process {} asked for the proxy itself", origin.pid)]
    ProxyItself {
        /// Who.
        origin: Box<Origin>,
    },
    /// The look-up failed.
    #[error("the record of {peer} could not be read: {reason}")]
    Unreadable {
        /// The other end.
        peer: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The programs are not loaded yet.
    #[error("{peer} came before the kernel programs were loaded")]
    NotArmed {
        /// The other end.
        peer: SocketAddr,
    },
}

impl Listener {
    /// Listens on the configured port of both loopback addresses. Call it inside a tokio runtime, from within the
    /// daemon's cgroup, whose program hands the records over.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn bind(config: &Config) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..PORT_TRIES {
            match Self::bind_port(config.proxy_port) {
                Err(error) if config.proxy_port == 0 && error.kind() == io::ErrorKind::AddrInUse => last = error,
                other => return other,
            }
        }
        Err(last)
    }

    fn bind_port(port: u16) -> io::Result<Self> {
        let v4 = listen((Ipv4Addr::LOCALHOST, port).into())?;
        let port = v4.local_addr()?.port();
        let v6 = match listen((Ipv6Addr::LOCALHOST, port).into()) {
            Ok(listener) => Some(listener),
            Err(error) if has_no_v6(&error) => None,
            Err(error) => return Err(error),
        };
        Ok(Self::of((v4, v6), port, vec![KEPT_V4, KEPT_V6], false))
    }

    fn of((v4, v6): (TcpListener, Option<TcpListener>), port: u16, unkept: Vec<&'static str>, kept: bool) -> Self {
        Self { v4, v6, port, records: Arc::default(), unkept, kept, own: None }
    }

    /// As [`Self::bind`], but goes on with the sockets that the service manager kept: what has connected since the last
    /// run waits in them.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn take_over(config: &Config, kept: &mut Kept) -> io::Result<Self> {
        let Some(v4) = kept.listener(KEPT_V4, (Ipv4Addr::LOCALHOST, config.proxy_port).into()) else {
            // One alone would not do.
            kept.discard(KEPT_V6);
            return kept.anew(|| Self::bind(config)).await;
        };
        let port = v4.local_addr()?.port();
        let address = (Ipv6Addr::LOCALHOST, port).into();
        let (v6, unkept) = match kept.listener(KEPT_V6, address) {
            Some(v6) => (Some(v6), Vec::new()),
            None => match kept.anew(|| listen(address)).await {
                Ok(v6) => (Some(v6), vec![KEPT_V6]),
                Err(error) if has_no_v6(&error) => (None, Vec::new()),
                Err(error) => return Err(error),
            },
        };
        Ok(Self::of((v4, v6), port, unkept, true))
    }

    /// Whether the sockets were made by an earlier run.
    pub(super) const fn is_kept(&self) -> bool {
        self.kept
    }

    /// Has the service manager keep the sockets from now on.
    pub(super) fn keep(&self) {
        for name in &self.unkept {
            match (*name, &self.v6) {
                (KEPT_V4, _) => keep(name, &self.v4),
                (_, Some(v6)) => keep(name, v6),
                (_, None) => {}
            }
        }
    }

    /// The port, in both families.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Waits for the next connection. The inner result says why one was closed; the caller records that and goes on.
    /// Cancel safe.
    ///
    /// # Errors
    /// When `accept(2)` fails: out of descriptors, mostly. The caller waits a little and tries again.
    pub async fn accept(&self) -> io::Result<Result<Captured, Unrecorded>> {
        let (stream, peer) = match &self.v6 {
            None => self.v4.accept().await?,
            Some(v6) => tokio::select! {
                accepted = self.v4.accept() => accepted?,
                accepted = v6.accept() => accepted?,
            },
        };
        Ok(self.attribute(stream, peer))
    }

    fn attribute(&self, stream: TcpStream, peer: SocketAddr) -> Result<Captured, Unrecorded> {
        let Some(records) = self.records.get() else { return Err(Unrecorded::NotArmed { peer }) };
        match records.of(&stream) {
            Err(error) => Err(Unrecorded::Unreadable { peer, reason: error.to_string() }),
            Ok(None) => Err(Unrecorded::NoRecord { peer }),
            Ok(Some(origin)) if is_proxy(origin.destination, self.port) => {
                Err(Unrecorded::ProxyItself { origin: Box::new(origin) })
            }
            Ok(Some(origin)) => {
                let own_address = self.own.as_ref().is_some_and(|probe| probe.is_own(origin.destination));
                Ok(Captured { stream, origin, own_address })
            }
        }
    }

    /// What listeners of other network namespaces are to be like.
    pub(super) fn likeness(&self) -> Likeness {
        Likeness { port: self.port, records: Arc::clone(&self.records) }
    }

    /// Cookie of its network namespace; 0 where the kernel (before 5.14) does not tell.
    pub(super) fn netns(&self) -> u64 {
        sys::socket_option(self.v4.as_fd(), libc::SO_NETNS_COOKIE).unwrap_or(0)
    }

    /// Makes the sockets known to the kernel programs, and lets records be found from now on.
    pub(super) fn arm(&self, records: Records, mut own: Own) -> Result<(), MapError> {
        own.mark(&self.v4)?;
        self.v6.iter().try_for_each(|v6| own.mark(v6))?;
        let _already = self.records.set(records);
        Ok(())
    }
}

impl Likeness {
    /// A listener of another network namespace, from sockets that were made and marked there. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// When they cannot be waited for.
    pub(super) fn within(
        &self,
        (v4, v6): (std::net::TcpListener, Option<std::net::TcpListener>),
        own: Probe,
    ) -> io::Result<Listener> {
        let (v4, v6) = (TcpListener::from_std(v4)?, v6.map(TcpListener::from_std).transpose()?);
        let records = Arc::clone(&self.records);
        Ok(Listener { v4, v6, port: self.port, records, unkept: Vec::new(), kept: false, own: Some(own) })
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }
}

/// Dialling such a destination would reach the proxy again, without end.
fn is_proxy(destination: SocketAddr, port: u16) -> bool {
    let ip = destination.ip().to_canonical();
    destination.port() == port && (ip.is_loopback() || ip.is_unspecified())
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for connections of the last run to leave TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Whether the error says that the host has no IPv6 loopback.
pub(super) fn has_no_v6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_programs_every_connection_is_closed() {
        let listener = Listener::bind(&Config { proxy_port: 0, ..Config::default() }).unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", listener.port())).await.unwrap();
        let refused = listener.accept().await.unwrap().unwrap_err();
        assert_eq!(refused, Unrecorded::NotArmed { peer: client.local_addr().unwrap() });
        let mut byte = [0];
        assert_eq!(tokio::io::AsyncReadExt::read(&mut client, &mut byte).await.unwrap(), 0);
    }

    #[test]
    fn the_proxy_itself_is_known_under_all_its_names() {
        for text in ["127.0.0.1:9", "127.3.4.5:9", "0.0.0.0:9", "[::1]:9", "[::]:9", "[::ffff:127.0.0.1]:9"] {
            assert!(is_proxy(text.parse().unwrap(), 9), "{text}");
        }
        assert!(!is_proxy("127.0.0.1:10".parse().unwrap(), 9));
        assert!(!is_proxy("10.0.0.1:9".parse().unwrap(), 9));
    }
}
