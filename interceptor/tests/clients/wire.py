"""An agent that is told what to say, message by message: python wire.py HOST PORT STEP...

What is said is held back until a step that reads, so that steps in a row are one pipeline.

ssl | gss              asks for encryption
answer                 reads one byte, and prints it
tls                    starts TLS after `ssl`, without verifying anything
start VERSION [N=V]... sends a start-up packet, as `start 3.0 replication=true`
cancel                 a cancel request with the key of this connection, over another one
query TEXT             Query
parse NAME TEXT        Parse
bind PORTAL NAME [V].. Bind, values as text; `-` is an empty name
describe PORTAL        Describe of a portal
execute PORTAL ROWS    Execute
call OID [V]...        FunctionCall, values as text
data TEXT              CopyData, with a line end
sync | flush | done | fail
bytes HEX              these bytes
send                   writes what is held back
ready                  reads to the next ReadyForQuery
until TAG              reads to the next message of that type
end                    reads until the connection is closed
pause SECONDS          waits

Prints one line a message: its type, then the SQLSTATE of an error, the status of ReadyForQuery, the values of a row, or
the text of what else has any.
"""

import socket
import ssl
import struct
import sys
import time

from raw import message, state

VALUES = {b"E": state, b"N": state}


def cstring(text):
    return (b"" if text == "-" else text.encode()) + b"\0"


def packed(values):
    """Formats (all text) and values."""
    body = struct.pack("!HH", 0, len(values))
    for value in values:
        body += struct.pack("!I", len(value.encode())) + value.encode()
    return body


def row(body):
    count, at, values = struct.unpack("!H", body[:2])[0], 2, []
    for _ in range(count):
        (length,) = struct.unpack("!i", body[at : at + 4])
        at += 4
        values.append("NULL" if length < 0 else body[at : at + length].decode())
        at += max(length, 0)
    return "|".join(values)


def shown(tag, body):
    if tag in VALUES:
        return VALUES[tag](body)
    if tag == b"D":
        return row(body)
    if tag == b"v":
        version, count = struct.unpack("!II", body[:8])
        return f"{version >> 16}.{version & 0xFFFF} {count}"
    if tag == b"K":
        return str(len(body) - 4)
    if tag == b"V":
        return "NULL" if body[:4] == b"\xff\xff\xff\xff" else body[4:].decode()
    if tag in (b"C", b"Z", b"d", b"A"):
        return body.decode(errors="replace").rstrip("\0\n")
    return ""


class Agent:
    def __init__(self, host, port):
        self.address = (host, port)
        self.stream = socket.create_connection(self.address, timeout=60)
        self.held = b""
        self.key = b""

    def say(self, tag, body=b""):
        self.held += tag + struct.pack("!I", len(body) + 4) + body

    def send(self):
        held, self.held = self.held, b""
        try:
            self.stream.sendall(held)
        except OSError as error:
            print(f"not sent ({error.strerror or error})", flush=True)

    def read(self):
        tag, body = message(self.stream)
        if tag == b"K":
            self.key = body
        print(f"{tag.decode()} {shown(tag, body)}".rstrip(), flush=True)
        return tag

    def read_to(self, tags):
        self.send()
        try:
            while self.read() not in tags:
                pass
        except EOFError:
            print("closed", flush=True)
        except OSError as error:
            print(f"broken ({error.strerror or error})", flush=True)

    def request(self, code):
        self.held += struct.pack("!II", 8, code)

    def step(self, words):
        name, rest = words[0], words[1:]
        if name in ("ssl", "gss"):
            self.request(80877103 if name == "ssl" else 80877104)
        elif name == "answer":
            self.send()
            print(self.stream.recv(1).decode() or "closed", flush=True)
        elif name == "tls":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.stream = context.wrap_socket(self.stream)
        elif name == "start":
            major, minor = rest[0].split(".")
            body = struct.pack("!HH", int(major), int(minor)) + b"user\0billing\0database\0orders\0"
            for pair in rest[1:]:
                body += b"".join(cstring(part) for part in pair.split("=", 1))
            body += b"\0"
            self.held += struct.pack("!I", len(body) + 4) + body
        elif name == "cancel":
            other = socket.create_connection(self.address, timeout=60)
            other.sendall(struct.pack("!II", len(self.key) + 8, 80877102) + self.key)
            other.recv(1)
        elif name == "query":
            self.say(b"Q", cstring(" ".join(rest)))
        elif name == "parse":
            self.say(b"P", cstring(rest[0]) + cstring(" ".join(rest[1:])) + b"\0\0")
        elif name == "bind":
            self.say(b"B", cstring(rest[0]) + cstring(rest[1]) + packed(rest[2:]) + b"\0\0")
        elif name == "describe":
            self.say(b"D", b"P" + cstring(rest[0]))
        elif name == "execute":
            self.say(b"E", cstring(rest[0]) + struct.pack("!I", int(rest[1])))
        elif name == "call":
            self.say(b"F", struct.pack("!I", int(rest[0])) + packed(rest[1:]) + b"\0\0")
        elif name == "data":
            self.say(b"d", " ".join(rest).encode() + b"\n")
        elif name == "fail":
            self.say(b"f", b"enough\0")
        elif name in ("sync", "flush", "done"):
            self.say({"sync": b"S", "flush": b"H", "done": b"c"}[name])
        elif name == "bytes":
            self.held += bytes.fromhex("".join(rest))
        elif name == "send":
            self.send()
        elif name == "ready":
            self.read_to((b"Z",))
        elif name == "until":
            self.read_to((rest[0].encode(),))
        elif name == "end":
            self.read_to(())
        elif name == "pause":
            self.send()
            time.sleep(float(rest[0]))
        else:
            raise SystemExit(f"no step is called {name}")


def main():
    agent = Agent(sys.argv[1], int(sys.argv[2]))
    for step in sys.argv[3:]:
        agent.step(step.split(" "))


if __name__ == "__main__":
    main()
