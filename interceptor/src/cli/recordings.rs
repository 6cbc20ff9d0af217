//! `interceptor recordings`: list, show, replay, verify and export what was recorded. Works on a copied spool, offline.
//!
//! Exit codes: 0 done, and nothing is wrong; 1 `verify` found that something was altered, dropped, reordered or cut
//! off; 2 wrong use, or something could not be read. Everything recorded is printed without control characters: an
//! agent cannot drive the terminal of whoever reads its session. Does not verify unless told to.

mod asciicast;
mod hold;
mod rotate;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::clock::Timestamp;
use crate::policy::Denial;
use crate::protocol::{self, PROTOCOLS, Replayer, Shown, Terminal};
use crate::record::key::KeyError;
use crate::record::reader::{Frame, ReadError, Reader, Summary};
use crate::record::rotation;
use crate::record::seal::{Identities, IdentityError};
use crate::record::verify::{self, VerifyError};
use crate::record::{
    Config, Direction, Event, OpenError, Outcome, ParameterRecord, PublicKey, RecordedVerdict, witness,
};
use crate::telemetry::SessionId;

/// Arguments of `interceptor recordings`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Directory of the spool, or of a copy of it
    #[arg(long, global = true, value_name = "DIR")]
    spool: Option<PathBuf>,
    /// An age identity that the recording is sealed to, as `age-keygen` writes it; may be given more than once
    #[arg(long, global = true, value_name = "FILE")]
    identity: Vec<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

