//! `interceptor recordings hold`: what is kept, whatever retention says.
//!
//! Sessions and agents are looked up here, where identities are that open them; the daemon is told of segments and times. Where none
//! runs, or a spool is named, this writes to the spool itself.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use clap::Subcommand;
use hyper::Method;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{RecordingsError, find, json_line, plain, rotate, table};
use crate::admin::client::{self, ClientError};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::record::Config;
use crate::record::hold::{self, Change, Changed, Hold, Holds, Scope};
use crate::record::ledger;
use crate::record::reader::{ReadError, Reader};
use crate::telemetry::SessionId;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Hold what is named: all of it, where there is more than one
    Add {
        /// Name of the hold, such as that of a case
        name: String,
        /// Why, for the record
        #[arg(long)]
        reason: String,
        /// A session: its id, or the beginning of one
        #[arg(long, value_name = "ID")]
        session: Vec<String>,
        /// What an agent has done so far, and what it does in sessions that have not ended
        #[arg(long, value_name = "NAME")]
        agent: Vec<String>,
        /// What happened from then on: 2026-11-28T12:00:00Z, or 2026-11-28
        #[arg(long, value_name = "TIME", value_parser = time)]
        from: Option<Timestamp>,
        /// Until then, or the end of that day; without it for as long as the hold lasts
        #[arg(long, value_name = "TIME", value_parser = until, requires = "from")]
        to: Option<Timestamp>,
        /// Segments: 7, 7-12, or 7- for all that follow
        #[arg(long, value_name = "RANGE", value_parser = stretch)]
        segments: Vec<(u64, Option<u64>)>,
    },
    /// List what is held, and why
    List,
    /// Let go of what a hold is of: retention may delete it then
    Remove {
        /// Name of the hold
        name: String,
    },
}

/// Runs the command; `socket` is the daemon's, where it is to be asked.
pub(super) fn run(
    verb: &Verb,
    config: &Config,
    (reader, socket): (impl FnOnce() -> Result<Reader, RecordingsError>, Option<&Path>),
    json: bool,
    out: &mut impl Write,
) -> Result<(), RecordingsError> {
    match verb {
        Verb::List => list(&config.spool, json, out),
        Verb::Remove { name } => {
            if !tell(&Change::Release(name.clone()), config, socket)?.done {
                return Err(RecordingsError::Hold(format!(
                    "there is no hold {name}; `recordings hold list` shows them"
                )));
            }
            said(&format!("{name} holds nothing any more"), json, out)
        }
        Verb::Add { name, reason, session, agent, from, to, segments } => {
            let mut scope = Scope { segments: segments.clone(), times: from.map(|from| (from, *to)) };
            if from.zip(*to).is_some_and(|(from, to)| to < from) {
                return Err(RecordingsError::Hold("--to is before --from".to_owned()));
            }
            let mut notes = Vec::new();
            if !session.is_empty() || !agent.is_empty() {
                let (stretches, more) = look_up(&reader()?, session, agent)?;
                scope.segments = fewest(scope.segments.into_iter().chain(stretches).collect());
                notes = more;
            }
            let of = std::iter::once(words(session, agent, &scope)).chain(notes).collect::<Vec<_>>().join("; ");
            let since = SystemClock::new().now();
            let hold = Hold { id: name.clone(), reason: reason.clone(), of: of.clone(), since, scope };
            let gone = tell(&Change::Hold(hold), config, socket)?.gone;
            let gone: Vec<String> = gone.into_iter().map(ledger::words).collect();
            let gone = if gone.is_empty() { String::new() } else { format!("; gone already: {}", gone.join(", ")) };
            said(&format!("{name} holds {of}{gone}"), json, out)
        }
    }
}

fn said(text: &str, json: bool, out: &mut impl Write) -> Result<(), RecordingsError> {
    if json { json_line(&serde_json::json!({ "done": text }), out) } else { Ok(writeln!(out, "{}", plain(text))?) }
}

