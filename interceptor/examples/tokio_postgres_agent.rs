//! An agent that uses tokio-postgres: `tokio_postgres_agent URL [--direct]`.
//!
//! tokio-postgres speaks the extended protocol with binary values, and pipelines whatever is polled together. With
//! `--direct` it runs against a bare server on which the role may not write to `customers`: everything but masks and the
//! words of a refusal is then the same. For tests: it promises nothing else.

mod agent;

use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join_all, join3};
use futures_util::{SinkExt as _, StreamExt as _, TryStreamExt as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::{AsyncMessage, Client, Error, Notification, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use agent::{CARD, Outcome, RULE, Refusal, Report, please};

/// Where to, and with which TLS.
struct Way {
    url: String,
    tls: MakeRustlsConnect,
}

impl Way {
    /// As a URL of libpq says. tokio-postgres knows nothing of `verify-full` and `sslrootcert`: rustls verifies always, once
    /// it has been told which authorities.
    fn of(url: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let mut roots = rustls::RootCertStore::empty();
        let (target, parameters) = url.split_once('?').unwrap_or((url, ""));
        let mut kept = Vec::new();
        for parameter in parameters.split('&') {
            match parameter.split_once('=') {
                Some(("sslrootcert", path)) => {
                    for certificate in CertificateDer::pem_file_iter(path)? {
                        roots.add(certificate?)?;
                    }
                }
                Some(("sslmode", "verify-full")) => kept.push("sslmode=require"),
                _ => kept.push(parameter),
            }
        }
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let config =
            rustls::ClientConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { url: format!("{target}?{}", kept.join("&")), tls: MakeRustlsConnect::new(config) })
    }
}

/// Why it was refused, where it was.
fn refusal<T>(result: Result<T, Error>) -> Option<Refusal> {
    let error = result.err()?;
    let said = error.as_db_error()?;
    Some(Refusal {
        state: said.code().code().to_owned(),
        severity: said.severity().to_owned(),
        message: said.message().to_owned(),
        detail: said.detail().unwrap_or_default().to_owned(),
        hint: said.hint().unwrap_or_default().to_owned(),
    })
}

fn denied(marker: &str) -> String {
    format!("UPDATE customers SET name = 'Mallory' WHERE id = 1 /* forbidden:tokio:{marker} */")
}

fn state<T>(result: Result<T, Error>) -> Option<String> {
    result.err().and_then(|error| error.code().map(|code| code.code().to_owned()))
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

async fn count(client: &Client, item: &str) -> Result<i64, Error> {
    client.query_one("SELECT count(*) FROM orders WHERE item = $1", &[&item]).await?.try_get(0)
}

/// The values of a simple query, in order; rows of all its statements together.
async fn simple(client: &Client, text: &str) -> Result<Vec<Option<String>>, Error> {
    let mut values = Vec::new();
    for message in client.simple_query(text).await? {
        if let SimpleQueryMessage::Row(row) = message {
            for index in 0..row.len() {
                values.push(row.try_get(index)?.map(str::to_owned));
            }
        }
    }
    Ok(values)
}

async fn reading(client: &Client, report: &mut Report) -> Outcome {
    let people = client.query("SELECT id, name FROM customers ORDER BY id", &[]).await?;
    let people: Vec<(i32, String)> = people.iter().map(|row| (row.get(0), row.get(1))).collect();
    let names = [(1, "Ada Lovelace"), (2, "Grace Hopper"), (3, "Alan Turing")];
    report.check("clear columns", names.map(|(id, name)| (id, name.to_owned())).to_vec(), people)?;
    let by_id = client.prepare("SELECT id, name, email, card, ssn, balance::text FROM customers WHERE id = $1").await?;
    for round in 0..3 {
        let row = client.query_one(&by_id, &[&1_i32]).await?;
        let name = format!("prepared, round {round}");
        report.check(&format!("{name}: id"), 1_i32, row.try_get(0)?)?;
        report.check(&format!("{name}: name"), some("Ada Lovelace"), row.try_get(1)?)?;
        report.masked(&format!("{name}: email"), some("[masked:pii]"), some("ada@example.com"), row.try_get(2)?)?;
        report.masked(&format!("{name}: card"), some("************1111"), some(CARD), row.try_get(3)?)?;
        report.masked(&format!("{name}: ssn"), some("***"), some("078-05-1120"), row.try_get(4)?)?;
        report.check(&format!("{name}: numeric"), some("1200.50"), row.try_get(5)?)?;
    }
    let row = client.query_one(&by_id, &[&3_i32]).await?;
    report.check("NULL stays NULL", None, row.try_get::<_, Option<String>>(3)?)?;
    let computed = "SELECT upper(email), length(card), card || '', id + 1 FROM customers WHERE id = 1";
    let row = client.query_one(computed, &[]).await?;
    report.masked("upper(email)", some("[masked:pii]"), some("ADA@EXAMPLE.COM"), row.try_get(0)?)?;
    report.masked("length(card)", None, Some(16_i32), row.try_get(1)?)?;
    report.masked("card || ''", some("[masked:card]"), some(CARD), row.try_get(2)?)?;
    report.check("id + 1", 2_i32, row.try_get(3)?)?;
    let row = client.query_one("SELECT note FROM orders WHERE id = $1", &[&1_i32]).await?;
    let clear = some("paid with 4111 1111 1111 1111");
    report.masked("card in free text", some("paid with ***************1111"), clear, row.try_get(0)?)?;
    let view = simple(client, "SELECT * FROM spending ORDER BY id").await?;
    report.check("view, no card", report.direct, view.contains(&some(CARD)))?;
    let values = simple(client, "SELECT 1; SELECT card FROM customers WHERE id = 1; SELECT 'last'").await?;
    let clear = vec![some("1"), some(CARD), some("last")];
    report.masked("several statements", vec![some("1"), some("************1111"), some("last")], clear, values)?;
    Ok(())
}

async fn denials(client: &Client, report: &mut Report) -> Outcome {
    report.refused("denied write", refusal(client.simple_query(&denied("simple")).await), RULE)?;
    report.refused("denied write, extended", refusal(client.execute(&*denied("extended"), &[]).await), RULE)?;
    report.check("usable after a denial", 1_i32, client.query_one("SELECT 1", &[]).await?.try_get(0)?)?;
    let bound = "UPDATE customers SET name = $1 WHERE id = $2 /* forbidden:tokio:bound */";
    report.refused("denied, with values", refusal(client.execute(bound, &[&"Mallory", &1_i32]).await), RULE)?;
    report.refused("denied, the same again", refusal(client.execute(bound, &[&"Mallory", &1_i32]).await), RULE)?;
    let file = client.simple_query("SELECT pg_read_file('/etc/passwd') /* forbidden:tokio:file */").await;
    report.refused("server files", refusal(file), "")?;
    if !report.direct {
        let block = client.simple_query("DO $$ BEGIN PERFORM 1; END $$ /* forbidden:tokio:do */").await;
        report.check("DO block", some("42501"), state(block))?;
    }
    let several =
        format!("INSERT INTO orders (customer, item) VALUES (1, 'tokio-several'); {}; SELECT 1", denied("several"));
    report.refused("one of several is denied", refusal(client.batch_execute(&several).await), RULE)?;
    report.check("none of several ran", 0, count(client, "tokio-several").await?)?;
    let name = client.query_one("SELECT name FROM customers WHERE id = 1", &[]).await?;
    report.check("name is untouched", some("Ada Lovelace"), name.try_get(0)?)?;
    Ok(())
}

/// Futures that are polled together travel together, each with a Sync of its own.
async fn pipelines(client: &Client, report: &mut Report) -> Outcome {
    let cards = client.prepare("SELECT card FROM customers WHERE id = $1").await?;
    let ids: Vec<i32> = (0..60).map(|n| n % 3 + 1).collect();
    let answers = join_all(ids.iter().map(|id| {
        let cards = &cards;
        async move { client.query_one(cards, &[id]).await?.try_get::<_, Option<String>>(0) }
    }))
    .await;
    let answers: Vec<Option<String>> = answers.into_iter().collect::<Result<_, Error>>()?;
    let expected = |one: &str, two: &str| -> Vec<Option<String>> {
        ids.iter()
            .map(|id| match id {
                1 => some(one),
                2 => some(two),
                _ => None,
            })
            .collect()
    };
    let (masked, clear) = (expected("************1111", "************5559"), expected(CARD, "5500005555555559"));
    report.masked("pipelined reads", masked, clear, answers)?;
    let bad = denied("pipeline");
    let (before, refused, after) = join3(
        client.execute("INSERT INTO orders (customer, item) VALUES ($1, $2)", &[&1_i32, &"tokio-pipe"]),
        client.batch_execute(&bad),
        client.query_one(&cards, &[&2_i32]),
    )
    .await;
    report.check("before the denied one", 1, before?)?;
    report.refused("denied in a pipeline", refusal(refused), RULE)?;
    report.masked("after the denied one", some("************5559"), some("5500005555555559"), after?.try_get(0)?)?;
    report.check("each is its own transaction", 1, count(client, "tokio-pipe").await?)?;
    Ok(())
}

async fn transactions(client: &mut Client, report: &mut Report) -> Outcome {
    client.batch_execute("BEGIN; INSERT INTO orders (customer, item) VALUES (1, 'tokio-lost')").await?;
    report.refused("denied in a transaction", refusal(client.execute(&*denied("transaction"), &[]).await), RULE)?;
    report.check("failed until the end", some("25P02"), state(client.query("SELECT 1", &[]).await))?;
    client.batch_execute("COMMIT").await?;
    report.check("COMMIT of a failed transaction rolls back", 0, count(client, "tokio-lost").await?)?;
    let mut outer = client.transaction().await?;
    outer.execute("INSERT INTO orders (customer, item) VALUES (1, 'tokio-kept')", &[]).await?;
    let inner = outer.savepoint("before").await?;
    report.refused("denied after a savepoint", refusal(inner.execute(&*denied("savepoint"), &[]).await), RULE)?;
    inner.rollback().await?;
    outer.commit().await?;
    report.check("what stood before the savepoint is there", 1, count(client, "tokio-kept").await?)?;
    let text = "INSERT INTO orders (customer, item) VALUES ($1, $2) RETURNING id";
    let id: i32 = client.query_one(text, &[&2_i32, &"tokio-order"]).await?.try_get(0)?;
    let transaction = client.transaction().await?;
    report.check("deleted", 1, transaction.execute("DELETE FROM orders WHERE id = $1", &[&id]).await?)?;
    transaction.rollback().await?;
    report.check("rolled back", 1, count(client, "tokio-order").await?)?;
    let transaction = client.transaction().await?;
    let portal = transaction.bind("SELECT id FROM scratch WHERE what LIKE 'row %' ORDER BY id", &[]).await?;
    let mut seen = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 64).await?;
        seen.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
        if rows.len() < 64 {
            break;
        }
    }
    report.check("portal, 64 rows at a time", (1..=1000).collect(), seen)?;
    transaction.commit().await?;
    Ok(())
}

