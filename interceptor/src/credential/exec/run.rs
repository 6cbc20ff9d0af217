//! One run of a program, and what it leaves behind.
//!
//! It is started as the leader of a process group of its own. Whoever waits for it waits for its end, not for what it has
//! started: whatever of its group is left is ended, also where nobody waits any longer. Not promised: what has left the group
//! (`setsid`) is not ended, but not waited for either.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::OUTPUT_LIMIT;
use crate::credential::source::SourceError;
use crate::secret::{Secret, Unreadable};

/// How long what is ended may take to end.
const GRACE: Duration = Duration::from_millis(200);

/// What was started and may not have ended.
#[derive(Debug)]
pub(super) struct Running {
    group: Arc<Group>,
    ends: JoinHandle<io::Result<ExitStatus>>,
}

impl Running {
    /// Ends what is left of it.
    ///
    /// # Errors
    /// It cannot be ended, and so nothing else may be started.
    pub(super) async fn end(&mut self) -> Result<(), SourceError> {
        self.group.end();
        match timeout(GRACE, &mut self.ends).await {
            Ok(Ok(_ended)) => Ok(()),
            Ok(Err(_interrupted)) => Err(SourceError::Interrupted),
            Err(_elapsed) => Err(SourceError::Hangs),
        }
    }
}

/// What a program prints. `running` says what is left to end, where this is given up.
pub(super) async fn printed(mut command: Command, running: &mut Option<Running>) -> Result<Secret, SourceError> {
    let mut child = command.process_group(0).spawn().map_err(Unreadable::Io)?;
    let stdout = child.stdout.take().ok_or(SourceError::Interrupted)?;
    let pid = i32::try_from(child.id()).map_err(|_| SourceError::Interrupted)?;
    let group = Arc::new(Group(Mutex::new(Some(Pid::from_raw(pid)))));
    let leader = Arc::clone(&group);
    let ends = tokio::task::spawn_blocking(move || leader.wait(child));
    let ends = &mut running.insert(Running { group: Arc::clone(&group), ends }).ends;
    // Whatever comes of this, also that nobody waits for it any longer.
    let _ended = Ends(group);
    let mut receiver = Receiver::from_owned_fd(OwnedFd::from(stdout)).map_err(Unreadable::Io)?;
    let mut output = Output::new();
    let mut buffer = Zeroizing::new([0; 4096]);
    let status = loop {
        tokio::select! {
            status = &mut *ends => break status,
            read = receiver.read(&mut buffer[..]), if !output.over => output.take(&buffer[..], read)?,
        }
    };
    let status = status.map_err(|_interrupted| SourceError::Interrupted)?.map_err(Unreadable::Io)?;
    *running = None;
    // What it has printed before its end is there; whoever else holds the pipe open is not waited for.
    let mut rest = File::from(receiver.into_nonblocking_fd().map_err(Unreadable::Io)?);
    while !output.over {
        match rest.read(&mut buffer[..]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            read => output.take(&buffer[..], read)?,
        }
    }
    if status.success() { Ok(output.secret()) } else { Err(SourceError::Program(status)) }
}

/// A process group, by its leader: nothing once that is gone, whose number may be another's then.
#[derive(Debug)]
struct Group(Mutex<Option<Pid>>);

impl Group {
    /// Ends all of it. A confined daemon may not be let to.
    fn end(&self) {
        if let Some(leader) = *self.0.lock() {
            let _best_effort = killpg(leader, Signal::SIGKILL);
        }
    }

    /// Waits for the leader, and ends the others. Blocks.
    fn wait(&self, mut child: Child) -> io::Result<ExitStatus> {
        let leader = *self.0.lock();
        if let Some(leader) = leader {
            // It is left as it is, so that nobody else can have its number.
            while let Err(error) = waitid(Id::Pid(leader), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
                if error != nix::errno::Errno::EINTR {
                    break;
                }
            }
        }
        let mut leader = self.0.lock();
        if let Some(leader) = leader.take() {
            let _nobody_left = killpg(leader, Signal::SIGKILL);
        }
        child.wait()
    }
}

/// Ends a group when it is dropped.
struct Ends(Arc<Group>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What has come, up to the limit.
struct Output {
    bytes: Zeroizing<Vec<u8>>,
    over: bool,
}

impl Output {
    fn new() -> Self {
        // The whole capacity at once: growing would leave an unwiped copy behind.
        Self { bytes: Zeroizing::new(Vec::with_capacity(OUTPUT_LIMIT)), over: false }
    }

    fn take(&mut self, buffer: &[u8], read: io::Result<usize>) -> Result<(), SourceError> {
        let read = match read {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            read => read.map_err(Unreadable::Io)?,
        };
        let piece = buffer.get(..read).unwrap_or_default();
        self.over = piece.is_empty();
        if self.bytes.len() + piece.len() > OUTPUT_LIMIT {
            return Err(SourceError::TooLong);
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    fn secret(mut self) -> Secret {
        Secret::new(std::mem::take(&mut *self.bytes))
    }
}
