"""What suites share: a PostgreSQL on the far side of a wire, a token, a configuration, and ways to run agents.

The daemon and the agents are in the guest's own network namespace, the server in another one, behind a pair of virtual
interfaces. The guest has no other network.
"""

import json
import os
import pathlib
import pwd
import subprocess
import threading
import time

HOST = "orders-db.internal"
FAR = "10.99.0.2"
NEAR = "10.99.0.1"
AGENT = "billing"
UID = 61001
CARD = "4111111111111111"
URL = f"postgres://billing:the-shared-password@{HOST}:5432/orders?sslmode=disable"
CONFIG = pathlib.Path("/etc/interceptor/interceptor.toml")
PAYLOAD = pathlib.Path("/payload")
PINS = pathlib.Path("/sys/fs/bpf/interceptor")

CONFIGURATION = """
[capture]
cgroups = ["/agents.slice"]
resolver = "none"

[[issuer]]
name = "corp"
kind = "oidc"
issuer = "https://idp.corp.example"
audience = "interceptor"
jwks = "/etc/interceptor/jwks.json"

[[agent]]
name = "billing-bot"
match = { cgroup = ["/agents.slice/billing*", "/agents.slice/billing*/**"], uid = 61001 }
token = { issuer = "corp", from = "file:/run/billing-token/token", subject = "svc:billing", groups = ["finance"] }

[[target]]
name = "orders-db"
protocol = "postgres"
hosts = ["orders-db.internal:5432"]
tls = { upstream = "disable" }
credential = { user = "orders_rw", password = "file:/etc/interceptor/orders_rw.password" }

[[mask]]
tag = "card"
columns = ["*.card"]
detect = ["card"]
transform = { keep_last = 4 }
"""

POLICIES = """
@id("billing-reads-and-writes-orders")
permit (principal in Group::"finance", action in [Action::"sql:read", Action::"sql:write"], resource);

@id("customers-are-read-only")
@reason("agents may not change customers")
@remedy("open a ticket with the customer team")
forbid (
    principal,
    action in [Action::"sql:insert", Action::"sql:update", Action::"sql:delete"],
    resource == Table::"orders-db/orders/public/customers"
);
"""

SAMPLE = """
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, card text);
INSERT INTO customers VALUES (1, 'Ada Lovelace', '4111111111111111'), (2, 'Grace Hopper', '5500005555555559');
CREATE TABLE notes (id serial PRIMARY KEY, text text);
"""


class Skipped(Exception):
    """This guest lacks what the suite needs."""


class Reboot(Exception):
    """The suite goes on after a reboot."""


class Failed(AssertionError):
    """Something is not as it must be."""


class Ran:
    """A command that has ended."""

    def __init__(self, command, code, out):
        self.command, self.code, self.out = command, code, out

    def __repr__(self):
        return f"{' '.join(map(str, self.command))}: {self.code}\n{self.out}"


