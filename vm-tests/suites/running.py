"""A container that runs already, with a wire of its own that leads to the far side, enrolled by its name."""

import json
import pathlib

from guest import AGENT, CARD, CONFIG, FAR, NEAR, UID

BOX = "loose-box"
UNIT = "boxed"
# What it tells, and where it alone writes.
FOLDER = pathlib.Path("/var/lib/boxed")
# Its end of the wire, and the host's.
WITHIN, WITHOUT = "10.77.0.2", "10.77.0.1"
FORWARD = pathlib.Path("/proc/sys/net/ipv4/ip_forward")

# Takes its end, as the container's root.
ROOT = """
import os, subprocess, time
def ip(*words): subprocess.run(['ip', *words], check=True)
while not os.path.exists('/sys/class/net/within'): time.sleep(0.1)
ip('link', 'set', 'lo', 'up'); ip('addr', 'add', WITHIN + '/24', 'dev', 'within'); ip('link', 'set', 'within', 'up')
ip('route', 'add', 'default', 'via', WITHOUT)
who = [f'--reuid={UID}', f'--regid={UID}', '--clear-groups', '--inh-caps=-all']
os.execvp('setpriv', ['setpriv', *who, 'python3', '-c', AGENT])
"""

# Tries everything over and over. One connection it keeps.
LOOP = """
import json, os, socket, subprocess, time
def connected():
    while True:
        try: return socket.create_connection((FAR, 5998), 2)
        except OSError: time.sleep(0.2)
kept = connected()
kept.settimeout(0.2)
def state():
    try: return kept.recv(1).decode() or 'closed'
    except TimeoutError: return 'open'
    except OSError as error: return str(error)
def datagram():
    try: socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', (FAR, 5999)); return 'sent'
    except OSError as error: return str(error)
def sql(text):
    ran = subprocess.run(['psql', '-X', URL, '-c', text], capture_output=True, text=True)
    return ran.stdout + ran.stderr
for turn in range(10**9):
    told = {'turn': turn, 'kept': state(), 'datagram': datagram(),
            'read': sql('SELECT name, card FROM customers'), 'delete': sql('DELETE FROM customers')}
    with open(FOLDER + '/new', 'w') as file: json.dump(told, file)
    os.rename(FOLDER + '/new', FOLDER + '/told')
    time.sleep(0.5)
"""

# Takes connections, and says nothing.
EAR = f"import socket\nl = socket.create_server(('{FAR}', 5998))\nall = []\nwhile True: all.append(l.accept())"


def free(told):
    return "password authentication failed" in told["read"] and told["datagram"] == "sent"


def judged(told):
    return ("Ada Lovelace" in told["read"] and CARD not in told["read"] and told["kept"] != "open"
            and "agents may not change customers" in told["delete"] and "not permitted" in told["datagram"])


def until(guest, what, right):
    """Until what the container tells of a turn that has begun since is right."""
    path = FOLDER / "told"
    told = lambda: json.loads(path.read_text()) if path.exists() else {"turn": -1}
    before = told()["turn"]
    try:
        guest.wait(what, lambda: told()["turn"] > before + 1 and right(told()))
    except Exception:
        guest.say(path.read_text() if path.exists() else "it has told nothing")
        guest.say(guest.run(["systemctl", "status", "--no-pager", "-n", "20", UNIT]))
        guest.say(guest.run(["journalctl", "-b", "-n", "30", "--no-pager", "-o", "cat"]))
        raise
    guest.say(f"  ok: {what}")


def named(program, **values):
    return "".join(f"{name} = {value!r}\n" for name, value in values.items()) + program


def begin(guest, address):
    """Known by its name; and free, as it is."""
    token = next(line for line in CONFIG.read_text().splitlines() if line.startswith("token = "))
    guest.configure(f'\n[[agent]]\nname = "boxed"\nmatch = {{ container = "{BOX}", uid = {UID} }}\n{token}\n')
    guest.must(["systemctl", "restart", "interceptor"])
    guest.ready()
    guest.must(["systemd-run", "--quiet", "--collect", "--unit=far-ear", "-p", "NetworkNamespacePath=/run/netns/far",
                "python3", "-c", EAR])
    FOLDER.mkdir(exist_ok=True)
    guest.must(["chown", f"{AGENT}:", FOLDER])
    loop = named(LOOP, FAR=FAR, URL=address, FOLDER=str(FOLDER))
    code = named(ROOT, WITHIN=WITHIN, WITHOUT=WITHOUT, UID=UID, AGENT=loop)
    guest.must(["systemd-run", "--quiet", "--collect", f"--unit={UNIT}", "systemd-nspawn", "--quiet", "--directory=/",
                "--volatile=yes", f"--machine={BOX}", "--bind-ro=/run/billing-token", f"--bind={FOLDER}", "--as-pid2", "--pipe",
                "--network-veth-extra=without:within", "python3", "-c", code])
    guest.wait("the wire is there", pathlib.Path("/sys/class/net/without").exists)
    guest.must(["ip", "addr", "add", f"{WITHOUT}/24", "dev", "without"])
    guest.must(["ip", "link", "set", "without", "up"])
    guest.must(["ip", "-n", "far", "route", "replace", "10.77.0.0/24", "via", NEAR])
    FORWARD.write_text("1")
    until(guest, "it reaches the far side, and keeps a connection", lambda told: free(told) and told["kept"] == "open")


def enroll(guest, address):
    begin(guest, address)
    done = guest.interceptor("enroll", "--yes", "--container", BOX)
    cgroup = done.out.split(" is governed from now on")[0].strip()
    guest.check("it is enrolled", done.code == 0 and cgroup.startswith("/machine.slice/machine-loose"), done)
    guest.check("its connection is ended", not done.out.split("; ")[1].startswith("0 "), done)
    within = lambda: [one for one in guest.status()["namespaces"] if one["cgroup"].startswith(cgroup)]
    guest.check("somebody listens in it before it connects", within(), guest.status())
    until(guest, "what it begins is judged", judged)
    with guest.escapes():
        guest.must(["systemctl", "restart", "interceptor"])
        guest.ready()
        until(guest, "also after a restart", judged)
    guest.check("it stays governed", cgroup in guest.status()["governed"], guest.status())
    told = guest.interceptor("recordings", "export", "--format", "jsonl")
    guest.check("it is on record by its name", '"boxed"' in told.out, told.out[-2000:])
    undone = guest.interceptor("enroll", "--yes", "--undo", "--container", BOX)
    guest.check("it is let go", undone.code == 0, undone)
    guest.check("and nobody listens in it any more", not within(), guest.status())
    until(guest, "it reaches the far side again", free)
    guest.must(["systemctl", "stop", UNIT, "far-ear"])
    FORWARD.write_text("0")
    guest.configure()
    guest.must(["systemctl", "restart", "interceptor"])
    guest.ready()
