"""What agents of tests share: each says its results as lines of JSON."""
import ctypes, errno, fcntl, json, os, select, socket, struct, subprocess, sys, threading, time

FAR4, FAR6, MAPPED, NEAR4, NEAR6 = "10.99.0.2", "fd99::2", "::ffff:10.99.0.2", "10.99.0.1", "fd99::1"
TCP, UDP, RAW, INET, INET6, UNIX = 1, 2, 3, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX
libc = ctypes.CDLL(None, use_errno=True)

def out(value): print(json.dumps(value), flush=True)

def attempt(work):
    try: return {"ok": work()}
    except TimeoutError: return {"timeout": True}
    except OSError as error: return {"errno": error.errno}

def call(function, *arguments):
    result = function(*arguments)
    if result < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def connect(host, port, family=INET, prepare=None, limit=5):
    s = socket.socket(family, TCP)
    s.settimeout(limit)
    if prepare: prepare(s)
    s.connect((host, port))
    return s

def read(s):
    """All that the other end says."""
    data = b""
    while True:
        part = s.recv(4096)
        if not part: return data
        data += part

def said(s):
    """The same as a value: the daemon says its record, the server of some tests "far"."""
    data = read(s)
    return json.loads(data) if data else ""

def talk(host, port=7000, family=INET, prepare=None, limit=5): return said(connect(host, port, family, prepare, limit))

def query(name=b"asked"):
    return b"\x12\x34\x01\0\0\1\0\0\0\0\0\0" + bytes([len(name)]) + name + b"\0\0\1\0\1"

def udp(host, port, family=INET, data=b"x"):
    s = socket.socket(family, UDP)
    s.settimeout(3)
    return s.sendto(data, (host, port))
