//! Which addresses are a namespace's own.
//!
//! Asks the namespace's own routes, by a socket that was opened in it: an address is local there, or it is not. The kernel
//! answers while it is asked, from memory.
//!
//! Whoever administers the namespace can make any address a local one: that leads to fewer targets, never to more.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};

use nix::sys::socket::SockProtocol;
use parking_lot::Mutex;

use super::super::netlink::{NLMSG_ERROR, Netlink, REQUEST, error_of};
use super::super::sys;

/// Bytes of a route at most.
const ROUTE: usize = 4096;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
/// Where `rtmsg` has the kind of a route, and the kind that says: here.
const KIND_AT: usize = 7;
const RTN_LOCAL: u8 = 2;

/// A socket in a namespace.
#[derive(Debug)]
pub(crate) struct Probe(Mutex<Netlink>);

impl Probe {
    /// One for the namespace that the calling thread is in.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(Mutex::new(Netlink::open(SockProtocol::NetlinkRoute, ROUTE)?)))
    }

    /// One that somebody else has opened, in the namespace with this cookie.
    ///
    /// # Errors
    /// When it is no such socket.
    pub(super) fn take_over(socket: OwnedFd, cookie: u64) -> io::Result<Self> {
        let is = |name, value: libc::c_int| Ok::<_, io::Error>(u64::try_from(value) == Ok(option(&socket, name)?));
        let routes = is(libc::SO_DOMAIN, libc::AF_NETLINK)? && is(libc::SO_PROTOCOL, libc::NETLINK_ROUTE)?;
        if !routes || option(&socket, libc::SO_NETNS_COOKIE)? != cookie {
            return Err(io::Error::other("what should ask for routes does not, or does elsewhere"));
        }
        Ok(Self(Mutex::new(Netlink::of(socket, ROUTE)?)))
    }

    /// The same socket once more.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.0.lock().as_fd().try_clone_to_owned()
    }

    /// Whether an address means a machine of the namespace's own. What cannot be told is.
    pub(crate) fn is_own(&self, destination: SocketAddr) -> bool {
        let address = destination.ip().to_canonical();
        is_always_own(address) || is_local(&mut self.0.lock(), address).unwrap_or(true)
    }
}

impl From<Probe> for OwnedFd {
    fn from(probe: Probe) -> Self {
        probe.0.into_inner().into()
    }
}

fn option(socket: &OwnedFd, name: libc::c_int) -> io::Result<u64> {
    sys::socket_option(socket.as_fd(), name)
}

/// Addresses that never mean the same machine in two namespaces.
fn is_always_own(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local
}

fn is_local(routes: &mut Netlink, address: IpAddr) -> io::Result<bool> {
    let (family, octets) = match address {
        IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
    };
    let bits = u8::try_from(octets.len() * 8).map_err(io::Error::other)?;
    let mut question = vec![u8::try_from(family).map_err(io::Error::other)?, bits];
    question.resize(12, 0);
    question.extend(u16::try_from(4 + octets.len()).map_err(io::Error::other)?.to_ne_bytes());
    question.extend(RTA_DST.to_ne_bytes());
    question.extend(octets);
    routes.ask(RTM_GETROUTE, REQUEST, &question)?;
    for (kind, body) in routes.answer()? {
        match kind {
            RTM_NEWROUTE => return Ok(body.get(KIND_AT) == Some(&RTN_LOCAL)),
            // It has no way there: `--network none`, say, or a route that forbids.
            NLMSG_ERROR if is_no_route(error_of(&body)) => return Ok(false),
            NLMSG_ERROR => return Err(io::Error::from_raw_os_error(error_of(&body))),
            _ => {}
        }
    }
    Err(io::Error::other("the kernel does not say"))
}

const fn is_no_route(error: i32) -> bool {
    matches!(error, libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL | libc::EOPNOTSUPP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_leaves_a_namespace_is_its_own() {
        let probe = Probe::open().unwrap();
        for text in [
            "127.0.0.1:1",
            "127.9.9.9:5432",
            "0.0.0.0:1",
            "169.254.169.254:80",
            "[::1]:1",
            "[::]:1",
            "[fe80::1]:1",
            "[::ffff:127.0.0.1]:5432",
            "224.0.0.1:1",
            "[ff02::1]:1",
        ] {
            assert!(probe.is_own(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn routes_are_asked() {
        let mut routes = Netlink::open(SockProtocol::NetlinkRoute, ROUTE).unwrap();
        for _ in 0..2 {
            assert!(is_local(&mut routes, "127.0.0.9".parse().unwrap()).unwrap());
            // Documentation addresses are nobody's.
            assert!(!is_local(&mut routes, "192.0.2.1".parse().unwrap()).unwrap());
            assert!(!is_local(&mut routes, "2001:db8::1".parse().unwrap()).unwrap());
        }
    }
}
