"""`interceptor enroll` on a service, under a real systemd."""

import json
import pathlib
import re

from guest import AGENT, URL

UNIT = pathlib.Path("/etc/systemd/system/billing.service")
OUT = pathlib.Path("/var/lib/billing")

# What the kernel programs do not see, tried by the unit itself.
ATTEMPTS = r'''
import ctypes, errno, json, os, socket, subprocess
libc = ctypes.CDLL(None, use_errno=True)
found = {}
def call(name, number, *arguments):
    result = libc.syscall(number, *arguments)
    found[name] = "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]
for name, family, kind in [("vsock", 40, 1), ("packet", 17, 3), ("xdp", 44, 3), ("rds", 21, 5), ("tipc", 30, 1), ("alg", 38, 5),
                           ("unix", 1, 1), ("tcp", 2, 1), ("tcp6", 10, 1)]:
    call(name, 41, family, kind, 0)
call("io_uring", 425, 1, ctypes.create_string_buffer(120))
call("clone3", 435, ctypes.create_string_buffer(88), 88)
call("user namespace", 272, 0x10000000)
call("ptrace", 101, 0, 0, 0, 0)
call("pidfd_getfd", 438, 0, 0, 0)
call("bpf", 321, 0, 0, 0)
call("keyctl", 250, 0, -3, 0)
found["status"] = {line.split(":")[0]: line.split(":")[1].strip() for line in open("/proc/self/status")
                   if line.split(":")[0] in ("CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Groups")}
found["cgroup"] = open("/proc/self/cgroup").read().strip()
found["run"] = sorted(os.listdir("/run"))
found["cgroups"] = os.access("/sys/fs/cgroup/agents.slice/cgroup.procs", os.W_OK)
found["dbus"] = os.path.exists("/run/dbus/system_bus_socket")
sql = lambda text: subprocess.run(["psql", "-X", URL, "-c", text], capture_output=True, text=True)
read = sql("SELECT name, card FROM customers ORDER BY id")
found["read"] = read.stdout + read.stderr
json.dump(found, open("/var/lib/billing/found.json.new", "w"))
os.rename("/var/lib/billing/found.json.new", "/var/lib/billing/found.json")
import time
time.sleep(3600)
'''


def run(guest):
    guest.serve()
    guest.ready()
    OUT.mkdir(exist_ok=True)
    guest.must(["chown", f"{AGENT}:", OUT])
    program = OUT / "program.py"
    program.write_text(f"URL = {URL!r}\n{ATTEMPTS}")
    # What it denies itself must not make our list of families a list of exceptions.
    UNIT.write_text(f"[Service]\nUser={AGENT}\nRuntimeDirectory=billing\nRestrictAddressFamilies=~AF_PACKET\n"
                    f"ExecStart=/usr/bin/python3 {program}\n")
    guest.must(["systemctl", "daemon-reload"])
    shown = guest.interceptor("enroll", "billing.service")
    guest.check("without a yes nothing is changed", shown.code == 1 and "+ Slice=agents.slice" in shown.out, shown)
    written = guest.interceptor("enroll", "--yes", "billing.service")
    guest.check("the drop-in is written", written.code == 0, written)
    again = guest.interceptor("enroll", "--yes", "billing.service")
    guest.check("once", "nothing to change" in again.out, again)
    verified = guest.run(["systemd-analyze", "verify", "billing.service"])
    guest.check("systemd understands all of it", "zz-interceptor.conf" not in verified.out, verified)
    found = start(guest)
    held(guest, found)
    who = guest.interceptor("whoami", "--pid", guest.unit("MainPID", "billing.service"))
    guest.check("whoami calls it enrolled", "enrolled" in who.out and "billing-bot" in who.out, who)
    sessions = guest.interceptor("recordings", "export", "--format", "jsonl")
    guest.check("its sessions are on record as enrolled", '"level":"enrolled"' in sessions.out, sessions.out[-2000:])
    once_it_starts(guest)
    not_undone(guest)
    loads_nothing(guest)
    survivors(guest)
    escaped(guest)
    never_free(guest)
    fenced(guest)
    root = UNIT.with_name("rooted.service")
    root.write_text("[Service]\nExecStart=/bin/sleep 1000\n")
    guest.must(["systemctl", "daemon-reload"])
    refused = guest.interceptor("enroll", "--yes", "rooted.service")
    guest.check("a unit of root's is refused", refused.code != 0 and "runs as root" in refused.out, refused)
    unknown = guest.interceptor("enroll", "--yes", "nothing.service")
    guest.check("and one that is not there", unknown.code != 0 and "no such unit" in unknown.out, unknown)
    undone = guest.interceptor("enroll", "--undo", "--yes", "billing.service")
    guest.check("it can be undone", undone.code == 0, undone)
    guest.check("nothing is left", not pathlib.Path("/etc/systemd/system/billing.service.d").exists())
    guest.must(["systemctl", "stop", "billing.service"])
    UNIT.unlink()
    root.unlink()
    guest.must(["systemctl", "daemon-reload"])