async fn copies(client: &Client, report: &mut Report) -> Outcome {
    let out = client.copy_out("COPY (SELECT id, what FROM scratch WHERE id <= 2 ORDER BY id) TO STDOUT").await?;
    report.check("copy out", "1\trow 1\n2\trow 2\n".to_owned(), text(out).await?)?;
    let out = client.copy_out("COPY customers (id, email, card) TO STDOUT").await?;
    let masked = "1\t[masked:pii]\t************1111".to_owned();
    let clear = format!("1\tada@example.com\t{CARD}");
    let first = text(out).await?.lines().next().unwrap_or_default().to_owned();
    report.masked("copy out, masked", masked, clear, first)?;
    let mut sink = pin!(client.copy_in::<_, Bytes>("COPY scratch (id, what) FROM STDIN").await?);
    for _ in 0..50 {
        sink.as_mut().send(Bytes::from_static(b"7\ttokio\n")).await?;
    }
    report.check("copy in", 50, sink.as_mut().finish().await?)?;
    report.check("copied", 50, client.execute("DELETE FROM scratch WHERE what = 'tokio'", &[]).await?)?;
    if !report.direct {
        // Refused when it is parsed. A bare server refuses later, and tokio-postgres then loses its place.
        let copy = "COPY customers (id, name) FROM STDIN /* forbidden:tokio:copy */";
        let refused = client.copy_in::<_, Bytes>(copy).await.map(drop);
        report.refused("denied copy in", refusal(refused), RULE)?;
    }
    report.check("usable after copies", 1_i32, client.query_one("SELECT 1", &[]).await?.try_get(0)?)?;
    Ok(())
}

