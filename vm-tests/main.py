"""Runs the suites that the kernel's command line names, says how each went on the second serial port, and powers off.

A suite is a module below suites/ with a function `run(guest)`. One that reboots leaves a note, and goes on in `resume`.
"""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import traceback

sys.path.insert(0, "/payload")
import guest as house

NOTE = pathlib.Path("/var/lib/suites.json")


def wanted():
    words = pathlib.Path("/proc/cmdline").read_text().split()
    return next(word.removeprefix("suites=") for word in words if word.startswith("suites=")).split(",")


def attempt(name, function, guest):
    """How a suite went, in one line."""
    try:
        function(guest)
        return "passed"
    except house.Skipped as why:
        return f"skipped {why}"
    except house.Reboot:
        raise
    except BaseException as error:
        guest.say(traceback.format_exc())
        guest.say(guest.journal())
        return f"failed {str(error) or type(error).__name__}".replace("\n", " ")[:500]


def main():
    guest = house.Guest()
    note = json.loads(NOTE.read_text()) if NOTE.exists() else {"done": [], "rebooting": None}
    try:
        for name in wanted():
            if name in note["done"]:
                continue
            suite = importlib.import_module(f"suites.{name}")
            resumed = note["rebooting"] == name
            if not resumed:
                guest.say(f"@begin {name}")
            try:
                verdict = attempt(name, suite.resume if resumed else suite.run, guest)
            except house.Reboot:
                note["rebooting"] = name
                NOTE.write_text(json.dumps(note))
                os.sync()
                subprocess.run(["systemctl", "--no-block", "reboot"], check=True)
                return
            note["done"].append(name)
            guest.say(f"@end {name} {verdict}")
            if name == "install" and verdict != "passed":
                break
    except BaseException:
        guest.say(traceback.format_exc())
    subprocess.run(["systemctl", "--no-block", "poweroff"], check=True)


main()