def level(guest, unit):
    shown = guest.interceptor("whoami", "--pid", guest.unit("MainPID", unit)).out
    found = re.search(r"level\W+(\w+)", shown)
    return found[1] if found else shown


def once_it_starts(guest):
    """What runs when its unit is enrolled was not started so."""
    other = UNIT.with_name("other.service")
    other.write_text(f"[Service]\nUser={AGENT}\nSlice=agents.slice\nNoNewPrivileges=yes\nCapabilityBoundingSet=\n"
                     "SystemCallFilter=~keyctl\nExecStart=/bin/sleep 1000\n")
    guest.must(["systemctl", "daemon-reload"])
    guest.must(["systemctl", "start", "other.service"])
    guest.must(["interceptor", "enroll", "--yes", "other.service"])
    found = level(guest, "other.service")
    guest.check("before its next start it is not called enrolled", found == "adopted", found)
    guest.must(["systemctl", "restart", "other.service"])
    found = level(guest, "other.service")
    guest.check("then it is", found == "enrolled", found)
    guest.must(["interceptor", "enroll", "--undo", "--yes", "other.service"])
    found = level(guest, "other.service")
    guest.check("and no more once that is taken back", found == "adopted", found)
    guest.must(["systemctl", "stop", "other.service"])
    other.unlink()
    guest.must(["systemctl", "daemon-reload"])


def not_undone(guest):
    """What is written into the unit later does not lead around: it does not start."""
    folder = pathlib.Path("/etc/systemd/system/billing.service.d")
    later = {
        "zzz.conf": ("[Service]\nSystemCallFilter=\n", "zzz.conf comes after"),
        "override.conf": ("[Service]\nFileDescriptorStoreMax=4\n", "keeps descriptors"),
        "more.conf": ("[Service]\nBindPaths=/run/dbus\n", "--keep /run/dbus"),
        "root.conf": ("[Service]\nExecStartPre=+/bin/true\n", "as root"),
        "commands.conf": ("[Service]\nExecStartPre=+/bin/true\nExecStartPre=/bin/true\n", "as root"),
        "loads.conf": ("[Service]\nEnvironment=LD_PRELOAD=/var/lib/billing/x.so\n", "LD_PRELOAD"),
        "condition.conf": ("[Service]\nExecCondition=+/bin/true\n", "ExecStartPre="),
        "stream.conf": ("[Service]\nStandardInput=file:/etc/hostname\n", "StandardInput="),
    }
    for name, (text, why) in later.items():
        (folder / name).write_text(text)
        guest.must(["systemctl", "daemon-reload"])
        refused = guest.run(["systemctl", "restart", "billing.service"])
        said = guest.run(["journalctl", "--no-pager", "-u", "interceptor-enrolled@billing.service.service", "-n", "40"])
        guest.check(f"with {name} it does not start, and says why", refused.code != 0 and why in said.out, said)
        (folder / name).unlink()
    # What comes before ours, and is weaker, does not count.
    (folder / "override.conf").write_text("[Service]\nNoNewPrivileges=no\nRestrictAddressFamilies=AF_VSOCK\nSystemCallFilter=\n"
                                         "PAMName=login\nSystemCallArchitectures=x86 x32\n")
    guest.must(["systemctl", "daemon-reload"])
    held(guest, start(guest))
    (folder / "override.conf").unlink()
    guest.must(["systemctl", "daemon-reload"])
    start(guest)


