//! Who asks: the kernel's word on the other end of a Unix socket.

use std::ffi::CString;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use nix::unistd::{Gid, Uid, User};
use tokio::net::UnixListener;

use crate::approval::Approver;
use crate::capture::cgroup;

/// The other end, as the kernel knew it when it came: what it does to itself afterwards changes nothing.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// User and group.
    credentials: Option<(u32, u32)>,
    /// cgroup; nothing where the process was gone before that was known.
    cgroup: Option<String>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let known = stream.io().peer_cred().ok();
        Self { credentials: known.map(|known| (known.uid(), known.gid())), cgroup: cgroup::of_peer(stream.io()) }
    }
}

impl Peer {
    /// The human behind it, where they may ask. `governed` says whether a cgroup is.
    ///
    /// # Errors
    /// A sentence, where they may not.
    pub(super) fn admit(&self, group: Option<u32>, governed: impl Fn(&str) -> bool) -> Result<Approver, String> {
        let Some((uid, gid)) = self.credentials else {
            return Err("the kernel does not say who asks".to_owned());
        };
        let cgroup = self.cgroup.as_deref().ok_or("the cgroup of the asking process is not known")?;
        if governed(cgroup) {
            return Err(format!("the process runs in the governed cgroup {cgroup}; agents may not use this socket"));
        }
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let name = user.as_ref().map_or_else(|| format!("uid-{uid}"), |user| user.name.clone());
        if uid != 0 && !group.is_some_and(|wanted| gid == wanted || belongs(user.as_ref(), wanted)) {
            return Err(format!("{name} is neither root nor in the group that may use this socket"));
        }
        Ok(Approver { uid, name })
    }
}

fn belongs(user: Option<&User>, wanted: u32) -> bool {
    let Some(user) = user else { return false };
    let Ok(name) = CString::new(user.name.as_str()) else { return false };
    let groups = nix::unistd::getgrouplist(&name, user.gid).unwrap_or_default();
    groups.contains(&Gid::from_raw(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_and_an_unknown_peer_are_refused() {
        let root = |cgroup: Option<&str>| Peer { credentials: Some((0, 0)), cgroup: cgroup.map(str::to_owned) };
        let governed = |cgroup: &str| cgroup == "/agents.slice/a";
        assert_eq!(root(Some("/user.slice")).admit(None, governed).unwrap().uid, 0);
        assert!(root(Some("/agents.slice/a")).admit(None, governed).unwrap_err().contains("agents may not"));
        assert!(root(None).admit(None, governed).is_err());
        assert!(Peer { credentials: None, ..root(Some("/")) }.admit(None, governed).is_err());
        let stranger = Peer { credentials: Some((65_534, 65_534)), ..root(Some("/")) };
        assert!(stranger.admit(None, governed).unwrap_err().contains("neither root nor"));
    }
}
