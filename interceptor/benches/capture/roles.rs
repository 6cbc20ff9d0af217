//! The benchmark's other processes: itself once more, as the client, the echo, or the daemon that echoes.

use std::env;
use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use interceptor::capture::{Capture, Config, Listener};
use interceptor::clock::{Clock as _, SystemClock};
use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::Failure;

const ROLE: &str = "INTERCEPTOR_BENCH_ROLE";

/// What another process is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Measures, once for each line on its standard input.
    Client { to: SocketAddr, connects: usize, trips: usize },
    /// Sends back what it gets.
    Echo { at: SocketAddr },
    /// Does so for what is captured.
    Daemon(Box<Config>),
}

/// What the client measures in a round, in nanoseconds: the medians.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Round {
    pub(crate) connect: u64,
    pub(crate) trip: u64,
}

impl Role {
    /// The command that plays it.
    pub(crate) fn command(&self) -> Result<Command, Failure> {
        let mut command = Command::new(env::current_exe()?);
        command.env(ROLE, serde_json::to_string(self)?);
        Ok(command)
    }
}

/// Plays the role that this process was started for; nothing where it was started for none.
pub(crate) fn play() -> Option<Result<(), Failure>> {
    let role = env::var(ROLE).ok()?;
    Some(serde_json::from_str(&role).map_err(Failure::from).and_then(|role| match role {
        Role::Client { to, connects, trips } => client(to, connects, trips),
        Role::Echo { at } => runtime()?.block_on(echo(at)),
        Role::Daemon(config) => runtime()?.block_on(daemon(&config)),
    }))
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn echo(at: SocketAddr) -> Result<(), Failure> {
    let listener = TcpListener::bind(at).await?;
    println!("ready");
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(send_back(stream));
    }
}

async fn daemon(config: &Config) -> Result<(), Failure> {
    let listener = Listener::bind(config)?;
    let _capture = Capture::start(config, &listener, None)?;
    println!("ready");
    loop {
        let captured = listener.accept().await?.map_err(|unrecorded| unrecorded.to_string())?;
        tokio::spawn(send_back(captured.stream));
    }
}

async fn send_back(mut stream: tokio::net::TcpStream) {
    let _plain = stream.set_nodelay(true);
    let mut byte = [0; 64];
    while let Ok(length @ 1..) = stream.read(&mut byte).await {
        if stream.write_all(byte.get(..length).unwrap_or_default()).await.is_err() {
            return;
        }
    }
}

fn client(to: SocketAddr, connects: usize, trips: usize) -> Result<(), Failure> {
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let _go = line?;
        let round = Round { connect: connect(to, connects)?, trip: trip(to, trips)? };
        println!("{}", serde_json::to_string(&round)?);
    }
    Ok(())
}

fn connect(to: SocketAddr, connects: usize) -> Result<u64, Failure> {
    let clock = SystemClock::new();
    let mut took = Vec::with_capacity(connects);
    for _ in 0..connects {
        let began = clock.monotonic();
        let stream = TcpStream::connect(to)?;
        took.push(clock.monotonic().saturating_sub(began));
        // No port waits for a minute.
        setsockopt(&stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
    }
    Ok(middle(took))
}

fn trip(to: SocketAddr, trips: usize) -> Result<u64, Failure> {
    let clock = SystemClock::new();
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    let mut took = Vec::with_capacity(trips);
    let mut byte = [7];
    for _ in 0..trips {
        let began = clock.monotonic();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        took.push(clock.monotonic().saturating_sub(began));
    }
    Ok(middle(took))
}

fn middle(mut took: Vec<Duration>) -> u64 {
    took.sort();
    let middle = took.get(took.len() / 2).copied().unwrap_or_default();
    u64::try_from(middle.as_nanos()).unwrap_or(u64::MAX)
}
