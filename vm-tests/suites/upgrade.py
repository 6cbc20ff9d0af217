"""A newer package over an older one, with agents that live: they stay governed at every moment."""


def version(guest):
    return guest.must(["dpkg-query", "-W", "-f${Version}", "interceptor"])


def run(guest):
    guest.serve()
    guest.ready()
    guest.governed_works()
    before, process = version(guest), guest.unit("MainPID")
    with guest.escapes() as escapes:
        knocks = escapes.knock()
        said = guest.must(["dpkg", "-i", "--force-confold", "/payload/new.deb"], 240)
        guest.say(said)
        guest.ready()
        guest.must(["systemctl", "stop", knocks])
    guest.check("it is another version", version(guest) != before, before)
    guest.check("the new program runs", guest.unit("MainPID") != process)
    guest.check("what was configured stays", guest.status()["governed"] == ["/agents.slice"], guest.status())
    guest.governed_works()
