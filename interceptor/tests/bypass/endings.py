import threading
l = socket.create_server(("::", 7500), family=INET6, dualstack_ipv6=True, backlog=200)
def serve():
    while True:
        s = l.accept()[0]
        if s.recv(1) == b"q": s.close()
        else: s.recv(1); s.close()
threading.Thread(target=serve, daemon=True).start()
for n in range(40):
    family, host = ((INET, "127.0.0.1"), (INET6, "::1"))[n % 2]
    c = new(family)
    c.connect((host, 7500))
    if n < 20: c.send(b"q"); c.recv(1)
    c.close()
names = {"01": "ESTABLISHED", "04": "FIN_WAIT1", "05": "FIN_WAIT2", "06": "TIME_WAIT", "08": "CLOSE_WAIT", "09": "LAST_ACK", "0A": "LISTEN"}
for _ in range(100):
    states = {}
    for line in [line.split() for name in ("tcp", "tcp6") for line in open("/proc/net/" + name)]:
        ends = {int(field.split(":")[1], 16) for field in line[1:3] if ":" in field}
        if 7500 in ends:
            state = names.get(line[3], line[3])
            states[state] = states.get(state, 0) + 1
    if set(states) <= {"TIME_WAIT", "LISTEN"}: break
    time.sleep(0.05)
return states
