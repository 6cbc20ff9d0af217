"""An agent that speaks to the socket itself: python raw.py MODE HOST PORT [PID KEY].

peer      prints the address that getpeername tells
run       starts up, prints the cancel key, runs a long query, prints the SQLSTATE that ends it
cancel    sends a cancel request
garbage   sends what is no start-up; prints how the connection ends
truncated sends half a start-up and leaves
huge      starts up, announces a message of 2 GiB, prints the SQLSTATE that ends it
probe     connects, sends a byte, prints how the connection ends
"""

import socket
import struct
import sys

LONG = "SELECT count(*) FROM scratch a, scratch b, scratch c, scratch d WHERE a.id + b.id + c.id + d.id < 0"


def exactly(stream, count):
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def message(stream):
    tag, length = struct.unpack("!cI", exactly(stream, 5))
    return tag, exactly(stream, length - 4)


def state(body):
    fields = [field for field in body.split(b"\0") if field]
    return next((field[1:].decode() for field in fields if field[:1] == b"C"), "none")


def start_up(stream):
    """Starts up and gives the body of BackendKeyData."""
    body = struct.pack("!I", 196608) + b"user\0billing\0database\0orders\0\0"
    stream.sendall(struct.pack("!I", len(body) + 4) + body)
    key = b""
    while True:
        tag, body = message(stream)
        if tag == b"K":
            key = body
        if tag == b"E":
            raise SystemExit(f"refused: {state(body)}")
        if tag == b"R" and body[:4] not in (b"\0\0\0\0",):
            answer = b"the-shared-password\0"
            stream.sendall(b"p" + struct.pack("!I", len(answer) + 4) + answer)
        if tag == b"Z":
            return key


def ending(stream):
    """How the connection ends: the SQLSTATE of an error, or how it was closed."""
    try:
        while True:
            tag, body = message(stream)
            if tag == b"E":
                return state(body)
            if tag == b"Z":
                return "ready"
    except EOFError:
        return "closed"
    except OSError as error:
        return f"broken ({error.strerror or error})"


def main():
    mode, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    try:
        stream = socket.create_connection((host, port), timeout=30)
    except OSError as error:
        print(f"not connected ({error.strerror or error})")
        return
    if mode == "peer":
        print(stream.getpeername()[0], stream.getpeername()[1])
    elif mode == "run":
        key = start_up(stream)
        print(struct.unpack("!I", key[:4])[0], key[4:].hex(), flush=True)
        query = LONG.encode() + b"\0"
        stream.sendall(b"Q" + struct.pack("!I", len(query) + 4) + query)
        print(ending(stream), flush=True)
    elif mode == "cancel":
        key = struct.pack("!I", int(sys.argv[4])) + bytes.fromhex(sys.argv[5])
        stream.sendall(struct.pack("!II", len(key) + 8, 80877102) + key)
        print(ending(stream))
    elif mode == "garbage":
        stream.sendall(b"\xff" * 4096)
        print(ending(stream))
    elif mode == "truncated":
        stream.sendall(struct.pack("!II", 200, 196608) + b"user\0bil")
        stream.close()
        print("left")
    elif mode == "huge":
        start_up(stream)
        try:
            stream.sendall(b"Q" + struct.pack("!I", 0x7FFFFFFF) + b"SELECT 1;" * 100_000)
        except OSError:
            pass
        print(ending(stream))
    elif mode == "probe":
        try:
            stream.sendall(b"\0")
        except OSError:
            pass
        print(ending(stream))


if __name__ == "__main__":
    main()
