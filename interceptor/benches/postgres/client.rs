//! A client that reads a large answer as fast as it comes, or holds many idle sessions. Run by the benchmark itself, in
//! another place of its world.

use std::io::Read as _;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _, TryStreamExt as _};
use interceptor::clock::{Clock as _, SystemClock};
use tokio_postgres::{Client, NoTls};

use super::Failure;

/// Runs a client: `select SQL`, `copy-out SQL`, `copy-in SQL BYTES`, `idle COUNT`; the connection string is in `URL`.
pub(crate) fn run(words: &[String]) -> Result<(), Failure> {
    let url = std::env::var("URL")?;
    let word = |at: usize| words.get(at).map(String::as_str).ok_or("a word is missing");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match word(0)? {
            "select" => select(&connect(&url).await?, word(1)?).await,
            "copy-out" => copy_out(&connect(&url).await?, word(1)?).await,
            "copy-in" => copy_in(&connect(&url).await?, word(1)?, word(2)?.parse()?).await,
            "idle" => idle(&url, word(1)?.parse()?).await,
            other => Err(format!("{other} is no client").into()),
        }
    })
}

async fn connect(url: &str) -> Result<Client, Failure> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn select(client: &Client, sql: &str) -> Result<(), Failure> {
    let (start, mut rows) = (SystemClock::new(), 0u64);
    let mut stream = std::pin::pin!(client.query_raw::<_, &str, _>(sql, []).await?);
    while let Some(_row) = stream.try_next().await? {
        rows += 1;
    }
    println!("{} {rows}", start.monotonic().as_secs_f64());
    Ok(())
}

async fn copy_out(client: &Client, sql: &str) -> Result<(), Failure> {
    let (start, mut bytes) = (SystemClock::new(), 0usize);
    let mut stream = std::pin::pin!(client.copy_out(sql).await?);
    while let Some(piece) = stream.next().await {
        bytes += piece?.len();
    }
    println!("{} {bytes}", start.monotonic().as_secs_f64());
    Ok(())
}

async fn copy_in(client: &Client, sql: &str, bytes: usize) -> Result<(), Failure> {
    let start = SystemClock::new();
    let piece = bytes::Bytes::from("12345\tsome words of a note that somebody wrote down\n".repeat(1000));
    let mut sink = std::pin::pin!(client.copy_in(sql).await?);
    let mut sent = 0;
    while sent < bytes {
        sent += piece.len();
        sink.send(piece.clone()).await?;
    }
    let rows = sink.finish().await?;
    println!("{} {rows}", start.monotonic().as_secs_f64());
    Ok(())
}

/// Opens sessions, says so, and holds them until standard input ends.
async fn idle(url: &str, count: usize) -> Result<(), Failure> {
    let mut clients = Vec::with_capacity(count);
    while clients.len() < count {
        let batch = (0..32.min(count - clients.len())).map(|_| connect(url));
        for client in futures_util::future::join_all(batch).await {
            clients.push(client?);
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("open {}", clients.len());
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0u8; 1]));
    ended.await??;
    Ok(())
}
