//! What the daemon asks the [`Doorkeeper`](super::Doorkeeper), and what comes back.
//!
//! A question is one packet of [`QUESTION`] bytes: a process, and the cookie of the namespace in which it was refused, or 0. The
//! answer is one packet of JSON with the sockets beside it, or why there are none. One question a connection.
//!
//! The answer is believed where root listens at the other end, and each socket is what it is said to be.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt,
    recvmsg, send, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

use super::super::{Config, sys};
use super::NAMESPACE_DESCRIPTORS;
use super::NamespaceError;
use super::enter::{self, Made, Wanted};
use super::sockets::{Part, Sockets};

/// Bytes of a question: no more, and no fewer.
pub(super) const QUESTION: usize = 24;
/// How each begins: what it is, and its version.
const BEGINS: [u8; 8] = *b"netns\0\0\x01";
/// Bytes of an answer at most: the path of a cgroup is the longest part.
const ANSWER: usize = 64 << 10;
/// How long the answer is waited for: the doorkeeper may have to be started.
const PATIENCE: TimeVal = TimeVal::new(10, 0);

/// Whose namespace is to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Process id in the initial pid namespace.
    pub(super) pid: u32,
    /// Cookie of the namespace, where that one and no other is meant.
    pub(super) cookie: Option<u64>,
}

impl Question {
    fn encode(self) -> Vec<u8> {
        let mut bytes = BEGINS.to_vec();
        bytes.extend(self.cookie.unwrap_or(0).to_ne_bytes());
        bytes.extend(self.pid.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    /// Nothing where the bytes are no question.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let cookie = bytes.strip_prefix(&BEGINS)?;
        let (cookie, rest) = cookie.split_first_chunk()?;
        let (pid, rest) = rest.split_first_chunk()?;
        let cookie = u64::from_ne_bytes(*cookie);
        let question = Self { pid: u32::from_ne_bytes(*pid), cookie: (cookie != 0).then_some(cookie) };
        (rest == [0; 4] && question.pid != 0).then_some(question)
    }
}

/// What was opened; the sockets come beside it, in the order of `parts`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Opened {
    cookie: u64,
    inode: u64,
    cgroup: (String, u64),
    parts: Vec<Part>,
}

type Answer = Result<Opened, NamespaceError>;

/// How network namespaces of agents are opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// By the daemon itself.
    Own,
    /// By the doorkeeper, which answers.
    Kept,
    /// Not at all, and why.
    Shut(String),
}

/// Which way they are opened. The doorkeeper is asked about this process, which it has to refuse. Blocks.
pub(super) fn which(config: &Config) -> Door {
    if is_own() {
        return Door::Own;
    }
    let path = &config.namespaces_socket;
    let shut = |why: &dyn std::fmt::Display| Door::Shut(format!("{}: {why}", path.display()));
    match put(path, Question { pid: std::process::id(), cookie: None }) {
        Ok((Err(NamespaceError::NotGoverned { .. } | NamespaceError::Rate), sockets)) if sockets.is_empty() => {
            Door::Kept
        }
        Ok((Err(error), _)) => shut(&error),
        Ok((Ok(_), _)) => shut(&"it opens what nobody governs"),
        Err(error) => shut(&error),
    }
}

/// Whether this process may enter namespaces.
fn is_own() -> bool {
    caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_ADMIN).unwrap_or(false)
}

/// Makes the sockets: by a thread of this process where that may enter namespaces, otherwise by the doorkeeper, where there is
/// one. Blocks.
pub(super) fn make(wanted: Wanted) -> Result<Made, NamespaceError> {
    let doors = match enter::look(&wanted)? {
        Err(open) => return Ok(open),
        Ok(doors) => doors,
    };
    if is_own() || !wanted.config.namespaces_socket.exists() {
        return enter::enter(wanted, doors);
    }
    drop(doors);
    ask(&wanted)
}

fn ask(wanted: &Wanted) -> Result<Made, NamespaceError> {
    let question = Question { pid: wanted.wish.pid(), cookie: wanted.wish.cookie() };
    let (answer, sockets) = put(&wanted.config.namespaces_socket, question).map_err(NamespaceError::Door)?;
    let Opened { cookie, inode, cgroup, parts } = answer?;
    if parts.len() != sockets.len() || question.cookie.is_some_and(|asked| asked != cookie) {
        return Err(NamespaceError::Door(io::Error::other("the answer is not to the question")));
    }
    let parts = parts.into_iter().zip(sockets).collect();
    let sockets = Sockets::from_parts(parts, (cookie, wanted.ports), None).map_err(NamespaceError::Door)?;
    Ok(Made { cookie, inode, cgroup, sockets: Some(sockets) })
}

