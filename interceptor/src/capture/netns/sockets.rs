//! What is made in a namespace: sockets on its loopback, and one that asks its routes. Nobody is sent to them before they are
//! marked as the daemon's.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};

use interceptor_ebpf::map;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};
use serde::{Deserialize, Serialize};

use super::super::kept::{Kind, check};
use super::super::listener::{BACKLOG, has_no_v6};
use super::super::own::Own;
use super::super::pins::Pins;
use super::super::{Config, loader};
use super::{NamespaceError, Probe};

/// Where the daemon listens in every namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    /// TCP.
    pub(super) proxy: u16,
    /// UDP, where names are relayed.
    pub(super) dns: Option<u16>,
}

/// Sockets on a namespace's loopback: of IPv4, and of IPv6 where it has that.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) tcp: (TcpListener, Option<TcpListener>),
    pub(super) udp: Option<(UdpSocket, Option<UdpSocket>)>,
    pub(super) probe: Probe,
    /// The service manager keeps them already.
    pub(super) kept: bool,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Part {
    /// Listens on IPv4.
    Proxy4,
    /// Listens on IPv6.
    Proxy6,
    /// Relays on IPv4.
    Dns4,
    /// Relays on IPv6.
    Dns6,
    /// Asks for routes.
    Probe,
}

impl Part {
    /// Each of them.
    pub(super) const ALL: [Self; 5] = [Self::Proxy4, Self::Proxy6, Self::Dns4, Self::Dns6, Self::Probe];

    /// In a word.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Proxy4 => "proxy4",
            Self::Proxy6 => "proxy6",
            Self::Dns4 => "dns4",
            Self::Dns6 => "dns6",
            Self::Probe => "probe",
        }
    }
}

impl Sockets {
    /// Makes them in the namespace that the calling thread is in.
    pub(super) fn make(ports: Ports) -> Result<Self, NamespaceError> {
        let taken = |port| move |source| NamespaceError::Port { port, source };
        let [v4, v6] = loopback(ports.proxy);
        let tcp = |address| bound(address, SockType::Stream).map(TcpListener::from);
        let tcp = (tcp(v4).map_err(taken(ports.proxy))?, where_v6(tcp(v6)).map_err(taken(ports.proxy))?);
        let udp = match ports.dns {
            None => None,
            Some(port) => {
                let [v4, v6] = loopback(port);
                let udp = |address| bound(address, SockType::Datagram).map(UdpSocket::from);
                Some((udp(v4).map_err(taken(port))?, where_v6(udp(v6)).map_err(taken(port))?))
            }
        };
        Ok(Self { tcp, udp, probe: Probe::open().map_err(NamespaceError::Sockets)?, kept: false })
    }

    /// Makes them known to the kernel programs, which send nobody to any other.
    pub(super) fn mark(&self, config: &Config) -> io::Result<()> {
        let map = loader::pinned_map(&Pins::new(&config.pin_directory), map::OWN).map_err(io::Error::other)?;
        let mut own = Own::new(map).map_err(io::Error::other)?;
        own.mark(&self.tcp.0).map_err(io::Error::other)?;
        self.tcp.1.iter().try_for_each(|v6| own.mark(v6)).map_err(io::Error::other)?;
        let Some((v4, v6)) = &self.udp else { return Ok(()) };
        own.mark(v4).and_then(|()| v6.iter().try_for_each(|v6| own.mark(v6))).map_err(io::Error::other)
    }

    /// Each of them once more, to be kept elsewhere.
    pub(super) fn duplicates(&self) -> io::Result<Vec<(Part, OwnedFd)>> {
        let Self { tcp, udp, probe, .. } = self;
        let mut all = vec![(Part::Probe, probe.duplicate()?), (Part::Proxy4, tcp.0.try_clone()?.into())];
        if let Some(proxy6) = &tcp.1 {
            all.push((Part::Proxy6, proxy6.try_clone()?.into()));
        }
        if let Some((dns4, dns6)) = udp {
            all.push((Part::Dns4, dns4.try_clone()?.into()));
            if let Some(dns6) = dns6 {
                all.push((Part::Dns6, dns6.try_clone()?.into()));
            }
        }
        Ok(all)
    }

