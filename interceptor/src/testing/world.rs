//! A small world for tests and the demonstration: cgroups, two network namespaces, pins, and an eye on the wire.
//!
//! `near` holds the daemon and the agents, `far` the servers; their addresses exist nowhere else, and a [`Sniffer`]
//! proves what crossed between them. Everything hangs on this value: dropping it ends every process that was started
//! here (by cgroup) and removes the rest; what a killed test leaves behind, the next [`World::new`] sweeps away.
//! Needs root. Not promised: isolation of the file system, beyond `/etc/hosts` and `/etc/resolv.conf`.

mod cgroups;
mod sniffer;
pub(super) mod sys;

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::capture::cgroup;
use crate::clock::{Clock, SystemClock};

pub use self::sniffer::{Seen, Sniffer};

/// Where the daemon and the agents live.
pub const NEAR4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Where the servers live.
pub const FAR4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// As [`NEAR4`].
pub const NEAR6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);
/// As [`FAR4`].
pub const FAR6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 2);

/// A program of Python, after what all agents of tests share, and after what those of one suite do.
#[must_use]
pub fn python(suite: &str, code: &str) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", &format!("{}\n{suite}\n{code}", include_str!("agent.py"))]);
    command
}

/// All names begin so, followed by the process and a number.
const PREFIX: &str = "interceptor-test-";

/// Where a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// In a governed cgroup of this name, in the near namespace.
    Agent(&'a str),
    /// In the daemon's cgroup, in the near namespace.
    Daemon,
    /// In the cgroup of what opens namespaces for the daemon, in the near namespace.
    Doorkeeper,
    /// In a cgroup that nobody governs, in the near namespace.
    Outside,
    /// With the servers.
    Far,
    /// With the servers, in a cgroup of this name below theirs, which is ended by itself.
    FarIn(&'a str),
    /// Where a container runtime on the far side puts what it starts: nothing else is in this cgroup, so that it may have
    /// controllers.
    Pods,
}

impl Place<'_> {
    const fn is_far(self) -> bool {
        matches!(self, Self::Far | Self::FarIn(_) | Self::Pods)
    }
}

/// The world.
#[derive(Debug)]
pub struct World {
    name: String,
    directory: PathBuf,
    near: File,
    far: File,
}

