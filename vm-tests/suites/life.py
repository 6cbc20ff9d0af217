"""The service's life: start, work, kill -9, reload, stop, uninstall."""

import pathlib
import time

from guest import PINS, POLICIES


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
    stop(guest)
    uninstall(guest)


def kill(guest):
    restarts = int(guest.unit("NRestarts"))
    with guest.escapes() as escapes:
        knocks = escapes.knock()
        guest.must(["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "interceptor"])
        guest.wait("systemd starts it again", lambda: int(guest.unit("NRestarts")) > restarts)
        guest.ready()
        time.sleep(1)
        guest.must(["systemctl", "stop", knocks])
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