async fn text(out: tokio_postgres::CopyOutStream) -> Result<String, Error> {
    let chunks: Vec<Bytes> = pin!(out).try_collect().await?;
    Ok(String::from_utf8_lossy(&chunks.concat()).into_owned())
}

async fn cancellation(client: &Client, way: &Way, report: &mut Report) -> Outcome {
    let long = "SELECT count(*) FROM scratch a, scratch b, scratch c, scratch d WHERE a.id + b.id + c.id + d.id < 0";
    let cancel = client.cancel_token();
    let canceller = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        cancel.cancel_query(way.tls.clone()).await
    };
    let both = async { tokio::join!(client.query(long, &[]), canceller) };
    let (answer, sent) = tokio::time::timeout(Duration::from_secs(8), both).await?;
    sent?;
    report.check("cancelled", some("57014"), state(answer))?;
    report.check("usable after a cancel", 1_i32, client.query_one("SELECT 1", &[]).await?.try_get(0)?)?;
    Ok(())
}

async fn notifications(client: &Client, news: &mut UnboundedReceiver<Notification>, report: &mut Report) -> Outcome {
    client.batch_execute("LISTEN tokio_news").await?;
    client.batch_execute("NOTIFY tokio_news, 'hello'").await?;
    let heard = tokio::time::timeout(Duration::from_secs(5), news.recv()).await?;
    report.check("listen and notify", some("hello"), heard.map(|news| news.payload().to_owned()))?;
    Ok(())
}

