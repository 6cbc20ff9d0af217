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
    door(guest)
    guest.file("doctor.json", json.dumps(findings, indent=1))
    guest.file("doctor.txt", shown.out)


def door(guest):
    """Who opens network namespaces, as the daemon finds him: there, gone, there again."""
    socket, service = "interceptor-namespaces.socket", "interceptor-namespaces.service"

    def found():
        told = json.loads(guest.interceptor("doctor", "--json").out)
        return next(one for one in told if one["name"] == "network namespaces of agents")

    answers = found()
    guest.check("who opens network namespaces answers", answers["verdict"] == "ok" and "answers" in answers["detail"], answers)
    guest.must(["systemctl", "stop", socket, service])
    gone = found()
    guest.check("that he is gone is seen, and what to do", gone["verdict"] == "weak" and socket in gone["remedy"], gone)
    guest.must(["systemctl", "start", socket])
    again = found()
    guest.check("he comes when he is asked", again == answers and guest.unit("ActiveState", service) == "active", again)
