//! Real servers and real clients through the driver.

use std::process::{Command as Process, Output, Stdio};
use std::sync::Arc;

use super::{Answer, ScriptedGate};
use crate::mask::Rules;
use crate::policy::ActionName;
use crate::protocol::{Gate, Observation};
use crate::testing::postgres::{Options, Postgres as Server};
use crate::testing::proxy::serve;

/// A server, and a proxy in front of it.
pub(super) struct Stage {
    pub(super) server: Server,
    pub(super) gate: Arc<ScriptedGate>,
    pub(super) port: u16,
}

impl Stage {
    pub(super) async fn new(gate: ScriptedGate, rules: Rules) -> Self {
        let server = Server::start(Options { auth: "trust", ..Options::default() }).unwrap();
        let gate = Arc::new(gate);
        let serving: Arc<dyn Gate> = Arc::clone(&gate) as Arc<dyn Gate>;
        // A name of its own, since catalogs are kept by it.
        let name = format!("t{}", server.port());
        let port = serve(server.port(), &name, Arc::new(rules), serving).await.unwrap();
        Self { server, gate, port }
    }

    /// Runs psql over a script, and gives what it printed: both streams.
    pub(super) async fn psql(&self, script: &str) -> String {
        let output =
            self.client("psql", &["-X", "-q", "-A", "-t", "-v", "VERBOSITY=verbose", &self.url()], script).await;
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    pub(super) fn url(&self) -> String {
        format!("host=127.0.0.1 port={} user=agent dbname=postgres sslmode=prefer", self.port)
    }

    /// A client's connection through the proxy.
    async fn connect(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    pub(super) async fn client(&self, program: &str, arguments: &[&str], input: &str) -> Output {
        let mut process = Process::new(program);
        process.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let input = input.to_owned();
        tokio::task::spawn_blocking(move || {
            use std::io::Write as _;
            let mut child = process.spawn().unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        })
        .await
        .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_works_as_it_does_without() {
    let stage = Stage::new(ScriptedGate::open(), Rules::default()).await;
    let said = stage
        .psql(
            "SELECT 1; SELECT 'a' AS x, 2;\n\
             CREATE TABLE t (id int, v text);\n\
             COPY t FROM STDIN;\n1\tone\n2\ttwo\n\\.\n\
             COPY t TO STDOUT;\n\
             BEGIN; INSERT INTO t VALUES (3, 'three'); SELECT count(*) FROM t; ROLLBACK;\n\
             SELECT count(*) FROM t;\n\
             SELECT nonsense;\n\
             PREPARE p AS SELECT $1::int + 1; EXECUTE p(41);\n\
             \\bind 7\n SELECT $1::int * 2 \\g\n\
             SELECT sum(length(repeat('x', 1000))) FROM generate_series(1, 1000);\n",
        )
        .await;
    assert!(said.contains("1\na|2\n1\tone\n2\ttwo\n3\n2\n"), "{said}");
    assert!(said.contains("42703"), "{said}");
    assert!(said.contains("\n42\n"), "{said}");
    assert!(said.contains("\n1000000\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_statement_never_reaches_the_server_and_fails_the_transaction() {
    let stage = Stage::new(ScriptedGate::denying("secret"), Rules::default()).await;
    let said = stage
        .psql(
            "CREATE TABLE t (id int);\n\
             SELECT 'secret';\n\
             SELECT 'after';\n\
             BEGIN; \n INSERT INTO t VALUES (1);\n SELECT 'secret';\n SELECT 'unreachable';\n COMMIT;\n\
             SELECT 'rows', count(*) FROM t;\n",
        )
        .await;
    assert!(said.contains("after\n"), "{said}");
    assert!(said.contains("42501") && said.contains("scripted-rule") && said.contains("ask the author"), "{said}");
    assert!(said.contains("25P02") && !said.contains("unreachable"), "{said}");
    assert!(said.contains("rows|0"), "{said}");
    assert!(!stage.server.log().contains("secret"), "{}", stage.server.log());
    assert_eq!(stage.gate.denials(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelines_portals_and_prepared_statements_stay_in_step() {
    let stage = Stage::new(ScriptedGate::denying("secret"), Rules::default()).await;
    let (client, connection) = tokio_postgres::connect(&stage.url(), tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text)").await.unwrap();
    let insert = client.prepare("INSERT INTO t VALUES ($1, $2)").await.unwrap();
    let select = client.prepare("SELECT v FROM t WHERE id = $1").await.unwrap();
    // Many at once: the client pipelines them.
    let inserts = (0..200_i32).map(|id| {
        let (client, insert) = (&client, &insert);
        async move { client.execute(insert, &[&id, &format!("v{id}")]).await.unwrap() }
    });
    futures_util::future::join_all(inserts).await;
    let refused = client.prepare("SELECT 'secret'");
    let good = client.query_one(&select, &[&7_i32]);
    let twice = client.execute(&insert, &[&7_i32, &"again"]);
    let last = client.query_one(&select, &[&9_i32]);
    let (refused, good, twice, last) = futures_util::join!(refused, good, twice, last);
    assert_eq!(refused.unwrap_err().code().unwrap().code(), "42501");
    assert_eq!(good.unwrap().get::<_, &str>(0), "v7");
    assert_eq!(twice.unwrap_err().code().unwrap().code(), "23505");
    assert_eq!(last.unwrap().get::<_, &str>(0), "v9");

    let mut client = client;
    let transaction = client.transaction().await.unwrap();
    transaction.execute(&insert, &[&1000_i32, &"x"]).await.unwrap();
    assert!(transaction.query("SELECT 'secret'", &[]).await.is_err());
    assert_eq!(transaction.query("SELECT 1", &[]).await.unwrap_err().code().unwrap().code(), "25P02");
    transaction.commit().await.unwrap();
    assert!(client.query_opt(&select, &[&1000_i32]).await.unwrap().is_none());

    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("SELECT id FROM t ORDER BY id", &[]).await.unwrap();
    for page in 0..3 {
        let rows = transaction.query_portal(&portal, 50).await.unwrap();
        assert_eq!(rows[0].get::<_, i32>(0), page * 50);
    }
    transaction.rollback().await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
    assert!(!stage.server.log().contains("secret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_command_waits_and_can_be_canceled() {
    let gate =
        ScriptedGate::new(
            |command| {
                if command.statement.contains("pg_sleep(0)") { Answer::Hold } else { Answer::Permit(&[]) }
            },
        );
    let stage = Stage::new(gate, Rules::default()).await;
    let client = stage.connect().await;
    let token = client.cancel_token();
    let held = client.simple_query("SELECT pg_sleep(0)");
    let approve = async {
        while stage.gate.holding.load(std::sync::atomic::Ordering::SeqCst) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        stage.gate.approve.notify_one();
    };
    let (held, ()) = futures_util::join!(held, approve);
    held.unwrap();

    let held = client.simple_query("SELECT pg_sleep(0)");
    let cancel = async {
        while stage.gate.holding.load(std::sync::atomic::Ordering::SeqCst) == 1 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    };
    let (held, ()) = futures_util::join!(held, cancel);
    assert!(held.is_err());

    let running = client.simple_query("SELECT pg_sleep(60)");
    let cancel = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    };
    let (running, ()) = futures_util::join!(running, cancel);
    assert_eq!(running.unwrap_err().code().unwrap().code(), "57014");
    assert!(client.simple_query("SELECT 1").await.is_ok());
}

fn rules() -> Rules {
    let config = r#"
        [[mask]]
        tag = "pii"
        columns = ["public.people.email"]
        transform = "redact"
        [[mask]]
        tag = "card"
        columns = ["*.card"]
        detect = ["card"]
        transform = { keep_last = 4 }
    "#;
    crate::testing::masks::rules(config)
}

const PEOPLE: &str = "CREATE TABLE people (id int PRIMARY KEY, email text UNIQUE, card text, note text);
    INSERT INTO people VALUES (1, 'ada@example.com', '4111111111111111', 'paid with 4111 1111 1111 1111');";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masked_values_leave_by_no_way_out() {
    let stage = Stage::new(ScriptedGate::new(|_| Answer::Permit(&["pii", "card"])), rules()).await;
    stage.server.sql(PEOPLE).unwrap();
    let said = stage
        .psql(
            "SELECT * FROM people;\n\
             SELECT upper(email), md5(card) FROM people;\n\
             COPY people TO STDOUT;\n\
             COPY (SELECT email, card FROM people) TO STDOUT WITH (FORMAT csv);\n\
             COPY people TO STDOUT WITH (DELIMITER '|');\n\
             BEGIN; DECLARE c CURSOR FOR SELECT email, card FROM people; FETCH ALL FROM c; COMMIT;\n\
             PREPARE p AS SELECT email, card FROM people WHERE id = $1; EXECUTE p(1);\n\
             INSERT INTO people SELECT 2, email FROM people;\n\
             SELECT email::int FROM people;\n\
             SELECT card::int FROM people;\n\
             UPDATE people SET note = 'x' WHERE id = 1 RETURNING *;\n\
             SELECT row_to_json(people) FROM people;\n\
             \\bind 1\n SELECT email, card, id FROM people WHERE id = $1 \\g\n\
             SELECT 'still in step';\n",
        )
        .await;
    for secret in ["ada@example", "ADA@EXAMPLE", "4111111111111111", "4111 1111"] {
        assert!(!said.contains(secret), "{secret} in {said}");
    }
    assert!(said.contains("1111") && said.contains("still in step"), "{said}");
    assert!(said.contains("42501") && said.contains("cannot be masked"), "{said}");
    assert!(said.contains("23505") && said.contains("22P02"), "{said}");
    let client = stage.connect().await;
    // Binary formats, and a description that was asked for once and used twice.
    let select = client.prepare("SELECT id, email, card FROM people WHERE id = $1").await.unwrap();
    for _ in 0..2 {
        let row = client.query_one(&select, &[&1_i32]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), 1);
        assert!(!row.get::<_, &str>(1).contains("ada@"));
        let card = row.get::<_, &str>(2);
        assert!(card.ends_with("1111") && !card.contains("41111"), "{card}");
    }
    let masked = stage.gate.observed.lock().iter().any(|event| matches!(event, Observation::Masked { .. }));
    assert!(masked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_mean_what_the_server_takes_them_for() {
    let gate = ScriptedGate::new(|command| {
        let secret = command.actions.iter().any(|action| action.resource.id().ends_with("/hidden/people"));
        if secret { Answer::Deny } else { Answer::Permit(&[]) }
    });
    let stage = Stage::new(gate, Rules::default()).await;
    stage
        .server
        .sql(
            "CREATE SCHEMA hidden; CREATE TABLE hidden.people (v text); INSERT INTO hidden.people VALUES ('treasure');
              CREATE TABLE people (v text); INSERT INTO people VALUES ('public');",
        )
        .unwrap();
    let said = stage
        .psql(
            "SELECT v FROM people;\n\
             SET search_path = hidden, public;\n\
             SELECT v FROM people;\n\
             RESET search_path;\n\
             BEGIN; SET LOCAL search_path = hidden;\n SELECT v FROM people;\n ROLLBACK;\n\
             BEGIN; SAVEPOINT a; SET search_path = hidden;\n ROLLBACK TO a; SELECT v || '2' FROM people; COMMIT;\n\
             BEGIN; ALTER TABLE people RENAME TO other; ALTER TABLE hidden.people SET SCHEMA public;\n\
             SELECT v FROM people; ROLLBACK;\n\
             SELECT v || '3' FROM people;\n",
        )
        .await;
    assert!(said.contains("public\n") && said.contains("public2") && said.contains("public3"), "{said}");
    assert!(!said.contains("treasure"), "{said}");
}

/// Denies whatever is opaque.
fn strict() -> ScriptedGate {
    ScriptedGate::new(|command| {
        let opaque = command.actions.iter().any(|action| action.name == ActionName::SQL_OPAQUE);
        if opaque { Answer::Deny } else { Answer::Permit(&["pii"]) }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_names_are_refused_in_the_server_s_words() {
    let stage = Stage::new(strict(), Rules::default()).await;
    stage.server.sql(PEOPLE).unwrap();
    let statements = [
        "SELECT * FROM nowhere;",
        "SELECT * FROM nowhere.people;",
        "SELECT nothing FROM people;",
        "SELECT p.nothing FROM people p;",
        "SELECT other.id FROM people;",
        "SELECT 1::notype;",
        "DELETE FROM nowhere;",
        "EXECUTE nothing;",
        "FETCH ALL FROM nothing;",
        "PREPARE p AS SELECT nothing FROM people;",
    ];
    for statement in statements {
        let direct = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", stage.server.port());
        let arguments = ["-X", "-q", "-v", "VERBOSITY=verbose", &direct];
        let output = stage.client("psql", &arguments, statement).await;
        let direct = String::from_utf8_lossy(&output.stderr).into_owned();
        let expected = direct.lines().find(|line| line.contains("ERROR:")).unwrap();
        let said = stage.psql(&format!("{statement}\nSELECT 'in ' || 'step';")).await;
        assert!(said.contains(expected) && said.contains("in step"), "{statement}: not {expected}: {said}");
        assert!(said.contains("interceptor did not forward it"), "{statement}: {said}");
    }
    let said = stage.psql("SELECT nothing_of_the_sort(1);").await;
    assert!(said.contains("42883: function nothing_of_the_sort does not exist"), "{said}");
    assert_eq!(stage.gate.denials(), statements.len() + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_others_make_is_found() {
    let stage = Stage::new(strict(), Rules::default()).await;
    let client = stage.connect().await;
    assert!(client.simple_query("SELECT 1").await.is_ok());
    stage.server.sql("CREATE TABLE late (v int); INSERT INTO late VALUES (7)").unwrap();
    tokio::time::sleep(crate::protocol::postgres::driver::catalogs::DOUBTED).await;
    // Also within a transaction, and by the extended protocol.
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(client.query_one("SELECT v FROM late", &[]).await.unwrap().get::<_, i32>(0), 7);
    client.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_session_defines_is_known_to_all() {
    let stage = Stage::new(strict(), rules()).await;
    stage.server.sql(PEOPLE).unwrap();
    let (author, reader) = (stage.connect().await, stage.connect().await);
    author.batch_execute("CREATE VIEW v AS SELECT id, 'plain'::text AS shown FROM people").await.unwrap();
    let select = "SELECT shown FROM v WHERE id = 1";
    let shown = || async { reader.query_one(select, &[]).await.unwrap().get::<_, String>(0) };
    assert_eq!(shown().await, "plain");
    author.batch_execute("BEGIN").await.unwrap();
    author.batch_execute("CREATE OR REPLACE VIEW v AS SELECT id, email AS shown FROM people").await.unwrap();
    author.batch_execute("COMMIT").await.unwrap();
    let now = shown().await;
    assert!(now != "plain" && !now.contains("ada@"), "{now}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_fails_does_not_fail_the_agents_transaction() {
    let stage = Stage::new(ScriptedGate::open(), Rules::default()).await;
    stage.server.sql("CREATE ROLE plain; CREATE TABLE t (id int); GRANT INSERT, SELECT ON t TO plain").unwrap();
    let agent = stage.connect().await;
    agent.batch_execute("BEGIN").await.unwrap();
    agent.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    // What names mean cannot be asked without this cast.
    agent.batch_execute("REVOKE ALL ON FUNCTION int8(integer) FROM PUBLIC").await.unwrap();
    agent.batch_execute("SET LOCAL SESSION AUTHORIZATION plain").await.unwrap();
    agent.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    agent.batch_execute("COMMIT").await.unwrap();
    assert_eq!(stage.server.sql("SELECT count(*) FROM t").unwrap().trim(), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_held_for_long_does_not_take_the_catalog_from_others() {
    let stage = Stage::new(strict(), rules()).await;
    stage.server.sql(PEOPLE).unwrap();
    stage
        .server
        .sql("CREATE VIEW v AS SELECT id, 'plain'::text AS shown FROM people; CREATE TABLE other AS SELECT 1 AS id")
        .unwrap();
    let holder = tokio_postgres::connect(
        &format!("host=127.0.0.1 port={} user=postgres dbname=postgres", stage.server.port()),
        tokio_postgres::NoTls,
    )
    .await
    .unwrap();
    tokio::spawn(holder.1);
    holder.0.batch_execute("BEGIN; LOCK TABLE people IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let (author, reader) = (stage.connect().await, stage.connect().await);
    for number in 0..3 {
        author.batch_execute(&format!("CREATE TABLE more{number} (id int)")).await.unwrap();
        let read = reader.query_one("SELECT id FROM other", &[]);
        let read = tokio::time::timeout(std::time::Duration::from_secs(20), read).await.expect("it waits for the lock");
        assert_eq!(read.unwrap().get::<_, i32>(0), 1);
    }
    let refused = reader.query_one("SELECT shown FROM v WHERE id = 1", &[]).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "55P03", "{refused}");
    let waiting = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'interceptor' AND wait_event_type = 'Lock'";
    assert_eq!(stage.server.sql(waiting).unwrap().trim(), "0");
    holder.0.batch_execute("ROLLBACK").await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    let shown = reader.query_one("SELECT shown FROM v WHERE id = 1", &[]).await.unwrap();
    assert_eq!(shown.get::<_, String>(0), "plain");
}

/// Other sessions' DDL makes a session ask what names mean before it reads on; within a transaction that is a query, before
/// which the transaction has to be set up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_of_our_own_leave_settings_alone() {
    let stage = Stage::new(ScriptedGate::open(), Rules::default()).await;
    let said = stage
        .psql(
            "SET jit_above_cost = 0;\nSET enable_sort = off;\nSHOW jit;\nCREATE TABLE one (a int);\nSELECT 'idle', setting \
             FROM pg_settings WHERE name = 'jit';\nBEGIN;\nSET LOCAL jit = off;\nCREATE TEMP TABLE two (a int);\n\
             SELECT 'inside', setting FROM pg_settings WHERE name = 'jit';\nCOMMIT;\nSELECT 'after', setting FROM \
             pg_settings WHERE name = 'jit';\nSET jit = off;\nDROP TABLE one, two;\nSELECT 'off', setting FROM pg_settings \
             WHERE name = 'jit';\n",
        )
        .await;
    for seen in ["idle|on", "inside|off", "after|on", "off|off"] {
        assert!(said.contains(seen), "{seen}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_set_up_before_anything_is_asked() {
    let stage = Stage::new(strict(), Rules::default()).await;
    let (author, reader) = (stage.connect().await, stage.connect().await);
    let set = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE";
    for (number, extended) in [false, true].into_iter().enumerate() {
        reader.batch_execute("BEGIN").await.unwrap();
        author.batch_execute(&format!("CREATE TABLE made_{number} (v int)")).await.unwrap();
        if extended {
            reader.execute(set, &[]).await.unwrap();
        } else {
            reader.batch_execute(set).await.unwrap();
        }
        let level = reader.query_one("SELECT current_setting('transaction_isolation')", &[]).await.unwrap();
        assert_eq!(level.get::<_, &str>(0), "serializable");
        reader.batch_execute(&format!("INSERT INTO made_{number} VALUES (1); COMMIT")).await.unwrap();
    }
}
