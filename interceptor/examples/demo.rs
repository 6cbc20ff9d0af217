//! The demo: unmodified agents, governed against a real PostgreSQL, step by step. Run it with `cargo xtask demo`.
//!
//! Makes namespaces, cgroups, a server and an issuer of its own; removes them at the end. Needs root.

#![expect(clippy::print_stdout, reason = "a demo talks to the person at the terminal")]

use std::error::Error;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::Duration;

use interceptor::testing::stage::{AGENT_UID, CARD, HOST, Script, Stage};
use interceptor::testing::world::Place;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let demo = Demo {
        keep: arguments.iter().any(|argument| argument == "--keep"),
        pause: if arguments.iter().any(|argument| argument == "--fast") { 0 } else { 1200 },
    };
    match demo.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nThe demo failed: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Demo {
    keep: bool,
    pause: u64,
}

impl Demo {
    fn run(&self) -> Outcome {
        println!("Setting the stage: two network namespaces, cgroups, a PostgreSQL, a token issuer, the daemon ...");
        let script = Script { configuration: "[limits]\ndrain_seconds = 2\n".to_owned(), ..Script::default() };
        let stage = Stage::set(&binary()?, &script)?;
        println!("The agent's connection string is its original one:\n    {}", stage.url());
        println!("Its password there is worthless: interceptor logs in with a credential that the agent never sees.");

        self.step("An unmodified psql reads customers", "card keeps its last four digits; e-mail and ssn are hidden");
        self.agent(&stage, stage.psql(&["SELECT id, name, email, card, ssn, balance FROM customers ORDER BY id"]))?;

        self.step("A cast, a concatenation, a view: whatever is computed from a masked column is masked whole", "");
        self.agent(
            &stage,
            stage.psql(&["SELECT upper(email) AS shouted, card || '!' AS glued FROM customers WHERE id = 1"]),
        )?;

        self.step(
            "An unmodified Python agent: the same, over the extended protocol",
            "and getpeername still shows the server",
        );
        self.agent(&stage, python(&stage, PYTHON_AGENT)?)?;

        self.step(
            "A write that policy denies",
            "a native error, with rule, reason and remedy; the connection stays usable",
        );
        let denied = ["UPDATE customers SET balance = 1000000 WHERE id = 1", "SELECT 'still in sync' AS connection"];
        self.agent(&stage, stage.psql(&denied))?;

        self.held(&stage)?;

        self.step("The same user with the same token, from another cgroup", "a valid token is not enough");
        let mut elsewhere = stage.psql(&["SELECT 1"]);
        elsewhere.stdout(Stdio::inherit()).stderr(Stdio::inherit());
        stage.spawn_agent_in("stranger", elsewhere)?.wait()?;

        self.step(
            "Around interceptor: a raw connection to the server, and to somewhere else",
            "captured all the same, or dropped in the kernel",
        );
        self.agent(&stage, python(&stage, AROUND)?)?;

        self.evidence(&stage)?;
        if self.keep {
            self.leave_running(&stage)?;
        }
        println!("\nCleaning up.");
        Ok(())
    }

    /// A DROP TABLE that waits for a human, is approved from another terminal, and runs once.
    fn held(&self, stage: &Stage) -> Outcome {
        self.step("DROP TABLE scratch is held for a human", "psql just waits; nothing has reached the server");
        let mut drop_table = stage.psql(&["DROP TABLE scratch"]);
        drop_table.stdout(Stdio::inherit()).stderr(Stdio::inherit());
        let mut waiting = stage.spawn_agent(drop_table)?;
        let id = wait_for_request(stage)?;
        self.step("In another terminal, the operator looks at it", "$ interceptor approvals show ...");
        self.operate(stage, &["approvals", "show", &id])?;
        self.step("... and approves it, once", "$ interceptor approvals approve ...");
        self.operate(stage, &["approvals", "approve", &id, "--reason", "scratch data, ticket 4711"])?;
        waiting.wait()?;
        println!("   (psql printed DROP TABLE: the held command ran)");
        Ok(())
    }

    fn evidence(&self, stage: &Stage) -> Outcome {
        self.step("Every session is on record", "$ interceptor recordings list");
        self.operate(stage, &["recordings", "list"])?;
        self.step("The first session, replayed as the agent saw it", "$ interceptor recordings replay ID --no-wait");
        let listed = stage.operate(&["recordings", "list", "--json"])?;
        let sessions: serde_json::Value = serde_json::from_slice(&listed.stdout)?;
        let id = sessions.pointer("/0/id").and_then(|id| id.as_str()).ok_or("no session is on record")?.to_owned();
        self.operate(stage, &["recordings", "replay", &id, "--no-wait"])?;
        self.step("Verified with the public key alone", "$ interceptor recordings verify");
        self.operate(stage, &["recordings", "verify"])?;
        self.step("One byte of a copy is flipped, and verification names the frame", "");
        let copy = stage.path("copied-spool");
        copy_folder(&stage.path("spool"), &copy)?;
        flip_a_byte(&copy)?;
        let copy = copy.display().to_string();
        let key = stage.path("spool.key.pub").display().to_string();
        self.operate(stage, &["recordings", "verify", "--spool", &copy, "--key", &key])?;
        self.step("And the card number?", "searched in every file of the spool, the log and the approvals");
        let export = stage.operate(&["recordings", "export", "--format", "jsonl"])?;
        let seen = String::from_utf8_lossy(&export.stdout).contains(CARD) || stage.log().contains(CARD);
        println!("   {}", if seen { "FOUND: this is a bug" } else { "found nowhere" });
        if seen { Err("a masked value is on record".into()) } else { Ok(()) }
    }

