"""After a reboot everything is governed before any agent runs."""

import pathlib

from guest import FAR, Reboot

# An agent that starts with the host, and writes down what came of its first attempt.
EARLY = f"""
import socket
# There is no way to the far side yet: what connects is captured, and what is not captured finds no network.
try: said = socket.create_connection(('{FAR}', 5999), 3).getsockname()[0]
except OSError as error: said = str(error)
open('/var/lib/early/said', 'w').write(said)
"""


def run(guest):
    guest.serve()
    guest.ready()
    folder = pathlib.Path("/var/lib/early")
    folder.mkdir(exist_ok=True)
    guest.must(["chown", "billing:", folder])
    (folder / "program.py").write_text(EARLY)
    pathlib.Path("/etc/systemd/system/early.service").write_text(
        f"[Unit]\nAfter=interceptor.service\n[Service]\nType=oneshot\nUser=billing\nSlice=agents.slice\n"
        f"ExecStart=/usr/bin/python3 {folder}/program.py\n[Install]\nWantedBy=multi-user.target\n")
    guest.must(["systemctl", "enable", "early.service"])
    raise Reboot


def resume(guest):
    guest.ready()
    guest.check("the service came with the host", guest.unit("ActiveState") == "active")
    guest.wait("the agent has tried", lambda: pathlib.Path("/var/lib/early/said").exists())
    said = pathlib.Path("/var/lib/early/said").read_text()
    guest.check("the agent that came with the host is governed", said == "127.0.0.1", said)
    guest.serve()
    guest.governed_works()
    verified = guest.interceptor("recordings", "verify")
    guest.check("what was recorded before verifies", verified.code == 0, verified)
