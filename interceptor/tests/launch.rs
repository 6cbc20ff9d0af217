//! `interceptor exec`: an agent that is started so works unmodified, and every way out that the kernel programs cannot see is
//! shut. Needs root. The agents are odd Python programs with raw system calls.

#![cfg(test)]

#[path = "launch/trust.rs"]
mod trust;

mod tests {
    use std::fs;
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::process::{Command, Output, Stdio};
    use std::time::Duration;

    use interceptor::capture::{Scope, Verdict, probe};
    use interceptor::testing::stage::{AGENT_UID, CARD, HOST, Script, Stage};
    use interceptor::testing::world::Place;
    use interceptor::tls::authority::ENVIRONMENT;
    use serde_json::Value;

    pub(crate) const LIMIT: Duration = Duration::from_secs(60);

    fn stage() -> Stage {
        let binary = Path::new(env!("CARGO_BIN_EXE_interceptor"));
        Stage::set(binary, &Script::default()).unwrap_or_else(|error| panic!("no stage: {error}"))
    }

    pub(crate) fn exec(stage: &Stage, more: &[&str], command: &[&str]) -> Output {
        let mut exec = stage.interceptor(&[&["exec", "--agent", "billing-bot"], more, &["--"], command].concat());
        // Whoever runs the tests may have some of their own, which would stay.
        for (name, _) in ENVIRONMENT {
            exec.env_remove(name);
        }
        exec.current_dir("/");
        stage.world.output(Place::Outside, None, exec, LIMIT).unwrap()
    }

