"""podman as a host has it: systemd makes the cgroups of its containers, and the hook of docs/containers.md tells of them. And a pod in cgroups
as a kubelet has systemd make them."""

import json
import pathlib

from guest import AGENT, CARD, CONFIG, FAR, UID, URL

BOX = pathlib.Path("/var/lib/engine-box")
STORAGE = pathlib.Path("/etc/containers/storage.conf")
HOOK = pathlib.Path("/usr/share/containers/oci/hooks.d/interceptor.json")
PSQL = "/usr/lib/postgresql/15/bin/psql"
POD = "8f2c3a1e_5b6d_4c7e_9a8b_1c2d3e4f5a6b"
CONTAINER = "4f1b6c0e6a2d9c8b7a6f5e4d3c2b1a09876543210fedcba9876543210abcdef0"
SLICE = f"agents-kubepods-besteffort-pod{POD}.slice"

AGENTS = """
[[agent]]
name = "contained"
match = {{ cgroup = ["/agents.slice/libpod-*", "/agents.slice/libpod-*/**"], uid = {uid} }}
{token}

[[agent]]
name = "in-a-pod"
match = {{ pod = "{pod}", container = "{container}", uid = {uid} }}
{token}
"""

# Where it is, what it reads, and what it would send past everybody.
TRIES = f"""
import socket, subprocess
print(open('/proc/self/cgroup').read().strip())
read = subprocess.run(['{PSQL}', '-X', '{URL.replace("orders-db.internal", FAR)}', '-c', 'SELECT name, card FROM customers'],
                      capture_output=True, text=True)
print(read.stdout, read.stderr)
try: print('sent', socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('{FAR}', 5999)))
except OSError as error: print('refused', error)
"""


def run(guest):
    guest.serve()
    token = next(line for line in CONFIG.read_text().splitlines() if line.startswith("token = "))
    guest.configure(AGENTS.format(uid=UID, token=token, pod=POD.replace("_", "-"), container=CONTAINER))
    guest.must(["systemctl", "restart", "interceptor"])
    guest.ready()
    with guest.escapes():
        of_podman(guest)
        of_a_pod(guest)
    guest.configure()
    guest.must(["systemctl", "restart", "interceptor"])
    guest.ready()


def root():
    """What a container's root is made of: nothing of its own, but for places to show the host's programs at."""
    for folder in ["usr", "etc", "proc", "sys", "dev", "tmp", "run", "var"]:
        (BOX / folder).mkdir(parents=True, exist_ok=True)
    for link in ["bin", "lib", "lib64", "sbin"]:
        if not (BOX / link).is_symlink():
            (BOX / link).symlink_to(f"usr/{link}")
    (BOX / "etc/passwd").write_text(f"{AGENT}:x:{UID}:{UID}::/:/bin/sh\n")


# Root of the container is nobody outside; the agent is who it is.
APART = ["--cgroupns=host", f"--uidmap=0:100000:{UID}", f"--uidmap={UID}:{UID}:1", f"--gidmap=0:100000:{UID}", f"--gidmap={UID}:{UID}:1"]


def podman(guest, network, *options):
    return guest.run([
        "podman", "--cgroup-manager=systemd", "--events-backend=none", "run", "--rm", "--log-driver=none", *options,
        "--cgroup-parent=agents.slice", f"--network={network}", f"--user={UID}:{UID}", "--cap-drop=all",
        "-v", "/usr:/usr:ro", "-v", "/run/billing-token:/run/billing-token:ro", "--rootfs", BOX, "python3", "-c", TRIES], limit=300)


def of_podman(guest):
    root()
    STORAGE.write_text('[storage]\ndriver = "vfs"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n')
    HOOK.parent.mkdir(parents=True, exist_ok=True)
    HOOK.write_text(json.dumps({
        "version": "1.0.0", "when": {"always": True}, "stages": ["createRuntime"],
        "hook": {"path": "/usr/bin/interceptor", "args": ["interceptor", "oci-hook"]}}))
    for network, options in [("none", []), ("host", []), ("none", APART)]:
        ran = podman(guest, network, *options)
        read(guest, f"a container of podman's, its network {network}{', its users its own' if options else ''}", ran)
    told = guest.run(["interceptor", "recordings", "export", "--format", "jsonl"]).out
    guest.check("it is on record by what it is", '"contained"' in told, told[-2000:])
    left = [str(path) for path in pathlib.Path("/sys/fs/cgroup/agents.slice").glob("libpod-*")]
    guest.check("no cgroup of it is left", not left, left)
    HOOK.unlink()


def of_a_pod(guest):
    """kubepods.slice/kubepods-QOS.slice/kubepods-QOS-podUID.slice/cri-containerd-ID.scope, below the slice that is governed here."""
    ran = guest.run([
        "systemd-run", "--quiet", "--scope", f"--slice={SLICE}", f"--unit=cri-containerd-{CONTAINER}.scope", f"--uid={UID}", f"--gid={UID}",
        "-p", "Delegate=no", "python3", "-c", TRIES])
    read(guest, "a pod's container", ran)
    told = guest.run(["interceptor", "recordings", "export", "--format", "jsonl"]).out
    guest.check("it is on record as the pod's", '"in-a-pod"' in told, told[-2000:])
    guest.run(["systemctl", "stop", SLICE])


def read(guest, who, ran):
    guest.say(ran)
    guest.check(f"{who}: it reads", "Ada Lovelace" in ran.out, f"{ran}\n{guest.journal()}")
    guest.check(f"{who}: masked", CARD not in ran.out, ran)
    guest.check(f"{who}: nothing else leaves", "refused" in ran.out and "sent" not in ran.out, ran)
