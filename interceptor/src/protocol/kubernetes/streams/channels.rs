//! Streams that share a WebSocket: the first byte of each message says which it belongs to.

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

use super::output::{Output, PATIENCE, Unprintable};
use super::{CLOSE, ERROR, End, Kind, LAST_WORDS, RESIZE, STDERR, STDIN, STDOUT, Talk};
use crate::protocol::http::codec::socket::{Messages, Said};
use crate::protocol::http::driver::leg::{Reader, Writer};
use crate::protocol::http::driver::socket::{Heard, hear, key, send, shortened};
use crate::protocol::http::driver::{Next, Opened, agent_failed};
use crate::protocol::http::{BODY_LIMIT, MASK_LIMIT};
use crate::protocol::{Direction, Failure};

/// Both ends, for either direction to answer on.
struct Ends<'a> {
    agent: Mutex<&'a mut Writer>,
    target: Mutex<&'a mut Writer>,
}

/// Passes messages on until either side ends it.
pub(super) async fn relay(
    talk: &Talk<'_>,
    outputs: (Output, Output),
    opened: &mut Opened<'_>,
) -> Result<Next, Failure> {
    let (from_agent, to_agent) = &mut opened.agent;
    let (from_target, to_target) = &mut opened.target;
    let ends = Ends { agent: Mutex::new(to_agent), target: Mutex::new(to_target) };
    let end = tokio::select! {
        end = up(talk, from_agent, &ends) => end?,
        end = down(talk, outputs, from_target, &ends) => end?,
    };
    let words = talk.last_words(&end).await?;
    let mut writer = ends.agent.lock().await;
    let mut bytes = Vec::new();
    let code = match &words {
        Some(words) => {
            talk.record(Direction::ToAgent, &[ERROR], words).await?;
            let words = [&[ERROR], &words[..]].concat();
            Said::Binary(words.into()).write(&mut bytes, None);
            1008
        }
        None => 1000,
    };
    let reason = match &end {
        End::Refused(denial) => shortened(denial.reason.as_bytes()),
        End::Closed | End::Target(_) => Bytes::new(),
    };
    Said::Close(Some(code), reason).write(&mut bytes, None);
    send(&mut writer, &bytes).await.map_err(agent_failed)?;
    // It may be gone, and has nothing to say any more.
    let mut bytes = Vec::new();
    Said::Close(Some(1000), Bytes::new()).write(&mut bytes, Some(key()?));
    let mut writer = ends.target.lock().await;
    let _best_effort = send(&mut writer, &bytes).await;
    Ok(Next::Shut)
}

/// What the agent says.
async fn up(talk: &Talk<'_>, agent: &mut Reader, ends: &Ends<'_>) -> Result<End, Failure> {
    let mut messages = Messages::new(true, BODY_LIMIT);
    let mut holding = talk.served.holding();
    loop {
        let said = match hear(agent, &mut messages, &mut holding).await? {
            Heard::Said(said) => said,
            Heard::Broken(broken) => return Ok(talk.refused(&broken.to_string())),
            Heard::Closed => return Ok(End::Closed),
            Heard::Failed(error) => return Err(agent_failed(error)),
        };
        let payload = match &said {
            Said::Ping(payload) => {
                let mut bytes = Vec::new();
                Said::write_pong(&mut bytes, payload, None);
                // Who is being told something knows that we are there; to wait for that could be to wait for ever.
                if let Ok(mut writer) = ends.agent.try_lock() {
                    send(&mut writer, &bytes).await.map_err(agent_failed)?;
                }
                continue;
            }
            Said::Pong => continue,
            Said::Close(..) => return Ok(End::Closed),
            Said::Text(payload) | Said::Binary(payload) => payload,
        };
        let Some((channel, rest)) = payload.split_first().filter(|(channel, rest)| goes_up(talk.kind, **channel, rest))
        else {
            return Ok(talk.refused("it says something on a channel on which it has nothing to say"));
        };
        holding.set(payload.len())?;
        talk.record(Direction::FromAgent, &[*channel], rest).await?;
        let mut bytes = Vec::new();
        said.write(&mut bytes, Some(key()?));
        let sent = send(&mut **ends.target.lock().await, &bytes).await;
        if let Err(error) = sent {
            // A program may have ended before its input has: what it still says is heard.
            sleep(LAST_WORDS).await;
            return Ok(End::Target(error.to_string()));
        }
        holding.set(0)?;
    }
}

fn goes_up(kind: Kind, channel: u8, rest: &[u8]) -> bool {
    match (kind, channel) {
        (Kind::Program, STDIN | RESIZE) => true,
        (Kind::Program, CLOSE) => rest == [STDIN],
        (Kind::Program, _) => false,
        // Each port has one for data, and one on which only the target says what went wrong.
        (Kind::Ports, channel) => channel.is_multiple_of(2),
    }
}