def loads_nothing(guest):
    """What a file says that the agent can write is not loaded by what root runs for the unit."""
    files, traced = pathlib.Path("/etc/systemd/system/billing.service.d/files.conf"), OUT / "loaded"
    (OUT / "env").write_text(f"LD_DEBUG=files\nLD_DEBUG_OUTPUT={traced}\n")
    files.write_text(f"[Service]\nEnvironmentFile={OUT}/env\n")
    guest.must(["systemctl", "daemon-reload"])
    start(guest)
    left = sorted(str(path) for path in OUT.glob("loaded*"))
    guest.check("root loads nothing that the unit's files name", not left, left)
    files.unlink()
    guest.must(["systemctl", "daemon-reload"])


def survivors(guest):
    """What is left of a start before it was enrolled is not called enrolled after another one."""
    other = UNIT.with_name("left.service")
    other.write_text(f"[Service]\nUser={AGENT}\nSlice=agents.slice\nNoNewPrivileges=yes\nCapabilityBoundingSet=\nSystemCallFilter=~keyctl\n"
                     "KillMode=process\nExecStart=/bin/sh -c 'sleep 999 & exec sleep 1000'\n")
    guest.must(["systemctl", "daemon-reload"])
    guest.must(["systemctl", "start", "left.service"])
    guest.must(["interceptor", "enroll", "--yes", "left.service"])
    guest.must(["systemctl", "restart", "left.service"])
    for pid in pathlib.Path("/sys/fs/cgroup/agents.slice/left.service/cgroup.procs").read_text().split():
        shown = guest.interceptor("whoami", "--pid", pid).out
        guest.check("with a survivor in its cgroup nobody is called enrolled", "enrolled" not in shown.split("lacks")[0], shown)
    guest.must(["interceptor", "enroll", "--undo", "--yes", "left.service"])
    guest.must(["systemctl", "kill", "--signal=KILL", "left.service"])
    guest.run(["systemctl", "stop", "left.service"])
    other.unlink()
    guest.must(["systemctl", "daemon-reload"])


def escaped(guest):
    """A name that systemd shows in quotes."""
    other = UNIT.with_name("a\\x2db.service")
    other.write_text(f"[Service]\nUser={AGENT}\nExecStart=/bin/sleep 1000\n")
    guest.must(["systemctl", "daemon-reload"])
    guest.must(["interceptor", "enroll", "--yes", other.name])
    guest.must(["systemctl", "restart", other.name])
    found = level(guest, other.name)
    guest.check("a unit with an escape in its name is enrolled", found == "enrolled", found)
    guest.must(["interceptor", "enroll", "--undo", "--yes", other.name])
    guest.must(["systemctl", "stop", other.name])
    other.unlink()
    guest.must(["systemctl", "daemon-reload"])


def fenced(guest):
    """Units that systemd keeps from addresses by programs of its own."""
    deny = f"[Service]\nUser={AGENT}\nIPAddressDeny=any\n"
    # Governed by itself: systemd of these guests shares with ours.
    alone = UNIT.with_name("fenced.service")
    alone.write_text(f"{deny}ExecStart=/bin/sleep 1000\n")
    guest.must(["systemctl", "daemon-reload"])
    guest.must(["systemctl", "start", "fenced.service"])
    config = pathlib.Path("/run/fenced.toml")
    config.write_text('[capture]\ncgroups = ["/system.slice/fenced.service"]\nresolver = "none"\n')
    named = foreign(guest, config)
    told = all(words in named["detail"] for words in ["sd_fw_egress", "systemd's", "/system.slice/fenced.service"])
    guest.check("doctor names systemd's program, and the unit", named["verdict"] != "ok" and told, named)
    guest.must(["systemctl", "stop", "fenced.service"])
    alone.unlink()
    config.unlink()
    # In a governed slice it is enrolled, with the one address that it needs.
    billing = UNIT.read_text()
    # What is dropped is not refused: without a limit it would be waited for.
    UNIT.write_text(billing.replace("[Service]\n", "[Service]\nIPAddressDeny=any\nEnvironment=PGCONNECT_TIMEOUT=5\n"))
    guest.must(["systemctl", "daemon-reload"])
    found = start(guest)
    guest.check("kept from all addresses it reaches nothing", "Ada Lovelace" not in found["read"], found["read"])
    named = foreign(guest, "/etc/interceptor/interceptor.toml")
    told = "sd_fw_egress at /agents.slice/billing.service" in named["detail"]
    guest.check("doctor says why, and what to do", told and "IPAddressAllow=localhost" in named["remedy"], named)
    written = guest.interceptor("enroll", "--yes", "billing.service")
    guest.check("enroll adds the loopback", "+ IPAddressAllow=localhost" in written.out, written)
    found = start(guest)
    guest.check("then it reads", "Ada Lovelace" in found["read"], found["read"])
    guest.check("once, too", "nothing to change" in guest.interceptor("enroll", "--yes", "billing.service").out)
    UNIT.write_text(billing)
    guest.must(["systemctl", "daemon-reload"])
    guest.must(["interceptor", "enroll", "--yes", "billing.service"])
    start(guest)


