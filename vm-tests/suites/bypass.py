"""Every known way round, tried on this kernel, at both levels."""

import pathlib

from suites import programs

# For the short set: a few of each kind.
SOME = "TCP, IPv4|TCP, IPv6|UDP, IPv4|ICMP|AF_VSOCK|unattended: TCP|a relay outside, at an abstract socket|in a child cgroup"


def run(guest):
    programs.place()
    results = pathlib.Path("/var/tmp/bypass.json")
    more = {"INTERCEPTOR_BYPASS_RESULTS": str(results)}
    if (programs.PAYLOAD / "short").read_text() == "yes":
        more |= {"INTERCEPTOR_BYPASS_ONLY": SOME}
    shown = guest.follow(["/payload/bin/bypass", "--test-threads=1", "--nocapture"], 5300, env=programs.environment(**more))
    if results.exists():
        guest.file("bypass.json", results.read_text())
    guest.check("nobody gets around", shown.code == 0)
