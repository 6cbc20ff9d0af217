//! How fast the recorder is: microseconds an append, and frames a second, for one and for several sessions at a time.
//! Figures of an optimised build only say something: `cargo run --release --example recorder`.

use std::error::Error;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use interceptor::clock::{Clock, SystemClock};
use interceptor::record::{Config, Direction, Effect, Event, RecordedVerdict, Recorder};
use interceptor::telemetry::SessionId;

/// What one statement records: a verdict that is waited for, and what was sent and received.
async fn statement(recorder: &Recorder, session: SessionId) -> Result<(), Box<dyn Error + Send + Sync>> {
    let decision = Event::Decision(RecordedVerdict {
        effect: Effect::Permit,
        rules: Arc::from(["analyst".to_owned()]),
        reason: None,
    });
    recorder.append(session, decision).await?;
    let sent = Bytes::from_static(&[b'q'; 80]);
    recorder.enqueue(session, Event::Data { direction: Direction::FromAgent, bytes: sent }).await?;
    let received = Bytes::from_static(&[b'r'; 200]);
    recorder.enqueue(session, Event::Data { direction: Direction::ToAgent, bytes: received }).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let clock = Arc::new(SystemClock::new());
    let directory = std::env::temp_dir().join(format!("interceptor-recorder-{}", std::process::id()));
    let config = Config { spool: directory.join("spool"), key: directory.join("key"), ..Config::default() };
    std::fs::create_dir_all(&directory)?;
    let recorder = Recorder::open(&config, Arc::<SystemClock>::clone(&clock))?;
    let count: u32 = std::env::args().nth(1).map_or(Ok(20_000), |count| count.parse())?;
    for sessions in [1u8, 8, 64] {
        let (start, before) = (clock.monotonic(), recorder.health().frames);
        let each = count.div_ceil(u32::from(sessions));
        let run = |n: u8| {
            let recorder = recorder.clone();
            async move {
                for _ in 0..each {
                    statement(&recorder, SessionId::from_bytes([n; 16])).await?;
                }
                Ok::<(), Box<dyn Error + Send + Sync>>(())
            }
        };
        let tasks: Vec<_> = (0..sessions).map(|n| tokio::spawn(run(n + 1))).collect();
        for task in tasks {
            task.await??;
        }
        recorder.flush().await?;
        let (took, frames) = ((clock.monotonic() - start).as_secs_f64(), recorder.health().frames - before);
        let statements = f64::from(each) * f64::from(sessions);
        writeln!(
            std::io::stdout(),
            "{sessions:>3} sessions: {:>6.1} us a statement of 3 frames, {:>9.0} frames/s",
            took * 1e6 / statements,
            statements * 3.0 / took,
        )?;
        assert!(frames >= u64::from(each) * 3, "every frame is there");
    }
    recorder.close().await?;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}
