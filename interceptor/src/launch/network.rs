//! A network namespace of an agent's own: nothing in it but a loopback, on which the daemon listens before the agent connects.
//!
//! What the host has on its loopback, which of its ports are taken, and abstract sockets of its daemons are out of reach, on every
//! kernel. Within, all is as for containers.

use std::io::{self, Write as _};
use std::process::{Child, Command, Stdio};

use crate::capture;

/// Who has the daemon listen there once the agent is where it belongs. A process of its own, outside of the agent's cgroup: who is
/// within is not heard.
pub(super) struct Herald(Child);

impl Herald {
    /// Starts it, to wait for [`Herald::announce`]; then the calling process leaves for a namespace of its own.
    ///
    /// # Errors
    /// When it cannot be started, or the kernel refuses.
    pub(super) fn leave(mut announce: Command) -> io::Result<Self> {
        announce.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let herald = Self(announce.spawn()?);
        capture::move_to_new()?;
        Ok(herald)
    }

    /// Lets it go on, and waits until the daemon listens.
    ///
    /// # Errors
    /// When it does not, with its words.
    pub(super) fn announce(mut self) -> io::Result<()> {
        if let Some(mut told) = self.0.stdin.take() {
            told.write_all(b"\n")?;
        }
        let done = self.0.wait_with_output()?;
        let words = String::from_utf8_lossy(&done.stderr);
        if done.status.success() { Ok(()) } else { Err(io::Error::other(words.trim().to_owned())) }
    }
}