    pub(crate) fn said(output: &Output) -> String {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// Tries: names, and what each comes to: `ok`, or the name of the error.
    const PRELUDE: &str = r#"
import ctypes, errno, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
results = {}
def call(name, number, *arguments):
    result = libc.syscall(number, *arguments)
    results[name] = "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]
def attempt(name, work):
    try: work(); results[name] = "ok"
    except OSError as error: results[name] = errno.errorcode.get(error.errno, str(error))
"#;

    fn attempts(stage: &Stage, script: &str) -> Value {
        let script = format!("{PRELUDE}\n{script}\nprint(json.dumps(results))");
        let output = exec(stage, &[], &["/usr/bin/python3", "-c", &script]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)))
    }

    #[test]
    fn an_unmodified_client_works_and_is_governed() {
        let stage = stage();
        let url = stage.url();
        let read = exec(&stage, &[], &["psql", "-X", &url, "-c", "SELECT name, card FROM customers ORDER BY id"]);
        assert!(read.status.success() && said(&read).contains("Ada Lovelace"), "{}", said(&read));
        assert!(!said(&read).contains(CARD), "{}", said(&read));
        let denied = exec(&stage, &[], &["psql", "-X", &url, "-c", "DELETE FROM customers"]);
        assert!(said(&denied).contains("agents may not change customers"), "{}", said(&denied));
        let events = stage.operate(&["recordings", "export", "--format", "jsonl"]).unwrap();
        assert!(said(&events).contains("billing-bot"), "{}", said(&events));
    }

    /// A stage with a host CA.
    fn stage_with_a_ca() -> Stage {
        with_a_ca(&Script::default())
    }

    /// The same of another script.
    pub(crate) fn with_a_ca(script: &Script) -> Stage {
        let binary = Path::new(env!("CARGO_BIN_EXE_interceptor"));
        let stage = Stage::set(binary, script).unwrap_or_else(|error| panic!("no stage: {error}"));
        let path = stage.path("interceptor.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}\n[ca]\ndir = \"{}\"\n", stage.path("ca").display())).unwrap();
        for arguments in [&["ca", "init", "--user", "root"][..], &["reload"]] {
            let output = stage.operate(arguments).unwrap();
            assert!(output.status.success(), "{}", said(&output));
        }
        stage
    }

    /// With nothing but what `exec` gives it, Python trusts what it is shown; what it was given otherwise stays.
    #[test]
    fn a_launched_agent_trusts_the_host_ca() {
        let stage = stage_with_a_ca();
        let script = format!(
            r#"
import ssl
def meet():
    context = ssl.create_default_context()
    context.set_alpn_protocols(["postgresql"])
    results["version"] = context.wrap_socket(socket.create_connection(("{HOST}", 5432)), server_hostname="{HOST}").version()
attempt("verified", meet)
results["variables"] = {{name: os.environ.get(name) for name in ["NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE"]}}
results["in sight"] = [open(os.environ[name]).read().count("BEGIN") > 0 for name in ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"]]
attempt("the key", lambda: open(os.environ["SSL_CERT_FILE"].replace("bundle.pem", "ca.key")))
"#
        );
        let results = attempts(&stage, &script);
        assert_eq!((&results["verified"], &results["version"]), (&"ok".into(), &"TLSv1.3".into()), "{results}");
        assert_eq!(results["in sight"], serde_json::json!([true, true]));
        assert_eq!(results["variables"]["NODE_EXTRA_CA_CERTS"], stage.path("ca/ca.pem").to_str().unwrap());
        assert_ne!(results["the key"], "ok");

        let mut exec =
            stage.interceptor(&["exec", "--agent", "billing-bot", "--", "/usr/bin/printenv", "CURL_CA_BUNDLE"]);
        exec.current_dir("/").env("CURL_CA_BUNDLE", "/own.pem");
        let kept = stage.world.output(Place::Outside, None, exec, LIMIT).unwrap();
        assert_eq!(said(&kept).trim(), "/own.pem");
    }

    /// Meets the target as any program of Java does, with the trust that its JDK comes with.
    const JAVA: &str = r#"
import javax.net.ssl.*;
public class Meet {
    public static void main(String[] arguments) throws Exception {
        try (var socket = (SSLSocket) SSLSocketFactory.getDefault().createSocket(arguments[0], 5432)) {
            var parameters = socket.getSSLParameters();
            parameters.setApplicationProtocols(new String[] { "postgresql" });
            parameters.setEndpointIdentificationAlgorithm("HTTPS");
            socket.setSSLParameters(parameters);
            socket.startHandshake();
            System.out.println("met " + socket.getSession().getProtocol());
        } catch (SSLException refused) { System.out.println("refused " + refused.getMessage()); }
    }
}
"#;

    /// What follows it changes nothing of this machine's stores.
    const STORES_OF_ITS_OWN: &str = r#"
set -e
layers="$1"; mkdir "$layers"; mount -t tmpfs tmpfs "$layers"
for folder in /etc/ssl /etc/ca-certificates /usr/local/share/ca-certificates /var/lib/ca-certificates-java /var/lib/dpkg; do
    mkdir -p "$folder"; copy="$layers/$(echo "$folder" | tr / _)"
    cp -a "$folder" "$copy"; mount --bind "$copy" "$folder"
done
"#;

    /// By the system's store, as Debian's JDK has it: nothing is said to Java.
    #[test]
    fn a_launched_agent_in_java_trusts_the_host_ca_once_it_is_installed() {
        let stage = stage_with_a_ca();
        let source = stage.path("Meet.java");
        fs::write(&source, JAVA).unwrap();
        let words = |command: &Command| {
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            words.map(|word| format!("'{}'", word.to_string_lossy())).collect::<Vec<_>>().join(" ")
        };
        let source = source.to_string_lossy().into_owned();
        let meet = words(&stage.interceptor(&["exec", "--agent", "billing-bot", "--", "/usr/bin/java", &source, HOST]));
        let install = words(&stage.interceptor(&["ca", "install", "--yes"]));
        let mut script = Command::new("unshare");
        let steps = format!("{STORES_OF_ITS_OWN}cd /\n{meet}\n{install}\n{meet}\n{install} --undo\n{meet}\n");
        script.args(["--mount", "sh", "-c", &steps, "sh"]).arg(stage.path("layers"));
        for (name, _) in ENVIRONMENT {
            script.env_remove(name);
        }
        let output = stage.world.output(Place::Outside, None, script, 3 * LIMIT).unwrap();
        let told = said(&output);
        let seen: Vec<&str> =
            told.lines().filter(|line| line.starts_with("met ") || line.starts_with("refused ")).collect();
        assert!(
            matches!(seen.as_slice(), [before, "met TLSv1.3", behind] if before.contains("certification path") && behind.contains("certification path")),
            "{told}"
        );
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_way_that_no_kernel_program_sees_is_shut() {
        let stage = stage();
        let results = attempts(
            &stage,
            r#"
results["descriptors"] = sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1]
for name, family, kind, protocol in [
        ("vsock", 40, 1, 0), ("packet", 17, 3, 0), ("xdp", 44, 3, 0), ("rds", 21, 5, 0), ("tipc", 30, 1, 0),
        ("smc", 43, 1, 0), ("alg", 38, 5, 0), ("bluetooth", 31, 1, 0), ("can", 29, 3, 1), ("kcm", 41, 2, 0),
        ("key", 15, 3, 2), ("packet by its old name", 2, 10, 0x300), ("the same with flags", 2, 10 | 0o2000000, 0x300), ("x25", 9, 5, 0), ("netlink audit", 16, 3, 9), ("netlink xfrm", 16, 3, 6),
        ("netlink diag", 16, 3, 4), ("netlink route", 16, 3, 0), ("unix", 1, 1, 0), ("tcp", 2, 1, 6), ("tcp6", 10, 1, 6)]:
    call(name, 41, family, kind, protocol)
# The upper half of an argument is nothing that the kernel reads.
call("vsock with noise", 41, ctypes.c_uint64(0xdead00000028), 1, 0)
for name, family in [("pair of unix", 1), ("pair of tcp", 2), ("pair of tipc", 30)]: call(name, 53, family, 1, 0, ctypes.create_string_buffer(8))
call("x32 socket", 0x40000000 + 41, 40, 1, 0)
call("io_uring", 425, 1, ctypes.create_string_buffer(120))
call("clone3", 435, ctypes.create_string_buffer(88), 88)
call("new user namespace", 272, 0x10000000)
call("new network namespace", 272, 0x40000000)
call("clone into a user namespace", 56, 0x10000000 | 17, 0, 0, 0, 0)
call("setns", 308, os.open("/proc/self/ns/net", os.O_RDONLY), 0)
call("ptrace", 101, 0, 0, 0, 0)
call("pidfd_getfd", 438, 0, 0, 0)
call("process_vm_readv", 310, os.getpid(), 0, 0, 0, 0, 0)
call("keyctl", 250, 0, -3, 0)
call("request_key", 249, b"dns_resolver", b"example.test", None, -3)
call("bpf", 321, 0, 0, 0)
call("mount", 165, b"x", b"/tmp", b"tmpfs", 0, None)
call("open_by_handle_at", 304, -1, 0, 0)
call("typing into the terminal", 16, 0, 0x5412, b"x")
call("perf_event_open", 298, 0, 0, -1, -1, 0)
attempt("become root", lambda: os.setuid(0))
attempt("another group", lambda: os.setgroups([0]))
import fcntl, pty, termios
def terminal():
    ours, theirs = pty.openpty()
    again = os.open(os.ttyname(theirs), os.O_RDWR | os.O_NOCTTY)
    termios.tcsetattr(again, termios.TCSANOW, termios.tcgetattr(again))
attempt("a terminal of its own", terminal)
attempt("the null device is no terminal", lambda: fcntl.ioctl(os.open("/dev/null", os.O_RDWR), 0x5401, bytes(60)))
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
results["status"] = {name: status[name] for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Groups"]}
results["run"], results["tmp"] = os.listdir("/run"), sorted(os.listdir("/tmp"))
results["ids"] = os.getresuid() + os.getresgid()
import subprocess
sudo = subprocess.run(["/usr/bin/su", "-c", "id", "root"], capture_output=True, stdin=subprocess.DEVNULL)
results["su"] = sudo.returncode
"#,
        );
        let came_to = |name: &str| results[name].as_str().unwrap_or_else(|| panic!("{name}: {results}")).to_owned();
        for family in [
            "vsock",
            "vsock with noise",
            "packet",
            "packet by its old name",
            "the same with flags",
            "xdp",
            "rds",
            "tipc",
            "smc",
            "alg",
            "bluetooth",
            "can",
            "kcm",
            "key",
            "x25",
            "netlink audit",
            "netlink xfrm",
            "netlink diag",
            "pair of tcp",
            "pair of tipc",
        ] {
            assert_eq!(came_to(family), "EAFNOSUPPORT", "{family}");
        }
        for allowed in ["netlink route", "unix", "pair of unix", "tcp", "tcp6"] {
            assert_eq!(came_to(allowed), "ok", "{allowed}");
        }
        assert_eq!(came_to("a terminal of its own"), "ok");
        assert_eq!(came_to("the null device is no terminal"), "ENOTTY");
        for unknown in ["x32 socket", "io_uring", "clone3"] {
            assert_eq!(came_to(unknown), "ENOSYS", "{unknown}");
        }
        for denied in [
            "new user namespace",
            "new network namespace",
            "clone into a user namespace",
            "setns",
            "ptrace",
            "pidfd_getfd",
            "process_vm_readv",
            "keyctl",
            "request_key",
            "bpf",
            "mount",
            "open_by_handle_at",
            "perf_event_open",
            "typing into the terminal",
            "become root",
            "another group",
        ] {
            assert_eq!(came_to(denied), "EPERM", "{denied}");
        }
        let none = "0000000000000000";
        let status = &results["status"];
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status[set], none, "{set}");
        }
        assert_eq!((&status["NoNewPrivs"], &status["Seccomp"]), (&"1".into(), &"2".into()));
        assert_eq!(status["Groups"].as_str().unwrap().trim(), AGENT_UID.to_string());
        assert_eq!(results["ids"], serde_json::json!(vec![AGENT_UID; 6]));
        assert_ne!(results["su"], 0);
        let descriptors: Vec<u64> = serde_json::from_value(results["descriptors"].clone()).unwrap();
        assert!(descriptors == [0, 1, 2], "{descriptors:?}");
    }

    #[test]
    fn sockets_and_descriptors_of_others_are_out_of_reach() {
        let stage = stage();
        // What a container engine or a message bus would listen at.
        let name = format!("interceptor-launch-{}", std::process::id());
        let paths = [format!("/run/{name}.sock"), format!("/tmp/{name}.sock"), format!("/var/tmp/{name}.sock")];
        let _listeners: Vec<UnixListener> = paths.iter().map(|path| UnixListener::bind(path).unwrap()).collect();
        // Abstract names belong to a network namespace.
        let listen = format!(
            "import socket, time; s = socket.socket(1); s.bind(b'\\0{name}'); s.listen(); print(1, flush=True); time.sleep(60)"
        );
        let mut listener = Command::new("/usr/bin/python3");
        listener.args(["-c", &listen]).stdout(Stdio::piped());
        let mut listener = stage.world.spawn_in(Place::Outside, listener).unwrap();
        BufReader::new(listener.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let mut sleep = Command::new("sleep");
        sleep.arg("60");
        let neighbour = stage.world.spawn_as(Place::Outside, Some(AGENT_UID), sleep).unwrap();
        let script = format!(
            r#"
def reach(address):
    s = socket.socket(socket.AF_UNIX); s.connect(address)
for path in {paths:?} + [b"\0{name}"]: attempt(str(path), lambda: reach(path))
for folder in ["/run", "/tmp", "/var/tmp"]: results["listed " + folder] = [name for name in os.listdir(folder) if "{name}" in name]
attempt("a descriptor from outside", lambda: os.fstat(7))
attempt("memory of another process of the same user", lambda: open("/proc/{pid}/mem", "r+b"))
attempt("a signal to it", lambda: os.kill({pid}, 0))
"#,
            pid = neighbour.id()
        );
        let script = format!("{PRELUDE}\n{script}\nprint(json.dumps(results))");
        // The shell that starts it hands a descriptor on.
        let mut shell = Command::new("sh");
        let inner = stage.interceptor(&["exec", "--agent", "billing-bot", "--", "/usr/bin/python3", "-c", &script]);
        shell.args(["-c", "exec 7</etc/hostname; exec \"$@\"", "sh"]).arg(inner.get_program()).args(inner.get_args());
        let output = stage.world.output(Place::Outside, None, shell, LIMIT).unwrap();
        for path in &paths {
            std::fs::remove_file(path).unwrap();
        }
        let results: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
        for path in &paths {
            assert_eq!(results[path], "ENOENT", "{results}");
        }
        for folder in ["/run", "/tmp", "/var/tmp"] {
            assert_eq!(results[format!("listed {folder}")], serde_json::json!([]), "{results}");
        }
        let reached = results[format!("b'\\x00{name}'")].as_str().unwrap();
        // Landlock hides them since Linux 6.12; hooks of security modules refuse them, where the kernel takes those.
        let hidden = landlock_version() >= 6;
        assert_eq!(reached, if hidden || modules_hold() { "EPERM" } else { "ok" }, "an abstract socket: {results}");
        assert_eq!(results["memory of another process of the same user"], "EACCES", "{results}");
        assert_eq!(results["a signal to it"], if hidden { "EPERM" } else { "ok" }, "{results}");
        for mut child in [listener, neighbour] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(results["a descriptor from outside"], "EBADF", "{results}");
    }

    /// On every kernel, with or without Landlock's scopes and hooks of security modules.
    #[test]
    fn in_a_network_of_its_own_an_agent_is_captured_at_once_and_reaches_nothing_of_the_host() {
        let mut stage = stage();
        let url = stage.url();
        let own = ["--net", "own"];
        // Its first connection, with no second try.
        let read = exec(&stage, &own, &["psql", "-X", &url, "-c", "SELECT name, card FROM customers ORDER BY id"]);
        assert!(read.status.success() && said(&read).contains("Ada Lovelace"), "{}", said(&read));
        assert!(!said(&read).contains(CARD), "{}", said(&read));

        let name = format!("interceptor-launch-net-{}", std::process::id());
        let listen = format!(
            "import socket, time; s = socket.socket(1); s.bind(b'\\0{name}'); s.listen(); t = socket.create_server(('127.0.0.1', 40050))\n\
             print(1, flush=True); time.sleep(60)"
        );
        let mut listener = Command::new("/usr/bin/python3");
        listener.args(["-c", &listen]).stdout(Stdio::piped());
        let mut listener = stage.world.spawn_in(Place::Outside, listener).unwrap();
        BufReader::new(listener.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let script = format!(
            r#"{PRELUDE}
def reach(address):
    s = socket.socket(socket.AF_UNIX); s.connect(address)
attempt("abstract", lambda: reach(b"\0{name}"))
attempt("a port that is taken on the host", lambda: socket.create_server(("127.0.0.1", 40050)))
results["interfaces"] = [name for _, name in socket.if_nameindex()]
results["network"] = os.readlink("/proc/self/ns/net")
call("another network", 308, os.open("/proc/self/ns/net", os.O_RDONLY), 0)
results["children"] = open("/proc/self/task/%d/children" % os.getpid()).read()
print(json.dumps(results))"#
        );
        let look = |more: &[&str]| -> Value {
            let output = exec(&stage, more, &["/usr/bin/python3", "-c", &script]);
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)))
        };
        let (within, beside) = (look(&own), look(&[]));
        assert_eq!(within["a port that is taken on the host"], "ok", "{within}");
        assert_eq!(beside["a port that is taken on the host"], "EADDRINUSE", "the control: {beside}");
        // Where Landlock or a module would refuse it anyhow, it does so first.
        assert_ne!(within["abstract"], "ok", "{within}");
        if landlock_version() < 6 && !modules_hold() {
            assert_eq!((&within["abstract"], &beside["abstract"]), (&"ECONNREFUSED".into(), &"ok".into()));
        }
        assert_eq!(within["interfaces"], serde_json::json!(["lo"]), "{within}");
        assert!(within["network"] != beside["network"] && within["another network"] == "EPERM", "{within} {beside}");
        assert_eq!(within["children"], "", "nobody is beside it: {within}");
        listener.kill().unwrap();
        listener.wait().unwrap();

        // Without anybody to listen there it does not start, and nothing is left of it.
        stage.kill_daemon().unwrap();
        let alone = exec(&stage, &own, &["/bin/echo", "it started"]);
        assert!(
            alone.status.code() == Some(2) && said(&alone).contains("a listener in its network"),
            "{}",
            said(&alone)
        );
        assert!(said(&alone).contains("no daemon answers") && !said(&alone).contains("it started"), "{}", said(&alone));
    }

    #[test]
    fn a_target_can_want_agents_that_are_held_well() {
        let mut stage = stage();
        let path = stage.path("interceptor.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("protocol = \"postgres\"", "protocol = \"postgres\"\nlevel = \"launched\""))
            .unwrap();
        stage.stop_daemon().unwrap();
        stage.start_daemon().unwrap();
        let adopted = said(&stage.run_agent(stage.psql(&["SELECT 1"])).unwrap());
        assert!(adopted.contains("wants agents that are launched, and this one is adopted"), "{adopted}");
        assert!(adopted.contains("interceptor exec"), "{adopted}");
        let url = stage.url();
        let launched = exec(&stage, &[], &["psql", "-X", &url, "-c", "SELECT 1"]);
        assert!(launched.status.success(), "{}", said(&launched));
        let recorded = said(&stage.operate(&["recordings", "export", "--format", "jsonl"]).unwrap());
        assert!(recorded.contains(r#""level":"launched""#) && recorded.contains(r#""level":"adopted""#), "{recorded}");

        let mut lasting = stage.interceptor(&["exec", "--agent", "billing-bot", "--", "sleep", "100"]);
        lasting.current_dir("/");
        let mut lasting = stage.world.spawn_in(Place::Outside, lasting).unwrap();
        let pid = lasting.id().to_string();
        let shown = || said(&stage.operate(&["whoami", "--pid", &pid]).unwrap());
        let told = (0..100).map(|_| shown()).find(|told| told.contains("launched"));
        assert!(told.is_some(), "{}", shown());
        lasting.kill().unwrap();
        lasting.wait().unwrap();
    }

    #[test]
    fn nothing_is_left_of_agents_that_have_ended() {
        let mut stage = stage();
        let registry = stage.path("launched");
        let registered = || std::fs::read_dir(&registry).map_or(0, Iterator::count);
        for _ in 0..3 {
            assert!(exec(&stage, &[], &["true"]).status.success());
        }
        assert_eq!(registered(), 1, "one cgroup, by the agent's match");
        let mut lasting = stage.interceptor(&["exec", "--agent", "billing-bot", "--", "sleep", "100"]);
        lasting.current_dir("/");
        let mut lasting = stage.world.spawn_in(Place::Outside, lasting).unwrap();
        // The daemon sweeps as it starts, and now and then.
        stage.stop_daemon().unwrap();
        stage.start_daemon().unwrap();
        assert_eq!(registered(), 1, "it runs");
        lasting.kill().unwrap();
        lasting.wait().unwrap();
        stage.stop_daemon().unwrap();
        stage.start_daemon().unwrap();
        let swept = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            registered() == 0
        });
        assert!(swept, "{} are left", registered());
    }

    /// Whether this kernel takes hooks of security modules: agents then have them.
    fn modules_hold() -> bool {
        probe(Scope::default()).iter().any(|found| found.name == "LSM programs" && found.verdict == Verdict::Ok)
    }

    /// Version of Landlock's interface that the kernel has.
    fn landlock_version() -> i64 {
        let ask = "import ctypes; print(ctypes.CDLL(None).syscall(444, None, 0, 1))";
        let output = Command::new("/usr/bin/python3").args(["-c", ask]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    }

    #[test]
    fn what_cannot_be_held_is_not_started() {
        let mut stage = stage();
        // What is there already would count as launched.
        let mut sleep = Command::new("sleep");
        sleep.arg("60");
        let mut other = stage.spawn_agent(sleep).unwrap();
        let beside = exec(&stage, &[], &["true"]);
        assert!(said(&beside).contains("were not launched"), "{}", said(&beside));
        other.kill().unwrap();
        other.wait().unwrap();
        let mut unknown = stage.interceptor(&["exec", "--agent", "nobody", "--", "true"]);
        unknown.current_dir("/");
        let output = stage.world.output(Place::Outside, None, unknown, LIMIT).unwrap();
        assert!(output.status.code() == Some(2) && said(&output).contains("no agent nobody"), "{}", said(&output));
        let root = exec(&stage, &["--user", "root"], &["true"]);
        assert!(said(&root).contains("does not run as root"), "{}", said(&root));
        let all = exec(&stage, &["--keep", "/run"], &["true"]);
        assert!(said(&all).contains("whole folder"), "{}", said(&all));
        let link = format!("/tmp/interceptor-launch-link-{}", std::process::id());
        std::os::unix::fs::symlink("/run", &link).unwrap();
        let linked = exec(&stage, &["--keep", &format!("{link}/lock")], &["true"]);
        std::fs::remove_file(&link).unwrap();
        assert!(said(&linked).contains("symbolic link"), "{}", said(&linked));
        let missing = exec(&stage, &[], &["/no/such/program"]);
        assert!(missing.status.code() == Some(2) && said(&missing).contains("/no/such/program"), "{}", said(&missing));
        let inner = stage.interceptor(&["exec", "--agent", "billing-bot", "--", "true"]);
        let words: Vec<&str> =
            [inner.get_program()].into_iter().chain(inner.get_args()).filter_map(|word| word.to_str()).collect();
        let script = format!(
            "import socket, subprocess, sys; s = socket.socket(); sys.exit(subprocess.call({words:?}, stdin=s))"
        );
        let mut handed = Command::new("/usr/bin/python3");
        handed.args(["-c", &script]);
        let handed = stage.world.output(Place::Outside, None, handed, LIMIT).unwrap();
        assert!(said(&handed).contains("a socket made outside"), "{}", said(&handed));
        // Without the daemon it starts, and its connections are refused; without the kernel programs it does not start.
        stage.kill_daemon().unwrap();
        assert!(exec(&stage, &[], &["true"]).status.success());
        assert!(stage.operate(&["uninstall"]).unwrap().status.success());
        let open = exec(&stage, &[], &["true"]);
        assert!(said(&open).contains("is not governed"), "{}", said(&open));
    }
}
