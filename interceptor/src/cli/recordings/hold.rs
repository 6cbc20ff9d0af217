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
        /// Until then; without it for as long as the hold lasts
        #[arg(long, value_name = "TIME", value_parser = time, requires = "from")]
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
            if !session.is_empty() || !agent.is_empty() {
                scope.segments.extend(look_up(&reader()?, session, agent)?);
            }
            let of = words(session, agent, &scope);
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

/// In which segments sessions stand, and those of agents.
fn look_up(
    reader: &Reader,
    sessions: &[String],
    agents: &[String],
) -> Result<Vec<(u64, Option<u64>)>, RecordingsError> {
    let mut wanted: Vec<(SessionId, bool)> = Vec::new();
    for id in sessions {
        let found = find(reader, id)?;
        wanted.push((found.id, found.closed.is_some()));
    }
    if !agents.is_empty() {
        let (all, errors) = reader.sessions();
        // What cannot be read may be of them.
        if let Some(error) = errors.into_iter().find(|error| matches!(error, ReadError::Sealed { .. })) {
            return Err(error.into());
        }
        let of = all.into_iter().filter(|one| agents.iter().any(|name| one.identity.as_deref() == Some(name.as_str())));
        wanted.extend(of.map(|one| (one.id, one.closed.is_some())));
    }
    if wanted.is_empty() {
        return Err(RecordingsError::Hold(format!("{} has no session on record", agents.join(", "))));
    }
    let open = wanted.iter().any(|(_, closed)| !closed);
    let mut stretches = reader.stretches(&|session| wanted.iter().any(|(id, _)| *id == session))?;
    if open && let Some((_, to)) = stretches.last_mut() {
        *to = None;
    }
    Ok(stretches)
}

fn words(sessions: &[String], agents: &[String], scope: &Scope) -> String {
    let mut parts: Vec<String> = sessions.iter().map(|id| format!("session {id}")).collect();
    parts.extend(agents.iter().map(|name| format!("agent {name}")));
    parts.extend(scope.times.iter().map(|(from, to)| match to {
        Some(to) => format!("from {from} to {to}"),
        None => format!("from {from} on"),
    }));
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
    let whole = if text.len() == "2026-11-28".len() { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let time = OffsetDateTime::parse(&whole, &Rfc3339);
    let time = time.map_err(|_| "a time is wanted, as 2026-11-28T12:00:00Z, or 2026-11-28".to_owned())?;
    Ok(Timestamp::from_unix(time.unix_timestamp()))
}

fn stretch(text: &str) -> Result<(u64, Option<u64>), String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| "segments are wanted, as 7, 7-12 or 7-".to_owned());
    match text.split_once('-') {
        None => number(text).map(|one| (one, Some(one))),
        Some((from, "")) => Ok((number(from)?, None)),
        Some((from, to)) => Ok((number(from)?, Some(number(to)?))),
    }
}
