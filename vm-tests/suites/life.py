"""The service's life: start, work, kill -9, reload, stop, uninstall."""

import pathlib
import time

from guest import AGENT, CONFIG, FAR, PINS, POLICIES


def run(guest):
    guest.serve()
    guest.ready()
    guest.check("it governs what it is told to", guest.status()["governed"] == ["/agents.slice"], guest.status())
    guest.governed_works()
    denied = guest.sql("DELETE FROM customers")
    guest.check("what policy denies is denied, with its reason", "agents may not change customers" in denied.out, denied)
    guest.check("others go on", guest.direct())
    kill(guest)
    reload(guest)
    reload_cgroups(guest)
    stop(guest)
    uninstall(guest)


# Of the daemon, one after the other, while agents knock.
KILLS = 10


def kill(guest):
    with guest.escapes() as escapes:
        knocks = escapes.knock()
        for _ in range(KILLS):
            # So many in a row would be one too many for systemd.
            guest.must(["systemctl", "reset-failed", "interceptor"])
            before = guest.unit("MainPID")
            guest.must(["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "interceptor"])
            guest.wait("systemd starts it again", lambda: guest.unit("MainPID") not in ("0", before))
            guest.ready()
        time.sleep(1)
        guest.must(["systemctl", "stop", knocks])
    guest.check(f"{KILLS} times killed, it is there", guest.unit("ActiveState") == "active")
    guest.governed_works()


def reload(guest):
    path = pathlib.Path("/etc/interceptor/policies/suite.cedar")
    before = guest.unit("MainPID")
    path.write_text(POLICIES.replace("agents may not change customers", "the reason is another one now"))
    guest.must(["systemctl", "reload", "interceptor"])
    said = lambda: "the reason is another one now" in guest.sql("DELETE FROM customers").out
    guest.wait("new policies are in force", said, 30)
    path.write_text("permit (principal, action")
    guest.run(["systemctl", "reload", "interceptor"])
    time.sleep(1)
    guest.check("a mistake changes nothing", said())
    path.write_text(POLICIES)
    guest.must(["systemctl", "reload", "interceptor"])
    guest.check("it is the same process", guest.unit("MainPID") == before)


def reload_cgroups(guest):
    """A slice that is governed from a reload on, while something runs in it, and let go by another once nothing does."""
    before, text = guest.unit("MainPID"), CONFIG.read_text()
    code = (f"import socket, time\nwhile True:\n    s = socket.socket()\n"
            f"    try: s.connect(('{FAR}', 5432)); print('captured' if s.getsockname()[0] == '127.0.0.1' else 'free', flush=True)\n"
            "    except OSError as error: print(error, flush=True)\n    s.close(); time.sleep(0.3)")
    guest.must(["systemd-run", "--quiet", "--collect", "--unit=later", "--slice=later.slice", "-p", f"User={AGENT}",
                "python3", "-c", code])

    def last():
        return guest.run(["journalctl", "-b", "-u", "later", "-n", "1", "--no-pager", "-o", "cat"]).out.strip()

    guest.wait("nobody governs it", lambda: last() == "free")
    # The signal alone attaches nothing, and the daemon says who does.
    CONFIG.write_text(text.replace('["/agents.slice"]', '["/agents.slice", "/later.slice"]'))
    guest.check("the configuration names it", CONFIG.read_text() != text, text)
    guest.must(["systemctl", "kill", "--signal=HUP", "--kill-whom=main", "interceptor"])
    guest.wait("it says so", lambda: "interceptor reload" in guest.journal())
    guest.check("and changes nothing", guest.status()["governed"] == ["/agents.slice"], guest.status())
    guest.must(["systemctl", "reload", "interceptor"])
    guest.check("it is governed", sorted(guest.status()["governed"]) == ["/agents.slice", "/later.slice"], guest.status())
    guest.wait("and captured", lambda: last() == "captured", 30)
    CONFIG.write_text(text)
    guest.must(["systemctl", "reload", "interceptor"])
    guest.check("who runs there stays governed", "/later.slice" in guest.status()["governed"] and last() == "captured", last())
    guest.must(["systemctl", "stop", "later"])
    guest.must(["systemctl", "reload", "interceptor"])
    guest.check("it is let go", guest.status()["governed"] == ["/agents.slice"], guest.status())
    guest.check("it is the same process", guest.unit("MainPID") == before)
    guest.governed_works()


def stop(guest):
    with guest.escapes() as escapes:
        knocks = escapes.knock()
        guest.must(["systemctl", "stop", "interceptor"])
        guest.refused()
        guest.check("others go on", guest.direct())
        guest.must(["systemctl", "start", "interceptor"])
        guest.ready()
        guest.must(["systemctl", "stop", knocks])
    guest.governed_works()


def uninstall(guest):
    guest.must(["systemctl", "stop", "interceptor"])
    freed = guest.interceptor("uninstall")
    guest.check("uninstall frees", freed.code == 0 and "detached" in freed.out, freed)
    guest.check("no pin is left", not PINS.exists())
    free = guest.sql("SELECT 1")
    guest.check("the agent is free", "password authentication failed" in free.out, free)
    guest.must(["systemctl", "start", "interceptor"])
    guest.ready()
    guest.governed_works()
