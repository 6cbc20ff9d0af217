//! The server's own tools where others have a hand in: psql that listens, is interrupted and loses its session; pgbench whose
//! commands are denied and held, and that computes with what it reads.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Output, Stdio};

use interceptor::testing::stage::Stage;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::hold::approve;
use super::scene::{
    assert_nothing_forbidden, bounded, operate, operate_json, psql_ok, said, stage, start, start_psql, truth, wait_for,
};

/// psql that is told what to do through a pipe, as the governed agent.
struct Piped {
    child: Child,
    input: ChildStdin,
    output: BufReader<std::process::ChildStdout>,
}

impl Piped {
    fn start(stage: &Stage) -> Self {
        Self::of(stage, &stage.psql(&[]))
    }

    fn of(stage: &Stage, command: &Command) -> Self {
        let mut command = bounded(command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = stage.spawn_agent(command).unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    /// One that believes that somebody sits before it, and has shown its first prompt.
    fn terminal(stage: &Stage) -> Self {
        let mut terminal = Command::new("script");
        let psql = format!("psql -X -P pager=off '{}'", stage.url());
        terminal.args(["--quiet", "--return", "--command", &psql, "/dev/null"]).env("TERM", "dumb");
        let mut psql = Self::of(stage, &terminal);
        let mut told = String::new();
        while !told.contains("=> ") {
            let piece = psql.output.fill_buf().unwrap().to_vec();
            assert!(!piece.is_empty(), "it ended: {told}");
            psql.output.consume(piece.len());
            told.push_str(&String::from_utf8_lossy(&piece));
        }
        psql
    }

    /// Gives it these lines, and waits until it has done what they say.
    fn does(&mut self, lines: &str) -> String {
        // A child of its own writes at once; psql itself would when its buffer is full.
        writeln!(self.input, "{lines}\n\\! echo that was it").unwrap();
        let mut told = String::new();
        while !told.ends_with("that was it\n") {
            assert_ne!(self.output.read_line(&mut told).unwrap(), 0, "it ended: {told}");
        }
        told
    }

    /// Everything else that it says, once it has been given these lines and nothing more.
    fn ends(mut self, lines: &str) -> (Output, String) {
        writeln!(self.input, "{lines}").unwrap();
        drop(self.input);
        let mut told = String::new();
        std::io::Read::read_to_string(&mut self.output, &mut told).unwrap();
        let output = self.child.wait_with_output().unwrap();
        told.push_str(&said(&output));
        (output, told)
    }
}

fn kill_sessions(stage: &Stage) {
    let sessions = operate_json(stage, &["sessions", "list"]);
    let sessions = sessions.as_array().unwrap();
    assert!(!sessions.is_empty(), "nobody is connected");
    for session in sessions {
        operate(stage, 0, &["sessions", "kill", session["id"].as_str().unwrap()]);
    }
}

#[test]
fn psql_listens_is_interrupted_and_comes_back() {
    let stage = stage();
    psql_hears_what_others_notify(&stage);
    psql_interrupts_what_runs(&stage);
    psql_connects_again_after_its_session_was_killed(&stage);
    assert_nothing_forbidden(&stage);
}

fn psql_hears_what_others_notify(stage: &Stage) {
    let mut listener = Piped::start(stage);
    listener.does("LISTEN news;");
    psql_ok(stage, &["NOTIFY news, 'from another agent'"]);
    truth(stage, "NOTIFY news, 'paid with 4111111111111111 today'");
    // psql looks for news after each command.
    let (output, told) = listener.ends("SELECT 'looked';");
    assert!(output.status.success(), "{told}");
    for wanted in ["notification \"news\"", "\"from another agent\"", "\"paid with ************1111 today\"", "looked"]
    {
        assert!(told.contains(wanted), "{wanted} is not in {told}");
    }
    assert!(!told.contains("4111111111111111"), "{told}");
}

fn psql_interrupts_what_runs(stage: &Stage) {
    let long = "SELECT count(*) FROM scratch a, scratch b, scratch c, scratch d WHERE a.id + b.id + c.id + d.id < 0";
    let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() \
                   AND query LIKE '%scratch a, scratch b%'";
    let runs = || truth(stage, running);
    // A script ends with it: psql sends a cancel request, and reads on until its answer.
    let psql = start_psql(stage, &[long]);
    wait_for("the statement to run", || (runs() != "0").then_some(()));
    kill(Pid::from_raw(i32::try_from(psql.id()).unwrap()), Signal::SIGINT).unwrap();
    let told = said(&psql.wait_with_output().unwrap());
    assert!(told.contains("ERROR:  57014"), "{told}");
    wait_for("the statement to end", || (runs() == "0").then_some(()));
    // Whoever sits at a terminal goes on.
    let mut psql = Piped::terminal(stage);
    writeln!(psql.input, "{long};").unwrap();
    wait_for("the statement to run", || (runs() != "0").then_some(()));
    psql.input.write_all(b"\x03").unwrap();
    let (_, told) = psql.ends("SELECT 'still ' || 'here';\nSELECT card FROM customers WHERE id = 1;\n\\q");
    for wanted in ["canceling statement due to user request", "still here", "************1111"] {
        assert!(told.contains(wanted), "{wanted} is not in {told}");
    }
    wait_for("the statement to end", || (runs() == "0").then_some(()));
}

fn psql_connects_again_after_its_session_was_killed(stage: &Stage) {
    // Told to, from a script.
    let mut psql = Piped::start(stage);
    psql.does("SELECT 'first';");
    kill_sessions(stage);
    let (output, told) = psql.ends("\\c\nSELECT card FROM customers WHERE id = 1;");
    assert!(output.status.success() && told.contains("************1111"), "{told}");

    // One that does not connect again ends: a script must not go on without a session.
    let mut psql = Piped::start(stage);
    psql.does("SELECT 'first';");
    kill_sessions(stage);
    let (output, told) = psql.ends("SELECT 'forbidden:killed';\nSELECT card FROM customers WHERE id = 1;");
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("57P01") && !told.contains("1111"), "{told}");

    // By itself, at a terminal.
    let psql = Piped::terminal(stage);
    kill_sessions(stage);
    let (_, told) = psql.ends("SELECT 'forbidden:killed';\nSELECT card FROM customers WHERE id = 1;\n\\q");
    assert!(told.contains("Attempting reset: Succeeded") && told.contains("************1111"), "{told}");
}

/// pgbench with this script. It takes whatever stands behind a colon for a variable, in comments, too.
fn pgbench(stage: &Stage, script: &str, arguments: &[&str]) -> Command {
    let path = stage.path("tool.pgbench");
    fs::write(&path, script).unwrap();
    let mut pgbench = Command::new("pgbench");
    pgbench.args(["-n", "-f"]).arg(&path).args(arguments).arg(stage.url());
    bounded(&pgbench)
}

#[test]
fn pgbench_is_denied_held_and_reads_masked_values() {
    let stage = stage();
    for sql in ["CREATE TABLE ticks (n int)", "INSERT INTO ticks VALUES (0)"] {
        truth(&stage, sql);
    }
    truth(&stage, "ALTER TABLE ticks OWNER TO orders_rw");
    for (number, mode) in ["simple", "extended", "prepared"].into_iter().enumerate() {
        a_denied_script_ends_with_the_words(&stage, mode);
        a_held_script_waits(&stage, mode, number + 1);
        what_it_reads_into_variables_is_masked(&stage, mode);
    }
    assert_nothing_forbidden(&stage);
}

fn a_denied_script_ends_with_the_words(stage: &Stage, mode: &str) {
    let script = format!(
        "INSERT INTO orders (customer, item) VALUES (1, 'bench-{mode}');\n\
         UPDATE customers SET name = 'Mallory' WHERE id = 1 /* forbidden: pgbench, {mode} */;\n\
         INSERT INTO orders (customer, item) VALUES (1, 'bench-after');\n"
    );
    let output = stage.run_agent(pgbench(stage, &script, &["-M", mode, "-t", "3", "-c", "2"])).unwrap();
    let told = said(&output);
    assert_eq!(output.status.code(), Some(2), "{mode}: {told}");
    assert!(told.contains("customers-are-read-only") && told.contains("command 1"), "{mode}: {told}");
    // Both clients stop where they were denied.
    let count = |item: &str| truth(stage, &format!("SELECT count(*) FROM orders WHERE item = '{item}'"));
    assert_eq!((count(&format!("bench-{mode}")).as_str(), count("bench-after").as_str()), ("2", "0"), "{told}");
}

fn a_held_script_waits(stage: &Stage, mode: &str, before: usize) {
    let script = format!("UPDATE ticks SET n = n + 1 /* held by pgbench, {mode} */;\nSELECT n FROM ticks;\n");
    let held = start(stage, pgbench(stage, &script, &["-M", mode, "-t", "1"]));
    approve(stage, &format!("held by pgbench, {mode}"));
    let output = held.wait_with_output().unwrap();
    assert!(output.status.success(), "{mode}: {}", said(&output));
    assert_eq!(truth(stage, "SELECT n FROM ticks"), before.to_string());
    let ran = stage.server.statements();
    let ran = ran.iter().filter(|found| {
        // Not what the planner was asked for the human's sake.
        found.text.starts_with("UPDATE") && found.text.contains(&format!("held by pgbench, {mode}"))
    });
    assert_eq!(ran.count(), 1, "{mode}");
}

fn what_it_reads_into_variables_is_masked(stage: &Stage, mode: &str) {
    // In a simple query a variable is put in as it is.
    let quote = if mode == "simple" { "'" } else { "" };
    let values = [(80001, "card"), (80002, "name"), (80003, "balance")];
    let values = values.map(|(id, name)| format!("({id}, {quote}:read_{name}{quote})")).join(", ");
    let script = format!(
        "SELECT card, name, balance FROM customers WHERE id = 1 \\gset read_\n\
         INSERT INTO scratch (id, what) VALUES {values};\n"
    );
    let output = stage.run_agent(pgbench(stage, &script, &["-M", mode, "-t", "1"])).unwrap();
    assert!(output.status.success(), "{mode}: {}", said(&output));
    let read = truth(stage, "SELECT string_agg(what, '|' ORDER BY id) FROM scratch WHERE id BETWEEN 80001 AND 80003");
    assert_eq!(read, "************1111|Ada Lovelace|1200.50", "{mode}");
    truth(stage, "DELETE FROM scratch WHERE id > 80000");
}