def foreign(guest, config):
    found = json.loads(guest.interceptor("doctor", "--json", "--for", config).out)
    return next(one for one in found if one["name"] == "programs of others")


def never_free(guest):
    """Where nothing governs its slice, it does not start."""
    guest.must(["systemctl", "stop", "billing.service", "interceptor.service"])
    guest.must(["interceptor", "uninstall"])
    guest.must(["systemctl", "mask", "--runtime", "interceptor.service"])
    (OUT / "found.json").unlink()
    free = guest.run(["systemctl", "start", "billing.service"])
    guest.check("without the kernel programs it does not start", free.code != 0, free)
    guest.check("and has run nothing", guest.unit("MainPID", "billing.service") == "0" and not (OUT / "found.json").exists())
    guest.must(["systemctl", "unmask", "--runtime", "interceptor.service"])
    # It brings the daemon with it.
    found = start(guest)
    guest.check("with them it does", "Ada Lovelace" in found["read"], found["read"])


def start(guest):
    path = OUT / "found.json"
    path.unlink(missing_ok=True)
    try:
        guest.must(["systemctl", "restart", "billing.service"])
        guest.wait("the unit has tried everything", path.exists, 60)
    except Exception:
        guest.say(guest.run(["systemctl", "status", "--no-pager", "billing.service"]))
        guest.say(guest.run(["journalctl", "-b", "-u", "billing", "-u", "interceptor-enrolled@*", "-n", "40", "--no-pager", "-o", "cat"]))
        raise
    found = json.loads(path.read_text())
    guest.say(json.dumps(found))
    return found


def held(guest, found):
    for family in ["vsock", "packet", "xdp", "rds", "tipc", "alg"]:
        guest.check(f"no socket of {family}", found[family] == "EAFNOSUPPORT", found[family])
    for family in ["unix", "tcp", "tcp6"]:
        guest.check(f"sockets of {family}", found[family] == "ok", found[family])
    for unknown in ["io_uring", "clone3"]:
        guest.check(f"no {unknown}", found[unknown] == "ENOSYS", found[unknown])
    for denied in ["user namespace", "ptrace", "pidfd_getfd", "bpf", "keyctl"]:
        guest.check(f"no {denied}", found[denied] == "EPERM", found[denied])
    for capabilities in ["CapPrm", "CapEff", "CapBnd"]:
        guest.check(f"nothing in {capabilities}", int(found["status"][capabilities], 16) == 0, found["status"])
    guest.check("no new privileges", found["status"]["NoNewPrivs"] == "1")
    guest.check("a filter", found["status"]["Seccomp"] == "2")
    guest.check("its slice", found["cgroup"] == "0::/agents.slice/billing.service", found["cgroup"])
    guest.check("cgroups are not for it to change", not found["cgroups"])
    guest.check("no message bus in sight", not found["dbus"], found["run"])
    guest.check("its token and its own folder are", {"billing", "billing-token"} <= set(found["run"]), found["run"])
    guest.check("it reads, masked", "Ada Lovelace" in found["read"] and "4111111111111111" not in found["read"], found["read"])
