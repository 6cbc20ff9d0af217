"""What agents in namespaces of their own share. Each talks in lines of JSON, and goes on when told to."""
NEWNET, NEWUSER = 0x40000000, 0x10000000

def go(): return sys.stdin.readline().strip()

def lo_up():
    s = socket.socket(INET, UDP)
    fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))

def contain(up=True):
    """A network namespace that root makes, as a container's runtime does."""
    call(libc.unshare, NEWNET)
    if up: lo_up()

def drop(uid=1000):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)

def own(up=True):
    """User and network namespaces of its own: root in there."""
    uid = os.getuid()
    call(libc.unshare, NEWNET | NEWUSER)
    open("/proc/self/setgroups", "w").write("deny")
    open("/proc/self/uid_map", "w").write(f"0 {uid} 1")
    open("/proc/self/gid_map", "w").write(f"0 {uid} 1")
    if up: lo_up()

def ip(*words): subprocess.run(["ip", *words], check=True)

def nft(rules): subprocess.run(["nft", rules], check=True)

def until(work, tries=200):
    """The first result that is no refusal."""
    for _ in range(tries):
        result = attempt(work)
        if result.get("errno") != errno.ECONNREFUSED: return result
        time.sleep(0.02)
    return result

def ask(resolver, family=INET, connected=False, limit=1.0):
    """Asks a resolver, and gives who answered."""
    s = socket.socket(family, UDP)
    s.settimeout(limit)
    if connected:
        s.connect((resolver, 53))
        s.send(query())
    else: s.sendto(query(), (resolver, 53))
    data, source = s.recvfrom(600)
    return [source[0], source[1], s.getpeername()[0] if connected else None, data[:3].hex()]

def asked(resolver, **how):
    """Again, where nothing came."""
    for _ in range(100):
        result = attempt(lambda: ask(resolver, **how))
        if "ok" in result: return result
        time.sleep(0.02)
    return result
