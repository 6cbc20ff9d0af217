"""The package goes in as it is, and governs nothing until it is told to."""

import pathlib

from guest import CONFIG, PINS


def run(guest):
    said = guest.must(["dpkg", "-i", "/payload/old.deb"], 240)
    guest.say(said)
    guest.check("the unit is enabled", guest.unit("UnitFileState") == "enabled")
    guest.ready()
    guest.check("the service runs", guest.unit("ActiveState") == "active")
    guest.check("it governs nothing", guest.status()["governed"] == [], guest.status())
    guest.check("no slice was made", not pathlib.Path("/sys/fs/cgroup/agents.slice").exists())
    guest.check("the configuration is valid", guest.interceptor("check").code == 0, guest.interceptor("check"))
    guest.check("it is a configuration file to dpkg", str(CONFIG) in guest.must(["dpkg-query", "-W", "-f${Conffiles}", "interceptor"]))
    for page in ["interceptor.1", "interceptor-run.1", "interceptor-enroll.1"]:
        guest.check(f"{page} is there", pathlib.Path(f"/usr/share/man/man1/{page}.gz").exists())
    for file in ["bash-completion/completions/interceptor", "zsh/vendor-completions/_interceptor",
                 "fish/vendor_completions.d/interceptor.fish"]:
        guest.check(f"{file} is there", pathlib.Path("/usr/share", file).stat().st_size > 1000)
    guest.serve()
    guest.check("the host goes on as it was", guest.direct())
    refused = guest.run(["runuser", "-u", "nobody", "--", "ls", PINS])
    guest.check("pins are root's alone", refused.code != 0, refused)
