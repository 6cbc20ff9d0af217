//! Listeners of namespaces that outlive the daemon, as the host's do: the service manager keeps them under a name that says of
//! which namespace they are. What comes back is taken only where each is what it is said to be ([`Sockets::from_parts`]).

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use super::super::Kept;
use super::super::kept::{forget, keep};
use super::sockets::{Part, Sockets};

/// How the names begin.
const BEGINS: &str = "netns";

/// Of which namespace a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    /// Its cookie.
    pub(super) cookie: u64,
    /// Its inode number.
    pub(super) inode: u64,
    /// The cgroup for which it was opened.
    pub(super) cgroup: u64,
}

/// What was kept, by namespace.
#[derive(Debug, Default)]
pub struct KeptNamespaces(pub(super) HashMap<Origin, Vec<(Part, OwnedFd)>>);

impl KeptNamespaces {
    /// Takes them from what the service manager kept. Call it once: what is left of that is then dropped.
    #[must_use]
    pub fn take(kept: &mut Kept) -> Self {
        let mut found: HashMap<Origin, Vec<(Part, OwnedFd)>> = HashMap::new();
        for (name, socket) in kept.take_where(|name| read(name).is_some()) {
            if let Some((origin, part)) = read(&name) {
                found.entry(origin).or_default().push((part, socket));
            }
        }
        Self(found)
    }
}

impl Origin {
    /// The sockets once more, for [`Self::keep`]; none where that cannot be.
    pub(super) fn duplicates(self, sockets: &Sockets) -> Vec<(Part, OwnedFd)> {
        sockets.duplicates().unwrap_or_else(|error| {
            let Self { inode, .. } = self;
            tracing::warn!(inode, %error, "nothing is kept of a network namespace: a restart refuses for a moment");
            Vec::new()
        })
    }

    /// Has the service manager keep the sockets from now on.
    pub(super) fn keep(self, sockets: &[(Part, OwnedFd)]) {
        sockets.iter().for_each(|(part, socket)| keep(&self.name(*part), socket));
    }

    /// Has the service manager drop them.
    pub(super) fn forget(self) {
        Part::ALL.into_iter().for_each(|part| forget(&self.name(part)));
    }

    fn name(self, part: Part) -> String {
        let Self { cookie, inode, cgroup } = self;
        format!("{BEGINS}.{cookie}.{inode}.{cgroup}.{}", part.name())
    }
}

fn read(name: &str) -> Option<(Origin, Part)> {
    let mut words = name.split('.');
    if words.next() != Some(BEGINS) {
        return None;
    }
    let mut number = || words.next()?.parse().ok();
    let origin = Origin { cookie: number()?, inode: number()?, cgroup: number()? };
    let part = words.next()?;
    let part = Part::ALL.into_iter().find(|one| one.name() == part)?;
    words.next().is_none().then_some((origin, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_of_which_namespace_it_is_and_fits() {
        let origin = Origin { cookie: u64::MAX, inode: u64::from(u32::MAX), cgroup: u64::MAX };
        for part in Part::ALL {
            assert_eq!(read(&origin.name(part)), Some((origin, part)));
            // All that the unit has room for are one variable of the environment, of 128 KiB at most.
            assert!((origin.name(part).len() + 1) * 1400 < 128 << 10);
        }
        for odd in
            ["proxy4", "netns", "netns.1.2.3", "netns.1.2.3.proxy5", "netns.1.2.x.proxy4", "netns.1.2.3.proxy4.x"]
        {
            assert_eq!(read(odd), None, "{odd}");
        }
    }
}
