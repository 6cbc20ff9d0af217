//! Processes outside that do the agent's bidding, by ways that are not the network.

use interceptor::capture::Refusal;
use interceptor::testing::world::Place;

use super::row::{EPERM, Expected, Row, scoped};

pub(crate) fn rows() -> Vec<Row> {
    [sockets(), files(), devices(), daemons()].into_iter().flatten().collect()
}

fn sockets() -> Vec<Row> {
    const OTHERS: &str = "a user of the agent's own, in whose reach nobody listens; lsm unix_stream_connect";
    vec![
        Row::python("a relay outside, at an abstract socket", "return ask('\\0relay')")
            .helper(Place::Outside, "relay('\\0relay')")
            .open("a Landlock scope; lsm unix_stream_connect, unix_may_send")
            .modules(Refusal::LocalSocket)
            .launched(scoped(EPERM)),
        Row::python("a relay outside, at a socket in /run, /tmp or /var/tmp", "return ask(DIR + '/open/relay')")
            .helper(Place::Outside, "relay(DIR + '/open/relay')")
            .open(HIDDEN)
            .modules(Refusal::LocalSocket)
            .launched(Expected::Errno(libc::ENOENT)),
        Row::python("a relay outside, at a socket elsewhere in the file system", "return ask(ELSEWHERE + '/relay')")
            .helper(Place::Outside, "relay(ELSEWHERE + '/relay')")
            .open(OTHERS)
            .modules(Refusal::LocalSocket)
            .launched_too(),
        Row::python("a relay outside that comes to the agent's own socket elsewhere in the file system", LISTENS)
            .visitor(Place::Outside, "s = socket.socket(UNIX, TCP)\ns.connect(ELSEWHERE + '/own')\ns.sendall(json.dumps(talk(FAR4)).encode())")
            .open("a user of the agent's own, in whose reach nobody else is")
            .launched_too(),
        Row::python(
            "a relay outside, at a socket that another process of the same user sees",
            "return ask(f'/proc/{HELPER_PID}/root{DIR}/open/seen')",
        )
        .helper(Place::Outside, "relay(DIR + '/open/seen')")
        .open("a Landlock domain; lsm ptrace_access_check")
        .modules(Refusal::Process)
        .launched(Expected::Errno(libc::EACCES)),
    ]
}

fn files() -> Vec<Row> {
    const OTHERS: &str = "a user of the agent's own, whose files nobody else reads and obeys";
    vec![
        Row::python("a relay outside, through pipes in /run, /tmp or /var/tmp", "return through(DIR + '/open')")
            .helper(Place::Outside, "pipes(DIR + '/open')")
            .open(HIDDEN)
            .launched(Expected::Errno(libc::ENOENT)),
        Row::python("a relay outside, through pipes elsewhere in the file system", "return through(ELSEWHERE)")
            .helper(Place::Outside, "pipes(ELSEWHERE)")
            .open(OTHERS)
            .launched_too(),
        Row::python("a relay outside, through pipes in /dev/shm", "return through(SHM)")
            .helper(Place::Outside, "pipes(SHM)")
            .open("an empty /dev/shm")
            .launched(Expected::Errno(libc::ENOENT)),
        Row::python("a relay outside, through a file elsewhere that it reads now and then", FILE)
            .helper(Place::Outside, FILE_READER)
            .open(OTHERS)
            .launched_too(),
        Row::python("a relay outside, through message queues (System V)", "return queued()")
            .helper(Place::Outside, "queues()")
            .open("an IPC namespace of the agent's own")
            .launched(Expected::Errno(libc::ENOENT)),
        Row::python("a relay outside, through message queues (POSIX)", "return queued(True)")
            .helper(Place::Outside, "queues(True)")
            .open("an IPC namespace of the agent's own")
            .launched(Expected::Errno(libc::ENOENT))
            .may_be_absent(),
    ]
}

fn devices() -> Vec<Row> {
    vec![
        Row::python("a device that everybody may use, as /dev/vhost-vsock is on many hosts", AUTOFS)
            .errno(EPERM, Refusal::Device { major: 10, minor: 235 })
            .closed_by("D; a Landlock domain: no ioctl(2) on devices but terminals and the like")
            .launched_too()
            .may_be_absent(),
    ]
}

