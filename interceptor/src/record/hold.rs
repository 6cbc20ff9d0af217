//! Legal hold: segments that no retention deletes, for as long as somebody says so.
//!
//! Owns the file in which holds stand beside the segments (`holds.json`), and what they hold: stretches of segments, or of time.
//! Whoever names a session or an identity has it looked up where that can be read; here it is segments. Not promised: that root
//! leaves the file alone. But holds are on record, and `verify` names a segment that was deleted in spite of one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::{Disk, Host, sync_directory};
use super::sink::Files;
use super::spool::Spool;
use super::{Config, OpenError};
use crate::clock::{Clock, Timestamp};

/// What is held, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Its name.
    pub id: String,
    /// In whose words.
    pub reason: String,
    /// What was asked for, in words.
    pub of: String,
    /// Since when.
    pub since: Timestamp,
    /// What it is of.
    #[serde(flatten)]
    pub scope: Scope,
}

/// What is held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Segments from one to another; all that follow where there is no other.
    #[serde(default)]
    pub segments: Vec<(u64, Option<u64>)>,
    /// Everything from that time to that one; whatever comes where there is no other.
    #[serde(default)]
    pub times: Option<(Timestamp, Option<Timestamp>)>,
}

impl Scope {
    /// Whether it is of a segment, in which stands what happened from one time to another.
    pub(super) fn hold(&self, segment: u64, begun: Timestamp, ended: Timestamp) -> bool {
        let numbered = |(from, to): &(u64, Option<u64>)| segment >= *from && to.is_none_or(|to| segment <= to);
        let timed = |(from, to): &(Timestamp, Option<Timestamp>)| ended >= *from && to.is_none_or(|to| begun <= to);
        self.segments.iter().any(numbered) || self.times.as_ref().is_some_and(timed)
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Hold this.
    Hold(Hold),
    /// Let go of the one of that name.
    Release(String),
}

/// Changes what is held while nobody writes to the spool. False where there is no such hold.
///
/// # Errors
/// Where the spool cannot be written, or somebody else does.
pub fn change(config: &Config, clock: Arc<dyn Clock>, change: Change, by: &str) -> Result<bool, OpenError> {
    let failed = OpenError::io("cannot change what is held in", &config.spool);
    let (mut spool, recovered) = Spool::open(config, Arc::clone(&clock), Box::new(Files::new(config.spool.clone())))?;
    let told = recovered.map_or(Ok(()), |event| spool.tell(clock.now(), &event));
    let done = told.and_then(|()| match change {
        Change::Hold(hold) => spool.hold(hold, by).map(|()| true),
        Change::Release(id) => spool.release(&id, by),
    });
    done.map_err(failed)
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    all: Vec<Hold>,
    /// Why nobody knows which they are: then everything is held.
    unknown: Option<String>,
}

impl Holds {
    /// Reads those of a spool; none where there is no file.
    ///
    /// # Errors
    /// Where it cannot be read, or understood: then nobody knows what is held.
    pub fn load(spool: &Path) -> io::Result<Self> {
        match fs::read(path(spool)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(|all| Self { all, unknown: None }).map_err(|error| {
                io::Error::other(format!("{FILE} cannot be understood, and with it what must be kept: {error}"))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// The same; where they cannot be read, everything is held.
    pub(super) fn of(spool: &Path) -> Self {
        Self::load(spool).unwrap_or_else(|error| {
            tracing::error!(%error, "the holds cannot be read: nothing is deleted until they can be");
            Self { all: Vec::new(), unknown: Some(error.to_string()) }
        })
    }

    /// What they are.
    #[must_use]
    pub fn list(&self) -> &[Hold] {
        &self.all
    }

    /// Whether any of them is of a segment.
    pub(super) fn hold(&self, segment: u64, begun: Timestamp, ended: Timestamp) -> bool {
        self.unknown.is_some() || self.all.iter().any(|one| one.scope.hold(segment, begun, ended))
    }

    /// The same with one more.
    ///
    /// # Errors
    /// Where that is too many, or there is one of that name.
    pub(super) fn with(&self, hold: Hold) -> Result<Self, String> {
        if let Some(why) = &self.unknown {
            return Err(why.clone());
        }
        let words = hold.id.len() + hold.reason.len() + hold.of.len();
        if self.all.iter().any(|other| other.id == hold.id) {
            return Err(format!("there is a hold {} already", hold.id));
        }
        if self.all.len() >= MOST || hold.scope.segments.len() > MOST_STRETCHES || words > MOST_WORDS {
            return Err(format!("at most {MOST} holds, of {MOST_STRETCHES} stretches and {MOST_WORDS} bytes of words"));
        }
        if hold.scope == Scope::default() {
            return Err("a hold of nothing".to_owned());
        }
        let mut all = self.clone();
        all.all.push(hold);
        Ok(all)
    }

    /// The same without one, and that one.
    pub(super) fn without(&self, id: &str) -> Option<(Self, Hold)> {
        let found = self.all.iter().position(|one| one.id == id)?;
        let mut all = self.clone();
        let hold = all.all.remove(found);
        Some((all, hold))
    }

    /// Writes them beside the segments, on the disk when it returns.
    pub(super) fn store(&self, spool: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&self.all).map_err(io::Error::other)?;
        let (path, beside, mut disk) = (path(spool), spool.join("holds.json.tmp"), Host);
        let file = disk.create(&beside)?;
        disk.write(&file, 0, &text)?;
        disk.sync(&file)?;
        disk.rename(&beside, &path)?;
        sync_directory(spool)
    }
}

fn path(spool: &Path) -> PathBuf {
    spool.join(FILE)
}

const FILE: &str = "holds.json";
/// Most holds of a spool.
const MOST: usize = 1024;
/// Most stretches of segments of one.
const MOST_STRETCHES: usize = 1024;
/// Most bytes of its name, its reason and what was asked for.
const MOST_WORDS: usize = 4096;