    /// Each of them, to be handed on.
    pub(super) fn into_parts(self) -> Vec<(Part, OwnedFd)> {
        let (proxy4, proxy6) = self.tcp;
        let (dns4, dns6) = self.udp.map_or((None, None), |(v4, v6)| (Some(v4), v6));
        let all = [
            (Part::Proxy4, Some(proxy4.into())),
            (Part::Proxy6, proxy6.map(OwnedFd::from)),
            (Part::Dns4, dns4.map(OwnedFd::from)),
            (Part::Dns6, dns6.map(OwnedFd::from)),
            (Part::Probe, Some(self.probe.into())),
        ];
        all.into_iter().filter_map(|(part, socket)| Some((part, socket?))).collect()
    }

    /// What somebody else has made in the namespace with this cookie: only where each is what it is said to be, and marked, where
    /// there are pins that say so.
    ///
    /// # Errors
    /// When one is not, is there twice, or is missing.
    pub(super) fn from_parts(
        parts: Vec<(Part, OwnedFd)>,
        (cookie, ports): (u64, Ports),
        pins: Option<&Pins>,
    ) -> io::Result<Self> {
        let [mut proxy4, mut proxy6, mut dns4, mut dns6] = [const { None::<OwnedFd> }; 4];
        let mut probe = None;
        for (part, socket) in parts {
            let (place, kind, port, v6) = match part {
                Part::Proxy4 => (&mut proxy4, Kind::Listener, ports.proxy, false),
                Part::Proxy6 => (&mut proxy6, Kind::Listener, ports.proxy, true),
                Part::Dns4 => (&mut dns4, Kind::Datagrams, ports.dns.unwrap_or_default(), false),
                Part::Dns6 => (&mut dns6, Kind::Datagrams, ports.dns.unwrap_or_default(), true),
                Part::Probe => {
                    probe = Some(Probe::take_over(socket, cookie)?);
                    continue;
                }
            };
            let [address4, address6] = loopback(port);
            let address = if v6 { address6 } else { address4 };
            check(&socket, kind, address, (cookie, pins))
                .map_err(|why| io::Error::other(format!("{part:?}: {why}")))?;
            if port == 0 || place.replace(socket).is_some() {
                return Err(io::Error::other(format!("{part:?} is one too many")));
            }
        }
        let missing = || io::Error::other("a socket is missing");
        if dns4.is_some() != ports.dns.is_some() || (dns4.is_none() && dns6.is_some()) {
            return Err(missing());
        }
        Ok(Self {
            tcp: (proxy4.map(TcpListener::from).ok_or_else(missing)?, proxy6.map(TcpListener::from)),
            udp: dns4.map(|v4| (UdpSocket::from(v4), dns6.map(UdpSocket::from))),
            probe: probe.ok_or_else(missing)?,
            kept: pins.is_some(),
        })
    }
}

/// Of IPv4, and of IPv6.
fn loopback(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
}

/// Nothing, where the namespace has no IPv6.
fn where_v6<T>(made: io::Result<T>) -> io::Result<Option<T>> {
    match made {
        Err(error) if has_no_v6(&error) => Ok(None),
        other => other.map(Some),
    }
}

/// A socket on the loopback, also where that is not up yet: a container's may come up later than it is announced.
fn bound(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let made = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&made, sockopt::IpFreebind, &true)?;
    if kind == SockType::Stream {
        // Connections of the last run may still be in TIME_WAIT.
        setsockopt(&made, sockopt::ReuseAddr, &true)?;
    }
    bind(made.as_raw_fd(), &SockaddrStorage::from(address))?;
    if kind == SockType::Stream {
        listen(&made, Backlog::new(i32::try_from(BACKLOG).unwrap_or(i32::MAX))?)?;
    }
    Ok(made)
}
