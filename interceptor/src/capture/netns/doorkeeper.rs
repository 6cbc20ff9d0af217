//! Opens network namespaces for a daemon that may not enter them: the privileged half, and as small as it can be.
//!
//! Who has taken over the daemon gains this and no more: sockets of interceptor's, at interceptor's ports on the loopback, and
//! one that asks for routes, in network namespaces of processes that the kernel's own pins say are governed. The daemon is asked
//! nothing that is not looked at again here: which process is governed (links that only root pins), where it is, which namespace
//! has the cookie. Never in the host's namespace, nor in the daemon's, nor in this one's.
//!
//! It answers one user's processes, in the cgroup that the kernel programs know as the daemon's; a question has one size, and is
//! read once. Bounds: [`RATE`] questions a second, one at a time, [`PATIENCE`] for whoever is slow. Nothing is kept.
//!
//! Not promised: that the daemon does nothing else with those sockets. On them it may speak in that namespace.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::thread;
use std::time::Duration;

use interceptor_ebpf::{Settings, map};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockFlag, accept4, getsockopt, recv, setsockopt, sockopt};
use nix::sys::time::TimeVal;
use tokio::time::Instant;

use super::super::budget::{Budget, Rate};
use super::super::pins::Pins;
use super::super::{Config, cgroup, maps, sys};
use super::door::{QUESTION, Question, answer};
use super::enter::{self, Wanted};
use super::sockets::Ports;
use super::{NamespaceError, Wish};

/// Questions a second that are looked at, on average and at once; the others are answered, and no more.
const RATE: Rate = Rate { average: 50, burst: 200 };
/// How long a question, and somebody who takes an answer, is waited for.
const PATIENCE: TimeVal = TimeVal::new(1, 0);
/// Pause after an accept that failed.
const PAUSE: Duration = Duration::from_millis(50);
/// Words a second about who was turned away.
const WORDS: Rate = Rate { average: 1, burst: 8 };

/// Who opens namespaces.
#[derive(Debug)]
pub struct Doorkeeper {
    door: OwnedFd,
    config: Config,
    /// User id of the daemon.
    daemon: u32,
    questions: Budget,
    words: Budget,
}

/// Why somebody gets no answer.
#[derive(Debug, thiserror::Error)]
enum TurnedAway {
    #[error("user {0} is not the daemon's")]
    User(u32),
    #[error("process {pid} is not in the daemon's cgroup")]
    Cgroup { pid: i32 },
    #[error("it asks nothing that is a question")]
    Question,
    #[error("the kernel programs are not prepared: {0}")]
    Unprepared(String),
    #[error(transparent)]
    Broken(#[from] io::Error),
}

impl From<Errno> for TurnedAway {
    fn from(error: Errno) -> Self {
        Self::Broken(error.into())
    }
}

impl Doorkeeper {
    /// Takes over the socket that the service manager listens on for this process, for questions of this user's daemon.
    ///
    /// # Errors
    /// When there is not exactly one, or it is none of this kind.
    pub fn take_over(config: &Config, daemon: u32) -> io::Result<Self> {
        let wrong = |why: &str| io::Error::other(format!("{why}: interceptor-namespaces.socket starts it"));
        let mut handed = sys::handed_over()?.into_iter();
        let (Some((_, door)), None) = (handed.next(), handed.next()) else {
            return Err(wrong("not one socket was handed over"));
        };
        let is = |name, value: libc::c_int| {
            sys::socket_option(door.as_fd(), name).is_ok_and(|found| u64::try_from(value) == Ok(found))
        };
        let kind = is(libc::SO_DOMAIN, libc::AF_UNIX) && is(libc::SO_TYPE, libc::SOCK_SEQPACKET);
        if !kind || !is(libc::SO_ACCEPTCONN, 1) {
            return Err(wrong("what was handed over does not listen for packets"));
        }
        nix::fcntl::fcntl(&door, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()))?;
        let (now, config) = (Instant::now(), config.clone());
        let (questions, words) = (Budget::new(RATE, now), Budget::new(WORDS, now));
        Ok(Self { door, config, daemon, questions, words })
    }