/// A connection whose messages nobody looks at.
async fn plain(way: &Way) -> Result<Client, Error> {
    let (client, connection) = tokio_postgres::connect(&way.url, way.tls.clone()).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// What others do to a session: approve, change a table, end it.
async fn outside(way: &Way, report: &mut Report) -> Outcome {
    let client = plain(way).await?;
    let ticks = async || client.query_one("SELECT n FROM ticks", &[]).await?.try_get::<_, i32>(0);
    let before = ticks().await?;
    let approval = tokio::task::spawn_blocking(|| please("approve held:tokio"));
    client.batch_execute("UPDATE ticks SET n = n + 1 /* held:tokio */").await?;
    approval.await??;
    report.check("a held command ran once", before + 1, ticks().await?)?;
    let named = client.prepare("SELECT what FROM shapes WHERE id = $1").await?;
    let star = client.prepare("SELECT * FROM shapes WHERE id = $1").await?;
    client.query_one(&star, &[&1_i32]).await?;
    please("sql ALTER TABLE shapes ADD COLUMN tokio int DEFAULT 7")?;
    let what: String = client.query_one(&named, &[&2_i32]).await?.try_get(0)?;
    report.check("a statement outlives a new column", "row 2", what.as_str())?;
    report.check("a star says so", some("0A000"), state(client.query_one(&star, &[&1_i32]).await))?;
    let mut found: Option<i32> = None;
    for _ in 0..20 {
        let row = client.query_one("SELECT * FROM shapes WHERE id = $1", &[&1_i32]).await?;
        found = row.try_get(row.len() - 1)?;
        if found.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    report.check("and has them soon", Some(7_i32), found)?;
    please("kill")?;
    report.check(
        "a killed session is an error",
        true,
        client.batch_execute("SELECT 'forbidden:killed'").await.is_err(),
    )?;
    let client = plain(way).await?;
    let card = client.query_one("SELECT card FROM customers WHERE id = 1", &[]).await?.try_get(0)?;
    report.check("after a reconnect", some("************1111"), card)?;
    Ok(())
}

async fn run(url: &str, report: &mut Report) -> Outcome {
    let way = Way::of(url)?;
    let (mut client, mut connection) = tokio_postgres::connect(&way.url, way.tls.clone()).await?;
    let (heard, mut news) = unbounded_channel();
    tokio::spawn(async move {
        let mut messages = pin!(futures_util::stream::poll_fn(move |context| connection.poll_message(context)));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(notification) = message {
                let _nobody_listens = heard.send(notification);
            }
        }
    });
    // What an earlier run left.
    client.execute("DELETE FROM orders WHERE item LIKE 'tokio-%'", &[]).await?;
    reading(&client, report).await?;
    denials(&client, report).await?;
    pipelines(&client, report).await?;
    transactions(&mut client, report).await?;
    copies(&client, report).await?;
    cancellation(&client, &way, report).await?;
    notifications(&client, &mut news, report).await?;
    if report.direct { Ok(()) } else { outside(&way, report).await }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    agent::main(run).await
}
