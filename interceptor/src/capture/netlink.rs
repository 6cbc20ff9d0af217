//! Questions to the kernel by netlink: framing, and no more.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// `NLM_F_REQUEST`, alone, with `NLM_F_ACK`, and with `NLM_F_DUMP`.
pub(super) const REQUEST: u16 = 0x0001;
pub(super) const ACKNOWLEDGED: u16 = 0x0005;
pub(super) const DUMP: u16 = 0x0301;
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;

/// Length of `nlmsghdr`.
const HEADER: usize = 16;
/// How long an answer is waited for: the kernel gives it while it is asked.
const PATIENCE: TimeVal = TimeVal::new(1, 0);
/// Answers to other questions that are passed over.
const STRAYS: usize = 64;

/// A socket, in the network namespace of the thread that has opened it.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens one for this kind of question, whose answers come in pieces of so many bytes at most.
    pub(super) fn open(protocol: SockProtocol, piece: usize) -> io::Result<Self> {
        Self::of(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?, piece)
    }

    /// A socket that was opened elsewhere. What is left of answers to whoever had it is dropped: the kernel gives each while it is
    /// asked, so no more of them come.
    pub(super) fn of(socket: OwnedFd, piece: usize) -> io::Result<Self> {
        setsockopt(&socket, sockopt::ReceiveTimeout, &PATIENCE)?;
        for _ in 0..STRAYS {
            if recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT).is_err() {
                break;
            }
        }
        Ok(Self { socket, sequence: 0, buffer: vec![0; piece] })
    }

    /// Asks one question. What was left of the answer to another is passed over from now on.
    pub(super) fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        sendto(self.socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// The next messages of the answer: kind and body of each.
    pub(super) fn answer(&mut self) -> io::Result<Vec<(u16, Vec<u8>)>> {
        for _ in 0..STRAYS {
            let length = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            let all = messages(self.buffer.get(..length).unwrap_or_default());
            let own: Vec<_> = all
                .filter(|(_, sequence, _)| *sequence == self.sequence)
                .map(|(kind, _, body)| (kind, body.to_vec()))
                .collect();
            if !own.is_empty() {
                return Ok(own);
            }
        }
        Err(io::Error::other("the kernel answers other questions only"))
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<Netlink> for OwnedFd {
    fn from(netlink: Netlink) -> Self {
        netlink.socket
    }
}

/// The error number in the body of [`NLMSG_ERROR`]; 0 for done.
pub(super) fn error_of(body: &[u8]) -> i32 {
    number(body, 0).map_or(libc::EBADMSG, |number| number.cast_signed().saturating_neg())
}

/// Kind, sequence and body of each message.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(number(rest, 0)?).ok()?;
        let (kind, sequence) = (half(rest, 4)?, number(rest, 8)?);
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, sequence, body))
    })
}

/// Kind and value of each attribute.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(rest, 0)?);
        let kind = half(rest, 2)?;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A word of 32 bits.
pub(super) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_or_lies_about_its_length_is_nothing() {
        assert_eq!(messages(&[16, 0, 0, 0, 3, 0]).count(), 0);
        for byte in [0, 1, 255] {
            assert_eq!(messages(&[byte; 40]).count(), 0, "{byte}");
            assert_eq!(attributes(&[byte; 3]).count(), 0, "{byte}");
        }
        let whole = [20, 0, 0, 0, 3, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(messages(&whole).collect::<Vec<_>>(), [(3, 7, &[1, 2, 3, 4][..])]);
        assert_eq!(
            attributes(&[6, 0, 21, 0, 9, 9, 0, 0, 4, 0, 1, 0]).collect::<Vec<_>>(),
            [(21, &[9, 9][..]), (1, &[])]
        );
        assert_eq!(error_of(&(-2i32).to_ne_bytes()), 2);
        assert_eq!(error_of(&[]), libc::EBADMSG);
    }

    #[test]
    fn what_was_asked_before_is_not_answered_to_who_takes_over() {
        let mut first = Netlink::open(SockProtocol::NetlinkRoute, 4096).unwrap();
        // `RTM_GETLINK` of the loopback.
        let question = [&[0; 4][..], &1i32.to_ne_bytes(), &[0; 8]].concat();
        first.ask(18, REQUEST, &question).unwrap();
        let mut second = Netlink::of(first.into(), 4096).unwrap();
        let left = recv(second.socket.as_raw_fd(), &mut second.buffer, MsgFlags::MSG_DONTWAIT);
        assert_eq!(left, Err(nix::Error::EAGAIN));
    }
}
