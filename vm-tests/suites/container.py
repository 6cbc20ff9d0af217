"""Containers of systemd-nspawn in the governed slice: their own pids, mounts and root; one in the host's network, one in a network
of its own, which what the package installs opens for a daemon that may not. A service that runs elsewhere is enrolled, and a container with a
way out of its own."""

from guest import AGENT, CARD, FAR, UID, URL
from suites import running

# Beside what everybody may: what a container's root may.
OUT = f"""
import socket
def attempt(name, work):
    try: print(name, 'DONE', work())
    except OSError as error: print(name, error.errno)
def tcp(): s = socket.socket(); s.settimeout(3); s.connect(('{FAR}', 5999)); return s.recv(9)
def udp(): socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('{FAR}', 5999))
def raw(): socket.socket(type=socket.SOCK_RAW, proto=1).sendto(b'x' * 20, ('{FAR}', 0))
for name, work in [('tcp', tcp), ('udp', udp), ('raw', raw)]: attempt(name, work)
"""


def contain(guest, name, command, *more, options=()):
    """systemd-nspawn as a service, as it is run for containers that start with the host."""
    return guest.run([
        "systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={name}", "--slice=agents.slice",
        "-p", "Delegate=yes", *more, "systemd-nspawn", "--quiet", "--directory=/", "--volatile=yes", "--register=no", "--keep-unit",
        f"--machine={name}", "--bind-ro=/run/billing-token", "--as-pid2", "--pipe", *options, *command])


def run(guest):
    guest.serve()
    guest.ready()
    with guest.escapes():
        root = contain(guest, "billing-box", ["python3", "-c", OUT])
        guest.say(root)
        guest.check("root of the container sends nothing", "udp 1" in root.out and "raw DONE" not in root.out, root)
    address = URL.replace("orders-db.internal", FAR)
    sql = ["psql", "-X", address, "-c", "SELECT name, card FROM customers ORDER BY id"]
    refused = contain(guest, "billing-root", sql)
    guest.check("root of the container has no identity", "Ada" not in refused.out, refused)
    read = contain(guest, "billing-user", ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups",
                                           "--inh-caps=-all", *sql])
    guest.check("its agent reads", "Ada Lovelace" in read.out, read)
    guest.check("masked", CARD not in read.out, read)
    apart(guest, sql)
    enroll(guest)
    running.enroll(guest, address)
    told = guest.run(["journalctl", "-b", "-u", DOORKEEPER, "--no-pager", "-o", "cat"]).out
    guest.check("what opens namespaces never was at its limit, however often the daemon began anew",
                "repeated too quickly" not in told, told)
    guest.check("its socket is there", guest.unit("ActiveState", "interceptor-namespaces.socket") == "active")


DOORKEEPER = "interceptor-namespaces.service"

# The first connect is refused where nobody has announced the container.
AGAIN = "for n in $(seq 50); do \"$@\" && exit 0; sleep 0.3; done; exit 1"


def apart(guest, sql):
    """In a network namespace of its own, without any way out."""
    read = contain(guest, "billing-apart", ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups",
                                            "--inh-caps=-all", "sh", "-c", AGAIN, "sh", *sql],
                   options=["--private-network"])
    guest.check("an agent in a network of its own reads", "Ada Lovelace" in read.out, f"{read}\n{guest.journal()}")
    guest.check("masked there as well", CARD not in read.out, read)
    guest.check("what opens namespaces was started", guest.unit("ActiveState", DOORKEEPER) == "active")
    pid = guest.unit("MainPID", DOORKEEPER)
    status = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status") if ":" in line)
    held = int(status["CapBnd"].strip(), 16)
    guest.check("with the capabilities of its unit alone", held == 1 << 21 | 1 << 19 | 1 << 2, status["CapBnd"])
    guest.check("as a user of its own", status["Uid"].split()[0] not in ("0", guest.must(["id", "-u", "interceptor"]).strip()))
    guest.must(["systemctl", "restart", "interceptor"])
    guest.ready()
    again = contain(guest, "billing-apart", ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups",
                                             "--inh-caps=-all", "sh", "-c", AGAIN, "sh", *sql],
                    options=["--private-network"])
    guest.check("also after a restart", "Ada Lovelace" in again.out, f"{again}\n{guest.journal()}")
    guest.must(["systemctl", "stop", "interceptor"])
    guest.check("it ends with the daemon", guest.unit("ActiveState", DOORKEEPER) == "inactive")
    guest.must(["systemctl", "start", "interceptor"])
    guest.ready()


def enroll(guest):
    """A service that nobody governed, in a network of its own, as it runs."""
    code = f"import socket, time\nwhile True:\n    s = socket.socket(); print(s.connect_ex(('{FAR}', 5432)), flush=True); s.close(); time.sleep(0.3)"
    guest.must(["systemd-run", "--quiet", "--collect", "--unit=loose", "-p", "PrivateNetwork=yes", "-p", f"User={AGENT}",
                "python3", "-c", code])

    def last():
        return guest.run(["journalctl", "-b", "-u", "loose", "-n", "1", "--no-pager", "-o", "cat"]).out.strip()

    guest.wait("without a way out", lambda: last() == "101")
    guest.must(["interceptor", "enroll", "--yes", "--cgroup", "/system.slice/loose.service"])
    guest.wait("it is captured", lambda: last() == "0", 30)
    guest.must(["systemctl", "restart", "interceptor"])
    guest.ready()
    guest.check("it stays governed", "/system.slice/loose.service" in guest.status()["governed"], guest.status())
    guest.wait("and captured", lambda: last() == "0", 30)
    guest.must(["interceptor", "enroll", "--yes", "--undo", "--cgroup", "/system.slice/loose.service"])
    guest.wait("it is let go", lambda: last() == "101", 30)
    guest.run(["systemctl", "stop", "loose"])
