//! Who asks, in tests of what is decided.

use crate::clock::Timestamp;
use crate::identity::{Attested, ProcessFacts, TokenFacts};

/// An agent of this name, in these groups, whose token ends then.
#[must_use]
pub fn attested(name: &str, groups: &[&str], expires_at: Timestamp) -> Attested {
    Attested {
        name: name.into(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        facts: ProcessFacts {
            pid: 7,
            uid: 1001,
            gid: 1001,
            cgroup: "/agents.slice/bot.service".into(),
            unit: Some("bot.service".into()),
            container: None,
            exe: Some("/usr/bin/python3".into()),
            exe_sha256: None,
            ancestry: vec!["/usr/lib/systemd/systemd".into()],
            guarantee: Default::default(),
        },
        token: TokenFacts { issuer: "corp".into(), subject: "svc:bot".into(), id: None, expires_at },
    }
}