/// Has the daemon do it, or does it where there is none.
fn tell(change: &Change, config: &Config, socket: Option<&Path>) -> Result<Changed, RecordingsError> {
    if let Some(socket) = socket {
        let call = client::call::<Changed>(socket, Method::POST, "/v1/holds", Some(change));
        match crate::cli::block_on(call).map_err(RecordingsError::Hold)? {
            // Nobody there: the spool's lock says whether that is so.
            Err(ClientError::Unreachable { .. }) => {}
            answer => return answer.map_err(|error| RecordingsError::Hold(error.to_string())),
        }
    }
    let owner = |source| RecordingsError::Owner { path: config.spool.clone(), source };
    rotate::act_as_owner(&config.spool).map_err(owner)?;
    Ok(hold::change(config, Arc::new(SystemClock::new()), change.clone(), "an operator, with the daemon stopped,")?)
}

/// Segments, from one to another, or all that follow.
type Stretches = Vec<(u64, Option<u64>)>;

/// In which segments sessions stand, and those of agents; and what is held beside that, in words.
fn look_up(
    reader: &Reader,
    sessions: &[String],
    agents: &[String],
) -> Result<(Stretches, Vec<String>), RecordingsError> {
    let (mut wanted, mut notes): (Vec<(SessionId, bool)>, _) = (Vec::new(), Vec::new());
    for id in sessions {
        let found = find(reader, id)?;
        wanted.push((found.id, found.closed.is_some()));
    }
    if !agents.is_empty() {
        let (all, errors) = reader.sessions();
        // What is sealed may be of them.
        if let Some(error) = errors.into_iter().find(|error| matches!(error, ReadError::Sealed { .. })) {
            return Err(error.into());
        }
        let is_named = |name: &str| agents.iter().any(|agent| agent == name);
        // Where whose it is stood in a segment that was deleted, it may be theirs.
        let gaps = reader.has_gaps();
        let of = all.into_iter().filter(|one| one.identity.as_deref().map_or(gaps && !one.begins, is_named));
        let before = wanted.len();
        let mut nameless = 0usize;
        for one in of {
            nameless += usize::from(one.identity.is_none());
            wanted.push((one.id, one.closed.is_some()));
        }
        if wanted.len() == before {
            return Err(RecordingsError::Hold(format!("{} has no session on record", agents.join(", "))));
        }
        if nameless > 0 {
            notes.push(format!("with {nameless} sessions of which it is not on record any more whose they are"));
        }
    }
    let open = wanted.iter().any(|(_, closed)| !closed);
    let (mut stretches, unreadable) = reader.stretches(&|session| wanted.iter().any(|(id, _)| *id == session));
    if !unreadable.is_empty() {
        notes.push(format!("with {} segments that cannot be read", unreadable.len()));
        stretches.extend(unreadable.into_iter().map(|segment| (segment, Some(segment))));
    }
    if open && let Some((_, to)) = stretches.iter_mut().max_by_key(|(from, _)| *from) {
        *to = None;
    }
    Ok((stretches, notes))
}

