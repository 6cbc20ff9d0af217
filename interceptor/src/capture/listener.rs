//! The listener: redirected connections, each with its record.
//!
//! Listens on 127.0.0.1 and ::1 with one port. It may listen before the programs are loaded: what arrives then has no
//! record and is closed.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::maps::Records;
use super::{Captured, Config, Origin};

/// Connections that wait for `accept` in each address family.
const BACKLOG: u32 = 4096;
/// Tries to find one port that is free in both families.
const PORT_TRIES: u32 = 16;

/// The proxy's listening sockets.
#[derive(Debug)]
pub struct Listener {
    v4: TcpListener,
    /// Missing on hosts without IPv6, where redirected IPv6 connections are refused.
    v6: Option<TcpListener>,
    port: u16,
    records: OnceLock<Records>,
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
    /// daemon's cgroup: the fence lets agents reach sockets that were made there, and no others.
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
        Ok(Self { v4, v6, port, records: OnceLock::new() })
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
            Ok(Some(origin)) => Ok(Captured { stream, origin }),
        }
    }

    /// Lets records be found from now on; a second call changes nothing.
    pub(super) fn arm(&self, records: Records) {
        let _already = self.records.set(records);
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
