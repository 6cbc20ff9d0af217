//! SIGHUP: what was changed counts at once, for policy also in sessions that are open, and none of them is disturbed.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use interceptor::testing::stage::Stage;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::scene::{
    assert_nothing_forbidden, configuration, edited, inline, operate, psql_fails, psql_ok, recorded, stage, wait_for,
};

/// An agent with one open session, which runs the statements that it is given.
struct Live {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Live {
    fn start(stage: &Stage) -> Self {
        let code = "c = psycopg.connect(URL, autocommit=True)\n\
                    for line in sys.stdin:\n\
                    \x20   try:\n\
                    \x20       cursor = c.execute(line)\n\
                    \x20       print('ok', cursor.fetchall() if cursor.description else '', flush=True)\n\
                    \x20   except psycopg.Error as error:\n\
                    \x20       print('no', error.sqlstate, str(error).replace(chr(10), ' '), flush=True)\n";
        let mut command = inline(stage, code);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = stage.spawn_agent(command).unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, to, from }
    }

    fn run(&mut self, statement: &str) -> String {
        writeln!(self.to, "{statement}").unwrap();
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        line
    }

    /// Lets it go.
    fn end(self) {
        let Self { mut child, to, .. } = self;
        drop(to);
        assert!(child.wait().unwrap().success());
    }
}

/// Tells the daemon by signal, and waits until it has done it.
fn hang_up(stage: &Stage) {
    let done = || stage.log().matches("are in force").count();
    let before = done();
    kill(Pid::from_raw(i32::try_from(stage.daemon_pid().unwrap()).unwrap()), Signal::SIGHUP).unwrap();
    wait_for("the reload", || (done() > before).then_some(()));
}

#[test]
fn a_policy_counts_at_once_in_old_sessions_and_new_ones() {
    let stage = stage();
    let daemon = stage.daemon_pid();
    let mut live = Live::start(&stage);
    assert!(live.run("SELECT count(*) FROM scratch").contains("1000"));
    assert_eq!(live.run("PREPARE q AS SELECT count(*) FROM scratch").trim(), "ok");
    assert_eq!(live.run("BEGIN").trim(), "ok");
    let inserted = live.run("INSERT INTO orders (customer, item) VALUES (1, 'over-the-reload')");
    assert_eq!(inserted.trim(), "ok");

    let rule =
        "@id(\"no-scratch\")\nforbid (principal, action, resource == Table::\"orders-db/orders/public/scratch\");\n";
    fs::write(stage.path("policies/test.cedar"), rule).unwrap();
    hang_up(&stage);
    // The open transaction goes on, and is kept.
    assert_eq!(live.run("COMMIT").trim(), "ok");
    assert!(live.run("SELECT count(*) FROM orders WHERE item = 'over-the-reload'").contains("(1,)"));
    for statement in ["SELECT count(*) FROM scratch /* forbidden:live */", "EXECUTE q /* forbidden:live */"] {
        let told = live.run(statement);
        assert!(told.starts_with("no 42501") && told.contains("no-scratch"), "{statement}: {told}");
    }
    assert!(psql_fails(&stage, &["TABLE scratch /* forbidden:new */"]).contains("no-scratch"));
    assert_nothing_forbidden(&stage);

    fs::write(stage.path("policies/test.cedar"), "").unwrap();
    hang_up(&stage);
    assert!(live.run("EXECUTE q").contains("1000"));
    assert!(psql_ok(&stage, &["SELECT count(*) FROM scratch"]).contains("1000"));
    assert_eq!(stage.daemon_pid(), daemon);
    live.end();
    let loaded = || recorded(&stage).matches("policy_loaded").count() >= 3;
    wait_for("each load on record", || loaded().then_some(()));
}

#[test]
fn targets_agents_and_masks_count_for_new_sessions() {
    let stage = stage();
    let mut live = Live::start(&stage);
    assert!(live.run("SELECT card, name FROM customers WHERE id = 1").contains("************1111', 'Ada Lovelace"));
    let before = configuration(&stage);

    // A tag under another name, and one more column.
    let renamed = edited(&before, "tag = \"card\"", "tag = \"pan\"");
    let masks = format!("{renamed}\n[[mask]]\ntag = \"person\"\ncolumns = [\"*.name\"]\n");
    fs::write(stage.path("interceptor.toml"), &masks).unwrap();
    hang_up(&stage);
    let told = psql_ok(&stage, &["SELECT card, name FROM customers WHERE id = 1"]);
    assert!(told.contains("************1111") && told.contains("[masked:person]"), "{told}");
    // Masks of an open session stay as it began, whatever its tags are called now.
    let told = live.run("SELECT card, name FROM customers WHERE id = 1");
    assert!(told.contains("************1111") && !told.contains("4111111111111111"), "{told}");

    // Another user at the target.
    stage
        .server
        .sql("CREATE ROLE other_user LOGIN PASSWORD 'another-password'; GRANT orders_rw TO other_user")
        .unwrap();
    fs::write(stage.path("orders_rw.password"), "another-password").unwrap();
    fs::write(stage.path("interceptor.toml"), edited(&before, "user = \"orders_rw\"", "user = \"other_user\""))
        .unwrap();
    hang_up(&stage);
    assert!(psql_ok(&stage, &["SELECT current_user"]).contains("other_user"));
    assert!(live.run("SELECT current_user").contains("orders_rw"));

    // Who may answer, and how long it is waited for; what needs a restart is named.
    let quick = edited(
        &before,
        "timeout_seconds = 20",
        "timeout_seconds = 1\n[approval.approvers]\ndba-oncall = [\"nobody\"]\ndata-protection = [\"nobody\"]",
    );
    let quick = format!("{quick}\n[limits]\nsessions = 7\n");
    let told = {
        fs::write(stage.path("interceptor.toml"), &quick).unwrap();
        operate(&stage, 0, &["reload"])
    };
    assert!(told.contains("are in force; restart for what has changed in [limits]"), "{told}");
    assert!(live.run("TRUNCATE scratch /* forbidden:late */").contains("answered in time"));

    // Another subject: the agent that is there is not it, but who was let in stays in.
    fs::write(stage.path("interceptor.toml"), edited(&before, "svc:billing", "svc:somebody-else")).unwrap();
    hang_up(&stage);
    let told = psql_fails(&stage, &["SELECT 'forbidden:subject'"]);
    assert!(told.contains("FATAL") && told.contains("another subject"), "{told}");
    assert!(live.run("SELECT 6").contains("(6,)"));
    assert_nothing_forbidden(&stage);
    live.end();
    operate(&stage, 0, &["recordings", "verify"]);
}
