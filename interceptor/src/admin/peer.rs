//! Who asks: the kernel's word on the other end of a Unix socket.

use std::ffi::CString;
use std::fs;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use nix::unistd::{Gid, Uid, User};
use tokio::net::UnixListener;

use crate::approval::Approver;

/// The other end, as the kernel knows it.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    credentials: Option<(u32, u32, i32)>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let credentials = stream.io().peer_cred().ok();
        Self { credentials: credentials.and_then(|known| Some((known.uid(), known.gid(), known.pid()?))) }
    }
}

impl Peer {
    /// The human behind it, where they may ask.
    ///
    /// # Errors
    /// A sentence, where they may not.
    pub(super) fn admit(&self, group: Option<u32>, governed: &[String]) -> Result<Approver, String> {
        let Some((uid, gid, pid)) = self.credentials else {
            return Err("the kernel does not say who asks".to_owned());
        };
        let cgroup = cgroup_of(pid).ok_or("the cgroup of the asking process is not known")?;
        if governed.iter().any(|path| at_or_below(&cgroup, path)) {
            return Err(format!("process {pid} runs in the governed cgroup {cgroup}; agents may not use this socket"));
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

fn cgroup_of(pid: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

fn at_or_below(path: &str, governed: &str) -> bool {
    let governed = governed.trim_end_matches('/');
    path == governed || path.strip_prefix(governed).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_at_or_below_a_governed_cgroup_is_shut_out() {
        assert!(at_or_below("/agents.slice", "/agents.slice"));
        assert!(at_or_below("/agents.slice/a", "/agents.slice/"));
        assert!(!at_or_below("/agents.slice-not", "/agents.slice"));
        assert!(!at_or_below("/", "/agents.slice"));
    }

    #[test]
    fn an_unknown_peer_is_refused() {
        assert!(Peer { credentials: None }.admit(None, &[]).is_err());
        let stranger = Peer { credentials: Some((65_534, 65_534, i32::try_from(std::process::id()).unwrap())) };
        assert!(stranger.admit(None, &[]).unwrap_err().contains("neither root nor"));
    }
}
