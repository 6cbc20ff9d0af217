"""Test programs that were built elsewhere: what they look for in their checkout is put there."""

import os
import pathlib

PAYLOAD = pathlib.Path("/payload")


def place():
    """The checkout that is built into the programs, as far as they use it."""
    checkout = pathlib.Path((PAYLOAD / "checkout").read_text())
    for link, to in [
        (checkout / "target/debug/interceptor", "/usr/bin/interceptor"),
        (checkout / "policies", PAYLOAD / "policies"),
        (checkout / "target/clients/python/bin/python", "/usr/bin/python3"),
    ]:
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(to)
    (checkout / "interceptor").mkdir(exist_ok=True)
    (checkout / "target/tmp").mkdir(exist_ok=True)
    return checkout


def environment(**more):
    """Programs take longer here than where they were written."""
    return os.environ | {
        "INTERCEPTOR_TEST_PATIENCE": "10",
        "INTERCEPTOR_BYPASS_PROGRAMS": str(PAYLOAD / "bin"),
        "RUST_BACKTRACE": "1",
    } | more
