//! One session's programs, as players of terminals take them: asciicast, version 2
//! (<https://docs.asciinema.org/manual/asciicast/v2/>), one JSON value a line.
//!
//! What stands in it is what the agent was shown, control characters and all: it is for a player, not for a terminal.

use std::io::Write;

use serde_json::json;

use super::{RecordingsError, find};
use crate::protocol::{self, PROTOCOLS, Shown, Terminal};
use crate::record::reader::Reader;
use crate::record::{Direction, Event};

/// Columns and rows where the agent named none.
const SIZE: (u16, u16) = (80, 24);

/// Writes what programs printed in a session, with its timing.
pub(super) fn export(reader: &Reader, id: &str, out: &mut impl Write) -> Result<(), RecordingsError> {
    let summary = find(reader, id)?;
    let registration = PROTOCOLS.iter().find(|known| Some(known.name) == summary.protocol.as_deref());
    let mut replayer = registration.ok_or(RecordingsError::NoTerminal(summary.id))?.protocol.replayer();
    let (mut events, mut first) = (Vec::new(), None);
    let mut size = None;
    // Of each stream, the beginning of a character whose end is in the next message.
    let (mut out_cut, mut err_cut, mut in_cut) = (Vec::new(), Vec::new(), Vec::new());
    for frame in reader.frames(Some(summary.id)) {
        let frame = frame?;
        let Event::Data { direction, bytes } = &frame.event else { continue };
        let way = match direction {
            Direction::FromAgent => protocol::Direction::FromAgent,
            Direction::ToAgent => protocol::Direction::ToAgent,
        };
        for shown in replayer.feed(way, bytes) {
            let Shown::Terminal { stream, bytes } = shown else { continue };
            let start = *first.get_or_insert(frame.time);
            let at = frame.time.since(start).as_secs_f64();
            events.push(match stream {
                Terminal::Stdout => json!([at, "o", characters(&mut out_cut, &bytes)]),
                Terminal::Stderr => json!([at, "o", characters(&mut err_cut, &bytes)]),
                Terminal::Stdin => json!([at, "i", characters(&mut in_cut, &bytes)]),
                Terminal::Resize { width, height } => {
                    size.get_or_insert((width, height));
                    json!([at, "r", format!("{width}x{height}")])
                }
            });
        }
    }
    let Some(start) = first else { return Err(RecordingsError::NoTerminal(summary.id)) };
    let (width, height) = size.unwrap_or(SIZE);
    let title = format!("{} of {}", summary.id, summary.target.as_deref().unwrap_or("-"));
    let header = json!({"version": 2, "width": width, "height": height, "timestamp": start.unix(), "title": title});
    for line in std::iter::once(header).chain(events) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// What is there of whole characters; what begins another waits in `cut`.
fn characters(cut: &mut Vec<u8>, bytes: &[u8]) -> String {
    cut.extend_from_slice(bytes);
    let incomplete = match std::str::from_utf8(cut) {
        Err(error) if error.error_len().is_none() => cut.len() - error.valid_up_to(),
        _ => 0,
    };
    let rest = cut.split_off(cut.len() - incomplete);
    String::from_utf8_lossy(&std::mem::replace(cut, rest)).into_owned()
}