/// The same in at most so many stretches as a hold has: the nearest become one, with what lies between.
fn fewest(mut all: Stretches) -> Stretches {
    all.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (from, to) in all {
        let to = to.unwrap_or(u64::MAX);
        match merged.last_mut() {
            Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    if merged.len() > hold::MOST_STRETCHES {
        let mut gaps: Vec<u64> = merged.windows(2).filter_map(|two| Some(two.last()?.0 - two.first()?.1)).collect();
        gaps.sort_unstable();
        let widest = gaps.get(merged.len() - hold::MOST_STRETCHES - 1).copied().unwrap_or(u64::MAX);
        let mut fewer: Vec<(u64, u64)> = Vec::new();
        for (from, to) in merged {
            match fewer.last_mut() {
                Some(last) if from - last.1 <= widest => last.1 = to,
                _ => fewer.push((from, to)),
            }
        }
        merged = fewer;
    }
    merged.into_iter().map(|(from, to)| (from, Some(to).filter(|to| *to != u64::MAX))).collect()
}

fn words(sessions: &[String], agents: &[String], scope: &Scope) -> String {
    let mut parts: Vec<String> = sessions.iter().map(|id| format!("session {id}")).collect();
    parts.extend(agents.iter().map(|name| format!("agent {name}")));
    parts.extend(scope.times.iter().map(|(from, to)| match to {
        Some(to) => format!("from {from} to {to}"),
        None => format!("from {from} on"),
    }));
    if scope.segments.len() > MOST_NAMED {
        parts.push(format!("{} stretches of segments", scope.segments.len()));
        return parts.join(", ");
    }
    parts.extend(scope.segments.iter().map(|(from, to)| match to {
        Some(to) if to == from => format!("segment {from}"),
        Some(to) => format!("segments {from} to {to}"),
        None => format!("segments from {from} on"),
    }));
    parts.join(", ")
}

fn list(spool: &Path, json: bool, out: &mut impl Write) -> Result<(), RecordingsError> {
    let holds = Holds::load(spool).map_err(|error| RecordingsError::Hold(error.to_string()))?;
    if json {
        return json_line(holds.list(), out);
    }
    let rows = holds.list().iter().map(|hold| {
        vec![
            hold.id.clone(),
            hold.since.to_string(),
            words(&[], &[], &hold.scope),
            hold.of.clone(),
            hold.reason.clone(),
        ]
    });
    writeln!(out, "{}", table(["hold", "since", "held", "asked for", "reason"].map(String::from), rows))?;
    Ok(())
}

fn time(text: &str) -> Result<Timestamp, String> {
    instant(text, "T00:00:00Z")
}

/// A day alone ends with it.
fn until(text: &str) -> Result<Timestamp, String> {
    instant(text, "T23:59:59.999999Z")
}

fn instant(text: &str, of_day: &str) -> Result<Timestamp, String> {
    let whole = if text.len() == "2026-11-28".len() { format!("{text}{of_day}") } else { text.to_owned() };
    let time = OffsetDateTime::parse(&whole, &Rfc3339);
    let time = time.map_err(|_| "a time is wanted, as 2026-11-28T12:00:00Z, or 2026-11-28".to_owned())?;
    let micros = time.unix_timestamp_nanos() / 1000;
    i64::try_from(micros).map(Timestamp).map_err(|_| "a time of another era".to_owned())
}

fn stretch(text: &str) -> Result<(u64, Option<u64>), String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| "segments are wanted, as 7, 7-12 or 7-".to_owned());
    match text.split_once('-') {
        None => number(text).map(|one| (one, Some(one))),
        Some((from, "")) => Ok((number(from)?, None)),
        Some((from, to)) => {
            let (from, to) = (number(from)?, number(to)?);
            if to < from { Err(format!("{to} is before {from}")) } else { Ok((from, Some(to))) }
        }
    }
}

/// Most stretches that are named one by one.
const MOST_NAMED: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_ends_with_it_and_nothing_is_cut() {
        assert_eq!(until("2026-12-31").unwrap().to_string(), "2026-12-31T23:59:59.999999Z");
        assert_eq!(time("2026-12-31").unwrap().to_string(), "2026-12-31T00:00:00.000000Z");
        assert_eq!(until("2026-12-31T10:00:00.5Z").unwrap().to_string(), "2026-12-31T10:00:00.500000Z");
        assert!(stretch("12-7").is_err() && stretch("7-12").is_ok());
    }

    #[test]
    fn the_nearest_stretches_become_one() {
        assert_eq!(
            fewest(vec![(5, Some(6)), (1, Some(2)), (3, Some(3)), (9, None)]),
            [(1, Some(3)), (5, Some(6)), (9, None)]
        );
        let many: Stretches = (0..3000u64).map(|n| (n * 3 + n / 500 * 100, Some(n * 3 + n / 500 * 100))).collect();
        let few = fewest(many.clone());
        assert!(few.len() <= hold::MOST_STRETCHES);
        let held = |number: u64| few.iter().any(|(from, to)| number >= *from && to.is_none_or(|to| number <= to));
        assert!(many.iter().all(|(from, _)| held(*from)));
    }
}