/// What the target says.
async fn down(
    talk: &Talk<'_>,
    (mut stdout, mut stderr): (Output, Output),
    target: &mut Reader,
    ends: &Ends<'_>,
) -> Result<End, Failure> {
    let mut messages = Messages::new(false, MASK_LIMIT);
    let mut holding = talk.served.holding();
    let mut due = None;
    loop {
        let heard = tokio::select! {
            heard = hear(target, &mut messages, &mut holding) => heard?,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                due = None;
                if let Err(why) = release(talk, (&mut stdout, &mut stderr), ends, false).await? {
                    return Ok(talk.refused(&why.to_string()));
                }
                continue;
            }
        };
        let payload = match heard {
            Heard::Said(Said::Text(payload) | Said::Binary(payload)) => payload,
            Heard::Said(Said::Ping(payload)) => {
                let mut bytes = Vec::new();
                Said::write_pong(&mut bytes, &payload, Some(key()?));
                if let Ok(mut writer) = ends.target.try_lock()
                    && let Err(error) = send(&mut writer, &bytes).await
                {
                    return Ok(End::Target(error.to_string()));
                }
                continue;
            }
            Heard::Said(Said::Pong) => continue,
            Heard::Said(Said::Close(..)) | Heard::Closed => {
                let released = release(talk, (&mut stdout, &mut stderr), ends, true).await?;
                return Ok(released.map_or_else(|why| talk.refused(&why.to_string()), |()| End::Closed));
            }
            Heard::Broken(broken) => return Ok(End::Target(broken.to_string())),
            Heard::Failed(error) => return Ok(End::Target(error.to_string())),
        };
        let Some((channel, rest)) = payload.split_first() else {
            return Ok(End::Target("it says something on no channel".to_owned()));
        };
        let delivered = match (talk.kind, *channel) {
            (Kind::Program, STDOUT) => print(talk, &mut stdout, (STDOUT, rest), ends).await?,
            (Kind::Program, STDERR) => print(talk, &mut stderr, (STDERR, rest), ends).await?,
            (Kind::Program, ERROR) => {
                let released = release(talk, (&mut stdout, &mut stderr), ends, true).await?;
                if released.is_ok() {
                    let words = talk.blotted(rest).await?;
                    tell(talk, ERROR, &words, ends).await?;
                }
                released
            }
            (Kind::Ports, channel) => {
                let words = talk.blotted(rest).await?;
                tell(talk, channel, &words, ends).await?;
                Ok(())
            }
            (Kind::Program, _) => {
                return Ok(End::Target("it says something on a channel that there is not".to_owned()));
            }
        };
        if let Err(why) = delivered {
            return Ok(talk.refused(&why.to_string()));
        }
        holding.set(target.input().len() + messages.held() + stdout.held() + stderr.held())?;
        due = (stdout.is_holding() || stderr.is_holding()).then(|| Instant::now() + PATIENCE);
    }
}

/// Passes on what was printed. Nothing said is something: it tells that there is the channel.
async fn print(
    talk: &Talk<'_>,
    output: &mut Output,
    (channel, bytes): (u8, &[u8]),
    ends: &Ends<'_>,
) -> Result<Result<(), Unprintable>, Failure> {
    let printed = output.push(bytes);
    talk.note(output, name(channel)).await?;
    match printed {
        Ok(printed) if printed.is_empty() && !bytes.is_empty() => {}
        Ok(printed) => tell(talk, channel, &printed, ends).await?,
        Err(why) => return Ok(Err(why)),
    }
    Ok(Ok(()))
}

/// Passes on what waits. `all`: nothing comes any more.
async fn release(
    talk: &Talk<'_>,
    (stdout, stderr): (&mut Output, &mut Output),
    ends: &Ends<'_>,
    all: bool,
) -> Result<Result<(), Unprintable>, Failure> {
    for (output, channel) in [(stdout, STDOUT), (stderr, STDERR)] {
        let printed = if all { output.finish() } else { output.release() };
        talk.note(output, name(channel)).await?;
        match printed {
            Ok(printed) if printed.is_empty() => {}
            Ok(printed) => tell(talk, channel, &printed, ends).await?,
            Err(why) => return Ok(Err(why)),
        }
    }
    Ok(Ok(()))
}

pub(super) const fn name(channel: u8) -> &'static str {
    if channel == STDERR { "stderr" } else { "stdout" }
}

async fn tell(talk: &Talk<'_>, channel: u8, payload: &[u8], ends: &Ends<'_>) -> Result<(), Failure> {
    talk.record(Direction::ToAgent, &[channel], payload).await?;
    let mut bytes = Vec::new();
    Said::Binary([&[channel], payload].concat().into()).write(&mut bytes, None);
    send(&mut **ends.agent.lock().await, &bytes).await.map_err(agent_failed)
}