impl World {
    /// A fresh world, in which `names` (say `orders-db.internal`) resolve to [`FAR4`] and [`FAR6`].
    ///
    /// # Errors
    /// When not root, or when the kernel or `ip` refuses.
    pub fn new(names: &[&str]) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "a World needs root"));
        }
        sweep()?;
        let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(&name);
        // From here on, dropping cleans up.
        let world = Self { name, directory, near: namespace()?, far: namespace()? };
        fs::create_dir_all(&world.directory)?;
        world.write_names(names)?;
        fs::create_dir_all(world.pins())?;
        // As systemd mounts it.
        mount(Some("bpf"), &world.pins(), Some("bpf"), MsFlags::empty(), Some("mode=700"))?;
        for place in ["daemon", "agents", "outside", "far"] {
            fs::create_dir_all(world.cgroup_directory()?.join(place))?;
        }
        world.wire()?;
        Ok(world)
    }

    /// The cgroup to govern, below the cgroup2 mount.
    #[must_use]
    pub fn agents_cgroup(&self) -> String {
        format!("/{}/agents", self.name)
    }

    /// The cgroup of a place, below the cgroup2 mount.
    #[must_use]
    pub fn cgroup(&self, place: Place<'_>) -> String {
        match place {
            Place::Agent(name) => format!("/{}/agents/{name}", self.name),
            Place::Daemon => format!("/{}/daemon", self.name),
            Place::Doorkeeper => format!("/{}/doorkeeper", self.name),
            Place::Outside => format!("/{}/outside", self.name),
            Place::Far => format!("/{}/far", self.name),
            Place::FarIn(name) => format!("/{}/far/{name}", self.name),
            Place::Pods => format!("/{}/pods", self.name),
        }
    }

    /// A private bpffs: the parent for `pin_directory`.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.directory.join("bpf")
    }

    /// A directory that lives as long as the world, readable to all.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts a process in a place, as root.
    ///
    /// # Errors
    /// When it cannot be started there.
    pub fn spawn_in(&self, place: Place<'_>, command: Command) -> io::Result<Child> {
        self.spawn_as(place, None, command)
    }

    /// Starts a process in a place, under a user id (and the group id of the same number).
    ///
    /// # Errors
    /// As [`World::spawn_in`].
    pub fn spawn_as(&self, place: Place<'_>, uid: Option<u32>, mut command: Command) -> io::Result<Child> {
        sys::enter_before_exec(&mut command, self.entry(place, uid)?);
        command.spawn()
    }

    /// As [`World::spawn_in`], of a program that finds these open from descriptor 3 on.
    ///
    /// # Errors
    /// As [`World::spawn_in`].
    pub fn spawn_handing(
        &self,
        place: Place<'_>,
        mut command: Command,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<Child> {
        sys::enter_before_exec(&mut command, sys::Entry { descriptors, ..self.entry(place, None)? });
        command.spawn()
    }

    /// Removes the cgroup of a place, as a service manager does when nobody is in it any more.
    ///
    /// # Errors
    /// When somebody is.
    pub fn remove(&self, place: Place<'_>) -> io::Result<()> {
        fs::remove_dir(cgroup::mount()?.join(self.cgroup(place).trim_start_matches('/')))
    }

    /// The way into a place, for programs that somebody else starts.
    ///
    /// # Errors
    /// When the place cannot be entered.
    pub fn entrance(&self, place: Place<'_>) -> io::Result<Entrance> {
        Ok(Entrance(self.entry(place, None)?))
    }

    fn entry(&self, place: Place<'_>, uid: Option<u32>) -> io::Result<sys::Entry> {
        let cgroup = cgroup::mount()?.join(self.cgroup(place).trim_start_matches('/'));
        fs::create_dir_all(&cgroup)?;
        Ok(sys::Entry {
            procs: OpenOptions::new().write(true).open(cgroup.join("cgroup.procs"))?,
            namespace: if place.is_far() { &self.far } else { &self.near }.try_clone()?,
            binds: self.binds()?,
            uid,
            descriptors: Vec::new(),
        })
    }

    /// Listens in a place, for a server within this process.
    ///
    /// # Errors
    /// When the address is taken, or is not one of that place.
    pub fn listen(&self, place: Place<'_>, address: SocketAddr) -> io::Result<TcpListener> {
        self.within(place, move || TcpListener::bind(address))
    }

    /// A datagram socket in a place.
    ///
    /// # Errors
    /// As [`World::listen`].
    pub fn datagrams(&self, place: Place<'_>, address: SocketAddr) -> io::Result<UdpSocket> {
        self.within(place, move || UdpSocket::bind(address))
    }

    /// One end of a connection in a place: the one at this address.
    ///
    /// # Errors
    /// As [`World::listen`].
    pub fn connection(&self, place: Place<'_>, address: SocketAddr) -> io::Result<TcpStream> {
        self.within(place, move || {
            let listener = TcpListener::bind(address)?;
            let _other = TcpStream::connect(address)?;
            listener.accept().map(|(stream, _)| stream)
        })
    }

    /// Makes a socket in the network namespace of a place.
    fn within<T: Send + 'static>(
        &self,
        place: Place<'_>,
        make: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let namespace = if place.is_far() { &self.far } else { &self.near }.try_clone()?;
        sys::in_thread(move || {
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
            make()
        })
    }

    /// Runs a process to its end and gives what it wrote; one that takes longer than `limit` is killed.
    ///
    /// # Errors
    /// When it cannot be started, or did not end in time.
    pub fn output(
        &self,
        place: Place<'_>,
        uid: Option<u32>,
        mut command: Command,
        limit: Duration,
    ) -> io::Result<Output> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn_as(place, uid, command)?;
        let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let clock = SystemClock::new();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if clock.monotonic() > limit {
                child.kill()?;
                child.wait()?;
                break None;
            }
            thread::sleep(Duration::from_millis(5));
        };
        let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
        status.map(|status| Output { status, stdout: stdout.clone(), stderr: stderr.clone() }).ok_or_else(|| {
            let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
            io::Error::new(io::ErrorKind::TimedOut, format!("not done after {limit:?}: {stdout}{stderr}"))
        })
    }

    /// Watches the servers' end of the wire from now on.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn sniff(&self) -> io::Result<Sniffer> {
        Sniffer::start(self.far.try_clone()?, None)
    }

    /// As [`World::sniff`], without what goes to this port: where the daemon itself has business there.
    ///
    /// # Errors
    /// Likewise.
    pub fn sniff_beside(&self, port: u16) -> io::Result<Sniffer> {
        Sniffer::start(self.far.try_clone()?, Some(port))
    }

    /// Cuts the wire to the servers: nothing arrives any more, and nobody is told.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn cut(&self) -> io::Result<()> {
        ip(&self.far, "link set far down\n")
    }

    /// Mends it.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn mend(&self) -> io::Result<()> {
        // Addresses of IPv6 went with it.
        ip(&self.far, &format!("link set far up\naddr add {FAR6}/64 dev far nodad\n"))
    }

    /// Whether an address is the servers'.
    #[must_use]
    pub fn is_far(address: IpAddr) -> bool {
        address == IpAddr::V4(FAR4) || address == IpAddr::V6(FAR6)
    }

    fn cgroup_directory(&self) -> io::Result<PathBuf> {
        Ok(cgroup::mount()?.join(&self.name))
    }

    fn write_names(&self, names: &[&str]) -> io::Result<()> {
        let mut hosts = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        for name in names {
            hosts.push_str(&format!("{FAR4} {name}\n{FAR6} {name}\n"));
        }
        fs::write(self.directory.join("hosts"), hosts)?;
        fs::write(self.directory.join("resolv.conf"), format!("nameserver {FAR4}\noptions timeout:1 attempts:1\n"))
    }

    /// Files of ours, and what they cover in the processes' private mount namespace.
    fn binds(&self) -> io::Result<Vec<(CString, CString)>> {
        let mut binds = Vec::new();
        for name in ["hosts", "resolv.conf"] {
            let covered = Path::new("/etc").join(name);
            if covered.exists() {
                binds.push((c_path(&self.directory.join(name))?, c_path(&covered)?));
            }
        }
        Ok(binds)
    }

    /// The wire between the namespaces. All that near does not know goes to far, so that every leak shows there.
    fn wire(&self) -> io::Result<()> {
        let far = format!("/proc/{}/fd/{}", std::process::id(), self.far.as_raw_fd());
        ip(
            &self.near,
            &format!(
                "link set lo up\nlink add near type veth peer name far\nlink set far netns {far}\n\
                 addr add {NEAR4}/24 dev near\naddr add {NEAR6}/64 dev near nodad\nlink set near up\n"
            ),
        )?;
        ip(
            &self.far,
            &format!("link set lo up\naddr add {FAR4}/24 dev far\naddr add {FAR6}/64 dev far nodad\nlink set far up\n"),
        )?;
        ip(&self.near, &format!("route add default via {FAR4}\nroute add ::/0 via {FAR6}\n"))
    }
}

