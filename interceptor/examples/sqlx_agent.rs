//! An agent that uses sqlx: `sqlx_agent URL [--direct]`.
//!
//! sqlx prepares every statement under a name of its own, keeps a hundred of them a connection, takes binary values, and
//! asks the server's catalogs for types that it does not know. With `--direct` it runs against a bare server on which the
//! role may not write to `customers`. For tests: it promises nothing else.

mod agent;

use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use futures_util::future::try_join_all;
use sqlx::postgres::{PgConnection, PgDatabaseError, PgListener, PgPool, PgPoolCopyExt as _, PgPoolOptions, PgRow};
use sqlx::{Connection as _, Error, Executor as _, Row as _};

use agent::{CARD, Outcome, RULE, Refusal, Report, please};

/// Why it was refused, where it was.
fn refusal<T>(result: Result<T, Error>) -> Option<Refusal> {
    let error = result.err()?;
    let said = error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
    Some(Refusal {
        state: said.code().to_owned(),
        severity: format!("{:?}", said.severity()).to_uppercase(),
        message: said.message().to_owned(),
        detail: said.detail().unwrap_or_default().to_owned(),
        hint: said.hint().unwrap_or_default().to_owned(),
    })
}

fn state<T>(result: Result<T, Error>) -> Option<String> {
    result.err().and_then(|error| Some(error.as_database_error()?.code()?.into_owned()))
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn denied(marker: &str) -> String {
    format!("UPDATE customers SET name = 'Mallory' WHERE id = 1 /* forbidden:sqlx:{marker} */")
}

async fn count(connection: &mut PgConnection, item: &str) -> Result<i64, Error> {
    sqlx::query_scalar("SELECT count(*) FROM orders WHERE item = $1").bind(item).fetch_one(connection).await
}

async fn one(connection: &mut PgConnection) -> Result<i32, Error> {
    sqlx::query_scalar("SELECT 1").fetch_one(connection).await
}

async fn reading(connection: &mut PgConnection, report: &mut Report) -> Outcome {
    let people: Vec<(i32, String)> =
        sqlx::query_as("SELECT id, name FROM customers ORDER BY id").fetch_all(&mut *connection).await?;
    let names = [(1, "Ada Lovelace"), (2, "Grace Hopper"), (3, "Alan Turing")];
    report.check("clear columns", names.map(|(id, name)| (id, name.to_owned())).to_vec(), people)?;
    for round in 0..3 {
        let text = "SELECT id, name, email, card, ssn, balance::text FROM customers WHERE id = $1";
        let row: PgRow = sqlx::query(text).bind(1_i32).fetch_one(&mut *connection).await?;
        let name = format!("prepared, round {round}");
        report.check(&format!("{name}: id"), 1_i32, row.try_get(0)?)?;
        report.check(&format!("{name}: name"), some("Ada Lovelace"), row.try_get(1)?)?;
        report.masked(&format!("{name}: email"), some("[masked:pii]"), some("ada@example.com"), row.try_get(2)?)?;
        report.masked(&format!("{name}: card"), some("************1111"), some(CARD), row.try_get(3)?)?;
        report.masked(&format!("{name}: ssn"), some("***"), some("078-05-1120"), row.try_get(4)?)?;
        report.check(&format!("{name}: numeric"), some("1200.50"), row.try_get(5)?)?;
    }
    let empty: Option<String> =
        sqlx::query_scalar("SELECT card FROM customers WHERE id = $1").bind(3_i32).fetch_one(&mut *connection).await?;
    report.check("NULL stays NULL", None, empty)?;
    let text = "SELECT upper(email), length(card), card || '', id + 1 FROM customers WHERE id = 1";
    let row = sqlx::query(text).fetch_one(&mut *connection).await?;
    report.masked("upper(email)", some("[masked:pii]"), some("ADA@EXAMPLE.COM"), row.try_get(0)?)?;
    report.masked("length(card)", None, Some(16_i32), row.try_get(1)?)?;
    report.masked("card || ''", some("[masked:card]"), some(CARD), row.try_get(2)?)?;
    report.check("id + 1", 2_i32, row.try_get(3)?)?;
    let texts: Vec<Option<String>> =
        sqlx::query_scalar("SELECT array_agg(name ORDER BY id) FROM customers").fetch_one(&mut *connection).await?;
    report.check("an array", Some(some("Ada Lovelace")), texts.first().cloned())?;
    let row = sqlx::raw_sql("SELECT card, name FROM customers WHERE id = 1").fetch_one(&mut *connection).await?;
    report.masked("simple protocol", some("************1111"), some(CARD), row.try_get(0)?)?;
    let ids = "SELECT id FROM scratch WHERE what LIKE 'row %' ORDER BY id";
    let stream = sqlx::query_scalar::<_, i32>(ids).fetch(&mut *connection);
    report.check("streamed", (1..=1000).collect(), pin!(stream).try_collect::<Vec<i32>>().await?)?;
    // More statements than it keeps: the oldest are closed.
    for number in 0..120 {
        let text = format!("SELECT card AS c{number} FROM customers WHERE id = $1");
        let card: Option<String> = sqlx::query_scalar(&text).bind(1_i32).fetch_one(&mut *connection).await?;
        if number % 40 == 0 {
            report.masked(&format!("statement {number}"), some("************1111"), some(CARD), card)?;
        }
    }
    Ok(())
}

async fn denials(connection: &mut PgConnection, report: &mut Report) -> Outcome {
    let write = denied("prepared");
    report.refused("denied write", refusal(sqlx::query(&write).execute(&mut *connection).await), RULE)?;
    report.check("usable after a denial", 1, one(connection).await?)?;
    report.refused("denied, simple", refusal(connection.execute(denied("simple").as_str()).await), RULE)?;
    let bound = "UPDATE customers SET name = $1 WHERE id = $2 /* forbidden:sqlx:bound */";
    for round in 0..2 {
        let refused = sqlx::query(bound).bind("Mallory").bind(1_i32).execute(&mut *connection).await;
        report.refused(&format!("denied, with values, round {round}"), refusal(refused), RULE)?;
    }
    let several = format!("INSERT INTO orders (customer, item) VALUES (1, 'sqlx-several'); {}", denied("several"));
    report.refused("one of several", refusal(sqlx::raw_sql(&several).execute(&mut *connection).await), RULE)?;
    report.check("none of several ran", 0, count(connection, "sqlx-several").await?)?;
    let name: String =
        sqlx::query_scalar("SELECT name FROM customers WHERE id = 1").fetch_one(&mut *connection).await?;
    report.check("name is untouched", "Ada Lovelace", name.as_str())?;
    Ok(())
}

async fn transactions(connection: &mut PgConnection, report: &mut Report) -> Outcome {
    let mut lost = connection.begin().await?;
    sqlx::query("INSERT INTO orders (customer, item) VALUES (1, 'sqlx-lost')").execute(&mut *lost).await?;
    report.refused("denied in a transaction", refusal(lost.execute(denied("transaction").as_str()).await), RULE)?;
    report.check("failed until the end", some("25P02"), state(one(&mut lost).await))?;
    lost.rollback().await?;
    report.check("rolled back", 0, count(connection, "sqlx-lost").await?)?;
    let mut outer = connection.begin().await?;
    sqlx::query("INSERT INTO orders (customer, item) VALUES (1, 'sqlx-kept')").execute(&mut *outer).await?;
    let mut inner = outer.begin().await?;
    report.refused("denied after a savepoint", refusal(inner.execute(denied("savepoint").as_str()).await), RULE)?;
    inner.rollback().await?;
    outer.commit().await?;
    report.check("what stood before the savepoint is there", 1, count(connection, "sqlx-kept").await?)?;
    let text = "INSERT INTO orders (customer, item) SELECT n, 'sqlx-many' FROM unnest($1::int[]) n RETURNING customer";
    let made: Vec<i32> = sqlx::query_scalar(text).bind(vec![1, 2, 3]).fetch_all(&mut *connection).await?;
    report.check("many rows from an array", vec![1, 2, 3], made)?;
    Ok(())
}

async fn copies(pool: &PgPool, report: &mut Report) -> Outcome {
    let copied: Vec<_> = pool.copy_out_raw("COPY customers (id, email, card) TO STDOUT").await?.try_collect().await?;
    let text = String::from_utf8_lossy(&copied.concat()).into_owned();
    let (masked, clear) = ("1\t[masked:pii]\t************1111".to_owned(), format!("1\tada@example.com\t{CARD}"));
    report.masked("copy out", masked, clear, text.lines().next().unwrap_or_default().to_owned())?;
    let mut sink = pool.copy_in_raw("COPY scratch (id, what) FROM STDIN").await?;
    for _ in 0..50 {
        sink.send(&b"7\tsqlx\n"[..]).await?;
    }
    report.check("copy in", 50, sink.finish().await?)?;
    let gone = sqlx::query("DELETE FROM scratch WHERE what = 'sqlx'").execute(pool).await?;
    report.check("copied", 50, gone.rows_affected())?;
    let copy = "COPY customers (id, name) FROM STDIN /* forbidden:sqlx:copy */";
    report.refused("denied copy in", refusal(pool.copy_in_raw(copy).await.map(drop)), RULE)?;
    let held = pool.copy_in_raw("COPY scratch (id, what) FROM STDIN").await?;
    held.abort("enough").await?;
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM scratch WHERE what = 'sqlx'").fetch_one(pool).await?;
    report.check("an aborted copy leaves nothing", 0, left)?;
    Ok(())
}

async fn pooled(pool: &PgPool, report: &mut Report) -> Outcome {
    let cards = (0..40).map(|n| {
        let text = "SELECT card FROM customers WHERE id = $1";
        sqlx::query_scalar::<_, Option<String>>(text).bind(n % 2 + 1).fetch_one(pool)
    });
    let cards = try_join_all(cards).await?;
    let right = |masked: &str, clear: &str| {
        let wanted = if report.direct { clear } else { masked };
        cards.iter().filter(|card| card.as_deref() == Some(wanted)).count()
    };
    let counts = (right("************1111", CARD), right("************5559", "5500005555555559"));
    report.check("at the same time", (20, 20), counts)?;
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen("sqlx_news").await?;
    sqlx::query("NOTIFY sqlx_news, 'hello'").execute(pool).await?;
    let heard = tokio::time::timeout(Duration::from_secs(5), listener.recv()).await??;
    report.check("listen and notify", "hello", heard.payload())?;
    // Whoever gives up drops the query, and with it what is under way.
    let long = "SELECT count(*) FROM scratch a, scratch b, scratch c, scratch d WHERE a.id + b.id + c.id + d.id < 0";
    let given_up = tokio::time::timeout(Duration::from_millis(300), sqlx::query(long).fetch_one(pool)).await;
    report.check("given up", true, given_up.is_err())?;
    let number: i32 = sqlx::query_scalar("SELECT 1").fetch_one(pool).await?;
    report.check("usable after that", 1, number)?;
    Ok(())
}

/// What others do to a session: approve, change a table, end it.
async fn outside(url: &str, report: &mut Report) -> Outcome {
    let mut connection = PgConnection::connect(url).await?;
    let ticks = "SELECT n FROM ticks";
    let before: i32 = sqlx::query_scalar(ticks).fetch_one(&mut connection).await?;
    let approval = tokio::task::spawn_blocking(|| please("approve held:sqlx"));
    sqlx::query("UPDATE ticks SET n = n + 1 /* held:sqlx */").execute(&mut connection).await?;
    approval.await??;
    let after: i32 = sqlx::query_scalar(ticks).fetch_one(&mut connection).await?;
    report.check("a held command ran once", before + 1, after)?;
    let named = "SELECT what FROM shapes WHERE id = $1";
    let _first: String = sqlx::query_scalar(named).bind(2_i32).fetch_one(&mut connection).await?;
    please("sql ALTER TABLE shapes ADD COLUMN sqlx int DEFAULT 7")?;
    let what: String = sqlx::query_scalar(named).bind(2_i32).fetch_one(&mut connection).await?;
    report.check("a statement outlives a new column", "row 2", what.as_str())?;
    please("kill")?;
    let killed = sqlx::query("SELECT 'forbidden:killed'").execute(&mut connection).await;
    report.check("a killed session is an error", true, killed.is_err())?;
    let mut connection = PgConnection::connect(url).await?;
    let card: String = sqlx::query_scalar("SELECT card FROM customers WHERE id = 1").fetch_one(&mut connection).await?;
    report.check("after a reconnect", "************1111", card.as_str())?;
    connection.close().await?;
    Ok(())
}

async fn run(url: &str, report: &mut Report) -> Outcome {
    let mut connection = PgConnection::connect(url).await?;
    // What an earlier run left.
    sqlx::query("DELETE FROM orders WHERE item LIKE 'sqlx-%'").execute(&mut connection).await?;
    reading(&mut connection, report).await?;
    denials(&mut connection, report).await?;
    transactions(&mut connection, report).await?;
    connection.close().await?;
    let pool = PgPoolOptions::new().max_connections(4).connect(url).await?;
    copies(&pool, report).await?;
    pooled(&pool, report).await?;
    pool.close().await;
    if report.direct { Ok(()) } else { outside(url, report).await }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    agent::main(run).await
}
