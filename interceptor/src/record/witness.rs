//! Witnesses: who else is told of signed checkpoints, so that a host that rewrites its own past is caught.
//!
//! Whoever holds the signing key (root of this host) can write another history and sign it. What a witness was told before does
//! not fit that: `interceptor recordings verify --checkpoint` takes what it kept, in whichever form. Only the newest checkpoint is
//! told, at most every so often; one that a witness missed is covered by the next. Not promised: that a witness keeps what it was
//! told, and anything about what happened since it was told last.

mod journal;
mod syslog;
mod timestamp;
mod web;

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;
use memchr::memmem;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::sink;
use crate::clock::Timestamp;
use crate::identity::fetch::FetchError;

/// Longest that one witness is waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// Witnesses of one kind.
const MOST: usize = 8;
/// Seconds between two checkpoints that a witness is told of: least, and most.
const EVERY: std::ops::RangeInclusive<u32> = 1..=86_400;

/// `[record.witness]`: who is told of checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The journal and the others are told at most so often, and only of what is new.
    pub every_seconds: u32,
    /// The host's journal (systemd's), which may be forwarded.
    pub journald: bool,
    /// Servers that take log messages over TLS (RFC 5425).
    pub syslog: Vec<Syslog>,
    /// Servers to which it is posted.
    pub http: Vec<Http>,
    /// Time stamp authorities (RFC 3161): their tokens are kept beside the segments.
    pub timestamp: Vec<Authority>,
    /// Time stamp authorities are asked at most so often.
    pub timestamp_seconds: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            every_seconds: 60,
            journald: false,
            syslog: Vec::new(),
            http: Vec::new(),
            timestamp: Vec::new(),
            timestamp_seconds: 3600,
        }
    }
}

/// A server that takes log messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Syslog {
    /// Where it is: `logs.example:6514`.
    pub address: String,
    /// PEM file with the authorities that its certificate may come from; the system's where absent.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Name in its certificate, where it is not the host of `address`.
    #[serde(default)]
    pub server_name: Option<String>,
}

/// A server to which checkpoints are posted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Where: https, or http to a loopback address. It answers with 200, 201, 202 or 204.
    pub url: String,
    /// File with a bearer token, read each time.
    #[serde(default)]
    pub token: Option<PathBuf>,
    /// As of [`Syslog::ca`].
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

/// A time stamp authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// Where: https or http. What it answers is signed.
    pub url: String,
    /// As of [`Syslog::ca`].
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

impl Config {
    /// Says what is wrong with the values.
    ///
    /// # Errors
    /// The first value that is wrong.
    pub fn validate(&self) -> Result<(), String> {
        if !EVERY.contains(&self.every_seconds) || !EVERY.contains(&self.timestamp_seconds) {
            return Err("every_seconds and timestamp_seconds: from 1 to 86400".to_owned());
        }
        if [self.syslog.len(), self.http.len(), self.timestamp.len()].iter().any(|count| *count > MOST) {
            return Err(format!("more than {MOST} of one kind"));
        }
        self.syslog.iter().try_for_each(Syslog::check)?;
        self.http.iter().try_for_each(Http::check)?;
        self.timestamp.iter().try_for_each(Authority::check)
    }

    /// All of them, with how often each is told. Where the file system has fewer free bytes than `floor`, no time stamps are kept.
    /// Reads certificates; blocks.
    ///
    /// # Errors
    /// In words, what cannot be used.
    pub fn open(&self, spool: &Path, floor: u64) -> Result<Vec<(Witness, Duration)>, String> {
        self.validate()?;
        let mut all = Vec::new();
        all.extend(self.journald.then(|| Witness::Journald(journal::Journal::default())));
        for config in &self.syslog {
            all.push(Witness::Syslog(Box::new(syslog::Server::open(config)?)));
        }
        for config in &self.http {
            all.push(Witness::Http(web::Server::open(config)?));
        }
        let every = Duration::from_secs(self.every_seconds.into());
        let mut all: Vec<_> = all.into_iter().map(|witness| (witness, every)).collect();
        let every = Duration::from_secs(self.timestamp_seconds.into());
        for (number, config) in self.timestamp.iter().enumerate() {
            all.push((Witness::Timestamp(timestamp::Stamping::open(config, number, (spool, floor))?), every));
        }
        Ok(all)
    }
}

/// What a witness is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The signed note.
    pub note: String,
    /// How this host calls itself.
    pub host: String,
    /// When.
    pub time: Timestamp,
}

impl Statement {
    /// On one line, as JSON: what [`kept`] reads again.
    fn line(&self) -> String {
        json!({ "interceptor": "checkpoint", "host": self.host, "time": self.time.to_string(), "frames": self.frames(), "note": self.note })
            .to_string()
    }

    /// How many frames it is of.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.note.lines().nth(1).and_then(|size| size.parse().ok()).unwrap_or_default()
    }
}

/// Why a witness was not told.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// Nobody answers in time.
    #[error("no answer within {PATIENCE:?}")]
    Timeout,
    /// The system, or the connection.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// TLS.
    #[error("{0}")]
    Tls(#[from] crate::tls::HandshakeError),
    /// What it said.
    #[error("{0}")]
    Answer(String),
}

impl WitnessError {
    /// Of an exchange with this address, which may hold a secret.
    fn of(error: &FetchError, url: &Uri) -> Self {
        Self::Answer(error.to_string().replace(&url.to_string(), &without_secrets(url)))
    }
}

