//! The client programs, one a driver, and the talk with them: what a program asks for with `please ...`, the test does.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use interceptor::testing::stage::{DATABASE, HOST, Stage, UPSTREAM_USER};

use super::hold::approve;
use super::scene::{CLEAR, bounded, edited, installed, operate_json, program, python, readable, truth};

/// What a program said, and how it ended.
pub(super) struct Said {
    /// Its standard output.
    pub(super) lines: Vec<String>,
    /// Its standard error.
    pub(super) errors: String,
    pub(super) status: ExitStatus,
}

impl Said {
    /// How many checks passed.
    pub(super) fn passed(&self) -> usize {
        self.lines.iter().filter(|line| line.starts_with("ok ")).count()
    }

    /// Everything but the checks that passed.
    pub(super) fn complaint(&self) -> String {
        let lines: Vec<&str> = self.lines.iter().map(String::as_str).filter(|line| !line.starts_with("ok ")).collect();
        format!("({}, {} checks passed):\n{}\n{}", self.status, self.passed(), lines.join("\n"), self.errors)
    }
}

/// Sets up what the programs share: a counter that only held commands change, and a table that gets more columns.
pub(super) fn prepare(stage: &Stage) {
    for sql in [
        "CREATE TABLE ticks (n int)",
        "INSERT INTO ticks VALUES (0)",
        "CREATE TABLE shapes (id int, what text)",
        "INSERT INTO shapes SELECT n, 'row ' || n FROM generate_series(1, 9) n",
        &format!("ALTER TABLE ticks OWNER TO {UPSTREAM_USER}"),
        &format!("ALTER TABLE shapes OWNER TO {UPSTREAM_USER}"),
    ] {
        truth(stage, sql);
    }
}

/// Runs a program as the governed agent, and does what it asks for.
pub(super) fn converse(stage: &Stage, command: &Command) -> Said {
    let mut command = bounded(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = stage.spawn_agent(command).unwrap();
    let mut answers = child.stdin.take().unwrap();
    let mut errors = child.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        let _as_far_as_it_is_text = errors.read_to_string(&mut text);
        text
    });
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        if let Some(wish) = line.strip_prefix("please ") {
            grant(stage, wish);
            // Who does not wait for it may be gone.
            let _unread = answers.write_all(b"done\n");
        } else {
            lines.push(line);
        }
    }
    Said { lines, errors: errors.join().unwrap(), status: child.wait().unwrap() }
}

fn grant(stage: &Stage, wish: &str) {
    match wish.split_once(' ') {
        Some(("approve", words)) => approve(stage, words),
        Some(("sql", sql)) => drop(truth(stage, sql)),
        None if wish == "kill" => {
            for session in operate_json(stage, &["sessions", "list"]).as_array().unwrap() {
                let id = session["id"].as_str().unwrap();
                // One may have ended by itself.
                let _ended = stage.operate(&["sessions", "kill", id]).unwrap();
            }
        }
        _ => panic!("a program asks for {wish:?}"),
    }
}

/// Every program, by name.
pub(super) fn programs(stage: &Stage) -> Vec<(&'static str, Command)> {
    programs_over(stage, CLEAR)
}

/// The same, with these parameters in the URL in place of [`CLEAR`].
pub(super) fn programs_over(stage: &Stage, parameters: &str) -> Vec<(&'static str, Command)> {
    let url = edited(&stage.url(), CLEAR, parameters);
    program(stage, "checks.py");
    let mut node = Command::new("node");
    node.arg(program(stage, "agent_node.js")).arg(&url).env("NODE_PATH", installed().join("node/node_modules"));
    let mut java = Command::new("java");
    java.args(["-cp", "/usr/share/java/postgresql.jar"]).arg(program(stage, "Agent.java"));
    java.arg(format!(
        "jdbc:postgresql://{HOST}:5432/{DATABASE}?user=billing&password=the-shared-password&{parameters}"
    ));
    vec![
        ("psycopg", python(stage, "agent_psycopg.py", &[&url])),
        ("psycopg2", orm(stage, "agent_psycopg2.py", &url)),
        ("asyncpg", python(stage, "agent_asyncpg.py", &[&url])),
        ("SQLAlchemy", orm(stage, "agent_sqlalchemy.py", &url)),
        ("Django", orm(stage, "agent_django.py", &url)),
        ("node-postgres", node),
        ("JDBC", java),
        ("lib/pq", go(stage, "agent_pq", &url)),
        ("pgx", go(stage, "agent_pgx", &url)),
        ("tokio-postgres", example(stage, "tokio_postgres_agent", &url)),
        ("sqlx", example(stage, "sqlx_agent", &url)),
    ]
}

/// A program in Rust, one of this crate's examples.
fn example(stage: &Stage, name: &str, url: &str) -> Command {
    let built = Path::new(env!("CARGO_BIN_EXE_interceptor")).with_file_name("examples").join(name);
    let mut command = Command::new(readable(stage, &built, name, 0o755));
    command.arg(url);
    command
}

/// A Python program with what only tests need.
fn orm(stage: &Stage, name: &str, url: &str) -> Command {
    let mut command = Command::new(installed().join("orms/bin/python"));
    command.arg(program(stage, name)).arg(url);
    command
}

/// A program in Go, built from Debian's packages of the drivers, without modules or network.
fn go(stage: &Stage, name: &str, url: &str) -> Command {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/go");
    let built = stage.path(name);
    if !built.exists() {
        let mut build = Command::new("go");
        build.current_dir(source).arg("build").arg("-o").arg(&built).args(["checks.go", &format!("{name}.go")]);
        build.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode").env("GOCACHE", cache());
        let output = build.output().unwrap_or_else(|error| panic!("go: {error}"));
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut command = Command::new(built);
    command.arg(url);
    command
}

/// Where Go keeps what it compiled, so that the next run is quick.
fn cache() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/go");
    std::fs::create_dir_all(&folder).and_then(|()| folder.canonicalize()).unwrap()
}
