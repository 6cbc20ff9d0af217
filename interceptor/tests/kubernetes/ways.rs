//! What kubectl does all day, done in whatever way it reaches its cluster.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use interceptor::testing::cluster::{Cluster, PAGE, POD, POD_PORT, said};

/// The two kubectls: one speaks SPDY alone, the other tries WebSockets first.
pub(crate) const KUBECTLS: [&str; 2] = ["kubectl", "kubectl-new"];

/// How clients are run.
pub(crate) trait Way: Sync {
    /// A program of the cluster's clients that finds the cluster; it ends by itself after a while.
    fn program(&self, name: &str) -> Command;
    /// Starts it where clients of this way live.
    fn start(&self, command: Command) -> Child;
    /// A folder that clients of this way may write to.
    fn folder(&self) -> &Path;
}

/// Starts a command under a limit of time.
pub(crate) fn bounded(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "120"]).arg(program);
    command
}

/// Exit code, and both outputs.
pub(crate) fn run(way: &dyn Way, mut command: Command, input: &str) -> (i32, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = way.start(command);
    // It may well not read it.
    let _ignored = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap_or(-1), said(&output))
}

pub(crate) fn kubectl(way: &dyn Way, name: &str, arguments: &[&str]) -> (i32, String) {
    kubectl_with(way, name, arguments, "")
}

pub(crate) fn kubectl_with(way: &dyn Way, name: &str, arguments: &[&str], input: &str) -> (i32, String) {
    let mut command = way.program(name);
    command.args(arguments);
    run(way, command, input)
}

/// A client that goes on until it is dropped, line by line.
pub(crate) struct Following {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Following {
    pub(crate) fn start(way: &dyn Way, name: &str, arguments: &[&str]) -> Self {
        let mut command = way.program(name);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = way.start(command);
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next line that has this in it.
    pub(crate) fn until(&mut self, wanted: &str) -> String {
        let mut before = String::new();
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                let mut errors = String::new();
                let _ignored = self.child.stderr.as_mut().unwrap().read_to_string(&mut errors);
                panic!("ended without {wanted:?}: {before}{errors}");
            }
            if line.contains(wanted) {
                return line;
            }
            before.push_str(&line);
        }
    }

    /// Ends it, and gives what it said until then.
    pub(crate) fn rest(mut self) -> String {
        self.terminate();
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        rest
    }

    fn terminate(&self) {
        // Of `timeout`: it passes the signal on, which a kill would not.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.terminate();
        let _reaped = self.child.wait();
    }
}

/// An object without anything secret, and how it is changed.
const SETTINGS: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: red}\n";

pub(crate) fn objects_are_made_and_read(way: &dyn Way, name: &str) {
    let (code, told) = kubectl_with(way, name, &["apply", "-f", "-"], SETTINGS);
    assert_eq!((code, told.contains("configmap/settings created")), (0, true), "{name}: {told}");
    for (format, expected) in [("yaml", "colour: red"), ("json", "\"colour\": \"red\""), ("wide", "settings   1")] {
        let (code, told) = kubectl(way, name, &["get", "configmap", "settings", "-o", format]);
        assert_eq!((code, told.contains(expected)), (0, true), "{name} {format}: {told}");
    }
    let (code, told) = kubectl(way, name, &["describe", "configmap", "settings"]);
    assert_eq!((code, told.contains("red")), (0, true), "{name}: {told}");
    let (code, told) = kubectl(way, name, &["get", "configmap", "nothing-of-that-name"]);
    assert_eq!((code, told.contains("(NotFound)")), (1, true), "{name}: {told}");
}

pub(crate) fn objects_are_changed(way: &dyn Way, name: &str) {
    let (code, told) = kubectl_with(way, name, &["apply", "-f", "-"], &SETTINGS.replace("red", "blue"));
    assert_eq!((code, told.contains("configmap/settings configured")), (0, true), "{name}: {told}");
    let (code, told) = kubectl(way, name, &["get", "configmap", "settings", "-o", "yaml"]);
    assert_eq!((code, told.contains("colour: blue")), (0, true), "{name}: {told}");
}

pub(crate) fn watches_go_on(way: &dyn Way, name: &str, cluster: &Cluster) {
    let mut following = Following::start(way, name, &["get", "configmaps", "--watch", "--output", "name"]);
    following.until("configmap/settings");
    let seen = format!("seen-by-{name}");
    cluster.apply(&SETTINGS.replace("settings", &seen)).unwrap();
    following.until(&seen);
}

