//! Every client, unmodified: masked reads, denied writes, transactions, pipelines, COPY, cursors, cancels.

use std::fs;
use std::process::Command;

use interceptor::testing::stage::{DATABASE, HOST, Stage, UPSTREAM_USER};
use interceptor::testing::world::FAR4;

use super::drivers::{converse, prepare, programs};
use super::recordings::assert_no_canary;
use super::scene::{assert_nothing_forbidden, bounded, operate, psql, psql_fails, psql_ok, raw, said, stage, truth};

const CUSTOMERS: &str = "SELECT id, name, email, card, ssn, balance FROM customers ORDER BY id";

#[test]
fn every_client_passes_and_nothing_forbidden_reaches_the_server() {
    let stage = stage();
    prepare(&stage);
    let before = truth(&stage, CUSTOMERS);
    let mut failed = Vec::new();
    for (name, command) in programs(&stage) {
        let said = converse(&stage, &command);
        if !said.status.success() || said.passed() < FEWEST_CHECKS {
            failed.push(format!("{name} {}", said.complaint()));
        }
    }
    assert!(failed.is_empty(), "{}\n\ndaemon:\n{}", failed.join("\n\n"), stage.log());
    assert_nothing_forbidden(&stage);
    assert_held_commands_ran_once(&stage);
    assert_eq!(truth(&stage, CUSTOMERS), before, "customers are untouched");
    let lost = "SELECT count(*) FROM orders WHERE item LIKE '%-lost' OR item LIKE '%-torn' OR item LIKE '%-several'";
    assert_eq!(truth(&stage, lost), "0", "nothing of a failed transaction stays");
    operate(&stage, 0, &["recordings", "verify"]);
    assert_no_canary(&stage);
}

/// What one program holds at least.
const FEWEST_CHECKS: usize = 40;

/// Every driver's held command is in the server's log, once.
fn assert_held_commands_ran_once(stage: &Stage) {
    let statements = stage.server.statements();
    let ticks = statements.iter().filter(|found| found.text.starts_with("UPDATE ticks"));
    let mut held: Vec<&str> = ticks.map(|found| found.text.as_str()).collect();
    held.sort_unstable();
    let all = held.len();
    held.dedup();
    assert_eq!(held.len(), all, "one ran twice: {held:?}");
    assert_eq!(truth(stage, "SELECT n FROM ticks"), all.to_string());
    assert!(all >= programs(stage).len(), "{held:?}");
}

#[test]
fn pgbench_runs_as_it_does_without_in_every_mode() {
    let stage = stage();
    fill_pgbench(&stage);
    let script = stage.path("agent.pgbench");
    fs::write(&script, PIPELINED).unwrap();
    let script = script.display().to_string();
    let runs: &[&[&str]] = &[
        &["-M", "simple", "-c", "4"],
        &["-M", "extended", "-c", "4"],
        &["-M", "prepared", "-c", "4"],
        &["-M", "prepared", "-c", "2", "-C"],
        &["-M", "extended", "-c", "2", "-f", &script],
        &["-M", "prepared", "-c", "2", "-f", &script],
    ];
    for run in runs {
        let mut pgbench = Command::new("pgbench");
        pgbench.args(["-n", "-t", "20"]).args(*run).arg(stage.url());
        let output = stage.run_agent(bounded(&pgbench)).unwrap();
        let text = said(&output);
        assert!(output.status.success(), "{run:?}: {text}\n{}", stage.log());
        assert!(text.contains("number of failed transactions: 0"), "{run:?}: {text}");
    }
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history), \
                (SELECT count(*) FROM pgbench_history)";
    assert_eq!(truth(&stage, sums), "t|280");
    assert_eq!(truth(&stage, "SELECT count(*) FROM orders WHERE item = 'pgbench'"), "80");
}