fn daemons() -> Vec<Row> {
    let daemon = |name, body| {
        Row::python(name, body)
            .open(HIDDEN)
            .modules(Refusal::LocalSocket)
            .launched(Expected::Errno(libc::ENOENT))
            .may_be_absent()
    };
    vec![
        daemon("D-Bus: the host's message bus lets it in", DBUS),
        daemon("the host's cache of names (nscd) lets it in", "return reached('/run/nscd/socket') and 'let in'"),
        daemon(
            "the host's resolver (systemd-resolved, by varlink) lets it in",
            "return reached('/run/systemd/resolve/io.systemd.Resolve') and 'let in'",
        ),
        Row::untried(
            "docker.sock, `systemd-run --user`, ssh-agent",
            "no such daemons here; as the relays above",
            HIDDEN,
        ),
        Row::python("cron: a job", CRON)
            .open("no_new_privs: what hands over its jobs is set-group-id")
            .launched(Expected::Errno(EPERM))
            .may_be_absent(),
        Row::python("at: a job", AT)
            .open("no_new_privs: what hands over its jobs is set-user-id")
            .launched(Expected::Errno(EPERM))
            .may_be_absent(),
        Row::untried(
            "request_key(2): a helper of the kernel's asks the resolver",
            "it would act in the host's own namespaces",
            "seccomp",
        )
        // Should it be let through: without a last argument the kernel starts no helper.
        .launched_as("return call(libc.syscall, 249, b'dns_resolver', b'far.test', None, -3)", Expected::Errno(EPERM)),
        Row::untried(
            "mail and print jobs (postdrop, lpr): what a queue of the host sends on",
            "no such queues here; as cron",
            "no_new_privs: what hands jobs over is set-group-id",
        ),
        Row::untried(
            "what it says on its standard output, or to the journal, where logs leave the host",
            "logs are the host's: whoever forwards them forwards what agents say",
            "logs that stay; a look at what agents say there",
        ),
        Row::untried(
            "a core dump: the host's program for them",
            "it is set for the whole host",
            "a limit of one byte (exec, enrolled units)",
        ),
        Row::untried(
            "network file systems: autofs, NFS, sshfs",
            "no such mounts here",
            "a host without them in the agent's reach",
        ),
    ]
}

const HIDDEN: &str = "empty /run, /tmp and /var/tmp; lsm unix_stream_connect, unix_may_send";

const DBUS: &str = "
s = reached('/run/dbus/system_bus_socket')
s.sendall(b'\\0AUTH EXTERNAL ' + str(os.getuid()).encode().hex().encode() + b'\\r\\n')
return s.recv(100)[:2] == b'OK' and 'let in'";

/// Taken back at once.
const CRON: &str = "
tab = '/usr/bin/crontab'
if not os.path.exists(tab): raise OSError(errno.ENOENT, '')
if subprocess.run([tab, '-'], input=b'0 0 1 1 * true\\n', stderr=subprocess.DEVNULL).returncode: raise OSError(errno.EPERM, '')
return subprocess.run([tab, '-r']).returncode == 0 and 'taken'";

/// For next year, and taken back at once.
const AT: &str = "
if not os.path.exists('/usr/bin/at'): raise OSError(errno.ENOENT, '')
made = subprocess.run(['/usr/bin/at', 'now + 300 days'], input=b'true\\n', stderr=subprocess.PIPE)
if made.returncode: raise OSError(errno.EPERM, '')
job = made.stderr.decode().split('job ')[1].split()[0]
return subprocess.run(['/usr/bin/atrm', job]).returncode == 0 and 'taken'";

const LISTENS: &str = "
if os.path.exists(ELSEWHERE + '/own'): os.remove(ELSEWHERE + '/own')
l = socket.socket(UNIX, TCP)
l.bind(ELSEWHERE + '/own')
os.chmod(ELSEWHERE + '/own', 0o666)
l.listen()
wait()
l.settimeout(5)
return said(l.accept()[0])";

/// One that is everywhere, asked for its version.
const AUTOFS: &str = "
with open('/dev/autofs', 'rb') as device:
    return fcntl.ioctl(device, 0xc0189371, struct.pack('=IIIiQ', 1, 0, 24, -1, 0)) and 'answered'";

const FILE: &str = "
open(ELSEWHERE + '/asked', 'w').write('q')
for _ in range(50):
    time.sleep(0.02)
    if os.path.exists(ELSEWHERE + '/answer'): return json.load(open(ELSEWHERE + '/answer'))";

const FILE_READER: &str = "
for name in ('/asked', '/answer'): os.path.exists(ELSEWHERE + name) and os.remove(ELSEWHERE + name)
out('ready')
while not os.path.exists(ELSEWHERE + '/asked'): time.sleep(0.01)
open(ELSEWHERE + '/next', 'w').write(json.dumps(talk(FAR4)))
os.rename(ELSEWHERE + '/next', ELSEWHERE + '/answer')";
