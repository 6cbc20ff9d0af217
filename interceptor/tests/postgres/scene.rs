//! What the tests do over and over: set a stage, run a client, ask the daemon, wait for something.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use interceptor::testing::patience::slowness;
use interceptor::testing::stage::{DATABASE, HOST, Script, Stage};
use interceptor::testing::world::Place;
use serde_json::Value;

/// Stands in every statement that must not reach the server.
pub(super) const MARK: &str = "forbidden:";
/// How the stage's own connection string asks for no TLS.
pub(super) const CLEAR: &str = "sslmode=disable";
/// A client that has not ended by then hangs.
const CLIENT_SECONDS: &str = "120";

/// A stage with its defaults.
pub(super) fn stage() -> Stage {
    stage_with(&Script::default())
}

pub(super) fn stage_with(script: &Script) -> Stage {
    Stage::set(Path::new(env!("CARGO_BIN_EXE_interceptor")), script).unwrap_or_else(|error| panic!("no stage: {error}"))
}

/// Runs psql as the governed agent, one `-c` a statement.
pub(super) fn psql(stage: &Stage, statements: &[&str]) -> Output {
    stage.run_agent(bounded(&stage.psql(statements))).unwrap()
}

/// Starts psql as the governed agent. Killing the child kills psql itself.
pub(super) fn start_psql(stage: &Stage, statements: &[&str]) -> Child {
    start(stage, stage.psql(statements))
}

/// Runs a command in a place, under a user id.
pub(super) fn run_in(stage: &Stage, place: Place<'_>, uid: Option<u32>, command: &Command) -> Output {
    let mut command = bounded(command);
    command.current_dir("/");
    stage.world.output(place, uid, command, Duration::from_secs(150)).unwrap()
}

/// The same command, ended when it takes too long.
pub(super) fn bounded(command: &Command) -> Command {
    let mut timeout = Command::new("timeout");
    timeout.args(["--kill-after=5", CLIENT_SECONDS]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => timeout.env(name, value),
            None => timeout.env_remove(name),
        };
    }
    timeout
}

/// All that a process wrote.
pub(super) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs psql and gives what it wrote; it must have succeeded.
pub(super) fn psql_ok(stage: &Stage, statements: &[&str]) -> String {
    let output = psql(stage, statements);
    assert!(output.status.success(), "{statements:?}: {}\n{}", said(&output), stage.log());
    said(&output)
}

/// Runs psql and gives what it wrote; it must have failed.
pub(super) fn psql_fails(stage: &Stage, statements: &[&str]) -> String {
    let output = psql(stage, statements);
    assert!(!output.status.success(), "{statements:?} passed: {}", said(&output));
    said(&output)
}

/// Runs `interceptor` as the operator; it must exit with this code.
pub(super) fn operate(stage: &Stage, code: i32, arguments: &[&str]) -> String {
    let output = stage.operate(arguments).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
    said(&output)
}

/// Runs `interceptor --json` as the operator.
pub(super) fn operate_json(stage: &Stage, arguments: &[&str]) -> Value {
    let output = stage.operate(&[&["--json"], arguments].concat()).unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", said(&output)))
}

/// Every event on record, as JSON lines.
pub(super) fn recorded(stage: &Stage) -> String {
    operate(stage, 0, &["recordings", "export", "--format", "jsonl"])
}

/// Asks again and again until there is an answer.
pub(super) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..400 * slowness() {
        if let Some(answer) = ask() {
            return answer;
        }
        sleep(Duration::from_millis(50));
    }
    panic!("waited in vain for {what}")
}

/// Nothing of what policy denied reached the server.
pub(super) fn assert_nothing_forbidden(stage: &Stage) {
    let log = stage.server.log();
    let leaked: Vec<&str> = log.lines().filter(|line| line.contains(MARK)).collect();
    assert!(leaked.is_empty(), "the server saw {leaked:#?}");
}

/// What the server itself says, past interceptor.
pub(super) fn truth(stage: &Stage, sql: &str) -> String {
    stage.server.sql_in(DATABASE, sql).unwrap()
}

/// Changes the configuration; the daemon is started again.
pub(super) fn reconfigure(stage: &mut Stage, from: &str, to: &str) {
    let path = stage.path("interceptor.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from:?} is not in {text}");
    stage.stop_daemon().unwrap();
    fs::write(&path, text.replace(from, to)).unwrap();
    stage.start_daemon().unwrap();
}

/// Writes the configuration anew, which the daemon takes over while it runs.
pub(super) fn reload(stage: &Stage, configuration: &str) {
    fs::write(stage.path("interceptor.toml"), configuration).unwrap();
    operate(stage, 0, &["reload"]);
}

/// The configuration as it is.
pub(super) fn configuration(stage: &Stage) -> String {
    fs::read_to_string(stage.path("interceptor.toml")).unwrap()
}

/// `text` with `from` in another way, which must have been there.
pub(super) fn edited(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from:?} is not in {text}");
    text.replace(from, to)
}

/// Where the clients are installed.
pub(super) fn installed() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients");
    std::env::var_os("INTERCEPTOR_CLIENTS").map_or_else(default, PathBuf::from)
}

/// A client's program, where the agent's user can read it.
pub(super) fn program(stage: &Stage, name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
    readable(stage, &source, name, 0o644)
}

/// A copy that the agent's user can read.
pub(super) fn readable(stage: &Stage, source: &Path, name: &str, mode: u32) -> PathBuf {
    let copy = stage.path(name);
    fs::copy(source, &copy).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    fs::set_permissions(&copy, fs::Permissions::from_mode(mode)).unwrap();
    copy
}

/// A Python program with psycopg and asyncpg.
pub(super) fn python(stage: &Stage, name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(installed().join("python/bin/python"));
    command.arg(program(stage, name)).args(arguments);
    command
}

/// Runs Python as [`inline`] does, as the governed agent; what it printed.
pub(super) fn agent(stage: &Stage, code: &str) -> String {
    let output = stage.run_agent(bounded(&inline(stage, code))).unwrap();
    assert!(output.status.success(), "{}\n{}", said(&output), stage.log());
    said(&output)
}

/// Python given on the command line, with psycopg at hand as `psycopg` and the URL as `URL`.
pub(super) fn inline(stage: &Stage, code: &str) -> Command {
    let mut command = Command::new(installed().join("python/bin/python"));
    command.arg("-c").arg(format!("import sys, time, psycopg\nURL = sys.argv[1]\n{code}")).arg(stage.url());
    command
}

/// The agent that is told what to say, message by message, at the server's own port; what it prints, line by line.
pub(super) fn wire(stage: &Stage, steps: &[&str]) -> Vec<String> {
    let output = stage.run_agent(bounded(&wire_command(stage, steps))).unwrap();
    assert!(output.status.success(), "{}\n{}", said(&output), stage.log());
    said(&output).lines().map(str::to_owned).collect()
}

/// The same, for one that is to be waited for.
pub(super) fn wire_command(stage: &Stage, steps: &[&str]) -> Command {
    program(stage, "raw.py");
    python(stage, "wire.py", &[&[HOST, "5432"], steps].concat())
}

/// Starts a command as the governed agent, to be waited for.
pub(super) fn start(stage: &Stage, mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    stage.spawn_agent(command).unwrap()
}

/// The agent that speaks to the socket itself, at the server's own port.
pub(super) fn raw(stage: &Stage, mode: &str, more: &[&str]) -> Command {
    python(stage, "raw.py", &[&[mode, HOST, "5432"], more].concat())
}