fn put(path: &Path, question: Question) -> io::Result<(Answer, Vec<OwnedFd>)> {
    let door = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&door, sockopt::ReceiveTimeout, &PATIENCE)?;
    setsockopt(&door, sockopt::SendTimeout, &PATIENCE)?;
    connect(door.as_raw_fd(), &UnixAddr::new(path)?)?;
    if getsockopt(&door, sockopt::PeerCredentials)?.uid() != 0 {
        return Err(io::Error::other(format!("{} is not root's", path.display())));
    }
    send(door.as_raw_fd(), &question.encode(), MsgFlags::MSG_NOSIGNAL)?;
    receive(&door)
}

fn receive(door: &OwnedFd) -> io::Result<(Answer, Vec<OwnedFd>)> {
    let mut bytes = vec![0; ANSWER];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!([RawFd; NAMESPACE_DESCRIPTORS]);
    let (length, flags, sockets) = {
        let message = recvmsg::<UnixAddr>(door.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        let mut sockets = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(received) = control {
                sockets.extend(sys::received(received));
            }
        }
        (message.bytes, message.flags, sockets)
    };
    if length == 0 {
        return Err(io::Error::other("it does not answer this process"));
    }
    if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::other("the answer is cut off"));
    }
    let answer = serde_json::from_slice(bytes.get(..length).unwrap_or_default()).map_err(io::Error::other)?;
    Ok((answer, sockets))
}

/// Answers a question, and gives the sockets away.
pub(super) fn answer(door: &impl AsFd, made: Result<Made, NamespaceError>) -> io::Result<()> {
    let (answer, sockets) = match made {
        Ok(Made { cookie, inode, cgroup, sockets: Some(sockets) }) => {
            let (parts, sockets): (Vec<_>, Vec<_>) = sockets.into_parts().into_iter().unzip();
            (Ok(Opened { cookie, inode, cgroup, parts }), sockets)
        }
        // Nothing is known to be open, so nothing can be.
        Ok(Made { sockets: None, .. }) => (Err(NamespaceError::Sockets(io::ErrorKind::NotFound.into())), Vec::new()),
        Err(error) => (Err(error), Vec::new()),
    };
    let text = serde_json::to_vec::<Answer>(&answer)?;
    let descriptors: Vec<RawFd> = sockets.iter().map(std::os::fd::AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let beside = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(door.as_fd().as_raw_fd(), &[IoSlice::new(&text)], beside, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_as_it_was_put_and_nothing_else_is_one() {
        for question in [Question { pid: 7, cookie: None }, Question { pid: u32::MAX, cookie: Some(u64::MAX) }] {
            let bytes = question.encode();
            assert_eq!(bytes.len(), QUESTION);
            assert_eq!(Question::decode(&bytes), Some(question));
            for length in 0..QUESTION {
                assert_eq!(Question::decode(&bytes[..length]), None, "{length}");
            }
            assert_eq!(Question::decode(&[bytes.as_slice(), &[0]].concat()), None, "longer");
            for place in (0..8).chain(20..24) {
                let mut odd = bytes.clone();
                odd[place] ^= 1;
                assert_eq!(Question::decode(&odd), None, "{place}");
            }
        }
        assert_eq!(Question::decode(&Question { pid: 0, cookie: None }.encode()), None, "nobody");
    }

    #[test]
    fn errors_cross_with_their_numbers_and_without_words() {
        let taken = NamespaceError::Port { port: 7, source: io::Error::from_raw_os_error(libc::EADDRINUSE) };
        let text = serde_json::to_string::<Answer>(&Err(taken)).unwrap();
        let answer: Answer = serde_json::from_str(&text).unwrap();
        assert!(answer.unwrap_err().to_string().starts_with("port 7 cannot be had"), "{text}");
    }

    #[test]
    fn where_root_does_not_listen_nothing_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let question = Question { pid: 1, cookie: None };
        assert!(put(&folder.path().join("none"), question).is_err());
    }
}
