"""The servers: TCP on port 7000, and those of DNS over TLS and HTTPS, that says its name, on 7001 when asked; a place for datagrams.

Follows the shared part.
"""
import threading
PORTS = (7000, 7001, 853, 443)
u = socket.socket(INET6, UDP)
u.setsockopt(41, 26, 0)
u.bind(("::", 9999))

def serve(s, asked):
    try:
        s.settimeout(20)
        if asked: s.recv(1)
        s.sendall(b'"far"')
        s.shutdown(socket.SHUT_WR)
        while s.recv(4096): pass
    except OSError: pass
    s.close()

def listen(port):
    l = socket.create_server(("::", port), family=INET6, dualstack_ipv6=True, backlog=512)
    while True: threading.Thread(target=serve, args=(l.accept()[0], port == 7001), daemon=True).start()

for port in PORTS: threading.Thread(target=listen, args=(port,), daemon=True).start()
while any(socket.socket(INET, TCP).connect_ex(("127.0.0.1", port)) for port in PORTS): time.sleep(0.01)
out("ready")
while True: u.recv(4096)
