"""No record, no forward: a full disk stops what is governed, and nothing else."""

import pathlib

SPOOL = pathlib.Path("/var/spool/interceptor")


def run(guest):
    guest.serve()
    guest.must(["systemctl", "stop", "interceptor"])
    owner = SPOOL.stat()
    guest.must(["mount", "-t", "tmpfs", "-o", f"size=160M,mode=0700,uid={owner.st_uid},gid={owner.st_gid}", "tmpfs", SPOOL])
    try:
        guest.must(["systemctl", "start", "interceptor"])
        guest.ready()
        guest.governed_works()
        filler = SPOOL / "filler"
        guest.run(["dd", "if=/dev/zero", f"of={filler}", "bs=1M"])
        full = guest.sql("SELECT name FROM customers")
        guest.check("nothing is read without a record", "Ada" not in full.out, full)
        guest.check("others go on", guest.direct())
        filler.unlink()
        guest.wait("with room, it works again", lambda: "Ada" in guest.sql("SELECT name FROM customers").out, 60)
        verified = guest.interceptor("recordings", "verify")
        guest.check("what was recorded verifies", verified.code == 0, verified)
    finally:
        guest.run(["systemctl", "stop", "interceptor"])
        guest.must(["umount", SPOOL])
        guest.must(["systemctl", "start", "interceptor"])
    guest.ready()
    guest.governed_works()
