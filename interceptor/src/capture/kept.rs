//! Sockets that outlive the daemon: the service manager's descriptor store keeps them from one run to the next, so that
//! what arrives meanwhile waits instead of being refused. The manager drops them when the service is stopped for good.
//!
//! What comes back is taken only where it is what its name says: of the right kind, listening at the right address in this
//! network namespace, and marked by the daemon ([`Own`]). All else is closed, dropped from the store, and made anew.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{SockaddrStorage, getsockname};
use sd_notify::NotifyState;
use tokio::net::{TcpListener, UdpSocket};

use super::own::Own;
use super::pins::Pins;
use super::{Config, sys};

/// How often, and how long, the manager is waited for to let go of a port.
const LET_GO_TRIES: u32 = 100;
const LET_GO_PAUSE: Duration = Duration::from_millis(20);

/// What the service manager kept for this daemon.
#[derive(Debug)]
pub struct Kept {
    sockets: Vec<(String, OwnedFd)>,
    pins: Pins,
    /// Something was handed over that was not taken: for a moment it may still hold its port.
    refused: bool,
}

/// What a kept socket must be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Listener,
    Datagrams,
}

impl Kept {
    /// Takes over what the manager hands to this process: once, later calls find nothing.
    ///
    /// # Errors
    /// When the environment contradicts itself.
    pub fn take(config: &Config) -> io::Result<Self> {
        let pins = Pins::new(&config.pin_directory);
        Ok(Self { sockets: sys::handed_over()?, pins, refused: false })
    }

    /// Nothing.
    #[must_use]
    pub fn nothing(config: &Config) -> Self {
        Self { sockets: Vec::new(), pins: Pins::new(&config.pin_directory), refused: false }
    }

    /// All whose names are meant.
    pub(super) fn take_where(&mut self, meant: impl Fn(&str) -> bool) -> Vec<(String, OwnedFd)> {
        let (taken, left) = self.sockets.drain(..).partition(|(name, _)| meant(name));
        self.sockets = left;
        taken
    }

    /// Drops what was kept under this name.
    pub(super) fn discard(&mut self, name: &str) {
        let before = self.sockets.len();
        self.sockets.retain(|(other, _)| other != name);
        if self.sockets.len() != before {
            self.refused = true;
            forget(name);
        }
    }

    /// Makes sockets anew. Where something was kept that was not taken, the manager may take a moment to let go of its port.
    pub(super) async fn anew<T>(&self, make: impl Fn() -> io::Result<T>) -> io::Result<T> {
        for _ in 0..if self.refused { LET_GO_TRIES } else { 0 } {
            match make() {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => tokio::time::sleep(LET_GO_PAUSE).await,
                made => return made,
            }
        }
        make()
    }

    /// The listener of this name at this address; port 0 is any.
    pub(super) fn listener(&mut self, name: &str, address: SocketAddr) -> Option<TcpListener> {
        let socket = self.socket(name, Kind::Listener, address)?;
        let made = TcpListener::from_std(socket.into());
        made.inspect_err(|error| tracing::warn!(name, %error, "a kept socket cannot be waited for")).ok()
    }

    /// As [`Self::listener`], of datagrams.
    pub(super) fn datagrams(&mut self, name: &str, address: SocketAddr) -> Option<UdpSocket> {
        let socket = self.socket(name, Kind::Datagrams, address)?;
        let made = UdpSocket::from_std(socket.into());
        made.inspect_err(|error| tracing::warn!(name, %error, "a kept socket cannot be waited for")).ok()
    }

