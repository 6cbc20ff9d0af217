"""A container of systemd-nspawn in the governed slice: its own pids, mounts and root, the host's network."""

from guest import AGENT, CARD, FAR, UID, URL

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


def contain(guest, name, command, *more):
    """systemd-nspawn as a service, as it is run for containers that start with the host."""
    return guest.run([
        "systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={name}", "--slice=agents.slice",
        "-p", "Delegate=yes", *more, "systemd-nspawn", "--quiet", "--directory=/", "--volatile=yes", "--register=no", "--keep-unit",
        f"--machine={name}", "--bind-ro=/run/billing-token", "--as-pid2", "--pipe", *command])


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
