"""Whoever has taken over the daemon: what it can have of what opens namespaces for it."""
import array

BEGINS = b"netns\0\0\x01"

def question(pid, cookie=0): return BEGINS + struct.pack("=QII", cookie, pid, 0)

def visit(path):
    s = socket.socket(UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(20)
    s.connect(path)
    return s

def put(path, data, passed=()):
    """The answer, and what came beside it."""
    with visit(path) as s:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed))] if passed else []
        s.sendmsg([data], rights)
        text, control, flags, _ = s.recvmsg(65536, socket.CMSG_SPACE(64))
    got = array.array("i")
    for level, kind, body in control: got.frombytes(body)
    return (json.loads(text) if text else None), list(got)

def ask(path, pid, cookie=0): return put(path, question(pid, cookie))

def why(path, data, passed=()):
    """In a word why there is nothing; `nothing` where there is not even an answer."""
    try: answer, got = put(path, data, passed)
    except (BrokenPipeError, ConnectionResetError): return "nothing"
    for one in got: os.close(one)
    if answer is None: return "nothing"
    if "Ok" in answer: return "opened"
    return answer["Err"] if isinstance(answer["Err"], str) else next(iter(answer["Err"]))

def tried(s):
    """What can be done with a socket beside what it is for."""
    attempts = {
        "mark": lambda: s.setsockopt(1, 36, 7),
        "transparent": lambda: s.setsockopt(0, 19, 1),
        "forced": lambda: s.setsockopt(1, 32, 1 << 20),
    }
    return {name: attempt(work).get("errno") for name, work in attempts.items()}

def administers(s):
    """Whether it changes the loopback, or an address."""
    index = struct.pack("=BBHiII", 0, 0, 0, 1, 0, 1)
    address = struct.pack("=BBBBI", 2, 8, 0, 0, 1) + struct.pack("=HH4s", 8, 2, bytes([10, 77, 0, 9]))
    found = []
    for kind, body in ((16, index), (20, address)):
        s.send(struct.pack("=IHHII", 16 + len(body), kind, 0x5 | 0x400, 1, 0) + body)
        found.append(-struct.unpack_from("=i", s.recv(4096), 16)[0])
    return found
