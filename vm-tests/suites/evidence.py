"""What the packaged service sees, tells and signs: who leaves a governed cgroup, witnesses, another signing key."""

import pathlib

from guest import AGENT, CONFIG

KEY = pathlib.Path("/var/lib/interceptor/spool.key")
KEPT = pathlib.Path("/root/kept-by-the-journal")
TOLD = ["journalctl", "-b", "-o", "json", "--no-pager", "_SYSTEMD_UNIT=interceptor.service",
        "MESSAGE_ID=6f1f0f2f3c5b4f7a9f0e5d7a1c2b3e4d"]
ELSEWHERE = pathlib.Path("/sys/fs/cgroup/elsewhere")


def run(guest):
    guest.serve()
    guest.ready()
    leaver(guest)
    text = CONFIG.read_text()
    CONFIG.write_text(text + "\n[record.witness]\njournald = true\nevery_seconds = 1\n")
    restart(guest)
    witness(guest)
    rotation(guest)
    CONFIG.write_text(text)
    restart(guest)
    guest.governed_works()


def restart(guest):
    guest.must(["systemctl", "reset-failed", "interceptor"])
    guest.must(["systemctl", "restart", "interceptor"])
    guest.ready()


def leaver(guest):
    guest.must(["systemd-run", "--quiet", "--collect", "--unit=leaver", "--slice=agents.slice", "-p", f"User={AGENT}",
                "sleep", "600"])
    pid = guest.must(["systemctl", "show", "-p", "MainPID", "--value", "leaver"]).strip()
    ELSEWHERE.mkdir(exist_ok=True)

    def told():
        # Seen within by one look at least.
        (pathlib.Path("/sys/fs/cgroup/agents.slice/leaver.service/cgroup.procs")).write_text(pid)
        guest.run(["sleep", "5"])
        (ELSEWHERE / "cgroup.procs").write_text(pid)
        guest.run(["sleep", "5"])
        return "left its governed cgroup" in guest.journal() and f"pid={pid}" in guest.journal()

    guest.wait("who leaves is told of", told, 120)
    export = guest.interceptor("recordings", "export").out
    guest.check("and on record", '"event":"strayed"' in export and str(ELSEWHERE.name) in export)
    guest.run(["kill", pid])
    guest.run(["systemctl", "stop", "leaver"])
    guest.wait("nobody is there", lambda: not (ELSEWHERE / "cgroup.procs").read_text())
    ELSEWHERE.rmdir()


def verified(guest, *more):
    KEPT.write_text(guest.must(TOLD))
    return guest.interceptor("recordings", "verify", "--checkpoint", str(KEPT), *more)


def witness(guest):
    guest.governed_works()
    lines = lambda: sum(line.startswith("{") for line in guest.run(TOLD).out.splitlines())
    guest.wait("the journal is told", lambda: lines() > 0)
    guest.must(["systemctl", "stop", "interceptor"])
    before = lines()
    report = verified(guest)
    guest.check("what it kept fits", report.code == 0, report)
    guest.must(["systemctl", "start", "interceptor"])
    guest.ready()
    guest.governed_works()
    guest.wait("and told again", lambda: lines() > before)


def rotation(guest):
    first = KEY.with_suffix(".key.pub").read_text()
    guest.must(["systemctl", "stop", "interceptor"])
    rotated = guest.interceptor("recordings", "rotate-key")
    guest.check("another key signs", rotated.code == 0 and first.strip() in rotated.out, rotated)
    guest.check("it is the daemon's", KEY.owner() == "interceptor" and KEY.stat().st_mode & 0o777 == 0o600, KEY.stat())
    guest.must(["systemctl", "start", "interceptor"])
    guest.ready()
    guest.governed_works()
    guest.check("it is another one", KEY.with_suffix(".key.pub").read_text() != first)
    [kept] = KEY.parent.glob("spool.key.pub.*")
    for key in [[], ["--key", kept]]:
        report = verified(guest, *key)
        guest.check("it is whole", report.code == 0, report)
    guest.check("the first key alone names the other", "signs, as the key before it says" in report.out, report)
