//! What it costs to record: commands and their answers, from one session and from many, with each way of forcing them to the disk,
//! in clear and sealed.
//!
//! `cargo xtask bench record` runs it. A command counts once its verdict is acknowledged; after that its answer is recorded, which nobody
//! waits for. The spool lies in a directory of its own where the benchmark is started, as a disk counts here.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark talks to the person at the terminal")]

#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use common::{Failure, Files, end};
use interceptor::clock::{Clock, SystemClock};
use interceptor::policy::{Action, ActionName, Command, Resource, ResourceKind};
use interceptor::record::{Config, Direction, Effect, Event, Fsync, RecordedVerdict, Recorder};
use interceptor::telemetry::SessionId;
use nix::sys::resource::{UsageWho, getrusage};

#[derive(Debug, Parser)]
struct Arguments {
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Rounds; the middle one counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[command(flatten)]
    files: Files,
}

/// A recipient whose identity nobody kept.
const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
const SESSIONS: [u8; 3] = [1, 8, 64];
/// Bytes of an answer.
const ANSWER: usize = 200;

#[derive(Clone, Copy, serde::Serialize)]
struct Row {
    fsync: Fsync,
    sealed: bool,
    sessions: u8,
    commands_per_second: f64,
    frames_per_second: f64,
    median_us: f64,
    p99_us: f64,
    /// Processor time of a command and its answer, all threads together.
    cpu_us: f64,
}

fn main() -> ExitCode {
    end(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for fsync in [Fsync::None, Fsync::Group, Fsync::Command] {
        for sessions in SESSIONS {
            // In turn, so that what else the machine does is in both.
            let (mut clear, mut sealed) = (Vec::new(), Vec::new());
            for _ in 0..arguments.rounds.max(1) {
                clear.push(measure(fsync, false, sessions, arguments.seconds)?);
                sealed.push(measure(fsync, true, sessions, arguments.seconds)?);
            }
            rows.extend([middle(clear), middle(sealed)].into_iter().flatten());
        }
    }
    let table = table(&rows)?;
    println!("{table}");
    arguments.files.write(&table, &serde_json::to_string_pretty(&rows)?)
}

fn table(rows: &[Row]) -> Result<String, Failure> {
    let mut table = "| fsync | sessions | | commands/s | frames/s | median | 99 % | cpu |\n|---|---:|---|---:|---:|---:|---:|---:|\n".to_owned();
    for row in rows {
        let Row { fsync, sealed, sessions, commands_per_second, frames_per_second, median_us, p99_us, cpu_us } = row;
        let (fsync, kind) = (format!("{fsync:?}").to_lowercase(), if *sealed { "sealed" } else { "in clear" });
        writeln!(
            table,
            "| {fsync} | {sessions} | {kind} | {commands_per_second:.0} | {frames_per_second:.0} | {median_us:.1} us | {p99_us:.0} us | {cpu_us:.1} us |"
        )?;
    }
    Ok(table)
}

/// The one with the middle number of commands.
fn middle(mut rows: Vec<Row>) -> Option<Row> {
    rows.sort_by(|one, other| one.commands_per_second.total_cmp(&other.commands_per_second));
    rows.get(rows.len() / 2).copied()
}

fn measure(fsync: Fsync, sealed: bool, sessions: u8, seconds: u64) -> Result<Row, Failure> {
    let place = tempfile::Builder::new().prefix("spool-").tempdir_in(".")?;
    let config = Config {
        spool: place.path().join("spool"),
        key: place.path().join("key"),
        recipients: sealed.then(|| RECIPIENT.to_owned()).into_iter().collect(),
        fsync,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let (mut took, frames, passed, cpu) = runtime.block_on(async {
        let recorder = Recorder::open(&config, Arc::clone(&clock))?;
        let (begun, before) = (clock.monotonic(), processor()?);
        let until = begun.saturating_add(Duration::from_secs(seconds));
        let tasks: Vec<_> = (0..sessions)
            .map(|session| {
                let (recorder, clock) = (recorder.clone(), Arc::clone(&clock));
                tokio::task::spawn(session_of(session, recorder, clock, until))
            })
            .collect();
        let mut took = Vec::new();
        for task in tasks {
            took.extend(task.await??);
        }
        recorder.flush().await?;
        let (passed, cpu) = (clock.monotonic().saturating_sub(begun), processor()?.saturating_sub(before));
        let frames = recorder.health().frames;
        recorder.close().await?;
        Ok::<_, Failure>((took, frames, passed, cpu))
    })?;
    took.sort();
    let at = |share: usize| took.get(took.len().saturating_sub(1) * share / 100).map_or(0.0, micros);
    let commands = took.len().max(1) as f64;
    Ok(Row {
        fsync,
        sealed,
        sessions,
        commands_per_second: commands / passed.as_secs_f64(),
        frames_per_second: frames as f64 / passed.as_secs_f64(),
        median_us: at(50),
        p99_us: at(99),
        cpu_us: micros(&cpu) / commands,
    })
}

/// What a session asks for, one after another. How long each verdict took to be on record.
async fn session_of(
    session: u8,
    recorder: Recorder,
    clock: Arc<dyn Clock>,
    until: Duration,
) -> Result<Vec<Duration>, Failure> {
    let id = SessionId::from_bytes([session.saturating_add(1); 16]);
    let (command, verdict) = (command(), verdict());
    let mut took = Vec::new();
    let mut now = clock.monotonic();
    while now < until {
        recorder.append(id, Event::command(&command, verdict.clone())).await?;
        let after = clock.monotonic();
        took.push(after.saturating_sub(now));
        let bytes = vec![b'r'; ANSWER].into();
        recorder.enqueue(id, Event::Data { direction: Direction::ToAgent, bytes }).await?;
        // As its driver would wait for the agent's next one.
        tokio::task::yield_now().await;
        now = clock.monotonic();
    }
    Ok(took)
}

fn command() -> Command {
    let path = ["orders-db", "orders", "public", "users"].map(Arc::from).to_vec();
    let action = Action {
        name: ActionName::SQL_SELECT,
        resource: Resource { kind: ResourceKind::Table, path },
        columns: BTreeSet::from(["id", "name"].map(Arc::from)),
        tags: Arc::default(),
        note: None,
    };
    Command {
        analysis: 1,
        statement: "SELECT id, name FROM users WHERE id = 4711".into(),
        parameters: Arc::from([]),
        actions: Arc::from([action]),
        facts: Arc::default(),
        in_transaction: false,
    }
}

fn verdict() -> RecordedVerdict {
    RecordedVerdict { effect: Effect::Permit, rules: Arc::from(["analysts-read".to_owned()]), reason: None }
}

/// Processor time of this process.
fn processor() -> Result<Duration, Failure> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let of = |time: nix::sys::time::TimeVal| {
        Duration::from_micros(u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0))
    };
    Ok(of(usage.user_time()).saturating_add(of(usage.system_time())))
}

fn micros(time: &Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