class Guest:
    def __init__(self):
        self.port = open("/dev/ttyS1", "w", buffering=1, encoding="utf-8", errors="replace")
        # The terminal would change what is said.
        subprocess.run(["stty", "-F", "/dev/ttyS1", "-opost", "-echo"], check=False)
        self.served = False

    # -- talking

    def say(self, text):
        for line in str(text).splitlines() or [""]:
            self.port.write(line + "\n")

    def file(self, name, text):
        for line in text.splitlines():
            self.port.write(f"@file {name}|{line}\n")

    def journal(self):
        units = ["-u", "interceptor", "-u", "interceptor-namespaces"]
        return self.run(["journalctl", "-b", *units, "-n", "80", "--no-pager", "-o", "cat"]).out

    def check(self, what, right, shown=""):
        if not right:
            raise Failed(f"{what}: {shown}")
        self.say(f"  ok: {what}")

    # -- running

    def run(self, command, limit=120, **more):
        """Runs to the end; what it wrote on both streams is one text."""
        done = subprocess.run(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=limit, **more,
        )
        return Ran(command, done.returncode, done.stdout.decode(errors="replace"))

    def follow(self, command, limit, **more):
        """As `run`, and says each line as it comes."""
        process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, errors="replace", **more)
        late = threading.Timer(limit, process.kill)
        late.start()
        lines = []
        for line in process.stdout:
            lines.append(line)
            self.say("  " + line.rstrip())
        late.cancel()
        return Ran(command, process.wait(), "".join(lines))

    def must(self, command, limit=120, **more):
        ran = self.run(command, limit, **more)
        if ran.code != 0:
            raise Failed(f"it failed: {ran}")
        return ran.out

    def interceptor(self, *arguments, limit=120):
        return self.run(["interceptor", *arguments], limit)

    def status(self):
        ran = self.interceptor("status", "--json")
        return json.loads(ran.out) if ran.code == 0 else None

    def unit(self, what, unit="interceptor.service"):
        return self.must(["systemctl", "show", "-P", what, unit]).strip()

    def wait(self, what, question, limit=90):
        """Until the answer is yes; gives it."""
        end = time.monotonic() + limit
        while True:
            answer = question()
            if answer:
                return answer
            if time.monotonic() > end:
                raise Failed(f"{what}: not after {limit} s")
            time.sleep(0.2)

    def ready(self):
        self.wait("the daemon is ready", lambda: self.status() is not None)

    # -- the far side

    def serve(self):
        """A database that agents may reach through interceptor alone, and the configuration that says so."""
        if self.served:
            return
        self.served = True
        self.wire()
        self.database()
        self.configure()
        self.must(["systemctl", "restart", "interceptor"])
        self.ready()

    def wire(self):
        if pathlib.Path("/run/netns/far").exists():
            return
        for line in [
            "netns add far",
            "link add near type veth peer name far",
            "link set far netns far",
            f"addr add {NEAR}/24 dev near",
            "link set near addrgenmode none up",
            "-n far link set lo up",
            f"-n far addr add {FAR}/24 dev far",
            "-n far link set far addrgenmode none up",
            f"route add default via {FAR}",
        ]:
            self.must(["ip", *line.split()])
        hosts = pathlib.Path("/etc/hosts")
        if HOST not in hosts.read_text():
            hosts.write_text(hosts.read_text() + f"{FAR} {HOST}\n")

    def database(self):
        data = pathlib.Path("/var/lib/far-database")
        programs = "/usr/lib/postgresql/15/bin"
        fresh = not data.exists()
        if fresh:
            data.mkdir()
            os.chown(data, pwd.getpwnam("postgres").pw_uid, pwd.getpwnam("postgres").pw_gid)
            self.must(["runuser", "-u", "postgres", "--", f"{programs}/initdb", "-D", data, "-A", "scram-sha-256",
                       "--auth-local=trust", "--locale=C", "--encoding=UTF8", "--no-sync"])
            (data / "pg_hba.conf").write_text("local all all trust\nhost all all all scram-sha-256\n")
            with (data / "postgresql.conf").open("a") as settings:
                settings.write(f"listen_addresses='{FAR}'\nunix_socket_directories='/var/lib/far-database'\nfsync=off\n")
        self.must(["systemd-run", "--unit=far-database", "--collect", "-p", "User=postgres",
                   "-p", "NetworkNamespacePath=/run/netns/far", f"{programs}/postgres", "-D", data])
        psql = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", data]
        self.wait("the database answers", lambda: self.run([*psql, "-c", "SELECT 1"]).code == 0)
        if fresh:
            self.must([*psql, "-c", "CREATE ROLE orders_rw LOGIN PASSWORD 'known-to-interceptor'"])
            self.must([*psql, "-c", "CREATE DATABASE orders OWNER orders_rw"])
            self.must([*psql, "-d", "orders", "-c", f"SET ROLE orders_rw; {SAMPLE}"])

    def configure(self, more=""):
        self.token()
        if not self.run(["id", AGENT]).code == 0:
            # User and group have one number, as in the tests of the checkout.
            self.must(["groupadd", "--gid", UID, AGENT])
            self.must(["useradd", "--uid", UID, "--gid", UID, "--no-create-home", "--shell", "/bin/sh", AGENT])
        CONFIG.write_text(CONFIGURATION + more)
        password = pathlib.Path("/etc/interceptor/orders_rw.password")
        password.write_text("known-to-interceptor")
        password.chmod(0o600)
        pathlib.Path("/etc/interceptor/policies/suite.cedar").write_text(POLICIES)
        owner = self.unit("User")
        if owner:
            self.must(["chown", f"{owner}:", password])

    def token(self, subject="svc:billing", seconds=86400):
        """The agent's token, and the keys by which it is verified."""
        import jwt
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives import serialization
        folder = pathlib.Path("/run/billing-token")
        folder.mkdir(exist_ok=True)
        kept = pathlib.Path("/etc/interceptor/suite-issuer.pem")
        if kept.exists():
            key = serialization.load_pem_private_key(kept.read_bytes(), None)
        else:
            key = ec.generate_private_key(ec.SECP256R1())
            kept.write_bytes(key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())) if hasattr(
            jwt.algorithms.ECAlgorithm, "to_jwk") else jwk(key.public_key())
        public |= {"kid": "one", "use": "sig", "alg": "ES256"}
        pathlib.Path("/etc/interceptor/jwks.json").write_text(json.dumps({"keys": [public]}))
        now = int(time.time())
        claims = {"iss": "https://idp.corp.example", "aud": "interceptor", "sub": subject, "groups": ["finance"],
                  "iat": now, "nbf": now, "exp": now + seconds}
        token = jwt.encode(claims, key, algorithm="ES256", headers={"kid": "one"})
        (folder / "token").write_text(token)
        (folder / "token").chmod(0o644)

    # -- agents

    def agent(self, command, name="billing-one", slice="agents.slice", limit=120):
        """A service in the governed slice, adopted as it is, run to its end."""
        return self.run(["systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={name}",
                         f"--slice={slice}", "-p", f"User={AGENT}", *command], limit)

    def sql(self, *statements, name="billing-one"):
        """An unmodified psql with its original connection string, as the agent."""
        command = ["psql", "-X", "-v", "VERBOSITY=verbose", URL]
        for statement in statements:
            command += ["-c", statement]
        return self.agent(command, name)

    def outsider(self, code, limit=60):
        """Python, as nobody's agent."""
        return self.run(["python3", "-c", code], limit)

    def direct(self):
        """Whether a process that nobody governs reaches the server."""
        code = f"import socket; socket.create_connection(('{FAR}', 5432), 5); print('reached')"
        return "reached" in self.outsider(code).out

    def governed_works(self):
        read = self.sql("SELECT name, card FROM customers ORDER BY id")
        self.check("the agent reads", "Ada Lovelace" in read.out, read)
        self.check("what it reads is masked", CARD not in read.out and "1111" in read.out, read)

    def refused(self):
        """The agent comes to nothing, soon."""
        code = ("import socket, time; begun = time.monotonic()\n"
                f"try: socket.create_connection(('{FAR}', 5432), 20); print('REACHED')\n"
                "except OSError as error: print('refused', time.monotonic() - begun, error)")
        ran = self.agent(["python3", "-c", code])
        self.check("the agent is refused", "refused" in ran.out and "REACHED" not in ran.out, ran)
        took = float(ran.out.split("refused", 1)[1].split()[0])
        self.check("at once", took < 1, f"it took {took} s")

    def escapes(self):
        return Escapes(self)


