"""As many sessions at once as there can be: here nobody limits how many descriptors a process may have."""

import shutil

from suites import programs

TEST = "crowds::ten_thousand_sessions_at_once"


def run(guest):
    checkout = programs.place()
    shutil.copytree(programs.PAYLOAD / "clients", checkout / "interceptor/tests/clients", dirs_exist_ok=True)
    command = ["/payload/bin/fire", "--test-threads=1", "--nocapture", "--exact", TEST]
    shown = guest.follow(command, 3500, env=programs.environment())
    guest.check("ten thousand sessions at once", shown.code == 0 and "open 9950 refused 0" in shown.out)