    fn leave_running(&self, stage: &Stage) -> Outcome {
        let program = binary()?;
        println!("\nEverything is left running. To play with it, in another terminal, as root:");
        println!("    {} --config {} status", program.display(), stage.path("interceptor.toml").display());
        let cgroup = interceptor::capture::cgroup::mount()?
            .join(stage.world.cgroup(Place::Agent("billing")).trim_start_matches('/'));
        println!(
            "    nsenter --target {} --net --mount sh -c 'echo $$ > {}/cgroup.procs; \\\n        exec setpriv --reuid {AGENT_UID} --regid {AGENT_UID} --clear-groups psql \"{}\"'",
            stage.daemon_pid().unwrap_or(0),
            cgroup.display(),
            stage.url(),
        );
        print!("Press Enter here to end it. ");
        io::stdout().flush()?;
        io::stdin().read_line(&mut String::new())?;
        Ok(())
    }

    fn step(&self, title: &str, comment: &str) {
        println!("\n\x1b[1m── {title}\x1b[0m");
        if !comment.is_empty() {
            println!("   {comment}");
        }
        sleep(Duration::from_millis(self.pause));
    }

    fn agent(&self, stage: &Stage, mut command: Command) -> Outcome {
        command.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
        stage.spawn_agent(command)?.wait()?;
        sleep(Duration::from_millis(self.pause));
        Ok(())
    }

    fn operate(&self, stage: &Stage, arguments: &[&str]) -> Outcome {
        let output = stage.operate(arguments)?;
        io::stdout().write_all(&output.stdout)?;
        io::stdout().write_all(&output.stderr)?;
        sleep(Duration::from_millis(self.pause));
        Ok(())
    }
}

/// What the Python agent does: nothing of it knows of interceptor.
const PYTHON_AGENT: &str = r#"
import sys, psycopg
with psycopg.connect(sys.argv[1]) as connection:
    import socket
    peer = socket.socket(fileno=__import__("os").dup(connection.pgconn.socket)).getpeername()
    print("getpeername:", peer)
    for row in connection.execute("SELECT id, name, card, balance FROM customers WHERE id = %s", (1,), binary=True):
        print("binary row: ", row)
    print("free text:  ", connection.execute("SELECT note FROM orders WHERE id = 1").fetchone())
"#;

/// Ways around that a curious agent would try first.
const AROUND: &str = r#"
import socket
def attempt(what, action):
    try:
        print(f"   {what}: {action()}")
    except OSError as error:
        print(f"   {what}: {error}")
def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1); s.sendto(b"x", (HOST, 9999)); return "sent"
def raw():
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
def other():
    s = socket.create_connection((HOST, 6543), 3); s.settimeout(3); return s.recv(1) or "closed"
def device():
    s = socket.socket(); s.settimeout(2); s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo"); return "set"
attempt("UDP to the server", udp)
attempt("a raw ICMP socket", raw)
attempt("a port that no target covers", other)
"#;

fn python(stage: &Stage, program: &str) -> Result<Command, Box<dyn Error + Send + Sync>> {
    let clients =
        std::env::var_os("INTERCEPTOR_CLIENTS").map_or_else(|| PathBuf::from("target/clients"), PathBuf::from);
    let source = stage.path("agent.py");
    fs::write(&source, program.replace("HOST", &format!("{HOST:?}")))?;
    let mut command = Command::new(clients.join("python/bin/python"));
    command.arg(source).arg(stage.url());
    Ok(command)
}

fn wait_for_request(stage: &Stage) -> Result<String, Box<dyn Error + Send + Sync>> {
    for _ in 0..600 {
        let listed = stage.operate(&["approvals", "list", "--json"])?;
        let requests: serde_json::Value = serde_json::from_slice(&listed.stdout)?;
        if let Some(id) = requests.pointer("/0/id").and_then(|id| id.as_str()) {
            return Ok(id.to_owned());
        }
        sleep(Duration::from_millis(100));
    }
    Err("no command was held".into())
}

fn copy_folder(from: &Path, to: &Path) -> Outcome {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().unwrap_or_default()))?;
        }
    }
    Ok(())
}

fn flip_a_byte(folder: &Path) -> Outcome {
    let mut segments: Vec<PathBuf> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "spool"));
    segments.sort();
    let segment = segments.first().ok_or("there is no segment")?;
    let file = fs::OpenOptions::new().read(true).write(true).open(segment)?;
    let middle = file.metadata()?.len() / 2;
    let mut byte = [0u8];
    file.read_exact_at(&mut byte, middle)?;
    file.write_all_at(&[byte.first().copied().unwrap_or(0) ^ 1], middle)?;
    println!("   flipped one bit at byte {middle} of {}", segment.file_name().unwrap_or_default().to_string_lossy());
    Ok(())
}

/// The program under demonstration stands beside this one's folder.
fn binary() -> Result<PathBuf, Box<dyn Error + Send + Sync>> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).ok_or("this program stands in no build folder")?;
    Ok(folder.join("interceptor"))
}
