//! A row of the table: an attempt, and what it must come to.

use interceptor::capture::{PacketFault, Refusal};
use interceptor::testing::world::Place;
use serde_json::Value;

use super::run::Played;
use super::stage::Stage;

pub(crate) const EPERM: i32 = libc::EPERM;

pub(crate) const TCP: u32 = 6;
pub(crate) const UDP: u32 = 17;

/// An attempt.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) by: By,
    /// Its cgroup, below the governed one.
    pub(crate) cgroup: &'static str,
    pub(crate) attempt: Attempt,
    pub(crate) site: Site,
    pub(crate) expected: Expected,
    pub(crate) event: Option<Refusal>,
    /// What is told where the kernel's security modules close what is open without them.
    pub(crate) modules: Option<Refusal>,
    /// What keeps it from working.
    pub(crate) closed_by: &'static str,
    /// What it comes to as a launched agent, where that is tried as well.
    pub(crate) launched: Option<Expected>,
    /// What a launched agent tries, where that is something else.
    pub(crate) launched_body: Option<&'static str>,
    /// Whether the same program must have an effect where nothing is governed.
    pub(crate) control: bool,
    /// Whether kernels may lack it.
    pub(crate) may_be_absent: bool,
    /// Somebody who is there before, and his user.
    pub(crate) helper: Option<(Place<'static>, &'static str)>,
    /// Somebody who comes while the attempt waits.
    pub(crate) visitor: Option<(Place<'static>, &'static str)>,
}

/// Gives what it came to, and how many packets reached the servers.
pub(crate) type Act = fn(&Stage, Level) -> (Value, u64);

/// What is tried.
pub(crate) enum Attempt {
    /// The body of a Python function, after `attempt.py`.
    Python(&'static str),
    /// A program in the world's directory, with its arguments.
    Program(&'static [&'static str]),
    /// As `Python`, in a world of its own: it starts before the daemon, and goes on after it.
    Early(&'static str),
    /// Something with a world of its own.
    Scene(fn(Level) -> Played),
    /// Something in the row's world.
    Act(Act),
    /// Not tried, and why.
    Untried(&'static str),
}

/// Who tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// User 1000, without capabilities.
    User,
    /// Root with the capabilities that container runtimes leave it.
    Container,
    /// Root with all capabilities.
    Root,
}

/// Where it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Site {
    /// With an IPv4 resolver.
    Four,
    /// With an IPv6 resolver.
    Six,
    /// After the daemon was killed.
    Unattended,
}

/// What an attempt comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// We refuse it, with this error.
    Errno(i32),
    /// The daemon gets the connection, with this destination and the right process.
    Captured(&'static str),
    /// We refuse the first connect, with this error; where the daemon has found the process there by then, it gets the connection.
    RefusedOrCaptured(i32, &'static str),
    /// Whatever the calls return, nothing gets through.
    Nothing,
    /// The kernel itself refuses it, to this user, everywhere.
    Kernel(i32),
    /// The daemon, or the capture of this cgroup, does not start.
    NoStart,
    /// The process is killed, for a system call that it must not even try.
    Killed,
    /// Many connections, each with its true process or none.
    Attributed,
    /// It works.
    Open,
    /// It was not tried.
    Untried,
}

/// How the agent came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// It is in a governed cgroup: kernel programs alone.
    Adopted,
    /// `interceptor exec` started it.
    Launched,
}

impl Row {
    fn new(name: &'static str, attempt: Attempt) -> Self {
        Self {
            name,
            by: By::User,
            cgroup: "one",
            attempt,
            site: Site::Four,
            expected: Expected::Nothing,
            event: None,
            modules: None,
            closed_by: "E",
            launched: None,
            launched_body: None,
            control: true,
            may_be_absent: false,
            helper: None,
            visitor: None,
        }
    }

    pub(crate) fn python(name: &'static str, body: &'static str) -> Self {
        Self::new(name, Attempt::Python(body))
    }

    pub(crate) fn early(name: &'static str, body: &'static str) -> Self {
        Self::new(name, Attempt::Early(body))
    }

