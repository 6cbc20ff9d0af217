//! A small service manager: what systemd is to the daemon, as far as the daemon can tell. It listens to what the daemon
//! says (`sd_notify`), keeps the sockets that it is given, and hands them to the next run; stopping drops them.
//!
//! As systemd does, it believes the service's main process alone, and what it keeps it keeps by name and descriptor.

use std::fs;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, recvmsg, setsockopt, sockopt};
use parking_lot::Mutex;

use super::world::{Place, World, sys};
use crate::clock::{Clock as _, SystemClock};

/// Bytes of a message at most.
const MESSAGE: usize = 4096;

/// The manager of one service. Dropping it drops what it keeps.
#[derive(Debug)]
pub struct Manager {
    path: PathBuf,
    shared: Arc<Shared>,
    /// `WATCHDOG_USEC`, where the service is watched.
    pub watchdog: Option<Duration>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Process whose words count. Locked while one is started: it may speak before its number is known.
    main: Mutex<u32>,
    said: Mutex<Vec<String>>,
    kept: Mutex<Vec<(String, OwnedFd)>>,
}

impl Manager {
    /// A manager that listens in this directory.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let path = directory.join("notify");
        let _absent = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        let shared = Arc::new(Shared::default());
        let heard = Arc::downgrade(&shared);
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        // Ends with the manager.
        thread::spawn(move || {
            while let Some(shared) = heard.upgrade() {
                if let Ok((sender, text, descriptors)) = receive(&socket)
                    && sender == *shared.main.lock()
                {
                    shared.hear(&text, descriptors);
                }
            }
        });
        Ok(Self { path, shared, watchdog: None })
    }

    /// Starts the service in the daemon's place of a world, with all that is kept. `prepare` has the last word on what is
    /// started: where its output goes.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, world: &World, command: &Command, prepare: impl FnOnce(&mut Command)) -> io::Result<Child> {
        let (names, descriptors) = {
            let kept = self.shared.kept.lock();
            let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
            (names.join(":"), kept.iter().map(|(_, kept)| kept.try_clone()).collect::<io::Result<Vec<_>>>()?)
        };
        // The process has to know its own id, which only it can.
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "export LISTEN_PID=$$ WATCHDOG_PID=$$; exec \"$@\"", "sh"]);
        shell.arg(command.get_program()).args(command.get_args());
        shell.env("NOTIFY_SOCKET", &self.path);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        if !descriptors.is_empty() {
            shell.env("LISTEN_FDS", descriptors.len().to_string()).env("LISTEN_FDNAMES", names);
        }
        if let Some(period) = self.watchdog {
            shell.env("WATCHDOG_USEC", period.as_micros().to_string());
        }
        shell.stdin(Stdio::null());
        prepare(&mut shell);
        let mut main = self.shared.main.lock();
        let child = world.spawn_handing(Place::Daemon, shell, descriptors)?;
        *main = child.id();
        Ok(child)
    }

    /// The service is stopped for good: nothing is kept.
    pub fn forget(&self) {
        self.shared.kept.lock().clear();
    }

    /// Keeps something that the service has not given.
    pub fn plant(&self, name: &str, socket: impl Into<OwnedFd>) {
        self.shared.kept.lock().push((name.to_owned(), socket.into()));
    }

    /// Names of what is kept, in order.
    #[must_use]
    pub fn kept(&self) -> Vec<String> {
        let mut names: Vec<String> = self.shared.kept.lock().iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// Waits until exactly that is kept. False where it is not in time.
    #[must_use]
    pub fn keeps(&self, names: &[&str], limit: Duration) -> bool {
        let clock = SystemClock::new();
        while self.kept() != names {
            if clock.monotonic() > limit {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Every line that the service has said so far.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        self.shared.said.lock().clone()
    }

    /// Waits until as many lines of the kind were said. False where they are not in time.
    #[must_use]
    pub fn heard(&self, line: &str, times: usize, limit: Duration) -> bool {
        let clock = SystemClock::new();
        loop {
            if self.shared.said.lock().iter().filter(|said| said.starts_with(line)).count() >= times {
                return true;
            }
            if clock.monotonic() > limit {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Shared {
    fn hear(&self, text: &str, descriptors: Vec<OwnedFd>) {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let name = value("FDNAME").unwrap_or("stored");
        if value("FDSTORE") == Some("1") {
            self.kept.lock().extend(descriptors.into_iter().map(|descriptor| (name.to_owned(), descriptor)));
        }
        if value("FDSTOREREMOVE") == Some("1") {
            self.kept.lock().retain(|(other, _)| other != name);
        }
        self.said.lock().extend(text.lines().map(str::to_owned));
    }
}

/// One message: who sent it, what it says, what came with it.
fn receive(socket: &UnixDatagram) -> io::Result<(u32, String, Vec<OwnedFd>)> {
    let mut bytes = [0; MESSAGE];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!(UnixCredentials, [RawFd; 16]);
    let (length, sender, descriptors) = {
        let message =
            recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        let (mut sender, mut descriptors) = (0, Vec::new());
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::ScmRights(received) => descriptors.extend(sys::received(received)),
                ControlMessageOwned::ScmCredentials(who) => sender = u32::try_from(who.pid()).unwrap_or(0),
                _ => {}
            }
        }
        (message.bytes, sender, descriptors)
    };
    let text = String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned();
    Ok((sender, text, descriptors))
}