    /// Answers, one after the other.
    ///
    /// # Errors
    /// When nobody can be waited for any more.
    pub fn serve(mut self) -> io::Result<Infallible> {
        loop {
            match accept4(self.door.as_raw_fd(), SockFlag::SOCK_CLOEXEC).map(sys::accepted) {
                Ok(visitor) => {
                    if let Err(why) = self.receive(&visitor)
                        && self.words.take(Instant::now())
                    {
                        tracing::warn!(%why, "somebody gets no answer");
                    }
                }
                Err(error @ (Errno::EBADF | Errno::EINVAL | Errno::ENOTSOCK)) => return Err(error.into()),
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    fn receive(&mut self, visitor: &OwnedFd) -> Result<(), TurnedAway> {
        setsockopt(visitor, sockopt::ReceiveTimeout, &PATIENCE)?;
        setsockopt(visitor, sockopt::SendTimeout, &PATIENCE)?;
        let (settings, home) = self.admit(visitor)?;
        let question = question(visitor)?;
        let made = if self.questions.take(Instant::now()) {
            self.open(question, &settings, home)
        } else {
            Err(NamespaceError::Rate)
        };
        if let Err(error) = &made
            && self.words.take(Instant::now())
        {
            tracing::warn!(pid = question.pid, %error, "no namespace was opened");
        }
        Ok(answer(visitor, made)?)
    }

    /// What the kernel programs go by, and the namespace of the one who asks, where that is the daemon.
    fn admit(&self, visitor: &OwnedFd) -> Result<(Settings, u64), TurnedAway> {
        let who = getsockopt(visitor, sockopt::PeerCredentials)?;
        if who.uid() != self.daemon {
            return Err(TurnedAway::User(who.uid()));
        }
        let pins = Pins::new(&self.config.pin_directory);
        pins.are_roots().map_err(|error| TurnedAway::Unprepared(error.to_string()))?;
        let settings = maps::settings(&pins.map(map::SETTINGS));
        let settings = settings.map_err(|error| TurnedAway::Unprepared(error.to_string()))?;
        let pid = who.pid();
        let elsewhere = || TurnedAway::Cgroup { pid };
        let home = inode(&format!("/proc/{pid}/ns/net"))?;
        // Only then: whoever has ended was somebody else's number.
        let cgroup = cgroup::of_peer(visitor).ok_or_else(elsewhere)?;
        if cgroup::cgroup_id(&cgroup).ok() != Some(settings.daemon_cgroup) {
            return Err(elsewhere());
        }
        Ok((settings, home))
    }

    fn open(&self, question: Question, settings: &Settings, home: u64) -> Result<enter::Made, NamespaceError> {
        let Question { pid, cookie } = question;
        if self.config.namespaces == 0 {
            return Err(NamespaceError::Full { open: 0 });
        }
        // The daemon's, and this one's, which the unit makes an empty one.
        let mut homes = vec![home, inode("/proc/self/ns/net").map_err(NamespaceError::Enter)?];
        // As a rule the daemon's is the first process'; where it is another, and that one is kept from sight, so it stays.
        homes.extend(inode("/proc/1/ns/net").ok());
        let wish = match cookie {
            // Which cgroup it was in is looked at anew.
            Some(cookie) => Wish::Refused { pid, cookie, cgroup: 0 },
            None => Wish::Announced { pid },
        };
        let ports = ports(&self.config, settings)?;
        let known = std::collections::HashMap::new();
        let made = enter::make(Wanted { wish, config: self.config.clone(), homes, ports, known })?;
        tracing::info!(pid, inode = made.inode, cgroup = %made.cgroup.0, "opened a network namespace");
        Ok(made)
    }
}

/// Where agents are sent, and no other ports: the daemon may write to the settings, but not to the configuration.
fn ports(config: &Config, settings: &Settings) -> Result<Ports, NamespaceError> {
    let dns = (settings.has_resolver == 1).then_some(settings.dns_port);
    let all = [(config.proxy_port, Some(settings.proxy_port)), (config.dns_port, dns)];
    match all
        .into_iter()
        .find(|(configured, wanted)| *configured != 0 && wanted.is_some_and(|port| port != *configured))
    {
        Some((port, _)) => Err(NamespaceError::Port { port, source: io::ErrorKind::PermissionDenied.into() }),
        None => Ok(Ports { proxy: settings.proxy_port, dns }),
    }
}

fn inode(path: &str) -> io::Result<u64> {
    Ok(fs::metadata(path)?.ino())
}

/// One packet of the right size. Descriptors that come with it are closed by the kernel.
fn question(visitor: &OwnedFd) -> Result<Question, TurnedAway> {
    // One byte more tells what is longer.
    let mut bytes = [0; QUESTION + 1];
    let length = recv(visitor.as_raw_fd(), &mut bytes, MsgFlags::empty())?;
    bytes.get(..length).and_then(Question::decode).ok_or(TurnedAway::Question)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_choose_no_port_that_the_configuration_has_not() {
        let config = Config::default();
        let settings =
            |proxy_port, dns_port, has_resolver| Settings { proxy_port, dns_port, has_resolver, ..Settings::default() };
        let both = ports(&config, &settings(15_001, 15_053, 1)).unwrap();
        assert_eq!(both, Ports { proxy: 15_001, dns: Some(15_053) });
        assert_eq!(ports(&config, &settings(15_001, 9, 0)).unwrap(), Ports { proxy: 15_001, dns: None });
        for odd in [settings(5432, 15_053, 1), settings(15_001, 53, 1)] {
            assert!(matches!(ports(&config, &odd), Err(NamespaceError::Port { .. })), "{odd:?}");
        }
        let any = Config { proxy_port: 0, dns_port: 0, ..config };
        assert_eq!(ports(&any, &settings(7, 8, 1)).unwrap(), Ports { proxy: 7, dns: Some(8) });
    }
}