/// One of those who are told.
#[derive(Debug)]
pub enum Witness {
    /// The host's journal.
    Journald(journal::Journal),
    /// A server that takes log messages.
    Syslog(Box<syslog::Server>),
    /// A server to which it is posted.
    Http(web::Server),
    /// A time stamp authority.
    Timestamp(timestamp::Stamping),
}

impl Witness {
    /// How long ago it was last told by an earlier run, as far as that can be known.
    #[must_use]
    pub fn told_ago(&self) -> Option<Duration> {
        if let Self::Timestamp(authority) = self { authority.asked_ago() } else { None }
    }

    /// Whether it is told of the last checkpoint as well, however short a time ago it was told before.
    #[must_use]
    pub const fn wants_the_last(&self) -> bool {
        !matches!(self, Self::Timestamp(_))
    }

    /// Tells it.
    ///
    /// # Errors
    /// When it did not take note, as far as can be known: a journal and a log server do not say.
    pub async fn tell(&self, statement: &Statement) -> Result<(), WitnessError> {
        let told = async {
            match self {
                Self::Journald(journal) => journal.tell(statement),
                Self::Syslog(server) => server.tell(statement).await,
                Self::Http(server) => server.tell(statement).await,
                Self::Timestamp(authority) => authority.tell(statement).await,
            }
        };
        tokio::time::timeout(PATIENCE, told).await.unwrap_or(Err(WitnessError::Timeout))
    }
}

/// What one knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessState {
    /// Who it is, for people.
    pub name: String,
    /// When it was last told, since the daemon started.
    pub told_at: Option<Timestamp>,
    /// Of how many frames.
    pub frames: Option<u64>,
    /// Why it cannot be told now.
    pub failing: Option<String>,
}

/// For people: who it is.
impl std::fmt::Display for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Journald(_) => f.write_str("the journal"),
            Self::Syslog(server) => write!(f, "{server}"),
            Self::Http(server) => write!(f, "{server}"),
            Self::Timestamp(authority) => write!(f, "{authority}"),
        }
    }
}

/// The newest checkpoint of a spool, once all that it is of is on the disk: what a witness was told must not be gone after a
/// power cut. Blocks.
///
/// # Errors
/// When it cannot be read, or forced there.
pub fn newest(spool: &Path) -> io::Result<Option<String>> {
    let mut note = String::new();
    match fs::File::open(spool.join(sink::CHECKPOINT)) {
        Ok(file) => file.take(NOTE_MAX).read_to_string(&mut note)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // Those before are forced there when they are closed; one may be closed right now.
    for segment in sink::segments(spool)?.iter().rev().take(2) {
        fs::File::open(sink::segment_path(spool, *segment))?.sync_data()?;
    }
    Ok((!note.is_empty()).then_some(note))
}

/// Most bytes of the file with the newest checkpoint.
const NOTE_MAX: u64 = 4096;

/// What a witness kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Signed notes.
    pub notes: Vec<Vec<u8>>,
    /// Lines that speak of a checkpoint, and hold none that can be read.
    pub unread: u64,
}

/// The checkpoints in what a witness kept: a signed note as it is, or lines that hold one each in JSON, as they were sent,
/// or as `journalctl -o json` gives them, or behind what a log server puts before them.
#[must_use]
pub fn kept(bytes: &[u8]) -> Kept {
    let mut kept = Kept::default();
    for line in bytes.split(|byte| *byte == b'\n') {
        match in_line(line) {
            Some(note) => kept.notes.push(note),
            None if SIGNS.iter().any(|sign| memmem::find(line, sign).is_some()) => kept.unread += 1,
            None => {}
        }
    }
    if kept.notes.is_empty() && bytes.starts_with(ORIGIN) {
        return Kept { notes: vec![bytes.to_vec()], unread: 0 };
    }
    kept
}

/// How a note begins: the origin of this program's spools.
const ORIGIN: &[u8] = b"interceptor/";
/// Of which a line with a checkpoint has one.
const SIGNS: [&[u8]; 2] = [b"checkpoint", journal::FIELD.as_bytes()];

/// Whatever stands before it, which may have braces of its own; also within a text of another object.
fn in_line(line: &[u8]) -> Option<Vec<u8>> {
    objects(line).find_map(|object| {
        let within = || {
            object
                .as_object()?
                .values()
                .filter_map(Value::as_str)
                .find_map(|text| objects(text.as_bytes()).find_map(|object| note_of(&object)))
        };
        note_of(&object).or_else(within)
    })
}

fn note_of(object: &Value) -> Option<Vec<u8>> {
    let note = object.get("note").or_else(|| object.get(journal::FIELD))?;
    Some(note.as_str()?.as_bytes().to_vec())
}

fn objects(line: &[u8]) -> impl Iterator<Item = Value> {
    let begins = line.iter().enumerate().filter(|(_, byte)| **byte == b'{').map(|(at, _)| at);
    begins
        .take(BRACES)
        .filter_map(|at| serde_json::Deserializer::from_slice(line.get(at..)?).into_iter::<Value>().next()?.ok())
}

/// Braces of one line with which the checkpoint may begin.
const BRACES: usize = 16;

/// An address without what may be a secret in it.
fn without_secrets(uri: &Uri) -> String {
    format!(
        "{}://{}/...",
        uri.scheme_str().unwrap_or("https"),
        uri.authority().map_or("", http::uri::Authority::as_str)
    )
}

#[cfg(test)]
mod tests;
