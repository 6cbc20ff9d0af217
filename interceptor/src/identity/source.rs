//! Fetching a token from where an agent keeps it, as the agent sees it.
//!
//! Files are opened below the agent's root in the agent's mount namespace, with the agent's uid and primary gid: every
//! link resolves inside that root, links into other processes are refused, and a file that the agent could not open
//! itself is not opened for it. Nothing opened can block: only regular files are read, and only so much of them.
//!
//! Not promised: that the agent did not arrange what is found. It decides its mounts, links and memory (the initial
//! environment lies in it too). A token is a bearer token either way: the issuer's signature says what it is worth, and
//! the process facts say who may use it. A file that is readable through a supplementary group alone is refused.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::config::Source;
use super::facts::Process;
use super::{ProcessFacts, reach};
use crate::secret::Secret;

/// Longest token, in bytes.
pub const TOKEN_MAX: usize = 16 * 1024;
/// Largest initial environment that is searched, in bytes.
pub const ENVIRON_MAX: usize = 256 * 1024;
/// Tries when renames race with the opening.
const OPEN_TRIES: usize = 3;

/// Why no token was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The path needs a fact that the process lacks.
    #[error("{0} names {{unit}}, but the process is in no systemd unit")]
    NoUnit(String),
    /// The file is not there, or not to be opened.
    #[error("file {path}, as the agent sees it: {error}")]
    Open {
        /// The path in the agent's mount namespace.
        path: String,
        /// Why.
        error: String,
    },
    /// A directory, pipe, device or socket.
    #[error("file {0}, as the agent sees it, is not a regular file")]
    NotRegular(String),
    /// Longer than [`TOKEN_MAX`].
    #[error("{0} holds more than {TOKEN_MAX} bytes")]
    TooLarge(String),
    /// Nothing in it.
    #[error("{0} is empty")]
    Empty(String),
    /// The variable is not in the environment that the process was started with.
    #[error("environment variable {0} was not set when the process was started")]
    NoVariable(String),
    /// The environment cannot be read.
    #[error("environment of the process: {0}")]
    Environment(String),
    /// The agent must give its token as the password.
    #[error("no token was given as the password of the connection")]
    NotPresented,
}

/// The token of `agent` from its source. Blocks for as long as the file system takes.
///
/// # Errors
/// When there is none.
pub fn fetch(
    source: &Source,
    agent: &str,
    process: &Process,
    facts: &ProcessFacts,
    presented: Option<&Secret>,
) -> Result<Secret, SourceError> {
    match source {
        Source::Connection => presented.cloned().ok_or(SourceError::NotPresented),
        Source::Env(name) => variable(process, name),
        Source::File(template) => file(process, facts, &filled(template, agent, facts)?),
    }
}

fn filled(template: &str, agent: &str, facts: &ProcessFacts) -> Result<String, SourceError> {
    let path = template.replace("{uid}", &facts.uid.to_string()).replace("{agent}", agent);
    if !path.contains("{unit}") {
        return Ok(path);
    }
    let unit = facts.unit.as_deref().ok_or_else(|| SourceError::NoUnit(template.to_owned()))?;
    Ok(path.replace("{unit}", unit))
}

fn file(process: &Process, facts: &ProcessFacts, path: &str) -> Result<Secret, SourceError> {
    let fault = |error: nix::Error| SourceError::Open { path: path.to_owned(), error: error.desc().to_owned() };
    let root_flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = openat(process.dir(), "root", root_flags, Mode::empty()).map_err(fault)?;
    // The root itself is reached with the daemon's rights, what lies below it with the agent's.
    let fd = match Rights::of(facts) {
        Some(_rights) => open_in(&root, path),
        None => reach::open(&root, path, reach::Who { uid: facts.uid, gid: facts.gid }),
    };
    let fd = fd.map_err(fault)?;
    let stat = fstat(&fd).map_err(fault)?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err(SourceError::NotRegular(path.to_owned()));
    }
    let mut content = zeroize::Zeroizing::new(Vec::with_capacity(TOKEN_MAX + 3));
    let bound = u64::try_from(TOKEN_MAX + 3).unwrap_or(u64::MAX);
    let read = File::from(fd).take(bound).read_to_end(&mut content);
    read.map_err(|error| SourceError::Open { path: path.to_owned(), error: error.kind().to_string() })?;
    bounded(&content, path)
}

fn open_in(root: &OwnedFd, path: &str) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut tries = 1;
    loop {
        match openat2(root, path, how) {
            // The kernel gives up where it cannot tell whether a racing rename left the root.
            Err(nix::Error::EAGAIN) if tries < OPEN_TRIES => tries += 1,
            result => return result,
        }
    }
}

/// This thread opens files with the rights of an agent until dropped. From a daemon that is root the kernel takes its file
/// capabilities for as long as the file-system uid is not root's, and gives them back. Another daemon cannot take an agent's
/// rights, and works out what they are instead ([`reach`]).
struct Rights {
    uid: Uid,
    gid: Gid,
}

impl Rights {
    /// `None` where the daemon may not take these rights.
    fn of(facts: &ProcessFacts) -> Option<Self> {
        let (uid, gid) = (Uid::from_raw(facts.uid), Gid::from_raw(facts.gid));
        let before = Self { gid: setfsgid(gid), uid: setfsuid(uid) };
        // These calls report no failure; the second one tells what the first one did.
        (setfsgid(gid) == gid && setfsuid(uid) == uid).then_some(before)
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        // In the reverse order; going back to the thread's own ids is always permitted.
        setfsuid(self.uid);
        setfsgid(self.gid);
    }
}

/// The bytes without one line end, within bounds. Other white space is left for the verification to refuse.
fn bounded(content: &[u8], place: &str) -> Result<Secret, SourceError> {
    let line = content.strip_suffix(b"\n").unwrap_or(content);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > TOKEN_MAX {
        return Err(SourceError::TooLarge(place.to_owned()));
    }
    if line.is_empty() {
        return Err(SourceError::Empty(place.to_owned()));
    }
    Ok(Secret::new(line.to_vec()))
}

fn variable(process: &Process, name: &str) -> Result<Secret, SourceError> {
    let environment = process.read("environ", ENVIRON_MAX);
    let environment =
        zeroize::Zeroizing::new(environment.map_err(|error| SourceError::Environment(error.to_string()))?);
    let value = environment
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        .ok_or_else(|| SourceError::NoVariable(name.to_owned()))?;
    bounded(value, &format!("environment variable {name}"))
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
