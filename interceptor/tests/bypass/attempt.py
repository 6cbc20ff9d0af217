"""What the attempts share: each is the body of a function whose result, or error, is printed as one line of JSON."""
import zlib

UDP_PROTOCOL = 17
DIR, CGROUPS, FAR_PID, HELPER_PID, ELSEWHERE = (os.environ.get("BYPASS_" + name, "") for name in ("DIR", "CGROUPS", "FAR", "HELPER", "ELSEWHERE"))
# Where nobody governs, a process that is as much root's.
DAEMON = os.environ.get("BYPASS_DAEMON", "1")
SHM = "/dev/shm/" + os.path.basename(DIR)
# What container runtimes leave to root: among others CAP_NET_RAW, and neither CAP_NET_ADMIN nor CAP_SYS_ADMIN.
CONTAINER = 0xA80425FB
# The process that makes the attempt, where it is not this one.
SELF = None

def wait():
    """Lets the visitor come, and returns when it has gone."""
    out("ready")
    sys.stdin.readline()

def keep(capabilities):
    """Gives up all capabilities but these."""
    low, high = capabilities & 0xFFFFFFFF, capabilities >> 32
    data = struct.pack("=6I", low, low, 0, high, high, 0)
    call(libc.capset, struct.pack("=Ii", 0x20080522, 0), data)

def new(family=INET, kind=TCP, limit=5):
    s = socket.socket(family, kind)
    s.settimeout(limit)
    return s

def again(work):
    """As long as it is refused: until the daemon listens, say."""
    for _ in range(200):
        try: return work()
        except ConnectionRefusedError: time.sleep(0.02)
    return work()

def tell(host, port=9999, family=INET, data=b"x", flags=0, control=()):
    return new(family, UDP).sendmsg([data], list(control), flags, (host, port))

def address4(host, port, family=2):
    return struct.pack("=H", family) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)

def address6(host, port, family=10, flow=0, scope=0):
    return struct.pack("=H", family) + struct.pack("!HI", port, flow) + socket.inet_pton(INET6, host) + struct.pack("=I", scope)

def datagram6(source, to, port, data):
    """A UDP packet with its IPv6 header."""
    ends, length = socket.inet_pton(INET6, source) + socket.inet_pton(INET6, to), 8 + len(data)
    def udp(checksum): return struct.pack("!4H", port, port, length, checksum) + data
    padded = ends + struct.pack("!II", length, UDP_PROTOCOL) + udp(0) + bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return struct.pack("!IHBB", 0x60000000, length, UDP_PROTOCOL, 64) + ends + udp(total ^ 0xffff or 0xffff)

def near(): return socket.if_nametoindex("near")

def device(s): s.setsockopt(1, 25, b"near\0")

def option(level, name, value=1, family=INET, kind=TCP):
    socket.socket(family, kind).setsockopt(level, name, value)
    return "set"

# A route through the servers' address: IPv4's loose source route, IPv6's segment routing header.
LSRR = bytes([131, 7, 4]) + socket.inet_aton(FAR4) + b"\0"
SRH = bytes([0, 2, 4, 0, 0, 0, 0, 0]) + socket.inet_pton(INET6, FAR6)
RH2 = bytes([0, 2, 2, 1, 0, 0, 0, 0]) + socket.inet_pton(INET6, FAR6)
PAD = bytes([0, 0, 1, 4, 0, 0, 0, 0])
JUMBO = bytes([0, 0, 0xc2, 4, 0, 0, 0, 0])
# UDP, the first of two fragments, with an IP header of its own.
FRAGMENT4 = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 7, 0x2000, 64, 17, 0, socket.inet_aton(NEAR4), socket.inet_aton(FAR4)) + bytes(8)
GROUP4, GROUP6 = socket.inet_aton("239.1.2.3"), socket.inet_pton(INET6, "ff15::1234")
ANY4 = bytes(4)

def storage4(host): return address4(host, 0) + bytes(112)

def storage6(host): return address6(host, 0) + bytes(100)

def group_req(storage): return struct.pack("=Q", near()) + storage

def received(s):
    s.setblocking(False)
    return s.recv(100).decode()

def accepted(s):
    s.setblocking(False)
    return s.accept()[0] and "accepted"

def visited(kind, host, port=7100):
    """A listener that a visitor finds, and what came of it."""
    family = INET6 if ":" in host else INET
    s = socket.socket(family, kind)
    s.bind((host, port))
    if kind == TCP: s.listen()
    wait()
    return accepted(s) if kind == TCP else received(s)

def visit(kind, host, port=7100):
    s = new(INET6 if ":" in host else INET, kind, 0.4)
    s.setsockopt(1, 6, 1)
    if kind == UDP: return [s.sendto(b"in", (host, port)) for _ in range(3)]
    s.connect((host, port))
    return "connected"

def unshare(flags): call(libc.unshare, flags)

def map_ids():
    """Root's identity in a new user namespace."""
    open("/proc/self/setgroups", "w").write("deny")
    open("/proc/self/uid_map", "w").write("0 1000 1")
    open("/proc/self/gid_map", "w").write("0 1000 1")

