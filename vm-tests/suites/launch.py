"""`interceptor exec`: the tests of the checkout, on this kernel and with the installed program."""

from suites import programs


def run(guest):
    programs.place()
    shown = guest.follow(["/payload/bin/launch", "--test-threads=1"], 1780, env=programs.environment())
    guest.check("every test passes", shown.code == 0)
