//! What opens network namespaces for a daemon without that right, started as its unit says: by the socket, in a cgroup of its
//! own, as a user of its own, with its capabilities, and at home in an empty network namespace.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};

use super::world::{Place, World};

/// Its user, whom every system lets one be.
const USER: &str = "65533";

/// The process. Dropping it ends it.
#[derive(Debug)]
pub struct Doorkeeper {
    child: Child,
}

impl Doorkeeper {
    /// Has the cgroup prepared, and starts it. `interceptor` makes the program with its configuration; `capabilities` are those
    /// of the unit, as setpriv names them; the daemon is the user of this id and name.
    ///
    /// # Errors
    /// When it cannot be started, with its words where it cannot be prepared.
    pub fn start(
        world: &World,
        interceptor: impl Fn(&[&str]) -> Command,
        capabilities: &[String],
        (path, log): (&Path, &Path),
        daemon: (u32, &str),
    ) -> io::Result<Self> {
        let mut prepare = interceptor(&["prepare", "--namespaces"]);
        prepare.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = world.spawn_in(Place::Doorkeeper, prepare)?.wait_with_output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let door = door(path, daemon.0)?;
        let program = interceptor(&["namespaces", "--user", daemon.1]);
        let set: String = capabilities.iter().map(|one| format!(",+{one}")).collect();
        // The process has to know its own id, which only it can.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=door; exec \"$@\"", "sh"]);
        command.args(["unshare", "--net", "setpriv", "--reuid", USER, "--regid", &daemon.0.to_string()]);
        command.args(["--clear-groups", "--no-new-privs", &format!("--inh-caps=-all{set}")]);
        command.args([format!("--ambient-caps=-all{set}"), format!("--bounding-set=-all{set}")]);
        command.arg(program.get_program()).args(program.get_args());
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self { child: world.spawn_handing(Place::Doorkeeper, command, vec![door])? })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn runs(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Doorkeeper {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// As the service manager makes it: for the daemon's user alone.
fn door(path: &Path, user: u32) -> io::Result<OwnedFd> {
    let _absent = fs::remove_file(path);
    let door = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    bind(door.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&door, Backlog::new(16)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    chown(path, Some(user), None)?;
    Ok(door)
}
