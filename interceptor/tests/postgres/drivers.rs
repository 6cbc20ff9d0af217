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
    let mut all = vec![
        ("psycopg", python(stage, "agent_psycopg.py", &[&url])),
        ("psycopg2", orm(stage, "agent_psycopg2.py", &url)),
        ("asyncpg", python(stage, "agent_asyncpg.py", &[&url])),
        ("SQLAlchemy", orm(stage, "agent_sqlalchemy.py", &url)),
        ("Django", orm(stage, "agent_django.py", &url)),
        ("node-postgres", node),
        ("JDBC", java),
        ("lib/pq", go(stage, &Go::debian(), "agent_pq", &["agent_pq.go"], &url)),
        ("pgx 4", go(stage, &Go::debian(), "agent_pgx", &["agent_pgx.go", "pgx_4.go"], &url)),
        ("tokio-postgres", example(stage, "tokio_postgres_agent", &url)),
        ("sqlx", example(stage, "sqlx_agent", &url)),
    ];
    match Go::newer() {
        Some(newer) => all.push(("pgx 5", go(stage, &newer, "agent_pgx5", &["agent_pgx.go", "pgx_5.go"], &url))),
        None => eprintln!("pgx 5 IS LEFT OUT: it is not installed"),
    }
    all
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

/// A Go toolchain, and where the sources of drivers are.
struct Go {
    program: PathBuf,
    /// `GOROOT`, where the program is not the distribution's.
    root: Option<PathBuf>,
    path: PathBuf,
    /// What is written in another way in sources that are made for Debian's drivers.
    imports: &'static [(&'static str, &'static str)],
}

impl Go {
    /// The distribution's.
    fn debian() -> Self {
        Self { program: "go".into(), root: None, path: "/usr/share/gocode".into(), imports: &[] }
    }

    /// A newer one with pgx 5, where `cargo xtask test` could install them.
    fn newer() -> Option<Self> {
        let path = installed().join("pgx-5/root/usr/share/gocode");
        let folders = std::fs::read_dir(installed().join("go/lib")).ok()?.flatten();
        let root = { folders }.map(|folder| folder.path().join("site-packages/go")).find(|path| path.exists())?;
        let imports =
            &[("github.com/jackc/pgconn", "github.com/jackc/pgx/v5/pgconn"), ("jackc/pgx/v4", "jackc/pgx/v5")];
        path.join("src/github.com/jackc/pgx/v5").exists().then(|| Self {
            program: root.join("bin/go"),
            root: Some(root),
            path,
            imports,
        })
    }
}

/// A program in Go, built from Debian's packages of the drivers, without modules or network.
fn go(stage: &Stage, go: &Go, name: &str, files: &[&str], url: &str) -> Command {
    let built = stage.path(name);
    if !built.exists() {
        let folder = stage.path(&format!("{name}.source"));
        std::fs::create_dir_all(&folder).unwrap();
        let mut build = Command::new(&go.program);
        build.current_dir(&folder).arg("build").arg("-o").arg(&built);
        for file in files.iter().chain(&["checks.go"]) {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/go").join(file);
            let mut text = std::fs::read_to_string(source).unwrap();
            for (from, to) in go.imports {
                text = text.replace(from, to);
            }
            std::fs::write(folder.join(file), text).unwrap();
            build.arg(file);
        }
        build.env("GO111MODULE", "off").env("GOTOOLCHAIN", "local");
        build.env("GOPATH", &go.path).env("GOCACHE", cache());
        if let Some(root) = &go.root {
            // Without a C toolchain, as many build their agents.
            build.env("GOROOT", root).env("CGO_ENABLED", "0");
        }
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