/// Reads, a write, and both in a pipeline.
const PIPELINED: &str = "\\set id random(1, 1000)\n\
    \\startpipeline\n\
    SELECT what FROM scratch WHERE id = :id;\n\
    INSERT INTO orders (customer, item, amount) VALUES (1, 'pgbench', :id);\n\
    SELECT email, card FROM customers WHERE id = 2;\n\
    \\endpipeline\n";

/// pgbench's own tables, made past interceptor: an agent of the stage may not make tables.
fn fill_pgbench(stage: &Stage) {
    let mut pgbench = Command::new("pgbench");
    pgbench.args(["-i", "-q", "-s", "1", "-U", UPSTREAM_USER, "-p", "5432", "-h"]);
    let output = pgbench.arg(stage.server.socket_dir()).arg(DATABASE).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn psql_reads_masked_values_in_every_way_it_asks() {
    let stage = stage();
    let answer = psql_ok(&stage, &["SELECT id, name, email, card, ssn, balance FROM customers WHERE id = 1"]);
    for wanted in ["Ada Lovelace", "[masked:pii]", "************1111", "***", "1200.50"] {
        assert!(answer.contains(wanted), "{wanted} is not in {answer}");
    }
    let ways = [
        "SELECT * FROM customers",
        "TABLE customers",
        "SELECT c FROM customers c",
        "SELECT email || card FROM customers",
        "SELECT upper(email), reverse(card) FROM customers",
        "SELECT json_agg(c) FROM customers c",
        "SELECT array_agg(card) FROM customers",
        "SELECT string_agg(email, ',') FROM customers",
        "WITH w AS (SELECT card AS harmless FROM customers) SELECT harmless FROM w",
        "SELECT x FROM (SELECT email AS x FROM customers UNION ALL SELECT item FROM orders) s",
        "SELECT (SELECT card FROM customers WHERE id = 1) AS n",
        "SELECT CASE WHEN id = 1 THEN card ELSE name END FROM customers",
        "SELECT card FROM spending",
        "EXPLAIN (VERBOSE, COSTS OFF) SELECT card FROM customers",
        "PREPARE p AS SELECT card FROM customers; EXECUTE p; DEALLOCATE p",
        "BEGIN; DECLARE c CURSOR FOR SELECT email, card FROM customers; FETCH ALL FROM c; CLOSE c; COMMIT",
        "COPY customers TO STDOUT",
        "COPY (SELECT card, email FROM customers) TO STDOUT (FORMAT csv)",
        "\\copy customers to stdout",
        "INSERT INTO scratch SELECT id, card FROM customers RETURNING what",
        "SELECT note FROM orders",
    ];
    for way in ways {
        // Some of these may be refused: what counts is that no value comes through.
        let answer = said(&psql(&stage, &[way]));
        for secret in
            ["4111111111111111", "4111 1111 1111 1111", "5500005555555559", "ada@example.com", "grace@example.com"]
        {
            let reversed: String = secret.chars().rev().collect();
            let found = answer.to_lowercase();
            assert!(!found.contains(secret) && !found.contains(&reversed), "{way} shows {secret}: {answer}");
        }
    }
}

#[test]
fn psql_is_told_what_why_and_what_next() {
    let stage = stage();
    let told = psql_fails(&stage, &["UPDATE customers SET name = 'Mallory' WHERE id = 1 /* forbidden:psql:plain */"]);
    for wanted in [
        "ERROR:  42501",
        "customers-are-read-only",
        "agents may not change customers",
        "DETAIL:",
        "session",
        "HINT:",
        "open a ticket with the customer team",
    ] {
        assert!(told.contains(wanted), "{wanted} is not in {told}");
    }
    let denied = [
        "DO $$ BEGIN EXECUTE 'DELETE FROM ' || 'customers'; END $$ /* forbidden:psql:do */",
        "SELECT pg_read_file('/etc/passwd') /* forbidden:psql:file */",
        "COPY scratch TO PROGRAM 'cat' /* forbidden:psql:program */",
        "COPY scratch FROM '/etc/passwd' /* forbidden:psql:copy */",
        "CREATE ROLE mallory SUPERUSER /* forbidden:psql:role */",
        "SET ROLE postgres /* forbidden:psql:set */",
        "ALTER SYSTEM SET log_statement = 'none' /* forbidden:psql:system */",
        "SELECT set_config('search_path', 'mallory', false) /* forbidden:psql:path */",
        "WITH gone AS (DELETE FROM customers WHERE id = 1 RETURNING id) SELECT * FROM gone /* forbidden:psql:cte */",
        "EXPLAIN ANALYZE DELETE FROM customers WHERE id = 1 /* forbidden:psql:explain */",
        "INSERT INTO scratch VALUES (-1, 'x'); DELETE FROM \"customers\" WHERE id = 1 /* forbidden:psql:several */",
        "PREPARE p AS DELETE FROM public.customers WHERE id = 1 /* forbidden:psql:prepare */",
        "MERGE INTO customers c USING scratch s ON c.id = s.id WHEN MATCHED THEN DELETE /* forbidden:psql:merge */",
        "this is not SQL /* forbidden:psql:nonsense */",
    ];
    for statement in denied {
        let told = psql_fails(&stage, &[statement]);
        assert!(told.contains("ERROR:  42"), "{statement}: {told}");
    }
    assert_nothing_forbidden(&stage);
    assert_eq!(truth(&stage, "SELECT count(*) FROM scratch WHERE id = -1"), "0", "none of several ran");
    assert_eq!(truth(&stage, "SELECT count(*) FROM customers"), "3");
}

#[test]
fn psql_stays_usable_and_copies() {
    let stage = stage();
    // psql goes on after an error, on the same connection, and exits with what came last.
    let output = psql(
        &stage,
        &[
            "BEGIN",
            "INSERT INTO orders (customer, item) VALUES (1, 'psql-lost')",
            "DELETE FROM customers WHERE id = 1 /* forbidden:psql:transaction */",
            "SELECT 'in between'",
            "COMMIT",
            "SELECT 'still ' || 'here'",
        ],
    );
    let text = said(&output);
    assert!(text.contains("42501") && text.contains("25P02") && text.contains("ROLLBACK"), "{text}");
    assert!(text.contains("still here") && !text.contains("in between\n"), "{text}");
    assert_eq!(truth(&stage, "SELECT count(*) FROM orders WHERE item = 'psql-lost'"), "0");
    let file = stage.path("rows");
    fs::write(&file, "70001\tfrom psql\n70002\tfrom psql\n").unwrap();
    let (file, from) = (file.display(), "SELECT count(*) AS n FROM scratch WHERE what = 'from psql'");
    let text = psql_ok(
        &stage,
        &[
            &format!("\\copy scratch from '{file}'"),
            from,
            "\\copy (SELECT id, what FROM scratch WHERE id < 3) to stdout",
        ],
    );
    assert!(text.contains("COPY 2") && text.contains("1\trow 1"), "{text}");
    let told = psql_fails(&stage, &[&format!("\\copy customers (id, name) from '{file}'")]);
    assert!(told.contains("42501") && told.contains("customers-are-read-only"), "{told}");
    assert_eq!(truth(&stage, "SELECT count(*) FROM customers"), "3");
    let prepared = "PREPARE q (int) AS SELECT what FROM scratch WHERE id = $1; EXECUTE q(7); DEALLOCATE q";
    assert!(psql_ok(&stage, &[prepared]).contains("row 7"));
    assert!(psql_ok(&stage, &["\\d orders"]).contains("customer"), "psql's own catalog queries pass");
    assert_nothing_forbidden(&stage);
}

#[test]
fn the_agent_believes_that_it_speaks_to_the_server() {
    let stage = stage();
    let output = stage.run_agent(bounded(&raw(&stage, "peer", &[]))).unwrap();
    let peer = said(&output);
    let expected = [format!("{FAR4} 5432"), format!("{} 5432", interceptor::testing::world::FAR6)];
    assert!(expected.iter().any(|address| peer.trim() == address), "{HOST} is {peer}");
}