class Escapes:
    """Counts packets to a port of the far side that nobody but an agent which got out would send."""

    PORT = 5999

    def __init__(self, guest):
        self.guest = guest

    def __enter__(self):
        code = (
            "import select, signal, socket, struct, sys\n"
            "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); n = 0; s.bind(('far', 0)); s.settimeout(0.5)\n"
            "stop = []; signal.signal(signal.SIGTERM, lambda *_: stop.append(1)); print('watching', flush=True)\n"
            "while not stop:\n"
            "    try: frame = s.recv(65535)\n"
            "    except TimeoutError: continue\n"
            f"    if frame[12:14] == b'\\x08\\0' and struct.unpack('!H', frame[36:38])[0] == {self.PORT}: n += 1\n"
            "print('count', n, flush=True)\n"
        )
        self.process = subprocess.Popen(["ip", "netns", "exec", "far", "python3", "-c", code], stdout=subprocess.PIPE)
        self.process.stdout.readline()
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            # One of nobody's agents: what watches does see.
            self.guest.outsider(f"import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('{FAR}', {self.PORT}))")
            time.sleep(1)
        self.process.terminate()
        said = self.process.communicate(timeout=30)[0].decode()
        if kind is None:
            self.guest.check("no packet got out, and one of an outsider's did", said.strip() == "count 1", said)

    def knock(self, name="billing-knocks"):
        """An agent that tries all the time."""
        code = ("import socket, time\n"
                "while True:\n"
                "    s = socket.socket(); s.settimeout(1)\n"
                f"    try: s.connect(('{FAR}', {self.PORT}))\n"
                "    except OSError: pass\n"
                "    s.close()\n"
                "    u = socket.socket(type=socket.SOCK_DGRAM)\n"
                f"    try: u.sendto(b'x', ('{FAR}', {self.PORT}))\n"
                "    except OSError: pass\n"
                "    u.close(); time.sleep(0.05)\n")
        self.guest.must(["systemd-run", "--quiet", "--collect", f"--unit={name}", "--slice=agents.slice",
                         "-p", f"User={AGENT}", "python3", "-c", code])
        return name


def jwk(public):
    import base64
    numbers = public.public_numbers()
    text = lambda number: base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()
    return {"kty": "EC", "crv": "P-256", "x": text(numbers.x), "y": text(numbers.y)}
