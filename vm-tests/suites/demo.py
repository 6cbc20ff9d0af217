"""The demonstration of the README, from beginning to end."""

import pathlib
import shutil

from suites import programs


def run(guest):
    checkout = programs.place()
    # It looks for the program beside its own folder.
    place = checkout / "target/debug/examples/demo"
    place.parent.mkdir(exist_ok=True)
    shutil.copy("/payload/bin/demo", place)
    clients = checkout / "target/clients"
    shown = guest.follow([place, "--fast"], 880, env=programs.environment(INTERCEPTOR_CLIENTS=str(clients)))
    guest.check("it ends well", shown.code == 0 and "found nowhere" in shown.out)
    for words in ["agents may not change customers", "DROP TABLE", "Ada Lovelace"]:
        guest.check(f"it shows {words!r}", words in shown.out)