/// Makes a cgroup of a world ([`World::cgroup`]), also in older hierarchies.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn make_cgroup(path: &str) -> io::Result<()> {
    cgroups::make(path.trim_start_matches('/'))
}

/// Ends every process in a cgroup of a world ([`World::cgroup`]) and below it, and removes it, also where container runtimes
/// have made one of this name in older hierarchies.
pub(super) fn end_cgroup(path: &str) {
    let path = path.trim_start_matches('/');
    if path.starts_with(PREFIX) {
        cgroups::end(path);
    }
}

/// A way into a place of the world, which it must not outlive.
#[derive(Debug)]
pub struct Entrance(sys::Entry);

impl Entrance {
    /// Lets a command's child enter the place before it executes.
    ///
    /// # Panics
    /// When the process is out of descriptors.
    #[expect(clippy::panic, reason = "a fixture fails by panicking")]
    pub fn enter_before_exec(&self, command: &mut Command) {
        match self.0.try_clone() {
            Ok(entry) => sys::enter_before_exec(command, entry),
            Err(error) => panic!("no more descriptors: {error}"),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        cgroups::end(&self.name);
        remove_directory(&self.directory);
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_encoded_bytes())?)
}

/// A new network namespace, held by the returned file.
fn namespace() -> io::Result<File> {
    sys::in_thread(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        // So that ping sockets are refused by us rather than by this setting. It belongs to the new namespace alone.
        fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")?;
        File::open("/proc/thread-self/ns/net")
    })
}

fn ip(namespace: &File, batch: &str) -> io::Result<()> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    sys::set_namespace_before_exec(&mut command, namespace.try_clone()?);
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(batch.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("ip: {}", String::from_utf8_lossy(&output.stderr))))
}

fn collect(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before an error is what there is.
            let _partial = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn remove_directory(directory: &Path) {
    // Fails where nothing was mounted. With the mount go the pins, and with the pins the links.
    let _absent = umount2(&directory.join("bpf"), MntFlags::MNT_DETACH);
    // A mount that stayed must not be emptied.
    let _absent = fs::remove_dir(directory.join("bpf"));
    if !directory.join("bpf").exists() {
        let _absent = fs::remove_dir_all(directory);
    }
}

/// Removes what worlds of dead processes left.
fn sweep() -> io::Result<()> {
    for name in cgroups::names() {
        if is_stale(name.as_ref()) {
            cgroups::end(&name);
        }
    }
    for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
        if is_stale(&entry.file_name()) {
            remove_directory(&entry.path());
        }
    }
    Ok(())
}

fn is_stale(name: &std::ffi::OsStr) -> bool {
    let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|rest| rest.split('-').next());
    pid.and_then(|pid| pid.parse::<u32>().ok()).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_processes_are_stale() {
        assert!(!is_stale(format!("{PREFIX}{}-0", std::process::id()).as_ref()));
        assert!(is_stale(format!("{PREFIX}{}-0", u32::MAX).as_ref()));
        assert!(!is_stale("interceptor-test-x-1".as_ref()));
        assert!(!is_stale("system.slice".as_ref()));
    }
}
