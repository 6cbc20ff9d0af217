"""Removed, agents stay refused; purged, they are free. Evidence stays."""

import pathlib

from guest import PINS


def run(guest):
    guest.serve()
    guest.ready()
    guest.governed_works()
    with guest.escapes() as escapes:
        knocks = escapes.knock()
        guest.say(guest.must(["dpkg", "--remove", "interceptor"], 240))
        guest.check("the program is gone", not pathlib.Path("/usr/bin/interceptor").exists())
        guest.refused()
        guest.must(["systemctl", "stop", knocks])
    guest.check("others go on", guest.direct())
    guest.say(guest.must(["dpkg", "--purge", "interceptor"], 240))
    guest.check("no pin is left", not PINS.exists())
    free = guest.sql("SELECT 1")
    guest.check("agents are free", "password authentication failed" in free.out, free)
    spool = pathlib.Path("/var/spool/interceptor")
    guest.check("the evidence stays", any(spool.rglob("*.spool")), list(spool.iterdir()))
    guest.check("the configuration is gone", not pathlib.Path("/etc/interceptor/interceptor.toml").exists())
    guest.say(guest.must(["dpkg", "-i", "/payload/new.deb"], 240))
    guest.ready()
    guest.check("it can come back, and governs nothing", guest.status()["governed"] == [], guest.status())