impl Arguments {
    /// Whether the spool is named here, so that the configuration need not name it.
    #[must_use]
    pub const fn names_spool(&self) -> bool {
        self.spool.is_some()
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List recorded sessions
    List,
    /// Show one session: who, from where, what was asked and answered, without the data
    Show {
        /// Session id, or the beginning of one
        id: String,
    },
    /// Replay one session as the agent saw it
    Replay {
        /// Session id, or the beginning of one
        id: String,
        /// How much faster than it happened
        #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = speed)]
        speed: f64,
        /// Do not wait at all
        #[arg(long, conflicts_with = "speed")]
        no_wait: bool,
    },
    /// Verify that nothing was altered, dropped, reordered or cut off
    Verify {
        /// Public key that signed the first segment: the .pub file beside the signing key, kept since then. It names those that
        /// came after it. May be given more than once, to have one of them count
        #[arg(long, value_name = "PUBKEY")]
        key: Vec<PathBuf>,
        /// A checkpoint that was kept elsewhere, or many: lines as witnesses were sent them, as log servers write them down, or of `journalctl -o json`; may be given more than once
        #[arg(long, value_name = "FILE")]
        checkpoint: Vec<PathBuf>,
    },
    /// Have another key sign from now on: the one of so far says which, and is removed. The daemon has to be stopped
    RotateKey {
        /// The new private key, where it is not to be made: made there, where it does not exist. The configuration, or the
        /// credential, is yours to change then, before the next start
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Hold what must not be deleted (legal hold), list what is held, let go of it. The daemon need not be stopped
    #[command(subcommand)]
    Hold(hold::Verb),
    /// Print every event, for other programs
    Export {
        /// The form
        #[arg(long, value_enum, default_value_t = Format::Jsonl)]
        format: Format,
        /// Only this session: its id, or the beginning of one
        #[arg(long, value_name = "ID")]
        session: Option<String>,
    },
}

/// Forms of an export.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// One JSON object a line; data in base64
    Jsonl,
    /// What programs printed in one session, for players of terminals (asciinema); needs --session
    Asciicast,
}

/// Runs the command. `defaults` is the `[record]` section of the configuration, for what the arguments leave out; `socket` is that
/// of a daemon which writes to the spool.
///
/// # Errors
/// When something cannot be read, or `out` cannot be written: exit code 2.
pub fn run(
    arguments: &Arguments,
    defaults: &Config,
    socket: Option<&Path>,
    json: bool,
    out: &mut impl Write,
) -> Result<ExitCode, RecordingsError> {
    let directory = arguments.spool.as_deref().unwrap_or(&defaults.spool);
    let reader = || -> Result<Reader, RecordingsError> {
        Ok(Reader::open(directory)?.with_identities(Identities::load(&arguments.identity)?))
    };
    match &arguments.command {
        Command::List => list(&reader()?, json, out)?,
        Command::Show { id } => show(&reader()?, id, json, out)?,
        Command::Replay { id, speed, no_wait } => {
            replay(&reader()?, id, (!no_wait).then_some(*speed), json, out)?;
        }
        Command::Export { format: Format::Jsonl, session } => export(&reader()?, session.as_deref(), out)?,
        Command::Export { format: Format::Asciicast, session } => {
            let id = session.as_deref().ok_or(RecordingsError::WhichSession)?;
            asciicast::export(&reader()?, id, out)?;
        }
        Command::Verify { key, checkpoint } => {
            let named = key.iter().map(|path| PublicKey::load(path)).collect::<Result<Vec<_>, _>>()?;
            let keys = if named.is_empty() { rotation::public_keys(&defaults.key)? } else { named.clone() };
            let [key, keys @ ..] = keys.as_slice() else { return Err(RecordingsError::WhichKey) };
            let read = |path: &PathBuf| {
                std::fs::read(path).map_err(|source| RecordingsError::Checkpoint { path: path.clone(), source })
            };
            // Of the daemon's own spool it is known whose it is now.
            let newest = (named.is_empty() && !arguments.names_spool()).then(|| key.clone());
            let mut options = verify::Options { keys: keys.to_vec(), newest, ..verify::Options::default() };
            for path in checkpoint {
                let witness::Kept { notes, unread } = witness::kept(&read(path)?);
                if notes.is_empty() {
                    return Err(RecordingsError::NoCheckpoint(path.clone()));
                }
                options.kept.extend(notes);
                options.unread += unread;
            }
            Reader::open(directory)?;
            let report = verify::directory(directory, key, &options)?;
            print_report(&report, json, out)?;
            return Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::from(FOUND) });
        }
        Command::Hold(verb) => {
            let config = Config { spool: directory.to_owned(), ..defaults.clone() };
            hold::run(verb, &config, (reader, socket.filter(|_| !arguments.names_spool())), json, out)?;
        }
        Command::RotateKey { to } => {
            let config = Config { spool: directory.to_owned(), ..defaults.clone() };
            rotate::run(&config, to.as_deref(), json, out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Why the command did not do what it was asked. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RecordingsError {
    /// The spool.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An identity that opens it.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The public key.
    #[error("{0}; name the public key with --key")]
    Key(#[from] KeyError),
    /// The spool, while it was verified.
    #[error("{0}; nothing is known about the recording")]
    Verify(#[from] VerifyError),
    /// A checkpoint that was kept elsewhere.
    #[error("cannot read the checkpoint {path}: {source}", path = path.display())]
    Checkpoint {
        /// Its file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Nothing in it.
    #[error("{} holds no checkpoint: neither a signed note, nor a line with one", .0.display())]
    NoCheckpoint(PathBuf),
    /// No public key at all.
    #[error("name the public key with --key")]
    WhichKey,
    /// Whoever has the spool could not be acted for.
    #[error("cannot act as the owner of the spool {path}: {source}; name its directory with --spool", path = path.display())]
    Owner {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another key.
    #[error("{0}")]
    Rotate(#[from] OpenError),
    /// Nothing is held, or let go of.
    #[error("{0}")]
    Hold(String),
    /// A terminal is one session.
    #[error("a terminal is of one session: name it with --session")]
    WhichSession,
    /// Nothing to play.
    #[error("session {0} ran no program in a terminal, nor any other")]
    NoTerminal(SessionId),
    /// No such session.
    #[error("no session begins with {0:?}; `interceptor recordings list` shows them")]
    NoSession(String),
    /// More than one.
    #[error("{count} sessions begin with {id:?}; give more of the id")]
    Ambiguous {
        /// What was given.
        id: String,
        /// How many there are.
        count: usize,
    },
    /// The output.
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
    /// The output, as JSON.
    #[error("cannot print as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Exit code where `verify` found something.
const FOUND: u8 = 1;
/// Longest pause of a replay: nobody waits through an agent's idle hours.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// Rows of a result that are printed as one table.
const GRID_ROWS: usize = 500;
/// Statements that wait to be matched with the same statement in the data.
const UNMATCHED: usize = 256;

fn speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|_| "a number is wanted".to_owned())?;
    if speed.is_finite() && speed > 0.0 { Ok(speed) } else { Err("a number above 0 is wanted".into()) }
}

fn find(reader: &Reader, id: &str) -> Result<Summary, RecordingsError> {
    let (sessions, errors) = reader.sessions();
    let wanted = id.to_ascii_lowercase();
    let mut found: Vec<Summary> = sessions.into_iter().filter(|s| s.id.to_string().starts_with(&wanted)).collect();
    let count = found.len();
    match found.pop() {
        Some(only) if count == 1 && !wanted.is_empty() => Ok(only),
        // It may be there all the same.
        None => Err(errors
            .into_iter()
            .find(|error| matches!(error, ReadError::Sealed { .. }))
            .map_or_else(|| RecordingsError::NoSession(id.into()), RecordingsError::Read)),
        Some(_) => Err(RecordingsError::Ambiguous { id: id.into(), count }),
    }
}

fn list(reader: &Reader, json: bool, out: &mut impl Write) -> Result<(), RecordingsError> {
    let (sessions, errors) = reader.sessions();
    if json {
        json_line(&sessions, out)?;
    } else {
        let header = [
            "session",
            "started",
            "duration",
            "identity",
            "target",
            "commands",
            "denied",
            "held",
            "masked",
            "bytes in/out",
            "ended",
        ];
        let rows = sessions.iter().map(|s| {
            vec![
                s.id.to_string(),
                s.started.to_string(),
                seconds(Duration::from_micros(s.duration_micros)),
                identity(s),
                s.target.as_deref().unwrap_or("-").to_owned(),
                s.commands.to_string(),
                s.denied.to_string(),
                s.held.to_string(),
                s.masked_cells.to_string(),
                format!("{}/{}", s.bytes_from_agent, s.bytes_to_agent),
                s.closed.clone().unwrap_or_else(|| unended(s).into()),
            ]
        });
        writeln!(out, "{}", table(header.map(String::from), rows))?;
    }
    for error in summed(errors) {
        // In a list, part of which is missing, saying so is part of the answer.
        let line = plain(&error);
        if json {
            json_line(&serde_json::json!({ "unreadable": line }), out)?
        } else {
            writeln!(out, "unreadable: {line}")?
        }
    }
    Ok(())
}

const fn unended(summary: &Summary) -> &'static str {
    if summary.sealed_frames > 0 { "sealed" } else { "no end recorded" }
}

/// What could not be read, with segments in a row that are sealed said once.
fn summed(errors: Vec<ReadError>) -> Vec<String> {
    let (mut words, mut sealed): (Vec<String>, Option<(u64, u64)>) = (Vec::new(), None);
    let said = |(first, last): (u64, u64)| {
        let one = ReadError::Sealed { segment: first };
        if first == last { one.to_string() } else { format!("{one}; so are all up to segment {last}") }
    };
    for error in errors {
        match (error, &mut sealed) {
            (ReadError::Sealed { segment }, Some((_, last))) => *last = segment,
            (ReadError::Sealed { segment }, None) => sealed = Some((segment, segment)),
            (other, _) => {
                words.extend(sealed.take().map(said));
                words.push(other.to_string());
            }
        }
    }
    words.extend(sealed.map(said));
    words
}

fn identity(summary: &Summary) -> String {
    match (&summary.identity, summary.attested) {
        (Some(name), true) => name.to_string(),
        (Some(name), false) => format!("{name} (not attested)"),
        (None, _) if summary.sealed_frames > 0 => "sealed".into(),
        (None, _) => "-".into(),
    }
}

fn show(reader: &Reader, id: &str, json: bool, out: &mut impl Write) -> Result<(), RecordingsError> {
    let summary = find(reader, id)?;
    let frames = reader.frames(Some(summary.id));
    if json {
        json_line(&serde_json::json!({ "session": summary }), out)?;
    } else {
        writeln!(out, "session   {}", summary.id)?;
        writeln!(out, "identity  {}", plain(&identity(&summary)))?;
        writeln!(out, "target    {}", plain(summary.target.as_deref().unwrap_or("-")))?;
        writeln!(out, "started   {}", summary.started)?;
        writeln!(out, "lasted    {}", seconds(Duration::from_micros(summary.duration_micros)))?;
        writeln!(out, "ended     {}\n", plain(summary.closed.as_deref().unwrap_or("no end recorded")))?;
    }
    for frame in frames {
        let frame = frame?;
        if matches!(frame.event, Event::Data { .. }) {
            continue;
        }
        if json {
            json_line(&frame, out)?;
        } else {
            line(out, offset(&summary, frame.time), &words(&frame.event))?;
        }
    }
    Ok(())
}

fn export(reader: &Reader, session: Option<&str>, out: &mut impl Write) -> Result<(), RecordingsError> {
    let only = session.map(|id| find(reader, id)).transpose()?.map(|summary| summary.id);
    let (mut sealed, mut frames) = (None, reader.frames(only));
    for frame in frames.by_ref() {
        match frame {
            // The rest is worth having.
            Err(error @ ReadError::Sealed { .. }) => {
                json_line(&serde_json::json!({ "unreadable": plain(&error.to_string()) }), out)?;
                sealed.get_or_insert(error);
            }
            frame => json_line(&frame?, out)?,
        }
    }
    for error in frames.gone() {
        json_line(&serde_json::json!({ "unreadable": plain(&error.to_string()) }), out)?;
    }
    sealed.map_or(Ok(()), |error| Err(error.into()))
}

fn print_report(report: &verify::Report, json: bool, out: &mut impl Write) -> Result<(), RecordingsError> {
    if json {
        return json_line(report, out);
    }
    for finding in &report.findings {
        writeln!(out, "{}", plain(&finding.to_string()))?;
    }
    let signed_at = report.signed_at.map_or_else(String::new, |time| format!(", the newest of {time}"));
    writeln!(
        out,
        "{}: {} segments, {} frames in an unbroken chain, {} of them signed by {} checkpoints{signed_at}",
        if report.is_whole() { "nothing was altered" } else { "NOT WHOLE" },
        report.segments,
        report.frames,
        report.signed,
        report.checkpoints,
    )?;
    for note in &report.notes {
        writeln!(out, "note: {}", plain(note))?;
    }
    Ok(())
}

fn replay(
    reader: &Reader,
    id: &str,
    speed: Option<f64>,
    json: bool,
    out: &mut impl Write,
) -> Result<(), RecordingsError> {
    let summary = find(reader, id)?;
    let registration = PROTOCOLS.iter().find(|known| Some(known.name) == summary.protocol.as_deref());
    let mut stage = Stage {
        replayer: registration.map(|known| known.protocol.replayer()),
        unmatched: VecDeque::new(),
        grid: None,
        json,
        out,
    };
    let mut before = summary.started;
    for frame in reader.frames(Some(summary.id)) {
        let frame = frame?;
        if let Some(speed) = speed {
            let pause = frame.time.since(before).div_f64(speed.max(f64::MIN_POSITIVE).max(1e-6)).min(LONGEST_PAUSE);
            stage.out.flush()?;
            std::thread::sleep(pause);
        }
        before = frame.time;
        stage.show(&summary, &frame)?;
    }
    stage.end_grid()
}

/// Where a replay is shown.
struct Stage<'o, W> {
    replayer: Option<Box<dyn Replayer>>,
    /// Statements that were shown once, from a command or from the data, and will come from the other as well.
    unmatched: VecDeque<(bool, String)>,
    grid: Option<(Vec<String>, Vec<Vec<String>>)>,
    json: bool,
    out: &'o mut W,
}

#[derive(Serialize)]
struct ShownAt<'a> {
    session: SessionId,
    time: Timestamp,
    shown: &'a Shown,
}

impl<W: Write> Stage<'_, W> {
    fn show(&mut self, summary: &Summary, frame: &Frame) -> Result<(), RecordingsError> {
        let at = offset(summary, frame.time);
        if let Event::Data { direction, bytes } = &frame.event {
            let way = match direction {
                Direction::FromAgent => protocol::Direction::FromAgent,
                Direction::ToAgent => protocol::Direction::ToAgent,
            };
            let Some(replayer) = &mut self.replayer else {
                let shown = Shown::Other(format!("{} bytes ({direction:?})", bytes.len()));
                return self.shown(summary, frame.time, at, &shown);
            };
            for shown in replayer.feed(way, bytes) {
                self.shown(summary, frame.time, at, &shown)?;
            }
            return Ok(());
        }
        if self.json {
            return json_line(frame, self.out);
        }
        self.end_grid()?;
        if let Event::Command { statement, .. } = &frame.event
            && self.seen(true, statement)
        {
            return Ok(());
        }
        line(self.out, at, &words(&frame.event))
    }

    fn shown(
        &mut self,
        summary: &Summary,
        time: Timestamp,
        at: Duration,
        shown: &Shown,
    ) -> Result<(), RecordingsError> {
        if self.json {
            return json_line(&ShownAt { session: summary.id, time, shown }, self.out);
        }
        match shown {
            Shown::Header(columns) => {
                self.end_grid()?;
                self.grid = Some((columns.clone(), Vec::new()));
            }
            Shown::Row(values) => {
                let row = values.iter().map(|value| value.clone().unwrap_or_else(|| "NULL".into())).collect();
                let (header, rows) = self.grid.get_or_insert_with(Default::default);
                rows.push(row);
                if rows.len() >= GRID_ROWS {
                    let header = header.clone();
                    self.end_grid()?;
                    self.grid = Some((header, Vec::new()));
                }
            }
            Shown::Complete(tag) => {
                self.end_grid()?;
                line(self.out, at, tag)?;
            }
            Shown::Statement(text) => {
                self.end_grid()?;
                if !self.seen(false, text) {
                    line(self.out, at, &format!("agent> {text}"))?;
                }
            }
            Shown::Terminal { stream, bytes } => {
                self.end_grid()?;
                line(self.out, at, &terminal(*stream, &String::from_utf8_lossy(bytes)))?;
            }
            Shown::Message(text) | Shown::Other(text) => {
                self.end_grid()?;
                line(self.out, at, text)?;
            }
        }
        Ok(())
    }

    /// Whether a statement was shown already, from the other source. A statement in the data may have values added.
    fn seen(&mut self, command: bool, text: &str) -> bool {
        let same = |(from_command, other): &(bool, String)| match (*from_command, command) {
            (true, false) => text.starts_with(other.as_str()),
            (false, true) => other.starts_with(text),
            _ => false,
        };
        if let Some(index) = self.unmatched.iter().position(same) {
            self.unmatched.remove(index);
            return true;
        }
        if self.unmatched.len() >= UNMATCHED {
            self.unmatched.pop_front();
        }
        self.unmatched.push_back((command, text.to_owned()));
        false
    }

    fn end_grid(&mut self) -> Result<(), RecordingsError> {
        if let Some((header, rows)) = self.grid.take() {
            writeln!(self.out, "{}", table(header, rows))?;
        }
        Ok(())
    }
}

/// What went through a terminal, in words.
fn terminal(stream: Terminal, text: &str) -> String {
    let name = match stream {
        Terminal::Stdin => "stdin>",
        Terminal::Stdout => "stdout|",
        Terminal::Stderr => "stderr|",
        Terminal::Resize { width, height } => return format!("terminal: {width}x{height}"),
    };
    text.lines().map(|line| format!("{name} {line}")).collect::<Vec<_>>().join("\n")
}

/// An event in words.
fn words(event: &Event) -> String {
    let because = |reason: Option<&str>| reason.map_or_else(String::new, |reason| format!(": {reason}"));
    match event {
        Event::SessionOpened { identity, origin, facts, target, .. } => format!(
            "opened by pid {} ({}) uid {} for {} [{}], looks like {}, cgroup {}",
            origin.pid,
            origin.comm,
            origin.uid,
            origin.destination,
            target.as_deref().unwrap_or("no target"),
            identity.as_deref().unwrap_or("no agent"),
            facts.as_ref().map_or_else(|| origin.cgroup.to_string(), |facts| facts.cgroup.clone()),
        ),
        Event::Attested { identity, groups, token, .. } => format!(
            "attested as {identity}, groups {}, by {} as {} until {}",
            groups.join(", "),
            token.issuer,
            token.subject,
            token.expires_at
        ),
        Event::Refused { denial } => denied("refused", denial),
        Event::Command { statement, parameters, verdict, .. } => {
            let mut text = format!("agent> {statement}");
            for (index, value) in parameters.records().iter().enumerate() {
                let (lead, number) = (if index == 0 { "  -- " } else { ", " }, index + 1);
                let _infallible = write!(text, "{lead}${number} = {}", parameter(value));
            }
            if let Some(verdict) = verdict {
                let _infallible = write!(text, "\n{}", answered(verdict));
            }
            text
        }
        Event::Decision(verdict) => answered(verdict),
        Event::Denied { denial } => denied("denied", denial),
        Event::HoldOpened { request, approvers, reason } => {
            format!("held as {request} for {}: {reason}", approvers.join(", "))
        }
        Event::Approval { request, approver, outcome, reason } => {
            let who = approver.as_ref().map_or_else(String::new, |approver| {
                format!(" by {} (uid {})", approver.name.as_deref().unwrap_or("?"), approver.uid)
            });
            let what = match outcome {
                Outcome::Approve => "approved",
                Outcome::Deny => "turned down",
                Outcome::Timeout => "not answered in time",
                Outcome::Redeemed => "its grant is used up",
            };
            format!("request {request}: {what}{who}{}", because(reason.as_deref()))
        }
        Event::Masked { cells } => {
            let cells: Vec<String> = cells.iter().map(|(place, count)| format!("{place} ({count})")).collect();
            format!("masked: {}", cells.join(", "))
        }
        Event::Data { direction, bytes } => format!("{} bytes ({direction:?})", bytes.len()),
        Event::Note { text } => format!("note: {text}"),
        Event::SessionClosed { reason, counters } => format!(
            "closed: {reason} ({} commands, {} denied, {} held)",
            counters.commands, counters.denied, counters.held
        ),
        // Events of the daemon belong to no session and have no words of their own.
        other => serde_json::to_string(other).unwrap_or_default(),
    }
}

fn answered(verdict: &RecordedVerdict) -> String {
    let RecordedVerdict { effect, rules, reason } = verdict;
    let effect = format!("{effect:?}").to_lowercase();
    let rules = if rules.is_empty() { String::new() } else { format!(" by {}", rules.join(", ")) };
    let reason = reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    format!("verdict: {effect}{rules}{reason}")
}

fn denied(what: &str, denial: &Denial) -> String {
    let mut text = format!("{what}: {}: {}", denial.what, denial.reason);
    if let Some(rule) = &denial.rule {
        let _infallible = write!(text, " [{rule}]");
    }
    if let Some(remedy) = &denial.remedy {
        let _infallible = write!(text, "; remedy: {remedy}");
    }
    text
}

fn parameter(value: &ParameterRecord) -> String {
    match &value.value {
        None => "NULL".into(),
        Some(text) if value.hex => format!("\\x{text}"),
        Some(text) => text.clone(),
    }
}

fn offset(summary: &Summary, time: Timestamp) -> Duration {
    time.since(summary.started)
}

fn seconds(duration: Duration) -> String {
    format!("{:.3}s", duration.as_secs_f64())
}

/// One moment: further lines of it stand under its first.
fn line(out: &mut impl Write, at: Duration, text: &str) -> Result<(), RecordingsError> {
    for (index, part) in text.lines().enumerate() {
        let stamp = if index == 0 { format!("+{}", seconds(at)) } else { String::new() };
        writeln!(out, "{stamp:>12}  {}", plain(part))?;
    }
    Ok(())
}

fn table(header: impl IntoIterator<Item = String>, rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.into_iter().map(|cell| plain(&cell)));
    table.add_rows(rows.into_iter().map(|row| row.into_iter().map(|cell| plain(&cell)).collect::<Vec<_>>()));
    table
}

/// JSON on one line. Its writer escapes C0 controls; here C1 controls and what turns text around follow.
fn json_line<T: Serialize + ?Sized>(value: &T, out: &mut impl Write) -> Result<(), RecordingsError> {
    let text = serde_json::to_string(value)?;
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hostile(c) {
            let _infallible = write!(safe, "\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    writeln!(out, "{safe}")?;
    Ok(())
}

/// Recorded text as a terminal may have it.
fn plain(text: &str) -> String {
    text.chars().map(|c| if is_hostile(c) { '\u{fffd}' } else { c }).collect()
}

/// Control characters, and the invisible ones that reorder or hide text. All are below U+10000.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests;