    pub(crate) fn program(name: &'static str, words: &'static [&'static str]) -> Self {
        Self::new(name, Attempt::Program(words))
    }

    pub(crate) fn scene(name: &'static str, scene: fn(Level) -> Played) -> Self {
        Self::new(name, Attempt::Scene(scene)).without_control()
    }

    pub(crate) fn act(name: &'static str, act: Act) -> Self {
        Self::new(name, Attempt::Act(act)).without_control()
    }

    pub(crate) fn untried(name: &'static str, why: &'static str, closed_by: &'static str) -> Self {
        let row = Self::new(name, Attempt::Untried(why)).without_control().closed_by(closed_by);
        Self { expected: Expected::Untried, ..row }
    }

    pub(crate) fn captured(self, destination: &'static str) -> Self {
        Self { expected: Expected::Captured(destination), closed_by: "C", ..self }
    }

    pub(crate) fn attributed(self) -> Self {
        Self { expected: Expected::Attributed, ..self }
    }

    pub(crate) fn errno(self, errno: i32, event: Refusal) -> Self {
        Self { expected: Expected::Errno(errno), event: Some(event), ..self }
    }

    pub(crate) fn refused_or_captured(self, destination: &'static str) -> Self {
        let expected = Expected::RefusedOrCaptured(libc::ECONNREFUSED, destination);
        Self { expected, event: Some(Refusal::NoListener), ..self }
    }

    pub(crate) fn nothing(self, event: Refusal) -> Self {
        Self { expected: Expected::Nothing, event: Some(event), ..self }
    }

    /// Nothing gets through, and no kernel program has to say so.
    pub(crate) fn in_vain(self) -> Self {
        Self { expected: Expected::Nothing, event: None, ..self }
    }

    pub(crate) fn kernel(self, errno: i32) -> Self {
        let row = self.closed_by("the kernel").without_control();
        Self { expected: Expected::Kernel(errno), ..row }
    }

    pub(crate) fn no_start(self) -> Self {
        let row = self.closed_by("the start is refused").without_control();
        Self { expected: Expected::NoStart, ..row }
    }

    /// It works. Whoever closes it changes the row.
    pub(crate) fn open(self, would_close: &'static str) -> Self {
        let row = self.closed_by(would_close).without_control();
        Self { expected: Expected::Open, ..row }
    }

    /// Nothing comes of it where the hooks of the kernel's security modules hold.
    pub(crate) fn modules(self, event: Refusal) -> Self {
        Self { modules: Some(event), ..self }
    }

    /// The row as it must be where they hold.
    pub(crate) fn where_modules_hold(self) -> Self {
        let Some(event) = self.modules else { return self };
        let launched =
            self.launched.map(|launched| if launched == Expected::Open { Expected::Nothing } else { launched });
        Self { launched, closed_by: "L", ..self.nothing(event) }
    }

    /// What it comes to as a launched agent.
    pub(crate) fn launched(self, expected: Expected) -> Self {
        Self { launched: Some(expected), ..self }
    }

    /// What a launched agent tries instead, and what that comes to.
    pub(crate) fn launched_as(self, body: &'static str, expected: Expected) -> Self {
        Self { launched_body: Some(body), ..self.launched(expected) }
    }

    /// As a launched agent it comes to the same.
    pub(crate) fn launched_too(self) -> Self {
        let expected = self.expected;
        self.launched(expected)
    }

    pub(crate) fn event(self, event: Refusal) -> Self {
        Self { event: Some(event), ..self }
    }

    pub(crate) fn closed_by(self, closed_by: &'static str) -> Self {
        Self { closed_by, ..self }
    }

    pub(crate) fn by(self, by: By) -> Self {
        Self { by, ..self }
    }

    pub(crate) fn within(self, cgroup: &'static str) -> Self {
        Self { cgroup, ..self }
    }

    pub(crate) fn at(self, site: Site) -> Self {
        Self { site, ..self }
    }

    pub(crate) fn without_control(self) -> Self {
        Self { control: false, ..self }
    }

    pub(crate) fn may_be_absent(self) -> Self {
        Self { may_be_absent: true, ..self }
    }

    pub(crate) fn helper(self, place: Place<'static>, body: &'static str) -> Self {
        Self { helper: Some((place, body)), ..self }
    }

    pub(crate) fn visitor(self, place: Place<'static>, body: &'static str) -> Self {
        Self { visitor: Some((place, body)), ..self }
    }
}

/// This error where Landlock can hide abstract sockets (Linux 6.12); before, nothing does.
pub(crate) fn scoped(errno: i32) -> Expected {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 12) { Expected::Open } else { Expected::Errno(errno) }
}

pub(crate) const fn option(level: u32, name: u32) -> Refusal {
    Refusal::SocketOption { level, name }
}

pub(crate) const fn family(family: u32, protocol: u32) -> Refusal {
    Refusal::SocketFamily { family, protocol }
}

pub(crate) const fn kind(socket_type: u32, protocol: u32) -> Refusal {
    Refusal::SocketKind { socket_type, protocol }
}

pub(crate) const fn packet(protocol: u32, fault: PacketFault) -> Refusal {
    Refusal::Packet { protocol, fault }
}

pub(crate) const fn inbound(protocol: u32, fault: PacketFault) -> Refusal {
    Refusal::Inbound { protocol, fault }
}