def lo_up():
    s = socket.socket(INET, UDP)
    request = struct.pack("16sH14x", b"lo", 0x1 | 0x40)
    fcntl.ioctl(s, 0x8914, request)

def receive_socket(path):
    """A socket that a process outside passes."""
    s = socket.socket(UNIX, TCP)
    s.connect(path)
    return received_socket(s)

def received_socket(s):
    data, fds, _, _ = socket.recv_fds(s, 10, 1)
    if not fds: raise OSError(errno.EBADF, "")
    passed = socket.socket(fileno=fds[0])
    passed.settimeout(5)
    return passed

def pass_socket(path, s):
    l = socket.socket(UNIX, TCP)
    l.bind(path)
    if not path.startswith("\0"): os.chmod(path, 0o666)
    l.listen()
    out("ready")
    while True: socket.send_fds(l.accept()[0], [b"here"], [s.fileno()])

def relay(path):
    """An obliging process: what it hears at a local socket, it asks the server."""
    l = socket.socket(UNIX, TCP)
    if os.path.exists(path.strip("\0")): os.remove(path)
    l.bind(path)
    if not path.startswith("\0"): os.chmod(path, 0o666)
    l.listen()
    out("ready")
    while True:
        with l.accept()[0] as s: s.sendall(json.dumps(talk(FAR4)).encode())

def reached(path):
    s = socket.socket(UNIX, TCP)
    s.settimeout(5)
    s.connect(path)
    return s

def ask(path): return said(reached(path))

def pipes(folder):
    """A relay through two pipes in a folder."""
    there, back = folder + "/there", folder + "/back"
    for name in (there, back):
        if os.path.exists(name): os.remove(name)
        os.mkfifo(name)
        os.chmod(name, 0o666)
    out("ready")
    open(there).read()
    open(back, "w").write(json.dumps(talk(FAR4)))

def through(folder):
    with os.fdopen(os.open(folder + "/there", os.O_WRONLY), "w") as there: there.write("q")
    return json.load(open(folder + "/back"))

class Queue:
    """A message queue of either kind."""
    def __init__(self, name, posix, make=False):
        self.posix = posix
        if posix: self.id = call(libc.mq_open, b"/%d" % name, os.O_RDWR | (os.O_CREAT if make else 0), 0o666, None)
        else: self.id = call(libc.msgget, name, 0o1666 if make else 0)
    def send(self, text):
        if self.posix: return call(libc.mq_send, self.id, text, len(text), 0)
        return call(libc.msgsnd, self.id, struct.pack("=q", 1) + text, len(text), 0)
    def receive(self):
        room = ctypes.create_string_buffer(8192)
        if self.posix:
            length = call(libc.mq_receive, self.id, room, 8192, None)
            return room.raw[:length]
        length = call(libc.msgrcv, self.id, room, 4096, 0, 0)
        return room.raw[8:8 + length]
    def remove(self, name):
        if self.posix: libc.mq_unlink(b"/%d" % name)
        else: libc.msgctl(self.id, 0, None)

# The host's: named as the world is.
QUEUES = [zlib.crc32(DIR.encode()) & 0x3fffffff | n << 30 for n in (0, 1)]

def queues(posix=False):
    there, back = (Queue(name, posix, True) for name in QUEUES)
    end, _ours = os.pipe()
    if os.fork() == 0:
        # Nothing else removes them, should the relay be killed.
        os.close(_ours)
        os.read(end, 1)
        for queue, name in zip((there, back), QUEUES): queue.remove(name)
        os._exit(0)
    out("ready")
    there.receive()
    back.send(json.dumps(talk(FAR4)).encode())
    time.sleep(5)

def queued(posix=False):
    there, back = (Queue(name, posix) for name in QUEUES)
    there.send(b"q")
    return json.loads(back.receive())

def permits(kind, attach, directory, flags):
    """A program that permits everything, attached at a cgroup."""
    code = struct.pack('=BBhiBBhi', 0xb7, 0, 0, 1, 0x95, 0, 0, 0)
    code_buffer, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b'GPL')
    load = struct.pack('=IIQQ', kind, 2, ctypes.addressof(code_buffer), ctypes.addressof(licence)) + bytes(40) + struct.pack('=II', 0, attach)
    program = call(libc.syscall, 321, 5, ctypes.create_string_buffer(load, 128), 72)
    where = os.open(directory, os.O_RDONLY)
    call(libc.syscall, 321, 8, struct.pack('=IIII', where, program, attach, flags), 16)
    return 'attached'

def within(command, *namespaces):
    """What a program says that nsenter starts in the servers' namespaces."""
    global SELF
    entered = subprocess.Popen(['nsenter', '-t', FAR_PID, *namespaces, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    SELF = entered.pid
    said = entered.communicate()[0]
    if entered.returncode or not said: raise OSError(errno.EPERM, 'nsenter fails')
    value = json.loads(said)
    if 'errno' in value: raise OSError(value['errno'], '')
    return value['ok']

def squat(host):
    l = socket.create_server((host, 15001), family=INET6 if ":" in host else INET)
    out("ready")
    while True:
        with l.accept()[0] as s: s.sendall(b'"outside"')