pub(crate) fn streams_work(way: &dyn Way, name: &str) {
    commands_run_in_pods(way, name);
    terminals_work(way, name);
    running_programs_are_attached_to(way, name);
    files_are_copied(way, name);
    ports_are_forwarded(way, name);
}

pub(crate) fn commands_run_in_pods(way: &dyn Way, name: &str) {
    let script = "read said; echo told: $said; echo aside >&2; exit 7";
    let (code, told) = kubectl_with(way, name, &["exec", "-i", POD, "--", "sh", "-c", script], "by me\n");
    assert!(told.contains("told: by me") && told.contains("aside"), "{name}: {told}");
    assert_eq!(code, 7, "{name}: {told}");
    // More than one frame each way, byte for byte.
    let long: String = (0..40_000).map(|n| format!("{n:07}\n")).collect();
    let (code, told) = kubectl_with(way, name, &["exec", "-i", POD, "--", "cat"], &long);
    assert_eq!((code, told == long), (0, true), "{name}: {} of {} bytes", told.len(), long.len());
}

pub(crate) fn terminals_work(way: &dyn Way, name: &str) {
    let kubectl = way.program(name);
    let words: Vec<String> = std::iter::once(kubectl.get_program())
        .chain(kubectl.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    // The size comes a moment after the terminal. A shell that stayed would leave the terminal's foreground to itself, and
    // whatever `timeout` starts in a group of its own would be stopped there.
    let inside = "tty; n=0; until stty size | grep 33 || [ $n = 100 ]; do n=$((n+1)); sleep 0.1; done; read said; echo got $said";
    let line = format!("stty rows 33 cols 111; exec {} exec -it {POD} -- sh -c '{inside}'", words.join(" "));
    let mut script = bounded("script");
    script.env("SHELL", "/bin/sh").args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    for (name, value) in kubectl.get_envs() {
        script.env(name, value.unwrap_or_default());
    }
    let (code, told) = run(way, script, "typed\r");
    assert!(told.contains("/dev/pts/") && told.contains("33 111") && told.contains("got typed"), "{name}: {told}");
    assert_eq!(code, 0, "{name}: {told}");
}

pub(crate) fn running_programs_are_attached_to(way: &dyn Way, name: &str) {
    let mut following = Following::start(way, name, &["attach", POD]);
    following.until("line ");
    following.until("line ");
}

pub(crate) fn files_are_copied(way: &dyn Way, name: &str) {
    let (there, back) = (way.folder().join(format!("{name}.there")), way.folder().join(format!("{name}.back")));
    let content: String = (0..20_000).map(|n| format!("{name} {n}\n")).collect();
    fs::write(&there, &content).unwrap();
    let inside = format!("default/{POD}:/tmp/{name}.copied");
    let (code, told) = kubectl(way, name, &["cp", &there.display().to_string(), &inside]);
    assert_eq!(code, 0, "{name}: {told}");
    let (code, told) = kubectl(way, name, &["cp", &inside, &back.display().to_string()]);
    assert_eq!(code, 0, "{name}: {told}");
    assert!(fs::read_to_string(&back).unwrap() == content, "{name}: another file came back");
}

pub(crate) fn ports_are_forwarded(way: &dyn Way, name: &str) {
    let mut following = Following::start(way, name, &["port-forward", POD, &format!(":{POD_PORT}")]);
    let line = following.until("Forwarding from 127.0.0.1:");
    let port = line.split(['.', ':', ' ']).find_map(|word| word.parse::<u16>().ok().filter(|port| *port > 1023));
    let url = format!("http://127.0.0.1:{}/", port.unwrap());
    for _ in 0..3 {
        let mut curl = bounded("curl");
        curl.args(["-sS", &url]);
        let (code, told) = run(way, curl, "");
        assert_eq!((code, told.trim()), (0, PAGE), "{name}");
    }
}

pub(crate) fn logs_are_followed(way: &dyn Way, name: &str) {
    let mut following = Following::start(way, name, &["logs", "--follow", "--tail=1", POD]);
    let number = |line: String| line.trim().split(' ').nth(1).unwrap().parse::<u32>().unwrap();
    let first = number(following.until("line "));
    assert_eq!(number(following.until("line ")), first + 1, "{name}");
    assert_eq!(number(following.until("line ")), first + 2, "{name}");
}
