"""What doctor says of this guest."""

import json


def run(guest):
    shown = guest.interceptor("doctor")
    guest.say(shown.out)
    told = guest.interceptor("doctor", "--json")
    findings = json.loads(told.out)
    guest.check("the daemon can run here", shown.code == 0 and told.code == 0, shown)
    guest.check("everything that is found has words", all(one["name"] and one["detail"] for one in findings))
    bpf = "bpf" in open("/proc/cmdline").read().split("lsm=")[1].split()[0].split(",")
    lsm = next(one for one in findings if one["name"] == "LSM programs")
    guest.check("whether BPF is a security module is seen", (lsm["verdict"] == "ok") == bpf, lsm)
    guest.file("doctor.json", json.dumps(findings, indent=1))
    guest.file("doctor.txt", shown.out)