    /// Every one of the name is looked at, and one at most is taken.
    fn socket(&mut self, name: &str, kind: Kind, address: SocketAddr) -> Option<OwnedFd> {
        let mut taken = None;
        let mut others = Vec::new();
        for (other, socket) in self.sockets.drain(..) {
            if other != name {
                others.push((other, socket));
                continue;
            }
            let here =
                own_namespace().map_err(|error| Mismatch(format!("the network namespace is not known: {error}")));
            match here.and_then(|here| check(&socket, kind, address, (here, Some(&self.pins)))) {
                Ok(()) if taken.is_none() => taken = Some(socket),
                Ok(()) => self.refused = true,
                Err(why) => {
                    tracing::warn!(name, %why, "what the service manager kept is not used");
                    self.refused = true;
                }
            }
        }
        self.sockets = others;
        if taken.is_none() && self.refused {
            forget(name);
        }
        taken
    }
}

impl Drop for Kept {
    /// What nobody asked for is of a configuration that has changed.
    fn drop(&mut self) {
        for (name, _) in &self.sockets {
            tracing::info!(name, "a kept socket is not needed any more");
            forget(name);
        }
    }
}

/// Why a descriptor is not the socket that it is said to be.
#[derive(Debug)]
pub(super) struct Mismatch(String);

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether it is of this kind, at this address of the network namespace with this cookie, and marked, where there are pins that
/// say so. It does not block from then on.
pub(super) fn check(
    socket: &OwnedFd,
    kind: Kind,
    address: SocketAddr,
    (namespace, pins): (u64, Option<&Pins>),
) -> Result<(), Mismatch> {
    let wrong = |what: &str| Mismatch(what.to_owned());
    let option =
        |name| sys::socket_option(socket.as_fd(), name).map_err(|error| Mismatch(format!("no socket: {error}")));
    let expect = |name, value: libc::c_int, what| {
        if u64::try_from(value) == Ok(option(name)?) { Ok(()) } else { Err(wrong(what)) }
    };
    let (style, protocol, accepts) = match kind {
        Kind::Listener => (libc::SOCK_STREAM, libc::IPPROTO_TCP, 1),
        Kind::Datagrams => (libc::SOCK_DGRAM, libc::IPPROTO_UDP, 0),
    };
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    expect(libc::SO_DOMAIN, family, "it is of another address family")?;
    expect(libc::SO_TYPE, style, "it is of another type")?;
    expect(libc::SO_PROTOCOL, protocol, "it is of another protocol")?;
    expect(libc::SO_ACCEPTCONN, accepts, "it does not listen")?;
    let bound = local_address(socket).ok_or_else(|| wrong("it has no address"))?;
    if bound.ip() != address.ip() || (address.port() != 0 && bound.port() != address.port()) || bound.port() == 0 {
        return Err(Mismatch(format!("it is at {bound}, not at {address}")));
    }
    if option(libc::SO_NETNS_COOKIE)? != namespace {
        return Err(wrong("it is of another network namespace"));
    }
    if pins.is_some_and(|pins| !Own::has_marked(pins, socket)) {
        return Err(wrong("the daemon has not marked it"));
    }
    nix::fcntl::fcntl(socket, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
        .map(drop)
        .map_err(|error| Mismatch(error.to_string()))
}

fn local_address(socket: &OwnedFd) -> Option<SocketAddr> {
    use std::os::fd::AsRawFd;
    let address = getsockname::<SockaddrStorage>(socket.as_raw_fd()).ok()?;
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
}

/// Cookie of the network namespace that this process makes its sockets in.
fn own_namespace() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    sys::socket_option(socket.as_fd(), libc::SO_NETNS_COOKIE)
}

/// Gives a socket to the service manager to keep. Without a manager nothing is kept.
pub(super) fn keep(name: &str, socket: &impl AsFd) {
    // Not polled: nothing that comes in makes the manager drop it.
    let state = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
    if let Err(error) = sd_notify::notify_with_fds(&state, &[socket.as_fd()]) {
        tracing::warn!(name, %error, "the service manager keeps no socket: a restart refuses connections for a moment");
    }
}

/// Has the service manager drop what it keeps under this name.
pub(super) fn forget(name: &str) {
    if let Err(error) = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]) {
        tracing::warn!(name, %error, "the service manager was not told to drop a socket");
    }
}
