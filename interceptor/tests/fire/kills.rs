//! A recorder that is killed, at some moment, again and again: what it has acknowledged is there.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use interceptor::clock::SystemClock;
use interceptor::record::reader::Reader;
use interceptor::record::retention::{self, AtLimit};
use interceptor::record::verify::{self, Options};
use interceptor::record::{Config, Direction, Event, Fsync, PublicKey, Recorder};
use interceptor::telemetry::SessionId;

/// How often, in each way of writing.
const KILLS: u64 = 100;
const PLACE: &str = "INTERCEPTOR_KILLED_PLACE";
const WAY: &str = "INTERCEPTOR_KILLED_WAY";
/// Sessions that write at once.
const SESSIONS: u8 = 4;

fn config(place: &Path, way: &str) -> Config {
    let retention =
        retention::Config { max_bytes: 256 << 10, at_limit: AtLimit::DeleteOldest, min_age_days: 0, max_age_days: 0 };
    Config {
        spool: place.join("spool"),
        key: place.join("key"),
        segment_bytes: 16 << 10,
        free_space_floor: 0,
        checkpoint_seconds: 1,
        fsync: if way == "command" { Fsync::Command } else { Fsync::None },
        retention: if way == "deleting" { retention } else { retention::Config::default() },
        ..Config::default()
    }
}

/// Not a test of its own: what is killed. Says what was acknowledged, a line each.
#[test]
#[ignore = "is started by the others, to be killed"]
fn writer() {
    let (Ok(place), Ok(way)) = (std::env::var(PLACE), std::env::var(WAY)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let recorder = Recorder::open(&config(Path::new(&place), &way), Arc::new(SystemClock::new())).unwrap();
        let tasks: Vec<_> = (0..SESSIONS).map(|session| tokio::spawn(write(recorder.clone(), session))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

async fn write(recorder: Recorder, session: u8) {
    let id = SessionId::from_bytes([session + 1; 16]);
    for step in 0u32.. {
        let text = format!("{session} {step} {}", "x".repeat(usize::try_from(step % 50).unwrap() * 10));
        let bytes = vec![b'd'; usize::try_from(step % 40).unwrap() * 1000].into();
        recorder.enqueue(id, Event::Data { direction: Direction::ToAgent, bytes }).await.unwrap();
        let number = recorder.append(id, Event::Note { text: text.clone() }).await.unwrap().position();
        // In one piece: what is cut off was not said.
        let line = format!("\ntold {number} {text}\n");
        std::io::stdout().write_all(line.as_bytes()).unwrap();
    }
}

#[test]
fn nothing_that_was_acknowledged_is_lost_by_kills() {
    killed("plain");
}

#[test]
fn nothing_that_was_acknowledged_is_lost_by_kills_where_each_command_is_forced_to_the_disk() {
    killed("command");
}

#[test]
fn nothing_but_what_was_deleted_on_record_is_lost_by_kills() {
    killed("deleting");
}

fn killed(way: &str) {
    let place = tempfile::tempdir().unwrap();
    let config = config(place.path(), way);
    let (mut told, mut random) = (BTreeMap::new(), 0x9e37_79b9_7f4a_7c15_u64);
    for kill in 0..KILLS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        told.extend(one(place.path(), way, Duration::from_micros(random % 25_000)));
        // Whoever opens it next mends what is torn; all of it is looked at now and then, as it grows.
        if kill % 10 != 9 {
            continue;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let recorder = Recorder::open(&config, Arc::new(SystemClock::new())).unwrap();
            recorder.close().await.unwrap();
        });
        let key = PublicKey::load(&config.public_key()).unwrap();
        let report = verify::directory(&config.spool, &key, &Options::default()).unwrap();
        assert!(report.is_whole(), "{way}, kill {kill}: {report:?}");
        let frames = Reader::open(&config.spool).unwrap().frames(None).map(Result::unwrap);
        let there: BTreeMap<u64, Event> = frames.map(|frame| (frame.sequence, frame.event)).collect();
        let first = there.keys().next().copied().unwrap();
        assert!(first == 0 || way == "deleting");
        told.retain(|number, _| *number >= first);
        for (number, text) in &told {
            assert_eq!(there.get(number), Some(&Event::Note { text: text.clone() }), "{way}, kill {kill}: {number}");
        }
        assert!(!told.is_empty(), "{way}: nothing was acknowledged");
        if way != "deleting" {
            // Another spool: each look is at all of it.
            fs::remove_dir_all(&config.spool).unwrap();
            told.clear();
        }
    }
}

/// Starts one, kills it some time after its first word, and gives what it has said.
fn one(place: &Path, way: &str, after: Duration) -> Vec<(u64, String)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kills::writer", "--ignored", "--nocapture"])
        .envs([(PLACE, place.as_os_str()), (WAY, way.as_ref())])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let (mut told, mut line, mut timer) = (Vec::new(), String::new(), None);
    while lines.read_line(&mut line).unwrap() > 0 {
        if let Some((number, text)) =
            line.strip_suffix('\n').and_then(|line| line.strip_prefix("told ")?.split_once(' '))
        {
            told.push((number.parse().unwrap(), text.to_owned()));
            timer.get_or_insert_with(|| {
                let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
                std::thread::spawn(move || {
                    std::thread::sleep(after);
                    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
                })
            });
        }
        line.clear();
    }
    // Before it is waited for: so long its process id is no other's.
    timer.expect("it ended before it said a word").join().unwrap();
    let _killed = child.wait().unwrap();
    told
}
