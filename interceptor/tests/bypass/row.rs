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
    /// What keeps it from working.
    pub(crate) closed_by: &'static str,
    pub(crate) level: Level,
    /// Whether the same program must have an effect where nothing is governed.
    pub(crate) control: bool,
    /// Whether kernels may lack it.
    pub(crate) may_be_absent: bool,
    /// Somebody who is there before, and his user.
    pub(crate) helper: Option<(Place<'static>, &'static str)>,
    /// Somebody who comes while the attempt waits.
    pub(crate) visitor: Option<(Place<'static>, &'static str)>,
}

/// What is tried.
pub(crate) enum Attempt {
    /// The body of a Python function, after `attempt.py`.
    Python(&'static str),
    /// A program in the world's directory, with its arguments.
    Program(&'static [&'static str]),
    /// As `Python`, in a world of its own: it starts before the daemon, and goes on after it.
    Early(&'static str),
    /// Something with a world of its own.
    Scene(fn() -> Played),
    /// Something in the row's world.
    Act(fn(&Stage) -> Value),
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
    /// Whatever the calls return, nothing gets through.
    Nothing,
    /// The kernel itself refuses it, to this user, everywhere.
    Kernel(i32),
    /// The daemon, or the capture of this cgroup, does not start.
    NoStart,
    /// Many connections, each with its true process or none.
    Attributed,
    /// It works.
    Open,
    /// It was not tried.
    Untried,
}

/// The lowest level of guarantee at which an attempt fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Any governed cgroup: kernel programs alone.
    Adopted,
    /// Agents that are launched by us.
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
            closed_by: "E",
            level: Level::Adopted,
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

    pub(crate) fn scene(name: &'static str, scene: fn() -> Played) -> Self {
        Self::new(name, Attempt::Scene(scene)).without_control()
    }

    pub(crate) fn act(name: &'static str, act: fn(&Stage) -> Value) -> Self {
        Self::new(name, Attempt::Act(act)).without_control()
    }

    pub(crate) fn untried(name: &'static str, why: &'static str, closed_by: &'static str) -> Self {
        let row = Self::new(name, Attempt::Untried(why)).without_control().closed_by(closed_by);
        Self { expected: Expected::Untried, level: Level::Launched, ..row }
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
    pub(crate) fn open(self, level: Level, would_close: &'static str) -> Self {
        let row = self.closed_by(would_close).without_control();
        Self { expected: Expected::Open, level, ..row }
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

pub(crate) const fn option(level: u32, name: u32) -> Refusal {
    Refusal::SocketOption { level, name }
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
